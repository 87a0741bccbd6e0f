"""fastntk: kernels of infinitely wide neural networks (NNGP and NTK).

>>> import numpy as np
>>> from fastntk import stax
>>> init_fn, apply_fn, kernel_fn = stax.serial(stax.Dense(512, 2**0.5), stax.Relu(), stax.Dense(1))
>>> kernel_fn(np.eye(3), get="ntk").shape
(3, 3)
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from . import dual, stax
from .base.kernel import Kernel
from .base.names import missing
from .base.options import options
from .base.version import __version__
from .call import kernel_fn as _kernel_fn  # noqa: F401 - gives every layer its kernels
from .call.batch import batch
from .info import show_config

__all__ = ["Kernel", "__version__", "batch", "dual", "options", "show_config", "stax"]

# Modules beside the kernels, some of which need more than NumPy: loaded when they are first used.
_OPTIONAL = (
    "abc",
    "catapult",
    "finite",
    "lazy_feature",
    "meanfield",
    "mogp",
    "plot",
    "predict",
    "quadrature",
    "scale",
    "sklearn",
    "study",
)

# Functions of fastntk.finite that stand here under Neural Tangents' names.
_EMPIRICAL = (
    "NtkImplementation",
    "empirical_kernel_fn",
    "empirical_nngp_fn",
    "empirical_ntk_fn",
    "empirical_ntk_vp_fn",
    "linearize",
    "monte_carlo_kernel_fn",
    "taylor_expand",
)

# And the ones named after the library whose objects they give: shown where that is installed.
_OF_LIBRARIES = ("botorch", "gpytorch", "jax", "torch")


def __getattr__(name: str) -> Any:
    if name in (*_OPTIONAL, *_OF_LIBRARIES):
        return import_module(f".{name}", __name__)
    if name in _EMPIRICAL:
        return getattr(import_module(".finite", __name__), name)
    raise missing(__name__, name, (*__all__, *_OPTIONAL, *_EMPIRICAL, *_OF_LIBRARIES))


def __dir__() -> list[str]:
    return sorted([*__all__, *_OPTIONAL, *_EMPIRICAL, *filter(find_spec, _OF_LIBRARIES)])
