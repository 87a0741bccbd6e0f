"""Evidence for a kernel and its noise: log marginal likelihood, leave-one-out errors, and the choice of ``diag_reg``.

The model: outputs are independent, each ``y ~ N(0, a (K + s I))``, K the kernel of the training points, s the noise in
K's units, a the amplitude, a factor of all variances. What depends on s alone is had for a whole grid of s from one
eigendecomposition. All is computed in units of the kernel and of the targets (:mod:`.units`), and does not depend on
them. What float64 cannot hold of that, such as squares of targets of 1e200, is given back infinite, or 0.

References
----------
Rasmussen and Williams (2006), Gaussian Processes for Machine Learning: eq. (2.30) log marginal likelihood, (5.10) to
(5.12) leave-one-out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arraylike import refuse_masked
from .linalg import (
    Cholesky,
    Conditioning,
    Spectrum,
    absolute_reg,
    check_gram,
    given_array,
    mean_diagonal,
    namespace,
    solve_dtype_of,
    to_host,
    warn,
    warn_of_few_digits,
)
from .mse import one_kernel
from .slopes import EvidenceGradient, LeaveOneOutGradient, evidence_gradient, leave_one_out_gradient
from .targets import Targets, targets_of
from .units import exponent, in_units, restored, shifted, unit_of

Array = npt.NDArray[Any]  # or CuPy's

# Relative to the mean of K's diagonal; the lower end is noise-free to all practical purposes.
GRID = tuple(10.0 ** np.arange(-8.0, 2.01, 0.5))
CRITERIA = ("leave_one_out", "evidence")

_ROWS = 1024  # of the eigenvectors squared in one go


class SearchWarning(UserWarning):
    """A search ended at the edge of what was tried, before it settled, or with values that nothing decides."""


@dataclass(frozen=True, eq=False)
class LogMarginalLikelihood:
    """Log density of the targets under the prior.

    Attributes
    ----------
    value : float
        Summed over the independent outputs.
    per_output : numpy.ndarray (o,), or of the lengths of the trace axes
    amplitude : float
        The factor of all variances: as given, or the best.
    conditioning : Conditioning
        Of the solve; jitter, where there was any, is part of the model whose density this is.
    gradient : EvidenceGradient or None
        Where it was asked for.
    """

    value: float
    per_output: Array
    amplitude: float
    conditioning: Conditioning
    gradient: EvidenceGradient | None = None


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """Each training point as predicted from all others.

    Attributes
    ----------
    mean : array of y_train's shape and the kernel's dtype
    variance : array of y_train's shape without its trace axes
        Of the noisy target; equal for all outputs.
    log_density : array of y_train's shape
        ``log N(y; mean, variance)``; its sum is the log predictive probability of cross-validation.
    mean_squared_error : float
        Over points and outputs.
    amplitude : float
        The factor of all variances: as given, or the best.
    conditioning : Conditioning
    gradient : LeaveOneOutGradient or None
        Where it was asked for.
    """

    mean: Array
    variance: Array
    log_density: Array
    mean_squared_error: float
    amplitude: float
    conditioning: Conditioning
    gradient: LeaveOneOutGradient | None = None


@dataclass(frozen=True, eq=False)
class DiagRegSelection:
    """The best value of a grid, and how all of them did.

    Attributes
    ----------
    diag_reg, diag_reg_absolute : float
        The choice, relative to the mean of K's diagonal and in K's units.
    amplitude : float
        The factor of all variances there: as given, or the best under the criterion.
    criterion : str
    grid : numpy.ndarray (g,)
        As given.
    mean_squared_error, log_marginal_likelihood : numpy.ndarray (g,)
        Over the grid: the leave-one-out error, and the evidence with the amplitude given or its best at each value.
    at_edge : {'', 'lower', 'upper'}
        Whether the choice is the least or the largest of several values.
    conditioning : Conditioning
        At the choice.
    """

    diag_reg: float
    diag_reg_absolute: float
    amplitude: float
    criterion: str
    grid: Array
    mean_squared_error: Array
    log_marginal_likelihood: Array
    at_edge: str
    conditioning: Conditioning


def log_marginal_likelihood(
    k_train_train: Any, y_train: Array, diag_reg: float = 0.0, diag_reg_absolute_scale: bool = False,
    trace_axes: Sequence[int] = (-1,), *, amplitude: float | None = 1.0, solve_dtype: Any = None,
    gradient: bool = False,
) -> LogMarginalLikelihood:  # fmt: skip
    """Log density of the targets under ``N(0, amplitude (K + s I))``.

    Parameters
    ----------
    k_train_train : array (n, n) float32 or float64, NumPy or CuPy
        Prior covariance K: ``.nngp`` of a network, or ``.ntk`` for the Gaussian process with the NTK in its place.
    y_train : array (n, o), or with any axes
    diag_reg : float
        Noise s, relative to the mean of K's diagonal, or in K's units with ``diag_reg_absolute_scale``.
    diag_reg_absolute_scale : bool
    trace_axes : sequence of int
        Axes of y_train along which outputs are independent.
    amplitude : float or None
        Factor of all variances, noise included. None: the one of the largest density, ``y^T (K + s I)^-1 y / (n o)``.
    solve_dtype : float32 or float64, optional
        What is computed in; None: float64, whatever the kernel's dtype.
    gradient : bool
        Also dL/dK, from the inverse of ``K + s I``, whose product with dK ``kernel_fn.vjp`` takes:
        ``kernel_fn.vjp(x, cotangents={"nngp": found.gradient.kernel})`` is the gradient in parameters and inputs.

    Returns
    -------
    LogMarginalLikelihood
        ``value`` is the number, summed over outputs.

    Raises
    ------
    TypeError
        Arrays of other libraries or dtypes; a Kernel or named tuple, which hold several kernels.
    ValueError
        Wrong shapes, NaN or infinity, a kernel that is zero or not symmetric, ``diag_reg`` negative, ``amplitude`` not
        positive; ``amplitude=None`` where all targets are zero.
    IndefiniteError
        An eigenvalue below zero by more than rounding explains.

    Warns
    -----
    IllConditionedWarning
        Jitter was added, or fewer than four digits are left; ``conditioning`` has the figures.

    Notes
    -----
    Per output ``-y^T A^-1 y / (2 a) - log det(a A) / 2 - (n / 2) log 2 pi`` with ``A = K + s I``: Rasmussen and
    Williams (2006), eq. (2.30). Relative accuracy: about n eps times the condition number in the first term.
    """
    what = "log_marginal_likelihood"
    given = Problem.check(k_train_train, y_train, trace_axes, solve_dtype, what)
    check_amplitude(amplitude, what)
    if amplitude is None:
        check_nonzero(given.y, what)
    factor = given.cholesky(diag_reg, diag_reg_absolute_scale, what)
    solution = factor.solve(given.y)
    squares = to_host((given.y * solution).sum(axis=0, dtype=np.float64))
    n = len(given.y)
    a = given.amplitude(amplitude, factor.unit, squares.mean() / n)
    per_output = -0.5 * (a.divide(squares) + factor.log_det() + n * a.log_two_pi_unit())
    value = float(per_output.sum())
    slopes = None
    if gradient:
        slopes = evidence_gradient(given.k, factor, solution, a.divide, diag_reg, diag_reg_absolute_scale)
    return LogMarginalLikelihood(
        value, per_output.reshape(given.targets.traced), float(a.value), factor.conditioning, slopes
    )


def leave_one_out(
    k_train_train: Any, y_train: Array, diag_reg: float = 0.0, diag_reg_absolute_scale: bool = False,
    trace_axes: Sequence[int] = (-1,), *, amplitude: float | None = 1.0, solve_dtype: Any = None,
    gradient: bool = False,
) -> LeaveOneOut:  # fmt: skip
    """Predict each training point from all others, in closed form from one factorisation.

    Parameters
    ----------
    k_train_train, y_train, diag_reg, diag_reg_absolute_scale, trace_axes, solve_dtype
        As for :func:`log_marginal_likelihood`. The noise s stays in K's units the same for every point left out.
    amplitude : float or None
        Factor of all variances. None: the one of the largest sum of ``log_density``, the mean of squared errors by
        variances.
    gradient : bool
        Also the derivatives of the sum of ``log_density`` and of ``mean_squared_error`` in the kernel.

    Returns
    -------
    LeaveOneOut

    Raises
    ------
    As :func:`log_marginal_likelihood`.

    Notes
    -----
    ``mean_i = y_i - [A^-1 y]_i / [A^-1]_ii``, ``variance_i = 1 / [A^-1]_ii`` with ``A = K + s I``: Rasmussen and
    Williams (2006), eq. (5.12); ``log_density`` is their (5.10).
    """
    what = "leave_one_out"
    given = Problem.check(k_train_train, y_train, trace_axes, solve_dtype, what)
    check_amplitude(amplitude, what)
    if amplitude is None:
        check_nonzero(given.y, what)
    factor = given.cholesky(diag_reg, diag_reg_absolute_scale, what)
    variance = 1 / factor.inverse_diagonal()
    solution = factor.solve(given.y)
    error = solution * variance[:, None]
    squares = error * error / variance[:, None]
    a = given.amplitude(amplitude, factor.unit, float(squares.mean(dtype=np.float64)))
    log_density = -0.5 * (a.divide(squares) + a.log_two_pi_unit() + given.xp.log(variance)[:, None])
    slopes = None
    if gradient:
        squared = 2 * exponent(given.scale)
        slopes = leave_one_out_gradient(given.k, factor, solution, a.divide, squared, diag_reg, diag_reg_absolute_scale)
    targets, dtype = given.targets, given.k.dtype
    paired = targets.paired
    return LeaveOneOut(
        targets.restore(restored(given.y - error, given.scale, dtype), paired),
        restored(a.times(variance), 1.0, dtype).reshape(paired),
        targets.restore(restored(log_density, 1.0, dtype), paired),
        float(shifted(float((error * error).mean(dtype=np.float64)), 2 * exponent(given.scale))),
        float(a.value),
        factor.conditioning,
        slopes,
    )


def select_diag_reg(
    k_train_train: Any, y_train: Array, grid: Sequence[float] | None = None, criterion: str = "leave_one_out",
    diag_reg_absolute_scale: bool = False, trace_axes: Sequence[int] = (-1,), *, amplitude: float | None = None,
    solve_dtype: Any = None,
) -> DiagRegSelection:  # fmt: skip
    """Choose ``diag_reg`` on the training points: one eigendecomposition for the whole grid.

    Parameters
    ----------
    k_train_train, y_train, trace_axes, solve_dtype
        As for :func:`log_marginal_likelihood`.
    grid : sequence of positive float, optional
        Values to try. None: 1e-8 to 100 in half decades.
    criterion : {'leave_one_out', 'evidence'}
        Least leave-one-out mean squared error, which no amplitude changes, or largest log marginal likelihood.
    diag_reg_absolute_scale : bool
        Whether ``grid`` is in K's units.
    amplitude : float or None
        Factor of all variances. None: the best at each value, in closed form.

    Returns
    -------
    DiagRegSelection

    Raises
    ------
    ValueError
        A grid that is empty or holds values that are not positive, an unknown criterion, targets that are all zero;
        and as :func:`log_marginal_likelihood`.
    TypeError, IndefiniteError
        As :func:`log_marginal_likelihood`.

    Warns
    -----
    SearchWarning
        The best value is the least or largest of the grid.
    IllConditionedWarning
        Solutions at the best value keep fewer than four digits.

    Notes
    -----
    Eigenvalues that are rounding (``conditioning.effective_rank``) count as zero, so that every value of the grid can
    be had.
    """
    what = "select_diag_reg"
    given = Problem.check(k_train_train, y_train, trace_axes, solve_dtype, what)
    check_amplitude(amplitude, what)
    if criterion not in CRITERIA:
        raise ValueError(f"[{what}] criterion must be one of {', '.join(CRITERIA)}, given {criterion!r}")
    values = _check_grid(grid, what)
    check_nonzero(given.y, what)
    mean = given.mean_diagonal(what)
    noises = given.noises(values, diag_reg_absolute_scale, "grid", what)
    spectral = given.spectral(what)
    evidence, amplitudes = spectral(noises, amplitude)
    errors, squares = _leave_one_out_on_grid(spectral.spectrum, given.y, noises, given.xp)
    best = int(np.argmin(errors)) if criterion == "leave_one_out" else spectral.best(noises, evidence)
    if amplitude is None and criterion == "leave_one_out":
        amplitudes = given.amplitude(None, given.unit, squares)
    absolute = float(values[best]) if diag_reg_absolute_scale else float(values[best]) * mean
    conditioning = spectral.spectrum.shifted(absolute)
    warn_of_few_digits(conditioning, float(np.finfo(given.dtype).eps), what)
    at_edge = _edge(values, best)
    if at_edge:
        warn(f"[{what}] the best diag_reg, {values[best]:.3g}, is the grid's {at_edge} end", SearchWarning)
    return DiagRegSelection(
        float(values[best]) / mean if diag_reg_absolute_scale else float(values[best]),
        absolute,
        float(np.broadcast_to(amplitudes.value, values.shape)[best]),
        criterion,
        values,
        shifted(errors, 2 * exponent(given.scale)),
        evidence + spectral.of_units,
        at_edge,
        conditioning,
    )


# ---------------------------------------------------------------- what fit uses too


@dataclass(frozen=True, eq=False)
class Amplitude:
    """The factor of all variances, as ``mantissa 2^power`` in the units of a kernel and of squared targets.

    ``units`` is the power of these units, those of the targets squared by those of the kernel; ``squared`` that of the
    former alone. A number of float64 need not hold the product.
    """

    mantissa: Any  # a number, or one for each noise
    power: int
    units: int
    squared: int

    @property
    def value(self) -> Any:
        """In the caller's units."""
        return shifted(self.mantissa, self.power + self.units)

    def log_two_pi(self) -> Any:
        """``log(2 pi a)``."""
        return np.log(2 * np.pi) + np.log(self.mantissa) + self.power * np.log(2)

    def log_two_pi_unit(self) -> Any:
        """``log(2 pi a unit)`` in the caller's units, ``unit`` that of the kernel."""
        return np.log(2 * np.pi) + np.log(self.mantissa) + (self.power + self.squared) * np.log(2)

    def divide(self, x: Any) -> Any:
        """x / a."""
        return shifted(x / self.mantissa, -self.power)

    def times(self, x: Any) -> Any:
        """a x in the caller's units of squared targets, for x in the kernel's units."""
        return shifted(self.mantissa * x.astype(np.float64), self.power + self.squared)


