"""What of a pair of images is computed: the plan behind ``kernel_fn.explain`` and the compiled engine's images.

A covariance belongs to two positions p and p'. Nonlinearities, sums and windows of stride 1 keep the displacement
p' - p; pooling and strides gather several displacements into one. So a program falls apart into *grids* of positions:
within a grid every displacement is a problem of its own, whose planes stay in cache over all its steps; between grids
lie *links*, which add planes of one grid up into those of the next. A pass from the readout down finds the
displacements that each grid has to know.

Displacements live on a torus: on an axis of n positions, d in [0, n) stands for d and d - n, and position p meets
(p + d) mod n. Every plane has then all n positions; windows must not reach across the seam.

Forms, what a plane carries of a covariance K between standard deviations s and s':

========  =================================================================================================
cov       K: where no nonlinearity follows
defect    s s' - K: keeps its digits where the correlation is near 1; for K that are known to be positive
signed    both s s' - K and s s' + K
========  =================================================================================================
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from ..network.activations import is_positive
from ..network.program import Op, Program
from ..network.window import Window

Need = tuple[tuple[int, ...], ...]  # displacements on the torus, sorted, for each axis

Key = tuple[int, tuple[int, ...]]  # of a grid: how many links lie before it, and its sizes
Needs = dict[Key, list[set[int]]]

FAST_LANES, VECTOR = 32, 16  # lanes that loops of their own are for, numbers of the widest vector

LINEAR = ("dense", "conv", "pool", "sum", "convert")


@dataclass(frozen=True)
class Step:
    """One step on the planes of a grid: ``dst <- name(src)``.

    Names: the ops of a program; ``input`` (src: program input), ``join`` (dst: link), ``land`` (src: link), and
    ``convert`` to another form.
    """

    name: str
    dst: int
    src: tuple[int, ...]
    form_in: str
    form_out: str
    extent: tuple[int, ...]  # positions of the result that count; a VALID window leaves the grid's last ones unused
    kind: str = ""  # of a dense or a conv, and where its parameters are: as in an op
    numbers: range = range(0)
    window: Window | None = None
    fused: bool = False  # the next step, a nonlinearity, is done in this one's pass
    layer: Any = None  # the nonlinearity: as in an op

    @property
    def parts(self) -> tuple[int, int]:
        """What sums go over in two stages: of a conv taps along the inner axes, then along axis 0; of a landing all."""
        if self.window is None:
            return 1, 1
        shape = self.window.shape
        return (math.prod(shape[1:]), shape[0]) if self.name == "conv" else (math.prod(shape), 1)

    @property
    def meet(self) -> str:
        """How rows of three taps of a conv meet along axis 0: 'same', 'valid' or 'circular'; '' for other windows."""
        w = self.window
        if w is None or w.shape[0] != 3 or w.dilation[0] != 1:
            return ""
        if w.circular:
            return "circular" if w.low[0] == 1 else ""
        return {0: "valid", 1: "same"}.get(w.low[0], "")

    def flops(self) -> float:
        """Additions and multiplications of one entry."""
        planes = 3 if self.form_in == "signed" else 2
        if self.name == "conv":
            assert self.window is not None
            taps = self.window.shape[0] + math.prod(self.window.shape[1:])
            return 2 * planes * taps + (0 if self.form_in == "cov" else 3 * taps) + 6
        if self.name in LINEAR or self.name in ("input", "join", "land", "store"):
            return 2 * planes
        if self.layer is not None:
            return 20 + 12 * len(self.numbers)
        return 45  # a nonlinearity: one square root, two polynomials


@dataclass(frozen=True)
class Grid:
    """Positions that keep their displacement over ``steps``."""

    sizes: tuple[int, ...]
    need: Need
    self_need: Need  # of an image with itself, for the variances behind pooling; empty axes: nothing
    steps: tuple[Step, ...]
    n_slots: int

    @property
    def rows(self) -> int:
        """Positions along axis 0."""
        return self.sizes[0]

    @property
    def inner(self) -> int:
        """Positions along all other axes."""
        return math.prod(self.sizes[1:])

    @property
    def packed(self) -> int:
        """Displacements along the inner axes that lie side by side in a row of a plane."""
        return max(1, min(math.prod(max(1, len(axis)) for axis in self.need[1:]), FAST_LANES // self.inner))

    @property
    def lanes(self) -> int:
        """Numbers in a row of a plane: whole vectors."""
        return -(-self.packed * self.inner // VECTOR) * VECTOR

    @property
    def displacements(self) -> int:
        """Number of displacements computed for a pair of images."""
        return math.prod(len(axis) for axis in self.need)

    @property
    def entries(self) -> int:
        """Covariance entries of one pair of images."""
        return self.displacements * math.prod(self.sizes)

    def flops(self) -> float:
        """Additions and multiplications of one pair of images."""
        return sum(step.flops() for step in self.steps) * self.entries

    def seconds(self) -> float:
        """About how long one pair takes on one core with AVX-512 at 2.5 GHz, float32.

        Arithmetic in whole vectors of 16 lanes, 5 ns for each row of each step, and tables read at 20 GB/s where
        only one displacement has a use for them.
        """
        rows, lanes = self.rows, self.lanes
        planes = self.displacements / self.packed * rows
        seconds = planes * (lanes * sum(step.flops() for step in self.steps) / 1.1e11 + 5e-9 * len(self.steps))
        if self.displacements == 1:
            seconds += rows * lanes * 4 * 5 * len(self.steps) / 4 / 2e10
        return seconds

    def summary(self) -> str:
        """Names of the steps in a row, repeats counted."""
        names = [step.name for step in self.steps]
        found = ""
        while names:
            period, times = _repeats(names)
            part = " ".join(names[:period])
            found += f" {times} x ({part})" if times > 1 else f" {part}"
            names = names[period * times :]
        return found[1:]


def _repeats(names: list[str]) -> tuple[int, int]:
    """Length of the pattern that a list begins with, and how often it stands there."""
    for period in (1, 2, 3, 4):
        times = 1
        while names[period * times : period * (times + 1)] == names[:period]:
            times += 1
        if times > 1:
            return period, times
    return 1, 1


@dataclass(frozen=True)
class Link:
    """From the planes of one grid to those of another."""

    source: int
    target: int
    window: Window
    pool: bool
    form: str


@dataclass(frozen=True)
class Plan:
    """Grids in the order in which they run, and the links between them."""

    grids: tuple[Grid, ...]
    links: tuple[Link, ...]

    def flops(self) -> float:
        """Additions and multiplications of one pair of images."""
        return sum(grid.flops() for grid in self.grids)

    def seconds(self) -> float:
        """About how long one pair takes on one core, float32."""
        return self._seconds

    @cached_property
    def _seconds(self) -> float:
        return sum(grid.seconds() for grid in self.grids)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Asked for at every call: plans are found by it."""
        return hash((self.grids, self.links))


