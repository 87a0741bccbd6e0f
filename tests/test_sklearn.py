"""fastntk.sklearn: the kernel object and the estimators, inside scikit-learn and against fastntk.predict."""

from __future__ import annotations

import doctest
import importlib
import pickle
import sys

import fastntk
import mpmath
import numpy as np
import oracles
import pytest

pytest.importorskip("sklearn")
from fastntk import stax
from fastntk.predict import IllConditionedWarning
from fastntk.predict.classify import calibrate
from fastntk.predict.evidence import select_diag_reg
from fastntk.sklearn import InfiniteWidthKernel, NNGPClassifier, NNGPRegressor, NTKClassifier, NTKRegressor
from scipy.linalg import expm
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, WhiteKernel
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import parametrize_with_checks


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.fixture
def data(rng):
    """Training and test rows, and a noisy target of the training rows."""
    x, x_test = rng.normal(size=(30, 4)), rng.normal(size=(9, 4))
    return x, x_test, np.sin(2 * x[:, 0]) + 0.3 * x[:, 1] + 0.5 + 0.1 * rng.normal(size=30)


def network(depth: int = 3, W_std: float = 2**0.5, b_std: float | None = 0.1, phi: stax.Layer | None = None):
    """Written out, as the parameters of the kernel and the estimators are meant."""
    return stax.serial(*[stax.Dense(1, W_std, b_std), phi or stax.Relu()] * depth, stax.Dense(1, W_std))


# ---- the kernel object


@pytest.mark.parametrize("get", ["nngp", "ntk"])
def test_kernel_is_that_of_the_network(get, data):
    x, x_test, _ = data
    kernel = InfiniteWidthKernel(get, depth=2, W_std=1.3, b_std=0.4, nonlinearity="erf")
    kernel_fn = network(2, 1.3, 0.4, stax.Erf()).kernel_fn
    np.testing.assert_array_equal(kernel(x), kernel_fn(x, None, get))
    np.testing.assert_array_equal(kernel(x, x_test), kernel_fn(x, x_test, get))
    np.testing.assert_array_equal(kernel(x, x), kernel(x))
    np.testing.assert_allclose(kernel.diag(x), np.diag(kernel(x)), rtol=1e-14)
    assert not kernel.is_stationary()
    assert kernel(x.astype(np.float32)).dtype == np.float64


def test_kernel_takes_a_network_of_its_own_and_images(rng):
    net = stax.serial(stax.Conv(1, (3, 3), padding="SAME", W_std=1.5), stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1))
    rows = rng.normal(size=(5, 4 * 6 * 2))
    images = rows.reshape(5, 4, 6, 2)
    for given in (net, net.kernel_fn):
        kernel = InfiniteWidthKernel("ntk", network=given, input_shape=(4, 6, 2))
        np.testing.assert_array_equal(kernel(rows, rows[:2]), net.kernel_fn(images, images[:2], "ntk"))
        np.testing.assert_allclose(kernel.diag(rows), np.diag(net.kernel_fn(images, None, "ntk")), rtol=1e-12)
        assert kernel.n_dims == 0
        assert kernel(rows, eval_gradient=True)[1].shape == (5, 5, 0)


def test_nonlinearity_may_be_a_layer(data):
    x, _, _ = data
    found = InfiniteWidthKernel(nonlinearity=stax.LeakyRelu(0.3), depth=1, b_std=None)(x)
    np.testing.assert_array_equal(found, network(1, 2**0.5, None, stax.LeakyRelu(0.3)).kernel_fn(x, None, "nngp"))
    named = InfiniteWidthKernel(nonlinearity="leaky_relu")(x)
    np.testing.assert_array_equal(named, InfiniteWidthKernel(nonlinearity=stax.LeakyRelu(0.1))(x))


def exact_gradient(x, get, phi, depth, W_std, b_std):
    """dK / d log W_std and d log b_std by differences of 1e-30 in 100 digits."""
    mp = oracles.mp
    step = mp.mpf(10) ** -30

    def kernel(log_W, log_b):
        hidden = ("dense", 1, mp.exp(log_W), mp.exp(log_b), "ntk", (1, 1))
        readout = ("dense", 1, mp.exp(log_W), None, "ntk", (1, 1))
        state = oracles.network([hidden, ("phi", oracles.example(phi))] * depth + [readout], oracles.inputs(x))
        return getattr(state, get)

    W, b = mp.log(mp.mpf(W_std)), mp.log(mp.mpf(b_std))
    n = len(x)
    found = np.empty((n, n, 2))
    for k, (dW, db) in enumerate(((step, 0), (0, step))):
        above, below = kernel(W + dW, b + db), kernel(W - dW, b - db)
        for i in range(n):
            for j in range(i, n):
                slope = (above[i][j - i] - below[i][j - i]) / (2 * step)
                found[i, j, k] = found[j, i, k] = float(slope)
    return found


