"""Gradient flow of fully connected networks of scale alpha, with their tangent kernel at every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..abc import Parameterization
from ..abc.network import Activation, init
from ..base.checks import generator, integer, positive
from ..base.options import one_blas_thread
from ..network.activation_like import named, plain_names
from ..network.activations import Nonlinearity
from ..network.activations.nonlinearity import derivative
from ..network.layer import Layer
from ..quadrature import expectation, smooth
from .networks import of_network, refuse_beside_network, samples_for
from .results import Array, Run, Trace

Function = Callable[[Any, Any], Any]  # of the array library and of an array

_MOST_ALPHA = 1e9  # F = alpha (f - f_0) then keeps six digits
_BETA = 20.0  # of the soft hinge
_BETA_SOFTPLUS = 5.0  # both as in the code of the papers
_POWER_STEPS, _POWER_TOLERANCE = 100, 1e-3  # of the largest eigenvalue, for the step's size alone

# ---------------------------------------------------------------- activations and losses


def _sigmoid(xp: Any, u: Any) -> Any:
    return (1 + xp.tanh(u / 2)) / 2


_NAMED: dict[str, tuple[Function, Function]] = {
    "relu": (lambda xp, z: z.clip(0.0), lambda xp, z: xp.ones_like(z) * (z > 0)),
    "softplus": (
        lambda xp, z: xp.logaddexp(_BETA_SOFTPLUS * z, xp.zeros_like(z)) / _BETA_SOFTPLUS,
        lambda xp, z: _sigmoid(xp, _BETA_SOFTPLUS * z),
    ),
    "tanh": (lambda xp, z: xp.tanh(z), lambda xp, z: 1 - xp.tanh(z) ** 2),
    "linear": (lambda xp, z: z, lambda xp, z: xp.ones_like(z)),
}


def _of_layer(layer: Nonlinearity) -> tuple[Function, Function]:
    """phi and phi' of a nonlinearity of fastntk.stax."""

    def dphi(xp: Any, z: Any) -> Any:
        if xp is np:
            return derivative(layer, z)
        at = z.detach().requires_grad_()
        with xp.enable_grad():
            (found,) = xp.autograd.grad(layer.apply((), at, xp).sum(), at)
        return found

    return (lambda xp, z: layer.apply((), z, xp)), dphi


def _activation(act: Any, what: str) -> tuple[Function, Function]:
    """phi and phi', over the root of ``E phi(z)^2``."""
    if isinstance(act, str):
        if act.lower() not in (*_NAMED, *plain_names()):
            names = ", ".join(dict.fromkeys((*_NAMED, *plain_names())))
            raise ValueError(f"[{what}] act must be one of {names}, given {act!r}")
        phi, dphi = _NAMED[act.lower()] if act.lower() in _NAMED else _of_layer(named(act))
    elif isinstance(named(act), Nonlinearity):
        phi, dphi = _of_layer(named(act))
    else:
        given = smooth(act, what)
        phi, dphi = (lambda xp, z: given.phi(z)), (lambda xp, z: given.dphi(z))
    moment = 0.5 if phi is _NAMED["relu"][0] else float(expectation(lambda z: np.asarray(phi(np, z)) ** 2, what=what))
    if not moment > 0:
        raise ValueError(f"[{what}] act is 0 everywhere: it has no second moment to divide by")
    scale = moment**-0.5
    return (lambda xp, z: scale * phi(xp, z)), (lambda xp, z: scale * dphi(xp, z))


# l and -dl/dm of the margins m = F y
LOSSES: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "hinge": (lambda m: np.maximum(1 - m, 0), lambda m: np.asarray(m < 1, dtype=np.float64)),
    "quadratic_hinge": (lambda m: np.maximum(1 - m, 0) ** 2 / 2, lambda m: np.maximum(1 - m, 0)),
    "soft_hinge": (lambda m: np.logaddexp(0, _BETA * (1 - m)) / _BETA, lambda m: _sigmoid(np, _BETA * (1 - m))),
}


# ---------------------------------------------------------------- the flow


