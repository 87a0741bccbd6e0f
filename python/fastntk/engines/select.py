"""The engines that run programs: which there are, why one is missing, what a call asks of one, and the one it uses."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy.typing as npt

from ..base.options import resolve_options
from ..base.place import HOST, PIP, DevicePlace, Place, import_cupy
from ..network.activations import General, is_dual, of_op
from ..network.maps import Attention, Graph, Linear
from ..network.program import MOVING, Lowered, Op, Program
from .compiled import load
from .cpu import CpuEngine
from .cuda import CudaEngine
from .engine import Engine
from .numpy_engine import NumpyEngine

Array = npt.NDArray[Any]  # or CuPy's

# ---------------------------------------------------------------- what a call asks of an engine

_LAYERS = {
    "norm": "LayerNorm", "product": "FanInProd", "drop": "Dropout", "transposed": "ConvTranspose", "local": "ConvLocal",
    "embed": "GlobalSelfAttention", "gather": "Index, or another layer that moves positions",
    "sum": "FanInSum of branches with means",
}  # fmt: skip
_POINTS_ALONE = ("norm", "product")  # of the ops that the compiled modules have
_NOT_ON_DEVICES = ("norm", "product")
_AXES = 3  # spatial ones, that compiled plans have at most


# What follows from a program alone is kept by program, and so is found, not made, for another W_std.


@lru_cache(maxsize=256)
def needs_positions(program: Program) -> bool:
    """Whether a program has ops on positions, whatever its inputs are; a point is one position for dropout."""
    return any(op.name in (*MOVING, "drop") or op.window is not None for op in program.ops)


def _has(op: Op, images: bool, backend: str, known: frozenset[str]) -> bool:
    """Whether a compiled backend has an op, whatever its numbers are."""
    if op.kind == "means" and (images or backend == "cuda"):
        return False
    if op.name in (_POINTS_ALONE if images else ()) or (backend == "cuda" and op.name in _NOT_ON_DEVICES):
        return False
    return op.name in known or isinstance(op.layer, General) or (images and op.name in ("conv", "pool"))


@lru_cache(maxsize=256)
def _has_all(program: Program, backend: str, known: frozenset[str]) -> bool:
    """On points."""
    return all(_has(op, False, backend, known) for op in program.ops)


class Work(NamedTuple):
    """A program as a call runs it."""

    lowered: Lowered
    images: bool  # over positions
    axes: int = 0  # spatial, of the inputs
    masked: bool = False
    continued: bool = False  # covariances over positions come in

    def lacking(self, backend: str, known: frozenset[str]) -> dict[str, str]:
        """Ops that a compiled backend lacks, and the layers that they come from; ``known``: its ops on points."""
        if not (self.images or self.masked or self.continued) and _has_all(self.lowered.program, backend, known):
            return {}
        return _lacking(self, backend, known)

    def over_pairs(self, backend: str, known: frozenset[str]) -> bool:
        """Whether what 'cpu' lacks in planes it computes over all pairs of positions."""
        if backend != "cpu" or not self.images or not self.lacking(backend, known):
            return False
        ops = self.lowered.program.ops
        return all(not is_dual(op.name) or op.name in known or isinstance(op.layer, General) for op in ops)


@lru_cache(maxsize=256)
def _lacking(work: Work, backend: str, known: frozenset[str]) -> dict[str, str]:
    found = {}
    for op in work.lowered.program.ops:
        if not _has(op, work.images, backend, known):
            found[op.name] = _layer_of(op, work.lowered)
        elif work.images and op.name in ("dense", "conv"):
            w2, _, f, _ = op.own(work.lowered.numbers)
            if w2 == 0 != f:
                found[op.name] = f"{op.name.capitalize()} of W_std = 0 under 'standard', over positions"
    if work.masked:
        found["mask"] = "mask_constant"
    if work.continued:
        found["kernel"] = "a Kernel with positions"
    if work.axes > _AXES:
        found["axes"] = f"inputs with {work.axes} spatial axes"
    return found


def _layer_of(op: Op, lowered: Lowered) -> str:
    if is_dual(op.name):
        return type(of_op(op, op.own(lowered.numbers))).__name__
    if isinstance(op.map, Attention):
        return "GlobalSelfAttention"
    if isinstance(op.map, (Graph, Linear)):
        return type(op.map.layer).__name__
    return _LAYERS.get(op.name, op.name)


# ---------------------------------------------------------------- which engine


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


def _cuda(place: Place, several: tuple[int, ...] | None) -> Engine:
    """The engine of arrays at ``place``; in host memory that of ``several`` devices, or of CuPy's current one."""
    devices, state = _cuda_devices()
    if not state.startswith("available"):
        where = "" if place.ordinal is None else f"arrays lie on {place.name}, but "
        raise RuntimeError(f"{where}backend 'cuda' is {state}")
    module = load("cuda")[0]
    if isinstance(place, DevicePlace):
        return CudaEngine(module, place, devices[place.ordinal or 0])
    from .devices import Devices
    from .staged import StagedEngine

    cuda = import_cupy().cuda
    if several is None:
        here = DevicePlace(int(cuda.Device().id))
        return StagedEngine(module, here, devices[here.ordinal or 0])
    absent = [ordinal for ordinal in several if ordinal >= len(devices)]
    if absent:
        raise ValueError(f"devices names {absent}, and there are {len(devices)}: {dict(enumerate(devices))}")
    engines = []
    for ordinal in several:
        with cuda.Device(ordinal):
            engines.append(StagedEngine(module, DevicePlace(ordinal), devices[ordinal]))
    return Devices(engines)


