"""What strange but legal and extreme input, interruption and company do, and within which memory."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time

import fastntk
import numpy as np
import oracles
import pytest
from boundary_inputs import BOTH, HALF, LAYOUTS, NET, REST, Dense, X, Y, all_same, kernel_fn, same, serial, swapped
from fastntk import catapult, dual, meanfield, quadrature, stax
from fastntk.engines import select
from fastntk.network.activations import NONLINEARITIES

HOMOGENEOUS = serial(
    *(Dense(8, 1.3), stax.Relu(), Dense(8, 1.1), stax.LeakyRelu(0.2)),
    *(Dense(4, 0.9, parameterization="standard"), stax.Abs(), Dense(1)),
)

# ---------------------------------------------------------------- legal and strange


def test_empty_batches(dtype, backend):
    x = X.astype(dtype)
    none = np.empty((0, 5), dtype)
    for x1, x2, shape in ((none, None, (0, 0)), (none, x, (0, 7)), (x, none, (7, 0)), (none, none, (0, 0))):
        k = kernel_fn(x1, x2)
        assert [a.shape for a in (k.nngp, k.ntk, k.cov1)] == [shape, shape, shape[:1]]
        assert {a.dtype for a in (k.nngp, k.ntk, k.cov1)} == {dtype}
        if x2 is not None:
            assert k.cov2.shape == shape[1:]
        assert kernel_fn.depths(x1, x2, "ntk").shape == (4, *shape)
        assert REST(HALF(x1, x2), None, "ntk").shape == shape
        out = np.empty(shape, dtype)
        assert kernel_fn(x1, x2, "ntk", out=out) is out
    assert [a.shape for a in kernel_fn.diagonal(none)] == [(0,), (0,)]
    for shape, gram in (((0, 7, 5), (0, 7, 7)), ((3, 0, 5), (3, 0, 0)), ((0, 0, 5), (0, 0, 0))):
        assert kernel_fn(np.empty(shape, dtype), None, "ntk", batch_dims=1).shape == gram
        assert kernel_fn.diagonal(np.empty(shape, dtype), "ntk", batch_dims=1).shape == gram[:2]
        assert kernel_fn.depths(np.empty(shape, dtype), get="ntk", batch_dims=1).shape == (4, *gram)


def test_one_row_and_one_feature(dtype, backend):
    x = X.astype(dtype)
    whole = kernel_fn(x, None, BOTH)
    assert all_same(kernel_fn(x[:1], None, BOTH), [k[:1, :1].copy() for k in whole])
    assert kernel_fn(x[:, :1], None, "ntk").shape == (7, 7)
    assert np.isfinite(kernel_fn(x[:, :1], None, "ntk")).all()


@pytest.mark.parametrize("given", [np.int8, np.int64, np.uint8, np.uint64, np.int32, bool])
def test_integers_and_bool_count_as_float64(given, backend):
    x = np.random.default_rng(0).integers(0, 2 if given is bool else 100, (6, 4)).astype(given)
    before = x.copy()
    found = kernel_fn(x, None, BOTH)
    assert all_same(found, kernel_fn(x.astype(np.float64), None, BOTH))
    assert all_same(kernel_fn(x, x[:3].astype(np.float64), BOTH), kernel_fn(x.astype(float), x[:3].astype(float), BOTH))
    assert all_same(kernel_fn.diagonal(x), [np.diag(k).copy() for k in found])
    assert same(x, before)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_layouts_of_inputs(layout, dtype, backend):
    x, y = X.astype(dtype), Y.astype(dtype)
    own = layout(x)
    memory = own if own.base is None else own.base
    before = memory.tobytes()
    assert all_same(kernel_fn(own, None, BOTH), kernel_fn(x, None, BOTH))
    assert all_same(kernel_fn(own, layout(y), BOTH), kernel_fn(x, y, BOTH))
    assert all_same(kernel_fn.diagonal(own), kernel_fn.diagonal(x))
    assert all_same(kernel_fn.depths(own, layout(y)), kernel_fn.depths(x, y))
    assert {k.dtype for k in kernel_fn(own, None, BOTH)} == {dtype}
    batch = np.stack([x, 2 * x])
    assert all_same(
        kernel_fn(np.stack([layout(x), layout(2 * x)]), None, BOTH, batch_dims=1),
        kernel_fn(batch, None, BOTH, batch_dims=1),
    )
    turned = batch.transpose(2, 1, 0).copy().transpose(2, 1, 0)
    assert all_same(kernel_fn(turned, None, BOTH, batch_dims=1), kernel_fn(batch, None, BOTH, batch_dims=1))
    assert memory.tobytes() == before


def test_a_byte_swapped_and_a_native_set(dtype, backend):
    x, y = X.astype(dtype), Y.astype(dtype)
    assert all_same(kernel_fn(swapped(x), y, BOTH), kernel_fn(x, y, BOTH))


def test_broadcast_rows(dtype, backend):
    x = np.broadcast_to(X[:1].astype(dtype), (6, 5))
    assert all_same(kernel_fn(x, None, BOTH), kernel_fn(x.copy(), None, BOTH))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_stay_in_their_rows_and_columns(bad, dtype, backend):
    x, y = X.astype(dtype), Y.astype(dtype)
    hurt = x.copy()
    hurt[1, 3] = bad  # a row that had a copy and a near-duplicate
    others = [0, 2, 3, 4, 5, 6]
    rows = np.ix_(others, others)
    clean, found = kernel_fn(x), kernel_fn(hurt)
    for field in BOTH:
        a, b = getattr(found, field), getattr(clean, field)
        assert same(a[rows], b[rows])
        assert not np.isfinite(a[1]).any()
        assert not np.isfinite(a[:, 1]).any()
    assert same(found.cov1[others], clean.cov1[others])
    assert not np.isfinite(found.cov1[1])
    for first, second, index in ((hurt, y, (1, slice(None))), (y, hurt, (slice(None), 1))):
        clean, found = (kernel_fn(*args, BOTH) for args in ((x, y) if second is y else (y, x), (first, second)))
        for a, b in zip(found, clean, strict=True):
            assert not np.isfinite(a[index]).any()
            assert same(np.delete(a, 1, axis=index.index(1)), np.delete(b, 1, axis=index.index(1)))
    assert all(not np.isfinite(k[1]) for k in kernel_fn.diagonal(hurt))
    assert all_same([k[others] for k in kernel_fn.diagonal(hurt)], [k[others] for k in kernel_fn.diagonal(x)])
    whole, pair = (
        kernel_fn(np.stack([x, hurt]), None, "ntk", batch_dims=1),
        kernel_fn(np.stack([x, x]), None, "ntk", batch_dims=1),
    )
    assert same(whole[0], pair[0])
    assert same(whole[1][rows], pair[1][rows])
    assert all_same(REST(HALF(hurt), None, BOTH), kernel_fn(hurt, None, BOTH))


def test_a_nan_in_a_kernels_covariances_stays_there(dtype, backend):
    k = HALF(X.astype(dtype), Y.astype(dtype))
    clean = REST(k.replace(nngp=k.nngp.copy()), None, BOTH)
    nngp = k.nngp.copy()
    nngp[2, 1] = np.nan
    for a, b in zip(REST(k.replace(nngp=nngp), None, BOTH), clean, strict=True):
        assert np.isnan(a[2, 1])
        a[2, 1] = b[2, 1]
        assert same(a, b)


def test_a_zero_row_counts_as_uncorrelated_all_the_way(dtype, backend):
    """Its NTK is of biases: erf'(0) E erf'(z) = (4 / pi) / sqrt(1 + 2 q), and means of a leaky rectifier's slopes."""
    x = np.array([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]], dtype)
    first = Dense(2, 1.0, 0.0, parameterization="standard")
    net = serial(first, stax.Erf(), Dense(2), stax.LeakyRelu(0.2), Dense(1))
    q = np.array([0.0, 2.5, 0.0])
    found = net.kernel_fn(x, None, "ntk")
    assert np.allclose(found[0], 0.36 * 4 / np.pi / np.sqrt(1 + 2 * q), rtol=4 * np.finfo(dtype).eps, atol=0)
    assert same(found, found.T)
    assert same(net.kernel_fn.diagonal(x, "ntk"), np.diag(found).copy())


