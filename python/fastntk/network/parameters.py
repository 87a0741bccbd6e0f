"""The numeric parameters of a network's layers by their paths, and how the numbers of its ops depend on them.

A path is the indices of ``serial`` and ``parallel`` from the root on and the argument's name, joined by dots:
``"0.W_std"``, ``"1.1.0.1.W_std"``; of a network that is one layer the name alone.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from ..base.jet import Jet, Traced, slope_of, value_of
from .layer import Layer
from .lower import finish, input_values
from .program import Builder, Program, Values, leaves


@lru_cache(maxsize=256)
def _arguments(kind: Any) -> tuple[str, ...]:
    """What a layer's class is called with."""
    return tuple(inspect.signature(kind).parameters)


def _own(layer: Layer) -> dict[str, Any]:
    """The arguments that make a layer, itself or its equal."""
    kind: Any = type(layer)
    return {name: getattr(layer, name) for name in _arguments(kind) if hasattr(layer, name)}


def _parts(layer: Layer) -> tuple[Layer, ...] | None:
    """The layers that a layer is made of; None for one that is made of none."""
    found = getattr(layer, "layers", None)
    return found if isinstance(found, tuple) else None


def parameters_of(layer: Layer, path: str = "") -> dict[str, float]:
    """Every float that a layer of the network was given and kernels have derivatives in, in the order of the layers."""
    parts = _parts(layer)
    if parts is None:
        own = _own(layer).items()
        return {path + name: value for name, value in own if isinstance(value, float) and name not in layer.rigid}
    found: dict[str, float] = {}
    for index, part in enumerate(parts):
        found |= parameters_of(part, f"{path}{index}.")
    return found


@lru_cache(maxsize=256)
def known_parameters(layer: Layer) -> Mapping[str, float]:
    """The same of a whole network, made once; not to be changed."""
    return MappingProxyType(parameters_of(layer))


def layer_of(layer: Layer, path: str) -> Layer:
    """The layer that a path leads to, of a parameter that the network has."""
    for index in path.split(".")[:-1]:
        parts = _parts(layer)
        assert parts is not None
        layer = parts[int(index)]
    return layer


def traced_of(layer: Layer, path: str = "") -> dict[str, Any]:
    """By path, what layers were given in place of floats and other libraries record: tracers, tensors."""
    parts = _parts(layer)
    if parts is None:
        return {path + name: value.leaf for name, value in _own(layer).items() if isinstance(value, Traced)}
    found: dict[str, Any] = {}
    for index, part in enumerate(parts):
        found |= traced_of(part, f"{path}{index}.")
    return found


def untraced(layer: Layer) -> tuple[Layer, dict[str, Any]]:
    """The network with 1 in the places of what other libraries record, and that by path."""
    found = traced_of(layer)
    return (with_parameters(layer, dict.fromkeys(found, 1.0)) if found else layer), found


def check_names(what: str, names: Iterable[str], known: Mapping[str, float]) -> None:
    """Raise ValueError for a path that the network does not have, naming the nearest one."""
    for name in names:
        if name not in known:
            by_case = {path.lower(): path for path in known}
            near = difflib.get_close_matches(str(name).lower(), by_case, 1, 0.0)
            hint = f"; did you mean {by_case[near[0]]!r}?" if near else ": it has none"
            raise ValueError(f"[{what}] the network has no parameter {name!r}{hint}")


def with_parameters(layer: Layer, values: Mapping[str, Any], path: str = "") -> Layer:
    """The network with other values of some parameters; ``values`` by paths that it has."""
    parts = _parts(layer)
    if parts is not None:
        changed = tuple(with_parameters(part, values, f"{path}{index}.") for index, part in enumerate(parts))
        return type(layer)(changed)  # type: ignore[call-arg]
    own = _own(layer)
    new = {name: values[path + name] for name in own if path + name in values}
    make: Callable[..., Layer] = type(layer)
    return make(**(own | new)) if new else layer


@dataclass(frozen=True)
class Sloped:
    """A program, its numbers, and their derivatives in the parameters asked for.

    The program may be longer than the one that :func:`~.lower.lower` gives: an op that does nothing at the value that
    a parameter has, a scale of 1, is there for its derivative.
    """

    program: Program
    numbers: tuple[float, ...]
    slopes: tuple[Mapping[str, float], ...]  # of each number, by path
    outputs: Values

    def pull(self, bars: Mapping[int, Any]) -> dict[str, Any]:
        """Derivatives in the parameters from those in the numbers, by their places."""
        found: dict[str, Any] = {}
        for place, bar in bars.items():
            for path, slope in self.slopes[place].items():
                found[path] = found.get(path, 0.0) + slope * bar
        return found


def lower_sloped(layer: Layer, inputs: Values, names: tuple[str, ...]) -> Sloped:
    """Lower a network, with the derivatives of its numbers in the parameters of these paths."""
    known = parameters_of(layer)
    moving = with_parameters(layer, {name: Jet(known[name], {name: 1.0}) for name in names})
    n_inputs = len(list(leaves(inputs)))
    builder = Builder(type(layer).__name__, n_inputs)
    lowered = finish(builder, n_inputs, moving.lower(builder, input_values(inputs, iter(range(n_inputs)))))
    numbers = tuple(float(value_of(n)) for n in lowered.numbers)
    slopes = tuple({name: float(slope_of(n, name)) for name in getattr(n, "slopes", ())} for n in lowered.numbers)
    return Sloped(lowered.program, numbers, slopes, lowered.outputs)
