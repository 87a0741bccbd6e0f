"""Networks of stax under any parameterization, trained through PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.checks import generator, integer, learning_rates
from ..base.progress import bar
from ..finite.places import Walk, as_ntk, network_of, walk_of, width_of
from ..network.combinators import Parallel, Serial
from ..network.layer import Layer
from ..network.weights import Conv, Dense
from .network import check_parameterization
from .parameterization import Array, Parameterization
from .training import batches, blown_from, mean_square, targets_of


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


def _pairs(layer: Layer, params: Any) -> Iterator[tuple[Any, Any]]:
    """(W, b) of weight layers, in order."""
    if isinstance(layer, (Serial, Parallel)):
        for part, own in zip(layer.layers, params, strict=True):
            yield from _pairs(part, own)
    elif isinstance(layer, (Dense, Conv)):
        yield params


def _rebuilt(layer: Layer, params: Any, pairs: Iterator[tuple[Any, Any]]) -> Any:
    """The tree of params with other (W, b)."""
    if isinstance(layer, (Serial, Parallel)):
        return tuple(_rebuilt(part, own, pairs) for part, own in zip(layer.layers, params, strict=True))
    return next(pairs) if isinstance(layer, (Dense, Conv)) else params


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


class _Model:
    """Trained tensors w and beta of a network, and what they are multiplied with."""

    def __init__(
        self, network: Layer, walk: Walk, p: Parameterization, m: float, params: Any, torch: Any, device: Any
    ) -> None:
        self.network, self._tree, self._torch = network, params, torch
        self._walk, self._p, self._m = walk, p, m
        a, b = np.array(walk.exponents(p.a)), walk.exponents(p.b)
        inner = np.array([place > 1 for place in walk.places])
        self.scales = m ** (np.where(inner, 0.5, 0.0) - a)  # 'ntk' form has divided by the root of the fan-in
        own = list(_pairs(network, params))
        self.weights = [self._leaf(W * m**-e, device) for (W, _), e in zip(own, b, strict=True)]
        self.biases: list[Any] = [None] * len(own)
        self.bias_scales = np.ones(len(own))
        if p.bias is not None:
            self.bias_scales = m ** -np.array(walk.exponents(p.bias.a))
            e = walk.exponents(p.bias.b)
            self.biases = [
                None if v is None else self._leaf(v * m**-q, device) for (_, v), q in zip(own, e, strict=True)
            ]
        self.leaves = [t for pair in zip(self.weights, self.biases, strict=True) for t in pair if t is not None]

    def _leaf(self, values: Any, device: Any) -> Any:
        return self._torch.from_numpy(np.array(values)).to(device).requires_grad_()

    def params(self) -> Any:
        """What apply_fn takes."""
        pairs = (
            (w * float(s), None if v is None else v * float(q))
            for w, s, v, q in zip(self.weights, self.scales, self.biases, self.bias_scales, strict=True)
        )
        return _rebuilt(self.network, self._tree, pairs)

    def __call__(self, x: Any) -> Any:
        return self.network.apply_fn(self.params(), x).reshape(len(x), -1)

    def numpy_params(self) -> Any:
        """The same in NumPy."""
        return _arrays(self.params())

    def state(self) -> list[Any]:
        """A copy of what is trained."""
        return [leaf.detach().clone() for leaf in self.leaves]

    def restore(self, state: list[Any]) -> None:
        with self._torch.no_grad():
            for leaf, value in zip(self.leaves, state, strict=True):
                leaf.copy_(value)

    def rates(self, step: int) -> list[float]:
        """Of the leaves: ``m^(-c)``."""
        weights = self._walk.exponents(self._p.rates(step))
        biases = weights if self._p.bias is None else self._walk.exponents(self._p.bias_rates(step))
        found = []
        for i, v in enumerate(self.biases):
            found.append(self._m ** -weights[i])
            if v is not None:
                found.append(self._m ** -biases[i])
        return found


def _arrays(params: Any) -> Any:
    if isinstance(params, tuple):
        return tuple(_arrays(part) for part in params)
    return None if params is None else params.detach().cpu().numpy()


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
        Draws the parameters, then shuffles.
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
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"[{what}] networks of stax need PyTorch (pip install 'fastntk[torch]')") from error
    samples = np.array(x, dtype=dtype)
    if samples.ndim < 2 or not samples.size or not np.isfinite(samples).all():
        raise ValueError(f"[{what}] x must be finite, of shape (n, ...), given {samples.shape}")
    targets = targets_of(y, len(samples), None, what)
    count, draw = integer(what, "steps", steps), generator(rng, what)
    etas = learning_rates(lr, count, what)
    shape, params = form.init_fn(draw, samples.shape, samples.dtype)
    if math.prod(shape) != targets.size:
        raise ValueError(f"[{what}] the network gives outputs of shape {shape}, y has shape {targets.shape}")
    model = _Model(form, walk, p, m, params, torch, device)
    xs = torch.from_numpy(samples).to(device)
    ys = torch.from_numpy(targets.astype(samples.dtype)).to(device)
    descended = _half_square if loss is None else loss

    def outputs() -> tuple[Array, float]:
        with torch.no_grad():
            f = model(xs)
            value = descended(f, ys).item()
        found = f.cpu().numpy().astype(np.float64)
        return found, value if np.isfinite(found).all() and math.isfinite(value) else math.inf

    initial, initial_loss = outputs()
    if initial_loss == math.inf:
        raise FloatingPointError(f"[{what}] outputs or their loss are not finite before training: {p.name}")
    limit = blown_from(max(initial_loss, mean_square(initial, targets)), targets)
    order = batches(len(samples), batch_size, draw, what)
    losses: list[float] = []
    diverged, previous = False, model.state()
    with bar(count, progress, "step") as report:
        for step in range(count):
            rows = next(order)
            value = descended(model(xs[rows]), ys[rows])
            now = value.item()
            if not now <= limit:
                diverged = True
                break
            losses.append(now)
            gradients = torch.autograd.grad(value, model.leaves)
            previous = model.state()
            with torch.no_grad():
                for leaf, gradient, rate in zip(model.leaves, gradients, model.rates(step), strict=True):
                    leaf -= float(etas[step] * rate) * gradient
            report(1)
    final, final_loss = outputs()
    if diverged or not final_loss <= limit:
        diverged, final_loss = True, math.inf
        model.restore(previous)
        final, _ = outputs()
    return Training(form, model.numpy_params(), m, np.array(losses), initial, final, initial_loss, final_loss, diverged)


def _half_square(f: Any, y: Any) -> Any:
    return ((f - y) ** 2).sum() / (2 * len(y))
