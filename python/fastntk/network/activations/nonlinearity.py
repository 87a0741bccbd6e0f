"""What a nonlinearity is: phi, its variance map, what its dual needs of one input, and its dual; and their registry.

For ``(u, v) ~ N(0, [[q11, q12], [q12, q22]])`` the dual is ``k = E phi(u) phi(v)``, ``kdot = E phi'(u) phi'(v)``. Both
are written in terms of the signed defect, ``1 - rho`` for ``rho = q12 / sqrt(q11 q22) >= 0``, else ``-(1 + rho)``: it
keeps its digits where ``rho`` rounds to 1 or -1, and near there ``kdot ~ 1 - sqrt(2 (1 - rho)) / pi``, so an error of
1e-7 in ``rho`` would become 1e-4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from ...base.jet import Jet, slope_of, value_of
from ..layer import Layer, Shape
from ..maps import Attention
from ..program import WEIGHTED, Builder, Op, Value, Values

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


@dataclass(frozen=True)
class Nonlinearity(Layer):
    """Base: a subclass gives what stands below of the bare phi; :func:`registered` gives it a name.

    The layer is ``a phi(b x) + c`` with ``affine = (a, b, c)``; its compiled text is the struct of that ``dual_name``
    in ``csrc/math/duals/``.
    """

    dual_name: ClassVar[str]
    row_names: ClassVar[tuple[str, ...]] = ()  # what `pair` reads of one input, in the struct's order
    positive: ClassVar[bool] = False  # the dual is never negative
    homogeneous: ClassVar[bool] = False  # phi(c x) = c phi(x) for c > 0
    cheap: ClassVar[bool] = False  # few enough instructions to be done in the same pass as a 3 x 3 window
    # Parameters are counted at run time (csrc/math/counted/) and do not say all: the op keeps the layer beside them.
    counted: ClassVar[bool] = False
    compiled: ClassVar[bool] = True  # `pair` has a struct; else NumPy's engine alone computes it
    takes_jets: ClassVar[bool] = False  # though not compiled: `rows`, `variance`, `pair` of numbers with derivatives
    jumps: ClassVar[bool] = False  # phi has a step, whose derivative counts as 0: kdot is not the slope of k

    @classmethod
    def names_of_rows(cls, n_params: int) -> tuple[str, ...]:
        """Names of what `pair` reads of one input, where the struct is made of so many parameters."""
        return cls.row_names

    @property
    def affine(self) -> tuple[float, float, float]:
        return 1.0, 1.0, 0.0

    @property
    def dual_params(self) -> tuple[float, ...]:
        """What the struct is made of."""
        return ()

    @property
    def bare(self) -> Nonlinearity:
        """The nonlinearity whose struct computes phi: itself, unless its arguments are those of a simpler one."""
        return self

    @property
    def rough(self) -> bool:
        """Whether float32 would lose too many digits, so that float64 is to stand for it."""
        return False

    @property
    def largest_variance(self) -> float:
        """Of an input of the layer, up to which its output's is a number; beyond it `variance` raises."""
        return math.inf

    def phi(self, x: Any, xp: Any) -> Any:
        """The function itself, for arrays of the library ``xp``."""
        raise NotImplementedError

    def variance(self, q: Array, xp: Any = np) -> Array:
        """``E phi(sqrt(q) z)^2``, z standard normal, for variances q in arrays of the library ``xp``."""
        raise NotImplementedError

    def mean(self, q: Array, xp: Any = np) -> Array:
        """``E phi(sqrt(q) z)``, for variances q in arrays of the library ``xp``: 0 of odd functions, others say."""
        found: Array = xp.zeros_like(q)
        return found

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        """What `pair` needs of one input of variance q, by ``row_names``."""
        return {}

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        """``(v', rho', kdot)`` of the outputs: the dual, normalised by ``sqrt(V(q11) V(q22))``, and its defect.

        ``x1``, ``x2``: the rows of both inputs as attributes, shaped to broadcast.
        """
        raise NotImplementedError

    def exact(self, q11: Any, q12: Any, q22: Any, mp: Any) -> tuple[Any, Any]:
        """``(k, kdot)`` in covariances, as published: what tests evaluate in many digits, ``mp`` a context of mpmath.

        ``|q12| <= sqrt(q11 q22)``, no variance is 0. Arithmetic and functions of ``mp`` alone, no branch on a number:
        tests give arrays too. Rounded covariances lose digits in it near ``rho = 1``, so nothing else uses it.
        """
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
        bare = self.bare
        mean = "" if type(bare).mean is Nonlinearity.mean else "known"
        kept = bare if bare.counted else None
        value = builder.emit(bare.dual_name, value, params=bare.dual_params, layer=kept, gaussian=False, mean=mean)
        if (a, c) != (1, 0):
            lost = c != 0 or (mean and a < 0)  # squares have no sign
            value = builder.emit("dense", value, params=(a**2, c**2, 0, 0), mean="unknown" if lost else mean)
        return value


