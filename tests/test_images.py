"""Networks on images, signals and volumes: kernels against their definition, hard images, invariances, refusals."""

from __future__ import annotations

import math

import fastntk
import image_oracle
import numpy as np
import pytest
from fastntk import stax
from helpers import assert_close, assert_same, same
from images_inputs import READOUTS, Conv, Dense, Erf, Flatten, GlobalAvgPool, Relu, conv, images, serial
from tolerances import EPS, FLOOR

BOTH = ("nngp", "ntk")

# What images promise on every entry, 21 layers deep.
DEEP = {"float32": 2e-6, "float64": 1e-12}


def size_of(q1, q2):
    """Standard deviations of both inputs, multiplied for every pair, (n1, n2) or (n1, n2, h, h', w, w')."""
    axes = range(1, q1.ndim)
    q1 = np.expand_dims(q1, [1, *(2 * a + 1 for a in axes)])
    q2 = np.expand_dims(q2, [0, *(2 * a for a in axes)])
    return np.sqrt(q1 * q2)


def check(found, exact, dtype):
    """Both kernels against the oracle's."""
    scale = FLOOR * size_of(exact["q1"], exact["q2"])
    for name in BOTH:
        assert_close(getattr(found, name), exact[name], f"{name} 10", dtype, scale=scale)


def relative(found, expected):
    """Largest relative error."""
    return np.max(np.abs(found.astype(float) - expected) / np.abs(expected))


# ---------------------------------------------------------------- numbers from elsewhere

# Derived numbers of the theory notes, section 1.2: (nngp, ntk), 15 decimals, rounded.
NOTES = [
    ((3, 3), "SAME", "gap", 0.181317010174003, 0.272970691744490),
    ((3, 3), "SAME", "flatten", 0.205496153218683, 0.330434537768732),
    ((3, 3), "CIRCULAR", "gap", 0.337303958678800, 0.532667888599090),
    ((3, 3), "CIRCULAR", "flatten", 0.336724857339003, 0.526346543605553),
    ((2, 2), "VALID", "gap", 0.332717040135561, 0.509179420278399),
    ((2, 2), "VALID", "flatten", 0.332414835696758, 0.508378536654035),
]


def notes(shape, padding, readout):
    """The network and the two images of those numbers."""
    h, w = np.meshgrid(np.arange(4.0), np.arange(4.0), indexing="ij")
    conv = Conv(8, shape, None, padding, math.sqrt(2), math.sqrt(0.1))
    net = serial(conv, Relu(), conv, Relu(), READOUTS[readout](), Dense(1))
    return net, np.cos(h + 2 * w)[None, ..., None], np.sin(2 * h - w)[None, ..., None]


@pytest.mark.parametrize(("shape", "padding", "readout", "nngp", "ntk"), NOTES)
def test_numbers_of_the_notes(shape, padding, readout, nngp, ntk, backend):
    net, x, y = notes(shape, padding, readout)
    found = net.kernel_fn(x, y, BOTH)
    assert_close(found.nngp, [[nngp]], "printed", "float64")
    assert_close(found.ntk, [[ntk]], "printed", "float64")


@pytest.mark.parametrize(("shape", "padding", "readout", "nngp", "ntk"), NOTES)
def test_the_oracle_gives_the_numbers_of_the_notes(shape, padding, readout, nngp, ntk):
    net, x, y = notes(shape, padding, readout)
    found = image_oracle.kernels(net, x, y)
    assert_close(found["nngp"], [[nngp]], "printed", "float64")
    assert_close(found["ntk"], [[ntk]], "printed", "float64")


def wide_block(stride, project):
    body = serial(Relu(), conv(strides=(stride, stride)), Relu(), conv(b_std=None))
    shortcut = conv((1, 1), (stride, stride), b_std=None) if project else stax.Identity()
    return serial(stax.FanOut(2), stax.parallel(body, shortcut), stax.FanInSum())


