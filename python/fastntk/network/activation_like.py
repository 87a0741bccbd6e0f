"""What counts as an activation where smooth functions are wanted: objects with phi and dphi, and names for some."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..base.arraylike import describe
from .activations import GENERAL, NONLINEARITIES, Nonlinearity
from .activations.nonlinearity import derivative

Array = npt.NDArray[np.float64]
Function = Callable[[Array], Any]


class SmoothLike(Protocol):
    """A smooth nonlinearity: ``phi`` and its derivative ``dphi``, from a float64 array to one of its shape."""

    @property
    def phi(self) -> Function: ...

    @property
    def dphi(self) -> Function: ...


@dataclass(frozen=True)
class Smooth:
    """A smooth nonlinearity by its function and its derivative.

    Parameters
    ----------
    phi, dphi : callable
        From a float64 array to an array of the same shape. Analytic near the real axis, varying on a scale of about 1.
    name : str
        What errors call it.
    """

    phi: Function
    dphi: Function
    name: str = "phi"


def _sech2(x: Array) -> Array:
    e = np.exp(-2 * np.abs(x))  # cosh would overflow, 1 - tanh^2 cancels
    return np.asarray(4 * e / (1 + e) ** 2)


TANH = Smooth(np.tanh, _sech2, "tanh")


@lru_cache(maxsize=1)
def plain_names() -> tuple[str, ...]:
    """Names of nonlinearities that need no arguments, in small letters; callers take them in any."""

    def plain(kind: Any) -> bool:
        return all(p.default is not inspect.Parameter.empty for p in inspect.signature(kind).parameters.values())

    return tuple(sorted({*GENERAL, *(name for name, (kind, _) in NONLINEARITIES.items() if plain(kind))}))


def named(activation: Any) -> Any:
    """What a name, a layer's class or NumPy's function stands for; others as they are."""
    if activation is np.tanh or (isinstance(activation, str) and activation.lower() == "tanh"):
        return TANH
    if isinstance(activation, str) and activation.lower() in NONLINEARITIES:
        activation = NONLINEARITIES[activation.lower()][0]
    elif isinstance(activation, str) and activation.lower() in GENERAL:
        activation = GENERAL[activation.lower()]
    if isinstance(activation, type) and issubclass(activation, Nonlinearity):
        try:
            return activation()
        except TypeError:
            raise TypeError(
                f"[dual] {activation.__name__} has parameters: give a layer, such as stax.{activation.__name__}(...)"
            ) from None
    return activation


def layer_named(activation: Any) -> Any:
    """The layer that a name stands for; others as they are."""
    found = GENERAL["tanh"]() if isinstance(activation, str) and activation.lower() == "tanh" else named(activation)
    return found if isinstance(activation, (str, type)) else activation


def smooth_of(layer: Nonlinearity) -> Smooth:
    """A layer's function and its derivative: its own, or what its text gives for numbers that carry derivatives."""

    def phi(x: Array) -> Any:
        return layer.apply((), np.asarray(x, dtype=np.float64), np)

    def dphi(x: Array) -> Any:
        return derivative(layer, np.asarray(x, dtype=np.float64))

    return Smooth(phi, dphi, type(layer).__name__)


def no_activation(given: Any, what: str) -> TypeError:
    names = ", ".join(repr(name) for name in sorted({*GENERAL, *NONLINEARITIES}))
    text = repr(given) if isinstance(given, str) else getattr(given, "__name__", describe(given))
    return TypeError(
        f"[{what}] a nonlinearity is an object with functions phi and dphi (fastntk.quadrature.Smooth(phi, dphi) makes "
        f"one of a function and its derivative), a nonlinearity of fastntk.stax or one of {names}; given {text}"
    )


def smooth_like(activation: Any, what: str) -> SmoothLike:
    """An activation with ``phi`` and ``dphi``, perhaps by name.

    Raises
    ------
    TypeError
        Anything else.
    """
    found: Any = named(activation)
    if isinstance(found, Nonlinearity):
        return smooth_of(found)
    if not all(callable(getattr(found, name, None)) for name in ("phi", "dphi")):
        raise no_activation(activation, what)
    given: SmoothLike = found
    return given
