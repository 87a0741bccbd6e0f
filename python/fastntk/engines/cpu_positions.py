"""Pairs of images over all pairs of positions, on the processor: segments in block loops, products by NumPy's BLAS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.progress import Report
from ..network.program import Lowered
from ..plan.extremes import limits, rough_layer
from .engine import Job, Layout, Outputs, Tile, Tiling
from .images import ImageSide, spatial_of
from .masked import Given
from .numpy_images import _by_axis
from .numpy_planes import NumpyPlanes, further, further_alone
from .parts import Part, bytes_of_image, needs_pairs
from .planes import size_text
from .runner import Runner, follow
from .segments import Plan, plan_segments
from .sheets import Sheets

Array = npt.NDArray[Any]

_ENTRIES = 1 << 19  # of a sheet: large enough for products and threads, small enough to stay near the cores
_COLUMNS = 512  # images of one side, where a sheet has one for each column
_LINE = 16  # pairs that take as long as what a call for one line takes beside them
_BYTES_OF_PARTS = 64 << 20  # of variances and matrices kept for a whole call


class CpuPositions(NumpyPlanes):
    """The machine of networks that need pairs of positions otherwise than by windows, or with masks.

    What an image has of its own is NumPy's, and so are pairs whose inputs are not finite or leave the range of float64.
    """

    def __init__(self, engine: Any, lowered: Lowered, layout: Layout, dtype: np.dtype[Any]) -> None:
        super().__init__(engine, lowered, layout, dtype)
        self._engine = engine
        self._entries = _ENTRIES

        self._masked = False
        self._kept = _BYTES_OF_PARTS
        self._spare: list[Array] = []  # memory of tiles before
        self._often_lost = False  # float32 has not digits enough for most pairs

    def _plan_of(self, side: ImageSide) -> Plan:
        given = any(g is not None for g in side.beside.given)
        return plan_segments(self._lowered, spatial_of(self._layout), self._masked, given)

    def _inner(self, plan: Plan) -> np.dtype[Any]:
        """What pairs are computed in; those whose differences float32 loses are done again in float64."""
        few = self._dtype == np.float64 or plan.fine or rough_layer(self._lowered)
        return np.dtype(np.float64 if few else np.float32)

    # ---------------------------------------------------------------- memory

    def begin(self, job: Job) -> Tiling:
        """The budget goes to sheets, two parts' variances and matrices, and what is left to parts that are kept."""
        given = False
        plan = plan_segments(self._lowered, spatial_of(self._layout), True, given)
        pair, image = np.dtype(np.float64).itemsize * plan.entries, bytes_of_image(plan)
        if pair + 2 * image > job.budget:
            raise MemoryError(
                f"[kernel_fn] a pair of images takes {size_text(pair + 2 * image)} beside inputs and outputs (all "
                f"pairs of positions, and {size_text(image)} an image); memory_budget is {size_text(job.budget)}. A "
                "larger budget or smaller images fit"
            )
        side = max(1, math.isqrt((2 if plan.narrow else 1) * self._entries // plan.widest))
        if plan.narrow and max(job.shape[1:]) > _COLUMNS:  # long lines: columns of a sheet are images
            side = max(side, 128)
        while side > 1 and side * side * pair + 2 * side * image > job.budget // 2:
            side //= 2
        most = max(job.shape[1:])
        side = -(-most // -(-most // side))  # tiles of one size
        self._kept = job.budget // 2
        if plan.narrow and max(job.shape[1:]) <= _COLUMNS:
            return Tiling(side * side, 2 * _COLUMNS, square=False, batched=False)
        return Tiling(side * side, 2 * side, square=True, batched=False)

    # ---------------------------------------------------------------- sides

    def _part(self, side: ImageSide, batch: int, rows: slice, plan: Plan) -> tuple[Part, Array]:
        """What belongs to some images, and which of them are NumPy's."""
        every = slice(0, side.n)
        alone = side.n * (bytes_of_image(plan) + (8 * plan.entries if needs_pairs(plan) else 0))
        if rows != every and alone <= self._kept // 2:  # all images at once
            whole, bad = self._part(side, batch, every, plan)
            place = rows.start, rows.stop
            if place not in whole.cuts:
                if (len(whole.cuts) + 1) * (rows.stop - rows.start) * bytes_of_image(plan) > self._kept // 2:
                    whole.cuts.clear()
                whole.cuts[place] = whole.cut(*place)
            return whole.cuts[place], bad[rows]
        key = plan, batch, rows.start, rows.stop
        if key not in side.made:
            if (len(side.made) + 1) * (rows.stop - rows.start) * bytes_of_image(plan) > self._kept:
                side.made.clear()
            side.made[key] = self._fresh(side, batch, rows, plan)
        return side.made[key]  # type: ignore[no-any-return]

    def _fresh(self, side: ImageSide, batch: int, rows: slice, plan: Plan, **asked: Any) -> Any:
        """A part, which of its images are NumPy's, and where it is asked for K(x, x) and its NTK."""
        x = [a.reshape(len(a), -1, a.shape[-1]) for a in side.part(batch, rows)]
        masks, pattern, given = side.beside.of(batch, rows)
        bad = np.zeros(len(x[0]), bool)
        for own in (*x, *(g for g in given if g is not None)):
            bad |= ~np.isfinite(own).all(axis=tuple(range(1, own.ndim)))
        wide = side.beyond(limits(self._lowered, self._dtype))
        if wide is not None:
            bad |= wide[batch, rows]
        while True:
            usable = [np.where(bad[:, None, None], 0, a) for a in x]
            known = [None if g is None else np.where(bad[:, None, None], 0, g) for g in given]
            part = Part(plan, usable, masks, pattern, known, self._inner(plan) == np.float32)
            with np.errstate(all="ignore"):
                found = follow(part, self._engine, plan, np.float64, bool(asked), asked.get("ntk", False))
            lost = np.zeros(part.n, bool)
            for q in part.q:
                lost |= ~np.isfinite(q).all(axis=1)
            if not (lost & ~bad).any():
                break
            bad |= lost
        if asked:
            return part, bad, found
        shown = [*x, *(g for g in given if g is not None)]
        part.keys = [_key(k, shown, masks, pattern) for k in range(part.n)]
        return part, bad

    # ---------------------------------------------------------------- pairs

    def pairs(self, one: ImageSide, two: ImageSide, tile: Tile, place: Tile, outputs: Outputs, report: Report) -> None:
        self._masked = any(m is not None for side in (one, two) for m in side.beside.masks)
        plan = self._plan_of(one)
        lines, cols = slice(tile.i0, tile.i0 + tile.lines), slice(tile.j0, tile.j0 + tile.cols)
        (part1, bad1), (part2, bad2) = (self._part(s, tile.batch0, r, plan) for s, r in ((one, lines), (two, cols)))
        planes = [[None if p is None else p[place.batch0] for p in of] for of in outputs]
        met = np.arange(lines.start, lines.stop)[:, None] == np.arange(cols.start, cols.stop)
        same = (met & (one is two)).reshape(-1)
        mirrored = tile.symmetric and tile.i0 == tile.j0
        given = [None if g is None else _given(g, lines, cols) for g in one.beside.given]
        ntk, equal = any(of[1] is not None for of in planes), _equal(part1, part2, met & (one is two), given)
        square = mirrored and part1.n == part2.n

        def run(dtype: np.dtype[Any]) -> tuple[list[tuple[Array, Array | None]] | None, set[tuple[int, int]]]:
            sheets = Sheets(dtype, part1.n, part2.n, False, self._spare)
            runner = Runner(self._engine, plan, sheets, part1, part2, ntk, equal, same, square, given)
            return runner.run(), runner.lost

        with np.errstate(all="ignore"):
            found, lost = run(np.dtype(np.float64) if self._often_lost else self._inner(plan))
            if found is None:  # so do most pairs of this network
                self._often_lost = True
                found, lost = run(np.dtype(np.float64))
            assert found is not None
            if lost:
                self._in_double(plan, lost, (part1, part2), ntk, equal, same, mirrored, given, found)
            scale = np.multiply.outer(part1.lengths, part2.lengths)
            for of, spatial, own in zip(planes, self._spatial, found, strict=True):
                for plane, values in zip(of, own, strict=True):
                    if plane is not None:
                        self._write(plane, values, scale, spatial, tile, place, mirrored)
        wrong = bad1[:, None] | bad2
        if wrong.any():
            pairs = np.argwhere(wrong) + np.array([lines.start, cols.start])
            self.listed(one, two, tile.batch0, pairs, planes)
            if tile.symmetric:
                self.listed(two, one, tile.batch0, pairs[:, ::-1], planes)
        corner = tile.lines * (tile.lines - 1) // 2 if mirrored else 0
        report(tile.lines * tile.cols - corner)

    def _in_double(
        self, plan: Plan, lost: set[tuple[int, int]], parts: tuple[Part, Part], ntk: bool,
        equal: Sequence[tuple[int, int]], same: Array, mirrored: bool, given: Sequence[Given | None],
        found: list[tuple[Array, Array | None]],
    ) -> None:  # fmt: skip
        """Compute pairs of a tile once more, in float64: of all images that are among them, with one another."""
        n1, n2 = (part.n for part in parts)
        lines = {i for i, _ in lost}
        if len(lines) > 1 and len(lost) + _LINE * len(lines) < len(lines) * len({j for _, j in lost}):
            for line in sorted(lines):  # few of each line's
                some = {pair for pair in lost if pair[0] == line}
                self._in_double(plan, some, parts, ntk, equal, same, mirrored, given, found)
            return
        one, two = (np.unique([pair[side] for pair in lost]) for side in (0, 1))
        place1, place2 = ({int(i): k for k, i in enumerate(of)} for of in (one, two))
        runner = Runner(
            self._engine, plan, Sheets(np.dtype(np.float64), len(one), len(two), False), parts[0].some(one),
            parts[1].some(two), ntk, [(place1[i], place2[j]) for i, j in equal if i in place1 and j in place2],
            same.reshape(n1, n2)[np.ix_(one, two)].reshape(-1), False,
            [None if g is None else _given(g, one, two) for g in given],
        )  # fmt: skip
        at = np.array(sorted(lost))
        own = np.array([place1[i] for i in at[:, 0]]), np.array([place2[j] for j in at[:, 1]])
        better = runner.run()
        assert better is not None
        for (k, theta), (exact, exact_theta) in zip(found, better, strict=True):
            for values, new in ((k, exact), (theta, exact_theta)):
                if values is not None and new is not None:
                    shape = values.shape[1:]
                    values.reshape(n1, n2, *shape)[at[:, 0], at[:, 1]] = new.reshape(len(one), len(two), *shape)[own]

    def _write(
        self, plane: Array, values: Array | None, scale: Array, spatial: tuple[int, ...], tile: Tile, place: Tile,
        mirrored: bool,
    ) -> None:  # fmt: skip
        """Values (pairs, P, P') or (pairs, 1) of a tile, and their mirror image."""
        n1, n2 = scale.shape
        rows, columns = slice(place.i0, place.i0 + n1), slice(place.j0, place.j0 + n2)
        if values is None:
            plane[rows, columns] = 0
            return
        values = values.reshape(n1, n2, *values.shape[1:])
        values = values * scale.reshape(n1, n2, *[1] * (values.ndim - 2))
        if mirrored:
            i, j = np.triu_indices(n1, 1)
            values[j, i] = values[i, j].swapaxes(-1, -2) if spatial else values[i, j]
        plane[rows, columns] = _by_axis(values, spatial)
        if tile.symmetric and (not mirrored or n1 < n2):
            turned = values.transpose(1, 0, 3, 2) if spatial else values.transpose(1, 0, 2)
            plane[columns, rows] = _by_axis(turned, spatial)

    def again(self, one: ImageSide, two: ImageSide, job: Job) -> None:
        if self._dtype == np.float64:  # of float32 they were NumPy's
            further(self._lowered, self._layout, self._dtype, one, two, job)

    # ---------------------------------------------------------------- images with themselves

    def _parts(self, n: int, plan: Plan) -> list[slice]:
        step = max(1, self._entries // plan.widest)
        return [slice(start, min(n, start + step)) for start in range(0, n, step)]

    def diagonal(self, side: ImageSide, outputs: Outputs, budget: int) -> None:
        self._masked = any(m is not None for m in side.beside.masks)
        plan = self._plan_of(side)
        ntk = any(of[1] is not None for of in outputs)
        wide = side.beyond(limits(self._lowered, self._dtype)) if self._dtype == np.float64 else None
        for b in range(side.batch):
            planes = [[None if p is None else p[b] for p in of] for of in outputs]
            for rows in self._parts(side.n, plan):
                part, bad, found = self._fresh(side, b, rows, plan, ntk=ntk)
                with np.errstate(over="ignore", invalid="ignore"):
                    for of, spatial, own in zip(planes, self._spatial, found, strict=True):
                        for plane, values in zip(of, own, strict=True):
                            if plane is None:
                                continue
                            if values is None:
                                plane[rows] = 0
                                continue
                            scale = (part.lengths**2).reshape(-1, *[1] * (values.ndim - 1))
                            plane[rows] = _by_axis(values * scale, spatial)
                if bad.any():
                    self.alone(side, b, rows.start + np.flatnonzero(bad), planes)
            if wide is not None:
                further_alone(self._lowered, self._layout, self._dtype, side, b, wide[b], planes)

    def variances(
        self, side: ImageSide, wanted: Sequence[int], grams: Sequence[Array | None], budget: int
    ) -> dict[int, Array]:
        sizes = [tuple(n for n in own for _ in range(2)) for own in self._spatial]
        found = {k: np.empty((side.batch, side.n, *sizes[k]), self._dtype) for k in wanted}
        left: list[list[Array | None]] = [[None, None] for _ in self._spatial]
        for k, own in found.items():
            gram = grams[k]
            if gram is None:
                left[k][0] = own
            else:
                own[...] = np.moveaxis(gram.diagonal(axis1=1, axis2=2), -1, 1)
        if side.n and any(plane is not None for plane, _ in left):
            self.diagonal(side, left, budget)
        return found


def _key(k: int, x: Sequence[Array], masks: Sequence[Array | None], pattern: Any) -> Any:
    """What two images have in common that are one."""
    graph = None if pattern is None else np.asarray(pattern[k]).tobytes()
    return tuple(a[k].tobytes() for a in x), tuple(None if m is None else m[k].tobytes() for m in masks), graph


def _equal(one: Part, two: Part, met: Array, given: Sequence[Given | None]) -> list[tuple[int, int]]:
    """Pairs whose images are one; of covariances those that are the images' own."""
    found = {(int(i), int(j)) for i, j in np.argwhere(met)}
    places: dict[Any, list[int]] = {}
    for j, key in enumerate(two.keys):
        places.setdefault(key, []).append(j)
    for i, key in enumerate(one.keys):
        alike = (j for j in places.get(key, ()) if all(g is None or (g.nngp[i, j] == g.cov1[i]).all() for g in given))
        found.update((i, j) for j in alike)
    return sorted(found)


def _given(of: Given, lines: Any, cols: Any) -> Given:
    theta = None if of.theta is None else of.theta[lines][:, cols]
    return Given(of.nngp[lines][:, cols], theta, of.cov1[lines], of.cov2[cols])
