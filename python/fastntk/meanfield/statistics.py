"""What signal propagation needs of a nonlinearity: Gaussian moments, and duals of pairs of equal variance.

Three kinds: the rectifier's family in closed form; every other nonlinearity of :mod:`fastntk.stax` through its
compiled dual; any smooth function by :mod:`fastntk.quadrature`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .. import dual as compiled
from .. import quadrature
from ..network.activation_like import named, plain_names, smooth_of
from ..network.activations import ABRelu, Correlation, General, Nonlinearity, of_input, rho_of
from ..network.activations import signed_defect as signed_defect

Array = npt.NDArray[np.float64]

_RTOL = 1e-14  # share of E phi^2 that a Hermite series may leave out
_CLOSE = 0.1  # defects below it, where a series leaves out more, are taken by differences
_MOST = 2**11  # nodes for these
_TINY = 0.25  # half-width over which eight nodes of Gauss integrate phi'
_GAUSS = np.polynomial.legendre.leggauss(8)
_LINEAR = 1e-100  # below it phi with phi(0) = 0 is phi'(0) x to all digits, and squares of phi begin to underflow

Rows = npt.NDArray[np.intp]
PairMap = Callable[[Array, Rows], "tuple[Array, Array]"]
"""From correlations c and the places of their variances to ``(k, kdot)`` at (q, q c, q)."""
DefectMap = Callable[[Array, Rows], "tuple[Array, Array]"]
"""From signed defects v of the correlations and the places of their variances to ``(v', kdot)``.

The signed defect is ``1 - c`` for ``c >= 0``, else ``-(1 + c)``, and keeps the digits that c has lost.
"""


class Statistics(Protocol):
    """A nonlinearity, seen by a wide layer."""

    @property
    def name(self) -> str: ...

    @property
    def homogeneous(self) -> float | None:
        """``E phi^2 / q`` of a positively homogeneous phi, for which it does not depend on q; else None."""

    @property
    def at_zero(self) -> float:
        """``phi(0)``."""

    def phi(self, x: Array) -> Array:
        """The nonlinearity."""

    def variance(self, q: Array) -> tuple[Array, Array]:
        """``E phi^2`` and its derivative in q, ``E phi'^2 + E phi phi''``, at variances q."""

    def gain(self, q: Array) -> Array:
        """``E phi'^2``."""

    def pairs(self, q: Array) -> PairMap:
        """The dual at variances q (m,)."""

    def defects(self, q: Array) -> DefectMap:
        """Defects of the correlations of phi at variances q (m,), of which none is 0."""

    def layer(self, q: float, v: Array) -> tuple[float, float, Array, Array]:
        """``(E phi^2, E phi'^2, kdot, v')`` at one variance and signed defects v."""


@dataclass(frozen=True)
class _Registered:
    """A nonlinearity of stax."""

    layer_object: Nonlinearity

    @property
    def name(self) -> str:
        return type(self.layer_object).__name__

    def _at(self, q: Array) -> Nonlinearity:
        """What stands for the layer at variances q."""
        act = self.layer_object
        if not isinstance(act, General) or not q.size:
            return act
        return act.standing_for(float(q.min()), float(q.max()), False)

    @property
    def homogeneous(self) -> float | None:
        act = self.layer_object
        return (act.a**2 + act.b**2) / 2 if isinstance(act, ABRelu) else None

    @property
    def at_zero(self) -> float:
        return float(self.phi(np.zeros(1))[0])

    def phi(self, x: Array) -> Array:
        return np.asarray(self.layer_object.apply((), x, np))

    def variance(self, q: Array) -> tuple[Array, Array]:
        if (s := self.homogeneous) is not None:
            return s * q, np.full_like(q, s)
        slope = _variance(self.phi, q, self.name, self.gain(np.zeros(1))[0])[1]
        return np.asarray(compiled.dual(self.layer_object, q, q, q)[0]), slope

    def gain(self, q: Array) -> Array:
        if (s := self.homogeneous) is not None:
            return np.full_like(q, s)  # the compiled dual takes phi'(0) for it where q = 0
        return np.asarray(compiled.dual(self.layer_object, q, q, q)[1])

    def pairs(self, q: Array) -> PairMap:
        def pair_map(c: Array, rows: Rows) -> tuple[Array, Array]:
            k, kdot = compiled.dual(self.layer_object, q[rows], q[rows] * c, q[rows])
            return np.asarray(k), np.asarray(kdot)

        return pair_map

    def defects(self, q: Array) -> DefectMap:
        # The compiled dual takes covariances, which have lost 1 - c. Its text in NumPy carries it, and takes as long.
        act = self._at(q)
        a, b, shift = act.affine
        phi2 = act.variance(b * b * q)
        total = a * a * phi2 + shift * shift
        known = act.rows(b * b * q)

        def defect_map(v: Array, rows: Rows) -> tuple[Array, Array]:
            at = of_input(known, rows)
            defect, _, kdot = act.pair(Correlation.of_defect(v), at, at)
            if shift:
                above, below = both(defect)
                own, whole = a * a * phi2[rows], total[rows]
                defect = signed(own * above / whole, (own * below + 2 * shift * shift) / whole)
            return defect, (a * b) ** 2 * kdot

        return defect_map

    def layer(self, q: float, v: Array) -> tuple[float, float, Array, Array]:
        if self.homogeneous is None and q < _LINEAR and (found := _linear(self, q, v)):
            return found
        act = self._at(np.full(1, q))
        a, b, shift = act.affine
        own = np.full(1, b * b * q)
        phi2 = a * a * float(act.variance(own)[0]) + shift * shift
        if (s := self.homogeneous) is not None:
            gain = s
        else:
            at = of_input(act.rows(own))
            gain = float(act.pair(Correlation.of_defect(np.zeros(1)), at, at)[2][0])
        defect, kdot = self.defects(np.full(1, q))(v.reshape(-1), np.zeros(v.size, dtype=np.intp))
        return phi2, (a * b) ** 2 * gain, kdot.reshape(v.shape), defect.reshape(v.shape)


@dataclass(frozen=True)
class _Quadrature:
    """A smooth function."""

    activation: quadrature.Smooth

    @property
    def name(self) -> str:
        return self.activation.name

    @property
    def homogeneous(self) -> float | None:
        return None

    @property
    def at_zero(self) -> float:
        return float(self.phi(np.zeros(1))[0])

    def phi(self, x: Array) -> Array:
        return np.asarray(self.activation.phi(x))

    def variance(self, q: Array) -> tuple[Array, Array]:
        return _variance(self.activation.phi, q, self.name, self.gain(np.zeros(1))[0])

    def gain(self, q: Array) -> Array:
        return np.asarray(quadrature.expectation(lambda x: np.square(self.activation.dphi(x)), q, what=self.name))

    def pairs(self, q: Array) -> PairMap:
        table = quadrature.DualTable(self.activation, q, what=self.name)
        return lambda c, rows: table.evaluate(rows, rows, c)

    def defects(self, q: Array) -> DefectMap:
        return self._defects(quadrature.HermiteSeries.adaptive(self.activation, q, what=self.name))

    def _defects(self, series: quadrature.HermiteSeries) -> DefectMap:
        squares = np.square(series.phi)
        total = squares.sum(axis=0)
        shares = squares / np.where(total > 0, total, 1)
        order = np.arange(series.order + 1)[:, None]

        def resolved(v: Array, rows: Rows) -> tuple[Array, Array]:
            share = shares[:, rows]
            with np.errstate(divide="ignore", invalid="ignore"):
                # 1 - |c|^l, and 1 - |c|^l or 1 + |c|^l as the sign of c^l has it: sums of positive numbers.
                less = -np.expm1(order * np.log1p(-np.minimum(np.abs(v), 1)))
            less[0] = 0
            odd = (v < 0) & (order % 2 == 1)
            above = np.sum(share * np.where(odd, 2 - less, less), axis=0)
            below = np.sum(share * np.where(odd, less, 2 - less), axis=0)
            defect = np.where(total[rows] > 0, signed(above, below), 1.0)
            return defect, series.evaluate(rows, rows, rho_of(v))[1]

        def defect_map(v: Array, rows: Rows) -> tuple[Array, Array]:
            q = series.q[rows]
            done = series.resolves(rows, rows, rho_of(v), _RTOL)
            defect, kdot = np.empty_like(v), np.empty_like(v)
            defect[done], kdot[done] = resolved(v[done], rows[done])
            for n in np.flatnonzero(~done):
                defect[n], kdot[n] = self._pair(float(q[n]), float(v[n]))
            return defect, kdot

        return defect_map

    def _pair(self, q: float, v: float) -> tuple[float, float]:
        """``(v', kdot)`` of one pair without a series."""
        phi2 = float(self.variance(np.full(1, q))[0][0])
        if not 0 < v < _CLOSE:
            c = float(rho_of(np.full(1, v))[0])
            k, kdot = quadrature.dual(self.activation, q, q * c, q)
            rho = float(np.clip(k / phi2, -1, 1))
            return float(signed(np.array(1 - rho), np.array(1 + rho))), float(kdot)
        # u, u' = same x +- other sqrt(q) z, x and z independent: E (phi(u) - phi(u'))^2 / 2 has no difference of sums.
        same, other = math.sqrt(1 - v / 2), math.sqrt(v / 2 * q)
        step = min(0.25, 0.25 / other)
        before = (math.inf, math.inf)
        while True:
            z = np.arange(-round(12 / step), round(12 / step) + 1, dtype=np.float64) * step
            weight = np.exp(-z * z / 2) * (step / math.sqrt(2 * math.pi))
            found = self._close(q, same, other * z, weight)
            if all(abs(a - b) <= quadrature.RTOL * abs(a) for a, b in zip(found, before, strict=True)):
                return found[0] / phi2, found[1]
            if len(z) > _MOST:
                raise ValueError(f"[{self.name}] does not converge at variance {q:.6g}: the function is not smooth")
            before, step = found, step / 2

    def _close(self, q: float, same: float, shift: Array, weight: Array) -> tuple[float, float]:
        phi, dphi = self.activation.phi, self.activation.dphi
        tiny = shift[-1] < _TINY

        def loss(x: Array) -> Array:
            u = same * x[..., None]
            if tiny:  # the integral of phi' has the digits that a difference of phi would lose
                apart = shift * sum(w * np.asarray(dphi(u + shift * t)) for t, w in zip(*_GAUSS, strict=True))
            else:
                apart = np.asarray(phi(u + shift)) - phi(u - shift)
            return np.asarray(np.square(apart) @ weight / 2)

        def slope(x: Array) -> Array:
            u = same * x[..., None]
            return np.asarray(np.asarray(dphi(u + shift)) * dphi(u - shift)) @ weight

        return (
            float(quadrature.expectation(loss, q, what=self.name)),
            float(quadrature.expectation(slope, q, what=self.name)),
        )

    def layer(self, q: float, v: Array) -> tuple[float, float, Array, Array]:
        if q < _LINEAR and (found := _linear(self, q, v)):
            return found
        one = np.full(1, q)
        phi2, gain = float(self.variance(one)[0][0]), float(self.gain(one)[0])
        series = _series_at(self.activation, q)
        defect, kdot = self._defects(series)(v.reshape(-1), np.zeros(v.size, dtype=np.intp))
        return phi2, gain, kdot.reshape(v.shape), defect.reshape(v.shape)


@lru_cache(maxsize=8)
def _series_at(activation: quadrature.Smooth, q: float) -> quadrature.HermiteSeries:
    return quadrature.HermiteSeries.adaptive(activation, np.full(1, q), what=activation.name)


def _linear(act: Statistics, q: float, v: Array) -> tuple[float, float, Array, Array] | None:
    """``act.layer(q, v)`` of a tiny q, where ``phi(x) = phi'(0) x``; None where it is not."""
    gain = float(act.gain(np.zeros(1))[0])
    return None if act.at_zero or not gain else (gain * q, gain, np.full_like(v, gain), v)


def both(v: Array) -> tuple[Array, Array]:
    """``(1 - c, 1 + c)`` of a signed defect, both with their digits."""
    return np.where(v < 0, 2 + v, v), np.where(v < 0, -v, 2 - v)


def signed(above: Array, below: Array) -> Array:
    """The signed defect of ``above = 1 - c``, ``below = 1 + c``."""
    return signed_defect(above <= below, np.minimum(above, below))


def _variance(phi: quadrature.Function, q: Array, what: str, gain: float) -> tuple[Array, Array]:
    """``E phi^2`` and ``d E phi^2 / dq = E (z^2 - 1) (phi^2 - phi(0)^2) / (2 q)``: the weight, differentiated.

    ``gain`` is ``phi'(0)^2``, what both tend to where phi(0) = 0.
    """
    zero = float(np.asarray(phi(np.zeros(1)))[0]) ** 2
    # phi^2 - phi(0)^2 cancels near 0, unless phi(0) = 0: then it is a square, with all its digits.
    least = _LINEAR if zero == 0 else 1e-12
    at = np.maximum(q, least)
    rest = quadrature.expectation(lambda x: np.square(phi(x)) - zero, at, what=what)
    wide = quadrature.expectation(lambda x: x * x * (np.square(phi(x)) - zero), at, what=what)
    slope = (wide / at - rest) / (2 * at)
    return q / at * rest + zero, np.where((q < least) & (zero == 0), gain, slope)


def statistics_of(act: Any, what: str) -> Statistics:
    """The statistics of whatever may stand for a nonlinearity.

    Raises
    ------
    TypeError
        For anything but a nonlinearity of stax, a name, or an object with phi and dphi.
    ValueError
        An unknown name; phi and dphi as :func:`fastntk.quadrature.smooth`.
    """
    if isinstance(act, str) and act.lower() not in plain_names():
        raise ValueError(f"[{what}] no nonlinearity is called {act!r}; there are {list(plain_names())}")
    if isinstance(act, str):
        act = named(act)
    if isinstance(act, General) and not act.kinks():
        return _Quadrature(smooth_of(act))
    if isinstance(act, Nonlinearity):
        return _Registered(act)
    return _Quadrature(quadrature.smooth(act, what))
