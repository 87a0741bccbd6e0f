"""The engines that run programs: which there are, why one is missing, and the one a call uses.

An engine does three things: ``normalise`` inputs to unit rows, make the ``rows`` tables of a program (everything that
depends on one input), and ``run`` the program on one tile of pairs. ``reference.py`` is the readable one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .config import resolve_options
from .device import HOST, PIP, DevicePlace, HostMemory, Place, WhereTheyLie, import_cupy
from .plan import Plan
from .program import Program
from .reference import CLOSE, NumpyEngine

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

    def rows(self, program: Program, q: Sequence[Array], dtype: np.dtype[Any]) -> Any:
        """Row tables for inputs with variances ``q``; ``.variance(k)`` is that of output k, float64."""

    def run(
        self, program: Program, rows1: Any, rows2: Any, dtype: np.dtype[Any], tile: Tile,
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


@lru_cache(maxsize=2)
def load(name: str) -> tuple[ModuleType | None, str]:
    """The compiled module of a backend, or None and why it is not there."""
    if os.environ.get("FASTNTK_HIDE_COMPILED") == "1":  # the test suite runs once like this
        return None, "not available: hidden by FASTNTK_HIDE_COMPILED"
    try:
        return import_module(f"fastntk._{name}"), "available"
    except ModuleNotFoundError:
        return None, f"not available: this installation has no compiled module fastntk._{name}"
    except ImportError as error:
        return None, f"not available: {error}"


# Pairs within this of rho = 1 or -1 take their distance from the inputs themselves: the rounding of the product, about
# 3 eps, would show in kdot ~ sqrt(2 (1 - rho)) / pi.
_CLOSE = {np.dtype(np.float32): 0.06, np.dtype(np.float64): CLOSE}


@lru_cache(maxsize=256)
def _compile(module: ModuleType, program: Program) -> Any:
    ops = [(op.name, op.dst, list(op.src), list(op.params)) for op in program.ops]
    missing = {op.name for op in program.ops} - set(module.op_names())
    if missing:
        raise NotImplementedError(
            f"{module.__name__} has no op {sorted(missing)}; it has {module.op_names()} (backend='numpy' runs all)"
        )
    return module.Program(ops, program.n_inputs, program.n_slots, program.n_outputs)


def _call(
    module: ModuleType, dtype: np.dtype[Any], tile: Tile, inputs: Sequence[TileInput],
    outputs: Sequence[Sequence[Array | None]],
) -> tuple[Any, ...]:  # fmt: skip
    """A tile as the ``run`` of both compiled modules takes it: its place, inputs and outputs."""
    views = []
    for given in inputs:
        view = module.Input()
        for field in fields(TileInput):
            setattr(view, field.name, getattr(given, field.name))
        view.close = _CLOSE[dtype]
        views.append(view)
    place = (tile.batch0, tile.batches, tile.i0, tile.lines, tile.j0, tile.cols, tile.row1, tile.row2)
    return place, views, [tuple(planes) for planes in outputs]


@lru_cache(maxsize=16)
def _image_plan(
    module: ModuleType, plan: Plan, channels: tuple[int, ...], n_outputs: int, single: bool, *registers: bool
) -> Any:
    make = module.ImagePlan32 if single else module.ImagePlan64
    return make(plan, list(channels), n_outputs, *registers)


class CpuEngine(HostMemory):
    """The compiled block loops."""

    name = "cpu"
    tile_pairs = 1 << 26

    def __init__(self, module: ModuleType, isa: str | None, num_threads: int) -> None:
        self._module = module
        self._threads = min(num_threads, 2**31 - 1)
        self.panel: int | None = module.PANEL
        available = [name for name, present in module.isas() if present]
        if isa is not None and isa not in available:
            raise ValueError(f"isa '{isa}' is not available here; choose from {available}")
        self.isa = isa or available[-1]

    def product_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        return dtype

    @property
    def threads(self) -> int:
        return self._threads

    def image_plan(self, plan: Plan, channels: tuple[int, ...], n_outputs: int, dtype: np.dtype[Any]) -> Any:
        """The compiled plan for inputs with spatial axes: ``table_bytes``, ``worker_bytes``, ``tables``, ``run``."""
        return _image_plan(self._module, plan, channels, n_outputs, dtype == np.float32)

    def normalise(self, x: Array, units: Array, norms: Array) -> None:
        self._module.pack(x, units, norms, self.isa, self._threads)

    def rows(self, program: Program, q: Sequence[Array], dtype: np.dtype[Any]) -> Any:
        return self._module.rows(_compile(self._module, program), list(q), dtype, self._threads)

    def run(
        self, program: Program, rows1: Any, rows2: Any, dtype: np.dtype[Any], tile: Tile,
        inputs: Sequence[TileInput], outputs: Sequence[Sequence[Array | None]],
    ) -> None:  # fmt: skip
        place, views, planes = _call(self._module, dtype, tile, inputs, outputs)
        self._module.run(
            _compile(self._module, program), rows1, rows2, dtype, place, tile.n1, tile.n2, views, planes,
            tile.symmetric, tile.diagonal, self.isa, self._threads,
        )  # fmt: skip

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
        self._module.dual(name, list(params), q11, q12, q22, scale, k, kdot, self.isa, self._threads)


@dataclass
class DeviceRows:
    """Row tables on a device: arrays of one program, (rows of it, n), and each output's variances, (outputs, n)."""

    table: Array
    variances: Array

    def variance(self, output: int) -> Array:
        found: Array = self.variances[output]
        return found


