"""The demo: what it measures, its data checks, and the command line on small data."""

from __future__ import annotations

import errno
import os
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
from fastntk import cli, predict
from fastntk.demo import DemoError, Settings, evaluate, experiment, load_npz, picture
from fastntk.demo.data import Problem, split, standardise, subsample
from fastntk.demo.experiment import convolutional_network, convolve, network
from matplotlib.image import imread


@pytest.fixture
def rng():
    return np.random.default_rng(5)


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


@pytest.mark.parametrize("kind", ["classes", "regression"])
def test_training_is_gradient_descent_step_by_step(rng, kind):
    """The linear model in the kernel's features, from 0, by the loop itself: losses and scores."""
    x, y = blobs(rng)
    classes = ("a", "b", "c") if kind == "classes" else None
    problem = Problem("blobs", x, y if classes else x @ np.arange(1.0, 4.0), classes)
    result = evaluate(problem, SMALL)
    ntk = network(SMALL).kernel_fn(standardise(problem, result.train), None, "ntk")
    k, cross = ntk[np.ix_(result.train, result.train)], ntk[np.ix_(result.test, result.train)]
    if classes:
        offset, unit, targets = 0.0, 1.0, np.eye(3)[problem.y] - 1 / 3
    else:
        offset, unit = problem.y[result.train].mean(), problem.y[result.train].std()
        targets = (problem.y[:, None] - offset) / unit
    truth, new = targets[result.train], targets[result.test]
    a = k + 1e-8 * np.trace(k) / len(k) * np.eye(len(k))
    rate = truth.size / np.linalg.norm(k, 2)
    weights, found = np.zeros_like(truth), result.training["NTK"]
    shown = list(found.steps[:20])
    for step in range(1, int(shown[-1]) + 1):
        weights += rate / truth.size * (truth - a @ weights)
        if step in shown:
            at, mean = shown.index(step), cross @ weights
            assert found.train_loss[at] == pytest.approx(np.mean((a @ weights - truth) ** 2) / 2, rel=1e-6)
            assert found.test_loss[at] == pytest.approx(np.mean((mean - new) ** 2) / 2, rel=1e-6)
            right = np.mean(mean.argmax(axis=1) == problem.y[result.test])
            error = np.sqrt(np.mean((offset + unit * mean[:, 0] - problem.y[result.test]) ** 2))
            assert found.score[at] == pytest.approx(right if classes else error, rel=1e-6)
    assert found.steps[-1] == 10**6
    assert found.test_loss[found.best] == found.test_loss.min()
    assert set(result.training) == {"NNGP", "NTK"}


def test_calibration_is_what_it_says(rng):
    x, y = blobs(rng)
    result = evaluate(Problem("blobs", x, y, ("a", "b", "c")), SMALL)
    model, truth = result.models[0], y[result.test]
    p = np.exp(model.log_p)
    np.testing.assert_allclose(p, predict.class_probabilities(model.mean, model.sd**2), rtol=1e-9)
    assert model.calibration == pytest.approx(predict.expected_calibration_error(p, truth))
    regression = Problem("line", x, x @ np.arange(1.0, 4.0) + rng.normal(size=60), None)
    result = evaluate(regression, SMALL)
    model, truth = result.models[0], regression.y[result.test]
    z = np.abs(truth - model.mean[:, 0]) / model.sd
    assert model.calibration == np.mean(z < 1.959963984540054)
    assert model.nll == pytest.approx(np.mean(z**2 / 2 + np.log(model.sd)) + np.log(2 * np.pi) / 2, rel=1e-12)


def test_a_single_training_value_is_refused(rng):
    y = np.zeros(20)
    y[3] = 1.0
    seed = next(s for s in range(20) if 3 in split(Problem("", X, y, None), 0.25, np.random.default_rng(s))[1])
    with pytest.raises(DemoError, match="the 15 samples to train on have one value of y only"):
        evaluate(Problem("", X, y, None), Settings(seed=seed))


def test_small_parts_with_a_single_value_are_predicted_by_it(rng):
    y = np.zeros(60)
    y[:8] = 1.0
    assert evaluate(Problem("", rng.normal(size=(60, 3)), y, None), SMALL).curve.sizes[0] == 11


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
        choices.append((model.scale, model.selection.diag_reg, model.selection.amplitude, model.temperature))
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
    models = printed.out[: printed.out.index("training  ")]
    found = [line.split()[0] for line in models.splitlines() if line.startswith(MODELS)]
    assert found == [name for name in MODELS if name != "CNTK" or kind == "images"]
    assert ("AvgPool" in printed.out) == (kind == "images")
    assert ("in 95 % band" if kind == "regression" else "calib. error") in printed.out
    training = printed.out[printed.out.index("training  ") :].splitlines()
    assert "1,000,000 steps" in training[0]
    assert [line.split()[0] for line in training[2:4]] == ["NNGP", "NTK"]
    assert picture_size(out) == ((700, 600) if kind == "images" else (700, 420))


@pytest.mark.parametrize(
    "names",
    [
        ("$_$", "b"),
        ("$\\frac{", "a$"),
        ("<$50_$", ">=$50_$"),
        ("US$", "\\$\\$"),
        ("a\nb\x00", "\ud800"),
        ("", "x" * 5000),
    ],
    ids=range(6),
)
@pytest.mark.parametrize("images", [False, True])
def test_names_of_classes_are_no_mathematics(tmp_path, capsys, rng, coarse, names, images):
    """Nor is the name of the file; what a terminal cannot show is replaced."""
    x, y = blobs(rng, d=64 if images else 3)
    data = save(tmp_path / "own $\\frac$\ud8ff.npz".encode("utf-8", "replace").decode(), x=x, y=np.array(names)[y % 2])
    out = tmp_path / "own.png"
    assert demo("--data", data, "--out", out, "--depth", 1, "--repeats", 1) == 0
    assert picture_size(out)[0] == 700
    assert capsys.readouterr().err == ""


def test_names_are_written_as_they_are():
    """What matplotlib makes of an escaped name is the name."""
    from matplotlib.text import Text

    for name in ("$_$", "US$", "\\$", "$a$ and $b$", "plain"):
        shown = Text(0, 0)._preprocess_math(picture._short(name, 40))
        assert shown == (name, False)


def test_a_disk_that_fills_while_the_demo_runs(tmp_path, capsys, coarse, monkeypatch):
    data, out = save(tmp_path / "d.npz", x=X, y=Y), tmp_path / "p.png"
    out.write_bytes(b"as it was")

    def full(self, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert demo("--data", data, "--out", out, "--depth", 1, "--repeats", 1) == 2
    assert capsys.readouterr().err == "fastntk demo: [Errno 28] No space left on device\n"
    monkeypatch.undo()
    assert out.read_bytes() == b"as it was"


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
    models = printed[: printed.index("training  ")].splitlines()
    accuracy = {line.split()[0]: float(line.split()[1]) for line in models if line.startswith(MODELS)}
    assert tuple(accuracy) == tuple(name for name in MODELS if name != "CNTK" or backend != "numpy")
    assert ("no convolutional network: it would take about" in printed) == (backend == "numpy")
    assert min(accuracy.values()) > 75
    assert picture_size(out) == (2800, 2400)


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
