"""mogp: finite node-scaled networks, their training, the random NTK, and asymmetrical node scaling."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("scipy")
from fastntk import dual, mogp, stax
from fastntk.mogp import Bernoulli, Beta, Horseshoe, Iid, Layer, node_scaling, sample_kernels, sample_ntk
from scipy import special, stats

X = np.array([[1.2, 0.3], [-0.4, 1.5], [0.8, -0.9]])


def name(value):
    return repr(value)


# ---------------------------------------------------------------- finite networks


def network(act, parameterization="ntk", size=(), widths=(7, 5), n_outputs=2):
    layers = [Layer(Beta(3.0), act, 1.3, 0.2), Layer(Beta(1.5), act, 0.7, 0.0)]
    return mogp.init(
        2, layers, list(widths), n_outputs, 3, size=size, parameterization=parameterization, sigma_v2=1.5, sigma_b2=0.4
    )


@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
@pytest.mark.parametrize("act", [stax.Relu(), stax.ABRelu(-0.4, 1.3), stax.Erf(1.5, 0.7, 0.2)], ids=name)
def test_tangent_kernel_is_that_of_numerical_derivatives(act, parameterization):
    net = network(act, parameterization)
    columns = []
    for i, (rate_v, rate_b) in enumerate(net.rates):
        for kind, rate in (("weights", rate_v), ("biases", rate_b)):
            array = getattr(net, kind)[i]
            for at in np.ndindex(array.shape):
                outputs = []
                for sign in (1, -1):
                    moved = array.copy()
                    moved[at] += sign * 1e-6
                    arrays = getattr(net, kind)
                    outputs.append(replace(net, **{kind: (*arrays[:i], moved, *arrays[i + 1 :])})(X))
                columns.append(math.sqrt(rate) * (outputs[0] - outputs[1]) / 2e-6)
    jacobian = np.stack(columns)
    expected = np.einsum("pio,pjq->ijoq", jacobian, jacobian)
    np.testing.assert_allclose(net.ntk(X), expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())
    np.testing.assert_allclose(net.ntk(X[:1], X[1:]), expected[:1, 1:], rtol=1e-6, atol=1e-7 * np.abs(expected).max())


def test_parameterizations_differ_by_their_rates():
    assert network(stax.Relu()).rates == ((1.5, 0.4), (1.3, 0.2), (0.7, 0.0))
    assert network(stax.Relu(), "standard").rates == ((1.0, 1.0), (1.0, 1.0), (1.0, 0.0))


def test_ensembles_are_networks_side_by_side():
    many = network(stax.Relu(), size=(3,))
    outputs, kernels = many(X), many.ntk(X)
    assert outputs.shape == (3, 3, 2)
    assert kernels.shape == (3, 3, 3, 2, 2)
    for i in range(3):
        parts = {k: tuple(a[i] for a in getattr(many, k)) for k in ("variances", "weights", "biases")}
        one = replace(many, **parts)
        np.testing.assert_allclose(one(X), outputs[i], rtol=1e-13)
        np.testing.assert_allclose(one.ntk(X), kernels[i], rtol=1e-12)
        z = X @ one.weights[0].T / math.sqrt(2) + one.biases[0]
        z = (np.sqrt(one.variances[0]) * np.maximum(z, 0)) @ one.weights[1].T + one.biases[1]
        z = (np.sqrt(one.variances[1]) * np.maximum(z, 0)) @ one.weights[2].T + one.biases[2]
        np.testing.assert_allclose(one(X), z, rtol=1e-12)


def test_the_variance_of_a_node_is_its_learning_rate():
    """Gradient descent in W at rates ``lr lam_j`` walks where gradient descent in V at ``lr`` does."""
    net, y, lr = network(stax.Erf()), np.ones((3, 2)), 0.05
    effective, rates = list(net.effective_weights()), net.learning_rates(lr)
    np.testing.assert_allclose(rates[1], lr * 1.3 * net.variances[0])
    biases = list(net.biases)
    for _ in range(20):
        hs, zs = [X / math.sqrt(2)], []
        for w, b in zip(effective, biases, strict=True):
            zs.append(hs[-1] @ w.T + b)
            hs.append(special.erf(zs[-1]))
        e = zs[-1] - y
        for i in (2, 1, 0):
            pulled = e @ effective[i]
            effective[i] = effective[i] - rates[i] * (e.T @ hs[i])
            biases[i] = biases[i] - lr * net.rates[i][1] * e.sum(axis=0)
            e = pulled * 2 / math.sqrt(math.pi) * np.exp(-(zs[i - 1] ** 2))
    run = mogp.train(net, X, y, lr, 20)
    for ours, theirs in zip(run.network.effective_weights(), effective, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    assert run.losses.shape == (21,)
    assert run.losses[0] == pytest.approx(((net(X) - y) ** 2).sum() / 2)
    assert run.losses[-1] == pytest.approx(((run.network(X) - y) ** 2).sum() / 2)
    assert not run.diverged
    # A node without variance does not move W.
    still = replace(net, variances=(net.variances[0] * np.array([0, 1, 1, 1, 1, 1, 1]), net.variances[1]))
    moved = mogp.train(still, X, y, lr, 5).network
    assert (moved.effective_weights()[1][:, 0] == 0).all()


def test_the_first_step_is_that_of_the_tangent_kernel():
    net, y = network(stax.Relu()), np.ones((3, 2))
    lr = 1e-7
    run = mogp.train(net, X, y, lr, 1)
    expected = -lr * np.einsum("ijoq,jq->io", net.ntk(X), net(X) - y)
    np.testing.assert_allclose(run.network(X) - net(X), expected, rtol=1e-5)


def test_diverging_runs_are_reported():
    run = mogp.train(network(stax.ABRelu(-0.4, 1.3)), X, np.ones((3, 2)), 100.0, 200)
    assert run.diverged
    assert np.isfinite(run.losses).all()
    assert len(run.losses) < 201
    assert np.isfinite(run.network(X)).all()
    assert run.losses[-1] == pytest.approx(((run.network(X) - 1) ** 2).sum() / 2)


def test_a_run_that_begins_at_its_targets_does_not_diverge():
    net = network(stax.Relu())
    assert not mogp.train(net, X, net(X), 0.01, 5).diverged
    shallow = node_scaling.init(20, 2, 0.5, [0.5], 0)
    assert not node_scaling.train(shallow, X, shallow.atoms(X), 0.01, 5).diverged


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: mogp.init(2, [Layer(Iid())], 0, 1, 0), "[mogp.init] a width must be at least 1, given 0"),
        (lambda: mogp.init(2, [Layer(Iid())], [3, 4], 1, 0), "[mogp.init] 1 hidden layers, given 2 widths"),
        (lambda: mogp.init(0, [Layer(Iid())], 3, 1, 0), "[mogp.init] d must be at least 1, given 0"),
        (
            lambda: mogp.init(2, [Layer(Iid())], 3, 1, 0, parameterization="mup"),
            "[mogp.init] parameterization must be 'ntk' or 'standard', given 'mup'",
        ),
        (lambda: mogp.init(2, [Layer(Bernoulli(5.0))], 4, 1, 0), "c / p is a probability, given c = 5.0, p = 4"),
        (lambda: network(stax.Relu())(np.ones((2, 3))), "[Network] x has 3 features, the network takes 2"),
        (lambda: network(stax.Relu())(X * np.nan), "[Network] x is not finite, first at (0, 0)"),
        (lambda: mogp.train(network(stax.Relu()), X, X[:, :1], 0.1, 3), "[mogp.train] y must be (3, 2), given (3, 1)"),
        (lambda: mogp.train(network(stax.Relu()), X, X, 0.0, 3), "[mogp.train] lr must be positive, given 0.0"),
        (lambda: mogp.train(network(stax.Relu()), X, X, 0.1, -1), "[mogp.train] steps must be at least 0, given -1"),
        (
            lambda: mogp.train(network(stax.Relu(), size=(2,)), X, X, 0.1, 3),
            "[mogp.train] one network at a time: this is an ensemble (2,)",
        ),
        (lambda: sample_ntk(X, [Layer(Iid())], 2, 3, 0, n_bulk=0), "[sample_ntk] n_bulk must be at least 1, given 0"),
        (
            lambda: sample_ntk(X, [Layer(Iid())], 2, 3, 0, parameterization="x"),
            "[sample_ntk] parameterization must be 'ntk' or 'standard'",
        ),
        (lambda: sample_ntk(X, [Layer(Horseshoe())], 2, 0, 0), "to its mean, which is infinite"),
    ],
)
def test_networks_refuse(make, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


def test_overflow_is_said():
    with pytest.raises(OverflowError, match=re.escape("[sample_ntk] a kernel behind hidden layer 1 exceeds float64")):
        sample_ntk(X, [Layer(mogp.Stable(0.002))], 5, 3, 0)


# ---------------------------------------------------------------- the random NTK in the limit


@pytest.mark.parametrize("act", [stax.Relu(), stax.Erf()], ids=name)
def test_without_points_the_ntk_is_that_of_stax(act):
    found = sample_ntk(X, [Layer(Iid(2.0), act, 1.3, 0.2)] * 2, 3, 5, 0, sigma_v2=1.1, sigma_b2=0.3)
    dense = stax.Dense(1, 2.6**0.5, 0.2**0.5)
    _, _, kernel_fn = stax.serial(stax.Dense(1, 1.1**0.5, 0.3**0.5), act, dense, act, dense)
    for ours, theirs in ((found.ntk, kernel_fn(X, None, "ntk")), (found.nngp, kernel_fn(X, None, "nngp"))):
        np.testing.assert_allclose(ours, np.broadcast_to(theirs, ours.shape), rtol=1e-12, atol=1e-14)


SUM = Iid(0.5) + Bernoulli(2.0)


@pytest.mark.parametrize(
    ("layers", "parameterization"),
    [
        ([Layer(Beta(2.0))] * 2, "standard"),
        ([Layer(SUM, sigma_b2=0.1)] * 2, "ntk"),
        ([Layer(Iid(1.0)), Layer(Beta(2.0), sigma_v2=2.0), Layer(Iid(1.0))], "ntk"),
        ([Layer(Bernoulli(2.0), stax.Erf()), Layer(Iid(1.0), stax.Erf(), 0.8, 0.1)], "standard"),
    ],
    ids=["beta", "sum", "between", "below"],
)
def test_the_random_ntk_meets_wide_networks(layers, parameterization):
    """Diagonal, between inputs and between outputs; the last in spite of a last layer without points."""
    x, sigma = X[:2], {"sigma_v2": 1.2, "sigma_b2": 0.1}
    limit = sample_ntk(x, layers, 1000, 40, 1, n_outputs=2, n_bulk=100, parameterization=parameterization, **sigma)
    ensembles = [
        mogp.init(2, layers, 250, 2, seed, size=(100,), parameterization=parameterization, **sigma).ntk(x)
        for seed in range(10)
    ]
    finite = np.concatenate(ensembles)
    assert limit.ntk.shape == (1000, 2, 2, 2, 2)
    np.testing.assert_allclose(limit.ntk, np.einsum("sijoq->sjiqo", limit.ntk), rtol=1e-9, atol=1e-12)
    for at in ((0, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 1), (0, 1, 1, 0)):
        ours, theirs = limit.ntk[(slice(None), *at)], finite[(slice(None), *at)]
        assert stats.ks_2samp(ours, theirs).pvalue > 0.01
    across = limit.ntk[:, 0, 0, 0, 1]
    assert abs(across.mean()) <= 4 * across.std() / math.sqrt(1000)
    assert across.std() > 0.1 * limit.ntk[:, 0, 0, 0, 0].std()


def test_shallow_ntk_has_its_mean_and_variance():
    """One input: ``Theta = K^1 + sum lam f^2`` in V alone, ``+ q sum_j lam_j V_j^2 f'^2``; independent of signs."""
    x, eta = np.array([[2.0]]), 2.0
    found = sample_ntk(x, [Layer(Beta(eta), sigma_v2=1.5)], 20_000, 30, 4)
    q, mean, second = 4.0, eta, Beta(eta).moment(2)
    # Per node lam (sigma_v2 relu(z)^2 + q V^2 1{z > 0}), z ~ N(0, q), V ~ N(0, sigma_v2)
    assert found.ntk.mean() == pytest.approx(1.5 * q * mean, rel=0.02)
    squares = 1.5**2 * q**2 * (1.5 + 1.0 + 1.5)  # E of the bracket squared: 3/2, 2 * 1/2 and 3/2
    assert found.ntk.var() == pytest.approx(second * squares, rel=0.06)
    np.testing.assert_allclose(found.nngp.mean(), 1.5 * q / 2 * mean, rtol=0.02)


