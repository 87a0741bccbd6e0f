"""What a store is asked to hold: the arguments, checked, and the fingerprint by which they are known again."""

from __future__ import annotations

import hashlib
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arraylike import describe
from ..base.arrays import as_input
from ..base.checks import count
from ..base.options import resolve_options
from ..base.place import place_of
from ..base.version import __version__
from ..call.inputs import Input, axes_of, check_inputs
from ..call.kernel_fn import KernelFn
from ..call.results import check_get
from ..engines.select import select
from ..network.layer import Layer
from ..network.lower import lower
from ..network.program import Value
from .targets import FIELDS, Layout

Array = npt.NDArray[Any]

SIDE = 4032  # rows of a block; 4,096 is slower, because lines a power of two apart share their places in caches
_PANEL = 64
_LEAST = 256  # rows below which no matrix is cut up for its own sake
_PARTS = 8  # rows of blocks that a matrix is cut into at least
_SECONDS = 300.0  # of one core that a block of images may take: what a killed worker loses


@dataclass(frozen=True)
class Problem:
    """One Gram matrix, or several of the same inputs.

    Attributes
    ----------
    x2 : numpy.ndarray or None
        None: x1 again.
    several : bool
        Whether ``get`` was a tuple.
    backend, isa : str
        Of every block, wherever it is computed.
    seconds : float or None
        Of one pair of images on one core, by :meth:`KernelFn.explain`; None for rows.
    """

    kernel_fn: KernelFn
    x1: Array
    x2: Array | None
    several: bool
    layout: Layout
    backend: str
    isa: str
    seconds: float | None
    program: str

    @property
    def symmetric(self) -> bool:
        return self.x2 is None

    def side(self, axis: int) -> Array:
        return self.x1 if axis == 0 or self.x2 is None else self.x2

    def pairs(self) -> list[tuple[int, int]]:
        return self.layout.pairs(self.symmetric)

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for blocks to belong together, each of it by its name."""
        return {
            "fastntk": __version__,
            "network": _plain(repr(self.kernel_fn.layer)),
            "program": self.program,
            "get": list(self.layout.fields),
            "dtype": self.layout.dtype,
            "x1": _digest(self.x1),
            "x2": None if self.x2 is None else _digest(self.x2),
            "chunks": list(self.layout.chunks),
            "backend": f"{self.backend} {self.isa}".strip(),
        }


def problem_of(kernel_fn: Any, x1: Any, x2: Any, get: Any, chunks: Any, backend: str | None, what: str) -> Problem:
    """Check the arguments of a Gram matrix.

    Raises
    ------
    TypeError, ValueError
        As :meth:`KernelFn.__call__`; several inputs, a network with several outputs or with positions left, samples
        on another axis than the first, ``get`` beside 'nngp' and 'ntk', chunks that do not fit.
    """
    kernel_fn = kernel_fn_of(kernel_fn, what)
    fields = check_get(get)
    if fields is None or set(fields) - set(FIELDS):
        raise ValueError(f"[{what}] get must name 'nngp', 'ntk' or both, given {get!r}")
    arrays = [_input(x, name, what) for x, name in ((x1, "x"), (x2, "x2")) if x is not None or name == "x"]
    first, second = arrays[0], arrays[1] if len(arrays) > 1 else None
    if not all(len(x) for x in arrays):
        raise ValueError(f"[{what}] there are no samples: shapes {', '.join(str(x.shape) for x in arrays)}")
    given, tree = check_inputs(kernel_fn.layer, first, second, 0)
    if axes_of(kernel_fn.layer)[0] % first.ndim:
        raise ValueError(f"[{what}] x must count samples on its first axis; the network's batch_axis is another")
    lowered = lower(kernel_fn.layer, values_of(tree))
    value = lowered.outputs
    if not isinstance(value, Value):
        raise ValueError(f"[{what}] a network with several outputs is not taken: one store for each")
    if value.spatial:
        raise ValueError(
            f"[{what}] the network ends with positions {value.spatial}: Flatten or a global pool makes kernels (n, n)"
        )
    images = bool(given[0].value.spatial)
    seconds = kernel_fn.explain(first.shape, first.dtype, backend=backend).seconds if images else None
    shape = (given[0].n1, given[0].n2)
    layout = Layout(fields, shape, first.dtype.name, _chunks(chunks, shape, second is None, seconds, what))
    engine = select(backend, None)
    program = re.sub(r"\s+", " ", _plain(_full_repr(lowered)))
    return Problem(
        kernel_fn, first, second, not isinstance(get, str), layout, engine.name,
        engine.isa if engine.name == "cpu" else "", seconds, hashlib.sha256(program.encode()).hexdigest(),
    )  # fmt: skip


def kernel_fn_of(kernel_fn: Any, what: str) -> KernelFn:
    """A network's kernel function, of the network too."""
    found = kernel_fn.kernel_fn if isinstance(kernel_fn, Layer) else kernel_fn
    if not isinstance(found, KernelFn):
        raise TypeError(f"[{what}] kernel_fn must be that of a network of fastntk.stax, given {describe(kernel_fn)}")
    return found


def threads(num_threads: int | None, on_workers: bool) -> int | None:
    """Of one block. A worker of Dask counts a task as one thread, and so does a block there unless it is told more."""
    if num_threads is None and on_workers:
        return 1
    return resolve_options(None, num_threads).num_threads


def _input(x: Any, name: str, what: str) -> Array:
    if isinstance(x, (tuple, list)) and any(hasattr(part, "ndim") for part in x):
        raise TypeError(f"[{what}] {name} must be one array, given {describe(x)} of them")
    if type(x).__module__.split(".")[0] == "dask":
        raise TypeError(f"[{what}] {name} must be in memory, given a Dask array: {name}.compute() brings it there")
    place = place_of(what, **{name: x})
    if place.ordinal is not None:
        raise TypeError(f"[{what}] {name} must be in host memory, given an array on {place.name}: backend='cuda' "
                        "computes blocks of arrays in host memory on a device")  # fmt: skip
    taken = place.take(x, name, what)
    return as_input(taken, name, max(2, taken.ndim), what)


def values_of(tree: Any) -> Any:
    """What lowering knows of inputs, in their tree."""
    return tree.value if isinstance(tree, Input) else tuple(values_of(t) for t in tree)


def _chunks(given: Any, shape: tuple[int, int], symmetric: bool, seconds: float | None, what: str) -> tuple[int, int]:
    if given is None:
        side = SIDE
        if seconds is not None:
            side = min(side, max(1, int(math.sqrt(_SECONDS / seconds)) // _PANEL) * _PANEL)
        sides = [_whole(min(side, max(_LEAST if seconds is None else _PANEL, -(-n // _PARTS)))) for n in shape]
        found = (sides[0], sides[0 if symmetric else 1])
    elif isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 2:
        found = (count(given[0], "chunks", what), count(given[1], "chunks", what))
    else:
        found = (count(given, "chunks", what),) * 2
    if symmetric and found[0] != found[1]:
        raise ValueError(f"[{what}] chunks must be square where x2 is left out, given {given!r}")
    return min(found[0], max(1, shape[0])), min(found[1], max(1, shape[1]))


def _whole(rows: int) -> int:
    return -(-rows // _PANEL) * _PANEL


def _plain(text: str) -> str:
    """Without the addresses by which a process knows functions."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _full_repr(value: Any) -> str:
    with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
        return repr(value)


def _digest(x: Array) -> str:
    """Shape and bytes, in words that a message can show."""
    content: Any = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
    return f"{x.shape} {x.dtype.newbyteorder('=')} sha256 {hashlib.sha256(content).hexdigest()[:32]}"
