"""mogp: Levy measures, random kernels, prior and posterior. Training: test_mogp_training.py."""

from __future__ import annotations

import doctest
import math
import re
import sys
from dataclasses import replace
from itertools import pairwise

import mpmath
import numpy as np
import pytest

pytest.importorskip("scipy")
from fastntk import mogp, predict, stax
from fastntk.mogp import (
    GBFRY,
    Bernoulli,
    Beta,
    EffectiveSampleSizeWarning,
    GeneralizedGamma,
    Horseshoe,
    Iid,
    InverseGamma,
    Layer,
    RegularizedHorseshoe,
    Stable,
    Sum,
    posterior,
    prune_error,
    sample_kernels,
    sample_prior,
)
from fastntk.mogp.kernels import factor
from scipy import optimize, special, stats
from scipy.integrate import quad
from scipy.stats import multivariate_normal

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


# ---------------------------------------------------------------- kernels: laws in closed form


def finite_kernels(measures, p, n, rng, k1, sigma_v2=1.0):
    """``K`` at one input of n ReLU networks of width p: pre-activations are Gaussian given the kernel below."""
    k = np.full(n, float(k1))
    for measure in measures:
        z = np.sqrt(k)[:, None] * rng.standard_normal((n, p))
        k = sigma_v2 * (measure.sample_variances(p, n, rng) * np.maximum(z, 0) ** 2).sum(axis=1)
    return k


ONE = np.ones((1, 1))


def test_shallow_horseshoe_outputs_are_cauchy():
    z = sample_prior(ONE, [Layer(Horseshoe())], 2, 20_000, 300, 1)
    assert z.shape == (20_000, 1, 2)
    k = finite_kernels([Horseshoe()], 1000, 10_000, np.random.default_rng(2), 1.0)
    finite = np.sqrt(k) * np.random.default_rng(3).standard_normal(10_000)
    for values in (z[:, 0, 0], finite):
        assert stats.kstest(values, stats.cauchy(scale=0.5).cdf).pvalue > 0.05
        error = math.pi / 4 / math.sqrt(len(values))  # of the median
        assert np.median(np.abs(values)) == pytest.approx(0.5, abs=3 * error)
    # Jointly isotropic: any rotation of the outputs has the same law.
    assert stats.kstest((z[:, 0] @ [0.6, 0.8]), stats.cauchy(scale=0.5).cdf).pvalue > 0.05


@pytest.mark.parametrize(
    ("measure", "kurtosis"),
    [(Bernoulli(1.0), 18), (Bernoulli(3.0), 6), (Beta(1.0), 12), (Beta(4.0), 3), (RegularizedHorseshoe(1.0), 9)],
    ids=name,
)
def test_shallow_kurtosis_and_correlation_of_squares(measure, kurtosis):
    """Excess kurtosis ``3 Var K / (E K)^2 = 18 M2 / (a + M1)^2``; ``Corr(Z1^2, Z2^2) = v / (3 v + 2)``."""
    assert 18 * measure.moment(2) / (measure.a + measure.moment(1)) ** 2 == pytest.approx(kurtosis, rel=1e-13)
    assert 18 * GeneralizedGamma(0.4).moment(2) == pytest.approx(18 * (1 - 0.4), rel=1e-13)
    limit = sample_kernels(ONE, [Layer(measure)], 40_000, 12, 4)[:, 0, 0]
    finite = finite_kernels([measure], 500, 20_000, np.random.default_rng(5), 1.0)
    for k in (limit, finite):
        found = [3 * part.var() / part.mean() ** 2 for part in np.array_split(k, 20)]
        assert abs(np.mean(found) - kurtosis) <= 4 * np.std(found) / math.sqrt(20) + 0.02 * kurtosis
    z2 = sample_prior(ONE, [Layer(measure)], 2, 40_000, 12, 6)[:, 0] ** 2
    v = kurtosis / 3
    assert np.corrcoef(z2.T)[0, 1] == pytest.approx(v / (3 * v + 2), abs=0.06)


def test_stable_characteristic_function():
    alpha, s = 0.6, np.array([0.3, 1.0, 2.0])
    m = 2 ** (alpha - 1) * math.gamma(alpha + 0.5) / math.sqrt(math.pi)  # E relu(N)^(2 alpha)
    exact = np.exp(-math.gamma(1 - alpha) * m * (s**2 / 2) ** alpha)
    np.testing.assert_allclose(exact, [0.869, 0.5514, 0.2547], atol=5.1e-4)
    k = sample_kernels(ONE, [Layer(Stable(alpha))], 20_000, 300, 7)[:, 0, 0]
    values = np.exp(-(s**2) * k[:, None] / 2)
    assert (np.abs(values.mean(axis=0) - exact) <= 4 * values.std(axis=0) / math.sqrt(20_000)).all()


