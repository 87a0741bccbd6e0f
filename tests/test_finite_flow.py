"""Gradient flow of finite networks: beside the flow in NumPy, convolutional networks, regimes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fastntk import finite, lazy_feature, stax

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.rivals

RNG = np.random.default_rng(1)
X = RNG.standard_normal((10, 6))
X *= math.sqrt(6) / np.linalg.norm(X, axis=1, keepdims=True)
Y = np.sign(RNG.standard_normal(10))


def dense(h):
    return stax.serial(stax.Dense(h), stax.Relu(), stax.Dense(1, 2**0.5))


@pytest.mark.parametrize("zt", [1.0, 10.0])
def test_flow_is_that_of_lazy_feature(zt):
    """The same law of networks: kernel change, time and t1 of an ensemble beside those of the readable NumPy text."""
    h, seeds, x, y = 36, range(4), X[:6], Y[:6]
    alpha = zt / math.sqrt(h)
    found = finite.flow(dense(h), x, y, alpha, seeds=seeds)
    other = [lazy_feature.run(x, y, h, 1, alpha, rng=seed) for seed in seeds]
    assert found.converged.all()
    pairs = [(found.kernel_change, [r.dtheta for r in other]), (found.t, [r.t for r in other])]
    if zt == 1:
        pairs.append((found.t1, [r.t1 for r in other]))
    for mine, theirs in pairs:
        a, b = np.log(mine), np.log(theirs)
        assert abs(a.mean() - b.mean()) < 3 * math.hypot(a.std(ddof=1), b.std(ddof=1)) / math.sqrt(4) + 0.02
    assert (np.isfinite(found.t1) == (found.kernel_change >= 0.5)).all()
    assert ((found.outputs[..., 0] * y).min(axis=1) > 0.5).all()


def test_a_member_flows_as_it_would_alone():
    net = stax.serial(stax.Conv(8, (3, 3), padding="SAME"), stax.Relu(), stax.Flatten(), stax.Dense(1, 2**0.5))
    x = RNG.standard_normal((6, 4, 4, 1))
    y, x_test = np.array([1.0, -1, 1, -1, 1, -1]), RNG.standard_normal((2, 4, 4, 1))
    both = finite.flow(net, x, y, 0.1, seeds=(3, 5), x_test=x_test)
    assert both.status == ("converged", "converged")
    alone = finite.flow(net, x, y, 0.1, seeds=5, x_test=x_test)
    np.testing.assert_allclose(both.t[1], alone.t[0], rtol=0.01)
    np.testing.assert_allclose(both.test_outputs[1], alone.test_outputs[0], rtol=0.02, atol=0.01)


def test_small_scales_move_the_kernel_and_large_ones_do_not():
    found = [finite.flow(dense(36), X[:5], Y[:5], zt / 6, kernel_samples=5) for zt in (0.1, 1.0, 100.0)]
    change = [f.kernel_change.mean() for f in found]
    assert change[0] > 10
    assert change[2] < 0.1
    assert found[0].t1[0] < found[1].t1[0] < found[2].t1[0] == math.inf


def test_runs_that_do_not_learn_are_told():
    found = finite.flow(dense(8), X, Y, 1.0, max_steps=5)
    assert found.status == ("unfinished",)
    assert found.steps == 5
    off = stax.serial(stax.Dense(4, 0.0), stax.Relu(), stax.Dense(1))
    assert finite.flow(off, X, Y, 1.0).status == ("stuck",)
    with pytest.raises(ValueError, match="margins of a quadratic_hinge do not pass 1"):
        finite.flow(dense(8), X, Y, stop=1.0)


def small_images(h):
    return stax.serial(stax.Conv(h, (2, 2)), stax.Relu(), stax.Flatten(), stax.Dense(1, 2**0.5))


def test_lazy_feature_takes_networks_of_stax(tmp_path):
    """Runs, ensembles, scans in a file and alpha* of any architecture, by the same flow."""
    x, y = RNG.standard_normal((4, 4, 4, 1)), np.array([1.0, -1, 1, -1])
    options = {"network": small_images, "max_steps": 400}
    one = lazy_feature.run(x, y, 16, alpha=0.25, x_test=x[:2], **options)
    seed = int(np.random.default_rng(0).integers(2**63))
    found = finite.flow(small_images(16), x, y, 0.25, seeds=seed, max_steps=400, x_test=x[:2])
    assert one.status == found.status[0] == "converged"
    np.testing.assert_array_equal(one.F, found.outputs[0, :, 0])
    np.testing.assert_array_equal(one.F_test, found.test_outputs[0, :, 0])
    assert (one.dtheta, one.t, one.t1) == (found.kernel_change[0], found.t[0], found.t1[0])
    # What is of the network itself, from its parameters: the kernel before, and how far weights are from there.
    net, params = small_images(16), small_images(16).init_fn(seed, x.shape)[1]
    ntk = finite.empirical_ntk_fn(net)(x, None, params)
    np.testing.assert_allclose(one.ntk0, ntk, rtol=1e-10)
    assert np.linalg.norm(one.ntk - ntk) / np.linalg.norm(ntk) == pytest.approx(one.dtheta)
    np.testing.assert_allclose(one.f - one.F / 0.25, net.apply_fn(params, x)[:, 0], rtol=1e-9, atol=1e-12)
    assert len(one.dw) == 2
    assert 0 < one.dw[0] < 10
    for values in (one.trace.t, one.trace.loss[::-1]):
        assert (np.diff(values) > 0).all()
    assert (one.trace.t[0], one.trace.dtheta[0], one.trace.t[-1]) == (0, 0, one.t)
    assert one.trace.margin[-1] == pytest.approx((one.F * y).min())
    star = lazy_feature.alpha_star(x, y, 16, rtol=0.5, **options)
    assert star.bracket[0] < star.alpha < star.bracket[1]
    path = tmp_path / "scan.json"
    first = lazy_feature.scan(x, y, [8], zt_grid=[1.0], draws=2, path=path, **options)
    again = lazy_feature.scan(x, y, [8], zt_grid=[1.0], draws=2, path=path, **options)
    assert (first.resumed, again.resumed) == (0, 2)
    np.testing.assert_array_equal(first.F, again.F)
    with pytest.raises(ValueError, match="holds runs on other samples, or with other options"):
        lazy_feature.scan(x, y, [8], zt_grid=[1.0], path=path, max_steps=400, network=lambda h: dense(h))
    with pytest.raises(TypeError, match="network says which layers there are: L and act do not go with it"):
        lazy_feature.run(x, y, 16, 2, network=small_images)


def test_looks_go_from_the_start_to_the_end():
    found = finite.flow(dense(36), X[:5], Y[:5], 0.1, seeds=(0, 1))
    assert (found.looks[0].t == 0).all()
    assert (found.looks[0].kernel_change == 0).all()
    last = found.looks[-1]
    np.testing.assert_array_equal(last.t, found.t)
    np.testing.assert_array_equal(last.kernel_change, found.kernel_change)
    np.testing.assert_allclose(last.loss, found.loss, rtol=1e-12)
    np.testing.assert_allclose(last.margin, (found.outputs[..., 0] * Y[:5]).min(axis=1), rtol=1e-12)
    change = np.linalg.norm(found.kernels - found.kernels0, axis=(1, 2)) / np.linalg.norm(found.kernels0, axis=(1, 2))
    np.testing.assert_allclose(change, found.kernel_change, rtol=1e-12)


def test_a_flow_that_is_resumed_is_one_that_was_not_interrupted(tmp_path, monkeypatch):
    path, options = tmp_path / "flow.pt", {"seeds": (0, 1), "max_steps": 60, "x_test": X[:2]}
    args = dense(16), X[:5], Y[:5], 0.25
    whole = finite.flow(*args, **options)
    plain, calls = finite.gradient_flow.top_of_kernels, []

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return plain(*given)

    with monkeypatch.context() as patch:
        patch.setattr(finite.gradient_flow, "top_of_kernels", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finite.flow(*args, path=path, **options)
    for _ in range(2):  # the second finds a run that has ended
        calls.clear()
        monkeypatch.setattr(finite.gradient_flow, "top_of_kernels", lambda *given: calls.append(1) or plain(*given))
        found = finite.flow(*args, path=path, **options)
        for name in ("outputs", "test_outputs", "t", "t1", "kernel_change", "loss", "weight_change", "kernels"):
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
        assert (found.steps, found.status, len(found.looks)) == (whole.steps, whole.status, len(whole.looks))
    assert not calls
    with pytest.raises(ValueError, match="holds a run on other samples, or with other options"):
        finite.flow(*args, path=path, **{**options, "max_steps": 70})
