"""Gram matrices by the workers of a Dask cluster: same bits, and killed workers, schedulers and clients."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import fastntk
import numpy as np
import pytest
from fastntk import scale
from fastntk.scale.cluster import Sent
from scale_inputs import BOTH, CASES, expected, rows, rows_network

pytestmark = [pytest.mark.rivals, pytest.mark.filterwarnings("default")]  # of Dask and tornado, while they shut down

distributed = pytest.importorskip("distributed")
pytest.importorskip("zarr")

SOURCES = os.pathsep.join([str(Path(fastntk.__file__).parents[1]), str(Path(__file__).parent)])


@pytest.fixture
def environment(monkeypatch):
    """Workers find the package and these tests."""
    path = os.pathsep.join([SOURCES, os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("FASTNTK_NUM_THREADS", "1")
    return dict(os.environ)


@pytest.fixture
def cluster(environment):
    """Two workers, each in a process with a nanny that starts it again."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=None
        ) as started,
        distributed.Client(started) as client,
    ):
        yield started, client


def pids(started):
    return [w.process.pid for w in started.workers.values() if w.process is not None and w.process.pid]


def test_workers_compute_the_same_bits(cluster, tmp_path):
    _, client = cluster
    for case, (kernel_fn, draw) in CASES.items():
        for second in (None, draw(25, np.float32, 1)):
            store = f"{tmp_path}/{case}-{second is None}.zarr"
            found = scale.gram(kernel_fn, draw(50), store, BOTH, second, chunks=12, client=client, progress=False)
            for name, k in zip(BOTH, found, strict=True):
                assert np.array_equal(k[:], expected(kernel_fn, draw(50), second, name, 12))
            assert scale.verify(store).complete
    x = rows(40)
    k = scale.gram(rows_network(), x, tmp_path / "k.npy", "ntk", chunks=15, client=client, progress=False)
    assert np.array_equal(k, expected(rows_network(), x, None, "ntk", 15))
    chunk = tmp_path / "rows-True.zarr" / "ntk" / "c" / "1" / "2"
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    kernel_fn, draw = CASES["rows"]
    store = f"{tmp_path}/rows-True.zarr"
    assert not scale.verify(store).complete
    scale.gram(kernel_fn, draw(50), store, BOTH, chunks=12, client=client, progress=False)
    assert scale.verify(store).complete
    with pytest.raises(scale.StoreMismatchError, match="x1: "):
        scale.gram(kernel_fn, draw(50) + 1, store, BOTH, chunks=12, client=client, progress=False)


def test_workers_are_killed(cluster, tmp_path):
    started, client = cluster
    kernel_fn, draw = CASES["images"]
    stop, killed, rng = threading.Event(), [], random.Random(0)

    def kill():
        while not stop.wait(0.7) and len(killed) < 4:
            if found := pids(started):
                killed.append(rng.choice(found))
                os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    store = str(tmp_path / "k.zarr")
    rounds = 0
    try:
        while len(killed) < 4:  # another store until all have died in work
            store = str(tmp_path / f"k{rounds}.zarr")
            k = scale.gram(kernel_fn, draw(60), store, "ntk", chunks=4, client=client, progress=False)
            assert np.array_equal(k[:], kernel_fn(draw(60), None, "ntk"))
            rounds += 1
    finally:
        stop.set()
        killer.join()
    assert scale.verify(store).complete


