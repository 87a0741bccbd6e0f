"""A few terms in place of a whole Hermite series.

Over all pairs of variances up to a largest one, and all rho, only a handful of the terms are independent: degrees and
weights exist with which a sum over a few terms is the sum over all, for ``1 - rho'`` and for ``kdot`` at once. Columns
by pivoted Gram-Schmidt, weights by least squares. Derived.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.polynomial import chebyshev

from .expectations import Function, call
from .hermite import Coefficients, Hinges, Whole, hinges_at
from .hinges import WHOLE

Array = npt.NDArray[np.float64]

_DENSE = 96  # every degree up to here is offered, beyond them a geometric sequence
_RATIO = 1.05
_FARTHEST = 60000, 1000000  # degree offered for functions with a kink, in float32 and in float64
MOST_TERMS = 140  # that compiled code takes
_BETWEEN = [0.97, 0.86, 0.7, 0.52, 0.33, 0.2, 0.13, 0.07, 0.02]  # of the largest variance: where errors are taken
_FLAT = 1e-2  # kdot q / V of functions next to a constant: below it a slope's error shows in no NTK
TINY = 1e-36  # a variance of 0 counts as this, so that directions exist


def _falls(defects: Array, degrees: Array) -> Array:
    """``1 - a^l`` at ``a = 1 - defect``, (defects, degrees)."""
    return np.asarray(-np.expm1(np.log1p(-np.minimum(defects, 1 - 1e-16))[:, None] * degrees))


def _slopes(defects: Array, degrees: Array) -> Array:
    """``l a^(l - 1)``."""
    return np.asarray(degrees * np.exp(np.log1p(-np.minimum(defects, 1 - 1e-16))[:, None] * (degrees - 1)))


class Sums:
    """``sum p_l (1 - a^l)`` and ``sum l p_l a^(l - 1)`` for all pairs of the variances and some defects, by parity.

    The first relative to the sum of ``|p_l|`` in its place and ``1 - rho'`` of equal directions, the second to its
    diagonal, or a hundredth of that of the identity.
    """

    def __init__(self, whole: Whole, hinges: Array, defects: Array) -> None:
        self._whole, self._defects = whole, defects
        self._i, self._j = np.triu_indices(len(whole.q))
        self._hinges = hinges / whole.size  # by parity and order
        # What directions that are equal differ by, as variances do: where that is much, the sum itself counts little.
        apart = np.square(whole.table[0, self._i] - whole.table[0, self._j]) / 2
        size, diagonal = np.zeros((len(defects), len(self._i))), np.zeros(len(whole.q))
        for part in whole.parts:
            counts = part.counts[:, None]
            size += _falls(defects, part.degrees) @ np.abs(counts * self._products(part.g))
            apart = apart + (counts * np.square(part.g[:, self._i] - part.g[:, self._j])).sum(0) / 2
            diagonal += (counts * part.degrees[:, None] * part.g**2).sum(0)
        self._fall = 1 / np.maximum(size + np.maximum(apart, 0), 1e-300)
        root = np.sqrt(np.maximum(diagonal, _FLAT))
        self._slope = 1 / (root[self._i] * root[self._j])

    def _products(self, g: Array) -> Array:
        return np.asarray(g[:, self._i] * g[:, self._j])

    def _rest(self, g: Array, hinge: Array, parity: int) -> Array:
        """``p_l`` less what the hinges of this parity have of it."""
        return self._products(g) - self._products(hinge @ self._hinges[parity])

    def of(self, g: Array, hinge: Array, counts: Array, degrees: Array, parity: int) -> Array:
        """Both sums over given terms."""
        p = counts[:, None] * self._rest(g, hinge, parity)
        falls, slopes = _falls(self._defects, degrees) @ p, _slopes(self._defects, degrees) @ p
        return np.concatenate([(falls * self._fall).ravel(), (slopes * self._slope).ravel()])

    def total(self, parity: int) -> Array:
        part = self._whole.parts[parity]
        return self.of(part.g, part.hinge, part.counts, part.degrees, parity)

    def columns(self, parity: int, degrees: npt.NDArray[np.int64]) -> Array:
        """What each degree alone adds."""
        p = self._rest(*self._whole.columns(parity, degrees), parity).T
        real = degrees.astype(np.float64)
        falls = _falls(self._defects, real)[:, None, :] * p * self._fall[:, :, None]
        slopes = _slopes(self._defects, real)[:, None, :] * p * self._slope[:, None]
        return np.concatenate([falls.reshape(-1, len(degrees)), slopes.reshape(-1, len(degrees))])


def _offered(parity: int, most: int, single: bool) -> npt.NDArray[np.int64]:
    """Degrees that a series may have."""
    if single:  # of few binary digits, as each digit between two degrees is a multiplication
        short = [np.arange(8, 16) << shift for shift in range(1, 16)]
        found = np.concatenate([np.arange(2, 16, 2), *short]) + parity
        return np.concatenate([np.arange(1, 1 + parity), found[found <= most]])
    dense = np.arange(2 - parity, min(most, _DENSE) + 1, 2)
    if most <= _DENSE:
        return dense
    steps = np.exp(np.arange(math.log(_DENSE), math.log(most), math.log(_RATIO)))
    return np.unique(np.concatenate([dense, np.round((steps - parity) / 2).astype(np.int64) * 2 + parity]))


def _choose(columns: Any, total: Any, rtol: float, most: int) -> tuple[list[int], Array, float]:
    """A few columns and weights with which their sum is ``total``, and the largest error of an entry.

    That is ``rtol`` if ``most`` columns can do it. Columns by pivoted Gram-Schmidt, up to eight beyond what is needed
    until no weight is negative.
    """
    R: Any = np.linalg.qr(np.column_stack([columns, total]), mode="r")
    reduced, right = R[:, :-1], R[:, -1]
    rest, basis = reduced.copy(), np.empty((0, len(right)))
    active: list[int] = []
    best: tuple[list[int], Array] = [], np.empty(0)
    error, enough = math.inf, 0
    while len(active) < min(most, columns.shape[1]):
        norms = (rest * rest).sum(0)
        pivot = int(np.argmax(norms))
        if norms[pivot] < 1e-36:
            break
        e = rest[:, pivot] / math.sqrt(norms[pivot])
        e = e - basis.T @ (basis @ e)
        e /= np.linalg.norm(e)
        basis = np.vstack([basis, e])
        active.append(pivot)
        rest = rest - np.outer(e, e @ rest)
        rest[:, pivot] = 0  # not to be taken for what rounding has left of it
        size = np.sqrt((reduced[:, active] ** 2).sum(0))
        x = np.linalg.lstsq(reduced[:, active] / size, right, rcond=None)[0] / size
        found = float(np.abs(columns[:, active] @ x - total).max())
        good = found <= rtol
        if (not enough and found < error) or (good and (x > 0).all()):
            best, error = (list(active), x), found
        if not enough and error < 1e-6 and len(active) >= len(best[0]) + 24:  # no better for long
            break
        if good:
            enough = enough or len(active)
            if (x > 0).all() or len(active) >= enough + 8:
                break
    return *best, error


# ---------------------------------------------------------------- the fit


PAIRS = ((0, 0), (0, 1), (1, 1))  # of hinges of one parity, by their orders


@dataclass(frozen=True, eq=False)
class Fit:
    """A short series for variances up to ``high``: ``k = sum_l +-a_l(q11) a_l(q22) rho^l``, and its hinges.

    Attributes
    ----------
    high : float
    degrees : tuple of int
        Even ones in ascending order, then odd ones; ``signs`` has -1 where a term counts negatively, ``weights`` how
        often each counts.
    parts : tuple of tuple of float
        What each term leaves to the hinges of its parity: from ``p_l`` go these times the products of their rows, of
        the first with itself and, where there are two, of both and of the second.
    hinges : Hinges
        Without those that are left to the series.
    terms : int
        Of the whole series.
    error : float
        Largest seen at variances and correlations that the fit was not made from: of ``1 - rho'`` relative to it, of
        kdot relative to ``sqrt(kdot(q11) kdot(q22))``.
    """

    high: float
    kinked: bool
    degrees: tuple[int, ...]
    signs: tuple[int, ...]
    weights: tuple[float, ...]
    parts: tuple[tuple[float, ...], ...]
    hinges: Hinges
    terms: int
    error: float
    _offset: float  # phi(0)
    _middle: float
    _table: Array  # Chebyshev coefficients in q / (q + middle), or with a kink in s / (s + middle): terms and variance

    def _interpolated(self, q: Any, xp: Any) -> Any:
        """``a_l`` times the root of its weight, and ``E phi^2``, in this order: (terms + 1, *q.shape)."""
        given = xp.minimum(q, self.high)  # NaN stays
        q = xp.maximum(given, TINY)
        root = xp.sqrt(q)
        x = 4 * _place(root if self.kinked else q, self._middle) / _place(self._end, self._middle) - 2
        table = self._table[(...,) + (None,) * q.ndim]
        if xp is not np:
            table = xp.asarray(table)
        now: Any = xp.zeros(table.shape[1:2] + q.shape, q.dtype)
        before = now
        for row in table[:0:-1]:  # Clenshaw, x twice the place in [-1, 1]
            now, before = row + x * now - before, now
        found = table[0] + x / 2 * now - before
        factors = [root if self.kinked or degree % 2 else q for degree in self.degrees]
        factors.append(xp.sqrt(given) if self.kinked and self._offset else given)
        found = found * xp.stack(factors)
        if self._offset:
            added = [self._offset if degree == 0 else 0.0 for degree in self.degrees]
            found = found + xp.asarray([*added, self._offset**2])[(slice(None), *(None,) * q.ndim)]
        return found

    @property
    def _end(self) -> float:
        return math.sqrt(self.high) if self.kinked else self.high

    @property
    def orders(self) -> int:
        """Hinges of each parity."""
        return 2 if self.hinges.third or self.hinges.fourth else 1

    def left(self, parity: int) -> tuple[float, ...]:
        """What is left of the hinges' own at rho = 1, by products."""
        own = [p for p, degree in zip(self.parts, self.degrees, strict=True) if degree % 2 == parity]
        found = [whole - sum(p[k] for p in own) for k, whole in enumerate(WHOLE[parity][: 2 * self.orders - 1])]
        return tuple(found)

    def variance(self, q: Any, xp: Any = np) -> Any:
        return self._interpolated(q, xp)[-1]

    def mean(self, q: Any, xp: Any = np) -> Any:
        return self._interpolated(q, xp)[0] if self.degrees[0] == 0 else xp.zeros_like(q)

    def rows(self, q: Any, xp: Any = np) -> tuple[Any, Any, Any]:
        """``g_l`` (terms, *q.shape), unit vectors with signs and hinges; these by parity; ``sqrt(V / q)``."""
        found = self._interpolated(q, xp)
        a, variance = found[:-1], found[-1]
        q = xp.maximum(xp.minimum(q, self.high), TINY)
        hinges = self.hinges.parts(q, xp)[:, : self.orders]
        size: Any = 0
        for k, sign in enumerate(self.signs):
            size = size + sign * a[k] * a[k]
        for parity in (0, 1):
            for (i, j), left in zip(PAIRS, self.left(parity), strict=False):
                size = size + (1 + (i != j)) * left * hinges[parity, i] * hinges[parity, j]
        root = xp.sqrt(xp.where(size > 0, size, 1))
        return a / root, hinges / root, xp.sqrt(xp.maximum(variance, 0) / q)


