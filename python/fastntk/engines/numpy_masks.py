"""Which positions of a value are masked, op by op, as Neural Tangents carries masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..network.maps import Gather, Linear, Whole
from ..network.program import Op
from ..network.window import Window

Flags = npt.NDArray[np.bool_]


def masked_behind(op: Op, taps: npt.NDArray[np.int64], sources: Sequence[Flags | None]) -> Flags | None:
    """Masked positions of an op's result, (n, P); None where none is.

    A window keeps the mask of its middle; of what joins all positions, and of branches that are added, all must be
    masked, of factors one; a resized image, or a sum with weights, is masked where everything it is made of is.
    """
    if op.name in ("sum", "product"):
        known = [s for s in sources if s is not None]
        if (len(known) < len(sources) and op.name == "sum") or not known:
            return None
        return np.asarray((np.logical_and if op.name == "sum" else np.logical_or).reduce(known))
    here = sources[0]
    if here is None:
        return None
    if op.name == "transposed":
        return np.asarray((here[:, taps] & (taps >= 0)).any(axis=2))
    if op.window is not None:
        if isinstance(op.map, Whole) or not op.numbers:  # Flatten has none
            return np.asarray(here.all(axis=1, keepdims=True))
        middle = _middles(op.window)
        return np.where(middle >= 0, here[:, middle], False)
    if isinstance(op.map, Gather):
        return np.where(op.map.index >= 0, here[:, op.map.index], True)
    if isinstance(op.map, Linear):
        used = (op.map.matrix != 0).astype(np.float64)
        return np.asarray((~here).astype(np.float64) @ used.T == 0)
    return here


def _middles(window: Window) -> npt.NDArray[Any]:
    """Input position of the middle tap of each output position, numbered through; -1 outside."""
    found = np.zeros(1, np.int64)
    for axis, size in enumerate(window.size_in):
        own = window.middles(axis)
        joint = np.where((found[:, None] < 0) | (own < 0), -1, found[:, None] * size + own)
        found = joint.reshape(-1)
    return found