@dataclass(frozen=True)
class Problem:
    """What all runs of a scan share; checked where it is made."""

    what: str
    x: Array
    y: Array
    L: int
    act: Any
    loss: str
    stop: float
    x_test: Array | None
    t1_at: float
    step: tuple[float, float]
    max_steps: int
    device: str | None
    kernel_samples: int | None
    network: Any = None

    @classmethod
    def of(
        cls, what: str, x: Any, y: Any, L: Any, *, act: Any = "relu", loss: str = "quadratic_hinge", stop: float = 0.5,
        x_test: Any = None, t1_at: float = 0.5, step: tuple[float, float] = (0.05, 0.03), max_steps: int = 50_000,
        device: str | None = None, kernel_samples: int | None = None, network: Any = None,
    ) -> Problem:  # fmt: skip
        if network is not None:
            refuse_beside_network(what, L, act)
        samples, labels = samples_for(x, None, network, what), np.array(y, dtype=np.float64)
        if labels.shape != (len(samples),):
            raise ValueError(f"[{what}] y must have shape ({len(samples)},), given {labels.shape}")
        if not (np.abs(labels) == 1).all():
            raise ValueError(f"[{what}] labels y must be 1 or -1, given {np.unique(labels)[:5]}")
        _activation(act, what)
        if loss not in LOSSES:
            raise ValueError(f"[{what}] loss must be one of {', '.join(LOSSES)}, given {loss!r}")
        target = positive(stop, "stop", what)
        if loss != "soft_hinge" and target >= 1:
            raise ValueError(f"[{what}] margins of a {loss} do not pass 1: stop must be below, given {stop}")
        try:
            kernel, weights = step
        except (TypeError, ValueError):
            raise TypeError(f"[{what}] step must be two numbers, given {step!r}") from None
        return cls(
            what, samples, labels, integer(what, "L", L), act, loss, target,
            None if x_test is None else samples_for(x_test, samples.shape[1], network, what),
            positive(t1_at, "t1_at", what),
            (positive(kernel, "step", what, 1), positive(weights, "step", what, 1)),
            integer(what, "max_steps", max_steps), device,
            None if kernel_samples is None else min(integer(what, "kernel_samples", kernel_samples), len(samples)),
            network,
        )  # fmt: skip

    def run(self, h: Any, alpha: Any, rng: Any) -> Run:
        width, scale = integer(self.what, "h", h), positive(alpha, "alpha", self.what, _MOST_ALPHA)
        if self.network is not None:
            return of_network(self, width, scale, generator(rng, self.what))
        with np.errstate(over="ignore", invalid="ignore"):
            return _train(self, width, scale, generator(rng, self.what))


class _Net:
    """Weights (fan-in, fan-out) of NumPy or PyTorch, factors of the layers, and what the last forward pass left."""

    def __init__(self, problem: Problem, h: int, rng: np.random.Generator) -> None:
        d, L = problem.x.shape[1], problem.L
        phi, dphi = _activation(problem.act, problem.what)
        drawn = init(
            Parameterization.ntk(L), h, d, rng, scales=(1.0,) * (L + 1), multipliers=(d**-0.5,) + (1.0,) * L,
            activation=Activation("act", lambda z: phi(np, z), lambda z: dphi(np, z)),
        )  # fmt: skip
        self.xp, self.adopt = _library(problem)
        self.phi, self.dphi = phi, dphi
        self.scales = [float(s) for s in drawn.scales()]
        self.first = [self.adopt(w) for w in drawn.weights]
        self.weights = list(self.first)

    def forward(self, x: Any) -> tuple[list[Any], list[Any]]:
        """Layers' inputs ``x^0, ..., x^L`` and ``h^1, ..., h^L, f``."""
        inputs: list[Any] = [x]
        outputs: list[Any] = []
        for layer, (w, s) in enumerate(zip(self.weights, self.scales, strict=True)):
            if layer:
                inputs.append(self.phi(self.xp, outputs[-1]))
            outputs.append((inputs[-1] @ w) * s)
        return inputs, outputs

    def backward(self, outputs: list[Any]) -> list[Any]:
        """``s_l df / dh^l`` (P, fan-out), each sample's own: times ``x^(l-1)`` they are df / dW^l."""
        pulls = [self.scales[-1] * self.xp.ones_like(outputs[-1])]
        for layer in range(len(self.weights) - 2, -1, -1):
            pull = (pulls[-1] @ self.weights[layer + 1].T) * self.dphi(self.xp, outputs[layer])
            pulls.append(self.scales[layer] * pull)
        return pulls[::-1]

    def tangent_product(self, inputs: list[Any], pulls: list[Any], v: Any) -> Any:
        """The tangent kernel times v (P,), without the kernel: a gradient, and its product with all samples' own."""
        return sum(((a @ (a.T @ (v[:, None] * b))) * b).sum(1) for a, b in zip(inputs, pulls, strict=True))

    def finite_outputs(self, x: Any, what: str) -> Array:
        f = _host(self.forward(x)[1][-1][:, 0])
        if not np.isfinite(f).all():
            raise FloatingPointError(f"[{what}] outputs overflow on x_test, which is far larger than x")
        return f

    def norms(self, arrays: list[Any]) -> list[float]:
        return [float(self.xp.linalg.norm(a)) for a in arrays]


