"""A graph NTK and a masked sequence network on real data, beside the same networks without graphs and masks.

    FASTNTK_DATA=folder python bench/real_layers.py [--train 300] [--seeds 5] [--picture real-layers.png] [--out FILE]

Graphs: scikit-learn's handwritten digits, whose vertices are the pixels with ink and whose edges join neighbours among
them; a vertex knows its ink, not its place, and graphs have as many vertices as they like. Sequences: UCI
molec-biol-splice, 60 bases around a junction, one-hot, of each of which a random stretch of 10 to 60 is known, so that
lengths differ. Kernel regression on one-hot labels, the ridge chosen on a third of the training samples; accuracies on
held-out samples, over splits.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import reports
import run
from fastntk import stax

RIDGES = 10.0 ** np.arange(-6, 2)
TEST = 300


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ink (n, vertices, 1), NaN where a graph has fewer, graphs (n, vertices, vertices) and labels."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    rows, cols = np.divmod(np.arange(64), 8)
    near = np.maximum(np.abs(rows[:, None] - rows), np.abs(cols[:, None] - cols)) <= 1
    vertices = [np.flatnonzero(pixels > 6) for pixels in x]
    most = max(map(len, vertices))
    ink, graphs = np.full((len(x), most, 1), np.nan, np.float32), np.zeros((len(x), most, most), np.float32)
    for k, (own, pixels) in enumerate(zip(vertices, x, strict=True)):
        ink[k, : len(own), 0] = pixels[own] / 16
        graphs[k, : len(own), : len(own)] = near[np.ix_(own, own)]
    return ink, graphs, y


def bases(x: np.ndarray) -> np.ndarray:
    """One-hot bases (n, 60, 4) of standardised codes: the four most frequent values of a position; others are 0."""
    found = np.zeros((*x.shape, 4), np.float32)
    for k, column in enumerate(x.T):
        values, counts = np.unique(column, return_counts=True)
        for code, value in enumerate(np.sort(values[np.argsort(counts)[-4:]])):
            found[column == value, k, code] = 1
    return found


def cut(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sequences of which a stretch in the middle is known; beside it NaN."""
    found = x.copy()
    for own, length in zip(found, rng.integers(10, x.shape[1] + 1, len(x)), strict=True):
        start = (x.shape[1] - length) // 2
        own[:start] = own[start + length :] = np.nan
    return found


def graph_network(joined: bool) -> Any:
    layers: list[Any] = []
    for _ in range(3):
        layers += [*[stax.Aggregate()] * joined, stax.Dense(1, 2**0.5, 0.1), stax.Relu()]
    return stax.serial(*layers, stax.GlobalSumPool(), stax.Dense(1)).kernel_fn


def sequence_network() -> Any:
    layers = [stax.Conv(1, (5,), padding="SAME", W_std=2**0.5, b_std=0.1), stax.Relu()]
    return stax.serial(*layers * 2, stax.Flatten(), stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1)).kernel_fn


def dense_network() -> Any:
    layers = [stax.Dense(1, 2**0.5, 0.1), stax.Relu()]
    return stax.serial(stax.Flatten(), *layers * 2, stax.Dense(1)).kernel_fn


def rbf(x: np.ndarray) -> np.ndarray:
    """Of the median distance."""
    x = x.reshape(len(x), -1).astype(np.float64)
    square = (x**2).sum(axis=1)
    distance = np.maximum(square[:, None] + square - 2 * x @ x.T, 0)
    found: np.ndarray = np.exp(-distance / np.median(distance))
    return found


def accuracy(k: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    """Of kernel regression on one-hot labels."""
    k = k / np.sqrt(np.outer(k.diagonal(), k.diagonal()))

    def right(known: np.ndarray, asked: np.ndarray, ridge: float) -> float:
        labels = np.eye(y.max() + 1)[y[known]] - 1 / (y.max() + 1)
        solved = np.linalg.solve(k[np.ix_(known, known)] + ridge * np.eye(len(known)), labels)
        return float(np.mean((k[np.ix_(asked, known)] @ solved).argmax(axis=1) == y[asked]))

    held = train[: len(train) // 3]
    best = max(RIDGES, key=lambda ridge: right(train[len(held) :], held, ridge))
    return right(train, test, best)


def study(kernels: dict[str, Callable[[], np.ndarray]], y: np.ndarray, count: int, seeds: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, make in kernels.items():
        start = time.perf_counter()
        k = make().astype(np.float64)
        seconds = time.perf_counter() - start
        scores = []
        for seed in range(seeds):
            order = np.random.default_rng(seed).permutation(len(y))
            scores.append(accuracy(k, y, order[:count], order[count:]))
        found[name] = {"accuracy": float(np.mean(scores)), "std": float(np.std(scores)), "seconds": seconds}
        print(
            f"{name}: accuracy {np.mean(scores):.3f} +- {np.std(scores):.3f}, the kernel in {seconds:.1f} s", flush=True
        )
    return found


def draw(report: dict[str, Any], path: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((9, 3.4), layout="constrained")
    for axes, (title, found) in zip(figure.subplots(1, 2), report["studies"].items(), strict=True):
        axes.barh(list(found), [v["accuracy"] for v in found.values()], xerr=[v["std"] for v in found.values()],
                  color=["C3", "C0", "0.6", "0.8"][: len(found)])  # fmt: skip
        axes.invert_yaxis()
        axes.set(title=title, xlabel="accuracy", xlim=(0, 1))
    FigureCanvasAgg(figure).print_png(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--picture", default="real-layers.png")
    parser.add_argument("--out", type=Path, default=reports.RESULTS / "real-layers.json")
    given = parser.parse_args()
    folder = reports.data_folder("uci_classification/molec-biol-splice.npz")
    rng, count = np.random.default_rng(0), given.train + TEST
    x, graphs, y = digits()
    some = rng.permutation(len(y))[:count]
    x, graphs, y = x[some], graphs[some], y[some]
    report = {**reports.context(), "train": given.train, "test": TEST, "seeds": given.seeds, "studies": {}}
    before = run.busy()
    report["studies"]["digits as graphs of ink"] = study({
        "graph NTK": lambda: graph_network(True)(x, None, "ntk", pattern=(graphs, None), mask_constant=np.nan),
        "the same without edges": lambda: graph_network(False)(x, None, "ntk", mask_constant=np.nan),
        "RBF of the sorted ink": lambda: rbf(np.sort(np.nan_to_num(x[..., 0]), axis=1)),
    }, y, given.train, given.seeds)  # fmt: skip
    with np.load(folder / "uci_classification/molec-biol-splice.npz") as file:
        codes, labels = file["X"], file["y"].astype(int)
    some = rng.permutation(len(labels))[:count]
    texts, labels = cut(bases(codes[some]), rng), labels[some]
    zeros = np.nan_to_num(texts)
    report["studies"]["splice, 10 to 60 bases known"] = study({
        "convolutions, masked NTK": lambda: sequence_network()(texts, None, "ntk", mask_constant=np.nan),
        "the same, zeros for the masked": lambda: sequence_network()(zeros, None, "ntk"),
        "dense NTK": lambda: dense_network()(zeros, None, "ntk"),
        "RBF": lambda: rbf(zeros),
    }, labels, given.train, given.seeds)  # fmt: skip
    report["others_busy"] = run.others(before)
    reports.write_json(report, given.out)
    draw(report, given.picture)
    print(f"written: {given.out}, {given.picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
