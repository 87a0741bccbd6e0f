"""The differential equations of training, integrated by SciPy along the eigenvectors of the kernel.

With outputs ``f_s(X) = f_0(X) + phi(s) q_0(X) + Theta a(s)`` and g the gradient of the loss, gradient flow is
``a' = -g`` (phi = 0), and with momentum ``a'' = -c a' - g``, ``phi(s) = (1 - exp(-c s)) / c``: one array of the
targets' size carries the outputs on all points, test points too. It is integrated as ``u = Theta^{1/2} a`` in the
eigenbasis of Theta, where

- an error of u is, for a Gram matrix of training and test points, an error of at most its size times
  ``sqrt(Theta(x, x))`` in the output on any point x: one tolerance is right for directions of all eigenvalues;
- the mean squared error decouples: its equation costs O(n o), and its Jacobian has one or three diagonals.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import integrate, sparse
from scipy.sparse.linalg import LinearOperator, cg

from .linalg import Spectrum, namespace, to_host
from .losses import CrossEntropy, Loss, MeanSquared

Array = npt.NDArray[Any]

# Not LSODA: started where nothing moves any more, it takes explicit steps for ever.
METHODS = ("BDF", "Radau", "DOP853", "RK45", "RK23")
# Unknowns up to which a dense Jacobian is made unasked.
DENSE = 5000
# What may be left of the way to the limit, relative to the size of the outputs.
LIMIT = 1e-10
_EPS = float(np.finfo(np.float64).eps)
NO_LIMIT = (
    "t is infinite, but the cross-entropy of targets that hold zeros has no limit: the outputs rise for ever. Give a "
    "finite t, or smooth the targets"
)


class Flow:
    """Training from one start.

    Parameters
    ----------
    spectrum : Spectrum
        Of Theta (n, n).
    mean : float
        Of Theta's diagonal.
    loss : Loss
    size : float
        Of targets and outputs.
    f, q : array (n, o)
        Outputs at the start, and their velocity (None: 0).
    damping : float or None
        c; None: no momentum.
    method, rtol, atol, max_evaluations
        As for :func:`gradient_descent`.
    clock : float
        s of one unit of t, for messages.
    """

    def __init__(
        self, spectrum: Spectrum, mean: float, loss: Loss, size: float, f: Array, q: Array | None,
        damping: float | None, *, method: str | None, rtol: float, atol: float | None, max_evaluations: int,
        clock: float, what: str,
    ) -> None:  # fmt: skip
        self._xp = namespace(f, what=what)
        self._loss, self._f, self._q, self._damping = loss, f, q, damping
        self._vectors, self._mean, self._clock, self._what = spectrum.vectors, mean, clock, what
        w = to_host(spectrum.values)
        self._kept = (w > spectrum.threshold)[:, None]
        # u = scale V^T a and f = V gain u. Below the threshold the scale stays: a, which test points see, is kept.
        scale = np.sqrt(np.maximum(w, spectrum.threshold) * mean)[:, None]
        self.scale = np.where(scale > 0, scale, 1.0)
        self.gain = self._gain = w[:, None] / self.scale
        outputs = f.shape[1] if loss.basis is None else len(loss.basis)
        self._shape = (len(w), outputs, 1 if damping is None else 2)
        self._size = size
        self._curvature = loss.curvature(f)
        # Velocities are integrated in units of the fastest oscillation, in which they are as large as u.
        self._largest = float(w[-1])
        self._unit = (self._largest * self._curvature) ** 0.5 or 1.0
        # What rounding leaves of the gradient.
        self._rounding = 8 * _EPS * self._curvature * size
        self._rtol, self._atol = rtol, rtol * size if atol is None else atol
        self._method = method or "DOP853"
        self._patience = self._explicit(max_evaluations) if method is None else math.inf
        self._evaluations, self._max_evaluations = 0, max_evaluations
        self._end = self._reached = 0.0
        self._drift = None if q is None else self._modes(q)
        if isinstance(loss, MeanSquared):
            self._error = self._modes(f - loss.y)

    def states(self, times: Array) -> tuple[Array, Array | None]:
        """u and with momentum its velocity at rising times s, each (times, n, r); the last time may be infinite.

        Raises
        ------
        RuntimeError
            The integrator fails, the gradient is not finite, or the evaluations do not suffice.
        """
        found = np.zeros((len(times), *self._shape))
        finite = times[np.isfinite(times)]
        self._end = float(times[-1]) if len(times) else 0.0
        solver: Any = None
        s, state = 0.0, np.zeros(self._shape)
        for k, target in enumerate(finite):
            if target > 0:
                # A method of several steps loses its order when started anew; the interpolants of the others are less
                # accurate than their steps, which therefore end at every time.
                if not isinstance(solver, integrate.BDF):
                    solver = self._solver(s, state, float(finite[-1] if self._method == "BDF" else target))
                while solver.t < target:
                    solver = self._advanced(solver, float(finite[-1]), float(target))
                s = float(target)
                state = (solver.y if solver.t == s else solver.dense_output()(s)).reshape(self._shape)
            found[k] = state
        if len(finite) < len(times):
            found[-1] = self._limit(s, state)
        return found[..., 0], None if self._damping is None else found[..., 1] * self._unit

    def outputs(self, x: Array) -> Array:
        """V x as outputs (..., n, o), for x (..., n, r)."""
        found = self._vectors @ self._xp.asarray(x)
        if self._loss.basis is not None:
            found = found @ self._loss.basis
        moved: Array = found
        return moved

    def spread(self, s: Array) -> Array:
        """phi at times s: how far the velocity at the start carries outputs."""
        if self._damping is None:
            return np.zeros_like(s)
        found: Array = -np.expm1(-self._damping * s) / self._damping
        return found

    # ---------------------------------------------------------------- the equations

    def _modes(self, g: Array) -> Array:
        """V^T g (n, r) on the host, for g (n, o)."""
        if self._loss.basis is not None:
            g = g @ self._loss.basis.T
        return to_host(self._vectors.T @ g)

    def _at(self, s: float, u: Array) -> Array:
        f = self._f + self.outputs(self._gain * u)
        return f if self._q is None else f + float(self.spread(np.asarray(s))) * self._q

    def _slope(self, s: float, u: Array) -> Array:
        """V^T g (n, r)."""
        loss = self._loss
        if isinstance(loss, MeanSquared):
            error = self._gain * u + self._error
            if self._drift is not None:
                error += self.spread(np.asarray(s)) * self._drift
            return error / loss.y.size
        g = self._modes(loss.gradient(self._at(s, u)))
        if not np.isfinite(g).all():
            raise RuntimeError(f"[{self._what}] the gradient of the loss is not finite, at t = {self._time(s)}")
        return g

    def _velocity(self, s: float, z: Array) -> Array:
        """Right-hand side of the equations."""
        self._evaluations += 1
        if self._evaluations > self._max_evaluations:
            raise RuntimeError(
                f"[{self._what}] {self._max_evaluations} evaluations of the gradient have led to t = "
                f"{self._time(self._reached)} of {self._time(self._end)}: {self._method} on {z.size} unknowns; "
                f"max_evaluations allows more, another method or a larger rtol may need fewer{self._no_limit()}"
            )
        state = z.reshape(self._shape)
        force = -self.scale * self._slope(s, state[..., 0])
        if self._damping is None:
            return force.reshape(-1)
        found = np.empty(self._shape)
        found[..., 0] = self._unit * state[..., 1]
        found[..., 1] = force / self._unit - self._damping * state[..., 1]
        return found.reshape(-1)

    def _jacobian(self, s: float, z: Array) -> Any:
        """Sparse for the mean squared error, else dense; of a separable loss."""
        n, r, parts = self._shape
        if isinstance(self._loss, MeanSquared):
            force = np.repeat(-self.scale * self._gain / self._loss.y.size, r)
            if self._damping is None:
                return sparse.diags(force, format="csc")
            main, above, below = (np.zeros((n * r, 2)) for _ in range(3))
            main[:, 1], above[:, 0], below[:, 0] = -self._damping, self._unit, force / self._unit
            bands = [main.reshape(-1), above.reshape(-1)[:-1], below.reshape(-1)[:-1]]
            return sparse.diags(bands, [0, 1, -1], format="csc")
        hessian = self._loss.hessian(self._at(s, z.reshape(self._shape)[..., 0]))
        whole = np.zeros((n, r, parts, n, r, parts))
        for a in range(r):
            for b in range(a + 1):
                block = to_host((self._vectors.T * hessian[:, a, b]) @ self._vectors)
                block = -self.scale * block * self._gain.T
                whole[:, a, -1, :, b, 0] = whole[:, b, -1, :, a, 0] = block
        found = whole.reshape(n * r * parts, n * r * parts)
        if self._damping is not None:
            found[1::2, ::2] /= self._unit
            at = np.arange(0, len(found), 2)
            found[at, at + 1], found[at + 1, at + 1] = self._unit, -self._damping
        return found

    # ---------------------------------------------------------------- the integrator

    @cached_property
    def _separable(self) -> bool:
        return self._loss.separable(self._f)

    def _explicit(self, most: int) -> float:
        """Evaluations after which explicit steps have cost as much as an implicit method would."""
        n, r, parts = self._shape
        # While the fastest directions still swing, which takes some 50 times 1 / c, long steps are of no use.
        patience = 2000.0 if self._damping is None else 2000 + 600 * self._unit / self._damping
        if not isinstance(self._loss, MeanSquared):
            unknowns = n * r * parts
            if unknowns > DENSE:
                return math.inf
            # Some 150 factorisations, those of Radau complex; an evaluation's products, and its time in Python.
            patience += (100 if parts == 1 else 500) * unknowns**3 / (4 * n**2 * r + 1e6)
        return min(patience, most / 2)

    def _solver(self, s: float, state: Array, bound: float) -> Any:
        options: dict[str, Any] = {"rtol": self._rtol, "atol": self._atol}
        if self._method in ("BDF", "Radau"):
            if isinstance(self._loss, MeanSquared):
                options["jac"] = self._jacobian(s, state)
            elif self._separable:
                options["jac"] = self._jacobian
        return getattr(integrate, self._method)(self._velocity, s, state.reshape(-1), bound, **options)

    def _advanced(self, solver: Any, last: float, target: float) -> Any:
        """The solver one step on, or the one that takes over."""
        message = solver.step()
        self._reached = solver.t
        if message:
            raise RuntimeError(
                f"[{self._what}] {self._method} stopped at t = {self._time(solver.t)} of {self._time(self._end)}: "
                f"{message}"
            )
        if self._evaluations > self._patience and solver.t < target:
            # BDF is not stable for oscillations.
            self._method, self._patience = "BDF" if self._damping is None else "Radau", math.inf
            return self._solver(solver.t, solver.y, last if self._method == "BDF" else target)
        return solver

    def _limit(self, s: float, state: Array) -> Array:
        """The state at infinity; directions that are rounding are left out."""
        self._gain = np.where(self._kept, self.gain, 0.0)
        # Long enough for the slowest direction, too short for a loss that falls for ever to fall to rounding.
        rate = self._curvature * float((self._gain * self.scale).min(where=self._kept, initial=np.inf))
        if self._damping is not None:
            rate = min(rate / self._damping, rate**0.5)
        bound = s + (1e12 / rate if 0 < rate < np.inf else 1.0)
        solver = self._solver(s, state, bound)
        look = 0.0
        while not (solver.t >= look and self._arrived(solver.t, solver.y.reshape(self._shape))):
            if solver.t >= look:
                look = 1.05 * solver.t
                if isinstance(self._loss, CrossEntropy) and self._loss.separates(
                    self.outputs(self._gain * solver.y.reshape(self._shape)[..., 0])
                ):
                    raise ValueError(f"[{self._what}] {NO_LIMIT}")
            if solver.status != "running":
                raise RuntimeError(f"[{self._what}] no limit by t = {self._time(solver.t)}{self._no_limit()}")
            solver = self._advanced(solver, bound, bound)
        found: Array = solver.y.reshape(self._shape).copy()
        if self._damping is not None:
            found[..., 1] = 0.0
        return found

    def _arrived(self, s: float, state: Array) -> bool:
        """Whether Newton's step to the minimum, and what the velocity still adds, are negligible."""
        u = state[..., 0]
        slope = np.where(self._kept, self._slope(np.inf, u), 0.0)
        # In the coordinates of f = V gain u, where the kernel's condition does not enter.
        left = self._newton(u, slope)
        if left is None or not (abs(left) <= self._size * (LIMIT * self._gain + 32 * _EPS)).all():
            return False
        if self._damping is None:
            return True
        velocity = self._gain * self._unit * state[..., 1]
        if self._drift is not None:
            velocity += np.exp(-self._damping * s) * self._drift
        # Oscillations are as wide as their velocity over the frequency, other ways as long as it over the damping.
        frequency = self._unit * np.sqrt(self._gain * self.scale / (self._largest or 1.0))
        still = LIMIT * self._size * self._gain * np.maximum(self._damping / 2, frequency)
        return bool((abs(velocity) <= still)[self._kept[:, 0]].all())

    def _newton(self, u: Array, g: Array) -> Array | None:
        """Solve ``V^T H V x = g`` on the directions that are not rounding; None where that fails."""
        if isinstance(self._loss, MeanSquared):
            return g * self._loss.y.size
        f = self._at(np.inf, u)
        kept = np.broadcast_to(self._kept, g.shape)

        def product(x: Array) -> Array:
            v = np.zeros(g.shape)
            v[kept] = x.reshape(-1)
            return self._modes(self._loss.product(f, self.outputs(v)))[kept]

        size = int(kept.sum())
        operator = LinearOperator((size, size), product, dtype=np.float64)
        with np.errstate(all="ignore"):
            found, failed = cg(operator, g[kept], maxiter=200, atol=self._rounding * size**0.5)
        if failed or not np.isfinite(found).all():
            return None
        x = np.zeros(g.shape)
        x[kept] = found
        return x

    def _time(self, s: float) -> str:
        return f"{s / self._clock:.6g}"

    def _no_limit(self) -> str:
        if np.isfinite(self._end):
            return ""
        return "; a loss that falls for ever, as the cross-entropy of targets of 0 and 1 does, has no limit"
