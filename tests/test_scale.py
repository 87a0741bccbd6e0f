"""Gram matrices in plain files: whole or absent blocks, whatever ends the work."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import fastntk
import numpy as np
import pytest
from fastntk import scale, stax
from fastntk.scale import lock, targets
from fastntk.scale.folders import LocalFolder
from fastntk.scale.work import Work, transposed
from scale_inputs import BOTH, CASES, expected, rows, rows_network

KERNEL = rows_network()
PLAIN = {"progress": False, "chunks": 20}


def npy(path, get="ntk", x=None, **kwargs):
    return scale.gram(KERNEL, rows(70) if x is None else x, path, get, **{**PLAIN, **kwargs})


@pytest.fixture
def count(monkeypatch):
    """Blocks that were computed."""
    seen = []
    call = type(KERNEL).__call__

    def counted(self, *args, **kwargs):
        seen.append(1)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(type(KERNEL), "__call__", counted)
    return seen


@pytest.mark.parametrize("case", CASES)
def test_a_file_is_what_one_call_computes(case, dtype, tmp_path):
    kernel_fn, draw = CASES[case]
    x, x2 = draw(50, dtype), draw(31, dtype, 1)
    for second in (None, x2):
        for get in BOTH:
            path = tmp_path / f"{get}-{second is None}.npy"
            k = scale.gram(kernel_fn, x, path, get, second, **PLAIN)
            want = expected(kernel_fn, x, second, get, 20)
            assert isinstance(k, np.memmap)
            assert k.dtype == dtype
            assert np.array_equal(k, want)
            assert np.array_equal(np.load(path), want)
            assert np.array_equal(scale.load(path), want)
            assert scale.verify(path).complete


def test_memmaps_of_the_callers(tmp_path):
    x = rows(45, np.float64)
    made = tuple(np.memmap(tmp_path / name, np.float64, "w+", 64, (45, 45)) for name in ("a", "b"))
    found = scale.gram(KERNEL, x, made, ("ntk", "nngp"), **PLAIN)
    assert type(found)._fields == ("ntk", "nngp")
    for name, k, own in zip(found._fields, found, made, strict=True):
        want = expected(KERNEL, x, None, name, 20)
        assert np.array_equal(k, want)
        assert np.array_equal(own, want)
    assert (tmp_path / "a.journal" / "manifest.json").exists()


def test_blocks_that_are_there_are_not_computed_again(tmp_path, count):
    path = tmp_path / "k.npy"
    npy(path)
    assert len(count) == 10
    npy(path)
    npy(path, verify=False)
    assert len(count) == 10


def test_ctrl_c_loses_one_block(tmp_path, monkeypatch, count):
    path = tmp_path / "k.npy"
    put, calls = targets.MemmapTarget.put, []

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        put(self, *args)

    monkeypatch.setattr(targets.MemmapTarget, "put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        npy(path)
    assert len(count) == 4  # one on the diagonal, two with their mirror images, one that is lost
    with pytest.raises(scale.UnfinishedError, match="11 of 16 blocks are missing"):
        scale.load(path)
    assert len(scale.verify(path).missing) == 11
    k = npy(path)
    assert len(count) == 10 + 1
    assert np.array_equal(k, expected(KERNEL, rows(70), None, "ntk", 20))


KILLED = """
    import os, signal, sys
    import numpy as np
    sys.path.insert(0, {tests!r})
    from fastntk import scale
    from fastntk.scale import targets
    from scale_inputs import CASES
    kernel_fn, draw = CASES[{case!r}]
    at, where = {at}, {where!r}
    put, calls = targets.{target}.put, []
    def killed(self, name, row, column, block):
        calls.append(1)
        if len(calls) == at:
            if where == "half":
                block = np.where(np.arange(len(block))[:, None] < len(block) // 2, block, 0)
            if where != "before":
                put(self, name, row, column, block)
            os.kill(os.getpid(), signal.SIGKILL)
        put(self, name, row, column, block)
    targets.{target}.put = killed
    scale.gram(kernel_fn, draw({n}), {store!r}, ("nngp", "ntk"), chunks=10, progress=False)
"""


def run_killed(store, case, n, target, at, where):
    script = KILLED.format(
        tests=str(Path(__file__).parent), case=case, n=n, store=store, at=at, where=where, target=target
    )
    path = os.pathsep.join([str(Path(fastntk.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env={**os.environ, "PYTHONPATH": path}, check=False
    ).returncode  # fmt: skip


@pytest.mark.rivals
@pytest.mark.parametrize("case", CASES)
def test_killed_five_times(case, tmp_path):
    pytest.importorskip("zarr")
    kernel_fn, draw = CASES[case]
    store, rng = str(tmp_path / "k.zarr"), np.random.default_rng(len(case))
    for where in ("before", "half", "behind", "half", "behind"):
        assert run_killed(store, case, 40, "ZarrTarget", int(rng.integers(1, 7)), where) == -signal.SIGKILL
    found = scale.gram(kernel_fn, draw(40), store, BOTH, chunks=10, progress=False)
    whole = scale.gram(kernel_fn, draw(40), str(tmp_path / "whole.zarr"), BOTH, chunks=10, progress=False)
    for name, k, never in zip(BOTH, found, whole, strict=True):
        want = expected(kernel_fn, draw(40), None, name, 10)
        assert np.array_equal(k[:], want)
        assert np.array_equal(never[:], want)
    assert scale.verify(store).complete
    assert not list(Path(store).rglob("*.partial"))


@pytest.mark.rivals
@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_damaged_blocks_are_found_and_computed_again(damage, tmp_path, count):
    pytest.importorskip("zarr")
    store = tmp_path / "k.zarr"
    scale.gram(KERNEL, rows(70), store, BOTH, **PLAIN)
    before = len(count)
    chunk = store / "ntk" / "c" / "3" / "1"
    content = chunk.read_bytes()
    if damage == "gone":
        chunk.unlink()
    else:
        chunk.write_bytes(content[:-5] if damage == "cut" else bytes([content[0] ^ 1]) + content[1:])
    report = scale.verify(store)
    assert report.damaged == (("ntk", 3, 1),)
    assert not report.complete
    k = scale.gram(KERNEL, rows(70), store, BOTH, **PLAIN)
    assert len(count) == before + 1
    assert chunk.read_bytes() == content
    assert np.array_equal(k.ntk[:], expected(KERNEL, rows(70), None, "ntk", 20))
    assert scale.verify(store).complete


def test_damaged_journals_cost_their_blocks(tmp_path, count):
    path = tmp_path / "k.npy"
    npy(path)
    journal = tmp_path / "k.npy.journal" / "blocks-000000.txt"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([lines[0][:-3], *lines[1:-1], "ntk 2 2 zzzzzzzz"]))
    assert len(scale.verify(path).missing) == 2
    before = len(count)
    npy(path)
    assert len(count) == before + 2
    (tmp_path / "k.npy.journal" / "manifest.json").write_text("{")
    with pytest.raises(scale.StoreError, match="damaged"):
        npy(path)


def test_a_full_disk_keeps_what_is_done(tmp_path, monkeypatch, count):
    path = tmp_path / "k.npy"
    put, full = targets.MemmapTarget.put, [True]

    def put_until_full(self, name, row, column, block):
        if (row, column) == (1, 2) and full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(self, name, row, column, block)

    monkeypatch.setattr(targets.MemmapTarget, "put", put_until_full)
    with pytest.raises(OSError, match=r"\[gram\] .*k.npy: block 1, 2 is not written: No space left") as caught:
        npy(path)
    assert caught.value.errno == errno.ENOSPC
    done, full[0] = len(count) - 1, False
    npy(path)
    assert len(count) == done + 1 + 10 - done
    assert scale.verify(path).complete


def test_a_full_disk_is_seen_before_work(tmp_path, monkeypatch, count):
    monkeypatch.setattr(targets, "free_bytes", lambda path: 1000)
    with pytest.raises(OSError, match="GiB are to be written") as caught:
        npy(tmp_path / "k.npy")
    assert caught.value.errno == errno.ENOSPC
    assert count == []
    assert not (tmp_path / "k.npy").exists()


def test_paths_that_take_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"\[gram\] .*k.npy: the journal is not written"):
        npy(tmp_path / "file" / "k.npy")

    def read_only(self):
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(LocalFolder, "make", read_only)
    with pytest.raises(OSError, match=r"\[gram\] .*k.npy: the journal is not written: Read-only") as caught:
        npy(tmp_path / "k.npy")
    assert caught.value.errno == errno.EROFS


# ---------------------------------------------------------------- one writer


def test_two_writers_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "k.npy"
    compute, raised = Work.__call__, []

    def second(self, *args):
        if not raised:
            raised.append(1)
            with pytest.raises(scale.StoreLockedError, match=r"being written to by process .* of this machine"):
                npy(path)
        return compute(self, *args)

    monkeypatch.setattr(Work, "__call__", second)
    npy(path)
    assert raised
    assert not (tmp_path / "k.npy.journal" / "lock").exists()
    npy(path)


@pytest.mark.parametrize("of", ["nobody", "another", "elsewhere", "unreadable"])
def test_locks_that_were_left(of, tmp_path):
    path = tmp_path / "k.npy"
    npy(path)
    holder = lock.this_process()
    if of == "nobody":
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        holder |= {"pid": ended.pid}
    elif of == "another":
        holder |= {"started": "1"}  # the number went to this process later
    elif of == "elsewhere":
        holder |= {"host": "elsewhere"}
    left = tmp_path / "k.npy.journal" / "lock"
    left.write_text("{" if of == "unreadable" else json.dumps(holder))
    if of in ("nobody", "another"):
        npy(path)
        assert not left.exists()
        return
    words = "on elsewhere: if that has ended, remove" if of == "elsewhere" else "cannot be read"
    with pytest.raises(scale.StoreLockedError, match=words):
        npy(path)
    assert left.exists()


# ---------------------------------------------------------------- one kernel


@pytest.mark.parametrize("of", ["network", "get", "dtype", "x1", "x2", "chunks", "backend", "fastntk"])
def test_another_kernel_is_refused_by_name(of, tmp_path, monkeypatch):
    path = tmp_path / "k.npy"
    npy(path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    kernel_fn, x, kwargs = KERNEL, rows(70), dict(PLAIN)
    if of == "network":
        kernel_fn = rows_network(np.nextafter(1.4, 2))
    elif of == "dtype":
        x = x.astype(np.float64)
    elif of == "x1":
        x[69, 6] = np.nextafter(x[69, 6], np.float32(9))
    elif of == "x2":
        kwargs["x2"] = x
    elif of == "chunks":
        kwargs["chunks"] = 35
    elif of == "backend":
        kwargs["backend"] = "numpy"
        monkeypatch.setattr("fastntk.scale.problem.select", lambda *args: type("Other", (), {"name": "other"}))
    elif of == "fastntk":
        monkeypatch.setattr("fastntk.scale.problem.__version__", "0.0.1")
    with pytest.raises(scale.StoreMismatchError, match=f"holds another kernel.*{of}: ") as caught:
        scale.gram(kernel_fn, x, path, "nngp" if of == "get" else "ntk", **kwargs)
    assert of in caught.value.differing
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_what_was_not_begun_here_is_left_alone(tmp_path):
    np.save(tmp_path / "k.npy", np.zeros(3))
    with pytest.raises(scale.StoreError, match="no journal beside it"):
        npy(tmp_path / "k.npy")
    for call in (scale.load, scale.verify):
        with pytest.raises(scale.StoreError, match="no store that"):
            call(tmp_path / "k.npy")
        with pytest.raises(TypeError, match="must be a path or a URL"):
            call(3)


def test_rows_of_nan_are_blocks_too(tmp_path, count):
    x = rows(40)
    x[:20] = np.nan
    k = npy(tmp_path / "k.npy", x=x, chunks=10)
    assert np.isnan(k[:20]).all()
    assert np.isnan(k[:, :20]).all()
    assert not np.isnan(k[20:, 20:]).any()
    before = len(count)
    npy(tmp_path / "k.npy", x=x, chunks=10)
    assert len(count) == before


def test_input_that_does_not_fit(tmp_path):
    path, x = tmp_path / "k.npy", rows(30)
    several = stax.serial(stax.FanOut(2), stax.parallel(stax.Dense(1), stax.Dense(1)))
    positions = stax.serial(stax.Conv(1, (3, 3)))
    made = np.memmap(tmp_path / "m", np.float32, "w+", 0, (30, 30))
    wrong = np.memmap(tmp_path / "w", np.float64, "w+", 0, (30, 30))
    read = np.memmap(tmp_path / "m", np.float32, "r", 0, (30, 30))
    cases = (
        (TypeError, "must be that of a network", (lambda x1, x2, get: x1, x, path, "ntk")),
        (ValueError, "must name 'nngp', 'ntk' or both", (KERNEL, x, path, "cov1")),
        (ValueError, "must name 'nngp', 'ntk' or both", (KERNEL, x, path, None)),
        (ValueError, "no samples", (KERNEL, x[:0], path, "ntk")),
        (ValueError, "several outputs", (several, x, path, "ntk")),
        (ValueError, "ends with positions", (positions, np.ones((3, 5, 5, 1)), path, "ntk")),
        (TypeError, "one array, given tuple", (KERNEL, (x, x), path, "ntk")),
        (ValueError, "holds one array", (KERNEL, x, path, BOTH)),
        (ValueError, "on this machine only", (KERNEL, x, "s3://bucket/k.npy", "ntk")),
        (TypeError, "a path, a URL or numpy.memmap", (KERNEL, x, np.zeros((30, 30), np.float32), "ntk")),
        (TypeError, "2 memmaps", (KERNEL, x, made, BOTH)),
        (ValueError, "same memmap twice", (KERNEL, x, (made, made), BOTH)),
        (ValueError, "a memmap of", (KERNEL, x, wrong, "ntk")),
        (ValueError, "a part or a view", (KERNEL, x[:10], made[:10, :10], "ntk")),
        (ValueError, "mode 'r'", (KERNEL, x, read, "ntk")),
        (TypeError, "must be a path or a URL", (KERNEL, x, "", "ntk")),
    )
    for kind, words, args in cases:
        with pytest.raises(kind, match=words):
            scale.gram(*args, progress=False)
    for chunks, kind, words in (
        (0, ValueError, "at least 1"),
        (2.5, TypeError, "an integer"),
        ((10, 20), ValueError, "square"),
    ):
        with pytest.raises(kind, match=words):
            scale.gram(KERNEL, x, path, "ntk", chunks=chunks, progress=False)
    assert not path.exists()


def test_integers_count_as_float64(tmp_path):
    x = np.arange(30).reshape(10, 3)
    k = npy(tmp_path / "k.npy", x=x)
    assert k.dtype == np.float64
    assert np.array_equal(k, KERNEL(x, None, "ntk"))


def test_progress_is_told_in_blocks(tmp_path, capfd):
    npy(tmp_path / "k.npy", progress=True)
    assert "10/10" in capfd.readouterr().err.replace("10 of 10", "10/10")


def test_mirror_images():
    x = np.random.default_rng(0).standard_normal((300, 131)).astype(np.float32)
    assert np.array_equal(transposed(x), x.T)
    assert transposed(x).flags.c_contiguous


def test_nothing_more_is_imported():
    code = "import fastntk, sys; print([m for m in ('dask', 'distributed', 'zarr', 'fsspec') if m in sys.modules])"
    path = os.pathsep.join([str(Path(fastntk.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    for extra in ("", "; from fastntk import scale"):
        text = code.replace("import fastntk, sys", f"import fastntk, sys{extra}")
        done = subprocess.run(
            [sys.executable, "-c", text], env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=True
        )  # fmt: skip
        assert done.stdout.strip() == b"[]"
