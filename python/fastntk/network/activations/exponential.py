"""Exponentials: of the input, of a distance, of a correlation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...base.checks import finite
from ...base.jet import value_of
from .nonlinearity import Array, Correlation, Nonlinearity, registered, split, within

__all__ = ["Exp", "ExpNormalized", "Rbf"]


def half_distance(c: Correlation, x1: Any, x2: Any) -> Array:
    """``(z1^2 + z2^2) / 2 - rho z1 z2``, half the squared distance of Gaussians of deviations z: no difference of big
    numbers. ``z - z'`` is taken of both parts of z, since rounding alone would keep near variances apart."""
    product = (x1.z + x1.z_low) * (x2.z + x2.z_low)
    step = (x1.z - x2.z) + (x1.z_low - x2.z_low)
    found: Array = step**2 / 2 + product * np.where(c.near, c.w, 2 - c.w)
    return found


@registered("rbf", 0.8)
@dataclass(frozen=True)
class Rbf(Nonlinearity):
    """``sqrt(2) sin(sqrt(2 gamma) x + pi/4)``, whose dual is a Gaussian of the distance.

    Parameters
    ----------
    gamma : float
        Not negative.

    Notes
    -----
    ``k = exp(-gamma (q11 + q22 - 2 q12))``, ``kdot = 2 gamma k``.

    Accuracy: docs/accuracy.md, row rbf.

    References
    ----------
    Rahimi and Recht (2007), Random features for large-scale kernel machines, NeurIPS 20, section 3.
    """

    gamma: float = 1.0
    dual_name: ClassVar[str] = "rbf"
    row_names: ClassVar[tuple[str, ...]] = ("z", "z_low")
    positive: ClassVar[bool] = True
    cheap: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", _not_negative("Rbf", "gamma", self.gamma))

    @property
    def dual_params(self) -> tuple[float, ...]:
        return (self.gamma,)

    def phi(self, x: Any, xp: Any) -> Any:
        return 2**0.5 * xp.sin((2 * self.gamma) ** 0.5 * x + math.pi / 4)

    def variance(self, q: Array, xp: Any = np) -> Array:
        found: Array = 1 + 0 * xp.minimum(q, 1)  # NaN stays NaN
        return found

    def mean(self, q: Array, xp: Any = np) -> Array:
        return np.exp(-self.gamma * q)

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        z, low = split(xp.sqrt(2 * self.gamma * q))
        return {"z": z, "z_low": low}

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        D = half_distance(c, x1, x2)
        rho = np.exp(-D)
        return -np.expm1(-D), rho, 2 * self.gamma * rho

    def exact(self, q11: Any, q12: Any, q22: Any, mp: Any) -> tuple[Any, Any]:
        gamma = mp.mpf(self.gamma)
        k = mp.exp(-gamma * (q11 + q22 - 2 * q12))
        return k, 2 * gamma * k


@registered("exp", 0.7, 0.3)
@dataclass(frozen=True)
class Exp(Nonlinearity):
    """``a exp(b x)``.

    Parameters
    ----------
    a, b : float
        Output and input scale.

    Notes
    -----
    ``k = a^2 exp(b^2 (q11 + q22 + 2 q12) / 2)``, ``kdot = b^2 k``. Variances with ``b^2 q > 350`` raise ValueError:
    ``V = a^2 exp(2 b^2 q)`` leaves float64's range soon after.

    Accuracy: docs/accuracy.md, row exp.

    References
    ----------
    The moment-generating function of the normal distribution.
    """

    a: float = 1.0
    b: float = 1.0
    dual_name: ClassVar[str] = "exp"
    row_names: ClassVar[tuple[str, ...]] = ("z", "z_low", "e")
    positive: ClassVar[bool] = True
    cheap: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("a", "b"):
            object.__setattr__(self, name, finite("Exp", name, getattr(self, name)))

    @property
    def dual_params(self) -> tuple[float, ...]:
        return self.a, self.b

    @property
    def largest_variance(self) -> float:
        b2 = float(value_of(self.b)) ** 2
        return 350 / b2 if b2 > 350 / 1.7e308 else math.inf

    def phi(self, x: Any, xp: Any) -> Any:
        return self.a * xp.exp(self.b * x)

    def variance(self, q: Array, xp: Any = np) -> Array:
        return self.a**2 * np.exp(2 * self.b**2 * within(self, q, "b^2 q must not exceed 350"))

    def mean(self, q: Array, xp: Any = np) -> Array:
        return self.a * np.exp(self.b**2 * q / 2)

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        z, low = split(np.abs(self.b) * xp.sqrt(q))
        return {"z": z, "z_low": low, "e": np.abs(self.a * self.b) * np.exp(self.b**2 * q)}

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        D = half_distance(c, x1, x2)
        rho = np.exp(-D)
        return -np.expm1(-D), rho, x1.e * x2.e * rho

    def exact(self, q11: Any, q12: Any, q22: Any, mp: Any) -> tuple[Any, Any]:
        a, b = mp.mpf(self.a), mp.mpf(self.b)
        k = a * a * mp.exp(b * b * ((q11 + q22) / 2 + q12))
        return k, b * b * k


