"""Parameterizations: what a step of training costs, Adam, and the first learning rate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from abc_inputs import IP_LLR, MUP, SP
from fastntk import abc, stax


def test_a_step_of_a_batch_sees_the_batch_alone(monkeypatch):
    """As many samples pass forward as are trained on, but for the records, which are told by their steps."""
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((50, 3)), rng.standard_normal(50)
    network = abc.init(MUP(2), 20, 3, 0)
    seen, plain = [], abc.Network.preactivations
    monkeypatch.setattr(abc.Network, "preactivations", lambda self, x: seen.append(len(x)) or plain(self, x))
    run = abc.sgd(network, x, y, 0.1, 6, batch_size=4, rng=1)
    assert seen == [50, *[4] * 6, 50]
    assert run.steps.tolist() == [0, 6]
    assert run.outputs.shape == (2, 50, 1)
    assert run.batch_losses.shape == (6,)
    each = abc.sgd(network, x, y, 0.1, 6, batch_size=4, rng=1, record=1)
    some = abc.sgd(network, x, y, 0.1, 6, batch_size=4, rng=1, record=4)
    assert some.steps.tolist() == [0, 4, 6]
    np.testing.assert_array_equal(some.outputs, each.outputs[some.steps])
    np.testing.assert_array_equal(run.outputs, each.outputs[[0, 6]])
    np.testing.assert_array_equal(run.batch_losses, each.batch_losses)
    np.testing.assert_array_equal(run.losses, each.losses[[0, 6]])
    rows = np.random.default_rng(1).permutation(50)[:4]
    first = (run.outputs[0][rows, 0] - y[rows]) ** 2
    assert run.batch_losses[0] == pytest.approx(first.mean() / 2)
    blown = abc.sgd(abc.init(SP(3, 0), 256, 3, 0), x, y, 5.0, 20, batch_size=4)
    assert blown.diverged
    assert blown.steps.tolist() == [0]
    np.testing.assert_array_equal(blown.network(x), blown.outputs[-1])
    assert np.isfinite(blown.batch_losses).all()


# ---------------------------------------------------------------- Adam


def test_adam_is_its_definition():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 3)), rng.standard_normal((6, 2))
    p = MUP(2, biases=True).for_adam()
    network = abc.init(p, 16, 3, 0, outputs=2)
    run = abc.adam(network, x, y, 0.02, 4, betas=(0.8, 0.95), eps=1e-6)
    by_hand, means = network, {}
    for step in range(4):
        hs = by_hand.preactivations(x)
        by_weight, by_bias = by_hand.gradients(x, hs, (hs[-1] - y) / 6)
        moved = {}
        for kind, values, gradients, rates in (
            ("weights", by_hand.weights, by_weight, p.rates(step)),
            ("biases", by_hand.biases, by_bias, p.bias_rates(step)),
        ):  # fmt: skip
            moved[kind] = []
            for i, (w, g, c) in enumerate(zip(values, gradients, rates, strict=True)):
                m, v = means.get((kind, i), (0.0, 0.0))
                m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
                means[kind, i] = m, v
                ratio = (m / (1 - 0.8 ** (step + 1))) / (np.sqrt(v / (1 - 0.95 ** (step + 1))) + 1e-6)
                moved[kind].append(w - 0.02 * 16.0**-c * ratio)
        by_hand = replace(by_hand, **{k: tuple(v) for k, v in moved.items()})
    np.testing.assert_allclose(run.outputs[-1], by_hand(x), rtol=1e-10)
    assert run.final_loss < run.losses[0]
    with pytest.raises(ValueError, match="betas must lie in"):
        abc.adam(network, x, y, 0.1, 2, betas=(1.0, 0.9))


def test_exponents_of_mup_under_adam_are_the_published_ones():
    """Yang et al. 2022, table 3, in this parameterization: hidden rates fall with the width, others with its root."""
    assert MUP(3).for_adam().c == (0.5, 1.0, 1.0, 0.5)
    assert MUP(2, biases=True).for_adam().bias.c == (0.5, 0.5, 0.0)


@pytest.mark.parametrize("zero", [False, True])
def test_coordinates_under_adam_keep_their_size_in_mup_and_not_in_sp(zero):
    rng = np.random.default_rng(0)
    x, y, widths = rng.standard_normal((4, 10)), rng.standard_normal(4), (64, 128, 256, 512)
    options = {"lr": 0.02, "steps": 4, "optimizer": "adam", "draws": 3, "readout_zero_init": zero}
    check = abc.coordinate_check(MUP(2), widths, x, y, **options)
    assert check.parameterization.name == "muP, Adam"
    for law in (check.dh, check.df):
        assert (np.abs(law.exponent) < 0.12).all()
    assert check.f.exponent == (-np.inf if zero else pytest.approx(-0.5, abs=0.3))
    one_rate = replace(SP(2, 0), name="SP, Adam")  # Adam's update of a layer adds up over its width
    plain = abc.coordinate_check(one_rate, widths, x, y, **options | {"lr": 2e-4})
    assert plain.dh.exponent[1] == pytest.approx(1, abs=0.3)


def test_zero_readouts_start_at_zero():
    check = abc.coordinate_check(MUP(2), (32, 64), readout_zero_init=True, steps=2)
    assert (check.f.values == 0).all()
    assert (check.df.values > 0).all()
    with pytest.raises(ValueError, match="optimizer must be 'sgd' or 'adam', given 'rmsprop'"):
        abc.coordinate_check(MUP(2), (32, 64), optimizer="rmsprop")


# ---------------------------------------------------------------- the first learning rate


def rms(values):
    return np.sqrt(np.mean(values**2))


def clusters(n=60, d=20, k=3):
    rng = np.random.default_rng(1)
    labels = np.arange(n) % k
    x = 1.5 * rng.standard_normal((k, d))[labels] + rng.standard_normal((n, d))
    return x, np.eye(k)[labels] - 1 / k


def test_the_first_rate_moves_outputs_as_far_as_targets_are():
    x, y = clusters()
    for L in (2, 4):
        network = abc.init(IP_LLR(L), 256, 20, 0, outputs=3)
        lr = abc.first_rate(network, x, y, move=1.0, rtol=0.01)
        start = network(x)
        assert rms(abc.sgd(network, x, y, lr, 1).network(x) - start) == pytest.approx(
            rms(y - start), rel=0.02 * (L + 1)
        )


def test_ip_llr_learns_with_its_first_rate_and_hardly_otherwise():
    x, y = clusters()
    network = abc.init(IP_LLR(4), 256, 20, 0, outputs=3)
    first = abc.first_rate(network, x, y, move=1.0)
    losses = {factor: abc.sgd(network, x, y, [factor * first, *[0.1] * 60], 61).final_loss for factor in (0.2, 1.0)}
    assert losses[1.0] < 0.3 * abc.sgd(network, x, y, 1e-9, 1).losses[0]
    assert losses[0.2] > 3 * losses[1.0]


def test_first_rates_that_are_none():
    network = abc.init(MUP(2), 16, 20, 0, outputs=3)
    x, y = clusters()
    with pytest.raises(ValueError, match="outputs are the targets already"):
        abc.first_rate(network, x, network(x))
    with pytest.raises(ValueError, match="outputs move by less than"):
        abc.first_rate(abc.zero_readout(network), 0 * x, y)
    with pytest.raises(TypeError, match="takes a network of stax, given int"):
        abc.first_rate(3, x, y, MUP(2))
    with pytest.raises(TypeError, match="comes with its parameterization"):
        abc.first_rate(stax.serial(stax.Dense(3), stax.Dense(3)), x, y)


@pytest.mark.rivals
def test_the_first_rate_of_a_convolutional_network():
    pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    labels = np.arange(30) % 2
    y = np.where(labels, 1.0, -1.0)[:, None]
    x = rng.standard_normal((30, 6, 6, 1)) + y[:, :, None, None] * np.linspace(0, 2, 6)[:, None]
    hidden = stax.Conv(96, (3, 3), padding="SAME", W_std=2**0.5), stax.Relu()
    net = stax.serial(*hidden, *hidden, *hidden, stax.GlobalAvgPool(), stax.Dense(1))
    p = IP_LLR(3)
    first = abc.first_rate(net, x, y, p, move=1.0, rng=0)
    step = abc.train(net, p, x, y, first, 1, rng=0)
    assert rms(step.final - step.initial) == pytest.approx(rms(y - step.initial), rel=0.2)
    learnt = abc.train(net, p, x, y, [first, *[0.1] * 40], 41, rng=0)
    assert learnt.final_loss < 0.3 * learnt.initial_loss
