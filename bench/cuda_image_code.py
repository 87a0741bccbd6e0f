"""What the compiler makes of the kernels that keep images in registers: their number, spills, instructions.

    python bench/cuda_image_code.py                       # a table; minutes
    python bench/cuda_image_code.py --json bench/results/cuda-images-sm90.json

No GPU is needed, but nvcc and nvdisasm (cuda_code.py). An entry-layer is one entry of a covariance of two images, for
one displacement, through one convolution of 3 x 3 taps and the relu behind it, NNGP and NTK. Its instructions are those
of the shortest way once round the loop over layers, divided by the rows that it works on; tiles: with what they show
to each other.
"""

from __future__ import annotations

import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cuda_code

RESULT = cuda_code.ROOT / "bench" / "results" / "cuda-images-sm90.json"
FLAGS = (*cuda_code.FLAGS, "-Xptxas", "-O1")  # as in CMakeLists.txt
MODES = ("SAME", "VALID", "CIRCULAR")  # ChainMode
ROOTS = {"float": r"MUFU\.SQRT", "double": r"MUFU\.RSQ64H"}

# of float32, the size of CIFAR-10: dtype, rows, bias, mode
CIFAR = [("float", 32, bias, 0) for bias in (False, True)]
TILES = [(dtype, 16, bias, None) for dtype in ("float", "double") for bias in (False, True)]  # a block's, of a plane
KERNELS = [
    (dtype, rows, bias, mode)
    for dtype, rows in (("float", 32), ("float", 16), ("double", 16))
    for bias in (False, True)
    for mode in range(len(MODES))
] + TILES


def case(dtype: str, rows: int, bias: bool, mode: int | None) -> str:
    bits = 32 if dtype == "float" else 64
    what = "tiles" if mode is None else MODES[mode]
    return f"{what}, {'bias' if bias else 'no bias'}, {rows} rows, float{bits}"


def compiled(kernel: tuple[str, int, bool, int | None], nvcc: str, nvdisasm: str) -> tuple[dict[str, int], float]:
    """Resources of a kernel, and its instructions per entry-layer."""
    dtype, rows, bias, mode = kernel
    flag = "true" if bias else "false"
    name = f"tiles_kernel<{dtype}, {flag}>" if mode is None else f"chain_kernel<{dtype}, {rows}, {flag}, {mode}>"
    text = (
        f'#include "cuda/images/chains.h"\nnamespace fntk {{ namespace {{\ntemplate __global__ void {name}'
        f"(const __grid_constant__ ImageLaunch<{dtype}>);\n}} }}\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder, "chain.cu"), Path(folder, "chain.cubin")
        source.write_text(text)
        report = cuda_code.output(nvcc, *FLAGS, f"-I{cuda_code.ROOT / 'csrc'}", str(source), "-o", str(cubin))
        listing = cuda_code.output(nvdisasm, "-c", str(cubin))
    (own,) = cuda_code.resources(report).values()
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)  # its subroutines' too
    own["spill_bytes"] = sum(int(n) for pair in spills for n in pair)
    (lines,) = cuda_code.functions(listing).values()
    graph = cuda_code.blocks(lines)
    for k, block in enumerate(graph):
        if block.lines and block.lines[-1].startswith("BRA.DIV"):  # for warps whose lanes have parted: none
            block.next = [k + 1]
    shared_loads = None if mode is None else 0
    way = cuda_code.shortest_round(graph, ROOTS[dtype], shared_loads, 4 * rows)  # four loads a row, at least
    assert way is not None, case(*kernel)
    return own, round(way[0] / rows, 2)


def measure(kernels: list[tuple[str, int, bool, int | None]] = KERNELS) -> dict:
    nvcc, nvdisasm = cuda_code.find("nvcc"), cuda_code.find("nvdisasm")
    if nvcc is None or nvdisasm is None:
        raise RuntimeError("needs nvcc and nvdisasm (pip install nvidia-cuda-nvdisasm)")
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda kernel: compiled(kernel, nvcc, nvdisasm), kernels))
    return {
        "compiler": f"nvcc {cuda_code.release(nvcc)}",
        "architecture": "sm_90",
        "instructions_per_entry_layer": {case(*k): count for k, (_, count) in zip(kernels, found, strict=True)},
        "kernels": {case(*k): own for k, (own, _) in zip(kernels, found, strict=True)},
    }


if __name__ == "__main__":
    cuda_code.command(__doc__, measure)
