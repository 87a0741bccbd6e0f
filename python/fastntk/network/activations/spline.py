"""Functions whose pieces are polynomials, up to the fourth degree: their kinks by integrals over the angle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.polynomial import Polynomial

from ...base.libraries import erf
from ..expectations import call
from ..kinks import Kink
from ..tails import tails
from .angular import host_alone
from .nonlinearity import Array, Correlation, Nonlinearity, defines_dual, signed_defect

MOST = 4  # degree of pieces
_LEAST = 1e-36  # a variance of 0 counts as this
_FAR = 40.0  # deviations beyond which nothing lies
_CHUNK = 1 << 10  # pairs at a time
_WITHIN = 3.0  # deviations within which tails are right enough beside the density
_OUTER = 13.0  # |z| of the outermost node


def _log_rule() -> tuple[Array, Array]:
    """Nodes below 1 and weights of a rule on [0, 1], right too for what rises within a small part of it."""
    node, weight = np.polynomial.legendre.leggauss(16)
    ends = np.concatenate([np.arange(0, 14, 0.8), np.arange(14, 24, 1.6), [24, 28, 33, 38]])
    width = np.diff(ends)[:, None]
    s = (ends[:-1, None] + (node + 1) / 2 * width).ravel()
    return s, (weight / 2 * width).ravel() * np.exp(-s)


_LOG, _WEIGHT = _log_rule()


@dataclass(frozen=True)
class Corner:
    """A kink at a distance from 0: jumps of the first four derivatives, seen on the way out."""

    place: float
    jumps: tuple[float, ...]


@dataclass(frozen=True)
class _Side:
    """One input's half of a dual, mirrored or not; ``tails[c][r + MOST + 1]``: ``E (z - h)+^r / r!``, r < 0 too."""

    s: Array
    root: Array
    inner: tuple[float, ...]
    right: tuple[Corner, ...]
    left: tuple[Corner, ...]
    tails: tuple[Array, ...]  # of corners on the right, then of those on the left
    mirrored: bool

    @property
    def corners(self) -> tuple[tuple[Corner, float, Array, Array], ...]:
        """Each with its sign, its place in deviations, its tails."""
        found = [*((c, 1.0) for c in self.right), *((c, -1.0) for c in self.left)]
        return tuple(
            (c, sign, np.minimum(c.place / self.s, _FAR), own) for (c, sign), own in zip(found, self.tails, strict=True)
        )

    def coefficients(self) -> tuple[list[Array], list[Array]]:
        """Hermite coefficients up to degree 4: of the polynomial within, and of the kinks."""
        inner = [np.zeros_like(self.s) for _ in range(MOST + 1)]
        for n, c in enumerate(self.inner):
            for order in range(n, -1, -2):  # E (s z)^n h_l(z)
                i = (n - order) // 2
                size = math.factorial(n) / (2**i * math.factorial(i) * math.sqrt(math.factorial(order)))
                inner[order] = inner[order] + c * size * self.s**n
        kinks = [np.zeros_like(self.s) for _ in range(MOST + 1)]
        for corner, sign, _, own in self.corners:
            for m, jump in enumerate(corner.jumps, 1):
                for order in range(MOST + 1):
                    factor = jump * sign**order / math.sqrt(math.factorial(order))
                    kinks[order] = kinks[order] + factor * self.s**m * own[m - order + MOST + 1]
        return inner, kinks


