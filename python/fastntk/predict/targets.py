"""Shapes: targets and kernels with any axes as matrices, and back.

Targets have axes that the kernel has in pairs (samples; any that are not traced) and *trace axes*, along which outputs
are independent with the same kernel (channels, by default the last). As matrices: targets (n, o), kernels (n, n).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arraylike import refuse_masked
from .linalg import check_finite, check_floats, given_array

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Targets:
    """The shape of targets; ``trace_axes`` counted from 0, in the order given, repeats left out.

    All axes may be traced: the kernel is then one number, without axes.
    """

    shape: tuple[int, ...]
    trace_axes: tuple[int, ...]
    what: str

    @property
    def paired(self) -> tuple[int, ...]:
        """Lengths of the axes that the kernel has in pairs."""
        return tuple(n for axis, n in enumerate(self.shape) if axis not in self.trace_axes)

    @property
    def traced(self) -> tuple[int, ...]:
        """Lengths of the trace axes."""
        return tuple(self.shape[axis] for axis in self.trace_axes)

    def matrix(self, y: Array) -> Array:
        """y, or an array of its rank, as (n, o)."""
        last = tuple(range(len(self.shape) - len(self.trace_axes), len(self.shape)))
        moved = np.moveaxis(y, self.trace_axes, last)
        return moved.reshape(-1, math.prod(self.traced))

    def restore(self, values: Array, paired: tuple[int, ...], lead: tuple[int, ...] = ()) -> Array:
        """Undo :meth:`matrix`: values (*lead, m, o), m = prod(paired), with the trace axes in their places."""
        count = len(self.trace_axes)
        found = values.reshape(*lead, *paired, *self.traced)
        last = tuple(range(found.ndim - count, found.ndim))
        return np.moveaxis(found, last, tuple(len(lead) + axis for axis in self.trace_axes))

    @property
    def hint(self) -> str:
        """What to say where the kernel has samples and the targets none."""
        return (
            "; targets of one output are (n, 1), or give trace_axes=()"
            if len(self.shape) == 1 > len(self.paired)
            else ""
        )

    def kernel(self, k: Array, name: str) -> tuple[Array, tuple[int, ...], tuple[int, ...]]:
        """A kernel with interleaved axes (a, a', b, b', ...) as a matrix, and its lengths of rows and of columns.

        Raises
        ------
        TypeError
            Masked, or of another dtype than float32 or float64.
        ValueError
            Of another number of axes.
        """
        refuse_masked(k, name, self.what)
        check_floats(k, name, self.what)
        if k.ndim != 2 * len(self.paired):
            raise ValueError(
                f"[{self.what}] {name} must have {2 * len(self.paired)} axes, a pair for each axis of targets of shape "
                f"{self.shape} but trace_axes {self.trace_axes}; given shape {k.shape}{self.hint}"
            )
        rows, columns = k.shape[::2], k.shape[1::2]
        if k.ndim > 2:
            k = k.transpose(*range(0, k.ndim, 2), *range(1, k.ndim, 2))
        return k.reshape(math.prod(rows), math.prod(columns)), rows, columns

    def train(self, k: Array, name: str) -> Array:
        """The kernel of the training points as (n, n)."""
        matrix, rows, columns = self.kernel(k, name)
        if rows != self.paired or columns != self.paired:
            raise ValueError(
                f"[{self.what}] {name} has shape {k.shape}; targets of shape {self.shape} with trace_axes "
                f"{self.trace_axes} want {tuple(n for n in self.paired for _ in range(2))}"
            )
        return matrix

    def cross(self, k: Array, name: str) -> tuple[Array, tuple[int, ...]]:
        """The kernel between test and training points as (m, n), and the lengths of the test axes."""
        matrix, rows, columns = self.kernel(k, name)
        if columns != self.paired:
            raise ValueError(f"[{self.what}] {name} has shape {k.shape}: {columns} training points, not {self.paired}")
        return matrix, rows

    @staticmethod
    def zipped(matrix: Array, rows: tuple[int, ...], columns: tuple[int, ...], lead: tuple[int, ...] = ()) -> Array:
        """Undo :meth:`kernel`: (*lead, prod(rows), prod(columns)) with the axes interleaved."""
        if len(rows) == 1:
            return matrix.reshape(*lead, *rows, *columns)
        first, count = len(lead), len(rows)
        order = [first + side * count + axis for axis in range(count) for side in range(2)]
        return matrix.reshape(*lead, *rows, *columns).transpose(*range(first), *order)


def targets_of(y: Any, trace_axes: Any, what: str) -> Targets:
    """Check the targets.

    Raises
    ------
    TypeError
        Not an array of numbers.
    ValueError
        Without samples or outputs, not finite, or ``trace_axes`` out of range.
    """
    y = given_array(y, "y_train", what)
    axes = axes_of(trace_axes, what)
    if any(not -y.ndim <= axis < y.ndim for axis in axes):
        raise ValueError(f"[{what}] trace_axes {axes} are not axes of y_train of shape {y.shape}")
    axes = tuple(dict.fromkeys(int(axis) % y.ndim for axis in axes))
    if not y.size:
        raise ValueError(f"[{what}] y_train is empty: shape {y.shape}")
    check_finite(y, "y_train", what)
    return Targets(tuple(y.shape), axes, what)


def axes_of(trace_axes: Any, what: str) -> tuple[int, ...]:
    """``trace_axes`` as a tuple.

    Raises
    ------
    TypeError
        Neither an integer nor a sequence of them.
    """
    axes = tuple(trace_axes) if isinstance(trace_axes, (tuple, list, set, frozenset, np.ndarray)) else (trace_axes,)
    if any(isinstance(axis, (bool, np.bool_)) or not isinstance(axis, (int, np.integer)) for axis in axes):
        raise TypeError(f"[{what}] trace_axes must be an integer or a tuple of integers, given {trace_axes!r}")
    return tuple(int(axis) for axis in axes)


def start_of(fx: Any, shape: tuple[int, ...], name: str, xp: Any, what: str) -> Array:
    """Outputs at time 0 in their shape, from a number or an array; a view.

    Raises
    ------
    TypeError
        Not real numbers.
    ValueError
        Of another shape, or not finite.
    """
    fx = xp.asarray(given_array(fx, name, what))
    check_finite(fx, name, what)
    try:
        found: Array = xp.broadcast_to(fx, shape)
    except ValueError:
        raise ValueError(f"[{what}] {name} must be a number or have shape {shape}, given {fx.shape}") from None
    return found
