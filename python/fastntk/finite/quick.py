"""The same networks in steps that PyTorch has: convolutions of its own instead of sums over taps."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from ..base.libraries import library as _library_of
from ..network.layer import Layer, Shape
from ..network.weights import Conv
from .places import mapped


def needed(what: str) -> Any:
    """PyTorch.

    Raises
    ------
    ImportError
        It is missing.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"[{what}] finite networks need PyTorch (pip install 'fastntk[torch]')") from error
    _library_of(torch.empty(0))  # and array-api-compat
    return torch


def jvp(f: Any, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """``torch.func.jvp``, whose first call has PyTorch warn of what PyTorch itself is made of."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found: Any = torch.func.jvp(f, primals, tangents)
    return found[0], found[1]


@dataclass(frozen=True, repr=False)
class _Conv(Layer):
    """A convolution whose axes stand in the usual order, over one to three spatial axes."""

    inner: Conv

    def output_shape(self, shape: Shape) -> Shape:
        return self.inner.output_shape(shape)

    def init(self, rng: Any, shape: Shape, dtype: Any) -> Any:
        return self.inner.init(rng, shape, dtype)

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        import torch
        from torch.nn import functional

        W, b = self.inner._unpack(params)
        layer = self.inner._over(inputs.ndim - 2)
        window = layer._window("Conv", tuple(inputs.shape[1:-1]))
        count = len(window.shape)
        if count > 3:
            return layer.apply(params, inputs, xp)
        pads: list[int] = []
        for n, m, k, t, e, low in zip(
            window.size_in, window.size_out, window.shape, window.strides, window.dilation, window.low, strict=True
        ):
            pads = [low, max(0, (m - 1) * t + (k - 1) * e + 1 - low - n), *pads]
        x = torch.movedim(inputs, -1, 1)
        if any(pads):
            x = functional.pad(x, pads)
        conv = (functional.conv1d, functional.conv2d, functional.conv3d)[count - 1]
        filters = torch.movedim(W, (-1, -2), (0, 1))
        z = torch.movedim(conv(x, filters, stride=window.strides, dilation=window.dilation), 1, -1)
        fan_in: int = inputs.shape[-1] * window.taps
        return layer._affine(z, b, fan_in)


def quick(network: Layer) -> Layer:
    """The network with its convolutions made PyTorch's where they can be; parameters are the same."""

    def change(layer: Layer) -> Layer:
        if type(layer) is not Conv or layer.padding == "CIRCULAR" or layer.filter_shape == ():
            return layer
        if layer.dimension_numbers is not None:
            inputs, filters, outputs = layer.dimension_numbers
            letters = inputs[1:-1]
            usual = inputs == outputs == f"N{letters}C" and filters == f"{letters}IO"
            if not usual or not 1 <= len(letters) <= 3:
                return layer
        return _Conv(layer)

    return mapped(network, change)
