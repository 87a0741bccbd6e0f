"""Layers made of layers, and branches: serial, parallel, FanOut, FanInSum, FanInProd, FanInConcat, Identity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.checks import integer
from .layer import Layer, Shape, is_one
from .maps import Gather
from .program import Builder, Listed, Value, Values


@dataclass(frozen=True)
class Identity(Layer):
    """Passes its input on."""

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        return inputs

    def lower(self, builder: Builder, values: Values) -> Values:
        return values


@dataclass(frozen=True)
class FanOut(Layer):
    """Gives ``num`` branches the same input."""

    num: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "num", integer("FanOut", "num", self.num))

    def output_shape(self, shape: Shape) -> Shape:
        return (shape,) * self.num

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        return [inputs] * self.num

    def lower(self, builder: Builder, values: Values) -> Values:
        return Listed((values,) * self.num)


def _branches_of_one_shape(layer: Layer, shape: Shape) -> Shape:
    if is_one(shape) or any(s != shape[0] for s in shape):
        raise ValueError(f"[{type(layer).__name__}] takes branches of one shape, given {shape}")
    return tuple(shape[0])


def _tuple_of_branches(layer: Layer, inputs: Any) -> Any:
    if not isinstance(inputs, (tuple, list)) or not inputs:
        raise ValueError(f"[{type(layer).__name__}] inputs must be a tuple of branches")
    return inputs


class _FanIn(Layer):
    """What the layers that join branches share."""

    def _check(
        self, builder: Builder, branches: Sequence[Value], one_width: bool = True, one_size: bool = True
    ) -> None:
        """Branches alike in shape, and of those that are not Gaussian no two random by the same weights."""
        if one_width and len({b.channels for b in branches}) > 1:
            raise ValueError(
                f"[{builder.where}] branches have widths {[b.channels for b in branches]}: all must be equal"
            )
        if one_size and len({b.spatial for b in branches}) > 1:
            raise ValueError(
                f"[{builder.where}] branches have spatial shapes {[b.spatial for b in branches]}: all must be equal"
            )
        axes = {(b.batch_axis, b.channel_axis) for b in branches}
        if len(axes) > 1:
            raise ValueError(
                f"[{builder.where}] branches have (batch_axis, channel_axis) = {sorted(axes)}: all must agree"
            )
        gaussian = [b.gaussian for b in branches]
        if all(gaussian):
            return
        if any(not b.gaussian and not b.weights for b in branches):
            raise NotImplementedError(
                f"[{builder.where}] joins outputs of layers, given gaussian = {gaussian} with the network's input, or "
                "a kernel to continue that is not Gaussian, among them: put a Dense layer before it"
            )
        for k, one in enumerate(branches):
            for two in branches[:k]:
                if not (one.gaussian and two.gaussian) and one.weights & two.weights:
                    raise NotImplementedError(
                        f"[{builder.where}] branches must be independent, given gaussian = {gaussian} and two that are "
                        "random by the same weights: give one of them a Dense layer of its own at its end"
                    )


@dataclass(frozen=True)
class FanInSum(_FanIn):
    """Sums branches, which count as independent: their kernels add, and with them the products of their means.

    Raises
    ------
    NotImplementedError
        When the network's input is a branch, when two branches that are not both Gaussian share the weights that
        they are random by (``z`` and ``relu(z)``), when the means of two are needed and one is not known (behind an
        offset).
    ValueError
        When branches differ in width.

    Notes
    -----
    ``K = sum_b K_b + sum_{b != c} m_b m_c'`` with ``m = E phi(sqrt(q) z)`` of each input, which is 0 of Gaussian
    branches and odd functions; ``NTK = sum_b NTK_b``. The sum is Gaussian where all branches are.
    """

    def output_shape(self, shape: Shape) -> Shape:
        return _branches_of_one_shape(self, shape)

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        total, *others = _tuple_of_branches(self, inputs)
        for branch in others:
            total = total + branch
        return total

    def lower(self, builder: Builder, values: Values) -> Value:
        branches = builder.several(values)
        if len(branches) == 1:
            return branches[0]
        self._check(builder, branches)
        means = {b.mean for b in branches if b.mean}
        if sum(bool(b.mean) for b in branches) > 1 and "unknown" in means:
            raise NotImplementedError(
                f"[{builder.where}] the means of its branches count, and that of one with an offset or a negative "
                "scale behind its nonlinearity is not known: end it with a Dense layer"
            )
        return builder.emit(
            "sum", *branches, means=tuple(bool(b.mean) for b in branches) if means == {"known"} else (),
            gaussian=all(b.gaussian for b in branches), mean="unknown" if "unknown" in means else "".join(means),
            weights=frozenset().union(*(b.weights for b in branches)),
        )  # fmt: skip


@dataclass(frozen=True)
class FanInProd(_FanIn):
    """Multiplies branches, which count as independent.

    Raises
    ------
    NotImplementedError
        As :class:`FanInSum`.
    ValueError
        When branches differ in width.

    Notes
    -----
    ``K = prod_b K_b``, ``NTK = sum_b NTK_b prod_{c != b} K_c``. The product is not Gaussian.
    """

    def output_shape(self, shape: Shape) -> Shape:
        return _branches_of_one_shape(self, shape)

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        product, *others = _tuple_of_branches(self, inputs)
        for branch in others:
            product = product * branch
        return product

    def lower(self, builder: Builder, values: Values) -> Value:
        branches = builder.several(values)
        if len(branches) == 1:
            return branches[0]
        self._check(builder, branches)
        means = [b.mean for b in branches]
        mean = "" if "" in means else "unknown" if "unknown" in means else "known"
        weights = frozenset().union(*(b.weights for b in branches))
        return builder.emit("product", *branches, gaussian=False, mean=mean, weights=weights)


@dataclass(frozen=True)
class FanInConcat(_FanIn):
    """Puts branches side by side: their channels, or their positions along an axis.

    Parameters
    ----------
    axis : int
        That of the channels, or a spatial one.

    Raises
    ------
    NotImplementedError
        For the axis of samples; when the network's input is a branch; for positions of branches that are not Gaussian.
    ValueError
        For an axis that the branches lack, branches that differ along another one.

    Notes
    -----
    Channels: ``K = sum_b n_b K_b / n`` for branches of n_b of all n channels, and the NTK likewise. The channels differ
    in law, so that no nonlinearity can follow before a Dense layer. Positions: those of two branches are independent,
    K and NTK are 0 between them.
    """

    axis: int = -1

    def __post_init__(self) -> None:
        object.__setattr__(self, "axis", integer("FanInConcat", "axis", self.axis, least=None))

    def output_shape(self, shape: Shape) -> Shape:
        if is_one(shape) or any(len(s) != len(shape[0]) for s in shape):
            raise ValueError(f"[FanInConcat] takes branches of as many axes, given {shape}")
        axis = self.axis % len(shape[0])
        if any(s[:axis] != shape[0][:axis] or s[axis + 1 :] != shape[0][axis + 1 :] for s in shape):
            raise ValueError(f"[FanInConcat] branches may differ along axis {self.axis} alone, given {shape}")
        return (*shape[0][:axis], sum(s[axis] for s in shape), *shape[0][axis + 1 :])

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        return xp.concatenate(_tuple_of_branches(self, inputs), axis=self.axis)

    def lower(self, builder: Builder, values: Values) -> Value:
        branches = builder.several(values)
        if len(branches) == 1:
            return branches[0]
        first = branches[0]
        rank = 2 + len(first.spatial)
        if not -rank <= self.axis < rank:
            raise ValueError(f"[{builder.where}] has axis={self.axis}, given branches of {rank} axes")
        axis = self.axis % rank
        if axis == first.batch_axis:
            raise NotImplementedError(
                f"[{builder.where}] has axis={self.axis}, that of samples: give kernel_fn the samples of all branches"
            )
        if axis != first.channel_axis:
            return self._positions(builder, branches, axis)
        self._check(builder, branches, one_width=False)
        channels = sum(b.channels for b in branches)
        scaled = [builder.emit("dense", b, params=(b.channels / channels, 0, 0, 0)) for b in branches]
        mean = "unknown" if any(b.mean for b in branches) else ""
        weights = frozenset().union(*(b.weights for b in branches))
        return builder.emit("sum", *scaled, gaussian=False, mean=mean, weights=weights, channels=channels)

    def _positions(self, builder: Builder, branches: Sequence[Value], axis: int) -> Value:
        """Along a spatial axis: each branch in its place, and the sum of all, of which one is not 0."""
        self._check(builder, branches, one_size=False)
        first = branches[0]
        names = [a for a in range(2 + len(first.spatial)) if a not in (first.batch_axis, first.channel_axis)]
        place = names.index(axis)
        for b in branches:
            if len(b.spatial) != len(first.spatial) or any(
                b.spatial[k] != first.spatial[k] for k in range(len(names)) if k != place
            ):
                raise ValueError(
                    f"[{builder.where}] branches have spatial shapes {[b.spatial for b in branches]}, which may differ "
                    f"along axis {axis} alone"
                )
        if not all(b.gaussian for b in branches):
            raise NotImplementedError(
                f"[{builder.where}] puts positions of Gaussian branches side by side, given gaussian = "
                f"{[b.gaussian for b in branches]}: end each with Conv or Dense"
            )
        total = sum(b.spatial[place] for b in branches)
        start, moved = 0, []
        for b in branches:
            own = np.arange(math.prod(b.spatial)).reshape(b.spatial)
            pads = [(0, 0)] * own.ndim
            pads[place] = (start, total - start - b.spatial[place])
            index = np.pad(own, pads, constant_values=-1)
            moved.append(builder.emit("gather", b, map=Gather.of(index, own.size), spatial=index.shape))
            start += b.spatial[place]
        weights = frozenset().union(*(b.weights for b in branches))
        return builder.emit("sum", *moved, weights=weights)


@dataclass(frozen=True)
class Serial(Layer):
    """Layers one after the other: made by :func:`serial`."""

    layers: tuple[Layer, ...]

    def output_shape(self, shape: Shape) -> Shape:
        for layer in self.layers:
            shape = layer.output_shape(shape)
        return shape

    def init(self, rng: np.random.Generator, shape: Shape, dtype: Any) -> Any:
        params = []
        for layer in self.layers:
            params.append(layer.init(rng, shape, dtype))
            shape = layer.output_shape(shape)
        return tuple(params)

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        _check_count("serial", params, self.layers)
        for layer, own in zip(self.layers, params, strict=True):
            inputs = layer.apply(own, inputs, xp)
        return inputs

    def lower(self, builder: Builder, values: Values) -> Values:
        for index, layer in enumerate(self.layers):
            values = builder.lower("serial", index, layer, values)
        return values

    def lower_each(self, builder: Builder, values: Values) -> Iterator[Values]:
        for index, layer in enumerate(self.layers):
            builder.path.append(("serial", index, layer))
            for part in layer.lower_each(builder, values):
                values = part
                yield part
            builder.path.pop()

    def structure(self, weighted: list[Any]) -> Any:
        return type(self), *[layer.structure(weighted) for layer in self.layers]

    def axes(self) -> tuple[int, int] | None:
        return next((axes for layer in self.layers if (axes := layer.axes()) is not None), None)


@dataclass(frozen=True)
class Parallel(Layer):
    """Layers side by side, one input each: made by :func:`parallel`."""

    layers: tuple[Layer, ...]

    def output_shape(self, shape: Shape) -> Shape:
        _check_count("parallel", shape, self.layers)
        return tuple(layer.output_shape(s) for layer, s in zip(self.layers, shape, strict=True))

    def init(self, rng: np.random.Generator, shape: Shape, dtype: Any) -> Any:
        _check_count("parallel", shape, self.layers)
        return tuple(layer.init(rng, s, dtype) for layer, s in zip(self.layers, shape, strict=True))

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        _check_count("parallel", inputs, self.layers)
        _check_count("parallel", params, self.layers)
        found = (layer.apply(p, x, xp) for layer, p, x in zip(self.layers, params, inputs, strict=True))
        return list(found) if isinstance(inputs, list) else tuple(found)

    def lower(self, builder: Builder, values: Values) -> Values:
        if isinstance(values, Value) or len(values) != len(self.layers):
            given = 1 if isinstance(values, Value) else len(values)
            raise ValueError(f"[{builder.where or 'parallel'}] has {len(self.layers)} branches, given {given} inputs")
        out = []
        for index, (layer, value) in enumerate(zip(self.layers, values, strict=True)):
            out.append(builder.lower("parallel", index, layer, value))
        return type(values)(out)

    def structure(self, weighted: list[Any]) -> Any:
        return type(self), *[layer.structure(weighted) for layer in self.layers]

    def axes(self) -> tuple[int, int] | None:
        return next((axes for layer in self.layers if (axes := layer.axes()) is not None), None)


def _check_count(what: str, given: Any, layers: Sequence[Layer]) -> None:
    if not isinstance(given, (tuple, list)) or any(isinstance(g, int) for g in given):
        raise ValueError(f"[{what}] has {len(layers)} layers and takes as many entries, given {given!r}")
    if len(given) != len(layers):
        raise ValueError(f"[{what}] has {len(layers)} layers, given {len(given)} entries")


def _check_layers(what: str, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    for index, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise TypeError(f"[{what}] argument {index} must be a fastntk layer, given {type(layer).__name__}")
    return tuple(layers)


def serial(*layers: Layer) -> Serial:
    """Compose layers one after the other.

    Parameters
    ----------
    *layers : Layer

    Returns
    -------
    Serial
        Unpacks into ``(init_fn, apply_fn, kernel_fn)``.

    Raises
    ------
    TypeError
        If an argument is not a layer.
    """
    return Serial(_check_layers("serial", layers))


def parallel(*layers: Layer) -> Parallel:
    """Compose layers side by side: branch i gets input i (see :class:`FanOut`, :class:`FanInSum`).

    Parameters
    ----------
    *layers : Layer

    Returns
    -------
    Parallel
        Unpacks into ``(init_fn, apply_fn, kernel_fn)``; its kernel function takes and gives tuples, or lists
        where it is given one, or stands behind FanOut.

    Raises
    ------
    TypeError
        If an argument is not a layer.
    """
    return Parallel(_check_layers("parallel", layers))


def repeat(layer: Layer, n: int) -> Layer:
    """The layer n times, one after the other, each with weights of its own.

    Parameters
    ----------
    layer : Layer
    n : int
        0: the identity.

    Returns
    -------
    Layer
        Unpacks into ``(init_fn, apply_fn, kernel_fn)``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not a layer, n is negative.
    """
    (layer,) = _check_layers("repeat", [layer])
    return Serial((layer,) * integer("repeat", "n", n, least=0))
