"""Finite networks: training against plain loops, ensembles, files, divergence, what is recorded."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from fastntk import abc, finite, predict, stax
from fastntk.abc import Parameterization

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.rivals

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((12, 5)), RNG.standard_normal((12, 2))
IMAGES, TARGETS = RNG.standard_normal((10, 6, 6, 2)), RNG.standard_normal((10, 3))


def dense(width=16, out=2, depth=2, b_std=0.1, **more):
    hidden = stax.Dense(width, 2**0.5, b_std, **more), stax.Relu()
    return stax.serial(*hidden * depth, stax.Dense(out, 1.0, b_std, **more))


def conv(width=8, b_std=0.1):
    def layer(padding, strides=None):
        return stax.Conv(width, (3, 3), strides, padding, 2**0.5, b_std)

    return stax.serial(
        layer("SAME"), stax.Relu(),
        stax.FanOut(2), stax.parallel(stax.serial(layer("SAME"), stax.Relu()), stax.Identity()), stax.FanInSum(),
        layer("VALID", (2, 1)), stax.Gelu(), layer("CIRCULAR"), stax.AvgPool((2, 2)), stax.LayerNorm(),
        stax.Flatten(), stax.Dense(3, 1.0, b_std),
    )  # fmt: skip


def attention():
    return stax.serial(
        stax.Conv(8, (3,), padding="SAME"), stax.Relu(), stax.GlobalSelfAttention(8, 4, 4, 2, b_std=0.1),
        stax.GlobalAvgPool(), stax.Dense(2),
    )  # fmt: skip


def tensors(params, found):
    if isinstance(params, tuple):
        return tuple(tensors(p, found) for p in params)
    if params is None:
        return None
    found.append(torch.from_numpy(np.array(params)).requires_grad_())
    return found[-1]


LOSS = {
    "squared": lambda f, y: ((f - y) ** 2).sum() / (2 * len(y)),
    "cross_entropy": lambda f, y: torch.nn.functional.cross_entropy(f, y),
    "quadratic_hinge": lambda f, y: (torch.relu(1 - f * y) ** 2).sum() / (2 * len(y)),
    "hinge": lambda f, y: torch.relu(1 - f * y).sum() / len(y),
}


def by_hand(net, x, y, loss, optimizer, lr, steps, seed, rows=None, **more):
    """The parameters of init_fn, a plain loop over torch.optim, layers as apply_fn has them."""
    found = []
    params = tensors(net.init_fn(seed, x.shape)[1], found)
    kinds = {"sgd": torch.optim.SGD, "momentum": torch.optim.SGD, "adam": torch.optim.Adam}
    stepper = kinds[optimizer](found, lr=lr, **({"momentum": 0.9} if optimizer == "momentum" else {}), **more)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    for step in range(steps):
        batch = slice(None) if rows is None else rows[step]
        stepper.zero_grad()
        LOSS[loss](net.apply_fn(params, x[batch]), y[batch]).backward()
        stepper.step()
    return net.apply_fn(params, x).detach().numpy()


@pytest.mark.parametrize("optimizer", finite.training.OPTIMIZERS)
@pytest.mark.parametrize(("net", "x", "y"), [(dense(), X, Y), (conv(), IMAGES, TARGETS)])
def test_training_is_a_plain_loop(net, x, y, optimizer):
    expected = by_hand(net, x, y, "squared", optimizer, 0.02, 6, 3)
    options = {"optimizer": optimizer, "dtype": np.float64}
    one = finite.train(net, x, y, 0.02, 6, seeds=3, **options)
    np.testing.assert_allclose(one.outputs[0], expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(one(x)[0], expected, rtol=1e-9, atol=1e-11)
    several = finite.train(net, x, y, 0.02, 6, seeds=(1, 3), **options)
    np.testing.assert_allclose(several.outputs[1], expected, rtol=1e-9, atol=1e-11)
    assert np.abs(several.outputs[0] - several.outputs[1]).max() > 0.01
    assert several.losses.shape == (6, 2)
    np.testing.assert_allclose(several.train_loss[-1], ((several.outputs - y) ** 2).sum(axis=(1, 2)) / (2 * len(y)))


@pytest.mark.parametrize("loss", [*LOSS])
def test_losses_batches_and_penalty(loss):
    rows = []
    batches = finite.training.batch_rows(12, 5, 7, 0, "test")
    for _ in range(8):
        rows.append(next(batches))
    assert sorted(np.concatenate(rows)[:12]) == sorted(np.concatenate(rows)[12:24]) == list(range(12))
    labels = np.arange(12) % 2
    y = labels if loss == "cross_entropy" else Y if loss == "squared" else np.where(np.eye(2)[labels] > 0, 1.0, -1.0)
    found = finite.train(dense(), X, y, 0.1, 8, loss=loss, batch_size=5, batch_seed=7, l2=0.3, dtype=np.float64)
    expected = by_hand(dense(), X, y, loss, "sgd", 0.1, 8, 0, rows, weight_decay=0.3)
    np.testing.assert_allclose(found.outputs[0], expected, rtol=1e-9, atol=1e-11)
    if loss != "squared":
        right = (found.outputs[0].argmax(axis=1) == labels).mean()
        assert found.train_accuracy[-1, 0] == pytest.approx(right)


def test_attention_and_standard_form_train():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((8, 7, 3)), rng.standard_normal((8, 2))
    expected = by_hand(attention(), x, y, "squared", "sgd", 0.05, 6, 1)
    found = finite.train(attention(), x, y, 0.05, 6, seeds=(0, 1), dtype=np.float64)
    np.testing.assert_allclose(found.outputs[1], expected, rtol=1e-9, atol=1e-11)
    assert (found.train_loss[-1] < found.train_loss[0]).all()
    net = dense(parameterization="standard")
    expected = by_hand(net, X, Y, "squared", "sgd", 0.02, 5, 2)
    np.testing.assert_allclose(finite.train(net, X, Y, 0.02, 5, seeds=2, dtype=np.float64).outputs[0], expected)


def test_scale_and_centring_are_what_they_say():
    """Loss l(alpha (f - f_0)) / alpha^2: at large alpha a linear model, whatever alpha is."""
    kernel = finite.empirical_ntk_fn(dense(32, 1), trace_axes=(-1,))
    net, y = dense(32, 1), Y[:, :1]
    ntk = kernel(X, None, net.init_fn(0, X.shape)[1])
    gone = np.linalg.matrix_power(np.eye(12) - 0.3 * ntk / 12, 20)
    for alpha in (1e4, 1e5):
        found = finite.train(net, X, y, 0.3, 20, alpha=alpha, centered=True, dtype=np.float64)
        np.testing.assert_allclose(found.outputs[0], y - gone @ y, atol=30 / alpha)
        assert found.train_loss[-1, 0] == pytest.approx(((gone @ y) ** 2).sum() / 24 / alpha**2, rel=0.01)


@pytest.mark.parametrize("make", [Parameterization.ntk, Parameterization.mup, Parameterization.ip_llr])
def test_parameterizations_are_those_of_abc(make):
    p = make(2, biases=True)
    net = dense()
    expected = abc.train(net, p, X, Y, 0.1, 5, rng=3)
    found = finite.train(net, X, Y, 0.1, 5, seeds=3, parameterization=p, dtype=np.float64)
    np.testing.assert_allclose(found.outputs[0], expected.final, rtol=1e-9, atol=1e-12)
    assert found.width == pytest.approx(expected.width)
    zero = finite.train(net, X, Y, 0.1, 2, parameterization=make(2, biases=True), zero_readout=True, dtype=np.float64)
    bias_alone = zero.train_loss[0, 0]
    assert bias_alone != expected.initial_loss


def test_node_scales_are_variances_of_nodes():
    """Equal ones are the plain network; a node of variance 0 is not there, and does not move."""
    net = stax.serial(stax.Dense(8, 2**0.5), stax.Relu(), stax.Dense(2))
    plain = finite.train(net, X, Y, 0.1, 5, dtype=np.float64)
    equal = finite.train(net, X, Y, 0.1, 5, node_scales=[np.full(8, 1 / 8)], dtype=np.float64)
    np.testing.assert_allclose(equal.outputs, plain.outputs, rtol=1e-10)
    lam = np.array([0.5, 0.5, 0, 0, 0, 0, 0, 0])
    found = finite.train(net, X, Y, 0.1, 5, node_scales=[lam], dtype=np.float64)
    first = net.init_fn(0, X.shape)[1][0][0]
    moved = np.abs(found.params[0][0][0] - first).max(axis=0)
    assert (moved[:2] > 1e-3).all()
    assert (moved[2:] == 0).all()
    images = stax.serial(stax.Conv(4, (3, 3)), stax.Relu(), stax.Flatten(), stax.Dense(3))
    same = [
        finite.train(images, IMAGES, TARGETS, 0.1, 3, node_scales=scales, dtype=np.float64).outputs
        for scales in (None, [np.full(4, 0.25)], [np.full((1, 4), 0.25)])
    ]
    np.testing.assert_allclose(same[1], same[0], rtol=1e-9)
    np.testing.assert_allclose(same[2], same[0], rtol=1e-9)
    with pytest.raises(ValueError, match="node_scales has 2 entries, the network 1 hidden layers"):
        finite.train(net, X, Y, 0.1, 2, node_scales=[lam, lam])
    with pytest.raises(ValueError, match="without branches"):
        finite.train(conv(), IMAGES, TARGETS, 0.1, 2, node_scales=[lam])


def test_trained_ensembles_have_the_mean_and_spread_of_the_infinite_one():
    """40 convolutional networks against the NTK ensemble's law after as many steps, within 3 standard errors."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((7, 5, 5, 2)), rng.standard_normal((5, 1))
    net = stax.serial(
        stax.Conv(192, (3, 3), padding="SAME", W_std=2**0.5, b_std=0.1), stax.Relu(), stax.Flatten(),
        stax.Dense(1, 1.0, 0.1),
    )  # fmt: skip
    rate = 0.3 * predict.max_learning_rate(net.kernel_fn(x[:5], None, "ntk"), y.size)
    limit = predict.gradient_descent_mse_ensemble(net.kernel_fn, x[:5], y, rate, discrete=True)(
        40, x[5:], "ntk", compute_cov=True
    )
    found = finite.train(net, x[:5], y, rate, 40, seeds=range(40), x_test=x[5:], y_test=y[:2])
    std = np.sqrt(np.diagonal(limit.covariance))
    seen = found.test_outputs[..., 0]
    assert (np.abs(seen.mean(axis=0) - limit.mean[:, 0]) < 3 * std / math.sqrt(40)).all()
    np.testing.assert_allclose(seen.std(axis=0, ddof=1), std, rtol=3 / math.sqrt(78) + 0.05)


