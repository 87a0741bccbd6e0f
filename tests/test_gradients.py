"""Gradients in inputs and parameters: values to hold, 80 digits, conventions, and formulas broken on purpose."""

from __future__ import annotations

import functools
import math
import sys
import types
from pathlib import Path

import gradient_oracle
import numpy as np
import pytest
from fastntk import Kernel, options, stax
from fastntk.call import differentiable, reverse
from fastntk.engines import numpy_adjoint, numpy_chain, numpy_pairs, select
from fastntk.network.activations import NONLINEARITIES, Nonlinearity
from gradient_inputs import ON_K, ON_THETA, VALUES, X1, X2, dense, mixed_branches, residual

KINDS = ("nngp", "ntk")
BOTH = {"nngp": ON_K[:, :2], "ntk": ON_THETA[:, :2]}


def error(found, expected):
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    return float(np.max(np.abs(found - expected) / np.maximum(np.abs(expected), 1e-2), initial=0))


def everywhere():
    """The definition, and the compiled pass of every instruction set that is here."""
    found = [options(backend="numpy")]
    module = select.load("cpu")[0]
    if module is not None:
        found += [options(backend="cpu", isa=isa) for isa, present in module.isas() if present]
    return found


def known(name):
    make = VALUES[name][0]
    try:
        return make()
    except AttributeError:
        return None


HELD = [name for name in VALUES if known(name) is not None]


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("name", HELD)
def test_values_to_hold(name):
    make, L, of_x1, of_x2, W_std, b_std, others, gram = VALUES[name]
    kernel_fn = make().kernel_fn
    k, theta = kernel_fn(X1, X2, KINDS)
    assert error(np.sum(BOTH["nngp"] * k) + np.sum(BOTH["ntk"] * theta), L) < 1e-12
    of = kernel_fn.vjp(X1, X2, cotangents=BOTH).parameters
    for argument, value in others.items():
        assert error(of[f"1.{argument}"] + of[f"3.{argument}"], value) < 1e-12
    paths = [f"{k}.{which}" for which in ("W_std", "b_std") for k in (0, 2, 4)]
    for backend in everywhere():
        with backend:
            found = kernel_fn.vjp(X1, X2, cotangents=BOTH, wrt=("x1", "x2", *paths))
            assert error(found.x1[0], of_x1) < 1e-12
            assert error(found.x2[1], of_x2) < 1e-12
            assert error([found.parameters[p] for p in paths], [*W_std, *b_std]) < 1e-12
            symmetric = kernel_fn.vjp(X1, cotangents={"nngp": ON_K, "ntk": ON_THETA}, wrt="x1")
            assert symmetric.x2 is None
            assert error(symmetric.x1[0], gram) < 1e-12


def networks():
    for name, (make, args) in NONLINEARITIES.items():
        if not _differentiable(make(*args)):
            continue
        for b_std in (0.3, None):
            yield pytest.param(make(*args), b_std, id=f"{name}-{b_std}")


def _differentiable(layer):
    """Whether the oracle has a closed form, and the NTK a derivative away from rho = +-1."""
    return type(layer).exact is not Nonlinearity.exact and not layer.jumps


@pytest.mark.parametrize(("phi", "b_std"), list(networks()))
def test_every_nonlinearity_and_all_of_its_parameters_in_80_digits(phi, b_std):
    rng = np.random.default_rng(3)
    net = stax.serial(stax.Dense(5, 1.1, b_std), phi, stax.Dense(5, 0.8, b_std), phi, stax.Dense(5, 1.3, b_std))
    x1, x2 = rng.standard_normal((2, 3)), rng.standard_normal((2, 3))
    x2[1] = x1[1] + 1e-4 * rng.standard_normal(3)  # close
    on_k, on_theta = rng.standard_normal((2, 2, 2))
    names = tuple(net.kernel_fn.parameters)
    numbers = [a for a in NONLINEARITIES[_name_of(phi)][1] if isinstance(a, float)]  # degrees have no derivative
    assert len([n for n in names if n.startswith("1.")]) >= len(numbers)
    want1, want2, want = gradient_oracle.gradients(net, x1, x2, on_k, on_theta, names)
    found = net.kernel_fn.vjp(x1, x2, cotangents={"nngp": on_k, "ntk": on_theta})
    bound = 1e-10 if b_std else 2e-12  # with biases 1e-16 / distance
    assert np.abs(found.x1 - want1).max() < bound * np.abs(want1).max()
    assert np.abs(found.x2 - want2).max() < bound * np.abs(want2).max()
    for name in names:
        assert found.parameters[name] == pytest.approx(want[name], rel=1e-11, abs=1e-12)


def _name_of(phi):
    return next(n for n, (make, args) in NONLINEARITIES.items() if make(*args) == phi)


