"""Conjugate gradients on blocks of a kernel: against exact solves, what they say and what they refuse."""

from __future__ import annotations

import doctest
import pickle
import sys
import tracemalloc
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("scipy")
import mpmath
from fastntk import predict, stax
from fastntk.predict import blocks as blocks_module
from fastntk.predict.blocks import KernelBlocks
from large_inputs import BUDGET, KERNEL_FN, RNG, X_TEST, X, Y, floats, in_digits, nystrom, shifted


def conjugate_gradient(kernel, *args, **options):
    """Blocks are stored where a test says nothing else: the NumPy backend takes its time for them."""
    store = {"store": "memory"} if callable(kernel) else {}
    return predict.conjugate_gradient(kernel, *args, **{"diag_reg": 1e-3, "memory_budget": BUDGET, **store, **options})


def norms(r: np.ndarray) -> np.ndarray:
    return np.linalg.norm(r, axis=0)


# ---------------------------------------------------------------- conjugate gradients: right


@pytest.mark.parametrize("get", ["nngp", "ntk"])
def test_against_exact_solves(dtype, get):
    """alpha and mean within what the residual allows: |r| / s, and sqrt(K(x, x) / s) |r|."""
    x, test, tol = X.astype(dtype), X_TEST.astype(dtype), 1e-9
    k, cross = KERNEL_FN(x, None, get), KERNEL_FN(test, x, get)
    a = shifted(k)
    exact = np.linalg.solve(a, Y)
    found = conjugate_gradient(KERNEL_FN, x, Y, get, tol=tol)
    s = 1e-3 * k.diagonal().mean(dtype=np.float64)
    assert found.diag_reg == pytest.approx(s, rel=1e-6)
    assert found.alpha.dtype == np.float64
    residual = norms(Y - a @ found.alpha)
    # What the reference itself is off by: 1e-12.
    assert (residual <= (tol + 1e-12) * norms(Y)).all()
    assert (norms(found.alpha - exact) <= residual / s + 1e-12 * norms(exact)).all()
    mean = found(test)
    assert mean.dtype == dtype
    assert mean.shape == (30, 3)
    bound = np.sqrt(KERNEL_FN.diagonal(test, get) / s)[:, None] * residual
    rounding = 4 * np.finfo(dtype).eps * np.abs(cross) @ np.abs(exact)
    assert (np.abs(mean - cross.astype(np.float64) @ exact) <= bound + rounding).all()


def test_in_many_digits():
    """Against 40 digits, on a kernel of condition 1e5 with blocks of the whole and a residual near float64's own."""
    x, y = X[:12], Y[:12]
    k = KERNEL_FN(x, None, "ntk")
    with mpmath.workdps(40):
        a = in_digits(k) + mpmath.mpf("1e-5") * mpmath.eye(12)
        exact = floats(mpmath.lu_solve(a, in_digits(y[:, :1])))
    found = conjugate_gradient(
        KERNEL_FN, x, y[:, :1], "ntk", diag_reg=1e-5, diag_reg_absolute_scale=True, tol=1e-13, rank=3
    )
    condition = np.linalg.cond(k + 1e-5 * np.eye(12))
    assert np.linalg.norm(found.alpha - exact) <= 1e-13 * condition * np.linalg.norm(exact)


def test_ranks_and_outputs_agree():
    """One alpha whatever the preconditioner, the blocks and the other outputs; it costs fewer iterations."""
    plain = conjugate_gradient(KERNEL_FN, X, Y, "ntk", tol=1e-10, rank=0)
    for found in (
        conjugate_gradient(KERNEL_FN, X, Y, "ntk", tol=1e-10),
        conjugate_gradient(KERNEL_FN, X, Y, "ntk", tol=1e-10, rank=600, rng=1),
        conjugate_gradient(KERNEL_FN, X, Y, "ntk", tol=1e-10, memory_budget=2**30, rng=np.random.default_rng(2)),
    ):
        np.testing.assert_allclose(found.alpha, plain.alpha, rtol=0, atol=2e-8 * np.abs(plain.alpha).max())
        assert found.iterations < plain.iterations / 2
    assert plain.rank == 0
    one = conjugate_gradient(KERNEL_FN, X, Y[:, 1:2], "ntk", tol=1e-10)
    np.testing.assert_allclose(one.alpha[:, 0], plain.alpha[:, 1], atol=2e-8 * np.abs(plain.alpha).max())
    # The whole kernel as its own preconditioner.
    assert conjugate_gradient(KERNEL_FN, X[:80], Y[:80], rank=80).iterations <= 2


