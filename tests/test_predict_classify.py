"""predict.classify: targets, class probabilities against quadrature and draws, temperature, calibration."""

from __future__ import annotations

import sys

import fake_cupy
import numpy as np
import pytest

pytest.importorskip("scipy")
from fastntk import predict, stax
from fastntk.predict import (
    calibrate,
    class_probabilities,
    expected_calibration_error,
    log_class_probabilities,
    negative_log_likelihood,
    one_hot,
    reliability,
)
from scipy import special
from scipy.integrate import simpson
from scipy.special import log_ndtr
from scipy.stats import norm


@pytest.fixture
def rng():
    return np.random.default_rng(5)


# ---------------------------------------------------------------- targets


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_one_hot_less_the_mean(dtype):
    labels = np.array([2, 0, 1, 2], dtype)
    found = one_hot(labels)
    expected = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) - 1 / 3
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-15)
    np.testing.assert_array_equal(one_hot(labels, 5).argmax(axis=1), labels)
    np.testing.assert_allclose(one_hot(labels, 5).sum(axis=1), 0, atol=1e-15)


BAD_LABELS = [
    (np.array([0.0, 1.0]), None, TypeError, "labels must be an array of integers, given an array of float64"),
    (np.array(["a", "b"]), None, TypeError, "numpy.unique"),
    (np.array([True, False]), None, TypeError, "given an array of bool"),
    ([0, 1], None, TypeError, "labels must be an array of integers, given list"),
    (np.array([[0, 1]]), None, ValueError, r"labels must be \(n,\), given shape \(1, 2\)"),
    (np.array([], int), None, ValueError, "labels are empty"),
    (np.array([0, 0]), None, ValueError, "at least two classes are needed, n_classes is 1"),
    (np.array([0, 1]), 2.0, ValueError, "at least two classes are needed, n_classes is 2.0"),
    (np.array([0, 3]), 3, ValueError, "labels must lie between 0 and 2, they reach from 0 to 3"),
    (np.array([-1, 1]), None, ValueError, "labels must lie between 0 and 1, they reach from -1 to 1"),
]


@pytest.mark.parametrize(("labels", "count", "error", "message"), BAD_LABELS)
def test_bad_labels(labels, count, error, message):
    with pytest.raises(error, match=rf"^\[one_hot\] .*{message}"):
        one_hot(labels, count)


# ---------------------------------------------------------------- probabilities


