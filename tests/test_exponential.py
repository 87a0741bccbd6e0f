"""Exponentials and sines: published numbers, arguments at the ends of their range, what is refused."""

from __future__ import annotations

import inspect

import image_oracle
import numpy as np
import oracles
import pytest
from fastntk import dual, stax
from fastntk.stax import Cos, Dense, Exp, ExpNormalized, Rbf, Relu, Sigmoid_like, Sin
from helpers import assert_close
from images_inputs import GlobalAvgPool, conv, images, serial
from test_duals import POINTS, check_defect, check_quadrature, grid
from test_images import check as check_images
from test_kernels import check, toward
from tolerances import bound

BOTH = ("nngp", "ntk")

# k and kdot at (q11, q12, q22) = (1, .5, 2), (1, 1, 1), (1, -1, 1), (3, -.2, .1): 15 digits, two independent sources.
POINT_BY_POINT = [(1.0, 0.5, 2.0), (1.0, 1.0, 1.0), (1.0, -1.0, 1.0), (3.0, -0.2, 0.1)]
PUBLISHED = {
    Sin(): [
        (0.116272078967415, 0.251607362204028), (0.432332358381694, 0.567667641618306),
        (-0.432332358381694, 0.567667641618306), (-0.0427331585977232, 0.216507102048168),
    ],
    Sin(0.9, 1.3, 0.2): [
        (0.0620296953042077, 0.147758591329892), (0.392299288087047, 0.70591420313289),
        (-0.359240483403656, 0.653723977738371), (-0.0170586637943902, 0.0999416166760117),
    ],
    Cos(): [
        (0.251607362204028, 0.116272078967415), (0.567667641618306, 0.432332358381694),
        (0.567667641618306, -0.432332358381694), (0.216507102048168, -0.0427331585977232),
    ],
    Cos(0.9, 1.3, 0.2): [
        (0.0874311191301136, 0.104830185064111), (0.417700711912953, 0.66298579686711),
        (0.386818921738681, -0.607116416952178), (0.0591370512875809, -0.0288291418125195),
    ],
    Rbf(0.8): [
        (0.201896517994655, 0.323034428791449), (1.0, 1.6), (0.0407622039783662, 0.0652195263653859),
        (0.060810062625218, 0.0972961002003487),
    ],
    Exp(0.7, 0.9): [
        (2.47601425511629, 2.0055715466442), (2.47601425511629, 2.0055715466442), (0.49, 0.3969),
        (1.46250411255382, 1.1846283311686),
    ],
    ExpNormalized(): [
        (0.740912296399079, 0.523904109048286), (1.0, 1.0), (0.135335283236613, 0.135335283236613),
        (0.139857004632741, 0.255342787541523),
    ],
    ExpNormalized(1.3, -0.7): [
        (0.901399248932936, 0.828601177920022), (1.47698079388264, 1.92007503204744),
        (0.109700648515511, 0.142610843070165), (0.137150106464706, 0.325520897324802),
    ],
}  # fmt: skip


@pytest.mark.parametrize("layer", PUBLISHED, ids=str)
def test_published_values(layer, backend):
    found = dual.dual(layer, *np.array(POINT_BY_POINT).T)
    for values, expected in zip(found, np.array(PUBLISHED[layer]).T, strict=True):
        assert np.max(np.abs(values / expected - 1)) <= 1.5e-14  # half of the last digit


def test_networks_of_neural_tangents(backend):
    """The kernel between two vectors behind three layers each: 12 digits of Neural Tangents' float64."""
    a, b = np.array([[1.0, 0.5, -0.25, 2.0]]), np.array([[0.5, -1.0, 0.75, 1.0]])
    net = stax.serial(*[Dense(1, 1.3, 0.2), Sin(0.9, 1.3, 0.2)] * 3, Dense(1))
    found = net.kernel_fn(a, b, BOTH)
    assert abs(found.nngp[0, 0] / 0.0836994247793 - 1) < 1e-12
    assert abs(found.ntk[0, 0] / 0.273400487261 - 1) < 3e-12


def test_names_and_defaults_of_neural_tangents():
    expected = {
        Rbf: {"gamma": 1.0}, Exp: {"a": 1.0, "b": 1.0}, Sin: {"a": 1.0, "b": 1.0, "c": 0.0},
        Cos: {"a": 1.0, "b": 1.0, "c": 0.0}, ExpNormalized: {"gamma": 1.0, "shift": -1.0, "do_clip": False},
        Sigmoid_like: {},
    }  # fmt: skip
    for kind, defaults in expected.items():
        found = inspect.signature(kind).parameters
        assert {name: parameter.default for name, parameter in found.items()} == defaults


