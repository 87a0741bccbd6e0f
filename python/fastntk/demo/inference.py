"""Exact Gaussian process regression from kernel matrices.

Prior: outputs are independent, each ``f ~ GP(0, a K)`` and ``y = f + noise``, noise variance ``a s``. The amplitude
``a`` leaves the posterior mean alone and multiplies every variance. With the NTK for ``K``, the posterior mean is what
an infinitely wide network, averaged over initialisations, predicts after training by gradient flow on the squared
loss for infinite time, with the L2 penalty ``s`` on the distance from its start (s = 0: no penalty).

References
----------
Rasmussen and Williams (2006), Gaussian Processes for Machine Learning: eqs. (2.25), (2.26) posterior, (2.30) log
marginal likelihood, (5.10) to (5.12) leave-one-out. Lee et al. (2019), arXiv:1902.06720: the NTK's mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, eigh, solve_triangular
from scipy.optimize import minimize_scalar
from scipy.special import log_ndtr, logsumexp

Array = npt.NDArray[np.float64]

# Of the mean of K's diagonal; the lower end is noise-free to all practical purposes.
NOISE_RATIOS = tuple(10.0 ** np.arange(-8.0, 2.01, 0.5))

_NODES = 64  # trapezoid rule: spacing of 0.26 to 0.57 for factors of variance 0.2 to 1
_MAX_GAP = 40.0  # in standard deviations
_BLOCK = 1 << 22  # doubles in one temporary


@dataclass(frozen=True)
class Selection:
    """Noise variance ``s`` (in units of K), amplitude ``a``, and log marginal likelihood at both."""

    noise: float
    amplitude: float
    log_evidence: float


@dataclass(frozen=True)
class Posterior:
    """Cholesky factor of ``K + s I`` (lower), ``weights = (K + s I)^-1 y``, and the noise and amplitude used."""

    factor: Array
    weights: Array
    targets: Array
    noise: float
    amplitude: float

    def mean(self, cross: Array) -> Array:
        """Posterior mean (m, o) from ``cross`` = K(test, train) (m, n)."""
        mean: Array = cross @ self.weights
        return mean

    def variance(self, cross: Array, diagonal: Array) -> Array:
        """Variance (m,) of a new noisy target, equal for all outputs.

        Parameters
        ----------
        cross : numpy.ndarray (m, n)
            K(test, train).
        diagonal : numpy.ndarray (m,)
            K(x, x) of the test points.
        """
        half = solve_triangular(self.factor, cross.T, lower=True, check_finite=False)
        explained = np.einsum("nm,nm->m", half, half)
        latent: Array = np.maximum(diagonal - explained, 0.0)
        return self.amplitude * (latent + self.noise)

    def leave_one_out(self) -> tuple[Array, Array]:
        """Mean (n, o) and noisy-target variance (n,) of each training point given all others."""
        inverse = cho_solve((self.factor, True), np.eye(len(self.factor)), overwrite_b=True, check_finite=False)
        precision = np.diagonal(inverse)
        return self.targets - self.weights / precision[:, None], self.amplitude / precision


def fit(k: Array, y: Array, noise: float, amplitude: float = 1.0) -> Posterior:
    """Condition the prior on data.

    Parameters
    ----------
    k : numpy.ndarray (n, n)
        Kernel of the training points.
    y : numpy.ndarray (n, o)
        Targets.
    noise : float
        Noise variance in units of k.
    amplitude : float
        Factor of all variances.

    Returns
    -------
    Posterior

    Raises
    ------
    scipy.linalg.LinAlgError
        When ``k + noise I`` is not positive definite.
    """
    factor, _ = cho_factor(_shifted(k, noise), lower=True, overwrite_a=True, check_finite=False)
    return Posterior(factor, cho_solve((factor, True), y, check_finite=False), y, noise, amplitude)


def log_marginal_likelihood(k: Array, y: Array, noise: float) -> float:
    """Log density of the targets under ``N(0, k + noise I)``, summed over independent outputs.

    Parameters
    ----------
    k : numpy.ndarray (n, n)
    y : numpy.ndarray (n, o)
    noise : float

    Returns
    -------
    float
    """
    posterior = fit(k, y, noise)
    n, outputs = y.shape
    log_det = 2.0 * np.sum(np.log(np.diagonal(posterior.factor)))
    return float(-0.5 * (np.sum(y * posterior.weights) + outputs * (log_det + n * np.log(2.0 * np.pi))))


def select_noise(k: Array, y: Array, ratios: Sequence[float] = NOISE_RATIOS) -> Selection:
    """Noise and amplitude of the largest log marginal likelihood.

    The amplitude's best value is closed-form for each noise, so the search is a grid over the noise alone, on one
    eigendecomposition.

    Parameters
    ----------
    k : numpy.ndarray (n, n)
        Kernel of the training points.
    y : numpy.ndarray (n, o)
        Targets.
    ratios : sequence of float
        Noise variances to try, as multiples of the mean of k's diagonal.

    Returns
    -------
    Selection
    """
    n, outputs = y.shape
    values, vectors = eigh(k, driver="evd", check_finite=False)
    power = np.sum((vectors.T @ y) ** 2, axis=1)
    noises = np.asarray(ratios, dtype=np.float64) * (np.trace(k) / n)
    spectra = np.maximum(values, 0.0) + noises[:, None]
    amplitudes = np.maximum((power / spectra).sum(axis=1) / (n * outputs), np.finfo(np.float64).tiny)
    log_dets = np.log(spectra).sum(axis=1)
    evidence = -0.5 * outputs * (log_dets + n * (np.log(2.0 * np.pi * amplitudes) + 1.0))
    best = int(np.argmax(evidence))
    return Selection(float(noises[best]), float(amplitudes[best]), float(evidence[best]))


def log_class_probabilities(mean: Array, sd: Array) -> Array:
    """Log probability that each output is the largest, for independent Gaussian outputs.

    With ``g_c ~ N(mean_c, sd^2)``: ``p_c = P(g_c > g_j for all j != c)``, the integral over u of
    ``phi(u - m_c) prod_{j != c} Phi(u - m_j)`` with ``m = mean / sd``. One trapezoid rule serves all classes; relative
    error below 1e-6. Means more than 40 sd below the largest count as 40 below.

    Parameters
    ----------
    mean : numpy.ndarray (n, c)
    sd : numpy.ndarray (n,)

    Returns
    -------
    numpy.ndarray (n, c)
        Finite; ``exp`` of it sums to 1 in each row.
    """
    out = np.empty_like(mean, dtype=np.float64)
    step = max(1, _BLOCK // (_NODES * max(1, mean.shape[1])))
    for start in range(0, len(mean), step):
        rows = slice(start, start + step)
        gap = mean[rows] / sd[rows, None]
        gap = np.maximum(gap - gap.max(axis=1, keepdims=True), -_MAX_GAP)
        # The integrand of class c peaks between m_c / 2 and the mean of the largest of c normals.
        low = gap.min(axis=1, keepdims=True) / 2.0 - 7.0
        nodes = low + (9.0 - low) * np.linspace(0.0, 1.0, _NODES)
        z = nodes[:, None, :] - gap[:, :, None]
        log_cdf = log_ndtr(z)
        log_mass = logsumexp(-0.5 * z * z - log_cdf + log_cdf.sum(axis=1, keepdims=True), axis=2)
        out[rows] = log_mass - logsumexp(log_mass, axis=1, keepdims=True)
    return out


def class_nll(log_p: Array, labels: npt.NDArray[np.intp]) -> float:
    """Mean negative log probability of the labels (n,) under log probabilities (n, c)."""
    return float(np.mean(np.abs(log_p[np.arange(len(labels)), labels])))


def fit_temperature(mean: Array, sd: Array, labels: npt.NDArray[np.intp]) -> float:
    """Factor of ``sd`` with the least negative log likelihood of the labels, between 0.01 and 100.

    Meant for leave-one-out predictions of training points: one-hot targets are not Gaussian, so the posterior's own
    variance does not say how often the largest output is the right one; held-out training points do.

    Parameters
    ----------
    mean : numpy.ndarray (n, c)
    sd : numpy.ndarray (n,)
    labels : numpy.ndarray (n,) intp

    Returns
    -------
    float
    """

    def loss(log_t: float) -> float:
        # Where all temperatures do equally well, the posterior's own stays.
        return class_nll(log_class_probabilities(mean, np.exp(log_t) * sd), labels) + 1e-6 * log_t**2

    bounds = (np.log(0.01), np.log(100.0))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 0.02}).x))


def gaussian_nll(y: Array, mean: Array, sd: Array) -> float:
    """Mean negative log density of targets (n,) under ``N(mean, sd^2)``."""
    return float(np.mean(0.5 * ((y - mean) / sd) ** 2 + np.log(sd)) + 0.5 * np.log(2.0 * np.pi))


def _shifted(k: Array, noise: float) -> Array:
    shifted = np.array(k, dtype=np.float64, order="F")
    shifted[np.diag_indices_from(shifted)] += noise
    return shifted
