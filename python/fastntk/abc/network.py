"""Small fully connected networks in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..base.checks import generator, integer
from ..network.activation_like import named, plain_names
from ..network.activations import Relu
from ..quadrature import TANH, smooth
from .parameterization import Array, Parameterization


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
    """By its name, or an object with ``phi`` and ``dphi`` (:class:`fastntk.quadrature.Smooth`), or a layer.

    The gain is 2 of a rectifier, however it is given, and 1 of others.

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
        if activation.lower() in ACTIVATIONS:
            return ACTIVATIONS[activation.lower()]
        if activation.lower() not in plain_names():
            names = ", ".join(dict.fromkeys((*ACTIVATIONS, *plain_names())))
            raise ValueError(f"[{what}] activation must be one of {names}, given {activation!r}")
    if named(activation) == Relu():  # by its name or not, it has its gain
        return ACTIVATIONS["relu"]
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


def zero_readout(network: Network) -> Network:
    """The network with the weights of its last layer 0: its outputs begin at 0, or at its last bias.

    Parameters
    ----------
    network : Network

    Returns
    -------
    Network
    """
    return replace(network, weights=(*network.weights[:-1], np.zeros_like(network.weights[-1])))


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


def inputs_of(x: Any, d: int | None, what: str) -> Array:
    """Finite inputs (n, d) as float64."""
    found = np.array(x, dtype=np.float64)
    if found.ndim != 2 or not found.size or (d is not None and found.shape[1] != d):
        wanted = "(n, d)" if d is None else f"(n, {d})"
        raise ValueError(f"[{what}] x must have shape {wanted}, given {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError(f"[{what}] x must be finite")
    return found
