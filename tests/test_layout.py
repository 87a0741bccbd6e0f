"""The geometry of planes against its definition, position by position, and what C++ refuses of it."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from fastntk import stax
from fastntk.engines import select
from fastntk.network.lower import lower
from fastntk.network.program import Value
from fastntk.plan.grids import make_plan
from fastntk.plan.layout import make_layout

MODULE = select.load("cpu")[0]


def conv(*shape, **keywords):
    return stax.Conv(1, shape, **{"padding": "SAME", **keywords})


NETWORKS = {
    "same": ((4, 3), [conv(3, 3), stax.Relu(), conv(2, 4), stax.Relu(), stax.GlobalAvgPool()]),
    "circular": ((4, 3), [conv(3, 3, padding="CIRCULAR"), stax.Relu(), conv(5, 2, padding="CIRCULAR"), stax.Flatten()]),
    "valid": ((5, 4), [conv(3, 2, padding="VALID"), stax.Relu(), conv(1, 2, dilation=(1, 2)), stax.GlobalSumPool()]),
    "pools": (
        (5, 3),
        [conv(3, 3), stax.Relu(), stax.AvgPool((3, 2), (2, 1), "SAME"), conv(1, 1), stax.Relu(), stax.Flatten()],
    ),
    "strides": ((5, 4), [conv(3, 3, strides=(2, 1)), stax.Relu(), conv(3, 2, strides=(1, 2)), stax.GlobalAvgPool()]),
    "signals": ((11,), [conv(3), stax.Relu(), stax.AvgPool((4,), (3,)), stax.GlobalAvgPool()]),
    "volumes": ((2, 3, 2), [conv(3, 1, 2), stax.Relu(), stax.AvgPool((2, 2, 1)), stax.GlobalAvgPool()]),
}


def plan_of(name):
    spatial, layers = NETWORKS[name]
    value = Value(0, 2, spatial=spatial, batch_axis=0, channel_axis=1 + len(spatial))
    return make_plan(lower(stax.serial(*layers), value).program, (spatial,))


@cache
def read(window, place):
    """What each tap reads at a place: a position, or None."""
    found = []
    for tap in itertools.product(*map(range, window.shape)):
        at = [
            s * p + e * a - low
            for s, p, e, a, low in zip(window.strides, place, window.dilation, tap, window.low, strict=True)
        ]
        if window.circular:
            at = [p % n for p, n in zip(at, window.size_in, strict=True)]
        counts = all(p < n for p, n in zip(place, window.size_out, strict=True))
        inside = all(0 <= p < n for p, n in zip(at, window.size_in, strict=True))
        found.append(tuple(at) if counts and inside else None)
    return found


def wrapped(place, displacement, sizes):
    return tuple((p + d) % n for p, d, n in zip(place, displacement, sizes, strict=True))


def lanes_of(grid, where):
    """(group, slot) of each displacement along the inner axes."""
    return {d: (g, s) for g, group in enumerate(where.groups) for s, d in enumerate(group)}


def lane_of(grid, slot, inner):
    return slot * grid.inner + int(np.ravel_multi_index(inner, grid.sizes[1:])) if inner else slot


@pytest.mark.parametrize("name", NETWORKS)
def test_reads_are_those_of_every_tap(name):
    plan = plan_of(name)
    layout = make_layout(plan, False)
    seen = 0
    for grid, where in zip(plan.grids, layout.grids, strict=True):
        for step, reads in zip(grid.steps, where.reads, strict=True):
            if step.name != "conv":
                assert reads is None
                continue
            for k, shift in enumerate(where.shifts):
                for inner, (group, slot) in lanes_of(grid, where).items():
                    for place in itertools.product(*map(range, grid.sizes)):
                        other = wrapped(place, (shift, *inner), grid.sizes)
                        expected = Counter(
                            a
                            for a, b in zip(read(step.window, place), read(step.window, other), strict=True)
                            if a is not None and b is not None
                        )
                        lane = lane_of(grid, slot, place[1:])
                        found = Counter()
                        for i, out in enumerate(reads.shift_out):
                            for j, across in enumerate(reads.shift_in):
                                weight = reads.mask_out[k, i, place[0]] * reads.mask_in[group, j, lane]
                                if weight:
                                    at = np.unravel_index(lane + across - slot * grid.inner, grid.sizes[1:] or (1,))
                                    found[(place[0] + int(out), *map(int, at))[: len(place)]] += weight
                        assert found == expected, (step.window, shift, inner, place)
                        seen += 1
    assert seen or name == "strides"  # its windows are links


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("own", [False, True])
def test_links_add_every_tap_of_both(name, own):
    plan = plan_of(name)
    layout = make_layout(plan, own)
    for link, added in zip(plan.links, layout.links, strict=True):
        source, target = plan.grids[link.source], plan.grids[link.target]
        given, made = layout.grids[link.source], layout.grids[link.target]
        sizes = target.sizes if len(target.sizes) == len(source.sizes) else (1,) * len(source.sizes)
        expected = Counter()
        for shift, (inner, (group, slot)) in itertools.product(given.shifts, lanes_of(source, given).items()):
            for place in itertools.product(*map(range, source.sizes)):
                other = wrapped(place, (shift, *inner), source.sizes)
                for first, second in itertools.product(itertools.product(*map(range, link.window.size_out)), repeat=2):
                    one, two = read(link.window, first), read(link.window, second)
                    pairs = itertools.product(one, two) if link.pool else zip(one, two, strict=True)
                    times = sum(pair == (place, other) for pair in pairs)
                    behind = tuple((b - a) % n for a, b, n in zip(first, second, sizes, strict=True))
                    known = (behind[1:] if len(target.sizes) == len(source.sizes) else ()) in lanes_of(target, made)
                    if times and behind[0] in made.shifts and known:
                        lane = lane_of(source, slot, place[1:])
                        expected[shift, group, place[0], lane, first, behind] += times
        found = Counter()
        for k, rows in enumerate(added.rows):
            for group, lanes in enumerate(added.lanes):
                for (y, row), (lane, at) in itertools.product(rows.tolist(), lanes.tolist()):
                    shift_to, row_to = divmod(row, target.rows)
                    group_to, at = divmod(at, added.n_rows * target.lanes)
                    slot, x = divmod(at, target.inner)
                    d = made.groups[group_to][slot]
                    first = (row_to, *map(int, np.unravel_index(x, sizes[1:] or (1,))))[: len(sizes)]
                    behind = (made.shifts[shift_to], *(d or (0,) * (len(sizes) - 1)))
                    found[given.shifts[k], group, y, lane, first, behind] += 1
        assert found == expected


def test_lanes_of_the_second_image():
    for name in NETWORKS:
        plan = plan_of(name)
        for grid, where in zip(plan.grids, make_layout(plan, False).grids, strict=True):
            for d, (group, slot) in lanes_of(grid, where).items():
                for inner in itertools.product(*map(range, grid.sizes[1:])):
                    lane = where.lanes_from[group, lane_of(grid, slot, inner)]
                    assert lane == lane_of(grid, 0, wrapped(inner, d, grid.sizes[1:]))


BREAKS = {
    "a displacement": lambda grid, link: (replace(grid, shifts=(99,)), link),
    "lanes": lambda grid, link: (replace(grid, lanes_from=grid.lanes_from + 1000), link),
    "fewer lanes": lambda grid, link: (replace(grid, lanes_from=grid.lanes_from[:, :-1]), link),
    "a read": lambda grid, link: (
        replace(grid, reads=tuple(r and replace(r, shift_in=r.shift_in + 500) for r in grid.reads)),
        link,
    ),
    "a mask": lambda grid, link: (
        replace(grid, reads=tuple(r and replace(r, mask_in=r.mask_in[:, :1]) for r in grid.reads)),
        link,
    ),
    "no reads": lambda grid, link: (replace(grid, reads=(None,) * len(grid.reads)), link),
    "rows": lambda grid, link: (grid, replace(link, rows=tuple(r + 100 for r in link.rows))),
    "places": lambda grid, link: (grid, replace(link, lanes=tuple(r + np.array([0, 10**6]) for r in link.lanes))),
    "a size": lambda grid, link: (grid, replace(link, size=link.size + 16)),
}


@pytest.mark.skipif(MODULE is None, reason="the compiled CPU module is not installed")
@pytest.mark.parametrize("what", [None, *BREAKS])
def test_the_border_refuses_what_leads_out_of_a_plane(what):
    plan = plan_of("pools")
    pairs, own = make_layout(plan, False), make_layout(plan, True)

    def make(layout):
        return MODULE.ImagePlan64(plan, layout, own, [2], 1)

    assert make(pairs).table_size > 0
    if what is not None:
        grid, link = BREAKS[what](pairs.grids[0], pairs.links[0])
        broken = replace(pairs, grids=(grid, *pairs.grids[1:]), links=(link, *pairs.links[1:]))
        with pytest.raises(ValueError, match=r"."):
            make(broken)
