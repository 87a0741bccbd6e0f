"""Lazy and feature training: gradients, kernels and flow against independent ones, and the specification's numbers."""

from __future__ import annotations

import json
import math
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
from fastntk import lazy_feature, stax
from fastntk.quadrature import Smooth
from scipy.integrate import quad, solve_ivp


def problem(seed=1, P=10, d=6):
    """Samples of squared norm d with random labels, those of the specification's numbers."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((P, d))
    x *= math.sqrt(d) / np.linalg.norm(x, axis=1, keepdims=True)
    return x, np.sign(rng.standard_normal(P))


def others(m=50, d=6):
    return problem(5, m, d)[0]


X, Y = problem()


def at(zt, h, L=1, rng=0, **options):
    found = lazy_feature.run(X, Y, h, L, zt / math.sqrt(h), rng=rng, **options)
    assert found.converged
    assert found.zt == pytest.approx(zt)
    return found


def slopes(values, zts):
    return np.diff(np.log(values)) / np.diff(np.log(zts))


# ---------------------------------------------------------------- the flow, against other ways to it

ACTS = {
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "softplus": (lambda z: np.log1p(np.exp(5 * z)) / 5, lambda z: 1 / (1 + np.exp(-5 * z))),
}
LOSS_PULLS = {
    "quadratic_hinge": lambda m: -np.maximum(1 - m, 0),
    "soft_hinge": lambda m: -1 / (1 + np.exp(-20 * (1 - m))),
}


class Plain:
    """The network and its jacobian, sample by sample and weight by weight, from its drawn weights (fan-in, fan-out)."""

    def __init__(self, act, h, L, d, seed):
        rng = np.random.default_rng(seed)
        self.shapes = [(d, h), *[(h, h)] * (L - 1), (h, 1)]
        self.w0 = np.concatenate([rng.standard_normal(s).ravel() for s in self.shapes])
        phi, dphi = ACTS[act]
        scale = quad(lambda z: phi(z) ** 2 * np.exp(-z * z / 2) / math.sqrt(2 * math.pi), -12, 12, limit=200)[0] ** -0.5
        self.phi, self.dphi = (lambda z: scale * phi(z)), (lambda z: scale * dphi(z))

    def layers(self, w):
        ends = np.cumsum([a * b for a, b in self.shapes])[:-1]
        return [part.reshape(s) for part, s in zip(np.split(w, ends), self.shapes, strict=True)]

    def f(self, w, x):
        for i, layer in enumerate(self.layers(w)):
            x = (self.phi(x) if i else x) @ layer / math.sqrt(len(layer))
        return x[:, 0]

    def jacobian(self, w, x):
        rows = []
        for sample in x:
            seen, hs, ws = [sample], [], self.layers(w)
            for i, layer in enumerate(ws):
                if i:
                    seen.append(self.phi(hs[-1]))
                hs.append(seen[-1] @ layer / math.sqrt(len(layer)))
            pull, parts = np.ones(1), []
            for i in range(len(ws) - 1, -1, -1):
                parts.append(np.outer(seen[i], pull).ravel() / math.sqrt(len(ws[i])))
                if i:
                    pull = ws[i] @ pull / math.sqrt(len(ws[i])) * self.dphi(hs[i - 1])
            rows.append(np.concatenate(parts[::-1]))
        return np.array(rows)


@pytest.mark.parametrize(("act", "loss", "L"), [("tanh", "quadratic_hinge", 1), ("softplus", "soft_hinge", 3)])
def test_flow_is_the_solution_of_the_differential_equation(act, loss, L):
    """dw/dt = -grad of sum l / (alpha^2 P), by SciPy from the same weights; Euler's error falls with its step."""
    h, alpha = 12, 0.1
    net = Plain(act, h, L, X.shape[1], 3)
    numeric = [(net.f(net.w0 + e, X) - net.f(net.w0 - e, X)) / 2e-6 for e in 1e-6 * np.eye(len(net.w0))[:90:7]]
    np.testing.assert_allclose(net.jacobian(net.w0, X)[:, :90:7].T, numeric, atol=1e-8)
    f0 = net.f(net.w0, X)

    def velocity(t, w):
        pull = LOSS_PULLS[loss](alpha * (net.f(w, X) - f0) * Y) * Y
        return -net.jacobian(w, X).T @ pull / (alpha * len(Y))

    errors = []
    for fine in (1.0, 0.25):
        found = lazy_feature.run(X, Y, h, L, alpha, act=act, loss=loss, rng=3, step=(0.05 * fine, 0.03 * fine))
        j0 = net.jacobian(net.w0, X)
        np.testing.assert_allclose(found.ntk0, j0 @ j0.T, rtol=1e-11)
        if fine == 1:
            end = found.t
        exact = solve_ivp(velocity, (0, found.t), net.w0, rtol=1e-8, atol=1e-10).y[:, -1]
        errors.append(np.abs(found.F - alpha * (net.f(exact, X) - f0)).max())
        kernel = net.jacobian(exact, X)
        kernel = kernel @ kernel.T
        change = np.linalg.norm(kernel - found.ntk0) / np.linalg.norm(found.ntk0)
        assert found.dtheta == pytest.approx(change, rel=0.03 * fine)
        moved = [np.linalg.norm(a - b) / np.linalg.norm(b)
                 for a, b in zip(net.layers(exact), net.layers(net.w0), strict=True)]  # fmt: skip
        np.testing.assert_allclose(found.dw, moved, rtol=0.03 * fine)
    assert found.t == pytest.approx(end, rel=0.03)
    assert errors[0] < 0.05
    assert errors[1] < 0.4 * errors[0]