class CudaEngine(WhereTheyLie):
    """A CUDA device, for arrays that lie on it: memory is CuPy's, and all work goes to one stream in its order."""

    name = "cuda"
    tile_pairs = 1 << 26
    cache_bytes = 512 << 20
    panel: int | None = None
    square = False
    any_strides = False
    registers = True  # convolutions of images in registers where they fit; else element by element

    def __init__(self, module: Any, place: DevicePlace, label: str) -> None:
        self._module, self._place = module, place
        self._codes: dict[Program, Array] = {}
        self.xp = place.xp
        self.isa = label

    @property
    def where(self) -> tuple[int, int]:
        """Device and stream of all work."""
        assert self._place.ordinal is not None
        return self._place.ordinal, int(self._place.stream.ptr)

    def tile_size(
        self, shape: tuple[int, int, int], dtype: np.dtype[Any], outputs: Sequence[Sequence[Array | None]],
        symmetric: bool,
    ) -> int:  # fmt: skip
        """Fewer pairs where memory is short of a product."""
        return fitting(min(math.prod(shape), self.tile_pairs), lambda pairs: self.xp.empty(pairs, dtype))[0]

    def image_plan(self, plan: Plan, channels: tuple[int, ...], n_outputs: int, dtype: np.dtype[Any]) -> Any:
        """The plan for inputs with spatial axes, as device code: ``code`` and sizes."""
        return _image_plan(self._module, plan, channels, n_outputs, dtype == np.float32, self.registers)

    def image_chains(self, plan: Any, *arrays: Any) -> None:
        """What registers read of images, from their tables."""
        self._module.image_chains(plan, *arrays, *self.where)

    def image_pairs(self, plan: Any, *arrays: Any) -> None:
        """Pairs of images through a plan."""
        self._module.image_pairs(plan, *arrays, *self.where)

    def product_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        return dtype

    def normalise(self, x: Array, units: Array, norms: Array) -> None:
        self._module.normalise(x, units, norms.reshape(x.shape[:2]), *self.where)

    def multiply(self, units1: Array, units2: Array, out: Array) -> None:
        """By cuBLAS. CuPy multiplies matrices in TF32 where CUPY_TF32 asks for that, batches never."""
        if len(units1) == 1 and os.environ.get("CUPY_TF32", "0") == "0":
            self.xp.matmul(units1[0], units2[0].T, out=out[0])  # of a batch it would transpose a copy
        else:
            self.xp.matmul(units1, units2.transpose(0, 2, 1), out=out)

    def _compiled(self, program: Program) -> tuple[Any, Array]:
        """The program, and what device code reads of it, uploaded once a call."""
        compiled = _compile(self._module, program)
        if program not in self._codes:
            self._codes[program] = self.xp.asarray(np.frombuffer(compiled.code(), np.uint8))
        return compiled, self._codes[program]

    def rows(self, program: Program, q: Sequence[Array], dtype: np.dtype[Any]) -> DeviceRows:
        compiled, code = self._compiled(program)
        n = len(q[0])
        table = self.xp.empty((max(1, compiled.n_rows), n), dtype)
        variances = self.xp.empty((program.n_outputs, n), np.float64)
        if n:
            self._module.rows(compiled, code, list(q), table, variances, *self.where)
        return DeviceRows(table, variances)

    def run(
        self, program: Program, rows1: Any, rows2: Any, dtype: np.dtype[Any], tile: Tile,
        inputs: Sequence[TileInput], outputs: Sequence[Sequence[Array | None]],
    ) -> None:  # fmt: skip
        compiled, code = self._compiled(program)
        place, views, planes = _call(self._module, dtype, tile, inputs, outputs)
        self._module.run(
            compiled, code, rows1.table, rows2.table, dtype, place, tile.n1, tile.n2, views, planes, tile.symmetric,
            tile.diagonal, *self.where,
        )  # fmt: skip

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
        if k.size:
            self._module.dual(name, list(params), q11, q12, q22, scale, k, kdot, *self.where)


