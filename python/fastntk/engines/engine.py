"""What the road asks of an engine, and what it hands over: tiles of pairs, and rows of both sides."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..network.program import Lowered

Array = npt.NDArray[Any]  # or CuPy's


@dataclass
class TileInput:
    """One program input on one tile, (batches, lines, cols): a known defect, or rows of both sides.

    Of rows an engine gets what it asks for: ``panels`` of unit rows (``Engine.panel``), or the ``product`` of them.
    ``raw1``, ``raw2`` (batches, lines, d) and ``norms1``, ``norms2`` (batches, 1, lines), float64, are the rows as
    given and their lengths, for pairs that are close.
    """

    product: Array | None = None
    defect: Array | None = None
    theta: Array | None = None
    panels1: Array | None = None
    panels2: Array | None = None
    raw1: Array | None = None
    raw2: Array | None = None
    norms1: Array | None = None
    norms2: Array | None = None


@dataclass
class Tile:
    """Place of a tile in a result of ``n1 x n2`` pairs per batch, and of its first line and column in the row tables.

    ``symmetric``: only pairs on and above the diagonal are computed, and mirrored. ``diagonal``: line i meets row i.
    """

    n1: int
    n2: int
    batch0: int
    batches: int
    i0: int
    lines: int
    j0: int
    cols: int
    symmetric: bool = False
    diagonal: bool = False
    row1: int = 0
    row2: int = 0


class Engine(Protocol):
    """What a backend offers. Arrays are those of its library ``xp``: NumPy, or CuPy on a device."""

    name: str
    isa: str
    xp: Any
    cache_bytes: int  # of unit rows kept for a whole call, and of a row table
    square: bool  # tiles are to be as wide as long
    real: Any  # type of lengths and variances
    any_strides: bool  # run() writes outputs of any strides and byte order; else only of adjacent columns
    panel: int | None  # rows of a panel, where the engine multiplies itself; None: NumPy's BLAS makes the product

    def call(self) -> AbstractContextManager[Any]:
        """Holds what one call needs; outputs are complete when it ends, or on a device are so in the stream's order."""

    def bring(self, x: Array) -> Array:
        """An array of the caller's as one of ``xp``."""

    def deliver(self, x: Array) -> Array:
        """An array of ``xp`` as one that lies where the caller's do."""

    def tile_size(
        self, shape: tuple[int, int, int], dtype: np.dtype[Any], outputs: Sequence[Sequence[Array | None]],
        symmetric: bool,
    ) -> int:  # fmt: skip
        """Pairs of one call of ``run`` at most, of a result of this shape (batch, n1, n2)."""

    def product_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Dtype of unit rows, products, defects and theta for results of ``dtype``."""

    def normalise(self, x: Array, units: Array, norms: Array) -> None:
        """Write x / |x| of (batch, n, d) rows to ``units`` and |x| to ``norms``, (batch n,) float64.

        ``units`` has x's shape, or (batch, panels, d panel) where the engine has panels.
        """

    def multiply(self, units1: Array, units2: Array, out: Array) -> None:
        """Write units1 units2^T, (batch, n1, n2), to ``out``; engines without panels."""

    def rows(self, lowered: Lowered, q: Sequence[Array], dtype: np.dtype[Any]) -> Any:
        """Row arrays of inputs with variances ``q`` (plan/rows.py); ``.variance(k)`` is that of output k, float64."""

    def run(
        self, lowered: Lowered, rows1: Any, rows2: Any, dtype: np.dtype[Any], tile: Tile,
        inputs: Sequence[TileInput], outputs: Sequence[Sequence[Array | None]],
    ) -> None:  # fmt: skip
        """Write (nngp, ntk, defect) of each program output into its place; None planes are not computed."""

    def dual(
        self,
        name: str,
        params: Sequence[float],
        q11: Array,
        q12: Array,
        q22: Array,
        scale: float,
        k: Array,
        kdot: Array,
    ) -> None:
        """Dual of ``phi(sqrt(scale) x)`` on contiguous 1-D arrays; kdot is that of phi."""
