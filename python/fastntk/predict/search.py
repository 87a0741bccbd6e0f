"""The search of :func:`fastntk.predict.fit` for one depth: Grams, the best noise of each, and a way uphill."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar

from ..base.arraylike import describe
from ..base.progress import Report
from ..call.inputs import axes_of
from ..call.kernel_fn import KernelFn
from .evidence import Amplitude, Problem, SpectralEvidence, check_nonzero
from .linalg import Conditioning, namespace, solve_dtype_of
from .slopes import spectral_gradient

Array = npt.NDArray[Any]

WHAT = "fit"
_NOISES = 41  # tried on a spectrum before the best is refined
_DESIGN = {0: 1, 1: 9, 2: 5}  # values of each parameter tried before a local search, by the number of parameters
_LOCAL = 80  # Grams that one local search may take, for each parameter
_H = 1e-4  # step of the differences of a network's own numbers
_FEW = 32  # points on which it is seen whether a parameter changes the kernel


@dataclass(frozen=True)
class Evaluation:
    """One Gram: the network's parameters, the best ``diag_reg`` (relative) and amplitude for it, and the evidence."""

    depth: int
    W_std: float
    b_std: float
    diag_reg: float
    amplitude: float
    log_marginal_likelihood: float


# ---------------------------------------------------------------- one Gram


@dataclass(frozen=True, eq=False)
class _Best:
    evaluation: Evaluation
    value: float  # the evidence in units of the targets
    kernel_fn: Any
    k: Any
    conditioning: Conditioning
    unit: float  # the kernel's
    amplitude: Amplitude
    noise_variance: float


class Model:
    """Evidence of the data as a function of depth, W_std and b_std; remembers all it was asked for."""

    def __init__(
        self, network: Callable[..., Any], x: Any, y: Array, get: str, diag_reg: tuple[float, float], absolute: bool,
        amplitude: float | None, trace_axes: Sequence[int], solve_dtype: Any,
    ) -> None:  # fmt: skip
        self._network, self._x, self._y, self._get = network, x, y, get
        self._diag_reg, self._absolute, self._amplitude = diag_reg, absolute, amplitude
        self._trace_axes, self._solve_dtype = trace_axes, solve_dtype
        self.history: list[Evaluation] = []
        self.best: _Best | None = None
        self._last: tuple[Any, Problem, SpectralEvidence, float, float, Amplitude] | None = None

    def kernel_fn(self, depth: int, W_std: float, b_std: float) -> Any:
        made = self._network(depth=depth, W_std=W_std, b_std=b_std)
        if isinstance(made, tuple) and len(made) == 3:
            made = made[2]
        found = getattr(made, "kernel_fn", made)
        if not callable(found):
            raise TypeError(
                f"[{WHAT}] network must give a layer, its triple or a kernel function; given {describe(made)}"
            )
        return found

    def few(self, depth: int, W_std: float, b_std: float) -> Any:
        """K of a few points, in units of its largest entry where the amplitude is free."""
        kernel_fn = self.kernel_fn(depth, W_std, b_std)
        axis = axes_of(kernel_fn.layer)[0] if isinstance(kernel_fn, KernelFn) else 0
        k = kernel_fn(self._x[(slice(None),) * axis + (slice(_FEW),)], None, self._get)
        largest = float(abs(k).max()) if self._amplitude is None else 1.0
        return k / largest if 0 < largest < np.inf else k

    def evaluate(self, depth: int, W_std: float, b_std: float) -> float:
        """The evidence at the best noise and amplitude, in units of the targets."""
        kernel_fn = self.kernel_fn(depth, W_std, b_std)
        k = kernel_fn(self._x, None, self._get)
        try:
            problem = Problem.check(k, self._y, self._trace_axes, self._solve_dtype, WHAT)
            spectral = problem.spectral(WHAT)
            mean = problem.mean_diagonal(WHAT) / problem.unit
            low, high = problem.noises(np.array(self._diag_reg), self._absolute, "diag_reg", WHAT)
        except ValueError as error:
            raise ValueError(f"{error}; at depth={depth}, W_std={W_std:.6g}, b_std={b_std:.6g}") from error
        if self._amplitude is None:
            check_nonzero(problem.y, WHAT)
        noise, a, value = best_noise(spectral, low, high, self._amplitude)
        self._last = kernel_fn, problem, spectral, noise, mean, a
        found = Evaluation(depth, W_std, b_std, noise / mean, float(a.value), value + spectral.of_units)
        self.history.append(found)
        if self.best is None or value > self.best.value:
            conditioning = spectral.spectrum.shifted(noise * problem.unit)
            variance = float(a.times(np.float64(noise)))
            self.best = _Best(found, value, kernel_fn, k, conditioning, problem.unit, a, variance)
        return value

    def has_gradients(self, depth: int, W_std: float, b_std: float) -> bool:
        """Whether the kernel is one of this package's on arrays in host memory, and differentiable."""
        kernel_fn = self.kernel_fn(depth, W_std, b_std)
        if not isinstance(kernel_fn, KernelFn) or not isinstance(self._x, np.ndarray):
            return False
        try:
            kernel_fn.vjp(self._x[:1], cotangents={self._get: np.zeros((1, 1))}, wrt=())
        except (NotImplementedError, TypeError, ValueError):
            return False
        return True

    def gradient(self, depth: int, values: dict[str, float], names: Sequence[str]) -> Array:
        """Of the evidence that was evaluated last, in the logarithms of the parameters.

        Noise and amplitude are at their best, and do not move it.
        """
        assert self._last is not None
        kernel_fn, problem, spectral, noise, mean, a = self._last
        relative = 0.0 if self._absolute else noise / mean
        of_kernel = spectral_gradient(spectral.spectrum, problem.y, noise, a.divide, relative)
        slopes = [self._slopes(depth, values, name) for name in names]
        paths = tuple({path: None for of in slopes for path in of})
        found = kernel_fn.vjp(self._x, cotangents={self._get: of_kernel}, wrt=paths).parameters
        return np.array([sum(found[path] * slope for path, slope in of.items()) for of in slopes])

    def _slopes(self, depth: int, values: dict[str, float], name: str) -> dict[str, float]:
        """Derivatives of the layers' numbers in the logarithm of a parameter: what the network makes of it."""
        ends = [self.kernel_fn(depth, **(values | {name: values[name] * np.exp(h)})).parameters for h in (_H, -_H)]
        found = {path: (ends[0][path] - ends[1][path]) / (2 * _H) for path in ends[0]}
        return {path: slope for path, slope in found.items() if slope}

    def rounding(self) -> float:
        """eps of the dtype computed in."""
        return float(np.finfo(solve_dtype_of(self._solve_dtype, WHAT)).eps)


