"""Exact inference: the Gaussian process with a network's kernel, and the ensemble of networks trained to the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..arrays import describe
from ..door import door
from ..results import named
from .linalg import (
    Cholesky,
    Conditioning,
    Spectrum,
    absolute_reg,
    check_finite,
    check_gram,
    namespace,
    solve_dtype_of,
)
from .targets import Targets, targets_of
from .tiles import BUDGET, Found, Prediction, Solved, predict_tiles

Array = npt.NDArray[Any]


class _Moments(NamedTuple):
    mean: Any
    covariance: Any


class Gaussian(_Moments):
    """Mean and covariance of predictions; unpacks as ``mean, covariance = gaussian``.

    Attributes
    ----------
    mean : array (m, o)
        Of the outputs; axes of times before.
    covariance : array (m, m), or (m,) where variances alone were asked for
        Between test points, the same for each output and independent between outputs; axes of times before. Exactly
        symmetric; variances are never below zero.
    conditioning : Conditioning or None
        How the factorisation behind it went.
    rounding : float
        A bound on the rounding of the covariance's entries, in its units.
    """

    conditioning: Conditioning | None
    rounding: float

    def __new__(
        cls, mean: Any, covariance: Any, *, conditioning: Conditioning | None = None, rounding: float = 0.0
    ) -> Gaussian:  # fmt: skip
        self = super().__new__(cls, mean, covariance)
        self.conditioning, self.rounding = conditioning, rounding
        return self


def names_of(get: Any, known: Sequence[str], what: str) -> tuple[str, ...]:
    """``get`` as names; None means NNGP and NTK.

    Raises
    ------
    TypeError, ValueError
        Not a name or a tuple of names; unknown, repeated or none.
    """
    names = ("nngp", "ntk") if get is None else (get,) if isinstance(get, str) else get
    if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"[{what}] get must be a name, a tuple of names or None, given {get!r}")
    found = tuple(name.lower() for name in names)
    if not found or len(set(found)) < len(found) or set(found) - set(known):
        raise ValueError(f"[{what}] get must be one of {tuple(known)}, or a tuple of different ones; given {get!r}")
    return found


def by_get(get: Any, found: dict[str, Any]) -> Any:
    """What was asked for: one result for a name, else a named tuple."""
    return next(iter(found.values())) if isinstance(get, str) else named(tuple(found), "Gaussians")(*found.values())


def result(
    found: Found, targets: Targets, rows: tuple[int, ...], lead: tuple[int, ...] | None, conditioning: Conditioning
) -> Any:
    """A mean, or a Gaussian, in the axes of the targets; ``lead`` are those of time, None: a single one to drop."""

    def shaped(values: Array) -> Array:
        return values[0] if lead is None else values.reshape(*lead, *values.shape[1:])

    axes = () if lead is None else lead
    mean = targets.restore(shaped(found.mean), rows, axes)
    if found.covariance is None:
        return mean
    covariance = shaped(found.covariance)
    if found.covariance.ndim == 2:
        covariance = covariance.reshape(*axes, *rows)
    else:
        covariance = targets.zipped(covariance, rows, rows, axes)
    return Gaussian(mean, covariance, conditioning=conditioning, rounding=found.rounding)


class Grams:
    """The kernels of the training points, their Cholesky factors and the targets, all made once.

    Parameters
    ----------
    targets, y : Targets, array
    diag_reg, absolute : float, bool
        As given by the user.
    dtype : numpy.dtype
        What is computed in.
    """

    def __init__(self, targets: Targets, y: Array, diag_reg: float, absolute: bool, dtype: np.dtype[Any]) -> None:
        self.targets, self.y, self.dtype, self.what = targets, y, dtype, targets.what
        self.matrix = targets.matrix(y).astype(dtype)
        self._diag_reg, self._absolute = diag_reg, absolute
        self._kernels: dict[str, Array] = {}
        self._regs: dict[str, float] = {}
        self._entries: dict[str, np.dtype[Any]] = {}
        self._own: set[str] = set()
        self._cholesky: dict[str, Cholesky] = {}
        self._spectra: dict[str, Spectrum] = {}
        self._weights: dict[str, Array] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> Array:
        if name not in self._kernels:
            self._kernels[name] = self._cholesky[name].kernel()
        return self._kernels[name]

    def add(self, name: str, k: Array, given: str, own: bool = False) -> None:
        """Take a kernel of the training points, called ``given`` in messages; ``own``: nobody else has the array."""
        namespace(k, self.y, what=self.what)
        matrix = self.targets.train(k, given)
        check_gram(matrix, self.what)
        self._kernels[name], self._entries[name] = matrix, matrix.dtype
        if own and isinstance(matrix, np.ndarray) and matrix.dtype == self.dtype and matrix.flags.c_contiguous:
            self._own.add(name)

    def entry(self, name: str) -> np.dtype[Any]:
        """The dtype of the kernel given."""
        return self._entries[name]

    def reg(self, name: str) -> float:
        """What is added to the diagonal."""
        if name not in self._regs:
            self._regs[name] = absolute_reg(self[name], self._diag_reg, self._absolute, self.what)
        return self._regs[name]

    def cholesky(self, name: str) -> Cholesky:
        if name not in self._cholesky:
            k, reg, own, entry = self[name], self.reg(name), name in self._own, self.entry(name)
            if own:  # factor and kernel share the array, which nobody may ask for while it is neither
                del self._kernels[name], self._entries[name]
            self._cholesky[name] = Cholesky(k, reg, self.what, self.dtype, overwrite=own)
            self._entries[name] = entry
        return self._cholesky[name]

    def spectrum(self, name: str) -> Spectrum:
        if name not in self._spectra:
            self._spectra[name] = Spectrum(self[name], self.reg(name), self.what, self.dtype)
        return self._spectra[name]

    def weights(self, name: str) -> Array:
        """``(K + diag_reg)^-1 Y``, (n, o)."""
        if name not in self._weights:
            self._weights[name] = self.cholesky(name).solve(self.matrix)
        return self._weights[name]

    def conditioning(self) -> dict[str, Conditioning]:
        """Of the factorisations made so far, by kernel; of Cholesky where there are two."""
        found = {name: spectrum.conditioning for name, spectrum in self._spectra.items()}
        return found | {name: cholesky.conditioning for name, cholesky in self._cholesky.items()}

    def endless(self, g: str, covariance: bool) -> Prediction:
        """The prediction 'nngp', 'ntk' or 'ntkgp' after training without end, or of exact inference."""
        kernel = "nngp" if g == "nngp" else "ntk"
        prior = "ntk" if g == "ntkgp" else "nngp"
        other = self["nngp"] if g == "ntk" and covariance else None
        response = Solved(self.cholesky(kernel))
        return Prediction(kernel, prior if covariance else kernel, self.weights(kernel)[None], response, other)


class _Given:
    """Kernels of test points that the user has: a :class:`~fastntk.predict.tiles.Source`."""

    unit = 1

    def __init__(self, cross: dict[str, Array], prior: dict[str, Array], rows: int) -> None:
        self._cross, self._prior, self.rows = cross, prior, rows

    def cross(self, start: int, stop: int) -> dict[str, Array]:
        return {name: k[start:stop] for name, k in self._cross.items()}

    def prior(self, name: str, start: int, stop: int, first: int, last: int) -> Array:
        return self._prior[name][start:stop, first:last]

    def variances(self, name: str, start: int, stop: int) -> Array:
        return self._prior[name][start:stop]


def _is_array(k: Any) -> bool:
    return hasattr(k, "dtype") and hasattr(k, "ndim")


def _field(k: Any, name: str, given: str, what: str) -> Any:
    """The kernel ``name`` of an array (itself), a Kernel or a named tuple."""
    if _is_array(k):
        return k
    if not hasattr(k, "nngp") and not hasattr(k, "ntk"):
        raise TypeError(f"[{what}] {given} must be an array, a Kernel or a named tuple of kernels; given {describe(k)}")
    found = getattr(k, name, None)
    if found is None:
        raise ValueError(f"[{what}] {given} lacks {name!r}, which this prediction needs; it is {describe(k)}")
    return found


@door
class GPPredictor:
    """What :func:`gp_inference` returns; see there for the arguments of a call."""

    def __init__(self, k: Any, grams: Grams) -> None:
        self._k, self._grams = k, grams

    @property
    def conditioning(self) -> dict[str, Conditioning]:
        """How the factorisations made so far went, by kernel."""
        return self._grams.conditioning()

    def __call__(self, get: Any = None, k_test_train: Any = None, k_test_test: Any = None) -> Any:
        """Posterior: see :func:`gp_inference`."""
        grams = self._grams
        names = names_of(get, ("nngp", "ntk", "ntkgp"), grams.what)
        if k_test_train is None:
            return by_get(get, {g: self._train(g, k_test_test) for g in names})
        predictions: dict[str, Prediction] = {}
        cross: dict[str, Array] = {}
        prior: dict[str, Array] = {}
        rows: tuple[int, ...] | None = None
        for g in names:
            kernel, start = "nngp" if g == "nngp" else "ntk", "ntk" if g == "ntkgp" else "nngp"
            needed = {kernel} if k_test_test is None else {kernel, start}
            if len(needed) == 2 and (_is_array(self._k) or _is_array(k_test_train)):
                raise ValueError(
                    f"[{grams.what}] the covariance of 'ntk' needs both kernels of k_train_train and k_test_train: "
                    "give Kernels or named tuples with nngp and ntk"
                )
            for name in needed - set(cross):
                self._add(name)
                cross[name], rows = self._cross(k_test_train, name, rows)
            assert rows is not None
            if k_test_test is not None and start not in prior:
                prior[start] = self._prior(k_test_test, start, rows)
            predictions[g] = grams.endless(g, k_test_test is not None)
        assert rows is not None
        covariance = None if not prior else "full" if next(iter(prior.values())).ndim == 2 else "diagonal"
        entry = np.result_type(*(grams[p.kernel].dtype for p in predictions.values()))
        source = _Given(cross, prior, math.prod(rows))
        tiles = predict_tiles(source, predictions, covariance, entry, grams.dtype, BUDGET, grams.what)
        found = {}
        for g, tile in tiles.items():
            conditioning = grams.cholesky(predictions[g].kernel).conditioning
            found[g] = result(tile, grams.targets, rows, None, conditioning)
        return by_get(get, found)

    def _add(self, name: str) -> None:
        if name not in self._grams:
            self._grams.add(name, _field(self._k, name, "k_train_train", self._grams.what), "k_train_train")

    def _cross(self, k: Any, name: str, rows: tuple[int, ...] | None) -> tuple[Array, tuple[int, ...]]:
        """A kernel between test and training points as a matrix, and the lengths of its test axes."""
        given, what = _field(k, name, "k_test_train", self._grams.what), self._grams.what
        namespace(self._grams.y, given, what=what)
        found, have = self._grams.targets.cross(given, "k_test_train")
        check_finite(found, "k_test_train", what)
        if rows not in (None, have):
            raise ValueError(f"[{what}] k_test_train holds kernels of {rows} and of {have} test rows")
        return found, have

    def _prior(self, k: Any, name: str, rows: tuple[int, ...]) -> Array:
        """The prior's covariances of the test points as a matrix, or their variances as a vector."""
        found: Array
        given, targets = _field(k, name, "k_test_test", self._grams.what), self._grams.targets
        namespace(self._grams.y, given, what=targets.what)
        if given.ndim == len(rows):
            found, have = given.reshape(-1), [tuple(given.shape)]
        else:
            found, *have = targets.kernel(given, "k_test_test")
        if any(shape != rows for shape in have):
            raise ValueError(f"[{targets.what}] k_test_test has shape {given.shape}, k_test_train has {rows} test rows")
        check_finite(found, "k_test_test", targets.what)
        if found.ndim == 2 and found.size:
            check_gram(found, targets.what, "k_test_test")
        return found

    def _train(self, g: str, k_test_test: Any) -> Any:
        """Training outputs are the targets, without variance."""
        grams, kernel = self._grams, "nngp" if g == "nngp" else "ntk"
        self._add(kernel)
        k = _field(self._k, kernel, "k_train_train", grams.what)
        mean = grams.y.astype(k.dtype)
        if k_test_test is None:
            return mean
        xp = namespace(k, what=grams.what)
        vector = _is_array(k_test_test) and k_test_test.ndim == k.ndim // 2
        return Gaussian(mean, xp.zeros(k.shape[::2] if vector else k.shape, k.dtype))


