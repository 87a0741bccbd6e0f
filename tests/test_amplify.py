"""Networks that pull near inputs apart, in float32: row numbers whose differences count come in two parts."""

from __future__ import annotations

import functools

import numpy as np
import oracles
import pytest
from fastntk import stax
from fastntk.engines import planes, select
from fastntk.network.amplify import loses
from fastntk.network.lower import lower
from fastntk.network.program import Value
from test_kernels import build, check, dense

# What doubles a small 1 - rho each layer, or takes its root; with a bias, to which differing variances add one.
AMPLIFYING = {
    "rbf": (stax.Rbf(0.8), 50), "sin": (stax.Sin(1.0, 2.0, 0.0), 10), "sign": (stax.Sign(), 10),
    "step": (stax.RectifiedMonomial(0), 10), "exp_normalized": (stax.ExpNormalized(1.5, 0.0), 10),
}  # fmt: skip


@functools.cache
def inputs():
    """Multiples of one row by 1 + 2^-23 .. 1 + 2^-20, exact in float32's numbers as they are; others beside them."""
    x = np.random.default_rng(0).standard_normal((8, 16))
    for k, factor in enumerate((1 + 2.0**-23, 1 + 2.0**-22, 1 + 2.0**-20, -1 - 2.0**-21, 1.3), start=1):
        x[k] = factor * x[0]
    x[6] = x[0] + 1e-6 * x[7]
    return x.astype(np.float32)


@functools.cache
def exact(name):
    layer, depth = AMPLIFYING[name]
    return oracles.stack(dense(1.0, 0.3), ("phi", layer), inputs(), (depth,))[depth]


def stack(layer, depth, W_std=1.0, b_std=0.3):
    return build([dense(W_std, b_std), *[("phi", layer), dense(W_std, b_std)] * depth])


@pytest.mark.parametrize("name", AMPLIFYING)
def test_variances_that_differ_by_their_last_bits(name, backend):
    layer, depth = AMPLIFYING[name]
    found = stack(layer, depth).kernel_fn(inputs(), None, ("nngp", "ntk"))
    check(found, exact(name), depth, np.float32)


def kinds(net):
    return [op.kind for op in lower(net, Value(0, (16,), 1)).program.ops if op.name == "dense"]


def test_which_networks_read_them():
    for layer, depth in AMPLIFYING.values():
        assert "fine" in kinds(stack(layer, depth))
    for layer in (stax.Relu(), stax.Erf(), stax.Gelu(), stax.Gaussian(), stax.Sin(), stax.Tanh()):
        assert set(kinds(stack(layer, 50))) == {"bias"}
    assert set(kinds(stack(stax.Rbf(0.8), 50, b_std=None))) <= {"plain", "guard"}
    assert kinds(stack(stax.Rbf(0.8), 50))[-1] == "bias"  # nothing comes behind


# What sees by how much variances differ, and says so in numbers of one part: near pairs are computed in float64.
LOSING = {
    "erf": (stax.Erf(1.0, 3.0), 1.0, 50), "gabor": (stax.Gabor(), 2.0, 50), "gaussian": (stax.Gaussian(), 2.2, 50),
    "gelu": (stax.Gelu(), 1.0, 10),
}  # fmt: skip


@functools.cache
def exact_of_losing(name):
    layer, W_std, depth = LOSING[name]
    return oracles.stack(dense(W_std, 0.3), ("phi", layer), inputs(), (depth,))[depth]


@pytest.mark.parametrize("name", ["erf", "gabor", "gaussian"])
def test_near_pairs_of_networks_that_pull_them_apart(name, backend):
    if backend.startswith("cuda"):
        pytest.skip("near pairs are computed once more on the host alone")
    layer, W_std, depth = LOSING[name]
    found = stack(layer, depth, W_std).kernel_fn(inputs(), None, ("nngp", "ntk"))
    check(found, exact_of_losing(name), depth, np.float32)


