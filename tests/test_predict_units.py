"""predict in other units: of the targets or of the kernel, results are the same in those units, at any size they hold.

Powers of two change no digit of what comes in, so they may change none of what comes out; others may by rounding. The
laws are exact, so they are their own oracle; what holds at size 1 is tested elsewhere.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

pytest.importorskip("scipy")
from fastntk import predict
from predict_inputs import Kernels, draw, network

# Powers of the units of kernel and targets: odd and even, single and together, at which squares, inverses and
# quotients leave the range of float64.
POWERS = [(-997, 0), (-333, 0), (1, 0), (333, 0), (996, 0), (0, -997), (0, -513), (0, 513), (0, 996), (-997, 996)]
POWERS += [(996, -997), (-997, -997), (996, 996)]
SIZES = [(1e-300, 1.0), (1e300, 1.0), (1.0, 1e-300), (1.0, 1e-160), (1.0, 1e160), (1.0, 1e300), (1e-300, 1e300)]

N, O = 14, 2  # noqa: E741
X, Y = draw(N + 3, 4), draw(N, O, seed=5)
WHOLE = network().kernel_fn(X, None, "nngp")
K, CROSS = WHOLE[:N, :N], WHOLE[N:, :N]


def times(x: np.ndarray, power: int) -> np.ndarray:
    """x 2^power; float64 holds it, as it holds x."""
    found = np.ldexp(x, power)
    assert np.isfinite(found).all()
    return found


def quiet(function, *args, **kwargs):
    """Nothing is warned of, but that a choice of noise ends at the end of its grid, as it does at any size."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", predict.SearchWarning)
        return function(*args, **kwargs)


# ---------------------------------------------------------------- evidence


def evidences(k, y, unit, scale):
    """What does not change with the units, and what changes with those of the targets, in those."""
    count, found = y.size, {}
    lml = quiet(predict.log_marginal_likelihood, k, y, 0.03, amplitude=None)
    found["evidence"] = lml.value + count * math.log(scale)
    left = quiet(predict.leave_one_out, k, y, 0.03, amplitude=None)
    found["densities"] = left.log_density + math.log(scale)
    found["means"] = left.mean / scale
    found["condition"] = left.conditioning.condition
    for criterion in ("leave_one_out", "evidence"):
        chosen = quiet(predict.select_diag_reg, k, y, None, criterion)
        found[criterion] = chosen.diag_reg
        found[criterion, "absolute"] = chosen.diag_reg_absolute / unit
        found[criterion, "values"] = chosen.log_marginal_likelihood + count * math.log(scale)
    return found


@pytest.mark.parametrize(("a", "b"), POWERS)
def test_evidence_in_units_that_are_powers_of_two(a, b):
    expected = evidences(K, Y, 1.0, 1.0)
    found = evidences(times(K, a), times(Y, b), 2.0**a, 2.0**b)
    for name, value in expected.items():
        exact = name not in ("evidence", "densities") and "values" not in name  # logarithms of units are rounded
        np.testing.assert_allclose(found[name], value, rtol=0 if exact else 1e-9, atol=0, err_msg=str(name))


@pytest.mark.parametrize(("unit", "scale"), SIZES)
def test_evidence_in_other_units(unit, scale):
    expected = evidences(K, Y, 1.0, 1.0)
    found = evidences(K * unit, Y * scale, unit, scale)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, err_msg=str(name))


@pytest.mark.parametrize(("unit", "scale"), [(2.0**-998, 2.0**-499), (2.0**500, 2.0**250), (2.0**996, 2.0**498)])
def test_evidence_with_an_amplitude_in_units_that_belong_together(unit, scale):
    """Where squared targets and the kernel have one unit, a given amplitude has none."""
    for amplitude in (1.0, 0.3):
        before = predict.leave_one_out(K, Y, 0.03, amplitude=amplitude)
        after = predict.leave_one_out(K * unit, Y * scale, 0.03, amplitude=amplitude)
        assert np.array_equal(after.variance, before.variance * scale**2)
        assert after.mean_squared_error == before.mean_squared_error * scale**2
        assert after.amplitude == amplitude
        first, second = (
            quiet(predict.select_diag_reg, k, y, None, "evidence", amplitude=amplitude)
            for k, y in ((K, Y), (K * unit, Y * scale))
        )
        assert first.diag_reg == second.diag_reg
        assert second.amplitude == amplitude
        shift = -Y.size * math.log(scale)
        np.testing.assert_allclose(second.log_marginal_likelihood, first.log_marginal_likelihood + shift, rtol=1e-12)


