"""The dual maps against 100 digits: every registered nonlinearity, both ends of the correlation, every backend."""

from __future__ import annotations

import dataclasses
import functools

import fastntk
import helpers
import mpmath
import numpy as np
import oracles
import pytest
from fastntk import dual, stax
from fastntk.network.activations import NONLINEARITIES, Correlation, of_input
from helpers import assert_close
from tolerances import DUAL_FLOOR

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


def covariances(name, case, dtype):
    """A case's, by powers of two far within the variances that the nonlinearity has an answer for.

    Next to the largest an error of one rounding in a variance is hundreds in the result.
    """
    q11, q12, q22 = CASES[case](dtype)
    largest = oracles.example(name).largest_variance / 100
    h1, h2 = (2.0 ** -np.ceil(np.log2(np.maximum(q.astype(np.float64) / largest, 1)) / 2) for q in (q11, q22))
    return tuple(q.astype(dtype) for q in (q11 * h1 * h1, q12 * h1 * h2, q22 * h2 * h2))


def within_range(sizes, dtype):
    """Where what is to come is a normal number of the dtype with some room, or 0 everywhere."""
    limits = np.finfo(dtype)
    return np.all([(s == 0) | ((s > 4 * limits.tiny) & (s < limits.max / 4)) for s in sizes], axis=0)


@functools.cache
def exact(name, case, dtype):
    """The case's exact k and kdot, and for each the size that its errors are measured by."""
    layer = oracles.example(name)
    q11, q12, q22 = triples = covariances(name, case, dtype)
    found = dict(zip(("k", "kdot"), oracles.dual(layer, q11, q12, q22), strict=True))
    scales = oracles.dual_scales(layer, q11, q22)
    keep = within_range([*(size for _, size in scales.values()), *(abs(v.high) for v in found.values())], dtype)
    floors = {quantity: np.broadcast_to(floor, keep.shape)[keep] for quantity, (floor, _) in scales.items()}
    return tuple(q[keep] for q in triples), {quantity: value[keep] for quantity, value in found.items()}, floors


def test_every_registered_name_is_a_dual():
    assert set(NAMES) <= set(dir(dual))


def test_which_maps_owe_no_relative_accuracy():
    """Those of rectifiers that change sign where what they are made of does not vanish."""
    known = {"relu": set(), "leaky_relu": {"k"}, "abrelu": {"kdot"}, "abs": {"kdot"}, "erf": set()}
    for name, quantities in known.items():
        assert oracles.without_relative_accuracy(oracles.example(name)) == quantities
        for case in CASES:
            for dtype in (np.float32, np.float64):
                assert len(exact(name, case, np.dtype(dtype))[0][0]) == len(CASES[case](dtype)[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", CASES)
def test_dual_map(name, case, dtype, backend):
    triples, expected, floors = exact(name, case, dtype)
    found = dict(zip(("k", "kdot"), getattr(dual, name)(*triples, *NONLINEARITIES[name][1]), strict=True))
    for quantity, values in found.items():
        floor = np.maximum(floors[quantity], np.finfo(dtype).tiny)  # smaller numbers have fewer digits
        assert_close(values, expected[quantity], quantity, dtype, scale=floor, record=(name, backend))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1e-300, 1e-150, 1e-40, 1e40, 1e150, 1e300])
def test_far_units(name, size, backend):
    """float64 up to the ends of its range."""
    layer = oracles.example(name)
    q11, q12, q22 = size * np.array([[1, 1, 3, 2], [0.5, -1, 1, 0], [1, 1, 0.5, 2]])
    if size > layer.largest_variance:
        with pytest.raises(ValueError, match="variance"):
            dual.dual(layer, q11, q12, q22)
        return
    with oracles.mp.workdps(1000):
        exact = oracles.dual(layer, q11, q12, q22)
    if not within_range([np.abs(expected.high).max() for expected in exact], np.float64).all():
        return
    for values, expected in zip(dual.dual(layer, q11, q12, q22), exact, strict=True):
        assert_close(values, expected, "k", np.float64, scale=0.5 * np.abs(expected.high).max())


