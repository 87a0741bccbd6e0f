"""What the estimators are given: units of any size, frames, arrays that change later; and what they say before fit."""

from __future__ import annotations

import copy
import pickle

import mpmath
import numpy as np
import pytest

pytest.importorskip("sklearn")
from fastntk import stax
from fastntk.sklearn import InfiniteWidthKernel, NNGPClassifier, NNGPRegressor, NTKClassifier, NTKRegressor
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.gaussian_process import GaussianProcessRegressor

REGRESSORS, CLASSIFIERS = [NNGPRegressor, NTKRegressor], [NNGPClassifier, NTKClassifier]
ALL = REGRESSORS + CLASSIFIERS


@pytest.fixture
def data():
    """Training and test rows, and a noisy target of the training rows."""
    rng = np.random.default_rng(8)
    x, x_test = rng.normal(size=(30, 3)), rng.normal(size=(6, 3))
    return x, x_test, np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] + 0.1 * rng.normal(size=30)


def targets(make, y):
    return (y > 0.2).astype(int) if make in CLASSIFIERS else y


def answers(model, x):
    if isinstance(model, (NNGPRegressor, NTKRegressor)):
        found = [*model.predict(x, return_std=True), model.predict(x, return_cov=True)[1], model.sample_y(x, 2, 0)]
    else:
        found = [model.decision_function(x), model.predict_proba(x)]
    return [*found, *(getattr(model, n) for n in ("log_marginal_likelihood_", "temperature_") if hasattr(model, n))]


# ---- what changes later


@pytest.mark.filterwarnings("ignore::fastntk.predict.SearchWarning")
@pytest.mark.parametrize("parameters", [{}, {"t": 30.0}, {"diag_reg": "leave_one_out"}], ids=str)
@pytest.mark.parametrize("make", ALL)
def test_nothing_done_later_moves_a_fitted_estimator(make, parameters, data):
    if set(parameters) - set(make().get_params()):
        return
    x, x_test, y = data
    weights, shape = np.linspace(0.5, 2, 30), [3]
    for given in (x.copy(), np.asfortranarray(x), x[::-1]):  # contiguous or not
        labels, shares = targets(make, y).copy(), weights.copy()
        model = make(input_shape=shape, **parameters).fit(given, labels, sample_weight=shares)
        expected = answers(copy.deepcopy(model), x_test)
        given *= 3
        labels[:] = labels[::-1].copy()
        shares[:] = 0
        shape[0] = 7
        model.set_params(depth=1, W_std=5.0, network=stax.Dense(1), input_shape=(1, 3), diag_reg=10.0)
        for name in ("learning_rate", "amplitude", "normalize_y", "t"):
            if name in model.get_params():
                model.set_params(**{name: 0.125})
        for found, other in zip(answers(model, x_test), expected, strict=True):
            np.testing.assert_array_equal(found, other)
        given /= 3
        shape[0] = 3


