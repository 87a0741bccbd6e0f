"""Numbers that carry their partial derivatives: formulas written for NumPy's arrays give derivatives when run on them.

A :class:`Jet` goes through ufuncs and a few of NumPy's functions, and refuses all others: a derivative is never lost
silently. Where a slope is infinite (a root, a logarithm at 0) it counts as 0; ``numpy.where`` takes the slope of what
it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Rule = Callable[..., Any]


def over(a: Any, b: Any) -> Any:
    """``a / b``, 0 where b is 0."""
    b = np.asarray(b)
    zero = b == 0
    if not np.count_nonzero(zero):
        return a / b
    return np.where(zero, 0, a / np.where(zero, 1, b))


def _power(y: Any, a: Any, b: Any) -> Any:
    if np.ndim(b) == 0 and b >= 1:
        return b * a ** (b - 1)
    return b * over(y, a)


# Of each ufunc, by name (scipy.special has ufuncs of its own): its slope in each argument, from result and arguments.
_SLOPES: dict[str, tuple[Rule, ...]] = {
    "add": (lambda y, a, b: 1, lambda y, a, b: 1),
    "subtract": (lambda y, a, b: 1, lambda y, a, b: -1),
    "multiply": (lambda y, a, b: b, lambda y, a, b: a),
    "divide": (lambda y, a, b: 1 / b, lambda y, a, b: -y / b),
    "power": (_power, lambda y, a, b: y * np.log(a)),
    "float_power": (_power, lambda y, a, b: y * np.log(a)),
    "negative": (lambda y, a: -1,),
    "positive": (lambda y, a: 1,),
    "square": (lambda y, a: 2 * a,),
    "sqrt": (lambda y, a: over(0.5, y),),
    "cbrt": (lambda y, a: over(1, 3 * y * y),),
    "reciprocal": (lambda y, a: -y * y,),
    "exp": (lambda y, a: y,),
    "exp2": (lambda y, a: np.log(2.0) * y,),
    "expm1": (lambda y, a: np.exp(a),),
    "log": (lambda y, a: over(1, a),),
    "log1p": (lambda y, a: over(1, 1 + a),),
    "sin": (lambda y, a: np.cos(a),),
    "cos": (lambda y, a: -np.sin(a),),
    "tan": (lambda y, a: 1 + y * y,),
    "sinh": (lambda y, a: np.cosh(a),),
    "cosh": (lambda y, a: np.sinh(a),),
    "tanh": (lambda y, a: 1 - y * y,),
    "arcsin": (lambda y, a: over(1, np.sqrt((1 - a) * (1 + a))),),
    "arccos": (lambda y, a: -over(1, np.sqrt((1 - a) * (1 + a))),),
    "arctan": (lambda y, a: 1 / (1 + a * a),),
    "arctan2": (lambda y, a, b: over(b, a * a + b * b), lambda y, a, b: -over(a, a * a + b * b)),
    "hypot": (lambda y, a, b: over(a, y), lambda y, a, b: over(b, y)),
    "absolute": (lambda y, a: np.sign(a),),
    "fabs": (lambda y, a: np.sign(a),),
    "maximum": (lambda y, a, b: a >= b, lambda y, a, b: np.logical_not(a >= b)),
    "minimum": (lambda y, a, b: a <= b, lambda y, a, b: np.logical_not(a <= b)),
    "copysign": (lambda y, a, b: np.copysign(np.sign(a), b), lambda y, a, b: 0),
    "ldexp": (lambda y, a, b: np.ldexp(1.0, b),),
    "erf": (lambda y, a: 2 / np.sqrt(np.pi) * np.exp(-a * a),),
    "erfc": (lambda y, a: -2 / np.sqrt(np.pi) * np.exp(-a * a),),
    "erfcx": (lambda y, a: 2 * a * y - 2 / np.sqrt(np.pi),),
    "ndtr": (lambda y, a: np.exp(-a * a / 2) / np.sqrt(2 * np.pi),),
}

# Constant wherever they have a slope.
_STEPS = frozenset({
    "greater", "greater_equal", "less", "less_equal", "equal", "not_equal", "isnan", "isfinite", "isinf", "sign",
    "signbit", "floor", "ceil", "rint", "trunc", "logical_and", "logical_or", "logical_not", "frexp",
})  # fmt: skip


class Jet:
    """A number, or an array of them, with partial derivatives.

    Parameters
    ----------
    value : float or array
    slopes : mapping
        Derivatives by the name of what they are with respect to; arrays that broadcast with ``value``. A name that is
        missing has derivative 0.

    Notes
    -----
    A single number that has slopes equals no other number: ``if b != 1`` in a layer takes the general road, whose
    result has the same value and the slope too. Arrays compare by value, entry by entry.
    """

    __slots__ = ("slopes", "value")

    def __init__(self, value: Any, slopes: Mapping[Hashable, Any]) -> None:
        self.value = value
        self.slopes = dict(slopes)

    def __repr__(self) -> str:
        return f"Jet({self.value!r}, {self.slopes!r})"

    # ---- what an array has

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.value)

    @property
    def ndim(self) -> int:
        return np.ndim(self.value)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.asarray(self.value).dtype

    def _each(self, f: Callable[[Any], Any]) -> Jet:
        """A linear function that moves entries."""
        return Jet(f(self.value), {key: f(np.broadcast_to(s, self.shape)) for key, s in self.slopes.items()})

    def __getitem__(self, place: Any) -> Jet:
        return self._each(lambda a: a[place])

    def reshape(self, *shape: Any) -> Jet:
        return self._each(lambda a: a.reshape(*shape))

    def transpose(self, *axes: Any) -> Jet:
        return self._each(lambda a: a.transpose(*axes))

    @property
    def T(self) -> Jet:
        return self.transpose()

    def astype(self, dtype: Any, **_: Any) -> Jet:
        return self._each(lambda a: a.astype(dtype))

    def sum(self, axis: Any = None, **kwargs: Any) -> Jet:
        return self._each(lambda a: a.sum(axis=axis, **kwargs))

    def __len__(self) -> int:
        return len(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("[Jet] a number with derivatives does not convert to an array: they would be lost")

    __float__ = __int__ = __index__ = __array__  # math's functions ask for these

    # ---- arithmetic

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *args: Any, **kwargs: Any) -> Any:
        name = ufunc.__name__
        if method != "__call__" or kwargs or (name not in _SLOPES and name not in _STEPS and name != "matmul"):
            raise TypeError(f"[Jet] no derivative known of numpy's {name}.{method} with {sorted(kwargs)}")
        values = [a.value if isinstance(a, Jet) else a for a in args]
        y = ufunc(*values)
        if name in _STEPS:
            return y
        slopes: dict[Hashable, Any] = {}
        for k, a in enumerate(args):
            if not isinstance(a, Jet) or not a.slopes:
                continue
            if name == "matmul":
                parts = {key: a._spread(key) for key in a.slopes}
                found = {key: ufunc(s, values[1]) if k == 0 else ufunc(values[0], s) for key, s in parts.items()}
            else:
                slope = _SLOPES[name][k](y, *values)
                one = isinstance(slope, int) and slope == 1  # no array of ones is multiplied with
                found = a.slopes if one else {key: slope * s for key, s in a.slopes.items()}
            for key, s in found.items():
                slopes[key] = slopes[key] + s if key in slopes else s
        return Jet(y, slopes)

    def _spread(self, key: Hashable) -> Array:
        return np.broadcast_to(self.slopes.get(key, 0.0), self.shape)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func not in _FUNCTIONS:
            raise TypeError(f"[Jet] no derivative known of numpy.{func.__name__}")
        return _FUNCTIONS[func](*args, **kwargs)

    def _compare(self, other: Any, equal: bool) -> Any:
        if self.slopes and self.ndim == 0:
            return not equal
        return (np.equal if equal else np.not_equal)(self, other)

    def __eq__(self, other: object) -> Any:
        return self._compare(other, True)

    def __ne__(self, other: object) -> Any:
        return self._compare(other, False)

    __hash__ = object.__hash__

    def __lt__(self, other: Any) -> Any:
        return np.less(self, other)

    def __le__(self, other: Any) -> Any:
        return np.less_equal(self, other)

    def __gt__(self, other: Any) -> Any:
        return np.greater(self, other)

    def __ge__(self, other: Any) -> Any:
        return np.greater_equal(self, other)

    def __add__(self, other: Any) -> Any:
        return np.add(self, other)

    def __radd__(self, other: Any) -> Any:
        return np.add(other, self)

    def __sub__(self, other: Any) -> Any:
        return np.subtract(self, other)

    def __rsub__(self, other: Any) -> Any:
        return np.subtract(other, self)

    def __mul__(self, other: Any) -> Any:
        return np.multiply(self, other)

    def __rmul__(self, other: Any) -> Any:
        return np.multiply(other, self)

    def __truediv__(self, other: Any) -> Any:
        return np.divide(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return np.divide(other, self)

    def __pow__(self, other: Any) -> Any:
        return np.square(self) if np.ndim(other) == 0 and other == 2 else np.power(self, other)

    def __rpow__(self, other: Any) -> Any:
        return np.power(other, self)

    def __matmul__(self, other: Any) -> Any:
        return np.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return np.matmul(other, self)

    def __neg__(self) -> Any:
        return np.negative(self)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return np.absolute(self)


class Traced(Jet):
    """A layer's parameter whose value another library records: a JAX tracer, a tensor with gradients.

    Its place is held by 1. Equal to itself alone.
    """

    __slots__ = ("leaf",)

    def __init__(self, leaf: Any) -> None:
        super().__init__(1.0, {"traced": 1.0})
        self.leaf = leaf

    def __repr__(self) -> str:
        return f"Traced({self.leaf!r})"


def value_of(x: Any) -> Any:
    """A number without its derivatives."""
    return x.value if isinstance(x, Jet) else x


def slope_of(x: Any, key: Hashable) -> Any:
    """A partial derivative; 0.0 of what has none."""
    return x.slopes.get(key, 0.0) if isinstance(x, Jet) else 0.0


def _keys(*parts: Any) -> dict[Hashable, None]:
    return dict.fromkeys(key for part in parts if isinstance(part, Jet) for key in part.slopes)


def _where(condition: Any, a: Any, b: Any) -> Jet:
    slopes = {key: np.where(condition, slope_of(a, key), slope_of(b, key)) for key in _keys(a, b)}
    return Jet(np.where(condition, value_of(a), value_of(b)), slopes)


def _joined(func: Any) -> Callable[..., Jet]:
    def join(parts: Any, *args: Any, **kwargs: Any) -> Jet:
        values = [value_of(part) for part in parts]
        slopes = {
            key: func([np.broadcast_to(slope_of(p, key), np.shape(v)) for p, v in zip(parts, values, strict=True)],
                      *args, **kwargs)
            for key in _keys(*parts)
        }  # fmt: skip
        return Jet(func(values, *args, **kwargs), slopes)

    return join


def _einsum(text: str, *operands: Any) -> Jet:
    values = [value_of(a) for a in operands]
    slopes = {}
    for key in _keys(*operands):
        parts = []
        for k, a in enumerate(operands):
            if isinstance(a, Jet) and key in a.slopes:
                parts.append(np.einsum(text, *values[:k], np.broadcast_to(a.slopes[key], a.shape), *values[k + 1 :]))
        slopes[key] = sum(parts)
    return Jet(np.einsum(text, *values), slopes)


def _moving(func: Any) -> Callable[..., Jet]:
    return lambda a, *args, **kwargs: a._each(lambda x: func(x, *args, **kwargs))


def _constant(func: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: func(*(value_of(a) for a in args), **kwargs)


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.where: _where,
    np.einsum: _einsum,
    np.clip: lambda a, low, high: np.minimum(np.maximum(a, low), high),
    np.shape: lambda a: a.shape,
    np.ndim: lambda a: a.ndim,
    np.iscomplexobj: lambda a: False,
}
_MOVING: tuple[Any, ...] = (
    np.sum, np.mean, np.broadcast_to, np.reshape, np.transpose, np.expand_dims, np.squeeze, np.moveaxis,
)  # fmt: skip
_JOINING: tuple[Any, ...] = (np.stack, np.concatenate)
_OF_VALUES: tuple[Any, ...] = (np.zeros_like, np.ones_like, np.full_like, np.empty_like, np.result_type)
_FUNCTIONS |= {func: _moving(func) for func in _MOVING}
_FUNCTIONS |= {func: _joined(func) for func in _JOINING}
_FUNCTIONS |= {func: _constant(func) for func in _OF_VALUES}