NETWORKS = {
    "dilation, gap": serial(
        conv(dilation=(2, 1)), Relu(), conv((2, 3), (2, 1), dilation=(3, 2)), Erf(), GlobalAvgPool(), Dense(1, 1.2, 0.1)
    ),
    "dilation, VALID, flatten": serial(
        conv((2, 3), padding="VALID", dilation=(2, 1)), Relu(), conv((2, 2), padding="VALID", dilation=(2, 2)), Relu(),
        Flatten(), Dense(1, 1.1),
    ),
    "dilation, CIRCULAR": serial(
        conv(padding="CIRCULAR", dilation=(2, 3)), Relu(), conv((2, 2), (2, 1), "CIRCULAR", dilation=(5, 4)), Relu(),
        GlobalAvgPool(), Dense(1),
    ),
    "dilation before pools": serial(
        conv(dilation=(2, 2)), Relu(), stax.AvgPool((2, 3), (2, 1), "SAME", True), conv((2, 2), dilation=(2, 1)),
        Relu(), stax.SumPool((2, 2)), Flatten(), Dense(1, 0.7),
    ),
    "erf and pools": serial(
        conv(W_std=1.5), Erf(), stax.AvgPool((3, 2), (1, 2), "CIRCULAR"), conv((2, 2)), Erf(1.2, 0.8, 0.3),
        stax.AvgPool((2, 2), None, "SAME"), stax.GlobalSumPool(), Dense(1, 0.2),
    ),
    "no bias": serial(
        conv(b_std=None), Relu(), conv(b_std=None, strides=(2, 2)), stax.LeakyRelu(0.3), Flatten(), Dense(1)
    ),
    "standard, dilation": serial(
        conv(parameterization="standard", dilation=(2, 1)), Relu(),
        conv((2, 2), b_std=0.0, parameterization="standard", s=(1, 2)), stax.Abs(), GlobalAvgPool(),
        Dense(1, 1.1, parameterization="standard", s=(2, 1)),
    ),
    "residual, gap": serial(
        conv(), wide_block(2, True), wide_block(1, False), Relu(), stax.AvgPool((2, 2)), GlobalAvgPool(), Dense(1)
    ),
    "residual, flatten": serial(
        conv(), wide_block(1, True), wide_block(2, True), stax.ABRelu(-0.4, 1.1), Flatten(), Dense(1)
    ),
    "positions": serial(conv(), Relu(), conv((2, 2), (2, 1), dilation=(1, 2))),
    "positions, ends in relu": serial(conv(), Relu(), stax.AvgPool((2, 2), (2, 2), "SAME", True), conv((1, 2)), Relu()),
    "the input's own": stax.Identity(),
    "a pool alone": stax.AvgPool((2, 3), (2, 1), "SAME", True),
}  # fmt: skip
NETWORKS["relu behind a relu's pool"] = serial(
    conv(), Relu(), stax.AvgPool((2, 2), (1, 2), "SAME"), Dense(3, 1.2), Relu(), stax.SumPool((2, 1)), conv((1, 1)),
    stax.LeakyRelu(-0.5), GlobalAvgPool(), Dense(3, 1.1, 0.2), Relu(), Dense(1),
)  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_two_sets(name, dtype, backend):
    x1, x2 = images(3, dtype=dtype), images(2, seed=1, dtype=dtype)
    found = NETWORKS[name].kernel_fn(x1, x2, BOTH)
    check(found, image_oracle.kernels(NETWORKS[name], x1, x2), dtype)


@pytest.mark.parametrize("name", NETWORKS)
def test_one_set(name, dtype, backend):
    """The diagonal too: the oracle knows a position and itself for the same."""
    x = images(4, dtype=dtype)
    check(NETWORKS[name].kernel_fn(x, None, BOTH), image_oracle.kernels(NETWORKS[name], x), dtype)


