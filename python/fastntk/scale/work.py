"""One block: computed, written with its mirror image, and said to be there; in any process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.options import options
from ..call.kernel_fn import KernelFn
from .errors import named
from .journal import Key, Marks, checksum
from .targets import Target

Array = npt.NDArray[Any]

_TILE = 128  # lines of a square that is transposed at a time: it fits into a first cache


@dataclass(frozen=True)
class Done:
    """What became of a block.

    Attributes
    ----------
    marks : dict
        Checksums of what was written; none where the block had been there.
    damaged : int
        Blocks that had been marked and were not as they were left.
    """

    row: int
    column: int
    marks: Marks
    damaged: int


@dataclass(frozen=True)
class Work:
    """How to make any of the blocks; it travels to workers."""

    kernel_fn: KernelFn
    fields: tuple[str, ...]
    symmetric: bool
    target: Target
    backend: str
    isa: str
    num_threads: int | None

    def keys(self, row: int, column: int) -> list[Key]:
        """Blocks that come of one: its fields, and their mirror images."""
        places = [(row, column)]
        if self.symmetric and row != column:
            places.append((column, row))
        return [(name, *place) for name in self.fields for place in places]

    def __call__(self, row: int, column: int, marks: Marks, x1: Array, x2: Array | None = None) -> Done:
        """Leave the block as it is where it agrees with ``marks``, else compute it.

        Raises
        ------
        OSError
            Of the system, with the store in its words.
        """
        keys = self.keys(row, column)
        damaged = 0
        if marks:
            damaged = sum(key in marks and not self._agrees(key, marks[key]) for key in keys)
            if not damaged and all(key in marks for key in keys):
                return Done(row, column, {}, 0)
        with options(isa=self.isa or None):
            found = self.kernel_fn(x1, x2, self.fields, backend=self.backend, num_threads=self.num_threads)
        written: Marks = {}
        with named("gram", self.target.name, f"block {row}, {column} is not written"):
            for name, block in zip(self.fields, found, strict=True):
                self._put(written, name, row, column, block)
                if self.symmetric and row != column:
                    self._put(written, name, column, row, transposed(block))
        return Done(row, column, written, damaged)

    def _put(self, written: Marks, name: str, row: int, column: int, block: Array) -> None:
        self.target.put(name, row, column, block)
        written[name, row, column] = checksum(block)

    def _agrees(self, key: Key, mark: int) -> bool:
        return agrees(self.target, key, mark)


def agrees(target: Target, key: Key, mark: int) -> bool:
    """Whether a block is there as it was left."""
    try:
        return checksum(target.block(*key)) == mark
    except (OSError, ValueError, KeyError) as error:  # a chunk cut short, a file that is gone
        if isinstance(error, PermissionError):
            raise
        return False


def transposed(block: Array) -> Array:
    """A block's mirror image in C order, square by square: several times as fast as line by line."""
    rows, columns = block.shape
    found = np.empty((columns, rows), block.dtype)
    for i in range(0, rows, _TILE):
        for j in range(0, columns, _TILE):
            found[j : j + _TILE, i : i + _TILE] = block[i : i + _TILE, j : j + _TILE].T
    return found
