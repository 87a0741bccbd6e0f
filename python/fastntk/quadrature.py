"""Gaussian expectations of smooth functions by quadrature: where a nonlinearity has no closed form.

One dimension: the trapezoid rule with Gaussian weight, which converges exponentially for functions analytic near the
real axis, and does not slow down for large variances as Gauss-Hermite rules do. Pairs: ``k = E phi(u) phi(v)`` and
``kdot = E phi'(u) phi'(v)`` from normalised Hermite coefficients ``a_l(q) = E phi(sqrt(q) z) h_l(z)``,

``k = sum_l a_l(q11) a_l(q22) rho^l``,

a table for each variance and a polynomial for each pair (Mehler's formula; Daniely, Frostig and Singer 2016,
arXiv:1602.05897, section 4). Where that converges too slowly, the trapezoid rule in two dimensions, rotated so that
``u, v = sqrt((1 + rho) / 2) a +- sqrt((1 - rho) / 2) b``, which is regular up to ``|rho| = 1``.

Errors are measured: steps are halved until two results agree, and the share of ``E phi^2`` that a series leaves out is
known (Parseval). Functions with kinks converge too slowly to pass: they raise.

>>> from fastntk import quadrature
>>> k, kdot = quadrature.dual(quadrature.TANH, 1.0, 0.5, 2.0)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from .base.arraylike import describe
from .base.door import doors
from .base.names import missing
from .network.activation_like import TANH as TANH
from .network.activation_like import Function as Function
from .network.activation_like import Smooth, SmoothLike, named, smooth_like
from .network.activations import General, Nonlinearity
from .network.expectations import CHUNK, REACH, NotSmooth, call, first_step, grid, squared, variances_of, weight_of
from .network.expectations import RTOL as RTOL
from .network.expectations import expectation as smooth_expectation
from .network.expectations import hermite_coefficients as hermite_coefficients
from .network.kinks import expectation_by_pieces

Array = npt.NDArray[np.float64]

__all__ = [
    "TANH",
    "DualTable",
    "HermiteSeries",
    "Smooth",
    "SmoothLike",
    "dual",
    "expectation",
    "hermite_coefficients",
    "smooth",
]

ORDERS = (32, 128, 256, 512, 1024, 2048)  # of Hermite series; tanh needs the last near q = 20 for rho = 1
_MAX_NODES_2D = 2**12  # a side of the square
_MAX_TABLE = 2**15  # order times sqrt(q): what a table of Hermite functions grows with, 60 MiB here
_GAP = 1e-15  # a difference of sums that cannot be told from 0


def smooth(activation: Any, what: str = "quadrature") -> Smooth:
    """Check a nonlinearity given as an object with ``phi`` and ``dphi``.

    Raises
    ------
    TypeError
        Without callable ``phi`` and ``dphi``, or where these do not give real arrays of the same shape.
    ValueError
        Values that are not finite, a phi with kinks, or a ``dphi`` that is not the derivative of ``phi``: Stein's
        identity ``E z phi(z) = E phi'(z)`` fails.
    """
    given = named(activation)
    activation = smooth_like(activation, what)
    if isinstance(given, Nonlinearity):
        return Smooth(activation.phi, activation.dphi, type(given).__name__)
    phi, dphi = activation.phi, activation.dphi
    name = str(getattr(activation, "name", describe(activation)))
    x = np.linspace(-2.0, 2.0, 9)
    for label, f in (("phi", phi), ("dphi", dphi)):
        values = np.asarray(f(x))
        if values.shape != x.shape or values.dtype.kind not in "fiub":
            raise TypeError(
                f"[{what}] {label} of {name} must give a real array of its argument's shape, given {values.dtype} "
                f"{values.shape} for {x.shape}"
            )
    # The shift tests odd and even parts together.
    left = smooth_expectation(lambda x: x * call(phi, x + 0.5), what=what)
    right = smooth_expectation(lambda x: call(dphi, x + 0.5), what=what)
    if not abs(left - right) <= 1e-8 * max(abs(left), abs(right), 1e-8):
        raise ValueError(
            f"[{what}] dphi of {name} is not the derivative of phi: E z phi(z + 1/2) = {left:.9g}, "
            f"E dphi(z + 1/2) = {right:.9g}"
        )
    return Smooth(phi, dphi, name)


def expectation(g: Function, q: Any = 1.0, *, rtol: float = RTOL, what: str = "expectation") -> Any:
    """``E g(sqrt(q) z)``, z standard normal.

    Parameters
    ----------
    g : callable
        From a float64 array of any shape to an array of that shape; smooth, or in pieces that are, up to ``|x| = 32``;
        varying on a scale of 1 or more.
    q : array_like, not negative
    rtol : float
        Steps are halved until two results agree to ``rtol E |g|``; the finer one is then good to 1e-15 of ``E |g|``.
    what : str
        What errors call the caller.

    Returns
    -------
    numpy.ndarray of q's shape, or a float.

    Raises
    ------
    ValueError
        A negative or non-finite q, a g that is not finite, no expectation (g grows as fast as the weight decays), or no
        agreement of two rules.

    Notes
    -----
    Smooth functions by the trapezoid rule, whose error with step h is ``exp(-2 pi d / h)``, d the distance in z of g's
    nearest pole from the real axis (Trefethen and Weideman 2014, SIAM Review 56, 385, theorem 5.1). A feature much
    narrower than 1/4 in z and 1/2 in x = sqrt(q) z, away from x = 0, can be missed. Where that does not converge, kinks
    and jumps are looked for, and Gauss's rule goes from one to the next.
    """
    try:
        return smooth_expectation(g, q, rtol=rtol, what=what)
    except NotSmooth:
        return expectation_by_pieces(g, q, rtol, what)


# ---------------------------------------------------------------- Hermite series


@dataclass(frozen=True)
class HermiteSeries:
    """phi and phi' as Hermite series.

    Attributes
    ----------
    q : numpy.ndarray (m,)
    phi, dphi : numpy.ndarray (L + 1, m)
        Coefficients ``a_l(q)`` of phi and of phi'.
    gaps : numpy.ndarray (2, m)
        ``1 - sum_l a_l^2 / E phi^2``, and of phi': what the series leave out; at least 1e-15, as rounding hides less.
        An error of k between q11 and q22 is at
        most ``sqrt(gap11 gap22) |rho|^(L + 1)`` of ``sqrt(E phi(u)^2 E phi(v)^2)``.
    """

    q: Array
    phi: Array
    dphi: Array
    gaps: Array

    @classmethod
    def of(cls, activation: SmoothLike, q: Any, order: int, *, what: str = "HermiteSeries") -> HermiteSeries:
        """Series of that many terms at the variances ``q`` (m,)."""
        activation, variances = smooth_like(activation, what), np.atleast_1d(variances_of(q, what))
        both = []
        gaps = np.empty((2, len(variances)))
        for i, f in enumerate((activation.phi, activation.dphi)):
            a = hermite_coefficients(f, variances, order, what=what)
            square = expectation(squared(f), variances, what=what)
            safe = np.where(square > 0, square, 1.0)
            gaps[i] = np.maximum(1 - np.sum(a * a, axis=1) / safe, _GAP) * (square > 0)
            both.append(np.ascontiguousarray(a.T))
        return cls(variances, both[0], both[1], gaps)

    @classmethod
    def adaptive(
        cls, activation: SmoothLike, q: Any, *, rtol: float = 1e-14, what: str = "HermiteSeries"
    ) -> HermiteSeries:
        """Series of as many terms as close the gaps to ``rtol``, at most 2,049: see ``gaps`` for what is left."""
        for order in ORDERS:
            series = cls.of(activation, q, order, what=what)
            if series.gaps.max(initial=0.0) <= rtol or 2 * order * math.sqrt(series.q.max()) > _MAX_TABLE:
                break
        return series

    @property
    def order(self) -> int:
        return len(self.phi) - 1

    def evaluate(self, i: Any, j: Any, rho: Array) -> tuple[Array, Array]:
        """``(k, kdot)`` between variances ``q[i]`` and ``q[j]`` at correlations rho, by Horner's rule."""
        k, kdot = np.zeros_like(rho), np.zeros_like(rho)
        for a, b in zip(self.phi[::-1], self.dphi[::-1], strict=True):
            k = k * rho + a[i] * a[j]
            kdot = kdot * rho + b[i] * b[j]
        return k, kdot

    def resolves(self, i: Any, j: Any, rho: Array, rtol: float) -> npt.NDArray[np.bool_]:
        """Where both duals are within ``rtol``."""
        power = np.abs(rho) ** (self.order + 1)
        return np.asarray(np.sqrt(self.gaps[:, i] * self.gaps[:, j]).max(axis=0) * power <= rtol)