# ---------------------------------------------------------------- extreme numbers

# 1e-320 is subnormal: what comes of it has few digits, and is not tried.
EXTREMES = (1e-300, 1e-200, 1e-20, 1.0, 1e20, 1e200, 1e300)


def exact_duals(layer, q11, q12, q22):
    """k and kdot in the oracle's digits, before they are rounded."""
    found = [oracles.covariance_dual(layer, *map(oracles.mp.mpf, q)) for q in zip(q11, q12, q22, strict=True)]
    return np.array(found, dtype=object).T


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_dual_of_extreme_variances(name, backend):
    """Each is a quotient of numbers in range, though their products are not."""
    layer = oracles.example(name)
    # rho below 1 in absolute value, and exactly 1; where erf's kdot is below the smallest number, 0 is right.
    q11, q22, rho = (a.ravel() for a in np.meshgrid(EXTREMES, EXTREMES, [-0.75, 0.0, 0.25, 0.9, 1.0]))
    keep = (rho < 1) | (q11 == q22)
    keep &= np.maximum(q11, q22) <= layer.largest_variance
    q11, q22, rho = q11[keep], q22[keep], rho[keep]
    q12 = rho * (np.sqrt(q11) * np.sqrt(q22))
    q12[rho == 1] = q11[rho == 1]
    ends = np.array([exact_duals(layer, q, q, q).astype(float) for q in (q11, q22)])
    inside = (np.isfinite(ends).all(axis=1) & (ends[:, 0] >= np.finfo(np.float64).tiny)).all(axis=0)  # powers leave it
    assert inside.all() or not layer.homogeneous
    q11, q12, q22, ends = q11[inside], q12[inside], q22[inside], ends[..., inside]
    found = dual.dual(layer, q11, q12, q22)
    exact = exact_duals(layer, q11, q12, q22).astype(float)
    for k, what in enumerate(("k", "kdot")):
        scale = np.maximum(np.abs(exact[k]), 0.1 * np.sqrt(ends[0][k]) * np.sqrt(ends[1][k]))
        scale = np.maximum(scale, np.finfo(np.float64).tiny)
        assert np.max(np.abs(found[k] - exact[k]) / scale) <= 1e-14, what


