"""Kernels that PyTorch differentiates: in inputs, and in the numbers of a network's layers.

>>> import fastntk.torch as ft
>>> import torch
>>> from fastntk import stax
>>> network = stax.serial(stax.Dense(1, 1.4, 0.1), stax.Relu(), stax.Dense(1))
>>> x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
>>> ft.kernel(network, x, get="ntk").sum().backward()
>>> x.grad.shape
torch.Size([5, 3])

The work is done by two operators that PyTorch does not look into, under two Functions: so that ``backward``,
``torch.func`` (grad, vmap, jacrev) and ``torch.compile(fullgraph=True)`` all pass. Differentiable once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from threading import Lock
from typing import Any, TypeAlias

import numpy as np

try:
    import torch
except ImportError as error:
    raise ImportError("fastntk.torch needs PyTorch (pip install 'fastntk[torch]')") from error
from torch import Tensor, nn
from torch.autograd import Function

from .base.arraylike import describe
from .call.kernel_fn import KernelFn, layer_of
from .call.results import named
from .finite.lifting import Unliftable, lift
from .network.layer import Layer
from .network.parameters import check_names, parameters_of, traced_of, untraced

__all__ = ["Kernel", "Unliftable", "diagonal", "kernel", "lift"]

_FIELDS = ("nngp", "ntk")
_TUPLES = {names: named(names) for k in (1, 2) for names in permutations(_FIELDS, k)}

# ---------------------------------------------------------------- networks by number

# What an operator runs: a network, the paths of the parameters that it is handed, and the shape of a sample where rows
# are images. Never forgotten: graphs that were compiled hold the numbers.
_Shape: TypeAlias = "tuple[int, ...] | None"
_known: list[tuple[KernelFn, tuple[str, ...], _Shape]] = []
_places: dict[tuple[Layer, tuple[str, ...], _Shape], int] = {}
_numbering = Lock()  # two threads must not give two networks one number


@torch.compiler.assume_constant_result
def _handle(layer: Layer, names: tuple[str, ...], shape: _Shape) -> int:
    key = layer, names, shape
    with _numbering:
        if key not in _places:
            _known.append((layer.kernel_fn, names, shape))
            _places[key] = len(_known) - 1
        return _places[key]


def _kernel_fn(handle: int, values: Tensor) -> tuple[KernelFn, tuple[str, ...], _Shape]:
    kernel_fn, names, shape = _known[handle]
    if names:
        kernel_fn = kernel_fn.with_parameters(dict(zip(names, values.tolist(), strict=True)))
    return kernel_fn, names, shape


# ---------------------------------------------------------------- the two operators


def _flat(x: Tensor, shape: _Shape) -> Tensor:
    """(batch, n, d), or (batch, n, *shape)."""
    return x.detach().reshape(-1, x.shape[-2], *(x.shape[-1:] if shape is None else shape))


def _shape(x1: Tensor, x2: Tensor | None, diagonal: bool) -> list[int]:
    return [*x1.shape[:-1]] if diagonal else [*x1.shape[:-1], (x1 if x2 is None else x2).shape[-2]]


@torch.library.custom_op("fastntk::kernel", mutates_args=())
def _kernel_op(
    x1: Tensor, x2: Tensor | None, values: Tensor, handle: int, get: str, diagonal: bool, threads: int
) -> tuple[Tensor, Tensor]:
    """NNGP and NTK, empty where not asked for: x1 (*batch, n1, d), x2 (*batch, n2, d)."""
    kernel_fn, _, sample = _kernel_fn(handle, values)
    names = tuple(n for n in _FIELDS if get in (n, "both"))
    options: Any = {"batch_dims": 1, "num_threads": threads or None}
    first = _flat(x1, sample)
    if diagonal:
        found = kernel_fn.diagonal(first, names, **options)
    else:
        found = kernel_fn(first, None if x2 is None else _flat(x2, sample), names, **options)
    shape = _shape(x1, x2, diagonal)
    planes = [getattr(found, n).reshape(shape) if n in names else x1.new_empty(0) for n in _FIELDS]
    return planes[0], planes[1]


@_kernel_op.register_fake
def _(x1: Tensor, x2: Any, values: Tensor, handle: int, get: str, diagonal: bool, threads: int) -> Any:
    shape = _shape(x1, x2, diagonal)
    return tuple(x1.new_empty(shape if get in (n, "both") else [0]) for n in _FIELDS)


@torch.library.custom_op("fastntk::kernel_vjp", mutates_args=())
def _vjp_op(
    x1: Tensor, x2: Tensor | None, values: Tensor, on_nngp: Tensor | None, on_ntk: Tensor | None, handle: int,
    wanted: Sequence[bool], diagonal: bool, threads: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x1, x2 and the values, empty where not ``wanted``."""
    kernel_fn, names, sample = _kernel_fn(handle, values)
    count = 1 if diagonal else 2
    given = {
        n: np.asarray(c.detach().cpu().reshape(-1, *c.shape[-count:]))
        for n, c in zip(_FIELDS, (on_nngp, on_ntk), strict=True)
        if c is not None
    }
    inputs = ("x",) if diagonal else ("x1", "x2")
    wrt = [n for n, is_wanted in zip(inputs, wanted, strict=False) if is_wanted]
    wrt += names if wanted[2] else ()
    options: Any = {"cotangents": given, "wrt": wrt, "batch_dims": 1, "num_threads": threads or None}
    first = np.asarray(_flat(x1, sample).cpu())
    if diagonal:
        found = kernel_fn.diagonal_vjp(first, **options)
    else:
        found = kernel_fn.vjp(first, None if x2 is None else np.asarray(_flat(x2, sample).cpu()), **options)
    of1 = torch.from_numpy(found.x1).to(x1.device).reshape(x1.shape) if wanted[0] else x1.new_empty(0)
    of2 = x1.new_empty(0)
    if wanted[1] and x2 is not None:
        of2 = torch.from_numpy(found.x2).to(x2.device).reshape(x2.shape)
    of_values = [found.parameters[n] for n in names] if wanted[2] else []
    return of1, of2, values.new_tensor(of_values)


