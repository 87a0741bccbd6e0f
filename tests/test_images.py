"""Networks on images, signals and volumes: kernels against their definition, finite networks against loops."""

from __future__ import annotations

import itertools
import math

import fastntk
import image_oracle
import numpy as np
import pytest
from fastntk import stax
from helpers import assert_close, assert_same, same
from tolerances import EPS, FLOOR

Conv, Dense, Relu, Erf, serial = stax.Conv, stax.Dense, stax.Relu, stax.Erf, stax.serial
GlobalAvgPool, Flatten = stax.GlobalAvgPool, stax.Flatten
BOTH = ("nngp", "ntk")
READOUTS = {"gap": GlobalAvgPool, "flatten": Flatten}
SIGMAS = 4

# What images promise on every entry, 21 layers deep.
DEEP = {"float32": 2e-6, "float64": 1e-12}


def images(n, shape=(6, 5, 3), seed=0, dtype=np.float64):
    """Random images, of several contrasts; the second is close to the first, the third a scaled copy."""
    rng = np.random.default_rng([seed, n, *shape])
    x = rng.standard_normal((n, *shape)) * np.linspace(0.5, 2, n).reshape(-1, *[1] * len(shape))
    if n > 2:
        x[1] = x[0] + 1e-3 * rng.standard_normal(shape)
        x[2] = 1.25 * x[0]
    return x.astype(dtype)


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


def conv(shape=(3, 3), strides=None, padding="SAME", W_std=1.3, b_std=0.1, **keywords):
    return Conv(4, shape, strides, padding, W_std, b_std, **keywords)


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
    (ValueError, r"window_shape.*1 to 3", lambda: stax.AvgPool(())),
    (ValueError, r"filter_shape.*1 to 3", lambda: Conv(4, (1, 1, 1, 1))),
    (TypeError, r"filter_shape.*tuple", lambda: Conv(4, 3)),
    (TypeError, r"filter_shape.*integer", lambda: Conv(4, (3, 2.5))),
    (ValueError, r"out_chan.*at least 1", lambda: Conv(0, (3, 3))),
    (ValueError, r"padding.*'FULL'", lambda: Conv(4, (3, 3), padding="FULL")),
    (ValueError, r"padding.*'REFLECT'", lambda: stax.AvgPool((2, 2), padding="REFLECT")),
    (ValueError, r"W_std.*negative", lambda: Conv(4, (3, 3), W_std=-1.0)),
    (ValueError, r"parameterization.*'ntkk'", lambda: Conv(4, (3, 3), parameterization="ntkk")),
    (ValueError, r"dimension_numbers", lambda: Conv(4, (3, 3), dimension_numbers=("NHWC", "HWIO", "NHC"))),
    (ValueError, r"dimension_numbers", lambda: Conv(4, (3, 3), dimension_numbers=("NHWC", "HWDO", "NHWC"))),
    (TypeError, r"dimension_numbers", lambda: Conv(4, (3, 3), dimension_numbers="NHWC")),
    (NotImplementedError, r"order", lambda: Conv(4, (3, 3), dimension_numbers=("NHWC", "HWIO", "NWHC"))),
    (ValueError, r"batch_axis_out", lambda: Flatten(batch_axis_out=2)),
]


@pytest.mark.parametrize(("error", "pattern", "make"), LAYERS)
def test_refused_layers(error, pattern, make):
    with pytest.raises(error, match=pattern):
        make()


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
