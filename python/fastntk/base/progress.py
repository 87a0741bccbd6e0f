"""A progress bar on request: tqdm's where it is installed, else one line on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Report(Protocol):
    """Takes what was done since the last call, in units of the bar."""

    def __call__(self, done: int, /) -> object: ...


class Bar(Report, Protocol):
    """A :class:`Report` that can count the same total several times."""

    def again(self, text: str, /) -> None:
        """Begin the count anew, under this description."""


class _Silent:
    def __call__(self, done: int, /) -> None:
        pass

    def again(self, text: str, /) -> None:
        pass


class _Line:
    def __init__(self, total: int, unit: str) -> None:
        self._total, self._unit, self._done, self._text = total, unit, 0, ""

    def __call__(self, done: int, /) -> None:
        self._done += done
        print(f"\r{self._text}{self._done} of {self._total} {self._unit}s", end="", file=sys.stderr, flush=True)

    def again(self, text: str, /) -> None:
        self._done, self._text = 0, f"{text}: "


class _Tqdm:
    def __init__(self, shown: Any) -> None:
        self._shown = shown

    def __call__(self, done: int, /) -> None:
        self._shown.update(done)

    def again(self, text: str, /) -> None:
        self._shown.reset()
        self._shown.set_description(text)


@contextmanager
def bar(total: int, shown: bool, unit: str = "pair") -> Iterator[Bar]:
    """Report of what is done out of ``total``; silent where not ``shown``."""
    if not shown:
        yield _Silent()
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        try:
            yield _Line(total, unit)
        finally:
            print(file=sys.stderr)
        return
    with tqdm(total=total, unit=unit) as shown_bar:
        yield _Tqdm(shown_bar)
