"""Generalised gamma and generalised BFRY measures: stable near zero, tempered or heavier in the tail.

Their tails are incomplete gamma functions and are inverted by Newton steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from ..base.checks import Array, between, positive
from .measures import LevyMeasure

_FAR = 4.0  # from here the continued fraction takes over: before, the difference loses x / alpha roundings
_FRACTION = 30  # its terms
_SERIES = 20  # of the lower function below 1
_STEPS = 100  # of Newton's, far more than a concave function takes


def lower_scaled(s: float, x: Array) -> Array:
    """``x^-s gamma(s, x)`` with the lower incomplete gamma function, s > 0: 1 / s at x = 0."""
    found = np.asarray(x**-s * special.gamma(s) * special.gammainc(s, x))
    near = x < 1
    low = x[near]
    term = total = np.full_like(low, 1 / s)
    for n in range(1, _SERIES):
        term = term * low / (s + n)
        total = total + term
    found[near] = np.exp(-low) * total
    return found


def upper_scaled(alpha: float, x: Array) -> Array:
    """``x^alpha Gamma(-alpha, x)`` with the upper incomplete gamma function, 0 < alpha < 1: 1 / alpha at x = 0."""
    found = np.asarray((np.exp(-x) - x**alpha * special.gamma(1 - alpha) * special.gammaincc(1 - alpha, x)) / alpha)
    far = x >= _FAR
    if far.any():
        high = x[far]
        fraction = high + 2 * _FRACTION + 1 + alpha
        for k in range(_FRACTION, 0, -1):
            fraction = high + 2 * k - 1 + alpha - k * (k + alpha) / fraction
        found[far] = np.exp(-high) / fraction
    return found


def _newton(tail: Callable[[Array], tuple[Array, Array]], x: Array, start: Array) -> Array:
    """w with ``tail(w) = x``, where log tail is concave in log w: steps from above fall to it without overshooting.

    ``tail`` gives also ``d log tail / d log w``.
    """
    w, target = np.array(start).reshape(-1), x.reshape(-1)
    left = np.arange(len(w))
    for _ in range(_STEPS):
        value, slope = tail(w[left])
        step = np.log(value / target[left]) / slope
        step = np.where(np.isfinite(step), step, 0.0)  # x is 0 or infinite, and so is w
        w[left] *= np.exp(-step)
        left = left[np.abs(step) > 1e-8]  # the error is then of the order of its square
        if not len(left):
            return w.reshape(x.shape)
    raise ArithmeticError(f"[inv_tail] no convergence in {_STEPS} steps for x from {np.min(x)} to {np.max(x)}")


def _product(shape: tuple[int, ...], alpha: float, beta: float, eta: float, rng: np.random.Generator) -> Array:
    """W G, G gamma of shape 1 - alpha, W from a power law on (1 / (beta + (alpha p / eta)^(1 / alpha)), 1 / beta)."""
    power = alpha * np.logaddexp(np.log(alpha * shape[-1] / eta) / alpha, np.log(beta))
    s = 1 - rng.random(shape)
    log_w = -np.logaddexp(np.log(s) + alpha * math.log(beta), np.log1p(-s) + power) / alpha
    # Gamma(1 - alpha) = Gamma(2 - alpha) U^(1 / (1 - alpha))
    gamma = rng.standard_gamma(2 - alpha, shape) * (1 - rng.random(shape)) ** (1 / (1 - alpha))
    return np.asarray(np.exp(log_w) * gamma)


@dataclass(frozen=True)
class GeneralizedGamma(LevyMeasure):
    """Density ``eta / Gamma(1 - alpha) w^(-1 - alpha) exp(-beta w)``, ``eta = mu beta^(1 - alpha)``, mean mu.

    Stable of index alpha near zero, exponential tails. At finite width products W G of a gamma variable of shape
    1 - alpha and ``W = (s beta^alpha + (1 - s) (t + beta)^alpha)^(-1 / alpha)``, s uniform,
    ``t = (alpha p / eta)^(1 / alpha)``.

    Parameters
    ----------
    alpha : float in (0, 1)
    beta, mu : float, positive
    """

    alpha: float
    beta: float = 1.0
    mu: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", between(self.alpha, "alpha", "GeneralizedGamma", 0, 1))
        for name in ("beta", "mu"):
            object.__setattr__(self, name, positive(getattr(self, name), name, "GeneralizedGamma"))

    @property
    def _eta(self) -> float:
        return float(self.mu * self.beta ** (1 - self.alpha))

    @property
    def _scale(self) -> float:
        return float(self._eta / special.gamma(1 - self.alpha))

    def _tail_and_slope(self, w: Array) -> tuple[Array, Array]:
        upper = upper_scaled(self.alpha, self.beta * w)
        return self._scale * w**-self.alpha * upper, -np.exp(-self.beta * w) / upper

    def _tail(self, w: Array) -> Array:
        return self._tail_and_slope(w)[0]

    def _inv_tail(self, x: Array) -> Array:
        stable = (x * self.alpha / self._scale) ** (-1 / self.alpha)
        exponential = np.maximum(np.log(self._scale * self.beta**self.alpha / x), 1) / self.beta
        return _newton(self._tail_and_slope, x, np.minimum(stable, exponential))

    def _density(self, w: Array) -> Array:
        return np.asarray(self._scale * w ** (-1 - self.alpha) * np.exp(-self.beta * w))

    def _moment(self, k: float) -> float:
        if k <= self.alpha:
            return math.inf
        return float(self._scale * special.gamma(k - self.alpha) * self.beta ** (self.alpha - k))

    def _small_mean(self, eps: Array) -> Array:
        return np.asarray(self.mu * special.gammainc(1 - self.alpha, self.beta * eps))

    def _exponent(self, t: Array) -> Array:
        front = self._eta * self.beta**self.alpha / self.alpha
        return np.asarray(front * np.expm1(self.alpha * np.log1p(t / self.beta)))

    def _variances(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        return _product(shape, self.alpha, self.beta, self._eta, rng)


@dataclass(frozen=True)
class GBFRY(LevyMeasure):
    """Generalised BFRY: tails ``w^-alpha`` near zero and ``w^-tau`` far out, mean mu.

    Density ``g(w / c) / c``, ``c = mu (tau - 1) / (tau - alpha)``, ``g(x) = (tau - alpha) / Gamma(1 - alpha)
    x^(-1 - tau) gamma(tau - alpha, x)`` with the lower incomplete gamma function. At finite width ``c W G V``, W and G
    as of :class:`GeneralizedGamma` at beta = 1 and ``eta = (tau - alpha) / tau``, V Pareto of index tau.

    Parameters
    ----------
    alpha : float in (0, 1)
    tau : float above 1
    mu : float, positive
    """

    alpha: float
    tau: float
    mu: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", between(self.alpha, "alpha", "GBFRY", 0, 1))
        object.__setattr__(self, "tau", between(self.tau, "tau", "GBFRY", 1, math.inf))
        object.__setattr__(self, "mu", positive(self.mu, "mu", "GBFRY"))

    @property
    def _c(self) -> float:
        return self.mu * (self.tau - 1) / (self.tau - self.alpha)

    @property
    def _share(self) -> float:
        return (self.tau - self.alpha) / self.tau

    def _tail_and_slope(self, w: Array) -> tuple[Array, Array]:
        x = w / self._c
        lower = lower_scaled(self.tau - self.alpha, x)
        both = lower + upper_scaled(self.alpha, x)
        return self._share / special.gamma(1 - self.alpha) * x**-self.alpha * both, -self.tau * lower / both

    def _tail(self, w: Array) -> Array:
        return self._tail_and_slope(w)[0]

    def _inv_tail(self, x: Array) -> Array:
        gamma = special.gamma(1 - self.alpha)
        near = (self.alpha * gamma * x) ** (-1 / self.alpha)
        far = (gamma * x / (self._share * special.gamma(self.tau - self.alpha))) ** (-1 / self.tau)
        return _newton(self._tail_and_slope, x, self._c * np.minimum(near, far))

    def _density(self, w: Array) -> Array:
        x = w / self._c
        front = (self.tau - self.alpha) / (special.gamma(1 - self.alpha) * self._c)
        return np.asarray(front * x ** (-1 - self.alpha) * lower_scaled(self.tau - self.alpha, x))

    def _moment(self, k: float) -> float:
        if not self.alpha < k < self.tau:
            return math.inf
        front = self._c**k * (self.tau - self.alpha) / (self.tau - k)
        return float(front * special.gamma(k - self.alpha) / special.gamma(1 - self.alpha))

    def _small_mean(self, eps: Array) -> Array:
        x = eps / self._c
        difference = lower_scaled(1 - self.alpha, x) - lower_scaled(self.tau - self.alpha, x)
        front = self._c * (self.tau - self.alpha) / ((self.tau - 1) * special.gamma(1 - self.alpha))
        return np.where(np.isfinite(x), front * x ** (1 - self.alpha) * difference, self.mu)

    def _exponent(self, t: Array) -> Array:
        # Mean over V of the exponent of W G V, by parts; the integral left is a hypergeometric function (Pfaff).
        z = self._c * t
        series = special.hyp2f1(1 - self.alpha, 1, self.tau - self.alpha + 1, 1 / (1 + z)) / (self.tau - self.alpha)
        power = self.alpha * np.log1p(z)
        whole = np.expm1(power) + self.alpha * z / (1 + z) * np.exp(power) * series
        return np.where(np.isfinite(z), self._share / self.alpha * whole, np.inf)

    def _variances(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        pareto = (1 - rng.random(shape)) ** (-1 / self.tau)
        return self._c * _product(shape, self.alpha, 1.0, self._share, rng) * pareto
