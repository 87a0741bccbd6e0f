"""Gradients of functions without closed form, with steps, of sums with means, normalisation and products."""

from __future__ import annotations

import gradient_oracle
import numpy as np
import pytest
from fastntk import options, stax
from fastntk.engines.select import load
from fastntk.network.activations import NONLINEARITIES, Nonlinearity
from gradient_inputs import dense
from helpers import five_points

KINDS = ("nngp", "ntk")


def mixed(phi):
    """Of two widths and biases: variances differ from input to input."""
    return stax.serial(stax.Dense(5, 1.1, 0.2), phi, stax.Dense(5, 0.9, 0.1), phi, stax.Dense(1, 1.2, 0.1))


def branches(*parts):
    return stax.serial(stax.FanOut(len(parts)), stax.parallel(*parts))


def half(phi):
    return stax.serial(stax.Dense(4, 1.2, 0.3), phi)


SUM, PRODUCT = stax.FanInSum(), stax.FanInProd()
NETWORKS = {
    "tanh": mixed(stax.Tanh()),
    "swish": mixed(stax.Swish()),
    "softplus": mixed(stax.Softplus()),
    "elu": mixed(stax.Elu()),
    "selu": mixed(stax.SELU()),
    "softsign": mixed(stax.Softsign()),
    "hard tanh": mixed(stax.HardTanh()),
    "activation": mixed(stax.Activation(lambda x: np.sin(x) + 0.3 * x)),
    "elementwise": mixed(stax.Elementwise(nngp_fn=lambda c, a, b: np.exp(-(a + b) / 2) * np.sinh(c))),
    "one variance": stax.serial(
        stax.Dense(4), stax.LayerNorm(eps=0.01), stax.Dense(4, 1.2, 0.3), stax.Tanh(), stax.Dense(1)
    ),
    "means": stax.serial(branches(half(stax.Relu()), half(stax.Sigmoid()), stax.Dense(4, 0.7, 0.1)), SUM),
    "means behind": stax.serial(
        branches(half(stax.Gelu()), stax.serial(half(stax.Relu()), stax.Identity())), SUM, stax.Dense(3, 1.1, 0.2),
        stax.Relu(), stax.Dense(1),
    ),
    "scaled means": stax.serial(
        branches(half(stax.ABRelu(0.2, 1.1)), half(stax.Exp(0.6, 0.5))), SUM, stax.Dense(2, 1.1)
    ),
    "norm": stax.serial(
        stax.Dense(4, 1.3, 0.2), stax.LayerNorm(eps=0.1), stax.Dense(4, 1.1, 0.3), stax.Relu(), stax.Dense(4),
        stax.LayerNorm(eps=0.01), stax.Relu(), stax.Dense(2),
    ),
    "product": stax.serial(
        branches(half(stax.Relu()), half(stax.Erf()), stax.Dense(4, 0.7, 0.4)), PRODUCT, stax.Dense(3, 1.1, 0.2),
        stax.Relu(), stax.Dense(1),
    ),
    "sign": mixed(stax.Sign()),
}  # fmt: skip


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_differences(name, symmetric):
    rng = np.random.default_rng(1)
    net = NETWORKS[name]
    kernel_fn = net.kernel_fn
    x1, x2 = rng.standard_normal((4, 3)), rng.standard_normal((3, 3))
    second = None if symmetric else x2
    known = kernel_fn.parameters
    bent = [n for n in known if (n.endswith("alpha") and name == "elu") or n.endswith(("low", "high"))]
    wanted = [n for n in known if n not in bent]
    with options(backend="numpy"):
        c = {n: rng.standard_normal((4, 4 if symmetric else 3)) for n in KINDS}

        def loss(f, x1, x2):
            return sum(np.sum(c[n] * k) for n, k in zip(KINDS, f(x1, x2, KINDS), strict=True))

        found = kernel_fn.vjp(x1, second, cotangents=c, wrt=("x1", "x2", *wanted))
        step = rng.standard_normal(x1.shape)
        checks = [(np.sum(found.x1 * step), five_points(lambda t: loss(kernel_fn, x1 + t * step, second)))]
        if not symmetric:
            other = rng.standard_normal(x2.shape)
            checks.append((np.sum(found.x2 * other), five_points(lambda t: loss(kernel_fn, x1, x2 + t * other))))
        for n in wanted:
            at = lambda t, n=n: loss(kernel_fn.with_parameters({n: known[n] + t}), x1, second)  # noqa: E731
            checks.append((found.parameters[n], five_points(at)))
        planes = kernel_fn.jacobian(x1, second, "ntk", parameters=wanted)
        of = kernel_fn.vjp(x1, second, cotangents={"ntk": c["ntk"]}, wrt=wanted).parameters
        checks += [(np.sum(plane * c["ntk"]), of[n]) for plane, n in zip(planes, wanted, strict=True)]
        on = {n: rng.standard_normal(4) for n in KINDS}
        diagonal = kernel_fn.diagonal_vjp(x1, cotangents=on, wrt=("x", *wanted))

        def of_diagonal(t):
            return sum(np.sum(on[n] * d) for n, d in zip(KINDS, kernel_fn.diagonal(x1 + t * step, KINDS), strict=True))

        checks.append((np.sum(diagonal.x1 * step), five_points(of_diagonal)))
    for got, expected in checks:
        assert got == pytest.approx(expected, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("name", NETWORKS)
def test_equal_opposite_and_zero_rows(name):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((6, 3))
    x[1], x[2], x[3], x[4], x[5] = x[0], 0, -x[0], 2 * x[0], x[0] * (1 + 1e-13)
    wrt = ("x1", *(n for n in NETWORKS[name].kernel_fn.parameters if n.endswith("std")))
    found = NETWORKS[name].kernel_fn.vjp(x, cotangents={n: np.ones((6, 6)) for n in KINDS}, wrt=wrt)
    assert np.isfinite(found.x1).all()
    assert all(map(np.isfinite, found.parameters.values()))


@pytest.mark.parametrize("b_std", [0.3, None])
@pytest.mark.parametrize("name", [
    n for n, (make, args) in NONLINEARITIES.items()
    if type(make(*args)).exact is not Nonlinearity.exact and make(*args).jumps
])  # fmt: skip
def test_steps_in_80_digits(name, b_std):
    make, args = NONLINEARITIES[name]
    rng = np.random.default_rng(3)
    net = dense(make(*args), (1.1, 0.8, 1.3), (b_std,) * 3)
    x1, x2 = rng.standard_normal((2, 3)), rng.standard_normal((2, 3))
    x2[1] = x1[1] + 1e-3 * rng.standard_normal(3)
    on = rng.standard_normal((2, 2, 2))
    names = tuple(net.kernel_fn.parameters)
    want1, want2, want = gradient_oracle.gradients(net, x1, x2, *on, names)
    found = net.kernel_fn.vjp(x1, x2, cotangents=dict(zip(KINDS, on, strict=True)))
    bound = 1e-10 if b_std else 1e-11
    assert np.abs(found.x1 - want1).max() < bound * np.abs(want1).max()
    assert np.abs(found.x2 - want2).max() < bound * np.abs(want2).max()
    for n in names:
        assert found.parameters[n] == pytest.approx(want[n], rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("phi", [stax.Tanh(), stax.Elu(), stax.HardTanh(), stax.Sign()])
def test_images_of_functions_without_closed_form(phi):
    rng = np.random.default_rng(4)
    x, y, c = rng.standard_normal((2, 4, 4, 2)), rng.standard_normal((2, 4, 4, 2)), rng.standard_normal((2, 2))
    kernel_fn = stax.serial(
        stax.Conv(4, (2, 2), padding="SAME", b_std=0.2), phi, stax.AvgPool((2, 2), (2, 2)),
        stax.Conv(4, (2, 2), b_std=0.1), phi, stax.GlobalAvgPool(), stax.Dense(1, 1.1, 0.2),
    ).kernel_fn  # fmt: skip
    known = {n: v for n, v in kernel_fn.parameters.items() if n.endswith("std")}
    with options(backend="numpy"):
        found = kernel_fn.vjp(x, y, cotangents={"ntk": c}, wrt=("x1", *known))
        step = rng.standard_normal(x.shape)
        by_x = five_points(lambda t: np.sum(c * kernel_fn(x + t * step, y, "ntk")))
        assert np.sum(found.x1 * step) == pytest.approx(by_x, rel=1e-7, abs=1e-8)
        moved = {n: rng.standard_normal() / 10 for n in known}

        def at(t):
            return np.sum(c * kernel_fn.with_parameters({n: v + t * moved[n] for n, v in known.items()})(x, y, "ntk"))

        got = sum(found.parameters[n] * moved[n] for n in known)
        assert got == pytest.approx(five_points(at), rel=1e-7, abs=1e-8)


def test_what_bends_such_a_function_is_refused_by_name():
    net = stax.serial(stax.Dense(4), stax.Elu(0.7), stax.Dense(1))
    c = {"ntk": np.ones((2, 2))}
    x = np.random.default_rng(0).standard_normal((2, 3))
    with pytest.raises(NotImplementedError, match=r"1\.alpha bends a function without closed form"):
        net.kernel_fn.vjp(x, cotangents=c)
    assert np.isfinite(net.kernel_fn.vjp(x, cotangents=c, wrt=("x1", "0.W_std")).x1).all()


def test_a_variance_beyond_what_a_nonlinearity_takes_is_refused_as_by_the_kernel():
    kernel_fn = stax.serial(stax.Dense(1, 3.0), stax.Exp(), stax.Dense(1)).kernel_fn
    x = 10 * np.ones((2, 3))
    for call in (lambda: kernel_fn(x, None, "nngp"), lambda: kernel_fn.vjp(x, cotangents={"nngp": np.ones((2, 2))})):
        with pytest.raises(ValueError, match=r"\[Exp\] the variance of an input is 900, at most 350 is allowed"):
            call()


MODULE = load("cpu")[0]
DIFFERENTIABLE = [
    name for name, (make, args) in NONLINEARITIES.items() if MODULE and MODULE.has_adjoint(make(*args).bare.dual_name)
]


def test_all_closed_forms_but_steps_go_back_in_compiled_loops():
    closed = {n for n, (make, args) in NONLINEARITIES.items() if MODULE and _closed(make(*args))}
    assert closed <= set(DIFFERENTIABLE)


def _closed(layer):
    return layer.compiled and not layer.jumps and not layer.bare.counted


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_the_compiled_way_back_is_numpys(name):
    make, args = NONLINEARITIES[name]
    net = mixed(make(*args))
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal((7, 3)), rng.standard_normal((300, 3))
    y[:5] = x[0], -x[1], x[2] + 1e-9 * x[3], 0 * x[0], 3 * x[4]
    on = {kind: rng.standard_normal((7, 300)) for kind in KINDS}
    paths = [path for path in net.kernel_fn.parameters if path.endswith("_std")]
    for isa in (name for name, there in MODULE.isas() if there):
        with options(isa=isa):
            found = net.kernel_fn.vjp(x, y, cotangents=on, wrt=("x1", "x2", *paths))
        plain = net.kernel_fn.vjp(x, y, cotangents=on, wrt=("x1", "x2", *paths), backend="numpy")
        for a, b in ((found.x1, plain.x1), (found.x2, plain.x2)):
            assert np.abs(a - b).max() < 1e-12 * np.abs(b).max()
        assert found.parameters == pytest.approx(plain.parameters, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_every_entry_goes_back_in_compiled_loops_as_in_numpys(name):
    make, args = NONLINEARITIES[name]
    net = mixed(make(*args))
    rng = np.random.default_rng(9)
    x, y = rng.standard_normal((5, 3)), rng.standard_normal((280, 3))
    y[:5] = x[0], -x[1], x[2] + 1e-9 * x[3], 0 * x[0], 3 * x[4]
    paths = [path for path in net.kernel_fn.parameters if path.endswith("_std")]
    groups = [*paths, tuple(path for path in paths if path.endswith("W_std"))]
    for isa in (name for name, there in MODULE.isas() if there):
        for x2, get in ((y, "ntk"), (y, "nngp"), (None, "ntk")):
            with options(isa=isa):
                found = net.kernel_fn.jacobian(x, x2, get, parameters=groups)
            plain = net.kernel_fn.jacobian(x, x2, get, parameters=groups, backend="numpy")
            assert np.abs(found - plain).max() < 1e-12 * np.abs(plain).max()
            assert np.isfinite(found).all()
