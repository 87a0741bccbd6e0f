"""The dual maps against 100 digits: every registered nonlinearity, both ends of the correlation, every backend."""

from __future__ import annotations

import functools

import numpy as np
import oracles
import pytest
from fastntk import dual
from fastntk.network.activations import NONLINEARITIES
from helpers import assert_close
from tolerances import CROSSES_ZERO, DUAL_FLOOR

NAMES = list(NONLINEARITIES)


def grid(dtype):
    """Covariances of all sorts, flat and of this dtype: what rounding makes of q12 is the oracle's input too."""
    variances = np.array([1e-2, 0.3, 1.0, 7.0, 1e2])
    away = np.concatenate([[0.0], np.geomspace(1e-15, 1.0, 61)])  # 1 - |rho|
    q11, q22, away, sign = (a.ravel() for a in np.meshgrid(variances, variances, away, [-1.0, 1.0]))
    q12 = sign * (1 - away) * np.sqrt(q11 * q22)
    return tuple(q.astype(dtype) for q in (q11, q12, q22))


def next_to_one(dtype):
    """Fibonacci numbers: ``F(n-1) F(n+1) - F(n)^2 = +-1``, as close to rho = 1 as integers come, on either side.

    Beyond it by rounding alone: small ones past the bound are refused.
    """
    digits = np.finfo(dtype).nmant + 1
    F = [1, 1]
    while F[-1] + F[-2] < 2**digits:
        F.append(F[-1] + F[-2])
    near = [b * b <= a * c or b > np.finfo(dtype).eps ** -0.25 for a, b, c in zip(F, F[1:], F[2:], strict=False)]
    triples = [(a, b, c) for a, b, c, kept in zip(F, F[1:], F[2:], near, strict=False) if kept]
    q11, q12, q22 = (np.array(q, dtype=np.float64) for q in zip(*triples, strict=True))
    size = 2.0 ** np.round(np.log2(q12))  # a power of two: exact
    q11, q12, q22 = q11 / size, q12 / size, q22 / size
    return tuple(np.concatenate([q, s * q]).astype(dtype) for q, s in ((q11, 1), (q12, -1), (q22, 1)))


def beyond_one(dtype):
    """q12 a few roundings past ``sqrt(q11 q22)``: counts as the bound."""
    rng = np.random.default_rng(1)
    q11, q22 = np.exp(rng.uniform(np.log(1e-2), np.log(1e2), (2, 200))).astype(dtype)
    steps = rng.integers(1, 8, 200)
    q12 = np.sqrt(q11.astype(np.float64) * q22).astype(dtype) * (1 + steps * np.finfo(dtype).eps).astype(dtype)
    return q11, q12 * rng.choice([-1, 1], 200).astype(dtype), q22


def zero_variance(dtype):
    q11 = np.array([0, 0, 1.5, 0, 0.25], dtype=dtype)
    q22 = np.array([0, 2.5, 0, 1e2, 0], dtype=dtype)
    return q11, np.zeros(5, dtype), q22


def any_units(dtype):
    """Variances from 1e-22 to 1e22, alike and apart: relu's k at rho = -1 stays in float32's range."""
    rng = np.random.default_rng(2)
    q11, q22 = 10.0 ** rng.uniform(-22, 22, (2, 300))
    q22[::2] = q11[::2] * 10.0 ** rng.uniform(-1, 1, 150)
    rho = rng.choice([-1, 1], 300) * (1 - rng.choice([0.0, 1e-9, 1e-4, 0.3, 1.0], 300))
    return tuple(q.astype(dtype) for q in (q11, rho * np.sqrt(q11) * np.sqrt(q22), q22))


CASES = {make.__name__: make for make in (grid, next_to_one, beyond_one, zero_variance, any_units)}


