"""What kernels of images execute, layer by layer, held to the committed counts where an emulator of PTX counts it."""

from __future__ import annotations

import json
import os

import emulated
import on_host
import pytest
from helpers import counting_script

ROOM = 1.05  # what a count may grow by


@pytest.fixture(scope="module")
def executed():
    return counting_script("cuda_executed.py")


@pytest.fixture
def emulator():
    """Without checks, and lanes that meet as soon as they can: what a device does."""
    if not on_host.EMULATED:
        pytest.skip("needs an emulator of PTX (tests/emulated.py)")
    found = emulated.emulator()
    options = {"PTXRUN_CHECK": "mem", "PTXRUN_DIVERGE": ""}
    for name, value in options.items():
        found.ptxrun_option(name.encode(), value.encode())
    yield found
    for name, value in options.items():
        found.ptxrun_option(name.encode(), os.environ.get(name, "mem,sync" if value else "").encode())


def test_no_layer_executes_more(executed, emulator):
    committed = json.loads(executed.RESULT.read_text())["instructions_per_entry_layer"]
    assert list(committed) == list(executed.CASES)
    for case in executed.CASES:
        assert executed.counted(case, emulator)["all"] <= ROOM * committed[case]["all"], case


def test_layers_execute_few(executed):
    committed = json.loads(executed.RESULT.read_text())["instructions_per_entry_layer"]
    for case, own in committed.items():
        assert own["moves"] < own["all"] <= 350, case
    assert committed["Relu, 1 x 1, bias"]["all"] <= 150
    assert committed["LeakyRelu, 3 x 3, bias"]["all"] <= 220
