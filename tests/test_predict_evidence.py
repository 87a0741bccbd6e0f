"""predict.evidence and predict.fit: log marginal likelihood, leave-one-out, the choice of noise and of networks."""

from __future__ import annotations

import io
import re
import sys
import warnings
from contextlib import redirect_stderr

import fake_cupy
import numpy as np
import pytest

pytest.importorskip("scipy")
from fastntk import predict, stax
from fastntk.predict import IllConditionedWarning, IndefiniteError, fit, leave_one_out, log_marginal_likelihood
from fastntk.predict import select_diag_reg as select
from fastntk.predict.evidence import GRID, SearchWarning
from fastntk.predict.fit import fully_connected
from fastntk.predict.search import Model
from scipy.stats import multivariate_normal, norm

NETWORK = stax.serial(stax.Dense(1, 1.5, 0.3), stax.Relu(), stax.Dense(1, 1.5, 0.3), stax.Erf(), stax.Dense(1))


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def data(rng):
    """A Gram of 24 points, and targets of three outputs."""
    return NETWORK.kernel_fn(rng.normal(size=(24, 4)), None, "nngp"), rng.normal(size=(24, 3))


def noisy(k, diag_reg, absolute=False):
    return k + diag_reg * (1.0 if absolute else np.trace(k) / len(k)) * np.eye(len(k))


def log_density(a, y):
    """Summed over the columns of y, by SciPy's eigendecomposition of the covariance."""
    density = multivariate_normal(np.zeros(len(a)), a)
    return sum(density.logpdf(column) for column in y.T)


# ---------------------------------------------------------------- log marginal likelihood


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("amplitude", [1.0, 0.3])
def test_log_marginal_likelihood_is_the_normal_density(data, absolute, amplitude):
    k, y = data
    a = amplitude * noisy(k, 0.07, absolute)
    found = log_marginal_likelihood(k, y, 0.07, absolute, amplitude=amplitude)
    assert found.value == pytest.approx(log_density(a, y), rel=1e-10)
    np.testing.assert_allclose(found.per_output, [log_density(a, y[:, [c]]) for c in range(3)], rtol=1e-10)
    assert found.amplitude == amplitude
    assert found.conditioning.diag_reg == pytest.approx(0.07 if absolute else 0.07 * np.trace(k) / len(k))


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("amplitude", [1.0, 0.3, None])
def test_gradient_of_the_evidence_against_differences(rng, absolute, amplitude):
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(7, 2)) * 40
    net = stax.serial(stax.Dense(1, 1.3, 0.2), stax.Erf(), stax.Dense(1, 0.9))
    options = {"diag_reg_absolute_scale": absolute, "amplitude": amplitude}

    def evidence(kernel_fn, x, reg, **more):
        return predict.log_marginal_likelihood(kernel_fn(x, None, "ntk"), y, reg, **options, **more)

    kernel_fn, reg = net.kernel_fn, 0.2
    found = evidence(kernel_fn, x, reg, gradient=True)
    assert evidence(kernel_fn, x, reg).gradient is None
    assert found.value == evidence(kernel_fn, x, reg).value
    np.testing.assert_array_equal(found.gradient.kernel, found.gradient.kernel.T)
    slopes = kernel_fn.vjp(x, cotangents={"ntk": found.gradient.kernel})
    h, step = 1e-5, rng.normal(size=x.shape)
    ends = [evidence(kernel_fn, x, reg + s * h).value for s in (1, -1)]
    assert found.gradient.diag_reg == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6, abs=1e-6)
    ends = [evidence(kernel_fn, x + s * h * step, reg).value for s in (1, -1)]
    assert np.sum(slopes.x1 * step) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6, abs=1e-6)
    for name, value in kernel_fn.parameters.items():
        ends = [evidence(kernel_fn.with_parameters({name: value + s * h}), x, reg).value for s in (1, -1)]
        assert slopes.parameters[name] == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6, abs=1e-6)


def test_the_best_amplitude_is_the_best(data):
    k, y = data
    found = log_marginal_likelihood(k, y, 0.05, amplitude=None)
    a = noisy(k, 0.05)
    assert found.value == pytest.approx(log_density(found.amplitude * a, y), rel=1e-10)
    around = found.amplitude * np.array([0.5, 0.99, 1.01, 2.0])
    assert all(log_density(each * a, y) < found.value for each in around)


def test_log_marginal_likelihood_agrees_with_scikit_learn(rng):
    process = pytest.importorskip("sklearn.gaussian_process")
    x, y = rng.normal(size=(25, 3)), rng.normal(size=(25, 1))
    kernel = 1.3 * process.kernels.RBF(1.9)
    theirs = process.GaussianProcessRegressor(kernel, alpha=0.07, optimizer=None).fit(x, y[:, 0])
    ours = log_marginal_likelihood(kernel(x), y, 0.07, True)
    assert ours.value == pytest.approx(theirs.log_marginal_likelihood_value_, rel=1e-10)