def _defects(kinked: bool, single: bool) -> Array:
    wide = np.concatenate([np.logspace(-7, -2, 10), np.linspace(0.03, 1, 14) ** 1.5])
    if kinked and not single:  # high powers fall between two that lie far apart
        wide = np.concatenate([np.logspace(-8, -2, 40), np.linspace(0.03, 1, 24) ** 1.5])
    return np.concatenate([np.logspace(-14, -8.2, 12), wide]) if kinked else wide


def _places(n: int) -> Any:
    return np.cos(np.pi * (np.arange(n) + 0.5) / n)


def fits(fn: Function, high: float, single: bool, hinges: Hinges, kinked: bool, what: str) -> list[Fit]:
    """Short series of a function for variances up to ``high``, the best one first.

    Parameters
    ----------
    fn : callable
        Analytic near the line; where ``kinked``, on either side of 0.
    single : bool
        For results in float32.
    hinges : Hinges
        Jumps of derivatives at 0.
    what : str
        What errors call the function.

    Raises
    ------
    ValueError
        A function that is not finite, grows too fast, or varies too fast for these variances.
    """
    source = Coefficients(fn, high, kinked, what)
    tried = (2e-7, 3e-8) if single else (5e-13, 6e-14)
    found = [_fit(source, high, single, hinges, tried[0], what)]
    if found[0].error > (4 if single else 1.9) ** kinked * tried[0]:
        found.append(_fit(source, high, single, hinges, tried[1], what))
    if kinked and not single and min(own.error for own in found) > 1.9 * tried[0]:  # errors are largest at the end
        wide = Coefficients(fn, 1.5 * high, kinked, what)
        found.append(_fit(wide, 1.5 * high, single, hinges, tried[0], what, high))
    return sorted(found, key=lambda own: own.error)


