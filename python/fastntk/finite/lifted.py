"""Layers of stax for single modules of PyTorch, weights left out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .. import stax
from ..base.libraries import library
from ..network.layer import Layer


class Unliftable(NotImplementedError):
    """A module, or what it does to tensors, that no layer of stax stands for; named by its path."""


@dataclass(frozen=True)
class Axes:
    """What is known of a tensor's axes: their number, where its channels are, its sizes."""

    ndim: int | None = None
    channel: int | None = None  # 1, or -1 for the last; None while nothing says
    sizes: tuple[int, ...] | None = None

    @property
    def rows(self) -> bool:
        """Samples and channels alone."""
        return self.ndim == 2

    @property
    def channels_last(self) -> bool:
        return self.channel == -1 and not self.rows

    @property
    def channels_first(self) -> bool:
        return self.channel == 1 and not self.rows


def named(path: str, module: Any, why: str = "is what no layer of stax stands for") -> Unliftable:
    """The refusal of a module, by its path, in one line."""
    return Unliftable(f"[lift] {path}: {type(module).__name__}({module.extra_repr()}) {why}")


def drawn_std(module: Any, kind: str, fan_in: int, variances: str) -> float:
    """Deviation of a parameter as PyTorch draws it, or root mean square of the one that is there (of mean 0)."""
    if variances == "given":
        return float(getattr(module, kind).detach().double().pow(2).mean().sqrt())
    return 1 / math.sqrt(3 * fan_in)  # of kaiming_uniform_(a=sqrt(5)): uniform on +-1 / sqrt(fan-in), biases too


def stds(module: Any, fan_in: int, drawn: int, variances: str) -> tuple[float, float | None]:
    """``W_std``, of weights times the root of the fan-in, and ``b_std``; PyTorch draws by the fan-in ``drawn``."""
    W = drawn_std(module, "weight", drawn, variances) * math.sqrt(fan_in)
    return W, None if module.bias is None else drawn_std(module, "bias", drawn, variances)


# ---------------------------------------------------------------- layers with weights


def dense(module: Any, path: str, axes: Axes, variances: str) -> Layer:
    if axes.channels_first:
        raise named(path, module, "over the last axis of images whose channels stand behind the samples")
    W_std, b_std = stds(module, module.in_features, module.in_features, variances)
    return stax.Dense(module.out_features, W_std, b_std, parameterization="standard")


def _letters(taps: tuple[int, ...]) -> tuple[str, str, str]:
    letters = "HWD"[: len(taps)]
    return f"NC{letters}", f"OI{letters}", f"NC{letters}"


