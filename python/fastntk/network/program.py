"""The compiler: immutable layers -> a flat program of named ops on slots, which a backend runs on blocks of pairs.

A *slot* stands for one random function at one place of the network. For a pair of inputs it holds the signed
defect of its correlation (activations.py) and the NTK; what depends on one input alone (variances, and what the ops
derive from them) is made once per input by the row pass. A slot's ``layout`` says which positions of a pair are kept:
``"point"`` is one number per pair. Branches are ops that read one slot twice and ``sum`` ops that join them again.

Ops and their parameters (the same names in C++, ``csrc/dense/blocks.cpp``, and NumPy, ``reference.py``):

==========  ======================  =============================================================================
dense       w2, b2, f, g            K -> w2 K + b2,  NTK -> w2 NTK + f K + g
conv        w2, b2, f, g            K -> w2 A(K) + b2,  NTK -> w2 A(NTK) + f A(K) + g
transposed  w2, b2, f, g            the same over a window that ConvTranspose has
local                               K -> K at p = p', 0 elsewhere; the NTK likewise
gather                              K(P, P') -> K(p(P), p(P')), 0 where a position has no source; the NTK likewise
mix         scale of attention      K -> A K A'^T,  NTK -> A NTK A'^T;  A constant, or of one input: a graph, attention
embed       a, c                    K -> a K + c R,  NTK -> a NTK + c R;  R is the same for all pairs of inputs
drop        p                       K -> K / p,  NTK -> NTK / p  of an input with itself, at p = p'; all else stays
pool        scale                   K -> s s' P(K),  NTK -> s s' P(NTK);  s = scale, or 1 / taps inside at each position
sum                                 covariances and NTKs of independent branches add, and products of two means
product                             covariances of independent branches multiply, NTK -> sum of NTK_b prod_{c != b} K_c
norm        eps                     K -> K / (s s'),  NTK -> NTK / (s s');  s^2 = K(x, x) + eps
store                               K and NTK of the source become output ``dst``
a dual      the nonlinearity's own  K -> E phi(u) phi(v),  NTK -> NTK E phi'(u) phi'(v)   (activations.py)
==========  ======================  =============================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from ..base.jet import Jet
from .window import Window

WEIGHTED = ("dense", "conv", "transposed")
MOVING = ("transposed", "local", "gather", "mix", "embed")  # they need positions
IDENTITY = (1.0, 0.0, 0.0, 0.0)  # w2, b2, f, g


class Op(NamedTuple):
    """One step: ``dst <- name(src)``. For ``store``, ``dst`` counts outputs.

    Its parameters lie beside the program, in :attr:`Lowered.numbers`: programs that differ in nothing else are equal.
    ``kind`` says what a dense or a conv does to correlations: ``"plain"`` nothing, ``"guard"`` asks for variances of 0,
    ``"bias"`` adds a part that all inputs share, ``"fine"`` does so by row numbers in two parts; and of a sum that
    several sources have ``"means"``. A dense or a conv without numbers of its own is the identity, or a bare mean.
    """

    name: str
    dst: int
    src: tuple[int, ...]
    kind: str = ""
    numbers: range = range(0)  # places of its parameters
    window: Window | None = None  # conv and pool: the geometry
    means: tuple[bool, ...] = ()  # sum: which sources may have a mean
    layer: Any = None  # the nonlinearity, where its parameters do not say all that belongs to one input
    map: Any = None  # gather, mix, embed, and norm over positions: what network/maps.py says of positions

    def own(self, numbers: Sequence[float]) -> tuple[float, ...]:
        """Its parameters among those of the network."""
        if self.name in WEIGHTED and not self.numbers:
            return IDENTITY
        return tuple(numbers[k] for k in self.numbers)


@dataclass(frozen=True)
class Value:
    """What ``lower()`` knows of a slot: the shape side of the computation."""

    slot: int
    channels: int  # features of one sample
    gaussian: bool = False  # pre-activations; a nonlinearity needs it, and its output has lost it
    mean: str = ""  # E y over the weights: "" for 0, "known" to the row pass, or "unknown"
    weights: frozenset[int] = frozenset()  # slots of the layers with weights that it is random by; none: an input
    spatial: tuple[int, ...] = ()  # sizes of the axes that are neither batch nor channels, in their order
    batch_axis: int = 0
    channel_axis: int = 1

    def changed(self, **changes: Any) -> Value:
        """``dataclasses.replace``, five times as fast: every layer of every new network asks for it."""
        found = object.__new__(Value)
        found.__dict__.update(self.__dict__)
        found.__dict__.update(changes)
        return found


Values: TypeAlias = "Value | tuple[Values, ...]"


class Listed(tuple):  # type: ignore[type-arg]
    """Values of branches that results give as a list: FanOut's, and of inputs that come as one."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return type(other) is Listed and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((Listed, tuple(self)))


