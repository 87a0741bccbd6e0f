"""``batch``, under Neural Tangents' name: kernels in parts of so many samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from ..base.checks import integer
from ..base.kernel import Kernel
from .kernel_fn import KernelFn


def batch(
    kernel_fn: Callable[..., Any], batch_size: int = 0, device_count: int = -1, store_on_device: bool = True
) -> Callable[..., Any]:
    """A kernel function that computes parts of ``batch_size`` samples at a time.

    Parameters
    ----------
    kernel_fn : callable
        ``kernel_fn(x1, x2, *args, **kwargs)`` for arrays of samples; its results are arrays (n1, n2, ...), Kernels, or
        tuples of these. This library's own computes in tiles whatever is asked, so that it is called once.
    batch_size : int
        Samples of each side in a part; the last part is what is left. 0: all.
    device_count, store_on_device
        No effect: arrays on a device are computed there, others by all threads.

    Returns
    -------
    callable
        With the arguments of ``kernel_fn``; ``pattern`` is cut as the samples are. Of functions that are given, x2 None
        is passed on where a part meets itself.

    Raises
    ------
    TypeError
        If ``kernel_fn`` cannot be called; for results that are none of these.
    ValueError
        For a negative ``batch_size``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastntk
    >>> linear = fastntk.batch(lambda x1, x2=None: x1 @ (x1 if x2 is None else x2).T, batch_size=2)
    >>> linear(np.eye(5)).shape
    (5, 5)
    """
    if not callable(kernel_fn):
        raise TypeError(f"[batch] kernel_fn must be a function, given {type(kernel_fn).__name__}")
    size = integer("batch", "batch_size", batch_size, least=0)
    integer("batch", "device_count", device_count, least=-1)

    @wraps(kernel_fn)
    def batched(x1_or_kernel: Any, x2: Any = None, *args: Any, **kwargs: Any) -> Any:
        x1 = x1_or_kernel
        if size == 0 or isinstance(kernel_fn, KernelFn) or isinstance(x1, Kernel):
            return kernel_fn(x1, x2, *args, **kwargs)
        second = x1 if x2 is None else x2
        parts1, parts2 = ([slice(k, k + size) for k in range(0, max(_samples(x), 1), size)] for x in (x1, second))
        pattern = kwargs.get("pattern")

        def part(a: slice, b: slice) -> Any:
            own = dict(kwargs)
            if pattern is not None:
                other = pattern[0] if x2 is None and pattern[1] is None else pattern[1]
                own["pattern"] = tuple(None if p is None else p[s] for p, s in ((pattern[0], a), (other, b)))
            if x2 is None and a == b:
                return kernel_fn(_cut(x1, a), None, *args, **own)
            return kernel_fn(_cut(x1, a), _cut(second, b), *args, **own)

        return _joined([[part(a, b) for b in parts2] for a in parts1], x2 is None)

    return batched


def _samples(x: Any) -> int:
    return _samples(x[0]) if isinstance(x, (tuple, list)) else len(x)


def _cut(x: Any, part: slice) -> Any:
    return type(x)(_cut(v, part) for v in x) if isinstance(x, (tuple, list)) else x[part]


def _joined(parts: Sequence[Sequence[Any]], mirrored: bool) -> Any:
    """The whole of results of parts, rows by columns."""
    first = parts[0][0]
    if isinstance(first, Kernel):
        return _kernel(parts, mirrored)
    if isinstance(first, (tuple, list)):
        found = [_joined([[p[k] for p in row] for row in parts], mirrored) for k in range(len(first))]
        return type(first)(*found) if hasattr(first, "_fields") else type(first)(found)
    if first is None:
        return None
    if not hasattr(first, "ndim") or first.ndim < 2:
        raise TypeError(f"[batch] kernel_fn must give arrays (n1, n2, ...), Kernels or tuples of them, given {first!r}")
    return np.concatenate([np.concatenate([np.asarray(p) for p in row], axis=1) for row in parts], axis=0)


def _kernel(parts: Sequence[Sequence[Kernel]], mirrored: bool) -> Kernel:
    first = parts[0][0]
    arrays = {name: [[getattr(k, name) for k in row] for row in parts] for name in ("nngp", "ntk")}
    rows, columns = [row[0] for row in parts], parts[0]

    def along(kernels: Sequence[Kernel], name: str, axis: int) -> Any:
        found = [getattr(k, name) for k in kernels]
        return None if any(f is None for f in found) else np.concatenate(found, axis=axis)

    batch, n1, n2 = (
        first.batch_axis % len(first.shape1),
        *(
            sum(shape[first.batch_axis] for shape in shapes)
            for shapes in ([k.shape1 for k in rows], [k.shape2 for k in columns])
        ),
    )
    second = [k.replace(cov2=k.cov1, mask2=k.mask1) if k.cov2 is None else k for k in columns]
    return dataclasses.replace(
        first, **{name: _joined(own, mirrored) for name, own in arrays.items()}, cov1=along(rows, "cov1", 0),
        cov2=None if mirrored else along(second, "cov2", 0), x1_is_x2=mirrored, mask1=along(rows, "mask1", batch),
        mask2=None if mirrored else along(second, "mask2", batch), exact=None,
        shape1=(*first.shape1[:batch], n1, *first.shape1[batch + 1 :]),
        shape2=(*first.shape2[:batch], n2, *first.shape2[batch + 1 :]),
    )  # fmt: skip
