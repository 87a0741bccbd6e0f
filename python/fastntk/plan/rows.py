"""The row pass: all that belongs to one input of a program on points, in array code of NumPy or CuPy, in float64.

First the variances go through the ops, one after the other. Then the row arrays are made, what an op reads of one input
alone: those of all ops of one kind at once, so that the number of array calls hardly grows with depth. They lie in one
table, kind by kind, and whoever reads them finds each by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..network.activations import Nonlinearity, of_dual, of_input, row_names_of_dual
from ..network.program import Lowered, Op, Program

Array = npt.NDArray[Any]  # or CuPy's

# Inputs at a time in NumPy: what is made of them on the way stays in cache.
_CHUNK = 4096


@lru_cache(maxsize=1024)
def _layer(name: str, numbers: tuple[float, ...]) -> Nonlinearity:
    """The bare nonlinearity of a dual op; as many objects as there are different ones."""
    return of_dual(name, numbers)


def row_names(op: Op) -> tuple[str, ...]:
    """What an op reads of one input, by name.

    A dense its deviation, ``std = sqrt(f q)``, and with a bias the shares of both parts in the deviation behind it; a
    sum the share of each part; a store the deviation. Windows read tables of images.
    """
    if op.name in ("conv", "pool"):
        return ()
    if op.name == "dense":
        return ("std", "share", "bias") if op.kind == "bias" else ("std",)
    if op.name == "sum":
        return tuple(f"share{k}" for k in range(len(op.src)))
    if op.name == "store":
        return ("std",)
    return row_names_of_dual(op.name, len(op.numbers))


def _share(ratio: Array, xp: Any, out: Array | None = None) -> Array:
    """A part's deviation over that of the sum of independent parts; ``ratio``: of the other parts' variance to its own.

    Right at 0 and at infinity. Overwrites the ratio.
    """
    ratio += 1
    found: Array = xp.divide(1, xp.sqrt(ratio, out=ratio), out=ratio if out is None else out)
    return found


def _share_of_part(part: Array, total: Array, xp: Any) -> Array:
    """The same in a sum whose parts may all be 0: a share of 0 there."""
    found: Array = xp.where(part == 0, 0, _share((total - part) / part, xp))
    return found


def rows_of(op: Op, numbers: Sequence[float], q: Sequence[Array], xp: Any = np) -> Mapping[str, Array]:
    """The row arrays of one op with its own numbers, for variances q of its sources, of any shape."""
    if op.name == "store":
        found = [xp.sqrt(q[0])]
    elif op.name == "dense":
        w2, b2, f, _ = numbers
        found = [xp.sqrt(f * q[0])]
        if op.kind == "bias":
            found += [_share(b2 / (w2 * q[0]), xp), _share(w2 * q[0] / b2, xp)]
    elif op.name == "sum":
        found = [_share_of_part(part, sum(q[1:], q[0]), xp) for part in q]
    else:
        return of_dual(op.name, numbers).rows(q[0], xp)
    return dict(zip(row_names(op), found, strict=True))


def rows_of_dual(name: str, params: Sequence[float], q: Array, dtype: Any, xp: Any = np) -> Array:
    """What a dual map reads of one of its variances, q (n,): the rows of the nonlinearity, then the deviation behind.

    (rows + 1, n) of ``dtype``, made in float64.
    """
    layer, names = _layer(name, tuple(params)), row_names_of_dual(name, len(params))
    table = xp.empty((len(names) + 1, len(q)), dtype)
    step = _CHUNK if xp is np else max(1, len(q))
    for start in range(0, len(q), step):
        part = slice(start, start + step)
        rows = layer.rows(q[part], xp)
        for row, own in enumerate(names):
            table[row, part] = rows[own]
        xp.sqrt(layer.variance(q[part], xp), out=table[-1, part])
    return table  # type: ignore[no-any-return]


# ---------------------------------------------------------------- where they lie


@dataclass(frozen=True)
class Layout:
    """Where the row arrays of a program lie in its table, and which values its ops read and make.

    Values are numbered: first the program's inputs, then what each op but ``store`` makes.
    """

    places: tuple[dict[str, int], ...]  # of each op: its row arrays by name
    n_rows: int
    sources: tuple[tuple[int, ...], ...]  # of each op: values
    duals: tuple[int, ...]  # ops whose row arrays are a nonlinearity's, as they lie


@lru_cache(maxsize=256)
def layout_of(program: Program) -> Layout:
    """The layout of a program on points."""
    held = list(range(program.n_inputs))  # by slot: the value in it
    held += [-1] * (program.n_slots - len(held))
    sources, n_values = [], program.n_inputs
    for op in program.ops:
        sources.append(tuple(held[slot] for slot in op.src))
        if op.name != "store":
            held[op.dst] = n_values
            n_values += 1
    places: list[dict[str, int]] = [{} for _ in program.ops]
    n_rows = 0

    def put(ops: Sequence[int], names: Sequence[str]) -> None:
        nonlocal n_rows
        for name in names:
            for k in ops:
                places[k][name] = n_rows
                n_rows += 1

    found = list(enumerate(program.ops))
    put([k for k, op in found if op.name in ("dense", "store")], ["std"])
    put([k for k, op in found if op.name == "dense" and op.kind == "bias"], ["share", "bias"])
    for k, op in found:
        if op.name == "sum":
            put([k], row_names(op))
    duals = sorted((op.name, len(op.numbers), k) for k, op in found if not places[k] and row_names(op))
    for _, same in groupby(duals, lambda dual: dual[:2]):
        members = [k for *_, k in same]
        put(members, row_names(program.ops[members[0]]))
    return Layout(tuple(places), n_rows, tuple(sources), tuple(k for *_, k in duals))


class Rows:
    """Row arrays of some inputs, ``table[k, i]`` array k of input i, and the variances of the outputs."""

    def __init__(self, layout: Layout, table: Array, outputs: Sequence[Array]) -> None:
        self._layout, self.table, self._outputs = layout, table, outputs

    def variance(self, output: int) -> Array:
        """K(x, x) of an output, (n,), float64 or what the variances of the inputs are."""
        return self._outputs[output]

    def of(self, op: int, place: Any = ...) -> Any:
        """The row arrays of an op as attributes; ``place``: which inputs, or a new shape."""
        return of_input({name: self.table[row] for name, row in self._layout.places[op].items()}, place)


# ---------------------------------------------------------------- the pass

_Move: TypeAlias = "tuple[Nonlinearity | None, tuple[int, ...], float, float]"  # a value: V(q), or a q + b, or a sum


def _move(op: Op, own: tuple[float, ...], sources: tuple[int, ...]) -> _Move:
    """How an op makes its value's variance; of positions that are all alike also a conv and a pool."""
    if op.name in ("dense", "conv"):
        return None, sources, own[0], own[1]
    if op.name == "pool":
        return None, sources, own[0] ** 2, 0.0
    if op.name == "sum":
        return None, sources, 1.0, 0.0
    layer = _layer(op.name, own)
    if layer.homogeneous:
        return None, sources, float(layer.variance(np.ones(()))), 0.0
    return layer, sources, 1.0, 0.0


