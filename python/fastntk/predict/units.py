"""Units of kernels and targets: powers of two, taken out before squares and inverses could leave the range of floats.

Predictions are equivariant: in other units of the targets or of the kernel they are the same, in these units. With the
largest entry of K and of y from 1 to 2, what is computed does not depend on the units they came in, to the last bit
where those differ by a power of two.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]  # or CuPy's


def unit_of(x: Array, also: float = 0.0) -> float:
    """The power of two in whose units the largest of ``x`` and ``also`` is from 1 to 2; 1.0 where all are 0.

    At the ends of the range of x's dtype it is the last power that has an inverse there.
    """
    largest = max(float(abs(x).max()) if x.size else 0.0, also)
    if not 0 < largest < math.inf:
        return 1.0
    tiny = float(np.finfo(x.dtype if x.dtype.kind == "f" else np.float64).tiny)
    return min(max(2.0 ** (math.frexp(largest)[1] - 1), tiny), 1 / tiny)


def column_units(x: Array) -> Array:
    """:func:`unit_of` for each column of x (n, o), (o,) float64."""
    top = abs(x).max(axis=0).astype(np.float64)
    power = np.clip(np.frexp(top)[1] - 1, -1022, 1022)
    found: Array = np.where(top > 0, np.ldexp(np.ones_like(top), power), 1.0)
    return found


def in_columns(x: Array, dtype: Any) -> tuple[Array, Array]:
    """Units (o,) of the columns of x (n, o), and x in them."""
    units = column_units(x)
    return units, (x / units).astype(dtype, copy=False)


def halves(unit: float) -> tuple[float, float]:
    """Two powers of two whose product is ``1 / unit``: a factor before a product and one behind it keep it in range."""
    power = -exponent(unit)
    return 2.0 ** (power // 2), 2.0 ** (power - power // 2)


def in_units(x: Array, unit: float, dtype: Any = np.float64, order: Any = "K") -> Array:
    """``x / unit`` in ``dtype``, a copy; divided before it is rounded to a narrower one."""
    wide = np.result_type(x.dtype, dtype)
    found = x.astype(wide, order=order)
    if unit != 1:
        found *= wide.type(1 / unit)
    return found.astype(dtype, copy=False)


def exponent(unit: float) -> int:
    """p of ``2^p``."""
    return math.frexp(unit)[1] - 1


def shifted(x: Any, power: int) -> Any:
    """``x 2^power``, of numbers and NumPy's arrays; beyond the range of float64 infinite, or 0."""
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(x, power)


def restored(x: Array, unit: float | Array, dtype: Any) -> Array:
    """``x unit`` in ``dtype``; beyond its range infinite, or 0."""
    with np.errstate(over="ignore", under="ignore"):
        found: Array = (x.astype(np.float64, copy=False) * unit).astype(dtype, copy=False)
    return found
