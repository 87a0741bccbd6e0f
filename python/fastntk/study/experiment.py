"""The study: kernels, and networks of several widths with one thing changed at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..base.checks import finite, integer
from ..base.progress import bar
from ..predict import gradient_descent_mse, gradient_descent_mse_ensemble, max_learning_rate
from .architectures import NETWORKS, Architecture, Outcome, trained
from .data import Array, Data
from .networks import PARAMETERIZATIONS

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
    augment : int
        Copies of each training image, moved by a pixel, that are trained on besides (:meth:`Data.augmented`).
    share : float
        Of the study's steps, in (0, 1]: below 1 training is stopped early.

    Raises
    ------
    ValueError
        A learning rate that is not positive, a negative penalty, eps or number of copies, another parameterization, a
        share outside (0, 1].
    """

    name: str
    centered: bool = False
    lr_multiplier: float = 0.5
    l2: float = 0.0
    parameterization: str = "ntk"
    zca_eps: float | None = None
    augment: int = 0
    share: float = 1.0

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
        integer(what, "augment", self.augment, least=0)
        if not 0 < self.share <= 1:
            raise ValueError(f"[{what}] share must lie in (0, 1], given {self.share!r}")

    def steps(self, count: int) -> int:
        """Of a study of so many."""
        return max(1, round(self.share * count))


def one_at_a_time(
    lr_multiplier: float = 0.5, large_lr: float = 1.5, l2: float = 1e-4, zca_eps: float = 1.0, share: float = 0.1,
    augment: int = 0,
) -> tuple[Configuration, ...]:  # fmt: skip
    """A base, and what differs from it in one respect: centering, rate, L2, parameterization, ZCA, length, images.

    Parameters
    ----------
    lr_multiplier : float
        Of all but one.
    large_lr : float
        Learning rate of that one.
    l2, zca_eps : float
    share : float
        Of the steps, of the configuration that is stopped early.
    augment : int
        Copies of each image, of the configuration with these; 0: without such a configuration.

    Returns
    -------
    tuple of Configuration
    """
    found = (
        Configuration("base", lr_multiplier=lr_multiplier),
        Configuration("centered", centered=True, lr_multiplier=lr_multiplier),
        Configuration("large rate", lr_multiplier=large_lr),
        Configuration("L2", lr_multiplier=lr_multiplier, l2=l2),
        Configuration("standard", lr_multiplier=lr_multiplier, parameterization="standard"),
        Configuration("ZCA", lr_multiplier=lr_multiplier, zca_eps=zca_eps),
        Configuration("stopped", lr_multiplier=lr_multiplier, share=share),
    )
    if not augment:
        return found
    return (*found, Configuration("augmented", lr_multiplier=lr_multiplier, augment=augment))


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
        The configuration's; for kernels 'NNGP' or 'NTK', with ZCA and its eps or 'augmented' before it, or behind it
        the steps of gradient descent and their learning rate in multiples of the largest, or 'stopped'.
    kind : 'single', 'ensemble' or 'kernel'
        Single networks, averaged after scoring; their averaged predictions, scored; or an infinite network.
    width : int or None
        None: infinite.
    diag_reg : float or None
        Of kernels trained to the end, relative to the mean of the diagonal. Of those that are stopped, the same over
        the time: gradient flow for ``t = |y| / r`` leaves about what a ridge r does.
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
    rate : float or None
        Learning rate of networks, for the loss ``|f - y|^2 / (2 |y|)``.
    diverged_at : int or None
        The first step at which a network diverged.
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
    rate: float | None = None
    diverged_at: int | None = None


