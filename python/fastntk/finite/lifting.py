"""Networks of stax from modules of PyTorch: the infinite limit of the network that one has."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .. import stax
from ..base.arraylike import describe
from ..network.layer import Layer
from .backends import is_module
from .lifted import (
    Axes,
    Unliftable,
    activation,
    conv,
    conv_transpose,
    dense,
    named,
    norm,
    pool,
    pool_to_one,
    upsample,
)
from .quick import needed

__all__ = ["Unliftable", "lift"]


def lift(module: Any, *, variances: str = "initial", input_shape: Sequence[int] | None = None) -> Layer:
    """The network of stax that a module becomes as its layers grow wide.

    Parameters
    ----------
    module : torch.nn.Module
        Made of Sequential and of what ``torch.fx`` can trace: Linear, Conv1d to Conv3d, ConvTranspose, Flatten and
        ``view(len, -1)``, AvgPool, adaptive average pools to one position and means over all positions, LayerNorm over
        the channels, alone or with all positions, GroupNorm of one group, Upsample, Dropout, Identity, activations as
        modules or functions, sums of branches. Images have channels in the axis behind samples, as PyTorch has them.
    variances : 'initial' or 'given'
        Those of PyTorch's own initialisation (weights and biases uniform on ``+-1 / sqrt(fan-in)``), or the mean square
        of the parameters that the module holds.
    input_shape : sequence of int, optional
        Of one sample, where a layer needs to know its axes: means of tokens, ``scale_factor`` of Upsample.

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
        A part that no layer of stax stands for, named by its path: max pools, batch normalisation, softmax attention,
        reshapes, products of branches, weights that are shared.
    ValueError
        Other variances; an ``input_shape`` that the module does not take.
    ImportError
        PyTorch is missing.
    """
    what = "lift"
    if variances not in ("initial", "given"):
        raise ValueError(f"[{what}] variances must be 'initial' or 'given', given {variances!r}")
    needed(what)
    if not is_module(module):
        raise TypeError(f"[{what}] takes a torch.nn.Module, given {describe(module)}")
    return _Lifter(module, variances, None if input_shape is None else tuple(input_shape)).network()


@dataclass(frozen=True)
class _Node:
    """A tensor in the module's graph: how it is made of others."""

    layer: Layer | None  # of one tensor
    inputs: tuple[Any, ...]
    path: str
    axes: Axes


