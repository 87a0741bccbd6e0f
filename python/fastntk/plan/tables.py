"""Tables of single images: all that a pair reads of each of its two images, in array code of NumPy or CuPy, float64.

Images are followed through a plan grid by grid, as variances q of each position; a step's arrays are derived from those
before and behind it and written where the compiled plan has them (``csrc/images/program.h``), in the dtype of pairs.

A sum of independent parts o of standard deviations s_o, s that of the sum, is told by the stereographic coordinates
``S_o = s_o / (s + s_c)``, o != c, and the factor ``(s + s_c) / sqrt(2)`` (``csrc/math/elements.h`` has the formula of a
pair). Windows are two such sums, along the inner axes and along axis 0.

What makes it fast is few and large operations: variances go from step to step, everything else is done for all steps
of a kind at once (``plan/table_plan.py``), on images that lie side by side in memory (``plan/taps.py``).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..network.activations import bare_of
from .grids import Link
from .rows import square_of
from .table_plan import Cut, Group, Part, Stretch, TableGrid, TablePlan, index_of
from .taps import Place, Stage, axes_of, beyond, center_of, reads_of

Array = npt.NDArray[Any]  # or CuPy's
Masses = Callable[[int], Mapping[int, Array]]

_ARRAYS_ROOM, _TOTAL_ROOM = 4, 5
_TINY = np.finfo(np.float64).tiny  # changes no deviation but 0
_HALF = math.sqrt(0.5)
# Standard deviations whose inverse is a number of the dtype; powers of two likewise, with some room.
_LEAST = {np.dtype(np.float32): 1e-34, np.dtype(np.float64): 1e-300}
_POWERS = {np.dtype(dtype): np.finfo(dtype).maxexp - 24 for dtype in (np.float32, np.float64)}


def make_tables(
    plan: TablePlan, numbers: Sequence[float], x: Sequence[Array], tables: Array, xp: Any, work: int,
    masses: Masses | None = None,
) -> tuple[Array, dict[int, Array]]:  # fmt: skip
    """Fill the tables of n images.

    Parameters
    ----------
    plan : TablePlan
    numbers : sequence of float
        Of the network.
    x : sequence of array (n, positions, channels), float32 or float64
        One for each input.
    tables : array (n, ``plan.table_size``), C-contiguous
    xp : module
        NumPy or CuPy, whose arrays these are.
    work : int
        Variances to hold at a time, or as many as one step needs.
    masses : callable, optional
        Called with a grid once its tables are there: for each link from it that needs them, the sums of ``s s' - K`` of
        each image with itself over each window, (n, positions of the target).

    Returns
    -------
    lengths : array (n,)
        What each image was divided by: its brightest number where the network scales with its input, else 1.
    variances : dict
        K(x, x), (n,), of the outputs that are ``known``.
    """
    return _Tables(plan, numbers, x, tables, xp)(work, masses)


def _power(x: Array, dtype: Any, xp: Any) -> Array:
    """A power of two that brings x to [1, 2), as near as it and its inverse are numbers of the dtype.

    NaN for infinity and NaN, anything for 0.
    """
    most = _POWERS[np.dtype(dtype)]
    exponent = np.minimum(np.maximum(1 - xp.frexp(x)[1], -most), most)
    found: Array = xp.ldexp(1 + 0 * x, exponent)
    return found


class _Tables:
    """The tables of some images, as they are made."""

    def __init__(self, plan: TablePlan, numbers: Sequence[float], x: Sequence[Array], tables: Array, xp: Any) -> None:
        self.plan, self.numbers, self.x, self.tables, self.xp = plan, numbers, x, tables, xp
        self.n = len(tables)
        self.linked: dict[int, Array] = {}  # variances that links carry, (n, positions), a 0 behind them
        self.masses: dict[int, Array] = {}
        self.variances: dict[int, Array] = {}
        self.memory: Array | None = None
        self.turn = 0

    def __call__(self, work: int, masses: Masses | None) -> tuple[Array, dict[int, Array]]:
        self.lengths = self._lengths()
        for k, grid in enumerate(self.plan.grids):
            cut = grid.cut(max(1, work // (self.n * grid.size)))
            self._begin_grid(grid, cut)
            before: tuple[Array, Array] | None = None
            for stretch in cut.stretches:
                before = self._stretch(stretch, before)
            if masses is not None:
                self.masses.update(masses(k))
        return self.lengths, self.variances

    def _lengths(self) -> Array:
        xp = self.xp
        if not self.plan.homogeneous:
            ones: Array = xp.ones(self.n)
            return ones
        largest, *others = (xp.abs(x).reshape(self.n, -1).max(axis=1) for x in self.x)
        for other in others:
            largest = xp.maximum(largest, other)
        found: Array = xp.where((largest > 0) & (largest < np.inf), largest, 1).astype(np.float64)
        return found

    def _begin_grid(self, grid: TableGrid, cut: Cut) -> None:
        """Memory for all stretches of a grid, of one piece: many small ones would be given back and asked for again."""
        self.grid, self.shape = grid, (self.n, *grid.padded)
        self.start, self.stop = grid.margin, grid.margin + self.n * grid.size
        self.body = slice(self.start, self.stop)
        values, arrays, steps = cut.values * (self.stop + grid.margin), *(self.n * grid.size * k for k in cut.most)
        ends = 0, values, 2 * values, 3 * values, 4 * values, 4 * values + arrays, 4 * values + arrays + steps
        if self.memory is None or len(self.memory) < ends[-1]:
            self.memory = self.xp.empty(ends[-1])
        self.rooms = ends
        filled, lines = grid.packed * grid.positions // grid.rows, grid.n_arrays * grid.rows
        if filled < grid.lanes:  # what comes of others has to be finite: windows multiply it by 0
            own = self.tables[:, grid.table : grid.table + lines * grid.lanes]
            own.reshape(self.n, lines, grid.lanes)[:, :, filled:] = 1

    def _room(self, number: int, *shape: int) -> Array:
        assert self.memory is not None
        start = self.rooms[number]
        return self.memory[start : start + math.prod(shape)].reshape(shape)

    def _stretch(self, stretch: Stretch, before: tuple[Array, Array] | None) -> tuple[Array, Array]:
        """Some steps of a grid; their values' variances and deviations."""
        self.turn = 2 - self.turn  # those of the last stretch are still read
        shape = (stretch.n_values, self.stop + self.grid.margin)
        q, s = self._room(self.turn, *shape), self._room(self.turn + 1, *shape)
        q[:, : self.start] = q[:, self.stop :] = 0
        for old, new in stretch.carried:
            assert before is not None
            q[new], s[new] = before[0][old], before[1][old]
        for part in stretch.parts:
            self._follow(part, q)
        for values in stretch.roots:
            if isinstance(values, slice):
                np.sqrt(q[values], out=s[values])
            else:
                s[values] = np.sqrt(q[values])
        for group in stretch.multiples:
            of = s[group.total if group.kind == "conv" else group.src[0]]
            gains = self._numbers([math.sqrt(self._gain(part)) for part in group.parts], of)
            if isinstance(group.dst, slice):
                np.multiply(of, gains, out=s[group.dst])
            else:
                s[group.dst] = of * gains
        for group in stretch.groups:
            _ARRAYS[group.kind](self, group, q, s)
        return q, s

    def _gain(self, part: Part) -> float:
        """What a step multiplies variances by."""
        own = part.own(self.numbers)
        return own[0] / part.taps if part.step.name in ("conv", "dense") else square_of(part.step.name, own)

    def _clear(self, places: Sequence[Place], values: Array) -> None:
        """Zeros where no position is; values (..., memory)."""
        at = values.reshape(*values.shape[:-1], *self.shape)
        for place in places:
            at[place] = 0

    # ---------------------------------------------------------------- variances, step by step

    def _follow(self, part: Part, q: Array) -> None:
        """The variances behind a step."""
        step, body = part.step, self.body
        name, out = step.name, q[part.dst, body]
        if name == "conv":
            assert part.stages is not None
            total = q[part.total, body]
            if part.mid != part.src[0]:
                self._add_taps(part.stages[0], q[part.src[0]], q[part.mid])
            if part.total != part.mid:
                self._add_taps(part.stages[1], q[part.mid], q[part.total])
            if part.total != part.src[0]:
                self._clear(part.beyond, total)  # what lies there behind the inner axes stays there
            self._weigh(part, total, out)
        elif name == "dense":
            self._weigh(part, q[part.total, body], out)
        elif name == "input":
            self._input(part, out)
        elif name == "land":
            self._land(part, out)
        elif name == "sum":
            first, *others = part.src
            out[:] = q[first, body]
            for k in others:
                np.add(out, q[k, body], out=out)
        elif name == "join":
            self._join(part, out)
        elif name == "store":
            if step.dst in self.plan.known:
                self.variances[step.dst] = out[:: self.grid.size] * self.lengths**2
        elif name != "convert":
            phi = bare_of(name, part.own(self.numbers), step.layer)
            if phi.homogeneous:
                np.multiply(q[part.src[0], body], self._gain(part), out=out)
            else:
                out[:] = phi.variance(q[part.src[0], body], self.xp)
                self._clear(part.beyond, out)

    def _add_taps(self, stage: Stage, q: Array, out: Array) -> None:
        """Sums of what each tap reads."""
        own, start, stop = out[self.body], self.start, self.stop
        if stage.pieces:
            own[:] = 0
            to, read = own.reshape(self.shape), q[self.body].reshape(self.shape)
            for tap in stage.pieces:
                for place, other in tap:
                    np.add(to[place], read[other], out=to[place])
            return
        first, *shifts = stage.shifts
        sums = q[start + first : stop + first]
        for shift in shifts:
            sums = np.add(sums, q[start + shift : stop + shift], out=own)

    def _weigh(self, part: Part, total: Array, out: Array) -> None:
        """Weights and biases of a layer, behind the sum over its taps."""
        w2, b2, *_ = part.own(self.numbers)
        np.multiply(total, w2 / part.taps, out=out)
        if b2:
            np.add(out, b2, out=out)
            self._clear(part.beyond, out)

    # ---------------------------------------------------------------- what begins a grid, and what ends it

    def _join(self, part: Part, q: Array) -> None:
        g, link = self.grid, part.step.dst
        found = self.xp.zeros((self.n, g.positions + 1))
        found[:, :-1] = q.reshape(self.shape)[g.inside].reshape(self.n, g.positions)
        self.linked[link] = found

    def _begin(self, part: Part, arrays: Array, q: Array | None, out: Array) -> None:
        """Arrays (arrays, n, positions) into the tables; variances, likewise, into ``out``."""
        g = self.grid
        out[:] = 0
        if q is not None:
            out.reshape(self.shape)[g.inside] = q.reshape(self.n, *g.sizes)
        if part.n_arrays:
            self._put([(part.first, 0, 1)], part.n_arrays, 0, arrays.reshape(part.n_arrays, 1, self.n, *g.sizes))

    def _input(self, part: Part, out: Array) -> None:
        """Arrays: unit vectors of the pixels, then s."""
        xp, x = self.xp, self.x[part.step.src[0]]
        arrays = xp.empty((x.shape[2] + 1, *x.shape[:2]))
        units, s = arrays[:-1], arrays[-1]
        np.divide(x.transpose(2, 0, 1), self.lengths[:, None], out=units)
        scale = _power(xp.abs(units).max(axis=0), np.float64, xp)
        np.multiply(units, scale, out=units)
        square = units[0] * units[0]
        for unit in units[1:]:
            square += unit * unit
        norm = xp.sqrt(square, out=square)
        np.divide(units, xp.maximum(norm, _TINY), out=units)
        np.divide(norm, scale, out=s)
        np.divide(s, math.sqrt(x.shape[2]), out=s)
        self._begin(part, arrays, s * s, out)

    def _land(self, part: Part, out: Array) -> None:
        """Behind a link: a pool, or a window with strides."""
        xp, number = self.xp, part.step.src[0]
        link, left = self.plan.links[number], self.linked[number]
        window = link.window
        part.taps = window.taps
        source, target = (axes_of(sizes, window) for sizes in (self.plan.grids[link.source].sizes, self.grid.sizes))
        reads = reads_of(window, source, target)
        if link.pool and window.circular:  # windows that read the same add it in one order: equal to the bit
            reads = np.sort(reads, axis=1)
        q = left.take(xp.asarray(reads), axis=1)  # (n, positions, taps), each one's taps side by side
        if link.pool:
            return self._pool(part, link, q, (reads < left.shape[1] - 1).sum(axis=1), out)
        total = q.sum(axis=2)
        w2, b2, *_ = part.own(self.numbers)
        after = total * (w2 / part.taps) + b2
        alive = self._alive(part)
        if alive is not None:
            after = xp.where(alive, after, 0)
        arrays, k = xp.empty((part.n_arrays, *total.shape)), part.taps if part.taps > 1 else 0
        if part.n_arrays and k:
            s, center = xp.sqrt(q).transpose(2, 0, 1), center_of(window, range(len(window.shape)))
            self._spread([s[:center], s[center + 1 :]], s[center], xp.sqrt(total), arrays[:k])
        if part.n_arrays:
            arrays[-1] = xp.sqrt(after)
            self._biases([part], total, arrays[-1], arrays[k:-1])
            if alive is not None:
                arrays = xp.where(alive, arrays, 0)
        self._begin(part, arrays, after, out)

    def _pool(self, part: Part, link: Link, q: Array, inside: Array, out: Array) -> None:
        """Arrays: weight, S e, M e^2, d e, e, weight / e (``math/elements.h``); of a covariance the weight alone."""
        xp, after = self.xp, None
        arrays = xp.zeros((part.n_arrays, *q.shape[:2]))
        if link.window.normalize_edges:
            arrays[0] = xp.asarray(1 / np.maximum(inside, 1))  # none: a window on padding alone
        else:
            arrays[0] = part.own(self.numbers)[0]
        if link.form != "cov":
            weight, sums = arrays[0], xp.sqrt(q).sum(axis=2)
            square = sums * sums
            mass = xp.minimum(self.masses[part.step.src[0]], square)
            variance = square - mass
            e = _power(sums, self.plan.dtype, xp)
            d = mass / xp.where(sums > 0, sums + xp.sqrt(variance), 1)
            for k, values in enumerate((sums * e, mass * e * e, d * e, e, weight / e), start=1):
                arrays[k] = values
            after = weight * weight * variance
        alive = self._alive(part)
        if alive is not None:
            arrays = xp.where(alive, arrays, 0)
            after = None if after is None else xp.where(alive, after, 0)
        self._begin(part, arrays, after, out)

    def _alive(self, part: Part) -> Array | None:
        """Which positions count; None where all do."""
        if not part.partial:
            return None
        found = np.ones(self.grid.sizes, np.bool_)
        for place in beyond(part.step.extent, self.grid.sizes):
            found[place] = False
        alive: Array = self.xp.asarray(found.reshape(-1))
        return alive

    # ---------------------------------------------------------------- arrays of a kind's steps: (arrays, steps, memory)

    def _conv(self, group: Group, q: Array, s: Array) -> None:
        assert group.parts[0].stages is not None
        inner, outer = group.parts[0].stages
        root = s[group.dst, self.body]
        arrays = self._room(_ARRAYS_ROOM, group.n_arrays - 1, *root.shape)
        k, before = inner.arrays, s[group.src[0]]
        if k:
            mid = s[group.mid]
            self._coordinates(inner, before, mid, arrays[:k])
            before = mid
        if outer.arrays:
            self._coordinates(outer, before, s[group.total], arrays[k : k + outer.arrays])
        self._biases(group.parts, q[group.total, self.body], root, arrays[k + outer.arrays :])
        if group.parts[0].partial:
            self._clear(inner.beyond, arrays[: inner.arrays])
            self._clear(group.parts[0].beyond, arrays[inner.arrays :])
        self._put_all(group, 0, arrays)
        self._put_all(group, len(arrays), root[None])

    def _coordinates(self, stage: Stage, s: Array, whole: Array, arrays: Array) -> None:
        """Coordinates of a stage's parts s, all but the center's, and their factor."""
        start, stop, center = self.start, self.stop, stage.center
        total = self._room(_TOTAL_ROOM, *arrays.shape[1:])
        others = [k for k in range(stage.taps) if k != center]
        if not stage.pieces:
            shift = stage.shifts[center]
            np.add(whole[:, self.body], s[:, start + shift : stop + shift], out=total)
            scale = self._factor(total, arrays[-1])
            for array, k in zip(arrays, others, strict=False):
                shift = stage.shifts[k]
                np.multiply(s[:, start + shift : stop + shift], scale, out=array)
            return
        total[...], shape = whole[:, self.body], (len(s), *self.shape)
        to, read = total.reshape(shape), s[:, self.body].reshape(shape)
        for place, other in stage.pieces[center]:
            np.add(to[place], read[other], out=to[place])
        self._factor(total, arrays[-1])
        for array, k in zip(arrays, others, strict=False):
            for place, other in stage.pieces[k]:
                np.multiply(read[other], to[place], out=array.reshape(shape)[place])

    @staticmethod
    def _factor(total: Array, factor: Array) -> Array:
        """The factor of parts with this ``s + s_c``; its inverse takes its place."""
        np.multiply(total, _HALF, out=factor)
        np.add(total, _TINY, out=total)  # parts of 0 have coordinates of 0
        return np.divide(1, total, out=total)

    def _spread(self, others: Sequence[Any], center: Array, whole: Array, arrays: Array) -> None:
        """Coordinates of parts that stand side by side, some of them stacked, and their factor."""
        scale, k = self._factor(whole + center, arrays[-1]), 0
        for s in others:
            stacked = np.ndim(s) > scale.ndim
            np.multiply(s, scale, out=arrays[k : k + len(s)] if stacked else arrays[k])
            k += len(s) if stacked else 1

    def _biases(self, parts: Sequence[Part], total: Array, root: Array, arrays: Array) -> None:
        """Coordinate and factor of the biases, where there are any, behind the taps of all parts."""
        if not len(arrays):
            return
        own = [part.own(self.numbers) for part in parts]
        weight = self._numbers([w2 / part.taps for (w2, *_), part in zip(own, parts, strict=True)], total)
        self._spread(
            [self._numbers([math.sqrt(b2) for _, b2, *_ in own], total)], np.sqrt(total * weight), root, arrays
        )

    def _numbers(self, values: list[float], like: Array) -> Any:
        """A number for each step; one where all are the same."""
        if len(set(values)) == 1:
            return values[0]
        return self.xp.asarray(np.array(values)).reshape(-1, *(1,) * (like.ndim - 1))

    def _dense(self, group: Group, q: Array, s: Array) -> None:
        root = s[group.dst, self.body]
        arrays = self._room(_ARRAYS_ROOM, group.n_arrays - 1, *root.shape)
        self._biases(group.parts, q[group.total, self.body], root, arrays)
        if group.parts[0].partial:
            self._clear(group.parts[0].beyond, arrays)
        self._put_all(group, 0, arrays)
        self._put_all(group, len(arrays), root[None])

    def _sum(self, group: Group, q: Array, s: Array) -> None:
        first, *others = (s[k, self.body] for k in group.src)
        arrays = self._room(_ARRAYS_ROOM, group.n_arrays, *first.shape)
        scale = self._factor(s[group.dst, self.body] + first, arrays[-1])
        for array, other in zip(arrays, others, strict=False):
            np.multiply(other, scale, out=array)
        self._put_all(group, 0, arrays)

    def _root(self, group: Group, q: Array, s: Array) -> None:
        self._put_all(group, 0, s[group.dst, self.body][None])

    def _dual(self, group: Group, q: Array, s: Array) -> None:
        """Arrays: 1 / s before, s behind, the nonlinearity's own. 1 / 0 counts as 0, infinity times 0 would be NaN."""
        xp, before = self.xp, s[group.src[0], self.body]
        inverse = np.maximum(before, _LEAST[self.plan.dtype], out=self._room(_TOTAL_ROOM, *before.shape))
        np.divide(1, inverse, out=inverse)
        xp.copyto(inverse, 0, where=before == 0)
        self._put_all(group, 0, inverse[None])
        self._put_all(group, 1, s[group.dst, self.body][None])
        if group.n_arrays == 2:
            return
        arrays, variances = xp.empty((group.n_arrays - 2, *before.shape)), q[group.src[0], self.body]
        alike: dict[Any, list[int]] = defaultdict(list)
        for k, part in enumerate(group.parts):
            alike[part.step.name, part.own(self.numbers), part.step.layer].append(k)
        for key, steps in alike.items():
            own = index_of(steps)
            rows = bare_of(*key).rows(xp.ascontiguousarray(variances[own]), xp)
            for array, row in zip(arrays, rows.values(), strict=True):
                array[own] = row
        for k, part in enumerate(group.parts):
            if part.partial:
                self._clear(part.beyond, arrays[:, k])
        self._put_all(group, 2, arrays)

    def _put_all(self, group: Group, k: int, arrays: Array) -> None:
        if len(arrays):
            self._put(group.runs, group.n_arrays, k, arrays.reshape(*arrays.shape[:2], *self.shape))

    def _put(self, runs: Sequence[tuple[int, int, int]], n_arrays: int, k: int, arrays: Array) -> None:
        """Write arrays (arrays, steps, n, *places) of all steps, the first as number k, in every packed place."""
        g, at = self.grid, 0
        values = arrays[g.packable].transpose(1, 2, 3, 0, *range(4, 4 + len(g.packs)))
        for first, gap, count in runs:
            shape = (count, self.n, g.rows, len(arrays), *g.packs)
            strides = (gap * g.line, self.tables.strides[0], n_arrays * g.lane, g.lane, *g.strides)
            start = g.table * self.tables.itemsize + first * g.line + k * g.lane
            _view(self.xp, self.tables, start, shape, strides)[...] = values[at : at + count]
            at += count


_ARRAYS = {kind: getattr(_Tables, f"_{kind}") for kind in ("conv", "dense", "sum", "root", "dual")}


def _view(xp: Any, array: Array, start: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """A view of an array's memory; start and strides in bytes."""
    if xp is np:  # np.lib.stride_tricks takes as long as a small step
        return np.ndarray(shape, array.dtype, array, start, strides)
    found: Array = xp.lib.stride_tricks.as_strided(array.reshape(-1)[start // array.itemsize :], shape, strides)
    return found
