"""The arguments of a kernel function, checked: arrays or kernels to continue, and what ``lower()`` knows of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arraylike import DEEPEST, describe, is_numbers
from ..base.arrays import as_input
from ..base.kernel import Kernel
from ..base.place import HOST, Place
from ..engines.masked import Given
from ..network.combinators import Identity, Parallel, Serial
from ..network.layer import Layer
from ..network.positions import Flatten
from ..network.program import Listed, Value
from ..network.weights import Conv
from .asked import NOTHING, Asked
from .continued import check_kernel
from .continued_positions import check_positions, has_positions, of_points, spatial_of

Array = npt.NDArray[Any]


@dataclass
class Input:
    """One checked input of a call: arrays (batch, n, *spatial axes, channels), or a kernel to continue."""

    x1: Array | None
    x2: Array | None  # None: x1 again
    kernel: Kernel | None
    value: Value
    dtype: np.dtype[Any]
    batch: tuple[int, ...]
    n1: int
    n2: int
    symmetric: bool
    place: Place = HOST
    mask1: Array | None = None  # which positions are masked, bool (batch, n, *spatial axes)
    mask2: Array | None = None
    pattern1: Any = None  # of the first input: what Aggregate joins
    pattern2: Any = None
    given: Given | None = None  # of a kernel with positions: its covariances

    @property
    def masked(self) -> bool:
        return self.mask1 is not None or self.mask2 is not None

    def of(self, x1: Array | None, x2: Array | None, place: Place) -> Input:
        """The same with other arrays of the kind."""
        found = object.__new__(Input)
        found.__dict__.update(self.__dict__, x1=x1, x2=x2, place=place)
        return found


def axes_of(layer: Layer, given: tuple[int | None, int | None] = (None, None), rank: int = 0) -> tuple[int, int]:
    """(batch_axis, channel_axis) of inputs, of so many axes: the layers', else those of the call.

    Raises
    ------
    ValueError
        Where a call names others than the layers do.
    """
    own = layer.named_axes
    if own is not None and given == (None, None):
        return own
    if own is None:
        return (0 if given[0] is None else given[0], -1 if given[1] is None else given[1])
    for name, asked, known in zip(("batch_axis", "channel_axis"), given, own, strict=True):
        if asked is not None and asked not in (known, known + rank, known - rank):
            raise ValueError(f"[kernel_fn] {name}={asked} was given, the network's layers have {known}")
    return own


def check_inputs(
    layer: Layer, x1: Any, x2: Any, batch_dims: int, place: Place = HOST, asked: Asked = NOTHING
) -> tuple[list[Input], Any]:
    """Check arguments, all of whose arrays lie at ``place``; return the inputs in order, and their tree."""
    if isinstance(batch_dims, bool) or batch_dims not in (0, 1):
        raise ValueError(f"[kernel_fn] batch_dims must be 0 or 1, given {batch_dims!r}")
    found: list[Input] = []
    kind = None
    plain = asked is NOTHING and type(batch_dims) is int
    if plain and type(x1) is np.ndarray and (x2 is None or type(x2) is np.ndarray):
        kind = _kind(layer, x1, x2, batch_dims)
        if (seen := _SEEN.get(kind)) is not None:
            own = seen.of(x1, x2, place)
            return [own], own

    def visit(a: Any, b: Any, name: str, depth: int = 0) -> Any:
        if isinstance(a, (tuple, list)) and not is_numbers(a):
            if not a or not any(place.holds(v) or isinstance(v, (Kernel, tuple, list)) for v in a):
                raise TypeError(f"[kernel_fn] {name} must be {place.array}, given {_entries(a)}")
            if any(getattr(v, "ndim", 2) < 2 for v in a):
                raise ValueError(
                    f"[kernel_fn] {name} is a {describe(a)} of arrays, which counts as one input for each branch of "
                    "the network; numpy.asarray makes rows one array"
                )
            if b is not None and (not isinstance(b, (tuple, list)) or is_numbers(b) or len(b) != len(a)):
                raise ValueError(f"[kernel_fn] {name} has {len(a)} entries, x2 must too, given {_entries(b)}")
            if depth == DEEPEST:
                raise TypeError(f"[kernel_fn] {name}: inputs lie more than {DEEPEST} lists or tuples deep")
            parts = (visit(v, None if b is None else b[k], f"{name}[{k}]", depth + 1) for k, v in enumerate(a))
            return Listed(parts) if isinstance(a, list) else tuple(parts)
        if isinstance(a, Kernel):
            own = _continue(a, b, name, batch_dims, place, _number(found, a))
        else:
            own = _arrays(layer, a, b, name, batch_dims, place, asked)
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
        if other.dtype != first.dtype:
            raise TypeError(f"[kernel_fn] inputs have dtypes {first.dtype} and {other.dtype}: convert one of them")
        if other.symmetric != first.symmetric:
            raise TypeError("[kernel_fn] x2 is missing for some of the inputs: give it for all, or for none")
    if asked is not NOTHING:
        asked.give_patterns(found)
    elif kind is not None and first.x1 is x1 and first.x2 is x2:
        if len(_SEEN) >= _MOST_SEEN:
            _SEEN.clear()
        _SEEN[kind] = first.of(None, None, HOST)
    return found, tree


# Arrays of NumPy's that were taken as they are, by all that was asked of them: what is known of others of the kind.
_SEEN: dict[Any, Input] = {}
_MOST_SEEN = 256


def _kind(layer: Layer, x1: Array, x2: Array | None, batch_dims: int) -> Any:
    """All that checks read of one or two arrays, and of the layer."""
    flattens = x1.ndim > 2 + batch_dims and _flattens(layer)
    return layer.named_axes, flattens, batch_dims, x1.shape, x1.dtype, x2 if x2 is None else (x2.shape, x2.dtype)


def _entries(x: Any) -> str:
    """What an argument is, for messages, lists and tuples with what they hold."""
    if not isinstance(x, (tuple, list)) or is_numbers(x):
        return describe(x)
    return f"{describe(x)} of {', '.join(sorted({describe(v) for v in x})) or 'nothing'}"


def _arrays(layer: Layer, x1: Any, x2: Any, name: str, batch_dims: int, place: Place, asked: Asked) -> Input:
    what = f"kernel_fn of {type(layer).__name__}"
    second = name.replace("x1", "x2")
    given = [place.take(x, label, what) for x, label in ((x1, name), (x2, second)) if x is not None or label == name]
    least = 2 + batch_dims
    arrays = [
        as_input(x, label, max(least, x.ndim), what, place) for x, label in zip(given, (name, second), strict=False)
    ]
    a, b = arrays[0], arrays[-1]
    if a.ndim != b.ndim:
        raise ValueError(f"[{what}] {name} has {a.ndim} dims, x2 has {b.ndim}: shapes {a.shape}, {b.shape}")
    rank = a.ndim - batch_dims
    axes = axes_of(layer, asked.axes, rank)
    if not all(-rank <= axis < rank for axis in axes):
        raise ValueError(_rank_text(layer, what, name, arrays[0].shape, batch_dims, axes))
    batch_axis, channel_axis = (axis % rank for axis in axes)
    if batch_axis == channel_axis:
        raise ValueError(f"[{what}] batch_axis and channel_axis are the same axis, {batch_axis}")
    spatial_axes = [axis for axis in range(rank) if axis not in (batch_axis, channel_axis)]
    order = [*range(batch_dims), *(batch_dims + axis for axis in (batch_axis, *spatial_axes, channel_axis))]
    if order != list(range(a.ndim)):
        a, b = (x.transpose(*order) for x in (a, b))
    batch, spatial, channels = a.shape[:batch_dims], a.shape[batch_dims + 1 : -1], a.shape[-1]
    if channels != b.shape[-1]:
        features = f"channels (axis {channel_axis})" if spatial else "features"
        raise ValueError(
            f"[{what}] {name} has {channels} {features}, x2 has {b.shape[-1]}: shapes {arrays[0].shape}, "
            f"{arrays[-1].shape}"
        )
    if spatial != b.shape[batch_dims + 1 : -1]:
        raise ValueError(
            f"[{what}] {name} has positions {spatial}, x2 {b.shape[batch_dims + 1 : -1]} (axis {batch_axis} counts "
            f"samples, axis {channel_axis} channels): shapes {arrays[0].shape}, {arrays[-1].shape}"
        )
    if channels == 0:
        raise ValueError(f"[{what}] {name} has no features: shape {arrays[0].shape}")
    if 0 in spatial:
        raise ValueError(f"[{what}] {name} has no positions: shape {arrays[0].shape}")
    if batch != b.shape[:batch_dims]:
        raise ValueError(f"[{what}] {name} has batch {batch}, x2 has {b.shape[:batch_dims]}")
    dtypes = {x.dtype.newbyteorder("=") for x in arrays}
    if len(dtypes) > 1:
        texts = [str(x.dtype) + (" (counts as float64)" if x.dtype.kind in "iub" else "") for x in given]
        raise TypeError(f"[{what}] {name} is {texts[0]}, {second} is {texts[1]}: convert one of them")
    if spatial and batch_axis == 0 and _flattens(layer):  # positions are features then, as NumPy's reshape has them
        channels *= math.prod(spatial)
        a, b = (x.reshape(*batch, x.shape[batch_dims], channels) for x in (a, b))
        spatial, channel_axis = (), 1
    value = Value(0, channels, spatial=spatial, batch_axis=batch_axis, channel_axis=channel_axis)
    n1, n2 = a.shape[batch_dims], b.shape[batch_dims]
    mask1 = mask2 = None
    if asked is not NOTHING:
        a, mask1 = asked.unmasked(a, name)
        b, mask2 = (a, mask1) if x2 is None else asked.unmasked(b, second)
    return Input(
        a, None if x2 is None else b, None, value, dtypes.pop(), batch, n1, n2, x2 is None, place, mask1, mask2
    )


def _rank_text(
    layer: Layer, what: str, name: str, shape: tuple[int, ...], batch_dims: int, given: tuple[int, int]
) -> str:
    """What to say where inputs have too few axes for the layer that names them first."""
    own = shape[batch_dims:]
    while isinstance(layer, (Serial, Parallel)):
        layer = next((part for part in layer.layers if part.axes() is not None), Identity())
    if not isinstance(layer, Conv):
        return f"[{what}] batch_axis, channel_axis = {given} do not fit {name} of shape {own}, {len(own)} axes"
    axes = layer.dimension_numbers[0]  # type: ignore[index]
    hint = (
        "x[..., None] adds the axis of one channel"
        if axes[-1] == "C" and len(own) == len(axes) - 1
        else (
            f"x.reshape(n, {', '.join(['height', 'width', 'depth'][: len(axes) - 2])}, channels) makes images of rows"
        )
    )
    return (
        f"[{what}] {name} has shape {own}, {len(own)} axes; Conv takes {len(axes)}, {axes}: samples, "
        f"{len(axes) - 2} spatial, channels. {hint if len(own) < len(axes) else ''}".strip()
    )


def _flattens(layer: Layer) -> bool:
    """Whether a network begins with Flatten."""
    if isinstance(layer, Serial):
        return bool(layer.layers) and _flattens(layer.layers[0])
    return isinstance(layer, Flatten) and layer.batch_axis == 0


def _continue(k: Kernel, x2: Any, name: str, batch_dims: int, place: Place, number: int) -> Input:
    """Check a kernel that a network continues, the input of this number: random by weights of its own."""
    what = "kernel_fn"
    if x2 is not None:
        raise ValueError(f"[{what}] {name} is a Kernel, which holds both inputs: x2 must be None, given {describe(x2)}")
    state: dict[str, Any] = {
        "gaussian": k.is_gaussian, "mean": "" if k.is_gaussian or k.is_centred else "unknown",
        "weights": frozenset((-1 - number,)),
    }  # fmt: skip
    if has_positions(k) and batch_dims == 0 and place.holds(k.nngp):
        known, given = check_positions(k, name, what, place)
        rank = len(known.shape1)
        own = Value(
            0, channels=known.shape1[known.channel_axis], spatial=spatial_of(known),
            batch_axis=known.batch_axis % rank, channel_axis=known.channel_axis % rank, **state,
        )  # fmt: skip
        n1, n2 = given.nngp.shape[:2]
        masks = [_mask_of(known, m, s) for m, s in ((known.mask1, known.shape1), (known.mask2, known.shape2))]
        return Input(
            None, None, known, own, known.nngp.dtype.newbyteorder("="), (), n1, n2, known.x1_is_x2, place, masks[0],
            masks[0] if known.x1_is_x2 else masks[1], given=given,
        )  # fmt: skip
    known = check_kernel(k, name, batch_dims, what, place)
    *batch, n1, n2 = known.nngp.shape
    value = Value(
        0, channels=k.shape1[k.channel_axis], batch_axis=k.batch_axis % 2, channel_axis=k.channel_axis % 2, **state
    )  # fmt: skip
    dtype = known.nngp.dtype.newbyteorder("=")
    return Input(None, None, known, value, dtype, tuple(batch), n1, n2, k.x1_is_x2, place)


def values_of(tree: Any) -> Any:
    """What ``lower()`` knows of a tree of inputs."""
    return tree.value if isinstance(tree, Input) else type(tree)(values_of(t) for t in tree)


def _number(found: Sequence[Input], k: Kernel) -> int:
    """That of a kernel among inputs: the one that it repeats, whose weights it is random by, or a new one."""
    for number, own in enumerate(found):
        if own.kernel is not None and (own.kernel is k or _alike(own.kernel.nngp, k.nngp, own.place)):
            return number
    return len(found)


def _alike(a: Any, b: Any, place: Place) -> bool:
    if a is b or place.ordinal is not None:
        return a is b
    a, b = np.asarray(a), np.asarray(b)
    return np.array_equal(a, b) and bool(a.any())  # zeros, of masked samples, say nothing


def as_pairs(inputs: Sequence[Input]) -> None:
    """Kernels of points, where a network takes pairs of positions: of one position each.

    Raises
    ------
    NotImplementedError
        Several Grams.
    """
    for k, own in enumerate(inputs):
        if own.kernel is None or own.given is not None:
            continue
        if own.batch or own.place is not HOST:
            raise NotImplementedError(
                f"[kernel_fn] input {k} is a Kernel of shape {own.kernel.nngp.shape}: this network, over positions or "
                "with Dropout, continues one Gram, in host memory"
            )
        own.given = of_points(own.kernel)


def _mask_of(k: Kernel, mask: Array | None, shape: tuple[int, ...]) -> Array | None:
    """A kernel's mask as (n, *spatial axes)."""
    if mask is None:
        return None
    axes = (k.batch_axis % len(shape), k.channel_axis % len(shape))
    wide = np.broadcast_to(mask, tuple(1 if a == axes[1] else n for a, n in enumerate(shape)))
    return np.moveaxis(wide, axes, (0, -1))[..., 0]
