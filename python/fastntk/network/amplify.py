"""Where a network pulls near inputs apart: which row numbers it needs in two parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ..base.jet import value_of
from .activations import Correlation, General, Nonlinearity, is_dual, of_input, of_op
from .program import Lowered, Op, Program

_LINEAR = ("dense", "conv", "local", "pool", "gather", "sum", "product", "norm", "store")
_OF_IMAGES = ("conv", "pool")
_STEADY = ("relu", "abrelu")  # leave a small defect as it is
_LOST = 1000.0  # times that one may grow behind other ops, before it reaches what float32 owes
_MOST = 30.0  # times that a defect may grow behind a bias before the rounding of its row numbers shows in float32


def amplifying(program: Program, numbers: Sequence[Any]) -> set[int]:
    """Dense ops with a bias behind which the network makes a small ``1 - rho`` more than 30 times larger.

    What a bias adds to ``1 - rho`` of inputs whose variances differ is a difference of row numbers, of which float32
    has rounded off what lies between its numbers. Each nonlinearity multiplies it by ``kdot q / V``, a function that
    jumps takes its root. The variances are those of inputs of variance 1; on points alone.
    """
    biases, steady, images = _traits(program)
    if not biases or steady or images:
        return set()
    ahead = _ahead(program.ops, numbers, program.n_inputs)
    return {k for k in biases if ahead[k] > math.log(_MOST)}


@lru_cache(maxsize=256)
def _traits(program: Program) -> tuple[tuple[int, ...], bool, bool]:
    """Ops with a bias, whether no op makes a small defect larger, and whether there are convolutions or pools."""
    ops = program.ops
    biases = tuple(k for k, op in enumerate(ops) if op.kind == "bias")
    steady = all(op.name in _LINEAR or op.name in _STEADY for op in ops)
    return biases, steady, any(op.name in _OF_IMAGES for op in ops)


@lru_cache(maxsize=256)
def loses(lowered: Lowered) -> bool:
    """Whether float32 tells near inputs apart wrongly: what row numbers of one part leave grows more than 1,000 times.

    They are those of nonlinearities that see by how much variances differ, and shares of sums; of convolutions their
    biases too, from 30 times on, as those of points come in two parts then. Near pairs, which alone have less of a
    difference than the network makes of it, are computed in float64 (engines/points.py, engines/planes.py).
    """
    _, steady, images = _traits(lowered.program)
    if steady:
        return False
    ops = lowered.program.ops
    ahead = _ahead(ops, lowered.numbers, lowered.program.n_inputs)
    return any(
        (growth > math.log(_MOST) and images and op.kind == "bias")
        or (growth > math.log(_LOST) and (op.name == "sum" or _sees_variances(op, op.own(lowered.numbers))))
        for op, growth in zip(ops, ahead, strict=True)
    )


def _sees_variances(op: Op, own: tuple[float, ...]) -> bool:
    """Whether inputs along one line, of other variances, come apart in a nonlinearity by numbers in one part."""
    if op.name in _LINEAR or op.name in _STEADY:
        return False
    layer = of_op(op, own)
    if not layer.compiled or any(name.endswith("low") for name in layer.names_of_rows(0)):
        return False
    q = np.array([0.1, 0.11]) if layer.largest_variance > 1 else layer.largest_variance * np.array([0.1, 0.11])
    with np.errstate(all="ignore"):
        rows = layer.rows(q)
        return bool(layer.pair(Correlation.of_defect(np.zeros(1)), of_input(rows, [0]), of_input(rows, [1]))[0][0] > 0)


def _ahead(ops: Sequence[Op], numbers: Sequence[Any], n_inputs: int) -> list[float]:
    """By op: how much larger the network makes a small defect behind it, in logarithms; 0 where nobody knows."""
    values = [value_of(number) for number in numbers]
    if not all(op.name in _LINEAR or is_dual(op.name) for op in ops) or not all(isinstance(v, float) for v in values):
        return [0.0] * len(ops)
    q = dict.fromkeys(range(n_inputs), 1.0)
    grown: list[float] = []  # by op: the factor of a defect, in logarithms
    for op in ops:
        own = op.own(values)
        if op.name == "store":
            grown.append(0.0)
            continue
        now, factor = _behind(op, own, [q[slot] for slot in op.src])
        q[op.dst] = now
        grown.append(factor)
    # Back from the outputs: the largest growth from each op on.
    ahead: dict[int, float] = {}
    found = [0.0] * len(ops)
    for k in reversed(range(len(ops))):
        op = ops[k]
        if op.name == "store":
            ahead[op.src[0]] = max(ahead.get(op.src[0], 0.0), 0.0)
            continue
        found[k] = ahead.pop(op.dst, 0.0)
        for slot in op.src:
            ahead[slot] = max(ahead.get(slot, -math.inf), found[k] + grown[k])
    return found


def _behind(op: Op, own: tuple[float, ...], q: list[float]) -> tuple[float, float]:
    """The variance behind an op, and the logarithm of what it multiplies a small defect by."""
    if op.name in ("dense", "conv") and own:
        total = own[0] * q[0] + own[1]
        return total, math.log(max(own[0] * q[0], 1e-300) / max(total, 1e-300))
    if op.name in ("conv", "local", "pool", "gather"):
        return q[0], 0.0
    if op.name == "sum":
        return sum(q), 0.0
    if op.name == "product":
        return math.prod(q), math.log(len(q))
    if op.name == "norm":
        return q[0] / (q[0] + own[0]) if q[0] else 0.0, 0.0
    if op.name in _STEADY:
        return float(of_op(op, own).variance(np.array([q[0]]))[0]), 0.0
    return _of_dual(of_op(op, own), float(f"{q[0]:.4g}"))  # as many as there are different ones


@lru_cache(maxsize=1024)
def _of_dual(layer: Nonlinearity, q: float) -> tuple[float, float]:
    if isinstance(layer, General) or not layer.compiled:  # their numbers are not known yet
        return q, 0.0
    with np.errstate(all="ignore"):
        try:
            variance = float(layer.variance(np.array([q]))[0])
            row = of_input(layer.rows(np.array([q])))
        except ValueError:  # beyond its range: the call says so
            return q, 0.0
        if not variance > 0:
            return variance, 0.0
        if layer.jumps:
            return variance, math.inf
        slope = float(layer.pair(Correlation.of_defect(np.zeros(1)), row, row)[2][0]) * q / variance
    return (variance, math.log(slope)) if 0 < slope < math.inf else (variance, 0.0)
