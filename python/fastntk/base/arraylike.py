"""What counts as an array in host memory: NumPy's, and what is converted once where it comes in."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

DEEPEST = 64  # lists in lists that are looked into


def describe(x: Any) -> str:
    """What an object is, for messages."""
    kind = type(x)
    module = kind.__module__.split(".")[0]
    return kind.__name__ if module == "builtins" else f"{module}.{kind.__name__}"


def library_of(x: Any) -> str:
    """Name of the package that an array's class, or one it derives from, belongs to."""
    names = [kind.__module__.split(".")[0] for kind in type(x).__mro__]
    return next((name for name in names if name in ("cupy", "torch")), names[0])


def is_numbers(x: Any) -> bool:
    """Whether a list or tuple, of lists or tuples perhaps, holds numbers: an array, not several inputs."""
    for _ in range(DEEPEST):
        if not isinstance(x, (list, tuple)):
            break
        if not x:
            return False
        x = x[0]
    return isinstance(x, (int, float, complex, np.number, np.bool_))


def is_traced(x: Any) -> bool:
    """Whether an array has no numbers yet: JAX is tracing what is done with it."""
    return any(kind.__name__ == "Tracer" for kind in type(x).__mro__)


def is_array(x: Any) -> bool:
    """Whether :func:`as_array` takes ``x``, or refuses it in words of its own."""
    if isinstance(x, (list, tuple)):
        return is_numbers(x)
    return not isinstance(x, (np.generic, type)) and hasattr(x, "__array__")


def refuse_masked(x: Any, label: str, what: str) -> None:
    """Raise TypeError for a masked array: what its mask hides would be computed with as if it were there."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"[{what}] {label} is a masked array, whose mask kernels do not know: .filled(value) makes it a plain one"
        )


def as_reals(x: Any, label: str, what: str) -> Array:
    """Numbers, or an array of them, as float64; no mask and no imaginary part is dropped.

    Raises
    ------
    TypeError
        Masked arrays, complex numbers.
    TypeError, ValueError
        NumPy's own, for what is no number.
    """
    refuse_masked(x, label, what)
    if np.iscomplexobj(x):
        raise TypeError(f"[{what}] {label} must be real, given complex numbers")
    return np.asarray(x, dtype=np.float64)


def as_array(x: Any, label: str, what: str) -> Array:
    """NumPy's array of the same numbers; without a copy where the library has one to give.

    Takes arrays of NumPy, PyTorch's and JAX's in host memory, lists and tuples of numbers, and whatever else has
    ``__array__``: frames of pandas, say.

    Raises
    ------
    TypeError
        Anything else; masked arrays, tensors that record gradients, JAX's tracers.
    ValueError
        Lists of unequal lengths.
    """
    refuse_masked(x, label, what)
    if isinstance(x, np.ndarray):
        return np.asarray(x)
    if is_traced(x):
        raise TypeError(
            f"[{what}] {label} is being traced by JAX (jax.jit, grad, vmap), which does not see into compiled code: "
            "call fastntk.jax.kernel, or this outside of jax.jit, which would make it no faster"
        )
    if getattr(x, "requires_grad", False):
        raise TypeError(
            f"[{what}] {label} is a {describe(x)} that records gradients, which kernels do not carry: detach() it, or "
            "call fastntk.torch.kernel, which does"
        )
    if not is_array(x):
        hint = " (toarray() makes it one)" if hasattr(x, "toarray") else ""
        raise TypeError(f"[{what}] {label} must be a numpy.ndarray or convert to one, given {describe(x)}{hint}")
    try:
        return _frame(x) if hasattr(x, "dtypes") else np.asarray(x)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        kind = ValueError if isinstance(x, (list, tuple)) and isinstance(error, ValueError) else TypeError
        raise kind(f"[{what}] {label}, a {describe(x)}, does not convert to an array: {error}") from None


def _frame(x: Any) -> Array:
    """A table with a dtype for each column; of pandas' own dtypes what is missing becomes NaN."""
    found: Array = np.asarray(x)
    if found.dtype == object and all(getattr(kind, "kind", "O") in "fiub" for kind in x.dtypes):
        dtype = np.result_type(*(getattr(kind, "numpy_dtype", kind) for kind in x.dtypes))
        if dtype.kind != "f" and x.isna().any(axis=None):
            dtype = np.dtype(np.float64)
        found = x.to_numpy(dtype=dtype, na_value=np.nan if dtype.kind == "f" else 0)
    return found


def to_library(x: Array, like: Any) -> Any:
    """A result in the library of ``like`` where that is PyTorch or JAX, on its device; else as it is."""
    kind = library_of(like)
    if kind == "torch":
        return sys.modules["torch"].from_numpy(np.asarray(x, order="C"))
    if kind in ("jax", "jaxlib"):
        return like.__array_namespace__().asarray(x, device=like.device)
    return x
