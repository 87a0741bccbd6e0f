"""Branches that are not Gaussian, and LayerNorm: published numbers, closed forms, finite networks, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from fastntk import stax
from fastntk.engines import select
from helpers import same

BOTH = ("nngp", "ntk")
A, B = np.array([[1, 0.5, -0.25, 2]]), np.array([[0.5, -1, 0.75, 1]])
D = (1.3, 0.2)

BACKENDS = ["numpy", *(["cpu"] if select.load("cpu")[0] is not None else [])]


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def branches(*each, join):
    return stax.serial(stax.FanOut(len(each)), stax.parallel(*each), join)


def behind(*layers):
    return stax.serial(*layers, stax.Dense(1))


def relu(std=D, width=3):
    return stax.serial(stax.Dense(width, *std), stax.Relu())


def erf(std=(0.7, 0.1), width=3):
    return stax.serial(stax.Dense(width, *std), stax.Erf())


# ---------------------------------------------------------------- against Neural Tangents, float64


@pytest.mark.parametrize(
    ("net", "nngp", "ntk"),
    [
        (behind(branches(relu(), erf(), join=stax.FanInProd()), relu()), 0.126075852022, 0.236107368446),
        (behind(branches(relu(), erf(width=5), join=stax.FanInConcat()), relu()), 0.298182468036, 0.589384256057),
    ],
    ids=["FanInProd", "FanInConcat"],
)
def test_numbers_of_neural_tangents(net, nngp, ntk, backend):
    found = net.kernel_fn(A, B, BOTH, backend=backend)
    assert abs(found.nngp[0, 0] - nngp) <= 6e-13  # twelve digits are known
    assert abs(found.ntk[0, 0] - ntk) <= 6e-13


# ---------------------------------------------------------------- closed forms


def points(dtype=np.float64, n=40, d=6):
    x = np.random.default_rng(3).standard_normal((n, d)) * np.exp(np.random.default_rng(4).standard_normal((n, 1)))
    x[1], x[2], x[3] = x[0], -x[0], 3 * x[0]
    return x.astype(dtype)


def kernels(net, x, backend, y=None):
    return net.kernel_fn(x, y, (*BOTH, "cov1"), backend=backend)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sum_has_the_products_of_its_means(dtype, backend):
    """relu(z) has the mean sqrt(q / 2 pi), an odd function none."""
    x = points(dtype)
    eps = 4e-6 if dtype == np.float32 else 1e-13
    parts = [relu(), relu((0.8, 0.4)), erf(), stax.Dense(3, 1.1, 0.3)]
    alone = [kernels(part, x, backend) for part in parts]
    found = kernels(branches(*parts, join=stax.FanInSum()), x, backend)
    q = [w**2 * (x.astype(float) ** 2).mean(1) + b**2 for w, b in (D, (0.8, 0.4))]
    m = [np.sqrt(v / (2 * np.pi)) for v in q]
    crossed = np.outer(m[0], m[1]) + np.outer(m[1], m[0])
    wanted = sum(k.nngp.astype(float) for k in alone) + crossed
    scale = np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))
    assert (np.abs(found.nngp - wanted) <= eps * scale).all()
    assert np.allclose(found.cov1, np.diag(wanted), rtol=eps, atol=0)
    assert np.allclose(found.ntk, sum(k.ntk.astype(float) for k in alone), rtol=eps, atol=eps)
    assert same(found.nngp, found.nngp.T)


def test_close_and_opposite_inputs_keep_their_digits(backend):
    """A sum of two rectifiers and one more layer: 1 - rho of neighbours, against the sum of distances of its parts."""
    x = np.random.default_rng(0).standard_normal((1, 8))
    y = x * (1 + 1e-9) + 1e-9 * np.random.default_rng(1).standard_normal((1, 8))
    parts = [relu(), relu((0.8, 0.4))]
    exact = branches(*parts, join=stax.FanInSum()).kernel_fn(x, y, backend=backend).exact
    spans = [part.kernel_fn(x, y, backend=backend).exact for part in parts]

    def distance(state):  # E (z - z')^2 / 2
        s1, s2 = np.sqrt(state.q1[0]), np.sqrt(state.q2[0])
        return (s1 - s2) ** 2 / 2 + s1 * s2 * state.defect[0, 0]

    q = [[w**2 * (v**2).mean() + b**2 for w, b in (D, (0.8, 0.4))] for v in (x, y)]
    m = np.sqrt(np.array(q) / (2 * np.pi))
    wanted = sum(map(distance, spans)) + (m[0, 0] - m[1, 0]) * (m[0, 1] - m[1, 1])
    assert abs(distance(exact) / wanted - 1) < 1e-6
    assert 0 < exact.defect[0, 0] < 1e-15


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_product_multiplies(dtype, backend):
    x = points(dtype)
    eps = 4e-6 if dtype == np.float32 else 1e-13
    parts = [stax.Dense(3, 1.2, 0.1), erf(), relu(), stax.Dense(3, 0.7)]
    alone = [kernels(part, x, backend) for part in parts]
    found = kernels(branches(*parts, join=stax.FanInProd()), x, backend)
    k, theta = np.ones((len(x), len(x))), np.zeros((len(x), len(x)))
    for part in alone:
        k, theta = k * part.nngp, theta * part.nngp + k * part.ntk
    scale = np.sqrt(np.outer(np.diag(k), np.diag(k)))
    assert (np.abs(found.nngp - k) <= eps * scale).all()
    scale = np.sqrt(np.outer(np.diag(theta), np.diag(theta)))
    assert (np.abs(found.ntk - theta) <= eps * scale).all()
    assert same(found.nngp, found.nngp.T)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layer_norm_keeps_correlations(dtype, backend):
    x = points(dtype)
    eps = 2e-6 if dtype == np.float32 else 1e-14
    before = stax.serial(stax.Dense(3, *D), stax.Erf(), stax.Dense(3, 0.9, 0.2))
    plain = kernels(before, x, backend)
    found = kernels(stax.serial(before, stax.LayerNorm(eps=0.25)), x, backend)
    sizes = np.sqrt(plain.cov1.astype(float) + 0.25)
    assert np.allclose(found.nngp, plain.nngp / np.outer(sizes, sizes), rtol=eps, atol=eps)
    assert np.allclose(found.ntk, plain.ntk / np.outer(sizes, sizes), rtol=eps, atol=eps)
    assert np.allclose(found.cov1, plain.cov1 / sizes**2, rtol=eps, atol=0)
    normed = stax.serial(before, stax.LayerNorm(eps=0.0)).kernel_fn(x, None, backend=backend).exact
    assert same(normed.defect, before.kernel_fn(x, None, backend=backend).exact.defect)


def test_layer_norm_of_nothing(backend):
    """A row of zeros has no deviation: it stays 0."""
    x = np.concatenate([points(n=4), np.zeros((1, 6))])
    net = stax.serial(stax.Dense(3), stax.LayerNorm(eps=0.0), stax.Relu(), stax.Dense(1))
    found = kernels(net, x, backend)
    assert np.isfinite(found.ntk).all()
    assert (found.nngp[4] == 0).all()
    assert (found.ntk[4] == 0).all()


def test_layer_norm_makes_inputs_of_all_sizes_one(backend):
    x = points()
    net = stax.serial(stax.Dense(3), stax.LayerNorm(eps=0.0), stax.Erf(), stax.Dense(1, 1.1, 0.2))
    one, two = (kernels(net, v, backend).nngp for v in (x, x * np.linspace(0.5, 2, len(x))[:, None]))
    assert np.allclose(one, two, rtol=0, atol=1e-14 * np.abs(one).max())


# ---------------------------------------------------------------- finite networks

WIDTH, DRAWS = 2048, 24


def finite(net, x):
    """Mean and standard error of y y' over draws and channels."""
    found = []
    for seed in range(DRAWS):
        _, params = net.init_fn(seed, x.shape)
        y = net.apply_fn(params, x)
        found.append(y @ y.T / y.shape[1])
    return np.mean(found, 0), np.std(found, 0) / DRAWS**0.5