def test_what_float64_cannot_hold_is_infinite_or_zero():
    """Squares of the targets' size; the means, densities and choices beside them are right nevertheless."""
    right = predict.leave_one_out(K, Y, 0.03, amplitude=None)
    for scale, limit in ((1e200, math.inf), (1e-200, 0.0)):
        found = quiet(predict.leave_one_out, K, Y * scale, 0.03, amplitude=None)
        assert found.mean_squared_error == found.amplitude == limit
        np.testing.assert_allclose(found.mean / scale, right.mean, rtol=1e-10)
        np.testing.assert_allclose(found.log_density + math.log(scale), right.log_density, rtol=1e-10)
        assert (found.variance == limit).all()
    # A density of exp(-1e400), and a choice among such.
    assert predict.log_marginal_likelihood(K, Y * 1e200, 0.03).value == -math.inf
    chosen = quiet(predict.select_diag_reg, K, Y * 1e200, None, "evidence", amplitude=1.0)
    assert (chosen.diag_reg, chosen.at_edge) == (100.0, "upper")
    assert (chosen.log_marginal_likelihood == -math.inf).all()


def test_evidence_against_long_double():
    """The density where its terms leave float64, by long double, whose exponents have four digits more."""
    if np.finfo(np.longdouble).maxexp < 16000:
        pytest.skip("long double is double here")
    for unit, scale in ((1e-200, 1e-160), (1e250, 1e140)):
        a = (K * unit).astype(np.longdouble)
        a[np.diag_indices(N)] += np.longdouble(0.03) * np.diag(a).mean()
        factor = np.zeros_like(a)
        for i in range(N):  # Cholesky, by hand: LAPACK has no long double
            for j in range(i + 1):
                left = a[i, j] - (factor[i, :j] * factor[j, :j]).sum()
                factor[i, j] = np.sqrt(left) if i == j else left / factor[j, j]
        solved = (Y * scale).astype(np.longdouble)
        for i in range(N):
            solved[i] = (solved[i] - factor[i, :i] @ solved[:i]) / factor[i, i]
        log_det = 2 * np.log(np.diag(factor)).sum()
        expected = -0.5 * ((solved**2).sum() + O * (log_det + N * np.log(2 * np.longdouble(np.pi))))
        found = predict.log_marginal_likelihood(K * unit, Y * scale, 0.03).value
        assert found == pytest.approx(float(expected), rel=1e-11)


def test_a_noise_that_vanishes_beside_the_kernel_and_one_that_it_vanishes_beside():
    k = draw(6, 3) @ draw(6, 3).T  # of rank 3
    y = draw(6, 1, seed=7)
    with pytest.warns() as caught:
        chosen = predict.select_diag_reg(k, y, [1e-305, 1e-30, 1e-2, 1e3])
    assert {c.category for c in caught} == {predict.SearchWarning}
    for values in (chosen.mean_squared_error, chosen.log_marginal_likelihood):
        assert np.isfinite(values).all()
    np.testing.assert_allclose(chosen.mean_squared_error[0], chosen.mean_squared_error[1], rtol=1e-12)
    with pytest.raises(ValueError, match=r"grid reaches 1e\+10, more than 1e300 times the mean of"):
        predict.select_diag_reg(k * 1e-300, y, [1e10], diag_reg_absolute_scale=True)
    # The noise alone is left: N(0, s) for each target.
    found = predict.log_marginal_likelihood(k * 1e-300, y, 4.0, True).value
    assert found == pytest.approx(-0.5 * ((y**2).sum() / 4 + 6 * math.log(2 * math.pi * 4)), rel=1e-13)


# ---------------------------------------------------------------- fit


def of_unit(unit):
    """A network's kernel function in other units."""

    def made(depth, W_std, b_std):
        kernel_fn = predict.fully_connected(depth, W_std, b_std).kernel_fn
        return lambda x1, x2=None, get="nngp": kernel_fn(x1, x2, get) * unit

    return made


@pytest.mark.parametrize(("a", "b"), [(-991, 0), (333, 0), (990, 0), (0, -997), (0, 513), (-991, 500), (990, -997)])
def test_fit_in_other_units(a, b):
    x, y = X[:N], Y[:, :1]

    def fitted(unit, scale):
        return quiet(predict.fit, of_unit(unit), x, y * scale, depth=1, W_std=(0.8, 2.0), b_std=0.2, tol=0.1)

    one, other = fitted(1.0, 1.0), fitted(2.0**a, 2.0**b)
    for name in ("W_std", "b_std", "diag_reg", "depth"):
        assert getattr(one, name) == getattr(other, name), name
    assert [e.W_std for e in one.history] == [e.W_std for e in other.history]
    shift = -N * b * math.log(2)
    np.testing.assert_allclose(other.log_marginal_likelihood, one.log_marginal_likelihood + shift, rtol=1e-12)
    for name, power in (("amplitude", 2 * b - a), ("noise_variance", 2 * b)):
        with np.errstate(over="ignore", under="ignore"):
            assert getattr(other, name) == np.ldexp(getattr(one, name), power), name


