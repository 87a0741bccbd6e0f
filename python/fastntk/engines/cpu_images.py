"""A program on the compiled CPU engine for inputs of one shape: tables of images, and pairs of them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.progress import Report
from ..network.program import Lowered
from ..plan.lanes import Axes, make_turned_plan, symmetric_output, turned_input, turned_output
from ..plan.tables import make_tables
from .cpu import CpuEngine

Array = npt.NDArray[Any]

WORK = 1 << 16  # variances that a thread works on while it makes tables: they stay in cache
_LINE = 64  # bytes of a cache line: a vector that straddles two costs double


@dataclass
class Images:
    """Inputs of one side, (n, *spatial axes, channels), one array for each input of the program."""

    arrays: Sequence[Array]

    @property
    def n(self) -> int:
        return int(self.arrays[0].shape[0])

    @property
    def spatial(self) -> tuple[tuple[int, ...], ...]:
        return tuple(x.shape[1:-1] or (1,) for x in self.arrays)

    @property
    def channels(self) -> tuple[int, ...]:
        return tuple(x.shape[-1] for x in self.arrays)

    def part(self, start: int, stop: int, axes: Axes) -> list[Array]:
        """Images start .. stop as (images, positions, channels), positions in the order of a plan's axes."""
        parts = (x[start:stop] if x.ndim == 2 else turned_input(x[start:stop], axes) for x in self.arrays)
        return [np.ascontiguousarray(x).reshape(stop - start, -1, x.shape[-1]) for x in parts]


Outputs = Sequence[Sequence[Array | None]]  # (nngp, ntk) of each program output


@dataclass
class Tables:
    """What pairs read of some images."""

    data: Array  # (n, numbers of one image)
    lengths: Array  # (n,): what each image was divided by
    variances: dict[int, Array]  # K(x, x) of outputs, (n,) each, where known

    def part(self, start: int, stop: int) -> Tables:
        own = {output: q[start:stop] for output, q in self.variances.items()}
        return Tables(self.data[start:stop], self.lengths[start:stop], own)


def size_text(count: int) -> str:
    """Bytes, for messages."""
    return f"{count / 2**20:.1f} MiB" if count >= 1 << 20 else f"{count / 2**10:.1f} KiB"