@functools.cache
def exact(name, case, dtype):
    """The case's exact k and kdot, and for each the size that its errors are measured by."""
    args = NONLINEARITIES[name][1]
    q11, q12, q22 = CASES[case](dtype)
    found = dict(zip(("k", "kdot"), oracles.dual(name, args, q11, q12, q22), strict=True))
    scales = {}
    for quantity in found:
        scales[quantity] = 0.0
        if (quantity, name) in CROSSES_ZERO:
            ends = [oracles.dual(name, args, q, q, q)[quantity == "kdot"].high for q in (q11, q22)]
            scales[quantity] = DUAL_FLOOR * np.sqrt(ends[0] * ends[1])
    return found, scales


def test_every_registered_name_has_an_oracle():
    assert set(oracles.DUALS) == set(oracles.PHI) == set(NAMES)
    assert set(NAMES) <= set(dir(dual))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", CASES)
def test_dual_map(name, case, dtype, backend):
    expected, scales = exact(name, case, dtype)
    found = dict(zip(("k", "kdot"), getattr(dual, name)(*CASES[case](dtype), *NONLINEARITIES[name][1]), strict=True))
    for quantity, values in found.items():
        assert_close(values, expected[quantity], quantity, dtype, scale=scales[quantity], record=(name, backend))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1e-300, 1e-150, 1e-40, 1e40, 1e150, 1e300])
def test_far_units(name, size, backend):
    """float64 up to the ends of its range."""
    args = NONLINEARITIES[name][1]
    q11, q12, q22 = size * np.array([[1, 1, 3, 2], [0.5, -1, 1, 0], [1, 1, 0.5, 2]])
    found = getattr(dual, name)(q11, q12, q22, *args)
    with oracles.mp.workdps(1000):
        exact = oracles.dual(name, args, q11, q12, q22)
    for values, expected in zip(found, exact, strict=True):
        assert_close(values, expected, "k", np.float64, scale=0.5 * np.abs(expected.high).max())


def test_the_largest_float32(backend):
    q = np.float32([1e36, 1e37, 1e38])
    for c in (q, -q, q / 2):
        for values, expected in zip(dual.erf(q, c, q), oracles.dual("erf", (), q, c, q), strict=True):
            assert_close(values, expected, "k", np.float32)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("q", [(1.0, 1.0, 0.4), (1.0, -1.5, 1.0), (2.0, 2.1, 2.0), (1e300, 1e300, 1e290), (0, 0.5, 1)])
def test_a_covariance_out_of_bounds_is_refused(name, q, backend):
    args = NONLINEARITIES[name][1]
    with pytest.raises(ValueError, match=rf"\[{name}\] q12 must lie within sqrt\(q11 q22\) of 0, given q11 = .*order"):
        getattr(dual, name)(*q, *args)
    with pytest.raises(ValueError, match=r"at \(1, 0\)"):
        getattr(dual, name)([[1.0], [q[0]]], [[0.0], [q[1]]], [[1.0], [q[2]]], *args)


@pytest.mark.parametrize(
    "q", [(np.float32(1), np.float32(1.0002), np.float32(1)), (1.0, 1 + 1e-8, 1.0), (0.0, 1e-160, 1.0)]
)
def test_rounding_is_not_refused(q, backend):
    k, kdot = dual.relu(*q)
    assert np.isfinite([k, kdot]).all()


@pytest.mark.parametrize("name", NAMES)
def test_out_of_bounds_on_a_device_is_nan(name, dtype, cuda):
    q11, q12, q22 = (cuda.cupy.asarray(np.array(q, dtype)) for q in ([1, 1, 1], [1.5, -1.1, 0.9], [1, 1, 1]))
    for found in getattr(dual, name)(q11, q12, q22, *NONLINEARITIES[name][1]):
        assert np.isnan(found.get()).tolist() == [True, True, False]


