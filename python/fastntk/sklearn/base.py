"""What the four estimators share: parameters of the network, checks of rows, the choice of ``diag_reg``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ..arrays import FLOATS
from ..kernel_fn import KernelFn
from ..predict.ensemble import gradient_descent_mse_ensemble
from ..predict.evidence import CRITERIA, select_diag_reg
from ..predict.linalg import Conditioning
from .network import check_matrix, inputs_of, kernel_fn_of

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # scikit-learn before 1.6

    def validate_data(estimator: Any, *args: Any, **keywords: Any) -> Any:
        return estimator._validate_data(*args, **keywords)


Array = npt.NDArray[Any]


class InfiniteNetwork(BaseEstimator):  # type: ignore[misc]
    """Base: a subclass has the parameters of the network, ``diag_reg``, and names its kernel in ``_get``."""

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
        check_is_fitted(self)
        (found,) = self._predictor.conditioning.values()
        return found

    def _checked(self, X: Any, y: Any, **keywords: Any) -> tuple[Array, Any]:
        """Rows and targets of ``fit``; what is computed in is the dtype of X."""
        X, y = validate_data(self, X, y, dtype=FLOATS, **keywords)
        self._dtype = X.dtype
        return X, y

    def _rows(self, X: Any) -> Array:
        """Rows to predict for, as the network takes them."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=self._dtype)
        return inputs_of(type(self).__name__, X, self.input_shape)

    def _prepare(self, X: Array) -> None:
        """The network's kernel function and its inputs."""
        what = type(self).__name__
        self.kernel_fn_: KernelFn = kernel_fn_of(
            what, self.depth, self.W_std, self.b_std, self.nonlinearity, self.network
        )
        self._x = inputs_of(what, X, self.input_shape)
        check_matrix(what, self.kernel_fn_(self._x[:1], None, self._get))

    def _gram(self) -> Array:
        """The kernel of the training points."""
        found: Array = self.kernel_fn_(self._x, None, self._get)
        return found

    def _choose(self, targets: Array, amplitude: float | None) -> float | None:
        """Set ``diag_reg_``; the amplitude that goes with it, where it was chosen with it."""
        if not isinstance(self.diag_reg, str):
            self.diag_reg_ = self.diag_reg
            return amplitude
        if self.diag_reg not in CRITERIA:
            raise ValueError(
                f"[{type(self).__name__}] diag_reg must be a number, 'leave_one_out' or 'evidence', "
                f"given {self.diag_reg!r}"
            )
        chosen = select_diag_reg(self._gram(), targets, criterion=self.diag_reg, amplitude=amplitude)
        self.diag_reg_ = chosen.diag_reg
        return chosen.amplitude

    def _train(self, targets: Array, t: Any = None, learning_rate: float = 1.0, kernel_fn: Any = None) -> None:
        """Make the predictor, and have it factorise now."""
        kernel_fn = self.kernel_fn_ if kernel_fn is None else kernel_fn
        self._predictor = gradient_descent_mse_ensemble(kernel_fn, self._x, targets, learning_rate, self.diag_reg_)
        self._t = t
        if t is not None and np.ndim(t):
            raise ValueError(f"[{type(self).__name__}] t must be one number or None, given {t!r}")
        self._predict(self._x[:1])

    def _predict(self, x: Array, compute_cov: bool | str = False) -> Any:
        """Outputs (m, o), or a Gaussian."""
        return self._predictor(self._t, x, self._get, compute_cov)
