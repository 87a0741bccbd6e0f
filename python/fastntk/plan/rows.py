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
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..network.activations import Nonlinearity, bare_of, of_input, of_op, row_names_of_dual
from ..network.program import MOVING, Lowered, Op, Program

Array = npt.NDArray[Any]  # or CuPy's

# What a dense with a bias reads beside its deviation. Fine: and what the first two have lost, for differences.
_SHARES = {"bias": ("share", "bias"), "fine": ("share", "bias", "share_low", "bias_low")}

# Inputs at a time in NumPy: what is made of them on the way stays in cache.
_CHUNK = 4096


def row_names(op: Op) -> tuple[str, ...]:
    """What an op reads of one input, by name.

    A dense its deviation, ``std = sqrt(f q)``, and with a bias the shares of both parts in the deviation behind it, in
    two parts each where ``op.kind`` is ``"fine"``; a
    sum the share of each part, and behind it the mean over the deviation of the sum where parts have means; a product
    the deviation of each factor; a norm what it multiplies by; a store the deviation. Windows read tables of images.
    """
    if op.name in ("conv", "pool", "drop", *MOVING):
        return ()
    if op.name == "norm":
        return ("gain",)
    if op.name == "product":
        return tuple(f"std{k}" for k in range(len(op.src)))
    if op.kind == "means":
        return tuple(f"{name}{k}" for k in range(len(op.src)) for name in ("share", "mean"))
    if op.name == "dense":
        return ("std", *_SHARES[op.kind]) if op.kind in _SHARES else ("std",)
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


def share_of_part(part: Array, total: Array, xp: Any) -> Array:
    """The same in a sum whose parts may all be 0: a share of 0 there."""
    found: Array = xp.where(part == 0, 0, _share((total - part) / part, xp))
    return found


def gain(q: Array, eps: float, xp: Any) -> Array:
    """1 / sqrt(q + eps); 0 where both are 0."""
    total = q + eps
    found: Array = xp.where(total == 0, 0, 1 / xp.sqrt(total))
    return found


def rows_of(op: Op, numbers: Sequence[float], q: Sequence[Array], xp: Any = np) -> Mapping[str, Array]:
    """The row arrays of one op with its own numbers, for variances q of its sources, of any shape; without means."""
    if op.name in ("store", "product"):
        found = [xp.sqrt(part) for part in q]
    elif op.name == "norm":
        found = [gain(q[0], numbers[0], xp)]
    elif op.name == "dense":
        w2, b2, f, _ = numbers
        found = [xp.sqrt(f * q[0])]
        if op.kind in _SHARES:
            found += [_share(b2 / (w2 * q[0]), xp), _share(w2 * q[0] / b2, xp)]
        if op.kind == "fine":  # float64 has lost nothing
            found += [xp.zeros_like(q[0])] * 2
    elif op.name == "sum":
        found = [share_of_part(part, sum(q[1:], q[0]), xp) for part in q]
    else:
        return of_op(op, numbers).rows(q[0], xp)
    return dict(zip(row_names(op), found, strict=True))


def rows_of_dual(name: str, params: Sequence[float], q: Array, dtype: Any, xp: Any = np) -> Array:
    """What a dual map reads of one of its variances, q (n,): the rows of the nonlinearity, then the deviation behind.

    (rows + 1, n) of ``dtype``, made in float64.
    """
    layer, names = bare_of(name, tuple(params)), row_names_of_dual(name, len(params))
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
    for k, op in found:
        if op.name == "product":
            put([k], row_names(op))
    put([k for k, op in found if op.name == "dense" and op.kind in _SHARES], ["share", "bias"])
    put([k for k, op in found if op.name == "dense" and op.kind == "fine"], ["share_low", "bias_low"])
    for k, op in found:
        if op.name == "sum":
            put([k], [f"share{part}" for part in range(len(op.src))])
    for k, op in found:
        if op.kind == "means":
            put([k], [f"mean{part}" for part in range(len(op.src))])
    put([k for k, op in found if op.name == "norm"], ["gain"])
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


class _Move(NamedTuple):
    """How an op makes its value's variance: V(q), a sum or a product of all, divided by itself, ``factor q + bias``.

    ``drop`` is ``factor q`` that leaves the mean as it is.
    """

    name: str
    sources: tuple[int, ...]
    layer: Nonlinearity | None = None
    factor: float = 1.0
    bias: float = 0.0
    means: tuple[bool, ...] = ()


