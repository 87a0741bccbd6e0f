"""A Kernel's own methods: what is indexed, turned, masked and multiplied, against networks that do the same."""

from __future__ import annotations

import numpy as np
import pytest
from fastntk import stax
from fastntk.stax import Dense, Relu, serial
from layers_inputs import conv, dense

BOTH = ("nngp", "ntk", "cov1", "cov2")
X1 = np.random.default_rng(0).standard_normal((3, 4, 5, 2))
X2 = np.random.default_rng(1).standard_normal((2, 4, 5, 2))
NET = serial(conv(), Relu(), conv())


def same(found, expected, names=BOTH):
    for name in names:
        a, b = getattr(found, name), getattr(expected, name)
        assert a.shape == b.shape, name
        assert np.abs(a - b).max() <= 1e-13 * np.abs(b).max(), name  # arrays of ten axes take long to print
    for name in ("shape1", "shape2", "batch_axis", "channel_axis"):
        assert getattr(found, name) == getattr(expected, name), name


@pytest.mark.parametrize(
    "idx", [stax.Slice[:, 1:3, ::-1], stax.Slice[:, 2], stax.Slice[..., -1, :], stax.Slice[:, ::2]]
)
def test_an_index_is_the_layers(idx):
    same(NET.kernel_fn(X1, X2)[idx], serial(NET, stax.Index(idx)).kernel_fn(X1, X2))


def test_samples_are_indexed_on_both_sides():
    same(NET.kernel_fn(X1, X2)[:1], NET.kernel_fn(X1[:1], X2[:1]))
    same(NET.kernel_fn(X1, X2).slice(slice(1, 3), slice(0, 1)), NET.kernel_fn(X1[1:3], X2[:1]))
    points = serial(dense(), Relu(), dense()).kernel_fn(X1[:, 0, 0])
    part = points.slice(slice(0, 2), slice(1, 3))
    assert not part.x1_is_x2
    own = serial(Relu(), Dense(1))
    np.testing.assert_array_equal(own.kernel_fn(part).ntk, own.kernel_fn(points).ntk[:2, 1:3])


def test_axes_are_turned():
    k = NET.kernel_fn(X1, X2)
    turned = k.transpose((1, 0))
    np.testing.assert_array_equal(turned.nngp, k.nngp.transpose(0, 1, 4, 5, 2, 3))
    np.testing.assert_array_equal(turned.cov1, k.cov1.transpose(0, 3, 4, 1, 2))
    back = turned.reverse()
    np.testing.assert_array_equal(back.nngp, k.nngp)
    assert back.is_reversed
    assert (-k) is k is +k
    np.testing.assert_array_equal((k - 2.0).nngp, (k + 2.0).nngp)


def test_products_are_the_layers():
    factor = np.random.default_rng(2).standard_normal((5, 4, 3))
    both = (((2,), (0,)), ((1,), (1,)))
    for numbers in ((((2,), (0,)), ((), ())), (((1, 2), (1, 0)), ((), ())), both, (((), ()), ((2, 1), (0, 1)))):
        layer = stax.DotGeneral(rhs=factor, dimension_numbers=numbers)
        same(NET.kernel_fn(X1, X2).dot_general(factor, factor, False, numbers), serial(NET, layer).kernel_fn(X1, X2))
        turned = tuple(pair[::-1] for pair in numbers)
        layer = stax.DotGeneral(lhs=factor, dimension_numbers=turned)
        same(NET.kernel_fn(X1, X2).dot_general(factor, factor, True, turned), serial(NET, layer).kernel_fn(X1, X2))


def test_masks_are_those_of_the_call():
    masked1, masked2 = X1.copy(), X2.copy()
    masked1[0, 2:] = masked1[1, :, 3:] = masked2[1, 0] = np.nan
    k = NET.kernel_fn(masked1, masked2, mask_constant=np.nan)
    assert (k.mask1.shape, k.mask2.shape) == ((3, 4, 5, 1), (2, 4, 5, 1))
    np.testing.assert_array_equal(k.mask1[..., 0], np.isnan(masked1).all(-1))
    np.testing.assert_array_equal(NET.kernel_fn(masked1, masked2, "mask2", mask_constant=np.nan), k.mask2)
    plain = NET.kernel_fn(X1, X2)
    assert plain.mask1 is None and plain.mask2 is None  # noqa: PT018
    again = k.mask(k.mask1, k.mask2)
    same(again, k)
    assert (k.nngp[0, :, 2:] == 0).all()
    shut = plain.mask(k.mask1, k.mask2)
    assert ((shut.nngp == 0) == (k.nngp == 0)).all()
    assert ((shut.cov1 == 0) == (k.cov1 == 0)).all()
    assert ((shut.cov2 == 0) == (k.cov2 == 0)).all()
    part = k[:, 1:]
    np.testing.assert_array_equal(part.mask1, k.mask1[:, 1:])


@pytest.mark.parametrize(
    ("idx", "error", "words"),
    [
        (stax.Slice[0], NotImplementedError, "samples, axis 0"),
        (stax.Slice[..., 0], NotImplementedError, "channels, axis 3"),
        (stax.Slice[:, :, :, :, 0], IndexError, "4 axes, given 5"),
        ("a", TypeError, "slices, integers"),
        (stax.Slice[:, 9], IndexError, "out of range"),
    ],
)
def test_indices_are_refused(idx, error, words):
    with pytest.raises(error, match=words):
        NET.kernel_fn(X1)[idx]


def test_products_and_masks_are_refused():
    k = NET.kernel_fn(X1)
    with pytest.raises(ValueError, match="along channels, axis 3"):
        k.dot_general(np.ones(1), np.ones(1), False, (((3,), (0,)), ((), ())))
    with pytest.raises(NotImplementedError, match="sum over samples, axis 0"):
        k.dot_general(np.ones(3), np.ones(3), False, (((0,), (0,)), ((), ())))
    with pytest.raises(ValueError, match="with 1 channel"):
        k.mask(np.zeros((3, 4, 5, 2), bool), None)
    with pytest.raises(ValueError, match="each of 2 spatial axes once"):
        k.transpose((0, 0))
