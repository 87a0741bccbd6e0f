"""The plan of a reverse pass: grids and links as plan/grids.py makes them, every value of a grid in a slot of its own.

What the forward pass leaves in its slots is then all there on the way back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..network.program import Program
from ..network.window import Window
from .grids import Grid, Plan, Step, _convert, _nodes, _set_forms, make_plan
from .layout import GridLayout, _displaced
from .taps import axes_of, reads_of

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Tape:
    """A plan without slots that are used again, and which value of the program each step has to do with.

    Values are numbered as a reverse pass numbers steps: inputs, then ops. ``values``: of each grid and step, what it
    makes, of a store or a join what it hands on; conversions and copies have their source's number. ``copies``: which
    links bring a branch to another grid as it is.
    """

    plan: Plan
    values: tuple[tuple[int, ...], ...]
    copies: frozenset[int]


@lru_cache(maxsize=64)
def make_tape(program: Program, inputs: tuple[tuple[int, ...], ...]) -> Tape:
    plan = make_plan(program, inputs)
    nodes = _nodes(program, inputs)
    _set_forms(nodes)
    ops = (k for k, op in enumerate(program.ops, program.n_inputs) if op.name != "store")
    of: dict[int, int] = {}
    lifted = set()
    for k, node in enumerate(nodes):
        if k < program.n_inputs:
            of[id(node)] = k
        elif node.op.dst < 0:  # a copy on another grid
            of[id(node)] = of[id(nodes[node.sources[0]])]
            lifted.add(id(node))
        else:
            of[id(node)] = next(ops)
    nodes = _convert(nodes)
    copies, links = set(), 0
    for node in nodes:
        if node.op.name == "convert":
            of[id(node)] = of[id(nodes[node.sources[0]])]
        if node.joins:
            copies |= {links} if id(node) in lifted else set()
            links += 1
    order = sorted(dict.fromkeys(node.key for node in nodes))
    grids, values = [], []
    for key, grid in zip(order, plan.grids, strict=True):
        steps, own = _kept(grid.steps, [of[id(node)] for node in nodes if node.key == key])
        grids.append(replace(grid, steps=steps, n_slots=len([s for s in steps if s.name not in ("store", "join")])))
        values.append(own)
    return Tape(Plan(tuple(grids), plan.links), tuple(values), frozenset(copies))


def _kept(steps: Sequence[Step], made: Sequence[int]) -> tuple[tuple[Step, ...], tuple[int, ...]]:
    """Steps in single-assignment form, none fused; and values, of those that make one in their order."""
    current: dict[int, int] = {}
    found: list[Step] = []
    values: list[int] = []
    for step in steps:
        begins, ends = step.name in ("input", "land"), step.name in ("store", "join")
        src = step.src if begins else tuple(current[s] for s in step.src)
        dst = step.dst
        if not ends:
            dst = current[step.dst] = len([s for s in found if s.name not in ("store", "join")])
        found.append(replace(step, src=src, dst=dst, fused=False))
        values.append(values[_maker(found, src[0])] if ends else made[dst])
    return tuple(found), tuple(values)


def _maker(steps: Sequence[Step], slot: int) -> int:
    return next(k for k, step in enumerate(steps) if step.name not in ("store", "join") and step.dst == slot)


def places_of(grid: Grid, extent: Sequence[int]) -> Ints:
    """Where positions of a value, numbered through, lie among those of its grid."""
    if math.prod(grid.sizes) == 1:
        return np.zeros(1, np.int64)
    found = np.zeros(1, np.int64)
    for n, m in zip(grid.sizes, extent, strict=True):
        found = (found[:, None] * n + np.arange(m)).reshape(-1)
    return found


@dataclass(frozen=True, eq=False)
class Borders:
    """Taps that stay inside one image, and those among them that leave the other one: ``csrc/images/adjoint.h``.

    Each has two entries, of the first image and of the second. ``rows``: of each displacement along axis 0, (k, 3): row
    of a plane, row of the positions that are read, whether the other image is left. ``all``, ``outside``: of each
    group, (k, 2): lane, inner position that is read.
    """

    rows: tuple[tuple[Ints, ...], tuple[Ints, ...]]
    all: tuple[tuple[Ints, ...], tuple[Ints, ...]]
    outside: tuple[tuple[Ints, ...], tuple[Ints, ...]]


def borders_of(window: Window, source: Grid, target: Grid, layout: GridLayout) -> Borders | None:
    """Of a window that reads a grid; ``layout``: the target's. None where no tap leaves an image."""
    if window.circular:
        return None
    sizes, sizes_out = axes_of(source.sizes, window), axes_of(target.sizes, window)
    rows = [_along_rows(window, sizes, sizes_out, d) for d in layout.shifts]
    axes = len(sizes)
    inner = range(1, axes)
    one, there = reads_of(window, sizes[1:], sizes_out[1:], inner), _exist(window, sizes_out, inner)
    n = math.prod(sizes[1:])
    lanes: list[list[list[Ints]]] = [[[], []], [[], []]]  # of both images: all, outside
    for group in layout.groups:
        zeros = (0,) * (axes - 1)
        moved = [d if len(d) == axes - 1 else zeros for d in group]
        x, y = np.broadcast_arrays(one[None], one[_displaced(sizes_out[1:], moved)])  # (slots, positions, taps)
        lane = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], 1)
        meets = _displaced(sizes_out[1:], moved)
        exist = (there[None] & there[meets])[:, :, None]
        for side, (own, other) in enumerate(((x, y), (y, x))):
            for kind, kept in enumerate((exist & (own < n), exist & (own < n) & (other == n))):
                at = np.nonzero(kept)
                lanes[side][kind].append(np.stack([np.broadcast_to(lane, x.shape)[at], own[at]], axis=1))
    if not any(len(of) for side in lanes for of in side[1]) and not any((r[side][:, 2] != 0).any()
                                                                       for r in rows for side in (0, 1)):  # fmt: skip
        return None
    return Borders(
        (tuple(r[0] for r in rows), tuple(r[1] for r in rows)),
        (tuple(lanes[0][0]), tuple(lanes[1][0])),
        (tuple(lanes[0][1]), tuple(lanes[1][1])),
    )


def _exist(window: Window, sizes_out: Any, axes: Any) -> npt.NDArray[np.bool_]:
    """Positions of a grid along some axes that a window's result has."""
    found = np.ones(1, np.bool_)
    for axis in axes:
        found = (found[:, None] & (np.arange(sizes_out[axis]) < window.size_out[axis])).reshape(-1)
    return found


def _along_rows(window: Window, sizes: Any, sizes_out: Any, d: int) -> tuple[Ints, Ints]:
    n, m = sizes[0], sizes_out[0]
    one, there = reads_of(window, (n,), (m,), range(1)), _exist(window, sizes_out, range(1))
    meets = (np.arange(m) + d) % m
    two, exist = one[meets], (there & there[meets])[:, None]
    found = []
    for own, other in ((one, two), (two, one)):
        y, tap = np.nonzero(exist & (own < n))
        found.append(np.stack([y, own[y, tap], other[y, tap] == n], axis=1).astype(np.int64))
    return found[0], found[1]
