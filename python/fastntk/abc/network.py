"""Small fully connected networks in NumPy, and their training by gradient descent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..base.checks import generator, integer
from ..network.activation_like import plain_names
from ..quadrature import TANH, smooth
from .parameterization import Array, Parameterization

_BLOWN = 1e12  # times the larger of the initial loss and that of the zero function: no run comes back from there


@dataclass(frozen=True)
class Activation:
    """A nonlinearity, its derivative, and the variance ``gain`` of weights that keeps signals of order 1."""

    name: str
    phi: Callable[[Array], Array]
    dphi: Callable[[Array], Array]
    gain: float = 1.0


def _positive(x: Array) -> Array:
    return np.asarray(x > 0, dtype=np.float64)


ACTIVATIONS = {
    "relu": Activation("relu", lambda x: np.maximum(x, 0), _positive, 2.0),
    "tanh": Activation("tanh", np.tanh, lambda x: np.asarray(TANH.dphi(x))),
    "elu": Activation(
        "elu", lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), lambda x: np.exp(np.minimum(x, 0))
    ),
    "linear": Activation("linear", lambda x: x, np.ones_like),
}


def activation_of(activation: Any, what: str) -> Activation:
    """By its name, or an object with ``phi`` and ``dphi`` (:class:`fastntk.quadrature.Smooth`), whose gain is 1.

    Raises
    ------
    ValueError
        Another name, or a ``dphi`` that is not the derivative.
    TypeError
        Another object.
    """
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, str):
        if activation in ACTIVATIONS:
            return ACTIVATIONS[activation]
        if activation not in plain_names():
            names = ", ".join(dict.fromkeys((*ACTIVATIONS, *plain_names())))
            raise ValueError(f"[{what}] activation must be one of {names}, given {activation!r}")
    given = smooth(activation, what)
    return Activation(given.name, lambda x: np.asarray(given.phi(x)), lambda x: np.asarray(given.dphi(x)))


def check_parameterization(parameterization: Any, what: str) -> Parameterization:
    if not isinstance(parameterization, Parameterization):
        raise TypeError(f"[{what}] takes a Parameterization, given {type(parameterization).__name__}")
    return parameterization


# ---------------------------------------------------------------- networks


@dataclass(frozen=True)
class Network:
    """A fully connected network: ``h^l = sigma_l m^(-a_l) x^(l-1) w^l + beta^l m^(-a^beta_l)``, ``x^l = phi(h^l)``.

    Made by :func:`init`; called with inputs (n, d), gives outputs (n, k).

    Attributes
    ----------
    parameterization : Parameterization
    width : int
        m.
    activation : Activation
    weights : tuple of numpy.ndarray (fan-in, fan-out), one for each layer
        w, what is trained.
    biases : tuple of numpy.ndarray (fan-out,), or None
        beta.
    multipliers : tuple of float (L + 1,)
        sigma_l, of order 1.
    """

    parameterization: Parameterization
    width: int
    activation: Activation
    weights: tuple[Array, ...]
    biases: tuple[Array, ...] | None
    multipliers: tuple[float, ...]

    def scales(self) -> Array:
        """``sigma_l m^(-a_l)``."""
        return np.asarray(np.array(self.multipliers) * float(self.width) ** -np.array(self.parameterization.a))

    def bias_scales(self) -> Array:
        """``m^(-a_l)`` of the biases."""
        assert self.parameterization.bias is not None
        return np.asarray(float(self.width) ** -np.array(self.parameterization.bias.a))

    @property
    def effective(self) -> tuple[Array, ...]:
        """``W^l``: weights with their scales."""
        return tuple(s * w for s, w in zip(self.scales(), self.weights, strict=True))

    def preactivations(self, x: Array) -> list[Array]:
        """``h^1, ..., h^L`` (n, m) and the output (n, k)."""
        found: list[Array] = []
        scales = self.scales()
        for layer, w in enumerate(self.weights):
            x = self.activation.phi(found[-1]) if layer else x
            h = (x @ w) * scales[layer]
            if self.biases is not None:
                h = h + self.bias_scales()[layer] * self.biases[layer]
            found.append(h)
        return found

    def __call__(self, x: Any) -> Array:
        return self.preactivations(inputs_of(x, self.weights[0].shape[0], "Network"))[-1]

    def gradients(self, x: Array, hs: Sequence[Array], pull: Array) -> tuple[list[Array], list[Array]]:
        """Of a loss by the weights and by the biases; pull (n, k): its derivative by the outputs."""
        scales = self.scales()
        by_weight, by_bias = [], []
        for layer in range(len(self.weights) - 1, -1, -1):
            below = self.activation.phi(hs[layer - 1]) if layer else x
            by_weight.append(below.T @ (pull * scales[layer]))
            if self.biases is not None:
                by_bias.append(self.bias_scales()[layer] * pull.sum(axis=0))
            if layer:
                pull = (pull @ self.weights[layer].T) * scales[layer] * self.activation.dphi(hs[layer - 1])
        return by_weight[::-1], by_bias[::-1]


def _factors(what: str, name: str, value: Any, default: Sequence[float]) -> tuple[float, ...]:
    if value is None:
        return tuple(default)
    found = np.array(value, dtype=np.float64)
    if found.shape != (len(default),) or not (np.isfinite(found) & (found >= 0)).all():
        raise ValueError(f"[{what}] {name} must be {len(default)} numbers that are not negative, given {value!r}")
    return tuple(found.tolist())


def default_scales(gain: float, d: int, L: int) -> tuple[float, ...]:
    """s_l: ``sqrt(gain / d)``, ``sqrt(gain)`` for hidden layers, 1 for the last."""
    return (math.sqrt(gain / d), *[math.sqrt(gain)] * (L - 1), 1.0)


def init(
    parameterization: Parameterization, width: int, d: int, rng: np.random.Generator | int = 0, *, outputs: int = 1,
    activation: Any = "relu", scales: Sequence[float] | None = None, multipliers: Sequence[float] | None = None,
    b_std: float = 1.0,
) -> Network:  # fmt: skip
    """Draw a network.

    Parameters
    ----------
    parameterization : Parameterization
        Its exponents and its depth.
    width : int
        m, of all hidden layers.
    d : int
        Number of input features.
    rng : numpy.random.Generator or int
        One seed gives the same standard normal numbers under all parameterizations of one depth.
    outputs : int
        k.
    activation : 'relu', 'tanh', 'elu', 'linear', or an object with ``phi`` and ``dphi``
    scales : sequence of float (L + 1,), optional
        s_l, standard deviations of w before their power of m. By default ``s_1^2 = g / d``, ``s_l^2 = g``,
        ``s_{L+1} = 1``, with g = 2 for relu, else 1.
    multipliers : sequence of float (L + 1,), optional
        Constant factors of the effective weights, 1 by default. Unlike scales they also act on the size of updates.
    b_std : float
        Standard deviation of the biases, before their power of m.

    Returns
    -------
    Network

    Raises
    ------
    ValueError
        Widths, numbers of features or outputs below 1, scales that do not fit.
    TypeError
        Arguments of another kind.
    """
    what = "init"
    p = check_parameterization(parameterization, what)
    m, d, k = integer(what, "width", width), integer(what, "d", d), integer(what, "outputs", outputs)
    phi, draw = activation_of(activation, what), generator(rng, what)
    stds = _factors(what, "scales", scales, default_scales(phi.gain, d, p.L))
    factors = _factors(what, "multipliers", multipliers, (1.0,) * (p.L + 1))
    if not 0 <= b_std < math.inf:
        raise ValueError(f"[{what}] b_std must be finite and not negative, given {b_std}")
    sizes = (d, *[m] * p.L, k)
    weights = tuple(
        draw.standard_normal((sizes[i], sizes[i + 1])) * (stds[i] * float(m) ** -p.b[i]) for i in range(p.L + 1)
    )
    biases = None
    if p.bias is not None:
        biases = tuple(draw.standard_normal(sizes[i + 1]) * (b_std * float(m) ** -p.bias.b[i]) for i in range(p.L + 1))
    return Network(p, m, phi, weights, biases, factors)


# ---------------------------------------------------------------- training


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes
    ----------
    outputs : numpy.ndarray (steps run + 1, n, k)
        Of all samples, before training and after each step; all finite. A run that diverges ends before its loss
        passes 1e12 times that of its start.
    losses : numpy.ndarray (steps run + 1,)
        ``|f - y|^2 / (2 n)`` over all samples.
    diverged : bool
    network : Network
        After the last step of ``outputs``.
    """

    outputs: Array
    losses: Array
    diverged: bool
    network: Network

    @property
    def change(self) -> float:
        """Largest change of an output between the first and the last step; infinite for a run that diverged."""
        return math.inf if self.diverged else float(np.abs(self.outputs[-1] - self.outputs[0]).max())

    @property
    def final_loss(self) -> float:
        """Infinite for a run that diverged."""
        return math.inf if self.diverged else float(self.losses[-1])


