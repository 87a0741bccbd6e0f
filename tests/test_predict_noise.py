"""What rounding has left in a kernel's entries is noise: no function of ``predict`` learns it as if it were signal."""

from __future__ import annotations

import numpy as np
import pytest
from fastntk import predict
from fastntk.predict import IllConditionedWarning
from fastntk.predict.linalg import Cholesky, Spectrum
from predict_inputs import draw, warned

SINGLE = np.float32


def low_rank(n: int, d: int, scale: float = 1.0):
    """A linear kernel in float32 and the least-squares fit, its limit at any accuracy: (k, cross, y, fit)."""
    x, x_test = draw(n, d), draw(6, d, seed=4)
    y = np.sin(3 * x[:, :1]) + draw(n, 1, seed=5)
    fit = x_test @ np.linalg.lstsq(x, y, rcond=None)[0]
    return (scale * x @ x.T).astype(SINGLE), (scale * x_test @ x.T).astype(SINGLE), y, fit


def bell(a, b=None, get="nngp"):
    """A kernel whose eigenvalues fall faster than any power, in the inputs' dtype; computed in float64."""
    b = a if b is None else b
    return np.exp(-2 * (a.astype(float) - b.astype(float).T) ** 2).astype(a.dtype)


@pytest.mark.parametrize("scale", [1.0, 2.0**-60, 2.0**60])
@pytest.mark.parametrize(("n", "d"), [(12, 1), (40, 3), (200, 5), (500, 2), (300, 40)])
def test_a_kernel_of_small_rank_gives_least_squares(n, d, scale):
    """To 1 % at the end of training, however that is asked for; said, with the rank."""
    k, cross, y, fit = low_rank(n, d, scale)
    gp, mse = predict.gp_inference(k, y), predict.gradient_descent_mse(k, y)
    for call, told in (
        (lambda: gp("nngp", cross), lambda: gp.conditioning["nngp"]),
        (lambda: mse(None, None, 0.0, cross), lambda: mse.conditioning),
    ):
        found, caught = warned(call)
        assert np.abs(found - fit).max() < 0.01 * np.abs(fit).max()
        assert [c.category for c in caught] == [IllConditionedWarning]
        assert "singular to rounding in float32" in str(caught[0].message)
        assert told().effective_rank == d
        assert told().jitter > 0
    f = predict.gradient_descent_mse(k, y, 1 / scale)
    for t in (1e7, 1e12, np.inf):
        found, caught = warned(lambda t=t: f(t, None, 0.0, cross))
        assert np.abs(found - fit).max() < 0.01 * np.abs(fit).max()
        assert IllConditionedWarning in {c.category for c in caught}
    assert f.conditioning.effective_rank == d


@pytest.mark.parametrize("n", [25, 300])
def test_long_training_stays_with_the_kernel_in_float64(n):
    """Bounded like its result at all times, and where more than 5 % apart not without a warning."""
    x = np.random.default_rng(0).uniform(-1, 1, (n, 1)).astype(SINGLE)
    y, x_test = np.sin(6 * x) + 0.1 * draw(n, 1), np.linspace(-1, 1, 50, dtype=SINGLE)[:, None]
    make = predict.gradient_descent_mse_ensemble
    far = 0
    for t in (1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e9, 1e12, np.inf, None):
        found, caught = warned(lambda t=t: make(bell, x, y)(t, x_test, "nngp"))
        wanted, _ = warned(lambda t=t: make(bell, x.astype(float), y)(t, x_test.astype(float), "nngp"))
        apart = np.abs(found - wanted).max()
        assert apart < 0.05 or caught
        assert np.abs(found).max() < 2
        far += bool(caught)
    assert 0 < far < 10


def test_what_stands_out_of_rounding_is_kept():
    """Eigenvalues far below n eps of the largest, as those of wide data are: solved as given, in silence."""
    n, noise = 400, 2e-3
    k = (np.ones((n, n)) + noise * np.eye(n)).astype(SINGLE)
    eps = float(np.finfo(SINGLE).eps)
    assert noise < n * eps * n / 5
    y = draw(n, 1)
    wanted = np.linalg.solve(k.astype(float), y)
    factor, caught = warned(lambda: Cholesky(k, 0.0, "x"))
    assert caught == []
    assert (factor.conditioning.jitter, factor.conditioning.effective_rank) == (0.0, n)
    np.testing.assert_allclose(factor.solve(y), wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())
    assert Spectrum(k, 0.0, "x").conditioning.effective_rank == n
    f = predict.gradient_descent_mse(k, y)
    found, caught = warned(lambda: f(np.inf, 0.0, 0.0, k))
    assert caught == []
    np.testing.assert_allclose(found, (y, y), rtol=0, atol=1e-3)


