"""Powers, rectified powers, polynomials, and the sign: maps of the correlation, or finite Hermite series."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from ...base.checks import finite, integer
from ..hinges import moment, moment_polynomial
from ..program import Builder, Value, Values
from .nonlinearity import Array, Correlation, Nonlinearity, registered, signed_defect, within
from .series import Series

__all__ = ["Hermite", "Monomial", "Polynomial", "RectifiedMonomial", "Sign"]

_MOST = 100  # degrees up to this have factors that are floats, and variances of which some are


def _degree(name: str, degree: Any) -> int:
    found = integer(name, "degree", degree, 0)
    if found > _MOST:
        raise ValueError(f"[{name}] degree must be at most {_MOST}, given {degree}: variances are powers of that order")
    return found


def _odd_factorial(n: int) -> int:
    """(2n - 1)!!, 1 for n = 0."""
    return math.prod(range(1, 2 * n, 2))


@lru_cache(maxsize=128)
def _shares(d: int) -> tuple[float, ...]:
    """C_l, l = 0 .. d, of ``E u^d v^d / E u^2d = sum_l C_l rho^l`` for unit variances: not negative, of sum 1."""
    found = [Fraction(0)] * (d + 1)
    for i in range(d // 2 + 1):
        order = d - 2 * i
        found[order] = Fraction(math.factorial(d), 2**i * math.factorial(i)) ** 2 / math.factorial(order)
    return tuple(float(c / sum(found)) for c in found)


def _left(shares: Sequence[float]) -> tuple[float, ...]:
    """Of ``1 - sum_l C_l a^l = w sum_j a^j c_j``, ``w = 1 - a``: c_j is the sum of C_l over l > j."""
    return tuple(math.fsum(shares[j + 1 :]) for j in range(len(shares) - 1))


_LARGEST = 1e300  # variances behind a layer


def _largest(factor: float, degree: int) -> float:
    """The variance q up to which ``factor q^degree`` is a number with room."""
    return math.inf if degree == 0 or factor == 0 else float((_LARGEST / factor) ** (1 / degree))


_POWERS = "its power is no number of float64"


def _horner(x: Array, coefficients: Sequence[float]) -> Array:
    found = np.zeros_like(x)
    for c in reversed(coefficients):
        found = found * x + c
    return found


@registered("monomial", 2)
@dataclass(frozen=True)
class Monomial(Nonlinearity):
    """``x^degree``.

    Parameters
    ----------
    degree : int
        From 0 to 100. (Neural Tangents has those up to 5.)

    Notes
    -----
    ``k = r^d (2d - 1)!! sum_l C_l rho^l`` with ``C_l`` proportional to ``(d! / (2^i i!))^2 / l!``, ``l = d - 2i``,
    ``r = sqrt(q11 q22)``; ``kdot = d^2 k_(d-1)``. Variances go to the power of ``degree``: in deep networks they leave
    the range of numbers, which is an error that names the layer.

    References
    ----------
    Daniely, Frostig and Singer (2016), arXiv:1602.05897, section 8 (duals as power series of rho).
    """

    degree: int
    dual_name: ClassVar[str] = "monomial"
    row_names: ClassVar[tuple[str, ...]] = ("e",)
    counted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "degree", _degree(type(self).__name__, self.degree))

    @property
    def shares(self) -> tuple[float, ...]:
        """C_l of ``rho' = sum_l C_l rho^l``."""
        return _shares(self.degree)

    @property
    def slope_shares(self) -> tuple[float, ...]:
        """C_l of ``kdot / (e1 e2)``."""
        return _shares(self.degree - 1) if self.degree else ()

    @property
    def dual_params(self) -> tuple[float, ...]:
        return (float(self.degree % 2), *_left(self.shares), *self.slope_shares)

    def phi(self, x: Any, xp: Any) -> Any:
        return x**self.degree

    @property
    def largest_variance(self) -> float:
        return _largest(self._factor, self.degree)

    @property
    def _factor(self) -> float:
        return float(_odd_factorial(self.degree))

    def variance(self, q: Array, xp: Any = np) -> Array:
        return self._factor * within(self, q, _POWERS) ** self.degree

    def mean(self, q: Array, xp: Any = np) -> Array:
        half = self.degree // 2
        return xp.zeros_like(q) if self.degree % 2 else float(_odd_factorial(half)) * q**half

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        d = self.degree
        return {"e": d * math.sqrt(_odd_factorial(d - 1)) * xp.sqrt(q) ** (d - 1) if d else xp.zeros_like(q)}

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        odd = self.degree % 2 == 1
        fall = c.w * _horner(c.a, _left(self.shares))
        rho, slope = _horner(c.a, self.shares), x1.e * x2.e * _horner(c.a, self.slope_shares)
        if odd:
            return signed_defect(c.near, fall), np.where(c.near, rho, -rho), slope
        return fall, rho, np.where(c.near, slope, -slope)

    def exact(self, q11: Any, q12: Any, q22: Any, mp: Any) -> tuple[Any, Any]:
        def k(d: int) -> Any:
            total = 0 * q12
            for i in range(d // 2 + 1):
                order = d - 2 * i
                own = (mp.factorial(d) / (mp.mpf(2) ** i * mp.factorial(i))) ** 2 / mp.factorial(order)
                total = total + own * (q11 * q22) ** i * q12**order
            return total

        return k(self.degree), (self.degree**2 * k(self.degree - 1) if self.degree else 0 * q12)


@dataclass(frozen=True)
class Hermite(Monomial):
    """The Hermite polynomial of this degree, of mean square 1 for inputs of variance 1, which it is meant for.

    Parameters
    ----------
    degree : int
        From 0 to 100.

    Notes
    -----
    ``k = q12^degree``, ``kdot = degree q12^(degree - 1)``, whatever the variances, as Neural Tangents has it: right
    where they are 1. :class:`Polynomial` with the same coefficients is right for all.

    References
    ----------
    O'Donnell (2014), Analysis of Boolean functions, proposition 11.31.
    """

    @property
    def shares(self) -> tuple[float, ...]:
        return (*(0.0,) * self.degree, 1.0)

    @property
    def slope_shares(self) -> tuple[float, ...]:
        return (*(0.0,) * (self.degree - 1), 1.0) if self.degree else ()

    def phi(self, x: Any, xp: Any) -> Any:
        before, own = xp.zeros_like(x), xp.ones_like(x)
        for order in range(1, self.degree + 1):  # normalised: sqrt(l) h_l = x h_(l-1) - sqrt(l - 1) h_(l-2)
            before, own = own, (x * own - math.sqrt(order - 1) * before) / math.sqrt(order)
        return own

    @property
    def _factor(self) -> float:
        return 1.0

    def mean(self, q: Array, xp: Any = np) -> Array:
        found: Array = xp.zeros_like(q) if self.degree else xp.ones_like(q)
        return found

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        n = self.degree
        return {"e": math.sqrt(n) * xp.sqrt(q) ** (n - 1) if n else xp.zeros_like(q)}

    def exact(self, q11: Any, q12: Any, q22: Any, mp: Any) -> tuple[Any, Any]:
        n = self.degree
        return q12**n, (n * q12 ** (n - 1) if n else 0 * q12)

    def lower(self, builder: Builder, values: Values) -> Value:
        warnings.warn(
            f"[{builder.where}] counts on inputs of variance 1: its kernel is q12^degree; Polynomial is right for any",
            stacklevel=2,
        )
        return super().lower(builder, values)


# ---------------------------------------------------------------- rectified powers


@lru_cache(maxsize=128)
@registered("rectified_monomial", 2)
@dataclass(frozen=True)
class RectifiedMonomial(Nonlinearity):
    """``x^degree`` where x >= 0, else 0; degree 0 is the step function.

    Parameters
    ----------
    degree : int
        From 0 to 100.

    Notes
    -----
    ``k = r^n J_n(theta) / (2 pi)``, the arc-cosine kernel of degree n; ``kdot = n^2 k_(n-1)``, and 0 for n = 0, as
    Neural Tangents has it: the step has no derivative to train through. Inputs of variance 0 count as the limit: the
    step has ``k = 1/2`` there.

    References
    ----------
    Cho and Saul (2009), Kernel methods for deep learning, NeurIPS 22, eqs. (3)-(6). The defect is derived in
    ``csrc/math/counted/monomials.h``.
    """

    degree: int
    dual_name: ClassVar[str] = "rectified_monomial"
    row_names: ClassVar[tuple[str, ...]] = ("e",)
    positive: ClassVar[bool] = True
    counted: ClassVar[bool] = True

    @property
    def jumps(self) -> bool:  # type: ignore[override]
        return self.degree == 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "degree", _degree("RectifiedMonomial", self.degree))

    @property
    def dual_params(self) -> tuple[float, ...]:
        n = self.degree
        fits = [c for m in (n, max(n - 1, 0)) for degree in (7, 17) for c in moment_polynomial(m, degree)]
        return (float(n), *_left(_shares(n)), *(_shares(n - 1) if n else ()), *fits)

    def phi(self, x: Any, xp: Any) -> Any:
        return xp.where(x >= 0, x**self.degree, xp.zeros_like(x))

    @property
    def largest_variance(self) -> float:
        return _largest(_odd_factorial(self.degree) / 2, self.degree)

    def variance(self, q: Array, xp: Any = np) -> Array:
        return _odd_factorial(self.degree) / 2 * within(self, q, _POWERS) ** self.degree

    def mean(self, q: Array, xp: Any = np) -> Array:
        n = self.degree
        found: Array = 2 ** (n / 2 - 1) * math.gamma((n + 1) / 2) / math.sqrt(math.pi) * xp.sqrt(q) ** n
        return found

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        n = self.degree
        return {"e": n * math.sqrt(_odd_factorial(n - 1) / 2) * xp.sqrt(q) ** (n - 1) if n else xp.zeros_like(q)}

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        n, sign = self.degree, (-1) ** self.degree

        far = moment(n, c.w)  # what is left of rho' below rho = 0
        v = np.where(c.near, c.w * _horner(c.a, _left(_shares(n))) + sign * far, 1 - far)
        rho = np.where(c.near, _horner(c.a, _shares(n)) - sign * far, far)
        if n == 0:
            return v, rho, 0 * v
        low = moment(n - 1, c.w)
        slope = np.where(c.near, _horner(c.a, _shares(n - 1)) + sign * low, low)
        return v, rho, x1.e * x2.e * slope

    def exact(self, q11: Any, q12: Any, q22: Any, mp: Any) -> tuple[Any, Any]:
        s1, s2 = mp.sqrt(q11), mp.sqrt(q22)
        rho = q12 / mp.sqrt(q11 * q22)
        root = s1 * s2 * mp.sqrt((1 - rho) * (1 + rho))
        angle = mp.atan2(root, -q12)  # pi - theta

        def edge(n: int, s: Any) -> Any:  # E delta(u) max(v, 0)^n, where u has deviation s
            half = mp.gamma(mp.mpf(n + 1) / 2) / mp.gamma(mp.mpf(1) / 2) * mp.mpf(2) ** (mp.mpf(n) / 2 - 1)
            return (root / s) ** n * half / (mp.sqrt(2 * mp.pi) * s)

        seen = {(0, 0): angle / (2 * mp.pi), (1, 1): (root + q12 * angle) / (2 * mp.pi)}

        def both(m: int, n: int) -> Any:  # E max(u, 0)^m max(v, 0)^n by Stein's identity, one power of u or v less
            if (m, n) not in seen:
                if m == 0:
                    below = q22 * (n - 1) * both(0, n - 2) if n > 1 else s2 / (2 * mp.sqrt(2 * mp.pi))
                    seen[m, n] = below + q12 * edge(n - 1, s1)
                elif n == 0:
                    below = q11 * (m - 1) * both(m - 2, 0) if m > 1 else s1 / (2 * mp.sqrt(2 * mp.pi))
                    seen[m, n] = below + q12 * edge(m - 1, s2)
                elif m > 1:
                    seen[m, n] = q11 * (m - 1) * both(m - 2, n) + q12 * n * both(m - 1, n - 1)
                else:
                    seen[m, n] = q22 * (n - 1) * both(m, n - 2) + q12 * m * both(m - 1, n - 1)
            return seen[m, n]

        n = self.degree
        return both(n, n), (n * n * both(n - 1, n - 1) if n else 0 * q12)