def gp_inference(
    k_train_train: Any,
    y_train: Any,
    diag_reg: float = 0.0,
    diag_reg_absolute_scale: bool = False,
    trace_axes: Any = (-1,),
    *,
    solve_dtype: Any = None,
) -> GPPredictor:
    """Mean and covariance of the outputs of an infinitely wide network, given the training data.

    With ``A`` the kernel of the training points X and ``diag_reg``, at test points x:

    - ``'nngp'``: exact Bayesian inference with the network's prior. mean ``K_xX A^-1 Y``, covariance
      ``K_xx - K_xX A^-1 K_Xx``.
    - ``'ntkgp'``: the same with the NTK in the place of K.
    - ``'ntk'``: networks trained without end by gradient descent, over their random starts. mean
      ``Theta_xX A^-1 Y = B Y``, covariance ``K_xx + B K_XX B^T - B K_Xx - K_xX B^T``.

    Parameters
    ----------
    k_train_train : array (n, n), fastntk.Kernel, or named tuple with fields nngp and ntk; float32 or float64
        Kernels of the training points. An array is taken for whichever kernel is asked for. In general axes are
        those of ``y_train`` without the trace axes, each twice.
    y_train : array (n, o)
        Targets.
    diag_reg : float
        Added to the diagonal: times the mean of the diagonal, or as it is with ``diag_reg_absolute_scale=True``. As
        the variance of noise in the targets it enters ``A``, not the covariance of the outputs.
    diag_reg_absolute_scale : bool
    trace_axes : int or tuple of int
        Axes of ``y_train`` along which outputs are independent, with the same kernel.
    solve_dtype : float32 or float64, optional
        What is computed in; None: float64, whatever the kernel's dtype.

    Returns
    -------
    GPPredictor
        ``predict_fn(get=None, k_test_train=None, k_test_test=None)``:

        get : 'nngp', 'ntk', 'ntkgp', or a tuple of them
            None: ('nngp', 'ntk').
        k_test_train : as ``k_train_train``, (m, n)
            The covariance of 'ntk' needs both kernels. None: predictions on the training points, which are
            ``y_train`` with variance zero, whatever ``diag_reg`` (as in Neural Tangents; give
            ``k_test_train=k_train_train`` for what regularisation makes of them).
        k_test_test : as ``k_train_train``, (m, m), or their diagonals, (m,)
            With it the result is a :class:`Gaussian`; for diagonals, of variances alone, which take memory O(m).
            None: means alone.

        A name gives one result, a tuple a named tuple ``Gaussians``; in the kernels' dtype. The factorisations are
        made on first use and kept; ``predict_fn.conditioning`` tells how they went, by kernel.

    Raises
    ------
    TypeError
        Arrays that are neither NumPy's nor CuPy's, or a mixture; other dtypes.
    ValueError
        Shapes that do not fit; NaN or infinity; a kernel that is not symmetric, or is missing; unknown ``get``.
    IndefiniteError
        A Gram with an eigenvalue, or a posterior with a variance, below zero by more than rounding explains.

    Warns
    -----
    IllConditionedWarning
        When the weights keep fewer than four digits, or the Gram was singular to rounding and jitter was added.

    References
    ----------
    Rasmussen and Williams (2006), eqs. (2.23) and (2.24); Lee et al. (2018), arXiv:1711.00165 (nngp); Lee et al.
    (2019), arXiv:1902.06720, eq. (16) (ntk); He et al. (2020), arXiv:2007.05864 (ntkgp).
    """
    what = "gp_inference"
    targets = targets_of(y_train, trace_axes, what)
    grams = Grams(targets, y_train, diag_reg, diag_reg_absolute_scale, solve_dtype_of(solve_dtype, what))
    predictor = GPPredictor(k_train_train, grams)
    for name in ("nngp", "ntk"):
        if _is_array(k_train_train) or getattr(k_train_train, name, None) is not None:
            predictor._add(name)
            grams.reg(name)
    if "nngp" not in grams and "ntk" not in grams:
        _field(k_train_train, "nngp", "k_train_train", what)
    return predictor


