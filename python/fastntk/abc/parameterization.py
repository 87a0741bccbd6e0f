"""Exponents of width in weights, initialisation and learning rates, and what they lead to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.checks import integer

Array = npt.NDArray[np.float64]

REGIMES = ("unstable", "trivial", "kernel", "feature")
_EXACT = 1e-9  # exponents closer than this are equal
_MOST_STEPS = 1000


def _exponents(name: str, value: Any, length: int | None = None) -> tuple[float, ...]:
    """A tuple of finite floats; a number counts for each of ``length`` layers."""
    if length is not None and isinstance(value, (int, float, np.integer, np.floating)):
        value = (value,) * length
    try:
        found = tuple(float(v) for v in value)
    except (TypeError, ValueError):
        raise TypeError(
            f"[Parameterization] {name} must be numbers, one for each weight layer, given {value!r}"
        ) from None
    if length is not None and len(found) != length:
        raise ValueError(f"[Parameterization] {name} has {len(found)} exponents, a has {length}")
    if not all(map(math.isfinite, found)):
        raise ValueError(f"[Parameterization] {name} must be finite, given {value!r}")
    return found


def _warm(name: str, c_first: Any, warmup: int, length: int) -> tuple[float, ...] | None:
    if (c_first is None) != (warmup == 0):
        raise ValueError(f"[Parameterization] {name} and warmup go together, given {c_first!r} and {warmup}")
    return None if c_first is None else _exponents(name, c_first, length)


@dataclass(frozen=True)
class Biases:
    """Exponents of biases ``m^(-a) beta``, ``beta ~ N(0, m^(-2 b))``, learning rate ``eta m^(-c)``.

    Parameters
    ----------
    a, b, c : sequence of float (L + 1,), or a float for all
    c_first : the same, optional
        Instead of c in the first ``warmup`` steps of the parameterization.
    """

    a: Any
    b: Any
    c: Any
    c_first: Any = None


@dataclass(frozen=True)
class Parameterization:
    """An abc-parameterization of a network with L hidden layers of width m.

    The weights of layer l = 1, ..., L + 1 are ``W^l = m^(-a_l) w^l``, with ``w^l ~ N(0, m^(-2 b_l) s_l^2)`` entrywise
    and learning rate ``eta m^(-c_l)``. :meth:`sp`, :meth:`ntk`, :meth:`mup`, :meth:`ip` and :meth:`ip_llr` make those
    that have names.

    Parameters
    ----------
    a : sequence of float (L + 1,)
    b, c : sequence of float (L + 1,), or a float for all layers
    c_first : the same, optional
        Instead of c in the first ``warmup`` steps.
    warmup : int
        0 without ``c_first``.
    bias : Biases, optional
        Without it, networks have no biases.
    name : str

    Raises
    ------
    TypeError
        Exponents that are not numbers.
    ValueError
        Lengths that differ, fewer than two weight layers, exponents that are not finite, ``c_first`` without warmup.

    References
    ----------
    Yang and Hu (2021), Feature learning in infinite-width neural networks, arXiv:2011.14522, section 3 (one c for all
    layers). One c for each layer, and its change over time: Hajjar, Chizat and Giraud (2021), Training integrable
    parameterizations of deep neural networks in the infinite-width limit, arXiv:2110.15596.
    """

    a: tuple[float, ...]
    b: Any
    c: Any
    c_first: Any = None
    warmup: int = 0
    bias: Biases | None = None
    name: str = "abc"

    def __post_init__(self) -> None:
        a = _exponents("a", self.a)
        n = len(a)
        if n < 2:
            raise ValueError(f"[Parameterization] a network has at least 2 weight layers (L = 1), given {n} exponents")
        warmup = integer("Parameterization", "warmup", self.warmup) if self.warmup else 0
        found: dict[str, Any] = {"a": a, "b": _exponents("b", self.b, n), "c": _exponents("c", self.c, n)}
        found |= {"warmup": warmup, "c_first": _warm("c_first", self.c_first, warmup, n)}
        if self.bias is not None:
            if not isinstance(self.bias, Biases):
                raise TypeError(f"[Parameterization] bias must be Biases or None, given {type(self.bias).__name__}")
            own = {name: _exponents(f"bias.{name}", getattr(self.bias, name), n) for name in "abc"}
            found["bias"] = Biases(**own, c_first=_warm("bias.c_first", self.bias.c_first, warmup, n))
        for name, value in found.items():
            object.__setattr__(self, name, value)

    # ---- those that have names

    @classmethod
    def sp(cls, L: int, c: float = 1.0, *, biases: bool = False) -> Parameterization:
        """Standard: ``a = 0, b = (0, 1/2, ..., 1/2)``, one c; 1 is the least that is stable, 0 a constant rate."""
        n = _depth("sp", L) + 1
        bias = Biases(0, 0, c) if biases else None
        return cls((0.0,) * n, (0.0,) + (0.5,) * (n - 1), c, bias=bias, name="SP")

    @classmethod
    def ntk(cls, L: int, *, biases: bool = False) -> Parameterization:
        """NTK: ``a = (0, 1/2, ..., 1/2), b = 0, c = 0``; biases of order 1."""
        n = _depth("ntk", L) + 1
        return cls((0.0,) + (0.5,) * (n - 1), 0, 0, bias=Biases((0.0,) * n, 0, 0) if biases else None, name="NTK")

    @classmethod
    def mup(cls, L: int, *, biases: bool = False) -> Parameterization:
        """Maximal update: ``a = (-1/2, 0, ..., 0, 1/2), b = 1/2, c = 0``.

        Hidden biases are as weights of the first layer, the last one of order 1.
        """
        n = _depth("mup", L) + 1
        bias = Biases((-0.5,) * (n - 1) + (0.0,), (0.5,) * (n - 1) + (0.0,), 0) if biases else None
        return cls((-0.5,) + (0.0,) * (n - 2) + (0.5,), 0.5, 0, bias=bias, name="muP")

    @classmethod
    def ip(cls, L: int, *, biases: bool = False) -> Parameterization:
        """Integrable, the mean-field limit of deep networks: ``a = (0, 1, ..., 1), b = 0, c = (-1, -2, ..., -2, -1)``.

        Biases, where wanted, are of order 1 with ``c = (-1, ..., -1, 0)``.
        """
        n = _depth("ip", L) + 1
        bias = Biases((0.0,) * n, 0, (-1.0,) * (n - 1) + (0.0,)) if biases else None
        return cls((0.0,) + (1.0,) * (n - 1), 0, (-1.0,) + (-2.0,) * (n - 2) + (-1.0,), bias=bias, name="IP")

    @classmethod
    def ip_llr(cls, L: int, warmup: int = 1, *, biases: bool = False) -> Parameterization:
        """Integrable with large initial learning rates, for ``warmup`` steps.

        Without biases ``c = (-(L + 1) / 2, -(L + 2) / 2, ..., -(L + 2) / 2, -(L + 1) / 2)``. Biases of order 1 keep
        all layers from vanishing: weights then start with ``c = (-(L + 1) / 2, -(L - l + 4) / 2, -1)`` and biases
        with ``c = (-(L - l + 2) / 2, 0)``.
        """
        later = cls.ip(L, biases=biases)
        inner = range(2, L + 1)
        steps = integer("ip_llr", "warmup", warmup)
        if later.bias is None:
            first = (-(L + 1) / 2, *(-(L + 2) / 2 for _ in inner), -(L + 1) / 2)
            return replace(later, c_first=first, warmup=steps, name="IP-LLR")
        first = (-(L + 1) / 2, *(-(L - layer + 4) / 2 for layer in inner), -1.0)
        bias = replace(later.bias, c_first=(*(-(L - layer + 2) / 2 for layer in range(1, L + 1)), 0.0))
        return replace(later, c_first=first, warmup=steps, bias=bias, name="IP-LLR")

    # ---- what they are

    @property
    def L(self) -> int:
        """Number of hidden layers."""
        return len(self.a) - 1

    def rates(self, step: int) -> tuple[float, ...]:
        """The exponents c in force at a step, counted from 0."""
        found: tuple[float, ...] = self.c if step >= self.warmup else self.c_first
        return found

    def bias_rates(self, step: int) -> tuple[float, ...]:
        """The exponents c of the biases in force at a step.

        Raises
        ------
        ValueError
            Without biases.
        """
        if self.bias is None:
            raise ValueError(f"[Parameterization] {self.name} has no biases")
        found: tuple[float, ...] = self.bias.c if step >= self.warmup else self.bias.c_first
        return found

    def for_adam(self) -> Parameterization:
        """The same with learning rates for Adam, under which every layer's update moves what it moves under SGD.

        Adam divides gradients by their size: a step changes each entry of w by ``eta m^(-c)``, whatever the gradient
        was. So ``c' = c + a - g - x``, g and x the exponents of ``df / dh^l`` and of ``x^(l-1)`` before training. muP's
        are (1/2, 1, ..., 1, 1/2).

        References
        ----------
        Yang and Littwin (2023), arXiv:2308.01814; Yang et al. (2022), arXiv:2203.03466, table 3.
        """
        state = _State(self)
        state.forward()
        state.backward(state.readout())
        x = np.concatenate([[0.0], state.h])
        g = np.append(state.g, 0.0)

        def moved(values: Any, of: Any, inputs: Any) -> Any:
            return None if values is None else tuple((np.array(values) + of - g - inputs).tolist())

        found = {"c": moved(self.c, self.a, x), "c_first": moved(self.c_first, self.a, x)}
        bias = self.bias
        if bias is not None:
            bias = replace(bias, c=moved(bias.c, bias.a, 0.0), c_first=moved(bias.c_first, bias.a, 0.0))
        return replace(self, **found, bias=bias, name=f"{self.name}, Adam")

    def shifted(self, t: float | Sequence[float]) -> Parameterization:
        """``(a + t, b - t, c - 2 t)``, biases too: the same networks and the same training, for any t, layer by layer.

        Parameters
        ----------
        t : float or sequence of float (L + 1,)
        """
        shift = _exponents("t", t, len(self.a))

        def moved(values: Any, by: float) -> Any:
            return None if values is None else tuple(v + by * s for v, s in zip(values, shift, strict=True))

        def parts(of: Any) -> dict[str, Any]:
            return {
                "a": moved(of.a, 1), "b": moved(of.b, -1), "c": moved(of.c, -2), "c_first": moved(of.c_first, -2)
            }  # fmt: skip

        bias = None if self.bias is None else Biases(**parts(self.bias))
        return replace(self, **parts(self), bias=bias)

    def is_equivalent(self, other: Parameterization) -> bool:
        """Whether the other one is this one :meth:`shifted`."""
        if self.L != other.L or self.warmup != other.warmup or (self.bias is None) != (other.bias is None):
            return False

        def invariants(p: Parameterization) -> list[float]:
            found = []
            for part in (p,) if p.bias is None else (p, p.bias):
                a = np.array(part.a)
                found += [*(a + part.b), *(2 * a + part.c)]
                if part.c_first is not None:
                    found += [*(2 * a + part.c_first)]
            return found

        return bool(np.allclose(invariants(self), invariants(other), rtol=0, atol=_EXACT))

    @property
    def r(self) -> float:
        """One update from initialisation moves the coordinates of the last hidden layer by ``m^(-r)``.

        Notes
        -----
        With one c and pre-activations of order 1, ``r = min(b_{L+1}, a_{L+1} + c) + a_{L+1} + c - 1 + min_l (2 a_l +
        1(l = 1))`` (Yang and Hu, section 3): 1/2 for NTK and SP, 0 for muP. Each layer's update counts by itself,
        seen through the layers above as initialised, and ``dh^L`` is as large as the last layer's weights after their
        first update. Where pre-activations vanish with the width instead, derived: all layers' updates together (1 for
        IP with L = 3, 0 for IP-LLR).
        """
        state = _State(self)
        state.forward()
        ordinary = bool(np.abs(state.h).max() < _EXACT)
        state.update(0)
        readout = state.readout()  # with its update
        state.w[:], state.beta[:] = -np.inf, -np.inf
        state.backward(readout)
        state.update(0)
        state.forward(first_order=ordinary)
        return 0.0 - float(state.dh[-1])

    def classify(self) -> str:
        """The regime of training at infinite width, for any fixed number of steps: see :func:`scaling`.

        Returns
        -------
        'unstable'
            Outputs or pre-activations grow with the width.
        'trivial'
            The function stays at its initialisation.
        'kernel'
            The function learns, the features of the last hidden layer do not: training is that of a fixed kernel.
        'feature'
            Both move.

        Notes
        -----
        Where Yang and Hu's theorem applies this is its outcome (tested): stable if and only if
        ``a_1 + b_1 = 0``, ``a_l + b_l = 1/2`` for hidden layers, ``a_{L+1} + b_{L+1} >= 1/2``, ``2 a_{L+1} + c >= 1``,
        ``a_{L+1} + b_{L+1} + r >= 1`` and ``r >= 0``; kernel regime for r > 0, feature learning for r = 0, trivial
        unless one of the two before is an equality. They call pre-activations that vanish unstable as well; here
        they may, as those of integrable parameterizations do.

        Integrable ones learn for L <= 2 and are trivial for L >= 3, at any fixed number of steps: for four weight
        layers and more, as in the code of Hajjar et al. (Their abstract says "more than four layers".)
        """
        state = _State(self)
        for step in range(_MOST_STEPS):
            state.forward()
            if state.largest() > _EXACT:
                return "unstable"
            before = state.snapshot()
            state.backward(state.readout())
            state.update(step)
            if step > self.warmup and np.array_equal(state.snapshot(), before):
                break
        else:
            return "unstable"  # exponents that never stop growing
        if state.df < -_EXACT:
            return "trivial"
        return "feature" if state.dh[-1] > -_EXACT else "kernel"


def _depth(what: str, L: Any) -> int:
    """The number of hidden layers, checked."""
    return integer(what, "L", L)


# ---------------------------------------------------------------- exponents in training


@dataclass(frozen=True)
class Scaling:
    """Exponents e of quantities that grow as ``m^e``; rows: before training, after the first step, ...; -inf: zero.

    Attributes
    ----------
    h, dh : numpy.ndarray (steps + 1, L)
        Coordinates of the pre-activations of hidden layers, and of their change since initialisation.
    f, df : numpy.ndarray (steps + 1,)
        The output, and its change.
    gradient : numpy.ndarray (steps + 1, L)
        Coordinates of ``df / dh^l``.
    """

    h: Array
    dh: Array
    f: Array
    df: Array
    gradient: Array


class _State:
    """Exponents at one time: ``max`` adds terms, ``+`` multiplies them.

    An initial hidden weight matrix, independent of what it multiplies, turns coordinates of order 1 into ``m^(1/2 -
    alpha)``; an update is a product of vectors and adds up coherently, over m coordinates from the second layer on; so
    does the initial last layer against changes of ``h^L``, which point along it.
    """

    def __init__(self, parameterization: Parameterization) -> None:
        p = self.p = parameterization
        n = p.L
        self.alpha = np.array(p.a) + p.b  # of the initial weights, entrywise
        self.w = np.full(n + 1, -np.inf)  # of their update
        self.initial_beta = -np.array(p.bias.a) - p.bias.b if p.bias is not None else np.full(n + 1, -np.inf)
        self.beta = np.full(n + 1, -np.inf)
        self.h, self.dh, self.g = np.zeros(n), np.full(n, -np.inf), np.zeros(n)
        self.f = self.df = -math.inf

    def forward(self, first_order: bool = False) -> None:
        """h, dh, f and df; first order: changes of one layer's weights alone."""
        x, dx = 0.0, -math.inf
        n = self.p.L
        for i in range(n):
            random = -self.alpha[i] + (0.5 if i else 0.0)
            coherent = self.w[i] + (1.0 if i else 0.0)
            start = max(x + random, self.initial_beta[i])
            through = random if first_order else max(random, coherent)
            change = max(dx + through, x + coherent, self.beta[i])
            self.dh[i], self.h[i] = change, start if first_order else max(start, change)
            x, dx = self.h[i], self.dh[i]
        last, coherent = -self.alpha[n], self.w[n] + 1
        self.df = max(dx + max(last + 1, coherent), x + coherent, self.beta[n])
        self.f = max(x + last + 0.5, self.initial_beta[n], self.df)

    def readout(self) -> float:
        """Of the last layer's weights."""
        return float(max(-self.alpha[-1], self.w[-1]))

    def backward(self, readout: float) -> None:
        g = readout
        for i in range(self.p.L - 1, -1, -1):
            self.g[i] = g
            g += max(0.5 - self.alpha[i], self.w[i] + 1)

    def update(self, step: int) -> None:
        """One step of gradient descent, the derivative of the loss by the output being of order 1."""
        g = np.append(self.g, 0.0)
        x = np.concatenate([[0.0], self.h])
        self.w = np.maximum(self.w, -2 * np.array(self.p.a) - self.p.rates(step) + g + x)
        if self.p.bias is not None:
            self.beta = np.maximum(self.beta, -2 * np.array(self.p.bias.a) - self.p.bias_rates(step) + g)

    def largest(self) -> float:
        return float(max(self.h.max(), self.f))

    def snapshot(self) -> Array:
        return np.concatenate([self.w, self.beta, self.h, self.dh, [self.f, self.df]])


