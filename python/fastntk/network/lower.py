"""``lower()``: a layer to a program, slots used again once their last reader has run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from ..base.jet import Jet
from .amplify import amplifying
from .layer import Layer
from .program import Builder, Lowered, Op, Program, Value, Values, kind_of, leaves, program_of


def _renumber(values: Values, counter: Iterator[int]) -> Values:
    if isinstance(values, Value):
        return values.changed(slot=next(counter))
    return type(values)(_renumber(v, counter) for v in values)


def finish(builder: Builder, n_inputs: int, outputs: Values) -> Lowered:
    """Place a store behind each output and reuse slots whose last reader has run."""
    program = place_slots(tuple(builder.ops), n_inputs, tuple(value.slot for value in leaves(outputs)))
    outputs = _renumber(outputs, iter(range(program.n_outputs)))
    return _with_numbers(program, tuple(builder.numbers), outputs)


def _with_numbers(program: Program, numbers: tuple[Any, ...], outputs: Values) -> Lowered:
    if fine := amplifying(program, numbers):
        ops = tuple(op._replace(kind="fine") if k in fine else op for k, op in enumerate(program.ops))
        program = program_of(ops, program.n_inputs, program.n_slots, program.n_outputs)
    return Lowered(program, numbers, outputs)


@lru_cache(maxsize=256)
def place_slots(made: tuple[Op, ...], n_inputs: int, outputs: tuple[int, ...]) -> Program:
    """The program of ops whose slots are their own; ``outputs``: those that are stored."""
    ops: list[Op] = []
    stored: dict[int, list[int]] = {}
    for index, slot in enumerate(outputs):
        stored.setdefault(slot, []).append(index)
    for slot in range(n_inputs):
        ops.extend(Op("store", index, (slot,)) for index in stored.get(slot, ()))
    for op in made:
        ops.append(op)
        ops.extend(Op("store", index, (op.dst,)) for index in stored.get(op.dst, ()))

    last_read = {slot: position for position, op in enumerate(ops) for slot in op.src}
    place = {slot: slot for slot in range(n_inputs)}
    free: list[int] = []
    n_slots = n_inputs
    placed: list[Op] = []
    for position, op in enumerate(ops):
        src = tuple(place[s] for s in op.src)
        dying = [place[s] for s in dict.fromkeys(op.src) if last_read[s] == position]
        if op.name == "store":
            free.extend(dying)
            placed.append(op._replace(src=src))
            continue
        joins = op.name in ("sum", "product")  # they write before they have read every source; others work in place
        if not joins:
            free.extend(dying)
        if free:
            dst = free.pop()
        else:
            dst = n_slots
            n_slots += 1
        if joins:
            free.extend(dying)
        place[op.dst] = dst
        if op.dst not in last_read:
            free.append(dst)
        placed.append(op._replace(dst=dst, src=src))
    return program_of(tuple(placed), n_inputs, n_slots, len(outputs))


def input_values(inputs: Any, counter: Iterator[int]) -> Values:
    """A tree of input values, renumbered."""
    if isinstance(inputs, Value):
        return inputs.changed(slot=next(counter))
    return type(inputs)(input_values(i, counter) for i in inputs)  # type: ignore[no-any-return]


@lru_cache(maxsize=256)
def lower(layer: Layer, inputs: Values, depths: bool = False) -> Lowered:
    """Lower ``layer`` for a tree of input values (slots are renumbered); ``depths`` keeps every Gaussian layer."""
    weighted: list[Any] = []
    key = layer.structure(weighted), inputs
    if not depths and (again := _again(key, weighted)) is not None:
        return _plain(again)
    n_inputs = len(list(leaves(inputs)))
    builder = Builder(type(layer).__name__, n_inputs)
    values = input_values(inputs, iter(range(n_inputs)))
    if not depths:
        made = layer.lower(builder, values)
        found = _plain(finish(builder, n_inputs, made))
        if [id(own) for own, _, _ in builder.weighted] == list(map(id, weighted)):
            _keep(key, builder, n_inputs, made, found.outputs)
        return found
    kept: dict[int, Value] = {}  # by slot: a layer that adds nothing repeats none
    for value in layer.lower_each(builder, values):
        if isinstance(value, Value) and value.gaussian:
            kept.setdefault(value.slot, value)
    if not kept:
        raise ValueError("depths: no layer of the stack has a Gaussian output (Dense or FanInSum)")
    return _plain(finish(builder, n_inputs, tuple(kept.values())))


# ---------------------------------------------------------------- the same network with other numbers


class _Kept(NamedTuple):
    """A program of which the numbers of some ops are their layers', in the order in which structure() names these."""

    program: Program
    numbers: tuple[Any, ...]
    outputs: Values
    made: tuple[tuple[int, int, str], ...]  # of each such layer: place of its first number, fan-in, kind of its op


_KEPT: dict[Any, _Kept] = {}  # by structure and inputs
_MOST_KEPT = 256


def _keep(key: Any, builder: Builder, n_inputs: int, made: Values, outputs: Values) -> None:
    program = place_slots(tuple(builder.ops), n_inputs, tuple(value.slot for value in leaves(made)))
    ops = [(builder.ops[k], fan_in) for _, k, fan_in in builder.weighted]
    own = tuple((op.numbers.start, fan_in, op.kind) for op, fan_in in ops)
    if len(_KEPT) >= _MOST_KEPT:
        _KEPT.clear()
    _KEPT[key] = _Kept(program, tuple(builder.numbers), outputs, own)


def _again(key: Any, weighted: list[Any]) -> Lowered | None:
    """The network of a structure that is known, with the numbers of these layers; None where it is not."""
    kept = _KEPT.get(key)
    if kept is None:
        return None
    numbers = list(kept.numbers)
    for layer, (first, fan_in, kind) in zip(weighted, kept.made, strict=True):
        own = layer.op_numbers(fan_in)
        if kind_of(own) != kind:
            return None
        numbers[first : first + len(own)] = own
    return _with_numbers(kept.program, tuple(numbers), kept.outputs)


def _plain(lowered: Lowered) -> Lowered:
    """Raise TypeError where a layer holds what another library records in place of a number."""
    for number in lowered.numbers:
        if isinstance(number, Jet):
            raise TypeError(
                "[kernel_fn] a layer holds a JAX tracer, or a tensor that records gradients, as a parameter: call "
                "fastntk.jax.kernel or fastntk.torch.kernel, which carry its derivative"
            )
    return lowered
