"""The kernel function of a network: ``kernel_fn(x1, x2, get)`` and what stands beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arraylike import describe
from ..base.arrays import FLOATS, allocate
from ..base.checks import integer
from ..base.door import door
from ..base.place import HOST, Place, place_of
from ..engines.engine import Engine, Outputs
from ..engines.memory import BUDGET
from ..engines.numpy_images import at_equal_positions
from ..engines.select import Work, lacking, needs_positions, select
from ..network.layer import Layer
from ..network.lower import lower
from ..network.program import Lowered, Value, leaves
from ..plan.resolve import depends_on_ranges, largest_pixel, range_of_rows, resolve, unresolved
from .asked import NOTHING, Asked, asked
from .differentiable import Differentiable
from .explain import Explanation, explain
from .explain_positions import PositionsExplanation, explain_positions
from .gram import fill, layout_of, prepare, variances
from .inputs import Input, as_pairs, axes_of, check_inputs, values_of
from .layouts import in_layout, kernels_of, usual
from .results import Results, check_get, check_targets, named, tree_of

Array = npt.NDArray[Any]

_POSITIONS = 1 << 24  # of an image that `explain` plans: maps of all of them are made
_LAZY = "fastntk.scale"  # what makes lazy kernels of Dask's arrays: loaded when one comes
PLANES = ("nngp", "ntk", "defect")  # what machines write for each output; of planes the first two


@door
class KernelFn(Differentiable):
    """NNGP and NTK of an infinitely wide network.

    Made by a layer: ``init_fn, apply_fn, kernel_fn = stax.serial(...)``. See :meth:`__call__`, :meth:`diagonal`,
    :meth:`depths`, :meth:`explain`; derivatives: :meth:`vjp`, :meth:`diagonal_vjp`, :meth:`jacobian`.
    """

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self._last: tuple[Any, Lowered, list[Value]] | None = None  # of the last call: inputs, program, outputs

    def _lowered(self, values: Any) -> tuple[Lowered, list[Value]]:
        """The program for inputs of this kind, and the values that it writes."""
        last = self._last
        if last is None or (last[0] is not values and last[0] != values):
            lowered = lower(self.layer, values)
            self._last = last = values, lowered, list(leaves(lowered.outputs))
        return last[1], last[2]

    def __repr__(self) -> str:
        return f"KernelFn({self.layer!r})"

    def __call__(
        self, x1: Any = None, x2: Any = None, get: str | Sequence[str] | None = None, *, pattern: Any = None,
        mask_constant: float | None = None, diagonal_batch: bool | None = None, diagonal_spatial: bool | None = None,
        batch_axis: int | None = None, channel_axis: int | None = None, batch_dims: int = 0, out: Any = None,
        backend: str | None = None, num_threads: int | None = None, memory_budget: int | None = None,
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
        diagonal_batch, diagonal_spatial : bool, optional
            True and False are the layout that kernels have. ``diagonal_batch=False``: cov1 and cov2 hold K of all
            samples of their side with one another. ``diagonal_spatial=True``: where the network ends with positions,
            arrays hold each with itself alone. A Kernel that is continued keeps its own.
        batch_axis, channel_axis : int, optional
            Axes of samples and channels of the inputs, for networks whose layers name none.
        batch_dims : {0, 1}
            Leading axes that count independent problems.
        out : numpy.ndarray of the result's shape, or tuple of them in the order of ``get``, optional
            Where 'nngp' and 'ntk' go: of the result's dtype, any strides, a ``numpy.memmap`` too, or a tensor of
            PyTorch's; on a device arrays that lie there.
        backend, num_threads : optional
            As for :func:`fastntk.options`.
        memory_budget : int, optional
            Inputs with spatial axes: bytes that the call may take beside inputs and outputs, however many samples; on
            backend 'cuda' of the device's memory. Default: 256 MiB, on 'cuda' half of what is free there.
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
            A layer that the chosen backend lacks, by its name; of a Kernel with positions as x1 'cuda'.
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
        keywords = pattern, mask_constant, diagonal_batch, diagonal_spatial, batch_axis, channel_axis
        extras = NOTHING if all(given is None for given in keywords) else asked(*keywords)
        whole = isinstance(memory_budget, (int, np.integer)) and not isinstance(memory_budget, bool)
        if memory_budget is not None and not (whole and memory_budget >= 1):
            raise ValueError(f"[kernel_fn] memory_budget must be a positive number of bytes, given {memory_budget!r}")
        if not isinstance(progress, (bool, np.bool_)):
            raise TypeError(f"[kernel_fn] progress must be True or False, given {progress!r}")
        if any(extras.layout) or (type(x1) is not np.ndarray and not all(map(usual, kernels_of(x1)))):
            own = {"pattern": pattern, "mask_constant": mask_constant, "batch_axis": batch_axis,
                   "channel_axis": channel_axis, "batch_dims": batch_dims, "out": out, "backend": backend,
                   "num_threads": num_threads, "memory_budget": memory_budget, "progress": progress}  # fmt: skip
            return in_layout(self, x1, x2, get, names, *extras.layout, own)
        if type(x1) is np.ndarray and (x2 is None or type(x2) is np.ndarray) and out is None:
            return self._call(
                x1, x2, get, names, batch_dims, out, backend, num_threads, memory_budget, progress, HOST, extras
            )
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
        backend: str | None, num_threads: int | None, memory_budget: int | None, progress: bool, place: Place,
        extras: Asked,
    ) -> Any:  # fmt: skip
        inputs, tree = check_inputs(self.layer, x1, x2, batch_dims, place, extras)
        (lowered, values), first = self._lowered(values_of(tree)), inputs[0]
        images = over_positions(lowered, inputs)
        exact = (names is None or "exact" in names) and not images
        planes = [p for p in (PLANES if exact else PLANES[:2]) if names is None or p in names or p == "defect"]
        if "ntk" in planes:
            planes = _known_ntk(inputs, planes, required=names is not None)
        if images:
            as_pairs(inputs)
            lowered = _resolved(lowered, inputs)
        shapes = {value.slot: _shape(value, first, first.n1, first.n2) for value in values}
        targets = check_targets(out, get, names, len(shapes), inputs, shapes[0])
        engine = select(backend, num_threads, place, work_of(lowered, inputs, images))
        own = engine.product_dtype(first.dtype) if exact else first.dtype  # a Kernel keeps the engine's state
        dtypes = {"nngp": first.dtype, "ntk": own, "defect": own}
        missing = [(k, name) for k in range(len(shapes)) for name in planes if (k, name) not in targets]
        if missing:
            fresh = allocate([shapes[k] for k, _ in missing], [dtypes[n] for _, n in missing], "kernel_fn", place)
            targets.update(zip(missing, fresh, strict=True))
        results = Results(lowered, inputs, images, get, names, targets, ())
        with engine.call():
            call = prepare(engine, lowered, inputs, images)
            outputs = _outputs(targets, len(shapes), inputs, images)
            budget = _budget(memory_budget, engine, images)
            fill(call, outputs, first.symmetric, budget, progress)
            results.variances = variances(call, results.asked(len(shapes)), outputs, budget)
        return tree_of(lowered.outputs, results.of)

    def diagonal(
        self, x: Any, get: str | Sequence[str] | None = None, *, pattern: Any = None,
        mask_constant: float | None = None, batch_dims: int = 0, backend: str | None = None,
        num_threads: int | None = None, memory_budget: int | None = None,
    ) -> Any:  # fmt: skip
        """K(x, x) and NTK(x, x) of each sample alone, in O(n).

        Parameters
        ----------
        x : numpy.ndarray (n, d) or with spatial axes
            As in :meth:`__call__`.
        get : 'nngp', 'ntk', a tuple of these, or None for both
        pattern : array, optional
            Of networks with Aggregate: the graphs of the samples.
        mask_constant, batch_dims, backend, num_threads, memory_budget
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
        extras = asked(None if pattern is None else (pattern, None), mask_constant, None, None, None, None)
        place = place_of("diagonal", x=x)
        if place.lazy:
            return import_module(_LAZY).diagonal(
                self, x, names if get is None else get, batch_dims=batch_dims, backend=backend,
                num_threads=1 if num_threads is None else num_threads,
            )  # fmt: skip
        with place.current():
            return self._diagonal(x, get, names, batch_dims, backend, num_threads, memory_budget, place, extras)

    def _diagonal(
        self, x: Any, get: Any, names: tuple[str, ...], batch_dims: int, backend: str | None,
        num_threads: int | None, memory_budget: int | None, place: Place, extras: Asked,
    ) -> Any:  # fmt: skip
        inputs, tree = check_inputs(self.layer, x, None, batch_dims, place, extras)
        if any(i.x1 is None for i in inputs):
            raise TypeError("[diagonal] x must be an array, given a Kernel (its diagonal is cov1)")
        (lowered, values), first = self._lowered(values_of(tree)), inputs[0]
        images = over_positions(lowered, inputs)
        if images:
            lowered = _resolved(lowered, inputs)
        engine = select(backend, num_threads, place, work_of(lowered, inputs, images))
        found = {
            (v.slot, name): place.xp.empty(_shape(v, first, first.n1), first.dtype) for v in values for name in names
        }
        with engine.call():
            call = prepare(engine, lowered, inputs, images)
            outputs = _outputs(found, len(values), inputs, images)
            call.machine.diagonal(call.one, outputs, _budget(memory_budget, engine, images))
        return tree_of(lowered.outputs, Results(lowered, inputs, images, get, names, found, ()).of)

    def depths(
        self, x1: Any, x2: Any = None, get: str | Sequence[str] = ("nngp", "ntk"), *, pattern: Any = None,
        mask_constant: float | None = None, batch_dims: int = 0, backend: str | None = None,
        num_threads: int | None = None, memory_budget: int | None = None,
    ) -> Any:  # fmt: skip
        """Kernels behind every Gaussian layer (Dense, Conv, FanInSum, ...) of a ``serial`` stack, in one pass.

        Parameters
        ----------
        x1, x2, pattern, mask_constant, batch_dims, backend, num_threads, memory_budget
            As in :meth:`__call__`.
        get : 'nngp', 'ntk' or a tuple of these

        Returns
        -------
        numpy.ndarray (depths, n1, n2), or (depths, batch, n1, n2); of inputs with spatial axes a tuple of arrays, which
        have positions where their layers do. A named tuple for a tuple of names. Entry k is the kernel of the network
        cut behind its k-th Gaussian layer: bit for bit, and over positions to rounding.

        Raises
        ------
        ValueError
            When the stack has no Gaussian layer; else as :meth:`__call__`.
        """
        names = check_get(get)
        if names is None or set(names) - {"nngp", "ntk"}:
            raise ValueError(f"[depths] get must name 'nngp' and 'ntk', given {get!r}")
        extras = NOTHING if pattern is None and mask_constant is None else asked(pattern, mask_constant, *4 * [None])
        place = place_of("depths", x1=x1, x2=x2)
        with place.current():
            inputs, tree = check_inputs(self.layer, x1, x2, batch_dims, place, extras)
            lowered, first = lower(self.layer, values_of(tree), depths=True), inputs[0]
            if "ntk" in names:
                _known_ntk(inputs, list(names), required=True)
            images = over_positions(lowered, inputs)
            if images:
                as_pairs(inputs)
                lowered = _resolved(lowered, inputs)
            shapes = [_shape(value, first, first.n1, first.n2) for value in leaves(lowered.outputs)]
            stacked, count = not any(i.value.spatial for i in inputs), len(shapes)
            wanted = [(count, *shapes[0])] if stacked else shapes
            made = allocate(wanted * len(names), [first.dtype] * len(wanted) * len(names), "depths", place)
            found = [
                [made[k][depth] for depth in range(count)] if stacked else made[k * count : (k + 1) * count]
                for k in range(len(names))
            ]
            targets = {(k, name): own[k] for name, own in zip(names, found, strict=True) for k in range(count)}
            engine = select(backend, num_threads, place, work_of(lowered, inputs, images))
            with engine.call():
                call = prepare(engine, lowered, inputs, images)
                budget = _budget(memory_budget, engine, images)
                fill(call, _outputs(targets, count, inputs, images), first.symmetric, budget)
            given = [place.give(own) for own in made] if stacked else [tuple(map(place.give, own)) for own in found]
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
        lowered = at_equal_positions(lower(self.layer, values_of(tree)))
        if unresolved(lowered.program):  # for inputs of variance 1
            lowered = resolve(lowered, ((0.0, 1.0),) * lowered.program.n_inputs, inputs[0].dtype == np.float32)
        work = work_of(lowered, inputs, True)
        engine, missing = select(backend, num_threads, work=work), lacking(work)
        if missing and (engine.name == "numpy" or getattr(engine, "positions", False)):
            return explain_positions(lowered, [i.value.spatial for i in inputs], missing, engine, inputs[0].dtype)
        return explain(lowered, engine, layout_of(inputs, True), inputs[0].dtype)

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


