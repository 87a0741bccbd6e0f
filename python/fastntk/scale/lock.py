"""One writer to a store: a file that names the process that writes.

A process that was killed leaves its file behind. On the same machine that is seen, whatever the clock says: no process
has its number, or one that was started at another time. A file of another machine stands until somebody removes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import StoreLockedError
from .folders import Folder

NAME = "lock"


def this_process() -> dict[str, Any]:
    """What a lock says of its process."""
    return {"host": _host(), "pid": os.getpid(), "started": _started(os.getpid())}


def _host() -> str:
    """This machine since it was started, and the space of its process numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot = space = ""
    return " ".join(part for part in (socket.gethostname(), boot, space) if part)


def _started(pid: int) -> str:
    """When a process was started, in ticks since the machine was; "" where the system does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def is_gone(holder: dict[str, Any]) -> bool:
    """Whether a lock's process is known to have ended."""
    if holder.get("host") != _host():
        return False
    pid = holder.get("pid")
    if not isinstance(pid, int) or pid < 1:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        pass
    return _started(pid) != holder.get("started")


@contextlib.contextmanager
def locked(folder: Folder, store: str, what: str) -> Iterator[None]:
    """The only writer inside; a lock whose process has ended on this machine is taken over.

    Raises
    ------
    StoreLockedError
        Where another process writes, or may.
    """
    mine = json.dumps({**this_process(), "token": uuid.uuid4().hex}).encode()
    if not folder.create(NAME, mine):
        _take_over(folder, mine, store, what)
    try:
        yield
    finally:
        if folder.read(NAME) == mine:
            folder.remove(NAME)


def _take_over(folder: Folder, mine: bytes, store: str, what: str) -> None:
    with _one_at_a_time(folder):
        found = folder.read(NAME)
        holder: Any = None
        if found is not None:
            with contextlib.suppress(ValueError):
                holder = json.loads(found)
            if not isinstance(holder, dict):
                raise StoreLockedError(
                    f"[{what}] {store} has a lock that cannot be read, {folder.name}/{NAME}: remove it if nobody writes"
                )
            if not is_gone(holder):
                here = holder.get("host") == _host()
                who = f"process {holder.get('pid')} {'of this machine' if here else 'on ' + str(holder.get('host'))}"
                hint = "wait for it" if here else f"if that has ended, remove {folder.name}/{NAME}"
                raise StoreLockedError(f"[{what}] {store} is being written to by {who}: {hint}")
            folder.remove(NAME)
        if not folder.create(NAME, mine):
            raise StoreLockedError(f"[{what}] {store} is being written to by another process, which was faster")


@contextlib.contextmanager
def _one_at_a_time(folder: Folder) -> Iterator[None]:
    """Of the processes of this machine, which alone take a lock over, one at a time looks and takes."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    digest = hashlib.sha256(folder.name.encode()).hexdigest()[:32]
    with Path(tempfile.gettempdir(), f"fastntk-{os.getuid()}-{digest}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
