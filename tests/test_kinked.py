"""A user's functions with kinks anywhere, through whatever stands for them: against integrals over the plane."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fastntk import stax
from fastntk.network.activations import Correlation, of_input
from fastntk.network.activations.fitted import _in_pieces
from fastntk.network.activations.pieces import Pieces
from fastntk.network.activations.spline import Spline

FUNCTIONS = {
    "relu": (lambda x: np.maximum(x, 0), [0.0]),
    "abs": (np.abs, [0.0]),
    "leaky and lifted": (lambda x: np.where(x > 0, x, 0.25 * x) + 0.3, [0.0]),
    "relu squared": (lambda x: np.maximum(x, 0) ** 2, [0.0]),
    "relu cubed": (lambda x: np.maximum(x, 0) ** 3, [0.0]),
    "x abs": (lambda x: x * np.abs(x), [0.0]),
    "elu": (lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), [0.0]),
    "hard swish": (lambda x: x * np.clip(x + 3, 0, 6) / 6, [-3.0, 3.0]),
    "hard sigmoid": (lambda x: np.clip(x / 6 + 0.5, 0, 1), [-3.0, 3.0]),
    "shrink": (lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0), [-0.5, 0.5]),
    "cube, cut": (lambda x: np.clip(x, -1, 1) ** 3, [-1.0, 1.0]),
    "bump": (lambda x: np.maximum(1 - np.abs(x), 0) ** 2, [-1.0, 0.0, 1.0]),
    "shifted and squared": (lambda x: np.maximum(x - 1, 0) ** 2, [1.0]),
    "squared between": (lambda x: np.where(x < -2, 0, np.where(x > 2, x, (x + 2) ** 2 / 8)), [-2.0, 2.0]),
    "cubic spline": (
        lambda x: sum(c * np.maximum(x - k, 0) ** 3 for k, c in enumerate((1, -4, 6, -4, 1))), [0.0, 1.0, 2.0, 3.0, 4.0]
    ),
}  # fmt: skip
CURVED = {
    "tanh, cut": (lambda x: np.where(x > 1, math.tanh(1), np.tanh(x)), [1.0]),
    "line, then log": (lambda x: np.where(x > 1, 1 + np.log(np.maximum(x, 1)), x), [1.0]),
}


def plane(f, q1, q2, rho, kinks, panels=12):
    """``E f(u) f(v)``, Gauss's rule in u between kinks, in v given u between kinks too."""
    s1, s2, rest = math.sqrt(q1), math.sqrt(q2), math.sqrt((1 - rho) * (1 + rho))
    node, weight = np.polynomial.legendre.leggauss(24)

    def rule(ends):
        ends = np.sort(np.clip(ends, -9, 9), axis=0)
        half = np.diff(ends, axis=0)[:, None] / 2
        shape = (-1, *(1,) * (ends.ndim - 1))
        z = (ends[:-1, None] + half * (node.reshape(shape) + 1)).reshape(-1, *ends.shape[1:])
        return z, (half * weight.reshape(shape)).reshape(z.shape) * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    coarse = np.linspace(-9, 9, panels + 1)
    if rest < 1e-12:
        z, w = rule(np.concatenate([coarse, [k / s for k in kinks for s in (s1, s2)]]))
        return float((w * f(s1 * z) * f(math.copysign(s2, rho) * z)).sum())
    steps = np.array([-8, -4, -2, -1, 0, 1, 2, 4, 8]) * rest
    z, w = rule(np.concatenate([coarse, *([k / s1] for k in kinks), *((k / s2 + steps) / rho for k in kinks)]))
    meet = [(k / s2 - rho * z) / rest for k in kinks]
    y, own = rule(np.stack([*(np.full_like(z, end) for end in coarse), *meet]))
    return float((w * f(s1 * z) * (own * f(s2 * (rho * z + rest * y))).sum(axis=0)).sum())


@pytest.mark.parametrize("name", [name for name in (*FUNCTIONS, *CURVED) if name != "cubic spline"])
def test_kernels(name, dtype):
    f, kinks = (FUNCTIONS | CURVED)[name]
    net = stax.serial(stax.Dense(1), stax.Activation(f, name=name), stax.Dense(1))
    for q1, q2, rho in ((1, 1, 0.3), (1, 2, 0.999999), (1, 2, -0.5), (0.25, 3.9, 0.3), (15, 9, 0.9)):
        x1 = np.array([[math.sqrt(2 * q1), 0]]).astype(dtype)
        x2 = (math.sqrt(2 * q2) * np.array([[rho, math.sqrt(1 - rho * rho)]])).astype(dtype)
        a, b = x1.astype(np.float64), x2.astype(np.float64)
        own1, own2 = (a * a).mean(), (b * b).mean()
        exact = plane(f, own1, own2, (a * b).mean() / math.sqrt(own1 * own2), kinks)
        size = math.sqrt(plane(f, own1, own1, 1.0, kinks) * plane(f, own2, own2, 1.0, kinks))
        found = float(net.kernel_fn(x1, x2, "nngp")[0, 0])
        assert abs(found - exact) <= (2e-6 if dtype == np.float32 else 1e-12) * max(abs(exact), size / 2)


