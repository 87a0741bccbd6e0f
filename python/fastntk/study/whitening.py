"""Which regularisation of whitening a data set wants: by samples held out of its training set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .. import stax
from ..base.checks import integer
from ..predict import gradient_descent_mse
from .data import Data

ZCA_GRID = (0.1, 1.0, 10.0, 100.0)
_HELD_OUT = 0.25  # of the training samples
_DIAG_REG = 1e-2


@dataclass(frozen=True)
class Whitening:
    """Accuracies of the NTK on samples held out of a training set, by the whitening of its inputs.

    Attributes
    ----------
    eps : float
        The best one of ``tried``; the largest of equal ones.
    tried : tuple of (float or None, float)
        Regularisation and accuracy; None: inputs that are not whitened.
    held_out : int
        Number of samples.
    """

    eps: float
    tried: tuple[tuple[float | None, float], ...]
    held_out: int

    def __str__(self) -> str:
        parts = [f"{'none' if eps is None else f'eps {eps:g}'}: {100 * share:.1f} %" for eps, share in self.tried]
        return f"ZCA on {self.held_out} held-out samples, NTK: {', '.join(parts)}; taken: eps {self.eps:g}"


def choose_zca_eps(
    data: Data, grid: Sequence[float] = ZCA_GRID, *, depth: int = 2, w_std: float = math.sqrt(2), b_std: float = 0.1,
    rng: int = 0,
) -> Whitening:  # fmt: skip
    """Choose the regularisation of :func:`zca_matrix` on samples held out of the training set.

    Parameters
    ----------
    data : Data
        Its test set is not looked at.
    grid : sequence of float
    depth, w_std, b_std
        Of the network of :func:`finite_vs_infinite`, whose NTK predicts, with 1e-2 of its mean added to its diagonal.
    rng : int
        Seed of the choice of a quarter of the training samples.

    Returns
    -------
    Whitening

    Raises
    ------
    ValueError
        An empty grid, fewer than 8 training samples, and as :func:`zca_matrix`.
    """
    what = "choose_zca_eps"
    if not len(grid):
        raise ValueError(f"[{what}] grid must have at least one entry")
    n = len(data.x_train)
    if n < 8:
        raise ValueError(f"[{what}] {n} training samples are too few to hold some out")
    order = np.random.default_rng(integer(what, "rng", rng, least=0)).permutation(n)
    out, kept = np.split(order, [round(_HELD_OUT * n)])
    part = Data(data.name, data.x_train[kept], data.labels_train[kept], data.x_train[out], data.labels_train[out])
    dense = stax.Dense(1, w_std, b_std), stax.Relu()
    _, _, kernel_fn = stax.serial(*dense * depth, stax.Dense(1, w_std, b_std))
    y, _ = part.targets()
    tried: list[tuple[float | None, float]] = []
    for eps in (None, *map(float, grid)):
        x, x_out = part.inputs(eps)
        k, cross = kernel_fn(x, None, "ntk"), kernel_fn(x_out, x, "ntk")
        outputs = np.asarray(gradient_descent_mse(k, y, diag_reg=_DIAG_REG)(None, None, 0.0, cross))
        tried.append((eps, float((outputs.argmax(axis=1) == part.labels_test).mean())))
    best = max((share, eps) for eps, share in tried if eps is not None)
    return Whitening(best[1], tuple(tried), len(out))
