"""Kernels of Dask arrays as lazy Dask arrays: a task for each block, none for an entry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arraylike import describe, library_of
from ..base.options import options
from ..call.inputs import axes_of, check_inputs
from ..call.kernel_fn import KernelFn
from ..call.results import check_get
from ..call.results import named as named_tuple
from ..engines.select import select
from ..network.lower import lower
from ..network.program import Value
from .problem import kernel_fn_of, values_of
from .targets import FIELDS

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Block:
    """One block, in whichever process: a task of the graph."""

    kernel_fn: KernelFn
    fields: tuple[str, ...]
    single: bool
    backend: str | None
    isa: str | None
    num_threads: int
    program: str  # what the network is, for the names of arrays

    def __call__(self, x1: Array, x2: Array | None = None) -> Any:
        with options(isa=self.isa):
            found = self.kernel_fn(x1, x2, self.fields, backend=self.backend, num_threads=self.num_threads)
        return found[0] if self.single else tuple(found)

    def diagonal(self, x: Array) -> Any:
        with options(isa=self.isa):
            found = self.kernel_fn.diagonal(x, self.fields, backend=self.backend, num_threads=self.num_threads)
        return found[0] if self.single else tuple(found)


def _mirrored(block: Array) -> Array:
    """A view: samples change places, and positions of both with them."""
    return block.transpose([axis ^ 1 for axis in range(block.ndim)])


def _entry(found: Sequence[Array], k: int) -> Array:
    return found[k]


def kernel(
    kernel_fn: Any, x1: Any, x2: Any = None, get: str | Sequence[str] = ("nngp", "ntk"), *,
    backend: str | None = None, num_threads: int = 1,
) -> Any:  # fmt: skip
    """Kernels of Dask arrays, lazily: what ``kernel_fn(x1, x2, get)`` gives where x1 is a Dask array.

    The result has a block for each chunk of x1 with each of x2, and one task for it. Where x2 is left out, blocks below
    the diagonal are views of those above. A chunk goes to a worker once and stays there for the blocks that it takes
    part in.

    Parameters
    ----------
    kernel_fn : KernelFn
    x1 : dask.array.Array (n1, d) or with spatial axes
        float32 or float64 (integers count as float64), in chunks along the samples alone, of NumPy's or of CuPy's.
    x2 : dask.array.Array, optional
        As x1. None: x1 again.
    get : 'nngp', 'ntk' or a tuple of both
    backend : optional
        As for :func:`fastntk.options`.
    num_threads : int
        Of one task.

    Returns
    -------
    dask.array.Array (n1, n2), or (n1, n2, h, h', w, w') of a network that ends with positions; a named tuple of them
    for a tuple. With backend 'cpu' computed to the bits of one call in one process.

    Raises
    ------
    TypeError
        Other arrays; x1 and x2 of different dtypes, or with chunks of different libraries.
    ValueError
        Unknown chunk sizes, chunks along other axes than that of the samples, and as :meth:`KernelFn.__call__`.

    Examples
    --------
    >>> import dask.array as da
    >>> from fastntk import scale, stax
    >>> net = stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1))
    >>> x = da.random.default_rng(0).standard_normal((1000, 8), chunks=(300, 8))
    >>> k = scale.kernel(net.kernel_fn, x, get="ntk")
    >>> k.shape, k.numblocks
    ((1000, 1000), (4, 4))
    """
    what = "kernel_fn"
    block, value, (first, second) = _checked(kernel_fn, x1, x2, get, backend, num_threads, what)
    symmetric = second is None
    other = first if second is None else second
    name = f"fastntk-kernel-{_token(block, first.name, other.name, symmetric)}"
    rows, columns = len(first.chunks[0]), len(other.chunks[0])
    rest = (0,) * (first.ndim - 1)
    tail = (0,) * (2 * len(value.spatial))
    tasks: dict[Any, Any] = {}
    for i in range(rows):
        for j in range(i if symmetric else 0, columns):
            own = (first.name, i, *rest)
            both = (own,) if symmetric and i == j else (own, (other.name, j, *rest))
            tasks[(name, i, j, *tail)] = (block, *both)
    chunks = (first.chunks[0], other.chunks[0], *((n,) for n in value.spatial for _ in range(2)))
    mirror = (rows, tail) if symmetric else None
    return _arrays(name, tasks, block, chunks, [first] if second is None else [first, second], mirror)


def diagonal(
    kernel_fn: Any, x: Any, get: str | Sequence[str] = ("nngp", "ntk"), *, backend: str | None = None,
    num_threads: int = 1,
) -> Any:  # fmt: skip
    """K(x, x) and NTK(x, x) of each sample of a Dask array, lazily, in O(n); a task for each chunk.

    Parameters
    ----------
    kernel_fn, x, get, backend, num_threads
        As for :func:`kernel`.

    Returns
    -------
    dask.array.Array (n,), or (n, h, h', w, w'); a named tuple for a tuple

    Raises
    ------
    TypeError, ValueError
        As :func:`kernel`.
    """
    block, value, (first, _) = _checked(kernel_fn, x, None, get, backend, num_threads, "diagonal")
    name = f"fastntk-diagonal-{_token(block, first.name)}"
    tail = (0,) * (2 * len(value.spatial))
    rest = (0,) * (first.ndim - 1)
    tasks = {(name, i, *tail): (block.diagonal, (first.name, i, *rest)) for i in range(len(first.chunks[0]))}
    chunks = (first.chunks[0], *((n,) for n in value.spatial for _ in range(2)))
    return _arrays(name, tasks, block, chunks, [first], None)


def _arrays(
    name: str, tasks: dict[Any, Any], block: _Block, chunks: tuple[tuple[int, ...], ...], inputs: Sequence[Any],
    mirror: tuple[int, tuple[int, ...]] | None,
) -> Any:  # fmt: skip
    """Dask arrays of tasks: themselves, or their entries, with mirror images where there are."""
    import dask.array as da
    from dask.highlevelgraph import HighLevelGraph

    dtype = inputs[0].dtype if inputs[0].dtype.kind == "f" else np.dtype(np.float64)
    meta = np.empty_like(inputs[0]._meta, shape=(0,) * len(chunks), dtype=dtype)

    def reflect(own: dict[Any, Any], of: str) -> dict[Any, Any]:
        rows, tail = mirror or (0, ())
        below = {(of, j, i, *tail): (_mirrored, (of, i, j, *tail)) for i in range(rows) for j in range(i + 1, rows)}
        return own | below

    if block.single:
        graph = HighLevelGraph.from_collections(name, reflect(tasks, name), dependencies=inputs)
        return da.Array(graph, name, chunks, meta=meta)
    base = HighLevelGraph.from_collections(name, tasks, dependencies=inputs)
    found = []
    for k, field in enumerate(block.fields):
        own = f"{name}-{field}"
        entries = reflect({(own, *key[1:]): (_entry, key, k) for key in tasks}, own)
        layers = {**base.layers, own: entries}
        graph = HighLevelGraph(layers, {**base.dependencies, own: {name}})
        found.append(da.Array(graph, own, chunks, meta=meta))
    return named_tuple(block.fields)(*found)


def _token(*parts: Any) -> str:
    from dask.base import tokenize

    return str(tokenize(*(repr(part) for part in parts)))


def _checked(
    kernel_fn: Any, x1: Any, x2: Any, get: Any, backend: str | None, num_threads: Any, what: str
) -> tuple[_Block, Value, tuple[Any, Any]]:
    """The task, what the network gives, and the arrays."""
    try:
        import dask.array as da
    except ImportError as error:
        raise ImportError(f"[{what}] Dask arrays need Dask (pip install 'fastntk[dask]')") from error
    network = kernel_fn_of(kernel_fn, what)
    fields = check_get(get)
    if fields is None or set(fields) - set(FIELDS):
        raise ValueError(f"[{what}] of Dask arrays get must name 'nngp', 'ntk' or both, given {get!r}")
    if isinstance(num_threads, bool) or not isinstance(num_threads, (int, np.integer)) or num_threads < 1:
        raise ValueError(f"[{what}] num_threads must be an integer of at least 1, given {num_threads!r}")
    given = {"x1": x1} if x2 is None else {"x1": x1, "x2": x2}
    for name, x in given.items():
        if not isinstance(x, da.Array):
            raise TypeError(
                f"[{what}] {name} must be a Dask array where the other is, given {describe(x)}: dask.array.from_array "
                "makes it one"
            )
        _check_chunks(x, name, what)
    kinds = {library_of(x._meta) for x in given.values()}
    if len(kinds) > 1:
        raise TypeError(f"[{what}] x1 has chunks of {library_of(x1._meta)}, x2 of {library_of(x2._meta)}: convert one")
    like = [np.broadcast_to(np.zeros((), x.dtype), x.shape) for x in given.values()]
    _, tree = check_inputs(network.layer, like[0], like[1] if x2 is not None else None, 0)
    if axes_of(network.layer)[0] % x1.ndim:
        raise ValueError(
            f"[{what}] Dask arrays must count samples on their first axis; the network's batch_axis is another"
        )
    lowered = lower(network.layer, values_of(tree))
    value = lowered.outputs
    if not isinstance(value, Value):
        raise ValueError(f"[{what}] of Dask arrays a network has one output")
    isa = None
    if kinds == {"numpy"}:  # every worker computes as this process would
        engine = select(backend, None)
        backend, isa = engine.name, engine.isa if engine.name == "cpu" else None
    return _Block(network, fields, isinstance(get, str), backend, isa, int(num_threads), repr(lowered)), value, (x1, x2)


def _check_chunks(x: Any, name: str, what: str) -> None:
    """Raise unless the chunks of a Dask array are known, and lie along the samples."""
    if any(math.isnan(n) for axis in x.chunks for n in axis):
        raise ValueError(
            f"[{what}] {name} has chunks of unknown sizes, shape {x.shape}: compute_chunk_sizes() finds them"
        )
    cut = [axis for axis in range(1, x.ndim) if len(x.chunks[axis]) > 1]
    if cut:
        whole = ", ".join(f"{axis}: -1" for axis in cut)
        raise ValueError(
            f"[{what}] {name} is cut along axis {cut[0]}, chunks {x.chunks[cut[0]]}; a chunk must hold whole samples: "
            f"rechunk({{{whole}}})"
        )
