"""Kernels under PyTorch's autograd, torch.func and torch.compile."""

from __future__ import annotations

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fastntk import stax

torch = pytest.importorskip("torch")
import fastntk.torch as ft  # noqa: E402

pytestmark = pytest.mark.rivals

NET = stax.serial(
    stax.Dense(5, 1.4, 0.1), stax.LeakyRelu(0.1), stax.Dense(5, 1.2, 0.2), stax.Erf(), stax.Dense(1)
)  # fmt: skip
BOTH = ("nngp", "ntk")


def rows(*shape, seed=0, grad=True):
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))
    return x.requires_grad_(grad)


X, Y, W = rows(4, 3), rows(2, 3, seed=1), torch.tensor(1.3, dtype=torch.float64, requires_grad=True)


def pairs(x, y, W):
    return ft.kernel(NET, x, y, BOTH, parameters={"0.W_std": W, "1.alpha": W / 10})


def gram(x, W):
    return ft.kernel(NET, x, get="ntk", parameters={"0.W_std": W})


def loss(x, y, W):
    return pairs(x, y, W)[1].sin().sum()


@pytest.mark.parametrize("batched", [False, True])
def test_gradcheck(batched):
    check = {"check_batched_grad": batched}
    assert torch.autograd.gradcheck(pairs, (X, Y, W), **check)
    assert torch.autograd.gradcheck(gram, (X, W), **check)
    assert torch.autograd.gradcheck(lambda x: ft.diagonal(NET, x, BOTH), (X,), **check)
    assert torch.autograd.gradcheck(lambda x, y: ft.kernel(NET, x, y), (rows(2, 1, 3, 2), rows(2, 2, 2)), **check)


def test_values_are_the_kernel_functions_bit_for_bit():
    for dtype in (torch.float32, torch.float64):
        for parameterization in ("ntk", "standard"):
            net = stax.serial(stax.Dense(7, 1.4, 0.1, parameterization=parameterization), stax.Relu(), stax.Dense(1))
            x, y = X.detach().to(dtype), Y.detach().to(dtype)
            plain = net.kernel_fn(x.numpy(), y.numpy(), BOTH)
            found = ft.kernel(net, x.requires_grad_(), y, BOTH)
            assert all(np.array_equal(a, b.detach().numpy()) for a, b in zip(plain, found, strict=True))
            assert found.ntk.requires_grad
            assert not ft.kernel(net, x.detach(), y).requires_grad
            alone = ft.diagonal(net, x, "ntk").detach().numpy()
            assert np.array_equal(alone, net.kernel_fn.diagonal(x.detach().numpy(), "ntk"))


def test_a_tensor_with_itself_is_a_symmetric_call():
    (one,) = torch.autograd.grad(ft.kernel(NET, X, X, "ntk").sum(), X)
    (two,) = torch.autograd.grad(ft.kernel(NET, X, get="ntk").sum(), X)
    assert torch.equal(one, two)
    plain = NET.kernel_fn.vjp(X.detach().numpy(), cotangents={"ntk": np.ones((4, 4))}, wrt="x1")
    assert np.array_equal(one.numpy(), plain.x1)


def test_only_what_is_needed_is_computed(monkeypatch):
    asked = []
    plain = type(NET.kernel_fn).vjp
    monkeypatch.setattr(
        type(NET.kernel_fn),
        "vjp",
        lambda self, *a, **k: asked.append((k["wrt"], set(k["cotangents"]))) or plain(self, *a, **k),
    )
    found = pairs(X.detach(), Y, W.detach())
    found.nngp.sum().backward()
    pairs(X.detach(), Y.detach(), W).ntk.sum().backward()
    assert asked == [(["x2"], {"nngp"}), (["0.W_std", "1.alpha"], {"ntk"})]
    Y.grad = W.grad = None


def test_transforms():
    x, y, w = X.detach(), Y.detach(), W.detach()
    many, values = rows(5, 4, 3, grad=False, seed=2), torch.linspace(1, 2, 5, dtype=torch.float64)
    gradient = torch.func.grad(loss, (0, 1, 2))
    plain = torch.autograd.grad(loss(X, Y, W), (X, Y, W))
    assert all(torch.equal(a, b) for a, b in zip(gradient(x, y, w), plain, strict=True))
    for dims, inputs in (
        ((0, None, 0), (many, y, values)),
        ((0, None, None), (many, y, w)),
        ((None, None, 0), (x, y, values)),
    ):
        found = torch.func.vmap(gradient, dims)(*inputs)
        for k in range(5):
            alone = gradient(*(a if d is None else a[k] for a, d in zip(inputs, dims, strict=True)))
            for a, b in zip(found, alone, strict=True):
                assert torch.allclose(a[k], b, rtol=1e-12, atol=1e-14)
    forward = torch.func.vmap(lambda x: ft.kernel(NET, x, y), in_dims=1)(many.movedim(0, 1))
    assert torch.equal(forward[3], ft.kernel(NET, many[3], y))
    inputs_only = torch.func.vmap(torch.func.grad(lambda x: ft.kernel(NET, x, y, "ntk").sum()))(many)
    assert torch.equal(inputs_only[2], torch.func.grad(lambda x: ft.kernel(NET, x, y, "ntk").sum())(many[2]))
    jacobian = torch.func.jacrev(lambda x: gram(x, w))(x)
    assert jacobian.shape == (4, 4, 4, 3)
    assert torch.allclose(jacobian, torch.autograd.functional.jacobian(lambda x: gram(x, w), x), rtol=1e-12, atol=1e-14)
    quick = torch.autograd.functional.jacobian(lambda x: gram(x, w), x, vectorize=True)
    assert torch.allclose(jacobian, quick, rtol=1e-12, atol=1e-14)


