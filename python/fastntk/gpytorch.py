"""The kernel of an infinitely wide network as GPyTorch's ``Kernel``, its parameters learned with those of a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

try:
    import gpytorch as _gpytorch  # noqa: F401
except ImportError as error:
    raise ImportError("fastntk.gpytorch needs GPyTorch (pip install 'fastntk[gpytorch]')") from error
import torch
from gpytorch.constraints import Positive
from gpytorch.kernels import Kernel
from torch import Tensor

from .base.arraylike import describe
from .base.checks import integer
from .call.kernel_fn import layer_of
from .network.activations import NONLINEARITIES, Nonlinearity
from .network.combinators import serial
from .network.layer import Layer
from .network.parameters import parameters_of
from .network.weights import Dense
from .torch import diagonal, kernel

__all__ = ["InfiniteWidthKernel"]


class NetworkKernel(Kernel):
    """Base: a subclass says which values its network's parameters have, and this calls the network with them."""

    input_shape: tuple[int, ...] | None = None  # of a sample with spatial axes

    def evaluate(
        self, network: Layer, get: str, x1: Tensor, x2: Tensor, diag: bool, values: dict[str, Tensor]
    ) -> Tensor:
        """Kernels (*batch, n, m), or (*batch, n), for values by path of shape (*batch) each.

        One call for each distinct set of values, with the samples of all batches that share it.
        """

        def run(a: Tensor, b: Tensor | None, own: dict[str, Tensor]) -> Any:
            if diag:
                return diagonal(network, a, get, parameters=own, input_shape=self.input_shape)
            return kernel(network, a, b, get, parameters=own, input_shape=self.input_shape)

        same = x1 is x2
        of_values = torch.broadcast_shapes(*(v.shape for v in values.values()))
        if math.prod(of_values) == 1:
            found: Tensor = run(x1, None if same else x2, {path: v.reshape(()) for path, v in values.items()})
            missing = len(of_values) + 2 - diag - found.dim()
            return found[(None,) * max(missing, 0)]
        return _each(of_values, values, x1, None if same or diag else x2, run)


def _each(
    of_values: tuple[int, ...], values: dict[str, Tensor], x1: Tensor, x2: Tensor | None,
    run: Callable[[Tensor, Tensor | None, dict[str, Tensor]], Any],
) -> Tensor:  # fmt: skip
    """``run`` for every set of values; axes of values that move go in front, the others stay a batch."""
    batch = torch.broadcast_shapes(of_values, x1.shape[:-2], of_values if x2 is None else x2.shape[:-2])
    rank = len(batch)
    sizes = (1,) * (rank - len(of_values)) + tuple(of_values)
    moving = [axis for axis in range(rank) if sizes[axis] > 1]
    order = [*moving, *(axis for axis in range(rank) if axis not in moving)]
    still = [batch[axis] for axis in order[len(moving) :]]

    def flat(x: Tensor) -> Tensor:
        shape = x.shape[-2:]
        return x.expand(*batch, *shape).permute(*order, rank, rank + 1).reshape(-1, *still, *shape)

    first, second = flat(x1), None if x2 is None else flat(x2)
    sets = {path: v.expand(of_values).reshape(-1) for path, v in values.items()}
    parts = [
        run(x, None if second is None else second[k], {path: v[k] for path, v in sets.items()})
        for k, x in enumerate(first)
    ]
    stacked = torch.stack(parts)
    found = stacked.reshape(*(batch[axis] for axis in moving), *stacked.shape[1:])
    back = [order.index(axis) for axis in range(rank)]
    return found.permute(*back, *range(rank, found.dim()))


