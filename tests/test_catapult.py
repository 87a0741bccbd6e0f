"""The catapult map against gradient descent on parameters, its phases and numbers, and scans of real networks."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from fastntk import catapult, stax


def from_x(x0, y0, steps, n=1e10):
    """A run from ``eta f_0 / sqrt(n) = x0``, ``eta lambda_0 = y0``."""
    return catapult.trajectory(x0 * math.sqrt(n) / y0, 1.0, y0, n, steps)


# ---------------------------------------------------------------- the map


@pytest.mark.parametrize("eta_lambda0", [0.7, 1.9, 2.6, 3.7, 4.5])
@pytest.mark.parametrize("n", [1, 7, 300])
def test_map_is_gradient_descent_on_parameters(n, eta_lambda0):
    """Exact at any width. Errors are measured where the map expands least: each step from where descent stands."""
    u, v = np.random.default_rng(n).standard_normal((2, n))
    curvature = float(u @ u + v @ v) / n
    eta = eta_lambda0 / curvature
    run = catapult.two_layer_gd(u, v, eta, 40)
    if eta_lambda0 < 4:
        assert len(run.f) == 41
    f, lam = catapult.step(run.f[:-1], run.curvature[:-1], eta, n)
    scale = np.maximum(1, np.abs(run.f).max())
    np.testing.assert_allclose(f / np.maximum(np.abs(run.f[1:]), scale), run.f[1:] / np.maximum(
        np.abs(run.f[1:]), scale), rtol=0, atol=1e-14)  # fmt: skip
    np.testing.assert_allclose(lam, run.curvature[1:], rtol=1e-13)
    np.testing.assert_array_equal(run.loss, run.f**2 / 2)
    assert run.diverged == (eta_lambda0 > 4)


def test_whole_trajectories_agree():
    """Forty steps through a catapult, from the same start."""
    u, v = np.random.default_rng(0).standard_normal((2, 50))
    eta = 2.6 / float(u @ u + v @ v) * 50
    run = catapult.two_layer_gd(u, v, eta, 40)
    found = catapult.trajectory(run.f[0], run.curvature[0], eta, 50, 40)
    assert run.peak_loss > 3 * run.loss[0]
    np.testing.assert_allclose(found.f, run.f, rtol=0, atol=1e-13 * np.abs(run.f).max())
    np.testing.assert_allclose(found.curvature, run.curvature, rtol=1e-13)
    assert found.peak_step == run.peak_step


def test_gradients_of_the_model():
    """One step of two_layer_gd, against central differences of the loss."""
    u, v = np.random.default_rng(1).standard_normal((2, 5))
    loss = lambda p: (p[:5] @ p[5:]) ** 2 / 10  # noqa: E731
    p = np.concatenate([u, v])
    gradient = [(loss(p + h) - loss(p - h)) / 2e-5 for h in 1e-5 * np.eye(10)]
    q = p - 0.3 * np.array(gradient)
    run = catapult.two_layer_gd(u, v, 0.3, 1)
    np.testing.assert_allclose(run.f[1], q[:5] @ q[5:] / math.sqrt(5), rtol=1e-8)
    np.testing.assert_allclose(run.curvature[1], q @ q / 5, rtol=1e-8)


def test_step_broadcasts_and_overflows_to_infinity():
    f, lam = catapult.step(np.array([[1.0], [1e200]]), [1.0, 2.0], 3.0, 10)
    assert f.shape == lam.shape == (2, 2)
    np.testing.assert_allclose(f[0], [(1 - 3 + 0.9), (1 - 6 + 0.9)], rtol=1e-15)
    np.testing.assert_allclose(lam[0], [1 + 0.3 * (3 - 4), 2 + 0.3 * (6 - 4)], rtol=1e-15)
    assert np.isinf(f[1]).all()


# ---------------------------------------------------------------- phases and numbers of the specification


def test_phases_on_a_grid():
    """From X_0 = 1e-4, eta lambda_0 in steps of 0.01."""
    grid = np.arange(150, 430) / 100
    n = 2.0**26
    start = 1e-4 * math.sqrt(n) / grid
    f, lam = start, np.ones_like(grid)
    monotone, peak = np.ones(len(grid), dtype=bool), np.abs(start)
    with np.errstate(invalid="ignore"):
        for _ in range(20_000):
            new, lam = catapult.step(np.where(np.isfinite(f), f, 1e300), np.minimum(lam, 1e300), grid, n)
            monotone &= np.abs(new) <= np.abs(f)
            f = new
            peak = np.maximum(peak, np.abs(f))
    converged = np.abs(f) < start
    assert (grid[monotone].max(), grid[peak > start].min()) == (2.0, 2.01)
    assert grid[converged].max() == 3.99
    assert grid[np.invert(converged)].min() == 4.0
    assert (grid * lam)[converged].max() <= 2
    found = catapult.phase(grid)
    assert [str(p) for p in found] == ["lazy" if y <= 2 else "catapult" if y < 4 else "divergent" for y in grid]
    assert catapult.phase(3.0) == "catapult"
    assert isinstance(catapult.phase(3.0), str)


@pytest.mark.parametrize("y0", [1.5, 2.0, 2.01, 3.99, 4.01])
def test_runs_on_both_sides_of_the_edges(y0):
    run = from_x(1e-4, y0, 20_000)
    assert run.diverged == (y0 > 4)
    assert (run.peak_loss == math.inf) == run.diverged
    assert (run.peak_step > 0) == (y0 > 2)
    assert np.isfinite([run.f, run.curvature, run.loss]).all()
    if y0 < 4:
        assert len(run.f) == 20_001
        assert run.loss[-1] < run.loss[0]
        assert y0 * run.curvature[-1] <= 2


def test_at_four_the_map_is_bounded_chaos():
    """X' = X^3 - 3 X, and lambda stays."""
    run = catapult.trajectory(1.0, 1.0, 4.0, 1e4, 200)
    x = 4 * run.f / 100
    np.testing.assert_allclose(x[1:], x[:-1] ** 3 - 3 * x[:-1], rtol=0, atol=1e-14)
    np.testing.assert_array_equal(run.curvature, 1.0)
    assert 1.5 < np.abs(x[50:]).max() <= 2