def lacking(work: Work) -> str:
    """The layers for which 'cpu', were it asked for, would refuse a call's work; '' where there are none."""
    found = work.lacking("cpu", _known("cpu")) if load("cpu")[0] is not None else {}
    return ", ".join(sorted(set(found.values())))


@lru_cache(maxsize=2)
def _known(name: str) -> frozenset[str]:
    """Ops on points that a compiled module has."""
    return frozenset(op["name"] for op in load(name)[0].ops())  # type: ignore[union-attr]


def availability() -> dict[str, str]:
    """State of every backend: 'available', or why not."""
    module, state = load("cpu")
    if module is not None:
        isas = ", ".join(name if present else f"{name} (not on this processor)" for name, present in module.isas())
        state = f"available: {isas}"
    return {"cpu": state, "cuda": _cuda_devices()[1], "numpy": "available"}


def select(
    backend: str | None = None, num_threads: int | None = None, place: Place = HOST, work: Work | None = None
) -> Engine:
    """The engine of a call on arrays at ``place`` that runs ``work``.

    What was asked for, or where the arrays lie, or raise; else the first of 'cpu' and 'numpy' that has all ops.

    Raises
    ------
    NotImplementedError
        Ops that the backend lacks, by the names of their layers.
    """
    chosen = resolve_options(backend, num_threads)
    assert chosen.num_threads is not None
    module, reason = load("cpu")
    name = chosen.backend or ("cuda" if place.ordinal is not None else "cpu" if module is not None else "numpy")
    if name not in ("cpu", "cuda", "numpy"):
        raise ValueError(f"unknown backend '{name}'; choose from {list(availability())}")
    positions = False
    if name != "numpy" and work is not None and (load(name)[0] is not None):
        lacking = work.lacking(name, _known(name))
        positions = bool(lacking) and work.over_pairs(name, _known(name))
        lacking = {} if positions else lacking
        if lacking and chosen.backend is None and place.ordinal is None:
            name = "numpy"
        elif lacking:
            layers = ", ".join(sorted(set(lacking.values())))
            where = f", and arrays on {place.name} have no other" if place.ordinal is not None else ""
            raise NotImplementedError(
                f"[kernel_fn] backend '{name}' has no op {sorted(lacking)}, of {layers}"
                f"{where}: backend='numpy' runs all{'' if place.ordinal is None else ', on arrays in host memory'}"
            )
    if name == "cuda":
        return _cuda(place, chosen.devices)
    if place.ordinal is not None:
        raise ValueError(f"backend '{name}' takes arrays in host memory, given some on {place.name}")
    if name == "numpy":
        return NumpyEngine()
    if module is None:
        raise RuntimeError(f"backend 'cpu' is {reason}")
    return CpuEngine(module, chosen.isa, chosen.num_threads, positions)
