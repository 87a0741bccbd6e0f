"""The study: kernels, and networks of several widths with one thing changed at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import stax
from ..base.checks import finite, integer
from ..base.progress import bar
from ..predict import gradient_descent_mse, gradient_descent_mse_ensemble, max_learning_rate
from .data import Array, Data
from .networks import PARAMETERIZATIONS, Ensemble, Trained, draw, empirical_ntk, train

KERNELS = ("nngp", "ntk")
GRID = (1e-6, 1e-4, 1e-2, 0.1, 1.0)


@dataclass(frozen=True)
class Configuration:
    """How networks are trained.

    Attributes
    ----------
    name : str
    centered : bool
        Whether ``f - f_0`` is trained and predicts, f_0 the outputs before training.
    lr_multiplier : float
        Learning rate, in multiples of :func:`fastntk.predict.max_learning_rate` of the infinite network's NTK in the
        NTK parameterization, of the mean NTK of the networks before training in the standard one.
    l2 : float
        Factor of ``|theta|^2 / 2`` beside the loss ``|f - y|^2 / (2 |y|)``; theta is what is trained.
    parameterization : 'ntk' or 'standard'
    zca_eps : float or None
        Inputs whitened by :func:`zca_matrix`; None: centred and scaled only.

    Raises
    ------
    ValueError
        A learning rate that is not positive, a negative penalty or eps, another parameterization.
    """

    name: str
    centered: bool = False
    lr_multiplier: float = 0.5
    l2: float = 0.0
    parameterization: str = "ntk"
    zca_eps: float | None = None

    def __post_init__(self) -> None:
        what = "Configuration"
        if not 0 < self.lr_multiplier < math.inf:
            raise ValueError(f"[{what}] lr_multiplier must be positive and finite, given {self.lr_multiplier!r}")
        if not 0 <= self.l2 < math.inf:
            raise ValueError(f"[{what}] l2 must be finite and not negative, given {self.l2!r}")
        if self.parameterization not in PARAMETERIZATIONS:
            raise ValueError(
                f"[{what}] parameterization must be {' or '.join(PARAMETERIZATIONS)}, given {self.parameterization!r}"
            )
        if self.zca_eps is not None and not 0 <= self.zca_eps < math.inf:
            raise ValueError(f"[{what}] zca_eps must be finite and not negative, given {self.zca_eps!r}")


def one_at_a_time(
    lr_multiplier: float = 0.5, large_lr: float = 1.5, l2: float = 1e-4, zca_eps: float = 1.0
) -> tuple[Configuration, ...]:
    """A base, and what differs from it in one respect: centering, learning rate, L2, parameterization, ZCA.

    Parameters
    ----------
    lr_multiplier : float
        Of all but one.
    large_lr : float
        Learning rate of that one.
    l2, zca_eps : float

    Returns
    -------
    tuple of Configuration
    """
    return (
        Configuration("base", lr_multiplier=lr_multiplier),
        Configuration("centered", centered=True, lr_multiplier=lr_multiplier),
        Configuration("large rate", lr_multiplier=large_lr),
        Configuration("L2", lr_multiplier=lr_multiplier, l2=l2),
        Configuration("standard", lr_multiplier=lr_multiplier, parameterization="standard"),
        Configuration("ZCA", lr_multiplier=lr_multiplier, zca_eps=zca_eps),
    )


@dataclass(frozen=True)
class Score:
    """A mean over networks, and its standard error: None for a single one.

    Attributes
    ----------
    mean : float
    error : float or None
    """

    mean: float
    error: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of the study.

    Attributes
    ----------
    name : str
        The configuration's; for kernels 'NNGP' or 'NTK', with ZCA and its eps before it, or behind it the steps of
        gradient descent and their learning rate in multiples of the largest.
    kind : 'single', 'ensemble' or 'kernel'
        Single networks, averaged after scoring; their averaged predictions, scored; or an infinite network.
    width : int or None
        None: infinite.
    diag_reg : float or None
        Of kernels trained to the end, relative to the mean of the diagonal.
    networks, diverged : int
        Number of networks drawn, and how many of them diverged; these count in no score. 0 for kernels.
    test_accuracy, train_accuracy : Score or None
        Share of samples whose largest output is that of their class. None where all networks diverged.
    test_mse, train_mse : Score or None
        ``|f - y|^2 / |y|``.
    distance : Score or None
        ``|f - g| / |g|`` over the test set, g the mean of the infinite ensemble that trains as the configuration says,
        but without a penalty, in the NTK parameterization. Networks that are not centered keep the noise of f_0, at
        any width: their ensemble comes nearer with its size only. None for kernels.
    noise : float or None
        Of the infinite ensemble after these steps: the root mean square of ``|f - g| / |g|`` of its networks, where
        they are not centered. The mean of M of them is as far away as this over ``sqrt(M)``.
    """

    name: str
    kind: str
    width: int | None
    diag_reg: float | None
    networks: int
    diverged: int
    test_accuracy: Score | None
    train_accuracy: Score | None
    test_mse: Score | None
    train_mse: Score | None
    distance: Score | None
    noise: float | None = None