def test_functions():
    x = np.linspace(-3, 3, 7)
    functions = {
        Sin(2.0, 0.7, 0.3): 2 * np.sin(0.7 * x + 0.3), Cos(2.0, 0.7, 0.3): 2 * np.cos(0.7 * x + 0.3),
        Exp(2.0, 0.7): 2 * np.exp(0.7 * x), Rbf(0.6): 2**0.5 * np.sin(1.2**0.5 * x + np.pi / 4),
    }  # fmt: skip
    for layer, expected in functions.items():
        np.testing.assert_allclose(layer.apply((), x, np), expected, rtol=1e-13, atol=1e-15)
    logistic = 1 / (1 + np.exp(-x))
    assert 0.005 < np.max(np.abs(Sigmoid_like().apply((), x, np) - logistic)) < 0.01


# ---------------------------------------------------------------- other arguments than the registry's

PHASES = [
    Sin(), Sin(0.9, 1.3, 0.2), Sin(1.0, 1.0, 1.5), Sin(0.7, -1.1, -2.0), Cos(), Cos(1.0, 0.4, 3.0),
    Cos(-0.9, 1.3, 1e-4), Sin(1.0, 5.0, 0.8), Exp(), Exp(-0.5, -0.7), Rbf(), Rbf(20.0), ExpNormalized(),
    ExpNormalized(40.0, -1.0), ExpNormalized(1e-3, 2.0),
]  # fmt: skip


@pytest.mark.parametrize("layer", PHASES, ids=str)
def test_definition(layer):
    check_defect(layer)
    if not isinstance(layer, ExpNormalized):
        for point in POINTS:
            check_quadrature(layer, tuple(v / 16 for v in point) if layer in (Exp(), Sin(1.0, 5.0, 0.8)) else point)


@pytest.mark.parametrize("layer", PHASES, ids=str)
def test_compiled_dual(layer, dtype, backend):
    q11, q12, q22 = (q[::3] for q in grid(dtype))
    inside = np.maximum(q11, q22) <= (10 if isinstance(layer, Exp) else 100)
    q11, q12, q22 = q11[inside], q12[inside], q22[inside]
    exact = oracles.dual(layer, q11, q12, q22)
    scales = oracles.dual_scales(layer, q11, q22)
    found = dual.dual(layer, q11, q12, q22)
    for values, expected, (quantity, (floor, _)) in zip(found, exact, scales.items(), strict=True):
        assert_close(values, expected, quantity, dtype, scale=floor)


@pytest.mark.parametrize("gamma", [0.0, 1e-300, 1e-30, 1e-8, 0.1, 0.17, 0.35, 1.0, 7.0, 30.0, 43.0])
def test_exponentials_small_and_large(gamma, dtype, backend):
    """``k = exp(-2 gamma)`` and, of the other end, the defect through a rectifier's NTK."""
    one = np.ones(1, dtype)
    k, kdot = dual.exp_normalized(one, -one, one, gamma, -1.0)
    exact = oracles.dual(ExpNormalized(gamma, -1.0), one, -one, one)
    for values, expected in zip((k, kdot), exact, strict=True):
        tiny = np.finfo(dtype).tiny
        assert_close(values, expected, "k", dtype, scale=np.maximum(2 * gamma * np.abs(expected.high) / 8, 10 * tiny))


def test_far_apart_is_zero(dtype, backend):
    q = np.array([1e4, 1e30], dtype)
    for values in dual.rbf(q, np.zeros(2, dtype), q, 1.0):
        assert (values == 0).all()
    big, zero = np.array([1e30], dtype), np.array([0], dtype)
    for layer in (Rbf(), Sin(), Cos(), Sin(1.0, 1.0, 0.3)):
        for triple in ((big, big, big), (big, -big, big), (big, zero, zero), (zero, zero, zero)):
            assert all(np.isfinite(values).all() for values in dual.dual(layer, *triple)), layer


# ---------------------------------------------------------------- networks

CHAOTIC = [("dense", 1, 1.0, None, "ntk", (1, 1)), ("phi", Rbf(0.8))]


def nearly_multiples(dtype):
    """Rows of one direction: squared lengths differ by what float32 can just hold, or by far less than its digits."""
    base = np.random.default_rng(0).standard_normal(12)
    steps = [0, 2.0**-22, 2.0**-21, 2.0**-20, 1e-3]
    return np.array([base * (1 + step) for step in steps] + [toward(base, base[::-1], 1e-6)]).astype(dtype)


@pytest.mark.parametrize(("dtype", "depth"), [(np.float32, 10), (np.float32, 50), (np.float64, 10)])
def test_chaotic_rbf(dtype, depth, backend):
    """What 50 layers pull apart by 1.6^50 is a difference of lengths that no float32 number of one input holds."""
    x = nearly_multiples(dtype)
    exact = oracles.network([*CHAOTIC * depth, CHAOTIC[0]], oracles.inputs(x)).kernels()
    net = stax.serial(*[Dense(1), Rbf(0.8)] * depth, Dense(1))
    check(net.kernel_fn(x, None, BOTH), exact, depth, dtype)


