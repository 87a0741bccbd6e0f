"""Layers that gather positions: AvgPool, SumPool, GlobalAvgPool, GlobalSumPool and Flatten."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ..base.checks import integer
from .layer import Layer, Placed, Shape, is_one
from .maps import Whole
from .program import Builder, Value, Values
from .weights import permute, tap_of
from .window import Window, axes_among, padding_of, sizes


class _Spatial(Placed):
    """What pools share."""

    def _spatial_axes(self, rank: int) -> list[int]:
        own = (self.batch_axis % rank, self.channel_axis % rank)
        return [axis for axis in range(rank) if axis not in own]

    def _one(self, shape: Shape) -> Shape:
        if not is_one(shape):
            raise ValueError(f"[{type(self).__name__}] takes one input, given shapes {shape}")
        return shape


@dataclass(frozen=True)
class AvgPool(_Spatial):
    """Mean over windows.

    Parameters
    ----------
    window_shape : tuple of int, or int
        One entry for each spatial axis; an integer is for every axis of the inputs.
    strides : tuple of int, or int, optional
        None: 1 along every axis.
    padding : 'VALID', 'SAME' or 'CIRCULAR', int, or a tuple with an int or a pair (before, behind) for each axis
        As for :class:`Conv`.
    normalize_edges : bool
        With SAME padding, or zeros by number: divide by the taps inside the input instead of all taps.
    batch_axis, channel_axis : int

    Raises
    ------
    ValueError
        For a window or stride below 1, padding below 0, a window larger than the padded input, axes that do not fit.

    Notes
    -----
    ``K'(p, p')`` is the mean of K over all pairs of positions in the windows of p and p', and so is the NTK's.

    References
    ----------
    Novak et al. (2019), arXiv:1810.05148, section 3.
    """

    window_shape: Any
    strides: Any = None
    padding: Any = "VALID"
    normalize_edges: bool = False
    batch_axis: int = 0
    channel_axis: int = -1
    mean: ClassVar[bool] = True

    def __post_init__(self) -> None:
        name = type(self).__name__
        count = axes_among(self.window_shape, self.strides, self.padding)
        if count == 0:
            raise ValueError(
                f"[{type(self).__name__}] window_shape must have at least one entry, given {self.window_shape}"
            )
        object.__setattr__(self, "window_shape", sizes(name, "window_shape", self.window_shape, count))
        object.__setattr__(self, "strides", sizes(name, "strides", 1 if self.strides is None else self.strides, count))
        object.__setattr__(self, "padding", padding_of(name, self.padding, count))
        self._check_axes()

    def _window(self, what: str, spatial: tuple[int, ...]) -> Window:
        shape, strides, padding = self.window_shape, self.strides, self.padding
        if isinstance(shape, int) and spatial:  # all are for every axis alike
            shape, strides = (shape,) * len(spatial), (strides,) * len(spatial)
            padding = padding_of(what, padding, len(spatial))
        if isinstance(shape, int) or len(spatial) != len(shape):
            raise ValueError(
                f"[{what}] has a window of shape {self.window_shape}, inputs have {len(spatial)} spatial axes, "
                f"{spatial}"
            )
        ones = (1,) * len(spatial)
        edges = self.mean and self.normalize_edges
        return Window.of(what, spatial, shape, strides, ones, padding, edges)

    def output_shape(self, shape: Shape) -> Shape:
        axes = self._spatial_axes(len(self._one(shape)))
        window = self._window(type(self).__name__, tuple(shape[a] for a in axes))
        found = dict(zip(axes, window.size_out, strict=True))
        return tuple(found.get(axis, n) for axis, n in enumerate(shape))

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        axes = self._spatial_axes(inputs.ndim)
        x, undo = _spatial_behind_first(inputs, axes, xp)
        window = self._window(type(self).__name__, tuple(x.shape[1 : 1 + len(axes)]))
        z: Any = 0
        for tap in np.ndindex(*window.shape):
            z = z + tap_of(x, window, tap, xp)
        if self.mean:
            for axis in range(len(axes)):
                counts = window.counts(axis).reshape([-1 if k == axis + 1 else 1 for k in range(z.ndim)])
                z = z / xp.asarray(counts.astype(np.float64), dtype=z.dtype)
        return undo(z)

    def lower(self, builder: Builder, values: Values) -> Value:
        value = builder.one(values)
        window = self._window(builder.where, value.spatial)
        builder.check_axes(value, self.batch_axis, self.channel_axis)
        inside = window.inside()
        taps = inside.taps if window.normalize_edges else window.taps
        scale = 1 / taps if self.mean else 1.0
        return builder.emit("pool", value, params=(scale,), window=inside, spatial=window.size_out)


def _spatial_behind_first(x: Any, axes: list[int], xp: Any) -> Any:
    """``x`` with one axis, the spatial ones, one axis; and what puts them back."""
    others = [a for a in range(x.ndim) if a not in axes]
    order = [others[0], *axes, others[1]]
    back = [order.index(a) for a in range(x.ndim)]
    return permute(xp, x, order), lambda z: permute(xp, z, back)


@dataclass(frozen=True)
class SumPool(AvgPool):
    """Sum over windows: see :class:`AvgPool`."""

    mean: ClassVar[bool] = False

    def __init__(
        self, window_shape: Any, strides: Any = None, padding: Any = "VALID",
        batch_axis: int = 0, channel_axis: int = -1,
    ) -> None:  # fmt: skip
        super().__init__(window_shape, strides, padding, False, batch_axis, channel_axis)


@dataclass(frozen=True)
class GlobalAvgPool(_Spatial):
    """Mean over all positions; the spatial axes go.

    Parameters
    ----------
    batch_axis, channel_axis : int
    """

    batch_axis: int = 0
    channel_axis: int = -1
    mean: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._check_axes()

    def output_shape(self, shape: Shape) -> Shape:
        axes = self._spatial_axes(len(self._one(shape)))
        return tuple(n for axis, n in enumerate(shape) if axis not in axes)

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        axes = tuple(self._spatial_axes(inputs.ndim))
        if not axes:
            return inputs
        return xp.mean(inputs, axis=axes) if self.mean else xp.sum(inputs, axis=axes)

    def lower(self, builder: Builder, values: Values) -> Value:
        value = builder.one(values)
        builder.check_axes(value, self.batch_axis, self.channel_axis)
        if not value.spatial:
            return value
        ones = (1,) * len(value.spatial)
        window = Window.of(builder.where, value.spatial, value.spatial, ones, ones, "VALID")
        first = value.batch_axis < value.channel_axis
        scale = 1 / window.taps if self.mean else 1.0
        return builder.emit(
            "pool", value, params=(scale,), window=window, map=Whole(self.mean), spatial=(),
            batch_axis=0 if first else 1, channel_axis=1 if first else 0,
        )  # fmt: skip


@dataclass(frozen=True)
class GlobalSumPool(GlobalAvgPool):
    """Sum over all positions: see :class:`GlobalAvgPool`."""

    mean: ClassVar[bool] = False


@dataclass(frozen=True)
class Flatten(Layer):
    """Positions become features, each with weights of its own in the next layer: ``K' = mean of K(p, p)``.

    Parameters
    ----------
    batch_axis, batch_axis_out : int
        Axis of samples in the inputs and, 0 or 1, in the outputs.

    Raises
    ------
    ValueError
        For a ``batch_axis_out`` that is not an axis of two.
    """

    batch_axis: int = 0
    batch_axis_out: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_axis", integer("Flatten", "batch_axis", self.batch_axis, least=None))
        out = integer("Flatten", "batch_axis_out", self.batch_axis_out, least=None)
        if out not in (0, 1, -1, -2):
            raise ValueError(f"[Flatten] batch_axis_out must be 0 or 1, given {out}")
        object.__setattr__(self, "batch_axis_out", out % 2)

    def axes(self) -> tuple[int, int] | None:
        return self.batch_axis, -1 if self.batch_axis == 0 else 0

    def output_shape(self, shape: Shape) -> Shape:
        if not is_one(shape):
            raise ValueError(f"[Flatten] takes one input, given shapes {shape}")
        axis = self.batch_axis % len(shape)
        features = math.prod(n for a, n in enumerate(shape) if a != axis)
        return (shape[axis], features) if self.batch_axis_out == 0 else (features, shape[axis])

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        x = xp.moveaxis(inputs, self.batch_axis, 0)
        x = xp.reshape(x, (x.shape[0], -1))
        return x if self.batch_axis_out == 0 else xp.moveaxis(x, 0, 1)

    def lower(self, builder: Builder, values: Values) -> Value:
        value = builder.one(values)
        builder.check_axes(value, self.batch_axis, None)
        channels = value.channels * math.prod(value.spatial)
        changes: dict[str, Any] = {
            "channels": channels, "spatial": (), "batch_axis": self.batch_axis_out,
            "channel_axis": 1 - self.batch_axis_out, "gaussian": False,
        }  # fmt: skip
        if not value.spatial:
            return replace(value, **changes)
        ones = (1,) * len(value.spatial)
        window = Window.of(builder.where, value.spatial, value.spatial, ones, ones, "VALID")
        if value.mean and math.prod(value.spatial) > 1:  # each feature has the mean of its position
            changes["mean"] = "unknown"
        return builder.emit("conv", value, window=window, **changes)
