"""Functions without closed form: for the variances that a call's inputs have, one of the maps that computing takes.

A layer here knows its function alone. `resolve` (plan/resolve.py) finds the variances that reach it, and asks for a
nonlinearity that stands for it there: polynomials of the correlation where all inputs have one variance, else a short
Hermite series (network/hermite.py), with hinges where the function has a kink at 0; where it has others, angles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.polynomial import chebyshev
from numpy.polynomial import polynomial as power

from ..expectations import call
from ..hermite import NO_HINGES, Hinges
from ..kinks import Kink
from ..one_variance import DEGREES, Shared, Slopes, moments_of, series_slopes, shared_of
from ..short_series import MOST_TERMS, Fit, fits
from ..whole_series import exact_fit
from .angular import Angular
from .hinged import Hinged, HingedTwice, OfFit
from .nonlinearity import Array, Correlation, Nonlinearity, defines_dual, of_input
from .pieces import Pieces
from .polynomials import Polynomial
from .series import Curve, Series, ends_of, joined
from .spline import Spline
from .straight import MOST, Straight

LEAST_HIGH = 1.0  # largest variance of the narrowest range that is fitted
_MOST_HIGH = 4.0**10
_DEGREE = 12  # up to which a function is looked at as a polynomial
_LOST = 1e-6  # of what float32 may lose of a dual, before float64 stands in for it


@defines_dual
@dataclass(frozen=True)
class General(Nonlinearity):
    """Base of functions without closed form: a subclass gives ``phi``, perhaps ``dphi``, and its kinks."""

    dual_name: ClassVar[str] = "activation"
    compiled: ClassVar[bool] = False
    counted: ClassVar[bool] = True

    @property
    def label(self) -> str:
        """What errors call it."""
        return type(self).__name__

    def kinks(self) -> tuple[Kink, ...]:
        """Where derivatives jump, in their order."""
        return ()

    def smooth_phi(self, x: Array) -> Any:
        """phi of NumPy's arrays."""
        return self.phi(x, np)

    def mean(self, q: Array, xp: Any = np) -> Array:
        return self.standing_for(0.0, float(q.max()), False).mean(q, xp)

    def fit(self, variance: float, dtype: Any = np.float64) -> Fit:
        """The series that stands for the function where no input has a larger variance.

        Parameters
        ----------
        variance : float
            Rounded up to a power of 4, 1 at least.
        dtype : float32 or float64
            Of results: what the fit owes.

        Returns
        -------
        Fit
            Its ``degrees``, the number of ``terms`` of the whole series, its ``error``.

        Raises
        ------
        ValueError
            A function that is not finite there, grows too fast or varies too fast; one with kinks elsewhere than at 0.
        """
        return _fitted(self, high_of(variance, self.label), np.dtype(dtype) == np.float32)

    def standing_for(self, low: float, high: float, single: bool, moving: bool = False) -> Nonlinearity:
        """The nonlinearity that stands for this one where the variances of inputs lie between these.

        ``moving``: where derivatives in variances are asked for.
        """
        shared = None
        if low > 0 and high - low <= (2.5e-7 if single else 1e-14) * high:
            shared = _shared(self, (low + high) / 2, single)
        if shared is not None and not shared.loses:
            return shared
        found = self._of_range(low, high, single, moving)
        return found if shared is None or (found.compiled and not found.rough) else shared

    def _of_range(self, low: float, high: float, single: bool, moving: bool) -> Nonlinearity:
        """The same for any variances between these."""
        kinks = self.kinks()
        if not kinks and (polynomial := _polynomial(self, high_of(high, self.label, math.inf))) is not None:
            return polynomial
        own = _in_pieces(self) if kinks else None
        if isinstance(own, Angular):
            closed = None if moving else _closed(own)
            if closed is None or not closed.keeps(low, high, False):
                return own
            return replace(closed, loses=single and not closed.keeps(low, high, True))
        if own is None or not any(kink.place for kink in kinks):
            series = _fitted(self, high_of(high, self.label), single)
            if own is None or series.error <= _owed(single):
                return _standing(self, series, single)
        if isinstance(own, Spline) and not own.keeps(low, high):
            return Pieces(self, kinks)
        return own


