"""Reverse mode through a program on inputs with spatial axes, in NumPy and float64: numpy_images.py, and back.

An entry belongs to two positions. What a pair of positions carries are ``P = dL/dK`` and ``T = dL/dNTK``, what one
position of one image carries is ``B = dL/dq`` at fixed DISTANCES ``H = (q + q') / 2 - K``, in which windows, sums and
biases are linear: ``dL = -P dH + B dq + B' dq'``. While P grows as 1 / distance, B stays finite. With primes behind an
op, A the mean over taps, the same one at both positions, and ``gamma1 = q1 - K``, ``r' = sqrt(V1 V2)``:

======  ==============================================================================================================
store   P += Kbar;  B += sum Kbar / 2;  T += NTKbar
conv    P += w2 A^T P' + f A^T T';  T += w2 A^T T';  B += w2 A^T B' + f/2 sum A^T T';  a tap outside one of the images
        has H = q / 2, so that B -= w2 / (2 taps) sum of P' over such taps
sum     to every branch P', T', B'
a dual  P += kdot P' + kddot NTK T';  T += kdot T';  B1 += dV1/dq1 B1' + sum [ P' (r' drho'/dlnq1 + kdot gamma1/2
        - dlnV1/dlnq1 gamma1'/2) + NTK T' (dkdot/dlnq1 + kddot gamma1/2) ] / q1
pool    from here on at fixed covariances, Q' = B' - sum P' / 2;  P += M^T (s s' P') M, M the matrix of windows, and of
        each image with itself P += M^T (s^2 Q') M;  B += sum P / 2;  what falls on a position with itself goes to B
mix     as a pool, with the images' matrices for M and M' and s = 1; of a matrix that is made of an image's own K(x, x),
        attention's, A += P' M' K^T + T' M' NTK^T and of the image with itself, which goes on to that K(x, x)
norm    P += g g' P';  T += g g' T';  B += g^2 B' + sum P' g (g' - g) / 2;
        ln g += 2 q' B' + sum [ T' NTK' - P' gamma' ]
product P_b += prod_{c != b} K_c P' + X_b;  X_b = sum_{c != b} NTK_c prod_{d != b, c} K_d T';
        T_b += prod_{c != b} K_c T'
        B_b += prod_{c != b} q_c B' + sum [ X_b - P' (prod_{c != b} q_c - prod_{c != b} K_c) ] / 2
embed   P += a P';  T += a T';  B += a B'
drop    P, T as they are; B += B' / p - (1 / p - 1) / 2 sum P';  of what meets itself P += P' / p;  T += T' / p
gather  P, T, B of a position go to where it comes from; K = 0 beside one from nowhere has H = q / 2: B -= sum P' / 2
local   P, T at p = p'; elsewhere K = 0 has H = (q + q') / 2, so that B -= sum P' / 2;  B += B'
inputs  xbar_p = sum P (x'_p' - x_p) / channels + 2 B_p x_p / channels: no length is divided by
======  ==============================================================================================================

Means of branches are added where sums have products of them. At masked positions K = 0, and H = q / 2 beside them.

Behind the last nonlinearity everything is linear in K and NTK, and P goes through alone. Pairs leave sums for B; then
each image's network on (x, x) is gone through once, for the pools and the attention in it.

The derivatives in a dual's line come from the nonlinearity's own text on numbers with derivatives, as in
numpy_adjoint.py, with the same conventions at ``rho = +-1``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..network.activations import rho_of
from ..network.program import WEIGHTED
from ..network.window import Positions
from . import numpy_image_joint as joint
from .numpy_image_back import (
    MOVED,
    DualRows,
    apart,
    blocks,
    borders,
    dual_back,
    half_gap,
    moved_back,
    sums_back,
    taps_back,
)
from .numpy_image_sides import ImageTangents, Side
from .numpy_mix import Flags, diagonal, spread
from .numpy_steps import State, _scale, apply, mean_of, reads_pairs
from .numpy_steps import Step as PlaneStep

Array = npt.NDArray[Any]
Pull: TypeAlias = "Mapping[int, tuple[Array | None, Array | None]]"  # of each output: on nngp, on ntk, (pairs, P, P')

LINEAR = (*WEIGHTED, *MOVED, *joint.BACK, "pool", "sum", "store", "mix")


@dataclass
class Found:
    """What a chunk of pairs leaves: for rows, by step, and for the numbers of ops, by place, one of each pair."""

    n1: int
    n2: int
    B: tuple[dict[int, Array], dict[int, Array]] = field(default_factory=lambda: ({}, {}))
    sums: tuple[dict[int, Array], dict[int, Array]] = field(default_factory=lambda: ({}, {}))  # of P', behind a pool
    inputs: tuple[dict[int, Array], dict[int, Array]] = field(default_factory=lambda: ({}, {}))
    gains: tuple[dict[int, Array], dict[int, Array]] = field(default_factory=lambda: ({}, {}))  # of norms, in ln g
    matrices: tuple[dict[int, Array], dict[int, Array]] = field(default_factory=lambda: ({}, {}))  # of attention
    means: tuple[dict[int, Array], dict[int, Array]] = field(default_factory=lambda: ({}, {}))

    def add(self, into: int, kind: str, k: int, at: Positions, values: Array) -> None:
        """Add values (pairs, ...) to the rows of the images ``at``."""
        of: dict[int, Array] = getattr(self, kind)[into]
        if k not in of:
            of[k] = np.zeros(((self.n1, self.n2)[into], *values.shape[1:]), values.dtype)
        np.add.at(of[k], at, values)

    def put(self, into: int, kind: str, k: int, values: Array) -> None:
        """Add values of all images."""
        of: dict[int, Array] = getattr(self, kind)[into]
        of[k] = of[k] + values if k in of else values

    def of_side(self, side: int, n: int) -> Found:
        """Of one side alone, for pairs of an image with itself: both positions are its own."""
        return Found(n, n, *((of[side], of[side]) for of in self._kinds))

    @property
    def _kinds(self) -> tuple[tuple[dict[int, Array], dict[int, Array]], ...]:
        return self.B, self.sums, self.inputs, self.gains, self.matrices, self.means

    def of_both(self, n: int) -> Found:
        """Of two sides that are the same images, added up."""
        kinds = []
        for one, two in self._kinds:
            every = {k: one[k] + two[k] if k in one and k in two else (one | two)[k] for k in one | two}
            kinds.append((every, every))
        return Found(n, n, *kinds)


class Numbers:
    """Derivatives in the numbers of ops, by place: added up, or of each pair apart."""

    def __init__(self, pairs: int | None = None) -> None:
        self._pairs = pairs
        self.found: dict[int, Array] = {}

    def add(self, place: int, bar: Array, of: slice = slice(None)) -> None:
        """Add those of some pairs, (pairs, ...)."""
        each = bar.reshape(len(bar), -1).sum(axis=1)
        if place not in self.found:
            self.found[place] = np.zeros(1 if self._pairs is None else self._pairs)
        if self._pairs is None:
            np.add.at(self.found[place], np.zeros(len(each), np.int64), each)  # in their order
        else:
            self.found[place][of] += each

    def add_to(self, bars: dict[int, float], unit: float) -> None:
        """What was added up, where lengths count in a unit."""
        for place, bar in self.found.items():
            bars[place] = bars.get(place, 0.0) + float(bar[0]) * unit * unit


class Sweep:
    """A chunk of pairs of images: forward when made, keeping the values that ``back`` reads.

    ``i``, ``j``: the images of each pair; ``same``: which pairs are an image with itself. ``own``: all are, and their
    NTK nobody asks for, up to the last step that reads what an image has between its positions.
    """

    def __init__(
        self, tangents: ImageTangents, sides: tuple[Side, Side], i: Positions, j: Positions, same: Flags,
        own: bool = False,
    ) -> None:  # fmt: skip
        self.tangents, self.at, self.same = tangents, (i, j), same
        last = tangents.last_own if own else len(tangents.steps)
        self.one, self.two = ([[p[at] for p in planes] for planes in side.planes[: last + 1]]
                              for side, at in zip(sides, self.at, strict=True))  # fmt: skip
        self._pixels = [[x[at] for x in side.pixels] for side, at in zip(sides, self.at, strict=True)]
        self._hidden = [[None if h is None else h[at] for h in side.hidden]
                        for side, at in zip(sides, self.at, strict=True)]  # fmt: skip
        self._scale = (sides[0].scale[i] * sides[1].scale[j]).reshape(-1, 1, 1)
        self.states: list[State] = []
        for k, (step, one, two) in enumerate(zip(tangents.steps[:last], self.one, self.two, strict=False)):
            hidden = self._hidden[0][k], self._hidden[1][k]
            state = apply(step, one, two, [self.states[s] for s in tangents.sources(k)], same, *hidden)
            self.states.append(state)
        self.P: dict[int, Array] = {}
        self.T: dict[int, Array] = {}

    # ---- what ops read

    def full(self, k: int) -> bool:
        return self.states[k][0].ndim == 3

    def source(self, k: int, which: int = 0) -> tuple[Array, Array, Array, Array]:
        """v, NTK and both variances of a source that is no covariance, at the pairs of positions that a step takes."""
        step, s = self.tangents.steps[k], self.tangents.sources(k)[which]
        full = step.full or reads_pairs(step.op)
        v, theta = (a if full else diagonal(a) for a in self.states[s][:2])
        return v, theta, *spread(self.one[k][which], self.two[k][which], full)

    def covariance(self, k: int, which: int = 0) -> Array:
        step, s = self.tangents.steps[k], self.tangents.sources(k)[which]
        value, _, linear = self.states[s]
        if linear:
            return value if step.full or reads_pairs(step.op) else diagonal(value)
        v, _, q1, q2 = self.source(k, which)
        found: Array = np.sqrt(q1) * np.sqrt(q2) * rho_of(v)
        return found

    def theta(self, k: int, which: int = 0) -> Array:
        step = self.tangents.steps[k]
        theta = self.states[self.tangents.sources(k)[which]][1]
        return theta if step.full or reads_pairs(step.op) else diagonal(theta)

    # ---- what they leave

    def add(self, s: int, P: Array | None, T: Array | None) -> None:
        """Give a value its derivatives; those of ``p = p'`` alone stand on the diagonal of one that has all."""
        for of, new in ((self.P, P), (self.T, T)):
            if new is None:
                continue
            if self.full(s) and new.ndim == 2:
                size = np.arange(new.shape[1])
                if s not in of:
                    of[s] = np.zeros((*new.shape, new.shape[1]), new.dtype)
                of[s][:, size, size] += new
            else:
                of[s] = of[s] + new if s in of else new

    def to_rows(self, found: Found, s: int, values: Array, kind: str = "B") -> None:
        """Sums over the partner's positions, of each side."""
        for side in (0, 1):
            self.to_row(found, side, s, values, kind)

    def to_row(self, found: Found, side: int, s: int, values: Array, kind: str = "B") -> None:
        """The same of one side."""
        own = values.sum(axis=2 - side) if values.ndim == 3 else values
        found.add(side, kind, s, self.at[side], own)

    def back(self, pull: Pull, found: Found, numbers: Numbers) -> None:
        """From cotangents of the outputs to sums for the rows, and to the numbers of ops, by place, for each pair."""
        for k in reversed(range(self.tangents.n_inputs, len(self.tangents.steps))):
            step = self.tangents.steps[k]
            if step.op.name == "store":
                given = pull.get(step.op.dst, (None, None))
                P, T = (None if c is None else self._put(c, step) for c in given)
                self.hand_over(k, 0, P, T, found)
            elif k in self.P or k in self.T:
                self.back_step(k, *self.taken(k, found), found, numbers)
        self.back_inputs(found)

    def taken(self, k: int, found: Found) -> tuple[Array, Array | None]:
        """P and T of a value, which masked positions do not have: beside them ``H = q / 2``."""
        P, T = self.P.pop(k, np.zeros(1)), self.T.pop(k, None)
        value, _, linear = self.states[k]
        P = np.broadcast_to(P, value.shape)
        one, two = (of[k] for of in self._hidden)
        if one is None and two is None:
            return P, T
        none = np.zeros((1, 1), np.bool_)
        barred = np.logical_or(*spread(none if one is None else one, none if two is None else two, value.ndim == 3))
        if not linear:
            self.to_rows(found, k, np.where(barred, -P / 2, 0))
        return np.where(barred, 0, P), None if T is None else np.where(barred, 0, T)

    def _put(self, cotangent: Array, step: PlaneStep) -> Array:
        scaled: Array = cotangent * self._scale
        return scaled if step.full else scaled[:, :, 0]

    def hand_over(self, k: int, which: int, P: Array | None, T: Array | None, found: Found) -> None:
        """To a source, from an op that is linear in covariances."""
        s = self.tangents.sources(k)[which]
        if P is not None and not self.states[s][2]:
            self.to_rows(found, s, P / 2)
        self.add(s, P, T)

    def back_step(self, k: int, P: Array, T: Array | None, found: Found, numbers: Numbers) -> None:
        """One op; P, T of its value."""
        step = self.tangents.steps[k]
        name = step.op.name
        if name == "sum":
            if step.op.kind == "means":
                joint.means_of_sum(self, k, P, found)
            for which, s in enumerate(self.tangents.sources(k)):
                if step.linear:
                    self.hand_over(k, which, P, T, found)
                else:
                    self.add(s, P, T)
        elif reads_pairs(step.op):
            if not step.linear:
                self.to_rows(found, k, P, "sums")
            self.hand_over(k, 0, *self._back_sums(k, P, T, found), found)
        elif name in MOVED:
            self._back_moved(k, P, T, found)
        elif name in WEIGHTED:
            self._back_weights(k, P, T, found, numbers)
        elif name in joint.BACK:
            joint.BACK[name](self, k, P, T, found, numbers)
        else:
            self._back_dual(k, P, T, found, numbers)

    def _back_sums(self, k: int, P: Array, T: Array | None, found: Found) -> tuple[Array, Array | None]:
        step, s = self.tangents.steps[k], self.tangents.sources(k)[0]
        size = self.states[s][0].shape[1]
        if step.op.name == "mix":
            joint.matrices_of_mix(self, k, P, T, found)
            mixing = joint.matrices(step, self.one[k]), joint.matrices(step, self.two[k])
            return sums_back(step, P, size, mixing), None if T is None else sums_back(step, T, size, mixing)
        s1, s2 = spread(_scale(step, self.one[k]), _scale(step, self.two[k]), step.full)
        return sums_back(step, s1 * s2 * P, size), None if T is None else sums_back(step, s1 * s2 * T, size)

    def _back_moved(self, k: int, P: Array, T: Array | None, found: Found) -> None:
        """Positions that stand elsewhere, or each for itself: K = 0 has ``H = (q + q') / 2``, with a q of 0 outside."""
        step, (s,) = self.tangents.steps[k], self.tangents.sources(k)
        size = self.states[s][0].shape[1]
        if P.ndim == 3 and not step.linear:
            for side in (0, 1):
                lost = apart(step, P if side == 0 else P.swapaxes(1, 2), size) / 2
                found.add(side, "B", s, self.at[side], -lost)
        new, on_theta = (None if a is None else moved_back(step, a, size) for a in (P, T))
        if step.linear:
            self.hand_over(k, 0, new, on_theta, found)
        else:
            self.add(s, new, on_theta)

    def _back_weights(self, k: int, P: Array, T: Array | None, found: Found, numbers: Numbers) -> None:
        step, (s, *_) = self.tangents.steps[k], self.tangents.sources(k)
        w2, _, f, _ = step.numbers
        taps, conv = step.taps.shape[1], step.op.name != "dense"
        size = len(self.states[s][0][0])

        def back(a: Array) -> Array:
            return taps_back(step, a, size) / taps if conv else a

        wanted = dict(self.tangents.wanted(k))
        self._count_weights(k, wanted, P, T, numbers)
        on_k, on_theta = back(P), None if T is None else back(T)
        if not step.linear:
            v, _, q1, q2 = self.source(k)
            if 0 in wanted:
                numbers.add(wanted[0], -on_k * half_gap(v, q1, q2))
            if conv and step.full:
                for side, q in enumerate((self.one[k][0], self.two[k][0])):
                    lost = borders(step, P if side == 0 else P.swapaxes(1, 2), size) / (2 * taps)
                    found.add(side, "B", s, self.at[side], -w2 * lost)
                    if 0 in wanted:
                        numbers.add(wanted[0], -lost * q)
        new = w2 * on_k
        if on_theta is not None:
            new = new + f * on_theta
            if not step.linear:
                self.to_rows(found, s, f / 2 * on_theta)
        if step.linear:
            self.hand_over(k, 0, new, None if on_theta is None else w2 * on_theta, found)
        else:
            self.add(s, new, None if on_theta is None else w2 * on_theta)

    def _count_weights(self, k: int, wanted: Mapping[int, int], P: Array, T: Array | None, numbers: Numbers) -> None:
        """What (w2, b2, f, g) get from covariances and NTKs; what from distances is the caller's."""
        step = self.tangents.steps[k]

        def mean(a: Array) -> Array:
            return mean_of(step, a) if step.op.name != "dense" else a

        for at, place in wanted.items():
            if step.linear and at < 2:
                numbers.add(place, P * mean(self.covariance(k)) if at == 0 else P)
            if T is not None and at != 1:
                of = None if at == 3 else mean(self.theta(k) if at == 0 else self.covariance(k))
                numbers.add(place, np.broadcast_to(T if of is None else T * of, P.shape))

    def _back_dual(self, k: int, P: Array, T: Array | None, found: Found, numbers: Numbers) -> None:
        """Block by block: numbers with derivatives are many arrays."""
        (s,) = self.tangents.sources(k)
        full = self.tangents.steps[k].full
        v, theta = (a if full else diagonal(a) for a in self.states[s][:2])
        rows = [
            DualRows(self.tangents.layer(k), q, name) for q, name in ((self.one[k][0], "q1"), (self.two[k][0], "q2"))
        ]
        places = [place for _, place in self.tangents.wanted(k)]
        new_P, new_T = np.empty(v.shape), None if T is None else np.empty(v.shape)
        sums = [np.zeros(v.shape[:2] if side == 0 or not full else (len(v), v.shape[2])) for side in (0, 1)]
        for of, lines in blocks(v.shape):
            here = (of, lines)
            one, two = rows[0].part(of, lines, 0, full), rows[1].part(of, slice(None) if full else lines, 1, full)
            t = None if T is None else T[here]
            on, on_theta, by_side, by_number = dual_back(
                self.tangents.layer(k), v[here], theta[here], P[here], t, one, two, places
            )
            new_P[here] = on
            if new_T is not None:
                new_T[here] = on_theta
            for side in (0, 1):
                if full and side == 0:
                    sums[0][here] = by_side[0].sum(axis=2)
                elif full:
                    sums[1][of] += by_side[1].sum(axis=1)
                else:
                    sums[side][here] = by_side[side]
            for place, bar in by_number.items():
                numbers.add(place, bar, of)
        for side in (0, 1):
            found.add(side, "B", s, self.at[side], sums[side])
        self.add(s, new_P, new_T)

    def back_inputs(self, found: Found) -> None:
        """Differences of pixels, one channel at a time: none of them is rounded away where images are alike."""
        for slot in range(self.tangents.n_inputs):
            if slot not in self.P:
                continue
            P, _ = self.taken(slot, found)
            x, y = self._pixels[0][slot], self._pixels[1][slot]
            of = [np.empty(x.shape), np.empty(y.shape)]
            for c in range(x.shape[2]):
                a, b = spread(x[:, :, c], y[:, :, c], P.ndim == 3)
                moved = P * (b - a)
                of[0][:, :, c] = moved.sum(axis=2) if P.ndim == 3 else moved
                of[1][:, :, c] = -(moved.sum(axis=1) if P.ndim == 3 else moved)
            for side in (0, 1):
                found.add(side, "inputs", slot, self.at[side], of[side] / x.shape[2])
