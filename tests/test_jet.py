"""Numbers with derivatives: every rule against 50 digits, and what is refused."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from fastntk.base.jet import _SLOPES, Jet, over, slope_of, value_of
from scipy import special

mp = mpmath.MPContext()
mp.dps = 50

# NumPy's name: the same function in mpmath's, and where.
ONE = {
    "negative": (lambda x: -x, 0.3), "positive": (lambda x: x, 0.3), "square": (lambda x: x * x, -0.7),
    "sqrt": (mp.sqrt, 0.3), "cbrt": (mp.cbrt, 0.3), "reciprocal": (lambda x: 1 / x, -0.7), "exp": (mp.exp, 0.3),
    "exp2": (lambda x: mp.mpf(2) ** x, 0.3), "expm1": (mp.expm1, 1e-9), "log": (mp.log, 0.3), "log1p": (mp.log1p, -0.4),
    "sin": (mp.sin, 0.3), "cos": (mp.cos, 0.3), "tan": (mp.tan, 0.3), "sinh": (mp.sinh, 0.3), "cosh": (mp.cosh, 0.3),
    "tanh": (mp.tanh, 0.3), "arcsin": (mp.asin, 0.6), "arccos": (mp.acos, 0.6), "arctan": (mp.atan, 0.6),
    "absolute": (abs, -0.6), "fabs": (abs, -0.6), "erf": (mp.erf, 0.6), "erfc": (mp.erfc, 2.6),
    "erfcx": (lambda x: mp.exp(x * x) * mp.erfc(x), 0.6), "ndtr": (mp.ncdf, -0.6),
}  # fmt: skip
TWO = {
    "add": (lambda x, y: x + y, 0.3, -0.7), "subtract": (lambda x, y: x - y, 0.3, -0.7),
    "multiply": (lambda x, y: x * y, 0.3, -0.7), "divide": (lambda x, y: x / y, 0.3, -0.7),
    "power": (lambda x, y: x**y, 0.3, -0.7), "float_power": (lambda x, y: x**y, 0.3, 1.7),
    "arctan2": (mp.atan2, 0.3, -0.7), "hypot": (mp.hypot, 0.3, -0.7), "maximum": (max, 0.3, -0.7),
    "minimum": (min, 0.3, -0.7), "copysign": (lambda x, y: abs(x) if y > 0 else -abs(x), 0.3, -0.7),
}  # fmt: skip


def derivative(f, x):
    h = mp.mpf(10) ** -20
    return float((f(mp.mpf(x) + h) - f(mp.mpf(x) - h)) / (2 * h))


def named(name):
    return getattr(np, name, None) or getattr(special, name)


def test_every_rule_has_its_test():
    assert set(_SLOPES) == {*ONE, *TWO, "ldexp"}


@pytest.mark.parametrize("name", ONE)
def test_functions_of_one(name):
    f, x = ONE[name]
    found = named(name)(Jet(np.array([x]), {"x": np.array([2.0])}))
    assert np.array_equal(found.value, named(name)(np.array([x])))
    assert found.slopes["x"] == pytest.approx(2 * derivative(f, x), rel=1e-14)


@pytest.mark.parametrize("name", TWO)
def test_functions_of_two(name):
    f, x, y = TWO[name]
    by_x, by_y = derivative(lambda v: f(v, mp.mpf(y)), x), derivative(lambda v: f(mp.mpf(x), v), y)
    found = named(name)(Jet(x, {"x": 1.0, "t": 1.0}), Jet(y, {"y": 1.0, "t": 3.0}))
    assert value_of(found) == named(name)(x, y)
    assert slope_of(found, "x") == pytest.approx(by_x, rel=1e-14)
    assert slope_of(found, "y") == pytest.approx(by_y, rel=1e-14)
    assert slope_of(found, "t") == pytest.approx(by_x + 3 * by_y, rel=1e-14)
    assert slope_of(named(name)(Jet(x, {"x": 2.0}), y), "x") == pytest.approx(2 * by_x, rel=1e-14)
    assert slope_of(named(name)(x, Jet(y, {"y": 2.0})), "y") == pytest.approx(2 * by_y, rel=1e-14)


def test_arithmetic_of_arrays_and_numbers():
    x = Jet(np.array([1.5, 2.0]), {"x": np.ones(2)})
    for found, value, slope in (
        (2 - x, [0.5, 0], [-1, -1]),
        (x / 2 + x, [2.25, 3], [1.5, 1.5]),
        (3 / x, [2, 1.5], [-4 / 3, -0.75]),
        (x**3, [3.375, 8], [6.75, 12]),
        (x**2, [2.25, 4], [3, 4]),
        (2.0**x, [2**1.5, 4], [2**1.5 * math.log(2), 4 * math.log(2)]),
        (np.array([1.0, 2.0]) * x, [1.5, 4], [1, 2]),
        (np.float64(2) * x, [3, 4], [2, 2]),
        (-x, [-1.5, -2], [-1, -1]),
        (abs(-x), [1.5, 2], [1, 1]),
        (np.ldexp(x, 2), [6, 8], [4, 4]),
        (x[::-1].reshape(1, 2).T[:, 0], [2, 1.5], [1, 1]),
        (np.stack([x, x * x])[1], [2.25, 4], [3, 4]),
        (np.concatenate([np.zeros(1), x])[1:], [1.5, 2], [1, 1]),
        (np.einsum("i,j->i", x, x), [5.25, 7], [6.5, 7.5]),
        (np.clip(x, 0, 1.75), [1.5, 1.75], [1, 0]),
        (np.where([True, False], x, 7), [1.5, 7], [1, 0]),
        (x @ np.array([[1.0, 0.0], [2.0, 1.0]]), [5.5, 2], [3, 1]),
        (np.eye(2) @ x, [1.5, 2], [1, 1]),
        (np.broadcast_to(x.sum(), (2,)), [3.5, 3.5], [2, 2]),
    ):
        assert value_of(found) == pytest.approx(value)
        assert np.broadcast_to(slope_of(found, "x"), 2) == pytest.approx(slope)
    assert not np.any(x == 1)
    assert np.array_equal(x > 1.6, [False, True])
    assert np.array_equal(np.zeros_like(x), [0, 0])
    assert x.dtype == np.float64
    assert x.shape == (2,)
    assert len(x) == 2


def test_infinite_slopes_count_as_none():
    zero = Jet(np.zeros(1), {"x": np.ones(1)})
    for found in (np.sqrt(zero), zero**0.5, np.hypot(zero, 0.0), np.arcsin(1 - zero), np.arctan2(zero, zero)):
        assert slope_of(found, "x") == 0
    assert np.array_equal(over(np.array([1.0, 1.0]), np.array([0.0, 2.0])), [0, 0.5])


def test_a_number_that_moves_equals_no_other():
    moving, still = Jet(1.0, {"b": 1.0}), Jet(1.0, {})
    assert moving != 1
    assert (moving, still) != (1, 1)
    assert still == 1
    assert moving > 0.5
    assert moving
    assert not Jet(0.0, {"b": 1.0})


LOSING = {
    "math": math.sqrt, "float": float, "asarray": np.asarray, "reduce": np.add.reduce, "cumsum": np.cumsum,
    "nextafter": lambda x: np.nextafter(x, 1), "out": lambda x: np.add(x, 1, out=np.zeros(1)),
    "in place": lambda x: np.zeros(1).__iadd__(x),
}  # fmt: skip


@pytest.mark.parametrize("way", LOSING)
def test_no_derivative_is_lost_silently(way):
    with pytest.raises(TypeError, match="Jet"):
        LOSING[way](Jet(np.ones(1), {"x": np.ones(1)}))
