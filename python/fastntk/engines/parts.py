"""What belongs to some images of one side, for plans of segments: variances of all positions, and tables of them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
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
from .segments import K, Plan, Segment, V
from .sheets import combine

Array = npt.NDArray[Any]


@dataclass
class Table:
    """A row table as engines take it."""

    table: Array


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
        self.x = [a if known else a / self.lengths[:, None, None] for a in x]
        self.hidden, self._before = _masked(plan.steps, masks)
        self._graphs = [_graphs(step.op, pattern, self.n) for step in plan.steps]
        self.planes: list[Planes] = [[] for _ in plan.steps]
        self.q: list[Array] = [np.zeros((self.n, 0))] * len(plan.steps)
        self._means: dict[int, Array] = {}
        self._has_means = any(step.op.means for step in plan.steps)
        self._tables: dict[tuple[int, Any], Table] = {}
        self._mixers: dict[tuple[int, Any], Mixer] = {}
        self.keys: list[Any] = []  # equal where images are one
        self.units: dict[Any, Any] = {}  # of inputs, as engines take them

    def some(self, at: Positions) -> Part:
        """Some of the images."""
        found = copy(self)
        found.n = len(at)
        found.lengths, found.x = self.lengths[at], [a[at] for a in self.x]
        found.given = [None if g is None else g[at] for g in self.given]
        found.hidden = [None if h is None else h[at] for h in self.hidden]
        found.planes = [[plane[at] for plane in own] for own in self.planes]
        found.q = [q[at] for q in self.q]
        found.keys = [self.keys[k] for k in at]
        found._tables, found._mixers, found.units = {}, {}, {}
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
        own += of_image(step, q, states, self._before[k], self._graphs[k], slice(None))
        if step.op.name == "sum" and step.op.means:
            own += [
                self._means[s] if has else np.zeros_like(self.q[s])
                for s, has in zip(sources, step.op.means, strict=True)
            ]
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

    def placed(self, of: Array, cell: int, size: int) -> Array:
        """(n, positions) as (n, slots), 0 where no position is."""
        place = self.plan.cells[cell].place
        if size == len(place) and bool((place[1:] > place[:-1]).all()):
            return of
        found = np.zeros((self.n, size), of.dtype)
        found[:, place] = of
        return found

    def table(self, number: int, dtype: np.dtype[Any]) -> Table:
        """The row table of a segment, by the number of its stage."""
        found = self._tables.get((number, dtype))
        if found is None:
            stage = self.plan.stages[number]
            assert isinstance(stage, Segment)
            found = self._tables[number, dtype] = Table(self._made(stage, dtype))
        return found

    def _made(self, stage: Segment, dtype: np.dtype[Any]) -> Array:
        assert stage.lowered is not None
        layout, size = layout_of(stage.lowered.program), stage.canvas.size
        table = np.zeros((layout.n_rows, self.n * size), dtype)
        for places, recipe in zip(layout.places, stage.rows, strict=True):
            for name, row in self._recipe(recipe, size).items():
                exact = row if stage.full else row.T
                table[places[name]] = exact.reshape(-1)
                low = places.get(f"{name}_low")
                if name in ("share", "bias") and low is not None:  # what a number has lost, for differences
                    table[low] = exact.reshape(-1) - table[places[name]].astype(exact.dtype)
        return table

    def _recipe(self, recipe: tuple[Any, ...], size: int) -> dict[str, Array]:
        """Rows of an op by name, (n, slots)."""
        kind, k = recipe[:2]
        if kind == "store":
            return {"std": np.sqrt(self.placed(self.q[self.plan.cells[k].step], k, size))}
        if kind == "seen":
            barred = self.hidden[self.plan.cells[k].step]
            count = len(self.plan.cells[k].place)
            seen = np.ones((self.n, count)) if barred is None else (~barred).astype(np.float64)
            return {"gain": self.placed(seen, k, size)}
        step = self.plan.steps[k]
        if kind == "step":
            own = [self.placed(of, k, size) for of in self.planes[k]]
            found = {"gain": own[1]} if step.op.name == "norm" else image_rows(step, own)
            return {name: row for name, row in found.items() if step.op.name != "dense" or not name.endswith("_low")}
        if kind == "nothing":
            return {"std": np.zeros((self.n, size))}
        (w2, b2, f, _), source = step.numbers, self.plan.sources[k][0]
        taps, q = step.taps.shape[1], self.q[source]
        if kind == "weighted":
            return {"std": np.sqrt(f / taps * self.placed(q, source, size))}
        parts = [_read(q, tap) for tap in step.taps.T]
        total = w2 / taps * np.sum(parts, axis=0) + b2
        safe = np.where(total == 0, 1, total)
        shares = [np.sqrt(w2 / taps * part / safe) for part in parts]
        if b2 > 0:
            shares.append(np.sqrt(b2 / safe))
        return {f"share{b}": self.placed(share, k, size) for b, share in enumerate(shares)}

    def mixer(self, k: int, dtype: np.dtype[Any]) -> Mixer:
        """Matrices of a step that combines positions, and what joins their sums."""
        found = self._mixers.get((k, dtype))
        if found is None:
            found = self._mixers[k, dtype] = self._mixer(k, dtype)
        return found

    def _mixer(self, k: int, dtype: np.dtype[Any]) -> Mixer:
        plan, step, own = self.plan, self.plan.steps[k], self.planes[k]
        source, cell = plan.sources[k][0], plan.cells[k]
        before = plan.cells[source]
        count = len(plan.sources[k])
        if step.op.name == "pool":
            A = _window_matrix(step, len(before.place))
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

        def wide(of: Array) -> Array:
            found = np.zeros((self.n, cell.canvas.size, before.canvas.size), dtype)
            found[:, cell.place[:, None], before.place] = of
            return found

        size = cell.canvas.size
        if plan.forms[k] == K:
            return Mixer(wide(theta), None, [])
        _, M, t = sums
        grown = np.where(t > 0, np.abs(M) / np.where(t > 0, t, 1) ** 2, 0).max(axis=1, initial=0)
        deviations = A * np.sqrt(self.q[source])[:, None, :]
        if dtype == np.float32:  # combinations of variance 1
            empty = t == 0 if shown is None else (t == 0) | shown
            return Mixer(wide(theta), wide(np.where(empty, 0, 1 / np.where(empty, 1, t))[:, :, None] * deviations),
                         grown=grown)  # fmt: skip
        rows, factor = combine(*sums)
        if shown is not None:
            rows[3] = np.where(shown, 0, rows[3])
        placed = [self.placed(row, k, size) for row in rows]
        return Mixer(wide(theta), wide(factor[:, :, None] * deviations), placed, grown)

    def wide(self, number: int, cell: int, full: bool, own: bool, dtype: np.dtype[Any]) -> Array:
        """The pixels of an input as batches of rows, a row for each slot."""
        x, place = self.x[number], self.plan.cells[cell].place
        size = self.plan.cells[cell].canvas.size
        found = np.zeros((self.n, size, x.shape[-1]), dtype)
        found[:, place] = x
        if full:
            return found if own else found.reshape(1, -1, x.shape[-1])
        return np.ascontiguousarray(found.transpose(1, 0, 2))


@dataclass
class Mixer:
    """Matrices (n, slots out, slots in) for covariances, and for what joint defects are made of.

    In float64 these are sums of ``s s' (1 - rho)``, with ``rows`` that join them; in float32 correlations.
    """

    plain: Array
    folded: Array | None
    rows: list[Array] = field(default_factory=list)
    grown: Array | None = None  # (n,): sums of positions over what is left of them, as rounding errors grow


def _read(q: Array, tap: npt.NDArray[np.int64]) -> Array:
    return np.where(tap >= 0, q[:, tap], 0)


def _window_matrix(step: Step, size: int) -> Array:
    """(positions out, positions in): which positions a window adds up."""
    found = np.zeros((len(step.taps), size + 1))
    np.add.at(found, (np.arange(len(step.taps))[:, None], step.taps), 1.0)
    return found[:, :-1]


def looks_at_pairs(plan: Plan) -> bool:
    """Whether steps read pairs of positions of one image."""
    return any(looked_at(plan, k) or _normed(plan, k) for k in range(len(plan.steps)))


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
        size = plan.cells[k].canvas.size
        found += (
            8 * size * (8 + (3 * plan.cells[plan.sources[k][0]].canvas.size if step.op.name in ("mix", "pool") else 0))
        )
    return found