@pytest.mark.parametrize(
    "net",
    [
        branches(relu(D, WIDTH), relu((0.8, 0.3), WIDTH), stax.Dense(WIDTH, 0.7), join=stax.FanInSum()),
        branches(relu(D, WIDTH), stax.Dense(WIDTH, 0.9, 0.2), join=stax.FanInProd()),
        branches(relu(D, WIDTH), erf((2.0, 0.1), WIDTH // 2), join=stax.FanInConcat()),
        stax.serial(stax.Dense(WIDTH, *D), stax.LayerNorm(eps=0.5), stax.Relu(), stax.Dense(WIDTH)),
    ],
    ids=["sum", "product", "concat", "norm"],
)
def test_finite_networks(net):
    x = np.concatenate([A, B, -A, 0.2 * B])
    mean, error = finite(net, x)
    wanted = net.kernel_fn(x, None, "nngp")
    assert (np.abs(mean - wanted) <= 4.5 * error + 2e-3 * np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))).all()


def test_the_finite_ntk_behind_a_sum_of_rectifiers():
    """Derivatives of outputs by all weights, in PyTorch."""
    torch = pytest.importorskip("torch")
    net = behind(branches(relu(D, 1024), relu((0.8, 0.3), 1024), join=stax.FanInSum()))
    x = torch.tensor(np.concatenate([A, B]))
    found = []
    for seed in range(12):
        _, params = net.init_fn(seed, x.shape)
        leaves = []

        def leaf(p, leaves=leaves):
            if isinstance(p, tuple):
                return tuple(leaf(v) for v in p)
            if p is None:
                return None
            leaves.append(torch.tensor(p, requires_grad=True))
            return leaves[-1]

        y = net.apply_fn(leaf(params), x)
        rows = [torch.cat([g.reshape(-1) for g in torch.autograd.grad(v, leaves, retain_graph=True)]) for v in y[:, 0]]
        jacobian = torch.stack(rows)
        found.append((jacobian @ jacobian.T).numpy())
    mean, error = np.mean(found, 0), np.std(found, 0) / len(found) ** 0.5
    wanted = net.kernel_fn(x.numpy(), None, "ntk")
    assert (np.abs(mean - wanted) <= 4.5 * error + 5e-3 * np.abs(wanted).max()).all()


