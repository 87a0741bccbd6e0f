"""Ensembles of fully connected ReLU networks, all trained at once by full-batch gradient descent."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ..abc.training import blown_from
from ..base.checks import integer

Array = npt.NDArray[Any]

PARAMETERIZATIONS = ("ntk", "standard")


@dataclass(frozen=True, eq=False)
class Ensemble:
    """S networks of one shape; called with inputs (n, d), gives outputs (S, n, k).

    ``h^l = s_l x^(l-1) w^l + t_l beta^l``, ``x^l = max(h^l, 0)``. Effective weights have variance ``w_std^2 / fan-in``,
    biases ``b_std^2``: by the factors s_l and t_l in the NTK parameterization, where all trained numbers start standard
    normal; by the initialisation in the standard one, where the factors are 1.

    Attributes
    ----------
    weights : tuple of numpy.ndarray (S, fan-in, fan-out)
    biases : tuple of numpy.ndarray (S, 1, fan-out)
    scales : tuple of (float, float)
        s_l and t_l.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    scales: tuple[tuple[float, float], ...]

    def __len__(self) -> int:
        return len(self.weights[0])

    def take(self, members: Array) -> Ensemble:
        """Some of the networks."""
        return replace(
            self, weights=tuple(w[members] for w in self.weights), biases=tuple(b[members] for b in self.biases)
        )

    def preactivations(self, x: Array) -> list[Array]:
        """``h^1, ..., h^(L+1)``, the last of them the outputs."""
        found: list[Array] = []
        for layer, (w, b, (s, t)) in enumerate(zip(self.weights, self.biases, self.scales, strict=True)):
            below = np.maximum(found[-1], 0) if layer else x
            h = below @ w
            h *= s
            h += t * b
            found.append(h)
        return found

    def __call__(self, x: Array) -> Array:
        return self.preactivations(x.astype(self.weights[0].dtype, copy=False))[-1]

    def gradients(self, x: Array, hs: list[Array], pull: Array) -> tuple[list[Array], list[Array]]:
        """By weights and biases, of a loss whose derivative by the outputs is pull (S, n, k)."""
        by_weight, by_bias = [], []
        for layer in range(len(self.weights) - 1, -1, -1):
            s, t = self.scales[layer]
            below = np.maximum(hs[layer - 1], 0) if layer else x
            by_weight.append(np.swapaxes(below, -1, -2) @ (s * pull))
            by_bias.append(t * pull.sum(axis=1, keepdims=True))
            if layer:
                pull = (s * pull) @ np.swapaxes(self.weights[layer], 1, 2)
                pull *= hs[layer - 1] > 0
        return by_weight[::-1], by_bias[::-1]


def draw(
    count: int, d: int, width: int, depth: int, outputs: int, rng: np.random.Generator, *,
    parameterization: str = "ntk", w_std: float = math.sqrt(2), b_std: float = 0.1, dtype: Any = np.float32,
) -> Ensemble:  # fmt: skip
    """Draw networks with ``depth`` hidden layers.

    Parameters
    ----------
    count, d, width, depth, outputs : int
        Networks, input features, neurons of a hidden layer, hidden layers, outputs.
    rng : numpy.random.Generator
        One state gives the same functions in both parameterizations.
    parameterization : 'ntk' or 'standard'
    w_std, b_std : float
        Of all layers.
    dtype : float32 or float64

    Returns
    -------
    Ensemble

    Raises
    ------
    ValueError
        Numbers below 1, another parameterization.
    """
    what = "draw"
    for name, value in (("count", count), ("d", d), ("width", width), ("depth", depth), ("outputs", outputs)):
        integer(what, name, value)
    if parameterization not in PARAMETERIZATIONS:
        raise ValueError(f"[{what}] parameterization must be 'ntk' or 'standard', given {parameterization!r}")
    sizes = (d, *[width] * depth, outputs)
    weights, biases, scales = [], [], []
    for fan_in, fan_out in pairwise(sizes):
        factors = (w_std / math.sqrt(fan_in), b_std)
        w, b = rng.standard_normal((count, fan_in, fan_out)), rng.standard_normal((count, 1, fan_out))
        if parameterization == "standard":
            w, b = factors[0] * w, factors[1] * b
            factors = (1.0, 1.0)
        weights.append(w.astype(dtype))
        biases.append(b.astype(dtype))
        scales.append(factors)
    return Ensemble(tuple(weights), tuple(biases), tuple(scales))