def test_the_largest_float32(backend):
    q = np.float32([1e36, 1e37, 1e38])
    for c in (q, -q, q / 2):
        for values, expected in zip(dual.erf(q, c, q), oracles.dual(stax.Erf(), q, c, q), strict=True):
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
        layer = oracles.example(name)
        triples = covariances(name, "next_to_one", np.float64)
        first = oracles.dual(layer, *triples)
        with oracles.mp.workdps(2 * oracles.mp.dps):
            second = oracles.dual(layer, *triples)
        for a, b in zip(first, second, strict=True):
            apart = np.abs((a.high - b.high) + (a.low - b.low))  # of two numbers that may be rounded apart
            assert (apart <= 1e-30 * np.abs(a.high) + 1e-60).all()


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


def check_quadrature(layer, point):
    """The closed form of a layer against integrals of its function."""
    if max(point[0], point[2]) > layer.largest_variance / 4:  # integrals of squares of what is just within range
        point = tuple(v * layer.largest_variance / 16 for v in point)
    exact = oracles.dual(layer, *([q] for q in point))
    sizes = [size for _, size in oracles.dual_scales(layer, [point[0]], [point[2]]).values()]
    for found, expected, size in zip(oracles.quadrature(layer, *point), exact, sizes, strict=True):
        if layer.jumps and size == 0:  # kdot counts as 0
            continue
        assert_close(np.array([found]), expected, "closed form", np.float64, scale=size)


@pytest.mark.parametrize("name", oracles.FUNCTIONS)
@pytest.mark.parametrize("point", POINTS)
def test_oracle_agrees_with_quadrature(name, point):
    check_quadrature(oracles.example(name), point)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("point", POINTS)
def test_kdot_is_the_slope_of_k(name, point):
    """Price 1958: in 100 digits."""
    mp, layer = oracles.mp, oracles.example(name)
    q11, q12, q22 = (mp.mpf(v) for v in point)
    step = mp.mpf(10) ** -40
    above, below = (oracles.covariance_dual(layer, q11, q12 + s, q22)[0] for s in (step, -step))
    kdot = oracles.covariance_dual(layer, q11, q12, q22)[1]
    if layer.jumps:
        assert kdot == 0
        return
    assert abs((above - below) / (2 * step) - kdot) <= 1e-15 * abs(kdot)


@pytest.mark.parametrize("name", oracles.FUNCTIONS)
def test_mean(name):
    """Against the integral of the function, half a line at a time."""
    layer = oracles.example(name)
    node, weight = np.polynomial.legendre.leggauss(50)
    z = (np.arange(16)[:, None] + (node + 1) / 2).ravel()
    density = np.tile(weight / 2, 16) * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    q = np.minimum(np.array([1e-20, 1e-3, 0.3, 1.0, 2.0, 7.0]), layer.largest_variance / 16)
    halves = [layer.apply((), side * np.sqrt(q)[:, None] * z, np) for side in (-1, 1)]
    a, b, c = layer.affine
    found = a * layer.mean(b**2 * q) + c
    size = np.sqrt(np.sum((halves[0] ** 2 + halves[1] ** 2) * density, axis=1))
    assert_close(found, np.sum((halves[0] + halves[1]) * density, axis=1), "closed form", np.float64, scale=size)


@pytest.fixture
def wrong_on_purpose(monkeypatch):
    """What is measured of it stays out of the session's table."""
    monkeypatch.setattr(helpers, "WORST", {})
    monkeypatch.setattr(helpers, "LARGEST_RATIO", {})


@dataclasses.dataclass(frozen=True, init=False)
class WrongForm(stax.Relu):
    """With a closed form that is wrong in the eleventh digit."""

    wrong: int = 0  # k or kdot

    def __init__(self, wrong):
        super().__init__()
        object.__setattr__(self, "wrong", wrong)

    def exact(self, q11, q12, q22, mp):
        found = list(super().exact(q11, q12, q22, mp))
        found[self.wrong] *= 1 + mp.mpf(10) ** -11
        return tuple(found)


@pytest.mark.parametrize("wrong", [0, 1])
@pytest.mark.parametrize("point", [point for point in POINTS if abs(point[1]) < 0.9])
def test_a_wrong_closed_form_is_caught(wrong, point, wrong_on_purpose):
    with pytest.raises(AssertionError, match="closed form in float64: error"):
        check_quadrature(WrongForm(wrong), point)


def wrong_by(pair, which, factor):
    """A class's `pair` with one of v', rho' and kdot multiplied by a number near 1."""

    def wrong(self, c, x1, x2):
        found = list(pair(self, c, x1, x2))
        found[which] = found[which] * factor
        return tuple(found)

    return wrong


