"""The model of one sample: a map of two numbers, its phases, and what remains of the curvature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arraylike import as_reals
from ..base.checks import integer, number, positive

Array = npt.NDArray[np.float64]

PHASES = ("lazy", "catapult", "divergent")
_LARGE = 1e40  # a step cubes |f|, a loss squares it: beyond this they might overflow


@dataclass(frozen=True)
class Trajectory:
    """A run of gradient descent on the model.

    Attributes
    ----------
    f, curvature, loss : numpy.ndarray (steps run + 1,)
        The output, the tangent kernel lambda, and ``f^2 / 2``; entry 0 is the start. A run that diverges ends before
        its numbers overflow.
    eta : float
    n : float
    diverged : bool
        Whether the run diverges if it is continued: ``eta lambda_0 > 4`` and ``f_0 != 0``.
    """

    f: Array
    curvature: Array
    loss: Array
    eta: float
    n: float
    diverged: bool

    @property
    def peak_step(self) -> int:
        """The step with the largest loss."""
        return int(np.argmax(self.loss))

    @property
    def peak_loss(self) -> float:
        """Infinite for a run that diverges."""
        return math.inf if self.diverged else float(self.loss.max())


def step(f: Any, curvature: Any, eta: Any, n: Any) -> tuple[Any, Any]:
    """One step of gradient descent on the model.

    Parameters
    ----------
    f, curvature, eta, n : array_like, broadcastable
        Output, tangent kernel lambda, learning rate, width.

    Returns
    -------
    f, curvature : of the broadcast shape
        Infinite where they overflow.

    Raises
    ------
    ValueError
        Widths or learning rates that are not positive, a negative curvature, NaN.
    """
    given = {"f": f, "curvature": curvature, "eta": eta, "n": n}
    f, curvature, eta, n = (as_reals(x, name, "step") for name, x in given.items())
    if not ((eta > 0).all() and (n > 0).all()):
        raise ValueError("[step] eta and n must be positive")
    if not (curvature >= 0).all() or np.isnan(f).any():
        raise ValueError("[step] curvature must not be negative, and nothing NaN")
    with np.errstate(over="ignore"):
        push = eta * f * f / n
        return (1 - eta * curvature + eta * push) * f, np.maximum(curvature + push * (eta * curvature - 4), 0)


def trajectory(f0: float, lambda0: float, eta: float, n: float, steps: int) -> Trajectory:
    """Iterate :func:`step`.

    Parameters
    ----------
    f0, lambda0 : float
        Output and tangent kernel at initialisation, of order 1 in random networks; ``2 |f0| <= sqrt(n) lambda0``.
    eta, n : float
        Learning rate and width.
    steps : int
        At most this many.

    Returns
    -------
    Trajectory

    Raises
    ------
    ValueError
        Parameters outside their domain; an f0 that no u and v with this lambda0 have (Cauchy-Schwarz).
    """
    what = "trajectory"
    f, lam = number(f0, "f0", what), positive(lambda0, "lambda0", what)
    eta, n = positive(eta, "eta", what), positive(n, "n", what)
    if 2 * abs(f) > math.sqrt(n) * lam * (1 + 1e-12):
        raise ValueError(f"[{what}] no network of width {n:g} has lambda0 = {lam:g} and |f0| > sqrt(n) lambda0 / 2 = "
                         f"{math.sqrt(n) * lam / 2:g}, given {f:g}")  # fmt: skip
    rows = [(f, lam)]
    for _ in range(integer(what, "steps", steps, least=0)):
        push = eta * f * f / n
        f, lam = (1 - eta * lam + eta * push) * f, max(lam + push * (eta * lam - 4), 0.0)
        rows.append((f, lam))
        if abs(f) > _LARGE:
            break
    return _finish(rows, eta, n)


def _finish(rows: Sequence[tuple[float, float]], eta: float, n: float) -> Trajectory:
    f, lam = np.array(rows).T.copy()
    return Trajectory(f, lam, f * f / 2, eta, n, bool(eta * lam[0] > 4 and f[0] != 0))


def two_layer_gd(u: Any, v: Any, eta: float, steps: int) -> Trajectory:
    """Gradient descent on the parameters of the two-layer model: what :func:`trajectory` sums up.

    The model is ``f = n^(-1/2) v . u``, the loss ``f^2 / 2``.

    Parameters
    ----------
    u, v : array_like (n,)
        Initial parameters; standard normal in the paper.
    eta : float
    steps : int

    Returns
    -------
    Trajectory

    Raises
    ------
    ValueError
        u and v that are not finite vectors of one length, at least 1; eta not positive.
    """
    what = "two_layer_gd"
    u, v = (np.array(x, dtype=np.float64) for x in (u, v))
    if u.ndim != 1 or u.shape != v.shape or not u.size or not (np.isfinite(u).all() and np.isfinite(v).all()):
        raise ValueError(f"[{what}] u and v must be finite vectors of one length, given shapes {u.shape}, {v.shape}")
    n = len(u)
    eta = positive(eta, "eta", what)

    def state() -> tuple[float, float]:
        return float(u @ v) / math.sqrt(n), float(u @ u + v @ v) / n

    rows = [state()]
    for _ in range(integer(what, "steps", steps, least=0)):
        rate = eta * rows[-1][0] / math.sqrt(n)
        u, v = u - rate * v, v - rate * u
        rows.append(state())
        if abs(rows[-1][0]) > _LARGE:
            break
    return _finish(rows, eta, n)


def phase(eta_lambda0: Any) -> Any:
    """'lazy', 'catapult' or 'divergent', from ``eta lambda_0`` at large width.

    Parameters
    ----------
    eta_lambda0 : array_like, positive

    Returns
    -------
    str, or numpy.ndarray of str
        Lazy up to and with 2, divergent (without convergence, at least) from 4 on.

    Raises
    ------
    ValueError
        Unless all are positive and finite.

    Notes
    -----
    The upper edge is that of the model, at every width. Other networks have another: see :class:`Thresholds`.
    """
    y = as_reals(eta_lambda0, "eta_lambda0", "phase")
    if not (np.isfinite(y) & (y > 0)).all():
        raise ValueError(f"[phase] eta_lambda0 must be positive and finite, given {eta_lambda0!r}")
    found = np.asarray(PHASES)[np.where(y <= 2, 0, np.where(y < 4, 1, 2))]
    return str(found) if y.ndim == 0 else found


@dataclass(frozen=True)
class Thresholds:
    """Learning rates between phases; unpacks into ``(catapult, divergent)``.

    Attributes
    ----------
    curvature : float
        ``lambda_0``, the largest eigenvalue of the tangent kernel over m.
    catapult, divergent : float
        ``2 / lambda_0`` and ``4 / lambda_0``. The second is exact for the model, and near for linear networks of two
        layers on several samples (4 to 5). ReLU networks go beyond it, as units that a catapult switches off lower
        the curvature: 4 to 8 at width 1024 and 8 samples, without limit for one sample; deeper ones further (the
        paper finds about 12).
    """

    curvature: float
    catapult: float
    divergent: float

    def __iter__(self) -> Any:
        return iter((self.catapult, self.divergent))


def thresholds(ntk: Any, m: int | None = None) -> Thresholds:
    """Where the phases begin for ``L = |f - y|^2 / (2 m)``.

    Parameters
    ----------
    ntk : array_like (N, N)
        Tangent kernel of the training outputs at initialisation, finite or infinite width.
    m : int, optional
        Number of samples; N unless given (a network of k outputs has N = k m).

    Returns
    -------
    Thresholds

    Raises
    ------
    ValueError
        A kernel that is not a finite symmetric matrix, or that has no positive eigenvalue; m below 1.
    """
    what = "thresholds"
    k = as_reals(ntk, "ntk", what)
    if k.ndim != 2 or k.shape[0] != k.shape[1] or not k.size:
        raise ValueError(f"[{what}] ntk must be a square matrix, given shape {k.shape}")
    if not np.isfinite(k).all() or np.abs(k - k.T).max() > 1e-5 * np.abs(k).max():
        raise ValueError(f"[{what}] ntk must be finite and symmetric")
    lam = float(np.linalg.eigvalsh(k)[-1]) / (len(k) if m is None else integer(what, "m", m))
    if not lam > 0:
        raise ValueError(f"[{what}] ntk has no positive eigenvalue: there is no threshold")
    return Thresholds(lam, 2 / lam, 4 / lam)


def final_curvature(eta_lambda0: Any) -> Any:
    """``eta lambda`` at the end of training, for weak catapults of wide networks.

    Parameters
    ----------
    eta_lambda0 : array_like in (0, 2.5]

    Returns
    -------
    float or numpy.ndarray
        What was given, up to 2. Above, ``2 - a`` with ``(1 + a) exp(-a) = (1 - u) exp(u)``, ``u = eta lambda_0 - 2``,
        ``a = u + 2 u^2 / 3 + O(u^3)``. Off by less than 1e-4 at 2.1, 0.004 at 2.3, 0.04 at 2.5.

    Raises
    ------
    ValueError
        Outside (0, 2.5]: beyond it the end depends on f_0.

    Notes
    -----
    [Derived.] With ``S = eta^2 f^2 / n``, the map seen at the middle of its steps is ``d log S / dt = 2 u - u^2``,
    ``du / dt = -2 S (1 - 3 u / 2)`` to second order in u, S being one: ``S + u^2 / 2 + u^3 / 3`` is constant, and so
    is ``S - u - log(1 - u)`` to that order.
    """
    y = as_reals(eta_lambda0, "eta_lambda0", "final_curvature")
    if not ((y > 0) & (y <= 2.5)).all():
        raise ValueError(f"[final_curvature] eta_lambda0 must lie in (0, 2.5], given {eta_lambda0!r}")
    target = (3 - y) * np.exp(y - 2)
    low, high = np.zeros(y.shape), np.full(y.shape, 2.0)
    for _ in range(60):  # (1 + a) exp(-a) falls from 1 at a = 0
        middle = (low + high) / 2
        beyond = (1 + middle) * np.exp(-middle) < target
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    found = np.where(y <= 2, y, 2 - (low + high) / 2)
    return float(found) if y.ndim == 0 else found