class DualTable:
    """Duals between given variances: Hermite coefficients are made when first needed, and kept.

    Parameters
    ----------
    activation : object with ``phi`` and ``dphi``
    q : array_like (m,)
        The variances.
    rtol, what
        As for :func:`dual`, and what errors call it.
    """

    def __init__(self, activation: SmoothLike, q: Any, *, rtol: float = 1e-14, what: str = "DualTable") -> None:
        self.activation, self.rtol, self.what = smooth_like(activation, what), rtol, what
        self.q = np.atleast_1d(variances_of(q, what))
        # By order: series of some of the variances, and where each variance is among them (-1: not yet).
        self._levels: dict[int, tuple[HermiteSeries, npt.NDArray[np.intp]]] = {}

    def _level(self, order: int, needed: npt.NDArray[np.intp]) -> tuple[HermiteSeries, npt.NDArray[np.intp]]:
        empty = HermiteSeries(np.empty(0), np.empty((order + 1, 0)), np.empty((order + 1, 0)), np.empty((2, 0)))
        series, place = self._levels.get(order, (empty, np.full(len(self.q), -1)))
        missing = needed[place[needed] < 0]
        if len(missing):
            place = place.copy()
            place[missing] = len(series.q) + np.arange(len(missing))
            more = HermiteSeries.of(self.activation, self.q[missing], order, what=self.what)
            pairs = [(getattr(series, name), getattr(more, name)) for name in ("q", "phi", "dphi", "gaps")]
            series = HermiteSeries(*(np.concatenate(pair, axis=-1) for pair in pairs))
            self._levels[order] = series, place
        return series, place

    def evaluate(self, i: Any, j: Any, rho: Array) -> tuple[Array, Array]:
        """``(k, kdot)`` between variances ``q[i]`` and ``q[j]`` at correlations rho, vectors of one length."""
        k, kdot = np.empty_like(rho), np.empty_like(rho)
        left = np.arange(len(rho))
        for order in ORDERS:
            if not len(left):
                break
            small = order * np.sqrt(np.maximum(self.q[i[left]], self.q[j[left]])) <= _MAX_TABLE
            tried = left[small]
            series, place = self._level(order, np.union1d(i[tried], j[tried]))
            a, b = place[i[tried]], place[j[tried]]
            done = series.resolves(a, b, rho[tried], self.rtol)
            here = tried[done]
            k[here], kdot[here] = series.evaluate(a[done], b[done], rho[here])
            left = np.concatenate([left[~small], tried[~done]])
        for n in left:
            k[n], kdot[n] = _square(self.activation, self.q[i[n]], rho[n], self.q[j[n]], self.what)
        return k, kdot


