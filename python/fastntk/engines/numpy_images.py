"""Networks on inputs with spatial axes, in NumPy: the recursion over pairs of positions, written to be read.

A pair of images has one kernel entry for each pair of positions (p, p'). As in ``numpy_rows.py`` a slot holds the
signed defect v of its correlation and the NTK theta, in float64. What belongs to one image (variances q, and the sums
that pools need) is made once for each image, by running the network on the pairs (x, x).

Positions are numbered through, whatever the number of axes: arrays are (pairs, P, P'), or (pairs, P) for values of
which nothing later reads more than ``p = p'``. Values with no nonlinearity between them and the outputs are kept as
covariances: from there on everything is linear in K and theta.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..network.activations import is_dual, is_homogeneous
from ..network.lower import place_slots
from ..network.maps import Graph, Linear
from ..network.program import Lowered, Op, leaves
from ..network.window import Positions
from .masked import Given
from .numpy_masks import masked_behind
from .numpy_mix import Flags, diagonal
from .numpy_rows import Real, normalise
from .numpy_steps import Planes, State, Step, apply, geometry, mean_behind, of_given, of_image, variance

Array = npt.NDArray[Any]

CHUNK = 1 << 23  # float64 entries that a chunk of pairs may hold: 64 MB
TEMPORARIES = 12  # arrays of a slot's size that an op holds beside the slots


@dataclass
class Side:
    """What belongs to the images of one side, step by step."""

    planes: list[Planes]  # what steps read of one image
    hidden: list[Flags | None]  # masked positions of results, (n, P)

    def of(self, step: int, images: Positions) -> tuple[Planes, Flags | None]:
        """What a step has of some images."""
        hidden = self.hidden[step]
        return [plane[images] for plane in self.planes[step]], None if hidden is None else hidden[images]


Masks: TypeAlias = "Sequence[Flags | None]"  # of each input, (n, positions)


def positions_of(steps: Sequence[Step], inputs: Sequence[int]) -> list[int]:
    """Positions of each step's result, for inputs of so many."""
    held: dict[int, int] = {}
    found = []
    for step in steps:
        moves = step.op.window is not None or step.op.map is not None
        before = inputs[step.op.dst] if step.op.name == "input" else held[step.op.src[0]]
        found.append(step.positions if moves else before)
        if step.op.name != "store":
            held[step.op.dst] = found[-1]
    return found


