"""Training of small fully connected networks in NumPy, by gradient descent and Adam."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.checks import generator, integer, learning_rates
from .network import Network, inputs_of
from .parameterization import Array, Parameterization

_BLOWN = 1e12  # times the larger of the initial loss and that of the zero function: no run comes back from there


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes
    ----------
    outputs : numpy.ndarray (r, n, k)
        Of all samples after the steps of ``steps``; all finite. A run that diverges ends before its loss passes 1e12
        times that of its start.
    losses : numpy.ndarray (r,)
        ``|f - y|^2 / (2 n)`` over all samples, then.
    diverged : bool
    network : Network
        After the last step of ``outputs``.
    steps : numpy.ndarray (r,) of int
        Steps made before each record: 0 first. Every one with full batches; of minibatches as ``record`` says.
    batch_losses : numpy.ndarray (steps run,)
        Of the batch of each step, before the step.
    """

    outputs: Array
    losses: Array
    diverged: bool
    network: Network
    steps: npt.NDArray[np.intp]
    batch_losses: Array

    @property
    def change(self) -> float:
        """Largest change of an output between the first and the last step; infinite for a run that diverged."""
        return math.inf if self.diverged else float(np.abs(self.outputs[-1] - self.outputs[0]).max())

    @property
    def final_loss(self) -> float:
        """Infinite for a run that diverged."""
        return math.inf if self.diverged else float(self.losses[-1])


def targets_of(y: Any, n: int, k: int | None, what: str) -> Array:
    """Finite targets (n, k) as float64; (n,) and a number count for one output."""
    found = np.array(y, dtype=np.float64)
    found = np.full((n, 1), found) if found.ndim == 0 else found[:, None] if found.ndim == 1 else found
    if found.ndim != 2 or len(found) != n or not found.size or (k is not None and found.shape[1] != k):
        raise ValueError(f"[{what}] y must have shape ({n}, {'k' if k is None else k}), given {np.shape(y)}")
    if not np.isfinite(found).all():
        raise ValueError(f"[{what}] y must be finite")
    return found


def batches(n: int, batch_size: int | None, rng: np.random.Generator | None, what: str) -> Iterator[Any]:
    """Rows of x for one step after the other; all of them unless batch_size is given."""
    if batch_size is None:
        while True:
            yield slice(None)
    size = integer(what, "batch_size", batch_size)
    if size > n:
        raise ValueError(f"[{what}] batch_size {size} is more than the {n} samples")
    order = np.empty(0, dtype=np.intp)
    while True:
        while len(order) < size:
            order = np.append(order, np.arange(n) if rng is None else rng.permutation(n))
        yield order[:size]
        order = order[size:]


def mean_square(outputs: Array, y: Array) -> float:
    """``|f - y|^2 / (2 n)``; infinite where it overflows."""
    residual = outputs - y
    found = float(np.vdot(residual, residual)) / (2 * len(y))
    return found if math.isfinite(found) else math.inf


def blown_from(initial_loss: float, y: Array) -> float:
    """The loss beyond which a run counts as diverged."""
    return _BLOWN * max(initial_loss, mean_square(np.zeros_like(y), y))


def sgd(
    network: Network, x: Any, y: Any, lr: Any, steps: int, *, batch_size: int | None = None,
    rng: np.random.Generator | int | None = None, record: int | None = None,
) -> Run:  # fmt: skip
    """Train a network by (stochastic) gradient descent on ``|f - y|^2 / (2 n)``, n samples in a batch.

    Parameters
    ----------
    network : Network
        Left as it is.
    x : array_like (n, d)
    y : array_like (n,) or (n, k)
    lr : float, or sequence of float (steps,)
        eta; layer l descends with ``eta m^(-c_l)``, its exponent of that step.
    steps : int
    batch_size : int, optional
        Samples in a batch; all unless given. 1: sample by sample.
    rng : numpy.random.Generator or int, optional
        Shuffles the samples, anew each time all have been seen; without it they come in their order.
    record : int, optional
        Steps between two records of all samples' outputs, which take a pass over all of them each. Unless given, every
        step is recorded with full batches, and with minibatches the start and the end alone.

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        Samples and targets that are not finite or do not fit, learning rates that are not positive, steps or a batch
        size below 1.
    FloatingPointError
        Outputs that overflow before training. (Training that diverges is told by the run.)
    """
    what = "sgd"
    return _descend(network, x, y, lr, steps, batch_size, rng, record, what, forget=False)


def adam(
    network: Network, x: Any, y: Any, lr: Any, steps: int, *, batch_size: int | None = None,
    rng: np.random.Generator | int | None = None, record: int | None = None,
    betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-12,
) -> Run:  # fmt: skip
    """Train a network by Adam on ``|f - y|^2 / (2 n)``, n samples in a batch.

    Parameters
    ----------
    network, x, y, lr, steps, batch_size, rng, record
        As for :func:`sgd`; a step changes each entry of w by about ``eta m^(-c_l)``, so that exponents are those of
        :meth:`Parameterization.for_adam`.
    betas : pair of float
        Shares of the past in the means of gradients and of their squares.
    eps : float
        Added to the root of the latter: far below gradients, which fall with the width.

    Returns
    -------
    Run

    Raises
    ------
    ValueError, FloatingPointError
        As :func:`sgd`; betas outside [0, 1), a negative eps.

    References
    ----------
    Kingma and Ba (2015), Adam, arXiv:1412.6980.
    """
    what = "adam"
    if not all(0 <= b < 1 for b in betas) or not 0 <= eps < math.inf:
        raise ValueError(f"[{what}] betas must lie in [0, 1) and eps must not be negative, given {betas}, {eps}")
    rule = _Adam(tuple(betas), eps)
    return _descend(network, x, y, lr, steps, batch_size, rng, record, what, forget=False, rule=rule)