def test_bernoulli_characteristic_function_and_silent_networks():
    c = 4.0
    k = sample_kernels(ONE * 1.3, [Layer(Bernoulli(c), sigma_v2=0.8)], 20_000, 25, 8)[:, 0, 0]
    for s in (0.5, 2.0):
        values = np.exp(-(s**2) * k / 2)
        exact = math.exp(-c / 2 * (1 - (1 + s * s * 0.8 * 1.69) ** -0.5))
        assert abs(values.mean() - exact) <= 4 * values.std() / math.sqrt(20_000)
    assert (k == 0).mean() == pytest.approx(math.exp(-c / 2), abs=4 * math.sqrt(0.117 / 20_000))
    k = sample_kernels(ONE, [Layer(Bernoulli(c))] * 2, 20_000, 25, 9)[:, 0, 0]
    silent = math.exp(-c / 2) + (1 - math.exp(-c / 2)) * math.exp(-c / 2)
    assert silent == pytest.approx(0.2524, abs=5e-5)
    assert (k == 0).mean() == pytest.approx(silent, abs=4 * math.sqrt(0.19 / 20_000))


def test_deep_horseshoe_has_its_exact_law():
    """``K^3 = K^1 (sigma_v2 / (2 pi))^2 L1 L2``, L ~ Levy(0, pi / 2) = (pi / 2) / N^2: here ``1 / (2 (N1 N2)^2)``."""

    def cdf(k):
        x = np.sqrt(0.5 / np.maximum(k, 1e-300))
        return 1 - 2 / np.pi * special.iti0k0(x)[1]  # |N1 N2| has the density (2 / pi) K0

    quartiles = [optimize.brentq(lambda k, q=q: cdf(k) - q, 1e-3, 1e3) for q in (0.25, 0.5, 0.75)]
    np.testing.assert_allclose(quartiles, [0.6732, 3.7496, 33.751], atol=5.1e-4)  # and by 4e7 draws, to 1e-3
    k = sample_kernels(ONE, [Layer(Horseshoe(), sigma_v2=2.0)] * 2, 20_000, 300, 1000, sigma_v2=2.0)[:, 0, 0]
    assert stats.kstest(k, cdf).pvalue > 0.05
    finite = finite_kernels([Horseshoe()] * 2, 400, 8000, np.random.default_rng(11), 2.0, 2.0)
    assert stats.kstest(finite, cdf).pvalue > 0.01


def test_deep_stable_has_its_law():
    """``K^2 = K^1 sigma_v2 m^(1/alpha) S``: the Laplace transform of each layer."""
    alpha = 0.7
    m = 2 ** (alpha - 1) * math.gamma(alpha + 0.5) / math.sqrt(math.pi)
    k = sample_kernels(ONE, [Layer(Stable(alpha), sigma_v2=1.5)] * 2, 20_000, 300, 10)[:, 0, 0]
    s = Stable(alpha).sample_atoms(40_000, 300, 5)
    s = 1.5 * m ** (1 / alpha) * (s.variances.sum(axis=1) + s.bulk)
    assert stats.ks_2samp(k, s[:20_000] * s[20_000:]).pvalue > 0.05


@pytest.mark.parametrize(
    ("measure", "seed"),
    [(Beta(2.0), 0), (Horseshoe(), 0), (GBFRY(0.5, 2.0), 0), *((Bernoulli(4.0), seed) for seed in (0, 1, 2))],
    ids=name,
)
def test_two_hidden_layers_and_two_inputs_meet_finite_width(measure, seed):
    x = np.array([[1.0, 0.2], [-0.3, 1.2]])
    n, p, rng = 3000, 400, np.random.default_rng(100 + seed)
    limit = sample_kernels(x, [Layer(measure)] * 2, n, 100, seed)
    k = np.broadcast_to(x @ x.T / 2, (n, 2, 2))
    for _ in range(2):
        z = factor(k) @ rng.standard_normal((n, 2, p))
        features = np.maximum(z, 0) * np.sqrt(measure.sample_variances(p, n, rng))[:, None]
        k = features @ np.swapaxes(features, 1, 2)
    for i, j in ((0, 0), (0, 1)):
        ours, theirs = limit[:, i, j], k[:, i, j]
        # Atoms at 0 are compared apart: ties break the test.
        assert abs((ours == 0).mean() - (theirs == 0).mean()) <= 4 * math.sqrt(0.5 / n)
        assert stats.ks_2samp(ours[ours > 0], theirs[theirs > 0]).pvalue > 0.02