def test_any_axes(rng):
    """Two axes in the kernel and one of outputs, between them: the same as the matrices by hand."""
    k = NETWORK.kernel_fn(rng.normal(size=(12, 3)), None, "nngp")
    y = rng.normal(size=(4, 2, 3))  # samples, outputs, positions
    pairs = k.reshape(4, 3, 4, 3).transpose(0, 2, 1, 3)
    flat = y.transpose(0, 2, 1).reshape(12, 2)
    found = log_marginal_likelihood(pairs, y, 0.1, trace_axes=(1,))
    assert found.value == pytest.approx(log_marginal_likelihood(k, flat, 0.1).value, rel=1e-12)
    assert found.per_output.shape == (2,)
    left, expected = leave_one_out(pairs, y, 0.1, trace_axes=(1,)), leave_one_out(k, flat, 0.1)
    np.testing.assert_allclose(left.mean, expected.mean.reshape(4, 3, 2).transpose(0, 2, 1), rtol=1e-12)
    np.testing.assert_allclose(left.variance, expected.variance.reshape(4, 3), rtol=1e-12)
    assert left.log_density.shape == y.shape


# ---------------------------------------------------------------- leave one out


def test_leave_one_out_is_a_refit_without_the_point(data):
    k, y = data
    a = noisy(k, 0.02)
    found = leave_one_out(k, y, 0.02, amplitude=0.6)
    for i in range(len(k)):
        rest = np.delete(np.arange(len(k)), i)
        weights = np.linalg.solve(a[np.ix_(rest, rest)], np.column_stack([y[rest], k[rest, i]]))
        np.testing.assert_allclose(found.mean[i], k[i, rest] @ weights[:, :3], rtol=1e-9, atol=1e-11)
        variance = 0.6 * (a[i, i] - k[i, rest] @ weights[:, 3])
        assert found.variance[i] == pytest.approx(variance, rel=1e-9)
        expected = norm.logpdf(y[i], k[i, rest] @ weights[:, :3], np.sqrt(variance))
        np.testing.assert_allclose(found.log_density[i], expected, rtol=1e-9, atol=1e-9)
    assert found.mean_squared_error == pytest.approx(np.mean((found.mean - y) ** 2), rel=1e-12)


def test_the_best_amplitude_of_leave_one_out(data):
    k, y = data
    found = leave_one_out(k, y, 0.02, amplitude=None)
    for other in found.amplitude * np.array([0.5, 0.99, 1.01, 2.0]):
        assert leave_one_out(k, y, 0.02, amplitude=other).log_density.sum() < found.log_density.sum()


def test_a_single_point_is_predicted_by_the_prior():
    found = leave_one_out(np.array([[2.0]]), np.array([[3.0]]), 0.5)
    assert (found.mean[0, 0], found.variance[0], found.mean_squared_error) == pytest.approx((0, 3, 9))


def test_results_have_the_kernels_dtype(data):
    k, y = data
    found = leave_one_out(k.astype(np.float32), y, 0.1)
    assert {found.mean.dtype, found.variance.dtype, found.log_density.dtype} == {np.dtype(np.float32)}
    np.testing.assert_allclose(found.mean, leave_one_out(k, y, 0.1).mean, atol=1e-5)
    coarse = leave_one_out(k.astype(np.float32), y, 0.1, solve_dtype=np.float32)
    assert 0 < np.abs(coarse.mean - found.mean).max() < 1e-4


