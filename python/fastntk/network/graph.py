"""Layers on graphs: Aggregate."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.checks import integer
from ..base.libraries import placed
from .layer import Placed, Shape, optional_keyword
from .maps import Graph
from .program import Builder, Value, Values

Array = npt.NDArray[Any]


class AggregateImplementation(enum.Enum):
    """How patterns are given: the argument of :class:`Aggregate`."""

    DENSE = "DENSE"
    SPARSE = "SPARSE"


def _same(pattern: Any) -> Any:
    return pattern


@dataclass(frozen=True)
class Aggregate(Placed):
    """Sums over the neighbours of each position, in a graph that belongs to each sample: ``pattern`` of the call.

    Parameters
    ----------
    aggregate_axis : int or sequence of int, optional
        Spatial axes that count the vertices; None: all of them.
    batch_axis, channel_axis : int
    to_dense : callable
        'DENSE': what makes a dense pattern of the one given.
    implementation : 'DENSE' or 'SPARSE'
        DENSE: a pattern is an array ``(n, *axes, *axes)``, whose entry ``[n, i, j]`` is the weight of the edge from i
        to j in sample n. SPARSE: integers (n, edges, axes, 2), or (n, edges, 2) for one axis: from and to of each edge,
        of weight 1; edges with a negative number are left out, those that are repeated count as often.

    Raises
    ------
    ValueError
        For inputs without positions, axes that are none of these, patterns of another shape or with vertices out of
        range.
    NotImplementedError
        For one pattern of two: ``pattern=(p1, p2)``; where x2 is None, p2 is p1.

    Notes
    -----
    ``K' = A^T K A'`` with the patterns A and A' of both samples, and so the NTK's. Without patterns the layer is the
    identity, as ``apply_fn`` is; ``apply_fn(params, x, pattern=A)`` takes that of its inputs.

    References
    ----------
    Du et al. (2019), arXiv:1905.13192.
    """

    aggregate_axis: Any = None
    batch_axis: int = 0
    channel_axis: int = -1
    to_dense: Callable[[Any], Any] | None = _same
    implementation: Any = "DENSE"

    def __post_init__(self) -> None:
        self._check_axes()
        if self.aggregate_axis is not None:
            given = self.aggregate_axis if isinstance(self.aggregate_axis, (tuple, list)) else (self.aggregate_axis,)
            own = tuple(integer("Aggregate", "aggregate_axis", a, least=None) for a in given)
            object.__setattr__(self, "aggregate_axis", own)
        name = str(getattr(self.implementation, "value", self.implementation)).upper()
        if name not in AggregateImplementation.__members__:
            raise ValueError(f"[Aggregate] implementation must be 'DENSE' or 'SPARSE', given {self.implementation!r}")
        object.__setattr__(self, "implementation", name)
        if self.to_dense is not None and not callable(self.to_dense):
            raise TypeError(f"[Aggregate] to_dense must be a function of a pattern, given {self.to_dense!r}")

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def _joined(self, rank: int, what: str) -> tuple[int, ...]:
        """Axes of the inputs that are joined."""
        own = (self.batch_axis % rank, self.channel_axis % rank)
        if self.aggregate_axis is None:
            return tuple(a for a in range(rank) if a not in own)
        if not all(-rank <= a < rank and a % rank not in own for a in self.aggregate_axis):
            raise ValueError(
                f"[{what}] has aggregate_axis {self.aggregate_axis}, given inputs of {rank} axes, {own[0]} of samples "
                f"and {own[1]} of channels"
            )
        return tuple(a % rank for a in self.aggregate_axis)

    def dense(self, pattern: Any, n: int, sizes: tuple[int, ...]) -> Array:
        """The pattern of n samples as (n, vertices, vertices)."""
        count = math.prod(sizes)
        if self.implementation == "DENSE":
            found = np.asarray(pattern if self.to_dense is None else self.to_dense(pattern))
            if found.shape != (n, *sizes, *sizes):
                raise ValueError(f"[Aggregate] pattern has shape {found.shape}, expected {(n, *sizes, *sizes)}")
            if found.dtype.kind not in "iufb":
                raise TypeError(f"[Aggregate] pattern must hold real numbers, given dtype {found.dtype}")
            return found.astype(np.float64).reshape(n, count, count)
        edges = np.asarray(pattern)
        if edges.ndim == 3 and len(sizes) == 1:
            edges = edges[:, :, None, :]
        if edges.ndim != 4 or edges.shape[0] != n or edges.shape[2:] != (len(sizes), 2):
            raise ValueError(
                f"[Aggregate] pattern has shape {np.shape(pattern)}, expected ({n}, edges, {len(sizes)}, 2) integers"
            )
        if edges.dtype.kind not in "iu":
            raise TypeError(f"[Aggregate] pattern must hold integers, given dtype {edges.dtype}")
        known = (edges >= 0).all(axis=(2, 3))
        if (edges >= np.reshape(sizes, (-1, 1))).any():
            raise ValueError(f"[Aggregate] pattern names vertex {int(edges.max())}, given positions {sizes}")
        sample, edge = np.nonzero(known)
        ends = [np.ravel_multi_index(tuple(edges[sample, edge, :, k].T), sizes) for k in (0, 1)]
        found = np.zeros((n, count, count))
        np.add.at(found, (sample, *ends), 1.0)
        return found

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        pattern = optional_keyword("pattern")
        if pattern is None:
            return inputs
        joined = self._joined(inputs.ndim, "Aggregate")
        batch = self.batch_axis % inputs.ndim
        sizes = tuple(inputs.shape[a] for a in joined)
        A = xp.asarray(self.dense(_on_host(pattern), inputs.shape[batch], sizes), dtype=inputs.dtype, **placed(inputs))
        ends = tuple(range(-len(joined), 0))
        x = xp.moveaxis(inputs, (batch, *joined), (0, *ends))
        shape = tuple(x.shape)
        x = xp.matmul(xp.reshape(x, (shape[0], -1, math.prod(sizes))), A)
        return xp.moveaxis(xp.reshape(x, shape), (0, *ends), (batch, *joined))

    def lower(self, builder: Builder, values: Values) -> Value:
        value = builder.one(values)
        builder.check_axes(value, self.batch_axis, self.channel_axis)
        if not value.spatial:
            raise ValueError(f"[{builder.where}] joins positions, given inputs without spatial axes")
        rank = 2 + len(value.spatial)
        names = [a for a in range(rank) if a not in (value.batch_axis, value.channel_axis)]
        axes = tuple(names.index(a) for a in self._joined(rank, builder.where))
        return builder.emit("mix", value, map=Graph(self, value.spatial, axes))


def _on_host(pattern: Any) -> Any:
    return pattern.cpu() if hasattr(pattern, "cpu") else pattern
