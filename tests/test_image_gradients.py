"""Gradients of images: values to hold, 60 digits, long double differences, conventions, formulas broken on purpose."""

from __future__ import annotations

import functools
import math
import sys
import types
from pathlib import Path

import image_gradient_oracle
import image_oracle
import numpy as np
import pytest
from fastntk import stax
from fastntk.call import image_reverse
from fastntk.engines import (
    numpy_image_adjoint,
    numpy_image_back,
    numpy_image_chain,
    numpy_image_joint,
    numpy_image_sides,
)
from fastntk.network.activations import NONLINEARITIES, Nonlinearity
from fastntk.stax import Conv, Dense, Erf, Flatten, GlobalAvgPool, Relu, serial
from helpers import five_points
from image_gradient_inputs import NETWORKS, PAIRS_OF_POOLS, VALUES, X1, X2, conv, held

KINDS = ("nngp", "ntk")


def error(found, expected):
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    return float(np.max(np.abs(found - expected) / np.maximum(np.abs(expected), 1e-2), initial=0))


# ---------------------------------------------------------------- values to hold


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("which", [0, 1])
def test_values_to_hold(name, which):
    kernel_fn = held(name).kernel_fn
    found = kernel_fn.vjp(X1, X2, cotangents={KINDS[which]: np.ones((1, 1))})
    stds = [[v for n, v in found.parameters.items() if n.endswith(end)] for end in ("W_std", "b_std")]
    got = {
        "value": kernel_fn(X1, X2, KINDS[which]).item(), "x1[0,0]": found.x1[0, 0, 0, 0],
        "x1[1,2]": found.x1[0, 1, 2, 0], "x2[3,1]": found.x2[0, 3, 1, 0],
        **{f"W{k + 1}": v for k, v in enumerate(stds[0])}, **{f"b{k + 1}": v for k, v in enumerate(stds[1])},
    }  # fmt: skip
    for key, value in VALUES[name].items():
        assert error(got[key], value[which]) < 1e-12, key


# ---------------------------------------------------------------- networks against long double


