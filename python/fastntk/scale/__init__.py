"""Beyond one machine's memory and one process's life: Gram matrices in stores, on Dask's workers, and solves on them.

:func:`gram` writes to Zarr or to plain files and may be killed at any time; :func:`kernel` makes lazy Dask arrays.
Plain files need NumPy alone; Zarr stores, Dask arrays and clusters the extra ``fastntk[dask]``.
"""

from importlib import import_module
from typing import Any

from ..base.door import doors
from ..base.names import missing
from .errors import StoreError, StoreLockedError, StoreMismatchError, UnfinishedError
from .estimate import Estimate, estimate
from .lazy import diagonal, kernel
from .stores import StoreReport, gram, load, verify

__all__ = [
    "Estimate",
    "StoreError",
    "StoreLockedError",
    "StoreMismatchError",
    "StoreReport",
    "UnfinishedError",
    "diagonal",
    "estimate",
    "gram",
    "kernel",
    "load",
    "verify",
]


doors(globals())

# These need SciPy, as fastntk.predict does: loaded when they are first used.
_SOLVES = {"conjugate_gradient": "solve", "posterior_variance": "variance"}
__all__ += [*_SOLVES]


def __getattr__(name: str) -> Any:
    if name in _SOLVES:
        return getattr(import_module(f".{_SOLVES[name]}", __name__), name)
    raise missing("fastntk.scale", name, __all__)
