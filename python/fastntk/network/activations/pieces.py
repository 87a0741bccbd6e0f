"""Functions that are smooth between kinks, wherever these lie: integrals over the plane, in pieces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..expectations import call
from ..kinks import Kink
from .angular import host_alone
from .nonlinearity import Array, Correlation, Nonlinearity, defines_dual, derivative, signed_defect

_LEAST = 1e-36  # a variance of 0 counts as this
_FAR = 9.0  # |z| beyond which nothing lies: the density there is 1e-18
_CHUNK = 1 << 21  # values of the function at a time
_NODES = 16


@dataclass(frozen=True)
class _Rule:
    """Gauss's rule on intervals between edges (edges, n): nodes and weights (nodes, n), weighted by the density."""

    z: Array
    weight: Array

    @classmethod
    def of(cls, edges: Array) -> _Rule:
        node, weight = np.polynomial.legendre.leggauss(_NODES)
        edges = np.sort(np.clip(edges, -_FAR, _FAR), axis=0)
        half = np.diff(edges, axis=0)[:, None] / 2
        z = (edges[:-1, None] + half * (node.reshape(-1, *(1,) * (edges.ndim - 1)) + 1)).reshape(-1, *edges.shape[1:])
        w = (half * weight.reshape(-1, *(1,) * (edges.ndim - 1))).reshape(z.shape)
        return cls(z, w * np.exp(-z * z / 2) / math.sqrt(2 * math.pi))


def _grid(scale: float) -> Array:
    """Ends of intervals on which a function that varies on a scale of 1 in ``scale z`` is a polynomial."""
    return np.linspace(-_FAR, _FAR, int(_FAR * (1 + scale) / 2) + 2)


@defines_dual
@dataclass(frozen=True)
class Pieces(Nonlinearity):
    """Any function with kinks, smooth between them, exact at every correlation and of any two variances.

    With ``u = s1 (large a + small b)``, ``v = +-s2 (large a - small b)``, a and b independent and standard normal,
    ``1 - rho'`` is a mean square of differences. Along each line of constant b the integral over a is cut where u or v
    passes a kink, and that over b where two such cuts meet. In NumPy alone: ten thousands of numbers for each pair.
    """

    layer: Nonlinearity
    kinks: tuple[Kink, ...]
    dual_name: ClassVar[str] = "pieces"
    row_names: ClassVar[tuple[str, ...]] = ("s", "root")
    compiled: ClassVar[bool] = False
    counted: ClassVar[bool] = True

    def phi(self, x: Any, xp: Any) -> Any:
        return self.layer.phi(x, xp)

    def _values(self, x: Array) -> Array:
        return call(lambda x: self.layer.phi(x, np), x)

    def _moment(self, q: Array, power: int) -> Array:
        s = np.sqrt(np.maximum(np.asarray(q, dtype=np.float64), _LEAST))
        found = np.empty(s.size)
        for k, own in enumerate(s.ravel()):
            rule = _Rule.of(np.concatenate([_grid(own), [kink.place / own for kink in self.kinks]]))
            found[k] = rule.weight @ self._values(own * rule.z) ** power
        return found.reshape(s.shape)

    def variance(self, q: Array, xp: Any = np) -> Array:
        host_alone(xp)
        return self._moment(q, 2)

    def mean(self, q: Array, xp: Any = np) -> Array:
        host_alone(xp)
        return self._moment(q, 1)

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        root = np.sqrt(self.variance(q, xp))
        return {"s": np.sqrt(np.maximum(q, _LEAST)), "root": np.where(root > 0, root, 1)}

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        arrays = np.broadcast_arrays(c.w, c.near, x1.s, x1.root, x2.s, x2.root)
        w, near, *rows = (np.asarray(a).reshape(-1) for a in arrays)
        minus, plus, kdot = (np.empty(w.shape) for _ in range(3))
        for k in range(len(w)):
            minus[k], plus[k], kdot[k] = self._one(float(w[k]), bool(near[k]), *(float(row[k]) for row in rows))
        far = minus > 1
        v = np.where(far, signed_defect(np.asarray(False), plus), minus)
        shape = arrays[0].shape
        return v.reshape(shape), np.where(far, plus - 1, 1 - minus).reshape(shape), kdot.reshape(shape)

    def _one(
        self, w: float, near: bool, s1: float, root1: float, s2: float, root2: float
    ) -> tuple[float, float, float]:
        """``1 - rho'``, ``1 + rho'`` and kdot of a pair."""
        small, large = math.sqrt(w / 2), math.sqrt(1 - w / 2)
        sign = 1.0 if near else -1.0
        places = np.array([kink.place for kink in self.kinks])
        h, k = places / s1, sign * places / s2
        scale = max(s1, s2)
        # Cuts along a: large a = h - small b, and large a = k + small b; two of them meet at small b = (h - k) / 2.
        cuts = (h[:, None] - k).ravel() / 2 / max(small, 1e-300)
        outer = _Rule.of(np.concatenate([_grid(scale * max(small, 0.3)), cuts]))
        inner = _grid(scale)
        totals = np.zeros(3)
        step = max(1, _CHUNK // (_NODES * (len(inner) + 2 * len(places))))
        for start in range(0, len(outer.z), step):
            b, weight = outer.z[start : start + step], outer.weight[start : start + step]
            ends = [(h[:, None] - small * b) / large, (k[:, None] + small * b) / large]
            rule = _Rule.of(np.concatenate([np.broadcast_to(inner[:, None], (len(inner), len(b))), *ends]))
            x, y = s1 * (large * rule.z + small * b), sign * s2 * (large * rule.z - small * b)
            f, g = self._values(x) / root1, self._values(y) / root2
            slopes = derivative(self.layer, x) * derivative(self.layer, y)
            for n, value in enumerate(((f - g) ** 2 / 2, (f + g) ** 2 / 2, slopes)):
                totals[n] += float(((value * rule.weight).sum(axis=0) * weight).sum())
        return float(totals[0]), float(totals[1]), float(totals[2])
