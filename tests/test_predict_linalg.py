"""predict.linalg and predict.targets: factorisations, what they say of themselves, what they refuse; shapes."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("scipy")
import mpmath
from fastntk import stax
from fastntk.predict import linalg
from fastntk.predict.linalg import Cholesky, IllConditionedWarning, IndefiniteError, Spectrum
from fastntk.predict.targets import targets_of
from scipy.linalg import hilbert


def gram(n: int, d: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, d))
    return x @ x.T / d


def warned(make) -> tuple[object, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = make()
    assert all(w.category is IllConditionedWarning for w in caught)
    assert all(w.filename == __file__ for w in caught)  # the user's line, not ours
    return made, [str(w.message) for w in caught]


def test_solves_in_many_digits():
    """Against 60 digits: a Hilbert matrix of condition 5e9, and the functions of it that predictions are made of."""
    k, reg = hilbert(7), 1e-9
    b = np.random.default_rng(0).standard_normal((7, 2))
    with mpmath.workdps(60):
        a = mpmath.matrix(k.tolist()) + reg * mpmath.eye(7)
        exact = mpmath.lu_solve(a, mpmath.matrix(b[:, :1].tolist()))
        inverse = a**-1
        log_det = mpmath.log(mpmath.det(a))
        values = mpmath.eigsy(a, eigvals_only=True)
    factor = Cholesky(k, reg, "test")
    condition = float(max(values) / min(values))
    allowed = 50 * condition * 2.0**-53
    assert np.allclose(factor.solve(b)[:, 0], np.array(exact.tolist(), float)[:, 0], rtol=allowed)
    diagonal = [float(inverse[i, i]) for i in range(7)]
    assert np.allclose(factor.inverse_diagonal(), diagonal, rtol=allowed)
    half = factor.half_solve(b)
    assert np.allclose(half.T @ half, b.T @ factor.solve(b), rtol=allowed)
    assert abs(factor.log_det() - float(log_det)) < allowed
    # A 1-norm condition number is within a factor n of the ratio of eigenvalues; LAPACK's is a lower estimate of it.
    assert condition / 7 < factor.conditioning.condition < 7 * condition
    spectrum = Spectrum(k, reg, "test")
    assert np.allclose(spectrum.values, [float(v) for v in values], rtol=0, atol=1e-14)
    assert np.allclose(spectrum.apply(spectrum.values, b), (k + reg * np.eye(7)) @ b, atol=1e-13)
    assert np.isclose(spectrum.conditioning.condition, condition, rtol=1e-3)


def test_inverse_diagonal_over_several_blocks(monkeypatch):
    monkeypatch.setattr(linalg, "_ROWS", 16)
    k = gram(50, 60)
    assert np.allclose(Cholesky(k, 0.1, "test").inverse_diagonal(), np.diag(np.linalg.inv(k + 0.1 * np.eye(50))))


@pytest.mark.parametrize(("case", "rank", "reg"), [("healthy", 2, 0.1), ("few", 0.4, 3e-12), ("none", 0.4, 0.0)])
@pytest.mark.parametrize("n", [7, 300])
def test_in_the_place_of_the_kernel(n, case, rank, reg, monkeypatch):
    """What a copy gives, in K's own memory, and K comes back to the last bit; also after a second try.

    Threads may add up in another order in one factorisation than in the other: each is held to K by itself.
    """
    monkeypatch.setattr(linalg, "_ROWS", 64)
    k = gram(n, int(rank * n))
    shared = k.copy()
    there, said = warned(lambda: Cholesky(shared, reg, "x", overwrite=True))
    copied, also = warned(lambda: Cholesky(k, reg, "x"))
    assert said == also
    assert {"healthy": said == [], "few": "ill-cond" in str(said), "none": "was added" in str(said)}[case], said
    assert np.shares_memory(there.factor, shared)
    assert there.conditioning.condition == pytest.approx(copied.conditioning.condition, rel=1e-3)
    assert replace(there.conditioning, condition=0.0) == replace(copied.conditioning, condition=0.0)
    shifted = k + (reg + there.conditioning.jitter) * np.eye(n)
    rounding = n * np.finfo(np.float64).eps * np.linalg.norm(k, 1)
    b = k[:, :2]
    for _ in range(2):
        for found in (there, copied):
            lower = np.tril(found.factor)
            assert np.abs(lower @ lower.T - shifted).max() <= rounding
            solution = found.solve(b)
            assert np.abs(shifted @ solution - b).max() <= rounding * np.abs(solution).max()
        assert np.array_equal(there.kernel(), k)


def test_well_conditioned_is_silent():
    factor, messages = warned(lambda: Cholesky(gram(40, 80), 0.1, "test"))
    assert not messages
    assert factor.conditioning.jitter == 0
    assert factor.conditioning.effective_rank == 40
    assert factor.conditioning.diag_reg == 0.1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_singular_is_mended_and_said(dtype):
    """Twenty points of five features: rank 5, a jitter as small as rounding, finite solutions, one warning."""
    k = gram(20, 5).astype(dtype)
    factor, messages = warned(lambda: Cholesky(k, 0.0, "where"))
    assert len(messages) == 1
    assert messages[0].startswith("[where] the kernel of 20 training points is singular to rounding")
    report = factor.conditioning
    assert f"{report.jitter:.3g} was added" in messages[0]
    least = max(200 * 20 * np.finfo(dtype).eps, 2 * np.finfo(np.float64).eps ** (2 / 3))
    assert 0 < report.jitter < least * np.linalg.norm(k, 1)
    b = k.astype(np.float64) @ np.ones((20, 1))
    found = factor.solve(b)
    # What is left is the jitter's share, and rounding.
    assert np.allclose(k @ found, b - report.jitter * found, rtol=0, atol=1e-13 * np.abs(found).max() * 20)
    if dtype == "float64":
        assert report.effective_rank == 5
        assert Spectrum(k, 0.0, "test").conditioning.effective_rank == 5


def test_few_digits_are_said():
    k = np.diag([1.0, 1.0, 1e-13])
    factor, messages = warned(lambda: Cholesky(k, 0.0, "where"))
    assert len(messages) == 1
    assert "ill-conditioned: condition 1e+13, effective rank 3" in messages[0]
    assert factor.conditioning.jitter == 0


def test_float32_is_factorised_in_float64():
    k = gram(30, 40).astype(np.float32)
    factor = Cholesky(k, 1e-3, "test")
    assert factor.factor.dtype == np.float64
    assert Cholesky(k, 1e-3, "test", np.float32).factor.dtype == np.float32
    assert Spectrum(k, 0.0, "test").values.dtype == np.float64
    assert factor.solve(np.ones((30, 2), np.float32)).dtype == np.float64


@pytest.mark.parametrize("kind", [Cholesky, Spectrum])
def test_indefinite_is_refused_with_its_eigenvalue(kind):
    k = gram(30, 40) - 0.5 * np.eye(30)
    smallest = np.linalg.eigvalsh(k)[0]
    assert smallest < -0.1
    with pytest.raises(IndefiniteError, match=f"indefinite: its smallest eigenvalue is {smallest:.5g}"[:-2]) as caught:
        kind(k, 0.0, "where")
    assert np.isclose(caught.value.smallest_eigenvalue, smallest)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.smallest_eigenvalue) == (str(caught.value), caught.value.smallest_eigenvalue)
    kind(k, 1.0, "where")  # a larger diagonal makes it positive


REFUSED = [
    (lambda k: k[:, :3], ValueError, r"must be \(n, n\), n > 0; given \(4, 3\)"),
    (lambda k: k[:0, :0], ValueError, r"given \(0, 0\)"),
    (lambda k: k.astype(np.float16), TypeError, "float32 or float64, given float16"),
    (lambda k: k + np.triu(np.full((4, 4), 1e-6), 1), ValueError, "not symmetric"),
    (lambda k: np.where(np.eye(4)[2], np.nan, k), ValueError, "not finite, first in row 0"),
    (lambda k: k.tolist(), TypeError, "arrays must be NumPy's or CuPy's, given list"),
]


@pytest.mark.parametrize("kind", [Cholesky, Spectrum])
@pytest.mark.parametrize(("change", "error", "message"), REFUSED)
def test_refused(kind, change, error, message):
    with pytest.raises(error, match=message):
        kind(change(np.eye(4) + 0.1), 0.0, "where")


@pytest.mark.parametrize("scale", [0.0, 1e-300])
def test_a_kernel_that_no_jitter_mends_is_refused(scale):
    with pytest.raises(ValueError, match=r"\[where\] the kernel of the training points is zero: its 1-norm is"):
        Cholesky(np.full((3, 3), scale), 0.0, "where")


def test_conditioning_of_a_spectrum_shifted_afterwards():
    k = gram(20, 5)
    found, expected = Spectrum(k, 0.25, "test").shifted(0.5), Spectrum(k, 0.75, "test").conditioning
    assert (found.n, found.diag_reg, found.effective_rank) == (20, 0.75, expected.effective_rank)
    assert np.isclose(found.condition, expected.condition, rtol=1e-12)


@pytest.mark.parametrize("kind", [Cholesky, Spectrum])
def test_too_large_for_the_library_is_refused(kind):
    """A view of one number: nothing of that size is allocated or read."""
    if linalg.lapack.HAS_ILP64:
        pytest.skip("this LAPACK has 64-bit integers")
    with pytest.raises(ValueError, match=r"n = 46341 exceeds 46340, .*conjugate_gradient"):
        kind(np.broadcast_to(np.float64(1), (46341, 46341)), 0.0, "where")


@pytest.mark.parametrize("reg", [-1.0, np.nan, np.inf])
def test_regularisation_out_of_range(reg):
    with pytest.raises(ValueError, match="diag_reg must be finite and not negative"):
        linalg.absolute_reg(np.eye(3), reg, True, "where")


def test_regularisation_is_relative_to_the_mean_diagonal():
    k = np.diag([1.0, 2.0, 6.0])
    assert linalg.absolute_reg(k, 0.5, False, "where") == 1.5
    assert linalg.absolute_reg(k, 0.5, True, "where") == 0.5


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("shape", "trace_axes"),
    [((5, 3), (-1,)), ((5, 3), ()), ((5, 2, 3), (-1,)), ((5, 2, 3), (1,)), ((5, 2, 3), (2, 1)), ((5,), ())],
)
def test_matrices_and_back(shape, trace_axes):
    """Block by block: entry (a, b) of the matrix belongs to the axes that the kernel has in pairs."""
    rng = np.random.default_rng(0)
    y = rng.standard_normal(shape)
    targets = targets_of(y, trace_axes, "test")
    axes = [axis % y.ndim for axis in trace_axes]
    paired = [n for axis, n in enumerate(shape) if axis not in axes]
    assert targets.paired == tuple(paired)
    assert np.array_equal(targets.restore(targets.matrix(y), targets.paired), y)
    k = rng.standard_normal([n for n in paired for _ in range(2)])
    matrix = targets.train(k, "k")
    assert np.array_equal(targets.zipped(matrix, targets.paired, targets.paired), k)
    # The product of kernel and targets, by einsum over the axes as they are.
    letters = "abcdefgh"[: len(paired)]
    rest = "wxyz"[: len(axes)]
    spots = iter(letters)
    traced = dict(zip(axes, rest, strict=True))
    of_y = [traced.get(axis) or next(spots) for axis in range(y.ndim)]
    pairs = "".join(letter.upper() + letter for letter in letters)
    result = [letter if letter in rest else letter.upper() for letter in of_y]
    expected = np.einsum(f"{pairs},{''.join(of_y)}->{''.join(result)}", k, y)
    assert np.allclose(targets.restore(matrix @ targets.matrix(y), targets.paired), expected)
    stacked = np.stack([matrix @ targets.matrix(y), matrix @ targets.matrix(-y)])
    assert np.allclose(targets.restore(stacked, targets.paired, (2,)), np.stack([expected, -expected]))


BAD_TARGETS = [
    (np.zeros((3, 0)), (-1,), ValueError, "is empty"),
    (np.array([[1.0], [np.nan]]), (-1,), ValueError, r"y_train is not finite: 1 of 2 values, first at \(1, 0\)"),
    (np.zeros((3, 2)), (2,), ValueError, "not axes"),
    (np.array([["a"]]), (-1,), TypeError, "real numbers"),
    ({1.0}, (-1,), TypeError, "y_train must be a numpy.ndarray or convert to one, given set"),
    (np.zeros((3, 2)), 0.5, TypeError, "trace_axes must be an integer or a tuple of integers, given 0.5"),
]


@pytest.mark.parametrize(("y", "trace_axes", "error", "message"), BAD_TARGETS)
def test_bad_targets(y, trace_axes, error, message):
    with pytest.raises(error, match=message):
        targets_of(y, trace_axes, "where")


def test_kernels_of_other_shapes():
    targets = targets_of(np.zeros((4, 2)), (-1,), "where")
    with pytest.raises(ValueError, match=r"must have 2 axes"):
        targets.train(np.zeros((4, 4, 2, 2)), "k_train_train")
    with pytest.raises(ValueError, match=r"k_train_train has shape \(5, 5\).*want \(4, 4\)"):
        targets.train(np.zeros((5, 5)), "k_train_train")
    with pytest.raises(ValueError, match=r"k_test_train has shape \(7, 5\): \(5,\) training points, not \(4,\)"):
        targets.cross(np.zeros((7, 5)), "k_test_train")


def test_healthy_in_float32():
    """Condition 1e4 times 600 rows is no reason for jitter in float32: four digits are there."""
    k = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1)).kernel_fn(
        np.random.default_rng(0).standard_normal((600, 8)), None, "ntk"
    )
    y = np.random.default_rng(1).standard_normal((600, 1))
    factor, messages = warned(lambda: Cholesky(k.astype(np.float32), 1e-2, "test", np.float32))
    assert 1e3 < factor.conditioning.condition < 1e6
    assert not any("singular" in message for message in messages)
    assert factor.conditioning.jitter == 0
    expected = k @ np.linalg.solve(k + 1e-2 * np.eye(600), y)
    assert np.allclose(k @ factor.solve(y.astype(np.float32)), expected, rtol=0, atol=1e-3)
