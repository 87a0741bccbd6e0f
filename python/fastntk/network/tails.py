"""Tails of the normal law, and pairs of them: what kinks away from 0 leave in a kernel, without cancellation."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.polynomial import chebyshev

Array = npt.NDArray[np.float64]

TERMS = 38  # of lens(): what is left of the series is below 1e-15
FARTHEST = 8.6  # of edge(): beyond, exp(-tau^2 / 2) leaves nothing


@lru_cache(maxsize=1)
def layer_series() -> Array:
    """``1 - sqrt(pi) b exp(b^2) erfc(b)`` by its Chebyshev series in ``b / (b + 1)``, times ``(1 + b)^2``."""
    place = np.cos(np.pi * (np.arange(64) + 0.5) / 64)
    u = (place + 1) / 2
    b = u / (1 - u)
    # Of large b from int_0^1 exp(b^2 - b^2 / x^2) dx, with t = 1 / x^2 - 1: exp(-b^2 t) (1 + t)^(-3/2) / 2.
    node, weight = np.polynomial.legendre.leggauss(48)
    panels = np.concatenate([[0.0], 2.0 ** np.arange(-24, 5)])
    width = np.diff(panels)[:, None]
    t = (panels[:-1, None] + (node + 1) / 2 * width).ravel()
    large = np.exp(-np.outer(b * b, t)) @ ((weight / 2 * width).ravel() * (1 + t) ** -1.5 / 2)
    small = np.array([1 - math.sqrt(math.pi) * v * math.exp(v * v) * math.erfc(v) if v < 2 else 0.0 for v in b])
    return np.asarray(chebyshev.chebfit(place, np.where(b < 2, small, large) * (1 + b) ** 2, 63))


def edge(b: Array, xp: Any = np) -> Array:
    """``1 - sqrt(pi) b exp(b^2) erfc(b)``, b >= 0: ``int_0^1 exp(b^2 - b^2 / y^2) dy``."""
    x = 4 * b / (b + 1) - 2
    now: Any = xp.zeros_like(b)
    before = now
    for c in layer_series()[:0:-1].tolist():  # Clenshaw, x twice the place in [-1, 1]
        now, before = c + x * now - before, now
    found: Array = (float(layer_series()[0]) + x / 2 * now - before) / (1 + b) ** 2
    return found


def tails(h: Array, xp: Any = np) -> tuple[Array, Array, Array]:
    """``P(z > h)``, ``E (z - h)+`` and ``E (z - h)+^2``, h >= 0, each relative to itself."""
    density = xp.exp(-h * h / 2) / math.sqrt(2 * math.pi)
    first = density * edge(h / math.sqrt(2), xp)
    near = h < 0.75
    u = xp.where(near, h, 0) ** 2
    inner: Any = 1.0  # sum h^2n / (2n + 1)!!
    for n in range(14, 0, -1):
        inner = 1 + u / (2 * n + 1) * inner
    beyond = xp.where(near, 0.5 - density * h * inner, (density - first) / xp.where(near, 1, h))
    return beyond, first, beyond - h * first


@lru_cache(maxsize=1)
def _steps() -> tuple[tuple[float, float, float, float, float], ...]:
    """Of term n of :func:`lens`: ``2 n + 1/2``, ``n (n - 1/2)``, ``1 / ((n + 1)! (2 n + 3))``, ``2 / ((n + 1) (2 n +
    3))``, ``n + 1``."""
    return tuple(
        (2 * n + 0.5, n * (n - 0.5), 1 / (math.factorial(n + 1) * (2 * n + 3)), 2 / ((n + 1) * (2 * n + 3)), n + 1.0)
        for n in range(TERMS)
    )


def lens(w: Array, alpha: Array, beta: Array) -> tuple[Array, Array]:
    """``I = 1 / (2 pi) int_0^theta e(t) dt`` and ``E = int_0^w I dw``, ``cos theta = 1 - w``, 0 <= w <= 1, over
    ``exp(-(alpha^2 + beta^2) / 8)``.

    ``e(t) / (2 pi sin t)`` is the density of two inputs of unit variance at angle t, where their difference is alpha
    and their sum beta: with ``x = 1 - cos t``, ``e = exp(-alpha^2 / (4 x) - beta^2 / (4 (2 - x)))``,
    ``dt = dx / sqrt(x (2 - x))``. The second factor and the root of ``2 - x`` are what generates Laguerre's polynomials
    L_n of order -1/2 at ``beta^2 / 8``, in powers of x / 2; of the first, ``x = w y^2``, are needed the moments
    ``i_n = int_0^1 y^2n exp(-tau^2 / y^2) dy``, ``tau^2 = alpha^2 / (4 w)``, ``(2 n + 1) i_n = exp(-tau^2) - 2 tau^2
    i_(n-1)``: ``I = sqrt(w) / (sqrt(2) pi) sum L_n (w/2)^n i_n``, and of E stands ``i_n - i_(n+1)`` there, times w.
    Where a rounding of i_0 grows on the way up, ``(w/2)^n`` takes back more. Derived.
    """
    root = np.sqrt(w)
    tau = np.minimum(alpha * (0.5 / np.maximum(root, 1e-145)), 1e100)
    front = root / (math.sqrt(2) * math.pi) * np.exp(-(tau * tau - alpha * alpha / 8))
    tau = np.minimum(tau, FARTHEST)
    T2, half, z = tau * tau, w / 2, beta * beta / 8
    # L_n and i_n times n! (w/2)^n and exp(tau^2) / n!.
    before, now, moment = np.zeros_like(half + z), np.ones_like(half + z), edge(tau)
    total, less = 0 * now, 0 * now
    for a, b, c, d, count in _steps():
        after = c - d * (T2 * moment)
        total = total + now * moment
        less = less + count * now * after
        now, before = (a * half - z * half) * now - b * (half * half) * before, now
        moment = after
    return front * total, w * (front * (total - less))