def test_mean_kernel_is_the_infinite_one():
    kernel = stax.serial(stax.Dense(1, W_std=2**0.5), stax.Relu(), stax.Dense(1, W_std=2**0.5), stax.Relu(),
                         stax.Dense(1))[2](X, get="ntk")  # fmt: skip
    drawn = np.array([lazy_feature.run(X, Y, 128, 2, 1e6, max_steps=1, rng=s).ntk0 for s in range(200)])
    error = drawn.std(axis=0, ddof=1) / math.sqrt(200)
    assert np.linalg.norm(error) < 0.05 * np.linalg.norm(kernel)
    assert (np.abs(drawn.mean(axis=0) - kernel) < 4 * error).all()


def test_infinite_alpha_is_the_flow_of_the_initial_kernel():
    """dF/dt = -Theta_0 l' / P, whatever alpha is."""
    found = lazy_feature.run(X, Y, 64, alpha=1e5, step=(0.005, 0.03))
    exact = solve_ivp(lambda t, F: found.ntk0 @ (np.maximum(1 - F * Y, 0) * Y) / len(Y), (0, found.t), np.zeros(len(Y)),
                      rtol=1e-9, atol=1e-11).y[:, -1]  # fmt: skip
    np.testing.assert_allclose(found.F, exact, atol=2e-3)
    assert found.dtheta < 1e-4
    assert found.t1 == math.inf
    coarse = lazy_feature.run(X, Y, 64, alpha=1e7)
    assert coarse.t == pytest.approx(found.t, rel=0.03)


@pytest.mark.parametrize(("loss", "stop"), [("hinge", 0.9), ("quadratic_hinge", 0.9), ("soft_hinge", 1.1)])
def test_losses(loss, stop):
    x_test = others(4)
    found = lazy_feature.run(X, Y, 64, loss=loss, stop=stop, x_test=np.vstack([X[:2], x_test]))
    assert found.converged
    np.testing.assert_allclose(found.F_test[:2], found.F[:2], rtol=1e-10)
    assert found.trace.margin[-1] == pytest.approx((found.F * Y).min())
    assert found.trace.margin[-1] > stop >= found.trace.margin[:-1].max()
    start = {"hinge": 1, "quadratic_hinge": 0.5, "soft_hinge": np.log1p(np.exp(20)) / 20}[loss]
    assert found.trace.loss[0] == pytest.approx(start)
    assert found.trace.loss[-1] < 0.2 * start
    assert found.steps == len(found.trace.dtheta) - 1
    assert found.trace.dtheta[-1] == found.dtheta


