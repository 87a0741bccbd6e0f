"""Random networks on images and signals: the engines against each other, and against the definition."""

from __future__ import annotations

import fastntk
import image_oracle
import numpy as np
import pytest
from fastntk import stax
from fastntk.engines import select
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tolerances import FLOOR

BOTH = ("nngp", "ntk")
SEEDS = st.integers(0, 2**32 - 1)
BOUND = 1e-12
CHANNELS = 3

MODULE, STATE = select.load("cpu")
ISAS = [isa for isa, present in MODULE.isas() if present] if MODULE is not None else []
compiled = pytest.mark.skipif(not ISAS, reason=f"backend 'cpu': {STATE}")


def examples(count):
    """Drawn from a fixed seed, without a database or a clock."""
    return settings(
        max_examples=count, derandomize=True, database=None, deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )  # fmt: skip


# ---------------------------------------------------------------- draws


def each(draw, values, rank):
    return tuple(draw(st.lists(st.sampled_from(values), min_size=rank, max_size=rank)))


def padding_for(draw, spatial, shape, dilation):
    """VALID where the window fits."""
    fits = all((k - 1) * e < n for n, k, e in zip(spatial, shape, dilation, strict=True))
    return draw(st.sampled_from(["SAME", "CIRCULAR", "VALID"] if fits else ["SAME", "CIRCULAR"]))


def drawn_weights(draw):
    """(W_std, b_std), parameterization and s."""
    own = {"parameterization": draw(st.sampled_from(["ntk", "ntk", "standard"]))}
    if own["parameterization"] == "standard":
        own["s"] = draw(st.sampled_from([(1, 1), (2, 1)]))
    return (draw(st.floats(0.6, 1.6)), draw(st.sampled_from([None, 0.0, 0.2, 0.7]))), own


def drawn_conv(draw, spatial, strided=True):
    rank = len(spatial)
    shape, dilation = each(draw, (1, 2, 3, 3, 4), rank), each(draw, (1, 1, 2, 3), rank)
    strides = each(draw, (1, 1, 2, 3), rank) if strided else (1,) * rank
    padding = padding_for(draw, spatial, shape, dilation) if strided else draw(st.sampled_from(["SAME", "CIRCULAR"]))
    stds, own = drawn_weights(draw)
    return stax.Conv(CHANNELS, shape, strides, padding, *stds, dilation=dilation, **own)


def drawn_pool(draw, spatial):
    rank = len(spatial)
    shape, strides = each(draw, (1, 2, 3), rank), each(draw, (1, 2), rank)
    padding = padding_for(draw, spatial, shape, (1,) * rank)
    if draw(st.booleans()):
        return stax.AvgPool(shape, strides, padding, draw(st.booleans()))
    return stax.SumPool(shape, strides, padding)


def drawn_nonlinearity(draw):
    return draw(
        st.sampled_from(
            [
                stax.Relu(), stax.Relu(), stax.LeakyRelu(0.2), stax.LeakyRelu(-0.4), stax.ABRelu(-0.3, 1.2), stax.Abs(),
                stax.Erf(), stax.Erf(1.3, 0.7, 0.2),
            ]
        )
    )  # fmt: skip


def drawn_residual(draw, spatial, gaussian):
    """A branch around convolutions, of their stride."""
    rank = len(spatial)
    strides = each(draw, (1, 1, 2), rank)
    stds, own = drawn_weights(draw)
    last = stax.Conv(CHANNELS, each(draw, (1, 2, 3), rank), strides, "SAME", *stds, **own)
    body = [drawn_conv(draw, spatial, strided=False), drawn_nonlinearity(draw), last]
    if gaussian:
        body.insert(0, drawn_nonlinearity(draw))
    plain = gaussian and strides == (1,) * rank and draw(st.booleans())
    shortcut = stax.Identity() if plain else stax.Conv(CHANNELS, (1,) * rank, strides, "SAME", 0.9)
    return stax.serial(stax.FanOut(2), stax.parallel(stax.serial(*body), shortcut), stax.FanInSum())


@st.composite
def networks(draw, spatial):
    """Up to six layers on inputs of this spatial shape, and a readout or none."""
    layers, size, gaussian = [], spatial, False
    for _ in range(draw(st.integers(1, 6))):
        kinds = ["conv", "conv", "dense", "pool", "residual", *(["phi"] * 4 if gaussian else [])]
        kind = draw(st.sampled_from(kinds))
        if kind == "conv":
            layer = drawn_conv(draw, size)
        elif kind == "dense":
            stds, own = drawn_weights(draw)
            layer = stax.Dense(CHANNELS, *stds, **own)
        elif kind == "pool":
            layer = drawn_pool(draw, size)
        elif kind == "phi":
            layer = drawn_nonlinearity(draw)
        else:
            layer = drawn_residual(draw, size, gaussian)
        layers.append(layer)
        size = layer.output_shape((1, *size, CHANNELS))[1:-1]
        gaussian = kind != "phi" and (gaussian or kind != "pool")
    readout = draw(st.sampled_from([stax.GlobalAvgPool, stax.GlobalAvgPool, stax.GlobalSumPool, stax.Flatten, None]))
    if readout is not None:
        layers.append(readout())
        stds, own = drawn_weights(draw)
        layers += [stax.Dense(CHANNELS, *stds, **own), *draw(st.sampled_from([[], [stax.Relu(), stax.Dense(1, 1.1)]]))]
    return stax.serial(*layers)


