"""Gaussian functions: a bell, and a wave within one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from ...base.checks import finite
from .nonlinearity import Array, Correlation, Nonlinearity, registered, signed_defect, unseen

__all__ = ["Gabor", "Gaussian"]


@registered("gaussian", 1.2, -0.8)
@dataclass(frozen=True)
class Gaussian(Nonlinearity):
    """``a exp(b x^2)``.

    Parameters
    ----------
    a, b : float
        Output scale, and what the squared input is multiplied by: negative, or so small that ``4 b q < 1`` for every
        variance q before it. ``E phi^2`` is infinite beyond, and a kernel function raises ValueError.

    Notes
    -----
    ``k = a^2 / D``, ``kdot = 4 a^2 b^2 q12 / D^3``, ``D^2 = (1 - 2 b q11)(1 - 2 b q22) - 4 b^2 q12^2``: integrals of
    exponentials of quadratic forms.

    Accuracy: docs/accuracy.md, row gaussian.

    References
    ----------
    The function is Neural Tangents' (Novak et al. 2020, arXiv:1912.02803). The cancellation-free defect is derived in
    ``csrc/math/duals/gaussian.h``.
    """

    a: float = 1.0
    b: float = -1.0
    dual_name: ClassVar[str] = "gaussian"
    row_names: ClassVar[tuple[str, ...]] = ("p", "less", "more", "f", "slope")
    positive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("a", "b"):
            object.__setattr__(self, name, finite("Gaussian", name, getattr(self, name)))

    @property
    def dual_params(self) -> tuple[float, ...]:
        return self.a, self.b

    @property
    def largest_variance(self) -> float:
        return 0.25 / self.b if self.b > 0 else math.inf

    def phi(self, x: Any, xp: Any) -> Any:
        return self.a * xp.exp(self.b * x**2)

    def variance(self, q: Array, xp: Any = np) -> Array:
        if self.b > 0 and not unseen(q) and (beyond := 4 * self.b * q >= 1).any():
            raise ValueError(
                f"[Gaussian] needs 4 b q < 1 for every variance q before it, given b = {self.b} and "
                f"q = {float(xp.max(xp.where(beyond, q, 0)))}"
            )
        found: Array = self.a**2 / xp.sqrt(1 - 4 * self.b * q)
        return found

    def mean(self, q: Array, xp: Any = np) -> Array:
        found: Array = self.a / xp.sqrt(1 - 2 * self.b * q)
        return found

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        x = _bell(-2 * self.b * q, xp)
        slope = abs(2 * self.a * self.b) * xp.sqrt(q) * (1 - 4 * self.b * q) ** -0.75
        return {"p": x.p, "less": x.less, "more": x.more, "f": x.f, "slope": slope}

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        g = _bells(c, x1, x2)
        kdot = x1.slope * x2.slope * c.a * g.rho**3
        return g.v, g.rho, np.where(c.near, kdot, -kdot)

    def exact(self, q11: Any, q12: Any, q22: Any, mp: Any) -> tuple[Any, Any]:
        a, b = mp.mpf(self.a), mp.mpf(self.b)
        D = mp.sqrt(1 - 2 * b * (q11 + q22) + 4 * b * b * (q11 * q22 - q12 * q12))
        return a * a / D, 4 * a * a * b * b * q12 / (D * D * D)


@registered("gabor")
@dataclass(frozen=True)
class Gabor(Nonlinearity):
    """``exp(-x^2) sin(x)``.

    Notes
    -----
    With ``s = q11 + q22``, ``p = q11 q22``, ``d = 4 (p - q12^2)``, ``D = 1 + 2 s + d``, ``E = exp(-(s + d) / (2 D))``:
    ``k = E sinh(q12 / D) / sqrt(D)``,
    ``kdot = E D^(-5/2) [(1 + 2 s + 4 (p + q12^2)) cosh(q12 / D) + 4 q12 (2 + 3 s + d) sinh(q12 / D)]``: integrals of
    exponentials of quadratic forms, of complex argument.

    Accuracy: docs/accuracy.md, row gabor.

    References
    ----------
    The function is Neural Tangents' (Novak et al. 2020, arXiv:1912.02803). The cancellation-free defect is derived in
    ``csrc/math/duals/gaussian.h``.
    """

    dual_name: ClassVar[str] = "gabor"
    row_names: ClassVar[tuple[str, ...]] = ("p", "less", "f", "y", "over_c", "first", "second")

    def phi(self, x: Any, xp: Any) -> Any:
        return xp.exp(-(x**2)) * xp.sin(x)

    def variance(self, q: Array, xp: Any = np) -> Array:
        found: Array = -xp.expm1(-2 * q / (1 + 4 * q)) / (2 * xp.sqrt(1 + 4 * q))
        return found

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        x, y = _bell(2 * q, xp), q / (1 + 4 * q)
        first = (1 + 4 * q) ** -0.75 * xp.exp(-y / 2)
        second = first * x.p / x.f
        over_c = _sinhc(y * y) ** -0.5
        return {"p": x.p, "less": x.less, "f": x.f, "y": y, "over_c": over_c, "first": first, "second": second}

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        g = _bells(c, x1, x2)
        rho2 = g.rho**2
        # rho' = rho rho_G^3 exp(-H) C(y) / sqrt(C(y1) C(y2)), C(y) = sinh(y) / y, y = |rho| rho_G^2 sqrt(y1 y2)
        H = g.step**2 * g.over * ((1 - 2 * x1.y) * (1 - 2 * x2.y) / 4) + g.share * (1 - (x1.y + x2.y)) / 2
        z, lost = x1.y * x2.y, c.w * (2 - c.w) + c.a**2 * g.defect4  # 1 - rho^2 rho_G^4
        yy = z * (c.a * rho2) ** 2
        C, over_C = _sinhc(yy), x1.over_c * x2.over_c
        excess = (x1.y - x2.y) ** 2 * _spread(x1.y, x2.y) + z * lost * _slope(z, yy) * (_sinhc(z) + C)
        factors = (g.v, g.v, g.v, -np.expm1(-H), excess * over_C**2 / (1 + C * over_C))  # less than 1 by these
        v = c.w
        for f in factors:
            v = v + f * (1 - v)
        rho = c.a * g.rho**3 * np.exp(-H) * (C * over_C)
        cosh = 1 + yy / 2 * _sinhc(yy / 4) ** 2
        tilt = g.share + (1.5 * g.U + 0.5 * x1.less * x2.less) * g.over
        curved = (1 + c.a**2) * cosh + c.a**2 * tilt * C
        kdot = x1.first * x2.first * (g.U * g.over) * cosh + x1.second * x2.second * rho2 * curved
        return signed_defect(c.near, v), np.where(c.near, rho, -rho), g.rho**3 * np.exp(-H) * kdot

    def exact(self, q11: Any, q12: Any, q22: Any, mp: Any) -> tuple[Any, Any]:
        s, p = q11 + q22, q11 * q22
        d = 4 * (p - q12 * q12)
        D = 1 + 2 * s + d
        E, y, root = mp.exp(-(s + d) / (2 * D)), q12 / D, mp.sqrt(D)
        ends = (1 + 2 * s + 4 * (p + q12 * q12)) * mp.cosh(y) + 4 * q12 * (2 + 3 * s + d) * mp.sinh(y)
        return E * mp.sinh(y) / root, E * ends / (D * D * root)


def _bell(x: Array, xp: Any) -> Any:
    """Of ``x = -2 b q > -1/2``: ``p = x / (1 + x)``, 1 - p, 1 + p, ``f = sqrt(1 - p^2)``, each to its last digits."""
    less = 1 / (1 + x)
    more = (1 + 2 * x) * less
    return SimpleNamespace(p=x * less, less=less, more=more, f=xp.sqrt(more * less))


def _bells(c: Correlation, x1: Any, x2: Any) -> Any:
    """``rho_G`` of two Gaussian functions and its defect.

    ``rho_G^2 = f1 f2 / B``, ``B = 1 - p1 p2 rho^2 = U + p1 p2 sin^2``, ``U = 1 - p1 p2``, and
    ``1 - rho_G^4 = [(p1 - p2)^2 + p1 p2 sin^2 (U + B)] / B^2``.
    """
    more1, more2 = getattr(x1, "more", 2 - x1.less), getattr(x2, "more", 2 - x2.less)
    U = (x1.less * more2 + x2.less * more1) / 2
    both = x1.p + x2.p
    step = np.where(both < 1, np.where(both > -1, x1.p - x2.p, more1 - more2), x2.less - x1.less)
    lost = x1.p * x2.p * (c.w * (2 - c.w))
    B = U + lost
    share = lost / B
    defect4 = (step / B) ** 2 + share * ((U + B) / B)
    rho2 = x1.f * x2.f / B
    rho = np.sqrt(rho2)
    v = defect4 / ((1 + rho2) * (1 + rho))
    rho = np.where(v < 0.25, 1 - v, rho)
    return SimpleNamespace(U=U, step=step, over=1 / B, share=share, defect4=defect4, rho=rho, v=v)


def _sinhc(z: Array) -> Array:
    """``sinh(y) / y`` of ``z = y^2 <= 1/16``."""
    found = z * 0 + 1
    for k in range(14, 0, -2):
        found = 1 + z / (k * (k + 1)) * found
    return found


def _slope(z: Array, u: Array) -> Any:
    """``(C(sqrt z) - C(sqrt u)) / (z - u)`` of C(y) = sinh(y) / y, for z and u up to 1/16."""
    found: Any = 0
    power: Any = 1
    both: Any = 1
    for k in range(1, 9):
        found = found + both / math.factorial(2 * k + 1)
        power = power * u
        both = both * z + power
    return found


def _spread(y1: Array, y2: Array) -> Any:
    """``(C(y1) C(y2) - C(sqrt(y1 y2))^2) / (y1 - y2)^2`` of C(y) = sinh(y) / y, for y up to 1/4.

    ``2 y1 y2`` times the numerator is ``cosh(y1 + y2) - cosh(2 sqrt(y1 y2)) - cosh(y1 - y2) + 1``.
    """
    P, z4, d = (y1 + y2) ** 2, 4 * y1 * y2, (y1 - y2) ** 2
    found: Any = 0
    term: Any = 0
    power: Any = 1
    other: Any = 1
    for k in range(2, 10):
        term = P * term + 4 * (power + other)
        power, other = power * z4, other * d
        found = found + term / (2 * math.factorial(2 * k))
    return found
