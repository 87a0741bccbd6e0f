"""Sequential Monte Carlo over random kernels: from the prior to the posterior by raising the likelihood's power.

For targets that hardly any kernel of the prior explains. A kernel is a function of standard normal variables: of the
arrival times of its layers' points, and of the nodes' pre-activations. At each power they are resampled and moved by
elliptical slice sampling, which leaves a Gaussian prior times any likelihood invariant and has nothing to tune.

Only training points go through the moves. What the likelihood does not see has the law of the prior given what it sees:
the nodes' pre-activations at test points are drawn at the end, given those at training points, layer by layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from ..base.checks import Array
from ..base.options import one_blas_thread
from ..base.progress import bar
from .kernels import Problem, alive, factor, kernel_behind, next_kernel, refuse_overflow

Index = npt.NDArray[np.integer[Any]]

_TURNS = 100  # shrinking the bracket of angles: by then a proposal is where it started, to rounding
_KEEP = 0.5  # effective share of the particles after raising the power
_MAX_STAGES = 1000
_LIKE = 0.5  # correlation with where particles stood before they were moved, at which they have moved enough
_MOST_MOVES = 30
_CHUNK = 2**22  # numbers in the largest array of a chunk of particles

Look = Callable[[Array], tuple[Array, Array]]  # of kernels: log likelihoods (s,) and what they predict (s, p)


@dataclass
class Latents:
    """Standard normal variables of a set of particles: arrays whose first axis is theirs."""

    arrays: list[Array]

    @classmethod
    def drawn(cls, problem: Problem, n: int) -> Latents:
        arrays = []
        for layer in problem.layers:
            arrays.append(problem.rng.standard_normal((n, layer.measure._streams, problem.n_atoms)))
            arrays.append(problem.rng.standard_normal((n, len(problem.first), problem.n_atoms)))
        return cls(arrays)

    def __getitem__(self, index: Index) -> Latents:
        return Latents([a[index] for a in self.arrays])

    def turned(self, other: Latents, angle: Array) -> Latents:
        """``cos(angle) self + sin(angle) other``."""
        cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
        return Latents([cos * a + sin * b for a, b in zip(self.arrays, other.arrays, strict=True)])

    def write(self, index: Index, other: Latents) -> None:
        for a, b in zip(self.arrays, other.arrays, strict=True):
            a[index] = b


def _atoms(problem: Problem, latents: Latents, depth: int, part: slice) -> Any:
    # An exponential variable of the same rank as the normal one.
    arrivals = np.cumsum(-special.log_ndtr(-latents.arrays[2 * depth - 2][part]), axis=-1)
    return problem.layers[depth - 1].measure._atoms(arrivals)


def kernels_of(problem: Problem, latents: Latents) -> Array:
    """Kernels (s, n, n) of the outputs."""
    n = len(latents.arrays[0])
    found = np.empty((n, *problem.first.shape))
    start = 0
    for size in problem.chunks(problem.n_atoms, n):
        part = slice(start, start + size)
        k = problem.first
        with np.errstate(all="ignore"):
            for depth, layer in enumerate(problem.layers, 1):
                noise = latents.arrays[2 * depth - 1][part]
                k = next_kernel(layer, k, _atoms(problem, latents, depth, part), noise, continuous=True)
                refuse_overflow(k, depth, problem.what)
        found[part] = k
        start += size
    return found


def _inverse_root(k: Array) -> Array:
    """The pseudo-inverse of the symmetric root that ``factor(k, continuous=True)`` gives, transposed."""
    deviation = np.sqrt(np.maximum(np.diagonal(k, axis1=-2, axis2=-1), 0))
    inverse = np.where(deviation > 0, 1 / np.where(deviation > 0, deviation, 1), 0)
    values, vectors = np.linalg.eigh(k * inverse[..., :, None] * inverse[..., None, :])
    kept = values > k.shape[-1] * np.finfo(np.float64).eps
    scaled = vectors * np.where(kept, np.where(kept, values, 1) ** -0.5, 0)[..., None, :]
    return np.asarray(inverse[..., :, None] * (scaled @ np.swapaxes(vectors, -1, -2)))


def extended(problem: Problem, latents: Latents, whole: Array) -> Iterator[Array]:
    """Kernels (s, n + m, n + m), chunk by chunk, of particles over n points, with m more points drawn given these.

    ``whole`` is the first kernel over all points.
    """
    n, both, total = len(problem.first), len(whole), len(latents.arrays[0])
    size = max(1, _CHUNK // (both * max(both, problem.n_atoms)))
    for start in range(0, total, size):
        part = slice(start, min(start + size, total))
        k = whole
        with one_blas_thread(), np.errstate(all="ignore"):
            for depth, layer in enumerate(problem.layers, 1):
                atoms = _atoms(problem, latents, depth, part)
                fresh = problem.rng.standard_normal((part.stop - part.start, both - n, problem.n_atoms))
                used, zeta = alive(atoms), None
                if used.any():
                    noise = latents.arrays[2 * depth - 1][part][..., used]
                    bridge = k[..., n:, :n] @ _inverse_root(k[..., :n, :n])
                    rest = k[..., n:, n:] - bridge @ np.swapaxes(bridge, -1, -2)
                    seen = factor(k[..., :n, :n], continuous=True) @ noise
                    zeta = np.concatenate([seen, bridge @ noise + factor(rest) @ fresh[..., used]], axis=-2)
                k = kernel_behind(layer, k, atoms, zeta, part.stop - part.start)
                refuse_overflow(k, depth, problem.what)
        yield k


@dataclass
class Particles:
    """Draws at one power of the likelihood."""

    latents: Latents
    kernels: Array
    log_likelihoods: Array
    predictions: Array

    @classmethod
    def drawn(cls, problem: Problem, look: Look) -> Particles:
        latents = Latents.drawn(problem, problem.n_samples)
        kernels = kernels_of(problem, latents)
        return cls(latents, kernels, *look(kernels))

    def select(self, index: Index) -> None:
        self.latents, self.kernels = self.latents[index], self.kernels[index]
        self.log_likelihoods, self.predictions = self.log_likelihoods[index], self.predictions[index]

    def move(self, problem: Problem, look: Look, power: float) -> None:
        """One step of elliptical slice sampling of each (Murray, Adams and MacKay 2010, arXiv:1001.0175, figure 2)."""
        n, rng = len(self.kernels), problem.rng
        with np.errstate(divide="ignore"):
            height = power * self.log_likelihoods + np.log(rng.random(n))
        other = Latents.drawn(problem, n)
        angle = rng.uniform(0, 2 * np.pi, n)
        low, high = angle - 2 * np.pi, angle.copy()
        left = np.arange(n)
        for _ in range(_TURNS):
            proposed = self.latents[left].turned(other[left], angle[left])
            kernels = kernels_of(problem, proposed)
            log_likelihoods, predictions = look(kernels)
            good = power * log_likelihoods > height[left]
            taken = left[good]
            self.latents.write(taken, proposed[np.flatnonzero(good)])
            self.kernels[taken], self.log_likelihoods[taken] = kernels[good], log_likelihoods[good]
            self.predictions[taken] = predictions[good]
            left = left[~good]
            if not len(left):
                return
            below = angle[left] < 0
            low[left[below]] = angle[left[below]]
            high[left[~below]] = angle[left[~below]]
            angle[left] = rng.uniform(low[left], high[left])

    def likeness(self, log_likelihoods: Array, predictions: Array) -> float:
        """Correlation with what the particles were before, of likelihoods or of predictions, whichever is larger."""
        return max(
            _correlation(log_likelihoods[:, None], self.log_likelihoods[:, None]),
            _correlation(predictions, self.predictions),
        )


def _correlation(before: Array, after: Array) -> float:
    """Over particles, the covariances of all columns added up; 0 where nothing varies, and for negative ones."""
    a, b = before - before.mean(axis=0), after - after.mean(axis=0)
    size = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return max(0.0, float((a * b).sum()) / size) if size > 0 else 0.0


def _share(log_weights: Array) -> float:
    """Effective sample size over the number of weights."""
    log_ess = 2 * special.logsumexp(log_weights) - special.logsumexp(2 * log_weights)
    return float(np.exp(log_ess) / len(log_weights))


def _resampled(log_weights: Array, rng: np.random.Generator) -> tuple[Index, float]:
    """Indices, as often as weights say, systematically; and the variance that rounding to whole copies adds."""
    weights = np.exp(log_weights - special.logsumexp(log_weights))
    n = len(weights)
    share = n * weights - np.floor(n * weights)
    index = np.minimum(np.searchsorted(np.cumsum(weights), (np.arange(n) + rng.random()) / n), n - 1)
    return index, float((share * (1 - share)).mean())


@dataclass(frozen=True)
class Annealed:
    """Particles at power 1.

    Attributes
    ----------
    latents : Latents
    log_evidence : float
    moves : tuple of int
        Of each particle at each stage.
    inflation : float
        Variance of a mean over the particles, over that of as many independent draws.
    """

    latents: Latents
    log_evidence: float
    moves: tuple[int, ...]
    inflation: float


def anneal(problem: Problem, look: Look, moves: int | None, progress: bool) -> Annealed:
    """Particles of the posterior.

    ``look`` maps kernels (s, n, n) to log likelihoods (s,) and predictions (s, p). Without ``moves`` particles are
    moved until they are little like where they stood, at each stage.

    Raises
    ------
    ArithmeticError
        When the power does not reach 1 in 1,000 stages.

    Notes
    -----
    The inflation v, 1 of independent draws, is followed through the stages [derived]: raising the power to weights of
    effective share s adds 1 / s - 1, resampling what its rounding adds, and moves after which particles correlate by r
    with where they stood forget all but r^2 of what exceeds 1.
    """
    particles = Particles.drawn(problem, look)
    power, log_evidence, shown, inflation = 0.0, 0.0, 0, 1.0
    made: list[int] = []
    with bar(100, progress, "percent") as report:
        for _ in range(_MAX_STAGES):
            found, left = particles.log_likelihoods, 1 - power
            step = left
            if _share(left * found) < _KEEP:
                step = float(optimize.brentq(lambda s: _share(s * found) - _KEEP, 0, left, rtol=1e-6))  # noqa: B023
            log_evidence += float(special.logsumexp(step * found)) - np.log(len(found))
            power = 1.0 if step == left else power + step
            index, rounding = _resampled(step * found, problem.rng)
            inflation += 1 / _share(step * found) - 1 + rounding
            particles.select(index)
            stood = particles.log_likelihoods.copy(), particles.predictions.copy()
            count, like = 0, 1.0
            while count < (_MOST_MOVES if moves is None else moves) and (moves is not None or like > _LIKE):
                particles.move(problem, look, power)
                count, like = count + 1, particles.likeness(*stood)
            made.append(count)
            inflation = 1 + (inflation - 1) * like**2
            report(int(100 * power) - shown)
            shown = int(100 * power)
            if power == 1:
                return Annealed(particles.latents, log_evidence, tuple(made), inflation)
    raise ArithmeticError(
        f"[{problem.what}] the power of the likelihood is {power:.3g} after {_MAX_STAGES} stages, not 1"
    )
