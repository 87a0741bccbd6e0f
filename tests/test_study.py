"""Finite and infinite networks side by side: the ensembles, the study, its command."""

import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
from fastntk import cli, stax, study
from fastntk.predict import gp_inference, gradient_descent_mse, gradient_descent_mse_ensemble, max_learning_rate
from fastntk.study.experiment import GRID
from fastntk.study.picture import draw
from fastntk.study.report import as_json, markdown, text
from matplotlib.image import imread
from scipy.linalg import fractional_matrix_power


def kernel_of(depth, b_std, w_std=2**0.5):
    hidden = stax.Dense(1, w_std, b_std), stax.Relu()
    return stax.serial(*hidden * depth, stax.Dense(1, w_std, b_std))[2]


def blobs(rng, n=40, m=30, d=6):
    """Three classes around centres of their own."""
    centres = 1.5 * rng.standard_normal((3, d))
    labels = np.arange(n + m) % 3
    x = centres[labels] + rng.standard_normal((n + m, d))
    return study.Data("blobs", x[:n], labels[:n], x[n:], labels[n:])


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.fixture(scope="module")
def data():
    return blobs(np.random.default_rng(5))


@pytest.fixture(scope="module")
def found(data):
    return study.finite_vs_infinite(data, (16, 64, 256), 4, steps=80)


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
def test_gradients_and_tangent_kernel_are_those_of_finite_differences(rng, parameterization):
    x = rng.standard_normal((4, 3))
    nets = study.draw(2, 3, 5, 2, 2, rng, parameterization=parameterization, b_std=0.4, dtype=np.float64)
    jacobian = []  # by parameter: (S, n, k)
    for kind in ("weights", "biases"):
        for layer, values in enumerate(getattr(nets, kind)):
            for place in np.ndindex(values.shape[1:]):
                ends = []
                for step in (1e-6, -1e-6):
                    moved = [v.copy() for v in getattr(nets, kind)]
                    moved[layer][(slice(None), *place)] += step
                    ends.append(replace(nets, **{kind: tuple(moved)})(x))
                jacobian.append((ends[0] - ends[1]) / 2e-6)
    jacobian = np.array(jacobian)
    expected = np.einsum("psnk,psmk->snm", jacobian, jacobian) / 2
    np.testing.assert_allclose(study.empirical_ntk(nets, x), expected, rtol=1e-6)
    pull = rng.standard_normal((2, 4, 2))
    by_weight, by_bias = nets.gradients(x, nets.preactivations(x), pull)
    flat = np.concatenate([g.reshape(2, -1) for g in (*by_weight, *by_bias)], axis=1)
    np.testing.assert_allclose(flat.T, np.einsum("psnk,snk->ps", jacobian, pull), rtol=1e-5, atol=1e-8)


def test_relative_error_of_one_tangent_kernel_falls_as_the_root_of_the_width():
    """theory: .471, .228, .110, .064 for single draws; here means over draws, whose own spread is a third."""
    x, b_std = np.random.default_rng(0).standard_normal((12, 6)), 0.05**0.5
    exact = kernel_of(2, b_std)(x, get="ntk")
    widths, errors = (32, 128, 512, 2048), []
    for width, draws in zip(widths, (64, 32, 16, 6), strict=True):
        each = [
            study.empirical_ntk(
                study.draw(1, 6, width, 2, 1, np.random.default_rng([seed, width]), b_std=b_std, dtype=np.float64), x
            )[0]
            for seed in range(draws)
        ]
        errors.append(np.mean([np.linalg.norm(k - exact) for k in each]) / np.linalg.norm(exact))
    assert -0.6 < np.polyfit(np.log(widths), np.log(errors), 1)[0] < -0.4
    np.testing.assert_allclose(errors, (0.471, 0.228, 0.110, 0.064), rtol=0.35)