@pytest.mark.parametrize(("y0", "final"), [(2.05, 1.9483), (2.1, 1.8929), (2.3, 1.6279), (2.6, 1.0803)])
def test_final_curvature_of_the_map(y0, final):
    run = from_x(1e-5, y0, 3000)
    assert abs(y0 * run.curvature[-1] - final) < 6e-5
    assert run.loss[-1] < 1e-10 * run.loss[0]


def test_final_curvature_by_averaging():
    """a = u + 2 u^2 / 3, not u - 2 u^2 / 3: errors of the order that the formula claims."""
    y0 = np.array([1.0, 2.0, 2.01, 2.05, 2.1, 2.3, 2.5])
    found = catapult.final_curvature(y0)
    exact = np.array([y * from_x(1e-6, y, 12_000).curvature[-1] for y in y0])
    assert (np.abs(found - exact) < [1e-10, 1e-7, 1e-7, 1e-5, 1e-4, 4e-3, 4e-2]).all()
    u = y0[2:5] - 2
    assert (np.abs(2 - found[2:5] - u - 2 * u**2 / 3) < u**3).all()
    assert isinstance(catapult.final_curvature(2.2), float)
    assert np.abs(exact[2:5] - (4 - y0[2:5])).max() < 0.8 * u.max() ** 2


def test_peak_moves_with_the_logarithm_of_the_width():
    """f doubles each step until f^2 ~ n: increments of log(100) / (2 log 2) = 3.32."""
    peaks = [catapult.trajectory(2.0, 1.0, 3.0, n, 100).peak_step for n in (1e3, 1e5, 1e7, 1e9, 1e11)]
    assert peaks == [3, 6, 10, 13, 16]


def test_bounds_on_strong_catapults():
    """Beyond 2.5 the end depends on the start; it stays between 0 and 2, and lambda never rises."""
    for y0 in (2.7, 3.0, 3.5, 3.9):
        for x0 in (1e-3, 1.3e-3, 1e-5):
            run = from_x(x0, y0, 4000)
            assert 0 <= y0 * run.curvature[-1] < 2
            assert (np.diff(run.curvature) <= 1e-15).all()
            assert (np.abs(y0 * run.f) <= 1e5 * y0 * run.curvature / 2 * (1 + 1e-9)).all()
            assert run.loss[-1] < 1e-6 * run.loss[0]


def test_a_run_that_diverges_stops_in_time():
    run = catapult.trajectory(1.0, 1.0, 4.2, 1e4, 10_000)
    assert run.diverged
    assert run.peak_loss == math.inf
    assert 5 < len(run.f) < 100
    assert np.isfinite([run.f, run.curvature, run.loss]).all()
    assert not catapult.trajectory(0.0, 1.0, 5.0, 1e4, 10).diverged