def test_kernel_draws_have_the_law_of_sample_kernels():
    layers = [Layer(Beta(2.0))] * 2
    ours = sample_ntk(X[:2], layers, 2000, 60, 0, n_bulk=20).nngp
    theirs = sample_kernels(X[:2], layers, 2000, 60, 1)
    for at in ((0, 0), (0, 1)):
        assert stats.ks_2samp(ours[(slice(None), *at)], theirs[(slice(None), *at)]).pvalue > 0.02


# ---------------------------------------------------------------- asymmetrical node scaling


def test_zipf_sums_to_one():
    atoms = node_scaling.zipf(0.5, 100_000)
    assert atoms[0] == pytest.approx(6 / math.pi**2)
    assert atoms[3] == pytest.approx(atoms[0] / 16)
    assert atoms.sum() == pytest.approx(1, abs=1e-5)
    assert node_scaling.zipf(0.8, 5000).sum() < 1
    assert (np.diff(node_scaling.zipf(0.8, 50)) < 0).all()


def test_variances_interpolate():
    atoms = node_scaling.zipf(0.5, 10)
    left = 1 - atoms.sum()
    for gamma in (0.0, 0.3, 1.0):
        net = node_scaling.init(40, 2, gamma, atoms, 0)
        rest = gamma + (1 - gamma) * left
        np.testing.assert_allclose(net.variances[:10], rest / 40 + (1 - gamma) * atoms)
        np.testing.assert_allclose(net.variances[10:], rest / 40)
        assert net.variances.sum() == pytest.approx(1)
        limit = node_scaling.init(math.inf, 2, gamma, atoms, 0)
        assert limit.bulk == pytest.approx(rest)
        assert limit.variances.sum() + limit.bulk == pytest.approx(1)
        assert net.bulk == 0
        assert set(net.signs) == {-1.0, 1.0}
        # The first nodes of a wide network are the atoms of the limit of the same seed.
        np.testing.assert_array_equal(net.weights[:10], limit.weights)
        np.testing.assert_array_equal(net.signs[:10], limit.signs)