def _fit(
    source: Coefficients, high: float, single: bool, hinges: Hinges, rtol: float, what: str, most: float | None = None
) -> Fit:
    """A series for variances up to ``high``, of which those up to ``most`` come."""
    spread = math.log(256) / 2
    middle = high * np.exp(spread * (_places(6 if single else 9) - 1))
    q = np.concatenate([[high * 1e-6, high / 256], middle[::-1], [high]])
    whole = Whole(source, q, rtol, what)
    one = replace(hinges, third=0.0, fourth=0.0)
    degrees: list[int] = []
    weights: list[float] = []
    kept = one
    terms = len(whole.table)
    there = [parity for parity in (0, 1) if (whole.parts[parity].g ** 2).max() > 1e-26]
    for parity in there:
        offered = _offered(parity, _FARTHEST[not single] if source.kinked else terms - 1, single)
        own = hinges.third if parity == 0 else hinges.fourth
        found = []
        for with_second in (False, True) if own else (False,):
            sums = Sums(whole, (hinges if with_second else one).parts(q), _defects(source.kinked, single))
            total = sums.total(parity)
            # Far above 1, what terms and hinges cancel of each other costs digits.
            lost = float(np.abs(total).max()) * (1e-7 if single else 2e-16)
            chosen, x, error = _choose(sums.columns(parity, offered), total, rtol, MOST_TERMS // len(there))
            found.append((max(error + lost, rtol if lost < rtol else 0.0), len(chosen), with_second, chosen, x))
        *_, with_second, chosen, x = min(found, key=lambda way: way[:2])
        if with_second:
            kept = replace(kept, third=own) if parity == 0 else replace(kept, fourth=own)
        order = np.argsort(offered[chosen])
        degrees += offered[chosen][order].tolist()
        weights += x[order].tolist()
    if hinges.first or np.abs(whole.table[0]).max() > 1e-16 or not degrees:
        degrees, weights = [0, *degrees], [1.0, *weights]
    found_fit = _of_terms(source, high, degrees, weights, kept, terms, single)
    return replace(found_fit, error=error_of(found_fit, source, rtol, single, what, most=most))


def _of_terms(
    source: Coefficients, high: float, degrees: list[int], weights: list[float], hinges: Hinges, terms: int,
    single: bool,
) -> Fit:  # fmt: skip
    order = np.argsort(degrees, kind="stable")
    ascending = np.array(degrees, np.int64)[order]
    size = np.sqrt(np.abs(weights))
    offset = float(call(source.fn, np.zeros(1))[0])
    best, end = math.inf, math.sqrt(high) if source.kinked else high
    middles = {end / 4} if source.kinked else {high / 4, min(high / 4, 1.0)}
    for n in (16, 24, 32, 48, 64, 96):
        for middle in sorted(middles):
            found, left = _interpolation(source, end, middle, n, ascending, offset)
            if left < best / 2:
                table, best, kept = found, left, middle
        if best <= (1e-9 if single else 1e-14):
            break
    table[:, : len(degrees)] = table[:, np.argsort(order)] * size
    signs = tuple(-1 if weight < 0 else 1 for weight in weights)
    table.setflags(write=False)
    own = _hinges_of(degrees, weights)
    parts = [own[:, i] * own[:, j] * signs for i, j in PAIRS]
    found_fit = Fit(
        high, source.kinked, tuple(degrees), signs, tuple(weights), (), hinges, terms, best, offset, kept, table
    )
    products = np.stack(parts[: 2 * found_fit.orders - 1], axis=1)
    return replace(found_fit, parts=tuple(tuple(row) for row in products.tolist()))


def _hinges_of(degrees: Sequence[int], weights: Sequence[float]) -> Array:
    """The hinges' coefficients at these degrees, times the roots of weights: (terms, 2)."""
    own, found = np.array(degrees), np.empty((len(degrees), 2))
    for parity in (0, 1):
        here = own % 2 == parity
        found[here] = hinges_at(own[here].astype(np.float64), parity)
    return found * np.sqrt(np.abs(weights))[:, None]


def _place(x: Any, middle: float) -> Any:
    return x / (x + middle)


def _interpolation(
    source: Coefficients, end: float, middle: float, n: int, degrees: npt.NDArray[np.int64], offset: float
) -> tuple[Array, float]:
    """Chebyshev coefficients of ``a_l(q)`` and of the variance, and how large the last of them are."""
    u = (_places(n) + 1) / 2 * _place(end, middle)
    x = middle * u / (1 - u)
    q = x * x if source.kinked else x
    root = np.sqrt(q)
    variance = source.square(q)
    a = np.concatenate([source.at(q, degrees), variance[None]])
    a[0] -= offset if degrees[0] == 0 else 0.0
    a[-1] -= offset**2
    by_root = source.kinked | (degrees % 2 == 1)
    a /= np.where(np.append(by_root, source.kinked and bool(offset))[:, None], root, q)
    table: Array = chebyshev.chebfit(_places(n), a.T, n - 1)
    # Errors of a_l relative to sqrt(V), at variances where that is worst.
    least, largest = math.sqrt(max((variance / q).min(), 1e-300)), math.sqrt(q.max())
    last = np.abs(table[-3:]).max(axis=0)
    last[:-1] *= np.where(by_root, 1, largest) / least
    last[-1] *= (1 if source.kinked and offset else largest) / (least * math.sqrt(max(variance.max(), 1e-300)))
    return table, float(last.max())


def error_of(
    found: Fit, source: Coefficients, rtol: float, single: bool, what: str, fine: bool = True, most: float | None = None
) -> float:
    """The largest error at variances and correlations that a fit was not made from, its own where that is larger.

    ``fine``: at small variances too, where a function may be what its second derivative says, and that of the variance,
    relative to it. There the function's own rounding counts, so that of integrals less is asked. ``most``: the largest
    variance that comes; the fit's own end where it is None.
    """
    high = found.high if most is None else most
    q = high * np.array([*_BETWEEN, 1e-3, 1e-6] if fine else _BETWEEN)
    fresh = Whole(source, q, rtol, what)
    defects = np.concatenate([np.logspace(-13.7, -2.2, 41), np.linspace(0.02, 0.99, 23)])
    sums = Sums(fresh, found.hinges.parts(q), defects if source.kinked else _defects(False, single)[1::2] * 1.3 % 1)
    g, _, _ = found.rows(q)
    degrees, signs, own = np.array(found.degrees), np.array(found.signs), _hinges_of(found.degrees, found.weights)
    worst = found.error
    if fine:
        small = high * np.logspace(-14, -0.1, 21)
        exact = source.square(small)
        apart = np.abs(found.variance(small) - exact)[exact > 0] / exact[exact > 0]
        worst = max(worst, float(apart.max(initial=0)))
    for parity in (0, 1):
        here = (degrees % 2 == parity) & (degrees > 0)
        if here.any():
            of = sums.of(g[here], own[here], signs[here], degrees[here].astype(np.float64), parity)
            worst = max(worst, float(np.abs(of - sums.total(parity)).max()))
    return worst
