"""How tables of single images are made for a plan: structure alone, before any number (``plan/tables.py``).

A grid's steps are cut into stretches. In a stretch every result is a value of its own, so that what is derived from
variances, the arrays that pairs read, can be made for all steps of a kind at once.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..network.activations import is_homogeneous
from ..network.program import IDENTITY, Op
from .grids import Link, Plan, Step
from .taps import Place, Stage, beyond, padding_of, stages_of


@dataclass
class Part:
    """A step and its values, numbered through a stretch."""

    step: Step
    first: int  # of its arrays, among those of its grid
    n_arrays: int
    src: tuple[int, ...]
    dst: int  # of what it ends with
    beyond: tuple[Place, ...]  # what of a grid's memory is none of its positions, or one that does not count
    partial: bool  # some positions do not count
    stages: tuple[Stage, Stage] | None = None  # conv: along the inner axes, along axis 0
    mid: int = -1  # conv: behind the inner axes
    total: int = -1  # conv and dense: behind all taps, before weights and biases
    taps: int = 1
    scaled: bool = False  # its deviation is a multiple of that in front of it, or behind its taps

    @property
    def kind(self) -> str:
        """What its arrays are made by: "" where they are made at once."""
        name = self.step.name
        if name in ("input", "land", "join"):
            return ""
        return name if name in ("conv", "dense", "sum") else "root" if name in ("store", "convert") else "dual"

    def own(self, numbers: Sequence[float]) -> tuple[float, ...]:
        """Its parameters: w2, b2, f, g of a bare mean where it has none."""
        if not self.step.numbers and self.step.name in ("conv", "dense", "land"):
            return IDENTITY
        return tuple(numbers[self.step.numbers.start : self.step.numbers.stop])


def index_of(values: Sequence[int]) -> Any:
    """A slice where numbers lie at equal distances, else a list."""
    gaps = {b - a for a, b in itertools.pairwise(values)}
    if len(gaps) > 1 or min(gaps, default=1) <= 0:
        return list(values)
    return slice(values[0], values[-1] + 1, *gaps)


@dataclass
class Group:
    """Parts of one kind, whose arrays are made and written together."""

    kind: str
    parts: list[Part]

    def __post_init__(self) -> None:
        parts = self.parts
        self.n_arrays = parts[0].n_arrays
        self.dst, self.mid, self.total = (index_of([getattr(p, k) for p in parts]) for k in ("dst", "mid", "total"))
        self.src = [index_of(of) for of in zip(*(p.src for p in parts), strict=True)]
        first = [p.first for p in parts]
        even = isinstance(index_of(first), slice)
        gap = first[1] - first[0] if even and len(first) > 1 else 0
        #: first array, distance and number of steps whose arrays lie at equal distances
        self.runs = [(first[0], gap, len(first))] if even else [(k, 0, 1) for k in first]


@dataclass
class Stretch:
    """Some steps of a grid."""

    carried: list[tuple[int, int]]  # values of the last stretch, and where they come first in this one
    n_values: int = 0
    parts: list[Part] = field(default_factory=list)

    def finish(self) -> None:
        """Find what is made together."""
        alike: dict[Any, list[Part]] = defaultdict(list)
        for part in self.parts:
            if part.n_arrays > 0 and part.kind:
                alike[part.kind, part.step.window, part.step.kind, len(part.src), part.n_arrays].append(part)
        self.groups = [Group(key[0], parts) for key, parts in alike.items()]
        #: numbers of a position that all arrays of a kind take, and those of all steps of a kind
        self.most = (
            max((g.n_arrays * len(g.parts) for g in self.groups), default=0),
            max((len(g.parts) for g in self.groups), default=0),
        )
        #: deviations that are multiples of others: those behind sums over taps first
        scaled = {kind: [p for p in self.parts if p.scaled and p.kind == kind] for kind in ("conv", "dual")}
        self.multiples = [Group(kind, parts) for kind, parts in scaled.items() if parts]
        left = set(range(len(self.carried), self.n_values)) - {p.dst for p in self.parts if p.scaled}
        roles = [sorted(left & {getattr(p, role) for p in self.parts}) for role in ("mid", "total")]
        roles.append(sorted(left.difference(*roles)))
        #: of which roots are taken
        self.roots = [index_of(sorted(left))] if left else []
        if left and not isinstance(self.roots[0], slice):
            self.roots = [index_of(role) for role in roles if role]


class Cut:
    """A grid's steps in stretches, and what the largest take of a position: values; arrays, steps of a kind."""

    def __init__(self, stretches: list[Stretch]) -> None:
        self.stretches = stretches
        self.values = max(s.n_values for s in stretches)
        self.most = max(s.most[0] for s in stretches), max(s.most[1] for s in stretches)