@pytest.mark.parametrize(("get", "phi", "depth"), [("nngp", "relu", 3), ("ntk", "relu", 3), ("ntk", "erf", 10)])
def test_gradient_against_100_digits(get, phi, depth, rng):
    """The bound that the docstring states; with near and exact copies, and opposite rows."""
    x = rng.normal(size=(5, 3))
    x[1], x[2], x[3] = x[0] * (1 + 1e-7), x[0], -x[0]
    kernel = InfiniteWidthKernel(get, depth, W_std=1.3, b_std=0.2, nonlinearity=phi)
    k, gradient = kernel(x, eval_gradient=True)
    np.testing.assert_array_equal(k, kernel(x))
    error = np.abs(gradient - exact_gradient(x, get, phi, depth, 1.3, 0.2)).max()
    assert error <= 1e-11 * (depth + 1) * k.max()


def test_theta_bounds_and_clones():
    kernel = InfiniteWidthKernel(W_std=1.2, b_std=0.3, W_std_bounds=(0.5, 2), b_std_bounds=(1e-2, 1))
    np.testing.assert_allclose(kernel.theta, np.log([1.2, 0.3]))
    np.testing.assert_allclose(kernel.bounds, np.log([[0.5, 2], [1e-2, 1]]))
    other = kernel.clone_with_theta(np.log([1.5, 0.2]))
    assert (other.W_std, other.b_std) == pytest.approx((1.5, 0.2))
    assert (kernel.W_std, kernel.b_std) == (1.2, 0.3)
    assert clone(kernel) == kernel
    assert clone(kernel) != other
    assert repr(kernel) == "InfiniteWidthKernel(get='nngp', depth=3, W_std=1.2, b_std=0.3, nonlinearity='relu')"
    for still in (kernel.set_params(b_std=0.0), kernel.set_params(b_std=None)):
        assert [h.name for h in still.hyperparameters if not h.fixed] == ["W_std"]
    assert InfiniteWidthKernel(W_std_bounds="fixed").n_dims == 1


def test_kernels_add_and_multiply(data):
    x, x_test, _ = data
    kernel = InfiniteWidthKernel("nngp", 1)
    total = 2.0 * kernel + WhiteKernel(0.1)
    np.testing.assert_allclose(total(x), 2 * kernel(x) + 0.1 * np.eye(len(x)))
    np.testing.assert_allclose(
        (kernel * InfiniteWidthKernel("ntk"))(x, x_test), kernel(x, x_test) * InfiniteWidthKernel("ntk")(x, x_test)
    )
    assert total.n_dims == 4
    assert clone(total) == total
    _, gradient = (ConstantKernel(2.0) * kernel)(x, eval_gradient=True)
    np.testing.assert_allclose(gradient[..., 0], 2 * kernel(x))
    np.testing.assert_allclose(gradient[..., 1:], 2 * kernel(x, eval_gradient=True)[1])


def test_gaussian_process_regressor_improves_the_likelihood(data):
    x, x_test, y = data
    start = InfiniteWidthKernel("nngp", 2, W_std=1.0, b_std=1.0, nonlinearity="erf") + WhiteKernel(0.1, "fixed")
    fixed = GaussianProcessRegressor(start, optimizer=None).fit(x, y)
    free = GaussianProcessRegressor(start).fit(x, y)
    assert free.log_marginal_likelihood_value_ > fixed.log_marginal_likelihood_value_ + 1
    gradient = free.log_marginal_likelihood(free.kernel_.theta, eval_gradient=True)[1]
    inside = (free.kernel_.theta > free.kernel_.bounds[:, 0]) & (free.kernel_.theta < free.kernel_.bounds[:, 1])
    assert inside.all()
    assert np.abs(gradient).max() < 1e-2
    # The mean is the textbook's.
    k = fixed.kernel_.k1
    expected = k(x_test, x) @ np.linalg.solve(k(x) + 0.1 * np.eye(len(x)), y)
    np.testing.assert_allclose(fixed.predict(x_test), expected, rtol=1e-9)


