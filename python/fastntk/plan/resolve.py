"""Functions without closed form, once the variances that reach them are known: a program's ops are replaced.

What computing takes of such a function depends on the largest variance of its inputs (network/activations/fitted.py).
Bounds of the variances go through the program, op by op; where they meet such an op, another takes its place, a series
or polynomials with numbers of their own. Ranges are powers of 4 wide, so that hardly any answer depends on the inputs
beside its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..network.activations import General, Nonlinearity, of_op
from ..network.maps import Attention
from ..network.program import Lowered, Op, Program

Array = npt.NDArray[Any]  # or CuPy's
Range = tuple[float, float]  # the least and the largest variance

_POINTS = 65  # at which a variance map is looked at
_ROWS = 1 << 16  # positions looked at in one go
_NARROW = 1e-6  # a range that is one number but for rounding


@lru_cache(maxsize=256)
def unresolved(program: Program) -> bool:
    """Whether the program has functions without closed form."""
    return any(isinstance(op.layer, General) for op in program.ops)


def bounds_of(variances: Sequence[Array]) -> Range:
    """The least and the largest of arrays of variances, NaN apart; (inf, -inf) where there are none."""
    low, high = math.inf, -math.inf
    for q in variances:
        if q.size:
            own = q[q == q]
            if own.size:
                low, high = min(low, float(own.min())), max(high, float(own.max()))
    return low, high


def joined(bounds: Sequence[Range]) -> Range:
    """The range of several; (1, 1) where there are none."""
    low, high = min(b[0] for b in bounds), max(b[1] for b in bounds)
    return (low, high) if low <= high else (1.0, 1.0)


def range_of(variances: Sequence[Array]) -> Range:
    """The least and the largest of arrays of variances, NaN apart; (1, 1) where there are none."""
    return joined([bounds_of(variances)])


def largest_pixel(x: Array) -> float:
    """The largest variance among the positions of images (..., channels), NaN apart; 1 where there are none."""
    flat = x.reshape(-1, x.shape[-1])
    found = -math.inf
    for start in range(0, len(flat), _ROWS):
        part = flat[start : start + _ROWS].astype(np.float64)
        found = max(found, range_of([(part * part).mean(axis=1)])[1]) if part.size else found
    return found if found >= 0 else 1.0


@lru_cache(maxsize=256)
def depends_on_ranges(program: Program) -> bool:
    """Whether the ops that stand for functions have text in all backends for some variances and not for others."""
    return any(isinstance(op.layer, General) for op in program.ops)


def range_of_rows(x: Array) -> Range:
    """Bounds of the variances of rows (..., features), a little wider than any engine's rounding has them."""
    flat = x.reshape(-1, x.shape[-1])
    found = []
    for start in range(0, len(flat), _ROWS):
        part = flat[start : start + _ROWS]
        found.append(np.einsum("ij,ij->i", part, part, dtype=np.float64) / x.shape[-1])
    low, high = range_of(found)
    return low * (1 - 2e-15), high * (1 + 2e-15)


@lru_cache(maxsize=1024)
def resolve(lowered: Lowered, ranges: tuple[Range, ...], single: bool, moving: bool = False) -> Lowered:
    """The program for inputs whose variances lie in these ranges.

    Parameters
    ----------
    lowered : Lowered
    ranges : tuple of (float, float)
        For each input of the program: bounds of its variances.
    single : bool
        For results in float32.
    moving : bool
        Whether derivatives in variances are wanted: what knows a function at one variance alone has none.

    Raises
    ------
    ValueError
        A function that is not finite, grows too fast or varies too fast there; by its layer and the variance.
    """
    slots = dict(enumerate(ranges))
    ops: list[Op] = []
    numbers: list[float] = []
    for op in lowered.program.ops:
        own = [lowered.numbers[k] for k in op.numbers]
        if isinstance(op.layer, General):
            low, high = slots[op.src[0]]
            standing = op.layer.standing_for(0.0 if moving else low, high, single, moving)
            own = list(standing.dual_params)
            op = op._replace(name=standing.dual_name, layer=standing)
        op = op._replace(numbers=range(len(numbers), len(numbers) + len(own)))
        numbers += own
        ops.append(op)
        if op.name != "store":
            slots[op.dst] = _range_behind(op, op.own(numbers), [slots[s] for s in op.src])
    return Lowered(replace(lowered.program, ops=tuple(ops)), tuple(numbers), lowered.outputs)


def _range_behind(op: Op, own: Sequence[float], sources: Sequence[Range]) -> Range:
    low, high = sources[0]
    if op.name == "dense":
        return own[0] * low + own[1], own[0] * high + own[1]
    if op.name in ("conv", "transposed"):  # the mean over taps, of which some may lie outside
        return own[1], own[0] * high + own[1]
    if op.name in ("local", "gather"):
        return (low if op.name == "local" else 0.0), high
    if op.name == "drop":
        return low / own[0], high / own[0]
    if op.name == "embed":
        extra = np.diagonal(op.map.matrix)
        return own[0] * low + own[1] * float(extra.min()), own[0] * high + own[1] * float(extra.max())
    if op.name == "mix":
        if isinstance(op.map, Attention) and op.map.mechanism != "SOFTMAX":
            return 0.0, (own[0] * op.map.size_out * sources[-1][1]) ** 2 * high
        return 0.0, op.map.largest**2 * high
    if op.name == "pool":
        assert op.window is not None
        taps = op.window.taps
        return 0.0, (own[0] * taps) ** 2 * high if own else high
    if op.name == "sum":
        if sum(op.means) > 1:  # products of means, of either sign
            return 0.0, sum(math.sqrt(s[1]) for s in sources) ** 2
        return sum(s[0] for s in sources), sum(s[1] for s in sources)
    if op.name == "product":
        return math.prod(s[0] for s in sources), math.prod(s[1] for s in sources)
    if op.name == "norm":
        return (low / (low + own[0]) if low > 0 else 0.0), (high / (high + own[0]) if high > 0 else 0.0)
    layer: Nonlinearity = of_op(op, own)
    narrow = high - low <= _NARROW * high
    q = np.array([low, high]) if narrow else np.append(np.geomspace(max(low, 1e-8 * high, 1e-300), high, _POINTS), low)
    with np.errstate(all="ignore"):
        found = layer.variance(q)
    return float(np.nanmin(found)), float(np.nanmax(found))
