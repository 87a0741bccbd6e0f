"""A network and points for large n."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy")
import mpmath
from fastntk import predict, stax

LAYERS = (stax.Dense(1, 2**0.5, 0.1), stax.Relu())
KERNEL_FN = stax.serial(*LAYERS, *LAYERS, stax.Dense(1, 2**0.5, 0.1)).kernel_fn
RNG = np.random.default_rng(0)
X, X_TEST = RNG.standard_normal((600, 6)), RNG.standard_normal((30, 6))
Y = np.stack([np.sin(X[:, 0]), X[:, 1] * X[:, 2], np.abs(X[:, 3])], axis=1)
BUDGET = 2 * 8 * 128**2  # blocks of 128 rows in float64


def nystrom(*args, **options):
    return predict.nystrom(*args, **{"diag_reg": 1e-3, **options})


def shifted(k: np.ndarray, diag_reg: float = 1e-3) -> np.ndarray:
    """``K + diag_reg`` times the mean of its diagonal, in float64."""
    return k.astype(np.float64) + diag_reg * k.diagonal().mean(dtype=np.float64) * np.eye(len(k))


def in_digits(a: np.ndarray) -> mpmath.matrix:
    return mpmath.matrix(a.tolist())


def floats(a: mpmath.matrix) -> np.ndarray:
    return np.array(a.tolist(), dtype=float)
