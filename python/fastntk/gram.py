"""From inputs to finished arrays: tiles of the product, one engine call each. Keeps nothing n1 x n2 but the outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .backends import Engine, Tile, TileInput
from .program import Program

Array = npt.NDArray[Any]

_UNITS_BYTES = 64 << 20  # unit rows up to this size are kept for the whole call
_PRODUCT_FLOPS = 2e10  # of one tile: a fraction of a second, after which Ctrl-C is seen


class Units:
    """Unit rows of one input, x / |x|, a panel at a time, and its variances |x|^2 / d."""

    def __init__(self, x: Array, engine: Engine) -> None:
        self._x = x  # (batch, n, d), C-contiguous
        self._engine = engine
        batch, n, d = x.shape
        step = max(1, (_UNITS_BYTES // 4) // max(1, d * x.itemsize))
        self._all: Array | None = None
        flat = x.reshape(batch * n, d)
        self.q = np.empty(batch * n)
        keep = x.nbytes <= _UNITS_BYTES
        units = np.empty(x.shape, engine.product_dtype(x.dtype)) if keep else None
        for start in range(0, len(flat), step):
            unit, self.q[start : start + step] = engine.normalise(flat[start : start + step])
            if units is not None:
                units.reshape(flat.shape)[start : start + step] = unit
        self._all = units

    def panel(self, batches: slice, rows: slice) -> Array:
        """(batches, rows, d)."""
        if self._all is not None:
            return self._all[batches, rows]
        part = np.ascontiguousarray(self._x[batches, rows])
        return self._engine.normalise(part.reshape(-1, part.shape[2]))[0].reshape(part.shape)


@dataclass
class PairInput:
    """One input of a program: two sets of rows (``units2`` is ``units1`` where x2 is x1), or a known kernel's state."""

    q1: Array  # (batch * n1,)
    q2: Array
    units1: Units | None = None
    units2: Units | None = None
    defect: Array | None = None  # (batch, n1, n2)
    theta: Array | None = None


def _tiles(engine: Engine, batch: int, n1: int, n2: int, d: int, symmetric: bool) -> Iterator[Tile]:
    """Cover the pairs; of a symmetric Gram panels of lines from the diagonal on."""
    pairs = max(1, min(engine.tile_pairs, int(_PRODUCT_FLOPS / (2 * max(1, d)))))
    if n1 * n2 <= pairs:
        step = max(1, pairs // max(1, n1 * n2))
        for b in range(0, batch, step):
            yield Tile(n1, n2, b, min(step, batch - b), 0, n1, 0, n2, symmetric)
        return
    lines = min(n1, 256, max(1, math.isqrt(pairs)))
    cols = max(1, pairs // lines)
    for b in range(batch):
        for i in range(0, n1, lines):
            m = min(lines, n1 - i)
            first = i if symmetric else 0
            for j in range(first, n2, cols):
                yield Tile(n1, n2, b, 1, i, m, j, min(cols, n2 - j), symmetric)


def run_pairs(
    program: Program, engine: Engine, inputs: Sequence[PairInput], outputs: Sequence[Sequence[Array | None]],
    dtype: np.dtype[Any], batch: int, n1: int, n2: int, symmetric: bool,
) -> tuple[Any, Any]:  # fmt: skip
    """Fill (nngp, ntk, defect) of each program output, shape (batch, n1, n2); return both row tables."""
    rows1 = engine.rows(program, [i.q1 for i in inputs], dtype)
    rows2 = rows1 if symmetric else engine.rows(program, [i.q2 for i in inputs], dtype)
    if all(plane is None for planes in outputs for plane in planes) or 0 in (batch, n1, n2):
        return rows1, rows2
    d = max((i.units1._x.shape[2] for i in inputs if i.units1 is not None), default=1)
    buffers: dict[int, Array] = {}
    for tile in _tiles(engine, batch, n1, n2, d, symmetric):
        given = [_tile_input(k, i, engine, tile, dtype, buffers) for k, i in enumerate(inputs)]
        engine.run(program, rows1, rows2, dtype, tile, given, outputs)
    return rows1, rows2


def _tile_input(
    k: int, given: PairInput, engine: Engine, tile: Tile, dtype: np.dtype[Any], buffers: dict[int, Array]
) -> TileInput:
    batches = slice(tile.batch0, tile.batch0 + tile.batches)
    lines, cols = slice(tile.i0, tile.i0 + tile.lines), slice(tile.j0, tile.j0 + tile.cols)
    theta = None if given.theta is None else given.theta[batches, lines, cols]
    if given.defect is not None:
        return TileInput(defect=given.defect[batches, lines, cols], theta=theta)
    assert given.units1 is not None and given.units2 is not None
    unit1, unit2 = given.units1.panel(batches, lines), given.units2.panel(batches, cols)
    size = tile.batches * tile.lines * tile.cols
    if k not in buffers or buffers[k].size < size:
        buffers[k] = np.empty(size, engine.product_dtype(dtype))
    product = buffers[k][:size].reshape(tile.batches, tile.lines, tile.cols)
    with np.errstate(invalid="ignore", over="ignore"):
        if tile.batches == 1:
            np.matmul(unit1[0], unit2[0].T, out=product[0])
        else:
            np.matmul(unit1, unit2.transpose(0, 2, 1), out=product)
    return TileInput(product=product, theta=theta, unit1=unit1, unit2=unit2)


def run_diagonal(
    program: Program, engine: Engine, q: Sequence[Array], outputs: Sequence[Sequence[Array | None]], dtype: np.dtype[Any]
) -> Any:
    """Fill (nngp, ntk, defect) of pairs (x, x), shape (1, n, 1), in O(n)."""
    rows = engine.rows(program, q, dtype)
    n = len(q[0])
    if n:
        tile = Tile(n, n, 0, 1, 0, n, 0, 1, diagonal=True)
        engine.run(program, rows, rows, dtype, tile, [TileInput() for _ in q], outputs)
    return rows