def high_of(variance: float, what: str, most: float = _MOST_HIGH) -> float:
    """The end of the range that holds a variance: a power of 4."""
    if not variance <= most:
        raise ValueError(
            f"[{what}] an input has variance {variance:.6g}, and no series is made beyond {_MOST_HIGH:.6g}: normalise "
            "the inputs"
        )
    return max(LEAST_HIGH, 4.0 ** math.ceil(math.log(variance, 4) - 1e-9)) if variance > 0 else LEAST_HIGH


@lru_cache(maxsize=256)
def _polynomial(layer: General, high: float) -> Polynomial | None:
    """The polynomial that a function is, as far as inputs of these variances reach; None where it is none."""
    x = np.cos(np.pi * (np.arange(4 * _DEGREE) + 0.5) / (4 * _DEGREE))
    with np.errstate(all="ignore"):
        found = chebyshev.chebfit(x, call(layer.smooth_phi, x), _DEGREE)
        if not np.isfinite(found).all():
            return None
        order = int(np.flatnonzero(np.abs(found) > 1e-13 * np.abs(found).max()).max(initial=0))
        coef = chebyshev.cheb2poly(chebyshev.chebfit(x, call(layer.smooth_phi, x), order))
        coef[np.abs(coef) < 1e-13 * np.abs(coef).max(initial=0)] = 0
        reaches = (0.03, 0.4, 5.0, 26 * math.sqrt(high))  # terms of every order show at one of these
        values = [call(layer.smooth_phi, reach * x) for reach in reaches]
        for own in (np.array([float(f"{c:.13g}") for c in coef]), coef):  # as it was written, more often than not
            apart = [np.abs(y - power.polyval(r * x, own)) for r, y in zip(reaches, values, strict=True)]
            sizes = [power.polyval(np.abs(r * x), np.abs(own)) for r in reaches]
            if all((a <= 2e-14 * size).all() for a, size in zip(apart, sizes, strict=True)):
                return Polynomial(tuple(own.tolist()))
    return None


@lru_cache(maxsize=256)
def _fitted(layer: General, high: float, single: bool) -> Fit:
    kinks = layer.kinks()
    if any(kink.place for kink in kinks):
        raise ValueError(f"[{layer.label}] has kinks at x = {_places(kinks)}: series are for those at 0")
    short = fits(layer.smooth_phi, high, single, _hinges(kinks), bool(kinks), layer.label)
    if kinks or short[0].error <= _owed(single):
        return short[0]
    found = exact_fit(layer.smooth_phi, short, _owed(single), single, layer.label)
    if not found.error <= _owed(single):
        raise ValueError(
            f"[{layer.label}] for variances up to {high:.6g} its series of {len(found.degrees)} terms is off by "
            f"{found.error:.1e}, where {_owed(single):.0e} is owed: normalise the inputs, or give kinks by breaks="
        )
    return found


def _owed(single: bool) -> float:
    return 2e-6 if single else 1e-12


@lru_cache(maxsize=256)
def _standing(layer: General, series: Fit, single: bool) -> Nonlinearity:
    if len(series.degrees) > MOST_TERMS:
        return WholeSeries(layer, series)
    kind = HingedTwice if series.orders > 1 else Hinged if series.hinges.first or series.hinges.second else Fitted
    found = kind(layer, series)
    q = series.high * np.array([1.0, 0.3, 0.05, 1e-3])
    if not single or loss_in_single(found, q) <= _LOST:
        return found
    if kind is not Fitted:  # hinges that are larger than the function cancel: degrees up to 60,000 may do without
        plain = Fitted(layer, fits(layer.smooth_phi, series.high, single, NO_HINGES, True, layer.label)[0])
        if plain.own.error <= _LOST / 2 and loss_in_single(plain, q) <= _LOST:
            return plain
    return replace(found, loses=True)


