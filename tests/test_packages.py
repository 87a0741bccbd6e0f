"""What is packed: versions, backends that are packages of their own, the command's help, the check of the site."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from importlib import metadata
from pathlib import Path

import fastntk
import pytest
from fastntk import cli
from fastntk.base.version import __version__
from fastntk.engines import compiled
from helpers import script

ROOT = Path(__file__).resolve().parents[1]

# ---------------------------------------------------------------- a backend beside


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """Installs a package ``fastntk_cuda13`` of a version, whose module holds this text."""
    monkeypatch.delenv("FASTNTK_HIDE_COMPILED", raising=False)
    monkeypatch.setitem(sys.modules, "fastntk._cuda", None)  # this installation has none
    monkeypatch.syspath_prepend(tmp_path)

    def install(version, text="HERE = True\n"):
        package, info = tmp_path / "fastntk_cuda13", tmp_path / f"fastntk_cuda13-{version}.dist-info"
        package.mkdir()
        info.mkdir()
        (package / "__init__.py").touch()
        (package / "_cuda.py").write_text(text)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fastntk-cuda13\nVersion: {version}\n")

    yield install
    for name in ("fastntk_cuda13", "fastntk_cuda13._cuda"):
        sys.modules.pop(name, None)


def loaded():
    return compiled.load.__wrapped__("cuda")


def test_a_backend_beside(beside):
    assert loaded() == (None, "not available: this installation has no compiled module fastntk._cuda")
    beside(__version__)
    module, state = loaded()
    assert module.HERE
    assert state == "available"


def test_a_backend_beside_of_another_version(beside):
    beside("0.0.1")
    module, state = loaded()
    assert module is None
    assert f"fastntk_cuda13 is of version 0.0.1, fastntk of {__version__}" in state


def test_a_backend_beside_that_does_not_load(beside):
    beside(__version__, "raise ImportError('no driver')\n")
    assert loaded() == (None, "not available: no driver")


# ---------------------------------------------------------------- the command


def commands(parser, path=()):
    """Every command that has no commands below it: its words, its parser."""
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        yield path, parser
    for action in below:
        for name, child in action.choices.items():
            yield from commands(child, (*path, name))


COMMANDS = dict(commands(cli._parser()))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_has_an_example_that_is_one(words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    (line,) = [line for line in COMMANDS[words].format_help().splitlines() if line.startswith("example: ")]
    program, *args = shlex.split(line.removeprefix("example: "))
    assert program == "fastntk"
    assert tuple(args[: len(words)]) == words
    assert cli._parser().parse_args(args).command == words[0]


def test_all_commands_were_asked():
    assert set(COMMANDS) >= {("info",), ("demo",), ("gram",), ("study", "finite-vs-infinite")}


# ---------------------------------------------------------------- the site's check


PAGE = '<html lang="en"><head><title>t</title><meta name="viewport"></head><body>{}</body></html>'


@pytest.mark.skipif(not (ROOT / "docs/check_site.py").exists(), reason="no docs here")
def test_the_check_of_the_site_sees_what_is_wrong(tmp_path):
    check = script(ROOT / "docs/check_site.py")
    (tmp_path / "searchindex.js").write_text(" ".join(check.SEARCHED))
    for name in ("b.png", "c.png"):
        (tmp_path / name).touch()
    good = '<h1 id="top">x</h1><h2>y</h2><a href="#top">up</a><img src="b.png" alt="what it shows">'
    for k in range(25):
        (tmp_path / f"p{k}.html").write_text(PAGE.format(good + '<a href="p0.html#top">first</a>'))
    assert check.faults(tmp_path) == []
    bad = '<h1>x</h1><h3>y</h3><h1>z</h1><a href="p1.html#nowhere">a</a><a href="gone.html">b</a><img src="b.png">\
<img src="c.png" alt="">'
    (tmp_path / "p0.html").write_text(PAGE.format(bad).replace(' lang="en"', ""))
    found = "\n".join(check.faults(tmp_path))
    for words in (
        "p1.html#nowhere: no such place", "gone.html leads nowhere", "2 headings of the first level",
        "level 3 behind one of level 1", "b.png without a text", "c.png without a text", "no language",
        "p0.html#top: no such place",
    ):  # fmt: skip
        assert words in found
    (tmp_path / "searchindex.js").write_text("")
    assert "search does not know posterior" in "\n".join(check.faults(tmp_path))


def test_the_version():
    """Of the installed distribution; of a source tree that is only on the path there is none."""
    assert re.fullmatch(r"\d+(\.\d+)+(\.dev\d+)?(\+[\w.]+)?|0\+source", fastntk.__version__)
    try:
        assert fastntk.__version__ == metadata.version("fastntk")
    except metadata.PackageNotFoundError:
        assert fastntk.__version__ == "0+source"