@dataclass(frozen=True)
class _Angle:
    """Of an angle theta, ``cos theta = 1 - w``, nodes t below it: (nodes, pairs)."""

    w: Array
    tau: Array  # tan(t / 2)
    sine: Array
    fall: Array  # cos t - cos theta
    dt: Array

    @classmethod
    def of(cls, w: Array) -> _Angle:
        T = np.sqrt(w / (2 - w))
        x = np.exp(-_LOG)[:, None]
        tau = np.maximum(T * x, 1e-150)
        over = 1 + tau * tau
        fall = -2 * T * T * np.expm1(-2 * _LOG)[:, None] / ((1 + T * T) * over)
        return cls(w, tau, 2 * tau / over, fall, 2 * T * _WEIGHT[:, None] / over)

    def density(self, h: Array, k: Array) -> Array:
        """The density of two inputs at angle t at h and k, times ``sin t dt``."""
        e = (h * h + k * k) / 4 + ((h - k) ** 2 / self.tau**2 + (h + k) ** 2 * self.tau**2) / 8
        return np.asarray(np.exp(-e) * self.dt / (2 * math.pi))

    def beyond(self, h: Array, k: Array, order: int) -> Array:
        """Density of u at h, times ``E (v - k)+^order / order!`` there, times ``sin t dt``."""
        y = (k - h) / self.sine + h * self.tau
        y = np.minimum(y, _FAR)
        if h.max() < _WITHIN:
            found = (1 - erf(y / math.sqrt(2), np)) / 2
            if order:
                density = np.exp(-np.minimum(y * y, 1400) / 2) / math.sqrt(2 * math.pi)
                found = density - y * found if order == 1 else ((1 + y * y) * found - y * density) / 2
        else:
            P, first, second = tails(np.minimum(np.abs(y), _FAR))
            near = np.where(y < 0, 1.0, 0.0)
            found = (P + near * (1 - 2 * P), first - near * y, (second + near * (1 + y * y - 2 * second)) / 2)[order]
        return np.asarray(np.exp(-h * h / 2) / math.sqrt(2 * math.pi) * self.sine ** (order + 1) * found * self.dt)


def _all_tails(h: Array) -> Array:
    """``E (z - h)+^r / r!``, h >= 0, for r from -5 to 8; for r < 0 ``-r - 1`` derivatives of the density."""
    node, weight = np.polynomial.legendre.leggauss(20)
    end = 84 / (np.sqrt(h * h + 84) + h)  # there exp(-h x - x^2 / 2) is exp(-42)
    x = np.stack([end * (n + (own + 1) / 2) / 4 for n in range(4) for own in node])
    fall = np.exp(-h * x - x * x / 2) * (end / 8) * np.tile(weight, 4).reshape(-1, *(1,) * h.ndim)
    density = np.exp(-h * h / 2) / math.sqrt(2 * math.pi)
    above = [(fall * x**r).sum(axis=0) / math.factorial(r) for r in range(2 * MOST + 1)]
    hermite = [1 + 0 * h, h]
    for n in range(2, MOST + 1):
        hermite.append(h * hermite[-1] - (n - 1) * hermite[-2])
    return np.stack([*hermite[::-1], *above]) * density


def _together(h: Array, k: Array, one: Array, two: Array, m: int, n: int) -> Any:
    """``E (z - h)+^m (z - k)+^n / (m! n!)`` of one z, from tails of both."""
    above = h >= k
    apart = np.abs(h - k)
    found: Any = 0.0
    for q in range(max(m, n) + 1):  # powers of the nearer kink's factor about the farther one
        if q <= n:
            part = apart ** (n - q) / math.factorial(n - q) * math.comb(m + q, m) * one[m + q + MOST + 1]
            found = found + np.where(above, part, 0)
        if q <= m:
            part = apart ** (m - q) / math.factorial(m - q) * math.comb(n + q, n) * two[n + q + MOST + 1]
            found = found + np.where(above, 0, part)
    return found