def fitting(pairs: int, make: Callable[[int], Any]) -> tuple[int, Any]:
    """The number of pairs, halved until ``make`` finds memory for them, and what it made."""
    while True:
        try:
            return pairs, make(pairs)
        except MemoryError:
            if pairs <= 1 << 16:
                raise
            pairs //= 2


@lru_cache(maxsize=1)
def _cuda_devices() -> tuple[tuple[str, ...], str]:
    """Names of the devices, and the backend's state."""
    module, state = load("cuda")
    if module is None:
        return (), state
    devices, reason = module.devices()
    if not devices:
        return (), f"compiled, but no device: {reason}"
    if find_spec("cupy") is None:
        return tuple(devices), f"not available: CuPy is not installed: {PIP}"
    return tuple(devices), f"available: {', '.join(devices)}"


def _cuda(place: Place) -> Engine:
    """The engine of arrays at ``place``; of arrays in host memory, that of CuPy's current device behind them."""
    devices, state = _cuda_devices()
    if not state.startswith("available"):
        where = "" if place.ordinal is None else f"arrays lie on {place.name}, but "
        raise RuntimeError(f"{where}backend 'cuda' is {state}")
    module = load("cuda")[0]
    if isinstance(place, DevicePlace):
        return CudaEngine(module, place, devices[place.ordinal or 0])
    from .staged import StagedEngine

    here = DevicePlace(int(import_cupy().cuda.Device().id))
    return StagedEngine(module, here, devices[here.ordinal or 0])


def availability() -> dict[str, str]:
    """State of every backend: 'available', or why not."""
    module, state = load("cpu")
    if module is not None:
        isas = ", ".join(name if present else f"{name} (not on this processor)" for name, present in module.isas())
        state = f"available: {isas}"
    return {"cpu": state, "cuda": _cuda_devices()[1], "numpy": "available"}


def select(backend: str | None = None, num_threads: int | None = None, place: Place = HOST) -> Engine:
    """The engine of a call on arrays at ``place``: what was asked for, or raise; else the compiled one that loads."""
    chosen = resolve_options(backend, num_threads)
    assert chosen.num_threads is not None
    module, reason = load("cpu")
    name = chosen.backend or ("cuda" if place.ordinal is not None else "cpu" if module is not None else "numpy")
    if name not in ("cpu", "cuda", "numpy"):
        raise ValueError(f"unknown backend '{name}'; choose from {list(availability())}")
    if name == "cuda":
        return _cuda(place)
    if place.ordinal is not None:
        raise ValueError(f"backend '{name}' takes arrays in host memory, given some on {place.name}")
    if name == "numpy":
        return NumpyEngine()
    if module is None:
        raise RuntimeError(f"backend 'cpu' is {reason}")
    return CpuEngine(module, chosen.isa, chosen.num_threads)
