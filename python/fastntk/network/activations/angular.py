"""Functions of straight pieces: kinks anywhere, by integrals over the angle between the inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.polynomial import chebyshev

from ...base.libraries import erf
from ..expectations import Function, call
from ..kinks import Kink
from ..tails import layer_series
from .nonlinearity import Array, Correlation, Nonlinearity, defines_dual, signed_defect

_LEAST = 1e-36  # a variance of 0 counts as this
_CHUNK = 1 << 12  # pairs at a time
_FAR = 13.0  # |z| beyond which nothing lies


def _tail(h: Array) -> Array:
    """``P(z > h)``."""
    return np.asarray((1 - erf(h / math.sqrt(2), np)) / 2)


def _density(h: Array) -> Array:
    return np.asarray(np.exp(-h * h / 2) / math.sqrt(2 * math.pi))


@dataclass(frozen=True)
class _Angle:
    """Of an angle theta, ``cos theta = 1 - w``: what integrals over it need. tau = tan(t / 2), T its end."""

    w: Array
    T: Array
    x: Array  # nodes below T, as shares of it; (nodes, 1)
    weight: Array

    @classmethod
    def of(cls, w: Array) -> _Angle:
        node, weight = np.polynomial.legendre.leggauss(12)
        ends = np.array([0, 0.4, 0.8, 1.2, 1.8, 2.6, 3.6, 5.0, 7.0])  # of s, tau = T exp(-s)
        width = np.diff(ends)[:, None]
        s = (ends[:-1, None] + (node + 1) / 2 * width).ravel()
        x = np.exp(-s)
        return cls(w, np.sqrt(w / (2 - w)), x[:, None], ((weight / 2 * width).ravel() * x)[:, None])

    def integrals(self, h: Array, k: Array) -> tuple[Array, Array]:
        """``int_0^theta e(t) dt`` and ``int_0^theta e(t) (cos t - cos theta) dt``.

        ``e(t) / (2 pi sin t)`` is the density of inputs at angle t at kinks h and k, in their deviations:
        ``e = exp(-(h^2 + k^2) / 4 - ((h - k)^2 / tau^2 + (h + k)^2 tau^2) / 8)``, ``dt = 2 dtau / (1 + tau^2)``. Where
        h is next to k it rises from 0 within a tau of ``|h - k|``: with ``E_n = int_0^1 x^2n exp(-b^2 / x^2) dx``,
        ``b = |h - k| / (sqrt(8) T)``, in closed form, the first three powers of tau^2 of the other factor are taken
        exactly, and the rest, of order tau^6, by Gauss's rule in ``log tau``.
        """
        top, beta = np.exp(-(h * h + k * k) / 4), (h + k) ** 2 / 8
        T = np.maximum(self.T, 1e-300)
        b = np.minimum(np.abs(h - k) / (math.sqrt(8) * T), 30.0)
        edge = np.exp(-b * b)
        E0 = edge * chebyshev.chebval(2 * b / (b + 1) - 1, layer_series()) / (1 + b) ** 2
        E1 = (edge - 2 * b * b * E0) / 3
        E2 = (edge - 2 * b * b * E1) / 5
        y = (self.x * T) ** 2
        rise = np.exp(-((b / self.x) ** 2)) * self.weight
        falling = np.exp(-beta * y) / (1 + y)
        value = falling - (1 - (beta + 1) * y + (beta * beta / 2 + beta + 1) * y * y)
        first = 2 * y * (falling / (1 + y) - (1 - (beta + 2) * y))
        T2 = T * T
        total = E0 - (beta + 1) * T2 * E1 + (beta * beta / 2 + beta + 1) * T2 * T2 * E2 + (value * rise).sum(axis=0)
        fall = 2 * T2 * E1 - 2 * (beta + 2) * T2 * T2 * E2 + (first * rise).sum(axis=0)
        size = 2 * T * top
        return size * total, size * (self.w * total - fall)


@dataclass(frozen=True)
class _Side:
    """One input's half of a dual: slope left of all kinks, their places in its deviations, mirrored or not."""

    s: Array
    root: Array
    slope: float
    jumps: tuple[float, ...]
    places: tuple[Array, ...]
    phi: Function

    def value(self, z: Array) -> Array:
        """``phi(s z) / sqrt(V)``: not by the pieces, which cancel where s is small."""
        return call(self.phi, self.s * z) / self.root