def test_networks_start_as_the_same_functions_in_both_parameterizations(rng):
    x = rng.standard_normal((5, 3))
    ntk, standard = (
        study.draw(3, 3, 8, 2, 2, np.random.default_rng(1), parameterization=p, dtype=np.float64)
        for p in ("ntk", "standard")
    )
    np.testing.assert_allclose(ntk(x), standard(x), rtol=1e-12)
    assert np.abs(study.empirical_ntk(ntk, x) / study.empirical_ntk(standard, x) - 1).min() > 0.1


def test_trained_ensembles_have_the_mean_and_spread_of_the_infinite_one(rng):
    """Gradient descent at .17 of the largest rate: means within 2.5 standard deviations over the root of M."""
    count = 40
    x = rng.standard_normal((13, 6))
    x, x_test, y = x[:8], x[8:], rng.standard_normal((8, 1))
    kernel_fn = kernel_of(2, 0.05**0.5)
    rate = 0.17 * max_learning_rate(kernel_fn(x, get="ntk"), y.size)
    limit = gradient_descent_mse_ensemble(kernel_fn, x, y, rate, discrete=True)(100, x_test, "ntk", compute_cov=True)
    std = np.sqrt(np.diagonal(limit.covariance))
    nets = study.draw(count, 6, 256, 2, 1, rng, b_std=0.05**0.5)
    outputs = study.train(nets, x, y, rate, 100).networks(x_test)[..., 0].astype(np.float64)
    assert (np.abs(outputs.mean(axis=0) - limit.mean[:, 0]) < 2.5 * std / math.sqrt(count)).all()
    np.testing.assert_allclose(outputs.std(axis=0), std, rtol=2.5 / math.sqrt(2 * count) + 0.05)


def test_a_step_of_training_is_the_gradient_and_the_penalty(rng):
    x, y = rng.standard_normal((6, 3)), rng.standard_normal((6, 2))
    nets = study.draw(2, 3, 7, 1, 2, rng, dtype=np.float64)
    start = nets(x)
    plain, decayed, centered = (
        study.train(nets, x, y, 0.3, 1, **more).networks for more in ({}, {"l2": 0.5}, {"centered": True})
    )
    for got, goal, shrink in ((plain, y, 1), (decayed, y, 0.85), (centered, y + start, 1)):
        pulls = (start - goal) / y.size
        by_weight, by_bias = nets.gradients(x, nets.preactivations(x), pulls)
        for after, before, gradient in zip(
            (*got.weights, *got.biases), (*nets.weights, *nets.biases), (*by_weight, *by_bias), strict=True
        ):
            np.testing.assert_allclose(after, shrink * before - 0.3 * gradient, rtol=1e-12, atol=1e-15)


def test_a_network_that_diverges_leaves_the_others_as_they_would_be(rng):
    x, y = rng.standard_normal((6, 3)), rng.standard_normal((6, 1))
    nets = study.draw(3, 3, 9, 1, 1, rng)
    nets.weights[1][1] *= 1e4
    trained = study.train(nets, x, y, 0.5, 40)
    assert trained.survived.tolist() == [True, False, True]
    alone = study.train(nets.take(np.array([0, 2])), x, y, 0.5, 40).networks(x)
    np.testing.assert_allclose(trained.networks(x), alone, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- data


def test_zca_is_its_definition_and_whitens(rng):
    x = rng.standard_normal((50, 5)) @ rng.standard_normal((5, 5)) + 3
    covariance = np.cov(x.T, bias=True)
    for eps in (0.0, 0.1, 10.0):
        shifted = covariance + eps * np.trace(covariance) / 5 * np.eye(5)
        expected = fractional_matrix_power(shifted, -0.5)
        np.testing.assert_allclose(study.zca_matrix(x, eps), expected, rtol=1e-8, atol=1e-10)
    few = x[:3]  # fewer samples than features
    shifted = np.cov(few.T, bias=True) + 0.1 * np.trace(np.cov(few.T, bias=True)) / 5 * np.eye(5)
    np.testing.assert_allclose(study.zca_matrix(few, 0.1), fractional_matrix_power(shifted, -0.5), rtol=1e-8)
    np.testing.assert_allclose(np.cov((x @ study.zca_matrix(x, 0.0)).T, bias=True), np.eye(5), atol=1e-10)


def test_inputs_are_centred_and_scaled_by_the_training_set(data):
    for eps in (None, 0.1):
        train, test = data.inputs(eps)
        np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-12)
        assert np.mean(train**2) == pytest.approx(1)
        matrix = np.eye(6) if eps is None else study.zca_matrix(data.x_train, eps)
        raw = (data.x_test - data.x_train.mean(axis=0)) @ matrix
        np.testing.assert_allclose(test / test[0, 0], raw / raw[0, 0], rtol=1e-9)


