"""Functions of straight pieces with kinks anywhere: closed forms against integrals over the angle, on every backend."""

from __future__ import annotations

import functools
import math

import mpmath as mp
import numpy as np
import pytest
from fastntk import stax
from fastntk.network.activations import Correlation, of_input
from fastntk.network.activations.fitted import _in_pieces
from fastntk.network.activations.straight import Straight
from fastntk.network.tails import lens, tails
from helpers import note_error


def shifted(x):
    return np.maximum(x - 0.7, 0)


def hard_sigmoid(x):
    return np.clip(x / 6 + 0.5, 0, 1)


def well(x):
    return np.maximum(np.abs(x) - 0.5, 0)


def bent(x):
    return 0.2 * x + np.maximum(x, 0) - 0.5 * np.maximum(x - 1, 0) + 0.3 * np.maximum(x - 1.2, 0) + np.minimum(x + 1, 0)


LAYERS = {
    "hard_tanh": stax.HardTanh(), "relu6": stax.ReLU6(), "uneven": stax.HardTanh(-1.0, 0.5),
    "shifted": stax.Activation(shifted), "lifted": stax.Activation(lambda x: np.maximum(x + 0.7, 0)),
    "hard_sigmoid": stax.Activation(hard_sigmoid), "well": stax.Activation(well), "bent": stax.Activation(bent),
}  # fmt: skip


@pytest.mark.parametrize("h", [0.0, 1e-9, 0.3, 0.74, 0.76, 2.0, 6.0, 12.0, 30.0])
def test_tails(h):
    found = [float(part) for part in tails(np.array(h))]
    with mp.workdps(40):
        z = mp.mpf(h)
        density, P = mp.npdf(z), mp.erfc(z / mp.sqrt(2)) / 2
        expected = [P, density - z * P, (1 + z * z) * P - z * density]
    assert found == pytest.approx([float(part) for part in expected], rel=1e-12)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 2.0), (1e-4, 3.0), (0.3, 0.9), (2.5, 0.1), (1.0, 7.0)])
def test_what_the_angle_takes(alpha, beta):
    """The integrals over the angle, by Gauss's rule in many pieces."""
    w = np.array([1e-12, 1e-6, 1e-3, 0.1, 0.6, 1.0])
    less, bent_ = lens(w, np.full(6, alpha), np.full(6, beta))
    node, weight = np.polynomial.legendre.leggauss(32)
    ends = np.concatenate([[0.0], 2.0 ** np.arange(-40, 1)])
    width = np.diff(ends)[:, None]
    share, own = (ends[:-1, None] + (node + 1) / 2 * width).ravel(), (weight / 2 * width).ravel()
    t = 2 * np.arcsin(np.sqrt(w[:, None] / 2)) * share
    x = 2 * np.sin(t / 2) ** 2
    e = np.exp((alpha**2 + beta**2) / 8 - alpha**2 / (4 * x) - beta**2 / (4 * (2 - x)))
    e *= own * 2 * np.arcsin(np.sqrt(w[:, None] / 2)) / (2 * np.pi)
    np.testing.assert_allclose(less, e.sum(axis=1), rtol=1e-13, atol=1e-13)  # terms that are left out
    np.testing.assert_allclose(bent_ / w, (e * (w[:, None] - x)).sum(axis=1) / w, rtol=1e-13, atol=1e-13)


VARIANCES = [(1, 1), (1, 2), (1, 1 + 1e-7), (0.3, 9), (1, 1.44), (4, 4), (0.1, 0.1), (0.12, 3), (30, 31)]


@pytest.mark.parametrize("name", LAYERS)
def test_closed_forms_are_the_integrals(name):
    """At both ends of rho, of one variance and of two, of kinks that meet and of kinks that pass each other."""
    v = np.array([0.0, 1e-14, 1e-8, 1e-4, 1e-2, 0.1, 0.3, 0.7, 0.99, -1e-14, -1e-8, -1e-4, -0.01, -0.1, -0.5, -0.9])
    angular = _in_pieces(LAYERS[name])
    own = Straight.of(angular)
    tolerance = 1e-13 if name in ("hard_tanh", "relu6", "uneven", "bent") else 5e-12  # kinks that were found are rough
    for q1, q2 in VARIANCES:
        q = np.full(v.shape, float(q1)), np.full(v.shape, float(q2))
        found, exact = (
            phi.pair(Correlation.of_defect(v), *(of_input(phi.rows(one)) for one in q)) for phi in (own, angular)
        )
        for one in q:
            np.testing.assert_allclose(own.variance(one), angular.variance(one), rtol=tolerance)
            np.testing.assert_allclose(own.mean(one), angular.mean(one), rtol=tolerance, atol=tolerance)
        if name != "well":  # an even function: the integrals lose 1 - rho' at rho = -1
            np.testing.assert_allclose(np.sqrt(np.abs(found[0])), np.sqrt(np.abs(exact[0])), rtol=0, atol=tolerance)
            if q1 == q2:
                np.testing.assert_allclose(np.abs(found[0]), np.abs(exact[0]), rtol=10 * tolerance)
        np.testing.assert_allclose(found[1], exact[1], rtol=0, atol=tolerance)
        size = np.sqrt(np.prod([angular.pair(Correlation.of_defect(np.zeros(1)), of_input(angular.rows(one[:1])),
                                             of_input(angular.rows(one[:1])))[2][0] for one in q]))  # fmt: skip
        np.testing.assert_allclose(found[2], exact[2], rtol=0, atol=tolerance * size)


