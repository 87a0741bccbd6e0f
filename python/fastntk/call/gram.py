"""The road from checked inputs to finished arrays: a cover of tiles, which a machine of points or of planes fills."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.progress import Report, bar
from ..engines.engine import Engine, Job, Known, Layout, Machine, Outputs, Tile, Tiling
from ..engines.masked import Beside
from ..engines.memory import BUDGET
from ..network.amplify import loses
from ..network.program import Lowered
from ..plan.extremes import beyond, grows, refuse_overflow
from ..plan.resolve import joined, resolve, unresolved
from .inputs import Input

Array = npt.NDArray[Any]  # or of the engine's library, Engine.xp


def layout_of(inputs: Sequence[Input], planes: bool) -> Layout:
    return Layout(tuple((i.value.spatial, i.value.channels) for i in inputs), planes)


def _given(given: Input, second: bool, own: np.dtype[Any]) -> Array | Known:
    """One side of an input, (batch, n, ..., channels), or of the state that another network has left, of dtype own."""
    x = given.x2 if second else given.x1
    if x is not None:
        return x if given.batch else x[None]
    if given.given is not None:  # covariances stand in place of images
        n = given.n2 if second else given.n1
        return np.broadcast_to(np.ones((), given.dtype), (1, n, *given.value.spatial, 1))
    assert given.kernel is not None
    state = given.kernel.exact
    assert state is not None
    if second:
        return Known(state.q2)
    theta = None if state.theta is None else state.theta.astype(own, copy=False)
    return Known(state.q1, state.defect.astype(own, copy=False), theta)


@dataclass
class Call:
    """A program, the machine for it, and both sides; ``two`` is ``one`` where x2 is x1."""

    lowered: Lowered
    machine: Machine
    one: Any
    two: Any
    dtype: np.dtype[Any]
    shape: tuple[int, int, int]  # (batch, n1, n2)
    near: Lowered | None = None  # for near pairs, where float32 would tell them apart wrongly

    @property
    def sides(self) -> list[Any]:
        return [self.one] if self.two is self.one else [self.one, self.two]


def _sides(engine: Engine, layout: Layout, inputs: Sequence[Input]) -> tuple[Any, Any]:
    """Both sides of a call; where x2 is x1 they are one."""
    own, symmetric = engine.product_dtype(inputs[0].dtype), inputs[0].symmetric
    given = [[_given(i, second, own) for i in inputs] for second in ((False,) if symmetric else (False, True))]
    if layout.planes:
        made = [engine.side(layout, of, beside(inputs, bool(k))) for k, of in enumerate(given)]
    else:
        made = [engine.side(layout, given[0])] if symmetric else list(engine.sides(layout, *given))
    return made[0], made[-1]


def beside(inputs: Sequence[Input], second: bool) -> Beside:
    """What images of one side have beside them."""
    first = inputs[0]
    masks = [i.mask2 if second else i.mask1 for i in inputs]
    masks = [None if m is None else m.reshape(math.prod(first.batch), m.shape[len(first.batch)], -1) for m in masks]
    pattern = first.pattern2 if second else first.pattern1
    known = [i.given for i in inputs] if any(i.given is not None for i in inputs) else []
    return Beside(masks, pattern if pattern is None or first.batch else [pattern], known, second)


def prepare(engine: Engine, lowered: Lowered, inputs: Sequence[Input], planes: bool) -> Call:
    """Sides of a call, and the machine for the program: where functions have no closed form, for the rows' variances.

    Of images these are resolved before, as what an engine lacks may depend on it.
    """
    first, layout = inputs[0], layout_of(inputs, planes)
    one, two = _sides(engine, layout, inputs)
    given = lowered
    ranges: tuple[tuple[float, float], ...] = ()
    if unresolved(lowered.program):
        ranges = tuple(joined([side.range(k) for side in (one, two)]) for k in range(len(inputs)))
        lowered = resolve(lowered, ranges, first.dtype == np.float32)
    if not planes and first.dtype == np.float32 and first.place.ordinal is None and grows(lowered):
        refuse_overflow(lowered, [[side.range(k)[1] for k in range(len(inputs))] for side in (one, two)])
    machine = engine.prepare(lowered, layout, first.dtype)
    near = None
    if first.dtype == np.float32 and loses(lowered):
        near = _in_float64(given, lowered, ranges)
    return Call(lowered, machine, one, two, first.dtype, (math.prod(first.batch), first.n1, first.n2), near)


def _in_float64(given: Lowered, single: Lowered, ranges: tuple[tuple[float, float], ...]) -> Lowered:
    """A program for results in float64: what stands for functions without closed form too, where that is to be had."""
    if not ranges:
        return single
    try:
        return resolve(given, ranges, False)
    except ValueError:
        return single


def fill(call: Call, outputs: Outputs, symmetric: bool, budget: int = BUDGET, progress: bool = False) -> None:
    """Fill output planes, (batch, n1, n2, ...) or None, of any strides."""
    written = [plane for planes in outputs for plane in planes if plane is not None]
    if 0 in call.shape or not written:
        return
    machine, (batch, n1, n2) = call.machine, call.shape
    apart = not all(map(machine.writes, written))
    wide = beyond(call.lowered, call.dtype, call.sides)
    job = Job(call.shape, symmetric, outputs, apart, budget, None if wide is None else (wide[0], wide[-1]), call.near)
    like = machine.begin(job)
    if progress:
        with bar(batch * (n1 * (n1 + 1) // 2 if symmetric else n1 * n2), True) as report:
            _tiles(call, like, job, report)
    else:
        _tiles(call, like, job, _silent)
    if wide is not None or call.near is not None:
        machine.again(call.one, call.two, job)


def _tiles(call: Call, like: Tiling, job: Job, report: Report) -> None:
    machine, outputs = call.machine, job.outputs
    for tile in cover(call.shape, like, job.symmetric):
        if job.apart:
            place, fresh = _buffers(tile, machine, outputs)
            machine.pairs(call.one, call.two, tile, place, fresh, report)
            _put(tile, fresh, outputs)
        else:
            machine.pairs(call.one, call.two, tile, tile, outputs, report)
    machine.finish()


def _silent(done: int) -> None:
    pass


def cover(shape: tuple[int, int, int], like: Tiling, symmetric: bool) -> Iterator[Tile]:
    """Cover the pairs, tiles beginning at whole panels; of a symmetric Gram the part on and above the diagonal."""
    batch, n1, n2 = shape
    if n1 * n2 <= like.pairs and n1 + n2 <= like.samples:
        step = max(1, min(like.pairs // (n1 * n2), like.samples // (n1 + n2))) if like.batched else 1
        for b in range(0, batch, step):
            yield Tile(n1, n2, b, min(step, batch - b), 0, n1, 0, n2, symmetric)
        return
    most = like.samples // 2

    def whole(count: int) -> int:
        return max(1, count // like.panel) * like.panel

    cols = n2 if symmetric else min(n2, whole(min(max(like.pairs // min(n1, 256), 1), most)))
    lines = min(n1, whole(min(max(like.pairs // cols, 1), most)))
    if like.square:
        lines = cols = whole(min(max(n1, n2), most, math.isqrt(like.pairs)))
    for b in range(batch):
        for i in range(0, n1, lines):
            m = min(lines, n1 - i)
            for j in range(i if symmetric else 0, n2, cols):
                yield Tile(n1, n2, b, 1, i, m, j, min(cols, n2 - j), symmetric)


def _buffers(tile: Tile, machine: Machine, outputs: Outputs) -> tuple[Tile, Outputs]:
    """A tile on its own, of a symmetric Gram one that lies on the diagonal or meets it nowhere, and planes for it."""
    shape = (tile.batches, tile.lines, tile.cols)
    fresh = [[p if p is None else machine.empty((*shape, *p.shape[3:]), p) for p in planes] for planes in outputs]
    return replace(tile, batch0=0, i0=0, j0=0, symmetric=tile.symmetric and tile.i0 == tile.j0), fresh


def _put(tile: Tile, fresh: Outputs, outputs: Outputs) -> None:
    """Write a tile's planes, and its mirror image, where they belong."""
    batches = slice(tile.batch0, tile.batch0 + tile.batches)
    lines, cols = slice(tile.i0, tile.i0 + tile.lines), slice(tile.j0, tile.j0 + tile.cols)
    for planes, given in zip(outputs, fresh, strict=True):
        for plane, values in zip(planes, given, strict=True):
            if plane is None or values is None:
                continue
            plane[batches, lines, cols] = values
            if tile.symmetric and tile.i0 != tile.j0:  # the mirror image of a pair swaps positions too
                swapped = (((axis - 1) ^ 1) + 1 for axis in range(1, values.ndim))
                plane[batches, cols, lines] = values.transpose(0, *swapped)


def variances(call: Call, asked: Sequence[Sequence[int]], outputs: Outputs, budget: int) -> list[Mapping[int, Array]]:
    """K(x, x) of the outputs that are asked for, of both sides."""
    found = []
    for side, wanted in zip((call.one, call.two), asked, strict=False):
        grams = [planes[0] if call.two is call.one and 0 not in call.shape else None for planes in outputs]
        found.append(call.machine.variances(side, wanted, grams, budget) if wanted else {})
    return found
