"""From inputs to finished arrays, tile by tile. Nothing n1 x n2 is kept but the outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arrays import direct
from ..engines.engine import Engine, Tile, TileInput
from ..engines.numpy_rows import NumpyEngine
from ..network.program import Lowered
from ..plan.rows import layout_of
from .extremes import Flags, limits, outside

Array = npt.NDArray[Any]  # or of the engine's library, Engine.xp
Planes = Sequence[Sequence[Array | None]]  # (nngp, ntk, defect) of each program output

_APART = 1 << 20  # pairs of a tile that engines write to a buffer first


_EXTREMES = 1 << 20  # pairs that are computed again at a time


class Units:
    """Unit rows of one input, x / |x|, a tile at a time, and its variances |x|^2 / d."""

    def __init__(self, x: Array, engine: Engine) -> None:
        self._engine = engine
        batch, n, self.d = x.shape  # C-contiguous
        norms = engine.xp.empty((batch, n), engine.real)
        self._all: Array | None = None
        if x.nbytes <= engine.cache_bytes:
            x = engine.bring(x)
            self._all = self._normalised(x, norms)
        else:
            rows = max(1, min(n, engine.cache_bytes // 4 // (self.d * x.itemsize)))
            for b in range(batch):
                for i in range(0, n, rows):
                    part = norms[b : b + 1, i : i + rows]
                    own = engine.xp.empty(part.shape, engine.real)
                    self._normalised(engine.bring(x[b : b + 1, i : i + rows]), own)
                    part[...] = own
        self._x = x
        with np.errstate(over="ignore"):
            self.q = (norms * norms / self.d).reshape(-1)
        self._norms = norms.reshape(batch, 1, n)

    def _normalised(self, x: Array, norms: Array) -> Array:
        batch, n, d = x.shape
        panel = self._engine.panel
        shape = x.shape if panel is None else (batch, -(-n // panel), d * panel)
        units: Array = self._engine.xp.empty(shape, self._engine.product_dtype(x.dtype))
        if x.size:
            self._engine.normalise(x, units, norms.reshape(-1))
        return units

    def outside(self, least: float, most: float) -> Flags:
        """Rows whose standard deviations are beyond these, (batch, n)."""
        root, norms = math.sqrt(self.d), self._norms[:, 0]
        if not norms.size or (norms.min() >= least * root and norms.max() <= most * root):  # soon over
            return np.zeros(norms.shape, np.bool_)
        return outside(norms, least * root, most * root)

    def further(self, rows: Flags) -> Array:
        """Variances of some rows, flags (batch * n,), in the type that reaches further."""
        some = self._x.reshape(-1, self.d)[rows].astype(np.float64)
        q: Array = Units(some[None], NumpyEngine(np.longdouble)).q
        return q

    def again(self, engine: Engine, batch: int, rows: slice = slice(None)) -> Units:
        """Some rows, in float64 on an engine."""
        return Units(self._x[batch : batch + 1, rows].astype(np.float64), engine)

    def tile(self, batches: slice, rows: slice) -> tuple[Array, Array, Array]:
        """Unit rows (batches, rows, d), or the panels that hold them; rows as given; their lengths (batches, 1, rows).

        ``rows`` begins at a whole panel.
        """
        panel, norms = self._engine.panel, self._norms[batches, :, rows]
        if self._all is None:
            part = self._engine.xp.ascontiguousarray(self._engine.bring(self._x[batches, rows]))
            return self._normalised(part, self._engine.xp.empty(part.shape[:2], self._engine.real)), part, norms
        units = rows if panel is None else slice(rows.start // panel, -(-rows.stop // panel))
        return self._all[batches, units], self._x[batches, rows], norms


@dataclass
class PairInput:
    """One input of a program: two sets of rows (``units2`` is ``units1`` where x2 is x1), or a known kernel's state."""

    q1: Array  # (batch * n1,), float64
    q2: Array
    units1: Units | None = None
    units2: Units | None = None
    defect: Array | None = None  # (batch, n1, n2)
    theta: Array | None = None


