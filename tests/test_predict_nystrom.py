"""``predict.nystrom`` against dense solves, its choice of landmarks, what it refuses."""

from __future__ import annotations

import sys
from itertools import permutations
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("scipy")
import mpmath
from fastntk import predict
from fastntk.predict.blocks import ArrayBlocks, KernelBlocks
from fastntk.predict.low_rank import pivoted_cholesky
from large_inputs import BUDGET, KERNEL_FN, X_TEST, X, Y, floats, in_digits, nystrom, shifted
from scipy import stats


def test_pivots_reproduce_their_rows(dtype):
    """``F F^T`` is K, in its unit, on the pivots' rows, and below K elsewhere."""
    k = KERNEL_FN(X.astype(dtype), None, "ntk")
    blocks = ArrayBlocks(k, BUDGET, "test")
    factor, pivots = pivoted_cholesky(blocks, 100, np.random.default_rng(0), BUDGET, lambda done: None)
    assert factor.shape == (600, 100)
    assert len(set(pivots.tolist())) == 100
    approximate = blocks.unit * (factor @ factor.T)
    atol = 100 * np.finfo(dtype).eps * k.max()
    np.testing.assert_allclose(approximate[pivots], k[pivots], rtol=0, atol=atol)
    assert np.linalg.eigvalsh(k - approximate)[0] > -600 * atol


def test_pivots_of_smaller_rank():
    x = np.vstack([X[:30]] * 3)
    blocks = KernelBlocks(KERNEL_FN, x, "nngp", BUDGET, "test")
    factor, pivots = pivoted_cholesky(blocks, 90, np.random.default_rng(0), BUDGET, lambda done: None)
    assert factor.shape == (90, 30)
    assert len({p % 30 for p in pivots.tolist()}) == 30


def test_pivots_are_drawn_in_proportion():
    """Proposals in groups are distributed like pivots drawn one by one: all ordered triples of five points."""
    x = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 2.0], [0.3, -1.0], [0.5, 0.5]])
    k = KERNEL_FN(x, None, "nngp")
    blocks = ArrayBlocks(k, BUDGET, "test")
    rng = np.random.default_rng(0)
    draws = 3000
    triples = list(permutations(range(5), 3))
    counts = dict.fromkeys(triples, 0)
    with mock.patch("fastntk.predict.low_rank._together", return_value=3):
        for _ in range(draws):
            _, pivots = pivoted_cholesky(blocks, 3, rng, BUDGET, lambda done: None)
            counts[tuple(pivots.tolist())] += 1
    expected = []
    for triple in triples:
        s, probability = k.copy(), 1.0
        for p in triple:
            probability *= s[p, p] / s.trace()
            s = s - np.outer(s[:, p], s[p]) / s[p, p]
        expected.append(draws * probability)
    assert stats.chisquare(list(counts.values()), expected).pvalue > 1e-4


@pytest.mark.parametrize("select", ["cholesky", "uniform"])
def test_all_points_as_landmarks_are_exact(select):
    x, y = X[:200], Y[:200]
    k, cross = KERNEL_FN(x, None, "ntk"), KERNEL_FN(X_TEST, x, "ntk")
    found = nystrom(KERNEL_FN, x, y, 200, "ntk", select=select)
    mean, variance = found(X_TEST, compute_cov="diagonal")
    weights = np.linalg.solve(shifted(k), np.hstack([y, cross.T]))
    np.testing.assert_allclose(mean, cross @ weights[:, :3], rtol=1e-10, atol=1e-10)
    exact = KERNEL_FN.diagonal(X_TEST, "ntk") - np.einsum("ij,ji->i", cross, weights[:, 3:])
    np.testing.assert_allclose(variance, exact, rtol=1e-10)
    np.testing.assert_array_equal(found(X_TEST), mean)
    assert sorted(found.indices.tolist()) == list(range(200))
    assert found.conditioning.jitter == 0


def dtc(k_mm, k_mn, k_mt, prior, y, s):
    """Mean and variance of the deterministic training conditional by its definition, in 50 digits."""
    with mpmath.workdps(50):
        mm, mn, mt, s = in_digits(k_mm), in_digits(k_mn), in_digits(k_mt), mpmath.mpf(s)
        cross = mt.T * mm**-1
        q = mn.T * mm**-1 * mn + s * mpmath.eye(len(y))
        mean = cross * mn * mpmath.lu_solve(q, in_digits(y))
        q_tn = cross * mn
        inverse = q**-1
        variance = [prior[i] - (q_tn[i, :] * inverse * q_tn[i, :].T)[0] for i in range(len(prior))]
        return floats(mean), np.array(variance, float)


