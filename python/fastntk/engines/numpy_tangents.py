"""What the reverse pass over pairs of rows has of a program and of single rows (numpy_adjoint.py)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.jet import Jet, over, value_of
from ..network.activations import is_dual, is_homogeneous, of_dual
from ..network.program import Op, Program
from ..plan.rows import row_names, rows_of
from .differenced import Differenced

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Step:
    """An op whose values are numbered through: no value is written twice, so that all are there on the way back."""

    op: Op
    dst: int
    src: tuple[int, ...]
    own: tuple[float, ...]


class Tangents:
    """A program for the reverse pass: its steps, and which of its numbers derivatives are asked for.

    Parameters
    ----------
    program : Program
    numbers : sequence of float
    moving : collection of int
        Places of the numbers with respect to which derivatives are wanted.
    """

    def __init__(self, program: Program, numbers: Sequence[float], moving: Sequence[int]) -> None:
        self.n_inputs = program.n_inputs
        self.moving = frozenset(moving)
        self.compiled: dict[str, Any] = {}  # what was made of it, by instruction set
        self.steps: list[Step] = []
        self._layers: dict[int, Any] = {}
        current = {slot: slot for slot in range(program.n_inputs)}
        for count, op in enumerate(program.ops, program.n_inputs):
            src = tuple(current[s] for s in op.src)
            if op.name != "store":
                current[op.dst] = count
            self.steps.append(Step(op, op.dst if op.name == "store" else count, src, op.own(numbers)))
        self.means = any(step.op.kind == "means" for step in self.steps)
        #: steps whose variance is a multiple of that in front, by a number that stays
        self.multiples = {
            step.dst
            for step in self.steps
            if is_dual(step.op.name) and is_homogeneous(step.op) and self.moving.isdisjoint(step.op.numbers)
        }

    def layer(self, step: Step) -> Any:
        """The nonlinearity of a dual op, its wanted numbers with derivatives."""
        if step.dst not in self._layers:
            self._layers[step.dst] = self._layer(step)
        return self._layers[step.dst]

    def _layer(self, step: Step) -> Any:
        places = zip(step.own, step.op.numbers, strict=True)
        if step.op.layer is not None:
            return step.op.layer if step.op.layer.compiled or step.op.layer.takes_jets else Differenced(step.op.layer)
        own: list[Any] = [Jet(v, {p: 1.0}) if p in self.moving else v for v, p in places]
        return of_dual(step.op.name, own)


class Side:
    """What the sweep needs of the rows of one side: variances, and of every dual its rows, with derivatives in ln q."""

    def __init__(self, tangents: Tangents, q: Sequence[Array]) -> None:
        self.q: dict[int, Array] = dict(enumerate(q))
        self.rows: dict[int, Mapping[str, Any]] = {}
        self.variances: dict[int, Any] = {}  # behind a dual
        self.means: dict[int, Any] = {}  # with derivatives behind a dual; where a sum asks for them
        self.arrays: tuple[Array, Array] | None = None  # what compiled text reads of it, once made
        means = tangents.means
        for step in tangents.steps:
            before = [self.q[s] for s in step.src]
            name = step.op.name
            if name == "dense":
                self.q[step.dst] = step.own[0] * before[0] + step.own[1]
            elif name == "sum":
                self.q[step.dst] = np.sum(before, axis=0)
                if step.op.kind == "means":
                    own, others = means_of(step, self)
                    self.q[step.dst] = self.q[step.dst] + np.sum(
                        [a * b for a, b in zip(own, others, strict=True)], axis=0
                    )
            elif name == "norm":
                gain = rows_of(step.op, step.own, before)["gain"]
                self.q[step.dst] = before[0] * gain * gain
            elif name == "product":
                self.q[step.dst] = np.prod(before, axis=0)
            elif name == "drop":
                self.q[step.dst] = before[0] / step.own[0]
            elif name != "store":
                layer, q1 = tangents.layer(step), Jet(before[0], {"q": before[0]})
                self.rows[step.dst] = layer.rows(q1)
                if step.dst in tangents.multiples:
                    multiple = layer.variance(before[0])
                    self.variances[step.dst] = Jet(multiple, {"q": multiple})
                else:
                    self.variances[step.dst] = layer.variance(q1)
                self.q[step.dst] = value_of(self.variances[step.dst])
                if means:
                    self.means[step.dst] = layer.mean(q1)
            if name in ("dense", "sum", "product", "drop") and any(s in self.means for s in step.src):
                self.means[step.dst] = mean_behind(step, self)

    @property
    def full(self) -> bool:
        """Whether no variance is 0."""
        q = self.q.values() if self.arrays is None else self.arrays[:1]
        return all(np.count_nonzero(of) == of.size for of in q)

    def part(self, rows: slice, axis: int, key: str) -> Side:
        """Some rows along an axis of tiles; what pairs read has its derivatives in ln q by the name ``key``."""
        place = (rows, None) if axis == 0 else (None, rows)

        def cut(a: Any, name: str = "q") -> Any:
            if not isinstance(a, Jet):
                return np.asarray(a)[place]
            found = a[place]
            return Jet(found.value, {name if k == "q" else k: s for k, s in found.slopes.items()})

        part = Side.__new__(Side)
        part.arrays = None
        part.q = {k: q[place] for k, q in self.q.items()}
        part.rows = {k: {name: cut(row, key) for name, row in rows_of.items()} for k, rows_of in self.rows.items()}
        part.variances = {k: cut(v) for k, v in self.variances.items()}
        part.means = {k: cut(m) for k, m in self.means.items()}
        return part


def rows_of_step(step: Step, side: Side) -> Mapping[str, Array]:
    """What an op that is no dual reads of one side, means too."""
    q = [side.q[s] for s in step.src]
    if step.op.kind != "means":
        return rows_of(step.op, step.own, q)
    total = side.q[step.dst]
    size = np.sqrt(total)
    shares = [np.sqrt(over(part, total)) for part in q]
    of_means = [over(mean, size) for mean in means_of(step, side)[0]]
    return dict(
        zip(row_names(step.op), (row for pair in zip(shares, of_means, strict=True) for row in pair), strict=True)
    )


def means_of(step: Step, side: Side) -> tuple[list[Array], list[Array]]:
    """Of a sum: the mean of each branch, 0 of those that have none, and the sum of all others'."""
    own = [
        value_of(side.means[s]) if has else np.zeros_like(side.q[s])
        for s, has in zip(step.src, step.op.means, strict=True)
    ]
    return own, [np.sum([m for c, m in enumerate(own) if c != b], axis=0) for b in range(len(own))]


def mean_behind(step: Step, side: Side) -> Array:
    """The mean of a value that is no nonlinearity's own, from those of its sources."""
    has = step.op.means or (True,) * len(step.src)
    before = [value_of(side.means.get(s, 0.0)) for s, own in zip(step.src, has, strict=True) if own]
    if step.op.name == "dense":
        found: Array = math.sqrt(step.own[0]) * before[0]
        return found
    found = math.prod(before) if step.op.name == "product" else sum(before)
    return found