def test_any_function_and_axes():
    """A function without ``diagonal``; targets of other axes."""

    def rbf(x1, x2, get):
        x2 = x1 if x2 is None else x2
        return np.exp(-((x1[:, None] - x2[None]) ** 2).sum(-1) / 8)

    def solve(y, trace_axes):
        return conjugate_gradient(rbf, X[:200], y, trace_axes=trace_axes, tol=1e-10)

    wide = solve(Y[:200], -1)
    exact = np.linalg.solve(shifted(rbf(X[:200], None, "nngp")), Y[:200])
    np.testing.assert_allclose(wide.alpha, exact, atol=1e-6 * np.abs(exact).max())
    cube = solve(Y[:200].reshape(200, 3, 1), (2, 1))
    assert cube(X_TEST).shape == (30, 3, 1)
    np.testing.assert_allclose(cube(X_TEST)[..., 0], wide(X_TEST), atol=1e-12)
    flat = solve(Y[:200, 0], ())
    np.testing.assert_allclose(flat(X_TEST), wide(X_TEST)[:, 0], atol=1e-8)
    assert flat(X_TEST[:0]).shape == (0,)


def test_example():
    found = doctest.testmod(sys.modules["fastntk.predict.iterative"])
    assert found.attempted > 0
    assert found.failed == 0


def test_images():
    net = stax.serial(stax.Conv(1, (3, 3), padding="SAME"), stax.Relu(), stax.Flatten(), stax.Dense(1))
    x = np.random.default_rng(1).standard_normal((20, 4, 4, 2))
    y = x[:, 0, 0, :1]
    found = conjugate_gradient(net.kernel_fn, x, y, "ntk", tol=1e-10)
    exact = net.kernel_fn(x[:3], x, "ntk") @ np.linalg.solve(shifted(net.kernel_fn(x, None, "ntk")), y)
    np.testing.assert_allclose(found(x[:3]), exact, rtol=1e-7)


# ---------------------------------------------------------------- what it says of itself


