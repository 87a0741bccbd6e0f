"""Steps that combine positions of an image, in NumPy: sums over pairs of positions, and what layers other than
convolutions make of them.

As everywhere on images, values and NTKs of a chunk of pairs are (pairs, P, P') or, where nothing later reads more than
p = p', (pairs, P), and what belongs to one image (pairs, P). ``1 - rho`` and ``1 + rho`` of a combination ``z = A y``
come from those of y: with deviations s of y, ``S = A s``, ``M = A (s s' (1 - rho)) A'^T`` and ``t^2 = S^2 - M`` of an
image with itself, ``t t' (1 - rho_z) = t t' - S S' + M12``, which is 0 in every digit where two images are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..network.activations import Correlation, signed_defect

Array = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]


# ---------------------------------------------------------------- pairs of positions


def spread(of1: Array, of2: Array, full: bool) -> tuple[Array, Array]:
    """Let planes of two images broadcast over pairs of positions."""
    return (of1[:, :, None], of2[:, None, :]) if full else (of1, of2)


def diagonal(k: Array) -> Array:
    return k if k.ndim == 2 else np.diagonal(k, axis1=1, axis2=2)


def sides(v: Array) -> tuple[Array, Array]:
    """``1 - rho`` and ``1 + rho``."""
    return near_side(v), np.where(v < 0, -v, 2 - v)


def near_side(v: Array) -> Array:
    """``1 - rho``."""
    return np.where(v < 0, 2 + v, v)


def joined(minus: Array, plus: Array, q1: Array, q2: Array) -> Array:
    """Signed defect from ``1 - rho`` and ``1 + rho``; a zero variance counts as ``rho = 0``."""
    v = np.where(minus > plus, signed_defect(np.asarray(False), plus), np.maximum(minus, 0))
    return np.where((q1 == 0) | (q2 == 0), 1, v)


# ---------------------------------------------------------------- sums of positions


def _scale(S: Array) -> Array:
    """A power of two that brings S to [1/2, 1), as near as its type goes."""
    most = np.finfo(S.dtype).maxexp - 24
    return np.asarray(np.ldexp(np.ones_like(S), np.clip(-np.frexp(S)[1], -most, most)))


def own_sums(S: Array, M: Array) -> list[Array]:
    """``S``, ``M`` and ``t`` of an image's sums."""
    return [S, M, np.sqrt(np.maximum(S**2 - M, 0))]


def defect_of_sums(
    pair_sums: Sequence[Array], one: Sequence[Array], two: Sequence[Array], full: bool
) -> Array:  # fmt: skip
    """Signed defect of sums, from ``sum of s s' (1 -+ rho)`` of a pair, and S, M, t of each image.

    ``E (z - z')^2 = 2 M12 - M11 - M22 + (S - S')^2``, and in ``d = S - t`` the squares differ by ``(d - d') (2 (S - S')
    - (d - d'))``: as small as M where images are alike, and all of it is 0 where they are equal. Powers of two bring S
    to [1/2, 1) first, or sums of two sizes would cancel all digits. Where S is negative, the other sign of z is meant.
    """
    e1, e2 = (_scale(np.maximum(np.abs(own[0]), own[2])) for own in (one, two))
    (S1, M1, t1), (S2, M2, t2) = ((S * e, M * e * e, t * e) for (S, M, t), e in ((one, e1), (two, e2)))
    turned = np.not_equal(*spread(S1 < 0, S2 < 0, full))
    (S1, S2), (M1, M2), (t1, t2), (e1, e2) = (
        spread(a, b, full) for a, b in ((np.abs(S1), np.abs(S2)), (M1, M2), (t1, t2), (e1, e2))
    )
    d1, d2 = (M / np.where(S + t == 0, 1, S + t) for S, M, t in ((S1, M1, t1), (S2, M2, t2)))
    d = d1 - d2
    rest = (d * (2 * (S1 - S2) - d) - (M1 + M2)) / 2
    minus, plus = (np.where(turned, -own, own) * e1 * e2 for own in pair_sums)
    v = joined((minus + rest) / (t1 * t2), (plus + rest) / (t1 * t2), t1, t2)
    w = np.abs(v)
    return np.where(turned & (t1 > 0) & (t2 > 0), signed_defect(v < 0, w), v)


