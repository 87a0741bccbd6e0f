"""What nvcc makes of the kernels that keep images in registers, held to the committed counts."""

from __future__ import annotations

import json

import pytest
from helpers import counting_script

ROOM = 1.05  # what a count may grow by
KEYS = {"registers", "stack_bytes", "spill_bytes", "shared_bytes"}


@pytest.fixture(scope="module")
def code():
    return counting_script("cuda_image_code.py")


def hold(code, kernels):
    committed = json.loads(code.RESULT.read_text())
    for tool in ("nvcc", "nvdisasm"):
        if code.cuda_code.find(tool) is None:
            pytest.skip(f"needs {tool}")
    compiler = f"nvcc {code.cuda_code.release(code.cuda_code.find('nvcc'))}"
    if compiler != committed["compiler"]:
        pytest.skip(f"counts are of {committed['compiler']}, here is {compiler}")
    found = code.measure(kernels)
    for case, count in found["instructions_per_entry_layer"].items():
        assert count <= ROOM * committed["instructions_per_entry_layer"][case], case
        assert set(found["kernels"][case]) == KEYS
        for key, own in found["kernels"][case].items():
            assert own <= ROOM * committed["kernels"][case][key], (case, key)


def test_the_kernels_of_cifar_have_not_grown(code):
    hold(code, code.CIFAR[:1])


@pytest.mark.slow
def test_no_kernel_has_grown(code):
    hold(code, code.KERNELS)


def test_registers_are_enough(code):
    """128 of them where 512 threads share a multiprocessor's, without spills; of 32 x 32 at most 50 instructions."""
    committed = json.loads(code.RESULT.read_text())
    assert sorted(committed["kernels"]) == sorted(code.case(*kernel) for kernel in code.KERNELS)
    for kernel in code.KERNELS:
        own = committed["kernels"][code.case(*kernel)]
        assert own["registers"] <= (128 if kernel[0] == "float" else 255)
        assert own["spill_bytes"] == 0
    assert committed["instructions_per_entry_layer"][code.case(*code.CIFAR[0])] <= 50
