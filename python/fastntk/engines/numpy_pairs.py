"""Rows of both sides of a call: the defect of every pair of a tile, and gradients in the rows from those in pairs.

Pairs that are close to rho = +-1 are taken from the rows themselves: of each, the part of x' that is orthogonal to x.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.jet import over
from ..network.activations import rho_of, signed_defect
from .numpy_rows import CLOSE, normalise

Array = npt.NDArray[Any]

_CLOSE_NUMBERS = 1 << 20  # of rows of close pairs at a time


class Rows:
    """Rows of one side: x = length * unit, and x by a power of two, whose square is neither 0 nor infinite."""

    def __init__(self, x: Array) -> None:
        n, self.d = x.shape
        self.length, self.unit = np.empty(n), np.empty(x.shape)
        self.scale, self.scaled = normalise(x, self.unit, self.length)
        with np.errstate(over="ignore"):
            self.q = self.length * self.length / self.d
        self.gradient = np.zeros(x.shape)

    def add_along(self, D: Any) -> None:
        """Add the gradient along the rows themselves, D by the logarithms of their variances."""
        self.gradient += 2 * over(D, self.length)[:, None] * self.unit


def _fma(a: Array, b: Array, c: Array) -> Array:
    """``a b + c`` with one rounding where the sum cancels (Dekker 1971, two-product by splitting); a is (n, 1)."""

    def halves(x: Array) -> tuple[Array, Array]:
        wide = 134217729.0 * x  # 2^27 + 1
        high = wide - (wide - x)
        return high, x - high

    high, low = halves(np.concatenate([a, b], axis=1))
    ah, al, bh, bl = high[:, :1], low[:, :1], high[:, 1:], low[:, 1:]
    product = a * b
    found: Array = (product + c) + (((ah * bh - product) + ah * bl + al * bh) + al * bl)
    return found


def _across(x: Array, y: Array) -> tuple[Array, Array]:
    """Row by row the part of y that is orthogonal to x, right where it is small, and |x|^2 as (n, 1); no x is 0.

    What rounds the factor lies along x, and a second projection takes it out: twice is enough.
    """
    square = _sum(x * x)
    part = _fma(-_sum(x * y) / square, x, y)
    found: Array = part - _sum(part * x) / square * x
    return found, square


def _sum(x: Array) -> Array:
    """Of each row, (n, 1)."""
    found: Array = np.add.reduce(x, axis=1, keepdims=True)
    return found


class Pairs:
    """The pairs of a tile of one input; ``tiny``: a defect of rounding, which counts as none."""

    def __init__(self, rows1: Rows, rows2: Rows, lines: slice, columns: slice, tiny: float) -> None:
        self._rows1, self._rows2, self._lines, self._columns = rows1, rows2, lines, columns
        product = rows1.unit[lines] @ rows2.unit[columns].T
        w = np.maximum(1 - np.abs(product), 0)
        self._close = apart = w < CLOSE
        self._same = rows1 is rows2 and lines == columns
        if self._same:  # of a row with itself nothing lies across
            step = len(w) + 1
            np.copyto(w.reshape(-1)[::step], 0, where=apart.diagonal())
            apart = apart.copy()
            apart.reshape(-1)[::step] = False
        self._apart = np.nonzero(apart)
        self._kept: tuple[Array, Array, Array] | None = None
        for some in self._chunks():
            i, j = (at[some] for at in self._apart)
            across, _, square = self._across(some)
            sine2 = (_sum(across**2) / square)[:, 0]
            w[i, j] = np.minimum(sine2 / (1 + np.minimum(np.abs(product[i, j]), 1)), 1)
        self.defect = signed_defect(~(product < 0), np.where(w <= tiny, 0, w))

    def _across(self, some: slice) -> tuple[Array, Array, Array]:
        """Of close pairs what of x' is orthogonal to x, and of x to x', and |x'|^2 (m, 1); kept where these are all."""
        if self._kept is not None:
            return self._kept
        i, j = (at[some] for at in self._apart)
        x, y = self._rows1.scaled[self._lines][i], self._rows2.scaled[self._columns][j]
        both, squares = _across(np.concatenate([x, y]), np.concatenate([y, x]))
        found = both[: len(x)], both[len(x) :], squares[len(x) :]
        if len(x) == len(self._apart[0]):
            self._kept = found
        return found

    def _chunks(self) -> list[slice]:
        count, step = len(self._apart[0]), max(1, _CLOSE_NUMBERS // self._rows1.d)
        return [slice(k, k + step) for k in range(0, count, step)]

    def add(self, P: Array, wanted: tuple[bool, bool]) -> None:
        """Add sum_j P (x' - (K / q) x) / d to the gradients of the rows on both sides."""
        far, rho = np.where(self._close, 0.0, P), rho_of(self.defect)
        if self._same and not math.isfinite(P.trace()):  # what is put on a row with itself is to be seen
            self._apart, self._kept = np.nonzero(self._close), None
        for side, (own, other, mine) in enumerate((
            (self._rows1, self._rows2, self._lines), (self._rows2, self._rows1, self._columns)
        )):  # fmt: skip
            if not wanted[side]:
                continue
            theirs = self._columns if side == 0 else self._lines
            weight = (far if side == 0 else far.T) * other.length[theirs]
            part = weight @ other.unit[theirs]
            along = np.add.reduce(weight * (rho if side == 0 else rho.T), axis=1)
            unit = own.unit[mine]
            part -= along[:, None] * unit
            for some in self._chunks():
                i, j = (at[some] for at in self._apart)
                of, at = (i, j) if side == 0 else (j, i)
                z = self._across(some)[side] / other.scale[theirs][at, None]
                np.add.at(part, of, P[i, j][:, None] * z)
            own.gradient[mine] += part / own.d
