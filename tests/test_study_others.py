"""The smaller studies: their reports, their commands."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from fastntk import cli
from fastntk.study.panels import Claim, Panel, Report, Series, slope
from matplotlib.image import imread

REPORT = Report(
    "A study", "of nothing", ("name", "value"), (("a|b", 1.23456), ("c", math.inf)),
    (Claim("it is so", "1 of 2", True), Claim("it is not", "0 of 2", False)),
    (
        Panel(
            "lines", "x", "y",
            (Series("s", (1.0, 2.0), (1.0, 4.0), (0.1, 0.1)), Series("t", (1.0, 2.0), (1.0, 2.0), line=True)), "xy",
        ),
        Panel("picture", "x", "y", image=((1.0, 2.0), (3.0, 4.0)), ticks=(("a", "b"), ("c", "d"))),
        Panel("third", "x", "y", (Series("s", (1.0,), (1.0,)),)),
    ),
)  # fmt: skip


def test_reports_say_what_is_seen_and_what_is_not(tmp_path):
    lines = REPORT.text().splitlines()
    assert lines[:2] == ["A study", "of nothing"]
    assert lines[3:6] == ["name  value", "a|b   1.235", "c     -"]
    assert lines[-2:] == ["seen: it is so: 1 of 2", "NOT SEEN: it is not: 0 of 2"]
    assert "| a\\|b | 1.235 |" in REPORT.markdown()
    held = json.loads(REPORT.json())
    assert held["rows"][1] == ["c", None]
    assert held["claims"][1]["holds"] is False
    for ending in ("png", "md", "json"):
        REPORT.write(tmp_path / f"out.{ending}")
    assert imread(tmp_path / "out.png")[..., :3].std() > 0.05
    assert json.loads((tmp_path / "out.json").read_text()) == held


def test_slopes_are_least_squares():
    x = np.array([1.0, 2.0, 4.0, 8.0])
    found, error = slope(x, 3 * x**-0.5)
    assert found == pytest.approx(-0.5)
    assert error == pytest.approx(0, abs=1e-12)
    noisy = 3 * x**-0.5 * np.exp([0.1, -0.1, 0.1, -0.1])
    fit, covariance = np.polyfit(np.log(x), np.log(noisy), 1, cov="unscaled")
    left = np.log(noisy) - np.polyval(fit, np.log(x))
    assert slope(x, noisy) == pytest.approx((fit[0], math.sqrt(covariance[0, 0] * (left @ left) / 2)))


def run(study, tmp_path, *args):
    outs = [tmp_path / f"{study}.{end}" for end in ("png", "json")]
    assert cli.main(["study", study, "--quick", "--out", *map(str, outs), *map(str, args)]) == 0
    assert imread(outs[0])[..., :3].std() > 0.03
    return json.loads(outs[1].read_text())


def test_catapult(tmp_path, capsys):
    held = run("catapult", tmp_path, "--seeds", 2)
    assert all(claim["holds"] for claim in held["claims"])
    assert "seen: beyond 4 / lambda_0 it diverges" in capsys.readouterr().out


def test_node_scaling(tmp_path):
    held = run("node-scaling", tmp_path, "--seeds", 1, "--train", 60, "--test", 60)
    assert [row[0] for row in held["rows"]] == ["iid", "beta", "gen. gamma", "horseshoe"]


@pytest.mark.slow
def test_parameterizations(tmp_path):
    held = run("parameterizations", tmp_path, "--seeds", 1)
    assert held["claims"][0]["holds"]


@pytest.mark.rivals
def test_trainability(tmp_path):
    pytest.importorskip("torch")
    held = run("trainability", tmp_path, "--seeds", 2, "--train", 40, "--test", 60)
    assert len(held["rows"]) >= 6


@pytest.mark.rivals
def test_lazy_vs_feature(tmp_path):
    pytest.importorskip("torch")
    held = run("lazy-vs-feature", tmp_path, "--seeds", 2, "--train", 20, "--test", 20)
    assert {row[0] for row in held["rows"]} == {"dense", "convolutional", "dense, 1 hidden", "dense, 2 hidden"}
    seen = {claim["said"]: claim["holds"] for claim in held["claims"]}
    assert seen["kernels move for small alpha and stay for large (dense)"]
    assert seen["kernels move for small alpha and stay for large (convolutional)"]
    star = {row[1]: row[3] for row in held["rows"] if row[0] == "dense" and row[2] == 30}
    assert star[32] < 0.1  # lazy


def test_alpha_star_is_where_the_kernel_change_crosses():
    """A change of 2 / (sqrt(h) alpha) crosses one half at sqrt(h) alpha = 4; one that never does is left out."""
    from types import SimpleNamespace

    from fastntk.study.lazy import Kind

    flows = {(16, zt): SimpleNamespace(kernel_change=np.array([2 / zt, 0.1])) for zt in (1.0, 3.0, 10.0)}
    assert Kind("made", (16,), (1.0, 3.0, 10.0), flows).alpha_star(16) == pytest.approx([1.0])


def test_studies_refuse(tmp_path, capsys):
    for args, words in (
        (["--seeds", "0"], "seeds must be at least 1, given 0"),
        (["--data", "imagenet"], "data must be digits, mnist"),
        (["--out", str(tmp_path / "o.txt")], "--out must end in .md, .json, .png"),
    ):
        assert cli.main(["study", "catapult", "--quick", *args]) == cli.BAD_INPUT
        assert words in capsys.readouterr().err