def _library(problem: Problem) -> tuple[Any, Callable[[Array], Any]]:
    """NumPy, or PyTorch on a device, and how an array gets there."""
    if problem.device is None:
        return np, lambda a: a
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"[{problem.what}] device= needs PyTorch (pip install 'fastntk[torch]')") from error
    if not isinstance(problem.act, str) and not isinstance(named(problem.act), Nonlinearity):
        raise TypeError(
            f"[{problem.what}] device= takes an act by its name or as a layer, given {type(problem.act).__name__}"
        )
    return torch, lambda a: torch.tensor(a, dtype=torch.float64, device=problem.device)


def _host(array: Any) -> Array:
    return array if isinstance(array, np.ndarray) else np.asarray(array.cpu().numpy())


def _crossing(t: list[float], values: list[float], level: float) -> float:
    """When a piecewise linear curve first passes a level."""
    above = next((i for i, v in enumerate(values) if v >= level), None)
    if above is None:
        return math.inf
    share = (level - values[above - 1]) / (values[above] - values[above - 1])
    return t[above - 1] + share * (t[above] - t[above - 1])


class _Top:
    """The largest eigenvalue of a kernel that changes little from call to call: power iteration from its last vector.

    Not from that alone: where another eigenvalue becomes the largest, a little of a fixed vector finds it.
    """

    def __init__(self, size: int) -> None:
        self._other = np.random.default_rng(0).standard_normal(size)
        self._other /= np.linalg.norm(self._other)
        self._vector = self._other

    def value(self, product: Callable[[Array], Array]) -> float:
        v = self._vector + 0.1 * self._other
        v /= np.linalg.norm(v)
        value = 0.0
        for _ in range(_POWER_STEPS):
            w = product(v)
            before, value = value, float(v @ w)
            size = float(np.linalg.norm(w))
            if not (size > 0 and math.isfinite(size)):
                return 0.0 if size == 0 else math.inf
            v = w / size
            if abs(value - before) <= _POWER_TOLERANCE * value:
                break
        self._vector = v
        return value


def _train(problem: Problem, h: int, alpha: float, rng: np.random.Generator) -> Run:
    p, net = problem, _Net(problem, h, rng)
    top_of = _Top(len(p.y))
    kept: Any = slice(None)
    if p.kernel_samples is not None:
        kept = np.linspace(0, len(p.y) - 1, p.kernel_samples).round().astype(np.intp)
    x, size, (loss_of, pull_of) = net.adopt(p.x), len(p.y), LOSSES[p.loss]
    test = None if p.x_test is None else net.adopt(p.x_test)
    test0 = None if test is None else net.finite_outputs(test, p.what)
    time, before = 0.0, net.first
    times: list[float] = []
    changes: list[float] = []
    margins: list[float] = []
    losses: list[float] = []
    size0, f0 = 0.0, np.empty(0)
    ntk0 = f = F = ntk = f0
    while True:
        inputs, outputs = net.forward(x)
        pulls = net.backward(outputs)
        f_now = _host(outputs[-1][:, 0])
        few = ([a[kept] for a in side] for side in (inputs, pulls))
        ntk_now = _host(sum((b @ b.T) * (a @ a.T) for a, b in zip(*few, strict=True)))
        if not times:
            f0, ntk0 = f_now, ntk_now
            size0 = float(np.linalg.norm(ntk0))
        F_now = alpha * (f_now - f0)
        m = F_now * p.y
        loss, change = float(loss_of(m).mean()), float(np.linalg.norm(ntk_now - ntk0))
        if not (math.isfinite(loss) and math.isfinite(change) and math.isfinite(size0)):
            if not times:
                raise FloatingPointError(f"[{p.what}] the tangent kernel overflows before training, h = {h}")
            net.weights, status = before, "diverged"
            break
        f, F, ntk = f_now, F_now, ntk_now
        times.append(time)
        changes.append(change / size0 if size0 else 0.0)
        margins.append(float(m.min()))
        losses.append(loss)
        if margins[-1] > p.stop:
            status = "converged"
            break
        if len(times) > p.max_steps:
            status = "unfinished"
            break
        pull = net.adopt((-pull_of(m) * p.y / (alpha * size))[:, None])
        gradients = [a.T @ (pull * b) for a, b in zip(inputs, pulls, strict=True)]
        pace = [g / w for g, w in zip(net.norms(gradients), net.norms(net.weights), strict=True) if w]
        speed = max(pace, default=0.0)
        if p.kernel_samples is None:
            top = top_of.value(lambda v: ntk @ v)  # noqa: B023
        else:
            top = top_of.value(lambda v: _host(net.tangent_product(inputs, pulls, net.adopt(v))))  # noqa: B023
        if not (speed > 0 and top > 0):
            status = "stuck"
            break
        dt = min(p.step[0] * size / top, p.step[1] / speed)
        before = net.weights
        net.weights = [w - dt * g for w, g in zip(net.weights, gradients, strict=True)]
        time += dt
    moved = net.norms([w - w0 for w, w0 in zip(net.weights, net.first, strict=True)])
    return Run(
        status, h, alpha, F, f, None if test0 is None else alpha * (net.finite_outputs(test, p.what) - test0),
        changes[-1], times[-1], _crossing(times, changes, p.t1_at),
        tuple(a / b for a, b in zip(moved, net.norms(net.first), strict=True)), ntk0, ntk,
        Trace(np.array(times), np.array(changes), np.array(margins), np.array(losses)),
    )  # fmt: skip


