"""Where blocks go: arrays of a Zarr group, or ``numpy.memmap``; opened by whoever writes, wherever that is."""

from __future__ import annotations

import mmap
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

import numpy as np
import numpy.typing as npt

from ..base.arraylike import describe
from .errors import StoreError
from .folders import Folder, LocalFolder, RemoteFolder

Array = npt.NDArray[Any]

FIELDS = ("nngp", "ntk")
_JOURNAL = ".fastntk"


@dataclass(frozen=True)
class Layout:
    """Shape, dtype and blocks of each of a store's arrays."""

    fields: tuple[str, ...]
    shape: tuple[int, int]
    dtype: str
    chunks: tuple[int, int]

    @property
    def bytes(self) -> int:
        return len(self.fields) * self.shape[0] * self.shape[1] * np.dtype(self.dtype).itemsize

    def rows(self, axis: int, index: int) -> slice:
        """Rows or columns of the block of this number."""
        start = index * self.chunks[axis]
        return slice(start, min(start + self.chunks[axis], self.shape[axis]))

    def count(self, axis: int) -> int:
        """Blocks along an axis."""
        return -(-self.shape[axis] // self.chunks[axis])

    def pairs(self, symmetric: bool) -> list[tuple[int, int]]:
        """Blocks that are computed: of a symmetric matrix those on and above the diagonal."""
        return [(i, j) for i in range(self.count(0)) for j in range(i if symmetric else 0, self.count(1))]


class Target(ABC):
    """Arrays by their names, block by block. It travels to workers, which open the arrays themselves."""

    name: str  # for messages
    layout: Layout

    @abstractmethod
    def folder(self) -> Folder:
        """Where the journal lies."""

    @abstractmethod
    def make(self) -> None:
        """Make the arrays, with room for all blocks."""

    @abstractmethod
    def array(self, name: str, writable: bool = False) -> Any:
        """One of the arrays."""

    def block(self, name: str, row: int, column: int) -> Array:
        """A block as it lies there."""
        found = self.array(name)[self.layout.rows(0, row), self.layout.rows(1, column)]
        return np.asarray(found)

    def put(self, name: str, row: int, column: int, block: Array) -> None:
        """Write a block."""
        self.array(name, True)[self.layout.rows(0, row), self.layout.rows(1, column)] = block

    def room(self) -> int | None:
        """Free bytes; None where that cannot be known."""
        return None

    def tidy(self) -> None:  # noqa: B027 - most leave nothing
        """Remove what writers left that were killed."""


# ---------------------------------------------------------------- Zarr


def import_zarr(what: str) -> Any:
    """Zarr.

    Raises
    ------
    ImportError
        Where it is not installed, or of version 2.
    """
    try:
        import zarr
    except ImportError as error:
        raise ImportError(f"[{what}] stores need Zarr 3 (pip install 'fastntk[dask]')") from error
    if int(zarr.__version__.split(".")[0]) < 3:
        raise ImportError(f"[{what}] stores need Zarr 3, installed is {zarr.__version__}")
    return zarr


@dataclass
class ZarrTarget(Target):
    """A Zarr group, at a path or behind a URL of fsspec; its chunks are the blocks, without compression."""

    name: str
    layout: Layout
    options: Mapping[str, Any] = field(default_factory=dict)
    _open: dict[tuple[str, bool], Any] = field(default_factory=dict, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    @property
    def _store(self) -> dict[str, Any]:
        path = local_path(self.name)
        if path is not None:
            return {"store": str(path)}
        return {"store": self.name, "storage_options": dict(self.options)}

    def folder(self) -> Folder:
        return zarr_journal(self.name, self.options, self.layout.fields[0])

    def make(self) -> None:
        zarr = import_zarr("gram")
        group = zarr.open_group(mode="a", **self._store)
        for name in self.layout.fields:
            if name not in group:
                group.create_array(
                    name, shape=self.layout.shape, chunks=self.layout.chunks, dtype=self.layout.dtype,
                    compressors=None, filters=None, fill_value=np.nan,
                )  # fmt: skip

    def array(self, name: str, writable: bool = False) -> Any:
        key = (name, writable)
        if key not in self._open:
            zarr = import_zarr("gram")
            found = zarr.open_array(path=name, mode="r+" if writable else "r", **self._store)
            # Blocks of NaN alone would be left out: they are no less computed.
            self._open[key] = found.with_config({"write_empty_chunks": True})
        return self._open[key]

    def room(self) -> int | None:
        path = local_path(self.name)
        return None if path is None else free_bytes(path)

    def tidy(self) -> None:
        path = local_path(self.name)
        for name in self.layout.fields if path is not None else ():
            for part in Path(path or "", name).rglob("*.partial"):  # as Zarr calls a chunk that it has not yet renamed
                part.unlink(missing_ok=True)


def zarr_journal(name: str, options: Mapping[str, Any], first: str) -> Folder:
    """The journal of a group, beside the chunks of its first array: Zarr lists groups, and no arrays."""
    path = local_path(name)
    if path is not None:
        return LocalFolder(path / first / _JOURNAL)
    return RemoteFolder(f"{name.rstrip('/')}/{first}/{_JOURNAL}", options)


def local_path(name: str) -> Path | None:
    """Of a path, or of a ``file://`` URL; None for other URLs."""
    if name.startswith("file://"):
        return Path(url2pathname(name.removeprefix("file://")))
    return None if "://" in name else Path(name)


def free_bytes(path: Path) -> int:
    """Of the disk that a path is on, or will be."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


# ---------------------------------------------------------------- memmaps


@dataclass
class MemmapTarget(Target):
    """Plain arrays in files: ``numpy.memmap``, or ``.npy``; the journal is a folder beside the first."""

    name: str
    layout: Layout
    paths: tuple[str, ...]
    offsets: tuple[int, ...] | None  # None: files .npy, made here
    _open: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def folder(self) -> Folder:
        return LocalFolder(Path(f"{self.paths[0]}.journal"))

    def make(self) -> None:
        for path in self.paths:
            if self.offsets is None and not os.path.exists(path):
                part = f"{path}.{os.getpid()}.part"  # a header cut short would be nobody's
                np.lib.format.open_memmap(part, "w+", np.dtype(self.layout.dtype), self.layout.shape).flush()
                os.replace(part, path)
            with open(path, "r+b") as file:  # a mapping of a full disk kills the process when it is written to
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)

    def array(self, name: str, writable: bool = False) -> Any:
        if name not in self._open:
            index = self.layout.fields.index(name)
            mode: Any = "r+" if os.access(self.paths[index], os.W_OK) else "r"
            if self.offsets is None:
                found = np.lib.format.open_memmap(self.paths[index], mode)
            else:
                dtype, shape = np.dtype(self.layout.dtype), self.layout.shape
                found = np.memmap(self.paths[index], dtype, mode, self.offsets[index], shape)
            if found.shape != self.layout.shape or found.dtype != np.dtype(self.layout.dtype):
                raise StoreError(
                    f"[gram] {self.paths[index]} holds {found.shape} {found.dtype}, expected {self.layout.shape} "
                    f"{self.layout.dtype}"
                )
            self._open[name] = found
        return self._open[name]

    def room(self) -> int | None:
        return free_bytes(Path(self.paths[0])) if self.offsets is None else None


def _memmap(x: Any, layout: Layout, what: str) -> tuple[str, int]:
    """File and offset of a whole, writable memmap of the result's shape and dtype."""
    if not isinstance(x, np.memmap):
        raise TypeError(f"[{what}] store must be a path, a URL or numpy.memmap, given {describe(x)}")
    if x.dtype != np.dtype(layout.dtype) or x.shape != layout.shape:
        raise ValueError(f"[{what}] store must be {layout.shape} {layout.dtype}, given a memmap of {x.shape} {x.dtype}")
    if x.filename is None or not isinstance(x.base, mmap.mmap) or not x.flags.c_contiguous:
        raise ValueError(f"[{what}] store must be a whole memmap in C order, given a part or a view of one")
    if not x.flags.writeable or x.mode == "c":
        raise ValueError(f"[{what}] store is a memmap of mode {x.mode!r}: 'r+' or 'w+' is written to")
    return str(x.filename), int(x.offset)


def target_of(store: Any, layout: Layout, options: Mapping[str, Any] | None, several: bool, what: str) -> Target:
    """Where a user's ``store`` is.

    Raises
    ------
    TypeError, ValueError
        Something else than a path, a URL, or one memmap for each array asked for.
    """
    if isinstance(store, (str, os.PathLike)):
        name = os.fspath(store)
        if not isinstance(name, str) or not name:
            raise TypeError(f"[{what}] store must be a path or a URL, given {store!r}")
        if not name.endswith(".npy"):
            import_zarr(what)
            return ZarrTarget(name, layout, dict(options or {}))
        if several:
            raise ValueError(f"[{what}] store {name} holds one array, get asks for {layout.fields}: a Zarr store does")
        if local_path(name) is None:
            raise ValueError(f"[{what}] store {name}: .npy files are written on this machine only; give a Zarr store")
        return MemmapTarget(name, layout, (str(local_path(name)),), None)
    given = store if isinstance(store, (tuple, list)) and several else (store,)
    if len(given) != len(layout.fields):
        raise TypeError(f"[{what}] store must be {len(layout.fields)} memmaps, in the order of get, given {len(given)}")
    found = [_memmap(x, layout, what) for x in given]
    paths: Sequence[str] = [os.path.abspath(path) for path, _ in found]
    if len(set(found)) < len(found):
        raise ValueError(f"[{what}] store names the same memmap twice")
    return MemmapTarget(paths[0], layout, tuple(paths), tuple(offset for _, offset in found))