@pytest.mark.parametrize("make", ALL)
def test_answers_do_not_depend_on_what_was_asked_before(make, data):
    x, x_test, y = data
    model = make().fit(x, targets(make, y))
    first, again = answers(model, x_test), answers(model, x_test)
    fresh = answers(pickle.loads(pickle.dumps(make().fit(x, targets(make, y)))), x_test)
    for one, two, three in zip(first, again, fresh, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("make", ALL)
def test_a_fit_that_fails_leaves_no_other_behind(make, data):
    x, _, y = data
    model = make().fit(x, targets(make, y))
    with pytest.raises(ValueError, match="depth must be at least 1"):
        model.set_params(depth=0).fit(2 * x, targets(make, y))
    with pytest.raises(NotFittedError):
        model.conditioning_  # noqa: B018


def test_held_out_folds_do_not_depend_on_the_order_of_rows(data):
    x, _, y = data
    order = np.random.default_rng(0).permutation(30)
    one, other = (NTKClassifier(t=20.0).fit(x[at], y[at] > 0.2) for at in (np.arange(30), order))
    assert one.temperature_ == pytest.approx(other.temperature_, rel=1e-8)


# ---- units of the targets


@pytest.mark.parametrize("unit", [1e-300, 1e-170, 1e-150, 1e-30, 1e30, 1e150, 1e170, 1e300])
@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (NNGPRegressor, {}), (NTKRegressor, {}), (NNGPRegressor, {"amplitude": None}), (NTKRegressor, {"t": 50.0}),
        (NNGPRegressor, {"diag_reg": "evidence", "amplitude": None}), (NTKRegressor, {"diag_reg": "leave_one_out"}),
        (NNGPRegressor, {"amplitude": None, "normalize_y": False}),
        (NNGPRegressor, {"diag_reg": "leave_one_out", "amplitude": None, "normalize_y": False}),
        (NTKRegressor, {"diag_reg": "evidence", "normalize_y": False}),
    ],
)  # fmt: skip
def test_predictions_go_with_the_units_of_the_targets(make, parameters, unit, data):
    """Each output in a unit of its own where it is normalised, one unit where they share an amplitude."""
    x, x_test = (rows[:, :1] for rows in data[:2])
    noise = 0.2 * np.random.default_rng(0).normal(size=(30, 2))  # choices of it are inside the grid
    both = np.concatenate([np.sin(2 * x), np.cos(2 * x)], axis=1) + noise
    model = make(**parameters).fit(x, both)
    units = np.array([unit, unit if "normalize_y" in parameters else 1.0])
    scaled = make(**parameters).fit(x, both * units)
    (mean, std), (found, spread) = (m.predict(x_test, return_std=True) for m in (model, scaled))
    np.testing.assert_allclose(found / units, mean, rtol=1e-9, atol=1e-9)
    of_prior = parameters == {"diag_reg": "evidence", "normalize_y": False}  # of y, whatever the targets
    np.testing.assert_allclose(spread / (1 if of_prior else units), std, rtol=1e-9)
    assert scaled.diag_reg_ == model.diag_reg_
    cov, draws = scaled.predict(x_test, return_cov=True)[1], scaled.sample_y(x_test, 2)
    assert not np.isnan(cov).any()  # squares of units may be infinite, or zero
    expected = mean[..., None].repeat(2, axis=-1) if of_prior and unit > 1 else model.sample_y(x_test, 2)
    if not of_prior or unit > 1:
        np.testing.assert_allclose(draws / units[:, None], expected, rtol=1e-7, atol=1e-9)
    if make is NNGPRegressor and "normalize_y" not in parameters:
        assert scaled.log_marginal_likelihood_ == pytest.approx(model.log_marginal_likelihood_, rel=1e-10)
    elif make is NNGPRegressor:
        expected = model.log_marginal_likelihood_ - both.size * np.log(unit)
        assert scaled.log_marginal_likelihood_ == pytest.approx(expected, rel=1e-10)


def test_an_amplitude_given_is_in_the_units_of_targets_that_are_not_normalised(data):
    x, x_test, y = data
    model = NNGPRegressor(amplitude=4.0, normalize_y=False)
    std = clone(model).fit(x, y).predict(x_test, return_std=True)[1]
    for unit in (1e-300, 1e300):
        mean, same = clone(model).fit(x, unit * y).predict(x_test, return_std=True)
        np.testing.assert_allclose(same, std, rtol=1e-12)
        np.testing.assert_allclose(mean / unit, clone(model).fit(x, y).predict(x_test), rtol=1e-9)
    assert NNGPRegressor(amplitude=None, normalize_y=False).fit(x, 1e200 * y).amplitude_ == np.inf


@pytest.mark.parametrize("value", [0.0, 1 / 3, -1e-300, 1e300])
@pytest.mark.parametrize("make", REGRESSORS)
def test_a_constant_is_predicted_beside_an_output_that_varies(make, value, data):
    x, x_test, y = data
    mean, std = make().fit(x, np.column_stack([np.full(30, value), y])).predict(x_test, return_std=True)
    np.testing.assert_allclose(mean[:, 0], value, rtol=1e-14)
    alone = make().fit(x, y).predict(x_test, return_std=True)
    np.testing.assert_allclose(mean[:, 1], alone[0], rtol=1e-9)
    # In the units of y it has none to be measured in but 1, and the prior's variance in z.
    np.testing.assert_allclose(std[:, 0], alone[1] / y.std(), rtol=1e-9)


