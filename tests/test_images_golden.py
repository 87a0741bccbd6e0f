"""Images: values of Neural Tangents 0.6.5 in float64 (golden/make_image_golden.py wrote them), and the oracle's."""

from __future__ import annotations

from pathlib import Path

import image_oracle
import numpy as np
import pytest
from fastntk import stax
from golden.image_networks import inputs, networks
from tolerances import FLOOR

BOUND = 1e-10
NETWORKS = networks(stax)
POSITIONS = [name for name in NETWORKS if name.startswith("positions")]


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "neural_tangents_images.npz") as file:
        return dict(file)


def variances(cov):
    """(n, h, w) of covariances (n, h, h', w, w')."""
    letters = "ijk"[: (cov.ndim - 1) // 2]
    return np.einsum(f"a{''.join(2 * c for c in letters)}->a{letters}", cov)


def floor(golden, name, second):
    """Without a readout, entries of different positions may cross zero: the size they are measured by where small."""
    v1, v2 = (variances(golden[f"{name}: {field} x1, x2"]) for field in ("cov1", second))
    if v1.ndim == 1:
        return 0.0
    axes = range(1, v1.ndim)
    v1 = np.expand_dims(v1, [1, *(2 * a + 1 for a in axes)])
    v2 = np.expand_dims(v2, [0, *(2 * a for a in axes)])
    return FLOOR * np.sqrt(v1 * v2)


def worst(found, golden, floor=0.0):
    assert found.shape == golden.shape
    return np.max(np.abs(found - golden) / np.maximum(np.abs(golden), floor))


def test_every_network_has_golden_values(golden):
    assert {key.split(":")[0] for key in golden} == {*NETWORKS, "versions"}


@pytest.mark.parametrize("name", NETWORKS)
def test_two_sets(name, golden, backend):
    size, net = NETWORKS[name]
    fields = ("nngp", "ntk") if name in POSITIONS else ("nngp", "ntk", "cov1", "cov2")
    found = net.kernel_fn(*inputs(size), fields)
    for field, value in found._asdict().items():
        assert worst(value, golden[f"{name}: {field} x1, x2"], floor(golden, name, "cov2")) <= BOUND, field


@pytest.mark.parametrize("name", NETWORKS)
def test_one_set(name, golden, backend):
    """Off the diagonal: on it, the square root of a rounding error costs Neural Tangents half its digits."""
    size, net = NETWORKS[name]
    found = net.kernel_fn(inputs(size)[0], None, ("nngp", "ntk"))
    apart = ~np.eye(len(found.nngp), dtype=bool)
    least = np.broadcast_to(floor(golden, name, "cov1"), found.nngp.shape)[apart]
    for field, value in found._asdict().items():
        assert worst(value[apart], golden[f"{name}: {field} x1, x1"][apart], least) <= BOUND, field


@pytest.mark.parametrize("name", POSITIONS)
def test_covariances_of_positions(name, golden, backend):
    """``cov1`` of an output with positions holds all pairs of them: (n, h, h', w, w')."""
    size, net = NETWORKS[name]
    k = net.kernel_fn(*inputs(size))
    for field in ("cov1", "cov2"):
        expected = golden[f"{name}: {field} x1, x2"]
        assert worst(getattr(k, field), expected, FLOOR * np.abs(expected).max()) <= BOUND


@pytest.mark.parametrize("name", NETWORKS)
def test_the_oracle(name, golden):
    """Two programs without a line in common: to within the cancellations that the kernels' own definition has."""
    size, net = NETWORKS[name]
    x1, x2 = inputs(size)
    found = image_oracle.kernels(net, x1, x2, 1 if size == "channels first" else -1)
    for field in ("nngp", "ntk"):
        assert worst(found[field], golden[f"{name}: {field} x1, x2"], floor(golden, name, "cov2")) <= 1e-12
    for field in ("cov1", "cov2"):
        assert worst(found[f"q{field[-1]}"], variances(golden[f"{name}: {field} x1, x2"])) <= 1e-12