@dataclass(frozen=True, eq=False)
class Problem:
    """A kernel and targets as checked matrices: k (n, n) as given, y (n, o) in units of ``scale``, for the solve.

    ``unit`` is the kernel's, where no noise exceeds it.
    """

    xp: Any
    k: Array
    y: Array
    targets: Targets
    dtype: np.dtype[Any]
    unit: float
    scale: float

    @classmethod
    def check(cls, k: Any, y: Any, trace_axes: Any, solve_dtype: Any, what: str) -> Problem:
        """Raise TypeError or ValueError for shapes, dtypes and values that cannot be used."""
        dtype = solve_dtype_of(solve_dtype, what)
        k = one_kernel(k, "k_train_train", what)
        y = given_array(y, "y_train", what)
        targets = targets_of(y, trace_axes, what)
        xp = namespace(k, y, what=what)
        matrix = targets.train(k, "k_train_train")
        check_gram(matrix, what)
        scale = unit_of(y)
        return cls(
            xp, matrix, in_units(targets.matrix(y), scale, dtype), targets, dtype, unit_of(matrix.diagonal()), scale
        )

    def cholesky(self, diag_reg: float, absolute: bool, what: str) -> Cholesky:
        """Factor of the kernel and the noise, in units of the larger of them."""
        reg = absolute_reg(self.k, diag_reg, absolute, what)
        return Cholesky(self.k, reg, what, self.dtype, unit=unit_of(self.k.diagonal(), reg))

    def spectral(self, what: str) -> SpectralEvidence:
        return SpectralEvidence(self, Spectrum(self.k, 0.0, what, self.dtype, unit=self.unit))

    def amplitude(self, amplitude: float | None, unit: float, best: Any) -> Amplitude:
        """As given, or ``best``, had from a kernel in this unit."""
        squared = 2 * exponent(self.scale)
        units = squared - exponent(unit)
        if amplitude is None:
            return Amplitude(best, 0, units, squared)
        mantissa, power = math.frexp(amplitude)
        return Amplitude(mantissa, power - units, units, squared)

    def mean_diagonal(self, what: str) -> float:
        """Of the kernel; ValueError unless it is positive."""
        mean = mean_diagonal(self.k)
        if not mean > 0:
            raise ValueError(f"[{what}] the mean of the kernel's diagonal must be positive, it is {mean:.3g}")
        return mean

    def noises(self, values: Array, absolute: bool, name: str, what: str) -> Array:
        """Positive values of diag_reg in units of the kernel; what vanishes beside it is the least number there is."""
        mean = self.mean_diagonal(what) / self.unit
        with np.errstate(over="ignore"):
            found: Array = values / self.unit if absolute else values * mean
        if float(found.max()) > 1e300:
            raise ValueError(
                f"[{what}] {name} reaches {float(values.max()):.3g}, more than 1e300 times the mean of the kernel's "
                f"diagonal, {mean * self.unit:.3g}"
            )
        return np.maximum(found, np.finfo(np.float64).tiny)


