"""``fastntk gram`` on the command line, and what a Gram matrix takes."""

from __future__ import annotations

import numpy as np
import pytest
from fastntk import cli, scale
from fastntk.scale.estimate import duration_text, size_text
from scale_inputs import CASES, rows, rows_network

NETWORK = """
from fastntk import stax
network = stax.serial(stax.Dense(1, 1.4, 0.1), stax.Relu(), stax.Dense(1))
init_fn, apply_fn, kernel_fn = triple = tuple(network)
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", x=rows(60))
    (tmp_path / "net.py").write_text(NETWORK)
    return ["gram", "--data", "x.npz", "--network", "net.py:kernel_fn", "--chunks", "16"]


@pytest.mark.parametrize("name", ["kernel_fn", "network", "triple"])
def test_a_file_from_two_files(name, files, capfd):
    command = [*files, "--store", "k.npy", "--get", "ntk", "--network", f"net.py:{name}"]
    assert cli.main(command) == 0
    out = capfd.readouterr().out
    assert "ntk, 60 x 60 float32: 14.06 KiB, 10 blocks of 16 x 16" in out
    assert "1,830 pairs, about" in out
    assert "k.npy: complete" in out
    want = scale.gram(scale_network(), rows(60), "own.npy", "ntk", chunks=16, progress=False)
    assert np.array_equal(np.load("k.npy"), want)
    assert cli.main([*command, "--no-verify"]) == 0


def scale_network():
    from fastntk import stax

    return stax.serial(stax.Dense(1, 1.4, 0.1), stax.Relu(), stax.Dense(1)).kernel_fn


@pytest.mark.rivals
def test_a_zarr_store_by_workers(files, monkeypatch):
    pytest.importorskip("zarr")
    pytest.importorskip("distributed")
    assert cli.main([*files, "--store", "k.zarr"]) == 0
    assert scale.verify("k.zarr").complete
    assert scale.load("k.zarr").ntk.shape == (60, 60)
    assert cli.main([*files, "--store", "k.zarr", "--get", "ntk"]) == cli.BAD_INPUT


def test_a_dry_run_writes_nothing(files, tmp_path, capfd):
    assert cli.main([*files, "--store", "k.npy", "--get", "ntk", "--workers", "4", "--dry-run"]) == 0
    assert "with 4 workers about" in capfd.readouterr().out
    assert not (tmp_path / "k.npy").exists()


def test_what_cannot_be_used_is_one_line(files, tmp_path, capfd):
    (tmp_path / "bad.py").write_text("1 / 0")
    (tmp_path / "other.py").write_text("kernel_fn = 3")
    np.save("k.npy", np.zeros(3))
    for change, words in (
        (["--data", "none.npz"], "none.npz: no such file"),
        (["--array", "y"], "no array y in it"),
        (["--network", "net.py"], "must be FILE.py:NAME"),
        (["--network", "none.py:kernel_fn"], "no such file"),
        (["--network", "net.py:kern"], "defines no kern; it defines"),
        (["--network", "bad.py:kernel_fn"], "ZeroDivisionError"),
        (["--network", "other.py:kernel_fn"], "must be that of a network"),
        (["--get", "cov1"], "must name 'nngp', 'ntk' or both"),
        (["--chunks", "0"], "at least 1"),
        (["--store", "k.npy"], "no journal beside it"),
        (["--backend", "none"], "unknown backend"),
    ):
        assert cli.main([*files, "--store", "new.npy", "--get", "ntk", *change]) == cli.BAD_INPUT
        err = capfd.readouterr().err
        assert words in err
        assert err.count("\n") == 1


def test_ctrl_c_says_how_to_go_on(files, monkeypatch, capfd):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("fastntk.scale.command.gram", interrupted)
    assert cli.main([*files, "--store", "k.npy", "--get", "ntk"]) == cli.INTERRUPTED
    assert "goes on from here" in capfd.readouterr().err


def test_estimates():
    kernel_fn, draw = CASES["images"]
    for found, pairs, blocks in (
        (scale.estimate(rows_network(), rows(100), chunks=30), 5050, 10),
        (scale.estimate(rows_network(), rows(100), "ntk", rows(50), chunks=(30, 50)), 5000, 4),
        (scale.estimate(kernel_fn, draw(20), chunks=5), 210, 10),
    ):
        assert (found.pairs, found.blocks) == (pairs, blocks)
        assert found.bytes == 4 * len(found.layout.fields) * found.layout.shape[0] * found.layout.shape[1]
        assert 0 < found.seconds < 60
        assert f"{pairs:,} pairs" in str(found)
    assert [size_text(n) for n in (5, 2048, 3 * 2**30, 7 * 2**40)] == ["5 bytes", "2 KiB", "3 GiB", "7 TiB"]
    assert [duration_text(s) for s in (1, 130, 9000, 1e6)] == ["1 seconds", "2.17 minutes", "2.5 hours", "11.6 days"]


def test_chunks_that_are_chosen():
    few, many = (scale.estimate(rows_network(), rows(n)).layout.chunks for n in (100, 40_000))
    assert few == (100, 100)
    assert many == (4032, 4032)
