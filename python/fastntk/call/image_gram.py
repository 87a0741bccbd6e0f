"""From images to finished kernels: tables of a few images at a time, and tiles of pairs between them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.progress import Report
from ..engines.cpu import CpuEngine
from ..engines.cpu_images import Images, Outputs, Runner, size_text
from ..engines.cuda import CudaEngine
from ..engines.cuda_images import CudaRunner
from ..engines.engine import Engine
from ..engines.numpy_images import image_kernels
from ..engines.numpy_rows import NumpyEngine, Real
from ..network.activations import is_homogeneous
from ..network.program import Lowered
from .extremes import Flags, limits, outside

Array = npt.NDArray[Any]

BUDGET = 256 << 20  # bytes, beside inputs and outputs
_CHUNK = 64  # images that are looked through at a time


def run_image_pairs(
    lowered: Lowered, engine: Engine, x1: Images, x2: Images | None, outputs: Outputs,
    spatial: Sequence[tuple[int, ...]], budget: int, report: Report,
) -> None:  # fmt: skip
    """Fill the output planes, (n1, n2) or (n1, n2, h, h', w, w', ...); x2 None: x1 again."""
    second = x1 if x2 is None else x2
    if x1.n == 0 or second.n == 0:
        return
    wide1 = _extreme(lowered, x1)
    wide2 = wide1 if x2 is None else _extreme(lowered, x2)
    if isinstance(engine, NumpyEngine):
        _reference(lowered, engine, x1, x2, outputs, spatial, report)
        _further(lowered, engine, x1, x2, wide1, wide2, outputs, spatial)
        return
    runner = _runner(lowered, engine, x1)
    wide = bool(wide1.any() or wide2.any())
    twice = runner.lossy or (wide and runner.dtype == np.float32)
    again = _runner(lowered, engine, x1, np.dtype(np.float64)) if twice else None
    mirrored = x2 is None
    written = [plane for planes in outputs for plane in planes if plane is not None]
    if not written:
        return
    apart, side, buffers = not all(map(runner.writes, written)), 0, 0
    if apart:  # squares of pairs by way of buffers: a quarter of the budget, or one pair
        pair = sum(math.prod(plane.shape[2:]) * plane.itemsize for plane in written)
        side = max(1, math.isqrt(budget // 4 // pair))
        buffers = min(side * side, x1.n * second.n) * pair
    _share(budget, buffers, [runner] if again is None else [runner, again], x1.n, second.n)
    if apart:
        runner.images = min(runner.images, 2 * side)

    def lacking(lost: list[list[int]]) -> None:
        if lost:
            assert again is not None
            _again(again, x1, second, lost, outputs, mirrored)

    for rows in runner.tiles(x1.n, second.n):
        tables1 = tables2 = None  # what the last tile had goes before new ones come
        tables1 = runner.tables(x1, rows)
        for cols in runner.tiles(second.n, x1.n):
            if mirrored and cols.stop <= rows.start:
                continue
            tables2 = None
            tables2 = tables1 if second is x1 and cols == rows else runner.tables(second, cols)
            if apart:
                lacking(_run_apart(runner, tables1, tables2, rows, cols, outputs, mirrored, report))
            else:
                lacking(runner.run(tables1, tables2, rows, cols, outputs, mirrored, report))
    lacking(runner.finish())
    if not wide:
        return
    if runner.dtype == np.float64:
        _further(lowered, engine, x1, x2, wide1, wide2, outputs, spatial)
        return
    pairs = np.argwhere(wide1[:, None] | wide2)
    lacking((pairs[pairs[:, 0] <= pairs[:, 1]] if mirrored else pairs).tolist())


def _extreme(lowered: Lowered, x: Images) -> Flags:
    """Which images leave the range of their dtype on the way (extremes.py)."""
    found = np.zeros(x.n, np.bool_)
    dtype = x.arrays[0].dtype.newbyteorder("=")
    if dtype == np.float32 and all(map(is_homogeneous, lowered.program.ops)):  # images are brought to one brightness
        return found
    least, most, matters = limits(lowered, dtype)
    for start in range(0, x.n, _CHUNK):
        part = slice(start, min(x.n, start + _CHUNK))
        for own in _on_host(x, part).arrays:
            values = own.reshape(len(own), -1)
            largest = np.maximum(values.max(axis=1), -values.min(axis=1)).astype(np.float64)
            found[part] |= outside(largest, least, most)
            if matters:
                pixels = np.abs(own).max(axis=-1).reshape(len(own), -1).astype(np.float64)
                found[part] |= outside(pixels, least, np.inf).any(axis=1)
    return found


def _further(
    lowered: Lowered, engine: Engine, x1: Images, x2: Images | None, wide1: Flags, wide2: Flags, outputs: Outputs,
    spatial: Sequence[tuple[int, ...]],
) -> None:  # fmt: skip
    """Compute pairs that float64 does not hold in the type that reaches further."""
    second = x1 if x2 is None else x2
    for i, j in np.argwhere(wide1[:, None] | wide2).tolist():
        own1, own2 = (_on_host(x, slice(k, k + 1)) for x, k in ((x1, i), (second, j)))
        same = x2 is None and i == j
        planes = [[None if p is None else p[i : i + 1, j : j + 1] for p in pair] for pair in outputs]
        _reference(lowered, engine, own1, None if same else own2, planes, spatial, lambda pairs: None, np.longdouble)


def _on_host(x: Images, part: slice) -> Images:
    return Images([a[part] if isinstance(a, np.ndarray) else a[part].get() for a in x.arrays])


def _run_apart(
    runner: Runner, tables1: Any, tables2: Any, rows: slice, cols: slice, outputs: Outputs, mirrored: bool,
    report: Report,
) -> list[list[int]]:  # fmt: skip
    """``runner.run`` by way of buffers; of one set of images a tile lies on the diagonal or meets it nowhere."""
    shape = (rows.stop - rows.start, cols.stop - cols.start)
    fresh = [[None if p is None else runner.empty((*shape, *p.shape[2:]), p) for p in planes] for planes in outputs]
    diagonal = mirrored and rows == cols
    lost = runner.run(tables1, tables2, slice(0, shape[0]), slice(0, shape[1]), fresh, diagonal, report)
    for planes, found in zip(outputs, fresh, strict=True):
        for plane, values in zip(planes, found, strict=True):
            if plane is None or values is None:
                continue
            plane[rows, cols] = values
            if mirrored and not diagonal:
                plane[cols, rows] = values.transpose([a ^ 1 for a in range(values.ndim)])
    return [[i + rows.start, j + cols.start] for i, j in lost]


def _runner(lowered: Lowered, engine: Engine, x: Images, dtype: np.dtype[Any] | None = None) -> Runner:
    if isinstance(engine, CudaEngine):
        return CudaRunner(lowered, engine, x, dtype)
    if isinstance(engine, CpuEngine):
        return Runner(lowered, engine, x, dtype)
    raise NotImplementedError(
        f"[kernel_fn] inputs with spatial axes have no backend '{engine.name}': 'cpu', 'cuda' and 'numpy' take them"
    )


def run_image_diagonal(
    lowered: Lowered, engine: Engine, x: Images, outputs: Outputs, spatial: Sequence[tuple[int, ...]], budget: int
) -> None:
    """Fill the output planes of each image with itself, (n, 1) or (n, 1, h, h', w, w', ...)."""
    if x.n == 0:
        return
    wide = _extreme(lowered, x)

    def reference(k: int, real: Real) -> None:
        planes = [[None if p is None else p[k : k + 1] for p in pair] for pair in outputs]
        one = _on_host(x, slice(k, k + 1))
        _reference(lowered, engine, one, None, planes, spatial, lambda pairs: None, real)

    if isinstance(engine, NumpyEngine):
        for k in range(x.n):
            reference(k, np.longdouble if wide[k] else np.float64)
        return
    runner = _runner(lowered, engine, x)
    _share(budget, 0, [runner], x.n, 0)
    for rows in runner.tiles(x.n, 0):
        tables = runner.tables(x, rows)
        planes = [[None if p is None else p[rows] for p in pair] for pair in outputs]
        runner.listed(tables, tables, [[k, k] for k in range(rows.stop - rows.start)], planes)
    again = None
    for k in np.flatnonzero(wide).tolist():
        if runner.dtype == np.float64:
            reference(k, np.longdouble)
            continue
        again = again or _runner(lowered, engine, x, np.dtype(np.float64))
        one = Images([a[k : k + 1] for a in x.arrays])
        planes = [[None if p is None else p[k : k + 1] for p in pair] for pair in outputs]
        _again(again, one, one, [[0, 0]], planes, False)


def _again(runner: Runner, x1: Images, x2: Images, pairs: list[list[int]], outputs: Outputs, mirrored: bool) -> None:
    """Compute pairs once more in float64: near-duplicates behind pooling, whose difference float32 has lost."""
    step = max(1, runner.images // 2)  # pairs of this many images of each side
    for start in range(0, len(pairs), step):
        part = np.asarray(pairs[start : start + step])
        first, at1 = np.unique(part[:, 0], return_inverse=True)
        second, at2 = np.unique(part[:, 1], return_inverse=True)
        tables1 = runner.tables(Images([x[first.tolist()] for x in x1.arrays]), slice(0, len(first)))
        tables2 = runner.tables(Images([x[second.tolist()] for x in x2.arrays]), slice(0, len(second)))
        fresh = [
            [None if p is None else runner.empty((len(part), 1, *p.shape[2:]), p) for p in planes] for planes in outputs
        ]
        runner.listed(tables1, tables2, np.stack([at1, at2], axis=1).tolist(), fresh)
        with np.errstate(over="ignore"):
            for planes, found in zip(outputs, fresh, strict=True):
                for plane, values in zip(planes, found, strict=True):
                    if plane is None or values is None:
                        continue
                    for (i, j), value in zip(part.tolist(), values[:, 0], strict=True):
                        plane[i, j] = value
                        if mirrored and i != j:
                            plane[j, i] = value.transpose([a ^ 1 for a in range(value.ndim)])


def _reference(
    lowered: Lowered, engine: Engine, x1: Images, x2: Images | None, outputs: Outputs,
    spatial: Sequence[tuple[int, ...]], report: Report, real: Real = np.float64,
) -> None:  # fmt: skip
    """By ``images.py``, whatever the engine; its arrays stay its own."""
    arrays = [[x.reshape(x.shape[0], *s, x.shape[-1]) for x, s in zip(i.arrays, i.spatial, strict=True)]
              for i in (x1, x2) if i is not None]  # fmt: skip
    seen = 0

    def progress(done: int, total: int) -> None:
        nonlocal seen
        report(done - seen)
        seen = done

    found = image_kernels(lowered, arrays[0], arrays[1] if x2 is not None else None, spatial, progress, real)
    with np.errstate(over="ignore"):
        for planes, result in zip(outputs, found, strict=True):
            for plane, value in zip(planes, (result.nngp, result.ntk), strict=True):
                if plane is not None:
                    plane[...] = value if isinstance(plane, np.ndarray) else engine.bring(value.astype(plane.dtype))


def _share(budget: int, results: int, runners: Sequence[Runner], n: int, other: int) -> None:
    """Divide the budget: buffers of results and of threads, two images' tables each, what is left mostly to the first.

    Threads are given up where their buffers, or the tables of as many images as keep them busy, do not fit.

    Raises
    ------
    MemoryError
        Where one pair of images does not fit.
    """
    worker = sum(r.worker for r in runners)
    least = results + sum(r.fixed + 2 * r.table for r in runners)
    if least + worker > budget:
        raise MemoryError(
            f"[kernel_fn] a pair of images takes {size_text(least + worker)} beside inputs and outputs "
            f"({runners[0].needs}, tables of {size_text(sum(r.table for r in runners))} an image); memory_budget is "
            f"{size_text(budget)}. A larger budget or smaller images fit"
        )

    def shares(threads: int) -> list[int]:
        spare = budget - least - threads * worker
        return [spare] if len(runners) == 1 else [spare * (3 - 2 * k) // 4 for k in range(2)]

    most = min(runners[0].threads, runners[0].units(n, other, budget), (budget - least) // max(1, worker))
    # the largest number that finds as many blocks of pairs
    threads = bisect_right(range(1, most + 1), False, key=lambda t: t > runners[0].units(n, other, shares(t)[0]))
    threads = max(1, threads)
    for runner, spare in zip(runners, shares(threads), strict=True):
        runner.threads = threads
        runner.share(spare)


def count_pairs(n1: int, n2: int, mirrored: bool) -> int:
    """Pairs that a call computes."""
    return n1 * (n1 + 1) // 2 if mirrored else n1 * n2
