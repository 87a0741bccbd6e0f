"""What small calls cost is Python: how many of the package's functions they enter, which no load of a machine changes.

Times are for bench/small_calls.py. A bound has a tenth of room: what goes beyond it makes every small call slower.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import fastntk
import numpy as np
import pytest
from fastntk import options, stax
from fastntk.engines import select

PACKAGE = str(Path(fastntk.__file__).parent)
RNG = np.random.default_rng(0)
X1, X2, FEW = RNG.standard_normal((8, 20)), RNG.standard_normal((8, 20)), RNG.standard_normal((12, 2))
IMAGES = RNG.standard_normal((2, 8, 8, 3)).astype(np.float32)
WIDTHS = itertools.count(1)

pytestmark = pytest.mark.skipif(select.load("cpu")[0] is None, reason="the compiled CPU module is not installed")


def dense(W_std=1.5):
    layers = [stax.Dense(1, W_std, 0.1), stax.Relu()] * 3
    return stax.serial(*layers, stax.Dense(1, W_std, 0.1)).kernel_fn


def convolutional():
    layers = [stax.Conv(1, (3, 3), padding="SAME"), stax.Relu()] * 2
    return stax.serial(*layers, stax.Flatten(), stax.Dense(1)).kernel_fn


DENSE, CONVOLUTIONAL, ON = dense(), convolutional(), {"ntk": np.ones((12, 12))}
CALLS = {
    "points": (lambda: DENSE(X1, X2, "ntk"), 165),
    "a new W_std": (lambda: dense(1.2 + 1e-6 * next(WIDTHS))(X1, X2, "ntk"), 275),
    "a pair of images": (lambda: CONVOLUTIONAL(IMAGES[:1], IMAGES[1:], "ntk"), 365),
    "a gradient": (lambda: DENSE.vjp(FEW, None, cotangents=ON, wrt=("x1", "0.W_std")), 215),
}


@pytest.mark.parametrize("name", CALLS)
def test_small_calls_enter_few_functions(name):
    call, most = CALLS[name]
    entered = 0

    def look(frame, event, argument):
        nonlocal entered
        entered += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    with options(backend="cpu"):
        for _ in range(2):  # lowers the network, compiles what comes of it
            call()
        before = sys.getprofile()
        sys.setprofile(look)
        try:
            call()
        finally:
            sys.setprofile(before)
    assert 50 < entered <= most