@pytest.mark.parametrize("spread", ["one scale", "each its own"])
def test_extreme_norms(spread, dtype, backend):
    """Of powers of two: a homogeneous network's kernel scales with them, to the last bit."""
    largest = {"float32": 60, "float64": 480}[dtype.name]
    x = X.astype(dtype)
    if spread == "one scale":
        powers = [np.full(7, p) for p in (largest, -largest)]
    else:
        powers = [np.array([largest, 0, -largest, 3, -largest, largest, -5])]
    base = HOMOGENEOUS.kernel_fn(x, None, BOTH)
    for power in powers:
        c = dtype.type(2.0) ** power.astype(dtype)
        found = HOMOGENEOUS.kernel_fn(c[:, None] * x, None, BOTH)
        assert all_same(found, [c[:, None] * k * c for k in base])
        assert all_same(HOMOGENEOUS.kernel_fn.diagonal(c[:, None] * x), [np.diag(k).copy() for k in found])


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_extreme_norms_of_any_network(name, dtype, backend):
    """From tiny to huge, against the formulas in 100 digits; no two rows are copies, the diagonal is."""
    layer = oracles.example(name)
    net = serial(Dense(1, 1.3, 0.2), layer, Dense(1, 1.1, 0.1))
    far, promised = {"float32": (1e18, 2e-6), "float64": (1e150, 1e-12)}[dtype.name]
    mp = oracles.mp
    w1, b1, w2, b2 = (mp.mpf(v) ** 2 for v in (1.3, 0.2, 1.1, 0.1))
    for scale in (far, 1e4, 1e-4, 1 / far):
        x = (X[[0, 2, 3, 4, 5]] * scale).astype(dtype)
        rows = [[mp.mpf(float(v)) for v in row] for row in x]
        K = np.array([[w1 * mp.fdot(a, b) / 5 + b1 for b in rows] for a in rows], dtype=object)
        q = np.broadcast_to(np.diag(K), K.shape)
        k, kdot = (v.reshape(K.shape) for v in exact_duals(layer, q.T.ravel(), K.ravel(), q.ravel()))
        nngp = w2 * k + b2
        both = nngp, nngp + w2 * K * kdot
        largest = max(np.diag(values).max() for values in both)
        if max(np.diag(K)) > layer.largest_variance or largest > np.finfo(dtype).max / 4:
            assert not layer.homogeneous
            continue
        for found, exact in zip(net.kernel_fn(x, None, BOTH), both, strict=True):
            length = np.array([float(mp.sqrt(v)) for v in np.diag(exact)])  # their squares may leave the range
            size = np.outer(length, length)
            error = np.abs((found - exact).astype(float)) / np.maximum(np.abs(exact.astype(float)), 0.1 * size)
            assert np.max(error) <= promised, scale


