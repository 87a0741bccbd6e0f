"""A kernel with positions that a network continues: its arrays checked, as covariances of pairs of positions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arrays import as_input
from ..base.kernel import Kernel
from ..base.place import Place
from ..engines.masked import Given

Array = npt.NDArray[Any]


def has_positions(k: Kernel) -> bool:
    """Whether a kernel's outputs have spatial axes, or samples that are masked: these go the same way."""
    masked = any(mask is not None and np.asarray(mask).any() for mask in (k.mask1, k.mask2))
    return isinstance(k.shape1, (tuple, list)) and (len(k.shape1) > 2 or masked)


def spatial_of(k: Kernel) -> tuple[int, ...]:
    """Sizes of the spatial axes of a kernel's outputs."""
    rank = len(k.shape1)
    own = (k.batch_axis % rank, k.channel_axis % rank)
    return tuple(n for axis, n in enumerate(k.shape1) if axis not in own)


def check_positions(k: Kernel, name: str, what: str, place: Place) -> tuple[Kernel, Given]:
    """The kernel, checked, its spatial axes in natural order; and what pairs of positions read.

    Raises
    ------
    TypeError, ValueError
        Arrays of other dtypes or shapes than ``shape1`` and ``shape2`` say, variances below zero.
    """
    k = k.reverse() if k.is_reversed else k
    spatial = spatial_of(k)
    if spatial != spatial_of(k.replace(shape1=k.shape2)):
        raise ValueError(f"[{what}] {name} has outputs of shapes {k.shape1} and {k.shape2}: positions must agree")
    doubled = tuple(n for n in spatial for _ in (0, 1))
    nngp = as_input(k.nngp, f"{name}.nngp", 2 + len(doubled), what, place)
    n1, n2 = nngp.shape[:2]
    if k.x1_is_x2 and n1 != n2:
        raise ValueError(f"[{what}] {name}.nngp has shape {nngp.shape}, which x1_is_x2 makes square")
    fields = {"nngp": nngp}
    cov2 = k.cov1 if k.cov2 is None else k.cov2
    leads = {"nngp": (n1, n2), "ntk": (n1, n2), "cov1": (n1,), "cov2": (n2,)}
    for (field, lead), array in zip(leads.items(), (nngp, k.ntk, k.cov1, cov2), strict=True):
        if array is None and field == "ntk":
            continue
        own = as_input(array, f"{name}.{field}", len(lead) + len(doubled), what, place)
        if own.shape != (*lead, *doubled):
            raise ValueError(f"[{what}] {name}.{field} has shape {own.shape}, expected {(*lead, *doubled)}")
        if own.dtype != nngp.dtype:
            raise TypeError(f"[{what}] {name}.{field} is {own.dtype}, {name}.nngp is {nngp.dtype}: convert one of them")
        fields[field] = own
    size = math.prod(spatial)

    def by_pairs(array: Array, lead: int) -> Array:
        axes = len(spatial)
        order = [*range(lead), *range(lead, lead + 2 * axes, 2), *range(lead + 1, lead + 2 * axes, 2)]
        return array.transpose(order).reshape(*array.shape[:lead], size, size).astype(np.float64)

    cov = [by_pairs(fields[field], 1) for field in ("cov1", "cov2")]
    for field, own in zip(("cov1", "cov2"), cov, strict=True):
        if (np.diagonal(own, axis1=1, axis2=2) < 0).any():
            raise ValueError(f"[{what}] {name}.{field} holds variances below 0")
    theta = by_pairs(fields["ntk"], 2) if "ntk" in fields else None
    given = Given(by_pairs(nngp, 2), theta, cov[0], cov[1])
    return k.replace(**{field: own for field, own in fields.items() if getattr(k, field) is not None}), given


def of_points(k: Kernel) -> Given:
    """What pairs of positions read of a checked kernel of points: one position each."""
    arrays = (k.nngp, k.ntk, k.cov1, k.cov1 if k.cov2 is None else k.cov2)
    nngp, theta, cov1, cov2 = (None if a is None else a.astype(np.float64)[..., None, None] for a in arrays)
    assert nngp is not None
    assert cov1 is not None
    assert cov2 is not None
    return Given(nngp, theta, cov1, cov2)
