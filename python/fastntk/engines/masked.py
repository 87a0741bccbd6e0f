"""What stands beside the images of one side of a call, or in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_ROUNDED = 4 * float(np.finfo(np.float64).eps)


def settled(v: Array, xp: Any = np) -> Array:
    """Signed defects made of covariances; what is parallel but for rounding is so: digits of the NTK hang on it."""
    return xp.where(abs(v) <= _ROUNDED, xp.where(v < 0, -1e-37, 0.0), v)  # type: ignore[no-any-return]


@dataclass
class Given:
    """Covariances in place of images, over pairs of positions: a kernel that is continued."""

    nngp: Array  # (n1, n2, P, P')
    theta: Array | None
    cov1: Array  # K(x, x), (n1, P, P')
    cov2: Array


@dataclass
class Beside:
    """What belongs to the images of one side, beside their numbers."""

    masks: Sequence[Array | None] = ()  # of each input, bool (batch, n, positions); (): none
    patterns: Any = None  # of each batch, what Aggregate joins
    given: Sequence[Given | None] = ()  # of each input, whose array only says shapes then; (): none
    second: bool = False  # of these the second side

    def of(self, batch: int, at: Any) -> tuple[list[Array | None], Any, list[Array | None]]:
        """Masks (n, positions), a pattern and covariances (n, P, P') of some images."""
        masks = [None if m is None else m[batch][at] for m in self.masks]
        pattern = None if self.patterns is None else self.patterns[batch][at]
        own = [None if g is None else (g.cov2 if self.second else g.cov1)[at] for g in self.given]
        return masks, pattern, own