@pytest.mark.parametrize("scale", [1e19, 1e25, 3e37])
def test_float32_beyond_its_squares(scale, backend):
    """K of the first layer is above float32's range, what Erf makes of it and its NTK are not."""
    net = serial(Dense(1, 1.4, 0.1), stax.Erf(), Dense(1))
    x, y = (scale * X).astype(np.float32), X.astype(np.float32)
    for second in (None, y):
        wide = net.kernel_fn(x.astype(float), None if second is None else second.astype(float), BOTH, backend="numpy")
        for found, expected in zip(net.kernel_fn(x, second, BOTH), wide, strict=True):
            assert found.dtype == np.float32
            if backend.startswith("cuda"):  # nobody waits there for the lengths of rows: infinite on the way
                assert not np.isnan(found).any()
                expected = np.where(np.isinf(found), found, expected)
            np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("scale", [1e150, 1e160, 1e300])
def test_float64_beyond_its_squares(scale, backend):
    """Where K itself leaves the range, Erf's NNGP does not, and its NTK is a number or infinite, never NaN."""
    net = serial(Dense(1, 1.4, 0.1), stax.Erf(), Dense(1))
    nngp, ntk = net.kernel_fn(scale * X, None, BOTH)
    limit = net.kernel_fn(1e100 * X, None, "nngp")
    np.testing.assert_allclose(nngp, limit, rtol=1e-12, atol=1e-15)
    assert not np.isnan(ntk).any()


def test_a_tiny_variance_is_not_zero(backend):
    """A trained bias of standard deviation 0 gives an NTK where K vanishes: the angle must not be lost with K."""
    x = (1e-23 * X).astype(np.float32)  # K is about 1e-46, which float32 does not hold
    net = serial(Dense(4, 1.3, 0.0, parameterization="standard"), stax.Relu(), Dense(1))
    expected = net.kernel_fn(x.astype(np.float64), None, "ntk", backend="numpy")
    assert np.max(np.abs(net.kernel_fn(x, None, "ntk") / expected - 1)) < 1e-5


