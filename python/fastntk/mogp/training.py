"""Node-scaled networks at finite width, their training, and the random NTK that they start with in the limit.

A node's weights are ``W_kj = sqrt(lam_j) V_kj`` with V trained. A step of size ``lr`` in V is one of size ``lr lam_j``
in W: the variance of a node is its learning rate, and nodes that the limit keeps as points move by themselves. The NTK
at initialisation is therefore random, with terms across nodes and outputs, and it changes during training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..base.checks import Array, count, generator, not_negative, positive, rows
from ..base.options import one_blas_thread
from ..base.progress import bar
from .kernels import Layer, Problem, factor, layers_of, refuse_overflow, weighted_gram

BLOWN_UP = 1e8  # a loss of so many times its first value is a run that diverges
_CHUNK = 2**22


def blown_up(loss: float, first: float, y: Array) -> bool:
    """Whether a run that began at the loss ``first`` has diverged."""
    rounding = float((y * y).sum()) * np.finfo(np.float64).eps  # of a loss that began at 0
    return not np.isfinite(loss) or loss > BLOWN_UP * max(first, rounding)


def rates_of(parameterization: str, sigma_v2: float, sigma_b2: float, what: str) -> tuple[float, float]:
    """Learning rates of V and B, relative to lr.

    Raises
    ------
    ValueError
        An unknown parameterization.
    """
    if parameterization == "ntk":
        return sigma_v2, sigma_b2
    if parameterization == "standard":
        return 1.0, float(sigma_b2 > 0)
    raise ValueError(f"[{what}] parameterization must be 'ntk' or 'standard', given {parameterization!r}")


@dataclass(frozen=True)
class Network:
    """A node-scaled network of finite width, or an ensemble of them along axes before all others.

    Attributes
    ----------
    layers : tuple of Layer
        The hidden layers.
    variances : tuple of numpy.ndarray (..., p_l)
        Of the nodes of each hidden layer.
    weights : tuple of numpy.ndarray (..., p_(l+1), p_l)
        V, the first (p_1, d), the last (o, p_L).
    biases : tuple of numpy.ndarray (..., p_(l+1))
        B, of zeros where there are none.
    rates : tuple of (float, float)
        Learning rates of V and B of each layer, relative to that of :func:`train`.
    """

    layers: tuple[Layer, ...]
    variances: tuple[Array, ...]
    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    rates: tuple[tuple[float, float], ...]

    def effective_weights(self) -> tuple[Array, ...]:
        """``W_kj = sqrt(lam_j) V_kj``, shaped as ``weights``; of the first layer V itself."""
        scaled = [v * np.sqrt(lam)[..., None, :] for v, lam in zip(self.weights[1:], self.variances, strict=True)]
        return (self.weights[0], *scaled)

    def learning_rates(self, lr: float) -> tuple[Array, ...]:
        """``lr rate lam_j`` (..., p_l): rates of ``W_kj`` at which descent in W is that in V at ``lr``."""
        ones = np.ones((*self.weights[0].shape[:-2], self.weights[0].shape[-1]))
        scales = (ones, *self.variances)
        return tuple(lr * rate * lam for (rate, _), lam in zip(self.rates, scales, strict=True))

    def __call__(self, x: Any) -> Array:
        """Outputs (..., n, o) at x (n, d).

        Raises
        ------
        TypeError, ValueError
            Other arrays, NaN, another number of features.
        """
        return self._forward(self._inputs(x, "x"))[0][-1]

    def ntk(self, x1: Any, x2: Any = None) -> Array:
        """The tangent kernel ``<df_o(x1), df_o'(x2)>``, each parameter weighted by its rate: (..., n1, n2, o, o).

        Raises
        ------
        TypeError, ValueError
            As for outputs.
        """
        first = self._backward(self._inputs(x1, "x1"))
        second = first if x2 is None else self._backward(self._inputs(x2, "x2"))
        total: Any = 0.0
        for (h1, d1), (h2, d2), (rate_v, rate_b) in zip(first, second, self.rates, strict=True):
            total = total + _outer(d1, d2) * (rate_v * (h1 @ np.swapaxes(h2, -1, -2)) + rate_b)[..., None, None]
        return np.asarray(total)

    def _inputs(self, x: Any, name: str) -> Array:
        found = rows(x, name, "Network")
        if found.shape[1] != self.weights[0].shape[-1]:
            raise ValueError(
                f"[Network] {name} has {found.shape[1]} features, the network takes {self.weights[0].shape[-1]}"
            )
        return found

    def _forward(self, x: Array) -> tuple[list[Array], list[Array]]:
        """Pre-activations of all layers (..., n, p), and what goes into each."""
        h = x / np.sqrt(x.shape[1])
        zs, hs = [], [h]
        for i, (v, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            zs.append(h @ np.swapaxes(v, -1, -2) + b[..., None, :])
            if i < len(self.layers):
                h = np.sqrt(self.variances[i])[..., None, :] * self.layers[i].phi(zs[-1])
                hs.append(h)
        return zs, hs

    def _backward(self, x: Array) -> list[tuple[Array, Array]]:
        """Of each layer what goes in, (..., n, p_l), and derivatives of outputs by what comes out, (..., n, o, p)."""
        zs, hs = self._forward(x)
        outputs = zs[-1].shape[-1]
        d = np.broadcast_to(np.eye(outputs), (*zs[-1].shape, outputs))
        found = [(hs[-1], d)]
        for i in reversed(range(len(self.layers))):
            slope = np.sqrt(self.variances[i])[..., None, :] * self.layers[i].dphi(zs[i])
            d = (d @ self.weights[i + 1][..., None, :, :]) * slope[..., None, :]
            found.append((hs[i], d))
        return found[::-1]


def _outer(d1: Array, d2: Array) -> Array:
    """Inner products over nodes of (..., n1, o, p) and (..., n2, o, p): (..., n1, n2, o, o)."""
    (n1, o, p), n2 = d1.shape[-3:], d2.shape[-3]
    lead = d1.shape[:-3]
    flat = d1.reshape(*lead, n1 * o, p) @ np.swapaxes(d2.reshape(*lead, n2 * o, p), -1, -2)
    return np.swapaxes(flat.reshape(*lead, n1, o, n2, o), -3, -2)


def init(
    d: int, layers: Any, widths: Any, n_outputs: int, rng: Any, *, size: tuple[int, ...] = (),
    parameterization: str = "ntk", sigma_v2: float = 1.0, sigma_b2: float = 0.0,
) -> Network:  # fmt: skip
    """Random node-scaled networks of finite width.

    Parameters
    ----------
    d : int
        Features of an input.
    layers : list of Layer
        Hidden layers.
    widths : int or list of int
        Of each hidden layer.
    n_outputs : int
    rng : numpy.random.Generator or int
    size : tuple of int
        Of an ensemble; one network by default.
    parameterization : 'ntk' or 'standard'
        What is trained: standard normal variables, of which V and B are multiples (as in ``fastntk.stax``), or V and
        B themselves. Biases of variance 0 are not trained.
    sigma_v2, sigma_b2 : float
        Of the layer before the first hidden one.

    Returns
    -------
    Network

    Raises
    ------
    TypeError, ValueError
        Arguments outside their domain: widths below 1, as many widths as layers.
    """
    what = "mogp.init"
    rng, found = generator(rng, what), layers_of(layers, what)
    given = list(widths) if isinstance(widths, (tuple, list)) else [widths] * len(found)
    if len(given) != len(found):
        raise ValueError(f"[{what}] {len(found)} hidden layers, given {len(given)} widths")
    sizes = [count(d, "d", what), *(count(p, "a width", what) for p in given), count(n_outputs, "n_outputs", what)]
    v2 = [positive(sigma_v2, "sigma_v2", what), *(layer.sigma_v2 for layer in found)]
    b2 = [not_negative(sigma_b2, "sigma_b2", what), *(layer.sigma_b2 for layer in found)]
    weights, biases = [], []
    for i in range(len(sizes) - 1):
        weights.append(np.sqrt(v2[i]) * rng.standard_normal((*size, sizes[i + 1], sizes[i])))
        biases.append(np.sqrt(b2[i]) * rng.standard_normal((*size, sizes[i + 1])))
    variances = tuple(layer.measure.sample_variances(p, size, rng) for layer, p in zip(found, sizes[1:], strict=False))
    rates = tuple(rates_of(parameterization, v, b, what) for v, b in zip(v2, b2, strict=True))
    return Network(found, variances, tuple(weights), tuple(biases), rates)


@dataclass(frozen=True)
class Training:
    """A run of gradient descent.

    Attributes
    ----------
    network : Network
        At the end; where the run diverged, at its last loss.
    losses : numpy.ndarray (steps + 1,)
        ``sum |f - y|^2 / 2`` before each step and at the end; shorter where the run diverged.
    diverged : bool
        Whether the loss left float64, or exceeded 1e8 times its first value: the run stopped there.
    """

    network: Network
    losses: Array
    diverged: bool


def train(network: Network, x: Any, y: Any, lr: float, steps: int, *, progress: bool = False) -> Training:
    """Gradient descent on ``sum |f(x) - y|^2 / 2``, in V and B.

    Parameters
    ----------
    network : Network
        A single one; not modified.
    x, y : numpy.ndarray (n, d), (n, o)
    lr : float, positive
        Outputs change at first by ``-lr ntk (f - y)``.
    steps : int
    progress : bool
        Show steps done and to do.

    Returns
    -------
    Training

    Raises
    ------
    TypeError, ValueError
        Arguments outside their domain, shapes that do not fit, an ensemble.
    """
    what = "mogp.train"
    if network.weights[0].ndim != 2:
        raise ValueError(f"[{what}] one network at a time: this is an ensemble {network.weights[0].shape[:-2]}")
    x, y, lr = network._inputs(x, "x"), rows(y, "y", what), positive(lr, "lr", what)
    if y.shape != (len(x), network.weights[-1].shape[0]):
        raise ValueError(f"[{what}] y must be {(len(x), network.weights[-1].shape[0])}, given {y.shape}")
    losses: list[float] = []
    before = network
    with bar(count(steps, "steps", what, 0), progress, "step") as report, np.errstate(over="ignore", invalid="ignore"):
        for step in range(steps + 1):
            zs, hs = network._forward(x)
            e = zs[-1] - y
            loss = float((e * e).sum() / 2)
            if blown_up(loss, losses[0] if losses else loss, y):
                return Training(before, np.array(losses), True)
            losses.append(loss)
            if step == steps:
                break
            before, network = network, _descended(network, zs, hs, e, lr)
            report(1)
    return Training(network, np.array(losses), False)


def _descended(network: Network, zs: list[Array], hs: list[Array], e: Array, lr: float) -> Network:
    weights, biases = list(network.weights), list(network.biases)
    for i in reversed(range(len(weights))):
        rate_v, rate_b = network.rates[i]
        pulled = e @ network.weights[i]
        weights[i] = network.weights[i] - lr * rate_v * (e.T @ hs[i])
        biases[i] = network.biases[i] - lr * rate_b * e.sum(axis=0)
        if i:
            e = pulled * np.sqrt(network.variances[i - 1]) * network.layers[i - 1].dphi(zs[i - 1])
    return replace(network, weights=tuple(weights), biases=tuple(biases))


@dataclass(frozen=True)
class KernelDraws:
    """Draws of both kernels of a network at initialisation.

    Attributes
    ----------
    nngp : numpy.ndarray (s, n, n)
        Covariance of each output given the nodes.
    ntk : numpy.ndarray (s, n, n), or (s, n, n, o, o) between outputs
        Of the same networks.
    """

    nngp: Array
    ntk: Array


def sample_ntk(
    x: Any, layers: Any, n_samples: int, n_atoms: int, rng: Any, *, n_bulk: int = 256, n_outputs: int | None = None,
    parameterization: str = "ntk", sigma_v2: float = 1.0, sigma_b2: float = 0.0, progress: bool = False,
) -> KernelDraws:  # fmt: skip
    """Draws of the random NTK of infinitely wide node-scaled networks at initialisation.

    ``Theta = sum_l D^l (rate_v (K^l - sigma_b2) / sigma_v2 + rate_b)`` with ``D^l(x, x') = sum_k df/dz^l_k(x)
    df/dz^l_k(x')``, both random. Without points (:class:`Iid`) it is the NTK of ``fastntk.stax``.

    Parameters
    ----------
    x, layers, n_samples, n_atoms, rng, sigma_v2, sigma_b2, progress
        As for :func:`sample_kernels`.
    n_bulk : int
        Nodes that stand for a layer's other nodes, of equal variances, where layers below have points.
    n_outputs : int, optional
        None: of one output. Else between that many outputs, whose NTK is not diagonal.
    parameterization : 'ntk' or 'standard'
        As for :func:`init`.

    Returns
    -------
    KernelDraws

    Raises
    ------
    TypeError, ValueError, OverflowError
        As :func:`sample_kernels`.

    Notes
    -----
    Derived here. The smooth part of a layer l is exact, ``a sigma_v2 kdot_phi(K^l) D^(l+1)``, as long as no layer below
    has points. Above points it is not: all its nodes receive the same few large nodes, by weights that also make their
    pre-activations, so that the sum over pairs of them does not average out. There n_bulk nodes of it are drawn; the
    error in distribution falls with n_bulk as that of a layer of that width.
    """
    what = "sample_ntk"
    problem = Problem.of(x, layers, n_samples, n_atoms, rng, sigma_v2, sigma_b2, what)
    rates_of(parameterization, 1.0, 0.0, what)
    outputs = 1 if n_outputs is None else count(n_outputs, "n_outputs", what)
    nodes = problem.n_atoms + count(n_bulk, "n_bulk", what)
    n = len(problem.first)
    nngp, ntk = np.empty((problem.n_samples, n, n)), np.empty((problem.n_samples, n, n, outputs, outputs))
    size = max(1, _CHUNK // max(nodes * max(nodes, n * outputs), (n * outputs) ** 2))
    v2, b2 = positive(sigma_v2, "sigma_v2", what), not_negative(sigma_b2, "sigma_b2", what)
    start = 0
    with bar(problem.n_samples, progress, "draw") as report:
        while start < problem.n_samples:
            part = slice(start, min(start + size, problem.n_samples))
            s = part.stop - part.start
            with one_blas_thread(), np.errstate(over="ignore", invalid="ignore"):
                drawn = _Drawn.of(problem, s, n_bulk, outputs)
                nngp[part] = drawn.kernels[-1]
                ntk[part] = drawn.ntk(problem.layers, parameterization, v2, b2)
            refuse_overflow(ntk[part], len(problem.layers), what)
            report(s)
            start = part.stop
    return KernelDraws(nngp, ntk[..., 0, 0] if n_outputs is None else ntk)


@dataclass
class _Drawn:
    """s networks in the limit: nodes drawn, and what is known of the others."""

    kernels: list[Array]  # K^1 .. K^(L+1), (s, n, n) or (n, n)
    gains: list[Any]  # of each hidden layer, of its smooth nodes: D^(l+1) to D^l
    slopes: list[Array | None]  # of each hidden layer sqrt(lam) phi'(z), (s, n, nodes); None: no nodes drawn
    weights: list[Array | None]  # away from them, (s, nodes above, nodes)
    outputs: int

    @classmethod
    def of(cls, problem: Problem, s: int, n_bulk: int, outputs: int) -> _Drawn:
        rng, n = problem.rng, len(problem.first)
        kernels: list[Array] = [problem.first]
        gains: list[Any] = []
        slopes: list[Array | None] = []
        weights: list[Array | None] = []
        z: Array | None = None  # of the nodes drawn in this layer, where those below are drawn
        pending: tuple[Layer, Array, Array] | None = None  # of the layer below: sqrt(lam) phi(z), and its smooth part
        last = len(problem.layers) - 1
        for depth, layer in enumerate(problem.layers):
            k = kernels[-1]
            if pending is None and layer.measure.mass == 0:
                found, slope = layer.smooth(k)
                kernels.append(layer.sigma_b2 + layer.sigma_v2 * layer.measure.a * found)
                gains.append(layer.sigma_v2 * layer.measure.a * slope)
                slopes.append(None)
                weights.append(None)
                continue
            atoms = layer.measure.sample_atoms(s, problem.n_atoms, rng)
            variances, smooth = atoms.variances, np.zeros((s, n, n))
            gain: Any = 0.0
            if pending is None:
                z = factor(k) @ rng.standard_normal((s, n, variances.shape[1]))
                if atoms.bulk.any():
                    found, slope = layer.smooth(k)
                    smooth = layer.sigma_v2 * atoms.bulk[:, None, None] * found
                    gain = layer.sigma_v2 * atoms.bulk[:, None, None] * slope
            else:
                if atoms.bulk.any():
                    spread = np.repeat(atoms.bulk[:, None] / n_bulk, n_bulk, axis=1)
                    variances = np.concatenate([variances, spread], axis=1)
                below, h, left = pending
                v = np.sqrt(below.sigma_v2) * rng.standard_normal((s, variances.shape[1], h.shape[-1]))
                weights.append(v)
                z = h @ np.swapaxes(v, -1, -2)
                z = z + np.sqrt(below.sigma_b2) * rng.standard_normal((s, 1, variances.shape[1]))
                if left.any():
                    z = z + factor(left) @ rng.standard_normal(z.shape)
            root = np.sqrt(variances)[:, None, :]
            features = layer.phi(z)
            kernels.append(layer.sigma_b2 + layer.sigma_v2 * weighted_gram(features, variances) + smooth)
            refuse_overflow(kernels[-1], depth + 1, problem.what)
            gains.append(gain)
            slopes.append(root * layer.dphi(z))
            pending = layer, root * features, smooth
            if depth == last:
                shape = (s, outputs, variances.shape[1])
                weights.append(np.sqrt(layer.sigma_v2) * rng.standard_normal(shape))
        return cls(kernels, gains, slopes, weights, outputs)

    def ntk(self, layers: tuple[Layer, ...], parameterization: str, v2: float, b2: float) -> Array:
        """(s, n, n, o, o), or without s where nothing is random."""
        sigmas = [(v2, b2), *((layer.sigma_v2, layer.sigma_b2) for layer in layers)]

        def own(depth: int) -> Array:
            v, b = sigmas[depth]
            rate_v, rate_b = rates_of(parameterization, v, b, "sample_ntk")
            found: Array = (rate_v / v * (self.kernels[depth] - b) + rate_b)[..., None, None]
            return found

        n = self.kernels[0].shape[-1]
        square: Array = np.broadcast_to(np.eye(self.outputs), (n, n, self.outputs, self.outputs))
        d: Array | None = None
        total = square * own(len(layers))
        for depth in reversed(range(len(layers))):
            gain = np.asarray(self.gains[depth])
            below = square * gain[..., None, None]
            slopes, v = self.slopes[depth], self.weights[depth]
            if slopes is not None and v is not None:
                if d is None:
                    d = np.broadcast_to(np.eye(self.outputs), (*slopes.shape[:2], self.outputs, self.outputs))
                d = (d @ v[:, None]) * slopes[:, :, None, :]
                below = below + _outer(d, d)
            square = below
            total = total + square * own(depth)
        return total
