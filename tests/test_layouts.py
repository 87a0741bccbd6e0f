"""Neural Tangents' other layouts of kernels: all pairs of a side's samples, positions with themselves alone."""

from __future__ import annotations

import numpy as np
import pytest
from fastntk import stax
from fastntk.stax import Conv, Dense, FanInSum, Flatten, GlobalAvgPool, Relu, serial
from layers_inputs import GRAPH1, GRAPH2, TEXT1, TEXT2, conv, dense

X1 = np.random.default_rng(0).standard_normal((3, 4, 5, 2))
X2 = np.random.default_rng(1).standard_normal((2, 4, 5, 2))
NET = serial(conv(), Relu(), Conv(1, (2, 2)), Relu())
FULL = {"diagonal_batch": False}
ALONE = {"diagonal_spatial": True}


def same(a, b):
    for name in ("nngp", "ntk", "cov1", "cov2"):
        one, two = getattr(a, name), getattr(b, name)
        assert (one is None) == (two is None), name
        if one is not None:
            np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-14, err_msg=name)
    for name in ("shape1", "shape2", "diagonal_batch", "diagonal_spatial", "x1_is_x2", "is_gaussian"):
        assert getattr(a, name) == getattr(b, name), name


@pytest.mark.parametrize("net", [NET, serial(NET, GlobalAvgPool(), dense())])
def test_covariances_of_a_side(net):
    k = net.kernel_fn(X1, X2, **FULL)
    np.testing.assert_array_equal(k.nngp, net.kernel_fn(X1, X2, "nngp"))
    np.testing.assert_allclose(k.cov1, net.kernel_fn(X1, None, "nngp"), rtol=1e-13)
    np.testing.assert_allclose(k.cov2, net.kernel_fn(X2, None, "nngp"), rtol=1e-13)
    own = net.kernel_fn(X1, **FULL)
    assert own.cov2 is None
    np.testing.assert_allclose(own.cov1, own.nngp, rtol=1e-13)
    found = net.kernel_fn(X1, X2, ("ntk", "cov2"), **FULL)
    np.testing.assert_array_equal(found.cov2, k.cov2)
    assert type(found).__name__ == "AnalyticKernel"


def equal(k):
    return np.einsum("...hhww->...hw", k)


def test_positions_with_themselves():
    usual, k = NET.kernel_fn(X1, X2), NET.kernel_fn(X1, X2, **ALONE)
    for name in ("nngp", "ntk", "cov1", "cov2"):
        np.testing.assert_array_equal(getattr(k, name), equal(getattr(usual, name)))
    assert (k.shape1, k.diagonal_spatial) == (usual.shape1, True)
    np.testing.assert_array_equal(NET.kernel_fn(X1, X2, "ntk", **ALONE), k.ntk)
    pooled = serial(NET, GlobalAvgPool())
    np.testing.assert_array_equal(pooled.kernel_fn(X1, X2, "ntk", **ALONE), pooled.kernel_fn(X1, X2, "ntk"))
    both = NET.kernel_fn(X1, **ALONE, **FULL)
    np.testing.assert_array_equal(both.cov1, both.nngp)


@pytest.mark.parametrize("flags", [FULL, ALONE, FULL | ALONE])
@pytest.mark.parametrize("rest", [serial(dense(), Relu()), serial(dense(), Relu(), Flatten(), Dense(1))])
def test_they_are_continued(flags, rest):
    for x2 in (X2, None):
        whole = serial(NET, rest).kernel_fn(X1, x2, **flags)
        found = rest.kernel_fn(NET.kernel_fn(X1, x2, **flags))
        found = found if whole.nngp.ndim > 2 else found.replace(diagonal_spatial=whole.diagonal_spatial)
        same(found, whole)


def test_branches_and_graphs():
    net = serial(stax.FanOut(2), stax.parallel(dense(), serial(dense(), Relu())))
    found = net.kernel_fn(TEXT1, TEXT2, **FULL)
    assert type(found) is list
    again = stax.parallel(Relu(), dense()).kernel_fn(found)
    np.testing.assert_allclose(again[0].cov2, serial(dense(), Relu()).kernel_fn(TEXT2, None, "nngp"), rtol=1e-13)
    graph = serial(dense(), stax.Aggregate(), Relu(), GlobalAvgPool())
    k = graph.kernel_fn(TEXT1, TEXT2, pattern=(GRAPH1, GRAPH2), **FULL)
    expected = graph.kernel_fn(TEXT2, None, "nngp", pattern=(GRAPH2, None))
    np.testing.assert_allclose(k.cov2, expected, rtol=1e-13)


