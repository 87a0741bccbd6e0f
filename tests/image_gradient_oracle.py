"""Gradients of networks on signals that share no code with the library: covariances of all positions of two signals,
one sum for each tap, in 60 digits, differentiated by differences with a step of 1e-25."""

from __future__ import annotations

from itertools import product
from typing import Any

import mpmath
import numpy as np
from fastntk.network.activations import Nonlinearity

mp = mpmath.MPContext()
mp.dps = 60
STEP = mp.mpf(10) ** -25


def _taps(layer: Any, size: int) -> list[list[int | None]]:
    """What each output position reads, None outside; SAME or VALID along one axis."""
    taps = (layer.filter_shape if hasattr(layer, "filter_shape") else layer.window_shape)[0]
    stride = (layer.strides or (1,))[0]
    out, low = (size - taps) // stride + 1, 0
    if layer.padding == "SAME":
        out = -(-size // stride)
        low = max((out - 1) * stride + taps - size, 0) // 2
    found = [[p * stride + a - low for a in range(taps)] for p in range(out)]
    return [[q if 0 <= q < size else None for q in row] for row in found]


class _State:
    """K and NTK of two signals: ``[(a, p), (b, r)]``."""

    def __init__(self, size: int, entry: Any) -> None:
        self.size = size
        self.at = {(a, p, b, r): entry(a, p, b, r) for a, p, b, r in product((0, 1), range(size), (0, 1), range(size))}


def _through(layer: Any, state: _State, values: dict[str, Any], path: str) -> _State:
    def number(name: str) -> Any:
        given = getattr(layer, name)
        return None if given is None else mp.mpf(values.get(path + name, given))

    def read(a: int, p: Any, b: int, r: Any) -> Any:
        return (mp.zero, mp.zero) if p is None or r is None else state.at[a, p, b, r]

    def weighted(k: Any, theta: Any) -> Any:
        w2, b2 = number("W_std") ** 2, (number("b_std") or mp.zero) ** 2
        return w2 * k + b2, w2 * theta + w2 * k + b2

    name = type(layer).__name__
    if name == "Dense":
        return _State(state.size, lambda *at: weighted(*state.at[at]))
    if name == "Conv":
        taps = _taps(layer, state.size)

        def filtered(a: int, p: int, b: int, r: int) -> Any:
            parts = [read(a, x, b, y) for x, y in zip(taps[p], taps[r], strict=True)]
            return weighted(*(sum(own) / len(parts) for own in zip(*parts, strict=True)))

        return _State(len(taps), filtered)
    if name in ("AvgPool", "GlobalAvgPool"):
        taps = [list(range(state.size))] if name == "GlobalAvgPool" else _taps(layer, state.size)

        def pooled(a: int, p: int, b: int, r: int) -> Any:
            parts = [read(a, x, b, y) for x, y in product(taps[p], taps[r])]
            return tuple(sum(own) / (len(taps[p]) * len(taps[r])) for own in zip(*parts, strict=True))

        return _State(len(taps), pooled)
    assert isinstance(layer, Nonlinearity), name

    def bent(a: int, p: int, b: int, r: int) -> Any:
        q1, q2 = state.at[a, p, a, p][0], state.at[b, r, b, r][0]
        k, theta = state.at[a, p, b, r]
        found, kdot = layer.exact(q1, k, q2, mp)
        return found, theta * kdot

    return _State(state.size, bent)


def gradient(net: Any, x1: np.ndarray, x2: np.ndarray, which: int) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Of the NNGP (0) or the NTK (1) of two signals (width, channels), in both and in all parameters."""
    exact = [[[mp.mpf(float(v)) for v in row] for row in x] for x in (x1, x2)]

    def value(signals: Any, values: dict[str, Any]) -> Any:
        def entry(a: int, p: int, b: int, r: int) -> Any:
            return mp.fdot(signals[a][p], signals[b][r]) / len(signals[a][p]), mp.zero

        state = _State(len(x1), entry)
        for k, layer in enumerate(net.layers):
            state = _through(layer, state, values, f"{k}.")
        return state.at[0, 0, 1, 0][which]

    def slope(f: Any) -> float:
        return float((f(STEP) - f(-STEP)) / (2 * STEP))

    found = [np.zeros(x1.shape), np.zeros(x2.shape)]
    for side in (0, 1):
        for p, c in np.ndindex(x1.shape):

            def moved(t: Any, side: int = side, p: int = p, c: int = c) -> Any:
                signals = [[list(row) for row in x] for x in exact]
                signals[side][p][c] += t
                return value(signals, {})

            found[side][p, c] = slope(moved)
    known = net.kernel_fn.parameters
    return *found, {n: slope(lambda t, n=n: value(exact, {n: mp.mpf(known[n]) + t})) for n in known}
