"""Padding by number, and integers that stand for every axis: against the definition, and against the named kinds."""

import image_oracle
import numpy as np
import pytest
from fastntk import stax
from images_inputs import Conv, Dense, Erf, Flatten, GlobalAvgPool, Relu, conv, images, serial
from test_images import BOTH, check

PADDED = {
    "as SAME": serial(conv(padding=1), Relu(), conv(padding=((1, 1), (1, 1))), Relu(), GlobalAvgPool(), Dense(1)),
    "one side": serial(conv(padding=((2, 0), (0, 2))), Relu(), conv(padding=((0, 2), (1, 1))), Relu(), Flatten()),
    "shrinking": serial(conv(padding=((1, 0), (0, 1))), Relu(), conv(), Erf(), conv((2, 2), padding=(1, 0)), Relu(),
                        GlobalAvgPool(), Dense(1)),
    "growing": serial(conv(padding=2), Relu(), conv((2, 2), padding=((1, 1), (2, 0))), Relu(), Flatten(), Dense(1)),
    "beyond the filter": serial(conv((2, 2), padding=((3, 0), (0, 4))), Relu(), conv(), Relu(), GlobalAvgPool()),
    "beyond the filter, no bias": serial(conv((2, 2), padding=3, b_std=None), Relu(), conv(b_std=None), Flatten()),
    "strides": serial(conv((4, 4), 2, 1), Relu(), conv(2, 2, padding=1), Relu(), GlobalAvgPool(), Dense(1)),
    "dilation": serial(conv(3, padding=((2, 2), (1, 2)), dilation=2), Relu(), conv(2, dilation=(1, 2), padding=1),
                       Relu(), Flatten(), Dense(1)),
    "pools": serial(conv(3, padding=1), Relu(), stax.AvgPool(2, 2, 1), conv(), Relu(),
                    stax.SumPool(2, padding=((0, 1), (1, 0))), GlobalAvgPool(), Dense(1)),
    "edges": serial(conv(), Relu(), stax.AvgPool(3, 2, 1, normalize_edges=True), conv(), Relu(),
                    stax.AvgPool(2, 1, ((3, 0), (0, 0)), normalize_edges=True), Flatten(), Dense(1)),
    "positions": serial(conv(padding=((2, 0), (0, 1))), Relu(), stax.AvgPool(2, padding=1)),
}  # fmt: skip


