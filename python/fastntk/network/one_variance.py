"""Maps of the correlation alone: any function whose inputs all have one variance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.polynomial import Polynomial

from .expectations import Function
from .hermite import Coefficients, Hinges, Whole
from .hinges import hinge_parts

Array = npt.NDArray[np.float64]
Slopes = Callable[[Array], tuple[Array, Array]]  # of w: kdot q / V at rho = 1 - w and at rho = w - 1

DEGREES = (6, 8, 10, 12, 16, 20, 24, 28, 32, 36)
_FRESH = ((np.arange(97) + 0.5) / 97) ** 1.5  # of s = sqrt(w)


@dataclass(frozen=True, eq=False)
class Shared:
    """kdot q / V as the sum of an odd and an even part's polynomials in ``s = sqrt(w)``, at one variance.

    Attributes
    ----------
    q, variance, mean : float
        Of inputs, and of outputs.
    power : float
        ``d log V / d log q``.
    odd, even : tuple of float
        Coefficients of the part of kdot that is even in rho (of odd degrees), and of the other.
    odd_share : float
        What odd degrees have of ``rho' = 1``.
    error : float
        Largest seen, of both.
    """

    q: float
    variance: float
    mean: float
    power: float
    odd: tuple[float, ...]
    even: tuple[float, ...]
    odd_share: float
    error: float


def shared_of(
    slopes: Slopes, moments: tuple[float, float, float, float], single: bool, degrees: tuple[int, ...] = DEGREES
) -> Shared | None:
    """Polynomials of one of these degrees for a map with these slopes; None where none is enough.

    ``moments``: q, variance, mean and power.
    """
    rtol = 3e-7 if single else 5e-13
    s = _FRESH if degrees == DEGREES else _FRESH[::4]
    fresh = slopes(s**2)
    for degree in degrees:
        found = _polynomials(slopes, degree)
        error = max(
            float(np.abs(_horner(own, s) - part).max()) for own, part in zip(found, _by_parity(*fresh), strict=True)
        )
        if error <= rtol:
            odd, even = (tuple(own.tolist()) if np.abs(own).max() > 1e-14 else () for own in found)
            share = math.fsum(2 * c / (j + 2) for j, c in enumerate(odd)) if even or moments[2] else 1.0
            return Shared(*moments, odd, even, share, error)
    return None


def _by_parity(near: Array, far: Array) -> tuple[Array, Array]:
    return (near + far) / 2, (near - far) / 2


def _horner(coefficients: Any, s: Any) -> Any:
    found = np.zeros_like(s)
    for c in coefficients[::-1]:
        found = found * s + c
    return found


def _polynomials(slopes: Slopes, degree: int) -> list[Any]:
    place = np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    return [_polynomial(place, values, degree) for values in _by_parity(*slopes(((place + 1) / 2) ** 2))]


def _polynomial(place: Array, values: Array, degree: int) -> Any:
    series = np.polynomial.chebyshev.chebfit(place, values, degree)
    # To powers of s in longer numbers: what cancels there is lost here.
    own = [np.longdouble(c) for c in series]
    total = Polynomial(np.zeros(1, np.longdouble))
    before, now = Polynomial(np.ones(1, np.longdouble)), Polynomial(np.array([-1, 2], np.longdouble))
    twice = Polynomial(np.array([-2, 4], np.longdouble))
    for c in own:
        total, before, now = total + c * before, now, twice * now - before
    return np.asarray(total.coef, dtype=np.float64)


def series_slopes(fn: Function, q: float, hinges: Hinges, kinked: bool, single: bool, what: str) -> Slopes:
    """The slopes of a function by its whole series, and its hinges."""
    source = Coefficients(fn, q, kinked, what)
    whole = Whole(source, np.array([q]), 1e-8 if single else 1e-14, what)
    hinge = (hinges.parts(np.array([q]))[:, 0, 0] / whole.size[0]) ** 2

    def slopes(w: Array) -> tuple[Array, Array]:
        found = []
        log = np.log1p(-np.minimum(w, 1 - 1e-16))[:, None]
        for parity, part in enumerate(whole.parts):
            p = part.counts * part.degrees * (part.g[:, 0] ** 2 - hinge[parity] * part.hinge[:, 0] ** 2)
            found.append(np.exp(log * (part.degrees - 1)) @ p + hinge[parity] * hinge_parts(w, parity)[1][0])
        return found[1] + found[0], found[1] - found[0]

    return slopes


def moments_of(fn: Function, q: float, kinked: bool, what: str) -> tuple[float, float, float, float]:
    """q, the variance and the mean of the output, and how the variance grows."""
    step = 1e-4
    at = q * np.array([1, 1 + step, 1 - step])
    source = Coefficients(fn, float(at.max()), kinked, what)
    variance = source.square(at)
    mean = source.at(at[:1], np.arange(1))[0, 0]
    power = math.log(variance[1] / variance[2]) / math.log((1 + step) / (1 - step)) if variance.min() > 0 else 0.0
    return q, float(variance[0]), float(mean) if abs(mean) > 1e-14 * math.sqrt(variance[0]) else 0.0, power
