"""Variances, correlations and tangent kernels layer by layer.

Correlations are carried by their signed defects (see :mod:`fastntk.activations`), so that ``1 - c`` keeps its digits
after c has rounded to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.checks import integer
from ..network.activations import rho_of
from .maps import numbers, variances
from .statistics import Array, Statistics, both, signed, statistics_of


@dataclass(frozen=True)
class Trajectory:
    """Two inputs of equal variance in a wide random network; entry l is behind l + 1 layers of weights.

    Attributes
    ----------
    q : numpy.ndarray (depth + 1,)
        Variance of pre-activations.
    c, gap : numpy.ndarray ``(depth + 1, *c0.shape)``
        Correlation, and ``1 - c`` to full precision.
    chi : numpy.ndarray (depth + 1,)
        ``sigma_w2 / keep E phi'(sqrt(q^l) z)^2``, the factor of ``E |gradient|^2`` across the layer that follows.
    """

    q: Array
    c: Array
    gap: Array
    chi: Array


@dataclass(frozen=True)
class NTKTrajectory:
    """Tangent kernel of m inputs of equal variance and equal correlations; entry l is behind l + 1 layers of weights.

    Attributes
    ----------
    q, c, gap : numpy.ndarray (depth + 1,)
        As in :class:`Trajectory`.
    p, p_ab : numpy.ndarray (depth + 1,)
        The NTK of an input with itself and with another.
    bulk : numpy.ndarray (depth + 1,)
        ``p - p_ab``, the eigenvalue of multiplicity m - 1, with an error of about 1e-16 p_ab.
    lambda_min, lambda_max : numpy.ndarray (depth + 1,)
        ``p - p_ab`` and ``p + (m - 1) p_ab``, in their order.
    condition : numpy.ndarray (depth + 1,)
        ``lambda_max / lambda_min``; infinite beyond 1e15, which is singular to rounding.
    """

    q: Array
    c: Array
    gap: Array
    p: Array
    p_ab: Array
    bulk: Array
    lambda_min: Array
    lambda_max: Array
    condition: Array


@dataclass(frozen=True)
class ResNetTrajectory:
    """A wide random residual network; entry l is behind l blocks.

    Attributes
    ----------
    p : numpy.ndarray (blocks + 1,)
        Variance of the residual stream x.
    q : numpy.ndarray (blocks + 1,)
        Of the pre-activations that the next block makes of it.
    c : numpy.ndarray ``(blocks + 1, *c0.shape)`` or None
        Correlation of two inputs' streams, where c0 was given.
    log_gradient : numpy.ndarray (blocks + 1,)
        ``log(E |dL/dx^0|^2 / E |dL/dx^l|^2)``: how much gradients grow on the way back through l blocks.
    """

    p: Array
    q: Array
    c: Array | None
    log_gradient: Array


def _start(what: str, q0: Any, c0: Any) -> tuple[float, Array]:
    """The variance, and the correlations' signed defects."""
    q, c = numbers(what, q0=q0, c0=c0)
    if q.ndim or not q > 0:
        raise ValueError(f"[{what}] q0 must be a positive number, given {q0}")
    if not (np.abs(c) <= 1).all():
        raise ValueError(f"[{what}] c0 must lie in [-1, 1], given {c0}")
    return float(q), signed(1 - c, 1 + c)


def _single(what: str, **values: Any) -> list[float]:
    arrays = numbers(what, **values)
    for name, array in zip(values, arrays, strict=True):
        if array.ndim:
            raise ValueError(f"[{what}] {name} must be one number, given shape {array.shape}")
    return [float(a) for a in arrays]


def _mixed(v: Array, own: float, keep: float, b: float, q: float) -> Array:
    """Behind weights, dropout and biases, which make a variance q of ``own / keep + b``: dropout's noise is not shared.

    Where q has fallen to 0, a correlation is what dropout leaves of it.
    """
    share, bias = (own / q, b / q) if q > 0 else (keep, 0.0)
    noise = share * (1 / keep - 1)
    above, below = both(v)
    return signed(share * above + noise, share * below + noise + 2 * bias)


def _finite(what: str, act: Statistics, depth: int, *values: float) -> None:
    if not all(np.isfinite(values)):
        raise ValueError(f"[{what}] the variance of {act.name} overflows at layer {depth}")


