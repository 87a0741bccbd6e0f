"""predict: gradient descent on the squared error and exact inference, against many digits, loops and definitions."""

from __future__ import annotations

import copy
import pickle

import mpmath
import numpy as np
import pytest
from fastntk import predict, stax
from fastntk.predict import Gaussian
from predict_inputs import Kernels, both, draw, gram, warned
from scipy.linalg import expm, hilbert

EPS = 2.0**-52


# ---------------------------------------------------------------- functions of the kernel, in many digits


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("w", [1e-300, 1e-9, 0.3, 1.0, 1.0 + 1e-9, 1.7, 2.0 - 1e-12, 2.0, 2.5])
def test_one_eigenvalue(w, discrete):
    """K = (w), Y = 1: the training output is what is learned, the test output that over w."""
    f = predict.gradient_descent_mse(np.array([[w]]), np.ones((1, 1)), discrete=discrete)
    t = np.array([0, 1, 2, 3, 10, 1001, 10**6 + 1] if w <= 2 else [0, 1, 2, 3, 101])
    (train, test), caught = warned(lambda: f(t, 0.0, 0.0, np.ones((1, 1))))
    assert {c.category for c in caught} == ({RuntimeWarning} if discrete and w > 2 else set())
    with mpmath.workdps(400):
        exact = mpmath.mpf(w)
        learned = [1 - (1 - exact) ** int(s) if discrete else -mpmath.expm1(-exact * int(s)) for s in t]
        solved = [float(value / exact) for value in learned]
    # The exponent t log|1 - w| is rounded; beside 0 the error is relative.
    allowed = [8 * EPS * max(1.0, s * abs(np.log(abs(1 - w))) if discrete and w > 1 and w != 2 else 1.0) for s in t]
    for found, expected in ((train, [float(v) for v in learned]), (test, solved)):
        assert np.all(np.abs(found[:, 0, 0] - expected) <= allowed * np.abs(expected))


@pytest.mark.parametrize("discrete", [False, True])
def test_functions_of_an_ill_conditioned_gram(discrete):
    """A Hilbert matrix of condition 5e9 at times when more and more of its eigenvalues have been learned."""
    n, rate = 7, 3.0
    k, y, cross, before = hilbert(n), draw(n, 2), draw(3, n, seed=4), draw(n, 2, seed=5)
    times = [0, 1, 100, 10**6, 10**9]
    train, test = predict.gradient_descent_mse(k, y, rate, discrete=discrete)(times, before, 0.25, cross)
    with mpmath.workdps(60):
        values, vectors = mpmath.eigsy(mpmath.matrix(k.tolist()))
        error = vectors.T * mpmath.matrix((y - before).tolist())
        for at, t in enumerate(times):
            step = [mpmath.mpf(rate) / y.size * w for w in values]
            learned = [1 - (1 - s) ** t if discrete else -mpmath.expm1(-s * t) for s in step]
            solved = [g / w for g, w in zip(learned, values, strict=True)]
            exact_train = before + np.array((vectors * mpmath.diag(learned) * error).tolist(), float)
            exact_test = 0.25 + cross @ np.array((vectors * mpmath.diag(solved) * error).tolist(), float)
            # What rounding the kernel does to such a function of it: the largest value times its slope.
            slope = float(max(solved)) * float(max(values))
            assert np.max(np.abs(train[at] - exact_train)) <= 20 * EPS * (1 + slope)
            assert np.max(np.abs(test[at] - exact_test)) <= 20 * EPS * (1 + slope) * np.max(np.abs(exact_test))


