"""What is in use and why: ``fastntk.show_config`` and ``fastntk info``."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

from .base.options import Options, resolve_options
from .base.version import __version__
from .engines.select import availability, select


def show_config(mode: str = "print") -> dict[str, Any] | None:
    """Say what is in use and why.

    Parameters
    ----------
    mode : {'print', 'dict'}
        Print a table, or return it.

    Returns
    -------
    dict or None
        version, python, numpy, platform, backend in use and the reason, each backend's state, isa in use and the ones
        compiled in, threads.

    Raises
    ------
    ValueError
        For another mode.
    """
    if mode not in ("print", "dict"):
        raise ValueError(f"show_config: mode must be 'print' or 'dict', given '{mode}'")
    threads: int | str
    try:
        chosen = resolve_options()
        threads = chosen.num_threads or 0
    except ValueError as error:
        chosen, threads = Options(), f"none: {error}"
    table: dict[str, Any] = {
        "version": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
    }
    try:
        engine = select()
        table["backend"] = engine.name
        table["isa"] = engine.isa
    except (RuntimeError, ValueError) as error:
        table["backend"] = f"none: {error}"
        table["isa"] = None
    table["asked for"] = {"backend": chosen.backend, "isa": chosen.isa, "devices": chosen.devices}
    table["backends"] = availability()
    table["num_threads"] = threads
    if mode == "dict":
        return table
    for key, value in table.items():
        if isinstance(value, dict):
            print(f"{key}:")
            for name, state in value.items():
                print(f"  {name:<10} {state if state is not None else '(nothing)'}")
        else:
            print(f"{key:<12} {value}")
    return None
