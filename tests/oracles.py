"""Exact answers that share no code with the library: textbook formulas in covariances, in 100 digits.

Inputs count as exact: a float32 vector means the numbers it holds. Results come as :class:`Exact`.

Rounded covariances lose digits near ``rho = 1``; with 100 of them, what is left is far beyond float64 everywhere here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
from scipy import special

mp = mpmath.MPContext()
mp.dps = 100


@dataclass(frozen=True)
class Exact:
    """Numbers to twice the digits of float64: ``high + low``."""

    high: np.ndarray
    low: np.ndarray

    @classmethod
    def of(cls, values: Any) -> Exact:
        values = np.asarray(values, dtype=object)
        high = np.array([float(v) for v in values.flat]).reshape(values.shape)
        low = np.array([float(v - mp.mpf(float(h))) for v, h in zip(values.flat, high.flat, strict=True)])
        return cls(high, low.reshape(values.shape))

    def __getitem__(self, key: Any) -> Exact:
        return Exact(self.high[key], self.low[key])


# ---------------------------------------------------------------- duals


def _angle(q11, q12, q22):
    """(r, cos, sin, theta), r = sqrt(q11 q22); a zero variance counts as a right angle, rho beyond 1 as 1."""
    r = mp.sqrt(q11 * q22)
    if r == 0:
        return r, mp.zero, mp.one, mp.pi / 2
    rho = max(-mp.one, min(mp.one, q12 / r))
    return r, rho, mp.sqrt(1 - rho * rho), mp.acos(rho)


def relu(q11, q12, q22):
    """Cho and Saul 2009."""
    r, cos, sin, theta = _angle(q11, q12, q22)
    pi = +mp.pi
    return r * (sin + (pi - theta) * cos) / (2 * pi), (pi - theta) / (2 * pi)


def abrelu(q11, q12, q22, a, b):
    """Quadrant by quadrant: both arguments of one sign, or of two."""
    r, cos, sin, theta = _angle(q11, q12, q22)
    pi = +mp.pi
    a, b = mp.mpf(a), mp.mpf(b)
    same = sin + (pi - theta) * cos  # E u v over u, v > 0, times 2 pi / r
    mixed = theta * cos - sin  # E u v over u > 0 > v, likewise
    squares, product = a * a + b * b, 2 * a * b
    return r * (squares * same + product * mixed) / (2 * pi), (squares * (pi - theta) + product * theta) / (2 * pi)


def leaky_relu(q11, q12, q22, alpha):
    return abrelu(q11, q12, q22, alpha, 1)


def absolute(q11, q12, q22):
    r, cos, sin, theta = _angle(q11, q12, q22)
    pi = +mp.pi
    return 2 * r * (sin + (pi / 2 - theta) * cos) / pi, 1 - 2 * theta / pi


def erf(q11, q12, q22):
    """Williams 1997."""
    r = mp.sqrt(q11 * q22)
    q12 = max(-r, min(r, q12))
    P = (1 + 2 * q11) * (1 + 2 * q22)
    pi = +mp.pi
    return 2 * mp.asin(2 * q12 / mp.sqrt(P)) / pi, 4 / (pi * mp.sqrt(P - 4 * q12 * q12))


DUALS: dict[str, Callable[..., Any]] = {
    "relu": relu, "leaky_relu": leaky_relu, "abrelu": abrelu, "abs": absolute, "erf": erf
}  # fmt: skip


def dual(name: str, args: Sequence[float], q11: Any, q12: Any, q22: Any) -> tuple[Exact, Exact]:
    """k and kdot of 1-D arrays of covariances."""
    pairs = [DUALS[name](*(mp.mpf(float(q)) for q in qs), *args) for qs in zip(q11, q12, q22, strict=True)]
    return Exact.of([k for k, _ in pairs]), Exact.of([kdot for _, kdot in pairs])


# phi and phi' themselves, for the quadrature that checks the formulas above.
PHI: dict[str, Callable[..., tuple[Any, Any]]] = {
    "relu": lambda x: (np.maximum(x, 0), (x > 0) * 1.0),
    "leaky_relu": lambda x, alpha: (np.where(x > 0, x, alpha * x), np.where(x > 0, 1.0, alpha)),
    "abrelu": lambda x, a, b: (np.where(x > 0, b * x, a * x), np.where(x > 0, b, a)),
    "abs": lambda x: (np.abs(x), np.sign(x)),
    "erf": lambda x: (special.erf(x), 2 / np.sqrt(np.pi) * np.exp(-(x**2))),
}


def quadrature(name: str, args: Sequence[float], q11: float, q12: float, q22: float) -> tuple[float, float]:
    """``E phi(u) phi(v)`` and ``E phi'(u) phi'(v)`` in polar coordinates, in pieces between the kinks."""
    theta = np.arccos(q12 / np.sqrt(q11 * q22))
    node, weight = np.polynomial.legendre.leggauss(50)

    def panels(edges):
        start, width = edges[:-1, None], np.diff(edges)[:, None]
        return (start + width * (node + 1) / 2).ravel(), (width * weight / 2).ravel()

    right = np.pi / 2
    kinks = np.array([-right, right, theta - right, theta + right])
    turn, turn_weight = panels(np.unique(np.append(np.mod(kinks, 2 * np.pi), [0, 2 * np.pi])))
    radius, radius_weight = panels(np.linspace(0, 12, 9))
    density = turn_weight[:, None] * (radius_weight * radius * np.exp(-(radius**2) / 2)) / (2 * np.pi)
    f_u, d_u = PHI[name](np.sqrt(q11) * np.cos(turn)[:, None] * radius, *args)
    f_v, d_v = PHI[name](np.sqrt(q22) * np.cos(turn - theta)[:, None] * radius, *args)
    return float(np.sum(density * f_u * f_v)), float(np.sum(density * d_u * d_v))


# ---------------------------------------------------------------- networks

# A network is a list of layers:
#   ("dense", width, W_std, b_std, parameterization, s)
#   ("phi", name, args)
#   ("branches", [network, ...])     side by side on the same input, then summed


@dataclass(frozen=True)
class State:
    """NNGP and NTK between all rows, as lists of lists (the upper triangle), and the finite network's width."""

    nngp: list
    ntk: list
    width: int

    def kernels(self) -> dict[str, Exact]:
        def full(upper):
            n = len(upper)
            return Exact.of([[upper[min(i, j)][max(i, j) - min(i, j)] for j in range(n)] for i in range(n)])

        return {"nngp": full(self.nngp), "ntk": full(self.ntk)}


