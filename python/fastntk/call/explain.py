"""What ``kernel_fn.explain`` says: what a pair of images costs, before any work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..engines.engine import Engine, Layout
from ..engines.images import spatial_of
from ..network.program import Lowered
from ..plan.grids import Plan
from ..plan.lanes import make_turned_plan

Array = npt.NDArray[Any]


# ---------------------------------------------------------------- what is going to happen


@dataclass(frozen=True)
class Explanation:
    """The plan of a network for one shape of inputs, printed as a table.

    Attributes
    ----------
    plan : Plan
    flops, seconds : float
        Of one pair of images; the seconds are an estimate for one core with AVX-512 at 2.5 GHz.
    entries : int
        Covariance entries of one pair, over all grids.
    table_bytes : int
        Of one image's tables, kept while it meets others.
    worker_bytes : int
        Of one thread's buffers, on a device of one pair's between grids; 0 without the compiled module.
    """

    plan: Plan
    dtype: np.dtype[Any]
    table_bytes: int
    worker_bytes: int

    @property
    def entries(self) -> int:
        return sum(grid.entries for grid in self.plan.grids)

    @property
    def flops(self) -> float:
        return self.plan.flops()

    @property
    def seconds(self) -> float:
        return self.plan.seconds() * (1 if self.dtype == np.float32 else 2.5)

    def __str__(self) -> str:
        lines = [f"{'grid':>4}  {'positions':>12}  {'displacements':>13}  {'entries':>12}  {'Mflop':>9}  steps"]
        for k, grid in enumerate(self.plan.grids):
            sizes = " x ".join(str(n) for n in grid.sizes)
            all_of = math.prod(grid.sizes)
            needs = f"{grid.displacements} of {all_of}"
            lines.append(
                f"{k:>4}  {sizes:>12}  {needs:>13}  {grid.entries:>12,}  {grid.flops() / 1e6:>9.2f}  {grid.summary()}"
            )
        lines.append(
            f"one pair of images, {self.dtype}: {self.entries:,} entries, {self.flops / 1e6:,.1f} Mflop, about "
            f"{self.seconds * 1e3:.3g} ms on one core (AVX-512, 2.5 GHz)"
        )
        lines.append(
            f"memory: {self.table_bytes / 2**20:.2f} MiB of tables an image, "
            f"{self.worker_bytes / 2**20:.2f} MiB a thread"
        )
        return "\n".join(lines)


def explain(lowered: Lowered, engine: Engine, layout: Layout, dtype: np.dtype[Any]) -> Explanation:
    """The plan for inputs of this layout."""
    plan, _ = make_turned_plan(lowered.program, spatial_of(layout))
    cost = engine.prepare(lowered, layout, dtype).cost
    return Explanation(plan, dtype, cost.sample, cost.worker)
