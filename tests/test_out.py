"""Results that go into arrays of the caller's, however these lie in memory: the same bits, and no copy of the whole."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from fastntk import stax
from fastntk.engines import points as points_machine
from fastntk.engines import select
from helpers import same
from images_inputs import conv, images

compiled = pytest.mark.skipif(select.load("cpu")[0] is None, reason="the compiled CPU module is not installed")

BOTH = ("nngp", "ntk")
DENSE = stax.serial(stax.Dense(1, 1.3, 0.2), stax.Relu(), stax.Dense(1, 1.1), stax.Erf(), stax.Dense(1)).kernel_fn
POSITIONS = stax.serial(conv(), stax.Relu(), conv((2, 2), padding="VALID"), stax.Relu()).kernel_fn


def unaligned(shape, dtype):
    """An array that begins between two elements."""
    dtype = np.dtype(dtype)
    return np.ndarray(shape, dtype, np.zeros(int(np.prod(shape)) * dtype.itemsize + 1, np.uint8), offset=1)


ROWS = {
    "columns first": lambda shape, dtype: np.full(shape, np.nan, dtype, order="F"),
    "backwards": lambda shape, dtype: np.full(shape, np.nan, dtype)[..., ::-1, ::-1],
    "every other": lambda shape, dtype: np.full((*shape[:-1], 2 * shape[-1]), np.nan, dtype)[..., ::2],
    "unaligned": unaligned,
    "a field": lambda shape, dtype: np.zeros(shape, [("tag", np.uint8), ("value", dtype)])["value"],
}


@pytest.mark.parametrize("what", ROWS)
@pytest.mark.parametrize("one", [True, False], ids=["one set", "two sets"])
def test_rows(what, one, dtype, backend, monkeypatch):
    """Tiles of 64 x 64, the last ones narrower; and one array that can be written as it lies beside one that cannot."""
    monkeypatch.setattr(points_machine, "_APART", 64 * 64)
    x = np.random.default_rng(0).standard_normal((150, 5)).astype(dtype)
    other = None if one else x[:70] + x[3]
    wanted = DENSE(x, other, BOTH)
    out = ROWS[what](wanted.ntk.shape, dtype), np.full(wanted.ntk.shape, np.nan, dtype)
    DENSE(x, other, BOTH, out=out)
    assert all(same(a.copy(), b) for a, b in zip(out, wanted, strict=True))


def test_rows_of_a_batch(dtype, backend, monkeypatch):
    monkeypatch.setattr(points_machine, "_APART", 64 * 64)
    x = np.random.default_rng(0).standard_normal((3, 70, 5)).astype(dtype)
    wanted = DENSE(x, None, "ntk", batch_dims=1)
    out = np.full(wanted.shape, np.nan, dtype, order="F")
    DENSE(x, None, "ntk", batch_dims=1, out=out)
    assert same(out.copy(), wanted)


@pytest.mark.parametrize("budget", [2**28, 2**19])
@pytest.mark.parametrize("one", [True, False], ids=["one set", "two sets"])
def test_images_between_two_elements(one, budget, dtype, backend):
    x = images(7, dtype=dtype)
    other = None if one else images(4, seed=1, dtype=dtype)
    wanted = POSITIONS(x, other, BOTH)
    out = tuple(unaligned(wanted.ntk.shape, dtype) for _ in BOTH)
    POSITIONS(x, other, BOTH, out=out, memory_budget=budget, num_threads=1)
    assert all(same(a.copy(), b) for a, b in zip(out, wanted, strict=True))


MEMORY = """
import resource, sys
import numpy as np
from fastntk import stax

what, path = sys.argv[1:]
if what == "rows":
    kernel_fn = stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1)).kernel_fn
    x, shape, order, size = np.ones((8_000, 3), np.float32), (8_000, 8_000), "F", 4
    options = {}
else:
    kernel_fn = stax.serial(stax.Conv(1, (3, 3), padding="SAME"), stax.Relu()).kernel_fn
    x, shape, order, size = np.ones((8, 32, 32, 3), np.float32), (8, 8, 32, 32, 32, 32), "C", 4
    options = {"memory_budget": 32 << 20}
kernel_fn(x[:2], None, "ntk", num_threads=1, **options)
file = np.memmap(path, np.uint8, "w+", shape=int(np.prod(shape)) * size + 1)
out = np.ndarray(shape, np.float32, file, offset=0 if what == "rows" else 1, order=order)
with open("/proc/self/statm") as line:
    used = int(line.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + out.nbytes // 2, used + out.nbytes // 2))
kernel_fn(x, None, "ntk", out=out, num_threads=1, **options)
print(np.isfinite(out[-1]).all(), out[0].any())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("what", ["rows", pytest.param("images", marks=compiled)])  # NumPy holds all of images
def test_a_file_larger_than_memory(what, tmp_path):
    """Half of the result's size is all the memory that there is."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY), what, str(tmp_path / "k")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True True\n"