@_vjp_op.register_fake
def _(
    x1: Tensor, x2: Any, values: Tensor, on_nngp: Any, on_ntk: Any, handle: int, wanted: Any, diagonal: bool,
    threads: int,
) -> Any:  # fmt: skip
    return (
        torch.empty_like(x1, memory_format=torch.contiguous_format) if wanted[0] else x1.new_empty(0),
        torch.empty_like(x2, memory_format=torch.contiguous_format)
        if wanted[1] and x2 is not None
        else x1.new_empty(0),
        torch.empty_like(values) if wanted[2] else values.new_empty(0),
    )


# ---------------------------------------------------------------- and the two functions


def _front(tensors: Sequence[Tensor | None], dims: Sequence[int | None], size: int) -> list[Tensor | None]:
    """Tensors with vmap's axis in front, those that have none too."""
    return [
        None if t is None else t.expand(size, *t.shape) if d is None else t.movedim(d, 0)
        for t, d in zip(tensors, dims, strict=True)
    ]


def _entry(t: Tensor | None, dim: int | None, k: int) -> Tensor | None:
    return t if t is None or dim is None else t.select(dim, k)


class _Kernel(Function):
    @staticmethod
    def forward(x1: Any, x2: Any, values: Any, handle: int, get: str, diagonal: bool, threads: int) -> Any:
        return _kernel_op(x1, x2, values, handle, get, diagonal, threads)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x1, x2, values, *ctx.static = inputs
        ctx.save_for_backward(x1, x2, values)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, on_nngp: Any, on_ntk: Any) -> Any:
        x1, x2, values = ctx.saved_tensors
        handle, get, diagonal, threads = ctx.static
        on_nngp, on_ntk = (c if get in (n, "both") else None for n, c in zip(_FIELDS, (on_nngp, on_ntk), strict=True))
        wanted = [bool(w) for w in ctx.needs_input_grad[:3]]
        if on_nngp is None and on_ntk is None:
            return (None,) * 7
        found = _KernelVjp.apply(x1, x2, values, on_nngp, on_ntk, handle, wanted, diagonal, threads)
        grads = [g if w else None for g, w in zip(found, wanted, strict=True)]
        return (*grads, None, None, None, None)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x1: Any, x2: Any, values: Any, *static: Any) -> Any:
        get = static[1]
        if in_dims[2] is None:
            first, second = _front((x1, x2), in_dims[:2], info.batch_size)
            found = _Kernel.apply(first, second, values, *static)
        else:
            each = [
                _Kernel.apply(*(_entry(t, d, k) for t, d in zip((x1, x2, values), in_dims, strict=False)), *static)
                for k in range(info.batch_size)
            ]
            found = tuple(torch.stack(planes) for planes in zip(*each, strict=True))
        dims = tuple(0 if get in (n, "both") or in_dims[2] is not None else None for n in _FIELDS)
        return found, dims


