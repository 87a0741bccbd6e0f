"""The engine of the compiled block loops."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..network.program import Lowered
from ..plan.grids import Plan
from ..plan.rows import row_pass
from .compiled import ImagePlan, compiled_program, dual_parts, image_plan, tile_arguments, window_arguments
from .cpu_adjoint import CompiledAdjoint, compiled_adjoint
from .cpu_image_adjoint import CompiledImages, covers
from .cpu_images import CpuPlanes
from .cpu_positions import CpuPositions
from .engine import Pair, PointEngine, Tile, TileInput, Triple, WindowInput
from .memory import HostMemory
from .numpy_engine import NumpyEngine

Array = npt.NDArray[Any]  # or CuPy's


_DUAL = 1 << 18  # entries of a dual map at a time: their rows are held


@lru_cache(maxsize=2)
def _isas(module: ModuleType) -> list[str]:
    """Instruction sets that are compiled in and that this processor has."""
    return [name for name, present in module.isas() if present]


class CpuEngine(HostMemory):
    """The compiled block loops."""

    name = "cpu"
    planes: Any = CpuPlanes
    tile_pairs = 1 << 26

    def __init__(self, module: ModuleType, isa: str | None, num_threads: int, positions: bool = False) -> None:
        self._module = module
        self.positions = positions  # images go over all pairs of positions
        if positions:
            self.planes = CpuPositions
        self._threads = min(num_threads, 2**31 - 1)
        self.panel: int | None = module.PANEL
        available = _isas(module)
        if isa is not None and isa not in available:
            raise ValueError(f"isa '{isa}' is not available here; choose from {available}")
        self.isa = isa or available[-1]

    def further(self, dtype: np.dtype[Any]) -> PointEngine:
        return self if dtype == np.float32 else NumpyEngine(np.longdouble)

    def adjoint(self, tangents: Any) -> CompiledAdjoint | None:
        return compiled_adjoint(self._module, self.isa, tangents)

    def image_adjoint(self, tangents: Any, lowered: Lowered, inputs: Any, channels: Any) -> CompiledImages | None:
        if not covers(self._module, lowered.program, tangents.moving):
            return None
        return CompiledImages(self, self._module, tangents, lowered, inputs, channels)

    def product_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        return dtype

    @property
    def threads(self) -> int:
        return self._threads

    def image_plan(self, plan: Plan, channels: tuple[int, ...], n_outputs: int, dtype: np.dtype[Any]) -> ImagePlan:
        """The plan for inputs with spatial axes."""
        return image_plan(self._module, plan, channels, n_outputs, dtype == np.float32)

    def own_pairs(self, plan: ImagePlan, numbers: Sequence[float], tables: Array, halt: Any) -> Any:
        """Images that meet themselves while their tables are made: ``masses``. ``halt``: an event that ends it."""
        make = self._module.OwnPairs32 if tables.dtype == np.float32 else self._module.OwnPairs64
        return make(plan.compiled, numbers, tables, self.isa, halt)

    def normalise(self, x: Array, units: Array, norms: Array) -> None:
        self._module.pack(x, units, norms, self.isa, self._threads)

    def rows(self, lowered: Lowered, q: Sequence[Array], dtype: np.dtype[Any]) -> Any:
        return row_pass(lowered)(q, dtype)

    def run(
        self, lowered: Lowered, rows1: Any, rows2: Any, dtype: np.dtype[Any], tile: Tile,
        inputs: Sequence[TileInput], outputs: Sequence[Sequence[Array | None]],
        windows: Sequence[WindowInput | None] = (), hidden: Array | None = None,
    ) -> None:  # fmt: skip
        place, views, planes = tile_arguments(self._module, dtype, tile, inputs, outputs)
        self._module.run(
            compiled_program(self._module, lowered.program), lowered.numbers, rows1.table, rows2.table, dtype, place,
            tile.n1, tile.n2, views, planes, tile.symmetric, tile.diagonal, self.isa, self._threads,
            window_arguments(self._module, windows), hidden,
        )  # fmt: skip

    def mix(
        self, left: Array, right: Array, source: Array, out: Array, own: bool, full: bool, symmetric: bool = False,
        before: str = "", behind: str = "", equal: Array | None = None, close: Array | None = None, least: float = 0,
    ) -> None:  # fmt: skip
        """``out = A k B^T`` of sheets: see ``Runner._product``."""
        self._module.mix(
            left, right, source, out, own, full, symmetric, before, behind, equal, close, least, self.isa,
            self._threads,
        )  # fmt: skip

    def dual(self, name: str, params: Sequence[float], q: Triple, scale: float, found: Pair) -> None:
        for own, rows, (k, kdot) in dual_parts(name, params, q, scale, found, _DUAL, np):
            self._module.dual(name, list(params), own, rows, k, kdot, self.isa, self._threads)
