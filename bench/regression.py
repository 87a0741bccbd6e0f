"""Regression on UCI data sets: the NNGP posterior beside a Gaussian process with an RBF kernel. How: README.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastntk import predict, stax
from fastntk.predict import IllConditionedWarning, SearchWarning
from reports import RESULTS, context, data_folder, noise_line, write_json
from run import busy, others
from scipy import linalg
from sklearn.metrics.pairwise import rbf_kernel

FOLDER = "uci_regression"
DEPTHS = (1, 2, 3, 5)
COARSE = 500  # training points on which all depths are compared
FINE = {"protein": 2000}  # on which the best one is fitted
FINE_ELSE = 1000
AROUND = 10.0  # parameters are fitted within this factor of those found on fewer points
EDGE = 1.02  # a parameter within this factor of an end of its range is at the edge
RANGES = {"nngp": ((0.3, 10.0), (0.01, 10.0)), "rbf": ((0.1, 100.0), 0.0)}
NOISE = (1e-6, 10.0)
SPARE = 3 * 2**29  # bytes left to everything but the array of Gram and factor
TILE = 1024  # points whose kernel is computed at a time

Array = np.ndarray


@dataclass(frozen=True)
class Split:
    """Training and test points, inputs and targets standardised by the training points."""

    x: Array  # (n, d) float64: Gram and factor share an array then
    y: Array  # (n, 1) float64
    x_test: Array
    y_test: Array
    unit: float  # standard deviation of the targets

    @classmethod
    def load(cls, path: Path, index: int, limit: int | None) -> Split:
        with np.load(path) as file:
            x, y, test = file["X"].astype(np.float64), file["y"].reshape(-1, 1), file[f"test{index}"]
        train = np.setdiff1d(np.arange(len(x)), test)
        if limit:
            train = np.sort(np.random.default_rng(index).permutation(train)[:limit])
        mean, std = x[train].mean(axis=0), x[train].std(axis=0)
        x = (x - mean) / np.where(std > 0, std, 1)
        centre, unit = float(y[train].mean()), float(y[train].std())
        y = (y - centre) / unit
        return cls(x[train], y[train], x[test], y[test], unit)


def rbf(depth: int, W_std: float, b_std: float) -> Callable[..., Any]:
    """The RBF kernel as ``fastntk.predict.fit`` wants a network; W_std is its lengthscale, the others mean nothing."""
    gamma = 0.5 / W_std**2
    return lambda x1, x2=None, get="nngp": rbf_kernel(x1, x2, gamma=gamma)


def network(depth: int, W_std: float, b_std: float) -> Any:
    """Dense ReLU network with biases."""
    layers = [stax.Dense(1, W_std, b_std), stax.Relu()] * depth
    return stax.serial(*layers, stax.Dense(1, W_std, b_std)).kernel_fn


MAKERS = {"nngp": network, "rbf": rbf}


def fit(method: str, split: Split, fine: int, seed: int) -> tuple[Any, list[str]]:
    """Largest evidence on some training points: all depths on a few, then the best depth again on more."""
    order = np.random.default_rng(seed).permutation(len(split.x))
    weights, biases = RANGES[method]
    depths: Any = DEPTHS if method == "nngp" else 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (SearchWarning, IllConditionedWarning))  # what they say is in the report
        for count in (COARSE, fine):
            some = np.sort(order[:count])
            found = predict.fit(
                MAKERS[method], split.x[some], split.y[some], depth=depths, W_std=weights, b_std=biases, diag_reg=NOISE
            )
            depths = found.depth
            weights = around(found.W_std, RANGES[method][0])
            biases = around(found.b_std, RANGES[method][1])
            if len(split.x) <= count:
                break
    values = zip(("W_std", "b_std", "noise"), (found.W_std, found.b_std, found.diag_reg), strict=True)
    ranges = (*RANGES[method], NOISE)
    return found, [name for (name, value), allowed in zip(values, ranges, strict=True) if at_edge(value, allowed)]


def at_edge(value: float, allowed: Any) -> bool:
    return not np.isscalar(allowed) and not allowed[0] * EDGE < value < allowed[1] / EDGE


def around(value: float, allowed: Any) -> Any:
    return allowed if np.isscalar(allowed) else (max(allowed[0], value / AROUND), min(allowed[1], value * AROUND))


def network_posterior(fitted: Any, split: Split, noise: float, solve_dtype: str) -> tuple[Array, Array, dict[str, Any]]:
    """Mean and variance of the test outputs."""
    predictor = predict.gradient_descent_mse_ensemble(
        fitted.kernel_fn, split.x, split.y, diag_reg=noise, diag_reg_absolute_scale=True, solve_dtype=solve_dtype
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IllConditionedWarning)  # its figures are in the report
        mean, variance = predictor(None, split.x_test, "nngp", compute_cov="diagonal")
    conditioning = predictor.conditioning["nngp"]
    return mean[:, 0], variance, {"condition": conditioning.condition, "jitter": conditioning.jitter}


def rbf_posterior(fitted: Any, split: Split, noise: float, solve_dtype: str) -> tuple[Array, Array, dict[str, Any]]:
    """The same by scikit-learn's kernel and SciPy's factorisation, in one array."""
    n = len(split.x)
    k = np.empty((n, n), solve_dtype)
    for start in range(0, n, TILE):
        k[start : start + TILE] = fitted.kernel_fn(split.x[start : start + TILE], split.x)
    k[np.diag_indices(n)] += noise
    factor, _ = linalg.cho_factor(k.T, lower=True, overwrite_a=True, check_finite=False)
    weights = linalg.cho_solve((factor, True), split.y.astype(solve_dtype), check_finite=False)
    mean, variance = np.empty((2, len(split.x_test)))
    for start in range(0, len(mean), TILE):
        cross = fitted.kernel_fn(split.x_test[start : start + TILE], split.x).astype(solve_dtype)
        mean[start : start + TILE] = cross @ weights[:, 0]
        half = linalg.solve_triangular(factor, cross.T, lower=True, check_finite=False)
        variance[start : start + TILE] = 1 - (half * half).sum(axis=0)
    return mean, variance, {}


def study(method: str, split: Split, fine: int, seed: int, solve_dtype: str) -> dict[str, Any]:
    """RMSE and negative log likelihood of the test targets, in their own unit."""
    start = time.perf_counter()
    fitted, edge = fit(method, split, fine, seed)
    middle = time.perf_counter()
    noise = fitted.noise_variance / fitted.amplitude
    posterior = {"nngp": network_posterior, "rbf": rbf_posterior}[method]
    mean, variance, solved = posterior(fitted, split, noise, solve_dtype)
    error = split.y_test[:, 0] - mean.astype(np.float64)
    variance = fitted.amplitude * (variance.astype(np.float64) + noise)
    nll = 0.5 * (error**2 / variance + np.log(2 * np.pi * variance)) + np.log(split.unit)
    row = {
        "rmse": float(split.unit * np.sqrt(np.mean(error**2))),
        "nll": float(np.mean(nll)),
        "noise_variance": fitted.noise_variance,
        "amplitude": fitted.amplitude,
        "at_edge": edge,
        **solved,
        "seconds": {"fit": middle - start, "kernel_solve_predict": time.perf_counter() - middle},
    }
    if method == "rbf":
        return {"lengthscale": fitted.W_std, **row}
    return {"depth": fitted.depth, "W_std": fitted.W_std, "b_std": fitted.b_std, **row}


def fits_in_memory(n: int, solve_dtype: str) -> str:
    """Why not: the line to print. Empty: it does."""
    own = np.dtype(solve_dtype).itemsize
    need = n * n * (own if own == 8 else 8 + own) + SPARE
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    if need <= free:
        return ""
    return f"Gram and {solve_dtype} factor of {n} points take {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"


# ---- all sets


def summary(splits: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean over the splits and its standard error."""
    table = {}
    for method in MAKERS:
        for key in ("rmse", "nll"):
            values = np.array([row[method][key] for row in splits])
            spread = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
            table.setdefault(method, {}).update({key: float(values.mean()), f"{key}_error": spread})
        table[method]["seconds"] = float(np.sum([sum(row[method]["seconds"].values()) for row in splits]))
    return table


