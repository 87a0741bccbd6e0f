"""Sines and cosines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from ...base.checks import finite
from ...base.jet import Jet
from .nonlinearity import Array, Correlation, Nonlinearity, defines_dual, registered, signed_defect, split

__all__ = ["Cos", "Sin"]

# log(sinh(x) / x) as a series in x^2.
_LOG_SINHC = (1 / 6, -1 / 180, 1 / 2835, -1 / 37800, 1 / 467775)


@dataclass(frozen=True)
class Wave(Nonlinearity):
    """``a (cos sin(b x) + sin cos(b x))`` of two given numbers ``cos`` and ``sin``, those of a phase.

    Its odd and its even part share no Hermite polynomial: their duals add up. With ``x_i = b^2 q_i``, ``E = exp(-x)``,
    ``z = sqrt(x)``, ``X = z1 z2``, ``d = 1 - exp(-(z1^2 + z2^2) / 2 + X |rho|)``, D likewise of ``-|rho|``, and
    ``P = d (2 - d) D (2 - D)``:

    - even: ``rho_e = (2 - d - D) / sqrt((1 + E1^2)(1 + E2^2))``, and ``1 - rho_e^2`` is ``P + (E1 - E2)^2`` over the
      same bottom: no negative term;
    - odd: ``rho_o = sinh(X |rho|) / sqrt(sinh x1 sinh x2)``. For small x it is ``|rho| exp(-M)`` with M the mean of
      ``L(x) = log(sinh(x) / x)`` less ``L(X |rho|)``, a series in ``x1 - x2``, ``X^2 (1 - rho^2)`` and ``x1 + x2``
      without cancellation; else ``1 - rho_o^2`` is ``P - (E1 - E2)^2`` over ``(1 - E1^2)(1 - E2^2)`` where P is small,
      and what is left is large.
    """

    a: float
    b: float
    cos: float = field(repr=False)
    sin: float = field(repr=False)
    dual_name: ClassVar[str] = "wave"
    row_names: ClassVar[tuple[str, ...]] = ("z", "z_low", "E", "E_low", "g", "h", "odd", "odd_low", "even", "even_low")

    def __post_init__(self) -> None:
        for name in ("a", "b"):
            object.__setattr__(self, name, finite(type(self).__name__, name, getattr(self, name)))

    @property
    def dual_params(self) -> tuple[float, ...]:
        return self.a, self.b, self.cos, self.sin

    def phi(self, x: Any, xp: Any) -> Any:
        return self.a * (self.cos * xp.sin(self.b * x) + self.sin * xp.cos(self.b * x))

    def variance(self, q: Array, xp: Any = np) -> Array:
        E2 = np.exp(-2 * self.b**2 * q)
        odd = -np.expm1(-2 * self.b**2 * q)
        return self.a**2 / 2 * (self.cos**2 * odd + self.sin**2 * (1 + E2))

    def mean(self, q: Array, xp: Any = np) -> Array:
        return self.a * self.sin * np.exp(-(self.b**2) * q / 2)

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        # A variance of 0 acts as any small one: |rho'| is a quotient of numbers that vanish with it.
        q = xp.where(self.b**2 * q == 0, 2.0**-120 / max(self.b**2, 2.0**-800), q)
        x = self.b**2 * q
        z, z_low = split(np.abs(self.b) * xp.sqrt(q))
        E = np.exp(-x)
        bottom_odd, bottom_even = -np.expm1(-2 * x), 1 + E**2
        odd, even = self.cos**2 * bottom_odd, self.sin**2 * bottom_even
        total = xp.where(odd + even > 0, odd + even, 1.0)
        found = {"z": z, "z_low": z_low}
        found["E"], found["E_low"] = split(E)
        found["g"] = 1 / xp.sqrt(xp.maximum(bottom_odd, 1e-307))
        found["h"] = 1 / xp.sqrt(bottom_even)
        found["odd"], found["odd_low"] = split(xp.sqrt(odd / total))
        found["even"], found["even_low"] = split(xp.sqrt(even / total))
        return found

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        z1, z2, odd1, odd2, even1, even2 = (
            getattr(x, name) + getattr(x, f"{name}_low") for name in ("z", "odd", "even") for x in (x1, x2)
        )
        z_step, E_step, odd_step, even_step = (
            (getattr(x1, name) - getattr(x2, name)) + (getattr(x1, f"{name}_low") - getattr(x2, f"{name}_low"))
            for name in ("z", "E", "odd", "even")
        )
        X = z1 * z2
        low = z_step**2 / 2 + X * c.w
        left = np.exp(-low)
        d, fall = -np.expm1(-low), -left * np.expm1(-2 * X * c.a)  # fall is D - d
        D, total = d + fall, 2 * left - fall
        P, g, h = d * (2 - d) * D * (2 - D), x1.g * x2.g, x1.h * x2.h

        rho_even = total * h
        even = (P + E_step**2) * h**2 / (1 + rho_even)

        sum_x, apart = z1**2 + z2**2, z_step * (z1 + z2)  # x1 - x2
        small = np.maximum(z1, z2) < 0.3
        less = np.where(small, apart**2 / 2 + X**2 * c.w * (2 - c.w), 0)
        across, least = np.where(small, (apart * sum_x / 2) ** 2, 0), np.where(small, (X * c.a) ** 2, 0)
        drop = -c.a * np.expm1(-_mean_less(least + less, less, least, across))
        rho_odd = np.where(small, c.a - drop, fall * g)
        direct = np.maximum(P - E_step**2, 0) * g**2 / (1 + rho_odd)
        odd = np.where(small, c.w + drop, np.where(P * g**2 < 0.25, direct, 1 - rho_odd))

        of_odd, of_even, shares = odd1 * odd2, even1 * even2, (odd_step**2 + even_step**2) / 2
        minus = of_odd * np.where(c.near, odd, 1 + rho_odd) + of_even * even + shares
        plus = of_odd * np.where(c.near, 1 + rho_odd, odd) + of_even * (1 + rho_even) + shares
        sign = np.where(c.near, 1.0, -1.0)
        rho = of_odd * sign * rho_odd + of_even * rho_even
        positive = rho >= 0
        v = signed_defect(positive, np.where(positive, minus, plus))
        rho = np.where(np.abs(rho) < 0.5, rho, np.where(positive, 1 - minus, plus - 1))
        kdot = self.cos**2 * total + self.sin**2 * sign * fall
        return v, rho, self.a**2 * self.b**2 / 2 * kdot

    def exact(self, q11: Any, q12: Any, q22: Any, mp: Any) -> tuple[Any, Any]:
        return self._exact(q11, q12, q22, mp, mp.mpf(self.cos), mp.mpf(self.sin))

    def _exact(self, q11: Any, q12: Any, q22: Any, mp: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
        a2, b2 = mp.mpf(self.a) ** 2, mp.mpf(self.b) ** 2
        c = mp.fabs(q12)
        near = mp.exp(b2 * (c - (q11 + q22) / 2))
        total, fall = near * (1 + mp.exp(-2 * b2 * c)), -mp.sign(q12) * near * mp.expm1(-2 * b2 * c)
        return a2 / 2 * (cos**2 * fall + sin**2 * total), a2 * b2 / 2 * (cos**2 * total + sin**2 * fall)


def _mean_less(M: Array, less: Array, least: Array, across: Array) -> Array:
    """``(L(y1) + L(y2)) / 2 - L(least)`` of ``M = (y1 + y2) / 2``, ``less = M - least``, ``((y1 - y2) / 2)^2``."""
    l1, l2, l3, l4, l5 = _LOG_SINHC
    N = least
    slope = l1 + l2 * (M + N) + l3 * (M**2 + M * N + N**2) + l4 * (M + N) * (M**2 + N**2)
    slope = slope + l5 * (M**4 + M**3 * N + M**2 * N**2 + M * N**3 + N**4)
    return less * slope + across * (l2 + 3 * l3 * M + l4 * (6 * M**2 + across) + 5 * l5 * M * (2 * M**2 + across))


def _turned(c: Any) -> tuple[Any, Any]:
    """Cosine and sine of a phase, as numbers of Python's: NumPy's would make float64 of float32."""
    found = np.cos(c), np.sin(c)
    return found if isinstance(c, Jet) else (float(found[0]), float(found[1]))


class _Part(Wave):
    """A wave whose other part is missing: fewer rows."""

    other: ClassVar[Mapping[str, float]]  # the rows that it has no need of

    @property
    def dual_params(self) -> tuple[float, ...]:
        return self.a, self.b

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        found = super().rows(q, xp)
        return {name: found[name] for name in self.row_names}

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        whole = (SimpleNamespace(**self.other, **{name: getattr(x, name) for name in self.row_names}) for x in (x1, x2))
        return super().pair(c, *whole)


@defines_dual
@dataclass(frozen=True, init=False)
class Sine(_Part):
    """``a sin(b x)``."""

    dual_name: ClassVar[str] = "sine"
    row_names: ClassVar[tuple[str, ...]] = ("z", "z_low", "E", "E_low", "g")
    other: ClassVar[Mapping[str, float]] = {"h": 1.0, "odd": 1.0, "odd_low": 0.0, "even": 0.0, "even_low": 0.0}
    mean = Nonlinearity.mean

    def __init__(self, a: float, b: float) -> None:
        super().__init__(a, b, 1.0, 0.0)


@defines_dual
@dataclass(frozen=True, init=False)
class Cosine(_Part):
    """``a cos(b x)``."""

    dual_name: ClassVar[str] = "cosine"
    row_names: ClassVar[tuple[str, ...]] = ("z", "z_low", "E", "E_low", "h")
    positive: ClassVar[bool] = True
    other: ClassVar[Mapping[str, float]] = {"g": 1.0, "odd": 0.0, "odd_low": 0.0, "even": 1.0, "even_low": 0.0}

    def __init__(self, a: float, b: float) -> None:
        super().__init__(a, b, 0.0, 1.0)


@registered("sin", 0.9, 1.3)
@dataclass(frozen=True, init=False)
class Sin(Wave):
    """``a sin(b x + c)``.

    Parameters
    ----------
    a, b, c : float
        Output scale, input scale, phase.

    Notes
    -----
    With ``E = exp(b^2 (+-q12 - (q11 + q22) / 2))`` for either sign ``k = a^2 (E+ - cos(2 c) E-) / 2``,
    ``kdot = a^2 b^2 (E+ + cos(2 c) E-) / 2``.

    Accuracy: docs/accuracy.md, row sin.

    References
    ----------
    The characteristic function of the normal distribution. The form without cancellation is derived in
    ``csrc/math/duals/periodic.h``.
    """

    c: float

    def __init__(self, a: float = 1.0, b: float = 1.0, c: float = 0.0) -> None:
        c = finite(type(self).__name__, "c", c)
        super().__init__(a, b, *_turned(c))
        object.__setattr__(self, "c", c)

    @property
    def bare(self) -> Nonlinearity:
        return Sine(self.a, self.b) if self.c == 0 else self

    def exact(self, q11: Any, q12: Any, q22: Any, mp: Any) -> tuple[Any, Any]:
        c = mp.mpf(self.c)
        return self._exact(q11, q12, q22, mp, mp.cos(c), mp.sin(c))


@registered("cos", 0.9, 1.3, 0.2)
@dataclass(frozen=True, init=False)
class Cos(Wave):
    """``a cos(b x + c)``: see :class:`Sin`, with a phase that is a quarter turn further.

    Parameters
    ----------
    a, b, c : float
        Output scale, input scale, phase.

    Notes
    -----
    Accuracy: docs/accuracy.md, row cos.
    """

    c: float

    def __init__(self, a: float = 1.0, b: float = 1.0, c: float = 0.0) -> None:
        c = finite(type(self).__name__, "c", c)
        cos, sin = _turned(c)
        super().__init__(a, b, -sin, cos)
        object.__setattr__(self, "c", c)

    @property
    def bare(self) -> Nonlinearity:
        return Cosine(self.a, self.b) if self.c == 0 else self

    def exact(self, q11: Any, q12: Any, q22: Any, mp: Any) -> tuple[Any, Any]:
        c = mp.mpf(self.c)
        return self._exact(q11, q12, q22, mp, -mp.sin(c), mp.cos(c))