class _KernelVjp(Function):
    @staticmethod
    def forward(
        x1: Any, x2: Any, values: Any, on_nngp: Any, on_ntk: Any, handle: int, wanted: Any, diagonal: bool, threads: int
    ) -> Any:
        return _vjp_op(x1, x2, values, on_nngp, on_ntk, handle, wanted, diagonal, threads)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(
            "[fastntk.torch] kernels are differentiable once: no second derivatives (create_graph=True, hessian) exist"
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, x1: Any, x2: Any, values: Any, on_nngp: Any, on_ntk: Any, *static: Any) -> Any:
        tensors, wanted = (x1, x2, values, on_nngp, on_ntk), static[1]
        if in_dims[2] is None and not wanted[2]:  # one problem more for each entry; else parameters would be summed
            first, second, *on = _front((x1, x2, on_nngp, on_ntk), (*in_dims[:2], *in_dims[3:5]), info.batch_size)
            found = _KernelVjp.apply(first, second, values, *on, *static)
            return found, tuple(0 if w and t is not None else None for w, t in zip(wanted, tensors, strict=False))
        each = [
            _KernelVjp.apply(*(_entry(t, d, k) for t, d in zip(tensors, in_dims, strict=False)), *static)
            for k in range(info.batch_size)
        ]
        return tuple(torch.stack(part) for part in zip(*each, strict=True)), (0, 0, 0)


# ---------------------------------------------------------------- in public


def kernel(
    network: Any, x1: Tensor, x2: Tensor | None = None, get: str | Sequence[str] = "nngp", *,
    parameters: Mapping[str, Any] | None = None, input_shape: Sequence[int] | None = None,
    num_threads: int | None = None,
) -> Any:  # fmt: skip
    """NNGP and NTK between the rows of x1 and x2, as PyTorch differentiates them.

    Parameters
    ----------
    network : stax layer or its kernel_fn
        Whose layers may hold tensors that record gradients as parameters.
    x1 : torch.Tensor (..., n1, d) float32 or float64
        In host memory, or on a CUDA device (where the kernel is computed there, its gradient in host memory).
    x2 : torch.Tensor (..., n2, d), optional
        None: x1 again, with an exact diagonal; so is a tensor that is x1. Leading axes broadcast.
    get : 'nngp', 'ntk' or a tuple of these
    parameters : dict of str to torch.Tensor () or float, optional
        Values of parameters by path (``kernel_fn.parameters``), differentiated where they are tensors; others are the
        network's own.
    input_shape : tuple of int, optional
        Shape of one sample where it has spatial axes: rows (n, 3072) are read as (n, 32, 32, 3) with
        ``input_shape=(32, 32, 3)``. Of a network that ends without positions.
    num_threads : int, optional

    Returns
    -------
    torch.Tensor (..., n1, n2) of x1's dtype and device; a named tuple for a tuple.

    Raises
    ------
    TypeError
        A network that is no layer, inputs that are no tensors of float32 or float64, x1 and x2 of different dtypes.
    ValueError
        Unknown paths and names, shapes that do not fit; as the kernel function.
    NotImplementedError
        Second derivatives, when they are asked for.

    Notes
    -----
    Values are those of the kernel function, bit for bit. Conventions of gradients at equal and opposite rows, and their
    accuracy: docs/gradients.md.
    """
    layer, recorded = _without_tensors(layer_of("kernel", network))
    single, which = _which("kernel", get)
    _check("kernel", x1, "x1")
    if x2 is x1:
        x2 = None
    if x2 is not None:
        _check("kernel", x2, "x2")
        if x1.dtype != x2.dtype:
            raise TypeError(f"[kernel] x1 is {x1.dtype}, x2 is {x2.dtype}: convert one of them")
        batch = torch.broadcast_shapes(x1.shape[:-2], x2.shape[:-2])
        x1, x2 = x1.expand(*batch, *x1.shape[-2:]), x2.expand(*batch, *x2.shape[-2:])
    sample = _sample("kernel", layer, x1, input_shape)
    handle, values = _values("kernel", layer, recorded, parameters, sample)
    found = _Kernel.apply(x1, x2, values, handle, which, False, num_threads or 0)
    return _result(found, single, which)