def test_a_member_that_diverges_is_told_and_leaves_the_others():
    net = stax.serial(stax.Dense(8, 2**0.5), stax.Relu(), stax.Dense(1))
    scales = [np.stack([np.full(8, 1 / 8), np.full(8, 1e4), np.full(8, 1 / 8)])]
    options = {"seeds": (4, 5, 6), "node_scales": scales, "dtype": np.float64}
    kept = finite.train(net, X, Y[:, :1], 0.1, 30, on_divergence="keep", **options)
    assert kept.diverged.tolist()[::2] == [-1, -1]
    assert 0 < kept.diverged[1] < 30
    for values in (
        kept.outputs,
        kept.losses,
        kept.train_loss,
        *(p for tree in kept.params for w, _ in tree[::2] for p in [w]),
    ):
        assert np.isfinite(values).all()
    for place, seed in ((0, 4), (2, 6)):
        alone = finite.train(net, X, Y[:, :1], 0.1, 30, seeds=seed, dtype=np.float64)
        np.testing.assert_allclose(kept.outputs[place], alone.outputs[0], rtol=1e-9)
    words = rf"member 1 \(seed 5\) diverged at step {kept.diverged[1]} with the learning rate 0\.1"
    with pytest.raises(finite.Diverged, match=words) as caught:
        finite.train(net, X, Y[:, :1], 0.1, 30, **options)
    np.testing.assert_array_equal(caught.value.training.outputs, kept.outputs)


