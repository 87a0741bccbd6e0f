"""Classification with infinitely wide networks, as scikit-learn's estimators.

Networks learn one-hot targets less 1 / classes; the class of the largest output is the prediction. Its probability is
that of being the largest, with a temperature fitted to points that were held out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassifierMixin
from sklearn.model_selection import KFold
from sklearn.utils.multiclass import check_classification_targets

from ..predict.classify import calibrate, class_probabilities, log_class_probabilities, one_hot
from .base import InfiniteNetwork
from .weights import Ensemble, held_out

Array = npt.NDArray[Any]

_FOLDS = 5


class _Classifier(ClassifierMixin, InfiniteNetwork):  # type: ignore[misc]
    def _encoded(self, X: Any, y: Any, sample_weight: Any) -> tuple[Array, Array]:
        """Rows, and targets (n, classes)."""
        X, y = self._checked(X, y, sample_weight)
        check_classification_targets(y)
        self.classes_, self._labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"[{type(self).__name__}] at least two classes are needed, y has 1 class: {self.classes_}")
        self._cached: dict[str, float] = {}
        return X, one_hot(self._labels, len(self.classes_))

    def predict(self, X: Any) -> Array:
        """The class of the largest output.

        Parameters
        ----------
        X : array (m, d)

        Returns
        -------
        numpy.ndarray (m,) of labels as in ``classes_``
        """
        found = self._predict(self._rows(X)).argmax(axis=1)
        labels: Array = self.classes_[found]
        return labels

    def decision_function(self, X: Any) -> Array:
        """Mean outputs in units of the standard deviation of each point: as ``predict_proba`` ranks them.

        Parameters
        ----------
        X : array (m, d)

        Returns
        -------
        numpy.ndarray (m, classes), or (m,) for two: that of the second less that of the first
        """
        mean, variance = self._gaussian(X)
        # Where there is no doubt at all, what rounding leaves room for.
        units = mean / np.maximum(np.sqrt(variance), np.finfo(mean.dtype).eps * self._unit)[:, None]
        found: Array = units[:, 1] - units[:, 0] if len(self.classes_) == 2 else units
        return found

    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes, calibrated on points that were held out (``temperature_``).

        Parameters
        ----------
        X : array (m, d)

        Returns
        -------
        numpy.ndarray (m, classes)
            Rows sum to 1; columns as in ``classes_``.
        """
        return class_probabilities(*self._gaussian(X), self.temperature_)

    def predict_log_proba(self, X: Any) -> Array:
        """Logarithms of ``predict_proba``, computed as such: right where probabilities are too small to be floats.

        Parameters
        ----------
        X : array (m, d)

        Returns
        -------
        numpy.ndarray (m, classes)
            Finite; see :func:`fastntk.predict.log_class_probabilities` for how far down.
        """
        return log_class_probabilities(*self._gaussian(X), self.temperature_)

    def _gaussian(self, X: Any) -> tuple[Array, Array]:
        """Means (m, classes), and variances (m,) of the kind that the temperature was fitted with."""
        mean, variance = self._predict(self._rows(X), "diagonal")
        return mean, variance + variance.dtype.type(self._noise())

    @property
    def temperature_(self) -> float:
        """Factor of the outputs' standard deviation: see :func:`fastntk.predict.calibrate`.

        Sought from 0.01 to 100 in units of the prior's standard deviation, to a power of two: probabilities do not
        depend on the units of the kernel.
        """
        self._check_fitted()
        if "temperature" not in self._cached:
            weights = None if self._weights is None else self._weights.values
            mean, variance = self._held_out()
            # Sought about the prior's own unit, whichever it is.
            found = calibrate(mean, variance / self._unit / self._unit, self._labels, sample_weight=weights)
            self._cached["temperature"] = found / self._unit
        return self._cached["temperature"]

    @property
    def _unit(self) -> float:
        """The power of two nearest to the outputs' standard deviation under the prior."""
        if "unit" not in self._cached:
            weights = None if self._weights is None else self._weights.values
            variance = np.average(self.kernel_fn_.diagonal(self._x, self._prior_name()), weights=weights)
            self._cached["unit"] = 2.0 ** round(math.log2(variance) / 2)
        return self._cached["unit"]

    def _prior_name(self) -> str:
        """The kernel that is the outputs' variance before training."""
        return self._get

    def _noise(self) -> float:
        """Variance of a noisy target beyond that of the outputs, as held-out variances have it."""
        return self.conditioning_.diag_reg + self.conditioning_.jitter

    def _held_out(self) -> tuple[Array, Array]:
        """Means (n, classes) and variances (n,) of each training point from all others."""
        return held_out(self._gram(), self._targets, self.diag_reg_, self._weights)


