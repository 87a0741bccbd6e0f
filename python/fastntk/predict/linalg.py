"""Where Gram matrices are factorised: by SciPy or CuPy, in float64, and never without a word on how well it went.

Two factorisations of ``A = K + s I``: :class:`Cholesky` for solves, :class:`Spectrum` (eigendecomposition) for
functions of K. Both refuse what is not a Gram matrix, and report :class:`Conditioning`.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg as scipy_linalg
from scipy.linalg import lapack
from scipy.sparse.linalg import LinearOperator, onenormest

from ..base.arraylike import as_array, describe, refuse_masked
from ..base.arrays import FLOATS
from .units import in_units, unit_of

Array = npt.NDArray[Any]  # or CuPy's

# Squares of larger numbers overflow the 32-bit integers of LAPACK; SciPy may be built with 64-bit ones.
MAX_N = 46_340
# Beyond this condition number a solution has fewer than four digits.
WARN_DIGITS = 1e-4
# Beyond this share of the targets predictions may be moved by the rounding of the kernel's entries (of which
# entry_rounding thinks the worst).
WARN_BLURRED = 0.1
_ROWS = 1024  # of a matrix multiplied or solved for in one go
_BLOCK = 256  # rows and columns of a matrix looked at in one go: they fit into a core's cache
TRAIN = "the kernel of the training points"


class IllConditionedWarning(UserWarning):
    """A solution has lost most of its digits, or was only had by adding to the diagonal; the message says how much."""


class IndefiniteError(np.linalg.LinAlgError):
    """The matrix is no Gram matrix: it has an eigenvalue below zero by more than rounding explains."""

    def __init__(self, message: str, smallest_eigenvalue: float) -> None:
        super().__init__(message)
        self.smallest_eigenvalue = smallest_eigenvalue

    def __reduce__(self) -> Any:  # to come back whole from another process
        return type(self), (str(self), self.smallest_eigenvalue)


@dataclass(frozen=True)
class Conditioning:
    """How well a factorisation of ``K + (diag_reg + jitter) I`` went.

    Attributes
    ----------
    n : int
    diag_reg, jitter : float
        Added to the diagonal: as asked, in K's units, and beyond that because the matrix was singular to rounding.
    condition : float
        Condition number of what was factorised: estimated in the 1-norm (Cholesky), or a ratio of eigenvalues.
    effective_rank : int
        Of ``K + diag_reg I``: how many of its eigenvalues stand out of rounding, that of K's entries in the dtype in
        which K was given (:func:`entry_rounding`), and that of the solve, ``n eps`` times the norm. The others count
        as noise, and nothing is learned from them.
    """

    n: int
    diag_reg: float
    jitter: float
    condition: float
    effective_rank: int


def namespace(*arrays: Any, what: str) -> Any:
    """NumPy or CuPy, whichever all the arrays are of; None counts as neither.

    Raises
    ------
    TypeError
        For other arrays, masked ones too, and for a mixture.
    """
    kinds = {describe(a).split(".")[0]: a for a in arrays if a is not None and not np.isscalar(a)}
    for a in arrays:
        refuse_masked(a, "an array", what)
    if not set(kinds) - {"numpy"}:
        return np
    if set(kinds) == {"cupy"}:
        import cupy

        return cupy
    if set(kinds) == {"numpy", "cupy"}:
        raise TypeError(f"[{what}] NumPy and CuPy arrays are mixed: move all to one side")
    other = next(a for kind, a in kinds.items() if kind not in ("numpy", "cupy"))
    raise TypeError(f"[{what}] arrays must be NumPy's or CuPy's, given {describe(other)}")


def given_array(x: Any, name: str, what: str, real: bool = True) -> Any:
    """An array of numbers as given by a user: CuPy's as it is, what converts to NumPy's converted once.

    ``real=False`` leaves the dtype to the caller.

    Raises
    ------
    TypeError, ValueError
        As :func:`fastntk.arraylike.as_array`; TypeError for complex numbers, text, objects and dates.
    """
    if describe(x).split(".")[0] == "cupy":
        found = x
    elif isinstance(x, (bool, int, float, complex, np.generic)):
        found = np.asarray(x)
    else:
        found = as_array(x, name, what)
    if real and found.dtype.kind not in "fiub":
        raise TypeError(f"[{what}] {name} must hold real numbers, given {found.dtype}")
    return found


def warn(message: str, category: type[Warning] = IllConditionedWarning) -> None:
    """Warn at the line outside fastntk from which the call came."""
    frame: Any = sys._getframe(1)
    level = 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("fastntk."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def warn_of_few_digits(found: Conditioning, eps: float, what: str) -> None:
    """Warn where a solution in a dtype of this ``eps`` keeps fewer than four digits."""
    if found.condition * eps > WARN_DIGITS:
        warn(
            f"[{what}] the kernel of {found.n} training points is ill-conditioned: condition {found.condition:.2g}, "
            f"effective rank {found.effective_rank}; weights keep about "
            f"{max(0, int(-np.log10(found.condition * eps)))} digits. diag_reg mends it"
        )


def to_host(x: Any) -> Array:
    """A NumPy array of the same values."""
    found: Array = np.asarray(x) if isinstance(x, (np.ndarray, np.generic)) else x.get()
    return found


def solve_dtype_of(dtype: Any, what: str) -> np.dtype[Any]:
    """``solve_dtype`` as given by a user; None: float64.

    Raises
    ------
    ValueError
        Another dtype than float32 or float64.
    """
    try:
        found = np.dtype(np.float64 if dtype is None else dtype)
    except TypeError:
        raise ValueError(f"[{what}] solve_dtype must be float32 or float64, given {dtype!r}") from None
    if found not in FLOATS:
        raise ValueError(f"[{what}] solve_dtype must be float32 or float64, given {dtype!r}")
    return found


def product(k: Array, b: Array, unit: float = 1.0) -> Array:
    """``k / unit @ b`` in the dtype of ``b``, whatever that of the kernel ``k``: no second copy of it is made."""
    if unit == 1 and (k.dtype == b.dtype or len(k) <= _ROWS):
        whole: Array = k.astype(b.dtype, copy=False) @ b
        return whole
    found: Array = namespace(k, what="product").empty((len(k), *b.shape[1:]), b.dtype)
    for start in range(0, len(k), _ROWS):
        found[start : start + _ROWS] = in_units(k[start : start + _ROWS], unit, b.dtype) @ b
    return found


def check_gram(k: Array, what: str, name: str = TRAIN) -> float:
    """The 1-norm of ``k``, as :func:`gram_figures` gives it."""
    return gram_figures(k, what, name)[0]


def gram_figures(k: Array, what: str, name: str = TRAIN) -> tuple[float, float]:
    """The 1-norm of ``k``, called ``name`` in messages, and the largest ``|K - K^T|``.

    Raises
    ------
    TypeError
        Another dtype than float32 or float64.
    ValueError
        Not square, empty, not finite, not symmetric to rounding.
    """
    check_floats(k, name, what)
    n = len(k) if k.ndim == 2 else 0
    if k.ndim != 2 or k.shape[0] != k.shape[1] or not n:
        raise ValueError(f"[{what}] {name} must be (n, n), n > 0; given {k.shape}")
    xp = namespace(k, what=what)
    sums, room = xp.zeros(n), xp.empty((min(n, _BLOCK), min(n, _BLOCK)), k.dtype.newbyteorder("="))
    largest = asymmetry = 0.0
    parts = [slice(start, min(n, start + _BLOCK)) for start in range(0, n, _BLOCK)]
    for i, rows in enumerate(parts):  # blocks, each read once: k may be a memmap larger than memory
        for columns in parts[i:]:
            part = k[rows, columns]
            size = xp.abs(part, out=room[: part.shape[0], : part.shape[1]])
            top = float(size.max())
            if not np.isfinite(top):
                _refuse_infinite(k, what, name)
            largest = max(largest, top)
            sums[columns] += size.sum(axis=0, dtype=np.float64)
            if columns is not rows:
                sums[rows] += size.sum(axis=1, dtype=np.float64)
            with np.errstate(over="ignore"):
                off = float(xp.abs(xp.subtract(part, k[columns, rows].T, out=size), out=size).max())
            if not np.isfinite(off):
                _refuse_infinite(k, what, name)
            asymmetry = max(asymmetry, off)
    if asymmetry > 1e3 * np.finfo(k.dtype).eps * largest:
        raise ValueError(f"[{what}] {name} is not symmetric: |K - K^T| reaches {asymmetry:.3g}, |K| {largest:.3g}")
    return float(sums.max()), asymmetry


def check_floats(k: Array, name: str, what: str) -> None:
    """Raise TypeError unless a kernel holds float32 or float64."""
    if k.dtype.newbyteorder("=") not in FLOATS:
        raise TypeError(f"[{what}] {name} must be float32 or float64, given {k.dtype}")


def _refuse_infinite(k: Array, what: str, name: str) -> None:
    for row, values in enumerate(k):
        if not bool(np.isfinite(values).all()):
            raise ValueError(f"[{what}] {name} is not finite, first in row {row}")


def entry_rounding(diagonal: Array, dtype: Any) -> float:
    """What rounding a kernel's entries in ``dtype`` may move its small eigenvalues by.

    ``16 eps sqrt(max K(x, x) sum K(x, x))``, which is ``16 eps sqrt(n) K(x, x)`` where all are alike: entries are right
    to a few eps (16 is 2e-6 in float32, what kernels of depth 10 promise), and errors of n^2 entries that know
    nothing of each other have a norm of sqrt(n) of them.
    """
    top = float(abs(diagonal).max())
    # Divided first: squares of very large or small entries leave the range of floats.
    share = float((abs(diagonal) / top).sum(dtype=np.float64)) if 0 < top < np.inf else 0.0
    return 16 * float(np.finfo(dtype).eps) * top * math.sqrt(share)


def check_finite(values: Array, name: str, what: str) -> None:
    """Raise ValueError where ``values`` holds NaN or infinity."""
    bad = ~np.isfinite(values)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(to_host(bad))[0])
        raise ValueError(f"[{what}] {name} is not finite: {int(bad.sum())} of {values.size} values, first at {at}")


def check_size(n: int, what: str) -> None:
    """Raise where LAPACK's integers are too short for an n x n matrix."""
    if n > MAX_N and not lapack.HAS_ILP64:
        raise ValueError(
            f"[{what}] n = {n} exceeds {MAX_N}, the largest matrix that this SciPy's LAPACK indexes with its 32-bit "
            "integers; fastntk.predict.conjugate_gradient solves without factorising"
        )


