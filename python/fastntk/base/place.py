"""Where the arrays of a call lie, in host memory or on a CUDA device, and the library and the stream that follow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from .arraylike import DEEPEST, as_array, describe, is_array, is_numbers, library_of, to_library
from .kernel import Exact, Kernel
from .options import available_memory

Array = npt.NDArray[Any]  # or CuPy's

PIP = "pip install 'fastntk[cuda13]' (for CUDA 12: 'fastntk[cuda12]')"
_CUDA = (2, 13)  # DLPack's device types: CUDA, CUDA managed


def import_cupy() -> Any:
    """CuPy.

    Raises
    ------
    RuntimeError
        Where it is not installed, or does not load.
    """
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(f"backend 'cuda' needs CuPy, which does not load ({error}): {PIP}") from error
    return cupy


def device_of(x: Any) -> int | None:
    """Ordinal of the CUDA device that an array lies on, by DLPack or the CUDA array interface; None: on none."""
    if isinstance(x, (np.ndarray, np.generic, type)):
        return None
    if library_of(x) == "cupy" and hasattr(x, "device"):
        return int(x.device.id)
    if hasattr(type(x), "__dlpack_device__"):
        try:
            kind, ordinal = x.__dlpack_device__()
        except (BufferError, RuntimeError, ValueError):  # such as an array in parts on several devices
            return None
        return int(ordinal) if int(kind) in _CUDA else None
    if hasattr(x, "__cuda_array_interface__"):
        return int(import_cupy().asarray(x).device.id)
    return None


def _leaves(label: str, x: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    if isinstance(x, (tuple, list)) and not is_numbers(x):
        for k, part in enumerate(x if depth < DEEPEST else ()):  # a list may hold itself
            yield from _leaves(f"{label}[{k}]", part, depth + 1)
    elif isinstance(x, (Kernel, Exact)):
        names = ("nngp", "ntk", "cov1", "cov2", "exact") if isinstance(x, Kernel) else ("defect", "theta", "q1", "q2")
        for name in names:
            yield from _leaves(f"{label}.{name}", getattr(x, name))
    elif x is not None:
        yield label, x


class Place:
    """Host memory: arrays are NumPy's inside; results go back to the library of the call's first array."""

    xp: Any = np
    ordinal: int | None = None
    name = "host memory"
    array = "a numpy.ndarray"

    def __init__(self, like: Any = None) -> None:
        self._like = like
        self.lazy = like is not None and library_of(like) == "dask"  # arrays that are not there yet
        self._theirs: dict[int, tuple[Any, Any]] = {}  # arrays that came from another library, by their view here

    def current(self) -> AbstractContextManager[Any]:
        """Device and stream in force inside."""
        return nullcontext()

    def holds(self, x: Any) -> bool:
        """Whether ``x`` is an array that lies here."""
        return is_array(x)

    def take(self, x: Any, label: str, what: str) -> Array:
        """An array of a caller as one of ``xp``, without a copy where its library has one to give.

        Raises
        ------
        TypeError, ValueError
            Anything else.
        """
        return x if type(x) is np.ndarray else as_array(x, label, what)

    def borrow(self, x: Any, label: str, what: str) -> tuple[Array, bool]:
        """An array of a caller to write into, and whether it lets itself be written to.

        Raises
        ------
        TypeError
            Anything else.
        """
        torch = library_of(x) == "torch" and is_array(x)
        if not (isinstance(x, np.ndarray) or torch) or isinstance(x, np.ma.MaskedArray):
            raise TypeError(f"[{what}] {label} must be {self.array}, given {describe(x)}")
        if not torch:
            return x, bool(x.flags.writeable)
        found = as_array(x, label, what)
        self._theirs[id(found)] = (found, x)
        return found, True

    def give(self, x: Any) -> Any:
        """An array of ``xp`` as one of the caller's library."""
        if x is None:
            return None
        if id(x) in self._theirs:
            return self._theirs[id(x)][1]
        return x if self._like is None else to_library(x, self._like)

    def room(self) -> int | None:
        """Bytes that an allocation can count on; None where the system does not say."""
        return available_memory()


HOST = Place()


