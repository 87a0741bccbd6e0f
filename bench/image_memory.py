"""How far the memory of a process grows over one call on images whose outputs are memmaps: README.md, "Memory"."""

from __future__ import annotations

import ctypes
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import memory
import numpy as np
from image_cases import BUDGET, ImageCase


def measure(case: ImageCase, scratch: str | None) -> dict[str, Any]:
    """Run the case in a child and watch it."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        wanted = {k: v for k, v in asdict(case).items() if k not in ("goals", "rivals")}
        found, anon = memory.watch([sys.executable, __file__, json.dumps(wanted), folder], case.name)
    found["growth"] = max(anon - found["anon_before"], found["peak_beyond_outputs"])
    return found


def _give_back() -> None:
    """Let no freed memory of the first call hide growth of the next."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _child(case: ImageCase, folder: str) -> dict[str, Any]:
    from fastntk import stax

    x = case.inputs(case.n)
    outputs = [np.memmap(Path(folder) / k, x.dtype, "w+", shape=(case.n, case.n)) for k in case.get]
    kernel_fn = case.make(stax)
    size = sum(k.nbytes for k in outputs)
    kernel_fn(x[:2], get=case.get, memory_budget=BUDGET)  # what is loaded once: code, the plan
    _give_back()
    before = memory.status("self")
    start = time.perf_counter()
    kernel_fn(x, get=case.get, out=tuple(outputs), memory_budget=BUDGET)
    seconds = time.perf_counter() - start
    after = memory.status("self")
    some = np.unique([0, case.n // 3, case.n - 1])
    for k, name in zip(outputs, case.get, strict=True):
        np.testing.assert_allclose(k[np.ix_(some, some)], kernel_fn(x[some], get=name), rtol=1e-5)
    return {
        "seconds": seconds,
        "outputs": size,
        "anon_before": before["RssAnon"],
        "peak_beyond_outputs": after["VmHWM"] - before["VmRSS"] - size,
    }


if __name__ == "__main__":
    wanted, where = sys.argv[1:]
    given = json.loads(wanted)
    print(json.dumps(_child(ImageCase(**{**given, "get": tuple(given["get"])}), where)))