@pytest.mark.parametrize("act", [stax.Relu(), stax.Erf(1.5, 0.7, 0.2), stax.ABRelu(-0.4, 1.3)], ids=name)
def test_mean_and_variance_of_a_shallow_kernel(act):
    x = np.array([[1.0, 0.2], [-0.3, 1.2]])
    measure = Iid(0.3) + RegularizedHorseshoe(4 / 9)  # of mean 1.5
    k1 = 0.8 * x @ x.T / 2 + 0.1
    layer = Layer(measure, act, 1.4, 0.2)
    k = sample_kernels(x, [layer], 10_000, 12, 1, sigma_v2=0.8, sigma_b2=0.1)
    z = np.random.default_rng(0).multivariate_normal(np.zeros(2), k1, 400_000)
    f = act.apply((), z, np)
    products = np.stack([f[:, 0] ** 2, f[:, 0] * f[:, 1], f[:, 1] ** 2], axis=1)
    found = np.stack([k[:, 0, 0], k[:, 0, 1], k[:, 1, 1]], axis=1)
    mean = 0.2 + 1.4 * 1.8 * products.mean(axis=0)
    assert (np.abs(found.mean(axis=0) - mean) <= 4 * found.std(axis=0) / 100 + 5e-3 * np.abs(mean)).all()
    variance = 1.4**2 * measure.moment(2) * (products**2).mean(axis=0)
    np.testing.assert_allclose(found.var(axis=0), variance, rtol=0.12)


# ---------------------------------------------------------------- kernels: structure


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((12, 5))


@pytest.mark.parametrize("act", [stax.Relu(), stax.Erf(), stax.Abs()], ids=name)
def test_without_points_kernels_are_those_of_stax(x, act):
    k = sample_kernels(x, [Layer(Iid(2.0), act, 1.3, 0.2)] * 2, 3, 5, 0, sigma_v2=1.1, sigma_b2=0.3)
    dense = stax.Dense(1, 2.6**0.5, 0.2**0.5)
    _, _, kernel_fn = stax.serial(stax.Dense(1, 1.1**0.5, 0.3**0.5), act, dense, act, dense)
    np.testing.assert_allclose(k, np.broadcast_to(kernel_fn(x, None, "nngp"), k.shape), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("measure", [Beta(2.0), Bernoulli(4.0), Iid(0.5) + Horseshoe()], ids=name)
def test_draws_are_gram_matrices(x, measure):
    x = np.vstack([x, x[:2], 1e-6 * x[:1], 0 * x[:1]])  # copies, a small and a zero input
    k = sample_kernels(x, [Layer(measure)] * 2, 40, 30, 3)
    assert k.dtype == np.float64
    np.testing.assert_array_equal(k, np.swapaxes(k, 1, 2))
    values = np.linalg.eigvalsh(k)
    assert (values[:, 0] >= -1e-12 * np.maximum(values[:, -1], 1e-300)).all()
    assert (k[:, -1] == 0).all()
    np.testing.assert_allclose(k[:, 12], k[:, 0], rtol=1e-7, atol=1e-13)
    np.testing.assert_allclose(k[:, 14, 14], 1e-12 * k[:, 0, 0], rtol=1e-8)  # homogeneous, a million times smaller


def test_where_no_node_is_active_kernels_are_exact(x):
    k = sample_kernels(x, [Layer(Bernoulli(0.3), sigma_b2=0.25)] * 2, 400, 10, 3)
    silent = (k == 0.25).all(axis=(1, 2))
    assert 0.5 < silent.mean() < 0.9
    rank = np.linalg.matrix_rank(k[~silent])
    assert rank.max() <= 6  # as many as nodes, and the bias


def test_draws_repeat_and_chunks_do_not_matter_to_their_law(x, monkeypatch):
    layers = [Layer(Beta(2.0))]
    np.testing.assert_array_equal(
        sample_kernels(x, layers, 5, 7, 1), sample_kernels(x, [(Beta(2.0),)], 5, 7, np.random.default_rng(1))
    )
    monkeypatch.setattr("fastntk.mogp.kernels._CHUNK", 12 * 50 * 100)
    k = sample_kernels(x, layers, 2000, 50, 2)
    assert k.shape == (2000, 12, 12)
    mean = 2.0 * stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1)).kernel_fn(x, None, "nngp")
    assert (np.abs(k.mean(axis=0) - mean) <= 4.5 * k.std(axis=0) / math.sqrt(2000)).all()
    assert len({float(v) for v in k[:, 0, 0]}) == 2000


