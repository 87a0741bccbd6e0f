"""The CUDA backend on an emulator of PTX, as a plugin: ``pytest -p emulated`` with this folder in PYTHONPATH.

The emulator is a libcudart.so.13 of its own, which LD_LIBRARY_PATH names: every launch of the module runs what nvcc
made of it. Arrays are those of the stand-in for CuPy. It is told the bounds of each array that a call is given, so that
an access beside them is found; a test fails when the emulator has reported anything. .ci/run builds the module for it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import threading
from typing import Any

import numpy as np
import pytest

LAUNCHING = {  # functions of the module that launch kernels, and which of their arguments these write to
    "normalise": {"units", "norms"},
    "run": {"outputs"},
    "dual": {"k", "kdot"},
    "image_chains": {"chains"},
    "image_pairs": {"linked", "lost", "scratch", "outputs"},
}
INPUT = ("product", "defect", "theta", "raw1", "raw2", "norms1", "norms2", "panels1", "panels2")  # fields with arrays
UNWRITTEN = {4: 0x7FC0DEAD, 8: 0x7FF8DEAD0000DEAD}  # NaNs by which the emulator knows what nobody has written to
ONE_CALL = threading.RLock()  # bounds belong to the library, not to a thread


@functools.cache
def emulator() -> Any:
    found = ctypes.CDLL("libcudart.so.13")
    if not hasattr(found, "ptxrun_reports"):
        raise RuntimeError("libcudart.so.13 is the real one: LD_LIBRARY_PATH must name the emulator's folder")
    found.ptxrun_reports.restype = ctypes.c_uint64
    found.ptxrun_region.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_char_p]
    return found


def tell_bounds(name: str, value: Any, writable: bool) -> None:
    """Of the arrays in an argument, whatever holds them."""
    if isinstance(value, (tuple, list)):
        for k, part in enumerate(value):
            tell_bounds(f"{name}[{k}]", part, writable)
    elif isinstance(value, dict):
        for key, part in value.items():
            tell_bounds(f"{name}.{key}", part, writable)
    elif hasattr(value, "__cuda_array_interface__"):
        interface = value.__cuda_array_interface__
        shape, size = interface["shape"], int(interface["typestr"][2:])
        if 0 in shape:
            return
        strides = interface.get("strides") or np.empty(shape, np.dtype(interface["typestr"])).strides
        ends = [(n - 1) * step for n, step in zip(shape, strides, strict=True)]
        first, last = sum(min(0, end) for end in ends), sum(max(0, end) for end in ends) + size
        emulator().ptxrun_region(interface["data"][0] + first, last - first, int(writable), name.encode())
    else:
        for field in INPUT:
            if getattr(value, field, None) is not None:
                tell_bounds(f"{name}.{field}", getattr(value, field), writable)


def names_of(function: Any) -> list[str]:
    """Of the arguments, from the signature that pybind11 documents; all overloads have the same."""
    line = re.search(rf"^(?:1\. )?{function.__name__}\((?!\*args)(.*)\) -> ", function.__doc__, re.MULTILINE)[1]
    depth, names = 0, [""]
    for letter in line:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            names.append("")
        else:
            names[-1] += letter
    return [name.partition(":")[0].strip() for name in names]


def bounded(name: str, function: Any) -> Any:
    names = names_of(function)
    assert LAUNCHING[name] <= set(names), (name, names)

    def call(*args: Any, **named: Any) -> Any:
        with ONE_CALL:
            emulator().ptxrun_clear()
            for argument, value in (*zip(names, args, strict=False), *named.items()):
                tell_bounds(f"{name}({argument})", value, argument in LAUNCHING[name])
            try:
                return function(*args, **named)
            finally:
                emulator().ptxrun_clear()

    return call


class Module:
    """fastntk._cuda, whose launches the emulator runs."""

    ON_HOST = 0  # what tests ask of the text on the host, the emulated device does

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        return bounded(name, found) if name in LAUNCHING else found


def install() -> None:
    """For good: the stand-in as ``cupy``, and the module on the emulator, which makes the backend available."""
    import fake_cupy
    from fastntk.engines import select

    emulator()
    made, load = fake_cupy.empty, select.load

    def empty(shape: Any, dtype: Any = float, **kwargs: Any) -> Any:
        found = made(shape, dtype, **kwargs)
        values = found.values
        if values.dtype.kind == "f" and values.dtype.itemsize in UNWRITTEN and values.size:
            values.reshape(-1).view(f"u{values.dtype.itemsize}")[:] = UNWRITTEN[values.dtype.itemsize]
        return found

    @functools.cache
    def loaded(name: str) -> Any:
        module, state = load(name)
        return (Module(module), state) if name == "cuda" and module is not None else (module, state)

    fake_cupy.empty = empty
    fake_cupy.install(pytest.MonkeyPatch())
    select.load = loaded
    select._cuda_devices.cache_clear()
    import on_host

    on_host.EMULATED = True


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    install()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Any:
    import fake_cupy

    fake_cupy.PINNED.clear()  # a stand-in made for one test has none either
    before = emulator().ptxrun_reports()
    found = yield
    reports = emulator().ptxrun_reports() - before
    if reports:
        pytest.fail(f"the emulator reported {reports} findings (stderr)", pytrace=False)
    return found


def pytest_sessionfinish() -> None:
    if path := os.environ.get("PTXRUN_WRITE"):
        emulator().ptxrun_write(path.encode())
