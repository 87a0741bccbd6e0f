"""Kernel regression on real images: test accuracies, times, and agreement with Neural Tangents. How: README.md."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rivals
from fastntk import stax
from image_networks import NETWORKS, Network
from run import NOISY, busy, others, surroundings

KERNELS = ("nngp", "ntk")
CLASSES = 10
BOUND = 1e-5  # largest relative difference of a float64 entry from Neural Tangents'
TILE = 3  # images of a tile of Neural Tangents
PROBE = 6  # images of which the costs are estimated

Kernel = Any  # kernel_fn of either library


@dataclass(frozen=True)
class DataSet:
    file: str
    networks: tuple[str, ...]


DATA = {
    "cifar-10": DataSet("cifar10_exact_small.npz", ("conv3-gap", "conv3-flatten", "dense3")),
    "fashion-mnist": DataSet("fashion_mnist_small.npz", ("conv3-pooled", "dense3")),
}


@dataclass(frozen=True)
class Split:
    """Images of mean 0 and variance 1 in each channel, by the training images' pixels."""

    x_train: np.ndarray  # (n, h, w, c), float32
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @classmethod
    def load(cls, path: Path, train: int, test: int, half: bool) -> Split:
        """The first images of a file; ``half``: means of 2x2 pixels."""
        with np.load(path) as file:
            x_train, y_train = file["x_train"][:train], file["y_train"][:train].reshape(-1)
            x_test, y_test = file["x_test"][:test], file["y_test"][:test].reshape(-1)
        x_train, x_test = (x.reshape(*x.shape[:3], -1).astype(np.float64) for x in (x_train, x_test))
        if half:
            x_train, x_test = halve(x_train), halve(x_test)
        mean, std = x_train.mean(axis=(0, 1, 2)), x_train.std(axis=(0, 1, 2))
        x_train, x_test = (((x - mean) / std).astype(np.float32) for x in (x_train, x_test))
        return cls(x_train, y_train, x_test, y_test)

    def first(self, train: int, test: int) -> Split:
        return Split(self.x_train[:train], self.y_train[:train], self.x_test[:test], self.y_test[:test])


def halve(x: np.ndarray) -> np.ndarray:
    """Means of 2x2 pixels: what an average pool before a network's first layer does to its kernel."""
    n, h, w, c = x.shape
    return x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


# ---- how much can be afforded


def entries(train: int, test: int) -> int:
    return train * (train + 1) // 2 + train * test


def kernel_of(network: Network, module: Any) -> Kernel:
    _, _, kernel_fn = network(module)
    return kernel_fn


