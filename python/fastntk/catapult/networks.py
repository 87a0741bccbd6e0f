"""Real networks over learning rates: two layers in NumPy, any network of stax in PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..base.arraylike import describe
from ..base.checks import integer
from ..finite.losses import loss_of
from ..finite.measure import tangent_product, top_eigenvalue
from ..finite.model import Model
from ..network.layer import Layer
from .model import Array

_LANCZOS = 60  # products with a tangent kernel, at most
_BLOWN = 1e12  # times the initial loss: no catapult of a network that fits into memory goes there


class Run(Protocol):
    """A network in training: full-batch gradient descent on ``|f - y|^2 / (2 m)``."""

    def loss(self) -> float: ...

    def descend(self, eta: float) -> None:
        """One step."""

    def curvature(self) -> float:
        """The largest eigenvalue of the tangent kernel, over m."""


@dataclass(frozen=True)
class TwoLayer:
    """A network of one hidden layer in NumPy, parameters standard normal.

    ``f(x) = n^(-1/2) v . phi(U x / sqrt(d))``.

    Parameters
    ----------
    width : int
    activation : 'relu' or 'linear'
    """

    width: int
    activation: str = "relu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", integer("TwoLayer", "width", self.width))
        if self.activation not in ("relu", "linear"):
            raise ValueError(f"[TwoLayer] activation must be 'relu' or 'linear', given {self.activation!r}")

    def start(self, rng: np.random.Generator, x: Array, y: Array) -> _TwoLayerRun:
        """The network at initialisation, for samples x (m, d) and targets y (m, 1)."""
        if y.shape[1] != 1:
            raise ValueError(f"[TwoLayer] has one output, given targets of shape {y.shape}")
        return _TwoLayerRun(
            self, rng.standard_normal((self.width, x.shape[1])), rng.standard_normal(self.width),
            x / math.sqrt(x.shape[1]), y[:, 0],
        )  # fmt: skip


@dataclass
class _TwoLayerRun:
    network: TwoLayer
    u: Array
    v: Array
    x: Array
    y: Array

    def _hidden(self) -> tuple[Array, Array]:
        """phi and phi' of the pre-activations, (m, n)."""
        h = self.x @ self.u.T
        active = np.asarray(h > 0, dtype=np.float64) if self.network.activation == "relu" else np.ones_like(h)
        return h * active, active

    def _residual(self, hidden: Array) -> Array:
        return hidden @ self.v / math.sqrt(self.network.width) - self.y

    def loss(self) -> float:
        residual = self._residual(self._hidden()[0])
        return float(residual @ residual) / (2 * len(self.y))

    def descend(self, eta: float) -> None:
        hidden, slope = self._hidden()
        pull = eta * self._residual(hidden) / (len(self.y) * math.sqrt(self.network.width))
        step_v = pull @ hidden
        self.u = self.u - (slope * pull[:, None] * self.v).T @ self.x
        self.v = self.v - step_v

    def curvature(self) -> float:
        hidden, slope = self._hidden()
        ntk = hidden @ hidden.T + (slope * self.v**2) @ slope.T * (self.x @ self.x.T)
        return float(np.linalg.eigvalsh(ntk)[-1]) / (self.network.width * len(self.y))


class _TorchRun:
    """A finite network of stax, in float64."""

    def __init__(self, network: Layer, seed: int, x: Array, y: Array) -> None:
        self._model = Model(network, x.shape, [seed], what="scan")
        if math.prod(self._model.output_shape) != y.size:
            raise ValueError(
                f"[scan] the network gives outputs of shape {self._model.output_shape}, y has shape {y.shape}"
            )
        self._x, self._y = self._model.tensor(x), self._model.tensor(y)
        self._loss_of = loss_of("squared", "scan")

    def loss(self) -> float:
        return float(self._loss_of(self._model(self._x)[0].detach(), self._y))

    def descend(self, eta: float) -> None:
        import torch

        leaves = self._model.leaves
        gradients = torch.autograd.grad(self._loss_of(self._model(self._x)[0], self._y), leaves)
        with torch.no_grad():
            for leaf, gradient in zip(leaves, gradients, strict=True):
                leaf -= eta * gradient

    def curvature(self) -> float:
        f = self._model(self._x)
        start = self._model.tensor(np.random.default_rng(0).standard_normal(f.numel()))

        def product(u: Any) -> Any:
            return tangent_product(self._model.leaves, f, u.reshape(f.shape))[1].reshape(-1)

        return top_eigenvalue(product, start, _LANCZOS) / len(self._y)


@dataclass(frozen=True)
class Scan:
    """Runs from one initialisation with different learning rates; arrays of length k, one entry for each.

    Attributes
    ----------
    learning_rates, eta_lambda0 : numpy.ndarray (k,)
        eta, and eta times the initial curvature.
    initial_loss, initial_curvature : float
        Curvature: the largest eigenvalue of the network's own tangent kernel, over m.
    peak_loss, final_loss, final_curvature : numpy.ndarray (k,)
        Infinite for runs that diverged.
    steps : numpy.ndarray (k,) of int
        Steps run.
    diverged : numpy.ndarray (k,) of bool
        Whether the loss overflowed, or passed 1e12 times its initial value.
    losses : tuple of numpy.ndarray
        Every run's losses, from the initial one on, all finite.
    """

    learning_rates: Array
    eta_lambda0: Array
    initial_loss: float
    initial_curvature: float
    peak_loss: Array
    final_loss: Array
    final_curvature: Array
    steps: npt.NDArray[np.intp]
    diverged: npt.NDArray[np.bool_]
    losses: tuple[Array, ...]