@pytest.mark.parametrize("make", [residual, mixed_branches])
@pytest.mark.parametrize("get", [0, 1])
def test_branches_in_80_digits(make, get):
    rng = np.random.default_rng(4)
    net = make()
    x1, x2 = rng.standard_normal((2, 3)), rng.standard_normal((2, 3))
    on = [np.zeros((2, 2)), np.zeros((2, 2))]
    on[get] = rng.standard_normal((2, 2))
    names = tuple(net.kernel_fn.parameters)
    want1, want2, want = gradient_oracle.gradients(net, x1, x2, *on, names)
    found = net.kernel_fn.vjp(x1, x2, cotangents={KINDS[get]: on[get]})
    assert error(found.x1, want1) < 1e-12
    assert error(found.x2, want2) < 1e-12
    assert error([found.parameters[n] for n in names], [want[n] for n in names]) < 1e-12


@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-5, 1e-7, 1e-9, 1e-12])
@pytest.mark.parametrize("kind", ["near", "collinear", "antipodal"])
@pytest.mark.parametrize("phi", [stax.Relu(), stax.LeakyRelu(0.1), stax.Erf()], ids=["relu", "leaky_relu", "erf"])
@pytest.mark.parametrize("b_std", [None, 0.3])
def test_close_inputs_in_80_digits(distance, kind, phi, b_std):
    rng = np.random.default_rng(5)
    x1, step = rng.standard_normal((1, 3)), rng.standard_normal((1, 3))
    x2 = {"near": x1, "collinear": 1.7 * x1, "antipodal": -x1}[kind] + distance * step
    net = dense(phi, (1.4, 1.2, 1.0), (b_std,) * 3)
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    for name, on in (("nngp", (one, zero)), ("ntk", (zero, one))):
        want1, want2, _ = gradient_oracle.gradients(net, x1, x2, *on)
        # A kinked NTK meets the rounding of q1 - q2 where biases have mixed it with the distance.
        bound = 1e-12 + (1e-16 / distance * 5 if b_std and name == "ntk" and kind == "near" else 0)
        for backend in everywhere():
            with backend:
                found = net.kernel_fn.vjp(x1, x2, cotangents={name: one}, wrt=("x1", "x2"))
            assert np.abs(found.x1 - want1).max() < bound * np.abs(want1).max()
            assert np.abs(found.x2 - want2).max() < bound * np.abs(want2).max()


# ---------------------------------------------------------------- conventions


def central(kernel_fn, x, cotangents, h=1e-4):
    """Differences of the kernels themselves."""
    found = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        sides = []
        for sign in (1, -1):
            moved = x.copy()
            moved[at] += sign * h
            sides.append(sum(np.sum(c * k) for c, k in zip(cotangents, kernel_fn(moved, None, KINDS), strict=True)))
        found[at] = (sides[0] - sides[1]) / (2 * h)
    return found


@pytest.mark.parametrize("b_std", [0.3, 0.0])
def test_duplicates_opposite_doubled_and_zero_rows(b_std):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((6, 3))
    x[1], x[2], x[3], x[4] = x[0], 0, -x[0], 2 * x[0]
    kernel_fn = dense(stax.Relu(), (1.4, 1.4, 1.0), (b_std,) * 3).kernel_fn
    c = rng.standard_normal((2, 6, 6))
    regular = [0, 1, 3, 4, 5] + ([2] if b_std else [])  # a zero row has no derivative without biases
    expected = central(kernel_fn, x, c)
    for backend in everywhere():
        with backend:
            found = kernel_fn.vjp(x, cotangents=dict(zip(KINDS, c, strict=True)))
        assert np.isfinite(found.x1).all()
        assert all(map(math.isfinite, found.parameters.values()))
        assert np.abs(found.x1 - expected)[regular].max() < 1e-5


@pytest.mark.parametrize("name", HELD)
def test_a_duplicate_has_half_of_the_diagonals_gradient(name):
    kernel_fn = known(name).kernel_fn
    one = {"nngp": np.ones((1, 1)), "ntk": np.ones((1, 1))}
    diagonal = kernel_fn.diagonal_vjp(X1[:1], cotangents={"nngp": np.ones(1), "ntk": np.ones(1)})
    pair = kernel_fn.vjp(X1[:1], X1[:1].copy(), cotangents=one)
    assert error(kernel_fn.vjp(X1[:1], cotangents=one).x1, diagonal.x1) < 1e-13
    for side in (pair.x1, pair.x2):
        assert error(side, diagonal.x1 / 2) < 1e-13
    h = 1e-5
    for at in range(3):
        ends = [sum(map(np.sum, kernel_fn.diagonal(X1[:1] + s * h * np.eye(3)[at], KINDS))) for s in (1, -1)]
        assert diagonal.x1[0, at] == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-7, abs=1e-8)


