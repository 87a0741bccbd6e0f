"""The road of a gradient: arguments, tiles of pairs, and what the sweeps over them add up to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arraylike import as_array, describe, is_numbers
from ..base.arrays import FLOATS, allocate
from ..base.kernel import Kernel
from ..base.place import HOST, place_of
from ..engines.numpy_adjoint import Apart, Diagonal, PairSums, Summed, Sweep
from ..engines.numpy_chain import chain
from ..engines.numpy_pairs import Pairs, Rows
from ..engines.numpy_tangents import Side, Tangents
from ..engines.select import needs_positions, select
from ..network.activations import General
from ..network.layer import Layer
from ..network.parameters import Sloped, check_names, layer_of, lower_sloped
from ..network.program import Lowered, Values, leaves
from ..plan.resolve import Range, largest_pixel, resolve, unresolved
from .asked import NOTHING, Asked
from .image_reverse import run_image_diagonal_vjp, run_image_jacobian, run_image_vjp
from .inputs import Input, axes_of, check_inputs

Array = npt.NDArray[Any]
FIELDS = ("nngp", "ntk")

_TAPE = 1 << 26  # bytes that a tile may keep between its two passes
_PAIRS = 1 << 15  # of a tile at most
_COMPILED_PAIRS = 1 << 19  # of one that C++ goes through in units of its own
_TINY = {dtype: 16 * float(np.finfo(dtype).eps) ** 2 for dtype in FLOATS}


@dataclass(frozen=True, eq=False)
class Gradients:
    """Derivatives of ``sum(cotangent * kernel)``.

    Attributes
    ----------
    x1, x2 : numpy.ndarray of the inputs' shapes and dtype, or None
        None where not asked for. Of a symmetric call x1 has both arguments' derivatives, x2 is None. Tuples for a
        network with several inputs.
    parameters : dict
        By path, float.
    """

    x1: Any
    x2: Any
    parameters: dict[str, float]


class Cotangents:
    """What is put on one kernel: a plane (batch, n1, n2), or factors whose product it is."""

    def __init__(
        self, given: Any, name: str, what: str, shape: tuple[int, ...], diagonal: bool, positions: tuple[int, ...] = ()
    ) -> None:
        *batch, n1, n2 = shape
        count = math.prod(batch)
        self._factors: tuple[Array, Array] | None = None
        pair = isinstance(given, (tuple, list)) and len(given) == 2 and not is_numbers(given)
        if pair and not (diagonal or positions) and all(getattr(g, "ndim", 0) >= 2 for g in given):
            u, v = (_floats(g, f"{name}[{k}]", what) for k, g in enumerate(given))
            if u.shape[:-1] != (*batch, n1) or v.shape[:-1] != (*batch, n2) or u.shape[-1] != v.shape[-1]:
                raise ValueError(
                    f"[{what}] {name} is a pair of factors of shapes {u.shape} and {v.shape}; expected "
                    f"{(*batch, n1, 'm')} and {(*batch, n2, 'm')} for kernels of shape {shape}"
                )
            self._factors = u.reshape(count, n1, u.shape[-1]), v.reshape(count, n2, v.shape[-1])
            return
        plane, due = _floats(given, name, what), (*((*batch, n1) if diagonal else shape), *positions)
        if plane.shape != due:
            raise ValueError(f"[{what}] {name} has shape {plane.shape}, the kernel {due}")
        self._plane = plane.reshape(count, n1, n2, *positions)

    def tile(self, batch: int, lines: slice, columns: slice, symmetric: bool) -> Array:
        """One tile in float64; of a symmetric call both entries of a pair, once."""
        found = self._tile(batch, lines, columns)
        if not symmetric:
            return found
        mirrored = self._tile(batch, columns, lines).T
        if lines != columns:
            return found + mirrored
        both: Array = np.where(_lower(len(found)), 0.0, found + mirrored)
        both.reshape(-1)[:: len(both) + 1] = found.diagonal()
        return both

    def of_pairs(self, batch: int, i: Any, j: Any) -> Array:
        """Those of some entries, (pairs, ...) in float64."""
        if self._factors is None:
            return np.array(self._plane[batch, i, j], dtype=np.float64)
        u, v = (factor[batch].astype(np.float64, copy=False) for factor in self._factors)
        found: Array = np.sum(u[i] * v[j], axis=1)
        return found

    def _tile(self, batch: int, lines: slice, columns: slice) -> Array:
        """To be read only."""
        if self._factors is None:
            return self._plane[batch, lines, columns].astype(np.float64, copy=False)
        u, v = (factor[batch].astype(np.float64, copy=False) for factor in self._factors)
        product: Array = u[lines] @ v[columns].T
        return product


@lru_cache(maxsize=4)
def _lower(n: int) -> Array:
    """Where a square's diagonal is, and what lies below it; not to be changed."""
    found = np.tri(n, dtype=np.bool_)
    found.flags.writeable = False
    return found


