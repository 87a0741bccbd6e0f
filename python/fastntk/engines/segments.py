"""A network over pairs of positions, cut for compiled loops: stretches that run as rows of points, and what joins them.

A position of an image is a row, and so all pairs of positions of two images are pairs of points. Nonlinearities, sums
and all else that keeps positions apart run in the block loops of points (a ``Segment``). A convolution is a sum of
branches there, one for each tap, which read the same array at another place: images lie on a ``Canvas``, whose slots
between lines are empty, so that a tap is one shift for all positions. What combines all positions, products with
matrices, stands between segments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..network.activations import is_dual
from ..network.lower import place_slots
from ..network.maps import Attention
from ..network.program import Lowered, Op, leaves
from ..network.window import Positions, Transposed
from .numpy_images import plan_of, positions_of
from .numpy_steps import Step

Array = npt.NDArray[Any]

MOST_TAPS = 30  # of a convolution in a segment: each is an input of its program

V, K = "v", "k"  # how a value is kept: signed defect, or covariance


@dataclass(frozen=True)
class Canvas:
    """Slots of one image, of which some hold positions; ``margin``: how far taps reach beyond them."""

    size: int
    margin: int = 0


@dataclass
class Cell:
    """A value on its way: the result of a step, or what was moved for one."""

    full: bool  # all pairs of positions, else p = p'
    form: str
    canvas: Canvas
    place: Positions  # (positions,): the slot of each
    has_theta: bool = True
    wanted: set[str] = field(default_factory=set)  # forms in which later stages read it
    step: int = -1  # whose result it is; -1: moved
    last: int = -1  # the last stage that reads it


@dataclass(frozen=True)
class Read:
    """An input of a segment: a value shifted by some slots, unit rows of an input, or the part that all have alike."""

    cell: int = -1
    shift: int = 0
    pixels: int = -1  # number of the input


@dataclass
class Segment:
    """Steps that run in the block loops of points."""

    full: bool
    canvas: Canvas
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
    """Positions of a value copied to other slots: ``out[target] = source[slots]``."""

    source: int
    cell: int
    slots: Positions
    target: Positions


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
        self.forms = self._forms()
        self.cells: list[Cell] = []
        self._canvases(spatial)
        self.stages: list[Stage] = []
        self._segment: Segment | None = None
        for k in range(len(self.steps)):
            self._step(k)
        self._close()
        self._finish()

    # ---------------------------------------------------------------- forms and canvases

    def _elementwise(self, k: int) -> bool:
        name = self.steps[k].op.name
        return name in ("dense", "sum", "norm", "product") or is_dual(name)

    def _windowed(self, k: int) -> bool:
        """Whether a step is a convolution whose taps a segment can take."""
        step = self.steps[k]
        return (
            step.op.name in ("conv", "transposed")
            and step.taps.shape[1] <= MOST_TAPS
            and step.op.kind != "guard"
            and self.forms[self.sources[k][0]] == V
        )

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

    def _canvases(self, spatial: Sequence[tuple[int, ...]]) -> None:
        """A canvas for all values that keep their positions: groups of steps, and how far their windows reach."""
        group = list(range(len(self.steps)))

        def root(k: int) -> int:
            while group[k] != k:
                k = group[k]
            return k

        reach: dict[int, list[tuple[tuple[int, ...], list[int]]]] = {}
        for k, step in enumerate(self.steps):
            window, sources = step.op.window, self.sources[k]
            if self._elementwise(k):
                for s in sources:
                    a, b = sorted((root(s), root(k)))
                    group[b] = a
            elif window is not None and self._windowed(k) and not window.circular:
                if isinstance(window, Transposed):
                    void = [max(low, n - 1 - low) for low, n in zip(window.low, window.shape, strict=True)]
                    reach.setdefault(k, []).append((window.size_out, void))
                elif window.aligned:
                    group[k] = root(sources[0])
                    after = [
                        (m - 1) + (n - 1) * e - low - (size - 1)
                        for m, n, e, low, size in zip(
                            window.size_out, window.shape, window.dilation, window.low, window.size_in, strict=True
                        )
                    ]
                    void = [max(a, b, 0) for a, b in zip(window.low, after, strict=True)]
                    reach.setdefault(k, []).append((window.size_in, void))
        needs: dict[int, list[tuple[tuple[int, ...], list[int]]]] = {}
        for k, own in reach.items():
            needs.setdefault(root(k), []).extend(own)
        self._dims: list[tuple[int, ...]] = []
        for k, step in enumerate(self.steps):
            count, own = self.positions[k], needs.get(root(k), [])
            base = own[0][0] if own else (count,)
            dims = tuple(n + max(void[a] for _, void in own) if own else n for a, n in enumerate(base))
            if count > math.prod(dims):  # a window that only adds positions
                base = dims = (count,)
            self._dims.append(dims)
            place = self._place(k, base, dims)
            self.cells.append(Cell(step.full, self.forms[k], Canvas(math.prod(dims)), place, step=k))

    def _place(self, k: int, base: tuple[int, ...], dims: tuple[int, ...]) -> Positions:
        """Slots of a result's positions: where those stand that it is made of, else in order."""
        step, count = self.steps[k], self.positions[k]
        if self.sources[k] and self._dims[self.sources[k][0]] == dims and (self._elementwise(k) or self._windowed(k)):
            before = self.cells[self.sources[k][0]].place
            if self._elementwise(k) or (len(before) == count and not isinstance(step.op.window, Transposed)):
                return before
            inside = (step.taps >= 0).all(axis=0)
            if inside.any():
                found = before[step.taps[:, int(inside.argmax())]]
                if len(np.unique(found)) == count:
                    return np.asarray(found)
        if math.prod(base) == count:
            index = tuple(np.indices(base).reshape(len(base), -1))
            return np.asarray(np.ravel_multi_index(index, dims), np.int64)
        return np.arange(count)

    # ---------------------------------------------------------------- stages

    def _step(self, k: int) -> None:
        step = self.steps[k]
        if step.op.name == "store":
            self._want(self.sources[k][0], K)
            self._close()
            self.stages.append(Single(k))
        elif self.compiled(k):
            self._compile(k)
        else:
            self._close()
            for s in self.sources[k]:
                self._want(s, self.forms[k])
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
        if own is None or own.full != cell.full or own.canvas.size != cell.canvas.size:
            self._close()
            own = self._segment = Segment(cell.full, cell.canvas)
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
        """A source of an elementwise step, moved where its positions stand elsewhere."""
        one, two = self.cells[source], self.cells[k]
        if one.full == two.full and one.canvas.size == two.canvas.size and np.array_equal(one.place, two.place):
            return source
        return self._moved(source, k, one.place, two.place)

    def _moved(self, source: int, k: int, slots: Positions, target: Positions) -> int:
        self._close()
        self._want(source, V)
        like, before = self.cells[k], self.cells[source]
        self.cells.append(Cell(like.full, V, like.canvas, target, before.has_theta, {V}))
        self.stages.append(Moved(source, len(self.cells) - 1, slots, target))
        return len(self.cells) - 1

    def _window(self, k: int) -> None:
        """A sum over taps, and biases as one more part."""
        step, source = self.steps[k], self.sources[k][0]
        _, b2, _, g = step.numbers
        source = self._weighted(source, k)
        read, shifts = source, self._shifts(k, self.cells[source])
        if shifts is None and isinstance(step.op.window, Transposed) and not step.op.window.circular:
            read = self._spread(k, source)
            shifts = self._shifts(k, self.cells[read])
        if shifts is None:  # each tap a copy
            here = self.cells[k].place
            read, reads = source, []
            for tap in step.taps.T:
                met = tap >= 0
                reads.append(Read(self._moved(source, k, self.cells[source].place[tap[met]], here[met])))
        else:
            reads = [Read(read, shift) for shift in shifts]
        if self._segment is not None and any(r.cell in self._segment.slots for r in reads):
            self._close()
        own = self._open(k)
        if shifts is not None:
            self._want(read, V)
        parts = [own.read(one) for one in reads]
        if b2 > 0:
            parts.append(own.read(Read()))
        own.steps.append(k)
        own.slots[k] = own.emit("sum", parts, ("taps", k))
        if g != 0:
            own.slots[k] = own.emit("dense", [own.slots[k]], ("nothing", k), (1.0, 0.0, 0.0, g), kind="plain")

    def _weighted(self, source: int, k: int) -> int:
        """A convolution's source with the NTK that each tap adds, made once for all of them."""
        step, before = self.steps[k], self.cells[source]
        w2, _, f, _ = step.numbers
        taps = step.taps.shape[1]
        own = self._open(source)
        slot = self._slot(own, source)
        self.cells.append(Cell(before.full, V, before.canvas, before.place, wanted={V}, step=source))
        own.slots[len(self.cells) - 1] = own.emit(
            "dense", [slot], ("weighted", k), (w2 / taps, 0.0, f / taps, 0.0), kind="plain"
        )
        return len(self.cells) - 1

    def _spread(self, k: int, source: int) -> int:
        """The source of a transposed convolution with its positions ``strides`` apart."""
        window = self.steps[k].op.window
        assert isinstance(window, Transposed)
        index = np.indices(window.size_in).reshape(len(window.size_in), -1)
        place = np.ravel_multi_index(tuple(index * np.array(window.strides)[:, None]), self._dims[k], mode="clip")
        return self._moved(source, k, self.cells[source].place, place.astype(np.int64))

    def _shifts(self, k: int, source: Cell) -> list[int] | None:
        """How many slots before each position the taps stand, where that is one number for all."""
        cell, taps = self.cells[k], self.steps[k].taps
        if source.canvas.size != cell.canvas.size or source.full != cell.full:
            return None
        held = np.zeros(source.canvas.size, bool)
        held[source.place] = True
        found = []
        for tap in taps.T:
            met = tap >= 0
            apart = np.unique(source.place[tap[met]] - cell.place[met])
            if len(apart) > 1:
                return None
            shift = int(apart[0]) if len(apart) else 0
            if len(apart) and held[(cell.place[~met] + shift) % source.canvas.size].any():
                return None
            if not len(apart):  # it reads nothing anywhere
                free = np.flatnonzero(~held)
                if len(cell.place) > 1 or not len(free):
                    return None
                shift = int(free[0] - cell.place[0])
            found.append(shift)
        return found

    # ---------------------------------------------------------------- programs

    def _finish(self) -> None:
        margins: dict[int, int] = {}
        for stage in self.stages:
            if isinstance(stage, Segment):
                for read in stage.reads:
                    if read.cell >= 0:
                        margins[read.cell] = max(margins.get(read.cell, 0), abs(read.shift))
        for cell, margin in margins.items():
            self.cells[cell].canvas = Canvas(self.cells[cell].canvas.size, margin)
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
        return max(cell.canvas.size ** (2 if cell.full else 1) for cell in self.cells)

    @property
    def narrow(self) -> bool:
        """Whether the largest sheets have equal positions alone."""
        return max((cell.canvas.size**2 for cell in self.cells if cell.full), default=0) < self.widest

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
        slots = own.canvas.size + 2 * own.canvas.margin
        return (len(own.wanted) + 1) * slots ** (2 if own.full else 1)

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
            if (self.masked or cell.canvas.size > len(cell.place)) and cell.has_theta:
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
