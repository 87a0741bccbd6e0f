"""
fastntk's CUDA backend: private, reached through fastntk.engines.
"""

from __future__ import annotations

import collections.abc
import typing

import numpy

__all__: list[str] = [
    "ON_HOST",
    "ImageCode32",
    "ImageCode64",
    "ImageGrid",
    "ImagePlan32",
    "ImagePlan64",
    "ImageStep",
    "Input",
    "Program",
    "devices",
    "dual",
    "image_chains",
    "image_pairs",
    "normalise",
    "ops",
    "row_names",
    "run",
]

class Input:
    defect: typing.Any
    norms1: typing.Any
    norms2: typing.Any
    panels1: typing.Any
    panels2: typing.Any
    product: typing.Any
    raw1: typing.Any
    raw2: typing.Any
    theta: typing.Any
    def __init__(self) -> None: ...
    @property
    def close(self) -> float: ...
    @close.setter
    def close(self, arg0: float) -> None: ...

class ImageStep:
    @property
    def first(self) -> int: ...
    @property
    def n_arrays(self) -> int: ...

class ImageGrid:
    @property
    def lanes(self) -> int: ...
    @property
    def packed(self) -> int: ...
    @property
    def steps(self) -> list[ImageStep]: ...
    @property
    def table(self) -> int: ...

class ImageCode32:
    def bytes(self) -> bytes: ...
    @property
    def chain_size(self) -> int: ...
    @property
    def grids(self) -> list[tuple[int, int]]: ...
    @property
    def links(self) -> list[int]: ...
    @property
    def lost_units(self) -> int: ...
    @property
    def pair_doubles(self) -> int: ...
    @property
    def scratch(self) -> int: ...
    @property
    def sizes(self) -> list[int]: ...
    @property
    def table_size(self) -> int: ...

class ImagePlan32:
    def __init__(
        self,
        plan: typing.Any,
        pairs: typing.Any,
        own: typing.Any,
        channels: collections.abc.Sequence[int],
        n_outputs: int,
    ) -> None: ...
    def code(self, numbers: collections.abc.Sequence[float], registers: bool, own: bool) -> ImageCode32: ...
    @property
    def grids(self) -> list[ImageGrid]: ...
    @property
    def has_own(self) -> bool: ...
    @property
    def table_size(self) -> int: ...

class ImageCode64:
    def bytes(self) -> bytes: ...
    @property
    def chain_size(self) -> int: ...
    @property
    def grids(self) -> list[tuple[int, int]]: ...
    @property
    def links(self) -> list[int]: ...
    @property
    def lost_units(self) -> int: ...
    @property
    def pair_doubles(self) -> int: ...
    @property
    def scratch(self) -> int: ...
    @property
    def sizes(self) -> list[int]: ...
    @property
    def table_size(self) -> int: ...

class ImagePlan64:
    def __init__(
        self,
        plan: typing.Any,
        pairs: typing.Any,
        own: typing.Any,
        channels: collections.abc.Sequence[int],
        n_outputs: int,
    ) -> None: ...
    def code(self, numbers: collections.abc.Sequence[float], registers: bool, own: bool) -> ImageCode64: ...
    @property
    def grids(self) -> list[ImageGrid]: ...
    @property
    def has_own(self) -> bool: ...
    @property
    def table_size(self) -> int: ...

class Program:
    def __init__(
        self,
        ops: collections.abc.Sequence[
            tuple[str, int, collections.abc.Sequence[int], str, tuple[int, int], collections.abc.Mapping[str, int]]
        ],
        n_inputs: int,
        n_slots: int,
        n_outputs: int,
    ) -> None: ...
    def code(self, numbers: collections.abc.Sequence[float]) -> bytes:
        """
        What device code reads of the program and of its numbers: to be copied to the device as uint8, and kept as long as the program.
        """
    @property
    def places(self) -> list[int]:
        """
        Where the row arrays that device code reads, in its order, stand in a table.
        """

def devices() -> tuple[list[typing.Any], str]: ...
def dual(
    name: str,
    params: collections.abc.Sequence[float],
    q: typing.Annotated[collections.abc.Sequence[typing.Any], "FixedSize(3)"],
    rows: typing.Annotated[collections.abc.Sequence[typing.Any], "FixedSize(2)"],
    k: typing.Any,
    kdot: typing.Any,
    device: int,
    stream: int,
) -> None: ...
@typing.overload
def image_chains(
    plan: ImageCode32,
    code: typing.Any,
    tables: typing.Any,
    chains: typing.Any,
    grids: typing.Annotated[collections.abc.Sequence[int], "FixedSize(2)"],
    device: int,
    stream: int,
) -> None: ...
@typing.overload
def image_chains(
    plan: ImageCode64,
    code: typing.Any,
    tables: typing.Any,
    chains: typing.Any,
    grids: typing.Annotated[collections.abc.Sequence[int], "FixedSize(2)"],
    device: int,
    stream: int,
) -> None: ...
@typing.overload
def image_pairs(
    plan: ImageCode32,
    code: typing.Any,
    tables: typing.Annotated[collections.abc.Sequence[typing.Any], "FixedSize(2)"],
    chains: typing.Annotated[collections.abc.Sequence[typing.Any], "FixedSize(2)"],
    pairs: typing.Any,
    lengths: typing.Any,
    linked: typing.Any,
    lost: typing.Any,
    scratch: typing.Any,
    outputs: collections.abc.Sequence[typing.Annotated[collections.abc.Sequence[typing.Any], "FixedSize(2)"]],
    grids: typing.Annotated[collections.abc.Sequence[int], "FixedSize(2)"],
    backwards: bool,
    device: int,
    stream: int,
) -> None: ...
@typing.overload
def image_pairs(
    plan: ImageCode64,
    code: typing.Any,
    tables: typing.Annotated[collections.abc.Sequence[typing.Any], "FixedSize(2)"],
    chains: typing.Annotated[collections.abc.Sequence[typing.Any], "FixedSize(2)"],
    pairs: typing.Any,
    lengths: typing.Any,
    linked: typing.Any,
    lost: typing.Any,
    scratch: typing.Any,
    outputs: collections.abc.Sequence[typing.Annotated[collections.abc.Sequence[typing.Any], "FixedSize(2)"]],
    grids: typing.Annotated[collections.abc.Sequence[int], "FixedSize(2)"],
    backwards: bool,
    device: int,
    stream: int,
) -> None: ...
def normalise(x: typing.Any, units: typing.Any, norms: typing.Any, device: int, stream: int) -> None: ...
def ops() -> list[dict[str, typing.Any]]:
    """
    Every op: its name, how many parameters it takes (-1: any number), and its traits.
    """

def row_names(name: str, kind: str, n_params: int, n_sources: int) -> list[str]:
    """
    What such an op reads of one input, in its order.
    """

def run(
    program: Program,
    code: typing.Any,
    table1: typing.Any,
    table2: typing.Any,
    dtype: numpy.dtype[typing.Any],
    place: typing.Annotated[collections.abc.Sequence[int], "FixedSize(8)"],
    n1: int,
    n2: int,
    inputs: collections.abc.Sequence[Input],
    outputs: collections.abc.Sequence[typing.Annotated[collections.abc.Sequence[typing.Any], "FixedSize(3)"]],
    symmetric: bool,
    diagonal: bool,
    device: int,
    stream: int,
) -> None: ...

ON_HOST: int = -1
