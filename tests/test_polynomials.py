"""Powers, rectified powers, polynomials, the sign; and the two ops that are made of numbers, series and curves."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import fastntk
import image_oracle
import numpy as np
import oracles
import pytest
from fastntk import dual, stax
from fastntk.network.activations.polynomials import moment_polynomial
from fastntk.network.activations.series import Curve, Series
from helpers import assert_close, geometric_mean_of_diagonals
from images_inputs import READOUTS, conv, images
from test_images import check as check_images
from tolerances import DEPTHS, FLOOR

# (q1, q2, c) as k and kdot of each: 60 digits, rounded to 15.
POINTS = ((1, 2, 0.5), (1, 1, 1), (1, 1, -1), (1, 1, 1 - 1e-8), (3, 0.1, -0.2))
PRINTED = """
Sign 0.230053456162616 0.0 1.0 0.0 -1.0 0.0 0.999909968368309 0.0 -0.237963489255929 0.0
Monomial(0) 1.0 0.0 1.0 0.0 1.0 0.0 1.0 0.0 1.0 0.0
Monomial(1) 0.5 1.0 1.0 1.0 -1.0 1.0 0.99999999 1.0 -0.2 1.0
Monomial(2) 2.5 2.0 3.0 4.0 3.0 -4.0 2.99999996 3.99999996 0.38 -0.8
Monomial(3) 9.75 22.5 15.0 27.0 -15.0 27.0 14.99999973 26.99999964 -0.588 3.42
Monomial(4) 73.5 156.0 105.0 240.0 105.0 -240.0 104.9999976 239.99999568 1.7124 -9.408
Monomial(5) 603.75 1837.5 945.0 2625.0 -945.0 2625.0 944.99997375 2624.99994 -5.5284 42.81
Monomial(6) 6536.25 21735.0 10395.0 34020.0 10395.0 -34020.0 10394.9996598 34019.999055 23.29308 -199.0224
RectifiedMonomial(0) 0.307513364040654 0.0 0.5 0.0 0.0 0.0 0.499977492092077 0.0 0.190509127686018 0.0
RectifiedMonomial(1) 0.364298881694223 0.307513364040654 0.5 0.5 0.0 0.0 0.49999999500015 0.499977492092077 0.0430515905138288 0.190509127686018
RectifiedMonomial(2) 1.08459670961248 1.45719552677689 1.5 2.0 0.0 0.0 1.49999998 1.9999999800006 0.0237014188900673 0.172206362055315
RectifiedMonomial(3) 5.26158394589076 9.76137038651231 7.5 13.5 0.0 0.0 7.499999865 13.49999982 0.0210722352443146 0.213312770010606
RectifiedMonomial(4) 35.4979419870142 84.1853431342522 52.5 120.0 0.0 0.0 52.4999988 119.99999784 0.025960190860717 0.337155763909034
RectifiedMonomial(5) 307.065089426505 887.448549675355 472.5 1312.5 0.0 0.0 472.499986875 1312.49997 0.0409321550670583 0.649004771517926
Polynomial((.3,1,.5,-.2)) 1.155 0.6 1.54 1.88 0.74 -0.12 1.5399999812 1.8799999756 0.79848 -0.9232
Hermite(0) 1.0 0.0 1.0 0.0 1.0 0.0 1.0 0.0 1.0 0.0
Hermite(1) 0.5 1.0 1.0 1.0 -1.0 1.0 0.99999999 1.0 -0.2 1.0
Hermite(4) 0.0625 0.5 1.0 4.0 1.0 -4.0 0.999999960000001 3.99999988 0.0016 -0.032
""".strip().splitlines()  # noqa: E501


def made(text):
    name, _, arguments = text.partition("(")
    return getattr(stax, name)(*(eval(f"({arguments[:-1]},)") if arguments else ()))


@pytest.mark.parametrize("line", PRINTED)
def test_printed_values(line, backend):
    name, *numbers = line.split()
    expected = np.array(numbers, float).reshape(len(POINTS), 2)
    q1, q2, c = np.array(POINTS, float).T
    found = dual.dual(made(name), q1, c, q2)
    for values, exact in zip(found, expected.T, strict=True):
        assert np.abs(values - exact).max() < 3e-14 * max(1, np.abs(exact).max()) + 4e-13  # the step's 1 - 1e-8 rounds


A, B = np.array([[1, 0.5, -0.25, 2]]), np.array([[0.5, -1, 0.75, 1]])


def before():
    return stax.Dense(5, 1.3, 0.2)


@pytest.mark.parametrize(
    ("layers", "nngp", "ntk"),
    [
        ((before(), stax.RectifiedMonomial(2)), 1.91899591068, 3.52906049858),
        ((before(), stax.Polynomial((0.3, 1, 0.5, -0.2)), before(), stax.Relu()), 1.92759534073, 3.35962031169),
    ],
)
def test_networks_of_neural_tangents(layers, nngp, ntk, backend):
    found = stax.serial(*layers, stax.Dense(1)).kernel_fn(A, B, ("nngp", "ntk"))
    assert found.nngp[0, 0] == pytest.approx(nngp, rel=1e-10)
    assert found.ntk[0, 0] == pytest.approx(ntk, rel=1e-10)


# ---------------------------------------------------------------- what Neural Tangents has wrong


@pytest.mark.parametrize("degree", range(6))
def test_a_rectified_monomial_on_the_diagonal(degree, dtype, backend):
    """``K(x, x)``, and rows that are equal or opposite."""
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(dtype)
    x[3], x[4] = x[0], -x[1]
    found = stax.serial(stax.Dense(1), stax.RectifiedMonomial(degree), stax.Dense(1)).kernel_fn(
        x, None, ("nngp", "ntk")
    )
    q = np.mean(x.astype(float) ** 2, axis=1)
    factorial = np.prod(np.arange(1, 2 * degree, 2.0))
    below = np.prod(np.arange(1, 2 * degree - 2, 2.0))
    k = factorial / 2 * q**degree
    ntk = k + (degree**2 * below / 2 * q ** (degree - 1) * q if degree else 0)
    for values, exact in ((found.nngp, k), (found.ntk, ntk)):
        assert_close(np.diag(values), exact, "nngp 1", dtype)
        assert np.isfinite(values).all()
        assert values[0, 3] == values[0, 0]
        assert abs(values[1, 4]) <= 1e-18 * values[1, 1]


@pytest.mark.parametrize("phi", [stax.Polynomial((0, 1, 0.5)), stax.Polynomial((0.3, 0, 1)), stax.RectifiedMonomial(2)])
def test_rows_of_zeros(phi, dtype, backend):
    x = np.array([[0, 0], [1, 2], [0, 0]], dtype)
    found = stax.serial(stax.Dense(1), phi, stax.Dense(1)).kernel_fn(x, None, ("nngp", "ntk"))
    mean = phi.coef[0] if isinstance(phi, stax.Polynomial) else 0.0
    for values in found:
        assert np.isfinite(values).all()
        assert values[0, 2] == values[0, 0] == pytest.approx(mean**2, rel=1e-6)
    expected = phi.exact(*(oracles.mp.mpf(v) for v in ("1e-40", 0, "2.5")), oracles.mp)[0]
    assert found.nngp[0, 1] == pytest.approx(float(expected), rel=1e-6, abs=1e-15)


@pytest.mark.parametrize("readout", READOUTS)
def test_the_sign_before_pooling(readout, dtype, backend):
    x = images(3, (4, 6, 2), dtype=dtype)
    net = stax.serial(
        conv(), stax.Sign(), stax.AvgPool((2, 2), (2, 2)), conv(), stax.Relu(), READOUTS[readout](), stax.Dense(1)
    )
    check_images(net.kernel_fn(x, None, ("nngp", "ntk")), image_oracle.kernels(net, x), dtype)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", ["Monomial", "RectifiedMonomial", "Hermite"])
def test_degrees_that_are_refused(name):
    make = getattr(stax, name)
    for degree, error, words in (
        (-1, ValueError, rf"\[{name}\] degree must be at least 0, given -1"),
        (101, ValueError, rf"\[{name}\] degree must be at most 100, given 101"),
        (1.5, TypeError, rf"\[{name}\] degree must be an integer, given 1.5"),
    ):
        with pytest.raises(error, match=words):
            make(degree)


@pytest.mark.parametrize(
    ("coef", "error", "words"),
    [
        ((), ValueError, r"\[Polynomial\] coef must hold 1 to 101 numbers, given 0"),
        (np.zeros(102), ValueError, "given 102"),
        (1.0, TypeError, r"\[Polynomial\] coef must be a sequence of numbers, given 1.0"),
        ((1, np.nan), ValueError, r"\[Polynomial\] coef\[1\] must be finite"),
        (("x",), TypeError, r"\[Polynomial\] coef\[0\] must be a number"),
    ],
)
def test_coefficients_that_are_refused(coef, error, words):
    with pytest.raises(error, match=words):
        stax.Polynomial(coef)


def test_hermite_says_what_it_counts_on():
    with pytest.warns(UserWarning, match=r"serial\[1\] Hermite\] counts on inputs of variance 1"):
        stax.serial(stax.Dense(1), stax.Hermite(2)).kernel_fn(A)


# ---------------------------------------------------------------- functions


@pytest.mark.parametrize(
    ("phi", "function"),
    [
        (stax.Monomial(3), lambda x: x**3),
        (stax.RectifiedMonomial(0), lambda x: (x >= 0) * 1.0),
        (stax.RectifiedMonomial(2), lambda x: np.maximum(x, 0) ** 2),
        (stax.Polynomial((0.3, 1, 0.5, -0.2)), lambda x: 0.3 + x + 0.5 * x**2 - 0.2 * x**3),
        (stax.Hermite(4), lambda x: (x**4 - 6 * x**2 + 3) / np.sqrt(24)),
        (stax.Sign(), np.sign),
    ],
)
def test_functions_and_their_means(phi, function):
    x = np.linspace(-3, 3, 13)
    assert np.abs(phi.phi(x, np) - function(x)).max() < 1e-14
    z, weight = np.polynomial.hermite_e.hermegauss(200)
    for q in (0.3, 1.0, 2.0) if not isinstance(phi, stax.Hermite) else (1.0,):
        mean = np.sum(weight * function(np.sqrt(q) * z)) / np.sqrt(2 * np.pi)
        assert phi.mean(np.array(q)) == pytest.approx(mean, abs=2e-3 if phi.jumps else 1e-4)


# ---------------------------------------------------------------- series and curves


@dataclass(frozen=True)
class Sparse(Series):
    """High degrees far apart, shares that move with the variance, and terms that count negatively."""

    wanted: ClassVar[tuple] = ((0, 0.2, 0.5), (2, 0.3, 0.3), (-14, 0.02, 0.1), (300, 0.01, 0.2),
                               (1, 0.9, 0.0), (3, 0.3, 0.4), (-41, 0.01, 0.3), (571, 0.01, 0.25))  # fmt: skip

    @property
    def degrees(self):
        return tuple(float(order) for order, _, _ in self.wanted)

    def coefficients(self, q, xp=np):
        return [c * q**0.5 * (q / (1 + q)) ** power for _, c, power in self.wanted]

    def exact(self, q11, q12, q22, mp):
        rho, k, kdot = q12 / mp.sqrt(q11 * q22), 0 * q12, 0 * q12
        for (order, c, power), one in zip(self.wanted, self.coefficients(q11), strict=True):
            term = (1 if order >= 0 else -1) * one * c * q22**0.5 * (q22 / (1 + q22)) ** power
            k = k + term * rho ** abs(order)
            kdot = kdot + (term * abs(order) * rho ** (abs(order) - 1) / mp.sqrt(q11 * q22) if order else 0)
        return k, kdot


@dataclass(frozen=True)
class Arc(Curve):
    """The rectifier: kdot q / V = 1 - theta / pi has an odd part of 1/2, an even one of 1/2 - theta / pi at |rho|."""

    odd_share: ClassVar[float] = 0.5
    odd: ClassVar[tuple] = (0.5,)

    @property
    def even(self):
        return (0.5, *(c for own in moment_polynomial(0, 17) for c in (-own, 0.0)))

    def variance(self, q, xp=np):
        return q / 2


def rows_of_all_sorts(dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((9, 20))
    x[1], x[2], x[3] = 2 * x[0], x[0] + 1e-6 * rng.standard_normal(20), -x[0]
    x[4] = -x[0] + 1e-3 * rng.standard_normal(20)
    x[5] *= 0.1
    return x.astype(dtype)


SHAPES = [(9, 9), (1, 3), (5, 130), (130, 5)]


def test_a_series_in_100_digits(dtype, backend):
    x = rows_of_all_sorts(dtype)
    linear = ("dense", 7, 1.05, 0.1, "ntk", (1, 1))
    exact = oracles.stack(linear, ("phi", Sparse()), x, DEPTHS)
    for depth in DEPTHS:
        layers = [stax.Dense(7, 1.05, 0.1)]
        for _ in range(depth):
            layers += [Sparse(), stax.Dense(7, 1.05, 0.1)]
        found = stax.serial(*layers).kernel_fn(x, None, ("nngp", "ntk"))
        for name, values in zip(found._fields, found, strict=True):
            scale = FLOOR * geometric_mean_of_diagonals(exact[depth][name])
            assert_close(values, exact[depth][name], f"{name} {depth}", dtype, scale=scale)


@pytest.mark.parametrize("make", [lambda: Sparse(), lambda: stax.Polynomial((0.3, 1, 0.5, -0.2)), lambda: Arc()])
@pytest.mark.parametrize("shape", SHAPES)
def test_pairs_do_not_depend_on_their_neighbours(make, shape, dtype, backend):
    """Ends of lines, single pairs, the diagonal alone, either side first: the same bits."""
    if not backend.startswith("cpu"):
        pytest.skip("the product of the inputs is a BLAS's, whose bits depend on the shape")
    rng = np.random.default_rng(1)
    x1, x2 = (rng.standard_normal((n, 6)).astype(dtype) for n in shape)
    kernel_fn = stax.serial(stax.Dense(1, 1.2, 0.1), make(), stax.Dense(1), make(), stax.Dense(1)).kernel_fn
    whole, turned = kernel_fn(x1, x2, "ntk"), kernel_fn(x2, x1, "ntk")
    assert np.array_equal(whole, turned.T)
    for i, j in ((0, 0), (shape[0] - 1, shape[1] - 1)):
        assert kernel_fn(x1[i : i + 1], x2[j : j + 1], "ntk") == whole[i, j]
    gram = kernel_fn(x1, None, "ntk")
    assert np.array_equal(np.diag(gram), kernel_fn.diagonal(x1, "ntk"))


def test_a_curve_is_the_rectifier(dtype, backend):
    x = rows_of_all_sorts(dtype)

    def kernels(phi):
        layers = [stax.Dense(1, 1.4, 0.1), phi, stax.Dense(1, 1.4, 0.1), phi, stax.Dense(1)]
        return stax.serial(*layers).kernel_fn(x, None, ("nngp", "ntk"))

    with fastntk.options(backend="numpy"):
        expected = kernels(stax.Relu())
    for values, exact in zip(kernels(Arc()), expected, strict=True):
        assert_close(values, exact.astype(float), "nngp 10", dtype, scale=0.5 * exact.max())


@pytest.mark.parametrize(
    "phi", [Sparse(), Arc(), stax.Monomial(2), stax.Polynomial((0.1, 1, 0.0, -0.02)), stax.Hermite(3)]
)
@pytest.mark.parametrize("readout", READOUTS)
def test_on_images(phi, readout, dtype, backend):
    """Planes, with windows before and behind, and a sum of branches; against NumPy."""
    x = images(3, (5, 4, 2), dtype=dtype)
    branch = stax.serial(conv(), phi, conv())
    net = stax.serial(
        conv(), stax.FanOut(2), stax.parallel(branch, conv()), stax.FanInSum(), phi, READOUTS[readout](), stax.Dense(1)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Hermite
        with fastntk.options(backend="numpy"):
            expected = net.kernel_fn(x.astype(float), None, ("nngp", "ntk"))
        found = net.kernel_fn(x, None, ("nngp", "ntk"))
    for values, exact in zip(found, expected, strict=True):
        size = np.sqrt(np.diag(exact))
        assert_close(values, exact, "nngp 10", dtype, scale=0.5 * size[:, None] * size)