@registered("sign")
@dataclass(frozen=True)
class Sign(Nonlinearity):
    """``-1``, ``0`` or ``1``.

    Notes
    -----
    ``k = (2/pi) asin(rho)``; ``kdot = 0``, as Neural Tangents has it: the sign has no derivative to train through. An
    input of variance 0 has a sign of 0.

    References
    ----------
    Cho and Saul (2009), Kernel methods for deep learning, NeurIPS 22, eqs. (3)-(6), degree 0.
    """

    dual_name: ClassVar[str] = "sign"
    jumps: ClassVar[bool] = True

    def phi(self, x: Any, xp: Any) -> Any:
        return xp.sign(x)

    def variance(self, q: Array, xp: Any = np) -> Array:
        found: Array = xp.where(q > 0, 1.0, 0.0 * q)
        return found

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        v = signed_defect(c.near, 4 / np.pi * np.arctan2(np.sqrt(c.w), np.sqrt(2 - c.w)))
        rho = 2 / np.pi * np.arctan2(c.a, np.sqrt(c.w * (2 - c.w)))
        return v, np.where(c.near, rho, -rho), 0 * v

    def exact(self, q11: Any, q12: Any, q22: Any, mp: Any) -> tuple[Any, Any]:
        return 2 / mp.pi * mp.asin(q12 / mp.sqrt(q11 * q22)), 0 * q12