@pytest.mark.parametrize(
    ("x", "eps", "words"),
    [
        (np.ones((4, 2)), 0.1, "x does not vary"),
        (np.eye(4)[:, [0, 1, 1]], 0.0, "eps must be larger than 0"),
        (np.eye(3), -1.0, "eps must be finite and not negative, given -1.0"),
        (np.full((3, 2), np.nan), 0.1, "x must be finite with shape"),
    ],
)
def test_zca_refuses(x, eps, words):
    with pytest.raises(ValueError, match=words):
        study.zca_matrix(x, eps)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels_test": np.zeros(3, dtype=int)}, "labels"),
        ({"labels_train": np.zeros(40, dtype=int)}, "one class only"),
        ({"labels_train": np.arange(40) % 3 - 1}, "whole numbers from 0"),
        ({"x_train": np.full((40, 6), np.inf)}, "x_train must be finite"),
        ({"x_train": np.ones((40, 6))}, "all training samples are equal"),
        ({"x_test": np.ones((30, 5))}, "x_train has 6 features, x_test 5"),
    ],
)
def test_data_refuses(data, change, words):
    with pytest.raises(ValueError, match=words):
        replace(data, **change)


# ---------------------------------------------------------------- the study


def test_kernel_rows_are_what_predict_says(data, found):
    x, x_test = data.inputs()
    y, y_test = data.targets()
    kernel_fn = kernel_of(2, 0.1)
    gram, cross = kernel_fn(x, get=("nngp", "ntk")), kernel_fn(x_test, x, get=("nngp", "ntk"))
    for name in ("nngp", "ntk"):
        k, k_test = getattr(gram, name), getattr(cross, name)
        for reg in GRID:
            row = found.find(name.upper(), "kernel", None, reg)
            noise = reg * np.trace(k) / len(k)
            mean = k_test @ np.linalg.solve(k + noise * np.eye(len(k)), y)
            assert row.test_mse.mean == pytest.approx(np.mean((mean - y_test) ** 2), rel=1e-6)
            assert row.test_accuracy.mean == np.mean(mean.argmax(axis=1) == data.labels_test)
            at_training = k @ np.linalg.solve(k + noise * np.eye(len(k)), y)
            assert row.train_mse.mean == pytest.approx(np.mean((at_training - y) ** 2), rel=1e-4, abs=1e-12)
    reg = GRID[2]
    posterior = gp_inference(gram, y, diag_reg=reg)(get="nngp", k_test_train=cross)
    row = found.find("NNGP", "kernel", None, reg)
    assert row.test_mse.mean == pytest.approx(np.mean((np.asarray(posterior) - y_test) ** 2), rel=1e-9)


def test_more_regularisation_leaves_more_of_the_training_error(found):
    for name in ("NNGP", "NTK", "ZCA 1 NNGP", "ZCA 1 NTK"):
        losses = [found.find(name, "kernel", None, reg).train_mse.mean for reg in GRID]
        assert (np.diff(losses) > 0).all()


def test_wide_centered_ensembles_approach_the_tangent_kernel(found):
    for kind in ("single", "ensemble"):
        distances = [found.find("centered", kind, width).distance.mean for width in (16, 64, 256)]
        assert -0.75 < np.polyfit(np.log([16, 64, 256]), np.log(distances), 1)[0] < -0.3
    assert distances[-1] < 0.12
    last = found.find("centered", "ensemble", 256).test_mse.mean
    assert last == pytest.approx(found.find("NTK, 80 steps of 0.5 max", "kernel").test_mse.mean, rel=0.1)