def _places(kinks: tuple[Kink, ...]) -> str:
    return ", ".join(f"{kink.place:.6g}" for kink in kinks)


def _hinges(kinks: tuple[Kink, ...]) -> Hinges:
    return Hinges(*kinks[0].jumps) if kinks else NO_HINGES


@lru_cache(maxsize=64)
def _in_pieces(layer: General) -> Angular | Spline | Pieces:
    """A function with kinks; of straight pieces its line left of all kinks, and these; of polynomials these."""
    kinks = layer.kinks()
    x = np.linspace(-8.0, 8.0, 401) + 0.00713
    rest = call(layer.smooth_phi, x)
    for kink in kinks:
        rest = rest - kink.first * np.maximum(x - kink.place, 0)
    slope = (rest[-1] - rest[0]) / (x[-1] - x[0])
    offset = float(np.mean(rest - slope * x))
    if not np.abs(rest - slope * x - offset).max() <= 1e-9 * (1 + np.abs(rest).max()):
        return Spline.of(layer, kinks) or Pieces(layer, kinks)
    slope, offset = (0.0 if abs(c) < 1e-14 else float(c) for c in (slope, offset))
    return Angular(layer, slope, offset, kinks)


@lru_cache(maxsize=64)
def _closed(pieces: Angular) -> Straight | None:
    own = Straight.of(pieces)
    return own if 0 < len(own.corners) <= MOST else None


@lru_cache(maxsize=256)
def _shared(layer: General, q: float, single: bool) -> OneVariance | None:
    high_of(q, layer.label)
    kinks = layer.kinks()
    degrees: tuple[int, ...] = DEGREES
    if any(kink.place for kink in kinks):
        own = _in_pieces(layer)
        if isinstance(own, Spline) and not own.keeps(q, q):
            own = Pieces(layer, kinks)
        degrees = (16, 36) if isinstance(own, Pieces) else DEGREES
        variance, mean = own.variance(np.array([q])), own.mean(np.array([q]))
        step = own.variance(q * np.array([1 + 1e-4, 1 - 1e-4]))
        power = math.log(step[0] / step[1]) / math.log((1 + 1e-4) / (1 - 1e-4)) if variance[0] > 0 else 0.0
        moments = (q, float(variance[0]), float(mean[0]), power)
        slopes = _angular_slopes(own, q, float(variance[0]))
    else:
        slopes = series_slopes(layer.smooth_phi, q, _hinges(kinks), bool(kinks), single, layer.label)
        moments = moments_of(layer.smooth_phi, q, bool(kinks), layer.label)
    if not moments[1] > 0:
        return None
    shared = shared_of(slopes, moments, single, degrees)
    if shared is None:
        return None
    found = OneVariance(layer, shared)
    return replace(found, loses=True) if single and loss_in_single(found, np.array([q])) > _LOST else found


def loss_in_single(layer: Nonlinearity, q: Array) -> float:
    """What a dual loses in float32, between variances q: of the root of ``1 - |rho'|``, of rho', of kdot."""
    w = np.concatenate([np.logspace(-6, -1, 11), np.linspace(0.15, 1, 11)])
    v = np.concatenate([w, -w])[:, None, None]
    exact, found = layer.rows(q), []
    with np.errstate(all="ignore"):
        for dtype in (np.float32, np.float64):
            rows: dict[str, Any] = {name: np.asarray(row, dtype=dtype) for name, row in exact.items()}
            one, two = (of_input(rows, place) for place in ((slice(None), None), (None, slice(None))))
            parts = layer.pair(Correlation.of_defect(v.astype(dtype)), one, two)
            found.append([np.asarray(part, np.float64) for part in parts])
        at_one = layer.pair(Correlation.of_defect(np.zeros(1)), of_input(exact), of_input(exact))[2]
    (v1, rho1, kdot1), (v2, rho2, kdot2) = found
    same = (v1 < 0) == (v2 < 0)
    angle = np.where(same, np.sqrt(np.abs(v1)) - np.sqrt(np.abs(v2)), 0)
    size = np.sqrt(np.maximum(np.outer(at_one, at_one), 1e-300))
    return float(max(np.abs(angle).max(), np.abs(rho1 - rho2).max(), np.abs((kdot1 - kdot2) / size).max()))