@registered("exp_normalized", 1.3, -0.7)
@dataclass(frozen=True)
class ExpNormalized(Nonlinearity):
    """The kernel ``sqrt(q11 q22) exp(gamma (rho + shift))``, ``rho = q12 / sqrt(q11 q22)``, without a function.

    Parameters
    ----------
    gamma : float
        Not negative.
    shift : float
        Scales the kernel by ``exp(gamma shift)``.
    do_clip : bool
        Accepted for compatibility and without effect: correlations never leave [-1, 1].

    Raises
    ------
    NotImplementedError
        By ``apply_fn``: no finite network is known.

    Notes
    -----
    ``kdot = gamma exp(gamma (rho + shift))``. A zero variance counts as ``rho = 0``.

    Accuracy: docs/accuracy.md, row exp_normalized.

    References
    ----------
    Shankar et al. (2020), Neural kernels without tangents, arXiv:2003.02237, section 4.
    """

    gamma: float = 1.0
    shift: float = -1.0
    do_clip: bool = False
    dual_name: ClassVar[str] = "exp_normalized"
    homogeneous: ClassVar[bool] = True
    positive: ClassVar[bool] = True
    cheap: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", _not_negative("ExpNormalized", "gamma", self.gamma))
        object.__setattr__(self, "shift", finite("ExpNormalized", "shift", self.shift))
        if not self._scale(1) < 1e150:
            raise ValueError(
                f"[ExpNormalized] exp(gamma (1 + shift)) must be below 1e150, given gamma = {self.gamma}, "
                f"shift = {self.shift}"
            )

    def _scale(self, rho: float) -> Any:
        """``exp(gamma (rho + shift))``."""
        with np.errstate(over="ignore"):
            return np.exp(self.gamma * (rho + self.shift))

    @property
    def dual_params(self) -> tuple[float, ...]:
        return self.gamma, self.shift

    def phi(self, x: Any, xp: Any) -> Any:
        raise NotImplementedError("[ExpNormalized] is a kernel without a function: there is no finite network of it")

    def variance(self, q: Array, xp: Any = np) -> Array:
        found: Array = self._scale(1) * q
        return found

    def mean(self, q: Array, xp: Any = np) -> Array:
        found: Array = xp.sqrt(self._scale(0) * q)
        return found

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        x = self.gamma * np.where(c.near, c.w, 2 - c.w)
        rho = np.exp(-x)
        return -np.expm1(-x), rho, self.gamma * self._scale(1) * rho

    def exact(self, q11: Any, q12: Any, q22: Any, mp: Any) -> tuple[Any, Any]:
        gamma, r = mp.mpf(self.gamma), mp.sqrt(q11 * q22)
        scale = mp.exp(gamma * (q12 / r + mp.mpf(self.shift)))
        return r * scale, gamma * scale


def _not_negative(layer: str, name: str, value: Any) -> float:
    found = finite(layer, name, value)
    if found < 0:
        raise ValueError(f"[{layer}] {name} must not be negative, given {value}: the dual would be no kernel")
    return found