def test_definition_in_many_digits(dtype):
    """Landmarks given by number, by index and as inputs, against the definition; chunks of rows."""
    x, y, test = X[:25].astype(dtype), Y[:25, :1], X_TEST[:3].astype(dtype)
    inputs = (X[30:34] + 0.5).astype(dtype)
    for landmarks in (inputs, np.array([3, 8, 24])):
        z = inputs if landmarks is inputs else x[landmarks]
        k = [KERNEL_FN(z, other, "nngp") for other in (None, x, test)]
        s = float(1e-2 * KERNEL_FN.diagonal(x, "nngp").mean(dtype=np.float64))
        mean, variance = dtc(*k, KERNEL_FN.diagonal(test, "nngp"), y, s)
        found = nystrom(KERNEL_FN, x, y, landmarks, diag_reg=1e-2, memory_budget=64 * 64 * 16)
        gaussian = found(test, "diagonal")
        tolerance = 100 * np.finfo(dtype).eps
        np.testing.assert_allclose(gaussian.mean, mean, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(gaussian.covariance, variance, rtol=tolerance, atol=tolerance)
        assert gaussian.mean.dtype == gaussian.covariance.dtype == dtype
        assert gaussian.conditioning is found.conditioning


def gaussian_kernel(x1, x2, get):
    """Smooth: Grams of condition 1e13 and more on close points."""
    x2 = x1 if x2 is None else x2
    return np.exp(-((x1[:, None] - x2[None]) ** 2).sum(-1) / 2)


def test_no_normal_equations():
    """Landmarks whose kernel has condition 3e11: ``K_ZX K_XZ + s K_ZZ`` leaves two digits, least squares keep seven."""
    x = np.linspace(-2, 2, 40)[:, None]
    y, s, test = np.sign(x), 1e-13, np.array([[0.05], [1.3]])
    landmarks = np.arange(0, 40, 3)
    k_mm, k_mn = gaussian_kernel(x[landmarks], None, ""), gaussian_kernel(x[landmarks], x, "")
    k_mt = gaussian_kernel(x[landmarks], test, "")
    mean, variance = dtc(k_mm, k_mn, k_mt, [1.0, 1.0], y, s)
    found = nystrom(gaussian_kernel, x, y, landmarks, diag_reg=s, diag_reg_absolute_scale=True)
    gaussian = found(test, "diagonal")
    by_normal = k_mt.T @ np.linalg.solve(k_mn @ k_mn.T + s * k_mm, k_mn @ y)
    ours = np.abs(gaussian.mean - mean).max()
    assert ours < 1e-6
    assert ours < np.abs(by_normal - mean).max() / 1000
    assert np.abs(gaussian.covariance - variance).max() < 1e-15


def test_far_from_landmarks():
    """Variance returns to the prior's there (that of the subset of regressors would vanish)."""
    found = nystrom(gaussian_kernel, X[:100], Y[:100], 20)
    gaussian = found(X_TEST + 50, "diagonal")
    np.testing.assert_allclose(gaussian.covariance, 1, rtol=1e-12)
    np.testing.assert_allclose(gaussian.mean, 0, atol=1e-12)


def test_close_to_exact():
    """A third of the points as landmarks, and the same from fewer bytes at a time."""
    exact = KERNEL_FN(X_TEST, X, "nngp") @ np.linalg.solve(shifted(KERNEL_FN(X, None, "nngp"), 0.1), Y)
    found = nystrom(KERNEL_FN, X, Y, 200, diag_reg=0.1)
    assert np.abs(found(X_TEST) - exact).max() < 0.1 * np.abs(exact).max()
    assert (found(X_TEST, "diagonal").covariance > 0).all()
    small = nystrom(KERNEL_FN, X, Y, found.indices, diag_reg=0.1, memory_budget=2**17)
    np.testing.assert_allclose(small(X_TEST), found(X_TEST), rtol=1e-9, atol=1e-10)


def test_repeated_landmarks():
    with pytest.warns(
        predict.IllConditionedWarning, match="the kernel of 4 landmarks is singular .* was added"
    ) as caught:
        found = nystrom(KERNEL_FN, X[:50], Y[:50], np.array([1, 1, 2, 3]))
    assert caught[0].filename == nystrom.__code__.co_filename
    assert found.conditioning.jitter > 0
    once = nystrom(KERNEL_FN, X[:50], Y[:50], np.array([1, 2, 3]))
    np.testing.assert_allclose(found(X_TEST), once(X_TEST), atol=1e-6)


def test_fewer_pivots_than_landmarks():
    x, y = np.vstack([X[:20], X[:20]]), np.vstack([Y[:20], Y[:20]])
    with pytest.warns(predict.IllConditionedWarning, match="30 landmarks asked for, 20 chosen"):
        found = nystrom(KERNEL_FN, x, y, 30)
    exact = KERNEL_FN(X_TEST, x, "nngp") @ np.linalg.solve(shifted(KERNEL_FN(x, None, "nngp")), y)
    np.testing.assert_allclose(found(X_TEST), exact, atol=1e-9)


def test_without_regularisation():
    """``diag_reg = 0``: least squares on the landmarks' functions; refused where they are dependent on the data."""
    found = nystrom(KERNEL_FN, X[:60], Y[:60], np.arange(10), diag_reg=0.0)
    k = KERNEL_FN(X[:10], X[:60], "nngp")
    weights = np.linalg.lstsq(k.T, Y[:60], rcond=None)[0]
    np.testing.assert_allclose(found(X_TEST), KERNEL_FN(X_TEST, X[:10], "nngp") @ weights, rtol=1e-8, atol=1e-8)
    with pytest.raises(np.linalg.LinAlgError, match="10 landmarks leave a least-squares problem of rank 5"):
        nystrom(KERNEL_FN, X[:5], Y[:5], X[100:110], diag_reg=0.0)


def test_nystrom_progress(capsys):
    with mock.patch.dict(sys.modules, {"tqdm.auto": None}):
        nystrom(KERNEL_FN, X, Y, 16, progress=True)
    text = capsys.readouterr().err
    assert "16 of 16 landmarks" in text
    assert "600 of 600 rows" in text


@pytest.mark.parametrize(
    ("error", "words", "args", "options"),
    [
        (TypeError, "kernel_fn must be a kernel function, given numpy.ndarray", (np.eye(3), X, Y, 3), {}),
        (TypeError, "needs x_train, given None", (KERNEL_FN, None, Y, 3), {}),
        (TypeError, "get must be one name", (KERNEL_FN, X, Y, 3, None), {}),
        (TypeError, "landmarks must be a numpy.ndarray or convert to one, given float", (KERNEL_FN, X, Y, 3.0), {}),
        (TypeError, "landmarks must be a numpy.ndarray or convert to one, given bool", (KERNEL_FN, X, Y, True), {}),
        (TypeError, "landmarks has dtype float32", (KERNEL_FN, X, Y, X[:3].astype(np.float32)), {}),
        (ValueError, "landmarks must be from 1 to 600, .* given 601", (KERNEL_FN, X, Y, 601), {}),
        (ValueError, "landmarks must be from 1 to 600, .* given 0", (KERNEL_FN, X, Y, 0), {}),
        (ValueError, "indices from 0 to 599, and not be empty", (KERNEL_FN, X, Y, np.array([600])), {}),
        (ValueError, "indices from 0 to 599, and not be empty", (KERNEL_FN, X, Y, np.array([-1])), {}),
        (ValueError, r"landmarks are empty: shape \(0, 6\)", (KERNEL_FN, X, Y, X[:0]), {}),
        (ValueError, r"landmarks has shape \(3, 5\), x_train \(600, 6\)", (KERNEL_FN, X, Y, X[:3, :5]), {}),
        (ValueError, "landmarks is not finite", (KERNEL_FN, X, Y, X[:3] * np.nan), {}),
        (ValueError, "y_train is not finite", (KERNEL_FN, X, Y * np.nan, 3), {}),
        (ValueError, r"samples of shape \(599,\); the kernel has", (KERNEL_FN, X, Y[1:], 3), {}),
        (ValueError, "select must be 'cholesky' or 'uniform', given 'best'", (KERNEL_FN, X, Y, 3), {"select": "best"}),
        (ValueError, "diag_reg must be finite and not negative", (KERNEL_FN, X, Y, 3), {"diag_reg": np.nan}),
    ],
)
def test_refused_by_nystrom(error, words, args, options):
    with pytest.raises(error, match=words) as caught:
        nystrom(*args, **options)
    assert str(caught.value).startswith("[nystrom]")


def test_refused_points_of_nystrom():
    found = nystrom(KERNEL_FN, X, Y, 3)
    with pytest.raises(ValueError, match="compute_cov must be False or 'diagonal', given True"):
        found(X_TEST, compute_cov=True)
    with pytest.raises(ValueError, match=r"x_test has shape \(30, 5\)"):
        found(X_TEST[:, :5])
