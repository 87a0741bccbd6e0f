"""Regression with infinitely wide networks, as scikit-learn's estimators."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.utils import check_array, check_random_state

from ..predict.evidence import check_amplitude
from ..predict.posterior import Gaussian, sample
from .base import InfiniteNetwork
from .weights import Weights, log_density

Array = npt.NDArray[Any]


class _Units:
    """Targets y (n, o) as they are learned, z, with ``y = 2^exponent (mean + std z)``.

    The powers of two change no digits, and let squares be taken of targets of any size. Spreads of outputs are
    ``2^spread std`` times those of z: with ``normalize`` the prior is one of z, else one of y, whose units do not
    depend on the targets, unless its amplitude is ``chosen`` for them.
    """

    def __init__(self, y: Array, normalize: bool, chosen: bool, weights: Weights | None, dtype: Any, what: str) -> None:
        size = np.abs(y).max(axis=0)
        held = size.astype(dtype)
        lost = ~np.isfinite(held) | ((held == 0) & (size > 0))
        if lost.any():
            raise ValueError(
                f"[{what}] predictions have the dtype of X, {np.dtype(dtype)}, which does not hold targets of size "
                f"{size[lost][0]:.3g}: give X as float64, or y in other units"
            )
        if not normalize:
            size = np.full_like(size, size.max())
        self.exponent = np.where(size > 0, np.frexp(size)[1], 0)
        z = np.ldexp(y, -self.exponent)
        self.mean, self.std = np.zeros(y.shape[1]), np.ones(y.shape[1])
        if normalize:
            of = None if weights is None else weights.values / weights.top
            self.mean = np.average(z, axis=0, weights=of)
            std = np.sqrt(np.average((z - self.mean) ** 2, axis=0, weights=of))
            # Of a constant, what rounding of its mean has left: nothing to learn, and no unit.
            constant = std <= 10 * np.finfo(np.float64).eps * np.abs(self.mean)
            self.std = np.where(constant, 1.0, std)
            z = np.where(constant, 0.0, (z - self.mean) / self.std)
            self.spread = np.where(constant, 0, self.exponent)
        else:
            self.spread = self.exponent if chosen else np.zeros_like(self.exponent)
        self.z = z

    @classmethod
    def of_prior(cls, dtype: Any, what: str) -> _Units:
        """Of one output without targets: those of the network."""
        return cls(np.zeros((1, 1)), False, False, None, dtype, what)

    def outputs(self, mean: Array) -> Array:
        """(m, o) in the units of y."""
        found: Array = np.ldexp(mean * self.std + self.mean, self.exponent).astype(mean.dtype)
        return found

    def spreads(self, values: Array, power: int = 1) -> Array:
        """Standard deviations or deviations (..., o), or with ``power=2`` covariances, in the units of y."""
        found: Array = np.ldexp(values * self.std**power, power * self.spread).astype(values.dtype)
        return found


class _Regressor(MultiOutputMixin, RegressorMixin, InfiniteNetwork):  # type: ignore[misc]
    """A Gaussian process before and after ``fit``; a subclass says in ``_variance`` which factor variances have."""

    normalize_y: bool

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags

    def _more_tags(self) -> dict[str, bool]:  # scikit-learn before 1.6
        return {"requires_fit": False}

    def _learn(self, X: Any, y: Any, sample_weight: Any, chosen: bool = False) -> None:
        """Rows, and targets in units of their own."""
        X, y = self._checked(X, y, sample_weight, multi_output=True, y_numeric=True)
        self._prepare(X)
        y = check_array(y, dtype=np.float64, ensure_2d=False, input_name="y", estimator=self)
        self._one_output = y.ndim == 1
        self._units = _Units(
            y.reshape(len(y), -1), self.normalize_y, chosen, self._weights, self._dtype, type(self).__name__
        )

    def _variance(self) -> float:
        """Factor of variances in the units learned in, or of the prior's before ``fit``."""
        return 1.0

    def predict(self, X: Any, return_std: bool = False, return_cov: bool = False) -> Any:
        """Mean and, where asked for, spread of the outputs: no statement on noise in the targets.

        Before ``fit`` they are those of the prior: networks at random, with mean 0 and one output.

        Parameters
        ----------
        X : array (m, d)
        return_std, return_cov : bool
            At most one of them.

        Returns
        -------
        mean : numpy.ndarray (m,) or (m, o)
        std : numpy.ndarray like mean
            With ``return_std``.
        cov : numpy.ndarray (m, m) or (m, m, o)
            With ``return_cov``.

        Raises
        ------
        ValueError
            For both at once; for rows that are not as those of ``fit``.
        """
        if return_std and return_cov:
            raise ValueError(f"[{type(self).__name__}] return_std and return_cov are not had at once")
        found, units, one = self._gaussian(X, True if return_cov else "diagonal" if return_std else False)
        if not (return_std or return_cov):
            return self._shaped(units.outputs(found), one)
        mean, covariance = self._shaped(units.outputs(found.mean), one), found.covariance
        factor = covariance.dtype.type(self._variance())
        if return_cov:
            return mean, self._shaped(units.spreads((factor * covariance)[..., None], 2), one)
        return mean, self._shaped(units.spreads(np.sqrt(factor * covariance)[..., None]), one)

    def sample_y(self, X: Any, n_samples: int = 1, random_state: Any = 0) -> Array:
        """Draw functions: outputs of ``predict``'s Gaussian, before ``fit`` of the prior's.

        Parameters
        ----------
        X : array (m, d)
        n_samples : int
        random_state : int, numpy.random.RandomState or None

        Returns
        -------
        numpy.ndarray (m, n_samples) or (m, o, n_samples)
        """
        found, units, one = self._gaussian(X, True)
        seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
        centred = Gaussian(np.zeros_like(found.mean), found.covariance, rounding=found.rounding)
        factor = found.mean.dtype.type(np.sqrt(self._variance()))
        draws = units.outputs(found.mean) + units.spreads(factor * sample(centred, n_samples, seed))
        return np.moveaxis(self._shaped(draws, one), 0, -1)

    def _gaussian(self, X: Any, compute_cov: bool | str) -> tuple[Any, _Units, bool]:
        """A mean or Gaussian (m, o), in which units it is, and whether the axis of outputs is to be dropped."""
        if hasattr(self, "_predictor"):
            return self._predict(self._rows(X), compute_cov), self._units, self._one_output
        kernel_fn, x = self._prior(X)
        mean, units = np.zeros((len(x), 1), x.dtype), _Units.of_prior(x.dtype, type(self).__name__)
        if not compute_cov:
            return mean, units, True
        covariance = kernel_fn.diagonal(x, "nngp") if compute_cov == "diagonal" else kernel_fn(x, None, "nngp")
        return Gaussian(mean, covariance), units, True

    @staticmethod
    def _shaped(values: Array, one_output: bool) -> Array:
        found: Array = values[..., 0] if one_output else values
        return found


