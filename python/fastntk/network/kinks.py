"""Where a function of one number is not smooth: its kinks, found by what polynomials do not fit, and their sizes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.polynomial import Chebyshev, chebyshev

from .expectations import Function, NotSmooth, call, variances_of, weight_of

Array = npt.NDArray[np.float64]

REACH = 32.0  # |x| up to which kinks are looked for
_WIDTH = 0.25  # of the first panels; their ends lie where no one has a kink
_NARROW = _WIDTH / 128  # a panel that no polynomial fits, however narrow
_NODES = 16
_SMALL = 1e-10  # the last coefficients of a fit that is one, relative to the function there
_NOTHING = 1e-3  # what is smaller beside the function at no larger |x| is measured by that: 1 + tanh ends in rounding


@dataclass(frozen=True)
class Kink:
    """A point where derivatives jump, from the left to the right, the first four of them."""

    place: float
    first: float
    second: float = 0.0
    third: float = 0.0
    fourth: float = 0.0

    @property
    def jumps(self) -> tuple[float, float, float, float]:
        return self.first, self.second, self.third, self.fourth


@lru_cache(maxsize=256)
def kinks_of(fn: Function, places: tuple[float, ...] | None, what: str) -> tuple[Kink, ...]:
    """Kinks of a function up to ``|x| = 32``, in their order; of ``places`` where these are known.

    Raises
    ------
    ValueError
        A jump of the function itself: its derivative has no mean square.
    """
    found = _unresolved(fn) if places is None else [(place, place) for place in sorted(places)]
    kinks = []
    for k, (low, high) in enumerate(found):
        left = found[k - 1][1] if k else -np.inf
        right = found[k + 1][0] if k + 1 < len(found) else np.inf
        kinks.append(_kink(fn, low, high, min(_WIDTH, low - left), min(_WIDTH, right - high), what))
    return tuple(kinks)


def _coefficients(fn: Function, low: Any, high: Any) -> tuple[Any, Any]:
    """Chebyshev coefficients on panels, (_NODES, panels), and the largest value on each; NaN where it is not finite."""
    place = np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
    x = (low + high) / 2 + (high - low) / 2 * place[:, None]
    with np.errstate(all="ignore"):
        y = call(fn, x)
    return chebyshev.chebfit(place, y, _NODES - 1), np.abs(y).max(axis=0)


def _unresolved(fn: Function) -> list[tuple[float, float]]:
    """Narrow intervals on which the function is no polynomial."""
    low = np.arange(-REACH, REACH, _WIDTH) + 0.0823754
    high = low + _WIDTH
    least: Any = 0.0
    while len(low):
        with np.errstate(all="ignore"):
            fits, size = _coefficients(fn, low, high)
            # What is small beside its own slope is measured by that.
            size = np.maximum(size, np.abs(fits[1]) / (high - low))
            if high[0] - low[0] == _WIDTH:
                least = _NOTHING * _largest_within(np.abs(low + high), size)
            size = np.maximum(size, least)
            rough = np.isfinite(size) & (np.abs(fits[-3:]).max(axis=0) > _SMALL * size)
        low, high, least = low[rough], high[rough], np.repeat(least[rough], 2)
        if not len(low) or high[0] - low[0] <= _NARROW:
            break
        middle = (low + high) / 2
        low, high = np.column_stack([low, middle]).ravel(), np.column_stack([middle, high]).ravel()
    joined: list[tuple[float, float]] = []
    for a, b in zip(low, high, strict=True):
        if joined and a - joined[-1][1] < _NARROW:
            joined[-1] = joined[-1][0], float(b)
        else:
            joined.append((float(a), float(b)))
    return joined


def _largest_within(distance: Array, size: Array) -> Array:
    """For each panel the largest finite size of those no further out."""
    order = np.argsort(distance, kind="stable")
    found = np.empty_like(size)
    found[order] = np.maximum.accumulate(np.where(np.isfinite(size), size, 0)[order])
    return found


def _kink(fn: Function, low: float, high: float, left: float, right: float, what: str) -> Kink:
    """The kink between two places, by polynomials on either side that are continued between them."""

    def side(start: float, end: float) -> Chebyshev:
        series, _ = _coefficients(fn, np.array([start]), np.array([end]))
        return Chebyshev(series[:, 0], domain=[start, end])

    below, above = side(low - left, low), side(high, high + right)

    def step(order: int, x: float) -> float:
        return float(above.deriv(order)(x) - below.deriv(order)(x)) if order else float(above(x) - below(x))

    size = 1 + abs(float(below(low)))
    for order in (1, 2):  # of the first derivative that jumps: the one below it is continuous, and 0 where it does
        place = (low + high) / 2
        for _ in range(8 if low < high else 0):
            slope = step(order, place)
            place = min(max(place - step(order - 1, place) / slope if slope else place, low), high)
        if abs(step(0, place)) > 1e-7 * size:
            raise ValueError(
                f"[{what}] jumps at x = {place:.6g}: a derivative that is infinite there has no mean square"
            )
        if abs(step(order, place)) > 1e-4 * size:
            first = _short(step(1, place), 1e-9) if order == 1 else 0.0
            further = (_short(step(order, place), error) for order, error in ((2, 1e-7), (3, 1e-5), (4, 1e-3)))
            return Kink(_short(place, 1e-8), first, *further)
    return Kink((low + high) / 2, 0.0, 0.0)


def _short(x: float, error: float) -> float:
    """A number of few decimals, where one is within the error."""
    short = round(x, 6) + 0.0
    return short if abs(x - short) < error else x


# ---------------------------------------------------------------- expectations in pieces


def expectation_by_pieces(g: Function, q: Any, rtol: float, what: str) -> Any:
    """``E g(sqrt(q) z)`` of a function with kinks or jumps, up to ``|x| = 32``: Gauss's rule between them.

    Raises
    ------
    NotSmooth
        No agreement of two rules.
    """
    variances = variances_of(q, what)
    places = _breaks(g)
    flat = variances.reshape(-1)
    found = np.array([_by_pieces(g, places, float(own), rtol, what) for own in flat])
    return found.reshape(variances.shape) if variances.ndim else float(found[0])


def _breaks(fn: Function) -> list[float]:
    found = []
    for low, high in _unresolved(fn):
        try:
            found.append(_kink(fn, low, high, _NARROW, _NARROW, "").place)
        except ValueError:  # a jump: the half with the larger step
            for _ in range(60):
                middle = (low + high) / 2
                a, b, c = call(fn, np.array([low, middle, high]))
                low, high = (low, middle) if abs(b - a) > abs(c - b) else (middle, high)
            found.append((low + high) / 2)
    return found


def _by_pieces(g: Function, places: list[float], q: float, rtol: float, what: str) -> float:
    s, reach = float(np.sqrt(q)), 13.0
    if s == 0:
        return float(call(g, np.zeros(1))[0])
    ends = np.unique(np.clip([-reach, *(place / s for place in places), reach], -reach, reach))
    node, weight = np.polynomial.legendre.leggauss(24)
    before = np.nan
    for fine in (1, 2, 4):
        total = size = 0.0
        for low, high in pairwise(ends.tolist()):
            cut = np.linspace(low, high, int((high - low) * (1 + s) * fine) + 2)
            half = np.diff(cut)[:, None] / 2
            z = cut[:-1, None] + half * (node + 1)
            terms = half * weight * call(g, s * z) * weight_of(z)
            total, size = total + float(terms.sum()), size + float(np.abs(terms).sum())
        if abs(total - before) <= max(rtol, 1e-13) * size:
            return total
        before = total
    raise NotSmooth(f"[{what}] does not converge at variance {q:.6g}: the function is not smooth, and not in pieces")