SHAPES = st.one_of(
    st.tuples(st.integers(1, 7)), st.tuples(st.integers(1, 7), st.integers(1, 7)), st.just((7, 7)), st.just((4, 5))
)


@st.composite
def problems(draw, channels=(2, 3)):
    """A network and the shape of a sample.

    One channel, pooled before any nonlinearity, is one number: every correlation is 1 or -1, and what a square root
    makes of the rounding of 1 - rho is not for engines to agree on.
    """
    spatial = draw(SHAPES)
    return draw(networks(spatial)), (*spatial, draw(st.sampled_from(channels)))


def samples(seed, n, shape):
    """Images of several contrasts; among three, a near-duplicate that has one pixel in common with its original.

    Closer ones are test_images.py's: behind a pool their difference is a difference of sums, and engines that add in
    another order agree to eps / distance. So is the mean of an image where it nearly vanishes: those are left out.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, *shape)) * np.exp(rng.uniform(-1, 1, n)).reshape(-1, *[1] * len(shape))
    flat = x.reshape(n, -1, shape[-1])
    mean, square = (flat.mean(axis=1) ** 2).sum(axis=-1), (flat**2).mean(axis=1).sum(axis=-1)
    assume((mean > 1e-3 * square).all())
    if n > 2:
        x[2] = x[0] + 0.03 * rng.standard_normal(shape)
        x[2].reshape(-1, shape[-1])[0] = x[0].reshape(-1, shape[-1])[0]
    return x


# ---------------------------------------------------------------- comparisons


def size_of(cov1, cov2):
    """Standard deviations of both inputs, multiplied for every pair of samples and positions."""
    rank = (cov1.ndim - 1) // 2
    letters = "ijk"[:rank]
    v1, v2 = (np.einsum(f"a{''.join(2 * c for c in letters)}->a{letters}", cov) for cov in (cov1, cov2))
    v1 = np.expand_dims(v1, [1, *(2 * a + 1 for a in range(1, rank + 1))])
    v2 = np.expand_dims(v2, [0, *(2 * a for a in range(1, rank + 1))])
    return np.sqrt(v1 * v2)


def assert_near(found, expected, size, what):
    """Within the bound of float64; equal where there is nothing to measure by."""
    assert found.shape == expected.shape, what
    assert np.isfinite(expected).all(), what
    error = np.abs(found - expected)
    allowed = BOUND * np.maximum(np.abs(expected), FLOOR * size)
    assert (error <= allowed).all(), (
        f"{what}: {np.max(error / np.where(allowed == 0, 1e-300, allowed)):.3g} of the bound"
    )


def check(found, expected):
    size = size_of(expected.cov1, expected.cov1 if expected.cov2 is None else expected.cov2)
    for name in BOTH:
        assert_near(getattr(found, name), getattr(expected, name), size, name)


@compiled
@examples(250)
@given(problems(), SEEDS, st.integers(1, 3), st.integers(1, 2))
def test_engines_agree_on_two_sets(problem, seed, n1, n2):
    net, shape = problem
    x1, x2 = samples(seed, n1, shape), samples(seed + 1, n2, shape)
    expected = net.kernel_fn(x1, x2, (*BOTH, "cov1", "cov2"), backend="numpy")
    found = net.kernel_fn(x1, x2, (*BOTH, "cov1", "cov2"), backend="cpu")
    check(found, expected)
    for name in ("cov1", "cov2"):
        cov = getattr(expected, name)
        assert_near(getattr(found, name), cov, np.max(np.abs(cov)), name)


@compiled
@examples(150)
@given(problems(), SEEDS, st.sampled_from(ISAS or ["none"]))
def test_engines_agree_on_one_set(problem, seed, isa):
    """The near-duplicate, the diagonal and ``diagonal`` itself."""
    net, shape = problem
    x = samples(seed, 3, shape)
    expected = net.kernel_fn(x, None, (*BOTH, "cov1", "cov2"), backend="numpy")
    with fastntk.options(backend="cpu", isa=isa):
        found = net.kernel_fn(x, None, BOTH)
        check(found, expected)
        if expected.nngp.ndim == 2:
            alone = net.kernel_fn.diagonal(x)
            size = np.diag(expected.nngp)
            for name in BOTH:
                assert_near(getattr(alone, name), np.diag(getattr(expected, name)), size, f"diagonal, {name}")


@examples(100)
@given(problems(channels=(2, 3)), SEEDS, st.integers(1, 3))
def test_the_definition(backend, problem, seed, n1):
    net, shape = problem
    x1, x2 = samples(seed, n1, shape), samples(seed + 1, 2, shape)
    exact = image_oracle.kernels(net, x1, x2)
    found = net.kernel_fn(x1, x2, BOTH)
    axes = range(1, exact["q1"].ndim)
    v1 = np.expand_dims(exact["q1"], [1, *(2 * a + 1 for a in axes)])
    v2 = np.expand_dims(exact["q2"], [0, *(2 * a for a in axes)])
    for name in BOTH:
        assert_near(getattr(found, name), exact[name], np.sqrt(v1 * v2), name)