def test_noise_of_the_users_choice_is_enough():
    """diag_reg above the rounding is taken as it is; below, it does not stand out and the rest is added."""
    k, _, y, _ = low_rank(200, 5)
    for reg, added in ((1e-3, False), (1e-9, True)):
        f = predict.gp_inference(k, y, reg)
        found, caught = warned(lambda f=f: f("nngp", k))
        assert bool(caught) == added
        assert (f.conditioning["nngp"].jitter > 0) == added
        total = reg * np.diag(k).mean() + f.conditioning["nngp"].jitter
        wanted = k.astype(float) @ np.linalg.solve(k.astype(float) + total * np.eye(200), y)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_a_kernel_in_float64_keeps_its_digits():
    """The same values in float64 are signal down to that dtype's rounding."""
    k = np.diag(np.append(np.ones(9), 1e-9))
    for dtype, rank in ((np.float64, 10), (SINGLE, 9)):
        given = k.astype(dtype)
        assert Spectrum(given, 0.0, "x").conditioning.effective_rank == rank
        factor, _ = warned(lambda given=given: Cholesky(given, 0.0, "x"))
        assert factor.conditioning.effective_rank == rank
        assert (factor.conditioning.jitter > 0) == (dtype == SINGLE)


def linear32(a, b=None, get="nngp"):
    return a @ (a if b is None else b).T


@pytest.mark.parametrize(("n", "d"), [(40, 3), (300, 5)])
def test_dependent_landmarks_give_least_squares(n, d):
    """More landmarks than the kernel has rank, with little or no diag_reg."""
    x, x_test = draw(n, d).astype(SINGLE), draw(6, d, seed=4).astype(SINGLE)
    y = np.sin(3 * x[:, :1].astype(float)) + draw(n, 1, seed=5)
    fit = x_test.astype(float) @ np.linalg.lstsq(x.astype(float), y, rcond=None)[0]
    for reg in (0.0, 1e-10):
        f, caught = warned(lambda reg=reg: predict.nystrom(linear32, x, y, np.arange(20), diag_reg=reg))
        assert "landmarks is singular to rounding" in str(caught[0].message)
        assert np.abs(f(x_test) - fit).max() < 1e-3 * np.abs(fit).max()
        assert f.conditioning.effective_rank == d
        assert f.weights_conditioning.jitter > 0
    f = predict.nystrom(linear32, x, y, np.arange(d), diag_reg=1e-10)
    assert f.weights_conditioning.jitter == 0
    assert np.abs(f(x_test) - fit).max() < 1e-3 * np.abs(fit).max()


@pytest.mark.parametrize("scale", [1.0, 2.0**-90])
def test_conjugate_gradients_that_would_learn_noise(scale):
    """diag_reg below the rounding: converged they are, to noise, and refused; in between a warning, above silence."""
    k, cross, y, _ = low_rank(40, 3, scale)
    with pytest.raises(predict.ConvergenceError, match="singular to rounding"):
        predict.conjugate_gradient(k, None, y, diag_reg=1e-6, max_iter=300)
    silent = {}
    for reg in (1e-4, 1e-2):
        f, caught = warned(lambda reg=reg: predict.conjugate_gradient(k, None, y, diag_reg=reg))
        silent[reg] = not caught
        s = reg * np.diag(k).mean(dtype=float)
        wanted = cross.astype(float) @ np.linalg.solve(k.astype(float) + s * np.eye(40), y)
        np.testing.assert_allclose(f(cross), wanted, rtol=0, atol=1e-4)
        assert f.conditioning.effective_rank == 40
    assert silent == {1e-4: False, 1e-2: True}


@pytest.mark.parametrize("criterion", ["leave_one_out", "evidence"])
def test_noise_is_chosen_as_in_float64(criterion):
    """Over the whole grid, also where it is finer than the rounding of the kernel's entries."""
    k, _, y, _ = low_rank(60, 4)
    x = draw(60, 4)
    single, _ = warned(lambda: predict.select_diag_reg(k, y, criterion=criterion))
    double, _ = warned(lambda: predict.select_diag_reg(x @ x.T, y, criterion=criterion))
    assert single.diag_reg == double.diag_reg
    np.testing.assert_allclose(single.mean_squared_error, double.mean_squared_error, rtol=1e-3)
    np.testing.assert_allclose(single.log_marginal_likelihood, double.log_marginal_likelihood, rtol=1e-5, atol=0.01)
