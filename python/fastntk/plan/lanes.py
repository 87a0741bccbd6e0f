"""Which axis runs along the lanes of a plane.

Positions of axis 0 are the rows of a plane, those of all other axes, and a few displacements of them, lie side by side
in its lanes. Signals, and images of one column, would leave all lanes but one idle: there axis 0 is moved behind the
others, or an axis of one position put before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..network.program import Program
from ..network.window import Window
from .grids import Plan, make_plan

Array = npt.NDArray[Any]

LANES = 16  # of float32 in a vector
PACKED = 32  # lanes that displacements are put side by side to fill: kFastLanes in images/program.h

Axes = tuple[int, ...]  # of a plan, each an axis of the inputs, or -1: one position


@lru_cache(maxsize=64)
def make_turned_plan(program: Program, inputs: tuple[tuple[int, ...], ...]) -> tuple[Plan, Axes]:
    """The plan of a program for inputs of these spatial shapes, and the axes of its grids."""
    plan = make_plan(program, inputs)
    rank = len(inputs[0])
    as_given = tuple(range(rank))
    grid = plan.grids[0]
    if any(len(sizes) != rank for sizes in (*inputs, grid.sizes)) or _filled(grid.sizes, grid.need) >= LANES:
        return plan, as_given
    axes = (-1, 0) if rank == 1 else (*as_given[1:], 0)
    sizes = _turned(grid.sizes, axes, 1)
    if math.prod(sizes[1:]) <= math.prod(grid.sizes[1:]):
        return plan, as_given
    ops = tuple(op if op.window is None else op._replace(window=_window(op.window, axes)) for op in program.ops)
    return make_plan(replace(program, ops=ops), tuple(_turned(given, axes, 1) for given in inputs)), axes


def _filled(sizes: Sequence[int], need: Sequence[Sequence[int]]) -> int:
    """Lanes with a position of their own."""
    inner = math.prod(sizes[1:])
    return inner * min(math.prod(len(axis) for axis in need[1:]), max(1, PACKED // inner))


def _turned(values: Sequence[int], axes: Axes, single: int) -> tuple[int, ...]:
    return tuple(single if axis < 0 else values[axis] for axis in axes)


def _window(window: Window, axes: Axes) -> Window:
    def turned(values: Sequence[int], single: int = 1) -> tuple[int, ...]:
        return _turned(values, axes, single)

    return replace(
        window, size_in=turned(window.size_in), size_out=turned(window.size_out), shape=turned(window.shape),
        strides=turned(window.strides), dilation=turned(window.dilation), low=turned(window.low, 0),
    )  # fmt: skip


def turned_input(x: Array, axes: Axes) -> Array:
    """Inputs (n, *spatial axes, channels) with their axes in the plan's order; one that is not there is left out."""
    found: Array = x.transpose(0, *(axis + 1 for axis in axes if axis >= 0), x.ndim - 1)
    return found


def turned_output(x: Array, axes: Axes) -> Array:
    """A view of an output (n1, n2, h, h', w, w', ...) with pairs of axes in the plan's order."""
    if x.ndim == 2:
        return x
    pairs = (2 + 2 * axis + side for axis in axes if axis >= 0 for side in (0, 1))
    found: Array = x.transpose(0, 1, *pairs)
    single = [2 + 2 * k + side for k, axis in enumerate(axes) if axis < 0 for side in (0, 1)]
    index: list[Any] = [slice(None)] * (found.ndim + len(single))
    for k in single:
        index[k] = None
    viewed: Array = found[tuple(index)]
    return viewed


def symmetric_output(x: Array, axes: Axes, xp: Any) -> None:
    """Of an output (n, 1, h, h', w, w', ...) of images with themselves, keep one of two equal numbers.

    As in a Gram: that whose first position comes first, in the plan's order.
    """
    view = turned_output(x, axes)
    sizes = view.shape[2::2]
    numbers = np.arange(math.prod(sizes)).reshape(sizes)
    first, second = (numbers.reshape([n if side == own else 1 for n in sizes for side in (0, 1)]) for own in (0, 1))
    swapped = view.transpose(0, 1, *(axis ^ 1 for axis in range(2, view.ndim)))
    view[...] = xp.where(xp.asarray(first > second), swapped, view)
