"""The kernel of an infinitely wide network as scikit-learn's ``Kernel``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel
from sklearn.utils import check_array

from ..base.arraylike import refuse_masked
from ..call.kernel_fn import KernelFn
from .network import check_matrix, inputs_of, kernel_fn_of

Array = npt.NDArray[np.float64]

# Five-point differences: the step at which truncation, h^4 / 30, meets rounding of some eps in K, 3 eps / (2 h).
_STEP = 2e-3
_POINTS = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))


class InfiniteWidthKernel(Kernel):  # type: ignore[misc]
    """NNGP or NTK of an infinitely wide network, for scikit-learn's kernel methods.

    Goes into ``GaussianProcessRegressor(kernel=)``, which fits ``W_std`` and ``b_std`` by the marginal likelihood,
    ``GaussianProcessClassifier``, ``SVC(kernel=)`` and ``KernelRidge(kernel=)``; adds to and multiplies with
    scikit-learn's kernels.

    Parameters
    ----------
    get : 'nngp' or 'ntk'
    depth : int
        Nonlinearities, a Dense layer before each; a Dense layer without bias behind all.
    W_std, b_std : float
        Standard deviations of weights and biases: the hyperparameters. One that is 0, or None for ``b_std``, is not
        optimised.
    nonlinearity : str or stax nonlinearity
        A name of ``fastntk.dual`` ('relu', 'erf', ...), or a layer such as ``stax.LeakyRelu(0.2)``.
    W_std_bounds, b_std_bounds : (float, float) or 'fixed'
        Between which values they are optimised.
    network : stax layer or its kernel_fn, optional
        Another network, which takes the place of the parameters before; it has no hyperparameters.
    input_shape : tuple of int, optional
        Shape of one sample where it has spatial axes: rows of X, (n, 3072), are read as (n, 32, 32, 3) with
        ``input_shape=(32, 32, 3)``. Needs a ``network`` of images.

    Raises
    ------
    TypeError, ValueError
        When it is first used: for an unknown ``get`` or ``nonlinearity``, ``depth`` below 1, negative standard
        deviations, an ``input_shape`` that does not hold a row's features; NaN and infinity in X.

    Notes
    -----
    Everything is computed in float64, whatever the dtype of X: scikit-learn's solvers work in it.

    The gradient comes from differences over five points in log W_std and log b_std: four more kernels for each. Its
    errors are below ``1e-11 (depth + 1)`` of K's largest entry, to depth 50 and near-duplicates included.

    Examples
    --------
    >>> import numpy as np
    >>> from fastntk.sklearn import InfiniteWidthKernel
    >>> from sklearn.gaussian_process import GaussianProcessRegressor
    >>> from sklearn.gaussian_process.kernels import WhiteKernel
    >>> x = np.linspace(-1, 1, 20)[:, None]
    >>> y = np.sin(3 * x[:, 0] + 1)
    >>> kernel = InfiniteWidthKernel(depth=1, nonlinearity="erf") + WhiteKernel(1e-4, "fixed")
    >>> GaussianProcessRegressor(kernel).fit(x, y).score(x, y) > 0.99
    True
    """

    def __init__(
        self, get: str = "nngp", depth: int = 3, W_std: float = 2**0.5, b_std: float | None = 0.1,
        nonlinearity: Any = "relu", W_std_bounds: Any = (0.1, 10.0), b_std_bounds: Any = (1e-3, 10.0),
        network: Any = None, input_shape: tuple[int, ...] | None = None,
    ) -> None:  # fmt: skip
        self.get = get
        self.depth = depth
        self.W_std = W_std
        self.b_std = b_std
        self.nonlinearity = nonlinearity
        self.W_std_bounds = W_std_bounds
        self.b_std_bounds = b_std_bounds
        self.network = network
        self.input_shape = input_shape

    @property
    def hyperparameter_W_std(self) -> Hyperparameter:
        return self._hyperparameter("W_std")

    @property
    def hyperparameter_b_std(self) -> Hyperparameter:
        return self._hyperparameter("b_std")

    def _hyperparameter(self, name: str) -> Hyperparameter:
        fixed = self.network is not None or not getattr(self, name)  # theta holds logarithms
        return Hyperparameter(name, "numeric", "fixed" if fixed else getattr(self, f"{name}_bounds"))

    def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:
        """The kernel between rows of X and Y, and its gradient.

        Parameters
        ----------
        X : array (n, d)
        Y : array (m, d), optional
            None: X again, and half the work.
        eval_gradient : bool
            Only for ``Y=None``.

        Returns
        -------
        k : numpy.ndarray (n, m) float64
        gradient : numpy.ndarray (n, n, hyperparameters) float64
            With respect to ``theta``, the logarithms of the hyperparameters. Only with ``eval_gradient``.

        Raises
        ------
        ValueError
            For ``eval_gradient`` with Y; for X and Y that do not fit; as the class says.
        """
        x = self._inputs(X)
        y = None if Y is None or Y is X else self._inputs(Y)
        if not eval_gradient:
            return self._kernel(x, y, self.W_std, self.b_std)
        if Y is not None:
            raise ValueError("[InfiniteWidthKernel] eval_gradient needs Y=None")
        k = self._kernel(x, None, self.W_std, self.b_std)
        free = [h.name for h in self.hyperparameters if not h.fixed]
        gradient = np.zeros((*k.shape, len(free)))
        for index, name in enumerate(free):
            # K grows as W_std to the 2 (depth + 1), as b_std squared.
            step = _STEP / (2 * (self.depth + 1) if name == "W_std" else 2)
            for steps, weight in _POINTS:
                stds = {"W_std": self.W_std, "b_std": self.b_std}
                stds[name] = getattr(self, name) * np.exp(steps * step)
                gradient[..., index] += weight / step * self._kernel(x, None, **stds)
        return k, gradient

    def diag(self, X: Any) -> Array:
        """The kernel of each row with itself, (n,), in O(n)."""
        found: Array = self._kernel_fn(self.W_std, self.b_std).diagonal(self._inputs(X), self._get())
        return found

    def is_stationary(self) -> bool:
        """False: the kernel depends on more than X - Y."""
        return False

    def __repr__(self) -> str:
        names = ("network", "input_shape") if self.network is not None else ("depth", "W_std", "b_std", "nonlinearity")
        shown = ", ".join(f"{name}={_short(getattr(self, name))}" for name in names)
        return f"InfiniteWidthKernel(get={self.get!r}, {shown})"

    def _get(self) -> str:
        if self.get not in ("nngp", "ntk"):
            raise ValueError(f"[InfiniteWidthKernel] get must be 'nngp' or 'ntk', given {self.get!r}")
        return self.get

    def _inputs(self, x: Any) -> Array:
        refuse_masked(x, "X", "InfiniteWidthKernel")
        checked = check_array(x, dtype=np.float64, input_name="X")
        return inputs_of("InfiniteWidthKernel", checked, self.input_shape)

    def _kernel_fn(self, W_std: Any, b_std: Any) -> KernelFn:
        what = "InfiniteWidthKernel"
        return kernel_fn_of(what, self.depth, W_std, b_std, self.nonlinearity, self.network)

    def _kernel(self, x: Array, y: Array | None, W_std: Any, b_std: Any) -> Array:
        return check_matrix("InfiniteWidthKernel", self._kernel_fn(W_std, b_std)(x, y, self._get()))


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else repr(value)
