"""The NumPy engine: fallback, and the readable definition of what every backend computes (numpy_rows.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..network.activations import Correlation, of_dual, of_input, rho_of
from ..network.program import Lowered
from ..plan.rows import Rows, row_pass
from .engine import Pair, Tile, TileInput, Triple
from .memory import HostMemory
from .numpy_mix import dropped
from .numpy_planes import NumpyPlanes
from .numpy_rows import Real, input_defect, normalise, place, run_op

Array = npt.NDArray[Any]


class NumpyEngine(HostMemory):
    """Pure NumPy, float64 inside; lengths, variances and NTKs are of type ``real``, which may reach further."""

    name = "numpy"
    planes = NumpyPlanes
    isa = "float64 throughout"
    tile_pairs = 1 << 17
    any_strides = True
    panel: int | None = None

    def __init__(self, real: Real = np.float64) -> None:
        self.real = real

    def product_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        return np.dtype(np.float64)

    def further(self, dtype: np.dtype[Any]) -> NumpyEngine:
        return self if dtype == np.float32 else NumpyEngine(np.longdouble)

    def normalise(self, x: Array, units: Array, norms: Array) -> None:
        normalise(x, units, norms)

    def rows(self, lowered: Lowered, q: Sequence[Array], dtype: np.dtype[Any]) -> Rows:
        with np.errstate(all="ignore"):
            return row_pass(lowered)(q, np.result_type(q[0], np.float64))

    def dual(self, name: str, params: Sequence[float], q: Triple, scale: float, found: Pair) -> None:
        q11, q12, q22 = (x.astype(np.float64) for x in q)
        layer = of_dual(name, params)
        with np.errstate(all="ignore"):
            c = Correlation.of_covariances(q11, q12, q22)
            q11, q22 = scale * q11, scale * q22
            _, rho, found[1][...] = layer.pair(c, *(of_input(layer.rows(x)) for x in (q11, q22)))
            found[0][...] = np.sqrt(layer.variance(q11)) * np.sqrt(layer.variance(q22)) * rho

    def run(
        self, lowered: Lowered, rows1: Rows, rows2: Rows, dtype: np.dtype[Any], tile: Tile,
        inputs: Sequence[TileInput], outputs: Sequence[Sequence[Array | None]],
    ) -> None:  # fmt: skip
        with np.errstate(all="ignore"):  # NaN and infinity in the inputs, confined to their pairs
            for batch in range(tile.batches):
                self._run_batch(lowered, rows1, rows2, tile, inputs, outputs, batch)

    def _run_batch(
        self, lowered: Lowered, rows1: Rows, rows2: Rows, tile: Tile,
        inputs: Sequence[TileInput], outputs: Sequence[Sequence[Array | None]], batch: int,
    ) -> None:  # fmt: skip
        b = tile.batch0 + batch
        first1, first2 = tile.row1 + batch * tile.n1, tile.row2 + batch * tile.n2
        lines = slice(first1, first1 + tile.lines)
        cols = lines if tile.diagonal else slice(first2, first2 + tile.cols)
        shape = (tile.lines, tile.cols)
        slots: dict[int, tuple[Array, Array]] = {}
        for slot, given in enumerate(inputs):
            theta = np.zeros(shape, self.real) if given.theta is None else given.theta[batch].astype(self.real)
            slots[slot] = (input_defect(given, batch, shape, self.real), theta)
        for k, op in enumerate(lowered.program.ops):
            x1 = rows1.of(k, (lines, None))
            x2 = rows2.of(k, (cols, None) if tile.diagonal else (None, cols))
            if op.name == "drop":
                (keep,), (v, theta), same = op.own(lowered.numbers), slots[op.src[0]], _same(tile)
                slots[op.dst] = dropped(keep, v, same), np.where(same, theta / keep, theta)
                continue
            if op.name != "store":
                slots[op.dst] = run_op(op, op.own(lowered.numbers), x1, x2, [slots[s] for s in op.src])
                continue
            v, theta = slots[op.src[0]]
            nngp = x1.std * x2.std * rho_of(v)
            for plane, value in zip(outputs[op.dst], (nngp, theta, v), strict=True):
                if plane is not None:
                    place(plane[b], np.broadcast_to(value, shape), tile)


def _same(tile: Tile) -> Array:
    """Which pairs of a tile are an input with itself."""
    if tile.diagonal:
        return np.ones((tile.lines, tile.cols), bool)
    lines, cols = (np.arange(start, start + n) for start, n in ((tile.i0, tile.lines), (tile.j0, tile.cols)))
    return np.asarray((lines[:, None] == cols) & tile.symmetric)