def empirical_ntk(networks: Ensemble, x: Array) -> Array:
    """Each network's tangent kernel, averaged over its outputs.

    ``sum_l (s_l^2 A_l A_l^T + t_l^2) * D_l D_l^T``, A_l the inputs of layer l, D_l the outputs' derivatives by h^l.

    Parameters
    ----------
    networks : Ensemble
    x : numpy.ndarray (n, d)

    Returns
    -------
    numpy.ndarray (S, n, n) float64
    """
    x = x.astype(networks.weights[0].dtype, copy=False)
    found = np.zeros((len(networks), len(x), len(x)))
    for index in range(len(networks)):
        one = networks.take(np.array([index]))
        hs = [h[0] for h in one.preactivations(x)]
        k = hs[-1].shape[1]
        pull = np.broadcast_to(np.eye(k, dtype=x.dtype)[:, None], (k, len(x), k))  # (output, sample, neuron)
        for layer in range(len(hs) - 1, -1, -1):
            s, t = one.scales[layer]
            below = np.maximum(hs[layer - 1], 0) if layer else x
            back = np.swapaxes(pull, 0, 1).reshape(len(x), -1)
            found[index] += (s**2 * (below @ below.T) + t**2) * (back @ back.T) / k
            if layer:
                pull = (s * pull) @ one.weights[layer][0].T * (hs[layer - 1] > 0)
    return found


@dataclass(frozen=True, eq=False)
class Trained:
    """Networks after training.

    Attributes
    ----------
    networks : Ensemble
        Those that did not diverge.
    diverged : numpy.ndarray (S,) of int
        The step at which a network's loss left all bounds; -1 of those that did not.
    """

    networks: Ensemble
    diverged: npt.NDArray[np.intp]

    @property
    def survived(self) -> npt.NDArray[np.bool_]:
        """Which of all the networks did not diverge, (S,)."""
        return np.asarray(self.diverged < 0)


def train(
    networks: Ensemble, x: Array, y: Array, learning_rate: float, steps: int, *, l2: float = 0.0, centered: bool = False
) -> Trained:
    """Full-batch gradient descent on ``|f - y|^2 / (2 |y|) + l2 |theta|^2 / 2``, for each network of its own.

    Parameters
    ----------
    networks : Ensemble
        Left as it is.
    x, y : numpy.ndarray (n, d), (n, k)
    learning_rate : float
    steps : int
    l2 : float
        Penalty on the trained numbers: standard normal at first in the NTK parameterization.
    centered : bool
        Fit ``f - f_0`` to y, f_0 the network's outputs before training.

    Returns
    -------
    Trained
        A network diverges when its loss overflows or passes 1e12 times that of its start.
    """
    dtype = networks.weights[0].dtype
    x, y = x.astype(dtype, copy=False), y.astype(dtype, copy=False)
    diverged = np.full(len(networks), -1)
    goal = y + networks(x) if centered else np.broadcast_to(y, (len(networks), *y.shape))
    limits = np.empty(0)
    rate = dtype.type(learning_rate)
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(steps + 1):
            hs = networks.preactivations(x)
            residual = hs[-1] - goal
            losses = np.mean(residual.astype(np.float64) ** 2, axis=(1, 2)) / 2
            if not step:
                limits = np.array([blown_from(float(loss), y) for loss in losses])
            fine = np.isfinite(losses) & (losses <= limits)
            if not fine.all():
                diverged[np.flatnonzero(diverged < 0)[~fine]] = step
                networks, goal, limits = networks.take(fine), goal[fine], limits[fine]
                residual, hs = residual[fine], [h[fine] for h in hs]
            if step == steps or not len(networks):
                break
            by_weight, by_bias = networks.gradients(x, hs, residual / y.size)
            keep = dtype.type(1 - learning_rate * l2)
            networks = replace(
                networks,
                weights=tuple(keep * w - rate * g for w, g in zip(networks.weights, by_weight, strict=True)),
                biases=tuple(keep * b - rate * g for b, g in zip(networks.biases, by_bias, strict=True)),
            )
    return Trained(networks, diverged)
