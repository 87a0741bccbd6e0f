"""The network whose prior explains the data best: the largest evidence over W_std, b_std, noise and depth."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import stax
from ..base.arraylike import describe
from ..base.progress import bar
from ..call.kernel_fn import KernelFn
from .evidence import Amplitude, SearchWarning, check_amplitude
from .grams import copied
from .linalg import Conditioning, namespace, warn, warn_of_few_digits
from .posterior import Gaussian, GPPredictor, gp_inference
from .search import WHAT, Evaluation, Model, Search
from .units import in_units, restored

Array = npt.NDArray[Any]
Range = float | tuple[float, float]


def fully_connected(depth: int, W_std: float, b_std: float | None, phi: stax.Layer | None = None) -> stax.Layer:
    """``depth`` times Dense and phi, and a Dense without bias: all weights W_std, all biases b_std. None: Relu."""
    hidden = [stax.Dense(1, W_std, b_std), stax.Relu() if phi is None else phi]
    return stax.serial(*hidden * depth, stax.Dense(1, W_std))


@dataclass(frozen=True, eq=False)
class Fit:
    """The best network found, and how it was found. The model is ``y ~ N(0, amplitude (K + s I))``.

    Attributes
    ----------
    kernel_fn : callable
        Of the best network; gives K, without the amplitude.
    get : {'nngp', 'ntk'}
    depth : int
    W_std, b_std : float
    diag_reg : float
        Noise s, relative to the mean of K's diagonal: what ``gp_inference`` takes.
    noise_variance : float
        ``amplitude s``, in the squared unit of the targets.
    amplitude : float
    log_marginal_likelihood : float
        Summed over the outputs.
    history : tuple of Evaluation
        All Grams computed on the training points, in this order.
    unidentified : tuple of str
        Parameters asked for that change K by a factor at most, which the amplitude makes up for: not searched.
    at_edge : tuple of str
        Parameters whose best value is at an end of its range.
    conditioning : Conditioning
        Of ``K + s I``.
    """

    kernel_fn: Any
    get: str
    depth: int
    W_std: float
    b_std: float
    diag_reg: float
    noise_variance: float
    amplitude: float
    log_marginal_likelihood: float
    history: tuple[Evaluation, ...] = field(repr=False)
    unidentified: tuple[str, ...]
    at_edge: tuple[str, ...]
    conditioning: Conditioning
    _x_train: Any = field(repr=False)
    _predictor: GPPredictor = field(repr=False)
    _amplitude: tuple[float, Amplitude] = field(repr=False)  # the kernel's unit, and the amplitude in it

    def posterior(self, x_test: Any, compute_cov: bool | str = False) -> Any:
        """Prediction of the network's outputs at test points, by exact inference with the fitted model.

        Parameters
        ----------
        x_test : array
            As ``kernel_fn`` takes it, m points.
        compute_cov : bool or 'diagonal'
            Covariances (m, m), or variances (m,) alone; of the outputs: a noisy target has ``noise_variance`` more.

        Returns
        -------
        array (m, o), or Gaussian

        Raises
        ------
        ValueError
            Another ``compute_cov``; and as :func:`fastntk.predict.gp_inference`.
        """
        if not isinstance(compute_cov, (bool, np.bool_)) and compute_cov != "diagonal":
            raise ValueError(f"[{WHAT}] compute_cov must be True, False or 'diagonal', given {compute_cov!r}")
        name = "ntkgp" if self.get == "ntk" else self.get
        cross = self.kernel_fn(x_test, self._x_train, self.get)
        if not compute_cov:
            return self._predictor(name, cross)
        own = isinstance(self.kernel_fn, KernelFn) and compute_cov == "diagonal"
        prior = self.kernel_fn.diagonal(x_test, self.get) if own else self.kernel_fn(x_test, None, self.get)
        if compute_cov == "diagonal" and prior.ndim == cross.ndim:
            prior = _diagonal(prior)
        found = self._predictor(name, cross, prior)
        return Gaussian(
            found.mean,
            self._scaled(found.covariance),
            conditioning=found.conditioning,
            rounding=float(self._scaled(np.array(found.rounding))),
        )

    def _scaled(self, covariance: Array) -> Array:
        """By the amplitude, which float64 need not hold where it holds the product."""
        unit, a = self._amplitude
        return restored(a.times(in_units(covariance, unit)), 1.0, covariance.dtype)


def fit(
    network: Callable[..., Any] | None, x: Any, y: Array, *, get: str = "nngp", depth: int | Sequence[int] = (1, 2, 3),
    W_std: Range = (0.5, 5.0), b_std: Range = (0.01, 5.0), diag_reg: Range = (1e-6, 10.0),
    diag_reg_absolute_scale: bool = False, amplitude: float | None = None, trace_axes: Sequence[int] = (-1,),
    restarts: int = 1, tol: float = 1e-2, progress: bool = False, solve_dtype: Any = None,
) -> Fit:  # fmt: skip
    """Maximise the log marginal likelihood over a network's depth, W_std and b_std, the noise and the amplitude.

    Parameters
    ----------
    network : callable or None
        ``network(depth=, W_std=, b_std=)`` gives a layer of :mod:`fastntk.stax`, the triple of one, or a kernel
        function. None: fully connected, ``depth`` times Dense and Relu, and a Dense without bias.
    x : array
        Training inputs, as the kernel function takes them.
    y : array (n, o), or with any axes
        Targets, of mean about 0: the prior's is.
    get : {'nngp', 'ntk'}
        The prior covariance K. 'ntk': that of the Gaussian process with the NTK in K's place; its mean is also that of
        networks trained without end with this ``diag_reg``, their spread is not.
    depth : int or sequence of int
        All of them are tried.
    W_std, b_std, diag_reg : (low, high) or float
        Searched on a logarithmic scale between low and high, both included; or fixed. Positive, but b_std may be 0.
    diag_reg_absolute_scale : bool
        Whether ``diag_reg`` is in K's units, else relative to the mean of K's diagonal.
    amplitude : float or None
        Factor of all variances, noise included. None: the best of each kernel, in closed form. As a last layer without
        bias, whose W_std is free of the others'.
    trace_axes : sequence of int
        Axes of y along which outputs are independent.
    restarts : int
        Local searches for each depth, from the best points of its design.
    tol : float
        A local search ends when its points agree to this in the logarithms of the parameters and in the evidence.
    progress : bool
        Show the Grams done, by tqdm where it is installed.
    solve_dtype : float32 or float64, optional
        What is computed in; None: float64, whatever the kernel's dtype.

    Returns
    -------
    Fit
        ``fit.posterior(x_test, compute_cov)`` predicts.

    Raises
    ------
    TypeError
        ``network`` that is not callable or gives no kernel function; x and y as their consumers say.
    ValueError
        Ranges reversed, not positive or not finite; depths that are no positive integers; an unknown ``get``; a kernel
        that is zero or not finite somewhere in the ranges (with its parameters); targets all zero.
    IndefiniteError
        A kernel with an eigenvalue below zero by more than rounding explains.

    Warns
    -----
    SearchWarning
        A parameter ends at an end of its range, is not identifiable, or a local search was cut short.
    IllConditionedWarning
        Solutions with the best kernel keep fewer than four digits.

    Notes
    -----
    Noise and amplitude: on the one spectrum of each Gram, the amplitude in closed form, the noise by 41 values and
    Brent's method between the neighbours of the best. W_std and b_std: for each depth a design of equal steps of the
    logarithms (9 values of one parameter, 5 x 5 of two), then Nelder and Mead's search within the ranges from its
    best local maxima; some 70 Grams for each depth in all. No random numbers: equal input gives equal results. One Gram
    costs its kernel and an eigendecomposition; for n of thousands, fit a random part of the points. Where the kernel
    has gradients (networks of points, docs/gradients.md) the local search is that of L-BFGS-B, from exact ones.

    A maximum may be missed where the evidence has several within a step of the design. With a nonlinearity that is
    homogeneous (ReLU), b_std = 0 and a free amplitude, W_std is a factor of K alone: it is left at the geometric mean
    of its range. With biases and one hidden layer ``b_std / W_std`` alone is identifiable, along a ridge of equal
    evidence.

    References
    ----------
    Rasmussen and Williams (2006), section 5.4.1; Nelder and Mead (1965); Lee et al. (2018), arXiv:1711.00165, section
    3.1 (grids over these parameters).
    """
    if get not in ("nngp", "ntk"):
        raise ValueError(f"[{WHAT}] get must be 'nngp' or 'ntk', given {get!r}")
    check_amplitude(amplitude, WHAT)
    depths = _check_depths(depth)
    ranges = {
        "W_std": _check_range("W_std", W_std),
        "b_std": _check_range("b_std", b_std, zero=True),
        "diag_reg": _check_range("diag_reg", diag_reg),
    }
    if isinstance(restarts, bool) or not isinstance(restarts, (int, np.integer)) or restarts < 1:
        raise ValueError(f"[{WHAT}] restarts must be a positive integer, given {restarts!r}")
    if not 0 < tol < 1:
        raise ValueError(f"[{WHAT}] tol must lie between 0 and 1, given {tol!r}")
    maker = fully_connected if network is None else network
    _check_network(maker)
    model = Model(maker, x, y, get, ranges["diag_reg"], diag_reg_absolute_scale, amplitude, trace_axes, solve_dtype)
    searches = [Search(model, each, ranges, int(restarts), tol) for each in depths]
    with bar(sum(search.allowance for search in searches), progress, "Gram") as report:
        for search in searches:
            search.run(report)
    found = model.best
    assert found is not None
    best, noise = found.evaluation, found.conditioning.diag_reg
    unidentified = tuple(sorted({name for search in searches for name in search.unidentified}))
    values = {"W_std": best.W_std, "b_std": best.b_std, "diag_reg": noise if diag_reg_absolute_scale else best.diag_reg}
    searched = {name: value for name, value in values.items() if name not in unidentified}
    at_edge = _edges(best.depth, depths, searched, ranges, tol)
    _say(unidentified, at_edge, values | {"depth": best.depth}, [s.depth for s in searches if not s.settled])
    warn_of_few_digits(found.conditioning, model.rounding(), WHAT)
    return Fit(
        found.kernel_fn, get, best.depth, best.W_std, best.b_std, best.diag_reg, found.noise_variance, best.amplitude,
        best.log_marginal_likelihood, tuple(model.history), unidentified, at_edge, found.conditioning,
        copied(x, "x", WHAT), gp_inference(found.k, y, noise, True, trace_axes, solve_dtype=solve_dtype),
        (found.unit, found.amplitude),
    )  # fmt: skip


# ---------------------------------------------------------------- checks, and what is said at the end


def _check_network(network: Any) -> None:
    wanted = "a function network(depth=, W_std=, b_std=) that makes a layer or a kernel function, or None"
    if isinstance(network, (KernelFn, stax.Layer)) or not callable(network):
        finished = "" if not callable(network) and not isinstance(network, stax.Layer) else ", which is finished"
        raise TypeError(f"[{WHAT}] network must be {wanted}; given {describe(network)}{finished}")
    try:
        inspect.signature(network).bind(depth=1, W_std=1.0, b_std=0.0)
    except TypeError as error:
        raise TypeError(
            f"[{WHAT}] network must be {wanted}; {describe(network)} does not take these: {error}"
        ) from None
    except ValueError:  # a signature that Python does not know
        return


def _check_depths(depth: Any) -> tuple[int, ...]:
    given = tuple(depth) if np.ndim(depth) else (depth,)
    if not given or any(isinstance(d, bool) or not isinstance(d, (int, np.integer)) or d < 1 for d in given):
        raise ValueError(f"[{WHAT}] depth must be positive integers, given {depth!r}")
    return tuple(sorted({int(d) for d in given}))


def _check_range(name: str, given: Any, zero: bool = False) -> tuple[float, float]:
    """(low, high); equal for a fixed number."""
    fixed = np.ndim(given) == 0
    values = np.asarray((given, given) if fixed else given)
    kind = "a positive number" + (", or 0," if zero else "")
    if values.shape != (2,) or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise ValueError(f"[{WHAT}] {name} must be {kind} or a range (low, high) of positive ones, given {given!r}")
    low, high = float(values[0]), float(values[1])
    if low > high:
        raise ValueError(f"[{WHAT}] {name}'s range is reversed: {given!r}")
    if low < 0 or (low == 0 and not (zero and fixed)):
        raise ValueError(f"[{WHAT}] {name} must be {kind} or a range (low, high) of positive ones, given {given!r}")
    return low, high


def _edges(
    depth: int, depths: tuple[int, ...], values: dict[str, float], ranges: dict[str, tuple[float, float]], tol: float
) -> tuple[str, ...]:
    """Names of the parameters at an end of their range; of the depth only where a further one was not tried."""
    found = ["depth"] if len(depths) > 1 and (depth == depths[-1] or depth == depths[0] > 1) else []
    for name, value in values.items():
        low, high = ranges[name]
        if low < high and min(np.log(value / low), np.log(high / value)) < 2 * tol:
            found.append(name)
    return tuple(found)


def _say(
    unidentified: tuple[str, ...], at_edge: tuple[str, ...], values: dict[str, float], unsettled: list[int]
) -> None:
    """Warn of what the search left open."""
    if unidentified:
        kept = ", ".join(f"{name} = {values[name]:.6g}" for name in unidentified)
        warn(
            f"[{WHAT}] not identifiable: {kept} was kept; the kernel keeps its shape all over the range, and the "
            "amplitude stands for its scale (amplitude=1.0 would make the scale the network's)",
            SearchWarning,
        )
    if at_edge:
        ends = ", ".join(f"{name} = {values[name]:.6g}" for name in at_edge)
        warn(f"[{WHAT}] the best is at an end of what was tried: {ends}", SearchWarning)
    if unsettled:
        warn(f"[{WHAT}] a local search was cut short at depth {', '.join(map(str, unsettled))}", SearchWarning)


def _diagonal(k: Array) -> Array:
    """Entries of a point with itself, of (m, m) or with interleaved axes."""
    letters = "abcdefgh"[: k.ndim // 2]
    xp = namespace(k, what=WHAT)
    return xp.einsum("".join(2 * letter for letter in letters) + "->" + letters, k)  # type: ignore[no-any-return]
