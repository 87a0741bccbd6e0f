"""What nvcc makes of the CUDA kernels, held to the committed counts: a slower kernel is seen where no GPU is."""

from __future__ import annotations

import json

import pytest
from helpers import counting_script

ROOM = 1.05  # what a count may grow by


@pytest.fixture(scope="module")
def cuda_code():
    return counting_script("cuda_code.py")


def grown(found, committed):
    """What is worse than the committed counts, in words."""
    worse = [
        f"{case}: {found['instructions_per_entry_layer'][case]} instructions, committed {count}"
        for case, count in committed["instructions_per_entry_layer"].items()
        if found["instructions_per_entry_layer"][case] > ROOM * count
    ]
    if sorted(found["kernels"]) != sorted(committed["kernels"]):
        worse.append(f"other kernels: {sorted(set(found['kernels']) ^ set(committed['kernels']))}")
    for name, counts in committed["kernels"].items():
        own = found["kernels"].get(name, counts)
        worse += [f"{name}: {key} {own[key]}, committed {n}" for key, n in counts.items() if own[key] > ROOM * n]
    return worse


def test_the_kernels_have_not_grown(cuda_code):
    committed = json.loads(cuda_code.RESULT.read_text())
    for tool in ("nvcc", "nvdisasm"):
        if cuda_code.find(tool) is None:
            pytest.skip(f"needs {tool}")
    compiler = f"nvcc {cuda_code.release(cuda_code.find('nvcc'))}"
    if compiler != committed["compiler"]:
        pytest.skip(f"counts are of {committed['compiler']}, here is {compiler}")
    assert grown(cuda_code.measure(), committed) == []


def test_nothing_is_spilled(cuda_code):
    committed = json.loads(cuda_code.RESULT.read_text())
    assert len(committed["kernels"]) > 20
    for name, kernel in committed["kernels"].items():
        assert kernel["spill_bytes"] == 0
        # counted nonlinearities have arrays that are indexed at run time
        assert kernel["stack_bytes"] == 0 or name.startswith("every_kernel")


def test_growth_is_seen(cuda_code):
    committed = json.loads(cuda_code.RESULT.read_text())
    assert grown(committed, committed) == []
    name, case = next(iter(committed["kernels"])), next(iter(committed["instructions_per_entry_layer"]))
    for change in (
        lambda found: found["kernels"][name].update(spill_bytes=4),
        lambda found: found["kernels"][name].update(registers=255),
        lambda found: found["kernels"].pop(name),
        lambda found: found["instructions_per_entry_layer"].update({case: 60}),
    ):
        found = json.loads(cuda_code.RESULT.read_text())
        change(found)
        assert len(grown(found, committed)) == 1


LISTING = """
	.section	.text._ZN4fntk12pairs_kernelIfLi1ELi4ELb1ELb0EEEvv,"ax",@progbits
.text._ZN4fntk12pairs_kernelIfLi1ELi4ELb1ELb0EEEvv:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   LDG.E R2, [R4] ;
        /*0020*/                   BRX R2 -0x10 (*"BRANCH_TARGETS .L_x_1,.L_x_2"*);
.L_x_1:
        /*0030*/                   LDS R3, [R2] ;
        /*0040*/                   MUFU.RSQ R5, R3 ;
        /*0050*/              @!P0 BRA `(.L_x_3) ;
        /*0060*/                   CALL.REL.NOINC `(slow) ;
        /*0070*/                   BRA `(.L_x_4) ;
.L_x_3:
        /*0080*/                   FMUL R5, R5, R3 ;
        /*0090*/                   DMUL R6, R4, R4 ;
.L_x_4:
        /*00a0*/                   BRA `(.L_x_0) ;
.L_x_2:
        /*00b0*/                   EXIT ;
"""


def test_the_shortest_round(cuda_code):
    """Through one jump table, past a call that is not made, and back: 2 + 3 + 2 + 1 instructions, one in float64."""
    ((name, lines),) = cuda_code.functions(LISTING).items()
    assert name == "pairs_kernel<float, 1, 4, true, false>"
    graph = cuda_code.blocks(lines)
    assert cuda_code.shortest_round(graph, r"MUFU\.RSQ\b", 1) == (8, 1)
    assert cuda_code.shortest_round(graph, r"MUFU\.RSQ\b", 1, 1) == (8, 1)
    assert cuda_code.shortest_round(graph, r"MUFU\.RSQ\b", 1, 2) is None
    assert cuda_code.shortest_round(graph, r"MUFU\.RSQ\b", 2) is None
    assert cuda_code.shortest_round(graph, r"MUFU\.RSQ64H", 1) is None
