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
from ..engines.cpu_images import Outputs, Runner, size_text
from ..engines.cuda import CudaEngine
from ..engines.cuda_images import CudaRunner
from ..engines.engine import Engine
from ..engines.masked import MaskedImages as Images
from ..engines.numpy_images import image_kernels
from ..engines.numpy_rows import NumpyEngine, Real
from ..network.activations import is_homogeneous
from ..network.program import Lowered
from .extremes import Flags, limits, outside

Array = npt.NDArray[Any]
Variances = Sequence[Array | None]  # K(x, x) of each output, (n,) or (n, h, h', w, w', ...); None: not wanted

BUDGET = 256 << 20  # bytes, beside inputs and outputs
_CHUNK = 64  # images that are looked through at a time


def run_image_pairs(
    lowered: Lowered, engine: Engine, x1: Images, x2: Images | None, outputs: Outputs, variances: Sequence[Variances],
    spatial: Sequence[tuple[int, ...]], budget: int, report: Report,
) -> None:  # fmt: skip
    """Fill the output planes, (n1, n2) or (n1, n2, h, h', w, w', ...), and the variances of one side or both.

    x2 None: x1 again. Variances come with the tables of images where they can; where covariances are pooled, or an
    output has positions, from pairs of an image with itself.
    """
    second = x1 if x2 is None else x2
    sides = [(x1, variances[0]), (second, variances[1])]
    if x1.n == 0 or second.n == 0 or not any(plane is not None for planes in outputs for plane in planes):
        for x, own in sides:
            _run_alone(lowered, engine, x, own, spatial, budget)
        return
    wide1 = _extreme(lowered, x1)
    wide2 = wide1 if x2 is None else _extreme(lowered, x2)
    if isinstance(engine, NumpyEngine):
        _reference(lowered, engine, x1, x2, outputs, spatial, report, variances=variances)
        _further(lowered, engine, x1, x2, wide1, wide2, outputs, spatial)
    else:
        known = _run_pairs(lowered, engine, x1, x2, wide1, wide2, outputs, variances, spatial, budget, report)
        for x, own in sides:
            left: Variances = [None if k in known else v for k, v in enumerate(own)]
            if x2 is None:
                left = [_from_diagonal(v, planes[0]) for v, planes in zip(left, outputs, strict=True)]
            if any(v is not None for v in left):
                run_image_diagonal(lowered, engine, x, [(v, None) for v in left], spatial, budget)
    for (x, own), wide in zip(sides, (wide1, wide2), strict=True):
        _further_alone(lowered, engine, x, wide, own, spatial)


def _from_diagonal(variance: Array | None, plane: Array | None) -> Array | None:
    """Variances from a Gram's diagonal; what is left to do."""
    if variance is None or plane is None:
        return variance
    variance[...] = np.moveaxis(plane.diagonal(axis1=0, axis2=1), -1, 0)
    return None


def _run_alone(
    lowered: Lowered,
    engine: Engine,
    x: Images,
    variances: Variances,
    spatial: Sequence[tuple[int, ...]],
    budget: int,
) -> None:
    """Variances and nothing else."""
    if x.n == 0 or all(v is None for v in variances):
        return
    known: set[int] = set()
    if not isinstance(engine, NumpyEngine):
        runner = _runner(lowered, engine, x)
        known = runner.known
        _share(budget, 0, [runner], x.n, 0)
        for part in runner.tiles(x.n, 0) if known else ():
            _take(variances, part, runner.tables((x, part))[0])
    left = [None if k in known else v for k, v in enumerate(variances)]
    if any(v is not None for v in left):
        run_image_diagonal(lowered, engine, x, [(v, None) for v in left], spatial, budget)
    _further_alone(lowered, engine, x, _extreme(lowered, x), variances, spatial)


def _take(variances: Variances, part: slice, tables: Any) -> None:
    """Keep the variances that come with tables."""
    for output, q in tables.variances.items():
        own = variances[output]
        if own is not None:
            with np.errstate(over="ignore"):
                here = q.get() if isinstance(own, np.ndarray) and not isinstance(q, np.ndarray) else q
                own[part] = here.reshape(own[part].shape)  # axes of one position