class _Lifter:
    """The graph of a module, turned into layers."""

    def __init__(self, module: Any, variances: str, input_shape: tuple[int, ...] | None) -> None:
        from torch import fx

        self._module, self._variances = module, variances
        self._weights: dict[int, str] = {}  # where parameters were met
        self._met: set[str] = set()
        try:
            self._graph = fx.Tracer().trace(module)  # which looks into no module of torch.nn but Sequential
        except Exception as error:
            raise Unliftable(f"[lift] torch.fx cannot trace {type(module).__name__}: {error}") from None
        if input_shape is not None:
            self._measure(input_shape)

    def _measure(self, input_shape: tuple[int, ...]) -> None:
        """Give every node of the graph the shape of its tensor, by a run of a copy that has shapes and no numbers."""
        import torch
        from torch import fx
        from torch.fx.passes.shape_prop import ShapeProp

        copied = copy.deepcopy(self._module).to("meta")
        dtype = next((p.dtype for p in copied.parameters() if p.dtype.is_floating_point), None)
        try:
            with torch.no_grad():
                given = torch.zeros((2, *input_shape), dtype=dtype, device="meta")
                ShapeProp(fx.GraphModule(copied, self._graph)).propagate(given)
        except Exception as error:
            said = str(error.__cause__ or error).splitlines()[0]
            raise ValueError(f"[lift] the module takes no inputs of shape {input_shape}: {said}") from None

    def network(self) -> Layer:
        inputs = [node for node in self._graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            raise Unliftable(f"[lift] a network of one input is lifted, this module takes {len(inputs)}")
        outputs = [node.args[0] for node in self._graph.nodes if node.op == "output"]
        if len(outputs) != 1 or isinstance(outputs[0], (tuple, list, dict)):
            raise Unliftable("[lift] a network of one output is lifted")
        made = self._made(outputs[0], inputs[0])
        return stax.serial(*_dropped_last(self._through(outputs[0], inputs[0], made)))

    def _made(self, output: Any, start: Any) -> dict[Any, _Node]:
        """What the output depends on; sizes that a module asks for on the way are none of it."""
        from torch import fx

        asked, left = set(), [output]
        while left:
            node = left.pop()
            if node not in asked and node is not start:
                asked.add(node)
                args = node.args[:1] if str(getattr(node.target, "__name__", node.target)) in _SIZED else node.args
                left += [arg for arg in args if isinstance(arg, fx.Node)]
        made: dict[Any, _Node] = {}
        for node in self._graph.nodes:
            if node in asked:
                made[node] = self._node(node, made, start)
        return made

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
        branches = [
            stax.serial(*(_dropped_last(self._through(one, fork, made)) or [stax.Identity()])) for one in found.inputs
        ]
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

    def _axes(self, node: Any, made: dict[Any, _Node], start: Any) -> Axes:
        """Of the tensor that a node is, with its sizes where the inputs' shape was given."""
        meta = node.meta.get("tensor_meta")
        sizes = None if meta is None else tuple(meta.shape)
        known = Axes() if node is start else made[node].axes
        return replace(known, sizes=sizes, ndim=known.ndim if sizes is None else len(sizes))

    def _node(self, node: Any, made: dict[Any, _Node], start: Any) -> _Node:
        import torch
        from torch import fx

        path = str(node.target)
        name = node.target if node.op == "call_method" else getattr(node.target, "__name__", path)
        tensors = tuple(arg for arg in node.args if isinstance(arg, fx.Node))
        if name in _SIZED:
            tensors = tensors[:1]
        before = [self._axes(one, made, start) for one in tensors]
        if node.op == "call_module":
            layer, axes = self._layer(self._module.get_submodule(path), path, before[0])
            return _Node(layer, tensors, path, axes)
        if name in ("add", "iadd", "__add__", "__iadd__", "add_") and (
            node.op == "call_method" or node.target in (operator.add, operator.iadd, torch.add)
        ):
            if len(tensors) == 2 and not node.kwargs:
                return _Node(None, tensors, path, before[0])
            raise Unliftable(f"[lift] {name} of a tensor and a number, or of a multiple, at {node.name}")
        found = self._function(node, str(name), before[0]) if len(tensors) == 1 else None
        if found is None:
            raise Unliftable(f"[lift] {name}, at {node.name}, is what no layer of stax stands for")
        return _Node(found[0], tensors, path, found[1])

    def _function(self, node: Any, name: str, axes: Axes) -> tuple[Layer, Axes] | None:
        """A function of one tensor; None of others."""
        from torch import nn

        args, kwargs = node.args[1:], {key: value for key, value in node.kwargs.items() if key != "inplace"}
        if name in FUNCTIONS and not args and not kwargs:
            return FUNCTIONS[name](), axes
        if name in _AS_MODULES:
            training = kwargs.pop("training", True)  # of dropout alone
            if kwargs.get("antialias") is False:
                kwargs.pop("antialias")
            try:
                module = getattr(nn, _AS_MODULES[name])(*args, **kwargs)
            except TypeError:
                return None
            return self._layer(module.train(training), node.name, axes)
        if name == "flatten" and {**dict(zip(("start_dim", "end_dim"), args, strict=False)), **kwargs} in (
            {"start_dim": 1}, {"start_dim": 1, "end_dim": -1},
        ):  # fmt: skip
            return stax.Flatten(), _ROWS
        if name in ("view", "reshape") and len(args) == 2 and args[1] == -1 and _counts_samples(args[0]):
            return stax.Flatten(), _ROWS
        if name == "mean":
            return self._mean(node, axes, *args, **kwargs)
        return None

    @staticmethod
    def _mean(node: Any, axes: Axes, dim: Any = None, keepdim: bool = False) -> tuple[Layer, Axes] | None:
        """Over all positions."""
        if dim is None or axes.rows:
            return None
        if axes.ndim is None or axes.channel is None:
            raise Unliftable(f"[lift] mean, at {node.name}: which axes hold positions is known with input_shape=")
        over = sorted(n % axes.ndim for n in (dim if isinstance(dim, (tuple, list)) else (dim,)))
        positions = range(2, axes.ndim) if axes.channel == 1 else range(1, axes.ndim - 1)
        if over != list(positions):
            return None
        return stax.GlobalAvgPool(channel_axis=axes.channel), _ROWS

    def _layer(self, module: Any, path: str, axes: Axes) -> tuple[Layer, Axes]:
        """Its layer, and the axes behind it."""
        from torch import nn

        self._once(module, path)
        variances = self._variances
        images = replace(axes, channel=1)
        if isinstance(module, nn.Linear):
            return dense(module, path, axes, variances), replace(axes, channel=-1)
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return conv(module, path, axes, variances), Axes(len(module.kernel_size) + 2, 1)
        if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            return conv_transpose(module, path, axes, variances), Axes(len(module.kernel_size) + 2, 1)
        if isinstance(module, (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)):
            return pool(module, path, axes), images
        if isinstance(module, (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)):
            return pool_to_one(module, path, axes), _ROWS
        if isinstance(module, nn.Upsample):
            return upsample(module, path, axes), images
        if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
            return stax.Flatten(), _ROWS
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            return norm(module, path, axes), axes
        if isinstance(module, nn.MultiheadAttention):
            raise Unliftable(
                f"[lift] {path}: softmax attention over the root of its width has no closed limit (arXiv:2006.10540); "
                "stax.GlobalSelfAttention with linear_scaling has"
            )
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise named(path, module, "lets samples of a batch depend on each other; nn.Identity stands for its start")
        found = activation(module)
        if found is None:
            raise named(path, module)
        return found, axes

    def _once(self, module: Any, path: str) -> None:
        """Refuses weights that were met before: layers of stax have weights of their own."""
        for parameter in module.parameters(recurse=False):
            first = self._weights.setdefault(id(parameter), path)
            if first != path or path in self._met:
                how = "is used twice" if first == path else f"shares its weights with {first}"
                raise Unliftable(f"[lift] {path}: {how}, and layers of stax have weights of their own")
        self._met.add(path)


_ROWS = Axes(2, -1)
_SIZED = ("view", "reshape", "flatten")  # arguments behind the first one are sizes

# Functions by the modules that take their arguments.
_AS_MODULES = {
    "leaky_relu": "LeakyReLU", "gelu": "GELU", "softplus": "Softplus", "elu": "ELU", "celu": "CELU",
    "hardtanh": "Hardtanh", "dropout": "Dropout", "interpolate": "Upsample",
}  # fmt: skip

FUNCTIONS: dict[str, Callable[[], Layer]] = {
    "relu": stax.Relu, "relu_": stax.Relu, "tanh": stax.Tanh, "sigmoid": stax.Sigmoid, "silu": stax.Swish,
    "mish": stax.Mish, "softsign": stax.Softsign, "relu6": stax.ReLU6, "selu": stax.SELU, "erf": stax.Erf,
    "sin": stax.Sin, "cos": stax.Cos, "exp": stax.Exp, "abs": stax.Abs, "square": lambda: stax.Monomial(2),
}  # fmt: skip


def _counts_samples(size: Any) -> bool:
    """Whether an argument of ``view`` is the number of samples: ``x.size(0)``, ``x.shape[0]``."""
    if getattr(size, "op", None) == "call_method" and size.target == "size":
        return tuple(size.args[1:]) == (0,)
    if getattr(size, "op", None) != "call_function" or size.target is not operator.getitem or size.args[1] != 0:
        return False
    of = size.args[0]
    return (of.op == "call_method" and of.target == "size" and len(of.args) == 1) or (
        of.op == "call_function" and of.target is getattr and of.args[1] == "shape"
    )


def _dropped_last(layers: list[Layer]) -> list[Layer]:
    """Dropout behind a rectifier instead of before it: both only scale, and so may be exchanged."""
    found: list[Layer] = []
    for layer in layers:
        if found and isinstance(found[-1], stax.Dropout) and isinstance(layer, stax.ABRelu):
            found[-1:] = [layer, found[-1]]
        else:
            found.append(layer)
    return found
