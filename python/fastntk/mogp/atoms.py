"""The points of a Levy measure that are kept, and the mean of those that are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..base.checks import Array


class Part(Protocol):
    """What merging asks of a measure (``measures.LevyMeasure``)."""

    def _inv_tail(self, arrivals: Array) -> Array: ...
    def _tail(self, x: Array) -> Array: ...
    def _point_mass(self, x: Array) -> Array: ...
    def _remainder(self, arrivals: Array) -> Array: ...


@dataclass(frozen=True)
class Atoms:
    """Draws of the variances of a layer's nodes, infinitely many of them.

    Attributes
    ----------
    variances : numpy.ndarray (n, n_atoms)
        Of the nodes that count by themselves, largest first.
    bulk : numpy.ndarray (n,)
        Sum of the variances of all other nodes: the drift, and the mean of what was not kept.
    """

    variances: Array
    bulk: Array


def merge(parts: Sequence[Part], arrivals: Array, a: float) -> Atoms:
    """The largest points of several measures together.

    Each part is read in the order of its arrivals (n, parts, n_atoms), up to the smallest point kept: what is left of
    a part is a Poisson process of the later arrivals, by its independence of the earlier ones.
    """
    n, _, n_atoms = arrivals.shape
    values = np.stack([part._inv_tail(arrivals[:, i]) for i, part in enumerate(parts)], axis=1).reshape(n, -1)
    order = np.argsort(-values, axis=1, kind="stable")[:, :n_atoms]
    variances = np.take_along_axis(values, order, axis=1)
    smallest, last = variances[:, -1], order[:, -1]
    owner, time = last // n_atoms, np.take_along_axis(arrivals.reshape(n, -1), last[:, None], axis=1)[:, 0]
    bulk = np.full(n, a)
    for i, part in enumerate(parts):
        tail = part._tail(smallest)
        # Equal points are taken part by part.
        read = np.where(owner == i, time, np.where(i < owner, tail + part._point_mass(smallest), tail))
        bulk += part._remainder(read)
    return Atoms(variances, bulk)
