"""The only list of cases on images: networks, sizes, counts of images, and what they must reach."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastntk import stax
from image_networks import NETWORKS

MIB = 2**20
# Steps of a plan that are no nonlinearity.
LINEAR = {"conv", "dense", "pool", "sum", "convert", "input", "join", "land", "store"}


def images(n: int, size: int, channels: int, dtype: str) -> np.ndarray:
    """(n, size, size, channels), the same on every call."""
    return np.random.default_rng(7).standard_normal((n, size, size, channels), dtype=np.dtype(dtype))


@dataclass(frozen=True)
class Goal:
    """A bound on one of a case's figures, by its name in the results."""

    what: str
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class ImageCase:
    """``n`` images for fastntk, ``n_rival`` for the rival: times compare by entry."""

    name: str
    network: str
    n: int
    n_rival: int = 3
    size: int = 32
    channels: int = 3
    dtype: str = "float32"
    get: tuple[str, ...] = ("nngp", "ntk")
    rivals: tuple[str, ...] = ("nt",)
    rounds: int = 9  # at most, where a call of the rival takes long
    goals: tuple[Goal, ...] = ()
    fused: bool = False  # at full size all of it is the fused loop that image_floor.py counts
    least_size: int = 8  # smallest images that the network takes
    batch: int = 0  # what rivals.py asks of a case: no batch of Grams

    def make(self, stax: Any) -> Any:
        """The network's kernel_fn."""
        _, _, kernel_fn = NETWORKS[self.network](stax)
        return kernel_fn

    def inputs(self, n: int) -> np.ndarray:
        return images(n, self.size, self.channels, self.dtype)

    @property
    def layers(self) -> int:
        """Entry-layers of one pair of images: covariance entries that the plan computes, times nonlinearities."""
        plan = self.make(stax).explain((1, self.size, self.size, self.channels)).plan
        return sum(grid.entries * sum(step.name not in LINEAR for step in grid.steps) for grid in plan.grids)


def unique(n: int) -> int:
    """Entries of a symmetric Gram that differ."""
    return n * (n + 1) // 2


def faster(factor: float) -> Goal:
    return Goal("nt/fastntk by entry", at_least=factor)


CASES: tuple[ImageCase, ...] = (
    # NT in float32 takes seconds an entry: few images and rounds
    ImageCase(
        "deep-gap", "deep-gap", n=10, n_rival=2, rounds=3, fused=True,
        goals=(faster(300), Goal("milliseconds an entry", at_most=12)),
    ),
    ImageCase("deep-gap-f64", "deep-gap", n=10, dtype="float64", rounds=5, goals=(faster(40),), fused=True),
    ImageCase("deep-flatten", "deep-flatten", n=100, n_rival=16, goals=(faster(35),), fused=True),
    ImageCase("deep-flatten-f64", "deep-flatten", n=100, n_rival=16, dtype="float64", fused=True),
    ImageCase("myrtle-5", "myrtle-5", n=20, rounds=5, goals=(faster(50),), least_size=32),
    ImageCase("myrtle-10", "myrtle-10", n=20, rounds=5, goals=(faster(50),), least_size=32),
    ImageCase("wide-resnet-16", "wide-resnet-16", n=30, rounds=5, goals=(faster(50),), least_size=32),
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """One network on images of several sizes, in turn: seconds an entry-layer, by those of the last size."""

    name: str
    network: str
    sizes: tuple[tuple[int, int], ...]  # side of the images, how many of them
    at_most: float

    def cases(self) -> Iterable[tuple[str, ImageCase]]:
        for size, n in self.sizes:
            yield f"{size}x{size}", ImageCase(self.name, self.network, n, size=size, rivals=())


SIZES = Sizes("sizes", "deep-gap", ((8, 120), (28, 10), (32, 10)), at_most=2.0)
THREADS = ImageCase("threads", "deep-gap", n=10, rivals=())

# Into memmaps, in a process of their own: growth beyond the outputs stays within memory_budget.
MEMORY: tuple[ImageCase, ...] = (
    ImageCase("memory-flatten", "deep-flatten", n=1000, rivals=()),
    ImageCase("memory-gap", "deep-gap", n=60, size=16, rivals=()),
)
BUDGET = 256 * MIB
