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


def evidence_gradient(
    k: Array, factor: Cholesky, solution: Array, by_amplitude: Callable[[Any], Any], diag_reg: float, absolute: bool
) -> EvidenceGradient:
    """``dL/dA = (A^-1 y y^T A^-1 / a - o A^-1) / 2`` with ``A = K + s I``, for o outputs.

    ``solution`` (n, o) is ``A^-1 y`` in the units of factor and targets, ``by_amplitude`` divides by a in these.
    """
    n, outputs = solution.shape
    xp = namespace(k, what="log_marginal_likelihood")
    inverse = factor.solve(xp.eye(n, dtype=solution.dtype)).astype(np.float64)
    squares = (solution @ solution.T).astype(np.float64)
    of_sum = (by_amplitude(squares) - outputs * (inverse + inverse.T) / 2) / 2 / factor.unit
    trace = float(of_sum.trace())
    if absolute:
        return EvidenceGradient(of_sum, trace)
    return EvidenceGradient(of_sum + diag_reg * trace / n * xp.eye(n), trace * mean_diagonal(k))


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
