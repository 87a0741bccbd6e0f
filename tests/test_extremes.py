"""Inputs and sizes at the ends of a dtype's range: kernels against arithmetic that has no ends."""

from __future__ import annotations

import fastntk
import image_oracle
import mpmath
import numpy as np
import pytest
from fastntk import stax
from images_inputs import conv
from mpmath import mp, mpf
from tolerances import FLOOR, bound

BOTH = ("nngp", "ntk")
reaches = pytest.mark.skipif(np.finfo(np.longdouble).maxexp < 16000, reason="numpy.longdouble reaches no further")

# Of a row, beside others of size 1: products of two, and sums of some, leave the range on the way or at the end.
SIZES = {
    "float32": (1e-44, 1e-38, 1e-25, 1e-13, 1e-9, 1e9, 1e13, 3e18, 3e19, 1e30, 3e37),
    "float64": (1e-310, 1e-300, 1e-170, 1e-150, 1e-100, 1e100, 1e139, 1e150, 3e153, 1e160, 1e300),
}


# ---------------------------------------------------------------- rows, by mpmath


def relu_dual(q1, c, q2):
    r = mpmath.sqrt(q1 * q2)
    if r == 0:
        return mpf(0), mpf(0) if c else mpf(1) / 4
    cos = max(mpf(-1), min(mpf(1), c / r))
    theta = mpmath.acos(cos)
    return r * (mpmath.sin(theta) + (mp.pi - theta) * cos) / (2 * mp.pi), (mp.pi - theta) / (2 * mp.pi)


def exact_pair(net, x, y):
    """K(x, x), K(x, y), K(y, y) and NTK(x, y) of Dense and Relu layers, without an end of exponents."""
    x, y = ([mpf(float(value)) for value in row] for row in (x, y))
    dot = [sum(a * b for a, b in zip(u, v, strict=True)) / len(x) for u, v in ((x, x), (x, y), (y, y))]
    ntk, width = mpf(0), len(x)
    for layer in net.layers:
        if isinstance(layer, stax.Dense):
            w2, b2 = mpf(layer.W_std) ** 2, mpf(layer.b_std or 0) ** 2
            before, dot = dot[1], [w2 * k + b2 for k in dot]
            if layer.parameterization == "ntk":
                ntk = dot[1] + w2 * ntk
            else:
                ntk = mpf(width) / layer.s[0] * before + int(layer.b_std is not None) + w2 * ntk
            width = layer.out_dim * layer.s[1]
        else:
            q1, c, q2 = dot
            k, kdot = relu_dual(q1, c, q2)
            dot, ntk = [q1 / 2, k, q2 / 2], ntk * kdot
    return dot, ntk


def rounded(value, dtype):
    """To the dtype, beyond its range inf."""
    most = mpf(float(np.finfo(dtype).max))
    return dtype.type(np.inf if value > most else -np.inf if value < -most else float(value))


def assert_pairs(found, net, x, y):
    dtype = x.dtype
    eps = bound("ntk 10", dtype.name)
    for i, row in enumerate(x):
        for j, other in enumerate(y):
            with mp.workdps(80):
                (k11, k12, k22), ntk = exact_pair(net, row, other)
            for name, value in (("nngp", k12), ("ntk", ntk)):
                got, due = getattr(found, name)[i, j], rounded(value, dtype)
                where = f"{name}[{i}, {j}] of {dtype}: {got!r} for {mpmath.nstr(value, 8)}"
                if np.isinf(due) or np.isinf(got):
                    near = abs(value) * (1 + eps) >= float(np.finfo(dtype).max)
                    assert got == due or near, where
                    continue
                size = max(abs(value), FLOOR * mpmath.sqrt(k11 * k22))
                assert abs(mpf(float(got)) - value) <= eps * size + float(np.finfo(dtype).smallest_subnormal), where


