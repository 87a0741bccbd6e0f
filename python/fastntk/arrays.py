"""Arrays at the boundary: what comes in (checked, never modified), what goes out, and other libraries' arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .config import available_memory

Array = npt.NDArray[Any]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def as_input(x: Any, name: str, ndim: int, what: str) -> Array:
    """A native float32 or float64 array of ``ndim`` dimensions with at least one feature; integers become float64.

    Raises
    ------
    TypeError
        Not a NumPy array, or of object, complex, half, long double or text dtype.
    ValueError
        Of another rank, or with no features.
    """
    if not isinstance(x, np.ndarray) or isinstance(x, np.ma.MaskedArray):
        hint = " (numpy.asarray converts it)" if hasattr(x, "__array__") else ""
        raise TypeError(f"[{what}] {name} must be a numpy.ndarray, given {describe(x)}{hint}")
    if x.dtype.kind in "iub":
        x = x.astype(np.float64)
    if x.dtype.newbyteorder("=") not in FLOATS:
        raise TypeError(
            f"[{what}] {name} must be float32 or float64 (integers and bool are converted to float64), given {x.dtype}"
        )
    if x.ndim != ndim:
        raise ValueError(f"[{what}] {name} has {x.ndim} dims, shape {x.shape}; expected {ndim}")
    return np.asarray(x)


def describe(x: Any) -> str:
    """What an object is, for messages."""
    kind = type(x)
    module = kind.__module__.split(".")[0]
    return kind.__name__ if module == "builtins" else f"{module}.{kind.__name__}"


def contiguous(x: Array) -> Array:
    """C order, native bytes, aligned; a copy only where needed."""
    return np.require(x, dtype=x.dtype.newbyteorder("="), requirements=["C", "A"])


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: list[Array], name: str) -> Array:
    """A writable array of the result's shape and dtype that shares no memory with an input.

    Raises
    ------
    TypeError
        Not a NumPy array, or of another dtype.
    ValueError
        Of another shape, read-only, or overlapping an input.
    """
    if not isinstance(out, np.ndarray):
        raise TypeError(f"[{name}] out must be a numpy.ndarray, given {describe(out)}")
    if out.dtype != dtype:
        raise TypeError(f"[{name}] out must have dtype {dtype}, given {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"[{name}] out must have shape {shape}, given {out.shape}")
    if not out.flags.writeable:
        raise ValueError(f"[{name}] out is read-only")
    extent = out.itemsize
    for stride, n in sorted((abs(s), n) for s, n in zip(out.strides, out.shape, strict=True) if n > 1):
        if stride < extent and out.size:
            raise ValueError(f"[{name}] out overlaps itself: strides {out.strides} for shape {out.shape}")
        extent += stride * (n - 1)
    if any(np.may_share_memory(out, x) and np.shares_memory(out, x, max_work=-1) for x in inputs):
        raise ValueError(f"[{name}] out overlaps an input")
    return out


def allocate(shapes: list[tuple[int, ...]], dtypes: list[np.dtype[Any]], what: str) -> list[Array]:
    """Empty arrays, or MemoryError with the size before the first is made."""
    total = sum(math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, dtypes, strict=True))
    available = available_memory()
    if available is not None and total > available:
        raise MemoryError(
            f"[{what}] the result, {len(shapes)} x {shapes[0]} {dtypes[0]}, takes {total / 2**30:.4g} GiB; "
            f"{available / 2**30:.4g} GiB are available (out= takes a numpy.memmap)"
        )
    return [_aligned(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An empty array on a cache line's boundary, where whole lines can be written past the caches."""
    size = math.prod(shape) * dtype.itemsize
    if size < 1 << 20:
        return np.empty(shape, dtype=dtype)
    raw = np.empty(size + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


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
        return array_namespace(x)
    except TypeError:
        raise TypeError(
            f"[apply_fn] inputs must be arrays of NumPy, CuPy, PyTorch or JAX, given {describe(x)}"
        ) from None


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
