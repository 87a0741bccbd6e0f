"""Solves where a matrix (n, n) has no room: preconditioned conjugate gradients on blocks of the kernel."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg as scipy_linalg
from scipy.sparse.linalg import LinearOperator, cg

from ..base.door import door
from ..base.progress import Bar, bar
from .blocks import Blocks, blocks_of, check_memory, outputs_of
from .linalg import (
    TRAIN,
    WARN_BLURRED,
    Conditioning,
    IndefiniteError,
    absolute_reg,
    entry_rounding,
    warn,
    warn_of_few_digits,
)
from .low_rank import pivoted_cholesky
from .targets import Targets
from .tiles import BUDGET
from .units import column_units, in_units, restored, unit_of

Array = npt.NDArray[Any]

_EPS = float(np.finfo(np.float64).eps)


def default_rank(n: int) -> int:
    """Of the preconditioner, for n points: what costs about as much as some passes over the kernel."""
    return min(n, math.ceil(10 * math.sqrt(n)))


class ConvergenceError(np.linalg.LinAlgError):
    """An iteration ended before the residual met its tolerance.

    Attributes
    ----------
    residuals : numpy.ndarray (iterations + 1, o)
        History: ``|y - A alpha| / |y|`` of each output.
    alpha : numpy.ndarray (n, o) float64
        As far as it came. Of all that was visited it has the smallest error in the norm of A.
    reached : float
        The largest entry of the last row of ``residuals``, which has been computed from alpha.
    """

    def __init__(self, message: str, residuals: Array, alpha: Array) -> None:
        super().__init__(message)
        self.residuals, self.alpha, self.reached = residuals, alpha, float(residuals[-1].max())

    def __reduce__(self) -> Any:
        return type(self), (str(self), self.residuals, self.alpha)


class Preconditioner:
    """``P^-1`` for ``P = U (Lambda + s) U^T + (lambda_r + s) (I - U U^T)``, where ``F F^T = U Lambda U^T``.

    Parameters
    ----------
    factor : numpy.ndarray (n, r)
        F, so that ``F F^T`` approximates the kernel from below.
    reg : float
        s.

    Notes
    -----
    What F leaves has eigenvalues about its smallest, lambda_r, and not 0: with s alone in the place of
    ``lambda_r + s`` the iterations grow several times where s is small (Frangella, Tropp and Udell 2021,
    arXiv:2110.02820, eq. 1.3).
    """

    def __init__(self, factor: Array, reg: float) -> None:
        values, vectors = np.zeros(1), np.zeros((factor.shape[1], 1))
        if factor.shape[1]:
            values, vectors = scipy_linalg.eigh(factor.T @ factor, check_finite=False)
            kept = values > len(factor) * _EPS * values[-1]  # the squares' rounding, which could make P indefinite
            values, vectors = values[kept], vectors[:, kept]
        self.largest = float(values[-1])
        # P may have any scale.
        self._outside = float(values[0]) + reg or 1.0
        gain = np.maximum(1 / self._outside - 1 / np.maximum(values + reg, self._outside), 0)
        # U = F V / sqrt(Lambda) is not formed.
        self._weights = vectors * np.sqrt(gain / np.where(values > 0, values, 1))
        self._factor = factor

    def __call__(self, v: Array) -> Array:
        """``P^-1 v``, v (n, o)."""
        inner = self._weights @ (self._weights.T @ (self._factor.T @ v))
        found: Array = v / self._outside - self._factor @ inner
        return found


class Solver:
    """``A = (K + s I) / unit`` on the columns of alpha at once, as one system with A repeated on its diagonal.

    ``history`` gets the residual of each step from what SciPy asks to have preconditioned.
    """

    def __init__(self, blocks: Blocks, reg: float, precondition: Preconditioner, outputs: int, report: Bar) -> None:
        self._blocks, self._reg, self._precondition, self._report = blocks, reg, precondition, report
        self.shape = (blocks.n, outputs)
        self.history: list[Array] = []
        self.steps = self.passes = 0
        self.alpha = np.zeros(self.shape)
        self._step = np.zeros(self.shape)
        self._largest = precondition.largest

    def product(self, v: Array, text: str) -> Array:
        """``A v``, one pass over the kernel."""
        self._report.again(text)
        self.passes += 1
        return self._blocks.product(v, self._report) + self._reg * v

    def _matvec(self, flat: Array) -> Array:
        p = flat.reshape(self.shape)
        residual = self.history[-1].max()
        q = self.product(p, f"iteration {self.steps + 1}, residual {residual:.1e} (tol {self._tol:.0e})")
        size = np.einsum("ij,ij->j", p, p)
        some = size > 0
        quotients = np.einsum("ij,ij->j", p, q)[some] / size[some]
        self._largest = max(self._largest, float(quotients.max()))
        self._check_curvature(float(quotients.min()))
        return q.ravel()

    def _check_curvature(self, smallest: float) -> None:
        """Raise unless A is positive along the directions of search."""
        if smallest > 0:
            return
        what, n = self._blocks.what, self._blocks.n
        allowed = n * float(np.finfo(self._blocks.dtype).eps) * self._largest
        lowest, on, floor = (value * self._blocks.unit for value in (smallest, self._reg, -allowed))
        if smallest < -allowed:
            raise IndefiniteError(
                f"[{what}] {TRAIN} is indefinite: an eigenvalue is at most {lowest:.6g} with {on:.3g} on the "
                f"diagonal, rounding explains down to {floor:.3g}",
                lowest,
            )
        self.alpha, self._step = self.alpha + self._step, np.zeros(self.shape)
        self._recompute()
        raise self.failure(
            f"{TRAIN} is singular to rounding with {on:.3g} on its diagonal: along one direction it is "
            f"{lowest:.3g}. Choose a larger diag_reg"
        )

    def _recompute(self) -> Array:
        """The true residual of alpha, which takes the place of the last in the history."""
        left = self._right - self.product(self.alpha, "residual")
        del self.history[self.steps :]
        self.history.append(np.linalg.norm(left, axis=0))
        return left

    def failure(self, reason: str) -> ConvergenceError:
        """What to raise, with the state of things."""
        reached = float(self.history[-1].max())
        return ConvergenceError(
            f"[{self._blocks.what}] residual {reached:.3g} after {self.steps} iterations: {reason}",
            np.array(self.history),
            self.alpha,
        )

    def _psolve(self, flat: Array) -> Array:
        r = flat.reshape(self.shape)
        if len(self.history) == self.steps:
            self.history.append(np.linalg.norm(r, axis=0))
        return self._precondition(r).ravel()

    def _callback(self, flat: Array) -> None:
        self.steps += 1
        self._step = flat.reshape(self.shape)

    def begin(self, right: Array) -> tuple[Array, float]:
        """What is left of the right-hand sides when :meth:`run` begins, and the residual of the sweep before."""
        return right, math.inf

    def sweep(self, left: Array, atol: float, max_iter: int) -> tuple[Array, bool]:
        """Conjugate gradients for ``A step = left``: the step, and whether it is short of ``atol``."""
        size = left.size
        operator = LinearOperator((size, size), matvec=self._matvec, dtype=np.float64)
        preconditioner = LinearOperator((size, size), matvec=self._psolve, dtype=np.float64)
        step, unfinished = cg(
            operator, left.ravel(), rtol=0.0, atol=atol, maxiter=max_iter, M=preconditioner, callback=self._callback
        )
        return step, bool(unfinished)

    def run(self, right: Array, tol: float, max_iter: int) -> None:
        """Solve for right-hand sides of length 1 (or 0) until the recomputed residual of each is at most tol."""
        self._right, self._tol = right, tol
        left, before = self.begin(right)
        while True:
            # A little below tol, because the residual that the recursion carries drifts from the true one.
            step, unfinished = self.sweep(left, 0.9 * tol, max_iter - self.steps)
            self.alpha, self._step = self.alpha + step.reshape(self.shape), np.zeros(self.shape)
            left = self._recompute()
            reached = float(self.history[-1].max())
            if reached <= tol:
                return
            if unfinished or self.steps >= max_iter:
                raise self.failure(
                    f"tol = {tol:.3g} is not reached in max_iter = {max_iter}; a larger rank, diag_reg or max_iter may"
                )
            if not reached < before / 2:
                raise self.failure(
                    f"rounding in float64 lets it fall no further; tol = {tol:.3g} is too small, {2 * reached:.2g} can "
                    "be reached"
                )
            before = reached


@door
class CGPredictor:
    """What :func:`conjugate_gradient` returns; see there.

    Attributes
    ----------
    alpha : numpy.ndarray (n, o) float64
        ``(K + diag_reg I)^-1 Y``. Infinite, or 0, where float64 does not hold it; predictions are right then too.
    residuals : numpy.ndarray (iterations + 1, o)
        History: ``|y - A alpha| / |y|`` of each output, as the recursion carries it; the last row has been computed
        from alpha. 0 for an output that is 0.
    iterations : int
    tol : float
        At least the last residual.
    rank : int
        Of the preconditioner: less than asked for where the kernel's own rank, to rounding, is less.
    diag_reg : float
        In the kernel's units.
    conditioning : Conditioning
        Not of a factorisation: ``condition`` is an upper estimate, the largest eigenvalue over ``diag_reg``, infinite
        without ``diag_reg``; ``effective_rank`` is n, or where ``diag_reg`` itself is rounding at least ``rank``.
    store : None, str or numpy.ndarray
        As given.
    passes : int
        Over all blocks of the kernel.
    seconds : float
        Of the whole solve.
    seconds_of : dict
        Its parts: 'store', 'preconditioner', 'iterations'.
    """

    def __init__(
        self, blocks: Blocks, targets: Targets, alpha: Array, scale: Array, residuals: Array, tol: float, rank: int,
        conditioning: Conditioning, store: Any, passes: int, seconds_of: dict[str, float],
    ) -> None:  # fmt: skip
        self._blocks, self._targets = blocks, targets
        self._alpha, self._scale = alpha, scale  # in units of the kernel and of each output
        self.alpha = _in_full(alpha, scale, blocks.unit)
        self.residuals, self.tol, self.rank = residuals, tol, rank
        self.conditioning, self.store, self.passes, self.seconds_of = conditioning, store, passes, seconds_of

    @property
    def iterations(self) -> int:
        return len(self.residuals) - 1

    @property
    def diag_reg(self) -> float:
        return self.conditioning.diag_reg

    @property
    def seconds(self) -> float:
        return sum(self.seconds_of.values())

    def __call__(self, x_test: Any, *, progress: bool = False) -> Array:
        """Mean at test points, (m, o), in the kernel's dtype.

        Parameters
        ----------
        x_test : numpy.ndarray (m, ...)
            Like ``x_train``; where an array took the place of ``kernel_fn``, k_test_train (m, n).
        progress : bool
            Show test points done.

        Raises
        ------
        TypeError, ValueError
            Another dtype or shape than ``x_train``; NaN or infinity.
        """
        test = self._blocks.check_test(x_test)
        with bar(len(test), progress, "point") as report:
            mean = self._blocks.test_product(test, self._alpha, report)
        return self._targets.restore(restored(mean, self._scale, self._blocks.dtype), (len(test),))


def _in_full(alpha: Array, scale: Array, unit: float) -> Array:
    """Weights in the units of the caller; infinite, or 0, where float64 does not hold them."""
    return restored(restored(alpha, scale, np.float64), 1 / unit, np.float64)


def conjugate_gradient(
    kernel_fn: Any, x_train: Any, y_train: Any, get: str = "nngp", diag_reg: float = 0.0,
    diag_reg_absolute_scale: bool = False, trace_axes: Any = (-1,), *, tol: float = 1e-6, rank: int | None = None,
    max_iter: int = 1000, store: Any = None, memory_budget: int = BUDGET, progress: bool = False, rng: Any = 0,
) -> CGPredictor:  # fmt: skip
    """Solve ``(K + s I) alpha = Y`` without the matrix, for means of Gaussian processes and trained networks.

    Preconditioned conjugate gradients, all outputs at once. The kernel is visited block by block, once for each
    iteration: computed anew each time, or stored.

    Parameters
    ----------
    kernel_fn : callable, or numpy.ndarray (n, n)
        Of a network, or any ``kernel_fn(x1, x2, get)``. Or the Gram matrix, float32 or float64, a ``numpy.memmap``
        too: then ``x_train`` is None, and only the part on and above the diagonal is read (once all of it, to see
        that it is symmetric and finite).
    x_train : numpy.ndarray (n, ...) or None
        float32 or float64; samples on the first axis.
    y_train : numpy.ndarray (n, o)
    get : {'nngp', 'ntk'}
        The kernel.
    diag_reg : float
        s, times the mean of the kernel's diagonal; as it is with ``diag_reg_absolute_scale=True``.
    diag_reg_absolute_scale : bool
    trace_axes : int or tuple of int
        All axes of ``y_train`` but the first, in any order: outputs.
    tol : float
        Of each output, the residual ``|y - A alpha| / |y|`` that is reached or an error raised.
    rank : int, optional
        Of the preconditioner, at most n; 0: none. It takes ``8 n rank`` bytes and about ``3 n rank^2`` operations,
        and the more the fewer iterations. None: ``10 sqrt(n)``.
    max_iter : int
    store : None, 'memory', path or numpy.ndarray (n, n)
        Where blocks are kept after they have been computed once: nowhere, they are computed again in each iteration;
        in memory; in a new file, which is removed at the end (both hold the part on and above the diagonal, about
        n^2/2 entries); or in your array, a ``numpy.memmap`` too, of the kernel's dtype, which then holds the Gram
        matrix.
    memory_budget : int
        Bytes that blocks may take while they are worked on, beside x, the preconditioner, some arrays like y, and
        what is stored.
    progress : bool
        Show blocks done in this iteration, the residual so far, and the iterations done.
    rng : numpy.random.Generator or int
        Draws the preconditioner's columns.

    Returns
    -------
    CGPredictor
        ``predictor(x_test)`` gives the mean (m, o); with an array in the place of ``kernel_fn``,
        ``predictor(k_test_train)``. Attributes ``alpha``, ``residuals`` (the history), ``iterations``, ``tol``,
        ``rank``, ``conditioning``, ``passes``, ``seconds``.

    Raises
    ------
    TypeError, ValueError
        Other types and dtypes; shapes that do not fit; NaN or infinity; a Gram that is not symmetric.
    MemoryError, OSError
        Before work starts, when the preconditioner or what is stored has no room, or ``memory_budget`` holds no
        block.
    FileExistsError
        When ``store`` names a file that exists.
    ConvergenceError
        When the residual, computed from alpha, does not meet ``tol``: within ``max_iter``, in float64 at all, or
        because A is singular to rounding. It has the history and the last alpha.
    IndefiniteError
        When a direction shows an eigenvalue of A below zero by more than rounding explains.

    Warns
    -----
    IllConditionedWarning
        When the largest eigenvalue over s leaves fewer than four digits in float64, or the rounding of the kernel's
        entries may move predictions by a tenth of the targets' size; where it may by more than all of it, that is a
        ConvergenceError.

    Notes
    -----
    The residual is that of the kernel as its dtype holds it; entries of float32 are multiplied in float64. With s
    below the entries' rounding, about ``2e-6 sqrt(n)`` times the diagonal in float32, A may be indefinite. The
    mean at x is off by no more than ``sqrt(K(x, x) / s)`` times ``|y - A alpha|``, usually by far less.

    The preconditioner is the Nystrom approximation from ``rank`` columns, chosen by Cholesky factorisation with
    random pivots. On Grams of MNIST, UCI protein and clustered points it took as many iterations as one from a
    Gaussian sketch of all columns, and 0.6 to 1 times as many as greedy pivots.

    References
    ----------
    Hestenes and Stiefel (1952) (``scipy.sparse.linalg.cg``); Frangella, Tropp and Udell (2021), arXiv:2110.02820
    (preconditioner); Chen et al. (2022), arXiv:2207.06503 (pivots); Gardner et al. (2018), arXiv:1809.11165 (greedy
    pivots in Gaussian processes).

    Examples
    --------
    >>> import numpy as np
    >>> from fastntk import predict, stax
    >>> net = stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1))
    >>> x = np.random.default_rng(0).standard_normal((500, 8))
    >>> solved = predict.conjugate_gradient(net.kernel_fn, x, x[:, :1], "ntk", diag_reg=1e-3, tol=1e-8)
    >>> bool(solved.residuals[-1].max() <= 1e-8), solved(x[:3]).shape
    (True, (3, 1))
    """
    what = "conjugate_gradient"
    check_stop(tol, max_iter, what)
    blocks = blocks_of(kernel_fn, x_train, get, memory_budget, what)
    return solved(
        blocks, y_train, diag_reg, diag_reg_absolute_scale, trace_axes, tol, rank, max_iter, store, memory_budget,
        progress, rng, Solver,
    )  # fmt: skip


def check_stop(tol: Any, max_iter: Any, what: str) -> None:
    """Raise unless an iteration may end by these."""
    if not (isinstance(tol, (float, int)) and 0 < tol < 1):
        raise ValueError(f"[{what}] tol must be between 0 and 1, given {tol!r}")
    if isinstance(max_iter, bool) or not isinstance(max_iter, (int, np.integer)) or max_iter < 1:
        raise ValueError(f"[{what}] max_iter must be an integer of at least 1, given {max_iter!r}")


def solved(
    blocks: Blocks, y_train: Any, diag_reg: Any, absolute: Any, trace_axes: Any, tol: float, rank: Any, max_iter: int,
    store: Any, memory_budget: int, progress: bool, rng: Any, make_solver: Callable[..., Solver],
) -> CGPredictor:  # fmt: skip
    """:func:`conjugate_gradient` over blocks of any kind, by a solver of any kind."""
    what, n = blocks.what, blocks.n
    targets, y = outputs_of(y_train, trace_axes, n, what)
    reg = absolute_reg(blocks, diag_reg, absolute, what)
    blocks.unit = unit_of(blocks.diagonal(), reg)
    if rank is None:
        rank = default_rank(n)
    if isinstance(rank, bool) or not isinstance(rank, (int, np.integer)) or not 0 <= rank <= n:
        raise ValueError(f"[{what}] rank must be an integer from 0 to {n}, the training points; given {rank!r}")
    least = float(blocks.diagonal().min())
    if least < 0:
        raise IndefiniteError(f"[{what}] {TRAIN} is indefinite: its diagonal goes down to {least:.6g}", least)
    kept = blocks.size * blocks.dtype.itemsize if isinstance(store, str) and store == "memory" else 0
    check_memory(8 * n * (int(rank) + 6 * y.shape[1]) + kept, f"a preconditioner of rank {rank} and the kernel", what)

    clock = [time.perf_counter()]
    with blocks.stored(store, progress):
        clock.append(time.perf_counter())
        with bar(int(rank), progress, "column") as report:
            report.again("preconditioner")
            factor, _ = pivoted_cholesky(blocks, int(rank), np.random.default_rng(rng), memory_budget, report)
        s = reg / blocks.unit
        precondition = Preconditioner(factor, s)
        largest = precondition.largest or float(in_units(blocks.diagonal(), blocks.unit).sum())
        condition = (largest + s) / s if s else math.inf
        rounding = entry_rounding(in_units(blocks.diagonal(), blocks.unit), blocks.dtype)
        noise = max(n * _EPS * largest, rounding)
        conditioning = Conditioning(n, reg, 0.0, condition, n if s > noise else factor.shape[1])
        if reg:
            warn_of_few_digits(conditioning, _EPS, what)
        clock.append(time.perf_counter())
        with bar(len(blocks.spans), progress, "block") as report:
            solver = make_solver(blocks, s, precondition, y.shape[1], report)
            scale = column_units(y)
            length = np.linalg.norm(y / scale, axis=0)
            length[length == 0] = 1
            try:
                solver.run(y / scale / length, float(tol), int(max_iter))
                # By how much of the targets' size the rounding of the kernel's entries may move what they predict.
                blurred = rounding * float(np.linalg.norm(solver.alpha, axis=0).max())
                if blurred > 1:
                    raise solver.failure(
                        f"{TRAIN} is singular to rounding in {blocks.dtype} with {reg:.3g} on its diagonal, and what "
                        f"is solved for is noise (diag_reg stands out of it from {rounding * blocks.unit:.3g} in the "
                        "kernel's units). Choose a larger diag_reg"
                    )
            except ConvergenceError as error:
                error.alpha = _in_full(error.alpha * length, scale, blocks.unit)
                raise
    if blurred > WARN_BLURRED:
        warn(
            f"[{what}] the rounding of {TRAIN} in {blocks.dtype} may move predictions by {blurred:.2g} of the targets' "
            "size. A larger diag_reg mends it"
        )
    clock.append(time.perf_counter())
    seconds = dict(zip(("store", "preconditioner", "iterations"), np.diff(clock).tolist(), strict=True))
    return CGPredictor(
        blocks, targets, solver.alpha * length, scale, np.array(solver.history), float(tol), factor.shape[1],
        conditioning, store, solver.passes, seconds,
    )  # fmt: skip
