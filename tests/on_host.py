"""The CUDA backend without a GPU: its Python on the stand-in for CuPy, its device text on the processor."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import Any
from unittest import mock

import fake_cupy
import pytest
from emulated import LAUNCHING
from fastntk.engines import select

MODULE, STATE = select.load("cuda")
DEVICES = ("one on the host", "another on the host")
EMULATED = False  # tests/emulated.py: calls run on the device that they name


class Native:
    """fastntk._cuda with two devices, whose memory is the host's; ``calls`` are (function, device, stream)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []
        self.failing: Counter[str] = Counter()  # calls of a function until it fails

    def __getattr__(self, name: str) -> Any:
        found = getattr(MODULE, name)
        if name not in LAUNCHING:
            return found

        def call(*args: Any) -> None:
            *given, device, stream = args
            assert device == fake_cupy.Device.current, "the caller's device is to be current"
            self.calls.append((name, device, stream))
            if name in self.failing:
                self.failing[name] -= 1
                if self.failing[name] < 0:
                    raise RuntimeError(f"[{name}] cudaLaunchKernel: unspecified launch failure")
            found(*given, device if EMULATED else MODULE.ON_HOST, stream)

        return call

    def devices(self) -> tuple[tuple[str, ...], str]:
        return DEVICES, ""


@contextmanager
def cuda_on_host() -> Any:
    """Inside, backend 'cuda' is there: (the stand-in for CuPy, the module)."""
    native, load = Native(), select.load
    with pytest.MonkeyPatch.context() as patch:
        cupy = fake_cupy.install(patch)
        patch.setattr(select, "load", lambda name: (native, "available") if name == "cuda" else load(name))
        select._cuda_devices.cache_clear()
        try:
            yield cupy, native
        finally:
            with mock.patch.object(select, "load", load):
                select._cuda_devices.cache_clear()
