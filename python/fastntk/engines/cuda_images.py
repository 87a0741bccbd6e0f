"""Pairs of images on a CUDA device: tables made there, by the array code that makes them on the host, pairs in batches.

A launch goes through one grid of the plan for a batch of pairs; the results of a batch reach the host while the next
one is computed, and Ctrl-C is seen between batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.progress import Report
from ..network.activations.nonlinearity import waited_for
from ..network.program import Lowered
from ..plan.tables import make_tables
from .engine import Cost, Layout, Outputs, Tile
from .planes import CompiledPlanes, size_text

Array = npt.NDArray[Any]  # or CuPy's

_WORK = 1 << 20  # variances that are worked on at a time while tables are made
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
        super().__init__(engine, lowered, layout, dtype)
        self._pairs_plan = engine.image_code(self.image_plan, lowered.numbers)
        self._own_plan = None  # of images with themselves
        if self.image_plan.compiled.has_own:
            self._own_plan = engine.image_code(self.image_plan, lowered.numbers, own=True)
        self._batch = 1  # pairs
        self._units_kept = _LEAST_UNITS
        self._pending: deque[_Batch] = deque()

    @cached_property
    def _code(self) -> Array:
        return self._uploaded(self._pairs_plan.bytes())

    @cached_property
    def _own_code(self) -> Array:
        assert self._own_plan is not None
        return self._uploaded(self._own_plan.bytes())

    def _uploaded(self, data: bytes) -> Array:
        found: Array = self._engine.xp.asarray(np.frombuffer(data, np.uint8))
        return found

    # ---------------------------------------------------------------- memory

    @property
    def cost(self) -> Cost:
        plan = self._pairs_plan
        return Cost(max(1, self._dtype.itemsize * (plan.table_size + plan.chain_size)), 8 * plan.pair_doubles)

    @property
    def _plans(self) -> list[Any]:
        return [plan for plan in (self._pairs_plan, self._own_plan) if plan is not None]

    @property
    def _unit(self) -> int:
        """Bytes of scratch memory that one pair and group of displacements works on."""
        return int(self._dtype.itemsize * max(plan.scratch for plan in self._plans))

    @property
    def _pair(self) -> int:
        """Bytes of one pair of a batch: between grids, and its results."""
        plan = self._pairs_plan
        results = self._dtype.itemsize * 2 * sum(plan.sizes) + 16 * plan.lost_units
        doubles = max(plan.pair_doubles for plan in self._plans)
        return int(8 * doubles + (1 + _IN_FLIGHT) * results + 64)

    @property
    def _fixed(self) -> int:
        work = self.image_plan.tables.work_bytes(1, _WORK)
        return int(self._unit * _LEAST_UNITS + self._pair + self._code.nbytes + work)

    def _needs(self) -> str:
        return f"{size_text(self._fixed)} of the device's memory"

    def _units(self, n: int, other: int, spare: int) -> int:
        return max(n, other)

    def _take(self, spare: int) -> None:
        """A quarter to scratch memory, a quarter to pairs, the rest to tables."""
        most = int(_FLOPS / max(1.0, self._plan.flops()))
        self._batch = 1 + min(most, _PAIRS, spare // 4 // self._pair, self._asked**2)
        wanted = self._batch * max(groups for groups, _ in self._pairs_plan.grids)
        self._units_kept = _LEAST_UNITS + min(_UNITS, wanted, spare // 4 // self._unit)
        used = (self._batch - 1) * self._pair + (self._units_kept - _LEAST_UNITS) * self._unit
        self._images = 2 + (spare - used) // self._table

    @cached_property
    def _scratch(self) -> Array:
        found: Array = self._engine.xp.empty(self._units_kept * (self._unit // self._dtype.itemsize), self._dtype)
        return found

    @cached_property
    def _linked(self) -> Array:
        found: Array = self._engine.xp.empty((self._batch, self._pairs_plan.pair_doubles), np.float64)
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
        """On the device, some images at a time; nothing waits, but for images of the host's."""
        with waited_for() if isinstance(x[0], np.ndarray) else nullcontext():
            return self._make(x)

    def _make(self, x: list[Array]) -> _Tables:
        xp, plan, n = self._engine.xp, self.image_plan.tables, len(x[0])
        x = [
            xp.asarray(np.ascontiguousarray(a, a.dtype.newbyteorder("="))) if isinstance(a, np.ndarray) else a
            for a in x
        ]
        data, lengths = xp.empty((n, plan.table_size), self._dtype), xp.empty(n)
        names, variances = xp.empty((n, 2), np.uint64), {output: xp.empty(n) for output in plan.known}
        step = max(1, _WORK // (8 * plan.size))
        if self._own_plan is not None:
            step = min(step, self._batch)
        for start in range(0, n, step):
            part = slice(start, min(n, start + step))
            masses = None if self._own_plan is None else self._masses(data[part])
            own = make_tables(plan, self._numbers, [a[part] for a in x], data[part], xp, _WORK, masses)
            lengths[part], names[part] = own[0], self._names(data[part])
            for output, q in own[1].items():
                variances[output][part] = q
        chains = xp.empty((n, self._pairs_plan.chain_size), self._dtype)
        self._engine.image_chains(self._pairs_plan, self._code, data, chains, (0, len(self._pairs_plan.grids)))
        return _Tables(data, chains, lengths, names, variances)

    def _masses(self, tables: Array) -> Callable[[int], dict[int, Array]]:
        """Pairs of images with themselves, grid by grid, while their tables are made."""
        xp, plan, n = self._engine.xp, self._own_plan, len(tables)
        assert plan is not None
        grids = self.image_plan.tables.grids
        chains, lengths = xp.empty((n, plan.chain_size), self._dtype), xp.ones(n)
        linked, lost = xp.empty((n, plan.pair_doubles), np.float64), xp.empty((n, plan.lost_units, 2), np.float64)
        pairs = self._uploaded(np.stack([np.arange(n), np.arange(n), np.ones(n)], axis=1).astype(np.int64).tobytes())
        nothing = [(None, None)] * len(plan.sizes)

        def masses(grid: int) -> dict[int, Array]:
            if not plan.grids[grid][0]:  # nobody asks for variances behind it
                return {}
            self._engine.image_chains(plan, self._own_code, tables, chains, (grid, grid + 1))
            self._engine.image_pairs(
                plan, self._own_code, (tables, tables), (chains, chains), pairs, lengths, linked, lost,
                self._scratch, nothing, (grid, grid + 1), False,
            )  # fmt: skip
            found = {}
            for k, (link, place) in enumerate(zip(self._plan.links, plan.links, strict=True)):
                if link.source == grid and link.pool and link.form != "cov":  # displacement 0 comes first
                    g = grids[link.target]
                    own = linked[:, place : place + g.rows * g.lanes].reshape(n, g.rows, g.lanes)
                    found[k] = own[:, :, : g.positions // g.rows].reshape(n, g.positions)
            return found

        return masses

    @cached_property
    def _weights(self) -> Array:
        size = sum(own.stop - own.start for own in self.image_plan.tables.inputs)
        size *= self._dtype.itemsize // 4
        weights = np.random.default_rng(1).integers(0, 2**64, (2, size), np.uint64, endpoint=False)
        found: Array = self._engine.xp.asarray(weights)
        return found

    def _names(self, tables: Array) -> Array:
        """Two numbers of an image's inputs, bit by bit: sums by random weights, which no two images share by chance."""
        xp = self._engine.xp
        bits = xp.concatenate([tables[:, own] for own in self.image_plan.tables.inputs], axis=1)
        bits = bits.view(np.uint32).astype(np.uint64)
        found: Array = xp.stack([(bits * weights).sum(axis=1) for weights in self._weights], axis=1)
        return found

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
        xp, plan = self._engine.xp, self._pairs_plan
        rows, cols, first, second = place
        n = len(rows)
        twice = 2 * ((rows == cols) & mirrored)
        pairs = xp.asarray(np.stack([first, second, twice], axis=1).astype(np.int64))
        one, two = pairs[:, 0], pairs[:, 1]
        pairs[:, 2] += (tables1.names[one] == tables2.names[two]).all(axis=1)
        lost = xp.empty((n, plan.lost_units, 2), np.float64)
        keys = [(k, p) for k, planes in enumerate(outputs) for p, plane in enumerate(planes) if plane is not None]
        found = {(k, p): xp.empty((n, plan.sizes[k]), self._dtype) for k, p in keys}
        self._engine.image_pairs(
            plan, self._code, (tables1.tables, tables2.tables), (tables1.chains, tables2.chains),
            pairs.view(np.uint8).reshape(-1), tables1.lengths[one] * tables2.lengths[two], self._linked, lost,
            self._scratch, [(found.get((k, 0)), found.get((k, 1))) for k in range(len(outputs))],
            (0, len(plan.grids)), False,
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
