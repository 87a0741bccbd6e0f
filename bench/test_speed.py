"""The cases in small, for pytest-benchmark: ``pytest bench --benchmark-only``. Full sizes: run.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import rivals
import run
from cases import CASES, Case

SMALL = [replace(case, **case.small) for case in CASES if case.small]


def _contenders(case: Case) -> list[str]:
    return ["fastntk", "product", *case.rivals]


@pytest.mark.parametrize(
    ("case", "name"), [pytest.param(c, name, id=f"{c.name}-{name}") for c in SMALL for name in _contenders(c)]
)
def test_speed(benchmark: Any, case: Case, name: str) -> None:
    benchmark.group = f"{case.name}, n = {case.n}" + (f", batch = {case.batch}" if case.batch else "")
    x = case.inputs()
    mine = run.ours(case, x)
    try:
        calls = {"fastntk": mine, **run.floors(case, x)}
        call = calls[name] if name in calls else rivals.RIVALS[name](case, x)
    except rivals.Missing as reason:
        pytest.skip(f"{name}: {reason}")
    first = call()
    if name == "product":
        assert first.shape == (*x.shape[:-1], case.n)
    elif name == "fastntk":
        few = replace(case, n=min(case.n, 50), backend="numpy", dtype="float64")
        start = (slice(None), slice(50)) if case.batch else slice(50)
        true = run.ours(few, x[start].astype(np.float64))()
        for found, expected in zip(first, true, strict=True):
            np.testing.assert_allclose(found[..., :50, :50], expected, rtol=1e-5, atol=1e-5 * expected.max())
    else:
        run.check(case, {"fastntk": list(mine()), name: rivals.arrays(first)})
    benchmark(call)
