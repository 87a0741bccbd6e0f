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
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from .base.arraylike import as_reals, describe
from .base.door import doors
from .base.names import missing
from .network.activation_like import TANH as TANH
from .network.activation_like import Function as Function
from .network.activation_like import Smooth, SmoothLike, named, smooth_like
from .network.activations import Nonlinearity

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

RTOL = 1e-13  # two results that agree to this are taken for converged; the finer one is then far closer
ORDERS = (32, 128, 256, 512, 1024, 2048)  # of Hermite series; tanh needs the last near q = 20 for rho = 1
_MAX_NODES = 2**20  # of one dimension
_MAX_NODES_2D = 2**12  # a side of the square
_MAX_TABLE = 2**15  # order times sqrt(q): what a table of Hermite functions grows with, 60 MiB here
_GAP = 1e-15  # a difference of sums that cannot be told from 0
_STEP = 0.25  # in z, before any halving
_STEP_X = 0.5  # in x = sqrt(q) z: functions are taken to vary on a scale of 1
_REACH = 12.0  # |z| of the outermost node; the weight there is 2e-32
_MAX_REACH = 27.0  # the weight there is 4e-159; the next reach would underflow
_CHUNK = 2**20  # numbers looked at in one go


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
    activation = smooth_like(activation, what)
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
    left = expectation(lambda x: x * _call(phi, x + 0.5), what=what)
    right = expectation(lambda x: _call(dphi, x + 0.5), what=what)
    if not abs(left - right) <= 1e-8 * max(abs(left), abs(right), 1e-8):
        raise ValueError(
            f"[{what}] dphi of {name} is not the derivative of phi: E z phi(z + 1/2) = {left:.9g}, "
            f"E dphi(z + 1/2) = {right:.9g}"
        )
    return Smooth(phi, dphi, name)


def _call(f: Function, x: Array) -> Array:
    return np.asarray(f(x), dtype=np.float64)


def _squared(f: Function) -> Function:
    return lambda x: _call(f, x) ** 2


def _grid(reach: float, step: float) -> Array:
    """The nodes of a trapezoid rule, symmetric about 0."""
    end = round(reach / step)
    return np.arange(-end, end + 1, dtype=np.float64) * step


def _variances(q: Any, what: str, name: str = "q") -> Array:
    array = as_reals(q, name, what)
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(f"[{what}] {name} is a variance: finite and not negative, given {q!r}")
    return array


def _weight(z: Array) -> Array:
    return np.asarray(np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi))


def expectation(g: Function, q: Any = 1.0, *, rtol: float = RTOL, what: str = "expectation") -> Any:
    """``E g(sqrt(q) z)``, z standard normal, by the trapezoid rule.

    Parameters
    ----------
    g : callable
        From a float64 array of any shape to an array of that shape; smooth, varying on a scale of 1 or more.
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
        agreement with 2^20 nodes (g has kinks, or jumps).

    Notes
    -----
    With step h the error is ``exp(-2 pi d / h)``, d the distance in z of g's nearest pole from the real axis
    (Trefethen and Weideman 2014, SIAM Review 56, 385, theorem 5.1). A feature much narrower than 1/4 in z and 1/2 in
    x = sqrt(q) z, away from x = 0, can be missed.
    """
    variances = _variances(q, what)
    flat = variances.reshape(-1)
    result = np.empty_like(flat)
    for part in _parts(flat):
        result[part] = _trapezoid(g, np.sqrt(flat[part]), rtol, what)[0]
    return result.reshape(variances.shape) if variances.ndim else float(result[0])


