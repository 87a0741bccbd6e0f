"""Taps that never meet the input, and the memory that a container leaves."""

from __future__ import annotations

import numpy as np
import pytest
from fastntk import stax
from fastntk.base import options
from fastntk.network.window import Window
from helpers import assert_close

BOTH = ("nngp", "ntk")


@pytest.mark.parametrize("seed", range(200))
def test_a_window_without_its_outer_taps_reads_the_same(seed):
    rng = np.random.default_rng(seed)
    n, k, t, e = (int(rng.integers(1, most)) for most in (9, 30, 5, 7))
    whole = Window.of("", (n,), (k,), (t,), (e,), "SAME")
    cut = whole.inside()
    left, reads = cut.positions(0), whole.positions(0)
    assert left.shape[1] <= k
    for own, all_ in zip(left, reads, strict=True):
        assert own[own >= 0].tolist() == all_[all_ >= 0].tolist()
    if k > 3 and (reads >= 0).any():  # what is left is used; three taps stay whole
        assert (left[:, [0, -1]] >= 0).any(axis=0).all()


def long_filter(taps, size):
    """A mean over ``taps`` inputs, all but ``size`` of them zeros, by weights: the definition, position by position."""
    x = np.random.default_rng(0).standard_normal((2, size, 2))
    cov = np.einsum("apc,bqc->abpq", x, x) / 2
    low = max(size - 1 + taps - size, 0) // 2
    found = np.zeros((2, 2, size, size))
    for p in range(size):
        for q in range(size):
            tap = np.arange(max(0, low - max(p, q) - size), min(taps, low + 2 * size))
            a, b = p + tap - low, q + tap - low
            inside = (a >= 0) & (a < size) & (b >= 0) & (b < size)
            found[:, :, p, q] = cov[:, :, a[inside], b[inside]].sum(axis=2) / taps
    return x, found


@pytest.mark.parametrize("taps", [15, 1_000, 10**9])
def test_a_filter_of_many_taps(taps, dtype, backend):
    x, exact = long_filter(taps, 8)
    net = stax.Conv(1, (taps,), padding="SAME", W_std=taps**0.5).kernel_fn
    found = net(x.astype(dtype), None, "nngp")
    assert_close(found, taps * exact, "nngp 10", dtype, scale=np.abs(taps * exact).max())
    bent = stax.serial(stax.Conv(1, (taps,), padding="SAME", W_std=taps**0.5), stax.Relu(), stax.Dense(1)).kernel_fn
    assert np.isfinite(bent(x.astype(dtype), None, "ntk")).all()


@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("taps", [15, 10**9])
def test_a_pool_of_many_taps(taps, edges, dtype, backend):
    """Every window holds all positions: a mean over them, of all taps or of those inside."""
    x = np.random.default_rng(0).standard_normal((3, 8, 2)).astype(dtype)
    pool = stax.AvgPool((taps,), padding="SAME", normalize_edges=edges)
    found = stax.serial(stax.Conv(1, (1,)), pool, stax.Conv(1, (1,), W_std=taps / 8)).kernel_fn(x, None, "nngp")
    mean = x.astype(float).mean(axis=1)
    wanted = (mean @ mean.T / 2)[:, :, None, None] * np.ones((8, 8)) * ((taps / 8) ** 2 if edges else 1)
    assert_close(found, wanted, "nngp 10", dtype, scale=np.abs(wanted).max())


def write(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def group(base, limit, use, given_back, version):
    names = (
        ("memory.max", "memory.current", "inactive_file")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    )
    return {
        f"{base}/{names[0]}": f"{limit}\n", f"{base}/{names[1]}": f"{use}\n",
        f"{base}/memory.stat": f"anon 5\n{names[2]} {given_back}\n",
    }  # fmt: skip


V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("membership", "files", "found"),
    [
        ("0::/\n", group(V2, 1000, 400, 50, 2), 650),
        ("0::/\n", group(V2, "max", 400, 50, 2), None),
        ("0::/a/b\n", group(f"{V2}/a/b", "max", 400, 0, 2) | group(f"{V2}/a", 900, 500, 0, 2), 400),
        ("0::/of/the/host\n", group(V2, 1000, 1200, 0, 2), 0),
        ("4:cpu,memory:/x\n1:name=systemd:/x\n0::/x\n", group(f"{V1}/x", 1000, 400, 50, 1), 650),
        ("4:memory:/docker/7f\n", group(V1, 1000, 400, 0, 1), 600),
        ("4:cpu:/x\n", group(f"{V1}/x", 1000, 400, 50, 1), None),
        ("0::/\n", {}, None),
    ],
)
def test_the_memory_of_a_container(membership, files, found, tmp_path, monkeypatch):
    write(tmp_path, {"proc/self/cgroup": membership, **files})
    assert options.container_memory(str(tmp_path)) == found
    monkeypatch.setattr(options, "container_memory", lambda: found)
    everything = options._system_memory()
    assert options.available_memory() == (everything if found is None else min(found, everything))


def test_without_control_groups(tmp_path):
    assert options.container_memory(str(tmp_path)) is None