class NNGPClassifier(_Classifier):
    """Exact Bayesian regression on one-hot targets with an infinitely wide network.

    Parameters
    ----------
    depth, W_std, b_std, nonlinearity, network, input_shape, diag_reg
        As for :class:`NNGPRegressor`.

    Attributes
    ----------
    classes_ : numpy.ndarray (classes,)
    kernel_fn_ : KernelFn
    diag_reg_ : float
        As given, or as chosen.
    temperature_ : float
        Of the probabilities, fitted to leave-one-out predictions. Computed when it is first asked for.
    conditioning_ : Conditioning
    n_features_in_, feature_names_in_
        As scikit-learn has them.

    Raises
    ------
    ValueError, TypeError
        As :class:`NNGPRegressor`; for one class alone.

    Warns
    -----
    IllConditionedWarning
        As :class:`NNGPRegressor`.

    Notes
    -----
    ``sample_weight``, dtypes and copies are as for :class:`NNGPRegressor`. A class whose weights are all 0 is none.
    For classes of unequal size, ``sklearn.utils.class_weight.compute_sample_weight("balanced", y)`` makes weights.

    References
    ----------
    Lee et al. (2018), arXiv:1711.00165, section 3.1 (regression on one-hot targets); Guo et al. (2017),
    arXiv:1706.04599 (temperature).

    Examples
    --------
    >>> from fastntk.sklearn import NNGPClassifier
    >>> from sklearn.datasets import load_iris
    >>> x, y = load_iris(return_X_y=True)
    >>> bool(NNGPClassifier().fit(x[::2], y[::2]).score(x[1::2], y[1::2]) > 0.9)
    True
    """

    _get = "nngp"

    def __init__(
        self, depth: int = 3, W_std: float = 2**0.5, b_std: float | None = 0.1, nonlinearity: Any = "relu",
        network: Any = None, input_shape: tuple[int, ...] | None = None, diag_reg: float | str = 1e-3,
    ) -> None:  # fmt: skip
        self.depth = depth
        self.W_std = W_std
        self.b_std = b_std
        self.nonlinearity = nonlinearity
        self.network = network
        self.input_shape = input_shape
        self.diag_reg = diag_reg

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NNGPClassifier:
        """Condition the prior on training points.

        Parameters
        ----------
        X : array (n, d)
        y : array (n,)
            Labels of any kind.
        sample_weight : array (n,), optional
            As for :class:`NNGPRegressor`; also in the likelihood that ``temperature_`` is fitted to.

        Returns
        -------
        NNGPClassifier
            Itself.
        """
        X, self._targets = self._encoded(X, y, sample_weight)
        self._prepare(X)
        self._choose(self._targets, None)
        self._train(self._targets)
        return self