class TableGrid:
    """A grid, its memory and its tables."""

    def __init__(self, plan: Plan, index: int, place: Any, itemsize: int) -> None:
        grid = plan.grids[index]
        windows = [step.window for step in grid.steps if step.name == "conv" and step.window is not None]
        landing = [link.window for link in plan.links if link.target == index]
        sizes = grid.sizes
        if math.prod(sizes) == 1:  # one position has any number of axes
            sizes = (1,) * max([len(sizes), *(len(w.shape) for w in (*windows, *landing))])
        padding = padding_of(windows, len(sizes))
        self.steps, self.places = grid.steps, [(step.first, step.n_arrays) for step in place.steps]
        self.n_arrays = sum(n_arrays for _, n_arrays in self.places)
        self.lanes, self.packed, self.table = int(place.lanes), int(place.packed), int(place.table)
        self.sizes, self.padded = sizes, tuple(n + pad for n, pad in zip(sizes, padding, strict=True))
        self.positions, self.size = math.prod(sizes), math.prod(self.padded)
        strides = [math.prod(self.padded[k + 1 :]) for k in range(len(sizes))]
        self.margin = sum(pad * stride for pad, stride in zip(padding, strides, strict=True))  # that windows reach
        self.inside: tuple[Any, ...] = (..., *(slice(n) for n in sizes))
        # in tables, in bytes: of an array, of all lines of one, of a number in every packed place
        self.rows, (_, *inner) = sizes[0], sizes
        self.lane, self.line = self.lanes * itemsize, self.lanes * self.rows * itemsize
        own = [math.prod(inner[k:]) * itemsize for k in range(len(inner) + 1)]
        self.packs, self.strides = (self.packed, *inner), tuple(own)
        self.packable = (slice(None),) * 3 + (slice(self.rows), None, *(slice(n) for n in inner))
        self._cuts: dict[int, Cut] = {}

    def cut(self, most: int) -> Cut:
        """The steps in stretches of at most so many values, or those of one step."""
        most = min(most, 4 * len(self.steps))
        if most not in self._cuts:
            self._cuts[most] = Cut(_stretches(self, most))
        return self._cuts[most]