@pytest.mark.parametrize("make", REGRESSORS)
def test_targets_that_the_dtype_does_not_hold_are_refused(make, data):
    x, x_test, y = data
    for unit in (1e-60, 1e60):
        with pytest.raises(ValueError, match=rf"\[{make.__name__}\] predictions have the dtype of X, float32, which"):
            make().fit(x.astype(np.float32), unit * y)
    found = make().fit(x.astype(np.float32), 1e30 * y)
    np.testing.assert_allclose(found.predict(x_test) / 1e30, make().fit(x, y).predict(x_test), rtol=1e-3, atol=1e-3)
    cov = found.predict(x_test, return_cov=True)[1]
    assert np.isinf(cov.diagonal()).all()
    assert not np.isnan(cov).any()
    with pytest.raises(ValueError, match="Input y contains infinity"):
        make().fit(x, y.astype(np.longdouble) * np.longdouble(10) ** 400)


@pytest.mark.parametrize("make", REGRESSORS)
def test_the_callers_errstate_stays_outside(make, data):
    x, x_test, y = data
    with np.errstate(all="raise"):
        make().fit(x, 1e250 * y).predict(x_test, return_cov=True)
        make().fit(x, 1e-250 * y).predict(x_test, return_cov=True)


# ---- units of the kernel


@pytest.mark.parametrize("unit", [2.0**-450, 2.0**-60, 1e-6, 1e6, 2.0**450])
@pytest.mark.parametrize("parameters", [{}, {"diag_reg": 0.0}, {"t": 30.0}, {"weights": True}], ids=str)
@pytest.mark.parametrize("make", ALL)
def test_kernels_may_have_any_unit(make, parameters, unit, data):
    """The last layer's weights scale outputs at random, and nothing that is learned."""
    x, x_test, y = data
    given = dict(parameters)
    weights = np.linspace(0.3, 2, 30) if given.pop("weights", False) else None
    if set(given) - set(make().get_params()):
        return
    hidden = [stax.Dense(1, 1.4, 0.1), stax.Relu()]
    one, other = (make(network=stax.serial(*hidden, *hidden, stax.Dense(1, c)), **given) for c in (1.0, unit))
    if "t" in given:
        other.set_params(t=given["t"] / unit**2)
    for model in (one, other):
        model.fit(x, targets(make, y), sample_weight=weights)
    if make in REGRESSORS:
        (mean, std), (found, spread) = (model.predict(x_test, return_std=True) for model in (one, other))
        np.testing.assert_allclose(found, mean, rtol=1e-8)
        np.testing.assert_allclose(spread / unit, std, rtol=1e-6)
        return
    rows = np.concatenate([x, x_test])
    np.testing.assert_allclose(other.predict_log_proba(rows), one.predict_log_proba(rows), rtol=0.02, atol=1e-3)
    np.testing.assert_allclose(other.temperature_ * unit, one.temperature_, rtol=0.02)  # to what it is sought
    order = np.argsort(one.decision_function(x_test))
    np.testing.assert_array_equal(np.argsort(other.decision_function(x_test)), order)
    assert np.isfinite(other.decision_function(rows)).all()


# ---- before fit


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", REGRESSORS)
def test_before_fit_there_is_the_prior(make, dtype, data):
    x, x_test, y = data
    net = stax.serial(stax.Dense(1, 1.3, 0.2), stax.Erf(), stax.Dense(1))
    model = make(network=net)
    k = net.kernel_fn(x_test.astype(dtype), None, "nngp")
    mean, cov = model.predict(x_test.astype(dtype), return_cov=True)
    np.testing.assert_array_equal(mean, np.zeros(6, dtype))
    np.testing.assert_array_equal(cov, k)
    found, std = model.predict(x_test.astype(dtype), return_std=True)
    np.testing.assert_allclose(std, np.sqrt(k.diagonal()), rtol=4 * np.finfo(dtype).eps)
    assert found.dtype == std.dtype == cov.dtype == dtype
    np.testing.assert_array_equal(model.predict(x_test), np.zeros(6))
    draws = model.sample_y(x_test[:2], 20_000, random_state=1)
    assert draws.shape == (2, 20_000)
    scale = np.sqrt(np.outer(k.diagonal()[:2], k.diagonal()[:2]))
    assert (np.abs(np.cov(draws) - k[:2, :2]) < 5 * np.sqrt(2 / 20_000) * scale).all()
    assert model.score(x, y) < 0
    for attribute in ("conditioning_", "log_marginal_likelihood_"):
        if hasattr(make, attribute):
            with pytest.raises(NotFittedError):
                getattr(model, attribute)
    with pytest.raises(ValueError, match=r"\[" + make.__name__ + r"\] input_shape \(2,\) holds 2 values"):
        make(input_shape=(2,)).predict(x_test)


