"""Reverse mode through a program, in NumPy and float64: the readable definition of every gradient.

Of a pair the sweep carries ``P = dL/dK`` and ``T = dL/dNTK``, of a row ``D = dL/d ln q`` at fixed CORRELATIONS. In
these coordinates everything stays finite where inputs come close, while P grows as 1 / distance: at fixed covariances
two infinities would cancel. With primes behind an op, ``gamma1 = q1 - K``, ``r' = sqrt(V1 V2)`` and V the variance map:

======= ==============================================================================================================
store   P += Kbar;  D1 += sum_j Kbar K / 2;  T += NTKbar
dense   P += w2 P' + f T';  T += w2 T';  e1 = -sum_j P' gamma1 / (2 q1');
        D1 += w2 q1/q1' D1' + w2 b2 e1 + f/2 sum_j T' K
sum     to every branch P', T';  D1_b += q1_b/q1' D1' + sum_j P' (q1_b/q1' gamma1' - gamma1_b) / 2
a dual  P += kdot P' + kddot NTK T';  T += kdot T';
        D1 += dlnV1/dlnq1 D1' + sum_j (P' r' drho'/dlnq1 + NTK T' dkdot/dlnq1)
norm    P += g g' P';  T += g g' T';  D1 += eps/(q1 + eps) D1' - q1/(q1 + eps) sum_j T' NTK' / 2
drop    P, T and D as they are; of a row with itself P += P' / p,  T += T' / p
product P_b += prod_{c != b} K_c P' + X_b;  X_b = sum_{c != b} NTK_c prod_{d != b, c} K_d T';
        T_b += prod_{c != b} K_c T';  D1_b += D1' + sum_j X_b K_b / 2
inputs  xbar_i = sum_j P_ij (x'_j - (K_ij / q_i) x_i) / d + 2 D_i x_i / |x_i|^2
======= ==============================================================================================================

Means of a sum's branches are numbers of a row: their derivatives M are carried by :func:`chain` from the sum to the
nonlinearities that they come from. Where phi has a step, P takes the slope of k, of which kdot says a part alone.

P and T of a pair never need D: tiles leave sums (:class:`PairSums`), and D goes through the network once, at the end
(:func:`chain`), where derivatives in the numbers of ops come about too.

The derivatives in a dual's line come from the nonlinearity's own formulas, run on numbers with derivatives (jet.py).
Where ``1 - |rho| <= TINY`` a pair moves along rho = +-1: the slope across it, infinite for a kinked function, counts as
0, which is the mean of the one-sided derivatives. 0 / 0 = 0 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..base.jet import Jet, over, slope_of, value_of
from ..network.activations import Correlation, of_input, rho_of
from .numpy_mix import dropped
from .numpy_rows import run_op
from .numpy_tangents import Side, Step, Tangents, means_of, rows_of_step

Array = npt.NDArray[Any]
Cotangents = Mapping[int, tuple[Array | None, Array | None]]  # of each output: on nngp, on ntk

LINEAR = ("dense", "sum", "norm", "product", "drop", "store")  # ops beside the duals

TINY = 16 * float(np.finfo(np.float64).eps) ** 2


@dataclass(frozen=True)
class Summed:
    """Lines, columns and pairs of a tile are added up, as an inner product with cotangents needs them."""

    def lines(self, a: Array) -> Any:
        return np.add.reduce(a, axis=1)

    def columns(self, a: Array) -> Any:
        return np.add.reduce(a, axis=0)

    def all(self, a: Any) -> Any:
        return np.add.reduce(a, axis=None)


@dataclass(frozen=True)
class Diagonal(Summed):
    """Pairs (x, x), one a line: each is its own line and column."""

    def lines(self, a: Array) -> Any:
        return a[:, 0]

    def columns(self, a: Array) -> Any:
        return a[:, 0]


@dataclass(frozen=True)
class Apart(Summed):
    """Nothing is added up: derivatives of every entry."""

    def lines(self, a: Array) -> Any:
        return a

    def columns(self, a: Array) -> Any:
        return a

    def all(self, a: Any) -> Any:
        return a


Key: TypeAlias = "tuple[int, int]"  # a step's position, and which of its sums


@dataclass
class PairSums:
    """What pairs leave for the rows and the numbers: sums over lines (of each row 1), over columns, and over all.

    ======  ============================================  =======================
    store   Kbar K / 2
    dense   P' gamma,  T' K                               T' NTK,  T'
    sum     P' (share gamma' - gamma_b) of each branch
    , means P' times what the mean of each branch moves
    norm    T' NTK'
    drop                                                  P' K / p, or of a row with itself -T' NTK / p^2
    product X_b K_b / 2 of each branch
    a dual  P' r' drho'/dlnq + NTK T' dkdot/dlnq          of each moving number p: P' r' drho'/dp + NTK T' dkdot/dp
    ======  ============================================  =======================
    """

    rows: tuple[dict[Key, Any], ...] = field(default_factory=lambda: ({}, {}))
    totals: dict[Key, Any] = field(default_factory=dict)
    #: all sums of lines and of columns in a table each, by these keys: in place of ``rows``
    tables: tuple[Sequence[Key], Array, Array] | None = None

    def add(self, other: PairSums, lines: slice, columns: slice, n: int) -> None:
        """Gather those of a tile into n rows, which are of both sides."""
        (mine,) = self.rows
        if other.tables is not None:
            keys, by_line, by_column = other.tables
            if self.tables is None:
                table = np.zeros((len(keys), n))
                self.tables = keys, table, table
                mine.update(zip(keys, table, strict=True))
            self.tables[1][:, lines] += by_line
            self.tables[1][:, columns] += by_column
        for theirs, place in zip(other.rows, (lines, columns), strict=True):
            for key, values in theirs.items():
                if key not in mine:
                    mine[key] = np.zeros(n)
                mine[key][place] += values
        for key, value in other.totals.items():
            self.totals[key] = self.totals.get(key, 0.0) + value


@dataclass
class _Dual:
    """Derivatives of a dual for the pairs of a tile; of what nobody asks for, 0."""

    slope: Array  # dk/dc: kdot but for functions with a step
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
    same : array of bool (lines, columns), optional
        Which pairs are an input with itself; None: none.
    """

    def __init__(
        self, tangents: Tangents, side1: Side, side2: Side, defects: Sequence[Array], ntk: bool,
        same: Array | None = None,
    ) -> None:  # fmt: skip
        self._same = same
        self._tangents, self._side1, self._side2, self._ntk = tangents, side1, side2, ntk
        self._shape = defects[0].shape
        self._v: dict[int, Array] = dict(enumerate(defects))
        self._theta: dict[int, Any] = {slot: np.zeros(self._shape) for slot in range(tangents.n_inputs)}
        self._duals: dict[int, _Dual] = {}
        for step in tangents.steps:
            if step.op.name == "store":
                continue
            if step.op.name == "drop":
                found = self._drop(step)
            elif step.op.name in LINEAR:
                x1, x2 = (of_input(rows_of_step(step, side)) for side in (side1, side2))
                sources = [(self._v[s], self._theta[s]) for s in step.src]
                found = run_op(step.op, step.own, x1, x2, sources)
            else:
                found = self._dual(step)
            self._v[step.dst], self._theta[step.dst] = (np.broadcast_to(a, self._shape) for a in found)

    def _drop(self, step: Step) -> tuple[Array, Array]:
        (s,), (keep,) = step.src, step.own
        return dropped(keep, self._v[s], self._met), np.where(self._met, 1 / keep, 1) * self._theta[s]

    @property
    def _met(self) -> Array:
        return np.zeros((1, 1), np.bool_) if self._same is None else self._same

    def _dual(self, step: Step) -> tuple[Array, Array]:
        (s,) = step.src
        v, theta = self._v[s], self._theta[s]
        c = Correlation.of_defect(v)
        w: Any = c.w
        a: Any = c.a
        layer = self._tangents.layer(step)
        if self._ntk or layer.jumps:
            moves = np.where(c.w > TINY, 1.0, 0.0)
            w, a = Jet(c.w, {"w": moves}), Jet(c.a, {"w": -moves})
        rows1, rows2 = (of_input(side.rows[step.dst]) for side in (self._side1, self._side2))
        new, _, kdot = layer.pair(Correlation(w, a, c.near), rows1, rows2)
        r = np.sqrt(self._side1.q[s]) * np.sqrt(self._side2.q[s])
        after = np.sqrt(self._side1.q[step.dst]) * np.sqrt(self._side2.q[step.dst])
        kddot: Any = 0.0
        if self._ntk:
            kddot = over(np.where(c.near, -1.0, 1.0) * slope_of(kdot, "w"), r)
        places = [p for p in step.op.numbers if p in self._tangents.moving]
        slope = value_of(kdot)
        if layer.jumps:
            slope = over(after, r) * np.where(c.near, 1.0, -1.0) * slope_of(new, "w")
        self._duals[step.dst] = _Dual(
            slope, value_of(kdot), kddot,
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

    def back(self, cotangents: Cotangents, sums: Any) -> tuple[list[Array], PairSums]:
        """P of each program input, and what is left for :func:`chain`.

        ``sums``: :class:`Summed`, :class:`Diagonal` or :class:`Apart`.
        """
        back = _Back(sums)
        for position in reversed(range(len(self._tangents.steps))):
            step = self._tangents.steps[position]
            if step.op.name == "store":
                self._back_store(position, cotangents.get(step.dst, (None, None)), back)
            elif step.dst not in back.P:
                continue  # nothing that is asked for depends on it
            elif step.op.name == "dense":
                self._back_dense(position, back)
            elif step.op.name == "sum":
                self._back_sum(position, back)
            elif step.op.name == "norm":
                self._back_norm(position, back)
            elif step.op.name == "product":
                self._back_product(position, back)
            elif step.op.name == "drop":
                self._back_drop(position, back)
            else:
                self._back_dual(position, back)
        return [back.P.get(s, np.zeros(self._shape)) for s in range(self._tangents.n_inputs)], back.found

    def _back_store(self, position: int, given: tuple[Array | None, Array | None], back: _Back) -> None:
        on_k, on_theta = given
        (s,) = self._tangents.steps[position].src
        if on_k is not None:
            half = on_k * self._covariance(s) / 2
            back.rows((position, 0), half, half)
            back.add(s, on_k, None)
        if on_theta is not None:
            back.add(s, np.zeros(self._shape), on_theta)

    def _back_dense(self, position: int, back: _Back) -> None:
        step = self._tangents.steps[position]
        (s,), (w2, b2, f, _) = step.src, step.own
        P, T = back.P[step.dst], back.T.get(step.dst)
        moving = bool(self._tangents.moving & set(step.op.numbers))
        if b2 != 0 or moving:
            gap1, gap2 = self._gaps(s)
            back.rows((position, 0), P * gap1, P * gap2)
        if T is None:
            back.add(s, w2 * P, None)
            return
        on_k = T * self._covariance(s)
        back.rows((position, 1), on_k, on_k)
        if moving:
            back.total((position, 0), T * self._theta[s])
            back.total((position, 1), T)
        back.add(s, w2 * P + f * T, w2 * T)

    def _back_sum(self, position: int, back: _Back) -> None:
        step = self._tangents.steps[position]
        P, T = back.P[step.dst], back.T.get(step.dst)
        new1, new2 = self._side1.q[step.dst], self._side2.q[step.dst]
        gaps = [self._gaps(b) for b in step.src]
        all1, all2 = sum(g[0] for g in gaps), sum(g[1] for g in gaps)
        if step.op.kind == "means":
            (own1, others1), (own2, others2) = (means_of(step, side) for side in (self._side1, self._side2))
            apart = [a - b for a, b in zip(others1, others2, strict=True)]
            all1 = all1 + sum(own * d for own, d in zip(own1, apart, strict=True))
            all2 = all2 - sum(own * d for own, d in zip(own2, apart, strict=True))
            for k, (d, m1, m2) in enumerate(zip(apart, others1, others2, strict=True), len(step.src)):
                back.rows((position, k), P * (over(all1, new1) * m1 - d), P * (over(all2, new2) * m2 + d))
        for k, (b, (gap1, gap2)) in enumerate(zip(step.src, gaps, strict=True)):
            share1, share2 = over(self._side1.q[b], new1), over(self._side2.q[b], new2)
            back.rows((position, k), P * (share1 * all1 - gap1), P * (share2 * all2 - gap2))
            back.add(b, P, T)

    def _back_norm(self, position: int, back: _Back) -> None:
        step = self._tangents.steps[position]
        P, T = back.P[step.dst], back.T.get(step.dst)
        gain1, gain2 = (rows_of_step(step, side)["gain"] for side in (self._side1, self._side2))
        gain = gain1 * gain2
        if T is not None:
            on_theta = T * self._theta[step.dst]
            back.rows((position, 0), on_theta, on_theta)
        back.add(step.src[0], gain * P, None if T is None else gain * T)

    def _back_product(self, position: int, back: _Back) -> None:
        step = self._tangents.steps[position]
        P, T = back.P[step.dst], back.T.get(step.dst)
        K, count = [self._covariance(s) for s in step.src], range(len(step.src))

        def but(*left: int) -> Any:
            return math.prod(K[c] for c in count if c not in left)

        for b, s in enumerate(step.src):
            on_k = but(b) * P
            if T is not None:
                moved = T * sum(self._theta[step.src[c]] * but(b, c) for c in count if c != b)
                half = moved * K[b] / 2
                back.rows((position, b), half, half)
                on_k = on_k + moved
            back.add(s, on_k, None if T is None else but(b) * T)

    def _back_drop(self, position: int, back: _Back) -> None:
        step, met = self._tangents.steps[position], self._met
        (s,), (keep,) = step.src, step.own
        P, T = back.P[step.dst], back.T.get(step.dst)
        if self._tangents.moving & set(step.op.numbers):
            on_rate = np.where(met, 0, P * self._covariance(s) / keep)
            if T is not None:
                on_rate = on_rate - np.where(met, T * self._theta[s] / keep**2, 0)
            back.total((position, 0), on_rate)
        share = np.where(met, 1 / keep, 1)
        back.add(s, share * P, None if T is None else share * T)

    def _back_dual(self, position: int, back: _Back) -> None:
        step = self._tangents.steps[position]
        (s,) = step.src
        dual = self._duals[step.dst]
        P, T = back.P[step.dst], back.T.get(step.dst)
        flow = None if T is None else T * self._theta[s]
        found = [_plus(_times(P, dual.lean[k]), _times(flow, dual.kdot_by_q[k])) for k in range(2)]
        if found[0] is not None and found[1] is not None:
            first, second = (np.broadcast_to(a, self._shape) for a in (found[0], found[1]))
            back.rows((position, 0), first, second)
        for p, (on_rho, on_kdot) in dual.by_number.items():
            pairs = _plus(_times(P, on_rho), _times(flow, on_kdot))
            if pairs is not None:
                back.total((position, step.op.numbers.index(p)), np.broadcast_to(pairs, self._shape))
        new_P = dual.slope * P
        if flow is not None:
            new_P = new_P + dual.kddot * flow
        back.add(s, new_P, None if T is None else dual.kdot * T)


def _times(a: Array | None, b: Any) -> Array | None:
    """A product, None where it is known to be 0."""
    return None if a is None or (isinstance(b, float) and b == 0) else a * b


def _plus(a: Array | None, b: Array | None) -> Array | None:
    return b if a is None else a if b is None else a + b


class _Back:
    """What the way back has added up so far, by value."""

    def __init__(self, sums: Any) -> None:
        self._sums = sums
        self.P: dict[int, Array] = {}
        self.T: dict[int, Array] = {}
        self.found = PairSums()

    def rows(self, key: Key, of_first: Array, of_second: Array) -> None:
        self.found.rows[0][key] = self._sums.lines(of_first)
        self.found.rows[1][key] = self._sums.columns(of_second)

    def total(self, key: Key, of_pairs: Array) -> None:
        self.found.totals[key] = self._sums.all(of_pairs)

    def add(self, s: int, P: Array, T: Array | None) -> None:
        """A value that several ops read gathers from all of them."""
        self.P[s] = self.P[s] + P if s in self.P else P
        if T is not None:
            self.T[s] = self.T[s] + T if s in self.T else T