class TablePlan:
    """How tables are made for a plan.

    Parameters
    ----------
    plan : Plan
    compiled : object
        Says where what is: ``table_size``, numbers of one image, and ``grids``, each with ``lanes``, ``packed``, where
        its tables begin (``table``) and ``steps`` with ``first`` and ``n_arrays``.
    dtype : numpy.dtype
        Of the tables.

    Attributes
    ----------
    inputs : list of slice
        Numbers of an image's tables that hold its inputs: they tell identical images.
    known : set of int
        Outputs without spatial axes whose K(x, x) the tables' variances give.
    """

    def __init__(self, plan: Plan, compiled: Any, dtype: np.dtype[Any]) -> None:
        self.dtype = np.dtype(dtype)
        self.table_size = int(compiled.table_size)
        self.links: tuple[Link, ...] = plan.links
        self.homogeneous = all(_scales(step) for grid in plan.grids for step in grid.steps)
        self.grids = [TableGrid(plan, k, place, self.dtype.itemsize) for k, place in enumerate(compiled.grids)]
        self.size = max(grid.size for grid in self.grids)
        self.inputs = [
            slice(g.table + first * g.rows * g.lanes, g.table + (first + n_arrays) * g.rows * g.lanes)
            for g in self.grids
            for step, (first, n_arrays) in zip(g.steps, g.places, strict=True)
            if step.name == "input"
        ]
        self.known = _known(plan)
        self._bytes: dict[tuple[int, int], int] = {}

    @property
    def table_bytes(self) -> int:
        """Of one image's tables."""
        return self.table_size * self.dtype.itemsize

    def work_bytes(self, n: int, work: int) -> int:
        """About what making the tables of n images takes beside them."""
        if (n, work) in self._bytes:
            return self._bytes[n, work]
        most = 0
        for grid in self.grids:
            cut = grid.cut(max(1, work // (n * grid.size)))
            most = max(most, (4 * cut.values + sum(cut.most)) * grid.size)
        taps = max((math.prod(link.window.size_out) * link.window.taps for link in self.links), default=0)
        self._bytes[n, work] = 8 * n * (most + 4 * taps)
        return self._bytes[n, work]


def _known(plan: Plan) -> set[int]:
    """Outputs without spatial axes behind which no covariance is pooled: that takes pairs of positions."""
    links: set[int] = set()
    found: set[int] = set()
    for grid in plan.grids:
        lost: set[int] = set()  # slots
        for step in grid.steps:
            if step.name == "land":
                link = plan.links[step.src[0]]
                missing = step.src[0] in links or (link.pool and link.form == "cov")
            else:
                missing = step.name != "input" and any(slot in lost for slot in step.src)
            if step.name == "join":
                links |= {step.dst} if missing else set()
            elif step.name == "store":
                found |= set() if missing or math.prod(grid.sizes) > 1 else {step.dst}
            else:
                lost = lost | {step.dst} if missing else lost - {step.dst}
    return found


def _scales(step: Step) -> bool:
    """Whether a step's output scales with its input."""
    return step.kind in ("", "plain") and is_homogeneous(Op(step.name, 0, (), step.kind))


def _stretches(grid: TableGrid, most: int) -> list[Stretch]:
    found = [Stretch([])]
    slots: dict[int, int] = {}
    plain: dict[int, bool] = {}  # slots behind weights alone

    def value() -> int:
        found[-1].n_values += 1
        return found[-1].n_values - 1

    for k, (step, (first, n_arrays)) in enumerate(zip(grid.steps, grid.places, strict=True)):
        wanted = {"conv": 3, "convert": 0, "store": 0, "join": 0}.get(step.name, 1)
        if found[-1].parts and wanted and found[-1].n_values + wanted > most:
            alive = [slot for slot in slots if _read_later(grid.steps[k:], slot)]
            before, slots = slots, {slot: place for place, slot in enumerate(alive)}
            found.append(Stretch([(before[slot], slots[slot]) for slot in alive], len(alive)))
        src = () if step.name in ("input", "land") else tuple(slots[slot] for slot in step.src)
        partial = bool(beyond(step.extent, grid.sizes))
        part = Part(step, first, n_arrays, src, -1, beyond(step.extent, grid.padded), partial)
        if step.name == "conv":
            assert step.window is not None
            part.taps, part.stages = step.window.taps, stages_of(step.window, grid.padded)
            part.mid = value() if part.stages[0].taps > 1 else src[0]
            part.total = value() if part.stages[1].taps > 1 else part.mid
        elif step.name == "dense":
            part.total = src[0]
        part.dst = src[0] if step.name in ("convert", "store", "join") else value()
        if part.kind == "conv":
            part.scaled = step.kind != "bias" and part.total not in src
        elif part.kind == "dual":
            part.scaled = _scales(step) and plain[step.src[0]]
        if step.name not in ("store", "join"):
            slots[step.dst] = part.dst
            plain[step.dst] = part.kind == "conv" and part.scaled
        found[-1].parts.append(part)
    for stretch in found:
        stretch.finish()
    return found


def _read_later(steps: Sequence[Step], slot: int) -> bool:
    for step in steps:
        if step.name not in ("input", "land") and slot in step.src:
            return True
        if step.name not in ("store", "join") and step.dst == slot:
            return False
    return False