# ---------------------------------------------------------------- what is refused

Z = stax.Dense(3)
REFUSED = {
    "z and relu(z)": (
        stax.serial(Z, branches(stax.Relu(), stax.Identity(), join=stax.FanInSum())),
        "two that are random by the same weights",
    ),
    "the input": (
        branches(stax.Identity(), relu(width=6), join=stax.FanInSum()),
        "the network's input",
    ),
    "an offset": (
        branches(relu(), stax.serial(stax.Dense(3), stax.Erf(c=0.5)), join=stax.FanInSum()),
        "the means of its branches count",
    ),
    "a product of one's own": (
        stax.serial(Z, branches(stax.Relu(), stax.Erf(), join=stax.FanInProd())),
        "two that are random by the same weights",
    ),
    "a nonlinearity on a sum": (
        stax.serial(branches(relu(), erf(), join=stax.FanInSum()), stax.Relu()),
        "needs Gaussian inputs",
    ),
    "norm of relu": (stax.serial(relu(), stax.LayerNorm()), "takes values whose mean over channels is 0"),
    "norm of the input": (stax.LayerNorm(), "the network's input"),
    "norm of samples": (stax.serial(Z, stax.LayerNorm(axis=0)), "without the channels' axis 1"),
    "norm of both": (stax.serial(Z, stax.LayerNorm(axis=(0, 1))), "with the samples' axis 0"),
    "concatenated samples": (branches(relu(), erf(), join=stax.FanInConcat(axis=0)), "has axis=0, that of samples"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    net, words = REFUSED[name]
    with pytest.raises((NotImplementedError, ValueError), match=words):
        net.kernel_fn(points(), None, "ntk")


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"\[LayerNorm\] eps must not be negative, given -1"):
        stax.LayerNorm(eps=-1)
    with pytest.raises(ValueError, match=r"\[FanInConcat\] branches may differ along axis -1 alone"):
        stax.FanInConcat().output_shape(((2, 3), (3, 3)))
    with pytest.raises(ValueError, match=r"\[FanInProd\] takes branches of one shape"):
        stax.FanInProd().output_shape(((2, 3), (2, 4)))
    assert stax.FanInConcat().output_shape(((2, 3), (2, 4))) == (2, 7)


def test_gradients_behind_dropout_of_points():
    own = stax.serial(Z, stax.Relu(), stax.Dropout(0.5), stax.Dense(1), stax.Relu(), stax.Dense(1)).kernel_fn
    x, step = points()[:2], 1e-6
    found = own.jacobian(x, get="ntk")
    assert len(found) == len(own.parameters)
    for part, (name, value) in zip(found, own.parameters.items(), strict=True):
        ends = [own.with_parameters({name: value + sign * step}) for sign in (1, -1)]
        more, less = (end(x, None, "ntk") for end in ends)
        np.testing.assert_allclose(part, (more - less) / (2 * step), rtol=1e-7, err_msg=name)