def test_every_change_does_what_it_should(data, found):
    single, ensemble = (
        {name: found.find(name, kind, 256) for name in ("base", "centered", "large rate", "L2", "standard", "ZCA")}
        for kind in ("single", "ensemble")
    )
    base = single["base"]
    # Centering and averaging take the noise of the start away.
    assert single["centered"].distance.mean < 0.5 * base.distance.mean
    assert ensemble["base"].distance.mean < 0.8 * base.distance.mean
    assert ensemble["base"].test_mse.mean < base.test_mse.mean
    # A larger rate goes further in as many steps.
    assert single["large rate"].train_mse.mean < base.train_mse.mean
    # A strong penalty leaves more of the training error.
    configurations = [study.Configuration(str(l2), l2=l2) for l2 in (0.0, 1e-3, 1e-2)]
    rows = study.finite_vs_infinite(data, [64], 3, steps=80, configurations=configurations)
    errors = [rows.find(c.name, "single", 64).train_mse.mean for c in configurations]
    assert errors[2] > 1.5 * errors[0]
    # Another parameterization and other inputs are another training from the same start.
    assert single["standard"].test_mse.mean != pytest.approx(base.test_mse.mean, rel=1e-3)
    assert single["ZCA"].test_mse.mean != pytest.approx(base.test_mse.mean, rel=1e-3)
    for row in single.values():
        assert row.test_mse.error > 0
        assert row.networks == 4
    for row in ensemble.values():
        assert row.test_mse.error is None


def test_rows_are_those_of_networks_trained_by_hand(data):
    config = study.Configuration("c", centered=True, lr_multiplier=0.3, zca_eps=0.5)
    row = study.finite_vs_infinite(data, [32], 3, depth=1, steps=20, configurations=[config], rng=7).find(
        "c", "single", 32
    )
    x, x_test = data.inputs(0.5)
    y, y_test = data.targets()
    kernel_fn = kernel_of(1, 0.1)
    k, cross = kernel_fn(x, get="ntk"), kernel_fn(x_test, x, get="ntk")
    rate = 0.3 * max_learning_rate(k, y.size)
    nets = study.draw(3, 6, 32, 1, 3, np.random.default_rng([7, 32]))
    outputs = study.train(nets, x, y, rate, 20, centered=True).networks(x_test) - nets(x_test)
    losses = np.mean((outputs.astype(float) - y_test) ** 2, axis=(1, 2))
    assert row.test_mse.mean == pytest.approx(losses.mean(), rel=1e-4)
    assert row.test_mse.error == pytest.approx(losses.std(ddof=1) / 3**0.5, rel=1e-2)
    goal = gradient_descent_mse(k, y, rate, discrete=True)(20.0, None, 0.0, cross)
    away = np.linalg.norm(outputs - goal, axis=(1, 2)) / np.linalg.norm(goal)
    assert row.distance.mean == pytest.approx(away.mean(), rel=1e-3)


