"""What goes back through ops that join values, or normalise, drop and mix them by an image's own matrices.

Formulas: numpy_image_adjoint.py. ``sweep`` is its :class:`~.numpy_image_adjoint.Sweep`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..network.maps import Attention
from .numpy_image_back import gaps, half_gap, on_diagonal
from .numpy_mix import same_entries, spread
from .numpy_steps import Planes, Step

Array = npt.NDArray[Any]


def norm(sweep: Any, k: int, P: Array, T: Array | None, found: Any, numbers: Any) -> None:
    """Correlations stay; gains are those of the variances."""
    step, (s,) = sweep.tangents.steps[k], sweep.tangents.sources(k)
    g1, g2 = spread(sweep.one[k][1], sweep.two[k][1], step.full)
    value, theta, _ = sweep.states[k]
    on_gain: Any = 0.0 if T is None else T * theta
    if step.linear:
        both = on_gain + P * value
        sweep.to_rows(found, k, both, "gains")
    else:
        q1, q2 = spread(sweep.one[k][0], sweep.two[k][0], step.full)
        for side, (gap, g, other) in enumerate(zip(gaps(value, g1 * g1 * q1, g2 * g2 * q2), (g1, g2), (g2, g1),
                                                   strict=True)):  # fmt: skip
            sweep.to_row(found, side, k, on_gain - P * gap, "gains")
            sweep.to_row(found, side, s, P * g * (other - g) / 2)
    on_theta = None if T is None else g1 * g2 * T
    _give(sweep, k, 0, g1 * g2 * P, on_theta, found)


def product(sweep: Any, k: int, P: Array, T: Array | None, found: Any, numbers: Any) -> None:
    step, sources = sweep.tangents.steps[k], sweep.tangents.sources(k)
    count = range(len(sources))
    K = [sweep.covariance(k, b) for b in count]
    parts: list[Any] = [None if step.linear else sweep.source(k, b) for b in count]
    for b in count:
        others = [c for c in count if c != b]
        rest = math.prod(K[c] for c in others)
        moved: Any = 0.0
        if T is not None:
            moved = T * sum(sweep.theta(k, c) * math.prod(K[d] for d in others if d != c) for c in others)
        if not step.linear:
            for side in (0, 1):
                lost, so_far = np.zeros(1), np.ones(1)  # the product of variances less that of covariances
                for c in others:
                    v, _, *q = parts[c]
                    lost = lost * q[side] + so_far * gaps(v, *q)[side]
                    so_far = so_far * K[c]
                sweep.to_row(found, side, sources[b], np.broadcast_to((moved - P * lost) / 2, P.shape))
        _give(sweep, k, b, rest * P + moved, None if T is None else rest * T, found)


def embed(sweep: Any, k: int, P: Array, T: Array | None, found: Any, numbers: Any) -> None:
    """What is added is the same for all images."""
    step = sweep.tangents.steps[k]
    (a, _), R, wanted = step.numbers, step.op.map.matrix, dict(sweep.tangents.wanted(k))
    own = np.diagonal(R)
    extra = R[None] if step.full else own[None]
    on: dict[int, Any] = {}
    if step.linear:
        on = {0: P * sweep.covariance(k), 1: P * extra}
    else:
        v, _, q1, q2 = sweep.source(k)
        first, second = spread(own[None], own[None], step.full)
        on = {0: -P * half_gap(v, q1, q2), 1: -P * ((first + second) / 2 - extra)}
    if T is not None:
        on = {0: on[0] + T * sweep.theta(k), 1: on[1] + T * extra}
    for at, place in wanted.items():
        numbers.add(place, on[at])
    _give(sweep, k, 0, a * P, None if T is None else a * T, found)


def drop(sweep: Any, k: int, P: Array, T: Array | None, found: Any, numbers: Any) -> None:
    """An image's position with itself is divided by the rate, and so are variances."""
    step, (s,) = sweep.tangents.steps[k], sweep.tangents.sources(k)
    (keep,), wanted = step.numbers, sweep.tangents.wanted(k)
    met = same_entries(sweep.same, sweep.states[k][0].shape[-1], step.full)
    apart = np.where(met, 0, P)
    on: Any = np.zeros(P.shape)
    if step.linear:
        on = np.where(met, -P * sweep.covariance(k) / keep**2, 0)
    else:
        sweep.to_rows(found, s, -(1 / keep - 1) / 2 * apart)
        _, _, q1, q2 = sweep.source(k)
        on = apart * (q1 + q2) / (2 * keep**2)
    if T is not None:
        on = on + np.where(met, -T * sweep.theta(k) / keep**2, 0)
    for _, place in wanted:
        numbers.add(place, on)
    share = np.where(met, 1 / keep, 1)
    _give(sweep, k, 0, share * P, None if T is None else share * T, found)


def _give(sweep: Any, k: int, which: int, P: Array, T: Array | None, found: Any) -> None:
    if sweep.tangents.steps[k].linear:
        sweep.hand_over(k, which, P, T, found)
    else:
        sweep.add(sweep.tangents.sources(k)[which], P, T)


BACK = {"norm": norm, "product": product, "embed": embed, "drop": drop}


# ---------------------------------------------------------------- an image's own matrices


def matrices(step: Step, own: Planes) -> Array:
    """Of a mix, those of some images."""
    return own[len(step.op.src)]


def matrices_of_mix(sweep: Any, k: int, P: Array, T: Array | None, found: Any) -> None:
    """Derivatives in the matrices of both images, where they are attention's."""
    step = sweep.tangents.steps[k]
    if not isinstance(step.op.map, Attention):
        return
    A, B = matrices(step, sweep.one[k]), matrices(step, sweep.two[k])
    for bar, K in ((P, sweep.covariance(k)), (T, sweep.theta(k))):
        if bar is None:
            continue
        whole = bar if bar.ndim == 3 else on_diagonal(bar)
        found.add(0, "matrices", k, sweep.at[0], whole @ (B @ K.swapaxes(1, 2)))
        found.add(1, "matrices", k, sweep.at[1], whole.swapaxes(1, 2) @ (A @ K))


# ---------------------------------------------------------------- means


def means_of_sum(sweep: Any, k: int, P: Array, found: Any) -> None:
    """To the means of the branches of a sum, of whose products its covariances have some."""
    step, sources = sweep.tangents.steps[k], sweep.tangents.sources(k)
    count = len(sources)
    pairs = [spread(a, b, step.full) for a, b in zip(sweep.one[k][count:], sweep.two[k][count:], strict=True)]
    all1, all2 = sum(a for a, _ in pairs), sum(b for _, b in pairs)
    for s, (m1, m2), has in zip(sources, pairs, step.op.means, strict=True):
        if not has:
            continue
        if step.linear:
            on = P * (all2 - m2), P * (all1 - m1)
        else:
            apart = P * ((all1 - all2) - (m1 - m2))
            on = -apart, apart
        for side, values in enumerate(on):
            sweep.to_row(found, side, s, values, "means")
