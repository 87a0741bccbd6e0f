"""Kernels that JAX differentiates: in inputs, and in the numbers of a network's layers; under jit, vmap and grad.

>>> import jax
>>> import fastntk.jax as fj
>>> from fastntk import stax
>>> network = stax.serial(stax.Dense(1, 1.4, 0.1), stax.Relu(), stax.Dense(1))
>>> x = jax.random.normal(jax.random.key(0), (5, 3))
>>> jax.grad(lambda x: fj.kernel(network, x, get="ntk").sum())(x).shape
(5, 3)

Both directions are callbacks to the host (``jax.pure_callback``), where the engines of the kernel function run.
Differentiable once, in reverse mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import pairwise, permutations
from typing import Any

import numpy as np

try:
    import jax
except ImportError as error:
    raise ImportError("fastntk.jax needs JAX (pip install 'fastntk[jax]')") from error
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from .base.arraylike import describe
from .call.inputs import check_inputs
from .call.kernel_fn import KernelFn, layer_of
from .call.results import named
from .network.layer import Layer
from .network.lower import lower
from .network.parameters import check_names, parameters_of, untraced
from .network.program import Value

__all__ = ["diagonal", "kernel", "kernel_fn"]

_FIELDS = ("nngp", "ntk")
_struct: Any = jax.ShapeDtypeStruct
_TUPLES = {names: named(names) for k in (1, 2) for names in permutations(_FIELDS, k)}


class _Static:
    """What a call is about beside its arrays: equal calls are compiled once."""

    def __init__(self, layer: Layer, names: tuple[str, ...], fields: tuple[str, ...], of_diagonal: bool) -> None:
        self.key = layer, names, fields, of_diagonal
        self.layer, self.names, self.fields, self.of_diagonal = self.key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def kernel_fn(self, values: Any) -> KernelFn:
        found: KernelFn = self.layer.kernel_fn
        return found.with_parameters(dict(zip(self.names, values.tolist(), strict=True))) if self.names else found


# ---------------------------------------------------------------- on the host


def _problems(values: Any, *arrays: Any) -> tuple[tuple[int, ...], Any, list[Any]]:
    """vmap's axes, which the values say and all arrays have in front, as one; None where there are none."""
    values = np.asarray(values, np.float64)
    lead = values.shape[:-1]
    count = math.prod(lead)
    flat = [None if a is None else np.asarray(a).reshape(count, *np.shape(a)[len(lead) :]) for a in arrays]
    return lead, values.reshape(count, values.shape[-1]), flat


def _groups(values: Any) -> list[tuple[Any, slice]]:
    """Runs of problems with the same values, each one call."""
    starts = [0, *(np.flatnonzero((values[1:] != values[:-1]).any(axis=1)) + 1), len(values)]
    return [(values[a], slice(a, b)) for a, b in pairwise(starts) if b > a]


def _forward(static: _Static, shapes: Any, x1: Any, x2: Any, values: Any) -> tuple[Any, ...]:
    lead, values, (x1, x2) = _problems(values, x1, x2)
    out = [np.empty((len(values), *s.shape), s.dtype) for s in shapes]
    for own, part in _groups(values):
        fn = static.kernel_fn(own)
        if static.of_diagonal:
            found = fn.diagonal(x1[part], static.fields, batch_dims=1)
        else:
            found = fn(x1[part], None if x2 is None else x2[part], static.fields, batch_dims=1)
        for whole, plane in zip(out, found, strict=True):
            whole[part] = plane
    return tuple(whole.reshape(*lead, *whole.shape[1:]) for whole in out)