def test_the_oracle_has_digits_to_spare():
    """The hardest covariances again with twice the digits."""
    for name in NAMES:
        args = NONLINEARITIES[name][1]
        triples = next_to_one(np.float64)
        first = oracles.dual(name, args, *triples)
        with oracles.mp.workdps(2 * oracles.mp.dps):
            second = oracles.dual(name, args, *triples)
        for a, b in zip(first, second, strict=True):
            assert np.array_equal(a.high, b.high)


def test_the_hard_cases_are_what_they_say():
    for dtype in (np.float32, np.float64):
        q11, q12, q22 = (np.array([oracles.mp.mpf(float(v)) for v in q]) for q in next_to_one(dtype))
        distance = q11 * q22 - q12**2
        assert (distance > 0).any()
        assert (distance < 0).any()
        assert min(abs(distance / (q11 * q22))) < np.finfo(dtype).eps ** 1.9
        q11, q12, q22 = (q.astype(np.float64) for q in beyond_one(dtype))
        assert (np.abs(q12) > np.sqrt(q11 * q22)).mean() > 0.9


# The oracle's own proof: formulas against integrals of phi itself.
POINTS = [(1.0, 0.5, 2.0), (0.3, -0.2, 0.7), (2.0, 0.0, 1.0), (1.0, 0.97, 1.0), (1.0, -0.999, 1.1), (0.01, 0.05, 4.0)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("point", POINTS)
def test_oracle_agrees_with_quadrature(name, point):
    args = NONLINEARITIES[name][1]
    k, kdot = oracles.quadrature(name, args, *point)
    exact_k, exact_kdot = oracles.dual(name, args, *([q] for q in point))
    for found, exact, which in ((k, exact_k, 0), (kdot, exact_kdot, 1)):
        ends = [oracles.dual(name, args, [q], [q], [q])[which].high for q in (point[0], point[2])]
        assert_close(np.array([found]), exact, "closed form", np.float64, scale=np.sqrt(ends[0] * ends[1]))


# k and kdot at q11 = 1, q22 = 2, q12 = 0.5, as tabulated from two-dimensional quadrature.
PRINTED = {
    "relu": ((), 0.364298881694223, 0.307513364040654),
    "leaky_relu": ((0.1,), 0.345082094172321, 0.349085824872930),
    "abs": ((), 0.957195526776893, 0.230053456162616),
    "erf": ((), 0.166257971481190, 0.340287581977929),
}


@pytest.mark.parametrize("name", PRINTED)
def test_printed_values(name, backend):
    args, k, kdot = PRINTED[name]
    found_k, found_kdot = getattr(dual, name)(1.0, 0.5, 2.0, *args)
    assert_close(found_k, k, "printed", np.float64)
    assert_close(found_kdot, kdot, "printed", np.float64)


@pytest.mark.parametrize("scales", [(1.5, 0.7, 0.2), (-2.0, -0.5, 0.0)])
def test_scaled_erf(scales, dtype, backend):
    """``a erf(b x) + c``, with the oracle's algebra: covariances times b^2, results times a^2, plus c^2."""
    a, b, c = (oracles.mp.mpf(v) for v in scales)
    q11, q12, q22 = grid(dtype)
    some = slice(None, None, 7)
    exact_k, exact_kdot = [], []
    for q in zip(q11[some], q12[some], q22[some], strict=True):
        k, kdot = oracles.erf(*(b**2 * oracles.mp.mpf(float(v)) for v in q))
        exact_k.append(a**2 * k + c**2)
        exact_kdot.append((a * b) ** 2 * kdot)
    found_k, found_kdot = dual.erf(q11[some], q12[some], q22[some], *scales)
    ends = [oracles.dual("erf", (), b**2 * q, b**2 * q, b**2 * q)[0].high for q in (q11[some], q22[some])]
    floor = DUAL_FLOOR * float(a) ** 2 * np.sqrt(ends[0] * ends[1])
    assert_close(found_k, oracles.Exact.of(exact_k), "k", dtype, scale=floor if scales[2] else 0.0)
    assert_close(found_kdot, oracles.Exact.of(exact_kdot), "kdot", dtype)