def test_inputs_stay_as_they_are(data):
    copies = [a.copy() for a in data]
    for function in (log_marginal_likelihood, leave_one_out):
        function(*data, 0.1)
    select(*data, [0.01, 0.1, 1.0, 10.0, 1e2, 1e3, 1e4], "evidence", amplitude=1.0)
    for array, copy in zip(data, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


# ---------------------------------------------------------------- the choice of diag_reg


def drawn(rng, k, diag_reg, outputs):
    return np.linalg.cholesky(noisy(k, diag_reg)) @ rng.normal(size=(len(k), outputs))


@pytest.mark.parametrize("criterion", ["leave_one_out", "evidence"])
@pytest.mark.parametrize("absolute", [False, True])
def test_selection_is_the_best_of_the_grid(rng, data, criterion, absolute):
    k, _ = data
    y = drawn(rng, k, 0.05, 3)
    grid = np.geomspace(1e-4, 10, 11)
    found = select(k, y, grid, criterion, absolute)
    errors = [leave_one_out(k, y, s, absolute).mean_squared_error for s in grid]
    evidence = [log_marginal_likelihood(k, y, s, absolute, amplitude=None).value for s in grid]
    np.testing.assert_allclose(found.mean_squared_error, errors, rtol=1e-9)
    np.testing.assert_allclose(found.log_marginal_likelihood, evidence, rtol=1e-9)
    best = grid[np.argmin(errors) if criterion == "leave_one_out" else np.argmax(evidence)]
    unit = np.trace(k) / len(k)
    assert (found.diag_reg_absolute if absolute else found.diag_reg) == pytest.approx(best, rel=1e-12)
    assert found.diag_reg_absolute == pytest.approx(found.diag_reg * unit, rel=1e-12)
    amplitude = (log_marginal_likelihood if criterion == "evidence" else leave_one_out)(
        k, y, found.diag_reg, amplitude=None
    ).amplitude
    assert found.amplitude == pytest.approx(amplitude, rel=1e-9)
    assert (found.at_edge, found.criterion) == ("", criterion)
    assert found.conditioning.condition == pytest.approx(np.linalg.cond(noisy(k, found.diag_reg)), rel=1e-6)


def test_selection_with_an_amplitude_given(data):
    k, y = data
    with pytest.warns(SearchWarning):
        found = select(k, y, [0.1, 1.0], "evidence", amplitude=0.7)
    expected = [log_marginal_likelihood(k, y, s, amplitude=0.7).value for s in (0.1, 1.0)]
    np.testing.assert_allclose(found.log_marginal_likelihood, expected, rtol=1e-10)
    assert found.amplitude == 0.7


def test_selection_at_the_edge_is_said(data):
    k, y = data  # noise alone
    with pytest.warns(SearchWarning, match="the best diag_reg, 0.01, is the grid's upper end") as caught:
        assert select(k, y, [1e-2, 1e-4, 1e-3], "evidence").at_edge == "upper"
    assert caught[0].filename == __file__
    smooth = k @ np.ones((24, 1))
    with pytest.warns(SearchWarning, match="the grid's lower end"):
        assert select(k, smooth, [1e-2, 1e-1]).at_edge == "lower"
    assert select(k, y, [0.3]).at_edge == ""  # nothing was searched


def test_selection_finds_the_noise_that_was_there(rng):
    """Half decades of the truth; 40 draws of 60 points leave a standard deviation of some 5 %."""
    k = NETWORK.kernel_fn(rng.normal(size=(60, 4)), None, "nngp")
    y = drawn(rng, k, 10.0**-1.5, 40)
    for criterion in ("evidence", "leave_one_out"):
        found = select(k, 3 * y, criterion=criterion)
        assert found.diag_reg == pytest.approx(10.0**-1.5)
        assert found.amplitude == pytest.approx(9, rel=0.15)
    assert len(found.grid) == len(GRID)


def test_blocks_of_eigenvectors_make_no_difference(monkeypatch, data):
    k, y = data
    whole = select(k, y, GRID[4:], "evidence", amplitude=1.0).mean_squared_error
    monkeypatch.setattr(sys.modules["fastntk.predict.evidence"], "_ROWS", 7)
    np.testing.assert_allclose(select(k, y, GRID[4:], "evidence", amplitude=1.0).mean_squared_error, whole, rtol=1e-12)


def test_arrays_of_cupy(monkeypatch, rng, data):
    """On arrays that refuse to become NumPy's: the same numbers, arrays where results are arrays of points."""
    cupy, (k, y), x = fake_cupy.install(monkeypatch), data, rng.normal(size=(24, 4))
    grid = [0.01, 0.1, 1.0, 10.0, 100.0, 1e3]

    def everything(convert):
        def network(depth, W_std, b_std):
            made = fully_connected(depth, W_std, b_std).kernel_fn
            return lambda x1, x2, get: convert(made(x1, x2, get))

        evidence = log_marginal_likelihood(convert(k), convert(y), 0.1, amplitude=None)
        left = leave_one_out(convert(k), convert(y), 0.1)
        chosen = select(convert(k), convert(y), grid, "evidence", amplitude=1.0)
        found = fit(network, x, convert(y), depth=1, W_std=(1.0, 1.5), b_std=0.1, diag_reg=0.1, amplitude=1.0)
        arrays = [left.mean, left.variance, left.log_density, *found.posterior(x[:3], "diagonal")]
        numbers = [evidence.per_output, chosen.mean_squared_error, chosen.log_marginal_likelihood]
        return arrays, [*numbers, evidence.value, left.mean_squared_error, found.W_std, found.log_marginal_likelihood]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SearchWarning)
        (arrays, numbers), expected = everything(cupy.asarray), everything(np.asarray)
    assert all(isinstance(a, fake_cupy.ndarray) for a in arrays)
    for found, other in zip([a.get() for a in arrays] + numbers, [*expected[0], *expected[1]], strict=True):
        np.testing.assert_allclose(found, other, rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------- singular, constant and bad input

FUNCTIONS = [log_marginal_likelihood, leave_one_out]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_singular_grams_are_mended_and_said(rng, function):
    x = rng.normal(size=(10, 2))
    k = np.tile(x @ x.T, (2, 2))  # rank 2, each point twice
    y = rng.normal(size=(20, 2))
    with pytest.warns(IllConditionedWarning, match=rf"\[{function.__name__}\] .*singular to rounding") as caught:
        found = function(k, y)
    assert caught[0].filename == __file__
    assert found.conditioning.jitter > 0
    assert found.conditioning.effective_rank == 2
    assert np.isfinite(found.value if function is log_marginal_likelihood else found.log_density).all()


def test_selection_on_a_singular_gram(rng):
    """Duplicate points with different labels: what they disagree by is the noise."""
    x = rng.normal(size=(20, 30))
    k = np.tile(x @ x.T / 30, (2, 2))
    y = np.tile(np.linalg.cholesky(x @ x.T / 30) @ rng.normal(size=(20, 50)), (2, 1))
    y += np.sqrt(0.1 * np.trace(k) / 40) * rng.normal(size=y.shape)
    for criterion in ("evidence", "leave_one_out"):
        assert select(k, y, criterion=criterion).diag_reg == pytest.approx(0.1)
    assert select(k, y).conditioning.effective_rank == 40
    with pytest.warns(IllConditionedWarning, match=r"\[select_diag_reg\] .* ill-conditioned: condition .*rank 20"):
        select(k, y, [1e-15], "evidence")


def test_constant_targets(data):
    """A constant is a target like any other; zero everywhere is none."""
    k, _ = data
    one = np.ones((24, 1))
    assert log_marginal_likelihood(k, one, 0.1).value == pytest.approx(log_density(noisy(k, 0.1), one), rel=1e-10)
    assert np.isfinite(leave_one_out(k, one, 0.1).mean).all()
    zero = np.zeros((24, 1))
    assert log_marginal_likelihood(k, zero, 0.1).value == pytest.approx(log_density(noisy(k, 0.1), zero), rel=1e-10)
    assert leave_one_out(k, zero, 0.1).mean_squared_error == 0
    for function in FUNCTIONS:
        with pytest.raises(ValueError, match=rf"\[{function.__name__}\] all targets are zero"):
            function(k, zero, 0.1, amplitude=None)
    with pytest.raises(ValueError, match=r"\[select_diag_reg\] all targets are zero"):
        select(k, zero)
    with pytest.raises(ValueError, match=r"\[fit\] all targets are zero"):
        fit(None, np.eye(24), zero)


def nan_at(a, *index):
    a = a.copy()
    a[index] = np.nan
    return a


BAD = [
    (lambda k, y: (nan_at(k, 3, 4), y), {}, ValueError, "kernel of the training points is not finite, first in row 3"),
    (lambda k, y: (k, nan_at(y, 2, 1)), {}, ValueError, r"y_train is not finite: 1 of 72 values, first at \(2, 1\)"),
    (lambda k, y: (k[:9, :9], y), {}, ValueError, r"k_train_train has shape \(9, 9\).*want \(24, 24\)"),
    (lambda k, y: (k, y[:, 0]), {}, ValueError, r"targets of one output are \(n, 1\)"),
    (lambda k, y: ({1.0}, y), {}, TypeError, "k_train_train must be a numpy.ndarray or convert to one, given set"),
    (lambda k, y: (np.zeros_like(k), y), {}, ValueError, "kernel.* (is zero|must be positive)"),
    (lambda k, y: (k + 0j, y), {}, TypeError, "must be float32 or float64, given complex128"),
    (lambda k, y: (noisy(k, -0.5), y), {}, IndefiniteError, "indefinite: its smallest eigenvalue is -"),
    (lambda k, y: (k, y), {"amplitude": 0.0}, ValueError, "amplitude must be positive or None, given 0.0"),
    (lambda k, y: (k, y), {"amplitude": "1"}, ValueError, "amplitude must be positive or None, given '1'"),
    (lambda k, y: (k, y), {"solve_dtype": np.float16}, ValueError, "solve_dtype must be float32 or float64"),
]


@pytest.mark.parametrize("function", [log_marginal_likelihood, leave_one_out, select])
@pytest.mark.parametrize(("change", "options", "error", "message"), BAD)
def test_bad_input(data, function, change, options, error, message):
    with pytest.raises(error, match=rf"^\[{function.__name__}\] .*{message}"):
        function(*change(*data), **options)


@pytest.mark.parametrize("function", [log_marginal_likelihood, leave_one_out, select])
def test_several_kernels_are_refused(rng, function):
    both = NETWORK.kernel_fn(rng.normal(size=(4, 2)), None, ("nngp", "ntk"))
    with pytest.raises(TypeError, match=r"k_train_train must be one kernel, k.ntk or k.nngp"):
        function(both, np.ones((4, 1)))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_negative_diag_reg(data, function):
    with pytest.raises(ValueError, match="diag_reg must be finite and not negative, given -1"):
        function(*data, -1)


@pytest.mark.parametrize("grid", [[], [0.0, 1.0], [-1.0], [np.nan], [np.inf], [[1.0]], 0.1, ["a"]])
def test_bad_grids(data, grid):
    with pytest.raises(ValueError, match=r"\[select_diag_reg\] grid must (hold|be).* positive"):
        select(*data, grid)


def test_an_unknown_criterion(data):
    with pytest.raises(ValueError, match="criterion must be one of leave_one_out, evidence, given 'aic'"):
        select(*data, criterion="aic")


# ---------------------------------------------------------------- fit


def drawn_from(rng, depth, W_std, b_std, diag_reg, outputs, n=100, amplitude=1.0, get="nngp"):
    """Points of different lengths, and targets from the prior of a network."""
    x = rng.normal(size=(n, 4)) * np.exp(0.7 * rng.normal(size=(n, 1)))
    k = fully_connected(depth, W_std, b_std).kernel_fn(x, None, get)
    return x, np.sqrt(amplitude) * drawn(rng, k, diag_reg, outputs)


@pytest.mark.parametrize(
    ("get", "depth", "W_std", "b_std", "diag_reg"), [("nngp", 1, 1.4, 0.5, 0.01), ("ntk", 2, 1.5, 0.4, 0.02)]
)
def test_fit_recovers_the_network_behind_the_data(get, depth, W_std, b_std, diag_reg):
    """100 outputs at 100 points: bands of some four standard deviations of the maximum likelihood estimate."""
    x, y = drawn_from(np.random.default_rng(1), depth, W_std, b_std, diag_reg, outputs=100, get=get)
    found = fit(None, x, y, get=get, amplitude=1.0)
    assert found.depth == depth
    assert found.W_std == pytest.approx(W_std, rel=0.1)
    assert found.b_std == pytest.approx(b_std, rel=0.2)
    assert found.diag_reg == pytest.approx(diag_reg, rel=0.15)
    assert (found.amplitude, found.unidentified, found.at_edge) == (1.0, (), ())
    # The truth is no likelier than the maximum.
    truth = log_marginal_likelihood(fully_connected(depth, W_std, b_std).kernel_fn(x, None, get), y, diag_reg)
    assert found.log_marginal_likelihood >= truth.value


def test_fit_is_the_maximum_of_a_dense_grid():
    """With the amplitude free: no point of 21 x 21 is better, nor a refinement of the noise at the best."""
    x, y = drawn_from(np.random.default_rng(2), 2, 1.5, 0.4, 0.02, outputs=10, n=40, amplitude=3.0)
    found = fit(None, x, y, depth=2, W_std=(1.0, 2.5), b_std=(0.1, 2.0))
    k = found.kernel_fn(x, None, "nngp")
    best = log_marginal_likelihood(k, y, found.diag_reg, amplitude=None)
    assert best.value == pytest.approx(found.log_marginal_likelihood, rel=1e-10)
    assert best.amplitude == pytest.approx(found.amplitude, rel=1e-9)
    assert found.noise_variance == pytest.approx(found.amplitude * found.diag_reg * np.trace(k) / 40, rel=1e-9)
    for factor in (0.97, 1.03):
        assert log_marginal_likelihood(k, y, factor * found.diag_reg, amplitude=None).value < best.value
    noises = np.geomspace(1e-4, 1, 25)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SearchWarning)
        grid = [
            select(fully_connected(2, w, b).kernel_fn(x, None, "nngp"), y, noises, "evidence").log_marginal_likelihood
            for w in np.geomspace(1.0, 2.5, 21)
            for b in np.geomspace(0.1, 2.0, 21)
        ]
    assert np.max(grid) - 0.01 < found.log_marginal_likelihood < np.max(grid) + 1


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("amplitude", [1.0, 0.3, None])
def test_gradients_of_leave_one_out_against_differences(rng, absolute, amplitude):
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(7, 2)) * 40
    k, step, reg, h = NETWORK.kernel_fn(x, None, "nngp"), rng.normal(size=(7, 7)), 0.2, 1e-5
    step = (step + step.T) / 10

    def said(k, reg):
        found = leave_one_out(k, y, reg, absolute, amplitude=amplitude)
        return np.array([found.log_density.sum(), found.mean_squared_error])

    assert leave_one_out(k, y, reg).gradient is None
    found = leave_one_out(k, y, reg, absolute, amplitude=amplitude, gradient=True).gradient
    both = (found.log_density, found.mean_squared_error)
    by_kernel = (said(k + h * step, reg) - said(k - h * step, reg)) / (2 * h)
    assert [np.sum(each.kernel * step) for each in both] == pytest.approx(list(by_kernel), rel=1e-6)
    by_reg = (said(k, reg + h) - said(k, reg - h)) / (2 * h)
    assert [each.diag_reg for each in both] == pytest.approx(list(by_reg), rel=1e-6)


