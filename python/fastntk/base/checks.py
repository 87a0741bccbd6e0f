"""Checks of numbers, seeds and inputs that the theories around the limit share."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from .arraylike import describe, is_traced, refuse_masked
from .arrays import as_input
from .jet import Jet, Traced

Array = npt.NDArray[np.float64]


def generator(rng: Any, what: str) -> np.random.Generator:
    """A Generator, itself or of an integer seed.

    Raises
    ------
    TypeError
        Anything else, None too: draws are to be repeated.
    """
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, (int, np.integer)) and not isinstance(rng, bool):
        return np.random.default_rng(rng)
    raise TypeError(f"[{what}] rng must be a numpy.random.Generator or an integer seed, given {describe(rng)}")


def number(value: Any, name: str, what: str) -> float:
    """A finite float.

    Raises
    ------
    TypeError, ValueError
        Not a real number; NaN or infinite.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"[{what}] {name} must be a number, given {describe(value)}")
    if not math.isfinite(value):
        raise ValueError(f"[{what}] {name} must be finite, given {value}")
    return float(value)


def positive(value: Any, name: str, what: str, most: float = math.inf) -> float:
    """A finite float above 0, at most ``most``."""
    found = number(value, name, what)
    if not 0 < found <= most:
        wanted = "positive" if most == math.inf else f"positive and at most {most:g}"
        raise ValueError(f"[{what}] {name} must be {wanted}, given {value}")
    return found


def not_negative(value: Any, name: str, what: str) -> float:
    """A finite float, 0 or above."""
    found = number(value, name, what)
    if found < 0:
        raise ValueError(f"[{what}] {name} must not be negative, given {value}")
    return found


def between(value: Any, name: str, what: str, low: float, high: float) -> float:
    """A float strictly between two bounds."""
    found = number(value, name, what)
    if not low < found < high:
        raise ValueError(f"[{what}] {name} must lie strictly between {low:g} and {high:g}, given {value}")
    return found


def count(value: Any, name: str, what: str, least: int = 1) -> int:
    """An integer, at least ``least``."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"[{what}] {name} must be an integer, given {describe(value)}")
    if value < least:
        raise ValueError(f"[{what}] {name} must be at least {least}, given {value}")
    return int(value)


def points(values: Any, name: str, what: str, *, zero: bool = True) -> Array:
    """Float64 values from 0 to infinity, 0 itself only with ``zero``.

    Raises
    ------
    TypeError
        Not numbers.
    ValueError
        NaN, negative, or 0 where it is excluded.
    """
    refuse_masked(values, name, what)
    found = np.asarray(values)
    if found.dtype.kind not in "iuf":
        raise TypeError(f"[{what}] {name} must be real numbers, given {describe(values)}")
    found = found.astype(np.float64)
    if not ((found >= 0) if zero else (found > 0)).all():
        raise ValueError(f"[{what}] {name} must {'not be negative' if zero else 'be positive'} or NaN, given {values}")
    return found


def rows(x: Any, name: str, what: str) -> Array:
    """Inputs (n, d) as float64, finite, at least one.

    Raises
    ------
    TypeError, ValueError
        Not an array of floats or integers of two dimensions; no rows or columns; NaN or infinity.
    """
    found = as_input(x, name, 2, what).astype(np.float64, copy=False)
    if 0 in found.shape:
        raise ValueError(f"[{what}] {name} is empty: shape {found.shape}")
    if not np.isfinite(found).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(found))[0])
        raise ValueError(f"[{what}] {name} is not finite, first at {at}")
    return found


def integer(layer: str, name: str, value: Any, least: int | None = 1) -> int:
    if type(value) is int and (least is None or value >= least):
        return value
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"[{layer}] {name} must be an integer, given {value!r}") from None
    if least is not None and number < least:
        raise ValueError(f"[{layer}] {name} must be at least {least}, given {number}")
    return number


def finite(layer: str, name: str, value: Any) -> float:
    """A parameter as a float whose square is finite too; one with derivatives, or recorded elsewhere, keeps them."""
    if type(value) is float and abs(value) < 1e150:
        return value
    if isinstance(value, Jet):
        return value  # type: ignore[return-value]
    if is_traced(value) or getattr(value, "requires_grad", False):
        if np.shape(value) != ():
            raise TypeError(f"[{layer}] {name} must be a number, given {describe(value)} of shape {np.shape(value)}")
        return Traced(value)  # type: ignore[return-value]
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"[{layer}] {name} must be a number, given {value!r}") from None
    if not abs(number) < 1e150:
        raise ValueError(f"[{layer}] {name} must be finite and below 1e150, given {value}")
    return number


def learning_rates(lr: Any, steps: int, what: str) -> Array:
    """One learning rate for each step."""
    found = np.array(lr, dtype=np.float64)
    found = np.full(steps, found) if found.ndim == 0 else found
    if found.shape != (steps,) or not (np.isfinite(found) & (found > 0)).all():
        raise ValueError(f"[{what}] lr must be positive, one number or one for each of {steps} steps, given {lr!r}")
    return found