def _backward(static: _Static, wanted: tuple[bool, ...], given: tuple[str, ...], x1: Any, x2: Any, values: Any,
              *cotangents: Any) -> tuple[Any, ...]:  # fmt: skip
    dtype = np.asarray(values).dtype
    lead, values, (x1, x2, *on) = _problems(values, x1, x2, *cotangents)
    of_values = np.zeros(values.shape, dtype)
    out = [np.empty(x.shape, x.dtype) if w else None for x, w in zip((x1, x2), wanted, strict=False)]
    wrt = [n for n, w in zip(("x",) if static.of_diagonal else ("x1", "x2"), wanted, strict=False) if w]
    wrt += static.names if wanted[2] else ()
    for own, part in _groups(values):
        # parameters gather from all problems of a call: where they are asked for, each is one of its own
        parts = [slice(k, k + 1) for k in range(part.start, part.stop)] if wanted[2] else [part]
        fn = static.kernel_fn(own)
        for some in parts:
            asked: Any = {
                "cotangents": {n: c[some] for n, c in zip(given, on, strict=True)}, "wrt": wrt, "batch_dims": 1,
            }  # fmt: skip
            if static.of_diagonal:
                found = fn.diagonal_vjp(x1[some], **asked)
            else:
                found = fn.vjp(x1[some], None if x2 is None else x2[some], **asked)
            for whole, gradient in zip(out, (found.x1, found.x2), strict=True):
                if whole is not None:
                    whole[some] = gradient
            if wanted[2]:
                of_values[some] = [found.parameters[n] for n in static.names]
    results = [*(whole for whole in out if whole is not None), *((of_values,) if wanted[2] else ())]
    return tuple(whole.reshape(*lead, *whole.shape[1:]) for whole in results)


# ---------------------------------------------------------------- in a trace


def _call(host: Callable[..., Any], shapes: Any, *arrays: Any) -> Any:
    return jax.pure_callback(host, shapes, *arrays, vmap_method="broadcast_all")


@lru_cache(maxsize=256)
def _positions(layer: Layer, shape: tuple[int, ...], dtype: Any) -> tuple[int, ...]:
    """Spatial axes of the result for samples of this shape; raises as the kernel function does."""
    inputs, tree = check_inputs(layer, np.broadcast_to(np.zeros((), dtype), shape), None, 0)
    value = lower(layer, tree.value).outputs
    if not isinstance(value, Value) or len(inputs) != 1:
        raise NotImplementedError("[fastntk.jax] networks with several inputs or outputs are not taken")
    return value.spatial


def _results(static: _Static, x1: Any, x2: Any) -> Any:
    axis = (static.layer.axes() or (0, -1))[0] % x1.ndim
    spatial = _positions(static.layer, tuple(x1.shape), np.dtype(x1.dtype))
    samples = (x1.shape[axis],) if static.of_diagonal else (x1.shape[axis], (x1 if x2 is None else x2).shape[axis])
    shape = _struct((*samples, *(n for n in spatial for _ in range(2))), x1.dtype)
    return tuple(shape for _ in static.fields)


def _plain(static: _Static, x1: Any, x2: Any, values: Any) -> Any:
    shapes = _results(static, x1, x2)
    return _call(partial(_forward, static, shapes), shapes, x1, x2, values)


def _kernel_fwd(of: Any, static: _Static, *given: Any) -> Any:
    arrays = tuple(None if a is None else getattr(a, "value", a) for a in given)
    # in the tree itself, which is known while tracing: what is asked for, where JAX says it
    marks = tuple(() if a is not None and getattr(a, "perturbed", True) else None for a in given)
    return of(static, *arrays), (arrays, marks)


def _kernel_bwd(static: _Static, kept: Any, cotangents: Any) -> Any:
    (x1, x2, values), marks = kept
    wanted = tuple(mark is not None for mark in marks)
    wanted = (*wanted[:2], wanted[2] and bool(static.names))
    given = {n: c for n, c in zip(static.fields, cotangents, strict=True) if not isinstance(c, SymbolicZero)}
    found = iter(())
    if given and any(wanted):
        found = iter(_vjp(static, wanted, tuple(given), x1, x2, values, *given.values()))
    return tuple(
        None if a is None else next(found, None) if w and given else jnp.zeros_like(a)
        for a, w in zip((x1, x2, values), wanted, strict=True)
    )