@pytest.mark.parametrize("shape", [(7, 2), (1, 3), (3, 2, 4, 2), (1, 1, 2)])
@pytest.mark.parametrize("readout", READOUTS)
def test_other_numbers_of_axes(shape, readout, dtype, backend):
    rank = len(shape) - 1
    ones, twos = (1,) * rank, (2,) * rank
    net = serial(
        conv((3, 2, 2)[:rank], dilation=(1, 2, 1)[:rank]), Relu(), stax.AvgPool(twos, ones, "SAME", True),
        conv(twos, (2, 1, 1)[:rank], "CIRCULAR"), Relu(), READOUTS[readout](), Dense(1, 1.2),
    )  # fmt: skip
    x1, x2 = images(3, shape, dtype=dtype), images(2, shape, 1, dtype)
    check(net.kernel_fn(x1, x2, BOTH), image_oracle.kernels(net, x1, x2), dtype)


@pytest.mark.parametrize("readout", ["gap", "flatten", None])
def test_channels_first(readout, dtype, backend):
    """The same numbers from the same images turned round."""
    last = [conv((3, 2), (2, 1)), stax.AvgPool((2, 2), (1, 2), "SAME", True), conv((2, 2), dilation=(2, 1))]
    spec = {"dimension_numbers": ("NCHW", "OIHW", "NCHW")}
    pool = stax.AvgPool((2, 2), (1, 2), "SAME", True, batch_axis=0, channel_axis=1)
    first = [conv((3, 2), (2, 1), **spec), pool, conv((2, 2), dilation=(2, 1), **spec)]
    ends = {
        "gap": ([GlobalAvgPool(), Dense(1)], [GlobalAvgPool(0, 1), Dense(1)]),
        "flatten": ([Flatten(), Dense(1)],) * 2,
        None: ([], []),
    }[readout]
    a, b = (serial(c1, Relu(), p, c2, Relu(), *end) for (c1, p, c2), end in zip((last, first), ends, strict=True))
    x1, x2 = images(3, dtype=dtype), images(2, seed=1, dtype=dtype)
    turned = b.kernel_fn(np.moveaxis(x1, -1, 1), np.moveaxis(x2, -1, 1), BOTH)
    check(turned, image_oracle.kernels(b, x1, x2), dtype)
    assert_same(turned, a.kernel_fn(x1, x2, BOTH))


# ---------------------------------------------------------------- one pixel, one tap: dense networks


@pytest.mark.parametrize("readout", READOUTS)
def test_one_pixel_is_a_dense_network(readout, dtype, backend):
    """SAME around one pixel: one of nine taps is inside; CIRCULAR: all nine read it."""
    x1, x2 = images(5, (1, 1, 6), dtype=dtype), images(3, (1, 1, 6), 1, dtype)
    net = serial(
        conv(W_std=1.5), Relu(), conv(padding="CIRCULAR", W_std=1.2), stax.AvgPool((2, 2), None, "CIRCULAR"), Erf(),
        stax.AvgPool((3, 3), (2, 2), "SAME", True), READOUTS[readout](), Dense(1, 1.1),
    )  # fmt: skip
    dense = serial(Dense(4, 0.5, 0.1), Relu(), Dense(4, 1.2, 0.1), Erf(), Dense(1, 1.1))
    for found, expected in zip(
        net.kernel_fn(x1, x2, BOTH), dense.kernel_fn(x1[:, 0, 0], x2[:, 0, 0], BOTH), strict=True
    ):
        assert_close(found, expected, "ntk 10", dtype, scale=FLOOR * np.abs(expected).max())


def test_dense_on_images_is_a_convolution_of_one_tap(dtype, backend):
    x = images(4, dtype=dtype)
    a = serial(conv((1, 1)), Relu(), conv((1, 1), W_std=0.9), GlobalAvgPool(), Dense(1))
    b = serial(Dense(4, 1.3, 0.1), Relu(), Dense(4, 0.9, 0.1), GlobalAvgPool(), Dense(1))
    near(a.kernel_fn(x, None, BOTH), b.kernel_fn(x, None, BOTH), dtype)


def test_flatten_first_is_a_dense_network(dtype, backend):
    x1, x2 = images(4, dtype=dtype), images(2, seed=1, dtype=dtype)
    tail = serial(Dense(8, 1.3, 0.2), Relu(), Dense(1, 1.1))
    rows = [x.reshape(len(x), -1) for x in (x1, x2)]
    for found, expected in zip(
        serial(Flatten(), tail).kernel_fn(x1, x2, BOTH), tail.kernel_fn(*rows, BOTH), strict=True
    ):
        assert_close(found, expected, "ntk 10", dtype)


