"""The base of all layers: immutable data that knows its shape, its finite network, and how to lower itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import Any, ClassVar, TypeAlias

import numpy as np

from ..base.checks import generator, integer
from ..base.libraries import library, to_library
from .program import Builder, Values

Shape: TypeAlias = "tuple[Any, ...]"  # of one array, or a tuple of shapes for parallel branches
InitFn: TypeAlias = Callable[..., tuple[Shape, Any]]
ApplyFn: TypeAlias = Callable[..., Any]


_KEYWORDS: ContextVar[dict[str, Any]] = ContextVar("keywords of apply_fn")


def keyword(name: str, layer: str, why: str) -> Any:
    """A keyword of the call of ``apply_fn`` that is running, for a layer that needs it.

    Raises
    ------
    TypeError
        Where it was not given.
    """
    value = optional_keyword(name)
    if value is None:
        raise TypeError(f"[{layer}] apply_fn needs {name}= {why}")
    return value


def optional_keyword(name: str) -> Any:
    """A keyword of the call of ``apply_fn`` that is running; None where it was not given."""
    return _KEYWORDS.get({}).get(name)


def is_one(shape: Any) -> bool:
    """Whether a shape tree is one array's shape."""
    return all(isinstance(n, (int, np.integer)) for n in shape)


@dataclass(frozen=True)
class Layer:
    """Base of all layers; ``init_fn, apply_fn, kernel_fn = layer`` works for each."""

    kernel_fn: ClassVar[Any]  # the infinite network's kernels: a property that call/kernel_fn.py sets, from above
    rigid: ClassVar[tuple[str, ...]] = ()  # floats that are no parameters: kernels have no derivative in them
    _doors = ("init_fn", "apply_fn")  # the rest runs behind those of the kernel function, many times a call

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "__repr__" not in cls.__dict__:  # else dataclass() would write one of its own, with every default
            cls.__repr__ = Layer.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        """As one would write it: without what has its default."""
        inside = getattr(self, "layers", None)
        arguments = self._arguments() if inside is None else map(repr, inside)
        return f"{self._name}({', '.join(arguments)})"

    @property
    def _name(self) -> str:
        """What makes such a layer."""
        own = type(self).__name__
        return own.lower() if hasattr(self, "layers") else own

    def _arguments(self) -> list[str]:
        parameters = list(signature(type(self)).parameters.values())
        needed = [p.name for p in parameters if p.default is p.empty]
        others = {p.name: p.default for p in parameters if p.default is not p.empty}
        try:  # defaults may depend on what is needed
            plain = type(self)(*(getattr(self, name) for name in needed))
            others = {name: getattr(plain, name) for name in others}
        except (TypeError, ValueError):
            pass  # what is needed alone is not allowed
        found = [repr(getattr(self, name)) for name in needed]
        for name, default in others.items():
            value = getattr(self, name)
            if not _equal(value, default):
                found.append(f"{name}={value!r}")
        return found

    def __str__(self) -> str:
        """A line for each layer, behind its path (that of its parameters in :meth:`KernelFn.parameters`)."""
        if not hasattr(self, "layers"):
            return repr(self)
        lines = list(self._lines("", 0))
        wide = [max(len(line[column]) for line in lines) for column in (0, 1)]
        return "\n".join(
            f"{path:<{wide[0]}}  {name:<{wide[1]}}  {arguments}".rstrip() for path, name, arguments in lines
        ).lstrip()

    def _lines(self, path: str, depth: int) -> Iterator[tuple[str, str, str]]:
        inside = getattr(self, "layers", None)
        arguments = "" if inside is not None else ", ".join(self._arguments())
        yield path, "  " * depth + self._name, arguments
        for k, layer in enumerate(inside or ()):
            yield from layer._lines(f"{path}.{k}" if path else str(k), depth + 1)

    def output_shape(self, shape: Shape) -> Shape:
        """Shape behind the layer; -1 (unknown batch) passes through."""
        raise NotImplementedError

    def init(self, rng: np.random.Generator, shape: Shape, dtype: Any) -> Any:
        """Parameters of one finite network, nested tuples of NumPy arrays."""
        return ()

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        """The finite network's layer on arrays of the library ``xp``."""
        raise NotImplementedError

    def lower(self, builder: Builder, values: Values) -> Values:
        """Append this layer's ops; raise for inputs it cannot take."""
        raise NotImplementedError

    def structure(self, weighted: list[Any]) -> Any:
        """All that a program without numbers follows from: itself, where the layer does not know better.

        One that does adds itself to ``weighted``, and has ``op_numbers``.
        """
        return self

    def lower_each(self, builder: Builder, values: Values) -> Iterator[Values]:
        """The values behind each part of a stack: for one layer, its own."""
        yield self.lower(builder, values)

    def axes(self) -> tuple[int, int] | None:
        """(batch_axis, channel_axis) of the first layer that names them."""
        return None

    # ---- Neural Tangents' triple

    def init_fn(self, rng: Any, input_shape: Sequence[Any], dtype: Any = np.float64) -> tuple[Shape, Any]:
        """Draw the parameters of a finite network.

        Parameters
        ----------
        rng : numpy.random.Generator, int or key of JAX's
            Source of randomness, or the seed of a new one.
        input_shape : tuple of int
            Shape of the inputs, batch included (-1 where unknown); a tuple of shapes for parallel branches.
        dtype : dtype
            float32 or float64, of all parameters.

        Returns
        -------
        output_shape : tuple of int
        params : nested tuple of numpy.ndarray

        Raises
        ------
        TypeError
            If ``rng`` is neither a Generator nor an integer nor a key.
        """
        rng = source(rng, "init_fn")
        if np.dtype(dtype) not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise TypeError(f"[init_fn] dtype must be float32 or float64, given {np.dtype(dtype)}")
        shape = _as_shape(input_shape)
        return self.output_shape(shape), self.init(rng, shape, np.dtype(dtype))

    def apply_fn(self, params: Any, inputs: Any, **keywords: Any) -> Any:
        """Apply a finite network.

        Parameters
        ----------
        params : nested tuple of arrays
            From ``init_fn``, or the same structure in the inputs' library.
        inputs : array (batch, d) of NumPy, CuPy, PyTorch or JAX, or a tuple of them for parallel branches
        **keywords
            ``rng``, as for ``init_fn``: what Dropout draws by. ``pattern``: what Aggregate joins. Others have no
            effect.

        Returns
        -------
        array of the inputs' library; differentiable in inputs and parameters where the library differentiates.

        Raises
        ------
        TypeError
            For a keyword that a layer needs and was not given.
        NotImplementedError
            For ``mask_constant``, but None.
        """
        if keywords.get("mask_constant") is not None:
            raise NotImplementedError(
                "[apply_fn] mask_constant was given: finite networks take whole inputs, kernel_fn masked ones"
            )
        xp = library(inputs)
        if keywords.get("rng") is not None:
            keywords["rng"] = source(keywords["rng"], "apply_fn")
        token = _KEYWORDS.set(keywords)
        try:
            return self.apply(to_library(params, inputs, xp), inputs, xp)
        finally:
            _KEYWORDS.reset(token)

    @cached_property
    def named_axes(self) -> tuple[int, int] | None:
        """What ``axes`` says, looked up once."""
        return self.axes()

    def __iter__(self) -> Iterator[Any]:
        return iter((self.init_fn, self.apply_fn, self.kernel_fn))

    def __getitem__(self, index: int) -> Any:
        return (self.init_fn, self.apply_fn, self.kernel_fn)[index]

    def __len__(self) -> int:
        return 3


