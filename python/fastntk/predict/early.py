"""Means at a few finite times without an eigendecomposition: polynomials in the inverse of a shifted kernel.

With ``A = (K + s I) / unit`` and ``B = (A + c / tau)^-1`` an eigenvalue w of A is one of B, and
``x = 2 (c / tau) / (w + c / tau) - 1`` lies between -1 and 1 whatever w is, from 0 to infinity. In x

    phi(w tau) = (1 - exp(-w tau)) / (w tau)    and    exp(-w tau),    w tau = c (1 - x) / (1 + x),

are smooth enough for some 35 terms of a Chebyshev series to be as good as float64 (c = 16): what the sum leaves out is
at most the sum of the coefficients behind, whatever the kernel. A term is a solve with one Cholesky factor. The
approximation by polynomials in such an inverse is that of van den Eshof and Hochbruck (2006), "Preconditioning Lanczos
approximations to the matrix exponential", SIAM J. Sci. Comput. 27:1438; its series needs no Lanczos vectors.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg as scipy_linalg
from scipy.fft import dct
from scipy.linalg import lapack

from .linalg import WARN_BLURRED, WARN_DIGITS, Conditioning, entry_rounding

Array = npt.NDArray[Any]

LEAST = 1000  # training points below which an eigendecomposition is soon over
MOST = 4  # times that cost less than it
_SHIFT = 16.0
_GONE = 50.0  # exp(-50) is nothing beside float64's rounding
_FAR = 1e20  # times beyond which float32 does not hold the shift, in units in which the kernel is about 1
_NODES = 2048  # of the interpolation from which coefficients are taken
_ESTIMATE = 3.0  # by how much LAPACK's estimate of an inverse's norm may be too small


@lru_cache(maxsize=8)
def series(exponential: bool, tol: float) -> tuple[float, ...]:
    """Chebyshev coefficients in x of exp(-z) or phi(z), z = 16 (1 - x) / (1 + x); those left out sum up to ``tol``.

    Raises
    ------
    ArithmeticError
        Where they do not.
    """
    angles = (np.arange(_NODES) + 0.5) * np.pi / _NODES
    z = _SHIFT * np.tan(angles / 2) ** 2
    values = np.exp(-z) if exponential else -np.expm1(-z) / z
    found = dct(values, type=2) / _NODES
    found[0] /= 2
    # What the transform itself rounds is no coefficient.
    behind = np.cumsum(np.where(abs(found) > 1e-17, abs(found), 0.0)[: _NODES // 2][::-1])[::-1]
    terms = int(np.argmax(behind <= tol))
    if not terms or terms > _NODES // 8:
        raise ArithmeticError(f"a series of {terms} terms leaves {behind[terms]:.3g}")
    return tuple(found[:terms].tolist())


class Early:
    """``phi`` and ``exp`` of one kernel at a few times.

    Parameters
    ----------
    k : numpy.ndarray (n, n)
        In its unit.
    reg : float
        In the same.
    tau : numpy.ndarray (times,)
        In the inverse of it, positive and finite.
    factor : numpy.ndarray (n, n)
        Of A, by Cholesky.
    least, norm : float
        What no eigenvalue of A is below, and none above.
    conditioning : Conditioning
    """

    def __init__(
        self, k: Array, reg: float, tau: Array, factor: Array, least: float, norm: float, conditioning: Conditioning
    ) -> None:
        self._k, self._reg, self._norm = k, reg, norm
        self.tau, self.conditioning, self.count = tau, conditioning, len(tau)
        # Long enough for A^-1 to be no larger than tau, and for exp(-A tau) to be none at all.
        self._long, self._endless = tau * least >= 1, tau * least >= _GONE
        self._factor = factor if self._long.any() else None
        self._factors = [
            None if gone else cholesky(k, reg + _SHIFT / t) for t, gone in zip(tau.tolist(), self._endless, strict=True)
        ]
        self._tol = 2 * float(np.finfo(k.dtype).eps)

    def solved(self, b: Array) -> Array:
        """``A^-1 (I - exp(-A tau)) b`` for b (n, o): (times, n, o)."""
        return np.stack([self.back(i, b) for i in range(self.count)])

    def project(self, x: Array) -> Array:
        return x

    def back(self, t: int, x: Array) -> Array:
        """:meth:`solved` at one of the times."""
        if self._long[t]:
            solved: Array = scipy_linalg.cho_solve((self._factor, True), self._learned(t, x), check_finite=False)
            return solved
        found = self._sum(t, x, False)
        found *= x.dtype.type(self.tau[t])
        return found

    def learned(self, b: Array) -> Array:
        """``(I - exp(-A tau)) b`` for b (n, o): (times, n, o)."""
        return np.stack([self._learned(i, b) for i in range(self.count)])

    def _learned(self, t: int, b: Array) -> Array:
        if self._endless[t]:
            return b.copy()
        if self.tau[t] * self._norm < 1:  # little is learned: it is no difference of large numbers
            step = self.back(t, b)
            found: Array = self._k @ step + b.dtype.type(self._reg) * step
            return found
        return b - self._sum(t, b, True)

    def _sum(self, i: int, b: Array, exponential: bool) -> Array:
        """The series, by its recursion ``T_k+1 = 2 x T_k - T_k-1``."""
        shift = b.dtype.type(2 * _SHIFT / self.tau[i])

        def times_x(v: Array) -> Array:
            found: Array = scipy_linalg.cho_solve((self._factors[i], True), v, check_finite=False)
            found *= shift
            found -= v
            return found

        coefficients = np.array(series(exponential, self._tol), b.dtype)
        before, now = b, times_x(b)
        total: Array = coefficients[0] * before + coefficients[1] * now
        for c in coefficients[2:]:
            before, now = now, 2 * times_x(now) - before
            total += c * now
        return total


def cholesky(k: Array, reg: float) -> Array | None:
    """The lower factor of ``k + reg I``, None where there is none."""
    a = np.array(k.T, order="F")
    a[np.arange(len(a)), np.arange(len(a))] += a.dtype.type(reg)
    (potrf,) = lapack.get_lapack_funcs(("potrf",), (a,))
    factor, info = potrf(a, lower=True, clean=False, overwrite_a=True)
    return None if info else factor


def early(k: Array, reg: float, unit: float, tau: Array, entry: np.dtype[Any]) -> Early | None:
    """The series for a kernel in its unit, ``reg`` in the same; None where an eigendecomposition has to say more.

    That is where times are extreme, where eigenvalues may be below zero, rounding of the kernel's entries (of dtype
    ``entry``) or of the factorisation, or where so much has been learned along small ones that a warning is due.
    """
    n, eps = len(k), float(np.finfo(k.dtype).eps)
    if not ((tau > 1 / _FAR) & (tau < _FAR)).all():
        return None
    factor = cholesky(k, reg)
    if factor is None:
        return None
    norm = float(abs(k).sum(axis=0, dtype=np.float64).max()) + reg
    (pocon,) = lapack.get_lapack_funcs(("pocon",), (factor,))
    inverse, info = pocon(factor, norm, uplo="L")
    if info or not inverse > 0:
        return None
    least = float(inverse) * norm / _ESTIMATE  # no eigenvalue is below it
    rounding = entry_rounding(np.diagonal(k), entry)
    if not least > max(n * eps * norm, rounding):
        return None
    weight = min(float(tau.max()), 1 / least)
    if weight * norm * eps > WARN_DIGITS or weight * rounding > WARN_BLURRED:
        return None
    return Early(k, reg, tau, factor, least, norm, Conditioning(n, reg * unit, 0.0, 1 / float(inverse), n))