@pytest.mark.parametrize("flags", [FULL, ALONE, FULL | ALONE])
def test_views(flags):
    k, usual = NET.kernel_fn(X1, X2, **flags), NET.kernel_fn(X1, X2)
    masks = np.zeros((3, 3, 4, 1), bool), np.zeros((2, 3, 4, 1), bool)
    masks[0][0, 1:] = masks[1][1, :, 2] = True
    at = np.s_[:2, 1:, ::2]
    for view in (
        lambda k: k[at], lambda k: k.slice(slice(0, 2), slice(1, 2)), lambda k: k.transpose((1, 0)),
        lambda k: k.reverse(), lambda k: k.mask(*masks), lambda k: 2.0 * k + 1.0,
    ):  # fmt: skip
        found, expected = view(k), view(usual)
        pick = equal if k.diagonal_spatial else np.asarray
        np.testing.assert_array_equal(found.nngp, pick(expected.nngp))
        variances = found.cov1 if k.diagonal_batch else np.moveaxis(found.cov1.diagonal(axis1=0, axis2=1), -1, 0)
        np.testing.assert_allclose(variances, pick(expected.cov1), rtol=1e-12)
        assert (found.shape1, found.shape2) == (expected.shape1, expected.shape2)


def test_refused():
    usual, alone = NET.kernel_fn(X1, X2), NET.kernel_fn(X1, X2, **ALONE)
    with pytest.raises(ValueError, match="the Kernel given holds variances alone"):
        dense().kernel_fn(usual, **FULL)
    for rest in (GlobalAvgPool(), serial(dense(), Relu(), stax.AvgPool((2, 2)))):
        with pytest.raises(ValueError, match=r"input 0 is a Kernel with diagonal_spatial=True"):
            rest.kernel_fn(alone)
    with pytest.raises(ValueError, match="batch_dims must be 0"):
        dense().kernel_fn(X1, batch_dims=1, **FULL)
    with pytest.raises(NotImplementedError, match="take arrays in host memory"):
        dense().kernel_fn(X1[:, 0, 0], None, "nngp", out=np.empty((3, 3)), **FULL)
    with pytest.raises(TypeError, match="diagonal_batch must be True, False or None"):
        dense().kernel_fn(X1, diagonal_batch="yes")
    with pytest.raises(NotImplementedError, match="reads pairs of positions"):
        alone.dot_general(np.ones(3), np.ones(3), False, (((1,), (0,)), ((), ())))


@pytest.mark.rivals
@pytest.mark.parametrize("library", ["torch", "jax.numpy"])
def test_arrays_of_other_libraries(library):
    module = pytest.importorskip(library)
    of = module.from_numpy if library == "torch" else module.asarray
    rng = np.random.default_rng(0)
    x1, x2 = (rng.standard_normal((n, 3, 4, 2)).astype(np.float32) for n in (2, 3))
    net = serial(Conv(1, (2, 3), padding="SAME"), Relu(), Conv(1, (2, 3), padding="SAME"))
    for layout in (FULL, ALONE, {}):
        k, theirs = net.kernel_fn(x1, x2, **layout), net.kernel_fn(of(x1), of(x2), **layout)
        for field in ("nngp", "ntk", "cov1", "cov2"):
            assert type(getattr(theirs, field)) is type(of(x1))
            np.testing.assert_array_equal(np.asarray(getattr(theirs, field)), getattr(k, field))
        some = net.kernel_fn(of(x1), of(x2), ("cov1", "nngp"), **layout)
        np.testing.assert_array_equal(np.asarray(some.cov1), k.cov1)
    further = serial(Relu(), Flatten(), Dense(1)).kernel_fn
    np.testing.assert_array_equal(np.asarray(further(theirs).ntk), further(k).ntk)  # a kernel of theirs, continued
    with pytest.raises(NotImplementedError, match="random by the same weights"):
        FanInSum().kernel_fn([serial(net, Relu()).kernel_fn(of(x1), of(x2)) for _ in range(2)])  # one random function


def test_lists_and_views():
    x = np.random.default_rng(0).standard_normal((3, 4))
    net = serial(Dense(1), Relu(), Dense(1)).kernel_fn
    expected = net(x, **FULL).cov1
    np.testing.assert_array_equal(net(x.tolist(), **FULL).cov1, expected)
    np.testing.assert_array_equal(net(np.asfortranarray(x), x[::-1], **FULL).cov2, expected[::-1, ::-1])