def dual(activation: SmoothLike, q11: Any, q12: Any, q22: Any, *, rtol: float = 1e-14) -> tuple[Any, Any]:
    """``k = E phi(u) phi(v)``, ``kdot = E phi'(u) phi'(v)`` for ``(u, v) ~ N(0, [[q11, q12], [q12, q22]])``.

    Parameters
    ----------
    activation : object with ``phi`` and ``dphi``, nonlinearity of ``fastntk.stax``, or its name
        Such as :class:`Smooth`; 'tanh', 'erf', 'relu' and the other names of :mod:`fastntk.dual`, ``numpy.tanh``. Those
        of ``fastntk.stax`` have closed forms, which are used.
    q11, q12, q22 : array_like, broadcastable
        Variances and covariance. A covariance beyond ``sqrt(q11 q22)`` by rounding counts as that bound.
    rtol : float
        Largest error left out by the method, relative to ``sqrt(E phi(u)^2 E phi(v)^2)``, and for kdot to the same of
        phi'. Rounding adds about 1e-15.

    Returns
    -------
    k, kdot : numpy.ndarray (float64) or scalar

    Raises
    ------
    TypeError
        What is no activation: a function without its derivative, another name.
    ValueError
        A negative or non-finite variance, ``|q12| > sqrt(q11 q22)``, shapes that do not broadcast, or an activation
        that is not smooth enough.

    Notes
    -----
    Cost: for each distinct variance a table of at most 2,049 coefficients, for each pair a polynomial of that degree;
    pairs that a series does not settle (tanh: q above 20 and rho near 1) take n^2 nodes each, n = 4,096 at q = 500.
    """
    activation = named(activation)
    what = f"dual of {getattr(activation, 'name', 'phi')}"
    if isinstance(activation, Nonlinearity) and not (isinstance(activation, General) and _resolvable(activation)):
        from .dual import dual as closed_form

        return closed_form(activation, *(np.asarray(q, dtype=np.float64) for q in (q11, q12, q22)))
    activation = smooth_like(activation, "dual")
    try:
        a, c, b = np.broadcast_arrays(variances_of(q11, what, "q11"), q12, variances_of(q22, what, "q22"))
    except ValueError as error:
        if "broadcast" not in str(error):
            raise
        raise ValueError(f"[{what}] shapes {[np.shape(q) for q in (q11, q12, q22)]} do not broadcast") from None
    shape = a.shape
    a, b, c = (np.asarray(x, dtype=np.float64).reshape(-1) for x in (a, b, c))
    r = np.sqrt(a) * np.sqrt(b)
    if not (np.abs(c) <= r * (1 + 1e-9)).all():
        raise ValueError(f"[{what}] |q12| must not exceed sqrt(q11 q22), given {q12!r}")
    rho = np.clip(c / np.where(r > 0, r, 1), -1, 1)
    q, index = np.unique(np.concatenate([a, b]), return_inverse=True)
    i, j = np.split(index.reshape(-1), 2)
    k, kdot = DualTable(activation, q, rtol=rtol, what=what).evaluate(i, j, rho)
    return (k.reshape(shape)[()], kdot.reshape(shape)[()])


