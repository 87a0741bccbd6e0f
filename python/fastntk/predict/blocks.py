"""Gram matrices of many points, block by block: nothing (n, n) is held unless it is asked for.

A symmetric matrix is covered by square blocks on and above its diagonal; one off the diagonal serves its rows and its
columns, so a product needs n (n + 1) / 2 entries. Entries are multiplied in float64, those of float32 too: with 4,000
points of UCI protein and the NTK, float32 products end at residuals of 1e-4, float64 ones at 5e-13.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arraylike import describe
from ..base.arrays import FLOATS, as_input, check_out
from ..base.options import available_memory
from ..base.progress import Report, bar
from .linalg import TRAIN, check_finite, check_gram, given_array
from .targets import Targets, targets_of
from .units import halves, unit_of

Array = npt.NDArray[Any]

_CHUNK = 1 << 19  # bytes of a block in float64 at a time: within the second cache
_LEAST, _MOST = 64, 2560  # rows of a block; larger ones are slower, because their memory is new each time
_FEW = 256  # rows below which no block is divided to let progress be seen
_PARTS = 16  # rows of blocks that the matrix is divided into, so that it is seen


class Blocks(ABC):
    """A symmetric matrix (n, n), covered by ``spans``: slices of rows and columns.

    Attributes
    ----------
    n : int
    dtype : numpy.dtype
        float32 or float64, of the entries.
    side : int
        Rows of a block, at most.
    size : int
        Entries of all blocks.
    unit : float
        Of the matrix, by its diagonal; products are in this unit, entries as they are.
    """

    def __init__(self, n: int, dtype: np.dtype[Any], budget: int, what: str) -> None:
        self.n, self.dtype, self.what = n, dtype, what
        self.unit = unit_of(self.diagonal())
        # A block, and as much again for what computes it.
        side = int((budget / (2 * self.dtype.itemsize)) ** 0.5) // _LEAST * _LEAST
        if side < _LEAST:
            raise MemoryError(
                f"[{what}] memory_budget = {budget} bytes hold no block of {_LEAST} x {_LEAST} entries, which takes "
                f"{2 * self.dtype.itemsize * _LEAST**2}"
            )
        self.side = min(side, _MOST, max(_FEW, -(-self.n // (_PARTS * _LEAST)) * _LEAST))
        cuts = self.cuts(self.n)
        self.spans = [(rows, columns) for i, rows in enumerate(cuts) for columns in cuts[i:]]
        self.shapes = [(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in self.spans]
        self.size = sum(rows * columns for rows, columns in self.shapes)

    def cuts(self, n: int) -> list[slice]:
        """``n`` rows, a block's at a time."""
        return [slice(start, min(start + self.side, n)) for start in range(0, n, self.side)]

    @abstractmethod
    def diagonal(self) -> Array:
        """Of the matrix, (n,) float64."""

    @abstractmethod
    def block(self, index: int) -> Array:
        """The entries of ``spans[index]``."""

    @abstractmethod
    def rows(self, points: Array) -> Array:
        """Rows (len(points), n) of the matrix."""

    @abstractmethod
    def square(self, points: Array) -> Array:
        """Rows and columns of these points alone."""

    @abstractmethod
    def cross(self, test: Array, rows: slice, columns: slice) -> Array:
        """Kernels of test points with training points."""

    @abstractmethod
    def stored(self, store: Any, progress: bool) -> contextlib.AbstractContextManager[None]:
        """Keep the blocks where ``store`` says while the context lasts; None: nowhere."""

    @abstractmethod
    def check_test(self, test: Any) -> Array:
        """Test points as given by a user, checked."""

    def product(self, v: Array, report: Report) -> Array:
        """``K / unit @ v`` for v (n, o) float64; one report for each block.

        Raises
        ------
        ValueError
            When the kernel is not finite.
        """
        before, behind = halves(self.unit)
        found, v = np.zeros_like(v), v * before
        for index, (rows, columns) in enumerate(self.spans):
            mirrored = (v[rows], found[columns]) if rows != columns else None
            add_product(self.block(index), v[columns], found[rows], mirrored)
            report(1)
        self._check(found, TRAIN)
        return found * behind

    def test_product(self, test: Array, v: Array, report: Report) -> Array:
        """Kernels of the test points with the training points / unit @ v (n, o) float64; reports test points.

        Raises
        ------
        ValueError
            When these are not finite.
        """
        before, behind = halves(self.unit)
        found, v = np.zeros((len(test), v.shape[1])), v * before
        for rows in self.cuts(len(test)):
            for columns in self.cuts(self.n):
                add_product(self.cross(test, rows, columns), v[columns], found[rows])
            report(rows.stop - rows.start)
        self._check(found, "the kernel of test and training points")
        return found * behind

    def _check(self, found: Array, name: str) -> None:
        """Raise unless a product is finite, and with it the kernel."""
        if not np.isfinite(found).all():
            raise ValueError(f"[{self.what}] {name} is not finite")


