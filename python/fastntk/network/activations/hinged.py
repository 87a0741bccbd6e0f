"""Short series of functions with a kink at 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from ..hinges import hinge_parts
from ..short_series import Fit
from .nonlinearity import Array, Correlation, Nonlinearity, defines_dual, signed_defect
from .polynomials import moment_polynomial

_WHOLE = (1.0, 3.0)  # E z^2, E z^4: duals of |z| and z |z| at rho = 1


@lru_cache(maxsize=1)
def _arcs() -> tuple[float, ...]:
    """Polynomials of the closed forms, for float32 and for float64 each."""
    return tuple(c for n in range(3) for degree in (7, 17) for c in moment_polynomial(n, degree))


class OfFit(Nonlinearity):
    """What all that stand for a layer by a fitted series have in common."""

    layer: Nonlinearity
    own: Fit

    @property
    def signed_degrees(self) -> tuple[float, ...]:
        """Of the terms, negative where a term counts negatively."""
        return tuple(float(sign * degree) for sign, degree in zip(self.own.signs, self.own.degrees, strict=True))

    def phi(self, x: Any, xp: Any) -> Any:
        return self.layer.phi(x, xp)

    def variance(self, q: Array, xp: Any = np) -> Array:
        found: Array = self.own.variance(q, xp)
        return found

    def mean(self, q: Array, xp: Any = np) -> Array:
        found: Array = self.own.mean(q, xp)
        return found


@defines_dual
@dataclass(frozen=True)
class Hinged(OfFit):
    """A short series, and in closed form what the kink adds: duals of ``|x|`` and ``x |x|`` (network/hinges.py).

    Of each term ``p_l = +- g_l g_l' - c_l h h'`` counts, h the hinge of its parity; and ``h h'`` times its dual.
    """

    layer: Nonlinearity
    own: Fit
    dual_name: ClassVar[str] = "hinged"
    counted: ClassVar[bool] = True

    @classmethod
    def names_of_rows(cls, n_params: int) -> tuple[str, ...]:
        return (*(f"g{k}" for k in range((n_params - len(_arcs())) // 2 + 2)), "e")

    @property
    def dual_params(self) -> tuple[float, ...]:
        return (*self.signed_degrees, *self.own.parts, *_arcs())

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        g, hinges, e = self.own.rows(q, xp)
        return {**{f"g{k}": row for k, row in enumerate((*g, *hinges))}, "e": e}

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        log = np.log1p(-np.minimum(c.w, 1))  # of a; -inf at a = 0
        names = [f"g{len(self.own.degrees) + parity}" for parity in (0, 1)]  # the hinges' rows, behind the terms'
        products = [getattr(x1, name) * getattr(x2, name) for name in names]
        steps = [(getattr(x1, name) - getattr(x2, name)) ** 2 for name in names]
        whole, fall, slope = ([], [], [])  # of even and of odd terms
        apart: Any = 0
        for parity in (0, 1):
            lost, steep = hinge_parts(c.w, parity)
            whole.append(_WHOLE[parity] * products[parity])
            fall.append(lost * products[parity])
            slope.append(steep * products[parity])
            apart = apart + _WHOLE[parity] * steps[parity] / 2
        for k, (degree, sign, part) in enumerate(zip(self.own.degrees, self.own.signs, self.own.parts, strict=True)):
            g1, g2, parity = getattr(x1, f"g{k}"), getattr(x2, f"g{k}"), degree % 2
            p = sign * g1 * g2 - part * products[parity]
            apart = apart + (sign * (g1 - g2) ** 2 - part * steps[parity]) / 2
            whole[parity] = whole[parity] + p
            if degree:
                fall[parity] = fall[parity] - p * np.expm1(degree * log)
                power = 1.0 if degree == 1 else c.a if degree == 2 else np.exp((degree - 1) * log)
                slope[parity] = slope[parity] + degree * p * power
        apart = np.maximum(apart, 0)
        left = [2 * whole[parity] - fall[parity] for parity in (0, 1)]  # p (1 + a^l)
        minus = np.maximum(apart + fall[0] + np.where(c.near, fall[1], left[1]), 0)
        plus = apart + left[0] + np.where(c.near, left[1], fall[1])
        v = np.where(minus > plus, signed_defect(np.asarray(False), plus), minus)
        rho = np.where(minus > plus, plus - 1, 1 - minus)
        return v, rho, x1.e * x2.e * (slope[1] + np.where(c.near, slope[0], -slope[0]))
