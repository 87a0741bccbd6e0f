"""Empirical kernels under Neural Tangents' names: against Jacobians by hand, limits, both libraries."""

from __future__ import annotations

import math

import fastntk
import numpy as np
import pytest
from fastntk import finite, stax

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
pytestmark = pytest.mark.rivals

RNG = np.random.default_rng(0)


def residual(**more):
    def layer(padding, strides=None):
        return stax.Conv(4, (3, 3), strides, padding, 1.3, 0.2, **more)

    return stax.serial(
        layer("SAME"), stax.Relu(),
        stax.FanOut(2), stax.parallel(stax.serial(layer("SAME"), stax.Erf()), stax.Identity()), stax.FanInSum(),
        layer("VALID", (2, 1)), stax.Gelu(), stax.Dense(4, 1.2, 0.1), stax.LeakyRelu(0.2), layer("CIRCULAR"),
        stax.AvgPool((2, 2)), stax.Flatten(), stax.Dense(3, 1.1, 0.1, **more),
    )  # fmt: skip


def dense(**more):
    return stax.serial(
        stax.Dense(7, 1.4, 0.1, **more), stax.Relu(), stax.Dense(6, 1.2, 0.3, **more), stax.Erf(), stax.Dense(3, **more)
    )


def local():
    return stax.serial(stax.ConvLocal(3, (2,)), stax.Relu(), stax.ConvTranspose(3, (2,)), stax.Flatten(), stax.Dense(2))


def attention():
    return stax.serial(
        stax.GlobalSelfAttention(4, 3, 3, 2, b_std=0.1), stax.Relu(), stax.GlobalAvgPool(), stax.Dense(2)
    )


NETWORKS = {
    "dense": (dense(), (5,)),
    "standard": (dense(parameterization="standard"), (5,)),
    "residual": (residual(), (6, 5, 2)),
    "residual, standard": (residual(parameterization="standard"), (6, 5, 2)),
    "local": (local(), (5, 2)),
    "attention": (attention(), (4, 3)),
}


def flat(params):
    if isinstance(params, tuple):
        return [a for part in params for a in flat(part)]
    return [] if params is None else [params]


def jacobian(net, params, x):
    """(n, k, P) by reverse mode, one output at a time."""

    def adopt(node, found):
        if isinstance(node, tuple):
            return tuple(adopt(part, found) for part in node)
        if node is None:
            return None
        found.append(torch.from_numpy(node).requires_grad_())
        return found[-1]

    leaves = []
    tree = adopt(params, leaves)
    f = net.apply_fn(tree, torch.from_numpy(x))
    rows = []
    for value in f.reshape(-1):
        grads = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(grads, leaves, strict=True)]
        rows.append(np.concatenate([part.detach().numpy().reshape(-1) for part in parts]))
    return np.array(rows).reshape(*f.shape, -1)


@pytest.fixture(scope="module", params=NETWORKS)
def case(request):
    net, shape = NETWORKS[request.param]
    x1, x2 = RNG.standard_normal((5, *shape)), RNG.standard_normal((3, *shape))
    params = net.init_fn(1, x1.shape)[1]
    return net, params, x1, x2, jacobian(net, params, x1), jacobian(net, params, x2)