def sample(gaussian: Any, n: int, rng: Any, *, trace_axes: Any = (-1,)) -> Array:
    """Draws from a Gaussian, through an eigendecomposition of its covariance.

    Parameters
    ----------
    gaussian : Gaussian, or a pair of arrays
        Mean (m, o), covariance (m, m); axes of times before, of positions in pairs, as the predictors return them.
    n : int
        Number of draws.
    rng : numpy.random.Generator or int
    trace_axes : int or tuple of int
        As given to the predictor: outputs along them are drawn independently.

    Returns
    -------
    array (n, m, o) of the mean's dtype
        Each draw has the mean's shape. Draws at different times are independent.

    Raises
    ------
    TypeError, ValueError
        Shapes that do not fit; variances in the place of covariances; NaN or infinity; ``n`` that is no integer.
    IndefiniteError
        When the covariance has an eigenvalue below zero by more than rounding explains (``gaussian.rounding``, for a
        Gaussian of this package); others below zero count as zero.
    """
    what = "sample"
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0:
        raise ValueError(f"[{what}] n must be an integer, not negative; given {n!r}")
    if not isinstance(gaussian, tuple) or len(gaussian) != 2 or not all(_is_array(part) for part in gaussian):
        raise TypeError(f"[{what}] gaussian must be a Gaussian with mean and covariance, given {describe(gaussian)}")
    mean, covariance = gaussian
    xp = namespace(mean, covariance, what=what)
    check_finite(mean, "the mean", what)
    axes = (trace_axes,) if isinstance(trace_axes, (int, np.integer)) else tuple(trace_axes)
    paired = covariance.ndim - mean.ndim + len(axes)
    lead = mean.ndim - paired - len(axes)
    if paired < 1 or lead < 0:
        hint = "; variances alone are nothing to draw from" if paired == 0 else ""
        raise ValueError(
            f"[{what}] a mean of shape {mean.shape} with trace_axes {axes} does not go with a covariance of shape "
            f"{covariance.shape}{hint}"
        )
    shape = mean.shape[lead:]
    targets = Targets(shape, tuple(axis % len(shape) for axis in axes), what)
    rng = np.random.default_rng(rng)
    draws: Array = xp.empty((n, *mean.shape), mean.dtype)
    for at in np.ndindex(mean.shape[:lead]):
        matrix = targets.train(covariance[at], "covariance")
        rounding = len(matrix) * float(getattr(gaussian, "rounding", 0.0))
        spectrum = Spectrum(matrix, 0.0, what, rounding=rounding, name="the covariance")
        root = spectrum.vectors * xp.sqrt(spectrum.values)
        center = targets.matrix(mean[at]).astype(np.float64)
        noise = xp.asarray(rng.standard_normal((n, *center.shape)))
        draws[(slice(None), *at)] = targets.restore(center + root @ noise, targets.paired, (n,))
    return draws
