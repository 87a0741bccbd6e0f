"""What the compiler makes of the CUDA kernels: registers, spills, instructions per entry-layer. No GPU is needed.

    python bench/cuda_code.py                       # a table
    python bench/cuda_code.py --json bench/results/cuda-sm90.json

Needs nvcc and nvdisasm (``pip install nvidia-cuda-nvdisasm``). An entry-layer is one pair of inputs through one
nonlinearity and the Dense layer behind it, NNGP and NTK. Its instructions are those on the shortest way round the loop
over a program's steps, which takes the common case at every branch: loading the step and choosing its code count, calls
for numbers out of range do not.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("dense/pairs_float", "dense/pairs_double", "run")
FLAGS = ("-cubin", "-arch=sm_90", "-O3", "-std=c++17", "--fmad=false", "-DFNTK_ISA=cuda", "-Xptxas", "-v")
RESULT = ROOT / "bench" / "results" / "cuda-sm90.json"


def find(name: str) -> str | None:
    """A CUDA tool: on PATH, or from NVIDIA's Python packages."""
    if name == "nvcc" and os.environ.get("CUDACXX"):
        return os.environ["CUDACXX"]
    packages = Path(sysconfig.get_path("platlib"), "nvidia")
    return shutil.which(name) or next((str(p) for p in sorted(packages.glob(f"*/bin/{name}"))), None)


def output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def release(nvcc: str) -> str:
    """The compiler's version: counts of another one are not comparable."""
    found = re.search(r"release ([\d.]+)", output(nvcc, "--version"))
    assert found is not None
    return found[1]


# ---------------------------------------------------------------- resources


def demangled(name: str) -> str:
    """``pairs_kernel<float, 1, 4, true, false>``, as far as this repository's kernels need it."""
    kernel = re.search(r"\d([a-z]+_kernel)I", name)
    if kernel is None:
        return name
    rest = name[kernel.end() :]
    phi = re.match(r"NS_4cuda\d+([A-Z][A-Za-z]*?)I([fd])((?:L[ib]\d+E)*)E", rest)
    dtype = {"f": "float", "d": "double"}

    def numbers_of(text: str) -> list[str]:
        return [("true" if n == "1" else "false") if t == "b" else n for t, n in re.findall(r"L([ib])(\d+)E", text)]

    if phi:
        return f"{kernel[1]}<{', '.join([phi[1], dtype[phi[2]], *numbers_of(phi[3])])}>"
    numbers = numbers_of(rest)
    return f"{kernel[1]}<{', '.join([dtype[rest[0]], *numbers])}>"


def resources(report: str) -> dict[str, dict[str, int]]:
    """Of each kernel in what ``ptxas -v`` says."""
    found = {}
    for part in report.split("Compiling entry function '")[1:]:
        stack, stores, loads = map(
            int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part).groups()
        )
        shared = re.search(r"(\d+) bytes smem", part)
        found[demangled(part.split("'")[0])] = {
            "registers": int(re.search(r"Used (\d+) registers", part)[1]),
            "stack_bytes": stack,
            "spill_bytes": stores + loads,
            "shared_bytes": int(shared[1]) if shared else 0,
        }
    return found


# ---------------------------------------------------------------- control flow


@dataclass
class Block:
    """Instructions without a jump into or out of the middle."""

    lines: list[str] = field(default_factory=list)
    next: list[int] = field(default_factory=list)

    def count(self, pattern: str) -> int:
        return sum(bool(re.search(rf"\b{pattern}", line)) for line in self.lines)


