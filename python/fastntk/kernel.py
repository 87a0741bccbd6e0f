"""The state between two kernel functions: Neural Tangents' ``Kernel``, and the digits that its covariances lose."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Exact:
    """What a rounded covariance matrix has lost: ``1 - K(x, x') / sqrt(K(x, x) K(x', x'))``, and float64 variances."""

    defect: Array  # like nngp
    q1: Array  # like cov1, float64
    q2: Array


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
        Carried on so that networks composed by kernels lose no digits. None: the next kernel function starts from
        the covariances.
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
        """A copy with fields changed; new covariances drop ``exact`` unless it is given too."""
        if {"nngp", "cov1", "cov2"} & set(changes):
            changes.setdefault("exact", None)
        return dataclasses.replace(self, **changes)

    def asdict(self) -> dict[str, Any]:
        """Fields by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def astuple(self) -> tuple[Any, ...]:
        """Fields in order."""
        return tuple(self.asdict().values())

    def __mul__(self, c: float) -> Kernel:
        """Kernel of ``c f``: everything times c^2."""
        return self._scaled(float(c) ** 2)

    __rmul__ = __mul__

    def __truediv__(self, c: float) -> Kernel:
        """Kernel of ``f / c``."""
        return self._scaled(float(c) ** -2)

    def __add__(self, c: float) -> Kernel:
        """Kernel of ``f + c``: c^2 more covariance, the same NTK."""

        def plus(x: Array) -> Array:
            return np.asarray(x + np.asarray(float(c) ** 2, dtype=x.dtype))

        cov2 = None if self.cov2 is None else plus(self.cov2)
        return dataclasses.replace(self, nngp=plus(self.nngp), cov1=plus(self.cov1), cov2=cov2, exact=None)

    __radd__ = __add__

    def _scaled(self, factor: float) -> Kernel:
        def times(x: Array) -> Array:
            return np.asarray(x * np.asarray(factor, dtype=x.dtype))

        exact = self.exact
        if exact is not None:
            exact = Exact(exact.defect, exact.q1 * factor, exact.q2 * factor)
        ntk = None if self.ntk is None else times(self.ntk)
        cov2 = None if self.cov2 is None else times(self.cov2)
        return dataclasses.replace(self, nngp=times(self.nngp), ntk=ntk, cov1=times(self.cov1), cov2=cov2, exact=exact)
