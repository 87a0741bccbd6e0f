"""Coordinate checks: how coordinates, outputs and their changes grow with the width, measured on networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.checks import generator, integer
from ..base.progress import bar
from .network import check_parameterization, init, inputs_of, zero_readout
from .parameterization import Array, Parameterization
from .training import adam, sgd, targets_of


@dataclass(frozen=True)
class PowerLaw:
    """``values ~ m^exponent``, by least squares in logarithms.

    Attributes
    ----------
    values : numpy.ndarray (widths, ...)
        Geometric means over networks; infinite where a run diverged.
    exponent : numpy.ndarray (...)
        Infinite where a run diverged at some width; -inf where the values are 0 at all widths.
    stderr : numpy.ndarray (...)
        Standard error of the exponent, from the scatter of the widths about the line; infinite without a line.
    """

    values: Array
    exponent: Array
    stderr: Array


@dataclass(frozen=True)
class CoordinateCheck:
    """Root mean squares over coordinates and samples, as functions of the width.

    Attributes
    ----------
    parameterization : Parameterization
    widths : numpy.ndarray (w,)
    steps : int
        Steps of training after which changes are taken.
    h, dh : PowerLaw, values (w, L)
        Pre-activations of hidden layers at initialisation, and their change by training.
    f, df : PowerLaw, values (w,)
        Outputs at initialisation, and their change.
    diverged : numpy.ndarray (w,) of bool
        Whether the run of a network of this width diverged.
    """

    parameterization: Parameterization
    widths: npt.NDArray[np.intp]
    steps: int
    h: PowerLaw
    dh: PowerLaw
    f: PowerLaw
    df: PowerLaw
    diverged: npt.NDArray[np.bool_]


def _rms(x: Array) -> float:
    return float(np.sqrt(np.mean(x * x)))


def _power_law(widths: Array, values: Array) -> PowerLaw:
    """Of values (draws, widths, ...), all positive, all 0, or infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(values).mean(axis=0)
    means, shape = np.exp(logs), logs.shape[1:]
    logs = logs.reshape(len(widths), -1)
    exponent, stderr = np.empty(logs.shape[1]), np.full(logs.shape[1], np.inf)
    t = np.log(widths) - np.log(widths).mean()
    for i, y in enumerate(logs.T):
        if np.isfinite(y).all():
            exponent[i] = (t @ y) / (t @ t)
            left = y - y.mean() - exponent[i] * t
            if len(t) > 2:
                stderr[i] = np.sqrt((left @ left) / ((len(t) - 2) * (t @ t)))
        else:
            exponent[i] = np.inf if (y == np.inf).any() else -np.inf
    return PowerLaw(means, exponent.reshape(shape), stderr.reshape(shape))


def coordinate_check(
    parameterization: Parameterization, widths: Sequence[int], x: Any = None, y: Any = 1.0, *, lr: Any = 0.1,
    steps: int = 1, draws: int = 4, d: int = 10, rng: np.random.Generator | int = 0, activation: Any = "relu",
    scales: Sequence[float] | None = None, batch_size: int | None = None, optimizer: str = "sgd",
    readout_zero_init: bool = False, progress: bool = False,
) -> CoordinateCheck:  # fmt: skip
    """Measure the exponents of pre-activations, outputs and their changes over widths.

    Parameters
    ----------
    parameterization : Parameterization
    widths : sequence of int
        At least two, all different.
    x : array_like (n, d), optional
        Inputs; one of d standard normal features unless given.
    y : array_like (n,) or (n, k), or a float for all
        Targets.
    lr, steps, batch_size
        Training, as for :func:`fastntk.abc.sgd`.
    draws : int
        Networks of each width. The seeds are the same for all widths.
    d : int
        Of the input drawn where x is not given.
    rng : numpy.random.Generator or int
    activation, scales
        As for :func:`fastntk.abc.init`.
    optimizer : 'sgd' or 'adam'
        Under Adam with the exponents of :meth:`Parameterization.for_adam`, unless the parameterization comes from
        there.
    readout_zero_init : bool
        Weights of the last layer start at 0, as is usual under muP: then outputs do, and hidden layers move from the
        second step on.
    progress : bool
        Shows a bar, one unit for each network.

    Returns
    -------
    CoordinateCheck

    Raises
    ------
    ValueError
        Widths below 1, fewer than two, or repeated; and as :func:`fastntk.abc.sgd`.

    Notes
    -----
    :func:`fastntk.abc.scaling` gives the exponents to compare with. Those of finite widths scatter, as f at
    initialisation is one random number for each network, which enters all changes through the derivative of the loss
    (less so for targets that are large beside it), and drift, as leading terms have corrections of relative order
    ``m^(-1/2)``. What is leading at infinite width need not be at these: the first update of IP-LLR grows with the
    power L of lr and shows its exponents at lr of 1 and more (without biases), and an unstable network with a small
    lr those of the first order in lr.
    """
    what = "coordinate_check"
    p = check_parameterization(parameterization, what)
    if optimizer not in ("sgd", "adam"):
        raise ValueError(f"[{what}] optimizer must be 'sgd' or 'adam', given {optimizer!r}")
    if optimizer == "adam" and not p.name.endswith(", Adam"):
        p = p.for_adam()
    descend = sgd if optimizer == "sgd" else adam
    sizes = [integer(what, "widths", m) for m in widths]
    if len(sizes) < 2 or len(set(sizes)) < len(sizes):
        raise ValueError(f"[{what}] needs at least two widths, all different, given {sizes}")
    repeats, source = integer(what, "draws", draws), generator(rng, what)
    samples = source.standard_normal((1, integer(what, "d", d))) if x is None else inputs_of(x, None, what)
    targets = targets_of(y, len(samples), None, what)
    seeds = [int(s) for s in source.integers(2**63, size=repeats)]
    shape = (repeats, len(sizes))
    h, dh = np.empty((*shape, p.L)), np.full((*shape, p.L), np.inf)
    f, df, diverged = np.empty(shape), np.full(shape, np.inf), np.zeros(shape, dtype=bool)
    with bar(repeats * len(sizes), progress, "network") as report:
        for i, seed in enumerate(seeds):
            for j, m in enumerate(sizes):
                network = init(
                    p, m, samples.shape[1], np.random.default_rng(seed), outputs=targets.shape[1],
                    activation=activation, scales=scales,
                )  # fmt: skip
                if readout_zero_init:
                    network = zero_readout(network)
                before = network.preactivations(samples)
                h[i, j], f[i, j] = [_rms(v) for v in before[:-1]], _rms(before[-1])
                run = descend(network, samples, targets, lr, steps, batch_size=batch_size)
                diverged[i, j] = run.diverged
                if not run.diverged:
                    after = run.network.preactivations(samples)
                    moved = [_rms(b - a) for a, b in zip(before, after, strict=True)]
                    dh[i, j], df[i, j] = moved[:-1], moved[-1]
                report(1)
    at = np.array(sizes, dtype=np.float64)
    return CoordinateCheck(
        p, np.array(sizes), steps, _power_law(at, h), _power_law(at, dh), _power_law(at, f), _power_law(at, df),
        np.asarray(diverged.any(axis=0)),
    )  # fmt: skip