def entry_seconds(network: Network, x: np.ndarray) -> float:
    """Seconds of an entry of both kernels, from a Gram that grows until it takes long enough to tell."""
    kernel_fn = kernel_of(network, stax)
    n = min(PROBE, len(x))
    while True:
        kernel_fn(x[:2], get=KERNELS)
        start = time.perf_counter()
        kernel_fn(x[:n], get=KERNELS)
        seconds = time.perf_counter() - start
        if seconds > 0.1 or n == len(x):
            return seconds / (n * (n + 1) // 2)
        n = min(len(x), 4 * n)


@dataclass(frozen=True)
class Choice:
    """What a data set is computed with."""

    split: Split
    half: bool  # images of means of 2x2 pixels
    predicted: float  # seconds
    reason: str


def choose(name: str, path: Path, given: argparse.Namespace, limit: float) -> Choice:
    """As many images as were asked for if they fit into ``limit`` seconds: else of half the size, else fewer."""
    reasons = []
    for half in {"auto": (False, True), "always": (True,), "never": (False,)}[given.halve]:
        split = Split.load(path, given.train, given.test, half)
        train, test = len(split.x_train), len(split.x_test)
        seconds = sum(entry_seconds(NETWORKS[net], split.x_train) for net in DATA[name].networks) * entries(train, test)
        size = "x".join(map(str, split.x_train.shape[1:3]))
        reasons.append(
            f"{train} + {test} images of {size} estimated at {seconds:.0f} s, of which there are {limit:.0f}"
        )
        if seconds <= limit:
            break
    else:
        shrink = math.sqrt(limit / seconds)
        seconds /= entries(train, test)
        train, test = max(CLASSES, int(train * shrink)), max(CLASSES, int(test * shrink))
        seconds *= entries(train, test)
        split = split.first(train, test)
        reasons.append(f"{train} + {test} fit")
    return Choice(split, half, seconds, "; ".join(reasons))


# ---- what is measured


def regress(k: np.ndarray, cross: np.ndarray, split: Split, reg: float) -> float:
    """Test accuracy of kernel regression on one-hot labels less 1/10."""
    targets = np.eye(CLASSES)[split.y_train] - 1 / CLASSES
    k = k.astype(np.float64)
    k[np.diag_indices_from(k)] += reg * np.trace(k) / len(k)
    found = cross.astype(np.float64) @ np.linalg.solve(k, targets)
    return float(np.mean(np.argmax(found, axis=1) == split.y_test))


def study(network: Network, split: Split, reg: float, progress: bool) -> dict[str, Any]:
    """Accuracies of both kernels and the time of their Grams, float32."""
    kernel_fn = kernel_of(network, stax)
    start = time.perf_counter()
    own = kernel_fn(split.x_train, get=KERNELS, progress=progress)
    cross = kernel_fn(split.x_test, split.x_train, get=KERNELS, progress=progress)
    seconds = time.perf_counter() - start
    accuracies = {kind: regress(a, b, split, reg) for kind, a, b in zip(KERNELS, own, cross, strict=True)}
    count = entries(len(split.x_train), len(split.x_test))
    return {"accuracy": accuracies, "seconds": seconds, "seconds_an_entry": seconds / count}


def tiles(n: int) -> Iterator[tuple[slice, slice]]:
    """Tiles on and above the diagonal, in an order in which those of the first images come first."""
    starts = range(0, n, TILE)
    for j in starts:
        for i in starts:
            if i <= j:
                yield slice(i, min(n, i + TILE)), slice(j, min(n, j + TILE))


def agree(network: Network, x: np.ndarray, seconds: float) -> dict[str, Any]:
    """Largest relative difference from Neural Tangents, float64, on as many first images as ``seconds`` allow."""
    module = rivals.nt_stax()
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    theirs = kernel_of(network, module)
    jitted = jax.jit(lambda a, b: tuple(theirs(a, b, KERNELS)))
    x = x.astype(np.float64)
    start, n, each = time.perf_counter(), 0, 0.0
    found = np.zeros((len(KERNELS), len(x), len(x)))
    for rows, cols in tiles(len(x)):
        used = time.perf_counter() - start
        column = (cols.start // TILE + 1) * each  # a whole column of tiles, or none of it
        if rows.start == 0 and cols.start > TILE and used + column > seconds:
            break
        before = time.perf_counter()
        for k, part in zip(found, jitted(x[rows], x[cols]), strict=True):
            k[rows, cols] = np.asarray(part)
        each = time.perf_counter() - before
        if rows == cols:
            n = cols.stop
    used = time.perf_counter() - start
    ours = kernel_of(network, stax)(x[:n], get=KERNELS)
    upper = np.triu_indices(n)
    table = {}
    for kind, a, b in zip(KERNELS, ours, found, strict=True):
        a, b = a[upper], b[:n, :n][upper]
        table[kind] = float(np.max(np.abs(a - b) / np.abs(b)))
    return {"images": n, "asked": len(x), "seconds": used, "difference": table, "bound": BOUND,
            "met": max(table.values()) <= BOUND}  # fmt: skip


# ---- from arguments to JSON


@dataclass
class RivalClock:
    """Seconds left to the rival, and among how many networks."""

    seconds: float
    networks: int

    def share(self) -> float:
        return self.seconds / max(1, self.networks)

    def take(self, used: float) -> None:
        self.seconds, self.networks = max(0.0, self.seconds - used), self.networks - 1


def run_data(name: str, path: Path, given: argparse.Namespace, limit: float, clock: RivalClock) -> dict[str, Any]:
    choice = choose(name, path, given, limit)
    split = choice.split
    print(f"{name}: {len(split.x_train)} train, {len(split.x_test)} test ({choice.reason})", flush=True)
    rows: dict[str, Any] = {}
    for key in reversed(
        DATA[name].networks
    ):  # cheap ones first: what they leave of the rival's time goes to the others
        network = NETWORKS[key]
        row = study(network, split, given.reg, given.progress)
        row["agreement"], row["missing"] = None, None
        if not given.no_rivals:
            try:
                row["agreement"] = agree(network, split.x_train[: given.corner], clock.share())
                clock.take(row["agreement"]["seconds"])
            except rivals.Missing as reason:
                row["missing"] = str(reason)
        rows[key] = row
        say(key, row)
    return {
        "file": DATA[name].file,
        "image": split.x_train.shape[1:],
        "train": len(split.x_train),
        "test": len(split.x_test),
        "halved": choice.half,
        "predicted_seconds": choice.predicted,
        "why": choice.reason,
        "networks": rows,
    }


def say(key: str, row: dict[str, Any]) -> None:
    accuracies = ", ".join(f"{kind} {100 * a:.1f} %" for kind, a in row["accuracy"].items())
    print(f"  {key}: {accuracies}; {row['seconds']:.1f} s, {1e3 * row['seconds_an_entry']:.3g} ms an entry", flush=True)
    if row["agreement"]:
        a = row["agreement"]
        worst = ", ".join(f"{kind} {d:.1e}" for kind, d in a["difference"].items())
        fewer = "" if a["images"] == a["asked"] else f" (of {a['asked']}: more would take Neural Tangents too long)"
        state = "met" if a["met"] else "NOT MET"
        print(
            f"    from Neural Tangents on {a['images']} images{fewer}: {worst}, <= {a['bound']:g}: {state}", flush=True
        )
    if row["missing"]:
        print(f"    {row['missing']}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="data sets: " + ", ".join(DATA))
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA), help="default: all")
    parser.add_argument("--train", type=int, default=1000, help="images to learn from (default 1000)")
    parser.add_argument("--test", type=int, default=500, help="test images (default 500)")
    parser.add_argument("--minutes", type=float, default=9.0, help="for fastntk's Grams (default 9)")
    parser.add_argument(
        "--halve",
        choices=("auto", "always", "never"),
        default="auto",
        help="2x2 means of pixels; auto: if time is short",
    )
    parser.add_argument("--reg", type=float, default=1e-4, help="added to the diagonal, times its mean (default 1e-4)")
    parser.add_argument("--corner", type=int, default=50, help="images compared with Neural Tangents (default 50)")
    parser.add_argument("--nt-seconds", type=float, default=180, help="for Neural Tangents, all networks (default 180)")
    parser.add_argument("--no-rivals", action="store_true", help="no agreement")
    parser.add_argument("--progress", action="store_true", help="progress bars")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "real-images.json")
    given = parser.parse_args()
    if min(given.train, given.test) < CLASSES:
        parser.error(f"--train and --test must be at least {CLASSES}")
    folder = os.environ.get("FASTNTK_DATA")
    if not folder:
        print("skipped: FASTNTK_DATA must name the folder with the .npz files of the data sets")
        return 0
    absent = [DATA[name].file for name in given.data if not (Path(folder) / DATA[name].file).is_file()]
    if absent:
        print(f"skipped: the folder that FASTNTK_DATA names has no {', '.join(absent)}")
        return 0

    clock = RivalClock(given.nt_seconds, sum(len(DATA[name].networks) for name in given.data))
    settings = ("train", "test", "minutes", "halve", "reg", "corner", "nt_seconds")
    report = {**surroundings(), "settings": {k: getattr(given, k) for k in settings}, "data": {}}
    start, before = time.perf_counter(), busy()
    for k, name in enumerate(given.data):
        left = 60 * given.minutes - sum(
            row["seconds"] for found in report["data"].values() for row in found["networks"].values()
        )
        path = Path(folder) / DATA[name].file
        report["data"][name] = run_data(name, path, given, left / (len(given.data) - k), clock)
    report["seconds"], report["others_busy"] = time.perf_counter() - start, others(before)
    print(f"{report['seconds'] / 60:.1f} minutes in all", flush=True)
    if (report["others_busy"] or 0) > NOISY:
        print(f"not quiet: other processes kept {report['others_busy']} processors busy", flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1)
    given.out.write_text(re.sub(r"\[[^][{}]*\]", lambda match: " ".join(match[0].split()), text) + "\n")
    print(f"written: {given.out}")
    agreements = [row["agreement"] for found in report["data"].values() for row in found["networks"].values()]
    return int(any(a is not None and not a["met"] for a in agreements))


if __name__ == "__main__":
    sys.exit(main())