def run(
    x: Any, y: Any, h: int, L: int = 1, alpha: float = 1.0, *, act: Any = "relu", loss: str = "quadratic_hinge",
    stop: float = 0.5, rng: np.random.Generator | int = 0, x_test: Any = None, t1_at: float = 0.5,
    step: tuple[float, float] = (0.05, 0.03), max_steps: int = 50_000, device: str | None = None,
    kernel_samples: int | None = None, network: Callable[[int], Layer] | None = None,
) -> Run:  # fmt: skip
    """Train one network by gradient flow until all its margins pass ``stop``.

    Parameters
    ----------
    x : array_like (P, d), or (P, ...) with ``network``
        Training samples; of squared norm d for pre-activations of variance 1.
    y : array_like (P,)
        Labels, 1 or -1.
    h : int
        Width of the hidden layers.
    L : int
        Their number.
    alpha : float
        Scale of the predictor, at most 1e9.
    act : 'relu', 'softplus', 'tanh', 'linear', another name, a layer, or an object with ``phi`` and ``dphi``
        Divided by the root of ``E phi(z)^2``, z standard normal. softplus is ``log(1 + exp(5 z)) / 5``. An object, such
        as :class:`fastntk.quadrature.Smooth`, is a smooth one.
    loss : 'quadratic_hinge', 'hinge' or 'soft_hinge'
        ``max(0, 1 - m)^2 / 2``, ``max(0, 1 - m)``, ``log(1 + exp(20 (1 - m))) / 20`` of the margin ``m = F y``.
    stop : float
        Training ends when ``min_i F_i y_i`` is above. Below 1 for the first two losses.
    rng : numpy.random.Generator or int
        Draws the initial weights.
    x_test : array_like (m, d), optional
        Where the predictor is wanted, too.
    t1_at : float
        Kernel change that defines the time t1.
    step : pair of float
        Euler steps ``dt = min(step[0] P / lambda_max(Theta), step[1] min_l |W^l| / |dW^l/dt|)``. Without the second
        bound weights jump in the feature regime, where the kernel is still small when they grow fastest.
    max_steps : int
    device : str, optional
        Weights and products are PyTorch's, on this device ('cpu', 'cuda'), in float64
        (``pip install 'fastntk[torch]'``); NumPy's unless given. One seed draws the same weights for both.
    kernel_samples : int, optional
        S: the tangent kernel and its change are those of so many samples, evenly spread over x; all P unless given.
    network : callable, optional
        From a width h, a network of stax with one output, dense, convolutional or any other, instead of L and act
        (PyTorch, :func:`fastntk.finite.flow`, float64). x is as it takes it, (P, ...). The trace is of about 30 looks.

    Returns
    -------
    Run
        Of a network that has not learned, too: see its ``status``.

    Raises
    ------
    TypeError
        Arguments of another kind; a network beside L or act.
    ValueError
        Samples that are not finite, labels other than 1 and -1, widths or depths below 1, alpha not positive, another
        loss or activation, a ``stop`` that margins do not pass.
    FloatingPointError
        A network that overflows before training.
    ImportError
        A device or a network without PyTorch.

    Notes
    -----
    A step takes ``O(L P h (P + h))`` operations, ``O(L h (S^2 + P h))`` with ``kernel_samples``. Its error in F is of
    first order in ``step``; the kernel's largest eigenvalue, which bounds it, comes from power iteration to 1e-3,
    started at the last step's vector. BLAS runs on one thread where threadpoolctl is installed.
    """
    problem = Problem.of(
        "run", x, y, L, act=act, loss=loss, stop=stop, x_test=x_test, t1_at=t1_at, step=step, max_steps=max_steps,
        device=device, kernel_samples=kernel_samples, network=network,
    )  # fmt: skip
    with one_blas_thread():
        return problem.run(h, alpha, rng)