def test_shifts_of_a_circle(dtype, backend):
    """CIRCULAR layers of stride 1 and a mean over positions do not see where an image begins."""
    x1, x2 = images(3, dtype=dtype), images(2, seed=1, dtype=dtype)
    net = serial(
        conv(padding="CIRCULAR"), Relu(), stax.AvgPool((2, 2), None, "CIRCULAR"), conv((2, 3), padding="CIRCULAR"),
        Relu(), GlobalAvgPool(), Dense(1),
    )  # fmt: skip
    base = net.kernel_fn(x1, x2, BOTH)
    shifted = net.kernel_fn(np.roll(x1, (2, -1), (1, 2)), np.roll(x2, (3, 1), (1, 2)), BOTH)
    for found, expected in zip(shifted, base, strict=True):
        np.testing.assert_allclose(found, expected, rtol=32 * EPS[dtype.name])


# ---------------------------------------------------------------- 21 layers, hard images


def hard_images(size, scale):
    """What costs digits in real pictures; float32 numbers, of few bits, so that products with them are exact."""
    rng = np.random.default_rng(size)

    def draw():
        return np.round(rng.standard_normal((size, size, 3)) * 256) / 256

    x = np.stack([draw() for _ in range(8)])
    color = np.array([0.5, 0.25, -1.0])
    half, edge = size // 2, max(1, size // 6)
    x[1] = x[0] + 1e-4 * rng.standard_normal(x[0].shape)  # nearly the same,
    x[2] = scale * x[0]  # a brighter copy,
    x[3, :edge] = x[3, -edge:] = x[3, :, :edge] = x[3, :, -edge:] = 0  # blank borders on two images,
    x[4] = x[3]
    x[4, half, half] += 1  # which differ in one pixel,
    x[5, :half] = x[6, :half] = color  # one flat region on two images,
    x[7, :half, :half] = 0.75 * color  # and a darker one
    return x.astype(np.float32)


def deep(readout, b_std):
    layers = [layer for _ in range(21) for layer in (Conv(8, (3, 3), None, "SAME", math.sqrt(2), b_std), Relu())]
    return serial(*layers, READOUTS[readout](), Dense(1))


def pooling(readout, b_std):
    """Pools between, ahead of nonlinearities: what they gather is of unequal brightness."""
    block = [layer for _ in range(2) for layer in (Conv(8, (3, 3), None, "SAME", math.sqrt(2), b_std), Relu())]
    pools = stax.AvgPool((2, 2), (2, 2), "SAME", True), stax.SumPool((3, 2), None, "SAME")
    return serial(*block, pools[0], *block, pools[1], *block, READOUTS[readout](), Dense(1))


@pytest.mark.parametrize("make", [deep, pooling])
@pytest.mark.parametrize("b_std", [None, 0.1])
@pytest.mark.parametrize("readout", READOUTS)
def test_hard_images(readout, b_std, make, dtype, backend):
    """Both dtypes against the definition."""
    x = hard_images(7, 1.0078125).astype(dtype)
    net = make(readout, b_std)
    exact = image_oracle.kernels(net, x)
    found = net.kernel_fn(x, None, BOTH)
    for name in BOTH:
        assert getattr(found, name).dtype == dtype
        assert relative(getattr(found, name), exact[name]) <= DEEP[dtype.name], name


@pytest.mark.parametrize("make", [deep, pooling])
@pytest.mark.parametrize("b_std", [None, 0.1])
@pytest.mark.parametrize("readout", READOUTS)
def test_float32_on_hard_images(readout, b_std, make, backend):
    """float32 against float64; ``numpy`` computes both in float64, where a small image shows what there is to see."""
    x = hard_images(8 if backend == "numpy" else 16, 1.01)
    net = make(readout, b_std)
    wide = net.kernel_fn(x.astype(np.float64), None, BOTH)
    for found, expected in zip(net.kernel_fn(x, None, BOTH), wide, strict=True):
        assert found.dtype == np.float32
        assert relative(found, expected) <= DEEP["float32"]
    for found, expected in zip(net.kernel_fn(x, x[::-1].copy(), BOTH), wide, strict=True):
        assert relative(found, expected[:, ::-1]) <= DEEP["float32"]


