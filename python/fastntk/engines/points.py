"""Pairs of points: unit rows of both sides, a row table of each, and tiles of pairs, on any engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arrays import contiguous, direct
from ..base.progress import Report
from ..network.program import Lowered
from ..plan.extremes import Flags, Limits, beyond, outside
from ..plan.resolve import bounds_of
from ..plan.rows import layout_of
from .engine import Cost, Job, Known, Layout, Outputs, PointEngine, Tile, TileInput, Tiling
from .near import near_pairs

Array = npt.NDArray[Any]  # or of the engine's library, Engine.xp

_APART = 1 << 20  # pairs of a tile that engines write to a buffer first
_AGAIN = 256, 512  # lines and columns that are computed again at a time: whole panels


class Lengths:
    """Lengths of the rows of one input, of one side or of both, and what follows from them for all of them at once."""

    def __init__(self, count: int, d: int, engine: PointEngine) -> None:
        self.norms = engine.xp.empty(count, engine.real)
        self.d = d
        self._extremes: tuple[Any, Any] | None = None

    def finish(self) -> None:
        """Variances |x|^2 / d, once the lengths are there."""
        self.q = self.norms * self.norms
        self.q /= self.d

    def within(self, least: float, most: float) -> bool:
        """Whether all standard deviations are within these."""
        if not self.norms.size:
            return True
        if self._extremes is None:
            self._extremes = self.norms.min(), self.norms.max()
        root = math.sqrt(self.d)
        return bool(self._extremes[0] >= least * root and self._extremes[1] <= most * root)


class Units:
    """Unit rows of one input, x / |x|, a tile at a time; their lengths are written to ``norms`` (batch n,)."""

    def __init__(self, x: Array, engine: PointEngine, norms: Array) -> None:
        self._engine = engine
        batch, n, self.d = x.shape  # C-contiguous
        norms = norms.reshape(batch, n)
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
        root = math.sqrt(self.d)
        return outside(self._norms[:, 0], least * root, most * root)

    def further(self, rows: Flags) -> Array:
        """Some rows, flags (batch, n), as one batch in float64."""
        return self._x[rows].astype(np.float64)[None]

    def again(self, batch: int, rows: slice) -> Array:
        """Some rows of a batch, in float64."""
        return self._x[batch : batch + 1, rows].astype(np.float64)

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


class PointSide:
    """Rows of one side of every input, or what another network has left, and a table of the rows last asked for.

    ``lengths``: of each input, of both sides where they are made together, and ``place`` is this one's part of them.
    """

    def __init__(
        self, given: Sequence[Array | Known], engine: PointEngine, lengths: Sequence[Lengths | None], place: slice
    ) -> None:  # fmt: skip
        self._engine, self.lengths, self._place = engine, lengths, place
        self.known: list[Known | None] = []
        self.units: list[Units | None] = []
        for x, own in zip(given, lengths, strict=True):
            if own is None:
                self.known.append(_state(x, engine))  # type: ignore[arg-type]
                self.units.append(None)
            else:
                self.known.append(None)
                self.units.append(Units(contiguous(x, _library(x, engine)), engine, own.norms[place]))  # type: ignore[arg-type]
        self.n = place.stop - place.start
        self.span = (-1, -1)
        self.first = 0  # place in the table of the span's first row
        self.rows: Any = None

    @classmethod
    def alone(cls, given: Sequence[Array | Known], engine: PointEngine) -> PointSide:
        """One side, of which the other one is a copy, or is not asked for."""
        return cls.both(given, None, engine)[0]

    @classmethod
    def both(
        cls, given: Sequence[Array | Known], others: Sequence[Array | Known] | None, engine: PointEngine
    ) -> tuple[PointSide, PointSide]:  # fmt: skip
        """Both sides of a call; None: they are one."""
        n, m = (0 if of is None else _count(of[0]) for of in (given, others))
        lengths = [None if isinstance(x, Known) else Lengths(n + m, x.shape[2], engine) for x in given]
        one = two = cls(given, engine, lengths, slice(0, n))
        if others is not None:
            two = cls(others, engine, lengths, slice(n, n + m))
        for own in lengths:
            if own is not None:
                own.finish()
        return one, two

    @property
    def q(self) -> list[Array]:
        """Variances of each input, (batch n,), float64."""
        return [
            known.q if own is None else own.q[self._place]  # type: ignore[union-attr]
            for known, own in zip(self.known, self.lengths, strict=True)
        ]

    def range(self, k: int) -> tuple[float, float]:
        return bounds_of([self.q[k]])

    def _seen(self) -> bool:
        """Whether lengths may be looked at, and all are known."""
        return self._engine.xp is np and self._engine.real is np.float64 and None not in self.lengths

    def within(self, limits: Limits) -> bool:
        return self._seen() and all(own.within(limits.least, limits.most) for own in self.lengths)  # type: ignore[union-attr]

    def beyond(self, limits: Limits) -> Flags | None:
        if not self._seen():
            return None
        found = None
        for units in self.units:
            assert units is not None
            own = units.outside(limits.least, limits.most)
            found = own if found is None else found | own
        return found


def _count(given: Array | Known) -> int:
    """Rows of one side, batches together."""
    return given.q.size if isinstance(given, Known) else given.shape[0] * given.shape[1]


def _library(x: Array, engine: PointEngine) -> Any:
    return np if isinstance(x, np.ndarray) else engine.xp


def _state(given: Known, engine: PointEngine) -> Known:
    """What a Kernel keeps, as an engine takes it."""

    def plane(x: Array | None) -> Array | None:
        if x is None:
            return None
        x = contiguous(x, _library(x, engine))
        return x if x.ndim == 3 else x[None]

    q = engine.bring(contiguous(given.q, _library(given.q, engine)).reshape(-1))
    return Known(q, plane(given.defect), plane(given.theta))


def rows_per_table(lowered: Lowered, dtype: np.dtype[Any], engine: PointEngine) -> int:
    """Rows whose table stays within the byte budget."""
    return max(1024, engine.cache_bytes // _row_bytes(lowered, dtype))


def _row_bytes(lowered: Lowered, dtype: np.dtype[Any]) -> int:
    """At five numbers an op where fewer are needed."""
    n_ops, n_rows = len(lowered.program.ops), layout_of(lowered.program).n_rows
    return max(n_rows, 5 * n_ops) * dtype.itemsize + 8 * n_ops


class Points:
    """The machine of points."""

    def __init__(self, engine: PointEngine, lowered: Lowered, layout: Layout, dtype: np.dtype[Any]) -> None:
        self._engine, self._lowered, self._layout, self._dtype = engine, lowered, layout, dtype
        self._step = rows_per_table(lowered, dtype, engine)

    @property
    def cost(self) -> Cost:
        return Cost(_row_bytes(self._lowered, self._dtype))

    def writes(self, plane: Array) -> bool:
        return self._engine.any_strides or direct(plane)

    def empty(self, shape: tuple[int, ...], like: Array) -> Array:
        found: Array = self._engine.xp.empty(shape, like.dtype.newbyteorder("="))
        return found

    def begin(self, job: Job) -> Tiling:
        engine = self._engine
        pairs = engine.tile_size(job.shape, self._dtype, job.outputs, job.symmetric)
        if job.apart:
            pairs = min(pairs, _APART)
        return Tiling(pairs, 2 * self._step, engine.panel or 1, engine.square or job.apart)

    # ---------------------------------------------------------------- rows

    def _table(self, side: PointSide, start: int, stop: int) -> tuple[Any, int]:
        """A table that holds rows start .. stop of a side, and the place of row ``start`` in it."""
        if not (side.span[0] <= start and stop <= side.span[1]):
            side.span, side.first = (0, side.n) if side.n <= self._step else (start, stop), 0
            rows = slice(*side.span)
            side.rows = self._engine.rows(self._lowered, [q[rows] for q in side.q], self._dtype)
        return side.rows, start - side.span[0] + side.first

    def _join(self, one: PointSide, two: PointSide) -> None:
        """One table for both sides, where they are small: half of the calls."""
        if one.lengths is two.lengths and None not in one.lengths:
            both = [own.q for own in one.lengths]  # type: ignore[union-attr]
        else:
            both = [self._engine.xp.concatenate(q) for q in zip(one.q, two.q, strict=True)]
        rows = self._engine.rows(self._lowered, both, self._dtype)
        for side, first in ((one, 0), (two, one.n)):
            side.rows, side.span, side.first = rows, (0, side.n), first

    def _variance(self, side: PointSide, output: int) -> Array:
        """K(x, x) of one output for every row, float64."""
        n, parts = side.n, []
        for start in range(0, n, self._step):
            stop = min(n, start + self._step)
            table, first = self._table(side, start, stop)
            parts.append(table.variance(output)[first : first + stop - start])
        found = self._engine.deliver(self._engine.xp.concatenate(parts or [side.q[0]]))
        wide = self._wide(side, np.dtype(np.float64))
        if wide is not None:
            rows = self._further(side, wide)[1]
            with np.errstate(over="ignore", under="ignore"):
                found[wide.reshape(-1)] = rows.variance(output)
        return found

    def variances(
        self, side: PointSide, wanted: Sequence[int], grams: Sequence[Array | None], budget: int
    ) -> dict[int, Array]:
        return {k: self._variance(side, k) for k in wanted}

    def _wide(self, side: PointSide, dtype: np.dtype[Any]) -> Flags | None:
        found = beyond(self._lowered, dtype, [side])
        return None if found is None else found[0]

    def _further(self, side: PointSide, wide: Flags) -> tuple[PointEngine, Any]:
        """Some rows in the type that reaches further."""
        engine = self._engine.further(np.dtype(np.float64))
        own = PointSide.alone([u.further(wide) for u in side.units if u is not None], engine)
        return engine, engine.rows(self._lowered, own.q, np.dtype(np.float64))

    # ---------------------------------------------------------------- pairs

    def pairs(self, one: PointSide, two: PointSide, tile: Tile, place: Tile, outputs: Outputs, report: Report) -> None:
        last = tile.batch0 + tile.batches - 1
        span1 = tile.batch0 * tile.n1 + tile.i0, last * tile.n1 + tile.i0 + tile.lines
        span2 = tile.batch0 * tile.n2 + tile.j0, last * tile.n2 + tile.j0 + tile.cols
        if one is two:  # one table serves lines and columns, from the tile's first line on
            rows1, place.row1 = self._table(one, span1[0], max(span1[1], span2[1]))
            rows2, place.row2 = rows1, place.row1 + span2[0] - span1[0]
        else:
            if one.rows is None and two.rows is None and one.n + two.n <= self._step:
                self._join(one, two)
            rows1, place.row1 = self._table(one, *span1)
            rows2, place.row2 = self._table(two, *span2)
        given = [self._input(one, two, k, tile) for k in range(len(one.units))]
        self._engine.run(self._lowered, rows1, rows2, self._dtype, place, given, outputs)
        corner = tile.lines * (tile.lines - 1) // 2 if tile.symmetric and tile.i0 == tile.j0 else 0
        report(tile.batches * (tile.lines * tile.cols - corner))

    def _input(self, one: PointSide, two: PointSide, k: int, tile: Tile) -> TileInput:
        engine = self._engine
        batches = slice(tile.batch0, tile.batch0 + tile.batches)
        lines, cols = slice(tile.i0, tile.i0 + tile.lines), slice(tile.j0, tile.j0 + tile.cols)
        known = one.known[k]
        if known is not None:
            assert known.defect is not None
            theta = None if known.theta is None else engine.bring(known.theta[batches, lines, cols])
            return TileInput(defect=engine.bring(known.defect[batches, lines, cols]), theta=theta)
        own1, own2 = one.units[k], two.units[k]
        assert own1 is not None
        assert own2 is not None
        units1, raw1, norms1 = own1.tile(batches, lines)
        units2, raw2, norms2 = own2.tile(batches, cols)
        tile_input = TileInput(raw1=raw1, raw2=raw2, norms1=norms1, norms2=norms2)
        if engine.panel is None:
            shape = tile.batches, tile.lines, tile.cols
            tile_input.product = engine.xp.empty(shape, engine.product_dtype(self._dtype))
            with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity in the inputs
                engine.multiply(units1, units2, tile_input.product)
        else:
            tile_input.panels1, tile_input.panels2 = units1, units2
        return tile_input

    def finish(self) -> None:
        pass

    def again(self, one: PointSide, two: PointSide, job: Job) -> None:
        engine = self._engine
        near = job.near if engine.xp is np and engine.product_dtype(self._dtype) == np.float32 else None
        if job.wide is None and near is None:
            return
        batch, n1, n2 = job.shape
        further = Points(engine.further(self._dtype), near or self._lowered, self._layout, np.dtype(np.float64))
        for b in range(batch):
            for j in range(0, n2, _AGAIN[1]):
                cols = slice(j, min(j + _AGAIN[1], n2))
                for i in range(0, n1, _AGAIN[0]):
                    lines = slice(i, min(i + _AGAIN[0], n1))
                    wanted = np.zeros((lines.stop - i, cols.stop - j), np.bool_)
                    if job.wide is not None:
                        wanted |= job.wide[0][b][lines, None] | job.wide[1][b][cols]
                    if near is not None:
                        self._find_near(one, two, b, lines, cols, wanted)
                    self._compute_again(further, one, two, (b, lines, cols), wanted, job.outputs)

    def _find_near(
        self, one: PointSide, two: PointSide, batch: int, lines: slice, cols: slice, wanted: Flags
    ) -> None:  # fmt: skip
        """Mark pairs that are near in an input."""
        for units1, units2 in zip(one.units, two.units, strict=True):
            if units1 is not None and units2 is not None:
                wanted |= near_pairs(units1.again(batch, lines)[0], units2.again(batch, cols)[0])

    def _compute_again(
        self, further: Points, one: PointSide, two: PointSide, place: tuple[int, slice, slice], wanted: Flags,
        outputs: Outputs,
    ) -> None:  # fmt: skip
        """Wanted pairs of a block, by a machine that reaches further: of the lines and columns that have some."""
        batch, lines, cols = place
        rows, columns = (np.flatnonzero(wanted.any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            return
        first, second = (
            PointSide.alone([u.again(batch, at)[:, own] for u in side.units if u is not None], further._engine)
            for side, at, own in ((one, lines, rows), (two, cols, columns))
        )
        at = np.ix_(rows, columns)
        blocks = [[p if p is None else p[batch, lines, cols] for p in of] for of in outputs]
        parts = [[p if p is None else p[at] for p in of] for of in blocks]
        further._put(first, second, parts, wanted[at])
        for of, found in zip(blocks, parts, strict=True):
            for block, part in zip(of, found, strict=True):
                if block is not None:
                    block[at] = part

    def _put(self, one: PointSide, two: PointSide, outputs: Outputs, wanted: Flags) -> None:
        """Pairs of two sides of one batch, where they are wanted."""
        n1, n2 = wanted.shape
        fresh = [[None if p is None else np.empty((1, n1, n2), self._engine.real) for p in of] for of in outputs]
        tile = Tile(n1, n2, 0, 1, 0, n1, 0, n2)
        self.pairs(one, two, tile, replace(tile), fresh, lambda done: None)
        wide = beyond(self._lowered, self._dtype, [one, two])
        if wide is not None:
            self.again(one, two, Job((1, n1, n2), False, fresh, wide=(wide[0], wide[1])))
        with np.errstate(over="ignore", under="ignore"):
            for of, found in zip(outputs, fresh, strict=True):
                for plane, values in zip(of, found, strict=True):
                    if plane is not None and values is not None:
                        np.copyto(plane, values[0], casting="same_kind", where=wanted)

    def diagonal(self, side: PointSide, outputs: Outputs, budget: int) -> None:
        """In O(n): pairs (x, x) have a defect of 0."""
        n, given = side.n, [TileInput() for _ in side.units]
        planes = [[None if p is None else p.reshape(1, n, 1) for p in of] for of in outputs]
        step = min(self._step, self._engine.tile_size((1, n, 1), self._dtype, planes, False)) if n else 1
        for i in range(0, n, step):
            m = min(step, n - i)
            rows, first = self._table(side, i, i + m)
            tile = Tile(n, n, 0, 1, i, m, 0, 1, diagonal=True, row1=first, row2=first)
            self._engine.run(self._lowered, rows, rows, self._dtype, tile, given, planes)
        wide = self._wide(side, self._dtype)
        if wide is None:
            return
        further, rows = self._further(side, wide)
        n = int(np.count_nonzero(wide))
        fresh = [[None if p is None else np.empty((1, n, 1), further.real) for p in of] for of in outputs]
        tile = Tile(n, n, 0, 1, 0, n, 0, 1, diagonal=True)
        further.run(self._lowered, rows, rows, np.dtype(np.float64), tile, given, fresh)
        with np.errstate(over="ignore", under="ignore"):
            for of, found in zip(outputs, fresh, strict=True):
                for plane, values in zip(of, found, strict=True):
                    if plane is not None and values is not None:
                        plane[wide] = values[0, :, 0]
