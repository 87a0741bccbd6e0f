"""One layer as a map of variances and correlations, its fixed points, and how fast they are reached."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arraylike import as_reals, refuse_masked
from .statistics import Array, PairMap, Rows, Statistics, statistics_of

UNBOUNDED = 1e6  # variances beyond it are taken to grow for ever, except of rectifiers, where it is known
_LARGE = 1e3
_VANISHED = 1e-13  # variances below it, still falling without biases, are taken to fall to zero
_MAX_STEPS = 2_000
_CRITICAL = 2e-14  # |chi_1 - 1| that rounding explains,
_EXACT = 1e-15  # and where q* is known exactly
_NEAR = 0.9  # correlations above it are sought by 1 - c


@dataclass(frozen=True)
class DepthScales:
    """Depths over which signals and gradients change by a factor of e; infinite at criticality.

    Attributes
    ----------
    xi_q : float or numpy.ndarray
        Of the variance, ``|q^l - q*| ~ exp(-l / xi_q)``: ``-1 / log |V'(q*)|``.
    xi_c : float or numpy.ndarray
        Of the correlation, ``|c^l - c*| ~ exp(-l / xi_c)``: ``-1 / log C'(c*)``.
    xi_grad : float or numpy.ndarray
        Of gradients, ``E |grad|^2 ~ exp(-(L - l) / xi_grad)``: ``-1 / log(chi_1 / keep)``; negative where they
        explode.
    """

    xi_q: Any
    xi_c: Any
    xi_grad: Any

    def __iter__(self) -> Any:
        return iter((self.xi_q, self.xi_c, self.xi_grad))


def numbers(what: str, **values: Any) -> list[Array]:
    """Finite float64 arrays.

    Raises
    ------
    TypeError
        Not numbers.
    ValueError
        Not finite.
    """
    arrays = []
    for name, value in values.items():
        refuse_masked(value, name, what)
        try:
            array = as_reals(value, name, what)
        except (TypeError, ValueError):
            raise TypeError(f"[{what}] {name} must be a number or an array of numbers, given {value!r}") from None
        if not np.isfinite(array).all():
            raise ValueError(f"[{what}] {name} must be finite, given {value!r}")
        arrays.append(array)
    return arrays


def variances(what: str, sigma_w2: Any, sigma_b2: Any, keep: Any = 1.0) -> list[Array]:
    """``(sigma_w2, sigma_b2, keep)``, checked and broadcast.

    Raises
    ------
    ValueError
        Unless ``sigma_w2 > 0``, ``sigma_b2 >= 0`` and ``0 < keep <= 1``; shapes that do not broadcast.
    """
    w, b, p = numbers(what, sigma_w2=sigma_w2, sigma_b2=sigma_b2, keep=keep)
    if not (w > 0).all():
        raise ValueError(f"[{what}] sigma_w2 must be positive, given {sigma_w2}")
    if not (b >= 0).all():
        raise ValueError(f"[{what}] sigma_b2 must not be negative, given {sigma_b2}")
    if not ((p > 0) & (p <= 1)).all():
        raise ValueError(f"[{what}] keep is a probability in (0, 1], given {keep}")
    return broadcast(what, w, b, p)


def variance(what: str, q: Any, name: str = "q") -> Array:
    (at,) = numbers(what, **{name: q})
    if not (at >= 0).all():
        raise ValueError(f"[{what}] {name} is a variance and must not be negative, given {q}")
    return at


def broadcast(what: str, *arrays: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    try:
        return [np.array(a) for a in np.broadcast_arrays(*arrays)]
    except ValueError:
        raise ValueError(f"[{what}] shapes {[a.shape for a in arrays]} do not broadcast") from None


def unwrap(x: Array) -> Any:
    """A float for an array without axes."""
    return float(x) if np.ndim(x) == 0 else x


# ---------------------------------------------------------------- fixed points, on flat arrays


def indifferent(act: Statistics, w: Array, b: Array, p: Array) -> npt.NDArray[np.bool_]:
    """Where every variance is a fixed point, to rounding."""
    s = act.homogeneous
    return np.asarray((b == 0) & (s is not None) & (np.abs((s or 0.0) * w / p - 1) <= _EXACT))


def attractor(
    act: Statistics, w: Array, b: Array, p: Array, q0: float, what: str
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Where variances go from q0, and whether that is finite; else their q is merely very large.

    Newton's steps, once V' < 1 and within a factor of four. Before that plain steps, which say where to, or factors of
    two in their direction where they would crawl, between the bounds that V(q) - q has changed its sign between.
    Large variances that still grow are quadrupled. A variance vanishes where that attracts: ``V'(0) <= 1``.
    """
    if (s := act.homogeneous) is not None:
        growth = s * w / p
        free = indifferent(act, w, b, p)
        if free.any():
            raise ValueError(
                f"[{what}] every q is a fixed point of {act.name} at sigma_w2 = {w[free][0]:.12g}, sigma_b2 = 0: give q"
            )
        bounded = growth < 1 - _EXACT
        return np.where(bounded, b / np.where(bounded, 1 - growth, 1), UNBOUNDED), bounded
    q = np.full(w.shape, q0)
    bounded = np.ones(w.shape, dtype=np.bool_)
    low, high = np.zeros(w.shape), np.full(w.shape, np.inf)
    left = np.arange(len(q))
    vanishing = (b == 0) & (act.at_zero == 0) & (w / p * act.gain(np.zeros(1)) <= 1 + _EXACT)
    for _ in range(_MAX_STEPS):
        now = q[left]
        phi2, slope = act.variance(now)
        new = w[left] / p[left] * phi2 + b[left]
        slope = w[left] / p[left] * slope
        excess = new - now
        up = excess > 0
        low[left], high[left] = np.where(up, now, low[left]), np.where(up, high[left], now)
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = now + excess / (1 - slope)
        usable = (slope < 1) & (newton >= now / 4) & (newton <= 4 * now)
        settled = (excess == 0) | (usable & (np.abs(excess) <= 1e-14 * np.maximum(now, new)))
        leap = np.where(up, np.maximum(new, np.where(now > _LARGE, 4, 2) * now), np.minimum(new, now / 2))
        new = np.where(usable, newton, leap)
        inside = (new > low[left]) & (new < high[left])
        new = np.where(inside | settled, new, np.sqrt(np.maximum(low[left], now / 4)) * np.sqrt(high[left]))
        narrow = high[left] <= low[left] * (1 + 1e-15)
        q[left] = np.where(settled & ~usable, now, new)
        gone = (q[left] < _VANISHED) & ~up & vanishing[left]
        q[left[gone]] = 0.0
        away = q[left] > UNBOUNDED
        bounded[left[away]] = False
        left = left[~(settled | narrow | gone | away)]
        if not len(left):
            return q, bounded
    raise ValueError(
        f"[{what}] the variance of {act.name} does not settle within {_MAX_STEPS} layers at sigma_w2 = "
        f"{w[left[0]]:.12g}, sigma_b2 = {b[left[0]]:.12g} (it was at {q[left[0]]:.6g})"
    )


