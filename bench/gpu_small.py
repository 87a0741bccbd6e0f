"""A small set of calls that reaches every kernel of the CUDA backend, for compute-sanitizer: see gpu.sh."""

from __future__ import annotations

import sys

import cupy
import numpy as np
from fastntk import dual, stax
from fastntk.network.activations import NONLINEARITIES

BOTH = ("nngp", "ntk")


def networks() -> dict[str, stax.Layer]:
    """Every nonlinearity, and one to eight functions at a time."""
    found = {
        name: stax.serial(*[stax.Dense(1, 1.2, 0.1), make(*args)] * 2, stax.Dense(1))
        for name, (make, args) in NONLINEARITIES.items()
    }
    for branches in (2, 3, 6):
        block = stax.parallel(
            *[stax.serial(stax.Dense(1, 0.5 + k), stax.Relu(), stax.Dense(1)) for k in range(branches)]
        )
        found[f"{branches} branches"] = stax.serial(stax.Dense(1), stax.FanOut(branches), block, stax.FanInSum())
    return found


def check(what: str, found: tuple, wanted: tuple, dtype: np.dtype) -> None:
    for a, b in zip(found, wanted, strict=True):
        values = a.get() if isinstance(a, cupy.ndarray) else a
        off = np.max(np.abs(values - b)) / np.max(np.abs(b))
        if not off < 1e3 * np.finfo(dtype).eps:
            raise SystemExit(f"{what}: off by {off:.1e}")


def rows(dtype: np.dtype) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((70, 20)).astype(dtype), rng.standard_normal((37, 20)).astype(dtype)
    x[1], y[0] = x[0], -x[0]  # pairs that leave the product aside
    batch = np.stack([x, 2 * x])
    for name, net in networks().items():
        kernel_fn = net.kernel_fn
        calls = (
            ((x, None, BOTH), {}),
            ((x, y, BOTH), {}),
            ((batch, None, BOTH), {"batch_dims": 1}),
        )
        for args, options in calls:
            there = [cupy.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
            wanted = kernel_fn(*[a.astype(float) if isinstance(a, np.ndarray) else a for a in args], **options)
            check(name, kernel_fn(*there, **options), wanted, dtype)
            check(f"{name}, from the host", kernel_fn(*args, backend="cuda", **options), wanted, dtype)
        check(f"{name}, diagonal", kernel_fn.diagonal(cupy.asarray(x)), kernel_fn.diagonal(x.astype(float)), dtype)
        k = kernel_fn(cupy.asarray(x))
        check(f"{name}, continued", kernel_fn(k, get=BOTH), kernel_fn(kernel_fn(x.astype(float)), get=BOTH), dtype)
    for name, (make, args) in NONLINEARITIES.items():
        q = [np.full(1000, 1.5, dtype), np.linspace(-1, 1, 1000).astype(dtype), np.full(1000, 1.2, dtype)]
        wanted = dual.dual(make(*args), *(v.astype(float) for v in q))
        check(f"{name}, dual", dual.dual(make(*args), *map(cupy.asarray, q)), wanted, dtype)


def images(dtype: np.dtype) -> None:
    conv = [stax.Conv(1, (3, 3), padding="SAME", W_std=1.4, b_std=0.1), stax.Relu()]
    strided = [stax.Conv(1, (3, 3), (2, 2), "SAME"), stax.Erf()]
    wrapped = [stax.Conv(1, (3, 3), padding="CIRCULAR"), stax.Relu()]
    pool = stax.AvgPool((2, 2), (2, 2))
    endings = {
        "pooled": [*conv * 2, stax.GlobalAvgPool()],
        "flat": [*conv * 2, stax.Flatten()],
        "strided": [*conv, *strided, *conv, stax.GlobalAvgPool()],
        "wrapped": [*wrapped * 2, pool, *wrapped, stax.GlobalAvgPool()],
    }
    for (name, layers), size in ((item, size) for item in endings.items() for size in (8, 11)):
        kernel_fn = stax.serial(*layers, stax.Dense(1)).kernel_fn
        x = np.random.default_rng(1).standard_normal((4, size, size, 3)).astype(dtype)
        try:
            found = kernel_fn(cupy.asarray(x), None, BOTH)
        except NotImplementedError as reason:
            print(f"images: {reason}")
            return
        check(f"{name}, {size} x {size}", found, kernel_fn(x.astype(float), None, BOTH), dtype)


def main() -> int:
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        rows(dtype)
        images(dtype)
    print("all agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
