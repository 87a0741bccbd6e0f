"""The families of node variances with closed forms."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from scipy import special
from scipy.integrate import quad

from ..base.checks import Array, between, positive
from .measures import LevyMeasure


class _NoPoints(LevyMeasure):
    """rho = 0."""

    @property
    def mass(self) -> float:
        return 0.0

    def _tail(self, w: Array) -> Array:
        return np.zeros_like(w)

    def _inv_tail(self, x: Array) -> Array:
        return np.zeros_like(x)

    def _density(self, w: Array) -> Array:
        return np.zeros_like(w)

    def _small_mean(self, eps: Array) -> Array:
        return np.zeros_like(eps)

    def _exponent(self, t: Array) -> Array:
        return np.zeros_like(t)

    def _moment(self, k: float) -> float:
        return 0.0


class _Powers(LevyMeasure):
    """``tail(w) = scale w^-alpha``, 0 < alpha < 1: Lambda is alpha-stable."""

    @property
    @abstractmethod
    def _power(self) -> tuple[float, float]:
        """(alpha, scale)."""

    def _tail(self, w: Array) -> Array:
        alpha, scale = self._power
        return np.asarray(scale * w**-alpha)

    def _inv_tail(self, x: Array) -> Array:
        alpha, scale = self._power
        return np.asarray((x / scale) ** (-1 / alpha))

    def _density(self, w: Array) -> Array:
        alpha, scale = self._power
        return np.asarray(alpha * scale * w ** (-1 - alpha))

    def _moment(self, k: float) -> float:
        return math.inf

    def _small_mean(self, eps: Array) -> Array:
        alpha, scale = self._power
        return np.asarray(alpha * scale / (1 - alpha) * eps ** (1 - alpha))

    def _exponent(self, t: Array) -> Array:
        alpha, scale = self._power
        return np.asarray(scale * special.gamma(1 - alpha) * t**alpha)


@dataclass(frozen=True)
class _Power(_Powers):
    alpha: float
    scale: float

    @property
    def _power(self) -> tuple[float, float]:
        return self.alpha, self.scale

    def _variances(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        raise NotImplementedError


@dataclass(frozen=True)
class Iid(_NoPoints):
    """Every node ``a / p``: independent Gaussian weights, the Gaussian process limit. No points.

    Parameters
    ----------
    a : float, positive
    """

    a: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "a", positive(self.a, "a", "Iid"))

    def _variances(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        return np.full(shape, self.a / shape[-1])


@dataclass(frozen=True)
class Beta(LevyMeasure):
    """``Beta(eta / (2 p), 1/2)``: density ``(eta / 2) w^-1 (1 - w)^(-1/2)`` on (0, 1), mean eta.

    Parameters
    ----------
    eta : float, positive
    """

    eta: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "eta", positive(self.eta, "eta", "Beta"))

    def _tail(self, w: Array) -> Array:
        root = np.sqrt(np.maximum(1 - w, 0))  # artanh of it, without cancellation at either end
        return self.eta * np.where(w < 0.5, np.log1p(root) - np.log(w) / 2, np.arctanh(np.minimum(root, 0.75)))

    def _inv_tail(self, x: Array) -> Array:
        e = np.exp(-2 * x / self.eta)
        return np.asarray(4 * e / (1 + e) ** 2)

    def _density(self, w: Array) -> Array:
        inside = np.where(w < 1, w, 0.5)
        return np.where(w < 1, self.eta / 2 / (inside * np.sqrt(1 - inside)), 0.0)

    def _moment(self, k: float) -> float:
        return float(self.eta / 2 * special.beta(k, 0.5))

    def _small_mean(self, eps: Array) -> Array:
        inside = np.minimum(eps, 1)
        return np.asarray(self.eta * inside / (1 + np.sqrt(1 - inside)))

    def _exponent(self, t: Array) -> Array:
        # The derivative is eta D(sqrt t) / sqrt t with Dawson's integral D; here in v with sqrt t = sinh v.
        def one(t: float) -> float:
            if not math.isfinite(t):
                return math.inf
            top = math.asinh(math.sqrt(t))
            value = quad(
                lambda v: special.dawsn(math.sinh(v)) * math.cosh(v), 0, top, epsabs=0, epsrel=1e-12, limit=400
            )
            return 2 * self.eta * float(value[0])

        return np.asarray(np.vectorize(one, otypes=[np.float64])(t))

    def _variances(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        return rng.beta(self.eta / (2 * shape[-1]), 0.5, shape)


@dataclass(frozen=True)
class Horseshoe(_Powers):
    """``(pi |C| / (2 p))^2``, C standard Cauchy: tail ``w^(-1/2)``, infinite mean, ``Lambda ~ Levy(0, pi/2)``."""

    @property
    def _power(self) -> tuple[float, float]:
        return 0.5, 1.0

    def _variances(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        return np.asarray((np.pi / 2 * rng.standard_cauchy(shape) / shape[-1]) ** 2)


@dataclass(frozen=True)
class RegularizedHorseshoe(LevyMeasure):
    """``S / (1 + c S)``, ``S = (C / p)^2``, C standard Cauchy: at most 1/c, mean ``c^(-1/2)``.

    Tail ``(2 / pi) sqrt(1 / w - c)``.

    Parameters
    ----------
    c : float, positive
    """

    c: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "c", positive(self.c, "c", "RegularizedHorseshoe"))

    def _tail(self, w: Array) -> Array:
        return np.asarray(2 / np.pi * np.sqrt(np.maximum(1 - self.c * w, 0) / w))

    def _inv_tail(self, x: Array) -> Array:
        return np.asarray(1 / (self.c + (np.pi / 2 * x) ** 2))

    def _density(self, w: Array) -> Array:
        left = 1 - self.c * w
        return np.where(left > 0, w**-1.5 / np.sqrt(np.where(left > 0, left, 1)) / np.pi, 0.0)

    def _moment(self, k: float) -> float:
        return math.inf if k <= 0.5 else float(self.c ** (0.5 - k) / np.pi * special.beta(k - 0.5, 0.5))

    def _small_mean(self, eps: Array) -> Array:
        return np.asarray(2 / (np.pi * math.sqrt(self.c)) * np.arcsin(np.sqrt(np.minimum(self.c * eps, 1))))

    def _exponent(self, t: Array) -> Array:
        # int_0^z exp(-s) I0(s) ds = z exp(-z) (I0(z) + I1(z)), z = t / (2 c)
        z = t / (2 * self.c)
        bessel = special.ive(0, z) + special.ive(1, z)
        return np.where(np.isfinite(z), t / math.sqrt(self.c) * bessel, np.inf)

    def _variances(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        # 1 / (1/S + c) stays finite where S overflows.
        return np.asarray(1 / ((shape[-1] / rng.standard_cauchy(shape)) ** 2 + self.c))


@dataclass(frozen=True)
class Bernoulli(LevyMeasure):
    """w with probability ``c / p``, else 0: finitely many nodes, their number Poisson(c), all of variance w.

    With probability ``exp(-c)`` there is none. Widths must be at least c.

    Parameters
    ----------
    c, w : float, positive
    """

    c: float
    w: float = 1.0

    def __post_init__(self) -> None:
        for name in ("c", "w"):
            object.__setattr__(self, name, positive(getattr(self, name), name, "Bernoulli"))

    @property
    def mass(self) -> float:
        return self.c

    def _tail(self, w: Array) -> Array:
        return np.where(w < self.w, self.c, 0.0)

    def _inv_tail(self, x: Array) -> Array:
        return np.where(x < self.c, self.w, 0.0)

    def _density(self, w: Array) -> Array:
        raise ValueError(f"[Bernoulli.density] {self!r} is a point mass and has no density")

    def _moment(self, k: float) -> float:
        return float(self.c * self.w**k)

    def _small_mean(self, eps: Array) -> Array:
        return np.where(eps > self.w, self.c * self.w, 0.0)

    def _exponent(self, t: Array) -> Array:
        return np.asarray(-self.c * np.expm1(-self.w * t))

    def _point_mass(self, w: Array) -> Array:
        return np.where(w == self.w, self.c, 0.0)

    def _remainder(self, x: Array) -> Array:
        return np.asarray(self.w * np.maximum(self.c - x, 0))

    def _variances(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        if self.c > shape[-1]:
            raise ValueError(
                f"[Bernoulli.sample_variances] c / p is a probability, given c = {self.c}, p = {shape[-1]}"
            )
        return np.where(rng.random(shape) < self.c / shape[-1], self.w, 0.0)


@dataclass(frozen=True)
class Stable(_Powers):
    """Pareto variables ``(U p)^(-1 / alpha)``, U uniform: tail ``w^-alpha``, infinite mean, Lambda alpha-stable.

    Parameters
    ----------
    alpha : float in (0, 1)
    """

    alpha: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", between(self.alpha, "alpha", "Stable", 0, 1))

    @property
    def _power(self) -> tuple[float, float]:
        return self.alpha, 1.0

    def _variances(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        return np.asarray(((1 - rng.random(shape)) * shape[-1]) ** (-1 / self.alpha))


@dataclass(frozen=True)
class InverseGamma(LevyMeasure):
    """Inverse gamma variables of shape k: weights are Student's with 2 k degrees of freedom.

    For k > 1 of scale ``(k - 1) / p``, mean 1 / p: heavy tails at finite width, whose limit is nevertheless the
    Gaussian process, a = 1 and no points. For k < 1 of scale ``p^(-1 / k)``: tail ``w^-k / Gamma(k + 1)``, infinite
    mean. At k = 1 neither scale has a limit: refused.

    Parameters
    ----------
    k : float, positive, not 1
    """

    k: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", positive(self.k, "k", "InverseGamma"))
        if self.k == 1:
            raise ValueError("[InverseGamma] k = 1 has no limit: p P(lam > w) or the mean grows with log p; given 1")

    @property
    def _limit(self) -> LevyMeasure:
        return Iid() if self.k > 1 else _Power(self.k, 1 / math.gamma(self.k + 1))

    @property
    def a(self) -> float:
        return self._limit.a

    @property
    def mass(self) -> float:
        return self._limit.mass

    def _tail(self, w: Array) -> Array:
        return self._limit._tail(w)

    def _inv_tail(self, x: Array) -> Array:
        return self._limit._inv_tail(x)

    def _density(self, w: Array) -> Array:
        return self._limit._density(w)

    def _moment(self, k: float) -> float:
        return self._limit._moment(k)

    def _small_mean(self, eps: Array) -> Array:
        return self._limit._small_mean(eps)

    def _exponent(self, t: Array) -> Array:
        return self._limit._exponent(t)

    def _variances(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        p = shape[-1]
        if self.k > 1:
            return np.asarray((self.k - 1) / p / rng.standard_gamma(self.k, shape))
        # Gamma(k) = Gamma(k + 1) U^(1/k), without underflow for small k.
        gamma = rng.standard_gamma(self.k + 1, shape)
        return np.asarray(((1 - rng.random(shape)) * p) ** (-1 / self.k) / gamma)
