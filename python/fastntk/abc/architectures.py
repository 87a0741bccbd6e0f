"""Networks of stax under any parameterization, trained through PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.checks import integer
from ..finite import Record
from ..finite import train as finite_train
from ..finite.model import Model
from ..finite.places import as_ntk, network_of, walk_of, width_of
from ..finite.training import samples_of
from ..network.layer import Layer
from .network import check_parameterization
from .parameterization import Array, Parameterization
from .training import targets_of


def hidden_layers(network: Layer) -> int:
    """Number of hidden layers L of a network of stax: Dense and Conv layers on its longest path, less the last.

    Parameters
    ----------
    network : a network of stax

    Raises
    ------
    TypeError
        Another object.
    ValueError
        A network without a hidden layer.
    """
    return walk_of(network, "hidden_layers").L


@dataclass(frozen=True)
class Training:
    """A network of stax after training; called with inputs, gives outputs.

    Attributes
    ----------
    network : Layer
        In 'ntk' form, for which ``params`` are.
    params : nested tuple of numpy.ndarray
        As ``network.apply_fn`` takes them, with their powers of the width.
    width : float
        m.
    losses : numpy.ndarray (steps run,)
        Of the batch of each step, before the step.
    initial, final : numpy.ndarray (n, k)
        Outputs of all samples before and after training. A run that diverges ends before its loss passes 1e12 times
        that of its start.
    initial_loss, final_loss : float
        Over all samples; infinite at the end of a run that diverged.
    diverged : bool
    """

    network: Layer
    params: Any
    width: float
    losses: Array
    initial: Array
    final: Array
    initial_loss: float
    final_loss: float
    diverged: bool

    @property
    def change(self) -> float:
        """Largest change of an output; infinite for a run that diverged."""
        return math.inf if self.diverged else float(np.abs(self.final - self.initial).max())

    def __call__(self, x: Any) -> Any:
        return self.network.apply_fn(self.params, x)


def train(
    network: Layer, parameterization: Parameterization, x: Any, y: Any, lr: Any, steps: int, *,
    batch_size: int | None = None, rng: np.random.Generator | int = 0, width: float | None = None,
    loss: Callable[[Any, Any], Any] | None = None, dtype: Any = np.float64, device: Any = "cpu", progress: bool = False,
) -> Training:  # fmt: skip
    """Train a network of any stax architecture under an abc-parameterization, by SGD in PyTorch.

    Parameters
    ----------
    network : a network of stax
        Its widths are those of the finite network. Whether its layers are in 'ntk' or 'standard' form does not matter.
    parameterization : Parameterization
        With L = :func:`hidden_layers` of the network, and with biases if any layer has them.
    x : array_like (n, ...)
        As the network takes it.
    y : array_like (n,) or (n, k)
        Targets.
    lr : float, or sequence of float (steps,)
        eta.
    steps : int
    batch_size : int, optional
        Samples in a batch, shuffled anew when all have been seen; all in every step unless given.
    rng : numpy.random.Generator or int
        Draws the parameters, and shuffles.
    width : float, optional
        m; the geometric mean of the hidden layers' widths unless given.
    loss : callable, optional
        Of outputs and targets, two tensors (batch, k), a scalar tensor to descend; ``|f - y|^2 / (2 batch)`` unless
        given.
    dtype : float32 or float64
    device : str or torch.device
    progress : bool
        Shows a bar, one unit for each step.

    Returns
    -------
    Training

    Raises
    ------
    TypeError
        Another network or parameterization; a dtype that is neither float32 nor float64.
    ValueError
        A network without hidden layers, of another depth, or with biases that the parameterization does not know;
        samples and targets that do not fit, and as :func:`fastntk.abc.sgd`.
    FloatingPointError
        Outputs that are not finite before training. (Training that diverges is told by the result.)
    ImportError
        PyTorch is missing.

    Notes
    -----
    The place of a layer, l, is the number of Dense and Conv layers on the longest path to it, itself included; those
    whose output reaches the network's without another are the last, L + 1. Constants stay where 'ntk' form has
    them, as multipliers:

    ``W^1 = m^(-a_1) W_std / sqrt(fan-in) w^1``, ``W^l = m^(1/2 - a_l) W_std / sqrt(fan-in) w^l`` for l > 1,
    ``w ~ N(0, m^(-2 b_l))``,

    and ``b_std m^(-a) beta`` for biases. So :meth:`Parameterization.ntk` is the network as its ``kernel_fn``
    sees it, trained with the learning rate lr. A layer straight from inputs to outputs has no width, and no exponents.
    """
    what = "train"
    form = as_ntk(network_of(network, what))
    walk, p = walk_of(form, what), check_parameterization(parameterization, what)
    m = width_of(walk, p, width, what)
    seed = int(rng.integers(2**63)) if isinstance(rng, np.random.Generator) else integer(what, "rng", rng, least=0)
    samples = samples_of(x, dtype, "x", what)
    targets = targets_of(y, len(samples), None, what)
    count = integer(what, "steps", steps)
    start = Model(
        form, samples.shape, [seed], parameterization=p, width=m, dtype=samples.dtype, device=device, what=what
    )
    initial = start(start.tensor(samples))[0].detach().double().cpu().numpy()
    found = finite_train(
        form, samples, targets, lr, count, seeds=seed, loss="squared" if loss is None else loss, batch_size=batch_size,
        batch_seed=seed, parameterization=p, width=m, record=Record(every=count), dtype=samples.dtype, device=device,
        on_divergence="keep", progress=progress,
    )  # fmt: skip
    diverged = bool(found.diverged[0] >= 0)
    return Training(
        found.network, found.params[0], m, found.losses[:, 0], initial, found.outputs[0],
        float(found.train_loss[0, 0]), math.inf if diverged else float(found.train_loss[-1, 0]), diverged,
    )  # fmt: skip
