"""Solves over tiles: to the residual that was asked for, with the same bits after any kill and on any workers."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import fastntk
import numpy as np
import pytest
from scale_inputs import rows, rows_network

pytest.importorskip("scipy")

from fastntk import predict, scale
from fastntk.scale import solve, tiles

KERNEL = rows_network()
N, OUTPUTS = 230, 3
X, TEST = rows(N, np.float64), rows(40, np.float64, 1)
Y = np.stack([np.sin(X[:, 0]), X[:, 1] ** 2, np.zeros(N)], axis=1)
GIVEN = {"diag_reg": 1e-3, "tol": 1e-9, "chunks": 50, "rank": 60}


def solved(x=X, y=Y, get="ntk", kernel_fn=KERNEL, **kwargs):
    return scale.conjugate_gradient(kernel_fn, x, y, get, **{**GIVEN, **kwargs})


@pytest.fixture(scope="module")
def whole():
    return solved()


@pytest.mark.parametrize("get", ["nngp", "ntk"])
def test_the_residual_is_met(get):
    found = solved(get=get)
    k = KERNEL(X, None, get)
    reg = 1e-3 * k.diagonal().mean()
    left = Y - k @ found.alpha - reg * found.alpha
    size = np.linalg.norm(Y, axis=0)
    assert (np.linalg.norm(left, axis=0) <= 2e-9 * size).all()
    assert found.diag_reg == pytest.approx(reg, rel=1e-12)
    assert found.residuals[-1].max() <= 1e-9
    exact = KERNEL(TEST, X, get) @ np.linalg.solve(k + reg * np.eye(N), Y)
    assert np.abs(found(TEST) - exact).max() <= 1e-7
    own = predict.conjugate_gradient(KERNEL, X, Y, get, 1e-3, tol=1e-9, rank=60)
    assert abs(found.iterations - own.iterations) <= 1
    assert np.allclose(found.residuals[:8], own.residuals[:8], rtol=1e-9, atol=0)  # rounding grows with the steps


def test_a_store_is_read(tmp_path, whole, monkeypatch):
    for _ in range(2):
        found = solved(store=tmp_path / "k.npy")
        assert np.array_equal(found.alpha, whole.alpha)
        assert np.array_equal(found.residuals, whole.residuals)
    assert scale.verify(tmp_path / "k.npy").complete
    calls = []
    block = tiles.Products.kernel
    monkeypatch.setattr(tiles.Products, "kernel", lambda *args: calls.append(1) or block(*args))
    solved(store=tmp_path / "k.npy")
    assert len(calls) <= 2 * 60  # of the preconditioner, and none of any iteration
    with pytest.raises(scale.StoreMismatchError, match="network: "):
        solved(store=tmp_path / "k.npy", kernel_fn=rows_network(1.5))


@pytest.mark.parametrize("at", [1, 3, 4, 8])
def test_an_iteration_goes_on_where_it_was(at, tmp_path, whole, monkeypatch):
    path = tmp_path / "state.npz"
    product, calls = tiles.Tiles.product, []

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) in (at, at + 3):
            raise KeyboardInterrupt
        return product(self, *args)

    monkeypatch.setattr(tiles.Tiles, "product", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            solved(checkpoint=path, checkpoint_seconds=0)
    found = solved(checkpoint=path, checkpoint_seconds=0)
    assert np.array_equal(found.alpha, whole.alpha)
    assert np.array_equal(found.residuals, whole.residuals)
    assert len(calls) == whole.passes + 2  # nothing but what was interrupted is done again
    again = solved(checkpoint=path)
    assert np.array_equal(again.alpha, whole.alpha)
    assert len(calls) == whole.passes + 3


def test_iterations_that_were_too_few_go_on(tmp_path):
    path = tmp_path / "state.npz"
    with pytest.raises(predict.ConvergenceError, match="in max_iter = 3"):
        solved(checkpoint=path, max_iter=3)
    found = solved(checkpoint=path)
    assert found.residuals[-1].max() <= 1e-9
    assert found.iterations > 3


KILLED = """
    import os, signal, sys
    sys.path.insert(0, {tests!r})
    from fastntk.scale import tiles
    from test_scale_solve import solved
    product, calls = tiles.Tiles.product, []
    def killed(self, *args):
        calls.append(1)
        if len(calls) == {at}:
            os.kill(os.getpid(), signal.SIGKILL)
        return product(self, *args)
    tiles.Tiles.product = killed
    solved(checkpoint={path!r}, checkpoint_seconds=0)
