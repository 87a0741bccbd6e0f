"""The road of a gradient of inputs with spatial axes: tiles of images, chunks of their pairs, within a budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arrays import allocate
from ..engines.numpy_image_adjoint import Found, Numbers, Pull, Sweep
from ..engines.numpy_image_chain import chain
from ..engines.numpy_image_sides import Images, ImageTangents, Side, unit_of
from ..engines.planes import size_text
from ..network.program import Lowered, leaves
from .gram import beside

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]
FIELDS = ("nngp", "ntk")


class ImageReverse:
    """Images of a call whose arguments are checked (reverse.py), and how many of them go together."""

    def __init__(self, call: Any, budget: int) -> None:
        sloped = call.sloped
        self._call = call
        self.spatial = [value.spatial for value in leaves(sloped.outputs)]
        lowered = Lowered(sloped.program, sloped.numbers, sloped.outputs)
        self.tangents = ImageTangents(lowered, call.tangents, self.spatial)
        self._beside = [beside(call.inputs, second) for second in (False, not call.symmetric)]
        positions = self.tangents.positions([given.value.spatial for given in call.inputs])
        pixels = sum(p * i.value.channels for p, i in zip(positions, call.inputs, strict=False))
        pair = self.tangents.pair_bytes(positions)
        table = 8 * (6 * sum(positions) + 5 * pixels + 3 * self.tangents.matrices(positions))
        self.compiled = (
            None
            if any(i.masked or not i.value.spatial for i in call.inputs)
            else call.engine.image_adjoint(
                self.tangents,
                lowered,
                tuple(i.value.spatial for i in call.inputs),
                tuple(i.value.channels for i in call.inputs),
            )
        )
        alone, worker = pair, 0  # of an image with itself: NumPy's
        kept = "all pairs of positions of every layer are kept"
        if self.compiled is not None:
            alone = pair if self.tangents.last_own >= 0 else 0
            pair, worker = self.compiled.pair_bytes, self.compiled.worker_bytes
            table += self.compiled.table_bytes
            kept = "with tables of both and buffers of every thread"
        least = worker + max(pair, alone) + 2 * table
        if least > budget:
            raise MemoryError(
                f"[{call.what}] the reverse pass of a pair of images takes {size_text(least)} ({kept}); memory_budget "
                f"is {size_text(budget)}. A larger budget or smaller images fit"
            )
        self.images = max(1, min(1 << 16, (budget - worker) // 4 // (2 * table)))
        left = budget - worker - 2 * self.images * table
        self.chunk, self.alone = max(1, left // pair), max(1, left // max(1, alone))

    def of_batch(self, batch: int, second: bool) -> Images:
        """The images of one side."""
        found = []
        for given in self._call.inputs:
            x = given.x2 if second and given.x2 is not None else given.x1
            found.append(x.reshape(self._call.batches, *x.shape[len(given.batch) :])[batch])
        return Images(found, self._beside[second], batch)

    def side(self, images: Images, part: Any, unit: float) -> Side:
        own, masks, pattern = images.of(part)
        if self.compiled is not None:
            return self.compiled.side(own, unit)  # type: ignore[no-any-return]
        return Side(self.tangents, own, self.spatial, self.chunk, unit, masks, pattern)

    def sweep(
        self, sides: tuple[Side, Side], i: Indices, j: Indices, same: Array, pull: Pull, left: Found, numbers: Numbers
    ) -> None:
        """There and back over some pairs; ``same``: which are an image with itself."""
        if self.compiled is not None:
            self.compiled.sweep(sides, i, j, pull, left, numbers)
        else:
            Sweep(self.tangents, sides, i, j, same).back(pull, left, numbers)

    def unit(self, *sides: Images) -> float:
        return max(unit_of(self.tangents, images.arrays) for images in sides)

    def pull(self, given: Any, batch: int, i: Indices, j: Indices, mirrored: bool) -> dict[int, Any]:
        """Cotangents of some pairs, (pairs, P, P'); of a symmetric call both entries of a pair, once."""
        return {
            k: tuple(self._put(of.get(name), k, batch, i, j, mirrored) for name in FIELDS) for k, of in enumerate(given)
        }

    def _put(self, of: Any, k: int, batch: int, i: Indices, j: Indices, mirrored: bool) -> Array | None:
        if of is None:
            return None
        axes = len(self.spatial[k])
        order = [0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2)]
        size = math.prod(self.spatial[k])

        def pairs(i: Indices, j: Indices) -> Array:
            found: Array = of.of_pairs(batch, i, j).transpose(order).reshape(len(i), size, size)
            return found

        found = pairs(i, j)
        if mirrored:
            found = np.where((i == j)[:, None, None], found, found + pairs(j, i).swapaxes(1, 2))
        return found

    def tiles(self, n: int) -> Iterator[slice]:
        for start in range(0, n, self.images):
            yield slice(start, min(start + self.images, n))

    def listed(self, rows: slice, columns: slice, mirrored: bool) -> Iterator[tuple[Indices, Indices]]:
        """Pairs of a tile, so many at a time as the budget holds; counted from the tile's own first images."""
        n2 = columns.stop - columns.start
        count = (rows.stop - rows.start) * n2
        for start in range(0, count, self.chunk):
            numbers = np.arange(start, min(start + self.chunk, count))
            i, j = numbers // max(1, n2), numbers % max(1, n2)
            if mirrored:
                keep = rows.start + i <= columns.start + j
                i, j = i[keep], j[keep]
            if len(i):
                yield i, j


