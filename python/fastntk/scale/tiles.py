"""A symmetric kernel as tiles for products with vectors: computed anew or read from a store, here or on workers.

A job is a stretch of a row of blocks. Its share of a product is made by one process, and shares are added in the order
of the jobs, so that a product has the same bits with any number of workers, and without any.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.options import options
from ..base.progress import Report
from ..call.kernel_fn import KernelFn
from ..predict.blocks import KernelBlocks, add_product
from ..predict.linalg import TRAIN
from ..predict.units import halves
from .cluster import Sent, run_jobs
from .problem import Problem
from .targets import Target

Array = npt.NDArray[Any]
Job = tuple[int, int, int]  # a row of blocks, and columns of blocks from the second to before the third

_STRETCH = 16  # blocks of a job, at most


@dataclass(frozen=True)
class Products:
    """Shares of products; it travels to workers."""

    kernel_fn: KernelFn
    get: str
    side: int
    target: Target | None
    backend: str
    isa: str
    num_threads: int | None

    def kernel(self, x1: Array, x2: Array | None) -> Array:
        """As on every worker."""
        with options(isa=self.isa or None):
            found: Array = self.kernel_fn(x1, x2, self.get, backend=self.backend, num_threads=self.num_threads)
        return found

    def block(self, row: int, column: int, x: Array) -> Array:
        """A block on or above the diagonal."""
        if self.target is not None:
            return self.target.block(self.get, row, column)
        first = x[row * self.side : (row + 1) * self.side]
        return self.kernel(first, None if row == column else x[column * self.side : (column + 1) * self.side])

    def __call__(self, row: int, start: int, stop: int, x: Array, v: Array) -> tuple[Array, Array]:
        """What blocks of one row give to its rows, and their mirror images to the rows of their columns."""
        rows = slice(row * self.side, min((row + 1) * self.side, len(v)))
        first = start * self.side
        last = min(stop * self.side, len(v))
        found, mirrored = np.zeros((rows.stop - rows.start, v.shape[1])), np.zeros((last - first, v.shape[1]))
        for column in range(start, stop):
            columns = slice(column * self.side, min((column + 1) * self.side, len(v)))
            back = (v[rows], mirrored[columns.start - first : columns.stop - first]) if column > row else None
            add_product(self.block(row, column, x), v[columns], found, back)
        return found, mirrored

    def cross(self, start: int, stop: int, x: Array, v: Array, test: Array) -> Array:
        """Kernels of some test points with all training points, times v."""
        found = np.zeros((stop - start, v.shape[1]))
        for first in range(0, len(x), self.side):
            columns = slice(first, min(first + self.side, len(x)))
            add_product(self.kernel(test[start:stop], x[columns]), v[columns], found)
        return found


class Tiles(KernelBlocks):
    """Blocks of ``chunks`` rows, whose products are made job by job.

    Parameters
    ----------
    problem : Problem
        Of the training points, one field.
    target : Target or None
        Where the blocks lie; None: they are computed anew.
    client : distributed.Client or None
    num_threads : int or None
        Of one job.
    """

    def __init__(
        self, problem: Problem, target: Target | None, client: Any, num_threads: int | None, budget: int, what: str
    ) -> None:
        self.problem, get = problem, problem.layout.fields[0]
        self._products = Products(
            problem.kernel_fn, get, problem.layout.chunks[0], target, problem.backend, problem.isa, num_threads
        )
        super().__init__(problem.kernel_fn, problem.x1, get, budget, what)
        self._client = client
        self._sent: Sent | None = None
        self._arrays: dict[str, Array] = {}
        self.side = problem.layout.chunks[0]
        cuts = self.cuts(self.n)
        self.spans = [(rows, columns) for i, rows in enumerate(cuts) for columns in cuts[i:]]
        self.shapes = [(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in self.spans]
        self.size = sum(rows * columns for rows, columns in self.shapes)
        count = len(cuts)
        self._jobs: list[Job] = [
            (i, j, min(j + _STRETCH, count)) for i in range(count) for j in range(i, count, _STRETCH)
        ]  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        """Without the cluster, which is gone where this is read."""
        return {**self.__dict__, "_client": None, "_sent": None}

    def variances(self, x: Array) -> Array:
        p = self._products
        with options(isa=p.isa or None):
            found: Array = p.kernel_fn.diagonal(x, p.get, backend=p.backend)
        return found

    def kernel(self, x1: Array, x2: Array | None = None) -> Array:
        return self._products.kernel(x1, x2)

    def block(self, index: int) -> Array:
        rows, columns = self.spans[index]
        return self._products.block(rows.start // self.side, columns.start // self.side, self.x)

    def product(self, v: Array, report: Report) -> Array:
        before, behind = halves(self.unit)
        found, v = np.zeros_like(v), v * before
        with contextlib.closing(self._shares(v)) as shares:
            for (row, start, stop), (own, mirrored) in shares:
                found[row * self.side : row * self.side + len(own)] += own
                found[start * self.side : start * self.side + len(mirrored)] += mirrored
                report(stop - start)
        self._check(found, TRAIN)
        return found * behind

    def test_product(self, test: Array, v: Array, report: Report) -> Array:
        before, behind = halves(self.unit)
        found, v = np.zeros((len(test), v.shape[1])), v * before
        jobs = [(rows.start, rows.stop) for rows in self.cuts(len(test))]
        arrays = {"x": self.x, "v": v, "test": test}
        with contextlib.closing(self._run(jobs, self._products.cross, arrays)) as shares:
            for (start, stop), own in shares:
                found[start:stop] = own
                report(stop - start)
        self._check(found, "the kernel of test and training points")
        return found * behind

    def _shares(self, v: Array) -> Generator[tuple[Job, tuple[Array, Array]], None, None]:
        """Shares of a product in the order of the jobs, whoever is first."""
        arrays = {"x": self.x if self._products.target is None else self.x[:0], "v": v}
        early: dict[Job, Any] = {}
        waited = iter(self._jobs)
        due = next(waited, None)
        with contextlib.closing(self._run(self._jobs, self._products, arrays)) as made:
            for job, share in made:
                early[job] = share
                while due in early:
                    yield due, early.pop(due)
                    due = next(waited, None)

    def _run(self, jobs: list[Any], function: Any, arrays: dict[str, Array]) -> Any:
        """``(job, function(*job, *arrays))``, here or on workers, which keep x between calls."""
        if self._client is None:
            return ((job, function(*job, *arrays.values())) for job in jobs)
        if self._sent is None:
            self._sent = Sent(self._client, lambda name: self._arrays[name])
        self._arrays = arrays
        for name in arrays:
            if name != "x":
                self._sent.forget(name)
        return run_jobs(self._client, jobs, _Of(function, tuple(arrays)), self._sent, self.what)


@dataclass(frozen=True)
class _Of:
    function: Any
    arrays: tuple[str, ...]

    def names(self, job: Any) -> tuple[str, ...]:
        return self.arrays

    def call(self, job: Any) -> tuple[Any, ...]:
        return (self.function, *job)
