"""Layers beyond Dense, Conv and pools: their numbers, what backends lack, bad input, and what must be equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fastntk import stax
from fastntk.engines import select
from fastntk.stax import Conv, Dense, Flatten, Gelu, GlobalAvgPool, Relu, serial
from layers_inputs import (
    GRAPH1,
    GRAPH2,
    IMAGE1,
    IMAGE2,
    NUMBERS,
    PRINTED,
    TEXT1,
    TEXT2,
    A,
    B,
    attending,
    attention,
    branches,
    conv,
    dense,
    read_out,
)  # fmt: skip

BOTH = ("nngp", "ntk")
compiled = pytest.mark.skipif(select.load("cpu")[0] is None, reason="the compiled module is not there")


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_neural_tangents(name):
    net, x1, x2, keywords, *expected = NUMBERS[name]
    found = net.kernel_fn(x1, x2, BOTH, **keywords)
    np.testing.assert_allclose([k.item() for k in found], expected, rtol=PRINTED)


def test_dropout_of_inputs_with_themselves():
    net = serial(dense(), Relu(), stax.Dropout(0.7), dense(), Relu(), Dense(1))
    x = np.concatenate([A, B])
    both = net.kernel_fn(x, None, (*BOTH, "cov1"))
    expected = [[1.39887779018, 0.58018448708], [0.58018448708, 0.76135546875]]
    np.testing.assert_allclose(both.nngp, expected, rtol=PRINTED)
    expected = [[4.17663337054, 1.00749245895], [1.00749245895, 2.26406640625]]
    np.testing.assert_allclose(both.ntk, expected, rtol=PRINTED)
    np.testing.assert_allclose(both.cov1, both.nngp.diagonal(), rtol=1e-15)
    np.testing.assert_array_equal(net.kernel_fn.diagonal(x, "ntk"), both.ntk.diagonal())
    apart = net.kernel_fn(x, x.copy(), "nngp")  # draws are independent
    assert apart[0, 0] < both.nngp[0, 0] - 0.1
    np.testing.assert_allclose(apart[0, 1], both.nngp[0, 1], rtol=1e-14)
    tested = serial(dense(), Relu(), stax.Dropout(0.7, "test"), dense(), Relu(), Dense(1))
    bare = serial(dense(), Relu(), dense(), Relu(), Dense(1))
    np.testing.assert_array_equal(tested.kernel_fn(x, None, "ntk"), bare.kernel_fn(x, None, "ntk"))


def test_dropout_on_images_and_on_points_is_one():
    """An image of one position is a point."""
    layers = [Relu(), stax.Dropout(0.6), Dense(1, 1.2, 0.1), Gelu(), stax.Dropout(0.8), Dense(1)]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 1, 3))
    images = serial(Dense(1, 1.3, 0.2), *layers, Flatten()).kernel_fn(x, None, BOTH, backend="numpy")
    points = serial(Dense(1, 1.3, 0.2), *layers).kernel_fn(x[:, 0], None, BOTH, backend="numpy")
    for a, b in zip(images, points, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)


# ---------------------------------------------------------------- backends


@compiled
def test_functions_with_many_kinks_are_numpys():
    net = serial(dense(), stax.Activation(lambda x: x * np.clip(x + 3, 0, 6) / 6), Dense(1))
    x = np.random.default_rng(0).standard_normal((3, 4))
    found, by_name = (net.kernel_fn(x, None, "ntk", backend=b) for b in (None, "numpy"))
    np.testing.assert_array_equal(found, by_name)
    with pytest.raises(NotImplementedError, match="Spline"):
        net.kernel_fn(x, None, "ntk", backend="cpu")


@compiled
def test_explain_says_what_needs_all_pairs_and_which_backend_runs_it():
    told = attending().kernel_fn.explain((1, 64, 8))
    assert "backend 'cpu': all pairs of positions, for GlobalSelfAttention" in str(told)
    assert told.table_bytes >= 8 * 64**2
    assert 0 < told.seconds < attending().kernel_fn.explain((1, 64, 8), backend="numpy").seconds
    assert [name for name, *_ in told.steps] == ["input", "dense", "mix", "dense", "relu", "pool", "dense"]
    assert told.entries == 5 * 64**2 + 2
    assert told.worker_bytes > 8 * 2 * 64**2
    local = NUMBERS["ConvLocal, pool"][0].kernel_fn.explain((1, 8, 8, 3))
    assert [entries for _, _, entries, _ in local.steps] == [64] * 4 + [64**2] * 2 + [1] * 2
    assert local.flops > 0
    assert local.seconds > 0


# ---------------------------------------------------------------- what must be equal


def test_copies_are_equal_to_what_they_copy():
    """No digit is lost where two inputs are one, through sums of either sign."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 6, 5, 2))
    layers = [
        [stax.ImageResize((-1, 4, 7, -1), "cubic")],
        [stax.DotGeneral(rhs=rng.standard_normal((5, 3)), dimension_numbers=(((2,), (0,)), ((), ())), channel_axis=-1)],
        [attention(attention_mechanism="IDENTITY")],
        [stax.ConvLocal(1, (2, 2))],
        [stax.ConvTranspose(1, (2, 3), (2, 1))],
        [stax.LayerNorm((1, 3))],
    ]
    for own in layers:
        last = [] if isinstance(own[0], stax.DotGeneral) else [Relu(), GlobalAvgPool(), Dense(1)]
        net = serial(conv(), Relu(), conv(), *own, *last)
        one, two = net.kernel_fn(x, None, BOTH), net.kernel_fn(x, x.copy(), BOTH)
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-14, atol=2e-14 * np.abs(a).max())