def test_steps_are_gradient_descent():
    """The loop itself, of the loss |f - Y|^2 / (2 |Y|), with steps long enough to overshoot."""
    k, cross = both(8, 3)[0].ntk, both(8, 3)[1].ntk
    y, f, g = draw(8, 2), draw(8, 2, seed=5), draw(3, 2, seed=6)
    rate = 0.97 * predict.max_learning_rate(k, y.size)
    predictor = predict.gradient_descent_mse(k, y, rate, discrete=True)
    train, test = predictor(np.arange(30), f, g, cross)
    for at in range(30):
        np.testing.assert_allclose(train[at], f, rtol=0, atol=1e-13 * 30)
        np.testing.assert_allclose(test[at], g, rtol=0, atol=1e-13 * 30)
        slope = (f - y) / y.size
        f, g = f - rate * k @ slope, g - rate * cross @ slope


def test_short_steps_are_the_flow():
    k, cross = both(6, 3)[0].ntk, both(6, 3)[1].ntk
    y = draw(6, 1)
    flow = predict.gradient_descent_mse(k, y, 1.0)(5.0, 0.0, 0.0, cross)
    steps = predict.gradient_descent_mse(k, y, 1e-5, discrete=True)(500_000, 0.0, 0.0, cross)
    for a, b in zip(flow, steps, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-5)


# ---------------------------------------------------------------- limits and identities


def test_time_zero_is_the_start():
    k, cross = both(6, 3)[0].ntk, both(6, 3)[1].ntk
    before, after = draw(6, 2, seed=5), draw(3, 2, seed=6)
    train, test = predict.gradient_descent_mse(k, draw(6, 2))(0, before, after, cross)
    assert np.array_equal(train, before)
    assert np.array_equal(test, after)


def test_time_without_end_is_the_solve():
    k, cross = both(6, 3)[0].ntk, both(6, 3)[1].ntk
    y, before, after = draw(6, 2), draw(6, 2, seed=5), draw(3, 2, seed=6)
    expected = after + cross @ np.linalg.solve(k, y - before)
    for discrete in (False, True):
        f = predict.gradient_descent_mse(k, y, discrete=discrete)
        for t in (None, np.inf, 1e300):
            train, test = f(t, before, after, cross)
            np.testing.assert_allclose(train, y, rtol=0, atol=1e-12)
            np.testing.assert_allclose(test, expected, rtol=0, atol=1e-12)


def test_training_points_are_interpolated():
    k, _, _ = both(20, 1)
    y = draw(20, 2)
    for g in ("nngp", "ntk", "ntkgp"):
        found = predict.gp_inference(k, y)(g, k, k)
        np.testing.assert_allclose(found.mean, y, rtol=0, atol=1e-8)
        assert np.max(np.abs(found.covariance)) <= 1e-8
        assert np.min(np.diag(found.covariance)) >= 0
        alone = predict.gp_inference(k, y)(g, k, Kernels(*map(np.diag, k))).covariance
        assert np.min(alone) >= 0
        assert np.max(alone) <= 1e-8


def test_regularisation_acts_as_early_stopping():
    """The training residual falls with time and rises with the penalty."""
    k, y = both(15, 1)[0].ntk, draw(15, 1)
    left = [np.linalg.norm(f - y) for f in predict.gradient_descent_mse(k, y)(2.0 ** np.arange(12))]
    assert np.all(np.diff(left) < 0)
    residuals = [
        np.linalg.norm(predict.gradient_descent_mse(k, y, 1.0, 2.0**s)(None, None, 0.0, k) - y) for s in range(-8, 4)
    ]
    assert np.all(np.diff(residuals) > 0)


def test_regularisation_is_relative_to_the_mean_of_the_diagonal():
    k, y = both(6, 1)[0].ntk, draw(6, 1)
    mean = float(np.diag(k).mean())
    for t in (None, 3.0):
        relative = predict.gradient_descent_mse(k, y, 1.0, 0.1)(t, None, 0.0, k)
        absolute = predict.gradient_descent_mse(k, y, 1.0, 0.1 * mean, True)(t, None, 0.0, k)
        np.testing.assert_allclose(relative, absolute, rtol=1e-12)
    assert predict.gp_inference(k, y, 0.1)("nngp", k).shape == y.shape
    a = expm(-(k + 0.1 * mean * np.eye(6)) * 3.0 / 6)
    np.testing.assert_allclose(predict.gradient_descent_mse(k, y, 1.0, 0.1)(3.0), y - a @ y, rtol=0, atol=1e-13)


