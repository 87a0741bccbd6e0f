"""What a predictor keeps of its training points: copies of what it was given, and each factorisation, made once."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arraylike import refuse_masked
from .early import LEAST, Early, early
from .linalg import (
    Cholesky,
    Conditioning,
    Spectrum,
    absolute_reg,
    given_array,
    gram_figures,
    largest_eigenvalue,
    mirrored,
    namespace,
)
from .targets import Targets
from .tiles import Prediction, Solved, Units
from .units import in_columns, in_units, unit_of

Array = npt.NDArray[Any]  # or CuPy's


def copied(x: Any, name: str, what: str) -> Any:
    """``x``, called ``name`` in messages, with copies of its arrays: for what is kept longer than a call.

    Tuples and lists are looked into.

    Raises
    ------
    TypeError
        For masked arrays.
    """
    refuse_masked(x, name, what)
    if isinstance(x, (tuple, list)):
        parts = [copied(part, f"{name}[{k}]", what) for k, part in enumerate(x)]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    if isinstance(x, np.ndarray):
        return np.array(x)
    if not hasattr(x, "shape"):
        return x
    for name in ("clone", "copy"):  # PyTorch's, and everybody else's
        if callable(getattr(x, name, None)):
            return getattr(x, name)()
    return x


class Gram:
    """A kernel of the training points, which nobody else can change, and its factorisations.

    Parameters
    ----------
    k : array (n, n)
    diag_reg, absolute : float, bool
        As given by the user.
    dtype : numpy.dtype
        What is computed in, and what the kernel is kept in.
    what : str
        The caller's name, for messages.
    own : bool
        Nobody else has the array: no copy is made.

    Attributes
    ----------
    entry : numpy.dtype
        Of ``k``.
    reg : float
        What is added to the diagonal, in the caller's units.
    unit : float
        That of the kernel as it is kept, and of what is solved for.

    Notes
    -----
    In host memory the Cholesky factor takes the place of one triangle of the kernel, unless :attr:`kernel` has been
    asked for before, and the kernel is made anew from the other triangle when it is asked for later. Both have the
    same bits, and what is handed out is never written to: no result depends on what was asked for before. Calls from
    several threads wait for each other's factorisations.
    """

    def __init__(
        self, k: Array, diag_reg: float, absolute: bool, dtype: np.dtype[Any], what: str, own: bool = False
    ) -> None:
        _, asymmetry = gram_figures(k, what)
        xp = namespace(k, what=what)
        self.entry, self.dtype, self.what = np.dtype(k.dtype.newbyteorder("=")), dtype, what
        self.reg = absolute_reg(k, diag_reg, absolute, what)
        self.unit = unit_of(k.diagonal(), self.reg)
        usable = own and k.dtype == dtype and k.flags.c_contiguous
        if usable:
            held = k
            held *= held.dtype.type(1 / self.unit)
        else:
            held = in_units(k, self.unit, dtype, "C")
        self._in_place, self._n = xp is np, len(k)
        if self._in_place and asymmetry:  # the triangle that is factorised
            mirrored(held.T, held.diagonal().copy())
        self._kernel: Array | None = held
        self._lent = False
        self._cholesky: Cholesky | None = None
        self._spectrum: Spectrum | None = None
        self._early: tuple[bytes, Early | None] = b"", None  # of the times asked for last
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock())

    def _whole(self) -> Array:
        if self._kernel is None:
            assert self._cholesky is not None
            self._kernel = self._cholesky.kernel()
        return self._kernel

    @property
    def kernel(self) -> Array:
        """The kernel (n, n) in its unit, to be read."""
        with self._lock:
            self._lent = True
            return self._whole()

    def largest(self) -> float:
        """The largest eigenvalue of the kernel and what is added, in the caller's units."""
        return largest_eigenvalue(self.kernel, self.what) * self.unit + self.reg

    def cholesky(self) -> Cholesky:
        with self._lock:
            if self._cholesky is None:
                k, there = self._whole(), self._in_place and not self._lent
                self._cholesky = Cholesky(
                    k, self.reg, self.what, self.dtype, overwrite=there, entry=self.entry, unit=self.unit, divided=True
                )
                if there:
                    self._kernel = None
            return self._cholesky

    def spectrum(self) -> Spectrum:
        with self._lock:
            if self._spectrum is None:
                self._spectrum = Spectrum(
                    self._whole(), self.reg, self.what, self.dtype, entry=self.entry, unit=self.unit, divided=True
                )
            return self._spectrum

    def early(self, tau: Array | None) -> Early | None:
        """Means at these times without an eigendecomposition; None: that is the way for them, or for this kernel."""
        with self._lock:
            if tau is None or not self._in_place or len(self) < LEAST:
                return None
            key = tau.tobytes()
            if self._early[0] != key:
                self._early = key, early(self.kernel, self.reg / self.unit, self.unit, tau, self.entry)
            return self._early[1]

    def __len__(self) -> int:
        return self._n

    @property
    def conditioning(self) -> Conditioning | None:
        """Of the factorisation made; of Cholesky where there are two, None where there is none."""
        made = self._cholesky or self._spectrum or self._early[1]
        return None if made is None else made.conditioning


class Grams:
    """The kernels of the training points by name, and the targets.

    Parameters
    ----------
    targets, y : Targets, array
    diag_reg, absolute : float, bool
        As given by the user.
    dtype : numpy.dtype
        What is computed in.
    """

    def __init__(self, targets: Targets, y: Array, diag_reg: float, absolute: bool, dtype: np.dtype[Any]) -> None:
        self.targets, self.y, self.dtype, self.what = targets, copied(y, "y_train", targets.what), dtype, targets.what
        self.scale, self.matrix = in_columns(targets.matrix(y), dtype)
        self._diag_reg, self._absolute = diag_reg, absolute
        self._grams: dict[str, Gram] = {}
        self._weights: dict[str, Array] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._grams

    def __getitem__(self, name: str) -> Gram:
        return self._grams[name]

    def add(self, name: str, k: Array, given: str, own: bool = False) -> None:
        """Take a kernel of the training points, called ``given`` in messages; ``own``: nobody else has the array."""
        k = given_array(k, given, self.what, real=False)
        namespace(k, self.y, what=self.what)
        matrix = self.targets.train(k, given)
        self._grams[name] = Gram(matrix, self._diag_reg, self._absolute, self.dtype, self.what, own)

    def share(self, name: str, other: str) -> None:
        """Let ``name`` be the kernel ``other`` too."""
        self._grams[name] = self._grams[other]

    def weights(self, name: str) -> Array:
        """``(K + diag_reg)^-1 Y``, (n, o), in units of the kernel and of the outputs."""
        if name not in self._weights:
            self._weights[name] = self[name].cholesky().solve(self.matrix)
        return self._weights[name]

    def units(self) -> Units:
        return Units({name: gram.unit for name, gram in self._grams.items()}, self.scale)

    def conditioning(self) -> dict[str, Conditioning]:
        """Of the factorisations made so far, by kernel; of Cholesky where there are two."""
        made = {name: gram.conditioning for name, gram in self._grams.items()}
        return {name: found for name, found in made.items() if found is not None}

    def endless(self, g: str, covariance: bool) -> Prediction:
        """The prediction 'nngp', 'ntk' or 'ntkgp' after training without end, or of exact inference."""
        kernel = "nngp" if g == "nngp" else "ntk"
        prior = "ntk" if g == "ntkgp" else "nngp"
        other = self["nngp"] if g == "ntk" and covariance else None
        response = Solved(self[kernel].cholesky())
        return Prediction(kernel, prior if covariance else kernel, self.weights(kernel)[None], response, other)
