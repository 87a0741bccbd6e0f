"""Sequential Monte Carlo over random kernels: from the prior to the posterior by raising the likelihood's power.

For targets that hardly any kernel of the prior explains. A kernel is a function of standard normal variables: of the
arrival times of its layers' points, and of the nodes' pre-activations. At each power they are resampled and moved by
elliptical slice sampling, which leaves a Gaussian prior times any likelihood invariant and has nothing to tune.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from ..base.checks import Array
from ..base.options import one_blas_thread
from ..base.progress import bar
from .kernels import Problem, next_kernel, refuse_overflow

Index = npt.NDArray[np.integer[Any]]

_TURNS = 100  # shrinking the bracket of angles: by then a proposal is where it started, to rounding
_KEEP = 0.5  # effective share of the particles after raising the power
_MAX_STAGES = 1000


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


def kernels_of(problem: Problem, latents: Latents) -> Array:
    """Kernels (s, n, n) of the outputs."""
    n = len(latents.arrays[0])
    found = np.empty((n, *problem.first.shape))
    start = 0
    for size in problem.chunks(problem.n_atoms, n):
        part = slice(start, start + size)
        k = problem.first
        with one_blas_thread(), np.errstate(all="ignore"):
            for depth, layer in enumerate(problem.layers, 1):
                arrivals, noise = (a[part] for a in latents.arrays[2 * depth - 2 : 2 * depth])
                # An exponential variable of the same rank as the normal one.
                atoms = layer.measure._atoms(np.cumsum(-special.log_ndtr(-arrivals), axis=-1))
                k = next_kernel(layer, k, atoms, noise, continuous=True)
                refuse_overflow(k, depth, problem.what)
        found[part] = k
        start += size
    return found


@dataclass
class Particles:
    """Draws at one power of the likelihood."""

    latents: Latents
    kernels: Array
    log_likelihoods: Array

    def select(self, index: Index) -> None:
        self.latents, self.kernels = self.latents[index], self.kernels[index]
        self.log_likelihoods = self.log_likelihoods[index]

    def move(self, problem: Problem, likelihood: Callable[[Array], Array], power: float) -> None:
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
            log_likelihoods = likelihood(kernels)
            good = power * log_likelihoods > height[left]
            taken = left[good]
            self.latents.write(taken, proposed[np.flatnonzero(good)])
            self.kernels[taken], self.log_likelihoods[taken] = kernels[good], log_likelihoods[good]
            left = left[~good]
            if not len(left):
                return
            below = angle[left] < 0
            low[left[below]] = angle[left[below]]
            high[left[~below]] = angle[left[~below]]
            angle[left] = rng.uniform(low[left], high[left])


def _share(log_weights: Array) -> float:
    """Effective sample size over the number of weights."""
    log_ess = 2 * special.logsumexp(log_weights) - special.logsumexp(2 * log_weights)
    return float(np.exp(log_ess) / len(log_weights))


def _resampled(log_weights: Array, rng: np.random.Generator) -> Index:
    """Indices, as often as weights say, systematically."""
    weights = np.exp(log_weights - special.logsumexp(log_weights))
    n = len(weights)
    return np.minimum(np.searchsorted(np.cumsum(weights), (np.arange(n) + rng.random()) / n), n - 1)


def anneal(
    problem: Problem, likelihood: Callable[[Array], Array], moves: int, progress: bool
) -> tuple[Array, float, int]:
    """Kernels (s, n, n) of the posterior, an estimate of the log evidence, and the number of powers.

    ``likelihood`` maps kernels (s, n, n) to log likelihoods (s,).

    Raises
    ------
    ArithmeticError
        When the power does not reach 1 in 1,000 stages.
    """
    latents = Latents.drawn(problem, problem.n_samples)
    kernels = kernels_of(problem, latents)
    particles = Particles(latents, kernels, likelihood(kernels))
    power, log_evidence, shown = 0.0, 0.0, 0
    with bar(100, progress, "percent") as report:
        for stage in range(1, _MAX_STAGES + 1):
            found, left = particles.log_likelihoods, 1 - power
            step = left
            if _share(left * found) < _KEEP:
                step = float(optimize.brentq(lambda s: _share(s * found) - _KEEP, 0, left, rtol=1e-6))  # noqa: B023
            log_evidence += float(special.logsumexp(step * found)) - np.log(len(found))
            power = 1.0 if step == left else power + step
            particles.select(_resampled(step * found, problem.rng))
            for _ in range(moves):
                particles.move(problem, likelihood, power)
            report(int(100 * power) - shown)
            shown = int(100 * power)
            if power == 1:
                return particles.kernels, log_evidence, stage
    raise ArithmeticError(
        f"[{problem.what}] the power of the likelihood is {power:.3g} after {_MAX_STAGES} stages, not 1"
    )
