"""Regression with infinitely wide networks, as scikit-learn's estimators."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ..predict.evidence import log_marginal_likelihood
from ..predict.posterior import sample
from .base import InfiniteNetwork

Array = npt.NDArray[Any]


class _Regressor(MultiOutputMixin, RegressorMixin, InfiniteNetwork):  # type: ignore[misc]
    """Targets to zero mean and unit variance, and predictions back."""

    normalize_y: bool

    def _scaled(self, y: Any) -> Array:
        """Targets (n, o) as they are learned."""
        y = np.asarray(y, dtype=np.float64)
        self._one_output = y.ndim == 1
        y = y.reshape(len(y), -1)
        self._y_mean, self._y_std = np.zeros(y.shape[1]), np.ones(y.shape[1])
        if self.normalize_y:
            self._y_mean, std = y.mean(axis=0), y.std(axis=0)
            # Of a constant, what rounding of its mean has left.
            self._y_std = np.where(std > 10 * np.finfo(np.float64).eps * np.abs(self._y_mean), std, 1.0)
        scaled: Array = (y - self._y_mean) / self._y_std
        return scaled

    def _mean(self, mean: Array) -> Array:
        """(m,) or (m, o) in the units of y."""
        found: Array = (mean * self._y_std + self._y_mean).astype(mean.dtype)
        return found[:, 0] if self._one_output else found

    def _spread(self, values: Array, power: int) -> Array:
        """Standard deviations (m,) or covariances (m, m), the same for all outputs, in the units of y."""
        found: Array = (values[..., None] * self._y_std**power).astype(values.dtype)
        return found[..., 0] if self._one_output else found


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
        Learn targets less their mean, divided by their standard deviation: the prior has mean 0.

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
        a ``network`` with several outputs or positions; a choice for targets that are all zero; and as scikit-learn's
        estimators: NaN, wrong shapes.

    Warns
    -----
    IllConditionedWarning
        In ``fit``, when weights keep fewer than four digits, or the Gram was singular to rounding.

    Notes
    -----
    Kernels, means and variances have the dtype of X in ``fit``; what is solved, is in float64.

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

    def fit(self, X: Any, y: Any) -> NNGPRegressor:
        """Condition the prior on training points.

        Parameters
        ----------
        X : array (n, d)
        y : array (n,) or (n, o)

        Returns
        -------
        NNGPRegressor
            Itself.
        """
        X, y = self._checked(X, y, multi_output=True, y_numeric=True)
        self._prepare(X)
        self._y = self._scaled(y)
        amplitude = self._choose(self._y, self.amplitude)
        if amplitude is None:
            amplitude = log_marginal_likelihood(self._gram(), self._y, self.diag_reg_, amplitude=None).amplitude
        self.amplitude_ = amplitude
        self._train(self._y)
        return self

    def predict(self, X: Any, return_std: bool = False, return_cov: bool = False) -> Any:
        """Posterior of the network's outputs: noise in the targets is not part of it.

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
            For both at once.
        """
        if return_std and return_cov:
            raise ValueError("[NNGPRegressor] return_std and return_cov are not had at once")
        x = self._rows(X)
        if not (return_std or return_cov):
            return self._mean(self._predict(x))
        mean, covariance = self._predict(x, True if return_cov else "diagonal")
        if return_cov:
            return self._mean(mean), self._spread(self.amplitude_ * covariance, 2)
        return self._mean(mean), self._spread(np.sqrt(self.amplitude_ * covariance), 1)

    def sample_y(self, X: Any, n_samples: int = 1, random_state: Any = 0) -> Array:
        """Draw functions from the posterior.

        Parameters
        ----------
        X : array (m, d)
        n_samples : int
        random_state : int, numpy.random.RandomState or None

        Returns
        -------
        numpy.ndarray (m, n_samples) or (m, o, n_samples)
        """
        mean, covariance = gaussian = self._predict(self._rows(X), True)
        seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
        rounding = gaussian.rounding * self.amplitude_
        scaled = type(gaussian)(mean, covariance * covariance.dtype.type(self.amplitude_), rounding=rounding)
        return np.stack([self._mean(draw) for draw in sample(scaled, n_samples, seed)], axis=-1)

    @property
    def log_marginal_likelihood_(self) -> float:
        """Log density of the targets, as they are learned, under the prior."""
        check_is_fitted(self)
        return log_marginal_likelihood(self._gram(), self._y, self.diag_reg_, amplitude=self.amplitude_).value


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

    def fit(self, X: Any, y: Any) -> NTKRegressor:
        """Train on these points.

        Parameters
        ----------
        X : array (n, d)
        y : array (n,) or (n, o)

        Returns
        -------
        NTKRegressor
            Itself.
        """
        X, y = self._checked(X, y, multi_output=True, y_numeric=True)
        self._prepare(X)
        targets = self._scaled(y)
        self._choose(targets, None)
        self._train(targets, self.t, self.learning_rate)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Mean, and spread, of the networks' outputs.

        Parameters
        ----------
        X : array (m, d)
        return_std : bool

        Returns
        -------
        mean : numpy.ndarray (m,) or (m, o)
        std : numpy.ndarray like mean
            With ``return_std``: over the random starts. No statement on noise in the targets.
        """
        x = self._rows(X)
        if not return_std:
            return self._mean(self._predict(x))
        mean, variance = self._predict(x, "diagonal")
        return self._mean(mean), self._spread(np.sqrt(variance), 1)