def test_zero_rows(dtype, backend):
    x = X.astype(dtype)
    x[3] = 0
    nngp, ntk = serial(Dense(1, 1.3), stax.Relu(), Dense(1), stax.Erf(), Dense(1)).kernel_fn(x, None, BOTH)
    for k in (nngp, ntk):
        assert not k[3].any()
        assert not k[:, 3].any()
        assert np.isfinite(k).all()
    nngp, ntk = kernel_fn(x, None, BOTH)
    assert np.isfinite(nngp).all()
    assert np.isfinite(ntk).all()
    assert (nngp[3] > 0).all()


def test_subnormal_inputs(dtype, backend):
    smallest = np.finfo(dtype).smallest_subnormal
    x = X.astype(dtype)
    x[2], x[3] = smallest, 3 * smallest
    x[4] *= np.finfo(dtype).tiny
    for net in (NET, HOMOGENEOUS):
        for args in ((x, None), (x, Y.astype(dtype)), (x[2:5], None)):
            k = net.kernel_fn(*args)
            assert not any(np.isnan(a).any() for a in (k.nngp, k.ntk, k.cov1))
        assert not any(np.isnan(k).any() for k in net.kernel_fn.diagonal(x))
    ordinary = [0, 1, 5, 6]
    rows = np.ix_(ordinary, ordinary)
    for a, b in zip(kernel_fn(x, None, BOTH), kernel_fn(X.astype(dtype), None, BOTH), strict=True):
        assert same(a[rows], b[rows])


def test_overflow_of_the_true_value(dtype, backend):
    """Infinite where the kernel is too large for the dtype, without a warning; correlations here are not negative."""
    too_large = {"float32": 1e25, "float64": 1e200}[dtype.name]
    x = np.abs(X).astype(dtype)
    net = serial(Dense(1, 1.3, 0.2), stax.Relu(), Dense(1, 1.1, 0.1))
    clean = net.kernel_fn(x)
    loud = x.copy()
    loud[4:] *= dtype.type(too_large)
    found = net.kernel_fn(loud)
    for field in BOTH:
        a = getattr(found, field)
        assert not np.isnan(a).any()
        assert np.isposinf(a[4:, 4:]).all()
        assert same(a[:4, :4].copy(), getattr(clean, field)[:4, :4].copy())
    assert np.isposinf(found.cov1[4:]).all()
    assert same(found.cov1[:4].copy(), clean.cov1[:4].copy())
    assert all(np.isposinf(k[4:]).all() for k in net.kernel_fn.diagonal(loud))
    across = net.kernel_fn(x[:3], loud)
    assert not np.isnan(across.ntk).any()
    assert np.isposinf(across.cov2[4:]).all()


def test_overflow_in_kernel_arithmetic():
    """Infinite too, and silently."""
    k = HALF(np.abs(X).astype(np.float32))
    for loud in (k * 1e30, k / 1e-30, k + 1e30):
        assert np.isposinf(loud.nngp).all()
        assert np.isposinf(loud.cov1).all()
        assert loud.nngp.dtype == np.float32
    assert np.isposinf((k * 1e30).ntk).all()


def test_overflow_in_dual_maps(backend):
    single = np.full(2, 1e38, np.float32)
    assert np.isposinf(dual.abrelu(single, single, single, 3.0, 3.0)[0]).all()
    assert np.isposinf(dual.erf(single, single, single, 1e30)[0]).all()
    dual.relu(1e300, single, single)  # a variance beyond float32: no warning either


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize(
    "call",
    [
        lambda x: kernel_fn(x, None, "ntk"),
        lambda x: kernel_fn(x),
        lambda x: kernel_fn(x, x, BOTH),
        lambda x: kernel_fn.depths(x),
        lambda x: kernel_fn(np.broadcast_to(x, (10, *x.shape)), None, "ntk", batch_dims=1),
        lambda x: stax.parallel(NET, NET).kernel_fn((x, x), None, "ntk"),
    ],
)
def test_a_result_larger_than_memory(call):
    """Told with its size, before any row is read: 10 million of them are one in memory."""
    x = np.broadcast_to(np.ones((1, 4), np.float32), (10**7, 4))
    start = time.monotonic()
    with pytest.raises(MemoryError, match=r"10000000.*GiB"):
        call(x)
    assert time.monotonic() - start < 1


