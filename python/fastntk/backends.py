"""The engines that run programs: which there are, why one is missing, and the one a call uses.

An engine does three things: ``normalise`` inputs to unit rows, make the ``rows`` tables of a program (everything that
depends on one input), and ``run`` the program on one tile of pairs. ``reference.py`` is the readable one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .config import resolve_options
from .plan import Plan
from .program import Program
from .reference import CLOSE, NumpyEngine

Array = npt.NDArray[Any]


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
    """What a backend offers; arrays are NumPy's."""

    name: str
    isa: str
    tile_pairs: int  # of one call of ``run``
    panel: int | None  # rows of a panel, where the engine multiplies itself; None: NumPy's BLAS makes the product

    def product_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Dtype of unit rows, products, defects and theta for results of ``dtype``."""

    def normalise(self, x: Array, units: Array, norms: Array) -> None:
        """Write x / |x| of (batch, n, d) rows to ``units`` and |x| to ``norms``, (batch n,) float64.

        ``units`` has x's shape, or (batch, panels, d panel) where the engine has panels.
        """

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


def _compiled_call(
    module: ModuleType, program: Program, rows1: Any, rows2: Any, dtype: np.dtype[Any], tile: Tile,
    inputs: Sequence[TileInput], outputs: Sequence[Sequence[Array | None]],
) -> tuple[Any, ...]:  # fmt: skip
    """The arguments that the ``run`` of both compiled modules begins with."""
    views = []
    for given in inputs:
        view = module.Input()
        for field in fields(TileInput):
            setattr(view, field.name, getattr(given, field.name))
        view.close = _CLOSE[dtype]
        views.append(view)
    place = (tile.batch0, tile.batches, tile.i0, tile.lines, tile.j0, tile.cols, tile.row1, tile.row2)
    return (
        _compile(module, program), rows1, rows2, dtype, place, tile.n1, tile.n2, views,
        [tuple(planes) for planes in outputs], tile.symmetric, tile.diagonal,
    )  # fmt: skip


@lru_cache(maxsize=16)
def _image_plan(module: ModuleType, plan: Plan, channels: tuple[int, ...], n_outputs: int, single: bool) -> Any:
    make = module.ImagePlan32 if single else module.ImagePlan64
    return make(plan, list(channels), n_outputs)


class CpuEngine:
    """The compiled block loops."""

    name = "cpu"
    tile_pairs = 1 << 26

    def __init__(self, module: ModuleType, isa: str | None, num_threads: int) -> None:
        self._module = module
        self._threads = num_threads
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
        call = _compiled_call(self._module, program, rows1, rows2, dtype, tile, inputs, outputs)
        self._module.run(*call, self.isa, self._threads)

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


class CudaEngine:
    """A CUDA device behind NumPy arrays: inputs and row tables are prepared on the host, pairs run on the device.

    ``device`` is a CUDA ordinal, or the module's ``ON_HOST``: the device's own text on the processor, which is how it
    is tested where there is no device.
    """

    name = "cuda"
    tile_pairs = 1 << 24
    panel: int | None = None

    def __init__(self, module: ModuleType, device: int, label: str) -> None:
        self._module, self._device = module, device
        self.isa = label

    def product_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        return dtype

    def normalise(self, x: Array, units: Array, norms: Array) -> None:
        NumpyEngine().normalise(x, units, norms)

    def rows(self, program: Program, q: Sequence[Array], dtype: np.dtype[Any]) -> Any:
        return self._module.rows(_compile(self._module, program), list(q), dtype, 1)

    def run(
        self, program: Program, rows1: Any, rows2: Any, dtype: np.dtype[Any], tile: Tile,
        inputs: Sequence[TileInput], outputs: Sequence[Sequence[Array | None]],
    ) -> None:  # fmt: skip
        call = _compiled_call(self._module, program, rows1, rows2, dtype, tile, inputs, outputs)
        self._module.run(*call, self._device)

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
        raise NotImplementedError("fastntk.dual has no CUDA backend yet: backend='cpu' or 'numpy' computes it")


@lru_cache(maxsize=1)
def _cuda_devices() -> tuple[tuple[str, ...], str]:
    """Names of the devices, and the backend's state."""
    module, state = load("cuda")
    if module is None:
        return (), state
    devices, reason = module.devices()
    if not devices:
        return (), f"compiled, but no device: {reason}"
    return tuple(devices), f"available: {', '.join(devices)}"


def availability() -> dict[str, str]:
    """State of every backend: 'available', or why not."""
    module, state = load("cpu")
    if module is not None:
        isas = ", ".join(name if present else f"{name} (not on this processor)" for name, present in module.isas())
        state = f"available: {isas}"
    return {"cpu": state, "cuda": _cuda_devices()[1], "numpy": "available"}


def select(backend: str | None = None, num_threads: int | None = None) -> Engine:
    """The engine of a call: what was asked for, or raise; else the compiled one where it loads."""
    chosen = resolve_options(backend, num_threads)
    assert chosen.num_threads is not None
    module, reason = load("cpu")
    name = chosen.backend or ("cpu" if module is not None else "numpy")
    if name == "numpy":
        return NumpyEngine()
    if name == "cpu":
        if module is None:
            raise RuntimeError(f"backend 'cpu' is {reason}")
        return CpuEngine(module, chosen.isa, chosen.num_threads)
    if name == "cuda":
        devices, state = _cuda_devices()
        if not devices:
            raise RuntimeError(f"backend 'cuda' is {state}")
        cuda = load("cuda")[0]
        assert cuda is not None
        return CudaEngine(cuda, 0, devices[0])
    raise ValueError(f"unknown backend '{name}'; choose from {list(availability())}")
