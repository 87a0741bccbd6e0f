"""Inputs that are multiples of one another, at any scale: what is left of 1 - |rho| is what unequal variances cost.

Nonlinearities near a power of x (erf of small numbers is linear, of large ones a sign) leave next to nothing; a Relu
behind them shows it, because its kdot falls with the square root.
"""

from __future__ import annotations

import functools

import image_oracle
import numpy as np
import oracles
import pytest
from fastntk import stax
from fastntk.network import activations
from helpers import assert_close
from images_inputs import Conv, Dense, Erf, Flatten, GlobalAvgPool, Relu, serial
from test_images import check as check_images
from test_kernels import build, check, dense, phi

BOTH = ("nngp", "ntk")
RATIOS = np.array([1, 1, 1 + 2.0**-20, 1.001, 1.3, 1.75, 2.8, 10, 1e3, 1e6, -1, -1.5, -40])
SCALES = (1e-12, 1e-6, 1e-3, 0.01, 0.1, 0.25, 0.5, 1.0, 10.0, 1e3, 1e6)

ERF, RELU = phi("erf"), phi("relu")
NETWORKS = {
    "erf": [dense(), ERF, dense()],
    "erf, relu": [dense(), ERF, dense(1.5), RELU, dense()],
    "erf, erf, leaky": [dense(0.5), ERF, dense(2.0), ERF, dense(), phi("leaky_relu"), dense()],
    "erf with a small bias": [dense(1.0, 1e-4), ERF, dense(1.0, 1e-4), RELU, dense()],
    "erf and relu, summed": [dense(), ("branches", [[ERF, dense()], [RELU, dense()]]), RELU, dense()],
    "leaky, nearly linear": [dense(), ("phi", stax.LeakyRelu(1 - 1e-5)), dense(), RELU, dense()],
    "abrelu, nearly linear": [dense(), ("phi", stax.ABRelu(1.0, 1.001)), dense(), ERF, dense(), RELU, dense()],
}


def multiples(scale, width, dtype):
    """Multiples of one vector, rounded to ``dtype``; in one dimension exactly multiples."""
    direction = np.random.default_rng(width).standard_normal(width) if width > 1 else np.ones(1)
    return (scale * RATIOS[:, None] * direction).astype(dtype)


@functools.cache
def exact(name, scale, width, dtype):
    x = multiples(scale, width, dtype)
    return oracles.network(NETWORKS[name], oracles.inputs(x)).kernels()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", NETWORKS)
def test_rows(name, scale, dtype, backend):
    found = build(NETWORKS[name]).kernel_fn(multiples(scale, 1, dtype), None, BOTH)
    check(found, exact(name, scale, 1, dtype.name), 1, dtype)


@pytest.mark.parametrize("scale", [1e-12, 0.1, 1.0])
def test_rows_of_many_features(scale, dtype, backend):
    found = build(NETWORKS["erf, relu"]).kernel_fn(multiples(scale, 50, dtype), None, BOTH)
    check(found, exact("erf, relu", scale, 50, dtype.name), 1, dtype)


@pytest.mark.parametrize("name", ["erf", "erf, relu", "erf, erf, leaky"])
def test_rows_on_cuda(name, dtype, cuda):
    """The text of devices, on the host."""
    kernel_fn = build(NETWORKS[name]).kernel_fn
    for scale in SCALES:
        found = kernel_fn(multiples(scale, 1, dtype), None, BOTH, backend="cuda")
        check(found, exact(name, scale, 1, dtype.name), 1, dtype)


@pytest.mark.parametrize("scale", SCALES)
def test_signs(scale, dtype, backend):
    """An odd network's covariance has the sign of the multiple."""
    found = build(NETWORKS["erf"]).kernel_fn(multiples(scale, 1, dtype), None, BOTH)
    for values in found:
        assert np.array_equal(np.sign(values), np.sign(np.outer(RATIOS, RATIOS)))


# ---------------------------------------------------------------- images

# Away from variances whose Erf leaves an angle that the long double oracle can tell neither from 0 nor exactly.
BRIGHT = (1.0, 1.0, 1.001953125, 1.375, 3.0, 48.0, 1024.0, -1.0, -2.5)
IMAGE_SCALES = (2.0**-40, 2.0**-5, 0.125, 0.25, 1.0)


def brighter(scale, dtype):
    """Copies of one image of few bits, of other brightness: in either dtype exact multiples."""
    one = np.round(np.random.default_rng(3).standard_normal((4, 3, 2)) * 64) / 64
    return (scale * np.array(BRIGHT)[:, None, None, None] * one).astype(dtype)


def network(readout):
    return serial(
        Conv(4, (3, 3), None, "SAME", 1.0), Erf(), Conv(4, (1, 1), None, "SAME", 1.2), Relu(), readout(), Dense(1)
    )


@functools.cache
def exact_images(readout, scale, dtype):
    return image_oracle.kernels(network(readout), brighter(scale, dtype))


@pytest.mark.parametrize("scale", IMAGE_SCALES)
@pytest.mark.parametrize("readout", [Flatten, GlobalAvgPool])
def test_images(readout, scale, dtype, backend):
    found = network(readout).kernel_fn(brighter(scale, dtype), None, BOTH)
    check_images(found, exact_images(readout, scale, dtype.name), dtype)


def test_images_on_cuda(dtype, cuda):
    for scale in IMAGE_SCALES:
        found = network(Flatten).kernel_fn(brighter(scale, dtype), None, BOTH, backend="cuda")
        check_images(found, exact_images(Flatten, scale, dtype.name), dtype)


# ---------------------------------------------------------------- the defect itself


def test_the_defect_of_erf():
    """``|sqrt(v') - exact|``, which is what a result can show, of variances from 1e-30 to 1e12 and any correlation."""
    mp = oracles.mp
    rng = np.random.default_rng(0)
    q1 = 10 ** rng.uniform(-30, 12, 600)
    q1[::2] = 10 ** rng.uniform(-4, 2, 300)
    q2 = q1 * (1 + 10 ** rng.uniform(-7, 4, 600))
    w = np.where(rng.random(600) < 0.5, 0, 10 ** rng.uniform(-15, 0, 600))
    erf = stax.Erf()
    x1, x2 = (activations.of_input(erf.rows(q)) for q in (q1, q2))
    v, _, kdot = erf.pair(activations.Correlation.of_defect(w), x1, x2)
    roots, slopes = [], []
    for a, b, c in zip(*([mp.mpf(value) for value in values.tolist()] for values in (q1, q2, w)), strict=True):
        x, y, det = 2 * a / (1 + 2 * a), 2 * b / (1 + 2 * b), a * b * c * (2 - c)
        roots.append(mp.sqrt(abs(1 - mp.asin((1 - c) * mp.sqrt(x * y)) / mp.sqrt(mp.asin(x) * mp.asin(y)))))
        slopes.append(4 / mp.pi / mp.sqrt(1 + 2 * a + 2 * b + 4 * det))
    assert (v >= 0).all()
    assert np.abs(np.sqrt(v) - np.array(roots, dtype=float)).max() <= 1e-13
    assert_close(kdot, oracles.Exact.of(slopes), "kdot", np.float64)