@defines_dual
@dataclass(frozen=True)
class Spline(Nonlinearity):
    """A polynomial about 0, and on either side ``sum_m jump_m (|x| - place)+^m / m!``, at every correlation.

    With ``T_mn(rho) = E (u - h)+^m (v - k)+^n / (m! n!)``, whose derivative is ``T_(m-1)(n-1)``, ``T_mn(1)`` in closed
    form, and what is lost on the way from there, for m <= n,
    ``sum_(j=1..m) -(-w)^j / j! T_(m-j)(n-j)(1) + (-1)^m int_0^theta D (cos t - cos theta)^m / m! sin t dt``: D the
    density of both inputs at (h, k) where m = n, else that of u at h times ``E (v - k)+^(n-m-1) / (n-m-1)!`` there.
    Kinks on different sides are ``T_mn(-rho)``, the integral alone. Low Hermite coefficients for the polynomial;
    ``1 - rho'`` and ``1 + rho'`` from mean squares of the values at rho = 1. In NumPy alone: thousands of numbers for
    each pair. Derived.
    """

    layer: Nonlinearity
    inner: tuple[float, ...]
    right: tuple[Corner, ...]
    left: tuple[Corner, ...]
    dual_name: ClassVar[str] = "spline"
    row_names: ClassVar[tuple[str, ...]] = ("s", "root")
    compiled: ClassVar[bool] = False
    counted: ClassVar[bool] = True

    @classmethod
    def of(cls, layer: Any, kinks: tuple[Kink, ...]) -> Spline | None:
        """The function by its pieces; None where these are no such polynomials."""
        pieces = _polynomials(layer, [kink.place for kink in kinks])
        if pieces is None:
            return None
        corners: dict[bool, list[Corner]] = {True: [], False: []}
        for kink, (before, after) in zip(kinks, pairwise(pieces), strict=True):
            place, jumps = _meeting(after - before, kink.place)
            if any(jumps):
                outwards = tuple((jump if place >= 0 else jump * (-1) ** (m + 1)) for m, jump in enumerate(jumps, 1))
                corners[place >= 0].append(Corner(abs(place), outwards))
        inner = pieces[sum(kink.place < 0 for kink in kinks)]
        slopes = [float(inner.deriv(n)(0.0) if n else inner(0.0)) for n in range(MOST + 1)]
        at_zero = tuple(_plain(slope / math.factorial(n)) for n, slope in enumerate(slopes))
        found = cls(layer, at_zero, tuple(corners[True]), tuple(corners[False]))
        reach = 2 + max(abs(kink.place) for kink in kinks)
        x = np.linspace(-reach, reach, 803) + 0.00713
        own, given = found.value(x), call(lambda x: layer.phi(x, np), x)
        return found if np.abs(own - given).max() <= 1e-12 * (1 + np.abs(given).max()) else None

    def value(self, x: Array, order: int = 0) -> Array:
        """The function, or its derivative, by its pieces."""
        found = Polynomial(self.inner).deriv(order)(x) if order else Polynomial(self.inner)(x)
        for corners, sign in ((self.right, 1.0), (self.left, -1.0)):
            for corner in corners:
                y = sign * x - corner.place
                for m, jump in enumerate(corner.jumps, 1):
                    if m >= order:
                        power = np.where(y > 0, np.maximum(y, 0) ** (m - order), 0) / math.factorial(m - order)
                        found = found + sign**order * jump * power
        return np.asarray(found)

    def keeps(self, low: float, high: float) -> bool:
        """Whether what cancels here leaves kdot its digits, for all variances between these."""
        q = np.array([max(low, 1e-3 * high, _LEAST), high])
        rows = self.rows(q)
        c = Correlation.of_defect(np.zeros(2))
        sides = self._side(rows["s"], rows["root"], False)
        exact = _expectation(sides, sides, lambda z, s: self.value(s * z, 1) ** 2)
        slope, _ = self._parts(sides, sides, c.w)
        _, drop = self._parts(sides, sides, c.w + 1)
        variance, mean = self.variance(q), self.mean(q)
        right = np.abs(slope - exact) <= 3e-13 * exact
        return bool((right & (np.abs(drop - (variance - mean * mean)) <= 3e-13 * variance)).all())

    def phi(self, x: Any, xp: Any) -> Any:
        return self.layer.phi(x, xp)

    def variance(self, q: Array, xp: Any = np) -> Array:
        host_alone(xp)
        s = np.sqrt(np.maximum(np.asarray(q, dtype=np.float64), _LEAST))
        side = self._side(s.ravel(), np.ones(s.size), False)
        return _expectation(side, side, lambda z, s: self._values(s * z) ** 2).reshape(s.shape)

    def mean(self, q: Array, xp: Any = np) -> Array:
        host_alone(xp)
        s = np.sqrt(np.maximum(np.asarray(q, dtype=np.float64), _LEAST))
        side = self._side(s.ravel(), np.ones(s.size), False)
        return _expectation(side, side, lambda z, s: self._values(s * z)).reshape(s.shape)

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        root = np.sqrt(self.variance(q, xp))
        return {"s": np.sqrt(np.maximum(q, _LEAST)), "root": np.where(root > 0, root, 1)}

    def _values(self, x: Array) -> Array:
        return call(lambda x: self.layer.phi(x, np), x)

    def _side(self, s: Array, root: Array, mirrored: bool) -> _Side:
        """Half of a dual; mirrored: of phi(-x)."""
        right, left = (self.left, self.right) if mirrored else (self.right, self.left)
        inner = tuple(c * (-1) ** n for n, c in enumerate(self.inner)) if mirrored else self.inner
        own = tuple(_all_tails(np.minimum(corner.place / s, _FAR)) for corner in (*right, *left))
        return _Side(s, root, inner, right, left, own, mirrored)

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        arrays = np.broadcast_arrays(c.w, c.near, x1.s, x1.root, x2.s, x2.root)
        w, near, *rows = (np.asarray(a).reshape(-1) for a in arrays)
        minus, plus, kdot = (np.empty(w.shape) for _ in range(3))
        for side in (True, False):
            own = np.flatnonzero(near == side)
            for start in range(0, len(own), _CHUNK):
                here = own[start : start + _CHUNK]
                s1, root1, s2, root2 = (row[here] for row in rows)
                one, two = self._side(s1, root1, False), self._side(s2, root2, not side)
                slope, drop = self._parts(one, two, w[here])
                drop = drop / (root1 * root2)
                minus[here] = self._gap(one, two, -1.0) + drop
                plus[here] = self._gap(one, two, 1.0) - drop
                kdot[here] = slope if side else -slope
        minus, plus = np.maximum(minus, 0), np.maximum(plus, 0)
        far = minus > plus
        v = np.where(far, signed_defect(np.asarray(False), plus), minus)
        shape = arrays[0].shape
        return v.reshape(shape), np.where(far, plus - 1, 1 - minus).reshape(shape), kdot.reshape(shape)

    def _gap(self, one: _Side, two: _Side, sign: float) -> Array:
        """``E (f + sign g)^2 / 2`` of both inputs, divided by their roots, at correlation 1."""

        def square(z: Array, _: Array) -> Array:
            f, g = self._values(one.s * z) / one.root, self._values((-z if two.mirrored else z) * two.s) / two.root
            return np.asarray((f + sign * g) ** 2 / 2)

        return _expectation(one, two, square)

    def _parts(self, one: _Side, two: _Side, w: Array) -> tuple[Array, Array]:
        """kdot, and ``k(1) - k(rho)``, of functions whose inputs have a correlation >= 0."""
        angle = _Angle.of(w)
        kdot, drop = np.zeros_like(w), np.zeros_like(w)
        (inner1, kinks1), (inner2, kinks2) = one.coefficients(), two.coefficients()
        log = np.log1p(-np.minimum(w, 1 - 1e-16))
        for order in range(1, MOST + 1):
            product = inner1[order] * (inner2[order] + kinks2[order]) + kinks1[order] * inner2[order]
            drop = drop - np.expm1(order * log) * product
            kdot = kdot + order * np.exp((order - 1) * log) * product / (one.s * two.s)
        for c1, sign1, h, tails1 in one.corners:
            for c2, sign2, k, tails2 in two.corners:
                terms = _Terms(angle, h, k, tails1, tails2, sign1 == sign2)
                for m, jump1 in enumerate(c1.jumps, 1):
                    for n, jump2 in enumerate(c2.jumps, 1):
                        if jump1 and jump2:
                            size = jump1 * jump2 * one.s ** (m - 1) * two.s ** (n - 1)
                            kdot = kdot + size * terms.slope(m, n)
                            drop = drop + size * one.s * two.s * terms.lost(m, n)
        return kdot, drop


