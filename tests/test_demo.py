"""The demo: its inference against textbook formulas, its data checks, and the command line on small data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")
pytest.importorskip("threadpoolctl")
pytest.importorskip("tqdm")

import fastntk
from fastntk import cli
from fastntk.demo import DemoError, Settings, evaluate, experiment, load_npz, picture
from fastntk.demo.data import Problem, split, standardise, subsample
from fastntk.demo.experiment import convolutional_network, convolve, network
from fastntk.demo.inference import (
    class_nll,
    fit,
    fit_temperature,
    gaussian_nll,
    log_class_probabilities,
    log_marginal_likelihood,
    select_noise,
)
from matplotlib.image import imread
from scipy.stats import multivariate_normal, norm

NOISE = 0.07


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def regression(rng):
    """Training kernel, cross kernel, test kernel's diagonal, targets: NNGP of a small network."""
    x = rng.normal(size=(30, 4))
    _, _, kernel_fn = network(Settings(depth=2))
    k = kernel_fn(x, get="nngp")
    return k[:24, :24], k[24:, :24], np.diagonal(k)[24:], rng.normal(size=(24, 3))


# ---- inference


def test_posterior_is_the_textbook_one(regression):
    k, cross, diagonal, y = regression
    inverse = np.linalg.inv(k + NOISE * np.eye(len(k)))
    posterior = fit(k, y, NOISE, amplitude=1.7)
    np.testing.assert_allclose(posterior.mean(cross), cross @ inverse @ y, rtol=1e-9, atol=1e-11)
    expected = 1.7 * (diagonal - np.diagonal(cross @ inverse @ cross.T) + NOISE)
    np.testing.assert_allclose(posterior.variance(cross, diagonal), expected, rtol=1e-9)


def test_posterior_agrees_with_scikit_learn(rng):
    gaussian_process = pytest.importorskip("sklearn.gaussian_process")
    x, new, y = rng.normal(size=(25, 3)), rng.normal(size=(7, 3)), rng.normal(size=(25, 1))
    kernel = 1.3 * gaussian_process.kernels.RBF(1.9)
    theirs = gaussian_process.GaussianProcessRegressor(kernel, alpha=NOISE, optimizer=None).fit(x, y[:, 0])
    mean, sd = theirs.predict(new, return_std=True)
    ours = fit(kernel(x), y, NOISE)
    np.testing.assert_allclose(ours.mean(kernel(new, x))[:, 0], mean, rtol=1e-9)
    np.testing.assert_allclose(ours.variance(kernel(new, x), kernel.diag(new)) - NOISE, sd**2, rtol=1e-8)
    assert log_marginal_likelihood(kernel(x), y, NOISE) == pytest.approx(
        theirs.log_marginal_likelihood_value_, rel=1e-10
    )