def functions(listing: str) -> dict[str, list[str]]:
    """Lines of labels and instructions of each kernel in nvdisasm's listing."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"\n\s*\.section\s+", listing)[1:]:
        if part.startswith(".text."):
            name = part[len(".text.") :].split(",")[0]
            found[demangled(name)] = re.findall(r"^(?:\.L\w+:|\s+/\*[0-9a-f]{4,}\*/\s+.*;.*)$", part, re.MULTILINE)
    return found


def blocks(lines: list[str]) -> list[Block]:
    """The graph of a kernel; a block that calls a subroutine leads nowhere."""
    found, labels = [Block()], {}
    for line in lines:
        if line.startswith("."):
            if found[-1].lines:
                found.append(Block())
            labels[line[:-1]] = len(found) - 1
            continue
        found[-1].lines.append(re.sub(r"/\*[0-9a-f]{4,}\*/", "", line).strip())
        if re.search(r"\b(BRA|BRX|EXIT|RET|CALL)\b", line):
            found.append(Block())
    for k, block in enumerate(found):
        last = block.lines[-1] if block.lines else ""
        jump = re.search(r"\b(BRA|BRX|EXIT|RET|CALL)\b", last)
        if jump and jump[1] in ("BRA", "BRX"):
            block.next += [labels[label] for label in re.findall(r"\.L_x_\d+", last)]
        conditional = last.startswith("@") or (jump and jump[1] == "BRA" and re.search(r"BRA\.?\w* !?U?P\d", last))
        if (not jump or conditional) and k + 1 < len(found):
            block.next.append(k + 1)
    return found


def reached(graph: list[Block], start: int) -> set[int]:
    found, waiting = set(), [start]
    while waiting:
        for following in graph[waiting.pop()].next:
            if following not in found:
                found.add(following)
                waiting.append(following)
    return found


def shortest_round(
    graph: list[Block], landmark: str, shared_loads: int | None, global_loads: int = 0
) -> tuple[int, int] | None:
    """Instructions of the shortest way once round the loop through a block with ``landmark``, and the float64 units'.

    With so many loads from shared memory (None: any) and at least so many from global memory. The loop begins at its
    lowest block.
    """
    best = None
    onward = [reached(graph, k) for k in range(len(graph))]
    counts = [(len(b.lines), b.count("LDS"), b.count("LDG"), b.count(r"D(ADD|FMA|MUL|SETP)\b")) for b in graph]
    for start, block in enumerate(graph):
        loop = [k for k in onward[start] if start in onward[k]]
        if not block.count(landmark) or not loop:
            continue
        first = min(loop)
        # instructions, block, loads from shared and global memory, whether the loop's beginning was passed, float64
        queue, seen = [(0, start, 0, 0, False, 0)], set()
        while queue:
            length, at, shared, constant, passed, wide = heapq.heappop(queue)
            if length and at == start:
                if shared_loads in (None, shared) and constant >= global_loads and (passed or start == first):
                    best = (length, wide) if best is None else min(best, (length, wide))
                    break
                continue
            if (at, shared, constant, passed) in seen or (passed and at == first):
                continue
            if shared_loads is not None and shared > shared_loads:
                continue
            seen.add((at, shared, constant, passed))
            own = counts[at]
            now = (length + own[0], shared + own[1], min(constant + own[2], global_loads), passed or at == first)
            wide += own[3]
            for following in graph[at].next:
                heapq.heappush(queue, (now[0], following, *now[1:], wide))
    return best


def cases() -> dict[str, tuple[str, int, str, int, int]]:
    """The kernel, its pairs a thread, and what only this step's way passes: a square root, so many loads.

    A row array is one shared load each for the lines and for the column; abrelu has more constants than relu. Of erf in
    float32, whose pairs are kept apart, the column's are loaded again for each.
    """
    found = {}
    for dtype, bits, root, pairs in (
        ("float", 32, r"MUFU\.RSQ\b", {1: 4, 2: 4, 4: 4, 8: 2}),
        ("double", 64, r"MUFU\.RSQ64H", {1: 2, 2: 2, 4: 2, 8: 1}),
    ):
        for slots, p in pairs.items():
            kernel = f"pairs_kernel<{dtype}, {slots}, {p}, true, false>"
            end = f"NTK, slots {slots}, float{bits}"
            found[f"relu, bias, {end}"] = (kernel, p, root, 6, 0)
            if slots == 1:
                found[f"relu, no bias, {end}"] = (kernel, p, root, 2, 0)
                found[f"abrelu, bias, {end}"] = (kernel, p, root, 6, 7)
                found[f"erf, bias, {end}"] = (kernel, p, root, 16 if bits == 64 else 31, 0)
                nngp = kernel.replace("true", "false")
                found[f"relu, no bias, NNGP, slots {slots}, float{bits}"] = (nngp, p, root, 0, 0)
    return found


def measure() -> dict:
    nvcc, nvdisasm = find("nvcc"), find("nvdisasm")
    if nvcc is None or nvdisasm is None:
        raise RuntimeError("needs nvcc and nvdisasm (pip install nvidia-cuda-nvdisasm)")
    with tempfile.TemporaryDirectory() as folder:

        def build(name: str) -> tuple[str, str]:
            cubin = str(Path(folder, f"{Path(name).name}.cubin"))
            report = output(nvcc, *FLAGS, f"-I{ROOT / 'csrc'}", str(ROOT / "csrc/cuda" / f"{name}.cu"), "-o", cubin)
            return report, output(nvdisasm, "-c", cubin)

        with ThreadPoolExecutor() as pool:
            built = list(pool.map(build, SOURCES))
    kernels: dict[str, dict[str, int]] = {}
    graphs = {}
    for report, listing in built:
        kernels.update(resources(report))
        for name, lines in functions(listing).items():
            if name in kernels:
                kernels[name]["instructions"] = sum(not line.startswith(".") for line in lines)
                graphs[name] = lines
    layers, of_float64 = {}, {}
    for case, (name, pairs, *what) in cases().items():
        way = shortest_round(blocks(graphs[name]), *what)
        if way is None:
            raise RuntimeError(f"{case}: no such way through {name}")
        layers[case] = round(way[0] / pairs, 2)
        if way[1]:
            of_float64[case] = round(way[1] / pairs, 2)
    return {
        "compiler": f"nvcc {release(nvcc)}",
        "architecture": "sm_90",
        "instructions_per_entry_layer": layers,
        "fp64_instructions_per_entry_layer": of_float64,
        "kernels": dict(sorted(kernels.items())),
    }


def command(doc: str, measure: Callable[[], dict]) -> None:
    """The command line of a script that counts instructions."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    found = measure()
    for case, count in found["instructions_per_entry_layer"].items():
        print(f"{case:<36} {count:6.1f} instructions an entry-layer")
    for name, own in found["kernels"].items():
        print(f"{name:<45}" + "  ".join(f"{key} {value}" for key, value in own.items()))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    command(__doc__, measure)
