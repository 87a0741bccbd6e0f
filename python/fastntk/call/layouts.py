"""Kernels in Neural Tangents' other layouts: K(x, x') of all samples of a side, and positions with themselves alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arraylike import DEEPEST, is_numbers
from ..base.kernel import Kernel
from ..base.place import HOST, place_of
from ..engines.numpy_images import at_equal_positions, plan_of
from ..network.lower import lower
from ..network.program import leaves
from .continued_positions import spatial_of
from .inputs import check_inputs, values_of
from .results import named

Array = npt.NDArray[Any]


def kernels_of(tree: Any, depth: int = 0) -> Iterator[Kernel]:
    """Kernels among arguments."""
    if isinstance(tree, Kernel):
        yield tree
    elif isinstance(tree, (tuple, list)) and depth <= DEEPEST and not is_numbers(tree):
        for part in tree:
            yield from kernels_of(part, depth + 1)


def usual(k: Kernel) -> bool:
    """Whether a kernel has the layout that kernel functions take and give."""
    return bool(k.diagonal_batch) and not k.diagonal_spatial


def mapped(f: Callable[..., Any], *trees: Any) -> Any:
    """A function of the leaves of trees alike, lists of numbers among them; None where a tree has None."""
    first = next(tree for tree in trees if tree is not None)
    if not isinstance(first, (tuple, list)) or is_numbers(first):
        return f(*trees)
    parts = [[None] * len(first) if tree is None else tree for tree in trees]
    made = [mapped(f, *own) for own in zip(*parts, strict=True)]
    return type(first)(*made) if hasattr(first, "_fields") else type(first)(made)


def _each_array(f: Callable[[Any], Any], a: Any) -> Any:
    """A function of an array, or of the arrays of a kernel."""
    if not isinstance(a, Kernel):
        return None if a is None else f(a)
    held = {name: getattr(a, name) for name in ("nngp", "ntk", "cov1", "cov2", "mask1", "mask2")}
    return a.replace(**{name: f(array) for name, array in held.items() if array is not None})


def whole(k: Any) -> Any:
    """A kernel in the usual layout; what it does not hold, of two positions, is 0."""
    if not isinstance(k, Kernel) or usual(k):
        return k
    if not k.diagonal_batch:
        covs = {name: _variances(getattr(k, name)) for name in ("cov1", "cov2")}
        k = k.replace(**covs, diagonal_batch=True)
    if k.diagonal_spatial:
        rank = len(spatial_of(k))
        spread = {name: _spread(getattr(k, name), rank) for name in ("nngp", "ntk", "cov1", "cov2")}
        k = k.replace(**spread, diagonal_spatial=False, exact=None)
    return k


def side(k: Any, second: bool) -> Any:
    """The kernel of one side's samples with one another, whose covariances a kernel holds beside its variances."""
    if not isinstance(k, Kernel):
        return k
    second = second and k.cov2 is not None
    cov, shape, mask = (k.cov2, k.shape2, k.mask2) if second else (k.cov1, k.shape1, k.mask1)
    return whole(
        k.replace(nngp=cov, ntk=None, cov1=cov, cov2=None, x1_is_x2=True, shape1=shape, shape2=shape, mask1=mask,
                  mask2=None, exact=None)
    )  # fmt: skip


def alone(k: Kernel) -> Kernel:
    """Of all pairs of positions each with itself."""
    rank = len(spatial_of(k))
    if not rank:
        return k
    arrays = {name: _at_equal(getattr(k, name), rank) for name in ("nngp", "ntk", "cov1", "cov2")}
    return k.replace(**arrays, diagonal_spatial=True, exact=None)