@pytest.mark.parametrize("amplitude", [None, 1.0])
@pytest.mark.parametrize("diag_reg", [(1e-6, 10.0), (0.5, 0.5)])
@pytest.mark.parametrize("absolute", [False, True])
def test_fit_follows_the_gradient_of_the_evidence(amplitude, diag_reg, absolute):
    """Against differences of what it maximises: with noise and amplitude at their best, or where they are held."""
    x, y = drawn_from(np.random.default_rng(6), 2, 1.5, 0.4, 0.02, outputs=5, n=30)

    def network(depth, W_std, b_std):  # its layers' numbers are functions of the parameters
        return stax.serial(stax.Dense(1, W_std, b_std), stax.Relu(), stax.Dense(1, W_std**2, 0.1), stax.Erf(b=b_std))

    model = Model(network, x, y, "ntk", diag_reg, absolute, amplitude, (-1,), None)
    values, h = {"W_std": 1.2, "b_std": 0.5}, 1e-4
    assert model.has_gradients(1, **values)
    model.evaluate(1, **values)
    found = model.gradient(1, values, ("W_std", "b_std"))
    for slope, name in zip(found, values, strict=True):
        ends = [model.evaluate(1, **(values | {name: values[name] * np.exp(s * h)})) for s in (1, -1)]
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5, abs=1e-5)