# The one tie from below to above: a layer's kernels are made here, and layers are asked for them.
Layer.kernel_fn = property(KernelFn, doc="The infinite network's kernels: see :class:`KernelFn`.")


def _shape(value: Value, first: Input, *samples: int) -> tuple[int, ...]:
    """Of an output's array: batch, samples, and positions of both, axis by axis."""
    return (*first.batch, *samples, *[n for n in value.spatial for _ in range(2)])


def _outputs(targets: Mapping[tuple[int, str], Array], count: int, inputs: Sequence[Input], images: bool) -> Outputs:
    """Planes of each output, with an axis of batches."""
    names = PLANES[:2] if images else PLANES
    batch = {key: array if inputs[0].batch else array[None] for key, array in targets.items()}
    return [[batch.get((k, name)) for name in names] for k in range(count)]


def _budget(asked: int | None, engine: Engine, images: bool) -> int:
    """Bytes beside inputs and outputs; of points, who keep to none, nobody asks a device how many it has."""
    if asked is not None:
        return int(asked)
    return engine.budget() if images else BUDGET


def _known_ntk(inputs: Sequence[Input], planes: list[str], required: bool) -> list[str]:
    """The NTK needs that of a kernel to continue: raise where it was asked for by name, else leave it out."""
    known = [i.kernel is None or i.kernel.ntk is not None for i in inputs]
    if all(known) and not any(i.given is not None and i.given.theta is None for i in inputs):
        return planes
    if required:
        raise ValueError("[kernel_fn] get asks for 'ntk', which needs x1.ntk; the Kernel given has None")
    return [p for p in planes if p != "ntk"]


