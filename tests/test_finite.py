"""Finite networks: ``init_fn`` and ``apply_fn`` by hand, and the infinite network's kernels as their limit.

Monte Carlo bounds are 4 standard errors, estimated from the draws; seeds are fixed, so a run repeats to the digit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import oracles
import pytest
from fastntk import stax
from fastntk.network.activations import GENERAL, NONLINEARITIES

Dense = stax.Dense
SIGMAS = 4


def leaves(params: Any) -> list[Any]:
    """The arrays in nested tuples, None left out."""
    if isinstance(params, tuple):
        return [leaf for part in params for leaf in leaves(part)]
    return [] if params is None else [params]


def standard(*args: Any, **kwargs: Any) -> stax.Layer:
    return Dense(*args, parameterization="standard", **kwargs)


def residual(width: int = 6, out: int = 2) -> stax.Layer:
    """Branches, every nonlinearity, both parameterizations."""
    return stax.serial(
        Dense(width, 1.3, 0.1),
        stax.FanOut(2),
        stax.parallel(
            stax.serial(stax.Relu(), Dense(width)), stax.serial(stax.Erf(1.1, 0.4, 0.3), Dense(width, 0.7, 0.4))
        ),
        stax.FanInSum(),
        stax.LeakyRelu(0.2),
        standard(width, 1.2, 0.3),
        stax.Abs(),
        stax.Identity(),
        standard(out, 0.9),
        stax.ABRelu(-0.5, 1.5),
    )


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(7).standard_normal((4, 5))


# ---------------------------------------------------------------- init_fn


@pytest.mark.parametrize("shape", [(4, 5), (-1, 5), (0, 5)])
def test_shapes(shape, dtype):
    out, params = residual().init_fn(0, shape, dtype)
    assert out == (shape[0], 2)
    assert [leaf.shape for leaf in leaves(params)] == [
        (5, 6), (1, 6), (6, 6), (6, 6), (1, 6), (6, 6), (1, 6), (6, 2)
    ]  # fmt: skip
    assert {leaf.dtype for leaf in leaves(params)} == {dtype}


def test_dtype_is_float64_where_none_is_given():
    assert {leaf.dtype for leaf in leaves(residual().init_fn(0, (4, 5))[1])} == {np.dtype(np.float64)}


def test_width_multipliers_widen_standard_layers_only():
    net = stax.serial(standard(10, s=(1, 3)), stax.Relu(), standard(4, s=(3, 2)), Dense(7, s=(2, 5)))
    out, params = net.init_fn(0, (2, 5))
    assert out == (2, 7)
    assert [leaf.shape for leaf in leaves(params)] == [(5, 30), (30, 8), (8, 7)]


def test_parallel_takes_and_gives_one_shape_per_branch():
    net = stax.parallel(Dense(3, 1.0, 0.1), Dense(4))
    for shapes in (((4, 5), (4, 2)), [[4, 5], [4, 2]]):
        out, params = net.init_fn(0, shapes)
        assert out == ((4, 3), (4, 4))
        assert [leaf.shape for leaf in leaves(params)] == [(5, 3), (1, 3), (2, 4)]


def test_channels_first(x):
    net = stax.serial(Dense(6, 1.3, 0.2, 1, 0), stax.Relu(), Dense(3, 1.0, None, batch_axis=1, channel_axis=0))
    out, params = net.init_fn(0, (5, 4))
    assert out == (3, 4)
    assert [leaf.shape for leaf in leaves(params)] == [(5, 6), (6, 1), (6, 3)]
    (W, b), _, (V, _) = params
    hidden = np.maximum(1.3 / math.sqrt(5) * W.T @ x.T + 0.2 * b, 0)
    np.testing.assert_allclose(net.apply_fn(params, x.T), V.T @ hidden / math.sqrt(6), rtol=1e-13, atol=1e-14)


def test_a_seed_is_a_generator_of_its_own():
    draws = [residual().init_fn(rng, (4, 5))[1] for rng in (3, np.int64(3), np.random.default_rng(3), 4)]
    same = [[np.array_equal(a, b) for a, b in zip(leaves(draws[0]), leaves(d), strict=True)] for d in draws]
    assert [all(row) for row in same] == [True, True, True, False]
    assert not any(same[3])


def test_a_generator_moves_on():
    rng = np.random.default_rng(3)
    first, second = (leaves(residual().init_fn(rng, (4, 5))[1]) for _ in range(2))
    assert not any(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_every_parameter_is_a_draw_of_its_own():
    values = np.concatenate([leaf.ravel() for leaf in leaves(residual(30).init_fn(0, (4, 5))[1])])
    assert len(np.unique(values)) == len(values)


@pytest.mark.parametrize(
    ("layer", "W_scale", "b_scale"),
    [
        (Dense(200, 1.7, 0.3), 1.0, 1.0),  # 'ntk' scales in apply_fn
        (Dense(200, 1.7, 0.0), 1.0, 1.0),
        (standard(200, 1.7, 0.3), 1.7 / math.sqrt(100), 0.3),
        (standard(50, 1.7, 0.3, s=(5, 4)), 1.7 * math.sqrt(5 / 100), 0.3),
        (standard(200, 1.7, 0.0), 1.7 / math.sqrt(100), 0.0),
    ],
)
def test_scales_of_parameters(layer, W_scale, b_scale):
    """Mean square of normal draws: its standard error is sqrt(2 / count) of it."""
    draws = [layer.init_fn(seed, (4, 100))[1] for seed in range(20)]
    for k, scale in enumerate((W_scale, b_scale)):
        values = np.stack([params[k] for params in draws])
        assert abs(np.mean(values**2) - scale**2) <= SIGMAS * scale**2 * math.sqrt(2 / values.size)
        assert abs(np.mean(values)) <= SIGMAS * scale / math.sqrt(values.size)


def test_no_bias_is_not_a_zero_bias():
    for make in (Dense, standard):
        assert make(3).init_fn(0, (4, 5))[1][1] is None
        assert make(3, 1.0, 0.0).init_fn(0, (4, 5))[1][1].shape == (1, 3)


# ---------------------------------------------------------------- apply_fn


def test_two_layers_by_hand(x):
    net = stax.serial(Dense(6, 1.3, 0.2), stax.Relu(), Dense(3, 0.9))
    params = net.init_fn(0, x.shape)[1]
    (W, b), nothing, (V, none) = params
    assert (nothing, none) == ((), None)
    hidden = np.maximum(1.3 / math.sqrt(5) * x @ W + 0.2 * b, 0)
    np.testing.assert_allclose(net.apply_fn(params, x), 0.9 / math.sqrt(6) * hidden @ V, rtol=1e-13, atol=1e-14)


def test_standard_parameterization_by_hand(x):
    net = stax.serial(standard(6, 1.3, 0.2, s=(1, 2)), stax.Abs(), standard(3, 0.9, s=(2, 1)))
    params = net.init_fn(0, x.shape)[1]
    (W, b), _, (V, _) = params
    np.testing.assert_allclose(net.apply_fn(params, x), np.abs(x @ W + b) @ V / math.sqrt(2), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    ("layer", "function"),
    [
        (stax.Relu(), lambda v: max(v, 0.0)),
        (stax.LeakyRelu(0.1), lambda v: v if v > 0 else 0.1 * v),
        (stax.ABRelu(-0.3, 2.0), lambda v: 2.0 * v if v > 0 else -0.3 * v),
        (stax.Abs(), abs),
        (stax.Erf(), math.erf),
        (stax.Erf(1.5, 0.7, 0.2), lambda v: 1.5 * math.erf(0.7 * v) + 0.2),
        (stax.Identity(), lambda v: v),
    ],
)
def test_nonlinearities_by_hand(layer, function, dtype):
    v = np.concatenate([np.linspace(-3, 3, 13), [0.0]]).astype(dtype)[:, None]
    out, params = layer.init_fn(0, v.shape, dtype)
    found = layer.apply_fn(params, v)
    assert (out, params) == (v.shape, ())
    assert found.dtype == dtype
    exact = np.array([function(float(value)) for value in v[:, 0]])[:, None]
    np.testing.assert_allclose(found, exact, rtol=4 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("name", [*NONLINEARITIES, *GENERAL])
def test_every_nonlinearity_keeps_the_dtype(name, dtype):
    kind, args = NONLINEARITIES[name] if name in NONLINEARITIES else (GENERAL[name], ())
    v = np.linspace(-2, 2, 9).astype(dtype)[:, None]
    layer = kind(*args)
    if isinstance(layer, stax.ExpNormalized):  # a kernel without a function
        return
    found = layer.apply_fn((), v)
    assert found.dtype == dtype
    exact = layer.apply_fn((), v.astype(np.float64))
    np.testing.assert_allclose(found, exact, rtol=20 * np.finfo(dtype).eps, atol=20 * np.finfo(dtype).eps)


def test_branches_by_hand(x):
    net = stax.serial(
        stax.FanOut(3), stax.parallel(Dense(4), stax.serial(stax.Abs(), Dense(4)), Dense(4)), stax.FanInSum()
    )
    params = net.init_fn(0, x.shape)[1]
    _, ((A, _), (_, (B, _)), (C, _)), _ = params
    expected = (x @ A + np.abs(x) @ B + x @ C) / math.sqrt(5)
    np.testing.assert_allclose(net.apply_fn(params, x), expected, rtol=1e-13, atol=1e-14)


def test_parallel_applies_side_by_side(x):
    net = stax.parallel(Dense(3, 1.2), stax.Relu())
    params = net.init_fn(0, ((4, 5), (4, 2)))[1]
    first, second = net.apply_fn(params, (x, x[:, :2]))
    np.testing.assert_allclose(first, 1.2 / math.sqrt(5) * x @ params[0][0], rtol=1e-13, atol=1e-14)
    assert np.array_equal(second, np.maximum(x[:, :2], 0))


def test_dtypes_of_parameters_and_inputs_stay(x, dtype):
    params = residual().init_fn(0, x.shape, dtype)[1]
    given = x.astype(dtype)
    before = [leaf.copy() for leaf in (*leaves(params), given)]
    assert residual().apply_fn(params, given).dtype == dtype
    assert all(np.array_equal(a, b) for a, b in zip(before, (*leaves(params), given), strict=True))


def test_apply_takes_neural_tangents_keywords(x):
    """Scripts pass a key to layers that may draw (dropout)."""
    params = residual().init_fn(0, x.shape)[1]
    assert np.array_equal(residual().apply_fn(params, x, rng=None), residual().apply_fn(params, x))


def test_erf_without_scipy(x, monkeypatch):
    import sys

    layer = stax.Erf(1.5, 0.7, 0.2)
    with_scipy = layer.apply_fn((), x)
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    np.testing.assert_allclose(layer.apply_fn((), x), with_scipy, rtol=4e-16, atol=4e-16)
    single = layer.apply_fn((), x.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, with_scipy, rtol=5e-7, atol=5e-7)
    assert layer.apply_fn((), x[:0]).shape == (0, 5)


# ---------------------------------------------------------------- the limit: NNGP

WIDTH, OUT, DRAWS = 512, 128, 200  # hidden units, outputs, networks
points = np.random.default_rng(11).standard_normal((4, 6)) * np.array([[0.5], [1.0], [1.0], [2.0]])


def outputs(net: stax.Layer, draws: int = DRAWS, x: np.ndarray = points) -> np.ndarray:
    """(draws, n, n): second moments of the outputs, averaged over their units. In float32: four digits are ample."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        _, params = net.init_fn(rng, x.shape, np.float32)
        y = net.apply_fn(params, x.astype(np.float32)).astype(np.float64)
        found.append(y @ y.T / y.shape[1])
    return np.array(found)