def test_gradient_of_the_likelihood_against_finer_differences(data):
    """In 50 digits: the log density of y under K + s I, K by the library at log W_std +- h."""
    x, _, y = data
    x, y = x[:6], y[:6]
    gp = GaussianProcessRegressor(InfiniteWidthKernel("ntk", 2) + WhiteKernel(0.1), optimizer=None).fit(x, y)
    _, gradient = gp.log_marginal_likelihood(gp.kernel_.theta, eval_gradient=True)
    kernel = InfiniteWidthKernel("ntk", 2)
    exact = exact_gradient(x, "ntk", "relu", 2, kernel.W_std, kernel.b_std)
    with mpmath.workdps(50):
        a = mpmath.matrix(kernel(x).tolist()) + mpmath.mpf(0.1) * mpmath.eye(6)
        inverse = a**-1
        weights = inverse * mpmath.matrix(y.tolist())
        inner = weights * weights.T - inverse  # (5.9) of Rasmussen and Williams: tr(inner dA) / 2
        expected = [
            float(sum(inner[i, j] * mpmath.mpf(float(exact[j, i, p])) for i in range(6) for j in range(6)) / 2)
            for p in range(2)
        ]
    np.testing.assert_allclose(gradient[:2], expected, rtol=1e-9)


def test_gaussian_process_classifier_follows_the_gradient(data):
    x, _, y = data
    model = GaussianProcessClassifier(InfiniteWidthKernel("nngp", 2), optimizer=None).fit(x, y > 0)
    theta, step = model.kernel_.theta, 1e-4
    _, gradient = model.log_marginal_likelihood(theta, eval_gradient=True)
    ends = [[model.log_marginal_likelihood(theta + s * step * e) for s in (1, -1)] for e in np.eye(2)]
    np.testing.assert_allclose(gradient, [(a - b) / (2 * step) for a, b in ends], rtol=1e-4)


@pytest.mark.parametrize("get", ["nngp", "ntk"])
def test_svc_and_kernel_ridge_equal_precomputed_grams(get, data):
    x, x_test, y = data
    kernel = InfiniteWidthKernel(get, 2)
    k, cross = kernel(x), kernel(x_test, x)
    with_object, with_grams = SVC(kernel=kernel).fit(x, y > 0), SVC(kernel="precomputed").fit(k, y > 0)
    np.testing.assert_array_equal(with_object.decision_function(x_test), with_grams.decision_function(cross))
    ridge = KernelRidge(kernel=kernel, alpha=0.1).fit(x, y)
    expected = KernelRidge(kernel="precomputed", alpha=0.1).fit(k, y).predict(cross)
    np.testing.assert_allclose(ridge.predict(x_test), expected, rtol=1e-12)


def test_pipeline_and_grid_search_over_the_kernel(data):
    x, x_test, y = data
    pipeline = make_pipeline(StandardScaler(), SVC(kernel=InfiniteWidthKernel("ntk")))
    search = GridSearchCV(pipeline, {"svc__kernel__depth": [1, 4], "svc__C": [0.1, 10]}, cv=3).fit(x, y > 0)
    depth = search.best_params_["svc__kernel__depth"]
    scaler = StandardScaler().fit(x)
    expected = SVC(kernel=InfiniteWidthKernel("ntk", depth), C=search.best_params_["svc__C"])
    expected.fit(scaler.transform(x), y > 0)
    np.testing.assert_array_equal(search.predict(x_test), expected.predict(scaler.transform(x_test)))
    ridge = GridSearchCV(KernelRidge(kernel=InfiniteWidthKernel()), {"kernel__get": ["nngp", "ntk"]}, cv=3).fit(x, y)
    assert ridge.cv_results_["mean_test_score"].shape == (2,)


@pytest.mark.parametrize("get", ["nngp", "ntk"])
def test_kernel_and_models_survive_pickling(get, data):
    x, x_test, y = data
    kernel = InfiniteWidthKernel(get, 2, network=network().kernel_fn)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(kernel))(x), kernel(x))
    model = GaussianProcessRegressor(InfiniteWidthKernel(get, 2), alpha=0.1).fit(x, y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(x_test), model.predict(x_test))