def test_near_pairs_of_sums_and_of_functions_without_closed_form(backend):
    """Against float64, which has all digits."""
    if backend.startswith("cuda"):
        pytest.skip("near pairs are computed once more on the host alone")
    sine, own = stax.Sin(1.0, 2.0, 0.0), stax.Dense(1, 1.0, 0.3)
    branch = stax.serial(sine, own)
    block = stax.serial(stax.FanOut(2), stax.parallel(branch, branch), stax.FanInSum())
    wide = stax.Dense(1, 2.5, 0.3)
    for net in (stax.serial(own, *[block] * 20), stax.serial(wide, *[stax.Tanh(), wide] * 20)):
        x = inputs()[:7]
        found = net.kernel_fn(x, None, ("nngp", "ntk"))
        for own_kernel, expected in zip(found, net.kernel_fn(x.astype(np.float64), None, ("nngp", "ntk")), strict=True):
            size = np.sqrt(np.diag(expected))
            error = np.abs(own_kernel - expected) / np.maximum(np.abs(expected), 0.5 * np.outer(size, size))
            assert error.max() < 3e-6


def test_which_networks_compute_near_pairs_again():
    def of(net):
        return loses(lower(net, Value(0, (16,), 1)))

    for name, (layer, W_std, depth) in LOSING.items():
        assert of(stack(layer, depth, W_std)) == (name != "gelu")
    for layer, depth in AMPLIFYING.values():  # by numbers in two parts, or variances do not matter
        assert not of(stack(layer, depth))
    assert not of(stack(stax.Erf(), 10, 1.5))
    assert not of(stack(stax.Relu(), 50))


def test_near_pairs_are_the_same_whatever_stands_beside_them(backend):
    if not backend.startswith("cpu"):
        pytest.skip("the others' product is a BLAS's")
    x = np.concatenate([inputs(), np.random.default_rng(1).standard_normal((300, 16)).astype(np.float32)])
    kernel_fn = stack(stax.Erf(1.0, 3.0), 20).kernel_fn
    whole = kernel_fn(x, None, "ntk")
    np.testing.assert_array_equal(whole, whole.T)
    np.testing.assert_array_equal(kernel_fn(x[2:7], x[:30], "ntk"), whole[2:7, :30])


IMAGES = {"sign": (stax.Sign(), 10, 1e-6), "sin": (stax.Sin(1.0, 2.0), 16, 1e-6), "erf": (stax.Erf(1.0, 3.0), 16, 3e-6)}


def images():
    x = np.random.default_rng(0).standard_normal((5, 3, 4, 2))
    for k, factor in enumerate((1 + 2.0**-23, 1 + 2.0**-20, -1 - 2.0**-21), start=1):
        x[k] = factor * x[0]
    return x.astype(np.float32)


def errors_of_images(name, end, backend="cpu"):
    """Of the largest entry, against the definition in float64."""
    layer, depth, _ = IMAGES[name]
    layers = [stax.Conv(1, (3, 3), padding="SAME", W_std=1.0, b_std=0.3), layer] * depth
    kernel_fn = stax.serial(*layers, getattr(stax, end)(), stax.Dense(1)).kernel_fn
    found = kernel_fn(images(), None, ("nngp", "ntk"), backend=backend)
    exact = kernel_fn(images().astype(np.float64), None, ("nngp", "ntk"), backend="numpy")
    return max(np.abs(own - of).max() / np.abs(of).max() for own, of in zip(found, exact, strict=True))


@pytest.mark.parametrize("end", ["Flatten", "GlobalAvgPool"])
@pytest.mark.parametrize("name", IMAGES)
def test_images_that_are_multiples_of_each_other(name, end):
    assert errors_of_images(name, end, None) < IMAGES[name][2]


def test_images_in_float32_alone_are_off(monkeypatch):
    if select.load("cpu")[0] is None:
        pytest.skip("no compiled module")
    monkeypatch.setattr(planes, "near_pairs", lambda x1, x2: np.zeros((len(x1), len(x2)), np.bool_))
    assert errors_of_images("sign", "Flatten") > 1e-5


def test_gradients_of_such_networks():
    """By differences of the kernel in the first input."""
    x, y = inputs()[5:7].astype(np.float64), inputs()[7:].astype(np.float64)
    kernel_fn = stack(stax.Sin(1.0, 2.0, 0.0), 10).kernel_fn
    assert "fine" in kinds(stack(stax.Sin(1.0, 2.0, 0.0), 10))
    cotangent = np.array([[1.0], [-0.7]])
    found = kernel_fn.vjp(x, y, cotangents={"ntk": cotangent}).x1
    step = 1e-5 * np.random.default_rng(1).standard_normal(x.shape)
    slope = (cotangent * (kernel_fn(x + step, y, "ntk") - kernel_fn(x - step, y, "ntk"))).sum() / 2
    assert (found * step).sum() == pytest.approx(slope, rel=1e-5)