def test_posterior_by_conditioning_a_joint_gaussian():
    """Schur complements of the joint covariance, by inverses."""
    (k, cross, own), y = both(7, 4), draw(7, 2)
    noise = 0.3
    found = predict.gp_inference(k, y, noise, True)(("nngp", "ntk", "ntkgp"), cross, own)
    for g, a, b, c in ((found.nngp, k.nngp, cross.nngp, own.nngp), (found.ntkgp, k.ntk, cross.ntk, own.ntk)):
        whole = np.block([[a + noise * np.eye(7), b.T], [b, c]])
        np.testing.assert_allclose(g.covariance, np.linalg.inv(np.linalg.inv(whole)[7:, 7:]), rtol=0, atol=1e-13)
        np.testing.assert_allclose(g.mean, b @ np.linalg.inv(whole[:7, :7]) @ y, rtol=0, atol=1e-13)
    gain = cross.ntk @ np.linalg.inv(k.ntk + noise * np.eye(7))
    joint = np.block([[k.nngp, cross.nngp.T], [cross.nngp, own.nngp]])
    change = np.hstack([-gain, np.eye(4)])
    np.testing.assert_allclose(found.ntk.covariance, change @ joint @ change.T, rtol=0, atol=1e-13)
    np.testing.assert_allclose(found.ntk.mean, gain @ y, rtol=0, atol=1e-13)


def test_variances_alone():
    (k, cross, own), y = both(7, 4), draw(7, 2)
    f = predict.gp_inference(k, y, 1e-2)
    full = f(("nngp", "ntk", "ntkgp"), cross, own)
    alone = f(("nngp", "ntk", "ntkgp"), cross, Kernels(*(np.diag(part) for part in own)))
    for a, b in zip(full, alone, strict=True):
        assert b.covariance.shape == (4,)
        np.testing.assert_allclose(b.covariance, np.diag(a.covariance), rtol=0, atol=1e-15)
        assert np.array_equal(a.mean, b.mean)
    assert np.array_equal(f("ntk", None, np.ones(7)).covariance, np.zeros(7))


def test_a_kernel_of_ours_is_taken():
    net = stax.serial(stax.Dense(1, 1.5, 0.1), stax.Erf(), stax.Dense(1, 1.2)).kernel_fn
    x, x_test, y = draw(7, 3), draw(4, 3, seed=4), draw(7, 2)
    kernels = net(x), net(x_test, x), net(x_test)
    names = ("nngp", "ntk")
    found = predict.gp_inference(kernels[0], y, 1e-3)(None, *kernels[1:])
    given = net(x, None, names), net(x_test, x, names), net(x_test, None, names)
    expected = predict.gp_inference(given[0], y, 1e-3)(names, *given[1:])
    assert type(found).__name__ == "Gaussians"
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a.mean, b.mean)
        assert np.array_equal(a.covariance, b.covariance)


@pytest.mark.parametrize("g", ["nngp", "ntk"])
def test_rounding_bounds_what_rounding_does(g):
    """Every entry of the prior off by an eps, in the worst way for one variance: the bound allows for 16 of them."""
    n = 6
    prior, theta = hilbert(n + 1), gram(n + 1, 7)

    def posterior(k):
        parts = [
            Kernels(k[r, c], theta[r, c])
            for r, c in ((slice(n), slice(n)), (slice(n, None), slice(n)), (slice(n, None), slice(n, None)))
        ]
        return predict.gp_inference(parts[0], np.ones((n, 1)))(g, *parts[1:])

    found = posterior(prior)
    trained = prior if g == "nngp" else theta
    signs = np.sign(np.append(-np.linalg.solve(trained[:n, :n], trained[:n, n]), 1.0))
    size = 2.0**-44  # large enough to be seen beside the rounding of the call itself
    moved = posterior(prior + size * prior[n, n] * np.outer(signs, signs)).covariance - found.covariance
    assert np.isclose(abs(moved[0, 0]) * 16, found.rounding * size / EPS, rtol=0.05)