@dataclass(frozen=True)
class Study:
    """What :func:`finite_vs_infinite` returns.

    Attributes
    ----------
    data : str
    n_train, n_test : int
    widths : tuple of int
    n_ensemble, depth, steps : int
    w_std, b_std : float
    configurations : tuple of Configuration
    rows : tuple of Row
        Kernels trained to the end, then by configuration the kernel after the same time and networks by width.
    """

    data: str
    n_train: int
    n_test: int
    widths: tuple[int, ...]
    n_ensemble: int
    depth: int
    steps: int
    w_std: float
    b_std: float
    configurations: tuple[Configuration, ...]
    rows: tuple[Row, ...]

    def limit(self, config: Configuration) -> Row:
        """The infinite ensemble's mean that trains as a configuration says, in NTK parameterization, unpenalised."""
        return self.find(_limit_name(config, self.steps), "kernel")

    def find(self, name: str, kind: str, width: int | None = None, diag_reg: float | None = None) -> Row:
        """The row of these; KeyError where there is none."""
        for row in self.rows:
            if (row.name, row.kind, row.width, row.diag_reg) == (name, kind, width, diag_reg):
                return row
        raise KeyError(f"[find] no row {(name, kind, width, diag_reg)}")


@dataclass(frozen=True, eq=False)
class _Inputs:
    """Prepared inputs with the kernels of the infinite network; ``all``: training samples above test samples."""

    x_train: Array
    x_test: Array
    kernels: dict[str, tuple[Array, Array]]  # by name: (n, n) and (n + m, n)
    kernel_fn: Any

    def noise(self, y: Array, rate: float, steps: int, discrete: bool, mean: Array) -> float:
        """Of the infinite ensemble's networks about their mean over the test set, relative to it."""
        found = gradient_descent_mse_ensemble(self.kernel_fn, self.x_train, y, rate, discrete=discrete)(
            float(steps), self.x_test, "ntk", compute_cov=True
        )
        variances = np.diagonal(np.asarray(found.covariance))
        return math.sqrt(y.shape[1] * max(float(variances.sum()), 0.0)) / float(np.linalg.norm(mean))

    def trained(self, y: Array, rate: float, steps: int, discrete: bool) -> Array:
        """Mean outputs (n + m, k) of the infinite ensemble."""
        k, cross = self.kernels["ntk"]
        return np.asarray(gradient_descent_mse(k, y, rate, discrete=discrete)(float(steps), None, 0.0, cross))


