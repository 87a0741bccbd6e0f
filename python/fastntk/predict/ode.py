"""Gradient descent on any loss, with or without momentum, as an ordinary differential equation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.door import door
from .descent import Descent
from .flow import METHODS, NO_LIMIT, Flow
from .grams import Gram
from .linalg import Conditioning, Spectrum, check_finite, given_array, namespace, product, to_host
from .losses import CrossEntropy, Loss, loss_of
from .mse import one_kernel
from .targets import Targets, start_of, targets_of
from .units import restored

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class ODEState:
    """Outputs and their velocities: what training with momentum goes on from.

    Attributes
    ----------
    fx_train, fx_test : array or None
        Outputs on the training and the test points.
    qx_train, qx_test : array or None
        Their derivatives by ``learning_rate**0.5 t``; only with momentum.
    """

    fx_train: Any = None
    fx_test: Any = None
    qx_train: Any = None
    qx_test: Any = None


@dataclass(frozen=True)
class _Start:
    """Outputs and velocities at time 0 as matrices, those of the test points with their kernel."""

    f: Array
    q: Array | None
    f_test: Array | None
    q_test: Array | None
    cross: Array | None
    rows: tuple[int, ...]


@door
class OdePredictor:
    """What :func:`gradient_descent` returns; see there for the arguments of a call.

    Attributes
    ----------
    conditioning : Conditioning or None
        Of the kernel, by its eigenvalues; None before the first call.
    """

    def __init__(
        self, gram: Gram, y: Array, targets: Targets, loss: Loss, learning_rate: float, momentum: float | None,
        descent: Descent, options: dict[str, Any],
    ) -> None:  # fmt: skip
        self._gram, self._y, self._targets, self._loss = gram, y, targets, loss
        self._mean = float(gram.kernel.diagonal().mean(dtype=np.float64))
        # The kernel's unit counts as a part of the learning rate: times, and velocities, are those of both.
        learning_rate *= gram.unit
        self._clock = learning_rate if momentum is None else learning_rate**0.5
        self._speed = 1.0 if momentum is None else gram.unit**0.5
        self._damping = None if momentum is None else (1 - momentum) / self._clock
        self._descent, self._options = descent, options
        self._limited: bool | None = None
        self.conditioning: Conditioning | None = None

    def __call__(
        self, t: Any = None, fx_train_or_state_0: Any = 0.0, fx_test_0: Any = None, k_test_train: Any = None
    ) -> Any:
        """Outputs, or an ODEState, at time ``t``: see :func:`gradient_descent`."""
        times = np.asarray(math.inf) if t is None else self._descent.times(t)
        start = self._start(fx_train_or_state_0, fx_test_0, k_test_train)
        distinct, place = np.unique(times, return_inverse=True)
        spectrum = self._spectral(endless=bool(np.isinf(times).any()))
        size = max(float(abs(x).max()) for x in (self._y, start.f))
        loss, scale = self._loss.in_units(size)
        flow = Flow(
            spectrum, self._mean, loss, size / scale or 1.0, start.f / scale,
            None if start.q is None else start.q / scale / self._speed, self._damping, clock=self._clock,
            what=self._descent.what, **self._options,
        )  # fmt: skip
        # Eigenvalues that count as zero after this time lead nowhere.
        seen = self._descent.learned if start.cross is None else self._descent.solved
        active = to_host(seen(spectrum, distinct))[..., None] != 0
        outputs = self._outputs(flow, distinct * self._clock, active, start, scale)
        place = namespace(self._y, what=self._descent.what).asarray(place).reshape(-1)
        rows = (self._targets.paired, start.rows) * 2
        found = [
            None if x is None else self._restored(x[place], lengths, times.shape)
            for x, lengths in zip(outputs, rows, strict=True)
        ]
        if isinstance(fx_train_or_state_0, ODEState):
            return ODEState(*found)
        if fx_train_or_state_0 is None:
            return found[1]
        return found[0] if start.cross is None else (found[0], found[1])

    def _start(self, first: Any, fx_test_0: Any, k_test_train: Any) -> _Start:
        what, targets = self._descent.what, self._targets
        if not isinstance(first, ODEState):
            state = ODEState(first, fx_test_0)
        elif fx_test_0 is not None:
            raise ValueError(f"[{what}] an ODEState holds the outputs on the test points: fx_test_0 must be None")
        else:
            state = first
        if state.fx_train is None and state.fx_test is None:
            raise ValueError(f"[{what}] outputs on training and test points are both None: nothing is to be predicted")
        if state.fx_test is not None and k_test_train is None:
            raise ValueError(f"[{what}] outputs on the test points are asked for: k_test_train is missing")
        if self._damping is None and (state.qx_train is not None or state.qx_test is not None):
            raise ValueError(f"[{what}] the state has velocities, qx_train or qx_test, but momentum is None")
        if state.fx_test is None and state.qx_test is not None:
            raise ValueError(f"[{what}] the state has qx_test, but no fx_test")
        given = (state.fx_train, state.fx_test, state.qx_train, state.qx_test)
        arrays = [
            None if x is None else given_array(x, name, what)
            for x, name in zip(given, ("fx_train_0", "fx_test_0", "qx_train", "qx_test"), strict=True)
        ]
        state = ODEState(*arrays)
        if k_test_train is not None:
            k_test_train = one_kernel(k_test_train, "k_test_train", what)
        xp = namespace(self._y, *(x for x in arrays if x is not None and x.ndim), k_test_train, what=what)

        def matrix(values: Any, shape: tuple[int, ...], name: str) -> Array:
            return targets.matrix(start_of(values, shape, name, xp, what)).astype(np.float64)

        f = matrix(0.0 if state.fx_train is None else state.fx_train, targets.shape, "fx_train_0")
        q = None if state.qx_train is None else matrix(state.qx_train, targets.shape, "qx_train")
        if state.fx_test is None:
            return _Start(f, q, None, None, None, ())
        cross, rows = targets.cross(one_kernel(k_test_train, "k_test_train", what), "k_test_train")
        check_finite(cross, "k_test_train", what)
        shape = targets.restore(xp.empty((math.prod(rows), f.shape[1])), rows).shape
        q_test = None if state.qx_test is None else matrix(state.qx_test, shape, "qx_test")
        return _Start(f, q, matrix(state.fx_test, shape, "fx_test_0"), q_test, cross, rows)

    def _outputs(
        self, flow: Flow, s: Array, active: Array, start: _Start, scale: float
    ) -> tuple[Array | None, ...]:  # fmt: skip
        """Outputs on training and test points and, with momentum, their velocities: (times, points, o) each."""
        u, v = flow.states(s)
        xp = namespace(self._y, what=self._descent.what)

        def moved(x: Array, carried: Array) -> tuple[Array, Array | None]:
            """What x adds, and what the velocities at the start have carried."""
            x = np.where(active, x, 0.0)
            far = xp.asarray(carried)[:, None, None]
            train = flow.outputs(flow.gain * x) * scale + (0.0 if start.q is None else far * start.q)
            if start.cross is None:
                return train, None
            a = flow.outputs(x / flow.scale)
            times, n, o = a.shape
            flat = product(start.cross, a.transpose(1, 0, 2).reshape(n, times * o), self._gram.unit)
            change = flat.reshape(len(start.cross), times, o).transpose(1, 0, 2) * scale
            return train, change + (0.0 if start.q_test is None else far * start.q_test)

        train, test = moved(u, flow.spread(s) / self._speed)
        outputs = start.f + train, None if test is None else start.f_test + test
        if v is None or self._damping is None:
            return *outputs, None, None
        return *outputs, *moved(v * self._speed, np.exp(-self._damping * s))

    def _restored(self, values: Array, rows: tuple[int, ...], lead: tuple[int, ...]) -> Array:
        return self._targets.restore(restored(values, 1.0, self._gram.entry), rows, lead)

    def _spectral(self, endless: bool) -> Spectrum:
        what = self._descent.what
        spectrum = self._gram.spectrum()
        self.conditioning = spectrum.conditioning
        if endless and isinstance(self._loss, CrossEntropy) and not self._settles(self._loss, spectrum):
            raise ValueError(f"[{what}] {NO_LIMIT}")
        return spectrum

    def _settles(self, loss: CrossEntropy, spectrum: Spectrum) -> bool:
        """Whether training has a limit; True too where only training itself can tell."""
        if self._limited is None:
            learned = spectrum.values > spectrum.threshold
            self._limited = loss.has_limit(to_host(spectrum.vectors[:, ~learned])) is not False
        return self._limited


def gradient_descent(
    loss: str | Callable[[Any, Any], Any] | None,
    k_train_train: Any,
    y_train: Any,
    learning_rate: float = 1.0,
    momentum: float | None = None,
    trace_axes: Any = (-1,),
    *,
    gradient: Callable[[Any, Any], Any] | None = None,
    method: str | None = None,
    rtol: float = 1e-12,
    atol: float | None = None,
    max_evaluations: int = 200_000,
) -> OdePredictor:
    """Predictions of an infinitely wide network after gradient descent on any loss, with or without momentum.

    Integrates gradient flow, with the kernel Theta (the NTK of a network whose weights are all trained)

        df/ds = - Theta dL/df,                                        s = learning_rate t,

    or with momentum m (the heavy ball of Polyak, not Nesterov's) the velocity q too,

        df/ds = q,  dq/ds = - (1 - m) / sqrt(learning_rate) q - Theta dL/df,   s = sqrt(learning_rate) t,

    so that t counts steps of gradient descent. On the test points Theta is ``k_test_train``.

    Parameters
    ----------
    loss : {'mse', 'cross_entropy'} or callable or None
        'mse': ``|f - Y|^2 / (2 |Y|)``, ``|Y|`` the number of all targets, as in :func:`gradient_descent_mse`.

        'cross_entropy': ``- sum_ik Y_ik log softmax(f_i)_k / n``, the softmax over the trace axes (all of them
        together), the mean over the n entries of the others. Targets are probabilities: not negative, of sum 1.

        A function with ``gradient``: it is not called, and may be None.

        Another function ``loss(fx, y)``: must give a scalar of JAX's or PyTorch's, written so that the library can
        differentiate it. It is called with the library's arrays in float64, in the shape of ``y_train``; in JAX under
        ``jax.enable_x64``, whatever the program's own setting, and traced by ``jax.jit``.
    k_train_train : numpy.ndarray or cupy.ndarray (n, n) float32 or float64
        Kernel of the training points. In general its axes are those of ``y_train`` without the trace axes, each
        twice: (n, n, h, h, w, w) for targets (n, h, w, o).
    y_train : array (n, o)
        Targets.
    learning_rate : float
    momentum : float, optional
        In [0, 1); None: gradient flow.
    trace_axes : int or tuple of int
        Axes of ``y_train`` along which outputs are independent, with the same kernel.
    gradient : callable, optional
        ``gradient(fx, y)`` gives dL/dfx: arrays of the kernel's library, float64, in the shape of ``y_train``.
    method : {'BDF', 'Radau', 'DOP853', 'RK45', 'RK23'}, optional
        Of ``scipy.integrate``. None: 'DOP853', an explicit one; when it has cost as much as an implicit one would,
        'BDF', with momentum 'Radau', takes over, unless it had to factorise a Jacobian of more than 5,000 rows
        (targets, twice as many with momentum; that of 'mse' is sparse in the eigenbasis of Theta, and of any size).
    rtol, atol : float
        Local errors that the integrator allows itself in ``Theta^{1/2} int dL/df``, in units in which an error e of it
        is one of ``e sqrt(Theta(x, x) / mean Theta(X, X))`` at most in the output on x. ``atol=None``: rtol times the
        largest target or output at t = 0.
    max_evaluations : int
        Evaluations of the gradient after which a call gives up.

    Returns
    -------
    OdePredictor
        ``predict_fn(t=None, fx_train_or_state_0=0.0, fx_test_0=None, k_test_train=None)``:

        t : None, number >= 0, or array of them
            None is infinity: the limit, to 1e-10 of the largest target or output. Arrays may be of any shape and
            order, hold ``numpy.inf`` too, and give their axes to the front of the results.
        fx_train_or_state_0 : number, array of the outputs' shape, ODEState or None
            Outputs on the training points at t = 0; None: they start at 0 and are not returned. With an
            :class:`ODEState` an ODEState is returned, from which a later call goes on; velocities that it does not
            have are 0.
        fx_test_0 : number or array
            Outputs on the test points at t = 0 (in a state: ``fx_test``); None: none are returned.
        k_test_train : array (m, n)
            Kernel between test and training points; with test points.

        It returns the outputs on the training points, those on the test points, the pair of both, or an ODEState, in
        the kernel's dtype; computed in float64. ``predict_fn.conditioning`` tells of the kernel's eigenvalues.

    Raises
    ------
    TypeError
        A loss that has no known gradient; arrays that are neither NumPy's nor CuPy's, or a mixture; other dtypes.
    ValueError
        Shapes that do not fit; NaN or infinity; a kernel that is not symmetric; t negative or NaN; ``momentum`` outside
        [0, 1); targets that are no probabilities ('cross_entropy'), or t infinite for those that hold 0; outputs on
        test points without ``k_test_train``; velocities in a state, and no momentum.
    IndefiniteError
        A kernel with an eigenvalue below zero by more than rounding explains.
    RuntimeError
        The integrator failed, ``max_evaluations`` did not suffice, the gradient was not finite, or there is no limit;
        with the time reached.

    Warns
    -----
    IllConditionedWarning
        When predictions on test points keep fewer than four digits, or directions were left out as rounding, by the
        measure of :func:`gradient_descent_mse` for a training as long.

    Notes
    -----
    Accuracy: global errors of about 1e-10 of the outputs' size with the default tolerances; a kernel of condition 1e8
    takes seconds for hundreds of targets. Each evaluation costs two products with the eigenvectors, 4 n^2 o operations
    ('mse': 4 n o), a Jacobian n^3 o^2, and its factorisation 2 (n o)^3 / 3 (with momentum 40 times that).

    References
    ----------
    Lee et al. (2019), arXiv:1902.06720, section 2; Qian (1999), "On the momentum term in gradient descent learning
    algorithms", Neural Networks 12.
    """
    what = "gradient_descent"
    y_train = given_array(y_train, "y_train", what)
    targets = targets_of(y_train, trace_axes, what)
    k = one_kernel(k_train_train, "k_train_train", what)
    namespace(k, y_train, what=what)
    matrix = targets.train(k, "k_train_train")
    gram = Gram(matrix, 0.0, True, np.dtype(np.float64), what)
    if momentum is not None and not (isinstance(momentum, Real) and 0 <= momentum < 1):
        raise ValueError(f"[{what}] momentum must be None or in [0, 1), given {momentum!r}")
    Descent(learning_rate, y_train.size, False, what)
    # The learning rate that momentum amounts to: what a time can have taught.
    descent = Descent(float(learning_rate) / (1 - float(momentum or 0)), y_train.size, False, what)
    if method is not None and method not in METHODS:
        raise ValueError(f"[{what}] method must be one of {METHODS} or None, given {method!r}")
    if not isinstance(rtol, Real) or not 2.3e-14 <= rtol < 1:  # SciPy's own bound is 100 eps
        raise ValueError(f"[{what}] rtol must be in [2.3e-14, 1), given {rtol!r}")
    if atol is not None and not (isinstance(atol, Real) and 0 < atol < math.inf):
        raise ValueError(f"[{what}] atol must be positive, or None, given {atol!r}")
    if isinstance(max_evaluations, bool) or not isinstance(max_evaluations, int) or max_evaluations < 1:
        raise ValueError(f"[{what}] max_evaluations must be a positive integer, given {max_evaluations!r}")
    y = targets.matrix(y_train).astype(np.float64)
    chosen = loss_of(loss, gradient, y, targets)
    options = {"method": method, "rtol": rtol, "atol": atol, "max_evaluations": max_evaluations}
    return OdePredictor(gram, y, targets, chosen, float(learning_rate), momentum, descent, options)