class SpectralEvidence:
    """Log marginal likelihood as a function of the noise, on one spectrum, in the problem's units.

    ``of_units`` is to be added for the caller's; it is the same for every kernel and noise.
    """

    def __init__(self, problem: Problem, spectrum: Spectrum) -> None:
        projected = spectrum.vectors.T @ problem.y
        self.spectrum, self._problem = spectrum, problem
        self.values = to_host(spectrum.signal).astype(np.float64)
        self.power = to_host((projected * projected).sum(axis=1, dtype=np.float64))
        self.outputs = problem.y.shape[1]
        self.of_units = -len(self.values) * self.outputs * exponent(problem.scale) * float(np.log(2))

    def __call__(self, noises: Array, amplitude: float | None) -> tuple[Array, Amplitude]:
        """Evidence (g,) and amplitudes for noises (g,), all positive; ``amplitude=None``: the best at each."""
        count = len(self.values) * self.outputs
        mean = self._mean(noises)
        a = self._problem.amplitude(amplitude, self.spectrum.unit, mean)
        log_dets = np.log(self.values + noises[:, None]).sum(axis=1)
        ratio = 1.0 if amplitude is None else a.divide(mean)
        return -0.5 * (self.outputs * log_dets + count * (a.log_two_pi() + ratio)), a

    def best(self, noises: Array, evidence: Array) -> int:
        """Where the evidence is largest; where it is -inf throughout, beyond float64, where it falls most slowly."""
        if np.isfinite(evidence).any():
            return int(np.argmax(evidence))
        return int(np.argmin(self._mean(noises)))

    def _mean(self, noises: Array) -> Array:
        """``y^T (K + s)^-1 y / (n o)``."""
        found: Array = (self.power / (self.values + noises[:, None])).sum(axis=1) / (len(self.values) * self.outputs)
        return found