@dataclass(frozen=True)
class Study:
    """What :func:`finite_vs_infinite` returns.

    Attributes
    ----------
    data : str
    n_train, n_test : int
    widths : tuple of int
    n_ensemble, depth, steps : int
    network : str
        'dense', 'conv' or 'conv-gap'.
    layers : str
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
    network: str
    layers: str
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
    """Prepared inputs with the kernels of the infinite network; ``kernels``: training samples above test samples."""

    x_train: Array
    x_test: Array
    data: Data
    y: tuple[Array, Array]
    kernels: dict[str, tuple[Array, Array]]  # by name: (n, n) and (n + m, n)
    kernel_fn: Any

    @property
    def largest(self) -> float:
        return max_learning_rate(self.kernels["ntk"][0], self.y[0].size)

    def noise(self, rate: float, steps: int, discrete: bool, mean: Array) -> float:
        """Of the infinite ensemble's networks about their mean over the test set, relative to it."""
        y = self.y[0]
        found = gradient_descent_mse_ensemble(self.kernel_fn, self.x_train, y, rate, discrete=discrete)(
            float(steps), self.x_test, "ntk", compute_cov=True
        )
        variances = np.diagonal(np.asarray(found.covariance))
        return math.sqrt(y.shape[1] * max(float(variances.sum()), 0.0)) / float(np.linalg.norm(mean))

    def trained(self, rate: float, steps: int, discrete: bool) -> Array:
        """Mean outputs (n + m, k) of the infinite ensemble."""
        k, cross = self.kernels["ntk"]
        return np.asarray(gradient_descent_mse(k, self.y[0], rate, discrete=discrete)(float(steps), None, 0.0, cross))


