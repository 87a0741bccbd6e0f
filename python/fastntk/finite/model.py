"""Ensembles of finite networks in PyTorch: what is trained, what it is multiplied with, and how fast it moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..network.combinators import Parallel
from ..network.layer import Layer
from .places import Walk, as_ntk, input_axis, leaves_of, rebuilt, walk_of, width_of
from .quick import needed, quick

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Role:
    """What one trained array is: weights (True), biases (False) or other numbers (None), of which weight layer."""

    kind: bool | None
    layer: int


def _roles(network: Layer, params: Any) -> list[_Role]:
    found, layer = [], -1
    for _, kind in leaves_of(network, params):
        layer += kind is True
        found.append(_Role(kind, layer))
    return found


class Model:
    """S networks of one shape: ``leaves`` are stacked tensors (S, ...), which training changes in place.

    Effective parameters are leaves times their scales. Without a parameterization all scales are 1: the network as it
    is, in the form in which its layers are.
    """

    def __init__(
        self, network: Layer, shape: tuple[int, ...], seeds: Sequence[int], *, parameterization: Any = None,
        width: float | None = None, node_scales: Any = None, zero_readout: bool = False, dtype: Any = np.float64,
        device: Any = "cpu", what: str = "train",
    ) -> None:  # fmt: skip
        self._torch = needed(what)
        if np.dtype(dtype) not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise TypeError(f"[{what}] dtype must be float32 or float64, given {np.dtype(dtype)}")
        self.network = network if parameterization is None else as_ntk(network)
        self.parameterization, self._device, self.dtype = parameterization, device, np.dtype(dtype)
        walk = Walk(self.network) if parameterization is None else walk_of(self.network, what)
        self.walk = walk
        self.width = 1.0
        if parameterization is not None:
            self.width = width_of(walk, parameterization, width, what)
        drawn = [self.network.init_fn(np.random.default_rng(seed), shape, self.dtype) for seed in seeds]
        self.output_shape, self._tree = drawn[0]
        self.roles = _roles(self.network, self._tree)
        stacked = [
            np.stack(arrays)
            for arrays in zip(*([a for a, _ in leaves_of(self.network, params)] for _, params in drawn), strict=True)
        ]
        self.scales, powers = self._scales(parameterization, walk)
        nodes = _node_scales(self.network, walk, node_scales, len(seeds), what)
        self.multipliers: list[Any] = []
        self.leaves: list[Any] = []
        for role, array, power in zip(self.roles, stacked, powers, strict=True):
            start = array * self.dtype.type(self.width**-power)
            if zero_readout and role.kind is True and role.layer in walk.last:
                start = np.zeros_like(start)
            multiplier: Any = None
            if role.kind is True and role.layer in nodes:
                multiplier = self.tensor(nodes[role.layer](array.shape).astype(self.dtype))
            self.multipliers.append(multiplier)
            self.leaves.append(self.tensor(start).requires_grad_())
        self._run = quick(self.network)

    def __len__(self) -> int:
        return len(self.leaves[0])

    def tensor(self, array: Array) -> Any:
        """On the device of the networks."""
        return self._torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _scales(self, p: Any, walk: Walk) -> tuple[list[float], list[float]]:
        """Factors of the leaves, and the powers of the width by which they are divided at the start."""
        if p is None:
            return [1.0] * len(self.roles), [0.0] * len(self.roles)
        a, b = walk.exponents(p.a), walk.exponents(p.b)
        bias_a, bias_b = (walk.exponents(v) for v in ((p.bias.a, p.bias.b) if p.bias else ((0.0,) * (p.L + 1),) * 2))
        scales, powers = [], []
        for role in self.roles:
            if role.kind is None:
                scales.append(1.0)
                powers.append(0.0)
            elif role.kind:
                inner = 0.5 if walk.places[role.layer] > 1 else 0.0  # 'ntk' form has divided by the fan-in's root
                scales.append(float(self.width ** (inner - a[role.layer])))
                powers.append(b[role.layer])
            else:
                scales.append(float(self.width ** -bias_a[role.layer]))
                powers.append(bias_b[role.layer])
        return scales, powers

    def rates(self, step: int) -> list[float]:
        """Of the leaves at a step: ``m^(-c)``."""
        p = self.parameterization
        if p is None:
            return [1.0] * len(self.roles)
        weights = self.walk.exponents(p.rates(step))
        biases = weights if p.bias is None else self.walk.exponents(p.bias_rates(step))
        return [
            1.0 if role.kind is None else float(self.width ** -(weights if role.kind else biases)[role.layer])
            for role in self.roles
        ]

    # ---- as functions, for torch.func

    def effective(self, leaves: Sequence[Any], multipliers: Sequence[Any]) -> Any:
        """The tree of parameters of one network, from its leaves."""
        made = []
        for leaf, scale, multiplier in zip(leaves, self.scales, multipliers, strict=True):
            value = leaf if scale == 1 else leaf * scale
            made.append(value if multiplier is None else value * multiplier)
        return rebuilt(self._tree, iter(made))

    def one(self, leaves: Sequence[Any], multipliers: Sequence[Any], x: Any, **keywords: Any) -> Any:
        """Outputs (n, k) of one network."""
        return self._run.apply_fn(self.effective(leaves, multipliers), x, **keywords).reshape(len(x), -1)

    def over_members(self, f: Callable[..., Any], *stacked: Any, leaves: Sequence[Any] | None = None) -> Any:
        """``f(leaves, multipliers, *own)`` of each member, along a first axis; a single one is not vmapped."""
        given = self.leaves if leaves is None else list(leaves)
        if len(self) == 1:
            first = [None if m is None else m[0] for m in self.multipliers]
            found = f([leaf[0] for leaf in given], first, *(s[0] for s in stacked))
            return found[None]
        held = [m for m in self.multipliers if m is not None]

        def run(leaves: Any, own: Any, *rest: Any) -> Any:
            left = iter(own)
            return f(leaves, [None if m is None else next(left) for m in self.multipliers], *rest)

        return self._torch.func.vmap(run, randomness="different")(given, held, *stacked)

    def __call__(self, x: Any, **keywords: Any) -> Any:
        """Outputs (S, n, k)."""
        return self.over_members(lambda leaves, multipliers: self.one(leaves, multipliers, x, **keywords))

    # ---- in and out

    def member(self, index: int) -> Any:
        """The tree of parameters of one member as NumPy arrays, for ``network.apply_fn``."""
        with self._torch.no_grad():
            own = [None if m is None else m[index] for m in self.multipliers]
            tree = self.effective([leaf[index] for leaf in self.leaves], own)
        return _arrays(tree)

    def state(self) -> list[Any]:
        """A copy of what is trained."""
        return [leaf.detach().clone() for leaf in self.leaves]

    def restore(self, state: Sequence[Any], members: Any = None) -> None:
        """Put a copy back, of all members or of those of a mask (S,)."""
        with self._torch.no_grad():
            for leaf, value in zip(self.leaves, state, strict=True):
                if members is None:
                    leaf.copy_(value)
                else:
                    leaf[members] = value[members]


def _arrays(params: Any) -> Any:
    if isinstance(params, tuple):
        return tuple(_arrays(part) for part in params)
    return None if params is None else params.detach().cpu().numpy()


def _node_scales(network: Layer, walk: Walk, given: Any, members: int, what: str) -> dict[int, Callable[..., Array]]:
    """By weight layer, factors ``sqrt(lam_j n)`` of its inputs' weights, from their shape (S, ...)."""
    if given is None:
        return {}
    if _branches(network):
        raise ValueError(f"[{what}] node_scales are for networks without branches")
    scales = list(given)
    hidden = len(walk.layers) - 1
    if len(scales) != hidden:
        raise ValueError(f"[{what}] node_scales has {len(scales)} entries, the network {hidden} hidden layers")

    def of(layer: int, lam: Array) -> Callable[..., Array]:
        def factors(shape: tuple[int, ...]) -> Array:
            axis = 1 + input_axis(walk.layers[layer], len(shape) - 1)
            n = shape[axis]
            if n % lam.shape[-1]:
                raise ValueError(f"[{what}] node_scales of {lam.shape[-1]} nodes, the layer behind them reads {n}")
            times = np.tile(lam, n // lam.shape[-1])  # Flatten puts the nodes of each position side by side
            root = np.sqrt(times * lam.shape[-1])
            return np.asarray(root.reshape([members if a == 0 else n if a == axis else 1 for a in range(len(shape))]))

        return factors

    found = {}
    for index, values in enumerate(scales):
        if values is None:
            continue
        lam = np.asarray(values, dtype=np.float64)
        lam = np.broadcast_to(lam, (members, lam.shape[-1])) if lam.ndim == 1 else lam
        if lam.ndim != 2 or len(lam) != members or not (np.isfinite(lam) & (lam >= 0)).all():
            raise ValueError(
                f"[{what}] node_scales must be variances (nodes,) or ({members}, nodes), not negative, given shape "
                f"{np.shape(values)}"
            )
        found[index + 1] = of(index + 1, lam)
    return found


def _branches(layer: Layer) -> bool:
    return isinstance(layer, Parallel) or any(_branches(part) for part in getattr(layer, "layers", ()))