def check_against_long_double(net, x1, x2, rng):
    kernel_fn = net.kernel_fn
    known = kernel_fn.parameters
    shape = image_oracle.kernels(net, x1, x2)["ntk"].shape
    c = {n: rng.standard_normal(shape) for n in KINDS}
    found = kernel_fn.vjp(x1, x2, cotangents=c)

    def loss(x1, x2, net=net):
        out = image_oracle.kernels(net, x1, x2)
        return sum(np.sum(c[n] * out[n]) for n in KINDS)

    one = rng.standard_normal(x1.shape)
    assert np.sum(found.x1 * one) == pytest.approx(five_points(lambda t: loss(x1 + t * one, x2)), rel=1e-8, abs=1e-9)
    if x2 is not None:
        two = rng.standard_normal(x2.shape)
        assert np.sum(found.x2 * two) == pytest.approx(
            five_points(lambda t: loss(x1, x2 + t * two)), rel=1e-8, abs=1e-9
        )
    step = {n: rng.standard_normal() / 10 for n in known}

    def moved(t):
        return loss(x1, x2, kernel_fn.with_parameters({n: v + t * step[n] for n, v in known.items()}).layer)

    assert sum(found.parameters[n] * step[n] for n in known) == pytest.approx(five_points(moved), rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_against_long_double(name, symmetric):
    rng = np.random.default_rng(1)
    x1, x2 = rng.standard_normal((2, 4, 4, 2)), rng.standard_normal((3, 4, 4, 2))
    check_against_long_double(NETWORKS[name], x1, None if symmetric else x2, rng)


@pytest.mark.parametrize("name", [
    n for n, (make, args) in NONLINEARITIES.items()
    if type(make(*args)).exact is not Nonlinearity.exact and not make(*args).jumps
])  # fmt: skip
def test_every_nonlinearity_against_long_double(name):
    make, args = NONLINEARITIES[name]
    rng = np.random.default_rng(2)
    small = {"W_std": 0.9, "b_std": 0.2}
    net = serial(
        Conv(4, (2,), padding="SAME", dimension_numbers=("NWC", "WIO", "NWC"), **small), make(*args),
        stax.AvgPool((2,), (1,), "SAME"), Conv(4, (2,), dimension_numbers=("NWC", "WIO", "NWC"), **small), make(*args),
        Flatten(), Dense(1, 1.1, 0.2),
    )  # fmt: skip
    check_against_long_double(net, rng.standard_normal((2, 4, 2)), rng.standard_normal((1, 4, 2)), rng)


# ---------------------------------------------------------------- close images, in 60 digits


def signals(inner, b_std):
    axes = {"dimension_numbers": ("NWC", "WIO", "NWC")}
    pool = (stax.AvgPool((2,), (1,)),) if inner else ()
    return serial(
        Conv(4, (2,), padding="SAME", W_std=1.3, b_std=b_std, **axes), Relu(), *pool,
        Conv(4, (2,), W_std=1.2, b_std=b_std, **axes), Relu(), GlobalAvgPool(), Dense(1, 1.1, b_std),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("inner", "distance"), [*((False, 10.0**-k) for k in (0, 2, 4, 7, 10)), (True, 1), (True, 1e-4)]
)
@pytest.mark.parametrize("b_std", [None, 0.3])
def test_close_images_in_60_digits(distance, inner, b_std):
    """The NTK's derivative has the digits of the distance: behind an inner pool that is a difference of window sums."""
    rng = np.random.default_rng(3)
    x1, step = rng.standard_normal((1, 4, 2)), rng.standard_normal((1, 4, 2))
    x2 = x1 + distance * step
    net = signals(inner, b_std)
    for which, kind in enumerate(KINDS):
        want1, want2, want = image_gradient_oracle.gradient(net, x1[0], x2[0], which)
        found = net.kernel_fn.vjp(x1, x2, cotangents={kind: np.ones((1, 1))})
        bound = 1e-13 + which * (1e-15 / distance**2 if inner else 3e-15 / distance)
        assert np.abs(found.x1[0] - want1).max() < bound * np.abs(want1).max()
        assert np.abs(found.x2[0] - want2).max() < bound * np.abs(want2).max()
        for name, value in want.items():
            assert found.parameters[name] == pytest.approx(value, rel=1e-12, abs=1e-14)


# ---------------------------------------------------------------- conventions


READOUTS = {
    "gap": (GlobalAvgPool(),),
    "flatten": (Flatten(),),
    "inner": (stax.AvgPool((2, 2), (2, 2)), conv(), GlobalAvgPool()),
}


@pytest.mark.parametrize("b_std", [0.3, None])
@pytest.mark.parametrize("readout", READOUTS)
def test_equal_opposite_and_black_images(readout, b_std):
    rng = np.random.default_rng(0)
    kernel_fn = serial(conv(b_std=b_std), conv(b_std=b_std), *READOUTS[readout], Dense(1)).kernel_fn
    x = rng.standard_normal((5, 3, 3, 2))
    x[1], x[2], x[3] = x[0], 0, -x[0]
    x[4, 1:] = 0  # black regions, and one that is all alike
    x[4, 0] = 1
    c = rng.standard_normal((2, 5, 5))
    found = kernel_fn.vjp(x, cotangents=dict(zip(KINDS, c, strict=True)))
    assert np.isfinite(found.x1).all()
    assert all(map(math.isfinite, found.parameters.values()))
    regular = [0, 1, 3, 4] + ([2] if b_std else [])  # without biases a black image has no derivative
    h = 1e-4
    for at in rng.permutation(list(np.ndindex(x.shape)))[:30]:
        if at[0] not in regular:
            continue
        sides = []
        for sign in (1, -1):
            moved = x.copy()
            moved[tuple(at)] += sign * h
            sides.append(sum(np.sum(a * k) for a, k in zip(c, kernel_fn(moved, None, KINDS), strict=True)))
        assert found.x1[tuple(at)] == pytest.approx((sides[0] - sides[1]) / (2 * h), abs=1e-5)


def test_a_duplicate_has_half_of_the_diagonals_gradient():
    x = np.random.default_rng(1).standard_normal((2, 3, 3, 2))
    for net in (PAIRS_OF_POOLS, serial(conv(), GlobalAvgPool())):
        on = {"nngp": np.ones(2), "ntk": np.array([0.5, 2])}
        diagonal = net.kernel_fn.diagonal_vjp(x, cotangents=on)
        planes = {n: np.diag(v) for n, v in on.items()}
        gram = net.kernel_fn.vjp(x, cotangents=planes)
        assert error(gram.x1, diagonal.x1) < 1e-12
        assert gram.parameters == pytest.approx(diagonal.parameters, rel=1e-12)
        pair = net.kernel_fn.vjp(x, x.copy(), cotangents=planes)
        assert error(pair.x1, pair.x2) < 1e-12
        assert error(pair.x1 + pair.x2, diagonal.x1) < 1e-12


@pytest.mark.parametrize("size", [1e-160, 1e-30, 1e30, 1e160])
def test_no_brightness_gives_nan(size):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((3, 3, 3, 1)) * size
    x[1] = x[0] * (1 + 1e-9)
    kernel_fn = serial(conv(b_std=None), conv(b_std=None), GlobalAvgPool()).kernel_fn
    for kind in KINDS:
        found = kernel_fn.vjp(x, cotangents={kind: np.ones((3, 3))})
        assert np.isfinite(found.x1).all()
        plain = kernel_fn.vjp(x / size, cotangents={kind: np.ones((3, 3))})
        assert np.abs(found.x1 / size - plain.x1).max() < 1e-9 * np.abs(plain.x1).max()


def test_nan_reaches_its_image_its_partners_and_the_parameters():
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((3, 3, 3, 1)), rng.standard_normal((2, 3, 3, 1))
    x[1, 1, 1] = np.nan
    found = serial(conv(), GlobalAvgPool()).kernel_fn.vjp(x, y, cotangents={"ntk": np.ones((3, 2))})
    assert np.isfinite(found.x1[[0, 2]]).all()
    assert np.isnan(found.x1[1]).any()
    assert np.isnan(found.x2).any(axis=(1, 2, 3)).all()
    assert np.isnan(found.parameters["0.0.W_std"])


# ---------------------------------------------------------------- ways to ask


def test_arguments_exchanged_and_the_upper_half():
    rng = np.random.default_rng(4)
    for net in (PAIRS_OF_POOLS, NETWORKS["positions"]):
        x, y = rng.standard_normal((3, 4, 4, 1)), rng.standard_normal((2, 4, 4, 1))
        shape = net.kernel_fn(x, y, "ntk").shape
        c = {n: rng.standard_normal(shape) for n in KINDS}
        swapped = [1, 0, *(axis ^ 1 for axis in range(2, len(shape)))]
        a, b = (
            net.kernel_fn.vjp(x, y, cotangents=c),
            net.kernel_fn.vjp(y, x, cotangents={n: v.transpose(swapped) for n, v in c.items()}),
        )
        assert error(a.x1, b.x2) < 1e-12
        assert error(a.x2, b.x1) < 1e-12
        square = {n: rng.standard_normal((3, *shape[:1], *shape[2:])) for n in KINDS}
        once, twice = (net.kernel_fn.vjp(x, other, cotangents=square) for other in (None, x.copy()))
        assert error(once.x1, twice.x1 + twice.x2) < 1e-12
        assert once.parameters == pytest.approx(twice.parameters, rel=1e-11)


def test_budgets_change_nothing_but_rounding(monkeypatch):
    rng = np.random.default_rng(5)
    kernel_fn = PAIRS_OF_POOLS.kernel_fn
    x, y = rng.standard_normal((5, 4, 4, 1)), rng.standard_normal((3, 4, 4, 1))
    c, d = {n: rng.standard_normal((5, 5)) for n in KINDS}, {"ntk": rng.standard_normal(5)}
    other = {n: v[:, :3] for n, v in c.items()}
    asked = [
        lambda **k: kernel_fn.vjp(x, cotangents=c, **k), lambda **k: kernel_fn.vjp(x, y, cotangents=other, **k),
        lambda **k: kernel_fn.diagonal_vjp(x, cotangents=d, **k),
    ]  # fmt: skip
    whole, planes = [f() for f in asked], kernel_fn.jacobian(x, y, "ntk")
    with pytest.raises(
        MemoryError, match=r"\[vjp\] the reverse pass of a pair of images takes .* memory_budget is 1.0 KiB"
    ):
        kernel_fn.vjp(x, cotangents=c, memory_budget=1000)
    init = image_reverse.ImageReverse.__init__

    def small(self, *args):
        init(self, *args)
        self.images, self.chunk = 2, 3

    monkeypatch.setattr(image_reverse.ImageReverse, "__init__", small)
    for f, known in zip(asked, whole, strict=True):
        found = f()
        assert error(found.x1, known.x1) < 1e-12
        assert found.parameters == pytest.approx(known.parameters, rel=1e-11)
    assert np.allclose(kernel_fn.jacobian(x, y, "ntk"), planes, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("get", KINDS)
def test_the_jacobian_is_the_reverse_pass_entry_by_entry(get, symmetric):
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((3, 4, 4, 1)), rng.standard_normal((2, 4, 4, 1))
    kernel_fn, other = PAIRS_OF_POOLS.kernel_fn, None if symmetric else y
    c = rng.standard_normal((3, 3 if symmetric else 2))
    planes = kernel_fn.jacobian(x, other, get)
    of = kernel_fn.vjp(x, other, cotangents={get: c}, wrt="parameters").parameters
    assert error(np.sum(planes * c, axis=(1, 2)), list(of.values())) < 1e-12
    names = tuple(n for n in of if n.endswith("W_std"))
    together = kernel_fn.jacobian(x, other, get, parameters=(names,))
    assert np.allclose(together[0], sum(planes[list(of).index(n)] for n in names), rtol=1e-13, atol=1e-15)
    with pytest.raises(NotImplementedError, match="ends with spatial axes"):
        NETWORKS["positions"].kernel_fn.jacobian(x)


def test_factors_batches_axes_and_float32():
    rng = np.random.default_rng(7)
    net = serial(conv(), conv(), GlobalAvgPool(), Dense(1))
    kernel_fn = net.kernel_fn
    x, y = rng.standard_normal((2, 3, 4, 3, 2)), rng.standard_normal((2, 2, 4, 3, 2))
    u, v = rng.standard_normal((2, 3, 2)), rng.standard_normal((2, 2, 2))
    both = kernel_fn.vjp(x, y, cotangents={"ntk": (u, v)}, batch_dims=1)
    each = [kernel_fn.vjp(x[k], y[k], cotangents={"ntk": u[k] @ v[k].T}) for k in range(2)]
    for k in range(2):
        assert error(both.x1[k], each[k].x1) < 1e-13
        assert error(both.x2[k], each[k].x2) < 1e-13
    for name, value in both.parameters.items():
        assert value == pytest.approx(sum(e.parameters[name] for e in each), rel=1e-12)
    axes = {"dimension_numbers": ("CWNH", "HWIO", "CWNH")}
    turned = serial(
        conv(**axes), conv(**axes), GlobalAvgPool(batch_axis=2, channel_axis=0), Dense(1, batch_axis=1, channel_axis=0)
    )
    c = {"ntk": u[0] @ v[0].T}
    found = turned.kernel_fn.vjp(x[0].transpose(3, 2, 0, 1), y[0].transpose(3, 2, 0, 1), cotangents=c)
    assert error(found.x1.transpose(2, 3, 1, 0), each[0].x1) < 1e-13
    single = kernel_fn.vjp(x[0].astype(np.float32), y[0].astype(np.float32), cotangents=c)
    assert single.x1.dtype == np.float32
    assert np.abs(single.x1 - each[0].x1).max() < 1e-5 * np.abs(each[0].x1).max()


def test_several_inputs_and_outputs():
    rng = np.random.default_rng(8)
    heads = [serial(conv(), GlobalAvgPool(), Dense(5, 1.1, 0.1)), serial(conv(Erf(), (2, 2)), Flatten(), Dense(5, 0.7))]
    net = serial(stax.parallel(*heads), stax.FanInSum(), Relu(), Dense(1))
    x1, x2 = ((rng.standard_normal((n, 3, 3, 1)), rng.standard_normal((n, 2, 4, 2))) for n in (3, 2))
    found = net.kernel_fn.vjp(x1, x2, cotangents={"ntk": np.ones((3, 2))})
    for k in range(2):
        step = rng.standard_normal(x1[k].shape)

        def moved(t, k=k, step=step):
            args = list(x1)
            args[k] = args[k] + t * step
            return net.kernel_fn(tuple(args), x2, "ntk").sum()

        assert np.sum(found.x1[k] * step) == pytest.approx(five_points(moved), rel=1e-8)
    c = [{"ntk": rng.standard_normal((3, 2))}, {"nngp": rng.standard_normal((3, 2))}]
    both = stax.parallel(*heads).kernel_fn.vjp(x1, x2, cotangents=tuple(c))
    for k in range(2):
        alone = heads[k].kernel_fn.vjp(x1[k], x2[k], cotangents=c[k])
        assert error(both.x1[k], alone.x1) < 1e-13
        assert error(both.x2[k], alone.x2) < 1e-13


def test_no_images():
    kernel_fn = PAIRS_OF_POOLS.kernel_fn
    y = np.ones((2, 4, 4, 1))
    found = kernel_fn.vjp(y[:0], y, cotangents={"ntk": np.ones((0, 2))})
    assert found.x1.shape == (0, 4, 4, 1)
    assert not found.x2.any()
    assert kernel_fn.jacobian(y[:0], y).shape[1:] == (0, 2)


# ---------------------------------------------------------------- formulas broken on purpose


@functools.lru_cache(maxsize=1)
def cases():
    """Gradients of the definition as it stands: the tests above hold them to numbers of others."""
    rng = np.random.default_rng(9)
    found = []
    for name in NETWORKS:
        x1, x2 = rng.standard_normal((2, 4, 4, 2)), rng.standard_normal((3, 4, 4, 2))
        x2[0] = x1[0] + 1e-4 * rng.standard_normal(x1[0].shape)
        x2[1] = x1[1]
        x2[1, 0] = -x1[1, 0]
        shape = NETWORKS[name].kernel_fn(x1, x2, "ntk").shape
        found.append((NETWORKS[name], x1, x2, {n: rng.standard_normal(shape) for n in KINDS}))
    return [(*case, gradients(*case)) for case in found]


def gradients(net, x1, x2, c):
    found = net.kernel_fn.vjp(x1, x2, cotangents=c, backend="numpy")
    return [found.x1, found.x2, *found.parameters.values()]


def worst():
    found = 0.0
    for *case, known in cases():
        for a, b in zip(gradients(*case), known, strict=True):
            size = np.abs(b).max()
            found = max(found, float(np.nan_to_num(np.abs(a - b).max() / size if size else 0, nan=np.inf)))
    return found


BROKEN = {
    "on = on + kddot * flow": "on = on + 0 * flow",
    "np.where(c.near, -1.0, 1.0) *": "-1.0 *",
    "moves = np.where(c.w > TINY, 1.0, 0.0)": "moves = np.where(c.w > 1e-17, 1.0, 0.0) * (c.w > 1e-3)",
    "slope * gap / 2 - pull": "0 * gap / 2 - pull",
    "- pull * gap_behind / 2": "- 0 * gap_behind / 2",
    "P * (-after * slope_of(new, name)": "P * (0 * slope_of(new, name)",
    "slope_of(kdot_jet, name) + kddot": "0 * q + kddot",
    "+ kddot * gap / 2)": "+ 0 * gap)",
    "- shares[0] - shares[1]": "- shares[0]",
    'found.add(side, "B", s, self.at[side], -w2 * lost)': "pass",
    "numbers.add(wanted[0], -lost * q)": "pass",
    "numbers.add(wanted[0], -on_k * half_gap(v, q1, q2))": "pass",
    "self.to_rows(found, s, f / 2 * on_theta)": "pass",
    "self.to_rows(found, s, P / 2)": "pass",
    "new = new + f * on_theta": "pass",
    'self.to_rows(found, k, P, "sums")': "pass",
    '("sums", -0.5)': '("sums", 0.0)',
    "fixed -= (P.sum(axis=1) + P.sum(axis=2)) / 2": "pass",
    "inner += scale[:, :, None] * scale[:, None, :] * P": "pass",
    "self._give(s, alone + (bar.sum(axis=1)": "self._give(s, 0 * alone + (bar.sum(axis=1)",
    "/ 2)\n        self._own.add(s, bar, None)": "/ 2)",
    "own.back_step(k, pairs, None, left, self._numbers)": "pass",
    "own.back_inputs(left)": "pass",
    "self._give(sources[0], w2 * back)": "self._give(sources[0], 0 * back)",
    "after * slope_of(V, place)": "0 * after * slope_of(V, place)",
    'over(slope_of(V, "q"), q[0]) * after': "after",
    "2 / x.shape[2] * B": "1 / x.shape[2] * B",
    "moved = P * (b - a)": "moved = P * b",
    "of[s] = of[s] + new if s in of else new": "of[s] = new",
    "of[s][:, size, size] += new": "of[s][:, size, size] = new",
    "found: Array = (s1 - s2) ** 2 / 2 + s1": "found: Array = s1",
}


def test_nothing_is_broken():
    assert worst() == 0


@pytest.mark.parametrize("old", BROKEN)
def test_a_broken_formula_is_noticed(old, monkeypatch):
    cases()
    modules = (numpy_image_back, numpy_image_sides, numpy_image_joint, numpy_image_adjoint, numpy_image_chain)
    files = [Path(module.__file__) for module in modules]
    assert any(old in file.read_text() for file in files)
    for module, file in zip(modules, files, strict=True):
        broken = types.ModuleType(module.__name__)
        broken.__package__ = module.__package__
        monkeypatch.setitem(sys.modules, broken.__name__, broken)
        exec(compile(file.read_text().replace(old, BROKEN[old]), file, "exec"), vars(broken))
    for name in ("Found", "ImageTangents", "Numbers", "Side", "Sweep", "chain"):
        monkeypatch.setattr(image_reverse, name, getattr(broken, name))  # the last module has them all
    assert worst() > 1e-9
