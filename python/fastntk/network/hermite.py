"""Hermite coefficients of functions that are smooth, or smooth on either side of 0, up to any degree.

``a_l(q) = E phi(sqrt(q) z) h_l(z)`` gives ``k = sum_l a_l(q11) a_l(q22) rho^l`` (Daniely, Frostig and Singer 2016,
arXiv:1602.05897, section 4): hundreds of terms where variances are large, and no end of them with a kink.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.polynomial import chebyshev

from .expectations import RTOL, Function, call, squared, trapezoid

Array = npt.NDArray[np.float64]

MOST = 1 << 15  # terms of a whole series; compiled series have lower degrees
_BLOCK = 64  # Hermite functions at a time
_REACHES = (13.0, 18.0, 24.0)  # |z| of the outermost node: sqrt(weight) is 4e-19 and less
EXACT = 2048  # degree from which coefficients of functions with a kink are continued, as those from _FROM on go
_FROM = 400


@dataclass(frozen=True)
class Nodes:
    """A rule on the line: nodes z, and ``sqrt(w(z))`` times the weights of the rule, w the density of z."""

    z: Array
    root: Array
    weight: Array

    @classmethod
    def trapezoid(cls, degree: int, fine: float, reach: float) -> Nodes:
        """For functions that ``fine`` nodes to a unit of z resolve, times Hermite functions up to a degree."""
        step = 1 / (fine + (math.sqrt(degree) + 8) / (2 * math.pi))
        z = np.arange(-int(reach / step), int(reach / step) + 1) * step
        return cls._of(z, np.full(len(z), step))

    @classmethod
    def panels(cls, degree: int, scale: float, reach: float) -> Nodes:
        """For functions that are so on either side of 0."""
        x, w = np.polynomial.legendre.leggauss(24)
        n = max(2, int(reach * (1.05 * math.sqrt(degree) + 4 + 2 * scale) / 12) + 1)
        ends = np.linspace(0, reach, n + 1)
        width = np.diff(ends)[:, None]
        z, weight = (ends[:-1, None] + (x + 1) / 2 * width).ravel(), (w / 2 * width).ravel()
        return cls._of(np.concatenate([-z[::-1], z]), np.concatenate([weight[::-1], weight]))

    @classmethod
    def _of(cls, z: Any, weight: Any) -> Nodes:
        root = np.exp(-z * z / 4) / (2 * math.pi) ** 0.25
        return cls(z, root, root * weight)

    def coefficients(self, values: Array, degrees: npt.NDArray[np.int64]) -> Array:
        """``a_l`` of these degrees, ascending, of functions with values (n, nodes): (degrees, n)."""
        found = np.empty((len(degrees), len(values)))
        weighted = values * self.weight
        before, now = np.zeros_like(self.z), self.root
        block = np.empty((_BLOCK, len(self.z)))
        kept = 0
        for degree in range(int(degrees[-1]) + 1 if len(degrees) else 0):
            if degree:
                before, now = now, (self.z * now - math.sqrt(degree - 1) * before) / math.sqrt(degree)
            if degree == degrees[kept]:
                block[kept % _BLOCK] = now
                kept += 1
                if kept % _BLOCK == 0 or kept == len(degrees):
                    start = (kept - 1) // _BLOCK * _BLOCK
                    found[start:kept] = block[: kept - start] @ weighted.T
        return found


def _values(fn: Function, scale: Array, z: Array, what: str) -> Array:
    with np.errstate(all="ignore"):
        x = scale[:, None] * z
        y = call(fn, x)
    if not np.isfinite(y).all():
        at = np.unravel_index(int(np.argmax(~np.isfinite(y))), y.shape)
        raise ValueError(
            f"[{what}] the function is {y[at]} at x = {x[at]:.6g}: variances reach {scale[at[0]] ** 2:.6g}"
        )
    return y


class Coefficients:
    """Hermite coefficients of a function, of any degree, at variances up to ``high``.

    With a kink at 0 those beyond degree 2,048 are continued as power series in ``1 / l``, of either parity.
    """

    def __init__(self, fn: Function, high: float, kinked: bool, what: str) -> None:
        self.fn, self._scale, self.kinked, self._what = fn, math.sqrt(high), kinked, what
        self._fine = max(4.0, 4.0 * self._scale)
        self._reach = self._find_reach(high)
        if not kinked:
            self._fine = max(self._fine, 1 / trapezoid(squared(fn), np.array([self._scale]), RTOL, what)[1])

    def _find_reach(self, high: float) -> float:
        for reach in _REACHES:
            nodes = self._nodes(1, reach)
            size = np.abs(_values(self.fn, np.array([self._scale]), nodes.z, self._what)[0]) * nodes.root
            if max(size[0], size[-1]) <= 1e-16 * max(float(size.max()), 1e-300):
                return reach
        raise ValueError(
            f"[{self._what}] grows too fast: of an input of variance {high:.6g} its square has no expectation that "
            f"{_REACHES[-1]:g} standard deviations hold"
        )

    def _nodes(self, degree: int, reach: float | None = None) -> Nodes:
        reach = self._reach if reach is None else reach
        return Nodes.panels(degree, self._scale, reach) if self.kinked else Nodes.trapezoid(degree, self._fine, reach)

    def nodes_of(self, degree: int) -> int:
        """How many values of the function a coefficient of this degree takes."""
        return len(self._nodes(degree).z)

    def square(self, q: Array) -> Array:
        """``E phi(sqrt(q) z)^2``."""
        nodes = self._nodes(64)
        return _values(self.fn, np.sqrt(q), nodes.z, self._what) ** 2 @ (nodes.root * nodes.weight)

    def slope_of_square(self, q: Array) -> Array:
        """Its derivative in q, ``E phi(sqrt(q) z)^2 (z^2 - 1) / (2 q)``."""
        nodes = self._nodes(64)
        weight = nodes.root * nodes.weight * (nodes.z**2 - 1)
        return _values(self.fn, np.sqrt(q), nodes.z, self._what) ** 2 @ weight / (2 * q)

    def at(self, q: Array, degrees: npt.NDArray[np.int64]) -> Array:
        """``a_l(q)``, (degrees, variances); degrees ascending."""
        if not self.kinked or degrees[-1] <= EXACT:
            nodes = self._nodes(int(degrees[-1]))
            return nodes.coefficients(_values(self.fn, np.sqrt(q), nodes.z, self._what), degrees)
        nodes = self._nodes(EXACT)
        table = nodes.coefficients(_values(self.fn, np.sqrt(q), nodes.z, self._what), np.arange(EXACT + 1))
        found = np.empty((len(degrees), len(q)))
        near = degrees <= EXACT
        found[near] = table[degrees[near]]
        for parity in (0, 1):
            here = ~near & (degrees % 2 == parity)
            found[here] = continued(table, parity, degrees[here].astype(np.float64))
        return found


def continued(table: Array, parity: int, degrees: Array, order: int = 0) -> Array:
    """Coefficients of one parity far out, at real degrees, of functions with a kink: all of one sign.

    ``table``: those of degrees 0 .. 2,048, whose signs alternate. ``order``: 1 where the third or the fourth derivative
    is the first to jump.
    """
    own = np.arange(_FROM + parity, EXACT + 1, 2)
    power = (1.25 if parity == 0 else 1.75) + order
    scaled = table[own] * np.where(own // 2 % 2 == 0, 1.0, -1.0)[:, None] * (own**power)[:, None]
    series = chebyshev.chebfit(2 * _FROM / own - 1, scaled, 6)
    return np.asarray(chebyshev.chebval(2 * _FROM / degrees - 1, series).T * (degrees**-power)[:, None])


@dataclass(frozen=True)
class Hinges:
    """The kink of a function at 0: jumps of its first four derivatives, from the left to the right.

    They leave series that end slowly: ``a_l ~ l^(-5/4)`` at even l, ``l^(-7/4)`` at odd l, of the first two;
    ``l^(-9/4)`` and ``l^(-11/4)`` of the others. What the parts ``(first / 2) |x| + (third / 12) |x|^3`` and
    ``(second / 4) x |x| + (fourth / 48) x^3 |x|`` contribute is known in closed form, and only the rest is a series.
    """

    first: float = 0.0
    second: float = 0.0
    third: float = 0.0
    fourth: float = 0.0

    def parts(self, q: Any, xp: Any = np) -> Any:
        """How often ``|z|``, ``|z|^3`` (parity 0), ``z |z|``, ``z^3 |z|`` (1) are in the function of ``sqrt(q) z``.

        (2, 2, *q.shape).
        """
        s = xp.sqrt(q)
        even, odd = (self.first / 2 * s, self.third / 12 * q * s), (self.second / 4 * q, self.fourth / 48 * q * q)
        return xp.stack([xp.stack(list(even)), xp.stack(list(odd))])


NO_HINGES = Hinges()


@lru_cache(maxsize=1)
def hinge_table() -> Array:
    """``a_l`` of ``|z|`` and of ``|z|^3`` at even degrees up to 2,048, of ``z |z|`` and ``z^3 |z|`` at odd ones.

    (degrees, 2). ``E |z| h_l`` is ``sqrt(2 / pi) (l - 3)!! / sqrt(l!)`` but for signs, which alternate; the others
    follow by ``E f h_l = E f' h_(l - 1) / sqrt(l)``.
    """
    table = np.zeros((EXACT + 1, 2))
    table[0] = math.sqrt(2 / math.pi) * np.array([1, 2])
    table[2, 0] = math.sqrt(1 / math.pi)
    for n in range(2, EXACT - 1, 2):
        table[n + 2, 0] = -table[n, 0] * (n - 1) / math.sqrt((n + 1) * (n + 2))
    root = np.sqrt(np.arange(1, EXACT + 1))
    table[1::2, 0] = 2 * table[:-1:2, 0] / root[::2]
    table[2::2, 1] = 3 * table[1::2, 0] / root[1::2]
    table[1::2, 1] = 4 * table[:-1:2, 1] / root[::2]
    table.setflags(write=False)
    return table


def hinges_at(degrees: Array, parity: int) -> Array:
    """The same at degrees of one parity, whole ones up to 2,048, real ones beyond: (degrees, 2)."""
    table, near = hinge_table(), degrees <= EXACT
    found = np.empty((len(degrees), 2))
    found[near] = table[degrees[near].astype(np.int64)]
    for order in (0, 1):
        found[~near, order] = continued(table[:, order : order + 1], parity, degrees[~near], order)[:, 0]
    return found


# ---------------------------------------------------------------- the whole series


@dataclass(frozen=True)
class Part:
    """The terms l >= 1 of one parity: real degrees, how often each counts, ``g_l(q) = a_l / sqrt(V)``, (terms, n).

    And the coefficients of the hinges of this parity, (terms, 2). Far out one term stands for many.
    """

    degrees: Array
    counts: Array
    g: Array
    hinge: Array


class Whole:
    """All terms of the series at some variances."""

    def __init__(self, source: Coefficients, q: Array, rtol: float, what: str) -> None:
        self.source, self.q = source, q
        self.table = source.at(q, np.arange(EXACT + 1)) if source.kinked else self._smooth(q, rtol, what)
        self.size = np.sqrt(np.maximum(source.square(q), 1e-300))
        self.table /= self.size
        self.parts = self._part(0), self._part(1)

    def _smooth(self, q: Array, rtol: float, what: str) -> Array:
        terms, size = 64, self.source.square(q)
        while True:  # until those left out carry less than rtol / 10 of kdot at rho = 1
            table = self.source.at(q, np.arange(terms + 1))
            left = (np.arange(terms + 1)[:, None] * table**2)[::-1].cumsum(0)[::-1]
            small = (left <= rtol / 10 * left[0] + 1e-24 * (table**2).sum(0)).all(1)
            # All of the function is there: of a wave the first terms may be 0, and tell nothing of what comes.
            full = ((table**2).sum(0) >= size * (1 - max(1e-10, rtol / 100))).all()
            # An odd function has every other one 0: the last one says little.
            if full and small[: 3 * terms // 4].any():
                return table[: max(int(np.argmax(small)), 3)]
            terms *= 2
            ends = small.any() or not full
            slow = not ends and terms > 2048 and (left[terms // 4] > 0.1 * left[0]).any()  # no end in sight
            if terms > MOST or slow:
                raise ValueError(
                    f"[{what}] its inputs have variances up to {q.max():.6g}, where its Hermite series has more than "
                    f"{MOST} terms: normalise the inputs, or give kinks by breaks="
                )

    def _part(self, parity: int) -> Part:
        degrees = np.arange(2 - parity, len(self.table), 2)
        own, g = degrees.astype(np.float64), self.table[degrees]
        if not self.source.kinked:
            return Part(own, np.ones(len(own)), g, np.zeros((len(own), 2)))
        # Beyond: octaves of the sum as an integral, by Gauss's rule in log l, and the first term of Euler and Maclaurin
        # where it begins.
        start = own[-1] + 1
        x, w = np.polynomial.legendre.leggauss(10)
        ends = math.log(start) + math.log(2) * np.arange(49)
        width = np.diff(ends)[:, None]
        far = np.exp(ends[:-1, None] + (x + 1) / 2 * width).ravel()
        counts = (w / 2 * width).ravel() * far / 2
        beyond = np.concatenate([far, [start + 1, start - 1]])
        return Part(
            np.concatenate([own, beyond]),
            np.concatenate([np.ones(len(own)), counts, [1 / 24, -1 / 24]]),
            np.concatenate([g, continued(self.table, parity, beyond)]),
            hinges_at(np.concatenate([own, beyond]), parity),
        )

    def columns(self, parity: int, degrees: npt.NDArray[np.int64]) -> tuple[Array, Array]:
        """``g_l(q)`` of given degrees, and the hinges' coefficients, at whole degrees as far as one likes."""
        near = degrees < len(self.table)
        g = np.concatenate([self.table[degrees[near]], self._beyond(parity, degrees[~near], self.table)])
        if not self.source.kinked:
            return g, np.zeros((len(degrees), 2))
        return g, hinges_at(degrees.astype(np.float64), parity)

    def _beyond(self, parity: int, degrees: npt.NDArray[np.int64], table: Array) -> Array:
        if not len(degrees):
            return np.empty((0, table.shape[1]))
        return continued(table, parity, degrees.astype(np.float64))
