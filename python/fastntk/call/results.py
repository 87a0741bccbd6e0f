"""What a kernel function returns: fields by name, named tuples, and arrays given by ``out``."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy.typing as npt

from ..base.arraylike import describe
from ..base.arrays import check_out
from ..base.kernel import Kernel
from ..network.program import Value
from .inputs import Input

Array = npt.NDArray[Any]

FIELDS = tuple(Kernel.__dataclass_fields__)


def check_get(get: Any) -> tuple[str, ...] | None:
    if get is None:
        return None
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


def tree_of(values: Any, make: Any) -> Any:
    return make(values) if isinstance(values, Value) else tuple(tree_of(v, make) for v in values)


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


def flags(name: str, value: Value, first: Input) -> Any:
    """Fields of a Kernel that are no arrays."""
    return {
        "x1_is_x2": first.symmetric,
        "is_gaussian": value.gaussian,
        "is_input": False,
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
