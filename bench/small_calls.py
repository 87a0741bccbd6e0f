"""Time calls that are all overhead, in microseconds: a few points, a new parameter, a pair of small images, a gradient.

    python bench/small_calls.py [--repeats 9] [--out FILE]

Each case is the median of ``--repeats`` samples of a hundred calls, all cases in turn. How: README.md.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fastntk import stax
from reports import RESULTS, context, noise_line, write_json
from run import PAUSE, busy, others

CALLS = 100
GOALS = {"points": 150, "new W_std": 180, "gradient": 300}  # microseconds


def dense(W_std: float = 1.5) -> Any:
    layers = [stax.Dense(1, W_std, 0.1), stax.Relu()] * 3
    return stax.serial(*layers, stax.Dense(1, W_std, 0.1)).kernel_fn


def convolutional(pool: Any) -> Any:
    layers = [stax.Conv(1, (3, 3), padding="SAME"), stax.Relu()] * 2
    return stax.serial(*layers, pool(), stax.Dense(1)).kernel_fn


def cases() -> dict[str, Callable[[], Any]]:
    """Calls by name; depth 3 for points."""
    rng = np.random.default_rng(0)
    x1, x2, few = rng.standard_normal((8, 20)), rng.standard_normal((8, 20)), rng.standard_normal((12, 2))
    image1, image2 = (rng.standard_normal((1, 8, 8, 3)).astype(np.float32) for _ in range(2))
    kernel_fn, flatten, pooled = dense(), convolutional(stax.Flatten), convolutional(stax.GlobalAvgPool)
    cotangent = np.ones((12, 12))
    weights = (1.2 + k * 1e-6 for k in itertools.count())
    return {
        "points": lambda: kernel_fn(x1, x2, "ntk"),
        "new W_std": lambda: dense(next(weights))(x1, x2, "ntk"),
        "pair of images, Flatten": lambda: flatten(image1, image2, "ntk"),
        "pair of images, GlobalAvgPool": lambda: pooled(image1, image2, "ntk"),
        "gradient": lambda: kernel_fn.vjp(few, None, cotangents={"ntk": cotangent}, wrt=("x1", "0.W_std")),
    }


def sample(call: Callable[[], Any]) -> float:
    """Microseconds of a call."""
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return 1e6 * (time.perf_counter() - start) / CALLS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS / "small-calls.json", help="JSON to write")
    given = parser.parse_args()
    report, before = context(), busy()
    calls = cases()
    for call in calls.values():
        sample(call)
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(given.repeats):
        for name, call in calls.items():
            time.sleep(PAUSE)
            found[name].append(sample(call))
    report["microseconds"] = {
        name: {"median": statistics.median(own), "least": min(own), "largest": max(own), "goal": GOALS.get(name)}
        for name, own in found.items()
    }
    report["others_busy"] = others(before)
    for name, own in report["microseconds"].items():
        print(f"{name:32} {own['median']:7.1f} us ({own['least']:.1f} to {own['largest']:.1f}), goal {own['goal']}")
    noise_line(report["others_busy"])
    write_json(report, given.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