def test_members_that_diverge_by_the_rate_leave_the_others():
    """Without scales between what is trained and the network: the graph of the step is of what was before."""
    net, seeds = stax.serial(stax.Dense(8, 2**0.5), stax.Dense(2)), range(5)
    alone = [finite.train(net, X, Y, 3.0, 12, seeds=s, on_divergence="keep", dtype=np.float64) for s in seeds]
    steps = [int(one.diverged[0]) for one in alone]
    assert max(steps) > 0 > min(steps)
    found = finite.train(net, X, Y, 3.0, 12, seeds=seeds, on_divergence="keep", dtype=np.float64)
    assert found.diverged.tolist() == steps
    for place, one in enumerate(alone):
        np.testing.assert_allclose(found.outputs[place], one.outputs[0], rtol=1e-8)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_run_that_is_resumed_is_one_that_was_not_interrupted(tmp_path, monkeypatch, optimizer):
    net, path = dense(), tmp_path / "run.pt"
    options = {
        "seeds": (1, 2), "batch_size": 5, "optimizer": optimizer, "centered": True,
        "record": finite.Record(every=4, kernel=3),
    }  # fmt: skip
    whole = finite.train(net, X, Y, 0.05, 13, **options)
    plain = finite.training._Run.descend

    def interrupted(self, step, *rest):
        if step == 10:
            raise KeyboardInterrupt
        return plain(self, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(finite.training._Run, "descend", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finite.train(net, X, Y, 0.05, 13, path=path, **options)
    began = []
    monkeypatch.setattr(
        finite.training._Run, "descend", lambda self, step, *rest: began.append(step) or plain(self, step, *rest)
    )
    for expected in ([8, 9, 10, 11, 12], []):
        found = finite.train(net, X, Y, 0.05, 13, path=path, **options)
        assert began == expected
        for name in ("outputs", "losses", "train_loss", "kernel_change", "steps"):
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
        began.clear()
    with pytest.raises(ValueError, match="holds a run on other samples, or with other options"):
        finite.train(net, X, Y, 0.06, 13, path=path, **options)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="is no file of a run"):
        finite.train(net, X, Y, 0.05, 13, path=path, **options)


def test_kernel_change_and_curvature_are_their_definitions():
    net, few = dense(6, 2), np.linspace(0, 11, 4).round().astype(int)
    record = finite.Record(every=[0, 5], kernel=4, curvature=60)
    found = finite.train(net, X, Y, 0.05, 5, seeds=(0, 3), record=record, dtype=np.float64)
    assert found.steps.tolist() == [0, 5]
    kernel = finite.empirical_ntk_fn(net)
    for place, seed in enumerate((0, 3)):
        params = net.init_fn(seed, X.shape)[1]
        before, after = (kernel(X[few], None, p) for p in (params, found.params[place]))
        change = np.linalg.norm(after - before) / np.linalg.norm(before)
        assert found.kernel_change[:, place] == pytest.approx([0, change], rel=1e-9)
        leaves = []
        tree = tensors(params, leaves)
        flat = torch.cat([leaf.detach().reshape(-1) for leaf in leaves])

        sizes = [leaf.numel() for leaf in leaves]

        def loss(v, tree=tree, leaves=leaves, sizes=sizes):
            parts = iter(p.reshape(leaf.shape) for p, leaf in zip(v.split(sizes), leaves, strict=True))

            def own(node):
                return tuple(map(own, node)) if isinstance(node, tuple) else None if node is None else next(parts)

            f = net.apply_fn(own(tree), torch.from_numpy(X[few]))
            return ((f - torch.from_numpy(Y[few])) ** 2).sum() / 8

        top = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))[-1]
        assert found.curvature[0, place] == pytest.approx(float(top), rel=1e-6)