def _floats(x: Any, name: str, what: str) -> Array:
    found = as_array(x, name, what)
    if found.dtype.kind not in "fiu":
        raise TypeError(f"[{what}] {name} must be real numbers, given {found.dtype}")
    return found


@lru_cache(maxsize=256)
def _prepared(layer: Layer, inputs: Values, names: tuple[str, ...]) -> tuple[Sloped, Tangents]:
    """A network for inputs of a kind, and the way back through it."""
    sloped = lower_sloped(layer, inputs, names)
    return sloped, _tangents(sloped)


def _tangents(sloped: Sloped) -> Tangents:
    moving = [place for place, slopes in enumerate(sloped.slopes) if slopes]
    return Tangents(sloped.program, sloped.numbers, moving)


@lru_cache(maxsize=256)
def _resolved(
    layer: Layer, inputs: Values, names: tuple[str, ...], ranges: tuple[Range, ...], single: bool
) -> tuple[Sloped, Tangents]:
    """The same once variances of the inputs are known, for functions without closed form."""
    sloped, _ = _prepared(layer, inputs, names)
    found = resolve(Lowered(sloped.program, sloped.numbers, sloped.outputs), ranges, single, True)
    slopes: list[Mapping[str, float]] = []
    for old, new in zip(sloped.program.ops, found.program.ops, strict=True):
        fresh = isinstance(old.layer, General)
        slopes += [{}] * len(new.numbers) if fresh else [sloped.slopes[k] for k in old.numbers]
    sloped = Sloped(found.program, found.numbers, tuple(slopes), found.outputs)
    return sloped, _tangents(sloped)


@lru_cache(maxsize=64)
def _turned_back(batch_axis: int, channel_axis: int, lead: int, rank: int) -> tuple[int, ...] | None:
    """How axes (batches, samples, *spatial axes, channels) stand in an argument; None: as they are."""
    batch_axis, channel_axis = batch_axis % rank, channel_axis % rank
    axes = [batch_axis, *(axis for axis in range(rank) if axis not in (batch_axis, channel_axis)), channel_axis]
    order = (*range(lead), *(lead + axes.index(axis) for axis in range(rank)))
    return None if order == tuple(range(lead + rank)) else order


