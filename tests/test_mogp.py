"""mogp: random kernels, prior and posterior. Measures: test_mogp_measures.py, training: test_mogp_training.py."""

from __future__ import annotations

import doctest
import math
import re
import sys
from dataclasses import replace

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
    Layer,
    RegularizedHorseshoe,
    Stable,
    posterior,
    sample_kernels,
    sample_prior,
)
from fastntk.mogp.kernels import factor
from scipy import optimize, special, stats
from scipy.stats import multivariate_normal


def name(value):
    return repr(value)


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
    ({"x": {1.0}}, TypeError, "[sample_kernels] x must be a numpy.ndarray or convert to one, given set"),
    ({"x": np.ones((0, 3))}, ValueError, "[sample_kernels] x is empty: shape (0, 3)"),
    ({"x": np.array([[1.0], [np.nan]])}, ValueError, "[sample_kernels] x is not finite, first at (1, 0)"),
    ({"layers": []}, TypeError, "[sample_kernels] layers must be a list of mogp.Layer, at least one"),
    ({"layers": Layer(Iid())}, TypeError, "[sample_kernels] layers must be a list of mogp.Layer, at least one"),
    ({"layers": [(1.0,)]}, TypeError, "[Layer] measure must be a LevyMeasure such as Beta(2.0), given float"),
    ({"layers": [(Iid(), "relux")]}, TypeError, "[Layer] activation must be a nonlinearity such as stax.Relu()"),
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
    assert 40 < found.ess < 400
    error = np.sqrt(exact.variance) * (4 / math.sqrt(found.ess) + 4 / math.sqrt(exact.ess))
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
