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