class Call:
    """One call, its arguments checked: a network, rows of both sides, and the parameters that move.

    ``names``: paths that the network has.
    """

    def __init__(self, what: str, layer: Layer, x1: Any, x2: Any, batch_dims: int, options: tuple[Any, Any],
                 names: Sequence[str], asked: Asked = NOTHING) -> None:  # fmt: skip
        self.what, self.layer, self.names, self._asked = what, layer, tuple(names), asked
        for name in names:
            if isinstance(layer_of(layer, name), General):
                raise NotImplementedError(
                    f"[{what}] {name} bends a function without closed form, in which there is no gradient: wrt= names "
                    "what is wanted"
                )
        plain = type(x1) is np.ndarray and (x2 is None or type(x2) is np.ndarray)
        self.place = HOST if plain else place_of(what, x1=x1, x2=x2)
        if self.place.ordinal is not None:
            raise NotImplementedError(
                f"[{what}] x1 lies on {self.place.name}: gradients are computed in host memory so far; copy it there"
            )
        for label, x in (("x1", x1), ("x2", x2)):
            _refuse(x, label, what)
        self.inputs, tree = check_inputs(layer, x1, x2, batch_dims, self.place, asked)
        self.engine = engine = select(*options)  # raises as the forward call does
        self.tree, self._arguments = tree, (x1, x2)
        values = _tree(tree, lambda given, _: given.value, x1)
        self.sloped, self.tangents = _prepared(layer, values, self.names)
        first = self.inputs[0]
        if unresolved(self.sloped.program):
            ranges, single = tuple(map(_range, self.inputs)), first.dtype == np.float32
            self.sloped, self.tangents = _resolved(layer, values, self.names, ranges, single)
        positions = any(i.value.spatial or i.masked for i in self.inputs)
        self.spatial = positions or needs_positions(self.sloped.program)  # the way of images
        self.compiled: Any = None if self.spatial else engine.adjoint(self.tangents)
        self.first, self.symmetric = first, first.symmetric
        self.shape = (*first.batch, first.n1, first.n2)
        self.batches = math.prod(first.batch)
        self.tiny = _TINY[first.dtype]
        # of a pair and op: both planes, and the derivatives of a dual; compiled nothing but dL/d rho
        self.pairs = max(1024, min(_PAIRS, _TAPE // (80 * len(self.tangents.steps))))
        if self.compiled is not None:
            self.pairs, self.threads = _COMPILED_PAIRS, engine.threads  # type: ignore[attr-defined]

    def rows(self, batch: int) -> list[Rows]:
        """Rows of both sides, x2 behind x1, of each input."""
        found = []
        for given in self.inputs:
            sides = [x.reshape(self.batches, -1, x.shape[-1])[batch] for x in (given.x1, given.x2) if x is not None]
            found.append(Rows(np.ascontiguousarray(sides[0] if len(sides) == 1 else np.concatenate(sides))))
        return found

    def columns(self, columns: slice) -> slice:
        """Where the rows of some columns are."""
        offset = 0 if self.symmetric else self.first.n1
        return slice(columns.start + offset, columns.stop + offset)

    def sweep(
        self, side: Side, rows: Sequence[Rows], lines: slice, columns: slice, put: Any, ntk: bool,
        wanted: tuple[bool, bool],
    ) -> PairSums:  # fmt: skip
        """There and back over one tile, with gradients in the rows where ``wanted``: sums for rows."""
        if self.compiled is not None:
            found: PairSums = self.compiled.sweep(
                side, rows, lines, columns, self.kind(lines, columns), put, ntk, wanted, self.threads
            )
            return found
        pairs = [Pairs(r, r, lines, columns, self.tiny) for r in rows]
        parts = side.part(lines, 0, "q1"), side.part(columns, 1, "q2")
        sweep = Sweep(self.tangents, *parts, [p.defect for p in pairs], ntk, self.same(lines, columns))
        P, found = sweep.back(put, Summed())
        if any(wanted):
            for each, of_pairs in zip(pairs, P, strict=True):
                each.add(of_pairs, wanted)
        return found

    def kind(self, lines: slice, columns: slice) -> tuple[bool, float]:
        """Whether a tile has the same rows on both sides, and the defect that is none."""
        return self.symmetric and lines == columns, self.tiny

    def same(self, lines: slice, columns: slice) -> Array | None:
        """Which pairs of a tile are an input with itself; None: none."""
        return np.eye(lines.stop - lines.start, dtype=np.bool_) if self.symmetric and lines == columns else None

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """Lines and columns; of a symmetric call squares on the diagonal, and those right of them."""
        n1, n2 = self.first.n1, self.first.n2
        if self.symmetric:
            lines = columns = max(1, math.isqrt(self.pairs))
        else:
            columns = max(1, min(n2, max(self.pairs // max(1, min(n1, 128)), 1)))
            lines = max(1, self.pairs // columns)
        for i in range(0, n1, lines):
            for j in range(i if self.symmetric else 0, n2, columns):
                yield slice(i, min(i + lines, n1)), slice(j, min(j + columns, n2))

    def given_back(self, second: bool, gradients: Sequence[Array]) -> Any:
        """Gradients (batch, n, [positions,] features) of every input, each as its argument is laid out."""
        left = iter(gradients)

        def give(given: Input, argument: Any) -> Any:
            rows, value = next(left), given.value
            rows = rows.reshape(*given.batch, rows.shape[1], *value.spatial, value.channels)
            order = _turned_back(*axes_of(self.layer), len(given.batch), 2 + len(value.spatial))
            if order is not None:
                rows = rows.transpose(order)
            shape = getattr(argument, "shape", None) or np.shape(argument)
            found = np.ascontiguousarray(rows.reshape(shape), dtype=given.dtype)
            if self._asked.mask_constant is not None:  # what is masked does not move
                found[self._asked.hidden(np.asarray(argument))] = 0
            return self.place.give(found)

        return _tree(self.tree, give, self._arguments[second])

    def parameters(self, bars: Mapping[int, Any]) -> dict[str, float]:
        """By path, from derivatives in the numbers of ops."""
        pulled = self.sloped.pull(bars)
        return {name: float(pulled.get(name, 0.0)) for name in self.names}


def _tree(tree: Any, make: Any, arguments: Any) -> Any:
    """A tuple for each tuple of inputs, of what is made of an input and its argument."""
    if isinstance(tree, Input):
        return make(tree, arguments)
    return tuple(_tree(t, make, a) for t, a in zip(tree, arguments, strict=True))


def _range(given: Input) -> Range:
    """Bounds of the variances of an input's points or positions."""
    most = [largest_pixel(x) for x in (given.x1, given.x2) if x is not None]
    return 0.0, max(most)


def _refuse(x: Any, label: str, what: str) -> None:
    """Raise for what has no derivative: kernels to continue, and integers."""
    if isinstance(x, Kernel):
        raise NotImplementedError(f"[{what}] {label} is a Kernel: gradients are taken in arrays of inputs")
    if isinstance(x, (tuple, list)) and not is_numbers(x):
        for k, part in enumerate(x):
            _refuse(part, f"{label}[{k}]", what)
        return
    dtype = np.asarray(x).dtype if isinstance(x, (tuple, list)) else getattr(x, "dtype", None)
    if getattr(dtype, "kind", "f") in "iub":
        raise TypeError(f"[{what}] {label} has integers, dtype {dtype}: gradients need float32 or float64")


def check_wrt(what: str, wrt: Any, inputs: tuple[str, ...], known: Mapping[str, float]) -> tuple[set[str], list[str]]:
    """Which inputs, and which parameters, are asked for."""
    names = (wrt,) if isinstance(wrt, str) else wrt
    if not isinstance(names, (tuple, list)) or not all(isinstance(n, str) for n in names):
        raise TypeError(f"[{what}] wrt must be names: {', '.join(inputs)}, 'parameters' or paths, given {wrt!r}")
    paths = [n for n in names if n not in (*inputs, "parameters")]
    check_names(what, paths, known)
    if "parameters" in names:
        paths = list(known)
    return set(names) & set(inputs), paths


def check_cotangents(call: Call, cotangents: Any, diagonal: bool = False) -> list[dict[str, Cotangents]]:
    """Those of each output of the program, of all pairs or of pairs (x, x)."""
    shape = (*call.first.batch, call.first.n1, 1 if diagonal else call.first.n2)
    count = call.sloped.program.n_outputs
    positions = [tuple([n for n in value.spatial for _ in range(2)]) for value in leaves(call.sloped.outputs)]
    what = call.what
    given = cotangents if isinstance(cotangents, (tuple, list)) else (cotangents,)
    if len(given) != count:
        raise ValueError(f"[{what}] the network has {count} outputs, cotangents are given for {len(given)}")
    found = []
    for k, each in enumerate(given):
        label = "cotangents" if count == 1 else f"cotangents[{k}]"
        if not isinstance(each, Mapping):
            raise TypeError(f"[{what}] {label} must be a dict of 'nngp' and 'ntk', given {describe(each)}")
        if unknown := [n for n in each if n not in FIELDS]:
            raise ValueError(f"[{what}] {label} names {unknown}; kernels are {list(FIELDS)}")
        found.append({
            name: Cotangents(value, f"{label}[{name!r}]", what, shape, diagonal, positions[k])
            for name, value in each.items()
            if value is not None
        })  # fmt: skip
    return found


def run_vjp(call: Call, given: list[dict[str, Cotangents]], wanted: tuple[bool, bool], budget: int) -> Gradients:
    """Sweep over all pairs; ``wanted``: whether gradients of x1, of x2 are."""
    if call.spatial:
        one, two, of = run_image_vjp(call, given, wanted, budget)
        return Gradients(
            None if one is None else call.given_back(False, one),
            None if two is None else call.given_back(True, two),
            of,
        )
    ntk = any("ntk" in of for of in given)
    n1, n = call.first.n1, call.first.n1 + (0 if call.symmetric else call.first.n2)
    bars: dict[int, float] = {}
    found = [np.zeros((call.batches, n, i.value.channels)) for i in call.inputs]
    both = (wanted[0], wanted[0]) if call.symmetric else wanted
    for b in range(call.batches):
        rows = call.rows(b)
        side, sums = Side(call.tangents, [r.q for r in rows]), PairSums(({},))
        for lines, columns in call.tiles():
            others = call.columns(columns)
            put = {
                k: tuple(of[n].tile(b, lines, columns, call.symmetric) if n in of else None for n in FIELDS)
                for k, of in enumerate(given)
            }
            sums.add(call.sweep(side, rows, lines, others, put, ntk, both), lines, others, n)
        (D,), numbers = chain(call.tangents, (side,), sums, Summed().all)
        for place, bar in numbers.items():
            bars[place] = bars.get(place, 0.0) + float(bar)
        for k, r in enumerate(rows):
            r.add_along(D[k])
            found[k][b] = r.gradient
    return Gradients(
        call.given_back(False, [of[:, :n1] for of in found]) if wanted[0] else None,
        call.given_back(True, [of[:, n1:] for of in found]) if wanted[1] and not call.symmetric else None,
        call.parameters(bars),
    )


def run_diagonal_vjp(call: Call, given: list[dict[str, Cotangents]], wanted: bool, budget: int) -> Gradients:
    """Sweep over pairs (x, x), whose correlation stays 1."""
    if call.spatial:
        one, of = run_image_diagonal_vjp(call, given, wanted, budget)
        return Gradients(None if one is None else call.given_back(False, one), None, of)
    ntk = any("ntk" in of for of in given)
    n = call.first.n1
    bars: dict[int, float] = {}
    found = [np.zeros((call.batches, n, i.value.channels)) for i in call.inputs]
    for b in range(call.batches):
        rows = call.rows(b)
        side, sums = Side(call.tangents, [r.q for r in rows]), PairSums(({},))
        for start in range(0, n, call.pairs):
            lines = slice(start, min(start + call.pairs, n))
            parts = side.part(lines, 0, "q1"), side.part(lines, 0, "q2")
            zero = np.zeros((lines.stop - lines.start, 1))
            put = {
                k: tuple(of[name].tile(b, lines, slice(0, 1), False) if name in of else None for name in FIELDS)
                for k, of in enumerate(given)
            }
            sweep = Sweep(call.tangents, *parts, [zero for _ in rows], ntk, np.ones(zero.shape, np.bool_))
            sums.add(sweep.back(put, Diagonal())[1], lines, lines, n)  # type: ignore[arg-type]
        (D,), numbers = chain(call.tangents, (side,), sums, Summed().all)
        for place, bar in numbers.items():
            bars[place] = bars.get(place, 0.0) + float(bar)
        for k, r in enumerate(rows):
            r.add_along(D[k])
            found[k][b] = r.gradient
    return Gradients(call.given_back(False, found) if wanted else None, None, call.parameters(bars))


def _entries(
    call: Call, side: Side, rows: Sequence[Rows], tile: tuple[slice, slice], get: str,
    groups: Sequence[tuple[str, ...]],
) -> Iterator[Array]:  # fmt: skip
    """Every entry's own derivatives in the parameters of each group, over one tile."""
    lines, others = tile
    if call.compiled is not None:
        slopes = [
            {place: sum(of.get(name, 0.0) for name in names) for place, of in enumerate(call.sloped.slopes) if of}
            for names in groups
        ]
        kind = call.kind(lines, others)
        yield from call.compiled.entries(side, rows, lines, others, kind, get == "ntk", slopes, call.threads)
        return
    defects = [Pairs(r, r, lines, others, call.tiny).defect for r in rows]
    parts = side.part(lines, 0, "q1"), side.part(others, 1, "q2")
    one = np.ones(defects[0].shape)
    sweep = Sweep(call.tangents, *parts, defects, get == "ntk", call.same(lines, others))
    _, left = sweep.back({0: (one, None) if get == "nngp" else (None, one)}, Apart())
    pulled = call.sloped.pull(chain(call.tangents, parts, left, Apart().all)[1])
    for names in groups:
        yield np.broadcast_to(sum(pulled.get(name, 0.0) for name in names), defects[0].shape)


def run_jacobian(call: Call, get: str, groups: Sequence[tuple[str, ...]], budget: int) -> Array:
    """Each entry's own derivatives: (groups, *batch, n1, n2), those in all parameters of a group together."""
    if call.sloped.program.n_outputs != 1:
        raise ValueError(f"[{call.what}] takes a network with one output, this one has {call.sloped.program.n_outputs}")
    if call.spatial:
        return run_image_jacobian(call, get, groups, budget)
    shape = (len(groups), call.batches, call.first.n1, call.first.n2)
    (out,) = allocate([shape], [call.first.dtype], call.what, call.place)
    out[...] = 0
    for b in range(call.batches):
        rows = call.rows(b)
        side = Side(call.tangents, [r.q for r in rows])
        for lines, columns in call.tiles():
            others = call.columns(columns)
            for k, plane in enumerate(_entries(call, side, rows, (lines, others), get, groups)):
                if call.symmetric and lines == columns:
                    plane = np.triu(plane) + np.triu(plane, 1).T
                out[k, b, lines, columns] = plane
                if call.symmetric and lines != columns:
                    out[k, b, columns, lines] = plane.T
    return out.reshape(len(groups), *call.shape)
