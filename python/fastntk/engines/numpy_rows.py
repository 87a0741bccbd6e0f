"""The NumPy definition of pairs of points: what every backend computes, op by op, to be read first.

It works in float64 throughout, whatever the dtype of the result, and keeps a pair's signed defect and NTK
as ``csrc/`` does; formulas of nonlinearities stand in ``network/activations``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..network.activations import Correlation, of_op, rho_of, signed_defect
from ..network.program import Op
from .engine import Tile, TileInput

Real = type[np.floating[Any]]

Array = npt.NDArray[Any]

CLOSE = 1e-3  # of rho = 1 or -1: within it the inputs themselves replace the rounded product


def _join(
    parts: Sequence[Array], shares1: Sequence[Array], shares2: Sequence[Array], means1: Sequence[Array] = (),
    means2: Sequence[Array] = (),
) -> Array:  # fmt: skip
    """Signed defect of a sum of independent parts with signed defects ``v_b``.

    ``1 - rho`` is the sum of ``p1 p2 (1 - rho_b) + (p1 - p2)^2 / 2``, ``1 + rho`` that of ``p1 p2 (1 + rho_b) + ...``.
    Means over the deviation of the sum, m, whose products add to the covariance, add ``(m1 - m2)(n1 - n2)`` for every
    two parts, and ``(m1 + m2)(n1 + n2)`` to ``1 + rho``.
    """
    minus: Any = 0
    plus: Any = 0
    for v, p1, p2 in zip(parts, shares1, shares2, strict=True):
        w, near = np.abs(v), ~(v < 0)
        minus = minus + p1 * p2 * np.where(near, w, 2 - w) + (p1 - p2) ** 2 / 2
        plus = plus + p1 * p2 * np.where(near, 2 - w, w) + (p1 - p2) ** 2 / 2
    for sign in (-1, 1) if means1 else ():
        added: Any = 0
        so_far: Any = 0
        for m1, m2 in zip(means1, means2, strict=True):
            added, so_far = added + (m1 + sign * m2) * so_far, so_far + m1 + sign * m2
        minus, plus = (np.maximum(minus + added, 0), plus) if sign < 0 else (minus, plus + added)
    return np.where(minus > 1, signed_defect(np.asarray(False), plus), minus)


def run_op(
    op: Op, numbers: Sequence[float], x1: Any, x2: Any, sources: Sequence[tuple[Array, Array]]
) -> tuple[Array, Array]:
    """One op, with its numbers, on broadcastable blocks: sources' (v, theta) -> (v, theta).

    ``x1``, ``x2``: what it reads of both inputs, as attributes by the names of plan/rows.py.
    """
    v, theta = sources[0]
    if op.name == "dense":
        w2, _, _, g = numbers
        theta = w2 * theta + x1.std * x2.std * rho_of(v) + g
        if op.kind in ("bias", "fine"):
            v = _join([v, np.zeros(1)], [x1.share, x1.bias], [x2.share, x2.bias])
        elif op.kind == "guard":  # a zero variance counts as rho = 0 where the NTK does not vanish with it
            v = np.where((x1.std == 0) | (x2.std == 0), 1, v)
        return v, theta
    if op.name == "sum":
        shares1, shares2 = ([getattr(x, f"share{k}") for k in range(len(sources))] for x in (x1, x2))
        means1, means2 = (
            [getattr(x, f"mean{k}") for k in range(len(sources))] if op.kind == "means" else () for x in (x1, x2)
        )
        v = _join([s[0] for s in sources], shares1, shares2, means1, means2)
        return v, np.asarray(sum(s[1] for s in sources))
    if op.name == "norm":
        return v, x1.gain * x2.gain * theta
    if op.name == "product":
        k, theta, v = np.ones(1), np.zeros(1), np.zeros(1)
        for b, (v_b, theta_b) in enumerate(sources):
            k_b = getattr(x1, f"std{b}") * getattr(x2, f"std{b}") * rho_of(v_b)
            k, theta = k * k_b, theta * k_b + k * theta_b
            w, u = np.abs(v), np.abs(v_b)
            v = signed_defect((v < 0) == (v_b < 0), w + u - w * u)
        return v, theta
    v, _, kdot = of_op(op, numbers).pair(Correlation.of_defect(v), x1, x2)
    return v, theta * kdot


def normalise(x: Array, units: Array, norms: Array) -> tuple[Array, Array]:
    """Write x / |x| of rows (..., n, d) to ``units`` and |x| to ``norms``.

    Powers of two, one for each row, that bring it near 1, and the rows times these: their squares stay in range.
    """
    x = x.reshape(-1, x.shape[-1])
    x = x.astype(np.result_type(x, np.float64), copy=False)
    largest = np.abs(x).max(axis=1, initial=0)
    usable = np.isfinite(largest) & (largest > 0)
    all_usable = np.count_nonzero(usable) == usable.size
    exponent = np.frexp(largest if all_usable else np.where(usable, largest, 1))[1]
    scale = np.ldexp(1.0, np.minimum(-exponent, 1000))
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = x * scale[:, None]
        square = np.einsum("ij,ij->i", scaled, scaled)
        root = np.sqrt(square)
        norms[...] = root.astype(norms.dtype, copy=False) / scale
        if all_usable:  # all have a direction
            units[...] = (scaled / root[:, None]).reshape(units.shape)
            return scale, scaled
        norms[np.isinf(largest)] = np.nan  # no direction: all NaN
        unit = scaled / np.sqrt(np.where(square > 0, square, 1))[:, None]
        units[...] = np.where(np.isnan(norms)[:, None], np.nan, unit).reshape(units.shape)
    return scale, scaled


def input_defect(given: TileInput, batch: int, shape: tuple[int, int], real: Real) -> Array:
    if given.defect is not None:
        return np.asarray(given.defect[batch], dtype=np.float64)
    if given.product is None:
        return np.zeros(shape)
    near = ~(given.product[batch] < 0)
    w = np.maximum(1 - np.abs(given.product[batch]), 0)
    if given.raw1 is None or given.raw2 is None or given.norms1 is None or given.norms2 is None:
        return signed_defect(near, w)
    norms1, norms2 = given.norms1[batch, 0], given.norms2[batch, 0]
    lines, cols = np.nonzero(w < CLOSE)
    step = max(1, (1 << 20) // given.raw1.shape[2])
    for start in range(0, len(lines), step):
        i, j = lines[start : start + step], cols[start : start + step]
        sign = np.where(near[i, j], 1.0, -1.0)
        rows1, rows2 = given.raw1[batch, i].astype(real), given.raw2[batch, j].astype(real)
        w[i, j] = _unit_distance(rows1, norms1[i], rows2, norms2[j], sign)
    return signed_defect(near, w)


def _unit_distance(x: Array, norm: Array, y: Array, other: Array, sign: Array) -> Array:
    """``|x / |x| - sign y / |y||^2 / 2`` row by row, from rows as given.

    With ``t = |x| / |y| - 1``, |x| the larger, it is ``|(x - sign y) - sign t y|^2 / (2 |x|^2)``: both terms are small
    where the difference is, and what rounds t lies along y and changes it at second order only.
    """
    swap = norm < other
    x, y = np.where(swap[:, None], y, x), np.where(swap[:, None], x, y)
    norm, other = np.maximum(norm, other), np.minimum(norm, other)
    t = sign * (norm / other - 1)
    v = ((x - sign[:, None] * y) - t[:, None] * y) / np.maximum(norm, np.finfo(norm.dtype).tiny)[:, None]
    return np.asarray(np.einsum("ij,ij->i", v, v) / 2)


def place(out: Array, value: Array, tile: Tile) -> None:
    """Write a tile; of a symmetric one the upper part and its mirror image."""
    rows, cols = slice(tile.i0, tile.i0 + tile.lines), slice(tile.j0, tile.j0 + tile.cols)
    if not tile.symmetric:
        out[rows, cols] = value
        return
    i = np.arange(tile.i0, tile.i0 + tile.lines)[:, None]
    j = np.arange(tile.j0, tile.j0 + tile.cols)[None, :]
    out[rows, cols] = np.where(j >= i, value, out[rows, cols])
    out[cols, rows] = np.where(j.T > i.T, value.T, out[cols, rows])
