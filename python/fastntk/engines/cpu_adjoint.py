"""The compiled reverse pass over tiles of pairs: numpy_adjoint.py says what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.jet import slope_of, value_of
from ..network.activations import of_dual
from ..plan.rows import rows_of
from .numpy_adjoint import LINEAR, PairSums, Side, Tangents

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
                n_rows += 2 if step.op.kind in ("bias", "fine") else 0
            elif name == "sum":
                self._sums += [(position, b) for b in range(len(src))]
                n_rows += len(src)
            else:
                own = len(of_dual(name, step.own).row_names)
                self._sums += [(position, 0)] if own else []
                n_rows += 2 * own
            dst = step.dst
            if name != "store":
                dst = values[step.dst] = len(values)
            flags = [step.op.kind in ("bias", "fine"), step.op.kind == "guard", gap]
            ops.append((name, dst, src, list(step.own), firsts, flags))
        self._values, self._n_rows = list(values), n_rows
        counts = [
            tangents.n_inputs, len(values), self._outputs, n_rows, len(self._sums), len(self._totals),
        ]  # fmt: skip
        self._program = self._module.AdjointProgram(ops, counts)

    def _arrays(self, side: Side) -> tuple[Array, Array]:
        """Variances of all values, and the row arrays of all steps, by row."""
        if side.arrays is not None:
            return side.arrays
        n = len(side.q[0])
        rows: list[Any] = []
        for step in self._tangents.steps:
            if step.op.name == "sum" or (step.op.name == "dense" and step.op.kind in ("bias", "fine")):
                of = rows_of(step.op, step.own, [side.q[s] for s in step.src])
                rows += [row for name, row in of.items() if name != "std" and not name.endswith("_low")]
            elif step.dst in side.rows:
                own = [side.rows[step.dst][name] for name in of_dual(step.op.name, step.own).row_names]
                rows += [value_of(row) for row in own]
                rows += [np.broadcast_to(slope_of(row, "q"), n) for row in own]
        q = np.array([side.q[s] for s in self._values])
        made = np.array(rows, dtype=np.float64) if rows else np.zeros((0, n))
        side.arrays = q, made
        return side.arrays

    def sweep(
        self, side1: Side, side2: Side, lines: slice, columns: slice, defects: Sequence[Array], put: Any, ntk: bool
    ) -> tuple[list[Array], PairSums]:
        """There and back over one tile: P of each input, and sums for rows."""
        (q1, rows1), (q2, rows2) = self._arrays(side1), self._arrays(side2)
        m, n = lines.stop - lines.start, columns.stop - columns.start
        P = [np.empty((m, n)) for _ in defects]
        by_line, by_column = np.zeros((len(self._sums), m)), np.zeros((len(self._sums), n))
        totals = np.zeros((1, len(self._totals)))
        cut = [np.ascontiguousarray(a[:, s]) for a, s in ((q1, lines), (q2, columns), (rows1, lines), (rows2, columns))]
        given = [list(put.get(k, (None, None))) for k in range(self._outputs)]
        self._module.adjoint(
            self._program, *cut, [np.ascontiguousarray(v) for v in defects], given, P, by_line, by_column, totals, ntk,
            self._isa,
        )  # fmt: skip
        found = PairSums()
        found.rows[0].update(zip(self._sums, by_line, strict=True))
        found.rows[1].update(zip(self._sums, by_column, strict=True))
        found.totals.update(zip(self._totals, map(float, totals[0]), strict=True))
        return P, found