def test_one_feature_where_all_rows_are_collinear():
    x = np.array([[1.0], [2.0], [-0.5], [0.0]])
    kernel_fn = dense(stax.Relu()).kernel_fn
    c = np.random.default_rng(0).standard_normal((2, 4, 4))
    found = kernel_fn.vjp(x, cotangents=dict(zip(KINDS, c, strict=True)))
    assert np.abs(found.x1 - central(kernel_fn, x, c)).max() < 1e-5


def test_stds_of_zero_and_what_is_none():
    net = stax.serial(stax.Dense(5, 0.0, 0.0), stax.Relu(), stax.Dense(5, 1.0, None))
    found = net.kernel_fn.vjp(X1, X2, cotangents=BOTH)
    assert found.parameters == {"0.W_std": 0.0, "0.b_std": 0.0, "2.W_std": 0.0}
    assert not found.x1.any()
    assert not found.x2.any()


def test_nan_reaches_its_row_its_partners_and_the_parameters():
    x = np.random.default_rng(0).standard_normal((3, 2))
    x[1, 0] = np.nan
    found = dense(stax.Relu()).kernel_fn.vjp(x, X2[:, :2], cotangents={"ntk": np.ones((3, 2))})
    assert np.isnan(found.x1[1]).all()
    assert np.isfinite(found.x1[[0, 2]]).all()
    assert np.isnan(found.x2).all()
    assert np.isnan(found.parameters["0.W_std"])


@pytest.mark.parametrize("size", [1e-150, 1e-30, 1e30, 1e150])
def test_no_row_of_any_length_gives_nan(size):
    x = np.random.default_rng(0).standard_normal((4, 3)) * size
    x[1] = x[0]
    x[2] = x[0] * (1 + 1e-9)
    for b_std, backend in ((b, e) for b in (0.3, None) for e in everywhere()):
        with backend:
            found = dense(stax.Relu(), b=(b_std,) * 3).kernel_fn.vjp(x, cotangents={n: np.ones((4, 4)) for n in KINDS})
        assert np.isfinite(found.x1).all()
        assert all(map(math.isfinite, found.parameters.values()))


# ---------------------------------------------------------------- identities and ways to ask


def test_scaling_and_turning():
    rng = np.random.default_rng(1)
    x1, x2, one = rng.standard_normal((1, 4)), rng.standard_normal((1, 4)), np.ones((1, 1))
    b_std = (0.3, 0.2, 0.1)
    kernel_fn = dense(stax.ABRelu(-0.2, 1.0), (1.4, 1.2, 1.0), b_std).kernel_fn
    for name in KINDS:
        g = kernel_fn.vjp(x1, x2, cotangents={name: one})
        # both kernels are homogeneous of degree 2 in inputs and biases together
        left = (
            np.sum(g.x1 * x1) + np.sum(g.x2 * x2) + sum(g.parameters[f"{2 * k}.b_std"] * b for k, b in enumerate(b_std))
        )
        assert left == pytest.approx(2 * kernel_fn(x1, x2, name).item(), rel=1e-13)
        turn = x1.T @ g.x1 + x2.T @ g.x2
        assert np.abs(turn - turn.T).max() < 1e-13


@pytest.mark.parametrize("make", [residual, mixed_branches, lambda: dense(stax.Relu())])
def test_arguments_exchanged_a_copy_and_the_upper_half(make):
    rng = np.random.default_rng(2)
    kernel_fn = make().kernel_fn
    x1, x2 = rng.standard_normal((7, 3)), rng.standard_normal((5, 3))
    c = {n: rng.standard_normal((7, 5)) for n in KINDS}
    a = kernel_fn.vjp(x1, x2, cotangents=c)
    b = kernel_fn.vjp(x2, x1, cotangents={n: v.T for n, v in c.items()})
    assert error(a.x1, b.x2) < 1e-12
    assert error(a.x2, b.x1) < 1e-12
    square = {n: rng.standard_normal((7, 7)) for n in KINDS}
    once, twice = kernel_fn.vjp(x1, cotangents=square), kernel_fn.vjp(x1, x1.copy(), cotangents=square)
    assert error(once.x1, twice.x1 + twice.x2) < 1e-12
    for name, value in once.parameters.items():
        assert value == pytest.approx(twice.parameters[name], rel=1e-12)