def scan(
    network: TwoLayer | Layer, x: Any, y: Any, learning_rates: Any = None, *, eta_lambda0: Any = None, steps: int = 500,
    rng: np.random.Generator | int = 0, tolerance: float = 1e-8,
) -> Scan:  # fmt: skip
    """Train one initialisation of a network with each of several learning rates.

    Parameters
    ----------
    network : TwoLayer or a network of stax
        Of stax: any architecture, trained by PyTorch in float64 (``pip install 'fastntk[torch]'``).
    x : array_like (m, ...)
        Samples: (m, d) for :class:`TwoLayer`, else as the network takes them.
    y : array_like (m,) or (m, k)
        Targets.
    learning_rates : array_like (k,), positive
        For the loss ``|f - y|^2 / (2 m)``; or
    eta_lambda0 : array_like (k,), positive
        the same times the initial curvature. Exactly one of both.
    steps : int
        Full-batch steps of gradient descent, at most.
    rng : numpy.random.Generator or int
        Draws the initial parameters, the same for all learning rates.
    tolerance : float
        A run ends once its loss is below this times the initial one.

    Returns
    -------
    Scan

    Raises
    ------
    TypeError
        Another network; not exactly one of ``learning_rates`` and ``eta_lambda0``; an rng that is none.
    ValueError
        Samples or targets that are not finite or do not fit each other or the network, learning rates that are not
        positive, an initial loss or curvature of 0.
    ImportError
        PyTorch is missing.

    Notes
    -----
    A run that ends with its loss still high, neither converged nor diverged, is told by ``final_loss``. The curvature
    of a network of stax takes 60 products with its tangent kernel at most (Lanczos), twice a run.
    """
    what = "scan"
    if not isinstance(network, (TwoLayer, Layer)):
        raise TypeError(f"[{what}] network must be a TwoLayer or a network of stax, given {describe(network)}")
    samples, targets = np.array(x, dtype=np.float64), np.array(y, dtype=np.float64)
    targets = targets[:, None] if targets.ndim == 1 else targets
    if samples.ndim < 2 or targets.ndim != 2 or len(samples) != len(targets) or not targets.size:
        raise ValueError(f"[{what}] x (m, ...) and y (m,) or (m, k) are due, given {samples.shape} and {np.shape(y)}")
    if isinstance(network, TwoLayer) and samples.ndim != 2:
        raise ValueError(f"[{what}] TwoLayer takes x (m, d), given {samples.shape}")
    if not (np.isfinite(samples).all() and np.isfinite(targets).all()):
        raise ValueError(f"[{what}] x and y must be finite")
    if (learning_rates is None) == (eta_lambda0 is None):
        raise TypeError(f"[{what}] takes exactly one of learning_rates and eta_lambda0")
    rates = np.array(eta_lambda0 if learning_rates is None else learning_rates, dtype=np.float64)
    if rates.ndim != 1 or not rates.size or not (np.isfinite(rates) & (rates > 0)).all():
        raise ValueError(f"[{what}] learning rates must be a vector of positive numbers, given {rates}")
    most = integer(what, "steps", steps)
    if isinstance(rng, np.random.Generator):
        seed: Any = int(rng.integers(2**63))
    else:
        seed = integer(what, "rng", rng, least=0)

    def start() -> Run:
        if isinstance(network, TwoLayer):
            return network.start(np.random.default_rng(seed), samples, targets)
        return _TorchRun(network, seed, samples, targets)

    first = start()
    loss0, curvature0 = first.loss(), first.curvature()
    if not (loss0 > 0 and curvature0 > 0):
        raise ValueError(f"[{what}] starts at loss {loss0:g} and curvature {curvature0:g}: there is nothing to learn")
    etas = rates / curvature0 if learning_rates is None else rates
    losses, curvatures, diverged = [], [], []
    for eta in etas:
        run, history = start(), [loss0]
        blown = False
        with np.errstate(over="ignore", invalid="ignore"):
            while len(history) <= most and history[-1] > tolerance * loss0:
                run.descend(float(eta))
                now = run.loss()
                if not now <= _BLOWN * loss0:
                    blown = True
                    break
                history.append(now)
        losses.append(np.array(history))
        diverged.append(blown)
        curvatures.append(math.inf if blown else run.curvature())
    blown_ = np.array(diverged)
    return Scan(
        etas, etas * curvature0, loss0, curvature0,
        np.where(blown_, np.inf, [h.max() for h in losses]), np.where(blown_, np.inf, [h[-1] for h in losses]),
        np.array(curvatures), np.array([len(h) - 1 + b for h, b in zip(losses, diverged, strict=True)]), blown_,
        tuple(losses),
    )  # fmt: skip