def test_fit_repeats_itself_and_tells_all_it_did():
    x, y = drawn_from(np.random.default_rng(3), 1, 1.4, 0.5, 0.02, outputs=20, n=40)
    first, second = (fit(None, x, y, depth=(2, 1), W_std=(1.0, 2.0), b_std=(0.2, 1.2)) for _ in range(2))
    assert first.history == second.history
    assert {each.depth for each in first.history} == {1, 2}
    assert max(each.log_marginal_likelihood for each in first.history) == first.log_marginal_likelihood
    for each in first.history[::15]:
        k = fully_connected(each.depth, each.W_std, each.b_std).kernel_fn(x, None, "nngp")
        value = log_marginal_likelihood(k, y, each.diag_reg, amplitude=each.amplitude).value
        assert value == pytest.approx(each.log_marginal_likelihood, rel=1e-9)
    assert first.conditioning.n == 40
    assert len(repr(first)) < 1000


def test_a_homogeneous_network_without_biases_leaves_its_scale_to_the_amplitude():
    x, y = drawn_from(np.random.default_rng(4), 2, 1.5, 0.0, 0.02, outputs=50, n=50)
    with pytest.warns(SearchWarning, match=r"not identifiable: W_std = 1.58114 was kept.*amplitude=1.0 would"):
        found = fit(None, x, y, depth=(1, 2, 3), b_std=0.0)
    assert (found.depth, found.b_std, found.unidentified) == (2, 0.0, ("W_std",))
    assert len(found.history) == 3  # one Gram for each depth
    assert found.W_std == pytest.approx(np.sqrt(0.5 * 5.0))
    # Six factors: three Dense layers with W_std squared.
    assert found.amplitude * found.W_std**6 == pytest.approx(1.5**6, rel=0.1)
    scaled = fit(None, x, y, depth=(1, 2, 3), b_std=0.0, amplitude=1.0)
    assert scaled.W_std == pytest.approx(1.5, rel=0.02)
    assert scaled.log_marginal_likelihood == pytest.approx(found.log_marginal_likelihood, abs=0.01)


