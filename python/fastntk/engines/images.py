"""Images of one side of a call, whichever machine of planes takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..plan.extremes import Flags, Limits, outside
from .engine import Known, Layout
from .masked import Beside

Array = npt.NDArray[Any]  # or CuPy's

_CHUNK = 64  # that are looked through at a time


class ImageSide:
    """Images (batch, n, *spatial axes, channels), one array for each input of the program."""

    def __init__(self, given: Sequence[Array | Known], beside: Beside | None = None) -> None:
        self.beside = beside or Beside()
        self.arrays: list[Array] = []
        for x in given:
            if isinstance(x, Known):
                raise NotImplementedError("[kernel_fn] a Kernel beside inputs with spatial axes is not taken")
            self.arrays.append(x)
        self.batch, self.n = self.arrays[0].shape[:2]
        self.on_host = isinstance(self.arrays[0], np.ndarray)
        self._beyond: dict[Limits, Flags] = {}
        self.made: dict[Any, Any] = {}  # what a machine keeps of it during a call

    def part(self, batch: int, at: Any) -> list[Array]:
        """Some images of a batch."""
        return [x[batch][at] for x in self.arrays]

    def within(self, limits: Limits) -> bool:
        if self.on_host and not self.beside.given and self._one_brightness(limits):
            return True
        found = self.beyond(limits)
        return found is not None and not found.any()

    def _one_brightness(self, limits: Limits) -> bool:
        """Whether images are brought to one brightness, so that none is beyond."""
        return self.arrays[0].dtype.itemsize == 4 and limits.homogeneous

    def beyond(self, limits: Limits) -> Flags | None:
        if not self.on_host:
            return None
        if self.beside.given:  # what variances they had is not known
            return None
        if limits not in self._beyond:
            self._beyond[limits] = self._outside(limits)
        return self._beyond[limits]

    def _outside(self, limits: Limits) -> Flags:
        found = np.zeros((self.batch, self.n), np.bool_)
        if self._one_brightness(limits):
            return found
        for flags, x in ((own, x[b]) for x in self.arrays for b, own in enumerate(found)):
            for start in range(0, self.n, _CHUNK):
                part = slice(start, start + _CHUNK)
                own = x[part]
                values = own.reshape(len(own), -1)
                largest = np.maximum(values.max(axis=1), -values.min(axis=1)).astype(np.float64)
                flags[part] |= outside(largest, limits.least, limits.most)
                if limits.pixels:
                    pixels = np.abs(own).max(axis=-1).reshape(len(own), -1).astype(np.float64)
                    flags[part] |= outside(pixels, limits.least, np.inf).any(axis=1)
        return found


def spatial_of(layout: Layout) -> tuple[tuple[int, ...], ...]:
    """Sizes of each input's positions; rows of points are images of one."""
    return tuple(sizes or (1,) for sizes, _ in layout.inputs)