@pytest.mark.parametrize("name", NUMBERS)
def test_nan_float32_batches_and_near_duplicates(name):
    net, x1, _, keywords, *_ = NUMBERS[name]
    rng = np.random.default_rng(14)
    x = rng.standard_normal((3, *x1.shape[1:]))
    graph = rng.integers(0, 2, (3, 4, 4))
    keywords = {"pattern": (graph, None)} if "pattern" in keywords else keywords
    whole = net.kernel_fn(x, None, BOTH, **keywords)
    single = net.kernel_fn(x.astype(np.float32), None, BOTH, **keywords)
    for a, b in zip(single, whole, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6 * np.abs(b).max())
    if "mask_constant" not in keywords:
        broken = x.copy()
        broken[1].flat[0] = np.nan
        for a, b in zip(net.kernel_fn(broken, None, BOTH, **keywords), whole, strict=True):
            assert np.isnan(a[1]).all()
            assert np.isnan(a[:, 1]).all()
            np.testing.assert_array_equal(a[::2, ::2], b[::2, ::2])
    close = x * (1 + 1e-7 * rng.standard_normal(x.shape))
    own = {"pattern": graph} if "pattern" in keywords else keywords
    np.testing.assert_allclose(net.kernel_fn.diagonal(x, "ntk", **own), whole.ntk.diagonal(), rtol=1e-13)
    if "pattern" in keywords:
        keywords = {"pattern": (graph, graph)}
    np.testing.assert_allclose(net.kernel_fn(x, close, "ntk", **keywords).diagonal(), whole.ntk.diagonal(), rtol=2e-6)
    if "pattern" not in keywords:
        two = net.kernel_fn(np.stack([x, 2 * x]), None, "ntk", batch_dims=1, **keywords)
        np.testing.assert_allclose(two[0], whole.ntk, rtol=1e-12)
        assert net.kernel_fn(x[:0], x, "ntk", **keywords).shape == (0, 3)


def test_resizing_by_nearest_and_by_slices():
    x = np.random.default_rng(2).standard_normal((2, 6, 5, 2))
    halved = serial(conv(), Relu(), stax.ImageResize((-1, 3, -1, -1), "nearest"))
    every = serial(conv(), Relu(), stax.Index(stax.Slice[:, 1::2]))
    np.testing.assert_array_equal(halved.kernel_fn(x, None, "ntk"), every.kernel_fn(x, None, "ntk"))
    _, params = halved.init_fn(0, x.shape)
    np.testing.assert_array_equal(halved.apply_fn(params, x), every.apply_fn(params, x))


