"""Shallow networks with asymmetrical node scaling: from the lazy regime to one that learns features.

``f(x) = sum_j sqrt(lam_j) a_j phi(w_j . x / sqrt(d))`` with signs ``a_j = +-1`` fixed, ``w_j ~ N(0, sigma_w2 I)``
trained, ``lam_j = gamma / m + (1 - gamma) lamt_j`` for m nodes, ``lamt`` a fixed sequence of sum 1 such as
:func:`zipf` (Caron et al., arXiv:2302.01002). At ``gamma = 1`` wide networks are linear in their weights (NTK regime,
no weight moves); below, the nodes with ``lamt_j > 0`` keep moving however wide the network is, and the tangent kernel
is random and evolves. In the limit the network is those nodes, the atoms, and a bulk that is linear:

``dw_j/dt = -sqrt((1 - gamma) lamt_j) a_j sum_i e_i phi'(w_j . x_i / sqrt(d)) x_i / sqrt(d)``,
``df_bulk/dt = -gamma Theta* e``, ``Theta*(x, x') = (x . x' / d) kdot_phi``, ``e = f - y``

(derived here; ``tests/test_mogp_training.py`` holds wide networks against it).

>>> from fastntk.mogp import node_scaling
>>> atoms = node_scaling.zipf(0.5, 100)
>>> network = node_scaling.init(1000, 3, 0.5, atoms, rng=0)
>>> limit = node_scaling.init(float("inf"), 3, 0.5, atoms, rng=0)
>>> network.variances.shape, limit.variances.shape, round(limit.bulk, 3)
((1000,), (100,), 0.503)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import special

from ..base.arraylike import describe
from ..base.checks import Array, between, count, generator, number, points, positive, rows
from ..base.progress import bar
from ..dual import dual
from ..network.activation_like import layer_named
from ..network.activations import Nonlinearity, Relu
from .families import Iid
from .kernels import Layer, factor
from .training import blown_up

__all__ = ["Run", "Shallow", "flow", "init", "ntg_limit", "train", "zipf"]

_STEP = 0.2  # of the flow, in time scales of the tangent Gram
_REFRESH = 10  # steps between two looks at it
_MAX_STEPS = 10**7


def zipf(alpha: float, n: int) -> Array:
    """``lamt_j = j^(-1 / alpha) / zeta(1 / alpha)``, j = 1 .. n, 0 < alpha < 1: the first n of a sequence of sum 1."""
    power = 1 / between(alpha, "alpha", "zipf", 0, 1)
    return np.asarray(np.arange(1, count(n, "n", "zipf") + 1) ** -power / special.zeta(power))


def _activation(activation: Any, what: str) -> Layer:
    activation = layer_named(activation)
    if not isinstance(activation, Nonlinearity):
        raise TypeError(f"[{what}] activation must be a nonlinearity such as stax.Relu(), given {describe(activation)}")
    return Layer(Iid(), activation)  # for phi and its derivative


def _scaled(gamma: Any, atoms: Any, what: str) -> tuple[Array, float]:
    """``(1 - gamma) lamt_j``, and the share of all other nodes."""
    share = number(gamma, "gamma", what)
    if not 0 <= share <= 1:
        raise ValueError(f"[{what}] gamma must lie in [0, 1], given {gamma}")
    lamt = points(atoms, "atoms", what)
    if lamt.ndim != 1 or lamt.sum() > 1 + 1e-9:
        raise ValueError(
            f"[{what}] atoms must be a vector of sum at most 1, given shape {lamt.shape}, sum {lamt.sum():.6g}"
        )
    return (1 - share) * lamt, share + (1 - share) * max(0.0, 1 - float(lamt.sum()))


@dataclass(frozen=True)
class Shallow:
    """A shallow network, of finite width (``bulk = 0``) or infinitely wide.

    Attributes
    ----------
    weights : numpy.ndarray (m, d)
        w, of all nodes or of the atoms.
    signs : numpy.ndarray (m,), or (m, o) of o outputs
        a.
    variances : numpy.ndarray (m,)
        lam.
    bulk : float
        Sum of the variances of all other nodes, infinitely many.
    sigma_w2 : float
        Variance of the weights at initialisation.
    activation : nonlinearity of fastntk.stax, or the name of one
    """

    weights: Array
    signs: Array
    variances: Array
    bulk: float = 0.0
    sigma_w2: float = 1.0
    activation: Nonlinearity = field(default_factory=Relu)

    def __post_init__(self) -> None:
        object.__setattr__(self, "activation", _activation(self.activation, "Shallow").activation)

    @property
    def outputs(self) -> int:
        """o."""
        return 1 if self.signs.ndim == 1 else self.signs.shape[1]

    @property
    def scales(self) -> Array:
        """``sqrt(lam_j) a_jk``, (m, o)."""
        return np.asarray(np.sqrt(self.variances)[:, None] * self.signs.reshape(len(self.variances), -1))

    def atoms(self, x: Any) -> Array:
        """What the nodes of ``weights`` say, (n, o): of a finite network its outputs."""
        z = self._inputs(x, "x") @ self.weights.T
        return np.asarray(self._nodes.phi(z) @ self.scales)

    def ntg(self, x1: Any, x2: Any = None) -> Array:
        """The tangent Gram ``(x . x' / d) (sum_j lam_j phi'(z_j) phi'(z'_j) + bulk kdot_phi)``, (n1, n2).

        Of each output with itself; between outputs k and k' it has ``a_jk a_jk'`` in the sum, and no bulk.
        """
        first = self._inputs(x1, "x1")
        second = first if x2 is None else self._inputs(x2, "x2")
        left, right = (self._nodes.dphi(x @ self.weights.T) for x in (first, second))
        found = left * self.variances @ right.T
        if self.bulk:
            found += self.bulk * _duals(self.activation, first, second, self.sigma_w2)[1]
        return np.asarray(found * (first @ second.T))

    @property
    def _nodes(self) -> Layer:
        return _activation(self.activation, "Shallow")

    def _inputs(self, x: Any, name: str) -> Array:
        """x / sqrt(d)."""
        found = rows(x, name, "Shallow")
        if found.shape[1] != self.weights.shape[1]:
            raise ValueError(
                f"[Shallow] {name} has {found.shape[1]} features, the network takes {self.weights.shape[1]}"
            )
        return found / math.sqrt(found.shape[1])


def _duals(activation: Nonlinearity, first: Array, second: Array, sigma_w2: float) -> tuple[Array, Array]:
    q1, q2 = (sigma_w2 * (x * x).sum(axis=1) for x in (first, second))
    k, kdot = dual(activation, q1[:, None], sigma_w2 * (first @ second.T), q2)
    return np.asarray(k), np.asarray(kdot)


def init(
    m: float, d: int, gamma: float, atoms: Any, rng: Any, *, sigma_w2: float = 1.0, activation: Any = None,
    outputs: int = 1,
) -> Shallow:  # fmt: skip
    """A random network with asymmetrical node scaling.

    Parameters
    ----------
    m : int, or infinity
        Width, at least the number of atoms.
    d : int
        Features of an input.
    gamma : float in [0, 1]
        Share of the variance that all nodes have alike.
    atoms : array (J,)
        ``lamt``, not negative, of sum at most 1; what its sum lacks is spread over all nodes too.
    rng : numpy.random.Generator or int
    sigma_w2 : float
    activation : nonlinearity of fastntk.stax, or the name of one
        None: ``stax.Relu()``.
    outputs : int
        o, each with signs of its own.

    Returns
    -------
    Shallow

    Raises
    ------
    TypeError, ValueError
        Arguments outside their domain: gamma beyond [0, 1], a width below 1 or below the number of atoms.
    """
    what = "node_scaling.init"
    lamt, rest = _scaled(gamma, atoms, what)
    d, sigma = count(d, "d", what), math.sqrt(positive(sigma_w2, "sigma_w2", what))
    act = _activation(Relu() if activation is None else activation, what).activation
    rng, many = generator(rng, what), count(outputs, "outputs", what)
    if m == math.inf:
        variances, bulk = lamt, rest
    else:
        width = count(m, "m", what)
        if width < len(lamt):
            raise ValueError(f"[{what}] m must be at least the number of atoms, {len(lamt)}; given {m}")
        variances, bulk = np.full(width, rest / width), 0.0
        variances[: len(lamt)] += lamt
    # Each node draws its own row and sign: the first ones of a wider network are those of a narrower one.
    drawn = rng.standard_normal((len(variances), d + many))
    signs = np.where(drawn[:, d:] < 0, -1.0, 1.0)
    return Shallow(sigma * drawn[:, :d], signs[:, 0] if many == 1 else signs, variances, bulk, sigma**2, act)


def ntg_limit(
    x1: Any, x2: Any, gamma: float, atoms: Any, n_samples: int, rng: Any, *,
    sigma_w2: float = 1.0, activation: Any = None,
) -> Array:  # fmt: skip
    """Draws of the tangent Gram at initialisation, infinitely wide.

    Parameters
    ----------
    x1, x2 : numpy.ndarray (n1, d), (n2, d)
        None for x2: x1 again.
    gamma, atoms, rng, sigma_w2, activation
        As for :func:`init`.
    n_samples : int

    Returns
    -------
    numpy.ndarray (n_samples, n1, n2)
        Of mean ``(x . x' / d) kdot_phi`` whatever gamma, and variance
        ``(1 - gamma)^2 (x . x' / d)^2 sum_j lamt_j^2 Var(phi' phi')``.

    Raises
    ------
    TypeError, ValueError
        As :func:`init`.
    """
    what = "ntg_limit"
    samples, rng, d = count(n_samples, "n_samples", what), generator(rng, what), rows(x1, "x1", what).shape[1]
    networks = (init(math.inf, d, gamma, atoms, rng, sigma_w2=sigma_w2, activation=activation) for _ in range(samples))
    return np.stack([network.ntg(x1, x2) for network in networks])


@dataclass(frozen=True)
class Run:
    """A run of training.

    Attributes
    ----------
    times : numpy.ndarray (t,)
        Steps, or times of the flow.
    losses : numpy.ndarray (t,)
        ``sum |f - y|^2 / 2``.
    outputs : numpy.ndarray (t, n, o)
        At the training points.
    outputs_test : numpy.ndarray (t, m, o) or None
    weights : numpy.ndarray (m, d)
        At the end; where the run diverged, at its last loss.
    movement : numpy.ndarray (m,)
        ``|w_tj - w_0j|`` of each node, at the end.
    diverged : bool
        Whether the loss left float64 or exceeded 1e8 times its first value: all arrays end there.
    """

    times: Array
    losses: Array
    outputs: Array
    outputs_test: Array | None
    weights: Array
    movement: Array
    diverged: bool


@dataclass(frozen=True)
class _Task:
    """A network and its data: outputs and velocities of a state (w, displacement of the bulk at all points)."""

    network: Shallow
    all: Array  # x / sqrt(d), training points first
    y: Array  # (n, o)
    start: Array  # added to the outputs: the bulk's start, or minus the whole network's
    response: Array | None  # bulk Theta* between all points and the training points

    @classmethod
    def of(cls, network: Any, x: Any, y: Any, x_test: Any, centered: bool, rng: Any, what: str) -> _Task:
        if not isinstance(network, Shallow):
            raise TypeError(f"[{what}] network must be a node_scaling.Shallow, given {describe(network)}")
        train = network._inputs(x, "x")
        targets = rows(y, "y", what)
        if targets.shape != (len(train), network.outputs):
            raise ValueError(f"[{what}] y must be {(len(train), network.outputs)}, given {targets.shape}")
        both = train if x_test is None else np.vstack([train, network._inputs(x_test, "x_test")])
        start, response = np.zeros((len(both), network.outputs)), None
        if network.bulk:
            k, kdot = _duals(network.activation, both, both, network.sigma_w2)
            response = (network.bulk * kdot * (both @ both.T))[:, : len(train)]
            if not centered:
                if rng is None:
                    raise TypeError(f"[{what}] the bulk of an infinitely wide network starts at random: give rng")
                noise = generator(rng, what).standard_normal(start.shape)
                start = factor(network.bulk * k) @ noise
        task = cls(network, both, targets, start, response)
        if centered:
            task = cls(network, both, targets, -task.outputs(network.weights, np.zeros_like(start)), response)
        return task

    def outputs(self, w: Array, bulk: Array) -> Array:
        return np.asarray(self.network._nodes.phi(self.all @ w.T) @ self.network.scales + bulk + self.start)

    def velocity(self, w: Array, e: Array) -> tuple[Array, Array]:
        n = len(self.y)
        slope = self.network._nodes.dphi(self.all[:n] @ w.T) * (e @ self.network.scales.T)
        bulk = np.zeros_like(self.start) if self.response is None else -self.response @ e
        return -slope.T @ self.all[:n], bulk

    def fastest(self, w: Array) -> float:
        """Largest eigenvalue of the tangent Gram of the training points; of several outputs a bound of it, o times."""
        n = len(self.y)
        slope = self.network._nodes.dphi(self.all[:n] @ w.T)
        gram = (slope * self.network.variances @ slope.T) * (self.all[:n] @ self.all[:n].T)
        return self.network.outputs * float(
            np.linalg.norm(gram if self.response is None else gram + self.response[:n], 2)
        )

    def run(self, times: Array, found: list[Array], w: Array, diverged: bool) -> Run:
        n, outputs = len(self.y), np.array(found)
        losses = ((outputs[:, :n] - self.y) ** 2).sum(axis=(1, 2)) / 2
        test = outputs[:, n:] if len(self.all) > n else None
        movement = np.linalg.norm(w - self.network.weights, axis=1)
        return Run(times[: len(outputs)], losses, outputs[:, :n], test, w, movement, diverged)


def train(
    network: Shallow, x: Any, y: Any, lr: float, steps: int, *,
    x_test: Any = None, centered: bool = False, rng: Any = None, progress: bool = False,
) -> Run:  # fmt: skip
    """Gradient descent on ``sum |f - y|^2 / 2``, of a network of finite or infinite width.

    Parameters
    ----------
    network : Shallow
        Not modified.
    x, y : numpy.ndarray (n, d), (n, o)
    lr : float, positive
    steps : int
    x_test : numpy.ndarray (m, d), optional
        Where outputs are recorded besides.
    centered : bool
        Train ``f - f_0`` instead of f.
    rng : numpy.random.Generator or int
        For the start of the bulk, where there is one and it is not centered.
    progress : bool
        Show steps done and to do.

    Returns
    -------
    Run

    Raises
    ------
    TypeError, ValueError
        Arguments outside their domain, shapes that do not fit.
    """
    what = "node_scaling.train"
    lr, total = positive(lr, "lr", what), count(steps, "steps", what, 0)
    task = _Task.of(network, x, y, x_test, centered, rng, what)
    n = len(task.y)
    w, bulk = network.weights.copy(), np.zeros_like(task.start)
    found: list[Array] = []
    before, first = w, 0.0
    with bar(total, progress, "step") as report, np.errstate(over="ignore", invalid="ignore"):
        for step in range(total + 1):
            outputs = task.outputs(w, bulk)
            e = outputs[:n] - task.y
            loss = float(np.vdot(e, e)) / 2
            first = first if step else loss
            if blown_up(loss, first, task.y):
                return task.run(np.arange(total + 1.0), found, before, True)
            found.append(outputs)
            if step < total:
                dw, db = task.velocity(w, e)
                before, w, bulk = w, w + lr * dw, bulk + lr * db
                report(1)
    return task.run(np.arange(total + 1.0), found, w, False)


def flow(
    network: Shallow, x: Any, y: Any, times: Any, *,
    x_test: Any = None, centered: bool = False, rng: Any = None, progress: bool = False,
) -> Run:  # fmt: skip
    """Gradient flow, the limit of small steps: time is ``lr`` times the number of steps.

    Parameters
    ----------
    times : array (t,)
        Not negative, rising: when outputs are recorded.
    progress : bool
        Show times done and to do.
    others
        As for :func:`train`.

    Returns
    -------
    Run

    Raises
    ------
    TypeError, ValueError
        As :func:`train`; other times.
    ArithmeticError
        Beyond ten million steps: the times are too long for this tangent Gram.

    Notes
    -----
    Runge-Kutta steps of order 4, each a fifth of the shortest time scale ``1 / lambda_max`` of the tangent Gram. Along
    a kink of phi, where flows slide, they are of order 1; adaptive steps would stall there. Errors of outputs: about
    1e-5 of their scale for smooth phi, 1e-3 with kinks.
    """
    what = "node_scaling.flow"
    task = _Task.of(network, x, y, x_test, centered, rng, what)
    at = points(times, "times", what)
    if at.ndim != 1 or not len(at) or not np.isfinite(at).all() or (np.diff(at) <= 0).any():
        raise ValueError(f"[{what}] times must be a vector of finite, rising numbers, given {times}")
    w, bulk, n = network.weights.copy(), np.zeros_like(task.start), len(task.y)
    found: list[Array] = []
    now, rate, steps = 0.0, 0.0, 0

    def velocity(w: Array, bulk: Array) -> tuple[Array, Array]:
        return task.velocity(w, task.outputs(w, bulk)[:n] - task.y)

    with bar(len(at), progress, "time") as report:
        for stop in at:
            while now < stop:
                if steps % _REFRESH == 0:
                    rate = task.fastest(w)
                steps += 1
                if steps > _MAX_STEPS:
                    raise ArithmeticError(
                        f"[{what}] stopped at t = {now:.6g} after {_MAX_STEPS} steps: the time scale of the tangent "
                        f"Gram is {1 / rate:.3g}, asked for {at[-1]:.6g}"
                    )
                h = min(_STEP / rate if rate else np.inf, stop - now)
                dw1, db1 = velocity(w, bulk)
                dw2, db2 = velocity(w + h / 2 * dw1, bulk + h / 2 * db1)
                dw3, db3 = velocity(w + h / 2 * dw2, bulk + h / 2 * db2)
                dw4, db4 = velocity(w + h * dw3, bulk + h * db3)
                w = w + h / 6 * (dw1 + 2 * dw2 + 2 * dw3 + dw4)
                bulk = bulk + h / 6 * (db1 + 2 * db2 + 2 * db3 + db4)
                now = stop if h == stop - now else now + h
            found.append(task.outputs(w, bulk))
            report(1)
    return task.run(at, found, w, False)