class _Terms:
    """Of a kink of each input, on one side of 0 or on two: parts of k and of kdot, by orders."""

    def __init__(self, angle: _Angle, h: Array, k: Array, tails1: Array, tails2: Array, together: bool) -> None:
        self._angle, self._h, self._k, self._tails = angle, h, k, (tails1, tails2)
        self._one_side = together
        self._densities: dict[int, Array] = {}

    def _integral(self, m: int, n: int) -> Array:
        """``int D (cos t - cos theta)^min(m, n) / min(m, n)! sin t dt``."""
        order = abs(m - n) - 1
        key = 0 if m == n else n - m
        if key not in self._densities:
            h, k = self._h, self._k
            if m == n:
                found = self._angle.density(h, k if self._one_side else -k)
            elif m < n:
                found = self._angle.beyond(h if self._one_side else -h, k, order)
            else:
                found = self._angle.beyond(k if self._one_side else -k, h, order)
            self._densities[key] = found
        least = min(m, n)
        return np.asarray((self._densities[key] * self._angle.fall**least).sum(axis=0) / math.factorial(least))

    def slope(self, m: int, n: int) -> Array:
        """What jumps of the derivatives m and n add to kdot."""
        if not self._one_side:
            return -self._integral(m - 1, n - 1)
        return np.asarray(self._at_one(m - 1, n - 1) - self.lost(m - 1, n - 1))

    def _at_one(self, m: int, n: int) -> Any:
        return _together(self._h, self._k, *self._tails, m, n)

    def lost(self, m: int, n: int) -> Array:
        """``T_mn(1) - T_mn(rho)``; of kinks on two sides ``-T_mn(-rho)``."""
        if not self._one_side:
            return -self._integral(m, n)
        w, least = self._angle.w, min(m, n)
        found = float((-1) ** least) * self._integral(m, n)
        for j in range(1, least + 1):
            found = found - (-w) ** j / math.factorial(j) * self._at_one(m - j, n - j)
        return found


