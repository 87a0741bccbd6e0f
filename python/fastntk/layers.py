"""Layers as immutable data: each knows its shape, its finite-width network, and how to lower itself.

A layer unpacks into Neural Tangents' triple ``(init_fn, apply_fn, kernel_fn)``. Nothing here computes a kernel.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .program import Builder, Value, Values

if TYPE_CHECKING:
    from .kernel_fn import KernelFn

Shape: TypeAlias = "tuple[Any, ...]"  # of one array, or a tuple of shapes for parallel branches
InitFn: TypeAlias = Callable[..., tuple[Shape, Any]]
ApplyFn: TypeAlias = Callable[..., Any]


def is_one(shape: Any) -> bool:
    """Whether a shape tree is one array's shape."""
    return all(isinstance(n, (int, np.integer)) for n in shape)


@dataclass(frozen=True)
class Layer:
    """Base of all layers; ``init_fn, apply_fn, kernel_fn = layer`` works for each."""

    _doors = ("init_fn", "apply_fn")  # the rest runs behind those of the kernel function, many times a call

    def output_shape(self, shape: Shape) -> Shape:
        """Shape behind the layer; -1 (unknown batch) passes through."""
        raise NotImplementedError

    def init(self, rng: np.random.Generator, shape: Shape, dtype: Any) -> Any:
        """Parameters of one finite network, nested tuples of NumPy arrays."""
        return ()

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        """The finite network's layer on arrays of the library ``xp``."""
        raise NotImplementedError

    def lower(self, builder: Builder, values: Values) -> Values:
        """Append this layer's ops; raise for inputs it cannot take."""
        raise NotImplementedError

    def lower_each(self, builder: Builder, values: Values) -> Iterator[Values]:
        """The values behind each part of a stack: for one layer, its own."""
        yield self.lower(builder, values)

    def axes(self) -> tuple[int, int] | None:
        """(batch_axis, channel_axis) of the first layer that names them."""
        return None

    # ---- Neural Tangents' triple

    def init_fn(
        self, rng: np.random.Generator | int, input_shape: Sequence[Any], dtype: Any = np.float64
    ) -> tuple[Shape, Any]:
        """Draw the parameters of a finite network.

        Parameters
        ----------
        rng : numpy.random.Generator or int
            Source of randomness, or the seed of a new one.
        input_shape : tuple of int
            Shape of the inputs, batch included (-1 where unknown); a tuple of shapes for parallel branches.
        dtype : dtype
            float32 or float64, of all parameters.

        Returns
        -------
        output_shape : tuple of int
        params : nested tuple of numpy.ndarray

        Raises
        ------
        TypeError
            If ``rng`` is neither a Generator nor an integer.
        """
        if isinstance(rng, (int, np.integer)) and not isinstance(rng, bool):
            rng = np.random.default_rng(rng)
        if not isinstance(rng, np.random.Generator):
            raise TypeError(
                f"[init_fn] rng must be a numpy.random.Generator or an integer seed, given {type(rng).__name__}"
            )
        if np.dtype(dtype) not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise TypeError(f"[init_fn] dtype must be float32 or float64, given {np.dtype(dtype)}")
        shape = _as_shape(input_shape)
        return self.output_shape(shape), self.init(rng, shape, np.dtype(dtype))

    def apply_fn(self, params: Any, inputs: Any, **_: Any) -> Any:
        """Apply a finite network.

        Parameters
        ----------
        params : nested tuple of arrays
            From ``init_fn``, or the same structure in the inputs' library.
        inputs : array (batch, d) of NumPy, CuPy, PyTorch or JAX, or a tuple of them for parallel branches

        Returns
        -------
        array of the inputs' library; differentiable in inputs and parameters where the library differentiates.
        """
        from .arrays import library, to_library

        xp = library(inputs)
        return self.apply(to_library(params, inputs, xp), inputs, xp)

    @property
    def kernel_fn(self) -> KernelFn:
        """The infinite network's kernels: see :class:`fastntk.kernel_fn.KernelFn`."""
        from .kernel_fn import KernelFn

        return KernelFn(self)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.init_fn, self.apply_fn, self.kernel_fn))

    def __getitem__(self, index: int) -> Any:
        return (self.init_fn, self.apply_fn, self.kernel_fn)[index]

    def __len__(self) -> int:
        return 3


def _as_shape(shape: Any) -> Shape:
    if not isinstance(shape, (tuple, list)) or not shape:
        raise TypeError(f"[init_fn] input_shape must be a tuple of integers, or a tuple of shapes, given {shape!r}")
    return tuple(int(n) for n in shape) if is_one(shape) else tuple(_as_shape(s) for s in shape)


def integer(layer: str, name: str, value: Any, least: int | None = 1) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"[{layer}] {name} must be an integer, given {value!r}") from None
    if least is not None and number < least:
        raise ValueError(f"[{layer}] {name} must be at least {least}, given {number}")
    return number


def finite(layer: str, name: str, value: Any) -> float:
    """A parameter as a float whose square is finite too."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"[{layer}] {name} must be a number, given {value!r}") from None
    if not abs(number) < 1e150:
        raise ValueError(f"[{layer}] {name} must be finite and below 1e150, given {value}")
    return number


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
