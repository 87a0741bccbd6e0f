"""Duals of ``|x|``, ``|x|^3``, ``x |x|`` and ``x^3 |x|``: what kinks at 0 leave in a kernel, without cancellation."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# E z^2, E z^4, E z^6 and E z^4, E z^6, E z^8: duals of two hinges of one parity at rho = 1, by hinge_parts' pairs.
WHOLE = ((1.0, 3.0, 15.0), (3.0, 15.0, 105.0))


@lru_cache(maxsize=128)
def moment_series(n: int, terms: int = 72) -> tuple[Fraction, ...]:
    """Of ``M_n(w) = sqrt(2)/pi w^(n + 1/2) sum_k m_k w^k``: M_0 is theta / pi where cos theta = 1 - w, and
    ``dM_n/dw = n^2 M_(n-1) / (2n - 1)``. All positive."""
    m, c = [], Fraction(1)
    for k in range(terms):
        m.append(c / (2 * k + 1))
        c *= Fraction(2 * k + 1, 4 * (k + 1))
    for j in range(1, n + 1):
        m = [own * Fraction(j * j, 2 * j - 1) / (j + k + Fraction(1, 2)) for k, own in enumerate(m)]
    return tuple(m)


@lru_cache(maxsize=128)
def moment_polynomial(n: int, degree: int) -> tuple[float, ...]:
    """The polynomial of this degree that is next to ``sqrt(2)/pi sum_k m_k w^k`` on [0, 1].

    Its Chebyshev series is cut, which the next singularity, w = 2, makes fall by 5.8 with each degree; in fractions, as
    powers have large coefficients of either sign.
    """
    m = moment_series(n)
    found = [Fraction(0)] * (degree + 1)
    for j in range(degree + 1):
        own = sum(2 * m[k] * math.comb(2 * k, k - j) / Fraction(4) ** k for k in range(j, len(m))) / (1 if j else 2)
        # T_j(2w - 1) = j sum_i (-1)^(j - i) (j + i - 1)! / (j - i)! 4^i / (2i)! w^i
        for i in range(j + 1):
            power = (
                Fraction(math.factorial(j + i - 1) * 4**i * j, math.factorial(j - i) * math.factorial(2 * i))
                if j
                else 1
            )
            found[i] += own * power * (-1) ** (j - i)
    scale = Fraction(math.sqrt(2) / math.pi)
    return tuple(float(scale * c) for c in found)


def moment(n: int, w: Array) -> Array:
    """M_n(w), 0 <= w <= 1."""
    total: Any = 0.0
    for c in reversed(moment_series(n)):
        total = total * w + float(c)
    found: Array = np.sqrt(2 * w) / np.pi * w**n * total
    return found


def hinge_parts(w: Array, parity: int) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """``f(1) - f`` and ``f'`` at rho = 1 - w of the three duals of two hinges of one parity, unit variances.

    ``E |u| |v|``, ``E |u| |v|^3``, ``E |u|^3 |v|^3`` (parity 0), or of ``u |u|`` and ``u^3 |u|`` (1); rho >= 0.
    With ``cos t = rho``, ``f'' = E g'' h''`` is ``2 / (pi sin t)`` of the first, ``12 sin t / pi`` of the second, and
    of the others ``f'`` or ``f''`` is a number times another of them. Integrals by M_n. Of Cho and Saul (2009), eqs.
    (4)-(6); derived.
    """
    m3 = moment(3, w)
    mixed = 3 / 4 * moment(2, w) * (1 - w) + 5 / 4 * m3  # sin t / pi, integrated twice
    bent = 4 * w - 2 * w * w + 6 * moment(2, w)
    cubic = w * (27 - w * (18 - 6 * w)) - 30 * m3
    if parity == 0:
        once = moment(1, w) * (1 - w) + 3 / 2 * moment(2, w)  # integrated once
        falls = w - 2 * moment(1, w), 3 * w - 12 * mixed, cubic
        return falls, (1 - 2 * moment(0, w), 3 - 12 * once, 27 - 9 * bent)
    m4 = moment(4, w)
    twice = 5 / 12 * m3 * (1 - w) + 35 / 48 * m4
    falls = bent, w * (24 - 12 * w) + 96 * twice, w * (240 - w * (216 - w * (96 - 24 * w))) + 210 * m4
    return falls, (4 * (1 - w + 2 * moment(1, w)), 24 * (1 - w) + 96 * mixed, 16 * (15 - cubic))
