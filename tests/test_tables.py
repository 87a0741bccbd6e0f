"""The tables of README.md and docs/: they show the results that are kept, and what those of a GPU become."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench"
pytestmark = pytest.mark.skipif(not (BENCH / "results").is_dir(), reason="results are not part of an sdist")


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import tables

    yield tables
    for name in (
        "tables",
        "accuracy_table",
        "gpu_table",
        "layers",
        "model",
        "nonlinearities",
        "rivals",
        "run",
        "predict_table",
        "gpu_cases",
        "gpu_floors",
        "cases",
        "image_cases",
        "image_networks",
    ):
        sys.modules.pop(name, None)


def test_pages_show_the_results_that_are_kept(tables, capsys):
    assert tables.main(["--check"]) == 0, capsys.readouterr().out


def test_a_page_that_is_behind_is_found_and_written(tables, tmp_path, monkeypatch, capsys):
    for page in {page for page, _, _ in tables.TABLES.values()}:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / page).write_text((ROOT / page).read_text())
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    page = tmp_path / "docs/accuracy.md"
    before = page.read_text()
    page.write_text(before.replace("| relu | float32 |", "| relu | float16 |"))
    assert tables.main(["--check"]) == 1
    assert "docs/accuracy.md is behind" in capsys.readouterr().out
    assert page.read_text() != before
    assert tables.main([]) == 0
    assert page.read_text() == before
    page.write_text(before.replace("<!-- accuracy -->", ""))
    with pytest.raises(SystemExit, match="<!-- accuracy -->"):
        tables.main([])


def test_devices_take_what_their_instructions_take(tables):
    device = tables.model.Device("one", 2, 1e9, 128, 2, 1e12)
    assert device.instructions(256e9) == 1.0  # 128 lanes of 2 multiprocessors, 1e9 times a second
    assert device.instructions(256e9, 8e9) == 2.0  # 2 units for float64 of each
    assert device.product(256e9, single=True) == 1.0
    code = {"instructions_per_entry_layer": {"SAME, no bias, 32 rows, float32": 50.0}}
    assert tables.model.image_pair(device, code, 1024, 1) == pytest.approx(50 * 2**20 / 256e9)
    assert [tables.model.text(s) for s in (7200, 3.0, 0.0125, 2.5e-6)] == ["2 h", "3 s", "12.5 ms", "2.5 us"]


def test_where_no_gpu_was_at_hand_the_page_says_so(tables):
    block = (ROOT / "docs/speed.md").read_text().split("<!-- gpu -->")[1].split("<!-- /gpu -->")[0].strip()
    assert ("Not yet measured" in block) == (not list((BENCH / "results").glob("gpu-*.json")))
    assert tables.gpu_table.gpu(None).startswith("Not yet measured")


def test_instructions_are_counted(tables, monkeypatch):
    import gpu_cases
    import gpu_floors

    for code in (gpu_cases.RECURSION_CODE, gpu_cases.CHAIN_CODE):
        assert gpu_floors.instructions(f"{code}, float32")["all"] > 0
    wide = gpu_floors.instructions(f"{gpu_cases.RECURSION_CODE}, float64")
    assert 0 < wide["float64"] < wide["all"]


def seconds(median):
    return {"min": median, "median": median, "max": median, "samples": [median]}


def spread(value):
    return {"value": value, "least": 0.5 * value, "largest": 2 * value, "of_minima": value}


def test_results_become_a_table(tables):
    rows = {
        "network": "relu", "n": 20000, "d": 3072, "depth": 10, "dtype": "float32", "get": ["nngp", "ntk"],
        "b_std": None, "batch": 0, "data": "normal",
    }  # fmt: skip
    pictures = {"network": "deep-gap", "get": ["ntk"], "dtype": "float32", "n": 200, "size": 32, "channels": 3}
    floor = {"over": "fastntk", "under": "floor", "at_least": None, "at_most": 1.3, "value": 1.2, "met": True}
    rival = {"over": "nt", "under": "fastntk", "at_least": 10, "at_most": None, "value": 9, "met": False}
    share = {"what": "share of issue rate", "at_least": 0.6, "at_most": None, "value": None, "met": None}
    entry = {"what": "milliseconds an entry", "at_least": None, "at_most": 0.05, "value": 0.04, "met": True}
    report = {
        "date": "2026-01-01", "git": {"hash": "0123456789abcdef", "dirty": False}, "versions": {"jax": "1.0"},
        "gpu": {"name": "Device", "driver_version": "1", "cupy": "14"}, "checks": {"test": {"says": "7 passed"}},
        "floors": {
            "copy_bytes_per_second": 4e12, "to_host_bytes_per_second": 5e10, "float32_fma_per_second": 3e13,
            "float64_fma_per_second": 1.5e13,
        },
        "dense": {"a": {
            "parameters": rows, "seconds": {"fastntk": seconds(0.05), "floor": seconds(0.04)},
            "ratios": {"fastntk/floor": spread(1.25), "nt/fastntk": spread(9)}, "targets": [floor, rival],
        }},
        "recursion": {"b": {"parameters": rows, "seconds": {"fastntk": seconds(2)}, "ratios": {}, "targets": [share]}},
        "host": {"c": {
            "parameters": rows, "seconds": {"fastntk": seconds(1), "bus": seconds(0.5)},
            "ratios": {"fastntk/bus": spread(2)}, "targets": [],
        }},
        "images": {
            "d": {
                "parameters": pictures, "seconds": {"fastntk": seconds(1)},
                "entry_seconds": {"fastntk": {"median": 4e-5}},
                "ratios": {"nt/fastntk by entry": spread(30)}, "targets": [entry],
            },
            "e": {"parameters": pictures, "seconds": {}, "ratios": {}, "targets": [], "missing": {"fastntk": "why"}},
        },
    }  # fmt: skip
    text = tables.gpu_table.gpu(report)
    for words in (
        "Device, driver 1, CuPy 14, jax 1.0; commit 0123456789, 2026-01-01", "4 TB/s", "60 TFLOP/s in float32, 30 in",
        "50 ms | 40 ms | 1.25 (0.625 to 2.5) | 9 (4.5 to 18) | <= 1.3 x product + write: yes; ",
        "Neural Tangents >= 10 x: no",
        "the recursion alone", ">= 60% of the issue rate |", "500 ms (bus)", "| 0.04 ms |", "20 GPU-hours",
        "test: 7 passed",
    ):  # fmt: skip
        assert words in text, words
