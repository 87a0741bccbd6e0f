"""What belongs to some images of one side, for plans of segments: variances of all positions, and tables of them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..network.maps import Attention
from ..network.program import Op
from ..network.window import Positions
from ..plan.rows import layout_of
from .numpy_images import _graphs, _lengths, _masked
from .numpy_mix import Flags, diagonal
from .numpy_steps import Planes, Step, image_rows, mean_behind, of_image, variance
from .segments import K, Plan, Segment, Single, V
from .sheets import combine

Array = npt.NDArray[Any]

_PADDED = 16  # columns that the compiled loops read at once, at most


@dataclass
class Table:
    """A row table as engines take it: of so many images, and the first row of those that are meant."""

    table: Array
    n: int
    first: int = 0


@dataclass
class WindowSide:
    """What windows read of one side: where (taps, rows), -1 for nothing, and deviations (batch, 1, rows)."""

    index: Array
    std: Array
    inverse: Array


class Part:
    """Some images of one side.

    Parameters
    ----------
    plan : Plan
    x : list of array (n, positions, channels)
        Of each input, or ones where covariances are given.
    masks, pattern, given
        As ``Beside.of`` has them.
    single : bool
        Whether pairs are computed in float32.
    """

    def __init__(
        self, plan: Plan, x: Sequence[Array], masks: Sequence[Flags | None], pattern: Any,
        given: Sequence[Array | None], single: bool,
    ) -> None:  # fmt: skip
        self.plan, self.n = plan, len(x[0])
        self.given = list(given)
        known = any(k is not None for k in given)
        self.lengths = np.ones(self.n) if known else _lengths(plan.steps, x)
        if single:  # digits that inputs share stay as they are
            self.lengths = np.ldexp(1.0, np.frexp(self.lengths)[1] - 1)
        self.x = [a if known else np.divide(a, self.lengths[:, None, None], order="C") for a in x]
        self.hidden, self._before = _masked(plan.steps, masks)
        self._graphs = [_graphs(step.op, pattern, self.n) for step in plan.steps]
        self.planes: list[Planes] = [[] for _ in plan.steps]
        self.q: list[Array] = [np.zeros((self.n, 0))] * len(plan.steps)
        self._means: dict[int, Array | None] = {}
        self._has_means = any(step.op.means for step in plan.steps)
        self._tables: dict[tuple[int, Any], Table] = {}
        self._mixers: dict[tuple[int, Any], Mixer] = {}
        self._windows: dict[tuple[int, bool], WindowSide] = {}
        self._whole: tuple[Part, int] | None = None  # what this is cut from, and its first image there
        self.cuts: dict[tuple[int, int], Part] = {}
        self.keys: list[Any] = []  # equal where images are one
        self.units: dict[Any, Any] = {}  # of inputs, as engines take them

    def some(self, at: Positions) -> Part:
        """Some of the images."""
        return self._of(at, len(at), [self.keys[k] for k in at])

    def cut(self, first: int, stop: int) -> Part:
        """Adjacent images, whose tables are views."""
        found = self._of(slice(first, stop), stop - first, self.keys[first:stop])
        found._whole = self, first
        return found

    def _of(self, at: Any, n: int, keys: list[Any]) -> Part:
        found = copy(self)
        found.n, found.keys = n, keys
        found.lengths, found.x = self.lengths[at], [a[at] for a in self.x]
        found.given = [None if g is None else g[at] for g in self.given]
        found.hidden = [None if h is None else h[at] for h in self.hidden]
        found.planes = [[plane[at] for plane in own] for own in self.planes]
        found.q = [q[at] for q in self.q]
        found._tables, found._mixers, found._windows, found._whole, found.units, found.cuts = {}, {}, {}, None, {}, {}
        return found

    # ---------------------------------------------------------------- variances, step by step

    def follow(self, k: int, states: Sequence[Any]) -> None:
        """What step k reads of one image, and the variances behind it; ``states``: values that it looks at."""
        step, sources = self.plan.steps[k], self.plan.sources[k]
        if step.op.name == "input":
            x, known = self.x[step.op.dst], self.given[step.op.dst] if self.given else None
            q = diagonal(known) if known is not None else np.einsum("npc,npc->np", x, x, dtype=np.float64) / x.shape[-1]
            self._put(k, [q], q)
            return
        q = [self.q[s] for s in sources]
        own = [of[:, :0] if self.plan.forms[s] == K else of for of, s in zip(q, sources, strict=True)]
        alone = replace(step, full=False)  # of sums over pairs of positions an image has those of p = p'
        own += of_image(alone, q, states, self._before[k], self._graphs[k], slice(None))
        if step.op.name == "sum" and step.op.means:
            means = [self._means[s] if has else None for s, has in zip(sources, step.op.means, strict=True)]
            none = np.zeros_like(next(m for m in means if m is not None))
            own += [none if m is None else m for m in means]
        if step.op.name == "store":
            return
        if self._has_means:
            self._means[k] = mean_behind(step, q, [self._means.get(s) for s in sources], own)
        self._put(k, own, variance(step, own) if self.plan.forms[k] == V else np.zeros((self.n, 0)))

    def _put(self, k: int, own: Planes, q: Array) -> None:
        barred = self.hidden[k]
        self.planes[k] = own
        self.q[k] = q if barred is None or q.shape[1] == 0 else np.where(barred, 0, q)

    # ---------------------------------------------------------------- what pairs read

    def table(self, number: int, dtype: np.dtype[Any]) -> Table:
        """The row table of a segment, by the number of its stage."""
        found = self._tables.get((number, dtype))
        if found is None:
            found = self._tables[number, dtype] = self._made(number, dtype)
        return found

    def _made(self, number: int, dtype: np.dtype[Any]) -> Table:
        stage = self.plan.stages[number]
        assert isinstance(stage, Segment)
        if self._whole is not None:
            whole, first = self._whole
            return replace(whole.table(number, dtype), first=first * stage.size if stage.full else first)
        assert stage.lowered is not None
        layout, size = layout_of(stage.lowered.program), stage.size
        rows = self.n * size
        table = np.zeros((layout.n_rows, rows + _PADDED), dtype)  # loops read up to whole vectors
        for places, recipe in zip(layout.places, stage.rows, strict=True):
            for name, row in self._recipe(recipe, size).items():
                exact = row if stage.full else row.T
                table[places[name], :rows] = exact.reshape(-1)
                low = places.get(f"{name}_low")
                if name in ("share", "bias") and low is not None:  # what a number has lost, for differences
                    table[low, :rows] = exact.reshape(-1) - table[places[name], :rows].astype(exact.dtype)
        return Table(table, self.n)

    def _recipe(self, recipe: tuple[Any, ...], size: int) -> dict[str, Array]:
        """Rows of an op by name, (n, P)."""
        kind, k = recipe[:2]
        if kind == "store":
            return {"std": np.sqrt(self.q[self.plan.cells[k].step])}
        if kind == "seen":
            barred = self.hidden[self.plan.cells[k].step]
            return {"gain": np.ones((self.n, size)) if barred is None else (~barred).astype(np.float64)}
        step, own = self.plan.steps[k], self.planes[k]
        if kind == "step":
            found = {"gain": own[1]} if step.op.name == "norm" else image_rows(step, own)
            return {name: row for name, row in found.items() if step.op.name != "dense" or not name.endswith("_low")}
        if kind == "nothing":
            return {"std": np.zeros((self.n, size))}
        share = step.numbers[2] / step.taps.shape[1]
        return {"std": np.sqrt(share * self.q[self.plan.sources[k][0]])}

    def hidden_lines(self, number: int, own: bool) -> Flags | None:
        """Positions that are masked in all results of a segment, (1, n P), or (n, P) of images with themselves."""
        stage = self.plan.stages[number]
        assert isinstance(stage, Segment)
        masks = [self.hidden[self.plan.cells[k].step] for k in stage.stores]
        known = [m for m in masks if m is not None]
        if not stage.full or not known or len(known) < len(masks):
            return None
        found = np.ascontiguousarray(np.logical_and.reduce(known))
        return found if own else found.reshape(1, -1)

    def window(self, k: int, own: bool) -> WindowSide:
        """What a step's window reads of this side, pairs of images or images with themselves (``own``)."""
        found = self._windows.get((k, own))
        if found is None:
            found = self._windows[k, own] = self._window(k, own)
        return found

    def _window(self, k: int, own: bool) -> WindowSide:
        step, full, source = self.plan.steps[k], self.plan.cells[k].full, self.plan.sources[k][0]
        before_size, size = self.plan.cells[source].size, self.plan.cells[k].size
        if self._whole is not None and not own:
            whole, first = self._whole
            found = whole.window(k, False)
            if not full:
                some = slice(first, first + self.n)
                return WindowSide(found.index, found.std[:, :, some], found.inverse[:, :, some])
            read, made = (slice(first * n, (first + self.n) * n) for n in (before_size, size))
            index = found.index[:, made] - np.int32(first * before_size)
            return WindowSide(np.maximum(index, -1), found.std[:, :, read], found.inverse[:, :, made])
        taps = np.ascontiguousarray(step.taps.T, np.int32)
        if full:
            index = np.broadcast_to(taps[:, None], (len(taps), self.n, taps.shape[1]))
            before, behind = self.hidden[source], self.hidden[k]
            if before is not None:
                index = np.where(before[:, taps].swapaxes(0, 1), -1, index)
            if behind is not None:
                index = np.where(behind, -1, index)
            if not own:  # lines of all images are numbered through
                index = np.where(index < 0, -1, index + before_size * np.arange(self.n)[:, None])
        else:
            index = taps if not own else np.where(taps < 0, -1, taps * self.n)[:, :, None] + _images(taps, self.n)
        of, total = self._deviations(k)
        shape = (self.n, 1, -1) if own else (1, 1, -1)
        if not full:
            of, total = of.T, total.T
            shape = (-1, 1, 1) if own else (len(of), 1, self.n)
        return WindowSide(
            np.ascontiguousarray(index.reshape(len(taps), -1), np.int32),
            np.ascontiguousarray(of).reshape(shape),
            np.ascontiguousarray(total).reshape((len(total), *shape[1:]) if not full and not own else shape),
        )

    def _deviations(self, k: int) -> tuple[Array, Array]:
        """Of a tap of a window by what it reads, and 1 / that of their sum; 0 where it has none. (n, P) each."""
        step, q = self.plan.steps[k], self.q[self.plan.sources[k][0]]
        total = self.q[k]
        with np.errstate(divide="ignore"):
            inverse = np.where(total == 0, 0, 1 / np.sqrt(total))
        return np.sqrt(step.numbers[0] / step.taps.shape[1] * q), inverse

    def mixer(self, k: int, dtype: np.dtype[Any]) -> Mixer:
        """Matrices of a step that combines positions, and what joins their sums."""
        found = self._mixers.get((k, dtype))
        if found is None:
            if self._whole is not None:
                whole, first = self._whole
                found = whole.mixer(k, dtype).some(slice(first, first + self.n))
            else:
                found = self._mixer(k, dtype)
            self._mixers[k, dtype] = found
        return found

    def _mixer(self, k: int, dtype: np.dtype[Any]) -> Mixer:
        plan, step, own = self.plan, self.plan.steps[k], self.planes[k]
        source = plan.sources[k][0]
        before = plan.cells[source]
        count = len(plan.sources[k])
        if step.op.name == "pool":
            A = _window_matrix(step, before.size)
            scale = step.scale[None]
            masked = own[count + (0 if plan.forms[k] == K else 3) :]
            if masked:
                scale = scale * masked[0]
            theta, A = scale[:, :, None] * A, np.broadcast_to(A, (1, *A.shape))
            sums = own[count : count + 3]
        else:
            A = theta = own[count]
            sums = own[count + 1 :]
        barred = self.hidden[source]
        if barred is not None:
            A, theta = (np.where(barred[:, None, :], 0, of) for of in (A, theta))
        shown = self.hidden[k]
        if shown is not None:
            A, theta = (np.where(shown[:, :, None], 0, of) for of in (A, theta))

        def sides(of: Array) -> Matrices:
            left = np.ascontiguousarray(np.broadcast_to(of, (self.n, *of.shape[1:])), dtype)
            if not plan.cells[k].full:
                return Matrices(left, left)
            right = np.zeros((self.n, of.shape[2], -(-of.shape[1] // _PADDED) * _PADDED), dtype)
            right[:, :, : of.shape[1]] = left.swapaxes(1, 2)
            return Matrices(left, right)

        if plan.forms[k] == K:
            return Mixer(sides(theta), None)
        _, M, t = sums
        grown = np.where(t > 0, np.abs(M) / np.where(t > 0, t, 1) ** 2, 0).max(axis=1, initial=0)
        deviations = A * np.sqrt(self.q[source])[:, None, :]
        if dtype == np.float32:  # combinations of variance 1
            empty = t == 0 if shown is None else (t == 0) | shown
            inverse = np.where(empty, 0, 1 / np.where(empty, 1, t))
            return Mixer(sides(theta), sides(inverse[:, :, None] * deviations), grown=grown)
        rows, factor = combine(*sums)
        if shown is not None:
            rows[3] = np.where(shown, 0, rows[3])
        return Mixer(sides(theta), sides(factor[:, :, None] * deviations), rows, grown)

    def wide(self, number: int, full: bool, own: bool, dtype: np.dtype[Any]) -> Array:
        """The pixels of an input as batches of rows, a row for each position."""
        x = self.x[number].astype(dtype, order="C")
        if full:
            return x if own else x.reshape(1, -1, x.shape[-1])
        return np.ascontiguousarray(x.transpose(1, 0, 2))


@dataclass
class Matrices:
    """Of each image: (n, P out, P in) of the first side, of the second transposed and padded, or as of the first."""

    left: Array
    right: Array

    def some(self, at: slice) -> Matrices:
        """Those of some images."""
        return Matrices(self.left[at], self.right[at])


@dataclass
class Mixer:
    """Matrices for covariances, and for what joint defects are made of.

    In float64 these are sums of ``s s' (1 - rho)``, with ``rows`` that join them; in float32 correlations.
    """

    plain: Matrices
    folded: Matrices | None
    rows: list[Array] = field(default_factory=list)
    grown: Array | None = None  # (n,): sums of positions over what is left of them, as rounding errors grow

    def some(self, at: slice) -> Mixer:
        """Those of some images."""
        folded = None if self.folded is None else self.folded.some(at)
        grown = None if self.grown is None else self.grown[at]
        return Mixer(self.plain.some(at), folded, [row[at] for row in self.rows], grown)


def _images(taps: Array, n: int) -> Array:
    """The number of an image, to be added to what it reads; 0 where that is nothing."""
    return np.where(taps[:, :, None] < 0, 0, np.arange(n))


def _window_matrix(step: Step, size: int) -> Array:
    """(positions out, positions in): which positions a window adds up."""
    found = np.zeros((len(step.taps), size + 1))
    np.add.at(found, (np.arange(len(step.taps))[:, None], step.taps), 1.0)
    return found[:, :-1]


def needs_pairs(plan: Plan) -> int:
    """How many stages images with themselves go through before the last step that reads pairs of positions of one."""
    found = 0
    for number, stage in enumerate(plan.stages):
        if isinstance(stage, Single) and (looked_at(plan, stage.step) or _normed(plan, stage.step)):
            found = number
    return found


def looked_at(plan: Plan, k: int) -> bool:
    """Whether a step reads pairs of positions of one image."""
    op: Op = plan.steps[k].op
    return op.name in ("pool", "mix") and (plan.forms[k] == V or isinstance(op.map, Attention))


def _normed(plan: Plan, k: int) -> bool:
    return plan.steps[k].op.name == "norm" and plan.forms[plan.sources[k][0]] == K


def bytes_of_image(plan: Plan) -> int:
    """Of one image's variances and matrices, float64."""
    found = 0
    for k, step in enumerate(plan.steps):
        size = plan.cells[k].size
        inner = 5 * plan.cells[plan.sources[k][0]].size if step.op.name in ("mix", "pool") else 0
        found += size * (8 * (8 + inner) + 4 * step.taps.shape[1])
    return found