def diagonal(
    network: Any, x: Tensor, get: str | Sequence[str] = "nngp", *, parameters: Mapping[str, Any] | None = None,
    input_shape: Sequence[int] | None = None, num_threads: int | None = None,
) -> Any:  # fmt: skip
    """K(x, x) of each row alone, in O(n).

    Parameters
    ----------
    network, get, parameters, input_shape, num_threads
        As for :func:`kernel`.
    x : torch.Tensor (..., n, d)

    Returns
    -------
    torch.Tensor (..., n), or a named tuple of them

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As :func:`kernel`.
    """
    layer, recorded = _without_tensors(layer_of("diagonal", network))
    single, which = _which("diagonal", get)
    _check("diagonal", x, "x")
    sample = _sample("diagonal", layer, x, input_shape)
    handle, values = _values("diagonal", layer, recorded, parameters, sample)
    return _result(_Kernel.apply(x, None, values, handle, which, True, num_threads or 0), single, which)


class Kernel(nn.Module):
    """A kernel whose numbers are learned.

    Parameters
    ----------
    network : stax layer or its kernel_fn
    get : 'nngp', 'ntk' or a tuple of these
    learn : sequence of str
        Names of arguments, of all layers that have them ('W_std'), and paths ('0.W_std').
    transform : 'log' or None
        'log': logarithms are the parameters, and values stay positive. None: the values themselves.
    input_shape : tuple of int, optional
        As for :func:`kernel`.

    Attributes
    ----------
    raw : torch.nn.ParameterDict
        What is optimised, float64, by path with "_" for each ".".

    Raises
    ------
    TypeError, ValueError
        A network that is no layer; unknown names; 'log' of a value that is not positive.

    Examples
    --------
    >>> import torch
    >>> from fastntk import stax
    >>> from fastntk.torch import Kernel
    >>> module = Kernel(stax.serial(stax.Dense(1, 1.4, 0.1), stax.Relu(), stax.Dense(1)), get="ntk")
    >>> module(torch.randn(4, 3)).shape
    torch.Size([4, 4])
    >>> sorted(module.raw.keys())
    ['0_W_std', '0_b_std', '2_W_std']
    """

    def __init__(
        self, network: Any, get: str | Sequence[str] = "nngp", learn: Sequence[str] = ("W_std", "b_std"),
        transform: str | None = "log", input_shape: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.input_shape = None if input_shape is None else tuple(input_shape)
        self.network = layer_of("Kernel", network)
        self.get = get
        _which("Kernel", get)
        if transform not in ("log", None):
            raise ValueError(f"[Kernel] transform must be 'log' or None, given {transform!r}")
        self.transform = transform
        known = parameters_of(self.network)
        endings = {path.rsplit(".", 1)[-1] for path in known}
        wanted = (learn,) if isinstance(learn, str) else tuple(learn)
        check_names("Kernel", [n for n in wanted if n not in endings and n not in ("W_std", "b_std")], known)
        self.paths = tuple(p for p in known if p in wanted or p.rsplit(".", 1)[-1] in wanted)
        self.raw = nn.ParameterDict()
        for path in self.paths:
            value = known[path]
            if transform == "log" and value <= 0:
                raise ValueError(f"[Kernel] {path} is {value}, which has no logarithm: transform=None takes it")
            start = torch.tensor(value, dtype=torch.float64)
            self.raw[path.replace(".", "_")] = nn.Parameter(start.log() if transform == "log" else start)

    def values(self) -> dict[str, Tensor]:
        """Values of the learned parameters by path."""
        raw = {path: self.raw[path.replace(".", "_")] for path in self.paths}
        return {path: r.exp() for path, r in raw.items()} if self.transform == "log" else raw

    def forward(self, x1: Tensor, x2: Tensor | None = None) -> Any:
        """The kernel between rows of x1 and x2; None: x1 again."""
        return kernel(self.network, x1, x2, self.get, parameters=self.values(), input_shape=self.input_shape)

    def diagonal(self, x: Tensor) -> Any:
        """K(x, x) of each row."""
        return diagonal(self.network, x, self.get, parameters=self.values(), input_shape=self.input_shape)


def _without_tensors(layer: Layer) -> tuple[Layer, dict[str, Any]]:
    return (layer, {}) if _is_plain(layer) else untraced(layer)


@torch.compiler.assume_constant_result
def _is_plain(layer: Layer) -> bool:
    return not traced_of(layer)


def _which(what: str, get: Any) -> tuple[Any, str]:
    names = (get,) if isinstance(get, str) else get
    if not isinstance(names, (tuple, list)) or not names or len(set(names)) < len(names) or set(names) - set(_FIELDS):
        raise ValueError(f"[{what}] get must be 'nngp', 'ntk' or a tuple of these, given {get!r}")
    return get, names[0] if len(names) == 1 else "both"


def _check(what: str, x: Any, name: str) -> None:
    if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64):
        given = x.dtype if isinstance(x, Tensor) else describe(x)
        raise TypeError(f"[{what}] {name} must be a torch.Tensor of float32 or float64, given {given}")
    if x.ndim < 2:
        raise ValueError(f"[{what}] {name} must have shape (*batch, n, d), given {tuple(x.shape)}")