@defines_dual
@dataclass(frozen=True)
class Angular(Nonlinearity):
    """``slope x + offset + sum_i jump_i max(x - place_i, 0)``, exact at every correlation.

    ``kdot = slope^2 + ... + sum_ij jump_i jump_j P(u > place_i, v > place_j)``, probabilities as integrals of the
    density over the angle (Sheppard 1899); ``1 - rho'`` is what differing variances cost, a mean square of differences,
    and the integral of kdot from there. In NumPy alone: hundreds of numbers for each pair of inputs.
    """

    layer: Nonlinearity
    slope: float
    offset: float
    kinks: tuple[Kink, ...]
    dual_name: ClassVar[str] = "angular"
    row_names: ClassVar[tuple[str, ...]] = ("s", "root")
    compiled: ClassVar[bool] = False
    counted: ClassVar[bool] = True

    def phi(self, x: Any, xp: Any) -> Any:
        return self.layer.phi(x, xp)

    def _side(self, s: Array, root: Array, mirrored: bool = False) -> _Side:
        jumps = tuple(kink.first for kink in self.kinks)
        if not mirrored:
            places = tuple(kink.place / s for kink in self.kinks)
            return _Side(s, root, self.slope, jumps, places, lambda x: self.layer.phi(x, np))
        # phi(-x): the line is that to the right of all kinks.
        places = tuple(-kink.place / s for kink in self.kinks)
        return _Side(s, root, -self.slope - sum(jumps), jumps, places, lambda x: self.layer.phi(-x, np))

    def variance(self, q: Array, xp: Any = np) -> Array:
        host_alone(xp)
        s = np.sqrt(np.maximum(q, _LEAST))
        flat = self._side(s.ravel(), np.ones(s.size))
        return (2 * _gap(flat, None)).reshape(np.shape(q))

    def mean(self, q: Array, xp: Any = np) -> Array:
        host_alone(xp)
        s = np.sqrt(np.maximum(q, _LEAST))
        total = self.offset + np.zeros_like(s)
        for kink in self.kinks:
            h = kink.place / s
            total = total + kink.first * s * (_density(h) - h * _tail(h))
        return total

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        root = np.sqrt(self.variance(q, xp))
        return {"s": np.sqrt(np.maximum(q, _LEAST)), "root": np.where(root > 0, root, 1)}

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        arrays = np.broadcast_arrays(c.w, c.near, x1.s, x1.root, x2.s, x2.root)
        shape = arrays[0].shape
        w, near, s1, root1, s2, root2 = (np.asarray(a).reshape(-1) for a in arrays)
        v, rho, kdot = (np.empty(w.shape) for _ in range(3))
        for start in range(0, len(w), _CHUNK):
            part = slice(start, start + _CHUNK)
            for side in (True, False):
                here = np.flatnonzero(near[part] == side) + start
                if len(here):
                    found = self._one_side(w[here], s1[here], root1[here], s2[here], root2[here], side)
                    v[here], rho[here], kdot[here] = found
        return v.reshape(shape), rho.reshape(shape), kdot.reshape(shape)

    def _one_side(
        self, w: Array, s1: Array, root1: Array, s2: Array, root2: Array, near: bool
    ) -> tuple[Array, Array, Array]:
        """Pairs whose correlations have one sign; where it is negative, of phi(-x) on the second input."""
        one, two = self._side(s1, root1), self._side(s2, root2, mirrored=not near)
        angle = _Angle.of(w)
        tails1, tails2 = [_tail(h) for h in one.places], [_tail(k) for k in two.places]
        # The line, and with the kinks of the other side.
        kdot = one.slope * two.slope + np.zeros_like(w)
        for jump, tail in zip(one.jumps, tails1, strict=True):
            kdot = kdot + two.slope * jump * tail
        for jump, tail in zip(two.jumps, tails2, strict=True):
            kdot = kdot + one.slope * jump * tail
        drop = w * kdot  # (k(1) - k(rho)) / (s1 s2)
        for jump1, h, tail1 in zip(one.jumps, one.places, tails1, strict=True):
            for jump2, k, tail2 in zip(two.jumps, two.places, tails2, strict=True):
                both = np.minimum(tail1, tail2)
                less, bent = angle.integrals(h, k)
                kdot = kdot + jump1 * jump2 * (both - less / (2 * math.pi))
                drop = drop + jump1 * jump2 * (w * both - bent / (2 * math.pi))
        drop = drop * (s1 / root1) * (s2 / root2)
        if near:
            minus = np.maximum(_gap(one, two) + drop, 0)
            return np.where(minus > 1, signed_defect(np.asarray(False), 2 - minus), minus), 1 - minus, kdot
        plus = np.maximum(_gap(one, two, 1.0) - drop, 0)
        return np.where(plus < 1, signed_defect(np.asarray(False), plus), 2 - plus), plus - 1, -kdot

    def kdot_slopes(self, c: Correlation, q1: Array, q2: Array) -> tuple[Array, Array, Array]:
        """Derivatives of kdot in ``ln q1`` and ``ln q2`` at fixed correlation, and in w; the last is 0 at w = 0.

        With ``h = place / s``: ``d/dh P(z > h, z' > k) = -density(h) P(z' > k | z = h)``, and in rho the density at
        (h, k) (Sheppard 1899).
        """
        s1, s2 = (np.sqrt(np.maximum(q, _LEAST)) for q in (q1, q2))
        sign = np.where(c.near, 1.0, -1.0)
        sine = np.sqrt(c.w * (2 - c.w))
        apart = sine > 0
        safe = np.where(apart, sine, 1)
        by_q1, by_q2, by_rho = (np.zeros(np.broadcast_shapes(s1.shape, s2.shape, c.w.shape)) for _ in range(3))
        for one in self.kinks:
            h, k = one.place / s1, one.place / s2
            slope1 = slope2 = np.full(by_q1.shape, self.slope)
            for other in self.kinks:
                h2, k2 = other.place / s1, other.place / s2
                slope1 = slope1 + other.first * _beyond(k2 - sign * h, sign * c.w * h, safe, apart)
                slope2 = slope2 + other.first * _beyond(h2 - sign * k, sign * c.w * k, safe, apart)
                exponent = (h - sign * k2) ** 2 / (2 * safe * safe) + sign * h * k2 / (2 - c.w)
                density = np.where(apart, np.exp(-exponent) / (2 * math.pi * safe), 0)
                by_rho = by_rho + one.first * other.first * density
            by_q1 = by_q1 + one.first * _density(h) * h / 2 * slope1
            by_q2 = by_q2 + one.first * _density(k) * k / 2 * slope2
        return by_q1, by_q2, -sign * by_rho


