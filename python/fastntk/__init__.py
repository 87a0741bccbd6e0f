"""fastntk: kernels of infinitely wide neural networks (NNGP and NTK).

>>> import numpy as np
>>> from fastntk import stax
>>> init_fn, apply_fn, kernel_fn = stax.serial(stax.Dense(512, 2**0.5), stax.Relu(), stax.Dense(1))
>>> kernel_fn(np.eye(3), get="ntk").shape
(3, 3)
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from . import dual, stax
from .config import options, show_config
from .kernel import Kernel
from .names import missing

try:
    __version__ = version("fastntk")
except PackageNotFoundError:  # used from a source tree
    __version__ = "0+source"

__all__ = ["Kernel", "__version__", "dual", "options", "show_config", "stax"]

# Modules beside the kernels, some of which need more than NumPy: loaded when they are first used.
_OPTIONAL = (
    "abc",
    "catapult",
    "lazy_feature",
    "meanfield",
    "mogp",
    "plot",
    "predict",
    "quadrature",
    "sklearn",
    "study",
)


def __getattr__(name: str) -> Any:
    if name in _OPTIONAL:
        return import_module(f".{name}", __name__)
    raise missing(__name__, name, (*__all__, *_OPTIONAL))


def __dir__() -> list[str]:
    return [*globals(), *_OPTIONAL]
