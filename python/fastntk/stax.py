"""Neural Tangents' ``stax`` vocabulary: names, defaults and meaning, so that a script moves over by one import.

>>> from fastntk import stax
>>> init_fn, apply_fn, kernel_fn = stax.serial(stax.Dense(512, 2**0.5), stax.Relu(), stax.Dense(1))
"""

from typing import NoReturn

from .base.door import doors
from .base.names import STAX, missing
from .network.activations import ABRelu, Abs, Erf, LeakyRelu, Relu
from .network.combinators import FanInSum, FanOut, Identity, parallel, serial
from .network.layer import Layer
from .network.positions import AvgPool, Flatten, GlobalAvgPool, GlobalSumPool, SumPool
from .network.weights import Conv, Dense

__all__ = [
    "ABRelu",
    "Abs",
    "AvgPool",
    "Conv",
    "Dense",
    "Erf",
    "FanInSum",
    "FanOut",
    "Flatten",
    "GlobalAvgPool",
    "GlobalSumPool",
    "Identity",
    "Layer",
    "LeakyRelu",
    "Relu",
    "SumPool",
    "parallel",
    "serial",
]


def __getattr__(name: str) -> NoReturn:
    raise missing("fastntk.stax", name, __all__, STAX)


doors(globals())