@dataclass(frozen=True)
class State:
    """Layers at their fixed points, or at given variances: flat arrays."""

    w: Array
    b: Array
    p: Array
    q: Array
    bounded: npt.NDArray[np.bool_]  # else q is merely large
    v: Array  # V(q): q, at a fixed point
    chi1: Array
    growth: Array  # V'(q)
    noise: Array  # |rate - 1| that rounding explains

    @classmethod
    def at(cls, act: Statistics, w: Array, b: Array, p: Array, q: Array, bounded: Any = True) -> State:
        phi2, slope = act.variance(q)
        finite = np.array(np.broadcast_to(bounded, q.shape))
        noise = np.where((q == 0) | (act.homogeneous is not None), _EXACT, _CRITICAL)
        return cls(w, b, p, q, finite, w / p * phi2 + b, w * act.gain(q), w / p * slope, noise)

    def __getitem__(self, index: Any) -> State:
        return State(*(getattr(self, field.name)[index] for field in fields(self)))


def correlation_map(act: Statistics, s: State) -> PairMap:
    """``(C(c), C'(c))`` of correlations c and the places of their states, where q > 0."""
    pairs = act.pairs(s.q)

    def step(c: Array, rows: Rows) -> tuple[Array, Array]:
        k, kdot = pairs(c, rows)
        return (s.w[rows] * k + s.b[rows]) / s.v[rows], s.w[rows] * kdot * s.q[rows] / s.v[rows]

    return step


