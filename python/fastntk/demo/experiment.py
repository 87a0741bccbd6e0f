"""What the demo measures: three kernels, and a fourth of images, fitted on the training set alone, on test data and on
a learning curve."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from scipy.stats import norm
from threadpoolctl import threadpool_limits

from .. import stax
from ..predict import (
    DiagRegSelection,
    SearchWarning,
    calibrate,
    expected_calibration_error,
    gp_inference,
    leave_one_out,
    log_class_probabilities,
    negative_log_likelihood,
    one_hot,
    select_diag_reg,
)
from .data import Array, DemoError, Index, Problem, split, standardise
from .training import Training
from .training import train as train_in_closed_form

# Of the median distance between training points.
LENGTHSCALES = tuple(2.0 ** np.arange(-2.0, 2.01, 0.5))
MAX_SIZES = 7
TRAINED = ("NNGP", "NTK")
# With fewer, a random part lacks whole classes and the marginal likelihood has little to go by.
MIN_PER_CLASS = 3
# The convolutional network is left out of a problem that would take longer, or has more pixels.
MAX_SECONDS = 60.0
MAX_PIXELS = 32 * 32
PROBE = 16


@dataclass(frozen=True)
class Settings:
    """Network, split and learning curve; the command line has one option for each."""

    depth: int = 5
    w_std: float = 2**0.5
    b_std: float = 0.1
    seed: int = 0
    test_fraction: float = 0.25
    repeats: int = 5

    def check(self) -> None:
        """Raise DemoError for a value out of range."""
        if self.depth < 1:
            raise DemoError(f"--depth must be at least 1, given {self.depth}")
        if not (0 < self.w_std < np.inf and 0 <= self.b_std < np.inf):
            raise DemoError(f"--w-std must be positive and --b-std not negative, given {self.w_std:g}, {self.b_std:g}")
        if self.seed < 0:
            raise DemoError(f"--seed must not be negative, given {self.seed}")
        if not 0 < self.test_fraction < 1:
            raise DemoError(f"--test-fraction must lie between 0 and 1, given {self.test_fraction:g}")
        if self.repeats < 1:
            raise DemoError(f"--repeats must be at least 1, given {self.repeats}")


@dataclass(frozen=True)
class Family:
    """Kernels to choose from; ``kernel(scale, rows, columns)`` is one of them between samples of the problem."""

    name: str
    scales: tuple[float, ...]
    kernel: Callable[[float, Index, Index], Array]
    diagonal: Array


@dataclass(frozen=True)
class Convolution:
    """The NTK of the convolutional network (n, n) and the seconds it took; or None, and ``why`` it was left out."""

    ntk: Array | None
    seconds: float = 0.0
    why: str = ""


@dataclass(frozen=True)
class ModelResult:
    """One model on the test set.

    ``score``: accuracy, or root mean squared error in y's unit. ``mean``, ``sd``: prediction (m, o) and calibrated
    standard deviation (m,), in y's unit for a regression. ``log_p`` (m, classes): None for a regression.
    ``calibration``: expected calibration error of 15 bins, or the share of targets in their central 95 % intervals.
    ``seconds``: of choosing hyper-parameters, choosing the temperature, predicting.
    """

    name: str
    score: float
    nll: float
    mean: Array
    sd: Array
    log_p: Array | None
    calibration: float
    scale: float
    selection: DiagRegSelection
    temperature: float
    seconds: dict[str, float]


@dataclass(frozen=True)
class Curve:
    """Score against training size: ``scores[model][k]`` holds the repeats at ``sizes[k]`` (one at full size)."""

    sizes: tuple[int, ...]
    scores: dict[str, list[Array]]


@dataclass(frozen=True)
class Result:
    """All that the table and the picture show; ``training`` by model; ``convolution``: None without images."""

    problem: Problem
    settings: Settings
    train: Index
    test: Index
    gram: Array
    models: tuple[ModelResult, ...]
    training: dict[str, Training]
    curve: Curve
    kernel_seconds: float
    curve_seconds: float
    convolution: Convolution | None


def network(settings: Settings) -> stax.Layer:
    """A dense ReLU network with ``depth`` hidden layers and one linear output without bias."""
    hidden = [
        layer for _ in range(settings.depth) for layer in (stax.Dense(1, settings.w_std, settings.b_std), stax.Relu())
    ]
    return stax.serial(*hidden, stax.Dense(1))


def convolutional_network(settings: Settings) -> stax.Layer:
    """Two convolutions, a pool that halves the image, and weights for each position left."""
    conv = stax.Conv(1, (3, 3), None, "SAME", settings.w_std, settings.b_std)
    pool = stax.AvgPool((2, 2), (2, 2), "SAME")
    return stax.serial(conv, stax.Relu(), conv, stax.Relu(), pool, stax.Flatten(), stax.Dense(1))


def convolve(x: Array, shape: tuple[int, ...], settings: Settings) -> Convolution:
    """The NTK of :func:`convolutional_network` between all images, unless that would take too long.

    Parameters
    ----------
    x : numpy.ndarray (n, d)
    shape : tuple of int
        (height, width) or (height, width, colours) of a row of x.
    settings : Settings

    Returns
    -------
    Convolution
    """
    if shape[0] * shape[1] > MAX_PIXELS:
        return Convolution(None, why=f"images have more than {MAX_PIXELS} pixels")
    images = x.reshape(len(x), *shape[:2], -1)
    kernel_fn = convolutional_network(settings).kernel_fn
    kernel_fn(images[:2], None, "ntk")  # plans once
    few = images[:PROBE]
    start = perf_counter()
    kernel_fn(few, None, "ntk")
    expected = (perf_counter() - start) * (len(x) * (len(x) + 1)) / (len(few) * (len(few) + 1))
    if expected > MAX_SECONDS:
        return Convolution(None, why=f"it would take about {expected / 60:.0f} min, more than {MAX_SECONDS:.0f} s")
    start = perf_counter()
    ntk = kernel_fn(images, None, "ntk")
    return Convolution(ntk, perf_counter() - start)


def evaluate(problem: Problem, settings: Settings, progress: Callable[[int, int], None] | None = None) -> Result:
    """Run the whole experiment.

    Every choice (noise, amplitude, lengthscale: log marginal likelihood; temperature: leave-one-out) is made on the
    training set, or on the part of it that a point of the learning curve has. The test set gives scores and no more.

    Parameters
    ----------
    problem : Problem
    settings : Settings
    progress : callable (done, total), optional
        Called at the start and after each fit of a model.

    Returns
    -------
    Result

    Raises
    ------
    DemoError
        Settings out of range, a test set without samples, training targets that are all the same.
    """
    settings.check()
    rng = np.random.default_rng(settings.seed)
    train, test = split(problem, settings.test_fraction, rng)
    if len(test) == 0 or len(train) < 2:
        raise DemoError(
            f"--test-fraction {settings.test_fraction:g} leaves {len(train)} samples to train, {len(test)} to test"
        )
    if (problem.y[train] == problem.y[train][0]).all():
        raise DemoError(f"the {len(train)} samples to train on have one value of y only; another --seed may do")
    x = standardise(problem, train)

    start = perf_counter()
    _, _, kernel_fn = network(settings)
    kernels = kernel_fn(x, get=("nngp", "ntk"))
    kernel_seconds = perf_counter() - start
    _check_scale(kernels)
    families = [_fixed("NNGP", kernels.nngp), _fixed("NTK", kernels.ntk), _rbf(x, train)]
    convolution = None
    if problem.image_shape is not None:
        convolution = convolve(x, problem.image_shape, settings)
        if convolution.ntk is not None:
            _check_scale([convolution.ntk])
            families.insert(2, _fixed("CNTK", convolution.ntk))
    sizes = _sizes(problem, len(train))
    total = len(families) * (1 + settings.repeats * (len(sizes) - 1)) + len(TRAINED)
    steps = iter(range(total + 1))

    def step() -> None:
        done = next(steps)
        if progress is not None:
            progress(done, total)

    step()
    # Many small decompositions: threads gain little on an idle machine, and on a busy one wait for each other.
    with threadpool_limits(limits=1, user_api="blas"):
        models = []
        for family in families:
            models.append(_model(family, problem, train, test))
            step()
        training = {}
        for family in families:
            if family.name in TRAINED:
                training[family.name] = _train(family, problem, train, test)
                step()
        start = perf_counter()
        orders = [rng.permutation(train) for _ in range(settings.repeats)]
        scores = {model.name: [np.array([model.score])] for model in models}
        for size in reversed(sizes[:-1]):
            for family in families:
                found = []
                for order in orders:
                    found.append(_small_fit(family, problem, order[:size], test))
                    step()
                scores[family.name].insert(0, np.array(found))
        curve_seconds = perf_counter() - start
    curve = Curve(sizes, scores)
    return Result(
        problem, settings, train, test, kernels.nngp, tuple(models), training, curve, kernel_seconds, curve_seconds,
        convolution,
    )  # fmt: skip


def _check_scale(kernels: Sequence[Array]) -> None:
    """Variances multiply from layer to layer; behind enough of them they leave the range of float64."""
    scales = [float(np.mean(np.diagonal(k))) for k in kernels]
    if not (all(np.isfinite(k).all() for k in kernels) and 1e-200 < min(scales) <= max(scales) < 1e200):
        raise DemoError(f"K(x, x) is about {max(scales):.0e}, not usable: --w-std nearer to 1.4, or less --depth")


def _fixed(name: str, matrix: Array) -> Family:
    return Family(name, (1.0,), lambda _, rows, columns: matrix[np.ix_(rows, columns)], np.diagonal(matrix))


def _rbf(x: Array, train: Index) -> Family:
    """``exp(-|x - x'|^2 / (2 l^2))`` with lengthscales around the training points' median distance."""
    norms = np.einsum("nd,nd->n", x, x)
    squares = np.maximum(norms[:, None] + norms - 2.0 * (x @ x.T), 0.0)
    np.fill_diagonal(squares, 0.0)
    pairs = squares[np.ix_(train, train)][np.triu_indices(len(train), 1)]
    # More than half of the pairs may be copies of each other.
    median = float(np.sqrt(np.median(pairs) or np.mean(pairs))) or 1.0

    def kernel(scale: float, rows: Index, columns: Index) -> Array:
        k: Array = squares[np.ix_(rows, columns)]
        k *= -0.5 / scale**2
        np.exp(k, out=k)
        return k

    return Family("RBF", tuple(median * s for s in LENGTHSCALES), kernel, np.ones(len(x)))


def _encode(problem: Problem, rows: Index) -> tuple[Array, float, float]:
    """Targets (n, o) of training rows, with the offset and unit that turn predictions back.

    Classes: one-hot minus 1 / classes, so that the prior mean favours none. Regression: mean 0, variance 1.
    """
    y = problem.y[rows]
    if problem.classes is not None:
        return one_hot(y, len(problem.classes)), 0.0, 1.0
    offset, unit = float(y.mean()), float(y.std()) or 1.0
    return (y[:, None] - offset) / unit, offset, unit


def _select(family: Family, rows: Index, y: Array) -> tuple[float, DiagRegSelection]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SearchWarning)  # noise at the grid's lower end: the table says so
        found = [
            (scale, select_diag_reg(family.kernel(scale, rows, rows), y, criterion="evidence"))
            for scale in family.scales
        ]
    return max(found, key=lambda pair: pair[1].log_marginal_likelihood.max())


def _score(problem: Problem, rows: Index, mean: Array) -> float:
    if problem.classes is not None:
        return float(np.mean(mean.argmax(axis=1) == problem.y[rows]))
    return float(np.sqrt(np.mean((mean[:, 0] - problem.y[rows]) ** 2)))


def _temperature(problem: Problem, train: Index, k: Array, y: Array, selection: DiagRegSelection) -> float:
    """Factor of the posterior's standard deviation that fits the leave-one-out predictions best."""
    if problem.classes is None:
        free = leave_one_out(k, y, selection.diag_reg, amplitude=None)
        return float(np.sqrt(free.amplitude / selection.amplitude))
    held = leave_one_out(k, y, selection.diag_reg, amplitude=selection.amplitude)
    return calibrate(held.mean, held.variance, problem.y[train])


def _model(family: Family, problem: Problem, train: Index, test: Index) -> ModelResult:
    y, offset, unit = _encode(problem, train)
    seconds = {}
    start = perf_counter()
    scale, selection = _select(family, train, y)
    seconds["choose"] = perf_counter() - start

    start = perf_counter()
    k = family.kernel(scale, train, train)
    temperature = _temperature(problem, train, k, y, selection)
    seconds["calibrate"] = perf_counter() - start

    start = perf_counter()
    cross = family.kernel(scale, test, train)
    latent = gp_inference(k, y, selection.diag_reg)("nngp", cross, family.diagonal[test])
    mean = offset + unit * latent.mean
    variance = selection.amplitude * (latent.covariance + selection.diag_reg_absolute)
    sd = unit * temperature * np.sqrt(variance)
    log_p = log_class_probabilities(mean, sd**2) if problem.classes is not None else None
    seconds["predict"] = perf_counter() - start

    truth = problem.y[test]
    if log_p is not None:
        nll = negative_log_likelihood(log_p, truth)
        calibration = expected_calibration_error(np.exp(log_p), truth)
    else:
        nll = -float(norm.logpdf(truth, mean[:, 0], sd).mean())
        calibration = float(np.mean(np.abs(truth - mean[:, 0]) < norm.ppf(0.975) * sd))
    score = _score(problem, test, mean)
    return ModelResult(
        family.name, score, nll, mean, sd, log_p, calibration, scale, selection, temperature, seconds
    )  # fmt: skip


def _train(family: Family, problem: Problem, train: Index, test: Index) -> Training:
    y, offset, unit = _encode(problem, train)
    if problem.classes is not None:
        y_test = one_hot(problem.y[test], len(problem.classes))
    else:
        y_test = (problem.y[test][:, None] - offset) / unit
    (scale,) = family.scales
    k, cross = family.kernel(scale, train, train), family.kernel(scale, test, train)
    return train_in_closed_form(
        k, cross, y, y_test, lambda mean: _score(problem, test, offset + unit * mean), perf_counter
    )


def _sizes(problem: Problem, largest: int) -> tuple[int, ...]:
    """Training sizes of the learning curve, each half the next."""
    least = max(8, MIN_PER_CLASS * len(problem.classes or ()))
    sizes = [largest]
    while len(sizes) < MAX_SIZES and sizes[0] // 2 >= least:
        sizes.insert(0, sizes[0] // 2)
    return tuple(sizes)


def _small_fit(family: Family, problem: Problem, rows: Index, test: Index) -> float:
    """Test score from a part of the training set, every choice made anew on it."""
    y, offset, unit = _encode(problem, rows)
    if not y.any():  # one value of a regression's target
        return _score(problem, test, np.full((len(test), 1), offset))
    scale, selection = _select(family, rows, y)
    predict_fn = gp_inference(family.kernel(scale, rows, rows), y, selection.diag_reg)
    return _score(problem, test, offset + unit * predict_fn("nngp", family.kernel(scale, test, rows)))
