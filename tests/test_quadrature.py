"""Gaussian expectations and duals by quadrature, against closed forms, 100 digits, and sums in long double."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import oracles
import pytest
from fastntk import quadrature, stax
from fastntk.quadrature import TANH, DualTable, HermiteSeries, Smooth
from scipy import special

ERF = Smooth(special.erf, lambda x: 2 / np.sqrt(np.pi) * np.exp(-x * x), "erf")
GELU = Smooth(
    lambda x: x * special.ndtr(x), lambda x: special.ndtr(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi), "gelu"
)
SIN = Smooth(np.sin, np.cos, "sin")
COS = Smooth(np.cos, lambda x: -np.sin(x), "cos")
EXP = Smooth(np.exp, np.exp, "exp")
BELL = Smooth(lambda x: np.exp(-x * x), lambda x: -2 * x * np.exp(-x * x), "bell")
RELU = Smooth(lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0, "relu")


# ---------------------------------------------------------------- one dimension


@pytest.mark.parametrize("q", [0.0, 1e-8, 0.3, 1.0, 7.0, 200.0, 1e4])
def test_expectation_of_moments_and_waves(q):
    """E x^4 = 3 q^2, E cos x = exp(-q / 2)."""
    np.testing.assert_allclose(quadrature.expectation(lambda x: x**4, q), 3 * q * q, rtol=2e-14)
    np.testing.assert_allclose(quadrature.expectation(np.cos, q), math.exp(-q / 2), rtol=0, atol=2e-15)


@pytest.mark.parametrize("q", [0.1, 2.0, 10.0, 50.0])
def test_expectation_of_tanh_against_mpmath(q):
    """Where a Gauss-Hermite rule of 200 nodes has errors up to 7e-4."""
    mp = mpmath.mp.clone()
    mp.dps = 30
    root = mp.sqrt(q)
    edges = [0, 0.5, 1, 2, 4, 8, 12]
    density = lambda z: mp.exp(-z * z / 2) * 2 / mp.sqrt(2 * mp.pi)  # noqa: E731
    square = mp.quad(lambda z: mp.tanh(root * z) ** 2 * density(z), edges)
    slope = mp.quad(lambda z: mp.sech(root * z) ** 4 * density(z), edges)
    np.testing.assert_allclose(quadrature.expectation(lambda x: np.tanh(x) ** 2, q), float(square), rtol=2e-15)
    np.testing.assert_allclose(quadrature.expectation(lambda x: TANH.dphi(x) ** 2, q), float(slope), rtol=2e-15)


def test_expectation_reaches_as_far_as_the_integrand_does():
    """E exp(x) = exp(q / 2) has its weight around z = sqrt(q)."""
    q = np.array([[1.0, 20.0], [100.0, 0.0]])
    np.testing.assert_allclose(quadrature.expectation(np.exp, q), np.exp(q / 2), rtol=3e-14)


def test_expectation_keeps_shapes():
    assert isinstance(quadrature.expectation(np.cos, 1), float)
    assert quadrature.expectation(np.cos, np.ones((2, 0))).shape == (2, 0)
    many = quadrature.expectation(np.cos, np.linspace(0, 3, 1000).reshape(10, 100))
    np.testing.assert_allclose(many, np.exp(-np.linspace(0, 3, 1000).reshape(10, 100) / 2), rtol=1e-14)


def test_expectation_in_pieces():
    """Kinks and jumps are found; the rest is smooth."""
    tail = special.ndtr(-0.3)
    density = math.exp(-0.045) / math.sqrt(2 * math.pi)
    for f, expected in (
        (np.abs, math.sqrt(2 / math.pi)),
        (lambda x: np.maximum(x - 0.3, 0), density - 0.3 * tail),
        (lambda x: (x > 0.3) * 1.0, tail),
        (lambda x: np.clip(x, -0.3, 0.3) ** 2, 0.09 + (1 - 0.09) * (1 - 2 * tail) - 0.6 * density),
    ):
        np.testing.assert_allclose(quadrature.expectation(f, 1.0), expected, rtol=1e-12)
    np.testing.assert_allclose(
        quadrature.expectation(np.abs, [[0.0, 4.0]]), [[0, 2 * math.sqrt(2 / math.pi)]], rtol=1e-13
    )


def test_tanh_derivative_far_out():
    x = np.array([-800.0, -20.0, 0.0, 1.0, 20.0, 800.0])
    with mpmath.workdps(30):
        expected = [float(mpmath.sech(v) ** 2) for v in x]
    np.testing.assert_allclose(TANH.dphi(x), expected, rtol=1e-15)


# ---------------------------------------------------------------- Hermite series


def test_hermite_coefficients_of_the_exponential():
    """a_l = exp(q / 2) q^(l / 2) / sqrt(l!)."""
    q = np.array([0.0, 0.5, 3.0])
    order = np.arange(41)
    expected = np.exp(q / 2)[:, None] * q[:, None] ** (order / 2) / np.sqrt(special.factorial(order))
    found = quadrature.hermite_coefficients(np.exp, q, 40)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-15 * math.exp(3.0))


def test_hermite_coefficients_of_high_order():
    """sin of variance q: |a_l| = exp(-q / 2) q^(l / 2) / sqrt(l!) at odd l, signs alternating."""
    with mpmath.workdps(40):
        size = [mpmath.exp(-200) * mpmath.mpf(20) ** n / mpmath.sqrt(mpmath.factorial(n)) for n in range(601)]
    expected = [float(s) * (-1) ** (n // 2) if n % 2 else 0.0 for n, s in enumerate(size)]
    found = quadrature.hermite_coefficients(np.sin, 400.0, 600)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)


def test_gaps_bound_the_error_of_a_short_series():
    series = HermiteSeries.of(TANH, [1.0, 4.0], 9)
    assert series.order == 9
    for rho in (1.0, -1.0, 0.7):
        k, kdot = series.evaluate([0], [1], np.array([rho]))
        exact = quadrature.dual(TANH, 1.0, rho * 2.0, 4.0)
        for n, (short, full, f) in enumerate(zip((k, kdot), exact, (TANH.phi, TANH.dphi), strict=True)):
            scale = math.sqrt(math.prod(quadrature.expectation(lambda x, f=f: f(x) ** 2, [1.0, 4.0])))
            bound = math.sqrt(series.gaps[n].prod()) * abs(rho) ** 10
            error = abs(float(short[0]) - float(full)) / scale
            assert 1e-9 < error <= bound * (1 + 1e-9)


# ---------------------------------------------------------------- duals

# (q11, q12, q22) = (1, 0.5, 2). Closed forms of all but tanh; tanh: trapezoid rule with step 1/16 in 30 digits.
PRINTED = {
    "erf": (ERF, 0.166257971481190, 0.340287581977929),
    "gelu": (GELU, 0.271337546273993, 0.316143890226868),
    "sin": (SIN, 0.116272078967415, 0.251607362204028),
    "cos": (COS, 0.251607362204028, 0.116272078967415),
    "exp": (EXP, 7.389056098930650, 7.389056098930650),
    "bell": (BELL, 0.267261241912424, 0.038180177416061),
    "tanh": (TANH, 0.146754115460387, 0.299172021393036),
}


@pytest.mark.parametrize("name", PRINTED)
def test_dual_at_one_point(name):
    act, k, kdot = PRINTED[name]
    found = quadrature.dual(act, 1.0, 0.5, 2.0)
    np.testing.assert_allclose(found, (k, kdot), rtol=1e-15, atol=6e-16)


def conditional_sum(f, q11, q12, q22, step, reach):
    """E f(u) f(v) by a trapezoid rule with v conditioned on u, in long double: no rotation, no series."""
    z = np.arange(-reach / step, reach / step + 1).astype(np.longdouble) * step
    w = np.exp(-z * z / 2) * np.longdouble(step) / np.sqrt(2 * np.longdouble(np.pi))
    a, b = np.sqrt(np.longdouble(q11)), np.longdouble(q12) / np.sqrt(np.longdouble(q11))
    rest = np.sqrt(np.maximum(np.longdouble(q22) - b * b, 0))
    return float(np.sum(w[:, None] * w * f(a * z)[:, None] * f(b * z[:, None] + rest * z)))


@pytest.mark.parametrize(
    ("q11", "rho", "q22"), [(0.01, 0.5, 3.0), (2.0, -0.95, 2.0), (5.0, 1.0, 5.0), (0.4, -1.0, 9.0), (6.0, 0.99, 2.0)]
)
def test_dual_of_tanh_against_a_sum_in_long_double(q11, rho, q22):
    q12 = rho * math.sqrt(q11 * q22)
    found = quadrature.dual(TANH, q11, q12, q22)
    sech2 = lambda x: 1 / np.cosh(x) ** 2  # noqa: E731
    expected = [conditional_sum(f, q11, q12, q22, 1 / 32, 9.5) for f in (np.tanh, sech2)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-15)


def test_dual_of_erf_against_100_digits():
    """All correlations, variances of 1e-3 to 50: relative to sqrt(k(q11, q11) k(q22, q22))."""
    rho = np.array([-1.0, -0.999999, -0.5, 0.0, 1e-9, 0.3, 0.9, 0.999999, 1.0])
    q11, q22, rho = (a.ravel() for a in np.meshgrid([1e-3, 1.0, 8.0, 50.0], [0.2, 8.0], rho, indexing="ij"))
    q12 = rho * np.sqrt(q11) * np.sqrt(q22)
    k, kdot = quadrature.dual(ERF, q11, q12, q22)
    expected = oracles.dual(stax.Erf(), q11, q12, q22)
    diagonals = [oracles.dual(stax.Erf(), q, q, q) for q in (q11, q22)]
    for n, found in enumerate((k, kdot)):
        scale = np.sqrt(diagonals[0][n].high * diagonals[1][n].high)
        assert np.abs((found - expected[n].high) / scale).max() < 2e-14


@pytest.mark.parametrize("rho", [0.9999, -1.0])
def test_dual_beyond_the_series(rho):
    """At large variances of close inputs the plane is integrated."""
    q = np.array([150.0])
    found = quadrature.dual(ERF, q, rho * q, q)
    for value, exact, own in zip(
        found, oracles.dual(stax.Erf(), q, rho * q, q), oracles.dual(stax.Erf(), q, q, q), strict=True
    ):
        assert abs((value[0] - exact.high[0]) / own.high[0]) < 5e-14


def test_dual_broadcasts_and_takes_zero_variances():
    k, kdot = quadrature.dual(GELU, np.array([[1.0], [0.0]]), 0.0, np.array([0.0, 2.0, 3.0]))
    assert k.shape == kdot.shape == (2, 3)
    mean, slope = (
        [quadrature.expectation(f, q) for q in (0.0, 1.0, 2.0, 3.0)] for f in (GELU.phi, GELU.dphi)
    )  # independent: products of means
    np.testing.assert_allclose(k, np.outer([mean[1], mean[0]], [mean[0], mean[2], mean[3]]), rtol=0, atol=1e-15)
    np.testing.assert_allclose(kdot, np.outer([slope[1], slope[0]], [slope[0], slope[2], slope[3]]), rtol=1e-14)
    assert all(isinstance(x, float) for x in quadrature.dual(TANH, 1, 0, 1))


def test_table_calls_the_function_once_for_each_variance_and_order():
    calls = 0

    def phi(x):
        nonlocal calls
        calls += 1
        return np.tanh(x)

    table = DualTable(Smooth(phi, TANH.dphi), [1.0, 2.0, 3.0])
    rho, i, j = np.array([0.2, -0.1, 0.3]), np.array([0, 1, 2]), np.array([1, 1, 0])
    first = table.evaluate(i, j, rho)
    made = calls
    again = table.evaluate(i, j, rho)
    assert calls == made
    np.testing.assert_array_equal(again, first)
    q = table.q
    np.testing.assert_allclose(first, quadrature.dual(TANH, q[i], rho * np.sqrt(q[i] * q[j]), q[j]), rtol=0, atol=2e-14)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: quadrature.expectation(np.cos, -1.0), r"\[expectation\] q is a variance: finite and not negative"),
        (lambda: quadrature.expectation(np.cos, [1.0, np.nan]), "q is a variance"),
        (lambda: quadrature.expectation(lambda x: np.exp(x * x), 1.0), "not finite for .x. <= 27"),
        (lambda: quadrature.expectation(lambda x: np.exp(x * x / 2), 1.0), "has no expectation .*grows too fast"),
        (lambda: quadrature.expectation(lambda x: np.where(x > 1, np.nan, x), 1.0), "is not finite"),
        (
            lambda: quadrature.expectation(lambda x: np.sin(1e9 * x * x), 1.0, rtol=1e-30),
            "does not converge.*not smooth",
        ),
        (lambda: quadrature.hermite_coefficients(np.cos, 1.0, -1), "order must not be negative, given -1"),
        (lambda: quadrature.dual(TANH, -1.0, 0.0, 1.0), r"\[dual of tanh\] q11 is a variance"),
        (lambda: quadrature.dual(TANH, 1.0, 0.0, np.inf), "q22 is a variance"),
        (lambda: quadrature.dual(TANH, 1.0, 1.1, 1.0), r"\|q12\| must not exceed"),
        (lambda: quadrature.dual(TANH, 1.0, np.nan, 1.0), r"\|q12\| must not exceed"),
        (lambda: quadrature.dual(TANH, np.ones(2), 0.0, np.ones(3)), r"shapes \[\(2,\), \(\), \(3,\)\] do not"),
        (lambda: quadrature.dual(TANH, 1e6, 1e6, 1e6), "does not converge at .*4096.2 nodes"),
        (lambda: quadrature.dual(RELU, 1.0, 0.5, 1.0), "not smooth"),
        (lambda: quadrature.smooth(RELU), "not smooth"),
        (lambda: quadrature.smooth(Smooth(np.tanh, np.tanh, "twice")), "dphi of twice is not the derivative of phi"),
        (lambda: quadrature.smooth(Smooth(np.tanh, lambda x: -TANH.dphi(x))), "is not the derivative"),
    ],
)
def test_refused_values(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: quadrature.smooth(np.sin), "is an object with functions phi and dphi"),
        (lambda: quadrature.smooth(Smooth(lambda x: x[:3], np.cos)), r"must give a real array of its argument's shape"),
        (lambda: quadrature.smooth(Smooth(lambda x: 1j * x, np.cos)), "given complex128"),
        (lambda: quadrature.expectation(lambda x: 1.0, 1.0), "must keep its argument's shape"),
    ],
)
def test_refused_types(call, words):
    with pytest.raises(TypeError, match=words):
        call()


NAMED = ("tanh", "TANH", np.tanh, "erf", "relu", "abs", stax.Erf, stax.Relu(), stax.LeakyRelu(0.2))


@pytest.mark.parametrize("name", NAMED)
def test_activations_by_name(name):
    """Against sampling-free integrals on a grid of both variables."""
    z = np.linspace(-9, 9, 2001)
    u, v = np.meshgrid(np.sqrt(0.8) * z, np.sqrt(1.5) * z, indexing="ij")
    rho = 0.3
    weight = np.exp(-(z[:, None] ** 2 - 2 * rho * z[:, None] * z + z**2) / (2 * (1 - rho**2)))
    weight /= weight.sum()
    text = name if isinstance(name, str) else getattr(name, "__name__", "leaky")
    if isinstance(name, stax.Relu):
        text = "relu"
    phi = {
        "tanh": np.tanh, "erf": special.erf, "relu": lambda x: np.maximum(x, 0), "abs": np.abs,
        "leaky": lambda x: np.where(x > 0, x, 0.2 * x),
    }[text.lower()]  # fmt: skip
    k, _ = quadrature.dual(name, 0.8, rho * np.sqrt(0.8 * 1.5), 1.5)
    assert np.isclose(k, (weight * phi(u) * phi(v)).sum(), rtol=1e-4)  # kinks cost the grid 1e-5


@pytest.mark.parametrize("given", ["tahn", np.sin, 3, None, stax.Dense(1), "leaky_relu", stax.ABRelu, lambda x: x])
@pytest.mark.parametrize("call", [
    lambda a: quadrature.dual(a, 1.0, 0.5, 1.0), lambda a: quadrature.DualTable(a, [1.0]),
    lambda a: quadrature.HermiteSeries.of(a, [1.0], 8), quadrature.smooth,
])  # fmt: skip
def test_what_is_no_activation_is_told_what_is_one(given, call):
    with pytest.raises(TypeError, match=r"'tanh'|has parameters: give a layer"):
        call(given)
