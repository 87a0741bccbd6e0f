"""What ``kernel_fn.explain`` says of networks that go over pairs of positions: there is no plan of grids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..engines.engine import Engine
from ..engines.numpy_images import bytes_of_pair, plan_of, positions_of
from ..engines.numpy_steps import Step
from ..engines.parts import bytes_of_image
from ..engines.segments import plan_segments
from ..network.activations import is_dual
from ..network.program import Lowered, leaves

_COMPILED = 6e-11  # seconds of what counts as a flop here, in block loops and products


@dataclass(frozen=True)
class PositionsExplanation:
    """The steps of a network over pairs of positions, printed as a table.

    Attributes
    ----------
    steps : tuple of (name, positions, entries, flops)
        In order; ``entries`` is positions squared where all pairs are needed.
    lacking : str
        The layers for which it goes over pairs of positions, or '' where 'numpy' was asked for.
    backend : str
        Which runs it.
    entries : int
        Covariance entries of one pair of inputs, over all steps.
    flops, seconds : float
        Of one pair; the seconds are an estimate for one core.
    worker_bytes : int
        What one pair takes while it is computed.
    table_bytes : int
        Of one image's variances and matrices, kept while it meets others; of 'numpy' 0.
    """

    steps: tuple[tuple[str, int, int, float], ...]
    lacking: str
    worker_bytes: int
    table_bytes: int = 0
    backend: str = "numpy"

    @property
    def entries(self) -> int:
        return sum(entries for _, _, entries, _ in self.steps)

    @property
    def flops(self) -> float:
        return sum(flops for *_, flops in self.steps)

    @property
    def seconds(self) -> float:
        if self.backend == "cpu":
            return self.flops * _COMPILED
        return self.flops * 1e-9 + 5e-5 * len(self.steps)  # about an array operation of NumPy's a nanosecond an entry

    def __str__(self) -> str:
        lines = [f"{'step':<12}  {'positions':>10}  {'entries':>14}  {'Mflop':>9}"]
        lines += [f"{name:<12}  {p:>10,}  {entries:>14,}  {f / 1e6:>9.2f}" for name, p, entries, f in self.steps]
        why = f": all pairs of positions, for {self.lacking}" if self.lacking else ""
        lines.append(
            f"one pair of inputs: {self.entries:,} entries, {self.flops / 1e6:,.1f} Mflop, about "
            f"{self.seconds * 1e3:.3g} ms on one core"
        )
        lines.append(
            f"memory: {self.worker_bytes / 2**20:.2f} MiB a pair, {self.table_bytes / 2**20:.2f} MiB an input; backend "
            f"'{self.backend}'{why}"
        )
        return "\n".join(lines)


def explain_positions(
    lowered: Lowered, spatial: Sequence[tuple[int, ...]], lacking: str, engine: Engine, dtype: npt.DTypeLike
) -> PositionsExplanation:
    """The steps for inputs of these spatial shapes."""
    steps = plan_of(lowered, [v.spatial for v in leaves(lowered.outputs)])
    sizes = [math.prod(s) for s in spatial]
    counts, held, found = positions_of(steps, sizes), dict[int, int](), []
    for step, here in zip(steps, counts, strict=True):
        if step.op.name != "store":
            before = here if step.op.name == "input" else held[step.op.src[0]]
            found.append((step.op.name, here, here * here if step.full else here, _flops(step, here, before)))
            held[step.op.dst] = here
    if engine.name != "cpu":
        return PositionsExplanation(tuple(found), lacking, bytes_of_pair(steps, lowered, sizes))
    plan = plan_segments(lowered, tuple(tuple(own) for own in spatial), False, False)
    pair = plan.entries * np.dtype(dtype).itemsize
    return PositionsExplanation(tuple(found), lacking, pair, bytes_of_image(plan), "cpu")


def _flops(step: Step, here: int, before: int) -> float:
    """Array operations of one pair of inputs, entries counted."""
    entries = here * here if step.full else here
    name = step.op.name
    if name == "mix":
        inner = before * before * here + (here * here * before if step.full else here * before)
        return 2.0 * 2 * inner
    if name == "pool":
        return float(3 * step.taps.shape[1] * before * (before + here))
    if step.op.window is not None:
        return float((12 if not step.linear else 3) * step.taps.shape[1] * entries)
    return (60.0 if is_dual(name) else 10.0) * entries