def test_resized_images_keep_height_and_width():
    """Neural Tangents has them the other way round here."""
    x = np.random.default_rng(3).standard_normal((2, 5, 7, 2))
    net = serial(conv(), stax.ImageResize((-1, 6, 9, -1), "linear"))
    assert net.kernel_fn(x, None, "nngp").shape == (2, 2, 6, 6, 9, 9)
    assert net.init_fn(0, x.shape)[0] == (2, 6, 9, 1)


def test_index_is_numpys():
    x = np.random.default_rng(4).standard_normal((2, 5, 4, 3))
    for idx in (
        stax.Slice[:, 1:4, ::-1],
        stax.Slice[:, -1],
        stax.Slice[..., 2, :],
        stax.Slice[:, ::2, 1::2],
        slice(None),
    ):
        layer = stax.Index(idx)
        assert layer.output_shape(x.shape) == x[idx].shape
        np.testing.assert_array_equal(layer.apply_fn((), x), x[idx])
        given = idx if isinstance(idx, tuple) else (idx,)
        at = given.index(Ellipsis) if Ellipsis in given else len(given)
        rest = [slice(None)] * (4 - len([i for i in given if i is not Ellipsis]))
        _, one, two, _ = (*given[:at], *rest, *given[at + 1 :])
        found = serial(conv(), layer).kernel_fn(x, None, "nngp")
        expected = conv().kernel_fn(x, None, "nngp")[:, :, one, one, two, two]
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)


def test_dot_general_is_what_its_parts_are():
    rng = np.random.default_rng(5)
    x, factor = rng.standard_normal((3, 4, 5, 2)), rng.standard_normal((4, 5, 6))
    layer = stax.DotGeneral(rhs=factor, dimension_numbers=(((1,), (0,)), ((2,), (1,))))
    expected = np.einsum("nhwc,hwf->wncf", x, factor)
    assert layer.output_shape(x.shape) == expected.shape
    np.testing.assert_allclose(layer.apply_fn((), x), expected, rtol=1e-13, atol=1e-13)
    k = conv().kernel_fn(x, None, "nngp")
    found = serial(conv(), layer).kernel_fn(x, None, "nngp")
    np.testing.assert_allclose(found, np.einsum("nmhgwv,hwf,gve->nmwvfe", k, factor, factor), rtol=1e-12, atol=1e-12)
    left = stax.DotGeneral(lhs=factor, dimension_numbers=(((0, 1), (1, 2)), ((), ())))
    np.testing.assert_allclose(left.apply_fn((), x), np.einsum("hwf,nhwc->fnc", factor, x), rtol=1e-13, atol=1e-13)
    scaled = serial(dense(), stax.DotGeneral(rhs=-2.0))
    np.testing.assert_allclose(scaled.kernel_fn(A, B, "ntk"), 4 * dense().kernel_fn(A, B, "ntk"), rtol=1e-15)


def test_layers_of_ones_own():
    """The page's example, which is a product with a constant."""
    text = (Path(__file__).resolve().parents[1] / "docs/layers.md").read_text()
    example = text[text.index("from dataclasses") :]
    example = example[: example.index("```")]
    scope = {}
    exec(compile(example, "docs/layers.md", "exec"), scope)
    assert scope["ntk"].shape == (3, 3)
    assert len(example[example.index("@dataclass") : example.index("net =")].strip().splitlines()) < 15
    own = scope["Differences"]()
    x = np.random.default_rng(13).standard_normal((3, 5, 2))
    steps = np.eye(5)[:, 1:] - np.eye(5)[:, :-1]
    constant = stax.DotGeneral(lhs=steps.T, dimension_numbers=(((1,), (1,)), ((), ())))
    assert constant.output_shape(x.shape) == (4, 3, 2)
    expected = serial(dense(), constant).kernel_fn(x, None, BOTH)
    found = serial(dense(), own).kernel_fn(x, None, BOTH)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14)
    assert own.init_fn(0, (-1, 5, 2)) == ((-1, 4, 2), ())
    with pytest.raises(ValueError, match=r"\[Differences\] has batch_axis, channel_axis = 0, 1"):
        scope["Differences"](channel_axis=1)


