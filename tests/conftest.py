"""Backends and dtypes that tests run over; the accuracy table: worst errors, to JSON with --accuracy-json PATH; shares
of the suite for runs that cannot take all of it: --share K/N."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import zlib
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import fastntk
import helpers
import numpy as np
import pytest
import tolerances
from fastntk.engines import select
from on_host import cuda_on_host


def _backends() -> list:
    """``cpu:<isa>`` for every instruction set of the compiled module, ``numpy``, and ``cuda`` where a device is.

    With FASTNTK_TEST_CUDA_ON_HOST=1 also ``cuda:on-host``, its stand-in.
    """
    module, _ = select.load("cpu")
    found = []
    for isa, present in module.isas() if module is not None else ():
        absent = pytest.mark.skipif(not present, reason=f"{isa}: not on this processor")
        found.append(pytest.param(f"cpu:{isa}", marks=absent))
    if select.availability()["cuda"].startswith("available"):
        found.append(pytest.param("cuda", marks=pytest.mark.gpu))
    if os.environ.get("FASTNTK_TEST_CUDA_ON_HOST") == "1":
        found.append("cuda:on-host")
    return [*found, "numpy"]


@pytest.fixture(params=_backends())
def backend(request):
    """Runs the test once with each backend in force; its value is the name: ``cpu:avx2``, ``numpy``."""
    name, _, isa = request.param.partition(":")
    stand_in = cuda_on_host() if isa == "on-host" else nullcontext()
    with stand_in, fastntk.options(backend=name, isa=isa if name == "cpu" else None):
        yield request.param


@pytest.fixture
def cuda():
    """The CUDA backend on stand-ins: ``cupy``, and ``native``, the compiled module."""
    for name in ("cuda", "cpu"):  # what cuda is compared with
        module, state = select.load(name)
        if module is None:
            pytest.skip(f"backend '{name}': {state}")
    with cuda_on_host() as (cupy, native):
        yield SimpleNamespace(cupy=cupy, native=native)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Both dtypes in turn."""
    return np.dtype(request.param)


# ---------------------------------------------------------------- the accuracy table


def pytest_addoption(parser):
    parser.addoption(
        "--accuracy-json", metavar="PATH", help="write the worst errors of this run (bench/accuracy_table.py)"
    )
    parser.addoption(
        "--share", metavar="K/N", default="0/1", help="only every N-th test, drawn by its name: K from 0 to N - 1"
    )


def pytest_collection_modifyitems(config, items):
    share, shares = (int(part) for part in config.getoption("--share").split("/"))
    if not 0 <= share < shares:
        raise pytest.UsageError(f"--share K/N wants 0 <= K < N, given {share}/{shares}")
    left = [item for item in items if zlib.crc32(item.nodeid.encode()) % shares != share]
    if left:
        config.hook.pytest_deselected(items=left)
        out = set(left)
        items[:] = [item for item in items if item not in out]


def pytest_report_header(config):
    return [f"fastntk {fastntk.__version__}: {name} {state}" for name, state in select.availability().items()]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(["git", *args], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def accuracy_report() -> dict:
    """What the run has measured, and where."""
    return {
        "machine": {"processor": _processor(), "platform": f"{platform.system()} {platform.machine()}"},
        "versions": {"fastntk": fastntk.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "git": {"commit": _git("rev-parse", "HEAD"), "changed": bool(_git("status", "--porcelain"))},
        "cells": [
            {**vars(key), "error": error, "bound": tolerances.bound(key.quantity, key.dtype)}
            for key, error in sorted(helpers.WORST.items(), key=lambda item: tuple(vars(item[0]).values()))
        ],
    }


def pytest_sessionfinish(session):
    path = session.config.getoption("--accuracy-json")
    if path:
        Path(path).write_text(json.dumps(accuracy_report(), indent=1) + "\n")


def pytest_terminal_summary(terminalreporter):
    if helpers.LARGEST_RATIO:
        terminalreporter.section("largest error / bound")
        for (quantity, dtype), ratio in sorted(helpers.LARGEST_RATIO.items()):
            terminalreporter.line(f"{quantity:<20} {dtype:<8} {ratio:.3g}")