def many(n1, n2, d):
    """Rows of several units, some of them near others or opposite to them, in different units too."""
    rng = np.random.default_rng(4)
    x1, x2 = rng.standard_normal((n1, d)), rng.standard_normal((n2, d))
    x2[3], x2[300], x2[-1] = x1[70] + 1e-9 * rng.standard_normal(d), -2 * x1[0] + 1e-7, x1[-1]
    x1[64] = x1[2] * 1e-200
    x1[-2] = 0
    return x1, x2


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("make", [residual, lambda: dense(stax.Gelu())], ids=["residual", "gelu"])
def test_units_of_a_tile(make, symmetric):
    """More lines, columns and features than a unit has: as the definition, and the same bits by any threads."""
    kernel_fn = make().kernel_fn
    x1, x2 = many(150, 320, 70)
    x1, x2 = (np.concatenate([x1, x2]), None) if symmetric else (x1, x2)
    n2 = len(x1) if symmetric else len(x2)
    on = dict(zip(KINDS, np.random.default_rng(5).standard_normal((2, len(x1), n2)), strict=True))
    want = kernel_fn.vjp(x1, x2, cotangents=on, backend="numpy")
    for choice in everywhere()[1:]:
        with choice:
            found = [kernel_fn.vjp(x1, x2, cotangents=on, num_threads=threads) for threads in (1, 3)]
        for own, other, expected in zip(*map(tuple, (vars(f).values() for f in (*found, want))), strict=True):
            if isinstance(own, dict):
                assert own == other
                own, expected = np.array(list(own.values())), np.array(list(expected.values()))
            elif own is None:
                continue
            else:
                assert np.array_equal(own, other)
            size = np.abs(expected).max(axis=-1, keepdims=True)
            assert np.all(np.abs(own - expected) <= 1e-11 * size)


def test_tiles_change_nothing_but_rounding(monkeypatch):
    rng = np.random.default_rng(6)
    kernel_fn = residual().kernel_fn
    x = rng.standard_normal((40, 3))
    c = {n: rng.standard_normal((40, 40)) for n in KINDS}
    whole, planes = kernel_fn.vjp(x, cotangents=c), kernel_fn.jacobian(x, get="ntk")
    other = kernel_fn.vjp(x, x[:9], cotangents={n: v[:, :9] for n, v in c.items()})
    monkeypatch.setattr(reverse, "_COMPILED_PAIRS", 49)
    monkeypatch.setattr(reverse, "_TAPE", 0)
    monkeypatch.setattr(reverse, "max", lambda *a: 49 if a[0] == 1024 else max(*a), raising=False)
    parts = kernel_fn.vjp(x, cotangents=c)
    assert error(parts.x1, whole.x1) < 1e-12
    assert error(list(parts.parameters.values()), list(whole.parameters.values())) < 1e-12
    again = kernel_fn.vjp(x, x[:9], cotangents={n: v[:, :9] for n, v in c.items()})
    assert error(again.x1, other.x1) < 1e-12
    assert error(again.x2, other.x2) < 1e-12
    in_tiles = kernel_fn.jacobian(x, get="ntk")
    assert np.allclose(in_tiles, planes, rtol=1e-12, atol=1e-14)
    assert np.array_equal(in_tiles, np.swapaxes(in_tiles, 1, 2))


def test_factors_are_planes():
    rng = np.random.default_rng(7)
    kernel_fn = dense(stax.Erf()).kernel_fn
    u, v = rng.standard_normal((3, 2)), rng.standard_normal((2, 2))
    by_factors = kernel_fn.vjp(X1, X2, cotangents={"ntk": (u, v)})
    by_plane = kernel_fn.vjp(X1, X2, cotangents={"ntk": u @ v.T})
    assert error(by_factors.x1, by_plane.x1) < 1e-13
    assert by_factors.parameters == pytest.approx(by_plane.parameters, rel=1e-12)
    w = rng.standard_normal((3, 4))
    symmetric = kernel_fn.vjp(X1, cotangents={"nngp": (w[:, :2], w[:, 2:])})
    assert error(symmetric.x1, kernel_fn.vjp(X1, cotangents={"nngp": w[:, :2] @ w[:, 2:].T}).x1) < 1e-13


@pytest.mark.parametrize("get", KINDS)
@pytest.mark.parametrize("make", [residual, lambda: dense(stax.Relu(), parameterization="standard")])
def test_the_jacobian_is_the_reverse_pass_entry_by_entry(make, get):
    rng = np.random.default_rng(8)
    kernel_fn = make().kernel_fn
    c = rng.standard_normal((3, 2))
    planes = kernel_fn.jacobian(X1, X2, get)
    of = kernel_fn.vjp(X1, X2, cotangents={get: c}, wrt="parameters").parameters
    assert planes.shape == (len(of), 3, 2)
    assert error(np.sum(planes * c, axis=(1, 2)), list(of.values())) < 1e-13
    name = list(of)[-1]
    assert error(kernel_fn.jacobian(X1, X2, get, parameters=(name,))[0], planes[-1]) < 1e-14  # in compiled loops
    plain = kernel_fn.jacobian(X1, X2, get, backend="numpy")
    assert np.array_equal(kernel_fn.jacobian(X1, X2, get, parameters=(name,), backend="numpy")[0], plain[-1])
    shared = [tuple(n for n in of if n.endswith(ending)) for ending in ("W_std", "b_std")]
    together = kernel_fn.jacobian(X1, X2, get, parameters=shared)
    for plane, names in zip(together, shared, strict=True):
        assert np.allclose(plane, sum(planes[list(of).index(n)] for n in names), rtol=1e-13, atol=1e-15)
    gram = kernel_fn.jacobian(X1, None, get)
    assert np.allclose(gram, kernel_fn.jacobian(X1, X1.copy(), get), rtol=1e-13, atol=1e-15)


