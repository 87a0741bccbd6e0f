"""NumPy's arrays on several CUDA devices in turn, on the stand-ins of on_host.py, which have two."""

from __future__ import annotations

from collections import Counter

import fastntk
import pytest
from fake_cupy import ndarray
from fastntk.engines import devices, staged
from helpers import same
from on_host import MODULE, STATE
from test_device import BOTH, RELU, RESIDUAL, points
from test_images import NETWORKS, images
from test_staged import staged_calls

pytestmark = pytest.mark.skipif(MODULE is None, reason=f"backend 'cuda': {STATE}")


def on(*ordinals):
    return fastntk.options(backend="cuda", devices=ordinals)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(staged.StagedEngine, "tile_pairs", 9)
    monkeypatch.setattr(devices, "_TURNS", 1)  # the tiles that one device has: products keep their bits
    monkeypatch.setattr(devices, "_LEAST", 1)


def used(native, name):
    """Calls of a function by device."""
    return Counter(device for called, device, _ in native.calls if called == name)


@pytest.mark.parametrize("net", [RELU, RESIDUAL])
def test_points_have_the_bits_of_one_device(net, dtype, cuda, small_tiles):
    x, y = points(dtype, 9, 5), points(dtype, 6, 5)
    one = staged_calls(net, x, y)
    cuda.native.calls.clear()
    with on(0, 1):
        several = staged_calls(net, x, y)
    for a, b in zip(one, several, strict=True):
        for name in BOTH:
            assert same(getattr(a, name), getattr(b, name))
    assert min(used(cuda.native, "run").values()) > 5
    assert set(used(cuda.native, "normalise")) == {0, 1}


def test_tiles_go_in_turn(cuda, small_tiles):
    with on(1, 0):
        RELU(points("float32", 9, 4), None, "ntk")
    assert [device for name, device, _ in cuda.native.calls if name == "run"] == [1, 0, 1, 0, 1, 0]


def test_few_pairs_stay_on_one_device(cuda):
    with on(0, 1):
        RELU(points("float32", 9, 4), None, "ntk")
    assert used(cuda.native, "run") == {0: 1}


@pytest.mark.parametrize("name", ["residual, gap", "dilation, gap", "positions"])
def test_images(name, dtype, cuda):
    kernel_fn, x = NETWORKS[name].kernel_fn, images(5, dtype=dtype)
    one = kernel_fn(x, None, (*BOTH, "cov1"), backend="cuda")
    cuda.native.calls.clear()
    with on(0, 1):
        several = kernel_fn(x, None, (*BOTH, "cov1"))
        alone = kernel_fn.diagonal(x, "ntk")
    assert all(map(same, one, several))
    assert same(alone, kernel_fn.diagonal(x, "ntk", backend="cuda"))
    assert min(used(cuda.native, "image_pairs")[k] for k in (0, 1)) > 0


def test_kernels_are_continued(dtype, cuda, small_tiles):
    x = points(dtype, 7, 4)
    with on(0, 1):
        found = RESIDUAL(RELU(x), None, BOTH)
    wanted = RESIDUAL(RELU(x, backend="cuda"), None, BOTH, backend="cuda")
    assert all(map(same, found, wanted))


def test_a_device_that_fails_names_its_launch_and_leaves_nothing_under_way(cuda, small_tiles):
    x = points("float32", 9, 4)
    cuda.native.failing["run"] = 3
    with on(0, 1), pytest.raises(RuntimeError, match=r"\[run\] cudaLaunchKernel"):
        RELU(x, None, "ntk")
    cuda.native.failing.clear()
    with on(0, 1):
        assert same(RELU(x, None, "ntk"), RELU(x, None, "ntk"))


def test_the_environment(cuda, small_tiles, monkeypatch):
    monkeypatch.setenv("FASTNTK_DEVICES", "1, 0")
    RELU(points("float32", 9, 4), None, "ntk", backend="cuda")
    assert set(used(cuda.native, "run")) == {0, 1}
    monkeypatch.setenv("FASTNTK_DEVICES", "one")
    with pytest.raises(ValueError, match="FASTNTK_DEVICES must be numbers of devices with commas"):
        RELU(points("float32", 9, 4), None, "ntk")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((0, 0), ValueError, "each device once"),
        ((-1,), ValueError, "0 or more"),
        ((), ValueError, "at least one"),
        ((True,), ValueError, "numbers of devices"),
        ("01", TypeError, "sequence of numbers"),
        (1, TypeError, "sequence of numbers"),
    ],
)
def test_what_is_refused(given, error, message):
    with pytest.raises(error, match=message), fastntk.options(devices=given):
        pass


def test_a_device_that_is_not_there(cuda):
    with on(0, 2), pytest.raises(ValueError, match=r"devices names \[2\], and there are 2"):
        RELU(points("float32", 9, 4), None, "ntk")


def test_arrays_on_a_device_stay_there(cuda, small_tiles):
    x = points("float32", 9, 4)
    with on(0, 1):
        found = RELU(ndarray(x, 1), None, "ntk")
    assert found.device.id == 1
    assert set(used(cuda.native, "run")) == {1}