class RowPass:
    """The row pass of a program with its numbers, for arrays of the library ``xp``."""

    def __init__(self, lowered: Lowered, xp: Any = np) -> None:
        self._xp, self.layout = xp, layout_of(lowered.program)
        ops, own = lowered.program.ops, [op.own(lowered.numbers) for op in lowered.program.ops]
        sources, places = self.layout.sources, self.layout.places
        self._moves: list[_Move] = []  # one for each value that an op makes
        self._outputs = [0] * lowered.program.n_outputs
        self._deviations: list[int] = []  # values whose deviations are read
        f, b2 = [], []
        self._parts: tuple[list[int], list[int]] = [], []  # of sums: values, and the sum of each
        for k, op in enumerate(ops):
            if op.name == "store":
                self._outputs[op.dst] = sources[k][0]
            else:
                self._moves.append(_move(op, own[k], sources[k]))
            if op.name in ("dense", "store"):
                self._deviations.append(sources[k][0])
                f.append(own[k][2] if op.name == "dense" else 1.0)
            if op.name == "dense" and op.kind == "bias":
                b2.append(own[k][1])
            if op.name == "sum":
                self._parts[0].extend(sources[k])
                self._parts[1].extend([lowered.program.n_inputs + len(self._moves) - 1] * len(sources[k]))
        columns = xp.asarray(np.array(f + b2)[:, None])
        self._f, self._b2 = columns[: len(f)], columns[len(f) :]
        self._duals: list[tuple[Nonlinearity, list[int], dict[str, int]]] = []  # those of one struct behind each other
        for (name, numbers), same in groupby(self.layout.duals, lambda k: (ops[k].name, own[k])):
            members = list(same)
            self._duals.append((_layer(name, numbers), [sources[k][0] for k in members], places[members[0]]))

    def variances(self, q: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """The variance of each value, given those of the inputs; and what biases are added to."""
        xp, values, scaled = self._xp, list(q), []
        for layer, sources, factor, bias in self._moves:
            if layer is not None:
                values.append(layer.variance(values[sources[0]], xp))
            elif len(sources) == 1:
                value = values[sources[0]] * factor
                if bias:
                    scaled.append(value)
                    value = value + bias
                values.append(value)
            else:
                total = values[sources[0]]
                for source in sources[1:]:
                    total = total + values[source]
                values.append(total)
        return values, scaled

    def __call__(self, q: Sequence[Array], dtype: Any) -> Rows:
        """Row arrays of ``dtype`` for inputs with variances q, one array (n,) for each input of the program."""
        xp, n = self._xp, len(q[0])
        table = xp.empty((self.layout.n_rows, n), dtype)
        if xp is not np or n <= _CHUNK:
            return Rows(self.layout, table, self._fill(q, table))
        outputs = [np.empty(n, q[0].dtype) for _ in self._outputs]
        for start in range(0, n, _CHUNK):
            part = slice(start, start + _CHUNK)
            for whole, own in zip(outputs, self._fill([of[part] for of in q], table[:, part]), strict=True):
                whole[part] = own
        return Rows(self.layout, table, outputs)

    def _fill(self, q: Sequence[Array], table: Array) -> list[Array]:
        """Write the row arrays; the variances of the outputs."""
        xp = self._xp
        values, scaled = self.variances(q)
        deviations = _stacked([values[k] for k in self._deviations], xp)
        row = len(deviations)
        deviations *= self._f
        xp.sqrt(deviations, out=table[:row])
        if scaled:
            size = len(scaled)
            part, ratio = _stacked(scaled, xp), xp.empty((2 * size, len(q[0])), q[0].dtype)
            xp.divide(self._b2, part, out=ratio[:size])
            xp.divide(part, self._b2, out=ratio[size:])
            _share(ratio, xp, out=table[row : row + 2 * size])
            row += 2 * size
        if self._parts[0]:
            part, total = (_stacked([values[k] for k in of], xp) for of in self._parts)
            table[row : row + len(part)] = _share_of_part(part, total, xp)
        for layer, sources, first in self._duals:
            found = layer.rows(_stacked([values[k] for k in sources], xp), xp)
            for name, place in first.items():
                table[place : place + len(sources)] = found[name]
        return [values[k] for k in self._outputs]


def _stacked(arrays: Sequence[Array], xp: Any) -> Array:
    """(k, n) of k arrays (n,)."""
    found: Array = xp.concatenate(arrays).reshape(len(arrays), len(arrays[0]))
    return found


@lru_cache(maxsize=256)
def row_pass(lowered: Lowered) -> RowPass:
    """The row pass in NumPy."""
    return RowPass(lowered)
