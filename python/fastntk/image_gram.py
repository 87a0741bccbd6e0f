"""From images to finished kernels: tables of a few images at a time, and tiles of pairs between them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .backends import CpuEngine, Engine
from .images import image_kernels
from .plan import Plan, make_plan
from .program import Program
from .progress import Report
from .reference import NumpyEngine

Array = npt.NDArray[Any]

BUDGET = 256 << 20  # bytes, beside inputs and outputs


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

    def part(self, start: int, stop: int) -> list[Array]:
        """Images start .. stop as (images, positions, channels)."""
        return [np.ascontiguousarray(x[start:stop]).reshape(stop - start, -1, x.shape[-1]) for x in self.arrays]


Outputs = Sequence[Sequence[Array | None]]  # (nngp, ntk) of each program output


def run_image_pairs(
    program: Program, engine: Engine, x1: Images, x2: Images | None, outputs: Outputs,
    spatial: Sequence[tuple[int, ...]], budget: int, report: Report,
) -> None:  # fmt: skip
    """Fill the output planes, (n1, n2) or (n1, n2, h, h', w, w', ...); x2 None: x1 again."""
    second = x1 if x2 is None else x2
    if x1.n == 0 or second.n == 0:
        return
    if isinstance(engine, NumpyEngine):
        _reference(program, x1, x2, outputs, spatial, report)
        return
    runner = _Runner(program, engine, x1)
    again = _Runner(program, engine, x1, np.dtype(np.float64)) if runner.lossy else None
    _share(budget, [runner] if again is None else [runner, again])
    mirrored = x2 is None
    for rows in runner.tiles(x1.n, second.n):
        tables1 = tables2 = None  # what the last tile had goes before new ones come
        tables1 = runner.tables(x1, rows)
        for cols in runner.tiles(second.n, x1.n):
            if mirrored and cols.stop <= rows.start:
                continue
            tables2 = None
            tables2 = tables1 if second is x1 and cols == rows else runner.tables(second, cols)
            lost = runner.run(tables1, tables2, rows, cols, outputs, mirrored, report)
            if lost:
                assert again is not None
                _again(again, x1, second, lost, outputs, mirrored)


def run_image_diagonal(
    program: Program, engine: Engine, x: Images, outputs: Outputs, spatial: Sequence[tuple[int, ...]], budget: int
) -> None:
    """Fill the output planes of each image with itself, (n, 1) or (n, 1, h, h', w, w', ...)."""
    if x.n == 0:
        return
    if isinstance(engine, NumpyEngine):
        for k in range(x.n):
            one = Images([a[k : k + 1] for a in x.arrays])
            planes = [[None if p is None else p[k : k + 1] for p in pair] for pair in outputs]
            _reference(program, one, None, planes, spatial, lambda pairs: None)
        return
    runner = _Runner(program, engine, x)
    _share(budget, [runner])
    for rows in runner.tiles(x.n, 0):
        tables = runner.tables(x, rows)
        planes = [[None if p is None else p[rows] for p in pair] for pair in outputs]
        runner.listed(tables, tables, [[k, k] for k in range(rows.stop - rows.start)], planes)


def _again(runner: _Runner, x1: Images, x2: Images, pairs: list[list[int]], outputs: Outputs, mirrored: bool) -> None:
    """Compute pairs once more in float64: near-duplicates behind pooling, whose difference float32 has lost."""
    step = max(1, runner.images // 2)  # pairs of this many images of each side
    for start in range(0, len(pairs), step):
        part = np.asarray(pairs[start : start + step])
        first, at1 = np.unique(part[:, 0], return_inverse=True)
        second, at2 = np.unique(part[:, 1], return_inverse=True)
        tables1 = runner.tables(Images([x[first] for x in x1.arrays]), slice(0, len(first)))
        tables2 = runner.tables(Images([x[second] for x in x2.arrays]), slice(0, len(second)))
        fresh = [[None if p is None else np.empty((len(part), 1, *p.shape[2:])) for p in planes] for planes in outputs]
        runner.listed(tables1, tables2, np.stack([at1, at2], axis=1).tolist(), fresh)
        with np.errstate(over="ignore"):
            for planes, found in zip(outputs, fresh, strict=True):
                for plane, values in zip(planes, found, strict=True):
                    if plane is None or values is None:
                        continue
                    for (i, j), value in zip(part.tolist(), values[:, 0], strict=True):
                        plane[i, j] = value
                        if mirrored and i != j:
                            plane[j, i] = value.transpose([a ^ 1 for a in range(value.ndim)])


def _reference(
    program: Program, x1: Images, x2: Images | None, outputs: Outputs, spatial: Sequence[tuple[int, ...]],
    report: Report,
) -> None:  # fmt: skip
    arrays = [[x.reshape(x.shape[0], *s, x.shape[-1]) for x, s in zip(i.arrays, i.spatial, strict=True)]
              for i in (x1, x2) if i is not None]  # fmt: skip
    seen = 0

    def progress(done: int, total: int) -> None:
        nonlocal seen
        report(done - seen)
        seen = done

    found = image_kernels(program, arrays[0], arrays[1] if x2 is not None else None, spatial, progress)
    with np.errstate(over="ignore"):
        for planes, result in zip(outputs, found, strict=True):
            for plane, value in zip(planes, (result.nngp, result.ntk), strict=True):
                if plane is not None:
                    plane[...] = value


def _share(budget: int, runners: Sequence[_Runner]) -> None:
    """Divide the budget: buffers, two images' tables each, and what is left mostly to the first.

    Raises
    ------
    MemoryError
        Where one pair of images does not fit.
    """
    least = sum(r.fixed + 2 * r.table for r in runners)
    if least > budget:
        threads = runners[0]._engine.threads
        raise MemoryError(
            f"[kernel_fn] a pair of images takes {_bytes(least)} beside inputs and outputs ({threads} threads with "
            f"{_bytes(sum(r.fixed for r in runners) // threads)} each, tables of "
            f"{_bytes(sum(r.table for r in runners))} an image); memory_budget is {_bytes(budget)}. A larger budget, "
            "fewer threads or smaller images fit"
        )
    for k, runner in enumerate(runners):
        share = budget - least if len(runners) == 1 else (budget - least) * (3 - 2 * k) // 4
        runner.images = 2 + share // runner.table


def _bytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 1 << 20 else f"{count / 2**10:.1f} KiB"


class _Runner:
    """A program, planned for inputs of one shape, on the compiled engine."""

    def __init__(self, program: Program, engine: Engine, x: Images, dtype: np.dtype[Any] | None = None) -> None:
        if not isinstance(engine, CpuEngine):
            raise NotImplementedError(
                f"[kernel_fn] inputs with spatial axes have no backend '{engine.name}' yet: 'cpu' and 'numpy' take them"
            )
        if any(op.name in ("dense", "conv") and op.params[0] == 0 != op.params[2] for op in program.ops):
            raise NotImplementedError(
                "[kernel_fn] W_std = 0 under 'standard' leaves an NTK without its covariance, which backend 'cpu' does "
                "not carry for inputs with spatial axes: backend='numpy' does"
            )
        self._dtype = x.arrays[0].dtype.newbyteorder("=") if dtype is None else dtype
        self._engine = engine
        self._plan = make_plan(program, x.spatial)
        self._compiled = engine.image_plan(self._plan, x.channels, program.n_outputs, self._dtype)
        self.images = 2  # whose tables are kept at a time

    @property
    def lossy(self) -> bool:
        """Whether pairs may have to be done again in float64."""
        return self._dtype == np.float32 and any(all(grid.self_need) for grid in self._plan.grids)

    @property
    def fixed(self) -> int:
        """Bytes of all threads' buffers."""
        return int(self._engine.threads * self._compiled.worker_bytes)

    @property
    def table(self) -> int:
        """Bytes of one image's tables."""
        return max(1, int(self._compiled.table_bytes))

    def tiles(self, n: int, other: int) -> Iterator[slice]:
        """Parts of n images, so that theirs and those of a part of the others fit."""
        if n + other <= self.images:
            yield slice(0, n)
            return
        step = max(1, self.images // 2)
        for start in range(0, n, step):
            yield slice(start, min(n, start + step))

    def tables(self, x: Images, part: slice) -> Any:
        arrays = [np.require(a, self._dtype, ["C", "A"]) for a in x.part(part.start, part.stop)]
        return self._compiled.tables(arrays, self._engine.isa, self._engine.threads)

    def run(
        self, tables1: Any, tables2: Any, rows: slice, cols: slice, outputs: Outputs, mirrored: bool, report: Report
    ) -> list[list[int]]:
        """Pairs of a tile, some columns at a time, so that progress shows; the pairs that lack digits."""
        lost: list[list[int]] = []
        planes = [tuple(pair) for pair in outputs]
        step = max(1, int(1.0 / (1e-9 + self._plan.seconds() * (rows.stop - rows.start) / self._engine.threads)))
        for start in range(cols.start, cols.stop, step):
            stop = min(cols.stop, start + step)
            if mirrored and stop <= rows.start:
                continue
            place = (0, rows.stop - rows.start, start - cols.start, stop - start, rows.start, start)
            lost += self._compiled.run(
                tables1, tables2, place, planes, mirrored, [], self._engine.isa, self._engine.threads
            )
            report(_pairs(rows, start, stop) if mirrored else (rows.stop - rows.start) * (stop - start))
        return lost

    def listed(self, tables1: Any, tables2: Any, pairs: list[list[int]], outputs: Outputs) -> None:
        """Pairs (i, j) of the tables, one row of the outputs each."""
        planes = [tuple(pair) for pair in outputs]
        place = (0, 0, 0, 0, 0, 0)
        self._compiled.run(tables1, tables2, place, planes, False, pairs, self._engine.isa, self._engine.threads)


def _pairs(rows: slice, start: int, stop: int) -> int:
    """Pairs i <= j of rows i and columns start <= j < stop."""
    return sum(max(0, min(rows.stop, j + 1) - rows.start) for j in range(start, stop))


def count_pairs(n1: int, n2: int, mirrored: bool) -> int:
    """Pairs that a call computes."""
    return n1 * (n1 + 1) // 2 if mirrored else n1 * n2


# ---------------------------------------------------------------- what is going to happen


@dataclass(frozen=True)
class Explanation:
    """The plan of a network for one shape of inputs, printed as a table.

    Attributes
    ----------
    plan : Plan
    flops, seconds : float
        Of one pair of images; the seconds are an estimate for one core with AVX-512 at 2.5 GHz.
    entries : int
        Covariance entries of one pair, over all grids.
    table_bytes : int
        Of one image's tables, kept while it meets others.
    worker_bytes : int
        Of one thread's buffers; 0 without the compiled module.
    """

    plan: Plan
    dtype: np.dtype[Any]
    table_bytes: int
    worker_bytes: int

    @property
    def entries(self) -> int:
        return sum(grid.entries for grid in self.plan.grids)

    @property
    def flops(self) -> float:
        return self.plan.flops()

    @property
    def seconds(self) -> float:
        return self.plan.seconds() * (1 if self.dtype == np.float32 else 2.5)

    def __str__(self) -> str:
        lines = [f"{'grid':>4}  {'positions':>12}  {'displacements':>13}  {'entries':>12}  {'Mflop':>9}  steps"]
        for k, grid in enumerate(self.plan.grids):
            sizes = " x ".join(str(n) for n in grid.sizes)
            all_of = math.prod(grid.sizes)
            needs = f"{grid.displacements} of {all_of}"
            lines.append(
                f"{k:>4}  {sizes:>12}  {needs:>13}  {grid.entries:>12,}  {grid.flops() / 1e6:>9.2f}  {grid.summary()}"
            )
        lines.append(
            f"one pair of images, {self.dtype}: {self.entries:,} entries, {self.flops / 1e6:,.1f} Mflop, about "
            f"{self.seconds * 1e3:.3g} ms on one core (AVX-512, 2.5 GHz)"
        )
        lines.append(
            f"memory: {self.table_bytes / 2**20:.2f} MiB of tables an image, "
            f"{self.worker_bytes / 2**20:.2f} MiB a thread"
        )
        return "\n".join(lines)


def explain(program: Program, engine: Engine, x: Images, dtype: np.dtype[Any]) -> Explanation:
    """The plan for inputs shaped like ``x``."""
    plan = make_plan(program, x.spatial)
    table = worker = 0
    if isinstance(engine, CpuEngine):
        compiled = engine.image_plan(plan, x.channels, program.n_outputs, dtype)
        table, worker = compiled.table_bytes, compiled.worker_bytes
    return Explanation(plan, dtype, table, worker)
