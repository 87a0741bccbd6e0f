"""The compiled reverse pass over pairs of images: numpy_image_adjoint.py says what it computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.jet import over, slope_of, value_of
from ..network.activations import is_dual, of_dual
from ..network.program import Program
from ..plan.layout import make_layout
from ..plan.tables import make_tables
from ..plan.tape import borders_of, make_tape, places_of
from .numpy_image_adjoint import Found, Numbers, Pull
from .numpy_image_back import DualRows
from .numpy_image_sides import ImageTangents, Side
from .numpy_images import _lengths

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Spatial = tuple[tuple[int, ...], ...]

_LINEAR = ("dense", "conv", "pool", "sum", "store")
_TOTALS = 5  # kTotals of csrc/images/adjoint.h
_WORK = 1 << 16  # variances that tables are made of at a time


@dataclass(frozen=True)
class Sum:
    """Numbers that come back of an image: of the places of a grid (``where``), for one value."""

    kind: str  # 'B', 'sums' or 'inputs' as in Found; 'borders'
    value: int
    first: int
    size: int
    where: Ints
    channels: int = 1


class Compiled:
    """A program's tape as C++ has it, and where it leaves what: structure alone, for all numbers."""

    def __init__(self, module: ModuleType, program: Program, inputs: Spatial, channels: tuple[int, ...]) -> None:
        self.tape = make_tape(program, inputs)
        plan = self.tape.plan
        layouts = [make_layout(plan, own) for own in (False, True)]
        self.sums: list[Sum] = []
        self.totals: dict[int, int] = {}  # by value: its first total
        self._size = 0
        grids = [self._grid(g, layouts[0].grids, channels) for g in range(len(plan.grids))]
        self.n_sums, self.n_totals = self._size, _TOTALS * len(self.totals)
        self.module = module.ImageAdjoint(
            plan, *layouts, list(channels), program.n_outputs, grids, self.n_sums, self.n_totals
        )

    def _total(self, value: int) -> int:
        return self.totals.setdefault(value, _TOTALS * len(self.totals))

    def _grid(self, index: int, layouts: Sequence[Any], channels: Sequence[int]) -> Any:
        """Accumulators, where they begin, and of each step arrays, accumulators, borders, totals and places."""
        plan, values = self.tape.plan, self.tape.values[index]
        grid = plan.grids[index]
        size = math.prod(grid.sizes)
        made = {step.dst: k for k, step in enumerate(grid.steps) if step.name not in ("store", "join")}
        numbers: dict[tuple[str, int], int] = {}
        count, first = 0, self._size

        def accumulator(kind: str, value: int, extent: Sequence[int], times: int = 1) -> int:
            nonlocal count
            if (kind, value) not in numbers:
                numbers[kind, value] = count
                where = places_of(grid, extent)
                self.sums.append(Sum(kind, value, first + count * size, size, where, times))
                count += times
            return numbers[kind, value]

        def of_slot(slot: int) -> int:
            return accumulator("B", values[made[slot]], grid.steps[made[slot]].extent)

        steps: list[list[Any]] = []
        for step, value in zip(grid.steps, values, strict=True):
            name, cov = step.name, step.form_in == "cov"
            arrays, of_source, of_own, total, places, border = 0, -1, -1, -1, None, None
            if name == "input":
                arrays = channels[step.src[0]]
                of_source = accumulator("inputs", value, step.extent, arrays)
                of_own = accumulator("B", value, step.extent) if cov else -1
            elif name == "land":
                link = plan.links[step.src[0]]
                arrays = int(link.pool)
                if link.pool:
                    of_own = -1 if cov else accumulator("sums", value, step.extent)
                elif step.src[0] not in self.tape.copies:
                    total = self._total(value)
                    if not cov:
                        border = borders_of(link.window, plan.grids[link.source], grid, layouts[index])
            elif name in ("conv", "dense"):
                arrays, total = int(not cov), self._total(value)
                of_source = -1 if cov else of_slot(step.src[0])
                if name == "conv" and not cov:
                    assert step.window is not None
                    border = borders_of(step.window, grid, grid, layouts[index])
            elif name == "join":
                link = plan.links[step.dst]
                arrays = int(not cov and not link.pool)
                of_source = -1 if cov else of_slot(step.src[0])
                if not link.pool and step.dst not in self.tape.copies:
                    target = plan.grids[link.target].steps
                    land = next(k for k, s in enumerate(target) if s.name == "land" and s.src == (step.dst,))
                    total = self._total(self.tape.values[link.target][land])
            elif name in ("convert", "store"):
                of_source = -1 if cov else of_slot(step.src[0])
                if name == "store":
                    places = np.full(size, -1, np.int32)
                    where = places_of(grid, step.extent)
                    places[where] = np.arange(len(where))
            elif name != "sum":
                arrays = 4 + 2 * _row_count(step.name, len(step.numbers))
                of_source = of_slot(step.src[0])
                of_own = accumulator("B", value, step.extent) if step.form_out == "cov" else -1
            steps.append([arrays, of_source, of_own, -1, total, places, border])
        self._size = first + count * size
        for own, (step, value) in zip(steps, zip(grid.steps, values, strict=True), strict=True):
            if own[6] is None:
                continue
            of, extent = grid, grid.steps[made[step.src[0]]].extent if step.name == "conv" else None
            if step.name == "land":
                of = plan.grids[plan.links[step.src[0]].source]
                extent = plan.links[step.src[0]].window.size_in
            assert extent is not None
            own[3] = self._size
            count_of = math.prod(of.sizes)
            self.sums.append(Sum("borders", value, self._size, count_of, places_of(of, extent)))
            self._size += count_of
        return count, first, [tuple(own) for own in steps]