@pytest.mark.parametrize("continuous", [False, True])
def test_factors_of_singular_matrices(continuous):
    rng = np.random.default_rng(0)
    low = rng.standard_normal((4, 9, 3))
    scales = np.array([1e8, 1e8, 1.0, 1.0, 1.0, 1e-8, 1e-8, 0.0, 1e-150])
    low *= scales[:, None]
    k = low @ np.swapaxes(low, 1, 2)
    k[3] = 0
    c = factor(k, continuous=continuous)
    size = np.sqrt(np.diagonal(k, axis1=1, axis2=2))
    error = np.abs(c @ np.swapaxes(c, 1, 2) - k)
    assert (error <= 2e-14 * size[:, :, None] * size[:, None, :]).all()
    assert (c[:, 7] == 0).all()
    assert (c[3] == 0).all()
    if not continuous:
        assert (c[:3, :, 3:] == 0).all()
    np.testing.assert_array_equal(factor(k[0], continuous=continuous), c[0])


def test_few_points_and_none_are_enough(x):
    k = sample_kernels(x, [Layer(Beta(2.0))], 2, 0, 0)
    expected = 2.0 * stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1)).kernel_fn(x, None, "nngp")
    np.testing.assert_allclose(k, np.broadcast_to(expected, k.shape), rtol=1e-12)
    assert sample_kernels(x[:1], [Layer(Horseshoe())], 1, 1, 0).shape == (1, 1, 1)


def test_progress_shows_draws(x, capsys):
    sample_kernels(x, [Layer(Beta(2.0))], 3, 4, 0, progress=True)
    assert "3" in capsys.readouterr().err


REFUSED = [
    ({"x": np.ones(3)}, ValueError, "[sample_kernels] x has 1 dims"),
    ({"x": [[1.0]]}, TypeError, "[sample_kernels] x must be a numpy.ndarray, given list"),
    ({"x": np.ones((0, 3))}, ValueError, "[sample_kernels] x is empty: shape (0, 3)"),
    ({"x": np.array([[1.0], [np.nan]])}, ValueError, "[sample_kernels] x is not finite, first at (1, 0)"),
    ({"layers": []}, TypeError, "[sample_kernels] layers must be a list of mogp.Layer, at least one"),
    ({"layers": Layer(Iid())}, TypeError, "[sample_kernels] layers must be a list of mogp.Layer, at least one"),
    ({"layers": [(1.0,)]}, TypeError, "[Layer] measure must be a LevyMeasure such as Beta(2.0), given float"),
    ({"layers": [(Iid(), "relu")]}, TypeError, "[Layer] activation must be a nonlinearity such as stax.Relu()"),
    ({"layers": [(Iid(), stax.Relu(), 0.0)]}, ValueError, "[Layer] sigma_v2 must be positive, given 0.0"),
    ({"layers": [(Iid(), stax.Relu(), 1.0, -1.0)]}, ValueError, "[Layer] sigma_b2 must not be negative, given -1.0"),
    ({"n_samples": 0}, ValueError, "[sample_kernels] n_samples must be at least 1, given 0"),
    ({"n_atoms": -1}, ValueError, "[sample_kernels] n_atoms must be at least 0, given -1"),
    ({"n_atoms": 1.5}, TypeError, "[sample_kernels] n_atoms must be an integer, given float"),
    ({"n_atoms": 0, "layers": [Layer(Horseshoe())]}, ValueError, "to its mean, which is infinite: moment(1) = inf"),
    ({"rng": None}, TypeError, "[sample_kernels] rng must be a numpy.random.Generator or an integer seed"),
    ({"sigma_v2": -1.0}, ValueError, "[sample_kernels] sigma_v2 must be positive, given -1.0"),
    ({"sigma_b2": np.nan}, ValueError, "[sample_kernels] sigma_b2 must be finite, given nan"),
    ({"x": np.full((1, 1), 1e200)}, OverflowError, "[sample_kernels] a kernel of the inputs exceeds float64"),
    ({"layers": [Layer(Stable(0.002))]}, OverflowError, "[sample_kernels] a kernel behind hidden layer 1 exceeds"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "error", "words"), REFUSED)
