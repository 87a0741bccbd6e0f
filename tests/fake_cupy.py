"""CuPy's manners without a GPU: arrays that compute like NumPy's and refuse to meet NumPy arrays.

For code that must run on either: what CuPy refuses is refused here (implicit conversion, mixtures, arguments that its
functions lack), a failing Cholesky gives NaN as there. Speed and rounding of a GPU are not shown.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

MISSING = {"max": {"initial", "where"}, "min": {"initial", "where"}, "sum": {"initial", "where"}}


def refuse(values: Any) -> None:
    if isinstance(values, np.ndarray) and values.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(values, (tuple, list)):
        for value in values:
            refuse(value)


def strip(value: Any) -> Any:
    refuse(value)
    if isinstance(value, ndarray):
        return value.values
    if isinstance(value, (tuple, list)):
        return type(value)(map(strip, value))
    return value


def dress(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return ndarray(np.asarray(value))
    return tuple(map(dress, value)) if isinstance(value, tuple) else value


def checked(name: str, function: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        if unknown := MISSING.get(name, set()) & set(kwargs):
            raise TypeError(f"{name}() got an unexpected keyword argument {unknown}")
        return dress(function(*map(strip, args), **{key: strip(value) for key, value in kwargs.items()}))

    return call


class ndarray(NDArrayOperatorsMixin):
    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = (), **kwargs: Any) -> Any:
        if out:
            getattr(ufunc, method)(*map(strip, inputs), out=strip(out), **kwargs)
            return out[0]
        return dress(getattr(ufunc, method)(*map(strip, inputs), **kwargs))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return checked(function.__name__, function)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.values, name)
        return checked(name, found) if callable(found) else dress(found) if name == "T" else found

    def __getitem__(self, at: Any) -> Any:
        return dress(self.values[strip(at)])

    def __setitem__(self, at: Any, value: Any) -> None:
        self.values[strip(at)] = strip(value)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Any:
        return iter([dress(value) for value in self.values])

    def __float__(self) -> float:
        return float(self.values)

    def __int__(self) -> int:
        return int(self.values)

    def __bool__(self) -> bool:
        return bool(self.values)

    def get(self) -> np.ndarray:
        return self.values.copy()


ndarray.__module__ = "cupy"


class Module(ModuleType):
    def __init__(self, name: str, library: Any) -> None:
        super().__init__(name)
        self.library = library

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.library, name)
        return checked(name, found) if callable(found) and not isinstance(found, type) else found


def cholesky(a: ndarray) -> ndarray:
    try:
        return dress(np.linalg.cholesky(strip(a)))
    except np.linalg.LinAlgError:
        return dress(np.full(a.shape, np.nan, a.dtype))


def moved(values: Any, dtype: Any = None, **kwargs: Any) -> ndarray:
    return dress(np.array(values.values if isinstance(values, ndarray) else values, dtype, **kwargs))


def install(monkeypatch: Any) -> Any:
    """The module ``cupy``, importable for the rest of the test."""
    import scipy.linalg

    cupy = Module("cupy", np)
    cupy.asarray = cupy.array = moved  # the doors through which NumPy arrays may come
    cupy.linalg = Module("cupy.linalg", np.linalg)
    cupy.linalg.cholesky = cholesky
    cupyx, scipy_, linalg = ModuleType("cupyx"), ModuleType("cupyx.scipy"), Module("cupyx.scipy.linalg", scipy.linalg)
    for module in (cupy, cupyx, scipy_, linalg):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return cupy