def test_sparse_graphs_are_dense_ones():
    edges = [[[i, j] for i, j in np.argwhere(g[0])] for g in (GRAPH1, GRAPH2)]
    longest = max(map(len, edges))
    sparse = [np.array([own + [[-1, 0]] * (longest - len(own))]) for own in edges]
    dense_net = serial(dense(), stax.Aggregate(), Relu(), GlobalAvgPool())
    net = serial(dense(), stax.Aggregate(implementation="SPARSE"), Relu(), GlobalAvgPool())
    found = net.kernel_fn(TEXT1, TEXT2, BOTH, pattern=sparse)
    np.testing.assert_array_equal(found, dense_net.kernel_fn(TEXT1, TEXT2, BOTH, pattern=(GRAPH1, GRAPH2)))
    _, params = net.init_fn(0, TEXT1.shape)
    expected = dense_net.apply_fn(params, TEXT1, pattern=GRAPH1)
    np.testing.assert_allclose(net.apply_fn(params, TEXT1, pattern=sparse[0]), expected, rtol=1e-15)


def test_graphs_that_are_not_given_join_nothing():
    x = np.asarray(TEXT1, np.float64)
    net, without = (serial(dense(), *layer, Relu(), GlobalAvgPool()) for layer in ((stax.Aggregate(),), ()))
    np.testing.assert_array_equal(stax.Aggregate().apply_fn((), x), x)
    for pattern in ({}, {"pattern": (None, None)}):
        found = net.kernel_fn(x, None, "ntk", **pattern)
        np.testing.assert_allclose(
            found, without.kernel_fn(x, None, "ntk"), rtol=1e-6 if x.dtype == np.float32 else 1e-12
        )


