"""Parameterizations: bad input, and networks of stax."""

from __future__ import annotations

import dataclasses
import math
import sys

import numpy as np
import pytest
from abc_inputs import IP_LLR, MUP, NAMED, NTK, SP, flow
from fastntk import abc, stax
from fastntk.abc import Biases, Parameterization

# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: MUP(0), ValueError, r"\[mup\] L must be at least 1, given 0"),
        (lambda: IP_LLR(2, 0), ValueError, r"\[ip_llr\] warmup must be at least 1"),
        (lambda: NTK(1.5), TypeError, r"\[ntk\] L must be an integer"),
        (lambda: Parameterization((0, 0, 0), (0, 0.5), 0), ValueError, "b has 2 exponents, a has 3"),
        (lambda: Parameterization((0, 0), 0, (0, 0, 0)), ValueError, "c has 3 exponents, a has 2"),
        (lambda: Parameterization((0,), 0, 0), ValueError, "at least 2 weight layers"),
        (lambda: Parameterization((0, math.nan), 0, 0), ValueError, "a must be finite"),
        (lambda: Parameterization("ab", 0, 0), TypeError, "a must be numbers"),
        (lambda: Parameterization((0, 0), 0, 0, c_first=1), ValueError, "c_first and warmup go together"),
        (lambda: Parameterization((0, 0), 0, 0, warmup=1), ValueError, "c_first and warmup go together"),
        (lambda: Parameterization((0, 0), 0, 0, bias=(0, 0)), TypeError, "bias must be Biases or None"),
        (lambda: Parameterization((0, 0), 0, 0, bias=Biases((0, 0, 0), 0, 0)), ValueError, "bias.a has 3 exponents"),
        (lambda: MUP(2).bias_rates(0), ValueError, "muP has no biases"),
        (lambda: MUP(2).shifted([1, 2]), ValueError, "t has 2 exponents"),
        (lambda: abc.scaling(MUP(2), 0), ValueError, "steps must be at least 1"),
        (lambda: abc.init(MUP(2), 0, 3), ValueError, r"\[init\] width must be at least 1, given 0"),
        (lambda: abc.init(MUP(2), 8, 0), ValueError, r"\[init\] d must be at least 1"),
        (lambda: abc.init("mup", 8, 3), TypeError, "takes a Parameterization, given str"),
        (lambda: abc.init(MUP(2), 8, 3, activation="sine"), ValueError, "must be one of relu, tanh, elu, linear"),
        (lambda: abc.init(MUP(2), 8, 3, activation=3), TypeError, "phi and dphi"),
        (lambda: abc.init(MUP(2), 8, 3, scales=(1, 1)), ValueError, "scales must be 3 numbers"),
        (lambda: abc.init(MUP(2), 8, 3, multipliers=(1, 1, -1)), ValueError, "multipliers must be 3 numbers"),
        (lambda: abc.init(MUP(2), 8, 3, b_std=-1), ValueError, "b_std must be finite and not negative"),
        (lambda: abc.init(MUP(2), 8, 3, "seed"), TypeError, "rng must be a numpy.random.Generator or an integer"),
        (lambda: abc.init(MUP(2), 8, 3)(np.ones((2, 4))), ValueError, r"x must have shape \(n, 3\), given \(2, 4\)"),
        (lambda: train_small(x=[[np.nan, 1, 2]]), ValueError, "x must be finite"),
        (lambda: train_small(y=[1.0, 2.0]), ValueError, r"y must have shape \(1, 1\), given \(2,\)"),
        (lambda: train_small(y=[np.inf]), ValueError, "y must be finite"),
        (lambda: train_small(lr=0), ValueError, "lr must be positive"),
        (lambda: train_small(lr=[0.1, 0.1]), ValueError, "one for each of 3 steps"),
        (lambda: train_small(steps=0), ValueError, "steps must be at least 1"),
        (lambda: train_small(batch_size=0), ValueError, "batch_size must be at least 1"),
        (lambda: train_small(batch_size=2), ValueError, "batch_size 2 is more than the 1 samples"),
        (lambda: abc.hybrid_mup(abc.init(NTK(2), 8, 3), np.ones((1, 3)), 1.0, 0.1, 2), ValueError, "in muP without"),
        (lambda: abc.coordinate_check(MUP(2), (64,)), ValueError, "at least two widths"),
        (lambda: abc.coordinate_check(MUP(2), (64, 64)), ValueError, "all different"),
        (lambda: abc.coordinate_check(MUP(2), (0, 64)), ValueError, "widths must be at least 1, given 0"),
        (lambda: abc.linear_mup_limit(np.ones((2, 3)), [1, 2], -1, 3), ValueError, "lr must be positive"),
        (lambda: abc.linear_mup_limit(np.ones((2, 3)), [1, 2], 1, 3, scales=(1,)), ValueError, "scales must be 2"),
        (lambda: flow(n_particles=0), ValueError, "n_particles must be at least 1"),
        (lambda: flow(t=[1, 0]), ValueError, "not negative and increasing"),
        (lambda: flow(t=[]), ValueError, "not negative and increasing"),
        (lambda: flow(rtol=0), ValueError, "rtol must lie between 0 and 1"),
        (lambda: flow(particles=(np.ones((4, 1)), np.ones((4, 2)))), ValueError, "particles must be finite"),
        (lambda: abc.hidden_layers("net"), TypeError, r"takes a network of stax, given str"),
        (lambda: abc.hidden_layers(stax.Dense(3)), ValueError, "has no hidden layer"),
        (lambda: abc.train("net", MUP(1), [[1.0]], [1.0], 0.1, 1), TypeError, "takes a network of stax"),
        (lambda: torch_small(MUP(2)), ValueError, "muP is for L = 2 hidden layers, the network has 1"),
        (lambda: torch_small(MUP(1), 0.1), ValueError, "the network has biases, muP has no exponents for them"),
        (lambda: torch_small(MUP(1), width=0), ValueError, "width must be positive and finite"),
    ],
)  # fmt: skip
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()