def finite_vs_infinite(
    data: Data, widths: Sequence[int] = (32, 64, 128, 256, 512), n_ensemble: int = 4, *, depth: int = 2,
    steps: int = 300, configurations: Sequence[Configuration] | None = None,
    diag_reg_grid: Sequence[float] = GRID, w_std: float = math.sqrt(2), b_std: float = 0.1, rng: int = 0,
    progress: bool = False,
) -> Study:  # fmt: skip
    """Compare fully connected ReLU networks of finite width, trained by gradient descent, with their infinite limits.

    Parameters
    ----------
    data : Data
        Targets are one-hot, less 1 / classes; inputs centred, with a mean square of 1.
    widths : sequence of int
        Of all hidden layers.
    n_ensemble : int
        Networks of each width and configuration; one width has the same initial functions in all of them.
    depth : int
        Hidden layers.
    steps : int
        Full-batch steps of gradient descent.
    configurations : sequence of Configuration, optional
        By default those of :func:`one_at_a_time`.
    diag_reg_grid : sequence of float
        What kernels trained to the end have added to their diagonal, relative to its mean.
    w_std, b_std : float
        Of all layers.
    rng : int
        Seed of the networks.
    progress : bool
        Show a bar.

    Returns
    -------
    Study

    Raises
    ------
    TypeError
        No Data, no Configuration, numbers that are no integers.
    ValueError
        Numbers below 1, no widths or configurations or two of one name, a grid that is empty or negative.

    Notes
    -----
    Networks are float32, kernels float64. ``distance`` compares with discrete steps of the kernel at the same learning
    rate where it is below ``max_learning_rate``; beyond, where these diverge, with gradient flow for the same time.
    Left out of the paper's study: convolutional networks, data augmentation and kernel ensembling, early stopping by
    a validation set.

    References
    ----------
    Lee et al. (2020), Finite versus infinite neural networks: an empirical study, arXiv:2007.15801, whose comparison of
    a base with one change at a time, centering, ensembling, and regularised ZCA these are.
    """
    what = "finite_vs_infinite"
    if not isinstance(data, Data):
        raise TypeError(f"[{what}] data must be a study.Data, given {type(data).__name__}")
    sizes = tuple(integer(what, "widths", width) for width in widths)
    count, depth, steps = (
        integer(what, name, value) for name, value in (("n_ensemble", n_ensemble), ("depth", depth), ("steps", steps))
    )
    seed = integer(what, "rng", rng, least=0)
    chosen = one_at_a_time() if configurations is None else tuple(configurations)
    if wrong := [c for c in chosen if not isinstance(c, Configuration)]:
        raise TypeError(f"[{what}] takes Configurations, given {type(wrong[0]).__name__}")
    for name, values in (("widths", sizes), ("configurations", tuple(c.name for c in chosen))):
        if not values or len(set(values)) < len(values):
            raise ValueError(f"[{what}] {name} must be some, each once, given {values}")
    grid = tuple(float(reg) for reg in diag_reg_grid)
    if not grid or not all(0 <= reg < math.inf for reg in grid):
        raise ValueError(f"[{what}] diag_reg_grid must be finite and not negative, given {grid}")
    w_std, b_std = finite(what, "w_std", w_std), finite(what, "b_std", b_std)

    y = data.targets()
    rows: list[Row] = []
    ready: dict[float | None, _Inputs] = {}
    for eps in (None, *[c.zca_eps for c in chosen]):
        if eps not in ready:
            ready[eps] = _prepare(data, eps, depth, w_std, b_std)
            rows += _kernel_rows(ready[eps], data, y, eps, grid)
    with bar(len(chosen) * len(sizes), progress, "run") as report:
        for config in chosen:
            inputs = ready[config.zca_eps]
            largest = max_learning_rate(inputs.kernels["ntk"][0], y[0].size)
            goal = inputs.trained(y[0], config.lr_multiplier * largest, steps, config.lr_multiplier < 1)
            name = _limit_name(config, steps)
            if all(row.name != name for row in rows):
                rate, discrete = config.lr_multiplier * largest, config.lr_multiplier < 1
                noise = inputs.noise(y[0], rate, steps, discrete, goal[len(y[0]) :])
                rows.append(replace(_row(name, "kernel", data, y, goal[None]), noise=noise))
            for width in sizes:
                networks = draw(
                    count, inputs.x_train.shape[1], width, depth, y[0].shape[1], np.random.default_rng([seed, width]),
                    parameterization=config.parameterization, w_std=w_std, b_std=b_std,
                )  # fmt: skip
                rate = config.lr_multiplier * largest
                if config.parameterization == "standard":
                    own = empirical_ntk(networks, inputs.x_train).mean(axis=0)
                    rate = config.lr_multiplier * max_learning_rate(own, y[0].size)
                trained = train(networks, inputs.x_train, y[0], rate, steps, l2=config.l2, centered=config.centered)
                outputs = _outputs(networks, trained, inputs, config.centered)
                for kind in ("single", "ensemble"):
                    rows.append(_row(config.name, kind, data, y, outputs, goal, width=width, networks=count))
                report(1)
    return Study(
        data.name, len(data.x_train), len(data.x_test), sizes, count, depth, steps, w_std, b_std, chosen, tuple(rows)
    )