def _run_pairs(
    lowered: Lowered, engine: Engine, x1: Images, x2: Images | None, wide1: Flags, wide2: Flags, outputs: Outputs,
    variances: Sequence[Variances], spatial: Sequence[tuple[int, ...]], budget: int, report: Report,
) -> set[int]:  # fmt: skip
    """By a compiled engine; the outputs whose variances came with tables."""
    second = x1 if x2 is None else x2
    runner = _runner(lowered, engine, x1)
    wide = bool(wide1.any() or wide2.any())
    twice = runner.lossy or (wide and runner.dtype == np.float32)
    again = _runner(lowered, engine, x1, np.dtype(np.float64)) if twice else None
    mirrored = x2 is None
    written = [plane for planes in outputs for plane in planes if plane is not None]
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
        for cols in runner.tiles(second.n, x1.n):
            if mirrored and cols.stop <= rows.start:
                continue
            tables2 = None
            wanted = [] if mirrored and cols == rows else [(second, cols)]
            if tables1 is None:  # those of both sides in one pass
                tables1, *made = runner.tables((x1, rows), *wanted)
                _take(variances[0], rows, tables1)
            else:
                made = runner.tables(*wanted)
            tables2 = made[0] if made else tables1
            if not mirrored and rows.start == 0:
                _take(variances[1], cols, tables2)
            if apart:
                lacking(_run_apart(runner, tables1, tables2, rows, cols, outputs, mirrored, report))
            else:
                lacking(runner.run(tables1, tables2, rows, cols, outputs, mirrored, report))
    lacking(runner.finish())
    if not wide:
        return runner.known
    if runner.dtype == np.float64:
        _further(lowered, engine, x1, x2, wide1, wide2, outputs, spatial)
        return runner.known
    pairs = np.argwhere(wide1[:, None] | wide2)
    lacking((pairs[pairs[:, 0] <= pairs[:, 1]] if mirrored else pairs).tolist())
    return runner.known


def _extreme(lowered: Lowered, x: Images) -> Flags:
    """Which images leave the range of their dtype on the way (extremes.py)."""
    found = np.zeros(x.n, np.bool_)
    dtype = x.arrays[0].dtype.newbyteorder("=")
    if dtype == np.float32 and all(map(is_homogeneous, lowered.program.ops)):  # images are brought to one brightness
        return found
    least, most, matters = limits(lowered, dtype)
    for start in range(0, x.n, _CHUNK):
        part = slice(start, min(x.n, start + _CHUNK))
        for own in x.only(part).arrays:
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
        own1, own2 = (x.only(slice(k, k + 1)) for x, k in ((x1, i), (second, j)))
        same = x2 is None and i == j
        planes = [[None if p is None else p[i : i + 1, j : j + 1] for p in pair] for pair in outputs]
        _reference(lowered, engine, own1, None if same else own2, planes, spatial, lambda pairs: None, np.longdouble)


def _further_alone(
    lowered: Lowered,
    engine: Engine,
    x: Images,
    wide: Flags,
    variances: Variances,
    spatial: Sequence[tuple[int, ...]],
) -> None:
    """Variances that float64 does not hold on the way, likewise."""
    if x.arrays[0].dtype.itemsize < 8 or all(v is None for v in variances):
        return
    for k in np.flatnonzero(wide).tolist():
        own = [None if v is None else v[k : k + 1] for v in variances]
        nothing = [(None, None)] * len(own)
        one = x.only(slice(k, k + 1))
        _reference(lowered, engine, one, None, nothing, spatial, lambda pairs: None, np.longdouble, [own])


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
    """Fill the output planes of each image with itself, (n,) or (n, h, h', w, w', ...)."""
    if x.n == 0:
        return
    outputs = [[None if p is None else p[:, None] for p in pair] for pair in outputs]
    wide = _extreme(lowered, x)

    def reference(k: int, real: Real) -> None:
        planes = [[None if p is None else p[k : k + 1] for p in pair] for pair in outputs]
        one = x.only(slice(k, k + 1))
        _reference(lowered, engine, one, None, planes, spatial, lambda pairs: None, real)

    if isinstance(engine, NumpyEngine):
        for k in range(x.n):
            reference(k, np.longdouble if wide[k] else np.float64)
        return
    runner = _runner(lowered, engine, x)
    _share(budget, 0, [runner], x.n, 0)
    for rows in runner.tiles(x.n, 0):
        (tables,) = runner.tables((x, rows))
        planes = [[None if p is None else p[rows] for p in pair] for pair in outputs]
        runner.alone(tables, planes)
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
        sides = [Images([x[at.tolist()] for x in side.arrays]) for side, at in ((x1, first), (x2, second))]
        tables1, tables2 = runner.tables(*((side, slice(0, side.n)) for side in sides))
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
    spatial: Sequence[tuple[int, ...]], report: Report, real: Real = np.float64, variances: Sequence[Variances] = (),
) -> None:  # fmt: skip
    """By ``numpy_images.py``, whatever the engine; its arrays stay its own."""
    arrays = [[x.reshape(x.shape[0], *s, x.shape[-1]) for x, s in zip(i.arrays, i.spatial, strict=True)]
              for i in (x1, x2) if i is not None]  # fmt: skip
    seen = 0

    def progress(done: int, total: int) -> None:
        nonlocal seen
        report(done - seen)
        seen = done

    sides = (x1, x1 if x2 is None else x2)
    found = image_kernels(
        lowered, arrays[0], arrays[1] if x2 is not None else None, spatial, progress, real, [x.masks for x in sides],
        [x.pattern for x in sides], x1.given,
    )  # fmt: skip
    given = [(plane, value) for planes, result in zip(outputs, found, strict=True)
             for plane, value in zip(planes, (result.nngp, result.ntk), strict=True)]  # fmt: skip
    for side, own in enumerate(variances):
        given += [(v, (r.cov1, r.cov2)[side]) for v, r in zip(own, found, strict=True)]
    with np.errstate(over="ignore"):
        for plane, value in given:
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