def test_activation_by_an_object_is_that_by_its_name():
    softplus = Smooth(lambda z: np.logaddexp(0, 5 * z) / 5, lambda z: (1 + np.tanh(2.5 * z)) / 2)
    a, b = (lazy_feature.run(X, Y, 32, act=act) for act in (softplus, "softplus"))
    np.testing.assert_allclose(a.F, b.F, rtol=1e-9)
    linear = lazy_feature.run(X[:4], Y[:4], 32, act="linear")
    assert linear.converged


def test_torch_agrees_with_numpy():
    pytest.importorskip("torch")
    for act in ("relu", "softplus", "tanh"):
        a, b = (at(1, 32, 2, act=act, device=device, x_test=others(3)) for device in (None, "cpu"))
        np.testing.assert_allclose(a.F_test, b.F_test, rtol=1e-8)
        assert b.dtheta == pytest.approx(a.dtheta, rel=1e-8)


# ---------------------------------------------------------------- numbers of the specification


def test_kernel_change_collapses():
    """dTheta over sqrt(h) alpha; theory.md's numbers within 25%, means of four initialisations."""
    expected = {64: (30, 2.21), 256: (28, 1.90), 1024: (30, 2.07)}
    zts = (0.1, 1, 10)
    found = lazy_feature.scan(X, Y, tuple(expected), zt_grid=zts, draws=4)
    assert found.converged.all()
    change = found.dtheta.mean(axis=-1)
    np.testing.assert_allclose(change[:, :2], list(expected.values()), rtol=0.25)
    assert (change[:, 2] < 0.15).all()
    assert (change[:, 2] > 0.02).all()
    assert (change[:, :2].max(axis=0) < 1.25 * change[:, :2].min(axis=0)).all()