@dataclass
class _Node:
    """One value of the program, in single-assignment form."""

    op: Op
    sources: tuple[int, ...]
    level: int
    sizes: tuple[int, ...]  # of its grid
    extent: tuple[int, ...]
    joins: bool = False
    link: int = -1  # where it joins
    defect: bool = False
    positive: bool = False
    stored: list[int] = field(default_factory=list)

    @property
    def form(self) -> str:
        return "cov" if not self.defect else "defect" if self.positive else "signed"

    @property
    def key(self) -> Key:
        return self.level, self.sizes if math.prod(self.sizes) > 1 else (1,)


def _in_grid(window: Window, sizes: tuple[int, ...], pool: bool) -> bool:
    """Whether a window keeps displacements, on a grid of which its output still fills most."""
    if pool or not window.aligned:
        return False
    if window.circular:
        return window.size_in == sizes
    if window.size_out == window.size_in:  # as SAME places it; other padding goes to a grid of its own
        reach = zip(window.shape, window.dilation, window.low, strict=True)
        return all(low == (k - 1) * e // 2 for k, e, low in reach)
    return not any(window.low) and all(n >= m > n / 2 for m, n in zip(window.size_out, sizes, strict=True))


def _lift(nodes: list[_Node], index: int, level: int) -> int:
    """A node's value on a grid of its own at a later level."""
    node = nodes[index]
    if node.level == level and node.sizes == node.extent:
        return index
    ones = (1,) * len(node.extent)
    zeros = (0,) * len(node.extent)
    window = Window(node.extent, node.extent, ones, ones, ones, zeros)
    op = Op("conv", -1, (), "plain", window=window)
    nodes.append(_Node(op, (index,), level, node.extent, node.extent, joins=True))
    return len(nodes) - 1


def _nodes(program: Program, inputs: Sequence[tuple[int, ...]]) -> list[_Node]:
    nodes = [_Node(Op("input", k, (k,)), (), 0, sizes or (1,), sizes or (1,)) for k, sizes in enumerate(inputs)]
    slots = {k: k for k in range(len(inputs))}
    for op in program.ops:
        if op.name == "store":
            nodes[slots[op.src[0]]].stored.append(op.dst)
            continue
        sources = [slots[s] for s in op.src]
        first = nodes[sources[0]]
        level, sizes, extent, joins = first.level, first.sizes, first.extent, False
        if op.window is not None:
            extent = op.window.size_out
            joins = not _in_grid(op.window, sizes, op.name == "pool")
            if joins:
                level, sizes = level + 1, extent
        elif len({(nodes[s].level, nodes[s].sizes) for s in sources}) > 1:  # branches that meet on another grid
            top = max(nodes[s].level + (nodes[s].sizes != nodes[s].extent) for s in sources)
            sources = [_lift(nodes, s, top) for s in sources]
            level, sizes = top, extent
        nodes.append(_Node(op, tuple(sources), level, sizes, extent, joins))
        slots[op.dst] = len(nodes) - 1
    return nodes


def _set_forms(nodes: list[_Node]) -> None:
    for node in nodes:
        if node.op.name in LINEAR:
            node.positive = all(nodes[s].positive for s in node.sources)
        elif node.op.name != "input":
            node.positive = is_positive(node.op.name)
    for node in reversed(nodes):
        for s in node.sources:
            nodes[s].defect |= node.defect or node.op.name not in LINEAR


def _convert(nodes: list[_Node]) -> list[_Node]:
    """Bring the sources of every linear op to its own form."""
    found: list[_Node] = []
    place: dict[int, int] = {}
    converted: dict[tuple[int, str], int] = {}

    def source(s: int, node: _Node) -> int:
        at = place[s]
        if node.op.name not in LINEAR or found[at].form == node.form:
            return at
        if (at, node.form) not in converted:
            other = found[at]
            copy = replace(
                other, op=Op("convert", -1, ()), sources=(at,), joins=False, defect=node.defect,
                positive=node.positive, stored=[],
            )  # fmt: skip
            found.append(copy)
            converted[at, node.form] = len(found) - 1
        return converted[at, node.form]

    for index, node in enumerate(nodes):
        node.sources = tuple(source(s, node) for s in node.sources)
        found.append(node)
        place[index] = len(found) - 1
    return found


def _pull(window: Window, pool: bool, axis: int, need: Iterable[int]) -> set[int]:
    """Displacements that a window's input must know along an axis for those of its output."""
    n_in, n_out = window.size_in[axis], window.size_out[axis]
    reads = window.positions(axis)
    wanted = np.isin((np.arange(n_out)[None, :] - np.arange(n_out)[:, None]) % n_out, sorted(need))
    found = np.zeros(n_in, bool)
    if pool:  # every tap meets every other one: positions read from both sides
        read = np.zeros((n_out, n_in + 1), np.float32)
        read[np.arange(n_out)[:, None], reads] = 1  # -1, outside, is the last
        a, b = np.nonzero(read[:, :n_in].T @ (wanted.astype(np.float32) @ read[:, :n_in]))
        found[(b - a) % n_in] = True
        return set(np.flatnonzero(found).tolist())
    first, second = np.nonzero(wanted)
    for tap in reads.T:
        a, b = tap[first], tap[second]
        found[((b - a) % n_in)[(a >= 0) & (b >= 0)]] = True
    return set(np.flatnonzero(found).tolist())


def _spread(nodes: list[_Node], needs: Needs) -> None:
    """Carry needs from every grid down to those that it reads, last grids first."""
    for node in sorted(nodes, key=lambda n: -n.level):
        wanted = needs[node.key]
        if not node.joins or not all(wanted):
            continue
        assert node.op.window is not None
        source = nodes[node.sources[0]]
        window = replace(node.op.window, size_in=source.extent)
        known = needs[source.key]
        if len(known) != len(window.size_in):  # one position, however many axes
            known[0].add(0)
            continue
        for axis in range(len(known)):
            want = wanted[axis] if len(wanted) == len(known) else {0}
            found = _pull(window, node.op.name == "pool", axis, want)
            n, m = source.sizes[axis], source.extent[axis]
            known[axis] |= {d % n for r in found for d in (r, r - m)} if n != m else found


def _needs(nodes: list[_Node], diagonal: bool) -> tuple[Needs, Needs]:
    keys = dict.fromkeys(n.key for n in nodes)
    full: Needs = {key: [set() for _ in key[1]] for key in keys}
    own: Needs = {key: [set() for _ in key[1]] for key in keys}
    for node in nodes:
        for k, n in enumerate(node.key[1]):
            if node.stored:
                full[node.key][k] |= {0} if diagonal else set(range(n))
    _spread(nodes, full)
    for node in nodes:
        if node.joins and node.op.name == "pool" and node.defect:
            for axis in own[node.key]:
                axis.add(0)
    _spread(nodes, own)
    return full, own


def _steps(nodes: list[_Node], members: list[int]) -> tuple[list[Step], int]:
    """Steps of one grid, its values in slots that are used again once their last reader has run."""
    steps: list[Step] = []
    place: dict[int, int] = {}
    free: list[int] = []
    count = 0
    for index in members:
        node = nodes[index]
        dying: list[int] = []
        name, src = node.op.name, node.op.src
        if node.joins:
            name, src = "land", (node.link,)
        elif name != "input":
            src = tuple(place[s] for s in node.sources)
            dying = [place[s] for s in dict.fromkeys(node.sources) if _last_reader(nodes, s) == index]
        if name != "sum":  # a sum writes before it has read every source; other steps work in place
            free.extend(dying)
        if not free:
            free.append(count)
            count += 1
        place[index] = free.pop()
        if name == "sum":
            free.extend(dying)
        form_in = node.form if not node.sources else nodes[node.sources[0]].form
        op = node.op
        form = form_in, node.form
        kind = "bias" if op.kind == "fine" else op.kind  # planes read coordinates of their own
        step = Step(name, place[index], src, *form, node.extent, kind, op.numbers, op.window, layer=op.layer)
        steps.append(step)
        own = (place[index],)
        ends = [("store", output) for output in node.stored]
        ends += [("join", n.link) for n in nodes if n.joins and n.sources[0] == index]
        steps += [Step(end, dst, own, node.form, node.form, node.extent) for end, dst in ends]
        if _last_reader(nodes, index) < 0:
            free.append(place[index])
    return steps, count


def _last_reader(nodes: list[_Node], index: int) -> int:
    """The last node of the same grid that reads a value, or -1."""
    return max((r for r, n in enumerate(nodes) if index in n.sources and not n.joins), default=-1)


def _fuse(steps: list[Step]) -> list[Step]:
    """Mark windows whose result only the nonlinearity right behind them reads."""
    found = list(steps)
    for k, (step, after) in enumerate(itertools.pairwise(steps)):
        if step.name != "conv" or after.name in (*LINEAR, "store", "join", "land", "input"):
            continue
        found[k] = replace(step, fused=step.kind != "guard" and after.src == (step.dst,) == (after.dst,))
    return found


@lru_cache(maxsize=64)
def make_plan(program: Program, inputs: tuple[tuple[int, ...], ...], diagonal: bool = False) -> Plan:
    """The plan of a program for inputs of these spatial shapes; ``diagonal``: outputs at equal positions only."""
    nodes = _nodes(program, inputs)
    _set_forms(nodes)
    nodes = _convert(nodes)
    full, own = _needs(nodes, diagonal)
    order = sorted(full)
    links: list[Link] = []
    for node in nodes:
        if node.joins:
            assert node.op.window is not None
            source = nodes[node.sources[0]]
            node.link = len(links)
            pool = node.op.name == "pool"
            links.append(Link(order.index(source.key), order.index(node.key), node.op.window, pool, node.form))
    grids = []
    for key in order:
        steps, count = _steps(nodes, [k for k, node in enumerate(nodes) if node.key == key])
        need, self_need = (tuple(tuple(sorted(axis)) for axis in needs[key]) for needs in (full, own))
        grids.append(Grid(key[1], need, self_need, tuple(_fuse(steps)), count))
    return Plan(tuple(grids), tuple(links))
