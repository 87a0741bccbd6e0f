"""Pairs of positions as sheets: arrays in which rows of points are positions, for the block loops of points.

Of pairs of images a sheet has a line for each position of the first images and a column for each of the second, (1, n1
P, n2 P); where p = p' is all that is needed, a batch for each position, (P, n1, n2). Of images with themselves there is
a batch for each image, (n, P, P), or (P, n, 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..network.window import Positions
from .segments import Cell

Array = npt.NDArray[Any]

EMPTY = {"v": 1.0, "k": 0.0, "theta": 0.0}  # what stands where positions are independent

_BLOCK = 1 << 15  # entries that stay in cache while several array operations run over them


class Sheets:
    """Where values lie: arrays are taken again once nothing reads them, from ``spare`` too, those of tiles before."""

    def __init__(self, dtype: np.dtype[Any], n1: int, n2: int, own: bool, spare: list[Array] | None = None) -> None:
        self.dtype, self.n1, self.n2, self.own = dtype, n1, n2, own
        self._spare = [] if spare is None else spare

    def shape(self, size: int, full: bool) -> tuple[int, int, int]:
        if not full:
            return (size, self.n1, 1 if self.own else self.n2)
        return (self.n1, size, size) if self.own else (1, self.n1 * size, self.n2 * size)

    def empty(self, size: int, full: bool) -> Array:
        """A sheet, whatever it holds."""
        shape = self.shape(size, full)
        count = math.prod(shape)
        found = None
        for k in reversed(range(len(self._spare))):  # the smallest that fits; of these what is likely still in cache
            own = self._spare[k]
            if own.dtype == self.dtype and count <= own.size <= 2 * count:
                found = k if found is None or own.size < self._spare[found].size else found
        memory = np.empty(count, self.dtype) if found is None else self._spare.pop(found)
        return memory[:count].reshape(shape)

    def release(self, sheet: Array) -> None:
        assert sheet.base is not None
        self._spare.append(sheet.base)

    # ---------------------------------------------------------------- as pairs of images

    def by_slots(self, view: Array, size: int) -> Array:
        """A full sheet as (n1, slots, n2, slots), of images with themselves (n, slots, slots)."""
        return view if self.own else view[0].reshape(self.n1, size, self.n2, size)

    def equal_slots(self, view: Array, size: int) -> Array:
        """Of a full sheet p = p', (slots, n1, n2): a view."""
        if self.own:
            return np.asarray(np.einsum("npp->pn", view)[:, :, None])
        return np.asarray(np.einsum("ipjp->pij", self.by_slots(view, size)))

    def to_pairs(self, view: Array, cell: Cell, full: bool) -> Array:
        """(pairs, P, P'), or (pairs, P) where p = p'."""
        count = cell.size
        if not full:
            found = self.equal_slots(view, count) if cell.full else view
            return found.reshape(count, -1).T
        found = self.by_slots(view, count)
        return found if self.own else found.transpose(0, 2, 1, 3).reshape(self.n1 * self.n2, count, count)

    def from_pairs(self, pairs: Array, view: Array, cell: Cell) -> None:
        """Write (pairs, P, P') or (pairs, P) to a sheet."""
        count = cell.size
        if not cell.full:
            view[...] = pairs.T.reshape(view.shape)
        elif self.own:
            view[...] = pairs
        else:
            self.by_slots(view, count)[...] = pairs.reshape(self.n1, self.n2, count, count).transpose(0, 2, 1, 3)

    # ---------------------------------------------------------------- positions that move

    def alone(self, source: Array, before: Cell, view: Array, cell: Cell, empty: float) -> None:
        """Positions p = p' of a value; where all pairs are wanted, the others are independent."""
        found = self.equal_slots(source, before.size) if before.full else source
        if cell.full:
            view[...] = empty
            view = self.equal_slots(view, cell.size)
        view[...] = found

    def gather(self, source: Array, before: Cell, view: Array, cell: Cell, index: Positions, empty: float) -> None:
        """``view[p] = source[index[p]]``, at both positions; ``empty`` where an index is -1."""
        missing = index < 0
        if not cell.full:
            np.take(self.equal_slots(source, before.size) if before.full else source, index, 0, view, mode="wrap")
            view[missing] = empty
            return
        out, found = self.by_slots(view, cell.size), self.by_slots(source, before.size)
        if self.own:
            out[...] = found[:, index[:, None], index]
            out[:, missing] = out[:, :, missing] = empty
        else:
            out[...] = found[:, index][:, :, :, index]
            out[:, missing] = out[:, :, :, missing] = empty

    def rows(self, of: Array, full: bool, second: bool) -> Array:
        """Numbers (n, P) of one side's images, to broadcast over a sheet."""
        if not full:
            found = of.T
            return found[:, :, None] if not second else found[:, None, :] if not self.own else found[:, :, None]
        found = of if self.own else of.reshape(1, -1)
        return found[:, None, :] if second else found[:, :, None]