@pytest.mark.parametrize("act", [stax.Relu(), stax.Erf()], ids=name)
def test_tangent_gram_by_hand(act):
    net = node_scaling.init(6, 2, 0.4, node_scaling.zipf(0.5, 6), 1, activation=act, sigma_w2=1.7)
    columns = []
    for at in np.ndindex(6, 2):
        outputs = []
        for sign in (1, -1):
            w = net.weights.copy()
            w[at] += sign * 1e-6
            outputs.append(replace(net, weights=w).atoms(X)[:, 0])
        columns.append((outputs[0] - outputs[1]) / 2e-6)
    jacobian = np.stack(columns, axis=1)
    np.testing.assert_allclose(net.ntg(X), jacobian @ jacobian.T, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(net.ntg(X[:1], X[1:]), net.ntg(X)[:1, 1:], rtol=1e-13)


@pytest.mark.parametrize("gamma", [0.0, 0.4])
def test_tangent_gram_at_initialisation(gamma):
    """Mean ``(x . x' / d) (pi - theta) / (2 pi)``, variance with ``zeta(2/alpha) / zeta(1/alpha)^2 = 0.4`` at 1/2."""
    atoms = node_scaling.zipf(0.5, 60)
    assert (atoms**2).sum() == pytest.approx(0.4, abs=1e-6)
    x1, x2 = X[:1], X[1:2]
    inner = float(x1[0] @ x2[0]) / 2
    theta = math.acos(inner * 2 / np.linalg.norm(x1) / np.linalg.norm(x2))
    kdot = (math.pi - theta) / (2 * math.pi)
    found = node_scaling.ntg_limit(x1, x2, gamma, atoms, 4000, 3, sigma_w2=2.0)[:, 0, 0]
    assert found.mean() == pytest.approx(inner * kdot, abs=4 * found.std() / math.sqrt(4000))
    variance = (1 - gamma) ** 2 * inner**2 * 0.4 * kdot * (1 - kdot)
    assert found.var() == pytest.approx(variance, rel=0.12)
    if gamma:
        wide = [node_scaling.init(800, 2, gamma, atoms, seed).ntg(x1, x2)[0, 0] for seed in range(1500)]
        assert np.mean(wide) == pytest.approx(inner * kdot, abs=4 * np.std(wide) / math.sqrt(1500))
        assert np.var(wide) == pytest.approx(variance, rel=0.15)


def test_the_lazy_end_has_a_fixed_tangent_gram():
    found = node_scaling.ntg_limit(X, None, 1.0, node_scaling.zipf(0.5, 5), 3, 0)
    q = (X * X).sum(axis=1) / 2
    expected = X @ X.T / 2 * dual.relu(q[:, None], X @ X.T / 2, q)[1]
    np.testing.assert_allclose(found, np.broadcast_to(expected, (3, 3, 3)), rtol=1e-13)


@pytest.fixture
def task():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((8, 3))
    return x, np.sin(2 * x[:, :1]), rng.standard_normal((4, 3))


def test_gradient_descent_by_hand(task):
    x, y, x_test = task
    net = node_scaling.init(20, 3, 0.5, node_scaling.zipf(0.5, 20), 2, activation=stax.Erf())
    w, scale = net.weights.copy(), net.signs * np.sqrt(net.variances)
    for _ in range(30):
        z = x @ w.T / math.sqrt(3)
        e = special.erf(z) @ scale - y[:, 0]
        w -= 0.1 * np.einsum("i,ij,j,id->jd", e, 2 / math.sqrt(math.pi) * np.exp(-(z**2)), scale, x) / math.sqrt(3)
    run = node_scaling.train(net, x, y, 0.1, 30, x_test=x_test)
    np.testing.assert_allclose(run.weights, w, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(run.movement, np.linalg.norm(w - net.weights, axis=1), rtol=1e-9)
    final = replace(net, weights=w)
    np.testing.assert_allclose(run.outputs[-1], final.atoms(x), rtol=1e-9)
    np.testing.assert_allclose(run.outputs_test[-1], final.atoms(x_test), rtol=1e-9)
    assert run.losses[-1] == pytest.approx(((final.atoms(x) - y) ** 2).sum() / 2)
    assert run.outputs.shape == (31, 8, 1)
    assert not run.diverged


@pytest.mark.parametrize("width", [30, math.inf], ids=["finite", "infinite"])
def test_the_flow_is_the_limit_of_small_steps(task, width):
    x, y, x_test = task
    net = node_scaling.init(width, 3, 0.5, node_scaling.zipf(0.5, 30), 2, activation=stax.Erf())
    flow = node_scaling.flow(net, x, y, [0.0, 1.0, 4.0], x_test=x_test, centered=True)
    errors = []
    for steps in (400, 800):
        run = node_scaling.train(net, x, y, 4.0 / steps, steps, x_test=x_test, centered=True)
        assert run.times[-1] == steps
        errors.append(np.abs(run.outputs_test[-1] - flow.outputs_test[-1]).max())
    assert errors[1] < 0.6 * errors[0] < 0.01
    np.testing.assert_array_equal(flow.outputs[0], 0)
    assert (np.diff(flow.losses) < 0).all()


@pytest.mark.parametrize("gamma", [0.3, 0.8])
def test_wide_networks_train_as_their_limit(task, gamma):
    """Atoms with the same start; what is left falls with width as ``m^(-1/2)``."""
    x, y, x_test = task
    atoms, times = node_scaling.zipf(0.5, 40), [0.0, 1.0, 5.0]
    limit = node_scaling.init(math.inf, 3, gamma, atoms, 7)
    exact = node_scaling.flow(limit, x, y, times, x_test=x_test, centered=True)
    errors = []
    for width in (400, 6400):
        found = []
        for seed in range(4):
            net = node_scaling.init(width, 3, gamma, atoms, 100 + seed)
            weights, signs = net.weights.copy(), net.signs.copy()
            weights[:40], signs[:40] = limit.weights, limit.signs
            net = replace(net, weights=weights, signs=signs)
            run = node_scaling.train(net, x, y, 0.02, 250, x_test=x_test, centered=True)
            found.append(np.abs(run.outputs_test[-1] - exact.outputs_test[-1]).mean())
        errors.append(np.mean(found))
    scale = np.abs(exact.outputs_test[-1]).mean()
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.05 * scale
    assert exact.losses[-1] < 0.5 * exact.losses[0]


def test_nodes_move_in_wide_networks_only_below_gamma_one(task):
    """Largest movement of a node: of order ``m^(-1/2)`` at gamma = 1, of order 1 below."""
    x, y, _ = task
    atoms = node_scaling.zipf(0.5, 40)
    largest = {
        (gamma, width): np.mean([
            node_scaling.train(node_scaling.init(width, 3, gamma, atoms, seed), x, y, 0.05, 100).movement[:40].mean()
            for seed in range(6)
        ])
        for gamma in (1.0, 0.5) for width in (200, 3200)
    }  # fmt: skip
    assert largest[1.0, 3200] / largest[1.0, 200] == pytest.approx(0.25, rel=0.25)
    assert largest[0.5, 3200] / largest[0.5, 200] == pytest.approx(1.0, abs=0.25)
    assert largest[0.5, 3200] > 3 * largest[1.0, 3200]


def test_tangent_grams_change_with_features(task):
    x, y, _ = task
    atoms = node_scaling.zipf(0.5, 40)
    change = []
    for gamma in (0.2, 1.0):
        net = node_scaling.init(math.inf, 3, gamma, atoms, 1)
        run = node_scaling.flow(net, x, y, [5.0], centered=True)
        before, after = net.ntg(x), replace(net, weights=run.weights).ntg(x)
        change.append(np.linalg.norm(after - before) / np.linalg.norm(before))
    assert change[0] > 0.05
    assert change[1] == 0


def test_an_uncentered_bulk_starts_as_a_gaussian_process(task):
    x, y, _ = task
    net = node_scaling.init(math.inf, 3, 1.0, node_scaling.zipf(0.5, 3), 1)
    starts = np.array([node_scaling.train(net, x, y, 0.1, 0, rng=seed).outputs[0, :, 0] for seed in range(3000)])
    q = (x * x).sum(axis=1) / 3
    expected = dual.relu(q[:, None], x @ x.T / 3, q)[0]
    np.testing.assert_allclose(np.cov(starts.T), expected, atol=0.12 * expected.max())


def test_training_reaches_zero_loss_and_divergence_is_reported(task):
    x, y, _ = task
    net = node_scaling.init(math.inf, 3, 0.5, node_scaling.zipf(0.5, 100), 1)
    assert node_scaling.train(net, x, y, 0.3, 4000, centered=True).losses[-1] < 1e-6
    run = node_scaling.train(net, x, y, 1e4, 50, centered=True)
    assert run.diverged
    assert 0 < len(run.losses) < 51
    assert np.isfinite(run.losses).all()
    assert np.isfinite(run.weights).all()
    assert len(run.times) == len(run.losses) == len(run.outputs)


INFINITE = node_scaling.init(math.inf, 2, 0.5, [0.5, 0.25], 0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: node_scaling.zipf(1.0, 3), "[zipf] alpha must lie strictly between 0 and 1, given 1.0"),
        (lambda: node_scaling.zipf(0.5, 0), "[zipf] n must be at least 1, given 0"),
        (lambda: node_scaling.init(5, 2, 1.5, [0.5], 0), "[node_scaling.init] gamma must lie in [0, 1], given 1.5"),
        (lambda: node_scaling.init(5, 2, math.nan, [0.5], 0), "[node_scaling.init] gamma must be finite, given nan"),
        (lambda: node_scaling.init(0, 2, 0.5, [0.5], 0), "[node_scaling.init] m must be at least 1, given 0"),
        (lambda: node_scaling.init(1, 2, 0.5, [0.5, 0.1], 0), "m must be at least the number of atoms, 2; given 1"),
        (
            lambda: node_scaling.init(5, 2, 0.5, [0.9, 0.2], 0),
            "atoms must be a vector of sum at most 1, given shape (2,)",
        ),
        (lambda: node_scaling.init(5, 2, 0.5, [-0.1], 0), "[node_scaling.init] atoms must not be negative or NaN"),
        (
            lambda: node_scaling.ntg_limit(X, None, 0.5, [0.5], 0, 0),
            "[ntg_limit] n_samples must be at least 1, given 0",
        ),
        (lambda: INFINITE.ntg(np.ones((2, 3))), "[Shallow] x1 has 3 features, the network takes 2"),
        (lambda: INFINITE.atoms(X * np.inf), "[Shallow] x is not finite"),
        (lambda: node_scaling.train(INFINITE, X, X, 0.1, 1), "[node_scaling.train] y must be (3, 1), given (3, 2)"),
        (lambda: node_scaling.train(INFINITE, X, X[:, :1], -1.0, 1), "[node_scaling.train] lr must be positive"),
        (
            lambda: node_scaling.flow(INFINITE, X, X[:, :1], [1.0, 0.5], rng=0),
            "times must be a vector of finite, rising",
        ),
        (lambda: node_scaling.flow(INFINITE, X, X[:, :1], [], rng=0), "times must be a vector of finite, rising"),
    ],
)
def test_node_scaling_refuses(make, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: node_scaling.init(5, 2, 0.5, [0.5], 0, activation=3),
            "activation must be a nonlinearity such as",
        ),
        (lambda: node_scaling.init(2.5, 2, 0.5, [0.5], 0), "[node_scaling.init] m must be an integer, given float"),
        (lambda: node_scaling.train(1, X, X[:, :1], 0.1, 1), "network must be a node_scaling.Shallow, given int"),
        (lambda: node_scaling.train(INFINITE, X, X[:, :1], 0.1, 1), "starts at random: give rng"),
        (lambda: mogp.train(network(stax.Relu()), {1.0}, X, 0.1, 1), "[Network] x must be a numpy.ndarray"),
    ],
)
def test_node_scaling_refuses_other_types(make, words):
    with pytest.raises(TypeError, match=re.escape(words)):
        make()
