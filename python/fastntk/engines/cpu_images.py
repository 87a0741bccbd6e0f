"""Pairs of images on the processor: tables by array code, on threads, and pairs by compiled loops."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.progress import Report
from ..network.program import Lowered
from ..plan.tables import make_tables
from .compiled import ImagePlan
from .engine import Cost, Layout, Outputs, Tile
from .planes import CompiledPlanes

Array = npt.NDArray[Any]

WORK = 1 << 18  # variances that a thread works on while it makes tables: fewer, and threads wait for the interpreter
_LINE = 64  # bytes of a cache line: a vector that straddles two costs double


@dataclass
class Tables:
    """What pairs read of some images."""

    data: Array  # (n, numbers of one image)
    lengths: Array  # (n,): what each image was divided by
    variances: dict[int, Array]  # K(x, x) of outputs, (n,) each, where known

    def part(self, start: int, stop: int) -> Tables:
        own = {output: q[start:stop] for output, q in self.variances.items()}
        return Tables(self.data[start:stop], self.lengths[start:stop], own)


class CpuPlanes(CompiledPlanes):
    """The machine of planes of the processor's engine."""

    image_plan: ImagePlan

    def __init__(self, engine: Any, lowered: Lowered, layout: Layout, dtype: np.dtype[Any]) -> None:
        super().__init__(engine, lowered, layout, dtype)
        self.threads = int(engine.threads)
        self._compiled = self.image_plan.compiled
        self._together = 1  # images whose tables a thread makes together

    @property
    def cost(self) -> Cost:
        return Cost(max(1, self.image_plan.tables.table_bytes), self.image_plan.worker_bytes)

    @property
    def _worker(self) -> int:
        return max(self.image_plan.worker_bytes, self._work(1))

    def _work(self, images: int) -> int:
        """Bytes that a thread takes to make tables of so many images together."""
        return int(self.image_plan.tables.work_bytes(images, WORK))

    def _needs(self) -> str:
        return "buffers of one thread"

    def _units(self, n: int, other: int, spare: int) -> int:
        images = 2 + spare // self._table
        if other == 0:
            return min(n, images)
        if n + other > images:
            n, other = (min(count, max(1, images // 2)) for count in (n, other))
        first, second = self.image_plan.block
        return -(-n // first) * -(-other // second)

    def _take(self, spare: int) -> None:
        """A quarter to make tables of more images together, the rest to keep them."""
        most = self.image_plan.own_images or max(1, WORK // (8 * self.image_plan.tables.size))
        most = min(most, self._asked)
        room = self._worker + spare // (4 * self.threads)
        while self._together < most and self._work(min(most, 2 * self._together)) <= room:
            self._together = min(most, 2 * self._together)
        more = self.threads * max(0, self._work(self._together) - self._worker)
        self._images = 2 + (spare - more) // self._table

    def writes(self, plane: Array) -> bool:
        """Aligned, native, strides of whole elements."""
        return plane.flags.aligned and plane.dtype.isnative and all(s % plane.itemsize == 0 for s in plane.strides)

    def make(self, x: list[Array]) -> Tables:
        """Batch by batch, on threads where there are several batches; the pool ends with the call."""
        plan, n = self.image_plan.tables, len(x[0])
        x = [np.ascontiguousarray(a) for a in x]
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
            if self.image_plan.own_images:
                masses = self._engine.own_pairs(self.image_plan, self._numbers, part, halt).masses
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

    def _run(
        self, tables1: Tables, tables2: Tables, tile: Tile, place: Tile, outputs: Outputs, report: Report
    ) -> list[list[int]]:  # fmt: skip
        """Some columns at a time, so that progress shows."""
        lost: list[list[int]] = []
        step = max(1, int(1.0 / (1e-9 + self._plan.seconds() * tile.lines / self.threads)))
        for start in range(0, tile.cols, step):
            cols = min(step, tile.cols - start)
            i0, j0 = place.i0, place.j0 + start
            if place.symmetric and j0 + cols <= i0:
                continue
            lost += self._call(tables1, tables2, (0, tile.lines, start, cols, i0, j0), outputs, place.symmetric, [])
            report(_pairs(i0, tile.lines, j0, cols) if place.symmetric else tile.lines * cols)
        return lost

    def _call(
        self, tables1: Tables, tables2: Tables, place: tuple[int, ...], planes: Outputs, mirrored: bool,
        listed: list[list[int]],
    ) -> list[list[int]]:  # fmt: skip
        one, two = ((tables.data, tables.lengths) for tables in (tables1, tables2))
        lost: list[list[int]] = self._compiled.run(
            self._numbers, one, two, place, planes, mirrored, listed, self._engine.isa, self.threads
        )
        return lost

    def _run_listed(self, tables1: Tables, tables2: Tables, pairs: list[list[int]], outputs: Outputs) -> None:
        self._call(tables1, tables2, (0, 0, 0, 0, 0, 0), outputs, False, pairs)


def _aligned(shape: tuple[int, int], dtype: np.dtype[Any]) -> Array:
    """An array that begins on a cache line."""
    size = shape[0] * shape[1] * dtype.itemsize
    raw = np.empty(size + _LINE, np.uint8)
    start = -raw.__array_interface__["data"][0] % _LINE
    return raw[start : start + size].view(dtype).reshape(shape)


def _pairs(i0: int, lines: int, j0: int, cols: int) -> int:
    """Pairs i <= j of so many lines and columns."""
    return sum(max(0, min(i0 + lines, j + 1) - i0) for j in range(j0, j0 + cols))
