"""Means and covariances over test points, tile by tile, in memory that does not grow with their number.

With ``A = Theta + diag_reg`` of the training points d and the weights of a tile i of test points,
``B_i = Theta_id A^-1 G`` (G what is learned, see ``descent.py``), the covariance of tiles j and i is

    K_ji - K_jd B_i^T                        for a Gaussian process (then Theta is K, the prior's kernel),
    K_ji - K_jd B_i^T + Theta_jd C_i^T       for trained networks, C_i = (B_i K_dd - K_id) A^-1 G:

what is solved for belongs to tile i alone, and of tile j only kernels are asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..base.options import available_memory
from ..base.progress import bar
from .early import Early
from .linalg import Cholesky, IndefiniteError, Spectrum, namespace, product
from .units import in_units, restored

Array = npt.NDArray[Any]

BUDGET = 256 * 2**20
_COLUMNS = 256  # rows of tile j: enough for products to run at full speed


class Source(Protocol):
    """Kernels of the test points. Rows are those of the kernels as matrices, ``unit`` of them for each point."""

    rows: int
    unit: int

    def cross(self, start: int, stop: int) -> dict[str, Array]:
        """Kernels between test rows and training points, by name."""

    def prior(self, name: str, start: int, stop: int, first: int, last: int) -> Array:
        """The kernel of test rows from start to stop with those from first to last."""

    def variances(self, name: str, start: int, stop: int) -> Array:
        """Its diagonal."""


class Held(Protocol):
    """A kernel that is asked for when it is needed, and not before: until then a factor may lie in its place."""

    @property
    def kernel(self) -> Array:
        """(n, n)."""


class Solved:
    """``A^-1 x``: training without end."""

    count = 1

    def __init__(self, cholesky: Cholesky) -> None:
        self._cholesky = cholesky

    def project(self, x: Array) -> Array:
        return x

    def back(self, t: int, x: Array) -> Array:
        return self._cholesky.solve(x)


class Evolved:
    """``A^-1 G x`` at each of several times; weights (times, n) are those of the eigenvalues."""

    def __init__(self, spectrum: Spectrum, weights: Array) -> None:
        self._vectors, self._weights = spectrum.vectors, weights.astype(spectrum.vectors.dtype)
        self.count = len(weights)

    def project(self, x: Array) -> Array:
        found: Array = self._vectors.T @ x
        return found

    def back(self, t: int, x: Array) -> Array:
        found: Array = self._vectors @ (self._weights[t][:, None] * x)
        return found


@dataclass
class Prediction:
    """One entry of ``get``.

    ``kernel`` is the one trained with, ``prior`` that of the outputs at the start; ``mean`` (times, n, o) are the
    weights of its columns; ``nngp`` has the prior's kernel of the training points where ``kernel`` is another.
    """

    kernel: str
    prior: str
    mean: Array
    response: Solved | Evolved | Early
    nngp: Held | None = None

    @property
    def matrices(self) -> int:
        return 1 if self.nngp is None else 2

    def weights(self, t: int, projected: Array, cross: dict[str, Array]) -> dict[str, Array]:
        """By kernel, what its rows are multiplied by to change K_ji into the covariance: each (n, rows of i)."""
        b = self.response.back(t, projected)
        if self.nngp is None:
            return {self.prior: -b}
        c = self.response.back(t, self.response.project(product(self.nngp.kernel, b) - cross[self.prior].T))
        return {self.prior: -b, self.kernel: c}


@dataclass(frozen=True)
class Units:
    """Those of the kernels by name, and of each output (o,): what is solved for is in them."""

    kernels: dict[str, float]
    outputs: Array


@dataclass
class Found:
    """Of one prediction: mean (times, rows, o), covariance (times, rows, rows) or (times, rows) or None.

    ``scale`` is the largest prior variance, ``spread`` the largest sum of absolute weights of one test point (its own
    1 included): rounding of the kernels' entries moves a covariance by no more than ``eps scale spread^2``.
    """

    mean: Array
    covariance: Array | None
    scale: float = 0.0
    spread: float = 1.0
    rounding: float = 0.0


@dataclass(frozen=True)
class Plan:
    """Rows of tiles i and j, and how many times are kept at once."""

    rows: int
    columns: int
    times: int


def plan(
    source: Source, predictions: Sequence[Prediction], covariance: str | None, n: int, sizes: tuple[int, int],
    budget: int, what: str,
) -> Plan:  # fmt: skip
    """The largest tiles within ``budget`` bytes; ``sizes`` are bytes of a kernel's entry and of one computed with.

    Raises
    ------
    MemoryError
        When not even one test point fits.
    """
    entry, own = sizes
    unit, total = source.unit, max(source.rows, 1)
    names = {name for p in predictions for name in (p.kernel, p.prior)}
    cross = n * len(names) * (entry + own)
    means = sum(p.mean[:, 0].size for p in predictions) * own
    times = max(p.response.count for p in predictions)
    matrices = sum(p.matrices for p in predictions)
    pair = entry + 3 * own

    def row(kept: int) -> int:
        if covariance is None:
            return cross + means
        return cross + means + n * own * (len(predictions) + kept * matrices + 4)

    def fit(kept: int) -> tuple[int, int]:
        if covariance != "full":
            return budget // row(kept) // unit * unit, unit
        columns = -(-min(_COLUMNS, total) // unit) * unit
        while True:
            rows = (budget - columns * cross) // (row(kept) + columns * pair) // unit * unit
            if rows >= columns or columns == unit:
                return rows, columns
            columns = max(unit, columns // 2 // unit * unit)

    kept = times if covariance == "full" else 1
    while kept > 1 and fit(kept)[0] < min(total, 64):
        kept = -(-kept // 2)
    rows, columns = fit(kept)
    if rows < unit:
        need = unit * (row(1) + (cross + unit * pair if covariance == "full" else 0))
        raise MemoryError(
            f"[{what}] one test point takes {need} bytes beside {n} training points: more than memory_budget = {budget}"
        )
    return Plan(min(rows, -(-total // unit) * unit), columns, max(kept, 1))


def predict_tiles(
    source: Source, predictions: dict[str, Prediction], covariance: str | None, entry: np.dtype[Any],
    own: np.dtype[Any], units: Units, budget: int, what: str, progress: bool = False,
) -> dict[str, Found]:  # fmt: skip
    """Means and, as ``covariance`` says (None, 'diagonal', 'full'), variances or covariances.

    ``entry`` is the dtype of kernels and results, ``own`` what is computed in. The kernels of ``source`` and the
    results are in the caller's units, the predictions in ``units``.
    """
    some = next(iter(predictions.values()))
    xp = namespace(some.mean, what=what)
    n, rows = some.mean.shape[1], source.rows
    laid = plan(source, list(predictions.values()), covariance, n, (entry.itemsize, own.itemsize), budget, what)
    count = some.response.count
    found = {}
    for g, p in predictions.items():
        found[g] = Found(xp.empty((count, rows, p.mean.shape[2]), entry), None)
        if covariance is not None:
            found[g].covariance = empty_covariances(covariance, count, rows, found[g].mean, what)
    tiles = [(a, min(a + laid.rows, rows)) for a in range(0, rows, laid.rows)]
    groups = [range(t, min(t + laid.times, count)) for t in range(0, count, laid.times)]
    if covariance != "full":
        groups = [range(count)]
    pairs = sum(_pairs(a, b, n, laid.columns, covariance) for a, b in tiles) * len(groups)
    with bar(pairs, progress) as report:
        for times in groups:
            for a, b in tiles:
                _Tile(source, predictions, a, b, own, units).add(found, covariance, times, laid.columns)
                report(_pairs(a, b, n, laid.columns, covariance))
    for f in found.values():
        settle(f, max(float(np.finfo(dtype).eps) for dtype in (entry, own)), what)
    return found


def _pairs(a: int, b: int, n: int, columns: int, covariance: str | None) -> int:
    """Pairs of points that tile [a, b) asks kernels of."""
    if covariance != "full":
        return (b - a) * n
    inside = sum((min(j + columns, b) - j) * (b - j) for j in range(a, b, columns))
    return b * n + a * (b - a) + inside


def empty_covariances(covariance: str, times: int, rows: int, like: Array, what: str) -> Array:
    """An array for variances ('diagonal') or covariances ('full'), of the dtype and library of ``like``.

    Raises
    ------
    MemoryError
        When it is larger than what is free.
    """
    shape = (times, rows) if covariance == "diagonal" else (times, rows, rows)
    size, available = math.prod(shape) * like.dtype.itemsize, available_memory()
    if available is not None and size > available:
        raise MemoryError(
            f"[{what}] covariances of shape {shape} {like.dtype} take {size / 2**30:.4g} GiB; "
            f"{available / 2**30:.4g} GiB are available (variances alone take much less)"
        )
    found: Array = namespace(like, what=what).empty(shape, like.dtype)
    return found


class _Tile:
    """Test rows from a to b, their kernels with the training points, and what is solved for."""

    def __init__(
        self, source: Source, predictions: dict[str, Prediction], a: int, b: int, own: np.dtype[Any], units: Units
    ) -> None:  # fmt: skip
        self.source, self.predictions, self.a, self.b, self.own, self.units = source, predictions, a, b, own, units
        self.cross = self._cross(a, b)

    def _cross(self, start: int, stop: int) -> dict[str, Array]:
        return {name: self._scaled(name, k) for name, k in self.source.cross(start, stop).items()}

    def _scaled(self, name: str, k: Array) -> Array:
        return in_units(k, self.units.kernels[name], self.own)

    def _covariance(self, name: str, values: Array, found: Found) -> Array:
        """In the caller's units, and of the result's dtype."""
        assert found.covariance is not None
        dtype = found.covariance.dtype
        moved = values.astype(dtype, copy=False)
        moved *= dtype.type(self.units.kernels[name])
        return moved

    def add(self, found: dict[str, Found], covariance: str | None, times: range, columns: int) -> None:
        """Write the tile's part of the results; means with the first group of times."""
        if times.start == 0:
            self._means(found)
        if covariance == "diagonal":
            self._variances(found, times)
        elif covariance == "full":
            self._covariances(found, times, columns)

    def _means(self, found: dict[str, Found]) -> None:
        for g, p in self.predictions.items():
            times, n, outputs = p.mean.shape
            flat = self.cross[p.kernel] @ p.mean.transpose(1, 0, 2).reshape(n, -1)
            mean = flat.reshape(self.b - self.a, times, outputs).transpose(1, 0, 2)
            found[g].mean[:, self.a : self.b] = restored(mean, self.units.outputs, found[g].mean.dtype)

    def _weights(self, g: str, projected: Array, t: int, found: Found) -> dict[str, Array]:
        p = self.predictions[g]
        weights = p.weights(t, projected, self.cross)
        found.spread = max(found.spread, 1 + float(abs(weights[p.prior]).sum(axis=0).max()))
        return weights

    def _variances(self, found: dict[str, Found], times: range) -> None:
        for g, p in self.predictions.items():
            target = found[g].covariance
            assert target is not None
            prior = self._scaled(p.prior, self.source.variances(p.prior, self.a, self.b))
            found[g].scale = max(found[g].scale, float(prior.max()) * self.units.kernels[p.prior])
            projected = p.response.project(self.cross[p.kernel].T)
            for t in times:
                value = prior.copy()
                for name, w in self._weights(g, projected, t, found[g]).items():
                    value += (self.cross[name] * w.T).sum(axis=1)
                target[t, self.a : self.b] = self._covariance(p.prior, value, found[g])

    def _covariances(self, found: dict[str, Found], times: range, columns: int) -> None:
        weights = {}
        for g, p in self.predictions.items():
            projected = p.response.project(self.cross[p.kernel].T)
            weights[g] = [self._weights(g, projected, t, found[g]) for t in times]
        for start in (*range(0, self.a, columns), *range(self.a, self.b, columns)):
            stop = min(start + columns, self.a if start < self.a else self.b)
            self._blocks(found, times, weights, start, stop)

    def _blocks(
        self, found: dict[str, Found], times: range, weights: dict[str, list[dict[str, Array]]], start: int, stop: int
    ) -> None:
        """Covariances of the rows from start to stop with those of the tile that do not come before them."""
        inside = start >= self.a
        first = start if inside else self.a
        if inside:
            cross = {name: k[start - self.a : stop - self.a] for name, k in self.cross.items()}
        else:
            cross = self._cross(start, stop)
        for prior in {p.prior for p in self.predictions.values()}:
            k = self._scaled(prior, self.source.prior(prior, start, stop, first, self.b))
            for g in (g for g, p in self.predictions.items() if p.prior == prior):
                target = found[g].covariance
                assert target is not None
                if inside:
                    top = float(k.diagonal().max()) * self.units.kernels[prior]
                    found[g].scale = max(found[g].scale, top)
                for t, each in zip(times, weights[g], strict=True):
                    block = k.copy()
                    for name, w in each.items():
                        block += cross[name] @ w[:, first - self.a :]
                    if inside:
                        square = block[:, : stop - start]
                        block[:, : stop - start] = (square + square.T) / 2
                    block = self._covariance(prior, block, found[g])
                    target[t, start:stop, first : self.b] = block
                    target[t, first : self.b, start:stop] = block.T


def settle(found: Found, eps: float, what: str) -> None:
    """Variances that rounding left below zero become zero.

    Raises
    ------
    IndefiniteError
        When rounding does not explain them.
    """
    if found.covariance is None or not found.covariance.size:
        return
    xp = namespace(found.covariance, what=what)
    # 16: kernels are right to a few eps, and sums over training points round too.
    found.rounding = 16 * eps * found.scale * found.spread**2
    at = xp.arange(found.covariance.shape[-1])
    for values in found.covariance:
        variances = values if values.ndim == 1 else values[at, at]
        lowest = float(variances.min())
        if lowest < -found.rounding:
            raise IndefiniteError(
                f"[{what}] a variance is {lowest:.6g}, below zero by more than rounding explains "
                f"({found.rounding:.3g}): the kernels of training and test points do not belong together",
                lowest,
            )
        if values.ndim == 1:
            values[:] = xp.maximum(variances, 0)
        else:
            values[at, at] = xp.maximum(variances, 0)