class RowTables:
    """Row tables of one side, made for as many rows at a time as a tile needs."""

    def __init__(
        self, lowered: Lowered, engine: Engine, q: Sequence[Array], dtype: np.dtype[Any], units: Sequence[Units | None]
    ) -> None:
        self._lowered, self._engine, self._q, self._dtype = lowered, engine, q, dtype
        self._units = [u for u in units if u is not None]
        self._span = (-1, -1)
        self._table: Any = None

    def table(self, start: int, stop: int) -> tuple[Any, int]:
        """A table that holds rows start .. stop, and the place of row ``start`` in it."""
        if not (self._span[0] <= start and stop <= self._span[1]):
            n = len(self._q[0])
            step = rows_per_table(self._lowered, self._dtype, self._engine)
            self._span = (0, n) if n <= step else (start, stop)
            rows = slice(*self._span)
            self._table = self._engine.rows(self._lowered, [q[rows] for q in self._q], self._dtype)
        return self._table, start - self._span[0]

    def variance(self, output: int) -> Array:
        """K(x, x) of one output for every row, float64."""
        n, step = len(self._q[0]), rows_per_table(self._lowered, self._dtype, self._engine)
        parts = []
        for start in range(0, n, step):
            stop = min(n, start + step)
            table, first = self.table(start, stop)
            parts.append(table.variance(output)[first : first + stop - start])
        found = self._engine.deliver(self._engine.xp.concatenate(parts or [self._q[0]]))
        wide = _outside(self._lowered, self._engine, self._units, np.dtype(np.float64))
        if wide is not None and len(self._units) == len(self._q):
            further = NumpyEngine(np.longdouble)
            rows = further.rows(self._lowered, [u.further(wide) for u in self._units], self._dtype)
            with np.errstate(over="ignore", under="ignore"):
                found[wide] = rows.variance(output)
        return found


