"""BoTorch's kernel of an infinitely wide ReLU network, computed here: the same name, arguments and state."""

from __future__ import annotations

from typing import Any

from .gpytorch import NetworkKernel

try:
    import botorch as _botorch  # noqa: F401
except ImportError as error:
    raise ImportError("fastntk.botorch needs BoTorch (pip install 'fastntk[botorch]')") from error
import torch
from gpytorch.constraints import Positive
from torch import Tensor

from .base.checks import integer
from .network.activations import Relu
from .network.combinators import serial
from .network.weights import Dense

__all__ = ["InfiniteWidthBNNKernel"]


class InfiniteWidthBNNKernel(NetworkKernel):
    """The covariance of an infinitely wide, fully connected ReLU network, in place of BoTorch's class of this name.

    Parameters
    ----------
    depth : int
        Nonlinearities, with one dense layer more; 0: the linear kernel.
    batch_shape : torch.Size, optional
        Of the parameters.
    active_dims : tuple of int, optional
    acos_eps : float
        Accepted, and without effect: correlations are never clamped.
    device : torch.device, optional
        Of the parameters.

    Attributes
    ----------
    weight_var, bias_var : torch.Tensor (*batch_shape, 1, 1)
        Variances of weights (times fan-in) and biases, of all layers.

    Raises
    ------
    TypeError, ValueError
        A ``depth`` that is no integer, or negative.
    RuntimeError
        ``last_dim_is_batch``, from the kernel's call.

    Notes
    -----
    Values are BoTorch's to rounding where it does not clamp; gradients are exact for near-duplicates too, where
    its are off by 1e-4 at a distance of 1e-4.

    Examples
    --------
    >>> import torch
    >>> from fastntk.botorch import InfiniteWidthBNNKernel
    >>> InfiniteWidthBNNKernel(2)(torch.randn(5, 3)).to_dense().shape
    torch.Size([5, 5])
    """

    has_lengthscale = False

    def __init__(
        self,
        depth: int = 3,
        batch_shape: Any = None,
        active_dims: Any = None,
        acos_eps: float = 1e-7,
        device: Any = None,
    ) -> None:
        super().__init__(batch_shape=batch_shape, active_dims=active_dims)
        self.depth = integer("InfiniteWidthBNNKernel", "depth", depth, 0)
        self.acos_eps = acos_eps
        self.network = serial(*[Dense(1, 1.0, 1.0), Relu()] * self.depth, Dense(1, 1.0, 1.0))
        for name in ("raw_weight_var", "raw_bias_var"):
            start = torch.zeros(*self.batch_shape, 1, 1, device=device)
            self.register_parameter(name, torch.nn.Parameter(start))
            self.register_constraint(name, Positive())

    def _set(self, name: str, value: Any) -> None:
        raw = getattr(self, f"raw_{name}")
        value = torch.as_tensor(value).to(raw)
        self.initialize(**{f"raw_{name}": getattr(self, f"raw_{name}_constraint").inverse_transform(value)})

    @property
    def weight_var(self) -> Tensor:
        found: Tensor = self.raw_weight_var_constraint.transform(self.raw_weight_var)
        return found

    @weight_var.setter
    def weight_var(self, value: Any) -> None:
        self._set("weight_var", value)

    @property
    def bias_var(self) -> Tensor:
        found: Tensor = self.raw_bias_var_constraint.transform(self.raw_bias_var)
        return found

    @bias_var.setter
    def bias_var(self, value: Any) -> None:
        self._set("bias_var", value)

    def forward(
        self, x1: Tensor, x2: Tensor, diag: bool | None = False, last_dim_is_batch: bool | None = False, **_: Any
    ) -> Tensor:
        """The kernel between rows of x1 and x2; ``diag``: of each row with itself, in O(n)."""
        if last_dim_is_batch:
            raise RuntimeError("last_dim_is_batch not supported by this kernel.")
        weights, biases = self.weight_var[..., 0, 0].sqrt(), self.bias_var[..., 0, 0].sqrt()
        values: dict[str, Tensor] = {}
        for k in range(self.depth + 1):
            values |= {f"{2 * k}.W_std": weights, f"{2 * k}.b_std": biases}
        return self.evaluate(self.network, "nngp", x1, x2, bool(diag), values)
