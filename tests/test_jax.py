"""Kernels under JAX's transformations, and layers made of what JAX and PyTorch record."""

from __future__ import annotations

import doctest
import functools

import numpy as np
import pytest
from fastntk import stax

jax = pytest.importorskip("jax")
import fastntk.jax as fj  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.test_util import check_grads  # noqa: E402

pytestmark = pytest.mark.rivals

NET = stax.serial(
    stax.Dense(5, 1.4, 0.1), stax.LeakyRelu(0.1), stax.Dense(5, 1.2, 0.2), stax.Erf(), stax.Dense(1)
)  # fmt: skip
IMAGES = stax.serial(stax.Conv(3, (2, 2), b_std=0.1), stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1))
BOTH = ("nngp", "ntk")
reverse = functools.partial(check_grads, modes=["rev"], order=1)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def rows(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


X, Y = rows(4, 3), rows(2, 3, seed=1)


def pairs(x, y, W):
    return fj.kernel(NET, x, y, BOTH, parameters={"0.W_std": W, "1.alpha": W / 10})


def loss(x, y, W):
    return jnp.sin(pairs(x, y, W)[1]).sum()


@pytest.mark.parametrize("jit", [False, True])
def test_gradients_against_differences(jit):
    wrap = jax.jit if jit else lambda f: f
    reverse(wrap(pairs), (X, Y, 1.3))
    reverse(wrap(lambda x, W: fj.kernel(NET, x, get="ntk", parameters={"0.W_std": W})), (X, 1.2))
    reverse(wrap(lambda x: fj.diagonal(NET, x, ("ntk", "nngp"))), (X,))
    reverse(wrap(lambda x: fj.kernel(IMAGES, x, get="ntk")), (rows(2, 4, 3, 2),))
    reverse(wrap(lambda x: fj.kernel(IMAGES.layers[0], x, get="ntk")), (rows(1, 3, 3, 1),))  # ends with positions


def test_values_are_the_kernel_functions_bit_for_bit():
    for dtype in (np.float32, np.float64):
        x, y = X.astype(dtype), Y.astype(dtype)
        for net in (NET, stax.serial(stax.Dense(7, 1.4, 0.1, parameterization="standard"), stax.Relu())):
            plain = net.kernel_fn(x, y, BOTH)
            for f in (fj.kernel, jax.jit(fj.kernel, static_argnums=(0, 3))):
                found = f(net, x, y, BOTH)
                assert all(np.array_equal(a, b) for a, b in zip(plain, found, strict=True))
                assert found.ntk.dtype == dtype
        assert np.array_equal(fj.diagonal(NET, x, "ntk"), NET.kernel_fn.diagonal(x, "ntk"))
        assert np.array_equal(fj.kernel(NET, x, get="ntk"), NET.kernel_fn(x, None, "ntk"))
        assert np.array_equal(jax.value_and_grad(lambda x: fj.kernel(NET, x).sum())(x)[0], jnp.sum(fj.kernel(NET, x)))


def test_gradients_are_those_of_vjp():
    c = {n: rows(4, 2, seed=k) for k, n in enumerate(BOTH)}
    found = NET.kernel_fn.with_parameters({"0.W_std": 1.3, "1.alpha": 0.13}).vjp(X, Y, cotangents=c, wrt=("x1", "x2"))
    _, pull = jax.vjp(lambda x, y: pairs(x, y, 1.3), X, Y)
    of1, of2 = pull(type(pairs(X, Y, 1.3))(*map(jnp.asarray, c.values())))
    assert np.array_equal(of1, found.x1)
    assert np.array_equal(of2, found.x2)


def test_vmap_over_inputs_and_parameters():
    g = jax.grad(loss, (0, 1, 2))
    xs, Ws = jnp.stack([X, X + 1, -X]), jnp.array([1.1, 1.3, 1.1])
    for f in (jax.vmap(g, (0, None, 0)), jax.jit(jax.vmap(g, (0, None, 0)))):
        found = f(xs, Y, Ws)
        for k in range(3):
            for a, b in zip(found, g(xs[k], Y, Ws[k]), strict=True):
                assert np.allclose(a[k], b, rtol=1e-13, atol=1e-14)
    twice = jax.vmap(jax.vmap(lambda x, W: pairs(x, Y, W).ntk, (None, 0)), (0, None))(xs, Ws)
    assert np.array_equal(twice[1, 2], pairs(xs[1], Y, Ws[2]).ntk)
    assert np.array_equal(jax.vmap(lambda x: fj.kernel(NET, x))(xs)[2], fj.kernel(NET, xs[2]))
    many = jnp.stack([rows(2, 3, 3, 1)] * 2)
    assert jax.vmap(lambda x: fj.kernel(IMAGES, x))(many).shape == (2, 2, 2)
    jacobian = jax.jacrev(lambda x: fj.kernel(NET, x, Y))(X)
    assert jacobian.shape == (4, 2, 4, 3)
    assert not jacobian[0, 0, 1].any()


def test_shard_map():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("rows",))
    P = jax.sharding.PartitionSpec
    sharded = jax.shard_map(
        lambda x, y: fj.kernel(NET, x, y), mesh=mesh, in_specs=(P("rows"), P()), out_specs=P("rows"), check_vma=False
    )
    assert np.array_equal(sharded(X, Y), fj.kernel(NET, X, Y))
    a, b = (jax.grad(lambda y, f=f: f(X, y).sum())(Y) for f in (sharded, lambda x, y: fj.kernel(NET, x, y)))
    assert np.allclose(a, b, rtol=1e-13)


