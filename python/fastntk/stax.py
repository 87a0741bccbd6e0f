"""Neural Tangents' ``stax`` vocabulary: names, defaults and meaning, so that a script moves over by one import.

>>> from fastntk import stax
>>> init_fn, apply_fn, kernel_fn = stax.serial(stax.Dense(512, 2**0.5), stax.Relu(), stax.Dense(1))
"""

from typing import NoReturn

from .activations import ABRelu, Abs, Erf, LeakyRelu, Relu
from .door import doors
from .layers import FanInSum, FanOut, Identity, Layer, parallel, serial
from .linear import Conv, Dense
from .names import STAX, missing
from .pooling import AvgPool, Flatten, GlobalAvgPool, GlobalSumPool, SumPool

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