def inputs_of(x: Any, d: int | None, what: str) -> Array:
    """Finite inputs (n, d) as float64."""
    found = np.array(x, dtype=np.float64)
    if found.ndim != 2 or not found.size or (d is not None and found.shape[1] != d):
        wanted = "(n, d)" if d is None else f"(n, {d})"
        raise ValueError(f"[{what}] x must have shape {wanted}, given {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError(f"[{what}] x must be finite")
    return found


def targets_of(y: Any, n: int, k: int | None, what: str) -> Array:
    """Finite targets (n, k) as float64; (n,) and a number count for one output."""
    found = np.array(y, dtype=np.float64)
    found = np.full((n, 1), found) if found.ndim == 0 else found[:, None] if found.ndim == 1 else found
    if found.ndim != 2 or len(found) != n or not found.size or (k is not None and found.shape[1] != k):
        raise ValueError(f"[{what}] y must have shape ({n}, {'k' if k is None else k}), given {np.shape(y)}")
    if not np.isfinite(found).all():
        raise ValueError(f"[{what}] y must be finite")
    return found


def rates_of(lr: Any, steps: int, what: str) -> Array:
    """One learning rate for each step."""
    found = np.array(lr, dtype=np.float64)
    found = np.full(steps, found) if found.ndim == 0 else found
    if found.shape != (steps,) or not (np.isfinite(found) & (found > 0)).all():
        raise ValueError(f"[{what}] lr must be positive, one number or one for each of {steps} steps, given {lr!r}")
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
    rng: np.random.Generator | int | None = None,
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
    return _descend(network, x, y, lr, steps, batch_size, rng, what, forget=False)


def hybrid_mup(
    network: Network, x: Any, y: Any, lr: Any, steps: int, *, batch_size: int | None = None,
    rng: np.random.Generator | int | None = None,
) -> Run:  # fmt: skip
    """Train by hybrid muP: muP whose hidden layers forget their initial weights after the first step.

    At infinite width it is the training of the integrable parameterization with a large first learning rate
    (:meth:`Parameterization.ip_llr`), for positively homogeneous activations without biases.

    Parameters
    ----------
    network : Network
        In a parameterization equivalent to :meth:`Parameterization.mup`.
    x, y, lr, steps, batch_size, rng
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
    return _descend(network, x, y, lr, steps, batch_size, rng, what, forget=True)


def _descend(
    network: Network, x: Any, y: Any, lr: Any, steps: int, batch_size: int | None, rng: Any, what: str, forget: bool
) -> Run:
    x = inputs_of(x, network.weights[0].shape[0], what)
    y = targets_of(y, len(x), network.weights[-1].shape[1], what)
    count = integer(what, "steps", steps)
    etas = rates_of(lr, count, what)
    order = batches(len(x), batch_size, None if rng is None else generator(rng, what), what)
    start, m, p = network, float(network.width), network.parameterization
    with np.errstate(over="ignore", invalid="ignore"):
        hs = network.preactivations(x)
        outputs, losses = [hs[-1]], [mean_square(hs[-1], y)]
        if not losses[0] < math.inf:
            raise FloatingPointError(f"[{what}] outputs overflow before training: {p.name} at width {network.width}")
        limit, diverged = blown_from(losses[0], y), False
        for step in range(count):
            rows = next(order)
            seen = y[rows]
            pull = (hs[-1][rows] - seen) / len(seen)
            by_weight, by_bias = network.gradients(x[rows], [h[rows] for h in hs], pull)
            rates = etas[step] * m ** -np.array(p.rates(step))
            moved = [w - rate * g for w, rate, g in zip(network.weights, rates, by_weight, strict=True)]
            if forget and step == 0:
                moved[1:-1] = [w - w0 for w, w0 in zip(moved[1:-1], start.weights[1:-1], strict=True)]
            biases = network.biases
            if biases is not None:
                rates = etas[step] * m ** -np.array(p.bias_rates(step))
                biases = tuple(b - rate * g for b, rate, g in zip(biases, rates, by_bias, strict=True))
            after = replace(network, weights=tuple(moved), biases=biases)
            hs = after.preactivations(x)
            loss = mean_square(hs[-1], y)
            if not loss <= limit:
                diverged = True
                break
            network = after
            outputs.append(hs[-1])
            losses.append(loss)
    return Run(np.array(outputs), np.array(losses), diverged, network)
