"""``predict.gradient_descent``: its limit, and stiff kernels."""

from __future__ import annotations

import numpy as np
import pytest
from fastntk import predict, stax
from fastntk.predict import IllConditionedWarning, ODEState, losses
from ode_inputs import Problem, close, entropy, square
from predict_inputs import draw
from scipy.optimize import brentq
from scipy.special import expit

# ---------------------------------------------------------------- the limit


@pytest.mark.parametrize("given", ["mse", "gradient"])
@pytest.mark.parametrize("momentum", [None, 0.0, 0.9])
def test_limit_of_mse_is_the_solve(given, momentum):
    p = Problem([0.02, 0.3, 2.0, 9.0])
    loss = {"loss": "mse"} if given == "mse" else {"loss": None, "gradient": square}
    fn = predict.gradient_descent(**loss, k_train_train=p.k, y_train=p.y, momentum=momentum)
    train, test = fn(None, *p.start())
    close(train, p.y)
    close(test, p.f_test + p.cross @ np.linalg.solve(p.k, p.y - p.f))
    both = fn(np.array([np.inf, 3.0]), *p.start())
    for values, last, now in zip(both, (train, test), fn(3.0, *p.start()), strict=True):
        close(values[0], last)
        close(values[1], now)


def test_limit_of_a_push():
    """A velocity at the start carries outputs by q / c, on test points too; none is left at the end."""
    p = Problem([0.3, 2.0, 9.0])
    rate, momentum = 0.5, 0.6
    far = rate**0.5 / (1 - momentum)
    fn = predict.gradient_descent("mse", p.k, p.y, rate, momentum)
    found = fn(None, ODEState(p.f, p.f_test, p.q, p.q_test), k_test_train=p.cross)
    close(found.fx_train, p.y)
    carried = p.f_test + far * p.q_test
    close(found.fx_test, carried + p.cross @ np.linalg.solve(p.k, p.y - p.f - far * p.q))
    assert not found.qx_train.any()
    assert not found.qx_test.any()


@pytest.mark.parametrize("given", ["cross_entropy", "gradient"])
@pytest.mark.parametrize("momentum", [None, 0.7])
def test_limit_of_cross_entropy(given, momentum):
    """softmax(f) = y, and the mean of each sample's outputs never moves."""
    p = Problem([0.2, 0.3, 2.0, 9.0], o=3)
    loss = {"loss": given} if given == "cross_entropy" else {"loss": None, "gradient": entropy}
    fn = predict.gradient_descent(**loss, k_train_train=p.k, y_train=p.soft, momentum=momentum)
    train, test = fn(None, *p.start())
    log = np.log(p.soft)
    exact = log - log.mean(axis=1, keepdims=True) + p.f.mean(axis=1, keepdims=True)
    close(train, exact)
    close(test, p.f_test + p.cross @ np.linalg.solve(p.k, exact - p.f))


def test_limit_of_a_singular_kernel():
    """Copies of a point with different targets: their mean is learned, and the rest left out with a warning."""
    p = Problem([0.4, 1.0, 3.0])
    at = np.array([0, 1, 2, 2])
    k, cross = p.k[np.ix_(at, at)], p.cross[:, at]
    y = np.random.default_rng(1).standard_normal((4, 2))
    fn = predict.gradient_descent("mse", k, y)
    with pytest.warns(IllConditionedWarning, match="1 of its eigenvalues count as zero"):
        train, test = fn(None, 0.0, 0.0, cross)
    inverse = np.linalg.pinv(k, rcond=1e-12)
    close(train, k @ inverse @ y)
    close(test, cross @ inverse @ y)
    assert fn.conditioning.effective_rank == 3


def test_limit_behind_a_barrier():
    """Wells at -1 and 1: a push out of one, whose way would end in the other without forces, does not get there."""

    def well(fx, y):
        return fx * (fx**2 - 1)

    k, y, f, q = (np.array([[x]]) for x in (16.0, 0.0, -1.0, 2.0))
    fn = predict.gradient_descent(None, k, y, 1.0, 0.0, gradient=well)
    late = fn(100.0, ODEState(f, None, q)).fx_train
    close(late, [[-1.0]])
    close(fn(None, ODEState(f, None, q)).fx_train, late)