@pytest.mark.parametrize("which", [1, 2])
def test_a_wrong_dual_is_caught(which, dtype, monkeypatch, wrong_on_purpose):
    """Twenty roundings off, on the backend whose formula can be exchanged."""
    monkeypatch.setattr(stax.Relu, "pair", wrong_by(stax.Relu.pair, which, 1 + 20 * np.finfo(dtype).eps))
    quantity = ("k", "kdot")[which - 1]
    with fastntk.options(backend="numpy"), pytest.raises(AssertionError, match=rf"{quantity} in {dtype}: error"):
        test_dual_map("relu", "grid", dtype, "wrong on purpose")


# ---------------------------------------------------------------- the defect itself


@functools.cache
def exact_defects(layer):
    """Variances of two inputs and signed defects, of all sizes, and what is exact of ``1 - |rho'|`` and ``rho'``."""
    rng, n = np.random.default_rng(0), 400
    q1 = 10 ** np.where(np.arange(n) % 2, rng.uniform(-4, 2, n), rng.uniform(-30, 4, n))
    q1 = np.minimum(q1, layer.largest_variance / 4)
    q2 = np.minimum(np.where(np.arange(n) % 3, q1 * (1 + 10 ** rng.uniform(-9, 3, n)), q1), layer.largest_variance / 2)
    v = rng.choice([-1, 1], n) * np.where(rng.random(n) < 0.2, 1e-30, 10 ** rng.uniform(-15, 0, n))
    mp = mpmath.MPContext()
    mp.dps = 200
    triples, wanted = [], []
    for triple in zip(q1.tolist(), q2.tolist(), v.tolist(), strict=True):
        a, b, defect = (mp.mpf(value) for value in triple)
        c = mp.sign(defect) * (1 - abs(defect)) * mp.sqrt(a * b)
        k, k1, k2 = (layer.exact(*qs, mp)[0] for qs in ((a, c, b), (a, a, a), (b, b, b)))
        rho = k / mp.sqrt(k1 * k2)
        if min(k1, k2) > 1e-250 and max(k1, k2) < 1e250:
            triples.append(triple)
            wanted.append((float(1 - abs(rho)), float(rho)))
    return *np.array(triples).T, *np.array(wanted).T


def check_defect(layer):
    """v' of the definition: relative to itself for equal variances; ``sqrt(v')``, which a result can show, for any."""
    q1, q2, v, w, rho = exact_defects(layer)
    x1, x2 = (of_input(layer.rows(q)) for q in (q1, q2))
    found, found_rho, _ = layer.pair(Correlation.of_defect(v), x1, x2)
    assert len(v) > 100
    assert (np.sign(found) == np.sign(rho))[np.abs(rho) > 1e-12].all()
    assert_close(found_rho, rho, "defect", np.float64, scale=1.0)
    angle = np.sqrt(np.abs(found))
    assert_close(angle, np.sqrt(w), "defect", np.float64, scale=1.0)
    same = (q1 == q2) & (rho > -0.5)
    assert_close(np.abs(found)[same], w[same], "defect", np.float64)


@pytest.mark.parametrize("name", NAMES)
def test_defect(name):
    check_defect(oracles.example(name))


def test_a_wrong_defect_is_caught(monkeypatch, wrong_on_purpose):
    monkeypatch.setattr(stax.Erf, "pair", wrong_by(stax.Erf.pair, 0, 1 + 1e-12))
    with pytest.raises(AssertionError, match="defect in float64: error"):
        check_defect(stax.Erf())


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
    """``a erf(b x) + c``."""
    layer = stax.Erf(*scales)
    q11, q12, q22 = (q[::7] for q in grid(dtype))
    exact_k, exact_kdot = oracles.dual(layer, q11, q12, q22)
    found_k, found_kdot = dual.erf(q11, q12, q22, *scales)
    bare = stax.Erf(*scales[:2])
    floor = DUAL_FLOOR * oracles.dual_scales(bare, q11, q22)["k"][1]
    assert_close(found_k, exact_k, "k", dtype, scale=floor if scales[2] else 0.0)
    assert_close(found_kdot, exact_kdot, "kdot", dtype)


@pytest.mark.parametrize("scales", [(1.5, 0.7, 0.2), (-2.0, -0.5, 0.0)])
def test_scales_and_offset_agree_with_quadrature(scales):
    for point in POINTS:
        check_quadrature(stax.Erf(*scales), point)
