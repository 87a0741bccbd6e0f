"""Where weights of a network of stax stand: their layers in order, and each one's place from inputs to outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..base.arraylike import describe
from ..network.combinators import FanInSum, FanOut, Parallel, Serial
from ..network.layer import Layer
from ..network.weights import Conv, Dense


@dataclass(frozen=True)
class _Value:
    """What flows between layers: weight layers on the longest path to it, and those whose outputs it is made of."""

    level: int
    made_of: frozenset[int]


def _merged(values: Any) -> _Value:
    if isinstance(values, _Value):
        return values
    parts = [_merged(v) for v in values]
    return _Value(max(p.level for p in parts), frozenset().union(*(p.made_of for p in parts)))


class Walk:
    """Weight layers in the order of their parameters, each with its place in the network."""

    def __init__(self, network: Layer) -> None:
        self.layers: list[Dense | Conv] = []
        self._levels: list[int] = []
        last = _merged(self._through(network, _Value(0, frozenset()))).made_of
        self.L = max((level for i, level in enumerate(self._levels) if i not in last), default=0)
        # 1, ..., L + 1; 0 for a layer from the inputs straight to the outputs
        self.places = [
            (0 if level == 1 else self.L + 1) if i in last else level for i, level in enumerate(self._levels)
        ]
        self.last = tuple(sorted(last))

    def width(self) -> float:
        """Geometric mean of the hidden layers' widths."""
        widths = [
            layer.out_dim if isinstance(layer, Dense) else layer.out_chan
            for layer, place in zip(self.layers, self.places, strict=True)
            if 1 <= place <= self.L
        ]
        return math.exp(sum(map(math.log, widths)) / len(widths))

    def exponents(self, values: tuple[float, ...]) -> list[float]:
        """Of every weight layer; 0 where it has no width."""
        return [values[place - 1] if place else 0.0 for place in self.places]

    def _through(self, layer: Layer, values: Any) -> Any:
        if isinstance(layer, Serial):
            for part in layer.layers:
                values = self._through(part, values)
            return values
        if isinstance(layer, Parallel):
            return tuple(self._through(part, v) for part, v in zip(layer.layers, values, strict=True))
        if isinstance(layer, FanOut):
            return (values,) * layer.num
        if isinstance(layer, FanInSum):
            return _merged(values)
        if isinstance(layer, (Dense, Conv)):
            self.layers.append(layer)
            self._levels.append(_merged(values).level + 1)
            return _Value(self._levels[-1], frozenset([len(self.layers) - 1]))
        return values


def network_of(network: Any, what: str) -> Layer:
    """A network of stax.

    Raises
    ------
    TypeError
        Another object.
    """
    if not isinstance(network, Layer):
        raise TypeError(f"[{what}] takes a network of stax, given {describe(network)}")
    return network


def walk_of(network: Any, what: str) -> Walk:
    """The walk of a network that has a hidden layer.

    Raises
    ------
    TypeError
        Another object.
    ValueError
        A network without a hidden layer.
    """
    walk = Walk(network_of(network, what))
    if walk.L < 1:
        raise ValueError(f"[{what}] the network has no hidden layer, so no width to scale with")
    return walk


def width_of(walk: Walk, p: Any, width: float | None, what: str) -> float:
    """The width m that a parameterization p scales a network by: the one given, else that of its hidden layers.

    Raises
    ------
    ValueError
        Another width; a parameterization for another depth, or without exponents for biases that the network has.
    """
    m = walk.width() if width is None else float(width)
    if not 0 < m < math.inf:
        raise ValueError(f"[{what}] width must be positive and finite, given {width!r}")
    if p.L != walk.L:
        raise ValueError(f"[{what}] {p.name} is for L = {p.L} hidden layers, the network has {walk.L}")
    if p.bias is None and any(layer.b_std is not None for layer in walk.layers):
        raise ValueError(f"[{what}] the network has biases, {p.name} has no exponents for them (biases=True)")
    return m


def mapped(layer: Layer, change: Callable[[Layer], Layer]) -> Layer:
    """The same network with its layers changed, those made of layers rebuilt of these."""
    if isinstance(layer, (Serial, Parallel)):
        return replace(layer, layers=tuple(mapped(part, change) for part in layer.layers))
    return change(layer)


def as_ntk(layer: Layer) -> Layer:
    """The same network with all its layers in 'ntk' form: ``W_std / sqrt(fan-in) W x + b_std b``."""

    def change(one: Layer) -> Layer:
        if isinstance(one, (Dense, Conv)) and one.parameterization != "ntk":
            name = "out_dim" if isinstance(one, Dense) else "out_chan"
            width = getattr(one, name) * one.s[1]
            return replace(one, **{name: width, "parameterization": "ntk", "s": (1, 1)})
        return one

    return mapped(layer, change)


def input_axis(layer: Dense | Conv, rank: int) -> int:
    """The axis of a layer's weights that counts its inputs' channels."""
    filters = getattr(layer, "dimension_numbers", None)
    return int(filters[1].index("I")) if filters else rank - 2


def leaves_of(layer: Layer, params: Any) -> Iterator[tuple[Any, bool | None]]:
    """Arrays of a tree of parameters in order: those of weight layers, W (True) and b (False), and others (None)."""
    if isinstance(layer, (Serial, Parallel)):
        for part, own in zip(layer.layers, params, strict=True):
            yield from leaves_of(part, own)
    elif isinstance(layer, (Dense, Conv)):
        W, b = params
        yield W, True
        if b is not None:
            yield b, False
    else:
        for array in _arrays(params):
            yield array, None


def _arrays(params: Any) -> Iterator[Any]:
    if isinstance(params, (tuple, list)):
        for part in params:
            yield from _arrays(part)
    elif params is not None:
        yield params


def rebuilt(params: Any, leaves: Iterator[Any]) -> Any:
    """The tree with other arrays, taken in order."""
    if isinstance(params, (tuple, list)):
        return tuple(rebuilt(part, leaves) for part in params)
    return None if params is None else next(leaves)