def test_inputs_stay_as_they_are(regression):
    k, cross, diagonal, y = regression
    copies = [a.copy() for a in regression]
    posterior = fit(k, y, NOISE)
    posterior.mean(cross)
    posterior.variance(cross, diagonal)
    posterior.leave_one_out()
    select_noise(k, y)
    log_marginal_likelihood(k, y, NOISE)
    for array, copy in zip(regression, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_log_marginal_likelihood_is_the_normal_density(regression):
    k, _, _, y = regression
    density = multivariate_normal(np.zeros(len(k)), k + NOISE * np.eye(len(k)))
    expected = sum(density.logpdf(column) for column in y.T)
    assert log_marginal_likelihood(k, y, NOISE) == pytest.approx(expected, rel=1e-11)


def test_selection_is_the_best_of_grid_and_amplitudes(regression):
    k, _, _, y = regression
    ratios = (1e-3, 1e-2, 1e-1, 1.0)
    found = select_noise(k, y, ratios)
    value = log_marginal_likelihood(found.amplitude * k, y, found.amplitude * found.noise)
    assert found.log_evidence == pytest.approx(value, rel=1e-10)
    noises = np.array(ratios) * np.mean(np.diagonal(k))
    assert np.min(np.abs(noises / found.noise - 1)) < 1e-12
    for noise in noises:
        for amplitude in found.amplitude * np.array([0.5, 0.99, 1.0, 1.01, 2.0]):
            assert log_marginal_likelihood(amplitude * k, y, amplitude * noise) <= value + 1e-9


def test_leave_one_out_is_brute_force(regression):
    k, _, _, y = regression
    mean, variance = fit(k, y, NOISE, amplitude=0.6).leave_one_out()
    for i in range(len(k)):
        rest = np.delete(np.arange(len(k)), i)
        posterior = fit(k[np.ix_(rest, rest)], y[rest], NOISE, amplitude=0.6)
        np.testing.assert_allclose(mean[i], posterior.mean(k[i : i + 1, rest])[0], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(variance[i], posterior.variance(k[i : i + 1, rest], k[i, i : i + 1])[0], rtol=1e-9)


def test_ntk_mean_is_gradient_descent_run_to_its_end(rng):
    """Of the linearised network from 0 outputs, with the penalty on the distance from its start."""
    x = rng.normal(size=(12, 3))
    _, _, kernel_fn = network(Settings(depth=1))
    ntk = kernel_fn(x, get="ntk")
    features = np.linalg.cholesky(ntk)  # parameters' Jacobian, up to a rotation
    y, train = rng.normal(size=(8, 1)), slice(0, 8)
    hessian = features[train].T @ features[train] + NOISE * np.eye(12)
    weights = np.zeros((12, 1))
    for _ in range(20000):
        weights -= (hessian @ weights - features[train].T @ y) / np.linalg.norm(hessian, 2)
    expected = features[8:] @ weights
    np.testing.assert_allclose(fit(ntk[train, train], y, NOISE).mean(ntk[8:, train]), expected, rtol=1e-6)


def test_class_probabilities_of_two_classes(rng):
    mean, sd = rng.normal(size=(40, 2)) * 3, rng.uniform(0.2, 2, size=40)
    gap = (mean[:, 0] - mean[:, 1]) / (np.sqrt(2) * sd)
    expected = np.stack([norm.logcdf(gap), norm.logcdf(-gap)], axis=1)
    np.testing.assert_allclose(log_class_probabilities(mean, sd), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("classes", [3, 10, 100])
def test_class_probabilities_by_sampling(rng, classes):
    mean, sd = rng.normal(size=(2, classes)), np.array([0.7, 1.5])
    mean[1, 0] = -200.0  # far from all others
    draws = 40_000
    for row, p in enumerate(np.exp(log_class_probabilities(mean, sd))):
        winners = (mean[row] + sd[row] * rng.normal(size=(draws, classes))).argmax(axis=1)
        counts = np.bincount(winners, minlength=classes)
        assert p.sum() == pytest.approx(1, abs=1e-12)
        assert np.all(np.abs(counts / draws - p) < 5 * np.sqrt(p / draws) + 5 / draws)


def test_class_probabilities_of_equal_and_of_hopeless_classes():
    np.testing.assert_allclose(np.exp(log_class_probabilities(np.zeros((1, 7)), np.ones(1))), 1 / 7, rtol=1e-9)
    extreme = log_class_probabilities(np.array([[1e6, 0.0, -1e6]]), np.array([1e-3]))
    assert np.isfinite(extreme).all()
    assert extreme[0, 0] == pytest.approx(0, abs=1e-12)


def test_temperature_finds_the_spread_that_made_the_labels(rng):
    mean, sd = rng.normal(size=(4000, 3)), np.full(4000, 0.25)
    labels = (mean + 4 * sd[:, None] * rng.normal(size=mean.shape)).argmax(axis=1)
    found = fit_temperature(mean, sd, labels)
    assert found == pytest.approx(4, rel=0.1)
    nlls = [class_nll(log_class_probabilities(mean, t * sd), labels) for t in (found / 1.3, found, found * 1.3)]
    assert nlls[1] == min(nlls)


def test_temperature_stays_where_nothing_is_learnt():
    mean = np.array([[1e4, 0.0], [0.0, 1e4]])
    assert fit_temperature(mean, np.ones(2), np.array([0, 1])) == pytest.approx(1, rel=0.1)


def test_gaussian_nll(rng):
    y, mean, sd = rng.normal(size=9), rng.normal(size=9), rng.uniform(0.5, 2, 9)
    assert gaussian_nll(y, mean, sd) == pytest.approx(-np.mean(norm.logpdf(y, mean, sd)), rel=1e-12)


# ---- data


def test_split_is_stratified_and_leaves_no_class_untrained():
    y = np.repeat([0, 1, 2], [40, 20, 1])
    problem = Problem("", np.zeros((61, 2)), y, ("a", "b", "c"))
    train, test = split(problem, 0.25, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(61))
    np.testing.assert_array_equal(np.bincount(y[test], minlength=3), [10, 5, 0])


def test_standardise_measures_training_rows_only(rng):
    x = rng.normal(3, [1.0, 5.0, 0.0], size=(20, 3))
    problem = Problem("", x, np.zeros(20), None)
    train = np.arange(12)
    z = standardise(problem, train)
    np.testing.assert_allclose(z[train].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(z[train].std(axis=0), [1, 1, 0], atol=1e-12)
    far = x.copy()
    far[12:] += 100
    np.testing.assert_array_equal(standardise(Problem("", far, problem.y, None), train)[train], z[train])


def test_subsample_forgets_classes_that_are_gone():
    y = np.repeat([0, 1, 2], [50, 50, 1])
    part = subsample(Problem("", np.arange(101.0)[:, None], y, ("a", "b", "c")), 20, seed=1)
    assert len(part.x) == 20
    assert part.classes == ("a", "b")
    np.testing.assert_array_equal(part.y, (part.x[:, 0] >= 50).astype(int))


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (np.arange(20) % 3, ("0", "1", "2")),
        (np.arange(20) % 2 == 0, ("False", "True")),
        (np.array(["no", "yes"])[np.arange(20) % 2], ("no", "yes")),
        (np.array([b"no", b"yes"])[np.arange(20) % 2], ("no", "yes")),
        (np.arange(20) % 2 * 1.0, ("0", "1")),
        (np.arange(20)[:, None] % 2, ("0", "1")),
        (np.arange(20) + 0.5, None),
        (np.arange(20) % 2 + 0.5, None),
    ],
)
def test_what_y_is(tmp_path, y, classes):
    np.savez(tmp_path / "d.npz", x=np.eye(20), y=y)
    problem = load_npz(tmp_path / "d.npz")
    assert problem.classes == classes
    expected = np.ravel(y) if classes is None else np.unique(y, return_inverse=True)[1].ravel()
    np.testing.assert_array_equal(problem.y, expected)


def test_task_overrides_what_y_looks_like(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.eye(20), y=np.arange(20))
    assert load_npz(tmp_path / "d.npz", "regression").classes is None
    np.savez(tmp_path / "d.npz", x=np.eye(20), y=np.arange(20) % 2 + 0.5)
    assert load_npz(tmp_path / "d.npz", "classification").classes == ("0.5", "1.5")


@pytest.mark.parametrize(
    ("shape", "images"),
    [((6, 7), (6, 7)), ((6, 7, 3), (6, 7, 3)), ((6, 7, 1), (6, 7)), ((64,), (8, 8)), ((9,), None), ((65,), None)],
)
def test_images(tmp_path, rng, shape, images):
    np.savez(tmp_path / "d.npz", x=rng.integers(0, 255, (12, *shape), dtype=np.uint8), y=np.arange(12) % 2)
    problem = load_npz(tmp_path / "d.npz")
    assert problem.image_shape == images
    assert problem.x.shape == (12, np.prod(shape))
    assert load_npz(tmp_path / "d.npz", images=False).image_shape is None


def test_cases_are_what_they_are_called():
    p = np.array([[0.98, 0.01, 0.01], [0.4, 0.35, 0.25], [0.2, 0.7, 0.1], [0.05, 0.05, 0.9], [0.97, 0.02, 0.01]])
    labels = np.array([0, 0, 0, 2, 0])
    cases = picture.choose_cases(np.log(p), labels, count=4)
    assert cases == [("surest", 0), ("least sure", 3), ("least sure", 1), ("wrong", 2)]
    assert len({row for _, row in picture.choose_cases(np.log(p), labels, count=8)}) == 5


# ---- the whole


SMALL = Settings(depth=2, repeats=2)


def blobs(rng, n=60, d=3, classes=3):
    y = np.arange(n) % classes
    return rng.normal(size=(n, d)) + 4 * np.eye(d)[y % d], y


def test_experiment_learns_and_repeats_itself(rng):
    x, y = blobs(rng)
    problem = Problem("blobs", x, y, ("a", "b", "c"))
    steps = []
    result = evaluate(problem, SMALL, lambda done, total: steps.append((done, total)))
    again = evaluate(problem, SMALL)
    assert [model.name for model in result.models] == ["NNGP", "NTK", "RBF"]
    assert steps == [(k, len(steps) - 1) for k in range(len(steps))]
    for model, other in zip(result.models, again.models, strict=True):
        assert model.score > 0.8
        assert 0 < model.nll < np.log(3)
        assert (model.score, model.nll, model.temperature) == (other.score, other.nll, other.temperature)
        assert [len(s) for s in result.curve.scores[model.name]] == [2] * (len(result.curve.sizes) - 1) + [1]
    assert set(result.train).isdisjoint(result.test)


def test_choices_do_not_see_the_test_set(rng):
    x, y = blobs(rng)
    names = ("a", "b", "c")
    train, test = split(Problem("blobs", x, y, names), 0.25, rng)
    moved_x, moved_y = x.copy(), y.copy()
    moved_x[test] *= -9
    moved_y[test] = (y[test] + 1) % 3
    choices = []
    for problem in (Problem("", x, y, names), Problem("", moved_x, moved_y, names)):
        model = experiment._model(experiment._rbf(standardise(problem, train), train), problem, train, test)
        choices.append((model.scale, model.selection.noise, model.selection.amplitude, model.temperature))
    np.testing.assert_allclose(*choices, rtol=1e-9)


@pytest.mark.parametrize("shape", [(8, 8), (5, 4, 3), (1, 9), (1, 1)])
def test_convolution_is_of_the_images(rng, shape):
    """Entries of the whole are those of the network asked for two images; odd sides and single pixels are taken."""
    x = rng.normal(size=(7, int(np.prod(shape))))
    found = convolve(x, shape, SMALL)
    two = x[[5, 2]].reshape(2, *shape[:2], -1)
    expected = convolutional_network(SMALL).kernel_fn(two, None, "ntk")
    np.testing.assert_allclose(found.ntk[np.ix_([5, 2], [5, 2])], expected, rtol=1e-12)
    assert found.seconds > 0


def test_convolution_sees_neighbours(rng):
    """Exchanged pixels: nothing to a dense network, something to this one."""
    x = rng.normal(size=(3, 64))
    mixed = x[:, rng.permutation(64)]
    before, after = (network(SMALL).kernel_fn(a, None, "ntk") for a in (x, mixed))
    np.testing.assert_allclose(before, after, rtol=1e-12)
    before, after = (convolve(a, (8, 8), SMALL).ntk for a in (x, mixed))
    assert np.abs(before / after - 1).max() > 1e-3


def test_convolution_is_left_out_where_it_takes_long(rng, monkeypatch):
    assert convolve(np.ones((2, 33 * 32)), (33, 32), SMALL).why == "images have more than 1024 pixels"
    monkeypatch.setattr(experiment, "MAX_SECONDS", 0.0)
    x, y = blobs(rng, d=64)
    result = evaluate(Problem("blobs", x, y, ("a", "b", "c"), (8, 8)), SMALL)
    assert [model.name for model in result.models] == ["NNGP", "NTK", "RBF"]
    assert result.convolution.ntk is None
    assert "it would take about 0 min" in result.convolution.why


MODELS = ("NNGP", "NTK", "CNTK", "RBF")


def demo(*args):
    return cli.main(["demo", *map(str, args)])


def save(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


def picture_size(path: Path) -> tuple[int, int]:
    pixels = imread(path)
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert pixels[..., :3].std() > 0.05
    return pixels.shape[1], pixels.shape[0]


@pytest.fixture
def coarse(monkeypatch):
    """Pictures of fewer pixels, which take less time."""
    monkeypatch.setattr(picture, "STYLE", {**picture.STYLE, "figure.dpi": 50, "savefig.dpi": 50})


@pytest.mark.parametrize("kind", ["images", "table", "regression"])
def test_demo_on_own_data(tmp_path, capsys, rng, coarse, kind):
    x, y = blobs(rng, d=64 if kind == "images" else 3)
    target = x @ np.arange(1.0, 4.0) if kind == "regression" else np.array(["ant", "bee", "a much longer name"])[y]
    data = save(tmp_path / "own.npz", x=x.astype(np.float32), y=target)
    out = tmp_path / "own.png"
    assert demo("--data", data, "--out", out, "--depth", 2, "--repeats", 2, "--seed", 3) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    config = fastntk.show_config(mode="dict")
    assert f"backend {config['backend']}, instruction set {config['isa']}" in printed.out
    assert ("test RMSE" if kind == "regression" else "test accuracy") in printed.out
    found = [line.split()[0] for line in printed.out.splitlines() if line.startswith(MODELS)]
    assert found == [name for name in MODELS if name != "CNTK" or kind == "images"]
    assert ("AvgPool" in printed.out) == (kind == "images")
    assert picture_size(out) == (700, 420)


def test_demo_on_the_digits(tmp_path, capsys, monkeypatch):
    pytest.importorskip("sklearn")
    backend = fastntk.show_config(mode="dict")["backend"]
    if backend == "numpy":  # some 100 times slower on images
        monkeypatch.setattr(experiment, "MAX_SECONDS", 1.0)
    out = tmp_path / "digits.png"
    assert demo("--out", out, "--max-samples", 160, "--repeats", 1) == 0
    printed = capsys.readouterr().out
    assert "160 random samples of 1797" in printed
    assert "160 handwritten digits, 64 features, 10 classes" in printed
    accuracy = {line.split()[0]: float(line.split()[1]) for line in printed.splitlines() if line.startswith(MODELS)}
    assert tuple(accuracy) == tuple(name for name in MODELS if name != "CNTK" or backend != "numpy")
    assert ("no convolutional network: it would take about" in printed) == (backend == "numpy")
    assert min(accuracy.values()) > 75
    assert picture_size(out) == (2800, 1680)


def test_demo_on_few_samples_and_on_copies(tmp_path, rng, coarse):
    data = save(tmp_path / "few.npz", x=rng.normal(size=(10, 2)), y=np.arange(10) % 2)
    assert demo("--data", data, "--out", tmp_path / "few.png") == 0
    data = save(tmp_path / "copies.npz", x=np.repeat([[0.0], [1.0]], [25, 5], axis=0), y=np.repeat([0, 1], [25, 5]))
    assert demo("--data", data, "--out", tmp_path / "few.png") == 0


X = np.random.default_rng(1).normal(size=(20, 3))
Y = np.arange(20) % 2


def with_nan(a):
    a = a.astype(float)
    a.flat[4] = np.nan
    return a


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": X}, "no array y"),
        ({"a": X, "b": Y}, "no array x and y in it; it holds a, b"),
        ({"x": X, "y": Y[:-1]}, "x has 20 samples, y has 19"),
        ({"x": with_nan(X), "y": Y}, "x has NaN or infinity in 1 of 20"),
        ({"x": X, "y": with_nan(Y)}, "y has NaN or infinity in 1 of 20"),
        ({"x": X * 1e200, "y": Y}, "x reaches"),
        ({"x": X, "y": X[:, 0] * 1e200}, "y reaches"),
        ({"x": X[:5], "y": Y[:5]}, "5 samples"),
        ({"x": X, "y": np.zeros(20, int)}, "one value only, 0"),
        ({"x": X, "y": np.full(20, 0.5)}, "one value only, 0.5"),
        ({"x": X, "y": np.arange(20)}, "20 classes for 20 samples"),
        ({"x": X[:, 0], "y": Y}, "x must have shape"),
        ({"x": X[:, :0], "y": Y}, "no features"),
        ({"x": np.ones((20, 3)), "y": Y}, "all samples of x are equal"),
        ({"x": X * 1j, "y": Y}, "complex128"),
        ({"x": X.astype(str), "y": Y}, "real numbers"),
        ({"x": X, "y": Y * 1j}, "y must hold"),
        ({"x": X, "y": np.eye(20)}, "y must have shape"),
        ({"x": X, "y": Y.astype(object)}, "Python objects"),
    ],
)
def test_data_errors(tmp_path, capsys, arrays, says):
    data = save(tmp_path / "bad.npz", **arrays)
    expect_error(capsys, says, "--data", data, "--out", tmp_path / "p.png")
    assert not (tmp_path / "p.png").exists()


def expect_error(capsys, says, *args):
    assert demo(*args) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("fastntk demo: ")
    assert printed.err.count("\n") == 1
    assert says in printed.err


def test_file_errors(tmp_path, capsys):
    out = tmp_path / "p.png"
    expect_error(capsys, "no such file", "--data", tmp_path / "absent.npz", "--out", out)
    expect_error(capsys, "not a readable", "--data", tmp_path, "--out", out)
    (tmp_path / "text.npz").write_text("x,y\n1,2\n")
    expect_error(capsys, "not a readable", "--data", tmp_path / "text.npz", "--out", out)
    (tmp_path / "empty.npz").write_bytes(b"")
    expect_error(capsys, "not a readable", "--data", tmp_path / "empty.npz", "--out", out)
    np.save(tmp_path / "one.npy", X)
    expect_error(capsys, "a single array", "--data", tmp_path / "one.npy", "--out", out)
    whole = save(tmp_path / "cut.npz", x=X, y=Y).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    expect_error(capsys, "not a readable", "--data", tmp_path / "cut.npz", "--out", out)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--depth", 0), "--depth"),
        (("--w-std", 0), "--w-std"),
        (("--b-std", "nan"), "--b-std"),
        (("--w-std", 1e60), "--w-std"),
        (("--w-std", 1e-60, "--b-std", 0), "--w-std"),
        (("--seed", -1), "--seed"),
        (("--test-fraction", 1), "--test-fraction"),
        (("--test-fraction", 0.001), "0 to test"),
        (("--repeats", 0), "--repeats"),
        (("--max-samples", 3), "--max-samples"),
        (("--out", "picture.txt"), ".png"),
        (("--out", "absent/folder/p.png"), "folder does not exist"),
        (("--out", "folder.png"), "a folder"),
    ],
)
def test_argument_errors(tmp_path, capsys, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    data = save(tmp_path / "good.npz", x=X, y=Y)
    expect_error(capsys, says, "--data", data, "--out", "p.png", *args)


def test_strings_are_no_regression_target(tmp_path, capsys):
    data = save(tmp_path / "d.npz", x=X, y=Y.astype(str))
    expect_error(capsys, "regression target", "--data", data, "--task", "regression", "--out", tmp_path / "p.png")


def test_subsample_of_one_class_says_so():
    problem = Problem("rows", np.eye(1000), np.repeat([0, 1], [999, 1]), ("a", "b"))
    with pytest.raises(DemoError, match="one value"):
        subsample(problem, 10, seed=0)


def test_missing_extras_name_the_command(capsys, monkeypatch):
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name in ("tqdm", "sklearn") else object())
    expect_error(capsys, "tqdm, sklearn not installed: pip install 'fastntk[demo]'")


def test_missing_backend_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FASTNTK_BACKEND", "abacus")
    expect_error(capsys, "no backend", "--data", save(tmp_path / "d.npz", x=X, y=Y), "--out", tmp_path / "p.png")


def test_interruption_is_quiet(capsys, monkeypatch, tmp_path):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("fastntk.demo.run", stop)
    assert demo("--out", tmp_path / "p.png") == 130
    assert capsys.readouterr().err.strip() == "fastntk demo: interrupted"


def test_info_and_version(capsys):
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    assert fastntk.__version__ in printed
    assert "backend" in printed
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.strip() == f"fastntk {fastntk.__version__}"


def test_module_runs_without_the_extras():
    """``python -m fastntk info`` needs NumPy alone."""
    code = (
        "import sys\n"
        "for name in ('scipy', 'matplotlib', 'tqdm', 'sklearn'): sys.modules[name] = None\n"
        "sys.argv = ['fastntk', 'info']\n"
        "import runpy; runpy.run_module('fastntk', run_name='__main__')\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "backend" in ran.stdout
