"""What signal propagation needs of a nonlinearity: Gaussian moments, and duals of pairs of equal variance.

Three kinds: the rectifier's family in closed form; every other nonlinearity of :mod:`fastntk.stax` through its
compiled dual; any smooth function by :mod:`fastntk.quadrature`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .. import dual as compiled
from .. import quadrature
from ..activations import NONLINEARITIES, ABRelu, Correlation, Nonlinearity, signed_defect

Array = npt.NDArray[np.float64]

NAMES = {"tanh": quadrature.TANH}
_RTOL = 1e-14  # share of E phi^2 that a Hermite series may leave out


Rows = npt.NDArray[np.intp]
PairMap = Callable[[Array, Rows], "tuple[Array, Array]"]
"""From correlations c and the places of their variances to ``(k, kdot)`` at (q, q c, q)."""


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

    def variance(self, q: Array) -> tuple[Array, Array]:
        """``E phi^2`` and its derivative in q, ``E phi'^2 + E phi phi''``, at variances q."""

    def gain(self, q: Array) -> Array:
        """``E phi'^2``."""

    def pairs(self, q: Array) -> PairMap:
        """The dual at variances q (m,)."""

    def layer(self, q: float, v: Array) -> tuple[float, float, Array, Array]:
        """``(E phi^2, E phi'^2, kdot, v')`` at one variance and signed defects v of the correlations.

        The signed defect is ``1 - c`` for ``c >= 0``, else ``-(1 + c)``, and keeps the digits that c has lost.
        """


@dataclass(frozen=True)
class _Registered:
    """A nonlinearity of stax."""

    layer_object: Nonlinearity

    @property
    def name(self) -> str:
        return type(self.layer_object).__name__

    @property
    def homogeneous(self) -> float | None:
        act = self.layer_object
        return (act.a**2 + act.b**2) / 2 if isinstance(act, ABRelu) else None

    @property
    def at_zero(self) -> float:
        return float(self._phi(np.zeros(1))[0])

    def _phi(self, x: Array) -> Array:
        return np.asarray(self.layer_object.apply((), x, np))

    def variance(self, q: Array) -> tuple[Array, Array]:
        if (s := self.homogeneous) is not None:
            return s * q, np.full_like(q, s)
        return np.asarray(compiled.dual(self.layer_object, q, q, q)[0]), _variance(self._phi, q, self.name)[1]

    def gain(self, q: Array) -> Array:
        if (s := self.homogeneous) is not None:
            return np.full_like(q, s)  # the compiled dual takes phi'(0) for it where q = 0
        return np.asarray(compiled.dual(self.layer_object, q, q, q)[1])

    def pairs(self, q: Array) -> PairMap:
        def pair_map(c: Array, rows: Rows) -> tuple[Array, Array]:
            k, kdot = compiled.dual(self.layer_object, q[rows], q[rows] * c, q[rows])
            return np.asarray(k), np.asarray(kdot)

        return pair_map

    def layer(self, q: float, v: Array) -> tuple[float, float, Array, Array]:
        # The compiled dual takes covariances, which have lost 1 - c. Its text in NumPy carries it, and takes as long.
        a, b, shift = self.layer_object.affine
        at = np.full(np.shape(v), b * b * q)
        own = np.full(1, b * b * q)
        phi2 = float(self.layer_object.variance(own)[0])
        if (s := self.homogeneous) is not None:
            dphi2 = s
        else:
            dphi2 = float(self.layer_object.pair(Correlation.of_defect(np.zeros(1)), own, own)[2][0])
        defect, _, kdot = self.layer_object.pair(Correlation.of_defect(v), at, at)
        total = a * a * phi2 + shift * shift
        if shift:
            above, below = both(defect)
            defect = signed(a * a * phi2 * above / total, (a * a * phi2 * below + 2 * shift * shift) / total)
        slope = (a * b) ** 2
        return total, slope * dphi2, slope * kdot, defect


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
        return float(np.asarray(self.activation.phi(np.zeros(1)))[0])

    def variance(self, q: Array) -> tuple[Array, Array]:
        return _variance(self.activation.phi, q, self.name)

    def gain(self, q: Array) -> Array:
        return np.asarray(quadrature.expectation(lambda x: np.square(self.activation.dphi(x)), q, what=self.name))

    def pairs(self, q: Array) -> PairMap:
        table = quadrature.DualTable(self.activation, q, what=self.name)
        return lambda c, rows: table.evaluate(rows, rows, c)

    def layer(self, q: float, v: Array) -> tuple[float, float, Array, Array]:
        one = np.full(1, q)
        phi2, gain = float(self.variance(one)[0][0]), float(self.gain(one)[0])
        series = _series_at(self.activation, q)
        zero = np.zeros(v.shape, dtype=np.intp)
        c = np.where(v < 0, -1 - v, 1 - v)
        if not series.resolves(zero, zero, c, _RTOL).all():
            k, kdot = quadrature.dual(self.activation, q, q * c, q)
            rho = np.clip(np.asarray(k) / phi2, -1, 1)
            return phi2, gain, np.asarray(kdot), signed(1 - rho, 1 + rho)
        _, kdot = series.evaluate(zero, zero, c)
        share = np.square(series.phi[:, :1])
        total = share.sum()
        if total == 0:
            return phi2, gain, kdot, np.ones_like(v)
        order = np.arange(series.order + 1).reshape(-1, *[1] * v.ndim)
        share = share.reshape(order.shape) / total
        with np.errstate(divide="ignore", invalid="ignore"):
            # 1 - |c|^l, and 1 - |c|^l or 1 + |c|^l as the sign of c^l has it: sums of positive numbers.
            less = -np.expm1(order * np.log1p(-np.minimum(np.abs(v), 1)))
        less[0] = 0
        odd = (v < 0) & (order % 2 == 1)
        above = np.sum(share * np.where(odd, 2 - less, less), axis=0)
        below = np.sum(share * np.where(odd, less, 2 - less), axis=0)
        return phi2, gain, kdot, signed(above, below)


