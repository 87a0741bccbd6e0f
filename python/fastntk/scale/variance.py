"""Posterior variances of test points by conjugate gradients, some test points at a time, with a bound of the error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.checks import count
from ..base.door import door
from ..base.progress import bar
from ..predict.iterative import Preconditioner, check_stop, default_rank
from ..predict.linalg import absolute_reg
from ..predict.low_rank import pivoted_cholesky
from ..predict.tiles import BUDGET
from ..predict.units import in_units, unit_of
from .solve import ResumableSolver, check_seed, tiles_of

Array = npt.NDArray[Any]

_WHAT = "posterior_variance"
_TOGETHER = 128  # test points whose systems are solved together


@door
@dataclass(frozen=True)
class Variances:
    """What :func:`posterior_variance` returns.

    Attributes
    ----------
    variance : numpy.ndarray (m,) float64
    error : numpy.ndarray (m,) float64
        What each is at most too large by, but for rounding.
    passes : int
        Over all blocks of the kernel.
    """

    variance: Array
    error: Array
    passes: int


class _Kept(ResumableSolver):
    """Keeps the last recomputed residual."""

    left: Array

    def _recompute(self) -> Array:
        self.left = super()._recompute()
        return self.left


@door
def posterior_variance(
    kernel_fn: Any, x_train: Any, x_test: Any, get: str = "nngp", diag_reg: float = 1e-3,
    diag_reg_absolute_scale: bool = False, *, tol: float = 1e-3, rank: int | None = None, max_iter: int = 1000,
    client: Any = None, store: Any = None, chunks: int | None = None, backend: str | None = None,
    num_threads: int | None = None, memory_budget: int = BUDGET, together: int = _TOGETHER, progress: bool = False,
    rng: int = 0, storage_options: Mapping[str, Any] | None = None,
) -> Variances:  # fmt: skip
    """``K(x, x) - k_x (K + s I)^-1 k_x`` of test points, where a matrix (n, n) has no room.

    Parameters
    ----------
    kernel_fn, x_train, get, diag_reg, diag_reg_absolute_scale, rank, max_iter, client, store, chunks
        As for :func:`conjugate_gradient`; ``diag_reg`` is positive.
    x_test : numpy.ndarray (m, ...)
    tol : float
        Of each test point, the residual ``|k_x - (K + s I) w| / |k_x|`` that is reached.
    together : int
        Test points whose systems share a pass over the kernel: so many columns of length n are held, six times.
    backend, num_threads, memory_budget, progress, rng, storage_options
        As for :func:`conjugate_gradient`.

    Returns
    -------
    Variances
        Of the outputs without noise.

    Raises
    ------
    TypeError, ValueError, MemoryError, ConvergenceError, IndefiniteError, StoreError, OSError
        As :func:`conjugate_gradient`.

    Notes
    -----
    With weights w and the residual r, ``2 k_x w - w (K + s I) w`` is below ``k_x (K + s I)^-1 k_x`` by
    ``r (K + s I)^-1 r``, at most ``|r|^2 / s``: variances are too large rather than too small, and right to the square
    of the residual.

    Examples
    --------
    >>> import numpy as np
    >>> from fastntk import scale, stax
    >>> net = stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1))
    >>> x = np.random.default_rng(0).standard_normal((300, 8))
    >>> found = scale.posterior_variance(net.kernel_fn, x, x[:4] + 0.1)
    >>> found.variance.shape, bool((found.error < 1e-3).all())
    ((4,), True)
    """
    check_stop(tol, max_iter, _WHAT)
    check_seed(rng, _WHAT)
    count(together, "together", _WHAT)
    tiles = tiles_of(
        kernel_fn, x_train, get, client, store, chunks, backend, num_threads, memory_budget, progress, storage_options,
        _WHAT,
    )  # fmt: skip
    test = tiles.check_test(x_test)
    reg = absolute_reg(tiles, diag_reg, diag_reg_absolute_scale, _WHAT)
    if not reg > 0:
        raise ValueError(f"[{_WHAT}] diag_reg must be positive, given {diag_reg!r}")
    unit = tiles.unit = unit_of(tiles.diagonal(), reg)
    rank = default_rank(tiles.n) if rank is None else count(rank, "rank", _WHAT, 0)
    if rank > tiles.n:
        raise ValueError(f"[{_WHAT}] rank must be at most {tiles.n}, the training points; given {rank}")
    with bar(rank, progress, "column") as report:
        report.again("preconditioner")
        factor, _ = pivoted_cholesky(tiles, rank, np.random.default_rng(rng), memory_budget, report)
    precondition = Preconditioner(factor, reg / unit)
    variance, error = np.empty(len(test)), np.empty(len(test))
    passes = 0
    with bar(len(tiles.spans), progress, "block") as report:
        for start in range(0, len(test), int(together)):
            part = slice(start, min(start + int(together), len(test)))
            columns = np.hstack([tiles.cross(test, part, own) for own in tiles.cuts(tiles.n)])
            right = np.ascontiguousarray(in_units(columns, unit).T)
            length = np.linalg.norm(right, axis=0)
            length[length == 0] = 1
            solver = _Kept(tiles, reg / unit, precondition, right.shape[1], report)
            solver.run(right / length, float(tol), int(max_iter))
            w, left = solver.alpha * length, solver.left * length
            explained = np.einsum("ij,ij->j", right, w) + np.einsum("ij,ij->j", left, w)
            variance[part] = tiles.variances(test[part]).astype(np.float64) - explained * unit
            error[part] = (left * left).sum(axis=0) / (reg / unit) * unit
            passes += solver.passes
    return Variances(np.maximum(variance, 0), error, passes)
