"""Duals made of numbers: of any function whose Hermite coefficients are known for the variance of each input, and of
any whose inputs share one variance. Bases of nonlinearities; compiled text: ``csrc/math/counted/``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .nonlinearity import Array, Correlation, Nonlinearity, defines_dual

__all__ = ["Curve", "Series"]

_LEAST = 1e-36  # variances below count as this: a ratio of two that vanish has a limit


def joined(minus: Array, plus: Array) -> Array:
    """The signed defect of ``1 - rho'`` and ``1 + rho'``."""
    minus = np.maximum(minus, 0)
    return np.where(minus > plus, -np.maximum(plus, 1e-37), minus)


def ends_of(near: Any, apart: Any, whole: Sequence[Any], fall: Sequence[Any]) -> tuple[Array, Array]:
    """``1 - rho'`` and ``1 + rho'``: of even and odd terms their sums at a = 1, and what these have lost at a = |rho|.

    ``apart``: what equal directions differ by.
    """
    left = [2 * whole[parity] - fall[parity] for parity in (0, 1)]  # p (1 + a^l)
    minus: Array = apart + fall[0] + np.where(near, fall[1], left[1])
    return minus, apart + left[0] + np.where(near, left[1], fall[1])


@defines_dual
@dataclass(frozen=True)
class Series(Nonlinearity):
    """Base: ``k = sum_l +- a_l(q11) a_l(q22) rho^l`` over the degrees l that a subclass names.

    With ``g_l = a_l / sqrt(V)``, ``V = sum +- a_l^2`` and ``p_l = +- g_l(q11) g_l(q22)``, exactly and without
    cancellation ``1 - rho' = sum p_l (1 - rho^l) + sum +- (g_l(q11) - g_l(q22))^2 / 2`` and
    ``kdot = e1 e2 sum l p_l rho^(l-1)``, ``e = sqrt(V / q)``. A finite sum is a kernel of its own: rho' = 1
    for equal inputs whatever it leaves out.
    """

    dual_name: ClassVar[str] = "series"
    counted: ClassVar[bool] = True

    @classmethod
    def names_of_rows(cls, n_params: int) -> tuple[str, ...]:
        return (*(f"g{k}" for k in range(n_params)), "e")

    @property
    def degrees(self) -> tuple[float, ...]:
        """The degrees: even ones in ascending order, then odd ones; -l where a term counts negatively, l > 0."""
        raise NotImplementedError

    def coefficients(self, q: Array, xp: Any = np) -> list[Array]:
        """``a_l(q)``, each with its weight, in the order of ``degrees``."""
        raise NotImplementedError

    @property
    def dual_params(self) -> tuple[float, ...]:
        return self.degrees

    def _length(self, a: list[Array], xp: Any) -> Any:
        """``sum +- a_l^2``."""
        total = xp.zeros_like(a[0])
        for order, own in zip(self.degrees, a, strict=True):
            total = total - own * own if order < 0 else total + own * own
        return total

    def variance(self, q: Array, xp: Any = np) -> Array:
        found: Array = self._length(self.coefficients(q, xp), xp)
        return found

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        q = xp.where(q < _LEAST, _LEAST, q)
        a = self.coefficients(q, xp)
        V = self._length(a, xp)
        s = xp.sqrt(V)
        blank = s == 0  # of a function that is 0, or a variance beyond the range: any unit vector will do
        found = {f"g{k}": xp.where(blank, float(k == 0), own / xp.where(blank, 1, s)) for k, own in enumerate(a)}
        return {**found, "e": s / xp.sqrt(q)}

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        near = c.near
        log = np.log1p(-np.minimum(c.w, 0.5))  # of a, where powers of a itself would have lost digits

        def power(order: int) -> Array:
            return np.where(c.w < 0.5, np.exp(order * log), c.a**order)

        apart: Any = 0
        whole, fall, value, slope = ([0 * c.w, 0 * c.w] for _ in range(4))  # of even and of odd terms
        for k, degree in enumerate(self.degrees):
            order, sign = int(abs(degree)), -1.0 if degree < 0 else 1.0
            g1, g2 = getattr(x1, f"g{k}"), getattr(x2, f"g{k}")
            p = sign * g1 * g2
            apart = apart + sign * (g1 - g2) ** 2 / 2
            whole[order % 2] = whole[order % 2] + p
            value[order % 2] = value[order % 2] + p * power(order)
            if order > 0:
                fall[order % 2] = fall[order % 2] + p * np.where(c.w < 0.5, -np.expm1(order * log), 1 - c.a**order)
                slope[order % 2] = slope[order % 2] + order * p * power(order - 1)
        v = joined(*ends_of(near, apart, whole, fall))
        rho = value[0] + np.where(near, value[1], -value[1])
        return v, rho, x1.e * x2.e * (slope[1] + np.where(near, slope[0], -slope[0]))


@defines_dual
@dataclass(frozen=True)
class Curve(Nonlinearity):
    """Base: all inputs have one variance q, so that rho' and kdot are functions of rho, the sum of two parts.

    Of each part, even and odd in rho, ``kdot q / V`` is a polynomial in ``s = sqrt(w)``, ``w = 1 - |rho|``; what it
    takes from rho' is the integral over w: ``c_j s^j`` gives ``2 c_j w s^j / (j + 2)``.
    """

    dual_name: ClassVar[str] = "curve"
    row_names: ClassVar[tuple[str, ...]] = ("e",)
    counted: ClassVar[bool] = True

    @property
    def odd_share(self) -> float:
        """What the odd part is of rho' at rho = 1, 0 to 1; 0 and 1 exactly of even and odd functions."""
        raise NotImplementedError

    @property
    def odd(self) -> tuple[float, ...]:
        """Coefficients of the odd part of ``kdot q / V`` (of the phi' of an odd part, an even function of rho)."""
        raise NotImplementedError

    @property
    def even(self) -> tuple[float, ...]:
        """Coefficients of the even part of phi, an odd function of rho, at |rho|."""
        raise NotImplementedError

    @property
    def dual_params(self) -> tuple[float, ...]:
        return (self.odd_share, float(len(self.odd)), *self.odd, *self.even)

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        q = xp.where(q < _LEAST, _LEAST, q)
        return {"e": xp.sqrt(self.variance(q, xp) / q)}

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        s = np.sqrt(c.w)

        def polynomial(coefficients: Any) -> Array:
            found = np.zeros_like(s)
            for own in reversed(coefficients):
                found = found * s + own
            return found

        odd, even = (c.w * polynomial([2 * own / (j + 2) for j, own in enumerate(of)]) for of in (self.odd, self.even))
        whole = 1 - self.odd_share
        minus = even + np.where(c.near, odd, 2 * self.odd_share - odd)
        plus = 2 * whole - even + np.where(c.near, 2 * self.odd_share - odd, odd)
        rho = whole - even + np.where(c.near, self.odd_share - odd, odd - self.odd_share)
        slope = polynomial(self.odd) + np.where(c.near, 1.0, -1.0) * polynomial(self.even)
        return joined(minus, plus), rho, x1.e * x2.e * slope