def test_only_what_is_asked_for(monkeypatch):
    asked = []
    own = type(NET.kernel_fn).vjp

    def vjp(self, x1, x2=None, **options):
        asked.append((set(options["cotangents"]), set(options["wrt"])))
        return own(self, x1, x2, **options)

    monkeypatch.setattr(type(NET.kernel_fn), "vjp", vjp)
    jax.grad(lambda W: pairs(X, Y, W).nngp.sum())(1.3)
    jax.grad(lambda x: pairs(x, Y, 1.3).ntk.sum())(X)
    jax.grad(lambda W: pairs(X, Y, 1.3).ntk.sum() * 0 + W)(1.0)
    assert asked == [({"nngp"}, {"0.W_std", "1.alpha"}), ({"ntk"}, {"x1"})]


def test_neural_tangents_signature():
    kernel_fn = fj.kernel_fn(NET.kernel_fn, {"0.W_std": 1.1})
    both = kernel_fn(X)
    assert np.array_equal(both.ntk, kernel_fn(X, None, "ntk"))
    assert np.array_equal(kernel_fn(X, Y, "nngp"), NET.kernel_fn.with_parameters({"0.W_std": 1.1})(X, Y, "nngp"))


def test_layers_made_of_tracers():
    def network(W, b):
        return stax.serial(stax.Dense(5, W, b), stax.LeakyRelu(0.1), stax.Dense(1, W))

    def total(W, b):
        return fj.kernel_fn(network(W, b))(X, Y, "ntk").sum()

    wanted = network(1.3, 0.2).kernel_fn.vjp(X, Y, cotangents={"ntk": np.ones((4, 2))}).parameters
    for f in (jax.grad(total, (0, 1)), jax.jit(jax.grad(total, (0, 1)))):
        W, b = f(1.3, 0.2)
        assert float(W) == pytest.approx(wanted["0.W_std"] + wanted["2.W_std"], rel=1e-13)
        assert float(b) == pytest.approx(wanted["0.b_std"], rel=1e-13)
    with pytest.raises(TypeError, match=r"holds a JAX tracer.*fastntk\.jax\.kernel"):
        jax.grad(lambda W: network(W, 0.1).kernel_fn(X, None, "ntk").sum())(1.3)
    with pytest.raises(TypeError, match=r"W_std must be a number, given jax.* of shape"):
        jax.jit(lambda W: fj.kernel(network(W, 0.1), X))(jnp.ones(2))


def test_layers_made_of_tensors():
    torch = pytest.importorskip("torch")
    import fastntk.torch as ft

    W = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    network = stax.serial(stax.Dense(5, W, 0.2), stax.Relu(), stax.Dense(1, W))
    ft.kernel(network, torch.from_numpy(X), get="ntk").sum().backward()
    plain = stax.serial(stax.Dense(5, 1.3, 0.2), stax.Relu(), stax.Dense(1, 1.3)).kernel_fn
    wanted = plain.vjp(X, cotangents={"ntk": np.ones((4, 4))}).parameters
    assert W.grad.item() == pytest.approx(wanted["0.W_std"] + wanted["2.W_std"], rel=1e-13)
    with pytest.raises(TypeError, match=r"fastntk\.torch\.kernel"):
        network.kernel_fn(X)


