"""The first learning rate of a parameterization with large ones: that at which the first step moves outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..base.checks import positive
from ..network.layer import Layer
from .network import Network, inputs_of
from .parameterization import Parameterization
from .training import sgd, targets_of

_RANGE = (1e-9, 1e9)  # where it is looked for


def first_rate(
    network: Network | Layer, x: Any, y: Any, parameterization: Parameterization | None = None, *, move: float = 0.3,
    rtol: float = 0.05, rng: np.random.Generator | int = 0, batch_size: int | None = None, loss: Any = None,
) -> float:  # fmt: skip
    """The learning rate of the first step at which outputs move by a share of how far targets are from them.

    IP-LLR needs it: the change that its first step makes grows with about the power L of the rate, so that a third of
    the right one learns nothing and three times it diverges.

    Parameters
    ----------
    network : Network, or a network of stax
        Of :func:`init`; of stax with its ``parameterization``, drawn by ``rng`` (PyTorch).
    x : array_like (n, ...)
    y : array_like (n,) or (n, k)
    parameterization : Parameterization, optional
        Of a network of stax.
    move : float
        Root mean square of the change of outputs over samples, in multiples of that of ``y - f_0``. At 1 activations
        that are no rectifiers often diverge behind it.
    rtol : float
        Of the rate.
    rng : numpy.random.Generator or int
        Of a network of stax: its draw.
    batch_size : int, optional
        Samples of the first step, the first ones of x; all unless given.
    loss : callable, optional
        Of a network of stax, as for :func:`train`.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        Another network; a network of stax without a parameterization.
    ValueError
        Outputs that move by less at any rate up to 1e9, or by more from 1e-9 on; targets that outputs meet already.
    ImportError
        A network of stax without PyTorch.

    Notes
    -----
    By bisection in the logarithm of the rate, one step each from the same start; a step that overflows is too large.
    """
    what = "first_rate"
    far, close = positive(move, "move", what), positive(rtol, "rtol", what)
    moved: Callable[[float], float]
    if isinstance(network, Network):
        samples = inputs_of(x, network.weights[0].shape[0], what)
        targets = targets_of(y, len(samples), network.weights[-1].shape[1], what)
        start, net, seen = network(samples), network, slice(batch_size)

        def moved(lr: float) -> float:
            with np.errstate(over="ignore", invalid="ignore"):
                run = sgd(net, samples[seen], targets[seen], lr, 1)
                return math.inf if run.diverged else _rms(run.network.preactivations(samples)[-1] - start)

    else:
        if parameterization is None:
            raise TypeError(f"[{what}] a network of stax comes with its parameterization")
        from .architectures import train

        layer, p = network, parameterization
        samples = np.asarray(x, dtype=np.float64)
        targets = targets_of(y, len(samples), None, what)
        seed = int(rng.integers(2**63)) if isinstance(rng, np.random.Generator) else rng

        def moved(lr: float) -> float:
            part = samples[:batch_size]
            found = train(layer, p, part, targets[:batch_size], lr, 1, rng=seed, loss=loss)
            return math.inf if found.diverged else _rms(found.final - found.initial)

        start = train(layer, p, samples, targets, _RANGE[0], 1, rng=seed, loss=loss).initial
    goal = far * _rms(targets - start)
    if not goal > 0:
        raise ValueError(f"[{what}] outputs are the targets already")
    low = high = 1.0
    if moved(1.0) < goal:
        while moved(high) < goal:
            low, high = high, 4 * high
            if high > _RANGE[1]:
                raise ValueError(
                    f"[{what}] outputs move by less than {goal:.3g} in a first step of any rate up to {high:g}"
                )
    else:
        while moved(low) >= goal:
            low, high = low / 4, low
            if low < _RANGE[0]:
                raise ValueError(
                    f"[{what}] outputs move by more than {goal:.3g} in a first step of any rate from {low:g}"
                )
    while high > low * (1 + close):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if moved(middle) < goal else (low, middle)
    return math.sqrt(low * high)


def _rms(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