def split(x: Array) -> tuple[Array, Array]:
    """``(high, low)``, of sum x, high of float32's 24 digits.

    For rows that pairs take differences of: ``(high - high') + (low - low')`` keeps in float32 what lies between its
    numbers.
    """
    t = 536870913.0 * x  # 2^29 + 1: Dekker 1971
    high = t - (t - x)
    return high, x - high


def derivative(layer: Any, x: Array) -> Array:
    """phi' of NumPy's numbers: the layer's ``dphi``, or what its text gives for numbers that carry derivatives."""
    own = getattr(layer, "dphi", None) if getattr(layer, "dfn", True) is not None else None
    if own is not None:
        return np.asarray(own(x, np))
    found = layer.apply((), Jet(x, {"x": np.ones_like(x)}), np)
    return np.broadcast_to(slope_of(found, "x"), x.shape)


_WAITED_FOR: ContextVar[bool] = ContextVar("waited for", default=False)


@contextmanager
def waited_for() -> Iterator[None]:
    """For a caller in host memory, who waits for results: what lies on a device is looked at too."""
    token = _WAITED_FOR.set(True)
    try:
        yield
    finally:
        _WAITED_FOR.reset(token)


def unseen(q: Any) -> bool:
    """Whether an array lies on a device, where to look at a number would be to wait for it."""
    return hasattr(q, "__cuda_array_interface__") and not _WAITED_FOR.get()


def within(layer: Nonlinearity, q: Array, rule: str) -> Array:
    """Variances as they are; ValueError where one is above ``layer.largest_variance``, which follows from ``rule``.

    On a device nobody looks, unless the caller's arrays are the host's: there results are infinite or NaN.
    """
    values = value_of(q)
    beyond = values > layer.largest_variance
    if not unseen(values) and bool(beyond.any()):
        raise ValueError(
            f"[{type(layer).__name__}] the variance of an input is {float(values[beyond].max()):.6g}, at most "
            f"{layer.largest_variance:.6g} is allowed: {rule}; given {layer}"
        )
    return q


def of_input(rows: Mapping[str, Array], place: Any = ...) -> Any:
    """Rows as the attributes that `pair` reads; ``place``: which entries, or a new shape."""
    return SimpleNamespace(**{name: row[place] for name, row in rows.items()})


# ---------------------------------------------------------------- the registry

# Every nonlinearity once, by its name in fastntk.dual, with the parameters that tests, tables and benches use.
NONLINEARITIES: dict[str, tuple[Callable[..., Nonlinearity], tuple[Any, ...]]] = {}

# By the op's name: the class that defines it, ABRelu for LeakyRelu.
_BY_DUAL: dict[str, type[Nonlinearity]] = {}

Kind = TypeVar("Kind", bound=type[Nonlinearity])


def registered(name: str, *args: Any) -> Callable[[Kind], Kind]:
    """Decorator: a class by its name in ``fastntk.dual``, and the arguments of its example."""

    def register(kind: Kind) -> Kind:
        NONLINEARITIES[name] = kind, args
        for base in kind.__mro__:
            if "dual_name" in vars(base):
                defines_dual(base)
        return kind

    return register


def defines_dual(kind: Kind) -> Kind:
    """Decorator: a class that defines a dual op; of a registered class and what it is derived from it is known."""
    _BY_DUAL.setdefault(vars(kind)["dual_name"], kind)
    return kind


def of_dual(name: str, params: Sequence[float]) -> Nonlinearity:
    """The bare nonlinearity of a dual op."""
    return _BY_DUAL[name](*params)


@lru_cache(maxsize=1024)
def bare_of(name: str, numbers: tuple[float, ...], layer: Nonlinearity | None = None) -> Nonlinearity:
    """The same, as many objects as there are different ones; ``layer``: what the op keeps."""
    return of_dual(name, numbers) if layer is None else layer


def of_op(op: Op, numbers: Sequence[float]) -> Nonlinearity:
    """The bare nonlinearity of an op with its own numbers."""
    layer: Nonlinearity = op.layer if op.layer is not None else of_dual(op.name, numbers)
    return layer


def is_dual(name: str) -> bool:
    """Whether an op is a nonlinearity's."""
    return name in _BY_DUAL


def row_names_of_dual(name: str, n_params: int) -> tuple[str, ...]:
    """What a dual op with so many parameters reads of one input."""
    return _BY_DUAL[name].names_of_rows(n_params)


def is_homogeneous(op: Op) -> bool:
    """Whether an op's output, and its NTK's part, scale with its inputs: no biases, no curved function."""
    if op.name in WEIGHTED:
        return op.kind == "plain"
    if op.name in _BY_DUAL:
        return _BY_DUAL[op.name].homogeneous
    return op.name not in ("norm", "product", "embed") and not isinstance(op.map, Attention)


def is_positive(name: str) -> bool:
    """Whether a dual op's covariances are never negative."""
    return _BY_DUAL[name].positive
