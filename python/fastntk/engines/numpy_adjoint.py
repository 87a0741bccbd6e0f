"""Reverse mode through a program, in NumPy and float64: the readable definition of every gradient.

Of a pair the sweep carries ``P = dL/dK`` and ``T = dL/dNTK``, of a row ``D = dL/d ln q`` at fixed CORRELATIONS. In
these coordinates everything stays finite where inputs come close, while P grows as 1 / distance: at fixed covariances
two infinities would cancel. With primes behind an op, ``gamma1 = q1 - K``, ``r' = sqrt(V1 V2)`` and V the variance map:

======  ==============================================================================================================
store   P += Kbar;  D1 += sum_j Kbar K / 2;  T += NTKbar
dense   P += w2 P' + f T';  T += w2 T';  e1 = -sum_j P' gamma1 / (2 q1');
        D1 += w2 q1/q1' D1' + w2 b2 e1 + f/2 sum_j T' K
sum     to every branch P', T';  D1_b += q1_b/q1' D1' + sum_j P' (q1_b/q1' gamma1' - gamma1_b) / 2
a dual  P += kdot P' + kddot NTK T';  T += kdot T';
        D1 += dlnV1/dlnq1 D1' + sum_j (P' r' drho'/dlnq1 + NTK T' dkdot/dlnq1)
inputs  xbar_i = sum_j P_ij (x'_j - (K_ij / q_i) x_i) / d + 2 D_i x_i / |x_i|^2
======  ==============================================================================================================

The derivatives in a dual's line come from the nonlinearity's own formulas, run on numbers with derivatives (jet.py).
Where ``1 - |rho| <= TINY`` a pair moves along rho = +-1: the slope across it, infinite for a kinked function, counts as
0, which is the mean of the one-sided derivatives. 0 / 0 = 0 throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.jet import Jet, over, slope_of, value_of
from ..network.activations import Correlation, of_dual, of_input, rho_of
from ..network.program import Op, Program
from ..plan.rows import rows_of
from .numpy_rows import run_op

Array = npt.NDArray[Any]
Cotangents = Mapping[int, tuple[Array | None, Array | None]]  # of each output: on nngp, on ntk

LINEAR = ("dense", "sum", "store")  # ops beside the duals

TINY = 16 * float(np.finfo(np.float64).eps) ** 2


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
        self.steps: list[Step] = []
        current = {slot: slot for slot in range(program.n_inputs)}
        for count, op in enumerate(program.ops, program.n_inputs):
            src = tuple(current[s] for s in op.src)
            if op.name != "store":
                current[op.dst] = count
            self.steps.append(Step(op, op.dst if op.name == "store" else count, src, op.own(numbers)))

    def layer(self, step: Step) -> Any:
        """The nonlinearity of a dual op, its wanted numbers with derivatives."""
        places = zip(step.own, step.op.numbers, strict=True)
        own: list[Any] = [Jet(v, {p: 1.0}) if p in self.moving else v for v, p in places]
        return of_dual(step.op.name, own)


class Side:
    """What the sweep needs of the rows of one side: variances, and of every dual its rows, with derivatives in ln q."""

    def __init__(self, tangents: Tangents, q: Sequence[Array]) -> None:
        self.q: dict[int, Array] = dict(enumerate(q))
        self.rows: dict[int, Mapping[str, Any]] = {}
        self.variances: dict[int, Any] = {}  # behind a dual
        for step in tangents.steps:
            before = [self.q[s] for s in step.src]
            name = step.op.name
            if name == "dense":
                self.q[step.dst] = step.own[0] * before[0] + step.own[1]
            elif name == "sum":
                self.q[step.dst] = np.sum(before, axis=0)
            elif name != "store":
                layer, q1 = tangents.layer(step), Jet(before[0], {"q": before[0]})
                self.rows[step.dst] = layer.rows(q1)
                self.variances[step.dst] = layer.variance(q1)
                self.q[step.dst] = value_of(self.variances[step.dst])

    def part(self, rows: slice, axis: int, key: str) -> Side:
        """Some rows along an axis of tiles; derivatives in ln q by the name ``key``."""
        place = (rows, None) if axis == 0 else (None, rows)

        def cut(a: Any) -> Any:
            if not isinstance(a, Jet):
                return np.asarray(a)[place]
            found = a[place]
            return Jet(found.value, {key if k == "q" else k: s for k, s in found.slopes.items()})

        part = Side.__new__(Side)
        part.q = {k: q[place] for k, q in self.q.items()}
        part.rows = {k: {name: cut(row) for name, row in rows_of.items()} for k, rows_of in self.rows.items()}
        part.variances = {k: cut(v) for k, v in self.variances.items()}
        return part


@dataclass(frozen=True)
class Summed:
    """Lines, columns and pairs of a tile are added up, as an inner product with cotangents needs them."""

    def lines(self, a: Array) -> Any:
        return np.sum(a, axis=1, keepdims=True)

    def columns(self, a: Array) -> Any:
        return np.sum(a, axis=0, keepdims=True)

    def all(self, a: Any) -> Any:
        return np.sum(a)


@dataclass(frozen=True)
class Diagonal(Summed):
    """Pairs (x, x), one a line: each is its own line and column."""

    def lines(self, a: Array) -> Array:
        return a

    def columns(self, a: Array) -> Array:
        return a


@dataclass(frozen=True)
class Apart(Diagonal):
    """Nothing is added up: derivatives of every entry."""

    def all(self, a: Any) -> Any:
        return a


@dataclass
class Found:
    """Cotangents of each program input, P (lines, columns) and D of both sides, and of the moving numbers."""

    P: list[Array]
    D1: list[Array]
    D2: list[Array]
    numbers: dict[int, Any]


@dataclass
class _Dual:
    """Derivatives of a dual for the pairs of a tile; of what nobody asks for, 0."""

    kdot: Array
    kddot: Any
    lean: tuple[Any, Any]  # r' drho'/dlnq at fixed rho, of both sides
    kdot_by_q: tuple[Any, Any]
    by_number: dict[int, tuple[Any, Any]]  # r' drho'/dp, dkdot/dp


class Sweep:
    """One tile of pairs: forward when made, keeping what ``back`` reads.

    Parameters
    ----------
    tangents : Tangents
    side1, side2 : Side
        Rows of the tile, shaped (lines, 1) and (1, columns).
    defects : sequence of array (lines, columns)
        Signed defects of the program's inputs.
    ntk : bool
        Whether cotangents of the NTK will come.
    """

    def __init__(self, tangents: Tangents, side1: Side, side2: Side, defects: Sequence[Array], ntk: bool) -> None:
        self._tangents, self._side1, self._side2, self._ntk = tangents, side1, side2, ntk
        self._shape = defects[0].shape
        self._v: dict[int, Array] = dict(enumerate(defects))
        self._theta: dict[int, Any] = {slot: np.zeros(self._shape) for slot in range(tangents.n_inputs)}
        self._duals: dict[int, _Dual] = {}
        for step in tangents.steps:
            if step.op.name == "store":
                continue
            if step.op.name in ("dense", "sum"):
                x1, x2 = (
                    of_input(rows_of(step.op, step.own, [side.q[s] for s in step.src])) for side in (side1, side2)
                )
                sources = [(self._v[s], self._theta[s]) for s in step.src]
                found = run_op(step.op, step.own, x1, x2, sources)
            else:
                found = self._dual(step)
            self._v[step.dst], self._theta[step.dst] = (np.broadcast_to(a, self._shape) for a in found)

    def _dual(self, step: Step) -> tuple[Array, Array]:
        (s,) = step.src
        v, theta = self._v[s], self._theta[s]
        c = Correlation.of_defect(v)
        w: Any = c.w
        a: Any = c.a
        if self._ntk:
            moves = np.where(c.w > TINY, 1.0, 0.0)
            w, a = Jet(c.w, {"w": moves}), Jet(c.a, {"w": -moves})
        rows1, rows2 = (of_input(side.rows[step.dst]) for side in (self._side1, self._side2))
        new, _, kdot = self._tangents.layer(step).pair(Correlation(w, a, c.near), rows1, rows2)
        r = np.sqrt(self._side1.q[s]) * np.sqrt(self._side2.q[s])
        after = np.sqrt(self._side1.q[step.dst]) * np.sqrt(self._side2.q[step.dst])
        kddot: Any = 0.0
        if self._ntk:
            kddot = over(np.where(c.near, -1.0, 1.0) * slope_of(kdot, "w"), r)
        places = [p for p in step.op.numbers if p in self._tangents.moving]
        self._duals[step.dst] = _Dual(
            value_of(kdot), kddot,
            (-after * slope_of(new, "q1"), -after * slope_of(new, "q2")),  # of either sign, rho' = const - v'
            (slope_of(kdot, "q1"), slope_of(kdot, "q2")),
            {p: (-after * slope_of(new, p), slope_of(kdot, p)) for p in places},
        )  # fmt: skip
        return value_of(new), theta * value_of(kdot)

    def _covariance(self, s: int) -> Array:
        return np.asarray(np.sqrt(self._side1.q[s]) * np.sqrt(self._side2.q[s]) * rho_of(self._v[s]))

    def _gaps(self, s: int) -> tuple[Array, Array]:
        """``q1 - K`` and ``q2 - K``, without a difference of nearly equal numbers."""
        v, s1, s2 = self._v[s], np.sqrt(self._side1.q[s]), np.sqrt(self._side2.q[s])
        across = s1 * s2 * np.where(v < 0, 2 + v, v)
        return s1 * (s1 - s2) + across, s2 * (s2 - s1) + across

    def back(self, cotangents: Cotangents, sums: Any) -> Found:
        """The way back. ``sums``: :class:`Summed`, :class:`Diagonal` or :class:`Apart`."""
        back = _Back(sums, self._shape)
        for step in reversed(self._tangents.steps):
            if step.op.name == "store":
                self._back_store(step, cotangents.get(step.dst, (None, None)), back)
            elif step.dst not in back.P:
                continue  # nothing that is asked for depends on it
            elif step.op.name == "dense":
                self._back_dense(step, back)
            elif step.op.name == "sum":
                self._back_sum(step, back)
            else:
                self._back_dual(step, back)
        inputs = range(self._tangents.n_inputs)
        return Found(
            [back.P.get(s, np.zeros(self._shape)) for s in inputs], [back.of_rows(0, s) for s in inputs],
            [back.of_rows(1, s) for s in inputs], back.numbers,
        )  # fmt: skip

    def _back_store(self, step: Step, given: tuple[Array | None, Array | None], back: _Back) -> None:
        on_k, on_theta = given
        (s,) = step.src
        if on_k is not None:
            half = on_k * self._covariance(s) / 2
            back.add(s, on_k, None, back.sums.lines(half), back.sums.columns(half))
        if on_theta is not None:
            back.add(s, np.zeros(self._shape), on_theta)

    def _back_dense(self, step: Step, back: _Back) -> None:
        (s,) = step.src
        w2, b2, f, _ = step.own
        places = dict(zip(step.op.numbers, range(4), strict=False))
        P, T = back.P[step.dst], back.T.get(step.dst)
        D1, D2 = back.of_rows(0, step.dst), back.of_rows(1, step.dst)
        q1, q2, new1, new2 = (side.q[k] for k in (s, step.dst) for side in (self._side1, self._side2))
        wanted = self._tangents.moving & set(places)
        add1, add2 = over(w2 * q1, new1) * D1, over(w2 * q2, new2) * D2
        e1 = e2 = None
        if b2 != 0 or wanted:
            gap1, gap2 = self._gaps(s)
            e1 = -over(0.5, new1) * back.sums.lines(P * gap1)
            e2 = -over(0.5, new2) * back.sums.columns(P * gap2)
            add1, add2 = add1 + w2 * b2 * e1, add2 + w2 * b2 * e2
        new_P, new_T = w2 * P, None
        if T is not None:
            moved = f * T
            half = moved * self._covariance(s) / 2
            add1, add2 = add1 + back.sums.lines(half), add2 + back.sums.columns(half)
            new_P, new_T = new_P + moved, w2 * T
        if wanted:
            total = back.sums.all
            both = total(e1) + total(e2)
            bars = [
                b2 * both + total(over(q1, new1) * D1) + total(over(q2, new2) * D2),
                -w2 * both + total(over(D1, new1)) + total(over(D2, new2)),
                0.0, 0.0,
            ]  # fmt: skip
            if T is not None:
                bars[0] = bars[0] + total(T * self._theta[s])
                bars[2], bars[3] = total(T * self._covariance(s)), total(T)
            for p in wanted:
                back.numbers[p] = bars[places[p]]
        back.add(s, new_P, new_T, add1, add2)

    def _back_sum(self, step: Step, back: _Back) -> None:
        P, T = back.P[step.dst], back.T.get(step.dst)
        D1, D2 = back.of_rows(0, step.dst), back.of_rows(1, step.dst)
        new1, new2 = self._side1.q[step.dst], self._side2.q[step.dst]
        gaps = [self._gaps(b) for b in step.src]
        all1, all2 = sum(g[0] for g in gaps), sum(g[1] for g in gaps)
        for b, (gap1, gap2) in zip(step.src, gaps, strict=True):
            share1, share2 = over(self._side1.q[b], new1), over(self._side2.q[b], new2)
            add1 = share1 * D1 + back.sums.lines(P * (share1 * all1 - gap1)) / 2
            add2 = share2 * D2 + back.sums.columns(P * (share2 * all2 - gap2)) / 2
            back.add(b, P, T, add1, add2)

    def _back_dual(self, step: Step, back: _Back) -> None:
        (s,) = step.src
        dual = self._duals[step.dst]
        P, T = back.P[step.dst], back.T.get(step.dst)
        flow = None if T is None else T * self._theta[s]
        adds = []
        for k, (side, key, sums) in enumerate(
            ((self._side1, "q1", back.sums.lines), (self._side2, "q2", back.sums.columns))
        ):
            V = side.variances[step.dst]
            add = over(slope_of(V, key), value_of(V)) * back.of_rows(k, step.dst)
            pairs = _plus(_times(P, dual.lean[k]), _times(flow, dual.kdot_by_q[k]))
            adds.append(add if pairs is None else add + sums(np.broadcast_to(pairs, self._shape)))
        for p, (on_rho, on_kdot) in dual.by_number.items():
            pairs = _plus(_times(P, on_rho), _times(flow, on_kdot))
            bar: Any = 0.0 if pairs is None else back.sums.all(np.broadcast_to(pairs, self._shape))
            for k, side in enumerate((self._side1, self._side2)):
                V = side.variances[step.dst]
                bar = bar + back.sums.all(over(slope_of(V, p), value_of(V)) * back.of_rows(k, step.dst))
            back.numbers[p] = bar
        new_P = dual.kdot * P
        if flow is not None:
            new_P = new_P + dual.kddot * flow
        back.add(s, new_P, None if T is None else dual.kdot * T, adds[0], adds[1])


def _times(a: Array | None, b: Any) -> Array | None:
    """A product, None where it is known to be 0."""
    return None if a is None or (isinstance(b, float) and b == 0) else a * b


def _plus(a: Array | None, b: Array | None) -> Array | None:
    return b if a is None else a if b is None else a + b


class _Back:
    """What the way back has added up so far, by value."""

    def __init__(self, sums: Any, shape: tuple[int, ...]) -> None:
        self.sums = sums
        self.P: dict[int, Array] = {}
        self.T: dict[int, Array] = {}
        self._D: tuple[dict[int, Array], dict[int, Array]] = {}, {}
        self._zeros = sums.lines(np.zeros(shape)), sums.columns(np.zeros(shape))
        self.numbers: dict[int, Any] = {}

    def of_rows(self, side: int, s: int) -> Any:
        return self._D[side].get(s, self._zeros[side])

    def add(self, s: int, P: Array, T: Array | None, D1: Any = 0.0, D2: Any = 0.0) -> None:
        """A value that several ops read gathers from all of them."""
        self.P[s] = self.P[s] + P if s in self.P else P
        if T is not None:
            self.T[s] = self.T[s] + T if s in self.T else T
        for side, D in enumerate((D1, D2)):
            self._D[side][s] = self.of_rows(side, s) + D