def fixed_correlation(act: Statistics, s: State) -> tuple[Array, Array]:
    """``(c*, C'(c*))``.

    C is a power series in c with coefficients that are squares (Mehler): increasing and convex on [0, 1]. Newton's
    method from 0 climbs to its smallest fixed point, which is 1 exactly where ``C(1) = 1`` and ``C'(1) <= 1``. Close
    to 1 it descends in ``1 - c``, which keeps its digits.
    """
    alive = s.q > 0
    slope = s.chi1 * np.where(alive, s.q / np.where(alive, s.v, 1), 1)
    c = np.ones_like(s.q)
    left = np.flatnonzero(alive & ((slope - 1 > s.noise) | (s.p < 1)))
    if len(left):
        c[left], slope[left], near = _climb(act, s[left])
        left = left[near]
    if len(left):
        c[left], slope[left] = _descend(act, s[left], 1 - c[left])
    return c, slope


def _climb(act: Statistics, s: State) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """``(c*, C'(c*))`` where c* is below ``_NEAR``, else a correlation below c*; and where that is."""
    step = correlation_map(act, s)
    now, slope, near = np.zeros(len(s.q)), np.zeros(len(s.q)), np.zeros(len(s.q), dtype=np.bool_)
    rows = np.arange(len(now))
    while len(rows):
        value, slope[rows] = step(now[rows], rows)
        rate = slope[rows]
        new = np.where(rate < 1, now[rows] + (value - now[rows]) / np.where(rate < 1, 1 - rate, 1), 1.0)
        near[rows] = new > _NEAR
        rows, new = rows[moves := (new - now[rows] > 1e-15) & ~near[rows]], new[moves]  # upwards, but for rounding
        now[rows] = new
    return now, slope, near


def _descend(act: Statistics, s: State, gap: Array) -> tuple[Array, Array]:
    """``(c*, C'(c*))`` from gaps ``1 - c`` above ``1 - c*``: Newton's method, in what is concave there."""
    step = act.defects(s.q)
    own = s.w * act.variance(s.q)[0] / s.v
    noise = own * (1 / s.p - 1)
    rows = np.arange(len(gap))
    slope = np.zeros(len(gap))
    while len(rows):
        v = gap[rows]
        defect, kdot = step(v, rows)
        slope[rows] = rate = s.w[rows] * kdot * s.q[rows] / s.v[rows]
        new = v - (v - (own[rows] * defect + noise[rows])) / np.where(rate < 1, 1 - rate, 1)
        moves = (rate < 1) & (v - new > 4e-16 * v)
        rows = rows[moves]
        gap[rows] = np.maximum(new[moves], 0.0)
    return 1 - gap, np.minimum(slope, 1.0)


def scale_of(rate: Array, noise: Array) -> Array:
    """``-1 / log |rate|``: 0 for 0, infinite for what rounding may have made of 1."""
    with np.errstate(divide="ignore"):
        log = np.log(np.abs(rate))
    critical = np.abs(log) <= noise
    return np.where(critical, np.inf, -1 / np.where(critical, 1, log))


# ---------------------------------------------------------------- public


def q_map(act: Any, sigma_w2: Any, sigma_b2: Any, q: Any, *, keep: Any = 1.0) -> Any:
    """Variance behind a layer: ``V(q) = sigma_w2 / keep E phi(sqrt(q) z)^2 + sigma_b2``.

    Parameters
    ----------
    act : nonlinearity
        Of stax, such as ``stax.Relu()``; or ``'tanh'``, ``'relu'``, ``'abs'``, ``'erf'``; or an object with functions
        ``phi`` and ``dphi``, such as :class:`fastntk.quadrature.Smooth`.
    sigma_w2, sigma_b2 : array_like
        Variances of weights (times their fan-in) and of biases.
    q : array_like, not negative
        Variance of pre-activations.
    keep : array_like in (0, 1]
        Probability that dropout keeps an activation (kept ones are divided by it).

    Returns
    -------
    float, or numpy.ndarray of the broadcast shape

    Raises
    ------
    TypeError, ValueError
        A nonlinearity that is none; parameters outside their domain.

    References
    ----------
    Poole et al. (2016), arXiv:1606.05340, eq. (3); with dropout Schoenholz et al. (2017), arXiv:1611.01232.
    """
    what = "q_map"
    stats = statistics_of(act, what)
    w, b, p = variances(what, sigma_w2, sigma_b2, keep)
    w, b, p, at = broadcast(what, w, b, p, variance(what, q))
    return unwrap(w / p * stats.variance(at.reshape(-1))[0].reshape(at.shape) + b)


