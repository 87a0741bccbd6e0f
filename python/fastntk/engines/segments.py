"""A network over pairs of positions, cut for compiled loops: stretches that run as rows of points, and what joins them.

A position of an image is a row, and so all pairs of positions of two images are pairs of points. Nonlinearities, sums
and all else that keeps positions apart run in the block loops of points (a ``Segment``). A convolution is what such a
segment begins with: it reads one array at other lines and columns, tap by tap. What combines all positions, products
with matrices, stands between segments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy.typing as npt

from ..network.activations import is_dual
from ..network.lower import place_slots
from ..network.maps import Attention
from ..network.program import Lowered, Op, leaves
from .numpy_images import plan_of, positions_of
from .numpy_steps import Step

Array = npt.NDArray[Any]

V, K = "v", "k"  # how a value is kept: signed defect, or covariance


@dataclass
class Cell:
    """A value on its way: the result of a step, or what was moved for one."""

    full: bool  # all pairs of positions, else p = p'
    form: str
    size: int  # positions
    has_theta: bool = True
    wanted: set[str] = field(default_factory=set)  # forms in which later stages read it
    step: int = -1  # whose result it is
    last: int = -1  # the last stage that reads it
    shown: bool = False  # whether something reads masked positions too, which must be 0 then


@dataclass(frozen=True)
class Read:
    """An input of a segment: a value, a step's window of it, or unit rows of an input."""

    cell: int = -1
    window: int = -1  # number of the step
    pixels: int = -1  # number of the input


@dataclass
class Segment:
    """Steps that run in the block loops of points."""

    full: bool
    size: int  # positions
    reads: list[Read] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)  # of slots of their own, those of ``reads`` first
    numbers: list[float] = field(default_factory=list)
    recipes: list[tuple[Any, ...]] = field(default_factory=list)  # what each op reads of one image
    steps: list[int] = field(default_factory=list)
    slots: dict[int, int] = field(default_factory=dict)  # of cells made or read here
    stores: list[int] = field(default_factory=list)  # cells that are written
    lowered: Lowered | None = None
    rows: list[tuple[Any, ...]] = field(default_factory=list)  # recipes of all ops of the program, stores too

    def emit(
        self, name: str, sources: Sequence[int], recipe: tuple[Any, ...], numbers: Sequence[float] = (), **own: Any
    ) -> int:
        slot = _FIRST + len(self.ops)
        at = range(len(self.numbers), len(self.numbers) + len(numbers))
        self.numbers += numbers
        self.ops.append(Op(name, slot, tuple(sources), numbers=at, **own))
        self.recipes.append(recipe)
        return slot

    def read(self, read: Read) -> int:
        self.reads.append(read)
        return len(self.reads) - 1


_FIRST = 1 << 20  # slots of results, until all reads are known


@dataclass(frozen=True)
class Moved:
    """Of all pairs of positions p = p'."""

    source: int
    cell: int


@dataclass(frozen=True)
class Single:
    """A step that stands between segments."""

    step: int


Stage = Segment | Moved | Single