"""


def test_killed_in_the_middle(tmp_path, whole):
    path = str(tmp_path / "state.npz")
    where = os.pathsep.join([str(Path(fastntk.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    for at in (4, 3):
        script = textwrap.dedent(KILLED.format(tests=str(Path(__file__).parent), at=at, path=path))
        done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": where}, check=False)
        assert done.returncode == -signal.SIGKILL
    found = solved(checkpoint=path)
    assert np.array_equal(found.alpha, whole.alpha)
    assert np.array_equal(found.residuals, whole.residuals)


def test_checkpoints_that_do_not_fit(tmp_path, monkeypatch):
    path = tmp_path / "state.npz"
    solved(checkpoint=path)
    before = path.read_bytes()
    for change, of in (
        ({"y": Y + 1}, "y"),
        ({"x": X + 1}, "x1"),
        ({"kernel_fn": rows_network(1.5)}, "network"),
        ({"get": "nngp"}, "get"),
        ({"diag_reg": 2e-3}, "diag_reg"),
        ({"rank": 11}, "rank"),
        ({"rng": 1}, "rng"),
        ({"chunks": 60}, "chunks"),
    ):
        with pytest.raises(scale.StoreMismatchError, match=f"of another solve.*{of}: ") as caught:
            solved(checkpoint=path, **change)
        assert of in caught.value.differing
    assert path.read_bytes() == before
    path.write_bytes(before[: len(before) // 2])
    with pytest.raises(scale.StoreError, match="cannot be read"):
        solved(checkpoint=path)

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(solve, "write_whole", full)
    with pytest.raises(OSError, match=r"the checkpoint is not written: No space") as caught:
        solved(checkpoint=tmp_path / "new.npz", checkpoint_seconds=0)
    assert caught.value.errno == errno.ENOSPC


def test_input_that_does_not_fit(tmp_path):
    for kind, words, change in (
        (TypeError, "rng must be an integer", {"rng": np.random.default_rng(0)}),
        (TypeError, "checkpoint must be a path", {"checkpoint": 3}),
        (ValueError, r"must end in \.npz", {"checkpoint": tmp_path / "state"}),
        (TypeError, "get must be one name", {"get": ("nngp", "ntk")}),
        (ValueError, "tol must be between 0 and 1", {"tol": 2}),
        (ValueError, "max_iter must be", {"max_iter": 0}),
        (ValueError, "memory_budget must be at least 1", {"memory_budget": 0}),
        (TypeError, "must be that of a network", {"kernel_fn": lambda x1, x2, get: x1}),
        (ValueError, "y_train of shape", {"y": Y[1:]}),
        (ValueError, "x_train", {"x": np.full_like(X, np.nan)}),
    ):
        with pytest.raises(kind, match=words):
            solved(**change)


@pytest.mark.parametrize("get", ["nngp", "ntk"])
def test_variances_and_what_they_may_be_off_by(get):
    k, cross = KERNEL(X, None, get), KERNEL(TEST, X, get)
    reg = 1e-2 * k.diagonal().mean()
    exact = KERNEL.diagonal(TEST, get) - np.einsum("ij,ji->i", cross, np.linalg.solve(k + reg * np.eye(N), cross.T))
    for tol in (1e-1, 1e-3, 1e-8):
        found = scale.posterior_variance(KERNEL, X, TEST, get, 1e-2, tol=tol, rank=20, chunks=50, together=16)
        rounding = 1e-13 * k.diagonal().max()
        assert (found.variance >= exact - rounding).all()
        assert (found.variance <= exact + found.error + rounding).all()
        assert (found.error <= 1.001 * tol**2 * (cross**2).sum(axis=1) / reg).all()
    assert found.passes > 3
    for kind, words, change in (
        (ValueError, "diag_reg must be positive", {"diag_reg": 0.0}),
        (ValueError, "rank must be at most", {"rank": N + 1}),
        (ValueError, "together must be at least 1", {"together": 0}),
        (TypeError, "rng must be an integer", {"rng": None}),
        (TypeError, "get must be one name", {"get": ("nngp",)}),
    ):
        with pytest.raises(kind, match=words):
            scale.posterior_variance(KERNEL, X, TEST, **change)


@pytest.mark.rivals
@pytest.mark.filterwarnings("default")  # of Dask and tornado, while they shut down
def test_workers_make_the_same_bits(tmp_path, whole, monkeypatch):
    distributed = pytest.importorskip("distributed")
    where = os.pathsep.join([str(Path(fastntk.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", where)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        found = solved(client=client)
        assert np.array_equal(found.alpha, whole.alpha)
        assert np.array_equal(found(TEST), whole(TEST))
        stored = solved(client=client, store=tmp_path / "k.npy")
        assert np.array_equal(stored.alpha, whole.alpha)
        killer = threading.Timer(0.5, lambda: os.kill(next(iter(cluster.workers.values())).process.pid, signal.SIGKILL))
        killer.start()
        again = solved(client=client, chunks=25)
        killer.join()
    assert again.residuals[-1].max() <= 1e-9
    assert np.abs(again.alpha - whole.alpha).max() <= 1e-6 * np.abs(whole.alpha).max()
