"""Series whose coefficients are integrals at the very variances, where no interpolation of them keeps the digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.jet import Jet
from .expectations import Function
from .hermite import Coefficients, Whole
from .short_series import TINY, Fit, error_of

Array = npt.NDArray[np.float64]

_CHUNK = 1 << 22  # values of the function at a time


@dataclass(frozen=True, eq=False)
class ExactFit(Fit):
    """A series of some terms, or of all: ``a_l(q)`` and ``E phi^2`` by integrals, for each variance that comes."""

    source: Coefficients

    def _interpolated(self, q: Any, xp: Any) -> Any:
        if xp is not np:  # the function is called in host memory
            return xp.asarray(self._integrals(q.get(), False)[0])
        if isinstance(q, Jet):
            value, slope = self._integrals(q.value, True)
            return Jet(value, {key: slope * of for key, of in q.slopes.items()})
        return self._integrals(np.asarray(q), False)[0]

    def _integrals(self, q: Array, sloped: bool) -> tuple[Array, Array]:
        """``a_l`` times the root of its weight and ``E phi^2``, (terms + 1, *q.shape), and their derivatives in q.

        ``2 q d a_l / dq = l a_l + sqrt((l + 1) (l + 2)) a_(l + 2)``, by parts.
        """
        own, at = np.unique(np.maximum(np.minimum(q, self.high), TINY).ravel(), return_inverse=True)
        degrees = np.array(self.degrees, np.int64)
        wanted = np.unique(np.concatenate([degrees, degrees + 2])) if sloped else np.sort(degrees)
        found, slopes = (np.empty((len(degrees) + 1, len(own))) for _ in range(2))
        step = max(1, _CHUNK // self.source.nodes_of(int(wanted[-1])))
        for start in range(0, len(own), step):
            part = slice(start, start + step)
            table = self.source.at(own[part], wanted)
            a = table[np.searchsorted(wanted, degrees)]
            found[:-1, part], found[-1, part] = a, self.source.square(own[part])
            if sloped:
                after = table[np.searchsorted(wanted, degrees + 2)]
                real = degrees[:, None].astype(np.float64)
                slopes[:-1, part] = (real * a + np.sqrt((real + 1) * (real + 2)) * after) / (2 * own[part])
                slopes[-1, part] = self.source.slope_of_square(own[part])
        factors = np.append(np.sqrt(np.abs(self.weights)), 1.0)[:, None]
        shape = (len(factors), *q.shape)
        return (found * factors)[:, at].reshape(shape), (slopes * factors)[:, at].reshape(shape)


def exact_fit(fn: Function, short: Sequence[Fit], owed: float, single: bool, what: str) -> ExactFit:
    """The terms of one of some short series where they are enough once they are exact, else all of the whole one.

    Parameters
    ----------
    fn : callable
        Analytic near the line.
    short : sequence of Fit
        Whose errors are larger than what is ``owed``.
    single : bool
        For results in float32.
    what : str
        What errors call the function.

    Raises
    ------
    ValueError
        A function that varies too fast for these variances.
    """
    high = short[0].high
    source, rtol = Coefficients(fn, high, False, what), 2e-7 if single else 5e-13
    for each in short:
        own = {name: getattr(each, name) for name in Fit.__dataclass_fields__}
        found = ExactFit(**{**own, "error": 0.0}, source=source)
        found = replace(found, error=error_of(found, source, rtol, single, what, fine=False))
        if found.error <= owed:
            return found
    whole = Whole(source, high * np.array([1e-6, 1 / 256, 0.05, 0.3, 1.0]), rtol, what)
    size = np.abs(whole.table).max(axis=1)
    used = [list(range(parity, len(size), 2)) for parity in (0, 1)]
    degrees = tuple(k for of in used if size[of].max(initial=0) > 1e-16 for k in of)
    n = len(degrees)
    own |= {"degrees": degrees, "signs": (1,) * n, "weights": (1.0,) * n, "parts": ((0.0,),) * n, "error": rtol / 10}
    found = ExactFit(**own, source=source)
    return replace(found, error=error_of(found, source, rtol, single, what, fine=False))