class Plan:
    """Steps, values and stages of a program for inputs of these positions."""

    def __init__(self, lowered: Lowered, spatial: Sequence[tuple[int, ...]], masked: bool, given: bool) -> None:
        self.lowered, self.masked, self.given = lowered, masked, given
        self.steps = plan_of(lowered, [value.spatial for value in leaves(lowered.outputs)])
        self.sources = _sources(self.steps)
        self.positions = positions_of(self.steps, [math.prod(own) for own in spatial])
        self.drawn = self._drawn()
        self.forms = self._forms()
        self.cells = [Cell(s.full, self.forms[k], self.positions[k], step=k) for k, s in enumerate(self.steps)]
        self.stages: list[Stage] = []
        self._segment: Segment | None = None
        for k in range(len(self.steps)):
            self._step(k)
        self._close()
        self._finish()

    def _drawn(self) -> list[bool]:
        """Which results come of dropout: what copies of an image draw is not what it draws."""
        found: list[bool] = []
        for step, sources in zip(self.steps, self.sources, strict=True):
            found.append(step.op.name == "drop" or any(found[s] for s in sources))
        return found

    # ---------------------------------------------------------------- forms

    def _elementwise(self, k: int) -> bool:
        name = self.steps[k].op.name
        return name in ("dense", "sum", "norm", "product") or is_dual(name)

    def _windowed(self, k: int) -> bool:
        """Whether a step is a convolution that a segment can begin with."""
        op = self.steps[k].op
        return op.name in ("conv", "transposed") and op.kind != "guard" and self.forms[self.sources[k][0]] == V

    def _forms(self) -> list[str]:
        self.forms = forms = [V] * len(self.steps)
        for k, step in enumerate(self.steps):
            if step.op.name == "input":
                continue
            same = self._elementwise(k) and all(forms[s] == V for s in self.sources[k])
            forms[k] = V if not step.linear or same or self._windowed(k) else K
        return forms

    def compiled(self, k: int) -> bool:
        """Whether a step runs in a segment."""
        name = self.steps[k].op.name
        if name == "input":
            return not self.given
        return self._windowed(k) or (self._elementwise(k) and self.forms[k] == V)

    # ---------------------------------------------------------------- stages

    def _step(self, k: int) -> None:
        step = self.steps[k]
        if step.op.name == "store":
            self._want(self.sources[k][0], K)
            self.cells[self.sources[k][0]].shown = True
            self._close()
            self.stages.append(Single(k))
        elif self.compiled(k):
            self._compile(k)
        else:
            self._close()
            for s in self.sources[k]:
                self._want(s, self.forms[k])
                self.cells[s].shown |= step.op.name not in ("mix", "pool")
            if step.op.name == "mix" and isinstance(step.op.map, Attention):
                self._want(self.sources[k][-1], self.forms[self.sources[k][-1]])
            self.stages.append(Single(k))

    def _want(self, cell: int, form: str) -> None:
        self.cells[cell].wanted.add(form if self.cells[cell].form == V else K)

    def _close(self) -> None:
        if self._segment is not None and (self._segment.steps or self._segment.ops):
            self.stages.append(self._segment)
        self._segment = None

    def _open(self, k: int) -> Segment:
        cell = self.cells[k]
        own = self._segment
        if own is None or own.full != cell.full or own.size != cell.size:
            self._close()
            own = self._segment = Segment(cell.full, cell.size)
        return own

    def _compile(self, k: int) -> None:
        step, cell = self.steps[k], self.cells[k]
        if step.op.name == "input":
            own = self._open(k)
            own.steps.append(k)
            cell.has_theta = False
            own.slots[k] = own.read(Read(pixels=step.op.dst))
            return
        if self._windowed(k):
            self._window(k)
            return
        moved = [self._aligned(s, k) for s in self.sources[k]]
        own = self._open(k)
        sources = [self._slot(own, s) for s in moved]
        own.steps.append(k)
        own.slots[k] = own.emit(
            step.op.name,
            sources,
            ("step", k),
            step.numbers,
            kind=step.op.kind,
            means=step.op.means,
            layer=step.op.layer,
        )

    def _slot(self, own: Segment, cell: int) -> int:
        """The slot of a value in a segment, read where it was not made there."""
        if cell not in own.slots:
            self._want(cell, V)
            own.slots[cell] = own.read(Read(cell))
        return own.slots[cell]

    def _aligned(self, source: int, k: int) -> int:
        """A source of an elementwise step or of a window, of p = p' alone where that is all it needs."""
        before, like = self.cells[source], self.cells[k]
        if before.full == like.full:
            return source
        self._close()
        self._want(source, V)
        before.shown = True
        self.cells.append(Cell(False, V, before.size, before.has_theta, {V}, before.step, shown=True))
        self.stages.append(Moved(source, len(self.cells) - 1))
        return len(self.cells) - 1

    def _window(self, k: int) -> None:
        """A sum over taps and biases, with which a segment begins."""
        step, cell = self.steps[k], self.cells[k]
        g = step.numbers[3]
        source = self._weighted(self._aligned(self.sources[k][0], k), k)
        self._want(source, V)
        self.cells[source].shown |= not cell.full
        if self._segment is not None and source in self._segment.slots:
            self._close()
        own = self._open(k)
        own.steps.append(k)
        own.slots[k] = own.read(Read(source, window=k))
        if g != 0:
            own.slots[k] = own.emit("dense", [own.slots[k]], ("nothing", k), (1.0, 0.0, 0.0, g), kind="plain")

    def _weighted(self, source: int, k: int) -> int:
        """A convolution's source with the NTK that each tap adds, made once for all of them."""
        step, before = self.steps[k], self.cells[source]
        w2, _, f, _ = step.numbers
        taps = step.taps.shape[1]
        own = self._open(source)
        slot = self._slot(own, source)
        self.cells.append(Cell(before.full, V, before.size, wanted={V}, step=before.step))
        own.slots[len(self.cells) - 1] = own.emit(
            "dense", [slot], ("weighted", k), (w2 / taps, 0.0, f / taps, 0.0), kind="plain"
        )
        return len(self.cells) - 1

    # ---------------------------------------------------------------- programs

    def _finish(self) -> None:
        for k, stage in enumerate(self.stages):
            if isinstance(stage, Segment):
                self._program(stage)
            for cell in self.read_by(stage):
                self.cells[cell].last = k

    @property
    def fine(self) -> bool:
        """Whether biases of windows are to be read in two parts."""
        return any(step.op.kind == "fine" and step.op.window is not None for step in self.steps)

    @property
    def widest(self) -> int:
        """Entries of a pair's largest sheet."""
        return max(cell.size ** (2 if cell.full else 1) for cell in self.cells)

    @property
    def narrow(self) -> bool:
        """Whether the largest sheets have equal positions alone."""
        return max((cell.size**2 for cell in self.cells if cell.full), default=0) < self.widest

    @property
    def entries(self) -> int:
        """What a pair of images takes at most at a time, in numbers."""
        most = 0
        live: set[int] = set()
        for k, stage in enumerate(self.stages):
            live.update(self.made_by(stage))
            spare = 3 * self.widest if isinstance(stage, Single) else 0
            most = max(most, spare + sum(self._entries(c) for c in live))
            live = {c for c in live if self.cells[c].last > k}
        return most

    def _entries(self, cell: int) -> int:
        own = self.cells[cell]
        return (len(own.wanted) + 1) * own.size ** (2 if own.full else 1)

    def read_by(self, stage: Stage) -> Iterator[int]:
        """Cells that a stage reads."""
        if isinstance(stage, Segment):
            yield from (read.cell for read in stage.reads if read.cell >= 0)
        elif isinstance(stage, Moved):
            yield stage.source
        else:
            yield from self.sources[stage.step]

    def made_by(self, stage: Stage) -> list[int]:
        """Cells that a stage writes."""
        if isinstance(stage, Segment):
            return stage.stores
        return [stage.cell] if isinstance(stage, Moved) else [stage.step]

    def _program(self, own: Segment) -> None:
        """Slots, stores and numbers of a segment; what must be 0 for later readers is made so before it is stored."""
        count = len(own.reads)
        read_here = {read.cell for read in own.reads}
        own.stores = [k for k in own.slots if k not in read_here and self.cells[k].wanted]
        outputs = []
        for k in own.stores:
            slot = own.slots[k]
            cell = self.cells[k]
            if self.masked and cell.shown and cell.has_theta:
                slot = own.emit("norm", [slot], ("seen", k), (0.0,))
            outputs.append(slot)

        def numbered(slot: int) -> int:
            return slot - _FIRST + count if slot >= _FIRST else slot

        ops = tuple(op._replace(dst=numbered(op.dst), src=tuple(map(numbered, op.src))) for op in own.ops)
        program = place_slots(ops, count, tuple(map(numbered, outputs)))
        recipes = iter(own.recipes)
        own.rows = [("store", own.stores[op.dst]) if op.name == "store" else next(recipes) for op in program.ops]
        own.lowered = Lowered(program, tuple(own.numbers), ())


def _sources(steps: Sequence[Step]) -> list[tuple[int, ...]]:
    """Steps whose results each step reads."""
    held: dict[int, int] = {}
    found = []
    for k, step in enumerate(steps):
        found.append(() if step.op.name == "input" else tuple(held[s] for s in step.op.src))
        if step.op.name != "store":
            held[step.op.dst] = k
    return found


@lru_cache(maxsize=64)
def plan_segments(lowered: Lowered, spatial: tuple[tuple[int, ...], ...], masked: bool, given: bool) -> Plan:
    """The plan of a program, cut once."""
    return Plan(lowered, spatial, masked, given)
