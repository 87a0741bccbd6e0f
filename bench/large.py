"""Time a solve for more points than fit as a matrix: conjugate gradients on kernel blocks, peak memory, one JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import memory
import numpy as np
from run import NOISY, busy, others, surroundings

SEED = 0
NOISE = 0.1  # standard deviation in the synthetic targets, whose own is 1
EXACT = 20_000  # points up to which --exact has room for a factorisation


def synthetic(given: argparse.Namespace) -> tuple[np.ndarray, ...]:
    """Normal inputs; a random network of one hidden layer as the truth, with noise on the training targets."""
    rng = np.random.default_rng(SEED)
    x = rng.standard_normal((given.n + given.test, given.d))
    hidden = np.maximum(x @ rng.standard_normal((given.d, 64)) + rng.standard_normal(64), 0)
    y = hidden @ rng.standard_normal((64, given.outputs))
    y = (y - y.mean(axis=0)) / y.std(axis=0)
    noisy = y[: given.n] + NOISE * rng.standard_normal((given.n, given.outputs))
    return x[: given.n], noisy, x[given.n :], y[given.n :]


def protein(given: argparse.Namespace) -> tuple[np.ndarray, ...]:
    """UCI protein, its first split: at most --n points of its training part, all of its test part; standardised."""
    folder = os.environ.get("FASTNTK_DATA")
    path = Path(folder or "", "uci_regression", "protein.npz")
    if not folder or not path.exists():
        sys.exit("protein: FASTNTK_DATA names no folder with uci_regression/protein.npz")
    with np.load(path) as data:
        x, y, test = data["X"].astype(np.float64), data["y"].astype(np.float64), data["test0"]
    train = np.setdiff1d(np.arange(len(x)), test)
    train = np.random.default_rng(SEED).permutation(train)[: given.n]
    x = (x - x[train].mean(axis=0)) / x[train].std(axis=0)
    y = ((y - y[train].mean()) / y[train].std())[:, None]
    return x[train], y[train], x[test], y[test]


DATA = {"synthetic": synthetic, "protein": protein}


def network(depth: int) -> Any:
    from fastntk import stax

    hidden = [layer for _ in range(depth) for layer in (stax.Dense(1, 2**0.5, 0.1), stax.Relu())]
    return stax.serial(*hidden, stax.Dense(1, 2**0.5, 0.1)).kernel_fn


def rmse(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - true) ** 2)))


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[Any]:
    """A client of workers on this machine, one thread each."""
    from distributed import Client, LocalCluster

    kwargs = {"threads_per_worker": 1, "processes": True, "dashboard_address": None, "memory_limit": None}
    with LocalCluster(n_workers=workers, **kwargs) as local, Client(local) as client:
        yield client


def solve(given: argparse.Namespace, folder: str, client: Any = None) -> dict[str, Any]:
    """What the child does."""
    from fastntk import predict, scale

    x, y, x_test, y_test = (a.astype(given.dtype) for a in DATA[given.data](given))
    kernel_fn = network(given.depth)
    predict.conjugate_gradient(kernel_fn, x[:256], y[:256], given.get, 0.1)  # what is loaded once
    before = memory.status("self")
    store = Path(folder, "blocks") if given.store == "file" else given.store
    common = {"diag_reg": given.reg, "memory_budget": given.memory_budget, "progress": True}
    how = {"tol": given.tol, "rank": given.rank, "max_iter": given.max_iter, **common}
    try:
        if client is None:
            solved = predict.conjugate_gradient(kernel_fn, x, y, given.get, store=store, **how)
        else:
            solved = scale.conjugate_gradient(kernel_fn, x, y, given.get, client=client, **how)
    except predict.ConvergenceError as error:
        sys.exit(f"{error}\nresiduals: {error.residuals.max(axis=1).tolist()}")
    start = time.perf_counter()
    mean = solved(x_test, progress=True)
    found = {
        "n": len(x),
        "d": x.shape[1],
        "test": len(x_test),
        "seconds": {**solved.seconds_of, "solve": solved.seconds, "predict": time.perf_counter() - start},
        "seconds_a_pass": solved.seconds_of["iterations"] / max(1, solved.passes),
        "iterations": solved.iterations,
        "passes": solved.passes,
        "rank": solved.rank,
        "condition": solved.conditioning.condition,
        "residuals": [float(f"{r:.3g}") for r in solved.residuals.max(axis=1)],
        "rmse": rmse(mean, y_test),
        "anon_before": before["RssAnon"],
        "peak_resident": memory.status("self")["VmHWM"],
        "peak_of_workers": [] if client is None else list(client.run(memory.status, "self").values()),
        "gram_bytes": len(x) ** 2 * x.itemsize,
    }
    if given.landmarks:
        start = time.perf_counter()
        low = predict.nystrom(kernel_fn, x, y, given.landmarks, given.get, **common)
        found["nystrom"] = {"landmarks": given.landmarks, "seconds": time.perf_counter() - start}
        found["nystrom"] |= {"rmse": rmse(low(x_test), y_test), "from_mean": rmse(low(x_test), mean)}
    if given.exact:
        start = time.perf_counter()
        k = kernel_fn(x, None, given.get)
        posterior = predict.gp_inference(k, y.astype(np.float64), given.reg)
        exact = posterior(given.get, kernel_fn(x_test, x, given.get))
        found["exact"] = {"seconds": time.perf_counter() - start, "rmse": rmse(exact, y_test)}
        found["exact"]["largest_difference"] = float(np.abs(mean - exact).max())
    return found


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--data", choices=DATA, default="synthetic", help="protein: needs FASTNTK_DATA, 41,157 points")
    made.add_argument("--n", type=int, default=20_000, help="training points")
    made.add_argument("--d", type=int, default=9, help="features of synthetic inputs")
    made.add_argument("--outputs", type=int, default=1, help="synthetic targets")
    made.add_argument("--test", type=int, default=1000, help="synthetic test points")
    made.add_argument("--depth", type=int, default=3, help="ReLU layers")
    made.add_argument("--get", choices=("nngp", "ntk"), default="ntk")
    made.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="of the kernel")
    made.add_argument("--reg", type=float, default=0.01, help="diag_reg, relative to the mean of the diagonal")
    made.add_argument("--tol", type=float, default=1e-4, help="residual of each output")
    made.add_argument("--rank", type=int, help="of the preconditioner; default: conjugate_gradient's own")
    made.add_argument("--max-iter", type=int, default=1000)
    made.add_argument("--store", choices=("memory", "file"), help="default: compute blocks in each iteration")
    made.add_argument("--workers", type=int, default=0, help="processes of a Dask cluster; 0: this process")
    made.add_argument("--memory-budget", type=int, default=256 * 2**20, help="bytes of blocks")
    made.add_argument("--landmarks", type=int, default=0, help="a Nystrom posterior beside it, with so many")
    made.add_argument("--exact", action="store_true", help=f"an exact solve beside it, up to {EXACT} points")
    made.add_argument("--scratch", help="folder of --store file; default the system's temporary one")
    made.add_argument("--out", type=Path, help="JSON to write; default bench/results/large-<data>-<n>.json")
    made.add_argument("--child", help=argparse.SUPPRESS)
    return made


def main() -> int:
    given = parser().parse_args()
    if given.child:
        with cluster(given.workers) if given.workers else contextlib.nullcontext() as client:
            found = solve(given, given.child, client)
        print(json.dumps(found))
        return 0
    if given.workers and given.store:
        sys.exit("--workers computes blocks in each iteration, given --store too")
    if given.exact and given.n > EXACT:
        sys.exit(f"--exact is for at most {EXACT} points, given {given.n}")
    report = surroundings()
    before = busy()
    with tempfile.TemporaryDirectory(dir=given.scratch) as folder:
        command = [sys.executable, __file__, *sys.argv[1:], "--child", folder]
        found, anon = memory.watch(command, f"large {given.data}")
    # The other solves run in the same child, after it; of workers it sees nothing.
    found["peak_anonymous"] = None if given.exact or given.landmarks or given.workers else anon
    found["peak_of_workers"] = [own["VmHWM"] for own in found["peak_of_workers"]]
    found["others_busy"] = others(before)
    report["parameters"] = {k: v for k, v in vars(given).items() if k not in ("out", "child", "scratch")}
    report["large"] = found
    seconds = ", ".join(f"{k} {v:.4g} s" for k, v in found["seconds"].items())
    print(f"n = {found['n']}, d = {found['d']}: {found['iterations']} iterations, rank {found['rank']}; {seconds}")
    print(f"  a pass over the kernel: {found['seconds_a_pass']:.4g} s; last residual {found['residuals'][-1]:.3g}")
    of_workers = "".join(f" + {peak / 2**20:.0f}" for peak in found["peak_of_workers"])
    mib = {k: found[k] / 2**20 for k in ("peak_resident", "gram_bytes")}
    print(f"  peak of resident memory {mib['peak_resident']:.0f} MiB{of_workers}")
    print(f"  the matrix takes {mib['gram_bytes']:.0f} MiB")
    print(f"  RMSE {found['rmse']:.4g}; " + json.dumps({k: found[k] for k in ("nystrom", "exact") if k in found}))
    if (found["others_busy"] or 0) > NOISY:
        print(f"  not quiet: other processes kept {found['others_busy']} processors busy")
    out = given.out or Path(__file__).parent / "results" / f"large-{given.data}-{found['n']}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    text = re.sub(r"\[[^][{}]*\]", lambda match: " ".join(match[0].split()), json.dumps(report, indent=1))
    out.write_text(text + "\n")
    print(f"written: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