@lru_cache(maxsize=256)
def square_of(name: str, params: tuple[float, ...]) -> float:
    """The variance behind a nonlinearity that scales, of inputs of variance 1."""
    return float(bare_of(name, params).variance(np.ones(())))


def _move(op: Op, own: tuple[float, ...], sources: tuple[int, ...]) -> _Move:
    """Of positions that are all alike also a conv and a pool."""
    if op.name in ("dense", "conv"):
        return _Move("scale", sources, None, own[0], own[1])
    if op.name == "pool":
        return _Move("scale", sources, None, own[0] ** 2)
    if op.name == "drop":
        return _Move("drop", sources, None, 1 / own[0])
    if op.name == "embed":
        return _Move("scale", sources, None, own[0], own[1])
    if op.name == "transposed":
        return _Move("scale", sources, None, own[0], own[1])
    if op.name in MOVING:
        return _Move("scale", sources, None, op.map.largest**2 if op.name == "mix" else 1.0)
    if op.name in ("sum", "product"):
        return _Move(op.name, sources, means=op.means)
    if op.name == "norm":
        return _Move("norm", sources, bias=own[0])
    layer = bare_of(op.name, own, op.layer)
    if layer.homogeneous:
        return _Move("scale", sources, layer, square_of(op.name, own))
    return _Move("dual", sources, layer)


class _Values:
    """The variances of all values, and what else is made on the way to them, op by op."""

    def __init__(self, q: Sequence[Array]) -> None:
        self.n_inputs, self.q = len(q), list(q)
        self.scaled: list[Array] = []  # what biases are added to
        self.means: list[Array] = []  # of each part of a sum that asks for them
        self.gains: list[Array] = []


class _Pattern:
    """What the row pass of a program does, whatever its numbers are."""

    def __init__(self, program: Program) -> None:
        self.layout = layout_of(program)
        ops, sources, zero, one = program.ops, self.layout.sources, -2, -1
        self.makers: list[tuple[Op, tuple[int, ...]]] = []  # ops that make a value, and what they make it of
        self.outputs = [0] * program.n_outputs
        self.deviations: list[int] = []  # values whose deviations are read
        f: list[int] = []  # places among the numbers and a 0 and a 1 behind them
        b2: list[int] = []
        fine: list[int] = []
        self.parts: tuple[list[int], list[int]] = [], []  # of sums: values, and the sum of each
        self.with_means: list[int] = []  # the sum of each part where there are means
        factors: list[int] = []
        for k, op in enumerate(ops):
            if op.name == "store":
                self.outputs[op.dst] = sources[k][0]
            else:
                self.makers.append((op, sources[k]))
            if op.name in ("dense", "store"):
                self.deviations.append(sources[k][0])
                f.append(one if op.name == "store" else op.numbers[2] if op.numbers else zero)
            if op.name == "dense" and op.kind in _SHARES:
                if op.kind == "fine":
                    fine.append(len(b2))
                b2.append(op.numbers[1])
            whole = [program.n_inputs + len(self.makers) - 1] * len(sources[k])
            if op.name == "sum":
                self.parts[0].extend(sources[k])
                self.parts[1].extend(whole)
            if op.kind == "means":
                self.with_means.extend(whole)
            if op.name == "product":
                factors.extend(sources[k])
        self.fine = np.array(fine, np.intp)  # of biases
        self.deviations += factors
        f += [one] * len(factors)
        self.n_f, self.columns = len(f), np.array(f + b2, np.intp)
        # those without numbers of their own: the same for all
        self.moves = [None if op.numbers else _move(op, op.own(()), of) for op, of in self.makers]
        self.duals = None if any(ops[k].numbers for k in self.layout.duals) else self.duals_of(program, ())

    def duals_of(
        self, program: Program, numbers: Sequence[float]
    ) -> list[tuple[Nonlinearity, list[int], dict[str, int]]]:
        """Those of one struct that lie behind each other: their sources, and the places of the first one's arrays."""
        found, ops, layout = [], program.ops, self.layout
        for key, same in groupby(layout.duals, lambda k: (ops[k].name, ops[k].own(numbers), ops[k].layer)):
            members = list(same)
            found.append((bare_of(*key), [layout.sources[k][0] for k in members], layout.places[members[0]]))
        return found


@lru_cache(maxsize=256)
def _pattern_of(program: Program) -> _Pattern:
    return _Pattern(program)


