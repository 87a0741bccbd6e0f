"""Inputs of one side of a call over positions, with what belongs to each beside its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .cpu_images import Images

Array = npt.NDArray[Any]


@dataclass
class Given:
    """Covariances in place of images, over pairs of positions: a kernel that is continued."""

    nngp: Array  # (n1, n2, P, P')
    theta: Array | None
    cov1: Array  # K(x, x), (n1, P, P')
    cov2: Array


@dataclass
class MaskedImages(Images):
    """Images, which of their positions are masked, and what Aggregate joins in them."""

    masks: Sequence[Array | None] = ()  # of each input, bool (n, positions); (): none
    pattern: Array | None = None
    given: Sequence[Given | None] = ()  # of each input, whose array only says shapes then; (): none

    def only(self, part: slice) -> MaskedImages:
        """Some of them, in host memory."""
        arrays = [a[part] if isinstance(a, np.ndarray) else a[part].get() for a in self.arrays]
        masks = [m if m is None else m[part] for m in self.masks]
        return MaskedImages(arrays, masks, None if self.pattern is None else self.pattern[part], self.given)