def train_small(x=((1.0, 2.0, 3.0),), y=1.0, lr=0.1, steps=3, **options):
    return abc.sgd(abc.init(MUP(2), 8, 3), x, y, lr, steps, **options)


def torch_small(made, b_std=None, **options):
    net = stax.serial(stax.Dense(8, b_std=b_std), stax.Relu(), stax.Dense(1))
    return abc.train(net, made, np.ones((2, 3)), [1.0, 2.0], 0.1, 2, **options)


def test_missing_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install 'fastntk\[torch\]'"):
        torch_small(MUP(1))
    monkeypatch.setitem(sys.modules, "scipy.integrate", None)
    with pytest.raises(ImportError, match=r"pip install 'fastntk\[predict\]'"):
        flow()


# ---------------------------------------------------------------- networks of stax


def conv(channels, **options):
    return stax.Conv(channels, (3, 3), padding="SAME", W_std=2**0.5, **options)


def residual():
    """A convolution, a block with a projection beside it, and a readout."""
    return stax.serial(
        conv(12), stax.Relu(),
        stax.FanOut(2),
        stax.parallel(conv(24), stax.serial(conv(18), stax.Relu(), conv(24))),
        stax.FanInSum(), stax.Relu(), stax.GlobalAvgPool(), stax.Dense(2),
    )  # fmt: skip


def test_places_of_layers():
    from fastntk.finite.places import Walk

    walk = Walk(residual())
    assert (walk.L, walk.places) == (3, [1, 2, 2, 3, 4])
    assert abc.hidden_layers(residual()) == 3
    assert walk.width() == pytest.approx((12 * 24 * 18 * 24) ** 0.25)
    skip = stax.serial(
        stax.FanOut(2), stax.parallel(stax.Dense(2), stax.serial(stax.Dense(9), stax.Relu(), stax.Dense(2))),
        stax.FanInSum(),
    )  # fmt: skip
    walk = Walk(skip)  # the first layer leads from the inputs straight to the outputs
    assert (walk.L, walk.places, walk.width()) == (1, [0, 1, 2], pytest.approx(9))


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def dense_net(m, b_std, form="ntk"):
    def dense(width, W_std):
        return stax.Dense(width, W_std, b_std, parameterization=form)

    hidden = [layer for _ in range(3) for layer in (dense(m, 2**0.5), stax.Relu())]
    return stax.serial(*hidden, dense(2, 1.0))


@pytest.mark.rivals
@pytest.mark.parametrize("make", NAMED)
@pytest.mark.parametrize("b_std", [None, 1.0])
@pytest.mark.parametrize("form", ["ntk", "standard"])
def test_torch_trains_what_numpy_trains(torch, make, b_std, form):
    rng = np.random.default_rng(1)
    x, y, m = rng.standard_normal((5, 3)), rng.standard_normal((5, 2)), 32
    p = make(3, biases=b_std is not None)
    lr = [0.3, 0.05, 0.05, 0.05]
    trained = abc.train(dense_net(m, b_std, form), p, x, y, lr, 4, rng=7)
    assert trained.width == pytest.approx(m)
    draw, weights, biases = np.random.default_rng(7), [], []
    for layer, shape in enumerate(((3, m), (m, m), (m, m), (m, 2))):
        weights.append(draw.standard_normal(shape) * m ** -p.b[layer])
        if b_std is not None:
            biases.append(draw.standard_normal(shape[1]) * m ** -p.bias.b[layer])
    network = abc.init(p, m, 3, outputs=2, multipliers=(math.sqrt(2 / 3), 2**0.5, 2**0.5, 1))
    network = dataclasses.replace(network, weights=tuple(weights), biases=tuple(biases) or None)
    run = abc.sgd(network, x, y, lr, 4)
    tolerance = {"rtol": 1e-11, "atol": 1e-13}
    np.testing.assert_allclose(trained.initial, run.outputs[0], **tolerance)
    np.testing.assert_allclose(trained.final, run.outputs[-1], **tolerance)
    np.testing.assert_allclose(trained.losses, run.losses[:-1], **tolerance)
    assert trained.final_loss == pytest.approx(run.final_loss, rel=1e-11)
    assert trained.change == pytest.approx(run.change, rel=1e-9)
    np.testing.assert_allclose(trained(x), trained.final, **tolerance)