def _map(f, *triangles):
    return [[f(*entries) for entries in zip(*rows, strict=True)] for rows in zip(*triangles, strict=True)]


def inputs(x: np.ndarray) -> State:
    n, d = x.shape
    rows = [[mp.mpf(float(v)) for v in row] for row in x]
    nngp = [[mp.fdot(rows[i], rows[j]) / d for j in range(i, n)] for i in range(n)]
    return State(nngp, _map(lambda _: mp.zero, nngp), d)


def apply(layer: tuple, state: State) -> State:
    kind, *rest = layer
    if kind == "dense":
        width, W_std, b_std, parameterization, s = rest
        w2, b2 = mp.mpf(W_std) ** 2, mp.mpf(b_std or 0) ** 2
        nngp = _map(lambda K: w2 * K + b2, state.nngp)
        if parameterization == "ntk":
            return State(nngp, _map(lambda K, T: K + w2 * T, nngp, state.ntk), width)
        # W ~ N(0, w2 s0 / n_in) enters as W / sqrt(s0), the bias as it is: derivatives in W and b, summed
        fan_in, trained_bias = mp.mpf(state.width) / s[0], int(b_std is not None)
        ntk = _map(lambda K, T: fan_in * K + trained_bias + w2 * T, state.nngp, state.ntk)
        return State(nngp, ntk, width * s[1])
    if kind == "phi":
        name, args = rest
        q = [row[0] for row in state.nngp]
        pairs = [[DUALS[name](q[i], K, q[i + k], *args) for k, K in enumerate(row)] for i, row in enumerate(state.nngp)]
        ntk = _map(lambda pair, T: pair[1] * T, pairs, state.ntk)
        return State(_map(lambda pair: pair[0], pairs), ntk, state.width)
    if kind == "branches":
        found = [network(branch, state) for branch in rest[0]]
        return State(
            _map(lambda *K: mp.fsum(K), *(s.nngp for s in found)),
            _map(lambda *T: mp.fsum(T), *(s.ntk for s in found)),
            found[0].width,
        )
    raise ValueError(f"no layer of kind {kind!r}")


def network(layers: Sequence[tuple], state: State) -> State:
    for layer in layers:
        state = apply(layer, state)
    return state


def stack(dense: tuple, phi: tuple, x: np.ndarray, depths: Sequence[int]) -> dict[int, dict[str, Exact]]:
    """Kernels of dense, (phi, dense) * depth for several depths in one pass."""
    state = apply(dense, inputs(x))
    found = {}
    for depth in range(1, max(depths) + 1):
        state = network([phi, dense], state)
        if depth in depths:
            found[depth] = state.kernels()
    return found
