"""The element-wise maps behind the kernels: ``k = E phi(u) phi(v)``, ``kdot = E phi'(u) phi'(v)`` of a Gaussian pair.

``(u, v) ~ N(0, [[q11, q12], [q12, q22]])``. Each function broadcasts like a ufunc and returns ``(k, kdot)``:

>>> from fastntk import dual
>>> k, kdot = dual.relu(1.0, 0.5, 2.0)
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .base.arraylike import describe
from .base.arrays import FLOATS, check_out, contiguous, overlap
from .base.door import door
from .base.names import missing
from .base.place import Place, place_of
from .engines.select import select
from .network.activations import GENERAL, NONLINEARITIES, Correlation, General, Nonlinearity, of_input
from .plan.resolve import range_of

Array = npt.NDArray[Any]
Out = tuple[Array, Array] | None


@door
def dual(
    layer: Nonlinearity, q11: Any, q12: Any, q22: Any, *,
    out: Out = None, backend: str | None = None, num_threads: int | None = None, name: str | None = None,
) -> tuple[Any, Any]:  # fmt: skip
    """Dual and derivative dual of a nonlinearity.

    Parameters
    ----------
    layer : Nonlinearity
        Such as ``stax.Relu()``.
    q11, q12, q22 : array_like, float32 or float64, broadcastable
        Variances and covariance; integers count as float64. A covariance beyond ``sqrt(q11 q22)`` by rounding (half
        of the dtype's digits: 3.5e-4 of it in float32, 1.5e-8 in float64) counts as that bound. Or arrays on one CUDA
        device (as for kernel functions), and numbers.
    out : (k, kdot), optional
        Arrays of the broadcast shape and dtype to write to.
    backend, num_threads : optional
        As for kernel functions.
    name : str, optional
        What errors call the function.

    Returns
    -------
    k, kdot : numpy.ndarray or scalar; PyTorch's or JAX's where the first array is; on a device as the first there
        Of the inputs' dtype. Normalisation: none; ``k(q, q, q) = E phi(sqrt(q) z)^2``. NaN in, NaN out.

    Raises
    ------
    TypeError
        Mixed float dtypes or another dtype; arrays in host memory beside arrays on a device.
    ValueError
        Shapes that do not broadcast, a negative variance or a covariance out of bounds (on a device these give NaN: to
        look is to wait), a variance that the nonlinearity has no answer for, a wrong ``out``; arrays on two devices.

    Notes
    -----
    Accuracy: docs/accuracy.md, columns k and kdot; relative to k also near rho = -1, where k vanishes.
    """
    if not isinstance(layer, Nonlinearity):
        raise TypeError(f"[dual] layer must be a nonlinearity such as stax.Relu(), given {describe(layer)}")
    name = name or layer.dual_name
    place = place_of(name, q11=q11, q12=q12, q22=q22, out=out)
    with place.current():
        return _dual(layer, (q11, q12, q22), out, backend, num_threads, name, place)


def _dual(
    layer: Nonlinearity, given: tuple[Any, Any, Any], out: Any, backend: str | None, num_threads: int | None,
    name: str, place: Place,
) -> tuple[Any, Any]:  # fmt: skip
    xp = place.xp
    arrays = [_array(q, label, name, place) for q, label in zip(given, ("q11", "q12", "q22"), strict=True)]
    for label, array in zip(("q11", "q12", "q22"), arrays, strict=True):
        if array.dtype.kind not in "iubf" or (array.dtype.kind == "f" and array.dtype.newbyteorder("=") not in FLOATS):
            raise TypeError(f"[{name}] {label} must be float32 or float64, given {array.dtype}")
    # Python scalars and integers follow the arrays, as in NumPy.
    kinds = {
        a.dtype.newbyteorder("=")
        for a, q in zip(arrays, given, strict=True)
        if a.dtype.kind == "f" and type(q) is not float
    }
    if len(kinds) > 1:
        raise TypeError(f"[{name}] q11, q12, q22 have dtypes {[str(a.dtype) for a in arrays]}: convert them to one")
    dtype = kinds.pop() if kinds else np.dtype(np.float64)
    try:
        shape = np.broadcast_shapes(*(a.shape for a in arrays))
    except ValueError:
        raise ValueError(f"[{name}] shapes {[a.shape for a in arrays]} do not broadcast") from None
    # To look at a device's numbers is to wait for them; there, the maps of what is refused here are NaN.
    if xp is np:
        for label, array in (("q11", arrays[0]), ("q22", arrays[2])):
            if array.size and (array < 0).any():
                raise ValueError(f"[{name}] {label} is a variance, given {np.nanmin(array)}")
        _check_covariance(name, arrays[0], arrays[1], arrays[2], dtype)
        if layer.largest_variance < math.inf:
            for array in (arrays[0], arrays[2]):
                layer.variance(layer.affine[1] ** 2 * array)
    if out is not None and (not isinstance(out, (tuple, list)) or len(out) != 2):
        raise TypeError(f"[{name}] out must be a pair (k, kdot), given {describe(out)}")
    targets = None if out is None else [check_out(o, shape, dtype, arrays, name, place) for o in out]
    if targets is not None and overlap(targets[0], targets[1], xp):
        raise ValueError(f"[{name}] the two arrays of out overlap")

    engine = select(backend, num_threads, place)
    with np.errstate(over="ignore", invalid="ignore"):
        flat = [contiguous(xp.broadcast_to(a, shape).astype(dtype), xp).reshape(-1) for a in arrays]
    results = [xp.empty(flat[0].shape, dtype) for _ in range(2)]
    a, b, c = layer.affine
    if isinstance(layer, General):
        low, high = range_of([flat[0], flat[2]])
        layer = layer.standing_for(low, high, dtype == np.float32)
    bare = layer.bare
    if bare.counted:
        _by_array_code(bare, flat, b**2, results, xp)
    else:
        engine.dual(bare.dual_name, bare.dual_params, (flat[0], flat[1], flat[2]), b**2, (results[0], results[1]))
    if (a, b, c) != (1, 1, 0):
        with np.errstate(over="ignore", invalid="ignore"):
            results[0] = results[0] * dtype.type(a**2) + dtype.type(c**2)
            results[1] = results[1] * dtype.type((a * b) ** 2)
    shaped = [r.reshape(shape) for r in results]
    if targets is not None:
        for target, result in zip(targets, shaped, strict=True):
            target[...] = result
        return place.give(targets[0]), place.give(targets[1])
    return place.give(shaped[0][()]), place.give(shaped[1][()])


def _by_array_code(layer: Nonlinearity, given: list[Array], scale: float, results: list[Array], xp: Any) -> None:
    """The dual of ``phi(sqrt(scale) x)`` by the text of its class, in float64: wherever the arrays lie."""
    with np.errstate(all="ignore"):
        q11, q12, q22 = (q.astype(np.float64) for q in given)
        c = Correlation.of_covariances(q11, q12, q22)
        beyond = abs(q12) > (1 + float(np.finfo(given[0].dtype).eps) ** 0.5) * xp.sqrt(q11) * xp.sqrt(q22)
        q11, q22 = scale * q11, scale * q22
        _, rho, kdot = layer.pair(c, *(of_input(layer.rows(q, xp)) for q in (q11, q22)))
        k = xp.sqrt(layer.variance(q11, xp)) * xp.sqrt(layer.variance(q22, xp)) * rho
        for result, value in zip(results, (k, kdot), strict=True):
            result[...] = xp.where(beyond, np.nan, value)


def _check_covariance(name: str, q11: Array, q12: Array, q22: Array, dtype: np.dtype[Any]) -> None:
    """Refuse a covariance beyond ``sqrt(q11 q22)`` by more than rounding, or than a variance too small to be held."""
    limits = np.finfo(dtype)
    with np.errstate(all="ignore"):
        s1, s2 = (np.sqrt(np.asarray(q, np.float64) + float(limits.tiny)) for q in (q11, q22))
        beyond = np.abs(q12) > (1 + float(limits.eps) ** 0.5) * s1 * s2
    if beyond.any():
        at = np.unravel_index(int(np.argmax(beyond)), beyond.shape)
        a, c, b = (np.broadcast_to(q, beyond.shape)[at] for q in (q11, q12, q22))
        raise ValueError(
            f"[{name}] q12 must lie within sqrt(q11 q22) of 0, given q11 = {a}, q12 = {c}, q22 = {b}"
            + (f" at {tuple(int(i) for i in at)}" if at else "")
            + "; the arguments are q11, q12, q22 in this order"
        )


def _array(q: Any, label: str, what: str, place: Place) -> Array:
    """An array at ``place``; on a device, of a number in host memory too."""
    if place.ordinal is None:
        return place.take(q, label, what) if place.holds(q) else np.asarray(q)
    if place.holds(q):
        return place.take(q, label, what)
    number = np.asarray(q)
    if number.ndim or number.dtype.kind not in "iubf":
        raise TypeError(f"[{what}] {label} must be {place.array} like the others, or a number, given {describe(q)}")
    found: Array = place.xp.asarray(number)
    return found


def _named(name: str) -> Callable[..., tuple[Any, Any]]:
    make = GENERAL[name] if name in GENERAL else NONLINEARITIES[name][0]
    own = [p.name for p in inspect.signature(make).parameters.values() if p.name != "do_stabilize"]

    def named(q11: Any, q12: Any, q22: Any, *args: float, **kwargs: Any) -> tuple[Any, Any]:
        params = {k: kwargs.pop(k) for k in own if k in kwargs}
        return dual(make(*args, **params), q11, q12, q22, name=name, **kwargs)

    arguments = "".join(f", {p}" for p in own)
    named.__name__ = named.__qualname__ = name
    named.__doc__ = (
        f"``{name}(q11, q12, q22{arguments}, *, out, backend, num_threads)``: :func:`dual` of {make.__name__}."
    )
    return named


_functions = {name: _named(name) for name in (*NONLINEARITIES, *GENERAL)}
__all__ = ["dual", *_functions]


def __getattr__(name: str) -> Callable[..., tuple[Any, Any]]:
    if name in _functions:
        return _functions[name]
    raise missing("fastntk.dual", name, __all__)


def __dir__() -> list[str]:
    return __all__
