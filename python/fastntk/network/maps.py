"""What ops on positions say of them: which position each reads, matrices over positions, and covariances of their own.

Positions are numbered through. Each map is data that compares and hashes by what it holds, as programs must; arrays are
made of it when an engine asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Constant:
    """An array as a value."""

    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, x: Any) -> Constant:
        x = np.array(x, np.float64, order="C")
        return cls(x.shape, x.tobytes())

    @property
    def array(self) -> Array:
        return np.frombuffer(self.data).reshape(self.shape).copy()


@dataclass(frozen=True)
class Gather:
    """Position P of the result is position ``index[P]`` of the source, or nothing where that is -1."""

    data: bytes
    size_in: int

    @classmethod
    def of(cls, index: Any, size_in: int) -> Gather:
        return cls(np.ascontiguousarray(index, np.int64).tobytes(), size_in)

    @property
    def index(self) -> npt.NDArray[np.int64]:
        return np.frombuffer(self.data, np.int64)

    @property
    def size_out(self) -> int:
        return len(self.data) // 8


@dataclass(frozen=True)
class Linear:
    """The matrix of a layer whose finite form is a constant linear map of positions: what it makes of unit vectors."""

    layer: Any
    spatial: tuple[int, ...]
    batch_axis: int
    channel_axis: int

    @property
    def matrix(self) -> Array:
        """(positions out, positions in)."""
        return _matrix(self)

    @property
    def size_out(self) -> int:
        return len(self.matrix)

    @property
    def largest(self) -> float:
        """The largest sum of a row's absolute values: what deviations grow by at most."""
        return float(np.abs(self.matrix).sum(axis=1).max(initial=0.0))

    def of_images(self, pattern: Array | None, n: int) -> Array:
        return self.matrix[None]


@lru_cache(maxsize=64)
def _matrix(of: Linear) -> Array:
    size = math.prod(of.spatial)
    units = np.eye(size).reshape(size, *of.spatial, 1)
    order = [range(1, 1 + len(of.spatial)), (0,), (len(of.spatial) + 1,)]
    source = iter(order[0])
    axes = [
        0 if a == of.batch_axis else order[2][0] if a == of.channel_axis else next(source)
        for a in range(2 + len(of.spatial))
    ]
    found = of.layer.apply((), units.transpose(axes), np)
    batch, channel = (a % found.ndim for a in of.layer.places(2 + len(of.spatial)))
    return np.ascontiguousarray(np.moveaxis(found, (batch, channel), (0, -1)).reshape(size, -1).T)


@dataclass(frozen=True)
class Graph:
    """Aggregate's matrices, of each input its own: what its pattern says of the axes that are joined."""

    layer: Any
    spatial: tuple[int, ...]
    axes: tuple[int, ...]  # of ``spatial``
    largest = 1.0  # until a pattern is given

    @property
    def size_out(self) -> int:
        return math.prod(self.spatial)

    def of_images(self, pattern: Array | None, n: int) -> Array:
        """(n, positions out, positions in), or one for all."""
        size = self.size_out
        if pattern is None:
            return np.eye(size)[None]
        joined = [self.spatial[a] for a in self.axes]
        dense = self.layer.dense(pattern, n, tuple(joined))  # (n, joined in, joined out)
        others = [a for a in range(len(self.spatial)) if a not in self.axes]
        rest = math.prod(self.spatial[a] for a in others)
        full = np.einsum("nab,cd->nbdac", dense, np.eye(rest))
        order = [*self.axes, *others]
        back = [order.index(a) for a in range(len(order))]
        count = len(order)
        full = full.reshape(n, *(self.spatial[a] for a in order), *(self.spatial[a] for a in order))
        axes = [0, *(1 + a for a in back), *(1 + count + a for a in back)]
        return np.ascontiguousarray(full.transpose(axes)).reshape(n, size, size)


