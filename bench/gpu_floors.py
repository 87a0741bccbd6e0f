"""What the device can do at most, measured before anything is compared: copies, and multiply-adds in registers."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 5  # the best of them counts: a floor is what nothing falls below
CHAINS, STEPS = 8, 4096

# CHAINS independent chains a thread, so that no result is waited for.
_FMA = r"""
extern "C" __global__ void chains(Real* out, Real a) {
  Real x[CHAINS];
#pragma unroll
  for (int k = 0; k < CHAINS; ++k) x[k] = Real(threadIdx.x + k);
  for (int step = 0; step < STEPS; ++step) {
#pragma unroll
    for (int k = 0; k < CHAINS; ++k) x[k] = fma(x[k], a, a);
  }
  Real sum = 0;
#pragma unroll
  for (int k = 0; k < CHAINS; ++k) sum += x[k];
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
"""


def chains_source(kind: str) -> str:
    """The chains of multiply-adds in ``float`` or ``double``."""
    return f"typedef {kind} Real;\nenum {{ CHAINS = {CHAINS}, STEPS = {STEPS} }};\n{_FMA}"


def best(call: Callable[[], Any], wait: Callable[[], Any]) -> float:
    """Least seconds of a call, from a device at rest to a device at rest."""
    call()
    wait()
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        wait()
        found.append(time.perf_counter() - start)
    return min(found)


def measure(cupy: Any, small: bool = False) -> dict[str, Any]:
    """Bytes a second of copies (a copy on the device reads and writes: both count), multiply-adds a second."""
    wait = cupy.cuda.Device().synchronize
    size = (1 << 24) if small else min(4 << 30, int(cupy.cuda.Device().mem_info[0]) // 8)
    source, target = (cupy.ones(size, np.uint8) for _ in range(2))
    pinned = np.frombuffer(cupy.cuda.alloc_pinned_memory(size // 4), np.uint8, size // 4)
    part = target[: size // 4]
    floors: dict[str, Any] = {
        "copy_bytes_per_second": 2 * size / best(lambda: cupy.copyto(target, source), wait),
        "to_device_bytes_per_second": part.nbytes / best(lambda: part.set(pinned), wait),
        "to_host_bytes_per_second": part.nbytes / best(lambda: part.get(out=pinned), wait),
    }
    blocks = 64 * int(cupy.cuda.Device().attributes["MultiProcessorCount"])
    for name, kind in (("float32", "float"), ("float64", "double")):
        kernel = cupy.RawKernel(chains_source(kind), "chains")
        out = cupy.empty(blocks * 256, name)
        seconds = best(lambda k=kernel, o=out: k((blocks,), (256,), (o, o.dtype.type(0.5))), wait)
        floors[f"{name}_fma_per_second"] = blocks * 256 * CHAINS * STEPS / seconds
    return floors


def device(cupy: Any) -> dict[str, Any]:
    """What the driver says of the device."""
    runtime, own = cupy.cuda.runtime, cupy.cuda.Device()
    properties = runtime.getDeviceProperties(own.id)
    asked = ("driver_version", "clocks.max.sm", "clocks.max.mem", "power.limit", "persistence_mode")
    words = ["nvidia-smi", f"--id={own.pci_bus_id}", f"--query-gpu={','.join(asked)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip().split(", ")
    except (OSError, subprocess.CalledProcessError):
        answer = [None] * len(asked)
    return {
        "name": properties["name"].decode(),
        "compute_capability": own.compute_capability,
        "multiprocessors": properties["multiProcessorCount"],
        "memory_bytes": properties["totalGlobalMem"],
        "driver_cuda": runtime.driverGetVersion(),
        "runtime_cuda": runtime.runtimeGetVersion(),
        "cupy": cupy.__version__,
        **dict(zip(asked, answer, strict=True)),
    }


def instructions(case: str) -> dict[str, float]:
    """Instructions an entry-layer as cuda_code.py and cuda_image_code.py counted: ``all``, ``float64`` if known."""
    found: dict[str, float] = {}
    for path in sorted((Path(__file__).parent / "results").glob("cuda-*.json")):
        report = json.loads(path.read_text())
        for kind, key in (("all", "instructions"), ("float64", "fp64_instructions")):
            count = report.get(f"{key}_per_entry_layer", {}).get(case)
            if count is not None:
                found[kind] = count
    return found