def test_graphs_over_one_axis_of_two():
    rng = np.random.default_rng(6)
    x, graph = rng.standard_normal((2, 3, 4, 5)), rng.integers(0, 2, (2, 4, 4)).astype(float)
    layer = stax.Aggregate(aggregate_axis=2)
    np.testing.assert_allclose(
        layer.apply_fn((), x, pattern=graph), np.einsum("nhwc,nwv->nhvc", x, graph), rtol=1e-14, atol=1e-14
    )
    k = stax.Identity().kernel_fn(x, None, "nngp")
    found = layer.kernel_fn(x, None, "nngp", pattern=(graph, None))
    np.testing.assert_allclose(found, np.einsum("nmhgwv,nwa,mvb->nmhgab", k, graph, graph), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(layer.kernel_fn(x, None, "nngp"), k, rtol=1e-14, atol=1e-15)


def test_masked_texts_are_shorter_texts():
    """Where nothing looks beyond the end, what is masked might as well not be there."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((2, 6, 3))
    nets = [
        serial(dense(), Relu(), GlobalAvgPool(), Dense(1)),
        serial(dense(), attention(), Relu(), GlobalAvgPool(), Dense(1)),
        serial(dense(), attention(linear_scaling=False, attention_mechanism="IDENTITY"), Relu(), stax.GlobalSumPool()),
        serial(
            dense(), stax.LayerNorm((1, 2)), stax.Sin(1, 1, 0.5), stax.Dropout(0.5), GlobalAvgPool(), Dense(1, 1, 0.3)
        ),
        serial(Conv(1, (3,), padding="SAME", W_std=1.4, b_std=0.1), Relu(), GlobalAvgPool(), Dense(1)),
        serial(branches(dense(), serial(dense(), Relu()), join=stax.FanInProd()), GlobalAvgPool(), Dense(1)),
    ]
    for constant in (np.nan, 7.0, np.inf):
        masked = x.copy()
        masked[0, 4:] = masked[1, 3:] = constant
        for net in nets:
            alone = net.kernel_fn.diagonal(masked, "ntk", mask_constant=constant)
            np.testing.assert_allclose(
                alone, net.kernel_fn(masked, None, "ntk", mask_constant=constant).diagonal(), rtol=1e-13
            )
            found = net.kernel_fn(masked, None, BOTH, mask_constant=constant)
            for i, j in ((0, 0), (1, 1)):
                n = 4 if i == 0 else 3
                alone = net.kernel_fn(x[i : i + 1, :n], None, BOTH)
                for a, b in zip(found, alone, strict=True):
                    np.testing.assert_allclose(a[i, j], b[0, 0], rtol=1e-12)


def test_masks_without_masked_entries_change_nothing():
    net = read_out(serial(conv(), Relu()), True)
    plain = net.kernel_fn(IMAGE1, IMAGE2, "ntk")
    np.testing.assert_array_equal(net.kernel_fn(IMAGE1, IMAGE2, "ntk", mask_constant=np.nan), plain)


def test_causal_attention_reads_no_later_position():
    rng = np.random.default_rng(8)
    x = rng.standard_normal((3, 5, 2))
    net = serial(Dense(1, 1.3), attention(allowed=np.tri(5)), Relu(), Dense(1))
    whole, begun = net.kernel_fn(x, None, "ntk"), serial(
        Dense(1, 1.3), attention(allowed=np.tri(3)), Relu(), Dense(1)
    ).kernel_fn(x[:, :3], None, "ntk")  # fmt: skip
    np.testing.assert_allclose(whole[:, :, :3, :3], begun, rtol=1e-13)


def test_a_filter_of_no_axes_is_a_dense_layer():
    one, two = serial(Conv(3, (), W_std=1.3, b_std=0.2), Relu(), Dense(1)), serial(Dense(3, 1.3, 0.2), Relu(), Dense(1))
    np.testing.assert_array_equal(one.kernel_fn(A, B, BOTH), two.kernel_fn(A, B, BOTH))
    (_, params), (_, others) = (net.init_fn(0, A.shape) for net in (one, two))
    np.testing.assert_allclose(one.apply_fn(params, A), two.apply_fn(others, A), rtol=1e-14)


def test_four_spatial_axes():
    """A fourth axis of one position changes nothing."""
    x = np.random.default_rng(9).standard_normal((2, 3, 2, 4, 2))
    three, four = (
        read_out(serial(Conv(1, (2,) * n, padding="SAME", W_std=1.4, b_std=0.1), Relu()), True) for n in (3, 4)
    )
    flat = read_out(serial(Conv(1, (2, 2, 2, 1), padding="SAME", W_std=1.4, b_std=0.1), Relu()), True)
    expected = three.kernel_fn(x, None, BOTH, backend="numpy")
    np.testing.assert_allclose(flat.kernel_fn(x[..., None, :], None, BOTH), expected, rtol=1e-14)
    assert four.kernel_fn(x[..., None, :], None, "ntk").shape == (2, 2)


def test_outputs_in_another_order_of_axes():
    x = np.random.default_rng(10).standard_normal((2, 3, 4, 2))
    usual = Conv(3, (2, 3), padding="SAME", W_std=1.4, b_std=0.1)
    turned = Conv(3, (2, 3), padding="SAME", W_std=1.4, b_std=0.1, dimension_numbers=("NHWC", "HWIO", "NWCH"))
    found = turned.kernel_fn(x, None, "nngp")
    expected = usual.kernel_fn(x, None, "nngp").transpose(0, 1, 4, 5, 2, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)
    _, params = usual.init_fn(0, x.shape)
    own = params[0], params[1].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(turned.apply_fn(own, x), usual.apply_fn(params, x).transpose(0, 2, 3, 1), rtol=1e-13)
    kernel = turned.kernel_fn(x)
    assert (kernel.shape1, kernel.batch_axis, kernel.channel_axis) == ((2, 4, 3, 3), 0, 2)


def test_concatenated_positions_are_independent():
    x = np.random.default_rng(11).standard_normal((2, 3, 4, 2))
    net = branches(conv(), Conv(1, (1, 1), W_std=0.7), join=stax.FanInConcat(axis=1))
    found = net.kernel_fn(x, None, BOTH)
    for k, part in enumerate((conv(), Conv(1, (1, 1), W_std=0.7))):
        own = part.kernel_fn(x, None, BOTH)
        for a, b in zip(found, own, strict=True):
            np.testing.assert_allclose(a[:, :, 3 * k : 3 * k + 3, 3 * k : 3 * k + 3], b, rtol=1e-13, atol=1e-15)
    assert not found.nngp[:, :, :3, 3:].any()
    assert not found.ntk[:, :, :3, 3:].any()
    assert read_out(serial(net, Relu()), True).kernel_fn(x, None, "ntk").shape == (2, 2)


def test_sums_and_products_of_branches_with_means_over_positions():
    """Of images of one position they are those of points."""
    x = np.random.default_rng(12).standard_normal((3, 1, 4))
    for join in (stax.FanInSum(), stax.FanInProd(), stax.FanInConcat()):
        net = serial(
            branches(serial(dense(), Relu()), serial(Dense(1, 0.7, 0.1), Gelu()), join=join), dense(), Relu(), Dense(1)
        )
        points = net.kernel_fn(x[:, 0], None, BOTH, backend="numpy")
        images = serial(net, Flatten()).kernel_fn(x, None, BOTH, backend="numpy")
        for a, b in zip(images, points, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13)


def test_lists_where_neural_tangents_has_them():
    behind = serial(stax.FanOut(2), stax.parallel(dense(), serial(dense(), Relu())))
    assert type(behind.kernel_fn(A, B, "ntk")) is list
    assert type(behind.kernel_fn(A, B)) is list
    one = stax.parallel(dense(), dense())
    for given, kind in (((A, B), tuple), ([A, B], list), ((A, B), tuple)):
        assert type(one.kernel_fn(given, None, "ntk")) is kind
    nested = stax.parallel(dense(), one).kernel_fn([A, (B, B)], None, "nngp")
    assert (type(nested), type(nested[1])) == (list, tuple)
    _, params = behind.init_fn(0, A.shape)
    assert type(behind.apply_fn(params, A)) is list
    again = stax.parallel(Relu(), Dense(1)).kernel_fn(behind.kernel_fn(A, B), get="ntk")
    np.testing.assert_allclose(again[0], serial(dense(), Relu()).kernel_fn(A, B, "ntk"), rtol=1e-14)


@pytest.mark.parametrize("backend", [None, "numpy"])
def test_depths_of_images_are_cuts_of_the_network(backend):
    x1, x2 = np.concatenate([IMAGE1, np.roll(IMAGE2, 1, axis=1), -IMAGE1]), IMAGE2  # no two equal: NumPy rounds these
    parts = [conv(), Relu(), stax.AvgPool((2, 2)), conv(), Relu(), attention(), Flatten(), dense(), Relu(), Dense(1)]
    ends = [1, 4, 6, 8, 10]
    for second, get in ((x2, ("nngp", "ntk")), (None, "ntk")):
        found = serial(*parts).kernel_fn.depths(x1, second, get, backend=backend)
        for name in (get,) if isinstance(get, str) else get:
            own = found if isinstance(get, str) else getattr(found, name)
            assert [k.ndim for k in own] == [6, 6, 6, 2, 2]
            for end, k in zip(ends, own, strict=True):
                np.testing.assert_allclose(k, serial(*parts[:end]).kernel_fn(x1, second, name), rtol=1e-11, atol=1e-13)
    text = serial(Conv(1, (3,), padding="SAME", W_std=1.4), Relu(), GlobalAvgPool(), Dense(1))
    masked = np.concatenate([TEXT1, TEXT2])
    masked[0, 2:] = np.nan
    *_, last = text.kernel_fn.depths(masked, None, "ntk", mask_constant=np.nan, backend=backend)
    np.testing.assert_allclose(last, text.kernel_fn(masked, None, "ntk", mask_constant=np.nan), rtol=1e-12)


# ---------------------------------------------------------------- bad input


def over(axis, size):
    """A product with ones along an axis of the image."""
    own = stax.DotGeneral(rhs=np.ones(size), dimension_numbers=(((axis,), (0,)), ((), ())))
    return serial(conv(), own).kernel_fn(IMAGE1)


REFUSED = [
    (lambda: serial(dense(), attention()).kernel_fn(A), ValueError, r"\[serial\[1\] GlobalSelfAttention\].*positions"),
    (lambda: serial(dense(), stax.Aggregate()).kernel_fn(A), ValueError, r"\[serial\[1\] Aggregate\].*positions"),
    (lambda: stax.Aggregate().kernel_fn(TEXT1, TEXT2, pattern=(GRAPH1, None)), NotImplementedError,
     "one entry that is None"),
    (lambda: stax.Aggregate().kernel_fn(TEXT1, TEXT2, pattern=(GRAPH1, GRAPH2[:, :3])), ValueError,
     r"pattern has shape \(1, 3, 4\), expected \(1, 4, 4\)"),
    (lambda: stax.Aggregate().kernel_fn(TEXT1, pattern=GRAPH1), TypeError, r"pattern must be \(of x1, of x2\)"),
    (lambda: stax.Aggregate().kernel_fn(TEXT1, pattern=(np.ones((2, 4, 4)), None)), ValueError, r"graphs of 1 samples"),
    (lambda: stax.Aggregate().kernel_fn(TEXT1, pattern=(np.full((1, 4, 4), "a"), None)), TypeError,
     r"\[Aggregate\] pattern must hold real numbers"),
    (lambda: stax.Index(True), TypeError, r"\[Index\] idx must hold integers and slices, given True"),
    (lambda: attending(pos_emb_p_norm=np.nan), ValueError, r"\[GlobalSelfAttention\] pos_emb_p_norm"),
    (lambda: stax.Identity().kernel_fn(A, batch_axis=3), ValueError, r"channel_axis = \(3, -1\) do not fit"),
    (lambda: dense().apply_fn(dense().init_fn(0, A.shape)[1], A, mask_constant=0.0), NotImplementedError,
     r"\[apply_fn\] mask_constant was given"),
    (lambda: conv().kernel_fn(IMAGE1)[:, 4], IndexError, r"\[Kernel\] index 4 is out of range for axis 1"),
    (lambda: conv().kernel_fn(IMAGE1).mask(np.ones((1, 3, 4, 1)), None), ValueError, r"a mask must broadcast to"),
    (lambda: conv().kernel_fn(IMAGE1).dot_general(np.ones(7), None, False, (((1,), (0,)), ((), ()))), ValueError,
     r"\[Kernel\] axis 1 of outputs of shape \(1, 4, 4, 1\) does not fit axis 0 of a factor of shape \(7,\)"),
    (lambda: stax.Aggregate(implementation="SPARSE").kernel_fn(TEXT1, pattern=(np.array([[[0, 4]]]), None)), ValueError,
     r"names vertex 4"),
    (lambda: stax.Dropout(0.5).apply_fn((), TEXT1), TypeError, r"\[Dropout\] apply_fn needs rng="),
    (lambda: stax.Dropout(1.5), ValueError, r"\[Dropout\] rate .*1\.5"),
    (lambda: stax.Dropout(0.5, "eval"), ValueError, r"\[Dropout\] mode .*'eval'"),
    (lambda: stax.Dropout(0.5).kernel_fn(A), ValueError, r"\[Dropout\] drops outputs of layers"),
    (lambda: serial(conv(), stax.Index(stax.Slice[:, 4])).kernel_fn(IMAGE1), ValueError, r"index 4 is out of range.*4"),
    (lambda: serial(conv(), stax.Index(stax.Slice[::2])).kernel_fn(IMAGE1), NotImplementedError, "indexes samples"),
    (lambda: serial(conv(), stax.Index(stax.Slice[..., :1])).kernel_fn(IMAGE1), NotImplementedError,
     "indexes channels"),
    (lambda: serial(conv(), stax.Index(stax.Slice[:, 2:2])).kernel_fn(IMAGE1), ValueError, "leaves no position"),
    (lambda: stax.Index("a"), TypeError, r"\[Index\] idx must be an integer"),
    (lambda: stax.ImageResize((-1, 2, 2, -1), "quintic"), ValueError,
     r"\[ImageResize\] method must be one of.*'quintic'"),
    (lambda: serial(conv(), stax.ImageResize((-1, 2, -1), "linear")).kernel_fn(IMAGE1), ValueError,
     "given inputs of 4 axes"),
    (lambda: serial(conv(), stax.ImageResize((-1, 2, 2, 5), "linear")).kernel_fn(IMAGE1), ValueError,
     "resizes channels"),
    (lambda: stax.DotGeneral(lhs=1.0, rhs=1.0), ValueError, "both given"),
    (lambda: over(1, 3),
     ValueError, r"axis 1 of inputs.*does not fit axis 0"),
    (lambda: over(3, 1),
     ValueError, "along the channels"),
    (lambda: over(0, 1),
     NotImplementedError, "along the samples"),
    (lambda: attending(linear_scaling=False).kernel_fn(TEXT1), NotImplementedError, "no closed form with SOFTMAX"),
    (lambda: attending(attention_mechanism="MAX"), ValueError, "attention_mechanism must be one of"),
    (lambda: attending(pos_emb_type="SUM", n_chan_pos_emb=3).kernel_fn(TEXT1), ValueError, "added to 1 channels"),
    (lambda: attending(allowed=np.ones((3, 3))).kernel_fn(TEXT1), ValueError,
     r"allowed has shape \(3, 3\).*4 positions"),
    (lambda: stax.ConvTranspose(1, (3, 3), padding=1), ValueError, r"\[ConvTranspose\] padding"),
    (lambda: stax.ConvTranspose(1, (3, 3), dilation=(2, 2)), ValueError, r"\[ConvTranspose\] has no dilation"),
    (lambda: serial(conv(), stax.LayerNorm((1, 2))).kernel_fn(IMAGE1), ValueError, "without the channels' axis 3"),
    (lambda: branches(conv(), conv(), join=stax.FanInConcat(axis=0)).kernel_fn(IMAGE1), NotImplementedError,
     "of samples"),
    (lambda: branches(serial(conv(), Relu()), conv(), join=stax.FanInConcat(axis=1)).kernel_fn(IMAGE1),
     NotImplementedError, "Gaussian branches side by side"),
    (lambda: branches(conv(), Conv(1, (2, 2)), join=stax.FanInConcat(axis=1)).kernel_fn(IMAGE1), ValueError,
     "may differ along axis 1 alone"),
    (lambda: dense().kernel_fn(A, mask_constant="0"), TypeError, "mask_constant must be a number"),
    (lambda: dense().kernel_fn(A, channel_axis=0), ValueError,
     "channel_axis=0 was given, the network's layers have -1"),
    (lambda: dense().kernel_fn(A, x1_or_kernel=A), TypeError, "two names of one argument"),
    (lambda: stax.repeat(dense(), -1), ValueError, r"\[repeat\] n"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), REFUSED)
def test_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_keywords_that_change_nothing():
    net = serial(dense(), Relu(), Dense(1))
    plain = net.kernel_fn(A, B, "ntk")
    given = net.kernel_fn(
        x1_or_kernel=A, x2=B, get="ntk", pattern=(None, None), mask_constant=None, diagonal_batch=True,
        diagonal_spatial=False, batch_axis=0, channel_axis=-1,
    )  # fmt: skip
    np.testing.assert_array_equal(given, plain)
    np.testing.assert_array_equal(net.kernel_fn(A, B, "ntk", batch_axis=-2, channel_axis=1), plain)
    turned = stax.Identity().kernel_fn(TEXT1.swapaxes(1, 2), TEXT2.swapaxes(1, 2), "nngp", channel_axis=1)
    np.testing.assert_array_equal(turned, stax.Identity().kernel_fn(TEXT1, TEXT2, "nngp"))