@pytest.mark.parametrize(
    "name", ["hard swish", "relu cubed", "cube, cut", "bump", "squared between", "cubic spline", "shifted and squared"]
)
def test_splines_are_what_the_plane_gives(name):
    """At both ends of rho, of one variance and of two."""
    f, kinks = FUNCTIONS[name]
    layer = stax.Activation(f, name=name)
    own = _in_pieces(layer)
    assert isinstance(own, Spline)
    assert [kink.place for kink in layer.kinks()] == pytest.approx(kinks, abs=1e-4)
    pieces = Pieces(layer, layer.kinks())
    v = np.array([0.0, 1e-10, 0.01, 0.9, -1e-10, -0.3])
    for q in ((1.0, 1.0), (1.0, 1 + 1e-7), (0.5, 1.5)):
        assert own.keeps(min(q), max(q))
        found, exact = (
            phi.pair(Correlation.of_defect(v), *(of_input(phi.rows(np.full(v.shape, one))) for one in q))
            for phi in (own, pieces)
        )
        slope = np.sqrt(np.prod([
            pieces.pair(Correlation.of_defect(np.zeros(1)), *[of_input(pieces.rows(np.array([one])))] * 2)[2]
            for one in q
        ]))  # fmt: skip
        np.testing.assert_allclose(found[1], exact[1], rtol=0, atol=2e-13)
        np.testing.assert_allclose(np.sqrt(np.abs(found[0])), np.sqrt(np.abs(exact[0])), rtol=0, atol=2e-13)
        np.testing.assert_allclose(found[2], exact[2], rtol=0, atol=2e-13 * slope)


def test_a_spline_says_where_its_pieces_cancel():
    own = _in_pieces(stax.Activation(FUNCTIONS["cube, cut"][0]))
    assert own.keeps(0.5, 1.5)
    assert not own.keeps(50.0, 60.0)


def test_a_kink_at_0_beyond_what_series_reach():
    """Float64 of large variances: the plane, where no series keeps 1e-12."""
    layer = stax.Softsign()
    net = stax.serial(stax.Dense(1), layer, stax.Dense(1))
    x1, x2 = np.array([[5.0, 1.0]]), np.array([[-1.0, 6.0]])
    q1, q2 = (x1 * x1).mean(), (x2 * x2).mean()
    exact = plane(lambda x: layer.phi(x, np), q1, q2, (x1 * x2).mean() / math.sqrt(q1 * q2), [0.0], 60)
    assert float(net.kernel_fn(x1, x2, "nngp")[0, 0]) == pytest.approx(exact, rel=1e-11)


REFUSED = [
    (lambda: stax.Activation(lambda x: x / np.linalg.norm(x)), "must act on each entry alone"),
    (lambda: stax.Activation(lambda x: np.tanh(x).astype(np.float32)), "must keep float64, given float32"),
    (lambda: stax.Activation(np.tanh, np.tanh), "dfn must be the derivative of fn, given .* has the slope"),
    (lambda: stax.Activation(lambda x: np.clip(x, -1, 1), breaks=[-1.0]).kinks(), "has kinks beside those of breaks"),
    (lambda: stax.Activation(lambda x: np.abs(x) ** 1.5).kinks(), "not smooth on both sides of x = 0"),
    (lambda: stax.Activation(np.floor).kinks(), "jumps at x = -31:"),
    (lambda: stax.Activation(lambda x: np.where(x > 2, x + 1e-3, x)).kinks(), "jumps at x = 2:"),
]


@pytest.mark.parametrize(("make", "words"), REFUSED)
def test_refused(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make()


def test_a_function_that_is_0(dtype, backend):
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(dtype)
    net = stax.serial(stax.Dense(1), stax.Activation(np.zeros_like), stax.Dense(1))
    found = net.kernel_fn(x, None, ("nngp", "ntk"))
    assert not any(part.any() for part in found)


def test_what_nngp_fn_gives_is_looked_at():
    net = stax.serial(stax.Dense(1), stax.Elementwise(None, lambda c, a, b: c / 0.0, lambda c, a, b: c), stax.Dense(1))
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="nngp_fn must be finite, given inf at q12 = "):
        net.kernel_fn(np.ones((1, 2)), None, "nngp", backend="numpy")


@pytest.mark.parametrize("layer", [stax.Exp(1.0, 3.0), stax.Monomial(9), stax.Polynomial([0.0] * 9 + [1.0])])
def test_results_beyond_float32_are_refused(layer):
    """Not infinite, and not NaN where one is multiplied by 0; float64 holds them."""
    x = np.random.default_rng(0).standard_normal((4, 6)) * (5.0 if isinstance(layer, stax.Exp) else 1e5)
    net = stax.serial(stax.Dense(1), layer, stax.Dense(1))
    with pytest.raises(
        ValueError, match=rf"\[{type(layer).__name__}\] the variance of an output is .* float32 ends at"
    ):
        net.kernel_fn(x.astype(np.float32), None, ("nngp", "ntk"))
    assert np.isfinite(net.kernel_fn(x, None, "nngp")).all()
    assert np.isfinite(net.kernel_fn((x / 1e5).astype(np.float32), None, "nngp")).all()