def bytes_of_pair(
    steps: Sequence[Step], lowered: Lowered, positions: Sequence[int], channels: Sequence[int] = ()
) -> int:
    """What a pair of images takes while it is computed, inputs of so many positions and channels."""
    found = positions_of(steps, positions)
    sizes = [n * n if step.full else n for n, step in zip(found, steps, strict=True)]
    sizes += [n * depth // 4 for n, depth in zip(positions, channels, strict=False)]
    return 8 * max(1, *sizes) * (TEMPORARIES + 2 * lowered.program.n_slots)


def plan_of(lowered: Lowered, spatial: Sequence[tuple[int, ...]]) -> list[Step]:
    """Decide, from the outputs back, how each result is kept."""
    program = lowered.program
    steps: list[Step] = []
    read: dict[int, tuple[bool, bool]] = {}  # of the value now in a slot: all pairs of positions, a nonlinearity behind
    for op in reversed((*(Op("input", slot, ()) for slot in range(program.n_inputs)), *program.ops)):
        full, behind = (bool(spatial[op.dst]), False) if op.name == "store" else read.pop(op.dst, (False, False))
        bent = op.name == "input" or is_dual(op.name)
        own = op.own(lowered.numbers)
        steps.append(Step(op, own, full, not (bent or behind), *geometry(op, own)))
        for slot in op.src:
            fully, bends = read.get(slot, (False, False))
            read[slot] = (fully or steps[-1].reads, bends or behind or bent)
    return steps[::-1]


@lru_cache(maxsize=64)
def at_equal_positions(lowered: Lowered) -> Lowered:
    """The program without ConvLocal's independence of positions, where p = p' is all that anything reads of them."""
    if not any(op.name == "local" for op in lowered.program.ops):
        return lowered
    steps = plan_of(lowered, [value.spatial for value in leaves(lowered.outputs)])
    if any(step.op.name == "local" and step.full for step in steps):
        return lowered
    n_inputs = lowered.program.n_inputs
    held = list(range(lowered.program.n_slots))
    ops: list[Op] = []
    outputs = [0] * lowered.program.n_outputs
    for op in lowered.program.ops:
        sources = tuple(held[slot] for slot in op.src)
        if op.name == "store":
            outputs[op.dst] = sources[0]
        elif op.name == "local":
            held[op.dst] = sources[0]
        else:
            held[op.dst] = n_inputs + len(ops)
            ops.append(op._replace(dst=held[op.dst], src=sources))
    return Lowered(place_slots(tuple(ops), n_inputs, tuple(outputs)), lowered.numbers, lowered.outputs)


def _by_axis(k: Array, spatial: tuple[int, ...]) -> Array:
    """(..., P, P') -> (..., h, h', w, w', ...), and (..., 1) -> (...) where the output has no spatial axes."""
    if not spatial:
        return k[..., 0]
    lead, axes = k.shape[:-2], len(spatial)
    order = [*range(len(lead)), *(len(lead) + a + side for a in range(axes) for side in (0, axes))]
    return k.reshape(*lead, *spatial, *spatial).transpose(order)


def _alone(
    steps: list[Step], x: Sequence[Array], spatial: Sequence[tuple[int, ...]], chunk: int, real: Real,
    masks: Masks = (), pattern: Any = None, given: Sequence[Array | None] = (),
) -> tuple[Side, list[Array], Array]:  # fmt: skip
    """Run the network on the pairs (x, x): what each image has of each step, K(x, x) of the outputs, and lengths."""
    hidden, before = _masked(steps, masks)
    known = list(given) or [None] * len(x)
    lengths = (_lengths(steps, x) if all(k is None for k in known) else np.ones(len(x[0]))).astype(real)
    pixels = [
        _normalise(values / _column(lengths, values)) if k is None else [diagonal(k)]
        for values, k in zip(x, known, strict=True)
    ]
    graphs = [_graphs(step.op, pattern, len(x[0])) for step in steps]
    planes: list[list[Planes]] = [[] for _ in steps]
    covs: list[list[Array]] = [[] for _ in spatial]
    for start in range(0, max(len(x[0]), 1), chunk):
        part = slice(start, start + chunk)
        q: dict[int, Array] = {}
        means: dict[int, Array | None] = {}
        slots: dict[int, State] = {}
        for k, (step, kept) in enumerate(zip(steps, planes, strict=True)):
            name, dst, src = step.op.name, step.op.dst, step.op.src
            own = [q[s][:, :0] if slots[s][2] else q[s] for s in src]  # in its linear part a network needs no more q
            barred, seen = (None if of is None else of[part] for of in (hidden[k], before[k]))
            if name == "input":
                own = [plane[part] for plane in pixels[dst]]
            else:
                own += of_image(step, [q[s] for s in src], [slots[s] for s in src], seen, graphs[k], part)
            if name == "sum" and step.op.means:
                known_means = (means[s] if has else None for s, has in zip(src, step.op.means, strict=True))
                own += [np.zeros_like(q[s]) if m is None else m for s, m in zip(src, known_means, strict=True)]
            kept.append(own)
            same = np.ones(len(own[0]), bool)
            covariances = known[dst] if name == "input" else None
            if covariances is not None:
                state = of_given(step, covariances[part], None, own[0], own[0])
            else:
                state = apply(step, own, own, [slots[s] for s in src], same, barred, barred)
            if name == "store":
                covs[dst].append(_by_axis(state[0], spatial[dst]))
                continue
            if any(s.op.means for s in steps) and name != "input":
                means[dst] = mean_behind(step, [q[s] for s in src], [means.get(s) for s in src], own)
            made = own[-1:] * 2 if name == "input" else own
            slots[dst], q[dst] = state, diagonal(state[0]) if step.linear else variance(step, made)
            if barred is not None:
                q[dst] = np.where(barred, 0, q[dst])
    side = Side([[np.concatenate(parts) for parts in zip(*kept, strict=True)] for kept in planes], hidden)
    return side, [k * _column(lengths**2, k) for k in map(np.concatenate, covs)], lengths


def masked_outputs(lowered: Lowered, spatial: Sequence[tuple[int, ...]], masks: Masks) -> list[Flags | None]:
    """Masked positions of each output, (n, P), for those of the inputs."""
    if all(m is None for m in masks):
        return [None] * len(spatial)
    steps = plan_of(lowered, spatial)
    hidden, _ = _masked(steps, masks)
    found = {step.op.dst: own for step, own in zip(steps, hidden, strict=True) if step.op.name == "store"}
    return [found[k] for k in range(len(spatial))]


def _masked(steps: list[Step], masks: Masks) -> tuple[list[Flags | None], list[Flags | None]]:
    """Which positions are masked: of each step's result, and of its first source."""
    found: list[Flags | None] = []
    before: list[Flags | None] = []
    slots: dict[int, Flags | None] = {}
    for step in steps:
        sources = [slots[s] for s in step.op.src]
        if step.op.name == "input":
            here = masks[step.op.dst] if masks else None
        else:
            here = masked_behind(step.op, step.taps, sources)
        if step.op.name != "store":
            slots[step.op.dst] = here
        found.append(here)
        before.append(sources[0] if sources else None)
    return found, before


def _graphs(op: Op, pattern: Any, n: int) -> Array | None:
    """Matrices of images that are known before any covariance."""
    return op.map.of_images(pattern, n) if isinstance(op.map, (Graph, Linear)) else None


def _pairs(
    steps: list[Step], one: Side, i: Positions, two: Side, j: Positions, same: Flags, given: Sequence[Given | None] = ()
) -> list[Array]:
    """Run the network on the pairs of images i and j: K and theta of each output, stacked; same: an image twice."""
    slots: dict[int, State] = {}
    found: dict[int, Array] = {}
    for k, step in enumerate(steps):
        (own1, barred1), (own2, barred2) = one.of(k, i), two.of(k, j)
        known = given[step.op.dst] if given and step.op.name == "input" else None
        if known is not None:
            theta = None if known.theta is None else known.theta[i, j]
            state = of_given(step, known.nngp[i, j], theta, own1[0], own2[0])
        else:
            state = apply(step, own1, own2, [slots[s] for s in step.op.src], same, barred1, barred2)
        if step.op.name == "store":
            found[step.op.dst] = np.stack(state[:2])
        else:
            slots[step.op.dst] = state
    return [found[output] for output in sorted(found)]


def _lengths(steps: list[Step], x: Sequence[Array]) -> Array:
    """What each image is divided by: where brighter copies only scale kernels, they become equal, bit by bit."""
    largest = np.max([np.abs(values).max(axis=tuple(range(1, values.ndim))) for values in x], axis=0)
    usable = np.isfinite(largest) & (largest > 0)
    usable &= all(is_homogeneous(step.op) for step in steps)
    return np.where(usable, largest, 1).astype(np.float64)


def _column(of: Array, like: Array) -> Array:
    """A number for each sample, to multiply arrays of all their entries."""
    return of.reshape(-1, *[1] * (like.ndim - 1))


def _normalise(x: Array) -> Planes:
    """Unit vectors of all pixels, 0 for a zero pixel, and their variances ``|x_p|^2 / channels``."""
    shape = (len(x), math.prod(x.shape[1:-1]), x.shape[-1])
    units, norms = np.empty(shape), np.empty(shape[:2], x.dtype)
    normalise(x.reshape(shape), units, norms.reshape(-1))
    return [units, norms**2 / x.shape[-1]]