def _parts(q: Array) -> list[npt.NDArray[np.intp]]:
    """Places of variances of like size: they share a step."""
    return np.array_split(np.argsort(q, kind="stable"), -(-len(q) // 256)) if len(q) else []


def _first_step(scale: float) -> float:
    return min(_STEP, _STEP_X / min(max(scale, 1e-300), 100.0))


def _trapezoid(g: Function, scale: Array, rtol: float, what: str) -> tuple[Array, float, float]:
    """``E g(scale z)``, the step that was fine enough for all, and the reach."""
    reach = _REACH
    step = _first_step(float(scale.max(initial=0.0)))
    while True:
        nodes = _grid(reach, step)
        terms = _terms(g, scale, nodes, what)
        total, size = terms.sum(axis=1) * step, np.abs(terms).sum(axis=1) * step
        tail = np.maximum(np.abs(terms[:, 0]), np.abs(terms[:, -1]))
        if (tail <= 1e-17 * size).all():
            break
        if reach >= _MAX_REACH:
            raise ValueError(f"[{what}] has no expectation at variance {scale.max() ** 2:.6g}: it grows too fast")
        reach *= 1.5
    while True:
        between = nodes[:-1] + step / 2
        terms = _terms(g, scale, between, what)
        finer, size = total / 2 + terms.sum(axis=1) * step / 2, size / 2 + np.abs(terms).sum(axis=1) * step / 2
        if (np.abs(finer - total) <= rtol * size).all():
            return finer, step / 2, reach
        step /= 2
        if 2 * reach / step > _MAX_NODES:
            raise ValueError(
                f"[{what}] does not converge at variance {scale.max() ** 2:.6g}: the function is not smooth "
                f"(results with {len(nodes)} and {2 * len(nodes)} nodes differ by "
                f"{np.max(np.abs(finer - total) / np.maximum(size, 1e-300)):.1e})"
            )
        total = finer
        nodes = _grid(reach, step)


def _terms(g: Function, scale: Array, z: Array, what: str) -> Array:
    """``g(scale z) w(z)``, one row for each scale."""
    out = np.empty((len(scale), len(z)))
    rows = max(1, _CHUNK // len(z))
    weight = _weight(z)
    for start in range(0, len(scale), rows):
        with np.errstate(all="ignore"):
            values = _call(g, scale[start : start + rows, None] * z)
        if values.shape != (len(scale[start : start + rows]), len(z)):
            raise TypeError(f"[{what}] the function must keep its argument's shape, given {values.shape}")
        # Far out a weight of 0 meets what may have overflowed.
        out[start : start + rows] = np.where(weight > 0, values, 0.0) * weight
    if not np.isfinite(out).all():
        raise ValueError(f"[{what}] is not finite for |x| <= {np.max(scale) * np.max(np.abs(z)):.6g}")
    return out


# ---------------------------------------------------------------- Hermite series


@lru_cache(maxsize=2)
def _hermite_functions(order: int, step: float, reach: float) -> tuple[Array, Array, Array]:
    """Nodes z, ``h_l(z) sqrt(w(z))`` for l = 0 .. order, and ``sqrt(w(z)) step``; read-only."""
    z = _grid(reach, step)
    root = np.sqrt(_weight(z))
    table = np.empty((order + 1, len(z)))
    table[0] = root
    if order:
        table[1] = z * root
    for n in range(2, order + 1):
        table[n] = (z * table[n - 1] - math.sqrt(n - 1) * table[n - 2]) / math.sqrt(n)
    result = (z, table, root * step)
    for array in result:
        array.setflags(write=False)
    return result


def hermite_coefficients(f: Function, q: Any, order: int, *, what: str = "hermite_coefficients") -> Array:
    """``a_l(q) = E f(sqrt(q) z) h_l(z)`` with normalised Hermite polynomials, ``E h_l h_m = (l == m)``.

    Parameters
    ----------
    f : callable
        Smooth, as for :func:`expectation`.
    q : array_like, not negative
    order : int
        Largest l.

    Returns
    -------
    numpy.ndarray (*q.shape, order + 1)
        Each with an error of about 1e-15 of ``sqrt(E f^2)``.

    Raises
    ------
    ValueError
        As :func:`expectation`, for ``f^2``.
    """
    if order < 0:
        raise ValueError(f"[{what}] order must not be negative, given {order}")
    variances = _variances(q, what)
    flat = variances.reshape(-1)
    coefficients = np.empty((len(flat), order + 1))
    for part in _parts(flat):
        scale = np.sqrt(flat[part])
        _, step, reach = _trapezoid(_squared(f), scale, RTOL, what)
        # The spectrum of h_l w ends near sqrt(l): that much more must be resolved. To a power of 2, for the cache.
        fine = 1 / (1 / step + (math.sqrt(order) + 6) / (2 * math.pi))
        z, table, weight = _hermite_functions(order, 2.0 ** math.floor(math.log2(fine)), reach)
        values = _call(f, scale[:, None] * z)
        coefficients[part] = (values * weight) @ table.T
    return coefficients.reshape(*variances.shape, order + 1)


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
        activation, variances = smooth_like(activation, what), np.atleast_1d(_variances(q, what))
        both = []
        gaps = np.empty((2, len(variances)))
        for i, f in enumerate((activation.phi, activation.dphi)):
            a = hermite_coefficients(f, variances, order, what=what)
            square = expectation(_squared(f), variances, what=what)
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
        self.q = np.atleast_1d(_variances(q, what))
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
    if isinstance(activation, Nonlinearity):
        from .dual import dual as closed_form

        return closed_form(activation, *(np.asarray(q, dtype=np.float64) for q in (q11, q12, q22)))
    activation = smooth_like(activation, "dual")
    try:
        a, c, b = np.broadcast_arrays(_variances(q11, what, "q11"), q12, _variances(q22, what, "q22"))
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


def _square(activation: SmoothLike, q11: float, rho: float, q22: float, what: str) -> tuple[float, float]:
    """One pair by the trapezoid rule over the square, in rotated coordinates.

    Halving the step squares the error of a smooth function: agreement to 1e-9 leaves rounding. With these steps a kink
    leaves errors above 1e-6, and does not pass.
    """
    same, other = math.sqrt((1 + rho) / 2), math.sqrt((1 - rho) / 2)
    s1, s2 = math.sqrt(q11), math.sqrt(q22)
    step = _first_step(max(s1, s2))
    before: Array | None = None
    while True:
        z = _grid(_REACH, step)
        if len(z) > _MAX_NODES_2D:
            raise ValueError(
                f"[{what}] does not converge at (q11, rho, q22) = ({q11:.6g}, {rho:.6g}, {q22:.6g}) with "
                f"{_MAX_NODES_2D}^2 nodes: the function is not smooth, or varies too fast for these variances"
            )
        weight = _weight(z) * step
        total, size = np.zeros(2), np.zeros(2)
        rows = max(1, _CHUNK // len(z))
        for start in range(0, len(z), rows):
            a = same * z[start : start + rows, None]
            w = weight[start : start + rows, None] * weight
            for n, f in enumerate((activation.phi, activation.dphi)):
                left, right = _call(f, s1 * (a + other * z)), _call(f, s2 * (a - other * z))
                total[n] += np.sum(w * left * right)
                size[n] += math.sqrt(np.sum(w * left * left) * np.sum(w * right * right))
        if before is not None and (np.abs(total - before) <= 1e-9 * size).all():
            return float(total[0]), float(total[1])
        before, step = total, step / 2


def __getattr__(name: str) -> NoReturn:
    raise missing("fastntk.quadrature", name, __all__)


doors(globals())
