"""The kernel function of a network: ``kernel_fn(x1, x2, get)`` and what stands beside it."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .activations import Correlation
from .arrays import allocate, as_input, check_out, contiguous, describe
from .backends import Engine, select
from .gram import PairInput, Units, run_diagonal, run_pairs
from .kernel import Exact, Kernel
from .layers import Layer
from .program import Lowered, Value, lower

Array = npt.NDArray[Any]

FIELDS = tuple(Kernel.__dataclass_fields__)
PLANES = ("nngp", "ntk", "defect")  # what an engine writes for each output


@dataclass
class _Input:
    """One checked input of a call: arrays (batch, n, d), or a kernel to continue."""

    x1: Array | None
    x2: Array | None  # None: x1 again
    kernel: Kernel | None
    value: Value
    dtype: np.dtype[Any]
    batch: tuple[int, ...]
    n1: int
    n2: int
    symmetric: bool


class KernelFn:
    """NNGP and NTK of an infinitely wide network.

    Made by a layer: ``init_fn, apply_fn, kernel_fn = stax.serial(...)``. See :meth:`__call__`, :meth:`diagonal`,
    :meth:`depths`.
    """

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def __repr__(self) -> str:
        return f"KernelFn({self.layer!r})"

    def __call__(
        self, x1: Any, x2: Any = None, get: str | Sequence[str] | None = None, *, batch_dims: int = 0, out: Any = None,
        backend: str | None = None, num_threads: int | None = None,
    ) -> Any:  # fmt: skip
        """Kernels between the rows of x1 and x2.

        Parameters
        ----------
        x1 : numpy.ndarray (n1, d) float32 or float64, or Kernel
            Inputs, or the result of another network to continue; a tuple of them for a ``parallel`` network. With
            ``batch_dims=1``: (batch, n1, d), one Gram for each entry of the leading axis. Integers and bool are
            converted to float64. Never modified.
        x2 : numpy.ndarray (n2, d), optional
            None: x1 again, and half the work.
        get : str or tuple of str, optional
            'nngp', 'ntk' or another field of :class:`Kernel`: that array; a tuple: a named tuple of them; None: a
            ``Kernel``, which the next ``kernel_fn`` takes.
        batch_dims : {0, 1}
            Leading axes that count independent problems.
        out : numpy.ndarray (n1, n2), or tuple of them in the order of ``get``, optional
            Where 'nngp' and 'ntk' go: of the result's shape and dtype, any strides, a ``numpy.memmap`` too.
        backend, num_threads : optional
            As for :func:`fastntk.options`.

        Returns
        -------
        numpy.ndarray (n1, n2) of x1's dtype, named tuple ``AnalyticKernel``, Kernel, or a tuple of these for a network
        with several outputs. n1 = 0 or n2 = 0 give empty arrays.

        Raises
        ------
        TypeError
            Inputs that are not NumPy arrays, of other dtypes, or x1 and x2 of different dtypes.
        ValueError
            Wrong rank or feature count, a nonlinearity on non-Gaussian input, unknown or repeated ``get``, wrong
            ``out``.
        NotImplementedError
            Spatial axes; a layer that the chosen backend lacks.
        MemoryError
            Before anything is allocated, when the result does not fit.

        Notes
        -----
        Normalisation: the input's covariance is ``x1 . x2 / d``; weights have variance ``W_std^2 / fan_in``. NaN and
        infinity stay in their own rows and columns. The result does not depend on tiling, threads, or x2 being a
        copy of x1, from a given product of the inputs.

        Accuracy: float64 1e-12 relative, float32 2e-6 at depth 10 and 1e-5 at depth 50, near-duplicates included
        (README, table "Accuracy").

        References
        ----------
        Lee et al. (2018), arXiv:1711.00165, eq. (5) (NNGP); Jacot et al. (2018), arXiv:1806.07572, theorem 1 (NTK).
        """
        names = _check_get(get)
        inputs, tree = self._inputs(x1, x2, batch_dims)
        first = inputs[0]
        lowered = lower(self.layer, _values(tree))
        planes = [p for p in PLANES if names is None or p in names or (p == "defect" and "exact" in names)]
        if "ntk" in planes:
            inputs, planes = _known_ntk(inputs, planes, required=names is not None)
        count = lowered.program.n_outputs
        targets = self._targets(out, get, names, count, inputs)
        shape = (*first.batch, first.n1, first.n2)
        engine = select(backend, num_threads)
        own = engine.product_dtype(first.dtype)  # a Kernel keeps the state as the engine has it
        dtypes = {"nngp": first.dtype, "ntk": own if names is None or "exact" in names else first.dtype, "defect": own}
        missing = [(k, name) for k in range(count) for name in planes if (k, name) not in targets]
        fresh = allocate([shape] * len(missing), [dtypes[name] for _, name in missing], "kernel_fn") if missing else []
        targets.update(zip(missing, fresh, strict=True))

        rows1, rows2 = self._run(engine, lowered, inputs, targets, planes)
        return _tree(
            lowered.outputs,
            lambda value: _result(value, inputs, names, get, targets, rows1, rows2, self._axes(inputs)),
        )

    def diagonal(
        self, x: Any, get: str | Sequence[str] | None = None, *, batch_dims: int = 0, backend: str | None = None,
        num_threads: int | None = None,
    ) -> Any:  # fmt: skip
        """K(x, x) and NTK(x, x) of each row alone, in O(n).

        Parameters
        ----------
        x : numpy.ndarray (n, d)
            As in :meth:`__call__`.
        get : 'nngp', 'ntk', a tuple of these, or None for both

        Returns
        -------
        numpy.ndarray (n,), or (batch, n) with ``batch_dims=1``; a named tuple for a tuple or None.

        Raises
        ------
        TypeError, ValueError
            As :meth:`__call__`; for a Kernel, whose diagonal is its ``cov1``.
        """
        names = _check_get(("nngp", "ntk") if get is None else get)
        assert names is not None
        if set(names) - {"nngp", "ntk"}:
            raise ValueError(f"[diagonal] get must name 'nngp' and 'ntk', given {get!r}")
        inputs, tree = self._inputs(x, None, batch_dims)
        if any(i.x1 is None for i in inputs):
            raise TypeError("[diagonal] x must be an array, given a Kernel (its diagonal is cov1)")
        lowered = lower(self.layer, _values(tree))
        engine = select(backend, num_threads)
        first = inputs[0]
        size = first.n1 * int(np.prod(first.batch, dtype=int))
        planes = [
            [np.empty((1, size, 1), first.dtype) if n in names else None for n in ("nngp", "ntk", "")]
            for _ in range(lowered.program.n_outputs)
        ]
        q = [Units(_batched(i.x1), engine).q for i in inputs if i.x1 is not None]
        run_diagonal(lowered.program, engine, q, planes, first.dtype)

        def result(value: Value) -> Any:
            arrays = {n: p for n, p in zip(("nngp", "ntk"), planes[value.slot], strict=False) if p is not None}
            found = [arrays[n].reshape(*first.batch, first.n1) for n in names]
            return found[0] if isinstance(get, str) else _named(names)(*found)

        return _tree(lowered.outputs, result)

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
        names = _check_get(get)
        if names is None or set(names) - {"nngp", "ntk"}:
            raise ValueError(f"[depths] get must name 'nngp' and 'ntk', given {get!r}")
        inputs, tree = self._inputs(x1, x2, batch_dims)
        if "ntk" in names:
            _known_ntk(inputs, list(names), required=True)
        lowered = lower(self.layer, _values(tree), depths=True)
        count = lowered.program.n_outputs
        first = inputs[0]
        shapes = [(count, *first.batch, first.n1, first.n2)] * len(names)
        stacks = allocate(shapes, [first.dtype] * len(names), "depths")
        targets = {(k, name): stack[k] for name, stack in zip(names, stacks, strict=True) for k in range(count)}
        self._run(select(backend, num_threads), lowered, inputs, targets, list(names))
        return stacks[0] if isinstance(get, str) else _named(names)(*stacks)

    # ---- the road from arguments to the engine

    def _axes(self, inputs: Sequence[_Input] = ()) -> tuple[int, int]:
        """(batch_axis, channel_axis): the layers', else those of a kernel that they continue."""
        kernels = [(i.kernel.batch_axis, i.kernel.channel_axis) for i in inputs if i.kernel is not None]
        return self.layer.axes() or (kernels[0] if kernels else (0, -1))

    def _inputs(self, x1: Any, x2: Any, batch_dims: int) -> tuple[list[_Input], Any]:
        """Check arguments; return the inputs in order, and their tree."""
        if isinstance(batch_dims, bool) or batch_dims not in (0, 1):
            raise ValueError(f"[kernel_fn] batch_dims must be 0 or 1, given {batch_dims!r}")
        found: list[_Input] = []

        def visit(a: Any, b: Any, name: str) -> Any:
            if isinstance(a, (tuple, list)) and not isinstance(a, np.ndarray):
                if b is not None and (not isinstance(b, (tuple, list)) or len(b) != len(a)):
                    raise ValueError(f"[kernel_fn] x1 has {len(a)} entries, x2 must too, given {describe(b)}")
                if not a or not any(isinstance(v, (np.ndarray, Kernel, tuple, list)) for v in a):
                    raise TypeError(f"[kernel_fn] {name} must be a numpy.ndarray, given {describe(a)}")
                return tuple(visit(v, None if b is None else b[k], f"{name}[{k}]") for k, v in enumerate(a))
            if isinstance(a, Kernel):
                self._check_axes(a, name)
                own = _continue(a, b, name, batch_dims)
            else:
                own = self._arrays(a, b, name, batch_dims)
            found.append(own)
            return own

        tree = visit(x1, x2, "x1")
        first = found[0]
        for other in found[1:]:
            if (other.n1, other.n2, other.batch) != (first.n1, first.n2, first.batch):
                raise ValueError(
                    f"[kernel_fn] inputs differ in samples: {(*first.batch, first.n1, first.n2)} and "
                    f"{(*other.batch, other.n1, other.n2)}"
                )
            if other.dtype != first.dtype or other.symmetric != first.symmetric:
                raise TypeError("[kernel_fn] inputs differ in dtype, or x2 is missing for some of them")
        return found, tree

    def _check_axes(self, k: Kernel, name: str) -> None:
        axes = self.layer.axes()
        if axes is not None and [a % 2 for a in axes] != [k.batch_axis % 2, k.channel_axis % 2]:
            raise ValueError(
                f"[kernel_fn] {name} has batch_axis, channel_axis = {k.batch_axis}, {k.channel_axis}, "
                f"the network {axes}"
            )

    def _arrays(self, x1: Any, x2: Any, name: str, batch_dims: int) -> _Input:
        what = f"kernel_fn of {type(self.layer).__name__}"
        arrays = []
        for x, label in ((x1, name), (x2, name.replace("x1", "x2"))):
            if x is None and label != name:
                continue
            if isinstance(x, np.ndarray) and x.ndim == 3 and batch_dims == 0:
                raise NotImplementedError(
                    f"[{what}] {label} has 3 dims, shape {x.shape}: one spatial axis, which no layer here takes yet; "
                    "batch_dims=1 reads the leading axis as a batch of problems"
                )
            arrays.append(as_input(x, label, 2 + batch_dims, what))
        if not all(-2 <= a < 2 for a in self._axes()):
            raise ValueError(f"[{what}] batch_axis, channel_axis = {self._axes()} do not fit inputs of 2 dims")
        batch_axis, channel_axis = (a % 2 for a in self._axes())
        if batch_axis == channel_axis:
            raise ValueError(f"[{what}] batch_axis and channel_axis are the same axis, {batch_axis}")
        if batch_axis == 1:
            arrays = [a.swapaxes(-1, -2) for a in arrays]
        a, b = arrays[0], arrays[-1]
        if a.shape[-1] != b.shape[-1]:
            raise ValueError(
                f"[{what}] {name} has {a.shape[-1]} features, x2 has {b.shape[-1]}: shapes {a.shape}, {b.shape}"
            )
        if a.shape[-1] == 0:
            raise ValueError(f"[{what}] {name} has no features: shape {a.shape}")
        if a.shape[:-2] != b.shape[:-2]:
            raise ValueError(f"[{what}] {name} has batch {a.shape[:-2]}, x2 has {b.shape[:-2]}")
        dtypes = {x.dtype.newbyteorder("=") for x in arrays}
        if len(dtypes) > 1:
            raise TypeError(f"[{what}] {name} is {a.dtype}, x2 is {b.dtype}: convert one of them")
        value = Value(0, channels=a.shape[-1], batch_axis=batch_axis, channel_axis=channel_axis)
        return _Input(
            a, None if x2 is None else b, None, value, dtypes.pop(), a.shape[:-2], a.shape[-2], b.shape[-2], x2 is None,
        )  # fmt: skip

    def _targets(
        self, out: Any, get: Any, names: tuple[str, ...] | None, count: int, inputs: Sequence[_Input]
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
        shape = (*first.batch, first.n1, first.n2)
        taken = [a for i in inputs for a in (i.x1, i.x2) if a is not None]
        taken += [a for i in inputs if i.kernel for a in (i.kernel.nngp, i.kernel.ntk) if a is not None]
        targets: dict[tuple[int, str], Array] = {}
        for name, array in zip(names, given, strict=True):
            targets[0, name] = check_out(array, shape, first.dtype, taken, f"kernel_fn {name}")
            taken.append(array)
        return targets

    def _run(
        self, engine: Engine, lowered: Lowered, inputs: Sequence[_Input], targets: dict[tuple[int, str], Array],
        planes: Sequence[str],
    ) -> tuple[Any, Any]:  # fmt: skip
        """Run the program into ``targets``; arrays whose columns are not adjacent get their values at the end."""
        first = inputs[0]
        batch = int(np.prod(first.batch, dtype=int))
        shape = (batch, first.n1, first.n2)
        direct: dict[tuple[int, str], Array] = {}
        for key, array in targets.items():
            view = array.reshape(shape) if array.ndim == 2 else array
            ready = (
                array.flags.aligned and (first.n2 <= 1 or array.strides[-1] == array.itemsize) and array.dtype.isnative
            )
            direct[key] = view if ready else np.empty(shape, array.dtype.newbyteorder("="))
        outputs = [
            [direct.get((k, name)) if name in planes else None for name in PLANES]
            for k in range(lowered.program.n_outputs)
        ]
        pair_inputs = [_pair_input(i, engine, batch) for i in inputs]
        rows = run_pairs(lowered.program, engine, pair_inputs, outputs, first.dtype, shape, first.symmetric)
        for key, array in targets.items():
            if not np.may_share_memory(direct[key], array):
                array[...] = direct[key].reshape(array.shape)
        return rows


def _batched(x: Array) -> Array:
    x = contiguous(x)
    return x if x.ndim == 3 else x[None]


def _continue(k: Kernel, x2: Any, name: str, batch_dims: int) -> _Input:
    """Check a kernel that a network continues."""
    what = "kernel_fn"
    if x2 is not None:
        raise ValueError(f"[{what}] {name} is a Kernel, which holds both inputs: x2 must be None, given {describe(x2)}")
    nngp = as_input(k.nngp, f"{name}.nngp", 2 + batch_dims, what)
    *batch, n1, n2 = nngp.shape
    expected = {"ntk": nngp.shape, "cov1": (*batch, n1), "cov2": (*batch, n2)}
    for field, shape in expected.items():
        array = getattr(k, field)
        if array is None and (field == "ntk" or (field == "cov2" and k.x1_is_x2)):
            continue
        as_input(array, f"{name}.{field}", len(shape), what)
        if array.shape != shape:
            raise ValueError(
                f"[{what}] {name}.{field} has shape {array.shape}, expected {shape} beside nngp {nngp.shape}"
            )
        if array.dtype != k.nngp.dtype:
            raise TypeError(
                f"[{what}] {name}.{field} is {array.dtype}, {name}.nngp is {k.nngp.dtype}: convert one of them"
            )
    if k.x1_is_x2 and n1 != n2:
        raise ValueError(f"[{what}] {name}.nngp has shape {nngp.shape}, which x1_is_x2 makes square")
    value = Value(
        0, channels=k.shape1[k.channel_axis], gaussian=k.is_gaussian, batch_axis=k.batch_axis % 2,
        channel_axis=k.channel_axis % 2,
    )  # fmt: skip
    dtype = nngp.dtype.newbyteorder("=")
    return _Input(None, None, k, value, dtype, tuple(batch), n1, n2, k.x1_is_x2)


def _known_ntk(inputs: list[_Input], planes: list[str], required: bool) -> tuple[list[_Input], list[str]]:
    """The NTK needs that of a kernel to continue: raise where it was asked for by name, else leave it out."""
    if all(i.kernel is None or i.kernel.ntk is not None for i in inputs):
        return inputs, planes
    if required:
        raise ValueError("[kernel_fn] get asks for 'ntk', which needs x1.ntk; the Kernel given has None")
    return inputs, [p for p in planes if p != "ntk"]


def _pair_input(given: _Input, engine: Engine, batch: int) -> PairInput:
    if given.x1 is not None:
        units1 = Units(_batched(given.x1), engine)
        units2 = units1 if given.x2 is None else Units(_batched(given.x2), engine)
        return PairInput(units1.q, units2.q, units1, units2)
    k = given.kernel
    assert k is not None
    shape = (batch, given.n1, given.n2)
    own = engine.product_dtype(given.dtype)
    theta = k.ntk
    if k.exact is not None:
        defect, q1, q2 = k.exact.defect, k.exact.q1, k.exact.q2
        theta = k.ntk if k.exact.theta is None else k.exact.theta
    else:
        q1 = np.asarray(k.cov1, dtype=np.float64)
        q2 = q1 if k.cov2 is None else np.asarray(k.cov2, dtype=np.float64)
        with np.errstate(all="ignore"):
            covariances = (q1[..., :, None], np.asarray(k.nngp, dtype=np.float64), q2[..., None, :])
            defect = Correlation.of_covariances(*covariances).defect

    def plane(x: Array) -> Array:
        return contiguous(x).astype(own, copy=False).reshape(shape)

    known = None if theta is None else plane(theta)
    return PairInput(q1.reshape(-1), q2.reshape(-1), defect=plane(defect), theta=known)


def _check_get(get: Any) -> tuple[str, ...] | None:
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
def _named(names: tuple[str, ...]) -> Any:
    """The named tuple of one ``get``; it pickles as the call that makes it again."""
    kind = namedtuple("AnalyticKernel", names)  # type: ignore[misc]
    setattr(kind, "__reduce__", lambda self: (_analytic_kernel, (names, tuple(self))))  # noqa: B010
    return kind


def _analytic_kernel(names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return _named(names)(*values)


def _values(tree: Any) -> Any:
    return tree.value if isinstance(tree, _Input) else tuple(_values(t) for t in tree)


def _tree(values: Any, make: Any) -> Any:
    return make(values) if isinstance(values, Value) else tuple(_tree(v, make) for v in values)


def _result(
    value: Value, inputs: Sequence[_Input], names: tuple[str, ...] | None, get: Any,
    targets: dict[tuple[int, str], Array], rows1: Any, rows2: Any, axes: tuple[int, int],
) -> Any:  # fmt: skip
    first = inputs[0]

    def variance(rows: Any, n: int) -> Array:
        return np.asarray(rows.variance(value.slot).reshape(*first.batch, n))

    def rounded(q: Array) -> Array:
        with np.errstate(over="ignore"):
            return q.astype(first.dtype)

    def field(name: str) -> Any:
        if name in ("nngp", "ntk"):
            plane = targets.get((value.slot, name))
            return plane if plane is None or plane.dtype == first.dtype else rounded(plane)
        if name == "cov1":
            return rounded(variance(rows1, first.n1))
        if name == "cov2":
            return None if first.symmetric else rounded(variance(rows2, first.n2))
        if name == "exact":
            q1, q2 = variance(rows1, first.n1), variance(rows2, first.n2)
            return Exact(targets[value.slot, "defect"], targets.get((value.slot, "ntk")), q1, q2)
        return {
            "x1_is_x2": first.symmetric,
            "is_gaussian": value.gaussian,
            "is_input": False,
            "shape1": _shape(first.n1, axes, value.channels),
            "shape2": _shape(first.n2, axes, value.channels),
            "batch_axis": axes[0],
            "channel_axis": axes[1],
            "diagonal_batch": True,
            "diagonal_spatial": False,
            "is_reversed": False,
        }[name]

    if names is None:
        return Kernel(**{name: field(name) for name in FIELDS})
    found = [field(name) for name in names]
    return found[0] if isinstance(get, str) else _named(names)(*found)


def _shape(n: int, axes: tuple[int, int], channels: int) -> tuple[int, ...]:
    """Shape of a finite network's output, in the layers' order of axes."""
    return (channels, n) if axes[1] % 2 == 0 else (n, channels)