class InfiniteWidthKernel(NetworkKernel):
    """NNGP or NTK of an infinitely wide network.

    Parameters
    ----------
    network : stax layer or its kernel_fn, optional
        None: ``depth`` times Dense and ``nonlinearity``, and a Dense without bias.
    depth : int
    nonlinearity : str or stax nonlinearity
        A name of ``fastntk.dual`` ('relu', 'erf', ...), or a layer.
    get : 'nngp' or 'ntk'
    shared : bool, optional
        Whether all layers have one W_std and one b_std; else each has its own. None: where there is no ``network``.
    W_std, b_std : float, optional
        Where learning begins; None: a network's own, or sqrt(2) and 0.1. Of a ``network`` they need ``shared``.
    W_std_prior, b_std_prior : gpytorch.priors.Prior, optional
    W_std_constraint, b_std_constraint : gpytorch.constraints.Interval, optional
        None: Positive().
    input_shape : tuple of int, optional
        Shape of one sample where it has spatial axes: rows (n, 3072) are read as (n, 32, 32, 3) with
        ``input_shape=(32, 32, 3)``. Needs a ``network`` of images.
    batch_shape, active_dims
        As for GPyTorch's kernels.
    ard_num_dims, lengthscale_prior, lengthscale_constraint : optional
        With one of them inputs are divided by a lengthscale first.

    Attributes
    ----------
    W_std, b_std : torch.Tensor (*batch_shape, 1, 1), or (*batch_shape, layers, 1) where they are not shared
        Of the layers that have one, in their order. Set them like other parameters of GPyTorch's.

    Raises
    ------
    TypeError, ValueError
        An unknown nonlinearity or ``get``, a network that is no layer or has no W_std; values that layers refuse.
    RuntimeError
        ``last_dim_is_batch``, from the kernel's call.

    Notes
    -----
    Without biases all W_std of a ReLU network together are one factor of the kernel. Put it into a ``ScaleKernel`` only
    with W_std fixed (``kernel.raw_W_std.requires_grad_(False)``).

    Examples
    --------
    >>> import torch
    >>> from fastntk.gpytorch import InfiniteWidthKernel
    >>> covariance = InfiniteWidthKernel(depth=2, get="ntk")
    >>> covariance(torch.randn(5, 3)).to_dense().shape
    torch.Size([5, 5])
    """

    def __init__(
        self, network: Any = None, depth: int = 3, nonlinearity: Any = "relu", get: str = "nngp",
        shared: bool | None = None, W_std: float | None = None, b_std: float | None = None, W_std_prior: Any = None,
        W_std_constraint: Any = None, b_std_prior: Any = None, b_std_constraint: Any = None, batch_shape: Any = None,
        active_dims: Any = None, ard_num_dims: int | None = None, lengthscale_prior: Any = None,
        lengthscale_constraint: Any = None, input_shape: Any = None,
    ) -> None:  # fmt: skip
        scaled = any(a is not None for a in (ard_num_dims, lengthscale_prior, lengthscale_constraint))
        object.__setattr__(self, "has_lengthscale", scaled)  # GPyTorch asks while it makes the parameters
        super().__init__(
            ard_num_dims=ard_num_dims, batch_shape=batch_shape, active_dims=active_dims,
            lengthscale_prior=lengthscale_prior, lengthscale_constraint=lengthscale_constraint,
        )  # fmt: skip
        if get not in ("nngp", "ntk"):
            raise ValueError(f"[InfiniteWidthKernel] get must be 'nngp' or 'ntk', given {get!r}")
        self.get = get
        self.input_shape = None if input_shape is None else tuple(input_shape)
        self.shared = network is None if shared is None else bool(shared)
        if network is None:
            W_std, b_std = 2**0.5 if W_std is None else W_std, 0.1 if b_std is None else b_std
            network = _fully_connected(depth, W_std, b_std, nonlinearity)
        self.network = network = layer_of("InfiniteWidthKernel", network)
        known = parameters_of(network)
        self._paths = {name: [p for p in known if p.rsplit(".", 1)[-1] == name] for name in ("W_std", "b_std")}
        if not self._paths["W_std"]:
            raise ValueError("[InfiniteWidthKernel] the network has no layer with W_std")
        for name, given, prior, constraint in (
            ("W_std", W_std, W_std_prior, W_std_constraint), ("b_std", b_std, b_std_prior, b_std_constraint),
        ):  # fmt: skip
            if self._paths[name]:
                self._learn(name, [known[path] for path in self._paths[name]], given, prior, constraint)

    def _learn(self, name: str, own: list[float], given: float | None, prior: Any, constraint: Any) -> None:
        if given is not None and not self.shared:
            own = [float(given)] * len(own)
        elif self.shared:
            own = own[:1] if given is None else [float(given)]
        start = torch.tensor(own, dtype=torch.get_default_dtype()).reshape(-1, 1)
        self.register_parameter(f"raw_{name}", torch.nn.Parameter(torch.zeros(*self.batch_shape, len(own), 1)))
        self.register_constraint(f"raw_{name}", Positive() if constraint is None else constraint)
        if prior is not None:
            self.register_prior(f"{name}_prior", prior, _Read(name), _Write(name))
        self._set(name, start.expand(*self.batch_shape, len(own), 1))

    def _value(self, name: str) -> Tensor:
        raw = getattr(self, f"raw_{name}")
        found: Tensor = getattr(self, f"raw_{name}_constraint").transform(raw)
        return found

    def _set(self, name: str, value: Any) -> None:
        raw = getattr(self, f"raw_{name}")
        value = torch.as_tensor(value).to(raw)
        self.initialize(**{f"raw_{name}": getattr(self, f"raw_{name}_constraint").inverse_transform(value)})

    @property
    def W_std(self) -> Tensor:
        return self._value("W_std")

    @W_std.setter
    def W_std(self, value: Any) -> None:
        self._set("W_std", value)

    @property
    def b_std(self) -> Tensor:
        return self._value("b_std")

    @b_std.setter
    def b_std(self, value: Any) -> None:
        self._set("b_std", value)

    @property
    def is_stationary(self) -> bool:
        """False: the kernel depends on more than x1 - x2."""
        return False

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, last_dim_is_batch: bool = False, **_: Any) -> Tensor:
        """The kernel between rows of x1 and x2; ``diag``: of each row with itself, in O(n)."""
        if last_dim_is_batch:
            raise RuntimeError("[InfiniteWidthKernel] last_dim_is_batch is not taken: a network mixes its features")
        if self.has_lengthscale:
            same = x1 is x2
            x1 = x1 / self.lengthscale
            x2 = x1 if same else x2 / self.lengthscale
        values = {}
        for name, paths in self._paths.items():
            if paths:
                all_values = self._value(name)
                for k, path in enumerate(paths):
                    values[path] = all_values[..., 0 if self.shared else k, 0]
        return self.evaluate(self.network, self.get, x1, x2, diag, values)


class _Read:
    """What a prior reads of a kernel; a class, so that kernels with priors can be pickled."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: Any) -> Tensor:
        found: Tensor = getattr(module, self.name)
        return found


class _Write:
    """What a prior sets of it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: Any, value: Any) -> None:
        setattr(module, self.name, value)


def _fully_connected(depth: Any, W_std: float, b_std: float, nonlinearity: Any) -> Layer:
    what = "InfiniteWidthKernel"
    if isinstance(nonlinearity, str):
        if nonlinearity not in NONLINEARITIES:
            raise ValueError(f"[{what}] nonlinearity must be one of {sorted(NONLINEARITIES)}, given {nonlinearity!r}")
        make, args = NONLINEARITIES[nonlinearity]
        nonlinearity = make(*args)
    if not isinstance(nonlinearity, Nonlinearity):
        raise TypeError(
            f"[{what}] nonlinearity must be a name or a nonlinearity of stax, given {describe(nonlinearity)}"
        )
    return serial(*[Dense(1, W_std, b_std), nonlinearity] * integer(what, "depth", depth), Dense(1, W_std))
