"""What engines share that compute on arrays where they lie, in host memory or on a device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from ..network.program import Lowered
from .engine import Known, Layout, Machine, Side
from .images import ImageSide
from .masked import Beside
from .points import Points, PointSide

Array = npt.NDArray[Any]  # or CuPy's
BUDGET = 256 << 20  # bytes, beside inputs and outputs, of a call that names no number of them
_PRODUCT_FLOPS = 2e10  # of one call of NumPy's BLAS: a fraction of a second, after which Ctrl-C is seen


class WhereTheyLie:
    """What engines share that compute on arrays where they lie, in host memory or on a device."""

    real: Any = np.float64  # of lengths and variances
    planes: Any  # class of the machine of planes

    def side(self, layout: Layout, given: Sequence[Array | Known], beside: Beside | None = None) -> Side:
        return ImageSide(given, beside) if layout.planes else PointSide.alone(given, self)  # type: ignore[arg-type]

    def sides(
        self, layout: Layout, given: Sequence[Array | Known], others: Sequence[Array | Known]
    ) -> tuple[Side, Side]:
        return PointSide.both(given, others, self)  # type: ignore[arg-type]

    def prepare(self, lowered: Lowered, layout: Layout, dtype: np.dtype[Any]) -> Machine:
        kind: Any = self.planes if layout.planes else Points
        found: Machine = kind(self, lowered, layout, dtype)
        return found

    def budget(self) -> int:
        """Bytes that images may take beside inputs and outputs, where a call does not say."""
        return BUDGET

    def call(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def bring(self, x: Array) -> Array:
        return x

    def deliver(self, x: Array) -> Array:
        return x

    def adjoint(self, tangents: Any) -> Any:
        return None

    def image_adjoint(self, tangents: Any, lowered: Lowered, inputs: Any, channels: Any) -> Any:
        return None


class HostMemory(WhereTheyLie):
    """NumPy's arrays; a device's are ``CudaEngine``'s."""

    xp: Any = np
    cache_bytes = 64 << 20
    square = False
    any_strides = False
    tile_pairs: int

    def tile_size(self, shape: Any, dtype: Any, outputs: Any, symmetric: bool) -> int:
        return self.tile_pairs

    def multiply(self, units1: Array, units2: Array, out: Array) -> None:
        """By NumPy's BLAS, in calls that end soon."""
        batch, n1, d = units1.shape
        n2 = units2.shape[1]
        if 2 * batch * n1 * n2 * d <= _PRODUCT_FLOPS:
            np.matmul(units1, units2.transpose(0, 2, 1), out=out)
            return
        lines = max(1, min(n1, 256))
        cols = max(1, min(n2, int(_PRODUCT_FLOPS / (2 * lines * d))))
        for b in range(batch):
            for i in range(0, n1, lines):
                for j in range(0, n2, cols):
                    right = units2[b, j : j + cols].T
                    np.matmul(units1[b, i : i + lines], right, out=out[b, i : i + lines, j : j + cols])