def scaling(parameterization: Parameterization, steps: int = 1) -> Scaling:
    """How quantities grow with the width during training: exponents, without training anything.

    Parameters
    ----------
    parameterization : Parameterization
    steps : int
        Of gradient descent.

    Returns
    -------
    Scaling

    Raises
    ------
    FloatingPointError
        A parameterization whose outputs grow with the width: the loss' derivative then grows too.

    Notes
    -----
    [Derived.] For activations that behave as linear functions in scale (rectifiers; smooth ones where pre-activations
    stay of order 1 or vanish), inputs and derivatives of the loss of order 1, and generic data: terms that could
    cancel do not. Checked against networks by :func:`fastntk.abc.coordinate_check`.
    """
    count = integer("scaling", "steps", steps)
    state = _State(parameterization)
    rows = []
    for step in range(count + 1):
        state.forward()
        if state.largest() > _EXACT and step < count:
            raise FloatingPointError(
                f"[scaling] {parameterization.name} is unstable: after {step} steps a pre-activation or the output "
                f"grows as m^{state.largest():g}, and exponents of later steps mean nothing"
            )
        state.backward(state.readout())
        rows.append((state.h.copy(), state.dh.copy(), state.f, state.df, state.g.copy()))
        if step < count:
            state.update(step)
    return Scaling(*(np.array(column) + 0.0 for column in zip(*rows, strict=True)))  # no -0.0