@pytest.mark.parametrize("implementation", ["AUTO", "JACOBIAN_CONTRACTION", "NTK_VECTOR_PRODUCTS"])
def test_kernels_are_products_of_jacobians(case, implementation):
    net, params, x1, x2, j1, j2 = case
    full = np.einsum("nap,mbp->nmab", j1, j2)
    close = {"rtol": 1e-9, "atol": 1e-12}
    for options, expected in (
        ({}, np.einsum("nmaa->nm", full) / full.shape[-1]),
        ({"trace_axes": ()}, full),
        ({"trace_axes": (), "diagonal_axes": (-1,)}, np.einsum("nmaa->nma", full)),
        ({"memory_budget": 1}, np.einsum("nmaa->nm", full) / full.shape[-1]),
    ):
        kernel = finite.empirical_ntk_fn(net.apply_fn, implementation=implementation, **options)
        np.testing.assert_allclose(kernel(x1, x2, params), expected, **close)
    alone = np.einsum("nap,map->nm", j1, j1) / full.shape[-1]
    own = finite.empirical_ntk_fn(net, implementation=implementation)(x1, None, params)
    np.testing.assert_allclose(own, alone, **close)
    for options, expected in (
        ({"trace_axes": (-1,), "diagonal_axes": (0,)}, np.diagonal(alone)),
        ({"trace_axes": (0, 1)}, np.trace(alone) / len(x1)),
        ({"trace_axes": (0,), "memory_budget": 1}, np.einsum("nap,nbp->ab", j1, j1) / len(x1)),
        ({"trace_axes": (), "diagonal_axes": (0,)}, np.einsum("nap,nbp->nab", j1, j1)),
    ):
        kernel = finite.empirical_ntk_fn(net, implementation=implementation, **options)
        np.testing.assert_allclose(kernel(x1, None, params), expected, **close)
        np.testing.assert_allclose(kernel(x1, x1.copy(), params), expected, **close)


def test_both_kernels_and_products(case):
    net, params, x1, x2, j1, j2 = case
    f1, f2 = net.apply_fn(params, x1), net.apply_fn(params, x2)
    both = finite.empirical_kernel_fn(net.apply_fn)(x1, x2, ("nngp", "ntk"), params)
    assert both._fields == ("nngp", "ntk")
    np.testing.assert_allclose(both.nngp, f1 @ f2.T / f1.shape[1], rtol=1e-10)
    full = finite.empirical_nngp_fn(net, trace_axes=())(x1, x2, params)
    np.testing.assert_allclose(full, np.einsum("na,mb->nmab", f1, f2), rtol=1e-10)
    assert isinstance(finite.empirical_kernel_fn(net)(x1, None, "nngp", params), np.ndarray)
    v = RNG.standard_normal(f2.shape)
    found = finite.empirical_ntk_vp_fn(net.apply_fn, x1, x2, params)(v)
    np.testing.assert_allclose(found, np.einsum("nap,mbp,mb->na", j1, j2, v), rtol=1e-9)


def test_structured_derivatives_are_taken_where_they_are_known():
    for name, (net, shape) in NETWORKS.items():
        x = RNG.standard_normal((3, *shape))
        params = net.init_fn(0, x.shape)[1]
        kernel = finite.empirical_ntk_fn(net, implementation=finite.NtkImplementation.STRUCTURED_DERIVATIVES)
        if name in ("local", "attention"):
            with pytest.raises(NotImplementedError, match="structured derivatives are those of networks of stax"):
                kernel(x, None, params)
        else:
            np.testing.assert_allclose(kernel(x, None, params), finite.empirical_ntk_fn(net)(x, None, params))


def test_linear_and_taylor_expansions():
    net, x = dense(), RNG.standard_normal((4, 5))
    params = net.init_fn(0, x.shape)[1]
    other = net.init_fn(1, x.shape)[1]

    def between(a, b):
        if isinstance(a, tuple):
            return tuple(between(p, q) for p, q in zip(a, b, strict=True))
        return None if a is None else a + 0.01 * b

    near = between(params, other)
    change = np.concatenate([(b - a).reshape(-1) for a, b in zip(flat(params), flat(near), strict=True)])
    linear = finite.linearize(net.apply_fn, params)(near, x)
    np.testing.assert_allclose(linear, net.apply_fn(params, x) + jacobian(net, params, x) @ change, rtol=1e-10)
    np.testing.assert_allclose(finite.taylor_expand(net, params, 1)(near, x), linear, rtol=1e-12)
    np.testing.assert_allclose(finite.taylor_expand(net, params, 0)(near, x), net.apply_fn(params, x), rtol=1e-12)
    exact = net.apply_fn(near, x)
    errors = [np.abs(finite.taylor_expand(net, params, k)(near, x) - exact).max() for k in range(4)]
    assert errors[1] < 0.1 * errors[0]
    assert errors[2] < 0.1 * errors[1]
    assert errors[3] < 0.1 * errors[2]


