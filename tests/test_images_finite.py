"""Finite networks on images: against loops, and the kernels as their limit."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from fastntk import stax
from images_inputs import READOUTS, Conv, Dense, Erf, Flatten, GlobalAvgPool, Relu, conv, images, serial

SIGMAS = 4

# ---------------------------------------------------------------- finite networks against loops


def taps(size, k, stride, dilation, padding):
    """For each output position along an axis, what its taps read: a position, or None."""
    reach = (k - 1) * dilation + 1
    if padding == "VALID":
        return [[p * stride + a * dilation for a in range(k)] for p in range((size - reach) // stride + 1)]
    out = -(-size // stride)
    low = max((out - 1) * stride + reach - size, 0) // 2
    reads = [[p * stride + a * dilation - low for a in range(k)] for p in range(out)]
    if padding == "CIRCULAR":
        return [[r % size for r in row] for row in reads]
    return [[r if 0 <= r < size else None for r in row] for row in reads]


def by_loops(x, W, strides, dilation, padding):
    """Convolution of (n, *spatial, channels), one product at a time."""
    reads = [taps(*v, padding) for v in zip(x.shape[1:-1], W.shape[:-2], strides, dilation, strict=True)]
    out = np.zeros((len(x), *map(len, reads), W.shape[-1]))
    for position in itertools.product(*(range(len(r)) for r in reads)):
        for tap in itertools.product(*map(range, W.shape[:-2])):
            at = [reads[axis][p][a] for axis, (p, a) in enumerate(zip(position, tap, strict=True))]
            if None not in at:
                for n, o, c in itertools.product(range(len(x)), range(W.shape[-1]), range(x.shape[-1])):
                    out[(n, *position, o)] += x[(n, *at, c)] * W[(*tap, c, o)]
    return out


GEOMETRIES = [
    # spatial shape, filter, strides, dilation, padding
    ((5, 4), (3, 3), (1, 1), (1, 1), "SAME"),
    ((5, 4), (2, 4), (2, 3), (1, 1), "SAME"),
    ((5, 4), (3, 2), (1, 1), (2, 1), "SAME"),
    ((6, 3), (2, 2), (2, 1), (3, 2), "SAME"),
    ((5, 4), (3, 2), (2, 1), (1, 3), "VALID"),
    ((5, 4), (3, 3), (1, 2), (1, 1), "CIRCULAR"),
    ((3, 4), (5, 2), (2, 1), (1, 3), "CIRCULAR"),
    ((7,), (4,), (2,), (1,), "SAME"),
    ((7,), (3,), (1,), (2,), "VALID"),
    ((1,), (3,), (2,), (2,), "CIRCULAR"),
    ((3, 2, 4), (2, 3, 2), (1, 2, 2), (1, 1, 2), "SAME"),
]


@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
@pytest.mark.parametrize(("spatial", "shape", "strides", "dilation", "padding"), GEOMETRIES)
def test_convolution_by_loops(spatial, shape, strides, dilation, padding, parameterization):
    x = np.random.default_rng(3).standard_normal((2, *spatial, 3))
    layer = Conv(4, shape, strides, padding, 1.7, 0.3, parameterization=parameterization, dilation=dilation)
    out, (W, b) = layer.init_fn(0, x.shape)
    assert W.shape == (*shape, 3, 4)
    assert b.shape == (1,) * (len(spatial) + 1) + (4,)
    z = by_loops(x, W, strides, dilation, padding)
    expected = z + b if parameterization == "standard" else 1.7 / math.sqrt(3 * math.prod(shape)) * z + 0.3 * b
    found = layer.apply_fn((W, b), x)
    assert found.shape == out
    assert layer.init_fn(0, (-1, *x.shape[1:]))[0] == (-1, *out[1:])
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("edges", [True, False])
@pytest.mark.parametrize(("spatial", "shape", "strides", "dilation", "padding"), GEOMETRIES)
def test_pools_by_loops(spatial, shape, strides, dilation, padding, edges):
    """A pool is a convolution of ones, channel by channel."""
    if padding == "VALID":
        spatial = tuple(max(n, k) for n, k in zip(spatial, shape, strict=True))
    x = np.random.default_rng(3).standard_normal((2, *spatial, 3))
    ones = (1,) * len(shape)
    eye = np.ones((*shape, 1, 1)) * np.eye(3)
    total = by_loops(x, eye, strides, ones, padding)
    inside = by_loops(np.ones((1, *spatial, 1)), np.ones((*shape, 1, 1)), strides, ones, padding)
    taps_each = inside if edges and padding == "SAME" else math.prod(shape)
    mean, summed = stax.AvgPool(shape, strides, padding, edges), stax.SumPool(shape, strides, padding)
    for layer, expected in ((mean, total / taps_each), (summed, total)):
        out, params = layer.init_fn(0, x.shape)
        found = layer.apply_fn(params, x)
        assert found.shape == out
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)


def test_readouts_by_hand():
    x = np.random.default_rng(3).standard_normal((2, 3, 4, 5))
    first = np.moveaxis(x, -1, 1)
    cases = [
        (GlobalAvgPool(), x, x.reshape(2, 12, 5).mean(1)),
        (stax.GlobalSumPool(), x, x.reshape(2, 12, 5).sum(1)),
        (GlobalAvgPool(0, 1), first, x.reshape(2, 12, 5).mean(1)),
        (Flatten(), x, x.reshape(2, 60)),
        (Flatten(0, 1), x, x.reshape(2, 60).T),
        (Flatten(3), np.moveaxis(x, 0, 3), x.reshape(2, 60)),
    ]
    for layer, given, expected in cases:
        out, params = layer.init_fn(0, given.shape)
        found = layer.apply_fn(params, given)
        assert out == found.shape
        np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-14)


def test_dense_on_images_by_hand():
    x = np.random.default_rng(3).standard_normal((2, 3, 4, 5))
    layer = Dense(6, 1.3, 0.2)
    out, (W, b) = layer.init_fn(0, x.shape)
    assert (out, W.shape, b.size) == ((2, 3, 4, 6), (5, 6), 6)
    expected = 1.3 / math.sqrt(5) * np.einsum("nhwc,co->nhwo", x, W) + 0.2 * b.reshape(6)
    np.testing.assert_allclose(layer.apply_fn((W, b), x), expected, rtol=1e-13, atol=1e-14)


def test_channels_first_by_turning_round():
    """Weights of another order of axes, taken back to the usual one."""
    x = np.random.default_rng(3).standard_normal((2, 5, 4, 3))
    usual = Conv(4, (3, 2), (2, 1), "SAME", 1.2, 0.3, dilation=(1, 2))
    turned = Conv(
        4, (3, 2), (2, 1), "SAME", 1.2, 0.3, dilation=(1, 2), dimension_numbers=("NCHW", "OIHW", "NCHW")
    )  # fmt: skip
    out, (W, b) = turned.init_fn(0, (2, 3, 5, 4))
    assert (out, W.shape, b.shape) == ((2, 4, 3, 4), (4, 3, 3, 2), (1, 4, 1, 1))
    own = W.transpose(2, 3, 1, 0), b.reshape(1, 1, 1, 4)
    found = turned.apply_fn((W, b), np.moveaxis(x, -1, 1))
    np.testing.assert_allclose(np.moveaxis(found, 1, -1), usual.apply_fn(own, x), rtol=1e-13, atol=1e-14)


def test_filters_in_another_order_of_axes():
    """Filters, strides and dilation go by the filter's letters."""
    x = np.random.default_rng(3).standard_normal((2, 5, 4, 3))
    usual = Conv(4, (3, 2), (2, 1), "SAME", dilation=(1, 2))
    turned = Conv(4, (2, 3), (1, 2), "SAME", dilation=(2, 1), dimension_numbers=("NHWC", "WHIO", "NHWC"))
    out, (W, b) = turned.init_fn(0, x.shape)
    assert (out, W.shape, b) == ((2, 3, 4, 4), (2, 3, 3, 4), None)
    expected = usual.apply_fn((W.transpose(1, 0, 2, 3), None), x)
    np.testing.assert_allclose(turned.apply_fn((W, None), x), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("size", [(6, 5, 3), (9, 2), (1, 1, 1), (3, 4, 2, 2)])
def test_shapes_of_networks(size, dtype):
    rank = len(size) - 1
    twos = (2,) * rank
    net = serial(
        conv((3,) * rank, twos, dilation=twos), Relu(), stax.AvgPool(twos, twos, "SAME", True), conv(twos), Erf(),
        Flatten(), Dense(7),
    )  # fmt: skip
    x = images(4, size, dtype=dtype)
    out, params = net.init_fn(0, x.shape, dtype)
    y = net.apply_fn(params, x)
    assert (y.shape, y.dtype) == (out, dtype)
    assert out == (4, 7)
    assert net.init_fn(0, (-1, *size))[0] == (-1, 7)


# ---------------------------------------------------------------- the limit

WIDTH, OUT, DRAWS = 128, 128, 200  # hidden channels, outputs, networks
small = images(3, (5, 4, 2))


def check_moments(draws, kernel):
    """The mean within 4 standard errors, and sharp enough to tell."""
    error = np.std(draws, axis=0, ddof=1) / math.sqrt(len(draws))
    size = np.sqrt(np.outer(np.diag(kernel), np.diag(kernel)))
    assert np.max(error / size) < 0.02
    assert np.max(np.abs(np.mean(draws, axis=0) - kernel) / error) <= SIGMAS


# One hidden nonlinearity: the finite network's second moments are the kernel exactly, at any width.
LIMITS = {
    "gap": [stax.AvgPool((2, 2), (1, 2), "SAME", True), GlobalAvgPool()],
    "flatten": [stax.AvgPool((2, 2), (2, 1)), Flatten()],
    "sum pools": [stax.SumPool((2, 3), None, "CIRCULAR"), stax.GlobalSumPool()],
    "dilation": [],
}


@pytest.mark.parametrize("name", LIMITS)
def test_nngp_is_the_second_moment_of_finite_networks(name, backend):
    first = Conv(WIDTH, (3, 2), (1, 1), "SAME", 1.4, 0.3, dilation=(1, 2) if name == "dilation" else None)
    last = Dense(OUT, 0.9, 0.2) if LIMITS[name] else serial(Conv(OUT, (2, 2), (4, 3), dilation=(3, 2)), GlobalAvgPool())
    net = serial(first, Relu(), *LIMITS[name], last)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(DRAWS):
        _, params = net.init_fn(rng, small.shape, np.float32)
        y = net.apply_fn(params, small.astype(np.float32)).astype(np.float64)
        found.append(y @ y.T / y.shape[1])
    check_moments(np.array(found), net.kernel_fn(small, None, "nngp"))


@pytest.mark.rivals
@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
@pytest.mark.parametrize("readout", READOUTS)
def test_ntk_is_the_mean_of_finite_networks(readout, parameterization, backend):
    """Inner products of derivatives by JAX, one output."""
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    own = {"parameterization": parameterization}
    net = serial(
        Conv(512, (3, 2), None, "SAME", 1.4, 0.3, dilation=(1, 2), **own), Relu(), stax.AvgPool((2, 2), (2, 1)),
        READOUTS[readout](), Dense(1, 1.1, 0.2, **own),
    )  # fmt: skip

    def empirical(seed):
        params = net.init_fn(seed, small.shape)[1]
        jacobian = jax.jacobian(lambda p: net.apply_fn(p, jax.numpy.asarray(small))[:, 0])(params)
        leaves = [np.asarray(leaf).reshape(len(small), -1) for leaf in jax.tree_util.tree_leaves(jacobian)]
        rows = np.concatenate(leaves, axis=1)
        return rows @ rows.T

    check_moments(np.array([empirical(seed) for seed in range(40)]), net.kernel_fn(small, None, "ntk"))