@dataclass(frozen=True, eq=False)
class Program:
    """Straight-line ops; slots ``0 .. n_inputs - 1`` are loaded before the first.

    Made by :func:`program_of`, so that equal ones are one object: the key of what is made of them.
    """

    ops: tuple[Op, ...]
    n_inputs: int
    n_slots: int
    n_outputs: int


@lru_cache(maxsize=256)
def program_of(ops: tuple[Op, ...], n_inputs: int, n_slots: int, n_outputs: int) -> Program:
    """The program of these ops."""
    return Program(ops, n_inputs, n_slots, n_outputs)


@dataclass(frozen=True, eq=False)
class Lowered:
    """A program, the numbers that its ops read, and its outputs: a tree of values, whose ``slot`` counts outputs."""

    program: Program
    numbers: tuple[float, ...]
    outputs: Values


def kind_of(params: Sequence[float]) -> str:
    """What a dense or a conv with ``(w2, b2, f, g)`` does to correlations; see :class:`Op`."""
    _, b2, _, g = params
    return "bias" if b2 > 0 else "guard" if g != 0 else "plain"


class Builder:
    """Collects ops while layers lower themselves; every value has a slot of its own until ``finish``."""

    def __init__(self, name: str, n_inputs: int) -> None:
        self.name = name
        self.ops: list[Op] = []
        self.numbers: list[float] = []  # with derivatives where the layers' parameters have some
        self.n_slots = n_inputs
        self.weighted: list[tuple[Any, int, int]] = []  # layers that give an op its numbers: layer, op, fan-in
        self.path: list[tuple[str, int, Any]] = []  # stack, index, layer, from the outermost on

    @property
    def where(self) -> str:
        """The layer being lowered, for messages: ``serial[2] Relu``."""
        return " ".join(f"{stack}[{index}] {type(layer).__name__}" for stack, index, layer in self.path) or self.name

    def lower(self, stack: str, index: int, layer: Any, values: Values) -> Any:
        """Lower layer ``index`` of a serial or a parallel."""
        self.path.append((stack, index, layer))
        found = layer.lower(self, values)
        self.path.pop()
        return found

    def emit(
        self, name: str, *sources: Value, params: Sequence[float] = (), window: Window | None = None,
        means: tuple[bool, ...] = (), layer: Any = None, map: Any = None, **changes: Any,
    ) -> Value:  # fmt: skip
        """Append an op; the new value is the first source's with ``changes``."""
        slot, first = self.n_slots, len(self.numbers)
        self.n_slots = slot + 1
        for p in params:
            self.numbers.append(p if type(p) is float or isinstance(p, Jet) else float(p))
        numbers, src = range(first, first + len(params)), tuple([s.slot for s in sources])
        changes["slot"] = slot
        if name in WEIGHTED:
            kind = kind_of(params or IDENTITY)
            if changes.get("gaussian"):
                changes["mean"], changes["weights"] = "", frozenset((slot,))
        else:
            kind = "means" if means and sum(means) > 1 else ""
        self.ops.append(Op(name, slot, src, kind, numbers, window, means, layer, map))
        return sources[0].changed(**changes)

    def check_axes(self, value: Value, batch_axis: int, channel_axis: int | None) -> None:
        """Check that a layer names the axes that its input has."""
        rank = 2 + len(value.spatial)
        channels = value.channel_axis if channel_axis is None else channel_axis
        if not (-rank <= batch_axis < rank and -rank <= channels < rank):
            raise ValueError(
                f"[{self.where}] has batch_axis={batch_axis}, channel_axis={channel_axis}, which do not fit inputs of "
                f"{rank} dims"
            )
        if (batch_axis % rank, channels % rank) != (value.batch_axis, value.channel_axis):
            raise ValueError(
                f"[{self.where}] has batch_axis={batch_axis}, channel_axis={channel_axis}, "
                f"layers before it {value.batch_axis} and {value.channel_axis}: all must agree"
            )

    def one(self, values: Values) -> Value:
        """Check that a layer that takes one input got one."""
        if isinstance(values, Value):
            return values
        raise ValueError(f"[{self.where}] takes one input, given {len(values)} (branches must be joined by FanInSum)")

    def several(self, values: Values) -> tuple[Value, ...]:
        """Check that a fan-in got branches."""
        if isinstance(values, Value) or not values:
            raise ValueError(f"[{self.where}] takes the outputs of several branches, given one (FanOut makes branches)")
        return tuple(self.one(v) for v in values)


def leaves(values: Values) -> Iterator[Value]:
    """The values of a tree, in order."""
    if isinstance(values, Value):
        yield values
    else:
        for value in values:
            yield from leaves(value)
