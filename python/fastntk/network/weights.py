"""Layers with weights that positions share: Dense and Conv."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..base.checks import finite, integer
from ..base.libraries import placed
from .layer import Layer, Placed, Shape, is_one
from .maps import Gather
from .program import Builder, Value, Values
from .window import MOST_AXES, Pads, Window, axes_among, padding_of, sizes

_LETTERS = "HWDABEFGJKLMPQRSTUVXYZ"  # of spatial axes


def std(layer: str, name: str, value: Any) -> float:
    number = finite(layer, name, value)
    if number < 0:
        raise ValueError(f"[{layer}] {name} must not be negative, given {value}")
    return number


class _Weighted(Layer):
    """What Dense and Conv share: scales of weights and biases, and both parameterizations."""

    W_std: float
    b_std: float | None
    parameterization: str
    s: tuple[int, int]

    def _check(self) -> None:
        name = type(self).__name__
        object.__setattr__(self, "W_std", std(name, "W_std", self.W_std))
        if self.b_std is not None:
            object.__setattr__(self, "b_std", std(name, "b_std", self.b_std))
        object.__setattr__(self, "parameterization", str(self.parameterization).lower())
        if self.parameterization not in ("ntk", "standard"):
            raise ValueError(f"[{name}] parameterization must be 'ntk' or 'standard', given '{self.parameterization}'")
        if not isinstance(self.s, (tuple, list)) or len(self.s) != 2:
            raise TypeError(f"[{name}] s must be two positive integers, given {self.s!r}")
        object.__setattr__(self, "s", tuple(integer(name, "s", v) for v in self.s))

    def _width(self, out: int) -> int:
        return out * (self.s[1] if self.parameterization == "standard" else 1)

    def op_numbers(self, fan_in: int) -> tuple[float, float, float, float]:
        """(w2, b2, f, g) of the op (program.py), floats or with derivatives."""
        w2, b2 = self.W_std**2, (self.b_std or 0.0) ** 2
        if self.parameterization == "ntk":
            return w2, b2, w2, b2
        return w2, b2, fan_in / self.s[0], 0.0 if self.b_std is None else 1.0

    def _draw(self, rng: np.random.Generator, weights: Any, biases: Any, fan_in: int, dtype: Any) -> Any:
        """Weights and biases of these shapes."""
        W = rng.standard_normal(weights).astype(dtype)
        b = None if self.b_std is None else rng.standard_normal(biases).astype(dtype)
        if self.parameterization == "standard":
            W *= dtype.type(self.W_std / math.sqrt(fan_in / self.s[0]))
            if b is not None:
                b *= dtype.type(self.b_std)
        return W, b

    def _unpack(self, params: Any) -> Any:
        if not isinstance(params, (tuple, list)) or len(params) != 2:
            raise ValueError(f"[{type(self).__name__}] params must be (W, b), as init_fn makes them")
        return params

    def _affine(self, z: Any, b: Any, fan_in: int) -> Any:
        if self.parameterization == "ntk":
            z = z * (self.W_std / math.sqrt(fan_in))
            return z if b is None else z + self.b_std * b
        z = z / math.sqrt(self.s[0])
        return z if b is None else z + b


@dataclass(frozen=True)
class Dense(_Weighted, Placed):
    """Fully connected layer; on inputs with spatial axes it acts at each position, as a convolution of one tap.

    Parameters
    ----------
    out_dim : int
        Width of the finite layer; the infinite network's kernels ignore it ('standard': the next layer's fan-in).
    W_std : float
        Standard deviation of the weights.
    b_std : float or None
        Standard deviation of the biases; None: no biases. 0.0 is not None: under 'standard' such a bias is trained.
    batch_axis, channel_axis : int
        Axes of samples and features in the inputs.
    parameterization : 'ntk' or 'standard'
    s : (int, int)
        'standard' only: width multipliers of input and output.

    Notes
    -----
    'ntk': ``z = W_std / sqrt(n_in) W x + b_std b``, W, b ~ N(0, 1): ``K' = W_std^2 K + b_std^2``,
    ``NTK' = K' + W_std^2 NTK``.

    'standard': ``z = W x / sqrt(s[0]) + b``, W ~ N(0, W_std^2 s[0] / n_in): the same ``K'``,
    ``NTK' = n_in / s[0] K + W_std^2 NTK + 1`` (the 1 only with biases).

    Raises
    ------
    ValueError
        For a width below 1, a negative or non-finite standard deviation, another parameterization.

    References
    ----------
    Jacot, Gabriel and Hongler (2018), arXiv:1806.07572; Sohl-Dickstein et al. (2020), arXiv:2001.07301 ('standard').
    """

    out_dim: int
    W_std: float = 1.0
    b_std: float | None = None
    batch_axis: int = 0
    channel_axis: int = -1
    parameterization: str = "ntk"
    s: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "out_dim", integer("Dense", "out_dim", self.out_dim))
        self._check_axes()
        self._check()

    def output_shape(self, shape: Shape) -> Shape:
        if not is_one(shape):
            raise ValueError(f"[Dense] takes one input, given shapes {shape}")
        axis = self.channel_axis % len(shape)
        return (*shape[:axis], self._width(self.out_dim), *shape[axis + 1 :])

    def init(self, rng: np.random.Generator, shape: Shape, dtype: Any) -> Any:
        axis = self.channel_axis % len(shape)
        fan_in, width = shape[axis], self._width(self.out_dim)
        if fan_in < 1:
            raise ValueError(f"[Dense] needs to know its number of input features, given shape {shape}")
        biases = [width if a == axis else 1 for a in range(len(shape))]
        return self._draw(rng, (fan_in, width), biases, fan_in, dtype)

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        W, b = self._unpack(params)
        axis = self.channel_axis % inputs.ndim
        if inputs.shape[axis] != W.shape[0]:
            raise ValueError(f"[Dense] inputs of shape {tuple(inputs.shape)} do not fit weights {tuple(W.shape)}")
        z = xp.moveaxis(xp.tensordot(inputs, W, axes=((axis,), (0,))), -1, axis)
        return self._affine(z, b, inputs.shape[axis])

    def lower(self, builder: Builder, values: Values) -> Value:
        value = builder.one(values)
        builder.check_axes(value, self.batch_axis, self.channel_axis)
        params = self.op_numbers(value.channels)
        builder.weighted.append((self, len(builder.ops), value.channels))
        return builder.emit("dense", value, params=params, gaussian=True, channels=self._width(self.out_dim))

    def structure(self, weighted: list[Any]) -> Any:
        weighted.append(self)
        axes = self.batch_axis, self.channel_axis
        return type(self), self.out_dim, self.b_std is None, axes, self.parameterization, self.s


@dataclass(frozen=True)
class Conv(_Weighted):
    """Convolution over spatial axes; with a filter of shape () over none, as Dense.

    Parameters
    ----------
    out_chan : int
        Channels of the finite layer; the infinite network's kernels ignore it ('standard': the next layer's fan-in).
    filter_shape : tuple of int, or int
        Taps along each spatial axis, even numbers too; an integer is for every axis of the inputs.
    strides : tuple of int, or int, optional
    padding : 'VALID', 'SAME' or 'CIRCULAR', int, or a tuple with an int or a pair (before, behind) for each axis
        SAME pads with zeros to ceil(size / stride) outputs, and an odd number of them with one more behind; CIRCULAR
        wraps around instead. Numbers are zeros before and behind, ``((1, 1), (2, 0))``. Averages divide by all taps,
        those on padding included.
    W_std, b_std, parameterization, s
        As for :class:`Dense`, with a fan-in of channels times taps.
    dimension_numbers : (str, str, str), optional
        Axes of inputs, filters and outputs, N, C, I and O beside one letter for each spatial axis: ``('NHWC', 'HWIO',
        'NHWC')``, the default for two. Filters, strides, padding and dilation follow the order of the second.
    dilation : tuple of int, or int, optional
        Distance between taps; Neural Tangents has no such argument.

    Raises
    ------
    ValueError
        For a window or stride below 1, padding below 0, a filter larger than the padded input, axes that do not fit,
        and as :class:`Dense`.

    Notes
    -----
    With A the mean over taps that both positions share, ``K'(p, p') = W_std^2 A(K)(p, p') + b_std^2`` and ``NTK' = K'
    + W_std^2 A(NTK)`` ('ntk').

    References
    ----------
    Novak et al. (2019), arXiv:1810.05148, eq. (6); Arora et al. (2019), arXiv:1904.11955, section 4.
    """

    out_chan: int
    filter_shape: Any
    strides: Any = None
    padding: Any = "VALID"
    W_std: float = 1.0
    b_std: float | None = None
    dimension_numbers: tuple[str, str, str] | None = None
    parameterization: str = "ntk"
    s: tuple[int, int] = (1, 1)
    dilation: Any = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        object.__setattr__(self, "out_chan", integer(name, "out_chan", self.out_chan))
        count = axes_among(self.filter_shape, self.strides, self.dilation, self.padding)
        if count is None and self.dimension_numbers is not None:
            count = len(self._named_axes()[1]) - 2
        for field in ("filter_shape", "strides", "dilation"):
            given = getattr(self, field)
            object.__setattr__(self, field, sizes(name, field, 1 if given is None else given, count))
        object.__setattr__(self, "padding", padding_of(name, self.padding, count))
        self._check()
        if count is None:  # until inputs say how many axes they have
            return
        if self.dimension_numbers is None:
            letters = _LETTERS[:count]
            object.__setattr__(self, "dimension_numbers", (f"N{letters}C", f"{letters}IO", f"N{letters}C"))
        self._check_dimension_numbers()

    def _over(self, count: int) -> Conv:
        """The layer on inputs of so many spatial axes."""
        if self.dimension_numbers is not None:
            return self
        if not 1 <= count <= MOST_AXES:
            raise ValueError(
                f"[{type(self).__name__}] takes inputs with spatial axes, given {max(count, 0)} (filter_shape=() is "
                "for none)"
            )
        return replace(self, filter_shape=(self.filter_shape,) * count)

    def _named_axes(self) -> tuple[str, str, str]:
        given: Any = self.dimension_numbers
        if not isinstance(given, (tuple, list)) or len(given) != 3 or not all(isinstance(g, str) for g in given):
            raise TypeError(f"[{type(self).__name__}] dimension_numbers must be three strings, given {given!r}")
        return given[0], given[1], given[2]

    def _check_dimension_numbers(self) -> None:
        given = inputs, filters, outputs = self._named_axes()
        spatial = set(filters) - {"I", "O"}
        rank = len(self.filter_shape) + 2
        if not (
            len(inputs) == len(filters) == len(outputs) == rank
            and set(inputs) == set(outputs) == spatial | {"N", "C"}
            and len(spatial) == rank - 2
            and {"I", "O"} <= set(filters)
        ):
            raise ValueError(
                f"[{type(self).__name__}] dimension_numbers {tuple(given)} do not name the axes of a filter of shape "
                f"{self.filter_shape}"
            )
        object.__setattr__(self, "dimension_numbers", tuple(given))

    @property
    def _specs(self) -> tuple[str, str, str]:
        assert self.dimension_numbers is not None
        return self.dimension_numbers

    def _in_input_order(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        """An entry for each spatial axis, from the filter's order to the inputs'."""
        inputs, filters, _ = self._specs
        letters = [c for c in filters if c not in "IO"]
        return tuple(value[letters.index(c)] for c in inputs if c not in "NC")

    def _check_rank(self, what: str, spatial: tuple[int, ...]) -> None:
        if len(spatial) != len(self.filter_shape):
            raise ValueError(
                f"[{what}] has a filter of shape {self.filter_shape}, inputs have {len(spatial)} spatial axes, "
                f"{spatial}; it takes {self._specs[0]}, axis {self._specs[0].index('C')} counting channels"
            )

    def _window(self, what: str, spatial: tuple[int, ...]) -> Any:
        self._check_rank(what, spatial)
        shape, strides, dilation = (self._in_input_order(v) for v in (self.filter_shape, self.strides, self.dilation))
        name = f"{what}, inputs read as {self._specs[0]}"
        padding: Pads = self.padding if isinstance(self.padding, str) else self._in_input_order(self.padding)
        return Window.of(name, spatial, shape, strides, dilation, padding)

    def axes(self) -> tuple[int, int]:
        if self.dimension_numbers is None:
            return 0, -1
        return self._specs[0].index("N"), self._specs[0].index("C")

    def output_shape(self, shape: Shape) -> Shape:
        if self.dimension_numbers is None:
            return self._over(len(shape) - 2).output_shape(shape)
        inputs, _, outputs = self._specs
        if not is_one(shape) or len(shape) != len(inputs):
            raise ValueError(f"[{type(self).__name__}] takes one input of shape {inputs}, given shape {shape}")
        spatial = tuple(n for n, c in zip(shape, inputs, strict=True) if c not in "NC")
        found = iter(self._window(type(self).__name__, spatial).size_out)
        sizes_out = {c: next(found) for c in inputs if c not in "NC"}
        sizes_out |= {"N": shape[inputs.index("N")], "C": self._width(self.out_chan)}
        return tuple(sizes_out[c] for c in outputs)

    def init(self, rng: np.random.Generator, shape: Shape, dtype: Any) -> Any:
        if self.dimension_numbers is None:
            return self._over(len(shape) - 2).init(rng, shape, dtype)
        inputs, filters, outputs = self._specs
        channels, width = shape[inputs.index("C")], self._width(self.out_chan)
        if channels < 1:
            raise ValueError(f"[{type(self).__name__}] needs to know its number of input channels, given shape {shape}")
        taps = iter(self.filter_shape)
        weights = [channels if c == "I" else width if c == "O" else next(taps) for c in filters]
        biases = [width if c == "C" else 1 for c in outputs]
        return self._draw(rng, weights, biases, channels * math.prod(self.filter_shape), dtype)

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        if self.dimension_numbers is None:
            return self._over(inputs.ndim - 2).apply(params, inputs, xp)
        W, b = self._unpack(params)
        spec_in, filters, outputs = self._specs
        if inputs.ndim != len(spec_in):
            raise ValueError(f"[{type(self).__name__}] takes inputs {spec_in}, given shape {tuple(inputs.shape)}")
        letters = [c for c in spec_in if c not in "NC"]
        x = permute(xp, inputs, [spec_in.index(c) for c in ["N", *letters, "C"]])
        W = permute(xp, W, [filters.index(c) for c in [*letters, "I", "O"]])
        channels = x.shape[-1]
        if channels != W.shape[-2]:
            raise ValueError(
                f"[{type(self).__name__}] inputs of shape {tuple(inputs.shape)} have {channels} channels (axis "
                f"{spec_in.index('C')}), weights {W.shape[-2]}"
            )
        window = self._window(type(self).__name__, tuple(x.shape[1:-1]))
        z: Any = 0
        for tap in np.ndindex(*window.shape):
            z = z + xp.tensordot(tap_of(x, window, tap, xp), W[tap], axes=((x.ndim - 1,), (0,)))
        order = ["N", *letters, "C"]
        z = permute(xp, z, [order.index(c) for c in outputs])
        return self._affine(z, b, channels * window.taps)

    def lower(self, builder: Builder, values: Values) -> Value:
        value = builder.one(values)
        if self.dimension_numbers is None:
            return self._over(len(value.spatial)).lower(builder, values)
        outputs = self._specs[2]
        window = self._window(builder.where, value.spatial)
        builder.check_axes(value, *self.axes())
        found = self._emit(builder, value, window)
        order = self._turned()
        changes: dict[str, Any] = {"batch_axis": outputs.index("N"), "channel_axis": outputs.index("C")}
        if order == sorted(order):
            return replace(found, **changes)
        index = np.arange(math.prod(window.size_out)).reshape(window.size_out).transpose(order)
        return builder.emit("gather", found, map=Gather.of(index, index.size), spatial=index.shape, **changes)

    def _turned(self) -> list[int]:
        """Which spatial axis of the inputs each one of the outputs is."""
        inputs, _, outputs = ([c for c in spec if c not in "NCIO"] for spec in self._specs)
        return [inputs.index(c) for c in outputs]

    def _emit(self, builder: Builder, value: Value, window: Any) -> Value:
        """The op, its result's spatial axes in the inputs' order."""
        w2, b2, f, g = self.op_numbers(value.channels * window.taps)
        changes: dict[str, Any] = {"gaussian": True, "channels": self._width(self.out_chan)}
        if not window.shape:
            return builder.emit("dense", value, params=(w2, b2, f, g), **changes)
        inside = window.inside()
        kept = inside.taps / window.taps  # the op takes the mean over the taps that are left
        params = (w2 * kept, b2, f * kept, g)
        return builder.emit("conv", value, params=params, window=inside, spatial=window.size_out, **changes)


def permute(xp: Any, x: Any, order: list[int]) -> Any:
    """Axes in another order; NumPy before 2 has no ``permute_dims``."""
    return np.transpose(x, order) if xp is np else xp.permute_dims(x, order)


def tap_of(x: Any, window: Window, tap: tuple[int, ...], xp: Any) -> Any:
    """What one tap reads of ``x`` (batch, spatial axes, channels), by output position: padding reads zeros."""
    for axis, a in enumerate(tap, start=1):
        positions = window.positions(axis - 1)[:, a]
        x = xp.take(x, xp.asarray(np.maximum(positions, 0), **placed(x)), axis=axis)
        if (positions < 0).any():
            inside = (positions >= 0).reshape([-1 if k == axis else 1 for k in range(x.ndim)])
            x = xp.where(xp.asarray(inside, **placed(x)), x, xp.zeros_like(x))
    return x