def test_an_even_function_keeps_its_digits_at_both_ends():
    own = Straight.of(_in_pieces(LAYERS["well"]))
    w, q = np.array([0.0, 1e-14, 1e-9, 1e-3, 0.4]), np.full(5, 1.3)
    rows = of_input(own.rows(q))
    near, far = (own.pair(Correlation.of_defect(sign * np.maximum(w, 1e-300)), rows, rows) for sign in (1, -1))
    np.testing.assert_allclose(near[0], far[0], rtol=1e-13)
    np.testing.assert_allclose(near[2], -far[2], rtol=1e-13)


# ---------------------------------------------------------------- networks


def inputs(dtype):
    x = np.random.default_rng(0).standard_normal((6, 8))
    x[1] = x[0] * (1 + 1e-6)
    x[2] = x[0] + 1e-5 * x[3]
    x[4] = -1.3 * x[0]
    x[5] *= 1.6
    return x.astype(dtype)


@functools.cache
def exact(name, dtype, depth, w2=1.2, b2=0.1):
    """NNGP and NTK of Dense, (phi, Dense) * depth, the nonlinearity by integrals over the angle."""
    phi, x = _in_pieces(LAYERS[name]), inputs(dtype).astype(np.float64)
    q, unit = (x * x).mean(axis=1), x / np.linalg.norm(x, axis=1, keepdims=True)
    near = unit @ unit.T >= 0
    apart = np.where(near[..., None], unit[:, None] - unit[None], unit[:, None] + unit[None])
    v, theta = np.where(near, 1, -1) * (apart**2).sum(-1) / 2, np.zeros((len(x), len(x)))
    for layer in range(depth + 1):
        if layer:
            rows = phi.rows(q)
            one, two = (of_input(rows, place) for place in ((slice(None), None), (None, slice(None))))
            v, _, kdot = phi.pair(Correlation.of_defect(v), one, two)
            q, theta = phi.variance(q), theta * kdot
        total = w2 * q + b2
        share, bias = np.sqrt(w2 * q / total), np.sqrt(b2 / total)
        nngp = w2 * np.outer(np.sqrt(q), np.sqrt(q)) * np.where(v < 0, -1 - v, 1 - v) + b2
        theta = w2 * theta + nngp
        p, steps = np.outer(share, share), (share[:, None] - share) ** 2 / 2 + (bias[:, None] - bias) ** 2 / 2
        minus = p * np.where(v < 0, 2 + v, v) + steps
        plus = p * np.where(v < 0, -v, 2 - v) + steps + 2 * np.outer(bias, bias)
        v, q = np.where(minus > 1, -plus, minus), total
    return nngp, theta


def stack(layer, depth):
    dense = stax.Dense(1, math.sqrt(1.2), math.sqrt(0.1))
    return stax.serial(dense, *([layer, dense] * depth))


def refused(kernel_fn, x, backend):
    """Whether a device leaves float32 of such variances to others, and says so."""
    if backend.startswith("cuda") and x.dtype == np.float32:
        try:
            kernel_fn(x, None, "ntk")
        except NotImplementedError as error:
            return "float32 keeps too few digits" in str(error)
    return False


def errors(found, expected):
    size = np.sqrt(np.diag(expected))
    return (np.abs(found - expected) / np.maximum(np.abs(expected), 0.5 * np.outer(size, size))).max()


@pytest.mark.parametrize("depth", [1, 10])
@pytest.mark.parametrize("name", LAYERS)
def test_networks(name, depth, dtype, backend):
    kernel_fn = stack(LAYERS[name], depth).kernel_fn
    if name in ("hard_tanh", "uneven") and refused(kernel_fn, inputs(dtype), backend):
        return
    kernel = kernel_fn(inputs(dtype), None, ("nngp", "ntk"))
    for kind, found, expected in zip(("nngp", "ntk"), kernel, exact(name, dtype.name, depth), strict=True):
        error = errors(found, expected)
        if name in ("hard_tanh", "relu6"):
            note_error(name, f"{kind} {depth}", dtype, backend, error)
        assert error < (2e-6 if dtype == np.float32 else 2e-12), error


