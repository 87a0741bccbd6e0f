"""The compiled reverse pass over tiles of pairs: numpy_adjoint.py says what it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.jet import over, slope_of, value_of
from ..network.activations import of_dual
from ..plan.rows import rows_of
from .numpy_adjoint import LINEAR, PairSums
from .numpy_pairs import Rows
from .numpy_rows import CLOSE
from .numpy_tangents import Side, Tangents

Array = npt.NDArray[Any]


def compiled_adjoint(module: Any, isa: str, tangents: Tangents) -> CompiledAdjoint | None:
    """Of a program whose nonlinearities are all compiled with derivatives; those in their own numbers are NumPy's."""
    if isa not in tangents.compiled:
        tangents.compiled[isa] = _compiled(module, isa, tangents)
    found: CompiledAdjoint | None = tangents.compiled[isa]
    return found


def _compiled(module: Any, isa: str, tangents: Tangents) -> CompiledAdjoint | None:
    for step in tangents.steps:
        if step.op.name in ("dense", "sum", "store") and step.op.kind != "means":
            continue
        if step.op.name in LINEAR or not module.has_adjoint(step.op.name) or tangents.moving & set(step.op.numbers):
            return None
    return CompiledAdjoint(module, isa, tangents)


class CompiledAdjoint:
    """The steps of a program as C++ reads them, and where it finds and leaves what belongs to them."""

    def __init__(self, module: Any, isa: str, tangents: Tangents) -> None:
        self._module, self._isa, self._tangents = module, isa, tangents
        values = {s: s for s in range(tangents.n_inputs)}
        self._sums: list[tuple[int, int]] = []
        self._totals: list[tuple[int, int]] = []
        ops, n_rows = [], 0
        self._outputs = 0
        biases: list[tuple[float, float, int, int]] = []  # w2, b2, source, first row
        self._others: list[tuple[Any, int]] = []  # steps that read rows, and the first of these
        for position, step in enumerate(tangents.steps):
            name, first_row = step.op.name, n_rows
            firsts = [first_row, len(self._sums), len(self._totals)]
            src = [values[s] for s in step.src]
            gap = False
            if name == "store":
                self._sums.append((position, 0))
                self._outputs += 1
            elif name == "dense":
                gap = step.own[1] != 0 or bool(tangents.moving & set(step.op.numbers))
                self._sums += [(position, 0), (position, 1)]
                self._totals += [(position, 0), (position, 1)]
                if step.op.kind in ("bias", "fine"):
                    biases.append((step.own[0], step.own[1], src[0], n_rows))
                    n_rows += 2
            elif name == "sum":
                self._sums += [(position, b) for b in range(len(src))]
                self._others.append((step, n_rows))
                n_rows += len(src)
            else:
                own = len(of_dual(name, step.own).row_names)
                if own:
                    self._sums.append((position, 0))
                    self._others.append((step, n_rows))
                n_rows += 2 * own
            dst = step.dst
            if name != "store":
                dst = values[step.dst] = len(values)
            flags = [step.op.kind in ("bias", "fine"), step.op.kind == "guard", gap]
            ops.append((name, dst, src, list(step.own), firsts, flags))
        self._values, self._n_rows = list(values), n_rows
        self._sources = [source for _, _, source, _ in biases]
        self._biases = np.array([of[:2] for of in biases]).reshape(-1, 2).T[:, :, None]
        self._shares = [first for *_, first in biases] + [first + 1 for *_, first in biases]
        counts = [
            tangents.n_inputs, len(values), self._outputs, n_rows, len(self._sums), len(self._totals),
        ]  # fmt: skip
        self._program = self._module.AdjointProgram(ops, counts)

    def _arrays(self, side: Side) -> tuple[Array, Array]:
        """Variances of all values, and the row arrays of all steps, by row."""
        if side.arrays is not None:
            return side.arrays
        q = np.array([side.q[s] for s in self._values])
        made = np.empty((self._n_rows, q.shape[1]))
        if len(self._shares):  # those of all dense steps with a bias at once
            w2, b2 = self._biases
            part = w2 * q[self._sources]
            ratio = np.concatenate([b2 / part, part / b2])
            ratio += 1
            made[self._shares] = np.divide(1, np.sqrt(ratio, out=ratio), out=ratio)
        for step, first in self._others:
            if step.op.name == "sum":
                own: list[Any] = list(rows_of(step.op, step.own, [side.q[s] for s in step.src]).values())
            else:
                rows = [side.rows[step.dst][name] for name in of_dual(step.op.name, step.own).row_names]
                own = [value_of(row) for row in rows] + [slope_of(row, "q") for row in rows]
            for k, row in enumerate(own, first):
                made[k] = row
        side.arrays = q, made
        return side.arrays

    def _tables(self, side: Side, lines: slice, columns: slice) -> tuple[Array, ...]:
        """Variances and row arrays of a tile, of both its sides."""
        return tuple(np.ascontiguousarray(a[:, s]) for a in self._arrays(side) for s in (lines, columns))

    def sweep(
        self, side: Side, rows: Sequence[Rows], lines: slice, columns: slice, kind: tuple[bool, float], put: Any,
        ntk: bool, wanted: tuple[bool, bool], threads: int,
    ) -> PairSums:  # fmt: skip
        """There and back over one tile: sums for rows; gradients are added to those of the rows where ``wanted``.

        ``kind``: whether both sides are the same rows, and the defect that is none.
        """
        m, n = lines.stop - lines.start, columns.stop - columns.start
        by_line, by_column = np.zeros((len(self._sums), m)), np.zeros((len(self._sums), n))
        totals = np.zeros((1, len(self._totals)))
        given = [put.get(k, (None, None)) for k in range(self._outputs)]
        self._module.adjoint(
            self._program, self._tables(side, lines, columns), _given(rows, lines, columns, wanted), (*kind, CLOSE),
            given, (by_line, by_column, totals), ntk, self._isa, threads,
        )  # fmt: skip
        found = PairSums(totals=dict(zip(self._totals, totals[0].tolist(), strict=True)))
        found.tables = self._sums, by_line, by_column
        return found

    def _pulls(self, side: Side) -> Array:
        """Of each value behind a dual d ln V / d ln q, (values, rows)."""
        found = np.zeros((len(self._values), side.q[self._values[0]].size))
        for k, value in enumerate(self._values):
            if value in side.variances:
                V = side.variances[value]
                found[k] = over(slope_of(V, "q"), value_of(V))
        return found

    def entries(
        self, side: Side, rows: Sequence[Rows], lines: slice, columns: slice, kind: tuple[bool, float], ntk: bool,
        groups: Sequence[Mapping[int, float]], threads: int,
    ) -> Array:  # fmt: skip
        """Every entry's own derivatives, (groups, lines, columns).

        ``groups``: of each the slopes of the numbers that it moves, by their places. Of the same rows on both sides
        those below the diagonal are left out.
        """
        pulls = self._pulls(side)
        slopes = np.zeros((len(self._tangents.steps), 4, len(groups)))
        for step, own in zip(self._tangents.steps, slopes, strict=True):
            for at, place in enumerate(step.op.numbers if step.op.name == "dense" else ()):
                own[at] = [group.get(place, 0.0) for group in groups]
        planes = np.zeros((len(groups), lines.stop - lines.start, columns.stop - columns.start))
        cut = tuple(np.ascontiguousarray(pulls[:, s]) for s in (lines, columns))
        self._module.adjoint_entries(
            self._program, self._tables(side, lines, columns), _given(rows, lines, columns, (False, False)),
            (*kind, CLOSE), cut, slopes.reshape(-1, len(groups)), planes, ntk, self._isa, threads,
        )  # fmt: skip
        return planes


def _given(rows: Sequence[Rows], lines: slice, columns: slice, wanted: tuple[bool, bool]) -> list[Any]:
    """Rows of a tile as C++ takes them, of each input."""
    return [
        (
            *((own.unit[s], own.scaled[s], own.scale[s], own.length[s]) for s in (lines, columns)),
            tuple(own.gradient[s] if asked else None for s, asked in zip((lines, columns), wanted, strict=True)),
        )
        for own in rows
    ]
