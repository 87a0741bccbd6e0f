"""What goes back through one op on images: nonlinearities, and transposed windows (numpy_image_adjoint.py)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.jet import Jet, over, slope_of, value_of
from ..network.activations import Correlation, of_input
from ..network.window import Positions
from .numpy_adjoint import TINY
from .numpy_mix import diagonal
from .numpy_steps import Step

Array = npt.NDArray[Any]

BLOCK = 1 << 16  # entries of a dual at a time: numbers with derivatives stay in cache


def blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Pairs and first positions."""
    n, size, line = shape[0], math.prod(shape[1:]), math.prod(shape[2:])
    pairs, lines = max(1, BLOCK // max(1, size)), max(1, min(shape[1], BLOCK // max(1, line)))
    for a in range(0, n, pairs):
        for b in range(0, shape[1], lines if pairs == 1 else shape[1]):
            yield slice(a, a + pairs), slice(b, b + lines if pairs == 1 else shape[1])


class DualRows:
    """What a dual reads of one side, with derivatives in ln q by the name of the side."""

    def __init__(self, layer: Any, q: Array, name: str) -> None:
        self._name, self._q = name, q
        with_slope = Jet(q, {"q": q})
        self.rows, self.variance = layer.rows(with_slope), layer.variance(with_slope)

    def part(self, of: slice, lines: slice, axis: int, full: bool) -> tuple[Any, Array, Any]:
        """Rows as attributes, variances before and, with derivatives, behind."""
        place = (of, lines) if not full else (of, lines, None) if axis == 0 else (of, None, lines)

        def cut(a: Any) -> Any:
            if not isinstance(a, Jet):
                return np.broadcast_to(a, self._q.shape)[place]
            found = a[place]
            return Jet(found.value, {self._name if k == "q" else k: s for k, s in found.slopes.items()})

        return of_input({name: cut(row) for name, row in self.rows.items()}), self._q[place], cut(self.variance)


def dual_back(
    layer: Any, v: Array, theta: Array, P: Array, T: Array | None, one: tuple[Any, Array, Any],
    two: tuple[Any, Array, Any], places: Sequence[int],
) -> tuple[Array, Array | None, tuple[Array, Array], dict[int, Array]]:  # fmt: skip
    """P and T in front, sums' terms of both sides, and what its numbers get, entry by entry."""
    (rows1, q1, V1), (rows2, q2, V2) = one, two
    c = Correlation.of_defect(v)
    w: Any = c.w
    a: Any = c.a
    if T is not None or layer.jumps:
        moves = np.where(c.w > TINY, 1.0, 0.0)
        w, a = Jet(c.w, {"w": moves}), Jet(c.a, {"w": -moves})
    new, _, kdot_jet = layer.pair(Correlation(w, a, c.near), rows1, rows2)
    kdot, before, behind = value_of(kdot_jet), gaps(v, q1, q2), gaps(value_of(new), value_of(V1), value_of(V2))
    after = np.sqrt(value_of(V1)) * np.sqrt(value_of(V2))
    slope: Array = kdot  # dk/dc
    if layer.jumps:
        slope = over(after, np.sqrt(q1) * np.sqrt(q2)) * np.where(c.near, 1.0, -1.0) * slope_of(new, "w")
    on: Array = slope * P
    flow = kddot = None
    if T is not None:
        flow = theta * T
        kddot = over(np.where(c.near, -1.0, 1.0) * slope_of(kdot_jet, "w"), np.sqrt(q1) * np.sqrt(q2))
        on = on + kddot * flow
    terms = []
    for name, q, V, gap, gap_behind in (("q1", q1, V1, before[0], behind[0]), ("q2", q2, V2, before[1], behind[1])):
        pull = over(slope_of(V, name), value_of(V))
        term = P * (-after * slope_of(new, name) + slope * gap / 2 - pull * gap_behind / 2)
        if flow is not None:
            term = term + flow * (slope_of(kdot_jet, name) + kddot * gap / 2)
        terms.append(np.broadcast_to(over(term, q), v.shape))
    by_number = {}
    for p in places:
        shares = [over(slope_of(V, p), value_of(V)) * gap / 2 for V, gap in ((V1, behind[0]), (V2, behind[1]))]
        bar = P * (-after * slope_of(new, p) - shares[0] - shares[1])
        if flow is not None:
            bar = bar + flow * slope_of(kdot_jet, p)
        by_number[p] = np.broadcast_to(bar, v.shape)
    return on, None if T is None else kdot * T, (terms[0], terms[1]), by_number


def gaps(v: Array, q1: Array, q2: Array) -> tuple[Array, Array]:
    """``q1 - K`` and ``q2 - K``, without a difference of nearly equal numbers."""
    s1, s2 = np.sqrt(q1), np.sqrt(q2)
    across = s1 * s2 * np.where(v < 0, 2 + v, v)
    return s1 * (s1 - s2) + across, s2 * (s2 - s1) + across


def half_gap(v: Array, q1: Array, q2: Array) -> Array:
    """The distance ``(q1 + q2) / 2 - K``."""
    s1, s2 = np.sqrt(q1), np.sqrt(q2)
    found: Array = (s1 - s2) ** 2 / 2 + s1 * s2 * np.where(v < 0, 2 + v, v)
    return found


# ---------------------------------------------------------------- transposed windows


def _inside(step: Step) -> Iterator[tuple[Positions, Positions]]:
    """Of every tap: the output positions at which it lies inside, and what it reads there, no position twice."""
    for taps in step.taps.T:
        out = np.flatnonzero(taps >= 0)
        yield out, taps[out]


def taps_back(step: Step, a: Array, size: int) -> Array:
    """The transpose of a sum over taps, the same one at both positions."""
    found = np.zeros((len(a), *[size] * (a.ndim - 1)), a.dtype)
    for out, read in _inside(step):
        if a.ndim == 2:
            found[:, read] += a[:, out]
        else:
            found[:, read[:, None], read] += a[:, out[:, None], out]
    return found


def borders(step: Step, P: Array, size: int) -> Array:
    """Of each first position, the sum of P over taps that lie inside there and outside at the second position."""
    found = np.zeros((len(P), size), P.dtype)
    for out, read in _inside(step):
        if len(out) < P.shape[2]:
            outside = np.ones(P.shape[2], np.bool_)
            outside[out] = False
            found[:, read] += P[:, out][:, :, outside].sum(axis=2)
    return found


def sums_back(step: Step, a: Array, size: int, matrices: tuple[Array, Array] | None = None) -> Array:
    """The transpose of a sum over all pairs of positions; ``a`` of ``p = p'`` alone stands on the diagonal.

    ``matrices``: of a mix, those of both images.
    """
    if a.ndim == 2:
        a = on_diagonal(a)
    if matrices is not None:
        mixed: Array = matrices[0].swapaxes(1, 2) @ a @ matrices[1]
        return mixed
    columns = np.zeros((*a.shape[:2], size), a.dtype)
    for out, read in _inside(step):
        columns[:, :, read] += a[:, :, out]
    found = np.zeros((len(a), size, size), a.dtype)
    for out, read in _inside(step):
        found[:, read] += columns[:, out]
    return found


def on_diagonal(a: Array) -> Array:
    """(n, P) as (n, P, P), 0 where p != p'."""
    found = np.zeros((*a.shape, a.shape[1]), a.dtype)
    places = np.arange(a.shape[1])
    found[:, places, places] = a
    return found


# ---------------------------------------------------------------- positions that move


MOVED = ("gather", "local")


def moved_back(step: Step, a: Array, size: int) -> Array:
    """The transpose of a gather, or of what keeps ``p = p'`` alone."""
    if step.op.name == "local":
        return np.asarray(diagonal(a))
    index = step.op.map.index
    out = np.flatnonzero(index >= 0)
    for axis in range(1, a.ndim):
        found = np.zeros((*a.shape[:axis], size, *a.shape[axis + 1 :]), a.dtype)
        np.add.at(found, (slice(None),) * axis + (index[out],), a.take(out, axis))
        a = found
    return a


def apart(step: Step, P: Array, size: int) -> Array:
    """Of each first position in front, the sum of P over second ones with which it has no covariance behind."""
    if step.op.name == "local":
        return np.asarray(P.sum(axis=2) - diagonal(P))
    outside = step.op.map.index < 0
    return moved_back(step, np.where(outside, 0, P[:, :, outside].sum(axis=2)), size)
