"""The nonlinearities: phi, its variance map and its dual, written to be read; compiled text: ``csrc/math/duals.h``.

For ``(u, v) ~ N(0, [[q11, q12], [q12, q22]])`` the dual is ``k = E phi(u) phi(v)``, ``kdot = E phi'(u) phi'(v)``. Both
are written in terms of the signed defect, ``1 - rho`` for ``rho = q12 / sqrt(q11 q22) >= 0``, else ``-(1 + rho)``: it
keeps its digits where ``rho`` rounds to 1 or -1, and near there ``kdot ~ 1 - sqrt(2 (1 - rho)) / pi``, so an error of
1e-7 in ``rho`` would become 1e-4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..base.checks import finite
from ..base.libraries import erf
from .layer import Layer, Shape
from .program import Builder, Op, Value, Values

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Correlation:
    """A pair's correlation without cancellation: ``w = 1 - |rho|``, ``a = |rho|``, and whether ``rho >= 0``."""

    w: Array
    a: Array
    near: npt.NDArray[np.bool_]

    @classmethod
    def of_defect(cls, v: Array) -> Correlation:
        w = np.abs(v)
        return cls(w, 1 - w, ~(v < 0))

    @classmethod
    def of_covariances(cls, q11: Array, q12: Array, q22: Array) -> Correlation:
        """``1 - |rho| = (q11 q22 - q12^2) / (r (r + |q12|))``; a zero variance counts as ``rho = 0``."""
        h1, h2 = (np.ldexp(1.0, -np.frexp(q)[1] // 2) for q in (q11, q22))  # products stay in range
        near = ~(q12 < 0)
        q11, q12, q22 = q11 * h1 * h1, q12 * h1 * h2, q22 * h2 * h2
        r = np.sqrt(q11) * np.sqrt(q22)
        c = np.abs(q12)
        det = np.maximum(difference_of_products(q11, q22, q12), 0)
        bottom = r * (r + c)
        w = np.where(bottom == 0, 1, det / np.where(bottom == 0, 1, bottom))
        return cls(w, np.minimum(c / np.where(r == 0, 1, r), 1), near)

    @property
    def defect(self) -> Array:
        return signed_defect(self.near, self.w)


def signed_defect(near: npt.NDArray[np.bool_], w: Array) -> Array:
    """``w = 1 - |rho|`` with the sign of ``rho``, never -0."""
    return np.where(near, w, -np.maximum(w, 1e-37))


def rho_of(v: Array) -> Array:
    """The correlation of a signed defect."""
    return np.where(v < 0, np.abs(v) - 1, 1 - v)


def difference_of_products(a: Array, d: Array, b: Array) -> Array:
    """``a d - b^2`` with the rounding errors of both products returned (Dekker 1971, two-product by splitting)."""

    def error_of(x: Array, y: Array, xy: Array) -> Array:
        split = 134217729.0  # 2^27 + 1
        xh = split * x - (split * x - x)
        yh = split * y - (split * y - y)
        xl, yl = x - xh, y - yh
        error: Array = ((xh * yh - xy) + xh * yl + xl * yh) + xl * yl
        return error

    ad, bb = a * d, b * b
    difference: Array = (ad - bb) + (error_of(a, d, ad) - error_of(b, b, bb))
    return difference


def _sin_minus_t_cos(t: Array) -> Array:
    """``sin t - t cos t`` for t in [0, pi/2]; its series below 1, where the difference would cancel."""
    small = np.minimum(t, 1.0)
    series = sum((-1) ** (k + 1) * 2 * k / math.factorial(2 * k + 1) * small ** (2 * k + 1) for k in range(1, 11))
    return np.where(t < 1, series, np.sin(t) - t * np.cos(t))


@dataclass(frozen=True)
class Nonlinearity(Layer):
    """Base: a subclass gives ``dual_name``, ``dual_params``, ``phi``, ``variance`` and ``pair`` of the bare phi.

    The layer is ``a phi(b x) + c`` with ``affine = (a, b, c)``.
    """

    dual_name: ClassVar[str]
    positive: ClassVar[bool] = False  # the dual is never negative
    homogeneous: ClassVar[bool] = False  # phi(c x) = c phi(x) for c > 0

    @property
    def affine(self) -> tuple[float, float, float]:
        return 1.0, 1.0, 0.0

    @property
    def dual_params(self) -> tuple[float, ...]:
        return ()

    def phi(self, x: Any, xp: Any) -> Any:
        """The function itself, for arrays of the library ``xp``."""
        raise NotImplementedError

    def variance(self, q: Array) -> Array:
        """``E phi(sqrt(q) z)^2``, z standard normal."""
        raise NotImplementedError

    def pair(self, c: Correlation, q11: Array, q22: Array) -> tuple[Array, Array, Array]:
        """``(v', rho', kdot)`` of the outputs: the dual, normalised by ``sqrt(V(q11) V(q22))``, and its defect."""
        raise NotImplementedError

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        a, b, c = self.affine
        y = self.phi(inputs if b == 1 else b * inputs, xp)
        return y if (a, c) == (1, 0) else a * y + c

    def lower(self, builder: Builder, values: Values) -> Value:
        value = builder.one(values)
        if not value.gaussian:
            raise ValueError(
                f"[{builder.where}] needs Gaussian inputs, given the output of a nonlinearity or the network's input; "
                "put a Dense layer before it"
            )
        a, b, c = self.affine
        if b != 1:
            value = builder.emit("dense", value, params=(b**2, 0, 0, 0))
        value = builder.emit(self.dual_name, value, params=self.dual_params, gaussian=False)
        if (a, c) != (1, 0):
            value = builder.emit("dense", value, params=(a**2, c**2, 0, 0))
        return value


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

    def __post_init__(self) -> None:
        for name in ("a", "b"):
            object.__setattr__(self, name, finite(type(self).__name__, name, getattr(self, name)))

    @property
    def dual_params(self) -> tuple[float, ...]:
        return (self.a, self.b)

    def phi(self, x: Any, xp: Any) -> Any:
        return xp.where(x > 0, self.b * x, self.a * x)

    def variance(self, q: Array) -> Array:
        return (self.a**2 + self.b**2) / 2 * q

    def pair(self, c: Correlation, q11: Array, q22: Array) -> tuple[Array, Array, Array]:
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


@dataclass(frozen=True, init=False)
class LeakyRelu(ABRelu):
    """``max(x, 0) + alpha min(x, 0)``: see :class:`ABRelu`."""

    def __init__(self, alpha: float, do_stabilize: bool = False) -> None:
        super().__init__(alpha, 1.0, do_stabilize)


@dataclass(frozen=True, init=False)
class Abs(ABRelu):
    """``|x|``: see :class:`ABRelu`."""

    def __init__(self, do_stabilize: bool = False) -> None:
        super().__init__(-1.0, 1.0, do_stabilize)


@dataclass(frozen=True)
class Erf(Nonlinearity):
    """``a erf(b x) + c``.

    Parameters
    ----------
    a, b, c : float
        Output scale, input scale, output offset.

    Notes
    -----
    For a = b = 1, c = 0: ``k = (2/pi) asin(2 q12 / sqrt((1 + 2 q11)(1 + 2 q22)))``, ``kdot = (4/pi) / sqrt(S2)``,
    ``S2 = 1 + 2 (q11 + q22) + 4 (q11 q22 - q12^2)``. The scales are linear ops around it.

    Accuracy: docs/accuracy.md, row erf.

    References
    ----------
    Williams (1997), Computing with infinite networks, NeurIPS 9, eq. (11). The cancellation-free defect is derived in
    ``csrc/math/duals.h``.
    """

    a: float = 1.0
    b: float = 1.0
    c: float = 0.0
    dual_name: ClassVar[str] = "erf"

    @property
    def affine(self) -> tuple[float, float, float]:
        return self.a, self.b, self.c

    def __post_init__(self) -> None:
        for name in ("a", "b", "c"):
            object.__setattr__(self, name, finite("Erf", name, getattr(self, name)))

    def phi(self, x: Any, xp: Any) -> Any:
        return erf(x, xp)

    def variance(self, q: Array) -> Array:
        return 2 / np.pi * _erf_row(q).angle

    def pair(self, c: Correlation, q11: Array, q22: Array) -> tuple[Array, Array, Array]:
        x1, x2 = _erf_row(q11), _erf_row(q22)
        p = np.sqrt(x1.sine) * np.sqrt(x2.sine)
        sine = p * c.a  # of A12 = asin(|rho| sqrt(sin A1 sin A2)); |rho'| = A12 / sqrt(A1 A2)
        fall = p**2 * c.w * (2 - c.w)  # sin A1 sin A2 - sin^2 A12
        cosine = np.sqrt(fall + (x1.n**2 + x2.n**2 - x1.n**2 * x2.n**2))
        # Nearly linear: |rho'| = |rho| exp(-D), D the mean of log(A / sin A) less that of A12, a series without a
        # negative term in what z = sin^2 A loses.
        apart = x1.sine - x2.sine
        z, less, cross = sine**2, apart**2 / 2 + fall, (apart * (x1.sine + x2.sine) / 2) ** 2
        mean = z + less
        slope = 1 / 6 + 11 / 180 * (mean + z) + 191 / 5670 * (mean**2 + mean * z + z**2)
        curvature = 11 / 180 + 191 / 1890 * mean
        drop = -c.a * np.expm1(-(less * slope + cross * curvature))
        # Else close pairs from (A1 + A2) / 2 - A12, no difference of nearly equal numbers; and what is left is large.
        g1, g2 = np.sqrt(x1.angle), np.sqrt(x2.angle)
        alive = (x1.sine != 0) & (x2.sine != 0)
        product, spread = np.where(alive, g1 * g2, 1), (g1 - g2) ** 2
        close = (c.w < 0.1) & (spread < product)
        top = 2 * fall + (x1.t * x2.n - x1.n * x2.t) ** 2 / 2
        bottom = x1.sine * x2.cosine + x2.sine * x1.cosine + 2 * sine * cosine
        angle = np.arctan2(np.where(close, top, sine), np.where(close, bottom, cosine))
        w = np.maximum(np.where(close, angle - spread / 2, product - angle), 0) / product
        linear = np.maximum(x1.sine, x2.sine) < 0.01
        w, a = np.where(linear, c.w + drop, w), np.where(linear, c.a - drop, np.where(close, 1 - w, angle / product))
        least = np.finfo(cosine.dtype).smallest_subnormal  # of variances beyond the range no 0 / 0
        kdot = 4 / np.pi * (x1.n * x2.n + least) / (cosine + least)
        return np.where(alive, signed_defect(c.near, w), 1), np.where(c.near, a, -a), kdot


@dataclass(frozen=True)
class _ErfRow:
    """What Erf's formulas need of one input: ``sin A = 2 q / (1 + 2 q)``, A, and what keeps their digits at any q."""

    sine: Array
    cosine: Array
    angle: Array
    n: Array  # 1 / sqrt(1 + 2 q)
    t: Array  # n (sqrt(1 + 4 q) - 1)


def _erf_row(q: Array) -> _ErfRow:
    y = 0.5 / (0.5 + q)
    n, large = np.sqrt(y), q > 0.5
    sine = np.where(large, 1 - y, 2 * q * y)
    half = np.sqrt(1 + sine)
    t = np.where(large, half - n, 4 * q * y / (n + half))
    return _ErfRow(sine, n * half, np.arctan2(sine, n * half), n, t)


# Every nonlinearity once, by its name in fastntk.dual, with the parameters that tests, tables and benches use.
NONLINEARITIES: dict[str, tuple[Callable[..., Nonlinearity], tuple[float, ...]]] = {
    "relu": (Relu, ()),
    "leaky_relu": (LeakyRelu, (0.1,)),
    "abrelu": (ABRelu, (-0.3, 2.0)),
    "abs": (Abs, ()),
    "erf": (Erf, ()),
}

# By the op's name: the class that defines it, ABRelu for Relu.
_BY_DUAL: dict[str, type[Nonlinearity]] = {
    vars(kind)["dual_name"]: kind
    for make, args in NONLINEARITIES.values()
    for kind in type(make(*args)).__mro__
    if "dual_name" in vars(kind)
}


def of_dual(name: str, params: Sequence[float]) -> Nonlinearity:
    """The bare nonlinearity of a dual op."""
    return _BY_DUAL[name](*params)


def is_homogeneous(op: Op) -> bool:
    """Whether an op's output, and its NTK's part, scale with its inputs: no biases, no curved function."""
    if op.name in ("dense", "conv"):
        return op.kind == "plain"
    return _BY_DUAL[op.name].homogeneous if op.name in _BY_DUAL else True


def is_positive(name: str) -> bool:
    """Whether a dual op's covariances are never negative."""
    return _BY_DUAL[name].positive
