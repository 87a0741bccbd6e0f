"""Exact answers: textbook formulas in covariances, in 100 digits.

The formula of a nonlinearity's dual is its class's ``exact``, which nothing in the library computes with;
``test_duals.py`` holds each to integrals of the function itself. All else here shares no code with the library.

Inputs count as exact: a float32 vector means the numbers it holds. Results come as :class:`Exact`.

Rounded covariances lose digits near ``rho = 1``; with 100 of them, what is left is far beyond float64 everywhere here.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
from fastntk.network.activations import NONLINEARITIES, Nonlinearity
from tolerances import DUAL_FLOOR

mp = mpmath.MPContext()
mp.dps = 100
FEW = mpmath.MPContext()  # digits for questions that few will answer
FEW.dps = 40


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

# In place of a variance of 0, where a correlation has no meaning; and what is 0 of the results.
NOTHING, NEXT_TO_NOTHING = mp.mpf(10) ** -10_000, mp.mpf(10) ** -1000


def example(name: str) -> Nonlinearity:
    """The registry's example of a nonlinearity."""
    make, args = NONLINEARITIES[name]
    return make(*args)


def _has_function(name: str) -> bool:
    try:
        example(name).phi(np.zeros(1), np)
    except NotImplementedError:
        return False
    return True


# The nonlinearities that are more than a kernel: without a function there is no finite network.
FUNCTIONS = [name for name in NONLINEARITIES if _has_function(name)]


def covariance_dual(layer: Nonlinearity, q11: Any, q12: Any, q22: Any, mp: Any = mp) -> tuple[Any, Any]:
    """k and kdot of ``a phi(b x) + c`` from the closed form of phi; a covariance beyond its bound counts as that."""
    a, b, c = (mp.mpf(v) for v in layer.affine)
    q11, q22 = (b * b * mp.mpf(q or NOTHING) for q in (q11, q22))
    r = mp.sqrt(q11 * q22)
    k, kdot = layer.exact(q11, max(-r, min(r, b * b * q12)), q22, mp)
    k, kdot = (v if abs(v) > NEXT_TO_NOTHING else mp.zero for v in (k, kdot))
    return a * a * k + c * c, (a * b) ** 2 * kdot


def dual(layer: Nonlinearity, q11: Any, q12: Any, q22: Any) -> tuple[Exact, Exact]:
    """k and kdot of 1-D arrays of covariances."""
    numbers = ([mp.mpf(v if isinstance(v, mp.mpf) else float(v)) for v in q] for q in (q11, q12, q22))
    pairs = [covariance_dual(layer, *triple) for triple in zip(*numbers, strict=True)]
    return Exact.of([k for k, _ in pairs]), Exact.of([kdot for _, kdot in pairs])


def quadrature(layer: Nonlinearity, q11: float, q12: float, q22: float) -> tuple[float, float]:
    """``E phi(u) phi(v)`` and ``E phi'(u) phi'(v)`` of the layer's own function, in polar coordinates.

    The function may have a kink or a step at 0. The latter is the slope of the former in q12 (Price 1958), so that of
    the normal density under the integral: no derivative of phi is asked for.
    """
    theta = np.arccos(q12 / np.sqrt(q11 * q22))
    node, weight = np.polynomial.legendre.leggauss(50)

    def panels(edges):
        start, width = edges[:-1, None], np.diff(edges)[:, None]
        return (start + width * (node + 1) / 2).ravel(), (width * weight / 2).ravel()

    right = np.pi / 2
    kinks = np.array([-right, right, theta - right, theta + right])
    edges = np.unique(np.append(np.mod(kinks, 2 * np.pi), np.linspace(0, 2 * np.pi, 9)))
    turn, turn_weight = panels(edges)
    radius, radius_weight = panels(np.linspace(0, 20, 17))
    density = turn_weight[:, None] * (radius_weight * radius * np.exp(-(radius**2) / 2)) / (2 * np.pi)
    along = (np.cos(turn), np.cos(turn - theta))
    f_u, f_v = (layer.apply((), np.sqrt(q) * x[:, None] * radius, np) for q, x in zip((q11, q22), along, strict=True))
    across = np.sin(turn) * np.sin(turn - theta)  # u - rho v and v - rho u, but for the factor that is below
    slope = (np.cos(theta) - radius**2 * across[:, None]) / (np.sin(theta) ** 2 * np.sqrt(q11 * q22))
    return float(np.sum(density * f_u * f_v)), float(np.sum(density * slope * f_u * f_v))


# ---------------------------------------------------------------- what errors of a dual map are measured by

_CONDITION = 8  # an error of one rounding in a variance or defect is as many in the result: all that the bounds allow


@functools.cache
def without_relative_accuracy(layer: Nonlinearity) -> frozenset[str]:
    """Which of k and kdot pass through zero or fall off like an exponential: rounded inputs leave few of their digits.

    All others owe theirs down to rho = -1, where relu's k vanishes; k of an odd function, which passes through zero at
    rho = 0 alone, does too.
    """
    step = FEW.mpf(10) ** -15
    variances = [FEW.mpf(min(q, layer.largest_variance / 2)) for q in (0.01, 0.3, 1.0, 7.0, 100.0)]
    defects = [FEW.mpf(w) for w in (1e-6, 0.01, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.99)]
    found = {"k"} if layer.affine[2] else set()  # an offset is added to what may be its negative

    def at(q1, q2, w, sign):
        return covariance_dual(layer, q1, sign * (1 - w) * FEW.sqrt(q1 * q2), q2, FEW)

    for q1, q2 in itertools.combinations_with_replacement(variances, 2):
        curves = {(w, sign): at(q1, q2, w, sign) for w in defects for sign in (1, -1)}
        odd = all(abs(curves[w, 1][0] + curves[w, -1][0]) < step * abs(curves[w, 1][0]) for w in defects)
        for which, quantity in enumerate(("k", "kdot")):
            values = {place: curve[which] for place, curve in curves.items()}
            if min(values.values()) < 0 < max(values.values()) and not (odd and quantity == "k"):
                found.add(quantity)
            for (w, sign), value in values.items():
                moved = [at(q1 * (1 + step), q2, w, sign), at(q1, q2 * (1 + step), w, sign)]
                if not (odd and w > 0.5):
                    moved.append(at(q1, q2, w * (1 + step), sign))
                if sum(abs(m[which] - value) for m in moved) > _CONDITION * step * abs(value):
                    found.add(quantity)
    return frozenset(found)


def dual_scales(layer: Nonlinearity, q11: Any, q22: Any) -> dict[str, tuple[Any, Any]]:
    """For k and kdot the size below which errors are not relative, and ``sqrt(k(q11, q11) k(q22, q22))`` itself."""
    q, place = np.unique(np.stack([q11, q22]), return_inverse=True)
    own = dual(layer, q, q, q)
    found = {}
    for which, quantity in enumerate(("k", "kdot")):
        size = np.prod(np.sqrt(own[which].high)[place.reshape(2, -1)], axis=0)
        found[quantity] = (DUAL_FLOOR * size if quantity in without_relative_accuracy(layer) else 0.0, size)
    return found


# ---------------------------------------------------------------- networks

# A network is a list of layers:
#   ("dense", width, W_std, b_std, parameterization, s)
#   ("phi", layer)                   a nonlinearity of the library, for its closed form
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
        (layer,) = rest
        nngp, q = state.nngp, [row[0] for row in state.nngp]
        pairs = [[covariance_dual(layer, q[i], K, q[i + k]) for k, K in enumerate(row)] for i, row in enumerate(nngp)]
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
