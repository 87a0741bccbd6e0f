"""Gradient descent on the mean squared error as functions of the kernel's eigenvalues."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arraylike import describe, refuse_masked
from .early import MOST
from .linalg import WARN_BLURRED, WARN_DIGITS, Spectrum, namespace, to_host, warn

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Descent:
    """Gradient descent on ``|f - Y|^2 / (2 |Y|)``, seen along one eigenvector of the kernel, of eigenvalue w.

    What is left of an error after time t is ``exp(-w tau)`` of it by flow, with ``tau = learning_rate t / |Y|``, and
    ``(1 - learning_rate w / |Y|)^t`` in steps (``discrete``). An eigenvalue that is rounding counts as zero once tau
    is long enough to tell: such a direction is not learned, as in the limit t = inf of a singular kernel.
    """

    learning_rate: float
    size: int  # |Y|, the number of targets
    discrete: bool
    what: str

    def __post_init__(self) -> None:
        if not isinstance(self.learning_rate, Real) or not 0 < self.learning_rate < math.inf:
            raise ValueError(f"[{self.what}] learning_rate must be finite and positive, given {self.learning_rate!r}")
        if not isinstance(self.discrete, (bool, np.bool_)):
            raise TypeError(f"[{self.what}] discrete must be True or False, given {self.discrete!r}")

    def times(self, t: Any) -> Array:
        """``t`` as float64, of its shape.

        Raises
        ------
        TypeError, ValueError
            Not numbers; NaN, negative, or with ``discrete`` neither integers nor infinite.
        """
        refuse_masked(t, "t", self.what)
        found = np.asarray(to_host(t) if describe(t).startswith("cupy.") else t)
        if found.dtype.kind not in "fiu":
            raise TypeError(f"[{self.what}] t must be numbers or None, given {describe(t)} of dtype {found.dtype}")
        found = found.astype(np.float64)
        if not (found >= 0).all():
            raise ValueError(f"[{self.what}] t must not be negative or NaN, given {found[~(found >= 0)].flat[0]}")
        if self.discrete and not (np.isinf(found) | (found == np.floor(found))).all():
            raise ValueError(
                f"[{self.what}] t counts steps (discrete=True) and must hold integers, given "
                f"{found[found != np.floor(found)].flat[0]}"
            )
        return found

    def few(self, t: Array | None, unit: float) -> Array | None:
        """``tau`` of t (times,), for eigenvalues in this unit, where a series for each costs less than all eigenvalues.

        None: steps, no times or many, and 0 or infinity among them. It is a matter of t alone, not of what was asked
        before.
        """
        if self.discrete or t is None or not 0 < len(t) <= MOST:
            return None
        tau = self._tau(t, unit)
        return tau if bool(((tau > 0) & (tau < math.inf)).all()) else None

    def left(self, spectrum: Spectrum, t: Array) -> Array:
        """(times, n): what is left of an error, for t (times,)."""
        return self._remaining(spectrum, t)[0]

    def learned(self, spectrum: Spectrum, t: Array) -> Array:
        """(times, n): 1 - :meth:`left`, without cancellation."""
        return self._remaining(spectrum, t)[1]

    def solved(self, spectrum: Spectrum, t: Array) -> Array:
        """(times, n): :meth:`learned` divided by the eigenvalue; its limit tau at zero, 0 for what is never learned.

        Warns
        -----
        IllConditionedWarning
            When these weights carry what rounding left of small eigenvalues into predictions.
        """
        xp = namespace(spectrum.values, what=self.what)
        _, learned, settled = self._remaining(spectrum, t)
        w = spectrum.values.astype(np.float64)
        tau = xp.broadcast_to(xp.asarray(self._tau(t, spectrum.unit))[:, None], learned.shape)
        found = xp.where(w > 0, learned / xp.where(w > 0, w, 1.0), tau)
        found = self._finite(xp.where(settled, 0.0, found), t)
        # Where steps diverge, by how much is no matter of conditioning.
        weight = float(xp.where(learned <= 2, found, 0.0).max()) if found.size else 0.0
        condition = weight * float(w[-1])
        lost = condition * float(np.finfo(spectrum.values.dtype).eps)
        if weight * spectrum.rounding > WARN_BLURRED:
            lost = max(lost, weight * spectrum.rounding)
        if lost > WARN_DIGITS:
            warn(
                f"[{self.what}] the kernel of {len(w)} training points is ill-conditioned for this long a training: "
                f"eigenvalues down to {1 / condition:.2g} of the largest have been learned; predictions keep about "
                f"{max(0, int(-math.log10(lost)))} digits. diag_reg mends it"
            )
        return found

    def check_rate(self, largest: float, endless: bool, n: int = 1) -> None:
        """Look at the largest of n eigenvalues of the kernel: do steps of this length converge?

        Raises
        ------
        ValueError
            ``endless``, and there is no limit.

        Warns
        -----
        RuntimeWarning
            The learning rate is above the bound.
        """
        step = self.learning_rate * largest / self.size
        if not self.discrete or step < 2:
            return
        bound = 2 * self.size / largest
        if endless:
            raise ValueError(
                f"[{self.what}] steps at learning_rate {self.learning_rate:.6g} have no limit: the largest that "
                f"converges is below max_learning_rate = {bound:.6g}"
            )
        if step > 2 * (1 + 4 * n * float(np.finfo(np.float64).eps)):
            warn(
                f"[{self.what}] learning_rate {self.learning_rate:.6g} is above max_learning_rate = {bound:.6g}: "
                "steps of this length diverge",
                RuntimeWarning,
            )

    def _tau(self, t: Array, unit: float) -> Array:
        """For eigenvalues in this unit."""
        with np.errstate(over="ignore"):
            return np.asarray(t * (self.learning_rate / self.size) * unit)

    def _remaining(self, spectrum: Spectrum, t: Array) -> tuple[Array, Array, Array]:
        """What is left, what is learned, and where an eigenvalue counts as zero."""
        xp = namespace(spectrum.values, what=self.what)
        w = spectrum.values.astype(np.float64)
        tau = xp.asarray(self._tau(t, spectrum.unit))[:, None]
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            # 0 times infinity, of a kernel that is zero, counts as settled too.
            settled = (w <= spectrum.threshold) & ~(tau * spectrum.threshold < 1)
            if not self.discrete:
                exponent = xp.where(settled, 0.0, -w * tau)
                left, learned = xp.exp(exponent), -xp.expm1(exponent)
            else:
                self.check_rate(float(w[-1]) * spectrum.unit, bool(np.isinf(t).any()), len(w))
                steps = xp.asarray(t)[:, None]
                a = w * (self.learning_rate / self.size * spectrum.unit)
                # The logarithm of |1 - a|; a - 2 is exact where a is near 1 or 2.
                log = xp.where(a < 1, xp.log1p(-xp.minimum(a, 1.0)), xp.log1p(xp.maximum(a, 1.0) - 2))
                exponent = xp.where(settled | (steps == 0), 0.0, steps * log)
                flips = (a > 1) & (steps % 2 == 1)
                size = xp.exp(exponent)
                left = xp.where(flips, -size, size)
                learned = xp.where(flips, 1 + size, -xp.expm1(exponent))
        if settled.any():
            warn(
                f"[{self.what}] the kernel of {len(w)} training points is singular to rounding: "
                f"{int(settled.any(axis=0).sum())} of its eigenvalues count as zero, and nothing is learned along "
                "them. diag_reg mends it"
            )
        return self._finite(left, t), learned, settled

    def _finite(self, weights: Array, t: Array) -> Array:
        bad = ~np.isfinite(weights).all(axis=1)
        if bad.any():
            raise OverflowError(
                f"[{self.what}] gradient descent at learning_rate {self.learning_rate:.6g} has left float64's range "
                f"after t = {t[to_host(bad)][0]:.6g}"
            )
        return weights


def twice(t: Array) -> Array:
    """Double times: what a variance has seen of a mean's."""
    with np.errstate(over="ignore"):
        return 2 * t
