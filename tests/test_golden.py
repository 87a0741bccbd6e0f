"""Values of Neural Tangents 0.6.5 in float64 (golden/make_golden.py wrote them), by the same lines of ``stax``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fastntk import stax
from golden.networks import inputs, networks

BOUND = 1e-10
NETWORKS = networks(stax)


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "neural_tangents.npz") as file:
        return dict(file)


def worst(found, golden):
    return np.max(np.abs(found - golden) / np.abs(golden))


def test_every_network_has_golden_values(golden):
    assert {key.split(":")[0] for key in golden} == {*NETWORKS, "versions"}


@pytest.mark.parametrize("name", NETWORKS)
def test_two_sets(name, golden, backend):
    found = NETWORKS[name].kernel_fn(*inputs(), ("nngp", "ntk", "cov1", "cov2"))
    for field, value in found._asdict().items():
        assert worst(value, golden[f"{name}: {field} x1, x2"]) <= BOUND, field


@pytest.mark.parametrize("name", NETWORKS)
def test_one_set(name, golden, backend):
    """Off the diagonal: on it, the square root of a rounding error costs Neural Tangents half its digits."""
    found = NETWORKS[name].kernel_fn(inputs()[0], None, ("nngp", "ntk"))
    apart = ~np.eye(len(found.nngp), dtype=bool)
    for field, value in found._asdict().items():
        assert worst(value[apart], golden[f"{name}: {field} x1, x1"][apart]) <= BOUND, field
