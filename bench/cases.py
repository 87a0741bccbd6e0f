"""The only list of cases: what is computed, on which inputs, beside whom, and what it must reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


def relu(stax: Any, depth: int, b_std: float | None = None) -> Any:
    """Dense ReLU network in the vocabulary of the given ``stax`` module."""
    return stax.serial(*[stax.Dense(1, 2**0.5, b_std), stax.Relu()] * depth, stax.Dense(1, 2**0.5, b_std))


def erf(stax: Any, depth: int, b_std: float | None = None) -> Any:
    """Dense erf network."""
    return stax.serial(*[stax.Dense(1, 1.5, b_std), stax.Erf()] * depth, stax.Dense(1, 1.5, b_std))


@dataclass(frozen=True)
class Target:
    """A ratio of medians, ``over / under``, and its bound."""

    over: str
    under: str
    at_least: float | None = None
    at_most: float | None = None


def rival(name: str, factor: float) -> Target:
    return Target(name, "fastntk", at_least=factor)


def product(factor: float) -> Target:
    return Target("fastntk", "product", at_most=factor)


@dataclass(frozen=True)
class Case:
    """``depth`` counts nonlinearities; ``batch`` > 0 makes that many independent Grams."""

    name: str
    network: Callable[..., Any] = relu
    n: int = 4000
    d: int = 784
    depth: int = 10
    dtype: str = "float32"
    get: tuple[str, ...] = ("nngp", "ntk")
    b_std: float | None = None
    batch: int = 0
    data: str = "normal"
    backend: str | None = None
    rivals: tuple[str, ...] = ("nt",)
    targets: tuple[Target, ...] = ()
    memory: int | None = None  # bytes beyond the outputs; set: into memmaps, in a process of its own
    small: dict[str, int] = field(default_factory=dict)  # sizes in test_speed.py; empty: not there

    def make(self, stax: Any) -> Any:
        """The network's kernel_fn."""
        _, _, kernel_fn = self.network(stax, self.depth, self.b_std)
        return kernel_fn

    def inputs(self) -> np.ndarray:
        """(n, d) or (batch, n, d), the same on every call."""
        rng = np.random.default_rng(7)
        shape = (self.batch, self.n, self.d) if self.batch else (self.n, self.d)
        x = rng.standard_normal(shape, dtype=np.dtype(self.dtype))
        if self.data == "clusters":  # one pair in a hundred has a cosine above 0.94
            x = rng.standard_normal((100, self.d), dtype=x.dtype)[np.arange(self.n) % 100] + x.dtype.type(0.2) * x
        elif self.data == "near":  # every pair has: pictures of low contrast on a bright ground
            x = 1 + x.dtype.type(0.2) * x
        return x

    @property
    def layers(self) -> int:
        """Entry-layers of the call, the full square counted: pairs x nonlinearities."""
        return max(1, self.batch) * self.n * self.n * self.depth


_GRID = [
    # name, what differs, targets
    ("relu-d784", {}, (product(1.5), rival("nt", 18))),
    ("relu-d64", {"d": 64}, (rival("nt", 50),)),
    ("relu-bias-d784", {"b_std": 0.1}, ()),
    ("relu-bias-d64", {"b_std": 0.1, "d": 64}, ()),
    ("erf-d784", {"network": erf}, (product(3.0), rival("nt", 9))),
    ("erf-d64", {"network": erf, "d": 64}, (rival("nt", 25),)),
]

CASES: tuple[Case, ...] = (
    *(Case(name, targets=targets, small={"n": 1000}, **what) for name, what, targets in _GRID),
    *(Case(f"{name}-f64", dtype="float64", **what) for name, what, _ in _GRID),
    Case("relu-clusters-d784", data="clusters"),
    Case("relu-near-d784", data="near"),
    Case(
        "nngp-d784",
        get=("nngp",),
        rivals=("botorch", "nt"),
        targets=(rival("botorch", 25),),
        small={"n": 1000},
    ),
    Case("nngp-bias-d784", get=("nngp",), b_std=0.1, rivals=("botorch", "nt"), targets=(rival("botorch", 25),)),
    Case(
        "grams-1000x64",
        n=64,
        d=64,
        depth=5,
        batch=1000,
        rivals=("nt", "nt_vmap"),
        targets=(rival("nt", 50),),
        small={"batch": 100},
    ),
    Case("numpy-d784", n=1000, backend="numpy", small={"n": 500}),
    Case("memmap-n20000", n=20000, rivals=(), memory=200_000_000),
)
