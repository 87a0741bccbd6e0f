"""Exponents that theories of finite networks give, measured on real images. How: README.md."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fastntk import abc, study
from fastntk.abc import Parameterization, scaling
from fastntk.study.lazy import Kind, convolutional, dense, halves
from fastntk.study.panels import slope

DATA = ("digits", "mnist", "fashion", "cifar10")
PARTS = ("parameterizations", "depths", "dense", "convolutional")
SCALES = (0.1, 1.0, 3.0, 10.0, 100.0)  # sqrt(h) alpha
WIDTHS = {"dense": (32, 64, 128, 256, 512, 1024), "convolutional": (8, 16, 32)}
SAMPLES, SEEDS, STEPS, DRAWS = 20, 3, 2000, 6
ABC_WIDTHS = (64, 128, 256, 512)


def fitted(widths: Any, values: Any) -> dict[str, Any] | None:
    """An exponent, its standard error from the scatter about the line, and what it is of; None where values lack."""
    if not all(math.isfinite(v) and v > 0 for v in values):
        return None
    exponent, error = slope(widths, values)
    return {"exponent": exponent, "error": error, "values": list(map(float, values))}


def regimes(data: study.Data, name: str, widths: tuple[int, ...]) -> dict[str, Any]:
    """Of alpha*, fluctuations and t1: by gradient flow, until all margins are above one half."""
    x, y, x_test, _ = halves(data)
    begin = time.perf_counter()
    kind = Kind.of(
        name, dense if name == "dense" else convolutional, widths, SCALES, x[:SAMPLES], y[:SAMPLES],
        seeds=range(SEEDS), max_steps=STEPS, kernel_samples=10, x_test=x_test,
    )  # fmt: skip
    wide = widths[-1]
    changes = [float(kind.flows[wide, zt].kernel_change.mean()) for zt in SCALES]
    return {
        "widths": widths,
        "alpha_star": fitted(widths, [float(np.mean(kind.alpha_star(h) or [math.nan])) for h in widths]),
        "fluctuations": {f"{zt:g}": fitted(widths, [kind.spread(h, zt) for h in widths]) for zt in SCALES},
        "kernel_change": dict(zip(map(str, SCALES), changes, strict=True)),
        "t1": fitted(SCALES[:2], [float(np.median(kind.flows[wide, zt].t1)) for zt in SCALES[:2]]),
        "converged": sum(int(f.converged.sum()) for f in kind.flows.values()),
        "networks": SEEDS * len(kind.flows),
        "seconds": round(time.perf_counter() - begin, 1),
    }


def depths(data: study.Data) -> dict[str, Any]:
    """Powers of 1 / alpha by which the kernel changes in feature training; theory: 2 L / (L + 1)."""
    x, y, _, _ = halves(data)
    zts, h, found = (0.01, 0.1), 64, {}
    for L in (1, 2, 3):
        kind = Kind.of(
            str(L), lambda h, L=L: dense(h, L), (h,), zts, x[:10], y[:10], seeds=range(SEEDS), max_steps=4000,
            kernel_samples=10, x_test=x[:10],
        )  # fmt: skip
        low, high = (np.log(kind.flows[h, zt].kernel_change) for zt in zts)
        each = (low - high) / math.log(zts[1] / zts[0])
        error = float(each.std(ddof=1)) / math.sqrt(SEEDS)
        found[L] = {"exponent": float(each.mean()), "error": error, "theory": 2 * L / (L + 1)}
    return found


def parameterizations(data: study.Data) -> dict[str, Any]:
    """Exponents of the first step's changes over widths, measured and predicted, both of one image.

    It is scaled to ``|x|^2 = 10``, and the first layer's weights the other way: with ``|x|^2 = d`` the first layer's
    step, which has this factor, hides the leading terms of IP up to widths of thousands.
    """
    x, _ = data.inputs()
    x = x[:1] * math.sqrt(10 / np.sum(x[0] ** 2))
    found = {}
    for p in (Parameterization.ip(3), Parameterization.ip(4), Parameterization.ntk(3), Parameterization.mup(3)):
        scales = (math.sqrt(2 / 10), *[math.sqrt(2)] * (p.L - 1), 1.0)
        check = abc.coordinate_check(p, ABC_WIDTHS, x, 10.0, lr=0.01, draws=DRAWS, scales=scales)
        theory = scaling(p)
        found[f"{p.name}, L = {p.L}"] = {
            "df": [float(check.df.exponent), float(check.df.stderr), float(theory.df[1])],
            "dh": [
                [float(e), float(s), float(t)]
                for e, s, t in zip(check.dh.exponent, check.dh.stderr, theory.dh[1], strict=True)
            ],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=DATA, choices=DATA)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="what is measured; the rest stays")
    parser.add_argument("--dense", nargs="+", type=int, default=WIDTHS["dense"])
    parser.add_argument("--convolutional", nargs="+", type=int, default=WIDTHS["convolutional"])
    parser.add_argument("--out", type=Path, default=Path("slopes.json"))
    args = parser.parse_args()
    if "FASTNTK_DATA" not in os.environ and set(args.data) - {"digits"}:
        parser.error("images need FASTNTK_DATA, the folder in which they lie")
    settings = {"samples": SAMPLES, "seeds": SEEDS, "scales": list(SCALES)}
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {**settings, "data": {}}
    if any(found[name] != value for name, value in settings.items()):
        parser.error(f"{args.out} is of other samples, seeds or scales")
    for name in args.data:
        data = study.load(name, 100, 200)
        measured: dict[str, Callable[[], Any]] = {
            "parameterizations": lambda data=data: parameterizations(data),
            "depths": lambda data=data: depths(data),
            "dense": lambda data=data: regimes(data, "dense", tuple(args.dense)),
            "convolutional": lambda data=data: regimes(data, "convolutional", tuple(args.convolutional)),
        }
        for part in args.parts:
            row = measured[part]()
            found["data"].setdefault(name, {})[part] = row
            args.out.write_text(json.dumps(found, indent=1) + "\n")  # of those that have finished
            print(f"{name}, {part}: {json.dumps(row)}", flush=True)


if __name__ == "__main__":
    main()
