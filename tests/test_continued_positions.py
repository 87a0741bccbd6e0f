"""Kernels with positions that networks continue: a network cut anywhere has the same digits."""

from __future__ import annotations

import numpy as np
import pytest
from fastntk import stax
from fastntk.engines import select
from fastntk.stax import Conv, Dense, Flatten, Gelu, GlobalAvgPool, Relu, serial
from layers_inputs import attention, branches, conv

X1 = np.random.default_rng(0).standard_normal((3, 4, 3, 2))
X2 = np.random.default_rng(1).standard_normal((2, 4, 3, 2))
LAYERS = [
    conv(), Relu(), stax.AvgPool((2, 1), padding="SAME"), conv(), stax.LayerNorm(), Gelu(), Dense(1, 1.2), attention(),
    branches(serial(Dense(1), Relu()), serial(Dense(1), stax.Erf()), join=stax.FanInProd()), Conv(1, (2, 2)), Relu(),
    GlobalAvgPool(), Dense(1),
]  # fmt: skip


@pytest.mark.parametrize("x2", [X2, None])
@pytest.mark.parametrize("at", range(1, 12))
def test_cut_anywhere(at, x2):
    whole = serial(*LAYERS).kernel_fn(X1, x2)
    begun = serial(*LAYERS[:at]).kernel_fn(X1, x2, backend="numpy")
    found = serial(*LAYERS[at:]).kernel_fn(begun)
    for name in ("nngp", "ntk", "cov1") + (("cov2",) if x2 is not None else ()):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-11, err_msg=name)
    assert (found.shape1, found.shape2, found.x1_is_x2) == (whole.shape1, whole.shape2, whole.x1_is_x2)


def test_positions_that_stay():
    begun = serial(conv(), Relu()).kernel_fn(X1, X2)
    whole = serial(conv(), Relu(), conv()).kernel_fn(X1, X2)
    for given in (begun, begun.reverse()):
        found = conv().kernel_fn(given)
        np.testing.assert_allclose(found.ntk, whole.ntk, rtol=1e-12, atol=1e-13)
    pooled = serial(conv(), Flatten()).kernel_fn(begun, get="nngp")
    np.testing.assert_allclose(pooled, serial(conv(), Relu(), conv(), Flatten()).kernel_fn(X1, X2, "nngp"), rtol=1e-12)


def test_masks_go_on():
    masked = X1.copy()
    masked[0, 2:] = masked[1, :, 2:] = np.nan
    whole = serial(conv(), Relu(), conv(), Gelu(), GlobalAvgPool()).kernel_fn(masked, X2, mask_constant=np.nan)
    begun = serial(conv(), Relu()).kernel_fn(masked, X2, mask_constant=np.nan)
    found = serial(conv(), Gelu(), GlobalAvgPool()).kernel_fn(begun)
    np.testing.assert_allclose(found.ntk, whole.ntk, rtol=1e-12)
    np.testing.assert_allclose(found.cov1, whole.cov1, rtol=1e-12)


def test_masked_samples_go_on_behind_pools():
    masked = X1.copy()
    masked[1] = np.nan  # of which nothing is left, biases neither
    layers = [conv(), Relu(), GlobalAvgPool(), Dense(1, 1.2, 0.3), Relu(), Dense(1, 1.1, 0.2)]
    whole = serial(*layers).kernel_fn(masked, X2, mask_constant=np.nan)
    assert not whole.ntk[1].any()
    for at in (3, 4, 5):
        begun = serial(*layers[:at]).kernel_fn(masked, X2, mask_constant=np.nan)
        found = serial(*layers[at:]).kernel_fn(begun)
        np.testing.assert_allclose(found.ntk, whole.ntk, rtol=1e-12)
        np.testing.assert_array_equal(found.mask1, whole.mask1)


BLOCK = [
    Dense(1, 1.3, 0.2), stax.FanOut(2), stax.parallel(stax.Identity(), attention()), stax.FanInSum(), stax.LayerNorm(),
    stax.FanOut(2), stax.parallel(stax.Identity(), serial(Dense(1, 1.3, 0.2), Gelu(), Dense(1))), stax.FanInSum(),
    stax.LayerNorm(), stax.FanOut(2), stax.parallel(Dense(1), serial(Dense(1), Relu())), stax.FanInConcat(), Dense(1),
    Relu(), stax.Dropout(0.8), Dense(1, channel_axis=-1), Flatten(), Dense(1), Relu(), stax.Dropout(0.7), Dense(1),
]  # fmt: skip