@pytest.mark.parametrize("make", [deep, pooling])
@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("c", [2.0, 3.0])
def test_scaled_copies(c, readout, make, dtype, backend):
    """Without biases a brighter copy is the image times a number, exactly."""
    x = np.round(images(3, (6, 5, 3)) * 256) / 256
    x = x.astype(dtype)
    for one, scaled in zip(
        make(readout, None).kernel_fn(x, None, BOTH), make(readout, None).kernel_fn(x, c * x, BOTH), strict=True
    ):
        assert relative(scaled, c * one.astype(np.float64)) <= DEEP[dtype.name]


@pytest.mark.parametrize("readout", READOUTS)
def test_blank_images(readout, dtype, backend):
    """No variance anywhere: without biases kernels of zero, with them those of the biases."""
    x = images(2, dtype=dtype)
    x[1] = 0
    for b_std in (None, 0.3):
        layer = conv(b_std=b_std)
        net = serial(layer, Relu(), stax.AvgPool((2, 2)), layer, Relu(), READOUTS[readout](), Dense(1))
        found = net.kernel_fn(x, None, BOTH)
        check(found, image_oracle.kernels(net, x), dtype)
        assert all((k[1] == 0).all() == (b_std is None) for k in found)


# ---------------------------------------------------------------- invariances

SOME = [
    "dilation, gap", "dilation before pools", "residual, gap", "residual, flatten", "positions", "standard, dilation"
]  # fmt: skip


def near(found, expected, dtype):
    """Sums in another order: some roundings apart."""
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=64 * EPS[dtype.name] * np.abs(b).max())


def transposed(k):
    """Samples exchanged, and with them each pair of positions."""
    rank = (k.ndim - 2) // 2
    return k.transpose([1, 0, *(a for r in range(rank) for a in (3 + 2 * r, 2 + 2 * r))])


@pytest.mark.parametrize("name", SOME)
def test_one_set_is_two_equal_sets(name, dtype, backend):
    x = images(5, dtype=dtype)
    one = NETWORKS[name].kernel_fn(x, None, BOTH)
    assert_same([transposed(k) for k in one], one)
    near(NETWORKS[name].kernel_fn(x, x.copy(), BOTH), one, dtype)


@pytest.mark.parametrize("name", SOME)
def test_sets_exchanged(name, dtype, backend):
    x1, x2 = images(3, dtype=dtype), images(4, seed=1, dtype=dtype)
    exchanged = NETWORKS[name].kernel_fn(x2, x1, BOTH)
    near([transposed(k) for k in exchanged], NETWORKS[name].kernel_fn(x1, x2, BOTH), dtype)


@pytest.mark.parametrize("name", [name for name in SOME if name != "positions"])
def test_diagonal(name, dtype, backend):
    x = images(5, dtype=dtype)
    whole = NETWORKS[name].kernel_fn(x, None, (*BOTH, "cov1"))
    for get in (BOTH, None):
        near(NETWORKS[name].kernel_fn.diagonal(x, get), [np.diag(whole.nngp), np.diag(whole.ntk)], dtype)
    near([NETWORKS[name].kernel_fn.diagonal(x, "ntk")], [np.diag(whole.ntk)], dtype)
    near([whole.cov1], [np.diag(whole.nngp)], dtype)


@pytest.mark.parametrize("name", SOME)
def test_a_pair_does_not_know_its_place(name, dtype, backend):
    """Any rows and columns, more of them or fewer: the entries of the whole, to the bit."""
    x1, x2 = images(7, dtype=dtype), images(6, seed=1, dtype=dtype)
    whole = NETWORKS[name].kernel_fn(x1, x2, BOTH)
    for rows, cols in (([3], [2]), ([0, 0, 6, 1], [5, 0]), (range(7), [4]), ([2, 5], range(6))):
        rows, cols = list(rows), list(cols)
        found = NETWORKS[name].kernel_fn(x1[rows], x2[cols], BOTH)
        assert_same(found, [k[rows][:, cols] for k in whole])