def in_layout(
    kernel_fn: Any, x1: Any, x2: Any, get: Any, names: tuple[str, ...] | None, full_batch: bool, at_equal: bool,
    keywords: Mapping[str, Any],
) -> Any:  # fmt: skip
    """A call whose kernels, or those that it continues, have another layout than the usual one.

    Raises
    ------
    ValueError
        For ``batch_dims=1``; ``full_batch`` of a Kernel that holds variances alone; a network that reads pairs of
        positions of a Kernel that holds none.
    NotImplementedError
        For arrays on a device or that are not there yet, and ``out``.
    """
    place = place_of("kernel_fn", x1=x1, x2=x2, out=keywords["out"])
    if place.ordinal is not None or place.lazy or keywords["out"] is not None:
        raise NotImplementedError(
            "[kernel_fn] diagonal_batch=False and diagonal_spatial=True take arrays in host memory, and give new ones"
        )
    if place is not HOST:  # of a library beside NumPy: as NumPy's, and back
        one, two = (mapped(lambda a: _each_array(np.asarray, a), x) if x is not None else None for x in (x1, x2))
        found = in_layout(kernel_fn, one, two, get, names, full_batch, at_equal, keywords)
        return mapped(lambda a: _each_array(place.give, a), found)
    if keywords["batch_dims"]:
        raise ValueError(
            "[kernel_fn] diagonal_batch=False and diagonal_spatial=True are of one Gram: batch_dims must be 0"
        )
    given = list(kernels_of(x1))
    if given and full_batch and any(k.diagonal_batch for k in given):
        raise ValueError("[kernel_fn] diagonal_batch=False was given, the Kernel given holds variances alone")
    full_batch = full_batch or any(not k.diagonal_batch for k in given)
    if any(k.diagonal_spatial for k in given):
        _check_alone(kernel_fn.layer, x1)
        at_equal = True
    found = kernel_fn(mapped(whole, x1), x2, None, **keywords)
    if full_batch:
        pattern, covs = keywords["pattern"] or (None, None), []
        for second in (False, True):
            x = mapped(lambda k, second=second: side(k, second), x1) if given else x2 if second else x1
            own = pattern[1 if second and pattern[1] is not None else 0]
            wanted = not second or x2 is not None or any(k.cov2 is not None for k in given)
            own_keywords = {**keywords, "pattern": (own, own)}
            covs.append(kernel_fn(x, None, "nngp", **own_keywords) if wanted else None)
        found = mapped(lambda k, a, b: k.replace(cov1=a, cov2=b, diagonal_batch=False), found, *covs)
    found = mapped(alone, found) if at_equal else found
    if names is None:
        return found
    return _picked(found, get, names)


def _picked(found: Any, get: Any, names: tuple[str, ...]) -> Any:
    def of(k: Kernel) -> Any:
        fields = [getattr(k, name) for name in names]
        return fields[0] if isinstance(get, str) else named(names)(*fields)

    return mapped(of, found)


def _check_alone(layer: Any, x1: Any) -> None:
    """Whether a network reads pairs of positions of kernels that hold none."""
    inputs, tree = check_inputs(layer, mapped(whole, x1), None, 0)
    lowered, given = lower(layer, values_of(tree)), list(kernels_of(x1))
    steps = plan_of(at_equal_positions(lowered), [() for _ in leaves(lowered.outputs)])
    for step in steps:
        if step.op.name == "input" and len(inputs) == len(given) and given[step.op.dst].diagonal_spatial and step.full:
            raise ValueError(
                f"[kernel_fn] input {step.op.dst} is a Kernel with diagonal_spatial=True, which holds each position "
                "with itself alone, and the network reads pairs of positions: make it without"
            )


def _variances(cov: Array | None) -> Array | None:
    """K(x, x) of K(x, x'), samples first."""
    return None if cov is None else np.ascontiguousarray(np.moveaxis(cov.diagonal(axis1=0, axis2=1), -1, 0))


def _at_equal(k: Array | None, rank: int) -> Array | None:
    """(..., h, h', w, w') -> (..., h, w)."""
    if k is None:
        return None
    first = k.ndim - 2 * rank
    for axis in range(first, first + rank):
        k = np.moveaxis(k.diagonal(axis1=axis, axis2=axis + 1), -1, axis)
    return np.ascontiguousarray(k)


def _spread(k: Array | None, rank: int) -> Array | None:
    """(..., h, w) -> (..., h, h', w, w'), 0 where positions differ."""
    if k is None:
        return None
    lead, spatial = k.shape[: k.ndim - rank], k.shape[k.ndim - rank :]
    found = np.zeros((*lead, *(n for m in spatial for n in (m, m))), k.dtype)
    at: Any = np.ogrid[tuple(slice(n) for n in spatial)]
    found[(..., *(index for own in at for index in (own, own)))] = k
    return found