def test_a_linearised_function_trains():
    net, x = dense(), torch.from_numpy(RNG.standard_normal((4, 5)))
    leaves = [torch.from_numpy(a) for a in flat(net.init_fn(0, (4, 5))[1])]

    def f(values, x):
        rest = iter(values)

        def rebuilt(node):
            return tuple(map(rebuilt, node)) if isinstance(node, tuple) else None if node is None else next(rest)

        return net.apply_fn(rebuilt(net.init_fn(0, (4, 5))[1]), x)

    f_lin = finite.linearize(f, leaves)
    values = [leaf.clone().requires_grad_() for leaf in leaves]
    grads = torch.autograd.grad(f_lin(values, x).sum(), values)
    expected = torch.autograd.grad(f(values, x).sum(), values)
    assert all(torch.allclose(a, b) for a, b in zip(grads, expected, strict=True))


def test_functions_of_both_libraries():
    rng = np.random.default_rng(1)
    w, v, x = rng.standard_normal((3, 4)), rng.standard_normal((4, 2)), rng.standard_normal((5, 3))
    h = np.tanh(x @ w)
    by_w = np.einsum("nj,jk,ni->nkij", 1 - h**2, v, x).reshape(5, 2, -1)
    by_v = np.einsum("nj,kl->nkjl", h, np.eye(2)).reshape(5, 2, -1)
    rows = np.concatenate([by_w, by_v], axis=2)
    expected = np.einsum("nkp,mkp->nm", rows, rows) / 2

    def own(params, x, tanh):
        return tanh(x @ params["w"]) @ params["v"]

    def of_torch(params, x):
        return own(params, x, torch.tanh)

    def of_jax(params, x):
        return own(params, x, jax.numpy.tanh)

    tensors = {"w": torch.from_numpy(w), "v": torch.from_numpy(v)}
    for options in ({}, {"vmap_axes": 0}, {"vmap_axes": 0, "memory_budget": 1}, {"implementation": 2}):
        found = finite.empirical_ntk_fn(of_torch, **options)(torch.from_numpy(x), None, tensors)
        assert isinstance(found, torch.Tensor)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)
        arrays = {"w": jax.numpy.asarray(w), "v": jax.numpy.asarray(v)}
        found = finite.empirical_ntk_fn(of_jax, **options)(jax.numpy.asarray(x), None, arrays)
        assert isinstance(found, jax.Array)
        np.testing.assert_allclose(np.asarray(found), expected, rtol=2e-4)
    product = finite.empirical_ntk_vp_fn(of_jax, jax.numpy.asarray(x), None, arrays)(jax.numpy.ones((5, 2)))
    np.testing.assert_allclose(np.asarray(product), np.einsum("nap,mbp->na", rows, rows), rtol=2e-4)
    linear = finite.linearize(of_jax, arrays)(arrays, jax.numpy.asarray(x))
    np.testing.assert_allclose(np.asarray(linear), h @ v, rtol=1e-4)
    with pytest.raises(TypeError, match="arrays of PyTorch and of JAX"):
        finite.empirical_ntk_fn(of_jax)(torch.from_numpy(x), None, arrays)
    with pytest.raises(TypeError, match=r"params and inputs must be their arrays, given numpy\.ndarray"):
        finite.empirical_ntk_fn(of_jax)(x, None, {"w": w, "v": v})


