"""An infinite ensemble of infinitely wide networks at any time of their training, test points in tiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arraylike import as_array, describe, is_array, is_numbers, refuse_masked
from ..base.door import door
from ..base.place import device_of
from ..call.inputs import axes_of
from ..call.kernel_fn import KernelFn
from .descent import Descent, twice
from .early import Early
from .grams import Grams, copied
from .linalg import Conditioning, Spectrum, check_finite, given_array, namespace, product, solve_dtype_of
from .posterior import Gaussian, by_get, names_of, result
from .targets import Targets, targets_of
from .tiles import BUDGET, Evolved, Found, Prediction, empty_covariances, predict_tiles, settle
from .units import restored

Array = npt.NDArray[Any]

# Arguments of a kernel function that its `diagonal` takes too.
_DIAGONAL = ("backend", "batch_dims", "memory_budget", "num_threads")
_POINTS = 256  # rows of a kernel computed for its diagonal


@door
class EnsemblePredictor:
    """What :func:`gradient_descent_mse_ensemble` returns; see there for the arguments of a call."""

    def __init__(
        self, kernels: _Kernels, x_train: Any, grams: Grams, descent: Descent, budget: int, progress: bool
    ) -> None:
        self._kernels, self._x_train, self._grams, self._descent = kernels, x_train, grams, descent
        self._budget, self._progress = budget, progress

    @property
    def conditioning(self) -> dict[str, Conditioning]:
        """How the factorisations made so far went, by kernel."""
        return self._grams.conditioning()

    def __call__(
        self, t: Any = None, x_test: Any = None, get: Any = None, compute_cov: Any = False, **kernel_kwargs: Any
    ) -> Any:
        """Predictions at time ``t``: see :func:`gradient_descent_mse_ensemble`."""
        grams, what = self._grams, self._grams.what
        names = names_of(get, ("nngp", "ntk"), what)
        if not isinstance(compute_cov, (bool, np.bool_)) and compute_cov != "diagonal":
            raise ValueError(f"[{what}] compute_cov must be True, False or 'diagonal', given {compute_cov!r}")
        covariance = None if not compute_cov else "diagonal" if isinstance(compute_cov, str) else "full"
        times = None if t is None else self._descent.times(t)
        needed = tuple(g for g in ("nngp", "ntk") if g in names or (g == "nngp" and covariance))
        missing = tuple(g for g in needed if g not in grams)
        if missing:
            found = self._kernels(self._x_train, None, missing, self._kernels.train_kwargs)
            for name, k in found.items():
                grams.add(name, k, f"the {name} of kernel_fn(x_train)", own=self._kernels.fresh)
        if times is None:
            for g in names if self._descent.discrete else ():
                self._descent.check_rate(grams[g].largest(), endless=True)
        if x_test is None:
            return by_get(get, {g: self._train(g, times, covariance) for g in names})
        predictions = {g: self._prediction(g, times, covariance is not None) for g in names}
        if self._kernels.own is not None:
            x_test = _converted(x_test, "x_test", what)
        source = _Tested(self._kernels, x_test, self._x_train, kernel_kwargs, needed, grams.targets)
        entry = np.result_type(*(grams[g].entry for g in names))
        tiles = predict_tiles(
            source, predictions, covariance, entry, grams.dtype, grams.units(), self._budget, what, self._progress
        )  # fmt: skip
        rows, lead = source.axes(source.points), None if times is None else times.shape
        conditioning = {g: None if covariance is None else self._conditioning(g, times) for g in tiles}
        return by_get(get, {g: result(f, grams.targets, rows, lead, conditioning[g]) for g, f in tiles.items()})

    def _conditioning(self, g: str, times: Array | None) -> Conditioning:
        grams = self._grams
        return grams[g].cholesky().conditioning if times is None else grams[g].spectrum().conditioning

    def _early(self, g: str, times: Array) -> Early | None:
        """Means at a few times, which need no spectrum."""
        gram = self._grams[g]
        return gram.early(self._descent.few(times.reshape(-1), gram.unit))

    def _prediction(self, g: str, times: Array | None, covariance: bool) -> Prediction:
        grams = self._grams
        if times is None:
            return grams.endless(g, covariance)
        if not covariance and (early := self._early(g, times)) is not None:
            return Prediction(g, g, early.solved(grams.matrix), early)
        spectrum, flat = grams[g].spectrum(), times.reshape(-1)
        weights = self._descent.solved(spectrum, flat)
        mean = spectrum.apply(weights.astype(grams.dtype), grams.matrix)
        if not covariance:
            return Prediction(g, g, mean, Evolved(spectrum, weights))
        if g == "nngp":
            return Prediction(g, g, mean, Evolved(spectrum, self._descent.solved(spectrum, twice(flat))))
        return Prediction(g, "nngp", mean, Evolved(spectrum, weights), grams["nngp"])

    def _train(self, g: str, times: Array | None, covariance: str | None) -> Any:
        """Outputs on the training points."""
        grams, rows, entry = self._grams, self._grams.targets.paired, self._grams[g].entry
        if times is None:
            mean = grams.y.astype(entry)
            if covariance is None:
                return mean
            xp = namespace(mean, what=grams.what)
            if covariance == "diagonal":
                return Gaussian(mean, xp.zeros(rows, entry))
            n = math.prod(rows)
            return Gaussian(mean, grams.targets.zipped(xp.zeros((n, n), entry), rows, rows))
        if covariance is None and (early := self._early(g, times)) is not None:
            found = Found(restored(early.learned(grams.matrix), grams.scale, entry), None)
            return result(found, grams.targets, rows, times.shape, None)
        spectrum, flat = grams[g].spectrum(), times.reshape(-1)
        mean = spectrum.apply(self._descent.learned(spectrum, flat).astype(grams.dtype), grams.matrix)
        found = Found(restored(mean, grams.scale, entry), None)
        if covariance is not None:
            self._train_covariance(found, g, spectrum, flat, covariance)
        return result(found, grams.targets, rows, times.shape, spectrum.conditioning)

    def _train_covariance(self, found: Found, g: str, spectrum: Spectrum, times: Array, covariance: str) -> None:
        """``K exp(-2 K tau)`` (nngp) or ``E K E`` with ``E = exp(-Theta tau)`` (ntk), a few rows at a time."""
        grams, n = self._grams, len(spectrum.values)
        left = self._descent.left(spectrum, times)
        factors = left if g == "ntk" else spectrum.values * self._descent.left(spectrum, twice(times))
        target = empty_covariances(covariance, len(times), n, found.mean, grams.what)
        found.covariance = target
        unit = grams["nngp"].unit
        found.scale = float(grams["nngp"].kernel.diagonal().max()) * unit + (grams[g].reg if g == "nngp" else 0.0)
        found.spread = 1 + math.sqrt(n) * (float(abs(left).max()) if left.size else 0.0)
        v = spectrum.vectors
        step = max(1, self._budget // (8 * n * grams.dtype.itemsize))
        for t, factor in enumerate(factors.astype(grams.dtype)):
            for a in range(0, n, step):
                b = min(a + step, n)
                rows = v[a:b] * factor  # of E V, or of what the covariance is V times
                if g == "ntk":
                    e = rows @ v.T
                    ke = product(grams["nngp"].kernel, e.T)
                    if covariance == "diagonal":
                        target[t, a:b] = (ke.T * e).sum(axis=1)
                        continue
                    rows = (ke.T @ v) * factor
                if covariance == "diagonal":
                    target[t, a:b] = (rows * v[a:b]).sum(axis=1)
                    continue
                block = rows @ v[:b].T
                block[:, a:] = (block[:, a:] + block[:, a:].T) / 2
                target[t, a:b, :b] = block
                target[t, :b, a:b] = block.T
        target *= target.dtype.type(unit)
        settle(found, max(float(np.finfo(dtype).eps) for dtype in (grams[g].entry, grams.dtype)), grams.what)


class _Kernels:
    """The user's kernel function, asked by names and answering with arrays."""

    def __init__(self, kernel_fn: Callable[..., Any], train_kwargs: dict[str, Any], what: str) -> None:
        self.kernel_fn, self.train_kwargs, self.what = kernel_fn, train_kwargs, what
        self.own = kernel_fn if isinstance(kernel_fn, KernelFn) else None
        self.fresh = self.own is not None and "out" not in train_kwargs  # arrays that nobody else has

    def __call__(self, x1: Any, x2: Any, names: tuple[str, ...], kwargs: dict[str, Any]) -> dict[str, Array]:
        k = self.kernel_fn(x1, x2, names[0] if len(names) == 1 else names, **kwargs)
        found = {}
        for name in names:
            one = getattr(k, name, None if len(names) > 1 else k)
            if one is None or not hasattr(one, "__array__"):
                raise TypeError(f"[{self.what}] kernel_fn was asked for {names} and gave {describe(k)}")
            refuse_masked(one, f"the {name} of kernel_fn", self.what)
            found[name] = one if describe(one).startswith("cupy.") else np.asarray(one)
        return found

    def axis(self) -> int:
        """The axis of the inputs that counts samples."""
        return 0 if self.own is None else axes_of(self.own.layer)[0]


