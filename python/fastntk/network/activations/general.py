"""Functions without closed form: any that a user writes, and the common ones by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ...base.arraylike import describe
from ...base.checks import finite
from ...base.libraries import of_user
from ..kinks import Kink, kinks_of
from .fitted import General

__all__ = [
    "CELU", "ELU", "SELU", "Activation", "Arctan", "Clip", "ElementwiseNumerical", "Elu", "HardTanh", "Mish", "ReLU6",
    "Relu6", "SiLU", "Sigmoid", "Softplus", "Softsign", "Swish", "Tanh",
]  # fmt: skip

# By name, for fastntk.meanfield, quadrature and the others: classes that need no arguments.
GENERAL: dict[str, type[General]] = {}


def _named(*names: str) -> Callable[[type[General]], type[General]]:
    def register(kind: type[General]) -> type[General]:
        for name in names:
            GENERAL[name] = kind
        return kind

    return register


# ---------------------------------------------------------------- a user's own


@dataclass(frozen=True)
class Activation(General):
    """Any function of one number: ``fn`` applied to every entry.

    Parameters
    ----------
    fn : callable
        From an array to an array of its shape, of NumPy (float64) for kernels, of the inputs' library in
        ``apply_fn``; a second argument named ``xp`` gets that library, and functions of JAX's or PyTorch's are run on
        arrays of theirs in float64. Smooth, with a kink at 0, or of straight
        pieces with kinks anywhere; varying on a scale of about 1 or more; growing less than ``exp(x^2 / (4 q))``, q
        the largest variance of an input.
    dfn : callable, optional
        Its derivative, where :mod:`fastntk.meanfield` and others of the theories need one. Kernels need none.
    name : str, optional
        What errors call it.
    breaks : sequence of float, optional
        Where it has kinks; found, up to ``|x| = 32``, where not given.

    Raises
    ------
    TypeError, ValueError
        A function that does not take arrays, is not real, not finite on [-1, 1], or of float32; a ``dfn`` that is not
        its derivative. In a call of the kernel function, one that jumps, ``breaks`` that leave kinks out, or where it
        is not finite, grows too fast, or varies too fast for the variances that come.

    Notes
    -----
    ``k = sum_l a_l(q11) a_l(q22) rho^l`` with ``a_l(q) = E fn(sqrt(q) z) h_l(z)``, by as few terms as are right
    for all variances up to a power of 4 that holds those of the call: made once for each such range, in 10 ms to a
    second, and kept (:meth:`fit` shows it). Where all inputs have one variance, by polynomials of the correlation. A
    kink at 0 adds closed forms; functions of straight pieces are closed forms alone; kinks of curved functions
    elsewhere are integrals over the angle (pieces that are polynomials) or the plane, by NumPy alone unless all inputs
    have one variance. Two calls whose
    variances lie in different ranges may differ by the fit's error, 3e-7 of kdot in float32, 5e-13 in float64.

    References
    ----------
    Daniely, Frostig and Singer (2016), arXiv:1602.05897, section 4 (the series). The rest is derived in
    ``network/short_series.py``.
    """

    fn: Callable[..., Any]
    dfn: Callable[..., Any] | None = None
    name: str | None = None
    breaks: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for label in ("fn", "dfn"):
            given = getattr(self, label)
            if not callable(given) and not (label == "dfn" and given is None):
                raise TypeError(f"[{self._kind}] {label} must be a function of an array, given {describe(given)}")
        if self.name is not None and not isinstance(self.name, str):
            raise TypeError(f"[{self._kind}] name must be a str, given {describe(self.name)}")
        if self.breaks is not None:
            given = [self.breaks] if isinstance(self.breaks, (int, float)) else list(self.breaks)
            places = sorted(finite(self._kind, f"breaks[{k}]", place) for k, place in enumerate(given))
            object.__setattr__(self, "breaks", tuple(places))
        for label, f in (("fn", self.phi), ("dfn", self.dphi if self.dfn else None)):
            if f is not None:
                check_function(f, label, self.label)
        if self.dfn is not None:
            self._check_derivative()

    def _check_derivative(self) -> None:
        """Refuse another function's derivative, by differences of fn between kinks."""
        x, step = np.linspace(-1.9, 1.9, 14) + 0.0137, 1e-5
        with np.errstate(all="ignore"):
            given = np.asarray(self.dphi(x), dtype=np.float64)
            low, middle, high = (np.asarray(self.phi(x + k * step), dtype=np.float64) for k in (-1, 0, 1))
            sides = (middle - low) / step, (high - middle) / step
            wrong = np.minimum(*(np.abs(side - given) for side in sides)) > 1e-3 * (1 + np.abs(given))
        smooth = np.abs(sides[0] - sides[1]) <= 1e-3 * (1 + np.abs(sides[0]))
        if (wrong & smooth).any():
            at = int(np.argmax(wrong & smooth))
            raise ValueError(
                f"[{self.label}] dfn must be the derivative of fn, given {given[at]:.6g} at x = {x[at]:.6g}, where fn "
                f"has the slope {sides[0][at]:.6g}"
            )

    @property
    def _kind(self) -> str:
        return f"stax.{type(self).__name__}"

    @property
    def label(self) -> str:
        own = self.name or getattr(self.fn, "__name__", "")
        return self._kind if own in ("", "<lambda>") else f"{self._kind} {own}"

    @staticmethod
    def call(fn: Callable[..., Any], x: Any, xp: Any) -> Any:
        """A user's function of arrays of the library ``xp``, which it may ask for."""
        if _takes_xp(fn):
            return fn(x, xp=xp)
        return of_user(fn, x) if xp is np else fn(x)

    def kinks(self) -> tuple[Kink, ...]:
        return _kinks_of(self)

    def phi(self, x: Any, xp: Any = np) -> Any:
        return self.call(self.fn, x, xp)

    def dphi(self, x: Any, xp: Any = np) -> Any:
        """The derivative."""
        if self.dfn is None:
            raise TypeError(f"[{self.label}] its derivative is needed here: give it by dfn=")
        return self.call(self.dfn, x, xp)


