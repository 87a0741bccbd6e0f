"""Stages of a plan of segments on sheets of pairs: block loops of points, and what stands between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..network.activations import rho_of
from .engine import Tile, TileInput, WindowInput
from .masked import Given
from .numpy_mix import Flags, diagonal
from .numpy_steps import Planes, State, apply, of_given
from .parts import Matrices, Mixer, Part, looked_at, needs_pairs
from .segments import Cell, K, Moved, Plan, Read, Segment, Single, V
from .sheets import EMPTY, Sheets, joint_defect, joint_defect_of_both

Array = npt.NDArray[Any]

_LEAST = 1e-3  # defects of combined positions that float32 has digits enough for
_MOST_GROWN = 1e3  # what rounding errors may grow by, both images together


@dataclass
class Held:
    """Arrays of a value."""

    values: dict[str, Array]  # by form
    theta: Array | None = None


class Runner:
    """Runs the stages of a plan for pairs of two parts, or of one part's images with themselves (``own``).

    ``equal``: pairs (i, j) whose images are one, bit by bit; ``same``: whether pairs i = j are an image with itself.
    """

    def __init__(
        self, engine: Any, plan: Plan, sheets: Sheets, one: Part, two: Part, ntk: bool,
        equal: Sequence[tuple[int, int]] = (), same: Flags | None = None, symmetric: bool = False,
        given: Sequence[Given | None] = (),
    ) -> None:  # fmt: skip
        self._engine, self._plan, self._sheets, self._ntk = engine, plan, sheets, ntk
        self._one, self._two, self._equal, self._symmetric = one, two, equal, symmetric
        self._given = given
        if sheets.own:
            self._i = self._j = np.arange(one.n)
            self._same = np.ones(one.n, bool)
        else:
            self._i, self._j = (own.reshape(-1) for own in np.indices((one.n, two.n)))
            self._same = np.zeros(one.n * two.n, bool) if same is None else same
        self.held: dict[int, Held] = {}
        self.lost: set[tuple[int, int]] = set()  # pairs that float32 has not digits enough for

    def run(self) -> list[tuple[Array, Array | None]] | None:
        """All stages; the outputs, covariances and NTKs. None where most pairs are lost."""
        found: dict[int, tuple[Array, Array | None]] = {}
        for number in range(len(self._plan.stages)):
            output = self.stage(number)
            if output is not None:
                found[output[0]] = output[1:]
            if 2 * len(self.lost) > self._one.n * self._two.n:
                return None
        for cell in list(self.held):
            self._release(cell)
        return [found[k] for k in sorted(found)]

    def stage(self, number: int) -> tuple[int, Array, Array | None] | None:
        """One stage; of an output its number, covariances and NTKs (pairs, P, P') or (pairs, P)."""
        plan, stage, output = self._plan, self._plan.stages[number], None
        if isinstance(stage, Segment):
            self._segment(number, stage)
        elif isinstance(stage, Moved):
            self._move(stage.source, stage.cell)
        elif plan.steps[stage.step].op.name == "store":
            step, source = plan.steps[stage.step], plan.sources[stage.step][0]
            value, theta = self._pairs_of(source, K, step.full)
            output = step.op.dst, value.copy(), None if theta is None else theta.copy()
        else:
            self._single(stage)
        for cell in plan.read_by(stage):
            if plan.cells[cell].last <= number:
                self._release(cell)
        return output

    # ---------------------------------------------------------------- arrays

    def _new(self, cell: int, role: str) -> Array:
        """An array of a value: its form, or 'theta'."""
        own = self._plan.cells[cell]
        sheet = self._sheets.empty(own.size, own.full)
        held = self.held.setdefault(cell, Held({}))
        if role == "theta":
            held.theta = sheet
        else:
            held.values[role] = sheet
        return sheet

    def _release(self, cell: int) -> None:
        held = self.held.pop(cell, None)
        if held is None:
            return
        for sheet in (*held.values.values(), held.theta):
            if sheet is not None:
                self._sheets.release(sheet)

    def _view(self, cell: int, role: str) -> Array | None:
        held = self.held[cell]
        return held.theta if role == "theta" else held.values.get(role)

    def _value(self, cell: int, form: str) -> Array:
        """A value in a form: kept, or made of its defects."""
        view = self._view(cell, form)
        if view is None:
            defect, own = self._view(cell, V), self._plan.cells[cell]
            assert defect is not None
            s1, s2 = (
                self._sheets.rows(np.sqrt(part.q[own.step]), own.full, second)
                for part, second in ((self._one, False), (self._two, True))
            )
            view = self._new(cell, K)
            np.multiply(s1 * rho_of(defect), s2, out=view)
        return view

    def _pairs_of(self, cell: int, form: str, full: bool) -> tuple[Array, Array | None]:
        own = self._plan.cells[cell]
        theta = self._view(cell, "theta")
        return (
            self._sheets.to_pairs(self._value(cell, form), own, full),
            None if theta is None else self._sheets.to_pairs(theta, own, full),
        )

    def state(self, cell: int) -> State:
        """A value of images with themselves, as the steps of NumPy's engine have it."""
        form = self._plan.cells[cell].form
        value, _ = self._pairs_of(cell, form, self._plan.cells[cell].full)
        return value, np.zeros(0), form == K

    def variances(self, cell: int) -> Array:
        """Of a value that is kept as covariances, of images with themselves."""
        return np.ascontiguousarray(diagonal(self.state(cell)[0]), np.float64)

    # ---------------------------------------------------------------- segments

    def _segment(self, number: int, stage: Segment) -> None:
        sheets, plan = self._sheets, self._plan
        alone = sheets.own and not stage.full
        if alone and not self._ntk:
            for cell in stage.stores:  # an image's position with itself
                self._alone(cell)
            return
        shape = sheets.shape(stage.size, stage.full)
        inputs, windows = [self._read(read, stage) for read in stage.reads], []
        if any(read.window >= 0 for read in stage.reads):
            windows = [self._window(read, stage) for read in stage.reads]
        else:  # entry by entry: results may be written over what nothing reads any more
            for read in stage.reads:
                if read.cell >= 0 and plan.cells[read.cell].last == number:
                    self._release(read.cell)
        outputs: list[list[Array | None]] = []
        for cell in stage.stores:
            own = plan.cells[cell]
            value = {form: self._new(cell, form) if form in own.wanted else None for form in (K, V)}
            outputs.append([value[K], self._new(cell, "theta") if self._ntk and own.has_theta else None, value[V]])
        if alone:  # each position of each image as a Gram of its own
            shape = (shape[0] * shape[1], 1, 1)
            outputs = [[None if p is None else p.reshape(shape) for p in planes] for planes in outputs]
        batches, lines, cols = shape
        one, two = (part.table(number, sheets.dtype) for part in (self._one, self._two))
        images = not (stage.full or sheets.own)  # a batch has a row for each image of the table
        tile = Tile(
            one.n if images else lines, two.n if images else cols, 0, batches, 0, lines, 0, cols,
            symmetric=sheets.own or self._symmetric, row1=one.first, row2=two.first,
        )  # fmt: skip
        hidden = self._one.hidden_lines(number, sheets.own)
        self._engine.run(stage.lowered, one, two, sheets.dtype, tile, inputs, outputs, windows, hidden)

    def _joint_rows(self, k: int) -> list[list[Array]]:
        sheets, full = self._sheets, self._plan.cells[k].full
        sides = ((self._one, False), (self._two, True))
        return [[sheets.rows(r, full, second) for r in part.mixer(k, sheets.dtype).rows] for part, second in sides]

    def _alone(self, cell: int) -> None:
        own, part = self._plan.cells[cell], self._one
        if V in own.wanted:
            self._new(cell, V)[...] = 0
        if K in own.wanted:
            self._new(cell, K)[...] = part.q[own.step].T[:, :, None]

    def _arrays(self, cell: int, stage: Segment) -> tuple[Array, Array | None]:
        """Defects and NTKs of a value that a segment reads."""
        held = self.held[cell]
        if self._sheets.own and not stage.full:
            return held.values[V].reshape(-1, 1, 1), None if held.theta is None else held.theta.reshape(-1, 1, 1)
        return held.values[V], held.theta

    def _window(self, read: Read, stage: Segment) -> WindowInput | None:
        if read.window < 0:
            return None
        own = self._sheets.own
        one, two = (part.window(read.window, own) for part in (self._one, self._two))
        bias = float(np.sqrt(self._plan.steps[read.window].numbers[1]))
        return WindowInput(
            *self._arrays(read.cell, stage), one.index, two.index if stage.full else None, one.std, two.std,
            one.inverse, two.inverse, bias,
        )  # fmt: skip

    def _read(self, read: Read, stage: Segment) -> TileInput:
        sheets = self._sheets
        if read.window >= 0:
            return TileInput()
        if read.cell >= 0:
            defect, theta = self._arrays(read.cell, stage)
            return TileInput(defect=defect, theta=theta)
        if sheets.own and not stage.full:  # 1 - rho = 0
            return TileInput()
        sides = [self._units(part, read.pixels, stage) for part in (self._one, self._two)]
        (raw1, panels1, norms1), (raw2, panels2, norms2) = sides
        return TileInput(panels1=panels1, panels2=panels2, raw1=raw1, raw2=raw2, norms1=norms1, norms2=norms2)

    def _units(self, part: Part, number: int, stage: Segment) -> tuple[Array, Array, Array]:
        sheets, engine = self._sheets, self._engine
        key = number, stage.full, sheets.own, sheets.dtype
        found = part.units.get(key)
        if found is None:
            raw = part.wide(number, stage.full, sheets.own, sheets.dtype)
            batch, n, d = raw.shape
            panels = np.empty((batch, -(-n // engine.panel), d * engine.panel), sheets.dtype)
            norms = np.empty((batch, 1, n))
            engine.normalise(raw, panels, norms.reshape(-1))
            found = part.units[key] = raw, panels, norms
        return found

    # ---------------------------------------------------------------- between segments

    def _move(self, source: int, cell: int, index: Any = None) -> None:
        """Positions of a value, copied: those of an index, or p = p'."""
        sheets, before, own = self._sheets, self._plan.cells[source], self._plan.cells[cell]
        for role in (*sorted(own.wanted), "theta"):
            found = self._view(source, "theta") if role == "theta" else self._value(source, role)
            if found is None:
                continue
            view = self._new(cell, role)
            if index is None:
                sheets.alone(found, before, view, own, EMPTY[role])
            else:
                sheets.gather(found, before, view, own, index, EMPTY[role])

    def _single(self, stage: Single) -> None:
        plan, k = self._plan, stage.step
        step, cell, sources = plan.steps[k], plan.cells[k], plan.sources[k]
        cell.wanted.add(cell.form)
        if step.op.name == "input":
            self._known(k, cell)
        elif step.op.name in ("mix", "pool"):
            self._mix(k, cell, sources[0])
        elif step.op.name in ("local", "gather"):
            self._move(sources[0], k, None if step.op.name == "local" else step.op.map.index)
        else:
            states = []
            for s in sources:
                value, theta = self._pairs_of(s, cell.form, step.reads)
                states.append((value, np.zeros_like(value) if theta is None else theta, cell.form == K))
            one, two = (_planes(part, k, at) for part, at in ((self._one, self._i), (self._two, self._j)))
            self._put(k, cell, apply(step, one[0], two[0], states, self._same, one[1], two[1]))

    def _put(self, k: int, cell: Cell, state: State) -> None:
        value, theta = (np.broadcast_to(of, (len(self._i), *_entries(cell))) for of in state[:2])
        self._sheets.from_pairs(value, self._new(k, cell.form), cell)
        if self._ntk:
            self._sheets.from_pairs(theta, self._new(k, "theta"), cell)

    def _known(self, k: int, cell: Cell) -> None:
        """An input that is covariances."""
        step = self._plan.steps[k]
        known = self._given[step.op.dst] if self._given else None
        one, two = (_planes(part, k, at) for part, at in ((self._one, self._i), (self._two, self._j)))
        if known is None:
            nngp, theta = self._one.given[step.op.dst], None
        else:
            nngp, theta = known.nngp.reshape(-1, *known.nngp.shape[2:]), known.theta
            theta = None if theta is None else theta.reshape(nngp.shape)
        assert nngp is not None
        value, theta, _ = of_given(step, nngp, theta, one[0][0], two[0][0])
        for side, (_, barred) in enumerate((one, two)):
            if barred is not None:
                wide = (barred[:, :, None] if side == 0 else barred[:, None, :]) if step.full else barred
                value, theta = np.where(wide, 1.0, value), np.where(wide, 0.0, theta)
        self._put(k, cell, (value, theta, False))

    def _mix(self, k: int, cell: Cell, source: int) -> None:
        sheets = self._sheets
        one, two = (part.mixer(k, sheets.dtype) for part in (self._one, self._two))
        theta = self._view(source, "theta") if self._ntk else None
        if theta is not None:
            self._product(one.plain, two.plain, theta, self._new(k, "theta"), cell)
        out = self._new(k, cell.form)
        if cell.form == K:
            self._product(one.plain, two.plain, self._value(source, K), out, cell)
            return
        value = self._value(source, V)
        if sheets.dtype == np.float32:
            self._correlated(one, two, value, out, cell, self._alike(k))
        else:
            self._joined(k, value, out)

    def _product(self, one: Matrices, two: Matrices, source: Array, out: Array, cell: Cell, **own: Any) -> None:
        """``out = A k B^T`` of each pair of images.

        ``before``: what is made of defects k, 'near' 1 - rho, 'far' 1 + rho, 'rest' what is missing to 1 or -1,
        whichever is nearer; ``behind``: the same of the sums.
        """
        self._engine.mix(one.left, two.right, source, out, self._sheets.own, cell.full, self._symmetric, **own)

    def _alike(self, k: int) -> Sequence[tuple[int, int]]:
        """Pairs of which a step's results are those of one image."""
        if not self._plan.drawn[k]:
            return self._equal
        return [(i, j) for i, j in self._equal if self._same[i * self._two.n + j]]

    def _correlated(
        self, one: Mixer, two: Mixer, value: Array, out: Array, cell: Cell, alike: Sequence[tuple[int, int]]
    ) -> None:
        """Defects of combined positions from correlations, and which pairs float32 has not digits enough for.

        These are near-duplicates, and pairs with sums of which little is left.
        """
        assert one.folded is not None
        assert two.folded is not None
        assert one.grown is not None
        assert two.grown is not None
        equal, close = np.zeros((2, one.grown.size, two.grown.size), bool)
        for pair in alike:
            equal[pair] = True
        self._product(
            one.folded, two.folded, value, out, cell, before="rest", behind="rest", equal=equal, close=close,
            least=_LEAST,
        )  # fmt: skip
        if self._symmetric:
            close |= close.T
        close |= np.multiply.outer(one.grown, two.grown) > _MOST_GROWN
        self.lost.update(zip(*(of.tolist() for of in np.nonzero(close)), strict=True))

    def _joined(self, k: int, value: Array, out: Array) -> None:
        """Signed defects of combined positions, as digits of the smallest are kept."""
        sheets, cell = self._sheets, self._plan.cells[k]
        one, two = (part.mixer(k, sheets.dtype) for part in (self._one, self._two))
        A, B = one.folded, two.folded
        assert A is not None
        assert B is not None

        def sums(side: str, into: Array) -> None:
            self._product(A, B, value, into, cell, before=side)

        sums("near", out)
        self._exact(out, cell, 2 * one.rows[2], self._alike(k))
        if joint_defect(out, *self._joint_rows(k)):  # opposite ones need sums of 1 + rho too
            sums("near", out)
            self._exact(out, cell, 2 * one.rows[2], self._alike(k))
            other = np.empty_like(out)
            sums("far", other)
            joint_defect_of_both(out, other, *self._joint_rows(k))

    def _exact(self, view: Array, cell: Cell, own: Any, alike: Sequence[tuple[int, int]]) -> None:
        """Where both images are one, p = p' has what the image has with itself, whatever a product rounds it to.

        ``own``: that, for each image (n, P) or for all.
        """
        found = self._sheets.equal_slots(view, cell.size) if cell.full else view
        own = np.broadcast_to(own, (self._one.n, cell.size))
        if self._sheets.own:
            found[...] = own.T[:, :, None]
            return
        for i, j in alike:
            found[:, i, j] = own[i]


def _entries(cell: Cell) -> tuple[int, ...]:
    return (cell.size,) * (2 if cell.full else 1)


def _planes(part: Part, k: int, at: Any) -> tuple[Planes, Flags | None]:
    """What a step of NumPy's engine reads of some images."""
    barred = part.hidden[k]
    return [plane[at] for plane in part.planes[k]], None if barred is None else barred[at]


def _looked_at(runner: Runner, plan: Plan, k: int) -> list[State | None]:
    """What a step looks at of images with themselves: all sources, or behind the last nonlinearity the last one."""
    if not looked_at(plan, k):
        return []
    last = len(plan.sources[k]) - 1
    return [runner.state(s) if plan.forms[k] == V or place == last else None for place, s in enumerate(plan.sources[k])]


def follow(part: Part, engine: Any, plan: Plan, dtype: Any, outputs: bool, ntk: bool = False) -> list[Any]:
    """Variances of a part's images, step by step; images with themselves go through as many stages as that takes.

    Where ``outputs``, K(x, x) of these and the NTKs, (n, P, P) or (n, P).
    """
    sheets = Sheets(np.dtype(dtype), part.n, part.n, True)
    runner = Runner(engine, plan, sheets, part, part, ntk)
    found: dict[int, Any] = {}
    count = len(plan.stages) if outputs else needs_pairs(plan)
    for number, stage in enumerate(plan.stages):
        steps = stage.steps if isinstance(stage, Segment) else [] if isinstance(stage, Moved) else [stage.step]
        for k in steps:
            part.follow(k, _looked_at(runner, plan, k))
        if number >= count:
            continue
        output = runner.stage(number)
        if output is not None:
            found[output[0]] = output[1:]
        for k in steps:
            if plan.steps[k].op.name != "store" and plan.forms[k] == K:
                part.q[k] = runner.variances(k)
    return [found[k] for k in sorted(found)]