def absolute_reg(k: Any, diag_reg: float, absolute: bool, what: str) -> float:
    """``diag_reg`` in K's units: as it is, or times the mean of K's diagonal.

    Raises
    ------
    ValueError
        Negative or not finite.
    """
    if isinstance(diag_reg, (bool, np.bool_)) or not isinstance(diag_reg, Real):
        raise TypeError(f"[{what}] diag_reg must be a number, given {describe(diag_reg)}")
    if not 0 <= diag_reg <= sys.float_info.max:
        raise ValueError(f"[{what}] diag_reg must be finite and not negative, given {diag_reg!r}")
    return float(diag_reg) if absolute else float(diag_reg) * mean_diagonal(k)


def mean_diagonal(k: Any) -> float:
    """Mean of K's diagonal, by a sum that cannot overflow."""
    diagonal = k.diagonal()
    unit = unit_of(diagonal)
    return float(in_units(diagonal, unit).mean()) * unit


class Cholesky:
    """``(K + s I) / unit = L L^T``: what is solved for is in these units, what is said of it in K's.

    Parameters
    ----------
    k : numpy.ndarray or cupy.ndarray (n, n) float32 or float64
        Not modified without ``overwrite``.
    reg : float
        s, in K's units.
    what : str
        The caller's name, for messages.
    dtype : numpy.dtype
        Of the factor.
    quiet : bool
        Leave it to the caller to warn, by ``conditioning``.
    overwrite : bool
        Let the factor take the place of one triangle of ``k``, a NumPy array in C order and of ``dtype``; what the
        other one keeps gives :meth:`kernel`. When an error is raised ``k`` is as it was.
    entry : numpy.dtype, optional
        What K's entries were rounded to, if not to the dtype of ``k``.
    unit : float
        A power of two, such as :func:`~fastntk.predict.units.unit_of`.
    divided : bool
        ``k`` has been divided by ``unit`` already.

    Raises
    ------
    ValueError, TypeError
        As :func:`check_gram` and :func:`check_size`.
    IndefiniteError
        When ``K + s I`` has an eigenvalue clearly below zero.

    Warns
    -----
    IllConditionedWarning
        When K was singular to rounding, its own or that of the solve, and jitter was added; or the solution keeps
        fewer than four digits.
    """

    def __init__(
        self, k: Array, reg: float, what: str, dtype: Any = np.float64, quiet: bool = False, overwrite: bool = False,
        entry: Any = None, unit: float = 1.0, divided: bool = False,
    ) -> None:  # fmt: skip
        self._library = namespace(k, what=what).__name__  # a name goes through pickle, a module does not
        n = len(k)
        check_size(n, what)
        self.dtype = np.dtype(dtype)
        self.unit, reg = unit, reg / unit  # from here on in these units
        self._divisor = 1.0 if divided else unit
        norm = check_gram(k, what) / self._divisor + reg
        self._overwrite, self._started = overwrite, False
        self._diagonal = in_units(k.diagonal(), self._divisor, k.dtype)
        self._entry = np.dtype(k.dtype if entry is None else entry)
        self.rounding = entry_rounding(self._diagonal, self._entry)
        if norm * float(np.finfo(self.dtype).eps) < np.finfo(self.dtype).tiny:  # no jitter helps
            raise ValueError(f"[{what}] the kernel of the training points is zero: its 1-norm is {norm * unit:.3g}")
        try:
            self._factorise(k, reg, norm, what, quiet)
        except BaseException:
            if self._started:
                self._unscaled(mirrored(k, self._diagonal))
            raise

    def _factorise(self, k: Array, reg: float, norm: float, what: str, quiet: bool) -> None:
        n, eps, unit = len(k), float(np.finfo(self.dtype).eps), self.unit
        self.factor, condition = self._try(k, reg, norm)
        jitter, rank, smallest = 0.0, n, 0.0
        singular = condition * eps > 0.1  # to rounding of the solve, or worse
        if singular:
            smallest = self._refuse_indefinite(k, reg, norm, what)
        if singular or self._is_noise(norm, condition):
            rank = self._rank(k, reg, norm)
            # Where labels contradict each other, rounding enters as its size / jitter: more than the least that would
            # do.
            jitter = 2 * max(0.0, -smallest) + max(max(10 * eps, 4e-11) * norm, 64 * self.rounding)
            self.factor, condition = self._try(k, reg + jitter, norm + jitter)
            while not np.isfinite(condition):
                jitter *= 10
                self.factor, condition = self._try(k, reg + jitter, norm + jitter)
            if not quiet:
                warn(
                    f"[{what}] the kernel of {n} training points is singular to rounding in {self._entry} (effective "
                    f"rank {rank}): {jitter * unit:.3g} was added to its diagonal; choose diag_reg to say how much"
                )
        elif condition * eps > WARN_DIGITS:
            rank = self._rank(k, reg, norm)
        self.conditioning = Conditioning(n, reg * unit, jitter * unit, condition, rank)
        if not jitter and not quiet:
            warn_of_few_digits(self.conditioning, eps, what)

    @property
    def _xp(self) -> Any:
        return import_module(self._library)

    def solve(self, b: Array) -> Array:
        """``unit (K + s I)^-1 b`` for b (n, ...)."""
        flat = b.reshape(len(b), -1).astype(self.dtype, copy=False)
        if self._xp is np:
            found: Array = scipy_linalg.cho_solve((self.factor, True), flat, check_finite=False)
        else:
            found = self._triangular(self._triangular(flat), transposed=True)
        return found.reshape(b.shape)

    def half_solve(self, b: Array) -> Array:
        """``L^-1 b`` for b (n, m)."""
        return self._triangular(b.astype(self.dtype, copy=False))

    def log_det(self) -> float:
        """Logarithm of the determinant of ``(K + s I) / unit``."""
        return 2.0 * float(np.log(self.factor.diagonal()).sum(dtype=np.float64))

    def inverse_diagonal(self) -> Array:
        """Diagonal (n,) of ``unit (K + s I)^-1``."""
        n = len(self.factor)
        found: Array = self._xp.empty(n, self.dtype)
        for start in range(0, n, _ROWS):
            stop = min(n, start + _ROWS)
            part = self._xp.zeros((n, stop - start), self.dtype)
            part[self._xp.arange(start, stop), self._xp.arange(stop - start)] = 1
            # The columns of L^-1 vanish above the diagonal.
            half = self._triangular(part[start:], start)
            found[start:stop] = (half * half).sum(axis=0)
        return found

    def kernel(self) -> Array:
        """A copy of K as it was before ``overwrite``."""
        return self._unscaled(mirrored(self.factor.T.copy(), self._diagonal))

    def _unscaled(self, k: Array) -> Array:
        """``k`` as it was given again, in place."""
        if self._divisor != 1:
            k *= k.dtype.type(self._divisor)
        return k

    def _triangular(self, b: Array, start: int = 0, transposed: bool = False) -> Array:
        factor = self.factor[start:, start:]
        library: Any = scipy_linalg if self._xp is np else import_module("cupyx.scipy.linalg")
        found: Array = library.solve_triangular(factor, b, lower=True, trans=int(transposed), check_finite=False)
        return found

    def _shifted(self, k: Array, reg: float) -> Array:
        # Symmetric: the transpose of rows in C order is the same matrix, and a plain copy.
        shifted = in_units(k.T, 1.0 if self._started else self._divisor, self.dtype, "F")
        if self._overwrite:  # since the first try only one triangle is K's
            mirrored(shifted.T, self._diagonal)
        at = self._xp.arange(len(k))
        shifted[at, at] += reg
        return shifted

    def _place(self, k: Array, reg: float) -> Array:
        """``k`` itself, with ``reg`` on its diagonal, to be factorised."""
        if self._started:
            mirrored(k, self._diagonal)
        elif self._divisor != 1:
            k *= k.dtype.type(1 / self._divisor)
        self._started = True
        at = np.arange(len(k))
        k[at, at] = self._diagonal + reg
        return k.T

    def _try(self, k: Array, reg: float, norm: float) -> tuple[Array, float]:
        """The lower factor, and the condition number in the 1-norm: infinite where there is no factor."""
        a = self._place(k, reg) if self._overwrite else self._shifted(k, reg)
        n = len(k)
        if self._xp is np:
            (potrf, pocon) = lapack.get_lapack_funcs(("potrf", "pocon"), (a,))
            factor, info = potrf(a, lower=True, clean=False, overwrite_a=True)
            if info:
                return factor, np.inf
            inverse, info = pocon(factor, norm, uplo="L")
            return factor, np.inf if inverse == 0 else 1 / float(inverse)
        factor = self._xp.linalg.cholesky(a)
        if not bool(self._xp.isfinite(factor.diagonal()).all()):
            return factor, np.inf
        self.factor = factor

        def solve(b: Array) -> Array:
            return to_host(self.solve(self._xp.asarray(b)))

        return factor, norm * inverse_norm(n, solve, solve)

    def _is_noise(self, norm: float, condition: float) -> bool:
        """Whether the smallest eigenvalue is no larger than the rounding of K's entries."""
        if norm > condition * self.rounding:  # 1 / |A^-1| in the 1-norm is no larger than it
            return False
        b = np.random.default_rng(0).standard_normal((len(self.factor), 4))
        for _ in range(4):
            b = np.linalg.qr(to_host(self.solve(self._xp.asarray(b, dtype=self.dtype))))[0]
        found = b.T @ to_host(self.solve(self._xp.asarray(b, dtype=self.dtype)))
        largest = float(scipy_linalg.eigvalsh(found.astype(np.float64))[-1])  # of A^-1
        return largest * self.rounding >= 1

    def _refuse_indefinite(self, k: Array, reg: float, norm: float, what: str) -> float:
        """The smallest eigenvalue, if rounding explains it."""
        smallest = float(eigenvalues(self._shifted(k, reg), (0, 0))[0])
        # What rounding each entry in the dtype it came in, or is factorised in, may move an eigenvalue by.
        allowed = len(k) * max(float(np.finfo(dtype).eps) for dtype in (self._entry, self.dtype)) * norm
        if smallest < -allowed:
            lowest, on, floor = (value * self.unit for value in (smallest, reg, -allowed))
            raise IndefiniteError(
                f"[{what}] the kernel of {len(k)} training points is indefinite: its smallest eigenvalue is "
                f"{lowest:.6g} with {on:.3g} on the diagonal, rounding explains down to {floor:.3g}",
                lowest,
            )
        return smallest

    def _rank(self, k: Array, reg: float, norm: float) -> int:
        """Rank by pivoted Cholesky."""
        a = to_host(self._shifted(k, reg))
        (pstrf,) = lapack.get_lapack_funcs(("pstrf",), (a,))
        tol = max(len(a) * float(np.finfo(self.dtype).eps) * norm, self.rounding)
        _, _, rank, _ = pstrf(a, tol=tol, lower=True, overwrite_a=True)
        return int(rank)


