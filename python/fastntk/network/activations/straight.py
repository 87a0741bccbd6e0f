"""Functions of straight pieces in closed form, for every pair of variances.

Compiled text: ``csrc/math/counted/straight.h``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from ..expectations import call
from ..hinges import hinge_parts
from ..tails import lens, tails
from .angular import Angular
from .nonlinearity import Array, Correlation, Nonlinearity, defines_dual, signed_defect

MOST = 8  # distances of kinks from 0 that compiled text takes
_LEAST = 1e-36  # a variance of 0 counts as this
_FAR = 40.0  # deviations beyond which nothing lies
_CLOSE = 0.01  # places of kinks that are so close are told apart by a series
_SHARED = 5  # rows of an input that belong to no kink, but for the last


@dataclass(frozen=True)
class Corner:
    """Kinks at ``place`` and ``-place``: their jumps of slope, seen from 0."""

    place: float
    right: float
    left: float

    @property
    def even(self) -> float:
        return self.right + self.left

    @property
    def odd(self) -> float:
        return self.right - self.left


@defines_dual
@dataclass(frozen=True)
class Straight(Nonlinearity):
    """``phi(0) + slope x + sum_p right_p (x - place_p)+ + left_p (-x - place_p)+``, at every correlation.

    With ``f(z) = phi(s z) / s``, whose kinks lie at ``h = place / s``, all sums are over two corners' kinks, h of one
    input and k of the other. Those on one side count by ``S = right right' + left left'``, those on different sides by
    ``O = right left' + left right'``:

    - At rho = 1 kdot is ``slope (slope + d + d') + sum S P(z > max(h, k))``, ``d = sum (right - left) P(z > h)``, and
      on the way to rho >= 0 it loses ``sum S I(|h - k|, h + k) + O I(h + k, |h - k|)`` (``lens()`` of
      ``network/tails.py``); at rho = -1 S and O change places and signs.
    - What differing variances cost is half the square of ``f / |f| - f' / |f'|``. Of means and deviations it is one of
      row numbers; of what is left, ``E (D - E D)^2 - (|f| - |f'|)^2`` of centred f, ``D = f - f'``, each term is a
      product of two differences of row numbers, or ``X = int (u - z) (z - l) density(z) dz`` between a kink's places l
      and u in both inputs, where the two inputs are on different pieces.

    Derived; of P (u > h, v > k) the integral over the angle is Sheppard's (1899).
    """

    layer: Nonlinearity
    at_zero: float
    slope: float  # left of a kink at 0
    corners: tuple[Corner, ...]
    loses: bool = False  # in float32 the digits that are owed
    dual_name: ClassVar[str] = "straight"
    counted: ClassVar[bool] = True

    @property
    def rough(self) -> bool:
        return self.loses

    @classmethod
    def of(cls, pieces: Angular) -> Straight:
        """The same function by its value and slope at 0, so that kinks far out of reach drop out."""
        places, slopes = _lines(pieces)
        jumps = [after - before for before, after in pairwise(slopes)]
        corners = tuple(
            Corner(
                size,
                sum(jump for place, jump in zip(places, jumps, strict=True) if place == size),
                sum(jump for place, jump in zip(places, jumps, strict=True) if place == -size and size),
            )
            for size in sorted({abs(place) for place in places})
        )
        slope = slopes[sum(place < 0 for place in places)]
        return cls(pieces.layer, float(_values(pieces, np.zeros(1))[0]), slope, corners)

    @classmethod
    def names_of_rows(cls, n_params: int) -> tuple[str, ...]:
        return (*(f"g{k}" for k in range(_SHARED + 5 * ((n_params - 1) // 3))), "e")

    @property
    def dual_params(self) -> tuple[float, ...]:
        return (self.slope, *(number for c in self.corners for number in (c.place, c.right, c.left)))

    def keeps(self, low: float, high: float, single: bool) -> bool:
        """Whether what cancels here leaves the digits that are owed, for all variances between these.

        Where nearly all of the input lies beyond the last kink (large variances), sums of numbers near 1 leave
        ``|f|^2``; where it lies before the first, of a function that is 0 there, all of it comes from the tails.
        """
        if not self.slope and not self.at_zero and self.corners[0].place:
            reach = 2.5 if single else 5.0
            return low > 0 and self.corners[0].place <= reach * math.sqrt(low)
        size = self.slope**2 + sum(c.right**2 + c.left**2 for c in self.corners)
        q = np.maximum([low, high], _LEAST)
        return bool((size * q <= (12.0 if single else 1000.0) * self.variance(q)).all())

    def phi(self, x: Any, xp: Any) -> Any:
        return self.layer.phi(x, xp)

    def _of_input(self, q: Array, xp: Any) -> tuple[Any, list[Array], list[Any], Any, Any]:
        """The deviation, kinks in deviations, tails beyond them, and of ``f - f(0)`` mean and mean square."""
        s = xp.sqrt(xp.maximum(q, _LEAST))
        places = [xp.minimum(corner.place / s, _FAR) for corner in self.corners]
        beyond = [tails(h, xp) for h in places]
        mean: Any = 0 * s
        for corner, (_, first, _) in zip(self.corners, beyond, strict=True):
            mean = mean + corner.even * first
        return s, places, beyond, mean, self._square(places, beyond, xp)

    def _square(self, places: list[Array], beyond: list[Any], xp: Any) -> Any:
        """``E (f - f(0))^2``: on either side of 0, piece by piece."""
        nothing = xp.zeros_like(places[0])
        ends = [nothing, *places]
        known = [(nothing + 0.5, nothing + 1 / math.sqrt(2 * math.pi), nothing + 0.5), *beyond]
        moments = [
            _moments(low, high - low, at_low, at_high, xp)
            for (low, high), (at_low, at_high) in zip(pairwise(ends), pairwise(known), strict=True)
        ]
        total: Any = nothing
        for side in (1, -1):
            value, slope = nothing, side * self.slope
            for k, (P, first, second) in enumerate([*moments, beyond[-1]]):
                if k:
                    slope = slope + (self.corners[k - 1].right if side > 0 else self.corners[k - 1].left)
                total = total + value * value * P + 2 * slope * value * first + slope * slope * second
                if k < len(places):
                    value = value + slope * (ends[k + 1] - ends[k])
        return total

    def variance(self, q: Array, xp: Any = np) -> Array:
        s, _, _, mean, square = self._of_input(q, xp)
        found: Array = (self.at_zero + s * mean) ** 2 + s * s * (square - mean * mean)
        return found

    def mean(self, q: Array, xp: Any = np) -> Array:
        s, _, _, mean, _ = self._of_input(q, xp)
        found: Array = self.at_zero + s * mean
        return found

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        s, places, beyond, gain, square = self._of_input(q, xp)
        spread = xp.sqrt(xp.maximum(square - gain * gain, 0))
        mean = self.at_zero / s + gain
        size = xp.sqrt(mean * mean + spread * spread)
        blank = size == 0  # of a function that is 0: any unit vector will do
        over = xp.where(blank, 0, 1 / xp.where(blank, 1, size))
        tail: Any = self.slope / 2
        of_kinks: list[Array] = []
        for corner, h, (P, first, second) in zip(self.corners, places, beyond, strict=True):
            tail = tail + corner.odd * P
            of_kinks += [h, xp.exp(-h * h / 4), P, first, second]
        own = [xp.where(blank, 1, mean * over), spread * over, spread, gain, tail, *of_kinks]
        return {**{f"g{k}": row for k, row in enumerate(own)}, "e": over}

    def _weights(self) -> Iterator[tuple[int, int, float, float, float, float]]:
        """Corners p <= q; S, O, and half of what their even and odd parts count."""
        for p, one in enumerate(self.corners):
            for q, two in enumerate(self.corners[p:], p):
                even, odd = one.even * two.even / 2, one.odd * two.odd / 2
                yield p, q, even + odd, even - odd, even, odd

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        mu1, share1, spread1, gain1, tail1, mu2, share2, spread2, gain2, tail2 = (
            getattr(x, f"g{k}") for x in (x1, x2) for k in range(_SHARED)
        )
        kinks1, kinks2 = (
            [_Kink(*(getattr(x, f"g{_SHARED + 5 * p + k}") for k in range(5))) for p in range(len(self.corners))]
            for x in (x1, x2)
        )
        near, w = c.near, c.w + 0 * x1.e * x2.e
        slope = self.slope * (tail1 + tail2) + 0 * w
        fall = w * slope
        even, odd, square = -gain1 * gain2 + 0 * w, slope, 0 * w
        for p, q, same, other, of_even, of_odd in self._weights():
            found = self._both(near, w, (same, other), kinks1[p], kinks2[q], p - q)
            if p < q:
                turned = self._both(near, w, (same, other), kinks1[q], kinks2[p], q - p)
                found = tuple(a + b for a, b in zip(found, turned, strict=True))
            G, beyond, X, less, bent = found
            even, odd = even + of_even * G, odd + of_odd * G
            step, moved = kinks1[p].h - kinks2[p].h, kinks1[q].first - kinks2[q].first
            square = square + same * ((2 if p < q else 1) * (X - step * moved))
            both = np.where(near, same, -other) * beyond
            slope, fall = slope + both - less, fall + w * both - bent
        over = x1.e * x2.e
        gap = ((mu1 - mu2) ** 2 + (share1 - share2) ** 2) / 2
        gap = gap + (square - (gain1 - gain2) ** 2 - (spread1 - spread2) ** 2) / 2 * over
        gap, fall = np.maximum(gap, 0), fall * over
        minus = np.where(near, gap + fall, gap + 2 * (odd * over) - fall)
        plus = np.where(near, 2 - minus, gap + 2 * (mu1 * mu2 + even * over) + fall)
        minus = np.maximum(minus, 0)
        far = minus > plus
        v = np.where(far, signed_defect(np.asarray(False), plus), minus)
        return v, np.where(far, plus - 1, 1 - minus), slope

    def _both(
        self, near: Any, w: Array, weights: tuple[float, float], one: _Kink, two: _Kink, order: int
    ) -> tuple[Any, ...]:
        """Of a kink of each input: ``E (z - h)+ (z - k)+``, ``P(z > max(h, k))``, -X, what kdot and k lose."""
        step, total = np.abs(one.h - two.h), one.h + two.h
        above = one.h > two.h  # the first input's lies further out
        high = np.where(above, one.second, two.second) + step * np.where(above, one.first, two.first)
        low = np.where(above, two.second, one.second) - step * np.where(above, two.first, one.first)
        top = one.top * two.top
        c, d = (total * step) ** 2 / 16, step * step / 8
        series = 1 + c * (1 / 10 + c * (1 / 280 + c / 15120)) + 0.8 * d
        X = np.where(step < _CLOSE, -(step**3) / (6 * math.sqrt(2 * math.pi)) * top * series, low - high)
        if order:  # kinks that lie in one order in both inputs have none
            X = np.where(above if order < 0 else one.h < two.h, X, 0)
        lost, curved = 0 * w, 0 * w
        if np.all(total == 0):
            falls, slopes = hinge_parts(w, 0)  # of |u| |v|
            lost, curved = (sum(weights) * part / 4 for part in (1 - slopes[0], w - falls[0]))
        else:
            for weight, alpha, beta in zip(weights, (step, total), (total, step), strict=True):
                if weight:
                    less, bent = lens(w, np.where(near, alpha, beta), np.where(near, beta, alpha))
                    lost, curved = lost + weight * top * less, curved + weight * top * bent
        sign = np.where(near, 1.0, -1.0)
        return high, np.minimum(one.P, two.P), X, sign * lost, sign * curved


def _values(pieces: Angular, x: Array) -> Array:
    return call(lambda x: pieces.layer.phi(x, np), x)


def _lines(pieces: Angular) -> tuple[list[float], list[float]]:
    """Where pieces meet, and the slope of each, by the function's values: kinks that were found are rougher."""
    ends = [kink.place for kink in pieces.kinks if kink.first]
    reach = max(1.0, *(abs(end) for end in ends))
    slopes, offsets = [], []
    for low, high in pairwise([ends[0] - 2 * reach, *ends, ends[-1] + 2 * reach]):
        x = low + (high - low) * np.array([0.25, 0.75])
        y = _values(pieces, x)
        slopes.append(float((y[1] - y[0]) / (x[1] - x[0])))
        offsets.append(float(y.mean() - slopes[-1] * x.mean()))
    places = []
    for k, end in enumerate(ends):
        meeting = (offsets[k] - offsets[k + 1]) / (slopes[k + 1] - slopes[k])
        places.append(end if abs(meeting - end) <= 1e-13 * reach else meeting)
    return places, slopes


@dataclass(frozen=True)
class _Kink:
    """Rows of a kink: its place, ``exp(-h^2 / 4)``, the three tails beyond it."""

    h: Array
    top: Array
    P: Array
    first: Array
    second: Array


def _moments(low: Array, width: Array, at_low: Any, at_high: Any, xp: Any) -> tuple[Any, Any, Any]:
    """``E y^n [0 < y < width]``, n = 0, 1, 2, of ``y = z - low``: by Gauss's rule where tails would cancel."""
    node, weight = np.polynomial.legendre.leggauss(12)
    narrow = xp.minimum(width, 1.0)
    found: list[Any] = [0.0, 0.0, 0.0]
    for x, own in zip(((node + 1) / 2).tolist(), (weight / 2 / math.sqrt(2 * math.pi)).tolist(), strict=True):
        y = x * narrow
        part = own * narrow * xp.exp(-((low + y) ** 2) / 2)
        found = [total + part * y**n for n, total in enumerate(found)]
    (P, first, second), (P2, first2, second2) = at_low, at_high
    wide = (P - P2, first - first2 - width * P2, second - second2 - width * (2 * first2 + width * P2))
    P, first, second = (xp.where(width < 1, a, b) for a, b in zip(found, wide, strict=True))
    return P, first, second
