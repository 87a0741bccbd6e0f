"""What only a CUDA device can show: its own arithmetic, streams, other libraries, sizes. ``pytest -m gpu`` runs these
and all tests over the fixture ``backend``."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from fastntk import dual, stax
from fastntk.engines import select
from fastntk.network.activations import NONLINEARITIES
from helpers import assert_close, same
from test_device import BOTH, NETWORKS, RELU, exact, points

STATE = select.availability()["cuda"]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not STATE.startswith("available"), reason=f"backend 'cuda': {STATE}"),
]


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


def close(found, wanted, dtype, quantity="ntk 10"):
    assert_close(found.get(), wanted, quantity, dtype, scale=0.5 * np.abs(wanted).max())


@pytest.mark.parametrize("index", range(len(NETWORKS)))
def test_networks(index, dtype, cupy):
    net, x, y = NETWORKS[index], points(dtype, 150, 40), points(dtype, 70, 40)
    a, b = cupy.asarray(x), cupy.asarray(y)
    batch = np.stack([x, 2 * x])
    calls = [
        (net(a, None, BOTH), exact(net, x, None, BOTH)),
        (net(a, b, BOTH), exact(net, x, y, BOTH)),
        (net(cupy.asarray(batch), None, BOTH, batch_dims=1), exact(net, batch, None, BOTH, batch_dims=1)),
        (net.diagonal(a), exact(net.diagonal, x)),
        (net.depths(a, b), exact(net.depths, x, y)),
        (net(RELU(a, b), get=BOTH), exact(net, exact(RELU, x, y), get=BOTH)),
    ]
    for found, wanted in calls:
        for name in BOTH:
            assert isinstance(getattr(found, name), cupy.ndarray)
            close(getattr(found, name), getattr(wanted, name), dtype)
    ntk = calls[0][0].ntk.get()
    assert same(ntk, ntk.T.copy())
    assert same(a.get(), x)


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_dual(name, dtype, cupy):
    make, args = NONLINEARITIES[name]
    rng = np.random.default_rng(1)
    q11, q22 = rng.uniform(0.5, 2, (2, 1000)).astype(dtype)
    q12 = (np.sqrt(q11 * q22) * rng.uniform(-0.9, 0.9, 1000)).astype(dtype)
    wanted = exact(dual.dual, make(*args), q11, q12, q22)
    found = dual.dual(make(*args), *map(cupy.asarray, (q11, q12, q22)))
    for value, true, quantity in zip(found, wanted, ("k", "kdot"), strict=True):
        close(value, true, dtype, quantity)


def test_out_of_any_strides(dtype, cupy):
    x = cupy.asarray(points(dtype, 90, 8))
    wanted = RELU(x, None, "ntk").get()
    for out in (
        cupy.zeros((90, 90), dtype),
        cupy.zeros((90, 200), dtype)[:, 7:97],
        cupy.zeros((90, 180), dtype)[:, ::2],
        cupy.zeros((90, 90), dtype).T,
    ):
        assert RELU(x, None, "ntk", out=out) is out
        assert same(out.get(), wanted)


def test_calls_do_not_wait(cupy):
    x = cupy.random.default_rng(0).standard_normal((20000, 1024), dtype=np.float32)
    net = stax.serial(*[stax.Dense(1), stax.Relu()] * 10).kernel_fn
    out = tuple(cupy.empty((20000, 20000), np.float32) for _ in BOTH)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        net(x, None, BOTH, out=out)
        stream.synchronize()
        net(x, None, BOTH, out=out)
        waited = stream.done
        stream.synchronize()
    assert not waited


def test_streams_of_threads(cupy):
    x = points("float32", 600, 64)
    wanted = RELU(cupy.asarray(x), None, "ntk").get()
    found = [None] * 4

    def work(k):
        with cupy.cuda.Stream(non_blocking=True) as stream:
            there = cupy.asarray(x)
            results = [RELU(there, None, "ntk") for _ in range(10)]
            stream.synchronize()
            found[k] = all(same(result.get(), wanted) for result in results)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(found))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


def test_pytorch(dtype, cupy):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    x = points(dtype, 120, 16)
    wanted = exact(RELU, x, None, get="ntk")
    with torch.cuda.stream(torch.cuda.Stream()) as _:
        there = torch.as_tensor(x, device="cuda")
        found = RELU(there, None, "ntk")
        assert isinstance(found, torch.Tensor)
        total = found.sum()  # in the same stream
        out = torch.zeros_like(found)
        assert RELU(there, None, "ntk", out=out) is out
        again = (2.0 * RELU(there)).ntk
    assert_close(found.cpu().numpy(), wanted, "ntk 10", dtype, scale=0.5 * np.abs(wanted).max())
    assert torch.equal(out, found)
    assert torch.isfinite(total)
    assert_close(again.cpu().numpy(), 4 * wanted, "ntk 10", dtype, scale=2 * np.abs(wanted).max())
    with pytest.raises(TypeError, match="detach"):
        RELU(there.requires_grad_(), None, "ntk")


def test_jax(cupy):
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "gpu":
        pytest.skip("this JAX has no CUDA")
    x = points("float32", 120, 16)
    there = jax.numpy.asarray(x)
    found = RELU(there, None, BOTH)
    wanted = exact(RELU, x, None, get="ntk")
    assert isinstance(found.ntk, jax.Array)
    assert_close(np.asarray(found.ntk), wanted, "ntk 10", np.float32, scale=0.5 * np.abs(wanted).max())
    with pytest.raises(ValueError, match="read-only"):
        RELU(there, None, "ntk", out=jax.numpy.zeros((120, 120)))


def test_more_than_the_device_holds(cupy, tmp_path):
    x = points("float32", 9000, 32)
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.get_limit()
    pool.set_limit(size=300 << 20)  # the result takes 309 MiB
    try:
        with pytest.raises(
            MemoryError, match=r"\[kernel_fn\] the result, 1 x \(9000, 9000\) float32, takes 0.3017 GiB"
        ):
            RELU(cupy.asarray(x), None, "ntk")
        out = np.memmap(tmp_path / "ntk", np.float32, "w+", shape=(9000, 9000))
        assert RELU(x, None, "ntk", out=out, backend="cuda") is out
    finally:
        pool.set_limit(size=before)
    for i, j in ((0, 0), (4000, 0), (0, 8500), (8500, 8500)):
        wanted = exact(RELU, x[i : i + 100], x[j : j + 100], get="ntk")
        found = np.array(out[i : i + 100, j : j + 100])
        assert_close(found, wanted, "ntk 10", np.float32, scale=0.5 * np.abs(wanted).max())


def test_more_pairs_than_32_bits_count(cupy):
    n = 46400  # its square is beyond 2^31
    if cupy.cuda.Device().mem_info[0] < 14 << 30:
        pytest.skip("needs 14 GiB of device memory")
    x = points("float32", n, 8)
    found = RELU(cupy.asarray(x), None, "ntk")
    for i, j in ((0, 0), (n - 100, 0), (0, n - 100), (n - 100, n - 100)):
        wanted = exact(RELU, x[i : i + 100], x[j : j + 100], get="ntk")
        close(found[i : i + 100, j : j + 100], wanted, np.float32)
    assert bool((found == found.T).all())


def test_the_device_that_was_current_is_so_after(cupy):
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two devices")
    with cupy.cuda.Device(1):
        x = cupy.asarray(points("float32", 60, 8))
    found = RELU(x, None, "ntk")
    assert (cupy.cuda.Device().id, found.device.id) == (0, 1)
    with pytest.raises(ValueError, match="x1 is on cuda:1, x2 on cuda:0"):
        RELU(x, cupy.asarray(points("float32", 60, 8)))