def test_thresholds():
    """Of a kernel with eigenvalues 1, 2 and 12."""
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))
    found = catapult.thresholds(q @ np.diag([1.0, 12.0, 2.0]) @ q.T)
    np.testing.assert_allclose((found.curvature, *found), (4, 0.5, 1.0), rtol=1e-13)
    np.testing.assert_allclose(tuple(catapult.thresholds(q @ np.diag([1.0, 12.0, 2.0]) @ q.T, m=6)), (1, 2), rtol=1e-13)


# ---------------------------------------------------------------- networks


def data(m=8, d=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, d)), rng.standard_normal(m)


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_two_layer_network_by_differences(activation):
    """Loss, step and curvature of the NumPy network, from the definition alone."""
    x, y = data(5, 3)
    network = catapult.TwoLayer(4, activation)
    run = network.start(np.random.default_rng(1), x, y[:, None])
    draw = np.random.default_rng(1)
    p = np.concatenate([draw.standard_normal((4, 3)).ravel(), draw.standard_normal(4)])

    def outputs(p):
        h = x @ p[:12].reshape(4, 3).T / math.sqrt(3)
        return (np.maximum(h, 0) if activation == "relu" else h) @ p[12:] / 2

    def loss(p):
        return np.sum((outputs(p) - y) ** 2) / 10

    steps = 1e-6 * np.eye(16)
    jacobian = np.array([(outputs(p + h) - outputs(p - h)) / 2e-6 for h in steps])
    gradient = np.array([(loss(p + h) - loss(p - h)) / 2e-6 for h in steps])
    np.testing.assert_allclose(run.loss(), loss(p), rtol=1e-14)
    np.testing.assert_allclose(run.curvature(), np.linalg.eigvalsh(jacobian.T @ jacobian)[-1] / 5, rtol=1e-7)
    run.descend(0.1)
    np.testing.assert_allclose(run.loss(), loss(p - 0.1 * gradient), rtol=1e-7)


def test_scan_of_a_linear_network():
    """Width 1024, m = 8: the three phases of the model, with y != 0."""
    x, y = data()
    grid = [1.0, 1.8, 2.2, 3.0, 3.8, 4.4]
    found = catapult.scan(catapult.TwoLayer(1024, "linear"), x, y, eta_lambda0=grid, steps=400)
    np.testing.assert_allclose(found.eta_lambda0, grid, rtol=1e-14)
    peaks = found.peak_loss / found.initial_loss
    assert (peaks[:2] == 1).all()
    assert (peaks[2:5] > [3, 50, 150]).all()
    assert found.diverged.tolist() == [False] * 5 + [True]
    assert (peaks[5], found.final_loss[5], found.final_curvature[5]) == (math.inf,) * 3
    best = np.mean((x @ np.linalg.lstsq(x, y, rcond=None)[0] - y) ** 2) / 2
    np.testing.assert_allclose(found.final_loss[:5], best, rtol=1e-6)
    ends = found.learning_rates[:5] * found.final_curvature[:5]
    np.testing.assert_allclose(ends[:2], grid[:2], rtol=0.02)
    assert (ends[2:] < 2).all()
    assert [len(losses) for losses in found.losses[:5]] == [401] * 5
    assert len(found.losses[5]) == found.steps[5] < 100
    assert all(np.isfinite(losses).all() for losses in found.losses)
    for losses, peak in zip(found.losses[:5], found.peak_loss[:5], strict=True):
        assert losses.max() == peak


def test_scan_of_a_relu_network():
    """As above up to 3.8; a ReLU network survives 4.4, and every rate with one sample, as units switch off."""
    x, y = data()
    found = catapult.scan(catapult.TwoLayer(1024), x, y, eta_lambda0=[1.0, 1.8, 2.2, 3.0, 3.8, 12.0], steps=500)
    peaks = found.peak_loss / found.initial_loss
    assert (peaks[:2] == 1).all()
    assert (peaks[2:5] > [1.5, 10, 30]).all()
    assert found.diverged.tolist() == [False] * 5 + [True]
    assert (found.final_loss[:5] < 2e-6 * found.initial_loss).all()
    assert (found.learning_rates[:5] * found.final_curvature[:5] < 2).all()
    assert (found.steps[1:5] < 500).all()
    one = catapult.scan(catapult.TwoLayer(1024), x[:1], y[:1], eta_lambda0=[4.4, 16.0], steps=50)
    assert not one.diverged.any()


def test_thresholds_meet_the_infinite_network():
    """lambda_0 of width 4096 against that of the infinite kernel."""
    x, y = data()
    ntk = stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1)).kernel_fn(x, None, "ntk")
    found = catapult.scan(catapult.TwoLayer(4096), x, y, [1e-3], steps=1)
    np.testing.assert_allclose(found.initial_curvature, catapult.thresholds(ntk).curvature, rtol=0.08)