def test_what_a_network_ignores_is_not_searched(rng):
    x = rng.normal(size=(40, 3))

    def erf(depth, W_std, b_std):
        return stax.serial(stax.Dense(1, W_std), stax.Erf(), stax.Dense(1))

    y = drawn(rng, erf(1, 2.0, 0.0).kernel_fn(x, None, "nngp"), 0.01, 200)
    with pytest.warns(SearchWarning, match="not identifiable: b_std = "):
        found = fit(erf, x, y, depth=1)
    assert found.unidentified == ("b_std",)
    assert found.W_std == pytest.approx(2.0, rel=0.2)


@pytest.mark.parametrize("kind", ["layer", "triple", "kernel_fn", "function"])
def test_networks_of_any_kind(rng, kind):
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 2))

    def network(depth, W_std, b_std):
        made = fully_connected(depth, W_std, b_std)
        if kind == "function":
            return lambda x1, x2, get: made.kernel_fn(x1, x2, get)
        return {"layer": made, "triple": tuple(made), "kernel_fn": made.kernel_fn}[kind]

    found = fit(network, x, y, depth=2, W_std=1.5, b_std=0.2, diag_reg=0.1)
    k = fully_connected(2, 1.5, 0.2).kernel_fn(x, None, "nngp")
    expected = log_marginal_likelihood(k, y, 0.1, amplitude=None).value
    assert found.log_marginal_likelihood == pytest.approx(expected, rel=1e-10)
    assert len(found.history) == 1
    mean, variance = found.posterior(x[:5] + 0.1, "diagonal")
    full = found.posterior(x[:5] + 0.1, True)
    np.testing.assert_allclose(mean, full.mean, rtol=1e-12)
    np.testing.assert_allclose(variance, np.diagonal(full.covariance), rtol=1e-9)