def test_workers_are_killed_while_arrays_are_sent(cluster):
    """Dask's own way of sending to all workers never returns then."""
    started, client = cluster
    sent, killed, stop = Sent(client, lambda name: np.full(1_000_000, name)), [], threading.Event()

    def kill():
        while not stop.wait(0.4) and len(killed) < 4:
            if found := pids(started):
                killed.append(found[-1])
                os.kill(found[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    arrived, name = 0, 0
    try:
        while len(killed) < 4 or not arrived:
            name += 1
            # Where nobody is there, who hands out asks again.
            with contextlib.suppress(OSError, TimeoutError, CancelledError, distributed.KilledWorker):
                client.wait_for_workers(1, timeout=30)
                futures = [client.submit(np.sum, sent[name], pure=False) for _ in range(4)]
                arrived += all(future.result(timeout=30) == 1_000_000 * name for future in futures)
    finally:
        stop.set()
        killer.join()


def test_errors_of_workers_come_back(cluster, tmp_path):
    _, client = cluster
    store = tmp_path / "k.zarr"
    x = rows(40)
    scale.gram(rows_network(), x, store, "ntk", chunks=10, client=client, progress=False)
    journal = store / "ntk" / ".fastntk" / "blocks-000000.txt"
    journal.write_text("")
    for path in (store / "ntk" / "c").rglob("*"):
        if path.is_file():
            path.unlink()
    for folder in sorted((store / "ntk" / "c").iterdir()):
        folder.rmdir()
        folder.write_text("in the way")
    with pytest.raises(OSError, match=r"\[gram\] .*k.zarr: block ., . is not written"):
        scale.gram(rows_network(), x, store, "ntk", chunks=10, client=client, progress=False)


def test_what_is_no_client(tmp_path):
    with pytest.raises(TypeError, match=r"must be a distributed\.Client, given str"):
        scale.gram(rows_network(), rows(10), tmp_path / "k.zarr", "ntk", client="tcp://127.0.0.1:8786")


def scheduler_and_worker(folder, environment):
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    file = str(folder / f"scheduler-{time.monotonic_ns()}.json")
    run = [sys.executable, "-m"]
    scheduler = [*run, "distributed.cli.dask_scheduler", "--scheduler-file", file, "--no-dashboard"]
    worker = [*run, "distributed.cli.dask_worker", "--scheduler-file", file, "--no-dashboard", "--no-nanny"]
    return file, [
        subprocess.Popen([*scheduler, "--port", "0", "--host", "127.0.0.1"], **quiet),
        subprocess.Popen([*worker, "--nthreads", "1"], **quiet),
    ]


@pytest.fixture
def servers(tmp_path, environment):
    """Starts a scheduler and a worker in processes of their own; ends those that are left."""
    running = []

    def start():
        file, found = scheduler_and_worker(tmp_path, environment)
        running.extend(found)
        return file, found

    yield start
    for process in running:
        process.kill()
        process.wait()


def wait_for_blocks(store, count):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lines = [p.read_text().count("\n") for p in Path(store).rglob("blocks-*.txt")]
        if sum(lines) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"{store}: not {count} blocks in a minute")


def test_the_scheduler_is_killed(servers, tmp_path, monkeypatch):
    monkeypatch.setattr("fastntk.scale.cluster._PATIENCE", 20)
    kernel_fn, draw = CASES["images"]
    store = str(tmp_path / "k.zarr")
    file, (scheduler, _) = servers()
    client = distributed.Client(scheduler_file=file)

    def kill():
        wait_for_blocks(store, 15)
        scheduler.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(scale.StoreError, match="scheduler is gone"):
            scale.gram(kernel_fn, draw(60), store, "ntk", chunks=3, client=client, progress=False)
    finally:
        killer.join()
        client.close(timeout=1)
    missing = len(scale.verify(store).missing)
    assert 0 < missing <= 400 - 15
    file, _ = servers()
    with distributed.Client(scheduler_file=file) as client:
        k = scale.gram(kernel_fn, draw(60), store, "ntk", chunks=3, client=client, progress=False)
    assert np.array_equal(k[:], kernel_fn(draw(60), None, "ntk"))


def test_the_connection_is_cut(servers, tmp_path):
    kernel_fn, draw = CASES["images"]
    store = str(tmp_path / "k.zarr")
    file, _ = servers()
    with distributed.Client(scheduler_file=file) as client:
        cut = []

        def abort():
            wait_for_blocks(store, 15)
            client.loop.add_callback(client.scheduler_comm.comm.abort)
            cut.append(len(scale.verify(store).missing))

        cutter = threading.Thread(target=abort)
        cutter.start()
        k = scale.gram(kernel_fn, draw(60), store, "ntk", chunks=3, client=client, progress=False)
        cutter.join()
    assert cut[0] > 0  # in the middle of the work
    assert np.array_equal(k[:], kernel_fn(draw(60), None, "ntk"))
    assert scale.verify(store).complete


CLIENT = """
    import sys
    import distributed
    from fastntk import scale
    from scale_inputs import CASES
    kernel_fn, draw = CASES["images"]
    with distributed.Client(scheduler_file=sys.argv[1]) as client:
        scale.gram(kernel_fn, draw(60), sys.argv[2], "ntk", chunks=3, client=client, progress=False)
"""


def test_the_client_is_killed(servers, tmp_path, environment):
    kernel_fn, draw = CASES["images"]
    store = str(tmp_path / "k.zarr")
    file, _ = servers()
    for count in (15, 60):
        command = [sys.executable, "-c", textwrap.dedent(CLIENT), file, store]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        wait_for_blocks(store, count)
        process.kill()
        process.wait()
    assert scale.verify(store).missing
    with distributed.Client(scheduler_file=file) as client:
        k = scale.gram(kernel_fn, draw(60), store, "ntk", chunks=3, client=client, progress=False)
    assert np.array_equal(k[:], kernel_fn(draw(60), None, "ntk"))
    assert scale.verify(store).complete
