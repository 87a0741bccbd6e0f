"""The rooms are floors: imports run downhill, in Python and in C++, and no circle of imports exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import fastntk
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, CSRC = ROOT / "python/fastntk", ROOT / "csrc"

# Lowest first; a room imports from floors below its own, and within itself.
FLOORS = (
    ("base",),
    ("network",),
    ("plan",),
    ("engines",),
    ("call",),
    ("dual", "info", "stax"),
    ("quadrature",),
    ("finite",),
    ("abc", "catapult", "meanfield", "predict"),
    ("jax", "lazy_feature", "mogp", "plot", "sklearn", "torch"),
    ("gpytorch",),
    ("botorch",),
    ("scale",),
    ("demo",),
    ("study",),
    ("cli",),
    ("", "__main__"),
)
CSRC_FLOORS = ("math", "common", "dense", "images", "cuda", "bind")


def modules(package: Path) -> dict[str, Path]:
    """Files of the package by their dotted names within it, "" the package itself."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the package that a module imports, at its head, in functions or for types alone."""
    parts = name.split(".") if name else []
    package = parts if path.name == "__init__.py" else parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {
                a.name.removeprefix("fastntk").removeprefix(".") for a in node.names if a.name.startswith("fastntk")
            }
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = package[: len(package) - node.level + 1] + (node.module or "").split(".")
        elif (node.module or "").split(".")[0] == "fastntk":
            base = (node.module or "").split(".")[1:]
        else:
            continue
        source = ".".join(part for part in base if part)
        for alias in node.names:
            inner = f"{source}.{alias.name}" if source else alias.name
            found.add(inner if inner in known else source)
    return found - {name}


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import themselves by way of others."""
    reached = {name: set(below) for name, below in graph.items()}
    while True:
        wider = {name: below.union(*(reached[b] for b in below)) for name, below in reached.items()}
        if wider == reached:
            return sorted(name for name, below in reached.items() if name in below)
        reached = wider


def uphill(graph: dict[str, set[str]]) -> list[str]:
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    arrows = ((name, below) for name, found in graph.items() for below in found)
    rooms = ((name, below, name.split(".")[0], below.split(".")[0]) for name, below in arrows)
    return sorted(f"{n} -> {b}" for n, b, r, s in rooms if r != s and floor[r] <= floor[s])


def package_graph() -> dict[str, set[str]]:
    known = modules(PACKAGE)
    return {name: imports(name, path, known) for name, path in known.items()}


def test_imports_run_downhill():
    graph = package_graph()
    assert len(graph) > 100
    assert uphill(graph) == []
    assert circles(graph) == []


def test_the_check_sees_uphill_imports_and_circles(tmp_path):
    for name, text in (
        ("base/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..call.b import b\n"),
        ("call/b.py", "def b():\n    from .c import c\n"),
        ("call/c.py", "from fastntk.base import a\nfrom . import b\n"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    known = modules(tmp_path)
    graph = {name: imports(name, path, known) for name, path in known.items()}
    assert graph == {"base.a": {"call.b"}, "call.b": {"call.c"}, "call.c": {"base.a", "call.b"}}
    assert uphill(graph) == ["base.a -> call.b"]
    assert circles(graph) == ["base.a", "call.b", "call.c"]


def test_includes_run_downhill():
    seen = 0
    for path in (p for p in CSRC.rglob("*") if p.suffix in (".h", ".cpp", ".cu")):
        room = path.relative_to(CSRC).parts[0]
        for included in re.findall(r'#include "([^"]+)"', path.read_text()):
            assert (CSRC / included).exists(), f"{path}: includes are named from csrc/ on, given {included}"
            seen += 1
            below = included.split("/")[0]
            assert CSRC_FLOORS.index(below) <= CSRC_FLOORS.index(room), f"{path.relative_to(CSRC)} -> {included}"
    assert seen > 50


@pytest.mark.parametrize("room", ["base", "network", "plan", "engines", "call"])
def test_every_floor_says_what_it_is(room):
    head = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text()))
    assert head is not None
    assert head.endswith(".")


def test_what_is_private_does_not_show():
    shown = dir(fastntk)
    assert set(shown) >= {"Kernel", "dual", "options", "predict", "show_config", "stax", "__version__"}
    assert not {"base", "network", "plan", "engines", "call", "info", "Any", "import_module"} & set(shown)
    for name in shown:
        assert hasattr(fastntk, name)
