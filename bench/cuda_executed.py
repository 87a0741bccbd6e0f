"""Instructions that kernels of images execute, layer by layer, as an emulator of PTX counts them.

    PYTHONPATH=SITE LD_LIBRARY_PATH=EMULATOR python bench/cuda_executed.py
    PYTHONPATH=SITE LD_LIBRARY_PATH=EMULATOR python bench/cuda_executed.py --json bench/results/cuda-executed.json

No GPU is needed, but the emulator (tests/emulated.py) and a module with PTX in it. An entry-layer is one entry of a
covariance of two images, for one displacement, through one convolution and the nonlinearity behind it, NNGP and NTK:
what four layers take more than two, of a pair of 16 x 16 positions with zeros around and all displacements, divided by
the entries of two. Counted are instructions of warps, times 32, whichever lanes took part; `moves` are those of them
that bring a constant or another register into a register, most of which the assembler leaves out.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "bench" / "results" / "cuda-executed.json"
SIZE = 16  # positions along each axis
DEPTHS = (2, 4)
CASES = {  # nonlinearity, its arguments, taps along each axis, b_std
    "LeakyRelu, 3 x 3, bias": ("LeakyRelu", {"alpha": 0.1}, 3, 0.1),
    "Gelu, 3 x 3, bias": ("Gelu", {}, 3, 0.1),
    "Erf, 3 x 3, bias": ("Erf", {}, 3, 0.1),
    "Erf, 5 x 5, bias": ("Erf", {}, 5, 0.1),
    "Relu, 5 x 5": ("Relu", {}, 5, None),
    "Relu, 1 x 1, bias": ("Relu", {}, 1, 0.1),
}
KERNEL = re.compile(r"^kernel \S*grid_kernel\S* launches \d+ blocks \d+ warps (\d+) ", re.MULTILINE)
MOVE = re.compile(r"^insn \S*(?:grid_kernel|ImageUnit)\S* (\d+) \d+ '(?:@!?%p\d+ )?mov\.", re.MULTILINE)


def written(emulator: Any) -> tuple[int, int]:
    """Instructions of warps in kernels of grids until now: all, and moves where the emulator keeps a profile."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "totals")
        emulator.ptxrun_write(str(path).encode())
        text = path.read_text()
    return sum(map(int, KERNEL.findall(text))), sum(map(int, MOVE.findall(text)))


def counted(case: str, emulator: Any) -> dict[str, float]:
    """Of one case, by a call of each depth on the emulated device."""
    import cupy
    from fastntk import stax

    name, arguments, taps, b_std = CASES[case]
    rng = np.random.default_rng(0)
    x1, x2 = (cupy.asarray(rng.standard_normal((1, SIZE, SIZE, 3)).astype(np.float32)) for _ in range(2))
    found = []
    for depth in DEPTHS:
        conv = stax.Conv(1, (taps, taps), padding="SAME", W_std=1.4, b_std=b_std)
        layers = [conv, getattr(stax, name)(**arguments)] * depth
        before = written(emulator)
        stax.serial(*layers, stax.GlobalAvgPool())[2](x1, x2, "ntk")
        found.append([after - own for after, own in zip(written(emulator), before, strict=True)])
    entries = (DEPTHS[1] - DEPTHS[0]) * SIZE**4
    every, moves = (32 * (deep - shallow) / entries for shallow, deep in zip(*found, strict=True))
    return {"all": round(every, 1), "moves": round(moves, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the counts")
    given = parser.parse_args()
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "bench")]
    import cuda_code
    import emulated

    emulated.install()
    emulator = emulated.emulator()
    emulator.ptxrun_option(b"PTXRUN_PROFILE", b"1")
    counts = {case: counted(case, emulator) for case in CASES}
    for case, own in counts.items():
        print(f"{case:24} {own['all']:7.1f}, of them moves {own['moves']:5.1f}")
    if given.json:
        compiler = f"nvcc {cuda_code.release(cuda_code.find('nvcc'))}"
        found = {"compiler": compiler, "instructions_per_entry_layer": counts}
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