def joint_defect(x: Array, one: Sequence[Array], two: Sequence[Array]) -> bool:
    """Signed defects of combinations from ``sum s s' (1 - rho)``, in place, as numpy_mix.defect_of_sums has them.

    ``one`` and ``two`` are what combine() makes of each image, to broadcast. True where ``1 + rho`` has lost digits.
    """
    lost = False
    for part in blocks(x.shape):
        minus = x[part]
        own1, own2 = ([_part(row, part) for row in of] for of in (one, two))
        _with_rest(minus, own1, own2)
        np.maximum(minus, 0, out=minus)
        most = float(minus.max(initial=0))
        if most > 1:
            minus -= np.multiply(minus > 1, 2, dtype=minus.dtype)
            lost = lost or most > 2 - _DIGITS
        _settle(minus, own1, own2)
    return lost


_DIGITS = 2.0**-6  # 1 + rho below it is not taken from 1 - rho


def joint_defect_of_both(minus: Array, plus: Array, one: Sequence[Array], two: Sequence[Array]) -> None:
    """The same from both sums; the result stands in the first."""
    for part in blocks(minus.shape):
        a, b = minus[part], plus[part]
        own1, own2 = ([_part(row, part) for row in of] for of in (one, two))
        _with_rest(a, own1, own2)
        _with_rest(b, own1, own2)
        a[...] = np.where(a > b, -np.maximum(b, 1e-37), np.maximum(a, 0))
        _settle(a, own1, own2)


def _with_rest(x: Array, one: Sequence[Array], two: Sequence[Array]) -> None:
    (d1, e1, m1, i1, _), (d2, e2, m2, i2, _) = one, two
    rest = d1 - d2
    rest *= e1 - e2
    rest -= m1
    rest -= m2
    x += rest
    x *= i1
    x *= i2


def _settle(x: Array, one: Sequence[Array], two: Sequence[Array]) -> None:
    """A zero variance counts as rho = 0; where a sum of deviations is negative, its other sign was meant."""
    for inverse in (one[3], two[3]):
        if not inverse.all():
            np.copyto(x, 1, where=inverse == 0)
    turned1, turned2 = one[4], two[4]
    if (turned1 < 0).any() or (turned2 < 0).any():
        opposite = turned1 * turned2 < 0
        np.copyto(x, 1e-37, where=opposite & (x == 0))  # -0 would count as rho = 1
        np.negative(x, out=x, where=opposite)


def _part(row: Array, part: tuple[slice, slice]) -> Array:
    return row[tuple(own if n > 1 else slice(None) for own, n in zip(part, row.shape, strict=False))]


def blocks(shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """Batches and lines of a sheet, some at a time."""
    batches, lines, cols = shape
    if lines * cols <= _BLOCK:
        step = max(1, _BLOCK // max(1, lines * cols))
        return [(slice(b, b + step), slice(None)) for b in range(0, batches, step)]
    step = max(1, _BLOCK // cols)
    return [(slice(b, b + 1), slice(i, i + step)) for b in range(batches) for i in range(0, lines, step)]


def combine(S: Array, M: Array, t: Array) -> tuple[list[Array], Array]:
    """What joint_defect reads of one image's sums (n, P), and what their matrix is multiplied by: sign and scale."""
    size = np.maximum(np.abs(S), t)
    most = np.finfo(S.dtype).maxexp - 24
    e = np.ldexp(np.ones_like(S), np.clip(-np.frexp(size)[1], -most, most))  # sums of two sizes would cancel all digits
    turned = np.where(S < 0, -1.0, 1.0)
    S, M, t = np.abs(S) * e, M * e * e, t * e
    d = M / np.where(S + t == 0, 1, S + t)
    inverse = np.where(t == 0, 0, 1 / np.where(t == 0, 1, t))
    return [d / 2, 2 * S - d, M / 2, inverse, turned], turned * e