def doubled(A: Array, k: Array, B: Array, full: bool) -> Array:
    """``A k B^T`` of each pair, or its entries p = p'."""
    A, k, B = (np.ascontiguousarray(of) for of in (A, k, B))  # products round by strides: copies as what they copy
    rows = A @ k
    if full:
        return np.asarray(rows @ B.swapaxes(1, 2))
    return np.asarray(np.einsum("npq,npq->np", rows, np.broadcast_to(B, (len(rows), *B.shape[1:]))))


def own_mix(A: Array, q: Array, v: Array, full: bool) -> list[Array]:
    """S, M and t of an image's combinations; M as pairs have it, bit by bit."""
    s = np.sqrt(q)
    M = doubled(A, s[:, :, None] * s[:, None, :] * near_side(v), A, full)
    return own_sums((A @ s[:, :, None])[:, :, 0], diagonal(M))


def mix(A: Array, B: Array, v: Array, q1: Array, q2: Array, one: Any, two: Any, full: bool) -> Array:
    """Signed defect of ``A y`` and ``B y'``; ``one``, ``two``: S, M, t of each image."""
    r = np.multiply(*spread(np.sqrt(q1), np.sqrt(q2), True))
    return defect_of_sums([doubled(A, r * side, B, full) for side in sides(v)], one, two, full)


# ---------------------------------------------------------------- one position at a time


def gathered(index: npt.NDArray[np.int64], k: Array, pairs: bool, empty: float) -> Array:
    """Entries by the positions that each reads; ``empty`` where a position has no source."""
    if not pairs or k.ndim == 2:
        found = k[:, index]
        return found if (index >= 0).all() else np.where(index >= 0, found, empty)
    found = k[:, index[:, None], index]
    known = (index >= 0)[:, None] & (index >= 0)
    return found if known.all() else np.where(known, found, empty)


def local(k: Array, full: bool, empty: float) -> Array:
    """(n, P) as (n, P, P) with ``empty`` where p != p'."""
    if not full:
        return k
    found = np.full((*k.shape, k.shape[1]), empty, k.dtype)
    at = np.arange(k.shape[1])
    found[:, at, at] = k
    return found


def embedded(R: Array, a: float, c: float, v: Array, q1: Array, q2: Array, full: bool) -> Array:
    """Signed defect of ``sqrt(a) y + sqrt(c) e``, e a Gaussian of covariance R that is independent of y."""
    own = np.diagonal(R)[None]
    total1, total2 = (a * q + c * own for q in (q1, q2))
    safe1, safe2 = (np.where(total == 0, 1, total) for total in (total1, total2))
    R = R[None] if full else own
    parts = [(v, a * q1 / safe1, a * q2 / safe2)]
    parts.append((Correlation.of_covariances(*_ends(own, R, full)).defect, c * own / safe1, c * own / safe2))
    minus: Any = 0
    plus: Any = 0
    for v_b, share1, share2 in parts:
        p1, p2 = spread(np.sqrt(share1), np.sqrt(share2), full)
        minus_b, plus_b = sides(v_b)
        apart = (p1 - p2) ** 2 / 2
        minus, plus = minus + p1 * p2 * minus_b + apart, plus + p1 * p2 * plus_b + apart
    return joined(minus, plus, *spread(total1, total2, full))


def _ends(own: Array, R: Array, full: bool) -> tuple[Array, Array, Array]:
    one, two = spread(own, own, full)
    return one, R, two


def dropped(keep: float, v: Array, same: Array) -> Array:
    """Signed defect behind dropout: the same draw at ``same`` entries, elsewhere ``rho' = keep rho``."""
    minus, plus = (1 - keep + keep * side for side in sides(v))
    return np.where(same, v, joined(minus, plus, np.ones(1), np.ones(1)))


def same_entries(same: Flags, size: int, full: bool) -> Array:
    """Which entries are an image's position with itself; ``same``: pairs of an image with itself."""
    return same[:, None, None] & np.eye(size, dtype=bool) if full else np.broadcast_to(same[:, None], (len(same), size))
