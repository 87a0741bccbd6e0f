"""The way back of rows alone, once all pairs have left their sums: derivatives in variances, means and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import truediv
from typing import Any

from ..base.jet import over, slope_of, value_of
from .numpy_adjoint import PairSums
from .numpy_tangents import Side, Tangents, means_of


def chain(
    tangents: Tangents, sides: Sequence[Side], sums: PairSums, all_of: Any
) -> tuple[list[list[Any]], dict[int, Any]]:
    """The way back of rows alone: D of each program input on each side, and derivatives in the moving numbers.

    One side, which has the rows of both, or both of them.
    """
    ratio = truediv if all(side.full for side in sides) else over  # by variances
    D: list[dict[int, Any]] = [{} for _ in sides]
    M: list[dict[int, Any]] = [{} for _ in sides]  # in means
    numbers: dict[int, Any] = {}

    def add(k: int, s: int, value: Any) -> None:
        D[k][s] = D[k].get(s, 0.0) + value

    def add_mean(k: int, s: int, value: Any) -> None:
        M[k][s] = M[k].get(s, 0.0) + value

    for position in reversed(range(len(tangents.steps))):
        step = tangents.steps[position]
        places = step.op.numbers
        wanted = [] if tangents.moving.isdisjoint(places) else [p for p in places if p in tangents.moving]
        if step.op.name == "store":
            for k in range(len(sides)):
                add(k, step.src[0], sums.rows[k].get((position, 0), 0.0))
        elif step.op.name == "dense":
            (s,), (w2, b2, f, _) = step.src, step.own
            both = share = constant = 0.0
            for k, side in enumerate(sides):
                q, new, after = side.q[s], side.q[step.dst], D[k].get(step.dst, 0.0)
                e = -ratio(0.5, new) * sums.rows[k].get((position, 0), 0.0)
                add(k, s, ratio(w2 * q, new) * after + w2 * b2 * e + f / 2 * sums.rows[k].get((position, 1), 0.0))
                if wanted:
                    both, share = both + all_of(e), share + all_of(ratio(q, new) * after)
                    constant = constant + all_of(ratio(after, new))
            if wanted:
                bars = (
                    sums.totals.get((position, 0), 0.0) + b2 * both + share, constant - w2 * both,
                    sum(all_of(of.get((position, 1), 0.0)) for of in sums.rows) / 2,
                    sums.totals.get((position, 1), 0.0),
                )  # fmt: skip
                numbers |= {p: bars[places.index(p)] for p in wanted}
            for k, side in enumerate(sides):
                if step.dst in M[k]:
                    root = math.sqrt(w2)
                    add_mean(k, s, root * M[k][step.dst])
                    if places and places[0] in numbers:
                        on_root = all_of(M[k][step.dst] * value_of(side.means[s]))
                        numbers[places[0]] = numbers[places[0]] + over(on_root, 2 * root)
        elif step.op.name == "sum":
            for k, side in enumerate(sides):
                after = D[k].get(step.dst, 0.0)
                for b, s in enumerate(step.src):
                    share = ratio(side.q[s], side.q[step.dst])
                    add(k, s, share * after + sums.rows[k].get((position, b), 0.0) / 2)
                others = means_of(step, side)[1] if step.op.kind == "means" else [0.0] * len(step.src)
                for b, (s, has) in enumerate(zip(step.src, step.op.means, strict=False)):
                    if has and (step.op.kind == "means" or step.dst in M[k]):
                        by_pairs = sums.rows[k].get((position, len(step.src) + b), 0.0)
                        by_variance = ratio(2 * others[b], side.q[step.dst]) * after
                        add_mean(k, s, M[k].get(step.dst, 0.0) + by_pairs + by_variance)
        elif step.op.name == "norm":
            for k, side in enumerate(sides):
                after, S = D[k].get(step.dst, 0.0), sums.rows[k].get((position, 0), 0.0)
                (s,), (eps,) = step.src, step.own
                rest = ratio(1.0, side.q[s] + eps)
                add(k, s, eps * rest * after - side.q[s] * rest / 2 * S)
                for p in wanted:
                    numbers[p] = numbers.get(p, 0.0) - all_of(rest * (after + S / 2))
        elif step.op.name == "drop":
            for k in range(len(sides)):
                add(k, step.src[0], D[k].get(step.dst, 0.0))
                if step.dst in M[k]:
                    add_mean(k, step.src[0], M[k][step.dst])
            after = sum(all_of(of.get(step.dst, 0.0)) for of in D)
            numbers |= {p: sums.totals.get((position, 0), 0.0) - after / step.own[0] for p in wanted}
        elif step.op.name == "product":
            for k, side in enumerate(sides):
                for b, s in enumerate(step.src):
                    add(k, s, D[k].get(step.dst, 0.0) + sums.rows[k].get((position, b), 0.0))
                    if step.dst in M[k]:
                        means = [value_of(side.means[c]) for c in step.src]
                        add_mean(k, s, M[k][step.dst] * math.prod(m for c, m in enumerate(means) if c != b))
        else:
            numbers |= {p: sums.totals.get((position, places.index(p)), 0.0) for p in wanted}
            for k, side in enumerate(sides):
                V, after = side.variances[step.dst], D[k].get(step.dst, 0.0)
                add(k, step.src[0], ratio(slope_of(V, "q"), value_of(V)) * after + sums.rows[k].get((position, 0), 0.0))
                for p in wanted:
                    numbers[p] = numbers[p] + all_of(ratio(slope_of(V, p), value_of(V)) * after)
                if step.dst in M[k]:
                    mean = side.means[step.dst]
                    add(k, step.src[0], slope_of(mean, "q") * M[k][step.dst])
                    for p in wanted:
                        numbers[p] = numbers[p] + all_of(slope_of(mean, p) * M[k][step.dst])
    inputs = range(tangents.n_inputs)
    return [[of.get(s, 0.0) for s in inputs] for of in D], numbers
