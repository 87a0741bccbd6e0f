"""What a kernel function returns: fields by name, named tuples, and arrays given by ``out``."""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arraylike import describe
from ..base.arrays import check_out
from ..base.kernel import Exact, Kernel
from ..base.place import HOST
from ..engines.numpy_images import masked_outputs
from ..network.program import Listed, Lowered, Value, leaves
from .inputs import Input

Array = npt.NDArray[Any]

FIELDS = tuple(Kernel.__dataclass_fields__)
_ONE = {name: (name,) for name in FIELDS}


def check_get(get: Any) -> tuple[str, ...] | None:
    if get is None:
        return None
    if type(get) is str and get in _ONE:
        return _ONE[get]
    names = (get,) if isinstance(get, str) else get
    if not isinstance(names, (tuple, list)) or not names or not all(isinstance(n, str) for n in names):
        raise TypeError(f"[kernel_fn] get must be a field name, a tuple of names or None, given {get!r}")
    lowered = tuple(n.lower() for n in names)
    if unknown := [n for n in lowered if n not in FIELDS]:
        raise ValueError(f"[kernel_fn] get names {unknown}, which a Kernel does not have; it has {list(FIELDS)}")
    if len(set(lowered)) < len(lowered):
        raise ValueError(f"[kernel_fn] get repeats a name: {get!r}")
    return lowered


@lru_cache(maxsize=64)
def named(names: tuple[str, ...], kind: str = "AnalyticKernel") -> Any:
    """The named tuple of one ``get``; it pickles as the call that makes it again."""
    made = namedtuple(kind, names)  # type: ignore[misc]
    setattr(made, "__reduce__", lambda self: (_restored, (names, kind, tuple(self))))  # noqa: B010
    return made


def _restored(names: tuple[str, ...], kind: str, values: tuple[Any, ...]) -> Any:
    return named(names, kind)(*values)


_VARIANCES = {"cov1", "cov2", "exact"}


def tree_of(values: Any, make: Any) -> Any:
    if isinstance(values, Value):
        return make(values)
    return (list if isinstance(values, Listed) else tuple)(tree_of(v, make) for v in values)


def check_targets(
    out: Any, get: Any, names: tuple[str, ...] | None, count: int, inputs: Sequence[Input], shape: tuple[int, ...]
) -> dict[tuple[int, str], Array]:
    """Arrays of ``out`` by (output, field)."""
    if out is None:
        return {}
    if names is None or set(names) - {"nngp", "ntk"} or count != 1:
        raise ValueError(
            f"[kernel_fn] out takes get of 'nngp' and 'ntk' and a network with one output, given get={get!r}"
        )
    given = (out,) if isinstance(get, str) else out
    if not isinstance(given, (tuple, list)) or len(given) != len(names):
        raise TypeError(f"[kernel_fn] out must be {len(names)} arrays, as get={get!r}, given {describe(out)}")
    first = inputs[0]
    taken = [a for i in inputs for a in (i.x1, i.x2) if a is not None]
    taken += [a for i in inputs if i.kernel for a in (i.kernel.nngp, i.kernel.ntk) if a is not None]
    targets: dict[tuple[int, str], Array] = {}
    for name, array in zip(names, given, strict=True):
        targets[0, name] = check_out(array, shape, first.dtype, taken, f"kernel_fn {name}", first.place)
        taken.append(array)
    return targets


@dataclass
class Results:
    """Arrays of a call, and what is made of them."""

    lowered: Lowered
    inputs: Sequence[Input]
    images: bool
    get: Any
    names: tuple[str, ...] | None
    planes: dict[tuple[int, str], Array]  # by output and name
    variances: Sequence[Mapping[int, Array]]  # K(x, x) of both sides, by output

    def asked(self, count: int) -> list[Sequence[int]]:
        """Outputs whose variances are needed, of both sides; [] where none are."""
        if self.names is not None and _VARIANCES.isdisjoint(self.names):
            return []
        own = [self.names is None or name in self.names for name in ("cov1", "cov2", "exact")]
        own[2] = own[2] and not self.images
        both = own[0] or own[2], (own[1] or own[2]) and not self.inputs[0].symmetric
        return [range(count) if side else () for side in both]

    def of(self, value: Value) -> Any:
        """What ``get`` asks for of one output."""
        if self.names is None:
            return Kernel(**{name: self._field(value, name) for name in FIELDS})
        found = [self._field(value, name) for name in self.names]
        return found[0] if isinstance(self.get, str) else named(self.names)(*found)

    def _field(self, value: Value, name: str) -> Any:
        first = self.inputs[0]
        give = first.place.give
        if name in ("nngp", "ntk"):
            plane = self.planes.get((value.slot, name))
            if first.place is HOST and plane is not None and plane.dtype == first.dtype:
                return plane
            return give(plane if plane is None or plane.dtype == first.dtype else self._rounded(plane))
        if name in ("cov1", "cov2"):
            side = int(name[-1]) - 1
            return None if side and first.symmetric else give(self._rounded(self._variance(value, side)))
        if name == "exact":
            if self.images:
                return None
            q1 = self._variance(value, 0)
            q2 = q1.copy() if first.symmetric else self._variance(value, 1)
            return Exact(self.planes[value.slot, "defect"], self.planes.get((value.slot, "ntk")), q1, q2)
        if name in ("mask1", "mask2") and self.images:
            return self._mask(value, name == "mask2")
        return flags(name, value, first)

    def _mask(self, value: Value, second: bool) -> Array | None:
        """Which positions of an output are masked, axes as the finite network's; None where nothing is."""
        first, given = self.inputs[0], [i.mask2 if second else i.mask1 for i in self.inputs]
        if (second and first.symmetric) or all(m is None for m in given):
            return None
        n = first.n2 if second else first.n1
        masks = [None if m is None else m.reshape(math.prod(first.batch) * n, -1) for m in given]
        spatial = [leaf.spatial for leaf in leaves(self.lowered.outputs)]
        own = masked_outputs(self.lowered, spatial, masks)[value.slot]
        if own is None:
            return None
        shaped = own.reshape(*first.batch, n, *value.spatial, 1)
        at = tuple(
            len(first.batch) + axis % (2 + len(value.spatial)) for axis in (value.batch_axis, value.channel_axis)
        )
        return np.moveaxis(shaped, (len(first.batch), -1), at)

    def _variance(self, value: Value, side: int) -> Array:
        first, q = self.inputs[0], self.variances[side][value.slot]
        n = first.n2 if side else first.n1
        return q.reshape(*first.batch, n, *(k for k in value.spatial for _ in range(2)))

    def _rounded(self, x: Array) -> Array:
        with np.errstate(over="ignore"):
            return x.astype(self.inputs[0].dtype)


def flags(name: str, value: Value, first: Input) -> Any:
    """Fields of a Kernel that are no arrays."""
    return {
        "x1_is_x2": first.symmetric,
        "is_gaussian": value.gaussian,
        "is_input": False,
        "is_centred": not value.mean and bool(value.gaussian or value.weights),
        "shape1": _shape(first.n1, value),
        "shape2": _shape(first.n2, value),
        "batch_axis": value.batch_axis,
        "channel_axis": value.channel_axis,
        "diagonal_batch": True,
        "diagonal_spatial": False,
        "is_reversed": False,
        "mask1": None,
        "mask2": None,
    }[name]


def _shape(n: int, value: Value) -> tuple[int, ...]:
    """Shape of a finite network's output."""
    rest = iter(value.spatial)
    named = {value.batch_axis: n, value.channel_axis: value.channels}
    return tuple(named[axis] if axis in named else next(rest) for axis in range(2 + len(value.spatial)))