def _spread(gradients: list[Array], found: Sequence[Array], batch: int, part: slice) -> None:
    for whole, own in zip(found, gradients, strict=True):
        whole[batch, part] += own


def run_image_vjp(call: Any, given: Any, wanted: tuple[bool, bool], budget: int) -> tuple[Any, Any, dict[str, float]]:
    """Gradients of both sides, each None where not wanted, and of the parameters."""
    images, bars = ImageReverse(call, budget), dict[int, float]()
    found = [_empty(call, images, bool(side)) for side in (0, 1)]
    with np.errstate(all="ignore"):
        for b in range(call.batches):
            x1, x2 = images.of_batch(b, False), images.of_batch(b, True)
            unit, numbers = images.unit(x1, x2), Numbers()
            for rows in images.tiles(call.first.n1):
                side1 = images.side(x1, rows, unit)
                for columns in images.tiles(call.first.n2):
                    if call.symmetric and columns.stop <= rows.start:
                        continue
                    side2 = side1 if call.symmetric and columns == rows else images.side(x2, columns, unit)
                    left = Found(side1.n, side2.n)
                    for i, j in images.listed(rows, columns, call.symmetric):
                        pull = images.pull(given, b, rows.start + i, columns.start + j, call.symmetric)
                        same = (i == j) & (side1 is side2)
                        images.sweep((side1, side2), i, j, same, pull, left, numbers)
                    for k, (side, part) in enumerate(((side1, rows), (side2, columns))):
                        if k == 1 and side2 is side1:
                            break
                        of = found[0 if call.symmetric else k]
                        own = left.of_both(side.n) if side2 is side1 else left.of_side(k, side.n)
                        _spread(chain(images.tangents, side, own, numbers, images.alone), of, b, part)
            numbers.add_to(bars, unit)
    gradients = (found[0] if wanted[0] else None, found[1] if wanted[1] and not call.symmetric else None)
    return *gradients, call.parameters(bars)


def run_image_diagonal_vjp(call: Any, given: Any, wanted: bool, budget: int) -> tuple[Any, dict[str, float]]:
    """The same for pairs of an image with itself."""
    images, bars = ImageReverse(call, budget), dict[int, float]()
    found = _empty(call, images, False)
    with np.errstate(all="ignore"):
        for b in range(call.batches):
            x = images.of_batch(b, False)
            unit, numbers = images.unit(x), Numbers()
            for part in images.tiles(call.first.n1):
                side = images.side(x, part, unit)
                left = Found(side.n, side.n)
                for start in range(0, side.n, images.chunk):
                    i = np.arange(start, min(start + images.chunk, side.n))
                    pull = images.pull(given, b, part.start + i, np.zeros_like(i), False)
                    images.sweep((side, side), i, i, np.ones(len(i), np.bool_), pull, left, numbers)
                own = left.of_both(side.n)
                _spread(chain(images.tangents, side, own, numbers, images.alone), found, b, part)
            numbers.add_to(bars, unit)
    return found if wanted else None, call.parameters(bars)


def run_image_jacobian(call: Any, get: str, groups: Sequence[tuple[str, ...]], budget: int) -> Array:
    """Each entry's own derivatives: (groups, *batch, n1, n2), those in all parameters of a group together."""
    images = ImageReverse(call, budget)
    if any(images.spatial):
        raise NotImplementedError(
            f"[{call.what}] the network ends with spatial axes {images.spatial[0]}: each entry's own derivatives are "
            "there for networks that end without"
        )
    n1, n2 = call.first.n1, call.first.n2
    (out,) = allocate([(len(groups), call.batches, n1, n2)], [call.first.dtype], call.what, call.place)
    out[...] = 0
    with np.errstate(all="ignore"):
        for b in range(call.batches):
            x1, x2 = images.of_batch(b, False), images.of_batch(b, True)
            unit = images.unit(x1, x2)
            for i, j in images.listed(slice(0, n1), slice(0, n2), call.symmetric):
                sides = images.side(x1, i, unit), images.side(x2, j, unit)
                every, numbers, left = np.arange(len(i)), Numbers(len(i)), Found(len(i), len(i))
                one = np.ones((len(i), 1, 1))
                pull = {0: (one, None) if get == "nngp" else (None, one)}
                images.sweep(sides, every, every, (i == j) & call.symmetric, pull, left, numbers)
                for k, side in enumerate(sides):
                    chain(images.tangents, side, left.of_side(k, side.n), numbers, len(i))
                pulled = call.sloped.pull({place: bar * unit * unit for place, bar in numbers.found.items()})
                for k, names in enumerate(groups):
                    values = sum(pulled.get(name, 0.0) for name in names)
                    out[k, b, i, j] = values
                    if call.symmetric:
                        out[k, b, j, i] = values
    return out.reshape(len(groups), *call.shape)


def _empty(call: Any, images: ImageReverse, second: bool) -> list[Array]:
    """(batch, n, positions, channels) of each input."""
    n = call.first.n2 if second else call.first.n1
    return [np.zeros((call.batches, n, math.prod(i.value.spatial), i.value.channels)) for i in call.inputs]