def over_positions(lowered: Lowered, inputs: Sequence[Input]) -> bool:
    """Whether a call goes the way of images."""
    return needs_positions(lowered.program) or any(i.value.spatial or i.masked for i in inputs)


def _resolved(lowered: Lowered, inputs: Sequence[Input]) -> Lowered:
    """The program of a call on images, for the variances of their pixels."""
    lowered = at_equal_positions(lowered)
    if not unresolved(lowered.program):
        return lowered
    ranges = [(0.0, max((largest_pixel(x) for x in (i.x1, i.x2) if x is not None), default=1.0)) for i in inputs]
    return resolve(lowered, tuple(ranges), inputs[0].dtype == np.float32)


def work_of(lowered: Lowered, inputs: Sequence[Input], images: bool) -> Work:
    """What a call asks of its engine, functions without closed form resolved for the variances of its inputs."""
    arrays = [[x for x in (i.x1, i.x2) if x is not None] for i in inputs] if depends_on_ranges(lowered.program) else []
    if not images and arrays and all(arrays) and inputs[0].place.ordinal is None:
        rows = ([range_of_rows(x) for x in own] for own in arrays)
        ranges = tuple((min(r[0] for r in own), max(r[1] for r in own)) for own in rows)
        lowered = resolve(lowered, ranges, inputs[0].dtype == np.float32)
    axes, masked, continued = 0, False, False
    for i in inputs:
        axes = max(axes, len(i.value.spatial))
        masked, continued = masked or i.masked, continued or i.given is not None
    return Work(lowered, images, axes, masked, continued)


def layer_of(what: str, network: Any) -> Layer:
    """The layer of what a user calls a network: the layer itself, or its kernel function.

    Raises
    ------
    TypeError
        For anything else.
    """
    if isinstance(network, KernelFn):
        return network.layer
    if not isinstance(network, Layer):
        raise TypeError(f"[{what}] network must be a stax layer or its kernel_fn, given {describe(network)}")
    return network
