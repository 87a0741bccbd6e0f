"""Prior and posterior of the outputs of infinitely wide node-scaled networks: mixtures of Gaussian processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import linalg, special

from ..base.checks import Array, count, generator, positive, rows
from ..base.options import one_blas_thread
from ..predict.linalg import IllConditionedWarning, warn
from .annealing import anneal, extended
from .kernels import Problem, draw, factor

LEAST_ESS = 10.0  # below it a warning says so
_RAISED = 1e-3  # weight of draws singular to rounding that is worth a warning
_BLOCK = 32  # test points that are drawn together, at least


class EffectiveSampleSizeWarning(UserWarning):
    """Few draws carry all of the weight: what they say is noisy, by about ``1 / sqrt(ess)``."""


def sample_prior(
    x: Any, layers: Any, n_outputs: int, n_samples: int, n_atoms: int, rng: Any, *,
    sigma_v2: float = 1.0, sigma_b2: float = 0.0, progress: bool = False,
) -> Array:  # fmt: skip
    """Draws of the outputs of infinitely wide node-scaled networks at initialisation.

    Parameters
    ----------
    n_outputs : int
        Outputs of one network: uncorrelated, but dependent through the kernel they share.
    others
        As for :func:`sample_kernels`.

    Returns
    -------
    numpy.ndarray (n_samples, n, n_outputs), float64

    Raises
    ------
    TypeError, ValueError, OverflowError
        As :func:`sample_kernels`.
    """
    what = "sample_prior"
    outputs = count(n_outputs, "n_outputs", what)
    problem = Problem.of(x, layers, n_samples, n_atoms, rng, sigma_v2, sigma_b2, what)
    found = np.empty((problem.n_samples, len(problem.first), outputs))
    start = 0
    for k in draw(problem, progress):
        noise = problem.rng.standard_normal((len(k), len(problem.first), outputs))
        with one_blas_thread():
            found[start : start + len(k)] = factor(k) @ noise
        start += len(k)
    return found


@dataclass(frozen=True)
class Posterior:
    """A mixture of Gaussian processes at test points, one for each kernel drawn from the prior.

    Attributes
    ----------
    means : numpy.ndarray (s, m, o)
        Of each Gaussian process, given the targets.
    covariances : numpy.ndarray (s, m, m), or (s, m) of variances alone
        Of each, the same for all outputs; without the targets' noise.
    log_weights : numpy.ndarray (s,)
        Normalised: likelihoods ``log p(y | K_s)`` less their logsumexp, or equal after annealing.
    log_evidence : float
        Estimate of ``log p(y)``.
    stages : int
        Powers of the likelihood on the way from prior to posterior; 1 of importance sampling.
    moves : tuple of int
        Of each kernel at each stage of annealing; none of importance sampling.
    inflation : float
        Variance of a mean over the draws beyond what their weights say, as draws of one origin are alike: 1 of
        independent ones, and of importance sampling.
    """

    means: Array
    covariances: Array
    log_weights: Array
    log_evidence: float
    stages: int
    moves: tuple[int, ...] = ()
    inflation: float = 1.0

    @property
    def weights(self) -> Array:
        """Of each Gaussian process, (s,); their sum is 1."""
        return np.exp(self.log_weights)

    @property
    def ess(self) -> float:
        """Effective sample size ``1 / sum_s w_s^2`` over ``inflation``, from 1 to s."""
        return max(1.0, float(np.exp(-special.logsumexp(2 * self.log_weights))) / self.inflation)

    @property
    def mean(self) -> Array:
        """(m, o)."""
        return np.asarray(np.tensordot(self.weights, self.means, 1))

    @property
    def variance(self) -> Array:
        """Of each output, (m, o): mean of the variances and variance of the means."""
        own = self.covariances if self.covariances.ndim == 2 else np.diagonal(self.covariances, axis1=1, axis2=2)
        spread = self.means - self.mean
        return np.asarray((self.weights @ own)[:, None] + np.tensordot(self.weights, spread * spread, 1))

    @property
    def covariance(self) -> Array:
        """Between test points, of each output, (o, m, m); outputs are correlated through the weights besides.

        Raises
        ------
        ValueError
            Where variances alone were kept.
        """
        self._need_covariances("covariance")
        spread = np.moveaxis(self.means - self.mean, 2, 0)
        between = np.swapaxes(spread * self.weights[:, None], 1, 2) @ spread
        return np.asarray(np.tensordot(self.weights, self.covariances, 1) + (between + np.swapaxes(between, 1, 2)) / 2)

    def sample(self, n: int, rng: Any) -> Array:
        """Draws of the outputs at the test points, without noise: array (n, m, o).

        Raises
        ------
        TypeError, ValueError
            Other numbers or generators; variances alone were kept.
        """
        what = "Posterior.sample"
        self._need_covariances(what)
        rng = generator(rng, what)
        chosen = rng.choice(len(self.means), count(n, "n", what, 0), p=self.weights)
        used, place = np.unique(chosen, return_inverse=True)
        roots = factor(self.covariances[used])
        noise = rng.standard_normal((len(chosen), *self.means.shape[1:]))
        return np.asarray(self.means[chosen] + roots[place] @ noise)

    def _need_covariances(self, what: str) -> None:
        if self.covariances.ndim == 2:
            raise ValueError(f"[{what}] variances alone were kept: covariance='full' keeps those between test points")


@dataclass(frozen=True)
class _Data:
    """Targets y (n, o) and the variance of their noise."""

    y: Array
    noise: float

    def factor(self, k: Array) -> tuple[Array, Array, bool]:
        """Cholesky factor of the covariance of the targets, ``L^-1 y``, and whether noise was raised to rounding."""
        n = len(self.y)
        rounding = 10 * n * np.finfo(np.float64).eps * float(np.diagonal(k)[:n].max())
        a = k[:n, :n].copy()
        a[np.diag_indices(n)] += max(self.noise, rounding)
        root = linalg.cholesky(a, lower=True, overwrite_a=True, check_finite=False)
        half = linalg.solve_triangular(root, self.y, lower=True, check_finite=False)
        return root, half, bool(rounding > self.noise)

    def log_density(self, root: Array, half: Array) -> float:
        log_det = 2 * np.log(np.diagonal(root)).sum()
        n, outputs = half.shape
        return float(-0.5 * ((half**2).sum() + outputs * (log_det + n * np.log(2 * np.pi))))

    def look(self, kernels: Array) -> tuple[Array, Array]:
        """Of kernels (s, n, n) log likelihoods (s,), and what each says of every target given the others, (s, p)."""
        densities, others = np.empty(len(kernels)), np.empty((len(kernels), self.y.size))
        for i, k in enumerate(kernels):
            root, half, _ = self.factor(k)
            densities[i] = self.log_density(root, half)
            inverse = linalg.solve_triangular(root, np.eye(len(root)), lower=True, check_finite=False)
            left_out = (inverse.T @ half) / (inverse * inverse).sum(axis=0)[:, None]
            others[i] = (self.y - left_out).ravel()
        return densities, others

    def condition(self, k: Array, full: bool) -> tuple[Array, Array, float, bool]:
        """Mean (m, o), covariance or variances, log likelihood; whether noise was raised."""
        n = len(self.y)
        root, half, raised = self.factor(k)
        cross = linalg.solve_triangular(root, k[:n, n:], lower=True, check_finite=False)
        if full:
            rest = k[n:, n:] - cross.T @ cross
            rest = (rest + rest.T) / 2
        else:
            rest = np.maximum(np.diagonal(k)[n:] - (cross * cross).sum(axis=0), 0)
        return cross.T @ half, rest, self.log_density(root, half), raised


def posterior(
    x: Any, y: Any, x_test: Any, noise: float, layers: Any, n_samples: int, n_atoms: int, rng: Any, *,
    method: str = "importance", moves: int | None = None, covariance: str = "full",
    sigma_v2: float = 1.0, sigma_b2: float = 0.0, progress: bool = False,
) -> Posterior:  # fmt: skip
    """Outputs of an infinitely wide node-scaled network given noisy targets.

    Given a kernel, inference is that of a Gaussian process; the posterior is a mixture over random kernels:

    - ``'importance'``: kernels ``K_s`` of the prior, weighted by the likelihood ``w_s ~ prod_outputs N(y; 0, K_s +
      noise I)``. Exact as ``n_samples`` grows, cheap, and of use for few targets: see ``ess``.
    - ``'annealed'``: kernels moved from the prior to the posterior by raising the likelihood's power in stages
      (sequential Monte Carlo, each move a step of elliptical slice sampling), all of weight ``1 / n_samples``. Test
      points enter at the end and take no part in the moves.

    Parameters
    ----------
    x : numpy.ndarray (n, d)
    y : numpy.ndarray (n, o)
        Targets of o outputs.
    x_test : numpy.ndarray (m, d)
    noise : float, positive
        Variance of independent Gaussian noise in the targets.
    layers, n_samples, n_atoms, rng, sigma_v2, sigma_b2, progress
        As for :func:`sample_kernels`.
    method : 'importance' or 'annealed'
    moves : int, optional
        Of each kernel at each stage of annealing; unless given, as many as leave its predictions of the targets, each
        from the others, correlated by no more than 1/2 with those from before, at most 30.
    covariance : 'full' or 'diagonal'
        Whether covariances between test points are kept, of each draw, (n_samples, m, m), or variances alone.

    Returns
    -------
    Posterior
        The mixture; ``mean``, ``variance``, ``weights``, ``ess``, ``log_evidence``, ``sample``.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As :func:`sample_kernels`; shapes that do not fit; NaN or infinity; a noise that is not positive.

    Warns
    -----
    EffectiveSampleSizeWarning
        When ``ess`` is below 10 and kernels are random: the kernels drawn hardly meet the posterior, or are few.
    fastntk.predict.IllConditionedWarning
        When draws with a weight above 0.001 are singular to rounding at this noise; theirs is then raised to rounding.

    Notes
    -----
    Means and variances err by about their spread over ``sqrt(ess)``; self-normalised weights add a bias of order
    ``1 / ess``. Annealed kernels of one origin are alike where ``moves`` are too few, which ``inflation`` measures;
    means over them may err by more than that where the posterior has several modes.
    The limit of the posterior of wide networks is this mixture where kernels are positive definite (arXiv:2507.22095);
    the samplers are standard ones (Del Moral, Doucet and Jasra 2006, Sequential Monte Carlo samplers).
    """
    what = "posterior"
    if covariance not in ("full", "diagonal"):
        raise ValueError(f"[{what}] covariance must be 'full' or 'diagonal', given {covariance!r}")
    if method not in ("importance", "annealed"):
        raise ValueError(f"[{what}] method must be 'importance' or 'annealed', given {method!r}")
    if moves is not None:
        moves = count(moves, "moves", what)
    train, test, targets = rows(x, "x", what), rows(x_test, "x_test", what), rows(y, "y", what)
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"[{what}] x has {train.shape[1]} features, x_test has {test.shape[1]}")
    if len(train) != len(targets):
        raise ValueError(f"[{what}] x has {len(train)} rows, y has {len(targets)}")
    data = _Data(targets, positive(noise, "noise", what))
    problem = Problem.of(np.vstack([train, test]), layers, n_samples, n_atoms, rng, sigma_v2, sigma_b2, what)
    samples, m = problem.n_samples, len(test)

    full = covariance == "full"
    means = np.empty((samples, m, targets.shape[1]))
    covariances = np.empty((samples, m, m) if full else (samples, m))
    log_likelihoods, raised = np.zeros(samples), np.zeros(samples, dtype=np.bool_)

    def fill(kernels: Iterator[Array], at: slice) -> None:
        i = 0
        for chunk in kernels:
            with one_blas_thread():
                for k in chunk:
                    means[i, at], found, log_likelihoods[i], raised[i] = data.condition(k, full)
                    covariances[(i,) if full else (i, at)] = found
                    i += 1

    if method == "importance":
        fill(draw(problem, progress), slice(0, m))
        log_sum = float(special.logsumexp(log_likelihoods))
        log_weights = log_likelihoods - log_sum
        result = Posterior(means, covariances, log_weights, float(log_sum - np.log(samples)), 1)
    else:
        n = len(train)
        seen = replace(problem, first=problem.first[:n, :n])
        moved = anneal(seen, data.look, moves, progress)
        wide = m if full else max(n, _BLOCK)  # without covariances test points need not be drawn together
        for start in range(0, m, wide):
            index = np.r_[0:n, n + start : min(n + start + wide, n + m)]
            at = slice(start, min(start + wide, m))
            fill(extended(seen, moved.latents, problem.first[np.ix_(index, index)]), at)
        log_weights = np.full(samples, -np.log(samples))
        result = Posterior(
            means, covariances, log_weights, moved.log_evidence, len(moved.moves), moved.moves, moved.inflation
        )
    if (share := float(result.weights[raised].sum())) > _RAISED:
        warn(
            f"[{what}] draws with {share:.2g} of the weight are singular to rounding at noise = {data.noise:.3g}: "
            "theirs was raised to the rounding of their kernels; choose a larger noise",
            IllConditionedWarning,
        )
    if result.ess < LEAST_ESS and any(layer.measure.mass for layer in problem.layers):
        if 2 * result.ess > samples:
            why = "ask for more draws"
        elif method == "importance":
            why = "hardly any of their kernels explains the targets; method='annealed' moves them there"
        else:
            why = "they are alike; ask for more draws, or moves"
        warn(
            f"[{what}] the effective sample size is {result.ess:.3g} of {samples} draws: {why}",
            EffectiveSampleSizeWarning,
        )
    return result