def test_batches_are_separate_problems():
    rng = np.random.default_rng(9)
    kernel_fn = dense(stax.Relu()).kernel_fn
    x1, x2, c = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 5, 4)), rng.standard_normal((2, 3, 5))
    both = kernel_fn.vjp(x1, x2, cotangents={"ntk": c}, batch_dims=1)
    each = [kernel_fn.vjp(x1[k], x2[k], cotangents={"ntk": c[k]}) for k in range(2)]
    for k in range(2):
        assert np.array_equal(both.x1[k], each[k].x1)
        assert np.array_equal(both.x2[k], each[k].x2)
    for name, value in both.parameters.items():
        assert value == pytest.approx(sum(e.parameters[name] for e in each), rel=1e-13)
    planes = kernel_fn.jacobian(x1, x2, "ntk", batch_dims=1)
    assert np.array_equal(planes[:, 1], kernel_fn.jacobian(x1[1], x2[1], "ntk"))
    diagonals = kernel_fn.diagonal_vjp(x1, cotangents={"ntk": c[:, :, 0]}, batch_dims=1)
    one = kernel_fn.diagonal_vjp(x1[1], cotangents={"ntk": c[1, :, 0]})
    assert np.array_equal(diagonals.x1[1], one.x1)


def test_several_inputs_and_outputs():
    rng = np.random.default_rng(10)
    net = stax.parallel(stax.serial(stax.Dense(5, 1.2, 0.1), stax.Relu(), stax.Dense(5)), stax.Dense(5, 0.7))
    x1, x2 = (rng.standard_normal((3, 2)), rng.standard_normal((3, 4))), (X2[:, :2], rng.standard_normal((2, 4)))
    c = [{"ntk": rng.standard_normal((3, 2))}, {"nngp": rng.standard_normal((3, 2))}]
    found = net.kernel_fn.vjp(x1, x2, cotangents=tuple(c))
    for k in range(2):
        alone = net.layers[k].kernel_fn.vjp(x1[k], x2[k], cotangents=c[k])
        assert error(found.x1[k], alone.x1) < 1e-13
        assert error(found.x2[k], alone.x2) < 1e-13
        for name, value in alone.parameters.items():
            assert found.parameters[f"{k}.{name}"] == pytest.approx(value, rel=1e-13)
    summed = stax.serial(net, stax.FanInSum())
    assert isinstance(summed.kernel_fn.vjp(x1, x2, cotangents=c[0]).x1, tuple)


def test_axes_that_layers_name():
    net = stax.serial(stax.Dense(5, 1.1, 0.1, batch_axis=1, channel_axis=0), stax.Relu())
    plain = stax.serial(stax.Dense(5, 1.1, 0.1), stax.Relu())
    found = net.kernel_fn.vjp(X1.T.copy(), X2.T.copy(), cotangents=BOTH)
    assert np.array_equal(found.x1, plain.kernel_fn.vjp(X1, X2, cotangents=BOTH).x1.T)
    flat = stax.serial(stax.Flatten(), stax.Dense(5, 1.1, 0.1), stax.Relu())
    images = np.random.default_rng(0).standard_normal((3, 2, 2, 3))
    of_images = flat.kernel_fn.vjp(images, cotangents={"ntk": np.ones((3, 3))})
    of_rows = flat.kernel_fn.vjp(images.reshape(3, 12), cotangents={"ntk": np.ones((3, 3))})
    assert np.array_equal(of_images.x1, of_rows.x1.reshape(3, 2, 2, 3))