def test_the_prior_is_that_of_gaussian_process_regressor(data):
    _, x_test, _ = data
    other = GaussianProcessRegressor(InfiniteWidthKernel(depth=2))
    model = NNGPRegressor(depth=2)
    for keywords in ({"return_std": True}, {"return_cov": True}):
        for found, expected in zip(model.predict(x_test, **keywords), other.predict(x_test, **keywords), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-12)
    cov = NNGPRegressor(depth=2, amplitude=4.0).predict(x_test, return_cov=True)[1]
    np.testing.assert_allclose(cov, 4 * model.predict(x_test, return_cov=True)[1], rtol=1e-15)
    unset = NNGPRegressor(depth=2, amplitude=None).predict(x_test, return_cov=True)[1]
    np.testing.assert_array_equal(unset, model.predict(x_test, return_cov=True)[1])


@pytest.mark.parametrize("amplitude", [-1.0, 0.0, np.nan, np.inf, "large"])
def test_amplitudes_that_are_none_are_refused(amplitude, data):
    x, x_test, y = data
    model = NNGPRegressor(amplitude=amplitude)
    for call in (lambda: model.fit(x, y), lambda: model.predict(x_test, return_std=True)):
        with pytest.raises(ValueError, match=r"\[NNGPRegressor\] amplitude must be positive or None, given"):
            call()


# ---- covariances and draws of trained networks


@pytest.mark.parametrize("t", [None, 40.0])
def test_trained_networks_have_covariances_and_draws(t, data):
    x, x_test, y = data
    model = NTKRegressor(diag_reg=0.05, t=t).fit(x, y)
    mean, cov = model.predict(x_test, return_cov=True)
    np.testing.assert_array_equal(cov, cov.T)
    np.testing.assert_allclose(np.sqrt(cov.diagonal()), model.predict(x_test, return_std=True)[1], rtol=1e-9)
    draws = model.sample_y(x_test, 20_000, random_state=2)
    spread = np.sqrt(cov.diagonal())
    assert (np.abs(draws.mean(axis=1) - mean) < 5 * spread / np.sqrt(20_000)).all()
    assert (np.abs(np.cov(draws) - cov) < 5 * np.sqrt(2 / 20_000) * np.outer(spread, spread)).all()
    two = NTKRegressor(diag_reg=0.05, t=t).fit(x, np.column_stack([y, 3 * y]))
    assert two.sample_y(x_test, 4).shape == (6, 2, 4)
    assert two.sample_y(x_test, 0).shape == (6, 2, 0)
    _, covs = two.predict(x_test, return_cov=True)
    assert covs.shape == (6, 6, 2)
    np.testing.assert_allclose(covs[..., 1], 9 * covs[..., 0], rtol=1e-9)
    with pytest.raises(ValueError, match=r"\[NTKRegressor\] return_std and return_cov are not had at once"):
        model.predict(x_test, return_std=True, return_cov=True)


# ---- logarithms of probabilities


