"""The floor of networks on images: vector instructions of the fused loop of convolution and ReLU, and the clock.

The loop works on planes that lie in cache, so what no schedule avoids is to issue its instructions. They are counted in
the compiled module itself; a count that cannot be trusted is None, with the reason.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

PER_CYCLE = 2  # full-width vector instructions that today's cores start in a cycle
LANES = 32  # of the loop whose lanes the compiler knows
REGISTERS = {"avx512": ("zmm", 64), "avx2": ("ymm", 32)}
STORES = 4  # of a vector: two rows of sums, the defect, the NTK
MOVES = ("vmov", "vbroadcast")

_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*)$")

_CHAIN = """
#include <stdint.h>
uint64_t chain(uint64_t rounds) {
  uint64_t a = 1, b = 3;
  while (rounds--) __asm__ volatile(".rept 64\\n\\t" ADD "\\n\\t.endr" : "+r"(a) : "r"(b));
  return a;
}
"""
# Register to register: additions of constants can take no cycle at all.
_ADD = {"x86_64": "add %1, %0", "AMD64": "add %1, %0", "aarch64": "add %0, %0, %1", "arm64": "add %0, %0, %1"}


def _run(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def _symbol(isa: str, dtype: str) -> str:
    number, space = {"float32": "float", "float64": "double"}[dtype], f"fntk::{isa}"
    return (
        f"void {space}::conv3<{number}, {LANES}, (fntk::Form)1, false, "
        f"{space}::Apply<{space}::Relu, {number}, false, false> >"
    )


def _loop(lines: list[str]) -> list[tuple[str, str]]:
    """Instructions and operands of the outermost loop: the longest way that a jump leads back."""
    found = [m for line in lines if (m := _INSTRUCTION.match(line))]
    start, stop = 0, 0
    for m in found:
        if m[2].startswith("j") and (target := re.match(r"([0-9a-f]+)\b", m[3])):
            first, last = int(target[1], 16), int(m[1], 16)
            # a jump from behind the last return is out of line, not the loop's end
            returned = any(int(r[1], 16) < last for r in found if r[2].startswith("ret"))
            if last - first > stop - start and not returned:
                start, stop = first, last
    return [(m[2], m[3]) for m in found if start <= int(m[1], 16) <= stop]


def count(module: str | Path, isa: str | None, dtype: str) -> dict[str, Any]:
    """Vector instructions of an entry-layer: all, those that compute, and square roots among them."""

    def missing(reason: str) -> dict[str, Any]:
        return {"all": None, "arithmetic": None, "square_roots": None, "reason": reason}

    if isa not in REGISTERS:
        return missing(f"not counted for the instruction set {isa}")
    if not (shutil.which("objdump") and shutil.which("nm")):
        return missing("objdump and nm (binutils) are not there")
    register, width = REGISTERS[isa]
    try:
        name = _symbol(isa, dtype)
        table = _run("nm", "-D", "-S", "-C", str(module)) + _run("nm", "-S", "-C", str(module))
        place = next((line.split() for line in table.splitlines() if name in line), None)
        if place is None:
            return missing("the module has no symbol of the loop: stripped, or the code has changed")
        start, size = (int(word, 16) for word in place[:2])
        text = _run(
            "objdump", "-d", "--no-show-raw-insn", f"--start-address={start}", f"--stop-address={start + size}",
            str(module),
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        return missing(f"the module could not be read: {type(error).__name__}")
    vector = [(what, operands) for what, operands in _loop(text.splitlines()) if register in operands]
    stores = sum(what.startswith("vmov") and operands.endswith(")") for what, operands in vector)
    vectors = LANES * {"float32": 4, "float64": 8}[dtype] // width
    if stores != STORES * vectors:
        return missing(f"{stores} stores in the loop instead of {STORES * vectors}: it is not unrolled as expected")
    arithmetic = [what for what, _ in vector if not what.startswith(MOVES)]
    return {
        "all": len(vector) / LANES,
        "arithmetic": len(arithmetic) / LANES,
        "square_roots": sum(what.startswith("vsqrt") for what in arithmetic) / LANES,
        "per_vector": len(vector) / vectors,
        "reason": None,
    }


def clock() -> dict[str, Any]:
    """Cycles per second of one busy core: a chain of additions, each of which waits a cycle for the one before."""
    compiler = next((c for c in (os.environ.get("CC"), "cc", "gcc", "clang") if c and shutil.which(c)), None)
    add = _ADD.get(platform.machine())
    if compiler is None or add is None:
        return {"hertz": None, "reason": f"no C compiler, or an unknown machine: {platform.machine()}"}
    with tempfile.TemporaryDirectory() as folder:
        source, module = Path(folder) / "chain.c", Path(folder) / "chain.so"
        source.write_text(_CHAIN)
        try:
            _run(compiler, "-O1", "-shared", "-fPIC", f'-DADD="{add}"', "-o", str(module), str(source))
            chain = ctypes.CDLL(str(module)).chain
        except (OSError, subprocess.CalledProcessError) as error:
            return {"hertz": None, "reason": f"the chain could not be compiled: {type(error).__name__}"}
        chain.argtypes, chain.restype = [ctypes.c_uint64], ctypes.c_uint64
        rounds, best = 1_000_000, float("inf")
        for _ in range(7):
            start = time.perf_counter()
            chain(rounds)
            best = min(best, time.perf_counter() - start)
    return {"hertz": 64 * rounds / best, "reason": None}


def floor(instructions: dict[str, Any], hertz: float | None, layers: int, threads: int) -> dict[str, Any]:
    """Seconds of a pair of images below which the loop cannot come, by each count."""
    table: dict[str, Any] = {"instructions": instructions}
    for kind in ("all", "arithmetic"):
        known = instructions[kind] is not None and hertz is not None
        table[kind] = layers * instructions[kind] / (PER_CYCLE * hertz * threads) if known else None
    return table


if __name__ == "__main__":
    import fastntk
    from fastntk import _cpu

    print(clock())
    for dtype in ("float32", "float64"):
        print(dtype, count(_cpu.__file__, fastntk.show_config("dict")["isa"], dtype))
