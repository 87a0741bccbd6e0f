"""The engine of a CUDA device, for arrays that lie on it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.place import DevicePlace
from ..network.program import Lowered
from ..plan.grids import Plan
from ..plan.rows import RowPass
from .compiled import ImagePlan, compiled_program, dual_parts, image_code, image_plan, tile_arguments
from .cuda_images import CudaPlanes
from .engine import Pair, PointEngine, Tile, TileInput, Triple
from .memory import WhereTheyLie

Array = npt.NDArray[Any]  # or CuPy's


_DUAL = 1 << 22  # entries of a dual map at a time: their rows are held


_LACKS = ("norm", "product")  # and sums of branches with means


@dataclass
class _OnDevice:
    """What a call has of a program on its device."""

    compiled: Any
    code: Array  # what device code reads of it
    rows: RowPass
    places: Array  # of the row arrays that device code reads, in its order


@dataclass
class DeviceRows:
    """Row arrays in the order in which device code reads them, (rows, n), and the variances of the outputs."""

    table: Array
    variance: Callable[[int], Array]


class CudaEngine(WhereTheyLie):
    """A CUDA device, for arrays that lie on it: memory is CuPy's, and all work goes to one stream in its order."""

    name = "cuda"
    planes = CudaPlanes
    tile_pairs = 1 << 26
    cache_bytes = 512 << 20
    panel: int | None = None
    square = False
    any_strides = False
    registers = True  # convolutions of images in registers where they fit; else element by element

    def __init__(self, module: Any, place: DevicePlace, label: str) -> None:
        self._module, self._place = module, place
        self._programs: dict[Lowered, _OnDevice] = {}
        self.xp = place.xp
        self.isa = label

    @property
    def where(self) -> tuple[int, int]:
        """Device and stream of all work."""
        assert self._place.ordinal is not None
        return self._place.ordinal, int(self._place.stream.ptr)

    def budget(self) -> int:
        """Half of what is free, where results lie already."""
        free, _ = self.xp.cuda.Device().mem_info
        return (int(free) + int(self.xp.get_default_memory_pool().free_bytes())) // 2

    def tile_size(
        self, shape: tuple[int, int, int], dtype: np.dtype[Any], outputs: Sequence[Sequence[Array | None]],
        symmetric: bool,
    ) -> int:  # fmt: skip
        """Fewer pairs where memory is short of a product."""
        return fitting(min(math.prod(shape), self.tile_pairs), lambda pairs: self.xp.empty(pairs, dtype))[0]

    def further(self, dtype: np.dtype[Any]) -> PointEngine:
        return self  # nobody looks at numbers on a device: points.py

    def image_plan(self, plan: Plan, channels: tuple[int, ...], n_outputs: int, dtype: np.dtype[Any]) -> ImagePlan:
        """The plan for inputs with spatial axes."""
        return image_plan(self._module, plan, channels, n_outputs, dtype == np.float32)

    def image_code(self, plan: ImagePlan, numbers: tuple[float, ...], own: bool = False) -> Any:
        """Device code of a plan with these numbers, and sizes; ``own``: of images with themselves, behind pools."""
        return image_code(plan.compiled, numbers, self.registers and not own, own)

    def image_chains(self, plan: Any, *arrays: Any) -> None:
        """What registers and passes over columns read of images, from their tables."""
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

    def _program(self, lowered: Lowered) -> _OnDevice:
        """The program, uploaded once a call."""
        if lowered not in self._programs:
            lacking = {op.name for op in lowered.program.ops if op.name in _LACKS or op.kind == "means"}
            if lacking:
                raise NotImplementedError(
                    f"backend 'cuda' has no op {sorted(lacking)} of these kinds; the backends 'cpu' and 'numpy' have"
                )
            compiled, put = compiled_program(self._module, lowered.program), self.xp.asarray
            code = put(np.frombuffer(compiled.code(lowered.numbers), np.uint8))
            places = put(np.array(compiled.places))
            self._programs[lowered] = _OnDevice(compiled, code, RowPass(lowered, self.xp), places)
        return self._programs[lowered]

    def rows(self, lowered: Lowered, q: Sequence[Array], dtype: np.dtype[Any]) -> DeviceRows:
        own = self._program(lowered)
        found = own.rows(q, dtype)
        return DeviceRows(found.table[own.places], found.variance)

    def run(
        self, lowered: Lowered, rows1: Any, rows2: Any, dtype: np.dtype[Any], tile: Tile,
        inputs: Sequence[TileInput], outputs: Sequence[Sequence[Array | None]],
    ) -> None:  # fmt: skip
        own = self._program(lowered)
        place, views, planes = tile_arguments(self._module, dtype, tile, inputs, outputs)
        self._module.run(
            own.compiled, own.code, rows1.table, rows2.table, dtype, place, tile.n1, tile.n2, views, planes,
            tile.symmetric, tile.diagonal, *self.where,
        )  # fmt: skip

    def dual(self, name: str, params: Sequence[float], q: Triple, scale: float, found: Pair) -> None:
        for own, rows, (k, kdot) in dual_parts(name, params, q, scale, found, _DUAL, self.xp):
            self._module.dual(name, list(params), own, rows, k, kdot, *self.where)


def fitting(pairs: int, make: Callable[[int], Any]) -> tuple[int, Any]:
    """The number of pairs, halved until ``make`` finds memory for them, and what it made."""
    while True:
        try:
            return pairs, make(pairs)
        except MemoryError:
            if pairs <= 1 << 16:
                raise
            pairs //= 2
