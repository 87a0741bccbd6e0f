"""What a Gram matrix takes, before it is begun: bytes, and hours from the rate of a few samples."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .problem import Problem, problem_of
from .targets import Layout

_SAMPLE = 512  # rows whose pairs are timed
_ENOUGH = 0.3  # seconds of one core that pairs of images are timed for, about


@dataclass(frozen=True)
class Estimate:
    """What :func:`estimate` says; it prints as two lines.

    Attributes
    ----------
    layout : Layout
        ``fields``, ``shape``, ``dtype`` and ``chunks`` of what is written.
    blocks : int
        Blocks to be computed; of a symmetric matrix those on and above the diagonal.
    pairs : int
        Pairs of samples in them.
    bytes : int
        Of the result.
    seconds : float
        Of one core, at the rate measured here; writing is not counted.
    """

    layout: Layout
    blocks: int
    pairs: int
    bytes: int
    seconds: float

    def __str__(self) -> str:
        n, m = self.layout.shape
        names, (rows, columns) = " + ".join(self.layout.fields), self.layout.chunks
        return (
            f"{names}, {n:,} x {m:,} {self.layout.dtype}: {size_text(self.bytes)}, {self.blocks:,} blocks of {rows:,} "
            f"x {columns:,}\n{self.pairs:,} pairs, about {duration_text(self.seconds)} of one core like this"
        )


def estimate(
    kernel_fn: Any, x: Any, get: str | Sequence[str] = ("nngp", "ntk"), x2: Any = None, *,
    chunks: int | tuple[int, int] | None = None, backend: str | None = None,
) -> Estimate:  # fmt: skip
    """What :func:`gram` with these arguments writes and takes, by the rate of a few samples on one core.

    Parameters
    ----------
    kernel_fn, x, get, x2, chunks, backend
        As for :func:`gram`.

    Returns
    -------
    Estimate

    Raises
    ------
    TypeError, ValueError
        As :func:`gram`.
    """
    return estimate_of(problem_of(kernel_fn, x, x2, get, chunks, backend, "estimate"))


def estimate_of(problem: Problem) -> Estimate:
    """Of a problem whose arguments have been checked."""
    layout, blocks = problem.layout, problem.pairs()
    n, m = layout.shape
    pairs = n * (n + 1) // 2 if problem.symmetric else n * m
    return Estimate(layout, len(blocks), pairs, layout.bytes, pairs * _seconds_a_pair(problem))


def _seconds_a_pair(problem: Problem) -> float:
    """Of different samples, on one core; the second of two calls."""
    most = _SAMPLE
    if problem.seconds is not None:
        most = max(2, min(_SAMPLE, math.isqrt(int(_ENOUGH / problem.seconds))))
    first, second = problem.side(0)[:most], problem.side(1)[-most:]
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        problem.kernel_fn(first, second, problem.layout.fields, backend=problem.backend, num_threads=1)
        seconds = time.perf_counter() - start
    return seconds / (len(first) * len(second))


def size_text(size: float) -> str:
    """Bytes in the unit that suits them."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


def duration_text(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} seconds"
