"""What the four estimators share: parameters of the network, checks of what is given, the choice of ``diag_reg``."""

from __future__ import annotations

from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, check_non_negative

from ..base.arraylike import refuse_masked
from ..call.kernel_fn import KernelFn
from ..predict.evidence import CRITERIA, select_diag_reg
from ..predict.linalg import Conditioning
from .network import check_matrix, inputs_of, kernel_fn_of
from .weights import Ensemble, Weights, choose

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # scikit-learn before 1.6

    def validate_data(estimator: Any, *args: Any, **keywords: Any) -> Any:
        return estimator._validate_data(*args, **keywords)


Array = npt.NDArray[Any]


# What is neither becomes the first: integers lose nothing.
DTYPES = (np.float64, np.float32)


class InfiniteNetwork(BaseEstimator):  # type: ignore[misc]
    """Base: a subclass has the parameters of the network, ``diag_reg``, and names its kernel in ``_get``.

    What ``fit`` needs later it keeps as copies, parameters too: nothing done to arrays or parameters afterwards moves
    a prediction.
    """

    _get: str

    depth: Any
    W_std: Any
    b_std: Any
    nonlinearity: Any
    network: Any
    input_shape: Any
    diag_reg: Any

    @property
    def conditioning_(self) -> Conditioning:
        """How well the factorisation in ``fit`` went."""
        self._check_fitted()
        found: Conditioning
        (found,) = self._predictor.conditioning.values()
        if self._weights is None:
            return found
        return replace(found, diag_reg=found.diag_reg * self._weights.top, jitter=found.jitter * self._weights.top)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_predictor")

    def _check_fitted(self) -> None:
        check_is_fitted(self, "_predictor")  # named, or scikit-learn lets pass what has a prior

    def _checked(self, X: Any, y: Any, sample_weight: Any, **keywords: Any) -> tuple[Array, Any]:
        """Rows and targets of ``fit`` with a weight above 0; what is computed in is the dtype of X."""
        name = type(self).__name__
        self.__dict__.pop("_predictor", None)  # a fit that fails leaves none
        for given, called in ((X, "X"), (y, "y"), (sample_weight, "sample_weight")):
            refuse_masked(given, called, name)
        X, y = validate_data(self, X, y, dtype=DTYPES, copy=True, **keywords)
        self._weights: Weights | None = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
            check_non_negative(weights, f"{name}.fit as sample_weight")
            kept = weights > 0
            if not kept.any():  # scikit-learn says so too, of late
                raise ValueError(f"[{name}] every sample_weight is 0: no points to fit are left")
            X, y, self._weights = X[kept], y[kept], Weights(weights[kept])
        self._dtype = X.dtype
        return X, y

    def _rows(self, X: Any) -> Array:
        """Rows to predict for, as the network takes them."""
        self._check_fitted()
        refuse_masked(X, "X", type(self).__name__)
        X = validate_data(self, X, reset=False, dtype=self._dtype)
        rows: Array = X.reshape(len(X), *self._x.shape[1:])
        return rows

    def _prior(self, X: Any) -> tuple[KernelFn, Array]:
        """The network before it has seen anything, and rows of X as it takes them, in their own dtype."""
        refuse_masked(X, "X", type(self).__name__)
        X = check_array(X, dtype=DTYPES, input_name="X", estimator=self)
        return self._network(X)

    def _network(self, X: Array) -> tuple[KernelFn, Array]:
        """The kernel function of the parameters, and its inputs."""
        what = type(self).__name__
        kernel_fn = kernel_fn_of(what, self.depth, self.W_std, self.b_std, self.nonlinearity, self.network)
        x = inputs_of(what, X, self.input_shape)
        check_matrix(what, kernel_fn(x[:1], None, self._get))
        return kernel_fn, x

    def _prepare(self, X: Array) -> None:
        self.kernel_fn_, self._x = self._network(X)

    def _gram(self) -> Array:
        """The kernel of the training points."""
        found: Array = self.kernel_fn_(self._x, None, self._get)
        return found

    def _choose(self, targets: Array, amplitude: float | None) -> float | None:
        """Set ``diag_reg_``; the amplitude that goes with it, where it was chosen with it."""
        what = type(self).__name__
        if isinstance(self.diag_reg, Real) and not isinstance(self.diag_reg, bool):
            if not 0 <= float(self.diag_reg) < np.inf:
                raise ValueError(f"[{what}] diag_reg must be finite and not negative, given {self.diag_reg!r}")
            self.diag_reg_ = float(self.diag_reg)
            return amplitude
        if not isinstance(self.diag_reg, str) or self.diag_reg not in CRITERIA:
            raise ValueError(
                f"[{what}] diag_reg must be a number, 'leave_one_out' or 'evidence', given {self.diag_reg!r}"
            )
        if self._weights is None:
            chosen = select_diag_reg(self._gram(), targets, criterion=self.diag_reg, amplitude=amplitude)
            self.diag_reg_ = chosen.diag_reg
            return chosen.amplitude
        self.diag_reg_, best = choose(self._gram(), targets, self.diag_reg, amplitude, self._weights, what)
        return best

    def _train(self, targets: Array, t: Any = None, learning_rate: float = 1.0, kernel_fn: Any = None) -> None:
        """Make the predictor, and have it factorise now."""
        if t is not None and not isinstance(t, Real):
            raise ValueError(f"[{type(self).__name__}] t must be one number or None, given {t!r}")
        kernel_fn = self.kernel_fn_ if kernel_fn is None else kernel_fn
        self._t = t
        predictor = Ensemble(kernel_fn, self._x, targets, learning_rate, self.diag_reg_, self._weights)
        predictor(t, self._x[:1], *self._asked())
        self._predictor = predictor

    def _asked(self, compute_cov: bool | str = False) -> tuple[str, bool | str]:
        """What the predictor is asked for."""
        return self._get, compute_cov

    def _predict(self, x: Array, compute_cov: bool | str = False) -> Any:
        """Outputs (m, o), or a Gaussian."""
        return self._predictor(self._t, x, *self._asked(compute_cov))
