"""The smaller studies: one function for each, from data to a report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import stax
from ..abc import Parameterization, first_rate, init, sgd
from ..catapult import scan as catapult_scan
from ..meanfield import depth_scales
from ..mogp import Beta as BetaMeasure
from ..mogp import GeneralizedGamma, Horseshoe, Iid, pruning_curve
from ..mogp import Layer as Hidden
from ..mogp import init as mogp_init
from ..mogp import train as mogp_train
from .data import Array, Data
from .panels import Claim, Panel, Report, Series


@dataclass(frozen=True)
class Size:
    """How large a study is.

    Attributes
    ----------
    seeds : int
        Networks of each point.
    quick : bool
        A tenth of the work, to see it run.
    rng : int
        The first seed.
    """

    seeds: int = 3
    quick: bool = False
    rng: int = 0

    def take(self, full: Any, quick: Any) -> Any:
        return quick if self.quick else full

    @property
    def members(self) -> list[int]:
        return [self.rng + s for s in range(self.seeds)]


def about(data: Data, size: Size, what: str) -> str:
    return f"{len(data.x_train)} {data.name} to train, {len(data.x_test)} to test; {what}; {size.seeds} seeds"


def mean(values: Any) -> tuple[float, float]:
    """And its standard error; infinite and 0 where one of the values is infinite."""
    found = np.asarray(values, dtype=np.float64)
    if not np.isfinite(found).all():
        return math.inf, 0.0
    error = found.std(ddof=1) / math.sqrt(len(found)) if len(found) > 1 else 0.0
    return float(found.mean()), float(error)


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())


def _mean_of(values: list[float]) -> str:
    return f"{np.mean(values):.3f}" if values else "none"


def _accuracy(outputs: Array, labels: Array) -> float:
    return float((np.asarray(outputs).argmax(axis=-1) == labels).mean())


# ---------------------------------------------------------------- parameterizations


def parameterizations(data: Data, size: Size) -> Report:
    """Integrable parameterizations start stationary; with a large first rate they learn, by activation.

    References
    ----------
    Hajjar, Chizat and Giraud (2021), arXiv:2110.15596.
    """
    L, width, steps, batch = size.take((5, 256, 300, 64), (3, 64, 40, 32))
    x, x_test = data.inputs()
    y, _ = data.targets()
    rows: list[tuple[Any, ...]] = []
    curves = []
    found: dict[tuple[str, str], list[float]] = {}
    for activation in ("relu", "elu", "tanh"):
        for p in (Parameterization.mup(L), Parameterization.ip(L), Parameterization.ip_llr(L)):
            scores, losses, moves, firsts = [], [], [], []
            for seed in size.members:
                network = init(p, width, x.shape[1], seed, outputs=y.shape[1], activation=activation)
                rate = 0.1
                first = first_rate(network, x, y, batch_size=batch) if p.warmup else rate
                run = sgd(network, x, y, [first, *[rate] * (steps - 1)], steps, batch_size=batch, rng=seed)
                scores.append(_accuracy(run.network(x_test), data.labels_test))
                losses.append(run.losses[-1] / run.losses[0])
                moves.append(float(np.abs(run.outputs[-1] - run.outputs[0]).max()))
                firsts.append(first)
            accuracy, error = mean(scores)
            found[activation, p.name] = scores
            name = f"{accuracy:.3f} +- {error:.3f}"
            means = (float(np.mean(values)) for values in (firsts, losses, moves))
            rows.append((activation, p.name, *means, name))
    names = ("muP", "IP", "IP-LLR")
    for p_name in names:
        points = [mean(found[a, p_name]) for a in ("relu", "elu", "tanh")]
        curves.append(Series(p_name, (0.0, 1.0, 2.0), tuple(m for m, _ in points), tuple(e for _, e in points)))
    moved = {(r[0], r[1]): r[4] for r in rows}
    still = max(moved[a, "IP"] for a in ("relu",))
    chance = 1 / data.n_classes
    llr, mup = ({a: float(np.mean(found[a, p])) for a in ("relu", "elu", "tanh")} for p in ("IP-LLR", "muP"))
    claims = (
        Claim("deep IP stays where it starts (relu)", f"outputs move by at most {still:.2g}", still < 0.05),
        Claim(
            "IP-LLR learns with its first rate, better with smooth activations",
            f"test accuracy {_listed(llr)}, chance {chance:.2f}",
            min(llr["elu"], llr["tanh"]) > max(2 * chance, llr["relu"]),
        ),
        Claim(
            "IP-LLR is as good as muP",
            f"{_listed(llr)} beside {_listed(mup)}",
            all(llr[a] > mup[a] - 0.03 for a in llr),
        ),
    )
    return Report(
        "Parameterizations", about(data, size, f"{L + 1} weight layers of width {width}, {steps} steps of {batch}"),
        ("activation", "parameterization", "first rate", "loss, of its start", "outputs move", "test accuracy"),
        tuple(rows), claims,
        (
            Panel("Test accuracy", "relu, elu, tanh", "accuracy", tuple(curves)),
            Panel(
                "How far outputs move", "relu, elu, tanh", "largest change",
                tuple(
                    Series(n, (0.0, 1.0, 2.0), tuple(max(moved[a, n], 1e-12) for a in ("relu", "elu", "tanh")))
                    for n in names
                ), "y",
            ),
        ),
    )  # fmt: skip


# ---------------------------------------------------------------- node scaling


def node_scaling(data: Data, size: Size) -> Report:
    """Networks with scales of their own for each node survive pruning after training, and their kernels move.

    References
    ----------
    Lee et al. (2022), arXiv:2205.08187; Caron et al. (2023), arXiv:2302.01002.
    """
    width, steps = size.take((600, 300), (150, 60))
    keep = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02)
    x, x_test = data.inputs()
    y, y_test = data.targets()
    few = x[:40]
    rows: list[tuple[Any, ...]] = []
    curves, moves = [], {}
    kept: dict[str, dict[float, float]] = {}
    for name, measure in (
        ("iid", Iid(2.0)), ("beta", BetaMeasure(2.0)), ("gen. gamma", GeneralizedGamma(0.5, mu=2.0)),
        ("horseshoe", Horseshoe()),
    ):  # fmt: skip
        accuracies: list[Array] = []
        changes: list[float] = []
        for seed in size.members:
            network = mogp_init(x.shape[1], [Hidden(measure, stax.Relu())], width, y.shape[1], seed)
            ntk = np.trace(network.ntk(x), axis1=2, axis2=3) / y.shape[1]
            rate = 0.5 / float(np.linalg.eigvalsh(ntk)[-1])
            trained = mogp_train(network, x, y, rate, steps).network
            before, after = (np.trace(n.ntk(few), axis1=2, axis2=3) for n in (network, trained))
            changes.append(float(np.linalg.norm(after - before) / np.linalg.norm(before)))
            accuracies.append(pruning_curve(trained, x_test, y_test, keep).accuracy)
        points = [mean(column) for column in np.array(accuracies).T]
        curves.append(Series(name, keep, tuple(m for m, _ in points), tuple(e for _, e in points)))
        moves[name] = mean(changes)
        kept[name] = {k: m for k, (m, _) in zip(keep, points, strict=True)}
        rows.append((name, *(f"{m:.3f} +- {e:.3f}" for m, e in points), moves[name][0]))
    lost = {name: kept[name][1.0] - kept[name][0.1] for name in kept}
    claims = (
        Claim(
            "node-scaled networks survive pruning to a tenth, equal nodes do not",
            ", ".join(f"{n} loses {v:.3f}" for n, v in lost.items()),
            all(lost[n] < 0.5 * lost["iid"] and kept[n][1.0] > 2 / data.n_classes for n in ("beta", "gen. gamma")),
        ),
        Claim(
            "their kernels move where that of equal nodes stays",
            ", ".join(f"{n} {m:.3f}" for n, (m, _) in moves.items()),
            min(moves["beta"][0], moves["horseshoe"][0]) > 2 * moves["iid"][0],
        ),
    )
    names = tuple(moves)
    return Report(
        "Node scaling", about(data, size, f"one hidden layer of {width}, {steps} steps"),
        ("nodes", *(f"keep {k:g}" for k in keep), "kernel change"), tuple(rows), claims,
        (
            Panel("Pruned after training", "share of nodes kept", "test accuracy", tuple(curves), "x"),
            Panel(
                "Movement of the tangent kernel", ", ".join(names), "relative change",
                (Series("change", tuple(map(float, range(len(names)))), tuple(m for m, _ in moves.values()),
                        tuple(e for _, e in moves.values())),),
            ),
        ),
    )  # fmt: skip


# ---------------------------------------------------------------- trainability


def trainability(data: Data, size: Size) -> Report:
    """Networks train to about six correlation depths, and no deeper.

    References
    ----------
    Schoenholz, Gilmer, Ganguli and Sohl-Dickstein (2017), arXiv:1611.01232, figure 5.
    """
    from ..finite import train

    depths = size.take((4, 16, 32, 64), (4, 24))
    sigmas = size.take((1.0, 1.4, 1.76, 2.2, 3.0, 4.0), (1.0, 1.76, 4.0))
    width, steps, rate = size.take((64, 200, 0.02), (32, 40, 0.02))
    b2 = 0.05
    x, _ = data.inputs()
    image = np.zeros((len(depths), len(sigmas)))
    rows: list[tuple[Any, ...]] = []
    within: list[float] = []
    beyond: list[float] = []
    for j, w2 in enumerate(sigmas):
        xi = float(depth_scales(stax.Tanh(), w2, b2).xi_c)
        for i, depth in enumerate(depths):
            hidden = stax.Dense(width, math.sqrt(w2), math.sqrt(b2), parameterization="standard"), stax.Tanh()
            net = stax.serial(*hidden * depth, stax.Dense(data.n_classes, 1.0, 0.1, parameterization="standard"))
            found = train(
                net, x, data.labels_train, rate, steps, seeds=size.members, loss="cross_entropy",
                batch_size=min(100, len(x)), optimizer="momentum", on_divergence="keep",
            )  # fmt: skip
            accuracy, error = mean(found.train_accuracy[-1])
            image[i, j] = accuracy
            rows.append((w2, depth, xi, depth / xi, f"{accuracy:.3f} +- {error:.3f}"))
            (within if depth <= 3 * xi else beyond if depth > 6 * xi else []).append(accuracy)
    limit = tuple(min(6 * float(depth_scales(stax.Tanh(), w, b2).xi_c), 1e4) for w in sigmas)
    claims = (
        Claim(
            "networks within the correlation depth train, those beyond 6 of them do not",
            f"training accuracy {_mean_of(within)} up to 3 of them, {_mean_of(beyond)} beyond 6",
            bool(within and beyond and np.mean(within) > np.mean(beyond) + 0.2),
        ),
    )
    return Report(
        "Trainability", about(data, size, f"tanh, width {width}, sigma_b^2 {b2}, {steps} steps"),
        ("sigma_w^2", "depth", "xi_c", "depth / xi_c", "training accuracy"), tuple(rows), claims,
        (
            Panel(
                "Training accuracy", "sigma_w^2", "depth", (), "", tuple(map(tuple, image.tolist())),
                (tuple(f"{s:g}" for s in sigmas), tuple(map(str, depths))),
            ),
            Panel(
                "Correlation depth", "sigma_w^2", "layers",
                (
                    Series("6 xi_c", sigmas, limit, line=True),
                    *(Series(f"depth {d}", sigmas, (float(d),) * len(sigmas)) for d in depths),
                ), "y",
            ),
        ),
    )  # fmt: skip


# ---------------------------------------------------------------- catapult


def catapult(data: Data, size: Size) -> Report:
    """Learning rates between 2 and 4 over the curvature: the loss rises, the curvature falls, and training converges.

    References
    ----------
    Lewkowycz et al. (2020), arXiv:2003.02218.
    """
    from ..catapult import TwoLayer

    width, steps, n = size.take((1024, 400, 60), (256, 100, 20))
    x, _ = data.inputs()
    x, y = x[:n], np.where(data.labels_train[:n] % 2 == 0, 1.0, -1.0)
    rates = (0.5, 1.0, 1.5, 1.9, 2.3, 2.7, 3.1, 3.5, 3.9, 4.5, 5.5)
    each = [catapult_scan(TwoLayer(width), x, y, eta_lambda0=rates, steps=steps, rng=seed) for seed in size.members]
    rows, peaks, finals = [], [], []
    for k, rate in enumerate(rates):
        peak, _ = mean([s.peak_loss[k] / s.initial_loss for s in each])
        curve, _ = mean([s.final_curvature[k] / s.initial_curvature for s in each])
        gone = sum(bool(s.diverged[k]) for s in each)
        peaks.append(peak)
        finals.append(curve)
        rows.append((rate, peak, curve, rate * curve, f"{gone} of {len(each)} diverged"))
    monotone = all(p < 1.01 for p, r in zip(peaks, rates, strict=True) if r < 1.95)
    spikes = all(p > 1.2 for p, r in zip(peaks, rates, strict=True) if 2.2 < r < 3.6 and math.isfinite(p))
    flat = [r * c for r, c in zip(rates, finals, strict=True) if 2.2 < r < 3.6 and math.isfinite(c)]
    claims = (
        Claim("below 2 / lambda_0 the loss falls all the way", f"largest peak {max(peaks[:4]):.3f}", monotone),
        Claim(
            "from there to 4 / lambda_0 it rises first", f"peaks {', '.join(f'{p:.2f}' for p in peaks[4:8])}", spikes
        ),
        Claim(
            "and ends where the curvature is below 2 / eta",
            f"eta lambda at the end {', '.join(f'{v:.2f}' for v in flat)}",
            bool(flat) and max(flat) <= 2.05,
        ),
        Claim("beyond 4 / lambda_0 it diverges", rows[-1][-1], not math.isfinite(peaks[-1])),
    )
    finite = [k for k, p in enumerate(peaks) if math.isfinite(p)]
    return Report(
        "Catapult", f"{n} {data.name}, even or odd; two layers of width {width}, {steps} steps; {size.seeds} seeds",
        ("eta lambda_0", "peak loss, of its start", "curvature, of its start", "eta lambda at the end", ""),
        tuple(rows), claims,
        (
            Panel("Peak of the loss", "eta lambda_0", "over the first loss",
                  (Series("peak", tuple(rates[k] for k in finite), tuple(peaks[k] for k in finite)),), "y"),
            Panel("Curvature at the end", "eta lambda_0", "over the first",
                  (Series("end", tuple(rates[k] for k in finite), tuple(finals[k] for k in finite)),
                   Series("2 / eta", rates, tuple(2 / r for r in rates), line=True))),
        ),
    )  # fmt: skip


STUDIES = {
    "parameterizations": parameterizations,
    "node-scaling": node_scaling,
    "trainability": trainability,
    "catapult": catapult,
}
