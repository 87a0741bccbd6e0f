"""The Gaussian error linear unit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...base.libraries import erf
from .nonlinearity import Array, Correlation, Nonlinearity, registered, signed_defect

__all__ = ["Gelu"]


@registered("gelu")
@dataclass(frozen=True)
class Gelu(Nonlinearity):
    """``x Phi(x)``, Phi the standard normal distribution function.

    Parameters
    ----------
    approximate : bool
        Of the finite network alone: ``x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`` instead. Kernels are those of
        ``x Phi(x)`` with either.

    Notes
    -----
    With ``P = (1 + q11)(1 + q22)``, ``D = sqrt(P - q12^2)`` and ``angle = pi / 2 + asin(q12 / sqrt(P))``:
    ``2 pi k = q12 angle + (q12^2 + q11 q22 D^2) / (P D)``,
    ``2 pi kdot = angle + (q12 / D) (1 / D^2 + (1 - q11 q22) / P + 1)``.

    Accuracy: docs/accuracy.md, row gelu.

    References
    ----------
    Hendrycks and Gimpel (2016), Gaussian error linear units, arXiv:1606.08415; k: Tsuchida et al. (2021), Avoiding
    kernel fixed points, AAAI 35, arXiv:2002.08517. The cancellation-free defect is derived in
    ``csrc/math/duals/gelu.h``.
    """

    approximate: bool = False
    dual_name: ClassVar[str] = "gelu"
    row_names: ClassVar[tuple[str, ...]] = ("h", "n", "t", "half_angle", "gain", "over_g")

    @property
    def dual_params(self) -> tuple[float, ...]:
        return ()

    def phi(self, x: Any, xp: Any) -> Any:
        if self.approximate:
            return 0.5 * x * (1 + xp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return 0.5 * x * (1 + erf(math.sqrt(0.5) * x, xp))

    def variance(self, q: Array, xp: Any = np) -> Array:
        return q * (0.25 + _rest(q, xp))

    def mean(self, q: Array, xp: Any = np) -> Array:
        found: Array = q / xp.sqrt(2 * math.pi * (1 + q))
        return found

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        y, C, rest = 1 / (1 + q), xp.sqrt(1 + 2 * q), _rest(q, xp)
        n, g = xp.sqrt(y / 2), xp.sqrt(0.25 + rest)
        return {
            "h": xp.sqrt(q * y),
            "n": n,
            "t": n * (2 * q / (1 + C)),
            "half_angle": xp.arctan2(q, C) / 2,
            "gain": math.sqrt(math.pi) * rest / (0.5 + g),
            "over_g": math.sqrt(0.5 / math.pi) / g,
        }

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        # Names are those of csrc/math/duals/gelu.h; nn = sqrt(y1 y2).
        nn, u1, u2 = 2 * x1.n * x2.n, x1.n * x2.t, x2.n * x1.t
        cosM, cosD, sinM = u1 + u2 + x1.t * x2.t, u1 + u2 + x1.t * x2.t + nn, u1 + u2 + nn
        sinM2, sinD2 = sinM**2, (u1 - u2) ** 2
        cos0, sin0 = np.sqrt(sinM2 + sinD2), x1.h * x2.h  # of A12
        y, yy = cos0**2 + nn**2, nn**2  # y1 + y2, y1 y2
        S = sin0 * c.w * (2 - c.w)
        cosine = np.sqrt(cos0**2 + sin0 * S)  # of B
        # What differing variances cost.
        beside = cos0 * cosM + sin0 * sinM
        sinX = sinD2 / np.maximum(beside, 1e-37)
        lens = _angle_minus_sine(2 * np.arcsin(sinX)) / 2  # X - sin X cos X
        sides = 2 * sinM * sinX * (sinD2 + (sinM2 - sinD2) * cos0**2) / (beside + nn * cos0)
        apart = lens + (sides + nn * (sinM * sinX + sinD2 * sin0) / cos0) / (cosM + cosD)
        # What the angle between the inputs costs.
        A12 = x1.half_angle + x2.half_angle - (lens + sinX * (sin0 * cosM + cos0 * sinM))
        H = np.arctan(S / ((cosine + c.a * cos0) * (1 + cos0 * cosine + c.a * sin0**2)))
        B = A12 - 2 * H
        ends = yy / (cosine * cos0)
        fall = (A12 - H) * c.w + S / (cosine + cos0) * (ends + y - _one_minus_cot(H))
        even = c.a * B + sin0 * (c.a**2 * yy / cosine + cosine)
        scale, gains = x1.over_g * x2.over_g, 2 * x1.gain * x2.gain + np.sqrt(np.pi) * (x1.gain + x2.gain)
        above = scale * np.maximum(np.pi / 2 * c.w + (apart + fall) - (x1.gain - x2.gain) ** 2, 0)  # 1 - rho'
        below = scale * (np.pi / 2 * c.w + (even + gains))  # 1 + rho', where rho < 0
        rho = scale * (np.where(c.near, c.a, -c.a) * np.pi / 2 + even)
        slope = (B + c.a * sin0 / cosine * (yy / cosine**2 + y)) / (2 * np.pi)
        negative = ~c.near & (rho < 0)
        v = np.where(c.near, above, np.where(negative, below, 1 - rho))
        return signed_defect(~negative, v), rho, np.where(c.near, 0.25 + slope, 0.25 - slope)

    def exact(self, q11: Any, q12: Any, q22: Any, mp: Any) -> tuple[Any, Any]:
        P, p = (1 + q11) * (1 + q22), q11 * q22
        D2 = 1 + q11 + q22 + (p - q12 * q12)
        D = mp.sqrt(D2)
        angle = mp.pi / 2 + mp.asin(q12 / mp.sqrt(P))
        k = q12 * angle + (q12 * q12 + p * D2) / (P * D)
        return k / (2 * mp.pi), (angle + q12 / D * (1 / D2 + (1 - p) / P + 1)) / (2 * mp.pi)


def _rest(q: Array, xp: Any) -> Array:
    """``V / q - 1/4``."""
    C = xp.sqrt(1 + 2 * q)
    found: Array = (xp.arctan2(q, C) + 2 * q / ((1 + q) * C)) / (2 * math.pi)
    return found


def _one_minus_cot(h: Array) -> Array:
    """``1 - h cot h`` for h in [0, pi/4], by Lambert's continued fraction of the tangent."""
    z, bottom = h * h, np.full_like(h, 21.0)
    for odd in range(19, 1, -2):
        bottom = odd - z / bottom
    return z / bottom


def _angle_minus_sine(t: Array) -> Array:
    """``t - sin t`` for t in [0, pi/2], by its series."""
    z, found = t * t, np.ones_like(t)
    for k in range(22, 2, -2):
        found = 1 - z / (k * (k + 1)) * found
    return t * z / 6 * found