class NNGPRegressor(_Regressor):
    """Exact Bayesian regression with an infinitely wide network: the Gaussian process of its prior.

    Parameters
    ----------
    depth : int
        Nonlinearities, a Dense layer before each; a Dense layer without bias behind all.
    W_std, b_std : float
        Standard deviations of weights and biases; None for ``b_std``: no biases.
    nonlinearity : str or stax nonlinearity
        A name of ``fastntk.dual`` ('relu', 'erf', ...), or a layer such as ``stax.LeakyRelu(0.2)``.
    network : stax layer or its kernel_fn, optional
        Another network, which takes the place of the parameters before.
    input_shape : tuple of int, optional
        Shape of one sample where it has spatial axes: rows of X, (n, 3072), are read as (n, 32, 32, 3) with
        ``input_shape=(32, 32, 3)``. Needs a ``network`` of images.
    diag_reg : float, 'leave_one_out' or 'evidence'
        Variance of noise in the targets, in units of the mean prior variance K(x, x) of the training points. A name:
        the best of a grid on the training points, see :func:`fastntk.predict.select_diag_reg`.
    amplitude : float or None
        Factor of all variances; means do not depend on it. None: the best for these targets, see
        :func:`fastntk.predict.log_marginal_likelihood`.
    normalize_y : bool
        Learn targets less their mean, divided by their standard deviation: the prior has mean 0. A constant is learned
        as 0, in the units of y.

    Attributes
    ----------
    kernel_fn_ : KernelFn
    diag_reg_, amplitude_ : float
        As given, or as chosen.
    log_marginal_likelihood_ : float
        Of the targets as they are learned, summed over outputs. Computed when it is asked for.
    conditioning_ : Conditioning
    n_features_in_, feature_names_in_
        As scikit-learn has them.

    Raises
    ------
    ValueError, TypeError
        In ``fit``: an unknown nonlinearity, ``depth`` below 1, an ``input_shape`` that does not hold a row's features,
        a ``network`` with several outputs or positions; a choice for targets that are all zero; an ``amplitude`` that
        is not positive; targets that the dtype of X does not hold, masked values; and as scikit-learn's estimators:
        NaN, wrong shapes, sparse matrices, negative weights, other feature names than in ``fit``.

    Warns
    -----
    IllConditionedWarning
        In ``fit``, when weights keep fewer than four digits, or the Gram was singular to rounding.

    Notes
    -----
    Kernels, means and variances have the dtype of X in ``fit``, float64 for integers; what is solved, is in float64.
    Targets are learned in units of their own, so that their size, 1e-300 to 1e300, changes no digits. What ``fit``
    needs later is copied: arrays and parameters changed afterwards do not move predictions.

    Before ``fit``, ``predict`` and ``sample_y`` have the prior: mean 0, covariance ``amplitude`` (None: 1) times the
    NNGP, one output.

    With ``sample_weight`` all is as with that many equal points: ``diag_reg`` is relative to the weighted mean of K(x,
    x), and of w equal points 'leave_one_out' leaves out one (of a weight below 1 all). Weights that lie further apart
    than about ``1e10 diag_reg`` are ill-conditioned, which is warned of.

    References
    ----------
    Lee et al. (2018), arXiv:1711.00165.

    Examples
    --------
    >>> import numpy as np
    >>> from fastntk.sklearn import NNGPRegressor
    >>> x = np.linspace(-1, 1, 20)[:, None]
    >>> model = NNGPRegressor(diag_reg=1e-4).fit(x, np.sin(3 * x[:, 0]))
    >>> mean, std = model.predict(x, return_std=True)
    >>> mean.shape, std.shape
    ((20,), (20,))
    """

    _get = "nngp"

    def __init__(
        self, depth: int = 3, W_std: float = 2**0.5, b_std: float | None = 0.1, nonlinearity: Any = "relu",
        network: Any = None, input_shape: tuple[int, ...] | None = None, diag_reg: float | str = 1e-3,
        amplitude: float | None = 1.0, normalize_y: bool = True,
    ) -> None:  # fmt: skip
        self.depth = depth
        self.W_std = W_std
        self.b_std = b_std
        self.nonlinearity = nonlinearity
        self.network = network
        self.input_shape = input_shape
        self.diag_reg = diag_reg
        self.amplitude = amplitude
        self.normalize_y = normalize_y

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NNGPRegressor:
        """Condition the prior on training points.

        Parameters
        ----------
        X : array (n, d)
        y : array (n,) or (n, o)
        sample_weight : array (n,), optional
            How many equal points each one counts as: its noise has the variance of ``diag_reg`` divided by it, and it
            weighs as much in the mean and deviation of ``normalize_y``. One that is 0 leaves the point out.

        Returns
        -------
        NNGPRegressor
            Itself.
        """
        check_amplitude(self.amplitude, type(self).__name__)
        self._learn(X, y, sample_weight, chosen=self.amplitude is None)
        units = self._units
        # Of the targets in the units of the prior: those of y, unless normalised. An amplitude is chosen in units that
        # squares fit into.
        octaves = 0 if self.normalize_y else int(units.exponent[0])
        self._y = units.z if self.amplitude is None else np.ldexp(units.z, octaves)
        self._octaves = octaves if self.amplitude is None else 0
        found = self._choose(self._y, self.amplitude)
        if found is None:
            found = log_density(self._gram(), self._y, self.diag_reg_, None, self._weights)[1]
        self._amplitude = float(found)
        self.amplitude_ = float(np.ldexp(found, 2 * self._octaves))
        self._train(units.z)
        return self

    def _variance(self) -> float:
        if hasattr(self, "_predictor"):
            return self._amplitude
        check_amplitude(self.amplitude, type(self).__name__)
        return 1.0 if self.amplitude is None else float(self.amplitude)

    @property
    def log_marginal_likelihood_(self) -> float:
        """Log density of the targets, as they are learned, under the prior."""
        self._check_fitted()
        value, _ = log_density(self._gram(), self._y, self.diag_reg_, self._amplitude, self._weights)
        count = len(self._y) + (0.0 if self._weights is None else self._weights.further)
        return value - float(count * self._y.shape[1] * self._octaves * np.log(2))


