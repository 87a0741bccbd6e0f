"""Classification by Gaussian processes on one-hot targets: targets, probabilities, and whether they hold.

A regression on ``one_hot(labels)`` predicts a Gaussian for each class; the class of the largest output is the
prediction, and the probability that an output is the largest is that of its class. One-hot targets are not Gaussian,
so the posterior's own variance does not say how often the largest output is the right one; a temperature fitted to
held-out points, such as :func:`fastntk.predict.leave_one_out` gives, does.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special as scipy_special
from scipy.optimize import minimize_scalar

from ..base.arraylike import describe
from .linalg import check_finite, namespace, to_host

Array = npt.NDArray[Any]  # or CuPy's

TEMPERATURES = (0.01, 100.0)

_MAX_GAP = 100.0  # in standard deviations: logarithms go far below those of floats
_STEP = 0.65  # of the trapezoid rule, in standard deviations of its narrowest integrand
_BLOCK = 1 << 18  # doubles in one temporary: in cache
_STRATEGIES = ("uniform", "quantile")


@dataclass(frozen=True, eq=False)
class Reliability:
    """Stated probabilities of the predicted classes beside how often they were right, by groups.

    Attributes
    ----------
    confidence, accuracy : numpy.ndarray (g,)
        Means over the samples of each group; groups without samples are left out.
    count : numpy.ndarray (g,) intp
    expected_calibration_error : float
        Mean of ``|accuracy - confidence|`` over the samples' groups.
    """

    confidence: Array
    accuracy: Array
    count: npt.NDArray[np.intp]
    expected_calibration_error: float


def one_hot(labels: Array, n_classes: int | None = None) -> Array:
    """Targets of a classification: 1 for the class and 0 else, less 1 / n_classes.

    Rows sum to 0, so that a prior mean of 0 favours no class (Lee et al. 2020, arXiv:2007.15801).

    Parameters
    ----------
    labels : array (n,) of integers from 0
        NumPy's or CuPy's.
    n_classes : int, optional
        None: one more than the largest label.

    Returns
    -------
    array (n, n_classes) float64

    Raises
    ------
    TypeError
        Labels that are not an array of integers (``numpy.unique(labels, return_inverse=True)`` makes them so).
    ValueError
        Another rank, no labels, labels out of range, fewer than two classes.
    """
    what = "one_hot"
    _check_integers(labels, what)
    xp = namespace(labels, what=what)
    if not labels.size:
        raise ValueError(f"[{what}] labels are empty")
    count = int(labels.max()) + 1 if n_classes is None else n_classes
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 2:
        raise ValueError(f"[{what}] at least two classes are needed, n_classes is {count!r}")
    _check_range(labels, int(count), what)
    return xp.eye(int(count))[labels] - 1.0 / count  # type: ignore[no-any-return]


def log_class_probabilities(mean: Array, variance: Array, temperature: float = 1.0) -> Array:
    """Log probability that each output is the largest, for independent Gaussian outputs of one variance.

    Parameters
    ----------
    mean : array (m, c) float32 or float64, NumPy or CuPy
        Of the outputs, c of at least 2.
    variance : array (m,)
        Equal for all outputs of a sample: of the noisy target, or of the latent function. 0: the largest output has
        it for certain; equal ones share it.
    temperature : float
        Factor of the standard deviation.

    Returns
    -------
    array (m, c) of mean's dtype
        Finite; ``exp`` of it sums to 1 in each row.

    Raises
    ------
    TypeError
        Arrays of other libraries or dtypes.
    ValueError
        Wrong shapes, NaN or infinity, a negative variance, a temperature that is not positive.

    Notes
    -----
    With ``g_c ~ N(mean_c, sd^2)``: ``p_c = P(g_c > g_j for all j != c)``, the integral over u of ``phi(u - m_c) prod_{j
    != c} Phi(u - m_j)`` with ``m = mean / sd``. One trapezoid rule serves all classes of a sample, its step set by the
    narrowest integrand. Relative error of float64: below 1e-8 up to 100 classes, 1e-6 up to 10,000. Means more than
    100 sd below the largest count as 100 below, which is a probability of e^-2500 of two classes.
    """
    what = "class_probabilities"
    xp = namespace(mean, variance, what=what)
    _check_gaussian(mean, variance, what)
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"[{what}] temperature must be positive, given {temperature!r}")
    special: Any = scipy_special if xp is np else import_module("cupyx.scipy.special")
    sd = temperature * xp.sqrt(variance.astype(np.float64))
    below = mean.astype(np.float64)
    below = below - below.max(axis=1, keepdims=True)
    # A class level with the largest stays so also where sd is 0.
    gaps = xp.where(below == 0, 0.0, xp.maximum(below, -_MAX_GAP * sd[:, None]) / xp.where(sd > 0, sd, 1.0)[:, None])
    gaps = xp.where((below < 0) & (sd == 0)[:, None], -_MAX_GAP, gaps)
    least = to_host(gaps.min(axis=1))
    order = np.argsort(least)  # rows of one block ask for about as many nodes
    out = xp.empty(mean.shape, np.float64)
    start = 0
    while start < len(order):
        nodes = _nodes(float(least[order[start]]), mean.shape[1])
        rows = order[start : start + max(1, _BLOCK // (len(nodes) * mean.shape[1]))]
        start += len(rows)
        gap = gaps[xp.asarray(rows)]
        z = xp.asarray(nodes)[:, None] - gap[:, None, :]
        log_cdf = special.log_ndtr(z)
        log_mass = special.logsumexp(-0.5 * z * z - log_cdf + log_cdf.sum(axis=2, keepdims=True), axis=1)
        out[xp.asarray(rows)] = log_mass - special.logsumexp(log_mass, axis=1, keepdims=True)
    return out.astype(mean.dtype)  # type: ignore[no-any-return]


def class_probabilities(mean: Array, variance: Array, temperature: float = 1.0) -> Array:
    """Probability that each output is the largest: ``exp`` of :func:`log_class_probabilities`, which see."""
    log_p = log_class_probabilities(mean, variance, temperature)
    return namespace(log_p, what="class_probabilities").exp(log_p)  # type: ignore[no-any-return]


def negative_log_likelihood(log_probabilities: Array, labels: Array, sample_weight: Array | None = None) -> float:
    """Mean of ``-log p`` of the labels.

    Parameters
    ----------
    log_probabilities : array (m, c)
        Of :func:`log_class_probabilities`.
    labels : array (m,) of integers from 0
    sample_weight : numpy.ndarray (m,), optional
        None: the mean counts all alike.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        Labels that are no integers, out of range, or of another number; a log probability that is positive or NaN;
        weights of another number, negative, not finite, or all 0.
    """
    what = "negative_log_likelihood"
    xp = namespace(log_probabilities, labels, what=what)
    _check_predictions(log_probabilities, labels, what)
    # To rounding: exp of a row sums to 1.
    if not bool((log_probabilities <= 1e-6).all()):
        raise ValueError(f"[{what}] log probabilities must not be positive or NaN; are these probabilities?")
    found = log_probabilities[xp.arange(len(labels)), labels]
    if sample_weight is None:
        return max(0.0, -float(found.mean(dtype=np.float64)))
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != found.shape or not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise ValueError(
            f"[{what}] sample_weight must be {found.shape}, finite, not negative and not all 0; given {sample_weight!r}"
        )
    return max(0.0, -float(np.average(to_host(found).astype(np.float64), weights=weights / weights.max())))


def reliability(probabilities: Array, labels: Array, bins: int = 15, strategy: str = "uniform") -> Reliability:
    """How often the predicted class is right, beside its stated probability.

    Parameters
    ----------
    probabilities : array (m, c)
        Of :func:`class_probabilities`.
    labels : array (m,) of integers from 0
    bins : int
        Groups, at most.
    strategy : {'uniform', 'quantile'}
        Groups of equal width in the stated probability, or of equal size.

    Returns
    -------
    Reliability

    Raises
    ------
    TypeError, ValueError
        Labels that are no integers, out of range, or of another number; values outside 0 to 1; bins below 1; another
        strategy.

    References
    ----------
    Guo et al. (2017), arXiv:1706.04599, eq. (3).
    """
    what = "reliability"
    namespace(probabilities, labels, what=what)
    _check_predictions(probabilities, labels, what)
    p, truth = to_host(probabilities), to_host(labels)
    if not ((p >= 0) & (p <= 1 + 1e-6)).all():
        raise ValueError(f"[{what}] probabilities must lie between 0 and 1; are these log probabilities?")
    if isinstance(bins, bool) or not isinstance(bins, (int, np.integer)) or bins < 1:
        raise ValueError(f"[{what}] bins must be a positive integer, given {bins!r}")
    if strategy not in _STRATEGIES:
        raise ValueError(f"[{what}] strategy must be one of {', '.join(_STRATEGIES)}, given {strategy!r}")
    confidence = np.minimum(p.max(axis=1).astype(np.float64), 1.0)
    right = p.argmax(axis=1) == truth
    order = np.argsort(confidence, kind="stable")
    if strategy == "quantile":
        groups = np.array_split(order, min(int(bins), len(order)))
    else:
        # Group k holds confidences in (k / bins, (k + 1) / bins].
        ends = np.searchsorted(confidence[order], np.arange(1, bins) / bins, side="right")
        groups = [group for group in np.split(order, ends) if len(group)]
    count = np.array([len(group) for group in groups], dtype=np.intp)
    stated = np.array([confidence[group].mean() for group in groups])
    found = np.array([right[group].mean() for group in groups])
    return Reliability(stated, found, count, float((count * np.abs(found - stated)).sum() / count.sum()))


def expected_calibration_error(probabilities: Array, labels: Array, bins: int = 15) -> float:
    """``reliability(probabilities, labels, bins).expected_calibration_error``: see :func:`reliability`."""
    return reliability(probabilities, labels, bins).expected_calibration_error


def calibrate(
    mean: Array, variance: Array, labels: Array, *, bounds: tuple[float, float] = TEMPERATURES,
    sample_weight: Array | None = None,
) -> float:  # fmt: skip
    """Temperature with the least negative log likelihood of held-out labels.

    Meant for ``mean`` and ``variance`` of :func:`fastntk.predict.leave_one_out` on the training points.

    Parameters
    ----------
    mean, variance
        As for :func:`log_class_probabilities`.
    labels : array (m,) of integers from 0
    bounds : (low, high)
        Least and largest temperature.
    sample_weight
        As for :func:`negative_log_likelihood`.

    Returns
    -------
    float
        To about 1 %. Where all temperatures do equally well, the one nearest to 1.

    Raises
    ------
    TypeError, ValueError
        As :func:`log_class_probabilities` and :func:`negative_log_likelihood`; bounds that are not positive and rising.

    References
    ----------
    Guo et al. (2017), arXiv:1706.04599, section 4.2, with the standard deviation of the outputs in place of a softmax.
    """
    what = "calibrate"
    _check_predictions(mean, labels, what)
    low, high = bounds
    if not 0 < low < high < np.inf:
        raise ValueError(f"[{what}] bounds must be positive and rising, given {bounds!r}")

    def loss(log_t: float) -> float:
        log_p = log_class_probabilities(mean, variance, float(np.exp(log_t)))
        return negative_log_likelihood(log_p, labels, sample_weight) + 1e-6 * log_t**2

    found = minimize_scalar(loss, bounds=(np.log(low), np.log(high)), method="bounded", options={"xatol": 0.02})
    return float(np.exp(found.x))


# ---------------------------------------------------------------- checks and nodes


def _nodes(least: float, classes: int) -> Array:
    """Where to integrate, for gaps down to ``least``: step and ends hold for the narrowest and the farthest integrand.

    The integrand of the lowest class under ``classes - 1`` equal ones is the narrowest: with ``r = phi / Phi``, its log
    has the slope ``(classes - 1) r(z) - (z - least)`` and the curvature ``-1 - (classes - 1) r (z + r)``. The integrand
    of class c peaks between ``m_c / 2`` and the mean of the largest of ``classes`` normals.
    """
    z = np.linspace(least - 1.0, 9.0, 2000)
    r = np.exp(-0.5 * z * z - scipy_special.log_ndtr(z)) / np.sqrt(2 * np.pi)
    peak = int(np.argmin(np.abs(z - least - (classes - 1) * r)))
    step = _STEP / np.sqrt(1 + (classes - 1) * r[peak] * (z[peak] + r[peak]))
    low = 0.5 * least - 7.0
    return np.linspace(low, 9.0, int(np.ceil((9.0 - low) / step)) + 1)


def _kind(x: Any) -> str:
    return f"an array of {x.dtype}" if hasattr(x, "dtype") else describe(x)


def _check_integers(labels: Any, what: str) -> None:
    if not hasattr(labels, "dtype") or labels.dtype.kind not in "iu":
        raise TypeError(
            f"[{what}] labels must be an array of integers, given {_kind(labels)}; numpy.unique(labels, "
            "return_inverse=True) makes integers of any"
        )
    if labels.ndim != 1:
        raise ValueError(f"[{what}] labels must be (n,), given shape {labels.shape}")


def _check_range(labels: Array, classes: int, what: str) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"[{what}] labels must lie between 0 and {classes - 1}, they reach from {low} to {high}")


def _check_predictions(values: Any, labels: Any, what: str) -> None:
    """Predictions (m, c), m > 0, and a label for each."""
    _check_integers(labels, what)
    if not hasattr(values, "dtype") or values.dtype.kind != "f":
        raise TypeError(f"[{what}] predictions must be an array of floats, given {_kind(values)}")
    if values.ndim != 2 or values.shape[1] < 2 or not len(values):
        raise ValueError(f"[{what}] predictions must be (m, c), m > 0, c > 1; given shape {values.shape}")
    if len(labels) != len(values):
        raise ValueError(f"[{what}] {len(labels)} labels for {len(values)} predictions")
    _check_range(labels, values.shape[1], what)


def _check_gaussian(mean: Any, variance: Any, what: str) -> None:
    if mean.dtype.kind != "f" or variance.dtype.kind != "f":
        raise TypeError(f"[{what}] mean and variance must hold floats, given {mean.dtype} and {variance.dtype}")
    if mean.ndim != 2 or mean.shape[1] < 2:
        raise ValueError(f"[{what}] mean must be (m, c), c > 1; given shape {mean.shape}")
    if variance.shape != mean.shape[:1]:
        raise ValueError(f"[{what}] variance must be {mean.shape[:1]}, one for all outputs; given {variance.shape}")
    check_finite(mean, "mean", what)
    check_finite(variance, "variance", what)
    if bool((variance < 0).any()):
        raise ValueError(f"[{what}] variance must not be negative, it falls to {float(variance.min()):.3g}")
