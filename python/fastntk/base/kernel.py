"""The state between two kernel functions: Neural Tangents' ``Kernel``, and the digits that its covariances lose."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .door import door

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Exact:
    """The state itself, as the backend keeps it: what rounded covariances have lost.

    ``defect`` is ``1 - rho``, or ``-(1 + rho)`` where ``rho = K(x, x') / sqrt(K(x, x) K(x', x'))`` is negative;
    ``theta`` the NTK (None: as the Kernel has it).
    """

    defect: Array  # like nngp
    theta: Array | None
    q1: Array  # like cov1, float64
    q2: Array


@door
@dataclass(frozen=True)
class Kernel:
    """Covariances of a network's outputs for two sets of inputs.

    Attributes
    ----------
    nngp, ntk : numpy.ndarray (n1, n2) or (batch, n1, n2)
        E f f' over random networks; the neural tangent kernel, or None where it is not known.
    cov1, cov2 : numpy.ndarray (n1,), (n2,), a batch axis before
        Variances K(x, x) of each input; cov2 is None where x2 is x1.
    x1_is_x2 : bool
    is_gaussian : bool
        Pre-activations, which a nonlinearity can take.
    is_input : bool
    shape1, shape2 : tuple of int
        Shapes of the finite network's outputs.
    batch_axis, channel_axis : int
    diagonal_batch, diagonal_spatial, is_reversed : bool
        Neural Tangents' layout flags: variances only; spatial axes in natural order.
    exact : Exact or None
        Carried on so that networks composed by kernels lose no digits. It counts where it agrees with the arrays
        above to their rounding: entries that were changed, by :meth:`replace`, by ``dataclasses.replace`` or in place,
        are taken as they are. None: the next kernel function starts from the covariances.
    """

    nngp: Array
    ntk: Array | None
    cov1: Array
    cov2: Array | None
    x1_is_x2: bool
    is_gaussian: bool
    is_input: bool
    shape1: tuple[int, ...]
    shape2: tuple[int, ...]
    batch_axis: int = 0
    channel_axis: int = -1
    diagonal_batch: bool = True
    diagonal_spatial: bool = False
    is_reversed: bool = False
    exact: Exact | None = None

    def replace(self, **changes: Any) -> Kernel:
        """A copy with fields changed, as ``dataclasses.replace`` makes it."""
        return dataclasses.replace(self, **changes)

    def asdict(self) -> dict[str, Any]:
        """Fields by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def astuple(self) -> tuple[Any, ...]:
        """Fields in order."""
        return tuple(self.asdict().values())

    def __mul__(self, c: float) -> Kernel:
        """Kernel of ``c f``: everything times c^2."""
        return self._scaled(_square(c))

    __rmul__ = __mul__

    def __truediv__(self, c: float) -> Kernel:
        """Kernel of ``f / c``."""
        return self._scaled(1 / _square(c))

    def __add__(self, c: float) -> Kernel:
        """Kernel of ``f + c``: c^2 more covariance, the same NTK."""
        with np.errstate(over="ignore"):
            more = _scalar(_square(c), self.nngp)
            cov2 = None if self.cov2 is None else self.cov2 + more
            return dataclasses.replace(self, nngp=self.nngp + more, cov1=self.cov1 + more, cov2=cov2, exact=None)

    __radd__ = __add__

    def _scaled(self, square: np.float64) -> Kernel:
        with np.errstate(over="ignore", invalid="ignore"):
            factor = _scalar(square, self.nngp)
            ntk = None if self.ntk is None else self.ntk * factor
            cov2 = None if self.cov2 is None else self.cov2 * factor
            exact = self.exact
            if exact is not None:
                theta = None if exact.theta is None else exact.theta * exact.theta.dtype.type(square)
                exact = Exact(exact.defect, theta, exact.q1 * square, exact.q2 * square)
            return dataclasses.replace(
                self, nngp=self.nngp * factor, ntk=ntk, cov1=self.cov1 * factor, cov2=cov2, exact=exact
            )


def _square(c: float) -> np.float64:
    with np.errstate(over="ignore"):
        return np.float64(c) ** 2


def _scalar(value: np.float64, like: Array) -> Any:
    """A number of an array's dtype; PyTorch, whose dtypes make none, converts Python's."""
    return getattr(like.dtype, "type", float)(value)