ROWS = {
    "ntk": [stax.Dense(4, 1.4, 0.1), stax.Relu(), stax.Dense(4, 1.2, 0.3), stax.Relu(), stax.Dense(1, 1.1, 0.2)],
    "ntk, no bias": [stax.Dense(4, 1.4), stax.Relu(), stax.Dense(4, 1.2), stax.Relu(), stax.Dense(1)],
    "standard": [
        layer
        for _ in range(3)
        for layer in (stax.Dense(4, 1.3, 0.2, parameterization="standard"), stax.Relu())
    ],
    "standard, biases of 0": [
        layer
        for _ in range(3)
        for layer in (stax.Dense(4, 1.3, 0.0, parameterization="standard"), stax.Relu())
    ],
}  # fmt: skip


def rows_of(size, dtype):
    """Rows of one size beside a row of size 1, a zero row, an opposite one and a multiple."""
    x = np.random.default_rng(3).standard_normal((3, 5)) * size
    return np.concatenate([x, -x[:1], 0.25 * x[1:2], 0 * x[:1], x[2:] / size]).astype(dtype)


@reaches
@pytest.mark.parametrize("name", ROWS)
def test_rows_of_any_size(name, dtype, backend):
    if backend.startswith("cuda"):
        pytest.skip("on a device nothing waits for the lengths of rows")
    net = stax.serial(*ROWS[name])
    for size in SIZES[dtype.name]:
        x = rows_of(size, dtype)
        assert_pairs(net.kernel_fn(x, None, BOTH), net, x, x)
        assert_pairs(net.kernel_fn(x, x[-1:], BOTH), net, x, x[-1:])


def erf_dual(q1, c, q2):
    product = (1 + 2 * q1) * (1 + 2 * q2)
    return 2 / mp.pi * mpmath.asin(2 * c / mpmath.sqrt(product)), 4 / mp.pi / mpmath.sqrt(product - 4 * c * c)


@reaches
@pytest.mark.parametrize("b_std", [None, 0.2])
def test_rows_of_any_size_through_erf(b_std, dtype, backend):
    """Williams (1997) in 1,500 digits: rows of size 1e300 leave that many to cancel."""
    if backend.startswith("cuda"):
        pytest.skip("on a device nothing waits for the lengths of rows")
    net = stax.serial(stax.Dense(1, 1.4, b_std), stax.Erf(), stax.Dense(1, 1.1, b_std))
    rng = np.random.default_rng(2)
    for size in SIZES[dtype.name]:
        x, y = ((rng.standard_normal((1, 4)) * a).astype(dtype) for a in (size, 1.0))
        for one, two in ((x, y), (x, (rng.standard_normal((1, 4)) * size).astype(dtype))):
            found = net.kernel_fn(one, two, BOTH)
            with mp.workdps(1500):
                u, v = ([mpf(float(value)) for value in row[0]] for row in (one, two))
                dots = [sum(a * b for a, b in zip(*pair, strict=True)) / 4 for pair in ((u, u), (u, v), (v, v))]
                b2 = mpf(b_std or 0) ** 2
                q1, c, q2 = (mpf(1.4) ** 2 * k + b2 for k in dots)
                k, kdot = erf_dual(q1, c, q2)
                k1, k2 = erf_dual(q1, q1, q1)[0], erf_dual(q2, q2, q2)[0]
                w2 = mpf(1.1) ** 2
                for name, value in (("nngp", w2 * k + b2), ("ntk", w2 * k + b2 + w2 * c * kdot)):
                    got = getattr(found, name)[0, 0]
                    scale = max(abs(value), FLOOR * (w2 * mpmath.sqrt(k1 * k2) + b2))
                    allowed = bound("ntk 10", dtype.name) * scale + float(np.finfo(dtype).smallest_subnormal)
                    assert abs(mpf(float(got)) - value) <= allowed, (name, size, got, mpmath.nstr(value, 10))


