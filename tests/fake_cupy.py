"""CuPy's manners without a GPU: arrays that compute like NumPy's and refuse to meet NumPy arrays.

For code that must run on either: what CuPy refuses is refused here (implicit conversion, mixtures, arguments and
attributes that it lacks), a failing Cholesky gives NaN as there. Device memory is NumPy's, which the text of the CUDA
backend that runs on the host reaches by pointer. What CuPy does later is done as late as it may be: a copy to the host
that does not block arrives when its stream is waited for, so who does not wait reads NaN. ``WAITS`` counts what makes
a host wait. Speed and rounding of a GPU are not shown.
"""

from __future__ import annotations

import sys
from collections import Counter
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

MISSING = {"max": {"initial", "where"}, "min": {"initial", "where"}, "sum": {"initial", "where"}}
# of NumPy's arrays and functions, what CuPy's have not (14.2)
NO_ATTRIBUTE = {
    "__array_interface__", "__array_namespace__", "__array_struct__", "__array_wrap__", "__contains__", "__index__",
    "__setstate__", "ctypes", "getfield", "resize", "setfield", "setflags", "to_device",
}  # fmt: skip
NO_FUNCTION = {
    "block", "errstate", "frompyfunc", "geomspace", "insert", "longdouble", "ma", "matrix", "memmap", "nanpercentile",
    "nanquantile", "ndenumerate", "nditer", "spacing", "unstack", "vecdot",
}  # fmt: skip
WAITS: Counter[str] = Counter()  # what made the host wait for the device, by name


def refuse(values: Any) -> None:
    if isinstance(values, np.ndarray) and values.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(values, (tuple, list)):
        for value in values:
            refuse(value)


def strip(value: Any) -> Any:
    refuse(value)
    if isinstance(value, ndarray):
        here(value)
        return value.values
    if isinstance(value, (tuple, list)):
        return type(value)(map(strip, value))
    return value


def here(array: ndarray) -> None:
    if array.device.id != Device.current:
        raise ValueError(f"array on device {array.device.id}, the current one is {Device.current}")