def test_kernel_refuses(rng):
    x = rng.normal(size=(3, 4))
    nan = x.copy()
    nan[1, 2] = np.nan
    positions = stax.serial(stax.Conv(1, (1,)), stax.Relu())
    several = stax.serial(stax.FanOut(2), stax.parallel(stax.Dense(1), stax.Dense(1)))
    for parameters, rows, error, message in [
        ({"get": "NTK"}, x, ValueError, r"\[InfiniteWidthKernel\] get must be 'nngp' or 'ntk', given 'NTK'"),
        ({"depth": 0}, x, ValueError, r"\[InfiniteWidthKernel\] depth must be at least 1, given 0"),
        ({"depth": 1.5}, x, TypeError, r"\[InfiniteWidthKernel\] depth must be an integer, given 1.5"),
        ({"nonlinearity": "tanhh"}, x, ValueError, r"nonlinearity must be one of \['abrelu', .*given 'tanhh'"),
        ({"nonlinearity": np.tanh}, x, TypeError, "nonlinearity must be a name or a nonlinearity of stax"),
        ({"W_std": -1.0}, x, ValueError, "W_std must not be negative, given -1"),
        ({"network": "relu"}, x, TypeError, "network must be a stax layer or its kernel_fn, given str"),
        ({"network": several}, x, ValueError, "one output without positions, this one has 2 outputs"),
        ({"network": positions, "input_shape": (2, 2)}, x, ValueError, r"this one has kernels of shape \(3, 3, 2, 2\)"),
        ({"input_shape": (3, 2)}, x, ValueError, r"input_shape \(3, 2\) holds 6 values, rows of X have 4 features"),
        ({"input_shape": (4, 0)}, x, ValueError, "input_shape must be at least 1, given 0"),
        ({}, nan, ValueError, "Input X contains NaN"),
    ]:
        with pytest.raises(error, match=message):
            InfiniteWidthKernel(**parameters)(rows)
    with pytest.raises(ValueError, match="x1 has 4 features, x2 has 3"):
        InfiniteWidthKernel()(x, x[:, :3])
    with pytest.raises(ValueError, match="eval_gradient needs Y=None"):
        InfiniteWidthKernel()(x, x, eval_gradient=True)


# ---- estimators

ESTIMATORS = [
    NNGPRegressor(), NTKRegressor(), NTKRegressor(t=100.0), NNGPClassifier(), NTKClassifier(), NTKClassifier(t=100.0),
]  # fmt: skip


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def kernels(x, x_test, **parameters):
    """NNGP and NTK of training points, of test with training points, and of test points."""
    kernel_fn = network(**parameters).kernel_fn
    both = ("nngp", "ntk")
    return kernel_fn(x, None, both), kernel_fn(x_test, x, both), kernel_fn(x_test, None, both)


def shifted(k, diag_reg):
    return k + diag_reg * np.trace(k) / len(k) * np.eye(len(k))


def scaled(y):
    return (y - y.mean(axis=0)) / y.std(axis=0), y.mean(axis=0), y.std(axis=0)