@reaches
@pytest.mark.parametrize("nonlinearity", [stax.Relu(), stax.Erf(), stax.ABRelu(-0.3, 1.2)])
@pytest.mark.parametrize("b_std", [None, 0.2])
def test_what_belongs_to_one_row_of_any_size(nonlinearity, b_std, dtype, backend):
    """``diagonal``, ``cov1`` and ``depths`` give what the Gram has; the Gram is held to mpmath."""
    if backend.startswith("cuda"):
        pytest.skip("on a device nothing waits for the lengths of rows")
    net = stax.serial(stax.Dense(1, 1.4, b_std), nonlinearity, stax.Dense(1, 1.1, b_std), nonlinearity, stax.Dense(1))
    least = float(np.finfo(dtype).smallest_subnormal)
    for size in SIZES[dtype.name]:
        x = (np.random.default_rng(4).standard_normal((3, 4)) * size).astype(dtype)
        gram = net.kernel_fn(x, None, (*BOTH, "cov1"))
        alone = net.kernel_fn.diagonal(x, BOTH)
        depths = net.kernel_fn.depths(x, None, "ntk")
        for found, due in (
            (alone.nngp, np.diag(gram.nngp)), (alone.ntk, np.diag(gram.ntk)), (gram.cov1, np.diag(gram.nngp)),
            (depths[-1], gram.ntk),
        ):  # fmt: skip
            assert not np.isnan(due).any()
            np.testing.assert_allclose(found, due, rtol=bound("ntk 10", dtype.name), atol=4 * least)


@reaches
def test_rows_within_range_keep_their_bits_beside_one_beyond(dtype, backend):
    net = stax.serial(*ROWS["ntk"])
    x = np.random.default_rng(0).standard_normal((40, 7)).astype(dtype)
    alone = net.kernel_fn(x, None, BOTH)
    x = np.concatenate([x, x[:1] * dtype.type(SIZES[dtype.name][-1])])
    for found, due in zip(net.kernel_fn(x, None, BOTH), alone, strict=True):
        np.testing.assert_array_equal(found[:-1, :-1], due)
        np.testing.assert_array_equal(found, found.T)


@pytest.mark.parametrize("nonlinearity", [stax.Relu(), stax.Abs(), stax.LeakyRelu(0.1), stax.ABRelu(-0.3, 1.2)])
def test_large_weights_give_no_nan(nonlinearity, dtype, backend):
    """The inputs are of size 1; the network leaves float32's range."""
    if backend.startswith("cuda"):
        pytest.skip("on a device nothing waits for the lengths of rows")
    net = stax.serial(stax.Dense(1, 1e12, 0.1), nonlinearity, stax.Dense(1, 1e12), nonlinearity, stax.Dense(1))
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(dtype)
    for found in net.kernel_fn(np.concatenate([x, -x]), None, BOTH):
        assert not np.isnan(found).any()


# ---------------------------------------------------------------- images, in long double


STANDARD = {"parameterization": "standard"}
IMAGES = {
    "biases, gap": [
        conv(), stax.Relu(), conv(), stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1, 1.2, 0.1), stax.Relu(),
        stax.Dense(1),
    ],
    "biases, pool and flatten": [
        conv(), stax.Relu(), stax.AvgPool((2, 2), (2, 2)), conv(), stax.Relu(), stax.Flatten(), stax.Dense(1),
    ],
    "no bias, signs behind a pool": [
        conv(b_std=None), stax.Relu(), stax.AvgPool((2, 2), (1, 2), "SAME", True), conv(b_std=None),
        stax.LeakyRelu(-0.3), stax.GlobalAvgPool(), stax.Dense(1), stax.LeakyRelu(0.4), stax.Dense(1),
    ],
    "standard, biases of 0, gap": [
        conv(b_std=0.0, **STANDARD), stax.Relu(), conv(b_std=0.0, **STANDARD), stax.Relu(), stax.GlobalAvgPool(),
        stax.Dense(1, b_std=0.0, **STANDARD), stax.Relu(), stax.Dense(1, b_std=0.0, **STANDARD),
    ],
    "standard, biases of 0, flatten": [
        conv(b_std=0.0, **STANDARD), stax.Relu(), conv(b_std=0.3, **STANDARD), stax.Relu(), stax.Flatten(),
        stax.Dense(1, b_std=0.0, **STANDARD),
    ],
    "standard, none": [
        conv(b_std=None, **STANDARD), stax.Relu(), conv(b_std=None, **STANDARD), stax.Relu(), stax.Flatten(),
        stax.Dense(1, **STANDARD),
    ],
}  # fmt: skip


