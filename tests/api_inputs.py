"""Networks and rows for test_api.py and test_api_calls.py."""

from __future__ import annotations

import numpy as np
from fastntk import stax

Dense, serial = stax.Dense, stax.serial
BOTH = ("nngp", "ntk")
NET = serial(
    Dense(8, 1.3, 0.2), stax.Relu(), Dense(8, 1.1), stax.Erf(1.2, 0.7, 0.3), Dense(8, 1.0, 0.4), stax.ABRelu(0.1, -0.7),
    Dense(3, 0.9, 0.1, parameterization="standard"),
)  # fmt: skip
RESIDUAL = serial(
    Dense(8, 1.3, 0.2),
    stax.FanOut(2),
    stax.parallel(serial(stax.Relu(), Dense(8, 1.1, 0.1)), stax.Identity()),
    stax.FanInSum(),
    stax.LeakyRelu(0.2),
    Dense(3, 1.2),
)
NETWORKS = {"stack": NET, "residual": RESIDUAL}
# Twice the accuracy that the library promises: two results that round differently are this far apart at most.
APART = {np.dtype(np.float32): 4e-6, np.dtype(np.float64): 2e-12}


def data(dtype=np.float64):
    """Two sets of rows with copies, multiples, near-duplicates and a zero row."""
    rng = np.random.default_rng(5)
    x1, x2 = rng.standard_normal((12, 6)), rng.standard_normal((9, 6))
    x1[3], x1[4], x1[5] = x1[2], 2 * x1[2], x1[2] * (1 + 1e-6 * rng.standard_normal(6))
    x1[6] = 0
    x2[0], x2[1] = x1[2], x1[1] * (1 + 1e-4 * rng.standard_normal(6))
    return x1.astype(dtype), x2.astype(dtype)


def signs(*shape, dtype=np.float64):
    """Rows of signs times powers of two, features a power of 4. Norms are powers of two, products of unit rows small
    integers over one: no order of summation rounds, so that results of different products are comparable by bits."""
    rng = np.random.default_rng(6)
    return (rng.choice([-1.0, 1.0], shape) * 2.0 ** rng.integers(-3, 4, (*shape[:-1], 1))).astype(dtype)


def same(a, b):
    """Equal in dtype, shape and every bit."""
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def assert_same_kernels(a, b):
    assert [same(getattr(a, f), getattr(b, f)) for f in ("nngp", "ntk", "cov1", "cov2")] == [True] * 4


def distance(a, b):
    """Largest difference, relative to the larger of the entry and a tenth of the matrix's largest."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.max(np.abs(a - b) / np.maximum(np.abs(b), 0.1 * np.max(np.abs(b))))
