"""Windows over spatial axes: which input positions each output position reads."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]

PADDINGS = ("VALID", "SAME", "CIRCULAR")
LARGEST = 2**31 - 1  # of windows, strides, dilations and pads: what the compiled engine counts with

MOST_AXES = 22  # one letter for each: what is left of the alphabet

Pads = str | tuple[tuple[int, int], ...]  # a name, or zeros before and behind along each axis


class Padding(enum.Enum):
    """What stands beyond the edges of inputs: the argument of convolutions and pools, which take its names too."""

    CIRCULAR = "CIRCULAR"
    SAME = "SAME"
    VALID = "VALID"


@dataclass(frozen=True)
class Window:
    """Geometry of a filter or a pooling window, one entry for each spatial axis.

    Tap a of output position P reads input position ``strides P + dilation a - low``: outside the input it counts as
    zero, or wraps around where ``circular``.
    """

    size_in: tuple[int, ...]
    size_out: tuple[int, ...]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    low: tuple[int, ...]
    circular: bool = False
    normalize_edges: bool = False  # pooling: divide by the taps that are inside
    middle: tuple[int, ...] = ()  # of output position 0, the input position of its middle tap, where taps are left out

    @classmethod
    def of(
        cls, what: str, size_in: Sequence[int], shape: Sequence[int], strides: Sequence[int], dilation: Sequence[int],
        padding: Pads, normalize_edges: bool = False,
    ) -> Window:  # fmt: skip
        """Place a window on an input; SAME and CIRCULAR give ceil(size / stride) outputs, an odd pad more behind.

        Raises
        ------
        ValueError
            A window that is larger than the input with its padding.
        """
        named = isinstance(padding, str)
        pads = padding if not isinstance(padding, str) else ((0, 0),) * len(size_in)
        size_out, low = [], []
        for n, k, t, e, (before, behind) in zip(size_in, shape, strides, dilation, pads, strict=True):
            reach = (k - 1) * e + 1
            if named and padding != "VALID":
                size_out.append(-(-n // t))
                low.append(max((size_out[-1] - 1) * t + reach - n, 0) // 2)
                continue
            if reach > before + n + behind:
                kind = f"a {padding} window" if named else f"padding {padding} and a window"
                raise ValueError(
                    f"[{what}] {kind} of shape {tuple(shape)}, dilation {tuple(dilation)}, does not fit inputs of "
                    f"spatial shape {tuple(size_in)}"
                )
            size_out.append((before + n + behind - reach) // t + 1)
            low.append(before)
        circular = padding == "CIRCULAR"
        edges = normalize_edges and padding not in ("VALID", "CIRCULAR")
        return cls(
            tuple(size_in), tuple(size_out), tuple(shape), tuple(strides), tuple(dilation), tuple(low), circular, edges
        )

    @property
    def taps(self) -> int:
        """Number of taps."""
        return math.prod(self.shape)

    @property
    def aligned(self) -> bool:
        """Stride 1 everywhere: positions keep their displacement."""
        return all(t == 1 for t in self.strides)

    def inside(self) -> Window:
        """The same window without the taps at the ends of each axis that meet padding wherever it stands.

        Axes of up to three taps keep them: such windows have loops of their own, which cost less than what they spare.
        Its ``taps`` are fewer: whoever divides by them all multiplies by ``self.taps``.
        """
        if self.circular:
            return self
        shape, low = [], []
        for n, m, k, t, e, before in zip(
            self.size_in, self.size_out, self.shape, self.strides, self.dilation, self.low, strict=True
        ):
            first = max(0, -((((m - 1) * t) - before) // e))
            last = min(k - 1, (n - 1 + before) // e)
            if k <= 3:
                first, last = 0, k - 1
            elif first > last:  # none is inside: one that is outside stands for all
                first = last = 0
            shape.append(last - first + 1)
            low.append(before - first * e)
        return replace(self, shape=tuple(shape), low=tuple(low), middle=self._middle)

    @property
    def _middle(self) -> tuple[int, ...]:
        found = ((k - 1) // 2 * e - low for k, e, low in zip(self.shape, self.dilation, self.low, strict=True))
        return self.middle or tuple(found)

    def middles(self, axis: int) -> Positions:
        """Input position of the middle tap of each output position along an axis; -1 where it is outside."""
        n = self.size_in[axis]
        found = np.arange(self.size_out[axis]) * self.strides[axis] + self._middle[axis]
        return found % n if self.circular else np.where((found >= 0) & (found < n), found, -1)

    def positions(self, axis: int) -> Positions:
        """Input position of each output and tap along an axis, (size_out, shape); -1 where it is outside."""
        n = self.size_in[axis]
        outputs = np.arange(self.size_out[axis])[:, None] * self.strides[axis] - self.low[axis]
        found = outputs + np.arange(self.shape[axis])[None, :] * self.dilation[axis]
        return found % n if self.circular else np.where((found >= 0) & (found < n), found, -1)

    def counts(self, axis: int) -> npt.NDArray[np.float64]:
        """What pooling divides by along an axis: taps, or taps inside."""
        if not self.normalize_edges:
            return np.full(self.size_out[axis], float(self.shape[axis]))
        inside = (self.positions(axis) >= 0).sum(axis=1)
        return np.asarray(np.maximum(inside, 1), dtype=np.float64)  # windows on padding alone: 0 / 1


@dataclass(frozen=True)
class Transposed:
    """Geometry of a transposed filter: input position i and tap a meet at output position ``strides i + low - a``.

    Each output position has at most one source in each tap. ``circular``: what lies beyond the output is folded back.
    """

    size_in: tuple[int, ...]
    size_out: tuple[int, ...]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    low: tuple[int, ...]
    circular: bool = False
    normalize_edges = False

    @classmethod
    def of(cls, size_in: Sequence[int], shape: Sequence[int], strides: Sequence[int], padding: str) -> Transposed:
        """As ``jax.lax.conv_transpose`` places it: SAME and CIRCULAR give size times stride outputs."""
        size_out, low = [], []
        for n, k, t in zip(size_in, shape, strides, strict=True):
            whole = n * t + max(k - t, 0)
            size_out.append(whole if padding == "VALID" else n * t)
            if padding == "SAME":
                low.append(k - 1 if t > k - 1 else -(-(k + t - 2) // 2))
            else:
                low.append(k - 1 - (whole - size_out[-1]) // 2)
        return cls(tuple(size_in), tuple(size_out), tuple(shape), tuple(strides), tuple(low), padding == "CIRCULAR")

    @property
    def taps(self) -> int:
        """Number of taps."""
        return math.prod(self.shape)

    def positions(self, axis: int) -> Positions:
        """Input position of each output and tap along an axis, (size_out, shape); -1 where there is none."""
        n, t = self.size_in[axis], self.strides[axis]
        place = np.arange(self.size_out[axis])[:, None] + np.arange(self.shape[axis])[None, :] - self.low[axis]
        source = place // t
        met = place % t == 0
        if self.circular:
            return np.where(met, source % n, -1)
        return np.where(met & (source >= 0) & (source < n), source, -1)


def axes_among(*values: Any) -> int | None:
    """Number of spatial axes that arguments given axis by axis are for; None: all are for every axis alike."""
    return next((len(v) for v in values if isinstance(v, (tuple, list))), None)


def sizes(what: str, name: str, value: Any, count: int | None = None) -> Any:
    """Positive integers, one for each spatial axis; an integer is for every axis.

    Of an integer a tuple of ``count``, or where None the integer.
    """
    if isinstance(value, (tuple, list)):
        _check_count(what, name, value, count)
        return tuple(_size(what, name, v) for v in value)
    try:
        number = _size(what, name, value)
    except TypeError:
        raise TypeError(
            f"[{what}] {name} must be an integer, or a tuple of integers, one for each spatial axis, given {value!r}"
        ) from None
    return number if count is None else (number,) * count


def _size(what: str, name: str, value: Any, least: int = 1) -> int:
    from ..base.checks import integer

    number = integer(what, name, value, least)
    if number > LARGEST:
        raise ValueError(f"[{what}] {name} must be at most {LARGEST}, given {number}")
    return number


def _check_count(what: str, name: str, value: Any, count: int | None) -> None:
    if len(value) > MOST_AXES:
        raise ValueError(f"[{what}] {name} must have at most {MOST_AXES} entries, given {len(value)}")
    if count is not None and len(value) != count:
        raise ValueError(f"[{what}] {name} must have {count} entries, given {tuple(value)}")


def padding_of(what: str, value: Any, count: int | None = None) -> Any:
    """VALID, SAME or CIRCULAR, from any case, or an enum with such a value; or zeros before and behind on each axis.

    These from an integer for all, or for each axis an integer or a pair. Of an integer, ``count`` pairs, or where None
    the integer.
    """
    value = getattr(value, "value", value)
    if isinstance(value, str):
        if value.upper() not in PADDINGS:
            raise ValueError(
                f"[{what}] padding must be one of {PADDINGS}, an integer or a pair for each axis, given {value!r}"
            )
        return value.upper()
    if not isinstance(value, (tuple, list)):
        try:
            number = _size(what, "padding", value, 0)
        except TypeError:
            raise TypeError(
                f"[{what}] padding must be one of {PADDINGS}, an integer, or an integer or a pair (before, behind) for "
                f"each spatial axis, given {value!r}"
            ) from None
        return number if count is None else ((number, number),) * count
    _check_count(what, "padding", value, count)
    for pair in value:
        if isinstance(pair, (tuple, list)) and len(pair) != 2:
            raise ValueError(f"[{what}] padding of an axis must be an integer or (before, behind), given {pair!r}")
    pairs = (tuple(p) if isinstance(p, (tuple, list)) else (p, p) for p in value)
    return tuple((_size(what, "padding", a, 0), _size(what, "padding", b, 0)) for a, b in pairs)
