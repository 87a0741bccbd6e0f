"""A progress bar on request: tqdm's where it is installed, else one line on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Report(Protocol):
    """Takes the number of pairs done since the last call."""

    def __call__(self, pairs: int, /) -> object: ...


@contextmanager
def bar(total: int, shown: bool) -> Iterator[Report]:
    """Report of pairs done out of ``total``; silent where not ``shown``."""
    if not shown:
        yield lambda pairs: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        done = 0

        def line(pairs: int) -> None:
            nonlocal done
            done += pairs
            print(f"\r{done} of {total} pairs", end="", file=sys.stderr, flush=True)

        try:
            yield line
        finally:
            print(file=sys.stderr)
        return
    with tqdm(total=total, unit="pair") as shown_bar:
        yield shown_bar.update
