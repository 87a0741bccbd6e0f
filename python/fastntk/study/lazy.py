"""Lazy and feature training side by side, dense and convolutional: scales, times, kernel change, fluctuations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import stax
from .data import Array, Data
from .others import Size, about, mean
from .panels import Claim, Panel, Report, Series, slope

if TYPE_CHECKING:
    from ..finite import Flow

_ROOT2 = 2**0.5
_CROSSING = 0.5  # kernel change at alpha*, and at t1


def dense(h: int, hidden: int = 2) -> Any:
    """Of one output, with pre-activations of variance 1 for inputs of mean square 1."""
    more = [stax.Dense(h, _ROOT2), stax.Relu()] * (hidden - 1)
    return stax.serial(stax.Flatten(), stax.Dense(h), stax.Relu(), *more, stax.Dense(1, _ROOT2))


def convolutional(h: int) -> Any:
    return stax.serial(
        stax.Conv(h, (3, 3), padding="SAME"), stax.Relu(),
        stax.Conv(h, (3, 3), (2, 2), "SAME", _ROOT2), stax.Relu(),
        stax.Flatten(), stax.Dense(1, _ROOT2),
    )  # fmt: skip


def halves(data: Data) -> tuple[Array, Array, Array, Array]:
    """Images and labels 1 and -1: the first half of the classes against the second."""
    x, x_test = data.inputs()
    shape = data.image_shape or x.shape[1:]
    y, y_test = (np.where(labels < data.n_classes / 2, 1.0, -1.0) for labels in (data.labels_train, data.labels_test))
    return x.reshape(-1, *shape), y, x_test.reshape(-1, *shape), y_test


@dataclass(frozen=True)
class Kind:
    """One architecture over widths and scales: flows by (width, sqrt(h) alpha)."""

    name: str
    widths: tuple[int, ...]
    zts: tuple[float, ...]
    flows: dict[tuple[int, float], Flow]

    @classmethod
    def of(
        cls, name: str, network: Callable[[int], Any], widths: Sequence[int], zts: Sequence[float], *samples: Any,
        **options: Any,
    ) -> Kind:  # fmt: skip
        from ..finite import flow

        x, y = samples
        flows = {
            (h, zt): flow(network(h), x, y, zt / math.sqrt(h), dtype=np.float32, **options)
            for h in widths
            for zt in zts
        }
        return cls(name, tuple(widths), tuple(zts), flows)

    def alpha_star(self, h: int) -> list[float]:
        """Of each seed, where the kernel change crosses 1/2 between two scales, on a line in logarithms."""
        changes = np.log(np.array([self.flows[h, zt].kernel_change for zt in self.zts]))  # falls along the first axis
        level, where = math.log(_CROSSING), np.log(self.zts)
        found = []
        for column in changes.T:
            below = np.flatnonzero(column < level)
            if not below.size or below[0] == 0:
                continue
            k = int(below[0])
            share = (column[k - 1] - level) / (column[k - 1] - column[k])
            found.append(math.exp(where[k - 1] + share * (where[k] - where[k - 1])) / math.sqrt(h))
        return found

    def spread(self, h: int, zt: float) -> float:
        """Standard deviation of F over networks, its root mean square over the test set; NaN of one network."""
        outputs = self.flows[h, zt].test_outputs
        assert outputs is not None
        return float(np.sqrt(outputs.var(axis=0, ddof=1).mean())) if len(outputs) > 1 else math.nan

    def accuracy(self, h: int, zt: float, y: Array) -> list[float]:
        outputs = self.flows[h, zt].test_outputs
        assert outputs is not None
        return [float((np.sign(f[:, 0]) == y).mean()) for f in outputs]


def _fall(x: Sequence[float], y: Sequence[float], expected: float, within: float, name: str) -> Claim | None:
    """A power of the width beside what theory says; None where there are too few points."""
    if len(x) < 3 or not all(math.isfinite(v) and v > 0 for v in y):
        return None
    exponent, error = slope(x, y)
    return Claim(name, f"exponent {exponent:.2f} +- {error:.2f}", abs(exponent - expected) < within)


def _series(name: str, x: Sequence[float], points: Sequence[tuple[float, float]]) -> Series:
    """Of means and their errors."""
    return Series(name, tuple(x), tuple(m for m, _ in points), tuple(e for _, e in points))


def _guide(name: str, x: Sequence[float], first: float, power: float) -> Series:
    return Series(name, tuple(x), tuple(first * (v / x[0]) ** power for v in x), line=True)


def lazy_vs_feature(data: Data, size: Size) -> Report:
    """Where the regimes meet, how far kernels move in each, and which one predicts better, dense and convolutional.

    References
    ----------
    Geiger, Spigler, Jacot and Wyart (2020), arXiv:1906.08034.
    """
    n, steps = size.take((30, 1000), (8, 50))
    zts = size.take((0.1, 1.0, 3.0, 10.0, 100.0), (0.3, 30.0))
    x, y, x_test, y_test = halves(data)
    x, y = x[:n], y[:n]
    options = {"seeds": size.members, "max_steps": steps, "kernel_samples": 10, "x_test": x_test}
    kinds = [Kind.of("dense", dense, size.take((32, 64, 128, 256), (16, 32)), zts, x, y, **options)]
    if data.image_shape is not None:
        kinds.append(
            Kind.of("convolutional", convolutional, size.take((16, 32, 64), (8,)), zts, x, y, **options)
        )  # fmt: skip
    rows: list[tuple[Any, ...]] = []
    claims: list[Claim | None] = []
    stars: list[Series] = []
    spreads: list[Series] = []
    changes: list[Series] = []
    times: list[Series] = []
    accuracies: list[Series] = []
    for kind in kinds:
        for (h, zt), found in kind.flows.items():
            right, error = mean(kind.accuracy(h, zt, y_test))
            t1 = float(np.median(found.t1))
            rows.append((
                kind.name, h, zt, *(float(v.mean()) for v in (found.kernel_change, found.t)), t1, kind.spread(h, zt),
                f"{right:.3f} +- {error:.3f}", f"{int(found.converged.sum())} of {size.seeds}",
            ))  # fmt: skip
        wide, widths = kind.widths[-1], tuple(map(float, kind.widths))
        moved = [mean(kind.flows[wide, zt].kernel_change) for zt in zts]
        changes.append(_series(kind.name, zts, moved))
        right_ = [mean(kind.accuracy(wide, zt, y_test)) for zt in zts]
        accuracies.append(_series(kind.name, zts, right_))
        crossed = [(zt, float(np.median(kind.flows[wide, zt].t1))) for zt in zts]
        crossed = [(zt, t) for zt, t in crossed if math.isfinite(t)]
        if crossed:
            times.append(Series(kind.name, tuple(zt for zt, _ in crossed), tuple(t for _, t in crossed)))
        at = [mean(kind.alpha_star(h)) for h in kind.widths]
        stars.append(_series(kind.name, widths, at))
        claims.append(_fall(widths, stars[-1].y, -0.5, 0.15, f"alpha* falls as h^(-1/2) ({kind.name})"))
        for regime, zt in (("feature", zts[0]), ("lazy", zts[-1])):
            spreads.append(Series(f"{kind.name}, {regime}", widths, tuple(kind.spread(h, zt) for h in kind.widths)))
            claims.append(_fall(
                widths, spreads[-1].y, -0.5, 0.2, f"fluctuations fall as h^(-1/2) in {regime} training ({kind.name})"
            ))  # fmt: skip
        claims.append(Claim(
            f"kernels move for small alpha and stay for large ({kind.name})",
            f"{moved[0][0]:.3g} and {moved[-1][0]:.3g}", moved[0][0] > 1 > 0.3 > moved[-1][0],
        ))  # fmt: skip
        better = {"dense": "lazy", "convolutional": "feature"}[kind.name]
        feature, lazy = right_[0][0], right_[-1][0]
        claims.append(Claim(
            f"{kind.name} networks predict better in {better} training",
            f"feature {feature:.3f} +- {right_[0][1]:.3f}, lazy {lazy:.3f} +- {right_[-1][1]:.3f}",
            (lazy > feature) == (better == "lazy"),
        ))  # fmt: skip
    depth_rows, depths = _depths(x, y, size)
    rows += depth_rows
    claims.append(depths)
    guides = [
        [_guide("slope -4/3", zts[:2], changes[0].y[0], -4 / 3)], [],
        [_guide("slope -1/2", stars[0].x, stars[0].y[0], -0.5)],
        [_guide("slope -1/2", spreads[0].x, spreads[0].y[0], -0.5)],
        [_guide("slope 1", times[0].x, times[0].y[0], 1.0)] if times else [],
    ]  # fmt: skip
    zt_axis = "sqrt(h) alpha"
    return Report(
        "Lazy and feature training",
        about(data, size, f"{n} of them used, one half of the classes against the other; two hidden layers"),
        ("network", "h", zt_axis, "kernel change", "t", "t1", "spread of F", "test accuracy", "converged"),
        tuple(rows), tuple(c for c in claims if c is not None),
        (
            Panel("Kernel change", zt_axis, "|Theta - Theta_0| / |Theta_0|", (*changes, *guides[0]), "xy"),
            Panel("Which regime predicts better", zt_axis, "test accuracy", tuple(accuracies), "x"),
            Panel("Where the regimes meet", "width h", "alpha*", (*stars, *guides[2]), "xy"),
            Panel("Fluctuations over seeds", "width h", "spread of F", (*spreads, *guides[3]), "xy"),
            Panel("When kernels begin to move", zt_axis, "t1", (*times, *guides[4]), "xy"),
        ),
    )  # fmt: skip


def _depths(x: Array, y: Array, size: Size) -> tuple[list[tuple[Any, ...]], Claim]:
    """Exponents a of the kernel change ``(sqrt(h) alpha)^(-a)`` of feature training, by the number of hidden layers."""
    layers, h, zts = size.take(((1, 2, 3), 64, (0.01, 0.1)), ((1, 2), 16, (0.1, 0.5)))
    n, steps = size.take((10, 3000), (4, 60))
    rows: list[tuple[Any, ...]] = []
    found = []
    for L in layers:
        kind = Kind.of(
            f"dense, {L} hidden", partial(dense, hidden=L), (h,), zts, x[:n], y[:n], seeds=size.members,
            max_steps=steps, kernel_samples=n, x_test=x[:n],
        )  # fmt: skip
        moved = []
        for zt in zts:
            flow = kind.flows[h, zt]
            moved.append(float(np.exp(np.log(flow.kernel_change).mean())))
            done = f"{int(flow.converged.sum())} of {size.seeds}"
            rows.append((kind.name, h, zt, moved[-1], float(flow.t.mean()), float(np.median(flow.t1)), "", "", done))
        found.append(math.log(moved[0] / moved[1]) / math.log(zts[1] / zts[0]))
    said = ", ".join(f"{2 * L / (L + 1):.2f}" for L in layers)
    return rows, Claim(
        f"the kernel change grows with 1 / alpha by a power below 2 that rises with depth: {said}",
        ", ".join(f"{a:.2f}" for a in found), all(a < b for a, b in zip(found, [*found[1:], 2.0], strict=True)),
    )  # fmt: skip