@pytest.mark.filterwarnings("default::DeprecationWarning")  # dynamo makes an instance of Function itself
def test_compiles_without_a_break():
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(X, Y, W), (X, Y, W))
    assert all(torch.equal(a, b) for a, b in zip(found, torch.autograd.grad(loss(X, Y, W), (X, Y, W)), strict=True))
    module = ft.Kernel(NET, "ntk", learn=("W_std", "1.alpha"))
    torch.compile(lambda x: module(x).sum(), fullgraph=True, backend="aot_eager")(X.detach()).backward()
    raw = dict(module.raw)
    assert set(raw) == {"0_W_std", "1_alpha", "2_W_std", "4_W_std"}
    assert all(r.grad is not None for r in raw.values())


def test_threads_number_networks_apart():
    """Each network its own number, however often threads take turns."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def number(first):
        layers = [stax.Dense(1, 2 + first + k / 1000) for k in range(200)]
        return [(layer, ft._handle(layer, (), None)) for layer in layers]

    try:
        with ThreadPoolExecutor(8) as pool:
            found = [pair for own in pool.map(number, range(8)) for pair in own]
    finally:
        sys.setswitchinterval(before)
    assert all(ft._known[handle][0].layer == layer for layer, handle in found)


def test_operators_are_well_formed():
    x, y, none = X.detach(), Y.detach(), torch.empty(0, dtype=torch.float64)
    handle = ft._handle(NET, ("0.W_std",), None)
    value = torch.ones(1, dtype=torch.float64)
    ops = torch.ops.fastntk
    torch.library.opcheck(ops.kernel.default, (x, y, value, handle, "both", False, 0))
    torch.library.opcheck(ops.kernel.default, (x, None, none, ft._handle(NET, (), None), "ntk", True, 1))
    for wanted in ([True, True, True], [False, True, False]):
        torch.library.opcheck(
            ops.kernel_vjp.default, (x, y, value, torch.ones(4, 2).double(), None, handle, wanted, False, 0)
        )


def test_second_derivatives_are_refused_in_words():
    words = "differentiable once"
    with pytest.raises(NotImplementedError, match=words):
        torch.autograd.functional.hessian(lambda x: gram(x, W.detach()).sum(), X.detach())
    with pytest.raises(NotImplementedError, match=words):
        torch.func.grad(lambda x: torch.func.grad(lambda x: gram(x, W).sum())(x).sum())(X.detach())


def test_a_module_learns_what_it_is_told_to():
    x = rows(20, 3, grad=False)
    y = ft.kernel(NET.kernel_fn.with_parameters({"0.W_std": 2.0}), x) @ torch.ones(20, 1, dtype=torch.float64) / 20
    module = ft.Kernel(NET.kernel_fn, learn="0.W_std")
    optimiser = torch.optim.LBFGS(module.parameters(), max_iter=20, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        error = (module(x).sum(1, keepdim=True) / 20 - y).square().sum()
        error.backward()
        return error

    for _ in range(3):
        optimiser.step(closure)
    assert module.values()["0.W_std"].item() == pytest.approx(2.0, rel=1e-6)
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(again(x), module(x))
        again.load_state_dict(module.state_dict())
    assert torch.equal(module.diagonal(x), ft.diagonal(NET, x, parameters=module.values()))
    slopes = ft.Kernel(stax.serial(stax.Dense(1), stax.ABRelu(-0.5, 1.0)), learn=("a", "b"), transform=None)
    assert [r.item() for r in slopes.raw.values()] == [-0.5, 1.0]


def test_float32_and_layouts():
    x = rows(3, 6).detach().float().T.requires_grad_()  # (6, 3), columns apart
    ft.kernel(NET, x, get="ntk").sum().backward()
    double = x.detach().double().requires_grad_()
    ft.kernel(NET, double, get="ntk").sum().backward()
    assert x.grad.dtype == torch.float32
    assert torch.allclose(x.grad.double(), double.grad, rtol=1e-5)


REFUSED = {
    "network": (lambda: ft.kernel(3, X), TypeError, "stax layer"),
    "input": (lambda: ft.kernel(NET, np.ones((2, 3))), TypeError, "x1 must be a torch.Tensor"),
    "integers": (lambda: ft.kernel(NET, torch.ones(2, 3, dtype=torch.int64)), TypeError, "int64"),
    "rank": (lambda: ft.diagonal(NET, torch.ones(3)), ValueError, r"\(\*batch, n, d\)"),
    "dtypes": (lambda: ft.kernel(NET, X, Y.float()), TypeError, "convert one"),
    "get": (lambda: ft.kernel(NET, X, get="cov1"), ValueError, "'nngp', 'ntk'"),
    "path": (lambda: ft.kernel(NET, X, parameters={"0.W": W}), ValueError, "did you mean '0.W_std'"),
    "parameters": (lambda: ft.kernel(NET, X, parameters=[W]), TypeError, "dict of paths"),
    "one number": (lambda: ft.kernel(NET, X, parameters={"0.W_std": X}), ValueError, "one number"),
    "transform": (lambda: ft.Kernel(NET, transform="exp"), ValueError, "'log' or None"),
    "learn": (lambda: ft.Kernel(NET, learn="gamma"), ValueError, "no parameter 'gamma'"),
    "logarithm": (lambda: ft.Kernel(stax.serial(stax.Dense(1, 1.0, 0.0))), ValueError, "no logarithm"),
    "plain": (lambda: NET.kernel_fn(X), TypeError, r"fastntk\.torch\.kernel"),
    "negative": (lambda: ft.kernel(NET, X, parameters={"0.W_std": -W}), ValueError, "must not be negative"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what):
    call, kind, words = REFUSED[what]
    with pytest.raises(kind, match=words):
        call()


def test_rows_that_are_images():
    net = stax.serial(stax.Conv(3, (2, 2), b_std=0.1), stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1))
    x, y = rows(2, 3, 12), rows(2, 12, seed=1)
    options = {"input_shape": (3, 2, 2)}
    images = x.detach().numpy().reshape(2, 3, 3, 2, 2)
    plain = net.kernel_fn(images, None, BOTH, batch_dims=1)
    found = ft.kernel(net, x, get=BOTH, **options)
    assert all(np.array_equal(a, b.detach().numpy()) for a, b in zip(plain, found, strict=True))
    assert torch.autograd.gradcheck(lambda x, y: ft.kernel(net, x, y, "ntk", **options), (x, y))
    assert torch.autograd.gradcheck(lambda x: ft.diagonal(net, x, BOTH, **options), (y,))
    module = ft.Kernel(net, "ntk", **options)
    module(y).sum().backward()
    assert module.raw["0_W_std"].grad.isfinite()
    with pytest.raises(ValueError, match=r"input_shape \(3, 2\) has 6 numbers, rows have 12"):
        ft.kernel(net, y, input_shape=(3, 2))
    with pytest.raises(ValueError, match="ends with positions"):
        ft.kernel(net.layers[0], y, **options)


def test_attention_and_masks_of_the_network_itself():
    net = stax.serial(
        stax.Conv(2, (2, 2), b_std=0.1), stax.Relu(), stax.GlobalSelfAttention(2, 2, 2, 2, W_key_std=1.2), stax.Relu(),
        stax.Dropout(0.7), stax.GlobalAvgPool(), stax.Dense(1),
    )  # fmt: skip
    x, y, W = rows(2, 12), rows(2, 12, seed=1), torch.tensor(1.1, dtype=torch.float64, requires_grad=True)

    def kernel(x, y, W):
        return ft.kernel(net, x, y, BOTH, input_shape=(3, 2, 2), parameters={"2.W_key_std": W, "4.rate": W / 2})

    assert torch.autograd.gradcheck(kernel, (x, y, W))


@pytest.mark.parametrize(
    "fn", [(torch.tanh, np.tanh), (torch.nn.SiLU(), lambda x: x / (1 + np.exp(-x)))], ids=["function", "module"]
)
def test_functions_of_torch_make_layers(fn):
    x = np.random.default_rng(0).standard_normal((4, 3))
    found, expected = (stax.serial(stax.Dense(8), stax.Activation(f), stax.Dense(1)) for f in fn)
    np.testing.assert_allclose(found.kernel_fn(x, None, "ntk"), expected.kernel_fn(x, None, "ntk"), rtol=1e-12)
    params = found.init_fn(0, x.shape)[1]
    np.testing.assert_allclose(found.apply_fn(params, x), expected.apply_fn(params, x), rtol=1e-12)
    assert isinstance(found.apply_fn(params, torch.from_numpy(x)), torch.Tensor)
    with pytest.raises(TypeError, match="must take an array and give one of its shape"):
        stax.Activation(lambda x: torch.tanh("x"))
