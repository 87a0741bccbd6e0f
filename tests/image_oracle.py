"""Kernels of networks with spatial axes by definition: covariances of every pair of positions of every two samples.

Reads the arguments of fastntk's layers and none of their code but a nonlinearity's closed form ``exact``, which
``test_duals.py`` holds to integrals: zero-padded arrays, one sum for each tap, in ``np.longdouble``. Where a
correlation is within ``EQUAL`` of 1 or -1 it counts as that, and nothing may come so near without being: the square
root of what rounding leaves would cost the NTK half its digits. Memory grows with the fourth power of an image's side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
from fastntk.network.activations import Nonlinearity

LD = np.longdouble
PI = 4 * np.arctan(LD(1))
EQUAL = 1e4 * float(np.finfo(LD).eps)  # beyond the roundings of some dozen layers
APART = 100 * EQUAL


@dataclass(frozen=True)
class State:
    """Covariances and NTKs of all samples with all, (n, n, *spatial, *spatial), and the finite network's channels."""

    nngp: Any
    ntk: Any
    channels: int

    @property
    def rank(self) -> int:
        return (self.nngp.ndim - 2) // 2

    @property
    def spatial(self) -> tuple[int, ...]:
        return self.nngp.shape[2 : 2 + self.rank]

    def variances(self) -> Any:
        """(n, *spatial): each position with itself."""
        n, p = len(self.nngp), math.prod(self.spatial)
        return np.einsum("aapp->ap", self.nngp.reshape(n, n, p, p)).reshape(n, *self.spatial)


def inputs(x: Any) -> State:
    """Samples (n, *spatial, channels)."""
    n, *spatial, channels = x.shape
    rows = x.astype(LD).reshape(-1, channels)
    p = math.prod(spatial)
    nngp = (rows @ rows.T / channels).reshape(n, p, n, p).swapaxes(1, 2).reshape(n, n, *spatial, *spatial)
    return State(nngp, np.zeros_like(nngp), channels)


# ---------------------------------------------------------------- windows


def of_axis(value: Any, axis: int) -> Any:
    """What an argument of a layer says of one axis."""
    return value[axis] if isinstance(value, tuple) else value


