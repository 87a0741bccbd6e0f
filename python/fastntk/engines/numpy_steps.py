"""One op over pairs of positions, in NumPy: what it does to values and NTKs, and what it reads of one image.

A slot holds the signed defect v of correlations, or where the network is linear from there on the covariance K, and the
NTK theta; arrays are (pairs, P, P'), or (pairs, P) where p = p' alone is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..network.activations import Correlation, is_dual, of_input, of_op, rho_of, signed_defect
from ..network.maps import Attention, Whole
from ..network.program import WEIGHTED, Op
from ..network.window import Positions
from ..plan.rows import gain, rows_of, share_of_part
from . import numpy_mix as mixing
from .masked import settled
from .numpy_mix import Flags, diagonal, near_side, sides, spread
from .numpy_rows import run_op

Array = npt.NDArray[Any]

State: TypeAlias = "tuple[Array, Array, bool]"  # a slot: v, or K where the third is True (linear), and theta
Planes: TypeAlias = (
    "list[Array]"  # what a step reads of one image: of an input unit pixels and q; q of each source, more
)


@dataclass(frozen=True)
class Step:
    """An op, or the loading of an input, and how the result is kept."""

    op: Op
    numbers: tuple[float, ...]  # its own
    full: bool  # all pairs of positions, else p = p'
    linear: bool  # as a covariance, else as a signed defect
    taps: Positions  # (P_out, taps): the input position that each tap reads, -1 outside
    scale: Array  # (P_out,): what a pool multiplies by

    @property
    def reads(self) -> bool:
        """Whether it takes all pairs of positions of its sources."""
        return reads_pairs(self.op) or (self.full and self.op.name != "local")

    @property
    def positions(self) -> int:
        """Of the result, where the op says."""
        return len(self.taps) if self.op.map is None else int(self.op.map.size_out)


def reads_pairs(op: Op) -> bool:
    """Whether entries p = p' of an op's result need others of its sources."""
    return op.name in ("pool", "mix")


def geometry(op: Op, numbers: tuple[float, ...]) -> tuple[Positions, Array]:
    """Input positions of each output position and tap, numbered through, and what a pool multiplies by."""
    taps, scale = np.zeros((1, 1), np.int64), np.full(1, numbers[0] if op.name == "pool" else 1.0)
    if op.window is None:
        return taps, scale
    for axis, size in enumerate(op.window.size_in):
        before, here = taps[:, None, :, None], op.window.positions(axis)[None, :, None, :]
        joint = np.where((before < 0) | (here < 0), -1, before * size + here)
        taps = joint.reshape(len(taps) * op.window.size_out[axis], -1)
        edges = op.window.shape[axis] / op.window.counts(axis) if op.window.normalize_edges else 1.0
        scale = np.multiply.outer(scale, np.broadcast_to(edges, op.window.size_out[axis])).reshape(-1)
    return taps, scale


def of_image(
    step: Step, q: Sequence[Array], sources: Sequence[State], barred: Flags | None, graphs: Array | None, part: slice
) -> Planes:
    """What a step reads of one image beside the variances of its sources; ``barred``: their masked positions."""
    name = step.op.name
    if name == "pool":
        found = [] if step.linear else _window_sums(step, q[0], sources[0][0])
        if barred is not None and step.op.map == Whole(True):  # the mean is over what is not masked
            found.append(barred.shape[1] / np.maximum((~barred).sum(axis=1, keepdims=True), 1))
        return found
    if name == "norm":
        mean = q[0] if step.op.map is None else step.op.map(q[0], barred)
        return [gain(mean, step.numbers[0], np)]
    if name != "mix":
        return []
    if isinstance(step.op.map, Attention):
        k, _, linear = sources[-1]
        s = np.sqrt(q[-1])
        k = k if linear else s[:, :, None] * s[:, None, :] * rho_of(k)
        found = [step.op.map.of_covariances(k, step.numbers[0], barred)]
    else:
        assert graphs is not None
        # copies, as pairs have: products round by strides
        found = [np.repeat(graphs, len(q[0]), axis=0) if len(graphs) == 1 else graphs[part].copy()]
    return found if step.linear else found + mixing.own_mix(found[0], q[0], sources[0][0], step.full)


def of_given(step: Step, k: Array, theta: Array | None, q1: Array, q2: Array) -> State:
    """The state of an input that is covariances of a chunk of pairs, (pairs, P, P'), and NTKs."""
    q1, q2 = spread(q1, q2, step.full)
    k = k if step.full else diagonal(k)
    known = np.zeros_like(k) if theta is None else theta if step.full else diagonal(theta)
    return settled(Correlation.of_covariances(q1, k, q2).defect), known, False


def _input(one: Planes, two: Planes, full: bool) -> State:
    """``1 - |rho| = |u - sign u'|^2 / 2``: no digits are lost where pixels are alike or opposite."""
    (u1, q1), (u2, q2) = one, two
    rho = u1 @ u2.swapaxes(1, 2) if full else np.einsum("bpc,bpc->bp", u1, u2)
    sign, w = np.where(rho < 0, -1.0, 1.0), np.zeros_like(rho)
    for c in range(u1.shape[2]):  # one channel at a time: no array of pairs of positions and channels
        a, b = spread(u1[:, :, c], u2[:, :, c], full)
        w += (a - sign * b) ** 2 / 2
    q1, q2 = spread(q1, q2, full)
    return np.where((q1 == 0) | (q2 == 0), 1, signed_defect(sign > 0, w)), np.zeros_like(w), False


def apply(
    step: Step, one: Planes, two: Planes, sources: Sequence[State], same: Flags | None = None,
    hidden1: Flags | None = None, hidden2: Flags | None = None,
) -> State:  # fmt: skip
    """One op on a chunk of pairs; ``one`` and ``two`` are what it needs of each image, and its masked positions.

    ``same``: which pairs are an image with itself, for dropout.
    """
    if step.op.name == "input":
        value, theta, _ = _input(one, two, step.full)
    else:
        value, theta = _carried(step, one, two, sources, same)
    if hidden1 is not None or hidden2 is not None:
        one1, two1 = (np.zeros((1, 1), bool) if h is None else h for h in (hidden1, hidden2))
        barred = np.logical_or(*spread(one1, two1, step.full))
        value, theta = np.where(barred, 0.0 if step.linear else 1.0, value), np.where(barred, 0, theta)
    return value, theta, step.linear


def _carried(step: Step, one: Planes, two: Planes, sources: Sequence[State], same: Flags | None) -> tuple[Array, Array]:
    name, full = step.op.name, step.reads
    q1, q2 = zip(*(spread(a, b, full) for a, b, _ in zip(one, two, sources, strict=False)), strict=True)
    given = []
    for (*source, linear), a, b in zip(sources, q1, q2, strict=True):
        value, theta = (k if full else diagonal(k) for k in source)
        given.append((np.sqrt(a) * np.sqrt(b) * rho_of(value) if step.linear and not linear else value, theta))
    value, theta = given[0]
    if name == "pool":
        s1, s2 = spread(_scale(step, one), _scale(step, two), step.full)
        theta = s1 * s2 * _sum_pairs(step, theta, step.full)
        value = s1 * s2 * _sum_pairs(step, value, step.full) if step.linear else _pool(step, value, one, two)
    elif name in ("conv", "transposed") and not step.linear:
        value, theta = _conv(step, value, theta, one[0], two[0])
    elif name in ("local", "gather", "mix", "embed", "drop"):
        value, theta = _moved(step, value, theta, one, two, same)
    elif name == "norm":
        g1, g2 = spread(one[1], two[1], full)
        value, theta = (g1 * g2 * value if step.linear else value), g1 * g2 * theta
    elif name == "product" and step.linear:
        for k, theta_b in given[1:]:
            value, theta = value * k, theta * k + value * theta_b
    elif not step.linear:
        x1, x2 = (of_input(_rows(step, own, full, at)) for own, at in ((one, 0), (two, 1)))
        value, theta = run_op(step.op, step.numbers, x1, x2, given)
    elif name == "sum":
        value, theta = (np.sum(parts, axis=0) for parts in zip(*given, strict=True))
        means = zip(one[len(given) :], two[len(given) :], strict=True)
        value = value + _crossed([spread(a, b, full) for a, b in means])
    elif name != "store":
        w2, b2, f, g = step.numbers
        if name != "dense":
            value, theta = mean_of(step, value), mean_of(step, theta)
        value, theta = w2 * value + b2, w2 * theta + f * value + g
    return value, theta


def _crossed(means: Sequence[tuple[Array, Array]]) -> Array:
    """Products of every two parts' means, which the covariance of a sum has beside theirs."""
    total: Any = np.zeros(1)
    so_far: Any = (0.0, 0.0)
    for m1, m2 in means:
        total = total + m1 * so_far[1] + so_far[0] * m2
        so_far = so_far[0] + m1, so_far[1] + m2
    return np.asarray(total)


def image_rows(step: Step, own: Planes) -> dict[str, Array]:
    """What ``run_op`` reads of one image, by name, position by position."""
    count = len(step.op.src)
    if not step.op.means:
        return dict(rows_of(step.op, step.numbers, own[:count]))
    q, means = own[:count], own[count:]
    total = np.sum(q, axis=0) + _crossed([(m, m) for m in means])
    found = {f"share{k}": share_of_part(part, total, np) for k, part in enumerate(q)}
    if step.op.kind != "means":  # of one mean there is no product
        return found
    return found | {f"mean{k}": np.where(total == 0, 0, m / np.sqrt(total)) for k, m in enumerate(means)}


def _rows(step: Step, own: Planes, full: bool, at: int) -> dict[str, Array]:
    """The same, to broadcast over pairs of positions."""
    return {name: spread(row, row, full)[at] for name, row in image_rows(step, own).items()}


def _moved(step: Step, value: Array, theta: Array, one: Planes, two: Planes, same: Flags | None) -> tuple[Array, Array]:
    """Ops that move or combine positions."""
    name, full, linear = step.op.name, step.full, step.linear
    nothing = 0.0 if linear else 1.0
    if name == "local":
        return mixing.local(value, full, nothing), mixing.local(theta, full, 0.0)
    if name == "gather":
        index = step.op.map.index
        return mixing.gathered(index, value, full, nothing), mixing.gathered(index, theta, full, 0.0)
    if name == "mix":
        at = len(step.op.src)
        A, B = one[at], two[at]
        if linear:
            value = mixing.doubled(A, value, B, full)
        else:
            value = mixing.mix(A, B, value, one[0], two[0], one[at + 1 :], two[at + 1 :], full)
        return value, mixing.doubled(A, theta, B, full)
    if name == "embed":
        a, c = step.numbers
        R = step.op.map.matrix
        extra = c * (R[None] if full else np.diagonal(R)[None])
        theta = a * theta + extra
        return (a * value + extra if linear else mixing.embedded(R, a, c, value, one[0], two[0], full)), theta
    assert same is not None
    met = mixing.same_entries(same, value.shape[-1], full)
    keep = step.numbers[0]
    theta = np.where(met, theta / keep, theta)
    return np.where(met, value / keep, value) if linear else mixing.dropped(keep, value, met), theta


def variance(step: Step, own: Planes) -> Array:
    """Variances of a result."""
    name, params = step.op.name, step.numbers
    if name in ("input", "pool"):
        return own[1] if name == "input" else (_scale(step, own) * own[3]) ** 2
    if name == "sum":
        count = len(step.op.src)
        return np.asarray(np.sum(own[:count], axis=0) + _crossed([(m, m) for m in own[count:]]))
    if name == "product":
        return np.asarray(np.prod(own, axis=0))
    if name == "norm":
        return own[0] * own[1] * own[1]
    if name == "mix":
        return own[-1] ** 2
    if name == "gather":
        return mixing.gathered(step.op.map.index, own[0], False, 0.0)
    if name == "embed":
        return params[0] * own[0] + params[1] * np.diagonal(step.op.map.matrix)[None]
    if name in ("local", "drop"):
        return own[0] if name == "local" else own[0] / params[0]
    if name in WEIGHTED:
        return params[0] * (own[0] if name == "dense" else mean_of(step, own[0])) + params[1]
    return of_op(step.op, params).variance(own[0])


def mean_behind(step: Step, q: Sequence[Array], means: Sequence[Array | None], own: Planes) -> Array | None:
    """E y of a result, where that of its sources is known: of nonlinearities, and what has no weights of its own.

    None: 0, as of what has no nonlinearity before it.
    """
    name = step.op.name
    if is_dual(name):
        return of_op(step.op, step.numbers).mean(q[0])
    like = next((m for m in means if m is not None), None)
    if like is None:
        return None
    parts = [np.zeros_like(like) if m is None else m for m in means]
    mean = parts[0]
    if name == "sum":
        return np.asarray(np.sum(own[len(parts) :] if step.op.means else parts, axis=0))
    if name == "product":
        return np.asarray(np.prod(parts, axis=0))
    if name == "pool":
        return np.asarray(_scale(step, own) * sum(_taps(step, mean)))
    if name == "gather":
        return mixing.gathered(step.op.map.index, mean, False, 0.0)
    if name == "mix":
        return (own[len(q)] @ mean[:, :, None])[:, :, 0]
    if name in WEIGHTED:
        return math.sqrt(step.numbers[0]) * (mean if name == "dense" else mean_of(step, mean))
    return mean


def _columns(step: Step) -> Positions:
    """Taps, one of all positions at a time. Circular pools that read the same add it in one order: equal to the bit."""
    circular = step.op.name == "pool" and step.op.window is not None and step.op.window.circular
    return np.sort(step.taps, axis=1).T if circular else step.taps.T


def _taps(step: Step, k: Array) -> Iterator[Array]:
    """What each tap reads, the same one at both positions."""
    k = np.pad(k, [(0, 0)] + [(0, 1)] * (k.ndim - 1))  # the index -1, outside, finds zeros behind the last position
    return (k[:, p] if k.ndim == 2 else k[:, p[:, None], p] for p in _columns(step))


def mean_of(step: Step, k: Array) -> Array:
    return np.asarray(sum(_taps(step, k)) / step.taps.shape[1])


def _conv(step: Step, v: Array, theta: Array, q1: Array, q2: Array) -> tuple[Array, Array]:
    """A convolution's result is the sum of independent parts, one for each tap and one for the biases.

    As in ``reference.py``, ``1 - rho`` is the sum of ``p1 p2 (1 - rho_b) + (p1 - p2)^2 / 2`` with p each part's share
    of the standard deviation. A part that lies outside one of the images has share 0 there.
    """
    w2, b2, f, g = step.numbers
    r = np.multiply(*spread(np.sqrt(q1), np.sqrt(q2), step.full))
    theta = mean_of(step, w2 * theta + f * r * rho_of(v)) + g
    total1, total2 = (w2 * mean_of(step, q) + b2 for q in (q1, q2))
    safe = [np.where(total == 0, 1, total) for total in (total1, total2)]
    share = w2 / step.taps.shape[1]
    shares = ([np.sqrt(k / t) for k in _taps(step, share * q)] for q, t in zip((q1, q2), safe, strict=True))
    p1, p2 = spread(np.sqrt(b2 / safe[0]), np.sqrt(b2 / safe[1]), step.full)
    apart, minus, plus = (p1 - p2) ** 2 / 2, np.zeros(1), 2 * p1 * p2  # both positions have the same biases: rho_b = 1
    for p1, p2, minus_b, plus_b in zip(*shares, *(_taps(step, side) for side in sides(v)), strict=True):
        p1, p2 = spread(p1, p2, step.full)
        both, apart = p1 * p2, apart + (p1 - p2) ** 2 / 2
        minus, plus = minus + both * minus_b, plus + both * plus_b
    return mixing.joined(minus + apart, plus + apart, *spread(total1, total2, step.full)), theta


def _scale(step: Step, own: Planes) -> Array:
    """What a pool multiplies sums of an image by."""
    masked = own[1 if step.linear else 4 :]
    return np.asarray(step.scale[None] * masked[0] if masked else step.scale[None])


def _sum_pairs(step: Step, k: Array, full: bool) -> Array:
    """Sum over all pairs of taps (a, b) of two windows."""
    k = np.pad(k, [(0, 0), (0, 1), (0, 1)])
    columns = _columns(step)
    rows = np.asarray(sum(k[:, p] for p in columns))
    return np.asarray(sum(rows[:, :, p] if full else rows[:, np.arange(len(p)), p] for p in columns))


def _window_sums(step: Step, q: Array, v: Array) -> Planes:
    """Of one image: ``S = sum_a sigma_a``, ``M = sum_ab sigma_a sigma_b (1 - rho_ab)``, and t, ``t^2 = S^2 - M``."""
    sigma = np.sqrt(q)
    S = np.asarray(sum(_taps(step, sigma)))
    M = _sum_pairs(step, sigma[:, :, None] * sigma[:, None, :] * near_side(v), full=False)
    return mixing.own_sums(S, M)


def _pool(step: Step, v: Array, one: Planes, two: Planes) -> Array:
    """Signed defect of window sums, from sums over pairs of taps that have no negative terms."""
    r = np.multiply(*spread(np.sqrt(one[0]), np.sqrt(two[0]), True))
    pairs = [_sum_pairs(step, r * side, step.full) for side in sides(v)]
    return mixing.defect_of_sums(pairs, one[1:4], two[1:4], step.full)
