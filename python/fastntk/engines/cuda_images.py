"""Pairs of images on a CUDA device: tables made on the host, uploaded a tile of images at a time, pairs in batches.

The machine of the processor makes the tables (everything about one image), the device all that belongs to pairs. A
launch goes through one grid of the plan for a batch of pairs; the results of a batch reach the host while the next one
is computed, and Ctrl-C is seen between batches.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.options import resolve_options
from ..base.progress import Report
from ..network.program import Lowered
from .compiled import load
from .cpu import CpuEngine
from .cpu_images import CpuPlanes
from .engine import Cost, Layout, Outputs, Tile
from .planes import CompiledPlanes, size_text

Array = npt.NDArray[Any]  # or CuPy's

_UNITS = 2112  # that scratch memory is kept for: what 132 multiprocessors run at a time
_LEAST_UNITS = 4  # of one block
_PAIRS = 1 << 16  # of a batch, at most
_FLOPS = 5e11  # of a batch: a fraction of a second, after which Ctrl-C is seen
_IN_FLIGHT = 2  # batches whose results are still on their way


@dataclass
class _Tables:
    """Tables of some images on the device; ``names`` tell identical images."""

    tables: Array
    chains: Array
    lengths: Array
    names: Array
    variances: dict[int, Array]

    def part(self, start: int, stop: int) -> _Tables:
        own = {output: q[start:stop] for output, q in self.variances.items()}
        part = slice(start, stop)
        return _Tables(self.tables[part], self.chains[part], self.lengths[part], self.names[part], own)


@dataclass
class _Batch:
    """Results on their way, of pairs (row, column) of the outputs."""

    ready: Callable[[], list[Array]]
    keys: list[tuple[int, int]]
    rows: Array
    cols: Array
    outputs: Outputs
    mirrored: bool
    report: Report


class CudaPlanes(CompiledPlanes):
    """The machine of planes of a CUDA device."""

    def __init__(self, engine: Any, lowered: Lowered, layout: Layout, dtype: np.dtype[Any]) -> None:
        cpu, state = load("cpu")
        if cpu is None:
            raise RuntimeError(
                f"[kernel_fn] backend 'cuda' needs backend 'cpu' for the tables of images, which is {state}"
            )
        threads = resolve_options().num_threads
        assert threads is not None
        self._host = CpuPlanes(CpuEngine(cpu, None, threads), lowered, layout, dtype)
        super().__init__(engine, lowered, layout, dtype, self._host.image_plan)
        self.threads = threads
        channels = tuple(channels for _, channels in layout.inputs)
        self._code = engine.image_plan(self._plan, lowered.numbers, channels, lowered.program.n_outputs, dtype)
        self._batch = 1  # pairs
        self._units_kept = _LEAST_UNITS
        self._pending: deque[_Batch] = deque()

    @cached_property
    def _uploaded(self) -> Array:
        found: Array = self._engine.xp.asarray(np.frombuffer(self._code.bytes(), np.uint8))
        return found

    # ---------------------------------------------------------------- memory

    @property
    def cost(self) -> Cost:
        plan = self._code
        return Cost(max(1, self._dtype.itemsize * (plan.table_size + plan.chain_size)), 8 * plan.pair_doubles)

    @property
    def _unit(self) -> int:
        """Bytes of scratch memory that one pair and group of displacements works on."""
        return int(self._dtype.itemsize * self._code.scratch)

    @property
    def _pair(self) -> int:
        """Bytes of one pair of a batch: between grids, and its results."""
        plan = self._code
        results = self._dtype.itemsize * 2 * sum(plan.sizes) + 16 * plan.lost_units
        return int(8 * plan.pair_doubles + (1 + _IN_FLIGHT) * results + 64)

    @property
    def _fixed(self) -> int:
        return int(self._unit * _LEAST_UNITS + self._pair + self._uploaded.nbytes)

    def _needs(self) -> str:
        return f"{size_text(self._fixed)} of the device's memory"

    def _units(self, n: int, other: int, spare: int) -> int:
        return max(n, other)

    def _take(self, spare: int) -> None:
        """A quarter to scratch memory, a quarter to pairs, the rest to tables."""
        most = int(_FLOPS / max(1.0, self._plan.flops()))
        self._batch = 1 + min(most, _PAIRS, spare // 4 // self._pair)
        wanted = self._batch * max(groups for groups, _ in self._code.grids)
        self._units_kept = _LEAST_UNITS + min(_UNITS, wanted, spare // 4 // self._unit)
        used = (self._batch - 1) * self._pair + (self._units_kept - _LEAST_UNITS) * self._unit
        self._images = 2 + (spare - used) // self._table
        self._host.threads = self.threads = max(1, min(self.threads, spare // max(1, self._host._worker)))

    @cached_property
    def _scratch(self) -> Array:
        found: Array = self._engine.xp.empty(self._units_kept * (self._unit // self._dtype.itemsize), self._dtype)
        return found

    @cached_property
    def _linked(self) -> Array:
        found: Array = self._engine.xp.empty((self._batch, self._code.pair_doubles), np.float64)
        return found

    def writes(self, plane: Array) -> bool:
        return True

    def _xp(self, like: Array) -> Any:
        return np if isinstance(like, np.ndarray) else self._engine.xp

    def _join(self, arrays: Sequence[Array]) -> Array:
        found: Array = self._xp(arrays[0]).concatenate(arrays)
        return found

    # ---------------------------------------------------------------- tables

    def make(self, x: list[Array]) -> _Tables:
        """In host memory, for now; then up."""
        made = self._host.make([a if isinstance(a, np.ndarray) else a.get() for a in x])
        names = np.empty((len(made.data), 2), np.uint64)
        for name, row in zip(names, made.data, strict=True):
            digest = hashlib.blake2b(digest_size=16)
            for own in self.image_plan.tables.inputs:
                digest.update(row[own])
            name[:] = np.frombuffer(digest.digest(), np.uint64)
        put = self._engine.xp.asarray
        tables, chains = put(made.data), self._engine.xp.empty((len(names), self._code.chain_size), self._dtype)
        self._engine.image_chains(self._code, self._uploaded, tables, chains)
        return _Tables(tables, chains, made.lengths, names, {k: put(q) for k, q in made.variances.items()})

    # ---------------------------------------------------------------- pairs

    def _run(
        self, tables1: _Tables, tables2: _Tables, tile: Tile, place: Tile, outputs: Outputs, report: Report
    ) -> list[list[int]]:  # fmt: skip
        second, first = np.indices((tile.cols, tile.lines)).reshape(2, -1)
        rows, cols = place.i0 + first, place.j0 + second
        if place.symmetric:
            keep = rows <= cols
            rows, cols, first, second = rows[keep], cols[keep], first[keep], second[keep]
        return self._batches(tables1, tables2, (rows, cols, first, second), outputs, place.symmetric, report)

    def _run_listed(self, tables1: _Tables, tables2: _Tables, pairs: list[list[int]], outputs: Outputs) -> None:
        first, second = np.asarray(pairs, np.int64).reshape(-1, 2).T
        rows = np.arange(len(pairs))
        self._batches(tables1, tables2, (rows, 0 * rows, first, second), outputs, False, lambda done: None)
        self._rest()

    def _rest(self) -> list[list[int]]:
        lost: list[list[int]] = []
        while self._pending:
            lost += self._collect(self._pending.popleft())
        return lost

    def _batches(
        self, tables1: _Tables, tables2: _Tables, place: Sequence[Array], outputs: Outputs, mirrored: bool,
        report: Report,
    ) -> list[list[int]]:  # fmt: skip
        """``place``: rows and columns of the outputs, images of both tables."""
        lost: list[list[int]] = []
        try:
            for start in range(0, len(place[0]), self._batch):
                own = [index[start : start + self._batch] for index in place]
                self._pending.append(self._begin(tables1, tables2, own, outputs, mirrored, report))
                while len(self._pending) > _IN_FLIGHT:
                    lost += self._collect(self._pending.popleft())
        except BaseException:
            for batch in self._pending:  # nobody else may be given what is still being written
                batch.ready()
            self._pending.clear()
            raise
        return lost

    def _begin(
        self, tables1: _Tables, tables2: _Tables, place: Sequence[Array], outputs: Outputs, mirrored: bool,
        report: Report,
    ) -> _Batch:  # fmt: skip
        xp, plan = self._engine.xp, self._code
        rows, cols, first, second = place
        n = len(rows)
        same = (tables1.names[first] == tables2.names[second]).all(axis=1)
        flags = same + 2 * ((rows == cols) & mirrored)
        pairs = np.stack([first, second, flags], axis=1).astype(np.int64)
        lost = xp.empty((n, plan.lost_units, 2), np.float64)
        keys = [(k, p) for k, planes in enumerate(outputs) for p, plane in enumerate(planes) if plane is not None]
        found = {(k, p): xp.empty((n, plan.sizes[k]), self._dtype) for k, p in keys}
        self._engine.image_pairs(
            plan, self._uploaded, (tables1.tables, tables2.tables), (tables1.chains, tables2.chains),
            xp.asarray(np.frombuffer(pairs.tobytes(), np.uint8)),
            xp.asarray(tables1.lengths[first] * tables2.lengths[second]), self._linked, lost, self._scratch,
            [(found.get((k, 0)), found.get((k, 1))) for k in range(len(outputs))], False,
        )  # fmt: skip
        ready = self._download([lost, *(found[key] for key in keys)], outputs)
        return _Batch(ready, keys, rows, cols, outputs, mirrored, report)

    def _download(self, arrays: Sequence[Array], outputs: Outputs) -> Callable[[], list[Array]]:
        """Begin to bring arrays where the outputs lie; the result waits and gives them."""
        on_host = any(isinstance(plane, np.ndarray) for planes in outputs for plane in planes)
        found, cuda = list(arrays), self._engine.xp.cuda
        for k, array in enumerate(arrays):
            if array.size and (on_host or k == 0):
                pinned = np.frombuffer(cuda.alloc_pinned_memory(array.nbytes), array.dtype, array.size)
                found[k] = pinned.reshape(array.shape)
                array.get(out=found[k], blocking=False)  # type: ignore[attr-defined]
            elif on_host or k == 0:
                found[k] = np.empty(array.shape, array.dtype)
        done = cuda.get_current_stream().record() if on_host or arrays[0].size else None

        def ready() -> list[Array]:
            if done is not None:
                done.synchronize()
            return found

        return ready

    def _collect(self, batch: _Batch) -> list[list[int]]:
        """Put a batch's results into their places; the pairs that lack digits."""
        lost, *planes = batch.ready()
        at = batch.rows, batch.cols
        apart = np.flatnonzero(at[0] != at[1])
        for (k, p), values in zip(batch.keys, planes, strict=True):
            plane = batch.outputs[k][p]
            assert plane is not None
            rows, cols, other = (self._xp(plane).asarray(i) for i in (*at, apart))
            own = values.reshape(len(at[0]), *plane.shape[2:])
            plane[rows, cols] = own
            if batch.mirrored:  # the second image's positions come first in the mirror image
                swapped = own.transpose([0, *(((a - 1) ^ 1) + 1 for a in range(1, own.ndim))])
                plane[cols[other], rows[other]] = swapped[other]
        batch.report(len(at[0]))
        some, whole = lost.sum(axis=1).T
        # what is lost is 1e-4 of an entry's NTK at most: it matters where they are many
        lacking = some > 2e-3 * whole
        found: list[list[int]] = np.stack([at[0][lacking], at[1][lacking]], axis=1).tolist()
        return found
