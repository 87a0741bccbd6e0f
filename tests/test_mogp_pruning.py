"""Pruning of node-scaled networks, and shallow ones of many outputs."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from fastntk import mogp, stax
from fastntk.mogp import Beta, Iid, Layer, node_scaling, prune, pruning_curve


def network(size=(), layers=2, measure=None):
    return mogp.init(4, [Layer(measure or Beta(2.0), stax.Relu(), 2.0, 0.1)] * layers, 40, 3, 0, size=size)


X = np.random.default_rng(1).standard_normal((30, 4))


@pytest.mark.parametrize("by", ["variance", "weight", "random"])
def test_pruned_networks_are_those_with_variances_of_zero(by):
    net = network()
    found = prune(net, 0.25, by=by, rng=3)
    assert [v.shape for v in found.variances] == [(10,), (10,)]
    kept = [np.isin(old, new) for old, new in zip(net.variances, found.variances, strict=True)]
    zeroed = replace(net, variances=tuple(np.where(k, v, 0) for k, v in zip(kept, net.variances, strict=True)))
    np.testing.assert_allclose(found(X), zeroed(X), rtol=1e-12)
    if by == "variance":
        assert all(v[k].min() >= v[~k].max() for k, v in zip(kept, net.variances, strict=True))


def test_ensembles_keep_each_their_own_nodes():
    nets = network((3,))
    found = prune(nets, (5, 0.1))
    for member in range(3):
        parts = ("variances", "weights", "biases")
        one = replace(nets, **{name: tuple(v[member] for v in getattr(nets, name)) for name in parts})
        np.testing.assert_allclose(found(X)[member], prune(one, (5, 0.1))(X), rtol=1e-12)


def test_curves_show_that_points_are_compressible_and_a_drift_is_not():
    y = np.eye(3)[np.arange(30) % 3]
    changes = {}
    for name, measure in (("points", mogp.Horseshoe()), ("drift", Iid(2.0))):
        net = mogp.init(4, [Layer(measure, stax.Relu())], 400, 3, 0)
        curve = pruning_curve(net, X, y, (1.0, 0.2, 0.05))
        assert curve.keep == (1.0, 0.2, 0.05)
        assert curve.change[0] == 0
        f = prune(net, 0.2)(X)
        assert curve.accuracy[1] == (f.argmax(axis=1) == np.arange(30) % 3).mean()
        assert curve.loss[1] == pytest.approx(np.mean((f - y) ** 2))
        changes[name] = curve.change[2]
    assert changes["points"] < 0.1
    assert changes["drift"] > 0.8
    many = pruning_curve(network((2,)), X, y, (1.0, 0.5))
    assert many.accuracy.shape == many.loss.shape == (2, 2)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: prune(3, 0.5), TypeError, "[prune] network must be a mogp.Network or a finite.Training, given int"),
        (lambda: prune(network(), 0.0), ValueError, "[prune] keep must be a share in (0, 1] or a number of nodes"),
        (lambda: prune(network(), 41), ValueError, "[prune] keep must lie between 1 and 40 nodes, given 41"),
        (lambda: prune(network(), (0.5,)), ValueError, "[prune] 2 hidden layers, given 1 numbers to keep"),
        (lambda: prune(network(), 0.5, by="size"), ValueError, "[prune] by must be variance, weight, random"),
        (lambda: pruning_curve(network(), X, X), ValueError, "[pruning_curve] y must be (30, 3), given (30, 4)"),
    ],
)
def test_pruning_refuses(call, error, words):
    with pytest.raises(error, match=re.escape(words)):
        call()


# ---------------------------------------------------------------- shallow networks of many outputs


def test_many_outputs_descend_along_their_gradient():
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((6, 4)), rng.standard_normal((6, 3))
    net = node_scaling.init(50, 4, 0.5, node_scaling.zipf(0.5, 20), 0, activation=stax.Erf(), outputs=3)
    assert net.signs.shape == (50, 3)
    z = x @ net.weights.T / 2
    f = net._nodes.phi(z) @ (np.sqrt(net.variances)[:, None] * net.signs)
    np.testing.assert_allclose(net.atoms(x), f, rtol=1e-12)
    run = node_scaling.train(net, x, y, 0.05, 1)
    np.testing.assert_allclose(run.outputs[0], f, rtol=1e-12)
    assert run.losses[0] == pytest.approx(((f - y) ** 2).sum() / 2)

    def loss(w):
        return (((replace(net, weights=w).atoms(x) - y) ** 2).sum()) / 2

    gradient = np.zeros_like(net.weights)
    for place in np.ndindex(gradient.shape):
        ends = []
        for step in (1e-6, -1e-6):
            moved = net.weights.copy()
            moved[place] += step
            ends.append(loss(moved))
        gradient[place] = (ends[0] - ends[1]) / 2e-6
    np.testing.assert_allclose(run.weights, net.weights - 0.05 * gradient, atol=1e-7)


def test_one_of_many_outputs_is_one_output():
    """With targets met by the others at all times nothing else moves: two equal outputs are one of twice the pull."""
    rng = np.random.default_rng(3)
    x, y, x_test = rng.standard_normal((6, 4)), rng.standard_normal((6, 1)), rng.standard_normal((3, 4))
    one = node_scaling.init(60, 4, 0.5, node_scaling.zipf(0.5, 20), 1)
    two = replace(one, signs=np.repeat(one.signs[:, None], 2, axis=1))
    a = node_scaling.train(one, x, y, 0.02, 30, x_test=x_test, centered=True)
    b = node_scaling.train(two, x, np.repeat(y, 2, axis=1), 0.01, 30, x_test=x_test, centered=True)
    np.testing.assert_allclose(b.outputs[..., 0], a.outputs[..., 0], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(b.outputs_test[..., 1], a.outputs_test[..., 0], rtol=1e-8, atol=1e-12)


def test_the_bulk_of_many_outputs_flows():
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((5, 4)), rng.standard_normal((5, 2))
    atoms = node_scaling.zipf(0.5, 10)
    limit = node_scaling.init(float("inf"), 4, 0.5, atoms, 0, outputs=2)
    run = node_scaling.flow(limit, x, y, [0.0, 5.0, 200.0], centered=True)
    assert run.outputs.shape == (3, 5, 2)
    assert run.losses[2] < 0.05 * run.losses[0]
    wide = node_scaling.init(20_000, 4, 0.5, atoms, 0, outputs=2)
    finite = node_scaling.flow(wide, x, y, [5.0], centered=True)
    np.testing.assert_allclose(finite.outputs[0], run.outputs[1], atol=0.05)
    with pytest.raises(ValueError, match=re.escape("y must be (5, 2), given (5, 1)")):
        node_scaling.train(limit, x, y[:, :1], 0.1, 2)


@pytest.mark.rivals
@pytest.mark.parametrize("by", ["variance", "weight", "random"])
def test_trained_networks_of_stax_are_pruned_by_weights_of_zero(by):
    """Channels that go are as good as 0 after the nonlinearity; a tenth kept of a beta process is still the network."""
    pytest.importorskip("torch")
    from fastntk import finite

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((9, 5, 5, 2)), np.eye(3)[np.arange(9) % 3]
    net = stax.serial(
        stax.Conv(20, (3, 3)), stax.Relu(), stax.Conv(16, (2, 2)), stax.Relu(), stax.Flatten(), stax.Dense(3)
    )
    scales = mogp.node_scales(net, [Beta(2.0), mogp.Horseshoe()], seeds=(3, 4))
    assert [s.shape for s in scales] == [(2, 20), (2, 16)]
    again = mogp.node_scales(net, [Beta(2.0), mogp.Horseshoe()], seeds=4)
    np.testing.assert_array_equal(again[1][0], scales[1][1])
    trained = finite.train(net, x, y, 0.01, 5, seeds=(3, 4), node_scales=scales, dtype=np.float64)
    pruned = prune(trained, (8, 4), by=by, scales=scales, rng=1)
    np.testing.assert_array_equal(prune(trained, 1.0, by=by, scales=scales)(x), trained(x))
    for member, (params, before) in enumerate(zip(pruned.params, trained.params, strict=True)):
        second, last = params[2][0], params[5][0]
        kept = [np.abs(second).max(axis=(0, 1, 3)) > 0, np.abs(last.reshape(4, 16, 3)).max(axis=(0, 2)) > 0]
        assert [k.sum() for k in kept] == [8, 4]
        np.testing.assert_array_equal(second[:, :, kept[0]], before[2][0][:, :, kept[0]])
        if by == "variance":
            assert all(s[member][k].min() >= s[member][~k].max() for s, k in zip(scales, kept, strict=True))
        one = stax.serial(*net.layers[:2]).apply_fn(before[:2], x) * kept[0]
        two = stax.serial(*net.layers[2:4]).apply_fn(before[2:4], one) * kept[1]
        expected = stax.serial(*net.layers[4:]).apply_fn(before[4:], two)
        np.testing.assert_allclose(pruned(x)[member], expected, rtol=1e-10, atol=1e-12)
    curve = pruning_curve(trained, x, y, (1.0, 0.5), by=by, scales=scales)
    assert curve.accuracy.shape == (2, 2)
    assert (curve.change[0] == 0).all()
    if by == "variance":
        with pytest.raises(ValueError, match="by variance takes the scales of 2 hidden layers"):
            prune(trained, 0.5)
        with pytest.raises(ValueError, match="2 hidden layers, given 1 measures"):
            mogp.node_scales(net, [Beta(2.0)])
        with pytest.raises(TypeError, match=r"measures must be of fastntk\.mogp"):
            mogp.node_scales(net, 2.0)
