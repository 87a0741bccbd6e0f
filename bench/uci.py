"""The NTK on 90 small data sets: the protocol of Arora et al. (2020), arXiv:1910.01663, section 4. How: README.md."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fastntk
import numpy as np
from fastntk import predict, stax
from reports import RESULTS, context, data_folder, noise_line, write_json
from run import busy, others
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC

FOLDER = "uci_classification"
LARGEST = 5000
DEPTHS = 5  # nonlinearities 0 .. 4
COSTS = tuple(10.0**k for k in range(-2, 5))
FOLDS = 4
MAX_ITER = 10**7  # of one problem of two classes: LIBSVM's own limit, which scikit-learn lifts
CACHE = 500  # MB of kernel rows, more than any set has
PUBLISHED = {"mean": 81.95, "std": 14.10}  # percent, table 1
BESIDE = ("rf_caret", "svm_C")  # of the 179: the best by Friedman rank in 2014, and a Gaussian SVM

Array = np.ndarray


@dataclass(frozen=True)
class Settings:
    classifier: str
    max_iter: int
    merge: bool
    depths: int = DEPTHS
    costs: tuple[float, ...] = COSTS


@dataclass(frozen=True)
class DataSet:
    x: Array  # (n, d) float64, standardised
    y: Array  # (n,)
    split: tuple[Array, Array]  # for the choice: indices of training and of validation
    folds: tuple[tuple[Array, Array], ...]
    same: Array  # (n,): equal numbers for equal points with equal labels

    @classmethod
    def load(cls, path: Path) -> DataSet:
        with np.load(path) as file:
            x, y = file["X"].astype(np.float64), file["y"]
            split = file["hp_train"], file["hp_val"]
            folds = tuple((file[f"fold{k}_train"], file[f"fold{k}_test"]) for k in range(FOLDS))
        _, same = np.unique(np.column_stack([x, y]), axis=0, return_inverse=True)
        return cls(x, y, split, folds, same.reshape(-1))


def kernels(x: Array, depths: int) -> Iterator[tuple[int, int, Array]]:
    """(depth, fixed layers, kernel): the NTK of ``depth`` ReLUs whose first ``fixed`` layers are not trained.

    Weights have variance 1 / fan_in and the input's covariance is x . x', not its mean: the scale counts for C. What
    stands before the first trained layer adds nothing to the NTK, so that behind it the NTK is the NNGP.
    """
    frozen = stax.serial(stax.Dense(1, W_std=x.shape[1] ** 0.5)).kernel_fn(x)
    block = stax.serial(stax.Relu(), stax.Dense(1, W_std=1.0)).kernel_fn
    for fixed in range(depths):
        k = frozen.replace(ntk=frozen.nngp)
        yield fixed, fixed, k.ntk
        for depth in range(fixed + 1, depths):
            k = block(k)
            yield depth, fixed, k.ntk
        if fixed + 1 < depths:
            frozen = block(frozen.replace(ntk=None))


# ---- classifiers: predictions at each C, and how many problems stopped before they were solved

Classifier = Callable[[Array, Array, Array, Array, Array, tuple[float, ...], Settings], Iterator[tuple[Array, int]]]


def svm(
    k: Array, y: Array, same: Array, train: Array, test: Array, costs: tuple[float, ...], settings: Settings
) -> Iterator[tuple[Array, int]]:
    """C-SVM. Equal points with equal labels become one with as many times the C: the same problem, and smaller."""
    weight = None
    if settings.merge:
        _, first, counts = np.unique(same[train], return_index=True, return_counts=True)
        order = np.argsort(first)
        train, weight = train[first[order]], counts[order].astype(np.float64)
    inner, cross = k[np.ix_(train, train)], k[np.ix_(test, train)]
    for c in costs:
        model = SVC(kernel="precomputed", C=c, cache_size=CACHE, max_iter=settings.max_iter)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # counted instead
            model.fit(inner, y[train], sample_weight=weight)
        stopped = 0 if settings.max_iter < 0 else int(np.sum(model.n_iter_ >= settings.max_iter))
        yield model.predict(cross), stopped


def regression(
    k: Array, y: Array, same: Array, train: Array, test: Array, costs: tuple[float, ...], settings: Settings
) -> Iterator[tuple[Array, int]]:
    """Regression on one-hot targets, 1 / (2 C) on the diagonal; what counts as stopped is jitter that was added."""
    inner, cross, targets = k[np.ix_(train, train)], k[np.ix_(test, train)], predict.one_hot(y, int(y.max()) + 1)
    for c in costs:
        predict_fn = predict.gp_inference(inner, targets[train], 0.5 / c, True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", predict.IllConditionedWarning)  # counted instead
            found = predict_fn("ntk", cross).argmax(axis=1)
        yield found, int(predict_fn.conditioning["ntk"].jitter > 0)


CLASSIFIERS: dict[str, Classifier] = {"svm": svm, "regression": regression}
RESULT = {"svm": "uci-classification.json", "regression": "uci-classification-regression.json"}


def evaluate(name: str, folder: Path, settings: Settings, threads: int) -> tuple[str, dict[str, Any]]:
    """The choice of depth, fixed layers and C on one split, and the accuracy of four folds."""
    start = time.perf_counter()
    data = DataSet.load(folder / f"{name}.npz")
    classify = CLASSIFIERS[settings.classifier]
    train, held = data.split
    best: tuple[tuple[float, int, int, float], Array] | None = None
    stopped, seconds = {"choice": 0, "folds": 0}, 0.0
    grid = np.full((settings.depths, settings.depths, len(settings.costs)), np.nan)
    with fastntk.options(num_threads=threads):
        mark = time.perf_counter()
        for depth, fixed, k in kernels(data.x, settings.depths):
            seconds += time.perf_counter() - mark
            found = classify(k, data.y, data.same, train, held, settings.costs, settings)
            for j, (c, (labels, count)) in enumerate(zip(settings.costs, found, strict=True)):
                stopped["choice"] += count
                grid[depth, fixed, j] = accuracy = float(np.mean(labels == data.y[held]))
                # Among equals the shallowest, the one with fewest fixed layers, the smallest C, as published.
                key = (accuracy, -depth, -fixed, -c)
                if best is None or key > best[0]:
                    best = key, k
            mark = time.perf_counter()
    assert best is not None
    (validation, depth, fixed, c), k = best
    folds = []
    for train, test in data.folds:
        ((labels, count),) = classify(k, data.y, data.same, train, test, (-c,), settings)
        stopped["folds"] += count
        folds.append(float(np.mean(labels == data.y[test])))
    return name, {
        "n": len(data.x), "d": data.x.shape[1], "classes": len(np.unique(data.y)),
        "depth": -depth, "fixed": -fixed, "C": -c, "validation": validation, "folds": folds,
        "accuracy": float(np.mean(folds)), "stopped": stopped,
        "validation_grid": [[round(v, 6) for v in row] for d in range(settings.depths) for row in grid[d, : d + 1]],
        "seconds": {"kernels": seconds, "all": time.perf_counter() - start},
    }  # fmt: skip


# ---- all sets together


def compare(accuracy: dict[str, float], folder: Path) -> dict[str, Any]:
    """Figures over the sets, and beside the 179 classifiers of Fernandez-Delgado et al. (2014)."""
    values = 100 * np.array(list(accuracy.values()))
    summary: dict[str, Any] = {"sets": len(values), "mean": float(values.mean()), "std": float(values.std())}
    with np.load(folder / "_fd2014_results.npz") as file:
        rows = {str(name): row.astype(np.float64) for name, row in zip(file["datasets"], file["acc"], strict=True)}
        names = [str(name) for name in file["classifiers"]]
    table = np.array([rows[name] for name in accuracy])
    table = np.column_stack([np.round(values, 1), np.round(table, 1)])  # theirs have one decimal; NaN: it failed
    best = np.nanmax(table, axis=1)

    def figures(column: Array) -> dict[str, float]:
        over = np.sum(table > column[:, None], axis=1)
        equal = np.sum(table == column[:, None], axis=1) - 1
        return {
            "friedman_rank": float(np.mean(1 + over + 0.5 * equal)),
            "P90": 100 * float(np.mean(column >= 0.90 * best)),
            "P95": 100 * float(np.mean(column >= 0.95 * best)),
            "PMA": 100 * float(np.mean(column / best)),
        }

    summary |= figures(table[:, 0])
    summary["beside"] = {
        name: {"mean": float(np.mean(column)), **figures(column)}
        for name in BESIDE
        for column in [table[:, 1 + names.index(name)]]
    }
    return summary


def markdown(report: dict[str, Any]) -> str:
    """A page: the figures over all sets, then each set."""
    s, last = report["summary"], report["runs"][-1]
    head = ["classifier", "mean accuracy", "Friedman rank of 180", "P90", "P95", "PMA"]
    rows = [["NTK, here", f"{s['mean']:.2f} +- {s['std']:.2f} %", *(_cells(s))],
            ["NTK, published", f"{PUBLISHED['mean']:.2f} +- {PUBLISHED['std']:.2f} %", "", "", "", ""]]  # fmt: skip
    rows += [[f"{name}, published 2014", f"{f['mean']:.2f} %", *_cells(f)] for name, f in s["beside"].items()]
    sets = [
        [name, *(str(r[key]) for key in ("n", "d", "classes", "depth", "fixed")), f"{r['C']:g}",
         f"{100 * r['validation']:.2f}", f"{100 * r['accuracy']:.2f}", str(sum(r["stopped"].values()) or ""),
         f"{r['seconds']['all']:.1f}"]
        for name, r in sorted(report["sets"].items())
    ]  # fmt: skip
    columns = ["set", "n", "d", "classes", "depth", "fixed", "C", "validation, %", "accuracy, %", "stopped", "seconds"]
    versions = ", ".join(f"{k} {last['versions'][k]}" for k in ("fastntk", "numpy", "scikit-learn"))
    spent = sum(run["seconds"] for run in report["runs"])
    return (
        f"# {s['sets']} UCI data sets, the protocol of Arora et al. (2020)\n\n"
        "Written by `bench/uci.py`; what each figure means: `bench/README.md`. "
        f"Classifier: {report['settings']['classifier']}. {last['machine']['cpu']}, processes: {report['processes']}; "
        f"{versions}; commit {(last['git']['hash'] or 'unknown')[:10]}, {last['date']}; {spent / 60:.0f} minutes.\n\n"
        f"{_table(head, rows)}\n\n{_table(columns, sets)}\n"
    )


def _cells(f: dict[str, float]) -> list[str]:
    return [f"{f['friedman_rank']:.2f}", *(f"{f[key]:.2f} %" for key in ("P90", "P95", "PMA"))]


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", metavar="NAME", help="default: all 90, the smallest first")
    parser.add_argument("--classifier", choices=list(CLASSIFIERS), default="svm")
    parser.add_argument("--max-iter", type=int, default=MAX_ITER, help="of libsvm, per pair of classes; -1: no limit")
    parser.add_argument("--no-merge", action="store_true", help="keep equal points with equal labels apart")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="default: one a processor")
    parser.add_argument("--out", type=Path, help="taken up where it stops; default in bench/results")
    given = parser.parse_args()
    given.out = given.out or RESULTS / RESULT[given.classifier]
    if given.processes < 1 or given.max_iter < -1 or given.max_iter == 0:
        parser.error("--processes must be at least 1, --max-iter positive or -1")
    folder = data_folder(f"{FOLDER}/meta.json", f"{FOLDER}/_fd2014_results.npz") / FOLDER
    meta = json.loads((folder / "meta.json").read_text())
    size = {name: row["n"] for name, row in meta.items() if row["n_test"] == 0 and row["n"] <= LARGEST}
    unknown = set(given.sets or ()) - set(size)
    if unknown:
        parser.error(f"not among the {len(size)} sets: {sorted(unknown)}")
    settings = Settings(given.classifier, given.max_iter, not given.no_merge)

    report: dict[str, Any] = {"settings": json.loads(json.dumps(asdict(settings))), "runs": [], "sets": {}}
    if given.out.is_file():
        before = json.loads(given.out.read_text())
        if before["settings"] != report["settings"]:
            parser.error(f"{given.out} was made with other settings: {before['settings']}; choose another --out")
        report = before
    report["processes"] = given.processes
    todo = sorted((name for name in given.sets or size if name not in report["sets"]), key=lambda name: size[name])
    print(f"{len(report['sets'])} sets done, {len(todo)} to do", flush=True)
    if todo:
        run_all(todo, report, given, folder, settings, size)
    report["summary"] = compare({name: row["accuracy"] for name, row in sorted(report["sets"].items())}, folder)
    write_json(report, given.out)
    given.out.with_suffix(".md").write_text(markdown(report))
    s = report["summary"]
    print(f"{s['sets']} sets: {s['mean']:.2f} +- {s['std']:.2f} % (published for 90: {PUBLISHED['mean']:.2f} +- "
          f"{PUBLISHED['std']:.2f} %), Friedman rank {s['friedman_rank']:.2f} of 180, P90 {s['P90']:.1f} %, "
          f"P95 {s['P95']:.1f} %, PMA {s['PMA']:.1f} %")  # fmt: skip
    print(f"written: {given.out}, {given.out.with_suffix('.md')}")
    return 0


def run_all(
    todo: list[str], report: dict[str, Any], given: argparse.Namespace, folder: Path, settings: Settings,
    size: dict[str, int],
) -> None:  # fmt: skip
    """Each set's result is written as soon as it is there."""
    run = {**context(), "seconds": 0.0}
    report["runs"].append(run)
    threads = max(1, len(os.sched_getaffinity(0)) // given.processes)
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)  # read by the processes that start now
    work = partial(evaluate, folder=folder, settings=settings, threads=threads)
    start, load = time.perf_counter(), busy()
    earlier = len(report["sets"])
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        for count, (name, row) in enumerate(pool.imap_unordered(work, todo), 1):
            report["sets"][name] = row
            run["seconds"] = time.perf_counter() - start
            write_json(report, given.out)
            done, all_ = (sum(size[k] ** 2 for k in names) for names in (set(todo) & set(report["sets"]), todo))
            stopped = f", {sum(row['stopped'].values())} stopped" if any(row["stopped"].values()) else ""
            print(
                f"{earlier + count}/{earlier + len(todo)} {name} (n {row['n']}, d {row['d']}): "
                f"{100 * row['accuracy']:.2f} %, depth {row['depth']}, fixed {row['fixed']}, C {row['C']:g}; "
                f"{row['seconds']['all']:.1f} s{stopped}; {run['seconds'] / 60:.1f} min, "
                f"{100 * done / all_:.0f} % of n^2 done",
                flush=True,
            )
        pool.close()
        pool.join()
    run["others_busy"] = others(load)
    noise_line(run["others_busy"])


if __name__ == "__main__":
    sys.exit(main())
