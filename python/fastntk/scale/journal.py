"""What a store says of itself: which kernel it holds, and which blocks are there, each with a checksum.

A block counts once its line stands in the journal, which is written after the block. Lines lie in files of some
hundred, each replaced whole when a line is added; a run begins a file of its own. What cannot be read is no line.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import StoreError, StoreMismatchError
from .folders import Folder

Key = tuple[str, int, int]  # field, row and column of a block
Marks = dict[Key, int]  # checksums

MANIFEST = "manifest.json"
FORMAT = 1
_LINES = 512  # of a file
_LINE = re.compile(r"(\w+) (\d+) (\d+) ([0-9a-f]{8})")
_FILE = re.compile(r"blocks-(\d+)\.txt")


def checksum(block: npt.NDArray[Any]) -> int:
    """Of a block's bytes in C order."""
    content: Any = np.ascontiguousarray(block).reshape(-1).view(np.uint8)
    return zlib.crc32(content)


class Journal:
    """The journal of one store.

    Parameters
    ----------
    folder : Folder
    store, what : str
        For messages.
    """

    def __init__(self, folder: Folder, store: str, what: str) -> None:
        self.folder, self._store, self._what = folder, store, what
        self._number = 0
        self._lines: list[str] = []

    def manifest(self) -> dict[str, Any] | None:
        """What the store was begun with; None where it has not been.

        Raises
        ------
        StoreError
            Unreadable, or of another format.
        """
        text = self.folder.read(MANIFEST)
        if text is None:
            return None
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise StoreError(
                f"[{self._what}] {self._store}: {self.folder.name}/{MANIFEST} is damaged, or of another format"
            )
        return found

    def begin(self, manifest: Mapping[str, Any]) -> None:
        """Say what the store holds, before its first block."""
        self.folder.write(MANIFEST, (json.dumps({"format": FORMAT, **manifest}, indent=1) + "\n").encode())

    def check(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Raise unless the store holds what is asked for.

        Raises
        ------
        StoreMismatchError
            With all that differs.
        """
        differing = [name for name in wanted if found.get(name) != wanted[name]]
        if differing:
            said = differing if differing == ["program"] else [name for name in differing if name != "program"]
            lines = (f"{name}: {found.get(name)!r} in the store, {wanted[name]!r} asked for" for name in said)
            raise StoreMismatchError(
                f"[{self._what}] {self._store} holds another kernel, and is left as it is. {'; '.join(lines)}",
                tuple(said),
            )

    def marks(self) -> Marks:
        """Blocks that are there, by the journal; the last line counts."""
        found: Marks = {}
        for number, name in self._files():
            self._number = max(self._number, number + 1)
            text = (self.folder.read(name) or b"").decode("ascii", "replace")
            for line in text.splitlines():
                if match := _LINE.fullmatch(line):
                    field, row, column, crc = match.groups()
                    found[field, int(row), int(column)] = int(crc, 16)
        return found

    def _files(self) -> list[tuple[int, str]]:
        found = ((_FILE.fullmatch(name), name) for name in self.folder.names())
        return sorted((int(match[1]), name) for match, name in found if match)

    def add(self, marks: Mapping[Key, int]) -> None:
        """Take note of blocks that have been written. :meth:`marks` is asked for first, once a run."""
        self._lines += (f"{field} {row} {column} {crc:08x}" for (field, row, column), crc in marks.items())
        self.folder.write(f"blocks-{self._number:06d}.txt", ("\n".join(self._lines) + "\n").encode())
        if len(self._lines) >= _LINES:
            self._number, self._lines = self._number + 1, []


def missing(keys: Iterable[Key], marks: Marks) -> list[Key]:
    """Those of the keys without a mark."""
    return [key for key in keys if key not in marks]
