"""From parameters to the kernel function of a network, for kernel object and estimators alike."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arraylike import describe
from ..base.checks import integer
from ..call.kernel_fn import KernelFn, layer_of
from ..network.activations import NONLINEARITIES, Nonlinearity
from ..network.layer import Layer
from ..predict.fit import fully_connected

Array = npt.NDArray[Any]


def kernel_fn_of(what: str, depth: Any, W_std: Any, b_std: Any, nonlinearity: Any, network: Any) -> KernelFn:
    """The kernel function of ``network``, or of a dense network of this depth.

    Raises
    ------
    TypeError
        For a ``depth`` that is no integer, a ``network`` or ``nonlinearity`` of another type.
    ValueError
        For an unknown nonlinearity, ``depth`` below 1, negative or non-finite standard deviations.
    """
    if network is not None:
        given: KernelFn = network if isinstance(network, KernelFn) else layer_of(what, network).kernel_fn
        return given
    if isinstance(nonlinearity, str):
        if nonlinearity not in NONLINEARITIES:
            raise ValueError(f"[{what}] nonlinearity must be one of {sorted(NONLINEARITIES)}, given {nonlinearity!r}")
        make, args = NONLINEARITIES[nonlinearity]
        phi: Layer = make(*args)
    elif isinstance(nonlinearity, Nonlinearity):
        phi = nonlinearity
    else:
        raise TypeError(
            f"[{what}] nonlinearity must be a name or a nonlinearity of stax, given {describe(nonlinearity)}"
        )
    found: KernelFn = fully_connected(integer(what, "depth", depth), W_std, b_std, phi).kernel_fn
    return found


def inputs_of(what: str, x: Array, input_shape: Any) -> Array:
    """Rows (n, d) as the network takes them: (n, *input_shape).

    Raises
    ------
    ValueError
        When ``input_shape`` holds another number of values than a row.
    """
    if input_shape is None:
        return x
    shape = tuple(integer(what, "input_shape", n) for n in np.atleast_1d(np.asarray(input_shape, dtype=object)))
    if math.prod(shape) != x.shape[1]:
        raise ValueError(
            f"[{what}] input_shape {shape} holds {math.prod(shape)} values, rows of X have {x.shape[1]} features"
        )
    return x.reshape(len(x), *shape)


def check_matrix(what: str, k: Any) -> Array:
    """Raise ValueError unless the network has one output without positions."""
    if not isinstance(k, np.ndarray) or k.ndim != 2:
        shape = f"kernels of shape {k.shape}" if isinstance(k, np.ndarray) else f"{len(k)} outputs"
        raise ValueError(f"[{what}] the network must have one output without positions, this one has {shape}")
    return k
