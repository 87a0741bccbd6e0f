"""Sample weights of the estimators: as many equal points, against matrices of these points and by refitting."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")
from fastntk import stax
from fastntk.predict.classify import calibrate, negative_log_likelihood
from fastntk.predict.evidence import SearchWarning
from fastntk.predict.linalg import IllConditionedWarning
from fastntk.sklearn import NNGPClassifier, NNGPRegressor, NTKClassifier, NTKRegressor
from fastntk.sklearn.weights import Weights, choose, held_out
from scipy.linalg import expm
from scipy.stats import multivariate_normal
from sklearn import config_context
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

REGRESSORS, CLASSIFIERS = [NNGPRegressor, NTKRegressor], [NNGPClassifier, NTKClassifier]


@pytest.fixture
def data():
    """Training and test rows, noisy targets, and weights, of which some are 0.

    Each row stands twice with targets of its own, or that equal points have equal targets would say there is no noise.
    """
    rng = np.random.default_rng(5)
    x, x_test, counts = np.tile(rng.normal(size=(12, 3)), (2, 1)), rng.normal(size=(7, 3)), rng.integers(0, 4, 24)
    return x, x_test, np.sin(2 * x[:, 0]) + 0.4 * x[:, 1] + 0.6 * rng.normal(size=24), counts


def labels(y):
    return np.array(["low", "mid", "high"])[np.digitize(y, [-0.3, 0.5])]


def outputs(model, x):
    """All that a model says of x, with the digits that each may lose."""
    if isinstance(model, (NNGPRegressor, NTKRegressor)):
        mean, cov = model.predict(x, return_cov=True)
        return mean, cov, model.predict(x, return_std=True)[1]
    return model.decision_function(x), model.predict_proba(x), model.predict_log_proba(x)


def assert_same(model, expected, x, rtol=1e-9):
    for found, other in zip(outputs(model, x), outputs(expected, x), strict=True):
        np.testing.assert_allclose(found, other, rtol=rtol, atol=rtol * np.abs(other).max())


COMMON = [{}, {"diag_reg": "evidence"}, {"diag_reg": "leave_one_out"}]


@pytest.mark.parametrize(
    ("make", "parameters"),
    [(make, parameters) for make in REGRESSORS for parameters in [*COMMON, {"normalize_y": False}]]
    + [
        (NTKRegressor, {"t": 40.0, "learning_rate": 0.3}), (NNGPRegressor, {"amplitude": None}),
        (NNGPRegressor, {"amplitude": None, "diag_reg": "leave_one_out", "normalize_y": False}),
        (NNGPRegressor, {"amplitude": 3.0, "diag_reg": "evidence"}),
    ],
)  # fmt: skip
def test_regressors_take_weights_for_equal_points(make, parameters, data):
    x, x_test, y, counts = data
    targets = np.column_stack([y, x[:, 2] ** 3])
    model = make(depth=2, **parameters).fit(x, targets, sample_weight=counts)
    expected = make(depth=2, **parameters).fit(x.repeat(counts, axis=0), targets.repeat(counts, axis=0))
    assert_same(model, expected, x_test)
    assert model.diag_reg_ == pytest.approx(expected.diag_reg_, rel=1e-12)
    assert model.conditioning_.diag_reg == pytest.approx(expected.conditioning_.diag_reg, rel=1e-12)
    if make is NNGPRegressor:
        assert model.amplitude_ == pytest.approx(expected.amplitude_, rel=1e-9)
        assert model.log_marginal_likelihood_ == pytest.approx(expected.log_marginal_likelihood_, rel=1e-9)


@pytest.mark.parametrize(
    ("make", "parameters"),
    [(make, parameters) for make in CLASSIFIERS for parameters in COMMON] + [(NTKClassifier, {"t": 40.0})],
)
def test_classifiers_take_weights_for_equal_points(make, parameters, data):
    x, x_test, y, counts = data
    y = labels(y)
    order = np.random.default_rng(0).permutation(counts.sum())
    model = make(depth=2, **parameters).fit(x, y, sample_weight=counts)
    expected = make(depth=2, **parameters).fit(x.repeat(counts, axis=0)[order], y.repeat(counts)[order])
    assert_same(model, expected, x_test, rtol=1e-7)
    assert model.temperature_ == pytest.approx(expected.temperature_, rel=1e-7)


@pytest.mark.parametrize(("make", "t"), [(NNGPRegressor, None), (NTKRegressor, None), (NTKRegressor, 25.0)])
def test_any_weights_divide_the_noise(make, t, data):
    """(K + s / w)^-1, and the flow on the weighted loss, written out."""
    x, x_test, y, _ = data
    weights = 10.0 ** np.random.default_rng(1).uniform(-2, 2, len(x))
    hidden = [stax.Dense(1, 2**0.5, 0.1), stax.Relu()]
    kernel_fn = stax.serial(*hidden, *hidden, stax.Dense(1, 2**0.5)).kernel_fn
    both = ("nngp", "ntk")
    k, cross, prior = kernel_fn(x, None, both), kernel_fn(x_test, x, both), kernel_fn(x_test, None, both)
    own, own_cross = (getattr(each, make._get) for each in (k, cross))
    noise = 0.05 * np.average(own.diagonal(), weights=weights)
    a = own + np.diag(noise / weights)
    # d f / d t = -Theta W (f - y) / sum(w), and the penalty's share
    learned = np.eye(len(x)) if t is None else np.eye(len(x)) - expm(-a * weights * t / weights.sum())
    b = own_cross @ (np.linalg.inv(a) if t is None else np.linalg.solve(a, learned))
    cov = prior.nngp + b @ k.nngp @ b.T - b @ cross.nngp.T - cross.nngp @ b.T
    if make is NNGPRegressor:
        cov = prior.nngp - b @ cross.nngp.T
    parameters = {} if t is None else {"t": t}
    model = make(depth=2, diag_reg=0.05, normalize_y=False, **parameters).fit(x, y, sample_weight=weights)
    mean, found = model.predict(x_test, return_cov=True)
    np.testing.assert_allclose(mean, b @ y, rtol=1e-8)
    np.testing.assert_allclose(found, cov, rtol=1e-8, atol=1e-9)


def test_normalisation_is_weighted(data):
    x, x_test, y, _ = data
    weights = np.random.default_rng(2).uniform(0.1, 3, len(x))
    mean = np.average(y, weights=weights)
    std = np.sqrt(np.average((y - mean) ** 2, weights=weights))
    plain = NNGPRegressor(normalize_y=False).fit(x, (y - mean) / std, sample_weight=weights)
    model = NNGPRegressor().fit(x, y, sample_weight=weights)
    np.testing.assert_allclose(model.predict(x_test), mean + std * plain.predict(x_test), rtol=1e-9)


def test_evidence_is_the_density_of_equal_points(data):
    x, _, y, counts = data
    model = NNGPRegressor(2, diag_reg=0.1, amplitude=1.7, normalize_y=False).fit(x, y, sample_weight=counts)
    rows, targets = x.repeat(counts, axis=0), y.repeat(counts)
    k = model.kernel_fn_(rows, None, "nngp")
    cov = 1.7 * (k + 0.1 * k.diagonal().mean() * np.eye(len(rows)))
    assert model.log_marginal_likelihood_ == pytest.approx(multivariate_normal(cov=cov).logpdf(targets), rel=1e-10)
    exact = NNGPRegressor(2, diag_reg=0.0).fit(x[:12], y[:12], sample_weight=np.full(12, 2))
    with pytest.raises(ValueError, match="equal points without noise have no density"):
        exact.log_marginal_likelihood_  # noqa: B018


def test_held_out_points_are_predicted_as_by_refitting(data):
    """Of a weight above 1, one is left out and the rest stays; below, nothing stays."""
    x, _, y, _ = data
    weights = np.random.default_rng(3).uniform(0.1, 4, len(x))
    k = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Erf(), stax.Dense(1)).kernel_fn(x, None, "ntk")
    noise = 0.2 * np.average(k.diagonal(), weights=weights)
    mean, variance = held_out(k, y[:, None], 0.2, Weights(weights))
    for i in range(len(x)):
        left = weights.copy()
        left[i] = max(left[i] - 1, 0)
        kept = left > 0
        b = k[i, kept] @ np.linalg.inv(k[np.ix_(kept, kept)] + np.diag(noise / left[kept]))
        np.testing.assert_allclose(mean[i, 0], b @ y[kept], rtol=1e-9)
        np.testing.assert_allclose(variance[i], k[i, i] - b @ k[kept, i] + noise, rtol=1e-9)


def test_choices_with_weights_warn_at_the_grids_ends(data):
    x, _, y, counts = data
    k = x @ x.T + 1.0
    kept = counts > 0
    k, y, weights = k[np.ix_(kept, kept)], y[kept, None], Weights(counts[kept].astype(float))
    with pytest.warns(SearchWarning, match=r"\[here\] the best diag_reg, 1e-08, is the grid's lower end"):
        choose(k, k @ np.ones((len(y), 1)), "leave_one_out", None, weights, "here")
    with pytest.warns(SearchWarning, match="100, is the grid's upper end"):
        choose(k, np.where(np.arange(len(y)) % 2, 1.0, -1.0)[:, None] * 1e3, "evidence", 1.0, weights, "here")


@pytest.mark.parametrize("unit", [1e-250, 1e-160, 1e160, 1e250])
def test_choices_with_weights_need_no_squares_of_targets(unit, data):
    x, x_test, y, counts = data
    for parameters in (
        {"diag_reg": "leave_one_out"}, {"diag_reg": "leave_one_out", "amplitude": None},
        {"diag_reg": "evidence", "amplitude": None},
    ):  # fmt: skip
        one, other = (NNGPRegressor(normalize_y=False, **parameters) for _ in range(2))
        one.fit(x, y, sample_weight=counts)
        other.fit(x, unit * y, sample_weight=counts)
        assert other.diag_reg_ == one.diag_reg_
        np.testing.assert_allclose(other.predict(x_test) / unit, one.predict(x_test), rtol=1e-8)
    with pytest.raises(ValueError, match=r"\[NNGPRegressor\] all targets are zero"):
        one.set_params(diag_reg="leave_one_out").fit(x, 0 * y, sample_weight=counts)
    given = NNGPRegressor(normalize_y=False, diag_reg="evidence")
    if unit > 1:
        with pytest.raises(ValueError, match="the evidence has no maximum within the range of floats"):
            given.fit(x, unit * y, sample_weight=counts)


@pytest.mark.parametrize("make", REGRESSORS + CLASSIFIERS)
def test_weight_0_leaves_out_and_1_changes_nothing(make, data):
    x, x_test, y, counts = data
    y = labels(y) if make in CLASSIFIERS else y
    kept = counts > 0
    # What is left out may be anything: the largest row, a class of its own.
    given = x.copy()
    given[~kept] = 1e200
    some = np.where(kept, y, "none") if make in CLASSIFIERS else np.where(kept, y, 1e200)
    model = make().fit(given, some, sample_weight=kept)
    assert_same(model, make().fit(x[kept], y[kept]), x_test, rtol=1e-12)
    assert_same(make().fit(x, y, sample_weight=np.ones(len(x))), make().fit(x, y), x_test, rtol=1e-12)
    assert_same(make().fit(x, y, sample_weight=1.0), make().fit(x, y), x_test, rtol=1e-12)


def test_weights_work_on_float32_and_images(data):
    x, x_test, y, counts = data
    narrow = NNGPRegressor().fit(x.astype(np.float32), y, sample_weight=counts)
    wide = NNGPRegressor().fit(x, y, sample_weight=counts)
    assert narrow.predict(x_test).dtype == np.float32
    assert_same(narrow, wide, x_test, rtol=2e-4)
    net = stax.serial(stax.Conv(1, (2,), padding="SAME"), stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1))
    model = NTKClassifier(network=net, input_shape=(3, 1)).fit(x, labels(y), sample_weight=counts)
    expected = NTKClassifier(network=net, input_shape=(3, 1))
    assert_same(model, expected.fit(x.repeat(counts, axis=0), labels(y).repeat(counts)), x_test, rtol=1e-7)


def test_weights_far_apart_are_reported(data):
    x, _, y, _ = data
    weights = np.ones(len(x))
    weights[0] = 1e15
    with pytest.warns(IllConditionedWarning):
        NNGPRegressor().fit(x, y, sample_weight=weights)
    # Common factors of any size are none of that: noise goes with them.
    for factor in (1e-250, 1e-30, 1e30):
        model = NTKRegressor(diag_reg=min(0.01 * factor, 1e300)).fit(x, y, sample_weight=np.full(len(x), factor))
        np.testing.assert_allclose(model.predict(x), NTKRegressor(diag_reg=0.01).fit(x, y).predict(x), rtol=1e-9)


@pytest.mark.parametrize("make", REGRESSORS + CLASSIFIERS)
def test_weights_that_are_none_are_refused(make, data):
    x, _, y, counts = data
    y = labels(y) if make in CLASSIFIERS else y
    for weights, message in [
        (-counts, rf"Negative values in data passed to {make.__name__}.fit as sample_weight"),
        (np.zeros(24), "weight"),
        (np.ones(23), r"sample_weight.shape == \(23,\), expected \(24,\)"),
        (np.ones((24, 1)), "1D array or scalar"),
        (np.full(24, np.nan), "sample_weight contains NaN"),
        (np.full(24, np.inf), "sample_weight contains infinity"),
    ]:
        with pytest.raises(ValueError, match=message):
            make().fit(x, y, sample_weight=weights)
    if make in CLASSIFIERS:
        with pytest.raises(ValueError, match=r"at least two classes are needed, y has 1 class: \['low'\]"):
            make().fit(x, y, sample_weight=y == "low")


@pytest.mark.parametrize("make", REGRESSORS + CLASSIFIERS)
def test_weights_are_routed(make, data):
    x, x_test, y, _ = data
    y = (y > 0.1).astype(int) if make in CLASSIFIERS else y
    weights = np.random.default_rng(4).uniform(0.5, 2, len(x))
    with config_context(enable_metadata_routing=True):
        asking = make().set_fit_request(sample_weight=True).set_score_request(sample_weight=False)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        pipeline = make_pipeline(scaler, asking).fit(x, y, sample_weight=weights)
        search = GridSearchCV(asking, {"depth": [2]}, cv=3).fit(x, y, sample_weight=weights)
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            make_pipeline(scaler, make()).fit(x, y, sample_weight=weights)
    assert_same(search.best_estimator_, make(depth=2).fit(x, y, sample_weight=weights), x_test)
    scaled = StandardScaler().fit(x)
    expected = make().fit(scaled.transform(x), y, sample_weight=weights)
    assert_same(pipeline[-1], expected, scaled.transform(x_test))


def test_calibration_with_weights():
    rng = np.random.default_rng(6)
    mean, variance, truth = rng.normal(size=(50, 3)), rng.uniform(0.1, 1, 50), rng.integers(0, 3, 50)
    counts = rng.integers(0, 5, 50)
    repeated = calibrate(mean.repeat(counts, axis=0), variance.repeat(counts), truth.repeat(counts))
    assert calibrate(mean, variance, truth, sample_weight=counts) == pytest.approx(repeated, rel=1e-9)
    log_p = np.log(rng.dirichlet(np.ones(3), 50))
    expected = -(counts * log_p[np.arange(50), truth]).sum() / counts.sum()
    assert negative_log_likelihood(log_p, truth, counts) == pytest.approx(expected, rel=1e-12)
    assert negative_log_likelihood(log_p, truth, counts * 1e307) == pytest.approx(expected, rel=1e-12)
    for weights in (counts[:-1], -counts, np.zeros(50), np.full(50, np.nan)):
        with pytest.raises(ValueError, match=r"\[negative_log_likelihood\] sample_weight must be \(50,\), finite"):
            negative_log_likelihood(log_p, truth, weights)
