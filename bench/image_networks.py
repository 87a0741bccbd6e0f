"""Networks on images in the vocabulary of a given ``stax`` module, shared by the image benches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

Network = Callable[[Any], Any]  # stax module -> (init_fn, apply_fn, kernel_fn)


def _conv(stax: Any, layers: int = 1) -> list[Any]:
    """3x3 convolutions without biases, each with a ReLU behind it."""
    return [stax.Conv(1, (3, 3), None, "SAME", 2**0.5), stax.Relu()] * layers


def _halve(stax: Any) -> Any:
    return stax.AvgPool((2, 2), (2, 2))


def deep(stax: Any, layers: int, readout: str) -> Any:
    """``layers`` times convolution and ReLU, then ``readout`` ('GlobalAvgPool' or 'Flatten') and a Dense layer."""
    return stax.serial(*_conv(stax, layers), getattr(stax, readout)(), stax.Dense(1))


def myrtle(stax: Any, depth: int) -> Any:
    """Myrtle-5 and Myrtle-10 of Shankar et al. (2020), arXiv:2003.02237: a pool behind each group, then down to 1x1."""
    first, second, third = {5: (2, 1, 1), 10: (3, 3, 3)}[depth]
    body = [*_conv(stax, first), _halve(stax), *_conv(stax, second), _halve(stax), *_conv(stax, third)]
    return stax.serial(*body, *[_halve(stax)] * 3, stax.Flatten(), stax.Dense(10, 2**0.5))


def wide_resnet(stax: Any, blocks: int, k: int) -> Any:
    """The Wide ResNet of Neural Tangents' README, 6 ``blocks`` + 4 layers deep, for 32x32."""

    def conv(channels: int, stride: int = 1) -> Any:
        return stax.Conv(channels, (3, 3), (stride, stride), "SAME")

    def block(channels: int, stride: int, mismatch: bool) -> Any:
        main = stax.serial(stax.Relu(), conv(channels, stride), stax.Relu(), conv(channels))
        shortcut = conv(channels, stride) if mismatch else stax.Identity()
        return stax.serial(stax.FanOut(2), stax.parallel(main, shortcut), stax.FanInSum())

    def group(channels: int, stride: int) -> Any:
        return stax.serial(
            *[block(channels, stride if first else 1, first) for first in [True] + [False] * (blocks - 1)]
        )

    groups = [group(16 * k, 1), group(32 * k, 2), group(64 * k, 2)]
    return stax.serial(conv(16), *groups, stax.AvgPool((8, 8)), stax.Flatten(), stax.Dense(10, 1.0, 0.0))


def pooled(stax: Any) -> Any:
    """Three convolutions with pools between them: what a study on real images of 28x28 can afford."""
    parts = [*_conv(stax), _halve(stax), *_conv(stax), _halve(stax), *_conv(stax)]
    return stax.serial(*parts, stax.GlobalAvgPool(), stax.Dense(1))


def dense(stax: Any, layers: int) -> Any:
    """Fully connected ReLU network on the pixels."""
    return stax.serial(stax.Flatten(), *[stax.Dense(1, 2**0.5), stax.Relu()] * layers, stax.Dense(1))


NETWORKS: dict[str, Network] = {
    "deep-gap": partial(deep, layers=21, readout="GlobalAvgPool"),
    "deep-flatten": partial(deep, layers=21, readout="Flatten"),
    "myrtle-5": partial(myrtle, depth=5),
    "myrtle-10": partial(myrtle, depth=10),
    "wide-resnet-16": partial(wide_resnet, blocks=2, k=1),
    "conv3-gap": partial(deep, layers=3, readout="GlobalAvgPool"),
    "conv3-flatten": partial(deep, layers=3, readout="Flatten"),
    "conv3-pooled": pooled,
    "dense3": partial(dense, layers=3),
}