def _prepare(
    what: str, act: Any, sigma_w2: Any, sigma_b2: Any, keep: Any, q: Any, q0: Any
) -> tuple[Statistics, State, tuple[int, ...]]:
    stats = statistics_of(act, what)
    w, b, p = variances(what, sigma_w2, sigma_b2, keep)
    if q is not None:
        w, b, p, q = broadcast(what, w, b, p, variance(what, q))
        q = q.reshape(-1)
    (start,) = numbers(what, q0=q0)
    if start.ndim or not start > 0:
        raise ValueError(f"[{what}] q0 must be a positive number, given {q0}")
    shape = w.shape
    w, b, p = w.reshape(-1), b.reshape(-1), p.reshape(-1)
    at, bounded = attractor(stats, w, b, p, float(start), what) if q is None else (q, True)
    state = State.at(stats, w, b, p, at, bounded)
    if not state.bounded.all():
        n = int(np.argmin(state.bounded))
        raise ValueError(
            f"[{what}] the variance of {stats.name} grows without bound at sigma_w2 = {w[n]:.12g}, sigma_b2 = "
            f"{b[n]:.12g}: there is no q*"
        )
    return stats, state, shape


def require_signal(what: str, stats: Statistics, state: State) -> None:
    if not (state.q > 0).all():
        raise ValueError(
            f"[{what}] q = 0: the signal of {stats.name} dies out, and its correlation is not defined; give q > 0"
        )


def q_star(act: Any, sigma_w2: Any, sigma_b2: Any, *, keep: Any = 1.0, q0: float = 1.0) -> Any:
    """The variance q* that deep networks settle at, ``V(q*) = q*``, starting from q0.

    Parameters
    ----------
    act, sigma_w2, sigma_b2, keep
        As for :func:`q_map`.
    q0 : float
        Where a nonlinearity has several fixed points, this chooses; tanh and erf have one that attracts all.

    Returns
    -------
    float, or numpy.ndarray of the broadcast shape
        To about ``1e-15 / (1 - V'(q*))``, relative. 0 where the signal dies out.

    Raises
    ------
    ValueError
        Where variances grow without bound, or do not settle within 2,000 layers; where every q is a fixed point
        (critical rectifiers without biases); parameters outside their domain.
    """
    _, state, shape = _prepare("q_star", act, sigma_w2, sigma_b2, keep, None, q0)
    return unwrap(state.q.reshape(shape))


def chi1(act: Any, sigma_w2: Any, sigma_b2: Any, *, q: Any = None, q0: float = 1.0) -> Any:
    """``chi_1 = C'(1) = sigma_w2 E phi'(sqrt(q*) z)^2``: below 1 ordered, above chaotic, 1 the edge of chaos.

    Also the factor by which a layer multiplies ``E |gradient|^2`` on the way back (equal widths).

    Parameters
    ----------
    act, sigma_w2, sigma_b2, q0
        As for :func:`q_star`.
    q : array_like, optional
        A variance to use in place of q*.

    Returns
    -------
    float, or numpy.ndarray of the broadcast shape

    Raises
    ------
    ValueError
        As :func:`q_star`, unless q is given.

    References
    ----------
    Poole et al. (2016), arXiv:1606.05340, eq. (6); Schoenholz et al. (2017), arXiv:1611.01232, section 4.
    """
    _, state, shape = _prepare("chi1", act, sigma_w2, sigma_b2, 1.0, q, q0)
    return unwrap(state.chi1.reshape(shape))