def rows_per_table(lowered: Lowered, dtype: np.dtype[Any], engine: Engine) -> int:
    """Rows whose table stays within the byte budget, at five numbers an op where fewer are needed."""
    n_ops, n_rows = len(lowered.program.ops), layout_of(lowered.program).n_rows
    return max(1024, engine.cache_bytes // (max(n_rows, 5 * n_ops) * dtype.itemsize + 8 * n_ops))


def run_pairs(
    lowered: Lowered, engine: Engine, inputs: Sequence[PairInput], outputs: Planes, dtype: np.dtype[Any],
    shape: tuple[int, int, int], symmetric: bool,
) -> tuple[RowTables, RowTables]:  # fmt: skip
    """Fill the output planes, each (batch, n1, n2) or None, of any strides; return both sides' row tables."""
    tables1 = RowTables(lowered, engine, [i.q1 for i in inputs], dtype, [i.units1 for i in inputs])
    tables2 = tables1
    if not symmetric:
        tables2 = RowTables(lowered, engine, [i.q2 for i in inputs], dtype, [i.units2 for i in inputs])
    if 0 in shape or all(plane is None for planes in outputs for plane in planes):
        return tables1, tables2
    pairs = engine.tile_size(shape, dtype, outputs, symmetric)
    written = [plane for planes in outputs for plane in planes if plane is not None]
    apart = not (engine.any_strides or all(map(direct, written)))
    if apart:
        pairs = min(pairs, _APART)
    square = engine.square or apart
    for tile in _tiles(shape, engine, pairs, rows_per_table(lowered, dtype, engine), symmetric, square):
        span1 = (tile.batch0 * tile.n1 + tile.i0, (tile.batch0 + tile.batches - 1) * tile.n1 + tile.i0 + tile.lines)
        span2 = (tile.batch0 * tile.n2 + tile.j0, (tile.batch0 + tile.batches - 1) * tile.n2 + tile.j0 + tile.cols)
        if symmetric:  # one table serves lines and columns, from the tile's first line on
            rows1, tile.row1 = tables1.table(span1[0], max(span1[1], span2[1]))
            rows2, tile.row2 = rows1, tile.row1 + span2[0] - span1[0]
        else:
            rows1, tile.row1 = tables1.table(*span1)
            rows2, tile.row2 = tables2.table(*span2)
        given = [_tile_input(i, engine, tile, dtype) for i in inputs]
        if apart:
            local, fresh = _buffers(tile, engine, outputs)
            engine.run(lowered, rows1, rows2, dtype, local, given, fresh)
            _put(tile, fresh, outputs)
        else:
            engine.run(lowered, rows1, rows2, dtype, tile, given, outputs)
    if engine.xp is np:  # on a device nothing waits for the lengths of rows
        _extremes(lowered, engine, inputs, outputs, dtype, shape)
    return tables1, tables2


def _buffers(tile: Tile, engine: Engine, outputs: Planes) -> tuple[Tile, Planes]:
    """A tile on its own, of a symmetric Gram one that lies on the diagonal or meets it nowhere, and planes for it."""
    shape = (tile.batches, tile.lines, tile.cols)
    fresh = [
        [None if plane is None else engine.xp.empty(shape, plane.dtype.newbyteorder("=")) for plane in planes]
        for planes in outputs
    ]
    return replace(tile, batch0=0, i0=0, j0=0, symmetric=tile.symmetric and tile.i0 == tile.j0), fresh


def _put(tile: Tile, fresh: Planes, outputs: Planes) -> None:
    """Write a tile's planes, and its mirror image, where they belong."""
    batches = slice(tile.batch0, tile.batch0 + tile.batches)
    lines, cols = slice(tile.i0, tile.i0 + tile.lines), slice(tile.j0, tile.j0 + tile.cols)
    for planes, given in zip(outputs, fresh, strict=True):
        for plane, values in zip(planes, given, strict=True):
            if plane is None or values is None:
                continue
            plane[batches, lines, cols] = values
            if tile.symmetric and tile.i0 != tile.j0:
                plane[batches, cols, lines] = values.transpose(0, 2, 1)


def _extremes(
    lowered: Lowered, engine: Engine, inputs: Sequence[PairInput], outputs: Planes, dtype: np.dtype[Any],
    shape: tuple[int, int, int],
) -> None:  # fmt: skip
    """Compute pairs with rows beyond the dtype's range again, in a type that reaches further (extremes.py)."""
    if engine.real is not np.float64:
        return
    least, most, _ = limits(lowered, dtype)
    found: dict[int, Flags] = {}
    sides: tuple[list[Units], list[Units]] = [], []
    for given in inputs:
        for side, units in zip(sides, (given.units1, given.units2), strict=True):
            if units is None:
                return
            side.append(units)
            if id(units) not in found:
                found[id(units)] = units.outside(least, most)
    if not any(flags.any() for flags in found.values()):
        return
    wide1, wide2 = (np.any([found[id(units)] for units in side], axis=0) for side in sides)
    if dtype == np.float64:
        engine = NumpyEngine(np.longdouble)
    panel = engine.panel or 1
    step = max(1, _EXTREMES // max(1, shape[2]) // panel) * panel
    for b in range(shape[0]):
        second = [u.again(engine, b) for u in sides[1]]
        for i in range(0, shape[1], step):
            lines = slice(i, min(i + step, shape[1]))
            wanted = wide1[b, lines, None] | wide2[b]
            if not wanted.any():
                continue
            first = [u.again(engine, b, lines) for u in sides[0]]
            own = [PairInput(u1.q, u2.q, u1, u2) for u1, u2 in zip(first, second, strict=True)]
            planes = [[None if p is None else np.empty((1, *wanted.shape), engine.real) for p in of] for of in outputs]
            run_pairs(lowered, engine, own, planes, np.dtype(np.float64), (1, *wanted.shape), False)
            for of, fresh in zip(outputs, planes, strict=True):
                for plane, values in zip(of, fresh, strict=True):
                    if plane is not None and values is not None:
                        with np.errstate(over="ignore", under="ignore"):
                            np.copyto(plane[b, lines], values[0], casting="same_kind", where=wanted)


def _tiles(
    shape: tuple[int, int, int], engine: Engine, pairs: int, rows: int, symmetric: bool, square: bool
) -> Iterator[Tile]:
    """Cover the pairs, tiles beginning at whole panels; of a symmetric Gram the part on and above the diagonal.

    Square tiles of a symmetric Gram lie on the diagonal or meet it nowhere.
    """
    batch, n1, n2 = shape
    panel = engine.panel or 1
    if n1 * n2 <= pairs and max(n1, n2) <= rows:
        step = max(1, min(pairs // (n1 * n2), rows // max(n1, n2)))
        for b in range(0, batch, step):
            yield Tile(n1, n2, b, min(step, batch - b), 0, n1, 0, n2, symmetric)
        return

    def whole(count: int) -> int:
        return max(1, count // panel) * panel

    cols = n2 if symmetric else min(n2, whole(min(max(pairs // min(n1, 256), 1), rows)))
    lines = min(n1, whole(min(max(pairs // cols, 1), rows)))
    if square:
        lines = cols = whole(min(max(n1, n2), rows, math.isqrt(pairs)))
    for b in range(batch):
        for i in range(0, n1, lines):
            m = min(lines, n1 - i)
            for j in range(i if symmetric else 0, n2, cols):
                yield Tile(n1, n2, b, 1, i, m, j, min(cols, n2 - j), symmetric)


def _tile_input(given: PairInput, engine: Engine, tile: Tile, dtype: np.dtype[Any]) -> TileInput:
    batches = slice(tile.batch0, tile.batch0 + tile.batches)
    lines, cols = slice(tile.i0, tile.i0 + tile.lines), slice(tile.j0, tile.j0 + tile.cols)
    theta = None if given.theta is None else engine.bring(given.theta[batches, lines, cols])
    if given.defect is not None:
        return TileInput(defect=engine.bring(given.defect[batches, lines, cols]), theta=theta)
    assert given.units1 is not None
    assert given.units2 is not None
    units1, raw1, norms1 = given.units1.tile(batches, lines)
    units2, raw2, norms2 = given.units2.tile(batches, cols)
    tile_input = TileInput(theta=theta, raw1=raw1, raw2=raw2, norms1=norms1, norms2=norms2)
    if engine.panel is None:
        tile_input.product = engine.xp.empty((tile.batches, tile.lines, tile.cols), engine.product_dtype(dtype))
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity in the inputs
            engine.multiply(units1, units2, tile_input.product)
    else:
        tile_input.panels1, tile_input.panels2 = units1, units2
    return tile_input


def run_diagonal(
    lowered: Lowered, engine: Engine, units: Sequence[Units], outputs: Planes, dtype: np.dtype[Any]
) -> None:
    """Fill (nngp, ntk, defect) of pairs (x, x), shape (1, n, 1), in O(n)."""
    q = [u.q for u in units]
    n, step = len(q[0]), rows_per_table(lowered, dtype, engine)
    step = min(step, engine.tile_size((1, n, 1), dtype, outputs, False)) if n else 1
    for i in range(0, n, step):
        m = min(step, n - i)
        rows = engine.rows(lowered, [v[i : i + m] for v in q], dtype)
        tile = Tile(n, n, 0, 1, i, m, 0, 1, diagonal=True)
        engine.run(lowered, rows, rows, dtype, tile, [TileInput() for _ in q], outputs)
    wide = _outside(lowered, engine, units, dtype)
    if wide is None:
        return
    further = NumpyEngine(np.longdouble)
    rows = further.rows(lowered, [u.further(wide) for u in units], np.dtype(np.float64))
    n = int(np.count_nonzero(wide))
    fresh = [[None if p is None else np.empty((1, n, 1), further.real) for p in planes] for planes in outputs]
    tile = Tile(n, n, 0, 1, 0, n, 0, 1, diagonal=True)
    further.run(lowered, rows, rows, np.dtype(np.float64), tile, [TileInput() for _ in q], fresh)
    with np.errstate(over="ignore", under="ignore"):
        for planes, found in zip(outputs, fresh, strict=True):
            for plane, values in zip(planes, found, strict=True):
                if plane is not None and values is not None:
                    plane[0, wide] = values[0]


def _outside(lowered: Lowered, engine: Engine, units: Sequence[Units], dtype: np.dtype[Any]) -> Flags | None:
    """Rows that leave the dtype's range on the way, (batch * n,), or None; on a device nothing waits for lengths."""
    if engine.xp is not np or engine.real is not np.float64 or not units:
        return None
    least, most, _ = limits(lowered, dtype)
    found = np.any([u.outside(least, most) for u in units], axis=0).reshape(-1)
    return found if found.any() else None