class _Tested:
    """Kernels of test points, computed as they are asked for: a :class:`~fastntk.predict.tiles.Source`."""

    def __init__(
        self, kernels: _Kernels, x_test: Any, x_train: Any, kwargs: dict[str, Any], names: tuple[str, ...],
        targets: Targets,
    ) -> None:  # fmt: skip
        refuse_masked(x_test, "x_test", targets.what)
        self._kernels, self._x_test, self._x_train = kernels, x_test, x_train
        self._names, self._targets = names, targets
        self.points = _count(x_test, kernels.axis(), targets.what)
        self._kwargs = _Arguments(kernels.train_kwargs, kwargs, self.points, targets.what)
        # A kernel that is traced over its samples knows no rows of theirs: it comes whole.
        self._sampled = 0 not in targets.trace_axes
        self.unit = math.prod(targets.paired[self._sampled :])
        self.rows = math.prod(self.axes(self.points))

    def axes(self, points: int) -> tuple[int, ...]:
        """Lengths of the kernel's axes for so many test points."""
        paired = self._targets.paired
        return (points, *paired[1:]) if self._sampled else paired

    def _cut(self, start: int, stop: int) -> tuple[Any, slice]:
        """Test points of these rows."""
        if not self._sampled:
            return self._x_test, slice(0, self.points)
        points = slice(start // self.unit, stop // self.unit)
        return _cut(self._x_test, self._kernels.axis(), points), points

    def cross(self, start: int, stop: int) -> dict[str, Array]:
        x, points = self._cut(start, stop)
        found = {}
        for name, k in self._kernels(x, self._x_train, self._names, self._kwargs.cross(points)).items():
            found[name], rows = self._targets.cross(k, f"the {name} of kernel_fn(x_test, x_train)")
            self._check(found[name], rows, points, name)
        return found

    def prior(self, name: str, start: int, stop: int, first: int, last: int) -> Array:
        (x1, rows), (x2, columns) = self._cut(start, stop), self._cut(first, last)
        k = self._kernels(x1, x2, (name,), self._kwargs.test(rows, columns))[name]
        found, have, across = self._targets.kernel(k, f"the {name} of kernel_fn(x_test)")
        self._check(found, have, rows, name)
        self._check(found, across, columns, name)
        return found

    def variances(self, name: str, start: int, stop: int) -> Array:
        own = self._kernels.own
        kwargs = self._kwargs.test(slice(0), slice(0))
        if own is not None and self._sampled and set(kwargs) <= {*_DIAGONAL, "progress"}:
            x, points = self._cut(start, stop)
            found = own.diagonal(x, name, **{key: value for key, value in kwargs.items() if key in _DIAGONAL})
            for _ in self._targets.paired[1:]:
                found = found.diagonal(axis1=1, axis2=2)
            self._check(found, found.shape, points, name)
            flat: Array = found.reshape(-1)
            return flat
        step = max(1, _POINTS // self.unit) * self.unit
        parts = [(a, min(a + step, stop)) for a in range(start, stop, step)]
        values = [self.prior(name, a, b, a, b).diagonal() for a, b in parts]
        joined: Array = namespace(*values, what=self._targets.what).concatenate(values)
        return joined

    def _check(self, k: Array, rows: tuple[int, ...], points: slice, name: str) -> None:
        expected = self.axes(points.stop - points.start)
        if rows != expected:
            raise ValueError(
                f"[{self._targets.what}] the {name} that kernel_fn gave has test rows {rows}, expected {expected}: "
                "x_test must have the samples' axis and the positions of x_train"
            )
        check_finite(k, f"the {name} that kernel_fn gave for test points", self._targets.what)


class _Arguments:
    """Keyword arguments of the kernel function: those for training points, and what test points change in them.

    A pair of arrays holds one for each side, None for none. Those with a row for each test point are cut as the points
    are; a key of random numbers, ``rng``, has none.
    """

    def __init__(self, train: dict[str, Any], test: dict[str, Any], points: int, what: str) -> None:
        self._train, self._test, self._points = train, test, points
        for key, value in test.items():
            if key not in train:
                raise ValueError(f"[{what}] {key} is given for test points and not for training points")
            if not (_arrays(value) and _arrays(train[key])) and _differ(train[key], value):
                raise ValueError(f"[{what}] {key} is {value!r} for test points and {train[key]!r} for training points")

    def cross(self, rows: slice) -> dict[str, Any]:
        return self._merged(lambda key, value: (self._cut(key, value[0], rows), self._train[key][0]))

    def test(self, rows: slice, columns: slice) -> dict[str, Any]:
        def pair(key: str, value: tuple[Any, Any]) -> tuple[Any, Any]:
            second = value[0] if value[1] is None else value[1]  # the same points again
            return self._cut(key, value[0], rows), self._cut(key, second, columns)

        return self._merged(pair)

    def _merged(self, pair: Callable[[str, Any], Any]) -> dict[str, Any]:
        found = {
            key: pair(key, value) if _pair(value) and _pair(self._train[key]) else value
            for key, value in self._test.items()
        }
        return self._train | found

    def _cut(self, key: str, array: Any, points: slice) -> Any:
        shape = getattr(array, "shape", ())
        return array[points] if key != "rng" and shape and shape[0] == self._points else array


def _arrays(value: Any) -> bool:
    """Whether a value is an array, or a tuple of arrays, some of which may be None."""
    if isinstance(value, (tuple, list)):
        return any(map(_arrays, value)) and all(part is None or _arrays(part) for part in value)
    return hasattr(value, "__array__")


def _pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and _arrays(value)


def _differ(a: Any, b: Any) -> bool:
    """Whether values differ, arrays among them too."""
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) != len(b) or any(map(_differ, a, b))
    if hasattr(a, "__array__") or hasattr(b, "__array__"):
        return a is None or b is None or not np.array_equal(a, b)
    return bool(a != b)


def _converted(x: Any, name: str, what: str) -> Any:
    """Inputs for a network's kernels, which must be cut: lists of numbers, frames and tensors as NumPy's arrays."""
    if isinstance(x, (tuple, list)) and not is_numbers(x):
        return tuple(_converted(part, f"{name}[{k}]", what) for k, part in enumerate(x))
    if isinstance(x, np.ndarray) or device_of(x) is not None or not is_array(x):
        return x
    return as_array(x, name, what)


def _count(x: Any, axis: int, what: str) -> int:
    """Samples of inputs: an array, or a tuple of them."""
    if isinstance(x, (tuple, list)) and x:
        return _count(x[0], axis, what)
    if not hasattr(x, "shape") or not x.shape:
        raise TypeError(f"[{what}] x_test must be an array of samples or a tuple of them, given {describe(x)}")
    return int(x.shape[axis])


def _cut(x: Any, axis: int, points: slice) -> Any:
    if isinstance(x, (tuple, list)):
        return tuple(_cut(part, axis, points) for part in x)
    if points == slice(0, x.shape[axis]):
        return x
    return x[(*[slice(None)] * (axis % x.ndim), points)]


def gradient_descent_mse_ensemble(
    kernel_fn: Callable[..., Any],
    x_train: Any,
    y_train: Any,
    learning_rate: float = 1.0,
    diag_reg: float = 0.0,
    diag_reg_absolute_scale: bool = False,
    trace_axes: Any = (-1,),
    *,
    discrete: bool = False,
    solve_dtype: Any = None,
    memory_budget: int = BUDGET,
    progress: bool = False,
    **kernel_fn_train_train_kwargs: Any,
) -> EnsemblePredictor:
    """Mean and covariance over an infinite ensemble of infinitely wide networks trained on the mean squared error.

    Networks start at random and are trained for a time t by gradient descent on ``|f(X) - Y|^2 / (2 |Y|)``. Their
    outputs are Gaussian. With ``tau = learning_rate t / |Y|``:

    - ``'ntk'``: all weights are trained. ``B = Theta_xX A^-1 (I - exp(-A tau))``, ``A = Theta_XX + diag_reg``; mean
      ``B Y``, covariance ``K_xx + B K_XX B^T - B K_Xx - K_xX B^T``.
    - ``'nngp'``: only the last layer is, ``A = K_XX + diag_reg``. mean ``K_xX A^-1 (I - exp(-A tau)) Y``, covariance
      ``K_xx - K_xX A^-1 (I - exp(-2 A tau)) K_Xx``.

    Test points are taken in tiles: beside the outputs, the kernels of the training points and their factorisations, a
    call stays within ``memory_budget`` however many they are.

    Parameters
    ----------
    kernel_fn : callable
        ``kernel_fn(x1, x2, get, **kwargs)`` with ``x2`` an array or None and ``get`` 'nngp', 'ntk' or both; gives an
        array for a name, an object with these attributes for a tuple. That of a network of ``fastntk.stax``, or any
        other.
    x_train : array (n, d) or as ``kernel_fn`` takes it; for a network's, lists of numbers, frames and tensors too
        Samples are along axis 0, or along the ``batch_axis`` of the network's layers; a tuple for a network with
        several inputs.
    y_train : array (n, o)
        Targets.
    learning_rate, diag_reg, diag_reg_absolute_scale, trace_axes, discrete, solve_dtype
        As for :func:`gradient_descent_mse`.
    memory_budget : int
        Bytes that kernels and weights of test points may take while a call is running. What ``kernel_fn`` itself
        needs comes on top.
    progress : bool
        Show pairs of points done, by tqdm where it is installed.
    **kernel_fn_train_train_kwargs
        Passed to ``kernel_fn`` (to one with a ``memory_budget`` or ``progress`` of its own, by ``functools.partial``).
        Those that a call changes for test points must be arrays, or pairs of arrays, one for each side or None; of
        pairs the first is used for test points beside the first of training points. Of such pairs arrays with a row for
        each test point are cut with them; ``rng`` never is.

    Returns
    -------
    EnsemblePredictor
        ``predict_fn(t=None, x_test=None, get=None, compute_cov=False, **kernel_fn_test_test_kwargs)``:

        t : None, number >= 0, or array of them
            None is infinity, by a Cholesky factorisation; an array gives its axes to the front of the results.
        x_test : array (m, d), as ``x_train``
            None: the training points. At ``t=None`` their outputs are then ``y_train`` without variance, whatever
            ``diag_reg``, as in Neural Tangents; give ``x_test=x_train`` for what regularisation makes of them.
        get : 'nngp', 'ntk', or a tuple of both
            None: both.
        compute_cov : bool or 'diagonal'
            True: a :class:`Gaussian` instead of the mean; 'diagonal': one with variances (m,) alone.

        A name gives one result, a tuple a named tuple ``Gaussians``; in the kernels' dtype. Inputs, targets and
        arguments for ``kernel_fn`` that are arrays are copied (not ``out``); kernels of the training points and
        factorisations are made on first use and kept; ``predict_fn.conditioning`` tells how they went, by
        kernel. Covariances are exactly symmetric.

    Raises
    ------
    TypeError, ValueError, IndefiniteError, OverflowError
        As :func:`gradient_descent_mse` and :func:`gp_inference`; TypeError for a ``kernel_fn`` that is none.
    MemoryError
        When not even one test point fits into ``memory_budget``, or the covariances not into memory.

    Warns
    -----
    IllConditionedWarning, RuntimeWarning
        As :func:`gradient_descent_mse`.

    References
    ----------
    Lee et al. (2019), arXiv:1902.06720, eqs. (14) to (16).
    """
    what = "gradient_descent_mse_ensemble"
    if not callable(kernel_fn):
        raise TypeError(f"[{what}] kernel_fn must be callable, given {describe(kernel_fn)}")
    if x_train is None:
        raise TypeError(f"[{what}] x_train must be an array, given None")
    if isinstance(memory_budget, bool) or not isinstance(memory_budget, (int, np.integer)) or memory_budget < 1:
        raise ValueError(f"[{what}] memory_budget must be a positive number of bytes, given {memory_budget!r}")
    if not isinstance(progress, (bool, np.bool_)):
        raise TypeError(f"[{what}] progress must be True or False, given {progress!r}")
    y_train = given_array(y_train, "y_train", what)
    targets = targets_of(y_train, trace_axes, what)
    descent = Descent(learning_rate, y_train.size, discrete, what)
    grams = Grams(targets, y_train, diag_reg, diag_reg_absolute_scale, solve_dtype_of(solve_dtype, what))
    # Arrays to write to are the caller's.
    kept = {key: x if key == "out" else copied(x, key, what) for key, x in kernel_fn_train_train_kwargs.items()}
    kernels = _Kernels(kernel_fn, kept, what)
    if kernels.own is not None:
        x_train = _converted(x_train, "x_train", what)
    return EnsemblePredictor(
        kernels, copied(x_train, "x_train", what), grams, descent, int(memory_budget), bool(progress)
    )