def test_nngp_regressor_is_the_textbook_posterior(data):
    x, x_test, y = data
    k, cross, prior = (each.nngp for each in kernels(x, x_test, depth=2, W_std=1.2, b_std=0.3))
    model = NNGPRegressor(2, 1.2, 0.3, diag_reg=0.05).fit(x, y)
    target, offset, unit = scaled(y)
    inverse = np.linalg.inv(shifted(k, 0.05))
    mean = offset + unit * (cross @ inverse @ target)
    cov = unit**2 * (prior - cross @ inverse @ cross.T)
    np.testing.assert_allclose(model.predict(x_test), mean, rtol=1e-9)
    for found, expected in zip(model.predict(x_test, return_cov=True), (mean, cov), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
    for found, expected in zip(model.predict(x_test, return_std=True), (mean, np.sqrt(np.diag(cov))), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8)
    evidence = multivariate_normal(np.zeros(30), shifted(k, 0.05)).logpdf(target)
    assert model.log_marginal_likelihood_ == pytest.approx(evidence, abs=1e-9)
    assert (model.diag_reg_, model.amplitude_) == (0.05, 1.0)
    assert model.conditioning_.n == 30
    assert model.conditioning_.diag_reg == pytest.approx(0.05 * np.trace(k) / 30)
    plain = NNGPRegressor(2, 1.2, 0.3, diag_reg=0.05, normalize_y=False).fit(x, y)
    np.testing.assert_allclose(plain.predict(x_test), cross @ inverse @ y, rtol=1e-9)


@pytest.mark.parametrize("t", [None, 0.0, 50.0])
def test_ntk_regressor_is_the_ensemble(t, data):
    """Mean and spread over random starts, by the matrix exponential."""
    x, x_test, y = data
    k, cross, prior = kernels(x, x_test, phi=stax.Erf())
    model = NTKRegressor(nonlinearity="erf", diag_reg=0.01, t=t, learning_rate=0.5).fit(x, y)
    target, offset, unit = scaled(y)
    a = shifted(k.ntk, 0.01)
    learned = np.eye(30) if t is None else np.eye(30) - expm(-a * 0.5 * t / 30)
    b = cross.ntk @ np.linalg.solve(a, learned)
    cov = prior.nngp + b @ k.nngp @ b.T - b @ cross.nngp.T - cross.nngp @ b.T
    mean, std = model.predict(x_test, return_std=True)
    np.testing.assert_allclose(mean, offset + unit * (b @ target), rtol=1e-8)
    np.testing.assert_allclose(std, unit * np.sqrt(np.diag(cov)), rtol=1e-8)
    np.testing.assert_array_equal(model.predict(x_test), mean)


@pytest.mark.parametrize("make", [NNGPRegressor, NTKRegressor])
def test_several_outputs_are_learned_side_by_side(make, data):
    x, x_test, y = data
    both = np.column_stack([y, 5 * x[:, 2] ** 2])
    model = make().fit(x, both)
    alone = [make().fit(x, column) for column in both.T]
    mean, std = model.predict(x_test, return_std=True)
    for k, one in enumerate(alone):
        expected = one.predict(x_test, return_std=True)
        np.testing.assert_allclose(mean[:, k], expected[0], rtol=1e-9)
        np.testing.assert_allclose(std[:, k], expected[1], rtol=1e-9)
    if make is NNGPRegressor:
        assert model.predict(x_test, return_cov=True)[1].shape == (9, 9, 2)
        draws = model.sample_y(x_test, 3)
        assert draws.shape == (9, 2, 3)
    assert model.predict(x_test).shape == (9, 2)
    assert make().fit(x, y[:, None]).predict(x_test).shape == (9, 1)


def test_amplitude_is_that_of_the_largest_evidence(data):
    x, x_test, y = data
    k, _, _ = kernels(x, x_test)
    target, _, _ = scaled(y)
    model = NNGPRegressor(amplitude=None, diag_reg=0.1).fit(x, y)
    best = target @ np.linalg.solve(shifted(k.nngp, 0.1), target) / 30
    assert model.amplitude_ == pytest.approx(best, rel=1e-9)
    one = NNGPRegressor(diag_reg=0.1).fit(x, y)
    assert model.log_marginal_likelihood_ > one.log_marginal_likelihood_
    for keywords in ({"return_std": True}, {"return_cov": True}):
        factor = best if "return_cov" in keywords else np.sqrt(best)
        (mean, spread), (same, unscaled) = (m.predict(x_test, **keywords) for m in (model, one))
        np.testing.assert_array_equal(mean, same)
        np.testing.assert_allclose(spread, factor * unscaled, rtol=1e-9)


@pytest.mark.parametrize("criterion", ["leave_one_out", "evidence"])
@pytest.mark.parametrize("make", [NNGPRegressor, NTKRegressor, NNGPClassifier, NTKClassifier])
def test_diag_reg_is_chosen_on_the_training_set(make, criterion, data):
    x, _, y = data
    x = x[:, :1] if make in (NNGPRegressor, NTKRegressor) else x
    k = getattr(network().kernel_fn(x, None, ("nngp", "ntk")), make._get)
    classes = make in (NNGPClassifier, NTKClassifier)
    y = np.digitize(y, [0.2, 0.9]) if classes else y
    targets = np.eye(3)[y] - 1 / 3 if classes else scaled(y)[0][:, None]
    amplitude = 1.0 if make is NNGPRegressor else None
    expected = select_diag_reg(k, targets, criterion=criterion, amplitude=amplitude)
    model = make(diag_reg=criterion).fit(x, y)
    assert model.diag_reg_ == expected.diag_reg
    assert expected.at_edge == ""


def test_draws_have_the_posterior_as_their_distribution(data):
    x, x_test, y = data
    model = NNGPRegressor(amplitude=2.0).fit(x, y)
    mean, cov = model.predict(x_test[:3], return_cov=True)
    draws = model.sample_y(x_test[:3], 20_000, random_state=5)
    assert draws.shape == (3, 20_000)
    spread = np.sqrt(np.diag(cov))
    assert (np.abs(draws.mean(axis=1) - mean) < 5 * spread / np.sqrt(20_000)).all()
    # The standard error of a covariance of Gaussians is below sqrt(2 / n) of the product of standard deviations.
    assert (np.abs(np.cov(draws) - cov) < 5 * np.sqrt(2 / 20_000) * np.outer(spread, spread)).all()
    np.testing.assert_array_equal(model.sample_y(x_test, 2, 3), model.sample_y(x_test, 2, np.random.RandomState(3)))


@pytest.fixture
def classes(rng):
    """Three classes on overlapping ground, labels as strings."""
    x = rng.normal(size=(60, 3))
    y = np.argmax(x @ rng.normal(size=(3, 3)) + 0.5 * rng.normal(size=(60, 3)), axis=1)
    return x[:40], x[40:], np.array(["b", "c", "a"])[y][:40], np.array(["b", "c", "a"])[y][40:]


@pytest.mark.parametrize(("make", "t"), [(NNGPClassifier, None), (NTKClassifier, None), (NTKClassifier, 300.0)])
def test_classifiers_learn_one_hot_targets(make, t, classes):
    """Means by the textbook; probabilities as often as a draw's output is the largest, held-out points by refitting."""
    x, x_test, y, _ = classes
    kernel_fn = network(2).kernel_fn
    model = make(2, diag_reg=0.1, **({} if t is None else {"t": t})).fit(x, y)
    assert list(model.classes_) == ["a", "b", "c"]
    targets = (y[:, None] == model.classes_) - 1 / 3
    ridge = 0.1 * kernel_fn.diagonal(x, model._get).mean()

    def posterior(kept, y_kept, rows):
        both = ("nngp", "ntk")
        k, cross, prior = kernel_fn(kept, None, both), kernel_fn(rows, kept, both), kernel_fn(rows, None, both)
        if t is None:
            own = [getattr(each, model._get) for each in (k, cross, prior)]
            b = own[1] @ np.linalg.inv(own[0] + ridge * np.eye(len(kept)))
            return b @ y_kept, np.diag(own[2] - b @ own[1].T) + ridge
        a = shifted(k.ntk, 0.1)
        b = cross.ntk @ np.linalg.solve(a, np.eye(len(kept)) - expm(-a * t / y_kept.size))
        return b @ y_kept, np.diag(prior.nngp + b @ k.nngp @ b.T - b @ cross.nngp.T - cross.nngp @ b.T)

    mean, variance = posterior(x, targets, x_test)
    np.testing.assert_array_equal(model.predict(x_test), model.classes_[mean.argmax(axis=1)])
    np.testing.assert_allclose(
        model.decision_function(x_test), mean / np.sqrt(variance)[:, None], rtol=1e-8, atol=1e-12
    )

    out_mean, out_variance = np.empty((40, 3)), np.empty(40)
    folds = KFold(40) if t is None else KFold(5, shuffle=True, random_state=0)
    order = np.lexsort(x.T[::-1])  # rows may come in any
    for kept, out in ((order[kept], order[out]) for kept, out in folds.split(x)):
        out_mean[out], out_variance[out] = posterior(x[kept], targets[kept], x[out])
    variances = kernel_fn.diagonal(x, "nngp" if t is not None else model._get)
    unit = 2.0 ** round(np.log2(variances.mean()) / 2)  # the search starts from the prior's
    temperature = calibrate(out_mean, out_variance / unit**2, np.searchsorted(model.classes_, y)) / unit
    assert model.temperature_ == pytest.approx(temperature, rel=1e-6)

    probabilities = model.predict_proba(x_test)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    noise = np.random.default_rng(0).normal(size=(40_000, 20, 3))
    largest = (mean + temperature * np.sqrt(variance)[:, None] * noise).argmax(axis=2)
    counted = (largest[..., None] == np.arange(3)).mean(axis=0)
    assert (np.abs(counted - probabilities) < 5 * np.sqrt(0.25 / 40_000)).all()


def test_two_classes_have_one_decision(classes):
    x, x_test, y, _ = classes
    model = NNGPClassifier().fit(x, y == "a")
    decision = model.decision_function(x_test)
    assert decision.shape == (20,)
    np.testing.assert_array_equal(decision > 0, model.predict(x_test))
    assert 0.5 < model.score(x, y == "a") <= 1


@pytest.mark.parametrize("make", [NNGPClassifier, NTKClassifier])
def test_certainty_beyond_rounding_is_finite(make, classes):
    """Without noise, the variance at a training point is rounding or zero."""
    x, _, y, _ = classes
    model = make(diag_reg=0.0).fit(x, y)
    assert np.isfinite(model.decision_function(x)).all()
    np.testing.assert_array_equal(model.predict(x), y)
    np.testing.assert_allclose(model.predict_proba(x).max(axis=1), 1, atol=1e-6)


def test_images_are_rows(rng):
    net = stax.serial(stax.Conv(1, (3, 3), padding="SAME"), stax.Relu(), stax.Flatten(), stax.Dense(1))
    rows, y = rng.normal(size=(12, 4 * 4 * 2)), np.arange(12) % 2
    for make in (NNGPClassifier, NTKClassifier):
        model = make(network=net, input_shape=(4, 4, 2)).fit(rows, y)
        k = net.kernel_fn(rows.reshape(12, 4, 4, 2), None, make._get)
        mean = k @ np.linalg.solve(shifted(k, 1e-3), np.eye(2)[y] - 0.5)
        np.testing.assert_array_equal(model.predict(rows), mean.argmax(axis=1))
        assert model.n_features_in_ == 32
    mean, std = NTKRegressor(network=net, input_shape=(4, 4, 2)).fit(rows, y).predict(rows, return_std=True)
    assert mean.shape == std.shape == (12,)


@pytest.mark.parametrize("make", [NNGPRegressor, NTKRegressor, NNGPClassifier, NTKClassifier])
def test_searches_pipelines_pickles_and_clones(make, data):
    x, x_test, y = data
    y = y > 0.5 if "Classifier" in make.__name__ else y
    model = make(W_std=1.1, network=None, diag_reg=0.05)
    assert clone(model).get_params() == model.get_params()
    search = GridSearchCV(model, {"depth": [1, 4], "diag_reg": [1e-2, 1.0]}, cv=3).fit(x, y)
    best = make(W_std=1.1, **search.best_params_).fit(x, y)
    np.testing.assert_array_equal(search.predict(x_test), best.predict(x_test))
    scores = cross_val_score(make(W_std=1.1, **search.best_params_), x, y, cv=3)
    assert search.best_score_ == pytest.approx(scores.mean())
    pipeline = make_pipeline(StandardScaler(), make(network=network())).fit(x, y)
    again = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(again.predict(x_test), pipeline.predict(x_test))
    if hasattr(pipeline, "predict_proba"):
        np.testing.assert_array_equal(again.predict_proba(x_test), pipeline.predict_proba(x_test))


@pytest.mark.parametrize("make", [NNGPRegressor, NTKRegressor, NNGPClassifier, NTKClassifier])
def test_float32_stays_float32(make, data):
    x, x_test, y = data
    y = y > 0.5 if "Classifier" in make.__name__ else y
    model, double = make().fit(x.astype(np.float32), y), make().fit(x, y)
    if "Classifier" in make.__name__:
        found, expected = (m.decision_function(x_test) for m in (model, double))
        assert model.predict_proba(x_test).dtype == np.float32
    else:
        (found, std), (expected, _) = (m.predict(x_test, return_std=True) for m in (model, double))
        assert std.dtype == np.float32
    assert (found.dtype, expected.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_constant_targets_are_predicted(data):
    x, x_test, _ = data
    for make in (NNGPRegressor, NTKRegressor):
        np.testing.assert_allclose(make().fit(x, np.full(30, 1e6 / 3)).predict(x_test), 1e6 / 3, rtol=1e-12)
    for parameters in ({"amplitude": None}, {"diag_reg": "evidence"}):
        with pytest.raises(ValueError, match="all targets are zero"):
            NNGPRegressor(**parameters).fit(x, np.ones(30))


def test_a_singular_gram_is_reported(data):
    x, x_test, y = data
    twice = np.concatenate([x, x[:3]]), np.concatenate([y, y[:3]])
    model = NNGPRegressor(diag_reg=0.0, normalize_y=False)
    with pytest.warns(IllConditionedWarning, match="singular to rounding") as caught:
        model.fit(*twice)
    assert caught[0].filename == __file__
    assert model.conditioning_.jitter > 0
    once = NNGPRegressor(diag_reg=0.0, normalize_y=False).fit(x, y)
    np.testing.assert_allclose(model.predict(x_test), once.predict(x_test), rtol=1e-6)


def test_feature_names_are_kept(data):
    pandas = pytest.importorskip("pandas")
    x, x_test, y = data
    names = ["a", "b", "c", "d"]
    model = NTKRegressor().fit(pandas.DataFrame(x, columns=names), y)
    assert list(model.feature_names_in_) == names
    np.testing.assert_array_equal(
        model.predict(pandas.DataFrame(x_test, columns=names)), NTKRegressor().fit(x, y).predict(x_test)
    )
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(pandas.DataFrame(x_test, columns=names[::-1]))


@pytest.mark.parametrize("make", [NNGPRegressor, NTKRegressor, NNGPClassifier, NTKClassifier])
def test_estimators_refuse(make, data):
    x, x_test, y = data
    y = y > 0.5 if "Classifier" in make.__name__ else y
    nan = x.copy()
    nan[3, 1] = np.nan
    name = rf"\[{make.__name__}\] "
    for parameters, rows, error, message in [
        ({"nonlinearity": "tanhh"}, x, ValueError, name + "nonlinearity must be one of .*given 'tanhh'"),
        ({"depth": 0}, x, ValueError, name + "depth must be at least 1, given 0"),
        ({"network": "relu"}, x, TypeError, name + "network must be a stax layer or its kernel_fn, given str"),
        ({"input_shape": (5,)}, x, ValueError, name + r"input_shape \(5,\) holds 5 values, rows of X have 4 features"),
        ({"network": stax.FanOut(2)}, x, ValueError, name + "the network must have one output without positions"),
        (
            {"diag_reg": "loo"},
            x,
            ValueError,
            name + "diag_reg must be a number, 'leave_one_out' or 'evidence', given 'loo'",
        ),
        ({"diag_reg": None}, x, ValueError, name + "diag_reg must be a number, .*given None"),
        ({"diag_reg": True}, x, ValueError, name + "diag_reg must be a number, .*given True"),
        ({"diag_reg": np.full(30, 0.1)}, x, ValueError, name + "diag_reg must be a number, "),
        ({"diag_reg": np.nan}, x, ValueError, name + "diag_reg must be finite and not negative, given nan"),
        ({"diag_reg": -1.0}, x, ValueError, name + "diag_reg must be finite and not negative, given -1"),
        ({"W_std": -1.0}, x, ValueError, "W_std must not be negative"),
        ({}, nan, ValueError, "Input X contains NaN"),
        ({}, x[:-1], ValueError, "inconsistent numbers of samples"),
        ({}, x[:, :, None], ValueError, "Found array with dim 3"),
    ]:
        with pytest.raises(error, match=message):
            make(**parameters).fit(rows, y)
    if make in (NTKRegressor, NTKClassifier):
        for parameters, message in [
            ({"t": -1.0}, "t must not be negative or NaN, given -1"),
            ({"t": [1.0, 2.0]}, name + r"t must be one number or None, given \[1.0, 2.0\]"),
            ({"t": np.array(1.0)}, name + "t must be one number or None, given array"),
            ({"t": "late"}, name + "t must be one number or None, given 'late'"),
            ({"t": 1.0, "learning_rate": 0.0}, "learning_rate must be finite and positive, given 0"),
        ]:
            with pytest.raises(ValueError, match=message):
                make(**parameters).fit(x, y)
    model = make().fit(x, y)
    with pytest.raises(ValueError, match=r"X has 3 features, but .* is expecting 4 features"):
        model.predict(x_test[:, :3])
    with pytest.raises(ValueError, match="Input X contains NaN"):
        model.predict(nan)
    for attribute in ("conditioning_", "log_marginal_likelihood_", "temperature_"):
        if hasattr(make, attribute):
            with pytest.raises(NotFittedError):
                getattr(make(), attribute)


def test_more_is_refused(data):
    x, x_test, y = data
    with pytest.raises(ValueError, match="return_std and return_cov are not had at once"):
        NNGPRegressor().fit(x, y).predict(x_test, return_std=True, return_cov=True)
    with pytest.raises(ValueError, match="Input y contains NaN"):
        NTKRegressor().fit(x, np.where(y > 0, y, np.nan))
    with pytest.raises(ValueError, match=r"\[NTKClassifier\] at least two classes are needed, y has 1 class: \[1\]"):
        NTKClassifier().fit(x, np.ones(30, dtype=int))
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        NNGPClassifier().fit(x, y)


def test_examples_in_docstrings():
    for name in ("classification", "kernel", "regression"):
        found = doctest.testmod(importlib.import_module(f"fastntk.sklearn.{name}"))
        assert (found.failed, found.attempted > 0) == (0, True)


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"pip install 'fastntk\[sklearn\]'"):
        importlib.reload(fastntk.sklearn)
