"""Functions without closed form where a short series is not enough: fast ones, powers, flat ones, wide variances."""

from __future__ import annotations

import numpy as np
import pytest
from fastntk import stax
from fastntk.network.activations.fitted import WholeSeries, _polynomial
from fastntk.network.hermite import Coefficients, Whole
from fastntk.network.whole_series import ExactFit

# A user's function, and the layer that computes it in closed form.
KNOWN = {
    "cubic": (lambda x: x**3, stax.Monomial(3)),
    "quintic": (lambda x: x**5 - x, stax.Polynomial((0, -1, 0, 0, 0, 1))),
    "shifted": (lambda x: (x - 1) ** 2, stax.Polynomial((1, -2, 1))),
    "wave": (lambda x: np.cos(5 * x), stax.Cos(1.0, 5.0, 0.0)),
    "odd wave": (lambda x: np.sin(4 * x), stax.Sin(1.0, 4.0, 0.0)),
    "narrow": (lambda x: np.exp(-10 * x * x), stax.Gaussian(1.0, -10.0)),
}


def rows(dtype=np.float64):
    """Variances from 1e-5 to 9, near-duplicates and opposite rows among them."""
    x = np.random.default_rng(0).standard_normal((9, 5))
    x *= np.array([0.003, 0.02, 0.1, 0.3, 1, 2.5, 3, 1, 1])[:, None]
    x[7], x[8] = x[5] * (1 + 1e-6), -x[4] + 1e-4 * x[6]
    return x.astype(dtype)


def of(layer, x, get=("nngp", "ntk")):
    return stax.serial(stax.Dense(1, 1.2), layer, stax.Dense(1, 1.1, 0.1)).kernel_fn(x, None, get)


def errors(found, exact):
    """Relative, below half of the diagonal to that half."""
    for own, expected in zip(found, exact, strict=True):
        size = np.sqrt(np.diag(expected))
        yield np.abs(own - expected) / np.maximum(np.abs(expected), np.outer(size, size) / 2)


@pytest.mark.parametrize("name", KNOWN)
def test_as_the_closed_form(name, dtype):
    fn, closed = KNOWN[name]
    x = rows(dtype)
    for error in errors(of(stax.Activation(fn), x), of(closed, x.astype(np.float64))):
        assert error.max() < (1e-12 if dtype == np.float64 else 2e-6)


def test_functions_without_slope_at_0(dtype):
    """``sin(x)^2 = (1 - cos(2 x)) / 2``: of small inputs all is in the second derivative."""
    x = rows(dtype)
    found = stax.serial(stax.Dense(1, 1.2), stax.Activation(lambda x: np.sin(x) ** 2)).kernel_fn(x, None, "nngp")
    x = x.astype(np.float64)
    K = 1.44 * x @ x.T / x.shape[1]
    q = np.diag(K)
    lost, left = -np.expm1(-2 * q), np.exp(-2 * q)
    exact = (np.outer(lost, lost) + np.outer(left, left) * 2 * np.sinh(2 * K) ** 2) / 4
    (error,) = errors([found], [exact])
    assert error.max() < (1e-11 if dtype == np.float64 else 2e-6)


def test_gradients_as_those_of_the_closed_form():
    x = rows()[3:7]
    on = {"ntk": np.random.default_rng(1).standard_normal((4, 4))}
    for name in ("cubic", "wave", "narrow"):
        fn, closed = KNOWN[name]
        nets = [stax.serial(stax.Dense(1, 1.2), layer, stax.Dense(1)) for layer in (stax.Activation(fn), closed)]
        found, exact = (net.kernel_fn.vjp(x, None, cotangents=on, wrt=("x1", "0.W_std")) for net in nets)
        assert np.abs(found.x1 - exact.x1).max() < 1e-9 * np.abs(exact.x1).max()
        assert found.parameters["0.W_std"] == pytest.approx(exact.parameters["0.W_std"], rel=1e-9)


def test_which_way_is_taken():
    def standing(fn, high, single=False):
        return stax.Activation(fn).standing_for(0.0, high, single)

    assert isinstance(standing(lambda x: x**3 - x, 1e9), stax.Polynomial)  # whatever the variances
    assert isinstance(standing(lambda x: np.cos(5 * x), 16.0), WholeSeries)
    exact = standing(lambda x: np.log(np.cosh(x)), 16.0)
    assert isinstance(exact.own, ExactFit)
    assert exact.compiled
    assert not isinstance(standing(np.tanh, 4.0).own, ExactFit)


@pytest.mark.parametrize("fn", [np.tanh, lambda x: x + 1e-9 * np.tanh(x), np.abs, lambda x: np.clip(x, -50, 50)])
def test_no_polynomials(fn):
    assert _polynomial(stax.Activation(fn), 16.0) is None


def test_a_series_that_begins_late_is_seen():
    """Of a wave at a large variance the first hundreds of terms are 0."""
    source = Coefficients(lambda x: x + np.sin(3 * x) ** 2, 16.0, False, "wave")
    whole = Whole(source, np.array([11.0]), 2e-7, "wave")
    assert np.sum(whole.table**2) == pytest.approx(1, rel=1e-9)


def test_compiled_backends_say_what_they_lack():
    x = 3 * rows()
    kernel_fn = stax.serial(stax.Dense(1, 1.2), stax.Activation(KNOWN["wave"][0]), stax.Dense(1)).kernel_fn
    assert kernel_fn(x, None, "ntk").shape == (9, 9)
    with pytest.raises((NotImplementedError, RuntimeError)):  # where nothing is compiled: no backend of the name
        kernel_fn(x, None, "ntk", backend="cpu")
