"""Blocks on the workers of a Dask cluster. This process hands them out, some ahead, and keeps the journal.

Chunks of the inputs lie on the workers, each once until another worker asks for it, and stay there. Where a worker
ends, its chunks are sent anew and its blocks handed out again.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any

from .errors import StoreError
from .journal import Marks
from .problem import Problem
from .work import Done, Work

_AHEAD = 2  # blocks handed out for each thread of the cluster
_TRIES = 10  # of a block whose inputs or workers were lost
_LOOK = 5.0  # seconds between looks at how many workers there are
_PATIENCE = 90  # seconds for a first worker to appear, and for a connection to come back


def check_client(client: Any, what: str) -> Any:
    """A client of a Dask cluster.

    Raises
    ------
    TypeError
        Anything else, or one for ``await``.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError(f"[{what}] client needs Dask (pip install 'fastntk[dask]')") from error
    if not isinstance(client, Client):
        raise TypeError(f"[{what}] client must be a distributed.Client, given {type(client).__name__}")
    if client.asynchronous:
        raise TypeError(f"[{what}] client is asynchronous: Client(..., asynchronous=False) is waited for")
    return client


class _Parts:
    """Chunks of the inputs as futures, sent when they are first asked for."""

    def __init__(self, client: Any, problem: Problem) -> None:
        self._client, self._problem = client, problem
        self._sent: dict[tuple[int, int], Any] = {}

    def __getitem__(self, key: tuple[int, int]) -> Any:
        if key not in self._sent or self._sent[key].status != "finished":
            axis, index = key
            part = self._problem.side(axis)[self._problem.layout.rows(axis, index)]
            self._sent[key] = self._client.scatter(part, hash=False)
        return self._sent[key]

    def forget(self, key: tuple[int, int]) -> None:
        self._sent.pop(key, None)


def on_client(
    client: Any, problem: Problem, work: Work, pairs: Sequence[tuple[int, int]], marks: Callable[[int, int], Marks]
) -> Iterator[Done]:
    """Blocks as they are done; close the iterator to take back what has been handed out.

    Raises
    ------
    StoreError
        A cluster that is gone, or a block that several workers ended with.
    Exception
        What a block raised.
    """
    from distributed import as_completed

    try:
        client.wait_for_workers(1, timeout=_PATIENCE)
    except (TimeoutError, OSError) as error:
        raise StoreError(f"[gram] no worker of {client!r} in {_PATIENCE} s") from error
    parts = _Parts(client, problem)
    todo, tries = list(reversed(pairs)), dict.fromkeys(pairs, 0)
    active: dict[Any, tuple[int, int]] = {}
    done, threads = as_completed(), _Threads(client)

    def hand_out() -> None:
        row, column = pair = todo[-1]
        diagonal = problem.symmetric and row == column
        try:
            x1 = parts[0, row]
            x2 = None if diagonal else parts[0 if problem.symmetric else 1, column]
        except Exception as error:  # the worker that was to hold it has ended, the scheduler too perhaps
            tries[pair] += 1
            if not _of_the_cluster(error) or tries[pair] >= _TRIES:
                raise
            if (reason := _gone(client)) is not None:
                raise reason from error
            return
        todo.pop()
        key = f"fastntk-block-{row}-{column}-{uuid.uuid4().hex}"
        future = client.submit(work, row, column, x1, x2, marks(row, column), key=key, pure=False)
        active[future] = pair
        done.add(future)

    try:
        while todo or active:
            while todo and len(active) < _AHEAD * threads():
                hand_out()
            future = next(done)
            row, column = pair = active.pop(future)
            found = _result(future)
            if found is not None:
                yield found
                continue
            tries[pair] += 1
            reason = _reason(client, future, pair, tries[pair])
            if reason is not None:
                raise reason
            parts.forget((0, row))
            parts.forget((0 if problem.symmetric else 1, column))
            todo.append(pair)
    finally:
        if client.status == "running":
            with contextlib.suppress(OSError, TimeoutError, CancelledError):  # a cluster that is gone has forgotten
                client.cancel(list(active), force=True)


def _result(future: Any) -> Done | None:
    """What a block gave; None where it failed, or its answer was lost with the worker that held it."""
    if future.status != "finished":
        return None
    try:
        found: Done = future.result()
    except Exception as error:
        if _of_the_cluster(error):
            return None
        raise
    return found


class _Threads:
    """How many blocks the cluster computes at a time: asked for now and then, because workers come and go."""

    def __init__(self, client: Any) -> None:
        self._client, self._known, self._next = client, 1, 0.0

    def __call__(self) -> int:
        if time.monotonic() >= self._next and self._client.status == "running":
            self._next = time.monotonic() + _LOOK
            with contextlib.suppress(OSError, TimeoutError, CancelledError):  # seen where blocks are waited for
                self._known = max(1, sum(self._client.nthreads().values()))
        return self._known


def _of_the_cluster(error: BaseException) -> bool:
    """Whether an error is of what carries blocks and inputs, not of what computes them."""
    return type(error).__module__.split(".")[0] == "distributed" or isinstance(error, (CancelledError, TimeoutError))


def _gone(client: Any) -> StoreError | None:
    """The error of a scheduler that does not come back; a connection that was cut is waited for."""
    deadline = time.monotonic() + _PATIENCE
    while client.status == "connecting" and time.monotonic() < deadline:  # it tries by itself
        time.sleep(0.2)
    if client.status == "running":
        return None
    return StoreError("[gram] the cluster's scheduler is gone; blocks done are kept: run again with a new client")


def _reason(client: Any, future: Any, pair: tuple[int, int], tries: int) -> BaseException | None:
    """Why a block cannot be tried again; None: it can."""
    if (gone := _gone(client)) is not None:
        return gone
    if future.status == "error":
        error: BaseException = future.exception()
        if type(error).__name__ == "KilledWorker":
            return StoreError(
                f"[gram] workers ended with block {pair}, one after the other ({error}): out of memory? Smaller chunks "
                "take less"
            )
        if not _of_the_cluster(error):
            return error
    if tries >= _TRIES:
        return StoreError(f"[gram] block {pair} was lost {tries} times with the workers that held it or its inputs")
    return None