def _expectation(one: _Side, two: _Side, f: Any) -> Array:
    """``E f(z, s)`` by Gauss's rule between the kinks of both."""
    node, weight = np.polynomial.legendre.leggauss(32)
    edges = [np.full(one.s.shape, end) for end in (-_OUTER, -5.0, 0.0, 5.0, _OUTER)]
    for side in (one, two):
        for _, sign, place, _ in side.corners:  # where it is 0 within, all of it lies just beyond
            further = (0.0,) if any(side.inner) else (0.0, 1.0, 3.0)
            edges += [np.minimum(place + more, _OUTER) * sign for more in further]
    ends = np.sort(np.stack(edges), axis=0)
    total = np.zeros(one.s.shape)
    for low, high in pairwise(ends):
        half = (high - low) / 2
        z = low + half * (node[:, None] + 1)
        total += half * (weight @ (f(z, one.s) * np.exp(-z * z / 2))) / math.sqrt(2 * math.pi)
    return total


def _polynomials(layer: Any, places: list[float]) -> list[Polynomial] | None:
    """The polynomials between places where they meet, in powers of the distance from the middle of each piece."""
    reach = max(2.0, *(abs(place) for place in places))
    node = np.cos(np.pi * (np.arange(24) + 0.5) / 24)
    found = []
    for low, high in pairwise([places[0] - reach, *places, places[-1] + reach]):
        if high - low < 1e-3:
            return None
        y = call(lambda x: layer.phi(x, np), (low + high) / 2 + (high - low) / 2 * node)
        if not np.isfinite(y).all():
            return None
        size = 1 + float(np.abs(y).max())
        fits = [np.polynomial.Chebyshev.fit(node, y, degree, domain=[-1, 1]) for degree in (*range(MOST + 1), 2 * MOST)]
        left = [float(np.abs(own(node) - y).max()) for own in fits]
        if left[MOST] > 1e-12 * size or left[MOST] > 8 * left[-1] + 1e-14 * size:
            return None
        series = next(own for own, rest in zip(fits, left, strict=True) if rest <= 4 * left[MOST] + 1e-14 * size)
        series = np.polynomial.Chebyshev(series.coef, domain=[low, high])
        found.append(series.convert(kind=Polynomial, domain=[-1, 1], window=[-1, 1]))
    return found


def _meeting(step: Polynomial, place: float) -> tuple[float, tuple[float, ...]]:
    """Where two pieces meet, and what their derivatives jump by there."""
    slopes = [step, *(step.deriv(n) for n in range(1, MOST + 1))]
    for first in range(MOST, 0, -1):  # the first that jumps: those below it are 0 at one place
        own = place
        for _ in range(4):
            bend = float(slopes[first](own))
            own -= float(slopes[first - 1](own)) / bend if abs(bend) > 1e-8 else 1.0
        if abs(own - place) < 1e-3 and all(abs(below(own)) < 1e-9 for below in slopes[:first]):
            own = _plain(own)
            return own, tuple(0.0 if n < first else _plain(float(slopes[n](own))) for n in range(1, MOST + 1))
    return place, (0.0,) * MOST


def _plain(x: float) -> float:
    """A number of few decimals, where one is within rounding; 0 for what rounding leaves."""
    short = round(x, 9) + 0.0
    return short if abs(x - short) <= 3e-13 * max(1.0, abs(x)) else x
