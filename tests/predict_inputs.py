"""Kernels, targets and caught warnings for the tests of ``predict``."""

from __future__ import annotations

import sys
import warnings
from collections import namedtuple

import numpy as np
from fastntk import predict, stax

Kernels = namedtuple("Kernels", "nngp ntk")


def gram(n: int, d: int = 40, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, d))
    return x @ x.T / d


def both(n: int, m: int) -> tuple[Kernels, Kernels, Kernels]:
    """Kernels of n training and m test points: with themselves, across, the test points' own."""
    whole = Kernels(gram(n + m, seed=1), gram(n + m, seed=2))
    return tuple(
        Kernels(*(k[r, c] for k in whole))
        for r, c in ((slice(n), slice(n)), (slice(n, None), slice(n)), (slice(n, None), slice(n, None)))
    )


def draw(*shape: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def warned(call) -> tuple[object, list[warnings.WarningMessage]]:
    """What ``call`` returns, and the warnings on the way: each at the caller's line, not at one of ours."""
    here = sys._getframe(1).f_code.co_filename
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = call()
    assert all(w.filename == here for w in caught)
    return made, caught


def network() -> stax.Layer:
    return stax.serial(
        stax.Dense(1, 1.5, 0.1), stax.Erf(), stax.Dense(1, 1.4, 0.2), stax.Erf(), stax.Dense(1, 1.2, 0.1)
    )


def same(a, b, tolerance=1e-12) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def linear(x1, x2=None, get="nngp"):
    """A kernel function that takes no memory beside its results."""
    x2 = x1 if x2 is None else x2
    return x1 @ x2.T if isinstance(get, str) else Kernels(x1 @ x2.T, 2 * x1 @ x2.T)


def tiled(n: int, m: int, dtype: str = "float64", kernel_fn=None) -> tuple:
    """An ensemble of n training points, to be made with a memory budget, and m test points."""
    kernel_fn = kernel_fn or network().kernel_fn
    x, x_test = draw(n, 4).astype(dtype), draw(m, 4, seed=4).astype(dtype)
    y = draw(n, 2)

    def make(budget: int, **kwargs):
        return predict.gradient_descent_mse_ensemble(kernel_fn, x, y, 1.0, 1e-2, memory_budget=budget, **kwargs)

    return make, x_test
