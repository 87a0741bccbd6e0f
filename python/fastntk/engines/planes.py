"""Pairs of images in compiled planes, whichever engine runs them: tables of both sides, a budget, pairs done again."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.progress import Report
from ..network.program import Lowered, leaves
from ..plan.extremes import beyond
from ..plan.lanes import make_turned_plan, symmetric_output, turned_input, turned_output
from .engine import Cost, Job, Layout, Outputs, Tile, Tiling
from .images import ImageSide, spatial_of
from .near import near_pairs
from .numpy_planes import further, further_alone, further_variances

Array = npt.NDArray[Any]  # or CuPy's

_ALL = 1 << 62
_AGAIN = 256  # lines and columns of pairs that are looked at for what is done again


def size_text(count: int) -> str:
    """Bytes, for messages."""
    return f"{count / 2**20:.1f} MiB" if count >= 1 << 20 else f"{count / 2**10:.1f} KiB"


class CompiledPlanes:
    """What the machines of planes of compiled engines share. A subclass has what is marked with dots."""

    def __init__(self, engine: Any, lowered: Lowered, layout: Layout, dtype: np.dtype[Any]) -> None:
        self._engine, self._lowered, self._layout, self._dtype = engine, lowered, layout, dtype
        self._numbers = lowered.numbers
        self._given = sum(math.prod(axes) * channels for axes, channels in layout.inputs) * dtype.itemsize
        self._plan, self._axes = make_turned_plan(lowered.program, spatial_of(layout))
        channels = tuple(channels for _, channels in layout.inputs)
        self.image_plan = engine.image_plan(self._plan, channels, lowered.program.n_outputs, dtype)
        self._images = 2  # whose tables are kept at a time
        self._asked = 1  # of a call
        self.threads = 1
        self._double: CompiledPlanes | None = None  # for pairs that are done again in float64
        self._at: tuple[Any, ...] | None = None  # where the last tile belongs: both sides, batch, planes, mirrored
        self._lines: tuple[Any, Any] = None, None  # a part of the first side, and its tables
        self._columns: tuple[Any, Any] = None, None

    # ---------------------------------------------------------------- of the engine's own

    def make(self, x: list[Array]) -> Any:
        """Tables of images (n, positions, channels): an object with ``part`` and ``variances``."""
        raise NotImplementedError

    def _run(
        self, tables1: Any, tables2: Any, tile: Tile, place: Tile, outputs: Outputs, report: Report
    ) -> Sequence[Any]:
        """Pairs of a tile into planes (n1, n2, ...), axes as the plan has them; (i, j) of those that lack digits."""
        raise NotImplementedError

    def _run_listed(self, tables1: Any, tables2: Any, pairs: list[list[int]], outputs: Outputs) -> None:
        """Pairs (i, j) of the tables, one row of the outputs (m, 1, ...) each."""
        raise NotImplementedError

    def _rest(self) -> Sequence[Any]:
        """Wait for what ``_run`` has begun; the pairs that lack digits among it."""
        return ()

    @property
    def _table(self) -> int:
        """Bytes of one image's tables, and of the image in the order of the plan's axes, of which they are made."""
        return self.cost.sample + self._given

    @property
    def _fixed(self) -> int:
        """Bytes that the work takes beside tables and threads' buffers."""
        return 0

    @property
    def _worker(self) -> int:
        """Bytes of one thread's buffers."""
        return 0

    def _needs(self) -> str:
        """What the least is taken for, in words."""
        raise NotImplementedError

    def _units(self, n: int, other: int, spare: int) -> int:
        """Blocks of pairs, of which a thread takes one at a time, where ``spare`` bytes hold tables; other 0: of n."""
        raise NotImplementedError

    def _take(self, spare: int) -> None:
        """Take bytes beyond the least."""
        raise NotImplementedError

    def _xp(self, like: Array) -> Any:
        """The library of an output."""
        return np

    def empty(self, shape: tuple[int, ...], like: Array) -> Array:
        found: Array = self._xp(like).empty(shape, self._dtype)
        return found

    @property
    def cost(self) -> Cost:
        raise NotImplementedError

    def writes(self, plane: Array) -> bool:
        raise NotImplementedError

    # ---------------------------------------------------------------- sides

    def _turned_in(self, side: ImageSide, batch: int, at: Any) -> list[Array]:
        """Some images as (images, positions, channels), positions in the order of the plan's axes."""
        parts = (x if x.ndim == 2 else turned_input(x, self._axes) for x in side.part(batch, at))
        return [x.reshape(len(x), -1, x.shape[-1]) for x in parts]

    def _tables(self, *parts: tuple[ImageSide, int, Any]) -> list[Any]:
        """Tables of some images of each side's batch, made in one pass."""
        arrays = [self._turned_in(*part) for part in parts]
        joined = [own[0] if len(own) == 1 else self._join(own) for own in zip(*arrays, strict=True)]
        made, found, start = self.make(joined), [], 0
        for own in arrays:
            found.append(made.part(start, start + len(own[0])))
            start += len(own[0])
        return found

    def _join(self, arrays: Sequence[Array]) -> Array:
        return np.concatenate(arrays)

    def _of_tile(self, one: ImageSide, two: ImageSide, tile: Tile) -> tuple[Any, Any]:
        """Tables of both sides of a tile: those of the last one where they are the same, the others in one pass."""
        lines = one, tile.batch0, slice(tile.i0, tile.i0 + tile.lines)
        columns = two, tile.batch0, slice(tile.j0, tile.j0 + tile.cols)
        wanted = [part for part, (kept, _) in ((lines, self._lines), (columns, self._columns)) if kept != part]
        if columns == lines:
            wanted = wanted[:1] if self._lines[0] != lines else []
        if self._lines[0] != lines:
            self._lines = None, None  # what the last tile had goes before new ones come
        if self._columns[0] != columns:
            self._columns = None, None
        made = iter(self._tables(*wanted) if wanted else ())
        if self._lines[0] is None:
            self._lines = lines, next(made)
            self._keep(lines, self._lines[1])
        if columns == lines:
            self._columns = self._lines
        elif self._columns[0] is None:
            self._columns = columns, next(made)
            self._keep(columns, self._columns[1])
        return self._lines[1], self._columns[1]

    def _keep(self, part: tuple[ImageSide, int, slice], tables: Any) -> None:
        """Variances that come with tables."""
        side, batch, rows = part
        side.made[batch, rows.start, rows.stop] = tables.variances

    # ---------------------------------------------------------------- memory

    def begin(self, job: Job) -> Tiling:
        """The budget goes to buffers of results and of threads, two images' tables each, what is left to tables."""
        _, n1, n2 = job.shape
        single = self._dtype == np.float32
        once_more = job.wide is not None or job.near is not None
        twice = single and (once_more or any(all(grid.self_need) for grid in self._plan.grids))
        machines = [self]
        if twice:
            self._double = type(self)(self._engine, self._lowered, self._layout, np.dtype(np.float64))
            machines.append(self._double)
        results = side = 0
        if job.apart:  # squares of pairs by way of buffers: a quarter of the budget, or one pair
            written = [plane for of in job.outputs for plane in of if plane is not None]
            pair = sum(math.prod(plane.shape[3:]) * plane.itemsize for plane in written)
            side = max(1, math.isqrt(job.budget // 4 // pair))
            results = min(side * side, n1 * n2) * pair
        _share(job.budget, results, machines, n1, n2)
        if job.apart:
            self._images = min(self._images, 2 * side)
        return Tiling(_ALL, self._images, square=True, batched=False)

    # ---------------------------------------------------------------- pairs

    def _turned_out(self, outputs: Outputs) -> list[tuple[Array | None, ...]]:
        """Views of the outputs with axes as the plan has them."""
        return [tuple(p if p is None else turned_output(p, self._axes) for p in of) for of in outputs]

    def pairs(self, one: ImageSide, two: ImageSide, tile: Tile, place: Tile, outputs: Outputs, report: Report) -> None:
        if self._at is not None and self._at[2] != tile.batch0:
            self.finish()
        tables1, tables2 = self._of_tile(one, two, tile)
        planes = [[None if p is None else p[place.batch0] for p in of] for of in outputs]
        self._at = one, two, tile.batch0, planes, place.symmetric
        lost = self._run(tables1, tables2, tile, place, self._turned_out(planes), report)
        if len(lost):
            self._lacking(np.asarray(lost), (tile.i0 - place.i0, tile.j0 - place.j0))

    def finish(self) -> None:
        lost = self._rest()
        if len(lost):
            self._lacking(np.asarray(lost), (0, 0))

    def _lacking(self, at: Array, offset: tuple[int, int]) -> None:
        """Near-duplicates behind pooling, whose difference float32 has lost: once more in float64."""
        assert self._double is not None
        assert self._at is not None
        one, two, batch, planes, mirrored = self._at
        self._double.listed(one, two, batch, at + offset, at, planes, mirrored)

    def listed(
        self, one: ImageSide, two: ImageSide, batch: int, pairs: Array, at: Array, outputs: Outputs, mirrored: bool
    ) -> None:
        """Compute pairs (m, 2) of images of a batch, and write them to their places in planes (n1, n2, ...)."""
        step = max(1, self._images // 2)  # pairs of this many images of each side
        for start in range(0, len(pairs), step):
            part, places = pairs[start : start + step], at[start : start + step].tolist()
            (own1, at1), (own2, at2) = (np.unique(part[:, k], return_inverse=True) for k in range(2))
            tables1, tables2 = self._tables((one, batch, own1.tolist()), (two, batch, own2.tolist()))
            fresh = [[None if p is None else self.empty((len(part), 1, *p.shape[2:]), p) for p in of] for of in outputs]
            self._run_listed(tables1, tables2, np.stack([at1, at2], axis=1).tolist(), self._turned_out(fresh))
            with np.errstate(over="ignore"):
                for of, found in zip(outputs, fresh, strict=True):
                    for plane, values in zip(of, found, strict=True):
                        if plane is None or values is None:
                            continue
                        for (i, j), value in zip(places, values[:, 0], strict=True):
                            plane[i, j] = value
                            if mirrored and i != j:
                                plane[j, i] = value.transpose([a ^ 1 for a in range(value.ndim)])

    def again(self, one: ImageSide, two: ImageSide, job: Job) -> None:
        if self._dtype == np.float64:
            further(self._lowered, self._layout, self._dtype, one, two, job)
            return
        assert self._double is not None
        for b in range(job.shape[0]):
            pairs = np.concatenate(list(self._again(one, two, b, job)))
            if job.symmetric:
                pairs = pairs[pairs[:, 0] <= pairs[:, 1]]
            planes = [[None if p is None else p[b] for p in of] for of in job.outputs]
            self._double.listed(one, two, b, pairs, pairs, planes, job.symmetric)

    @staticmethod
    def _again(one: ImageSide, two: ImageSide, batch: int, job: Job) -> Iterator[Array]:
        """Pairs (m, 2) of a batch that are computed once more: of samples out of range, and near ones."""
        look = job.near is not None and one.on_host and two.on_host
        _, n1, n2 = job.shape
        for i, j in ((i, j) for i in range(0, n1, _AGAIN) for j in range(0, n2, _AGAIN)):
            lines, cols = slice(i, min(i + _AGAIN, n1)), slice(j, min(j + _AGAIN, n2))
            if job.symmetric and cols.stop <= i:
                continue
            wanted = np.zeros((lines.stop - i, cols.stop - j), np.bool_)
            if job.wide is not None:
                wanted |= job.wide[0][batch][lines, None] | job.wide[1][batch][cols]
            for x1, x2 in zip(one.part(batch, lines), two.part(batch, cols), strict=True) if look else ():
                wanted |= near_pairs(*(x.reshape(len(x), -1).astype(np.float64) for x in (x1, x2)))
            yield np.argwhere(wanted) + np.array([i, j])

    # ---------------------------------------------------------------- images with themselves

    def _anew(self, dtype: Any = None) -> CompiledPlanes:
        """Another machine; what this one has kept goes."""
        self._lines = self._columns = (None, None)
        return type(self)(self._engine, self._lowered, self._layout, np.dtype(dtype or self._dtype))

    def _parts(self, side: ImageSide, budget: int) -> list[slice]:
        """Images that fit, for work on one side alone."""
        _share(budget, 0, [self], side.n, 0)
        step = side.n if side.n <= self._images else max(1, self._images // 2)
        return [slice(start, min(side.n, start + step)) for start in range(0, side.n, step)]

    def diagonal(self, side: ImageSide, outputs: Outputs, budget: int) -> None:
        if side.n == 0:
            return
        wide = beyond(self._lowered, self._dtype, [side])
        parts = self._parts(side, budget)
        for b in range(side.batch):
            planes = [[None if p is None else p[b] for p in of] for of in outputs]
            for rows in parts:
                (tables,) = self._tables((side, b, rows))
                own = [[None if p is None else p[rows, None] for p in of] for of in planes]
                self._run_listed(tables, tables, [[k, k] for k in range(rows.stop - rows.start)], self._turned_out(own))
                for plane in (plane for of in own for plane in of):
                    if plane is not None and plane.ndim > 2:
                        symmetric_output(plane, self._axes, self._xp(plane))
            if wide is None:
                continue
            if self._dtype == np.float64:
                further_alone(self._lowered, self._layout, self._dtype, side, b, wide[0][b], planes)
                continue
            double = self._double = self._double or self._anew(np.float64)
            numbers = np.flatnonzero(wide[0][b])
            places = np.stack([numbers, 0 * numbers], axis=1)
            own = [[None if p is None else p[:, None] for p in of] for of in planes]
            double.listed(side, side, b, np.stack([numbers, numbers], axis=1), places, own, False)

    def variances(
        self, side: ImageSide, wanted: Sequence[int], grams: Sequence[Array | None], budget: int
    ) -> dict[int, Array]:
        spatial = [value.spatial for value in leaves(self._lowered.outputs)]
        xp = np if side.on_host else self._engine.xp
        found = {
            k: xp.empty((side.batch, side.n, *(n for n in spatial[k] for _ in range(2))), self._dtype) for k in wanted
        }
        known = self.image_plan.tables.known.intersection(wanted)
        if known and not side.made and side.n:
            machine = self._anew()
            for b, rows in ((b, rows) for rows in machine._parts(side, budget) for b in range(side.batch)):
                machine._keep((side, b, rows), machine._tables((side, b, rows))[0])
        with np.errstate(over="ignore"):
            for (b, start, stop), made in side.made.items():
                for k in known:
                    own = found[k][b, start:stop]
                    q = made[k].get() if side.on_host and not isinstance(made[k], np.ndarray) else made[k]
                    own[...] = q.reshape(own.shape)  # axes of one position
        left: list[list[Array | None]] = [[None, None] for _ in spatial]
        for k in found.keys() - known:
            gram = grams[k]
            if gram is None:
                left[k][0] = found[k]
            else:
                found[k][...] = np.moveaxis(gram.diagonal(axis1=1, axis2=2), -1, 1)
        if any(plane is not None for plane, _ in left):
            self._anew().diagonal(side, left, budget)
        wide = None if self._dtype.itemsize < 8 else beyond(self._lowered, self._dtype, [side])
        if wide is not None:
            further_variances(self._lowered, self._layout, self._dtype, side, wide[0], found)
        return found


def _share(budget: int, results: int, machines: Sequence[CompiledPlanes], n: int, other: int) -> None:
    """Divide the budget: buffers of results and of threads, two images' tables each, what is left mostly to the first.

    Threads are given up where their buffers, or the tables of as many images as keep them busy, do not fit.

    Raises
    ------
    MemoryError
        Where one pair of images does not fit.
    """
    first = machines[0]
    for machine in machines:
        machine._asked = max(1, n + other)
    worker = sum(m._worker for m in machines)
    least = results + sum(m._fixed + 2 * m._table for m in machines)
    if least + worker > budget:
        raise MemoryError(
            f"[kernel_fn] a pair of images takes {size_text(least + worker)} beside inputs and outputs "
            f"({first._needs()}, tables of {size_text(sum(m._table for m in machines))} an image); memory_budget is "
            f"{size_text(budget)}. A larger budget or smaller images fit"
        )

    def shares(threads: int) -> list[int]:
        spare = max(0, budget - budget // 128 - least - threads * worker)  # a little for what is not counted
        return [spare] if len(machines) == 1 else [spare * (3 - 2 * k) // 4 for k in range(2)]

    most = min(first.threads, first._units(n, other, budget), (budget - least) // max(1, worker))
    # the largest number that finds as many blocks of pairs
    threads = bisect_right(range(1, most + 1), False, key=lambda t: t > first._units(n, other, shares(t)[0]))
    threads = max(1, threads)
    for machine, spare in zip(machines, shares(threads), strict=True):
        machine.threads = threads
        machine._take(spare)