@lru_cache(maxsize=8)
def _series_at(activation: quadrature.Smooth, q: float) -> quadrature.HermiteSeries:
    return quadrature.HermiteSeries.adaptive(activation, np.full(1, q), what=activation.name)


def both(v: Array) -> tuple[Array, Array]:
    """``(1 - c, 1 + c)`` of a signed defect, both with their digits."""
    return np.where(v < 0, 2 + v, v), np.where(v < 0, -v, 2 - v)


def signed(above: Array, below: Array) -> Array:
    """The signed defect of ``above = 1 - c``, ``below = 1 + c``."""
    return signed_defect(above <= below, np.minimum(above, below))


def _variance(phi: quadrature.Function, q: Array, what: str) -> tuple[Array, Array]:
    """``E phi^2`` and ``d E phi^2 / dq = E (z^2 - 1) (phi^2 - phi(0)^2) / (2 q)``: the weight, differentiated."""
    zero = float(np.asarray(phi(np.zeros(1)))[0]) ** 2
    at = np.maximum(q, 1e-12)  # the derivative there is that at 0, to as many digits
    rest = quadrature.expectation(lambda x: np.square(phi(x)) - zero, at, what=what)
    wide = quadrature.expectation(lambda x: x * x * (np.square(phi(x)) - zero), at, what=what)
    return q / at * rest + zero, (wide / at - rest) / (2 * at)


def statistics_of(act: Any, what: str) -> Statistics:
    """The statistics of whatever may stand for a nonlinearity.

    Raises
    ------
    TypeError
        For anything but a nonlinearity of stax, a name, or an object with phi and dphi.
    ValueError
        An unknown name; phi and dphi as :func:`fastntk.quadrature.smooth`.
    """
    if isinstance(act, str):
        if act in NAMES:
            return _Quadrature(NAMES[act])
        plain = [name for name, (_, args) in NONLINEARITIES.items() if not args]
        if act not in plain:
            raise ValueError(f"[{what}] no nonlinearity is called {act!r}; there are {sorted([*NAMES, *plain])}")
        act = NONLINEARITIES[act][0]()
    if isinstance(act, Nonlinearity):
        return _Registered(act)
    return _Quadrature(quadrature.smooth(act, what))