def trajectory(
    act: Any, sigma_w2: float, sigma_b2: float, q0: float, c0: Any, depth: int, *, keep: float = 1.0
) -> Trajectory:
    """Variance and correlation of two inputs through a network: the recursions of the q-map and the c-map.

    Parameters
    ----------
    act
        As for :func:`q_map`.
    sigma_w2, sigma_b2, keep : float
    q0 : float
        Variance of both inputs' pre-activations behind the first layer of weights.
    c0 : array_like in [-1, 1]
        Their correlations there.
    depth : int
        Number of nonlinearities, 0 or more.

    Returns
    -------
    Trajectory

    Raises
    ------
    TypeError, ValueError
        As :func:`q_map`; a variance that overflows.

    Notes
    -----
    About 0.1 ms a layer for nonlinearities of stax. Dropout masks of two inputs are independent, those of an input
    with itself the same: only variances are divided by ``keep``.

    References
    ----------
    Poole et al. (2016), arXiv:1606.05340, eqs. (3) to (5); Schoenholz et al. (2017), arXiv:1611.01232.
    """
    what = "trajectory"
    stats = statistics_of(act, what)
    w, b, p = _single(what, sigma_w2=sigma_w2, sigma_b2=sigma_b2, keep=keep)
    variances(what, w, b, p)
    q, v = _start(what, q0, c0)
    steps = integer(what, "depth", depth, least=0)
    qs, chis, gaps, cs = np.empty(steps + 1), np.empty(steps + 1), *(np.empty((steps + 1, *v.shape)) for _ in range(2))
    for n in range(steps + 1):
        phi2, dphi2, _, out = stats.layer(q, v)
        qs[n], chis[n], gaps[n], cs[n] = q, w / p * dphi2, both(v)[0], rho_of(v)
        q = w / p * phi2 + b
        _finite(what, stats, n + 1, q)
        v = _mixed(out, w * phi2, p, b, q)
    return Trajectory(qs, cs, gaps, chis)


def ntk_trajectory(
    act: Any, sigma_w2: float, sigma_b2: float, q0: float, c0: float, depth: int, *, m: int = 2
) -> NTKTrajectory:
    """The NTK of deep networks and its condition number, on m inputs of equal variance and equal correlations.

    Parameters
    ----------
    act
        As for :func:`q_map`.
    sigma_w2, sigma_b2 : float
        As of ``stax.Dense(W_std=sigma_w, b_std=sigma_b)``.
    q0, c0 : float
        Variance and correlations behind the first layer of weights, ``NTK^0 = K^0``.
    depth : int
        Number of nonlinearities, 0 or more.
    m : int
        Number of inputs, at least 2.

    Returns
    -------
    NTKTrajectory

    Raises
    ------
    TypeError, ValueError
        As :func:`trajectory`; correlations that m inputs cannot have, ``c0 < -1 / (m - 1)``.

    Notes
    -----
    ``NTK' = K' + sigma_w2 kdot NTK``, for p, p_ab and their difference. At depth l: critical and smooth,
    ``p ~ l q*``, ``p_ab / p -> 1/3``, condition ``-> (m + 2) / 2``; critical rectifiers, ``p_ab / p -> 1/4``,
    condition ``-> (m + 3) / 3``; ordered, ``p -> q* / (1 - chi_1)``, the condition grows like ``chi_1^-l / l``;
    chaotic, ``p ~ chi_1^l``, condition ``-> 1`` (derived; they agree with Xiao et al.).

    References
    ----------
    Xiao, Pennington and Schoenholz (2020), arXiv:1912.13053, section 3.
    """
    what = "ntk_trajectory"
    stats = statistics_of(act, what)
    w, b = _single(what, sigma_w2=sigma_w2, sigma_b2=sigma_b2)
    variances(what, w, b)
    q, v = _start(what, q0, c0)
    if v.ndim:
        raise ValueError(f"[{what}] c0 must be one number, given shape {v.shape}")
    steps, count = integer(what, "depth", depth, least=0), integer(what, "m", m)
    if count < 2:
        raise ValueError(f"[{what}] m must be at least 2, given {m}")
    if c0 < -1 / (count - 1):
        raise ValueError(f"[{what}] {count} inputs cannot all have correlation {c0}: at least {-1 / (count - 1):.6g}")
    v = v.reshape(1)
    rows = np.empty((6, steps + 1))
    p, bulk = q, q * float(both(v)[0][0])
    p_ab = q * float(rho_of(v)[0])
    for n in range(steps + 1):
        rows[:, n] = q, rho_of(v)[0], both(v)[0][0], p, p_ab, bulk
        if n == steps:
            break
        phi2, dphi2, kdot, out = stats.layer(q, v)
        top, mixed = w * phi2 + b, float(kdot[0])
        bulk = w * (phi2 * float(both(out)[0][0]) + dphi2 * bulk + (dphi2 - mixed) * p_ab)
        v = _mixed(out, w * phi2, 1.0, b, top)
        p, p_ab, q = top + w * dphi2 * p, top * float(rho_of(v)[0]) + w * mixed * p_ab, top
        _finite(what, stats, n + 1, q, p)
    ends = np.sort([rows[3] + (count - 1) * rows[4], rows[5]], axis=0)
    singular = ends[0] <= 1e-15 * ends[1]
    condition = np.where(singular, np.inf, ends[1] / np.where(singular, 1, ends[0]))
    q_, c_, gap, p_, p_ab_, bulk_ = rows
    return NTKTrajectory(q_, c_, gap, p_, p_ab_, bulk_, ends[0], ends[1], condition)


