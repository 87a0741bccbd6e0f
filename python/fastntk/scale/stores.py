"""Gram matrices in stores, block by block: what was computed stays, whatever ends the work."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..base.arraylike import describe
from ..base.progress import bar
from ..call.results import named as named_tuple
from .cluster import check_client, on_client
from .errors import StoreError, StoreMismatchError, UnfinishedError, named
from .folders import LocalFolder
from .journal import Journal, Key, Marks, missing
from .lock import locked
from .problem import Problem, problem_of, threads
from .targets import FIELDS, Layout, MemmapTarget, Target, ZarrTarget, import_zarr, local_path, target_of, zarr_journal
from .work import Done, Work, agrees


def gram(
    kernel_fn: Any, x: Any, store: Any, get: str | Sequence[str] = ("nngp", "ntk"), x2: Any = None, *,
    chunks: int | tuple[int, int] | None = None, client: Any = None, progress: bool = True, verify: bool = True,
    backend: str | None = None, num_threads: int | None = None, storage_options: Mapping[str, Any] | None = None,
) -> Any:  # fmt: skip
    """Write kernels into a store, block by block; run again after any interruption, compute what is missing.

    Each block is there whole or not at all: it counts once its checksum stands in the store's journal, which is
    written after it. Blocks on one side of the diagonal of a symmetric matrix are computed, the others mirrored. The
    result has the same bits however often the work was interrupted, and with backend 'cpu' those of
    ``kernel_fn(x, x2, get)``.

    Parameters
    ----------
    kernel_fn : KernelFn
        Of a network with one input, one output and no positions left.
    x : numpy.ndarray (n, d) or (n, h, w, c)
        float32 or float64, in host memory; samples on the first axis.
    store : str, path, numpy.memmap or tuple of numpy.memmap
        Of a Zarr group, on this machine or a URL of fsspec ("s3://..."), with an array for each name in ``get``, whose
        chunks are the blocks. A path that ends in ``.npy``: one plain array. Or memmaps of the result's shape and
        dtype, in the order of ``get``. Behind these two the journal is a folder beside the first file.
    get : 'nngp', 'ntk' or a tuple of both
    x2 : numpy.ndarray, optional
        As x, m samples. None: x again.
    chunks : int or tuple of int, optional
        Rows and columns of a block; a worker holds two of them for each array, and what is lost with it is one. None:
        4,032 at most, of images as many as take about five minutes of one core.
    client : distributed.Client, optional
        Of a Dask cluster whose workers see the store. None: this process computes.
    progress : bool
        Show blocks done.
    verify : bool
        Read blocks that are there, and compute again those whose checksum is another.
    backend : optional
        As for :func:`fastntk.options`. With the instruction set that is in use here it holds for all workers.
    num_threads : int, optional
        Of one block. None: with a client 1, else as for :func:`fastntk.options`.
    storage_options : dict, optional
        Of fsspec, for a URL.

    Returns
    -------
    zarr.Array or numpy.memmap (n, m), to be read; a named tuple of them for a tuple

    Raises
    ------
    TypeError, ValueError
        As ``kernel_fn``; inputs in parts or on a device, networks with several outputs or positions, another ``get``.
    StoreMismatchError
        A store of another network, get, dtype, inputs, chunks, backend or version of fastntk, with what differs. It is
        left as it is.
    StoreLockedError
        A store that another process writes to. One that has ended on this machine does not count.
    StoreError
        A store that is something else; workers or a scheduler that are gone.
    OSError, PermissionError
        A full disk, before work where that can be known; a path that cannot be written to. Blocks done are kept.

    Notes
    -----
    What a killed process was about to write is computed again, what it had written without a mark too. Marks are
    believed where the block has their checksum (CRC-32), so that neither a full disk nor a machine that went off is
    taken for a result.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from fastntk import scale, stax
    >>> net = stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1))
    >>> x = np.random.default_rng(0).standard_normal((300, 8))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     k = scale.gram(net.kernel_fn, x, f"{folder}/k.npy", "ntk", chunks=128, progress=False)
    ...     bool((k == net.kernel_fn(x, None, "ntk")).all())
    True
    """
    what = "gram"
    problem = problem_of(kernel_fn, x, x2, get, chunks, backend, what)
    target = target_of(store, problem.layout, storage_options, problem.several, what)
    if client is not None:
        check_client(client, what)
    work = Work(
        problem.kernel_fn, problem.layout.fields, problem.symmetric, target, problem.backend, problem.isa,
        threads(num_threads, client is not None),
    )  # fmt: skip
    journal = Journal(target.folder(), target.name, what)
    with named(what, target.name, "the journal is not written"):
        _refuse_strangers(target, journal, what)
        journal.folder.make()
        with locked(journal.folder, target.name, what):
            _begin(journal, target, problem, what)
            _fill(journal, target, problem, work, client, progress, verify)
    return _given(target, problem.several)


def _refuse_strangers(target: Target, journal: Journal, what: str) -> None:
    """Raise where there is something without a journal: it was not begun here, and is not written to."""
    if journal.manifest() is not None:
        return
    if isinstance(target, ZarrTarget):
        path = local_path(target.name)
        for other in FIELDS:
            if other != target.layout.fields[0]:
                held = Journal(zarr_journal(target.name, target.options, other), target.name, what).manifest()
                if held is not None:
                    raise StoreMismatchError(
                        f"[{what}] {target.name} holds another kernel, and is left as it is. get: {held['get']} in the "
                        f"store, {list(target.layout.fields)} asked for",
                        ("get",),
                    )
        taken = path is not None and path.exists() and not path.is_dir()
        if taken or (path is not None and path.is_dir() and not _ours(path, target.layout.fields[0])):
            raise StoreError(f"[{what}] {target.name} exists, and was not begun by fastntk.scale.gram")
    elif isinstance(target, MemmapTarget) and target.offsets is None and os.path.exists(target.paths[0]):
        raise StoreError(f"[{what}] {target.name} exists, and has no journal beside it: give a new file")


def _ours(path: Any, first: str) -> bool:
    """Whether a folder is empty, or what a process left that was killed before it said what the store holds."""
    return {p.name for p in path.iterdir()} <= {first, "zarr.json"} and not (path / first / "zarr.json").exists()


def _begin(journal: Journal, target: Target, problem: Problem, what: str) -> None:
    """See that the store is of this kernel, and make its arrays."""
    wanted = problem.fingerprint()
    found = journal.manifest()
    if found is None:
        _check_room(target, target.layout.bytes, what)
        journal.begin({**wanted, "shape": list(problem.layout.shape), "symmetric": problem.symmetric})
    else:
        journal.check(found, wanted)
    target.make()


def _check_room(target: Target, needed: int, what: str) -> None:
    room = target.room()
    if room is not None and needed > room:
        raise OSError(
            errno.ENOSPC,
            f"[{what}] {target.name}: {needed / 2**30:.4g} GiB are to be written, {room / 2**30:.4g} GiB are free",
        )


def _fill(
    journal: Journal, target: Target, problem: Problem, work: Work, client: Any, progress: bool, verify: bool
) -> None:
    marks = journal.marks()
    pairs = problem.pairs()
    absent = [pair for pair in pairs if missing(work.keys(*pair), marks)]
    if absent and marks:
        target.tidy()
    # New first: blocks without a mark are what a run is for.
    kept = set(pairs) - set(absent)
    todo = absent + [pair for pair in pairs if pair in kept and verify]

    def of(row: int, column: int) -> Marks:
        return {key: marks[key] for key in work.keys(row, column) if key in marks} if (row, column) in kept else {}

    made = _here(problem, work, todo, of) if client is None else on_client(client, problem, work, todo, of)
    with bar(len(pairs), progress, "block") as report, contextlib.closing(made):
        report(len(pairs) - len(todo))
        for done in made:
            if done.marks:
                journal.add(done.marks)
            report(1)


def _here(problem: Problem, work: Work, pairs: Sequence[tuple[int, int]], of: Any) -> Generator[Done, None, None]:
    for row, column in pairs:
        x1 = problem.x1[problem.layout.rows(0, row)]
        same = problem.symmetric and row == column
        x2 = None if same else problem.side(1)[problem.layout.rows(1, column)]
        yield work(row, column, of(row, column), x1, x2)


def _given(target: Target, several: bool) -> Any:
    arrays = [target.array(name) for name in target.layout.fields]
    return named_tuple(target.layout.fields)(*arrays) if several else arrays[0]


# ---------------------------------------------------------------- stores that are there


@dataclass(frozen=True)
class StoreReport:
    """What :func:`verify` found.

    Attributes
    ----------
    blocks : int
        Of a finished store, mirror images included.
    missing, damaged : tuple of (name, row, column)
        Blocks without a mark, and those that are not as they were left.
    manifest : dict
        What the store holds: network, get, dtype, digests of the inputs, chunks, backend, version of fastntk.
    """

    blocks: int
    missing: tuple[Key, ...]
    damaged: tuple[Key, ...]
    manifest: dict[str, Any]

    @property
    def complete(self) -> bool:
        return not self.missing and not self.damaged


def verify(store: Any, *, progress: bool = False, storage_options: Mapping[str, Any] | None = None) -> StoreReport:
    """Read every block of a store that :func:`gram` writes, and compare its checksum.

    Parameters
    ----------
    store : str or path
        Of a Zarr group or an ``.npy`` file.
    progress : bool
        Show blocks read.
    storage_options : dict, optional
        Of fsspec, for a URL.

    Returns
    -------
    StoreReport

    Raises
    ------
    StoreError
        No store of :func:`gram`.
    """
    target, manifest, marks = _found(store, storage_options, "verify")
    keys = _keys(target.layout)
    damaged = []
    with bar(len(keys), progress, "block") as report:
        for key in keys:
            if key in marks and not agrees(target, key, marks[key]):
                damaged.append(key)
            report(1)
    return StoreReport(len(keys), tuple(missing(keys, marks)), tuple(damaged), manifest)


def load(store: Any, *, storage_options: Mapping[str, Any] | None = None) -> Any:
    """The arrays of a finished store, to be read, as :func:`gram` returns them.

    Parameters
    ----------
    store, storage_options
        As for :func:`verify`; checksums are not compared.

    Returns
    -------
    zarr.Array or numpy.memmap (n, m); a named tuple of them where the store holds several

    Raises
    ------
    StoreError
        No store of :func:`gram`.
    UnfinishedError
        One whose blocks are not all there.
    """
    target, _, marks = _found(store, storage_options, "load")
    return _loaded(target, marks, "load")


def _loaded(target: Target, marks: Marks, what: str) -> Any:
    keys = _keys(target.layout)
    absent = missing(keys, marks)
    if absent:
        raise UnfinishedError(
            f"[{what}] {target.name}: {len(absent)} of {len(keys)} blocks are missing; gram with the same arguments "
            "computes them"
        )
    return _given(target, len(target.layout.fields) > 1)


def _keys(layout: Layout) -> list[Key]:
    return [(name, *pair) for name in layout.fields for pair in layout.pairs(False)]


def _found(store: Any, storage_options: Mapping[str, Any] | None, what: str) -> tuple[Target, dict[str, Any], Marks]:
    """A store by its name alone."""
    if not isinstance(store, (str, os.PathLike)):
        raise TypeError(f"[{what}] store must be a path or a URL, given {describe(store)}")
    name = str(os.fspath(store))
    options = dict(storage_options or {})
    memmap = name.endswith(".npy")
    folders: list[Any] = (
        [LocalFolder(local_path(f"{name}.journal") or local_path("."))]  # type: ignore[arg-type]
        if memmap
        else [zarr_journal(name, options, first) for first in FIELDS]
    )
    for folder in folders:
        journal = Journal(folder, name, what)
        manifest = journal.manifest()
        if manifest is None:
            continue
        layout = Layout(tuple(manifest["get"]), tuple(manifest["shape"]), manifest["dtype"], tuple(manifest["chunks"]))
        if memmap:
            return MemmapTarget(name, layout, (str(local_path(name)),), None), manifest, journal.marks()
        import_zarr(what)
        return ZarrTarget(name, layout, options), manifest, journal.marks()
    raise StoreError(f"[{what}] {name} is no store that fastntk.scale.gram has begun")