def test_samplers_refuse(changed, error, words):
    given = {"x": np.ones((2, 3)), "layers": [Layer(Beta(1.0))], "n_samples": 5, "n_atoms": 3, "rng": 0} | changed
    with pytest.raises(error, match=re.escape(words)):
        sample_kernels(**given)


def test_prior_refuses_no_outputs(x):
    with pytest.raises(ValueError, match=re.escape("[sample_prior] n_outputs must be at least 1, given 0")):
        sample_prior(x, [Layer(Beta(1.0))], 0, 2, 3, 0)


# ---------------------------------------------------------------- posterior


@pytest.fixture
def data():
    rng = np.random.default_rng(4)
    x = rng.standard_normal((6, 3))
    return x, np.column_stack([np.sin(x[:, 0]), x[:, 1]]), rng.standard_normal((4, 3))


def test_posterior_without_points_is_that_of_the_gaussian_process(data):
    x, y, x_test = data
    found = posterior(x, y, x_test, 0.1, [Layer(Iid(2.0))], 20, 3, 0)
    _, _, kernel_fn = stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1, 2**0.5))
    k = kernel_fn(x, None, "nngp")
    exact = predict.gp_inference(k, y, 0.1, True)("nngp", kernel_fn(x_test, x, "nngp"), kernel_fn(x_test, None, "nngp"))
    np.testing.assert_allclose(found.mean, exact.mean, rtol=1e-9, atol=1e-12)
    for covariance in found.covariance:
        np.testing.assert_allclose(covariance, exact.covariance, rtol=1e-9, atol=1e-12)
    assert found.ess == pytest.approx(20)
    assert found.log_evidence == pytest.approx(predict.log_marginal_likelihood(k, y, 0.1, True).value, rel=1e-10)


def test_posterior_is_the_weighted_mixture(data):
    x, y, x_test = data
    layers = [Layer(Beta(2.0), sigma_v2=2.0, sigma_b2=0.1)]
    found = posterior(x, y, x_test, 0.3, layers, 300, 30, 5, sigma_b2=0.2)
    kernels = sample_kernels(np.vstack([x, x_test]), layers, 300, 30, 5, sigma_b2=0.2)
    log_likelihoods, means, covariances = [], [], []
    for k in kernels:
        a = k[:6, :6] + 0.3 * np.eye(6)
        log_likelihoods.append(sum(multivariate_normal(np.zeros(6), a).logpdf(column) for column in y.T))
        solved = np.linalg.solve(a, k[:6, 6:]).T
        means.append(solved @ y)
        covariances.append(k[6:, 6:] - solved @ k[:6, 6:])
    w = np.exp(log_likelihoods - np.max(log_likelihoods))
    w /= w.sum()
    np.testing.assert_allclose(found.weights, w, rtol=1e-8)
    assert found.ess == pytest.approx(1 / (w**2).sum(), rel=1e-8)
    assert found.log_evidence == pytest.approx(np.log(np.mean(np.exp(log_likelihoods))), rel=1e-8)
    mean = np.einsum("s,smo->mo", w, means)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-8)
    second = np.einsum("s,smo,sno->omn", w, means, means) + np.einsum("s,smn->mn", w, covariances)
    covariance = second - np.einsum("mo,no->omn", mean, mean)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.variance, np.diagonal(covariance, axis1=1, axis2=2).T, rtol=1e-6)
    few = posterior(x, y, x_test, 0.3, layers, 300, 30, 5, sigma_b2=0.2, covariance="diagonal")
    np.testing.assert_allclose(few.variance, found.variance, rtol=1e-10)
    with pytest.raises(ValueError, match=re.escape("[covariance] variances alone were kept: covariance='full' keeps")):
        _ = few.covariance
    with pytest.raises(ValueError, match=re.escape("[Posterior.sample] variances alone were kept")):
        few.sample(1, 0)
    drawn = found.sample(40_000, 3)
    assert drawn.shape == (40_000, 4, 2)
    assert (np.abs(drawn.mean(axis=0) - mean) <= 4 * drawn.std(axis=0) / 200).all()
    np.testing.assert_allclose(np.cov(drawn[:, :, 1].T), covariance[1], atol=0.05 * np.abs(covariance[1]).max())