class RowPass:
    """The row pass of a program with its numbers, for arrays of the library ``xp``."""

    def __init__(self, lowered: Lowered, xp: Any = np) -> None:
        pattern, numbers = _pattern_of(lowered.program), lowered.numbers
        self._xp, self.layout, self._outputs, self._deviations = xp, pattern.layout, pattern.outputs, pattern.deviations
        self._parts, self._with_means, self._fine = pattern.parts, pattern.with_means, xp.asarray(pattern.fine)
        # one for each value that an op makes
        self._moves = [
            ready or _move(op, tuple(numbers[op.numbers.start : op.numbers.stop]), sources)
            for ready, (op, sources) in zip(pattern.moves, pattern.makers, strict=True)
        ]
        self.plain = all(move.name == "scale" for move in self._moves)  # values() takes numbers as well as arrays
        columns = xp.asarray(np.array([*numbers, 0.0, 1.0])[pattern.columns][:, None])
        self._f, self._b2 = columns[: pattern.n_f], columns[pattern.n_f :]
        self._duals = pattern.duals_of(lowered.program, numbers) if pattern.duals is None else pattern.duals

    def values(self, q: Sequence[Array]) -> _Values:
        """The variance of each value, given those of the inputs."""
        xp, found = self._xp, _Values(q)
        for move in self._moves:
            before = found.q[move.sources[0]]
            if move.name == "scale":
                value = before * move.factor
                if move.bias:
                    found.scaled.append(value)
                    value = value + move.bias
            elif move.name == "drop":
                value = before * move.factor
            elif move.name == "dual":
                value = move.layer.variance(before, xp)  # type: ignore[union-attr]
            elif move.name == "norm":
                found.gains.append(gain(before, move.bias, xp))
                value = before * found.gains[-1] * found.gains[-1]
            elif move.name == "product":
                value = before
                for source in move.sources[1:]:
                    value = value * found.q[source]
            else:
                value = before
                for source in move.sources[1:]:
                    value = value + found.q[source]
                if sum(move.means) > 1:
                    value = value + self._crossed(move, found)
            found.q.append(value)
        return found

    def _crossed(self, move: _Move, found: _Values) -> Array:
        """Twice the products of every two means of a sum's parts, which its variance has beside theirs."""
        total: Any = 0.0
        so_far: Any = 0.0
        for source, has in zip(move.sources, move.means, strict=True):
            own = self._mean(source, found) if has else self._xp.zeros_like(found.q[source])
            total, so_far = total + 2 * own * so_far, so_far + own
            found.means.append(own)
        crossed: Array = total
        return crossed

    def _mean(self, value: int, found: _Values) -> Array:
        """The mean of a value over the weights, of those that have one."""
        move = self._moves[value - found.n_inputs]
        if move.layer is not None:
            return move.layer.mean(found.q[move.sources[0]], self._xp)
        if move.name == "drop":
            return self._mean(move.sources[0], found)
        if move.name == "scale":
            scaled: Array = self._mean(move.sources[0], found) * move.factor**0.5
            return scaled
        parts = [s for s, has in zip(move.sources, move.means or (True,) * len(move.sources), strict=True) if has]
        total: Any = 1.0 if move.name == "product" else 0.0
        for source in parts:
            own = self._mean(source, found)
            total = total * own if move.name == "product" else total + own
        mean: Array = total
        return mean

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
        xp, made = self._xp, self.values(q)
        values = made.q
        deviations = _stacked([values[k] for k in self._deviations], xp)
        row = len(deviations)
        deviations *= self._f
        xp.sqrt(deviations, out=table[:row])
        if made.scaled:
            size = len(made.scaled)
            part, ratio = _stacked(made.scaled, xp), xp.empty((2 * size, len(q[0])), q[0].dtype)
            xp.divide(self._b2, part, out=ratio[:size])
            xp.divide(part, self._b2, out=ratio[size:])
            shares = table[row : row + 2 * size]
            exact = _share(ratio, xp, out=None if len(self._fine) else shares)
            row += 2 * size
            if len(self._fine):
                shares[...] = exact
                for start in (0, size):
                    lost = exact[start + self._fine] - shares[start + self._fine].astype(exact.dtype)
                    table[row : row + len(lost)] = lost
                    row += len(lost)
        if self._parts[0]:
            part, total = (_stacked([values[k] for k in of], xp) for of in self._parts)
            table[row : row + len(part)] = share_of_part(part, total, xp)
            row += len(part)
        if made.means:
            mean, total = _stacked(made.means, xp), _stacked([values[k] for k in self._with_means], xp)
            table[row : row + len(mean)] = xp.where(total == 0, 0, mean / xp.sqrt(total))
            row += len(mean)
        if made.gains:
            table[row : row + len(made.gains)] = _stacked(made.gains, xp)
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
