"""
fastntk's compiled CPU backend: private, reached through fastntk.engines.
"""

from __future__ import annotations

import collections.abc
import typing

import numpy
import numpy.typing

__all__: list[str] = [
    "PANEL",
    "AdjointProgram",
    "ImageAdjoint",
    "ImageGrid",
    "ImagePlan32",
    "ImagePlan64",
    "ImageStep",
    "Input",
    "OwnPairs32",
    "OwnPairs64",
    "Program",
    "Window",
    "adjoint",
    "adjoint_entries",
    "dual",
    "has_adjoint",
    "has_image_adjoint",
    "isas",
    "mix",
    "ops",
    "pack",
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

class Window:
    defect: typing.Any
    from1: typing.Any
    from2: typing.Any
    inverse1: typing.Any
    inverse2: typing.Any
    std1: typing.Any
    std2: typing.Any
    theta: typing.Any
    def __init__(self) -> None: ...
    @property
    def bias(self) -> float: ...
    @bias.setter
    def bias(self, arg0: float) -> None: ...

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

class OwnPairs32:
    def __init__(
        self,
        plan: typing.Any,
        numbers: collections.abc.Sequence[float],
        tables: numpy.typing.NDArray[typing.Any],
        isa: str,
        halt: typing.Any,
    ) -> None: ...
    def masses(self, grid: int) -> dict[str, typing.Any]: ...

class ImagePlan32:
    def __init__(
        self,
        plan: typing.Any,
        pairs: typing.Any,
        own: typing.Any,
        channels: collections.abc.Sequence[int],
        n_outputs: int,
    ) -> None: ...
    def run(
        self,
        numbers: collections.abc.Sequence[float],
        tables1: typing.Annotated[collections.abc.Sequence[numpy.typing.NDArray[typing.Any]], "FixedSize(2)"],
        tables2: typing.Annotated[collections.abc.Sequence[numpy.typing.NDArray[typing.Any]], "FixedSize(2)"],
        place: typing.Annotated[collections.abc.Sequence[int], "FixedSize(6)"],
        outputs: collections.abc.Sequence[typing.Annotated[collections.abc.Sequence[typing.Any], "FixedSize(2)"]],
        symmetric: bool,
        listed: collections.abc.Sequence[typing.Annotated[collections.abc.Sequence[int], "FixedSize(2)"]],
        isa: str,
        threads: int,
    ) -> list[typing.Annotated[list[int], "FixedSize(2)"]]: ...
    @property
    def block(self) -> tuple[int, int]: ...
    @property
    def grids(self) -> list[ImageGrid]: ...
    @property
    def own_images(self) -> int: ...
    @property
    def table_size(self) -> int: ...
    @property
    def worker_bytes(self) -> int: ...

class OwnPairs64:
    def __init__(
        self,
        plan: typing.Any,
        numbers: collections.abc.Sequence[float],
        tables: numpy.typing.NDArray[typing.Any],
        isa: str,
        halt: typing.Any,
    ) -> None: ...
    def masses(self, grid: int) -> dict[str, typing.Any]: ...

class ImagePlan64:
    def __init__(
        self,
        plan: typing.Any,
        pairs: typing.Any,
        own: typing.Any,
        channels: collections.abc.Sequence[int],
        n_outputs: int,
    ) -> None: ...
    def run(
        self,
        numbers: collections.abc.Sequence[float],
        tables1: typing.Annotated[collections.abc.Sequence[numpy.typing.NDArray[typing.Any]], "FixedSize(2)"],
        tables2: typing.Annotated[collections.abc.Sequence[numpy.typing.NDArray[typing.Any]], "FixedSize(2)"],
        place: typing.Annotated[collections.abc.Sequence[int], "FixedSize(6)"],
        outputs: collections.abc.Sequence[typing.Annotated[collections.abc.Sequence[typing.Any], "FixedSize(2)"]],
        symmetric: bool,
        listed: collections.abc.Sequence[typing.Annotated[collections.abc.Sequence[int], "FixedSize(2)"]],
        isa: str,
        threads: int,
    ) -> list[typing.Annotated[list[int], "FixedSize(2)"]]: ...
    @property
    def block(self) -> tuple[int, int]: ...
    @property
    def grids(self) -> list[ImageGrid]: ...
    @property
    def own_images(self) -> int: ...
    @property
    def table_size(self) -> int: ...
    @property
    def worker_bytes(self) -> int: ...

class AdjointProgram:
    def __init__(
        self,
        ops: collections.abc.Sequence[
            tuple[
                str,
                int,
                collections.abc.Sequence[int],
                collections.abc.Sequence[float],
                typing.Annotated[collections.abc.Sequence[int], "FixedSize(3)"],
                typing.Annotated[collections.abc.Sequence[bool], "FixedSize(3)"],
            ]
        ],
        counts: typing.Annotated[collections.abc.Sequence[int], "FixedSize(6)"],
    ) -> None: ...

class ImageAdjoint:
    def __init__(
        self,
        plan: typing.Any,
        pairs: typing.Any,
        own: typing.Any,
        channels: collections.abc.Sequence[int],
        n_outputs: int,
        grids: collections.abc.Sequence[
            tuple[int, int, collections.abc.Sequence[tuple[int, int, int, int, int, typing.Any, typing.Any]]]
        ],
        n_sums: int,
        n_totals: int,
    ) -> None: ...
    def run(
        self,
        numbers: collections.abc.Sequence[float],
        tables1: typing.Annotated[collections.abc.Sequence[numpy.typing.NDArray[numpy.float64]], "FixedSize(2)"],
        tables2: typing.Annotated[collections.abc.Sequence[numpy.typing.NDArray[numpy.float64]], "FixedSize(2)"],
        pairs: collections.abc.Sequence[typing.Annotated[collections.abc.Sequence[int], "FixedSize(2)"]],
        on: collections.abc.Sequence[typing.Annotated[collections.abc.Sequence[typing.Any], "FixedSize(2)"]],
        sizes: collections.abc.Sequence[int],
        counts: bool,
        sums1: numpy.typing.NDArray[numpy.float64],
        sums2: numpy.typing.NDArray[numpy.float64],
        totals: numpy.typing.NDArray[numpy.float64],
        isa: str,
        threads: int,
    ) -> None: ...
    @property
    def table_size(self) -> int: ...
    @property
    def tables(self) -> list[int]: ...
    @property
    def worker_bytes(self) -> int: ...

def adjoint(
    program: AdjointProgram,
    tables: typing.Annotated[collections.abc.Sequence[numpy.typing.NDArray[numpy.float64]], "FixedSize(4)"],
    rows: collections.abc.Sequence[
        tuple[
            typing.Annotated[collections.abc.Sequence[numpy.typing.NDArray[numpy.float64]], "FixedSize(4)"],
            typing.Annotated[collections.abc.Sequence[numpy.typing.NDArray[numpy.float64]], "FixedSize(4)"],
            typing.Annotated[collections.abc.Sequence[typing.Any], "FixedSize(2)"],
        ]
    ],
    kind: tuple[bool, float, float],
    on: collections.abc.Sequence[typing.Annotated[collections.abc.Sequence[typing.Any], "FixedSize(2)"]],
    sums: typing.Annotated[list[numpy.typing.NDArray[numpy.float64]], "FixedSize(3)"],
    ntk: bool,
    isa: str,
    threads: int,
) -> None: ...
def adjoint_entries(
    program: AdjointProgram,
    tables: typing.Annotated[collections.abc.Sequence[numpy.typing.NDArray[numpy.float64]], "FixedSize(4)"],
    rows: collections.abc.Sequence[
        tuple[
            typing.Annotated[collections.abc.Sequence[numpy.typing.NDArray[numpy.float64]], "FixedSize(4)"],
            typing.Annotated[collections.abc.Sequence[numpy.typing.NDArray[numpy.float64]], "FixedSize(4)"],
            typing.Annotated[collections.abc.Sequence[typing.Any], "FixedSize(2)"],
        ]
    ],
    kind: tuple[bool, float, float],
    pulls: typing.Annotated[collections.abc.Sequence[numpy.typing.NDArray[numpy.float64]], "FixedSize(2)"],
    slopes: numpy.typing.NDArray[numpy.float64],
    planes: numpy.typing.NDArray[numpy.float64],
    ntk: bool,
    isa: str,
    threads: int,
) -> None: ...
def dual(
    name: str,
    params: collections.abc.Sequence[float],
    q: typing.Annotated[collections.abc.Sequence[numpy.typing.NDArray[typing.Any]], "FixedSize(3)"],
    rows: typing.Annotated[collections.abc.Sequence[numpy.typing.NDArray[typing.Any]], "FixedSize(2)"],
    k: numpy.typing.NDArray[typing.Any],
    kdot: numpy.typing.NDArray[typing.Any],
    isa: str,
    threads: int,
) -> None: ...
def has_adjoint(arg0: str) -> bool: ...
def has_image_adjoint(arg0: str) -> bool: ...
def isas() -> list[tuple[str, bool]]: ...
def mix(
    left: numpy.typing.NDArray[typing.Any],
    right: numpy.typing.NDArray[typing.Any],
    source: typing.Any,
    out: typing.Any,
    own: bool,
    full: bool,
    symmetric: bool,
    before: str,
    behind: str,
    equal: typing.Any,
    close: typing.Any,
    least: float,
    isa: str,
    threads: int,
) -> None: ...
def ops() -> list[dict[str, typing.Any]]:
    """
    Every op: its name, how many parameters it takes (-1: any number), and its traits.
    """

def pack(
    x: numpy.typing.NDArray[typing.Any],
    panels: numpy.typing.NDArray[typing.Any],
    norms: numpy.typing.NDArray[numpy.float64],
    isa: str,
    threads: int,
) -> None: ...
def row_names(name: str, kind: str, n_params: int, n_sources: int) -> list[str]:
    """
    What such an op reads of one input, in its order.
    """

def run(
    program: Program,
    numbers: collections.abc.Sequence[float],
    rows1: numpy.typing.NDArray[typing.Any],
    rows2: numpy.typing.NDArray[typing.Any],
    dtype: numpy.dtype[typing.Any],
    place: typing.Annotated[collections.abc.Sequence[int], "FixedSize(8)"],
    n1: int,
    n2: int,
    inputs: collections.abc.Sequence[Input],
    outputs: collections.abc.Sequence[typing.Annotated[collections.abc.Sequence[typing.Any], "FixedSize(3)"]],
    symmetric: bool,
    diagonal: bool,
    isa: str,
    threads: int,
    windows: collections.abc.Sequence[Window] = [],
    hidden: typing.Any = None,
) -> None: ...

PANEL: int = 64
