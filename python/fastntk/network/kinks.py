"""Where a function of one number is not smooth: its kinks, found by what polynomials do not fit, and their sizes."""

from __future__ import annotations

import math
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
    found = _unresolved(fn)
    if places is not None:
        others = [(low, high) for low, high in found if not any(low <= place <= high for place in places)]
        if others:
            raise ValueError(
                f"[{what}] has kinks beside those of breaks = {places}, given none between {others[0][0]:.3g} and "
                f"{others[0][1]:.3g}; without breaks they are looked for"
            )
        found = [(place, place) for place in sorted(places)]
    kinks = []
    for k, (low, high) in enumerate(found):
        left = found[k - 1][1] if k else -np.inf
        right = found[k + 1][0] if k + 1 < len(found) else np.inf
        kinks.append(_kink(fn, low, high, min(_WIDTH, low - left), min(_WIDTH, right - high), what))
    return tuple(kinks)


def _coefficients(fn: Function, low: Any, high: Any) -> tuple[Any, Any]:
    """Chebyshev coefficients on panels, (_NODES, panels), and the function's size on each; NaN where it is not finite.

    That is the largest value; what is small beside its own slope is measured by that.
    """
    place = np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
    x = (low + high) / 2 + (high - low) / 2 * place[:, None]
    with np.errstate(all="ignore"):
        y = call(fn, x)
        fits = chebyshev.chebfit(place, y, _NODES - 1)
        return fits, np.maximum(np.abs(y).max(axis=0), np.abs(fits[1]) / (high - low))


def _unresolved(fn: Function) -> list[tuple[float, float]]:
    """Intervals on which the function is no polynomial, as narrow as they can be told."""
    low = np.arange(-REACH, REACH, _WIDTH) + 0.0823754
    high = low + _WIDTH
    # Far out a function may be what rounding leaves: what it is beside itself near 0, or at no larger |x|.
    _, size = _coefficients(fn, low, high)
    near = float(_coefficients(fn, np.array([-2.0]), np.array([2.0]))[1][0])
    least = np.maximum(_NOTHING * _largest_within(np.abs(low + high), size), near if math.isfinite(near) else 0.0)
    rough, left = _rough(fn, low, high, least)
    low, high, left, least = low[rough], high[rough], left[rough], least[rough]
    found: list[tuple[float, float]] = []
    while len(low) and high[0] - low[0] > _NARROW:
        middle = (low + high) / 2
        halves = np.column_stack([low, middle]).ravel(), np.column_stack([middle, high]).ravel()
        least = np.repeat(least, 2)
        rough, now = _rough(fn, *halves, least)
        # What jumps in a high derivative is lost in narrow panels; what varies fast leaves 2^-16 of it in each half.
        lost = ~(rough[::2] | rough[1::2]) & (np.maximum(now[::2], now[1::2]) > left / 256)
        found += zip(low[lost].tolist(), high[lost].tolist(), strict=True)
        low, high, left, least = halves[0][rough], halves[1][rough], now[rough], least[rough]
    joined: list[tuple[float, float]] = []
    for a, b in sorted([*found, *zip(low.tolist(), high.tolist(), strict=True)]):
        if joined and a - joined[-1][1] < _NARROW:
            joined[-1] = joined[-1][0], b
        else:
            joined.append((a, b))
    return joined


def _rough(fn: Function, low: Array, high: Array, least: Array) -> tuple[npt.NDArray[np.bool_], Array]:
    """Which panels no polynomial fits, and what is left of each; ``least``: by what they are measured at least."""
    with np.errstate(all="ignore"):
        fits, size = _coefficients(fn, low, high)
        size, left = np.maximum(size, least), np.abs(fits[-3:]).max(axis=0)
        return np.isfinite(size) & (left > _SMALL * size), left


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
    if max(float(np.abs(side.coef[-3:]).max()) for side in (below, above)) > 1e-9 * size and low < high:
        raise ValueError(
            f"[{what}] is not smooth on both sides of x = {round((low + high) / 2, 2) + 0.0:g}, or varies too fast "
            "there: pieces must be analytic up to where they meet"
        )
    for order in (1, 2, 3, 4):  # of the first derivative that jumps: the one below is continuous, and 0 where it does
        place = (low + high) / 2
        for _ in range(48 if low < high else 0):  # halves what is left where higher ones jump
            slope = step(order, place)
            place = min(max(place - step(order - 1, place) / slope if slope else place, low), high)
        if abs(step(0, place)) > 1e-7 * size:
            raise ValueError(
                f"[{what}] jumps at x = {_jump(fn, low, high):.6g}: a derivative that is infinite there has no mean "
                "square"
            )
        if abs(step(order, place)) > (1e-4, 1e-4, 1e-3, 1e-1)[order - 1] * size:
            jumps = [_short(step(n, place), 10.0 ** (2 * n - 11)) if n >= order else 0.0 for n in (1, 2, 3, 4)]
            return Kink(_short(place, 1e-8), *jumps)
    return Kink((low + high) / 2, 0.0, 0.0)


def _short(x: float, error: float) -> float:
    """A number of few decimals, where one is within the error."""
    short = round(x, min(6, max(0, -math.floor(math.log10(error)) - 1))) + 0.0
    return short if abs(x - short) < error else x


def _jump(fn: Function, low: float, high: float) -> float:
    """Where a function jumps: the half with the larger step."""
    for _ in range(60):
        middle = (low + high) / 2
        a, b, c = call(fn, np.array([low, middle, high]))
        low, high = (low, middle) if abs(b - a) > abs(c - b) else (middle, high)
    return round((low + high) / 2, 9) + 0.0


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
        except ValueError:
            found.append(_jump(fn, low, high))
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