def test_a_kernel_that_is_zero():
    """Nothing is learned, and test points that it does not reach are what the loss makes of them."""
    k, y = np.zeros((2, 2)), np.array([[1.0], [-2.0]])
    cross = np.array([[0.5, 0.25]])
    for momentum in (None, 0.5):
        fn = predict.gradient_descent("mse", k, y, 1.0, momentum)
        with pytest.warns(IllConditionedWarning, match="2 of its eigenvalues count as zero"):
            train, test = fn(None, 0.5, 0.25, cross)
        assert np.array_equal(train, np.full((2, 1), 0.5))
        assert np.array_equal(test, [[0.25]])
    train, test = predict.gradient_descent("mse", k, y)(4.0, 0.0, 0.25, cross)
    assert np.array_equal(train, np.zeros((2, 1)))
    close(test, 0.25 + cross @ (4.0 * y / 2))


def test_what_a_singular_kernel_leaves():
    """A direction of eigenvalue 0: its weights grow with time, until it is too long to tell 0 from rounding."""
    half = np.array([[1.0, 0.5], [-0.25, 1.0], [0.5, -1.0]])
    k, y, cross = half @ half.T, np.array([[1.0], [2.0], [-1.0]]), np.array([[0.5, -1.0, 0.25]])
    w, v = np.linalg.eigh(k)
    assert abs(w[0]) < 1e-15
    learned = (v[:, 1:] / w[1:]) @ (v[:, 1:].T @ y)
    # The learning rate that momentum amounts to, and the time until the velocity has set in.
    for momentum, rate, late in ((None, 1.0, 0.0), (0.9, 10.0, 10.0)):
        fn = predict.gradient_descent("mse", k, y, 1.0, momentum)
        grown = v[:, :1] * ((3e3 - late) * rate / 3) @ (v[:, :1].T @ y)
        close(fn(3e3, 0.0, 0.0, cross)[1], cross @ (learned + grown))
        with pytest.warns(IllConditionedWarning, match="1 of its eigenvalues count as zero"):
            found = fn(5e15 / rate, 0.0, 0.0, cross)[1]
        close(found, cross @ learned)


# ---------------------------------------------------------------- stiff kernels

STIFF = Problem(np.geomspace(1e-8, 1.0, 24), o=2, m=5)


def test_stiff_flow():
    """Condition 1e8: the evaluations are few, whatever the clock says."""
    fn = predict.gradient_descent("mse", STIFF.k, STIFF.y, max_evaluations=20_000)
    for t in (1e5, 1e8, 1e10):
        for values, expected in zip(fn(t, *STIFF.start()), STIFF.flow(t), strict=True):
            close(values, expected, 1e-8)
    with pytest.raises(RuntimeError, match=r"6000 evaluations of the gradient have led to t = .* of 1e"):
        predict.gradient_descent("mse", STIFF.k, STIFF.y, method="DOP853", max_evaluations=6000)(1e8)


def test_stiff_flow_by_a_function():
    """An implicit method takes over, with the function's Hessian by differences."""
    fn = predict.gradient_descent(None, STIFF.k, STIFF.y, gradient=square, max_evaluations=12_000)
    for values, expected in zip(fn(1e8, *STIFF.start()), STIFF.flow(1e8), strict=True):
        close(values, expected, 1e-8)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_stiff_momentum_by_a_function(scale):
    """In units of their own frequency; the limit is known, and the evaluations are few."""
    options = {"gradient": square, "max_evaluations": 45_000}
    fn = predict.gradient_descent(None, scale * STIFF.k, STIFF.y, 1 / scale, 0.5, **options)
    train, test = fn(1e11, STIFF.f, STIFF.f_test, scale * STIFF.cross)
    for values, expected in zip((train, test), STIFF.moved(STIFF.v.T @ (STIFF.y - STIFF.f)), strict=True):
        close(values, expected, 1e-7)


def test_no_jacobian_of_many_rows_unasked(monkeypatch):
    monkeypatch.setattr("fastntk.predict.flow.DENSE", 10)
    with pytest.raises(RuntimeError, match=r"20000 evaluations .*: DOP853 on 48 unknowns"):
        predict.gradient_descent(None, STIFF.k, STIFF.y, gradient=square, max_evaluations=20_000)(1e8)


