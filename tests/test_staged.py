"""NumPy's arrays through a CUDA device, tile by tile, on the stand-ins of on_host.py."""

from __future__ import annotations

import numpy as np
import pytest
from fake_cupy import WAITS, Device, Stream, ndarray
from fastntk.engines import points as points_machine
from fastntk.engines import select, staged
from helpers import assert_close, same
from on_host import MODULE, STATE
from test_device import BOTH, RELU, RESIDUAL, exact, points

pytestmark = pytest.mark.skipif(MODULE is None, reason=f"backend 'cuda': {STATE}")


def staged_calls(net, x, y, **kwargs):
    batch = np.stack([x, 2 * x, 3 * x])
    return [
        net(x, None, BOTH, backend="cuda", **kwargs),
        net(x, y, BOTH, backend="cuda", **kwargs),
        net(batch, None, BOTH, batch_dims=1, backend="cuda", **kwargs),
        net.diagonal(x, backend="cuda"),
        net.depths(x, y, backend="cuda"),
    ]


@pytest.mark.parametrize("pairs", [1, 20, 1 << 22])
@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_host_arrays(pairs, kept, dtype, cuda, monkeypatch):
    monkeypatch.setattr(staged.StagedEngine, "tile_pairs", pairs)
    monkeypatch.setattr(select.CudaEngine, "cache_bytes", kept)
    monkeypatch.setattr(points_machine, "rows_per_table", lambda *_: 4 if kept == 0 else 1000)
    x, y = points(dtype, 9, 5), points(dtype, 6, 5)[::-1]
    batch = np.stack([x, 2 * x, 3 * x])
    wanted = [
        exact(RESIDUAL, x, None, BOTH), exact(RESIDUAL, x, y, BOTH), exact(RESIDUAL, batch, None, BOTH, batch_dims=1),
        exact(RESIDUAL.diagonal, x), exact(RESIDUAL.depths, x, y),
    ]  # fmt: skip
    for found, true in zip(staged_calls(RESIDUAL, x, y), wanted, strict=True):
        for name in BOTH:
            values, expected = getattr(found, name), getattr(true, name)
            assert type(values) is np.ndarray
            assert_close(values, expected, "ntk 10", dtype, scale=0.5 * np.abs(expected).max())
    assert same(gram_of(x).ntk, gram_of(x).ntk.T.copy())


def gram_of(x):
    return RELU(x, None, BOTH, backend="cuda")


def test_host_arrays_and_device_arrays_agree(dtype, cuda):
    x = points(dtype, 9, 5)
    for a, b in zip(gram_of(x), RELU(ndarray(x), None, BOTH), strict=True):
        assert same(a, b.values)


def test_host_kernels_are_continued(dtype, cuda, monkeypatch):
    monkeypatch.setattr(staged.StagedEngine, "tile_pairs", 7)
    x, y = points(dtype, 7, 4), points(dtype, 5, 4)
    for other in (None, y):
        k = RELU(x, other, backend="cuda")
        assert type(k.exact.q1) is np.ndarray
        found, wanted = RESIDUAL(k, backend="cuda"), exact(RESIDUAL, exact(RELU, x, other))
        for name in (*BOTH, "cov1"):
            expected = getattr(wanted, name)
            assert_close(getattr(found, name), expected, "ntk 10", dtype, scale=0.5 * np.abs(expected).max())


def test_host_out(dtype, cuda, monkeypatch, tmp_path):
    monkeypatch.setattr(staged.StagedEngine, "tile_pairs", 16)
    x = points(dtype, 9, 4)
    wanted = gram_of(x)
    mapped = np.memmap(tmp_path / "k", dtype, "w+", shape=(9, 9))
    turned = np.zeros((9, 9), dtype).T
    assert RELU(x, None, BOTH, out=(mapped, turned), backend="cuda").nngp is mapped
    assert same(np.array(mapped), wanted.nngp)
    assert same(turned.copy(), wanted.ntk)
    wide = np.zeros((9, 18), dtype)[:, ::2]
    assert same(RELU(x, None, "ntk", out=wide, backend="cuda").copy(), wanted.ntk)


def test_tiles_leave_while_the_next_is_computed(cuda, monkeypatch):
    monkeypatch.setattr(staged.StagedEngine, "tile_pairs", 9)
    WAITS.clear()
    with Stream() as stream:
        found = RELU(points("float32", 9, 4), None, "ntk", backend="cuda")
    tiles = [where for name, *where in cuda.native.calls if name == "run"]
    assert np.isfinite(found).all()
    assert tiles == [[0, stream.ptr]] * 6
    copies = Stream.made[-1]
    assert [event.stream for event in copies.waited] == [stream] * 6  # a tile leaves behind its computation,
    assert dict(WAITS) == {"event": 6}  # and is waited for once; nothing else is
    assert stream.waited == []


@pytest.mark.parametrize("after", [0, 3])
def test_a_launch_that_fails_between_tiles(after, cuda, monkeypatch):
    monkeypatch.setattr(staged.StagedEngine, "tile_pairs", 9)
    cuda.native.failing["run"] = after
    with pytest.raises(RuntimeError, match=r"\[run\] cudaLaunchKernel"):
        RELU(points("float32", 9, 4), None, "ntk", backend="cuda")
    assert WAITS["stream"] == 1  # buffers are given back when nothing is under way in them
    cuda.native.failing.clear()
    assert np.isfinite(RELU(points("float32", 9, 4), None, "ntk", backend="cuda")).all()


def test_a_result_that_cannot_be_written(cuda, monkeypatch):
    monkeypatch.setattr(staged.StagedEngine, "tile_pairs", 9)
    monkeypatch.setattr(staged.np, "copyto", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        RELU(points("float32", 9, 4), None, "ntk", backend="cuda")


def test_buffers_that_do_not_fit(cuda, monkeypatch):
    x = points("float32", 700, 3)
    wanted = RELU(x, None, "ntk", backend="cuda")
    monkeypatch.setattr(Device, "memory", 300 << 10)
    found = RELU(x, None, "ntk", backend="cuda")
    assert_close(found, wanted, "ntk 10", np.float32, scale=0.5 * np.abs(wanted).max())
    monkeypatch.setattr(Device, "memory", 100 << 10)
    with pytest.raises(MemoryError, match="Out of memory"):
        RELU(x, None, "ntk", backend="cuda")