def test_scan_takes_seeds_and_generators():
    x, y = data()
    network = catapult.TwoLayer(8)
    first, same, other = (catapult.scan(network, x, y, [0.1, 0.2], steps=3, rng=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.losses, same.losses)
    assert first.initial_loss != other.initial_loss
    assert first.losses[0][0] == first.losses[1][0]
    rng = np.random.default_rng(5)
    a, b = (catapult.scan(network, x, y, [0.1], steps=3, rng=rng) for _ in range(2))
    assert a.initial_loss != b.initial_loss
    early = catapult.scan(network, x, y, [0.1], steps=300, tolerance=0.7)
    assert early.final_loss[0] < 0.7 * early.initial_loss <= early.losses[0][-2]


@pytest.mark.rivals
def test_scan_of_a_stax_network_is_that_of_numpy():
    """The same two layers through PyTorch: losses and curvatures of a catapult."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    x, y = data()
    network = catapult.TwoLayer(64)
    etas = [0.5, 2.5, 3.5]
    here = catapult.scan(network, x, y, eta_lambda0=etas, steps=60, rng=3)
    # stax draws W (d, n) where TwoLayer draws U (n, d): give it the same numbers.
    draw = np.random.default_rng(3)
    u, v = draw.standard_normal((64, 4)), draw.standard_normal(64)

    class Same(np.random.Generator):
        def standard_normal(self, size=None, *args, **kwargs):
            return (u.T if size == (4, 64) else v[:, None]).reshape(size).copy()

    stack = stax.serial(stax.Dense(64), stax.Relu(), stax.Dense(1))
    params = stack.init_fn(Same(np.random.PCG64(0)), x.shape)[1]
    from fastntk.catapult.networks import _TorchRun

    run = _TorchRun(stack, Same(np.random.PCG64(0)), x, y[:, None])
    np.testing.assert_allclose(run.loss(), here.initial_loss, rtol=1e-13)
    np.testing.assert_allclose(run.curvature(), here.initial_curvature, rtol=1e-12)
    for losses, eta in zip(here.losses, here.learning_rates, strict=True):
        run = _TorchRun(stack, Same(np.random.PCG64(0)), x, y[:, None])
        for loss in losses[1:25]:
            run.descend(float(eta))
            np.testing.assert_allclose(run.loss(), loss, rtol=1e-6)
    assert params[0][0].shape == (4, 64)


@pytest.mark.rivals
def test_scan_of_a_convolutional_network():
    """Several outputs, biases, images: phases, and the kernel's eigenvalue by differences."""
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 5, 5, 2)), rng.standard_normal((4, 2))
    network = stax.serial(stax.Conv(32, (3, 3), b_std=0.3), stax.Relu(), stax.Flatten(), stax.Dense(2))
    found = catapult.scan(network, x, y, eta_lambda0=[1.0, 3.0, 40.0], steps=80, rng=0)
    assert found.peak_loss[0] == found.initial_loss < found.peak_loss[1] < math.inf
    assert found.diverged.tolist() == [False, False, True]
    assert found.learning_rates[1] * found.final_curvature[1] < 2
    _, params = network.init_fn(0, x.shape)
    flat = np.concatenate([p.ravel() for layer in params for p in layer if p is not None])

    def outputs(flat):
        parts, at = [], 0
        for layer in params:
            own = []
            for p in layer:
                own.append(None if p is None else flat[at : at + p.size].reshape(p.shape))
                at += 0 if p is None else p.size
            parts.append(tuple(own))
        return network.apply_fn(tuple(parts), x).ravel()

    jacobian = np.array([(outputs(flat + h) - outputs(flat - h)) / 2e-6 for h in 1e-6 * np.eye(len(flat))])
    np.testing.assert_allclose(found.initial_curvature, np.linalg.eigvalsh(jacobian.T @ jacobian)[-1] / 4, rtol=1e-7)
    # Two outputs of four samples: m is 4.
    np.testing.assert_allclose(
        found.initial_curvature, catapult.thresholds(jacobian.T @ jacobian, m=4).curvature, rtol=1e-7
    )


# ---------------------------------------------------------------- refusals