def dress(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return ndarray(np.asarray(value))
    return tuple(map(dress, value)) if isinstance(value, tuple) else value


def checked(name: str, function: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        if unknown := MISSING.get(name, set()) & set(kwargs):
            raise TypeError(f"{name}() got an unexpected keyword argument {unknown}")
        out = kwargs.get("out")
        found = function(*map(strip, args), **{key: strip(value) for key, value in kwargs.items()})
        return out if out is not None else dress(found)

    return call


class Flags:
    def __init__(self, flags: Any) -> None:
        self.c_contiguous, self.f_contiguous, self.owndata = flags.c_contiguous, flags.f_contiguous, flags.owndata


class ndarray(NDArrayOperatorsMixin):
    def __init__(self, values: np.ndarray, device: int | None = None) -> None:
        self.values = values
        self.device = Device(Device.current if device is None else device)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = (), **kwargs: Any) -> Any:
        if out:
            getattr(ufunc, method)(*map(strip, inputs), out=strip(out), **kwargs)
            return out[0]
        return dress(getattr(ufunc, method)(*map(strip, inputs), **kwargs))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return checked(function.__name__, function)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in NO_ATTRIBUTE:
            raise AttributeError(f"'cupy.ndarray' object has no attribute '{name}'")
        found = getattr(self.values, name)
        if callable(found):
            return checked(name, found)
        return ndarray(found, self.device.id) if name == "T" else found

    def __getitem__(self, at: Any) -> Any:
        return dress(self.values[strip(at)])

    def __setitem__(self, at: Any, value: Any) -> None:
        self.values[strip(at)] = strip(value)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Any:
        return iter([dress(value) for value in self.values])

    def __float__(self) -> float:
        WAITS["float"] += 1
        return float(self.values)

    def __int__(self) -> int:
        WAITS["int"] += 1
        return int(self.values)

    def __bool__(self) -> bool:
        WAITS["bool"] += 1
        return bool(self.values)

    @property
    def flags(self) -> Flags:
        return Flags(self.values.flags)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        v = self.values
        strides = None if v.flags.c_contiguous else v.strides
        return {
            "shape": v.shape, "typestr": v.dtype.str, "descr": v.dtype.descr, "strides": strides, "version": 3,
            "data": (v.ctypes.data if v.size else 0, False), "stream": Stream.now().ptr or 1,
        }  # fmt: skip

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device.id

    def __dlpack__(self, *, stream: int | None = None, **rest: Any) -> Capsule:
        return Capsule(self.values, self.device.id, stream)

    def get(
        self, stream: Any = None, order: str = "C", out: np.ndarray | None = None, blocking: bool = True
    ) -> np.ndarray:
        here(self)
        if blocking:
            WAITS["get"] += 1
        if out is None:
            return self.values.copy()
        if out.shape != self.shape or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ValueError("out must be C-contiguous, of the array's shape and dtype")
        if blocking:
            out[...] = self.values
        elif not pinned(out):
            raise ValueError("a copy that does not block needs pinned memory")
        else:
            out[...] = np.nan
            (stream or Stream.now()).queue(lambda: np.copyto(out, self.values))
        return out

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        self.values[...] = arr


ndarray.__module__ = "cupy"


class Capsule:
    """What DLPack hands over; one reader may have it."""

    def __init__(self, values: np.ndarray, device: int, stream: int | None) -> None:
        self.values, self.device, self.stream = values, device, stream


# ---------------------------------------------------------------- devices, streams, pinned memory


class Device:
    current = 0
    memory = 1 << 40  # bytes, that one allocation may take

    def __init__(self, device: int | None = None) -> None:
        self.id = Device.current if device is None else device
        self._before: list[int] = []

    @property
    def mem_info(self) -> tuple[int, int]:
        return Device.memory, Device.memory

    def __enter__(self) -> Device:
        self._before.append(Device.current)
        Device.current = self.id
        return self

    def __exit__(self, *error: Any) -> None:
        Device.current = self._before.pop()


class Event:
    def __init__(self, stream: Stream) -> None:
        self.stream, self.pending = stream, stream._queue

    def synchronize(self) -> None:
        WAITS["event"] += 1
        self.arrive()

    def arrive(self) -> None:
        while self.pending:
            self.pending.pop(0)()


class Stream:
    null: Stream
    current: list[Stream]
    made: list[Stream] = []  # noqa: RUF012

    def __init__(self, null: bool = False, non_blocking: bool = False, ptr: int | None = None) -> None:
        Stream.made.append(self)
        self.ptr = 0 if null else 4096 * len(Stream.made) if ptr is None else ptr
        self.device_id = Device.current
        self._queue: list[Any] = []
        self.waited: list[Event] = []

    @staticmethod
    def now() -> Stream:
        return Stream.current[-1]

    @classmethod
    def from_external(cls, other: Any) -> Stream:
        return cls(ptr=other.__cuda_stream__()[1])

    def queue(self, work: Any) -> None:
        self._queue.append(work)

    def record(self) -> Event:
        return Event(self)

    def wait_event(self, event: Event) -> None:
        """What comes is in order behind the event; work of this stream is done when it is asked for."""
        self.waited.append(event)
        event.arrive()

    def synchronize(self) -> None:
        WAITS["stream"] += 1
        Event(self).arrive()

    def __enter__(self) -> Stream:
        Stream.current.append(self)
        return self

    def __exit__(self, *error: Any) -> None:
        Stream.current.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.ptr == self.ptr

    def __hash__(self) -> int:
        return self.ptr


Stream.null = Stream(null=True)
Stream.current = [Stream.null]

PINNED: list[tuple[int, int]] = []  # address and size


def alloc_pinned_memory(size: int) -> Any:
    memory = np.full(size, 255, np.uint8)
    PINNED.append((memory.ctypes.data, size))
    return memory.data


def pinned(x: np.ndarray) -> bool:
    return any(start <= x.ctypes.data and x.ctypes.data + x.nbytes <= start + size for start, size in PINNED)


class OutOfMemoryError(MemoryError):
    pass


# ---------------------------------------------------------------- the module


class Module(ModuleType):
    def __init__(self, name: str, library: Any) -> None:
        super().__init__(name)
        self.library = library
        self.__spec__ = ModuleSpec(name, None)

    def __getattr__(self, name: str) -> Any:
        if name in NO_FUNCTION:
            raise AttributeError(f"module 'cupy' has no attribute '{name}'")
        found = getattr(self.library, name)
        return checked(name, found) if callable(found) and not isinstance(found, type) else found


def cholesky(a: ndarray) -> ndarray:
    try:
        return dress(np.linalg.cholesky(strip(a)))
    except np.linalg.LinAlgError:
        return dress(np.full(a.shape, np.nan, a.dtype))


def moved(values: Any, dtype: Any = None, **kwargs: Any) -> ndarray:
    return dress(np.array(values.values if isinstance(values, ndarray) else values, dtype, **kwargs))


def asarray(values: Any, dtype: Any = None, **kwargs: Any) -> ndarray:
    if isinstance(values, ndarray) and dtype in (None, values.dtype):
        return values
    interface = getattr(values, "__cuda_array_interface__", None)
    if interface is not None and not isinstance(values, ndarray):
        host = type("Host", (), {"__array_interface__": {**interface, "version": 3}})()
        return ndarray(np.asarray(host), getattr(values, "ordinal", 0))
    return moved(values, dtype, **kwargs)


def from_dlpack(x: Any) -> ndarray:
    kind, ordinal = x.__dlpack_device__()
    if kind not in (2, 13):
        raise TypeError("CPU arrays cannot be directly imported to CuPy.")
    with Device(ordinal):
        capsule = x.__dlpack__(stream=Stream.now().ptr or 1)
    return ndarray(capsule.values, capsule.device)


def empty(shape: Any, dtype: Any = float, **kwargs: Any) -> ndarray:
    """Full of NaN, or of what is as conspicuous."""
    made = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * made.itemsize
    if size > Device.memory:
        raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes")
    return dress(np.full(shape, np.nan if made.kind == "f" else 85, made))


def may_share_memory(a: ndarray, b: ndarray, max_work: Any = None) -> bool:
    if max_work is not None:
        raise NotImplementedError("Only supported for `max_work` is `None`")
    return bool(np.may_share_memory(strip(a), strip(b)))


class Pool:
    def free_bytes(self) -> int:
        return 0


def install(monkeypatch: Any) -> Any:
    """The module ``cupy``, importable for the rest of the test."""
    import scipy.linalg

    cupy = Module("cupy", np)
    cupy.array, cupy.asarray = moved, asarray  # the doors through which NumPy arrays may come
    cupy.ndarray, cupy.from_dlpack, cupy.empty = ndarray, from_dlpack, empty
    cupy.may_share_memory, cupy.get_default_memory_pool = may_share_memory, Pool
    cupy.lib = ModuleType("cupy.lib")
    cupy.lib.stride_tricks = Module("cupy.lib.stride_tricks", np.lib.stride_tricks)
    cupy.linalg = Module("cupy.linalg", np.linalg)
    cupy.linalg.cholesky = cholesky
    cupy.cuda = ModuleType("cupy.cuda")
    cupy.cuda.Device, cupy.cuda.Stream, cupy.cuda.Event = Device, Stream, Event
    cupy.cuda.get_current_stream, cupy.cuda.alloc_pinned_memory = Stream.now, alloc_pinned_memory
    cupyx, scipy_, linalg = ModuleType("cupyx"), ModuleType("cupyx.scipy"), Module("cupyx.scipy.linalg", scipy.linalg)
    for module in (cupy, cupy.cuda, cupyx, scipy_, linalg):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    WAITS.clear()
    PINNED.clear()
    return cupy
