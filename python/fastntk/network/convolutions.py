"""Convolutions of other kinds: ConvTranspose, which spreads, and ConvLocal, whose weights positions do not share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .layer import Shape, is_one
from .program import Builder, Value
from .weights import Conv, permute, tap_of
from .window import Transposed


@dataclass(frozen=True)
class ConvTranspose(Conv):
    """Transposed convolution: each input position spreads over as many output positions as the filter has taps.

    Parameters
    ----------
    out_chan, filter_shape, strides, W_std, b_std, dimension_numbers, parameterization, s
        As for :class:`Conv`.
    padding : 'VALID', 'SAME' or 'CIRCULAR'
        As of ``jax.lax.conv_transpose``: SAME gives size times stride outputs, and so does CIRCULAR, which folds the
        VALID result back.

    Raises
    ------
    ValueError
        For padding by numbers, a dilation, and as :class:`Conv`.

    Notes
    -----
    ``K'(P, P') = W_std^2 / taps sum_a K(p_a(P), p_a(P')) + b_std^2`` over the taps a that have a source at both
    positions; with strides some have none, and the sum is still divided by all taps. The NTK as of :class:`Conv`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.padding, str):
            raise ValueError(f"[ConvTranspose] padding must be 'VALID', 'SAME' or 'CIRCULAR', given {self.padding!r}")
        if self.dilation not in (1, (1,) * len(_tuple(self.dilation))):
            raise ValueError(f"[ConvTranspose] has no dilation, given {self.dilation!r}")

    def _window(self, what: str, spatial: tuple[int, ...]) -> Any:
        super()._check_rank(what, spatial)
        shape, strides = (self._in_input_order(v) for v in (self.filter_shape, self.strides))
        return Transposed.of(spatial, shape, strides, self.padding)

    def _emit(self, builder: Builder, value: Value, window: Any) -> Value:
        params = self.op_numbers(value.channels * window.taps)
        return builder.emit(
            "transposed", value, params=params, window=window, gaussian=True, channels=self._width(self.out_chan),
            spatial=window.size_out,
        )  # fmt: skip


@dataclass(frozen=True)
class ConvLocal(Conv):
    """Convolution with weights and biases of each output position's own.

    Parameters
    ----------
    out_chan, filter_shape, strides, padding, W_std, b_std, dimension_numbers, parameterization, s, dilation
        As for :class:`Conv`.

    Raises
    ------
    ValueError
        As :class:`Conv`.

    Notes
    -----
    ``K'(p, p)`` and its NTK are those of :class:`Conv`; of two positions both are 0.

    References
    ----------
    Novak et al. (2019), arXiv:1810.05148, section 5.1.
    """

    def init(self, rng: np.random.Generator, shape: Shape, dtype: Any) -> Any:
        if self.dimension_numbers is None:
            return self._over(len(shape) - 2).init(rng, shape, dtype)
        inputs, filters, outputs = self._specs
        channels = shape[inputs.index("C")]
        if channels < 1:
            raise ValueError(f"[ConvLocal] needs to know its number of input channels, given shape {shape}")
        out = dict(zip(outputs, self.output_shape(shape), strict=True))
        fan_in = channels * math.prod(self.filter_shape)
        weights = [fan_in if c == "I" else out["C"] if c == "O" else out[c] for c in filters]
        return self._draw(rng, weights, [1 if c == "N" else out[c] for c in outputs], fan_in, dtype)

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        if self.dimension_numbers is None:
            return self._over(inputs.ndim - 2).apply(params, inputs, xp)
        W, b = self._unpack(params)
        spec, filters, outputs = self._specs
        if not is_one(tuple(inputs.shape)) or inputs.ndim != len(spec):
            raise ValueError(f"[ConvLocal] takes inputs {spec}, given shape {tuple(inputs.shape)}")
        letters = [c for c in spec if c not in "NC"]
        x = permute(xp, inputs, [spec.index(c) for c in ["N", *letters, "C"]])
        W = permute(xp, W, [filters.index(c) for c in [*letters, "I", "O"]])
        window, channels = self._window("ConvLocal", tuple(x.shape[1:-1])), x.shape[-1]
        if W.shape[-2] != channels * window.taps:
            raise ValueError(
                f"[ConvLocal] inputs of shape {tuple(inputs.shape)} and {window.taps} taps do not fit weights for "
                f"{W.shape[-2]} numbers a position"
            )
        z: Any = 0
        for k, tap in enumerate(np.ndindex(*window.shape)):  # channel by channel, the taps of each
            own = W[..., k :: window.taps, :]
            z = z + xp.matmul(tap_of(x, window, tap, xp)[..., None, :], own)[..., 0, :]
        order = ["N", *letters, "C"]
        return self._affine(permute(xp, z, [order.index(c) for c in outputs]), b, channels * window.taps)

    def _emit(self, builder: Builder, value: Value, window: Any) -> Value:
        found = super()._emit(builder, value, window)
        return builder.emit("local", found) if math.prod(window.size_out) > 1 else found


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