@dataclass(frozen=True)
class ElementwiseNumerical(Activation):
    """Neural Tangents' layer of any function: :class:`Activation`, exact where that has a quadrature of degree ``deg``.

    Parameters
    ----------
    fn, df : callable
        As ``fn`` and ``dfn`` of :class:`Activation`.
    deg : int
        Accepted for compatibility and without effect: the accuracy is that of every layer.
    """

    deg: int = 0

    def __init__(self, fn: Callable[..., Any], deg: int = 0, df: Callable[..., Any] | None = None) -> None:
        for label, value in (("fn", fn), ("dfn", df), ("name", None), ("breaks", None), ("deg", deg)):
            object.__setattr__(self, label, value)
        if isinstance(deg, (bool, np.bool_)) or not isinstance(deg, (int, np.integer)) or deg < 0:
            raise ValueError(f"[{self._kind}] deg must be a positive integer, given {deg!r}")
        super().__post_init__()

    @property
    def df(self) -> Callable[..., Any] | None:
        """The derivative, by the name that it was given by."""
        return self.dfn


@lru_cache(maxsize=256)
def _takes_xp(fn: Callable[..., Any]) -> bool:
    try:
        return "xp" in inspect.signature(fn).parameters
    except (TypeError, ValueError):  # of a ufunc, say
        return False


@lru_cache(maxsize=256)
def _kinks_of(layer: Activation) -> tuple[Kink, ...]:
    return kinks_of(layer.smooth_phi, layer.breaks, layer.label)


def check_function(f: Callable[..., Any], label: str, what: str) -> None:
    """Refuse what is no function of each entry alone."""
    x = np.linspace(-1.0, 1.0, 12)[[7, 2, 11, 4, 0, 9, 5, 1, 10, 3, 8, 6]].reshape(3, 4) + 0.0137
    try:
        with np.errstate(all="ignore"):
            y = np.asarray(f(x.copy()))
            other = np.asarray(f(x[::-1].T.copy()))
            part = np.asarray(f(x[:2].copy()))
    except Exception as error:
        raise TypeError(
            f"[{what}] {label} must take an array and give one of its shape; given one of shape {x.shape} it raised "
            f"{type(error).__name__}: {error}"
        ) from error
    if y.shape != x.shape or y.dtype.kind not in "fiub":
        raise TypeError(
            f"[{what}] {label} must give real numbers of its argument's shape {x.shape}, given {y.dtype} {y.shape}"
        )
    if y.dtype.kind == "f" and y.dtype.itemsize < 8:
        raise TypeError(
            f"[{what}] {label} must keep float64, given {y.dtype}: kernels are made of more digits than it has"
        )
    if not np.isfinite(y).all():
        at = np.unravel_index(int(np.argmax(~np.isfinite(y))), y.shape)
        raise ValueError(f"[{what}] {label} must be finite, given {y[at]} at x = {x[at]:.6g}")
    apart = np.abs(other.T[::-1] - y) if other.shape == x.T.shape else np.full(y.shape, np.inf)
    apart[:2] = np.maximum(apart[:2], np.abs(part - y[:2]) if part.shape == (2, 4) else np.inf)
    if not (apart <= 1e-12 * np.maximum(1.0, np.abs(y))).all():
        at = np.unravel_index(int(np.argmax(apart)), y.shape)
        raise ValueError(
            f"[{what}] {label} must act on each entry alone, given {y[at]} for x = {x[at]:.6g}, and another number "
            "where it stands among others"
        )


