"""fastntk.plot: what is drawn, number by number; what is refused."""

from __future__ import annotations

import importlib
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")
import matplotlib
from fastntk import plot, stax
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

M = 7


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def posterior(rng):
    """x in no order, a mean (m, 1) and a covariance (m, m), as fastntk.predict's Gaussian has them."""
    root = rng.normal(size=(M, M))
    x = rng.permutation(np.linspace(-1, 1, M))
    return x, SimpleNamespace(mean=rng.normal(size=(M, 1)), covariance=root @ root.T)


def band(collection) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x, low, high) of a ``fill_between``, read from its polygon: the lower edge out, the upper edge back."""
    vertices = collection.get_paths()[0].vertices
    n = (len(vertices) - 3) // 2
    low, high = vertices[1 : n + 1], vertices[n + 2 : 2 * n + 2][::-1]
    np.testing.assert_array_equal(low[:, 0], high[:, 0])
    return low[:, 0], low[:, 1], high[:, 1]


def legend(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


# ---- posterior_band


def test_posterior_band_draws_mean_band_points_and_draws(posterior, rng):
    x, gaussian = posterior
    draws = rng.normal(size=(3, M, 1))
    train = rng.normal(size=(4, 1)), rng.normal(size=4)
    ax = plot.posterior_band(x[:, None], gaussian, train=train, draws=draws, width=1.5, label="NNGP")
    order = np.argsort(x)
    *thin, mean, points = ax.lines
    np.testing.assert_array_equal(mean.get_xdata(), x[order])
    np.testing.assert_array_equal(mean.get_ydata(), gaussian.mean[order, 0])
    assert [list(line.get_ydata()) for line in thin] == [list(d[order, 0]) for d in draws]
    np.testing.assert_array_equal(points.get_xdata(), train[0][:, 0])
    np.testing.assert_array_equal(points.get_ydata(), train[1])
    assert points.get_linestyle() == "None"
    at, low, high = band(ax.collections[0])
    half = 1.5 * np.sqrt(np.diag(gaussian.covariance))[order]
    np.testing.assert_allclose(at, x[order])
    np.testing.assert_allclose(low, gaussian.mean[order, 0] - half)
    np.testing.assert_allclose(high, gaussian.mean[order, 0] + half)
    assert legend(ax) == ["NNGP ± 1.5 standard deviations", "draws", "NNGP", "training points"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "f(x)")


def test_posterior_band_takes_standard_deviations_and_variances(posterior):
    x, gaussian = posterior
    std = np.sqrt(np.diag(gaussian.covariance))
    ax = plot.posterior_band(x, (gaussian.mean[:, 0], std))
    variances = plot.posterior_band(x, SimpleNamespace(mean=gaussian.mean, covariance=std**2))
    expected = band(plot.posterior_band(x, gaussian).collections[0])
    np.testing.assert_allclose(band(ax.collections[0]), expected)
    np.testing.assert_allclose(band(variances.collections[0]), expected)
    assert legend(ax) == ["± 2 standard deviations", "mean"]


def test_posterior_band_refuses(posterior):
    x, gaussian = posterior
    covariance = gaussian.covariance.copy()
    covariance[2, 2] = -1e-3
    nan = gaussian.mean.copy()
    nan[1] = np.nan
    two = np.zeros((M, 2))
    for arguments, keywords, message in [
        ((np.zeros((M, 2)), gaussian), {}, r"x must be \(m,\) or \(m, 1\), given shape \(7, 2\)"),
        ((x[1:], gaussian), {}, r"gaussian.mean must be \(6,\) or \(6, 1\), given shape \(7, 1\)"),
        ((x, SimpleNamespace(mean=two, covariance=covariance)), {}, r"gaussian.mean must be .*given shape \(7, 2\)"),
        ((x, SimpleNamespace(mean=nan, covariance=covariance)), {}, "gaussian.mean is not finite: 1 of 7 values"),
        (
            (x, SimpleNamespace(mean=gaussian.mean, covariance=np.ones((M, 1)))),
            {},
            r"covariance must be \(7, 7\) or \(7,\)",
        ),
        ((x, SimpleNamespace(mean=gaussian.mean, covariance=covariance)), {}, "a negative variance, -0.001"),
        ((x, (gaussian.mean, np.full(M, -0.5))), {}, "std must not be negative, given -0.5"),
        ((x, gaussian), {"draws": np.zeros((3, M + 1))}, r"draws must be \(s, 7\), given shape \(3, 8\)"),
        ((x, gaussian), {"train": (np.zeros(3), np.zeros(4))}, r"y_train must be \(3,\) or \(3, 1\)"),
        ((x, gaussian), {"width": 0}, "width must be positive, given 0"),
    ]:
        with pytest.raises(ValueError, match=r"\[posterior_band\] .*" + message):
            plot.posterior_band(*arguments, **keywords)


# ---- training_curves


def test_training_curves_draw_each_column_its_band_and_its_limit(rng):
    t, values, std = np.geomspace(0.1, 100, 6), rng.normal(size=(6, 2)), rng.uniform(size=(6, 2))
    ax = plot.training_curves(t, values, std, limit=[0.3, -0.4], width=3, labels=["a", "b"], ylabel="prediction")
    first, limit, second, other = ax.lines
    np.testing.assert_array_equal(first.get_xdata(), t)
    np.testing.assert_array_equal(np.stack([first.get_ydata(), second.get_ydata()], axis=1), values)
    assert [list(line.get_ydata()) for line in (limit, other)] == [[0.3, 0.3], [-0.4, -0.4]]
    for k, collection in enumerate(ax.collections):
        at, low, high = band(collection)
        np.testing.assert_allclose(at, t)
        np.testing.assert_allclose(low, values[:, k] - 3 * std[:, k])
        np.testing.assert_allclose(high, values[:, k] + 3 * std[:, k])
    assert ax.get_xscale() == "log"
    assert ax.get_xlim() == (t[0], t[-1])
    assert (ax.get_xlabel(), ax.get_ylabel(), legend(ax)) == ("training time t", "prediction", ["a", "b"])


def test_training_curves_show_time_zero():
    ax = plot.training_curves([0, 1, 10, 100], [4, 3, 2, 1], labels="loss")
    assert ax.get_xscale() == "symlog"
    assert ax.get_xlim() == (0, 100)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [4, 3, 2, 1])
    # 0 and 1 are apart, and the later decades equally long.
    where = ax.transData.transform(np.column_stack([[0, 1, 10, 100], np.zeros(4)]))[:, 0]
    steps = np.diff(where)
    assert steps[0] > 0.1 * steps[1]
    assert steps[1] == pytest.approx(steps[2])


def test_training_curves_refuse():
    t, values = [1.0, 2, 3], np.ones((3, 2))
    for arguments, keywords, message in [
        (([1, 3, 2], values), {}, r"t must be \(T,\), T > 1, not negative and rising"),
        (([-1, 2, 3], values), {}, r"t must be .*not negative"),
        (([1], [1]), {}, r"t must be \(T,\), T > 1"),
        ((t, np.ones(4)), {}, r"values must be \(3,\) or \(3, k\), given shape \(4,\)"),
        ((t, np.ones((3, 2, 2))), {}, r"values must be .*given shape \(3, 2, 2\)"),
        ((t, [1, np.inf, 2]), {}, "values is not finite: 1 of 3 values"),
        ((t, values, np.ones(3)), {}, r"std must have the shape of values, \(3, 2\)"),
        ((t, values, -values), {}, "std must have the shape of values, .*not be negative"),
        ((t, values), {"limit": 1.0}, "limit must be one for each of 2 curves, given 1"),
        ((t, values), {"labels": "one"}, "labels must be one for each of 2 curves, given 1"),
        ((t, values, values), {"width": -1}, "width must be positive, given -1"),
    ]:
        with pytest.raises(ValueError, match=r"\[training_curves\] .*" + message):
            plot.training_curves(*arguments, **keywords)


# ---- spectrum


def of_spectrum(values, rng) -> np.ndarray:
    q, _ = np.linalg.qr(rng.normal(size=(len(values), len(values))))
    k = q @ np.diag(values) @ q.T
    return (k + k.T) / 2


def test_spectrum_draws_eigenvalues_the_floor_and_the_effective_rank(rng):
    values = np.array([30.0, 4, 1, 1e-3, 1e-5, 0, 0, 0])
    ax = plot.spectrum(of_spectrum(values, rng).astype(np.float32), label="NNGP")
    floor = 8 * 2.0**-23 * 30
    drawn = {int(i): v for line in ax.lines[:-2] for i, v in zip(*line.get_data(), strict=True)}
    np.testing.assert_allclose([drawn[i] for i in range(1, 5)], values[:4], rtol=1e-3)
    assert all(v < floor for i, v in drawn.items() if i > 4)
    *_, level, rank = ax.lines
    np.testing.assert_allclose(level.get_ydata(), floor, rtol=1e-6)
    assert list(rank.get_xdata()) == [4, 4]
    assert legend(ax)[0] == "NNGP: effective rank 4 of 8"
    assert legend(ax)[-1] == "n eps of float32"
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_xlabel(), ax.get_ylabel()) == ("log", "log", "index", "eigenvalue")


def test_spectrum_shows_negative_eigenvalues_by_size(rng):
    ax = plot.spectrum(of_spectrum(np.array([8.0, 2, 0.5, -1]), rng))
    positive, negative = ax.lines[:2]
    assert list(positive.get_xdata()) == [1, 2, 4]
    np.testing.assert_allclose(positive.get_ydata(), [8, 2, 0.5])
    np.testing.assert_allclose(np.transpose(negative.get_data()), [[3, 1]])
    assert legend(ax)[:2] == ["effective rank 3 of 4", "1 below zero, by size"]


def test_spectrum_refuses():
    for k, error, message in [
        (np.eye(3, dtype=int), TypeError, "must be float32 or float64"),
        ([[1.0]], TypeError, "arrays must be NumPy's or CuPy's"),
        (np.ones((2, 3)), ValueError, r"must be \(n, n\)"),
        (np.array([[1.0, 2], [0, 1]]), ValueError, "is not symmetric"),
        (np.array([[1.0, np.nan], [np.nan, 1]]), ValueError, "is not finite"),
        (np.zeros((2, 2)), ValueError, "the kernel is zero"),
    ]:
        with pytest.raises(error, match=r"\[spectrum\] .*" + message):
            plot.spectrum(k)


# ---- learning_curve


def test_learning_curve_draws_mean_and_standard_deviation():
    scores = np.array([[0.5, 0.7], [0.6, 0.8], [0.9, 0.9]])
    ax = plot.learning_curve([10, 20, 40], scores, label="NTK", ylabel="accuracy")
    (line,) = ax.lines
    assert list(line.get_xdata()) == [10, 20, 40]
    np.testing.assert_allclose(line.get_ydata(), [0.6, 0.7, 0.9])
    at, low, high = band(ax.collections[0])
    half = np.array([0.2, 0.2, 0]) / np.sqrt(2)  # of two numbers d apart: d / sqrt(2)
    assert list(at) == [10, 20, 40]
    np.testing.assert_allclose(low, np.array([0.6, 0.7, 0.9]) - half)
    np.testing.assert_allclose(high, np.array([0.6, 0.7, 0.9]) + half)
    assert list(ax.get_xticks()) == [10, 20, 40]
    assert (ax.get_xlabel(), ax.get_ylabel(), legend(ax)) == ("training points", "accuracy", ["NTK"])
    assert ax.get_xscale() == "log"


def test_learning_curve_of_one_repeat_has_no_band_and_a_second_keeps_the_ticks():
    ax = plot.learning_curve([10, 20], [1, 2])
    assert not ax.collections
    plot.learning_curve([15, 30], [[1], [2]], ax=ax)
    assert not ax.collections
    assert list(ax.get_xticks()) == [10, 15, 20, 30]


def test_learning_curve_refuses():
    for arguments, message in [
        (([20, 10], [1, 2]), r"sizes must be \(s,\), positive and rising"),
        (([0, 10], [1, 2]), "sizes must be .*positive"),
        (([10, 20], [1, 2, 3]), r"scores must be \(2,\) or \(2, k\), given shape \(3,\)"),
        (([10, 20], [1, np.nan]), "scores is not finite: 1 of 2 values"),
    ]:
        with pytest.raises(ValueError, match=r"\[learning_curve\] .*" + message):
            plot.learning_curve(*arguments)


# ---- all of them

CALLS = {
    "posterior_band": lambda **k: plot.posterior_band([0.0, 1], ([0.0, 1], [1.0, 2]), **k),
    "training_curves": lambda **k: plot.training_curves([1, 2], [1, 2], **k),
    "spectrum": lambda **k: plot.spectrum(np.eye(3), **k),
    "learning_curve": lambda **k: plot.learning_curve([1, 2], [1, 2], **k),
}


@pytest.mark.parametrize("name", CALLS)
def test_axes_given_are_drawn_on_and_nothing_global_changes(name, tmp_path):
    before = dict(matplotlib.rcParams)
    ax = Figure().add_subplot()
    assert CALLS[name](ax=ax) is ax
    made = CALLS[name]()
    assert made is not ax
    assert made.figure is not ax.figure
    made.figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", CALLS)
def test_curves_on_one_axes_differ_in_colour(name):
    ax = CALLS[name]()
    CALLS[name](ax=ax)
    colors = {to_hex(line.get_color()) for line in ax.lines}
    assert colors == set(plot.COLORS[:2])


def test_the_example_draws_its_picture(tmp_path, capsys):
    example = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "predict.py"))
    example["main"](str(tmp_path / "predict.png"))
    height, width, _ = imread(tmp_path / "predict.png").shape
    assert (width, height) == (1440, 960)
    assert "noise 0.0" in capsys.readouterr().out  # of the 0.1 that the data have


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    with pytest.raises(ImportError, match=r"pip install 'fastntk\[plot\]'"):
        importlib.reload(plot)


def test_pyplot_is_not_imported():
    """A program that never imports pyplot keeps its freedom of backend."""
    code = (
        "import sys, fastntk.plot\n"
        "fastntk.plot.learning_curve([1, 2], [1, 2])\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_band_of_several_kernels_or_of_a_mean_says_what_to_ask_for(posterior):
    predict = pytest.importorskip("fastntk.predict")
    x = np.linspace(-1, 1, 6)[:, None]
    kernel_fn = stax.serial(stax.Dense(1, 1.5, 0.1), stax.Relu(), stax.Dense(1)).kernel_fn
    ask = predict.gradient_descent_mse_ensemble(kernel_fn, x, np.sin(x), diag_reg=1e-2)
    for both in (ask(x_test=x, compute_cov=True), ask(x_test=x)):
        with pytest.raises(TypeError, match=r"draw one of them, \.nngp or \.ntk"):
            plot.posterior_band(x, both)
    for alone in (ask(x_test=x, get="ntk"), x[:2], [x], None, 3.0):
        with pytest.raises(TypeError, match=r"compute_cov=True.*return_std"):
            plot.posterior_band(x, alone)
    assert plot.posterior_band(x, ask(x_test=x, compute_cov=True).ntk) is not None
