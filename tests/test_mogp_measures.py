"""mogp: Levy measures, their functions against quadrature, their samplers against both, and what pruning loses."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import mpmath
import numpy as np
import pytest

pytest.importorskip("scipy")
from fastntk.mogp import (
    GBFRY,
    Bernoulli,
    Beta,
    GeneralizedGamma,
    Horseshoe,
    Iid,
    InverseGamma,
    RegularizedHorseshoe,
    Stable,
    Sum,
    prune_error,
)
from scipy import special, stats
from scipy.integrate import quad

WITH_DENSITY = [
    Beta(1.0), Beta(3.5), Horseshoe(), RegularizedHorseshoe(1.0), RegularizedHorseshoe(4.0), Stable(0.3), Stable(0.8),
    GeneralizedGamma(0.5), GeneralizedGamma(0.3, 2.0, 0.8), GBFRY(0.5, 2.0), GBFRY(0.8, 5.0, 0.4), GBFRY(0.3, 1.5),
    InverseGamma(0.6),
]  # fmt: skip
ALL = [*WITH_DENSITY, Iid(1.3), Bernoulli(4.0), Bernoulli(2.0, 0.3), InverseGamma(2.0), Iid(0.5) + Beta(2.0),
       Bernoulli(2.0) + Beta(1.0) + Bernoulli(1.0)]  # fmt: skip
JUMPING = [m for m in ALL if m.mass > 0]


def name(value):
    return repr(value)


def density(m):
    """The Levy density, written anew, and the end of its support."""
    if isinstance(m, Beta):
        return lambda w: m.eta / 2 / w / math.sqrt(1 - w), 1.0
    if isinstance(m, Horseshoe):
        return lambda w: w**-1.5 / 2, math.inf
    if isinstance(m, RegularizedHorseshoe):
        return lambda w: w**-1.5 / math.pi / math.sqrt(1 - m.c * w), 1 / m.c
    if isinstance(m, Stable):
        return lambda w: m.alpha * w ** (-1 - m.alpha), math.inf
    if isinstance(m, InverseGamma):
        return lambda w: m.k / math.gamma(m.k + 1) * w ** (-1 - m.k), math.inf
    if isinstance(m, GeneralizedGamma):
        front = m.mu * m.beta ** (1 - m.alpha) / math.gamma(1 - m.alpha)
        return lambda w: front * w ** (-1 - m.alpha) * math.exp(-m.beta * w), math.inf
    c, s = m.mu * (m.tau - 1) / (m.tau - m.alpha), m.tau - m.alpha
    front = s / math.gamma(1 - m.alpha) / c

    def of_gbfry(w):
        x = w / c
        if x < 1:  # gamma(s, x) = x^s 1F1(s, s + 1, -x) / s
            return front * x ** (-1 - m.alpha) * special.hyp1f1(s, s + 1, -x) / s
        return front * x ** (-1 - m.tau) * special.gammainc(s, x) * math.gamma(s)

    return of_gbfry, math.inf


def integral(m, f, low=0.0, high=math.inf, near=1.0, far=0.0):
    """``int_low^high f(w) rho(dw)`` by quadrature in log w; near the support's end in the root of the distance.

    f is of order ``w^near`` at 0 and ``w^far`` at infinity.
    """
    rho, end = density(m)
    alpha = {Beta: 0.0, Horseshoe: 0.5, RegularizedHorseshoe: 0.5, InverseGamma: getattr(m, "k", None)}.get(type(m))
    alpha = m.alpha if alpha is None else alpha
    high = min(high, end)
    cut = high if high < end or end == math.inf else max(low, end / 2)
    if cut < math.inf:
        stop = math.log(cut)
    elif isinstance(m, GeneralizedGamma):
        stop = math.log(700 / m.beta)
    else:
        stop = 40 / (getattr(m, "tau", alpha) - far)
    edges = [*np.arange(math.log(low) if low > 0 else -40 / (near - alpha), stop, 4.0), stop]
    pieces = [
        quad(lambda u: f(math.exp(u)) * (rho(math.exp(u)) * math.exp(u)), a, b, epsabs=1e-300, epsrel=1e-11)[0]
        for a, b in pairwise(edges)
    ]
    if cut < high:
        inner = lambda r: 2 * r * f(end - r * r) * rho(end - r * r)  # noqa: E731
        pieces.append(quad(inner, 0, math.sqrt(end - cut), epsabs=0, epsrel=1e-11)[0])
    return math.fsum(pieces)


# ---------------------------------------------------------------- measures: functions


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (GeneralizedGamma(0.5), (6.1379, 1.0116, 0.19628)),
        (GBFRY(0.5, 2.0), (5.1315, 0.9183, 0.2205)),
        (GBFRY(0.8, 5.0), (5.3431, 0.5336, 0.0874)),
        (Beta(1.0), (2.6441, 1.4436, 0.6151)),
        (RegularizedHorseshoe(1.0), (4.4563, 1.2732, 0.4168)),
    ],
    ids=name,
)
def test_tails_at_three_points(measure, expected):
    found = measure.tail(np.array([0.02, 0.2, 0.7]))
    np.testing.assert_allclose(found, expected, rtol=0, atol=5.1e-5)  # printed digits
    assert found[2] == pytest.approx(expected[2], abs=5.1e-5 if expected[2] != 0.19628 else 5.1e-6)


@pytest.mark.parametrize("measure", WITH_DENSITY, ids=name)
def test_tail_density_and_small_mean_by_quadrature(measure):
    end = density(measure)[1]
    for w in (1e-6, 0.01, 0.2, 0.24, 0.7, 30.0):
        if w < end:
            assert measure.density(w) == pytest.approx(density(measure)[0](w), rel=1e-12)
            assert measure.tail(w) == pytest.approx(integral(measure, lambda _: 1.0, w), rel=1e-8)
        else:
            assert measure.density(w) == measure.tail(w) == 0
        assert measure.small_mean(w) == pytest.approx(integral(measure, lambda w: w, 0, w), rel=1e-8)
    assert measure.small_mean(0.0) == 0
    assert measure.tail(0.0) == measure.mass == math.inf
    assert measure.small_mean(math.inf) == pytest.approx(measure.moment(1), rel=1e-12)


@pytest.mark.parametrize("measure", WITH_DENSITY, ids=name)
def test_laplace_transform_by_quadrature(measure):
    for t in (1e-4, 0.3, 1.0, 20.0, 1e4):
        exponent = integral(measure, lambda w, t=t: -math.expm1(-w * t))
        assert measure.laplace(t) == pytest.approx(math.exp(-exponent), rel=1e-8 * (1 + exponent))
    assert measure.laplace(0.0) == 1
    assert measure.laplace(math.inf) == 0


@pytest.mark.parametrize(
    ("measure", "finite"),
    [
        (Beta(1.5), (0.5, 1, 2, 3.5)),
        (RegularizedHorseshoe(4.0), (0.75, 1, 2)),
        (GeneralizedGamma(0.2, 2.0, 3.0), (0.5, 1, 2, 4)),
        (GBFRY(0.5, 2.5, 0.4), (0.75, 1, 2)),
    ],
    ids=name,
)
def test_moments_by_quadrature(measure, finite):
    for k in finite:
        assert measure.moment(k) == pytest.approx(integral(measure, lambda w, k=k: w**k, near=k, far=k), rel=1e-8)


def test_closed_moments():
    assert GeneralizedGamma(0.2, 2.0, 3.0).moment(1) == pytest.approx(3.0, rel=1e-14)
    assert GeneralizedGamma(0.2, 2.0, 3.0).moment(2) == pytest.approx(3.0 * 0.8 / 2.0, rel=1e-14)
    assert GBFRY(0.5, 2.5, 0.4).moment(1) == pytest.approx(0.4, rel=1e-14)
    assert Beta(1.5).moment(1) == pytest.approx(1.5, rel=1e-14)
    assert RegularizedHorseshoe(4.0).moment(1) == pytest.approx(0.5, rel=1e-14)
    assert Bernoulli(4.0, 0.5).moment(2) == 1.0


@pytest.mark.parametrize(
    ("measure", "k"),
    [(Horseshoe(), 1), (Horseshoe(), 2), (Stable(0.9), 1), (InverseGamma(0.5), 1), (RegularizedHorseshoe(1.0), 0.5),
     (GeneralizedGamma(0.5), 0.5), (GBFRY(0.5, 2.0), 2), (GBFRY(0.5, 2.0), 0.5), (Beta(1.0) + Stable(0.5), 1)],
    ids=name,
)  # fmt: skip
def test_infinite_moments(measure, k):
    assert measure.moment(k) == math.inf


def test_incomplete_gamma_functions_in_many_digits():
    with mpmath.workdps(40):
        for w in (1e-12, 1e-3, 0.4, 1.0, 2.9, 3.9, 4.1, 60.0):
            for alpha, beta, mu in ((0.05, 1.0, 1.0), (0.5, 2.0, 3.0), (0.95, 0.3, 0.1)):
                eta = mu * mpmath.mpf(beta) ** (1 - mpmath.mpf(alpha))
                exact = eta * mpmath.mpf(beta) ** alpha * mpmath.gammainc(-alpha, beta * w) / mpmath.gamma(1 - alpha)
                found = GeneralizedGamma(alpha, beta, mu).tail(w)
                assert found == pytest.approx(float(exact), rel=2e-15 / alpha * (5 + beta * w))
            for alpha, tau in ((0.05, 1.01), (0.5, 2.0), (0.9, 20.0)):
                measure = GBFRY(alpha, tau)
                x = mpmath.mpf(w) / (mpmath.mpf(tau - 1) / (tau - alpha))
                exact = (tau - alpha) / (tau * mpmath.gamma(1 - alpha)) * (
                    x**-tau * mpmath.gammainc(tau - alpha, 0, x) + mpmath.gammainc(-alpha, x)
                )  # fmt: skip
                assert measure.tail(w) == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize("measure", JUMPING, ids=name)
def test_inv_tail_is_the_smallest_w_with_that_tail(measure):
    x = np.concatenate([np.logspace(-9, 2.5, 60), [2.0, 3.0, 4.0]])
    w = measure.inv_tail(x)
    assert (np.diff(w[:60]) <= 1e-15).all()
    inside = w > 0
    assert (measure.tail(w[inside] * (1 + 1e-9)) <= x[inside] * (1 + 1e-12)).all()
    assert (measure.tail(w[inside] * (1 - 1e-9)) >= x[inside] * (1 - 1e-12)).all()
    assert (measure.mass <= x[~inside] * (1 + 1e-12)).all() or (w[~inside] < 1e-300).all()
    assert measure.inv_tail(math.inf) == 0


def test_bernoulli_is_a_point_mass():
    measure = Bernoulli(4.0, 0.5)
    np.testing.assert_array_equal(measure.tail(np.array([0.0, 0.49, 0.5, 1.0])), [4, 4, 0, 0])
    np.testing.assert_array_equal(measure.inv_tail(np.array([0.0, 3.9, 4.0, 9.0])), [0.5, 0.5, 0, 0])
    np.testing.assert_array_equal(measure.small_mean(np.array([0.5, 0.51])), [0, 2])
    assert measure.laplace(2.0) == pytest.approx(math.exp(-4 * (1 - math.exp(-1.0))), rel=1e-14)


def test_a_sum_of_point_masses_is_inverted():
    measure = Bernoulli(1.0) + Bernoulli(5.0, 3.0)
    np.testing.assert_array_equal(measure.tail(np.array([0.0, 0.9, 1.0, 2.9, 3.0])), [6, 6, 5, 5, 0])
    found = measure.inv_tail(np.array([0.0, 4.0, 5.0, 5.5, 6.0, 7.0]))
    np.testing.assert_allclose(found, [3, 3, 1, 1, 0, 0], rtol=1e-15)


def test_measures_without_points_are_the_gaussian_limit():
    for measure, a in ((Iid(), 1.0), (Iid(0.7), 0.7), (InverseGamma(1.5), 1.0), (Sum((Iid(0.5), Iid(0.2))), 0.7)):
        assert measure.a == a
        assert measure.mass == measure.tail(0.1) == measure.inv_tail(0.1) == measure.moment(2) == 0
        assert measure.laplace(2.0) == pytest.approx(math.exp(-2 * a), rel=1e-14)


def test_a_sum_adds_everything():
    parts = (Iid(0.5), Beta(2.0), GeneralizedGamma(0.5))
    whole = parts[0] + parts[1] + parts[2]
    assert whole.measures == parts == Sum((Sum(parts[:2]), parts[2])).measures
    assert whole.a == 0.5
    w = np.array([0.1, 0.9, 3.0])
    for method in ("tail", "density", "small_mean"):
        np.testing.assert_allclose(getattr(whole, method)(w), sum(getattr(m, method)(w) for m in parts), rtol=1e-14)
    assert whole.moment(2) == pytest.approx(sum(m.moment(2) for m in parts))
    assert whole.laplace(1.5) == pytest.approx(math.prod(m.laplace(1.5) for m in parts))


# ---------------------------------------------------------------- measures: samplers


def converges_fast(measure):
    """Sums over p nodes miss points below the smallest of p: a share of order ``p^(1 - 1 / alpha)``."""
    return getattr(measure, "alpha", 0) <= 0.5 and measure != InverseGamma(0.6)


@pytest.mark.parametrize("measure", JUMPING, ids=name)
def test_finite_width_meets_the_tail(measure):
    p, rows = 1000, 1000
    drawn = measure.sample_variances(p, rows, 7)
    assert drawn.shape == (rows, p)
    assert (drawn >= 0).all()
    for w in (0.02, 0.2, 0.7):
        expected = rows * measure.tail(w)  # p P(lam > w) = tail, up to 1 / p
        assert abs((drawn > w).sum() - expected) <= 4 * math.sqrt(expected) + 7e-3 * expected


@pytest.mark.parametrize("measure", [m for m in ALL if m.moment(1) < math.inf], ids=name)
def test_what_is_not_kept_is_replaced_by_its_mean(measure):
    """``E Lambda = a + moment(1)``, however few points are kept, at finite width and in the limit."""
    mean = measure.a + measure.moment(1)
    for n_atoms in (1, 8):
        atoms = measure.sample_atoms(10_000, n_atoms, 3)
        assert atoms.variances.shape == (10_000, n_atoms)
        assert (np.diff(atoms.variances, axis=1) <= 0).all()
        total = atoms.variances.sum(axis=1) + atoms.bulk
        if measure.moment(2) < math.inf:
            assert abs(total.mean() - mean) <= 4 * total.std() / 100 + 1e-12
    assert measure.sample_atoms(2, 0, 3).bulk == pytest.approx(mean)
    if measure.moment(2) < math.inf and converges_fast(measure):
        total = measure.sample_variances(500, 2000, 5).sum(axis=1)
        assert abs(total.mean() - mean) <= 4 * total.std() / math.sqrt(2000) + 2e-2 * mean


@pytest.mark.parametrize("measure", ALL, ids=name)
def test_sums_of_variances_have_the_laplace_transform(measure):
    atoms = measure.sample_atoms(5000, 80, 11)
    totals = [(atoms.variances.sum(axis=1) + atoms.bulk, 1e-3)]
    if converges_fast(measure):
        totals.append((measure.sample_variances(1000, 1000, 12).sum(axis=1), 1e-2))
    for t in (0.2, 1.0, 3.0):
        for total, bias in totals:
            values = np.exp(-t * total)
            error = 4 * values.std() / math.sqrt(len(values))
            assert abs(values.mean() - measure.laplace(t)) <= error + bias * measure.laplace(t)


@pytest.mark.parametrize("measure", [Horseshoe(), Beta(2.0), GBFRY(0.5, 2.0), Bernoulli(3.0)], ids=name)
def test_the_largest_point(measure):
    """``P(max <= w) = exp(-tail(w))``."""
    largest = measure.sample_atoms(20_000, 2, 4).variances[:, 0]
    finite = measure.sample_variances(1000, 2000, 4).max(axis=1)
    for w in (0.3, 0.9, 10.0):
        expected = math.exp(-measure.tail(w))
        for values in (largest, finite):
            assert abs((values <= w).mean() - expected) <= 4 * math.sqrt(0.25 / len(values)) + 2e-3


def test_horseshoe_sums_are_levy_distributed():
    atoms = Horseshoe().sample_atoms(20_000, 400, 8)
    total = atoms.variances.sum(axis=1) + atoms.bulk
    assert stats.kstest(total, stats.levy(scale=np.pi / 2).cdf).pvalue > 0.02


def test_points_of_a_sum_are_those_of_its_parts():
    """Merged by size, ties of two point masses included: the number above w is Poisson with the mean of the tail."""
    measure = Bernoulli(2.0) + GeneralizedGamma(0.5, 1.0, 2.0) + Bernoulli(1.0)
    atoms = measure.sample_atoms(10_000, 40, 5)
    for w in (0.05, 0.999, 1.001, 2.0):
        counts = (atoms.variances > w).sum(axis=1)
        mean = measure.tail(w)
        assert counts.mean() == pytest.approx(mean, abs=4 * math.sqrt(mean / 10_000))
        assert counts.var() == pytest.approx(mean, abs=6 * math.sqrt((mean + 2 * mean**2) / 10_000))
    assert ((atoms.variances == 1).sum(axis=1)).mean() == pytest.approx(3, abs=4 * math.sqrt(3 / 10_000))


def test_seeds_repeat_draws():
    for draw in (
        lambda rng: Beta(1.0).sample_atoms(3, 4, rng).variances,
        lambda rng: Beta(1.0).sample_variances(5, 2, rng),
    ):
        np.testing.assert_array_equal(draw(1), draw(np.random.default_rng(1)))
        assert (draw(1) != draw(2)).any()


# ---------------------------------------------------------------- measures: refusals


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Beta(0.0), "[Beta] eta must be positive, given 0.0"),
        (lambda: Beta(math.nan), "[Beta] eta must be finite, given nan"),
        (lambda: Iid(-1.0), "[Iid] a must be positive, given -1.0"),
        (lambda: RegularizedHorseshoe(-2), "[RegularizedHorseshoe] c must be positive, given -2"),
        (lambda: Bernoulli(1.0, 0.0), "[Bernoulli] w must be positive, given 0.0"),
        (lambda: Stable(1.0), "[Stable] alpha must lie strictly between 0 and 1, given 1.0"),
        (lambda: GeneralizedGamma(0.0), "[GeneralizedGamma] alpha must lie strictly between 0 and 1, given 0.0"),
        (lambda: GeneralizedGamma(0.5, -1.0), "[GeneralizedGamma] beta must be positive, given -1.0"),
        (lambda: GBFRY(0.5, 1.0), "[GBFRY] tau must lie strictly between 1 and inf, given 1.0"),
        (lambda: GBFRY(0.5, math.inf), "[GBFRY] tau must be finite, given inf"),
        (lambda: GBFRY(0.5, 2.0, 0.0), "[GBFRY] mu must be positive, given 0.0"),
        (lambda: InverseGamma(1.0), "[InverseGamma] k = 1 has no limit"),
        (lambda: Beta(1.0).tail(-0.1), "[Beta.tail] w must not be negative or NaN, given -0.1"),
        (lambda: Beta(1.0).tail([0.1, math.nan]), "[Beta.tail] w must not be negative or NaN"),
        (lambda: Beta(1.0).density(0.0), "[Beta.density] w must be positive or NaN, given 0.0"),
        (lambda: Beta(1.0).inv_tail(-1), "[Beta.inv_tail] x must not be negative or NaN"),
        (lambda: Beta(1.0).moment(0), "[Beta.moment] k must be positive, given 0"),
        (lambda: Beta(1.0).laplace(-1.0), "[Beta.laplace] t must not be negative or NaN"),
        (lambda: Bernoulli(1.0).density(0.5), "is a point mass and has no density"),
        (lambda: (Iid() + Bernoulli(1.0)).density(0.5), "is a point mass and has no density"),
        (lambda: Beta(1.0).sample_variances(0, 1, 0), "[Beta.sample_variances] p must be at least 1, given 0"),
        (lambda: Bernoulli(5.0).sample_variances(4, 1, 0), "c / p is a probability, given c = 5.0, p = 4"),
        (lambda: Beta(1.0).sample_atoms(-1, 1, 0), "[Beta.sample_atoms] n must be at least 0, given -1"),
        (lambda: Horseshoe().sample_atoms(1, 0, 0), "leaves every point of Horseshoe() to its mean, which is infinite"),
        (lambda: prune_error(Horseshoe(), 0.1).fraction, "the mean of the variances is infinite: moment(1) = inf"),
        (lambda: prune_error(Beta(1.0), math.nan), "[prune_error] eps must be finite, given nan"),
    ],
)
def test_measures_refuse(make, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Beta("1"), "[Beta] eta must be a number, given str"),
        (lambda: Stable(True), "[Stable] alpha must be a number, given bool"),
        (lambda: Beta(1.0).tail("x"), "[Beta.tail] w must be real numbers, given str"),
        (lambda: Sum(()), "[Sum] measures must be a tuple of Levy measures, at least one"),
        (lambda: Sum((Iid(), 1.0)), "[Sum] measures must be a tuple of Levy measures, at least one"),
        (lambda: Beta(1.0).sample_atoms(1, 1, None), "rng must be a numpy.random.Generator or an integer seed"),
        (lambda: Beta(1.0).sample_variances(2.5, 1, 0), "[Beta.sample_variances] p must be an integer, given float"),
        (lambda: prune_error(1.0, 0.1), "[prune_error] measure must be a LevyMeasure, given float"),
        (lambda: Beta(1.0) + 1, "unsupported operand"),
    ],
)
def test_measures_refuse_other_types(make, words):
    with pytest.raises(TypeError, match=re.escape(words)):
        make()


# ---------------------------------------------------------------- pruning


def test_pruning_loses_what_small_nodes_hold():
    """Beta .2929, .0513; horseshoe sqrt(eps) of an infinite mean; inverse gamma everything, at any eps."""
    assert prune_error(Beta(1.0), 0.5).fraction == pytest.approx(1 - math.sqrt(0.5), rel=1e-14)
    assert prune_error(Beta(1.0), 0.1).fraction == pytest.approx(1 - math.sqrt(0.9), rel=1e-14)
    assert prune_error(Horseshoe(), 0.5).lost == pytest.approx(math.sqrt(0.5), rel=1e-14)
    assert prune_error(InverseGamma(2.0), 1e-9).fraction == 1
    assert prune_error(Iid(0.5) + Beta(1.5), 0.0).fraction == pytest.approx(0.25)
    assert [prune_error(m, 0.1).compressible for m in (Beta(1.0), Horseshoe(), Iid(), Iid(0.1) + Beta(1.0))] == [
        True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("measure", "eps", "expected"),
    [
        (Beta(1.0), 0.5, 0.2929),
        (Beta(1.0), 0.1, 0.0513),
        (Horseshoe(), 0.5, 0.707),
        (Horseshoe(), 0.1, 0.316),
        (InverseGamma(2.0), 0.01, 0.951),  # exp(-1 / (p eps)) at p = 2000, on its way to 1
    ],
    ids=name,
)
def test_pruning_at_finite_width(measure, eps, expected):
    drawn = measure.sample_variances(2000, 2000, 21)
    lost = np.where(drawn < eps, drawn, 0).sum(axis=1)
    assert abs(lost.mean() - expected) <= 4 * lost.std() / math.sqrt(2000) + 2e-3
