"""Gradient flow of finite networks by Euler steps that neither the kernel nor the weights outrun."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.checks import integer, positive
from ..base.progress import bar
from ..network.layer import Layer
from .checkpoint import Checkpoint
from .losses import loss_of, targets_of
from .measure import change_of, kernels, norms, top_of_kernels
from .model import Model
from .places import network_of
from .quick import needed
from .training import samples_of, seeds_of

Array = npt.NDArray[Any]

STATUS = ("converged", "unfinished", "stuck", "diverged")
_POWER, _EVERY = 2, 4  # products for the kernel's largest eigenvalue, from the last vector, every so many steps
_FIRST_POWER = 30  # before the first step
_MARGINS = ("hinge", "quadratic_hinge", "soft_hinge")


@dataclass(frozen=True)
class Look:
    """Networks on their way; arrays over members (S,).

    Attributes
    ----------
    t, kernel_change, margin, loss : numpy.ndarray
        ``margin``: the least ``F y`` of samples and outputs. Those of a member that has ended stay.
    """

    t: Array
    kernel_change: Array
    margin: Array
    loss: Array


@dataclass(frozen=True)
class Flow:
    """Networks after gradient flow; arrays over members (S,).

    Attributes
    ----------
    status : tuple of str
        'converged': margins, or the loss, passed ``stop``; 'unfinished': not in ``max_steps``; 'stuck': a gradient of
        0; 'diverged': the next step would not be finite.
    outputs : numpy.ndarray (S, n, k)
        ``F = alpha (f - f_0)`` on the training samples.
    test_outputs : numpy.ndarray (S, m, k) or None
    t : numpy.ndarray
        Times; they do not depend on alpha while kernels stay.
    kernel_change : numpy.ndarray
        ``|Theta - Theta_0| / |Theta_0|`` at the end, on ``kernel_samples``.
    t1 : numpy.ndarray
        When the kernel change passed ``t1_at``, between two looks; infinite if it never did.
    loss : numpy.ndarray
        ``l(F)`` at the end, without the factor ``1 / alpha^2``.
    steps : int
    f : numpy.ndarray (S, n, k)
        Outputs of the networks on the training samples, at the end.
    kernels0, kernels : numpy.ndarray (S, s, s)
        Tangent kernels of f on ``kernel_samples`` before and after, averaged over outputs.
    weight_change : numpy.ndarray (S, weight layers)
        ``|W^l - W^l_0| / |W^l_0|``.
    looks : tuple of Look
        About 30, ever further apart; the first is at the start, the last at the end.
    """

    status: tuple[str, ...]
    outputs: Array
    test_outputs: Array | None
    t: Array
    kernel_change: Array
    t1: Array
    loss: Array
    steps: int
    f: Array
    kernels0: Array
    kernels: Array
    weight_change: Array
    looks: tuple[Look, ...]

    @property
    def converged(self) -> Array:
        return np.array([s == "converged" for s in self.status])


def flow(
    network: Layer, x: Any, y: Any, alpha: float = 1.0, *, seeds: int | Sequence[int] = 0,
    loss: str = "quadratic_hinge", stop: float = 0.5, step: tuple[float, float] = (0.05, 0.03),
    max_steps: int = 20_000, kernel_samples: int = 20, t1_at: float = 0.5, x_test: Any = None,
    parameterization: Any = None, path: Any = None, dtype: Any = np.float64, device: Any = "cpu",
    progress: bool = False,
) -> Flow:  # fmt: skip
    """Train networks by gradient flow on ``l(alpha (f - f_0), y) / alpha^2`` until they have learned.

    Parameters
    ----------
    network : a network of stax
    x, y : array_like (n, ...), (n,) or (n, k)
    alpha : float
        Scale: large ones leave the kernel where it is, small ones do not.
    seeds, loss, parameterization, dtype, device
        As for :func:`train`.
    stop : float
        Of hinges: training ends when all margins ``F y`` are above. Of other losses: when the loss is below this times
        that of the start.
    step : pair of float
        ``dt = min(step[0] n / lambda_max(Theta), step[1] min_l |W^l| / |dW^l/dt|)``, of each member its own.
    max_steps : int
    kernel_samples : int
        Samples, evenly spread, on which kernels are compared.
    t1_at : float
    x_test : array_like (m, ...), optional
    path : path-like, optional
        File that a run is kept in at each look and at its end; a run that finds it goes on from there, as if it had not
        been interrupted.
    progress : bool

    Returns
    -------
    Flow

    Raises
    ------
    TypeError, ValueError
        As :func:`train`; a stop that margins do not pass; a file of another run.
    ImportError
        PyTorch is missing.

    Notes
    -----
    Kernels are looked at about 30 times, ever further apart. The largest eigenvalue comes from power iteration, two
    products every fourth step, begun at the last vector: weights move by ``4 step[1]`` in between at most.

    References
    ----------
    Geiger, Spigler, Jacot and Wyart (2020), arXiv:1906.08034.
    """
    what = "flow"
    torch = needed(what)
    network_of(network, what)
    chosen, scale = loss_of(loss, what), positive(alpha, "alpha", what, 1e9)
    samples = samples_of(x, dtype, "x", what)
    targets = targets_of(y, len(samples), loss, "y", what)
    goal, level = positive(stop, "stop", what), positive(t1_at, "t1_at", what)
    if loss in ("hinge", "quadratic_hinge") and goal >= 1:
        raise ValueError(f"[{what}] margins of a {loss} do not pass 1: stop must be below, given {stop}")
    most, members = integer(what, "max_steps", max_steps), seeds_of(seeds, what)
    model = Model(
        network, samples.shape, members, parameterization=parameterization, dtype=dtype, device=device, what=what
    )
    if math.prod(model.output_shape) != targets.size:
        raise ValueError(
            f"[{what}] the network gives outputs of shape {model.output_shape}, y has shape {targets.shape}"
        )
    xs, ys = model.tensor(samples), model.tensor(targets.astype(model.dtype))
    tests = None if x_test is None else model.tensor(samples_of(x_test, dtype, "x_test", what))
    few = np.linspace(0, len(samples) - 1, min(integer(what, "kernel_samples", kernel_samples), len(samples)))
    seen = xs[few.round().astype(np.intp)]
    S, n = len(model), len(samples)
    with torch.no_grad():
        start = model(xs)
        test_start = None if tests is None else model(tests)
    kernels0 = kernels(model, seen)
    weights = [i for i, role in enumerate(model.roles) if role.kind is not False]
    layers = [i for i, role in enumerate(model.roles) if role.kind]
    due = {0, *np.unique(np.geomspace(1, most, 30).round().astype(int)).tolist()}
    vector = torch.randn(start.shape, generator=torch.Generator().manual_seed(0), dtype=start.dtype).to(start.device)
    status, t, t1 = ["unfinished"] * S, np.zeros(S), np.full(S, np.inf)
    before, change_before, first = np.zeros(S), np.zeros(S), None
    alive, count = np.ones(S, dtype=np.bool_), 0
    top: Any = torch.zeros(S, dtype=start.dtype)
    begun = held = model.state()
    looks: list[Look] = []
    now_kernels = kernels0

    def look(margin: Array, loss: Array) -> None:
        nonlocal before, change_before, now_kernels
        now_kernels = kernels(model, seen)
        change = change_of(now_kernels, kernels0)
        crossed = (change >= level) & ~np.isfinite(t1)
        share = (level - change_before) / np.where(change > change_before, change - change_before, 1)
        t1[crossed] = (before + np.clip(share, 0, 1) * (t - before))[crossed]
        before, change_before = t.copy(), change
        looks.append(Look(before, change, margin, loss))

    store = Checkpoint(
        path,
        (
            str(network), parameterization, scale, members, loss, goal, tuple(step), most, len(seen), level, samples,
            targets, None if x_test is None else np.asarray(x_test), str(model.dtype),
        ),
        what,
    )  # fmt: skip

    def keep() -> None:
        names = ("t", "kernel_change", "margin", "loss")
        arrays = (t, t1, before, change_before, first, alive, now_kernels)
        store.write({
            "leaves": model.state(), "held": held, "vector": vector, "top": top, "status": list(status),
            "count": count, "arrays": [torch.from_numpy(np.array(a)) for a in arrays],
            "looks": [[torch.from_numpy(np.array(getattr(one, name))) for name in names] for one in looks],
        })  # fmt: skip

    if (kept := store.read(torch, model)) is not None:
        model.restore(kept["leaves"])
        held = [v.to(xs.device) for v in kept["held"]]
        vector, top, status, count = (
            kept["vector"].to(xs.device),
            kept["top"].to(xs.device),
            kept["status"],
            kept["count"],
        )
        t, t1, before, change_before, first, alive, now_kernels = (a.numpy() for a in kept["arrays"])
        looks = [Look(*(a.numpy() for a in one)) for one in kept["looks"]]
        due = {one for one in due if one > count}

    with bar(most, progress, "step") as report:
        report(count)
        while True:
            f = model(xs)
            F = scale * (f - start)
            values = torch.func.vmap(lambda one: chosen(one, ys))(F)
            now = values.detach().double().cpu().numpy()
            first = now if first is None else first
            bad = alive & ~np.isfinite(now)
            for s in np.flatnonzero(bad):
                status[s] = "diverged"
            if bad.any():
                model.restore(held, torch.from_numpy(bad))
                alive &= ~bad
                if not alive.any():
                    break
                continue
            margin = (F * ys).detach().amin(dim=(1, 2)).double().cpu().numpy()
            if count in due:
                due.remove(count)
                look(margin, now)
                keep()
            done = alive & (margin > goal if loss in _MARGINS else now <= goal * first)
            for s in np.flatnonzero(done):
                status[s] = "converged"
            alive &= ~done
            if not alive.any() or count >= most:
                break
            gradients = torch.autograd.grad(values.sum() / scale**2, model.leaves, retain_graph=True)
            if count % _EVERY == 0:
                top, vector = top_of_kernels(model.leaves, f, vector, _POWER if count else _FIRST_POWER)
            pace = torch.stack(
                [
                    norms(gradients[i]) / norms(model.leaves[i].detach()).clamp(min=torch.finfo(start.dtype).tiny)
                    for i in weights
                ]
            ).amax(dim=0)
            pace, size = pace.double().cpu().numpy(), top.double().cpu().numpy()
            stuck = alive & ~((pace > 0) & (size > 0))
            for s in np.flatnonzero(stuck):
                status[s] = "stuck"
            alive &= ~stuck
            with np.errstate(divide="ignore", invalid="ignore"):
                dt = np.where(alive, np.fmin(step[0] * n / size, step[1] / pace), 0.0)
            held = model.state()
            with torch.no_grad():
                by = model.tensor(dt.astype(model.dtype))
                for leaf, gradient in zip(model.leaves, gradients, strict=True):
                    leaf -= by.reshape(-1, *[1] * (leaf.ndim - 1)) * gradient.nan_to_num()
            t += dt
            count += 1
            report(1)
    with torch.no_grad():
        f = model(xs)
        F = scale * (f - start)
        test = None if tests is None else (scale * (model(tests) - test_start)).double().cpu().numpy()
        last = torch.func.vmap(lambda one: chosen(one, ys))(F).double().cpu().numpy()
        moved = torch.stack([norms(model.leaves[i] - begun[i]) / norms(begun[i]) for i in layers], dim=1)
    if not looks or (looks[-1].t != t).any():
        look((F * ys).amin(dim=(1, 2)).double().cpu().numpy(), last)
    keep()
    return Flow(
        tuple(status), F.double().cpu().numpy(), test, t, looks[-1].kernel_change, t1, last, count,
        f.double().cpu().numpy(), kernels0, now_kernels, moved.double().cpu().numpy(), tuple(looks),
    )  # fmt: skip
