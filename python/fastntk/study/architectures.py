"""Architectures of the study, and how their ensembles are trained: dense ones in NumPy, the others by PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import stax
from ..predict import max_learning_rate
from .data import Array
from .networks import draw, empirical_ntk, train

NETWORKS = ("dense", "conv", "conv-gap")
_PRODUCTS = 60  # of power iteration, for a learning rate


@dataclass(frozen=True)
class Architecture:
    """ReLU networks of one kind over widths.

    Attributes
    ----------
    kind : 'dense', 'conv' or 'conv-gap'
        Fully connected; or convolutions of 3 x 3, of stride 2 from the second on, before all positions or their mean.
    depth : int
        Hidden layers.
    w_std, b_std : float
    outputs : int
    """

    kind: str
    depth: int
    w_std: float
    b_std: float
    outputs: int

    @property
    def images(self) -> bool:
        return self.kind != "dense"

    def layers(self, width: int, parameterization: str = "ntk") -> Any:
        """The network of stax."""
        more: dict[str, Any] = {"W_std": self.w_std, "b_std": self.b_std, "parameterization": parameterization}
        if not self.images:
            hidden = stax.Dense(width, **more), stax.Relu()
            return stax.serial(*hidden * self.depth, stax.Dense(self.outputs, **more))
        parts: list[Any] = []
        for layer in range(self.depth):
            strides = (2, 2) if layer else (1, 1)
            parts += [stax.Conv(width, (3, 3), strides, "SAME", **more), stax.Relu()]
        gather = stax.GlobalAvgPool() if self.kind == "conv-gap" else stax.Flatten()
        return stax.serial(*parts, gather, stax.Dense(self.outputs, **more))

    def __str__(self) -> str:
        if not self.images:
            return f"{self.depth} x (Dense, Relu), Dense"
        return f"{self.depth} x (Conv, Relu), {'GlobalAvgPool' if self.kind == 'conv-gap' else 'Flatten'}, Dense"


@dataclass(frozen=True, eq=False)
class Outcome:
    """An ensemble after training.

    Attributes
    ----------
    outputs : numpy.ndarray (networks that did not diverge, n + m, k) float64
        On training and test samples; less those of the start where training was centered.
    diverged : numpy.ndarray (S,) of int
        Step at which a network diverged; -1 of those that did not.
    rate : float
    """

    outputs: Array
    diverged: Array
    rate: float


def trained(
    network: Architecture, config: Any, x: Array, x_test: Array, y: Array, *, width: int, networks: int, steps: int,
    largest: float, seed: int,
) -> Outcome:  # fmt: skip
    """Train an ensemble as a :class:`Configuration` says; ``largest``: the infinite network's largest learning rate."""
    if network.images:
        return _by_torch(network, config, x, x_test, y, width, networks, steps, largest, seed)
    start = draw(
        networks, x.shape[1], width, network.depth, network.outputs, np.random.default_rng([seed, width]),
        parameterization=config.parameterization, w_std=network.w_std, b_std=network.b_std,
    )  # fmt: skip
    if config.parameterization == "standard":
        largest = max_learning_rate(empirical_ntk(start, x).mean(axis=0), y.size)
    rate = config.lr_multiplier * largest
    found = train(start, x, y, rate, steps, l2=config.l2, centered=config.centered)
    both = np.concatenate([x, x_test])
    outputs = found.networks(both).astype(np.float64)
    if config.centered:
        outputs = outputs - start.take(found.survived)(both)
    return Outcome(outputs, found.diverged, rate)


def _by_torch(
    network: Architecture, config: Any, x: Array, x_test: Array, y: Array, width: int, networks: int, steps: int,
    largest: float, seed: int,
) -> Outcome:  # fmt: skip
    from ..finite import Record
    from ..finite import train as train_finite

    layers = network.layers(width, config.parameterization)
    seeds = [int(s) for s in np.random.default_rng([seed, width]).integers(2**31, size=networks)]
    if config.parameterization == "standard":
        largest = 2 * y.size / _curvature(layers, x, seeds)
    rate = config.lr_multiplier * largest

    def loss(outputs: Any, targets: Any) -> Any:
        return ((outputs - targets) ** 2).sum() / (2 * targets.numel())

    found = train_finite(
        layers, x, y, rate, steps, seeds=seeds, loss=loss, l2=config.l2, centered=config.centered, x_test=x_test,
        y_test=np.zeros((len(x_test), y.shape[1])), record=Record(every=steps), on_divergence="keep",
    )  # fmt: skip
    assert found.test_outputs is not None
    outputs = np.concatenate([found.outputs, found.test_outputs], axis=1)
    return Outcome(outputs[found.diverged < 0], found.diverged, rate)


def _curvature(layers: Any, x: Array, seeds: list[int]) -> float:
    """The largest eigenvalue of the networks' tangent kernels before training, their mean."""
    import torch

    from ..finite.measure import top_of_kernels
    from ..finite.model import Model

    model = Model(layers, x.shape, seeds, dtype=np.float32)
    f = model(model.tensor(x.astype(np.float32)))
    start = torch.randn(f.shape, generator=torch.Generator().manual_seed(0), dtype=f.dtype)
    top, _ = top_of_kernels(model.leaves, f, start, _PRODUCTS)
    return float(top.mean())
