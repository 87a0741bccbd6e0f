"""The typed stubs of the compiled modules say what the modules have: ``nox -s stubs`` writes them anew."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import fastntk
import pytest
from fastntk.engines import select

PACKAGE = Path(fastntk.__file__).parent
AGAIN = "nox -s stubs writes python/fastntk/*.pyi anew"


@pytest.fixture(params=["cpu", "cuda"])
def both(request):
    """A module, and the statements of its stub."""
    module, state = select.load(request.param)
    if module is None:
        pytest.skip(state)
    return module, ast.parse((PACKAGE / f"_{request.param}.pyi").read_text()).body


def documented(function) -> list[str]:
    """Names of the arguments, from the signature that pybind11 writes; of the first one that is overloaded."""
    line = re.search(r"^(?:\d+\. )?\w+\((.*)\) -> ", function.__doc__, re.MULTILINE)[1]
    while "[" in line:  # types' insides, from the innermost on
        line = re.sub(r"\[[^\[\]]*\]", "", line)
    return [part.split(":")[0].strip() for part in line.split(",") if part.strip()]


def declared(function: ast.FunctionDef) -> list[str]:
    args = function.args
    return [a.arg for a in (*args.posonlyargs, *args.args)]


def members(body) -> dict[str, ast.stmt]:
    """Functions, classes, properties and values of a stub by name."""
    found = {}
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.setdefault(node.name, node)
        elif isinstance(node, ast.AnnAssign):
            found[node.target.id] = node
    return found


def public(owner) -> set[str]:
    return {name for name in vars(owner) if not name.startswith("_")}


def test_names_and_arguments(both):
    module, body = both
    stub = members(body)
    assert {name for name in stub if not name.startswith("_")} == public(module), AGAIN
    for name in public(module):
        here = getattr(module, name)
        if isinstance(here, type):
            inside = members(stub[name].body)
            assert {m for m in inside if not m.startswith("_")} == public(here), (name, AGAIN)
            for method, node in inside.items():
                own = vars(here).get(method)
                if isinstance(node, ast.FunctionDef) and callable(own) and "-> " in (own.__doc__ or ""):
                    assert declared(node) == documented(own), (name, method, AGAIN)
        elif callable(here):
            assert declared(stub[name]) == documented(here), (name, AGAIN)


def test_the_comparison_reads_signatures():
    def run(): ...

    run.__doc__ = (
        "run(a: list[tuple[str, list[int], dict[str, int]]], b: int, c: object = None) -> None\n\nwords, (x) -> y"
    )
    assert documented(run) == ["a", "b", "c"]
