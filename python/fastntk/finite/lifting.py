"""Networks of stax from modules of PyTorch: the infinite limit of the network that one has."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import stax
from ..base.arraylike import describe
from ..network.layer import Layer
from .backends import is_module
from .quick import needed


class Unliftable(NotImplementedError):
    """A module, or what it does to tensors, that no layer of stax stands for; named by its path."""


def _std(values: Any) -> float:
    """Root mean square, as initialisations have mean 0."""
    return float(values.detach().double().pow(2).mean().sqrt())


def _drawn_std(module: Any, kind: str, fan_in: int, variances: str) -> float:
    """Deviation of a parameter as PyTorch draws it, or of the one that is there."""
    if variances == "given":
        return _std(getattr(module, kind))
    return 1 / math.sqrt(3 * fan_in)  # of kaiming_uniform_(a=sqrt(5)): uniform on +-1 / sqrt(fan-in), biases too


def lift(module: Any, *, variances: str = "initial") -> Layer:
    """The network of stax that a module becomes as its layers grow wide.

    Parameters
    ----------
    module : torch.nn.Module
        Made of Sequential and of what ``torch.fx`` can trace: Linear, Conv1d to Conv3d, Flatten, AvgPool and adaptive
        average pools to one position, LayerNorm over channels, Dropout, Identity, activations as modules or functions,
        sums of branches. Images have channels in the axis behind samples, as PyTorch has them.
    variances : 'initial' or 'given'
        Those of PyTorch's own initialisation (weights and biases uniform on ``+-1 / sqrt(fan-in)``), or the mean square
        of the parameters that the module holds.

    Returns
    -------
    network of stax
        Whose ``kernel_fn`` is that of the limit, and whose ``apply_fn`` is such a network of the module's widths, in
        'standard' parameterization: parameters are trained as PyTorch trains them.

    Raises
    ------
    TypeError
        Another object.
    Unliftable
        A part that no layer of stax stands for, named by its path: max pools, batch normalisation, reshapes, products
        of branches.
    ValueError
        Other variances.
    ImportError
        PyTorch is missing.
    """
    what = "lift"
    if variances not in ("initial", "given"):
        raise ValueError(f"[{what}] variances must be 'initial' or 'given', given {variances!r}")
    needed(what)
    if not is_module(module):
        raise TypeError(f"[{what}] takes a torch.nn.Module, given {describe(module)}")
    return _Lifter(module, variances).network()


@dataclass(frozen=True)
class _Node:
    """A tensor in the module's graph: how it is made of others."""

    layer: Layer | None  # of one tensor
    inputs: tuple[Any, ...]
    path: str


