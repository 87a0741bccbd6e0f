"""Losses of a network's outputs on its training points, and their derivatives.

Outputs and targets are matrices (n, o): samples, and outputs that share a kernel (:mod:`.targets`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import helmert
from scipy.optimize import linprog

from ..base.arraylike import describe
from ..base.libraries import jax_in_float64
from .linalg import namespace, to_host
from .targets import Targets
from .units import unit_of

Array = npt.NDArray[Any]

NAMES = ("mse", "cross_entropy")
_LARGEST = 200_000  # entries of a linear program that takes about a second
_WAYS = (
    f"loss must be one of {NAMES}, or a function loss(fx, y) with gradient=, a function (fx, y) -> dL/dfx of arrays, "
    "or a function loss(fx, y) of JAX's or PyTorch's arrays that gives a scalar, which that library differentiates"
)


class Loss:
    """A loss L(f), f (n, o) float64, by its gradient; see the subclasses.

    Attributes
    ----------
    y : array (n, o) float64
        Targets.
    basis : array (r, o) or None
        Orthonormal rows that span the gradients of all samples; None: the unit vectors.
    """

    basis: Array | None = None

    def __init__(self, y: Array) -> None:
        self.y = y

    @property
    def _xp(self) -> Any:
        return namespace(self.y, what="loss")

    def gradient(self, f: Array) -> Array:
        """dL/df (n, o)."""
        raise NotImplementedError

    def product(self, f: Array, v: Array) -> Array:
        """The Hessian at f times v, both (n, o)."""
        raise NotImplementedError

    def in_units(self, size: float) -> tuple[Loss, float]:
        """The loss of outputs in the unit of this size, and the unit; 1 where it has no such form."""
        return self, 1.0

    def separable(self, f: Array) -> bool:
        """Whether the gradient of a sample depends on that sample alone, judged around f."""
        return True

    def hessian(self, f: Array) -> Array:
        """Its blocks (n, r, r) in ``basis``, where it is separable."""
        raise NotImplementedError

    def curvature(self, f: Array) -> float:
        """The size of the Hessian at f, along the gradient; 1 / |Y| where there is none."""
        first = self.gradient(f)
        second = self.product(f, first)
        sizes = float((first * first).sum()), float((second * second).sum())
        return (sizes[1] / sizes[0]) ** 0.5 if 0 < min(sizes) <= max(sizes) < np.inf else 1 / f.size


class MeanSquared(Loss):
    """``|f - y|^2 / (2 |Y|)``, ``|Y|`` the number of targets."""

    def in_units(self, size: float) -> tuple[Loss, float]:
        unit = unit_of(np.array(size))
        return MeanSquared(self.y / unit), unit

    def curvature(self, f: Array) -> float:
        return 1 / self.y.size

    def gradient(self, f: Array) -> Array:
        found: Array = (f - self.y) / self.y.size
        return found

    def product(self, f: Array, v: Array) -> Array:
        found: Array = v / self.y.size
        return found

    def hessian(self, f: Array) -> Array:
        found: Array = self._xp.broadcast_to(self._xp.eye(f.shape[1]) / self.y.size, (*f.shape, f.shape[1]))
        return found


class CrossEntropy(Loss):
    """``- sum_ik y_ik log softmax(f_i)_k / n``, the rows of y probabilities.

    Raises
    ------
    ValueError
        Otherwise.
    """

    def __init__(self, y: Array, what: str) -> None:
        o = y.shape[1]
        if o < 2:
            raise ValueError(f"[{what}] cross_entropy is over the classes along trace_axes: at least 2, given {o}")
        off = float(abs(y.sum(axis=1) - 1).max())
        if float(y.min()) < 0 or off > 1e-5:
            raise ValueError(
                f"[{what}] targets of cross_entropy are probabilities of the classes along trace_axes, not negative "
                f"and of sum 1 for each sample (one-hot: no 1/k subtracted); the smallest is {float(y.min()):.4g}, "
                f"sums are off by {off:.3g}"
            )
        super().__init__(y)
        self.basis = self._xp.asarray(helmert(o))  # gradients of a sample have sum 0

    def has_limit(self, left_out: Array) -> bool | None:
        """Whether the loss has a minimum over outputs orthogonal to ``left_out`` (n, m); None: too large to tell.

        It has none where a change of the outputs leaves those of classes with a target above 0 equal and largest in
        every sample, and lowers another: along it the loss falls for ever. By how much others are lower is a vector
        ``s >= 0``, and what is orthogonal to ``left_out`` a linear condition on it: a linear program, whose optimum is
        0 or, as ``s`` may have any scale, at least the bound on its entries.
        """
        y = to_host(self.y)
        samples, classes = np.nonzero(y == 0)
        if not len(samples):
            return True
        if not left_out.shape[1]:
            return False
        assert self.basis is not None
        conditions = left_out[samples].T[:, None, :] * to_host(self.basis)[None, :, classes]
        if conditions.size > _LARGEST:
            return None
        found = linprog(
            np.full(len(samples), -1.0), A_eq=conditions.reshape(-1, len(samples)),
            b_eq=np.zeros(left_out.shape[1] * (y.shape[1] - 1)), bounds=(0, 1), method="highs",
        )  # fmt: skip
        return None if found.status else -found.fun < 0.5

    def separates(self, v: Array) -> bool:
        """Whether the change v (n, o) of the outputs is one along which the loss falls for ever."""
        v, taken = to_host(v), to_host(self.y) > 0
        least = np.where(taken, v, np.inf).min(axis=1)
        most = np.where(taken, -np.inf, v).max(axis=1)
        alone = taken.sum(axis=1) == 1  # of several classes none would be exactly level
        return bool((alone & (least > most)).all())

    def probabilities(self, f: Array) -> Array:
        """Softmax."""
        p = self._xp.exp(f - f.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        found: Array = p
        return found

    def gradient(self, f: Array) -> Array:
        found: Array = (self.probabilities(f) - self.y) / len(f)
        return found

    def product(self, f: Array, v: Array) -> Array:
        p = self.probabilities(f)
        found: Array = p * (v - (p * v).sum(axis=1, keepdims=True)) / len(f)
        return found

    def hessian(self, f: Array) -> Array:
        assert self.basis is not None
        p = self.probabilities(f)
        moved = p @ self.basis.T
        diagonal = (self.basis * p[:, None, :]) @ self.basis.T
        found: Array = (diagonal - moved[:, :, None] * moved[:, None, :]) / len(f)
        return found


class Given(Loss):
    """A loss of the user's, by a function ``gradient(fx, y)`` of arrays in the targets' shape."""

    def __init__(self, gradient: Callable[[Array, Array], Any], y: Array, targets: Targets) -> None:
        super().__init__(y)
        self._gradient, self._targets = gradient, targets
        self._plain = targets.shape == y.shape and targets.trace_axes == (1,)
        self._shaped = self._restored(y)
        with np.errstate(all="ignore"):  # the loss may not be finite at 0; this looks at the shape
            self.gradient(self._xp.zeros_like(y))

    def gradient(self, f: Array) -> Array:
        what = self._targets.what
        found = self._xp.asarray(self._gradient(self._restored(f), self._shaped))
        if found.shape != self._shaped.shape or found.dtype.kind not in "fiu":
            raise ValueError(
                f"[{what}] gradient must give real numbers in the shape of fx and y_train, {self._shaped.shape}; it "
                f"gave {found.dtype} of shape {found.shape}"
            )
        found = found.astype(np.float64, copy=False)
        return found if self._plain else self._targets.matrix(found)

    def product(self, f: Array, v: Array) -> Array:
        # Central differences, of a step where rounding and the third derivative weigh the same.
        step = np.cbrt(np.finfo(np.float64).eps) * (1 + float(abs(f).max())) / max(float(abs(v).max()), 1e-300)
        found: Array = (self.gradient(f + step * v) - self.gradient(f - step * v)) / (2 * step)
        return found

    def separable(self, f: Array) -> bool:
        first, rng = self.gradient(f), np.random.default_rng(0)
        same = 1e-12 * float(abs(first).max())
        at = np.arange(len(f))
        # Any two samples differ in a digit of their numbers: one of them is moved, the other looked at.
        for digit in range(int(at[-1]).bit_length()):
            moved = (at >> digit & 1).astype(bool)
            push = 0.1 * (1 + float(abs(f).max())) * rng.standard_normal(f.shape) * moved[:, None]
            change = self.gradient(f + self._xp.asarray(push)) - first
            if not float(abs(change[self._xp.asarray(~moved)]).max()) <= same:
                return False
        return True

    def hessian(self, f: Array) -> Array:
        found: Array = self._xp.empty((*f.shape, f.shape[1]))
        for k in range(f.shape[1]):
            unit = self._xp.zeros_like(f)
            unit[:, k] = 1.0
            found[:, :, k] = self.product(f, unit)
        return found

    def _restored(self, f: Array) -> Array:
        if self._plain:
            return f
        found: Array = self._xp.ascontiguousarray(self._targets.restore(f, self._targets.paired))
        return found


def loss_of(loss: Any, gradient: Any, y: Array, targets: Targets) -> Loss:
    """What the user's ``loss`` and ``gradient`` mean, for targets y (n, o) float64.

    Raises
    ------
    TypeError
        What can be neither named nor differentiated.
    ValueError
        An unknown name, targets that the loss does not take, or a gradient of another shape.
    """
    what = targets.what
    if gradient is not None:
        if not callable(gradient) or isinstance(loss, str):
            raise TypeError(
                f"[{what}] gradient must be a function (fx, y) -> dL/dfx, beside a loss that is a function; given "
                f"{describe(gradient)} beside loss {loss!r}"
            )
        return Given(gradient, y, targets)
    if isinstance(loss, str):
        if loss not in NAMES:
            raise ValueError(f"[{what}] there is no loss {loss!r}; {_WAYS}")
        return MeanSquared(y) if loss == "mse" else CrossEntropy(y, what)
    if not callable(loss):
        raise TypeError(f"[{what}] {_WAYS}; given {describe(loss)}")
    return Given(_differentiated(loss, y, targets), y, targets)


def _differentiated(loss: Callable[[Any, Any], Any], y: Array, targets: Targets) -> Callable[[Array, Array], Array]:
    """The gradient of a loss by the library that it is written in: one that is loaded, and can."""
    refused: list[str] = []
    cause: Exception | None = None
    labels = to_host(targets.restore(y, targets.paired))
    for name, make in (("jax", _by_jax), ("torch", _by_torch)):
        # A function that uses a library has imported it.
        if name not in sys.modules:
            continue
        found = make(loss)
        try:
            found(np.zeros(targets.shape), labels)
        except Exception as error:
            first_line = str(error).strip().split("\n", 1)[0]
            refused.append(f"{name}: {describe(error)}: {first_line}")
            cause = error
        else:
            return found
    tried = "; ".join(refused) or "neither jax nor torch is loaded"
    raise TypeError(f"[{targets.what}] the loss cannot be differentiated ({tried}). {_WAYS}") from cause


def _by_jax(loss: Callable[[Any, Any], Any]) -> Callable[[Array, Array], Array]:
    import jax

    derivative = jax.jit(jax.grad(loss))

    def gradient(fx: Array, y: Array) -> Array:
        with jax_in_float64():
            return np.asarray(derivative(to_host(fx), to_host(y)))

    return gradient


def _by_torch(loss: Callable[[Any, Any], Any]) -> Callable[[Array, Array], Array]:
    import torch

    def gradient(fx: Array, y: Array) -> Array:
        inputs = torch.tensor(to_host(fx), requires_grad=True)
        with torch.enable_grad():
            (found,) = torch.autograd.grad(loss(inputs, torch.tensor(to_host(y))), inputs)
        result: Array = found.numpy()
        return result

    return gradient
