"""Kernels averaged over draws of a finite network's parameters."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ..base.checks import integer
from .backends import Tree, is_module, leaves, mapped
from .empirical import BUDGET, NtkImplementation, as_asked, empirical_kernel_fn, kernels_asked


def monte_carlo_kernel_fn(
    init_fn: Any, apply_fn: Any, key: Any, n_samples: Any, batch_size: int = 0, device_count: int = -1,
    store_on_device: bool = True, trace_axes: Any = (-1,), diagonal_axes: Any = (), vmap_axes: Any = None,
    implementation: Any = NtkImplementation.AUTO, *, memory_budget: int = BUDGET,
) -> Callable[..., Any]:  # fmt: skip
    """Kernels averaged over draws of parameters: estimates of the infinite network's.

    Parameters
    ----------
    init_fn : callable, or torch.nn.Module
        ``init_fn(key, shape)`` gives a shape and parameters. A module (``apply_fn`` is None then) is drawn anew by the
        ``reset_parameters`` of its parts.
    apply_fn : callable, or None
        As f of :func:`empirical_ntk_fn`.
    key : int, numpy.random.Generator or key of JAX's
        Draws are those of its children: one key gives the same draws, and more of them begin with the same.
    n_samples : int, or iterable of int
        Draws. Of several numbers the function gives an iterator over the estimates with so many.
    batch_size, device_count, store_on_device
        As Neural Tangents has them, without effect: ``memory_budget`` cuts the work.
    trace_axes, diagonal_axes, vmap_axes, implementation, memory_budget
        As for :func:`empirical_ntk_fn`.

    Returns
    -------
    callable
        ``kernel_fn(x1, x2=None, get=None, **keywords)``, as that of :func:`empirical_kernel_fn`.

    Raises
    ------
    TypeError, ValueError
        As :func:`empirical_ntk_fn`; a module of which a part with parameters of its own cannot be drawn anew.
    """
    what = "monte_carlo_kernel_fn"
    module = init_fn if is_module(init_fn) else None
    if (module is None) == (apply_fn is None):
        raise TypeError(f"[{what}] takes init_fn and apply_fn, or a torch.nn.Module and None")
    several = isinstance(n_samples, Iterable)
    counts = [integer(what, "n_samples", n) for n in (n_samples if several else [n_samples])]
    if not counts or sorted(set(counts)) != counts:
        raise ValueError(f"[{what}] n_samples must rise, given {counts}")
    one = empirical_kernel_fn(
        apply_fn if module is None else module, trace_axes, diagonal_axes, vmap_axes, implementation,
        memory_budget=memory_budget,
    )  # fmt: skip

    def estimates(x1: Any, x2: Any, get: Any, keywords: dict[str, Any]) -> Iterator[Any]:
        names = kernels_asked(get, what)
        totals: list[Any] = []
        for done, own in enumerate(_keys(key, counts[-1], what), 1):
            params = _drawn(init_fn, own, x1) if module is None else _redrawn(module, own, what)
            found = one(x1, x2, names, params, **keywords)
            totals = mapped(list(found), operator.add, totals) if totals else list(found)
            if done in counts:
                yield as_asked(get, mapped(totals, lambda total, done=done: total / done), names)

    def kernel_fn(x1: Any, x2: Any = None, get: Any = None, **keywords: Any) -> Any:
        found = estimates(x1, x2, get, keywords)
        return found if several else next(found)

    return kernel_fn


def _keys(key: Any, count: int, what: str) -> Iterator[Any]:
    """Independent sources of randomness, one for each draw."""
    if type(key).__module__.split(".")[0] in ("jax", "jaxlib"):
        from jax import random

        for i in range(count):
            yield random.fold_in(key, i)
        return
    seed = int(key.integers(2**63)) if isinstance(key, np.random.Generator) else integer(what, "key", key, least=0)
    for i in range(count):
        yield int(np.random.default_rng([seed, i]).integers(2**62))


def _drawn(init_fn: Callable[..., Any], key: Any, x: Any) -> Tree:
    """Parameters; NumPy's in the library, dtype and on the device of the inputs."""
    params, x = init_fn(key, mapped(x, lambda a: tuple(a.shape)))[1], next(leaves(x))
    if type(x).__module__.split(".")[0] == "torch":
        return mapped(params, lambda p: x.new_tensor(p) if isinstance(p, np.ndarray) else p)
    if isinstance(x, np.ndarray) and x.dtype.kind == "f":
        return mapped(params, lambda p: p.astype(x.dtype) if isinstance(p, np.ndarray) else p)
    return params


def _redrawn(module: Any, seed: int, what: str) -> dict[str, Any]:
    """Parameters of a copy of a module whose parts are drawn anew."""
    import torch

    own = copy.deepcopy(module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, part in own.named_modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
            elif hasattr(part, "_reset_parameters"):
                part._reset_parameters()
            elif next(part.parameters(recurse=False), None) is not None:
                raise TypeError(f"[{what}] {name or 'the module'} ({type(part).__name__}) has no reset_parameters")
    return {name: p.detach() for name, p in own.named_parameters()}
