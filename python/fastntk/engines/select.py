"""The engines that run programs: which there are, why one is missing, and the one a call uses."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy.typing as npt

from ..base.options import resolve_options
from ..base.place import HOST, PIP, DevicePlace, Place, import_cupy
from .compiled import load
from .cpu import CpuEngine
from .cuda import CudaEngine
from .engine import Engine
from .numpy_engine import NumpyEngine
from .work import Work

Array = npt.NDArray[Any]  # or CuPy's


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
        positions = work.over_pairs(name, _known(name))
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