def _prepare(data: Data, eps: float | None, depth: int, w_std: float, b_std: float) -> _Inputs:
    x_train, x_test = data.inputs(eps)
    dense = stax.Dense(1, w_std, b_std), stax.Relu()
    _, _, kernel_fn = stax.serial(*dense * depth, stax.Dense(data.n_classes, w_std, b_std))
    gram, cross = kernel_fn(x_train, get=KERNELS), kernel_fn(x_test, x_train, get=KERNELS)
    pairs = {name: (getattr(gram, name), getattr(cross, name)) for name in KERNELS}
    both = {name: (k, np.concatenate([k, other])) for name, (k, other) in pairs.items()}
    return _Inputs(x_train, x_test, both, kernel_fn)


def _kernel_name(name: str, eps: float | None) -> str:
    return name.upper() if eps is None else f"ZCA {eps:g} {name.upper()}"


def _limit_name(config: Configuration, steps: int) -> str:
    return f"{_kernel_name('ntk', config.zca_eps)}, {steps} steps of {config.lr_multiplier:g} max"


def _kernel_rows(
    inputs: _Inputs, data: Data, y: tuple[Array, Array], eps: float | None, grid: Sequence[float]
) -> list[Row]:
    """The posterior means of both kernels: networks whose last layer, or all layers, were trained to the end."""
    found = []
    for name, (k, cross) in inputs.kernels.items():
        for reg in grid:
            outputs = np.asarray(gradient_descent_mse(k, y[0], diag_reg=reg)(None, None, 0.0, cross))
            found.append(_row(_kernel_name(name, eps), "kernel", data, y, outputs[None], diag_reg=reg))
    return found


def _outputs(start: Ensemble, trained: Trained, inputs: _Inputs, centered: bool) -> Array:
    """(networks that did not diverge, n + m, k) in float64."""
    x = np.concatenate([inputs.x_train, inputs.x_test])
    found = trained.networks(x).astype(np.float64)
    return found - start.take(trained.survived)(x) if centered else found


def _row(
    name: str, kind: str, data: Data, y: tuple[Array, Array], outputs: Array, goal: Array | None = None, *,
    width: int | None = None, diag_reg: float | None = None, networks: int = 0,
) -> Row:  # fmt: skip
    """Scores of outputs (S, n + m, k), S of 0 included."""
    diverged = networks - len(outputs) if networks else 0
    if not len(outputs):
        return Row(name, kind, width, diag_reg, networks, diverged, None, None, None, None, None)
    if kind == "ensemble":
        outputs = outputs.mean(axis=0, keepdims=True)
    n = len(y[0])
    scores = []
    for f, labels, truth in (
        (outputs[:, n:], data.labels_test, y[1]), (outputs[:, :n], data.labels_train, y[0]),
    ):  # fmt: skip
        scores += [
            _score(np.mean(f.argmax(axis=2) == labels, axis=1)), _score(np.mean((f - truth) ** 2, axis=(1, 2)))
        ]  # fmt: skip
    distance = None
    if goal is not None:
        away = np.linalg.norm(outputs[:, n:] - goal[n:], axis=(1, 2)) / np.linalg.norm(goal[n:])
        distance = _score(away)
    return Row(name, kind, width, diag_reg, networks, diverged, scores[0], scores[2], scores[1], scores[3], distance)


def _score(values: Array) -> Score:
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return Score(float(values.mean()), error)
