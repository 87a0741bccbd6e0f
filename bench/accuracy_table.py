"""The Markdown table of worst errors from the JSON of a test run.

    pytest --accuracy-json accuracy.json && python bench/accuracy_table.py accuracy.json

Each cell is the worst over all backends and instruction sets of that run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from fastntk.network.activations import GENERAL

QUANTITIES = ("k", "kdot", "nngp 1", "nngp 10", "nngp 50", "ntk 1", "ntk 10", "ntk 50")
DTYPES = ("float32", "float64")


def columns() -> list[tuple[str, str]]:
    """Every (quantity, dtype) that a nonlinearity needs."""
    return [(quantity, dtype) for dtype in DTYPES for quantity in QUANTITIES]


def markdown(report: dict[str, Any]) -> str:
    """One row per dtype and nonlinearity, then the bounds; SystemExit names what the run has not measured.

    Of functions without closed form, whose exact values take long, some cells may be empty.
    """
    cells = report["cells"]
    worst: dict[tuple[str, str, str], float] = {}
    bounds: dict[tuple[str, str], float] = {}
    for cell in cells:
        key = (cell["nonlinearity"], cell["quantity"], cell["dtype"])
        worst[key] = max(worst.get(key, 0.0), cell["error"])
        bounds[cell["quantity"], cell["dtype"]] = cell["bound"]
    names = list(dict.fromkeys(cell["nonlinearity"] for cell in cells))
    lines = [
        "| nonlinearity | dtype | k | kdot | NNGP, depth 1 | 10 | 50 | NTK, depth 1 | 10 | 50 |",
        "|---|---|" + "--:|" * len(QUANTITIES),
    ]
    for dtype in DTYPES:
        for name in names:
            missing = [quantity for quantity in QUANTITIES if (name, quantity, dtype) not in worst]
            if missing and name not in GENERAL:
                raise SystemExit(f"{name}, {dtype}: no {', '.join(missing)} in this run (run the whole suite)")
            numbers = ["" if q in missing else f"{worst[name, q, dtype]:.1e}" for q in QUANTITIES]
            lines.append(f"| {name} | {dtype} | {' | '.join(numbers)} |")
        numbers = [f"{bounds[quantity, dtype]:.1e}" for quantity in QUANTITIES]
        lines.append(f"| *bound* | *{dtype}* | {' | '.join(f'*{number}*' for number in numbers)} |")
    backends = ", ".join(dict.fromkeys(cell["backend"] for cell in cells))
    machine, versions, git = report["machine"], report["versions"], report["git"]
    commit = f"{git['commit'][:12]}{' with changes' if git['changed'] else ''}" if git["commit"] else "no git"
    lines += [
        "",
        f"Worst over {backends}; {machine['processor']}, {machine['platform']}; "
        f"fastntk {versions['fastntk']} ({commit}), NumPy {versions['numpy']}, Python {versions['python']}.",
    ]
    return "\n".join(lines) + "\n"


def in_short(report: dict[str, Any]) -> str:
    """One row per dtype: the worst error, dual maps of closed forms and kernels by depth, beside its bound."""
    lines = ["| dtype | dual maps, closed forms | kernels, depth 1 | depth 10 | depth 50 |", "|---|--:|--:|--:|--:|"]
    groups = (("k", "kdot"), ("nngp 1", "ntk 1"), ("nngp 10", "ntk 10"), ("nngp 50", "ntk 50"))
    for dtype in DTYPES:
        numbers = []
        for group in groups:
            cells = [cell for cell in report["cells"] if cell["dtype"] == dtype and cell["quantity"] in group]
            if group[0] == "k":  # the others' have a bound of their own
                cells = [cell for cell in cells if cell["nonlinearity"] not in GENERAL]
            numbers.append(f"{max(c['error'] for c in cells):.1e} of {max(c['bound'] for c in cells):.1e}")
        lines.append(f"| {dtype} | {' | '.join(numbers)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(markdown(json.loads(Path(sys.argv[1]).read_text())), end="")