def test_float32_is_close_to_float64():
    rng = np.random.default_rng(11)
    net = stax.serial(*[stax.Dense(5, 1.4, 0.1), stax.Relu()] * 10, stax.Dense(1))
    x1, x2 = (rng.standard_normal((n, 6)).astype(np.float32) for n in (5, 4))
    x2[0] = x1[0] + np.float32(1e-5)
    c = {"ntk": rng.standard_normal((5, 4)).astype(np.float32)}
    single = net.kernel_fn.vjp(x1, x2, cotangents=c)
    double = net.kernel_fn.vjp(x1.astype(float), x2.astype(float), cotangents=c)
    assert single.x1.dtype == single.x2.dtype == np.float32
    assert np.abs(single.x1 - double.x1).max() < 2e-6 * np.abs(double.x1).max()
    assert single.parameters == pytest.approx(double.parameters, rel=2e-6)
    assert net.kernel_fn.jacobian(x1).dtype == np.float32


@pytest.mark.parametrize("wrt", ["x1", "x2", "parameters", "2.b_std", ("x2", "1.alpha"), ("x1", "x2")])
def test_only_what_is_asked_for(wrt):
    kernel_fn = dense(stax.LeakyRelu(0.3)).kernel_fn
    whole, found = (kernel_fn.vjp(X1, X2, cotangents=BOTH, wrt=w) for w in (("x1", "x2", "parameters"), wrt))
    names = {wrt} if isinstance(wrt, str) else set(wrt)
    for side in ("x1", "x2"):
        assert (getattr(found, side) is not None) == (side in names)
        if side in names:
            assert error(getattr(found, side), getattr(whole, side)) < 1e-13
    paths = set(whole.parameters) if "parameters" in names else names - {"x1", "x2"}
    assert set(found.parameters) == paths
    for name in paths:
        assert found.parameters[name] == pytest.approx(whole.parameters[name], rel=1e-14)


def test_empty_inputs():
    kernel_fn = dense(stax.Relu()).kernel_fn
    found = kernel_fn.vjp(np.zeros((0, 3)), X2, cotangents={"ntk": np.zeros((0, 2))})
    assert found.x1.shape == (0, 3)
    assert not found.x2.any()
    assert kernel_fn.vjp(np.zeros((0, 3)), cotangents={"ntk": np.zeros((0, 0))}).x1.shape == (0, 3)
    assert kernel_fn.jacobian(X1[:0], X2).shape == (6, 0, 2)
    assert kernel_fn.diagonal_vjp(X1[:0], cotangents={"ntk": np.zeros(0)}).x1.shape == (0, 3)


COMPILED = {
    "relu": dense(stax.Relu()), "unbiased": dense(stax.Relu(), b=(None, 0.0, None)), "erf": dense(stax.Erf()),
    "standard": dense(stax.LeakyRelu(0.2), b=(0.0, None, 0.1), parameterization="standard"), "residual": residual(),
    "mixed": mixed_branches(),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPILED)
def test_what_is_compiled_is_the_definition(backend, name):
    """Blocks of several lines and columns, and all kinds of pairs among them."""
    rng = np.random.default_rng(13)
    kernel_fn = COMPILED[name].kernel_fn
    x, y = rng.standard_normal((70, 5)), rng.standard_normal((300, 5))
    y[0], y[1], y[2], y[3] = x[0], -x[0], x[1] + 1e-3, 0
    paths = [p for p in kernel_fn.parameters if p.endswith("_std")]
    for names in (("nngp",), ("ntk",), KINDS):
        c = {n: rng.standard_normal((70, 300)) for n in names}
        square = {n: rng.standard_normal((70, 70)) for n in names}
        found = kernel_fn.vjp(np.asfortranarray(x), y, cotangents=c, wrt=("x1", "x2", *paths), num_threads=2)
        symmetric = kernel_fn.vjp(x, cotangents=square, wrt=("x1", *paths))
        with options(backend="numpy"):
            plain = kernel_fn.vjp(x, y, cotangents=c, wrt=("x1", "x2", *paths))
            both = kernel_fn.vjp(x, cotangents=square, wrt=("x1", *paths))
        for a, b in ((found.x1, plain.x1), (found.x2, plain.x2), (symmetric.x1, both.x1)):
            assert np.abs(a - b).max() < 1e-11 * np.abs(b).max()
        for a, b in ((found, plain), (symmetric, both)):
            assert a.parameters == pytest.approx(b.parameters, rel=1e-10, abs=1e-10)


# ---------------------------------------------------------------- parameters


def test_paths_values_and_other_values():
    net = residual()
    kernel_fn = net.kernel_fn
    found = kernel_fn.parameters
    assert found["0.W_std"] == 1.4
    assert found["1.1.0.1.a"] == 0.1
    assert found["2.c"] == 0.3
    assert "3.b_std" not in found
    assert "1.1.1.num" not in found
    other = kernel_fn.with_parameters({"1.1.0.1.a": 0.2, "3.W_std": 2})
    assert other.parameters == found | {"1.1.0.1.a": 0.2, "3.W_std": 2.0}
    assert kernel_fn.parameters == found
    again = other.with_parameters(found)
    assert again.layer == net
    assert dense(stax.Relu()).layers[0].kernel_fn.parameters == {"W_std": 1.5, "b_std": 0.3}
    with pytest.raises(ValueError, match="must not be negative"):
        kernel_fn.with_parameters({"0.W_std": -1.0})


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_layers_are_made_again_from_their_parameters(name):
    make, args = NONLINEARITIES[name]
    layer = make(*args)
    parameters = layer.kernel_fn.parameters
    assert layer.kernel_fn.with_parameters(parameters).layer == layer


