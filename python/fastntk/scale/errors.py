"""Errors of stores: another kernel in it, another writer at it, a disk that takes no more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class StoreError(RuntimeError):
    """A store that cannot be used as it is; nothing in it was changed."""


class StoreMismatchError(StoreError, ValueError):
    """A store that holds another kernel than the one asked for.

    Attributes
    ----------
    differing : tuple of str
        What differs: 'network', 'dtype', 'x1', ...
    """

    def __init__(self, message: str, differing: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.differing = differing

    def __reduce__(self) -> Any:
        return type(self), (str(self), self.differing)


class StoreLockedError(StoreError):
    """A store that another process is writing to, or may be."""


class UnfinishedError(StoreError):
    """A store whose blocks are not all there."""


@contextmanager
def named(what: str, store: str, doing: str) -> Iterator[None]:
    """An error of the system, with the store and what was being done in its words; its kind and number stay."""
    try:
        yield
    except OSError as error:
        if error.errno is None or str(error.strerror).startswith(f"[{what}]"):  # named already, further in
            raise
        raise OSError(error.errno, f"[{what}] {store}: {doing}: {error.strerror}") from error
