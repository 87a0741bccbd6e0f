"""What windows read of images that lie side by side in memory, rows and columns of zeros between them.

With as many zeros behind each axis as a window reaches beyond it, a tap of all positions of all images is one stretch
of memory, some numbers further on. Windows that wrap around are taken in pieces.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..network.window import Positions, Window

Place = tuple[Any, ...]  # an index of an array (..., *positions)
Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Stage:
    """Some axes of a window that keeps displacements."""

    shifts: tuple[int, ...]  # for each tap, how much further on it reads
    pieces: tuple[tuple[tuple[Place, Place], ...], ...]  # of a window that wraps: where positions lie, what they read
    center: int  # the tap at distance 0; where there is none, any
    beyond: tuple[Place, ...]  # where sums are no position's

    @property
    def taps(self) -> int:
        return len(self.shifts)

    @property
    def arrays(self) -> int:
        """Numbers of one position that pairs read: coordinates of all taps but one, and a factor."""
        return self.taps if self.taps > 1 else 0


def padding_of(windows: Sequence[Window], rank: int) -> Sizes:
    """Zeros behind each axis of a grid that its windows need."""
    reach = [[0] * rank]
    for w in windows:
        own = (max(low, (k - 1) * e - low) for k, e, low in zip(w.shape, w.dilation, w.low, strict=True))
        reach.append([0 if w.circular else r for r in own] + [0] * (rank - len(w.shape)))
    return tuple(max(axis) for axis in zip(*reach, strict=True))


def beyond(extent: Sequence[int], padded: Sizes) -> tuple[Place, ...]:
    """What of a padded grid lies beyond some extent; axes that the extent lacks have one position."""
    rank = len(padded)
    return tuple(
        (..., slice(extent[k] if k < len(extent) else 1, None), *(slice(None),) * (rank - k - 1))
        for k in range(rank)
        if (extent[k] if k < len(extent) else 1) < padded[k]
    )


def center_of(window: Window, axes: Sequence[int]) -> int:
    """The tap at distance 0 among those along some axes, in row-major order; where there is none, any."""
    found = 0
    for axis in axes:
        low, step, count = window.low[axis], window.dilation[axis], window.shape[axis]
        found = found * count + min(low // step if low % step == 0 else 0, count - 1)
    return found


def _wrapped(window: Window, axis: int, tap: int) -> list[tuple[slice, slice]]:
    n = window.size_in[axis]
    shift = (window.dilation[axis] * tap - window.low[axis]) % n
    whole = [(slice(0, n - shift), slice(shift, n)), (slice(n - shift, n), slice(0, shift))]
    return whole if shift else whole[:1]


@lru_cache(maxsize=256)
def stage_of(window: Window, axes: tuple[int, ...], padded: Sizes) -> Stage:
    """The axes ``axes`` of a window on a grid that takes so much memory along each of its own."""
    shifts, pieces = [], []
    for tap in itertools.product(*(range(window.shape[axis]) for axis in axes)):
        steps = (window.dilation[axis] * a - window.low[axis] for axis, a in zip(axes, tap, strict=True))
        shifts.append(sum(step * math.prod(padded[axis + 1 :]) for axis, step in zip(axes, steps, strict=True)))
        places = []
        along = (_wrapped(window, axis, a) for axis, a in zip(axes, tap, strict=True)) if window.circular else [[]]
        for own in itertools.product(*along):
            to, read = ([slice(None)] * len(padded) for _ in range(2))
            for axis, (place, other) in zip(axes, own, strict=True):
                to[axis], read[axis] = place, other
            places.append(((..., *to), (..., *read)))
        pieces.append(tuple(places))
    extent = tuple(window.size_out[k] if k in axes else n for k, n in enumerate(padded))
    return Stage(
        tuple(shifts), tuple(pieces) if window.circular else (), center_of(window, axes), beyond(extent, padded)
    )


@lru_cache(maxsize=256)
def stages_of(window: Window, padded: Sizes) -> tuple[Stage, Stage]:
    """Both stages of a window that keeps displacements: along the inner axes, along axis 0."""
    return stage_of(window, tuple(range(1, len(window.shape))), padded), stage_of(window, (0,), padded)


def axes_of(sizes: Sizes, window: Window) -> Sizes:
    """A grid's axes as a window counts them: one position has any number."""
    return sizes if math.prod(sizes) > 1 else (1,) * len(window.shape)


@lru_cache(maxsize=256)
def reads_of(window: Window, source: Sizes, target: Sizes, axes: range | None = None) -> Positions:
    """What each position of a grid reads of another one, (positions, taps), both numbered through.

    Outside it is the number of the source's positions: one behind the last. ``axes``: those of the window alone.
    """
    found = np.zeros((1, 1), np.int64)
    for axis, n, m in zip(range(len(source)) if axes is None else axes, source, target, strict=True):
        here = np.full((m, window.shape[axis]), -1)
        here[: window.size_out[axis]] = window.positions(axis)
        one, two = found[:, None, :, None], here[None, :, None, :]
        found = np.where((one < 0) | (two < 0), -1, one * n + two).reshape(len(found) * m, -1)
    return np.where(found < 0, math.prod(source), found)
