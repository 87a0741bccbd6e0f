"""Order and chaos over (sigma_w^2, sigma_b^2), and the line between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..quadrature import hermite_coefficients
from .maps import State, attractor, fixed_correlation, indifferent, numbers, scale_of, unwrap, variance, variances
from .statistics import Array, Statistics, statistics_of

_SMALL = 0.02  # variances of which few Hermite coefficients matter
_TERMS = 20
_FARTHEST = 1e5  # the largest q* that a critical point is looked for at
_LABEL = 1e-9  # |chi_1 - 1| that is called critical


@dataclass(frozen=True)
class CriticalLine:
    """Points with ``chi_1 = 1``.

    Attributes
    ----------
    sigma_w2, sigma_b2, q_star : float or numpy.ndarray
        Of one shape.
    """

    sigma_w2: Any
    sigma_b2: Any
    q_star: Any


@dataclass(frozen=True)
class PhaseDiagram:
    """The phases of a nonlinearity on a grid; all arrays but the first two are (len(sigma_b2), len(sigma_w2)).

    Attributes
    ----------
    sigma_w2, sigma_b2 : numpy.ndarray
        The axes.
    q_star : numpy.ndarray
        Infinite where variances grow without bound.
    chi1 : numpy.ndarray
        Below 1 ordered, above chaotic.
    c_star : numpy.ndarray
    xi_q, xi_c : numpy.ndarray
        As in :class:`DepthScales`. Where ``q* = 0``: limits of small biases.
    phase : numpy.ndarray of str
        'ordered', 'critical' (to 1e-9 of chi_1), 'chaotic' or 'unbounded'. Unbounded: chi_1 is that of a very large
        variance, correlations tend to 1 slower than exponentially (``xi_c`` infinite), as those of any phi that is
        positively homogeneous at large arguments.
    """

    sigma_w2: Array
    sigma_b2: Array
    q_star: Array
    chi1: Array
    c_star: Array
    xi_q: Array
    xi_c: Array
    phase: npt.NDArray[np.str_]


def _line(act: Statistics, q: Array) -> tuple[Array, Array]:
    """``sigma_w2, sigma_b2`` of the critical point whose fixed point is q; sigma_b2 may come out negative."""
    w = 1 / act.gain(q)
    b = q - w * act.variance(q)[0]
    small = (q < _SMALL) & (act.at_zero == 0)
    if small.any():
        # q E phi'^2 - E phi^2 = sum_l (l - 1) a_l^2 in Hermite coefficients: nothing of order q is left to cancel.
        a = hermite_coefficients(act.phi, q[small], _TERMS, what=act.name)
        b[small] = w[small] * np.sum(np.arange(-1, _TERMS) * a * a, axis=1)
    return w, b


def critical_line(act: Any, *, q_star: Any = None, sigma_b2: Any = None) -> CriticalLine:
    """The edge of chaos, ``chi_1 = 1``, parametrised by q* or found at given variances of the biases.

    Parameters
    ----------
    act
        As for :func:`q_map`.
    q_star : array_like, not negative
        Fixed points; or
    sigma_b2 : array_like, not negative
        variances of biases. Exactly one of both. Needs SciPy (``pip install 'fastntk[predict]'``), except for
        rectifiers.

    Returns
    -------
    CriticalLine

    Raises
    ------
    ValueError
        No critical point there: rectifiers have one only, without biases; a q* at which sigma_b2 would be negative, or
        that repels its neighbours (``V'(q*) > 1``).
    TypeError
        Not exactly one of ``q_star`` and ``sigma_b2``.
    ImportError
        SciPy is missing.

    Notes
    -----
    ``chi_1 = 1`` gives ``sigma_w2 = 1 / E phi'(sqrt(q*) z)^2``, the fixed point ``sigma_b2 = q* - sigma_w2
    E phi(sqrt(q*) z)^2``: no root is sought unless sigma_b2 is given [derived]. Its smallest q* is returned; for tanh
    and erf there is no other. Rectifiers, ``a min(x, 0) + b max(x, 0)``: sigma_w2 = 2 / (a^2 + b^2), sigma_b2 = 0, and
    every q is a fixed point: q_star is what was given, else 1.

    References
    ----------
    Poole et al. (2016), arXiv:1606.05340, section 2; He et al. (2015), arXiv:1502.01852 (rectifiers).
    """
    what = "critical_line"
    stats = statistics_of(act, what)
    if (q_star is None) == (sigma_b2 is None):
        raise TypeError(f"[{what}] takes exactly one of q_star and sigma_b2")
    given = variance(what, q_star, "q_star") if sigma_b2 is None else variance(what, sigma_b2, "sigma_b2")
    flat = given.reshape(-1)
    if (s := stats.homogeneous) is not None:
        if s == 0:
            raise ValueError(f"[{what}] no critical point: {stats.name} is zero")
        if sigma_b2 is not None and (given > 0).any():
            raise ValueError(
                f"[{what}] no critical point of {stats.name} at sigma_b2 = {given.max():.12g}: there is only "
                f"(sigma_w2, sigma_b2) = ({1 / s:.12g}, 0)"
            )
        at = np.ones_like(given) if q_star is None else given
        return CriticalLine(unwrap(np.full_like(given, 1 / s)), unwrap(np.zeros_like(given)), unwrap(at))
    q = flat if sigma_b2 is None else np.array([_invert(stats, float(b)) for b in flat])
    w, b = _line(stats, q)
    if sigma_b2 is not None:
        b = flat
    if (b < -1e-13 * q).any():
        n = int(np.argmin(b))
        raise ValueError(
            f"[{what}] no critical point of {stats.name} with q* = {q[n]:.12g}: sigma_b2 would be {b[n]:.6g}"
        )
    b = np.maximum(b, 0.0)
    growth = w * stats.variance(q)[1]
    if (np.abs(growth) > 1 + 1e-9).any():
        n = int(np.argmax(np.abs(growth)))
        raise ValueError(
            f"[{what}] no critical point of {stats.name} with q* = {q[n]:.12g}: V'(q*) = {growth[n]:.6g}, that "
            "variance repels its neighbours"
        )
    return CriticalLine(*(unwrap(x.reshape(given.shape)) for x in (w, b, q)))


def _invert(act: Statistics, b: float) -> float:
    """The smallest critical q* with this sigma_b2."""
    try:
        from scipy.optimize import brentq
    except ImportError as error:
        raise ImportError(
            "[critical_line] sigma_b2 is inverted with SciPy (pip install 'fastntk[predict]'); q_star needs none"
        ) from error
    if b == 0 and act.at_zero == 0:
        return 0.0

    def excess(q: float) -> float:
        return float(_line(act, np.full(1, q))[1][0]) - b

    low = max(b, 1e-150)  # sigma_b2 <= q* everywhere
    high = 2 * low
    while excess(high) < 0:
        low, high = high, (16 if high < _SMALL / 16 else 2) * high
        if high > _FARTHEST:
            raise ValueError(
                f"[critical_line] no critical point of {act.name} at sigma_b2 = {b:.12g} with q* up to {_FARTHEST:.0f}"
            )
    return float(brentq(excess, low, high, xtol=1e-300, rtol=1e-14)) if excess(low) < 0 else low


def phase_diagram(act: Any, sigma_w2: Any, sigma_b2: Any, *, q0: float = 1.0) -> PhaseDiagram:
    """Fixed points, chi_1 and depth scales over a grid.

    Parameters
    ----------
    act
        As for :func:`q_map`.
    sigma_w2, sigma_b2 : array_like (n,), (m,)
        The axes: positive, and not negative.
    q0 : float
        As for :func:`q_star`.

    Returns
    -------
    PhaseDiagram

    Raises
    ------
    ValueError
        Axes that are not vectors, or outside their domain; variances that do not settle within 2,000 layers.

    References
    ----------
    Poole et al. (2016), arXiv:1606.05340, figure 1; Schoenholz et al. (2017), arXiv:1611.01232, figure 2.
    """
    what = "phase_diagram"
    stats = statistics_of(act, what)
    axes = numbers(what, sigma_w2=sigma_w2, sigma_b2=sigma_b2)
    if any(axis.ndim != 1 or not axis.size for axis in axes):
        raise ValueError(f"[{what}] sigma_w2 and sigma_b2 must be vectors, given shapes {[a.shape for a in axes]}")
    w, b, p = variances(what, axes[0][None, :], axes[1][:, None])
    shape = w.shape
    w, b, p = w.reshape(-1), b.reshape(-1), p.reshape(-1)
    edge = indifferent(stats, w, b, p)  # 1 stands for all
    q, bounded = np.ones_like(w), np.ones(w.shape, dtype=np.bool_)
    q[~edge], bounded[~edge] = attractor(stats, w[~edge], b[~edge], p[~edge], q0, what)
    state = State.at(stats, w, b, p, q)
    c, slope = np.ones_like(q), np.ones_like(q)
    c[bounded], slope[bounded] = fixed_correlation(stats, state[bounded])
    phase = np.where(state.chi1 < 1, "ordered", "chaotic").astype("<U9")
    phase[np.abs(state.chi1 - 1) <= _LABEL] = "critical"
    phase[~bounded] = "unbounded"
    xi_q = np.where(bounded, scale_of(state.growth, state.noise), np.inf)
    return PhaseDiagram(
        axes[0],
        axes[1],
        np.where(bounded, q, np.inf).reshape(shape),
        state.chi1.reshape(shape),
        c.reshape(shape),
        xi_q.reshape(shape),
        scale_of(slope, state.noise).reshape(shape),
        phase.reshape(shape),
    )