@lru_cache(maxsize=64)
def _row_count(name: str, count: int) -> int:
    return len(of_dual(name, (0.5,) * count).row_names)


@lru_cache(maxsize=16)
def _compiled(module: ModuleType, program: Program, inputs: Spatial, channels: tuple[int, ...]) -> Compiled:
    return Compiled(module, program, inputs, channels)


def covers(module: Any, program: Program, moving: frozenset[int]) -> bool:
    """Whether all ops are compiled with derivatives; those in numbers of nonlinearities are NumPy's."""
    for op in program.ops:
        if op.name in _LINEAR:
            if op.kind == "means":
                return False
        elif not is_dual(op.name) or not module.has_image_adjoint(op.name) or moving & set(op.numbers):
            return False
    return True


class CompiledImages:
    """What takes the place of ``Side`` and ``Sweep`` where a program's ops are all compiled.

    Parameters
    ----------
    engine : Engine
    tangents : ImageTangents
    lowered : Lowered
    inputs : tuple of tuple of int
        Spatial axes of each input.
    channels : tuple of int
    """

    def __init__(self, engine: Any, module: ModuleType, tangents: ImageTangents, lowered: Any, inputs: Spatial,
                 channels: tuple[int, ...]) -> None:  # fmt: skip
        self._engine, self._tangents, self._numbers = engine, tangents, list(lowered.numbers)
        self._compiled = _compiled(module, lowered.program, inputs, channels)
        n_outputs = lowered.program.n_outputs
        self._image_plan = engine.image_plan(self._compiled.tape.plan, channels, n_outputs, np.dtype(np.float64))
        self._masses = {}
        tape = self._compiled.tape
        for g, grid in enumerate(tape.plan.grids):
            for step, value in zip(grid.steps, tape.values[g], strict=True):
                if step.name == "land" and tape.plan.links[step.src[0]].pool and step.form_in != "cov":
                    self._masses[step.src[0]] = value, places_of(grid, step.extent)

    @property
    def table_bytes(self) -> int:
        """Of one image."""
        return 8 * (int(self._compiled.module.table_size) + int(self._image_plan.tables.table_size))

    @property
    def pair_bytes(self) -> int:
        return 8 * 2 * self._compiled.n_sums

    @property
    def worker_bytes(self) -> int:
        return int(self._compiled.module.worker_bytes) * int(self._engine.threads)

    # ---------------------------------------------------------------- what belongs to one image

    def side(self, x: Sequence[Array], unit: float) -> Side:
        """Images of one side: variances of each step, and tables for both directions."""
        lengths = _lengths(self._tangents.steps, x)
        pixels = Side.divided(x, lengths)
        tables, masses = self._forward_tables(pixels)
        side = Side.of_variances(self._tangents, pixels, lengths, unit, masses)
        side.tables = tables, self._own_tables(side)
        return side

    def _forward_tables(self, pixels: Sequence[Array]) -> tuple[Array, dict[int, Array]]:
        """And the masses of windows of an image with itself, by step."""
        plan, n = self._image_plan.tables, len(pixels[0])
        data = np.empty((n, plan.table_size))
        together = int(self._image_plan.compiled.own_images)
        found: dict[int, list[Array]] = {value: [] for value, _ in self._masses.values()}
        step = together or max(1, _WORK // (8 * plan.size))
        for start in range(0, n, step):
            part = data[start : start + step]
            own = None
            if together:
                own = self._engine.own_pairs(self._image_plan, self._numbers, part, None)

            def masses(grid: int, own: Any = own) -> Any:
                links = own.masses(grid)
                for link, mass in links.items():
                    value, where = self._masses[link]
                    found[value].append(mass[:, where])
                return links

            x = [np.ascontiguousarray(a[start : start + step]) for a in pixels]
            make_tables(plan, self._numbers, x, part, np, _WORK, None if own is None else masses)
        sizes = {value: len(where) for value, where in self._masses.values()}
        return data, {value: np.concatenate([np.zeros((0, sizes[value])), *parts]) for value, parts in found.items()}

    def _own_tables(self, side: Side) -> Array:
        """As csrc/images/adjoint.h has them."""
        module, tape = self._compiled.module, self._compiled.tape
        data = np.empty((side.n, int(module.table_size)))
        for g, grid in enumerate(tape.plan.grids):
            at, inner = int(module.tables[g]), grid.inner
            lanes = np.arange(grid.lanes)
            filled = lanes < grid.packed * inner
            for k, step in enumerate(grid.steps):
                arrays, own = self._arrays(side, g, k)
                if not arrays:
                    continue
                block = data[:, at : at + len(arrays) * grid.rows * grid.lanes]
                block = block.reshape(side.n, grid.rows, len(arrays), grid.lanes)
                at += len(arrays) * grid.rows * grid.lanes
                begins = step.name in ("input", "land")
                where = places_of(grid, step.extent if begins else self._extent(g, step.src[0]))
                for number, array in enumerate(arrays):
                    # rows of a nonlinearity have numbers everywhere, so that nothing computed of them is NaN
                    fill = array[:, :1] if number >= own else 0.0
                    whole = np.empty((side.n, grid.rows * inner))
                    whole[...] = fill
                    whole[:, where] = array
                    line = whole.reshape(side.n, grid.rows, inner)[:, :, lanes % inner]
                    block[:, :, number] = line if number >= own else np.where(filled, line, 0.0)
        return data

    def _extent(self, g: int, slot: int) -> tuple[int, ...]:
        steps = self._compiled.tape.plan.grids[g].steps
        return next(s.extent for s in steps if s.name not in ("store", "join") and s.dst == slot)

    def _arrays(self, side: Side, g: int, k: int) -> tuple[list[Array], int]:
        """Of a step, (n, positions) each; from which on they are a nonlinearity's own."""
        tape = self._compiled.tape
        step, value = tape.plan.grids[g].steps[k], tape.values[g][k]
        of, cov = self._tangents, step.form_in == "cov"
        if step.name == "input":
            x = side.pixels[step.src[0]]
            return [x[:, :, c] for c in range(x.shape[2])], x.shape[2]
        if step.name == "land":
            if not tape.plan.links[step.src[0]].pool:
                return [], 0
            scale = of.steps[value].scale
            return [np.broadcast_to(scale, (side.n, len(of.steps[value].taps)))], 1
        if step.name in ("conv", "dense", "join"):
            pool = step.name == "join" and tape.plan.links[step.dst].pool
            if cov or pool:
                return [], 0
            source = value if step.name == "join" else self._source(g, k)
            return [np.sqrt(side.q[source])], 1
        if step.name in ("sum", "convert", "store"):
            return [], 0
        q, layer = side.planes[value][0], of.layer(value)
        rows = DualRows(layer, q, "q")
        s, V = np.sqrt(q), value_of(rows.variance)
        pull = over(slope_of(rows.variance, "q"), V)
        names = of_dual(step.name, of.steps[value].numbers).row_names
        own = [rows.rows[name] for name in names]
        found = [over(1.0, s), s, np.sqrt(V), pull, *map(value_of, own), *(slope_of(row, "q") for row in own)]
        return [np.broadcast_to(array, q.shape) for array in found], 4

    def _source(self, g: int, k: int) -> int:
        """The value that a step reads."""
        tape = self._compiled.tape
        steps = tape.plan.grids[g].steps
        slot = steps[k].src[0]
        return next(
            v for s, v in zip(steps, tape.values[g], strict=True) if s.name not in ("store", "join") and s.dst == slot
        )

    # ---------------------------------------------------------------- pairs

    def sweep(self, sides: tuple[Side, Side], i: Ints, j: Ints, pull: Pull, found: Found, numbers: Numbers) -> None:
        """There and back over some pairs: sums for images, and what the numbers of ops get."""
        compiled = self._compiled
        scale = (sides[0].scale[i] * sides[1].scale[j]).reshape(-1, 1)
        on, sizes = [], []
        for output in range(len(pull)):
            given = [None if c is None else np.ascontiguousarray(c.reshape(len(i), -1) * scale) for c in pull[output]]
            size = next((math.isqrt(c.shape[1]) for c in given if c is not None), None)
            sizes.append(self._positions(output) if size is None else size)
            on.append(given)
        sums = [np.zeros((side.n, compiled.n_sums)) for side in sides]
        totals = np.zeros((len(i), compiled.n_totals))
        pairs = np.stack([i, j], axis=1).tolist()
        compiled.module.run(
            self._numbers, *(list(side.tables or ()) for side in sides), pairs, on, sizes,
            bool(self._tangents.moving), *sums, totals, self._engine.isa, self._engine.threads,
        )  # fmt: skip
        for side in (0, 1):
            self._gather(side, sides[side], sums[side], found, numbers)
        for value, first in compiled.totals.items():
            on_k, P, on_theta, crossed, T = totals[:, first : first + _TOTALS].T
            linear = self._tangents.steps[value].linear
            for at, place in self._tangents.wanted(value):
                if at != 1 or linear:
                    numbers.add(place, (on_k + on_theta, P, crossed, T)[at])

    def _positions(self, output: int) -> int:
        for grid in self._compiled.tape.plan.grids:
            for step in grid.steps:
                if step.name == "store" and step.dst == output:
                    return len(places_of(grid, step.extent))
        raise AssertionError(output)

    def _gather(self, side: int, images: Side, sums: Array, found: Found, numbers: Numbers) -> None:
        """Numbers of each image to the values that they belong to."""
        for of in self._compiled.sums:
            parts = [
                sums[:, of.first + c * of.size : of.first + (c + 1) * of.size][:, of.where] for c in range(of.channels)
            ]
            if of.kind == "inputs":
                found.put(side, "inputs", of.value, np.stack(parts, axis=2) / of.channels)
            elif of.kind != "borders":
                found.put(side, of.kind, of.value, parts[0])
            else:
                step, (s, *_) = self._tangents.steps[of.value], self._tangents.sources(of.value)
                lost = parts[0] / (2 * step.taps.shape[1])
                found.put(side, "B", s, -step.numbers[0] * lost)
                for at, place in self._tangents.wanted(of.value):
                    if at == 0:
                        numbers.add(place, -lost * images.q[s])