def assert_images(net, x, y=None):
    with np.errstate(over="ignore"):
        exact = image_oracle.kernels(net, x, y)
    found = net.kernel_fn(x, y, BOTH)
    eps = bound("ntk 10", x.dtype.name)
    with np.errstate(all="ignore"):
        size = np.sqrt(exact["q1"])[:, None] * np.sqrt(exact["q2"])
        for name in BOTH:
            got, due = getattr(found, name), exact[name]
            ends = np.isinf(got) & (np.abs(due) * (1 + eps) >= np.finfo(x.dtype).max) & (np.sign(got) == np.sign(due))
            allowed = eps * np.maximum(np.abs(due), FLOOR * size) + float(np.finfo(x.dtype).smallest_subnormal)
            assert (ends | (np.abs(got - due) <= allowed)).all(), (name, got, due)


def shapes_of(size, dtype, seed=0):
    """Three images: of this size, of size 1, and of size 1 with one pixel of this size."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, 5, 4, 2))
    x[0] *= size
    x[2, 2, 1] *= size
    return x.astype(dtype)


@reaches
@pytest.mark.parametrize("name", IMAGES)
def test_images_of_any_size(name, dtype, backend):
    net = stax.serial(*IMAGES[name])
    for size in SIZES[dtype.name]:
        assert_images(net, shapes_of(size, dtype))
    assert_images(net, shapes_of(SIZES[dtype.name][-3], dtype), shapes_of(SIZES[dtype.name][2], dtype, 1))


@pytest.mark.parametrize("ratio", [1e2, 1e4, 1e6, 3e6, 1e9, 1e11])
@pytest.mark.parametrize("name", ["biases, gap", "biases, pool and flatten", "no bias, signs behind a pool"])
def test_pools_of_images_of_two_sizes(name, ratio, dtype, backend):
    """What differs behind a pool is of the order of both sizes, what it is made of of the larger one's square."""
    net = stax.serial(*IMAGES[name])
    x = np.random.default_rng(5).random((4, 6, 5, 2))
    x[2:] *= ratio
    assert_images(net, x.astype(dtype))
    assert_images(net, x[:2].astype(dtype), (x[2:] * [[[[1.0, -1.0]]]]).astype(dtype))


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("where", [(0, 0), (2, 1)])
def test_a_blank_image_with_one_subnormal_pixel(name, where, dtype, backend):
    net = stax.serial(*IMAGES[name])
    x = np.random.default_rng(1).standard_normal((2, 5, 4, 2)).astype(dtype)
    x[1] = 0
    x[1][where] = np.finfo(dtype).smallest_subnormal
    for found in net.kernel_fn(x, None, BOTH):
        assert np.isfinite(found).all()
    if np.finfo(np.longdouble).maxexp > 16000:
        assert_images(net, x)


@reaches
@pytest.mark.parametrize("name", ["biases, gap", "standard, biases of 0, flatten", "standard, none"])
def test_the_diagonal_of_images_of_any_size(name, dtype, backend):
    net = stax.serial(*IMAGES[name])
    for size in SIZES[dtype.name]:
        x = shapes_of(size, dtype)
        for alone, pairs in zip(net.kernel_fn.diagonal(x, BOTH), net.kernel_fn(x, None, BOTH), strict=True):
            np.testing.assert_allclose(alone, np.diag(pairs), rtol=bound("ntk 10", dtype.name))


def test_opposite_images_beyond_squares(backend):
    """K is 0, and what it is multiplied by in the end is infinite."""
    net = stax.serial(conv(b_std=None, W_std=1.0), stax.Relu(), stax.Flatten(), stax.Dense(1))
    x = np.full((1, 3, 3, 1), 1e200)
    for plane in net.kernel_fn(np.concatenate([x, -x]), None, BOTH):
        assert not np.isnan(plane).any()
        assert np.isposinf(np.diag(plane)).all()


@reaches
def test_the_answer_does_not_depend_on_the_threads(dtype):
    net = stax.serial(*IMAGES["biases, gap"])
    x = shapes_of(SIZES[dtype.name][-2], dtype)
    with fastntk.options(num_threads=1):
        due = net.kernel_fn(x, None, BOTH)
    with fastntk.options(num_threads=5):
        for found, one in zip(net.kernel_fn(x, None, BOTH), due, strict=True):
            np.testing.assert_array_equal(found, one)