def slide(x: Any, axes: tuple[int, ...], taps: int, stride: int, dilation: int, padding: Any) -> Any:
    """Sum over the taps of a window that moves along these axes at once."""
    size, reach = x.shape[axes[0]], (taps - 1) * dilation + 1
    pads = [(0, 0)] * x.ndim
    if not isinstance(padding, str) or padding == "VALID":
        ends = (0, 0) if padding == "VALID" else (of_axis(padding, 0), of_axis(padding, 1))
        out = (sum(ends) + size - reach) // stride + 1
        for axis in axes:
            pads[axis] = ends
    else:
        out = math.ceil(size / stride)
        total = max((out - 1) * stride + reach - size, 0)
        for axis in axes:
            pads[axis] = (total // 2, total - total // 2)
    x = np.pad(x, pads, mode="wrap" if padding == "CIRCULAR" else "constant")
    total = 0
    for tap in range(taps):
        part = [slice(None)] * x.ndim
        for axis in axes:
            part[axis] = slice(tap * dilation, tap * dilation + (out - 1) * stride + 1, stride)
        total = total + x[tuple(part)]
    return total


def filtered(x: Any, rank: int, layer: Any) -> Any:
    """Mean over the taps that both positions share."""
    for axis in range(rank):
        both = (2 + axis, 2 + rank + axis)
        taps, *rest = (of_axis(getattr(layer, n), axis) for n in ("filter_shape", "strides", "dilation", "padding"))
        x = slide(x, both, taps, *rest) / taps
    return x


def pooled(x: Any, rank: int, layer: Any) -> Any:
    """Sum or mean over the positions in both windows."""
    for axis in [*range(rank), *range(rank)]:
        place = 2 + axis
        size = x.shape[place]
        taps, stride, padding = (of_axis(getattr(layer, n), axis) for n in ("window_shape", "strides", "padding"))
        x = slide(x, (place,), taps, stride, 1, padding)
        if type(layer).__name__ == "AvgPool":
            divisor = LD(taps)
            if layer.normalize_edges and padding not in ("VALID", "CIRCULAR"):
                divisor = np.maximum(slide(np.ones(size, LD), (0,), taps, stride, 1, padding), 1)
                divisor = divisor.reshape([-1 if k == place else 1 for k in range(x.ndim)])
            x = x / divisor
        if axis == rank - 1:  # the first positions are done: the others' turn
            x = np.moveaxis(x, range(2, 2 + rank), range(2 + rank, 2 + 2 * rank))
    return x


# ---------------------------------------------------------------- duals


class LongDouble:
    """mpmath's names for functions of long double arrays: what a nonlinearity's ``exact`` is evaluated with."""

    pi = PI
    e = np.exp(LD(1))
    mpf = LD
    acos, asin, atan, atan2, acosh, asinh, atanh = (
        staticmethod(f) for f in (np.arccos, np.arcsin, np.arctan, np.arctan2, np.arccosh, np.arcsinh, np.arctanh)
    )

    def __getattr__(self, name: str) -> Any:
        if isinstance(function := getattr(np, name, None), np.ufunc):
            return function
        return lambda *numbers: LD(str(getattr(mpmath.mp, name)(*numbers)))  # factorials of integers, and such


# In place of a variance of 0, where a correlation has no meaning; and what is 0 of the results.
NOTHING, NEXT_TO_NOTHING = LD(10) ** -2400, LD(10) ** -1000


def dual(layer: Any, q1: Any, c: Any, q2: Any) -> tuple[Any, Any]:
    """The closed form of the layer's class, once what is parallel but for rounding is so exactly."""
    a, b, shift = (LD(v) for v in layer.affine)
    q1, q2 = (np.maximum(b * b * q, NOTHING) for q in (q1, q2))
    r = np.sqrt(q1 * q2)
    rho = b * b * c / r
    gap = 1 - np.abs(rho)
    between = (gap > EQUAL) & (gap < APART)
    assert not between.any(), f"|rho| within {float(gap[between].min()):.3g} of 1, undecided"
    k, kdot = layer.exact(q1, np.where(gap <= EQUAL, np.sign(rho) * r, b * b * c), q2, LongDouble())
    k, kdot = (np.where(np.abs(v) > NEXT_TO_NOTHING, v, 0) for v in (k, kdot))
    return a * a * k + shift * shift, (a * b) ** 2 * kdot


# ---------------------------------------------------------------- networks


def weighted(layer: Any, state: State, nngp: Any, ntk: Any, fan_in: int, width: int) -> State:
    w2, b2 = LD(layer.W_std) ** 2, LD(layer.b_std or 0) ** 2
    ahead = w2 * nngp + b2
    if layer.parameterization == "ntk":
        return State(ahead, ahead + w2 * ntk, width)
    trained = int(layer.b_std is not None)
    return State(ahead, LD(fan_in) / layer.s[0] * nngp + trained + w2 * ntk, width * layer.s[1])


def step(layer: Any, state: Any) -> Any:
    """What is behind a layer; for branches, tuples of states."""
    match type(layer).__name__:
        case "Serial":
            for part in layer.layers:
                state = step(part, state)
            return state
        case "Parallel":
            return tuple(step(part, own) for part, own in zip(layer.layers, state, strict=True))
        case "FanOut":
            return (state,) * layer.num
        case "FanInSum":
            return State(sum(s.nngp for s in state), sum(s.ntk for s in state), state[0].channels)
        case "Identity":
            return state
        case "Dense":
            return weighted(layer, state, state.nngp, state.ntk, state.channels, layer.out_dim)
        case "Conv":
            nngp, ntk = (filtered(x, state.rank, layer) for x in (state.nngp, state.ntk))
            fan_in = state.channels * math.prod(of_axis(layer.filter_shape, axis) for axis in range(state.rank))
            return weighted(layer, state, nngp, ntk, fan_in, layer.out_chan)
        case "AvgPool" | "SumPool":
            return State(*(pooled(x, state.rank, layer) for x in (state.nngp, state.ntk)), state.channels)
        case "GlobalAvgPool" | "GlobalSumPool":
            axes = tuple(range(2, state.nngp.ndim))
            scale = math.prod(state.spatial) ** 2 if type(layer).__name__ == "GlobalAvgPool" else 1
            return State(state.nngp.sum(axis=axes) / scale, state.ntk.sum(axis=axes) / scale, state.channels)
        case "Flatten":
            n, p = len(state.nngp), math.prod(state.spatial)
            means = (np.trace(x.reshape(n, n, p, p), axis1=2, axis2=3) / p for x in (state.nngp, state.ntk))
            return State(*means, state.channels * p)
    if not isinstance(layer, Nonlinearity):
        raise TypeError(f"no oracle for {layer!r}")
    q, ones = state.variances(), (1,) * state.rank
    n, spatial = len(q), state.spatial
    first, second = q.reshape(n, 1, *spatial, *ones), q.reshape(1, n, *ones, *spatial)
    k, kdot = dual(layer, first, state.nngp, second)
    return State(k, np.where(state.ntk == 0, 0, state.ntk * kdot), state.channels)


def kernels(net: Any, x1: Any, x2: Any = None, channel_axis: int = -1) -> dict[str, Any]:
    """float64 ``nngp`` and ``ntk`` (n1, n2, h, h', w, w') and variances ``q1``, ``q2`` (n, h, w); x2 None: x1 again."""
    first = np.moveaxis(x1, channel_axis, -1)
    both = first if x2 is None else np.concatenate([first, np.moveaxis(x2, channel_axis, -1)])
    state = step(net, inputs(both))
    rank = state.rank
    order = [0, 1, *(axis + 2 for pair in zip(range(rank), range(rank, 2 * rank), strict=True) for axis in pair)]
    cut = slice(0, len(first)), slice(0 if x2 is None else len(first), None)
    q = state.variances()
    found = {name: getattr(state, name)[cut].transpose(order).astype(float) for name in ("nngp", "ntk")}
    return found | {"q1": q[cut[0]].astype(float), "q2": q[cut[1]].astype(float)}