def test_the_diagonal_of_many_rows_needs_their_memory_only():
    """Two numbers a row come back; a stack of 30 layers may not keep tables of all rows at once."""
    code = """
        import resource, sys
        import numpy as np
        from fastntk import stax
        layers = [stax.Dense(1, 1.4, 0.1), stax.Erf()] * 30
        kernel_fn = stax.serial(*layers, stax.Dense(1)).kernel_fn
        x = np.ones((1_000_000, 2))
        kernel_fn.diagonal(x[:10])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kernel_fn.diagonal(x)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
        """
    pytest.importorskip("resource", reason="no resource module on this system")
    if sys.platform == "darwin":
        pytest.skip("ru_maxrss counts bytes here")
    grown = float(run(code).stdout)
    assert grown < 16 + 200  # the two outputs, and the allowance of large Grams


def test_threads_without_work_take_no_memory():
    code = """
        import resource
        import numpy as np
        from fastntk import stax
        kernel_fn = stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1)).kernel_fn
        x = np.ones((600, 8))
        kernel_fn(x, None, "ntk", num_threads=2)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kernel_fn(x, None, "ntk", num_threads=4096)
        kernel_fn(x, None, "ntk", num_threads=2**40)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
        """
    pytest.importorskip("resource", reason="no resource module on this system")
    if sys.platform == "darwin":
        pytest.skip("ru_maxrss counts bytes here")
    assert float(run(code).stdout) < 100


# ---------------------------------------------------------------- interruption, threads, fork


def run(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done


LONG = """
import signal, sys, time
import numpy as np
import fastntk
from fastntk import stax

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs start with Ctrl-C ignored
backend, what = sys.argv[1:]
layers = [stax.Dense(1, 1.4, 0.1), stax.Erf()] * 30
kernel_fn = stax.serial(*layers, stax.Dense(1)).kernel_fn
rng = np.random.default_rng(0)
many = backend == "cpu"
if what == "gram":
    x = rng.standard_normal((12_000 if many else 4_000, 16))
    call = lambda: kernel_fn(x, None, "ntk")
elif what == "wide":
    x = rng.random((3_000, 20_000), dtype=np.float32)
    call = lambda: kernel_fn(x, None, "ntk")
elif what == "copies":
    x = np.ones((3_000, 3_000))
    call = lambda: kernel_fn(x, None, "ntk")
elif what == "diagonal":
    x = np.broadcast_to(rng.standard_normal((30_000, 4)), (100, 30_000, 4)).reshape(-1, 4)
    call = lambda: kernel_fn.diagonal(x)
elif what == "batches":
    x = np.broadcast_to(rng.standard_normal((50, 50, 16)), (1_000 if many else 50, 50, 50, 16)).reshape(-1, 50, 16)
    call = lambda: kernel_fn(x, None, "ntk", batch_dims=1)
elif what in ("pair", "tables"):
    # one pair of images takes seconds; behind a mean, so does the variance of one image
    blocks = [stax.Conv(1, (3, 3), padding="SAME"), stax.Relu()] * 3
    head = [stax.GlobalAvgPool(), stax.Dense(1)] + [stax.Relu(), stax.Dense(1)] * (what == "tables")
    image_fn = stax.serial(*blocks, *head).kernel_fn
    image = rng.random((1, 224, 224, 3), dtype=np.float32)
    for dtype in (np.float32, np.float64):
        image_fn.explain(image.shape, dtype)  # plans are kept
    call = lambda: image_fn(image, None, "ntk", num_threads=1)
elif what == "deep":
    deep = stax.serial(*[stax.Dense(1, 1.4), stax.Relu()] * 20_000, stax.Dense(1)).kernel_fn
    x = rng.standard_normal((300, 4))
    deep(x[:2], None, "ntk")
    call = lambda: deep(x, None, "ntk", num_threads=1)
with fastntk.options(backend=backend):
    kernel_fn(np.eye(3), None, "ntk")
    print("ready", flush=True)
    try:
        call()
        print("finished", flush=True)
    except KeyboardInterrupt:
        print(time.monotonic(), flush=True)
    print(kernel_fn(np.eye(3), None, "ntk").shape, flush=True)
"""

# Not cuda: a device is faster than the interruption, and no CUDA library outlives a fork.
BACKENDS = [name for name, state in select.availability().items() if state.startswith("available") and name != "cuda"]


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to a child process on Windows")
@pytest.mark.parametrize(
    ("name", "what"),
    [(name, what) for what in ("gram", "wide", "copies", "diagonal", "batches") for name in BACKENDS]
    + [(name, what) for what in ("pair", "tables", "deep") for name in BACKENDS if name == "cpu"],
)
def test_interruption(name, what):
    """Seen within half a second; best of three, for machines with other work. Then the interpreter goes on."""
    import signal

    took = []
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", LONG, name, what], stdout=subprocess.PIPE, text=True)
        with child:
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.2)
            start = time.monotonic()
            child.send_signal(signal.SIGINT)
            when, after = child.stdout.read().splitlines()
        assert child.returncode == 0
        assert when != "finished", "the call was too short to interrupt"
        assert after == "(3, 3)"
        took.append(float(when) - start)
        if took[-1] <= 0.5:
            break
    assert min(took) <= 0.5, took