@pytest.mark.parametrize("name", SOME)
def test_threads(name, dtype, backend):
    x1, x2 = images(5, dtype=dtype), images(3, seed=1, dtype=dtype)
    kernel_fn = NETWORKS[name].kernel_fn
    for other in (None, x2):
        one, two = (kernel_fn(x1, other, BOTH, num_threads=threads) for threads in (1, 2))
        assert_same(two, one)


def test_one_kernel_at_a_time(dtype, backend):
    x1, x2 = images(3, dtype=dtype), images(2, seed=1, dtype=dtype)
    kernel_fn = NETWORKS["residual, gap"].kernel_fn
    both = kernel_fn(x1, x2, BOTH)
    assert_same([kernel_fn(x1, x2, name) for name in BOTH], both)
    k = kernel_fn(x1, x2)
    assert isinstance(k, fastntk.Kernel)
    assert_same((k.nngp, k.ntk), both)


def test_layouts_of_inputs(dtype, backend):
    x1, x2 = images(3, dtype=dtype), images(2, seed=1, dtype=dtype)
    kernel_fn = NETWORKS["dilation, gap"].kernel_fn
    expected = kernel_fn(x1, x2, BOTH)
    before = x1.copy(), x2.copy()
    wide = np.zeros((6, 6, 10, 3), dtype)
    wide[::2, :, ::2] = x1
    for view in (np.asfortranarray(x1), wide[::2, :, ::2], x1[:, ::-1][:, ::-1], x1.astype(x1.dtype.newbyteorder())):
        assert_same(kernel_fn(view, x2, BOTH), expected)
    assert same(x1, before[0])
    assert same(x2, before[1])


def test_integers_count_as_float64(backend):
    x = np.arange(2 * 6 * 5 * 3).reshape(2, 6, 5, 3) % 251
    kernel_fn = NETWORKS["dilation, gap"].kernel_fn
    found = kernel_fn(x.astype(np.uint8), None, BOTH)
    assert_same(found, kernel_fn(x.astype(np.float64), None, BOTH))


def test_out(dtype, backend, tmp_path):
    """Own arrays, of any strides, and files."""
    x1, x2 = images(3, dtype=dtype), images(2, seed=1, dtype=dtype)
    for name in ("residual, gap", "positions"):
        kernel_fn = NETWORKS[name].kernel_fn
        expected = kernel_fn(x1, x2, BOTH)
        shape = expected.nngp.shape
        targets = {
            "own": [np.full(shape, np.nan, dtype) for _ in BOTH],
            "strided": [np.full((*shape, 3), np.nan, dtype)[..., 1] for _ in BOTH],
            "reversed": [np.full(shape[::-1], np.nan, dtype).transpose() for _ in BOTH],
            "files": [np.memmap(tmp_path / f"{name}{k}", dtype, "w+", shape=shape) for k in range(2)],
        }  # fmt: skip
        for what, out in targets.items():
            found = kernel_fn(x1, x2, BOTH, out=tuple(out))
            assert [a is b for a, b in zip(found, out, strict=True)] == [True, True], what
            assert_same(out, expected)


@pytest.mark.parametrize("shape", [(7, 3), (5, 4, 3), (3, 2, 3, 2)])
def test_strides_of_out_change_no_bit(shape, dtype, backend):
    """Axes in memory in any order, and walked in any direction."""
    rng = np.random.default_rng(len(shape))
    axes = len(shape) - 1
    net = serial(conv((3,) * axes), Relu(), conv((2,) * axes, padding="VALID", b_std=None), Relu())
    x1, x2 = images(3, shape, dtype=dtype), images(2, shape, seed=1, dtype=dtype)
    for other in (None, x2):
        expected = net.kernel_fn(x1, other, BOTH)
        shape_out = expected.nngp.shape
        ndim = len(shape_out)
        orders = [range(ndim), range(ndim)[::-1], *(rng.permutation(ndim) for _ in range(4))]
        flips = [range(ndim), (), range(2, ndim), (ndim - 1,), (2,), (1, 3)]
        for order, flip in zip(orders, flips, strict=True):
            out = tuple(
                np.flip(np.full([shape_out[a] for a in order], np.nan, dtype).transpose(np.argsort(order)), flip)
                for _ in BOTH
            )
            net.kernel_fn(x1, other, BOTH, out=out)
            for found, wanted in zip(out, expected, strict=True):
                assert same(found.copy(), wanted), (order, flip)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", SOME)
