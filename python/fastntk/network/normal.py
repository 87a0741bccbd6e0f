"""Layers that normalise: LayerNorm over channels."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..base.checks import finite, integer
from .layer import Layer, Shape
from .program import Builder, Value, Values


@dataclass(frozen=True)
class LayerNorm(Layer):
    """Takes away the mean over channels and divides by the standard deviation over channels.

    Parameters
    ----------
    axis : int or sequence of int
        The axes of mean and deviation: the channels'.
    eps : float
        Added to the variance, at least 0.
    batch_axis, channel_axis : int
        Axes of samples and features in the inputs.

    Raises
    ------
    NotImplementedError
        For other axes, for inputs with spatial axes, on the network's input, and on values whose mean is not 0, such
        as the output of Relu.
    ValueError
        For a negative or non-finite ``eps``.

    Notes
    -----
    ``K' = K / (s s')``, ``NTK' = NTK / (s s')`` with ``s^2 = K(x, x) + eps``: correlations stay as they are, to the
    last digit. It has no parameters of its own. A value of variance 0 stays 0.

    References
    ----------
    Ba, Kiros and Hinton (2016), arXiv:1607.06450.
    """

    axis: int | tuple[int, ...] = -1
    eps: float = 1e-12
    batch_axis: int = 0
    channel_axis: int = -1

    def __post_init__(self) -> None:
        axes = self.axis if isinstance(self.axis, Sequence) else [self.axis]
        object.__setattr__(self, "axis", tuple(integer("LayerNorm", "axis", a, least=None) for a in axes))
        object.__setattr__(self, "eps", finite("LayerNorm", "eps", self.eps))
        if self.eps < 0:
            raise ValueError(f"[LayerNorm] eps must not be negative, given {self.eps}")
        for name in ("batch_axis", "channel_axis"):
            object.__setattr__(self, name, integer("LayerNorm", name, getattr(self, name), least=None))

    def axes(self) -> tuple[int, int]:
        return self.batch_axis, self.channel_axis

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        axes = tuple(operator.index(a) % inputs.ndim for a in self._axes)
        count = 1
        for a in axes:
            count *= inputs.shape[a]
        centred = inputs - inputs.sum(axes, keepdims=True) / count
        return centred / ((centred * centred).sum(axes, keepdims=True) / count + self.eps) ** 0.5

    @property
    def _axes(self) -> tuple[int, ...]:
        assert isinstance(self.axis, tuple)
        return self.axis

    def lower(self, builder: Builder, values: Values) -> Value:
        value = builder.one(values)
        builder.check_axes(value, self.batch_axis, self.channel_axis)
        rank = 2 + len(value.spatial)
        axes = {a % rank for a in self._axes if -rank <= a < rank}
        if value.spatial or axes != {value.channel_axis} or len(self._axes) != 1:
            raise NotImplementedError(
                f"[{builder.where}] normalises over the channels of values without spatial axes, given axis = "
                f"{self._axes} of {rank} axes"
            )
        if not value.gaussian and not value.weights:
            raise NotImplementedError(
                f"[{builder.where}] normalises outputs of layers, given the network's input, or a kernel to continue "
                "that is not Gaussian: put a Dense layer before it"
            )
        if value.mean:
            raise NotImplementedError(
                f"[{builder.where}] takes values whose mean over channels is 0, which that of the nonlinearity before "
                "it is not: put a Dense layer between them"
            )
        return builder.emit("norm", value, params=(self.eps,))