def check_moments(draws: np.ndarray, kernel: np.ndarray) -> None:
    """The mean within 4 standard errors, and sharp enough to tell."""
    error = np.std(draws, axis=0, ddof=1) / math.sqrt(len(draws))
    size = np.sqrt(np.outer(np.diag(kernel), np.diag(kernel)))
    assert np.max(error / size) < 0.02
    assert np.max(np.abs(np.mean(draws, axis=0) - kernel) / error) <= SIGMAS


@pytest.mark.parametrize("name", oracles.FUNCTIONS)
def test_nngp_of_each_nonlinearity(name):
    """One hidden layer: the finite network's second moments are the kernel exactly, at any width."""
    net = stax.serial(Dense(WIDTH, 1.3, 0.2), oracles.example(name), Dense(OUT, 1.1, 0.3))
    check_moments(outputs(net), net.kernel_fn(points, None, "nngp"))


NETWORKS = {
    "linear": stax.serial(Dense(WIDTH, 1.3, 0.2), Dense(OUT, 0.9, 0.1)),
    "a nonlinearity at the end": stax.serial(Dense(WIDTH, 1.3, 0.2), stax.Erf(1.4, 0.8, 0.3)),
    "standard": stax.serial(standard(WIDTH, 1.3, 0.2), stax.Relu(), standard(OUT, 1.1, 0.3)),
    "standard, s": stax.serial(
        standard(WIDTH // 2, 1.3, 0.2, s=(1, 2)), stax.Relu(), standard(OUT // 2, 1.1, 0.3, s=(2, 2))
    ),
    "sum of branches": stax.serial(
        stax.FanOut(3),
        stax.parallel(
            Dense(OUT, 0.8),
            stax.serial(Dense(WIDTH, 1.2, 0.1), stax.Relu(), Dense(OUT, 1.4)),
            stax.serial(Dense(WIDTH, 1.2, 0.1), stax.Abs(), Dense(OUT, 0.7, 0.2)),
        ),
        stax.FanInSum(),
    ),
    "residual": stax.serial(
        Dense(WIDTH // 2, 1.3, 0.2),
        stax.FanOut(2),
        stax.parallel(stax.Identity(), stax.serial(stax.Relu(), Dense(WIDTH // 2, 1.2, 0.1))),
        stax.FanInSum(),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_nngp_of_each_layer(name):
    net = NETWORKS[name]
    check_moments(outputs(net), net.kernel_fn(points, None, "nngp"))


# ---------------------------------------------------------------- the limit: NTK, and other libraries' arrays


@pytest.fixture(scope="module")
def jax():
    """JAX on the processor, float64 allowed."""
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    return jax


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def empirical_ntk(jax, net, seed, x):
    """Sum over all parameters of products of derivatives of the one output."""
    params = net.init_fn(seed, x.shape)[1]
    jacobian = jax.jacobian(lambda p: net.apply_fn(p, jax.numpy.asarray(x))[:, 0])(params)
    rows = np.concatenate(
        [np.asarray(leaf).reshape(len(x), -1) for leaf in jax.tree_util.tree_leaves(jacobian)], axis=1
    )
    return rows @ rows.T


@pytest.mark.rivals
@pytest.mark.parametrize("b_std", [None, 0.0, 0.3])
@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
def test_ntk(jax, parameterization, b_std):
    """One hidden layer under 'ntk' has no bias in the width; the standard errors speak for both parameterizations."""

    def dense(width, W_std):
        return Dense(width, W_std, b_std, parameterization=parameterization)

    net = stax.serial(dense(2048, 1.3), stax.Relu(), dense(1, 1.1))
    check_moments(
        np.array([empirical_ntk(jax, net, seed, points) for seed in range(40)]), net.kernel_fn(points, None, "ntk")
    )


@pytest.mark.rivals
@pytest.mark.parametrize("s", [(1, 1), (1, 2)])
def test_ntk_of_width_multipliers(jax, s):
    net = stax.serial(standard(1024, 1.3, 0.3, s=s), stax.Erf(1.2, 0.8, 0.1), standard(1, 1.1, 0.2, s=(s[1], 1)))
    check_moments(
        np.array([empirical_ntk(jax, net, seed, points) for seed in range(40)]), net.kernel_fn(points, None, "ntk")
    )


@pytest.mark.rivals
def test_ntk_of_branches(jax):
    net = stax.serial(
        stax.FanOut(2),
        stax.parallel(
            stax.serial(Dense(2048, 1.2, 0.1), stax.Relu(), Dense(1, 1.4)),
            stax.serial(Dense(2048, 1.1), stax.LeakyRelu(0.3), Dense(1, 0.9, 0.2)),
        ),
        stax.FanInSum(),
    )
    check_moments(
        np.array([empirical_ntk(jax, net, seed, points) for seed in range(40)]), net.kernel_fn(points, None, "ntk")
    )


def mapped(params: Any, make: Any) -> Any:
    """Nested tuples with every array replaced."""
    if isinstance(params, tuple):
        return tuple(mapped(part, make) for part in params)
    return None if params is None else make(params)


def gradient_by_differences(net, params, x):
    """d sum(f(x)) / dx, central differences."""
    step = 1e-6
    found = np.empty_like(x)
    for at in np.ndindex(x.shape):
        moved = np.zeros_like(x)
        moved[at] = step
        ends = [net.apply_fn(params, x + sign * moved).sum() for sign in (1, -1)]
        found[at] = (ends[0] - ends[1]) / (2 * step)
    return found


@pytest.mark.rivals
def test_torch(torch, x, dtype):
    net = residual()
    params = net.init_fn(0, x.shape, dtype)[1]
    x = x.astype(dtype)
    expected = net.apply_fn(params, x)
    tolerance = {"rtol": 64 * np.finfo(dtype).eps, "atol": 64 * np.finfo(dtype).eps}
    given = torch.from_numpy(x.copy()).requires_grad_()
    own = mapped(params, lambda leaf: torch.from_numpy(leaf.copy()).requires_grad_())
    for weights in (params, own):
        y = net.apply_fn(weights, given)
        assert isinstance(y, torch.Tensor)
        assert y.dtype == given.dtype
        np.testing.assert_allclose(y.detach().numpy(), expected, **tolerance)
    with_respect_to = [given, *leaves(own)]
    gradients = torch.autograd.grad(net.apply_fn(own, given).sum(), with_respect_to)
    assert [g.shape for g in gradients] == [w.shape for w in with_respect_to]
    assert all(torch.count_nonzero(g) > 0 for g in gradients)
    if dtype == np.float64:
        np.testing.assert_allclose(gradients[0].numpy(), gradient_by_differences(net, params, x), rtol=1e-6, atol=1e-7)


@pytest.mark.rivals
def test_jax(jax, x, dtype):
    net = residual()
    params = net.init_fn(0, x.shape, dtype)[1]
    x = x.astype(dtype)
    expected = net.apply_fn(params, x)
    tolerance = {"rtol": 64 * np.finfo(dtype).eps, "atol": 64 * np.finfo(dtype).eps}
    given = jax.numpy.asarray(x)
    own = mapped(params, jax.numpy.asarray)
    for apply_fn in (net.apply_fn, jax.jit(net.apply_fn)):
        for weights in (params, own):
            y = apply_fn(weights, given)
            assert isinstance(y, jax.Array)
            assert y.dtype == dtype
            np.testing.assert_allclose(np.asarray(y), expected, **tolerance)
    by_params, by_inputs = jax.grad(lambda p, v: net.apply_fn(p, v).sum(), argnums=(0, 1))(own, given)
    assert all(np.count_nonzero(g) > 0 for g in jax.tree_util.tree_leaves(by_params))
    if dtype == np.float64:
        np.testing.assert_allclose(np.asarray(by_inputs), gradient_by_differences(net, params, x), rtol=1e-6, atol=1e-7)
