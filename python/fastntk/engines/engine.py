"""What the road asks of an engine: machines, which compute tiles of pairs, of points or of planes.

``Engine.prepare`` makes a machine for one call. What belongs to that call (shares of memory, tables kept between tiles,
results on their way) is the machine's own; what is compiled for a program is kept elsewhere, for all calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ..base.progress import Report
from ..network.program import Lowered
from ..plan.extremes import Flags, Limits
from .masked import Beside

Array = npt.NDArray[Any]  # or CuPy's

Pair: TypeAlias = tuple[Array, Array]
Triple: TypeAlias = tuple[Array, Array, Array]
Outputs: TypeAlias = "Sequence[Sequence[Array | None]]"  # planes of each output; None: not wanted


class Layout(NamedTuple):
    """What the inputs of a call are."""

    inputs: tuple[tuple[tuple[int, ...], int], ...]  # spatial axes and channels of each
    planes: bool  # pairs of them are planes, else points


@dataclass
class Known:
    """One side of an input that another network has left: variances (batch n,), and of the first side its pairs'."""

    q: Array
    defect: Array | None = None  # (batch, n1, n2)
    theta: Array | None = None


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


class Tiling(NamedTuple):
    """What tiles a machine likes."""

    pairs: int  # of a tile, at most
    samples: int  # of both sides together
    panel: int = 1  # lines and columns begin at whole ones
    square: bool = False  # as wide as long: of a symmetric Gram they lie on the diagonal or meet it nowhere
    batched: bool = True  # a tile may hold several batches


class Cost(NamedTuple):
    """What a machine takes."""

    sample: int  # bytes of what pairs read of one sample
    worker: int = 0  # bytes of one thread's buffers, on a device of one pair's between grids


@dataclass
class Job:
    """What a call asks of a machine: output planes (batch, n1, n2, ...) to fill."""

    shape: tuple[int, int, int]  # (batch, n1, n2)
    symmetric: bool
    outputs: Outputs
    apart: bool = False  # some are written by way of buffers
    budget: int = 0  # bytes, beside inputs and outputs; of machines of planes
    wide: tuple[Flags, Flags] | None = None  # samples (batch, n) whose pairs are done again, see plan/extremes.py
    near: Lowered | None = None  # of points by this program, near pairs are done again too: network/amplify.py


class Side(Protocol):
    """Samples of one side, ready to meet others; they know no program."""

    def within(self, limits: Limits) -> bool:
        """Whether all samples are seen to be within these."""

    def beyond(self, limits: Limits) -> Flags | None:
        """Samples beyond these, (batch, n); None where nobody may look: on a device nothing waits for numbers."""


class Machine(Protocol):
    """A program on one engine, for inputs of one layout and dtype, for one call."""

    @property
    def cost(self) -> Cost:
        """What it takes."""

    def writes(self, plane: Array) -> bool:
        """Whether ``pairs`` can write to an output as it lies; else it is given a buffer."""

    def empty(self, shape: tuple[int, ...], like: Array) -> Array:
        """A buffer for a plane."""

    def begin(self, job: Job) -> Tiling:
        """Divide memory. Raises MemoryError where one pair does not fit, before anything is written."""

    def pairs(self, one: Any, two: Any, tile: Tile, place: Tile, outputs: Outputs, report: Report) -> None:
        """Compute a tile of pairs; ``place``: where it stands in the outputs, which may be buffers of its own."""

    def finish(self) -> None:
        """Wait for what ``pairs`` has begun."""

    def again(self, one: Any, two: Any, job: Job) -> None:
        """Compute the pairs of ``job.wide`` once more, in a type that reaches further, and near ones if asked for."""

    def diagonal(self, side: Any, outputs: Outputs, budget: int) -> None:
        """Fill planes (batch, n, ...) of samples with themselves."""

    def variances(
        self, side: Any, wanted: Sequence[int], grams: Sequence[Array | None], budget: int
    ) -> Mapping[int, Array]:
        """K(x, x) of some outputs, (batch, n, ...); ``grams``: each one's NNGP where ``side`` is both of its sides."""


