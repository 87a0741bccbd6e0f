"""Low-rank approximations of Gram matrices from some of their columns, and the Gaussian process that they leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg as scipy_linalg

from ..base.arraylike import describe
from ..base.door import door
from ..base.progress import Report, bar
from .blocks import Blocks, KernelBlocks, blocks_of, check_memory, outputs_of
from .linalg import TRAIN, Cholesky, Conditioning, absolute_reg, entry_rounding, inverse_norm, warn, warn_of_few_digits
from .posterior import Gaussian
from .targets import Targets
from .tiles import BUDGET, Found, settle
from .units import column_units, in_units, restored

Array = npt.NDArray[Any]

_AT_ONCE = 256  # pivots proposed together, at most


def pivoted_cholesky(
    blocks: Blocks, rank: int, rng: np.random.Generator, budget: int, report: Report
) -> tuple[Array, Array]:
    """``K / unit ~ F F^T`` by Cholesky factorisation with randomly drawn pivots.

    Pivots are drawn with probabilities proportional to the diagonal of what is left of K, which serves as well as a
    sketch of the whole of K does, for ``rank`` of its rows, and better than the largest entry of that diagonal, which
    finds outliers. Several are proposed together and then accepted or refused one by one, so that they are
    distributed as if drawn in turn.

    Parameters
    ----------
    blocks : Blocks
    rank : int
        At most n.
    rng : numpy.random.Generator
    budget : int
        Bytes of the rows of K that are looked at together.
    report : callable
        Told the number of new pivots.

    Returns
    -------
    factor : numpy.ndarray (n, r) float64
        r < rank where K is of smaller rank, to rounding of its entries.
    pivots : numpy.ndarray (r,) int

    References
    ----------
    Chen, Epperly, Tropp and Webber (2022), arXiv:2207.06503, algorithm 2.1; Epperly, Tropp and Webber (2024),
    arXiv:2410.03969, algorithm 2 (proposals refused).
    """
    n = blocks.n
    left = in_units(blocks.diagonal(), blocks.unit)  # diagonal of K - F F^T
    floor = 64 * float(np.finfo(blocks.dtype).eps) * float(left.max())  # below it is rounding
    factor = np.empty((n, rank))
    pivots = np.empty(rank, dtype=np.intp)
    together = _together(rank, budget // (n * (blocks.dtype.itemsize + 24)))
    found = 0
    while found < rank:
        left[left <= floor] = 0
        total = float(left.sum())
        if total <= 0:
            break
        proposed = rng.choice(n, min(together, rank - found), p=left / total)
        known = factor[proposed, :found]
        chosen, lower = _accept(in_units(blocks.square(proposed), blocks.unit) - known @ known.T, floor, rng)
        if not len(chosen):
            left[proposed[0]] = 0  # nothing but rounding
            continue
        taken = proposed[chosen]
        stop = found + len(taken)
        new = in_units(blocks.rows(taken), blocks.unit)
        new -= factor[taken, :found] @ factor[:, :found].T
        factor[:, found:stop] = scipy_linalg.solve_triangular(lower, new, lower=True, check_finite=False).T
        left -= np.einsum("ij,ij->i", factor[:, found:stop], factor[:, found:stop])
        left[taken] = 0
        pivots[found:stop] = taken
        report(len(taken))
        found = stop
    return factor[:, :found], pivots[:found]


def _together(rank: int, rows: int) -> int:
    """Pivots to propose at a time, of whose rows so many fit: few enough for most of them to be accepted."""
    return max(1, min(_AT_ONCE, -(-rank // 8), rows))


def _accept(s: Array, floor: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Which of the proposals with this Schur complement are pivots, and the Cholesky factor of their part of it."""
    at_first = s.diagonal().copy()
    chosen: list[int] = []
    columns = np.zeros_like(s)
    draws = rng.random(len(s))
    for i in range(len(s)):
        if s[i, i] > floor and draws[i] * at_first[i] < s[i, i]:
            column = s[:, i] / np.sqrt(s[i, i])
            s = s - np.outer(column, column)
            columns[:, len(chosen)] = column
            chosen.append(i)
    at = np.array(chosen, dtype=np.intp)
    return at, np.tril(columns[at, : len(at)])


