"""Gradient descent on the mean squared error, in closed form: at any time, by flow or in steps."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arraylike import describe
from ..base.door import door
from .descent import Descent
from .early import Early
from .grams import Gram, copied
from .linalg import (
    Conditioning,
    Spectrum,
    check_finite,
    given_array,
    largest_eigenvalue,
    namespace,
    product,
    solve_dtype_of,
)
from .targets import Targets, start_of, targets_of
from .units import in_columns, restored

Array = npt.NDArray[Any]


@door
class MsePredictor:
    """What :func:`gradient_descent_mse` returns; see there for the arguments of a call.

    Attributes
    ----------
    conditioning : Conditioning or None
        Of the factorisation used last; None before the first call.
    """

    def __init__(
        self, gram: Gram, y: Array, targets: Targets, descent: Descent
    ) -> None:  # fmt: skip
        self._gram, self._y, self._targets, self._descent = gram, copied(y, "y_train", descent.what), targets, descent
        self.conditioning: Conditioning | None = None

    def __call__(self, t: Any = None, fx_train_0: Any = 0.0, fx_test_0: Any = None, k_test_train: Any = None) -> Any:
        """Predictions at time ``t``: see :func:`gradient_descent_mse`."""
        what, targets = self._descent.what, self._targets
        if fx_train_0 is None and fx_test_0 is None:
            raise ValueError(f"[{what}] fx_train_0 and fx_test_0 are both None: nothing is to be predicted")
        if fx_test_0 is not None and k_test_train is None:
            raise ValueError(f"[{what}] fx_test_0 is given, which asks for test predictions: k_test_train is missing")
        if fx_test_0 is not None:
            k_test_train = one_kernel(k_test_train, "k_test_train", what)
        fx_train_0, fx_test_0 = (
            None if fx is None else given_array(fx, name, what)
            for fx, name in ((fx_train_0, "fx_train_0"), (fx_test_0, "fx_test_0"))
        )
        of_shape = [fx for fx in (fx_train_0, fx_test_0) if fx is not None and fx.ndim]
        xp = namespace(self._y, *of_shape, None if fx_test_0 is None else k_test_train, what=what)
        times = None if t is None else self._descent.times(t)
        start = start_of(0.0 if fx_train_0 is None else fx_train_0, targets.shape, "fx_train_0", xp, what)
        error = targets.matrix(self._y).astype(np.float64) - targets.matrix(start).astype(np.float64)
        scale, error = in_columns(error, self._gram.dtype)
        cross: Array | None = None
        if fx_test_0 is not None:
            cross, rows = targets.cross(k_test_train, "k_test_train")
            check_finite(cross, "k_test_train", what)
            shape = targets.restore(np.empty((math.prod(rows), error.shape[1])), rows).shape
            start_test = start_of(fx_test_0, shape, "fx_test_0", xp, what)
        found = []
        if fx_train_0 is not None:
            found.append(self._train(times, start, error, scale))
        if cross is not None:
            weights = self._test_weights(times, error)  # (times, n, o)
            moved = weights.transpose(1, 0, 2).reshape(len(error), -1)
            change = product(cross, moved, self._gram.unit).reshape(len(cross), len(weights), -1).transpose(1, 0, 2)
            found.append(self._restored(change, scale, rows, times, start_test))
        return tuple(found) if len(found) == 2 else found[0]

    def _train(self, times: Array | None, start: Array, error: Array, scale: Array) -> Array:
        if times is None:
            self._check_endless()
            found: Array = self._y.astype(self._gram.entry)
            return found
        if (early := self._early(times)) is not None:
            return self._restored(early.learned(error), scale, self._targets.paired, times, start)
        spectrum = self._spectral()
        learned = self._descent.learned(spectrum, times.reshape(-1)).astype(self._gram.dtype)
        return self._restored(spectrum.apply(learned, error), scale, self._targets.paired, times, start)

    def _test_weights(self, times: Array | None, error: Array) -> Array:
        """(times, n, o): what the kernel between test and training points, in its unit, is multiplied by."""
        if times is None:
            self._check_endless()
            cholesky = self._gram.cholesky()
            self.conditioning = cholesky.conditioning
            solved: Array = cholesky.solve(error)[None]
            return solved
        if (early := self._early(times)) is not None:
            return early.solved(error)
        spectrum = self._spectral()
        weights = self._descent.solved(spectrum, times.reshape(-1)).astype(self._gram.dtype)
        return spectrum.apply(weights, error)

    def _restored(
        self, change: Array, scale: Array, rows: tuple[int, ...], times: Array | None, start: Array
    ) -> Array:  # fmt: skip
        lead = () if times is None else times.shape
        moved = self._targets.restore(restored(change, scale, np.float64), rows, lead)
        return restored(start + moved, 1.0, self._gram.entry)

    def _check_endless(self) -> None:
        """Steps without end need a learning rate that converges."""
        if self._descent.discrete:
            self._descent.check_rate(self._gram.largest(), endless=True)

    def _early(self, times: Array) -> Early | None:
        """Outputs at a few times, which need no spectrum."""
        found = self._gram.early(self._descent.few(times.reshape(-1), self._gram.unit))
        if found is not None:
            self.conditioning = found.conditioning
        return found

    def _spectral(self) -> Spectrum:
        spectrum = self._gram.spectrum()
        self.conditioning = spectrum.conditioning
        return spectrum


def gradient_descent_mse(
    k_train_train: Any,
    y_train: Any,
    learning_rate: float = 1.0,
    diag_reg: float = 0.0,
    diag_reg_absolute_scale: bool = False,
    trace_axes: Any = (-1,),
    *,
    discrete: bool = False,
    solve_dtype: Any = None,
) -> MsePredictor:
    """Predictions of an infinitely wide network after gradient descent on the mean squared error, in closed form.

    The loss is ``|f(X) - Y|^2 / (2 |Y|)``, ``|Y|`` the number of all targets. With the kernel Theta (the NTK of a
    network whose weights are all trained, the NNGP of one whose last layer is) and ``A = Theta + diag_reg``, after time
    t::

        f_t(X) = f_0(X) + (I - exp(-A tau)) (Y - f_0(X)),
        f_t(x) = f_0(x) + Theta(x, X) A^-1 (I - exp(-A tau)) (Y - f_0(X)),     tau = learning_rate t / |Y|.

    Parameters
    ----------
    k_train_train : numpy.ndarray or cupy.ndarray (n, n) float32 or float64
        Kernel of the training points. In general its axes are those of ``y_train`` without the trace axes, each
        twice: (n, n, h, h, w, w) for targets (n, h, w, o).
    y_train : array (n, o)
        Targets.
    learning_rate : float
    diag_reg : float
        Added to the kernel's diagonal: times the mean of the diagonal, or as it is with
        ``diag_reg_absolute_scale=True``.
    diag_reg_absolute_scale : bool
    trace_axes : int or tuple of int
        Axes of ``y_train`` along which outputs are independent, with the same kernel.
    discrete : bool
        Steps of gradient descent instead of gradient flow: t counts them, and ``exp(-A tau)`` becomes
        ``(I - learning_rate A / |Y|)^t``.
    solve_dtype : float32 or float64, optional
        What is computed in; None: float64, whatever the kernel's dtype.

    Returns
    -------
    MsePredictor
        ``predict_fn(t=None, fx_train_0=0.0, fx_test_0=None, k_test_train=None)``:

        t : None, number >= 0, or array of them
            None is infinity, by a Cholesky factorisation instead of an eigendecomposition: training outputs are then
            ``y_train`` itself, whatever ``diag_reg``. An array gives its axes to the front of the results.
            ``numpy.inf`` in it is the limit; where the kernel is singular, the pseudo-inverse. One to four times of
            flow, from 1,000 points on, take two Cholesky factorisations and some 35 solves each, where the kernel
            stands out of rounding; all else one eigendecomposition, however many times.
        fx_train_0, fx_test_0 : number or array of the outputs' shape
            Outputs at t = 0. ``fx_train_0=None``: no outputs on the training points; ``fx_test_0=None``: none on
            the test points.
        k_test_train : array (m, n)
            Kernel between test and training points; with ``fx_test_0``.

        It returns the outputs on the training points, those on the test points, or the pair of both, in the kernel's
        dtype. Kernel and targets are copied; the factorisations are made on first use and kept;
        ``predict_fn.conditioning`` tells how they went.

    Raises
    ------
    TypeError
        Arrays that are neither NumPy's nor CuPy's, or a mixture; other dtypes.
    ValueError
        Shapes that do not fit; NaN or infinity; a kernel that is not symmetric; t negative or NaN, with ``discrete``
        not an integer; ``discrete`` without end at a learning rate that does not converge; both outputs None.
    IndefiniteError
        A kernel with an eigenvalue below zero by more than rounding explains.
    OverflowError
        Steps that diverge beyond float64.

    Warns
    -----
    IllConditionedWarning
        When the predictions keep fewer than four digits, or directions were left out as rounding.
    RuntimeWarning
        ``discrete`` at a learning rate above :func:`max_learning_rate`.

    Notes
    -----
    Accuracy: errors are those of the eigendecomposition, about ``eps |Theta| |A^-1 (I - exp(-A tau))|`` relative;
    short training of a singular kernel loses nothing.

    References
    ----------
    Jacot et al. (2018), arXiv:1806.07572, section 5; Lee et al. (2019), arXiv:1902.06720, eqs. (10) and (11).
    """
    what = "gradient_descent_mse"
    y_train = given_array(y_train, "y_train", what)
    targets = targets_of(y_train, trace_axes, what)
    k = one_kernel(k_train_train, "k_train_train", what)
    namespace(k, y_train, what=what)
    matrix = targets.train(k, "k_train_train")
    descent = Descent(learning_rate, y_train.size, discrete, what)
    gram = Gram(matrix, diag_reg, diag_reg_absolute_scale, solve_dtype_of(solve_dtype, what), what)
    return MsePredictor(gram, y_train, targets, descent)


def max_learning_rate(
    ntk_train_train: Any, y_train_size: int | None = None, momentum: float = 0.0, eps: float | None = None
) -> float:
    """Largest learning rate at which gradient descent on the mean squared error converges.

    ``2 (1 + momentum) |Y| / lambda_max``, for the loss ``|f(X) - Y|^2 / (2 |Y|)``.

    Parameters
    ----------
    ntk_train_train : numpy.ndarray or cupy.ndarray (n, n) float32 or float64
        NTK of the training points, or with pairs of axes as in :func:`gradient_descent_mse`. The eigenvalue is
        computed in float64.
    y_train_size : int, optional
        ``|Y|``, the number of all targets (``y_train.size``); None: the rows of the kernel as a matrix.
    momentum : float
        In [0, 1).
    eps : float, optional
        Added to the eigenvalue, in the kernel's units. Neural Tangents adds 1e-12, which halves the bound of a kernel
        of this size; None: nothing is added, but a kernel that is zero counts as 1e-12, so that the bound is finite.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        As :func:`gradient_descent_mse`; ``y_train_size`` that is no positive integer; ``momentum`` outside [0, 1);
        ``eps`` that is not positive.
    IndefiniteError
        When even the largest eigenvalue is below zero.

    References
    ----------
    Lee et al. (2019), arXiv:1902.06720, section 2; Goh (2017), "Why momentum really works", Distill.
    """
    what = "max_learning_rate"
    k = one_kernel(ntk_train_train, "ntk_train_train", what)
    namespace(k, what=what)
    matrix = Targets(tuple(k.shape[::2]), (), what).train(k, "ntk_train_train")
    if y_train_size is None:
        y_train_size = len(matrix)
    if isinstance(y_train_size, bool) or not isinstance(y_train_size, (int, np.integer)) or y_train_size < 1:
        raise ValueError(f"[{what}] y_train_size must be a positive integer or None, given {y_train_size!r}")
    if isinstance(momentum, (bool, np.bool_)) or not isinstance(momentum, Real):
        raise TypeError(f"[{what}] momentum must be a number, given {describe(momentum)}")
    if not 0 <= momentum < 1:
        raise ValueError(f"[{what}] momentum must be in [0, 1), given {momentum!r}")
    if eps is not None and (isinstance(eps, (bool, np.bool_)) or not isinstance(eps, Real)):
        raise TypeError(f"[{what}] eps must be a number or None, given {describe(eps)}")
    if eps is not None and not 0 < eps < math.inf:
        raise ValueError(f"[{what}] eps must be positive and finite, or None, given {eps!r}")
    largest = largest_eigenvalue(matrix, what)
    largest = (largest or 1e-12) if eps is None else largest + float(eps)
    return 2 * (1 + float(momentum)) * int(y_train_size) / largest


def one_kernel(k: Any, name: str, what: str) -> Any:
    """``k``, which must be an array: a Kernel or named tuple holds several.

    Raises
    ------
    TypeError
        Otherwise.
    """
    if hasattr(k, "nngp") or hasattr(k, "ntk"):
        raise TypeError(f"[{what}] {name} must be one kernel, k.ntk or k.nngp; given {describe(k)}")
    return given_array(k, name, what, real=False)