class Engine(Protocol):
    """What a backend offers. Arrays are those of its library ``xp``: NumPy, or CuPy on a device."""

    name: str
    isa: str
    xp: Any

    def budget(self) -> int:
        """Bytes that images may take beside inputs and outputs, where a call does not say."""

    def call(self) -> AbstractContextManager[Any]:
        """Holds what one call needs; outputs are complete when it ends, or on a device are so in the stream's order."""

    def side(self, layout: Layout, given: Sequence[Array | Known], beside: Beside | None = None) -> Side:
        """Samples (batch, n, ..., channels) of one side of every input; ``beside``: what images have beside these."""

    def sides(
        self, layout: Layout, given: Sequence[Array | Known], others: Sequence[Array | Known]
    ) -> tuple[Side, Side]:
        """Points of both sides, made together."""

    def prepare(self, lowered: Lowered, layout: Layout, dtype: np.dtype[Any]) -> Machine:
        """The machine for a call on inputs of this layout and dtype."""

    def adjoint(self, tangents: Any) -> Any:
        """The compiled reverse pass of a program (numpy_tangents.Tangents) where there is one, else None."""

    def image_adjoint(self, tangents: Any, lowered: Lowered, inputs: Any, channels: Any) -> Any:
        """That over images (numpy_image_sides.ImageTangents), of inputs with these spatial axes and channels."""

    def product_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Dtype of unit rows, products, defects and theta for results of ``dtype``."""

    def dual(self, name: str, params: Sequence[float], q: Triple, scale: float, found: Pair) -> None:
        """Dual of ``phi(sqrt(scale) x)`` on contiguous 1-D arrays q11, q12, q22: k, and the kdot of phi."""


# ---------------------------------------------------------------- below the machine of points


@dataclass
class TileInput:
    """One program input on one tile, (batches, lines, cols): a known defect, or rows of both sides.

    Of rows an engine gets what it asks for: ``panels`` of unit rows (``PointEngine.panel``), or the ``product`` of
    them. ``raw1``, ``raw2`` (batches, lines, d) and ``norms1``, ``norms2`` (batches, 1, lines), float64, are the rows
    as given and their lengths, for pairs that are close.
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
class WindowInput:
    """One program input that is a window of a value over pairs of positions: a sum over taps and biases.

    ``defect`` and ``theta`` (batches, lines, cols) are those of what is read, by each tap at other lines and columns
    ``from1`` and ``from2`` (taps, batches lines), int32, -1 for nothing; where ``from2`` is None, at other batches
    ``from1`` (taps, batches). ``std1``, ``std2`` (batches, 1, rows), float64, are deviations of a tap by what it reads,
    ``inverse1``, ``inverse2`` 1 / those of the sum, 0 where it has none; ``bias`` is the deviation of the biases.
    """

    defect: Array
    theta: Array | None
    from1: Array
    from2: Array | None
    std1: Array
    std2: Array
    inverse1: Array
    inverse2: Array
    bias: float


class PointEngine(Engine, Protocol):
    """What the machine of points (points.py) asks of an engine."""

    cache_bytes: int  # of unit rows kept for a whole call, and of a row table
    square: bool  # tiles are to be as wide as long
    real: Any  # type of lengths and variances
    any_strides: bool  # run() writes outputs of any strides and byte order; else only of adjacent columns
    panel: int | None  # rows of a panel, where the engine multiplies itself; None: NumPy's BLAS makes the product

    def bring(self, x: Array) -> Array:
        """An array of the caller's as one of ``xp``."""

    def deliver(self, x: Array) -> Array:
        """An array of ``xp`` as one that lies where the caller's do."""

    def further(self, dtype: np.dtype[Any]) -> PointEngine:
        """What computes in float64 or beyond what leaves the range of ``dtype``."""

    def tile_size(self, shape: tuple[int, int, int], dtype: np.dtype[Any], outputs: Outputs, symmetric: bool) -> int:
        """Pairs of one call of ``run`` at most, of a result of this shape (batch, n1, n2)."""

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
        inputs: Sequence[TileInput], outputs: Outputs,
    ) -> None:  # fmt: skip
        """Write (nngp, ntk, defect) of each program output into its place; None planes are not computed."""