@pytest.mark.parametrize("x2", [X2, None])
def test_a_block_is_cut_between_its_branches_too(x2):
    whole = serial(*BLOCK).kernel_fn(X1, x2)
    for at in range(1, len(BLOCK)):
        found = serial(*BLOCK[at:]).kernel_fn(serial(*BLOCK[:at]).kernel_fn(X1, x2))
        for name in ("nngp", "ntk", "cov1"):
            np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-10, err_msg=f"{name}, {at}")


def test_what_is_known_of_a_continued_kernel():
    odd, even = (serial(Dense(1, 1.3), phi).kernel_fn(X1[:, 0, 0]) for phi in (stax.Erf(), Relu()))
    assert (odd.is_centred, odd[1:].is_centred, (odd + 1.0).is_centred, even.is_centred) == (True, True, False, False)
    assert serial(stax.LayerNorm(), Dense(1)).kernel_fn(odd, get="ntk").shape == (3, 3)
    with pytest.raises(NotImplementedError, match=r"\[serial\[0\] LayerNorm\] takes values whose mean over channels"):
        serial(stax.LayerNorm(), Dense(1)).kernel_fn(even)
    with pytest.raises(NotImplementedError, match="random by the same weights"):
        stax.FanInSum().kernel_fn([even, even])
    with pytest.raises(NotImplementedError, match="the means of its branches count"):
        stax.FanInSum().kernel_fn([even, serial(Dense(1, 0.7), Relu()).kernel_fn(X1[:, 0, 0])])
    gram = serial(Dense(1, 1.3), Relu()).kernel_fn(np.stack([X1[:, 0, 0]] * 2), batch_dims=1)
    with pytest.raises(NotImplementedError, match=r"with Dropout, continues one Gram"):
        serial(stax.Dropout(0.5), Dense(1)).kernel_fn(gram, batch_dims=1)


def test_channels_between_positions():
    layers = [Conv(1, (2, 2), dimension_numbers=("NHWC", "HWIO", "NHCW")), Relu(), Flatten(), Dense(1)]
    whole = serial(*layers).kernel_fn(X1, X2, "ntk")
    for at in (1, 2):
        found = serial(*layers[at:]).kernel_fn(serial(*layers[:at]).kernel_fn(X1, X2), get="ntk")
        np.testing.assert_allclose(found, whole, rtol=1e-12)


def test_float32_stays():
    begun = serial(conv(), Relu()).kernel_fn(X1.astype(np.float32), backend="numpy")
    found = serial(conv(), Flatten()).kernel_fn(begun, get="ntk")
    assert found.dtype == np.float32
    expected = serial(conv(), Relu(), conv(), Flatten()).kernel_fn(X1, None, "ntk")
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_refused():
    k = serial(conv(), Relu()).kernel_fn(X1, X2)
    with pytest.raises(ValueError, match=r"x1.ntk has shape \(3, 2, 4, 4, 3, 2\), expected \(3, 2, 4, 4, 3, 3\)"):
        conv().kernel_fn(k.replace(ntk=k.ntk[..., :2]))
    with pytest.raises(ValueError, match="cov1 holds variances below 0"):
        conv().kernel_fn(k.replace(cov1=-k.cov1))
    with pytest.raises(ValueError, match=r"x1.ntk; the Kernel given has None"):
        serial(conv(), Flatten()).kernel_fn(k.replace(ntk=None), get="ntk")
    assert serial(conv(), Flatten()).kernel_fn(k.replace(ntk=None)).ntk is None
    with pytest.raises(TypeError, match=r"cov1 is float32, x1.nngp is float64"):
        conv().kernel_fn(k.replace(cov1=k.cov1.astype(np.float32)))


@pytest.mark.skipif(select.load("cpu")[0] is None, reason="the compiled module is not there")
def test_compiled_backends_continue_as_numpy_does():
    k = serial(conv(), Relu()).kernel_fn(X1, X2)
    found, expected = (conv().kernel_fn(k, None, ("nngp", "ntk"), backend=b) for b in ("cpu", "numpy"))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