@door
class NystromPredictor:
    """What :func:`nystrom` returns; see there.

    Attributes
    ----------
    landmarks : numpy.ndarray (m, ...)
        Their inputs.
    indices : numpy.ndarray (m,) of int, or None
        Which training points they are; None where inputs were given.
    conditioning : Conditioning
        Of the kernel of the landmarks, jitter included.
    weights_conditioning : Conditioning
        Of the least-squares problem for the weights, whose matrix has the square root of the condition number of
        ``Q + diag_reg`` on the space of the landmarks.
    diag_reg : float
        In the kernel's units.
    """

    def __init__(
        self, blocks: KernelBlocks, targets: Targets, landmarks: Array, indices: Array | None, reg: float, y: Array,
        budget: int, progress: bool,
    ) -> None:  # fmt: skip
        self._blocks, self._targets, self._budget = blocks, targets, budget
        self.landmarks, self.indices, self.diag_reg = landmarks, indices, reg
        what, m = blocks.what, len(landmarks)
        self._cholesky = Cholesky(blocks.kernel(landmarks), 0.0, what, quiet=True, unit=blocks.unit)
        self.conditioning = self._cholesky.conditioning
        if self.conditioning.jitter:
            warn(
                f"[{what}] the kernel of {m} landmarks is singular to rounding (effective rank "
                f"{self.conditioning.effective_rank}): {self.conditioning.jitter:.3g} was added to its diagonal; "
                "choose fewer landmarks, or different ones"
            )
        # Where that was noise, so is what stands in its place in the kernel with the training points: 64 times as much
        # is added to diag_reg, as to the kernel of the landmarks.
        jitter = self.conditioning.jitter / blocks.unit
        rounding = entry_rounding(in_units(blocks.diagonal(), blocks.unit), blocks.dtype)
        more = max(0.0, 64 * rounding**2 / jitter - reg / blocks.unit) if jitter else 0.0
        self._reg, self._scale = reg / blocks.unit + more, column_units(y)
        triangle = self._least_squares(y / self._scale, progress)
        self._r = np.ascontiguousarray(triangle[:m, :m])
        rank = int((abs(self._r.diagonal()) > m * np.finfo(np.float64).eps * abs(self._r).max()).sum())
        if rank < m:
            raise np.linalg.LinAlgError(
                f"[{what}] {m} landmarks leave a least-squares problem of rank {rank} for {blocks.n} training points "
                f"with {reg:.3g} on the diagonal: choose fewer landmarks or a larger diag_reg"
            )
        condition = float(abs(self._r).sum(axis=0).max()) * inverse_norm(m, self._solve_r, self._solve_r_transposed)
        self.weights_conditioning = Conditioning(m, reg, more * blocks.unit, condition, rank)
        warn_of_few_digits(self.weights_conditioning, float(np.finfo(np.float64).eps), what)
        self._image = self._solve_r(triangle[:m, m:])

    def _solve_r(self, b: Array) -> Array:
        found: Array = scipy_linalg.solve_triangular(self._r, b, check_finite=False)
        return found

    def _solve_r_transposed(self, b: Array) -> Array:
        found: Array = scipy_linalg.solve_triangular(self._r, b, trans=1, check_finite=False)
        return found

    def _rows_at_once(self, columns: int) -> int:
        return max(1, self._budget // (8 * 4 * columns))

    def _half(self, points: Array) -> Array:
        """``L^-1 K_mx / unit`` (m, len(points)), where ``L L^T`` is the kernel of the landmarks in the same unit."""
        return self._cholesky.half_solve(in_units(self._blocks.kernel(self.landmarks, points), self._blocks.unit))

    def _back(self, b: Array) -> Array:
        """``L^-T b``."""
        found: Array = scipy_linalg.solve_triangular(self._cholesky.factor, b, lower=True, trans=1, check_finite=False)
        return found

    def _least_squares(self, y: Array, progress: bool) -> Array:
        """R of ``[A^T, y; sqrt(s) I, 0]``, ``A = L^-1 K_mn``: its rows are taken some at a time."""
        m, (n, outputs) = len(self.landmarks), y.shape
        x = self._blocks.x
        triangle = np.hstack([np.sqrt(self._reg) * np.eye(m), np.zeros((m, outputs))])
        step = max(m // 4, self._rows_at_once(m + outputs))
        with bar(n, progress, "row") as report:
            for start in range(0, n, step):
                part = slice(start, min(start + step, n))
                rows = np.vstack([triangle, np.hstack([self._half(x[part]).T, y[part]])])
                triangle = scipy_linalg.qr(rows, mode="r", overwrite_a=True, check_finite=False)[0][: m + outputs]
                report(part.stop - part.start)
        return triangle

    def __call__(self, x_test: Any, compute_cov: Any = False) -> Any:
        """Posterior at test points: see :func:`nystrom`."""
        blocks, what = self._blocks, self._blocks.what
        x = blocks.check_points(x_test, "x_test")
        if compute_cov not in (False, "diagonal"):
            raise ValueError(f"[{what}] compute_cov must be False or 'diagonal', given {compute_cov!r}")
        mean = np.empty((len(x), self._image.shape[1]), blocks.dtype)
        variances = np.empty((1, len(x)), blocks.dtype) if compute_cov else None
        found = Found(mean, variances)
        step = self._rows_at_once(len(self.landmarks))
        for start in range(0, len(x), step):
            part = slice(start, start + step)
            half = self._half(x[part])
            mean[part] = restored(half.T @ self._image, self._scale, blocks.dtype)
            if variances is not None:
                variances[0, part] = self._variances(x[part], half, found)
        mean = self._targets.restore(mean, (len(x),))
        if variances is None:
            return mean
        settle(found, float(np.finfo(blocks.dtype).eps), what)
        return Gaussian(mean, variances[0], conditioning=self.conditioning, rounding=found.rounding)

    def _variances(self, x: Array, half: Array, found: Found) -> Array:
        """``k_xx - |a|^2 + s |R^-T a|^2`` for ``a = L^-1 k_mx`` (m, len(x)); takes note of how they may be rounded."""
        unit = self._blocks.unit
        prior = in_units(self._blocks.variances(x), unit)
        outside = np.sqrt(self._reg) * self._solve_r_transposed(half)
        solved = np.sqrt(self._reg) * self._solve_r(outside)
        weights = self._back(half - solved)  # of the landmarks
        found.scale = max(found.scale, float(prior.max()) * unit)
        found.spread = max(found.spread, 1 + float(abs(weights).sum(axis=0).max()))
        variances = prior - np.einsum("ij,ij->j", half, half) + np.einsum("ij,ij->j", outside, outside)
        return restored(variances, unit, self._blocks.dtype)


def nystrom(
    kernel_fn: Callable[..., Any], x_train: Any, y_train: Any, landmarks: Any, get: str = "nngp",
    diag_reg: float = 0.0, diag_reg_absolute_scale: bool = False, trace_axes: Any = (-1,), *,
    select: str = "cholesky", memory_budget: int = BUDGET, progress: bool = False, rng: Any = 0,
) -> NystromPredictor:  # fmt: skip
    """Gaussian process regression through m landmarks, in O(n m^2) time.

    With ``Q_xx' = k_xZ K_ZZ^-1 k_Zx'`` for landmarks Z, this is the "deterministic training conditional" (DTC;
    "projected process"): Q in the place of K among training points and between them and test points, K itself for
    the variance of a test point::

        mean(x) = Q_xX (Q_XX + s I)^-1 Y
        var(x)  = K_xx - Q_xx + s k_xZ (K_ZX K_XZ + s K_ZZ)^-1 k_Zx

    The mean is that of the "subset of regressors", whose variance would vanish far from the landmarks. With all
    training points as landmarks both are those of exact inference.

    Parameters
    ----------
    kernel_fn : callable
        Of a network, or any ``kernel_fn(x1, x2, get)``; called on some training points at a time.
    x_train : numpy.ndarray (n, ...)
        float32 or float64; samples on the first axis.
    y_train : numpy.ndarray (n, o)
    landmarks : int, numpy.ndarray (m,) of int, or numpy.ndarray (m, ...)
        How many training points to choose; which ones; or inputs.
    get : {'nngp', 'ntk'}
        The kernel.
    diag_reg : float
        s: the variance of noise in the targets, times the mean of the kernel's diagonal; as it is with
        ``diag_reg_absolute_scale=True``.
    diag_reg_absolute_scale : bool
    trace_axes : int or tuple of int
        All axes of ``y_train`` but the first, in any order: outputs.
    select : {'cholesky', 'uniform'}
        How training points are chosen: as pivots of a Cholesky factorisation, drawn in proportion to the variance
        that the ones before leave, for which ``8 n m`` bytes are needed; or each with the same probability.
    memory_budget : int
        Bytes of kernels at a time, beside inputs, a few matrices (m, m) and the choice of landmarks.
    progress : bool
        Show rows done.
    rng : numpy.random.Generator or int
        Draws the landmarks.

    Returns
    -------
    NystromPredictor
        ``predictor(x_test)`` gives the mean (m_test, o), ``predictor(x_test, compute_cov='diagonal')`` a
        :class:`Gaussian` with variances (m_test,), of the outputs without noise; in the kernel's dtype. Attributes
        ``landmarks``, ``indices``, ``conditioning``, ``weights_conditioning``.

    Raises
    ------
    TypeError, ValueError
        Other types and dtypes; shapes that do not fit; NaN or infinity; more landmarks than training points, or
        indices out of range.
    IndefiniteError
        A kernel of the landmarks with an eigenvalue below zero by more than rounding explains.
    MemoryError
        When the choice of landmarks has no room.
    numpy.linalg.LinAlgError
        Without ``diag_reg``, when the landmarks span no space of dimension m.

    Warns
    -----
    IllConditionedWarning
        When the kernel of the landmarks was singular to rounding, as that of repeated points is, and jitter was
        added; or the weights keep fewer than four digits.

    Notes
    -----
    Computed in float64. With ``K_ZZ = L L^T`` and ``A = L^-1 K_ZX`` the weights are those of the least-squares problem
    ``[A^T; sqrt(s) I] w = [Y; 0]``, by QR; neither ``A A^T + s I`` nor ``K_ZX K_XZ + s K_ZZ``, whose condition number
    is about that of K_ZZ squared, is formed.

    References
    ----------
    Quinonero-Candela and Rasmussen (2005), "A unifying view of sparse approximate Gaussian process regression", JMLR
    6:1939, section 5 (DTC); Foster et al. (2009), "Stable and efficient Gaussian process calculations", JMLR 10:857
    (QR); Chen et al. (2022), arXiv:2207.06503 (choice of landmarks).
    """
    what = "nystrom"
    if not callable(kernel_fn):
        raise TypeError(f"[{what}] kernel_fn must be a kernel function, given {describe(kernel_fn)}")
    blocks = blocks_of(kernel_fn, x_train, get, memory_budget, what)
    assert isinstance(blocks, KernelBlocks)
    targets, y = outputs_of(y_train, trace_axes, blocks.n, what)
    reg = absolute_reg(blocks, diag_reg, diag_reg_absolute_scale, what)
    if select not in ("cholesky", "uniform"):
        raise ValueError(f"[{what}] select must be 'cholesky' or 'uniform', given {select!r}")
    indices: Array | None = None
    if isinstance(landmarks, (int, np.integer)) and not isinstance(landmarks, bool):
        if not 1 <= landmarks <= blocks.n:
            raise ValueError(f"[{what}] landmarks must be from 1 to {blocks.n}, the training points; given {landmarks}")
        indices = _choose(blocks, int(landmarks), select, np.random.default_rng(rng), memory_budget, progress)
    elif isinstance(landmarks, np.ndarray) and landmarks.ndim == 1 and landmarks.dtype.kind in "iu":
        indices = landmarks.astype(np.intp)
        if not indices.size or indices.min() < 0 or indices.max() >= blocks.n:
            raise ValueError(f"[{what}] landmarks must be indices from 0 to {blocks.n - 1}, and not be empty")
    points = np.array(blocks.check_points(landmarks, "landmarks")) if indices is None else blocks.x[indices]
    if not len(points):
        raise ValueError(f"[{what}] landmarks are empty: shape {points.shape}")
    return NystromPredictor(blocks, targets, points, indices, reg, y, memory_budget, progress)


def _choose(
    blocks: KernelBlocks, count: int, select: str, rng: np.random.Generator, budget: int, progress: bool
) -> Array:
    """Indices of ``count`` training points."""
    if select == "uniform":
        return rng.choice(blocks.n, count, replace=False)
    check_memory(8 * blocks.n * count, f"the choice of {count} landmarks (select='uniform' needs none)", blocks.what)
    with bar(count, progress, "landmark") as report:
        _, pivots = pivoted_cholesky(blocks, count, rng, budget, report)
    if len(pivots) < count:
        warn(
            f"[{blocks.what}] {count} landmarks asked for, {len(pivots)} chosen: {TRAIN} has no larger rank, "
            "to rounding of its entries"
        )
    return pivots