REFUSED = {
    "network": (lambda: fj.kernel(3, X), TypeError, "network must be a stax layer"),
    "get": (lambda: fj.kernel(NET, X, get="cov1"), ValueError, "'nngp', 'ntk'"),
    "integers": (lambda: fj.kernel(NET, np.ones((2, 3), int)), TypeError, "float32 or float64"),
    "no array": (lambda: fj.kernel(NET, [[1.0]]), TypeError, "must be an array"),
    "rank": (lambda: fj.kernel(NET, X[0]), ValueError, "must have shape"),
    "dtypes": (lambda: fj.kernel(NET, X, Y.astype(np.float32)), TypeError, "convert one"),
    "features": (lambda: fj.kernel(NET, X, Y[:, :2]), ValueError, "different shapes"),
    "name": (lambda: fj.kernel(NET, X, parameters={"0.w_std": 1.0}), ValueError, "did you mean '0.W_std'"),
    "value": (lambda: fj.kernel(NET, X, parameters={"0.W_std": np.ones(2)}), ValueError, "must be one number"),
    "parameters": (lambda: fj.kernel(NET, X, parameters=[1]), TypeError, "dict of paths"),
    "inputs": (
        lambda: fj.kernel(stax.parallel(stax.Dense(1), stax.Dense(1)), X), ValueError, "2 branches",
    ),
    "outputs": (
        lambda: fj.kernel(stax.serial(stax.Dense(1), stax.FanOut(2)), X), NotImplementedError, "several inputs or out",
    ),
    "twice": (
        lambda: jax.grad(lambda x: jax.grad(loss)(x, Y, 1.3).sum())(X), NotImplementedError, "differentiable once",
    ),
    "forward": (lambda: jax.jvp(lambda x: loss(x, Y, 1.3), (X,), (X,)), TypeError, "forward-mode"),
    "a negative value": (lambda: fj.kernel(NET, X, parameters={"0.W_std": -1.0}), Exception, "must not be negative"),
    "a tracer": (lambda: jax.jit(NET.kernel_fn)(X), TypeError, r"fastntk\.jax\.kernel"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what):
    call, kind, words = REFUSED[what]
    with pytest.raises(kind, match=words):
        jax.block_until_ready(call())


def test_examples_in_docstrings():
    found = doctest.testmod(fj)
    assert found.attempted >= 8
    assert not found.failed


def test_attention_and_what_is_dropped():
    net = stax.serial(
        stax.Conv(2, (2, 2), b_std=0.1), stax.Relu(), stax.GlobalSelfAttention(2, 2, 2, 2, W_key_std=1.2), stax.Relu(),
        stax.Dropout(0.7), stax.GlobalAvgPool(), stax.Dense(1),
    )  # fmt: skip

    def kernel(x, y, W):
        return fj.kernel(net, x, y, BOTH, parameters={"2.W_key_std": W, "4.rate": W / 2})

    reverse(jax.jit(kernel), (rows(2, 3, 2, 2), rows(2, 3, 2, 2, seed=1), 1.1))


@pytest.mark.parametrize("make", [stax.Activation, stax.Elementwise, stax.ElementwiseNumerical])
@pytest.mark.parametrize("fn", [(jnp.tanh, np.tanh), (jax.nn.softplus, lambda x: np.logaddexp(0, x))])
def test_functions_of_jax_make_layers(make, fn):
    """Of 64 bits for kernels, whatever JAX is set to; of the inputs' library and dtype in finite networks."""
    x = np.random.default_rng(0).standard_normal((4, 3))
    found, expected = (stax.serial(stax.Dense(8), make(f), stax.Dense(1)) for f in fn)
    for get in ("nngp", "ntk"):
        np.testing.assert_allclose(found.kernel_fn(x, None, get), expected.kernel_fn(x, None, get), rtol=1e-12)
    gradients = [net.kernel_fn.vjp(x, None, cotangents={"ntk": np.ones((4, 4))}).x1 for net in (found, expected)]
    np.testing.assert_allclose(*gradients, rtol=1e-9, atol=1e-9)
    params = found.init_fn(0, x.shape)[1]
    outputs = found.apply_fn(params, x)
    assert isinstance(outputs, np.ndarray)
    np.testing.assert_allclose(outputs, expected.apply_fn(params, x), rtol=1e-12)
    assert isinstance(found.apply_fn(params, jnp.asarray(x, jnp.float32)), jax.Array)


def _exponential(q12, q11, q22):
    size = jnp.sqrt(q11 * q22)
    return size * jnp.exp(q12 / size - 1)


def _rectifier(q12, q11, q22):
    root = jnp.sqrt(jnp.maximum(q11 * q22 - q12**2, 1e-30))
    return root / (2 * jnp.pi) + (1 - jnp.arctan2(root, q12) / jnp.pi) / 2 * q12


@pytest.mark.parametrize(("nngp", "layer"), [(_exponential, stax.ExpNormalized()), (_rectifier, stax.Relu())])
def test_duals_written_with_jax(nngp, layer):
    """Differentiated by JAX, of which some take no complex numbers, with 64 bits."""
    x1, x2 = (np.random.default_rng(k).standard_normal((3, 4)).astype(np.float32) for k in (0, 1))
    x2[0] = x1[0]
    nets = (stax.serial(stax.Dense(1), own) for own in (stax.Elementwise(nngp_fn=nngp), layer))
    one, other = (net.kernel_fn(x1, x2, ("nngp", "ntk")) for net in nets)
    for field in ("nngp", "ntk"):
        np.testing.assert_allclose(getattr(one, field), getattr(other, field), rtol=2e-6)