@pytest.mark.parametrize("layer", [Rbf(0.3), Exp(0.8, 0.3), ExpNormalized(), Sin(), Cos(), Sin(1.1, 0.9, 0.4)], ids=str)
def test_a_rectifier_behind(layer, dtype, backend):
    """Its NTK shows the square root of the defect: of copies, multiples and neighbours of unlike length."""
    rng = np.random.default_rng(1)
    base, other = rng.standard_normal((2, 12))
    rows = [base, 1.5 * base, -base, 0.02 * base, other, toward(base, other, 1e-6), 1.3 * toward(base, other, 1e-3)]
    x = np.array(rows).astype(dtype)
    layers = [("dense", 1, 1.2, 0.1, "ntk", (1, 1)), ("phi", layer), ("dense", 1, 1.1, None, "ntk", (1, 1))]
    layers += [("phi", Relu()), ("dense", 1, 1.0, None, "ntk", (1, 1))]
    exact = oracles.network(layers, oracles.inputs(x)).kernels()
    net = stax.serial(Dense(1, 1.2, 0.1), layer, Dense(1, 1.1), Relu(), Dense(1))
    check(net.kernel_fn(x, None, BOTH), exact, 10, dtype)


@pytest.mark.parametrize("layer", [Rbf(0.3), Exp(0.8, 0.3), ExpNormalized(), Sin(), Cos(), Sin(1.1, 0.9, 0.4)], ids=str)
def test_images(layer, dtype, backend):
    net = serial(conv(W_std=1.3), layer, conv((2, 2), (2, 1), W_std=1.1), layer, GlobalAvgPool(), Dense(1, 1.2, 0.1))
    x1, x2 = images(3, dtype=dtype), images(2, seed=1, dtype=dtype)
    check_images(net.kernel_fn(x1, x2, BOTH), image_oracle.kernels(net, x1, x2), dtype)
    check_images(net.kernel_fn(x1, None, BOTH), image_oracle.kernels(net, x1), dtype)


def test_do_clip_changes_nothing(backend):
    x = np.random.default_rng(0).standard_normal((4, 3))
    found = [
        stax.serial(Dense(1, 1.0, 0.1), ExpNormalized(1.2, -0.5, clip), Dense(1)).kernel_fn(x, None, "ntk")
        for clip in (False, True)
    ]
    assert np.array_equal(*found)


def test_a_cosine_is_a_sine_a_quarter_turn_on(dtype, backend):
    q11, q12, q22 = (q[::11] for q in grid(dtype))
    for found, expected in zip(
        dual.cos(q11, q12, q22, 0.9, 1.3, 0.2), dual.sin(q11, q12, q22, 0.9, 1.3, 0.2 + np.pi / 2), strict=True
    ):
        assert np.max(np.abs(found - expected)) <= bound("k", dtype.name)


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Rbf(-0.1), r"\[Rbf\] gamma must not be negative, given -0.1"),
        (lambda: ExpNormalized(-1e-9), r"\[ExpNormalized\] gamma must not be negative"),
        (lambda: ExpNormalized(1.0, 400.0), r"\[ExpNormalized\] exp\(gamma \(1 \+ shift\)\) must be below 1e150"),
        (lambda: Sin(np.inf), r"\[Sin\] a must be finite"),
        (lambda: Cos(1.0, np.nan), r"\[Cos\] b must be finite"),
        (lambda: Cos(1.0, 1.0, np.nan), r"\[Cos\] c must be finite"),
        (lambda: Exp(1.0, 1e200), r"\[Exp\] b must be finite and below 1e150"),
    ],
)
def test_refused_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_refused_types():
    for kind, name in ((Rbf, "gamma"), (Exp, "a"), (Sin, "a"), (Cos, "a"), (ExpNormalized, "gamma")):
        with pytest.raises(TypeError, match=rf"\[{kind.__name__}\] {name} must be a number"):
            kind("x")


def test_a_variance_that_overflows_is_refused(dtype, backend):
    """By name, before any pair; a row of NaN is none."""
    x = np.array([[1.0, 2.0], [300.0, 1.0], [np.nan, 0.0]], dtype)
    net = stax.serial(Dense(1, 1.0), Exp(1.0, 0.2), Dense(1))
    words = r"\[Exp\] the variance of an input is 45000.5, at most 8750 is allowed: b\^2 q must not exceed 350; .*b=0.2"
    for call in (
        lambda: net.kernel_fn(x), lambda: net.kernel_fn.diagonal(x), lambda: net.kernel_fn(x[:1], x[1:]),
        lambda: dual.exp(x[1:2, 0] ** 2 / 2, x[1:2, 0], x[1:2, 0], 1.0, 0.2),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"\[Exp\] the variance of an input is 450"):
            call()
    with pytest.raises(ValueError, match=words):
        net.kernel_fn(x)
    found = net.kernel_fn(x[[0, 2]], None, "nngp")
    assert np.isnan(found).tolist() == [[False, True], [True, True]]


def test_a_kernel_without_a_function():
    net = stax.serial(Dense(3, 1.0), ExpNormalized(), Dense(1))
    _, params = net.init_fn(0, (2, 4))
    with pytest.raises(NotImplementedError, match=r"\[ExpNormalized\] is a kernel without a function"):
        net.apply_fn(params, np.ones((2, 4)))