_kernel: Any = jax.custom_vjp(_plain, nondiff_argnums=(0,))
_kernel.defvjp(partial(_kernel_fwd, _kernel), _kernel_bwd, symbolic_zeros=True)
_kernel_of_all: Any = jax.custom_vjp(_plain, nondiff_argnums=(0,))  # for where JAX does not say what is asked for
_kernel_of_all.defvjp(partial(_kernel_fwd, _kernel_of_all), _kernel_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _vjp(static: _Static, wanted: Any, given: Any, x1: Any, x2: Any, values: Any, *on: Any) -> Any:
    shapes = tuple(_struct(a.shape, a.dtype) for a, w in zip((x1, x2, values), wanted, strict=True) if w)
    return _call(partial(_backward, static, wanted, given), shapes, x1, x2, values, *on)


def _vjp_fwd(*_: Any) -> Any:
    raise NotImplementedError(
        "[fastntk.jax] kernels are differentiable once: no second derivatives (grad of grad, hessian) exist"
    )


_vjp.defvjp(_vjp_fwd, _vjp_fwd)


# ---------------------------------------------------------------- in public


def kernel(
    network: Any, x1: Any, x2: Any = None, get: str | Sequence[str] = "nngp", *,
    parameters: Mapping[str, Any] | None = None,
) -> Any:  # fmt: skip
    """NNGP and NTK between the samples of x1 and x2, as JAX differentiates them.

    Parameters
    ----------
    network : stax layer or its kernel_fn
        Whose layers may hold tracers as parameters.
    x1 : jax.Array (n1, d) or (n1, h, w, c) float32 or float64, or a tracer
        float64 only under ``jax_enable_x64``.
    x2 : the same with n2 samples, optional
        None: x1 again, with an exact diagonal; so is an array that is x1.
    get : 'nngp', 'ntk' or a tuple of these
    parameters : dict of str to a number, optional
        Values of parameters by path (``kernel_fn.parameters``), numbers of Python's, of JAX's, or tracers; others are
        the network's own.

    Returns
    -------
    jax.Array (n1, n2) of x1's dtype, with positions behind as the kernel function has them; a named tuple for a tuple.

    Raises
    ------
    TypeError
        A network that is no layer, inputs that are not of float32 or float64, x1 and x2 of different dtypes;
        from JAX itself for forward mode (``jvp``, ``jacfwd``, ``hessian``).
    ValueError
        Unknown paths and names, shapes that do not fit; as the kernel function.
    NotImplementedError
        Second derivatives, when they are asked for; networks with several inputs or outputs.

    Notes
    -----
    Values are those of the kernel function, bit for bit. ``vmap`` over inputs is one call; over parameters, one for
    each of their values. What no gradient is asked for is not computed. The work is done in host memory, wherever the
    arrays lie. Conventions of gradients at equal and opposite rows, and their accuracy: docs/gradients.md.
    """
    return _run("kernel", network, x1, None if x2 is x1 else x2, get, parameters, False)


def diagonal(
    network: Any, x: Any, get: str | Sequence[str] = "nngp", *, parameters: Mapping[str, Any] | None = None
) -> Any:
    """K(x, x) of each sample alone, in O(n).

    Parameters
    ----------
    network, get, parameters
        As for :func:`kernel`.
    x : jax.Array (n, d) or (n, h, w, c)

    Returns
    -------
    jax.Array (n,), or a named tuple of them

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As :func:`kernel`.
    """
    return _run("diagonal", network, x, None, get, parameters, True)


def kernel_fn(network: Any, parameters: Mapping[str, Any] | None = None) -> Callable[..., Any]:
    """The kernel function of a network with Neural Tangents' signature, ``kernel_fn(x1, x2=None, get=None)``.

    Parameters
    ----------
    network : stax layer or its kernel_fn
    parameters : dict of str to a number, optional
        As for :func:`kernel`.

    Returns
    -------
    callable
        As :func:`kernel`; ``get=None`` gives both kernels, by name.

    Raises
    ------
    TypeError, ValueError
        As :func:`kernel`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from fastntk import stax
    >>> import fastntk.jax as fj
    >>> init_fn, apply_fn, _ = network = stax.serial(stax.Dense(1, 1.4, 0.1), stax.Relu(), stax.Dense(1))
    >>> fj.kernel_fn(network)(jnp.ones((2, 3)), None, "ntk").shape
    (2, 2)
    """
    layer = layer_of("kernel_fn", network)

    def of_inputs(x1: Any, x2: Any = None, get: str | Sequence[str] | None = None) -> Any:
        return kernel(layer, x1, x2, _FIELDS if get is None else get, parameters=parameters)

    return of_inputs


def _run(what: str, network: Any, x1: Any, x2: Any, get: Any, parameters: Any, of_diagonal: bool) -> Any:
    layer, traced = untraced(layer_of(what, network))
    names = (get,) if isinstance(get, str) else get
    if not isinstance(names, (tuple, list)) or not names or len(set(names)) < len(names) or set(names) - set(_FIELDS):
        raise ValueError(f"[{what}] get must be 'nngp', 'ntk' or a tuple of these, given {get!r}")
    x1 = _array(what, x1, "x" if of_diagonal else "x1")
    if x2 is not None:
        x2 = _array(what, x2, "x2")
        if x1.dtype != x2.dtype:
            raise TypeError(f"[{what}] x1 is {x1.dtype}, x2 is {x2.dtype}: convert one of them")
        axis = (layer.axes() or (0, -1))[0] % x1.ndim
        one, two = ([n for k, n in enumerate(x.shape) if k != axis] for x in (x1, x2))
        if one != two:
            raise ValueError(f"[{what}] samples of x1 and x2 have different shapes: {x1.shape} and {x2.shape}")
    paths, values = _values(what, layer, traced, parameters)
    static = _Static(layer, paths, tuple(names), of_diagonal)
    try:
        found = _kernel(static, x1, x2, values)
    except NotImplementedError as error:
        if "symbolic_zeros" not in str(error):  # of shard_map outside of jit
            raise
        found = _kernel_of_all(static, x1, x2, values)
    return found[0] if isinstance(get, str) else _TUPLES[tuple(names)](*found)


def _array(what: str, x: Any, name: str) -> Any:
    if not isinstance(x, (jax.Array, np.ndarray)):
        raise TypeError(f"[{what}] {name} must be an array of JAX or NumPy, given {describe(x)}")
    found = jnp.asarray(x)
    if found.dtype not in (jnp.float32, jnp.float64):
        raise TypeError(f"[{what}] {name} must be of float32 or float64, given {found.dtype}")
    if found.ndim < 2:
        raise ValueError(f"[{what}] {name} must have shape (n, d) or (n, h, w, c), given {found.shape}")
    return found


def _values(what: str, layer: Layer, traced: dict[str, Any], parameters: Any) -> tuple[tuple[str, ...], Any]:
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, Mapping):
        raise TypeError(f"[{what}] parameters must be a dict of paths and numbers, given {describe(parameters)}")
    check_names(what, parameters, parameters_of(layer))
    parameters = traced | dict(parameters)
    widest = jnp.zeros(0).dtype
    numbers = [jnp.asarray(v, widest) for v in parameters.values()]
    for name, number in zip(parameters, numbers, strict=True):
        if number.size != 1:
            raise ValueError(f"[{what}] parameters[{name!r}] must be one number, given shape {number.shape}")
    values = jnp.stack([n.reshape(()) for n in numbers]) if numbers else jnp.zeros(0, widest)
    return tuple(parameters), values
