"""Means at a few finite times without an eigendecomposition: against 50 digits, and where it is left to one."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest

pytest.importorskip("scipy")

from fastntk import predict, stax
from fastntk.predict import early, grams
from scale_inputs import rows

N, OUTPUTS = 24, 3
KERNEL = stax.serial(stax.Dense(1, 1.4, 0.1), stax.Relu(), stax.Dense(1)).kernel_fn
X, TEST = rows(N, np.float64), rows(5, np.float64, 1)
Y = np.random.default_rng(2).standard_normal((N, OUTPUTS))
REG = 1e-3
TIMES = [1e-6, 1.0, 60.0, 1e3, 1e5, 1e8, 1e12]


@pytest.fixture(autouse=True)
def few_points(monkeypatch):
    """So that what is for thousands of points is used for these."""
    monkeypatch.setattr(grams, "LEAST", 1)


@pytest.fixture
def spectra(monkeypatch):
    """Eigendecompositions that were made."""
    made = []
    spectrum = grams.Spectrum

    def counted(*args, **kwargs):
        made.append(1)
        return spectrum(*args, **kwargs)

    monkeypatch.setattr(grams, "Spectrum", counted)
    return made


def exact(k, cross, y, t, reg):
    """Outputs on training and test points in 50 digits, and the reach of rounding: eps |A| |A^-1 (1 - exp)| |b|."""
    with mp.workdps(50):
        a = mp.matrix(k.tolist()) + reg * mp.eye(len(k))
        values, vectors = mp.eigsy(a)
        tau = mp.mpf(t) / y.size
        b = vectors.T * mp.matrix(y.tolist())
        gains = [-mp.expm1(-w * tau) for w in values]
        learned = vectors * mp.matrix([[g * b[i, j] for j in range(b.cols)] for i, g in enumerate(gains)])
        weights = vectors * mp.matrix(
            [[g / w * b[i, j] for j in range(b.cols)] for i, (g, w) in enumerate(zip(gains, values, strict=True))]
        )
        tested = mp.matrix(cross.tolist()) * weights
        reach = float(max(values) * max(g / w for g, w in zip(gains, values, strict=True)))
        tables = [np.array(m.tolist(), dtype=np.float64) for m in (learned, tested)]
    return *tables, reach


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("entry", ["float32", "float64"])
def test_against_fifty_digits(t, entry, spectra):
    x, test = X.astype(entry), TEST.astype(entry)
    k, cross = KERNEL(x, None, "ntk"), KERNEL(test, x, "ntk")
    reg = 1e-2 * float(np.float64(k.diagonal().astype(np.float64).mean()))
    learned, tested, reach = exact(k.astype(np.float64), cross.astype(np.float64), Y, t, reg)
    found = predict.gradient_descent_mse(k, Y, 1.0, reg, True)
    train, test_mean = found(t, 0.0, 0.0, cross)
    assert spectra == []
    own = 4 * float(np.finfo(entry).eps) + 100 * np.finfo(np.float64).eps * max(1.0, reach)
    assert np.abs(train - learned).max() <= own * np.abs(learned).max()
    assert np.abs(test_mean - tested).max() <= own * np.abs(tested).max()
    assert found.conditioning.effective_rank == N
    assert found.conditioning.diag_reg == pytest.approx(reg)


def test_the_series_is_as_good_as_float64():
    z = np.concatenate([[0.0], np.logspace(-18, 18, 400)])
    x = (16 - z) / (16 + z)
    with np.errstate(all="ignore"):
        phi = np.where(z == 0, 1.0, -np.expm1(-z) / np.where(z == 0, 1, z))
    for exponential, true in ((True, np.exp(-z)), (False, phi)):
        for tol, most in ((4.4e-16, 45), (2.4e-7, 20)):
            terms = early.series(exponential, tol)
            assert len(terms) <= most
            assert np.abs(np.polynomial.chebyshev.chebval(x, terms) - true).max() <= tol + 4e-15
    with pytest.raises(ArithmeticError, match="a series of"):
        early.series(False, 1e-30)


@pytest.mark.parametrize("get", ["nngp", "ntk", ("nngp", "ntk")])
def test_ensembles_take_it_for_means_at_a_few_times(get, spectra):
    names = (get,) if isinstance(get, str) else get
    few = predict.gradient_descent_mse_ensemble(KERNEL, X, Y, diag_reg=REG)
    many = predict.gradient_descent_mse_ensemble(KERNEL, X, Y, diag_reg=REG)
    for test in (TEST, None):
        a = few(t=np.array([3.0, 40.0]), x_test=test, get=get)
        assert spectra == []
        b = many(t=np.array([3.0, 40.0, 5.0, 6.0, 7.0]), x_test=test, get=get)
        for name in names:
            own, other = (a, b) if isinstance(get, str) else (getattr(a, name), getattr(b, name))
            assert own.shape == (2, N if test is None else len(TEST), OUTPUTS)
            assert np.allclose(own, other[:2], rtol=1e-11, atol=1e-13)
            scalar = few(t=40.0, x_test=test, get=get)
            scalar = scalar if isinstance(get, str) else getattr(scalar, name)
            assert np.allclose(scalar, own[1], rtol=1e-12, atol=1e-14)
        spectra.clear()
    assert set(few.conditioning) == set(names)


def test_float32_solves(spectra):
    found = predict.gradient_descent_mse_ensemble(KERNEL, X, Y, diag_reg=0.1, solve_dtype=np.float32)
    true = predict.gradient_descent_mse_ensemble(KERNEL, X, Y, diag_reg=0.1)
    for t in (1.0, 100.0, 1e6):
        assert np.allclose(found(t=t, x_test=TEST, get="ntk"), true(t=t, x_test=TEST, get="ntk"), rtol=1e-3, atol=1e-4)
    assert spectra == []


def test_what_is_left_to_eigenvalues(spectra, monkeypatch):
    k, cross = KERNEL(X, None, "ntk"), KERNEL(TEST, X, "ntk")

    def asked(t, reg=REG, matrix=k, **kwargs):
        spectra.clear()
        predict.gradient_descent_mse(matrix, Y, 1e-3, reg, **kwargs)(t, 0.0, 0.0, cross)
        return len(spectra)

    assert asked(5.0) == 0
    assert asked(None) == 0  # by Cholesky
    assert asked([1.0, 2.0, 3.0, 4.0]) == 0
    assert asked([1.0, 2.0, 3.0, 4.0, 5.0]) == 1
    assert asked([1.0, 0.0]) == 1
    assert asked([1.0, np.inf]) == 1
    assert asked(1e-80) == 1
    assert asked(5.0, discrete=True) == 1
    copies = KERNEL(X[[0] * N], None, "ntk")  # of rank 1
    assert asked(5.0, 0.0, copies) == 1
    with pytest.warns(predict.IllConditionedWarning, match="count as zero"):
        predict.gradient_descent_mse(copies, Y, 1.0, 0.0)(1e30, 0.0, 0.0, cross)
    with pytest.raises(predict.IndefiniteError):
        predict.gradient_descent_mse(k - np.eye(N), Y, 1.0, 0.0)(5.0)
    spectra.clear()
    predict.gradient_descent_mse_ensemble(KERNEL, X, Y, diag_reg=REG)(t=5.0, x_test=TEST, get="ntk", compute_cov=True)
    assert spectra
    spectra.clear()
    monkeypatch.setattr(grams, "LEAST", N + 1)
    assert asked(5.0) == 1


def test_nothing_depends_on_what_was_asked_before():
    k, cross = KERNEL(X, None, "ntk"), KERNEL(TEST, X, "ntk")

    def fresh():
        return predict.gradient_descent_mse(k, Y, 1.0, REG)

    want = fresh()(7.0, 0.0, 0.0, cross)
    for before in ([1.0, 2.0, 3.0, 4.0, 5.0], None, 8.0, [7.0, 8.0]):
        found = fresh()
        found(before, 0.0, 0.0, cross)
        for a, b in zip(found(7.0, 0.0, 0.0, cross), want, strict=True):
            assert np.array_equal(a, b)