def test_threads_at_once(dtype, backend):
    x = np.random.default_rng(1).standard_normal((200, 20)).astype(dtype)
    expected = kernel_fn(x, None, BOTH)
    name, _, isa = backend.partition(":")
    found = []

    def work():
        with fastntk.options(backend=name, isa=isa or None, num_threads=2):
            for _ in range(5):
                found.append(kernel_fn(x, None, BOTH))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert all(all_same(k, expected) for k in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("name", BACKENDS)
def test_fork_after_use(name):
    """A child of a process that has used threads computes the same, with threads of its own; so does a grandchild."""
    code = """
        import os, sys
        import numpy as np
        import fastntk
        from fastntk import stax
        kernel_fn = stax.serial(stax.Dense(1, 1.3, 0.2), stax.Relu(), stax.Dense(1)).kernel_fn
        x = np.random.default_rng(0).standard_normal((400, 200))
        def work():
            with fastntk.options(backend=sys.argv[1], num_threads=2):
                return kernel_fn(x, None, "ntk")
        expected = work()
        def child(generation):
            pid = os.fork()
            if pid == 0:
                right = np.array_equal(work(), expected)
                os._exit(child(generation - 1) if right and generation else int(not right))
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of forks beside threads
        print([child(1), child(0), np.array_equal(work(), expected)])
        """
    assert run(code, name).stdout == "[0, 0, True]\n"


def test_masked_and_complex_numbers_are_refused():
    """By the theories too: a masked entry has no value, and no imaginary part is dropped."""
    masked, gram = np.ma.array([0.1, 0.5], mask=[False, True]), np.array([[2.0, 1.0], [1.0, 2.0]])
    for call in (
        lambda: meanfield.q_star("tanh", masked, 0.1),
        lambda: quadrature.expectation(np.tanh, masked),
        lambda: catapult.phase(masked),
        lambda: catapult.thresholds(np.ma.array(gram, mask=gram == 1)),
        lambda: catapult.step(masked, 1.0, 0.1, 10),
    ):
        with pytest.raises(TypeError, match="masked array"):
            call()
    for call in (
        lambda: quadrature.expectation(np.tanh, np.array([0.1j])),
        lambda: catapult.phase(np.array([1 + 1j])),
        lambda: catapult.thresholds(gram * (1 + 1j)),
    ):
        with pytest.raises(TypeError, match="real"):
            call()
