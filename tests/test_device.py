"""Arrays on a CUDA device, in and out, on the stand-ins of on_host.py: what a machine without a GPU can hold of it."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import fastntk
import numpy as np
import pytest
from fake_cupy import WAITS, Capsule, Device, Stream, ndarray
from fastntk import dual, stax
from fastntk.base.kernel import Kernel
from fastntk.engines import points as points_machine
from fastntk.engines import select, staged
from fastntk.network.activations import NONLINEARITIES
from helpers import assert_close, same
from on_host import DEVICES, MODULE, STATE

pytestmark = pytest.mark.skipif(MODULE is None, reason=f"backend 'cuda': {STATE}")

BOTH = ("nngp", "ntk")


def points(dtype, *shape):
    x = np.random.default_rng(0).standard_normal(shape)
    x[..., 1, :] = x[..., 0, :] * (1 + 1e-7)  # nearly a copy,
    x[..., 2, :] = -x[..., 0, :] + 1e-3 * x[..., 4, :]  # nearly the opposite
    x[..., 3, :] = 0
    return x.astype(dtype)


def stack(*args, depth=2):
    make, rest = args[0], args[1:]
    return stax.serial(*[stax.Dense(3, 1.2, 0.1), make(*rest)] * depth, stax.Dense(1, 1.1)).kernel_fn


RELU = stack(stax.Relu)
BRANCH = stax.serial(stax.Dense(3), stax.Erf(0.7, 1.3, 0.2), stax.Dense(3, 1.2))
RESIDUAL = stax.serial(
    stax.Dense(3), stax.FanOut(2), stax.parallel(BRANCH, stax.Dense(3, 0.8, 0.3)), stax.FanInSum(), stax.Relu()
).kernel_fn
# A step makes the root of a defect in every layer: of rows that are nearly copies, roots of what float32 rounded.
SMOOTH = [(make, args) for make, args in NONLINEARITIES.values() if not make(*args).jumps]
NETWORKS = [*(stack(make, *args) for make, args in SMOOTH), RESIDUAL]


def exact(function, *args, **kwargs):
    """The same call in float64 by NumPy."""
    args = [a.astype(np.float64) if isinstance(a, np.ndarray) else a for a in args]
    return function(*args, backend="numpy", **kwargs)


def close(found, wanted, dtype):
    assert isinstance(found, ndarray)
    assert_close(found.values, wanted, "ntk 10", dtype, scale=0.5 * np.abs(wanted).max())


# ---------------------------------------------------------------- in and out


@pytest.mark.parametrize("index", range(len(NETWORKS)))
def test_networks(index, dtype, cuda):
    net, x, y = NETWORKS[index], points(dtype, 9, 5), points(dtype, 6, 5)[::-1]
    a, b = ndarray(x.copy()), ndarray(y)  # b's rows lie backwards
    batch = np.stack([x, 2 * x])
    WAITS.clear()
    calls = [
        (net(a, None, BOTH), exact(net, x, None, BOTH)),
        (net(a, b, BOTH), exact(net, x, y, BOTH)),
        (net(ndarray(batch), None, BOTH, batch_dims=1), exact(net, batch, None, BOTH, batch_dims=1)),
        (net.diagonal(a), exact(net.diagonal, x)),
        (net.depths(a, b), exact(net.depths, x, y)),
    ]
    assert not WAITS, "the host waited for the device"
    for found, wanted in calls:
        for name in BOTH:
            close(getattr(found, name), getattr(wanted, name), dtype)
    assert same(a.values, x)
    assert same(calls[0][0].ntk.values, calls[0][0].ntk.values.T.copy())


def test_kernels_are_continued(dtype, cuda):
    x, y = points(dtype, 7, 4), points(dtype, 5, 4)
    first, second = stack(stax.Erf), stack(stax.Relu)
    whole = stax.serial(*[stax.Dense(3, 1.2, 0.1), stax.Erf()] * 2, stax.Dense(1, 1.1), stax.Relu(), stax.Dense(1))
    rest = stax.serial(stax.Relu(), stax.Dense(1)).kernel_fn
    for other in (None, y):
        there = None if other is None else ndarray(other)
        WAITS.clear()
        k = first(ndarray(x), there)
        found = rest(k)
        scaled = rest((3.0 * k) / 3.0)
        assert not WAITS
        assert isinstance(found, Kernel)
        assert isinstance(found.exact.q1, ndarray)
        wanted = exact(whole.kernel_fn, x, other)
        for result in (found, scaled):
            for name in (*BOTH, "cov1", *(("cov2",) if other is not None else ())):
                close(getattr(result, name), getattr(wanted, name), dtype)
        assert (found.cov2 is None) == (other is None)
        assert found.shape1 == wanted.shape1
        # without the state, from covariances alone
        bare = Kernel(k.nngp, k.ntk, k.cov1, k.cov2, k.x1_is_x2, True, False, k.shape1, k.shape2)
        here = Kernel(*(None if v is None else v.values for v in (k.nngp, k.ntk, k.cov1, k.cov2)), *bare.astuple()[4:9])
        close(second(bare, get="nngp"), exact(second, here, get="nngp"), dtype)


def test_a_tuple_of_inputs(cuda):
    net = stax.serial(stax.parallel(stax.Dense(1), stax.Dense(1, 0.5)), stax.FanInSum()).kernel_fn
    x, y = points("float64", 6, 3), points("float64", 6, 2)
    close(net((ndarray(x), ndarray(y)), None, "nngp"), exact(net, (x, y), None, get="nngp"), np.float64)


def test_integers_become_float64(cuda):
    x = np.arange(12).reshape(4, 3)
    assert RELU(ndarray(x), None, "ntk").dtype == np.float64


def test_no_samples(cuda):
    x, none = ndarray(points("float32", 5, 3)), ndarray(np.empty((0, 3), np.float32))
    assert RELU(none, None, "ntk").shape == (0, 0)
    k = RELU(x, none)
    assert k.nngp.shape == (5, 0)
    assert k.cov2.shape == (0,)
    assert RELU.diagonal(none, "ntk").shape == (0,)


@pytest.mark.parametrize("pairs", [1, 7, 30, 1000])
def test_tiles(pairs, dtype, cuda, monkeypatch):
    x, y = points(dtype, 9, 5), points(dtype, 6, 5)
    batch = np.stack([x, 2 * x, 3 * x])
    whole = [RELU(ndarray(x), None, BOTH), RELU(ndarray(x), ndarray(y), BOTH)]
    whole.append(RELU(ndarray(batch), None, BOTH, batch_dims=1))
    monkeypatch.setattr(select.CudaEngine, "tile_pairs", pairs)
    monkeypatch.setattr(select.CudaEngine, "cache_bytes", 100)
    monkeypatch.setattr(points_machine, "rows_per_table", lambda *_: 4)
    found = [RELU(ndarray(x), None, BOTH), RELU(ndarray(x), ndarray(y), BOTH)]
    found.append(RELU(ndarray(batch), None, BOTH, batch_dims=1))
    for a, b in zip(found, whole, strict=True):
        for name in BOTH:  # the products of other tiles round otherwise
            wanted = getattr(b, name).values
            assert_close(getattr(a, name).values, wanted, "ntk 10", dtype, scale=0.5 * np.abs(wanted).max())


# ---------------------------------------------------------------- streams and devices


def test_the_callers_stream_and_device(cuda):
    x = points("float32", 6, 3)
    with Device(1), Stream() as stream:
        there = ndarray(x)
        close(RELU(there, None, "ntk"), exact(RELU, x, None, get="ntk"), np.float32)
        dual.relu(there, 0.1, there)
    assert {call[1:] for call in cuda.native.calls} == {(1, stream.ptr)}
    cuda.native.calls.clear()
    found = RELU(there, None, "ntk")  # whichever device is current
    assert (found.device.id, Device.current) == (1, 0)
    assert {device for _, device, _ in cuda.native.calls} == {1}
    with pytest.raises(ValueError, match="get names"):
        RELU(there, None, "nothing")
    with pytest.raises(ValueError, match="features"):
        RELU(there, ndarray(x[:, :2], 1), "ntk")
    assert Device.current == 0


class Tensor:
    """PyTorch's manners: DLPack, dtypes that are no NumPy's, a current stream of its own."""

    stream = SimpleNamespace(cuda_stream=1234)

    def __init__(self, values, needs_gradient=False):
        self.values, self.needs_gradient = values, needs_gradient
        self.shape, self.ndim, self.dtype = values.shape, values.ndim, f"torch.{values.dtype}"

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, *, stream=None, **rest):
        assert stream == self.stream.cuda_stream, "PyTorch is to be read in its own stream"
        if self.needs_gradient:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
        return Capsule(self.values, 0, stream)

    def __mul__(self, c):
        assert type(c) is float
        return Tensor(self.values * self.values.dtype.type(c))


Tensor.__module__ = "torch"


@pytest.fixture
def torch(monkeypatch):
    torch = ModuleType("torch")
    torch.cuda = SimpleNamespace(current_stream=lambda device: Tensor.stream)

    def from_dlpack(x):
        assert Stream.now().ptr == Tensor.stream.cuda_stream
        return Tensor(x.__dlpack__(stream=Tensor.stream.cuda_stream).values)

    torch.from_dlpack = from_dlpack
    monkeypatch.setitem(sys.modules, "torch", torch)
    return torch


def test_tensors_of_pytorch(cuda, torch, dtype):
    x = points(dtype, 6, 3)
    mixed, before = ndarray(points(dtype, 5, 3)), Stream.now()
    with Stream() as own:
        found = RELU(Tensor(x), None, BOTH)
        cross = RELU(Tensor(x), mixed, "ntk")
        assert own.waited  # what comes behind in CuPy's stream finds the result,
        assert Stream.made[-1].waited[0].stream is own  # and PyTorch's what CuPy's array still waited for
    assert Stream.now() is before
    assert isinstance(found.ntk, Tensor)
    assert {stream for *_, stream in cuda.native.calls} == {1234}
    for result, wanted in (
        (found.ntk, exact(RELU, x, None, get="ntk")),
        (cross, exact(RELU, x, mixed.values, get="ntk")),
    ):
        assert_close(result.values, wanted, "ntk 10", dtype, scale=0.5 * np.abs(wanted).max())

    k = RELU(Tensor(x))
    assert isinstance(k.cov1, Tensor)
    again = RELU(2.0 * k, get="ntk")
    assert isinstance(again, Tensor)
    assert isinstance(RELU.diagonal(Tensor(x), "ntk"), Tensor)
    assert isinstance(RELU.depths(Tensor(x), None, "ntk"), Tensor)
    assert isinstance(dual.relu(Tensor(x), 0.1, Tensor(x))[0], Tensor)

    out = Tensor(np.zeros((6, 6), dtype))
    assert RELU(Tensor(x), None, "ntk", out=out) is out
    assert same(out.values, found.ntk.values)
    with pytest.raises(TypeError, match=r"x1, a torch.Tensor, does not let itself be read: .*detach"):
        stax.Dense(1).kernel_fn(Tensor(x, needs_gradient=True))


def test_arrays_of_other_libraries(cuda):
    x = points("float32", 6, 3)

    class Array(Tensor):  # JAX's: immutable, a namespace
        stream = SimpleNamespace(cuda_stream=1)

        def __array_namespace__(self):
            return SimpleNamespace(from_dlpack=lambda a: Array(a.__dlpack__(stream=1).values))

    Array.__module__ = "jaxlib"
    Array.__mro__[1].__module__ = "jaxlib"
    try:
        found = RELU(Array(x), None, "ntk")
        assert isinstance(found, Array)
        with pytest.raises(ValueError, match="out is read-only"):
            RELU(Array(x), None, "ntk", out=Array(np.zeros((6, 6), np.float32)))
    finally:
        Tensor.__module__ = "torch"

    class Numbas:  # no DLPack
        ordinal = 1

        def __init__(self, values):
            self.ndim, self.values = values.ndim, values

        @property
        def __cuda_array_interface__(self):
            return {**ndarray(self.values).__cuda_array_interface__, "stream": None}

    again = RELU(Numbas(x), None, "ntk")
    assert isinstance(again, ndarray)
    assert again.device.id == 1
    assert same(again.values, found.values)


# ---------------------------------------------------------------- out=


def test_out(dtype, cuda):
    x = points(dtype, 6, 4)
    a, wanted = ndarray(x), [RELU(ndarray(x), None, name).values for name in BOTH]
    WAITS.clear()
    for base in (np.zeros((2, 6, 6)), np.zeros((2, 6, 12))[:, :, ::2], np.zeros((2, 6, 6)).transpose(0, 2, 1)):
        out = tuple(ndarray(plane) for plane in np.empty_like(base, dtype))
        assert all(a is b for a, b in zip(RELU(a, None, BOTH, out=out), out, strict=True))
        assert all(same(o.values.copy(), w) for o, w in zip(out, wanted, strict=True))
    apart = np.zeros((6, 40), dtype)  # columns adjacent, lines far apart
    assert same(RELU(a, None, "ntk", out=ndarray(apart[:, 3:9])).values.copy(), wanted[1])
    assert not WAITS


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        (lambda x: ndarray(np.zeros((6, 5), x.dtype)), ValueError, r"out must have shape \(6, 6\), given \(6, 5\)"),
        (lambda x: ndarray(np.zeros((6, 6), np.float16)), TypeError, "out must have dtype float32, given float16"),
        (lambda x: ndarray(x.values[:, :6]), ValueError, "out overlaps an input"),
        (lambda x: np.zeros((6, 6), np.float32), TypeError, "x1 is on cuda:0, out a numpy.ndarray in host memory"),
        (lambda x: ndarray(np.zeros((6, 6), np.float32), 1), ValueError, "x1 is on cuda:0, out on cuda:1"),
        (lambda x: 3.0, TypeError, "out must be an array on cuda:0, given float"),
        (lambda x: ndarray(np.broadcast_to(np.zeros(6, np.float32), (6, 6))), ValueError, "out overlaps itself"),
    ],
)
def test_wrong_out(out, error, words, cuda):
    x = ndarray(points("float32", 6, 8))
    with pytest.raises(error, match=words):
        RELU(x, None, "ntk", out=out(x))


# ---------------------------------------------------------------- refusals


X = points("float32", 6, 4)
REFUSED = {
    "host and device": (lambda: RELU(ndarray(X), X), TypeError, r"x1 is on cuda:0, x2 a numpy.ndarray in host memory"),
    "two devices": (lambda: RELU(ndarray(X), ndarray(X, 1)), ValueError, "x1 is on cuda:0, x2 on cuda:1: move one"),
    "in a tuple": (
        lambda: stax.parallel(stax.Dense(1), stax.Dense(1)).kernel_fn((ndarray(X), ndarray(X, 1))),
        ValueError,
        r"x1\[0\] is on cuda:0, x1\[1\] on cuda:1",
    ),
    "a kernel": (
        lambda: RELU(RELU(ndarray(X)).replace(cov1=np.ones(6, np.float32))),
        TypeError,
        "x1.nngp is on cuda:0, x1.cov1",
    ),
    "backend cpu": (
        lambda: RELU(ndarray(X), backend="cpu"),
        ValueError,
        "backend 'cpu' takes arrays in host memory, given some on",
    ),
    "backend numpy": (lambda: RELU(ndarray(X), backend="numpy"), ValueError, "backend 'numpy' takes arrays in host"),
    "unknown backend": (lambda: RELU(ndarray(X), backend="tpu"), ValueError, "unknown backend 'tpu'"),
    "half": (lambda: RELU(ndarray(X.astype(np.float16))), TypeError, "x1 must be float32 or float64 .*, given float16"),
    "dtypes": (lambda: RELU(ndarray(X), ndarray(X.astype(float))), TypeError, "x1 is float32, x2 is float64"),
    "rank": (lambda: RELU(ndarray(X[0])), ValueError, "x1 has 1 dims"),
    "a list": (
        lambda: RELU([ndarray(X), 3.0]),
        TypeError,
        r"x1\[1\] must be an array on cuda:0 like the others, given",
    ),
    "x2 a list": (
        lambda: RELU(ndarray(X), [1.0]),
        TypeError,
        "x1 is on cuda:0, x2 a list in host memory",
    ),
    "dual, host and device": (
        lambda: dual.relu(ndarray(X), X, 1.0),
        TypeError,
        r"\[relu\] q11 is on cuda:0, q12 a num",
    ),
    "dual, two devices": (
        lambda: dual.relu(ndarray(X), ndarray(X, 1), 1.0),
        ValueError,
        "q11 is on cuda:0, q12 on cuda:1",
    ),
    "dual, a list": (
        lambda: dual.relu(ndarray(X), [1.0], 1.0),
        TypeError,
        "q11 is on cuda:0, q12 a list in host memory",
    ),
    "dual, dtypes": (lambda: dual.relu(ndarray(X), ndarray(X.astype(float)), 1.0), TypeError, "convert them to one"),
    "dual, backend": (
        lambda: dual.relu(ndarray(X), 1.0, 1.0, backend="cpu"),
        ValueError,
        "takes arrays in host memory",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, cuda):
    call, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        call()
    assert Device.current == 0
    assert Stream.now() is Stream.null


def test_without_cupy(cuda, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    select._cuda_devices.cache_clear()
    for call in (lambda: RELU(X, backend="cuda"), lambda: RELU(Tensor(X))):
        with pytest.raises(RuntimeError, match=r"CuPy.*pip install 'fastntk\[cuda13\]'.*fastntk\[cuda12\]"):
            call()
    assert "not available: CuPy is not installed" in fastntk.show_config("dict")["backends"]["cuda"]


def test_without_the_module(cuda, monkeypatch):
    monkeypatch.setattr(select, "load", lambda name: (None, "not available: not built"))
    select._cuda_devices.cache_clear()
    with pytest.raises(RuntimeError, match="arrays lie on cuda:0, but backend 'cuda' is not available: not built"):
        RELU(ndarray(X))


def test_show_config(cuda):
    config = fastntk.show_config("dict")
    assert config["backends"]["cuda"] == f"available: {', '.join(DEVICES)}"
    with fastntk.options(backend="cuda"), Device(1):
        config = fastntk.show_config("dict")
    assert (config["backend"], config["isa"]) == ("cuda", DEVICES[1])


# ---------------------------------------------------------------- errors of the device


def test_results_that_do_not_fit(cuda, monkeypatch):
    monkeypatch.setattr(Device, "memory", 1 << 10)
    with pytest.raises(
        MemoryError, match=r"\[kernel_fn\] the result, 2 x \(40, 40\) float32, takes .* GiB; .* GiB are free on"
    ):
        RELU(ndarray(points("float32", 40, 3)), None, BOTH)


def test_products_that_do_not_fit(cuda, monkeypatch):
    x = points("float32", 700, 3)
    whole = RELU(ndarray(x), None, "ntk")
    out = ndarray(np.zeros((700, 700), np.float32))
    monkeypatch.setattr(Device, "memory", 300 << 10)  # less than a product of all pairs, more than the least
    assert RELU(ndarray(x), None, "ntk", out=out) is out
    assert_close(out.values, whole.values, "ntk 10", np.float32, scale=0.5 * np.abs(whole.values).max())
    monkeypatch.setattr(Device, "memory", 100 << 10)
    with pytest.raises(MemoryError, match="Out of memory allocating"):
        RELU(ndarray(x), None, "ntk", out=out)


@pytest.mark.parametrize("name", ["normalise", "run"])
def test_a_failing_launch(name, cuda):
    cuda.native.failing[name] = 0
    with pytest.raises(RuntimeError, match=rf"\[{name}\] cudaLaunchKernel: unspecified launch failure"):
        RELU(ndarray(X), None, "ntk")
    assert Device.current == 0


# ---------------------------------------------------------------- dual


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_dual(name, dtype, cuda, monkeypatch):
    monkeypatch.setattr(staged, "_DUAL", 5)
    make, args = NONLINEARITIES[name]
    rng = np.random.default_rng(1)
    q11, q22 = rng.uniform(0.5, 2, (2, 4, 1)).astype(dtype), rng.uniform(0.5, 2, 6).astype(dtype)
    q11 = q11[0]
    q12 = (np.sqrt(q11 * q22) * rng.uniform(-0.9, 0.9, (4, 6))).astype(dtype)
    layer = make(*args)
    wanted = [v.astype(dtype) for v in exact(dual.dual, layer, q11, q12, q22)]
    WAITS.clear()
    found = dual.dual(layer, ndarray(q11), ndarray(q12), ndarray(q22))
    out = tuple(ndarray(np.zeros((4, 12), dtype)[:, ::2]) for _ in range(2))
    given = dual.dual(layer, ndarray(q11), ndarray(q12), ndarray(q22), out=out)
    assert not WAITS
    assert all(a is b for a, b in zip(given, out, strict=True))
    through = dual.dual(layer, q11, q12, q22, backend="cuda")
    for k, quantity in enumerate(("k", "kdot")):
        scale = np.abs(wanted[k]).max()
        assert_close(found[k].values, wanted[k], quantity, dtype, scale=scale)
        assert same(found[k].values, out[k].values.copy())
        assert same(found[k].values, through[k])


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_dual_of_a_negative_variance(name, dtype, cuda):
    make, args = NONLINEARITIES[name]
    q = ndarray(np.array([-1e-30, -1e-3, -0.5, -100], dtype))
    for pair in (dual.dual(make(*args), q, 0.1, 1.0), dual.dual(make(*args), 1.0, 0.1, q)):
        assert all(np.isnan(value.values).all() for value in pair)


def test_dual_of_numbers(cuda):
    q = ndarray(np.array([1.0, 2.0, 3.0, np.nan], np.float32))
    WAITS.clear()
    k, _ = dual.relu(q, 0.5, 2.0)
    assert not WAITS
    assert k.dtype == np.float32
    assert np.isfinite(k.values).tolist() == [True, True, True, False]
    single = dual.relu(q[0], 0.5, 2.0)[0]
    assert isinstance(single, ndarray)
    assert single.shape == ()
    assert float(single) == k.values[0]
    assert dual.relu(q[:0], 0.5, 2.0)[0].shape == (0,)
