"""The door of every public function: behind it NumPy's floating-point errors are the library's own affair.

Public modules end with ``doors(globals())``; classes that they give without naming them carry ``@door``.

What overflows gives infinity, what underflows gives 0, and both are looked for where they matter. A caller's
``np.errstate``, ``np.seterr`` or warnings as errors would end such a calculation half way; the library's own warnings
do reach the caller, and his filters.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T", bound=Any)

_DUNDERS = ("__init__", "__call__", "__iter__", "__add__", "__radd__", "__mul__", "__rmul__", "__truediv__")


def doors(module: dict[str, Any]) -> None:
    """Put a door before all that a public module names in ``__all__``; its functions then belong to that module."""
    for name in module["__all__"]:
        value = module[name]
        if inspect.isfunction(value):
            module[name] = door(value)
            module[name].__module__ = module["__name__"]  # where pickle finds it
        elif isinstance(value, type):
            door(value)


def door(f: T) -> T:
    """A function, or a class with all of its public methods and properties, under the library's own error state."""
    found: T = _class(f) if isinstance(f, type) else _function(f)
    return found


def _function(f: Any) -> Any:
    if getattr(f, "_is_door", False) or inspect.isgeneratorfunction(f):
        return f

    @functools.wraps(f)
    def behind(*args: Any, **kwargs: Any) -> Any:
        with np.errstate(all="ignore"):
            return f(*args, **kwargs)

    behind._is_door = True  # type: ignore[attr-defined]
    return behind


def _class(cls: Any) -> Any:
    """Bases of this package too, in place: estimators share theirs. A class may say which methods users call."""
    package, only = __name__.partition(".")[0], getattr(cls, "_doors", None)
    for kind in cls.__mro__:
        if kind.__module__.partition(".")[0] != package:
            continue
        for name, member in list(vars(kind).items()):
            if name not in only if only else name.startswith("_") and name not in _DUNDERS:
                continue
            if inspect.isfunction(member):
                setattr(kind, name, _function(member))
            elif isinstance(member, (classmethod, staticmethod)):
                setattr(kind, name, type(member)(_function(member.__func__)))
            elif isinstance(member, property) and member.fget is not None:
                setattr(kind, name, property(_function(member.fget), member.fset, member.fdel, member.__doc__))
    return cls