@pytest.mark.parametrize("L", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_feature_slopes(L):
    """``zt^(-2 L / (L + 1))``: -1, -4/3, -3/2, within 0.1; approached from below."""
    h, zts = 64, (1e-3, 1e-2) if L == 3 else (1e-4, 1e-3, 1e-2)
    found = np.mean([slopes([at(zt, h, L, rng=s).dtheta for zt in zts], zts) for s in range(2)], axis=0)
    theory = -2 * L / (L + 1)
    assert (np.abs(found - theory) < 0.1).all()
    assert (found < theory).all()


def test_the_bound_by_the_weights_is_needed():
    """Without it the first step from small alpha is a jump, and the kernel ends far too large."""
    bounded = lazy_feature.flow.Problem.of("test", X, Y, 2)
    free = replace(bounded, step=(0.05, 1e30))
    right, wrong = (one.run(64, 1e-4 / 8, 0).dtheta for one in (bounded, free))
    assert wrong > 20 * right


def test_time_t1_is_linear():
    zts = (1e-4, 1e-3, 1e-2, 1e-1)
    times = np.array([[at(zt, 256, rng=s).t1 for zt in (*zts, 1)] for s in range(3)])
    np.testing.assert_allclose(times[:, :3] / np.array(zts[:3]) / (times[:, 3:4] / 0.1), 1, rtol=0.06)
    np.testing.assert_allclose(times.mean(axis=0)[:4], [2.0e-4, 2.0e-3, 2.1e-2, 0.22], rtol=0.25)
    assert times[:, 4].mean() == pytest.approx(3.0, rel=0.25)


@pytest.mark.parametrize(
    ("h", "first", "second"), [(64, -1.21, -1.02), pytest.param(4096, -1.82, -1.06, marks=pytest.mark.slow)]
)
def test_lazy_slopes_of_a_smooth_activation(h, first, second):
    """``A zt^-2 + B h^(-1/2) zt^-1``: the second power first, then the first."""
    zts = (10, 100, 1000)
    found = np.mean([slopes([at(zt, h, rng=s, act="softplus").dtheta for zt in zts], zts) for s in range(4)], axis=0)
    np.testing.assert_allclose(found, [first, second], atol=0.15)


def test_lazy_change_at_alpha_1():
    """``O(1 / h)`` for a smooth activation and for ReLU: at alpha = 1, zt = sqrt(h)."""
    for act in ("softplus", "relu"):
        found = lazy_feature.scan(X, Y, (256, 1024), [1.0], act=act, draws=4).dtheta.mean(axis=-1)[:, 0]
        assert math.log(found[1] / found[0], 4) == pytest.approx(-1, abs=0.25)


@pytest.mark.parametrize("zt", [100, pytest.param(0.1, marks=pytest.mark.slow)])
def test_fluctuations_fall_with_the_width(zt):
    """As ``h^(-1/2)`` in both regimes."""
    widths = (32, 128, 512)
    spread = [
        lazy_feature.ensemble(
            X, Y, h, alpha=zt / math.sqrt(h), M=40 if zt < 1 else 20, x_test=others(), rng=2
        ).fluctuation
        for h in widths
    ]
    assert np.polyfit(np.log(widths), np.log(spread), 1)[0] == pytest.approx(-0.5, abs=0.12)


def test_fluctuations_of_ensembles_fall_with_their_size():
    found = lazy_feature.ensemble(X[:4], Y[:4], 32, alpha=20, M=160, x_test=others(10))
    assert found.F.shape == (160, 4)
    assert found.converged.all()
    assert found.fluctuation == pytest.approx(np.sqrt(found.F_test.var(axis=0, ddof=1).mean()))
    np.testing.assert_array_equal(found.mean, found.F_test.mean(axis=0))
    means = found.F_test.reshape(10, 16, 10).mean(axis=1)
    ratio = np.sqrt(means.var(axis=0, ddof=1).mean()) / found.fluctuation
    assert ratio == pytest.approx(1 / 4, rel=0.25)


def test_alpha_star():
    """alpha* ~ h^(-1/2)."""
    found = {h: [lazy_feature.alpha_star(X, Y, h, rng=s) for s in range(3)] for h in (64, 512)}
    for runs in found.values():
        for one in runs:
            low, high = one.bracket
            assert low < one.alpha < high < 1.05 * low
            changes = {r.alpha: r.dtheta for r in one.runs}
            assert changes[low] >= 0.5 > changes[high]
    mean = [np.mean([np.log(one.alpha) for one in runs]) for runs in found.values()]
    assert (mean[1] - mean[0]) / math.log(8) == pytest.approx(-0.5, abs=0.1)
    assert 1 < found[64][0].zt < 10
    below = lazy_feature.alpha_star(X, Y, 64, threshold=20)
    assert below.zt < 1
    with pytest.raises(ValueError, match="it does not cross 1e"):
        lazy_feature.alpha_star(X[:4], Y[:4], 32, threshold=1e9)


# ---------------------------------------------------------------- scans


def test_scan_resumes(tmp_path):
    path = tmp_path / "scan.json"
    first = lazy_feature.scan(X[:4], Y[:4], (16, 32), zt_grid=(0.1, 10), draws=2, path=path, x_test=others(3))
    assert first.resumed == 0
    grown = lazy_feature.scan(X[:4], Y[:4], (16, 32, 48), zt_grid=(0.1, 10, 20), draws=3, path=path, x_test=others(3))
    assert grown.resumed == 8
    assert grown.seeds[:2] == first.seeds
    plain = lazy_feature.scan(X[:4], Y[:4], (16, 32, 48), zt_grid=(0.1, 10, 20), draws=3, x_test=others(3))
    for name in ("h", "alpha", "zt", "dtheta", "t", "t1", "F", "F_test", "status", "steps"):
        np.testing.assert_array_equal(getattr(grown, name), getattr(plain, name))
    np.testing.assert_array_equal(grown.dtheta[:2, :2, :2], first.dtheta)
    assert grown.F_test.shape == (3, 3, 3, 3)
    assert (grown.t1[:, 0] < np.inf).all()
    assert (grown.t1[:, 2] == np.inf).all()
    assert [p.name for p in tmp_path.iterdir()] == ["scan.json"]
    one = lazy_feature.run(X[:4], Y[:4], 32, 1, grown.alpha[1, 1], rng=grown.seeds[2])
    assert one.dtheta == grown.dtheta[1, 1, 2]
    assert lazy_feature.scan(X[:4], Y[:4], (16,), zt_grid=(0.1,), path=path, x_test=others(3)).resumed == 1
    with pytest.raises(ValueError, match="holds runs on other samples, or with other options"):
        lazy_feature.scan(X[:4], -Y[:4], (16,), zt_grid=(1,), path=path, x_test=others(3))
    for text in ("[]", "{", '{"runs": {}}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="is no file of a scan"):
            lazy_feature.scan(X[:4], Y[:4], (16,), zt_grid=(1,), path=path)


def test_scan_keeps_what_ended_before_an_interruption(tmp_path, monkeypatch):
    path, train = tmp_path / "scan.json", lazy_feature.flow._train
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(*args)

    monkeypatch.setattr(lazy_feature.flow, "_train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lazy_feature.scan(X[:4], Y[:4], (16, 32), zt_grid=(1, 10), path=path)
    assert len(json.loads(path.read_text())["runs"]) == 2
    monkeypatch.undo()
    assert lazy_feature.scan(X[:4], Y[:4], (16, 32), zt_grid=(1, 10), path=path).resumed == 2


def test_processes_give_the_same(capsys):
    grid = {"h_grid": (16, 32), "alpha_grid": (0.1, 1.0), "draws": 2, "rng": np.random.default_rng(4).integers(99)}
    a = lazy_feature.scan(X[:4], Y[:4], workers=2, progress=True, **grid)
    assert "8/8" in capsys.readouterr().err
    b = lazy_feature.scan(X[:4], Y[:4], **grid)
    np.testing.assert_allclose(a.F, b.F, rtol=1e-9)
    np.testing.assert_array_equal(a.alpha, [[0.1, 1.0]] * 2)
    np.testing.assert_allclose(a.zt, np.sqrt([[16], [32]]) * a.alpha)


# ---------------------------------------------------------------- bad input, and runs that end badly

CUBE = Smooth(lambda z: z**3, lambda z: 3 * z * z)


def test_runs_that_do_not_converge_say_so():
    twice, labels = np.vstack([X[:1], X[:1]]), [1, -1]  # one sample with both labels
    found = lazy_feature.run(twice, labels, 16, max_steps=50)
    assert (found.status, found.converged, found.steps) == ("unfinished", False, 50)
    off = lazy_feature.run(-np.ones((2, 1)), labels, 1, rng=0)
    assert off.status == "stuck"
    assert off.dtheta == 0
    blown = lazy_feature.run(X, Y, 16, 5, act=CUBE, step=(1, 1))
    assert blown.status == "diverged"
    for one in (found, off, blown):
        for value in (one.F, one.f, one.dtheta, one.t, one.dw, one.ntk, one.trace.loss, one.trace.margin):
            assert np.isfinite(value).all()
    assert found.t1 == math.inf
    with pytest.raises(lazy_feature.Unfinished, match=r"\[scan\] no run converged: 4 unfinished") as caught:
        lazy_feature.scan(twice, labels, (8, 16), zt_grid=(1, 10), max_steps=5)
    assert len(caught.value.runs) == 4
    back = pickle.loads(pickle.dumps(caught.value))
    assert str(back) == str(caught.value)
    np.testing.assert_array_equal(back.runs[0].F, caught.value.runs[0].F)
    with pytest.raises(lazy_feature.Unfinished, match="fewer than two networks converged: 3 unfinished"):
        lazy_feature.ensemble(twice, labels, 8, M=3, max_steps=5)
    with pytest.raises(lazy_feature.Unfinished, match=r"the run at alpha = 0.25 is unfinished"):
        lazy_feature.alpha_star(twice, labels, 16, max_steps=5)


def test_some_runs_that_do_not_converge(tmp_path):
    """One unit of ReLU and one sample: half of all networks are off, and some of the others end at 0."""
    path = tmp_path / "scan.json"
    for _ in range(2):
        found = lazy_feature.scan([[1.0]], [1], (1,), [1.0], draws=12, path=path, max_steps=500)
        assert set(found.status.ravel()) == {"converged", "stuck", "unfinished"}
    many = lazy_feature.ensemble([[1.0]], [1], 1, M=12, max_steps=500)
    assert len(many.F) == many.converged.sum() == found.converged.sum()
    assert len(many.runs) == 12


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"h": 0}, ValueError, r"\[run\] h must be at least 1, given 0"),
        ({"h": 2.5}, TypeError, "h must be an integer"),
        ({"L": 0}, ValueError, "L must be at least 1"),
        ({"alpha": 0}, ValueError, "alpha must be positive and at most 1e[+]09, given 0"),
        ({"alpha": -1}, ValueError, "alpha must be positive"),
        ({"alpha": math.nan}, ValueError, "alpha must be finite"),
        ({"alpha": 1e12}, ValueError, "at most 1e[+]09"),
        ({"alpha": "a"}, TypeError, "alpha must be a number"),
        ({"y": np.arange(10)}, ValueError, r"labels y must be 1 or -1, given \[0"),
        ({"y": Y * np.nan}, ValueError, "labels y must be 1 or -1"),
        ({"y": Y[:4]}, ValueError, r"y must have shape \(10,\), given \(4,\)"),
        ({"x": X * np.nan}, ValueError, "x must be finite"),
        ({"x": X[0]}, ValueError, r"x must have shape \(n, d\)"),
        ({"x": np.empty((0, 3)), "y": []}, ValueError, "x must have shape"),
        ({"x_test": X[:, :3]}, ValueError, r"x must have shape \(n, 6\), given \(10, 3\)"),
        ({"act": "ramp"}, ValueError, "act must be one of relu, softplus, tanh, linear, .*swish, given 'ramp'"),
        ({"act": 3}, TypeError, "phi"),
        ({"act": Smooth(np.zeros_like, np.zeros_like)}, ValueError, "act is 0 everywhere"),
        ({"loss": "mse"}, ValueError, "loss must be one of hinge, quadratic_hinge, soft_hinge, given 'mse'"),
        ({"stop": 1}, ValueError, "margins of a quadratic_hinge do not pass 1"),
        ({"stop": 0}, ValueError, "stop must be positive"),
        ({"t1_at": 0}, ValueError, "t1_at must be positive"),
        ({"step": 0.1}, TypeError, "step must be two numbers"),
        ({"step": (0.1, 2)}, ValueError, "step must be positive and at most 1"),
        ({"max_steps": 0}, ValueError, "max_steps must be at least 1"),
        ({"rng": "a"}, TypeError, "rng must be a numpy.random.Generator or an integer seed"),
        ({"device": "cpu", "act": CUBE}, (TypeError, ImportError), "act by its name|needs PyTorch"),
        ({"x": X * 1e160}, FloatingPointError, "tangent kernel overflows before training, h = 4"),
        ({"x_test": np.full((1, 6), 1.7e308)}, FloatingPointError, "outputs overflow on x_test"),
    ],
)
def test_bad_arguments(change, error, words):
    with pytest.raises(error, match=words):
        lazy_feature.run(**({"x": X, "y": Y, "h": 4} | change))


def test_bad_arguments_of_scans():
    with pytest.raises(TypeError, match="exactly one of alpha_grid and zt_grid"):
        lazy_feature.scan(X, Y, (8,))
    with pytest.raises(ValueError, match="zt_grid must be a vector of positive numbers"):
        lazy_feature.scan(X, Y, (8,), zt_grid=(1, -1))
    with pytest.raises(ValueError, match="h_grid is empty"):
        lazy_feature.scan(X, Y, (), [1])
    with pytest.raises(ValueError, match=r"\[scan\] h_grid must be at least 1, given 0"):
        lazy_feature.scan(X, Y, (8, 0), [1])
    with pytest.raises(ValueError, match="workers must be at least 1"):
        lazy_feature.scan(X, Y, (8,), [1], workers=0)
    with pytest.raises(ValueError, match="M must be at least 2, given 1"):
        lazy_feature.ensemble(X, Y, 8, M=1)
    with pytest.raises(ValueError, match="threshold must be positive"):
        lazy_feature.alpha_star(X, Y, 8, threshold=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'lss'"):
        lazy_feature.ensemble(X, Y, 8, lss="hinge")


def test_device_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install 'fastntk\[torch\]'"):
        lazy_feature.run(X, Y, 4, device="cpu")