def test_weights_do_not_underflow(data):
    x, y, x_test = data
    with pytest.warns(EffectiveSampleSizeWarning, match=re.escape("[posterior] the effective sample size is 1")):
        found = posterior(x, 1e4 * y, x_test, 0.1, [Layer(Beta(2.0))], 50, 10, 0)
    assert found.weights.sum() == pytest.approx(1)
    assert np.isfinite(found.mean).all()
    assert 1 <= found.ess < 10


def test_draws_singular_at_this_noise_are_reported(data):
    x, y, x_test = data
    with (
        pytest.warns(EffectiveSampleSizeWarning, match="effective sample size"),
        pytest.warns(predict.IllConditionedWarning, match="singular to rounding at noise = 1e-25: theirs was raised"),
    ):
        posterior(x, y, x_test, 1e-25, [Layer(Bernoulli(1.0))], 20, 10, 0)


def test_annealing_meets_importance_sampling(data):
    x, y, x_test = data
    layers = [Layer(Beta(2.0), sigma_v2=2.0)] * 2
    exact = posterior(x[:3], y[:3], x_test, 0.2, layers, 20_000, 20, 1)
    found = posterior(x[:3], y[:3], x_test, 0.2, layers, 400, 20, 2, method="annealed", moves=3)
    assert found.stages > 1
    assert found.ess == pytest.approx(400)
    error = np.sqrt(exact.variance) * (4 / math.sqrt(400 / 4) + 4 / math.sqrt(exact.ess))  # moves leave some likeness
    assert (np.abs(found.mean - exact.mean) <= error).all()
    np.testing.assert_allclose(np.sqrt(found.variance), np.sqrt(exact.variance), rtol=0.25)
    assert found.log_evidence == pytest.approx(exact.log_evidence, abs=0.3)


def test_annealing_explains_what_importance_sampling_does_not():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 2))
    y, x_test = np.sin(2 * x[:, :1]), rng.standard_normal((5, 2))
    layers = [Layer(Beta(2.0), sigma_v2=2.0)]
    with pytest.warns(EffectiveSampleSizeWarning, match="method='annealed' moves them there"):
        drawn = posterior(x, y, x_test, 0.01, layers, 300, 30, 0, sigma_b2=0.1)
    moved = posterior(x, y, x_test, 0.01, layers, 100, 30, 0, sigma_b2=0.1, method="annealed")
    assert moved.log_evidence > drawn.log_evidence
    assert np.isfinite(moved.mean).all()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"noise": 0.0}, "[posterior] noise must be positive, given 0.0"),
        ({"y": np.ones((5, 1))}, "[posterior] x has 6 rows, y has 5"),
        ({"y": np.ones(6)}, "[posterior] y has 1 dims"),
        ({"y": np.full((6, 1), np.nan)}, "[posterior] y is not finite"),
        ({"x_test": np.ones((4, 2))}, "[posterior] x has 3 features, x_test has 2"),
        ({"x_test": np.full((4, 3), np.inf)}, "[posterior] x_test is not finite"),
        ({"covariance": "none"}, "[posterior] covariance must be 'full' or 'diagonal', given 'none'"),
        ({"method": "mcmc"}, "[posterior] method must be 'importance' or 'annealed', given 'mcmc'"),
        ({"moves": 0}, "[posterior] moves must be at least 1, given 0"),
    ],
)
def test_posterior_refuses(data, changed, words):
    x, y, x_test = data
    given = {"x": x, "y": y, "x_test": x_test, "noise": 0.1, "layers": [Layer(Beta(1.0))]} | changed
    with pytest.raises(ValueError, match=re.escape(words)):
        posterior(**given, n_samples=5, n_atoms=3, rng=0)


def test_examples_in_docstrings():
    for module in ("fastntk.mogp", "fastntk.mogp.measures", "fastntk.mogp.node_scaling"):
        found = doctest.testmod(sys.modules[module])
        assert found.attempted
        assert not found.failed


def test_results_are_frozen():
    layer = Layer(Beta(1.0))
    assert replace(layer, sigma_v2=2.0).sigma_v2 == 2.0
    with pytest.raises(AttributeError):
        layer.sigma_v2 = 3.0
    assert mogp.__all__ == sorted(mogp.__all__, key=lambda s: (not s.isupper(), not s[0].isupper(), s))
