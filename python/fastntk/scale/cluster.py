"""Blocks on the workers of a Dask cluster. This process hands them out, some ahead, and keeps the journal.

Chunks of the inputs lie on the workers, each once until another worker asks for it, and stay there. Where a worker
ends, its chunks are sent anew and its blocks handed out again.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError
from typing import Any, Protocol

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


class Sent:
    """Arrays on the workers, by names; sent when they are first asked for, and anew where they were lost.

    An array goes to one worker, and from there to those that ask. Dask's ``broadcast=True`` sends it to all at once,
    but never returns where one of them ends meanwhile: it waits for a copy there.

    Parameters
    ----------
    make : callable
        The array of a name.
    """

    def __init__(self, client: Any, make: Callable[[Any], Any]) -> None:
        self._client, self._make = client, make
        self._sent: dict[Any, Any] = {}

    def __getitem__(self, name: Any) -> Any:
        if name not in self._sent or self._sent[name].status != "finished":
            self._sent[name] = self._client.scatter(self._make(name), hash=False)
        return self._sent[name]

    def forget(self, name: Any) -> None:
        self._sent.pop(name, None)


class Jobs(Protocol):
    """What is to be done on workers."""

    def names(self, job: Any) -> tuple[Any, ...]:
        """Arrays that a job takes, as :class:`Sent` knows them."""

    def call(self, job: Any) -> tuple[Any, ...]:
        """A function, and what it takes before the arrays."""


def run_jobs(
    client: Any, jobs: Sequence[Any], of: Jobs, sent: Sent, what: str
) -> Generator[tuple[Any, Any], None, None]:
    """``(job, result)`` as they are done; close the iterator to take back what has been handed out.

    Raises
    ------
    StoreError
        A cluster that is gone, or a job that several workers ended with.
    Exception
        What a job raised.
    """
    from distributed import as_completed

    try:
        client.wait_for_workers(1, timeout=_PATIENCE)
    except (TimeoutError, OSError) as error:
        raise StoreError(f"[{what}] no worker of {client!r} in {_PATIENCE} s") from error
    todo, tries = list(reversed(jobs)), dict.fromkeys(jobs, 0)
    active: dict[Any, Any] = {}
    done, threads = as_completed(), _Threads(client)

    def hand_out() -> None:
        job = todo[-1]
        try:
            arrays = [sent[name] for name in of.names(job)]
        except Exception as error:  # the worker that was to hold it has ended, the scheduler too perhaps
            tries[job] += 1
            unreached = isinstance(error, OSError) and client.status != "running"
            if not (unreached or _of_the_cluster(error)) or tries[job] >= _TRIES:
                raise
            if (reason := _gone(client, what)) is not None:
                raise reason from error
            return
        todo.pop()
        function, *given = of.call(job)
        future = client.submit(function, *given, *arrays, key=f"fastntk-{what}-{uuid.uuid4().hex}", pure=False)
        active[future] = job
        done.add(future)

    try:
        while todo or active:
            while todo and len(active) < _AHEAD * threads():
                hand_out()
            if not active:
                continue
            future = next(done)
            job = active.pop(future)
            found = _result(future)
            if found is not None:
                yield job, found
                continue
            tries[job] += 1
            reason = _reason(client, future, job, tries[job], what)
            if reason is not None:
                raise reason
            for name in of.names(job):
                sent.forget(name)
            todo.append(job)
    finally:
        if client.status == "running":
            with contextlib.suppress(OSError, TimeoutError, CancelledError):  # a cluster that is gone has forgotten
                client.cancel(list(active), force=True)


class _Blocks:
    """Blocks of a Gram matrix as jobs: pairs of their numbers."""

    def __init__(self, problem: Problem, work: Work, marks: Callable[[int, int], Marks]) -> None:
        self._problem, self._work, self._marks = problem, work, marks

    def part(self, name: tuple[int, int]) -> Any:
        """A chunk of the inputs, by side and number."""
        axis, index = name
        return self._problem.side(axis)[self._problem.layout.rows(axis, index)]

    def names(self, job: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        row, column = job
        if self._problem.symmetric and row == column:
            return ((0, row),)
        return ((0, row), (0 if self._problem.symmetric else 1, column))

    def call(self, job: tuple[int, int]) -> tuple[Any, ...]:
        return (self._work, *job, self._marks(*job))


def on_client(
    client: Any, problem: Problem, work: Work, pairs: Sequence[tuple[int, int]], marks: Callable[[int, int], Marks]
) -> Generator[Done, None, None]:
    """Blocks of a Gram matrix as they are done: see :func:`run_jobs`."""
    blocks = _Blocks(problem, work, marks)
    with contextlib.closing(run_jobs(client, pairs, blocks, Sent(client, blocks.part), "gram")) as made:
        for _, done in made:
            yield done


def _result(future: Any) -> Any:
    """What a job gave; None where it failed, or its answer was lost with the worker that held it."""
    if future.status != "finished":
        return None
    try:
        return future.result()
    except Exception as error:
        if _of_the_cluster(error):
            return None
        raise


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


def _gone(client: Any, what: str) -> StoreError | None:
    """The error of a scheduler that does not come back; a connection that was cut is waited for."""
    deadline = time.monotonic() + _PATIENCE
    while client.status == "connecting" and time.monotonic() < deadline:  # it tries by itself
        time.sleep(0.2)
    if client.status == "running":
        return None
    return StoreError(f"[{what}] the cluster's scheduler is gone; what is done is kept: run again with a new client")


def _reason(client: Any, future: Any, job: Any, tries: int, what: str) -> BaseException | None:
    """Why a job cannot be tried again; None: it can."""
    if (gone := _gone(client, what)) is not None:
        return gone
    if future.status == "error":
        error: BaseException = future.exception()
        if type(error).__name__ == "KilledWorker":
            return StoreError(
                f"[{what}] workers ended with block {job}, one after the other ({error}): out of memory? Smaller "
                "chunks take less"
            )
        if not _of_the_cluster(error):
            return error
    if tries >= _TRIES:
        return StoreError(f"[{what}] block {job} was lost {tries} times with the workers that held it or its inputs")
    return None
