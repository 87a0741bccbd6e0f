"""Networks on inputs with spatial axes, in NumPy: the recursion over pairs of positions, written to be read.

A pair of images has one kernel entry for each pair of positions (p, p'). As in ``reference.py`` a slot holds the signed
defect v of its correlation and the NTK theta, in float64. What belongs to one image (variances q, and the sums that
pools need) is made once for each image, by running the network on the pairs (x, x).

Positions are numbered through, whatever the number of axes: arrays are (pairs, P, P'), or (pairs, P) for values of
which nothing later reads more than ``p = p'``. Values with no nonlinearity between them and the outputs are kept as
covariances: from there on everything is linear in K and theta.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..network.activations import is_homogeneous, of_input, of_op, rho_of, signed_defect
from ..network.program import Lowered, Op
from ..network.window import Positions
from ..plan.rows import rows_of
from .numpy_rows import NumpyEngine, Real, run_op

Array = npt.NDArray[Any]

CHUNK = 1 << 23  # float64 entries that a chunk of pairs may hold: 64 MB
TEMPORARIES = 12  # arrays of a slot's size that an op holds beside the slots


@dataclass
class Result:
    """Kernels of one output; where it has spatial axes, x's and x''s positions stand side by side, axis by axis."""

    nngp: Array  # (n1, n2), or (n1, n2, h, h', w, w', ...)
    ntk: Array
    cov1: Array  # K(x, x): (n1,), or (n1, h, h', w, w', ...)
    cov2: Array  # the same for x2


@dataclass(frozen=True)
class _Step:
    """An op, or the loading of an input, and how the result is kept."""

    op: Op
    numbers: tuple[float, ...]  # its own
    full: bool  # all pairs of positions, else p = p'
    linear: bool  # as a covariance, else as a signed defect
    taps: Positions  # (P_out, taps): the input position that each tap reads, -1 outside
    scale: Array  # (P_out,): what a pool multiplies by


State: TypeAlias = "tuple[Array, Array, bool]"  # a slot: v, or K where the third is True (linear), and theta
Planes: TypeAlias = "list[Array]"  # what a step needs of one image: unit pixels and q; q of each source; S, M, t


