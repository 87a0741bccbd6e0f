"""Functions whose duals the user gives as functions of covariances."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...base.arraylike import describe
from ...base.libraries import gives_jax, of_user, slope_by_jax
from ..program import Builder, Value, Values
from .general import Activation, check_function
from .nonlinearity import Array, Correlation, Nonlinearity, defines_dual, signed_defect

__all__ = ["Elementwise"]

_STEP = 1e-150  # of a derivative along the imaginary axis: nothing is subtracted
_INSIDE = 2.0**-50  # at correlations of +-1 roots of 1 - rho^2 have no derivative


@defines_dual
@dataclass(frozen=True)
class Elementwise(Nonlinearity):
    """A function by its own dual, in covariances.

    Parameters
    ----------
    fn : callable, optional
        The function, for ``apply_fn``; without ``nngp_fn`` the layer is :class:`Activation` of it.
    nngp_fn : callable, optional
        ``nngp_fn(q12, q11, q22)``, ``E fn(u) fn(v)``, element by element for float64 arrays of one shape; by NumPy,
        JAX or PyTorch.
    d_nngp_fn : callable, optional
        Its derivative in ``q12``, which is ``E fn'(u) fn'(v)``. Without, JAX differentiates
        an ``nngp_fn`` of its functions; others must take complex ``q12``.

    Raises
    ------
    TypeError
        None of ``fn`` and ``nngp_fn``, or what is no function; in a call, an ``nngp_fn`` without a derivative.
    NotImplementedError
        On compiled backends, which have no code for it: ``backend='numpy'``.

    Notes
    -----
    Covariances are all that ``nngp_fn`` sees, so that ``1 - rho' = 1 - nngp / sqrt(V V')`` is a difference: right to
    2e-16 absolutely, in float64 throughout, where other layers are right to 1e-15 of it. Inputs closer than a distance
    of 1e-8 become one behind it. Derivatives that are not given are those at correlations up to 1 - 1e-15: of functions
    with kinks 2e-8 off at equal inputs. :class:`Activation` of the function itself has all digits.
    """

    fn: Callable[..., Any] | None = None
    nngp_fn: Callable[..., Any] | None = None
    d_nngp_fn: Callable[..., Any] | None = None
    dual_name: ClassVar[str] = "elementwise"
    row_names: ClassVar[tuple[str, ...]] = ("q",)
    compiled: ClassVar[bool] = False
    counted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for label in ("fn", "nngp_fn", "d_nngp_fn"):
            given = getattr(self, label)
            if given is not None and not callable(given):
                raise TypeError(f"[stax.Elementwise] {label} must be a function, given {describe(given)}")
        if self.fn is None and self.nngp_fn is None:
            raise TypeError("[stax.Elementwise] needs fn or nngp_fn, given none")
        if self.nngp_fn is None:
            Activation(self._fn())
        elif self.fn is not None:
            check_function(lambda x: self.phi(x, np), "fn", "stax.Elementwise")

    def _fn(self) -> Callable[..., Any]:
        if self.fn is None:
            raise ValueError("[stax.Elementwise] was made without fn, which finite networks need")
        return self.fn

    def phi(self, x: Any, xp: Any = np) -> Any:
        return Activation.call(self._fn(), x, xp)

    def lower(self, builder: Builder, values: Values) -> Value:
        return super().lower(builder, values) if self.nngp_fn else Activation(self._fn()).lower(builder, values)

    def _nngp(self, q12: Any, q11: Array, q22: Array) -> Any:
        assert self.nngp_fn is not None
        found = np.asarray(of_user(self.nngp_fn, q12, q11, q22))
        if found.shape != q11.shape or found.dtype.kind not in "fc":
            raise TypeError(
                f"[stax.Elementwise] nngp_fn must give floats of its arguments' shape {q11.shape}, given {found.dtype} "
                f"{found.shape}"
            )
        _refuse("nngp_fn must be finite", found, ~np.isfinite(found), q12, q11, q22)
        return found

    def _slope(self, q12: Array, q11: Array, q22: Array) -> Array:
        found = self._differentiated(q12, q11, q22)
        _refuse("the derivative of nngp_fn, d_nngp_fn, must be a number", found, np.isnan(found), q12, q11, q22)
        return found

    def _differentiated(self, q12: Array, q11: Array, q22: Array) -> Array:
        if self.d_nngp_fn is not None:
            return np.asarray(of_user(self.d_nngp_fn, q12, q11, q22), dtype=np.float64)
        most = np.sqrt(q11) * np.sqrt(q22) * (1 - _INSIDE)
        q12 = np.clip(q12, -most, most)
        assert self.nngp_fn is not None
        if gives_jax(self.nngp_fn, *3 * (np.ones(1),)):
            return np.asarray(slope_by_jax(self.nngp_fn, q12, q11, q22))
        try:
            found = self._nngp(q12 + 1j * _STEP, q11, q22)
        except Exception as error:
            raise TypeError(
                f"[stax.Elementwise] nngp_fn takes no complex covariances ({type(error).__name__}: {error}): give its "
                "derivative as d_nngp_fn"
            ) from error
        if not np.iscomplexobj(found):
            raise TypeError(
                "[stax.Elementwise] nngp_fn of complex covariances is real: give its derivative as d_nngp_fn"
            )
        return np.asarray(found.imag / _STEP)

    def variance(self, q: Array, xp: Any = np) -> Array:
        return np.asarray(np.maximum(self._nngp(q, q, q).real, 0))

    def mean(self, q: Array, xp: Any = np) -> Array:
        if self.fn is None:
            raise ValueError(
                "[stax.Elementwise] a sum of branches needs the mean of its output, nngp_fn has none: give fn"
            )
        return Activation(self.fn).mean(q, xp)

    def rows(self, q: Array, xp: Any = np) -> Mapping[str, Array]:
        return {"q": q}

    def pair(self, c: Correlation, x1: Any, x2: Any) -> tuple[Array, Array, Array]:
        q1, q2, rho = np.broadcast_arrays(x1.q, x2.q, np.where(c.near, 1 - c.w, c.w - 1))
        q12 = np.sqrt(q1) * np.sqrt(q2) * rho
        size = np.sqrt(self.variance(q1)) * np.sqrt(self.variance(q2))
        found = np.clip(self._nngp(q12, q1, q2).real / np.where(size > 0, size, 1), -1, 1)
        found = np.where((c.w == 0) & c.near & (q1 == q2) & (size > 0), 1, found)  # whatever its rounding is
        v = np.where(found < 0, signed_defect(np.asarray(False), 1 + found), 1 - found)
        return v, found, self._slope(q12, q1, q2)


def _refuse(must: str, found: Array, lost: Array, q12: Any, q11: Array, q22: Array) -> None:
    """Refuse what a user's function loses where covariances are finite."""
    lost = lost & np.isfinite(q12) & np.isfinite(q11) & np.isfinite(q22)
    if lost.any():
        at = np.unravel_index(int(np.argmax(lost)), lost.shape)
        raise ValueError(
            f"[stax.Elementwise] {must}, given {found[at]} at q12 = {q12[at].real:.6g}, q11 = {q11[at]:.6g}, "
            f"q22 = {q22[at]:.6g}"
        )