# ---------------------------------------------------------------- large n, and the learning rate

LARGE = [*POWERS[:10:2], (0, 513), (990, 0), (-991, 990), (990, -997)]


def many(unit, scale):
    """Predictions by conjugate gradients and landmarks, in units."""
    found = {}

    def kernel_fn(x1, x2=None, get="nngp"):
        return network().kernel_fn(x1, x2, get) * unit

    targets = Y * scale
    of_array = quiet(predict.conjugate_gradient, K * unit, None, targets, diag_reg=1e-2, rank=5)
    found["array"] = of_array(CROSS * unit) / scale
    of_points = quiet(predict.conjugate_gradient, kernel_fn, X[:N], targets, diag_reg=1e-2, rank=5)
    found["points"], found["residuals"] = of_points(X[N:]) / scale, of_points.residuals
    low_rank = quiet(predict.nystrom, kernel_fn, X[:N], targets, 6, diag_reg=1e-2)
    mean, variances = low_rank(X[N:], "diagonal")
    found["landmarks"], found["variances"] = mean / scale, variances / unit
    found["chosen"] = low_rank.indices
    found["condition"] = of_array.conditioning.condition, low_rank.conditioning.condition
    return found


@pytest.mark.parametrize(("a", "b"), LARGE)
def test_many_points_in_units_that_are_powers_of_two(a, b):
    expected, found = many(1.0, 1.0), many(2.0**a, 2.0**b)
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name


@pytest.mark.parametrize(("unit", "scale"), [(1e-298, 1.0), (1e298, 1e-300), (1.0, 1e300), (1e-298, 1e300)])
def test_many_points_in_other_units(unit, scale):
    expected, found = many(1.0, 1.0), many(unit, scale)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=name)


def test_outputs_of_different_size_are_solved_for_each_in_its_own():
    sizes = np.array([1e200, 1e-200])
    found = predict.conjugate_gradient(K, None, Y * sizes, diag_reg=1e-2, tol=1e-10)
    exact = np.linalg.solve(K + 1e-2 * np.diag(K).mean() * np.eye(N), Y)
    np.testing.assert_allclose(found.alpha / sizes, exact, rtol=0, atol=1e-8 * np.abs(exact).max())
    np.testing.assert_allclose(found(CROSS) / sizes, CROSS @ exact, rtol=0, atol=1e-8)


def test_weights_that_float64_cannot_hold_are_infinite_and_predict_nevertheless():
    small = predict.conjugate_gradient(K * 1e-200, None, Y * 1e200, diag_reg=1e-2, tol=1e-10)
    assert np.isinf(small.alpha).all()
    exact = CROSS @ np.linalg.solve(K + 1e-2 * np.diag(K).mean() * np.eye(N), Y)
    np.testing.assert_allclose(small(CROSS * 1e-200) / 1e200, exact, rtol=0, atol=1e-8)


def test_the_largest_learning_rate_of_any_kernel():
    """2 |Y| / lambda_max, at any size; with an eps that of Neural Tangents."""
    largest = np.linalg.eigvalsh(K)[-1]
    for size in (1e-300, 1e-100, 1e-15, 1e-12, 1e-6, 1.0, 1e100, 1e300):
        assert predict.max_learning_rate(K * size, 28) * size == pytest.approx(56 / largest, rel=1e-12)
    assert predict.max_learning_rate(times(K, -997), 28) == predict.max_learning_rate(K, 28) * 2.0**997
    assert predict.max_learning_rate(K * 1e-12, 28, eps=1e-12) == pytest.approx(56 / (largest + 1) * 1e12, rel=1e-12)


# ---------------------------------------------------------------- exact inference and training

BOTH = [network().kernel_fn(X, None, name) for name in ("nngp", "ntk")]
PAIR = [[k[r, c] for k in BOTH] for r, c in ((slice(N), slice(N)), (slice(N, None), slice(N)), (slice(N, None),) * 2)]


