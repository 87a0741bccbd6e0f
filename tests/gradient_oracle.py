"""Gradients that share no code with the library: published closed forms in 80 digits, differentiated by differences.

With a step of 1e-30 what differences leave out is beyond float64, for inputs at a distance of 1e-12 too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
from fastntk import stax
from fastntk.network.activations import Nonlinearity
from fastntk.network.combinators import FanInSum, FanOut, Identity, Parallel, Serial

mp = mpmath.MPContext()
mp.dps = 80
STEP = mp.mpf(10) ** -30

State = Any  # (K11, K12, K22, NTK12) of a pair, or a tuple of them


def _number(layer: Any, name: str, path: str, values: dict[str, Any]) -> Any:
    given = getattr(layer, name)
    return None if given is None else mp.mpf(values.get(path + name, given))


def _through(
    layer: Any, state: State, values: dict[str, Any], path: str = "", fan_in: list[int] | None = None
) -> State:
    fan_in = [0] if fan_in is None else fan_in
    if isinstance(layer, Serial):
        for k, part in enumerate(layer.layers):
            state = _through(part, state, values, f"{path}{k}.", fan_in)
        return state
    if isinstance(layer, Parallel):
        return tuple(
            _through(p, s, values, f"{path}{k}.", list(fan_in))
            for k, (p, s) in enumerate(zip(layer.layers, state, strict=True))
        )
    if isinstance(layer, Identity):
        return state
    if isinstance(layer, FanOut):
        return (state,) * layer.num
    if isinstance(layer, FanInSum):
        return tuple(sum(parts) for parts in zip(*state, strict=True))
    if isinstance(layer, stax.Dense):
        W, b = _number(layer, "W_std", path, values), _number(layer, "b_std", path, values)
        q11, q12, q22, theta = state
        w2, b2 = W * W, 0 if b is None else b * b
        f, g = (w2, b2) if layer.parameterization == "ntk" else (fan_in[0] / layer.s[0], 0 if b is None else 1)
        fan_in[0] = layer.out_dim
        return w2 * q11 + b2, w2 * q12 + b2, w2 * q22 + b2, w2 * theta + f * q12 + g
    if isinstance(layer, Nonlinearity):
        moved = copy.copy(layer)
        for name in (key[len(path) :] for key in values if key.startswith(path)):
            field = "a" if isinstance(layer, stax.LeakyRelu) else name
            assert field in vars(layer)
            object.__setattr__(moved, field, values[path + name])
        a, b, c = (mp.mpf(v) for v in moved.affine)
        q11, q12, q22, theta = state
        q11, q12, q22 = b * b * q11, b * b * q12, b * b * q22
        k, kdot = moved.exact(q11, q12, q22, mp)
        own1, own2 = (moved.exact(q, q, q, mp)[0] for q in (q11, q22))
        a2, c2 = a * a, c * c
        return a2 * own1 + c2, a2 * k + c2, a2 * own2 + c2, theta * kdot * a2 * b * b
    raise NotImplementedError(type(layer).__name__)


def kernels(layer: Any, x: list[Any], y: list[Any], values: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """NNGP and NTK of one pair of rows of mpmath's numbers."""
    d = len(x)
    state = tuple(mp.fdot(a, b) / d for a, b in ((x, x), (x, y), (y, y)))
    _, k, _, theta = _through(layer, (*state, mp.zero), values or {}, "", [d])
    return k, theta


def _slope(f: Callable[[Any], Any], at: Any) -> Any:
    return (f(at + STEP) - f(at - STEP)) / (2 * STEP)


def gradients(
    layer: Any, x1: np.ndarray, x2: np.ndarray, on_k: np.ndarray, on_theta: np.ndarray, names: Any = ()
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Those of ``sum(on_k NNGP) + sum(on_theta NTK)`` in x1, x2 and the parameters of these paths."""
    exact = [[[mp.mpf(float(v)) for v in row] for row in x] for x in (x1, x2)]

    def loss(i: int, j: int, x: Any, y: Any, values: Any = None) -> Any:
        k, theta = kernels(layer, x, y, values)
        return mp.mpf(float(on_k[i, j])) * k + mp.mpf(float(on_theta[i, j])) * theta

    def moved(row: list[Any], at: int, value: Any) -> list[Any]:
        return [*row[:at], value, *row[at + 1 :]]

    found1, found2 = ([[mp.zero] * x.shape[1] for _ in x] for x in (x1, x2))
    by_name = dict.fromkeys(names, mp.zero)
    known = layer.kernel_fn.parameters

    def add(i: int, j: int) -> None:
        x, y = exact[0][i], exact[1][j]
        for at in range(len(x)):
            found1[i][at] += _slope(lambda v: loss(i, j, moved(x, at, v), y), x[at])  # noqa: B023
            found2[j][at] += _slope(lambda v: loss(i, j, x, moved(y, at, v)), y[at])  # noqa: B023
        for name in names:
            by_name[name] += _slope(lambda v: loss(i, j, x, y, {name: v}), mp.mpf(known[name]))  # noqa: B023

    for i in range(len(x1)):
        for j in range(len(x2)):
            add(i, j)
    arrays = [np.array([[float(v) for v in row] for row in found]) for found in (found1, found2)]
    return arrays[0], arrays[1], {name: float(v) for name, v in by_name.items()}
