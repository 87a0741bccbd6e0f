"""Neural Tangents' ``stax`` vocabulary: names, defaults and meaning, so that a script moves over by one import.

>>> from fastntk import stax
>>> init_fn, apply_fn, kernel_fn = stax.serial(stax.Dense(512, 2**0.5), stax.Relu(), stax.Dense(1))
"""

from typing import NoReturn

from .base.door import doors
from .base.names import STAX, missing
from .network.activations import *  # noqa: F403
from .network.activations import __all__ as _ACTIVATIONS
from .network.attention import AttentionMechanism, GlobalSelfAttention, PositionalEmbedding
from .network.combinators import FanInConcat, FanInProd, FanInSum, FanOut, Identity, parallel, repeat, serial
from .network.convolutions import ConvLocal, ConvTranspose
from .network.gather import DotGeneral, Index, Slice
from .network.graph import Aggregate, AggregateImplementation
from .network.layer import Layer
from .network.normal import Dropout, LayerNorm
from .network.position_map import PositionMap
from .network.positions import AvgPool, Flatten, GlobalAvgPool, GlobalSumPool, SumPool
from .network.resize import ImageResize
from .network.weights import Conv, Dense
from .network.window import Padding

__all__ = [
    "Aggregate",
    "AggregateImplementation",
    "AttentionMechanism",
    "AvgPool",
    "Conv",
    "ConvLocal",
    "ConvTranspose",
    "Dense",
    "DotGeneral",
    "Dropout",
    "FanInConcat",
    "FanInProd",
    "FanInSum",
    "FanOut",
    "Flatten",
    "GlobalAvgPool",
    "GlobalSelfAttention",
    "GlobalSumPool",
    "Identity",
    "ImageResize",
    "Index",
    "Layer",
    "LayerNorm",
    "Padding",
    "PositionMap",
    "PositionalEmbedding",
    "Slice",
    "SumPool",
    "parallel",
    "repeat",
    "serial",
]
__all__ += _ACTIVATIONS


def __getattr__(name: str) -> NoReturn:
    raise missing("fastntk.stax", name, sorted(__all__), STAX)


doors(globals())