# ---------------------------------------------------------------- dtypes, results as objects


def test_float32_is_solved_in_float64():
    (k, cross, own), y = both(30, 5), draw(30, 1).astype(np.float32)
    single = [Kernels(*(part.astype(np.float32) for part in x)) for x in (k, cross, own)]
    double = [Kernels(*(part.astype(np.float64) for part in x)) for x in single]
    errors = {}
    for solve_dtype in (None, np.float32):
        f = predict.gp_inference(single[0], y, solve_dtype=solve_dtype)(("nngp", "ntk"), *single[1:])
        g = predict.gradient_descent_mse(single[0].ntk, y, solve_dtype=solve_dtype)(
            [1.0, np.inf], 0.0, 0.0, single[1].ntk
        )
        f64 = predict.gp_inference(double[0], y)(("nngp", "ntk"), *double[1:])
        g64 = predict.gradient_descent_mse(double[0].ntk, y)([1.0, np.inf], 0.0, 0.0, double[1].ntk)
        pairs = [*zip((*f.nngp, *f.ntk), (*f64.nngp, *f64.ntk), strict=True), *zip(g, g64, strict=True)]
        assert {a.dtype for a, _ in pairs} == {np.dtype(np.float32)}
        errors[solve_dtype] = max(float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in pairs)
    assert errors[None] <= 2.0**-24
    assert errors[np.float32] > 2.0**-22


def test_integer_targets_and_float_targets():
    k, cross, _ = both(5, 2)
    y = np.arange(5)[:, None]
    a, b = (predict.gp_inference(k, v, 0.1)("nngp", cross) for v in (y, y.astype(float)))
    assert np.array_equal(a, b)
    assert predict.gradient_descent_mse(k.ntk, y)(None).dtype == np.float64


def test_gaussians_unpack_copy_and_pickle():
    (k, cross, own), y = both(5, 3), draw(5, 2)
    found = predict.gp_inference(k, y, 1e-2)(None, cross, own)
    mean, covariance = found.ntk
    assert mean is found.ntk.mean
    assert covariance is found.ntk.covariance
    for other in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert other._fields == ("nngp", "ntk")
        assert isinstance(other.ntk, Gaussian)
        assert np.array_equal(other.ntk.covariance, covariance)
        assert other.ntk.conditioning == found.ntk.conditioning
        assert other.ntk.rounding == found.ntk.rounding > 0


def test_conditioning_is_told():
    k, y = both(5, 1)[0], draw(5, 1)
    f = predict.gradient_descent_mse(k.ntk, y, 1.0, 0.1)
    assert f.conditioning is None
    f(1.0)
    w = np.linalg.eigvalsh(k.ntk)
    reg = 0.1 * np.diag(k.ntk).mean()
    assert np.isclose(f.conditioning.condition, (w[-1] + reg) / (w[0] + reg))
    assert np.isclose(f.conditioning.diag_reg, reg)
    g = predict.gp_inference(k, y)
    assert g.conditioning == {}
    found = g("ntkgp", k, k)
    assert g.conditioning == {"ntk": found.conditioning}


# ---------------------------------------------------------------- the largest learning rate


def test_the_largest_learning_rate_is_the_border_of_convergence():
    k, y = both(6, 1)[0].ntk, draw(6, 2)
    rate = predict.max_learning_rate(k, y.size)
    residual = {}
    for factor in (0.98, 1.02):
        f = predict.gradient_descent_mse(k, y, factor * rate, discrete=True)
        train, caught = warned(lambda f=f: f(2000))
        residual[factor] = np.max(np.abs(train - y))
        messages = [str(c.message) for c in caught]
        if factor < 1:
            assert messages == []
        else:
            assert {c.category for c in caught} == {RuntimeWarning}
            assert f"is above max_learning_rate = {rate:.6g}" in messages[0]
    assert residual[0.98] < 1e-10
    assert residual[1.02] > 1e10
    assert np.isfinite(predict.gradient_descent_mse(k, y, rate, discrete=True)(10**9)).all()


