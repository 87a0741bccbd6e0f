"""predict at its boundary: kernels that are singular, ill-conditioned or none, and arguments that are refused."""

from __future__ import annotations

import fake_cupy
import numpy as np
import pytest
from fastntk import predict
from fastntk.predict import Gaussian, IllConditionedWarning, IndefiniteError
from predict_inputs import Kernels, both, draw, linear, network, warned
from scipy.linalg import expm, hilbert

# ---------------------------------------------------------------- singular, ill-conditioned, indefinite


def twins() -> tuple[np.ndarray, np.ndarray]:
    """Six points, the last two the same with different labels."""
    half = draw(5, 8)
    x = np.concatenate([half, half[-1:]])
    return x @ x.T / 8, np.concatenate([draw(5, 1, seed=9), [[3.0]]])


def test_duplicates_with_different_labels():
    """Neither end of time gives NaN; the twins' prediction is the mean of their labels, and a warning says why."""
    k, y = twins()
    expected = np.concatenate([y[:4], np.full((2, 1), y[4:].mean())])
    f = predict.gradient_descent_mse(k, y)
    (train, test), caught = warned(lambda: f(np.inf, 0.0, 0.0, k))
    assert {c.category for c in caught} == {IllConditionedWarning}
    said = "[gradient_descent_mse] the kernel of 6 training points is singular to rounding: 1 of its eigenvalues"
    assert str(caught[0].message).startswith(said)
    np.testing.assert_allclose(train, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(test, expected, rtol=0, atol=1e-12)
    (train, test), caught = warned(lambda: f(None, 0.0, 0.0, k))
    assert len(caught) == 1
    assert np.array_equal(train, y)
    np.testing.assert_allclose(test, expected, rtol=0, atol=1e-4)
    k = Kernels(k, k)
    found, caught = warned(lambda: predict.gp_inference(k, y)(("nngp", "ntk"), k, k))
    assert {c.category for c in caught} == {IllConditionedWarning}
    for g in found:
        assert np.isfinite(g.mean).all()
        assert np.max(np.abs(g.covariance)) < 1e-6
        assert np.min(np.diag(g.covariance)) >= 0
    assert found.nngp.conditioning.effective_rank == 5
    assert found.nngp.conditioning.jitter > 0


def test_short_training_of_a_singular_kernel_is_silent_and_exact():
    k, y = twins()
    train, test = predict.gradient_descent_mse(k, y)(7.0, 0.0, 0.0, k)
    expected = y - expm(-k * 7.0 / 6) @ y
    np.testing.assert_allclose(train, expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(test, expected, rtol=0, atol=1e-14)


def test_long_training_of_an_ill_conditioned_kernel_is_warned_of():
    k = hilbert(9)  # condition 5e11
    f = predict.gradient_descent_mse(k, draw(9, 1))
    _, caught = warned(lambda: f(1e4, 0.0, 0.0, k))
    assert caught == []
    _, caught = warned(lambda: f(1e18, 0.0, 0.0, k))
    assert [c.category for c in caught] == [IllConditionedWarning]
    assert "ill-conditioned for this long a training" in str(caught[0].message)
    assert "keep about 3 digits" in str(caught[0].message)


def test_a_kernel_of_zeros():
    """Nothing is learned on the training points; a test point moves by its kernel times tau."""
    y, cross = draw(3, 1), draw(2, 3)
    f = predict.gradient_descent_mse(np.zeros((3, 3)), y, 2.0)
    train, test = f([0.0, 5.0], 1.0, 0.0, cross)
    assert np.array_equal(train, np.ones((2, 3, 1)))
    np.testing.assert_allclose(test[1], cross @ (y - 1) * (2.0 * 5 / 3), rtol=1e-14)
    (train, test), caught = warned(lambda: f(np.inf, 1.0, 0.0, cross))
    assert {c.category for c in caught} == {IllConditionedWarning}
    assert np.array_equal(train, np.ones((3, 1)))
    assert np.array_equal(test, np.zeros((2, 1)))


def test_constant_targets():
    k, cross, own = both(6, 3)
    for value in (0.0, 5.0):
        y = np.full((6, 2), value)
        g = predict.gp_inference(k, y, 1e-3)("nngp", cross, own)
        a = k.nngp + 1e-3 * np.diag(k.nngp).mean() * np.eye(6)
        np.testing.assert_allclose(g.mean, cross.nngp @ np.linalg.solve(a, y), rtol=0, atol=1e-12)
        assert np.isfinite(predict.gradient_descent_mse(k.ntk, y)([0.0, 1.0, np.inf])).all()


def test_indefinite_kernels_are_refused_with_their_eigenvalue():
    k = np.diag([1.0, 2.0, -0.5])
    y = draw(3, 1)
    for call in (
        lambda: predict.gradient_descent_mse(k, y)(1.0),
        lambda: predict.gradient_descent_mse(k, y)(None, 0.0, 0.0, k),
        lambda: predict.gp_inference(k, y)("nngp", k),
    ):
        with pytest.raises(IndefiniteError, match=r"smallest eigenvalue is -0\.5") as caught:
            call()
        assert np.isclose(caught.value.smallest_eigenvalue, -0.5)
    with pytest.raises(IndefiniteError, match=r"no eigenvalue above -1: it is no Gram matrix"):
        predict.max_learning_rate(-np.eye(2))


def test_kernels_that_do_not_belong_together_are_refused():
    k, cross, own = both(6, 3)
    with pytest.raises(IndefiniteError, match=r"\[gp_inference\] a variance is -.* do not belong together"):
        predict.gp_inference(k, draw(6, 1))("nngp", cross, Kernels(own.nngp / 100, own.ntk))


# ---------------------------------------------------------------- what is refused

K, CROSS, OWN = both(5, 3)
Y = draw(5, 2)
BAD = Y.copy()
BAD[2, 1] = np.nan


def mse(*args, **kwargs):
    return predict.gradient_descent_mse(*args, **kwargs)


def gp(*args, **kwargs):
    return predict.gp_inference(*args, **kwargs)


REFUSED = [
    (
        lambda: mse(K.ntk, BAD),
        ValueError,
        "[gradient_descent_mse] y_train is not finite: 1 of 10 values, first at (2, 1)",
    ),
    (lambda: mse(K.ntk, Y[:, 0]), ValueError, "targets of one output are (n, 1)"),
    (lambda: mse(K.ntk, Y[:4]), ValueError, "k_train_train has shape (5, 5); targets of shape (4, 2)"),
    (lambda: mse(K.ntk, {1.0}), TypeError, "y_train must be a numpy.ndarray or convert to one, given set"),
    (lambda: mse({1.0}, Y), TypeError, "k_train_train must be a numpy.ndarray or convert to one, given set"),
    (lambda: mse(K, Y), TypeError, "k_train_train must be one kernel, k.ntk or k.nngp; given"),
    (lambda: mse(K.ntk.astype(np.float16), Y), TypeError, "must be float32 or float64, given float16"),
    (lambda: mse(K.ntk + np.triu(K.ntk), Y), ValueError, "is not symmetric"),
    (lambda: mse(K.ntk * np.nan, Y), ValueError, "is not finite, first in row 0"),
    (lambda: mse(K.ntk, Y, 0.0), ValueError, "learning_rate must be finite and positive, given 0.0"),
    (lambda: mse(K.ntk, Y, np.inf), ValueError, "learning_rate must be finite and positive, given inf"),
    (lambda: mse(K.ntk, Y, "fast"), ValueError, "learning_rate must be finite and positive, given 'fast'"),
    (lambda: mse(K.ntk, Y, 1.0, -1.0), ValueError, "diag_reg must be finite and not negative, given -1.0"),
    (lambda: mse(K.ntk, Y, discrete=1), TypeError, "discrete must be True or False, given 1"),
    (lambda: mse(K.ntk, Y, solve_dtype=np.float16), ValueError, "solve_dtype must be float32 or float64"),
    (lambda: mse(K.ntk, Y, trace_axes=(0, 1)), ValueError, "must have 0 axes"),
    (lambda: mse(K.ntk, Y)(-1.0), ValueError, "t must not be negative or NaN, given -1.0"),
    (lambda: mse(K.ntk, Y)([1.0, np.nan]), ValueError, "t must not be negative or NaN, given nan"),
    (lambda: mse(K.ntk, Y)("end"), TypeError, "t must be numbers or None, given str"),
    (lambda: mse(K.ntk, Y)(True), TypeError, "t must be numbers or None, given bool"),
    (
        lambda: mse(K.ntk, Y, discrete=True)(1.5),
        ValueError,
        "t counts steps (discrete=True) and must hold integers, given 1.5",
    ),
    (lambda: mse(K.ntk, Y)(1.0, None), ValueError, "fx_train_0 and fx_test_0 are both None"),
    (lambda: mse(K.ntk, Y)(1.0, 0.0, 0.0), ValueError, "k_test_train is missing"),
    (lambda: mse(K.ntk, Y)(1.0, Y[:3]), ValueError, "fx_train_0 must be a number or have shape (5, 2), given (3, 2)"),
    (
        lambda: mse(K.ntk, Y)(1.0, 0.0, Y, CROSS.ntk),
        ValueError,
        "fx_test_0 must be a number or have shape (3, 2), given (5, 2)",
    ),
    (lambda: mse(K.ntk, Y)(1.0, np.nan), ValueError, "fx_train_0 is not finite"),
    (lambda: mse(K.ntk, Y)(1.0, 1j), TypeError, "fx_train_0 must hold real numbers, given complex128"),
    (
        lambda: mse(K.ntk, Y)(1.0, 0.0, 0.0, CROSS.ntk[:, :4]),
        ValueError,
        "k_test_train has shape (3, 4): (4,) training points, not (5,)",
    ),
    (lambda: mse(K.ntk, Y)(1.0, 0.0, 0.0, CROSS.ntk[0]), ValueError, "k_test_train must have 2 axes"),
    (lambda: mse(K.ntk, Y)(1.0, 0.0, 0.0, CROSS.ntk * np.inf), ValueError, "k_test_train is not finite"),
    (lambda: gp(K, BAD), ValueError, "[gp_inference] y_train is not finite"),
    (lambda: gp(K.nngp[:4], Y), ValueError, "k_train_train has shape (4, 5)"),
    (
        lambda: gp(None, Y),
        TypeError,
        "k_train_train must be an array, a Kernel or a named tuple of kernels; given NoneType",
    ),
    (lambda: gp(Kernels(None, None), Y), ValueError, "k_train_train lacks 'nngp'"),
    (
        lambda: gp(Kernels(K.nngp, None), Y)("ntk", CROSS),
        ValueError,
        "k_train_train lacks 'ntk', which this prediction needs",
    ),
    (lambda: gp(K, Y)("ntk", Kernels(CROSS.nngp, None)), ValueError, "k_test_train lacks 'ntk'"),
    (
        lambda: gp(K, Y)("cov", CROSS),
        ValueError,
        "get must be one of ('nngp', 'ntk', 'ntkgp'), or a tuple of different ones; given 'cov'",
    ),
    (lambda: gp(K, Y)((), CROSS), ValueError, "get must be one of"),
    (lambda: gp(K, Y)(("ntk", "NTK"), CROSS), ValueError, "get must be one of"),
    (lambda: gp(K, Y)(3, CROSS), TypeError, "get must be a name, a tuple of names or None, given 3"),
    (lambda: gp(K.ntk, Y)("ntk", CROSS.ntk, OWN.ntk), ValueError, "the covariance of 'ntk' needs both kernels"),
    (lambda: gp(K, Y)("nngp", CROSS, True), TypeError, "k_test_test must be an array"),
    (
        lambda: gp(K, Y)("nngp", CROSS, OWN.nngp[:2, :2]),
        ValueError,
        "k_test_test has shape (2, 2), k_test_train has (3,) test rows",
    ),
    (lambda: gp(K, Y)("nngp", CROSS, np.triu(OWN.nngp)), ValueError, "k_test_test is not symmetric"),
    (
        lambda: gp(K, Y)(None, Kernels(CROSS.nngp, CROSS.ntk[:2])),
        ValueError,
        "holds kernels of (3,) and of (2,) test rows",
    ),
    (lambda: predict.max_learning_rate(K), TypeError, "ntk_train_train must be one kernel"),
    (
        lambda: predict.max_learning_rate(K.ntk, 0),
        ValueError,
        "y_train_size must be a positive integer or None, given 0",
    ),
    (lambda: predict.max_learning_rate(K.ntk, 5, 1.0), ValueError, "momentum must be in [0, 1), given 1.0"),
    (
        lambda: predict.max_learning_rate(K.ntk, eps=0.0),
        ValueError,
        "eps must be positive and finite, or None, given 0.0",
    ),
    (lambda: predict.max_learning_rate(K.ntk[:3]), ValueError, "ntk_train_train has shape (3, 5)"),
    (lambda: predict.sample(Y, 3, 0), TypeError, "gaussian must be a Gaussian with mean and covariance"),
    (lambda: predict.sample(Gaussian(Y, OWN.ntk), 3, 0), ValueError, "covariance has shape (3, 3)"),
    (lambda: predict.sample(Gaussian(Y, np.ones(5)), 3, 0), ValueError, "variances alone are nothing to draw from"),
    (lambda: predict.sample(Gaussian(Y, K.ntk), -1, 0), ValueError, "n must be an integer, not negative; given -1"),
    (
        lambda: predict.sample(Gaussian(Y, -K.ntk), 3, 0),
        IndefiniteError,
        "[sample] the covariance (5 rows) is indefinite",
    ),
    (lambda: predict.sample(Gaussian(Y, K.ntk * np.nan), 3, 0), ValueError, "[sample] the covariance is not finite"),
]


@pytest.mark.parametrize("k", range(len(REFUSED)))
def test_refused(k):
    call, error, words = REFUSED[k]
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert words in str(caught.value)


def entrances():
    """By name: an array that a function of predict takes, and the call with another in its place."""
    x, x_test, y = draw(6, 3), draw(3, 3, seed=1), draw(6, 2, seed=2)
    (k, cross, own), kernel_fn = both(6, 3), network().kernel_fn
    variances = np.diag(own.nngp).copy()
    gp, mse = predict.gp_inference(k, y, 1e-2), predict.gradient_descent_mse(k.ntk, y)
    flow = predict.gradient_descent("mse", k.ntk, y)
    ensemble = predict.gradient_descent_mse_ensemble

    def answers(found):
        return lambda x1, x2, get: found if x2 is None else kernel_fn(x1, x2, get)

    return {
        "y of gp_inference": (y, lambda a: predict.gp_inference(k, a)),
        "k_train_train": (k.nngp, lambda a: predict.gp_inference(a, y)),
        "k_train_train in a tuple": (k.nngp, lambda a: predict.gp_inference(Kernels(k.nngp, a), y)),
        "k_test_train": (cross.nngp, lambda a: gp("nngp", a)),
        "k_test_train in a tuple": (cross.nngp, lambda a: gp("nngp", Kernels(a, cross.ntk))),
        "k_test_test": (own.nngp, lambda a: gp("nngp", cross, a)),
        "variances": (variances, lambda a: gp("nngp", cross, a)),
        "k of gradient_descent_mse": (k.ntk, lambda a: predict.gradient_descent_mse(a, y)),
        "fx_train_0": (y, lambda a: mse(1.0, a)),
        "fx_test_0": (draw(3, 2), lambda a: mse(1.0, 0.0, a, cross.ntk)),
        "cross of gradient_descent_mse": (cross.ntk, lambda a: mse(1.0, 0.0, 0.0, a)),
        "t": (np.ones(2), lambda a: mse(a)),
        "k of gradient_descent": (k.ntk, lambda a: predict.gradient_descent("mse", a, y)),
        "cross of gradient_descent": (cross.ntk, lambda a: flow(1.0, 0.0, 0.0, a)),
        "state": (y, lambda a: flow(1.0, predict.ODEState(a))),
        "x_train": (x, lambda a: ensemble(kernel_fn, a, y)(1.0, x_test, "ntk")),
        "x_train of another's function": (x, lambda a: ensemble(linear, a, y)(1.0, x_test, "ntk")),
        "x_test of another's function": (x_test, lambda a: ensemble(linear, x, y)(1.0, a, "ntk")),
        "what a function gave": (kernel_fn(x, None, "ntk"), lambda a: ensemble(answers(a), x, y)(1.0, x_test, "ntk")),
        "x of nystrom": (x, lambda a: predict.nystrom(kernel_fn, a, y, 3)),
        "landmarks": (x[:3], lambda a: predict.nystrom(kernel_fn, x, y, a)),
        "array of conjugate_gradient": (k.ntk, lambda a: predict.conjugate_gradient(a, None, y, diag_reg=0.1)),
        "log_marginal_likelihood": (k.ntk, lambda a: predict.log_marginal_likelihood(a, y)),
        "y of leave_one_out": (y, lambda a: predict.leave_one_out(k.ntk, a)),
        "max_learning_rate": (k.ntk, predict.max_learning_rate),
        "covariance": (own.nngp, lambda a: predict.sample((draw(3, 1), a), 1, 0)),
    }


@pytest.mark.parametrize("name", list(entrances()))
def test_masked_and_complex_arrays_are_refused(name):
    """What a mask hides has no value, and an imaginary part no meaning: neither is dropped in silence."""
    good, call = entrances()[name]
    call(good)
    with pytest.raises(TypeError, match="masked array"):
        call(np.ma.masked_greater(good, 0.2))
    with pytest.raises(TypeError, match="complex128"):
        call(good + 0.1j)


@pytest.mark.parametrize("power", [-1000, -996, -300, 300, 996])
def test_units_of_kernel_and_targets(power):
    """Exact in powers of two, to the ends of float64's range."""
    (k, cross, _), y, unit = both(20, 4), draw(20, 1), 2.0**power
    (k, cross), reg = (k.ntk, cross.ntk), 1e-2
    right = cross @ np.linalg.solve(k + reg * np.diag(k).mean() * np.eye(20), y)
    for kernel, targets in ((unit, 1.0), (1.0, unit)):
        a = predict.gp_inference(k * kernel, y * targets, reg)("nngp", cross * kernel)
        b = predict.gradient_descent_mse(k * kernel, y * targets, 1.0, reg)(None, None, 0.0, cross * kernel)
        for found in (a, b):
            np.testing.assert_allclose(found / targets, right, rtol=0, atol=1e-10)


def test_mixed_libraries_are_refused(monkeypatch):
    cupy = fake_cupy.install(monkeypatch)
    for call in (
        lambda: mse(cupy.asarray(K.ntk), Y),
        lambda: mse(K.ntk, Y)(1.0, 0.0, 0.0, cupy.asarray(CROSS.ntk)),
        lambda: gp(K, Y)("nngp", Kernels(*map(cupy.asarray, CROSS))),
        lambda: predict.sample(Gaussian(Y, cupy.asarray(K.ntk)), 1, 0),
    ):
        with pytest.raises(TypeError, match="NumPy and CuPy arrays are mixed"):
            call()


def test_targets_and_kernels_of_other_kinds_are_converted():
    """Lists, frames, tensors in host memory: what converts is taken, as kernel functions take it."""
    pandas = pytest.importorskip("pandas")
    expected = predict.gp_inference(K.nngp, Y, 1e-2)("nngp", CROSS.nngp)
    for convert in (np.ndarray.tolist, pandas.DataFrame):
        found = predict.gp_inference(convert(K.nngp), convert(Y), 1e-2)("nngp", convert(CROSS.nngp))
        assert np.array_equal(found, expected)
        again = predict.log_marginal_likelihood(convert(K.nngp), convert(Y), 1e-2)
        assert again.value == predict.log_marginal_likelihood(K.nngp, Y, 1e-2).value


@pytest.mark.parametrize("wrong", [None, "abc", 1j, True, np.ones(2), {}])
def test_a_diag_reg_that_is_no_number_is_named(wrong):
    for call in (gp, mse, predict.leave_one_out):
        with pytest.raises(TypeError, match=r"diag_reg must be a number, given"):
            call(K.nngp, Y, diag_reg=wrong)


def test_fit_says_what_a_network_is():
    for wrong in (network(), network().kernel_fn, lambda depth: None, 3):
        with pytest.raises(TypeError, match=r"\[fit\] network must be a function network\(depth=, W_std=, b_std=\)"):
            predict.fit(wrong, draw(5, 2), Y)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"momentum": "a"}, TypeError, r"\[max_learning_rate\] momentum must be a number, given str"),
        ({"momentum": np.ones(2)}, TypeError, r"\[max_learning_rate\] momentum must be a number, given numpy.ndarray"),
        ({"eps": "a"}, TypeError, r"\[max_learning_rate\] eps must be a number or None, given str"),
        ({"eps": True}, TypeError, r"\[max_learning_rate\] eps must be a number or None, given bool"),
    ],
)
def test_a_learning_rate_from_numbers(options, error, words):
    with pytest.raises(error, match=words):
        predict.max_learning_rate(np.eye(3), **options)


def test_more_noise_than_floats_hold():
    with pytest.raises(ValueError, match=r"\[gp_inference\] diag_reg must be finite"):
        predict.gp_inference(np.eye(3), np.ones((3, 1)), diag_reg=10**400)
