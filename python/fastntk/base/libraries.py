"""Other libraries: their arrays in the finite networks of ``apply_fn``, their functions on NumPy's arrays."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from .arraylike import describe as describe
from .arraylike import library_of

Array = npt.NDArray[Any]

_JAX = ("jax", "jaxlib")  # packages that its arrays' classes come from


# ---------------------------------------------------------------- functions of other libraries, on NumPy's arrays


def jax_in_float64() -> AbstractContextManager[Any]:
    """JAX with 64 bits, whatever the program's own setting."""
    import jax

    if hasattr(jax, "enable_x64"):
        found: AbstractContextManager[Any] = jax.enable_x64(True)
        return found
    from jax.experimental import enable_x64  # its place before 0.8

    earlier: AbstractContextManager[Any] = enable_x64(True)
    return earlier


def of_user(fn: Callable[..., Any], *arrays: Any, **keywords: Any) -> Any:
    """A user's function of NumPy arrays, which may be made of JAX's or PyTorch's functions: in float64 there, too."""
    try:
        with jax_in_float64() if "jax" in sys.modules else nullcontext():
            found = fn(*arrays, **keywords)
            return np.asarray(found) if library_of(found) in _JAX else found
    except (TypeError, AttributeError):
        if "torch" not in sys.modules or not all(isinstance(a, np.ndarray) for a in arrays):
            raise
        torch = sys.modules["torch"]
        try:
            with torch.no_grad():
                found = fn(*(torch.from_numpy(np.array(a)) for a in arrays), **keywords)
        except (TypeError, AttributeError):
            found = None
        if library_of(found) != "torch":
            raise
        return found.numpy()


def gives_jax(fn: Callable[..., Any], *arrays: Any) -> bool:
    """Whether a function of NumPy arrays is one of JAX's, as what it gives says."""
    if "jax" not in sys.modules:
        return False
    with jax_in_float64():
        return library_of(fn(*arrays)) in _JAX


def slope_by_jax(fn: Callable[..., Any], x: Any, *others: Any) -> Any:
    """The derivative of a function of JAX's, entry by entry, in its first argument: in float64, as NumPy's."""
    import jax

    with jax_in_float64():
        x = jax.numpy.asarray(x)
        return np.asarray(jax.jvp(lambda x: fn(x, *others), (x,), (jax.numpy.ones_like(x),))[1])


# ---------------------------------------------------------------- other libraries, for apply_fn


def _first(x: Any) -> Any:
    while isinstance(x, (tuple, list)) and x:
        x = x[0]
    return x


def library(x: Any) -> Any:
    """The array library of ``x`` (or of the first array of a tuple), as an array-API namespace."""
    x = _first(x)
    if isinstance(x, np.ndarray):
        return np
    try:
        from array_api_compat import array_namespace
    except ImportError as error:
        raise ImportError(
            f"apply_fn on {describe(x)} needs the package array-api-compat (pip install 'fastntk[arrays]')"
        ) from error
    try:
        found = array_namespace(x)
    except TypeError:
        raise TypeError(
            f"[apply_fn] inputs must be arrays of NumPy, CuPy, PyTorch or JAX, given {describe(x)}"
        ) from None
    return _Torch(found) if found.__name__ == "array_api_compat.torch" else found


class _Torch:
    """PyTorch's namespace, for ``torch.func`` too: its vmap has a rule for ``movedim``, and none for ``moveaxis``."""

    def __init__(self, xp: Any) -> None:
        self._xp, self.__name__ = xp, xp.__name__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._xp, name)

    def moveaxis(self, x: Any, source: Any, destination: Any) -> Any:
        return self._xp.movedim(x, source, destination)


def to_library(params: Any, inputs: Any, xp: Any) -> Any:
    """NumPy parameters as arrays of ``xp``, on the inputs' device; others as they are."""
    if params is None or isinstance(params, (tuple, list)):
        return params if params is None else tuple(to_library(p, inputs, xp) for p in params)
    if xp is np and not isinstance(params, np.ndarray):
        raise TypeError(f"[apply_fn] inputs are NumPy arrays, params must be too, given {describe(params)}")
    if xp is np or not isinstance(params, np.ndarray):
        return params
    from array_api_compat import device

    return xp.asarray(params, device=device(_first(inputs)))


def placed(x: Any) -> dict[str, Any]:
    """Keyword that puts a new array on the device of ``x``."""
    if isinstance(x, np.ndarray):
        return {}
    from array_api_compat import device

    return {"device": device(x)}


def erf(x: Any, xp: Any) -> Any:
    """The error function of the library ``xp``; NumPy's is SciPy's where installed."""
    name = getattr(xp, "__name__", "")
    if xp is np:
        try:
            from scipy.special import erf as scipy_erf
        except ImportError:
            values = np.vectorize(math.erf, otypes=[np.float64])(x) if np.size(x) else np.asarray(x)
            return values.astype(np.asarray(x).dtype)
        return scipy_erf(x)
    if "torch" in name:
        import torch

        return torch.erf(x)
    if "cupy" in name:
        from cupyx.scipy.special import erf as cupy_erf

        return cupy_erf(x)
    if "jax" in name:
        from jax.scipy.special import erf as jax_erf

        return jax_erf(x)
    raise NotImplementedError(f"[Erf] no error function known for arrays of {name}")