def _angular_slopes(own: Angular | Spline | Pieces, q: float, variance: float) -> Slopes:
    row = of_input(own.rows(np.array([q])))

    def slopes(w: Array) -> tuple[Array, Array]:
        near, far = (own.pair(Correlation.of_defect(sign * np.maximum(w, 1e-300)), row, row)[2] for sign in (1, -1))
        return near * (q / variance), far * (q / variance)

    return slopes


@dataclass(frozen=True)
class Fitted(OfFit, Series):
    """A short Hermite series in place of a function, for variances up to ``own.high``."""

    layer: General
    own: Fit
    loses: bool = False

    @property
    def degrees(self) -> tuple[float, ...]:
        return self.signed_degrees

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        g, _, e = self.own.rows(q, xp)
        return {**{f"g{k}": row for k, row in enumerate(g)}, "e": e}


@defines_dual
@dataclass(frozen=True)
class WholeSeries(Fitted):
    """All terms of a series, more than compiled code takes: powers of ``a = 1 - w`` one from the other."""

    dual_name: ClassVar[str] = "whole"
    compiled: ClassVar[bool] = False
    takes_jets: ClassVar[bool] = True

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        place = {degree: k for k, degree in enumerate(self.own.degrees)}
        before = fallen = apart = 0 * c.w  # a^(l - 1), 1 - a^l
        power = before + 1  # a^l
        whole, fall, slope = ([0.0 * c.w, 0.0 * c.w] for _ in range(3))  # of even and of odd terms
        for degree in range(max(place) + 1):
            if degree in place:
                g1, g2 = (getattr(x, f"g{place[degree]}") for x in (x1, x2))
                p, parity = g1 * g2, degree % 2
                apart = apart + (g1 - g2) ** 2 / 2
                whole[parity] = whole[parity] + p
                fall[parity] = fall[parity] + p * fallen
                slope[parity] = slope[parity] + degree * p * before
            fallen = fallen + power * c.w
            before, power = power, power * c.a
        minus, plus = ends_of(c.near, apart, whole, fall)
        rho = np.where(minus > plus, plus - 1, 1 - minus)
        return joined(minus, plus), rho, x1.e * x2.e * (slope[1] + np.where(c.near, slope[0], -slope[0]))


@dataclass(frozen=True)
class OneVariance(Curve):
    """Polynomials of the correlation in place of a function all of whose inputs have the variance ``own.q``."""

    layer: General
    own: Shared
    loses: bool = False  # in float32 the digits that are owed

    @property
    def rough(self) -> bool:
        return self.loses

    @property
    def odd_share(self) -> float:
        return self.own.odd_share

    @property
    def odd(self) -> tuple[float, ...]:
        return self.own.odd

    @property
    def even(self) -> tuple[float, ...]:
        return self.own.even

    def phi(self, x: Any, xp: Any) -> Any:
        return self.layer.phi(x, xp)

    def variance(self, q: Array, xp: Any = np) -> Array:
        found: Array = self.own.variance * (q / self.own.q) ** self.own.power  # of what differs by rounding alone
        return found

    def mean(self, q: Array, xp: Any = np) -> Array:
        found: Array = self.own.mean * xp.ones_like(q)
        return found