def check_amplitude(amplitude: Any, what: str) -> None:
    """Raise ValueError unless None or a positive number."""
    number = isinstance(amplitude, (int, float, np.integer, np.floating)) and not isinstance(amplitude, bool)
    if amplitude is not None and not (number and 0 < amplitude < np.inf):
        raise ValueError(f"[{what}] amplitude must be positive or None, given {amplitude!r}")


def check_nonzero(y: Array, what: str) -> None:
    """Raise ValueError where all targets are zero: nothing can be chosen by how well it predicts them."""
    if not bool(y.any()):
        raise ValueError(
            f"[{what}] all targets are zero: every kernel and noise predicts them, and the likelihood grows without "
            "bound as the amplitude falls to 0"
        )


def _check_grid(grid: Any, what: str) -> Array:
    refuse_masked(grid, "grid", what)
    values = np.asarray(GRID if grid is None else grid)
    if values.ndim != 1 or not values.size or values.dtype.kind not in "fiu":
        raise ValueError(f"[{what}] grid must be a sequence of positive numbers, given {grid!r}")
    values = values.astype(np.float64)
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"[{what}] grid must hold finite, positive values only, given {grid!r}")
    return values


def _edge(values: Array, best: int) -> str:
    if values.min() == values.max():
        return ""
    return {values.min(): "lower", values.max(): "upper"}.get(values[best], "")


def _leave_one_out_on_grid(spectrum: Spectrum, y: Array, noises: Array, xp: Any) -> tuple[Array, Array]:
    """Mean squared error (g,) and mean of squared errors by variances (g,)."""
    n, outputs = y.shape
    noise = xp.asarray(noises, dtype=spectrum.values.dtype)
    kept = noise / (spectrum.signal[:, None] + noise)  # (n, g): s (K + s)^-1, from 0 to 1 however small s is
    weights = (kept[:, :, None] * (spectrum.vectors.T @ y)[:, None, :]).reshape(n, -1)
    errors, scaled = np.zeros(len(noises)), np.zeros(len(noises))
    for start in range(0, n, _ROWS):
        vectors = spectrum.vectors[start : start + _ROWS]
        solution = (vectors @ weights).reshape(len(vectors), len(noises), outputs)
        error = solution / ((vectors * vectors) @ kept)[:, :, None]
        errors += to_host((error * error).sum(axis=(0, 2), dtype=np.float64))
        scaled += to_host((error * solution).sum(axis=(0, 2), dtype=np.float64))
    return errors / (n * outputs), scaled / (n * outputs) / noises