def test_a_bad_pixel_stays_in_its_row_and_column(name, bad, dtype, backend):
    x = images(4, dtype=dtype)
    x2 = images(3, seed=1, dtype=dtype)
    hurt = x.copy()
    hurt[1, 2, 3, 0] = bad
    others = [0, 2, 3]
    kernel_fn = NETWORKS[name].kernel_fn
    for found, whole in zip(kernel_fn(hurt, None, BOTH), kernel_fn(x, None, BOTH), strict=True):
        assert same(found[others][:, others], whole[others][:, others])
        if name != "positions":
            assert np.isnan(found[1]).all()
            assert np.isnan(found[:, 1]).all()
        else:
            assert np.isnan(found[1, 1]).any()
    for found, whole in zip(kernel_fn(hurt, x2, BOTH), kernel_fn(x, x2, BOTH), strict=True):
        assert same(found[others], whole[others])


# ---------------------------------------------------------------- few samples, wrong input


@pytest.mark.parametrize("name", ["residual, gap", "dilation before pools", "positions"])
@pytest.mark.parametrize(("n1", "n2"), [(0, 0), (0, 2), (2, 0), (1, 1), (1, 3)])
def test_few_samples(name, n1, n2, dtype, backend):
    kernel_fn = NETWORKS[name].kernel_fn
    x1, x2 = images(3, dtype=dtype), images(3, seed=1, dtype=dtype)
    whole = kernel_fn(x1, x2, BOTH)
    assert_same(kernel_fn(x1[:n1], x2[:n2], BOTH), [k[:n1, :n2] for k in whole])
    assert_same(kernel_fn(x1[:n1], None, BOTH), [k[:n1, :n1] for k in kernel_fn(x1, None, BOTH)])


GAP = serial(Conv(4, (3, 3), padding="SAME"), Relu(), GlobalAvgPool(), Dense(1))
X = images(2)

