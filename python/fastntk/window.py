"""Windows over spatial axes: which input positions each output position reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]

PADDINGS = ("VALID", "SAME", "CIRCULAR")


@dataclass(frozen=True)
class Window:
    """Geometry of a filter or a pooling window, one entry for each spatial axis.

    Tap a of output position P reads input position ``strides P + dilation a - low``: outside the input it counts as
    zero, or wraps around where ``circular``.
    """

    size_in: tuple[int, ...]
    size_out: tuple[int, ...]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    low: tuple[int, ...]
    circular: bool = False
    normalize_edges: bool = False  # pooling: divide by the taps that are inside

    @classmethod
    def of(
        cls, what: str, size_in: Sequence[int], shape: Sequence[int], strides: Sequence[int], dilation: Sequence[int],
        padding: str, normalize_edges: bool = False,
    ) -> Window:  # fmt: skip
        """Place a window on an input; SAME and CIRCULAR give ceil(size / stride) outputs, an odd pad more behind.

        Raises
        ------
        ValueError
            A VALID window that is larger than the input.
        """
        size_out, low = [], []
        for n, k, t, e in zip(size_in, shape, strides, dilation, strict=True):
            reach = (k - 1) * e + 1
            if padding == "VALID":
                if reach > n:
                    raise ValueError(
                        f"[{what}] a VALID window of shape {tuple(shape)}, dilation {tuple(dilation)}, does not fit "
                        f"inputs of spatial shape {tuple(size_in)}"
                    )
                size_out.append((n - reach) // t + 1)
                low.append(0)
            else:
                size_out.append(-(-n // t))
                low.append(max((size_out[-1] - 1) * t + reach - n, 0) // 2)
        circular = padding == "CIRCULAR"
        edges = normalize_edges and padding == "SAME"
        return cls(
            tuple(size_in), tuple(size_out), tuple(shape), tuple(strides), tuple(dilation), tuple(low), circular, edges
        )

    @property
    def taps(self) -> int:
        """Number of taps."""
        return math.prod(self.shape)

    @property
    def aligned(self) -> bool:
        """Stride 1 everywhere: positions keep their displacement."""
        return all(t == 1 for t in self.strides)

    def positions(self, axis: int) -> Positions:
        """Input position of each output and tap along an axis, (size_out, shape); -1 where it is outside."""
        n = self.size_in[axis]
        outputs = np.arange(self.size_out[axis])[:, None] * self.strides[axis] - self.low[axis]
        found = outputs + np.arange(self.shape[axis])[None, :] * self.dilation[axis]
        return found % n if self.circular else np.where((found >= 0) & (found < n), found, -1)

    def counts(self, axis: int) -> npt.NDArray[np.float64]:
        """What pooling divides by along an axis: taps, or taps inside."""
        if not self.normalize_edges:
            return np.full(self.size_out[axis], float(self.shape[axis]))
        return np.asarray((self.positions(axis) >= 0).sum(axis=1), dtype=np.float64)


def sizes(what: str, name: str, value: Any, count: int | None = None) -> tuple[int, ...]:
    """Positive integers, one for each spatial axis: ``count`` of them, or 1 to 3."""
    from .layers import integer

    if not isinstance(value, (tuple, list)):
        raise TypeError(f"[{what}] {name} must be a tuple of integers, one for each spatial axis, given {value!r}")
    if not 1 <= len(value) <= 3 or (count is not None and len(value) != count):
        wanted = "1 to 3" if count is None else str(count)
        raise ValueError(f"[{what}] {name} must have {wanted} entries, given {tuple(value)}")
    return tuple(integer(what, name, v) for v in value)


def padding_name(what: str, value: Any) -> str:
    """VALID, SAME or CIRCULAR, from any case, or an enum with such a value."""
    name = str(getattr(value, "value", value)).upper()
    if name not in PADDINGS:
        raise ValueError(f"[{what}] padding must be one of {PADDINGS}, given {value!r}")
    return name