@pytest.mark.parametrize("name", PADDED)
def test_padding_by_number(name, dtype, backend):
    x1, x2 = images(3, dtype=dtype), images(2, seed=1, dtype=dtype)
    net = PADDED[name]
    check(net.kernel_fn(x1, x2, BOTH), image_oracle.kernels(net, x1, x2), dtype)
    check(net.kernel_fn(x1, None, BOTH), image_oracle.kernels(net, x1), dtype)
    for both, own in zip(net.kernel_fn(x1, None, BOTH), net.kernel_fn.diagonal(x1, BOTH), strict=True):
        np.testing.assert_allclose(np.stack([both[k, k] for k in range(3)]), own, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("readout", [GlobalAvgPool, Flatten])
def test_integers_are_for_every_axis(rank, readout, dtype, backend):
    x = images(3, (*(5, 4, 3)[:rank], 2), dtype=dtype)

    def net(of):
        return serial(
            Conv(4, of(2), of(1), of(1), 1.3, 0.1, dilation=of(2)), Relu(), stax.AvgPool(of(2), of(1)),
            Conv(4, of(2), None, "SAME"), Erf(), stax.SumPool(of(2), of(2), of(1)), readout(), Dense(1),
        )  # fmt: skip

    short, spelt = net(lambda v: v), net(lambda v: (v,) * rank)
    for a, b in zip(short.kernel_fn(x, None, BOTH), spelt.kernel_fn(x, None, BOTH), strict=True):
        assert np.array_equal(a, b)
    shape, params = short.init_fn(0, x.shape)
    spelt_shape, spelt_params = spelt.init_fn(0, x.shape)
    assert shape == spelt_shape
    assert np.array_equal(short.apply_fn(params, x), spelt.apply_fn(spelt_params, x))


@pytest.mark.parametrize("size", [3, 4, 5, 8])
def test_the_named_kinds_by_number(size, dtype, backend):
    """The same windows, so the same bits."""
    x = images(3, (size, size, 2), dtype=dtype)
    for k, pads in ((3, 1), (2, ((0, 1), (0, 1))), (1, 0)):
        same = serial(conv((k, k)), Relu(), conv((k, k)), Relu(), GlobalAvgPool()).kernel_fn(x, None, BOTH)
        layer = conv(k, padding=pads)
        own = serial(layer, Relu(), layer, Relu(), GlobalAvgPool()).kernel_fn(x, None, BOTH)
        assert all(np.array_equal(a, b) for a, b in zip(own, same, strict=True))
    valid = serial(conv((2, 2), padding="VALID"), Relu(), Flatten()).kernel_fn(x, None, BOTH)
    own = serial(conv(2, padding=0), Relu(), Flatten()).kernel_fn(x, None, BOTH)
    assert all(np.array_equal(a, b) for a, b in zip(own, valid, strict=True))


@pytest.mark.parametrize("numbers", [("NCHW", "OIHW", "NCHW"), ("CWNH", "IHOW", "CWNH")])
def test_padding_follows_the_filters_axes(numbers, dtype, backend):
    """Axes named elsewhere: h has one pair, w another."""
    x = images(3, dtype=dtype)
    plain = serial(conv((3, 2), (1, 2), ((2, 1), (0, 3))), Relu(), GlobalAvgPool())
    batch, channel = numbers[0].index("N"), numbers[0].index("C")
    turned = serial(
        conv((3, 2), (1, 2), ((2, 1), (0, 3)), dimension_numbers=numbers), Relu(),
        GlobalAvgPool(batch_axis=batch, channel_axis=channel),
    )  # fmt: skip
    moved = x.transpose(["NHWC".index(c) for c in numbers[0]])
    for a, b in zip(turned.kernel_fn(moved, None, BOTH), plain.kernel_fn(x, None, BOTH), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("shape", [(6,), (8,), (4, 4), (2, 3), (2, 2, 2)], ids=str)
def test_pools_of_a_whole_circle_are_one_number(shape, backend):
    """All positions behind them are equal to the bit, as one global pool is: rho = 1 for the nonlinearity behind."""
    rank = len(shape)
    start = (stax.Conv(1, (3,) * rank, padding="CIRCULAR", W_std=1.2), Relu())
    slopes = stax.ABRelu(-0.3, 1.2)
    point = stax.Conv(1, (1,) * rank, padding="SAME", W_std=1.2, b_std=0.1)
    everywhere = serial(
        *start, stax.AvgPool(shape, padding="CIRCULAR"), point, slopes, GlobalAvgPool(), Dense(1)
    ).kernel_fn
    once = serial(*start, GlobalAvgPool(), Dense(1, 1.2, 0.1), slopes, Dense(1)).kernel_fn
    # A device's registers round otherwise than what gives an image's own sums: 1 - rho is 1e-16 there, its root 1e-8.
    rtol = 2e-8 if backend.startswith("cuda") else 1e-13
    for seed in range(4):
        x = np.random.default_rng(seed).standard_normal((1, *shape, 3))
        np.testing.assert_allclose(everywhere(x, None, "ntk"), once(x, None, "ntk"), rtol=rtol)


def test_finite_networks_read_the_same_padding():
    """Against a plain loop over taps of the padded array."""
    x = images(2)
    layer = Conv(3, (3, 2), (2, 1), ((2, 1), (0, 3)), dilation=(1, 2))
    shape, (W, _) = layer.init_fn(0, x.shape)
    padded = np.pad(x, ((0, 0), (2, 1), (0, 3), (0, 0)))
    expected = np.zeros(shape)
    for (i, j), _ in np.ndenumerate(np.zeros(shape[1:3])):
        part = padded[:, 2 * i : 2 * i + 3, j : j + 3 : 2]
        expected[:, i, j] = np.einsum("nhwc,hwco->no", part, W) / np.sqrt(W[..., 0].size)
    assert shape == (2, 4, 6, 3)
    np.testing.assert_allclose(layer.apply_fn((W, None), x), expected, rtol=1e-12)
    pool = stax.AvgPool(2, 2, ((1, 0), (0, 1)), normalize_edges=True)
    padded = np.pad(x, ((0, 0), (1, 0), (0, 1), (0, 0)), constant_values=np.nan)
    windows = [[np.nanmean(padded[:, i : i + 2, j : j + 2], axis=(1, 2)) for j in (0, 2, 4)] for i in (0, 2, 4)]
    np.testing.assert_allclose(pool.apply_fn((), x), np.array(windows).transpose(2, 0, 1, 3), rtol=1e-12)


REFUSED = [
    (ValueError, "padding.*at least 0.*-1", lambda: Conv(1, (3, 3), padding=-1)),
    (ValueError, "padding.*at least 0.*-1", lambda: stax.AvgPool((2, 2), padding=((0, 0), (-1, 0)))),
    (ValueError, r"padding.*2 entries.*\(1, 1, 1\)", lambda: Conv(1, (3, 3), padding=(1, 1, 1))),
    (ValueError, r"padding of an axis.*\(1, 2, 3\)", lambda: Conv(1, (3, 3), padding=((1, 2, 3), 1))),
    (TypeError, "padding.*1.5", lambda: Conv(1, (3, 3), padding=1.5)),
    (TypeError, "padding.*None", lambda: Conv(1, (3, 3), padding=None)),
    (TypeError, "padding.*'a'", lambda: Conv(1, (3, 3), padding=("a", 1))),
    (ValueError, "padding.*'FULL'.*", lambda: Conv(1, 3, padding="FULL")),
    (ValueError, "strides.*1 entries", lambda: stax.AvgPool((2,), (2, 2))),
    (ValueError, "filter_shape.*at least 1.*0", lambda: Conv(1, 0)),
    (TypeError, "window_shape.*integer.*2.5", lambda: stax.AvgPool(2.5)),
    (ValueError, "strides.*at most 2147483647", lambda: Conv(1, (3,), (2**31,))),
    (ValueError, "dilation.*at most 2147483647", lambda: Conv(1, 3, dilation=2**62)),
    (ValueError, r"padding \(\(0, 1\), \(0, 0\)\) and a window.*does not fit",
     lambda: Conv(1, 9, padding=((0, 1), (0, 0))).kernel_fn(images(2))),
    (ValueError, "with spatial axes, given 0", lambda: Conv(1, 3).kernel_fn(np.ones((4, 5)))),
    (ValueError, "inputs have 0 spatial axes", lambda: stax.AvgPool(2).kernel_fn(np.ones((4, 5)))),
]  # fmt: skip


@pytest.mark.parametrize(("error", "words", "make"), REFUSED, ids=range(len(REFUSED)))
def test_refused(error, words, make):
    with pytest.raises(error, match=words):
        make()


def test_names_and_members_are_one():
    for kind in stax.Padding:
        assert conv((2, 2), padding=kind) == conv((2, 2), padding=kind.name.lower())
        assert stax.AvgPool((2, 2), padding=kind) == stax.AvgPool((2, 2), padding=kind.name)
