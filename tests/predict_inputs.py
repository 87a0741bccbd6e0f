"""Kernels, targets and caught warnings for the tests of ``predict``."""

from __future__ import annotations

import sys
import warnings
from collections import namedtuple

import numpy as np

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