@dataclass(frozen=True)
class Attention:
    """Attention's matrices, of each input its own: ``mechanism(scale K(x, x))``, K that of the op's second source.

    The scale is the op's number.
    """

    mechanism: str
    size_out: int
    allowed: Constant | None = None  # which position may read which
    largest = 1.0

    def of_covariances(self, k: Array, scale: float, hidden: npt.NDArray[np.bool_] | None) -> Array:
        """(n, positions out, positions in) from K(x, x) of every image, (n, P, P); ``hidden``: masked positions."""
        k = scale * k
        barred = self._barred(hidden)
        if self.mechanism == "SOFTMAX":
            if barred is not None:
                k = np.where(barred, -np.inf, k)
            largest = k.max(axis=2, keepdims=True)
            weights = np.exp(k - np.where(np.isfinite(largest), largest, 0))
            total = weights.sum(axis=2, keepdims=True)
            return np.asarray(weights / np.where(total == 0, 1, total))
        if self.mechanism == "ABS":
            k = np.abs(k)
        elif self.mechanism == "RELU":
            k = np.maximum(k, 0)
        return k if barred is None else np.where(barred, 0, k)

    def back(self, A: Array, k: Array, scale: float, hidden: npt.NDArray[np.bool_] | None, bar: Array) -> Array:
        """Derivatives in ``scale K`` from those in the matrices A, all (n, P, P)."""
        if self.mechanism == "SOFTMAX":
            return np.asarray(A * (bar - (A * bar).sum(axis=2, keepdims=True)))
        if self.mechanism == "ABS":
            bar = bar * np.sign(scale * k)
        elif self.mechanism == "RELU":
            bar = bar * np.heaviside(scale * k, 0.5)
        barred = self._barred(hidden)
        return bar if barred is None else np.where(barred, 0, bar)

    def _barred(self, hidden: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_] | None:
        """What no position may read, (n or 1, P or 1, P)."""
        barred = None if self.allowed is None else (self.allowed.array == 0)[None]
        if hidden is None:
            return barred
        return hidden[:, None, :] if barred is None else barred | hidden[:, None, :]


@dataclass(frozen=True)
class Embedding:
    """The covariance R of embeddings of positions, which decays with the distance between them."""

    spatial: tuple[int, ...]
    power: float = 2.0
    decay: Callable[[Any], Any] | None = None  # None: embeddings are independent

    @property
    def size_out(self) -> int:
        return math.prod(self.spatial)

    @property
    def matrix(self) -> Array:
        """(P, P), symmetric."""
        size = self.size_out
        places = np.stack(np.unravel_index(np.arange(size), self.spatial)).astype(np.float64)
        distance = (np.abs(places[:, :, None] - places[:, None, :]) ** self.power).sum(axis=0)
        if self.decay is None:
            return np.asarray(distance == 0, np.float64)
        return np.broadcast_to(np.asarray(self.decay(distance), np.float64), (size, size))


@dataclass(frozen=True)
class Mean:
    """Positions whose variances are averaged: over which axes of ``spatial``."""

    spatial: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def size_out(self) -> int:
        return math.prod(self.spatial)

    def __call__(self, q: Array, hidden: npt.NDArray[np.bool_] | None) -> Array:
        """(n, P) to the same, each entry the mean over its axes, of positions that are not masked."""
        shape = (len(q), *self.spatial)
        axes = tuple(1 + a for a in self.axes)
        if hidden is None:
            mean = q.reshape(shape).mean(axis=axes, keepdims=True)
        else:
            seen = ~hidden.reshape(shape)
            total = np.where(seen, q.reshape(shape), 0).sum(axis=axes, keepdims=True)
            mean = total / np.maximum(seen.sum(axis=axes, keepdims=True), 1)
        return np.broadcast_to(mean, shape).reshape(len(q), -1)

    def back(self, bar: Array, hidden: npt.NDArray[np.bool_] | None) -> Array:
        """The transpose of the mean."""
        shape = (len(bar), *self.spatial)
        axes = tuple(1 + a for a in self.axes)
        seen = np.ones(shape, np.bool_) if hidden is None else ~hidden.reshape(shape)
        count = np.maximum(seen.sum(axis=axes, keepdims=True), 1)
        spread = bar.reshape(shape).sum(axis=axes, keepdims=True) / count
        return np.asarray(np.where(seen, spread, 0).reshape(len(bar), -1))


@dataclass(frozen=True)
class Whole:
    """A pool over all positions; ``mean``: it divides by the number of those that are not masked."""

    mean: bool
    size_out = 1