@pytest.mark.parametrize("make", CLASSIFIERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_probabilities_keep_their_digits(make, dtype, data):
    """Of two classes p = Phi(d / (T sqrt 2)), d the difference of outputs in standard deviations, in 30 digits."""
    x, _, y = data
    model = make(diag_reg=1e-5 if dtype is np.float64 else 1e-3).fit(x.astype(dtype), np.where(y > 0.2, "up", "down"))
    rows = np.concatenate([x, 3 * x])
    log_p = model.predict_log_proba(rows)
    assert log_p.dtype == dtype
    assert log_p.shape == (60, 2)
    d = model.decision_function(rows).astype(np.float64) / model.temperature_
    d = np.clip(d, -100, 100)  # as is documented
    with mpmath.workdps(30):
        expected = [[float(mpmath.log(mpmath.erfc(s * mpmath.mpf(v) / 2) / 2)) for s in (1, -1)] for v in d]
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(log_p, expected, rtol=1e-8 + 50 * eps * np.abs(d).max(), atol=0)
    assert log_p.min() < (-225 if dtype is np.float64 else -10)  # exp(-225) is 1e-98
    np.testing.assert_allclose(np.exp(log_p), model.predict_proba(rows), rtol=1e-12 if dtype is np.float64 else 1e-5)


# ---- tables and arrays


@pytest.mark.parametrize("make", ALL)
def test_frames_keep_names_and_series_are_targets(make, data):
    pandas = pytest.importorskip("pandas")
    x, x_test, y = data
    frame = pandas.DataFrame(x, columns=["a", "b", "c"], index=np.arange(30)[::-1])
    test = pandas.DataFrame(x_test, columns=["a", "b", "c"])
    series = pandas.Series(targets(make, y), index=np.arange(100, 130))
    model = make().fit(frame, series, sample_weight=pandas.Series(np.ones(30)))
    assert list(model.feature_names_in_) == ["a", "b", "c"]
    expected = make().fit(x, targets(make, y), sample_weight=np.ones(30))
    assert not hasattr(expected, "feature_names_in_")
    np.testing.assert_array_equal(model.predict(test), expected.predict(x_test))
    for other, message in [
        (test[["b", "a", "c"]], "must be in the same order"),
        (test.rename(columns={"a": "z"}), "unseen at fit time:\n- z"),
        (test[["a", "b"]], "yet now missing:\n- c"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.predict(other)
    with pytest.warns(UserWarning, match=f"{make.__name__} was fitted with feature names"):
        model.predict(x_test)
    if make in REGRESSORS:
        make().predict(test)  # the prior has seen no names: no warning
        several = pandas.DataFrame({"u": y, "v": 2 * y})
        found = make().fit(frame, several).predict(test)
        np.testing.assert_array_equal(found, make().fit(x, several.to_numpy()).predict(x_test))
    else:
        names = pandas.Series(np.where(series, "yes", "no"), dtype="category")
        assert set(make().fit(frame, names).predict(test)) <= {"yes", "no"}


@pytest.mark.parametrize("make", ALL)
def test_integers_lose_nothing(make, data):
    x, _, y = data
    whole = np.round(1e9 * x).astype(np.int64)
    model = make(W_std=1e-8).fit(whole, targets(make, y))
    expected = make(W_std=1e-8).fit(whole.astype(np.float64), targets(make, y))
    for found, other in zip(answers(model, whole[:5]), answers(expected, whole[:5]), strict=True):
        assert found.dtype == np.float64 if isinstance(found, np.ndarray) else True
        np.testing.assert_array_equal(found, other)
    assert make().fit(x.astype(np.longdouble), targets(make, y))._dtype == np.float64


@pytest.mark.parametrize("make", ALL)
def test_sparse_and_masked_arrays_are_refused_in_words(make, data):
    x, x_test, y = data
    y = targets(make, y)
    hidden, masked = np.ma.masked_greater(x, 1), f"{make.__name__}.* is a masked array"
    for rows, labels, error, message in [
        (sparse.csr_matrix(x), y, TypeError, "Sparse data was passed for X"),
        (x, sparse.csr_matrix(y[:, None]), (TypeError, ValueError), "[Ss]parse"),
        (hidden, y, TypeError, masked),
        (x, np.ma.masked_greater(y, 0.9), TypeError, masked),
    ]:
        with pytest.raises(error, match=message):
            make().fit(rows, labels)
    with pytest.raises(TypeError, match=masked):
        make().fit(x, y, sample_weight=np.ma.masked_array(np.ones(30)))
    model = make().fit(x, y)
    with pytest.raises(TypeError, match=masked):
        model.predict(hidden)
    with pytest.raises(TypeError, match="Sparse data was passed for X"):
        model.predict(sparse.csr_array(x_test))
    for call in (InfiniteWidthKernel(), InfiniteWidthKernel().diag, NNGPRegressor().predict):
        with pytest.raises(TypeError, match="X is a masked array"):
            call(hidden)