def markdown(report: dict[str, Any]) -> str:
    last = report["runs"][-1]
    head = ["set", "training points", "features", "splits", "NNGP, RMSE", "RBF, RMSE", "NNGP, NLL", "RBF, NLL",
            "NNGP, s a split", "RBF, s a split"]  # fmt: skip
    rows = []
    for name, found in sorted(report["sets"].items(), key=lambda item: item[1]["train"]):
        table, count = summary(found["splits"]), len(found["splits"])
        cells = [
            f"{table[m][key]:.4g} +- {table[m][f'{key}_error']:.2g}" for key in ("rmse", "nll") for m in ("nngp", "rbf")
        ]
        seconds = [f"{table[m]['seconds'] / count:.1f}" for m in ("nngp", "rbf")]
        rows.append([name, str(found["train"]), str(found["d"]), str(count), *cells, *seconds])
    versions = ", ".join(f"{k} {last['versions'][k]}" for k in ("fastntk", "numpy", "scipy", "scikit-learn"))
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
    return (
        "# Regression on UCI data sets\n\nWritten by `bench/regression.py`; what each figure means: `bench/README.md`. "
        f"{last['machine']['cpu']}, {last['threads']} threads; {versions}; commit "
        f"{(last['git']['hash'] or 'unknown')[:10]}, {last['date']}. Means over splits, with standard errors.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", metavar="NAME", help="default: all, the smallest first")
    parser.add_argument("--splits", type=int, help="at most so many; default all (20, protein 5)")
    parser.add_argument("--train", type=int, help="at most so many training points, drawn at random")
    parser.add_argument("--solve-dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--out", type=Path, default=RESULTS / "uci-regression.json", help="taken up where it stops")
    given = parser.parse_args()
    folder = data_folder(f"{FOLDER}/meta.json") / FOLDER
    sizes = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            sizes[path.stem] = (*file["X"].shape, sum(key.startswith("test") for key in file))
    unknown = set(given.sets or ()) - set(sizes)
    if unknown:
        parser.error(f"unknown sets {sorted(unknown)}; there are {', '.join(sizes)}")

    settings = {
        "train": given.train,
        "solve_dtype": given.solve_dtype,
        "coarse": COARSE,
        "fine": {**FINE, "else": FINE_ELSE},
        "depths": list(DEPTHS),
    }
    report: dict[str, Any] = {"settings": settings, "runs": [], "sets": {}}
    if given.out.is_file():
        report = json.loads(given.out.read_text())
        if report["settings"] != settings:
            parser.error(f"{given.out} was made with other settings: {report['settings']}; choose another --out")
    run = {**context(), "seconds": 0.0}
    report["runs"].append(run)
    start, before = time.perf_counter(), busy()
    for name in sorted(given.sets or sizes, key=lambda name: sizes[name][0]):
        n, d, splits = sizes[name]
        found = report["sets"].setdefault(name, {"n": n, "d": d, "splits": []})
        for index in range(len(found["splits"]), min(splits, given.splits or splits)):
            split = Split.load(folder / f"{name}.npz", index, given.train)
            if reason := fits_in_memory(len(split.x), given.solve_dtype):
                print(f"{name}: {reason}", flush=True)
                return 1
            found["train"], found["test"] = len(split.x), len(split.x_test)
            fine = FINE.get(name, FINE_ELSE)
            row = {method: study(method, split, fine, index, given.solve_dtype) for method in MAKERS}
            found["splits"].append(row)
            run["seconds"] = time.perf_counter() - start
            write_json(report, given.out)
            print(f"{name} {index}: " + "; ".join(line(m, r) for m, r in row.items()), flush=True)
        for method, row in summary(found["splits"]).items():
            print(f"{name}, {method}: RMSE {row['rmse']:.4g} +- {row['rmse_error']:.2g}, NLL {row['nll']:.4g} +- "
                  f"{row['nll_error']:.2g}, {row['seconds']:.0f} s in all", flush=True)  # fmt: skip
    if not run["seconds"]:
        report["runs"].remove(run)  # nothing was left to compute
    else:
        run["seconds"], run["others_busy"] = time.perf_counter() - start, others(before)
        noise_line(run["others_busy"])
    write_json(report, given.out)
    given.out.with_suffix(".md").write_text(markdown(report))
    print(f"written: {given.out}, {given.out.with_suffix('.md')}")
    return 0


def line(method: str, row: dict[str, Any]) -> str:
    keys = ("lengthscale",) if method == "rbf" else ("depth", "W_std", "b_std")
    values = ", ".join(f"{key} {row[key]:.3g}" for key in (*keys, "noise_variance"))
    edge = f", at the edge: {', '.join(row['at_edge'])}" if row["at_edge"] else ""
    seconds = row["seconds"]
    return (
        f"{method} RMSE {row['rmse']:.4g}, NLL {row['nll']:.4g} ({values}{edge}; {seconds['fit']:.1f} s + "
        f"{seconds['kernel_solve_predict']:.1f} s)"
    )


if __name__ == "__main__":
    sys.exit(main())