class NTKClassifier(_Classifier):
    """The infinite ensemble of infinitely wide networks, trained by gradient descent on one-hot targets.

    Parameters
    ----------
    depth, W_std, b_std, nonlinearity, network, input_shape, diag_reg, t, learning_rate
        As for :class:`NTKRegressor`.

    Attributes
    ----------
    classes_ : numpy.ndarray (classes,)
    kernel_fn_ : KernelFn
    diag_reg_ : float
        As given, or as chosen.
    temperature_ : float
        Of the probabilities. Computed when it is first asked for.
    conditioning_ : Conditioning
    n_features_in_, feature_names_in_
        As scikit-learn has them.

    Raises
    ------
    ValueError, TypeError
        As :class:`NTKRegressor`; for one class alone.

    Warns
    -----
    IllConditionedWarning
        As :class:`NNGPRegressor`.

    Notes
    -----
    Probabilities after training without end: variances are those of the Gaussian process with the NTK as covariance,
    whose mean is the ensemble's and whose leave-one-out predictions are closed formulas. At finite ``t``: variances
    are the ensemble's spread, and five folds of the training points are held out one by one, equal points together.
    ``sample_weight``, dtypes and copies are as for :class:`NTKRegressor`.

    References
    ----------
    Arora et al. (2019), arXiv:1904.11955 (kernel regression on one-hot targets); He et al. (2020), arXiv:2007.05864
    (the NTK as covariance); Guo et al. (2017), arXiv:1706.04599 (temperature).

    Examples
    --------
    >>> from fastntk.sklearn import NTKClassifier
    >>> from sklearn.datasets import load_iris
    >>> x, y = load_iris(return_X_y=True)
    >>> bool(NTKClassifier(diag_reg=1e-2).fit(x[::2], y[::2]).score(x[1::2], y[1::2]) > 0.9)
    True
    """

    _get = "ntk"

    def __init__(
        self, depth: int = 3, W_std: float = 2**0.5, b_std: float | None = 0.1, nonlinearity: Any = "relu",
        network: Any = None, input_shape: tuple[int, ...] | None = None, diag_reg: float | str = 1e-3,
        t: float | None = None, learning_rate: float = 1.0,
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

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NTKClassifier:
        """Train on these points.

        Parameters
        ----------
        X : array (n, d)
        y : array (n,)
            Labels of any kind.
        sample_weight : array (n,), optional
            As for :class:`NTKRegressor`; also in the likelihood that ``temperature_`` is fitted to.

        Returns
        -------
        NTKClassifier
            Itself.
        """
        X, self._targets = self._encoded(X, y, sample_weight)
        self._prepare(X)
        self._choose(self._targets, None)
        self._learning_rate = self.learning_rate
        self._train(self._targets, self.t, self.learning_rate, _AsPrior(self.kernel_fn_) if self.t is None else None)
        return self

    def _asked(self, compute_cov: bool | str = False) -> tuple[str, bool | str]:
        return "nngp" if self._t is None else "ntk", compute_cov

    def _prior_name(self) -> str:
        return "ntk" if self._t is None else "nngp"

    def _noise(self) -> float:
        return super()._noise() if self._t is None else 0.0

    def _held_out(self) -> tuple[Array, Array]:
        if self._t is None:
            return super()._held_out()
        # By distinct rows, in an order of their own: equal points are held out together, wherever they stand.
        rows, of = np.unique(self._x.reshape(len(self._x), -1), axis=0, return_inverse=True)
        of = of.reshape(-1)  # NumPy 2.0.0 gives it another axis
        mean, variance = np.empty(self._targets.shape, self._dtype), np.empty(len(of), self._dtype)
        for points, _ in KFold(min(_FOLDS, len(rows)), shuffle=True, random_state=0).split(rows):
            kept = np.isin(of, points)
            weights = None if self._weights is None else self._weights[kept]
            fold = Ensemble(
                self.kernel_fn_, self._x[kept], self._targets[kept], self._learning_rate, self.diag_reg_, weights
            )
            mean[~kept], variance[~kept] = fold(self._t, self._x[~kept], "ntk", "diagonal")
        return mean, variance


class _AsPrior:
    """A kernel function whose NNGP is the NTK of another: the Gaussian process with the NTK as covariance."""

    def __init__(self, kernel_fn: Any) -> None:
        self._kernel_fn = kernel_fn

    def __call__(self, x1: Any, x2: Any, get: str) -> Array:
        found: Array = self._kernel_fn(x1, x2, "ntk")
        return found