class Runner:
    """A program, planned for inputs of one shape, on the compiled engine."""

    def __init__(self, lowered: Lowered, engine: CpuEngine, x: Images, dtype: np.dtype[Any] | None = None) -> None:
        program, numbers = lowered.program, lowered.numbers
        weights = (op.own(numbers) for op in program.ops if op.name in ("dense", "conv"))
        if any(w2 == 0 != f for w2, _, f, _ in weights):
            raise NotImplementedError(
                "[kernel_fn] W_std = 0 under 'standard' leaves an NTK without its covariance, which compiled backends "
                "do not carry for inputs with spatial axes: backend='numpy' does"
            )
        self._dtype = x.arrays[0].dtype.newbyteorder("=") if dtype is None else dtype
        self._engine = engine
        self._numbers = numbers
        self._plan, self._axes = make_turned_plan(program, x.spatial)
        self._image_plan = engine.image_plan(self._plan, x.channels, program.n_outputs, self._dtype)
        self._compiled = self._image_plan.compiled
        self.images = 2  # whose tables are kept at a time
        self._together = 1  # whose tables a thread makes together
        self.threads = engine.threads

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pairs' numbers."""
        return self._dtype

    @property
    def lossy(self) -> bool:
        """Whether pairs may have to be done again in float64."""
        return self._dtype == np.float32 and any(all(grid.self_need) for grid in self._plan.grids)

    @property
    def fixed(self) -> int:
        """Bytes that the work takes beside tables and threads' buffers."""
        return 0

    @property
    def worker(self) -> int:
        """Bytes of one thread's buffers."""
        return max(int(self._compiled.worker_bytes), self._work(1))

    def _work(self, images: int) -> int:
        """Bytes that a thread takes to make tables of so many images together."""
        return self._image_plan.tables.work_bytes(images, WORK)

    @property
    def table(self) -> int:
        """Bytes of one image's tables."""
        return max(1, self._image_plan.tables.table_bytes)

    @property
    def needs(self) -> str:
        """What the least is taken for, in words."""
        return "buffers of one thread"

    def units(self, n: int, other: int, spare: int) -> int:
        """Blocks of pairs, of which a thread takes one at a time, where ``spare`` bytes hold tables; other 0: of n."""
        images = 2 + spare // self.table
        if other == 0:
            return min(n, images)
        if n + other > images:
            n, other = (min(count, max(1, images // 2)) for count in (n, other))
        first, second = (int(side) for side in self._compiled.block)
        return -(-n // first) * -(-other // second)

    def share(self, spare: int) -> None:
        """Take bytes beyond the least: a quarter to make tables of more images together, the rest to keep them."""
        most = int(self._compiled.own_images) or max(1, WORK // (8 * self._image_plan.tables.size))
        room = self.worker + spare // (4 * self.threads)
        while self._together < most and self._work(min(most, 2 * self._together)) <= room:
            self._together = min(most, 2 * self._together)
        more = self.threads * max(0, self._work(self._together) - self.worker)
        self.images = 2 + (spare - more) // self.table

    def tiles(self, n: int, other: int) -> Iterator[slice]:
        """Parts of n images, so that theirs and those of a part of the others fit."""
        if n + other <= self.images:
            yield slice(0, n)
            return
        step = max(1, self.images // 2)
        for start in range(0, n, step):
            yield slice(start, min(n, start + step))

    def writes(self, plane: Array) -> bool:
        """Whether ``run`` writes to an output as it lies: aligned, native, strides of whole elements."""
        return plane.flags.aligned and plane.dtype.isnative and all(s % plane.itemsize == 0 for s in plane.strides)

    def empty(self, shape: tuple[int, ...], like: Array) -> Array:
        """An array of this runner's dtype where ``like`` lies."""
        return np.empty(shape, self._dtype)

    @property
    def known(self) -> set[int]:
        """Outputs whose variances come with the tables."""
        return self._image_plan.tables.known

    def library(self, like: Array) -> Any:
        """Of an array of the caller's."""
        return np

    def tables(self, *parts: tuple[Images, slice]) -> list[Any]:
        """Tables of some images, of each part; made in one pass."""
        arrays = [x.part(part.start, part.stop, self._axes) for x, part in parts]
        joined = [own[0] if len(own) == 1 else np.concatenate(own) for own in zip(*arrays, strict=True)]
        made = self._make(joined)
        found, start = [], 0
        for _, part in parts:
            found.append(made.part(start, start + part.stop - part.start))
            start += part.stop - part.start
        return found

    def _make(self, x: list[Array]) -> Tables:
        """Batch by batch, on threads where there are several batches; the pool ends with the call."""
        plan, n = self._image_plan.tables, len(x[0])
        data, lengths = _aligned((n, plan.table_size), self._dtype), np.empty(n)
        variances = {output: np.empty(n) for output in plan.known}
        count = -(-n // self._together)
        bounds = [n * k // count for k in range(count + 1)]
        threads = min(self.threads, count)
        halt = threading.Event() if threads > 1 else None

        def batch(start: int, stop: int) -> None:
            if halt is not None and halt.is_set():
                return
            part, masses = data[start:stop], None
            if self._compiled.own_images:
                masses = self._engine.own_pairs(self._image_plan, self._numbers, part, halt).masses
            with np.errstate(all="ignore"):  # of each thread its own
                own = make_tables(plan, self._numbers, [a[start:stop] for a in x], part, np, WORK, masses)
            lengths[start:stop] = own[0]
            for output, q in own[1].items():
                variances[output][start:stop] = q

        if halt is None:
            for start, stop in itertools.pairwise(bounds):
                batch(start, stop)
            return Tables(data, lengths, variances)

        def guarded(start: int, stop: int) -> None:
            try:
                batch(start, stop)
            except BaseException:  # the others learn of it at once, not when this thread's turn to wait comes
                halt.set()
                raise

        with ThreadPoolExecutor(threads) as pool:
            try:
                list(pool.map(guarded, bounds, bounds[1:]))
            except BaseException:
                halt.set()
                raise
        return Tables(data, lengths, variances)

    def run(
        self, tables1: Any, tables2: Any, rows: slice, cols: slice, outputs: Outputs, mirrored: bool, report: Report
    ) -> list[list[int]]:
        """Pairs of a tile, some columns at a time, so that progress shows; the pairs that lack digits."""
        lost: list[list[int]] = []
        planes = self._turned(outputs)
        step = max(1, int(1.0 / (1e-9 + self._plan.seconds() * (rows.stop - rows.start) / self.threads)))
        for start in range(cols.start, cols.stop, step):
            stop = min(cols.stop, start + step)
            if mirrored and stop <= rows.start:
                continue
            place = (0, rows.stop - rows.start, start - cols.start, stop - start, rows.start, start)
            lost += self._run(tables1, tables2, place, planes, mirrored, [])
            report(_pairs(rows, start, stop) if mirrored else (rows.stop - rows.start) * (stop - start))
        return lost

    def _run(
        self, tables1: Tables, tables2: Tables, place: tuple[int, ...], planes: list[tuple[Array | None, ...]],
        mirrored: bool, listed: list[list[int]],
    ) -> list[list[int]]:  # fmt: skip
        one, two = ((tables.data, tables.lengths) for tables in (tables1, tables2))
        lost: list[list[int]] = self._compiled.run(
            self._numbers, one, two, place, planes, mirrored, listed, self._engine.isa, self.threads
        )
        return lost

    def _turned(self, outputs: Outputs) -> list[tuple[Array | None, ...]]:
        """Views of the outputs with axes as the plan has them."""
        return [tuple(p if p is None else turned_output(p, self._axes) for p in planes) for planes in outputs]

    def finish(self) -> list[list[int]]:
        """Wait for what ``run`` has begun; the pairs that lack digits among it."""
        return []

    def alone(self, tables: Any, outputs: Outputs) -> None:
        """Each image with itself, (n, 1) or (n, 1, h, h', w, w', ...): the numbers of a Gram's diagonal."""
        n = len(tables.lengths)
        self.listed(tables, tables, [[k, k] for k in range(n)], outputs)
        for plane in (plane for planes in outputs for plane in planes):
            if plane is not None and plane.ndim > 2:
                symmetric_output(plane, self._axes, self.library(plane))

    def listed(self, tables1: Any, tables2: Any, pairs: list[list[int]], outputs: Outputs) -> None:
        """Pairs (i, j) of the tables, one row of the outputs each."""
        planes = self._turned(outputs)
        place = (0, 0, 0, 0, 0, 0)
        self._run(tables1, tables2, place, planes, False, pairs)


def _aligned(shape: tuple[int, int], dtype: np.dtype[Any]) -> Array:
    """An array that begins on a cache line."""
    size = shape[0] * shape[1] * dtype.itemsize
    raw = np.empty(size + _LINE, np.uint8)
    start = -raw.__array_interface__["data"][0] % _LINE
    return raw[start : start + size].view(dtype).reshape(shape)


def _pairs(rows: slice, start: int, stop: int) -> int:
    """Pairs i <= j of rows i and columns start <= j < stop."""
    return sum(max(0, min(rows.stop, j + 1) - rows.start) for j in range(start, stop))