REFUSED = [
    # what, exception, words of the message, network, x1, x2
    ("VALID filter", ValueError, r"VALID.*\(7, 2\).*\(6, 5\)", serial(Conv(4, (7, 2)), GlobalAvgPool()), X, None),
    (
        "VALID, dilated", ValueError, r"VALID.*\(3, 3\).*\(3, 1\).*\(6, 5\)",
        serial(Conv(4, (3, 3), dilation=(3, 1)), GlobalAvgPool()), X, None,
    ),
    ("VALID window", ValueError, r"VALID.*\(2, 6\).*\(6, 5\)", serial(stax.AvgPool((2, 6)), GlobalAvgPool()), X, None),
    ("channels", ValueError, r"x1.*3.*2", GAP, X, X[..., :2]),
    ("heights", ValueError, r"\(2, 6, 5, 3\).*\(2, 4, 5, 3\)", GAP, X, X[:, :4]),
    ("widths", ValueError, r"\(2, 6, 5, 3\).*\(2, 6, 4, 3\)", GAP, X, X[:, :, :4]),
    # a greyscale set without its axis of channels: which axis was taken for it must be said
    ("no channels", ValueError, r"channel", GAP, X[..., 0], None),
    ("one axis more", ValueError, r"channel", GAP, X[..., None], None),
    ("rows to images", ValueError, r"channel", GAP, X[..., 0].reshape(2, -1), None),
    ("a window of one axis", ValueError, r"\(2,\)", serial(stax.AvgPool((2,)), GlobalAvgPool()), X, None),
    ("dims differ", ValueError, r"x2.*\(2, 6, 5\)", GAP, X, X[..., 0]),
    ("no channel at all", ValueError, r"\(2, 6, 5, 0\)", GAP, X[..., :0], None),
    ("no pixel", ValueError, r"\(2, 0, 5, 3\)", GAP, X[:, :0], None),
    ("dtypes", TypeError, r"float64.*float32", GAP, X, X.astype(np.float32)),
    ("complex", TypeError, r"complex128", GAP, X.astype(complex), None),
    ("relu on pixels", ValueError, r"Gaussian", serial(Relu(), GlobalAvgPool()), X, None),
    ("relu twice", ValueError, r"Gaussian", serial(Conv(4, (3, 3)), Relu(), stax.AvgPool((2, 2)), Relu()), X, None),
    ("relu behind flatten", ValueError, r"Gaussian", serial(Conv(4, (3, 3)), Flatten(), Relu()), X, None),
    (
        "branches of two sizes", ValueError, r"FanInSum.*\(6, 5\).*\(3, 3\)",
        serial(stax.FanOut(2), stax.parallel(conv(), conv(strides=(2, 2))), stax.FanInSum()),
        X, None,
    ),
    (
        "channels first, then last", ValueError, r"channel_axis=-1",
        serial(Conv(4, (3, 3), dimension_numbers=("NCHW", "OIHW", "NCHW")), Relu(), GlobalAvgPool()), X, None,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("error", "pattern", "net", "x1", "x2"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_refused(error, pattern, net, x1, x2):
    with pytest.raises(error, match=pattern):
        net.kernel_fn(x1, x2, "ntk")


LAYERS = [
    (ValueError, r"filter_shape.*at least 1, given 0", lambda: Conv(4, (3, 0))),
    (ValueError, r"strides.*at least 1, given 0", lambda: Conv(4, (3, 3), (0, 1))),
    (ValueError, r"dilation.*at least 1, given 0", lambda: Conv(4, (3, 3), dilation=(1, 0))),
    (ValueError, r"window_shape.*at least 1, given 0", lambda: stax.AvgPool((0, 2))),
    (ValueError, r"strides.*at least 1, given -1", lambda: stax.SumPool((2, 2), (1, -1))),
    (ValueError, r"strides.*2 entries", lambda: Conv(4, (3, 3), (2,))),
    (ValueError, r"window_shape.*at least one", lambda: stax.AvgPool(())),
    (ValueError, r"filter_shape.*at most 22", lambda: Conv(4, (1,) * 23)),
    (TypeError, r"filter_shape.*tuple", lambda: Conv(4, "3")),
    (TypeError, r"dimension_numbers", lambda: Conv(4, 3, dimension_numbers="NHWC")),
    (TypeError, r"filter_shape.*integer", lambda: Conv(4, (3, 2.5))),
    (ValueError, r"out_chan.*at least 1", lambda: Conv(0, (3, 3))),
    (ValueError, r"padding.*'FULL'", lambda: Conv(4, (3, 3), padding="FULL")),
    (ValueError, r"padding.*'REFLECT'", lambda: stax.AvgPool((2, 2), padding="REFLECT")),
    (ValueError, r"W_std.*negative", lambda: Conv(4, (3, 3), W_std=-1.0)),
    (ValueError, r"parameterization.*'ntkk'", lambda: Conv(4, (3, 3), parameterization="ntkk")),
    (ValueError, r"dimension_numbers", lambda: Conv(4, (3, 3), dimension_numbers=("NHWC", "HWIO", "NHC"))),
    (ValueError, r"dimension_numbers", lambda: Conv(4, (3, 3), dimension_numbers=("NHWC", "HWDO", "NHWC"))),
    (TypeError, r"dimension_numbers", lambda: Conv(4, (3, 3), dimension_numbers="NHWC")),
    (ValueError, r"batch_axis_out", lambda: Flatten(batch_axis_out=2)),
]


@pytest.mark.parametrize(("error", "pattern", "make"), LAYERS)
def test_refused_layers(error, pattern, make):
    with pytest.raises(error, match=pattern):
        make()