def test_pytorch_is_loaded_when_it_is_needed():
    code = "import sys, fastntk.finite, fastntk.abc, fastntk.mogp; assert not {'torch', 'jax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_looks_are_dense_at_first():
    steps = finite.Record().steps(1000, "test")
    assert steps[:4] == [0, 1, 2, 3]
    assert steps[-1] == 1000
    assert 15 < len(steps) < 22
    assert finite.Record(every=400).steps(1000, "test") == [0, 400, 800, 1000]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"network": 3}, TypeError, "takes a network of stax, given int"),
        ({"optimizer": "lbfgs"}, ValueError, "optimizer must be sgd, momentum, adam, given 'lbfgs'"),
        ({"loss": "absolute"}, ValueError, "loss must be squared, "),
        ({"loss": 3}, TypeError, "loss must be a name or a function"),
        ({"loss": "hinge"}, ValueError, "y must be 1 and -1 for a hinge"),
        ({"loss": "cross_entropy"}, ValueError, "y must be classes, or rows of probabilities"),
        ({"lr": -1}, ValueError, "lr must be positive"),
        ({"lr": [0.1]}, ValueError, "one for each of 2 steps"),
        ({"x": np.full((12, 5), np.nan)}, ValueError, "x must be finite"),
        ({"y": Y[:5]}, ValueError, r"y must have shape \(12,\) or \(12, k\), given \(5, 2\)"),
        ({"y": Y[:, :1]}, ValueError, r"gives outputs of shape \(12, 2\), y has shape \(12, 1\)"),
        ({"seeds": (1, 1)}, ValueError, "seeds must be some, each once"),
        ({"seeds": ()}, ValueError, "seeds must be some, each once"),
        ({"alpha": 0}, ValueError, "alpha must be positive"),
        ({"batch_size": 13}, ValueError, "batch_size 13 is more than the 12 samples"),
        ({"dtype": np.float16}, TypeError, "dtype must be float32 or float64"),
        ({"x_test": X}, ValueError, "x_test comes with y_test"),
        ({"on_divergence": "stop"}, ValueError, "on_divergence must be 'raise' or 'keep'"),
        (
            {"parameterization": Parameterization.mup(3)},
            ValueError,
            "muP is for L = 3 hidden layers, the network has 2",
        ),
        ({"parameterization": Parameterization.mup(2)}, ValueError, "the network has biases, muP has no exponents"),
        ({"path": "no/such/folder/run.pt"}, ValueError, "its folder does not exist"),
        ({"node_scales": [np.ones(3), None]}, ValueError, "node_scales of 3 nodes, the layer behind them reads 16"),
    ],
)
def test_refused(change, error, words):
    given = {"network": dense(), "x": X, "y": Y, "lr": 0.1, "steps": 2} | change
    with pytest.raises(error, match=words):
        finite.train(given.pop("network"), given.pop("x"), given.pop("y"), given.pop("lr"), given.pop("steps"), **given)
