"""Gaussian: where it has a kernel, where not, and what is said then; exponents above 0 up to the end of their range."""

from __future__ import annotations

import re

import numpy as np
import oracles
import pytest
from fastntk import dual, stax
from helpers import assert_close

RNG = np.random.default_rng(0)
X = RNG.standard_normal((7, 5))


def net(layer):
    return stax.serial(stax.Dense(1, 0.9), layer, stax.Dense(1)).kernel_fn


@pytest.mark.parametrize("arguments", [("x",), (1.0, None), (1.0, [1.0])])
def test_parameters_that_are_no_numbers(arguments):
    with pytest.raises(TypeError, match=r"\[Gaussian\] [ab] must be a number, given"):
        stax.Gaussian(*arguments)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
def test_parameters_out_of_range(value):
    with pytest.raises(ValueError, match=r"\[Gaussian\] b must be finite"):
        stax.Gaussian(1.0, value)


@pytest.mark.parametrize("b", [0.02, 0.3])
@pytest.mark.parametrize("share", [1.0, 1.5])
def test_a_variance_without_an_answer_is_refused(b, share, dtype, backend):
    """The largest of them by its value, before any pair: the layer, the argument and the variance."""
    x = X.astype(dtype)
    q = 0.81 * np.mean(x.astype(np.float64) ** 2, axis=1)
    x *= dtype.type(np.sqrt(share * 1.0001 / (4 * b * q.max())))
    largest = 0.81 * np.mean(x.astype(np.float64) ** 2, axis=1).max()
    words = rf"\[Gaussian\] needs 4 b q < 1 for every variance q before it, given b = {b} and q = "
    kernel_fn = net(stax.Gaussian(1.0, b))
    for call in (kernel_fn, lambda x: kernel_fn(x[:2], x), kernel_fn.diagonal):
        with pytest.raises(ValueError, match=words) as error:
            call(x)
        found = float(re.search("q = (.*)$", str(error.value))[1])
        assert found == pytest.approx(largest, rel=1e-6)
    with pytest.raises(ValueError, match=words):
        dual.gaussian(dtype.type(largest), dtype.type(0), dtype.type(0.1), 1.0, b)


@pytest.mark.parametrize("b", [0.02, 0.3, 0.9])
def test_exponents_above_zero(b, dtype, backend):
    """Up to 0.9999 of the largest variance, also where an input of variance 1 would be refused."""
    layer = stax.Gaussian(1.3, b)
    share = np.array([1e-6, 0.01, 0.5, 0.9, 0.99, 0.9999])
    away = np.concatenate([[0.0], np.geomspace(1e-12, 1.0, 13)])
    q11, q22, away, sign = (
        v.ravel() for v in np.meshgrid(share / (4 * b), share / (4 * b), away, [-1.0, 1.0], indexing="ij")
    )
    q12 = sign * (1 - away) * np.sqrt(q11 * q22)
    q11, q12, q22 = (q.astype(dtype) for q in (q11, q12, q22))
    exact = oracles.dual(layer, q11, q12, q22)
    # What the nearness of the largest variance makes of a rounding of q, by the logarithms' slopes: q / (1 - 4 b q).
    room = 1 / np.maximum(1 - 4 * b * np.maximum(q11, q22).astype(np.float64), 1e-7)
    for found, wanted in zip(dual.dual(layer, q11, q12, q22), exact, strict=True):
        error = np.abs(found - wanted.high) / np.maximum(np.abs(wanted.high), np.finfo(dtype).tiny)
        assert np.max(error / room) < 8 * np.finfo(dtype).eps


def test_inputs_small_enough_are_taken(dtype, backend):
    layer, x = stax.Gaussian(1.0, 0.9), (0.3 * X).astype(dtype)
    kernel_fn = net(layer)
    state = oracles.network(
        [("dense", 1, 0.9, None, "ntk", (1, 1)), ("phi", layer), ("dense", 1, 1.0, None, "ntk", (1, 1))],
        oracles.inputs(x),
    )
    for kind, wanted in state.kernels().items():
        assert_close(kernel_fn(x, None, kind), wanted, f"{kind} 1", dtype)