def mirrored(k: Array, diagonal: Array) -> Array:
    """``k`` with its lower triangle above the diagonal too, and this diagonal."""
    for start in range(0, len(k), _ROWS):
        stop = min(len(k), start + _ROWS)
        k[start:stop, stop:] = k[stop:, start:stop].T
        part = k[start:stop, start:stop]
        above = np.triu_indices(stop - start, 1)
        part[above] = part.T[above]
    at = np.arange(len(k))
    k[at, at] = diagonal
    return k


class Spectrum:
    """``(K + s I) / unit = V diag(values) V^T``, eigenvalues in rising order, never below 0.

    Parameters, Raises
    ------------------
    As :class:`Cholesky`; and

    rounding : float
        What an eigenvalue may have been moved by beside the rounding of K's own entries, in K's units.
    name : str
        What K is, for messages.

    Attributes
    ----------
    threshold : float
        What is not larger is rounding, of K's entries or of the decomposition.
    rounding : float
        Of K's entries (:func:`entry_rounding`).
    """

    def __init__(
        self, k: Array, reg: float, what: str, dtype: Any = np.float64, rounding: float = 0.0, name: str = TRAIN,
        entry: Any = None, unit: float = 1.0, divided: bool = False,
    ) -> None:  # fmt: skip
        xp = namespace(k, what=what)
        n = len(k)
        check_size(n, what)
        check_gram(k, what, name)
        entry = np.dtype(k.dtype if entry is None else entry)
        divisor = 1.0 if divided else unit
        self.rounding = entry_rounding(in_units(k.diagonal(), divisor), entry)
        a = in_units(k.T, divisor, dtype, "F")
        if xp is np:
            # 'evd' is the fast one; its workspace of 2 n^2 outgrows 32-bit integers first. SciPy 1.11 fails at n = 1.
            driver = "evd" if 1 < n <= 32_000 else "evr"
            values, self.vectors = scipy_linalg.eigh(a, driver=driver, overwrite_a=True, check_finite=False)
        else:
            values, self.vectors = xp.linalg.eigh(a)
        values = values + reg / unit
        smallest, largest = float(values[0]), float(values[-1])
        eps = max(float(np.finfo(dtype).eps) for dtype in (entry, values.dtype))
        allowed = n * eps * max(largest, -smallest) + rounding / unit
        if smallest < -allowed:
            raise IndefiniteError(
                f"[{what}] {name} ({n} rows) is indefinite: its smallest eigenvalue is {smallest * unit:.6g} with "
                f"{reg:.3g} on the diagonal, rounding explains down to {-allowed * unit:.3g}",
                smallest * unit,
            )
        self.unit, self._reg = unit, reg
        self.values = xp.maximum(values, 0.0)
        self.threshold = self._threshold(largest)
        self.conditioning = self.shifted(0.0)

    def shifted(self, reg: float) -> Conditioning:
        """How well ``K + (s + reg) I`` is conditioned."""
        values = self.values + reg / self.unit
        smallest, largest = float(values[0]), float(values[-1])
        condition = largest / smallest if smallest > 0 else np.inf
        rank = int((values > self._threshold(largest)).sum())
        return Conditioning(len(values), self._reg + reg, 0.0, condition, rank)

    def _threshold(self, largest: float) -> float:
        return max(len(self.values) * float(np.finfo(self.values.dtype).eps) * largest, self.rounding)

    @property
    def signal(self) -> Array:
        """``values`` with 0 for what is rounding."""
        found: Array = namespace(self.values, what="signal").where(self.values > self.threshold, self.values, 0.0)
        return found

    def apply(self, weights: Array, b: Array) -> Array:
        """``V diag(weights) V^T b``: weights (..., n), b (n, m); (..., n, m)."""
        found: Array = self.vectors @ (weights[..., None] * (self.vectors.T @ b))
        return found


