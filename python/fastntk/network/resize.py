"""Resizing of images: ImageResize."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.checks import integer
from ..base.libraries import placed
from .layer import Shape, is_one
from .maps import Gather, Linear
from .position_map import Choosing
from .program import Builder, Value, Values

Array = npt.NDArray[Any]

METHODS = {
    "nearest": "nearest", "linear": "linear", "bilinear": "linear", "trilinear": "linear", "triangle": "linear",
    "cubic": "cubic", "bicubic": "cubic", "tricubic": "cubic", "lanczos3": "lanczos3", "lanczos5": "lanczos5",
}  # fmt: skip


def _profile(method: str, x: Array) -> Array:
    """The filter that a method interpolates with, at distances x."""
    x = np.abs(x)
    if method == "linear":
        return np.asarray(np.maximum(0, 1 - x))
    if method == "cubic":  # Keys 1981, a = -1/2
        inner, outer = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        return np.where(x < 1, inner, np.where(x < 2, outer, 0))
    radius = int(method[-1])
    return np.where(x < radius, np.sinc(x) * np.sinc(x / radius), 0)


def weights_of_axis(method: str, size: int, out: int, antialias: bool) -> Array:
    """(out, size): what each position of a resized axis takes of the positions before.

    Position i stands for the stretch [i, i + 1) of the axis. Where it shrinks, ``antialias`` makes the filter as much
    wider; weights sum to 1.
    """
    middle = (np.arange(out) + 0.5) * size / out - 0.5
    if method == "nearest":
        return np.asarray(np.floor((np.arange(out) + 0.5) * size / out)[:, None] == np.arange(size), np.float64)
    wider = max(size / out, 1.0) if antialias else 1.0
    found = _profile(method, (middle[:, None] - np.arange(size)) / wider)
    total = found.sum(axis=1, keepdims=True)
    found = np.where(np.abs(total) > 1e-4, found / np.where(total == 0, 1, total), 0)
    return np.where(((middle >= -0.5) & (middle <= size - 0.5))[:, None], found, 0)


@dataclass(frozen=True)
class ImageResize(Choosing):
    """Resizes spatial axes, as ``jax.image.resize``.

    Parameters
    ----------
    shape : sequence of int
        The output's shape, -1 for what stays: samples and channels, which have to, and other axes.
    method : str
        'nearest', 'linear', 'cubic', 'lanczos3', 'lanczos5', of any case, or jax.image.ResizeMethod; 'bilinear',
        'trilinear', 'triangle', 'bicubic' and 'tricubic' are the same as without their first syllable.
    antialias : bool
        Whether the filter is wider where an axis shrinks.
    precision
        No effect.
    batch_axis, channel_axis : int

    Raises
    ------
    ValueError
        Another method; a shape that does not fit the inputs or resizes samples or channels.

    Notes
    -----
    ``K'(P, P') = sum R(P, p) K(p, p') R(P', p')`` with the matrix R of the resizing, which every method here is: linear
    in its inputs. Neural Tangents has kernels of 'nearest' and 'linear' alone, and behind an odd number of
    convolutions resizes height and width the other way round.
    """

    shape: Any
    method: Any
    antialias: bool = True
    precision: Any = None
    batch_axis: int = 0
    channel_axis: int = -1

    def __post_init__(self) -> None:
        if not isinstance(self.shape, Sequence) or isinstance(self.shape, str):
            raise TypeError(f"[ImageResize] shape must be a sequence of integers, given {self.shape!r}")
        shape = tuple(integer("ImageResize", "shape", n, least=None) for n in self.shape)
        if any(n < 1 and n != -1 for n in shape):
            raise ValueError(f"[ImageResize] shape must have positive entries, or -1 for what stays, given {shape}")
        object.__setattr__(self, "shape", shape)
        name = str(getattr(self.method, "name", self.method)).lower()
        if name not in METHODS:
            raise ValueError(f"[ImageResize] method must be one of {sorted(METHODS)}, given {self.method!r}")
        object.__setattr__(self, "method", METHODS[name])
        object.__setattr__(self, "antialias", bool(self.antialias))
        object.__setattr__(self, "precision", None)
        self._check_axes()

    def _targets(self, shape: Sequence[int], what: str) -> tuple[int, ...]:
        if len(shape) != len(self.shape):
            raise ValueError(f"[{what}] has shape {self.shape}, given inputs of {len(shape)} axes, {tuple(shape)}")
        for axis, name in ((self.batch_axis, "samples"), (self.channel_axis, "channels")):
            if self.shape[axis] not in (-1, shape[axis]):
                raise ValueError(
                    f"[{what}] has shape {self.shape}, which resizes {name}, axis {axis % len(shape)}: -1 leaves them"
                )
        return tuple(n if m == -1 else m for n, m in zip(shape, self.shape, strict=True))

    def output_shape(self, shape: Shape) -> Shape:
        if not is_one(shape):
            raise ValueError(f"[ImageResize] takes one input, given shapes {shape}")
        return self._targets(shape, "ImageResize")

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        targets = self._targets(inputs.shape, "ImageResize")
        own = (self.batch_axis % inputs.ndim, self.channel_axis % inputs.ndim)
        for axis, (n, m) in enumerate(zip(inputs.shape, targets, strict=True)):
            if axis not in own and m != n:
                weights = xp.asarray(weights_of_axis(self.method, n, m, self.antialias), dtype=inputs.dtype,
                                     **placed(inputs))  # fmt: skip
                inputs = xp.moveaxis(xp.tensordot(inputs, weights, axes=((axis,), (1,))), -1, axis)
        return inputs

    def lower(self, builder: Builder, values: Values) -> Value:
        value, rank = self._own(builder, values)
        spatial = iter(value.spatial)
        shape = [-1 if a in (value.batch_axis, value.channel_axis) else next(spatial) for a in range(rank)]
        targets = self._targets(shape, builder.where)
        out = tuple(n for a, n in enumerate(targets) if a not in (value.batch_axis, value.channel_axis))
        if out == value.spatial:
            return value
        if self.method == "nearest":
            index = np.arange(math.prod(value.spatial)).reshape(value.spatial)
            for axis, m in enumerate(out):
                take = weights_of_axis("nearest", value.spatial[axis], m, True).argmax(axis=1)
                index = np.take(index, take, axis=axis)
            return builder.emit("gather", value, map=Gather.of(index, math.prod(value.spatial)), spatial=out)
        return builder.emit(
            "mix", value, map=Linear(self, value.spatial, value.batch_axis, value.channel_axis), spatial=out
        )
