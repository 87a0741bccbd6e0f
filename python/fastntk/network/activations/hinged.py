"""Short series of functions with a kink at 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from ..hinges import WHOLE, hinge_parts, moment_polynomial
from ..short_series import PAIRS, Fit
from .nonlinearity import Array, Correlation, Nonlinearity, defines_dual, signed_defect
from .series import ends_of


@lru_cache(maxsize=2)
def _arcs(count: int) -> tuple[float, ...]:
    """Polynomials of the closed forms, M_0 and on, for float32 and for float64 each."""
    return tuple(c for n in range(count) for degree in (7, 17) for c in moment_polynomial(n, degree))


class OfFit(Nonlinearity):
    """What all that stand for a layer by a fitted series have in common."""

    layer: Nonlinearity
    own: Fit
    loses: bool  # in float32 the digits that are owed

    @property
    def rough(self) -> bool:
        return self.loses

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
    loses: bool = False
    dual_name: ClassVar[str] = "hinged"
    counted: ClassVar[bool] = True
    orders: ClassVar[int] = 1  # hinges of each parity

    @classmethod
    def names_of_rows(cls, n_params: int) -> tuple[str, ...]:
        pairs = 2 * cls.orders - 1
        terms = (n_params - len(_arcs(pairs + 2))) // (1 + pairs)
        return (*(f"g{k}" for k in range(terms + 2 * cls.orders)), "e")

    @property
    def dual_params(self) -> tuple[float, ...]:
        pairs = 2 * self.orders - 1
        parts = (part[k] for k in range(pairs) for part in self.own.parts)
        return (*self.signed_degrees, *parts, *_arcs(pairs + 2))

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        g, hinges, e = self.own.rows(q, xp)
        return {**{f"g{k}": row for k, row in enumerate((*g, *hinges[0], *hinges[1]))}, "e": e}

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        log = np.log1p(-np.minimum(c.w, 1))  # of a; -inf at a = 0
        pairs, terms = PAIRS[: 2 * self.orders - 1], len(self.own.degrees)
        products: list[list[Any]] = []  # of the hinges' rows, by parity
        steps: list[list[Any]] = []  # of their differences
        whole, fall, slope = ([], [], [])  # of even and of odd terms
        apart: Any = 0
        for parity in (0, 1):
            names = [f"g{terms + parity * self.orders + order}" for order in range(self.orders)]  # behind the terms'
            h1, h2 = ([getattr(x, name) for name in names] for x in (x1, x2))
            products.append([h1[i] * h2[j] + (h1[j] * h2[i] if i < j else 0) for i, j in pairs])
            steps.append([(1 + (i < j)) * (h1[i] - h2[i]) * (h1[j] - h2[j]) for i, j in pairs])
            falls, slopes = hinge_parts(c.w, parity)
            whole.append(sum(own * p for own, p in zip(WHOLE[parity], products[parity], strict=False)))
            fall.append(sum(own * p for own, p in zip(falls, products[parity], strict=False)))
            slope.append(sum(own * p for own, p in zip(slopes, products[parity], strict=False)))
            apart = apart + sum(own * p for own, p in zip(self.own.left(parity), steps[parity], strict=True)) / 2
        for k, (degree, sign, part) in enumerate(zip(self.own.degrees, self.own.signs, self.own.parts, strict=True)):
            g1, g2, parity = getattr(x1, f"g{k}"), getattr(x2, f"g{k}"), degree % 2
            p = sign * g1 * g2 - sum(own * h for own, h in zip(part, products[parity], strict=True))
            apart = apart + sign * (g1 - g2) ** 2 / 2
            whole[parity] = whole[parity] + p
            if degree:
                fall[parity] = fall[parity] - p * np.expm1(degree * log)
                power = 1.0 if degree == 1 else c.a if degree == 2 else np.exp((degree - 1) * log)
                slope[parity] = slope[parity] + degree * p * power
        apart = np.maximum(apart, 0)
        minus, plus = ends_of(c.near, apart, whole, fall)
        minus = np.maximum(minus, 0)
        v = np.where(minus > plus, signed_defect(np.asarray(False), plus), minus)
        rho = np.where(minus > plus, plus - 1, 1 - minus)
        return v, rho, x1.e * x2.e * (slope[1] + np.where(c.near, slope[0], -slope[0]))


@defines_dual
@dataclass(frozen=True)
class HingedTwice(Hinged):
    """The same with two hinges of each parity: of ``|x|^3`` and ``x^3 |x|`` too, for what the first two leave."""

    dual_name: ClassVar[str] = "hinged_twice"
    orders: ClassVar[int] = 2
