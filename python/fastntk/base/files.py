"""Users' files: archives of arrays, looked at before they are read, and outputs that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from .options import available_memory

_ROOM = 2**22  # bytes that a disk must have left before work starts; pictures are below 1 MiB
_HEADER = 10_000  # bytes of an array's header, of which NumPy takes no more either
_WIDTHS = 3  # times the bytes of an array that its use takes, at least 8 bytes an entry


def read_npz(path: Path, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Arrays of an ``.npz`` archive, without unpickling anything.

    Sizes are taken from the arrays' headers before anything of that size is made.

    Parameters
    ----------
    path : pathlib.Path
    names : sequence of str

    Returns
    -------
    dict of str to numpy.ndarray

    Raises
    ------
    ValueError
        In one sentence that begins with the path: no such file, or not a regular one; not an archive; arrays that are
        missing, encrypted, damaged, hold Python objects, or are larger than memory.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    try:
        if path.is_dir() or not path.is_file():  # a pipe would be waited for
            raise ValueError("it is a folder" if path.is_dir() else "it is no regular file")
        with path.open("rb") as file:
            start = file.read(len(npy.MAGIC_PREFIX))
            if start == npy.MAGIC_PREFIX:
                raise ValueError("it is a single array")
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no zip archive")
            with zipfile.ZipFile(file) as archive:
                members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                if absent := [name for name in names if name not in members]:
                    held = ", ".join(list(members)[:10]) or "nothing"
                    raise _Absent(f"no array {' and '.join(absent)} in it; it holds {held}")
                return _arrays(archive, {name: members[name] for name in names})
    except _Absent as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # of zipfile, of its decompressors, of the parser of headers
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ValueError(
            f"{path}: not a readable .npz archive of plain arrays ({reason}); "
            f"numpy.savez(path, {', '.join(f'{name}={name}' for name in names)}) writes one"
        ) from None


class _Absent(Exception):
    """An archive without what was asked for."""


def _arrays(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> dict[str, npt.NDArray[Any]]:
    needed = 0
    for name, info in members.items():
        if info.flag_bits & 1:
            raise ValueError(f"{name} is encrypted")
        with archive.open(info) as member:
            shape, dtype = _header(member, name)
        size = prod(shape)
        if info.file_size < size * dtype.itemsize:
            raise ValueError(f"{name} is cut short: {info.file_size} bytes of an array {shape} of {dtype}")
        needed += _WIDTHS * size * max(dtype.itemsize, 8)
    if (there := available_memory()) is not None and needed > there:
        raise ValueError(f"its arrays take {needed / 2**30:.3g} GiB to work with, {there / 2**30:.3g} GiB are free")
    found = {}
    for name, info in members.items():
        with archive.open(info) as member:
            found[name] = npy.read_array(member, allow_pickle=False)
            if member.read(1):  # the end, where the sum of the bytes is checked
                raise ValueError(f"{name} has more bytes than its header says")
    return found


def _header(member: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    if member.read(len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
        raise ValueError(f"{name} is no array")
    version = tuple(member.read(2))
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} is no array of numbers or strings")
    length = int.from_bytes(member.read(2 * version[0]), "little")
    if length > _HEADER:
        raise ValueError(f"{name} has a header of {length} bytes")
    member.seek(len(npy.MAGIC_PREFIX) + 2)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(member)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if any(n < 0 for n in shape):
        raise ValueError(f"{name} has the shape {shape}")
    return shape, dtype


def check_output(option: str, path: Path, endings: Sequence[str]) -> None:
    """Raise ValueError where a file cannot be written, as far as that can be known before work."""
    if path.suffix.lower() not in endings:
        raise ValueError(f"{option} must end in {', '.join(endings)}, given {path}")
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{option} {path}: {'a folder' if path.is_dir() else 'its folder does not exist'}")
    if path.exists() and not path.is_file():
        raise ValueError(f"{option} {path}: not a regular file")
    folder = path.resolve().parent
    if not os.access(path if path.exists() else folder, os.W_OK) or not os.access(folder, os.W_OK):
        raise ValueError(f"{option} {path}: no permission to write")
    if shutil.disk_usage(folder).free < _ROOM:
        raise ValueError(f"{option} {path}: the disk is full")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a reader never sees half of it, and what was there stays if this fails."""
    target = path.resolve()
    beside = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(content)
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def printable(text: str) -> str:
    """Text that a terminal and a picture take: one line, without control characters or halves of characters."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)
