"""The machine of planes in NumPy: sides, chunks of pairs, and what float64 does not hold on the way."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.progress import Report
from ..network.program import Lowered, leaves
from ..plan.extremes import Flags, beyond
from .engine import Cost, Job, Layout, Outputs, Tile, Tiling
from .images import ImageSide, spatial_of
from .masked import Given
from .numpy_images import CHUNK, Side, _alone, _by_axis, _column, _pairs, bytes_of_pair, plan_of
from .numpy_rows import Real
from .numpy_steps import Step

Array = npt.NDArray[Any]


@dataclass
class _Alone:
    """What a pair needs of each image, for each step; K(x, x) of the outputs; what images were divided by."""

    side: Side
    covs: list[Array]
    lengths: Array


class NumpyPlanes:
    """The machine of planes in NumPy: NNGP and NTK of a program whose inputs have spatial axes.

    Parameters
    ----------
    engine : Engine
        Not asked for anything.
    lowered : Lowered
    layout : Layout
    dtype : dtype
        Of results; inside all is float64.
    real : type, optional
        Of variances and NTKs: one that reaches further where float64 does not hold them.

    Notes
    -----
    NaN and infinity in an image stay in its own rows and columns. A pair's numbers depend on its two images alone.

    References
    ----------
    Novak et al. (2019), arXiv:1810.05148; Arora et al. (2019), arXiv:1904.11955, section 4.
    """

    cost = Cost(0)

    def __init__(
        self, engine: Any, lowered: Lowered, layout: Layout, dtype: np.dtype[Any], real: Real = np.float64
    ) -> None:
        self._lowered, self._layout, self._dtype, self._real = lowered, layout, dtype, real
        self._spatial = [value.spatial for value in leaves(lowered.outputs)]

    @cached_property
    def _steps(self) -> list[Step]:
        return plan_of(self._lowered, self._spatial)

    @cached_property
    def _chunk(self) -> int:
        """Pairs at a time."""
        positions = [math.prod(own) for own in spatial_of(self._layout)]
        channels = [depth for _, depth in self._layout.inputs]
        return max(1, 8 * CHUNK // bytes_of_pair(self._steps, self._lowered, positions, channels))

    def writes(self, plane: Array) -> bool:
        return True

    def empty(self, shape: tuple[int, ...], like: Array) -> Array:
        return np.empty(shape, self._dtype)

    def begin(self, job: Job) -> Tiling:
        return Tiling(sys.maxsize, sys.maxsize, batched=False)

    def finish(self) -> None:
        pass

    def _alone(self, side: ImageSide, batch: int) -> _Alone:
        """What belongs to the images of a batch, kept until those of another are asked for."""
        if batch not in side.made:
            side.made.clear()
            side.made[batch] = self._of(side, batch, slice(None))
        found: _Alone = side.made[batch]
        return found

    def _of(self, side: ImageSide, batch: int, at: Any) -> _Alone:
        arrays = zip(side.part(batch, at), spatial_of(self._layout), strict=True)
        shaped = [x.reshape(len(x), *own, x.shape[-1]) for x, own in arrays]
        masks, pattern, given = side.beside.of(batch, at)
        with np.errstate(all="ignore"):  # NaN and infinity in the inputs, confined to their pairs
            found = _alone(self._steps, shaped, self._spatial, self._chunk, self._real, masks, pattern, given)
        return _Alone(*found)

    def pairs(self, one: ImageSide, two: ImageSide, tile: Tile, place: Tile, outputs: Outputs, report: Report) -> None:
        own1, own2 = (self._alone(side, tile.batch0) for side in (one, two))
        i, j = np.indices((tile.lines, tile.cols)).reshape(2, -1)
        if tile.symmetric:
            upper = tile.i0 + i <= tile.j0 + j
            i, j = i[upper], j[upper]
        planes = [[None if p is None else p[place.batch0] for p in of] for of in outputs]
        at = place.i0 + i, place.j0 + j
        i, j = tile.i0 + i, tile.j0 + j
        same = (i == j) & (one is two)
        self._put((own1, i), (own2, j), same, planes, at, tile.symmetric, report, one.beside.given)

    def _put(
        self, one: tuple[_Alone, Array], two: tuple[_Alone, Array], same: Flags, outputs: Outputs,
        at: tuple[Array, ...], mirrored: bool = False, report: Report = lambda done: None,
        given: Sequence[Given | None] = (),
    ) -> None:  # fmt: skip
        """Compute pairs, some at a time, and write them to their places; ``same``: an image with itself."""
        for start in range(0, len(at[0]), self._chunk):
            part = slice(start, start + self._chunk)
            (of1, i), (of2, j), here = (one[0], one[1][part]), (two[0], two[1][part]), tuple(a[part] for a in at)
            with np.errstate(all="ignore"):
                found = _pairs(self._steps, of1.side, i, of2.side, j, same[part], given)
                for planes, spatial, k in zip(outputs, self._spatial, found, strict=True):
                    k *= _column(of1.lengths[i] * of2.lengths[j], k[0])
                    for plane, values in zip(planes, k, strict=True):
                        if plane is None:
                            continue
                        plane[here] = _by_axis(values, spatial)
                        if mirrored:  # the mirror image of a pair swaps positions too
                            upper = here[0] != here[1]
                            values = (values.swapaxes(1, 2) if spatial else values)[upper]
                            plane[here[1][upper], here[0][upper]] = _by_axis(values, spatial)
            report(len(i))

    def listed(self, one: ImageSide, two: ImageSide, batch: int, pairs: Array, outputs: Outputs) -> None:
        """Compute pairs (i, j) of a batch, (m, 2), and write them to [i, j] of the outputs (n1, n2, ...)."""
        sides = []
        for side, numbers in ((one, pairs[:, 0]), (two, pairs[:, 1])):
            own, at = np.unique(numbers, return_inverse=True)
            sides.append((self._of(side, batch, own), at))
        same = (pairs[:, 0] == pairs[:, 1]) & (one is two)
        self._put(sides[0], sides[1], same, outputs, (pairs[:, 0], pairs[:, 1]))

    def again(self, one: ImageSide, two: ImageSide, job: Job) -> None:
        further(self._lowered, self._layout, self._dtype, one, two, job)

    def diagonal(self, side: ImageSide, outputs: Outputs, budget: int) -> None:
        wide = beyond(self._lowered, self._dtype, [side])
        for b in range(side.batch):
            planes = [[None if p is None else p[b] for p in of] for of in outputs]
            everything = np.arange(side.n)
            for start in range(0, side.n, self._chunk):
                some = everything[start : start + self._chunk]
                self.alone(side, b, some, planes)
            if wide is not None:
                further_alone(self._lowered, self._layout, self._dtype, side, b, wide[0][b], planes)

    def alone(self, side: ImageSide, batch: int, numbers: Array, outputs: Outputs) -> None:
        """Some images of a batch with themselves, into planes (n, ...)."""
        own, at = self._of(side, batch, numbers), np.arange(len(numbers))
        self._put((own, at), (own, at), np.ones(len(at), np.bool_), outputs, (numbers,))

    def covariances(self, side: ImageSide, batch: int, numbers: Array) -> list[Array]:
        """K(x, x) of the outputs, of some images of a batch."""
        return self._of(side, batch, numbers).covs

    def variances(
        self, side: ImageSide, wanted: Sequence[int], grams: Sequence[Array | None], budget: int
    ) -> dict[int, Array]:
        with np.errstate(over="ignore"):
            found = [[cov.astype(self._dtype) for cov in self._alone(side, b).covs] for b in range(side.batch)]
        variances = {k: np.stack([covs[k] for covs in found]) for k in wanted}
        wide = None if self._dtype.itemsize < 8 else beyond(self._lowered, self._dtype, [side])
        if wide is not None:
            further_variances(self._lowered, self._layout, self._dtype, side, wide[0], variances)
        return variances


# ---------------------------------------------------------------- what float64 does not hold on the way


def _longer(lowered: Lowered, layout: Layout, dtype: np.dtype[Any]) -> NumpyPlanes:
    return NumpyPlanes(None, lowered, layout, dtype, np.longdouble)


def further(lowered: Lowered, layout: Layout, dtype: np.dtype[Any], one: ImageSide, two: ImageSide, job: Job) -> None:
    """The pairs of ``job.wide`` in the type that reaches further; what is near is right in this engine."""
    for b, (wide1, wide2) in enumerate(zip(*job.wide, strict=True) if job.wide is not None else ()):
        pairs = np.argwhere(wide1[:, None] | wide2)
        if len(pairs):
            planes = [[None if p is None else p[b] for p in of] for of in job.outputs]
            _longer(lowered, layout, dtype).listed(one, two, b, pairs, planes)


def further_alone(
    lowered: Lowered, layout: Layout, dtype: np.dtype[Any], side: ImageSide, batch: int, wide: Flags, outputs: Outputs
) -> None:
    """Some images of a batch with themselves, into planes (n, ...)."""
    if wide.any():
        _longer(lowered, layout, dtype).alone(side, batch, np.flatnonzero(wide), outputs)


def further_variances(
    lowered: Lowered, layout: Layout, dtype: np.dtype[Any], side: ImageSide, wide: Flags, variances: dict[int, Array]
) -> None:
    """Variances (batch, n, ...) of some images."""
    machine = _longer(lowered, layout, dtype)
    for b, numbers in enumerate(map(np.flatnonzero, wide)):
        if len(numbers):
            covs = machine.covariances(side, b, numbers)
            with np.errstate(over="ignore"):
                for k, own in variances.items():
                    own[b, numbers] = covs[k]
