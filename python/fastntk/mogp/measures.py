"""Laws of the variances of nodes: for each, what its sum over a layer tends to, an infinitely divisible law.

The nodes of a layer of width p have independent variances ``lam_{p,1} .. lam_{p,p}`` whose sum tends in law, as p
grows, to ``Lambda`` with ``E exp(-t Lambda) = exp(-a t - int (1 - exp(-w t)) rho(dw))``: a drift ``a >= 0`` made of
infinitely many small nodes, and the points of a Poisson process of intensity ``rho``, the Levy measure, each a node
that counts by itself (Lee et al., arXiv:2205.08187, whose assumption this is: ``p P(lam_{p,1} > w)`` tends to the tail
``rho((w, inf))``). The families are those of the paper and of its code; drifts, tails, inverses, moments and Laplace
transforms are derived here, and hold against simulation and quadrature in ``tests/test_mogp.py``.

>>> from fastntk import mogp
>>> horseshoe = mogp.Horseshoe()
>>> horseshoe.tail(4.0), horseshoe.inv_tail(0.5), horseshoe.moment(1)
(0.5, 4.0, inf)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.checks import Array, count, generator, points, positive
from .atoms import Atoms, merge


def _unwrap(values: Any) -> Any:
    """A float for an array without axes."""
    return float(values) if np.ndim(values) == 0 else np.asarray(values)


class LevyMeasure(ABC):
    """The law of a layer's node variances, at finite width and in the limit.

    Subclasses are frozen dataclasses of their parameters. Measures add: ``Iid(0.5) + Beta(2.0)``.

    Attributes
    ----------
    a : float
        The drift.
    mass : float
        ``rho((0, inf))``, mostly infinite: then infinitely many nodes count.
    """

    @property
    def a(self) -> float:
        return 0.0

    @property
    def mass(self) -> float:
        return math.inf

    # ---- what a family says of itself, for float64 arrays

    _streams = 1  # independent sequences of arrivals that its points are made of

    @abstractmethod
    def _tail(self, w: Array) -> Array: ...

    @abstractmethod
    def _inv_tail(self, x: Array) -> Array: ...

    @abstractmethod
    def _density(self, w: Array) -> Array: ...

    @abstractmethod
    def _moment(self, k: float) -> float: ...

    @abstractmethod
    def _small_mean(self, eps: Array) -> Array: ...

    @abstractmethod
    def _exponent(self, t: Array) -> Array: ...

    @abstractmethod
    def _variances(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """(..., p)."""

    def _point_mass(self, w: Array) -> Array:
        """``rho({w})``."""
        return np.zeros_like(w)

    def _remainder(self, x: Array) -> Array:
        """``int_x^inf inv_tail``: the mean of the points whose arrivals are later than x."""
        return self._small_mean(self._inv_tail(x))

    def _atoms(self, arrivals: Array) -> Atoms:
        """Points of arrivals (n, streams, n_atoms), rising along the last axis."""
        if not arrivals.shape[-1]:
            mean = self.moment(1)
            if not math.isfinite(mean):
                raise ValueError(
                    f"[sample_atoms] n_atoms = 0 leaves every point of {self!r} to its mean, which is infinite: "
                    "moment(1) = inf"
                )
            return Atoms(np.empty((len(arrivals), 0)), np.full(len(arrivals), self.a + mean))
        arrived = arrivals[:, 0]
        return Atoms(self._inv_tail(arrived), self.a + self._remainder(arrived[:, -1]))

    # ---- what is public

    def tail(self, w: Any) -> Any:
        """``rho((w, inf))`` at w >= 0.

        Raises
        ------
        TypeError, ValueError
            Of all methods: arguments that are not numbers, NaN, or outside their domain.
        """
        with np.errstate(all="ignore"):
            return _unwrap(self._tail(points(w, "w", f"{type(self).__name__}.tail")))

    def inv_tail(self, x: Any) -> Any:
        """The smallest w with ``tail(w) <= x``, at x >= 0."""
        with np.errstate(all="ignore"):
            return _unwrap(self._inv_tail(points(x, "x", f"{type(self).__name__}.inv_tail")))

    def density(self, w: Any) -> Any:
        """``rho(dw) / dw`` at w > 0.

        Raises
        ------
        ValueError
            Where rho has no density, besides the above.
        """
        with np.errstate(all="ignore"):
            return _unwrap(self._density(points(w, "w", f"{type(self).__name__}.density", zero=False)))

    def moment(self, k: float) -> float:
        """``int w^k rho(dw)`` at k > 0; infinite where it diverges. ``E Lambda = a + moment(1)``."""
        return self._moment(positive(k, "k", f"{type(self).__name__}.moment"))

    def small_mean(self, eps: Any) -> Any:
        """``int_(0, eps) w rho(dw)`` at eps >= 0: the mean of what points below eps add up to."""
        with np.errstate(all="ignore"):
            return _unwrap(self._small_mean(points(eps, "eps", f"{type(self).__name__}.small_mean")))

    def laplace(self, t: Any) -> Any:
        """``E exp(-t Lambda)`` at t >= 0, the drift included."""
        with np.errstate(all="ignore"):
            at = points(t, "t", f"{type(self).__name__}.laplace")
            drift = self.a * at if self.a else 0.0  # not 0 times infinity
            return _unwrap(np.exp(-drift - self._exponent(at)))

    def sample_atoms(self, n: int, n_atoms: int, rng: Any) -> Atoms:
        """Draws of the limit: its largest points, and the mean of the rest.

        Parameters
        ----------
        n : int
            Number of independent draws.
        n_atoms : int
            Points of each.
        rng : numpy.random.Generator or int

        Returns
        -------
        Atoms
            ``variances`` (n, n_atoms) falling along each row, zeros where a finite number of points is exhausted;
            ``bulk`` (n,), the drift and the mean of all other points. That the others are replaced by their mean
            leaves out a variance of ``int_0^eps w^2 rho(dw)``, eps the smallest point kept.

        Raises
        ------
        TypeError, ValueError
            Other numbers or generators; ``n_atoms = 0`` where ``moment(1)`` is infinite.

        References
        ----------
        Ferguson and Klass (1972), A representation of independent increment processes without Gaussian components:
        ``inv_tail`` of the arrival times of a Poisson process. Asmussen and Rosinski (2001), Approximations of small
        jumps of Levy processes.
        """
        what = f"{type(self).__name__}.sample_atoms"
        shape = (count(n, "n", what, 0), self._streams, count(n_atoms, "n_atoms", what, 0))
        steps = generator(rng, what).standard_exponential(shape)
        with np.errstate(all="ignore"):
            return self._atoms(np.cumsum(steps, axis=-1))

    def sample_variances(self, p: int, size: int | tuple[int, ...], rng: Any) -> Array:
        """Node variances at finite width: array ``(*size, p)``, independent draws.

        Parameters
        ----------
        p : int
            Width, at least 1.
        size : int or tuple of int
        rng : numpy.random.Generator or int

        Raises
        ------
        TypeError, ValueError
            A width below 1, negative sizes, other generators; a width too small for the family.

        Notes
        -----
        The sum over p nodes lacks the points smaller than about the p-th: of measures with a tail ``w^-alpha`` at zero
        a share of order ``p^(1 - 1 / alpha)``, 0.18 for p = 1000 and alpha = 0.8.
        """
        what = f"{type(self).__name__}.sample_variances"
        lead = size if isinstance(size, tuple) else (size,)
        shape = (*(count(s, "size", what, 0) for s in lead), count(p, "p", what))
        with np.errstate(all="ignore"):
            return self._variances(shape, generator(rng, what))

    def __add__(self, other: LevyMeasure) -> Sum:
        return Sum((self, other)) if isinstance(other, LevyMeasure) else NotImplemented


@dataclass(frozen=True)
class Sum(LevyMeasure):
    """Nodes whose variance is a sum of independent ones: drifts, measures and points add up.

    Parameters
    ----------
    measures : tuple of LevyMeasure
        At least one; sums among them are opened.
    """

    measures: tuple[LevyMeasure, ...]

    def __post_init__(self) -> None:
        given = tuple(self.measures) if isinstance(self.measures, (tuple, list)) else ()
        wrong = [m for m in given if not isinstance(m, LevyMeasure)]
        if not given or wrong:
            raise TypeError(f"[Sum] measures must be a tuple of Levy measures, at least one; given {self.measures!r}")
        flat = [part for m in given for part in (m.measures if isinstance(m, Sum) else (m,))]
        object.__setattr__(self, "measures", tuple(flat))

    @property
    def _jumping(self) -> tuple[LevyMeasure, ...]:
        return tuple(m for m in self.measures if m.mass > 0)

    @property
    def _streams(self) -> int:  # type: ignore[override]
        return max(1, len(self._jumping))

    @property
    def a(self) -> float:
        return math.fsum(m.a for m in self.measures)

    @property
    def mass(self) -> float:
        return math.fsum(m.mass for m in self.measures)

    def _tail(self, w: Array) -> Array:
        return np.asarray(sum(m._tail(w) for m in self.measures))

    def _density(self, w: Array) -> Array:
        return np.asarray(sum(m._density(w) for m in self.measures))

    def _moment(self, k: float) -> float:
        return math.fsum(m._moment(k) for m in self.measures)

    def _small_mean(self, eps: Array) -> Array:
        return np.asarray(sum(m._small_mean(eps) for m in self.measures))

    def _exponent(self, t: Array) -> Array:
        return np.asarray(sum(m._exponent(t) for m in self.measures))

    def _point_mass(self, w: Array) -> Array:
        return np.asarray(sum(m._point_mass(w) for m in self.measures))

    def _variances(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        return np.asarray(sum(m._variances(shape, rng) for m in self.measures))

    def _inv_tail(self, x: Array) -> Array:
        parts = self._jumping
        if not parts:
            return np.zeros_like(x)
        # The tail of one part alone exceeds x below low; none exceeds x / parts from high on.
        low = np.max([m._inv_tail(x) for m in parts], axis=0)
        high = np.max([m._inv_tail(x / len(parts)) for m in parts], axis=0)
        high = np.where(x >= self.mass, 0.0, high)
        while True:  # bisection of logarithms, until no number lies between
            middle = np.where(low > 0, np.sqrt(low) * np.sqrt(high), high / 2)
            open_ = (middle > low) & (middle < high) & np.isfinite(middle)
            if not open_.any():
                found: Array = np.where(self._tail(low) <= x, low, high)
                return found
            below = self._tail(middle) <= x
            high = np.where(open_ & below, middle, high)
            low = np.where(open_ & ~below, middle, low)

    def _remainder(self, x: Array) -> Array:
        return np.asarray(sum(m._remainder(x) for m in self.measures))  # of a single part with points

    def _atoms(self, arrivals: Array) -> Atoms:
        if len(self._jumping) < 2 or not arrivals.shape[-1]:
            return super()._atoms(arrivals)
        return merge(self._jumping, arrivals, self.a)
