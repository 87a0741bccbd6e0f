"""Weights of training points: a point of weight w counts as w points that are equal, its noise has variance s / w.

With ``D = diag(sqrt(w))`` and A' = D K D + s I, what equal points would give is had from n points alone:

    (K + s W^-1)^-1 = D A'^-1 D,

and gradient descent on the weighted loss is that of ``D f`` on ``D y`` with the kernel ``D Theta D``. So kernels and
targets scaled by D go where those of points without weights would. Of the kernel of equal points, the further
eigenvalues are 0, and the targets have no part along them: ``sum(w) - n`` directions that hold noise alone.

D is taken relative to the largest weight, ``W = top D^2``; noise is then ``s / top``.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from ..predict.ensemble import EnsemblePredictor, gradient_descent_mse_ensemble
from ..predict.evidence import GRID, SearchWarning, check_nonzero, leave_one_out, log_marginal_likelihood
from ..predict.linalg import IllConditionedWarning, warn

Array = npt.NDArray[Any]


class Weights:
    """Positive weights (n,) of training points."""

    def __init__(self, values: Array) -> None:
        self.values, self.top = values, float(values.max())
        self.root = np.sqrt(values / self.top)
        self._share = float((values / self.top).mean())

    def __getitem__(self, points: Any) -> Weights:
        return Weights(self.values[points])

    @property
    def further(self) -> float:
        """Points that these count as, less their number."""
        return float(self.values.sum()) - len(self.values)

    def kernel(self, k: Array) -> Array:
        """``D K D`` of K (n, n)."""
        found: Array = k * np.multiply.outer(self.root, self.root).astype(k.dtype)
        return found

    def targets(self, y: Array) -> Array:
        """``D y`` of y (n, o)."""
        found: Array = self.root[:, None] * y
        return found

    def diag_reg(self, diag_reg: float) -> float:
        """What adds ``s / top`` to the diagonal of ``D K D``, s relative to the weighted mean of K's diagonal."""
        return diag_reg / self._share / self.top

    def learning_rate(self, learning_rate: float) -> float:
        """That of a loss which is a mean over what these points count as."""
        return learning_rate / self._share


class _Scaled:
    """A kernel function times a factor for each row and each column."""

    def __init__(self, kernel_fn: Any) -> None:
        self._kernel_fn = kernel_fn

    def __call__(self, x1: Any, x2: Any, get: Any, roots: tuple[Array, Array]) -> Any:
        found = self._kernel_fn(x1, x2, get)
        by = np.multiply.outer(*roots)
        if isinstance(get, str):
            return found * by.astype(found.dtype)
        return type(found)(*(k * by.astype(k.dtype) for k in found))


class Ensemble:
    """``gradient_descent_mse_ensemble`` of training points with weights, or None."""

    def __init__(
        self, kernel_fn: Any, x: Array, y: Array, learning_rate: float, diag_reg: float, weights: Weights | None
    ) -> None:
        self._weights = weights
        self._predictor: EnsemblePredictor
        if weights is None:
            self._predictor = gradient_descent_mse_ensemble(kernel_fn, x, y, learning_rate, diag_reg)
        else:
            self._predictor = gradient_descent_mse_ensemble(
                _Scaled(kernel_fn), x, weights.targets(y), weights.learning_rate(learning_rate),
                weights.diag_reg(diag_reg), roots=(weights.root, weights.root),
            )  # fmt: skip

    @property
    def conditioning(self) -> Any:
        """Of what was factorised: ``D K D`` where there are weights."""
        return self._predictor.conditioning

    def __call__(self, t: Any, x: Array, get: str, compute_cov: bool | str) -> Any:
        """As :func:`fastntk.predict.gradient_descent_mse_ensemble` has it, for test points x."""
        if self._weights is None:
            return self._predictor(t, x, get, compute_cov)
        ones = np.ones(len(x))
        return self._predictor(t, x, get, compute_cov, roots=(ones, ones))


