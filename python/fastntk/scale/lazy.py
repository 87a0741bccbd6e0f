"""Kernels of Dask arrays as lazy Dask arrays: a task for each block, none for an entry."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
    batch_dims: int

    def __call__(self, x1: Array, x2: Array | None = None) -> Any:
        with options(isa=self.isa):
            found = self.kernel_fn(x1, x2, self.fields, **self._how)
        return found[0] if self.single else tuple(found)

    def diagonal(self, x: Array) -> Any:
        with options(isa=self.isa):
            found = self.kernel_fn.diagonal(x, self.fields, **self._how)
        return found[0] if self.single else tuple(found)

    @property
    def _how(self) -> dict[str, Any]:
        return {"batch_dims": self.batch_dims, "backend": self.backend, "num_threads": self.num_threads}


@dataclass(frozen=True)
class _Call:
    """A call, checked: its task, what the network gives, the arrays, and the names of both."""

    block: _Block
    value: Value
    first: Any
    second: Any
    token: str

    @property
    def lead(self) -> tuple[tuple[int, ...], ...]:
        """Chunks of independent problems."""
        found: tuple[tuple[int, ...], ...] = self.first.chunks[: self.block.batch_dims]
        return found

    def problems(self) -> Iterator[tuple[int, ...]]:
        """Numbers of their chunks."""
        return iter(np.ndindex(*(len(axis) for axis in self.lead)))

    def samples(self, x: Any) -> tuple[int, ...]:
        """Chunks of samples."""
        found: tuple[int, ...] = x.chunks[self.block.batch_dims]
        return found

    def part(self, x: Any, problem: tuple[int, ...], i: int) -> tuple[Any, ...]:
        """The key of a chunk of the inputs."""
        return (x.name, *problem, i, *(0,) * (x.ndim - 1 - self.block.batch_dims))

    @property
    def positions(self) -> tuple[tuple[int, ...], ...]:
        """Chunks of positions, of both samples, axis by axis."""
        return tuple((n,) for n in self.value.spatial for _ in range(2))


def _mirrored(block: Array, lead: int) -> Array:
    """A view: samples change places, and positions of both with them."""
    return block.transpose([*range(lead), *(lead + (axis ^ 1) for axis in range(block.ndim - lead))])


def _entry(found: Sequence[Array], k: int) -> Array:
    return found[k]


def kernel(
    kernel_fn: Any, x1: Any, x2: Any = None, get: str | Sequence[str] = ("nngp", "ntk"), *, batch_dims: int = 0,
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
    batch_dims : {0, 1}
        Leading axes that count independent problems, in chunks too, the same of x1 and x2.
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
    call = _checked(kernel_fn, x1, x2, get, batch_dims, backend, num_threads, "kernel_fn")
    first, second = call.first, call.second
    other = first if second is None else second
    name = f"fastntk-kernel-{call.token}"
    tail = (0,) * len(call.positions)
    tasks: dict[Any, Any] = {}
    mirrors = []
    for problem in call.problems():
        for i in range(len(call.samples(first))):
            for j in range(0 if second is not None else i, len(call.samples(other))):
                own = call.part(first, problem, i)
                both = (own,) if second is None and i == j else (own, call.part(other, problem, j))
                tasks[(name, *problem, i, j, *tail)] = (call.block, *both)
                if second is None and i != j:
                    mirrors.append(((*problem, j, i, *tail), (*problem, i, j, *tail)))
    chunks = (*call.lead, call.samples(first), call.samples(other), *call.positions)
    return _arrays(name, tasks, call, chunks, mirrors)


def diagonal(
    kernel_fn: Any, x: Any, get: str | Sequence[str] = ("nngp", "ntk"), *, batch_dims: int = 0,
    backend: str | None = None, num_threads: int = 1,
) -> Any:  # fmt: skip
    """K(x, x) and NTK(x, x) of each sample of a Dask array, lazily, in O(n); a task for each chunk.

    Parameters
    ----------
    kernel_fn, x, get, batch_dims, backend, num_threads
        As for :func:`kernel`.

    Returns
    -------
    dask.array.Array (n,), or (n, h, h', w, w'); a named tuple for a tuple

    Raises
    ------
    TypeError, ValueError
        As :func:`kernel`.
    """
    call = _checked(kernel_fn, x, None, get, batch_dims, backend, num_threads, "diagonal")
    name = f"fastntk-diagonal-{call.token}"
    tail = (0,) * len(call.positions)
    tasks = {
        (name, *problem, i, *tail): (call.block.diagonal, call.part(call.first, problem, i))
        for problem in call.problems()
        for i in range(len(call.samples(call.first)))
    }
    return _arrays(name, tasks, call, (*call.lead, call.samples(call.first), *call.positions), [])


def _arrays(
    name: str, tasks: dict[Any, Any], call: _Call, chunks: tuple[tuple[int, ...], ...],
    mirrors: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
) -> Any:  # fmt: skip
    """Dask arrays of tasks: themselves, or their entries, with mirror images (of whom, by their places)."""
    import dask.array as da
    from dask.highlevelgraph import HighLevelGraph

    block, x = call.block, call.first
    inputs = [x] if call.second is None else [x, call.second]
    dtype = x.dtype if x.dtype.kind == "f" else np.dtype(np.float64)
    meta = np.empty_like(x._meta, shape=(0,) * len(chunks), dtype=dtype)

    def reflect(own: dict[Any, Any], of: str) -> dict[Any, Any]:
        return own | {(of, *place): (_mirrored, (of, *other), block.batch_dims) for place, other in mirrors}

    if block.single:
        graph = HighLevelGraph.from_collections(name, reflect(tasks, name), dependencies=inputs)
        return da.Array(graph, name, chunks, meta=meta)
    base = HighLevelGraph.from_collections(name, tasks, dependencies=inputs)
    found = []
    for k, field in enumerate(block.fields):
        own = f"{name}-{field}"
        entries = reflect({(own, *key[1:]): (_entry, key, k) for key in tasks}, own)
        graph = HighLevelGraph({**base.layers, own: entries}, {**base.dependencies, own: {name}})
        found.append(da.Array(graph, own, chunks, meta=meta))
    return named_tuple(block.fields)(*found)


def _checked(
    kernel_fn: Any, x1: Any, x2: Any, get: Any, batch_dims: Any, backend: str | None, num_threads: Any, what: str
) -> _Call:
    try:
        import dask.array as da
        from dask.base import tokenize
    except ImportError as error:
        raise ImportError(f"[{what}] Dask arrays need Dask (pip install 'fastntk[dask]')") from error
    network = kernel_fn_of(kernel_fn, what)
    fields = check_get(get)
    if fields is None or set(fields) - set(FIELDS):
        raise ValueError(f"[{what}] of Dask arrays get must name 'nngp', 'ntk' or both, given {get!r}")
    if isinstance(num_threads, bool) or not isinstance(num_threads, (int, np.integer)) or num_threads < 1:
        raise ValueError(f"[{what}] num_threads must be an integer of at least 1, given {num_threads!r}")
    if isinstance(batch_dims, bool) or batch_dims not in (0, 1):
        raise ValueError(f"[{what}] batch_dims must be 0 or 1, given {batch_dims!r}")
    given = {"x1": x1} if x2 is None else {"x1": x1, "x2": x2}
    for name, x in given.items():
        if not isinstance(x, da.Array):
            raise TypeError(
                f"[{what}] {name} must be a Dask array where the other is, given {describe(x)}: dask.array.from_array "
                "makes it one"
            )
        _check_chunks(x, name, batch_dims, what)
    if x2 is not None and x1.chunks[:batch_dims] != x2.chunks[:batch_dims]:
        raise ValueError(
            f"[{what}] x1 has chunks {x1.chunks[0]} of problems, x2 {x2.chunks[0]}: x2.rechunk({{0: x1.chunks[0]}})"
        )
    kinds = {library_of(x._meta) for x in given.values()}
    if len(kinds) > 1:
        raise TypeError(f"[{what}] x1 has chunks of {library_of(x1._meta)}, x2 of {library_of(x2._meta)}: convert one")
    like = [np.broadcast_to(np.zeros((), x.dtype), x.shape) for x in given.values()]
    _, tree = check_inputs(network.layer, like[0], like[1] if x2 is not None else None, batch_dims)
    if axes_of(network.layer)[0] % (x1.ndim - batch_dims):
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
    block = _Block(network, fields, isinstance(get, str), backend, isa, int(num_threads), int(batch_dims))
    token = tokenize(repr(block), repr(lowered), x1.name, None if x2 is None else x2.name)
    return _Call(block, value, x1, x2, str(token))


def _check_chunks(x: Any, name: str, batch_dims: int, what: str) -> None:
    """Raise unless the chunks of a Dask array are known, and lie along problems and samples."""
    if any(math.isnan(n) for axis in x.chunks for n in axis):
        raise ValueError(
            f"[{what}] {name} has chunks of unknown sizes, shape {x.shape}: compute_chunk_sizes() finds them"
        )
    cut = [axis for axis in range(1 + batch_dims, x.ndim) if len(x.chunks[axis]) > 1]
    if cut:
        whole = ", ".join(f"{axis}: -1" for axis in cut)
        raise ValueError(
            f"[{what}] {name} is cut along axis {cut[0]}, chunks {x.chunks[cut[0]]}; a chunk must hold whole samples: "
            f"rechunk({{{whole}}})"
        )