class _Adam:
    """What a gradient is turned into, array by array in the order of a step."""

    def __init__(self, betas: tuple[float, ...], eps: float) -> None:
        self._betas, self._eps = betas, eps
        self._means: dict[tuple[str, int], tuple[Array, Array, int]] = {}

    def __call__(self, kind: str, gradients: list[Array]) -> list[Array]:
        found = []
        for i, g in enumerate(gradients):
            m, v, t = self._means.get((kind, i), (np.zeros_like(g), np.zeros_like(g), 0))
            one, two = self._betas
            m, v, t = one * m + (1 - one) * g, two * v + (1 - two) * g * g, t + 1
            self._means[kind, i] = m, v, t
            size = np.sqrt(v / (1 - two**t)) + self._eps
            found.append(m / (1 - one**t) / np.where(size > 0, size, 1))
        return found


def hybrid_mup(
    network: Network, x: Any, y: Any, lr: Any, steps: int, *, batch_size: int | None = None,
    rng: np.random.Generator | int | None = None, record: int | None = None,
) -> Run:  # fmt: skip
    """Train by hybrid muP: muP whose hidden layers forget their initial weights after the first step.

    At infinite width it is the training of the integrable parameterization with a large first learning rate
    (:meth:`Parameterization.ip_llr`), for positively homogeneous activations without biases.

    Parameters
    ----------
    network : Network
        In a parameterization equivalent to :meth:`Parameterization.mup`.
    x, y, lr, steps, batch_size, rng, record
        As for :func:`sgd`; at least one step.

    Returns
    -------
    Run
        Its outputs after the first step are those without the initial weights.

    Raises
    ------
    ValueError
        Another parameterization, and as :func:`sgd`.

    Notes
    -----
    With one derivative of the loss at the first step, the first updates of all effective weights are equal in both at
    any width: layer l of IP-LLR sees ``x^(l-1)`` smaller by ``m^(-(l-2)/2)`` and ``dh^l`` by ``m^(-(L-l)/2)``, which
    its learning rate makes up for. What is left of IP's initial hidden weights, ``m^(-1) U^l``, has operator norm
    ``m^(-1/2)`` [derived; tested].

    References
    ----------
    Hajjar, Chizat and Giraud (2021), arXiv:2110.15596.
    """
    what = "hybrid_mup"
    p = network.parameterization
    if not p.is_equivalent(Parameterization.mup(p.L)):
        raise ValueError(f"[{what}] takes a network in muP without biases, given {p.name}")
    return _descend(network, x, y, lr, steps, batch_size, rng, record, what, forget=True)


def _descend(
    network: Network, x: Any, y: Any, lr: Any, steps: int, batch_size: int | None, rng: Any, record: int | None,
    what: str, forget: bool, rule: Callable[[str, list[Array]], list[Array]] | None = None,
) -> Run:  # fmt: skip
    x = inputs_of(x, network.weights[0].shape[0], what)
    y = targets_of(y, len(x), network.weights[-1].shape[1], what)
    count = integer(what, "steps", steps)
    etas = learning_rates(lr, count, what)
    order = batches(len(x), batch_size, None if rng is None else generator(rng, what), what)
    every = (1 if batch_size is None else count) if record is None else integer(what, "record", record)
    start, recorded, m, p = network, network, float(network.width), network.parameterization
    with np.errstate(over="ignore", invalid="ignore"):
        hs = network.preactivations(x)
        outputs, losses, seen_at = [hs[-1]], [mean_square(hs[-1], y)], [0]
        batch_losses: list[float] = []
        if not losses[0] < math.inf:
            raise FloatingPointError(f"[{what}] outputs overflow before training: {p.name} at width {network.width}")
        limit, diverged = blown_from(losses[0], y), False
        for step in range(count):
            rows = next(order)
            seen = y[rows]
            if batch_size is not None or every > 1:
                hs = network.preactivations(x[rows])
            loss = mean_square(hs[-1], seen)
            if not loss <= limit * (len(y) / len(seen)):
                diverged = True
                break
            batch_losses.append(loss)
            by_weight, by_bias = network.gradients(x[rows], hs, (hs[-1] - seen) / len(seen))
            if rule is not None:
                by_weight, by_bias = rule("weights", by_weight), rule("biases", by_bias)
            rates = etas[step] * m ** -np.array(p.rates(step))
            moved = [w - rate * g for w, rate, g in zip(network.weights, rates, by_weight, strict=True)]
            if forget and step == 0:
                moved[1:-1] = [w - w0 for w, w0 in zip(moved[1:-1], start.weights[1:-1], strict=True)]
            biases = network.biases
            if biases is not None:
                rates = etas[step] * m ** -np.array(p.bias_rates(step))
                biases = tuple(b - rate * g for b, rate, g in zip(biases, rates, by_bias, strict=True))
            after = replace(network, weights=tuple(moved), biases=biases)
            if (step + 1) % every == 0 or step + 1 == count:
                hs = after.preactivations(x)
                loss = mean_square(hs[-1], y)
                if not loss <= limit:
                    diverged = True
                    break
                outputs.append(hs[-1])
                losses.append(loss)
                seen_at.append(step + 1)
                recorded = after
            network = after
    final = recorded if diverged else network  # which is known to be finite on all samples
    return Run(np.array(outputs), np.array(losses), diverged, final, np.array(seen_at), np.array(batch_losses))