def held_out(k: Array, y: Array, diag_reg: float, weights: Weights | None) -> tuple[Array, Array]:
    """Means (n, o) and variances (n,) of each noisy target from all others, in closed form.

    Of w equal points one is left out; of a weight below 1, all of it.
    """
    if weights is None:
        found = leave_one_out(k, y, diag_reg)
        return found.mean, found.variance
    found = leave_one_out(weights.kernel(k), weights.targets(y), weights.diag_reg(diag_reg))
    noise = found.conditioning.diag_reg + found.conditioning.jitter  # over top
    mean, square = found.mean / weights.root[:, None], weights.root**2
    latent = np.maximum(found.variance - noise, 0) / square
    # The points that stay, seen again: of one unit of weight each noise is `noise * top`.
    stay = np.maximum(weights.values - 1, 0)
    noise *= weights.top
    gain = np.divide(latent * stay, noise + latent * stay, out=np.zeros(len(y)), where=latent * stay > 0)
    mean = mean + gain[:, None] * (y - mean)
    return mean.astype(k.dtype), (latent * (1 - gain) + noise).astype(k.dtype)


def log_density(
    k: Array, y: Array, diag_reg: float, amplitude: float | None, weights: Weights | None
) -> tuple[float, float]:
    """Log marginal likelihood, and the amplitude: as given, or that of the largest."""
    if weights is None:
        found = log_marginal_likelihood(k, y, diag_reg, amplitude=amplitude)
        return found.value, found.amplitude
    k, y, diag_reg = weights.kernel(k), weights.targets(y), weights.diag_reg(diag_reg)
    n, further = len(y), weights.further
    if amplitude is None:
        best = log_marginal_likelihood(k, y, diag_reg, amplitude=None).amplitude
        amplitude = best * (n / (n + further))
    found = log_marginal_likelihood(k, y, diag_reg, amplitude=amplitude)
    noise = amplitude * weights.top * (found.conditioning.diag_reg + found.conditioning.jitter)
    if further and not noise:
        raise ValueError("[log_marginal_likelihood] equal points without noise have no density: diag_reg is 0")
    alone = further * math.log(2 * math.pi * noise) if further else 0.0
    return found.value - 0.5 * y.shape[1] * (n * math.log(weights.top) + alone), amplitude


def choose(
    k: Array, y: Array, criterion: str, amplitude: float | None, weights: Weights, what: str
) -> tuple[float, float]:
    """``diag_reg`` and the amplitude there, as :func:`fastntk.predict.select_diag_reg` chooses them.

    Raises
    ------
    ValueError
        All targets are zero, or too large for the amplitude: all densities are 0.

    Warns
    -----
    SearchWarning
        The best value is the least or largest of the grid.
    """
    check_nonzero(y, what)
    losses, amplitudes = [], []
    if criterion == "leave_one_out" and amplitude is not None:
        y = y / np.abs(y).max()  # errors are compared in any unit
    for value in GRID:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", IllConditionedWarning)  # of the one that is chosen, fit tells
            if criterion == "evidence":
                density, factor = log_density(k, y, value, amplitude, weights)
                loss = -density
            else:
                mean, variance = held_out(k, y, value, weights)
                squares = ((y - mean) ** 2).sum(axis=1, dtype=np.float64)
                loss = float(np.average(squares, weights=weights.values))
                over = float(np.average(squares / variance, weights=weights.values)) / y.shape[1]
                factor = over if amplitude is None else amplitude
        losses.append(loss)
        amplitudes.append(factor)
    best = int(np.argmin(losses))
    if not np.isfinite(losses[best]):
        raise ValueError(
            f"[{what}] the evidence has no maximum within the range of floats: targets reach {np.abs(y).max():.3g} at "
            f"amplitude {amplitude:.3g}; choose the amplitude too (None), or normalize_y"
        )
    if best in (0, len(GRID) - 1):
        edge = "upper" if best else "lower"
        warn(f"[{what}] the best diag_reg, {GRID[best]:.3g}, is the grid's {edge} end", SearchWarning)
    return GRID[best], amplitudes[best]
