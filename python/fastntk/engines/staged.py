"""A CUDA device behind NumPy arrays: inputs go up as tiles need them, finished tiles come down through pinned memory.

While the device computes one tile, the one before crosses the bus on a stream of its own, and the one before that is
written into the result: an array of any strides, larger than the device's memory, a memmap.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.place import DevicePlace
from ..network.activations.nonlinearity import waited_for
from ..network.program import Lowered
from .cuda import CudaEngine, DeviceRows, fitting
from .engine import Pair, Tile, TileInput, Triple

Array = npt.NDArray[Any]

_BYTES = 512 << 20  # of pinned memory, and as much on the device
_DUAL = 1 << 24  # pairs of a dual map at a time
_WRITERS = 4  # threads that write a tile into the result: one cannot keep up with the bus


@dataclass
class _Slot:
    """Buffers of one tile: by plane, on the device and pinned; transposed ones, where the result is symmetric."""

    device: list[Array]
    pinned: list[Array]
    done: Any = None  # event behind the copies
    waiting: list[tuple[Array, Array]] = field(default_factory=list)  # (place in a result, pinned numbers for it)


class StagedEngine(CudaEngine):
    """The CUDA engine for arrays in host memory."""

    tile_pairs = 1 << 22
    square = True
    any_strides = True

    def __init__(self, module: Any, place: DevicePlace, label: str) -> None:
        super().__init__(module, place, label)
        self._copies = self.xp.cuda.Stream(non_blocking=True)
        self._slots: list[_Slot] = []
        self._writers: ThreadPoolExecutor | None = None

    def current(self) -> AbstractContextManager[Any]:
        """Device and stream in force inside."""
        return self._place.current()

    @contextmanager
    def call(self) -> Iterator[None]:
        try:
            with ThreadPoolExecutor(min(_WRITERS, os.cpu_count() or 1)) as self._writers:
                yield
                while self._slots:
                    self._empty(self._slots.pop(0))
        finally:
            self._writers = None
            if self._slots:  # an error: the buffers may go once nothing is under way in them
                self._copies.synchronize()
                self._slots.clear()

    def bring(self, x: Array) -> Array:
        return self.xp.asarray(np.ascontiguousarray(x, x.dtype.newbyteorder("=")))  # type: ignore[no-any-return]

    def deliver(self, x: Array) -> Array:
        return x.get()  # type: ignore[attr-defined, no-any-return]

    def tile_size(
        self, shape: tuple[int, int, int], dtype: np.dtype[Any], outputs: Sequence[Sequence[Array | None]],
        symmetric: bool,
    ) -> int:  # fmt: skip
        """Allocates the buffers: fewer pairs where memory is short of them, or planes are many."""
        count = sum(plane is not None for planes in outputs for plane in planes) * (2 if symmetric else 1)
        batch, n1, n2 = shape
        most = min(self.tile_pairs, max(1, _BYTES // (2 * max(1, count) * dtype.itemsize)))
        pairs, self._slots = fitting(
            min(most, batch * n1 * n2), lambda pairs: [self._slot(pairs, dtype, count) for _ in range(2)]
        )
        return pairs

    def _slot(self, pairs: int, dtype: np.dtype[Any], count: int) -> _Slot:
        device = [self.xp.empty(pairs, dtype) for _ in range(count + 1)]  # one more: a product must fit beside them
        pinned = [self.xp.cuda.alloc_pinned_memory(pairs * dtype.itemsize) for _ in range(count)]
        return _Slot(device[:count], [np.frombuffer(memory, dtype, pairs) for memory in pinned])

    def run(
        self, lowered: Lowered, rows1: Any, rows2: Any, dtype: np.dtype[Any], tile: Tile,
        inputs: Sequence[TileInput], outputs: Sequence[Sequence[Array | None]],
    ) -> None:  # fmt: skip
        slot = self._slots.pop(0)
        self._slots.append(slot)
        self._empty(slot)
        shape = (tile.batches, tile.lines, tile.cols)
        size = tile.batches * tile.lines * tile.cols
        batches = slice(tile.batch0, tile.batch0 + tile.batches)
        lines, cols = slice(tile.i0, tile.i0 + tile.lines), slice(tile.j0, tile.j0 + tile.cols)
        mirrored = tile.symmetric and tile.j0 > tile.i0  # else the tile lies on the diagonal, its own mirror image
        buffers = iter(zip(slot.device, slot.pinned, strict=True))
        leaving: list[tuple[Array, Array, Array]] = []  # place in the result, buffers

        def plane(out: Array | None) -> Array | None:
            if out is None:
                return None
            device, pinned = (buffer[:size].reshape(shape) for buffer in next(buffers))
            leaving.append((out[batches, lines, cols], device, pinned))
            return device

        planes = [[plane(out) for out in group] for group in outputs]
        local = replace(tile, batch0=0, i0=0, j0=0, symmetric=tile.symmetric and not mirrored)
        super().run(lowered, rows1, rows2, dtype, local, inputs, planes)
        if mirrored:
            across = (tile.batches, tile.cols, tile.lines)
            for out, (_, upper, _) in zip((p for g in outputs for p in g if p is not None), leaving[:], strict=True):
                device, pinned = (buffer[:size].reshape(across) for buffer in next(buffers))
                device[...] = upper.transpose(0, 2, 1)
                leaving.append((out[batches, cols, lines], device, pinned))
        self._copies.wait_event(self._place.stream.record())
        for _, device, pinned in leaving:
            device.get(stream=self._copies, out=pinned, blocking=False)  # type: ignore[attr-defined]
        slot.done = self._copies.record()
        slot.waiting = [(place, pinned) for place, _, pinned in leaving]

    def rows(self, lowered: Lowered, q: Sequence[Array], dtype: np.dtype[Any]) -> DeviceRows:
        with waited_for():
            return super().rows(lowered, q, dtype)

    def _empty(self, slot: _Slot) -> None:
        """Write what a slot holds into the result, once it has come down."""
        if not slot.waiting:
            return
        slot.done.synchronize()
        assert self._writers is not None
        parts = []
        for out, pinned in slot.waiting:
            axis = 1 if out.shape[0] == 1 else 0
            step = -(-out.shape[axis] // _WRITERS)
            for start in range(0, out.shape[axis], step):
                at = (slice(None),) * axis + (slice(start, start + step),)
                parts.append((out[at], pinned[at]))
        slot.waiting = []
        list(self._writers.map(lambda part: np.copyto(*part), parts))

    def dual(self, name: str, params: Sequence[float], q: Triple, scale: float, found: Pair) -> None:
        for start in range(0, found[0].size, _DUAL):
            part = slice(start, start + _DUAL)
            a, b, c = (self.bring(x[part]) for x in q)
            own = self.xp.empty_like(a), self.xp.empty_like(a)
            super().dual(name, params, (a, b, c), scale, own)
            for array, x in zip(found, own, strict=True):
                array[part] = self.deliver(x)
