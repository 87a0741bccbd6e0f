"""Functions of two slopes: the rectifier and its kin."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...base.checks import finite
from .nonlinearity import Array, Correlation, Nonlinearity, registered, signed_defect

__all__ = ["ABRelu", "Abs", "LeakyRelu", "Relu"]


def _sin_minus_t_cos(t: Array) -> Array:
    """``sin t - t cos t`` for t in [0, pi/2]; its series below 1, where the difference would cancel."""
    small = np.minimum(t, 1.0)
    series = sum((-1) ** (k + 1) * 2 * k / math.factorial(2 * k + 1) * small ** (2 * k + 1) for k in range(1, 11))
    return np.where(t < 1, series, np.sin(t) - t * np.cos(t))


@registered("abrelu", -0.3, 2.0)
@dataclass(frozen=True)
class ABRelu(Nonlinearity):
    """``a min(x, 0) + b max(x, 0)``.

    Parameters
    ----------
    a, b : float
        Slopes below and above zero.
    do_stabilize : bool
        Accepted for compatibility and without effect: variances never enter the recursion of a pair.

    Notes
    -----
    ``k = a b q12 + (b - a)^2 k1``, ``kdot = a b + (b - a)^2 kdot1`` with the rectifier's ``k1 = r (sin theta +
    (pi - theta) cos theta) / (2 pi)``, ``kdot1 = (pi - theta) / (2 pi)``, ``r = sqrt(q11 q22)``,
    ``cos theta = q12 / r``. Where a variance is 0, theta counts as pi/2.

    Accuracy: docs/accuracy.md, rows relu, leaky_relu, abrelu, abs.

    References
    ----------
    Cho and Saul (2009), Kernel methods for deep learning, NeurIPS 22, eqs. (3)-(6).
    """

    a: float
    b: float
    do_stabilize: bool = False
    dual_name: ClassVar[str] = "abrelu"
    homogeneous: ClassVar[bool] = True
    cheap: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("a", "b"):
            object.__setattr__(self, name, finite(type(self).__name__, name, getattr(self, name)))

    @property
    def dual_params(self) -> tuple[float, ...]:
        return (self.a, self.b)

    def phi(self, x: Any, xp: Any) -> Any:
        return xp.where(x > 0, self.b * x, self.a * x)

    def variance(self, q: Array, xp: Any = np) -> Array:
        return (self.a * self.a + self.b * self.b) / 2 * q

    def mean(self, q: Array, xp: Any = np) -> Array:
        found: Array = (self.b - self.a) / math.sqrt(2 * math.pi) * xp.sqrt(q)
        return found

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        t = 2 * np.arctan2(np.sqrt(c.w), np.sqrt(2 - c.w))  # theta, or pi - theta beyond a right angle
        total = self.a**2 + self.b**2
        mix = 2 * self.a * self.b / total if total > 0 else 1.0
        rest = (self.b - self.a) ** 2 / total if total > 0 else 0.0
        gain = rest * _sin_minus_t_cos(t) / np.pi
        above = np.maximum(np.where(c.near, c.w, 1 + mix - mix * c.w) - gain, 0)  # 1 - rho'
        below = rest + mix * c.w + gain  # 1 + rho', where rho < 0
        positive = c.near | ~(gain < mix * c.a)
        v = signed_defect(positive, np.where(positive, above, below))
        rho = np.where(c.near, 1 - above, gain - mix * c.a)
        kdot = self.a * self.b + (self.b - self.a) ** 2 / 2 * np.where(c.near, 1 - t / np.pi, t / np.pi)
        return v, rho, kdot

    def exact(self, q11: Any, q12: Any, q22: Any, mp: Any) -> tuple[Any, Any]:
        r = mp.sqrt(q11 * q22)
        cos = q12 / r
        theta, sin = mp.acos(cos), mp.sqrt((1 - cos) * (1 + cos))
        a, b = mp.mpf(self.a), mp.mpf(self.b)
        same = sin + (mp.pi - theta) * cos  # E u v over u, v > 0, times 2 pi / r
        mixed = theta * cos - sin  # over u > 0 > v, likewise
        squares, product = a * a + b * b, 2 * a * b
        kdot = (squares * (mp.pi - theta) + product * theta) / (2 * mp.pi)
        return r * (squares * same + product * mixed) / (2 * mp.pi), kdot


@registered("relu")
@dataclass(frozen=True, init=False)
class Relu(ABRelu):
    """``max(x, 0)``: see :class:`ABRelu`."""

    dual_name: ClassVar[str] = "relu"
    positive: ClassVar[bool] = True

    @property
    def dual_params(self) -> tuple[float, ...]:
        return ()

    def __init__(self, do_stabilize: bool = False) -> None:
        super().__init__(0.0, 1.0, do_stabilize)


@registered("leaky_relu", 0.1)
@dataclass(frozen=True, init=False)
class LeakyRelu(ABRelu):
    """``max(x, 0) + alpha min(x, 0)``: see :class:`ABRelu`."""

    def __init__(self, alpha: float, do_stabilize: bool = False) -> None:
        super().__init__(alpha, 1.0, do_stabilize)

    @property
    def alpha(self) -> float:
        return self.a


@registered("abs")
@dataclass(frozen=True, init=False)
class Abs(ABRelu):
    """``|x|``: see :class:`ABRelu`."""

    def __init__(self, do_stabilize: bool = False) -> None:
        super().__init__(-1.0, 1.0, do_stabilize)