def by_quadrature(gaps, log_p):
    """Each class's integral divided by its claimed probability: 1 where that is right.

    Simpson's rule, 801 points over 20 around each class's own peak, where the narrowest integrand has a width of 0.1.
    """
    found = []
    for c in {0, len(gaps) // 2, len(gaps) - 1}:

        def integrand(u, c=c):
            log_cdf = log_ndtr(u[:, None] - gaps)
            return np.exp(norm.logpdf(u - gaps[c]) + log_cdf.sum(axis=1) - log_cdf[:, c] - log_p[c])

        u = np.linspace(gaps.min() / 2 - 3, 7, 200)
        u = u[np.argmax(integrand(u))] + np.linspace(-10, 10, 801)
        found.append(simpson(integrand(u), x=u))
    return found


@pytest.mark.parametrize(("classes", "allowed"), [(2, 1e-11), (3, 1e-11), (10, 1e-11), (100, 1e-8), (1000, 1e-6)])
def test_class_probabilities_by_quadrature(rng, classes, allowed):
    """From equal classes to hopeless ones, 100 standard deviations apart, alone or in company."""
    rows = [np.zeros(classes)]
    for gap in (0.3, 1.0, 5.0, 20.0, 40.0, 100.0) if classes < 1000 else (1.0, 40.0, 100.0):
        rows += [np.r_[np.zeros(k), np.full(classes - k, -gap)] for k in {1, classes // 2, classes - 1}]
        rows.append(np.maximum(-gap * np.abs(rng.normal(size=classes)) * (np.arange(classes) > 0), -100.0))
    mean, sd = 3.0 + 0.7 * np.array(rows), np.full(len(rows), 0.7)
    found = log_class_probabilities(mean, sd**2)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-12)
    for gaps, log_p in zip(rows, found, strict=True):
        np.testing.assert_allclose(by_quadrature(gaps, log_p), 1, rtol=allowed)


def test_class_probabilities_of_two_classes(rng):
    mean, sd = rng.normal(size=(40, 2)) * 3, rng.uniform(0.2, 2, size=40)
    gap = (mean[:, 0] - mean[:, 1]) / (np.sqrt(2) * sd)
    expected = np.stack([norm.logcdf(gap), norm.logcdf(-gap)], axis=1)
    np.testing.assert_allclose(log_class_probabilities(mean, sd**2), expected, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(log_class_probabilities(mean, sd**2 / 9, 3.0), expected, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(class_probabilities(mean, sd**2), np.exp(expected), rtol=1e-9)


@pytest.mark.parametrize("classes", [3, 10])
def test_class_probabilities_by_draws(rng, classes):
    mean, sd = rng.normal(size=(2, classes)), np.array([0.7, 1.5])
    draws = 40_000
    for row, p in enumerate(class_probabilities(mean, sd**2)):
        winners = (mean[row] + sd[row] * rng.normal(size=(draws, classes))).argmax(axis=1)
        counts = np.bincount(winners, minlength=classes)
        assert np.all(np.abs(counts / draws - p) < 5 * np.sqrt(p / draws) + 5 / draws)


def test_class_probabilities_that_are_certain():
    extreme = log_class_probabilities(np.array([[1e6, 0.0, -1e6], [0.0, 1e300, 0.0]]), np.array([1e-6, 1e-300]))
    assert np.isfinite(extreme).all()
    np.testing.assert_allclose(np.exp(extreme), [[1, 0, 0], [0, 1, 0]], atol=1e-12)
    without = class_probabilities(np.array([[1.0, 3.0, 3.0], [2.0, 1.0, 0.0]]), np.zeros(2))
    np.testing.assert_allclose(without, [[0, 0.5, 0.5], [1, 0, 0]], atol=1e-12)


def test_rows_stand_alone(rng, monkeypatch):
    """Whatever the other rows, and in whichever blocks: to the accuracy of the rule."""
    mean, variance = rng.normal(size=(30, 4)) * np.geomspace(0.1, 30, 30)[:, None], rng.uniform(0.1, 2, 30)
    whole = log_class_probabilities(mean, variance)
    rows = np.concatenate([log_class_probabilities(mean[[i]], variance[[i]]) for i in range(30)])
    np.testing.assert_allclose(whole, rows, rtol=1e-10, atol=1e-12)
    monkeypatch.setattr(sys.modules["fastntk.predict.classify"], "_BLOCK", 1)
    np.testing.assert_allclose(log_class_probabilities(mean, variance), rows, rtol=1e-10, atol=1e-12)
    single = log_class_probabilities(mean.astype(np.float32), variance.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, whole, rtol=1e-4, atol=1e-5)
    assert log_class_probabilities(mean[:0], variance[:0]).shape == (0, 4)


def test_arrays_of_cupy(rng, monkeypatch):
    cupy = fake_cupy.install(monkeypatch)
    monkeypatch.setitem(sys.modules, "cupyx.scipy.special", fake_cupy.Module("cupyx.scipy.special", special))
    mean, variance, labels = rng.normal(size=(20, 3)), rng.uniform(0.1, 2, 20), rng.integers(3, size=20)

    def everything(convert):
        given = convert(mean), convert(variance), convert(labels)
        log_p = log_class_probabilities(*given[:2])
        p = class_probabilities(*given[:2], 1.3)
        scores = [calibrate(*given), negative_log_likelihood(log_p, given[2]), expected_calibration_error(p, given[2])]
        return [one_hot(given[2]), log_p, p], scores

    (arrays, scores), (plain, expected) = everything(cupy.asarray), everything(np.asarray)
    for found, other in zip(arrays, plain, strict=True):
        assert isinstance(found, fake_cupy.ndarray)
        np.testing.assert_allclose(found.get(), other, rtol=1e-12)
    assert scores == pytest.approx(expected, rel=1e-12)


M, V, L = np.zeros((3, 2)), np.ones(3), np.array([0, 1, 1])

BAD_GAUSSIANS = [
    ((M.tolist(), V), TypeError, "arrays must be NumPy's or CuPy's, given list"),
    ((M.astype(int), V), TypeError, "must hold floats, given int64 and float64"),
    ((M[:, :1], V), ValueError, r"mean must be \(m, c\), c > 1; given shape \(3, 1\)"),
    ((M, V[:2]), ValueError, r"variance must be \(3,\), one for all outputs; given \(2,\)"),
    ((M + np.nan, V), ValueError, "mean is not finite: 6 of 6 values"),
    ((M, V + np.inf), ValueError, "variance is not finite: 3 of 3 values"),
    ((M, V - 2), ValueError, "variance must not be negative, it falls to -1"),
    ((M, V, 0.0), ValueError, "temperature must be positive, given 0.0"),
    ((M, V, np.nan), ValueError, "temperature must be positive, given nan"),
]


@pytest.mark.parametrize("function", [class_probabilities, log_class_probabilities])
@pytest.mark.parametrize(("given", "error", "message"), BAD_GAUSSIANS)
def test_bad_gaussians(function, given, error, message):
    with pytest.raises(error, match=rf"^\[class_probabilities\] .*{message}"):
        function(*given)


# ---------------------------------------------------------------- temperature


def test_temperature_finds_the_spread_that_made_the_labels(rng):
    mean, variance = rng.normal(size=(2000, 3)), np.full(2000, 0.25**2)
    labels = (mean + 4 * 0.25 * rng.normal(size=mean.shape)).argmax(axis=1)
    found = calibrate(mean, variance, labels)
    assert found == pytest.approx(4, rel=0.1)
    around = [found / 1.3, found, found * 1.3]
    losses = [negative_log_likelihood(log_class_probabilities(mean, variance, t), labels) for t in around]
    assert losses[1] == min(losses)


def test_temperature_stays_where_nothing_is_learnt():
    mean = np.array([[1e4, 0.0], [0.0, 1e4]])
    assert calibrate(mean, np.ones(2), np.array([0, 1])) == pytest.approx(1, rel=0.1)


def test_temperature_keeps_to_its_bounds(rng):
    mean = rng.normal(size=(50, 3))
    found = calibrate(mean, np.full(50, 1e-4), rng.integers(3, size=50), bounds=(0.5, 2.0))
    assert found == pytest.approx(2, rel=0.03)


def test_held_out_points_calibrate_a_regression_on_labels(rng):
    """Leave-one-out temperatures: new points are predicted better than with the posterior's own variance."""
    x = rng.normal(size=(400, 3))
    labels = (x @ rng.normal(size=(3, 3)) + 0.8 * rng.normal(size=(400, 3))).argmax(axis=1)
    k = stax.serial(stax.Dense(1, 1.5, 0.3), stax.Relu(), stax.Dense(1)).kernel_fn(x, None, "nngp")
    train, new = slice(0, 200), slice(200, 400)
    y, s = one_hot(labels[train]), 0.001
    held = predict.leave_one_out(k[train, train], y, s)
    found = calibrate(held.mean, held.variance, labels[train])
    mean, variance = predict.gp_inference(k[train, train], y, s)("nngp", k[new, train], np.diagonal(k[new, new]))
    noisy = variance + s * np.trace(k[train, train]) / 200
    loss, plain = (negative_log_likelihood(log_class_probabilities(mean, noisy, t), labels[new]) for t in (found, 1.0))
    assert loss < plain - 0.02
    errors = [expected_calibration_error(class_probabilities(mean, noisy, t), labels[new]) for t in (found, 1.0)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("bounds", [(1.0, 0.5), (0.0, 1.0), (1.0, np.inf)])
def test_bad_bounds(bounds):
    with pytest.raises(ValueError, match=r"^\[calibrate\] bounds must be positive and rising, given \("):
        calibrate(M, V, L, bounds=bounds)


# ---------------------------------------------------------------- scores


def test_negative_log_likelihood(rng):
    p = rng.dirichlet(np.ones(4), size=20)
    labels = rng.integers(4, size=20)
    expected = -np.mean([np.log(row[label]) for row, label in zip(p, labels, strict=True)])
    assert negative_log_likelihood(np.log(p), labels) == pytest.approx(expected, rel=1e-14)


def test_negative_log_likelihood_agrees_with_scikit_learn(rng):
    metrics = pytest.importorskip("sklearn.metrics")
    p, labels = rng.dirichlet(np.ones(4), size=20), rng.integers(4, size=20)
    expected = metrics.log_loss(labels, p, labels=range(4))
    assert negative_log_likelihood(np.log(p), labels) == pytest.approx(expected, rel=1e-12)


def test_reliability_by_hand():
    """Five samples in bins of a quarter: (0.5, 0.75] holds three, (0.75, 1] two."""
    p = np.array([[0.6, 0.4], [0.3, 0.7], [0.75, 0.25], [0.9, 0.1], [0.0, 1.0]])
    labels = np.array([0, 0, 0, 1, 1])
    found = reliability(p, labels, bins=4)
    np.testing.assert_array_equal(found.count, [3, 2])
    np.testing.assert_allclose(found.confidence, [(0.6 + 0.7 + 0.75) / 3, 0.95])
    np.testing.assert_allclose(found.accuracy, [2 / 3, 1 / 2])
    expected = 3 / 5 * abs(2 / 3 - 2.05 / 3) + 2 / 5 * 0.45
    assert found.expected_calibration_error == pytest.approx(expected, rel=1e-12)
    assert expected_calibration_error(p, labels, 4) == found.expected_calibration_error
    equal = reliability(p, labels, bins=2, strategy="quantile")
    np.testing.assert_array_equal(equal.count, [3, 2])
    assert reliability(p, labels, bins=100, strategy="quantile").count.tolist() == [1] * 5


def test_reliability_agrees_with_scikit_learn(rng):
    calibration = pytest.importorskip("sklearn.calibration")
    p = rng.uniform(0.5, 1, size=500)
    labels = (rng.uniform(size=500) > p).astype(int)  # class 0 with probability p, the larger
    accuracy, confidence = calibration.calibration_curve(labels == 0, p, n_bins=10)
    found = reliability(np.column_stack([p, 1 - p]), labels, bins=10)
    np.testing.assert_allclose(found.confidence, confidence, rtol=1e-12)
    np.testing.assert_allclose(found.accuracy, accuracy, rtol=1e-12)


def test_true_probabilities_are_calibrated(rng):
    """Labels drawn from the probabilities themselves; overconfident ones are not."""
    p = rng.dirichlet(np.ones(3), size=20_000)
    labels = (p.cumsum(axis=1) < rng.uniform(size=(20_000, 1))).sum(axis=1)
    assert expected_calibration_error(p, labels) < 0.015
    sharp = p**3 / (p**3).sum(axis=1, keepdims=True)
    assert expected_calibration_error(sharp, labels) > 0.1


P = np.full((3, 2), 0.5)

BAD_SCORES = [
    (negative_log_likelihood, (np.log(P), L[:2]), ValueError, "2 labels for 3 predictions"),
    (negative_log_likelihood, (np.log(P), L + 1), ValueError, "labels must lie between 0 and 1"),
    (negative_log_likelihood, (np.log(P), L + 0.5), TypeError, "labels must be an array of integers"),
    (negative_log_likelihood, (P, L), ValueError, "are these probabilities?"),
    (negative_log_likelihood, (P * np.nan, L), ValueError, "must not be positive or NaN"),
    (reliability, (np.log(P), L), ValueError, "are these log probabilities?"),
    (reliability, (P * np.nan, L), ValueError, "probabilities must lie between 0 and 1"),
    (reliability, (P, L, 0), ValueError, "bins must be a positive integer, given 0"),
    (reliability, (P, L, 5, "even"), ValueError, "strategy must be one of uniform, quantile, given 'even'"),
    (reliability, (P[:0], L[:0]), ValueError, r"predictions must be \(m, c\), m > 0"),
    (reliability, (P.astype(int), L), TypeError, "predictions must be an array of floats, given an array of int64"),
    (calibrate, (M, V, L[:2]), ValueError, "2 labels for 3 predictions"),
]


@pytest.mark.parametrize(("function", "given", "error", "message"), BAD_SCORES)
def test_bad_scores(function, given, error, message):
    with pytest.raises(error, match=rf"^\[{function.__name__}\] .*{message}".replace("?", r"\?")):
        function(*given)