def test_diverging_steps_raise_in_the_end():
    k, y = both(6, 1)[0].ntk, draw(6, 2)
    f = predict.gradient_descent_mse(k, y, 3 * predict.max_learning_rate(k, y.size), discrete=True)
    with (
        pytest.warns(RuntimeWarning, match="steps of this length diverge"),
        pytest.raises(OverflowError, match=r"has left float64's range after t = 1e\+06"),
    ):
        f([1, 10**6])
    for t in (None, np.inf):
        with pytest.raises(ValueError, match="have no limit: the largest that converges is below max_learning_rate"):
            f(t)
        # What is added to the diagonal counts.
        f_reg = predict.gradient_descent_mse(k, y, 0.9 * predict.max_learning_rate(k, y.size), 1.0, discrete=True)
        with pytest.raises(ValueError, match="have no limit"):
            f_reg(t)


def test_momentum_allows_longer_steps():
    k = both(6, 1)[0].ntk
    largest = np.linalg.eigvalsh(k)[-1]
    assert np.isclose(predict.max_learning_rate(k), 2 * 6 / largest, rtol=1e-12)
    assert np.isclose(predict.max_learning_rate(k, 18, 0.5), 2 * 1.5 * 18 / largest, rtol=1e-12)
    assert predict.max_learning_rate(np.zeros((3, 3))) == 2 * 3 / 1e-12
    assert isinstance(predict.max_learning_rate(k.astype(np.float32)), float)


# ---------------------------------------------------------------- sampling


def test_draws_have_the_moments_asked_for():
    covariance = gram(3, 5)
    mean = draw(3, 2)
    count = 40_000
    found = predict.sample(Gaussian(mean, covariance), count, 0)
    assert found.shape == (count, 3, 2)
    deviations = np.sqrt(np.diag(covariance))[:, None]
    assert np.max(np.abs(found.mean(axis=0) - mean) / deviations) < 4 / np.sqrt(count)
    flat = (found - mean).transpose(0, 2, 1).reshape(count, 6)  # outputs are independent
    expected = np.kron(np.eye(2), covariance)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)) + expected**2)
    assert np.max(np.abs(flat.T @ flat / count - expected) / scale) < 4 / np.sqrt(count)


def test_draws_follow_axes_of_time_and_of_positions():
    lead, shape = (2,), (3, 2, 4)  # times; samples, positions, channels
    grams = [gram(6, 9, seed=s) for s in range(2)]
    covariance = np.stack([g.reshape(3, 2, 3, 2).transpose(0, 2, 1, 3) for g in grams])
    mean = draw(*lead, *shape)
    found = predict.sample(Gaussian(mean, covariance), 5000, np.random.default_rng(1))
    assert found.shape == (5000, 2, 3, 2, 4)
    for t, g in enumerate(grams):
        centred = (found - mean)[:, t, ..., 1].reshape(5000, 6)
        assert np.max(np.abs(centred.T @ centred / 5000 - g)) < 0.1 * np.max(g)
    first = predict.sample(Gaussian(mean, covariance), 3, 7)
    assert np.array_equal(first, predict.sample((mean, covariance), 3, 7))
    one = predict.sample(Gaussian(draw(4), gram(4)), 3, 7, trace_axes=())
    assert one.shape == (3, 4)
    assert predict.sample(Gaussian(draw(4, 1).astype(np.float32), gram(4)), 0, 7).dtype == np.float32


def test_draws_of_a_posterior_without_variance_are_its_mean():
    k, y = both(12, 1)[0], draw(12, 1)
    g = predict.gp_inference(k, y)("nngp", k, k)
    assert np.max(np.abs(predict.sample(g, 5, 0) - y)) < 1e-6
