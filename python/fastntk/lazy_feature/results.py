"""What training of one network gives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

STATUS = ("converged", "unfinished", "stuck", "diverged")


@dataclass(frozen=True)
class Trace:
    """A run in time; arrays (steps + 1,), entry 0 at initialisation.

    Attributes
    ----------
    t : numpy.ndarray
    dtheta : numpy.ndarray
        ``|Theta(t) - Theta_0| / |Theta_0|``, Frobenius norms.
    margin : numpy.ndarray
        ``min_i F_i y_i``.
    loss : numpy.ndarray
        ``sum_i l(F_i, y_i) / P``, without the factor ``1 / alpha^2``.
    """

    t: Array
    dtheta: Array
    margin: Array
    loss: Array


@dataclass(frozen=True)
class Run:
    """Training of one network; every number is of its last finite state.

    Attributes
    ----------
    status : str
        'converged': all margins passed ``stop``. 'unfinished': they did not in ``max_steps`` (narrow networks have
        minima that do not fit all samples). 'stuck': the gradient is 0 (units of ReLU that are all off). 'diverged':
        the next step would not be finite.
    h, alpha : int, float
    F, f : numpy.ndarray (P,)
        Predictor ``alpha (f(w) - f(w_0))`` and output on the training samples.
    F_test : numpy.ndarray (m,) or None
        Predictor on ``x_test``.
    dtheta : float
        Kernel change ``|Theta - Theta_0| / |Theta_0|`` on the training samples, or those of ``kernel_samples``.
    t : float
        Time. It does not depend on alpha while the kernel does not move.
    t1 : float
        When dtheta passed ``t1_at``; infinite if it never did.
    dw : tuple of float (L + 1,)
        ``|W^l - W^l_0| / |W^l_0|``, the last of beta.
    ntk0, ntk : numpy.ndarray (P, P), or (S, S) with ``kernel_samples`` = S
        Tangent kernel of f at initialisation and at the end.
    trace : Trace
    """

    status: str
    h: int
    alpha: float
    F: Array
    f: Array
    F_test: Array | None
    dtheta: float
    t: float
    t1: float
    dw: tuple[float, ...]
    ntk0: Array
    ntk: Array
    trace: Trace

    @property
    def zt(self) -> float:
        """``sqrt(h) alpha``, on which the kernel change depends."""
        return math.sqrt(self.h) * self.alpha

    @property
    def converged(self) -> bool:
        return self.status == "converged"

    @property
    def steps(self) -> int:
        return len(self.trace.t) - 1


class Unfinished(RuntimeError):
    """Training did not converge where a converged network is needed.

    Attributes
    ----------
    runs : tuple of Run
        The runs that did not, as far as they came.
    """

    def __init__(self, message: str, runs: tuple[Run, ...]) -> None:
        super().__init__(message)
        self.runs = runs

    def __reduce__(self) -> Any:
        return type(self), (str(self), self.runs)