def test_history():
    """Entry i is the residual after i iterations; the last, of the alpha that is returned."""
    whole = conjugate_gradient(KERNEL_FN, X, Y, "ntk", tol=1e-6)
    a = shifted(KERNEL_FN(X, None, "ntk"))
    assert whole.residuals.shape == (whole.iterations + 1, 3)
    np.testing.assert_allclose(whole.residuals[0], 1, rtol=1e-14)
    np.testing.assert_allclose(whole.residuals[-1], norms(Y - a @ whole.alpha) / norms(Y), rtol=1e-8)
    assert whole.residuals[-1].max() <= whole.tol == 1e-6
    assert whole.residuals[-2].max() > 0.9e-6 / np.sqrt(3)  # all outputs together are stopped at 0.9 tol
    for count in (1, 7, whole.iterations // 2):
        with pytest.raises(predict.ConvergenceError) as caught:
            conjugate_gradient(KERNEL_FN, X, Y, "ntk", tol=1e-6, max_iter=count)
        true = norms(Y - a @ caught.value.alpha) / norms(Y)
        np.testing.assert_allclose(caught.value.residuals[-1], true, rtol=1e-8)
        np.testing.assert_allclose(whole.residuals[count], true, rtol=1e-6)
        np.testing.assert_array_equal(whole.residuals[:count], caught.value.residuals[:-1])
        assert caught.value.reached == true.max() or np.isclose(caught.value.reached, true.max())
    assert whole.seconds == pytest.approx(sum(whole.seconds_of.values()))
    assert whole.conditioning.condition == pytest.approx(np.linalg.norm(a, 2) / whole.diag_reg, rel=1e-2)
    assert whole.conditioning.condition > np.linalg.cond(a)
    assert whole.conditioning.effective_rank == 600
    assert whole.passes == whole.iterations + 1


def test_zero_outputs():
    """A target that is zero everywhere has alpha zero, beside others and alone."""
    y = Y * [1, 0, 1]
    found = conjugate_gradient(KERNEL_FN, X, y)
    assert not found.alpha[:, 1].any()
    assert not found.residuals[:, 1].any()
    assert found.residuals[-1].max() <= 1e-6
    nothing = conjugate_gradient(KERNEL_FN, X, 0 * Y)
    assert nothing.iterations == 0
    assert not nothing(X_TEST).any()


class Counted:
    """A kernel function that counts entries, and may stop."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.entries, self.largest, self.stop_at = 0, 0, stop_at

    def __call__(self, x1, x2, get):
        found = KERNEL_FN(x1, x2, get)
        self.entries += found.size
        self.largest = max(self.largest, found.size)
        if self.stop_at is not None and self.entries > self.stop_at:
            raise KeyboardInterrupt
        return found

    def diagonal(self, x, get):
        return KERNEL_FN.diagonal(x, get)


@pytest.mark.parametrize("kind", ["memory", "file", "memmap", "array"])
def test_stores_agree(tmp_path, kind, dtype):
    """Every store gives what recomputation gives, and asks for each block once."""
    x = X.astype(dtype)
    whole = np.memmap(tmp_path / "k", dtype, "w+", shape=(600, 600))
    store = {"memory": "memory", "file": tmp_path / "blocks", "memmap": whole, "array": np.empty((600, 600), dtype)}[
        kind
    ]
    again, kept = Counted(), Counted()
    first = conjugate_gradient(again, x, Y, "ntk", rank=50, store=None, tol=1e-3)
    found = conjugate_gradient(kept, x, Y, "ntk", rank=50, store=store, tol=1e-3)
    np.testing.assert_array_equal(found.alpha, first.alpha)
    assert found.iterations == first.iterations
    assert found.store is store
    assert first.store is None
    triangle = sum(
        rows * columns for rows, columns in KernelBlocks(KERNEL_FN, x, "ntk", BUDGET, "test").shapes
    )  # n^2 / 2 and some of the diagonal
    assert again.entries - kept.entries == (first.passes - 1) * triangle
    assert not (tmp_path / "blocks").exists()
    if kind in ("memmap", "array"):
        np.testing.assert_array_equal(store, store.T)
        np.testing.assert_allclose(store, KERNEL_FN(x, None, "ntk"), rtol=10 * np.finfo(dtype).eps)
        from_array = conjugate_gradient(store, None, Y, rank=50, tol=1e-3)
        assert (norms(Y - shifted(np.asarray(store)) @ from_array.alpha) <= 1.001e-3 * norms(Y)).all()
        cross = KERNEL_FN(X_TEST.astype(dtype), x, "ntk")
        np.testing.assert_allclose(from_array(cross), cross @ from_array.alpha, rtol=1e-5)


def test_kernels_in_place_of_a_function():
    k = KERNEL_FN(X[:50], None, ("nngp", "ntk"))
    for given in (k, KERNEL_FN(X[:50])):
        for get in ("nngp", "ntk"):
            found = conjugate_gradient(given, None, Y[:50], get, tol=1e-10).alpha
            exact = np.linalg.solve(shifted(getattr(k, get)), Y[:50])
            np.testing.assert_allclose(found, exact, atol=1e-6 * np.abs(exact).max())


def test_memory():
    """Beside its inputs and vectors: the preconditioner, and blocks within the budget; nothing that grows as n^2."""
    n, rank, budget = 1500, 20, 2**19
    x = np.random.default_rng(0).standard_normal((n, 3))
    y = x[:, :1].copy()
    sizes = []

    def linear(x1, x2, get):
        found = x1 @ (x1 if x2 is None else x2).T
        sizes.append(found.size)
        return found

    predict.conjugate_gradient(linear, x[:9], y[:9], diag_reg=0.1)  # what is loaded once
    tracemalloc.start()
    try:
        found = predict.conjugate_gradient(linear, x, y, diag_reg=0.1, rank=rank, memory_budget=budget)
        found(x)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    vectors = 20 * n * 8  # of SciPy's recursion, ours, and x
    assert peak < 2 * n * rank * 8 + vectors + budget + 2 * blocks_module._CHUNK
    assert peak < n * n * 8 / 4
    assert max(sizes) * 8 * 2 <= budget


def test_progress(capsys):
    conjugate_gradient(KERNEL_FN, X, Y)
    assert capsys.readouterr() == ("", "")
    with mock.patch.dict(sys.modules, {"tqdm.auto": None}):
        found = conjugate_gradient(KERNEL_FN, X, Y, progress=True)
        found(X_TEST, progress=True)
    text = capsys.readouterr().err
    blocks = len(KernelBlocks(KERNEL_FN, X, "nngp", BUDGET, "test").spans)
    assert f"kernel: {blocks} of {blocks} blocks" in text
    assert f"preconditioner: {found.rank} of {found.rank} columns" in text
    residual = found.residuals[2].max()
    assert f"iteration 3, residual {residual:.1e} (tol 1e-06): {blocks} of {blocks} blocks" in text
    assert "30 of 30 points" in text
    shown = mock.MagicMock()
    with mock.patch.dict(sys.modules, {"tqdm": mock.MagicMock(auto=shown), "tqdm.auto": shown}):
        conjugate_gradient(KERNEL_FN, X, Y, progress=True, store=None)
    bar = shown.tqdm.return_value.__enter__.return_value
    assert shown.tqdm.call_args.kwargs == {"total": blocks, "unit": "block"}
    assert bar.reset.call_count == 1 + found.passes
    assert sum(call.args[0] for call in bar.update.call_args_list) == found.rank + found.passes * blocks


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize("entries", [50_000, 250_000])
def test_interrupted(tmp_path, entries):
    """Ctrl-C while blocks are stored or rows drawn ends the call and removes the file."""
    path = tmp_path / "blocks"
    with pytest.raises(KeyboardInterrupt):
        conjugate_gradient(Counted(stop_at=entries), X, Y, store=path)
    assert not path.exists()


def test_too_small_a_tolerance(dtype):
    """What float64 sums cannot reach is said, with what they can; that works."""
    x = X.astype(dtype)
    with pytest.raises(predict.ConvergenceError, match=r"tol = 1e-15 is too small, .* can be reached") as caught:
        conjugate_gradient(KERNEL_FN, x, Y, "ntk", tol=1e-15)
    # float32 entries too are multiplied in float64: no 1e-7 here.
    assert caught.value.reached < 1e-12
    found = conjugate_gradient(KERNEL_FN, x, Y, "ntk", tol=2 * caught.value.reached)
    assert norms(Y - shifted(KERNEL_FN(x, None, "ntk")) @ found.alpha).max() < 3 * caught.value.reached * norms(Y).max()


def test_not_converged():
    with pytest.raises(predict.ConvergenceError, match=r"residual .* after 5 iterations: tol = 1e-06 .* max_iter = 5"):
        conjugate_gradient(KERNEL_FN, X, Y, max_iter=5)


def test_pickles():
    """Predictors, and errors on their way out of another process."""
    found = conjugate_gradient(KERNEL_FN, X[:50], Y[:50])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found))(X_TEST), found(X_TEST))
    low = nystrom(KERNEL_FN, X[:50], Y[:50], 5)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(low))(X_TEST), low(X_TEST))
    with pytest.raises(predict.ConvergenceError) as caught:
        conjugate_gradient(KERNEL_FN, X, Y, max_iter=2)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    np.testing.assert_array_equal(again.alpha, caught.value.alpha)
    np.testing.assert_array_equal(again.residuals, caught.value.residuals)


@pytest.mark.parametrize("rank", [0, 20, 170])
def test_singular(rank):
    """Copies with different targets and no diag_reg have no solution, those with the same targets have."""
    x = np.vstack([X[:120], X[:50]])
    y = RNG.standard_normal((170, 1))
    with pytest.raises(predict.ConvergenceError, match=r"singular to rounding|tol = 1e-06 is") as caught:
        conjugate_gradient(KERNEL_FN, x, y, "ntk", diag_reg=0.0, rank=rank, max_iter=400)
    assert np.isfinite(caught.value.alpha).all()
    assert caught.value.reached > 0.1
    y[120:] = y[:50]
    found = conjugate_gradient(KERNEL_FN, x, y, "ntk", diag_reg=0.0, rank=rank, tol=1e-10)
    assert found.conditioning.condition == np.inf
    alone = np.linalg.solve(KERNEL_FN(X[:120], None, "ntk"), y[:120])
    np.testing.assert_allclose(found(X_TEST), KERNEL_FN(X_TEST, X[:120], "ntk") @ alone, atol=1e-6)


def test_singular_is_said():
    """Where a direction of no curvature is met: at once here; the history ends with the residual of alpha."""
    with pytest.raises(predict.ConvergenceError, match=r"singular to rounding with 0 on its .* it is 0\. ") as caught:
        conjugate_gradient(np.zeros((5, 5)), None, Y[:5])
    np.testing.assert_allclose(caught.value.residuals, np.ones((1, 3)), rtol=1e-14)
    assert not caught.value.alpha.any()


def test_ill_conditioned():
    x = np.vstack([X[:60], X[:60]])
    with pytest.warns(predict.IllConditionedWarning, match="ill-conditioned: condition .* digits") as caught:
        conjugate_gradient(KERNEL_FN, x, np.vstack([Y[:60], Y[:60]]), diag_reg=1e-14)
    assert caught[0].filename == __file__  # the user's line, not ours


def test_indefinite():
    w = RNG.standard_normal((60, 60))
    k = w @ w.T - 20 * np.eye(60)
    with pytest.raises(predict.IndefiniteError, match="indefinite: an eigenvalue is at most -") as caught:
        conjugate_gradient(k, None, Y[:60], rank=10)
    assert np.linalg.eigvalsh(shifted(k))[0] <= caught.value.smallest_eigenvalue < 0
    with pytest.raises(predict.IndefiniteError, match="its diagonal goes down to -20"):
        conjugate_gradient(np.diag([1.0, -20.0]), None, Y[:2])


def asymmetric() -> np.ndarray:
    k = np.eye(6)
    k[0, 5] = 0.5
    return k


def with_nan(shape: tuple[int, ...]) -> np.ndarray:
    a = np.ones(shape)
    a[1, 0] = np.nan
    return a


def endless(x1, x2, get):
    found = KERNEL_FN(x1, x2, get)
    return found if x2 is None else found + np.inf


POSITIONS = stax.serial(stax.Conv(1, (3, 3), padding="SAME"), stax.Relu()).kernel_fn

BAD = [
    (TypeError, r"needs x_train, given None", (KERNEL_FN, None, Y), {}),
    (TypeError, r"kernel_fn must be a kernel function, or kernels", ("relu", None, Y), {}),
    (TypeError, r"x_train must be None where an array", (np.eye(600), X, Y), {}),
    (TypeError, r"get must be one name", (KERNEL_FN, X, Y, ("nngp", "ntk")), {}),
    (TypeError, r"x_train must be float32 or float64", (KERNEL_FN, X.astype(complex), Y), {}),
    (TypeError, r"x_train must be a numpy.ndarray or convert to one, given set", (KERNEL_FN, {1.0}, Y), {}),
    (TypeError, r"y_train must be a numpy.ndarray or convert to one, given set", (KERNEL_FN, X, {1.0}), {}),
    (TypeError, r"one array of float32 or float64, it gave int", (lambda a, b, get: 7, X, Y), {}),
    (TypeError, r"store must be None, 'memory', the path", (KERNEL_FN, X, Y), {"store": 5}),
    (TypeError, r"out must have dtype float64", (KERNEL_FN, X, Y), {"store": np.empty((600, 600), np.float32)}),
    (ValueError, r"out must have shape \(600, 600\)", (KERNEL_FN, X, Y), {"store": np.empty((600, 60))}),
    (ValueError, r"store must be None where an array", (np.eye(600), None, Y), {"store": "memory"}),
    (ValueError, r"x_train is empty", (KERNEL_FN, X[:0], Y[:0]), {}),
    (ValueError, r"y_train is empty", (KERNEL_FN, X, Y[:, :0]), {}),
    (ValueError, r"samples of shape \(599,\); the kernel has \(600,\)", (KERNEL_FN, X, Y[1:]), {}),
    (ValueError, r"samples of shape \(600, 3\)", (KERNEL_FN, X, Y[..., None]), {}),
    (ValueError, r"y_train is not finite: 1 of 4 values, first at \(1, 0\)", (np.eye(2), None, with_nan((2, 2))), {}),
    (ValueError, r"x_train is not finite", (KERNEL_FN, with_nan((4, 2)), Y[:4]), {}),
    (ValueError, r"the kernel of the training points is not finite", (endless, X, Y), {"rank": 0, "store": None}),
    (ValueError, r"not finite, first in row 1", (with_nan((4, 4)), None, Y[:4]), {}),
    (ValueError, r"is not symmetric", (asymmetric(), None, Y[:6]), {}),
    (ValueError, r"must be \(n, n\), n > 0; given \(6, 5\)", (np.ones((6, 5)), None, Y[:6]), {}),
    (
        ValueError,
        r"kernel_fn gave shape \(2, 5, 5, 5, 5\) where \(2,\) is due",
        (POSITIONS, np.ones((2, 5, 5, 1)), Y[:2]),
        {},
    ),
    (ValueError, r"diag_reg must be finite and not negative", (KERNEL_FN, X, Y), {"diag_reg": -1}),
    (ValueError, r"tol must be between 0 and 1, given 0", (KERNEL_FN, X, Y), {"tol": 0}),
    (ValueError, r"tol must be between 0 and 1, given '1e-6'", (KERNEL_FN, X, Y), {"tol": "1e-6"}),
    (ValueError, r"max_iter must be an integer of at least 1", (KERNEL_FN, X, Y), {"max_iter": 0}),
    (ValueError, r"rank must be an integer from 0 to 600, .* given 601", (KERNEL_FN, X, Y), {"rank": 601}),
    (ValueError, r"rank must be an integer", (KERNEL_FN, X, Y), {"rank": 2.5}),
    (ValueError, r"memory_budget must be a positive number of bytes", (KERNEL_FN, X, Y), {"memory_budget": 0}),
    (MemoryError, r"65535 bytes hold no block of 64 x 64", (KERNEL_FN, X, Y), {"memory_budget": 65_535}),
]


@pytest.mark.parametrize(("error", "words", "args", "options"), BAD)
def test_refused(error, words, args, options):
    with pytest.raises(error, match=words) as caught:
        conjugate_gradient(*args, **options)
    assert str(caught.value).startswith("[conjugate_gradient")


def test_refused_test_points():
    found = conjugate_gradient(KERNEL_FN, X, Y)
    with pytest.raises(ValueError, match=r"x_test has shape \(30, 5\), x_train \(600, 6\)"):
        found(X_TEST[:, :5])
    with pytest.raises(TypeError, match="x_test has dtype float32, x_train float64"):
        found(X_TEST.astype(np.float32))
    with pytest.raises(ValueError, match="x_test is not finite"):
        found(X_TEST * np.nan)
    given = conjugate_gradient(np.eye(4), None, Y[:4])
    with pytest.raises(ValueError, match=r"k_test_train has shape \(2, 3\); \(m, 4\) is due"):
        given(np.ones((2, 3)))


def test_refused_before_work(tmp_path, monkeypatch):
    """No room: said before a kernel is computed."""
    path = tmp_path / "there"
    path.write_bytes(b"kept")
    counted = Counted()
    with pytest.raises(FileExistsError, match=r"store names a new file, removed at the end; .*there exists"):
        conjugate_gradient(counted, X, Y, store=path)
    assert path.read_bytes() == b"kept"
    monkeypatch.setattr(blocks_module, "available_memory", lambda: 2**20)
    with pytest.raises(MemoryError, match=r"of rank 245 and the kernel: .* GiB are needed, 0\.0009766 are"):
        conjugate_gradient(counted, X, Y, store="memory")
    with pytest.raises(MemoryError, match="a preconditioner of rank 600"):
        conjugate_gradient(counted, X, Y, rank=600)
    with pytest.raises(MemoryError, match=r"the choice of 300 landmarks .*: .* are needed"):
        nystrom(KERNEL_FN, X, Y, 300)
    conjugate_gradient(counted, X, Y, rank=10, tol=0.5, store=None)
    before = counted.entries
    monkeypatch.setattr(blocks_module.shutil, "disk_usage", lambda path: mock.Mock(free=2**20))
    with pytest.raises(OSError, match=r"the kernel takes .* GiB in .*new; 0.0009766 GiB are free there"):
        conjugate_gradient(counted, X, Y, rank=10, store=tmp_path / "new")
    assert counted.entries == before
    assert not (tmp_path / "new").exists()


def test_named_where_lapack_ends():
    """What the refusal of n > 46,340 names exists."""
    from fastntk.predict.linalg import MAX_N, check_size

    with mock.patch("fastntk.predict.linalg.lapack.HAS_ILP64", False), pytest.raises(ValueError) as caught:  # noqa: PT011
        check_size(MAX_N + 1, "test")
    assert "fastntk.predict.conjugate_gradient solves without" in str(caught.value)
    assert callable(predict.conjugate_gradient)