def image_kernels(
    lowered: Lowered, x1: Sequence[Array], x2: Sequence[Array] | None, spatial: Sequence[tuple[int, ...]],
    progress: Callable[[int, int], object] | None = None, real: Real = np.float64,
) -> list[Result]:  # fmt: skip
    """NNGP and NTK of a program whose inputs have spatial axes.

    Parameters
    ----------
    lowered : Lowered
    x1 : sequence of numpy.ndarray (n1, *spatial axes, channels), float32 or float64
        One array for each input of the program.
    x2 : the same with n2 samples, or None for x1 again, each pair once
    spatial : sequence of tuple of int
        Spatial shape of each output, () for none.
    progress : callable, optional
        Called with the numbers of pairs done and of all, after each chunk.
    real : type, optional
        Of variances and NTKs: one that reaches further where float64 does not hold them.

    Returns
    -------
    list of Result, one for each output, of type ``real``

    Notes
    -----
    NaN and infinity in an image stay in its own rows and columns. A pair's numbers depend on its two images alone.

    References
    ----------
    Novak et al. (2019), arXiv:1810.05148; Arora et al. (2019), arXiv:1904.11955, section 4.
    """
    steps = _plan(lowered, spatial)
    sizes = [len(step.taps) ** (2 if step.full else 1) for step in steps]
    for x, step in zip(x1, steps, strict=False):  # the first steps load the inputs
        sizes.append(math.prod(x.shape[1:-1]) * max(math.prod(x.shape[1:-1]) if step.full else 1, x.shape[-1] // 4))
    chunk = max(1, CHUNK // (max(1, *sizes) * (TEMPORARIES + 2 * lowered.program.n_slots)))
    n1, n2 = len(x1[0]), len((x1 if x2 is None else x2)[0])
    rows = np.arange(n1 + 1)
    first = rows * n2 - (rows * (rows - 1) // 2 if x2 is None else 0)  # number of a row's first pair
    total = int(first[-1])
    with np.errstate(all="ignore"):  # NaN and infinity in the inputs, confined to their pairs
        one, cov1, length1 = _alone(steps, x1, spatial, chunk, real)
        two, cov2, length2 = (one, cov1, length1) if x2 is None else _alone(steps, x2, spatial, chunk, real)
        found = [np.empty((2, n1, n2, *(n for size in shape for n in (size, size))), real) for shape in spatial]
        for start in range(0, total, chunk):
            numbers = np.arange(start, min(start + chunk, total))
            i = np.asarray(np.searchsorted(first, numbers, side="right") - 1, np.int64)
            j = numbers - first[i] + (i if x2 is None else 0)
            for out, shape, k in zip(found, spatial, _pairs(steps, one, i, two, j), strict=True):
                k *= _column(length1[i] * length2[j], k[0])
                out[:, i, j] = _by_axis(k, shape)
                if x2 is None:  # the mirror image of a pair swaps positions too
                    upper = i != j
                    out[:, j[upper], i[upper]] = _by_axis((k.swapaxes(2, 3) if shape else k)[:, upper], shape)
            if progress is not None:
                progress(min(start + chunk, total), total)
    return [Result(out[0], out[1], c1, c2) for out, c1, c2 in zip(found, cov1, cov2, strict=True)]


def _plan(lowered: Lowered, spatial: Sequence[tuple[int, ...]]) -> list[_Step]:
    """Decide, from the outputs back, how each result is kept."""
    program = lowered.program
    steps: list[_Step] = []
    read: dict[int, tuple[bool, bool]] = {}  # of the value now in a slot: all pairs of positions, a nonlinearity behind
    for op in reversed((*(Op("input", slot, ()) for slot in range(program.n_inputs)), *program.ops)):
        full, behind = (bool(spatial[op.dst]), False) if op.name == "store" else read.pop(op.dst, (False, False))
        bent = op.name not in ("store", "dense", "conv", "pool", "sum")  # a dual, or an input
        own = op.own(lowered.numbers)
        steps.append(_Step(op, own, full, not (bent or behind), *_geometry(op, own)))
        for slot in op.src:
            fully, bends = read.get(slot, (False, False))
            read[slot] = (fully or full or op.name == "pool", bends or behind or bent)
    return steps[::-1]


def _geometry(op: Op, numbers: tuple[float, ...]) -> tuple[Positions, Array]:
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


def _by_axis(k: Array, spatial: tuple[int, ...]) -> Array:
    """(..., P, P') -> (..., h, h', w, w', ...), and (..., 1) -> (...) where the output has no spatial axes."""
    if not spatial:
        return k[..., 0]
    lead, axes = k.shape[:-2], len(spatial)
    order = [*range(len(lead)), *(len(lead) + a + side for a in range(axes) for side in (0, axes))]
    return k.reshape(*lead, *spatial, *spatial).transpose(order)


def _alone(
    steps: list[_Step], x: Sequence[Array], spatial: Sequence[tuple[int, ...]], chunk: int, real: Real
) -> tuple[list[Planes], list[Array], Array]:  # fmt: skip
    """Run the network on the pairs (x, x): each image's planes for each step, K(x, x) of the outputs, and lengths."""
    lengths = _lengths(steps, x).astype(real)
    pixels = [_normalise(values / _column(lengths, values)) for values in x]
    planes: list[list[Planes]] = [[] for _ in steps]
    covs: list[list[Array]] = [[] for _ in spatial]
    for start in range(0, max(len(x[0]), 1), chunk):
        q: dict[int, Array] = {}
        slots: dict[int, State] = {}
        for step, kept in zip(steps, planes, strict=True):
            name, dst, src = step.op.name, step.op.dst, step.op.src
            own = [q[s][:, :0] if slots[s][2] else q[s] for s in src]  # in its linear part a network needs no more q
            if name == "input":
                own = [plane[start : start + chunk] for plane in pixels[dst]]
            elif name == "pool" and not step.linear:
                own += _window_sums(step, own[0], slots[src[0]][0])
            kept.append(own)
            state = _apply(step, own, own, [slots[s] for s in src])
            if name == "store":
                covs[dst].append(_by_axis(state[0], spatial[dst]))
            else:
                slots[dst], q[dst] = state, _diagonal(state[0]) if step.linear else _variance(step, own)
    joined = [[np.concatenate(parts) for parts in zip(*kept, strict=True)] for kept in planes]
    return joined, [k * _column(lengths**2, k) for k in map(np.concatenate, covs)], lengths


def _pairs(steps: list[_Step], one: list[Planes], i: Positions, two: list[Planes], j: Positions) -> list[Array]:
    """Run the network on the pairs of images i and j: K and theta of each output, stacked."""
    slots: dict[int, State] = {}
    found: dict[int, Array] = {}
    for step, planes1, planes2 in zip(steps, one, two, strict=True):
        state = _apply(step, [p[i] for p in planes1], [p[j] for p in planes2], [slots[s] for s in step.op.src])
        if step.op.name == "store":
            found[step.op.dst] = np.stack(state[:2])
        else:
            slots[step.op.dst] = state
    return [found[output] for output in sorted(found)]


def _lengths(steps: list[_Step], x: Sequence[Array]) -> Array:
    """What each image is divided by: where brighter copies only scale kernels, they become equal, bit by bit."""
    largest = np.max([np.abs(values).max(axis=tuple(range(1, values.ndim))) for values in x], axis=0)
    usable = np.isfinite(largest) & (largest > 0)
    usable &= all(is_homogeneous(step.op) for step in steps)
    return np.where(usable, largest, 1).astype(np.float64)


def _column(of: Array, like: Array) -> Array:
    """A number for each sample, to multiply arrays of all their entries."""
    return of.reshape(-1, *[1] * (like.ndim - 1))


def _normalise(x: Array) -> Planes:
    """Unit vectors of all pixels, 0 for a zero pixel, and their variances ``|x_p|^2 / channels``."""
    shape = (len(x), math.prod(x.shape[1:-1]), x.shape[-1])
    units, norms = np.empty(shape), np.empty(shape[:2], x.dtype)
    NumpyEngine().normalise(x.reshape(shape), units, norms.reshape(-1))
    return [units, norms**2 / x.shape[-1]]


def _input(one: Planes, two: Planes, full: bool) -> State:
    """``1 - |rho| = |u - sign u'|^2 / 2``: no digits are lost where pixels are alike or opposite."""
    (u1, q1), (u2, q2) = one, two
    rho = u1 @ u2.swapaxes(1, 2) if full else np.einsum("bpc,bpc->bp", u1, u2)
    sign, w = np.where(rho < 0, -1.0, 1.0), np.zeros_like(rho)
    for c in range(u1.shape[2]):  # one channel at a time: no array of pairs of positions and channels
        a, b = _spread(u1[:, :, c], u2[:, :, c], full)
        w += (a - sign * b) ** 2 / 2
    q1, q2 = _spread(q1, q2, full)
    return np.where((q1 == 0) | (q2 == 0), 1, signed_defect(sign > 0, w)), np.zeros_like(w), False


def _apply(step: _Step, one: Planes, two: Planes, sources: Sequence[State]) -> State:
    """One op on a chunk of pairs; ``one`` and ``two`` are what it needs of each image."""
    name, full = step.op.name, step.full or step.op.name == "pool"
    if name == "input":
        return _input(one, two, full)
    q1, q2 = zip(*(_spread(a, b, full) for a, b, _ in zip(one, two, sources, strict=False)), strict=True)
    given = []
    for (*source, linear), a, b in zip(sources, q1, q2, strict=True):
        value, theta = (k if full else _diagonal(k) for k in source)
        given.append((np.sqrt(a) * np.sqrt(b) * rho_of(value) if step.linear and not linear else value, theta))
    value, theta = given[0]
    if name == "pool":
        s1, s2 = _spread(step.scale[None], step.scale[None], step.full)
        theta = s1 * s2 * _sum_pairs(step, theta, step.full)
        value = s1 * s2 * _sum_pairs(step, value, step.full) if step.linear else _pool(step, value, one, two)
    elif name == "conv" and not step.linear:
        value, theta = _conv(step, value, theta, one[0], two[0])
    elif not step.linear:
        x1, x2 = (of_input(rows_of(step.op, step.numbers, q)) for q in (q1, q2))
        value, theta = run_op(step.op, step.numbers, x1, x2, given)
    elif name == "sum":
        value, theta = (np.sum(parts, axis=0) for parts in zip(*given, strict=True))
    elif name != "store":
        w2, b2, f, g = step.numbers
        if name == "conv":
            value, theta = _mean(step, value), _mean(step, theta)
        value, theta = w2 * value + b2, w2 * theta + f * value + g
    return value, theta, step.linear


def _spread(of1: Array, of2: Array, full: bool) -> tuple[Array, Array]:
    """Let planes of two images broadcast over pairs of positions."""
    return (of1[:, :, None], of2[:, None, :]) if full else (of1, of2)


def _diagonal(k: Array) -> Array:
    return k if k.ndim == 2 else np.diagonal(k, axis1=1, axis2=2)


def _variance(step: _Step, own: Planes) -> Array:
    """Variances of a result."""
    name, params = step.op.name, step.numbers
    if name in ("input", "pool"):
        return own[1] if name == "input" else (step.scale * own[3]) ** 2
    if name == "sum":
        return np.asarray(np.sum(own, axis=0))
    if name in ("dense", "conv"):
        return params[0] * (_mean(step, own[0]) if name == "conv" else own[0]) + params[1]
    return of_op(step.op, params).variance(own[0])


def _taps(step: _Step, k: Array) -> Iterator[Array]:
    """What each tap reads, the same one at both positions."""
    k = np.pad(k, [(0, 0)] + [(0, 1)] * (k.ndim - 1))  # the index -1, outside, finds zeros behind the last position
    return (k[:, p] if k.ndim == 2 else k[:, p[:, None], p] for p in step.taps.T)


def _mean(step: _Step, k: Array) -> Array:
    return np.asarray(sum(_taps(step, k)) / step.taps.shape[1])


def _conv(step: _Step, v: Array, theta: Array, q1: Array, q2: Array) -> tuple[Array, Array]:
    """A convolution's result is the sum of independent parts, one for each tap and one for the biases.

    As in ``reference.py``, ``1 - rho`` is the sum of ``p1 p2 (1 - rho_b) + (p1 - p2)^2 / 2`` with p each part's share
    of the standard deviation. A part that lies outside one of the images has share 0 there.
    """
    w2, b2, f, g = step.numbers
    r = np.multiply(*_spread(np.sqrt(q1), np.sqrt(q2), step.full))
    theta = _mean(step, w2 * theta + f * r * rho_of(v)) + g
    total1, total2 = (w2 * _mean(step, q) + b2 for q in (q1, q2))
    safe = [np.where(total == 0, 1, total) for total in (total1, total2)]
    gain = w2 / step.taps.shape[1]
    shares = ([np.sqrt(k / t) for k in _taps(step, gain * q)] for q, t in zip((q1, q2), safe, strict=True))
    p1, p2 = _spread(np.sqrt(b2 / safe[0]), np.sqrt(b2 / safe[1]), step.full)
    apart, minus, plus = (p1 - p2) ** 2 / 2, np.zeros(1), 2 * p1 * p2  # both positions have the same biases: rho_b = 1
    for p1, p2, minus_b, plus_b in zip(*shares, *(_taps(step, side) for side in _sides(v)), strict=True):
        p1, p2 = _spread(p1, p2, step.full)
        both, apart = p1 * p2, apart + (p1 - p2) ** 2 / 2
        minus, plus = minus + both * minus_b, plus + both * plus_b
    return _defect(minus + apart, plus + apart, *_spread(total1, total2, step.full)), theta


def _sides(v: Array) -> tuple[Array, Array]:
    """``1 - rho`` and ``1 + rho``."""
    return np.where(v < 0, 2 + v, v), np.where(v < 0, -v, 2 - v)


def _defect(minus: Array, plus: Array, q1: Array, q2: Array) -> Array:
    """Signed defect from ``1 - rho`` and ``1 + rho``; a zero variance counts as ``rho = 0``."""
    v = np.where(minus > plus, signed_defect(np.asarray(False), plus), np.maximum(minus, 0))
    return np.where((q1 == 0) | (q2 == 0), 1, v)


def _sum_pairs(step: _Step, k: Array, full: bool) -> Array:
    """Sum over all pairs of taps (a, b) of two windows."""
    k = np.pad(k, [(0, 0), (0, 1), (0, 1)])
    rows = np.asarray(sum(k[:, p] for p in step.taps.T))
    return np.asarray(sum(rows[:, :, p] if full else rows[:, np.arange(len(p)), p] for p in step.taps.T))


def _window_sums(step: _Step, q: Array, v: Array) -> Planes:
    """Of one image: ``S = sum_a sigma_a``, ``M = sum_ab sigma_a sigma_b (1 - rho_ab)``, and t, ``t^2 = S^2 - M``."""
    sigma = np.sqrt(q)
    S = np.asarray(sum(_taps(step, sigma)))
    M = _sum_pairs(step, sigma[:, :, None] * sigma[:, None, :] * _sides(v)[0], full=False)
    return [S, M, np.sqrt(np.maximum(S**2 - M, 0))]


def _scale(S: Array) -> Array:
    """A power of two that brings S to [1/2, 1), as near as its type goes."""
    most = np.finfo(S.dtype).maxexp - 24
    return np.asarray(np.ldexp(np.ones_like(S), np.clip(-np.frexp(S)[1], -most, most)))


def _pool(step: _Step, v: Array, one: Planes, two: Planes) -> Array:
    """Signed defect of window sums z, from sums over pairs of taps that have no negative terms.

    ``t t' (1 - rho) = (E (z - z')^2 - (t - t')^2) / 2``, t a deviation, and ``E (z - z')^2 = 2 M12 - M11 - M22 +
    (S - S')^2``. In ``d = S - t`` the squares differ by ``(d - d') (2 (S - S') - (d - d'))``: as small as M where
    windows are alike, and all of it is 0 where they are equal. ``1 + rho`` is the same with ``1 + rho`` in M12.
    M grows with S^2, what is left of it with S S': powers of two bring each S to [1/2, 1) first, or windows of two
    sizes would cancel all digits.
    """
    e1, e2 = (_scale(plane[1]) for plane in (one, two))
    scaled1, scaled2 = ((S * e, M * e * e, t * e) for (_, S, M, t), e in ((one, e1), (two, e2)))
    (S1, S2), (M1, M2), (t1, t2), (e1, e2) = (
        _spread(a, b, step.full) for a, b in zip((*scaled1, e1), (*scaled2, e2), strict=True)
    )
    d = M1 / np.where(S1 == 0, 1, S1 + t1) - M2 / np.where(S2 == 0, 1, S2 + t2)
    rest = (d * (2 * (S1 - S2) - d) - (M1 + M2)) / 2
    r = np.multiply(*_spread(np.sqrt(one[0]), np.sqrt(two[0]), True))
    minus, plus = ((_sum_pairs(step, r * side, step.full) * e1 * e2 + rest) / (t1 * t2) for side in _sides(v))
    return _defect(minus, plus, t1, t2)
