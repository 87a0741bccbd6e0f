"""The kernel function of a network: ``kernel_fn(x1, x2, get)`` and what stands beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arrays import FLOATS, allocate, contiguous
from ..base.checks import integer
from ..base.door import door
from ..base.kernel import Exact, Kernel
from ..base.place import Place, place_of
from ..engines.engine import Engine
from ..engines.numpy_rows import NumpyEngine
from ..engines.select import lacking, select
from ..engines.work import Work, needs_positions
from ..network.layer import Layer
from ..network.lower import lower
from ..network.program import Lowered, Value
from ..plan.resolve import depends_on_ranges, largest_pixel, range_of, range_of_rows, resolve, unresolved
from .asked import Asked, asked
from .differentiable import Differentiable
from .explain import Explanation, explain
from .explain_positions import PositionsExplanation, explain_positions
from .gram import PairInput, Units, run_diagonal, run_pairs
from .image_call import ImageCall, images_of
from .image_gram import BUDGET
from .inputs import Input, axes_of, check_inputs
from .results import FIELDS, check_get, check_targets, flags, named, tree_of

Array = npt.NDArray[Any]

_POSITIONS = 1 << 24  # of an image that `explain` plans: maps of all of them are made
_LAZY = "fastntk.scale"  # what makes lazy kernels of Dask's arrays: loaded when one comes
PLANES = ("nngp", "ntk", "defect")  # what an engine writes for each output


@door
class KernelFn(Differentiable):
    """NNGP and NTK of an infinitely wide network.

    Made by a layer: ``init_fn, apply_fn, kernel_fn = stax.serial(...)``. See :meth:`__call__`, :meth:`diagonal`,
    :meth:`depths`, :meth:`explain`; derivatives: :meth:`vjp`, :meth:`diagonal_vjp`, :meth:`jacobian`.
    """

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self._last: tuple[Any, Lowered] | None = None  # what the last call made of its inputs' values

    def _lowered(self, values: Any) -> Lowered:
        last = self._last
        if last is None or last[0] != values:
            self._last = last = values, lower(self.layer, values)
        return last[1]

    def __repr__(self) -> str:
        return f"KernelFn({self.layer!r})"

    def __call__(
        self, x1: Any = None, x2: Any = None, get: str | Sequence[str] | None = None, *, pattern: Any = None,
        mask_constant: float | None = None, diagonal_batch: bool | None = None, diagonal_spatial: bool | None = None,
        batch_axis: int | None = None, channel_axis: int | None = None, batch_dims: int = 0, out: Any = None,
        backend: str | None = None, num_threads: int | None = None, memory_budget: int = BUDGET,
        progress: bool = False, x1_or_kernel: Any = None,
    ) -> Any:  # fmt: skip
        """Kernels between the samples of x1 and x2.

        Parameters
        ----------
        x1 : numpy.ndarray (n1, d) or (n1, h, w, c) float32 or float64, or Kernel
            Inputs, with 0 to 3 spatial axes between samples and channels (or where the layers' ``batch_axis`` and
            ``channel_axis`` say); or the result of another network to continue; a tuple of them for a ``parallel``
            network. With ``batch_dims=1``: one more leading axis, one Gram for each of its entries. Integers and bool
            are converted to float64. Never modified. Converted once where they come in: lists and tuples of numbers,
            PyTorch's and JAX's arrays in host memory, frames of pandas (what is missing is NaN), all with
            ``__array__``; a list or tuple of arrays is one input for each branch. Or arrays on one CUDA device (CuPy,
            PyTorch, JAX, any with DLPack or ``__cuda_array_interface__``), which are computed there, on the caller's
            current stream. Or a Dask array in chunks along the samples: the result is lazy then, a Dask array too
            (:func:`fastntk.scale.kernel`).
        x2 : numpy.ndarray, optional
            As x1, n2 samples. None: x1 again, and half the work.
        get : str or tuple of str, optional
            'nngp', 'ntk' or another field of :class:`Kernel`: that array; a tuple: a named tuple of them; None: a
            ``Kernel``, which the next ``kernel_fn`` takes.
        pattern : (array, array), optional
            Of networks with Aggregate: the graphs of the samples of x1 and x2, as the layer says; where x2 is None the
            second may be.
        mask_constant : float, optional
            Entries of the inputs that equal it, NaN too, are left out: they count as 0, and positions at which all
            channels do carry nothing through any layer, nor count in means over positions.
        diagonal_batch, diagonal_spatial : optional
            True and False, the layout that kernels have.
        batch_axis, channel_axis : int, optional
            Axes of samples and channels of the inputs, for networks whose layers name none.
        batch_dims : {0, 1}
            Leading axes that count independent problems.
        out : numpy.ndarray of the result's shape, or tuple of them in the order of ``get``, optional
            Where 'nngp' and 'ntk' go: of the result's dtype, any strides, a ``numpy.memmap`` too, or a tensor of
            PyTorch's; on a device arrays that lie there.
        backend, num_threads : optional
            As for :func:`fastntk.options`.
        memory_budget : int
            Inputs with spatial axes, backend 'cpu': bytes that the call may take beside inputs and outputs, however
            many samples.
        progress : bool
            Inputs with spatial axes: show pairs done, by tqdm where it is installed.
        x1_or_kernel
            x1, by the name that Neural Tangents has for it.

        Returns
        -------
        numpy.ndarray (n1, n2) of x1's dtype, named tuple ``AnalyticKernel``, Kernel, or a tuple of these for a network
        with several outputs. Where the first input is PyTorch's or JAX's, theirs (JAX holds float64 only under its
        ``jax_enable_x64``, and takes that of integers as float32 without). Of inputs on a device: arrays there, of the
        library of the first (by DLPack; else CuPy's), complete in the order of its stream: nothing waits for them.
        n1 = 0 or n2 = 0 give empty arrays. A network that ends with spatial axes gives (n1, n2, h, h', w,
        w'): positions of both samples, axis by axis.

        Raises
        ------
        TypeError
            Inputs that do not convert to arrays, of other dtypes, or x1 and x2 of different dtypes; masked arrays,
            tensors that record gradients, JAX's tracers; arrays on a device beside arrays in host memory.
        ValueError
            Wrong rank or feature count, a nonlinearity on non-Gaussian input, unknown or repeated ``get``, wrong
            ``out``; arrays on two devices, or on a device and a backend other than 'cuda'.
        NotImplementedError
            A layer that the chosen backend lacks, by its name; of a Kernel with positions as x1 all but 'numpy'.
        RuntimeError
            A backend that is not there, with the reason; an error of the device, with the op.
        MemoryError
            Before anything is allocated, when the result does not fit (on a device when it cannot be), or one pair of
            images not into ``memory_budget`` (:meth:`explain` shows what it takes).

        Notes
        -----
        Normalisation: the input's covariance is ``x1 . x2 / d``; weights have variance ``W_std^2 / fan_in``. NaN and
        infinity stay in their own rows and columns. The result does not depend on tiling, threads, or x2 being a
        copy of x1, from a given product of the inputs; with spatial axes, (x1, x2) and (x2, x1) agree to rounding.

        Accuracy: float64 1e-12 relative, float32 2e-6 at depth 10 and 1e-5 at depth 50, near-duplicates included
        (docs/accuracy.md). With spatial axes float32 2e-6 at 21 layers; behind pooling, float64 of images at
        a relative distance r is right to about 1e-16 / r where a nonlinearity follows.

        References
        ----------
        Lee et al. (2018), arXiv:1711.00165, eq. (5) (NNGP); Jacot et al. (2018), arXiv:1806.07572, theorem 1 (NTK);
        Novak et al. (2019), arXiv:1810.05148, and Arora et al. (2019), arXiv:1904.11955 (convolutions).
        """
        names = check_get(get)
        if x1 is not None and x1_or_kernel is not None:
            raise TypeError("[kernel_fn] x1 and x1_or_kernel are two names of one argument, given both")
        x1 = x1_or_kernel if x1 is None else x1
        extras = asked(pattern, mask_constant, diagonal_batch, diagonal_spatial, batch_axis, channel_axis)
        if isinstance(memory_budget, bool) or not isinstance(memory_budget, (int, np.integer)) or memory_budget < 1:
            raise ValueError(f"[kernel_fn] memory_budget must be a positive number of bytes, given {memory_budget!r}")
        if not isinstance(progress, (bool, np.bool_)):
            raise TypeError(f"[kernel_fn] progress must be True or False, given {progress!r}")
        place = place_of("kernel_fn", x1=x1, x2=x2, out=out)
        if place.lazy:
            if out is not None:
                raise ValueError("[kernel_fn] Dask arrays are computed later: out must be None, given an array")
            return import_module(_LAZY).kernel(
                self, x1, x2, get, batch_dims=batch_dims, backend=backend,
                num_threads=1 if num_threads is None else num_threads,
            )  # fmt: skip
        with place.current():
            return self._call(
                x1, x2, get, names, batch_dims, out, backend, num_threads, memory_budget, progress, place, extras
            )

    def _call(
        self, x1: Any, x2: Any, get: Any, names: tuple[str, ...] | None, batch_dims: int, out: Any,
        backend: str | None, num_threads: int | None, memory_budget: int, progress: bool, place: Place, extras: Asked,
    ) -> Any:  # fmt: skip
        inputs, tree = check_inputs(self.layer, x1, x2, batch_dims, place, extras)
        first = inputs[0]
        lowered = self._lowered(_values(tree))
        if over_positions(lowered, inputs):
            lowered = _resolved(lowered, inputs)
            engine = select(backend, num_threads, place, work_of(lowered, inputs))
            return ImageCall(lowered, inputs, engine, memory_budget)(names, get, out, progress)
        planes = [p for p in PLANES if names is None or p in names or (p == "defect" and "exact" in names)]
        if "ntk" in planes:
            inputs, planes = _known_ntk(inputs, planes, required=names is not None)
        count = lowered.program.n_outputs
        shape = (*first.batch, first.n1, first.n2)
        targets = check_targets(out, get, names, count, inputs, shape)
        engine = select(backend, num_threads, place, work_of(lowered, inputs))
        own = engine.product_dtype(first.dtype)  # a Kernel keeps the state as the engine has it
        dtypes = {"nngp": first.dtype, "ntk": own if names is None or "exact" in names else first.dtype, "defect": own}
        missing = [(k, name) for k in range(count) for name in planes if (k, name) not in targets]
        if missing:
            fresh = allocate([shape] * len(missing), [dtypes[name] for _, name in missing], "kernel_fn", place)
            targets.update(zip(missing, fresh, strict=True))
        rows1, rows2 = self._run(engine, lowered, inputs, targets, planes)
        return tree_of(
            lowered.outputs,
            lambda value: _result(value, inputs, names, get, targets, rows1, rows2),
        )

    def diagonal(
        self, x: Any, get: str | Sequence[str] | None = None, *, batch_dims: int = 0, backend: str | None = None,
        num_threads: int | None = None, memory_budget: int = BUDGET,
    ) -> Any:  # fmt: skip
        """K(x, x) and NTK(x, x) of each sample alone, in O(n).

        Parameters
        ----------
        x : numpy.ndarray (n, d) or with spatial axes
            As in :meth:`__call__`.
        get : 'nngp', 'ntk', a tuple of these, or None for both
        batch_dims, backend, num_threads, memory_budget
            As in :meth:`__call__`.

        Returns
        -------
        numpy.ndarray (n,), or (batch, n) with ``batch_dims=1``; a named tuple for a tuple or None.

        Raises
        ------
        TypeError, ValueError
            As :meth:`__call__`; for a Kernel, whose diagonal is its ``cov1``.
        """
        names = check_get(("nngp", "ntk") if get is None else get)
        assert names is not None
        if set(names) - {"nngp", "ntk"}:
            raise ValueError(f"[diagonal] get must name 'nngp' and 'ntk', given {get!r}")
        place = place_of("diagonal", x=x)
        if place.lazy:
            return import_module(_LAZY).diagonal(
                self, x, names if get is None else get, batch_dims=batch_dims, backend=backend,
                num_threads=1 if num_threads is None else num_threads,
            )  # fmt: skip
        with place.current():
            return self._diagonal(x, get, names, batch_dims, backend, num_threads, memory_budget, place)

    def _diagonal(
        self, x: Any, get: Any, names: tuple[str, ...], batch_dims: int, backend: str | None,
        num_threads: int | None, memory_budget: int, place: Place,
    ) -> Any:  # fmt: skip
        inputs, tree = check_inputs(self.layer, x, None, batch_dims, place)
        if any(i.x1 is None for i in inputs):
            raise TypeError("[diagonal] x must be an array, given a Kernel (its diagonal is cov1)")
        lowered = lower(self.layer, _values(tree))
        first = inputs[0]
        if over_positions(lowered, inputs):
            lowered = _resolved(lowered, inputs)
            engine = select(backend, num_threads, place, work_of(lowered, inputs))
            image_call = ImageCall(lowered, inputs, engine, memory_budget)
            return tree_of(lowered.outputs, image_call.diagonals(names, get))
        engine = select(backend, num_threads, place, work_of(lowered, inputs))
        size = first.n1 * int(np.prod(first.batch, dtype=int))
        planes = [
            [place.xp.empty((1, size, 1), first.dtype) if n in names else None for n in ("nngp", "ntk", "")]
            for _ in range(lowered.program.n_outputs)
        ]
        with engine.call():
            units = [Units(_batched(i.x1, place), engine) for i in inputs if i.x1 is not None]
            if unresolved(lowered):
                lowered = resolve(lowered, tuple(range_of([u.q]) for u in units), first.dtype == np.float32)
            run_diagonal(lowered, engine, units, planes, first.dtype)

        def result(value: Value) -> Any:
            arrays = {n: p for n, p in zip(("nngp", "ntk"), planes[value.slot], strict=False) if p is not None}
            found = [place.give(arrays[n].reshape(*first.batch, first.n1)) for n in names]
            return found[0] if isinstance(get, str) else named(names)(*found)

        return tree_of(lowered.outputs, result)

    def depths(
        self, x1: Any, x2: Any = None, get: str | Sequence[str] = ("nngp", "ntk"), *, batch_dims: int = 0,
        backend: str | None = None, num_threads: int | None = None,
    ) -> Any:  # fmt: skip
        """Kernels behind every Gaussian layer (Dense, FanInSum) of a ``serial`` stack, in one pass.

        Parameters
        ----------
        x1, x2, batch_dims, backend, num_threads
            As in :meth:`__call__`.
        get : 'nngp', 'ntk' or a tuple of these

        Returns
        -------
        numpy.ndarray (depths, n1, n2), or (depths, batch, n1, n2); a named tuple for a tuple. Entry k is the kernel of
        the network cut behind its k-th Gaussian layer, bit for bit.

        Raises
        ------
        ValueError
            When the stack has no Gaussian layer; else as :meth:`__call__`.
        """
        names = check_get(get)
        if names is None or set(names) - {"nngp", "ntk"}:
            raise ValueError(f"[depths] get must name 'nngp' and 'ntk', given {get!r}")
        place = place_of("depths", x1=x1, x2=x2)
        with place.current():
            return self._depths(x1, x2, get, names, batch_dims, backend, num_threads, place)

    def _depths(
        self, x1: Any, x2: Any, get: Any, names: tuple[str, ...], batch_dims: int, backend: str | None,
        num_threads: int | None, place: Place,
    ) -> Any:  # fmt: skip
        inputs, tree = check_inputs(self.layer, x1, x2, batch_dims, place)
        if "ntk" in names:
            _known_ntk(inputs, list(names), required=True)
        if any(i.value.spatial for i in inputs):
            raise NotImplementedError("[depths] inputs with spatial axes are not taken: cut the network instead")
        lowered = lower(self.layer, _values(tree), depths=True)
        count = lowered.program.n_outputs
        first = inputs[0]
        shapes = [(count, *first.batch, first.n1, first.n2)] * len(names)
        stacks = allocate(shapes, [first.dtype] * len(names), "depths", place)
        targets = {(k, name): stack[k] for name, stack in zip(names, stacks, strict=True) for k in range(count)}
        engine = select(backend, num_threads, place, work_of(lowered, inputs))
        self._run(engine, lowered, inputs, targets, list(names))
        given = [place.give(stack) for stack in stacks]
        return given[0] if isinstance(get, str) else named(names)(*given)

    def explain(
        self, input_shape: Sequence[int], dtype: Any = np.float32, *, backend: str | None = None,
        num_threads: int | None = None,
    ) -> Explanation | PositionsExplanation:  # fmt: skip
        """What a call on inputs of this shape computes: grids of positions, displacements, flops, bytes, seconds.

        Parameters
        ----------
        input_shape : tuple of int
            Samples included; their number does not matter.
        dtype : float32 or float64
        backend, num_threads : optional
            As for :func:`fastntk.options`.

        Returns
        -------
        Explanation, or PositionsExplanation where no compiled backend has all ops of the network
            Prints as a table; ``flops``, ``seconds``, ``entries``, ``table_bytes``, ``worker_bytes`` are numbers.

        Raises
        ------
        TypeError, ValueError
            For a shape without spatial axes or with more than 2^24 positions, another dtype, and as :meth:`__call__`.

        Examples
        --------
        >>> from fastntk import stax
        >>> net = stax.serial(stax.Conv(1, (3, 3), padding="SAME"), stax.Relu(), stax.GlobalAvgPool())
        >>> net.kernel_fn.explain((1, 8, 8, 3)).entries
        4097
        """
        shape = self._explained(input_shape, dtype)
        inputs, tree = check_inputs(self.layer, np.broadcast_to(np.zeros((), dtype), shape), None, 0)
        if not inputs[0].value.spatial:
            raise ValueError(f"[explain] input_shape must have spatial axes, given {tuple(input_shape)}")
        positions = math.prod(inputs[0].value.spatial)
        if positions > _POSITIONS:
            raise ValueError(
                f"[explain] input_shape {tuple(input_shape)} has {positions:,} positions, more than the {_POSITIONS:,} "
                "whose pairs can be counted"
            )
        lowered = lower(self.layer, _values(tree))
        if unresolved(lowered):  # for inputs of variance 1
            lowered = resolve(lowered, ((0.0, 1.0),) * lowered.program.n_inputs, inputs[0].dtype == np.float32)
        work = work_of(lowered, inputs)
        engine, missing = select(backend, num_threads, work=work), lacking(work)
        if missing and isinstance(engine, NumpyEngine):
            return explain_positions(lowered, [i.value.spatial for i in inputs], missing)
        return explain(lowered, engine, images_of(inputs, False), inputs[0].dtype)

    def _explained(self, input_shape: Any, dtype: Any) -> tuple[int, ...]:
        """A shape of one sample, checked."""
        try:
            kind = np.dtype(dtype)
        except TypeError:
            kind = np.dtype(object)
        if kind not in FLOATS:
            raise TypeError(f"[explain] dtype must be float32 or float64, given {dtype!r}")
        if not isinstance(input_shape, (tuple, list)) or not input_shape:
            raise TypeError(f"[explain] input_shape must be a tuple of integers, given {input_shape!r}")
        sizes = [integer("explain", "input_shape", n, None if n == -1 else 0) for n in input_shape]
        batch = axes_of(self.layer)[0] % len(sizes)
        shape = tuple(1 if axis == batch else n for axis, n in enumerate(sizes))
        if -1 in shape:
            raise ValueError(f"[explain] input_shape must say every size but the samples', given {input_shape!r}")
        return shape

    # ---- the road from arguments to the engine

    def _run(
        self, engine: Engine, lowered: Lowered, inputs: Sequence[Input], targets: dict[tuple[int, str], Array],
        planes: Sequence[str],
    ) -> tuple[Any, Any]:  # fmt: skip
        """Run the program into ``targets``."""
        first = inputs[0]
        batch = int(np.prod(first.batch, dtype=int))
        shape = (batch, first.n1, first.n2)
        written = {key: array[None] if array.ndim == 2 else array for key, array in targets.items()}
        outputs = [
            [written.get((k, name)) if name in planes else None for name in PLANES]
            for k in range(lowered.program.n_outputs)
        ]
        with engine.call():
            pair_inputs = [_pair_input(i, engine, batch) for i in inputs]
            if unresolved(lowered):
                ranges = tuple(range_of([i.q1] if i.q2 is i.q1 else [i.q1, i.q2]) for i in pair_inputs)
                lowered = resolve(lowered, ranges, first.dtype == np.float32)
            return run_pairs(lowered, engine, pair_inputs, outputs, first.dtype, shape, first.symmetric)


# The one tie from below to above: a layer's kernels are made here, and layers are asked for them.
Layer.kernel_fn = property(KernelFn, doc="The infinite network's kernels: see :class:`KernelFn`.")


def _batched(x: Array, place: Place) -> Array:
    x = contiguous(x, place.xp)
    return x if x.ndim == 3 else x[None]


def _known_ntk(inputs: list[Input], planes: list[str], required: bool) -> tuple[list[Input], list[str]]:
    """The NTK needs that of a kernel to continue: raise where it was asked for by name, else leave it out."""
    if all(i.kernel is None or i.kernel.ntk is not None for i in inputs):
        return inputs, planes
    if required:
        raise ValueError("[kernel_fn] get asks for 'ntk', which needs x1.ntk; the Kernel given has None")
    return inputs, [p for p in planes if p != "ntk"]


def _pair_input(given: Input, engine: Engine, batch: int) -> PairInput:
    place = given.place
    if given.x1 is not None:
        units1 = Units(_batched(given.x1, place), engine)
        units2 = units1 if given.x2 is None else Units(_batched(given.x2, place), engine)
        return PairInput(units1.q, units2.q, units1, units2)
    assert given.kernel is not None
    state = given.kernel.exact
    assert state is not None
    shape = (batch, given.n1, given.n2)
    own = engine.product_dtype(given.dtype)

    def plane(x: Array) -> Array:
        return contiguous(x, place.xp).astype(own, copy=False).reshape(shape)

    known = None if state.theta is None else plane(state.theta)
    q1, q2 = (engine.bring(contiguous(q, place.xp).reshape(-1)) for q in (state.q1, state.q2))
    return PairInput(q1, q2, defect=plane(state.defect), theta=known)


def _resolved(lowered: Lowered, inputs: Sequence[Input]) -> Lowered:
    """The program of a call on images, for the variances of their pixels."""
    if not unresolved(lowered):
        return lowered
    ranges = []
    for i in inputs:
        ranges.append((0.0, max(largest_pixel(x) for x in (i.x1, i.x2) if x is not None)))
    return resolve(lowered, tuple(ranges), inputs[0].dtype == np.float32)


def over_positions(lowered: Lowered, inputs: Sequence[Input]) -> bool:
    """Whether a call goes the way of images."""
    return needs_positions(lowered) or any(i.value.spatial or i.masked for i in inputs)


def work_of(lowered: Lowered, inputs: Sequence[Input]) -> Work:
    """What a call asks of its engine, functions without closed form resolved for the variances of its inputs."""
    images = over_positions(lowered, inputs)
    arrays = [[x for x in (i.x1, i.x2) if x is not None] for i in inputs]
    if not images and depends_on_ranges(lowered) and all(arrays) and inputs[0].place.ordinal is None:
        rows = ([range_of_rows(x) for x in own] for own in arrays)
        ranges = tuple((min(r[0] for r in own), max(r[1] for r in own)) for own in rows)
        lowered = resolve(lowered, ranges, inputs[0].dtype == np.float32)
    axes = max(len(i.value.spatial) for i in inputs)
    return Work(lowered, images, axes, any(i.masked for i in inputs), any(i.given is not None for i in inputs))


def _values(tree: Any) -> Any:
    return tree.value if isinstance(tree, Input) else tuple(_values(t) for t in tree)


def _result(
    value: Value, inputs: Sequence[Input], names: tuple[str, ...] | None, get: Any,
    targets: dict[tuple[int, str], Array], rows1: Any, rows2: Any,
) -> Any:  # fmt: skip
    first = inputs[0]
    give = first.place.give

    def variance(rows: Any, n: int) -> Array:
        found: Array = rows.variance(value.slot).reshape(*first.batch, n)
        return found

    def rounded(q: Array) -> Array:
        with np.errstate(over="ignore"):
            return q.astype(first.dtype)

    def field(name: str) -> Any:
        if name in ("nngp", "ntk"):
            plane = targets.get((value.slot, name))
            return give(plane if plane is None or plane.dtype == first.dtype else rounded(plane))
        if name == "cov1":
            return give(rounded(variance(rows1, first.n1)))
        if name == "cov2":
            return None if first.symmetric else give(rounded(variance(rows2, first.n2)))
        if name == "exact":
            q1, q2 = variance(rows1, first.n1), variance(rows2, first.n2)
            return Exact(targets[value.slot, "defect"], targets.get((value.slot, "ntk")), q1, q2)
        return flags(name, value, first)

    if names is None:
        return Kernel(**{name: field(name) for name in FIELDS})
    found = [field(name) for name in names]
    return found[0] if isinstance(get, str) else named(names)(*found)
