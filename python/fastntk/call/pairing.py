"""Rows of both sides of a call: the defect of every pair of a tile, and gradients in the rows from those in pairs.

Pairs that are close to rho = +-1 are taken from the rows themselves: of each, the part of x' that is orthogonal to x.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.jet import over
from ..engines.numpy_rows import CLOSE, normalise
from ..network.activations import rho_of, signed_defect

Array = npt.NDArray[Any]

_CLOSE_NUMBERS = 1 << 20  # of rows of close pairs at a time


class Rows:
    """Rows of one side: x = length * unit, and x by a power of two, whose square is neither 0 nor infinite."""

    def __init__(self, x: Array) -> None:
        n, d = x.shape
        self.d = d
        lengths, unit = np.empty(n), np.empty((1, n, d))
        if x.size:
            normalise(x[None], unit, lengths)
        self.unit, self.length = unit[0], lengths
        with np.errstate(over="ignore"):
            self.q = lengths * lengths / d
        largest = np.max(np.abs(x), axis=1, initial=0)
        usable = np.isfinite(largest) & (largest > 0)
        self.scale = np.ldexp(1.0, np.minimum(-np.frexp(np.where(usable, largest, 1))[1], 1000).astype(np.int64))
        self.scaled = x.astype(np.float64) * self.scale[:, None]
        self.gradient = np.zeros((n, d))

    def add_along(self, D: Any) -> None:
        """Add the gradient along the rows themselves, D by the logarithms of their variances."""
        self.gradient += 2 * over(np.broadcast_to(D, self.length.shape), self.length)[:, None] * self.unit


def _fma(a: Array, b: Array, c: Array) -> Array:
    """``a b + c`` with one rounding where the sum cancels (Dekker 1971, two-product by splitting)."""

    def halves(x: Array) -> tuple[Array, Array]:
        high = 134217729.0 * x - (134217729.0 * x - x)  # 2^27 + 1
        return high, x - high

    (ah, al), (bh, bl) = halves(a), halves(b)
    product = a * b
    found: Array = (product + c) + (((ah * bh - product) + ah * bl + al * bh) + al * bl)
    return found


def _across(x: Array, y: Array) -> Array:
    """Row by row the part of y that is orthogonal to x, right where it is small.

    What rounds the factor lies along x, and a second projection takes it out: twice is enough.
    """
    square = np.sum(x * x, axis=1, keepdims=True)
    part = _fma(-over(np.sum(x * y, axis=1, keepdims=True), square), x, y)
    found: Array = part - over(np.sum(part * x, axis=1, keepdims=True), square) * x
    return found


class Pairs:
    """The pairs of a tile of one input; ``tiny``: a defect of rounding, which counts as none."""

    def __init__(self, rows1: Rows, rows2: Rows, lines: slice, columns: slice, tiny: float) -> None:
        self._rows1, self._rows2, self._lines, self._columns = rows1, rows2, lines, columns
        product = rows1.unit[lines] @ rows2.unit[columns].T
        w = np.maximum(1 - np.abs(product), 0)
        self._close = np.nonzero(w < CLOSE)
        for some in self._chunks():
            i, j = (at[some] for at in self._close)
            x, y = rows1.scaled[lines][i], rows2.scaled[columns][j]
            sine2 = over(np.sum(_across(x, y) ** 2, axis=1), np.sum(y * y, axis=1))
            w[i, j] = np.minimum(sine2 / (1 + np.minimum(np.abs(product[i, j]), 1)), 1)
        self.defect = signed_defect(~(product < 0), np.where(w <= tiny, 0, w))

    def _chunks(self) -> list[slice]:
        count, step = len(self._close[0]), max(1, _CLOSE_NUMBERS // self._rows1.d)
        return [slice(k, k + step) for k in range(0, count, step)]

    def add(self, P: Array, wanted: tuple[bool, bool]) -> None:
        """Add sum_j P (x' - (K / q) x) / d to the gradients of the rows on both sides."""
        far, rho = P.copy(), rho_of(self.defect)
        far[self._close] = 0
        for side, (own, other, mine) in enumerate((
            (self._rows1, self._rows2, self._lines), (self._rows2, self._rows1, self._columns)
        )):  # fmt: skip
            if not wanted[side]:
                continue
            theirs = self._columns if side == 0 else self._lines
            weight = (far if side == 0 else far.T) * other.length[theirs]
            part = weight @ other.unit[theirs]
            along = np.sum(weight * (rho if side == 0 else rho.T), axis=1)
            unit = own.unit[mine]
            part -= along[:, None] * unit
            for some in self._chunks():
                i, j = (at[some] for at in self._close)
                of, at = (i, j) if side == 0 else (j, i)
                z = _across(own.scaled[mine][of], other.scaled[theirs][at]) / other.scale[theirs][at, None]
                np.add.at(part, of, P[i, j][:, None] * z)
            own.gradient[mine] += part / own.d