@pytest.mark.parametrize("get", ["nngp", "ntk"])
def test_the_posterior_is_the_textbook_one(rng, get):
    x, y, new = rng.normal(size=(15, 3)), rng.normal(size=(15, 2)), rng.normal(size=(6, 3))
    found = fit(None, x, y, get=get, depth=2, W_std=1.5, b_std=0.2, diag_reg=0.2, diag_reg_absolute_scale=True)
    kernel = fully_connected(2, 1.5, 0.2).kernel_fn
    a, cross = kernel(x, None, get) + 0.2 * np.eye(15), kernel(new, x, get)
    expected = cross @ np.linalg.solve(a, y)
    np.testing.assert_allclose(found.posterior(new), expected, rtol=1e-9)
    amplitude = np.mean(y * np.linalg.solve(a, y))
    mean, covariance = found.posterior(new, True)
    np.testing.assert_allclose(mean, expected, rtol=1e-9)
    latent = kernel(new, None, get) - cross @ np.linalg.solve(a, cross.T)
    np.testing.assert_allclose(covariance, amplitude * latent, rtol=1e-8, atol=1e-12)
    assert found.noise_variance == pytest.approx(0.2 * amplitude, rel=1e-9)
    assert found.diag_reg == pytest.approx(0.2 / np.mean(np.diagonal(kernel(x, None, get))), rel=1e-12)
    with pytest.raises(ValueError, match=r"\[fit\] compute_cov must be True, False or 'diagonal', given 'full'"):
        found.posterior(new, "full")


def test_the_ntks_mean_is_gradient_descent_run_to_its_end(rng):
    """Of the linearised network from 0 outputs, with the penalty on the distance from its start."""
    x, y, new, reg = rng.normal(size=(8, 3)), rng.normal(size=(8, 1)), rng.normal(size=(4, 3)), 0.07
    found = fit(None, x, y, get="ntk", depth=1, W_std=1.4, b_std=0.1, diag_reg=reg, diag_reg_absolute_scale=True)
    ntk = fully_connected(1, 1.4, 0.1).kernel_fn(np.concatenate([x, new]), None, "ntk")
    features = np.linalg.cholesky(ntk)  # parameters' Jacobian, up to a rotation
    hessian = features[:8].T @ features[:8] + reg * np.eye(12)
    weights = np.zeros((12, 1))
    for _ in range(20_000):
        weights -= (hessian @ weights - features[:8].T @ y) / np.linalg.norm(hessian, 2)
    np.testing.assert_allclose(found.posterior(new), features[8:] @ weights, rtol=1e-6)


def test_the_posterior_agrees_with_scikit_learn(rng):
    process = pytest.importorskip("sklearn.gaussian_process")
    x, new, y = rng.normal(size=(25, 3)), rng.normal(size=(7, 3)), rng.normal(size=(25, 1))
    kernel = 1.3 * process.kernels.RBF(1.9)
    theirs = process.GaussianProcessRegressor(kernel, alpha=0.07, optimizer=None).fit(x, y[:, 0])
    mean, std = theirs.predict(new, return_std=True)

    def network(depth, W_std, b_std):
        return lambda x1, x2, get: kernel(x1, x2)

    found = fit(network, x, y, depth=1, W_std=1.0, b_std=0.0, diag_reg=0.07 / 1.3, amplitude=1.0)
    ours = found.posterior(new, "diagonal")
    np.testing.assert_allclose(ours.mean[:, 0], mean, rtol=1e-9)
    np.testing.assert_allclose(ours.covariance, std**2, rtol=1e-8)
    assert found.log_marginal_likelihood == pytest.approx(theirs.log_marginal_likelihood_value_, rel=1e-10)


