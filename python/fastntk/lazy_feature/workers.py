"""Calls in processes of their own, which end with the process that started them, and at once when it is interrupted.

:mod:`multiprocessing` runs a script again in every process it spawns, lets them finish what they do before Ctrl-C is
heard, and leaves them behind where their parent is killed. Here a process is a fresh interpreter that loads what it was
sent, and nothing else, and listens while it works: an end of its input is an end of its parent.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import pickletools
import runpy
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

from ..base.options import one_blas_thread

_START = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from fastntk.lazy_feature.workers import serve; serve()"
)
_GUARD = 'guard the main part of the script by if __name__ == "__main__"'

_serving = False  # whether this process is such a worker


def in_processes(
    call: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], count: int, what: str
) -> Generator[tuple[Any, Any], None, None]:
    """``(job, call(*job))`` as they end, from ``count`` processes; close the iterator to end them.

    Raises
    ------
    TypeError
        A call that cannot be sent to a process.
    RuntimeError
        A call that needs the script, which has no guarded main part; a process that was killed.
    Exception
        What a call raised.
    """
    try:
        sent = pickle.dumps(call)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(f"[{what}] workers cannot be sent what they are to do: {error}; take workers=1") from None
    script = _script(what) if any(arg == "__main__" for _, arg, _ in pickletools.genops(sent)) else None
    results: SimpleQueue[tuple[Any, Any, BaseException | None]] = SimpleQueue()
    todo = iter(jobs)
    lock = threading.Lock()

    def drive(process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for part in (sys.path, script, sent):
                pickle.dump(part, process.stdin)
            while True:
                with lock:
                    job = next(todo, None)
                if job is None:
                    return
                pickle.dump(job, process.stdin)
                process.stdin.flush()
                results.put((job, *pickle.load(process.stdout)))
        except Exception:
            status = process.wait()
            results.put((None, None, RuntimeError(f"[{what}] a worker ended with status {status} before its work")))

    processes: list[subprocess.Popen[bytes]] = []
    threads: list[threading.Thread] = []
    try:
        with _no_interrupt():
            for _ in range(count):
                processes.append(_started())
        for process in processes:
            threads.append(threading.Thread(target=drive, args=(process,), daemon=True))
            threads[-1].start()
        for _ in jobs:
            job, found, failure = results.get()
            if failure is not None:
                raise failure
            yield job, found
    finally:
        for process in processes:
            process.kill()
        for thread in threads:
            thread.join()
        for process in processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):
                    pipe.close()


def _started() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _START], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Processes started inside never see Ctrl-C, which a terminal sends to all: their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _script(what: str) -> tuple[str, str]:
    """How a worker finds what the running script defines: by running it under another name, as multiprocessing does."""
    main = sys.modules["__main__"]
    if (spec := getattr(main, "__spec__", None)) is not None:
        return "module", spec.name
    path = getattr(main, "__file__", None)
    if path is None:
        raise RuntimeError(f"[{what}] workers cannot see what is defined in a session: define it in a module")
    if "__main__" not in Path(path).read_text(encoding="utf-8", errors="replace"):
        raise RuntimeError(f"[{what}] workers run {path} for what it defines: {_GUARD}, or define it in a module")
    return "path", os.path.abspath(path)


# ---------------------------------------------------------------- in the worker


def refuse_in_worker(what: str) -> None:
    """Raise where a worker runs the script that started it, and is asked to start workers itself."""
    if _serving:
        raise RuntimeError(f"[{what}] a worker ran this script and came here: {_GUARD}")


def serve() -> None:
    """Work until the input ends."""
    global _serving
    _serving = True
    source = sys.stdin.buffer
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a nonlinearity prints is no result
    script, sent = pickle.load(source), pickle.load(source)
    jobs: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
    threading.Thread(target=_listen, args=(source, jobs), daemon=True).start()
    call: Callable[..., Any] | None = None
    unready: Exception | None = None
    try:
        if script is not None:
            _run_script(*script)
        call = pickle.loads(sent)
    except Exception as error:
        unready = error
    with one_blas_thread():
        while True:
            job = jobs.get()
            found, failure = None, unready
            if call is not None:
                try:
                    found = call(*job)
                except Exception as error:
                    failure = error
            _answer(sink, found, failure)


def _listen(source: BinaryIO, jobs: SimpleQueue[tuple[Any, ...]]) -> None:
    with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
        while True:
            jobs.put(pickle.load(source))
    os._exit(0)


def _answer(sink: BinaryIO, found: Any, error: Exception | None) -> None:
    try:
        answer = pickle.dumps((found, error))
        pickle.loads(answer)  # some exceptions cannot be made again
    except Exception:
        answer = pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}")))
    sink.write(answer)
    sink.flush()


def _run_script(kind: str, name: str) -> None:
    """The script as module ``__mp_main__``, whose guarded part does not run; it stands for ``__main__``."""
    run = runpy.run_module if kind == "module" else runpy.run_path
    module = types.ModuleType("__mp_main__")
    module.__dict__.update(run(name, run_name="__mp_main__"))
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
