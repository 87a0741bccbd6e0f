"""Derivatives of nonlinearities whose text takes plain arrays alone: differences over five points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.jet import Jet, slope_of, value_of
from ..network.activations import Correlation, of_input

Array = npt.NDArray[Any]

# Truncation, h^4 / 30, meets rounding, 1.5 eps / h.
_STEP = 2e-3
_POINTS = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))


def _slope(f: Callable[[float], Any]) -> Any:
    """df/dt at t = 0."""
    return sum(weight / _STEP * f(k * _STEP) for k, weight in _POINTS)


class Differenced:
    """A nonlinearity whose ``rows``, ``variance`` and ``pair`` take numbers with derivatives and give such."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.jumps = layer.jumps

    def rows(self, q: Jet) -> Mapping[str, Any]:
        """The variance alone: of it ``pair`` makes rows."""
        return {"q": q}

    def variance(self, q: Jet) -> Jet:
        return _along(self._layer.variance, q)

    def mean(self, q: Jet) -> Jet:
        return _along(self._layer.mean, q)

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Any, Any, Any]:
        q1, q2 = x1.q, x2.q
        w, near = value_of(c.w), c.near

        def at(t1: float = 0.0, t2: float = 0.0, t: float = 0.0) -> SimpleNamespace:
            """With variances and the defect times these powers of e; beyond rho = 0 the sign is the other one."""
            moved = w * np.exp(t)
            over = moved > 1
            moved = np.where(over, 2 - moved, moved)
            correlation = Correlation(moved, 1 - moved, near ^ over)
            rows = [of_input(self._layer.rows(value_of(q) * np.exp(s))) for q, s in ((q1, t1), (q2, t2))]
            v, rho, kdot = self._layer.pair(correlation, *rows)
            return SimpleNamespace(v=v, rho=rho, kdot=kdot)

        def of_power(moves: str, field: str, t: float) -> Any:
            return getattr(at(**{moves: t}), field)

        here = at()
        small = np.abs(here.v) < 0.25  # v' keeps its digits, and its sign
        new: dict[Any, Any] = {}
        kdot: dict[Any, Any] = {}
        exact = getattr(self._layer, "kdot_slopes", None)
        known = exact(Correlation(w, 1 - w, near), value_of(q1), value_of(q2)) if exact else (None,) * 3
        for q, moves, of_kdot in ((q1, "t1", known[0]), (q2, "t2", known[1])):
            v, rho = (_slope(partial(of_power, moves, field)) for field in ("v", "rho"))
            of_kdot = _slope(partial(of_power, moves, "kdot")) if of_kdot is None else of_kdot
            for name, own in q.slopes.items():
                by_log = own / np.where(q.value == 0, 1, q.value)
                new[name], kdot[name] = by_log * np.where(small, v, -rho), by_log * of_kdot
        if isinstance(c.w, Jet):
            by_w = known[2] if exact else _slope(partial(of_power, "t", "kdot")) / np.where(w == 0, 1, w)
            kdot["w"] = slope_of(c.w, "w") * by_w
        return Jet(here.v, new), here.rho, Jet(here.kdot, kdot)


def _along(f: Callable[[Array], Array], q: Jet) -> Jet:
    """A function of the variance."""
    slope = _slope(lambda t: f(q.value * np.exp(t)))
    return Jet(f(q.value), {name: slope * own / np.where(q.value == 0, 1, q.value) for name, own in q.slopes.items()})