def resnet_trajectory(
    act: Any, sigma_w2: float, sigma_b2: float, sigma_v2: float, sigma_a2: float, p0: float, blocks: int, *,
    c0: Any = None,
) -> ResNetTrajectory:  # fmt: skip
    """Residual networks ``x^l = x^(l-1) + V phi(h) + a``, ``h = W x^(l-1) + b``, at initialisation.

    Parameters
    ----------
    act
        As for :func:`q_map`.
    sigma_w2, sigma_b2, sigma_v2, sigma_a2 : float
        Variances of W and V (times their fan-in), of b and of a.
    p0 : float
        Variance of the residual stream at its start.
    blocks : int
        0 or more.
    c0 : array_like in [-1, 1], optional
        Correlations of two inputs' streams there.

    Returns
    -------
    ResNetTrajectory

    Raises
    ------
    TypeError, ValueError
        As :func:`trajectory`.

    Notes
    -----
    ``p' = p + sigma_v2 E phi(sqrt(q) z)^2 + sigma_a2``, ``q = sigma_w2 p + sigma_b2``; gradients grow by
    ``1 + sigma_v2 sigma_w2 E phi'(sqrt(q) z)^2`` a block. tanh: p grows linearly and log_gradient like sqrt(l), a
    power of no exponential; ReLU: both geometrically. Correlations of smooth functions given by phi and dphi take
    quadrature in the plane once q is above 50: seconds a block.

    References
    ----------
    Yang and Schoenholz (2017), arXiv:1712.08969, the full residual network.
    """
    what = "resnet_trajectory"
    stats = statistics_of(act, what)
    w, b, s_v, s_a = _single(what, sigma_w2=sigma_w2, sigma_b2=sigma_b2, sigma_v2=sigma_v2, sigma_a2=sigma_a2)
    variances(what, w, b)
    if s_v < 0 or s_a < 0:
        raise ValueError(f"[{what}] sigma_v2 and sigma_a2 must not be negative, given {s_v}, {s_a}")
    p, v = _start(what, p0, 0.0 if c0 is None else c0)
    steps = integer(what, "blocks", blocks, least=0)
    ps, qs, logs = (np.zeros(steps + 1) for _ in range(3))
    cs = np.empty((steps + 1, *v.shape))
    for n in range(steps + 1):
        q = w * p + b
        ps[n], qs[n], cs[n] = p, q, rho_of(v)
        if n == steps:
            break
        above, below = both(v)
        if c0 is None:
            at = np.full(1, q)
            phi2, dphi2 = float(stats.variance(at)[0][0]), float(stats.gain(at)[0])
        else:
            phi2, dphi2, _, out = stats.layer(q, signed(w * p * above / q, (w * p * below + 2 * b) / q))
        top = p + s_v * phi2 + s_a
        _finite(what, stats, n + 1, top, w * top)
        if c0 is not None:
            more, less = both(out)
            v = signed((p * above + s_v * phi2 * more) / top, (p * below + s_v * phi2 * less + 2 * s_a) / top)
        p = top
        logs[n + 1] = logs[n] + np.log1p(s_v * w * dphi2)
    return ResNetTrajectory(ps, qs, None if c0 is None else cs, logs)