def test_modules():
    module = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    params = dict(module.named_parameters())
    rows = []
    for value in module(x).reshape(-1):
        grads = torch.autograd.grad(value, list(module.parameters()), retain_graph=True)
        rows.append(torch.cat([g.reshape(-1) for g in grads]))
    rows = torch.stack(rows).reshape(4, 2, -1)
    expected = torch.einsum("nkp,mkp->nm", rows, rows) / 2
    for axes in (None, 0):
        found = finite.empirical_ntk_fn(module, vmap_axes=axes)(x, None, params)
        assert torch.allclose(found, expected)
    drawn = finite.monte_carlo_kernel_fn(module, None, 0, 3)(x, None, "ntk")
    assert torch.allclose(drawn, finite.monte_carlo_kernel_fn(module, None, 0, 3)(x, None, "ntk"))
    assert not torch.allclose(drawn, expected)
    bare = torch.nn.Module()
    bare.own = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(TypeError, match=r"the module \(Module\) has no reset_parameters"):
        finite.monte_carlo_kernel_fn(bare, None, 0, 2)(x)


LIMITS = {
    "dense": (
        lambda n: stax.serial(
            stax.Dense(n, 1.4, 0.1), stax.Relu(), stax.Dense(n, 1.2), stax.Erf(), stax.Dense(2, 1.0, 0.2)
        ),
        (5,),
    ),
    "convolutions": (
        lambda n: stax.serial(
            stax.Conv(n, (3, 3), padding="SAME", W_std=1.4, b_std=0.1), stax.Relu(), stax.AvgPool((2, 2)),
            stax.Flatten(), stax.Dense(2),
        ),
        (4, 4, 2),
    ),
    "branches": (
        lambda n: stax.serial(
            stax.Dense(n), stax.FanOut(2),
            stax.parallel(stax.serial(stax.Relu(), stax.Dense(n, 1.3)), stax.serial(stax.Gelu(), stax.Dense(n))),
            stax.FanInSum(), stax.LayerNorm(), stax.Dense(2),
        ),
        (5,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_means_over_draws_are_the_infinite_networks(name):
    """Within 3 standard errors and the bias of the width, which is told from a network of half of it."""
    make, shape = LIMITS[name]
    x = np.random.default_rng(3).standard_normal((3, *shape))
    exact = make(1).kernel_fn(x, None, ("nngp", "ntk"))
    means, errors = [], []
    for width, count in ((64, 120), (128, 120)):
        net = make(width)
        kernel = finite.monte_carlo_kernel_fn(*net[:2], 0, range(1, count + 1))
        sums = np.array([k * np.array(found) for k, found in enumerate(kernel(x), 1)])
        draws = np.diff(sums, axis=0, prepend=np.zeros_like(sums[:1]))
        means.append(draws.mean(axis=0))
        errors.append(draws.std(axis=0, ddof=1) / math.sqrt(count))
    better = 2 * means[1] - means[0]
    error = 2 * errors[1] + errors[0]
    assert (np.abs(better - np.array(exact)) < 3 * error).all()


def test_monte_carlo_counts_and_keys():
    net, x = dense(), RNG.standard_normal((3, 5)).astype(np.float32)
    init_fn, apply_fn, _ = net
    some = list(finite.monte_carlo_kernel_fn(init_fn, apply_fn, 5, [2, 3])(x))
    assert len(some) == 2
    assert some[0].ntk.dtype == np.float32
    alone = finite.monte_carlo_kernel_fn(init_fn, apply_fn, 5, 3)(x, None, ("ntk", "nngp"))
    assert alone._fields == ("ntk", "nngp")
    np.testing.assert_allclose(alone.ntk, some[1].ntk, rtol=1e-6)
    with pytest.raises(ValueError, match="n_samples must rise"):
        finite.monte_carlo_kernel_fn(init_fn, apply_fn, 5, [3, 2])
    with pytest.raises(TypeError, match=r"takes init_fn and apply_fn, or a torch\.nn\.Module and None"):
        finite.monte_carlo_kernel_fn(init_fn, None, 5, 2)
    with pytest.raises(ValueError, match="get must be 'nngp', 'ntk'"):
        finite.monte_carlo_kernel_fn(init_fn, apply_fn, 5, 2)(x, None, "cov1")


def test_neural_tangents_names_stand_at_the_top():
    for name in fastntk._EMPIRICAL:
        assert getattr(fastntk, name) is getattr(finite, name)
        assert name in dir(fastntk)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trace_axes": (2,)}, r"trace_axes \(2,\) are no axes of outputs of 2"),
        ({"trace_axes": (1,), "diagonal_axes": (-1,)}, r"trace_axes and diagonal_axes share \[1\]"),
        ({"diagonal_axes": (0,)}, "axis 0 goes together, given 3 and 2 samples"),
    ],
)
def test_refused(options, words):
    net, x = dense(), RNG.standard_normal((3, 5))
    params = net.init_fn(0, x.shape)[1]
    with pytest.raises(ValueError, match=words):
        finite.empirical_ntk_fn(net, **options)(x, x[:2], params)
    with pytest.raises(ValueError, match="implementation must be one of AUTO, "):
        finite.empirical_ntk_fn(net, implementation="FAST")
    with pytest.raises(NotImplementedError, match="vmap_axes must be 0"):
        finite.empirical_ntk_fn(net, vmap_axes=1)(x, None, params)


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("vmap_axes", [None, ((0, 0), [0, 0], {})])
def test_trees_of_inputs_and_outputs(library, vmap_axes):
    """As a function of the inputs side by side, one output after the other."""
    network = stax.serial(
        stax.parallel(stax.Dense(6), stax.Dense(6)), stax.FanInSum(), stax.Relu(), stax.FanOut(2),
        stax.parallel(stax.Dense(3), stax.serial(stax.Dense(5), stax.Erf(), stax.Dense(2))),
    )  # fmt: skip
    of = {"numpy": np.asarray, "torch": torch.from_numpy, "jax": jax.numpy.asarray}[library]
    rng = np.random.default_rng(0)
    wide1, wide2 = rng.standard_normal((4, 5)), rng.standard_normal((3, 5))
    x1, x2 = ((of(w[:, :3].copy()), of(w[:, 3:].copy())) for w in (wide1, wide2))
    params = finite.backends.mapped(network.init_fn(1, ((4, 3), (4, 2)))[1], of)

    def host(a):
        return a.numpy() if isinstance(a, torch.Tensor) else np.asarray(a, np.float64)

    found = finite.empirical_kernel_fn(network, vmap_axes=vmap_axes)(x1, x2, None, params)
    for k, shape in enumerate(((4, 3), (4, 3))):
        values = finite.backends.mapped(params, lambda p: torch.from_numpy(host(p)))
        one = finite.empirical_kernel_fn(lambda p, x, k=k: network.apply_fn(p, (x[:, :3], x[:, 3:]))[k])
        expected = one(torch.from_numpy(wide1), torch.from_numpy(wide2), None, values)
        for field in ("nngp", "ntk"):
            tree = getattr(found, field)
            assert isinstance(tree, (tuple, list))
            assert tree[k].shape == shape
            np.testing.assert_allclose(host(tree[k]), host(expected._asdict()[field]), rtol=2e-5, atol=2e-6)


def test_draws_of_networks_with_two_inputs():
    network = stax.serial(
        stax.parallel(stax.Dense(256), stax.Dense(256, 1.5)), stax.FanInSum(), stax.Relu(), stax.Dense(1)
    )
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 4)), rng.standard_normal((3, 2))
    means = finite.monte_carlo_kernel_fn(*network[:2], 0, [1, 60], vmap_axes=((0, 0), 0, {}))(x)
    one, mean = list(means)
    exact = network.kernel_fn(x, None, ("nngp", "ntk"))
    assert np.abs(mean.ntk / exact.ntk - 1).max() < 0.1
    assert one.ntk.shape == mean.nngp.shape == (3, 3)