def test_the_networks_of_the_test_can_tell(backend):
    """A kink a thousandth away."""
    kernel = stack(stax.HardTanh(-1.0, 1.001), 1).kernel_fn(inputs(np.float64), None, "ntk")
    assert errors(kernel, exact("hard_tanh", "float64", 1)[1]) > 1e-6


def test_bits_are_those_of_any_tile_and_order(dtype, backend):
    """Symmetric to the last bit, and the same for a pair alone, in a row and in a matrix."""
    x = np.random.default_rng(3).standard_normal((37, 5)).astype(dtype)
    kernel_fn = stack(LAYERS["bent"], 2).kernel_fn
    whole = kernel_fn(x, None, "ntk")
    np.testing.assert_array_equal(whole, whole.T)
    if backend.startswith("cpu"):  # the others' product is a BLAS's
        np.testing.assert_array_equal(kernel_fn(x, x.copy(), "ntk"), whole)
        np.testing.assert_array_equal(kernel_fn(x[3:5], x[:9], "ntk"), kernel_fn(x, None, "ntk")[3:5, :9])


def test_images(dtype, backend):
    """One position is a point: 1 x 1 convolutions with the same weights."""
    x = inputs(dtype)
    for act in (LAYERS["hard_tanh"], LAYERS["bent"]):
        conv = stax.Conv(1, (1, 1), W_std=1.1, b_std=0.3)
        image = stax.serial(conv, act, conv, act, stax.GlobalAvgPool(), stax.Dense(1))
        dense = stax.Dense(1, 1.1, 0.3)
        point = stax.serial(dense, act, dense, act, stax.Dense(1))
        if act is LAYERS["hard_tanh"] and refused(point.kernel_fn, x, backend):
            continue
        a, b = image.kernel_fn(x.reshape(6, 1, 1, 8), None, "ntk"), point.kernel_fn(x, None, "ntk")
        assert errors(a, b.astype(np.float64)) < (2e-6 if dtype == np.float32 else 1e-12)


def test_rows_of_zeros_and_nan(backend):
    x = np.array([[0.0, 0.0], [1.0, 2.0], [np.nan, 1.0], [1e-20, 0.0]])
    for name in ("hard_tanh", "relu6", "hard_sigmoid"):
        for found in stack(LAYERS[name], 1).kernel_fn(x, None, ("nngp", "ntk")):
            assert np.isnan(found[2]).all()
            assert np.isfinite(np.delete(np.delete(found, 2, 0), 2, 1)).all()


def test_where_digits_would_be_lost_integrals_stand():
    assert isinstance(stax.HardTanh().standing_for(0.5, 300.0, False), Straight)
    assert not isinstance(stax.HardTanh().standing_for(0.5, 4.0**9, False), Straight)
    rectifier = stax.Activation(shifted)
    assert isinstance(rectifier.standing_for(0.05, 4.0, False), Straight)
    assert not isinstance(rectifier.standing_for(0.01, 4.0, False), Straight)
    for layer, low, high, rough in (
        (stax.HardTanh(), 0.5, 2.0, False), (stax.HardTanh(), 0.5, 8.0, True),
        (rectifier, 0.1, 4.0, False), (rectifier, 0.05, 4.0, True),
    ):  # fmt: skip
        assert layer.standing_for(low, high, True).rough == rough
        assert not layer.standing_for(low, high, False).rough


@pytest.mark.parametrize("positions", ["none", "planes", "pairs"])
def test_large_variances_of_float32_are_computed_in_float64(positions, backend):
    x = 6 * inputs(np.float32)
    layers = [stax.Dense(1, 1.1, 0.3), stax.HardTanh(), stax.Dense(1)]
    if positions != "none":
        x = x.reshape(6, 2, 4)
        more = [stax.GlobalSelfAttention(4, 4, 4, 2, linear_scaling=True)] if positions == "pairs" else []
        layers = [stax.Conv(1, (1,), W_std=1.1, b_std=0.3), stax.HardTanh(), *more, stax.Flatten(), stax.Dense(1)]
    kernel_fn = stax.serial(*layers).kernel_fn
    if positions == "pairs" and backend.startswith("cuda"):
        with pytest.raises(NotImplementedError, match="GlobalSelfAttention"):
            kernel_fn(x, None, "ntk")
        return
    if refused(kernel_fn, x, backend):
        return
    for found, expected in zip(
        kernel_fn(x, None, ("nngp", "ntk")), kernel_fn(x.astype(np.float64), None, ("nngp", "ntk")), strict=True
    ):
        assert found.dtype == np.float32
        assert errors(found, expected) < 1.2e-7  # a rounding
