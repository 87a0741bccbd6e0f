"""The state between two kernel functions: Neural Tangents' ``Kernel``, and the digits that its covariances lose."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .door import door

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Exact:
    """The state itself, as the backend keeps it: what rounded covariances have lost.

    ``defect`` is ``1 - rho``, or ``-(1 + rho)`` where ``rho = K(x, x') / sqrt(K(x, x) K(x', x'))`` is negative;
    ``theta`` the NTK (None: as the Kernel has it).
    """

    defect: Array  # like nngp
    theta: Array | None
    q1: Array  # like cov1, float64
    q2: Array


@door
@dataclass(frozen=True)
class Kernel:
    """Covariances of a network's outputs for two sets of inputs.

    Attributes
    ----------
    nngp, ntk : numpy.ndarray (n1, n2) or (batch, n1, n2)
        E f f' over random networks; the neural tangent kernel, or None where it is not known. With spatial axes (n1,
        n2, h, h', w, w').
    cov1, cov2 : numpy.ndarray (n1,), (n2,), a batch axis before
        Variances K(x, x) of each input, with spatial axes (n1, h, h', w, w'); cov2 is None where x2 is x1.
    x1_is_x2 : bool
    is_gaussian : bool
        Pre-activations, which a nonlinearity can take.
    is_input : bool
    shape1, shape2 : tuple of int
        Shapes of the finite network's outputs.
    batch_axis, channel_axis : int
    diagonal_batch, diagonal_spatial, is_reversed : bool
        Neural Tangents' layout flags: variances only; spatial axes in natural order.
    mask1, mask2 : numpy.ndarray of bool or None
        Which outputs are masked, of ``shape1`` and ``shape2`` with 1 channel; mask2 is None where x2 is x1.
    is_centred : bool
        Whether E f over networks is known to be 0, as it is behind LayerNorm and odd functions; Gaussian values have
        it whatever this says. Sums and norms of the next network ask for it.
    exact : Exact or None
        Carried on so that networks composed by kernels lose no digits. It counts where it agrees with the arrays
        above to their rounding: entries that were changed, by :meth:`replace`, by ``dataclasses.replace`` or in place,
        are taken as they are. None: the next kernel function starts from the covariances.
    """

    nngp: Array
    ntk: Array | None
    cov1: Array
    cov2: Array | None
    x1_is_x2: bool
    is_gaussian: bool
    is_input: bool
    shape1: tuple[int, ...]
    shape2: tuple[int, ...]
    batch_axis: int = 0
    channel_axis: int = -1
    diagonal_batch: bool = True
    diagonal_spatial: bool = False
    is_reversed: bool = False
    exact: Exact | None = None
    mask1: Array | None = None
    mask2: Array | None = None
    is_centred: bool = False

    def __repr__(self) -> str:
        """Shapes and ranges of arrays, and what of the rest has not its default."""
        found = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("exact", "is_centred") or (value is None and field.name != "ntk"):
                continue
            if hasattr(value, "dtype"):
                found.append(f"{field.name}={_summary(value)}")
            elif field.default is dataclasses.MISSING or value != field.default:
                found.append(f"{field.name}={value!r}")
        return f"Kernel({', '.join(found)})"

    def replace(self, **changes: Any) -> Kernel:
        """A copy with fields changed, as ``dataclasses.replace`` makes it."""
        return dataclasses.replace(self, **changes)

    def asdict(self) -> dict[str, Any]:
        """Fields by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def astuple(self) -> tuple[Any, ...]:
        """Fields in order."""
        return tuple(self.asdict().values())

    def __mul__(self, c: float) -> Kernel:
        """Kernel of ``c f``: everything times c^2."""
        return self._scaled(_square(c))

    __rmul__ = __mul__

    def __truediv__(self, c: float) -> Kernel:
        """Kernel of ``f / c``."""
        return self._scaled(1 / _square(c))

    def __add__(self, c: float) -> Kernel:
        """Kernel of ``f + c``: c^2 more covariance, the same NTK."""
        with np.errstate(over="ignore"):
            more = _scalar(_square(c), self.nngp)
            cov2 = None if self.cov2 is None else self.cov2 + more
            return dataclasses.replace(
                self, nngp=self.nngp + more, cov1=self.cov1 + more, cov2=cov2, exact=None,
                is_centred=self.is_centred and c == 0,
            )  # fmt: skip

    __radd__ = __add__

    def __neg__(self) -> Kernel:
        """Kernel of ``-f``: the same."""
        return self

    __pos__ = __neg__
    __sub__ = __add__

    # ---- samples and positions

    @property
    def _rank(self) -> int:
        """Number of spatial axes."""
        return len(self.shape1) - 2

    @property
    def _axes(self) -> tuple[int, int]:
        rank = len(self.shape1)
        return self.batch_axis % rank, self.channel_axis % rank

    @property
    def _per(self) -> int:
        """Axes of arrays for one spatial axis."""
        return 1 if self.diagonal_spatial else 2

    def _arrays(self, of_pairs: Any, of1: Any, of2: Any) -> dict[str, Any]:
        """The arrays behind functions of those of pairs, of cov1, and of cov2; what is None stays so."""
        parts = (("nngp", of_pairs), ("ntk", of_pairs), ("cov1", of1), ("cov2", of2))
        return {name: None if getattr(self, name) is None else f(getattr(self, name)) for name, f in parts}

    def __getitem__(self, idx: Any) -> Kernel:
        """Kernel of ``f(x)[idx]``: ``idx`` of slices and integers, as of an array of ``shape1``.

        Raises
        ------
        TypeError
            Other indices.
        NotImplementedError
            An index into channels, an integer for samples.
        IndexError
            One out of range, or more than there are axes.
        """
        entries = _entries(idx, len(self.shape1))
        batch, channel = self._axes
        if entries[channel] != slice(None):
            raise NotImplementedError(
                f"[Kernel] channels, axis {channel}, are infinitely many, indexed by {entries[channel]}"
            )
        samples = entries[batch]
        if not isinstance(samples, slice):
            raise NotImplementedError(
                f"[Kernel] samples, axis {batch}, stay an axis: index by a slice, given {samples}"
            )
        for axis, entry in enumerate(entries):
            if not isinstance(entry, slice) and not -self.shape1[axis] <= entry < self.shape1[axis]:
                raise IndexError(
                    f"[Kernel] index {entry} is out of range for axis {axis} of {self.shape1[axis]} positions"
                )
        own = [entries[a] for a in range(len(entries)) if a not in (batch, channel)]
        pairs = [e for entry in own for e in self._per * (entry,)]
        both = (1 if self.diagonal_batch else 2) * (samples,)
        kept = [a for a, entry in enumerate(entries) if isinstance(entry, slice)]
        masks = [None if m is None else _masked_at(m, entries) for m in (self.mask1, self.mask2)]
        return self.replace(
            **self._arrays(lambda k: k[(..., samples, samples, *pairs)], *2 * [lambda k: k[(..., *both, *pairs)]]),
            shape1=_shape_at(self.shape1, entries), shape2=_shape_at(self.shape2, entries), mask1=masks[0],
            batch_axis=kept.index(batch), channel_axis=kept.index(channel), mask2=masks[1],
            exact=None if own else _exact_at(self.exact, samples, samples),
        )  # fmt: skip

    def slice(self, n1_slice: slice, n2_slice: slice) -> Kernel:
        """Kernel of some samples of each side."""
        batch, _ = self._axes
        rest = [slice(None)] * (self._per * self._rank)
        at1, at2 = ((..., *(1 if self.diagonal_batch else 2) * (s,), *rest) for s in (n1_slice, n2_slice))
        changed = self._arrays(
            lambda k: k[(..., n1_slice, n2_slice, *rest)], lambda k: k[at1], lambda k: k[at2],
        )  # fmt: skip
        if self.cov2 is None:
            changed["cov2"] = self.cov1[at2]
        one, two = ([slice(None)] * batch + [s] for s in (n1_slice, n2_slice))
        fill = [slice(None)] * (len(self.shape1) - batch - 1)
        mask2 = self.mask1 if self.mask2 is None else self.mask2
        return self.replace(
            **changed, x1_is_x2=self.x1_is_x2 and n1_slice == n2_slice, shape1=_shape_at(self.shape1, one + fill),
            shape2=_shape_at(self.shape2, two + fill), mask1=None if self.mask1 is None else self.mask1[tuple(one)],
            mask2=None if mask2 is None else mask2[tuple(two)],
            exact=None if self._rank else _exact_at(self.exact, n1_slice, n2_slice),
        )  # fmt: skip

    def transpose(self, axes: Sequence[int] | None = None) -> Kernel:
        """Spatial axes in another order, among themselves; None: as they are."""
        order = list(range(self._rank)) if axes is None else [int(a) for a in axes]
        if sorted(a % max(1, self._rank) for a in order) != list(range(self._rank)):
            raise ValueError(f"[Kernel] axes must name each of {self._rank} spatial axes once, given {axes}")
        order = [a % max(1, self._rank) for a in order]
        return self.replace(
            **self._arrays(*3 * [lambda k: _ordered(k, order, self._per)]), exact=None if order else self.exact
        )

    def reverse(self) -> Kernel:
        """Pairs of spatial axes of all arrays in reversed order, and ``is_reversed`` turned round."""
        turned = self.transpose(range(self._rank)[::-1])
        return turned.replace(is_reversed=not self.is_reversed)

    def mask(self, mask1: Any, mask2: Any) -> Kernel:
        """0 where a position of either side is masked.

        Parameters
        ----------
        mask1, mask2 : array of bool that broadcasts to ``shape1`` and ``shape2``, 1 channel; or None
            mask2 None: nothing masked, or where x1 is x2 mask1.

        Raises
        ------
        ValueError
            Masks that differ between channels, or of another number of axes.
        """
        second = mask1 if mask2 is None and self.x1_is_x2 else mask2
        one, two = (self._positions(m, s) for m, s in ((mask1, self.shape1), (second, self.shape2)))

        def zeroed(k: Array, a: Array, b: Array, pairs: bool) -> Array:
            for m, side in ((a, 0), (b, 1)):
                if m is None:
                    continue
                shape = [m.shape[0], 1][:: 1 if side == 0 or not pairs else -1][: 2 if pairs else 1]
                for n in m.shape[1:]:
                    shape += [n] if self.diagonal_spatial else [n, 1] if side == 0 else [1, n]
                k = np.where(m.reshape(shape), k.dtype.type(0), k)
            return k

        return self.replace(
            **self._arrays(
                lambda k: zeroed(k, one, two, True), lambda k: zeroed(k, one, one, not self.diagonal_batch),
                lambda k: zeroed(k, two, two, not self.diagonal_batch),
            ),
            mask1=mask1, mask2=mask2, exact=None,
        )  # fmt: skip

    def _positions(self, mask: Any, shape: tuple[int, ...]) -> Any:
        """A mask as (n, *spatial axes) in the arrays' order."""
        if mask is None:
            return None
        mask = np.asarray(mask, bool)
        batch, channel = self._axes
        fits = all(m in (1, n) for m, n in zip(mask.shape, shape, strict=False))
        if mask.ndim != len(shape) or mask.shape[channel] != 1 or not fits:
            raise ValueError(f"[Kernel] a mask must broadcast to {shape} with 1 channel, given shape {mask.shape}")
        wide = np.broadcast_to(mask, tuple(1 if a == channel else n for a, n in enumerate(shape)))
        wide = np.moveaxis(wide, (batch, channel), (0, -1))[..., 0]
        return wide.transpose(0, *range(1, wide.ndim)[::-1]) if self.is_reversed else wide

    def dot_general(self, other1: Any, other2: Any, is_lhs: bool, dimension_numbers: Any) -> Kernel:
        """Kernel of ``jax.lax.dot_general`` of outputs and constants.

        Parameters
        ----------
        other1, other2 : array or None
            The factors of both sides; None: 1.
        is_lhs : bool
            Whether they stand on the left.
        dimension_numbers
            As of ``jax.lax.dot_general``.

        Raises
        ------
        ValueError
            A product along channels.
        NotImplementedError
            A sum over samples, factors of different numbers of axes.
        """
        known = [o for o in (other1, other2) if o is not None]
        if not known:
            return self
        if self.diagonal_spatial:
            raise NotImplementedError(
                "[Kernel] a product reads pairs of positions, and diagonal_spatial=True holds none"
            )
        if len({np.ndim(o) for o in known}) > 1:
            raise NotImplementedError(
                f"[Kernel] factors have shapes {[np.shape(o) for o in known]}: one number of axes is taken"
            )
        rank, count = len(self.shape1), np.ndim(known[0])
        mine, theirs = (1, 0) if is_lhs else (0, 1)
        summed, shared = ([a % rank for a in pair[mine]] for pair in dimension_numbers)
        others, shared_others = ([b % count for b in pair[theirs]] for pair in dimension_numbers)
        batch, channel = self._axes
        if channel in (*summed, *shared):
            raise ValueError(f"[Kernel] a product along channels, axis {channel}, is no map of positions")
        if batch in summed:
            raise NotImplementedError(f"[Kernel] a sum over samples, axis {batch}, leaves no kernel of them")
        for other in known:
            for a, b in zip((*summed, *shared), (*others, *shared_others), strict=True):
                if a != batch and np.shape(other)[b] != self.shape1[a]:
                    raise ValueError(
                        f"[Kernel] axis {a} of outputs of shape {self.shape1} does not fit axis {b} of a factor of "
                        f"shape {np.shape(other)}"
                    )
        kept = [a for a in range(rank) if a not in (*summed, *shared)]
        free = [("other", b) for b in range(count) if b not in (*others, *shared_others)]
        order: list[Any] = [*shared, *(free + kept if is_lhs else kept + free)]
        letters = iter("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
        names = [{key: next(letters) for key in [*range(rank), *free]} for _ in (0, 1)]

        def product(k: Array, one: Any, two: Any, alone: bool) -> Array:
            sides = [names[0], {**names[1], batch: names[0][batch]} if alone else names[1]]
            head = sides[0][batch] + ("" if alone else sides[1][batch])
            spatial = [a for a in range(rank) if a not in (batch, channel)]
            spatial = spatial[::-1] if self.is_reversed else spatial
            terms, arrays = [head + "".join(s[a] for a in spatial for s in sides)], [k]
            for s, other in zip(sides, (one, two), strict=True):
                if other is not None:
                    back = dict(zip((*others, *shared_others), (*summed, *shared), strict=True))
                    terms.append("".join(s[back[b]] if b in back else s["other", b] for b in range(count)))
                    arrays.append(np.asarray(other))
            out = head + "".join(s[a] for a in order if a not in (batch, channel) for s in sides)
            return np.asarray(np.einsum(f"{','.join(terms)}->{out}", *arrays, optimize=True))

        def shape(of: tuple[int, ...], other: Any) -> tuple[int, ...]:
            return tuple(np.shape(other)[a[1]] if isinstance(a, tuple) else of[a] for a in order)

        second = other1 if self.x1_is_x2 and other2 is None else other2
        return self.replace(
            **self._arrays(
                lambda k: product(k, other1, second, False),
                lambda k: product(k, other1, other1, self.diagonal_batch),
                lambda k: product(k, second, second, self.diagonal_batch),
            ),
            is_reversed=False, shape1=shape(self.shape1, known[0]), shape2=shape(self.shape2, known[-1]),
            batch_axis=order.index(batch), channel_axis=order.index(channel), exact=None,
        )  # fmt: skip

    def _scaled(self, square: np.float64) -> Kernel:
        with np.errstate(over="ignore", invalid="ignore"):
            factor = _scalar(square, self.nngp)
            ntk = None if self.ntk is None else self.ntk * factor
            cov2 = None if self.cov2 is None else self.cov2 * factor
            exact = self.exact
            if exact is not None:
                theta = None if exact.theta is None else exact.theta * exact.theta.dtype.type(square)
                exact = Exact(exact.defect, theta, exact.q1 * square, exact.q2 * square)
            return dataclasses.replace(
                self, nngp=self.nngp * factor, ntk=ntk, cov1=self.cov1 * factor, cov2=cov2, exact=exact
            )


def _summary(x: Array) -> str:
    """Shape, dtype, and the least and the largest number."""
    shape = "x".join(map(str, x.shape)) or "one"
    dtype = str(x.dtype).rpartition(".")[2]  # PyTorch's have its name before theirs
    if not math.prod(x.shape):
        return f"<{shape} {dtype}>"
    return f"<{shape} {dtype}, {float(x.min()):.4g} to {float(x.max()):.4g}>"


def _square(c: float) -> np.float64:
    with np.errstate(over="ignore"):
        return np.float64(c) ** 2


def _scalar(value: np.float64, like: Array) -> Any:
    """A number of an array's dtype; PyTorch, whose dtypes make none, converts Python's."""
    return getattr(like.dtype, "type", float)(value)


def _entries(idx: Any, rank: int) -> list[Any]:
    """An index with one entry for each axis."""
    given = list(idx) if isinstance(idx, tuple) else [idx]
    if not all(isinstance(e, (slice, int, np.integer)) or e is Ellipsis for e in given) or given.count(Ellipsis) > 1:
        raise TypeError(f"[Kernel] is indexed by slices, integers and one Ellipsis, given {idx!r}")
    count = len(given) - given.count(Ellipsis)
    if count > rank:
        raise IndexError(f"[Kernel] has outputs of {rank} axes, given {count} indices")
    rest = [slice(None)] * (rank - count)
    at = given.index(Ellipsis) if Ellipsis in given else len(given)
    return [*given[:at], *rest, *given[at + 1 :]]


def _shape_at(shape: Sequence[int], entries: Sequence[Any]) -> tuple[int, ...]:
    return tuple(len(range(*e.indices(n))) for n, e in zip(shape, entries, strict=True) if isinstance(e, slice))


def _masked_at(mask: Array, entries: Sequence[Any]) -> Array:
    """A mask whose axes of size 1 broadcast, indexed."""
    own = [
        (slice(None) if isinstance(e, slice) else 0) if n == 1 else e for n, e in zip(mask.shape, entries, strict=True)
    ]
    return np.asarray(mask[tuple(own)])


def _exact_at(exact: Exact | None, one: Any, two: Any) -> Exact | None:
    if exact is None:
        return None
    theta = None if exact.theta is None else exact.theta[..., one, two]
    return Exact(exact.defect[..., one, two], theta, exact.q1[..., one], exact.q2[..., two])


def _ordered(k: Array, order: Sequence[int], per: int) -> Array:
    """Spatial axes, the last of k, in another order; ``per``: axes of k for one of them."""
    lead = k.ndim - per * len(order)
    return k.transpose([*range(lead), *(lead + per * a + side for a in order for side in range(per))])
