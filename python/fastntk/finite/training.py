"""Training of finite networks: minibatches, optimizers, losses, ensembles in one pass, and what is recorded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.checks import integer, learning_rates, not_negative, positive
from ..base.progress import bar
from ..network.layer import Layer
from .checkpoint import Checkpoint
from .losses import Loss, hits, loss_of, targets_of
from .measure import change_of, curvature, kernels
from .model import Model
from .places import network_of
from .quick import needed

Array = npt.NDArray[Any]

OPTIMIZERS = ("sgd", "momentum", "adam")
_BLOWN = 1e12  # times the larger of the first loss and that of the zero function: no run comes back from there


class Diverged(ArithmeticError):
    """A network whose loss left all bounds, named with its step and learning rate.

    Attributes
    ----------
    training : Training
        All members as far as they came, those that diverged at their last finite state.
    """

    def __init__(self, message: str, training: Any) -> None:
        super().__init__(message)
        self.training = training

    def __reduce__(self) -> Any:
        return type(self), (str(self), self.training)


@dataclass(frozen=True)
class Record:
    """What is looked at while networks train.

    Parameters
    ----------
    every : int, or sequence of int, optional
        Steps between two looks, or the steps themselves. Unless given, about twenty, ever further apart.
    kernel : int
        Samples, evenly spread over the training set, on which the tangent kernel's change is measured; 0: none.
    curvature : int
        Steps of Lanczos for the largest eigenvalue of the Hessian of the loss on these samples (all where ``kernel`` is
        0); 0: none.
    """

    every: Any = None
    kernel: int = 0
    curvature: int = 0

    def steps(self, count: int, what: str) -> list[int]:
        """0, ..., count among others."""
        if self.every is None:
            found = {0, count, *np.unique(np.geomspace(1, count, 19).round().astype(int)).tolist()}
        elif isinstance(self.every, (int, np.integer)):
            found = {0, count, *range(0, count, integer(what, "record.every", self.every))}
        else:
            found = {0, count, *(integer(what, "record.every", step, least=0) for step in self.every)}
        return sorted(step for step in found if step <= count)


@dataclass(frozen=True)
class Training:
    """Finite networks after training; called with inputs (n, ...), gives outputs (S, n, k).

    Attributes
    ----------
    network : Layer
        For which ``params`` are; in 'ntk' form under a parameterization.
    params : tuple of S nested tuples of numpy.ndarray
        Of each member, as ``network.apply_fn`` takes them.
    seeds : tuple of int (S,)
    width : float
        m, of the parameterization; 1 without one.
    losses : numpy.ndarray (steps, S)
        Of the batch of each step, before the step; those of a member that diverged stay at its last.
    steps : numpy.ndarray (r,) of int
        When networks were looked at.
    train_loss, train_accuracy, test_loss, test_accuracy : numpy.ndarray (r, S)
        Over all samples, then; of the test set empty without one. Losses are ``l / alpha^2``, without penalty.
    kernel_change, curvature : numpy.ndarray (r, S)
        ``|Theta - Theta_0| / |Theta_0|`` and the Hessian's largest eigenvalue where they were asked for, else empty.
    outputs : numpy.ndarray (S, n, k)
        Of all training samples at the end, ``alpha (f - f_0)`` where centered.
    test_outputs : numpy.ndarray (S, m, k) or None
    diverged : numpy.ndarray (S,) of int
        Step at which a member diverged; -1 of those that did not.
    """

    network: Layer
    params: tuple[Any, ...]
    seeds: tuple[int, ...]
    width: float
    losses: Array
    steps: Array
    train_loss: Array
    train_accuracy: Array
    test_loss: Array
    test_accuracy: Array
    kernel_change: Array
    curvature: Array
    outputs: Array
    test_outputs: Array | None
    diverged: Array

    def __call__(self, x: Any) -> Array:
        return np.stack([self.network.apply_fn(params, x) for params in self.params])


@dataclass
class _Log:
    """Rows of a recording, by name."""

    steps: list[int] = field(default_factory=list)
    rows: dict[str, list[Array]] = field(default_factory=dict)

    def add(self, step: int, **values: Any) -> None:
        self.steps.append(step)
        for name, value in values.items():
            self.rows.setdefault(name, []).append(np.asarray(value, dtype=np.float64))

    def table(self, name: str, members: int) -> Array:
        return np.array(self.rows[name]) if name in self.rows else np.empty((0, members))


def batch_rows(n: int, batch_size: int | None, seed: int, first: int, what: str) -> Iterator[Any]:
    """Rows of one step after the other from a step on, shuffled anew when all have been seen; all unless batch_size.

    A step's rows depend on the seed and the step alone, so that a run can go on where it was left.
    """
    if batch_size is None:
        while True:
            yield slice(None)
    size = integer(what, "batch_size", batch_size)
    if size > n:
        raise ValueError(f"[{what}] batch_size {size} is more than the {n} samples")

    def epoch(number: int) -> Array:
        return np.random.default_rng([seed, number]).permutation(n)

    number, order = -1, np.empty(0, dtype=np.intp)
    at = first * size
    while True:
        rows = []
        for place in range(at, at + size):
            if place // n != number:
                number = place // n
                order = epoch(number)
            rows.append(order[place % n])
        at += size
        yield np.array(rows)


def seeds_of(seeds: Any, what: str) -> tuple[int, ...]:
    """Of the members: a number, or several different ones."""
    given = [seeds] if isinstance(seeds, (int, np.integer)) else list(seeds)
    found = tuple(integer(what, "seeds", seed, least=0) for seed in given)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"[{what}] seeds must be some, each once, given {seeds!r}")
    return found


def samples_of(x: Any, dtype: Any, name: str, what: str) -> Array:
    """Finite samples (n, ...)."""
    found = np.array(x, dtype=dtype)
    if found.ndim < 2 or not found.size or not np.isfinite(found).all():
        raise ValueError(f"[{what}] {name} must be finite, of shape (n, ...), given {found.shape}")
    return found


def _name(loss: Any) -> str:
    return f"{getattr(loss, '__module__', '')}.{getattr(loss, '__qualname__', type(loss).__qualname__)}"


def _optimizer(torch: Any, name: str, model: Model, momentum: float, betas: Any, eps: float, l2: float) -> Any:
    groups = [{"params": [leaf], "lr": 1.0} for leaf in model.leaves]
    if name == "adam":
        return torch.optim.Adam(groups, betas=betas, eps=eps, weight_decay=l2)
    return torch.optim.SGD(groups, lr=1.0, momentum=momentum if name == "momentum" else 0.0, weight_decay=l2)


def train(
    network: Layer, x: Any, y: Any, lr: Any, steps: int, *, seeds: int | Sequence[int] = 0, loss: Any = "squared",
    optimizer: str = "sgd", momentum: float = 0.9, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
    l2: float = 0.0, batch_size: int | None = None, batch_seed: int = 0, alpha: float = 1.0, centered: bool = False,
    parameterization: Any = None, width: float | None = None, node_scales: Any = None, zero_readout: bool = False,
    x_test: Any = None, y_test: Any = None, record: Record | None = None, path: Any = None, dtype: Any = np.float32,
    device: Any = "cpu", on_divergence: str = "raise", progress: bool = False,
) -> Training:  # fmt: skip
    """Train finite networks of any stax architecture, an ensemble in one vmapped pass.

    Parameters
    ----------
    network : a network of stax
        Its widths are those of the finite networks.
    x : array_like (n, ...)
        As the network takes it.
    y : array_like (n,) or (n, k)
        Targets; of the cross-entropy classes (n,) from 0, or rows of probabilities; of hinges 1 and -1.
    lr : float, or sequence of float (steps,)
        eta.
    steps : int
    seeds : int, or sequence of int (S,)
        Of the members' initial parameters: each is that of ``network.init_fn(seed, x.shape)``.
    loss : 'squared', 'hinge', 'quadratic_hinge', 'soft_hinge', 'cross_entropy', or callable
        ``|F - y|^2 / 2``, ``max(0, 1 - F y)`` or half its square, summed over outputs, or ``-log softmax(F)_y``; the
        mean over samples. A function takes tensors F and y (n, k), and gives a scalar tensor.
    optimizer : 'sgd', 'momentum' or 'adam'
        Those of ``torch.optim``, with ``momentum``, or ``betas`` and ``eps``.
    l2 : float
        Adds ``l2 |theta|^2 / 2``, theta what is trained.
    batch_size : int, optional
        Samples in a batch, the same for all members, shuffled by ``batch_seed`` anew when all have been seen; all
        samples unless given.
    alpha : float
        Scale: ``F = alpha f`` in a loss over ``alpha^2``.
    centered : bool
        ``F = alpha (f - f_0)``, f_0 the outputs before training.
    parameterization : fastntk.abc.Parameterization, optional
        Of as many hidden layers as the network (:func:`fastntk.abc.hidden_layers`), with biases if any layer has them.
        Unless given, the parameters of ``init_fn`` are trained as they are: 'ntk' or 'standard', as the layers say.
    width : float, optional
        m, of the parameterization; the geometric mean of the hidden layers' widths unless given.
    node_scales : sequence of array (p_l,) or (S, p_l), optional
        Of each hidden layer, variances lambda_j of its nodes (channels), of sum about 1: weights behind it are
        ``sqrt(lambda_j) V`` instead of ``V / sqrt(p)`` with V trained. None in the sequence: all alike.
    zero_readout : bool
        Weights of the last layers start at 0.
    x_test, y_test : array_like, optional
        Where networks are looked at besides.
    record : Record, optional
        When, and what besides losses and accuracies; unless given, about twenty looks at these.
    path : path-like, optional
        File that a run is kept in while it goes (whole each time, every look at the latest) and after; a run that finds
        it goes on from there, as if it had not been interrupted.
    dtype : float32 or float64
    device : str or torch.device
    on_divergence : 'raise' or 'keep'
        Raise :class:`Diverged`, or keep a member that diverges at its last finite state and go on with the others.
    progress : bool
        Shows a bar, one unit for each step.

    Returns
    -------
    Training

    Raises
    ------
    TypeError, ValueError
        Arguments outside their domain, shapes that do not fit; a file of another run.
    Diverged
        The loss of a member is no number, or passed 1e12 times that of its start.
    FloatingPointError
        Outputs that are not finite before training.
    ImportError
        PyTorch is missing.

    Notes
    -----
    Under a parameterization ``W^1 = m^(-a_1) W_std / sqrt(fan-in) w^1``, ``W^l = m^(1/2 - a_l) W_std / sqrt(fan-in)
    w^l`` for l > 1, ``w ~ N(0, m^(-2 b_l))`` with learning rates ``eta m^(-c_l)``, l the number of Dense and Conv
    layers on the longest path to the layer, itself included; numbers of other layers have no exponents. A member of an
    ensemble trains as it would alone, to rounding. Ctrl-C is heard between two steps; what ``path`` holds stays.
    """
    what = "train"
    torch = needed(what)
    network_of(network, what)
    chosen = loss_of(loss, what)
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"[{what}] optimizer must be {', '.join(OPTIMIZERS)}, given {optimizer!r}")
    if on_divergence not in ("raise", "keep"):
        raise ValueError(f"[{what}] on_divergence must be 'raise' or 'keep', given {on_divergence!r}")
    samples = samples_of(x, dtype, "x", what)
    targets = targets_of(y, len(samples), loss, "y", what)
    count, members = integer(what, "steps", steps), seeds_of(seeds, what)
    etas, scale = learning_rates(lr, count, what), positive(alpha, "alpha", what)
    l2, looks = not_negative(l2, "l2", what), record or Record()
    model = Model(
        network, samples.shape, members, parameterization=parameterization, width=width, node_scales=node_scales,
        zero_readout=zero_readout, dtype=dtype, device=device, what=what,
    )  # fmt: skip
    if math.prod(model.output_shape) != targets.size:
        raise ValueError(
            f"[{what}] the network gives outputs of shape {model.output_shape}, y has shape {targets.shape}"
        )
    tests = None
    if x_test is not None:
        if y_test is None:
            raise ValueError(f"[{what}] x_test comes with y_test")
        seen = samples_of(x_test, dtype, "x_test", what)
        tests = seen, targets_of(y_test, len(seen), loss, "y_test", what, targets.shape[1])
    run = _Run(torch, model, chosen, samples, targets, tests, scale, centered, looks, what)
    description = (
        str(network), parameterization, width, members, loss if isinstance(loss, str) else _name(loss), optimizer,
        momentum, betas, eps, l2, batch_size, batch_seed, scale, centered, zero_readout, etas, count, looks, samples,
        targets, tests, str(np.dtype(dtype)),
        None if node_scales is None else [None if s is None else np.asarray(s) for s in node_scales],
    )  # fmt: skip
    store = Checkpoint(path, description, what)
    stepper = _optimizer(torch, optimizer, model, momentum, betas, eps, l2)
    first = run.resume(store, stepper)
    due = set(looks.steps(count, what))
    rows = batch_rows(len(samples), batch_size, integer(what, "batch_seed", batch_seed, least=0), first, what)
    with bar(count, progress, "step") as report:
        report(first)
        for step in range(first, count):
            if step in due:
                run.look(step)
                run.keep(store, stepper, step)
            if not run.descend(step, next(rows), etas[step], stepper):
                break
            report(1)
    run.look(count)
    found = run.result(members)
    run.keep(store, stepper, count)
    if on_divergence == "raise" and (found.diverged >= 0).any():
        which = int(np.flatnonzero(found.diverged >= 0)[0])
        at = int(found.diverged[which])
        raise Diverged(
            f"[{what}] member {which} (seed {members[which]}) diverged at step {at} with the learning rate "
            f"{etas[min(at, count - 1)]:g}: its loss passed {_BLOWN:g} times that of its start",
            found,
        )
    return found


class _Run:
    """The state of a run: the networks, what was logged, and who diverged."""

    def __init__(
        self, torch: Any, model: Model, loss: Loss, samples: Array, targets: Array, tests: Any, alpha: float,
        centered: bool, looks: Record, what: str,
    ) -> None:  # fmt: skip
        self.torch, self.model, self.loss, self.alpha, self.looks, self.what = torch, model, loss, alpha, looks, what
        self.x, self.y = model.tensor(samples), model.tensor(targets.astype(model.dtype))
        self.tests = None
        if tests is not None:
            self.tests = model.tensor(tests[0]), model.tensor(tests[1].astype(model.dtype))
        S = len(model)
        with torch.no_grad():
            start = model(self.x)
            values = torch.func.vmap(lambda F: loss(F, self.y))(self.alpha * start)
            zero = float(loss(torch.zeros_like(self.y), self.y))
            self.base = start if centered else None
            self.test_base = model(self.tests[0]) if centered and self.tests is not None else None
        if not (torch.isfinite(start).all() and torch.isfinite(values).all()):
            raise FloatingPointError(f"[{what}] outputs or their loss are not finite before training")
        first = np.full(S, zero) if centered else values.double().cpu().numpy()
        self.limits = _BLOWN * np.maximum(first, max(zero, float(np.finfo(np.float32).tiny))) / alpha**2
        self.diverged = np.full(S, -1)
        self.losses: list[Array] = []
        self.log = _Log()
        self.before = model.state()
        size = len(samples) if looks.kernel == 0 else min(integer(what, "record.kernel", looks.kernel), len(samples))
        self.few = np.linspace(0, len(samples) - 1, size).round().astype(np.intp)
        self.kernels0: Any = None

    def value(self, F: Any, y: Any) -> Any:
        """Loss over alpha^2 of outputs f less their base."""
        return self.loss(self.alpha * F, y) / self.alpha**2

    def descend(self, step: int, rows: Any, eta: float, stepper: Any) -> bool:
        """One step; False where no member is left."""
        x, y = self.x[rows], self.y[rows]
        model, torch = self.model, self.torch

        if self.base is None:
            values = model.over_members(lambda leaves, own: self.value(model.one(leaves, own, x), y))
        else:
            values = model.over_members(
                lambda leaves, own, base: self.value(model.one(leaves, own, x) - base, y), self.base[:, rows]
            )
        now = values.detach().double().cpu().numpy()
        share = len(self.x) / len(x)
        bad = ~(now <= self.limits * share) & (self.diverged < 0)
        if bad.any():
            self.diverged[bad] = step
            model.restore(self.before, torch.from_numpy(bad))
            if (self.diverged >= 0).all():
                return False
            return self.descend(step, rows, eta, stepper)  # from what was restored: the graph is of what was before
        gone = torch.from_numpy(self.diverged >= 0)
        last = self.losses[-1] if self.losses else np.zeros(len(now))
        self.losses.append(np.where(self.diverged >= 0, last, now))
        self.before = model.state()
        gradients = torch.autograd.grad(values.sum(), model.leaves)
        for group, leaf, gradient, rate in zip(
            stepper.param_groups, model.leaves, gradients, model.rates(step), strict=True
        ):
            leaf.grad, group["lr"] = gradient, float(eta * rate)
        stepper.step()
        if gone.any():
            model.restore(self.before, gone)
        return True

    def look(self, step: int) -> None:
        """Add a row to the log, once for each step."""
        if self.log.steps and self.log.steps[-1] >= step:
            return
        torch, model = self.torch, self.model
        found: dict[str, Any] = {}
        with torch.no_grad():
            sets: list[tuple[str, Any, Any, Any]] = [("train", self.x, self.y, self.base)]
            if self.tests is not None:
                sets.append(("test", *self.tests, self.test_base))
            for name, x, y, base in sets:
                F = model(x) if base is None else model(x) - base
                values = torch.func.vmap(lambda F: self.value(F, y))(F)  # noqa: B023
                found[f"{name}_loss"] = values.double().cpu().numpy()
                found[f"{name}_accuracy"] = hits(F, y).cpu().numpy()
                bad = ~(found[f"{name}_loss"] <= self.limits)
                if name == "train" and (bad & (self.diverged < 0)).any():
                    self.diverged[bad & (self.diverged < 0)] = step
                    model.restore(self.before, torch.from_numpy(bad))
                    return self.look(step)
        if self.looks.kernel:
            now = kernels(model, self.x[self.few])
            self.kernels0 = now if self.kernels0 is None else self.kernels0
            found["kernel_change"] = change_of(now, self.kernels0)
        if self.looks.curvature:
            base = None if self.base is None else self.base[:, self.few]
            found["curvature"] = curvature(
                model, self.value, self.x[self.few], self.y[self.few], base, self.looks.curvature
            )
        self.log.add(step, **found)
        return None

    # ---- files

    def keep(self, store: Checkpoint, stepper: Any, step: int) -> None:
        store.write(
            {
                "step": step,
                "leaves": self.model.state(),
                "before": self.before,
                "optimizer": stepper.state_dict(),
                "diverged": self.torch.from_numpy(self.diverged),
                "losses": self.torch.from_numpy(np.array(self.losses).reshape(len(self.losses), len(self.model))),
                "log_steps": list(self.log.steps),
                "log": {k: self.torch.from_numpy(np.array(v)) for k, v in self.log.rows.items()},
                "kernels0": None if self.kernels0 is None else self.torch.from_numpy(self.kernels0),
            }
        )

    def resume(self, store: Checkpoint, stepper: Any) -> int:
        """The step to go on from."""
        held = store.read(self.torch, self.model)
        if held is None:
            return 0
        self.model.restore(held["leaves"])
        self.before = [v.to(leaf.device) for v, leaf in zip(held["before"], self.model.leaves, strict=True)]
        stepper.load_state_dict(held["optimizer"])
        self.diverged = held["diverged"].numpy()
        self.losses = list(held["losses"].numpy())
        self.log = _Log(held["log_steps"], {k: list(v.numpy()) for k, v in held["log"].items()})
        self.kernels0 = None if held["kernels0"] is None else held["kernels0"].numpy()
        return int(held["step"])

    def result(self, members: tuple[int, ...]) -> Training:
        model, torch = self.model, self.torch
        S = len(model)

        def outputs(x: Any, base: Any) -> Array:
            with torch.no_grad():
                f = model(x) if base is None else model(x) - base
            found: Array = (self.alpha * f).double().cpu().numpy()
            return found

        names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "kernel_change", "curvature")
        return Training(
            model.network, tuple(model.member(i) for i in range(S)), members, model.width,
            np.array(self.losses).reshape(-1, S), np.array(self.log.steps),
            **{name: self.log.table(name, S) for name in names}, outputs=outputs(self.x, self.base),
            test_outputs=None if self.tests is None else outputs(self.tests[0], self.test_base),
            diverged=self.diverged.copy(),
        )  # fmt: skip