X, Y = data()
NET = catapult.TwoLayer(4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: catapult.trajectory(100.0, 1.0, 1.0, 100, 5), r"no network of width 100 has lambda0 = 1 and \|f0\|"),
        (lambda: catapult.trajectory(1.0, 1.0, 1.0, 0, 5), "n must be positive, given 0"),
        (lambda: catapult.trajectory(1.0, 1.0, -1.0, 10, 5), "eta must be positive, given -1"),
        (lambda: catapult.trajectory(1.0, np.nan, 1.0, 10, 5), "lambda0 must be finite, given nan"),
        (lambda: catapult.trajectory(np.inf, 1.0, 1.0, 10, 5), "f0 must be finite, given inf"),
        (lambda: catapult.trajectory(1.0, 1.0, 1.0, 10, -5), "steps must be at least"),
        (lambda: catapult.step(1.0, 1.0, 0.0, 10), "eta and n must be positive"),
        (lambda: catapult.step(1.0, 1.0, 1.0, 0), "eta and n must be positive"),
        (lambda: catapult.step(1.0, -1.0, 1.0, 10), "curvature must not be negative, and nothing NaN"),
        (lambda: catapult.step(np.nan, 1.0, 1.0, 10), "nothing NaN"),
        (lambda: catapult.two_layer_gd([1.0, 2.0], [1.0], 0.1, 5), r"of one length, given shapes \(2,\), \(1,\)"),
        (lambda: catapult.two_layer_gd([], [], 0.1, 5), "u and v must be finite vectors"),
        (lambda: catapult.two_layer_gd([np.nan], [1.0], 0.1, 5), "u and v must be finite vectors"),
        (lambda: catapult.phase([1.0, 0.0]), "eta_lambda0 must be positive and finite"),
        (lambda: catapult.phase(np.inf), "eta_lambda0 must be positive and finite"),
        (lambda: catapult.final_curvature(2.7), r"eta_lambda0 must lie in \(0, 2.5\], given 2.7"),
        (lambda: catapult.thresholds(np.ones((2, 3))), r"ntk must be a square matrix, given shape \(2, 3\)"),
        (lambda: catapult.thresholds(np.array([[1.0, 2.0], [0.0, 1.0]])), "ntk must be finite and symmetric"),
        (lambda: catapult.thresholds(np.zeros((2, 2))), "no positive eigenvalue"),
        (lambda: catapult.thresholds(np.eye(2), m=0), "m must be at least 1"),
        (lambda: catapult.TwoLayer(0), "width must be at least 1, given 0"),
        (lambda: catapult.TwoLayer(4, "tanh"), "activation must be 'relu' or 'linear', given 'tanh'"),
        (lambda: catapult.scan(NET, X, Y[:3], [0.1]), r"x \(m, ...\) and y \(m,\) or \(m, k\) are due"),
        (lambda: catapult.scan(NET, X[:, 0], Y, [0.1]), r"x \(m, ...\) and y"),
        (lambda: catapult.scan(NET, X[:, :, None], Y, [0.1]), r"TwoLayer takes x \(m, d\), given \(8, 4, 1\)"),
        (lambda: catapult.scan(NET, X, np.stack([Y, Y], 1), [0.1]), "has one output, given targets of shape"),
        (lambda: catapult.scan(NET, X * np.nan, Y, [0.1]), "x and y must be finite"),
        (lambda: catapult.scan(NET, X, Y, [0.1, 0.0]), "learning rates must be a vector of positive numbers"),
        (lambda: catapult.scan(NET, X, Y, 0.1), "learning rates must be a vector of positive numbers"),
        (lambda: catapult.scan(NET, 0 * X, 0 * Y, [0.1]), "starts at loss 0 and curvature 0: there is nothing"),
    ],
)  # fmt: skip
def test_refused_values(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: catapult.scan("net", X, Y, [0.1]), "must be a TwoLayer or a network of stax, given str"),
        (lambda: catapult.scan(NET, X, Y), "takes exactly one of learning_rates and eta_lambda0"),
        (lambda: catapult.scan(NET, X, Y, [0.1], eta_lambda0=[1.0]), "takes exactly one of learning_rates"),
        (lambda: catapult.scan(NET, X, Y, [0.1], rng="seed"), "rng must be an integer, given 'seed'"),
        (lambda: catapult.trajectory("x", 1.0, 1.0, 10, 5), "f0 must be a number, given str"),
        (lambda: catapult.trajectory(1.0, 1.0, 1.0, 10, 2.5), "steps must be an integer, given 2.5"),
    ],
)
def test_refused_types(call, words):
    with pytest.raises(TypeError, match=words):
        call()


def test_scan_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install 'fastntk\[torch\]'"):
        catapult.scan(stax.serial(stax.Dense(1)), X, Y, [0.1])
