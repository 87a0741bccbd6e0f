"""Where the loops over planes read and where they add, for a plan: geometry alone, made once.

A plane holds one number for each position of the first image: ``rows`` of axis 0, and in each ``lanes`` numbers, those
of ``packed`` displacements along the other axes side by side (``csrc/images/program.h``). Windows that keep
displacements become reads at some distances, with a weight for every place; links become lists of what is added where.
C++ is handed both and knows no window.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ..network.window import Window
from .grids import Grid, Link, Need, Plan
from .taps import Sizes, axes_of, reads_of

Ints = npt.NDArray[np.int64]
Groups = tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True, eq=False)
class Reads:
    """What a window reads of a plane, along the inner axes and then along axis 0.

    ``shift_in`` and ``shift_out`` are distances, 0 before all others; ``mask_in`` (groups, distances, lanes) and
    ``mask_out`` (shifts, distances, rows) say how often a place reads at a distance.
    """

    shift_in: Ints
    shift_out: Ints
    mask_in: npt.NDArray[np.float64]
    mask_out: npt.NDArray[np.float64]
    three: bool  # three reads along each, on an axis 0 that does not wrap


@dataclass(frozen=True, eq=False)
class GridLayout:
    """Displacements of a grid as loops take them."""

    shifts: tuple[int, ...]  # along axis 0
    groups: Groups  # along the inner axes, ``packed`` to a group
    lanes_from: npt.NDArray[np.int32]  # (groups, lanes): where each lane of the second image lies
    reads: tuple[Reads | None, ...]  # of each step


@dataclass(frozen=True, eq=False)
class LinkLayout:
    """What a link adds up: (k, 2) numbers, from where and to where."""

    rows: tuple[Ints, ...]  # for each displacement of axis 0: row of the source, row of sums
    lanes: tuple[Ints, ...]  # for each group of the source: lane, place in a plane of the target
    n_rows: int  # rows of sums: shifts times rows of the target
    size: int  # of one plane of the target: groups x shifts x rows x lanes


@dataclass(frozen=True, eq=False)
class Layout:
    """Geometry of all grids and links."""

    grids: tuple[GridLayout, ...]
    links: tuple[LinkLayout, ...]


@lru_cache(maxsize=16)
def make_layout(plan: Plan, own: bool) -> Layout:
    """The geometry of pairs of images, or of images with themselves (``own``), for the variances behind pooling."""
    needs = [grid.self_need if own else grid.need for grid in plan.grids]
    grids = [_grid_layout(grid, need) for grid, need in zip(plan.grids, needs, strict=True)]
    return Layout(tuple(grids), tuple(_link_layout(plan, grids, needs, link) for link in plan.links))


def _grid_layout(grid: Grid, need: Need) -> GridLayout:
    asked = all(need)
    inner = list(itertools.product(*need[1:])) if asked else []
    groups = tuple(tuple(inner[k : k + grid.packed]) for k in range(0, len(inner), grid.packed))
    shifts = tuple(need[0]) if asked else ()
    made: dict[Window, Reads] = {}
    reads: list[Reads | None] = []
    for step in grid.steps:
        if step.name == "conv" and step.window is not None:
            if step.window not in made:
                made[step.window] = _reads(grid, step.window, shifts, groups)
            reads.append(made[step.window])
        else:
            reads.append(None)
    return GridLayout(shifts, groups, _lanes_from(grid, groups), tuple(reads))


def _displaced(sizes: Sizes, displacements: Sequence[Sequence[int]]) -> Ints:
    """Positions, numbered through, that each position meets at each displacement: (displacements, positions)."""
    found = np.zeros((len(displacements), 1), np.int64)
    for axis, n in enumerate(sizes):
        steps = np.array([d[axis] for d in displacements], np.int64).reshape(-1, 1)
        along = (np.arange(n) + steps) % n
        found = (found[:, :, None] * n + along[:, None, :]).reshape(len(found), found.shape[1] * n)
    return found


def _lanes_from(grid: Grid, groups: Groups) -> npt.NDArray[np.int32]:
    found = np.tile(np.arange(grid.lanes, dtype=np.int32), (len(groups), 1))
    for at, group in enumerate(groups):
        # places that no displacement fills repeat the first one
        slots = [*group, *(group[:1] * (grid.packed - len(group)))]
        found[at, : grid.packed * grid.inner] = _displaced(grid.sizes[1:], slots).reshape(-1)
    return found


# ---------------------------------------------------------------- windows that keep displacements


def _reads(grid: Grid, window: Window, shifts: Sequence[int], groups: Groups) -> Reads:
    sizes = axes_of(grid.sizes, window)
    axes = len(sizes)
    zeros = (0,) * (axes - 1)  # one position has any number of axes
    inner = [d if len(d) == axes - 1 else zeros for group in groups for d in group]
    shift_out, mask_out = _reads_along(window, sizes, range(1), [(d,) for d in shifts])
    shift_in, mask = _reads_along(window, sizes, range(1, axes), inner)
    mask_in = np.zeros((len(groups), len(shift_in), grid.lanes))
    for k, values in enumerate(mask):
        group, slot = divmod(k, grid.packed)
        mask_in[group, :, slot * grid.inner : (slot + 1) * grid.inner] = values
    three = (
        not window.circular and window.shape[0] == 3 and math.prod(window.shape[1:]) == 3
        and len(shift_in) == len(shift_out) == 3 and shift_in[0] == shift_out[0] == 0
        and bool((np.abs(shift_out) < 4).all())
    )  # fmt: skip
    return Reads(shift_in, shift_out, mask_in, mask_out, three)


def _reads_along(
    window: Window, sizes: Sizes, axes: range, displacements: Sequence[Sequence[int]]
) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Distances of reads along some axes, and how often each position reads at one, (displacements, distances, n).

    A tap counts where both positions, and both that they read, exist.
    """
    sizes = tuple(sizes[axis] for axis in axes)
    n = math.prod(sizes)
    one = reads_of(window, sizes, sizes, axes)
    two = one[_displaced(sizes, displacements)]
    both = (one < n) & (two < n)
    distance = one - np.arange(n)[:, None]
    met = np.unique(distance[both.any(axis=0)])
    order = np.argsort(met != 0, kind="stable")
    mask = np.zeros((len(displacements), len(met), n))
    if len(met):
        place = np.argsort(order)[np.minimum(np.searchsorted(met, distance), len(met) - 1)]
        for tap in range(one.shape[1]):
            mask[:, place[:, tap], np.arange(n)] += both[:, :, tap]
    return met[order], mask


