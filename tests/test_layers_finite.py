"""Finite networks of layers beyond Dense and Conv, and kernels as their limit.

Monte Carlo bounds are 3 standard errors, estimated from the draws; seeds are fixed, so a run repeats to the digit.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from fastntk import stax
from fastntk.stax import Conv, Dense, Erf, Flatten, GlobalAvgPool, Relu, serial
from layers_inputs import attention, branches, decay

SIGMAS = 3
WIDTH, OUT, DRAWS = 512, 256, 40
rng = np.random.default_rng(0)
IMAGES, TEXTS = rng.standard_normal((2, 4, 3, 2)), rng.standard_normal((2, 5, 3))
GRAPHS = rng.integers(0, 2, (2, 5, 5)).astype(np.float64)


def conv(width, local=False):
    kind = stax.ConvLocal if local else Conv
    return kind(width, (3, 2), padding="SAME", W_std=1.4, b_std=0.3)


def two(width, join):
    return branches(serial(Dense(width, 1.3, 0.2), Erf()), serial(Dense(width, 0.7, 0.1), Relu()), join=join)


def attending(width, **changes):
    return serial(Dense(width, 1.3), attention(width, min(width, 256), min(width, 64), 8, **changes))


def factor(*shape):
    return np.random.default_rng(1).standard_normal(shape)


# name: (inputs, keywords, layers of a width before the readout)
NETS = {
    "ConvLocal": (IMAGES, {}, lambda n: [conv(n, True), Relu(), GlobalAvgPool()]),
    "ConvLocal twice": (IMAGES, {}, lambda n: [conv(n), Relu(), conv(n, True), Erf(), Flatten()]),
    "ConvTranspose": (IMAGES, {}, lambda n: [
        stax.ConvTranspose(n, (3, 2), (2, 3), "SAME", 1.4, 0.3), Relu(), GlobalAvgPool()]),
    "ConvTranspose, VALID": (IMAGES, {}, lambda n: [
        stax.ConvTranspose(n, (2, 4), (3, 1), "VALID", 1.4, 0.3), Relu(), Flatten()]),
    "ConvTranspose, CIRCULAR": (
        IMAGES, {}, lambda n: [stax.ConvTranspose(n, (4, 3), (2, 2), "CIRCULAR", 1.4), Relu(), GlobalAvgPool()]),
    "LayerNorm": (TEXTS, {}, lambda n: [Dense(n, 1.3, 0.2), stax.LayerNorm(), Erf(), GlobalAvgPool()]),
    "LayerNorm over positions": (
        IMAGES, {}, lambda n: [conv(n), stax.LayerNorm((1, 3)), Relu(), GlobalAvgPool()]),
    "ImageResize": (
        IMAGES, {}, lambda n: [conv(n), stax.ImageResize((-1, 3, 5, -1), "cubic"), Relu(), GlobalAvgPool()]),
    "Index": (IMAGES, {}, lambda n: [conv(n), Relu(), stax.Index(stax.Slice[:, 1, ::-1]), Flatten()]),
    "DotGeneral": (
        IMAGES, {}, lambda n: [conv(n), stax.DotGeneral(rhs=factor(4, 2), dimension_numbers=(((1,), (0,)), ((), ())),
                                                        batch_axis=0, channel_axis=3)]),
    "FanInSum": (TEXTS, {}, lambda n: [two(n, stax.FanInSum()), GlobalAvgPool()]),
    "FanInProd": (TEXTS, {}, lambda n: [two(n, stax.FanInProd()), GlobalAvgPool()]),
    "FanInConcat": (TEXTS, {}, lambda n: [two(n, stax.FanInConcat()), GlobalAvgPool()]),
    "FanInConcat of positions": (
        IMAGES, {}, lambda n: [
        branches(conv(n), Conv(n, (1, 1)), join=stax.FanInConcat(axis=2)), Relu(), GlobalAvgPool()]),
    "Aggregate": (
        TEXTS, {"pattern": GRAPHS}, lambda n: [Dense(n, 1.3, 0.2), stax.Aggregate(), Relu(), GlobalAvgPool()]),
    "attention, SOFTMAX": (TEXTS, {}, lambda n: [attending(n), Relu(), GlobalAvgPool()]),
    "attention, RELU": (TEXTS, {}, lambda n: [attending(n, attention_mechanism="RELU"), Relu(), GlobalAvgPool()]),
    "attention, causal": (TEXTS, {}, lambda n: [attending(n, allowed=np.tri(5)), Relu(), GlobalAvgPool()]),
    "attention, CONCAT": (
        TEXTS, {}, lambda n: [attending(n, pos_emb_type="CONCAT", pos_emb_decay_fn=decay, W_pos_emb_std=0.7,
                                        val_pos_emb=True), Relu(), GlobalAvgPool()]),
    "attention, SUM": (TEXTS, {}, lambda n: [
        attending(n, pos_emb_type="SUM", W_pos_emb_std=0.7), Relu(), GlobalAvgPool()]),
    "attention, square root": (
        TEXTS, {}, lambda n: [attending(n, linear_scaling=False, attention_mechanism="IDENTITY"), GlobalAvgPool()]),
    "a transformer's block": (TEXTS, {}, lambda n: [
        Dense(n, 1.3, 0.2), branches(attention(n, 128, 64, 8), stax.Identity(), join=stax.FanInSum()),
        stax.LayerNorm(), branches(serial(Dense(n, 1.3, 0.2), stax.Gelu(), Dense(n, 1.3, 0.2)), stax.Identity(),
                                   join=stax.FanInSum()), stax.LayerNorm(), GlobalAvgPool()]),
    "repeat": (TEXTS, {}, lambda n: [
        Dense(n, 1.3), stax.repeat(serial(Dense(n, 1.2, 0.2), Erf()), 2), GlobalAvgPool()]),
}  # fmt: skip


def network(name, width, out):
    x, keywords, layers = NETS[name]
    last = Dense(out, 0.9, 0.2, channel_axis=2 if name == "DotGeneral" else -1)
    readout = [last, GlobalAvgPool(channel_axis=2)] if name == "DotGeneral" else [last]
    return x, keywords, serial(*layers(width), *readout)


def kernels(net, x, keywords, get):
    pattern = keywords.get("pattern")
    return net.kernel_fn(x, None, get, pattern=(pattern, pattern))


def check(draws, kernel):
    error = np.std(draws, axis=0, ddof=1) / math.sqrt(len(draws))
    size = np.sqrt(np.outer(np.diag(kernel), np.diag(kernel)))
    assert np.max(error / size) < 0.07
    # of a network of finite width the mean is off by some of 1 / width
    assert np.max(np.abs(np.mean(draws, axis=0) - kernel) / (error + size / WIDTH)) <= SIGMAS


@pytest.mark.parametrize("name", NETS)
def test_nngp_is_the_second_moment_of_finite_networks(name):
    x, keywords, net = network(name, 128 if "Local" in name else WIDTH, OUT)
    draws, found = np.random.default_rng(5), []
    for _ in range(DRAWS):
        _, params = net.init_fn(draws, x.shape, np.float32)
        y = net.apply_fn(params, x.astype(np.float32), **keywords).astype(np.float64)
        found.append(y @ y.T / y.shape[1])
    check(np.array(found), kernels(net, x, keywords, "nngp"))


def test_dropout_of_finite_networks():
    net = serial(Dense(WIDTH, 1.3, 0.2), Relu(), stax.Dropout(0.6), Dense(OUT, 0.9, 0.2))
    x, draws, found = TEXTS[0], np.random.default_rng(3), []
    for _ in range(2 * DRAWS):
        _, params = net.init_fn(draws, x.shape)
        y = net.apply_fn(params, x, rng=draws)
        found.append(y @ y.T / y.shape[1])
    check(np.array(found), net.kernel_fn(x, None, "nngp"))


def test_shapes_are_those_of_the_finite_networks():
    for name in NETS:
        x, keywords, net = network(name, 6, 5)
        out, params = net.init_fn(0, x.shape)
        assert net.apply_fn(params, x, **keywords).shape == out, name
        kernel = kernels(net, x, keywords, None)
        assert (*kernel.shape1[:-1], 5) == (*out[:-1], 5), name


@pytest.mark.parametrize("name", [n for n in NETS if n != "DotGeneral"])
def test_ntk_is_the_product_of_gradients(name):
    torch = pytest.importorskip("torch")
    x, keywords, net = network(name, 64 if "Local" in name else 256, 1)
    draws, found = np.random.default_rng(4), []
    inputs = torch.tensor(x)
    for _ in range(12):
        _, params = net.init_fn(draws, x.shape)
        flat = []

        def as_tensors(p, flat=flat):
            if p is None or isinstance(p, tuple):
                return None if p is None else tuple(as_tensors(v) for v in p)
            flat.append(torch.tensor(p, requires_grad=True))
            return flat[-1]

        y = net.apply_fn(as_tensors(params), inputs, **keywords)
        rows = [torch.autograd.grad(y[k, 0], flat, retain_graph=True) for k in range(len(x))]
        found.append(
            [[sum(float((a * b).sum()) for a, b in zip(one, other, strict=True)) for other in rows] for one in rows]
        )
    found = np.array(found)
    kernel = kernels(net, x, keywords, "ntk")
    error = np.std(found, axis=0, ddof=1) / math.sqrt(len(found))
    size = np.sqrt(np.outer(np.diag(kernel), np.diag(kernel)))
    assert np.max(np.abs(found.mean(axis=0) - kernel) / (error + size / 256)) <= SIGMAS
    assert np.max(error / size) < 0.1


@pytest.mark.parametrize(
    "name", ["ConvLocal", "ConvTranspose", "attention, CONCAT", "Index", "ImageResize", "DotGeneral", "Aggregate"]
)
def test_jax_and_torch_have_numpys_numbers(name):
    x, keywords, net = network(name, 6, 5)
    _, params = net.init_fn(0, x.shape)
    expected = net.apply_fn(params, x, **keywords)
    torch = pytest.importorskip("torch")
    np.testing.assert_allclose(net.apply_fn(params, torch.tensor(x), **keywords), expected, rtol=1e-12, atol=1e-13)
    jax = pytest.importorskip("jax")
    found = net.apply_fn(params, jax.numpy.asarray(x, np.float32), **keywords)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_keys_of_jax_are_seeds():
    jax = pytest.importorskip("jax")
    net = serial(Dense(3), stax.Relu(), Dense(2))
    for key in (jax.random.PRNGKey(5), jax.random.key(5)):
        one, two = (net.init_fn(key, (2, 4))[1] for _ in range(2))
        np.testing.assert_array_equal(one[0][0], two[0][0])
        assert (one[0][0] != net.init_fn(jax.random.split(key)[0], (2, 4))[1][0][0]).all()
