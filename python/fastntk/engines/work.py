"""What a call asks of an engine: a program, on points or on images, masked or not; and what an engine lacks of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ..network.activations import General, is_dual, of_op
from ..network.maps import Attention, Graph, Linear
from ..network.program import MOVING, Lowered, Op, Program

_LAYERS = {
    "norm": "LayerNorm", "product": "FanInProd", "drop": "Dropout", "transposed": "ConvTranspose", "local": "ConvLocal",
    "embed": "GlobalSelfAttention", "gather": "a layer that moves positions",
    "sum": "FanInSum of branches with means",
}  # fmt: skip
_POINTS_ALONE = ("norm", "product")  # of the ops that the compiled modules have
_NOT_ON_DEVICES = ("norm", "product")
_AXES = 3  # spatial ones, that compiled plans have at most


# What follows from a program alone is kept by program, and so is found, not made, for another W_std.


def needs_positions(lowered: Lowered) -> bool:
    """Whether a program has ops on positions, whatever its inputs are."""
    return _needs_positions(lowered.program)


@lru_cache(maxsize=256)
def _needs_positions(program: Program) -> bool:
    return any(op.name in MOVING or op.window is not None for op in program.ops)


def _has(op: Op, images: bool, backend: str, known: frozenset[str]) -> bool:
    """Whether a compiled backend has an op, whatever its numbers are."""
    if op.kind == "means" and (images or backend == "cuda"):
        return False
    if op.name in (_POINTS_ALONE if images else ()) or (backend == "cuda" and op.name in _NOT_ON_DEVICES):
        return False
    return op.name in known or isinstance(op.layer, General) or (images and op.name in ("conv", "pool"))


@lru_cache(maxsize=256)
def _has_all(program: Program, backend: str, known: frozenset[str]) -> bool:
    """On points."""
    return all(_has(op, False, backend, known) for op in program.ops)


@dataclass(frozen=True)
class Work:
    """A program as a call runs it."""

    lowered: Lowered
    images: bool  # over positions
    axes: int = 0  # spatial, of the inputs
    masked: bool = False
    continued: bool = False  # covariances over positions come in

    def lacking(self, backend: str, known: frozenset[str]) -> dict[str, str]:
        """Ops that a compiled backend lacks, and the layers that they come from; ``known``: its ops on points."""
        if not (self.images or self.masked or self.continued) and _has_all(self.lowered.program, backend, known):
            return {}
        return _lacking(self, backend, known)

    def over_pairs(self, backend: str, known: frozenset[str]) -> bool:
        """Whether what 'cpu' lacks in planes it computes over all pairs of positions."""
        if backend != "cpu" or not self.images or not self.lacking(backend, known):
            return False
        ops = self.lowered.program.ops
        return all(not is_dual(op.name) or op.name in known or isinstance(op.layer, General) for op in ops)


@lru_cache(maxsize=256)
def _lacking(work: Work, backend: str, known: frozenset[str]) -> dict[str, str]:
    found = {}
    for op in work.lowered.program.ops:
        if not _has(op, work.images, backend, known):
            found[op.name] = _layer_of(op, work.lowered)
        elif work.images and op.name in ("dense", "conv"):
            w2, _, f, _ = op.own(work.lowered.numbers)
            if w2 == 0 != f:
                found[op.name] = f"{op.name.capitalize()} of W_std = 0 under 'standard', over positions"
    if work.masked:
        found["mask"] = "mask_constant"
    if work.continued:
        found["kernel"] = "a Kernel with positions"
    if work.axes > _AXES:
        found["axes"] = f"inputs with {work.axes} spatial axes"
    return found


def _layer_of(op: Op, lowered: Lowered) -> str:
    if is_dual(op.name):
        return type(of_op(op, op.own(lowered.numbers))).__name__
    if isinstance(op.map, Attention):
        return "GlobalSelfAttention"
    if isinstance(op.map, (Graph, Linear)):
        return type(op.map.layer).__name__
    return _LAYERS.get(op.name, op.name)
