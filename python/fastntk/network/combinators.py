"""Layers made of layers, branches and their sums: serial, parallel, FanOut, FanInSum, Identity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.checks import integer
from .layer import Layer, Shape, is_one
from .program import Builder, Value, Values


@dataclass(frozen=True)
class Identity(Layer):
    """Passes its input on."""

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        return inputs

    def lower(self, builder: Builder, values: Values) -> Values:
        return values


@dataclass(frozen=True)
class FanOut(Layer):
    """Gives ``num`` branches the same input."""

    num: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "num", integer("FanOut", "num", self.num))

    def output_shape(self, shape: Shape) -> Shape:
        return (shape,) * self.num

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        return (inputs,) * self.num

    def lower(self, builder: Builder, values: Values) -> Values:
        return (values,) * self.num


@dataclass(frozen=True)
class FanInSum(Layer):
    """Sums branches, which count as independent: their kernels add.

    Raises
    ------
    NotImplementedError
        When a branch is not Gaussian (the output of a nonlinearity, or the network's input).
    ValueError
        When branches differ in width.
    """

    def output_shape(self, shape: Shape) -> Shape:
        if is_one(shape) or any(s != shape[0] for s in shape):
            raise ValueError(f"[FanInSum] takes branches of one shape, given {shape}")
        return tuple(shape[0])

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        if not isinstance(inputs, (tuple, list)) or not inputs:
            raise ValueError("[FanInSum] inputs must be a tuple of branches")
        total = inputs[0]
        for branch in inputs[1:]:
            total = total + branch
        return total

    def lower(self, builder: Builder, values: Values) -> Value:
        branches = builder.several(values)
        if len(branches) == 1:
            return branches[0]
        if len({b.channels for b in branches}) > 1:
            raise ValueError(
                f"[{builder.where}] branches have widths {[b.channels for b in branches]}: all must be equal"
            )
        if len({b.spatial for b in branches}) > 1:
            raise ValueError(
                f"[{builder.where}] branches have spatial shapes {[b.spatial for b in branches]}: all must be equal"
            )
        axes = {(b.batch_axis, b.channel_axis) for b in branches}
        if len(axes) > 1:
            raise ValueError(
                f"[{builder.where}] branches have (batch_axis, channel_axis) = {sorted(axes)}: all must agree"
            )
        if not all(b.gaussian for b in branches):
            raise NotImplementedError(
                f"[{builder.where}] sums Gaussian branches only (each ending in Dense), given gaussian = "
                f"{[b.gaussian for b in branches]}"
            )
        return builder.emit("sum", *branches)


@dataclass(frozen=True)
class Serial(Layer):
    """Layers one after the other: made by :func:`serial`."""

    layers: tuple[Layer, ...]

    def output_shape(self, shape: Shape) -> Shape:
        for layer in self.layers:
            shape = layer.output_shape(shape)
        return shape

    def init(self, rng: np.random.Generator, shape: Shape, dtype: Any) -> Any:
        params = []
        for layer in self.layers:
            params.append(layer.init(rng, shape, dtype))
            shape = layer.output_shape(shape)
        return tuple(params)

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        _check_count("serial", params, self.layers)
        for layer, own in zip(self.layers, params, strict=True):
            inputs = layer.apply(own, inputs, xp)
        return inputs

    def lower(self, builder: Builder, values: Values) -> Values:
        *_, last = (values, *self.lower_each(builder, values))
        return last

    def lower_each(self, builder: Builder, values: Values) -> Iterator[Values]:
        for index, layer in enumerate(self.layers):
            with builder.entering(f"serial[{index}] {type(layer).__name__}"):
                for part in layer.lower_each(builder, values):
                    values = part
                    yield part

    def axes(self) -> tuple[int, int] | None:
        return next((axes for layer in self.layers if (axes := layer.axes()) is not None), None)


@dataclass(frozen=True)
class Parallel(Layer):
    """Layers side by side, one input each: made by :func:`parallel`."""

    layers: tuple[Layer, ...]

    def output_shape(self, shape: Shape) -> Shape:
        _check_count("parallel", shape, self.layers)
        return tuple(layer.output_shape(s) for layer, s in zip(self.layers, shape, strict=True))

    def init(self, rng: np.random.Generator, shape: Shape, dtype: Any) -> Any:
        _check_count("parallel", shape, self.layers)
        return tuple(layer.init(rng, s, dtype) for layer, s in zip(self.layers, shape, strict=True))

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        _check_count("parallel", inputs, self.layers)
        _check_count("parallel", params, self.layers)
        return tuple(layer.apply(p, x, xp) for layer, p, x in zip(self.layers, params, inputs, strict=True))

    def lower(self, builder: Builder, values: Values) -> Values:
        if isinstance(values, Value) or len(values) != len(self.layers):
            given = 1 if isinstance(values, Value) else len(values)
            raise ValueError(f"[{builder.where or 'parallel'}] has {len(self.layers)} branches, given {given} inputs")
        out = []
        for index, (layer, value) in enumerate(zip(self.layers, values, strict=True)):
            with builder.entering(f"parallel[{index}] {type(layer).__name__}"):
                out.append(layer.lower(builder, value))
        return tuple(out)

    def axes(self) -> tuple[int, int] | None:
        return next((axes for layer in self.layers if (axes := layer.axes()) is not None), None)


def _check_count(what: str, given: Any, layers: Sequence[Layer]) -> None:
    if not isinstance(given, (tuple, list)) or any(isinstance(g, int) for g in given):
        raise ValueError(f"[{what}] has {len(layers)} layers and takes as many entries, given {given!r}")
    if len(given) != len(layers):
        raise ValueError(f"[{what}] has {len(layers)} layers, given {len(given)} entries")


def _check_layers(what: str, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    for index, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise TypeError(f"[{what}] argument {index} must be a fastntk layer, given {type(layer).__name__}")
    return tuple(layers)


def serial(*layers: Layer) -> Serial:
    """Compose layers one after the other.

    Parameters
    ----------
    *layers : Layer

    Returns
    -------
    Serial
        Unpacks into ``(init_fn, apply_fn, kernel_fn)``.

    Raises
    ------
    TypeError
        If an argument is not a layer.
    """
    return Serial(_check_layers("serial", layers))


def parallel(*layers: Layer) -> Parallel:
    """Compose layers side by side: branch i gets input i (see :class:`FanOut`, :class:`FanInSum`).

    Parameters
    ----------
    *layers : Layer

    Returns
    -------
    Parallel
        Unpacks into ``(init_fn, apply_fn, kernel_fn)``; its kernel function takes and gives tuples.

    Raises
    ------
    TypeError
        If an argument is not a layer.
    """
    return Parallel(_check_layers("parallel", layers))
