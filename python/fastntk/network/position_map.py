"""What layers share that choose positions or combine them by constants, and the base of users' own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .layer import Placed, Shape
from .maps import Linear
from .program import Builder, Value, Values


class Choosing(Placed):
    """What layers share that choose positions or combine them by constants."""

    def places(self, rank: int) -> tuple[int, int]:
        """Axes of samples and channels in the result for inputs of so many axes."""
        return self.batch_axis % rank, self.channel_axis % rank

    def _own(self, builder: Builder, values: Values) -> tuple[Value, int]:
        value = builder.one(values)
        builder.check_axes(value, self.batch_axis, self.channel_axis)
        return value, 2 + len(value.spatial)


@dataclass(frozen=True)
class PositionMap(Choosing):
    """Base of constant linear layers over positions: a subclass gives ``apply``, and has its kernels.

    Parameters
    ----------
    batch_axis, channel_axis : int
        0 and -1: ``apply(self, params, inputs, xp)`` takes arrays ``(n, *spatial axes, channels)`` of a library ``xp``
        and gives others of as many samples and channels.

    Raises
    ------
    ValueError
        For other axes; for an ``apply`` that changes samples or channels.

    Notes
    -----
    ``K' = A K A^T`` and so the NTK's, with the matrix A that ``apply`` makes of unit vectors: it has to be linear, and
    the same for every channel and sample. All pairs of positions are needed.
    """

    batch_axis: int = 0
    channel_axis: int = -1

    def places(self, rank: int) -> tuple[int, int]:
        return 0, -1

    def __post_init__(self) -> None:
        if (self.batch_axis, self.channel_axis) != (0, -1):
            raise ValueError(
                f"[{type(self).__name__}] has batch_axis, channel_axis = {self.batch_axis}, {self.channel_axis}: 0 and "
                "-1 are taken"
            )

    def output_shape(self, shape: Shape) -> Shape:
        found = self.apply((), np.zeros((1, *shape[1:])), np).shape
        if found[0] != 1 or found[-1] != shape[-1]:
            raise ValueError(
                f"[{type(self).__name__}] makes shape {found} of {(1, *shape[1:])}: one sample, all channels"
            )
        return (shape[0], *found[1:])

    def lower(self, builder: Builder, values: Values) -> Value:
        value, _ = self._own(builder, values)
        _, *spatial, _ = self.output_shape((1, *value.spatial, 1))
        own = Linear(self, value.spatial, value.batch_axis, value.channel_axis)
        return builder.emit("mix", value, map=own, spatial=tuple(spatial), batch_axis=0, channel_axis=1 + len(spatial))