def c_map(act: Any, sigma_w2: Any, sigma_b2: Any, c: Any, *, keep: Any = 1.0, q: Any = None, q0: float = 1.0) -> Any:
    """Correlation behind a layer: ``C(c) = (sigma_w2 k(q, q c, q) + sigma_b2) / V(q)``, at ``q = q*`` unless given.

    Parameters
    ----------
    act, sigma_w2, sigma_b2, keep, q, q0
        As for :func:`q_star` and :func:`chi1`. Dropout masks of two inputs are independent: ``C(1) < 1``.
    c : array_like in [-1, 1]

    Returns
    -------
    float, or numpy.ndarray of the broadcast shape

    Raises
    ------
    ValueError
        As :func:`q_star`; c outside its domain; ``q* = 0``, where nothing is left to correlate.

    References
    ----------
    Poole et al. (2016), arXiv:1606.05340, eqs. (4), (5).
    """
    what = "c_map"
    (at,) = numbers(what, c=c)
    if not (np.abs(at) <= 1).all():
        raise ValueError(f"[{what}] c is a correlation in [-1, 1], given {c}")
    # The fixed point of each network once, not once for each c; then both as flat arrays.
    stats, state, shape = _prepare(what, act, sigma_w2, sigma_b2, keep, q, q0)
    require_signal(what, stats, state)
    rows, at = broadcast(what, np.arange(state.q.size).reshape(shape), at)
    value, _ = correlation_map(stats, state)(at.reshape(-1), rows.reshape(-1))
    return unwrap(value.reshape(at.shape))


def c_star(act: Any, sigma_w2: Any, sigma_b2: Any, *, keep: Any = 1.0, q: Any = None, q0: float = 1.0) -> Any:
    """The correlation c* in [0, 1] that deep networks drive any two inputs to, ``C(c*) = c*``.

    Parameters
    ----------
    act, sigma_w2, sigma_b2, keep, q, q0
        As for :func:`c_map`.

    Returns
    -------
    float, or numpy.ndarray of the broadcast shape
        1 where ``chi_1 <= 1`` (to 2e-14) and ``keep = 1``; else below 1, and ``1 - c*`` has an error of about ``1e-15
        / (1 - C'(c*))``, relative.

    Raises
    ------
    ValueError
        As :func:`c_map`.

    Notes
    -----
    C is a power series with positive coefficients: its smallest fixed point in [0, 1] is the only stable one there.
    [Derived; the classical argument for branching processes.]
    """
    stats, state, shape = _prepare("c_star", act, sigma_w2, sigma_b2, keep, q, q0)
    require_signal("c_star", stats, state)
    return unwrap(fixed_correlation(stats, state)[0].reshape(shape))


def depth_scales(
    act: Any, sigma_w2: Any, sigma_b2: Any, *, keep: Any = 1.0, q: Any = None, q0: float = 1.0
) -> DepthScales:
    """How many layers a signal, a correlation and a gradient live.

    Parameters
    ----------
    act, sigma_w2, sigma_b2, keep, q, q0
        As for :func:`c_map`.

    Returns
    -------
    DepthScales
        Unpacks into ``(xi_q, xi_c, xi_grad)``. Where the signal dies out (``q* = 0``) xi_c is the limit of small
        biases. Rates are good to about 2e-14, 1e-15 for rectifiers and at ``q* = 0``: scales are so to that times
        themselves, and infinite where a rate is as close to 1. xi_q and xi_c are positive.

    Raises
    ------
    ValueError
        As :func:`q_star`.

    Notes
    -----
    Networks train up to depths of a few xi_c (Schoenholz et al. find about 6). Gradients under dropout, ``chi_1 /
    keep`` a layer, are derived here.

    References
    ----------
    Schoenholz et al. (2017), arXiv:1611.01232, eqs. (7) to (10).
    """
    stats, state, shape = _prepare("depth_scales", act, sigma_w2, sigma_b2, keep, q, q0)
    rates = (state.growth, fixed_correlation(stats, state)[1], state.chi1 / state.p)
    return DepthScales(*(unwrap(scale_of(rate, state.noise).reshape(shape)) for rate in rates))