class _Lifter:
    """The graph of a module, turned into layers."""

    def __init__(self, module: Any, variances: str) -> None:
        from torch import fx

        self._module, self._variances = module, variances
        try:
            self._graph = fx.Tracer().trace(module)  # which looks into no module of torch.nn but Sequential
        except Exception as error:
            raise Unliftable(f"[lift] torch.fx cannot trace {type(module).__name__}: {error}") from None

    def network(self) -> Layer:
        inputs = [node for node in self._graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            raise Unliftable(f"[lift] a network of one input is lifted, this module takes {len(inputs)}")
        made: dict[Any, _Node] = {}
        output = None
        for node in self._graph.nodes:
            if node.op == "output":
                output = node.args[0]
            elif node.op != "placeholder":
                made[node] = self._node(node)
        if output is None or isinstance(output, (tuple, list, dict)):
            raise Unliftable("[lift] a network of one output is lifted")
        layers = self._through(output, inputs[0], made)
        return stax.serial(*layers)

    # ---- from the graph to serial and parallel

    def _through(self, node: Any, start: Any, made: dict[Any, _Node]) -> list[Layer]:
        """Layers from one tensor to another that depends on it alone."""
        if node is start:
            return []
        found = made[node]
        if len(found.inputs) == 1:
            assert found.layer is not None
            return [*self._through(found.inputs[0], start, made), found.layer]
        fork = self._fork(found.inputs, start, made)
        branches = [stax.serial(*(self._through(one, fork, made) or [stax.Identity()])) for one in found.inputs]
        before = self._through(fork, start, made)
        return [*before, stax.FanOut(len(branches)), stax.parallel(*branches), stax.FanInSum()]

    def _fork(self, ends: tuple[Any, ...], start: Any, made: dict[Any, _Node]) -> Any:
        """The last tensor that all ends depend on, and by nothing else."""

        def above(node: Any) -> list[Any]:
            seen, left = [], [node]
            while left:
                one = left.pop()
                if one not in seen:
                    seen.append(one)
                    left += [] if one is start else list(made[one].inputs)
            return seen

        common = [node for node in above(ends[0]) if all(node in above(end) for end in ends[1:])]
        order = list(self._graph.nodes)
        for node in sorted(common, key=order.index, reverse=True):
            if all(self._only_through(end, node, start, made) for end in ends):
                return node
        return start

    def _only_through(self, node: Any, gate: Any, start: Any, made: dict[Any, _Node]) -> bool:
        if node is gate:
            return True
        if node is start:
            return False
        return all(self._only_through(one, gate, start, made) for one in made[node].inputs)

    # ---- one node

    def _node(self, node: Any) -> _Node:
        import torch
        from torch import fx

        inputs = tuple(arg for arg in node.args if isinstance(arg, fx.Node))
        path = str(node.target)
        if node.op == "call_module":
            return _Node(self._layer(self._module.get_submodule(path), path), inputs, path)
        name = node.target if node.op == "call_method" else getattr(node.target, "__name__", path)
        if node.target in (operator.add, torch.add) or (node.op == "call_method" and name in ("add", "__add__")):
            if len(inputs) == 2:
                return _Node(None, inputs, path)
            raise Unliftable(f"[lift] {name} of a tensor and a number, at {node.name}")
        asked = {key: value for key, value in node.kwargs.items() if key != "inplace"}
        if name in _FUNCTIONS and len(inputs) == len(node.args) == 1 and not asked:
            return _Node(_FUNCTIONS[name](), inputs, path)
        if name == "flatten" and tuple(node.args[1:]) in ((1,), (1, -1)) and not node.kwargs:
            return _Node(stax.Flatten(), inputs, path)
        raise Unliftable(f"[lift] {name}, at {node.name}, is what no layer of stax stands for")

    def _layer(self, module: Any, path: str) -> Layer:
        from torch import nn

        if isinstance(module, nn.Linear):
            return self._dense(module)
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return self._conv(module, path)
        if isinstance(module, (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)):
            return self._pool(module, path)
        if isinstance(module, (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)):
            sizes: Any = module.output_size
            if any(n != 1 for n in (sizes if isinstance(sizes, tuple) else (sizes,))):
                raise Unliftable(f"[lift] {path}: {module} to more than one position")
            return stax.GlobalAvgPool(channel_axis=1)
        if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
            return stax.Flatten()
        if isinstance(module, nn.LayerNorm):
            return self._norm(module, path)
        if isinstance(module, nn.MultiheadAttention):
            raise Unliftable(
                f"[lift] {path}: softmax attention over the root of its width has no closed limit (arXiv:2006.10540); "
                "stax.GlobalSelfAttention with linear_scaling has"
            )
        found = _activation(module, path)
        if found is None:
            raise Unliftable(f"[lift] {path}: {module} is what no layer of stax stands for")
        return found

    def _dense(self, module: Any) -> Layer:
        W_std, b_std = self._stds(module, module.in_features)
        return stax.Dense(module.out_features, W_std, b_std, parameterization="standard")

    def _stds(self, module: Any, fan_in: int) -> tuple[float, float | None]:
        """``W_std``, of weights times the root of the fan-in, and ``b_std``."""
        W = _drawn_std(module, "weight", fan_in, self._variances) * math.sqrt(fan_in)
        return W, None if module.bias is None else _drawn_std(module, "bias", fan_in, self._variances)

    def _conv(self, module: Any, path: str) -> Layer:
        if module.groups != 1 or module.padding_mode not in ("zeros", "circular"):
            raise Unliftable(f"[lift] {path}: {module}, of {module.groups} groups and padding {module.padding_mode!r}")
        taps = tuple(module.kernel_size)
        letters = "HWD"[: len(taps)]
        padding: Any = module.padding if isinstance(module.padding, str) else tuple((p, p) for p in module.padding)
        if padding == "same" and all(t == 1 for t in module.stride) and all(k % 2 for k in taps):
            padding = tuple((e * (k // 2),) * 2 for k, e in zip(taps, module.dilation, strict=True))
        elif isinstance(padding, str):
            padding = padding.upper()
        if module.padding_mode == "circular":
            whole = tuple((e * (k // 2),) * 2 for k, e in zip(taps, module.dilation, strict=True))
            if padding != whole or any(t != 1 for t in module.stride) or any(k % 2 == 0 for k in taps):
                raise Unliftable(f"[lift] {path}: {module}, circular padding that does not keep the image's size")
            padding = "CIRCULAR"
        W_std, b_std = self._stds(module, module.in_channels * math.prod(taps))
        return stax.Conv(
            module.out_channels, taps, tuple(module.stride), padding, W_std, b_std,
            (f"NC{letters}", f"OI{letters}", f"NC{letters}"), parameterization="standard",
            dilation=tuple(module.dilation),
        )  # fmt: skip

    @staticmethod
    def _pool(module: Any, path: str) -> Layer:
        def pair(value: Any) -> Any:
            return value if isinstance(value, int) else tuple(value)

        if module.ceil_mode or getattr(module, "divisor_override", None):
            raise Unliftable(f"[lift] {path}: {module}, with ceil_mode or divisor_override")
        inside = not module.count_include_pad
        return stax.AvgPool(
            pair(module.kernel_size), pair(module.stride), pair(module.padding), normalize_edges=inside, channel_axis=1
        )

    @staticmethod
    def _norm(module: Any, path: str) -> Layer:
        if len(module.normalized_shape) != 1:
            raise Unliftable(f"[lift] {path}: {module} over more than the last axis")
        plain = not module.elementwise_affine or (
            bool((module.weight == 1).all()) and (module.bias is None or bool((module.bias == 0).all()))
        )
        if not plain:
            raise Unliftable(f"[lift] {path}: {module} with weights that are not 1, or biases that are not 0")
        return stax.LayerNorm(eps=module.eps)


# ---------------------------------------------------------------- activations

_PLAIN = {
    "ReLU": stax.Relu, "Tanh": stax.Tanh, "Sigmoid": stax.Sigmoid, "SiLU": stax.Swish, "Mish": stax.Mish,
    "Softsign": stax.Softsign, "ReLU6": stax.ReLU6, "SELU": stax.SELU, "Identity": stax.Identity,
}  # fmt: skip


def _activation(module: Any, path: str) -> Layer | None:
    """What a module stands for that has no weights; None of others."""
    name = type(module).__name__
    if type(module).__module__.split(".")[0] != "torch":
        return None
    if name in _PLAIN:
        return _PLAIN[name]()
    if name == "LeakyReLU":
        return stax.LeakyRelu(module.negative_slope)
    if name == "GELU" and module.approximate == "none":
        return stax.Gelu()
    if name == "Softplus" and module.beta == 1:
        return stax.Softplus()
    if name == "ELU" and module.alpha == 1:
        return stax.Elu()
    if name == "CELU" and module.alpha == 1:
        return stax.CELU()
    if name == "Hardtanh" and (module.min_val, module.max_val) == (-1, 1):
        return stax.HardTanh()
    if name == "Dropout":
        return stax.Dropout(1 - module.p, mode="train" if module.training else "test")
    return None


_FUNCTIONS: dict[str, Callable[[], Layer]] = {
    "relu": stax.Relu, "tanh": stax.Tanh, "sigmoid": stax.Sigmoid, "silu": stax.Swish, "mish": stax.Mish,
    "softsign": stax.Softsign, "relu6": stax.ReLU6, "selu": stax.SELU, "gelu": stax.Gelu, "softplus": stax.Softplus,
    "elu": stax.Elu, "celu": stax.CELU, "hardtanh": stax.HardTanh, "erf": stax.Erf, "sin": stax.Sin, "cos": stax.Cos,
    "abs": stax.Abs, "leaky_relu": lambda: stax.LeakyRelu(0.01),
}  # fmt: skip