def test_runs_that_diverge_are_flagged(data, tmp_path):
    found = study.finite_vs_infinite(
        data, [16], 3, depth=1, steps=60, configurations=[study.Configuration("huge", lr_multiplier=50)]
    )
    row = found.find("huge", "single", 16)
    assert (row.diverged, row.networks, row.test_mse, row.distance) == (3, 3, None, None)
    for report in (text(found), markdown(found), as_json(found)):
        assert "nan" not in report.lower()
    said = f"diverged (step {row.diverged_at}, rate {row.rate:.3g})"
    assert 0 < row.diverged_at < 60
    assert row.rate == pytest.approx(50 * max_learning_rate(kernel_of(1, 0.1)(data.inputs()[0], get="ntk"), 40 * 3))
    assert sum(line.endswith(said) for line in text(found).splitlines()) == 2
    assert json.loads(as_json(found))["rows"][-1]["test_accuracy"] is None
    draw(found, tmp_path / "diverged.png")
    assert imread(tmp_path / "diverged.png").shape[:2] == (1200, 1680)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"widths": [0]}, ValueError, "widths must be at least 1, given 0"),
        ({"widths": [8.5]}, TypeError, "widths must be an integer"),
        ({"widths": []}, ValueError, "widths must be some, each once"),
        ({"widths": [8, 8]}, ValueError, "widths must be some, each once"),
        ({"n_ensemble": 0}, ValueError, "n_ensemble must be at least 1"),
        ({"depth": 0}, ValueError, "depth must be at least 1"),
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"diag_reg_grid": []}, ValueError, "diag_reg_grid must be finite and not negative"),
        ({"diag_reg_grid": [-1.0]}, ValueError, "diag_reg_grid must be finite and not negative"),
        ({"configurations": ["base"]}, TypeError, "takes Configurations, given str"),
        ({"data": 3}, TypeError, "data must be a study.Data, given int"),
        ({"network": "lstm"}, ValueError, "network must be dense, conv, conv-gap, given 'lstm'"),
        ({"network": "conv"}, ValueError, "network conv takes images, the samples are vectors of 6"),
        ({"configurations": study.one_at_a_time(augment=1)}, ValueError, "the samples are no images"),
    ],
)
def test_study_refuses(data, arguments, error, words):
    with pytest.raises(error, match=words):
        study.finite_vs_infinite(**{"data": data, "widths": [8], **arguments})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"lr_multiplier": 0.0}, "lr_multiplier must be positive"),
        ({"l2": -1.0}, "l2 must be finite and not negative"),
        ({"parameterization": "mup"}, "parameterization must be ntk or standard, given 'mup'"),
        ({"zca_eps": math.nan}, "zca_eps must be finite"),
        ({"augment": -1}, "augment must be at least 0"),
        ({"share": 0.0}, r"share must lie in \(0, 1\], given 0.0"),
    ],
)
def test_configurations_refuse(arguments, words):
    with pytest.raises(ValueError, match=words):
        study.Configuration("c", **arguments)


def test_a_kernel_that_is_stopped_is_gradient_flow_for_that_time(data, found):
    x, x_test = data.inputs()
    y, y_test = data.targets()
    k, cross = (np.asarray(kernel_of(2, 0.1)(*args, get="ntk")) for args in ((x,), (x_test, x)))
    w, v = np.linalg.eigh(k)
    for reg in GRID:
        ridge = reg * np.trace(k) / len(k)
        mean = cross @ v @ (((1 - np.exp(-w / ridge)) / w)[:, None] * (v.T @ y))
        assert found.find("NTK stopped", "kernel", None, reg).test_mse.mean == pytest.approx(
            np.mean((mean - y_test) ** 2), rel=1e-6
        )


def test_stopped_networks_are_those_of_fewer_steps(data):
    early = [study.Configuration("early", share=0.25)]
    whole = [study.Configuration("early")]
    a = study.finite_vs_infinite(data, [16], 2, steps=40, configurations=early)
    b = study.finite_vs_infinite(data, [16], 2, steps=10, configurations=whole)
    assert a.find("early", "single", 16) == b.find("early", "single", 16)


def test_augmented_images_are_moved_by_a_pixel():
    rng = np.random.default_rng(3)
    data = study.Data("made", rng.random((6, 5, 4, 2)), np.arange(6) % 2, rng.random((2, 5, 4, 2)), np.arange(2))
    more = data.augmented(2, 1)
    np.testing.assert_array_equal(more.labels_train, np.tile(data.labels_train, 3))
    np.testing.assert_array_equal(more.x_test, data.x_test)
    x = more.x_train.reshape(3, 6, 5, 4, 2)
    np.testing.assert_array_equal(x[0], data.x_train.reshape(6, 5, 4, 2))
    for copy in x[1:]:
        for image, moved in zip(x[0], copy, strict=True):
            inner = [
                (i, j)
                for i in (-1, 0, 1)
                for j in (-1, 0, 1)
                if np.array_equal(np.roll(image, (i, j), (0, 1))[1:-1, 1:-1], moved[1:-1, 1:-1])
            ]
            assert len(inner) == 1
            assert inner != [(0, 0)]
    assert not np.array_equal(x[1], x[2])
    with pytest.raises(ValueError, match="the samples are no images"):
        blobs(rng).augmented(1)


