"""The error function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...base.checks import finite
from ...base.libraries import erf
from .nonlinearity import Array, Correlation, Nonlinearity, registered, signed_defect

__all__ = ["Erf", "Sigmoid_like"]


@registered("erf")
@dataclass(frozen=True)
class Erf(Nonlinearity):
    """``a erf(b x) + c``.

    Parameters
    ----------
    a, b, c : float
        Output scale, input scale, output offset.

    Notes
    -----
    For a = b = 1, c = 0: ``k = (2/pi) asin(2 q12 / sqrt((1 + 2 q11)(1 + 2 q22)))``, ``kdot = (4/pi) / sqrt(S2)``,
    ``S2 = 1 + 2 (q11 + q22) + 4 (q11 q22 - q12^2)``. The scales are linear ops around it.

    Accuracy: docs/accuracy.md, row erf.

    References
    ----------
    Williams (1997), Computing with infinite networks, NeurIPS 9, eq. (11). The cancellation-free defect is derived in
    ``csrc/math/duals/erf.h``.
    """

    a: float = 1.0
    b: float = 1.0
    c: float = 0.0
    dual_name: ClassVar[str] = "erf"
    row_names: ClassVar[tuple[str, ...]] = ("h", "n", "t", "g", "over_g")
    cheap: ClassVar[bool] = True

    @property
    def affine(self) -> tuple[float, float, float]:
        return self.a, self.b, self.c

    def __post_init__(self) -> None:
        for name in ("a", "b", "c"):
            object.__setattr__(self, name, finite("Erf", name, getattr(self, name)))

    def phi(self, x: Any, xp: Any) -> Any:
        return erf(x, xp)

    def variance(self, q: Array, xp: Any = np) -> Array:
        return 2 / np.pi * _arc(q, xp)

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        x = _angle(q, xp)
        # Of a variance of 0 as of any small one, whose |rho'| is a quotient of these: |rho| sqrt(sin A2 / A2).
        h, g = (xp.where(x.angle == 0, 2.0**-60, xp.sqrt(own)) for own in (x.sine, x.angle))
        t = xp.where(x.large, x.half - x.n, 4 * q * x.n**2 / (x.n + x.half))
        return {
            "h": h,
            "n": x.n,
            "t": t,
            "g": g,
            "over_g": 1 / g,
        }

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        s1, s2, y1, y2 = x1.h**2, x2.h**2, x1.n**2, x2.n**2
        p = x1.h * x2.h
        sine = p * c.a  # of A12 = asin(|rho| sqrt(sin A1 sin A2)); |rho'| = A12 / sqrt(A1 A2)
        fall = p**2 * c.w * (2 - c.w)  # sin A1 sin A2 - sin^2 A12
        cosine = np.sqrt(fall + (y1 + y2 - y1 * y2))
        # Nearly linear: |rho'| = |rho| exp(-D), D the mean of log(A / sin A) less that of A12, a series without a
        # negative term in what z = sin^2 A loses.
        apart = s1 - s2
        z, less, cross = sine**2, apart**2 / 2 + fall, (apart * (s1 + s2) / 2) ** 2
        mean = z + less
        slope = 1 / 6 + 11 / 180 * (mean + z) + 191 / 5670 * (mean**2 + mean * z + z**2)
        curvature = 11 / 180 + 191 / 1890 * mean
        drop = -c.a * np.expm1(-(less * slope + cross * curvature))
        # Else close pairs from (A1 + A2) / 2 - A12, no difference of nearly equal numbers; and what is left is large.
        product, over, spread = x1.g * x2.g, x1.over_g * x2.over_g, (x1.g - x2.g) ** 2
        close = (c.w < 0.1) & (spread < product)
        c1, c2 = x1.n * x1.t + y1, x2.n * x2.t + y2  # cosines of A1, A2
        top = 2 * fall + (x1.t * x2.n - x1.n * x2.t) ** 2 / 2
        bottom = s1 * c2 + s2 * c1 + 2 * sine * cosine
        angle = np.arctan2(np.where(close, top, sine), np.where(close, bottom, cosine))
        w = np.maximum(np.where(close, angle - spread / 2, product - angle), 0) * over
        linear = np.maximum(s1, s2) < 0.01
        w, a = np.where(linear, c.w + drop, w), np.where(linear, c.a - drop, np.where(close, 1 - w, angle * over))
        least = np.finfo(cosine.dtype).smallest_subnormal  # of variances beyond the range no 0 / 0
        kdot = 4 / np.pi * (x1.n * x2.n + least) / (cosine + least)
        return signed_defect(c.near, w), np.where(c.near, a, -a), kdot

    def exact(self, q11: Any, q12: Any, q22: Any, mp: Any) -> tuple[Any, Any]:
        sine = 2 * q12 / mp.sqrt((1 + 2 * q11) * (1 + 2 * q22))
        S2 = 1 + 2 * (q11 + q22) + 4 * (q11 * q22 - q12 * q12)
        return 2 * mp.asin(sine) / mp.pi, 4 / (mp.pi * mp.sqrt(S2))


@registered("sigmoid_like")
@dataclass(frozen=True, init=False)
class Sigmoid_like(Erf):
    """``erf(x / 2.4020563531719796) / 2 + 1/2``, within 0.01 of the logistic function: see :class:`Erf`."""

    def __init__(self) -> None:
        super().__init__(0.5, 1 / 2.4020563531719796, 0.5)


@dataclass(frozen=True)
class _Angle:
    """``sin A = 2 q / (1 + 2 q)``, and what keeps its digits at any q."""

    large: Any
    sine: Array
    angle: Array
    n: Array  # 1 / sqrt(1 + 2 q)
    half: Array  # sqrt(1 + sin A); the cosine is n half


def _angle(q: Array, xp: Any) -> _Angle:
    y = 0.5 / (0.5 + q)
    n, large = xp.sqrt(y), q > 0.5
    sine = xp.where(large, 1 - y, 2 * q * y)
    half = xp.sqrt(1 + sine)
    return _Angle(large, sine, _arc(q, xp), n, half)


def _arc(q: Array, xp: Any) -> Array:
    """A itself: ``tan A = 2 q / sqrt(1 + 4 q)``."""
    q = xp.minimum(q, 1.7e308)  # of infinity 0 / 0 otherwise
    arc: Array = xp.arctan2(q, xp.sqrt(q + 0.25))
    return arc