def finite_vs_infinite(
    data: Data, widths: Sequence[int] = (32, 64, 128, 256, 512), n_ensemble: int = 4, *, network: str = "dense",
    depth: int = 2, steps: int = 300, configurations: Sequence[Configuration] | None = None,
    diag_reg_grid: Sequence[float] = GRID, w_std: float = math.sqrt(2), b_std: float = 0.1, rng: int = 0,
    progress: bool = False,
) -> Study:  # fmt: skip
    """Compare ReLU networks of finite width, trained by gradient descent, with their infinite limits.

    Parameters
    ----------
    data : Data
        Targets are one-hot, less 1 / classes; inputs centred, with a mean square of 1.
    widths : sequence of int
        Of all hidden layers.
    n_ensemble : int
        Networks of each width and configuration; one width has the same initial functions in all of them.
    network : 'dense', 'conv' or 'conv-gap'
        Fully connected; or convolutions of 3 x 3, of stride 2 from the second on, then all positions or their mean
        (PyTorch). Convolutional ones take images.
    depth : int
        Hidden layers.
    steps : int
        Full-batch steps of gradient descent.
    configurations : sequence of Configuration, optional
        By default those of :func:`one_at_a_time`, of images with a moved copy of each in one of them.
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
        Numbers below 1, no widths or configurations or two of one name, a grid that is empty or negative, another
        network, a convolutional network or augmentation on samples that are no images.
    ImportError
        Convolutional networks without PyTorch.

    Notes
    -----
    Networks are float32, kernels float64. ``distance`` compares with discrete steps of the kernel at the same learning
    rate where it is below ``max_learning_rate``; beyond, where these diverge, with gradient flow for the same time.
    Left out of the paper's study: ensembles of kernels over draws of augmentation, early stopping by a validation set.

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
    images = data.image_shape is not None
    chosen = one_at_a_time(augment=int(images)) if configurations is None else tuple(configurations)
    if wrong := [c for c in chosen if not isinstance(c, Configuration)]:
        raise TypeError(f"[{what}] takes Configurations, given {type(wrong[0]).__name__}")
    for name, values in (("widths", sizes), ("configurations", tuple(c.name for c in chosen))):
        if not values or len(set(values)) < len(values):
            raise ValueError(f"[{what}] {name} must be some, each once, given {values}")
    grid = tuple(float(reg) for reg in diag_reg_grid)
    if not grid or not all(0 <= reg < math.inf for reg in grid):
        raise ValueError(f"[{what}] diag_reg_grid must be finite and not negative, given {grid}")
    w_std, b_std = finite(what, "w_std", w_std), finite(what, "b_std", b_std)

    if network not in NETWORKS:
        raise ValueError(f"[{what}] network must be {', '.join(NETWORKS)}, given {network!r}")
    if network != "dense" and not images:
        raise ValueError(f"[{what}] network {network} takes images, the samples are vectors of {data.x_train.shape[1]}")
    kind = Architecture(network, depth, w_std, b_std, data.n_classes)
    rows: list[Row] = []
    ready: dict[tuple[float | None, int], _Inputs] = {}
    for eps, augment in ((None, 0), *[(c.zca_eps, c.augment) for c in chosen]):
        if (eps, augment) not in ready:
            part = data.augmented(augment, seed) if augment else data
            ready[eps, augment] = _prepare(part, eps, kind)
            rows += _kernel_rows(ready[eps, augment], _prefix(eps, augment), grid)
    with bar(len(chosen) * len(sizes), progress, "run") as report:
        for config in chosen:
            inputs = ready[config.zca_eps, config.augment]
            rate, discrete = config.lr_multiplier * inputs.largest, config.lr_multiplier < 1
            goal = inputs.trained(rate, config.steps(steps), discrete)
            name = _limit_name(config, steps)
            if all(row.name != name for row in rows):
                noise = inputs.noise(rate, config.steps(steps), discrete, goal[len(inputs.y[0]) :])
                rows.append(replace(_row(name, "kernel", inputs, goal[None]), noise=noise))
            for width in sizes:
                found = trained(
                    kind, config, inputs.x_train, inputs.x_test, inputs.y[0], width=width, networks=count,
                    steps=config.steps(steps), largest=inputs.largest, seed=seed,
                )  # fmt: skip
                for sort in ("single", "ensemble"):
                    rows.append(_row(config.name, sort, inputs, found.outputs, goal, width=width, outcome=found))
                report(1)
    return Study(
        data.name, len(data.x_train), len(data.x_test), sizes, count, depth, steps, network, str(kind), w_std, b_std,
        chosen, tuple(rows),
    )  # fmt: skip


def _prepare(data: Data, eps: float | None, kind: Architecture) -> _Inputs:
    x_train, x_test = data.inputs(eps)
    if kind.images and data.image_shape is not None:
        x_train, x_test = (x.reshape(-1, *data.image_shape) for x in (x_train, x_test))
    kernel_fn = kind.layers(1).kernel_fn
    gram, cross = kernel_fn(x_train, get=KERNELS), kernel_fn(x_test, x_train, get=KERNELS)
    pairs = {name: (getattr(gram, name), getattr(cross, name)) for name in KERNELS}
    both = {name: (k, np.concatenate([k, other])) for name, (k, other) in pairs.items()}
    return _Inputs(x_train, x_test, data, data.targets(), both, kernel_fn)


def _prefix(eps: float | None, augment: int) -> str:
    return ("" if eps is None else f"ZCA {eps:g} ") + ("augmented " if augment else "")


def _limit_name(config: Configuration, steps: int) -> str:
    about = f"{config.steps(steps)} steps of {config.lr_multiplier:g} max"
    return f"{_prefix(config.zca_eps, config.augment)}NTK, {about}"


def _kernel_rows(inputs: _Inputs, prefix: str, grid: Sequence[float]) -> list[Row]:
    """The posterior means of both kernels: networks whose last layer, or all layers, were trained to the end.

    The tangent kernel of inputs as they are also after a time instead of a ridge.
    """
    found = []
    y = inputs.y[0]
    for name, (k, cross) in inputs.kernels.items():
        for reg in grid:
            outputs = np.asarray(gradient_descent_mse(k, y, diag_reg=reg)(None, None, 0.0, cross))
            found.append(_row(prefix + name.upper(), "kernel", inputs, outputs[None], diag_reg=reg))
        if name == "ntk" and not prefix:
            flow = gradient_descent_mse(k, y)
            for reg in grid:
                if reg > 0:
                    time = y.size / (reg * float(np.trace(k)) / len(k))
                    outputs = np.asarray(flow(time, None, 0.0, cross))
                    found.append(_row("NTK stopped", "kernel", inputs, outputs[None], diag_reg=reg))
    return found


def _row(
    name: str, kind: str, inputs: _Inputs, outputs: Array, goal: Array | None = None, *,
    width: int | None = None, diag_reg: float | None = None, outcome: Outcome | None = None,
) -> Row:  # fmt: skip
    """Scores of outputs (S, n + m, k), S of 0 included."""
    networks = len(outcome.diverged) if outcome else 0
    gone = outcome.diverged[outcome.diverged >= 0] if outcome else np.empty(0)
    about: dict[str, Any] = {
        "rate": outcome.rate if outcome else None, "diverged_at": int(gone.min()) if len(gone) else None
    }  # fmt: skip
    if not len(outputs):
        return Row(name, kind, width, diag_reg, networks, len(gone), None, None, None, None, None, **about)
    if kind == "ensemble":
        outputs = outputs.mean(axis=0, keepdims=True)
    y, data, n = inputs.y, inputs.data, len(inputs.y[0])
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
    return Row(
        name, kind, width, diag_reg, networks, len(gone), scores[0], scores[2], scores[1], scores[3], distance, **about
    )


def _score(values: Array) -> Score:
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return Score(float(values.mean()), error)