class DevicePlace(Place):
    """A CUDA device: inside, arrays are CuPy's, on the caller's current stream.

    That is PyTorch's current stream for its tensors, and CuPy's for all others, which DLPack and the CUDA array
    interface order behind the stream of whoever made them.
    """

    def __init__(self, ordinal: int, like: Any = None) -> None:
        super().__init__(like)
        self.xp = import_cupy()
        self.ordinal = ordinal
        self.name, self.array = f"cuda:{ordinal}", f"an array on cuda:{ordinal}"
        cuda = self.xp.cuda
        with cuda.Device(ordinal):
            self._cupys = self.stream = cuda.get_current_stream()
        if library_of(like) == "torch":
            pointer = int(sys.modules["torch"].cuda.current_stream(ordinal).cuda_stream)
            if pointer != self.stream.ptr:
                self.stream = external_stream(cuda, pointer)

    @contextmanager
    def current(self) -> Iterator[None]:
        with self.xp.cuda.Device(self.ordinal):
            if self.stream is self._cupys:
                yield
                return
            self.stream.wait_event(self._cupys.record())  # CuPy arrays beside tensors
            with self.stream:
                yield
                self._cupys.wait_event(self.stream.record())

    def holds(self, x: Any) -> bool:
        return device_of(x) == self.ordinal

    def borrow(self, x: Any, label: str, what: str) -> tuple[Array, bool]:
        if not self.holds(x):
            raise TypeError(f"[{what}] {label} must be {self.array}, given {describe(x)}")
        kind = library_of(x)
        if kind in ("jax", "jaxlib", "torch"):
            return self.take(x, label, what), kind == "torch"
        writable = not getattr(x, "__cuda_array_interface__", {"data": (0, False)})["data"][1]
        return self.take(x, label, what), writable

    def take(self, x: Any, label: str, what: str) -> Array:
        if device_of(x) != self.ordinal:
            raise TypeError(f"[{what}] {label} must be {self.array} like the others, given {describe(x)}")
        if library_of(x) == "cupy":
            return x  # type: ignore[no-any-return]
        try:
            found = self.xp.from_dlpack(x) if hasattr(type(x), "__dlpack__") else self.xp.asarray(x)
        except (BufferError, NotImplementedError, TypeError) as error:
            raise TypeError(f"[{what}] {label}, a {describe(x)}, does not let itself be read: {error}") from error
        self._theirs[id(found)] = (found, x)
        return found  # type: ignore[no-any-return]

    def give(self, x: Any) -> Any:
        if x is None:
            return None
        if id(x) in self._theirs:
            return self._theirs[id(x)][1]
        kind = library_of(self._like)
        if kind == "torch":
            return sys.modules["torch"].from_dlpack(x)
        if kind != "cupy" and hasattr(self._like, "__array_namespace__"):
            return self._like.__array_namespace__().from_dlpack(x)
        return x

    def room(self) -> int | None:
        with self.xp.cuda.Device(self.ordinal) as device:
            free = int(device.mem_info[0])
        return free + int(self.xp.get_default_memory_pool().free_bytes())


def external_stream(cuda: Any, pointer: int) -> Any:
    """Another library's stream as CuPy's."""
    if pointer == 0:
        return cuda.Stream.null
    if hasattr(cuda.Stream, "from_external"):
        return cuda.Stream.from_external(_Handle(pointer))
    return cuda.ExternalStream(pointer)


class _Handle:
    """A stream by the CUDA stream protocol."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._pointer


def place_of(what: str, **arguments: Any) -> Place:
    """The one place of all arrays among a call's arguments, looked for in tuples and kernels too.

    Raises
    ------
    TypeError
        Arrays in host memory beside arrays on a device.
    ValueError
        Arrays on two devices.
    RuntimeError
        Arrays on a device where CuPy is not installed.
    """
    host = first = None
    ordinal: int | None = None
    for label, x in (leaf for name, argument in arguments.items() for leaf in _leaves(name, argument)):
        found = device_of(x)
        if found is None:
            if host is None and (isinstance(x, np.ndarray) or is_array(x)) and getattr(x, "ndim", True):
                host = (label, x)
        elif first is None:
            first, ordinal = (label, x), found
        elif found != ordinal:
            raise ValueError(f"[{what}] {first[0]} is on cuda:{ordinal}, {label} on cuda:{found}: move one of them")
    if first is None or ordinal is None:
        return HOST if host is None or isinstance(host[1], np.ndarray) else Place(host[1])
    if host is not None:
        raise TypeError(
            f"[{what}] {first[0]} is on cuda:{ordinal}, {host[0]} a {describe(host[1])} in host memory: move one of "
            "them"
        )
    return DevicePlace(ordinal, first[1])