def _beyond(gap: Array, rest: Array, sine: Array, apart: Any) -> Array:
    """``P(z' > k | z = h)``, ``gap + rest = k - rho h``; at rho = +-1 a step, a half where k meets h."""
    return np.where(apart, _tail((gap + rest) / sine), np.where(gap == 0, 0.5, gap < 0))


def host_alone(xp: Any) -> None:
    """Refuse arrays of a device."""
    if xp is not np:
        raise NotImplementedError(
            "[stax.Activation] functions with kinks elsewhere than at 0 are computed by NumPy alone"
        )


def _gap(one: _Side, two: _Side | None, sign: float = -1.0) -> Array:
    """``E (f + sign g)^2 / 2`` of both inputs at correlation 1, by Gauss's rule between all kinks."""
    node, weight = np.polynomial.legendre.leggauss(32)
    edges = [np.full(one.s.shape, end) for end in (-_FAR, -5.0, 0.0, 5.0, _FAR)]
    edges += [np.clip(place, -_FAR, _FAR) for side in (one, two) if side is not None for place in side.places]
    ends = np.sort(np.stack(edges), axis=0)
    total = np.zeros(one.s.shape)
    for low, high in pairwise(ends):
        half = (high - low) / 2
        z = low + half * (node[:, None] + 1)
        value = one.value(z) if two is None else one.value(z) + sign * two.value(z)
        total += half * (weight @ (value * value * _density(z)))
    return total / 2