# ---------------------------------------------------------------- the common ones


def _smaller(x: Any, bound: float, xp: Any) -> Any:
    return xp.where(x < bound, x, bound * xp.ones_like(x))


def _sigmoid(x: Any, xp: Any) -> Any:
    e = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, xp.ones_like(x), e) / (1 + e)


def _softplus(x: Any, xp: Any) -> Any:
    return xp.where(x > 0, x, xp.zeros_like(x)) + xp.log1p(xp.exp(-xp.abs(x)))


@_named("tanh")
@dataclass(frozen=True)
class Tanh(General):
    """``tanh x``: see :class:`Activation` for how its kernels are made."""

    def phi(self, x: Any, xp: Any = np) -> Any:
        return xp.tanh(x)

    def dphi(self, x: Any, xp: Any = np) -> Any:
        """The derivative."""
        e = xp.exp(-2 * xp.abs(x))  # cosh would overflow, 1 - tanh^2 cancels
        return 4 * e / (1 + e) ** 2


@_named("sigmoid")
@dataclass(frozen=True)
class Sigmoid(General):
    """``1 / (1 + exp(-x))``: see :class:`Activation`. (Neural Tangents has ``Sigmoid_like``, an error function.)"""

    def phi(self, x: Any, xp: Any = np) -> Any:
        return _sigmoid(x, xp)

    def dphi(self, x: Any, xp: Any = np) -> Any:
        """The derivative."""
        e = xp.exp(-xp.abs(x))
        return e / (1 + e) ** 2


@_named("softplus")
@dataclass(frozen=True)
class Softplus(General):
    """``log(1 + exp(x))``: see :class:`Activation`."""

    def phi(self, x: Any, xp: Any = np) -> Any:
        return _softplus(x, xp)

    def dphi(self, x: Any, xp: Any = np) -> Any:
        """The derivative."""
        return _sigmoid(x, xp)


@_named("swish", "silu")
@dataclass(frozen=True)
class Swish(General):
    """``x / (1 + exp(-x))``, also called SiLU: see :class:`Activation`."""

    def phi(self, x: Any, xp: Any = np) -> Any:
        return x * _sigmoid(x, xp)

    def dphi(self, x: Any, xp: Any = np) -> Any:
        """The derivative."""
        own = _sigmoid(x, xp)
        return own * (1 + x * _sigmoid(-x, xp))


@_named("mish")
@dataclass(frozen=True)
class Mish(General):
    """``x tanh(log(1 + exp(x)))``: see :class:`Activation`."""

    def phi(self, x: Any, xp: Any = np) -> Any:
        return x * xp.tanh(_softplus(x, xp))

    def dphi(self, x: Any, xp: Any = np) -> Any:
        """The derivative."""
        t = xp.tanh(_softplus(x, xp))
        return t + x * (1 - t) * (1 + t) * _sigmoid(x, xp)


@_named("arctan")
@dataclass(frozen=True)
class Arctan(General):
    """``arctan x``: see :class:`Activation`."""

    def phi(self, x: Any, xp: Any = np) -> Any:
        return xp.arctan(x) if hasattr(xp, "arctan") else xp.atan(x)

    def dphi(self, x: Any, xp: Any = np) -> Any:
        """The derivative."""
        return 1 / (1 + x * x)