def inverse_norm(n: int, solve: Callable[[Array], Array], transposed: Callable[[Array], Array]) -> float:
    """Estimate of the 1-norm of ``A^-1`` from solves with A (n, n) and its transpose, on NumPy arrays."""
    operator = LinearOperator((n, n), matvec=solve, rmatvec=transposed, matmat=solve, rmatmat=transposed, dtype=float)
    return float(onenormest(operator))


def eigenvalues(a: Array, subset: tuple[int, int] | None = None) -> Array:
    """Eigenvalues of a symmetric matrix in rising order, those counted from ``subset[0]`` to ``subset[1]``."""
    values: Array
    if isinstance(a, np.ndarray):
        values = scipy_linalg.eigvalsh(a, subset_by_index=subset, check_finite=False)
        return values
    import cupy

    values = cupy.linalg.eigvalsh(a)
    return values if subset is None else values[subset[0] : subset[1] + 1]


def largest_eigenvalue(k: Array, what: str) -> float:
    """The largest eigenvalue of a kernel (n, n), in float64.

    Raises
    ------
    TypeError, ValueError, IndefiniteError
        As :func:`check_gram`; when even the largest is below zero.
    """
    check_gram(k, what)
    unit = unit_of(k.diagonal())
    found = float(eigenvalues(in_units(k, unit), (len(k) - 1, len(k) - 1))[0]) * unit
    if found < 0:
        raise IndefiniteError(f"[{what}] the kernel has no eigenvalue above {found:.6g}: it is no Gram matrix", found)
    return found