def conv(module: Any, path: str, axes: Axes, variances: str) -> Layer:
    _channels_first(module, path, axes)
    if module.groups != 1 or module.padding_mode not in ("zeros", "circular"):
        raise named(path, module, f"is of {module.groups} groups and padding {module.padding_mode!r}")
    taps = tuple(module.kernel_size)
    padding: Any = module.padding if isinstance(module.padding, str) else tuple((p, p) for p in module.padding)
    if padding == "same" and all(t == 1 for t in module.stride) and all(k % 2 for k in taps):
        padding = tuple((e * (k // 2),) * 2 for k, e in zip(taps, module.dilation, strict=True))
    elif isinstance(padding, str):
        padding = padding.upper()
    if module.padding_mode == "circular":
        whole = tuple((e * (k // 2),) * 2 for k, e in zip(taps, module.dilation, strict=True))
        if padding != whole or any(t != 1 for t in module.stride) or any(k % 2 == 0 for k in taps):
            raise named(path, module, "has circular padding that does not keep the image's size")
        padding = "CIRCULAR"
    fan_in = module.in_channels * math.prod(taps)
    return stax.Conv(
        module.out_channels, taps, tuple(module.stride), padding, *stds(module, fan_in, fan_in, variances),
        _letters(taps), parameterization="standard", dilation=tuple(module.dilation),
    )  # fmt: skip


def conv_transpose(module: Any, path: str, axes: Axes, variances: str) -> Layer:
    """Where the zeros around the stretched image are those of 'VALID' or 'SAME' of ``jax.lax.conv_transpose``."""
    _channels_first(module, path, axes)
    if module.groups != 1 or any(e != 1 for e in module.dilation):
        raise named(path, module, f"is of {module.groups} groups and dilation {tuple(module.dilation)}")
    taps, strides = tuple(module.kernel_size), tuple(module.stride)
    around = [
        (k - 1 - p, k - 1 - p + more)
        for k, p, more in zip(taps, module.padding, module.output_padding, strict=True)
    ]  # fmt: skip
    valid = [(k - 1, k - 1 + max(t - k, 0)) for k, t in zip(taps, strides, strict=True)]
    same = [_same(k, t) for k, t in zip(taps, strides, strict=True)]
    if around not in (valid, same):
        raise named(path, module, "pads neither as 'VALID' nor as 'SAME'")
    positions = math.prod(taps)
    drawn = module.out_channels * positions  # PyTorch takes the second axis of the weights for the fan-in
    return stax.ConvTranspose(
        module.out_channels, taps, strides, "VALID" if around == valid else "SAME",
        *stds(module, module.in_channels * positions, drawn, variances), _letters(taps), parameterization="standard",
    )  # fmt: skip


def _same(taps: int, stride: int) -> tuple[int, int]:
    both = taps + stride - 2
    before = taps - 1 if stride > taps - 1 else -(-both // 2)
    return before, both - before


def _channels_first(module: Any, path: str, axes: Axes) -> None:
    if axes.channels_last:
        raise named(path, module, "on tensors whose channels stand last")


# ---------------------------------------------------------------- without weights


def pool(module: Any, path: str, axes: Axes) -> Layer:
    def pair(value: Any) -> Any:
        return value if isinstance(value, int) else tuple(value)

    _channels_first(module, path, axes)
    if module.ceil_mode or getattr(module, "divisor_override", None):
        raise named(path, module, "has ceil_mode or divisor_override")
    inside = not module.count_include_pad
    return stax.AvgPool(
        pair(module.kernel_size), pair(module.stride), pair(module.padding), normalize_edges=inside, channel_axis=1
    )


def pool_to_one(module: Any, path: str, axes: Axes) -> Layer:
    _channels_first(module, path, axes)
    sizes: Any = module.output_size
    if any(n != 1 for n in (sizes if isinstance(sizes, tuple) else (sizes,))):
        raise named(path, module, "pools to more than one position")
    return stax.GlobalAvgPool(channel_axis=1)


def norm(module: Any, path: str, axes: Axes) -> Layer:
    """LayerNorm, and GroupNorm of one group: over channels, alone or with all positions."""
    affine = getattr(module, "elementwise_affine", True) and getattr(module, "affine", True)
    if affine and not (bool((module.weight == 1).all()) and (module.bias is None or bool((module.bias == 0).all()))):
        raise named(path, module, "has weights that are not 1, or biases that are not 0")
    over = len(module.normalized_shape) if hasattr(module, "normalized_shape") else None
    if over is None:
        if module.num_groups != 1 or axes.ndim is None or axes.channels_last:
            raise named(path, module, "is lifted of one group, behind a convolution or with input_shape=")
        over = axes.ndim - 1
    elif axes.channels_first and axes.ndim is not None and over != axes.ndim - 1:
        raise named(path, module, "over positions without the channels, which stand behind the samples")
    if axes.channels_first or (over > 1 and axes.channel is None and axes.ndim == over + 1):
        return stax.LayerNorm(tuple(range(1, over + 1)), eps=module.eps, channel_axis=1)
    return stax.LayerNorm(tuple(range(-over, 0)), eps=module.eps)


def upsample(module: Any, path: str, axes: Axes) -> Layer:
    _channels_first(module, path, axes)
    sizes: Any = module.size
    inside = None if axes.sizes is None else axes.sizes[2:]
    if module.mode in ("nearest", "bicubic") or sizes is None:
        if inside is None:
            raise named(path, module, "needs lift(..., input_shape=)")
        if sizes is None:
            factors = module.scale_factor
            factors = factors if isinstance(factors, tuple) else (factors,) * len(inside)
            sizes = tuple(math.floor(n * f) for n, f in zip(inside, factors, strict=True))
            if any(n * f != size for n, f, size in zip(inside, factors, sizes, strict=True)):
                raise named(path, module, "does not scale to whole sizes")
    spatial = axes.ndim - 2 if axes.ndim is not None else 2
    sizes = tuple(sizes) if isinstance(sizes, (tuple, list)) else (sizes,) * spatial
    method = {"nearest-exact": "nearest", "linear": "linear", "bilinear": "linear", "trilinear": "linear"}.get(
        module.mode
    )
    if module.mode == "nearest" and all(m % n == 0 for m, n in zip(sizes, inside or (), strict=True)):
        method = "nearest"  # elsewhere PyTorch takes other pixels than the nearest ones
    if method is None or module.align_corners:
        raise named(path, module, "resizes as no method of stax.ImageResize does")
    return stax.ImageResize((-1, -1, *sizes), method, antialias=False, channel_axis=1)


_PLAIN = {
    "ReLU": stax.Relu, "Tanh": stax.Tanh, "Sigmoid": stax.Sigmoid, "SiLU": stax.Swish, "Mish": stax.Mish,
    "Softsign": stax.Softsign, "ReLU6": stax.ReLU6, "SELU": stax.SELU, "Identity": stax.Identity,
}  # fmt: skip


def _gelu_of_tanh(x: Any) -> Any:
    return 0.5 * x * (1 + library(x).tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def activation(module: Any) -> Layer | None:
    """What a module stands for that has no weights; None of others."""
    name = type(module).__name__
    if type(module).__module__.split(".")[0] != "torch":
        return None
    if name in _PLAIN:
        return _PLAIN[name]()
    if name == "LeakyReLU":
        return stax.LeakyRelu(module.negative_slope)
    if name == "GELU":
        return stax.Gelu() if module.approximate == "none" else stax.Activation(_gelu_of_tanh, name="gelu of tanh")
    if name == "Softplus" and module.beta == 1:
        return stax.Softplus()
    if name == "ELU":
        return stax.Elu(module.alpha)
    if name == "CELU":
        return stax.CELU(module.alpha)
    if name == "Hardtanh":
        return stax.HardTanh(module.min_val, module.max_val)
    if name == "Dropout":
        return stax.Dropout(1 - module.p, mode="train" if module.training else "test")
    return None