@torch.compiler.assume_constant_result
def _ends_with_positions(layer: Layer, shape: tuple[int, ...], dtype: str) -> bool:
    return layer.kernel_fn.diagonal(np.zeros((1, *shape), dtype), "nngp").ndim > 1  # type: ignore[no-any-return]


def _sample(what: str, layer: Layer, x: Tensor, input_shape: Any) -> _Shape:
    """The shape of a sample, checked."""
    if input_shape is None:
        return None
    shape = tuple(int(n) for n in input_shape)
    if math.prod(shape) != x.shape[-1]:
        raise ValueError(f"[{what}] input_shape {shape} has {math.prod(shape)} numbers, rows have {x.shape[-1]}")
    if _ends_with_positions(layer, shape, str(x.dtype).rsplit(".", 1)[-1]):
        raise ValueError(f"[{what}] the network ends with positions: put GlobalAvgPool or Flatten behind it")
    return shape


def _values(what: str, layer: Layer, recorded: dict[str, Any], parameters: Any, sample: _Shape) -> tuple[int, Tensor]:
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, Mapping):
        raise TypeError(f"[{what}] parameters must be a dict of paths and numbers, given {describe(parameters)}")
    parameters = {**recorded, **parameters}
    if not parameters:
        return _handle(layer, (), sample), torch.empty(0, dtype=torch.float64)
    names = tuple(parameters)
    numbers = [torch.as_tensor(v).to("cpu", torch.float64) for v in parameters.values()]
    for name, number in zip(names, numbers, strict=True):
        if number.numel() != 1:
            raise ValueError(f"[{what}] parameters[{name!r}] must be one number, given shape {tuple(number.shape)}")
    _known_names(what, layer, names)
    return _handle(layer, names, sample), torch.stack([n.reshape(()) for n in numbers])


@torch.compiler.assume_constant_result
def _known_names(what: str, layer: Layer, names: tuple[str, ...]) -> bool:
    check_names(what, names, parameters_of(layer))
    return True


def _result(found: tuple[Tensor, Tensor], get: Any, which: str) -> Any:
    by_name = dict(zip(_FIELDS, found, strict=True))
    return by_name[get] if isinstance(get, str) else _TUPLES[tuple(get)](*(by_name[n] for n in get))
