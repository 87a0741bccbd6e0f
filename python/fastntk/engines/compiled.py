"""The compiled modules: loaded once, programs and plans compiled once, a tile as both take it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cached_property, lru_cache
from importlib import import_module, metadata
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.version import __version__
from ..network.program import Program
from ..plan.grids import Plan
from ..plan.layout import make_layout
from ..plan.rows import layout_of, rows_of_dual
from ..plan.table_plan import TablePlan
from .engine import Pair, Tile, TileInput, Triple, WindowInput
from .numpy_rows import CLOSE

Array = npt.NDArray[Any]  # or CuPy's


# Packages beside this one that bring a backend (packages/), looked at where this one was built without.
_BESIDE = {"cuda": ("fastntk_cuda13",)}


@lru_cache(maxsize=2)
def load(name: str) -> tuple[ModuleType | None, str]:
    """The compiled module of a backend, or None and why it is not there."""
    if os.environ.get("FASTNTK_HIDE_COMPILED") == "1":  # the test suite runs once like this
        return None, "not available: hidden by FASTNTK_HIDE_COMPILED"
    for package in ("fastntk", *_BESIDE.get(name, ())):
        try:
            module = import_module(f"{package}._{name}")
        except ModuleNotFoundError:
            continue
        except ImportError as error:
            return None, f"not available: {error}"
        if package != "fastntk" and (other := metadata.version(package)) != __version__:
            both = f"{package} is of version {other}, fastntk of {__version__}: they go together when they are equal"
            return None, f"not available: {both}"
        return module, "available"
    return None, f"not available: this installation has no compiled module fastntk._{name}"


# Pairs within this of rho = 1 or -1 take their distance from the inputs themselves: the rounding of the product, about
# 3 eps, would show in kdot ~ sqrt(2 (1 - rho)) / pi.
_CLOSE = {np.dtype(np.float32): 0.06, np.dtype(np.float64): CLOSE}
# A BLAS adds up in an order of its own: 7 eps at 784 numbers.
_CLOSE_OF_BLAS = {np.dtype(np.float32): 0.12, np.dtype(np.float64): CLOSE}


_GIVEN = tuple(field.name for field in fields(TileInput))
_WINDOW = tuple(field.name for field in fields(WindowInput))


@lru_cache(maxsize=256)
def compiled_program(module: ModuleType, program: Program) -> Any:
    known = [op["name"] for op in module.ops()]
    missing = {op.name for op in program.ops} - set(known)
    if missing:
        raise NotImplementedError(
            f"{module.__name__} has no op {sorted(missing)}; it has {known} (backend='numpy' runs all)"
        )
    ops = [
        (op.name, op.dst, list(op.src), op.kind, (op.numbers.start, op.numbers.stop), rows)
        for op, rows in zip(program.ops, layout_of(program).places, strict=True)
    ]
    return module.Program(ops, program.n_inputs, program.n_slots, program.n_outputs)


def tile_arguments(
    module: ModuleType, dtype: np.dtype[Any], tile: Tile, inputs: Sequence[TileInput],
    outputs: Sequence[Sequence[Array | None]],
) -> tuple[Any, ...]:  # fmt: skip
    """A tile as the ``run`` of both compiled modules takes it: its place, inputs and outputs."""
    views = []
    for given in inputs:
        view = module.Input()
        for name in _GIVEN:
            value = getattr(given, name)
            if value is not None:
                setattr(view, name, value)
        view.close = (_CLOSE if given.product is None else _CLOSE_OF_BLAS)[dtype]
        views.append(view)
    place = (tile.batch0, tile.batches, tile.i0, tile.lines, tile.j0, tile.cols, tile.row1, tile.row2)
    return place, views, [tuple(planes) for planes in outputs]


def window_arguments(module: ModuleType, windows: Sequence[WindowInput | None]) -> list[Any]:
    """Windows of a tile's inputs as the compiled module takes them."""
    views = []
    for given in windows:
        view = module.Window()
        if given is not None:
            for name in _WINDOW:
                setattr(view, name, getattr(given, name))
        views.append(view)
    return views


def dual_parts(
    name: str, params: Sequence[float], q: Triple, scale: float, found: Pair, most: int, xp: Any
) -> Iterator[tuple[Triple, list[Array], Pair]]:
    """A dual map some entries at a time, as rows of both sides are held: (q11, q12, q22), these rows, (k, kdot)."""
    for start in range(0, found[0].size, most):
        q11, q12, q22 = (x[start : start + most] for x in q)
        k, kdot = (x[start : start + most] for x in found)
        rows = [rows_of_dual(name, params, scale * v.astype(np.float64), k.dtype, xp) for v in (q11, q22)]
        yield (q11, q12, q22), rows, (k, kdot)


class ImagePlan:
    """A plan for inputs with spatial axes, compiled for one dtype, and how its tables are made."""

    def __init__(self, plan: Plan, compiled: Any, dtype: Any) -> None:
        self.plan, self.compiled, self.dtype = plan, compiled, np.dtype(dtype)

    @cached_property
    def tables(self) -> TablePlan:
        return TablePlan(self.plan, self.compiled, self.dtype)

    @cached_property
    def worker_bytes(self) -> int:
        """Of one thread's buffers, on the processor."""
        return int(self.compiled.worker_bytes)

    @cached_property
    def own_images(self) -> int:
        """On the processor, images whose tables are made together where their masses are needed; else 0."""
        return int(self.compiled.own_images)

    @cached_property
    def block(self) -> tuple[int, int]:
        """On the processor, images of both sides that a thread takes at a time."""
        first, second = self.compiled.block
        return int(first), int(second)


@lru_cache(maxsize=16)
def image_plan(module: ModuleType, plan: Plan, channels: tuple[int, ...], n_outputs: int, single: bool) -> ImagePlan:
    make = module.ImagePlan32 if single else module.ImagePlan64
    layouts = [make_layout(plan, own) for own in (False, True)]
    return ImagePlan(plan, make(plan, *layouts, list(channels), n_outputs), np.float32 if single else np.float64)


@lru_cache(maxsize=16)
def image_code(plan: Any, numbers: tuple[float, ...], registers: bool, own: bool) -> Any:
    return plan.code(numbers, registers, own)
