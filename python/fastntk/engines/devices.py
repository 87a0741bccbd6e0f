"""Several CUDA devices behind NumPy arrays: each has both sides, and tiles go to them in turn.

Devices compute while the host writes what others have sent: nothing is computed twice but what belongs to one input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.progress import Report
from ..network.program import Lowered
from ..plan.extremes import Flags, Limits
from .engine import Cost, Engine, Job, Known, Layout, Machine, Outputs, Pair, Side, Tile, Tiling, Triple
from .masked import Beside

Array = npt.NDArray[Any]

_TURNS = 4  # tiles that each device gets at least, where there are pairs enough: none waits long for the last one
_LEAST = 1 << 18  # pairs of points of a tile: fewer take a device no longer


class Sides:
    """The same samples on every device."""

    def __init__(self, each: list[Any]) -> None:
        self.each = each

    def range(self, k: int) -> tuple[float, float]:
        """Bounds of the variances of an input."""
        found: tuple[float, float] = self.each[0].range(k)
        return found

    def within(self, limits: Limits) -> bool:
        found: bool = self.each[0].within(limits)
        return found

    def beyond(self, limits: Limits) -> Flags | None:
        found: Flags | None = self.each[0].beyond(limits)
        return found


class _Machines:
    """One machine a device; what is asked of single samples is the first one's."""

    def __init__(self, engine: Devices, each: list[Machine], least: int) -> None:
        self._engine, self._each, self._least, self._turn = engine, each, least, 0

    @property
    def cost(self) -> Cost:
        return self._each[0].cost

    def writes(self, plane: Array) -> bool:
        return self._each[0].writes(plane)

    def empty(self, shape: tuple[int, ...], like: Array) -> Array:
        return self._each[0].empty(shape, like)

    def begin(self, job: Job) -> Tiling:
        likes = self._engine.on_each(lambda k: self._each[k].begin(job))
        batch, n1, n2 = job.shape
        share = -(-batch * n1 * n2 // (_TURNS * len(self._each)))
        pairs, samples = (min(getattr(like, name) for like in likes) for name in ("pairs", "samples"))
        first: Tiling = likes[0]
        return first._replace(pairs=max(1, min(pairs, max(share, self._least))), samples=samples)

    def pairs(self, one: Sides, two: Sides, tile: Tile, place: Tile, outputs: Outputs, report: Report) -> None:
        k = self._turn
        self._turn = (k + 1) % len(self._each)
        with self._engine.on(k):
            self._each[k].pairs(one.each[k], two.each[k], tile, place, outputs, report)

    def finish(self) -> None:
        self._engine.on_each(lambda k: self._each[k].finish())

    def again(self, one: Sides, two: Sides, job: Job) -> None:
        with self._engine.on(0):
            self._each[0].again(one.each[0], two.each[0], job)

    def diagonal(self, side: Sides, outputs: Outputs, budget: int) -> None:
        with self._engine.on(0):
            self._each[0].diagonal(side.each[0], outputs, budget)

    def variances(
        self, side: Sides, wanted: Sequence[int], grams: Sequence[Array | None], budget: int
    ) -> Mapping[int, Array]:
        with self._engine.on(0):
            return self._each[0].variances(side.each[0], wanted, grams, budget)


class Devices:
    """The engine of several devices, ``engines`` of arrays in host memory."""

    def __init__(self, engines: Sequence[Any]) -> None:
        self._engines = list(engines)
        first: Engine = self._engines[0]
        self.name, self.xp = first.name, first.xp
        self.isa = ", ".join(engine.isa for engine in self._engines)

    def on(self, k: int) -> Any:
        """A device and its stream in force inside."""
        return self._engines[k].current()

    def on_each(self, work: Callable[[int], Any]) -> list[Any]:
        """What each device has done, one after the other."""
        found = []
        for k in range(len(self._engines)):
            with self.on(k):
                found.append(work(k))
        return found

    def budget(self) -> int:
        return min(map(int, self.on_each(lambda k: self._engines[k].budget())))

    @contextmanager
    def call(self) -> Iterator[None]:
        with ExitStack() as stack:
            for k, engine in enumerate(self._engines):
                held = engine.call()
                with self.on(k):
                    held.__enter__()
                stack.push(self._leaving(k, held))
            yield

    def _leaving(self, k: int, held: AbstractContextManager[Any]) -> Callable[..., bool | None]:
        def leave(*error: Any) -> bool | None:
            with self.on(k):
                return held.__exit__(*error)

        return leave

    def side(self, layout: Layout, given: Sequence[Array | Known], beside: Beside | None = None) -> Side:
        if layout.planes:  # images know no engine, and gather what tiles leave behind
            return Sides([self._engines[0].side(layout, given, beside)] * len(self._engines))
        return Sides(self.on_each(lambda k: self._engines[k].side(layout, given)))

    def sides(
        self, layout: Layout, given: Sequence[Array | Known], others: Sequence[Array | Known]
    ) -> tuple[Side, Side]:
        each = self.on_each(lambda k: self._engines[k].sides(layout, given, others))
        return Sides([one for one, _ in each]), Sides([two for _, two in each])

    def prepare(self, lowered: Lowered, layout: Layout, dtype: np.dtype[Any]) -> Machine:
        each = self.on_each(lambda k: self._engines[k].prepare(lowered, layout, dtype))
        return _Machines(self, each, 1 if layout.planes else _LEAST)

    def adjoint(self, tangents: Any) -> Any:
        return self._engines[0].adjoint(tangents)

    def image_adjoint(self, tangents: Any, lowered: Lowered, inputs: Any, channels: Any) -> Any:
        return self._engines[0].image_adjoint(tangents, lowered, inputs, channels)

    def product_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        found: np.dtype[Any] = self._engines[0].product_dtype(dtype)
        return found

    def dual(self, name: str, params: Sequence[float], q: Triple, scale: float, found: Pair) -> None:
        with self.on(0):
            self._engines[0].dual(name, params, q, scale, found)