@pytest.mark.rivals
def test_torch_ntk_is_the_network_itself(torch):
    """Under NTK: plain descent on the parameters of init_fn, for a network with convolutions and branches."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((4, 6, 6, 2)), rng.standard_normal((4, 2))
    net = residual()
    trained = abc.train(net, NTK(3), x, y, 0.1, 5, rng=3)
    leaves = []

    def adopted(params):
        if isinstance(params, tuple):
            return tuple(adopted(part) for part in params)
        if params is None:
            return None
        leaves.append(torch.from_numpy(params).requires_grad_())
        return leaves[-1]

    params = adopted(net.init_fn(3, x.shape)[1])
    for _ in range(5):
        loss = ((net.apply_fn(params, torch.from_numpy(x)) - torch.from_numpy(y)) ** 2).sum() / 8
        with torch.no_grad():
            for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves, retain_graph=True), strict=True):
                leaf -= 0.1 * gradient
    expected = net.apply_fn(params, torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(trained.final, expected, rtol=1e-11)
    assert trained.change > 0.1


@pytest.mark.rivals
@pytest.mark.parametrize("make", NAMED)
def test_torch_symmetry_of_architectures(torch, make):
    """Shifted exponents train the same network of convolutions and branches; batches and float32 on the way."""
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((6, 6, 6, 2)), rng.standard_normal((6, 2))
    p = make(3)
    runs = [
        abc.train(residual(), q, x, y, 0.1, 8, batch_size=4, rng=1, dtype=dtype)
        for q, dtype in ((p, np.float64), (p.shifted([0.5, -0.25, 0.25, 1]), np.float64), (p, np.float32))
    ]
    np.testing.assert_allclose(runs[1].final, runs[0].final, rtol=1e-9)
    np.testing.assert_allclose(runs[1].losses, runs[0].losses, rtol=1e-9)
    assert runs[2].final_loss < runs[2].initial_loss
    assert runs[2](x.astype(np.float32)).dtype == np.float32
    assert len(runs[0].losses) == 8


@pytest.mark.rivals
def test_torch_coordinates_of_a_convolutional_network(torch):
    """The first step's change of outputs over widths: of order 1 in muP, of m in SP with one learning rate for all."""
    rng = np.random.default_rng(5)
    x, y, widths = rng.standard_normal((1, 6, 6, 2)), [1.0], np.array([16, 64, 256])

    def net(m):
        return stax.serial(conv(m), stax.Relu(), conv(m), stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1))

    for made, lr, expected in ((MUP(2), 0.1, 0.0), (SP(2, 0), 1e-6, 1.0)):
        changes = [
            np.mean([np.log(abc.train(net(m), made, x, y, lr, 1, rng=s).change) for s in range(6)]) for m in widths
        ]
        assert np.polyfit(np.log(widths), changes, 1)[0] == pytest.approx(expected, abs=0.2)


@pytest.mark.rivals
def test_torch_losses_and_divergence(torch):
    rng = np.random.default_rng(6)
    x = rng.standard_normal((8, 3))
    labels = np.eye(2)[rng.integers(2, size=8)]

    def cross_entropy(f, y):
        return torch.nn.functional.cross_entropy(f, y)

    trained = abc.train(dense_net(64, None), MUP(3), x, labels, 0.5, 40, loss=cross_entropy, progress=False)
    assert trained.final_loss < 0.5 * trained.initial_loss
    assert not trained.diverged
    blown = abc.train(stax.serial(stax.Dense(64), stax.Dense(2)), SP(1, 0), x, labels, 10.0, 20)
    assert blown.diverged
    assert blown.final_loss == blown.change == math.inf
    assert np.isfinite(blown.final).all()
    assert np.isfinite(blown.losses).all()
    assert len(blown.losses) < 20
    np.testing.assert_allclose(blown(x), blown.final)


@pytest.mark.rivals
def test_torch_bad_input(torch):
    net = dense_net(8, None)
    x, y = np.ones((2, 3)), np.ones((2, 2))
    with pytest.raises(ValueError, match=r"the network gives outputs of shape \(2, 2\), y has shape \(2, 1\)"):
        abc.train(net, MUP(3), x, [1.0, 2.0], 0.1, 2)
    with pytest.raises(ValueError, match="x must be finite"):
        abc.train(net, MUP(3), x * np.nan, y, 0.1, 2)
    with pytest.raises(TypeError, match="dtype must be float32 or float64"):
        abc.train(net, MUP(3), x, y, 0.1, 2, dtype=np.float16)
    with pytest.raises(FloatingPointError, match="not finite before training"):
        abc.train(net, Parameterization((-300, 0, 0, 0), 0, 0), x, y, 0.1, 2)
