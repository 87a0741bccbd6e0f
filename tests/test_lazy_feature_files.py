"""Files of scans: what is damaged, foreign or no file is said before any work."""

from __future__ import annotations

import copy
import json
import os

import numpy as np
import pytest
from fastntk import lazy_feature

X = np.random.default_rng(3).standard_normal((4, 6))
Y = np.sign(X[:, 0])


def scan(path, **options):
    return lazy_feature.scan(X, Y, (32,), [0.5, 2.0], path=path, x_test=X[:2], **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.json"
    scan(path)
    return json.loads(path.read_text())


def damaged(change):
    def damage(held):
        held = copy.deepcopy(held)
        change(next(iter(held["runs"].values())))
        return json.dumps(held)

    return damage


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (lambda held: "", "is no file of a scan"),
        (lambda held: json.dumps(held)[:-40], "is no file of a scan"),
        (lambda held: "h,alpha\n1,2\n", "is no file of a scan"),
        (lambda held: "[1, 2]", "is no file of a scan"),
        (lambda held: "[" * 100_000, "is no file of a scan"),
        (lambda held: json.dumps({"problem": held["problem"]}), "is no file of a scan: no 'runs'"),
        (lambda held: json.dumps({**held, "runs": [1]}), "is no file of a scan: runs is no object"),
        (lambda held: json.dumps({**held, "problem": 3}), "holds runs on other samples"),
        (lambda held: json.dumps({**held, "runs": {"32 0.5 1": 7}}), "is damaged: run '32 0.5 1' has no numbers"),
        (damaged(lambda run: run.pop("F")), "is damaged: .* has no F"),
        (damaged(lambda run: run["F"].pop()), "has no F as"),
        (damaged(lambda run: run["F"].__setitem__(0, "1")), "has no F as"),
        (damaged(lambda run: run["F_test"].append(1.0)), "has no F_test"),
        (damaged(lambda run: run.update(F_test=None)), "has no F_test"),
        (damaged(lambda run: run.update(status="done")), "has no status"),
        (damaged(lambda run: run.update(status=[1])), "has no status"),
        (damaged(lambda run: run.update(t=None)), "has no t as"),
        (damaged(lambda run: run.pop("t1")), "has no t1"),
        (damaged(lambda run: run.update(dtheta=float("nan"))), "is no file of a scan: NaN is no number"),
        (damaged(lambda run: run.update(steps=1.5)), "has no steps"),
        (damaged(lambda run: run.update(steps=True)), "has no steps"),
    ],
)  # fmt: skip
def test_damaged_files(tmp_path, whole, text, says):
    path = tmp_path / "scan.json"
    path.write_text(text(whole))
    with pytest.raises(ValueError, match=says) as raised:
        scan(path)
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 500
    assert path.read_text() == text(whole)  # nothing of the user's is lost


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "scan.json").write_bytes(b"\x80\x81" * 100)
    with pytest.raises(ValueError, match="is no file of a scan"):
        scan(tmp_path / "scan.json")


def test_places_that_take_no_file(tmp_path):
    with pytest.raises(ValueError, match="is no regular file"):
        scan(tmp_path)
    with pytest.raises(ValueError, match="its folder does not exist"):
        scan(tmp_path / "no" / "scan.json")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(ValueError, match="is no regular file"):  # and does not wait for a writer
            scan(tmp_path / "fifo")
    if os.path.exists("/dev/full"):
        with pytest.raises(ValueError, match="is no regular file"):
            scan("/dev/full")
