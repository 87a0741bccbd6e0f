"""Exact inference: the Gaussian process with a network's kernel, and the ensemble of networks trained to the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..base.arraylike import describe, is_array
from ..base.door import door
from ..call.results import named
from .grams import Grams
from .linalg import (
    Conditioning,
    Spectrum,
    check_finite,
    check_floats,
    check_gram,
    given_array,
    namespace,
    solve_dtype_of,
)
from .targets import Targets, targets_of
from .tiles import BUDGET, Found, Prediction, predict_tiles
from .units import unit_of

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
    found: Found, targets: Targets, rows: tuple[int, ...], lead: tuple[int, ...] | None,
    conditioning: Conditioning | None,
) -> Any:  # fmt: skip
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
    several = hasattr(k, "nngp") or hasattr(k, "ntk")
    return not several and (is_array(k) or (hasattr(k, "dtype") and hasattr(k, "ndim")))


def _field(k: Any, name: str, given: str, what: str) -> Any:
    """The kernel ``name`` of an array (itself), a Kernel or a named tuple."""
    if _is_array(k):
        return k
    if not hasattr(k, "nngp") and not hasattr(k, "ntk"):
        raise TypeError(f"[{what}] {given} must be an array, a Kernel or a named tuple of kernels; given {describe(k)}")
    found = getattr(k, name, None)
    if found is None:
        raise ValueError(_lacks(name, given, describe(k), what))
    return found


def _lacks(name: str, given: str, kind: str, what: str) -> str:
    return f"[{what}] {given} lacks {name!r}, which this prediction needs; it is {kind}"


@door
class GPPredictor:
    """What :func:`gp_inference` returns; see there for the arguments of a call.

    ``single``: one array is taken for whichever kernel is asked for.
    """

    def __init__(self, grams: Grams, single: bool, given: str) -> None:
        self._grams, self._single, self._given = grams, single, given

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
            if len(needed) == 2 and (self._single or _is_array(k_test_train)):
                raise ValueError(
                    f"[{grams.what}] the covariance of 'ntk' needs both kernels of k_train_train and k_test_train: "
                    "give Kernels or named tuples with nngp and ntk"
                )
            for name in needed - set(cross):
                self._need(name)
                cross[name], rows = self._cross(k_test_train, name, rows)
            assert rows is not None
            if k_test_test is not None and start not in prior:
                prior[start] = self._prior(k_test_test, start, rows)
            predictions[g] = grams.endless(g, k_test_test is not None)
        assert rows is not None
        covariance = None if not prior else "full" if next(iter(prior.values())).ndim == 2 else "diagonal"
        entry = np.result_type(*(grams[p.kernel].entry for p in predictions.values()))
        source = _Given(cross, prior, math.prod(rows))
        tiles = predict_tiles(source, predictions, covariance, entry, grams.dtype, grams.units(), BUDGET, grams.what)
        found = {}
        for g, tile in tiles.items():
            conditioning = grams[predictions[g].kernel].cholesky().conditioning
            found[g] = result(tile, grams.targets, rows, None, conditioning)
        return by_get(get, found)

    def _need(self, name: str) -> None:
        if name not in self._grams:
            raise ValueError(_lacks(name, "k_train_train", self._given, self._grams.what))

    def _cross(self, k: Any, name: str, rows: tuple[int, ...] | None) -> tuple[Array, tuple[int, ...]]:
        """A kernel between test and training points as a matrix, and the lengths of its test axes."""
        what = self._grams.what
        given = given_array(_field(k, name, "k_test_train", what), "k_test_train", what, real=False)
        namespace(self._grams.y, given, what=what)
        found, have = self._grams.targets.cross(given, "k_test_train")
        check_finite(found, "k_test_train", what)
        if rows not in (None, have):
            raise ValueError(f"[{what}] k_test_train holds kernels of {rows} and of {have} test rows")
        return found, have

    def _prior(self, k: Any, name: str, rows: tuple[int, ...]) -> Array:
        """The prior's covariances of the test points as a matrix, or their variances as a vector."""
        found: Array
        targets = self._grams.targets
        given = given_array(_field(k, name, "k_test_test", targets.what), "k_test_test", targets.what, real=False)
        namespace(self._grams.y, given, what=targets.what)
        if given.ndim == len(rows):
            check_floats(given, "k_test_test", targets.what)
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
        self._need(kernel)
        entry, rows = grams[kernel].entry, grams.targets.paired
        mean = grams.y.astype(entry)
        if k_test_test is None:
            return mean
        vector = _is_array(k_test_test) and np.ndim(k_test_test) == len(rows)
        shape = rows if vector else tuple(n for n in rows for _ in range(2))
        return Gaussian(mean, namespace(mean, what=grams.what).zeros(shape, entry))


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

        A name gives one result, a tuple a named tuple ``Gaussians``; in the kernels' dtype. Kernels and targets are
        copied; the factorisations are made on first use, in the place of the copies, and kept;
        ``predict_fn.conditioning`` tells how they went, by kernel.

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
    y_train = given_array(y_train, "y_train", what)
    targets = targets_of(y_train, trace_axes, what)
    grams = Grams(targets, y_train, diag_reg, diag_reg_absolute_scale, solve_dtype_of(solve_dtype, what))
    single = _is_array(k_train_train)
    if single:
        grams.add("nngp", k_train_train, "k_train_train")
        grams.share("ntk", "nngp")
    else:
        for name in ("nngp", "ntk"):
            if getattr(k_train_train, name, None) is not None:
                grams.add(name, getattr(k_train_train, name), "k_train_train")
        if "nngp" not in grams and "ntk" not in grams:
            _field(k_train_train, "nngp", "k_train_train", what)  # says what it is instead
    return GPPredictor(grams, single, describe(k_train_train))


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
        unit = unit_of(matrix.diagonal())
        spectrum = Spectrum(matrix, 0.0, what, rounding=rounding, name="the covariance", unit=unit)
        root = spectrum.vectors * xp.sqrt(spectrum.values) * unit**0.5
        center = targets.matrix(mean[at]).astype(np.float64)
        noise = xp.asarray(rng.standard_normal((n, *center.shape)))
        draws[(slice(None), *at)] = targets.restore(center + root @ noise, targets.paired, (n,))
    return draws
