"""Archives that are damaged, foreign or hostile; outputs and disks that take nothing; variables that are empty."""

from __future__ import annotations

import errno
import io
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fastntk import cli
from fastntk.base import files

X, Y = np.arange(60.0).reshape(20, 3) % 7, np.arange(20) % 2


def array_bytes(array, version=None):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), version=version)
    return buffer.getvalue()


def header(shape, descr="<f8", version=1, pad=0):
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode() + b" " * pad + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 * version, "little") + text


def archive(path, compression=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name.replace("_npy", ".npy"), content)
    return path


def patched(path, offset_local, offset_central, value):
    """The two headers of the first member with other bytes."""
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", offset_local), (b"PK\x01\x02", offset_central)):
        at = content.index(signature) + offset
        content[at : at + 2] = value.to_bytes(2, "little")
    path.write_bytes(content)


def refused(path, says):
    with pytest.raises(ValueError, match=says) as raised:
        files.read_npz(path, ("x", "y"))
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_archives_are_read(tmp_path):
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "d.npz", x=np.asfortranarray(X), y=Y, more=[1])
        found = files.read_npz(tmp_path / "d.npz", ("x", "y"))
        assert sorted(found) == ["x", "y"]
        np.testing.assert_array_equal(found["x"], X)
        assert found["y"].dtype == Y.dtype
    for compression in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        archive(tmp_path / "d.npz", compression, x_npy=array_bytes(X), y_npy=array_bytes(Y, (2, 0)))
        np.testing.assert_array_equal(files.read_npz(tmp_path / "d.npz", ("x", "y"))["y"], Y)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (b"", "x is no array"),
        (b"1,2,3\n4,5,6\n", "x is no array"),
        (b"\x93NUMPY", "x is no array of numbers"),
        (b"\x93NUMPY\x09\x00", "x is no array of numbers"),
        (header((20, 3))[:20], "not a readable"),
        (header((20, 3)) + bytes(100), "x is cut short"),
        (header((20, 3)) + bytes(480) + b"more", "x has more bytes than its header says"),
        (header((10**12, 10**6)), "x is cut short"),
        (header((-1, 3)), r"x has the shape \(-1, 3\)"),
        (header((20, "3")), "not a readable"),
        (header((20, 3), "nonsense"), "not a readable"),
        (b"\x93NUMPY\x01\x00\x10\x00" + b"[" * 16, "not a readable"),
        (header((20, 3), version=2, pad=2**20), "a header of 10486.* bytes"),
        (array_bytes(np.array([{}])), "Python objects"),
        (header((1,), "|O") + pickle.dumps([1]), "Python objects"),
    ],
)
def test_members_that_are_no_arrays(tmp_path, x, says):
    refused(archive(tmp_path / "d.npz", x_npy=x, y_npy=array_bytes(Y)), says)


def test_archives_that_are_none(tmp_path):
    path = tmp_path / "d.npz"
    refused(path, "no such file")
    refused(tmp_path, "it is a folder")
    for content in (b"", b"x,y\n1,2\n", b"PK\x03\x04", b"\x1f\x8b\x08", np.random.default_rng(0).bytes(5000)):
        path.write_bytes(content)
        refused(path, "it is no zip archive.*numpy.savez")
    np.save(tmp_path / "one.npy", X)
    refused(tmp_path / "one.npy", "it is a single array")
    refused(archive(path), "no array x and y in it; it holds nothing")
    refused(archive(path, **{"a.txt": "1", "y_npy": array_bytes(Y)}), "no array x in it; it holds a.txt, y")
    np.savez(path, x=X, y=Y)
    whole = path.read_bytes()
    at = whole.index(X.tobytes()) + 11
    path.write_bytes(whole[:at] + b"?" + whole[at + 1 :])
    refused(path, "Bad CRC-32")


def test_encrypted_members_and_unknown_compression(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x=X, y=Y)
    patched(path, 6, 8, 1)
    refused(path, "x is encrypted")
    np.savez(path, x=X, y=Y)
    patched(path, 8, 10, 99)
    refused(path, "compression method is not supported")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "d.npz")
    refused(tmp_path / "d.npz", "it is no regular file")


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    """Half a gigabyte of zeros in half a megabyte: what memory cannot hold is known from its header."""
    path = tmp_path / "d.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("y.npy", array_bytes(Y))
        with file.open("x.npy", "w", force_zip64=True) as member:
            member.write(header((2**16, 2**10)))
            for _ in range(2**9):
                member.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    monkeypatch.setattr(files, "available_memory", lambda: 2**30)
    monkeypatch.setattr(files.npy, "read_array", lambda *args, **kwargs: pytest.fail("read"))
    refused(path, r"its arrays take 1.5 GiB to work with, 1 GiB are free")


# ---------------------------------------------------------------- outputs


def test_outputs_are_whole_or_as_they_were(tmp_path, monkeypatch):
    path = tmp_path / "out.png"
    files.write_whole(path, b"first")
    (tmp_path / "link.png").symlink_to(path)
    files.write_whole(tmp_path / "link.png", b"second")
    assert path.read_bytes() == b"second"
    assert (tmp_path / "link.png").is_symlink()

    def full(self, content):
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_whole(path, b"third")
    assert path.read_bytes() == b"second"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.png", "out.png"]


def test_what_cannot_be_written_is_known_before_work(tmp_path, monkeypatch):
    def refused(path, says):
        with pytest.raises(ValueError, match=says):
            files.check_output("--out", path, (".png",))

    files.check_output("--out", tmp_path / "new.PNG", (".png",))
    refused(tmp_path / "new.jpg", "--out must end in .png")
    refused(tmp_path / "no" / "new.png", "its folder does not exist")
    if os.path.exists("/dev/full"):
        (tmp_path / "full.png").symlink_to("/dev/full")
        refused(tmp_path / "full.png", "not a regular file")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**30, 2**30, 0))
    refused(tmp_path / "new.png", "the disk is full")


def run(*args, stdout=subprocess.PIPE, **variables):
    env = {key: value for key, value in os.environ.items() if not key.startswith("FASTNTK_")}
    env |= {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)), **variables}
    return subprocess.run(
        [sys.executable, "-m", "fastntk", *args], env=env, stdout=stdout, stderr=subprocess.PIPE, text=True,
        timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_standard_output_on_a_full_disk():
    with open("/dev/full", "w") as full:
        ran = run("info", stdout=full)
    assert ran.returncode == cli.BAD_INPUT
    assert ran.stderr == "fastntk info: [Errno 28] No space left on device\n"


# ---------------------------------------------------------------- variables


def test_an_empty_variable_is_none():
    """All of them at once: info says what it says without any."""
    empty = run("info", **dict.fromkeys(
        ("FASTNTK_BACKEND", "FASTNTK_ISA", "FASTNTK_NUM_THREADS", "FASTNTK_HIDE_COMPILED", "FASTNTK_DATA"), ""
    ))  # fmt: skip
    assert empty.returncode == 0, empty.stderr
    assert empty.stdout == run("info").stdout


@pytest.mark.parametrize("value", ["abc", "0", "-1", "2.5", " ", "1e3"])
def test_info_explains_a_bad_number_of_threads(value):
    ran = run("info", FASTNTK_NUM_THREADS=value)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "num_threads  none: FASTNTK_NUM_THREADS must be an integer of at least 1, given " in ran.stdout
    assert "backend      none: FASTNTK_NUM_THREADS must be" in ran.stdout
