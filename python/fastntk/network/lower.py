"""``lower()``: a layer to a program, slots used again once their last reader has run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ..base.jet import Jet
from .amplify import amplifying
from .layer import Layer
from .program import Builder, Lowered, Op, Program, Value, Values, leaves, program_of


def _renumber(values: Values, counter: Iterator[int]) -> Values:
    if isinstance(values, Value):
        return values.changed(slot=next(counter))
    return type(values)(_renumber(v, counter) for v in values)


def finish(builder: Builder, n_inputs: int, outputs: Values) -> Lowered:
    """Place a store behind each output and reuse slots whose last reader has run."""
    program = place_slots(tuple(builder.ops), n_inputs, tuple(value.slot for value in leaves(outputs)))
    if fine := amplifying(program.ops, builder.numbers, n_inputs):
        ops = tuple(op._replace(kind="fine") if k in fine else op for k, op in enumerate(program.ops))
        program = program_of(ops, n_inputs, program.n_slots, program.n_outputs)
    return Lowered(program, tuple(builder.numbers), _renumber(outputs, iter(range(program.n_outputs))))


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
    n_inputs = len(list(leaves(inputs)))
    builder = Builder(type(layer).__name__, n_inputs)
    values = input_values(inputs, iter(range(n_inputs)))
    if not depths:
        return _plain(finish(builder, n_inputs, layer.lower(builder, values)))
    kept: dict[int, Value] = {}  # by slot: a layer that adds nothing repeats none
    for value in layer.lower_each(builder, values):
        if isinstance(value, Value) and value.gaussian:
            kept.setdefault(value.slot, value)
    if not kept:
        raise ValueError("depths: no layer of the stack has a Gaussian output (Dense or FanInSum)")
    return _plain(finish(builder, n_inputs, tuple(kept.values())))


def _plain(lowered: Lowered) -> Lowered:
    """Raise TypeError where a layer holds what another library records in place of a number."""
    for number in lowered.numbers:
        if isinstance(number, Jet):
            raise TypeError(
                "[kernel_fn] a layer holds a JAX tracer, or a tensor that records gradients, as a parameter: call "
                "fastntk.jax.kernel or fastntk.torch.kernel, which carry its derivative"
            )
    return lowered
