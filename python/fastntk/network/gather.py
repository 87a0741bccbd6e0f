"""Layers that choose positions or combine them by a constant factor: Index, DotGeneral."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..base.checks import integer
from ..base.libraries import placed
from .layer import Shape, is_one
from .maps import Constant, Gather, Linear
from .position_map import Choosing
from .program import Builder, Value, Values

# ---------------------------------------------------------------- Index


class _Slice:
    """``Slice[1:10, :, ::-1]`` is what ``x[1:10, :, ::-1]`` is indexed by: the argument of :class:`Index`."""

    def __getitem__(self, idx: Any) -> Any:
        return idx

    def __repr__(self) -> str:
        return "Slice"


Slice = _Slice()


@dataclass(frozen=True)
class Index(Choosing):
    """Indexes its inputs as NumPy does: ``x[idx]``.

    Parameters
    ----------
    idx : int, slice, Ellipsis or a tuple of them
        Made by ``Slice``: ``Index(Slice[:, 1:3, ::2])``. An integer takes its axis away.
    batch_axis, channel_axis : int

    Raises
    ------
    TypeError
        Anything else in ``idx``.
    ValueError
        An index out of range, more indices than axes, no position left.
    NotImplementedError
        Kernels of an index into samples (index the inputs, or the kernel) or into channels.
    """

    idx: Any
    batch_axis: int = 0
    channel_axis: int = -1

    def __post_init__(self) -> None:
        given = self.idx if isinstance(self.idx, tuple) else (self.idx,)
        found: list[Any] = []
        for one in given:
            if isinstance(one, slice):
                found.append(("slice", one.start, one.stop, one.step))  # slices do not hash in all Pythons
            elif one is Ellipsis:
                found.append("...")
            elif isinstance(one, (bool, np.bool_)):
                raise TypeError(f"[Index] idx must hold integers and slices, given {one!r}")
            else:
                found.append(integer("Index", "idx", one, least=None))
        if found.count("...") > 1:
            raise ValueError(f"[Index] idx must have one Ellipsis at most, given {self.idx!r}")
        object.__setattr__(self, "idx", tuple(found))
        self._check_axes()

    def _entries(self, rank: int, what: str) -> list[Any]:
        """One entry for each axis."""
        given = [slice(*one[1:]) if isinstance(one, tuple) else one for one in self.idx]
        count = len(given) - given.count("...")
        if count > rank:
            raise ValueError(f"[{what}] has {count} indices, given inputs of {rank} axes")
        rest = [slice(None)] * (rank - count)
        if "..." not in given:
            return [*given, *rest]
        at = given.index("...")
        return [*given[:at], *rest, *given[at + 1 :]]

    def places(self, rank: int) -> tuple[int, int]:
        entries = self._entries(rank, "Index")
        axes = (self.batch_axis % rank, self.channel_axis % rank)
        return tuple(sum(isinstance(e, slice) for e in entries[:axis]) for axis in axes)  # type: ignore[return-value]

    def output_shape(self, shape: Shape) -> Shape:
        if not is_one(shape):
            raise ValueError(f"[Index] takes one input, given shapes {shape}")
        found = []
        for n, entry in zip(shape, self._entries(len(shape), "Index"), strict=True):
            if n == -1 and entry != slice(None):
                raise ValueError(f"[Index] needs to know the size of every axis that it indexes, given shape {shape}")
            if isinstance(entry, slice):
                found.append(n if n == -1 else len(range(*entry.indices(n))))
            else:
                _in_range(entry, n, "Index")
        return tuple(found)

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        entries = self._entries(inputs.ndim, "Index")
        for axis in reversed(range(inputs.ndim)):
            entry, n = entries[axis], inputs.shape[axis]
            if entry == slice(None):
                continue
            if isinstance(entry, slice) and (entry.step or 1) > 0:
                inputs = inputs[(*[slice(None)] * axis, entry)]
                continue
            index = list(range(*entry.indices(n))) if isinstance(entry, slice) else [_in_range(entry, n, "Index")]
            inputs = xp.take(inputs, xp.asarray(np.asarray(index, np.int64), **placed(inputs)), axis=axis)
            if not isinstance(entry, slice):
                inputs = inputs.reshape((*inputs.shape[:axis], *inputs.shape[axis + 1 :]))
        return inputs

    def lower(self, builder: Builder, values: Values) -> Value:
        value, rank = self._own(builder, values)
        entries = self._entries(rank, builder.where)
        for axis, name, hint in (
            (value.batch_axis, "samples", "index the inputs instead, or the kernel: kernel[a:b]"),
            (value.channel_axis, "channels", "they are infinitely many"),
        ):
            if entries[axis] != slice(None):
                raise NotImplementedError(f"[{builder.where}] indexes {name}, axis {axis}, by {entries[axis]}: {hint}")
        own = [entries[a] for a in range(rank) if a not in (value.batch_axis, value.channel_axis)]
        for entry, n in zip(own, value.spatial, strict=True):
            if not isinstance(entry, slice):
                _in_range(entry, n, builder.where)
        index = np.arange(math.prod(value.spatial)).reshape(value.spatial)[tuple(own)]
        if index.size == 0:
            raise ValueError(f"[{builder.where}] leaves no position of {value.spatial}")
        batch, channel = self.places(rank)
        if index.shape == value.spatial and (index.reshape(-1) == np.arange(index.size)).all():
            return value
        return builder.emit(
            "gather", value, map=Gather.of(index.reshape(-1), math.prod(value.spatial)), spatial=index.shape,
            batch_axis=batch, channel_axis=channel,
        )  # fmt: skip


def _in_range(index: int, n: int, what: str) -> int:
    if not -n <= index < n:
        raise ValueError(f"[{what}] index {index} is out of range for an axis of {n} positions")
    return index % n


# ---------------------------------------------------------------- DotGeneral


@dataclass(frozen=True)
class DotGeneral(Choosing):
    """Product with a constant array over spatial axes, as ``jax.lax.dot_general``.

    Parameters
    ----------
    lhs, rhs : array or float, optional
        The constant factor, on the left or on the right of the inputs; without either the layer is the identity.
    dimension_numbers : ((lhs_contracting, rhs_contracting), (lhs_batch, rhs_batch))
    precision
        No effect.
    batch_axis, channel_axis : int

    Raises
    ------
    ValueError
        Both factors; axes out of range, of different sizes, or the channels'.
    NotImplementedError
        Kernels of a product over the axis of samples.

    Notes
    -----
    ``K' = R K R^T``, and so the NTK's. The result has the axes of ``jax.lax.dot_general``: shared ones first, then what
    is left of the left factor, then of the right one.
    """

    lhs: Any = None
    rhs: Any = None
    dimension_numbers: Any = (((), ()), ((), ()))
    precision: Any = None
    batch_axis: int = 0
    channel_axis: int = -1
    _constant: ClassVar[Constant]

    def __post_init__(self) -> None:
        if self.lhs is not None and self.rhs is not None:
            raise ValueError("[DotGeneral] lhs and rhs are both given: one of the factors is the inputs")
        for name in ("lhs", "rhs"):
            given = getattr(self, name)
            if given is not None and not isinstance(given, Constant):
                array = np.asarray(given)
                if array.dtype.kind not in "iufb":
                    raise TypeError(f"[DotGeneral] {name} must hold real numbers, given dtype {array.dtype}")
                object.__setattr__(self, name, Constant.of(array))
        try:
            contracting, shared = ([tuple(int(a) for a in side) for side in pair] for pair in self.dimension_numbers)
            fits = len(contracting) == len(shared) == 2
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise ValueError(
                "[DotGeneral] dimension_numbers must be ((lhs_contracting, rhs_contracting), (lhs_batch, rhs_batch)), "
                f"given {self.dimension_numbers!r}"
            )
        object.__setattr__(self, "dimension_numbers", (tuple(contracting), tuple(shared)))
        object.__setattr__(self, "precision", None)
        self._check_axes()

    @property
    def _factor(self) -> Constant | None:
        found = self.rhs if self.lhs is None else self.lhs
        return found  # type: ignore[no-any-return]

    def _axes(self, rank: int, what: str) -> tuple[list[int], list[int], list[int], list[int]]:
        """Contracted and shared axes, of the inputs and of the factor."""
        assert self._factor is not None
        mine = 1 if self.lhs is not None else 0
        counts = (rank, len(self._factor.shape))
        found: list[list[int]] = []
        for pair in self.dimension_numbers:
            for side, count in ((mine, counts[0]), (1 - mine, counts[1])):
                if not all(-count <= a < count for a in pair[side]):
                    raise ValueError(f"[{what}] names axes {pair[side]} of a factor of {count} axes")
                found.append([a % count for a in pair[side]])
        contracted, others, shared, shared_others = found
        if len(contracted) != len(others) or len(shared) != len(shared_others):
            raise ValueError(f"[{what}] dimension_numbers {self.dimension_numbers} pair unequal numbers of axes")
        if self.channel_axis % rank in (*contracted, *shared):
            raise ValueError(f"[{what}] multiplies along the channels, axis {self.channel_axis % rank}: Dense does")
        return contracted, others, shared, shared_others

    def _order(self, rank: int) -> list[Any]:
        """The result's axes: those of the inputs by number, others None."""
        contracted, others, shared, shared_others = self._axes(rank, "DotGeneral")
        assert self._factor is not None
        mine = [a for a in range(rank) if a not in (*contracted, *shared)]
        theirs: list[Any] = [None] * (len(self._factor.shape) - len(others) - len(shared_others))
        return [*shared, *(theirs + mine if self.lhs is not None else mine + theirs)]

    def places(self, rank: int) -> tuple[int, int]:
        if self._factor is None:
            return super().places(rank)
        order = self._order(rank)
        return order.index(self.batch_axis % rank), order.index(self.channel_axis % rank)

    def output_shape(self, shape: Shape) -> Shape:
        if not is_one(shape):
            raise ValueError(f"[DotGeneral] takes one input, given shapes {shape}")
        if self._factor is None:
            return shape
        contracted, others, shared, shared_others = self._axes(len(shape), "DotGeneral")
        size = self._factor.shape
        for a, b in zip((*contracted, *shared), (*others, *shared_others), strict=True):
            if shape[a] not in (-1, size[b]):
                raise ValueError(
                    f"[DotGeneral] axis {a} of inputs of shape {tuple(shape)} does not fit axis {b} of a factor of "
                    f"shape {size}"
                )
        rest = iter(n for b, n in enumerate(size) if b not in (*others, *shared_others))
        return tuple(next(rest) if a is None else shape[a] for a in self._order(len(shape)))

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        if self._factor is None:
            return inputs
        self.output_shape(tuple(inputs.shape))
        rank, factor = inputs.ndim, xp.asarray(self._factor.array, dtype=inputs.dtype, **placed(inputs))
        contracted, others, shared, shared_others = self._axes(rank, "DotGeneral")
        letters = [chr(97 + a) for a in range(rank)]
        theirs = [chr(65 + b) for b in range(len(self._factor.shape))]
        for a, b in zip((*contracted, *shared), (*others, *shared_others), strict=True):
            theirs[b] = letters[a]
        free = iter(t for b, t in enumerate(theirs) if b not in (*others, *shared_others))
        out = [next(free) if a is None else letters[a] for a in self._order(rank)]
        return _einsum(xp, "".join(letters), "".join(theirs), "".join(out), inputs, factor)

    def lower(self, builder: Builder, values: Values) -> Value:
        value, rank = self._own(builder, values)
        if self._factor is None:
            return value
        contracted, _, shared, _ = self._axes(rank, builder.where)
        if value.batch_axis in (*contracted, *shared):
            raise NotImplementedError(
                f"[{builder.where}] multiplies along the samples, axis {value.batch_axis}: Aggregate has a pattern for "
                "each of them"
            )
        spatial = iter(value.spatial)
        shape = [
            -1 if a == value.batch_axis else value.channels if a == value.channel_axis else next(spatial)
            for a in range(rank)
        ]
        found = self.output_shape(tuple(shape))
        batch, channel = self.places(rank)
        out = tuple(n for a, n in enumerate(found) if a not in (batch, channel))
        if not value.spatial and not out:
            factor = float(self._factor.array.reshape(()))
            return builder.emit("dense", value, params=(factor**2, 0, 0, 0), batch_axis=batch, channel_axis=channel,
                                mean="unknown" if value.mean and factor < 0 else value.mean)  # fmt: skip
        own = Linear(self, value.spatial, value.batch_axis, value.channel_axis)
        return builder.emit("mix", value, map=own, spatial=out, batch_axis=batch, channel_axis=channel)


def _einsum(xp: Any, one: str, two: str, out: str, x: Any, y: Any) -> Any:
    """``einsum`` of two arrays, in what the array API has: broadcast, multiply, sum."""
    names = [*out, *(c for c in dict.fromkeys(one + two) if c not in out)]
    parts = []
    for letters, array in ((one, x), (two, y)):
        order = [letters.index(c) for c in names if c in letters]
        array = np.transpose(array, order) if xp is np else xp.permute_dims(array, tuple(order))
        sizes = dict(zip([c for c in names if c in letters], array.shape, strict=True))
        parts.append(xp.reshape(array, tuple(sizes.get(c, 1) for c in names)))
    product = parts[0] * parts[1]
    axes = tuple(range(len(out), len(names)))
    return xp.sum(product, axis=axes) if axes else product