@pytest.mark.rivals
def test_convolutional_ensembles_are_those_of_finite_and_come_to_their_limit():
    pytest.importorskip("torch")
    from fastntk import finite

    images = study.load("digits", 24, 30)
    base = study.Configuration("centered", centered=True)
    plain = study.Configuration("standard", parameterization="standard")
    found = study.finite_vs_infinite(
        images, [4, 48], 3, network="conv", depth=1, steps=25, configurations=[base, plain]
    )
    assert found.layers == "1 x (Conv, Relu), Flatten, Dense"
    near, far = (found.find("centered", "ensemble", width).distance.mean for width in (48, 4))
    assert near < 0.6 * far
    row = found.find("centered", "single", 4)
    x, x_test = (part.reshape(-1, 8, 8, 1) for part in images.inputs())
    y, y_test = images.targets()
    net = stax.serial(
        stax.Conv(4, (3, 3), padding="SAME", W_std=2**0.5, b_std=0.1), stax.Relu(), stax.Flatten(),
        stax.Dense(10, 2**0.5, 0.1),
    )  # fmt: skip
    rate = 0.5 * max_learning_rate(np.asarray(net.kernel_fn(x, None, "ntk")), y.size)
    assert row.rate == pytest.approx(rate)
    seeds = np.random.default_rng([0, 4]).integers(2**31, size=3).tolist()
    by_hand = finite.train(net, x, y, rate / 10, 25, seeds=seeds, centered=True, x_test=x_test, y_test=y_test)
    assert row.test_mse.mean == pytest.approx(np.mean((by_hand.test_outputs - y_test) ** 2), rel=1e-3)
    # Of 'standard' layers the largest rate is that of their own kernels.
    standard = found.find("standard", "single", 4)
    layers = study.architectures.Architecture("conv", 1, 2**0.5, 0.1, 10).layers(4, "standard")
    kernel_fn = finite.empirical_ntk_fn(layers, trace_axes=())
    kernels = [kernel_fn(x, None, layers.init_fn(seed, x.shape)[1]) for seed in seeds]
    tops = [np.linalg.eigvalsh(k.swapaxes(1, 2).reshape(240, 240))[-1] for k in kernels]
    assert standard.rate == pytest.approx(0.5 * 2 * y.size / np.mean(tops), rel=0.02)


# ---------------------------------------------------------------- the command


def command(*args):
    return cli.main(["study", "finite-vs-infinite", *map(str, args)])


def test_one_command_makes_table_and_picture(tmp_path, capsys):
    outs = [tmp_path / f"out.{end}" for end in ("png", "md", "json")]
    assert command("--quick", "--widths", 8, 32, "--steps", 20, "--diag-reg", 0.01, 1, "--out", *outs) == 0
    printed = capsys.readouterr().out
    assert "100 handwritten digits to train, 100 to test; 1 x (Dense, Relu)" in printed
    assert "centered, ensemble of 3" in printed
    rows = json.loads(outs[2].read_text())["rows"]
    # Ridges of both kernels, of three sorts of inputs; stopped; limits; eight configurations.
    assert len(rows) == 2 * 2 * 3 + 2 + 5 + 8 * 2 * 2
    assert outs[1].read_text().count("\n| ") == len(rows) + 2
    claims = {claim["said"]: claim for claim in json.loads(outs[2].read_text())["claims"]}
    assert claims["centering brings networks nearer to the kernel's prediction"]["holds"]
    assert "- seen: centering brings" in outs[1].read_text()
    pixels = imread(outs[0])
    assert pixels.shape[:2] == (1200, 1680)
    assert pixels[..., :3].std() > 0.05


