"""fastntk.sklearn: the kernel object and the estimators, inside scikit-learn and against fastntk.predict."""

from __future__ import annotations

import pickle

import mpmath
import numpy as np
import oracles
import pytest

pytest.importorskip("sklearn")
from fastntk import stax
from fastntk.sklearn import InfiniteWidthKernel
from sklearn.base import clone
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, WhiteKernel
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC


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
    dense = stax.Dense(1, W_std, b_std)
    return stax.serial(*[dense, phi or stax.Relu()] * depth, dense)


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
        dense = ("dense", 1, mp.exp(log_W), mp.exp(log_b), "ntk", (1, 1))
        state = oracles.network([dense, *[("phi", phi, ()), dense] * depth], oracles.inputs(x))
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