def trained(unit, scale):
    """Predictions of every function at any time, in units; the time counts in those of the kernel."""
    train, cross, own = (Kernels(*(k * unit for k in part)) for part in PAIR)
    y, rate, found = Y * scale, 0.5 / unit, {}
    times = np.array([0.0, 1.0, 30.0])

    def kernel_fn(x1, x2=None, get="nngp"):
        k = network().kernel_fn(x1, x2, (get,) if isinstance(get, str) else get)
        k = Kernels(*(None if getattr(k, g, None) is None else getattr(k, g) * unit for g in ("nngp", "ntk")))
        return getattr(k, get) if isinstance(get, str) else k

    exact = predict.gp_inference(train, y, 1e-3)
    for name, one in exact(("nngp", "ntk", "ntkgp"), cross, own)._asdict().items():
        found[name, "mean"], found[name, "covariance"] = one.mean / scale, one.covariance / unit
        found[name, "condition"] = one.conditioning.condition
    for discrete in (False, True):
        flow = predict.gradient_descent_mse(train.ntk, y, rate, 1e-3, discrete=discrete)
        for t in (times, None):
            on_train, on_test = flow(t, 0.25 * scale, 0.0, cross.ntk)
            found[discrete, t is None, "train"], found[discrete, t is None, "test"] = on_train / scale, on_test / scale
    predictor = predict.gradient_descent_mse_ensemble(kernel_fn, X[:N], y, rate, 1e-3)
    for t in (times, None):
        for x in (None, X[N:]):
            for name, one in predictor(t, x, None, True)._asdict().items():
                found[name, t is None, x is None] = one.mean / scale
                found[name, t is None, x is None, "covariance"] = one.covariance / unit
    for momentum in (None, 0.5):
        ode = predict.gradient_descent("mse", train.ntk, y, rate, momentum)
        for t in (times, None):
            found["ode", momentum, t is None] = ode(t, 0.25 * scale, 0.0, cross.ntk)[1] / scale
    return found


@pytest.mark.parametrize(("a", "b"), [(-990, 0), (332, 0), (990, 0), (0, -990), (0, 513), (-990, 990), (990, -990)])
def test_training_in_units_that_are_powers_of_two(a, b):
    """Equal to the last bit, but for what the integrator of momentum takes the root of."""
    expected, found = trained(1.0, 1.0), quiet(trained, 2.0**a, 2.0**b)
    for name, value in expected.items():
        if "ode" in name and 0.5 in name:
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-9, err_msg=str(name))
        else:
            assert np.array_equal(found[name], value), name


@pytest.mark.parametrize(("unit", "scale"), SIZES)
def test_training_in_other_units(unit, scale):
    expected, found = trained(1.0, 1.0), quiet(trained, unit, scale)
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name], value, rtol=0, atol=1e-9 * max(1, np.abs(value).max()), err_msg=str(name)
        )


def test_kernels_of_double_range_solved_in_single():
    """A kernel of 1e100 has no float32; what is solved for is in its units."""
    for unit in (1e-100, 1e100):
        single = predict.gp_inference(PAIR[0][0] * unit, Y, 1e-2, solve_dtype=np.float32)("nngp", PAIR[1][0] * unit)
        double = predict.gp_inference(PAIR[0][0], Y, 1e-2)("nngp", PAIR[1][0])
        np.testing.assert_allclose(single, double, rtol=0, atol=1e-3)
    small = predict.gp_inference((PAIR[0][0] * 1e-30).astype(np.float32), Y, 1e-2, solve_dtype=np.float32)
    np.testing.assert_allclose(small("nngp", (PAIR[1][0] * 1e-30).astype(np.float32)), double, rtol=0, atol=1e-3)


def test_velocities_are_in_the_callers_units():
    """One point, no force: it goes on by q (1 - exp(-c s)) / c and slows down to q exp(-c s)."""
    for unit in (1.0, 1e-200, 1e200):
        k, rate, momentum = np.array([[unit]]), 0.5 / unit, 0.5
        fn = predict.gradient_descent(None, k, np.zeros((1, 1)), rate, momentum, gradient=lambda f, y: 0.0 * f)
        s, c, q = math.sqrt(rate) * 3.0, (1 - momentum) / math.sqrt(rate), 2.0 * math.sqrt(unit)
        found = fn(3.0, predict.ODEState(np.ones((1, 1)), qx_train=np.full((1, 1), q)))
        assert found.fx_train[0, 0] == pytest.approx(1 + q * -math.expm1(-c * s) / c, rel=1e-12)
        assert found.qx_train[0, 0] == pytest.approx(q * math.exp(-c * s), rel=1e-12)


def test_draws_in_other_units():
    own = PAIR[2][0]
    expected = predict.sample(predict.Gaussian(np.zeros((3, 1)), own), 4, 0)
    for power in (-480, 480):
        found = predict.sample(predict.Gaussian(np.zeros((3, 1)), times(own, 2 * power)), 4, 0)
        assert np.array_equal(found, times(expected, power))


def test_the_temperature_in_other_units():
    labels = np.array([0, 1, 1, 0])
    mean, variance = draw(4, 2), np.array([0.5, 1.0, 2.0, 0.1])
    expected = predict.calibrate(mean, variance, labels)
    for power in (-500, 500):
        assert predict.calibrate(times(mean, power), times(variance, 2 * power), labels) == expected