def test_values_do_not_know_of_gradients():
    for parameterization in ("ntk", "standard"):
        kernel_fn = dense(stax.Relu(), parameterization=parameterization).kernel_fn
        before = kernel_fn(X1, X2, KINDS)
        kernel_fn.vjp(X1, X2, cotangents=BOTH)
        for a, b in zip(before, kernel_fn.with_parameters(kernel_fn.parameters)(X1, X2, KINDS), strict=True):
            assert np.array_equal(a, b)


# ---------------------------------------------------------------- what is refused

REFUSED = {
    "integers": (lambda f: f.vjp(np.ones((2, 3), int), cotangents={"ntk": np.ones((2, 2))}), TypeError, "integers"),
    "a kernel": (
        lambda f: f.vjp(f(X1), cotangents={"ntk": np.ones((3, 3))}), NotImplementedError, "x1 is a Kernel",
    ),
    "shape": (
        lambda f: f.vjp(X1, X2, cotangents={"ntk": np.ones((2, 3))}), ValueError,
        r"cotangents\['ntk'\] has shape \(2, 3\), the kernel \(3, 2\)",
    ),
    "factors": (
        lambda f: f.vjp(X1, X2, cotangents={"ntk": (np.ones((3, 2)), np.ones((2, 3)))}), ValueError, "pair of factors",
    ),
    "kind": (lambda f: f.vjp(X1, X2, cotangents={"ntkk": np.ones((3, 2))}), ValueError, "ntkk"),
    "no dict": (lambda f: f.vjp(X1, X2, cotangents=np.ones((3, 2))), TypeError, "must be a dict"),
    "outputs": (lambda f: f.vjp(X1, X2, cotangents=({}, {})), ValueError, "1 outputs, cotangents are given for 2"),
    "complex": (lambda f: f.vjp(X1, X2, cotangents={"ntk": np.ones((3, 2), complex)}), TypeError, "real numbers"),
    "name": (
        lambda f: f.vjp(X1, X2, cotangents=BOTH, wrt="0.w_std"), ValueError,
        "no parameter '0.w_std'; did you mean '0.W_std'",
    ),
    "wrt": (lambda f: f.vjp(X1, X2, cotangents=BOTH, wrt=3), TypeError, "wrt must be names"),
    "no x1": (lambda f: f.diagonal_vjp(X1, cotangents={"ntk": np.ones(3)}, wrt="x1"), ValueError, "no parameter 'x1'"),
    "diagonal": (lambda f: f.diagonal_vjp(X1, cotangents={"ntk": np.ones((3, 3))}), ValueError, r"kernel \(3,\)"),
    "value": (lambda f: f.with_parameters({"0.W": 1.0}), ValueError, "did you mean '0.W_std'"),
    "values": (lambda f: f.with_parameters([1.0]), TypeError, "dict of paths"),
    "get": (lambda f: f.jacobian(X1, X2, "cov1"), ValueError, "'nngp' or 'ntk'"),
    "backend": (lambda f: f.vjp(X1, X2, cotangents=BOTH, backend="tpu"), ValueError, "unknown backend"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what):
    call, kind, words = REFUSED[what]
    with pytest.raises(kind, match=words):
        call(dense(stax.Relu()).kernel_fn)


def test_a_kernel_is_no_result_here():
    assert isinstance(dense(stax.Relu()).kernel_fn(X1), Kernel)


# ---------------------------------------------------------------- formulas broken on purpose


def worst():
    """The largest error of a few gradients of the definition, against 80 digits and closed forms."""
    with options(backend="numpy"):
        return _worst()


def _worst():
    found = []
    for net, x1, x2, on, want1, want2, want in cases():
        g = net.kernel_fn.vjp(x1, x2, cotangents=dict(zip(KINDS, on, strict=True)))
        found += [np.abs(g.x1 - want1).max() / np.abs(want1).max(), np.abs(g.x2 - want2).max() / np.abs(want2).max()]
        found += [error([g.parameters[n] for n in want], list(want.values()))]
    one = {"ntk": np.ones((1, 1))}
    pair = dense(stax.Relu()).kernel_fn.vjp(X1[:1], X1[:1].copy(), cotangents=one)
    found.append(
        error(pair.x1, dense(stax.Relu()).kernel_fn.diagonal_vjp(X1[:1], cotangents={"ntk": np.ones(1)}).x1 / 2)
    )
    return np.nan_to_num(max(found), nan=np.inf)


@functools.lru_cache(maxsize=1)
def cases():
    rng = np.random.default_rng(12)
    found = []
    for make in (
        residual,
        lambda: dense(stax.Relu(), (1.4, 1.2, 1.0), (None,) * 3),
        lambda: dense(stax.ABRelu(0.3, 1.0)),
    ):
        net = make()
        x1 = rng.standard_normal((2, 3))
        x2 = np.concatenate([x1[:1] + 1e-9 * rng.standard_normal((1, 3)), rng.standard_normal((1, 3))])
        if net.layers[0].b_std is not None:
            x2[0] = -x1[0] + 1e-3 * rng.standard_normal(3)
        on = rng.standard_normal((2, 2, 2))
        names = tuple(net.kernel_fn.parameters)
        found.append((net, x1, x2, on, *gradient_oracle.gradients(net, x1, x2, *on, names)))
    return found


ADJOINT = {
    "TINY = 16 * float(np.finfo(np.float64).eps) ** 2": "TINY = 1e-17",
    "new_P = new_P + dual.kddot * flow": "new_P = new_P + 0 * flow",
    "np.where(c.near, -1.0, 1.0) *": "-1.0 *",
    "w2 * b2 * e + f / 2": "f / 2",
    "back.add(s, w2 * P + f * T, w2 * T)": "back.add(s, w2 * P, w2 * T)",
    "f / 2 * sums.rows[k]": "0 * sums.rows[k]",
    "P * (share1 * all1 - gap1)": "P * (0 * all1 - gap1)",
    "share = ratio(side.q[s], side.q[step.dst])": "share = 1",
    "found = [_plus(_times(P, dual.lean[k]), _times(flow, dual.kdot_by_q[k]))": "found = [_times(P, dual.lean[k])",
    "found = [_plus(_times(P, dual.lean[k]), ": "found = [_plus(None, ",
    '-after * slope_of(new, "q2")': '-after * slope_of(new, "q1")',
    "b2 * both + share, constant": "b2 * both, constant",
    "constant - w2 * both": "constant",
    "back.total((position, 0), T * self._theta[s])": "pass",
    "sum(all_of(of.get((position, 1), 0.0)) for of in sums.rows) / 2,": "0.0,",
    "np.where(v < 0, 2 + v, v)": "np.abs(v)",
    "half = on_k * self._covariance(s) / 2": "half = on_k * self._covariance(s)",
    "numbers[p] = numbers[p] + all_of": "numbers[p] = numbers[p] + 0 * all_of",
    "self.P[s] = self.P[s] + P if s in self.P else P": "self.P[s] = P",
    'ratio(slope_of(V, "q"), value_of(V)) * after': "after",
}
PAIRING = {
    "part - _sum(part * x) / square * x": "part",
    "_fma(-_sum(x * y) / square, x, y)": "y - _sum(x * y) / square * x",
    "np.where(self._close, 0.0, P)": "P.copy()",
    "part -= along[:, None] * unit": "pass",
    "self.gradient += 2 * over": "self.gradient += 0 * over",
    "np.where(w <= tiny, 0, w)": "w + 1e-20",
}
BROKEN = [((numpy_adjoint, numpy_chain), *each) for each in ADJOINT.items()]
BROKEN += [((numpy_pairs,), *each) for each in PAIRING.items()]


def test_nothing_is_broken():
    assert worst() < 1e-11


@pytest.mark.parametrize("which", range(len(BROKEN)))
def test_a_broken_formula_is_noticed(which, monkeypatch):
    modules, old, new = BROKEN[which]
    texts = [Path(module.__file__).read_text() for module in modules]
    assert any(old in text for text in texts)
    for module, text in zip(modules, texts, strict=True):
        broken = types.ModuleType(module.__name__)
        broken.__package__ = module.__package__
        monkeypatch.setitem(sys.modules, module.__name__, broken)
        exec(compile(text.replace(old, new), module.__file__, "exec"), vars(broken))
        for name in ("Sweep", "Side", "Tangents", "Summed", "Diagonal", "Apart", "Pairs", "Rows", "chain", "PairSums"):
            if hasattr(broken, name):
                monkeypatch.setattr(reverse, name, getattr(broken, name))
    assert worst() > 1e-9


def test_the_public_names_are_documented():
    for name in ("vjp", "diagonal_vjp", "jacobian", "with_parameters"):
        text = getattr(differentiable.Differentiable, name).__doc__
        assert "Parameters" in text
        assert "Raises" in text
