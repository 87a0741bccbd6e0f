"""Arrays at the boundary: what comes in (checked, never modified), what goes out, and other libraries' arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .place import HOST, Place

Array = npt.NDArray[Any]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def as_input(x: Any, name: str, ndim: int, what: str, place: Place = HOST) -> Array:
    """A native float32 or float64 array of ``ndim`` dimensions with at least one feature; integers become float64.

    Raises
    ------
    TypeError
        No array of NumPy's (on a device: none that lies there), or of object, complex, half, long double or text dtype.
    ValueError
        Of another rank, or with no features.
    """
    found = place.take(x, name, what)
    if found.dtype.kind in "iub":
        found = found.astype(np.float64)
    dtype = found.dtype if found.dtype.isnative else found.dtype.newbyteorder("=")
    if dtype not in FLOATS:
        raise TypeError(
            f"[{what}] {name} must be float32 or float64 (integers and bool are converted to float64), given "
            f"{found.dtype}"
        )
    if found.ndim != ndim:
        raise ValueError(f"[{what}] {name} has {found.ndim} dims, shape {found.shape}; expected {ndim}")
    return found


def contiguous(x: Array, xp: Any = np) -> Array:
    """C order, native bytes, aligned; a copy only where needed."""
    flags, dtype = x.flags, x.dtype
    if flags.c_contiguous and dtype.isnative and (xp is not np or flags.aligned):
        return x
    if xp is np:
        return np.require(x, dtype=x.dtype.newbyteorder("="), requirements=["C", "A"])
    packed: Array = xp.ascontiguousarray(x)
    return packed


def direct(x: Array) -> bool:
    """Whether engines can write to it as it lies: aligned, native, columns adjacent."""
    adjacent = x.shape[-1] <= 1 or x.strides[-1] == x.itemsize
    return adjacent and (not isinstance(x, np.ndarray) or (x.flags.aligned and x.dtype.isnative))


def overlap(a: Array, b: Array, xp: Any = np) -> bool:
    """Whether two arrays share memory; on a device, whether the ranges of memory do that they lie in."""
    if xp is np:
        return bool(np.may_share_memory(a, b) and np.shares_memory(a, b, max_work=-1))
    return bool(xp.may_share_memory(a, b))


def check_out(
    out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: list[Array], name: str, place: Place = HOST
) -> Array:
    """A writable array of the result's shape and dtype that shares no memory with an input.

    Raises
    ------
    TypeError
        No array of NumPy's (on a device: none that lies there), or of another dtype.
    ValueError
        Of another shape, read-only, or overlapping an input.
    """
    out, writable = place.borrow(out, "out", name)
    if out.dtype != dtype:
        raise TypeError(f"[{name}] out must have dtype {dtype}, given {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"[{name}] out must have shape {shape}, given {out.shape}")
    if not writable:
        raise ValueError(f"[{name}] out is read-only")
    extent = out.itemsize
    for stride, n in sorted((abs(s), n) for s, n in zip(out.strides, out.shape, strict=True) if n > 1):
        if stride < extent and out.size:
            raise ValueError(f"[{name}] out overlaps itself: strides {out.strides} for shape {out.shape}")
        extent += stride * (n - 1)
    if any(overlap(out, x, place.xp) for x in inputs):
        raise ValueError(f"[{name}] out overlaps an input")
    checked: Array = out
    return checked


_SMALL = 16 << 20  # bytes that are asked for without a look at what there is


def allocate(shapes: list[tuple[int, ...]], dtypes: list[np.dtype[Any]], what: str, place: Place = HOST) -> list[Array]:
    """Empty arrays, or MemoryError with the size before the first is made; on a device, when one does not fit."""
    total = sum(math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, dtypes, strict=True))

    def size() -> str:
        return f"[{what}] the result, {len(shapes)} x {shapes[0]} {dtypes[0]}, takes {total / 2**30:.4g} GiB; "

    if place.ordinal is not None:
        try:
            return [place.xp.empty(shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
        except MemoryError as error:
            free = (place.room() or 0) / 2**30
            raise MemoryError(
                f"{size()}{free:.4g} GiB are free on {place.name} (inputs in host memory and backend='cuda' fill "
                f"larger results there)"
            ) from error
    available = place.room() if total > _SMALL else None  # to ask takes longer than a small kernel
    if available is not None and total > available:
        raise MemoryError(f"{size()}{available / 2**30:.4g} GiB are available (out= takes a numpy.memmap)")
    return [_aligned(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An empty array on a cache line's boundary, where whole lines can be written past the caches."""
    size = math.prod(shape) * dtype.itemsize
    if size < 1 << 20:
        return np.empty(shape, dtype=dtype)
    raw = np.empty(size + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)
