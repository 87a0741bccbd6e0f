"""Duals of ``|x|`` and ``x |x|``: what kinks at 0 leave in a kernel, in closed form and without cancellation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def _series(t: Array, first: int, coefficient: Any, otherwise: Array) -> Array:
    """An odd power series in t below 1.2, where a closed form would cancel."""
    small = np.minimum(t, 1.2)
    total = sum(coefficient(k) * small ** (2 * k + 1) for k in range(first, first + 14))
    return np.where(t < 1.2, total, otherwise)


def hinge_parts(w: Array, parity: int) -> tuple[Array, Array]:
    """``(1 - f, f')`` of ``f(rho) = E |u| |v|`` (parity 0) or ``E u |u| v |v|`` (1), unit variances, at rho = 1 - w.

    ``f`` is 1 or 3 at rho = 1, so that ``1 - f`` stands for ``3 - f`` there; rho >= 0. With ``cos t = 1 - w``,
    ``G = (sin t - t cos t) / pi`` and its integral over w, H: ``1 - f = w - 2 G``, ``f' = 1 - 2 t / pi``, and
    ``3 - f = 4 (w - w^2 / 2) + 8 H``, ``f' = 4 (1 - w + 2 G)``. Of Cho and Saul (2009), eqs. (4)-(6); derived.
    """
    t = 2 * np.arcsin(np.sqrt(w / 2))
    G = (
        _series(t, 1, lambda k: (-1) ** (k + 1) * 2 * k / math.factorial(2 * k + 1), np.sin(t) - t * np.cos(t))
        / math.pi
    )
    if parity == 0:
        return w - 2 * G, 1 - 2 * t / math.pi
    H = (
        _series(
            t,
            2,
            lambda k: (-4.0) ** k * (k - 1) / (2 * math.factorial(2 * k + 1)),
            t / 2 - 3 / 8 * np.sin(2 * t) + t * np.cos(2 * t) / 4,
        )
        / math.pi
    )
    return 4 * (w - w * w / 2) + 8 * H, 4 * (1 - w + 2 * G)
