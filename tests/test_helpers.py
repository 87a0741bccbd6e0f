"""The comparison itself can fail, and keeps its record."""

from __future__ import annotations

from pathlib import Path

import conftest
import helpers
import numpy as np
import pytest
import tolerances
from helpers import Key, assert_close
from oracles import Exact, mp

ONE = np.ones((2, 3))
BOUND = tolerances.bound("nngp 10", "float64")


@pytest.fixture(autouse=True)
def record_of_its_own(monkeypatch):
    """What these tests measure on purpose stays out of the session's table."""
    monkeypatch.setattr(helpers, "WORST", {})
    monkeypatch.setattr(helpers, "LARGEST_RATIO", {})


def test_equal_values_pass():
    assert_close(ONE, ONE, "nngp 10", np.float64)
    assert_close(np.zeros(2), np.zeros(2), "nngp 10", np.float64)
    assert_close(np.float32(1.5), 1.5, "nngp 10", np.float32)


def changed(value):
    x = ONE.copy()
    x[1, 2] = value
    return x


@pytest.mark.parametrize(
    ("actual", "message"),
    [
        (changed(1 + 2 * BOUND), "error 2e-12 at (1, 2), allowed 1e-12 (1 of 6 beyond)"),
        (changed(1 - 2 * BOUND), "error 2e-12"),
        (changed(-1.0), "error 2 at"),
        (changed(np.nan), "error inf at (1, 2)"),
        (changed(np.inf), "error inf"),
        (np.ones((3, 2)), "shape (2, 3) is due, found (3, 2)"),
        (np.ones((1, 2, 3)), "shape"),
        (np.float64(1.0), "shape"),
        (ONE.astype(np.float32), "dtype float64 is due, found float32"),
        (ONE.astype(">f8"), "dtype"),
        (ONE.astype(object), "dtype"),
        (ONE.tolist(), "found list"),
        (1.0, "found float"),
    ],
)
def test_anything_else_fails(actual, message):
    with pytest.raises(AssertionError) as caught:
        assert_close(actual, ONE, "nngp 10", np.float64)
    assert message in str(caught.value)


def test_bound_is_where_it_says():
    assert_close(changed(1 + 0.99 * BOUND), ONE, "nngp 10", np.float64)
    with pytest.raises(AssertionError, match="beyond"):
        assert_close(changed(1 + 1.01 * BOUND), ONE, "nngp 10", np.float64)


def test_vacuous_comparisons_fail():
    with pytest.raises(AssertionError, match="nothing to compare"):
        assert_close(np.empty((0, 3)), np.empty((0, 3)), "nngp 10", np.float64)
    with pytest.raises(AssertionError, match="not finite"):
        assert_close(changed(np.nan), changed(np.nan), "nngp 10", np.float64)
    with pytest.raises(KeyError):
        assert_close(ONE, ONE, "no such quantity", np.float64)


def test_small_entries_count_against_the_scale():
    actual, expected = np.array([1e-20]), np.array([-1e-20])
    with pytest.raises(AssertionError, match="error 2 at"):
        assert_close(actual, expected, "nngp 10", np.float64)
    assert_close(actual, expected, "nngp 10", np.float64, scale=1e-3)
    with pytest.raises(AssertionError, match="error inf"):
        assert_close(actual, np.zeros(1), "nngp 10", np.float64)


def test_exact_values_reach_beyond_float64():
    third = Exact.of([mp.one / 3])
    error = helpers.relative_error(np.array([1 / 3]), third)[0]
    assert error == pytest.approx(2.0**-54, rel=1e-6)  # a third rounds down, by a quarter of 2^-52 of itself
    assert helpers.relative_error(np.array([0.25]), Exact.of([mp.mpf("0.25")]))[0] == 0


def test_record_keeps_the_worst_and_failures():
    for factor in (0.5, 0.25):
        assert_close(changed(1 + factor * BOUND), ONE, "nngp 10", np.float64, record=("relu", "numpy"))
    key = Key("relu", "nngp 10", "float64", "numpy")
    assert helpers.WORST[key] == pytest.approx(0.5 * BOUND, rel=1e-3)
    with pytest.raises(AssertionError):
        assert_close(changed(1 + 3 * BOUND), ONE, "nngp 10", np.float64, record=("relu", "numpy"))
    assert helpers.WORST[key] == pytest.approx(3 * BOUND, rel=1e-3)
    assert helpers.LARGEST_RATIO["nngp 10", "float64"] == pytest.approx(3, rel=1e-3)


def test_table_of_a_run():
    table = helpers.script(Path(__file__).parents[1] / "bench" / "accuracy_table.py")
    for backend, error in (("cpu:baseline", 1e-7), ("numpy", 3e-8)):
        for quantity, dtype in table.columns():
            helpers.WORST[Key("relu", quantity, dtype, backend)] = error
    report = conftest.accuracy_report()
    assert {cell["bound"] for cell in report["cells"]} >= {2e-6, 1e-5, 1e-12}
    text = table.markdown(report)
    assert text.count("| relu | float32 |") == text.count("| relu | float64 |") == 1
    assert text.count("1.0e-07") == 2 * 8
    assert "3.0e-08" not in text
    assert "cpu:baseline, numpy" in text

    report["cells"] = [cell for cell in report["cells"] if (cell["quantity"], cell["dtype"]) != ("ntk 50", "float32")]
    with pytest.raises(SystemExit, match="relu, float32: no ntk 50"):
        table.markdown(report)
