"""Two networks whose training at infinite width is known: the linear one under muP, and two layers in mean field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.checks import generator, integer, learning_rates
from .network import Activation, _factors, activation_of, default_scales, inputs_of
from .parameterization import Array
from .training import batches, blown_from, mean_square, targets_of


@dataclass(frozen=True)
class LinearLimit:
    """Training of an infinitely wide linear network with one hidden layer under muP.

    Called with inputs (n, d), gives the outputs before training and after each step, (steps run + 1, n, k).

    Attributes
    ----------
    outputs : numpy.ndarray (steps run + 1, n, k)
        Of the training samples; all finite.
    losses : numpy.ndarray (steps run + 1,)
        ``|f - y|^2 / (2 n)``.
    maps : numpy.ndarray (steps run + 1, d, k)
        The linear function, ``f(x) = x maps``.
    first : numpy.ndarray (d, d + k)
        After the last step: ``u = first z``, the first layer's weights of a neuron in terms of the initial ones of
        both layers, ``z = (u_0, v_0)``.
    last : numpy.ndarray (k, d + k)
        The same of the last layer's, ``v = last z``.
    diverged : bool
        The run ended before its loss passed 1e12 times that of its start.
    """

    outputs: Array
    losses: Array
    maps: Array
    first: Array
    last: Array
    diverged: bool

    def __call__(self, x: Any) -> Array:
        return np.asarray(inputs_of(x, self.maps.shape[1], "LinearLimit") @ self.maps)


def linear_mup_limit(
    x: Any, y: Any, lr: Any, steps: int, *, scales: Sequence[float] | None = None, batch_size: int | None = None
) -> LinearLimit:
    """The exact infinite-width limit of a linear network with one hidden layer, trained by SGD under muP.

    Parameters
    ----------
    x : array_like (n, d)
    y : array_like (n,) or (n, k)
    lr, steps, batch_size
        As for :func:`fastntk.abc.sgd`, whose runs under ``Parameterization.mup(1)`` it is the limit of; samples come
        in their order.
    scales : (float, float), optional
        Standard deviations of the initial weights: ``1 / sqrt(d)`` and 1 unless given.

    Returns
    -------
    LinearLimit

    Raises
    ------
    ValueError
        As :func:`fastntk.abc.sgd`.

    Notes
    -----
    ``f(x) = (1 / m) sum_i v_i (u_i . x)``. Every neuron stays a linear function of its own initial weights, the same
    function for all: ``u = P z``, ``v = Q z``, ``z ~ N(0, S)``, so ``f(x) = Q S P^T x`` and, with chi the derivative of
    the loss by the outputs, ``P -= eta x chi^T Q``, ``Q -= eta chi x^T P``, both from the old values. For d = k = 1
    these are A, B, C, D of Yang and Hu. Networks of width m deviate by the order of ``m^(-1/2)``.

    References
    ----------
    Yang and Hu (2021), arXiv:2011.14522 (d = k = 1); more inputs and outputs: derived.
    """
    what = "linear_mup_limit"
    x = inputs_of(x, None, what)
    y = targets_of(y, len(x), None, what)
    count, d, k = integer(what, "steps", steps), x.shape[1], y.shape[1]
    etas = learning_rates(lr, count, what)
    s1, s2 = _factors(what, "scales", scales, default_scales(1.0, d, 1))
    variances = np.array([s1**2] * d + [s2**2] * k)
    first, last = np.eye(d, d + k), np.eye(k, d + k, d)
    maps, order = [(first * variances) @ last.T], batches(len(x), batch_size, None, what)
    losses = [mean_square(x @ maps[0], y)]
    limit, diverged = blown_from(losses[0], y), False
    with np.errstate(over="ignore", invalid="ignore"):
        for eta in etas:
            rows = next(order)
            pull = x[rows].T @ (x[rows] @ maps[-1] - y[rows]) * (eta / len(y[rows]))
            after = first - pull @ last, last - pull.T @ first
            now = (after[0] * variances) @ after[1].T
            loss = mean_square(x @ now, y)
            if not loss <= limit:
                diverged = True
                break
            first, last = after
            maps.append(now)
            losses.append(loss)
    return LinearLimit(x @ np.array(maps), np.array(losses), np.array(maps), first, last, diverged)


@dataclass(frozen=True)
class MeanFieldFlow:
    """Gradient flow of a mean-field network of one hidden layer; called with inputs (n, d), its last outputs.

    The network is ``f(x) = (1 / M) sum_j a_j phi(w_j . x)``.

    Attributes
    ----------
    t : numpy.ndarray (T,)
        Times.
    outputs : numpy.ndarray (T, n, k)
        Of the training samples.
    losses : numpy.ndarray (T,)
        ``|f - y|^2 / (2 n)``.
    a : numpy.ndarray (T, M, k)
    w : numpy.ndarray (T, M, d)
        The particles.
    activation : Activation
    """

    t: Array
    outputs: Array
    losses: Array
    a: Array
    w: Array
    activation: Activation

    def __call__(self, x: Any) -> Array:
        hidden = self.activation.phi(inputs_of(x, self.w.shape[2], "MeanFieldFlow") @ self.w[-1].T)
        return np.asarray(hidden @ self.a[-1] / self.a.shape[1])


def two_layer_mean_field_flow(
    x: Any, y: Any, n_particles: int, t: Any, *, rng: np.random.Generator | int = 0, activation: Any = "relu",
    scales: Sequence[float] | None = None, particles: tuple[Any, Any] | None = None, rtol: float = 1e-5,
) -> MeanFieldFlow:  # fmt: skip
    """Gradient flow of a two-layer network in mean-field scaling: a flow of particles.

    Parameters
    ----------
    x : array_like (n, d)
    y : array_like (n,) or (n, k)
    n_particles : int
        M. The law of (a, w) at infinite width is approached at the rate ``M^(-1/2)``.
    t : array_like (T,)
        Times at which to look, not negative, increasing.
    rng : numpy.random.Generator or int
        Draws the particles, ``w ~ N(0, s_1^2)``, then ``a ~ N(0, s_2^2)``.
    activation : 'relu', 'tanh', 'elu', 'linear', or an object with ``phi`` and ``dphi``
    scales : (float, float), optional
        s_1 and s_2: ``sqrt(g / d)`` and 1 unless given, g = 2 for relu, else 1.
    particles : (array_like (M, k), array_like (M, d)), optional
        Initial a and w, instead of a draw.
    rtol : float
        Error allowed to each step of the integration, relative to the size of the particles. Outputs are then off by
        about as much (1e-4 to 1e-5, with the default, for relu). Far below the default, steps of relu become tiny:
        they have to stop at every kink.

    Returns
    -------
    MeanFieldFlow

    Raises
    ------
    ValueError
        Samples and targets that are not finite or do not fit, no particles, times that do not increase.
    ImportError
        SciPy is missing.
    FloatingPointError
        The integration broke down.

    Notes
    -----
    ``da_j / dt = -E[e phi(w_j . x)]``, ``dw_j / dt = -E[(e . a_j) phi'(w_j . x) x]``, ``e = f(x) - y``, the mean being
    over the samples. It is :func:`fastntk.abc.sgd` under ``Parameterization.ip(1)`` with ``t = lr steps`` for small lr,
    and along it ``dloss / dt = -(1 / M) sum_j (|da_j / dt|^2 + |dw_j / dt|^2)``. Integrated by Runge-Kutta steps of
    order 5 (Dormand and Prince; SciPy's ``solve_ivp``).

    References
    ----------
    Mei, Montanari and Nguyen (2018), arXiv:1804.06561; Chizat and Bach (2018), arXiv:1805.09545.
    """
    what = "two_layer_mean_field_flow"
    try:
        from scipy.integrate import solve_ivp
    except ImportError as error:
        raise ImportError(f"[{what}] needs SciPy (pip install 'fastntk[predict]')") from error
    x = inputs_of(x, None, what)
    y = targets_of(y, len(x), None, what)
    m, (n, d), k = integer(what, "n_particles", n_particles), x.shape, y.shape[1]
    phi = activation_of(activation, what)
    times = np.array(t, dtype=np.float64)
    if times.ndim != 1 or not times.size or not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) <= 0).any():
        raise ValueError(f"[{what}] t must be a vector of times, not negative and increasing, given {t!r}")
    if not 0 < rtol < 1:
        raise ValueError(f"[{what}] rtol must lie between 0 and 1, given {rtol}")
    if particles is None:
        s1, s2 = _factors(what, "scales", scales, default_scales(phi.gain, d, 1))
        draw = generator(rng, what)
        w = s1 * draw.standard_normal((d, m)).T
        a = s2 * draw.standard_normal((m, k))
    else:
        a, w = (np.array(v, dtype=np.float64) for v in particles)
        if a.shape != (m, k) or w.shape != (m, d) or not (np.isfinite(a).all() and np.isfinite(w).all()):
            raise ValueError(
                f"[{what}] particles must be finite and of shapes {(m, k)}, {(m, d)}, given {a.shape}, {w.shape}"
            )

    def apart(state: Array) -> tuple[Array, Array]:
        return state[: m * k].reshape(m, k), state[m * k :].reshape(m, d)

    def velocity(_: float, state: Array) -> Array:
        a, w = apart(state)
        h = x @ w.T
        hidden = phi.phi(h)
        e = (hidden @ a / m - y) / n
        return -np.concatenate([(hidden.T @ e).ravel(), (((e @ a.T) * phi.dphi(h)).T @ x).ravel()])

    start = np.concatenate([a.ravel(), w.ravel()])
    states = start[:, None]
    if times[-1] > 0:
        size = float(np.sqrt(np.mean(start**2))) or 1.0
        solution = solve_ivp(velocity, (0.0, times[-1]), start, t_eval=times, rtol=rtol, atol=rtol * size)
        if not solution.success:
            raise FloatingPointError(f"[{what}] the integration broke down: {solution.message}")
        states = solution.y
    seen = [apart(state) for state in states.T]
    outputs = np.array([phi.phi(x @ w.T) @ a / m for a, w in seen])
    return MeanFieldFlow(
        times, outputs, np.array([mean_square(f, y) for f in outputs]), np.array([a for a, _ in seen]),
        np.array([w for _, w in seen]), phi,
    )  # fmt: skip