def test_stiff_limits():
    """The remains of condition 1e8 are rounding: 1e-16 times it."""
    solved = STIFF.moved(STIFF.v.T @ (STIFF.y - STIFF.f))
    for momentum in (None, 0.9):
        fn = predict.gradient_descent("mse", STIFF.k, STIFF.y, 1.0, momentum, max_evaluations=50_000)
        for values, expected in zip(fn(None, *STIFF.start()), solved, strict=True):
            close(values, expected, 1e-7)
    log = np.log(STIFF.soft)
    exact = log - log.mean(axis=1, keepdims=True) + STIFF.f.mean(axis=1, keepdims=True)
    fn = predict.gradient_descent("cross_entropy", STIFF.k, STIFF.soft, max_evaluations=20_000)
    for values, expected in zip(fn(None, *STIFF.start()), STIFF.moved(STIFF.v.T @ (exact - STIFF.f)), strict=True):
        close(values, expected, 1e-7)


def test_slowly_damped_oscillations():
    """They are followed in explicit steps, which need fewest, until they have died out."""
    p = Problem(np.geomspace(1e-2, 1.0, 6))
    fn = predict.gradient_descent("mse", p.k, p.y, 2.0, 0.99, max_evaluations=60_000)
    train, test = fn(None, *p.start())
    close(train, p.y)
    close(test, p.moved(p.v.T @ (p.y - p.f))[1])


def test_stiff_cross_entropy_by_two_methods():
    found = [
        predict.gradient_descent("cross_entropy", STIFF.k, STIFF.labels, method=method, rtol=rtol)(1e4, *STIFF.start())
        for method, rtol in ((None, 1e-12), ("Radau", 1e-9))
    ]
    for one, other in zip(*found, strict=True):
        close(one, other, 1e-8)


# ---------------------------------------------------------------- cross-entropy of zeros and ones on a singular kernel


def on_a_line(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A kernel of 40 points of which rounding leaves some 20 directions, and labels that it separates."""
    x = np.random.default_rng(0).uniform(-1, 1, (n, 1))
    kernel_fn = stax.serial(stax.Dense(1, 1.5, 0.1), stax.Erf(), stax.Dense(1, 1.5, 0.1)).kernel_fn
    return kernel_fn(x, None, "ntk"), np.eye(2)[(np.sin(9 * x[:, 0]) > 0).astype(int)]


def without_limit(k: np.ndarray, y: np.ndarray, evaluations: int) -> None:
    with pytest.raises(ValueError, match=r"t is infinite, but the cross-entropy .* no limit"):
        predict.gradient_descent("cross_entropy", k, y, max_evaluations=evaluations)(None)


@pytest.mark.filterwarnings("ignore::fastntk.predict.IllConditionedWarning")
def test_labels_that_a_singular_kernel_separates_are_refused_before_training():
    k, y = on_a_line()
    assert np.linalg.matrix_rank(k, hermitian=True) < len(k)
    without_limit(k, y, 1)
    # Three classes, of which two are level in one sample: the third alone is driven down there.
    x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 2.0]])
    without_limit(x @ x.T, np.array([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0], [0.3, 0.7, 0]]), 1)


@pytest.mark.filterwarnings("ignore::fastntk.predict.IllConditionedWarning")
def test_labels_that_are_separated_on_the_way(monkeypatch):
    """Where it would take too long to tell beforehand."""
    monkeypatch.setattr(losses, "_LARGEST", 0)
    x = draw(12, 5)
    without_limit(x @ x.T, np.eye(2)[(x[:, 0] > 0).astype(int)], 5000)


@pytest.mark.filterwarnings("ignore::fastntk.predict.IllConditionedWarning")
@pytest.mark.parametrize("largest", [0, 200_000])
def test_labels_that_a_singular_kernel_does_not_separate_have_a_limit(largest, monkeypatch):
    """Logistic regression with one weight, the root of its slope; and equal points of different classes."""
    monkeypatch.setattr(losses, "_LARGEST", largest)
    x = np.array([1.0, -0.5, 2.0, 0.3, -1.5, 0.7])
    first = np.array([True, False, True, False, True, True])  # the fifth lies on the wrong side
    y = np.stack([first, ~first], axis=1).astype(float)
    found = predict.gradient_descent("cross_entropy", np.outer(x, x), y)(None)
    # f_1 - f_2 = 2 w x
    w = brentq(lambda w: (x * (first - expit(2 * w * x))).sum(), -10, 10, xtol=1e-14)
    np.testing.assert_allclose(found, np.outer(x, [w, -w]), rtol=0, atol=1e-9)
    k = np.ones((3, 3))  # one point three times
    found = predict.gradient_descent("cross_entropy", k, np.eye(2)[[0, 0, 1]])(None)
    np.testing.assert_allclose(found[:, 0] - found[:, 1], np.log(2), rtol=0, atol=1e-9)
