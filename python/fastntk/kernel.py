"""The state between two kernel functions: Neural Tangents' ``Kernel``, with the digits that its covariances round away."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Kernel:
    """Covariances of a network's outputs for two sets of inputs.

    Attributes
    ----------
    nngp, ntk : numpy.ndarray (n1, n2) or (batch, n1, n2)
        E f f' over random networks; the neural tangent kernel (None where it was not asked for).
    cov1, cov2 : numpy.ndarray (n1,), (n2,), a batch axis before
        Variances K(x, x) of each input; cov2 is None where x2 is x1.
    x1_is_x2 : bool
    is_gaussian : bool
        Pre-activations, which a nonlinearity can take.
    is_input : bool
    diagonal_batch, diagonal_spatial, is_reversed : bool
        Neural Tangents' layout flags: variances only; spatial axes in natural order.
    shape1, shape2 : tuple of int
        Shapes of the finite network's outputs.
    batch_axis, channel_axis : int
    defect : numpy.ndarray like nngp, or None
        ``1 - K(x, x') / sqrt(K(x, x) K(x', x'))``, carried on so that networks composed by kernels lose no digits.
        None: the next kernel function takes it from the covariances.
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
    defect: Array | None = None

    def replace(self, **changes: Any) -> Kernel:
        """A copy with fields changed; new covariances drop the defect unless it is given too."""
        if {"nngp", "cov1", "cov2"} & set(changes):
            changes.setdefault("defect", None)
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

    def _scaled(self, factor: float) -> Kernel:
        def times(x: Array | None) -> Array | None:
            return None if x is None else np.asarray(x * np.asarray(factor, dtype=x.dtype))

        return dataclasses.replace(
            self, nngp=times(self.nngp), ntk=times(self.ntk), cov1=times(self.cov1), cov2=times(self.cov2)
        )  # the defect does not change
