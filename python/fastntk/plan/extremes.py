"""Inputs whose numbers leave a dtype's range on the way, although they and their results may lie in it.

A variance is a square and an NTK a sum of products: between 1e19 and 3e38 float32 holds an input, and not its variance.
Pairs with such an input are computed in a type that reaches further, float64 for float32 and for that
``numpy.longdouble``, whose exponent has 15 bits on x86 and under Linux on ARM; elsewhere what overflows there is inf or
NaN. Others keep their dtype, and every bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..network.activations import is_dual, is_homogeneous, of_op
from ..network.program import Lowered, Program
from .rows import layout_of, row_pass

Array = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]

# Standard deviations whose products, and sums of thousands of these, stay normal numbers.
_LARGEST = {np.dtype(np.float32): 1e12, np.dtype(np.float64): 1e70}
# The same of networks that scale with their inputs, whose numbers on the way are not far from their results: their
# squares are in range, and the sum of as many large ones as there are layers.
_SCALING = {np.dtype(np.float32): 2.0**63, np.dtype(np.float64): 2.0**511}


class Limits(NamedTuple):
    """The least and the largest standard deviation of inputs that a program keeps within a dtype's range."""

    least: float
    most: float
    pixels: bool  # a single one's matters too: where the NTK does not vanish with K, whatever is not 0 is correlated
    homogeneous: bool  # kernels scale with their inputs


@lru_cache(maxsize=256)
def limits(lowered: Lowered, dtype: np.dtype[Any]) -> Limits:
    """Those of a program with its numbers."""
    most, least = _gains(lowered)
    homogeneous, pixels = _traits(lowered.program)
    if homogeneous:
        limit, layers = _SCALING[dtype], len(lowered.program.ops)
        return Limits(1 / (limit * least), limit / (most * layers**0.5), pixels, True)
    limit = _LARGEST[dtype]
    return Limits(1 / (limit * least), limit / most, pixels, False)


@lru_cache(maxsize=256)
def _traits(program: Program) -> tuple[bool, bool]:
    """Whether a program scales with its inputs; whether its NTK may not vanish with K."""
    return all(map(is_homogeneous, program.ops)), any(op.kind == "guard" for op in program.ops)


def beyond(lowered: Lowered, dtype: np.dtype[Any], sides: Sequence[Any]) -> list[Any] | None:
    """Samples of each side that leave the range of ``dtype`` on the way; None where there are none or none may look.

    All, of float32, where an op says that it loses too many digits (:attr:`Nonlinearity.rough`).

    Raises
    ------
    NotImplementedError
        Such an op, on arrays or a backend where nothing is computed once more.
    """
    found, rough = limits(lowered, dtype), dtype == np.float32 and rough_layer(lowered)
    if not rough and all(side.within(found) for side in sides):  # soon over
        return None
    flags = [side.beyond(found) for side in sides]
    if rough:
        if any(own is None for own in flags):
            raise NotImplementedError(
                f"[{rough}] float32 keeps too few digits of it for these variances, and float64 stands in for arrays "
                "in host memory on the backends 'cpu' and 'numpy' alone: give float64, or normalise the inputs"
            )
        return [np.ones_like(own) for own in flags]
    if any(own is None for own in flags) or not any(own.any() for own in flags):
        return None
    return flags


@lru_cache(maxsize=256)
def rough_layer(lowered: Lowered) -> str:
    """The first nonlinearity of which float32 would lose too many digits; "" where there is none."""
    layers = (op.layer for op in lowered.program.ops if op.layer is not None)
    return next((str(getattr(own, "layer", own)) for own in layers if own.rough), "")


@lru_cache(maxsize=256)
def grows(lowered: Lowered) -> Any:
    """The last nonlinearity whose output's variance grows faster than its input's; None where there is none."""
    found = [of_op(op, op.own(lowered.numbers)) for op in lowered.program.ops if is_dual(op.name)]
    return next((layer for layer in reversed(found) if layer.largest_variance < math.inf), None)


def refuse_overflow(lowered: Lowered, largest: Sequence[Sequence[float]]) -> None:
    """Refuse results that float32 cannot hold, behind functions that grow fast.

    Parameters
    ----------
    lowered : Lowered
        On points.
    largest : sequence of sequence of float
        Of each side the largest variance of each input.

    Raises
    ------
    ValueError
        Named by the layer, with the variance of an output.
    """
    layer, most = grows(lowered), float(np.finfo(np.float32).max)
    if layer is None or not all(math.isfinite(q) for own in largest for q in own):
        return
    found = [row_pass(lowered).values([np.array([q]) for q in own]).q for own in largest]
    for op, sources in zip(lowered.program.ops, layout_of(lowered.program).sources, strict=True):
        if op.name == "store":
            size = math.sqrt(math.prod(float(q[sources[0]][0]) for q in (found[0], found[-1])))
            if size > most:
                raise ValueError(
                    f"[{type(layer).__name__}] the variance of an output is {size:.6g} where that of an input is "
                    f"{max(map(max, largest)):.6g}, and float32 ends at {most:.6g}: give float64, or normalise the "
                    f"inputs; given {layer}"
                )


def outside(sizes: Array, least: float, most: float) -> Flags:
    """Which sizes are beyond these, 0 and NaN apart."""
    return np.asarray((sizes > most) | ((sizes < least) & (sizes > 0)))


def _gains(lowered: Lowered) -> tuple[float, float]:
    """The largest and the least deviation that inputs of deviation 1 meet.

    Of smaller inputs, by as much larger, where a nonlinearity refuses these.
    """
    start, values, rows = 1.0, None, row_pass(lowered)
    if rows.plain:  # numbers, where nothing asks for more: the first call of every network comes here
        q: list[Any] = [*rows.values([start] * lowered.program.n_inputs).q, 1.0]  # type: ignore[list-item]
        return math.sqrt(max(q)), math.sqrt(min(q) or min(filter(None, q)))
    with np.errstate(all="ignore"):
        while values is None:
            try:
                values = rows.values([np.full(1, start)] * lowered.program.n_inputs).q
            except ValueError:
                if start < 1e-200:  # it is not the input that is too large
                    raise
                start *= 2.0**-20
    met = [1.0, *(math.sqrt(float(q[0]) / start) for q in values)]
    return max(met), min(q for q in met if q > 0)
