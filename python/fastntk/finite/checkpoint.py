"""A run in a file: written whole, read without running anything, and only by the run that it is of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ..base.files import write_whole


def _digest(parts: Any, into: Any) -> None:
    """Of nested values, arrays by their bytes."""
    if isinstance(parts, np.ndarray):
        into.update(f"{parts.dtype} {parts.shape}".encode())
        into.update(np.ascontiguousarray(parts).tobytes())
    elif isinstance(parts, (tuple, list)):
        into.update(f"({len(parts)}".encode())
        for part in parts:
            _digest(part, into)
    else:
        into.update(repr(parts).encode())


class Checkpoint:
    """The file of a run, or none."""

    def __init__(self, path: Any, description: Any, what: str) -> None:
        self._path = None if path is None else Path(path)
        self._what = what
        if self._path is None:
            return
        if not self._path.parent.is_dir():
            raise ValueError(f"[{what}] path {self._path}: its folder does not exist")
        if self._path.exists() and not self._path.is_file():
            raise ValueError(f"[{what}] path {self._path} is no regular file")
        seen = hashlib.sha256()
        _digest(description, seen)
        self._run = seen.hexdigest()

    def write(self, state: Mapping[str, Any]) -> None:
        if self._path is None:
            return
        import torch

        content = BytesIO()
        torch.save({**state, "run": self._run}, content)
        write_whole(self._path, content.getvalue())

    def read(self, torch: Any, model: Any) -> Any:
        """The state, or None where there is no file.

        Raises
        ------
        ValueError
            A file of another run, or of another kind.
        """
        if self._path is None or not self._path.exists():
            return None
        try:
            held = torch.load(self._path, map_location="cpu", weights_only=True)
            run, leaves = held["run"], held["leaves"]
        except Exception as error:  # of any bytes
            raise ValueError(f"[{self._what}] {self._path} is no file of a run ({type(error).__name__})") from None
        if run != self._run or [tuple(v.shape) for v in leaves] != [tuple(v.shape) for v in model.leaves]:
            raise ValueError(f"[{self._what}] {self._path} holds a run on other samples, or with other options")
        return held