# ---------------------------------------------------------------- polynomials


@registered("polynomial", (0.3, 1.0, 0.4, -0.05))
@dataclass(frozen=True)
class Polynomial(Series):
    """A polynomial: ``coef[0] + coef[1] x`` and so on, up to ``coef[n] x^n``.

    Parameters
    ----------
    coef : sequence of float
        As for :class:`numpy.polynomial.Polynomial`; at most 101 of them.

    Notes
    -----
    ``k = sum_l a_l(q11) a_l(q22) rho^l``, ``kdot = sum_l l a_l(q11) a_l(q22) rho^(l-1) / r`` with the Hermite
    coefficients ``a_l(q) = sum_i coef[2i + l] (2i + l)! / (2^i i! sqrt(l!)) q^(i + l/2)``, ``r = sqrt(q11 q22)``: right
    down to variances of 0.

    References
    ----------
    Poole et al. (2016), arXiv:1606.05340 (Hermite series of duals); O'Donnell (2014), Analysis of Boolean functions,
    section 11.2.
    """

    coef: tuple[float, ...]

    def __post_init__(self) -> None:
        given: Any = self.coef
        try:
            values = list(given)
        except TypeError:
            raise TypeError(f"[Polynomial] coef must be a sequence of numbers, given {given!r}") from None
        if not 0 < len(values) <= _MOST + 1:
            raise ValueError(f"[Polynomial] coef must hold 1 to {_MOST + 1} numbers, given {len(values)}")
        object.__setattr__(self, "coef", tuple(finite("Polynomial", f"coef[{k}]", c) for k, c in enumerate(values)))

    @property
    def degrees(self) -> tuple[float, ...]:
        found: list[float] = []
        for parity in (0, 1):
            used = [order for order in range(parity, len(self.coef), 2) if self.coef[order] != 0]
            if used:
                found += range(parity, used[-1] + 1, 2)
        return tuple(float(order) for order in found) or (0.0,)

    @property
    def largest_variance(self) -> float:
        n = len(self.coef)
        return min(_largest((n * c) ** 2 * _odd_factorial(j), j) for j, c in enumerate(self.coef))

    def variance(self, q: Array, xp: Any = np) -> Array:
        return super().variance(within(self, q, _POWERS), xp)

    def phi(self, x: Any, xp: Any) -> Any:
        found = xp.zeros_like(x)
        for c in reversed(self.coef):
            found = found * x + c
        return found

    def coefficients(self, q: Array, xp: Any = np) -> list[Array]:
        found = []
        for order in (int(order) for order in self.degrees):
            own = [
                self.coef[j] * (math.factorial(j) / (2 ** ((j - order) // 2) * math.factorial((j - order) // 2)))
                for j in range(order, len(self.coef), 2)
            ]
            total = xp.zeros_like(q)
            for c in reversed(own):
                total = total * q + c / math.sqrt(math.factorial(order))
            found.append(total * xp.sqrt(q) ** order)
        return found

    def mean(self, q: Array, xp: Any = np) -> Array:
        return self.coefficients(q, xp)[0] if self.degrees[0] == 0 else xp.zeros_like(q)

    def exact(self, q11: Any, q12: Any, q22: Any, mp: Any) -> tuple[Any, Any]:
        def dual(coef: Sequence[Any]) -> Any:
            def part(order: int, q: Any) -> Any:
                total = 0 * q
                for i in range((len(coef) - 1 - order) // 2 + 1):
                    factor = mp.factorial(2 * i + order) / (mp.mpf(2) ** i * mp.factorial(i))
                    total = total + coef[2 * i + order] * factor * q**i
                return total

            total = 0 * q12
            for order in range(len(coef)):
                total = total + part(order, q11) * part(order, q22) / mp.factorial(order) * q12**order
            return total

        coef = [mp.mpf(c) for c in self.coef]
        return dual(coef), dual([k * c for k, c in enumerate(coef)][1:])
