"""Gaussian expectations in one dimension, and Hermite coefficients: what a nonlinearity without closed form is made of.

Smooth functions by the trapezoid rule with Gaussian weight, which converges exponentially for functions analytic near
the real axis, and does not slow down for large variances as Gauss-Hermite rules do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arraylike import as_reals

Array = npt.NDArray[np.float64]
Function = Callable[[Array], Any]


class NotSmooth(ValueError):
    """No agreement between finer and finer rules."""


RTOL = 1e-13  # two results that agree to this are taken for converged; the finer one is then far closer
_MAX_NODES = 2**20
_STEP = 0.25  # in z, before any halving
_STEP_X = 0.5  # in x = sqrt(q) z: functions are taken to vary on a scale of 1
REACH = 12.0  # |z| of the outermost node; the weight there is 2e-32
_MAX_REACH = 27.0  # the weight there is 4e-159; the next reach would underflow
CHUNK = 2**20  # numbers looked at in one go


def call(f: Function, x: Array) -> Array:
    return np.asarray(f(x), dtype=np.float64)


def squared(f: Function) -> Function:
    return lambda x: call(f, x) ** 2


def grid(reach: float, step: float) -> Array:
    """The nodes of a trapezoid rule, symmetric about 0."""
    end = round(reach / step)
    return np.arange(-end, end + 1, dtype=np.float64) * step


def variances_of(q: Any, what: str, name: str = "q") -> Array:
    array = as_reals(q, name, what)
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(f"[{what}] {name} is a variance: finite and not negative, given {q!r}")
    return array


def weight_of(z: Array) -> Array:
    return np.asarray(np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi))


def expectation(g: Function, q: Any = 1.0, *, rtol: float = RTOL, what: str = "expectation") -> Any:
    """``fastntk.quadrature.expectation`` of smooth functions, by the trapezoid rule.

    Steps are halved until two results agree to ``rtol E |g|``; NotSmooth where 2^20 nodes do not.
    """
    variances = variances_of(q, what)
    flat = variances.reshape(-1)
    result = np.empty_like(flat)
    for part in _parts(flat):
        result[part] = trapezoid(g, np.sqrt(flat[part]), rtol, what)[0]
    return result.reshape(variances.shape) if variances.ndim else float(result[0])


def _parts(q: Array) -> list[npt.NDArray[np.intp]]:
    """Places of variances of like size: they share a step."""
    return np.array_split(np.argsort(q, kind="stable"), -(-len(q) // 256)) if len(q) else []


def first_step(scale: float) -> float:
    return min(_STEP, _STEP_X / min(max(scale, 1e-300), 100.0))


def trapezoid(g: Function, scale: Array, rtol: float, what: str) -> tuple[Array, float, float]:
    """``E g(scale z)``, the step that was fine enough for all, and the reach."""
    reach = REACH
    step = first_step(float(scale.max(initial=0.0)))
    while True:
        nodes = grid(reach, step)
        terms = _terms(g, scale, nodes, what)
        total, size = terms.sum(axis=1) * step, np.abs(terms).sum(axis=1) * step
        tail = np.maximum(np.abs(terms[:, 0]), np.abs(terms[:, -1]))
        if (tail <= 1e-17 * size).all():
            break
        if reach >= _MAX_REACH:
            raise ValueError(f"[{what}] has no expectation at variance {scale.max() ** 2:.6g}: it grows too fast")
        reach *= 1.5
    while True:
        between = nodes[:-1] + step / 2
        terms = _terms(g, scale, between, what)
        finer, size = total / 2 + terms.sum(axis=1) * step / 2, size / 2 + np.abs(terms).sum(axis=1) * step / 2
        if (np.abs(finer - total) <= rtol * size).all():
            return finer, step / 2, reach
        step /= 2
        if 2 * reach / step > _MAX_NODES:
            raise NotSmooth(
                f"[{what}] does not converge at variance {scale.max() ** 2:.6g}: the function is not smooth "
                f"(results with {len(nodes)} and {2 * len(nodes)} nodes differ by "
                f"{np.max(np.abs(finer - total) / np.maximum(size, 1e-300)):.1e})"
            )
        total = finer
        nodes = grid(reach, step)


def _terms(g: Function, scale: Array, z: Array, what: str) -> Array:
    """``g(scale z) w(z)``, one row for each scale."""
    out = np.empty((len(scale), len(z)))
    rows = max(1, CHUNK // len(z))
    weight = weight_of(z)
    for start in range(0, len(scale), rows):
        with np.errstate(all="ignore"):
            values = call(g, scale[start : start + rows, None] * z)
        if values.shape != (len(scale[start : start + rows]), len(z)):
            raise TypeError(f"[{what}] the function must keep its argument's shape, given {values.shape}")
        # Far out a weight of 0 meets what may have overflowed.
        out[start : start + rows] = np.where(weight > 0, values, 0.0) * weight
    if not np.isfinite(out).all():
        raise ValueError(f"[{what}] is not finite for |x| <= {np.max(scale) * np.max(np.abs(z)):.6g}")
    return out


@lru_cache(maxsize=2)
def hermite_functions(order: int, step: float, reach: float) -> tuple[Array, Array, Array]:
    """Nodes z, ``h_l(z) sqrt(w(z))`` for l = 0 .. order, and ``sqrt(w(z)) step``; read-only."""
    z = grid(reach, step)
    root = np.sqrt(weight_of(z))
    table = np.empty((order + 1, len(z)))
    table[0] = root
    if order:
        table[1] = z * root
    for n in range(2, order + 1):
        table[n] = (z * table[n - 1] - math.sqrt(n - 1) * table[n - 2]) / math.sqrt(n)
    result = (z, table, root * step)
    for array in result:
        array.setflags(write=False)
    return result


def hermite_coefficients(f: Function, q: Any, order: int, *, what: str = "hermite_coefficients") -> Array:
    """``a_l(q) = E f(sqrt(q) z) h_l(z)`` with normalised Hermite polynomials, ``E h_l h_m = (l == m)``.

    Parameters
    ----------
    f : callable
        Smooth, as for :func:`expectation`.
    q : array_like, not negative
    order : int
        Largest l.

    Returns
    -------
    numpy.ndarray ``(*q.shape, order + 1)``
        Each with an error of about 1e-15 of ``sqrt(E f^2)``.

    Raises
    ------
    ValueError
        As :func:`expectation`, for ``f^2``.
    """
    if order < 0:
        raise ValueError(f"[{what}] order must not be negative, given {order}")
    variances = variances_of(q, what)
    flat = variances.reshape(-1)
    coefficients = np.empty((len(flat), order + 1))
    for part in _parts(flat):
        scale = np.sqrt(flat[part])
        _, step, reach = trapezoid(squared(f), scale, RTOL, what)
        # The spectrum of h_l w ends near sqrt(l): that much more must be resolved. To a power of 2, for the cache.
        fine = 1 / (1 / step + (math.sqrt(order) + 6) / (2 * math.pi))
        z, table, weight = hermite_functions(order, 2.0 ** math.floor(math.log2(fine)), reach)
        values = call(f, scale[:, None] * z)
        coefficients[part] = (values * weight) @ table.T
    return coefficients.reshape(*variances.shape, order + 1)