@_named("softsign")
@dataclass(frozen=True)
class Softsign(General):
    """``x / (1 + |x|)``: see :class:`Activation`."""

    def kinks(self) -> tuple[Kink, ...]:
        return (Kink(0.0, 0.0, -4.0, 0.0, -48.0),)

    def phi(self, x: Any, xp: Any = np) -> Any:
        return x / (1 + xp.abs(x))

    def dphi(self, x: Any, xp: Any = np) -> Any:
        """The derivative."""
        return 1 / (1 + xp.abs(x)) ** 2


@dataclass(frozen=True)
class _ExponentialLinear(General):
    """``scale x`` above 0, ``scale alpha (exp(x / width) - 1)`` below."""

    def _constants(self) -> tuple[float, float, float]:
        raise NotImplementedError

    def kinks(self) -> tuple[Kink, ...]:
        scale, alpha, width = self._constants()
        first, bent = scale * (1 - alpha / width), -scale * alpha
        return (Kink(0.0, first, bent / width**2, bent / width**3, bent / width**4),) if first or bent else ()

    def phi(self, x: Any, xp: Any = np) -> Any:
        scale, alpha, width = self._constants()
        below = alpha * xp.expm1(_smaller(x, 0.0, xp) / width)
        return scale * xp.where(x > 0, x, below)

    def dphi(self, x: Any, xp: Any = np) -> Any:
        """The derivative."""
        scale, alpha, width = self._constants()
        below = alpha / width * xp.exp(_smaller(x, 0.0, xp) / width)
        return scale * xp.where(x > 0, xp.ones_like(x), below)


@_named("elu")
@dataclass(frozen=True)
class Elu(_ExponentialLinear):
    """``x`` above 0, ``alpha (exp(x) - 1)`` below: see :class:`Activation`.

    Parameters
    ----------
    alpha : float
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", finite("Elu", "alpha", self.alpha))

    def _constants(self) -> tuple[float, float, float]:
        return 1.0, self.alpha, 1.0


@_named("selu")
@dataclass(frozen=True)
class SELU(_ExponentialLinear):
    """``1.0507 x`` above 0, ``1.7581 (exp(x) - 1)`` below, which keep variance 1: see :class:`Activation`.

    References
    ----------
    Klambauer, Unterthiner, Mayr and Hochreiter (2017), arXiv:1706.02515.
    """

    def _constants(self) -> tuple[float, float, float]:
        return 1.0507009873554804934193349852946, 1.6732632423543772848170429916717, 1.0


@_named("celu")
@dataclass(frozen=True)
class CELU(_ExponentialLinear):
    """``x`` above 0, ``alpha (exp(x / alpha) - 1)`` below: see :class:`Activation`.

    Parameters
    ----------
    alpha : float
        Not 0.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        found = finite("CELU", "alpha", self.alpha)
        if not found > 0:
            raise ValueError(f"[CELU] alpha must be positive, given {self.alpha}")
        object.__setattr__(self, "alpha", found)

    def _constants(self) -> tuple[float, float, float]:
        return 1.0, self.alpha, self.alpha


@_named("hard_tanh", "hardtanh", "clip")
@dataclass(frozen=True)
class HardTanh(General):
    """``min(max(x, low), high)``: see :class:`Activation`.

    Parameters
    ----------
    low, high : float
        The least and the largest value.
    """

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        for label in ("low", "high"):
            object.__setattr__(self, label, finite("HardTanh", label, getattr(self, label)))
        if not self.low < self.high:
            raise ValueError(f"[HardTanh] low must be below high, given {self.low} and {self.high}")

    def kinks(self) -> tuple[Kink, ...]:
        return Kink(self.low, 1.0), Kink(self.high, -1.0)

    def phi(self, x: Any, xp: Any = np) -> Any:
        low, high = self.low * xp.ones_like(x), self.high * xp.ones_like(x)
        return xp.where(x < low, low, xp.where(x > high, high, x))

    def dphi(self, x: Any, xp: Any = np) -> Any:
        """The derivative."""
        return xp.where((x > self.low) & (x < self.high), xp.ones_like(x), xp.zeros_like(x))


@_named("relu6")
@dataclass(frozen=True, init=False)
class ReLU6(HardTanh):
    """``min(max(x, 0), 6)``: see :class:`Activation`."""

    def __init__(self) -> None:
        super().__init__(0.0, 6.0)


Clip, ELU, SiLU, Relu6 = HardTanh, Elu, Swish, ReLU6
