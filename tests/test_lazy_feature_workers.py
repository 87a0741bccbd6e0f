"""Scans in several processes: they end with their parent, at once on Ctrl-C, and run no script twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from fastntk import lazy_feature
from fastntk.quadrature import Smooth

LONG = """
import numpy as np
from fastntk import lazy_feature

print("begins", flush=True)
x = np.random.default_rng(0).standard_normal((20, 5))
lazy_feature.scan(x, np.sign(x[:, 0]), [16, 32], zt_grid=np.logspace(-1, 1, 30), draws=9, path="scan.json", workers=2)
"""


def start(folder, text):
    (folder / "script.py").write_text(text)
    return subprocess.Popen(
        [sys.executable, "script.py"], cwd=folder, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def finish(folder, text):
    process = start(folder, text)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def session(leader):
    """Processes of a session that still run."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(name))
    return found


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("sent", "group"),
    [(signal.SIGKILL, False), (signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGINT, True)],
    ids=["kill", "term", "int", "terminal"],
)
def test_workers_end_with_their_parent(tmp_path, sent, group):
    process = start(tmp_path, LONG)
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "scan.json").exists():
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.05)
        assert len(session(process.pid)) == 3
        (os.killpg if group else os.kill)(process.pid, sent)
        begin = time.monotonic()
        _, err = process.communicate(timeout=60)
        while session(process.pid):
            assert time.monotonic() < begin + 10
            time.sleep(0.05)
        assert time.monotonic() - begin < 3  # seconds, on a machine that is busy; a run takes longer than this to end
        assert process.returncode != 0
        if sent == signal.SIGINT:
            assert err.count("Traceback") == 1
            assert err.strip().endswith("KeyboardInterrupt")
            assert len(json.loads((tmp_path / "scan.json").read_text())["runs"]) >= 1
            assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.json", "script.py"]
    finally:
        for left in session(process.pid):
            os.kill(left, signal.SIGKILL)
        process.wait()


def test_a_script_without_a_guard_runs_once(tmp_path):
    text = LONG.replace("np.logspace(-1, 1, 30), draws=9", "[1.0, 2.0]").replace(
        "lazy_feature.scan", "a = lazy_feature.scan"
    )
    status, out, err = finish(tmp_path, text + "print(a.status.ravel().tolist())")
    assert (status, out, err) == (0, "begins\n" + repr(["converged"] * 4) + "\n", "")


def test_a_nonlinearity_of_the_script_needs_a_guard(tmp_path):
    head = """
import numpy as np
from fastntk import lazy_feature, quadrature

def phi(z):
    return np.tanh(z)

def dphi(z):
    return 1 - np.tanh(z) ** 2

print("begins", flush=True)
"""
    call = (
        "x = np.random.default_rng(0).standard_normal((6, 3))\n"
        "act = quadrature.Smooth(phi, dphi)\n"
        "print(lazy_feature.scan(x, np.sign(x[:, 0]), [8], [1.0, 2.0], workers=2, act=act).status.ravel().tolist())\n"
    )
    status, out, err = finish(tmp_path, head + call)
    assert (status, out) == (1, "begins\n")
    assert 'guard the main part of the script by if __name__ == "__main__"' in err
    guarded = head + 'if __name__ == "__main__":\n' + "".join(f"    {line}\n" for line in call.splitlines())
    status, out, err = finish(tmp_path, guarded)
    assert (status, out.splitlines()[-1]) == (0, "['converged', 'converged']"), err
    # A guard that is elsewhere: the scan itself is not behind it.
    status, out, err = finish(tmp_path, head + call + 'if __name__ == "__main__":\n    pass\n')
    assert status == 1
    assert "[scan] a worker ran this script and came here: guard the main part" in err


def test_what_cannot_be_sent_says_so():
    x = np.random.default_rng(0).standard_normal((6, 3))
    act = Smooth(lambda z: np.tanh(z), lambda z: 1 - np.tanh(z) ** 2)
    with pytest.raises(TypeError, match=r"\[scan\] workers cannot be sent what they are to do: .*workers=1"):
        lazy_feature.scan(x, np.sign(x[:, 0]), [8], [1.0, 2.0], workers=2, act=act)


def test_errors_of_workers_are_raised():
    with pytest.raises(FloatingPointError, match="overflows before training"):
        lazy_feature.scan(1e200 * np.ones((2, 3)), [1, -1], [8, 9], [1.0], workers=2)


class Suicide:
    """A nonlinearity that ends its process, as one that is out of memory does."""

    name = "suicide"

    def __init__(self):
        self.home = os.getpid()

    def phi(self, z):
        if os.getpid() != self.home:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.tanh(z)

    def dphi(self, z):
        return 1 - np.tanh(z) ** 2


def test_a_worker_that_is_killed_is_an_error():
    x = np.random.default_rng(0).standard_normal((6, 3))
    with pytest.raises(RuntimeError, match=r"\[ensemble\] a worker ended with status -9 before its work"):
        lazy_feature.ensemble(x, np.sign(x[:, 0]), 8, M=3, workers=2, act=Suicide())
