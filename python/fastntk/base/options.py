"""What runs a call and why: options (arguments, ``with options(...)``, environment) and ``show_config``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Options(NamedTuple):
    """None: decided by the environment, then by what is there."""

    backend: str | None = None
    isa: str | None = None
    num_threads: int | None = None
    devices: tuple[int, ...] | None = None


_options: ContextVar[Options] = ContextVar("fastntk_options", default=Options())  # noqa: B039 - frozen


@contextmanager
def options(
    backend: str | None = None, isa: str | None = None, num_threads: int | None = None,
    devices: Sequence[int] | None = None,
) -> Iterator[None]:  # fmt: skip
    """Set backend, instruction set, threads and devices of every call inside a ``with`` block.

    Parameters
    ----------
    backend : {'cpu', 'cuda', 'numpy'}, optional
        As ``FASTNTK_BACKEND``. Default: 'cuda' for arrays on a device; for others 'cpu' where the compiled module
        loads, else 'numpy'.
    isa : str, optional
        As ``FASTNTK_ISA``: instruction set of the 'cpu' backend ('baseline', 'avx2', 'avx512', 'neon').
    num_threads : int, optional
        As ``FASTNTK_NUM_THREADS``. Default: the processors this process may use. 'numpy' leaves the matrix product to
        NumPy's BLAS and its own settings.
    devices : sequence of int, optional
        As ``FASTNTK_DEVICES``, numbers with commas between them: of the 'cuda' backend, the devices that arrays in host
        memory are computed on, tiles in turn. Default: CuPy's current device. Arrays on a device stay there.

    Raises
    ------
    TypeError, ValueError
        Devices that are not different numbers of at least 0.
    ValueError, RuntimeError
        By the next call: an unknown backend, instruction set or device; a backend that is not there, with the reason.
    """
    current = _options.get()
    token = _options.set(
        Options(
            backend=current.backend if backend is None else backend,
            isa=current.isa if isa is None else isa,
            num_threads=current.num_threads if num_threads is None else num_threads,
            devices=current.devices if devices is None else _devices("devices", devices),
        )
    )
    try:
        yield
    finally:
        _options.reset(token)


_VARIABLES = ("FASTNTK_BACKEND", "FASTNTK_ISA", "FASTNTK_NUM_THREADS", "FASTNTK_DEVICES")


def _given() -> tuple[str | None, ...]:
    """What the environment says, in the order of ``_VARIABLES``.

    It is asked in every call, and to be told of a variable that is missing takes an exception each: where the mapping
    behind ``os.environ`` is at hand one look at its keys will do.
    """
    known = getattr(os.environ, "_data", None)
    if known is None or any(key in known for key in _KEYS):
        return tuple(map(os.environ.get, _VARIABLES))
    return _NOTHING


_KEYS = tuple(map(getattr(os.environ, "encodekey", str), _VARIABLES))
_NOTHING = (None,) * len(_VARIABLES)


def resolve_options(backend: str | None = None, num_threads: int | None = None) -> Options:
    """Argument over context over environment; threads filled in, backend and isa possibly None."""
    current = _options.get()
    own_backend, isa, count, devices = _given()
    threads: Any = num_threads if num_threads is not None else current.num_threads
    name = "num_threads"
    if threads is None and (given := count):
        name = "FASTNTK_NUM_THREADS"
        threads = int(given) if given.isdecimal() and given.isascii() and len(given) < 10 else given
    threads = available_cpus() if threads is None else threads
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)) or threads < 1:
        raise ValueError(f"{name} must be an integer of at least 1, given {threads!r}")
    return Options(
        backend=backend or current.backend or own_backend or None,
        isa=current.isa or isa or None,
        num_threads=int(threads),
        devices=current.devices or _devices_of_environment(devices),
    )


def _devices(name: str, given: Any) -> tuple[int, ...]:
    if isinstance(given, (str, bytes)) or not isinstance(given, (Sequence, np.ndarray)):
        raise TypeError(f"{name} must be a sequence of numbers of devices, given {given!r}")
    if not len(given) or not all(
        isinstance(k, (int, np.integer)) and not isinstance(k, bool) and k >= 0 for k in given
    ):
        raise ValueError(f"{name} must be numbers of devices, 0 or more, at least one, given {given!r}")
    if len(set(given)) < len(given):
        raise ValueError(f"{name} must name each device once, given {given!r}")
    return tuple(int(k) for k in given)


def _devices_of_environment(given: str | None) -> tuple[int, ...] | None:
    if not given:
        return None
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isdecimal() and part.isascii() for part in parts):
        raise ValueError(f"FASTNTK_DEVICES must be numbers of devices with commas between them, given {given!r}")
    return _devices("FASTNTK_DEVICES", [int(part) for part in parts])


def available_cpus() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def one_blas_thread() -> AbstractContextManager[Any]:
    """One BLAS thread inside, where threadpoolctl is installed: many small products are slower with more."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    limits: AbstractContextManager[Any] = threadpool_limits(limits=1, user_api="blas")
    return limits


def available_memory() -> int | None:
    """Bytes that an allocation can count on, in a container too; None where the system does not say."""
    known = [free for free in (_system_memory(), container_memory()) if free is not None]
    return min(known, default=None)


def _system_memory() -> int | None:
    try:
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


# Of control groups, version 2 and 1: where they lie, the files of their limit and use, what of that is given back.
_GROUPS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def container_memory(root: str = "/") -> int | None:
    """Bytes below the limits of this process's control groups and of those around them; None: there are none."""
    found: list[int] = []
    try:
        lines = Path(root, "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for name in set(controllers.split(",")) & set(_GROUPS):
            base, limit, use, given_back = _GROUPS[name]
            top = Path(root, base)
            group = Path(top, path.lstrip("/"))
            # in a container the path may be the host's: then the top is the own group
            for place in (group, *group.parents):
                if top in (place, *place.parents):
                    found += _below(place, limit, use, given_back)
    return min(found, default=None)


def _below(group: Path, limit: str, use: str, given_back: str) -> list[int]:
    """What a control group leaves: nothing is known where a file is missing or the limit is none."""
    try:
        most, used = (group / limit).read_text().strip(), int((group / use).read_text())
        stat = dict(line.split()[:2] for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return []
    if not most.isdecimal():
        return []
    return [max(0, int(most) - used + int(stat.get(given_back, 0)))]