def _resolvable(activation: General) -> bool:
    """Whether a function without closed form is smooth: its whole series is at hand."""
    return not activation.kinks()


def _square(activation: SmoothLike, q11: float, rho: float, q22: float, what: str) -> tuple[float, float]:
    """One pair by the trapezoid rule over the square, in rotated coordinates.

    Halving the step squares the error of a smooth function: agreement to 1e-9 leaves rounding. With these steps a kink
    leaves errors above 1e-6, and does not pass.
    """
    same, other = math.sqrt((1 + rho) / 2), math.sqrt((1 - rho) / 2)
    s1, s2 = math.sqrt(q11), math.sqrt(q22)
    step = first_step(max(s1, s2))
    before: Array | None = None
    while True:
        z = grid(REACH, step)
        if len(z) > _MAX_NODES_2D:
            raise ValueError(
                f"[{what}] does not converge at (q11, rho, q22) = ({q11:.6g}, {rho:.6g}, {q22:.6g}) with "
                f"{_MAX_NODES_2D}^2 nodes: the function is not smooth, or varies too fast for these variances"
            )
        weight = weight_of(z) * step
        total, size = np.zeros(2), np.zeros(2)
        rows = max(1, CHUNK // len(z))
        for start in range(0, len(z), rows):
            a = same * z[start : start + rows, None]
            w = weight[start : start + rows, None] * weight
            for n, f in enumerate((activation.phi, activation.dphi)):
                left, right = call(f, s1 * (a + other * z)), call(f, s2 * (a - other * z))
                total[n] += np.sum(w * left * right)
                size[n] += math.sqrt(np.sum(w * left * left) * np.sum(w * right * right))
        if before is not None and (np.abs(total - before) <= 1e-9 * size).all():
            return float(total[0]), float(total[1])
        before, step = total, step / 2


def __getattr__(name: str) -> NoReturn:
    raise missing("fastntk.quadrature", name, __all__)


doors(globals())
