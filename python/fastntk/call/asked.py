"""What a call asks beside its inputs and fields: masks, patterns of graphs, axes, and Neural Tangents' flags."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arraylike import describe
from ..base.checks import integer

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Asked:
    """Keywords of a call; made by :func:`asked`."""

    pattern: Any = (None, None)
    mask_constant: float | None = None
    axes: tuple[int | None, int | None] = (None, None)
    layout: tuple[bool, bool] = (
        False,
        False,
    )  # covariances of all samples of a side; of positions with themselves alone

    def unmasked(self, x: Array, name: str) -> tuple[Array, Array | None]:
        """Inputs (..., channels) with 0 where they are masked, and the positions where all channels are, or None."""
        if self.mask_constant is None:
            return x, None
        if not isinstance(x, np.ndarray):
            raise ValueError(f"[kernel_fn] mask_constant takes arrays in host memory, {name} lies on a device")
        hidden = self.hidden(x)
        if not hidden.any():
            return x, None
        positions = hidden.all(axis=-1)
        return np.where(hidden, x.dtype.type(0), x), np.asarray(positions) if positions.any() else None

    def hidden(self, x: Array) -> npt.NDArray[np.bool_]:
        """Which entries are masked."""
        assert self.mask_constant is not None
        return np.isnan(x) if math.isnan(self.mask_constant) else np.asarray(x == self.mask_constant)

    def give_patterns(self, inputs: Sequence[Any]) -> None:
        """Check the patterns' numbers of samples; hand them to the first input."""
        one, two = self.pattern
        if one is None and two is None:
            return
        first = inputs[0]
        if two is None and first.symmetric:
            two = one
        if one is None or two is None:
            raise NotImplementedError(
                "[kernel_fn] pattern has one entry that is None: both are graphs, or none is (where x2 is None the "
                "second may be missing)"
            )
        sides = []
        for k, (given, n) in enumerate(((one, first.n1), (two, first.n2))):
            found = np.asarray(given) if not hasattr(given, "shape") else given
            if len(found.shape) == 0 or found.shape[len(first.batch)] != n:
                raise ValueError(
                    f"[kernel_fn] pattern[{k}] has shape {tuple(found.shape)}, expected graphs of {n} samples first"
                )
            sides.append(found)
        first.pattern1, first.pattern2 = sides


def asked(
    pattern: Any, mask_constant: Any, diagonal_batch: Any, diagonal_spatial: Any, batch_axis: Any, channel_axis: Any
) -> Asked:
    """Check the keywords.

    Raises
    ------
    TypeError, ValueError
        A pattern that is not a pair, a mask that is not a number.
    """
    if pattern is None:
        pattern = (None, None)
    if not isinstance(pattern, (tuple, list)) or len(pattern) != 2:
        raise TypeError(f"[kernel_fn] pattern must be (of x1, of x2), given {describe(pattern)}")
    if mask_constant is not None:
        if isinstance(mask_constant, (bool, np.bool_)) or not isinstance(mask_constant, (int, float, np.number)):
            raise TypeError(f"[kernel_fn] mask_constant must be a number or None, given {describe(mask_constant)}")
        mask_constant = float(mask_constant)
    for name, value in (("diagonal_batch", diagonal_batch), ("diagonal_spatial", diagonal_spatial)):
        if value is not None and not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"[kernel_fn] {name} must be True, False or None, given {value!r}")
    axes = tuple(
        None if a is None else integer("kernel_fn", name, a, least=None)
        for name, a in (("batch_axis", batch_axis), ("channel_axis", channel_axis))
    )
    layout = diagonal_batch is not None and not diagonal_batch, bool(diagonal_spatial)
    return Asked(tuple(pattern), mask_constant, axes, layout)  # type: ignore[arg-type]


NOTHING = Asked()