def add_product(block: Array, right: Array, out: Array, mirrored: tuple[Array, Array] | None = None) -> None:
    """``out += block @ right``, and for ``mirrored = (left, other)`` ``other += block.T @ left``; in float64."""
    step = max(1, _CHUNK // (8 * max(1, block.shape[1])))
    for start in range(0, len(block), step):
        part = block[start : start + step].astype(np.float64, copy=False)
        with np.errstate(invalid="ignore"):  # of infinite entries, which the caller finds
            out[start : start + step] += part @ right
            if mirrored is not None:
                left, other = mirrored
                other += part.T @ left[start : start + step]


class KernelBlocks(Blocks):
    """Blocks computed by a kernel function whenever they are asked for.

    Parameters
    ----------
    kernel_fn : callable
        ``kernel_fn(x1, x2, get)``, x2 None for x1 again.
    x : numpy.ndarray (n, ...)
    get : str
    budget : int
        Bytes of a block and of what computes it.
    """

    def __init__(self, kernel_fn: Callable[..., Any], x: Any, get: Any, budget: int, what: str) -> None:
        if not isinstance(get, str):
            raise TypeError(f"[{what}] get must be one name, 'nngp' or 'ntk', given {get!r}")
        self.kernel_fn, self.get, self.what = kernel_fn, get, what
        self.x = np.array(as_input(x, "x_train", max(2, getattr(x, "ndim", 2)), what))  # a copy: predictors keep it
        if not len(self.x):
            raise ValueError(f"[{what}] x_train is empty: shape {self.x.shape}")
        check_finite(self.x, "x_train", what)
        self._stored: list[Array] | None = None
        diagonal = self.variances(self.x)
        check_finite(diagonal, f"the diagonal of {TRAIN}", what)
        self._diagonal = diagonal.astype(np.float64)
        super().__init__(len(self.x), diagonal.dtype.newbyteorder("="), budget, what)

    def diagonal(self) -> Array:
        return self._diagonal

    def variances(self, x: Array) -> Array:
        """The diagonal (m,); of functions that do not offer it, from small squares on it."""
        diagonal = getattr(self.kernel_fn, "diagonal", None)
        if diagonal is not None:
            return self._checked(diagonal(x, self.get), (len(x),))
        parts = [slice(start, min(start + _LEAST, len(x))) for start in range(0, len(x), _LEAST)]
        return np.concatenate([np.diagonal(self.kernel(x[part])) for part in parts])

    def kernel(self, x1: Array, x2: Array | None = None) -> Array:
        shape = (len(x1), len(x1 if x2 is None else x2))
        return self._checked(self.kernel_fn(x1, x2, self.get), shape)

    def _checked(self, found: Any, shape: tuple[int, ...]) -> Array:
        if not isinstance(found, np.ndarray) or found.dtype.newbyteorder("=") not in FLOATS:
            kind = found.dtype if isinstance(found, np.ndarray) else describe(found)
            raise TypeError(f"[{self.what}] kernel_fn must give one array of float32 or float64, it gave {kind}")
        if found.shape != shape:
            raise ValueError(
                f"[{self.what}] kernel_fn gave shape {found.shape} where {shape} is due: the first axis of x must "
                "count samples, and a network must not end with positions"
            )
        return found

    def block(self, index: int) -> Array:
        if self._stored is not None:
            return self._stored[index]
        rows, columns = self.spans[index]
        return self.kernel(self.x[rows], None if rows == columns else self.x[columns])

    def rows(self, points: Array) -> Array:
        return self.kernel(self.x[points], self.x)

    def square(self, points: Array) -> Array:
        return self.kernel(self.x[points])

    def cross(self, test: Array, rows: slice, columns: slice) -> Array:
        return self.kernel(test[rows], self.x[columns])

    @contextlib.contextmanager
    def stored(self, store: Any, progress: bool) -> Iterator[None]:
        if store is None:
            yield
            return
        with contextlib.ExitStack() as stack:
            blocks = self._places(store, stack)
            with bar(len(blocks), progress, "block") as report:
                report.again("kernel")
                for index, (rows, columns) in enumerate(self.spans):
                    blocks[index][...] = self.block(index)
                    if isinstance(store, np.ndarray) and rows != columns:
                        store[columns, rows] = blocks[index].T
                    report(1)
            self._stored = blocks
            del blocks
            try:
                yield
            finally:
                self._stored = None

    def _places(self, store: Any, stack: contextlib.ExitStack) -> list[Array]:
        """Where each block goes: parts of an array (n, n), of memory, or of a file that the stack removes."""
        if isinstance(store, np.ndarray):
            check_out(store, (self.n, self.n), self.dtype, [self.x], f"{self.what} store")
            return [store[span] for span in self.spans]
        if store == "memory":
            whole = np.empty(self.size, self.dtype)
        elif isinstance(store, (str, os.PathLike)):
            whole = _new_file(Path(store), self.size, self.dtype, stack, self.what)
        else:
            raise TypeError(
                f"[{self.what}] store must be None, 'memory', the path of a new file or an array (n, n), given "
                f"{describe(store)}"
            )
        ends = np.cumsum([rows * columns for rows, columns in self.shapes])
        parts = np.split(whole, ends[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def check_test(self, test: Any) -> Array:
        return self.check_points(test, "x_test")

    def check_points(self, points: Any, name: str) -> Array:
        """Inputs like those of training."""
        found = as_input(points, name, self.x.ndim, self.what)
        if found.shape[1:] != self.x.shape[1:]:
            raise ValueError(f"[{self.what}] {name} has shape {found.shape}, x_train {self.x.shape}")
        if found.dtype.newbyteorder("=") != self.x.dtype.newbyteorder("="):
            raise TypeError(f"[{self.what}] {name} has dtype {found.dtype}, x_train {self.x.dtype}")
        check_finite(found, name, self.what)
        return found


class ArrayBlocks(Blocks):
    """Blocks of an array (n, n), a ``numpy.memmap`` too. The part below the diagonal is not read."""

    def __init__(self, k: Array, budget: int, what: str) -> None:
        self._k = k
        super().__init__(len(k), k.dtype.newbyteorder("="), budget, what)

    def diagonal(self) -> Array:
        found: Array = np.diagonal(self._k).astype(np.float64)
        return found

    def block(self, index: int) -> Array:
        return self._k[self.spans[index]]

    def rows(self, points: Array) -> Array:
        found: Array = self._k[points]
        return found

    def square(self, points: Array) -> Array:
        found: Array = self._k[np.ix_(points, points)]
        return found

    def cross(self, test: Array, rows: slice, columns: slice) -> Array:
        return test[rows, columns]

    def stored(self, store: Any, progress: bool) -> contextlib.AbstractContextManager[None]:
        if store is not None:
            raise ValueError(f"[{self.what}] store must be None where an array takes the place of kernel_fn")
        return contextlib.nullcontext()

    def check_test(self, test: Any) -> Array:
        found = as_input(test, "k_test_train", 2, self.what)
        if found.shape[1] != self.n:
            raise ValueError(f"[{self.what}] k_test_train has shape {found.shape}; (m, {self.n}) is due")
        check_finite(found, "k_test_train", self.what)
        return found


def _new_file(path: Path, size: int, dtype: np.dtype[Any], stack: contextlib.ExitStack, what: str) -> Array:
    """A file of ``size`` numbers, mapped; removed with the stack."""
    need, free = size * dtype.itemsize, shutil.disk_usage(path.absolute().parent).free
    if need > free:  # writing to a mapping of a full disk kills the process
        raise OSError(
            f"[{what}] the kernel takes {need / 2**30:.4g} GiB in {path}; {free / 2**30:.4g} GiB are free there"
        )
    try:
        file = path.open("x+b")
    except FileExistsError:
        raise FileExistsError(f"[{what}] store names a new file, removed at the end; {path} exists") from None
    with file:
        stack.callback(path.unlink)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, need)
        return np.memmap(file, dtype, "r+", shape=(size,))


def blocks_of(kernel: Any, x: Any, get: Any, budget: int, what: str) -> KernelBlocks | ArrayBlocks:
    """Blocks of a kernel function, or of an array where ``x`` is None.

    Raises
    ------
    TypeError, ValueError
        Neither of these; an array that is no Gram matrix (:func:`fastntk.predict.linalg.check_gram`).
    """
    if isinstance(budget, bool) or not isinstance(budget, (int, np.integer)) or budget < 1:
        raise ValueError(f"[{what}] memory_budget must be a positive number of bytes, given {budget!r}")
    if callable(kernel):
        if x is None:
            raise TypeError(f"[{what}] a kernel function needs x_train, given None")
        return KernelBlocks(kernel, x, get, int(budget), what)
    if isinstance(get, str):
        kernel = getattr(kernel, get, kernel)  # of a Kernel or a named tuple
    if not isinstance(kernel, np.ndarray):
        raise TypeError(
            f"[{what}] kernel_fn must be a kernel function, or kernels (n, n) as a numpy.ndarray, a Kernel or a named "
            f"tuple, with x_train=None; given {describe(kernel)}"
        )
    if x is not None:
        raise TypeError(f"[{what}] x_train must be None where an array takes the place of kernel_fn")
    check_gram(kernel, what)
    return ArrayBlocks(kernel, int(budget), what)


def check_memory(size: int, of: str, what: str) -> None:
    """Raise MemoryError where ``size`` bytes are more than there are."""
    available = available_memory()
    if available is not None and size > available:
        raise MemoryError(f"[{what}] {of}: {size / 2**30:.4g} GiB are needed, {available / 2**30:.4g} are available")


def outputs_of(y: Any, trace_axes: Any, n: int, what: str) -> tuple[Targets, Array]:
    """Targets of ``n`` samples, checked, and as a matrix (n, o) of float64.

    Raises
    ------
    TypeError, ValueError
        As :func:`fastntk.predict.targets.targets_of`; an array of CuPy; another number of samples, or axes beside
        samples and outputs.
    """
    y = given_array(y, "y_train", what)
    targets = targets_of(y, trace_axes, what)
    if not isinstance(y, np.ndarray):
        raise TypeError(f"[{what}] y_train must be a numpy.ndarray, given {describe(y)}")
    if targets.paired != (n,):
        raise ValueError(
            f"[{what}] y_train of shape {y.shape} with trace_axes {targets.trace_axes} has samples of shape "
            f"{targets.paired}; the kernel has ({n},){targets.hint}"
        )
    return targets, targets.matrix(y).astype(np.float64)