def best_noise(
    evidence: SpectralEvidence, low: float, high: float, amplitude: float | None
) -> tuple[float, Amplitude, float]:
    """Noise between low and high of the largest evidence, the amplitude there and the evidence; in units throughout."""
    noises = np.geomspace(low, high, _NOISES) if low < high else np.array([low])
    values, _ = evidence(noises, amplitude)
    at = evidence.best(noises, values)

    def settled(noise: float) -> tuple[float, Amplitude, float]:
        values, a = evidence(np.array([noise]), amplitude)
        return noise, replace(a, mantissa=np.ravel(a.mantissa)[0]), float(values[0])

    found = settled(float(noises[at]))
    if low == high or not np.isfinite(found[2]):
        return found

    def loss(log_noise: float) -> float:
        return -float(evidence(np.exp([log_noise]), amplitude)[0][0])

    around = np.log(noises[max(0, at - 1)]), np.log(noises[min(_NOISES - 1, at + 1)])
    refined = minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-9})
    if -refined.fun <= found[2]:
        return found
    return settled(float(np.exp(refined.x)))


# ---------------------------------------------------------------- one depth


class Search:
    """The search over W_std and b_std of one depth."""

    def __init__(
        self, model: Model, depth: int, ranges: dict[str, tuple[float, float]], restarts: int, tol: float
    ) -> None:
        self.depth, self.settled = depth, True
        self._model, self._restarts, self._tol = model, restarts, tol
        # What is not searched stays in the middle.
        self._fixed = {name: float(np.sqrt(low) * np.sqrt(high)) for name, (low, high) in ranges.items()}
        open_ = [name for name in ("W_std", "b_std") if ranges[name][0] < ranges[name][1]]
        self.unidentified = [name for name in open_ if self._changes_nothing(name, ranges[name])]
        self._names = [name for name in open_ if name not in self.unidentified]
        self._ends = np.log([ranges[name] for name in self._names]).reshape(-1, 2)
        self._points = _DESIGN[len(self._names)]
        self._local = _LOCAL * len(self._names)
        self.allowance = self._points ** len(self._names) + restarts * self._local

    def run(self, report: Report) -> None:
        """Design and local searches."""
        axes = [np.linspace(low, high, self._points) for low, high in self._ends]
        shape = (self._points,) * len(axes)
        values = np.empty(shape)
        for at in np.ndindex(*shape):
            values[at] = self._evidence(np.array([axis[k] for axis, k in zip(axes, at, strict=True)]))
            report(1)
        if not axes:
            report(self._restarts * self._local)
            return
        for start in itertools.islice(_local_maxima(values), self._restarts):
            spent = self._climb(np.array([axis[k] for axis, k in zip(axes, start, strict=True)]), report)
            report(self._local - spent)

    def _climb(self, start: Array, report: Report) -> int:
        """A local search from ``start``; the number of Grams it took."""
        if self._model.has_gradients(self.depth, **self._values(start)):
            return self._follow(start, report)
        low, high = self._ends.T
        step = (high - low) / (self._points - 1) / 2
        corners = [start]
        for k in range(len(start)):
            inward = step[k] if start[k] + step[k] <= high[k] else -step[k]
            corners.append(start + np.eye(len(start))[k] * inward)

        def loss(point: Array) -> float:
            report(1)
            return -self._evidence(point)

        found = minimize(
            loss, start, method="Nelder-Mead", bounds=self._ends,
            options={
                "initial_simplex": np.array(corners), "xatol": self._tol, "fatol": self._tol, "maxfev": self._local,
            },
        )  # fmt: skip
        self.settled &= bool(found.success)
        return int(found.nfev)

    def _follow(self, start: Array, report: Report) -> int:
        """L-BFGS-B's search, by gradients."""

        def loss(point: Array) -> tuple[float, Array]:
            report(1)
            value = self._evidence(point)
            return -value, -self._model.gradient(self.depth, self._values(point), self._names)

        # Where the slope is this small, so is what is left to gain in a step of that size.
        found = minimize(
            loss, start, method="L-BFGS-B", jac=True, bounds=self._ends,
            options={"gtol": self._tol / 10, "ftol": 1e-9, "maxfun": self._local},
        )  # fmt: skip
        self.settled &= bool(found.success)
        return int(found.nfev)

    def _values(self, point: Array) -> dict[str, float]:
        values = self._fixed | {name: float(np.exp(p)) for name, p in zip(self._names, point, strict=True)}
        return {name: values[name] for name in ("W_std", "b_std")}

    def _evidence(self, point: Array) -> float:
        values = self._values(point)
        return self._model.evaluate(self.depth, values["W_std"], values["b_std"])

    def _changes_nothing(self, name: str, ends: tuple[float, float]) -> bool:
        """Whether K of a few points is the same all over the range of a parameter, but for a free amplitude."""
        shapes = []
        for value in (ends[0], self._fixed[name], ends[1]):
            values = self._fixed | {name: value}
            shapes.append(self._model.few(self.depth, values["W_std"], values["b_std"]))
        xp = namespace(*shapes, what=WHAT)
        rounding = 100 * float(np.finfo(shapes[0].dtype).eps)
        return all(bool(xp.allclose(shapes[0], other, rtol=rounding, atol=0)) for other in shapes[1:])


def _local_maxima(values: Array) -> Iterator[tuple[int, ...]]:
    """Indices that no neighbour along an axis exceeds, the largest value first."""
    for flat in np.argsort(-values, axis=None, kind="stable"):
        at = tuple(int(k) for k in np.unravel_index(flat, values.shape))
        near = [
            (*at[:axis], at[axis] + way, *at[axis + 1 :])
            for axis in range(values.ndim)
            for way in (-1, 1)
            if 0 <= at[axis] + way < values.shape[axis]
        ]
        if all(values[at] >= values[other] for other in near):
            yield at
