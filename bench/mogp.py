"""Times draws of random kernels of node-scaled networks, and writes one JSON. How: README.md."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastntk import mogp
from reports import RESULTS, context, noise_line, write_json
from run import busy, others, summary

D = 20  # features
LAYERS = 2  # hidden
GOAL = 20.0  # s, of a call


@dataclass(frozen=True)
class Case:
    measure: mogp.LevyMeasure
    what: Callable[..., Any]  # (x, layers, n_samples, n_atoms, rng)
    n: int
    draws: int
    atoms: int
    goal: float | None = None


KERNELS = {"n": 100, "draws": 1000, "atoms": 200, "goal": GOAL}
CASES = {
    "beta": Case(mogp.Beta(2.0), mogp.sample_kernels, **KERNELS),
    "horseshoe": Case(mogp.Horseshoe(), mogp.sample_kernels, **KERNELS),
    "gbfry": Case(mogp.GBFRY(0.5, 2.0), mogp.sample_kernels, **KERNELS),
    "bernoulli": Case(mogp.Bernoulli(4.0), mogp.sample_kernels, **KERNELS),
    "sum": Case(mogp.Iid(0.5) + mogp.Beta(1.0) + mogp.GeneralizedGamma(0.5), mogp.sample_kernels, **KERNELS),
    "ntk": Case(mogp.Beta(2.0), mogp.sample_ntk, n=100, draws=100, atoms=200),
}


def measure(case: Case, repeats: int) -> dict[str, Any]:
    x = np.random.default_rng(0).standard_normal((case.n, D))
    layers = [mogp.Layer(case.measure, sigma_v2=2.0)] * LAYERS
    case.what(x, layers, 2, case.atoms, 0)  # loads what a first call loads
    times = []
    for seed in range(repeats):
        start = time.perf_counter()
        case.what(x, layers, case.draws, case.atoms, seed)
        times.append(time.perf_counter() - start)
    found = summary(times)
    value = found["median"]
    targets = []
    if case.goal is not None:
        targets = [{"what": "seconds", "at_most": case.goal, "value": value, "met": value <= case.goal}]
    sizes = {"n": case.n, "d": D, "hidden": LAYERS, "draws": case.draws, "atoms": case.atoms}
    return {
        "parameters": {"call": case.what.__name__, "measure": repr(case.measure), **sizes},
        "seconds": {"fastntk": found},
        "targets": targets,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="cases: " + ", ".join(CASES))
    parser.add_argument("--cases", nargs="+", metavar="NAME", default=list(CASES), help="default: all; see below")
    parser.add_argument("--repeats", type=int, default=3, help="calls of each case (default 3)")
    parser.add_argument("--out", type=Path, default=RESULTS / "mogp.json")
    given = parser.parse_args()
    unknown = set(given.cases) - set(CASES)
    if unknown or given.repeats < 1:
        parser.error(f"unknown cases {sorted(unknown)}" if unknown else "--repeats must be at least 1")
    report: dict[str, Any] = {**context(), "repeats": given.repeats, "cases": {}}
    for name in given.cases:
        before = busy()
        found = measure(CASES[name], given.repeats)
        found["others_busy"] = others(before)
        report["cases"][name] = found
        said = "".join(f", <= {t['at_most']:g} s: {'yes' if t['met'] else 'NO'}" for t in found["targets"])
        print(f"{name}: {found['seconds']['fastntk']['median']:.3g} s{said}", flush=True)
        noise_line(found["others_busy"])
    write_json(report, given.out)
    print(f"written: {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
