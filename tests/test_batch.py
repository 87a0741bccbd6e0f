"""``fastntk.batch``: parts of any size make the whole."""

from __future__ import annotations

import fastntk
import numpy as np
import pytest
from fastntk import stax
from fastntk.stax import Dense, Relu, serial
from layers_inputs import conv

NET = serial(Dense(1, 1.3, 0.2), Relu(), Dense(1))
rng = np.random.default_rng(0)
X1, X2 = rng.standard_normal((7, 3)), rng.standard_normal((5, 3))


def foreign(x1, x2=None, get=None, **keywords):
    """A function that is not the library's."""
    return NET.kernel_fn(x1, x2, get, backend="numpy", **keywords)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 100])
@pytest.mark.parametrize("x2", [X2, None])
def test_parts_make_the_whole(size, x2):
    batched = fastntk.batch(foreign, size)
    for get in ("ntk", ("nngp", "ntk"), None):
        found, expected = batched(X1, x2, get), foreign(X1, x2, get)
        names = ("nngp", "ntk", "cov1") + (() if x2 is None else ("cov2",)) if get is None else get
        if get == "ntk":
            np.testing.assert_allclose(found, expected, rtol=1e-13)
            continue
        assert type(found) is type(expected)
        for name in names:
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-13)
        if get is None:
            assert (found.shape1, found.shape2, found.x1_is_x2) == (expected.shape1, expected.shape2, expected.x1_is_x2)
            again = serial(Relu(), Dense(1)).kernel_fn(found, get="ntk")
            np.testing.assert_allclose(again, serial(Relu(), Dense(1)).kernel_fn(expected, get="ntk"), rtol=1e-7)


def test_the_librarys_own_kernels_are_the_same_bits():
    batched = fastntk.batch(NET.kernel_fn, batch_size=2, device_count=0, store_on_device=False)
    np.testing.assert_array_equal(batched(X1, X2, "ntk"), NET.kernel_fn(X1, X2, "ntk"))
    np.testing.assert_array_equal(batched(X1).ntk, NET.kernel_fn(X1).ntk)


def test_graphs_masks_and_branches_are_cut_too():
    texts = rng.standard_normal((5, 4, 2))
    texts[2, 1:] = np.nan
    graphs = rng.integers(0, 2, (5, 4, 4))
    net = serial(Dense(1), stax.Aggregate(), Relu())

    def whole(x1, x2=None, get=None, **keywords):
        return net.kernel_fn(x1, x2, get, mask_constant=np.nan, **keywords)

    batched = fastntk.batch(whole, 2)
    found, expected = (f(texts, None, None, pattern=(graphs, None)) for f in (batched, whole))
    for name in ("nngp", "ntk", "cov1"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-13, atol=1e-14)
    both = serial(stax.parallel(Dense(1), Dense(1)), stax.FanInSum())
    two = fastntk.batch(lambda x1, x2=None: both.kernel_fn(x1, x2, "ntk"), 3)
    np.testing.assert_allclose(two((X1, X1[:, :2])), both.kernel_fn((X1, X1[:, :2]), None, "ntk"), rtol=1e-13)


def test_images_with_positions():
    x = rng.standard_normal((5, 3, 2, 2))
    batched = fastntk.batch(lambda x1, x2=None, get=None: conv().kernel_fn(x1, x2, get), 2)
    np.testing.assert_allclose(batched(x, x[:3]).nngp, conv().kernel_fn(x, x[:3]).nngp, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: fastntk.batch(3), TypeError, "must be a function, given int"),
        (lambda: fastntk.batch(foreign, -1), ValueError, "batch_size must be at least 0"),
        (lambda: fastntk.batch(lambda x1, x2=None: 3.0, 2)(X1), TypeError, r"arrays \(n1, n2, \.\.\.\)"),
    ],
)
def test_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