def test_images(rng):
    """Any inputs that the kernel function takes, channels first too."""

    def network(depth, W_std, b_std):
        order = ("NCHW", "OIHW", "NCHW")
        conv = stax.Conv(1, (3, 3), None, "SAME", W_std, b_std, dimension_numbers=order)
        return stax.serial(conv, stax.Relu(), stax.Flatten(batch_axis=0), stax.Dense(1))

    x = rng.normal(size=(40, 2, 4, 4))
    y = drawn(rng, network(1, 1.5, 0.5).kernel_fn(x, None, "nngp"), 0.01, 100)
    found = fit(network, x, y, depth=1, W_std=1.5, b_std=(0.1, 2.0))
    assert found.b_std == pytest.approx(0.5, rel=0.2)
    assert found.posterior(x[:3]).shape == (3, 100)


def test_ends_of_ranges_are_said():
    x, y = drawn_from(np.random.default_rng(6), 2, 1.5, 0.4, 0.02, outputs=30, n=40)
    with pytest.warns(SearchWarning, match=r"at an end of what was tried: depth = 3, b_std = 0.1, diag_reg = 0.1") as w:
        fit(None, x, y, depth=(3, 4), W_std=1.5, b_std=(0.01, 0.1), diag_reg=(0.1, 1.0))
    assert w[0].filename == __file__


def test_progress_is_drawn_on_request(rng):
    x, y = rng.normal(size=(10, 2)), rng.normal(size=(10, 1))
    drawing = io.StringIO()
    with redirect_stderr(drawing):
        fit(None, x, y, depth=1, W_std=(1.0, 2.0), b_std=0.1, diag_reg=0.1, amplitude=1.0)
        assert drawing.getvalue() == ""
        fit(None, x, y, depth=1, W_std=(1.0, 2.0), b_std=0.1, diag_reg=0.1, amplitude=1.0, progress=True)
    assert re.search(r"(\d+)(/| of )\1 ", drawing.getvalue())
    assert "Gram" in drawing.getvalue()


BAD_FITS = [
    ({"get": "both"}, ValueError, "get must be 'nngp' or 'ntk', given 'both'"),
    ({"depth": ()}, ValueError, r"depth must be positive integers, given \(\)"),
    ({"depth": (0, 1)}, ValueError, r"depth must be positive integers, given \(0, 1\)"),
    ({"depth": 1.5}, ValueError, "depth must be positive integers, given 1.5"),
    ({"W_std": (2.0, 1.0)}, ValueError, r"W_std's range is reversed: \(2.0, 1.0\)"),
    ({"W_std": 0.0}, ValueError, "W_std must be a positive number or a range"),
    ({"W_std": (1.0, np.inf)}, ValueError, "W_std must be a positive number or a range"),
    ({"b_std": (0.0, 1.0)}, ValueError, "b_std must be a positive number, or 0, or a range"),
    ({"b_std": (1, 2, 3)}, ValueError, "b_std must be a positive number, or 0, or a range"),
    ({"diag_reg": 0.0}, ValueError, "diag_reg must be a positive number or a range"),
    ({"amplitude": -1.0}, ValueError, "amplitude must be positive or None, given -1.0"),
    ({"restarts": 0}, ValueError, "restarts must be a positive integer, given 0"),
    ({"tol": 0.0}, ValueError, "tol must lie between 0 and 1, given 0.0"),
    (
        {"network": 3},
        TypeError,
        "that makes a layer or a kernel function, or None; given int",
    ),
    ({"network": lambda **_: 3}, TypeError, "network must give a layer, its triple or a kernel function; given int"),
    ({"W_std": (1.0, 1e149)}, ValueError, r"not finite, first in row 0; at depth=1, W_std=\d.*e\+\d+, b_std="),
    ({"x": np.zeros((12, 3)), "b_std": 0.0}, ValueError, "diagonal must be positive, it is 0; at depth=1, W_std="),
    ({"x": nan_at(np.ones((12, 3)), 5, 0)}, ValueError, "not finite, first in row 0"),
    ({"y": nan_at(np.ones((12, 1)), 5, 0)}, ValueError, r"y_train is not finite: 1 of 12 values"),
    ({"y": np.ones((11, 1))}, ValueError, r"k_train_train has shape \(12, 12\)"),
    ({"solve_dtype": int}, ValueError, "solve_dtype must be float32 or float64"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_FITS)
def test_bad_fits(rng, change, error, message):
    given = {"network": None, "x": rng.normal(size=(12, 3)), "y": rng.normal(size=(12, 1)), **change}
    with pytest.raises(error, match=r"^\[fit\] .*" + message):
        fit(**given)


def test_names_are_public():
    assert {"fit", "leave_one_out", "log_marginal_likelihood", "select_diag_reg", "SearchWarning"} <= set(
        predict.__all__
    )
