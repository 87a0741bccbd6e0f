"""Time stores and clusters of fastntk.scale: one process, one worker, two; solves; a run that is killed five times."""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from image_networks import deep
from reports import RESULTS, context, noise_line, write_json
from run import busy, others

SEED = 0
KILLS = 5


def rows_network() -> Any:
    from fastntk import stax

    hidden = [layer for _ in range(10) for layer in (stax.Dense(1, 2**0.5, 0.1), stax.Relu())]
    return stax.serial(*hidden, stax.Dense(1, 2**0.5, 0.1)).kernel_fn


def images_network() -> Any:
    from fastntk import stax

    return deep(stax, 10, "GlobalAvgPool")[2]


def cases(small: bool) -> dict[str, tuple[Any, np.ndarray, int]]:
    """Network, inputs, rows of a block."""
    rng = np.random.default_rng(SEED)
    n_rows, n_images = (1000, 24) if small else (16128, 240)
    rows = rng.standard_normal((n_rows, 784)).astype(np.float32)
    images = rng.standard_normal((n_images, 16, 16, 3)).astype(np.float32)
    return {
        "rows": (rows_network(), rows, 256 if small else 2016),
        "images": (images_network(), images, 8 if small else 20),
    }


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def gram_case(
    kernel_fn: Any, x: np.ndarray, side: int, clients: dict[int, Any], folder: Path, rounds: int
) -> dict[str, Any]:
    """Seconds of each way to write the matrix, in turn, after one call that warms up."""
    from fastntk import scale

    n = len(x)

    def fresh() -> Path:
        shutil.rmtree(folder / "k.zarr", ignore_errors=True)
        return folder / "k.zarr"

    def direct(threads: int) -> None:
        out = np.memmap(folder / "direct", np.float32, "w+", shape=(n, n))
        kernel_fn(x, None, "ntk", out=out, num_threads=threads)

    def stored(**kwargs: Any) -> None:
        scale.gram(kernel_fn, x, fresh(), "ntk", chunks=side, progress=False, **kwargs)

    ways: dict[str, Callable[[], None]] = {
        "kernel_fn, 1 thread": lambda: direct(1),
        "kernel_fn, 2 threads": lambda: direct(2),
        "store, 1 thread": lambda: stored(num_threads=1),
        "store, 2 threads": lambda: stored(num_threads=2),
    }
    ways |= {
        f"store, {k} worker{'s' * (k > 1)}": lambda c=c: stored(client=c)  # type: ignore[misc]
        for k, c in clients.items()
    }
    want = kernel_fn(x, None, "ntk")
    for name, way in ways.items():
        way()
        if name.startswith("store"):
            assert np.array_equal(scale.load(folder / "k.zarr")[:], want), name
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(timed(way))
    median = {name: statistics.median(s) for name, s in seconds.items()}
    return {
        "n": n, "shape": list(x.shape), "side": side, "blocks": -(-n // side) * (-(-n // side) + 1) // 2,
        "seconds": seconds,
        "two_workers_over_one": median["store, 1 worker"] / median["store, 2 workers"],
        "two_workers_beyond_kernel_fn": median["store, 2 workers"] / median["kernel_fn, 2 threads"] - 1,
        "store_beyond_kernel_fn": median["store, 2 threads"] / median["kernel_fn, 2 threads"] - 1,
        "pairs_a_second_of_a_core": n * (n + 1) / 2 / median["store, 1 thread"],
    }  # fmt: skip


def task_case(client: Any, folder: Path, small: bool) -> dict[str, Any]:
    """What a block costs that costs nothing: scheduler, store and journal."""
    from fastntk import scale, stax

    x = np.random.default_rng(SEED).standard_normal((64 if small else 400, 2))
    shutil.rmtree(folder / "k.zarr", ignore_errors=True)
    kernel_fn = stax.Dense(1).kernel_fn
    seconds = timed(
        lambda: scale.gram(kernel_fn, x, folder / "k.zarr", "nngp", chunks=10, client=client, progress=False)
    )
    blocks = -(-len(x) // 10) * (-(-len(x) // 10) + 1) // 2
    return {"blocks": blocks, "seconds": seconds, "milliseconds_a_block": 1e3 * seconds / blocks}


def solve_case(clients: dict[int, Any], small: bool) -> dict[str, Any]:
    """Conjugate gradients, blocks computed anew in each iteration."""
    from fastntk import scale, stax

    rng = np.random.default_rng(SEED)
    n = 1000 if small else 24000
    x = rng.standard_normal((n, 20)).astype(np.float32)
    y = np.sin(x[:, :1]) + 0.1 * rng.standard_normal((n, 1))
    hidden = [layer for _ in range(3) for layer in (stax.Dense(1, 2**0.5, 0.1), stax.Relu())]
    kernel_fn = stax.serial(*hidden, stax.Dense(1)).kernel_fn
    found: dict[str, Any] = {"n": n, "d": 20, "depth": 3, "tol": 1e-4, "diag_reg": 0.01}
    for k, client in clients.items():
        solved = scale.conjugate_gradient(
            kernel_fn, x, y, "ntk", 0.01, tol=1e-4, rank=min(n, 400), client=client, chunks=256 if small else 2016
        )
        found[f"{k} worker{'s' * (k > 1)}"] = {
            "seconds_of": solved.seconds_of, "iterations": solved.iterations, "passes": solved.passes,
            "seconds_a_pass": solved.seconds_of["iterations"] / solved.passes,
            "residual": float(solved.residuals[-1].max()), "alpha": float(np.abs(solved.alpha).sum()),
        }  # fmt: skip
    one, two = found["1 worker"], found["2 workers"]
    assert one.pop("alpha") == two.pop("alpha")
    found["two_workers_over_one"] = one["seconds_a_pass"] / two["seconds_a_pass"]
    return found


NETWORK = """
import sys
sys.path.insert(0, {bench!r})
from image_networks import deep
from fastntk import stax
kernel_fn = deep(stax, 10, "GlobalAvgPool")[2]
"""


def killed_case(folder: Path, n: int, side: int) -> dict[str, Any]:
    """The command with two workers, killed at random: itself (client and scheduler) or one of its workers.

    Kills are spread over the time that the undisturbed call took.
    """
    import psutil
    from fastntk import scale

    rng = random.Random(SEED)
    x = np.random.default_rng(SEED).standard_normal((n, 16, 16, 3)).astype(np.float32)
    np.savez(folder / "x.npz", x=x)
    (folder / "net.py").write_text(NETWORK.format(bench=str(Path(__file__).parent)))
    store = folder / "killed.zarr"
    command = [
        sys.executable, "-m", "fastntk", "gram", "--data", str(folder / "x.npz"), "--store", str(store),
        "--network", f"{folder / 'net.py'}:kernel_fn", "--get", "ntk", "--chunks", str(side),
        "--workers", "2",
    ]  # fmt: skip
    start = time.perf_counter()
    whole = images_network()(x, None, "ntk")
    undisturbed = time.perf_counter() - start
    wait = max(2.5, undisturbed / (KILLS + 1))
    start, killed, runs = time.perf_counter(), [], 0
    while True:
        runs += 1
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.4, 1.0) * wait)
            marks = sum(p.read_text().count("\n") for p in store.rglob("blocks-*.txt")) if store.exists() else 0
            if len(killed) < KILLS and process.poll() is None and marks:
                workers = [
                    p for p in psutil.Process(process.pid).children(recursive=True)
                    if "spawn_main" in " ".join(p.cmdline())
                ]  # fmt: skip
                whom = "command" if not workers or len(killed) % 2 else "worker"
                (process if whom == "command" else rng.choice(workers)).send_signal(signal.SIGKILL)
                killed.append({"whom": whom, "blocks": marks})
                if whom == "command":
                    for worker in workers:  # they end by themselves when they miss their scheduler
                        if worker.is_running():
                            worker.kill()
                    process.wait()
        if process.returncode == 0:
            break
    equal = bool(np.array_equal(scale.load(store)[:], whole)) and scale.verify(store).complete
    return {
        "n": n, "chunks": side, "killed": killed, "runs": runs, "seconds": time.perf_counter() - start,
        "kernel_fn_seconds": undisturbed, "equal": equal,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="to see that it runs")
    parser.add_argument("--killed", type=int, metavar="N", help="nothing but a run on N images that is killed")
    parser.add_argument("--scratch", help="folder of the stores; default the system's temporary one")
    parser.add_argument("--out", type=Path, default=RESULTS / "scale.json", help="JSON to write")
    given = parser.parse_args()
    from importlib.metadata import version

    from distributed import Client, LocalCluster

    report = context()
    for name in ("dask", "distributed", "zarr"):
        report["versions"][name] = version(name)
    before = busy()
    kwargs = {"threads_per_worker": 1, "processes": True, "dashboard_address": None, "memory_limit": None}
    if given.killed:
        with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
            report["killed"] = killed_case(Path(scratch), given.killed, 40)
        write_json(report, given.out)
        print(report["killed"])
        return 0
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        folder = Path(scratch)
        with (
            LocalCluster(n_workers=1, **kwargs) as one,
            LocalCluster(n_workers=2, **kwargs) as two,
            Client(one) as client_one,
            Client(two) as client_two,
        ):
            clients = {1: client_one, 2: client_two}
            report["gram"] = {}
            for name, case in cases(given.small).items():
                report["gram"][name] = found = gram_case(*case, clients, folder, given.rounds)
                print(name, {k: v for k, v in found.items() if isinstance(v, float)}, flush=True)
            report["task"] = task_case(client_two, folder, given.small)
            print("task", report["task"], flush=True)
            report["solve"] = solve_case(clients, given.small)
            print("solve", report["solve"], flush=True)
        report["killed"] = killed_case(folder, *((24, 4) if given.small else (160, 10)))
        print("killed", report["killed"], flush=True)
    report["others_busy"] = others(before)
    noise_line(report["others_busy"])
    write_json(report, given.out)
    print(f"written: {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