def test_command_takes_files_and_prepared_data(tmp_path, capsys, monkeypatch, data):
    small = ("--quick", "--widths", 8, "--steps", 3, "--seeds", 2, "--out", tmp_path / "o.md")
    np.savez(tmp_path / "own.npz", x=data.x_train, y=data.labels_train)
    assert command("--data", tmp_path / "own.npz", "--train", 20, "--test", 20, *small) == 0
    assert "20 samples of own.npz to train" in capsys.readouterr().out
    rng = np.random.default_rng(0)
    images = {f"x_{part}": rng.integers(0, 255, (60, 4, 4, 3), dtype=np.uint8) for part in ("train", "test")}
    labels = {f"y_{part}": (np.arange(60) % 10).astype(np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "cifar10_exact_small.npz", **images, **labels)
    monkeypatch.setenv("FASTNTK_DATA", str(tmp_path))
    assert command("--data", "cifar10", "--train", 50, "--test", 40, *small) == 0
    assert "50 CIFAR-10 to train, 40 to test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--data", "imagenet"), "data must be digits, mnist, fashion, cifar10, a file .npz, or a folder of IDX files"),
        (("--data", "cifar10"), "; FASTNTK_DATA, which names a folder of one's own, is not set"),
        (("--data", "missing.npz"), "missing.npz: no such file"),
        (("--train", 1700), "1700 + 100 samples are more than 1797 handwritten digits"),
        (("--widths", 0), "widths must be at least 1, given 0"),
        (("--lr", -1), "lr_multiplier must be positive and finite, given -1.0"),
        (("--out", "table.txt"), "--out must end in .md, .json, .png, given table.txt"),
        (("--out", "no/such/folder.md"), "its folder does not exist"),
    ],
)
def test_command_says_what_is_wrong(args, words, capsys, monkeypatch):
    monkeypatch.delenv("FASTNTK_DATA", raising=False)
    monkeypatch.setenv("HOME", "/nowhere")
    assert command("--quick", *args) == cli.BAD_INPUT
    error = capsys.readouterr().err
    assert error.startswith("fastntk study: ")
    assert error.count("\n") == 1
    assert words in error


def test_prepared_data_that_is_not_there(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("FASTNTK_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    assert command("--quick", "--data", "fashion") == cli.BAD_INPUT
    assert "no Fashion-MNIST found: there is no fashion_mnist_small.npz, " in capsys.readouterr().err
    (tmp_path / "fashion_mnist_small.npz").write_bytes(b"PK\x03\x04 cut")
    assert command("--quick", "--data", "fashion") == cli.BAD_INPUT
    assert "fashion_mnist_small.npz: not a readable .npz archive" in capsys.readouterr().err
    np.savez(tmp_path / "fashion_mnist_small.npz", x_train=np.eye(3))
    assert command("--quick", "--data", "fashion") == cli.BAD_INPUT
    assert "no array y_train" in capsys.readouterr().err


def test_command_has_the_defaults_of_the_function():
    args = cli._parser().parse_args(["study", "finite-vs-infinite"])
    assert args.zca_eps is None  # chosen on held-out samples
    assert study.one_at_a_time(args.lr, args.large_lr, args.l2, share=args.stop) == study.one_at_a_time()
    assert args.augment is None  # of images alone
    assert tuple(args.diag_reg) == GRID


def test_command_names_what_is_not_installed(monkeypatch, capsys):
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "sklearn" else object())
    assert command("--quick") == cli.BAD_INPUT
    assert "sklearn not installed: pip install 'fastntk[demo]'" in capsys.readouterr().err


@pytest.mark.skipif("FASTNTK_DATA" not in os.environ, reason="FASTNTK_DATA is not set")
@pytest.mark.parametrize("name", ["cifar10", "fashion"])
def test_study_of_images(name):
    found = study.finite_vs_infinite(study.load(name, 60, 60), [32], 2, steps=20)
    assert found.find("NNGP", "kernel", None, 0.01).test_accuracy.mean > 0.1
