"""Test points in tiles: the same results however they are cut, and within memory_budget."""

from __future__ import annotations

import sys
import tracemalloc

import numpy as np
import pytest
from fastntk import predict
from fastntk.predict import tiles
from predict_inputs import draw, linear, network, same, tiled


@pytest.mark.parametrize("t", [None, 3.0, [[0.0, 2.0, 1e3]]])
def test_results_do_not_depend_on_tiles(t, monkeypatch):
    make, x_test = tiled(20, 37)
    plan = tiles.plan
    laid = {True: [], "diagonal": [], False: []}
    for covariance, x in ((c, x) for c in laid for x in (x_test, None)):
        monkeypatch.setattr(tiles, "plan", lambda *args, c=covariance: laid[c].append(plan(*args)) or laid[c][-1])
        whole = make(2**30)(t, x, None, covariance)
        for budget in (9_000, 20_000, 40_000):
            found = make(budget)(t, x, None, covariance)
            for a, b in zip(whole, found, strict=True):
                parts = (a, b) if covariance else ((a,), (b,))
                for part, other in zip(*parts, strict=True):
                    assert part.shape == other.shape
                    same(part, other, 1e-13)
                if covariance is True:
                    assert np.array_equal(b.covariance, b.covariance.swapaxes(-1, -2))
    for plans in laid.values():
        assert plans[0].rows == 37
        assert min(each.rows for each in plans) < 20
    assert len({each.columns for each in laid[True]}) > 1
    assert {each.times for each in laid[True]} == ({1, 3} if np.ndim(t) else {1})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("t", [None, [1.0, 10.0]])
def test_memory_stays_within_the_budget(t, dtype):
    """Beside outputs, kernels of training points and factors; three times as many test points take no more."""
    budget = 2**20
    make, _ = tiled(80, 0, dtype, linear)
    f = make(budget)
    x_test = draw(600, 4, seed=4).astype(dtype)
    for covariance in (True, "diagonal", False):
        f(t, x_test[:3], None, covariance)  # factorisations
        for count in (200, 600):
            tracemalloc.start()
            found = f(t, x_test[:count], None, covariance)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            outputs = sum(a.nbytes for g in found for a in (g if covariance else (g,)))
            assert peak - outputs <= budget


def test_memory_of_training_points_stays_within_the_budget():
    budget = 2**20
    f = tiled(300, 0, "float64", linear)[0](budget)
    f([1.0], None)
    for covariance in (True, "diagonal"):
        tracemalloc.start()
        found = f([1.0], None, None, covariance)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak - sum(a.nbytes for g in found for a in g) <= budget


def test_tiles_of_ten_thousand_points():
    """Without computing: what tiles of 10,000 test points and 4,000 training points hold, entry by entry."""
    n, m, budget = 4000, 10_000, tiles.BUDGET

    class Counted:
        rows, unit = m, 1

    class Times:
        count = 1

    mean = np.broadcast_to(np.zeros(()), (1, n, 10))
    nngp = tiles.Prediction("nngp", "nngp", mean, Times())
    ntk = tiles.Prediction("ntk", "nngp", mean, Times(), np.zeros((0, 0)))
    laid = tiles.plan(Counted(), [nngp, ntk], "full", n, (4, 8), budget, "test")
    kernels = 2 * n * (4 + 8)  # NNGP and NTK of one row as computed, and in float64
    weights = 3 * n * 8  # one matrix for the NNGP, two for the NTK
    held = laid.rows * (kernels + weights) + laid.columns * (kernels + laid.rows * (4 + 8))
    assert 0.4 * budget < held < budget
    assert laid.rows >= 400
    assert laid.columns == 256


def test_a_budget_below_one_point_is_refused():
    make, x_test = tiled(20, 5)
    with pytest.raises(MemoryError, match=r"one test point takes \d+ bytes beside 20 training points: more than mem"):
        make(1000)(1.0, x_test, None, True)


def test_covariances_that_memory_does_not_hold_are_refused(monkeypatch):
    make, x_test = tiled(20, 5)
    monkeypatch.setattr(tiles, "available_memory", lambda: 100)
    with pytest.raises(MemoryError, match=r"covariances of shape \(1, 5, 5\) float64 take .*variances alone"):
        make(2**20)(None, x_test, "nngp", True)


def test_progress_counts_pairs(capsys, monkeypatch):
    """As many as there are entries that the kernel function is asked for."""
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    _, x_test = tiled(20, 37)
    asked = []

    def kernel_fn(x1, x2, get):
        asked.append(0 if x2 is None else len(x1) * len(x2))
        return network().kernel_fn(x1, x2, get)

    for budget, covariance in ((15_000, True), (2**20, True), (9_000, "diagonal"), (9_000, False)):
        f = predict.gradient_descent_mse_ensemble(
            kernel_fn, draw(20, 4), draw(20, 2), memory_budget=budget, progress=True
        )
        f([1.0, 2.0], x_test, "ntk", covariance)
        shown = capsys.readouterr().err
        done, total = shown.strip().split("\r")[-1].removesuffix(" pairs").split(" of ")
        assert done == total
        if covariance != "diagonal":  # whose variances are counted with the rows
            assert int(total) == sum(asked)
        asked.clear()


def test_no_points_and_no_times():
    make, x_test = tiled(6, 4)
    f = make(2**20)
    for covariance in (True, "diagonal"):
        found = f([1.0, 2.0], x_test[:0], "ntk", covariance)
        assert found.mean.shape == (2, 0, 2)
        assert found.covariance.shape == ((2, 0, 0) if covariance is True else (2, 0))
        assert f(None, x_test[:0], "nngp", covariance).mean.shape == (0, 2)
        assert f([], x_test, "nngp", covariance).mean.shape == (0, 4, 2)
        assert f([], None, "ntk", covariance).mean.shape == (0, 6, 2)
