"""Derivatives of the evidence in the kernel and in the noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .linalg import Cholesky, Spectrum, mean_diagonal, namespace

Array = npt.NDArray[Any]  # or CuPy's


@dataclass(frozen=True, eq=False)
class EvidenceGradient:
    """Derivatives of the summed log marginal likelihood; of a free amplitude at its best.

    Attributes
    ----------
    kernel : array (n, n) float64
        dL/dK of every entry, symmetric: the cotangent that ``kernel_fn.vjp`` takes. Noise relative to K's diagonal
        moves with it.
    diag_reg : float
        dL/d diag_reg, in the units that it was given in.
    """

    kernel: Array
    diag_reg: float


@dataclass(frozen=True, eq=False)
class LeaveOneOutGradient:
    """Derivatives of what leave-one-out says; of a free amplitude at its best.

    Attributes
    ----------
    log_density : EvidenceGradient
        Of the sum of ``log_density``.
    mean_squared_error : EvidenceGradient
    """

    log_density: EvidenceGradient
    mean_squared_error: EvidenceGradient


def _in_kernel(of_sum: Array, k: Array, diag_reg: float, absolute: bool) -> EvidenceGradient:
    """From derivatives in ``A = K + s I``: of the kernel, with which s moves where it is relative, and of diag_reg."""
    xp, trace = namespace(k, what="slopes"), float(of_sum.trace())
    if absolute:
        return EvidenceGradient(of_sum, trace)
    return EvidenceGradient(of_sum + diag_reg * trace / len(k) * xp.eye(len(k)), trace * mean_diagonal(k))


def _inverse(factor: Cholesky, k: Array, dtype: Any) -> Array:
    """In the factor's units, symmetric."""
    found: Array = factor.solve(namespace(k, what="slopes").eye(len(k), dtype=dtype)).astype(np.float64)
    return (found + found.T) / 2


def evidence_gradient(
    k: Array, factor: Cholesky, solution: Array, by_amplitude: Callable[[Any], Any], diag_reg: float, absolute: bool
) -> EvidenceGradient:
    """``dL/dA = (A^-1 y y^T A^-1 / a - o A^-1) / 2`` with ``A = K + s I``, for o outputs.

    ``solution`` (n, o) is ``A^-1 y`` in the units of factor and targets, ``by_amplitude`` divides by a in these.
    """
    squares = (solution @ solution.T).astype(np.float64)
    inverse = _inverse(factor, k, solution.dtype)
    of_sum = (by_amplitude(squares) - solution.shape[1] * inverse) / 2 / factor.unit
    return _in_kernel(of_sum, k, diag_reg, absolute)


def leave_one_out_gradient(
    k: Array, factor: Cholesky, solution: Array, by_amplitude: Callable[[Any], Any], squared: int, diag_reg: float,
    absolute: bool,
) -> LeaveOneOutGradient:  # fmt: skip
    """With ``C = A^-1`` and ``z = C y``: ``-(C u) z^T - C diag(w) C``, u, w the derivatives in z, C_ii.

    ``squared``: the power of two in units of which squared targets are.
    """
    n, outputs = solution.shape
    C, z = _inverse(factor, k, solution.dtype), solution.astype(np.float64)
    c = C.diagonal()[:, None]

    def found(u: Array, w: Array) -> EvidenceGradient:
        of_sum = -(C @ u) @ z.T - (C * w.sum(axis=1)) @ C
        return _in_kernel((of_sum + of_sum.T) / 2 / factor.unit, k, diag_reg, absolute)

    scale = 2.0**squared / (n * outputs)
    return LeaveOneOutGradient(
        found(-by_amplitude(z / c), (by_amplitude(z * z / c) + 1) / (2 * c)),
        found(2 * scale * z / c**2, -2 * scale * z * z / c**3),
    )


def spectral_gradient(
    spectrum: Spectrum, y: Array, noise: float, by_amplitude: Callable[[Any], Any], relative: float
) -> Array:
    """dL/dK (n, n) on a spectrum of K, for a noise in its units; ``relative``: to the mean of K's diagonal, or 0."""
    n, outputs = y.shape
    over = 1 / (spectrum.signal + noise)
    solution = spectrum.vectors @ (over[:, None] * (spectrum.vectors.T @ y))
    inverse = (spectrum.vectors * over) @ spectrum.vectors.T
    of_sum = (by_amplitude((solution @ solution.T).astype(np.float64)) - outputs * inverse) / 2 / spectrum.unit
    found: Array = of_sum + relative * float(of_sum.trace()) / n * np.eye(n)
    return found