# ---------------------------------------------------------------- links


@dataclass(frozen=True, eq=False)
class _Added:
    """Of a link along one axis: displacement and position of the source, and of the target."""

    d: Ints
    y: Ints
    D: Ints
    Y: Ints

    def known(self, source: Sequence[int], target: Sequence[int]) -> _Added:
        """What leads from displacements of the source to those of the target, which become their places in both."""
        places = []
        for of, known in ((self.d, source), (self.D, target)):
            table = np.full(max([*known, int(of.max(initial=0))]) + 1, -1)
            table[list(known)] = np.arange(len(known))
            places.append(table[of])
        kept = (places[0] >= 0) & (places[1] >= 0)
        return _Added(places[0][kept], self.y[kept], places[1][kept], self.Y[kept])


def _added(link: Link, axis: int, n_source: int, n_target: int) -> _Added:
    """In the order of both outputs, then of both taps: one tap of both where it is not a pool.

    On a circle in the order of positions: pools that read the same add it in one order, and are equal to the bit.
    """
    reads = link.window.positions(axis)
    one, two = reads[:, None, :], reads[None, :, :]
    if link.pool:
        one, two = one[..., None], two[..., None, :]
    at = np.nonzero((one >= 0) & (two >= 0))
    Y, Z, a, b = at if link.pool else (*at, at[2])
    y, z = reads[Y, a], reads[Z, b]
    if link.pool and link.window.circular:
        order = np.argsort(y, kind="stable")
        y, z, Y, Z = y[order], z[order], Y[order], Z[order]
    return _Added((z - y) % n_source, y, (Z - Y) % n_target, Y)


def _link_layout(plan: Plan, grids: Sequence[GridLayout], needs: Sequence[Need], link: Link) -> LinkLayout:
    source, target = plan.grids[link.source], plan.grids[link.target]
    given, made = grids[link.source], grids[link.target]
    n_rows = len(made.shifts) * target.rows
    size = len(made.groups) * n_rows * target.lanes
    sizes, sizes_out = axes_of(source.sizes, link.window), axes_of(target.sizes, link.window)
    if not given.shifts or not made.shifts:
        nothing = np.zeros((0, 2), np.int64)
        return LinkLayout((nothing,) * len(given.shifts), (nothing,) * len(given.groups), n_rows, size)
    # one position has any number of axes
    before, behind = ((*need, *((0,),) * (len(sizes) - len(need))) for need in (needs[link.source], needs[link.target]))
    along = [
        _added(link, k, sizes[k], sizes_out[k]).known(before[k], behind[k]) for k in range(len(sizes))
    ]  # fmt: skip
    rows = _parted(along[0].d, along[0].y, along[0].D * target.rows + along[0].Y, len(given.shifts))
    zero = np.zeros(1, np.int64)
    of, x, to, X = zero, zero, zero, zero  # displacements and positions of both sides, numbered through
    for k in range(1, len(sizes)):
        own = along[k]
        of = (of[:, None] * len(before[k]) + own.d).reshape(-1)
        x = (x[:, None] * sizes[k] + own.y).reshape(-1)
        to = (to[:, None] * len(behind[k]) + own.D).reshape(-1)
        X = (X[:, None] * sizes_out[k] + own.Y).reshape(-1)
    order = np.argsort(of * source.inner + x, kind="stable")
    group, slot = np.divmod(of[order], source.packed)
    place = (to // target.packed) * (n_rows * target.lanes) + to % target.packed * target.inner + X
    lanes = _parted(group, slot * source.inner + x[order], place[order], len(given.groups))
    return LinkLayout(rows, lanes, n_rows, size)


def _parted(part: Ints, source: Ints, target: Ints, count: int) -> tuple[Ints, ...]:
    """(k, 2) numbers of each part, in their order."""
    order = np.argsort(part, kind="stable")
    pairs = np.stack([source[order], target[order]], axis=1)
    return tuple(np.split(pairs, np.searchsorted(part[order], np.arange(1, count))))