class NTKRegressor(_Regressor):
    """The infinite ensemble of infinitely wide networks, trained by gradient descent on the mean squared error.

    Parameters
    ----------
    depth, W_std, b_std, nonlinearity, network, input_shape, normalize_y
        As for :class:`NNGPRegressor`.
    diag_reg : float, 'leave_one_out' or 'evidence'
        Penalty on the distance of the weights from their start, in units of the mean of NTK(x, x). A name: the best of
        a grid on the training points, for training without end, see :func:`fastntk.predict.select_diag_reg`.
    t : float or None
        Training time; None: without end.
    learning_rate : float
        Time counts in units of it, and of the number of targets: an eigenvalue w of the NTK is learned up to ``exp(-w
        learning_rate t / y.size)``.

    Attributes
    ----------
    kernel_fn_ : KernelFn
    diag_reg_ : float
        As given, or as chosen.
    conditioning_ : Conditioning
    n_features_in_, feature_names_in_
        As scikit-learn has them.

    Raises
    ------
    ValueError, TypeError
        As :class:`NNGPRegressor`; for ``t`` that is negative or an array, a ``learning_rate`` that is not positive.

    Warns
    -----
    IllConditionedWarning
        As :class:`NNGPRegressor`.

    Notes
    -----
    Dtypes, units and copies are as for :class:`NNGPRegressor`. Before ``fit`` the outputs are those of networks at
    random: mean 0, the NNGP as covariance. With ``sample_weight`` networks are trained on that many equal points; time
    counts in numbers of them.

    References
    ----------
    Jacot et al. (2018), arXiv:1806.07572; Lee et al. (2019), arXiv:1902.06720.

    Examples
    --------
    >>> import numpy as np
    >>> from fastntk.sklearn import NTKRegressor
    >>> x = np.linspace(-1, 1, 20)[:, None]
    >>> bool(NTKRegressor(t=1000.0).fit(x, np.sin(3 * x[:, 0])).score(x, np.sin(3 * x[:, 0])) > 0.9)
    True
    """

    _get = "ntk"

    def __init__(
        self, depth: int = 3, W_std: float = 2**0.5, b_std: float | None = 0.1, nonlinearity: Any = "relu",
        network: Any = None, input_shape: tuple[int, ...] | None = None, diag_reg: float | str = 1e-3,
        t: float | None = None, learning_rate: float = 1.0, normalize_y: bool = True,
    ) -> None:  # fmt: skip
        self.depth = depth
        self.W_std = W_std
        self.b_std = b_std
        self.nonlinearity = nonlinearity
        self.network = network
        self.input_shape = input_shape
        self.diag_reg = diag_reg
        self.t = t
        self.learning_rate = learning_rate
        self.normalize_y = normalize_y

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NTKRegressor:
        """Train on these points.

        Parameters
        ----------
        X : array (n, d)
        y : array (n,) or (n, o)
        sample_weight : array (n,), optional
            How many equal points each one counts as, in the loss and in ``normalize_y``. One that is 0 leaves the
            point out.

        Returns
        -------
        NTKRegressor
            Itself.
        """
        self._learn(X, y, sample_weight)
        self._choose(self._units.z, None)
        self._train(self._units.z, self.t, self.learning_rate)
        return self
