"""A kernel that a network continues: its arrays checked, and the state that they stand for."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arraylike import describe
from ..base.arrays import FLOATS, as_input
from ..base.kernel import Exact, Kernel
from ..base.place import Place
from ..engines.masked import settled
from ..network.activations import Correlation, rho_of

Array = npt.NDArray[Any]

_PAIRS = 1 << 16  # looked at in one go: they fit into a core's cache
_ROUNDINGS = 8  # between a covariance and the state that it was made from
_BEYOND = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-9}  # of its bound, that a covariance may reach


def check_kernel(k: Kernel, name: str, batch_dims: int, what: str, place: Place) -> Kernel:
    """The kernel, checked, with arrays of the place's and the whole state as ``exact``.

    ``exact`` as given holds digits that the covariances have lost; it counts where it agrees with them to their
    rounding. Elsewhere they do: whoever changed them, by whatever means, meant it.

    Raises
    ------
    TypeError, ValueError
        Arrays of other dtypes or shapes, variances below zero, covariances beyond sqrt(cov1 cov2) by more than rounding
        (on a device neither of these two is looked for: to look is to wait), axes that ``shape1`` does not have.
    NotImplementedError
        A kernel with positions of several Grams.
    """
    if not isinstance(k.shape1, (tuple, list)) or not -len(k.shape1) <= k.channel_axis < len(k.shape1):
        raise ValueError(f"[{what}] {name} has channel_axis {k.channel_axis!r}, which shape1 = {k.shape1!r} does not")
    if place.holds(k.nngp) and len(k.nngp.shape) > 3 and len(k.shape1) > 2:
        raise NotImplementedError(
            f"[{what}] {name} is a Kernel with positions, nngp of shape {tuple(k.nngp.shape)}: only one Gram of such, "
            "in host memory, is continued"
        )
    nngp = as_input(k.nngp, f"{name}.nngp", 2 + batch_dims, what, place)
    given = place.take(k.nngp, f"{name}.nngp", what).dtype
    *batch, n1, n2 = nngp.shape
    if k.x1_is_x2 and n1 != n2:
        raise ValueError(f"[{what}] {name}.nngp has shape {nngp.shape}, which x1_is_x2 makes square")
    fields: dict[str, Array] = {"nngp": nngp}
    expected = {"ntk": nngp.shape, "cov1": (*batch, n1), "cov2": (*batch, n2)}
    for field, shape in expected.items():
        array = getattr(k, field)
        if array is None and (field == "ntk" or (field == "cov2" and k.x1_is_x2)):
            continue
        array = place.take(array, f"{name}.{field}", what)
        own, array = array.dtype, as_input(array, f"{name}.{field}", len(shape), what, place)
        if array.shape != shape:
            raise ValueError(
                f"[{what}] {name}.{field} has shape {array.shape}, expected {shape} beside nngp {nngp.shape}"
            )
        if own != given:
            raise TypeError(f"[{what}] {name}.{field} is {own}, {name}.nngp is {given}: convert one of them")
        fields[field] = array
    exact = k.exact
    if exact is not None:
        _check_exact(exact, expected, f"{name}.exact", what, place)
    state = _state(fields, exact, name, what, place)
    return dataclasses.replace(k, **fields, exact=state)  # type: ignore[arg-type]


def _check_exact(exact: Any, expected: dict[str, tuple[int, ...]], name: str, what: str, place: Place) -> None:
    if not isinstance(exact, Exact):
        raise TypeError(f"[{what}] {name} must be None or as a kernel function made it, given {describe(exact)}")
    for field, like in (("defect", "ntk"), ("theta", "ntk"), ("q1", "cov1"), ("q2", "cov2")):
        array = getattr(exact, field)
        if array is None and field == "theta":
            continue
        if not isinstance(array, place.xp.ndarray) or array.dtype.newbyteorder("=") not in FLOATS:
            raise TypeError(f"[{what}] {name}.{field} must be an array of floats, given {describe(array)}")
        if array.shape != expected[like]:
            raise ValueError(f"[{what}] {name}.{field} has shape {array.shape}, expected {expected[like]}")


def _state(fields: dict[str, Array], exact: Exact | None, name: str, what: str, place: Place) -> Exact:
    """The state of covariances: what ``exact`` says where it agrees with them, else made from them."""
    old = Exact(None, None, None, None) if exact is None else exact  # type: ignore[arg-type]
    known, cov1, xp = fields.get("ntk"), fields["cov1"], place.xp
    q1 = _merged(cov1, old.q1, xp).astype(np.float64)
    q2 = q1 if "cov2" not in fields and exact is None else _merged(fields.get("cov2", cov1), old.q2, xp)
    q2 = q2.astype(np.float64, copy=False)
    if place.ordinal is None:
        for field, q in (("cov1", q1), ("cov2", q2)):
            if (q < 0).any():
                raise ValueError(f"[{what}] {name}.{field} holds variances, given {np.nanmin(q):.6g}")
    if known is not None and known is not old.theta:
        known = _merged(known, old.theta, xp)
    nngp, n1, n2 = fields["nngp"], q1.shape[-1], q2.shape[-1]
    defect = old.defect
    step = max(1, _PAIRS // max(1, n2)) if place.ordinal is None else max(1, n1)
    for batch in np.ndindex(nngp.shape[:-2]):
        for start in range(0, n1, step):
            part = (*batch, slice(start, start + step))
            agrees, made = _made(nngp[part], None if exact is None else exact.defect[part], q1[part], q2[batch], xp)
            if place.ordinal is None and made is None:
                continue
            if defect is old.defect:  # the caller's: to be changed in a copy
                defect = xp.empty(nngp.shape, np.float64) if exact is None else exact.defect.astype(np.float64)
            if place.ordinal is None:
                _check_bound(nngp[part], q1[part], q2[batch], agrees, f"{name}.nngp", what)
            defect[part] = made
    return Exact(defect, known, q1, q2)


def _merged(rounded: Array, full: Array | None, xp: Any) -> Array:
    """Numbers in full where they round to those given, else these."""
    if full is None:
        return rounded
    wide = rounded.astype(np.float64)
    near = (full.astype(rounded.dtype) == rounded) | (abs(wide - full) <= _rounding(rounded.dtype) * abs(full))
    return xp.where(near, full, wide)  # type: ignore[no-any-return]


def _rounding(dtype: np.dtype[Any]) -> float:
    return _ROUNDINGS * float(np.finfo(dtype).eps)


def _made(k: Array, old: Array | None, q1: Array, q2: Array, xp: Any) -> tuple[Any, Array | None]:
    """Where covariances (rows, columns) agree with a defect, and the defect of all; None: the old one of all."""
    agrees: Any = False
    if old is not None:
        bound = np.sqrt(q1)[:, None] * np.sqrt(q2)
        meant = bound * rho_of(old.astype(np.float64))
        room = _rounding(k.dtype) * bound + 4 * float(np.finfo(k.dtype).smallest_subnormal)
        agrees = (abs(meant - k) <= room) | (meant.astype(k.dtype) == k) | (np.isnan(k) & np.isnan(meant))
        if xp is np and agrees.all():
            return agrees, None
    made = settled(Correlation.of_covariances(q1[:, None], k.astype(np.float64), q2).defect, xp)
    return agrees, made if old is None else xp.where(agrees, old, made)


def _check_bound(k: Array, q1: Array, q2: Array, agrees: Any, name: str, what: str) -> None:
    bound = np.sqrt(q1)[:, None] * np.sqrt(q2)
    room = (1 + _BEYOND[k.dtype.newbyteorder("=")]) * bound + 4 * float(np.finfo(k.dtype).smallest_subnormal)
    bad = ~agrees & (abs(k) > room) if agrees is not False else abs(k) > room
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"[{what}] {name} holds a covariance of {k[at]:.6g} between variances {q1[at[0]]:.6g} and {q2[at[1]]:.6g}, "
            f"beyond their geometric mean {bound[at]:.6g}"
        )
