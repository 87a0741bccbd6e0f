"""Finite networks of any stax architecture, trained by PyTorch, and the kernels that they have.

:func:`train` takes any network of :mod:`fastntk.stax` under any parameterization (a, b, c), output scale and node
scales, with minibatches, momentum or Adam, an ensemble in one vmapped pass. Empirical kernels stand under Neural
Tangents' names, for functions written in PyTorch or JAX.

>>> from fastntk import finite, stax
>>> import numpy as np
>>> network = stax.serial(stax.Dense(64, 2**0.5), stax.Relu(), stax.Dense(1))
>>> x, y = np.eye(4), np.array([1.0, -1.0, 1.0, -1.0])
>>> trained = finite.train(network, x, y, lr=1.0, steps=200, seeds=range(3))
>>> trained.train_accuracy[-1]
array([1., 1., 1.])

Needs PyTorch (``pip install 'fastntk[torch]'``), which is loaded when a function is first called.
"""

from ..base.door import doors
from .empirical import (
    NtkImplementation,
    empirical_kernel_fn,
    empirical_nngp_fn,
    empirical_ntk_fn,
    empirical_ntk_vp_fn,
    linearize,
    taylor_expand,
)
from .gradient_flow import Flow, Look, flow
from .lifting import Unliftable, lift
from .montecarlo import monte_carlo_kernel_fn
from .training import Diverged, Record, Training, train

__all__ = [
    "Diverged",
    "Flow",
    "Look",
    "NtkImplementation",
    "Record",
    "Training",
    "Unliftable",
    "empirical_kernel_fn",
    "empirical_nngp_fn",
    "empirical_ntk_fn",
    "empirical_ntk_vp_fn",
    "flow",
    "lift",
    "linearize",
    "monte_carlo_kernel_fn",
    "taylor_expand",
    "train",
]

doors(globals())