class Placed(Layer):
    """Base of layers with the arguments ``batch_axis`` and ``channel_axis``: axes of samples and channels."""

    batch_axis: int
    channel_axis: int

    def _check_axes(self) -> None:
        if type(self.batch_axis) is type(self.channel_axis) is int:
            return
        for name in ("batch_axis", "channel_axis"):
            object.__setattr__(self, name, integer(type(self).__name__, name, getattr(self, name), least=None))

    def axes(self) -> tuple[int, int]:
        return self.batch_axis, self.channel_axis


def _equal(value: Any, default: Any) -> bool:
    """Whether a parameter has its default; tracers and tensors, which are not asked, have not."""
    return type(value) is type(default) and bool(value == default)


def source(rng: Any, what: str) -> np.random.Generator:
    """A Generator: itself, of an integer seed, or of the numbers that a key of JAX's holds."""
    if type(rng).__module__.split(".")[0] in ("jax", "jaxlib"):
        from jax import numpy, random

        rng = rng if numpy.issubdtype(rng.dtype, np.integer) else random.key_data(rng)
    if getattr(rng, "dtype", None) == np.uint32 and rng.ndim == 1:  # such a key
        return np.random.default_rng(np.asarray(rng).tolist())
    return generator(rng, what)


def _as_shape(shape: Any) -> Shape:
    if not isinstance(shape, (tuple, list)) or not shape:
        raise TypeError(f"[init_fn] input_shape must be a tuple of integers, or a tuple of shapes, given {shape!r}")
    return tuple(int(n) for n in shape) if is_one(shape) else tuple(_as_shape(s) for s in shape)
