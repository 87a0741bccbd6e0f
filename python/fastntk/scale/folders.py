"""A folder of small files, on this machine or behind a URL; each file is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Folder(ABC):
    """What a journal needs of a file system.

    Attributes
    ----------
    name : str
        For messages.
    """

    name: str

    @abstractmethod
    def make(self) -> None:
        """Make the folder where it is missing."""

    @abstractmethod
    def names(self) -> list[str]:
        """Files in it, sorted; none where it does not exist."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """A file's bytes, None where there is none."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Put a file in place of the old one, whole or not at all."""

    @abstractmethod
    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless there is one; whether it was written."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""


class LocalFolder(Folder):
    """On this machine."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)

    def make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def names(self) -> list[str]:
        try:
            return sorted(p for p in os.listdir(self.path) if not p.endswith(".part"))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content: bytes) -> None:
        beside = self._beside(name)
        try:
            beside.write_bytes(content)
            os.replace(beside, self.path / name)
        finally:
            beside.unlink(missing_ok=True)

    def create(self, name: str, content: bytes) -> bool:
        beside = self._beside(name)
        try:
            beside.write_bytes(content)
            try:
                os.link(beside, self.path / name)  # with its content from the first moment on
            except FileExistsError:
                return False
            except OSError:  # a file system without links
                try:
                    with (self.path / name).open("xb") as file:
                        file.write(content)
                except FileExistsError:
                    return False
            return True
        finally:
            beside.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def _beside(self, name: str) -> Path:
        return self.path / f"{name}.{uuid.uuid4().hex}.part"


class RemoteFolder(Folder):
    """Behind a URL, by fsspec: object stores put whole objects."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        from fsspec.core import url_to_fs

        self._fs, self._path = url_to_fs(url, **options)
        self.name = url

    def make(self) -> None:
        self._fs.makedirs(self._path, exist_ok=True)

    def names(self) -> list[str]:
        self._fs.invalidate_cache(self._path)
        try:
            found = self._fs.ls(self._path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found)

    def read(self, name: str) -> bytes | None:
        try:
            return bytes(self._fs.cat_file(f"{self._path}/{name}"))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        self._fs.pipe_file(f"{self._path}/{name}", content)

    def create(self, name: str, content: bytes) -> bool:
        path = f"{self._path}/{name}"
        try:
            self._fs.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        except (TypeError, NotImplementedError, ValueError):  # one that cannot refuse: looked at before and after
            if self.read(name) is not None:
                return False
            self.write(name, content)
        return self.read(name) == content

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._path}/{name}")
        self._fs.invalidate_cache(self._path)
