"""predict.gradient_descent_mse_ensemble: against loops, draws of starts, trained networks, kernels given whole."""

from __future__ import annotations

import tracemalloc

import fake_cupy
import numpy as np
import pytest
from fastntk import predict, show_config, stax
from golden.predict_cases import Lookup
from predict_inputs import Kernels, draw, gram, network, same, tiled, warned
from scipy.linalg import expm

Dense, Erf, Relu, serial = stax.Dense, stax.Erf, stax.Relu, stax.serial

N, M = 8, 5
WHOLE = Kernels(gram(N + M, seed=1), gram(N + M, seed=2))
TRAIN, TEST = np.arange(N)[:, None], np.arange(N, N + M)[:, None]
Y = draw(N, 2)
K, THETA = (k[:N, :N] for k in WHOLE)
K_TEST, THETA_TEST = (k[N:, :N] for k in WHOLE)


def ensemble(*args, **kwargs):
    return predict.gradient_descent_mse_ensemble(Lookup(WHOLE), TRAIN, Y, *args, **kwargs)


def moments(response: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Covariance of the outputs: ``response`` maps starts at all points to outputs at all points."""
    return response @ prior @ response.T


# ---------------------------------------------------------------- what the numbers are


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("g", ["nngp", "ntk"])
def test_linear_maps_of_the_start(g, discrete):
    """Training acts on outputs as a linear map of start and targets, found here by steps or one matrix exponential."""
    theta = getattr(WHOLE, g)
    rate = 0.4 * predict.max_learning_rate(theta[:N, :N], Y.size)
    forces = np.zeros((N + M, N + M))
    forces[:, :N] = -rate / Y.size * theta[:, :N]
    f = ensemble(rate, discrete=discrete)
    times = [0, 1, 2, 9]
    test, train = f(times, TEST, g, compute_cov=True), f(times, None, g, compute_cov=True)
    for at, t in enumerate(times):
        response = np.linalg.matrix_power(np.eye(N + M) + forces, t) if discrete else expm(forces * t)
        mean = (np.eye(N + M) - response)[:, :N] @ Y
        same(train.mean[at], mean[:N])
        same(test.mean[at], mean[N:])
        if g == "ntk" or t == 0:
            covariance = moments(response, WHOLE.nngp)
            same(train.covariance[at], covariance[:N, :N])
            same(test.covariance[at], covariance[N:, N:])
        else:  # the last layer alone: the start's own covariance moves with the same kernel
            same(test.covariance[at], moments(response, WHOLE.nngp)[N:, N:])
            same(train.covariance[at], moments(response, WHOLE.nngp)[:N, :N])


def test_average_over_starts():
    """Starts drawn from the prior, each trained: their mean and covariance are the ensemble's, within 4 errors."""
    draws, t = 20_000, 6.0
    mean, covariance = ensemble(1.0)(t, TEST, "ntk", True)
    root = np.linalg.cholesky(WHOLE.nngp)
    starts = root @ np.random.default_rng(0).standard_normal((N + M, draws))
    # Each draw is an output of its own: |Y| counts them all, so steps are longer by as much.
    f = predict.gradient_descent_mse(THETA, np.repeat(Y[:, :1], draws, axis=1), draws / 2)
    found = f(t, starts[:N], starts[N:], THETA_TEST)[1]
    error = np.sqrt(np.diag(covariance) / draws)
    assert np.max(np.abs(found.mean(axis=1) - mean[:, 0]) / error) < 4
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2)
    assert np.max(np.abs(np.cov(found) - covariance) / scale) < 4 / np.sqrt(draws)


def test_without_end_it_is_exact_inference():
    whole = Kernels(*(k[:N, :N] for k in WHOLE)), Kernels(K_TEST, THETA_TEST), Kernels(*(k[N:, N:] for k in WHOLE))
    expected = predict.gp_inference(whole[0], Y, 1e-3)(None, *whole[1:])
    f = ensemble(1.0, 1e-3)
    for t in (None, np.inf, 1e200):
        for a, b in zip(f(t, TEST, compute_cov=True), expected, strict=True):
            same(a.mean, b.mean)
            same(a.covariance, b.covariance)
    for g in f(None, None, compute_cov=True):
        assert np.array_equal(g.mean, Y)
        assert np.array_equal(g.covariance, np.zeros((N, N)))
    found = f(None, TRAIN, "nngp")
    same(found, K @ np.linalg.solve(K + 1e-3 * np.diag(K).mean() * np.eye(N), Y))


def test_variances_fall_and_covariances_stay_positive():
    f = ensemble(1.0)
    times = np.array([0.0, 0.5, 3.0, 50.0, np.inf])
    for x in (None, TEST):
        nngp, ntk = f(times, x, compute_cov=True)
        assert np.all(np.diff(np.trace(nngp.covariance, axis1=1, axis2=2)) < 0)
        for g in (nngp, ntk):
            assert np.array_equal(g.covariance, g.covariance.swapaxes(1, 2))
            assert np.min(np.linalg.eigvalsh(g.covariance)) > -1e-14
        alone = f(times, x, compute_cov="diagonal")
        for a, b in zip(alone, (nngp, ntk), strict=True):
            assert a.covariance.shape == b.mean.shape[:2]
            same(a.covariance, np.diagonal(b.covariance, axis1=1, axis2=2), 1e-14)
            same(a.mean, b.mean, 1e-14)
        same(f(times[0], x, "ntk", True).covariance, WHOLE.nngp[:N, :N] if x is None else WHOLE.nngp[N:, N:], 1e-14)
    assert np.array_equal(f(None, None, "ntk", "diagonal").covariance, np.zeros(N))


def test_steps_beyond_the_largest_rate_are_warned_of():
    rate = 1.5 * predict.max_learning_rate(THETA, Y.size)
    f = ensemble(rate, discrete=True)
    for x in (None, TEST):
        found, caught = warned(lambda x=x: f(3, x, "ntk", True))
        assert {c.category for c in caught} == {RuntimeWarning}
        assert np.isfinite(found.covariance).all()
    with pytest.raises(ValueError, match=r"\[gradient_descent_mse_ensemble\] steps at .* have no limit"):
        f(None, TEST, "ntk")


# ---------------------------------------------------------------- kernel functions of all kinds


def check_against_kernels(kernel_fn, x, x_test, y, budget, trace_axes=(-1,)) -> None:
    """Tiles against exact inference on kernels computed whole."""
    names = ("nngp", "ntk")
    whole = kernel_fn(x, None, names), kernel_fn(x_test, x, names), kernel_fn(x_test, None, names)
    expected = predict.gp_inference(whole[0], y, 1e-2, trace_axes=trace_axes)(names, *whole[1:])
    f = predict.gradient_descent_mse_ensemble(
        kernel_fn, x, y, diag_reg=1e-2, trace_axes=trace_axes, memory_budget=budget
    )
    for a, b in zip(f(None, x_test, names, True), expected, strict=True):
        same(a.mean, b.mean)
        same(a.covariance, b.covariance)
    for wrapped in (kernel_fn, lambda *args, **kwargs: kernel_fn(*args, **kwargs)):
        f = predict.gradient_descent_mse_ensemble(
            wrapped, x, y, diag_reg=1e-2, trace_axes=trace_axes, memory_budget=2**26
        )
        for a, b in zip(f(None, x_test, names, "diagonal"), expected, strict=True):
            pairs = b.covariance
            for _ in range(b.covariance.ndim // 2):
                pairs = np.diagonal(pairs, axis1=0, axis2=1)  # moves to the end: the axes keep their order
            same(a.covariance, pairs)


def test_networks_of_images():
    net = serial(stax.Conv(1, (3, 3), padding="SAME", W_std=1.4, b_std=0.1), Relu(), stax.Flatten(), Dense(1))
    check_against_kernels(net.kernel_fn, draw(6, 4, 3, 2), draw(7, 4, 3, 2, seed=4), draw(6, 2), 4_000)


def test_networks_that_end_with_positions():
    net = serial(stax.Conv(1, (3, 2), padding="SAME", W_std=1.4, b_std=0.1), Erf(), Dense(1, 1.2, 0.1))
    check_against_kernels(net.kernel_fn, draw(4, 3, 2, 2), draw(5, 3, 2, 2, seed=4), draw(4, 3, 2, 2), 60_000)


def test_networks_of_two_inputs():
    net = serial(
        stax.parallel(serial(Dense(1, 1.3, 0.1), Erf()), serial(Dense(1, 0.8), Erf())),
        stax.parallel(Dense(1), Dense(1, 0.5, 0.2)),
        stax.FanInSum(),
    )
    x, x_test = (draw(6, 3), draw(6, 2, seed=5)), (draw(7, 3, seed=6), draw(7, 2, seed=7))
    check_against_kernels(net.kernel_fn, x, x_test, draw(6, 2), 6_000)


def test_samples_along_the_networks_batch_axis():
    def dense():
        return Dense(1, 1.4, 0.1, batch_axis=1, channel_axis=0)

    plain = serial(Dense(1, 1.4, 0.1), Erf(), Dense(1, 1.4, 0.1)).kernel_fn
    x, x_test, y = draw(6, 3), draw(7, 3, seed=4), draw(6, 2)
    f = predict.gradient_descent_mse_ensemble(serial(dense(), Erf(), dense()).kernel_fn, x.T, y, memory_budget=6_000)
    expected = predict.gradient_descent_mse_ensemble(plain, x, y)(2.0, x_test, "ntk", True)
    for a, b in zip(f(2.0, x_test.T, "ntk", True), expected, strict=True):
        same(a, b)


def test_inputs_that_convert_to_arrays():
    """Lists, frames and tensors, whole and cut into tiles."""
    pandas, torch = pytest.importorskip("pandas"), pytest.importorskip("torch")
    make, x_test = tiled(12, 7)
    wanted = make(2**28)(2.0, x_test, "ntk", True)
    x, y = draw(12, 4), draw(12, 2)
    for convert in (np.ndarray.tolist, pandas.DataFrame, torch.from_numpy):
        for budget in (2**28, 4_000):
            f = predict.gradient_descent_mse_ensemble(
                network().kernel_fn, convert(x), y, 1.0, 1e-2, memory_budget=budget
            )
            found = f(2.0, convert(x_test), "ntk", True)
            assert isinstance(found.mean, np.ndarray)
            same(found.mean, wanted.mean)
            same(found.covariance, wanted.covariance)


def test_kernels_are_asked_for_once_and_only_as_needed():
    calls = []

    def kernel_fn(x1, x2, get, **kwargs):
        calls.append((len(x1), None if x2 is None else len(x2), get))
        return Lookup(WHOLE)(x1, x2, get)

    f = predict.gradient_descent_mse_ensemble(kernel_fn, TRAIN, Y)
    f(1.0, TEST, "nngp")
    f(2.0, TEST, "ntk")
    f(None, TEST, "ntk", True)
    f(None, None, ("ntk", "nngp"), True)
    names = ("nngp", "ntk")
    assert calls == [
        (N, None, "nngp"), (M, N, "nngp"), (N, None, "ntk"), (M, N, "ntk"), (M, N, names), (M, M, "nngp"),
    ]  # fmt: skip
    calls.clear()
    wide = predict.gradient_descent_mse_ensemble(kernel_fn, TRAIN, Y)(1.0, TEST, None, "diagonal")
    assert calls[:2] == [(N, None, names), (M, N, names)]
    assert wide.ntk.covariance.shape == (M,)


def test_arguments_of_the_kernel_function():
    """Passed on; pairs of arrays are put together for both sides, and cut with the samples."""
    seen = []

    def kernel_fn(x1, x2, get, scale=1.0, marks=None):
        seen.append(scale)
        if marks is not None:
            assert np.array_equal(marks[0], x1[:, 0])
            assert np.array_equal(marks[1], (x1 if x2 is None else x2)[:, 0])
        k = Lookup(WHOLE)(x1, x2, get)
        return k * scale if isinstance(get, str) else Kernels(*(part * scale for part in k))

    f = predict.gradient_descent_mse_ensemble(kernel_fn, TRAIN, Y, scale=4.0, memory_budget=5_000)
    expected = ensemble()(None, TEST, "nngp", True)
    found = f(None, TEST, "nngp", True)
    same(found.mean, expected.mean)
    same(found.covariance, 4 * expected.covariance)
    assert set(seen) == {4.0}
    f(None, TEST, "nngp", True, scale=4.0)
    with pytest.raises(ValueError, match=r"scale is 2\.0 for test points and 4\.0 for training points"):
        f(None, TEST, "nngp", scale=2.0)
    with pytest.raises(ValueError, match="marks is given for test points and not for training points"):
        f(None, TEST, "nngp", marks=3)
    marks, marks_test = (TRAIN[:, 0], TRAIN[:, 0]), (TEST[:, 0], TEST[:, 0])
    f = predict.gradient_descent_mse_ensemble(kernel_fn, TRAIN, Y, marks=marks, memory_budget=2_500)
    same(f(None, TEST, "nngp", True, marks=marks_test).covariance, expected.covariance)
    same(f(None, TEST, "nngp", "diagonal", marks=marks_test).covariance, np.diag(expected.covariance))


def test_variances_of_our_networks_come_from_their_diagonal(monkeypatch):
    seen = []
    own = type(network().kernel_fn)
    diagonal = own.diagonal
    monkeypatch.setattr(
        own, "diagonal", lambda self, *args, **kwargs: seen.append(kwargs) or diagonal(self, *args, **kwargs)
    )
    for kwargs in ({}, {"num_threads": 1}):
        f = predict.gradient_descent_mse_ensemble(network().kernel_fn, draw(6, 3), draw(6, 1), **kwargs)
        assert f(1.0, draw(3, 3, seed=4), "ntk", "diagonal").covariance.shape == (3,)
    assert seen == [{}, {"num_threads": 1}]


def parts(found):
    """Arrays of a result: of a Gaussian, a named tuple, or itself."""
    return [a for part in found for a in parts(part)] if isinstance(found, tuple) else [found]


ASKED = [(None, "test", "nngp", "diagonal"), (None, "test", None, True), ([0.0, 3.0], "test", None, True),
         (None, None, "nngp", True), ([3.0], None, "ntk", True)]  # fmt: skip


@pytest.mark.parametrize("first", range(len(ASKED)))
def test_the_factor_in_the_place_of_the_kernel(first):
    """Where both share an array nothing that is asked for changes, in whatever order."""
    kernel_fn, x, y = network().kernel_fn, draw(20, 3), draw(20, 2, seed=1)
    points = {"test": draw(4, 3, seed=2), None: None}
    ours = predict.gradient_descent_mse_ensemble(kernel_fn, x, y, diag_reg=1e-3)
    for t, where, get, covariance in (*ASKED[first:], *ASKED[:first]):
        other = predict.gradient_descent_mse_ensemble(lambda *a: kernel_fn(*a), x, y, diag_reg=1e-3)
        call = (t, points[where], get, covariance)
        for found, wanted in zip(parts(ours(*call)), parts(other(*call)), strict=True):
            same(found, wanted)


@pytest.mark.parametrize("case", ["ours", "float32", "somebody's"])
def test_memory_of_factor_and_kernel(case):
    """One array for both where nobody else has it and no digit would be lost."""
    if show_config(mode="dict")["backend"] == "numpy":
        pytest.skip("backend numpy takes more than both for the kernel")
    n, kernel_fn = 1000, network().kernel_fn
    x = draw(n, 3).astype("float32" if case == "float32" else "float64")
    kernels = (lambda *a: kernel_fn(*a)) if case == "somebody's" else kernel_fn
    f = predict.gradient_descent_mse_ensemble(kernels, x, draw(n, 1, seed=1), diag_reg=1e-3)
    tracemalloc.start()
    f(None, x[:2], "nngp")
    peak = tracemalloc.get_traced_memory()[1] / (8 * n * n)
    tracemalloc.stop()
    assert (peak < 1.3) == (case == "ours"), peak


def test_draws_after_long_training():
    """What is left of the covariance is rounding; the Gaussian says so."""
    for x in (TRAIN, None):
        for g in ensemble(1.0)(1e5, x, compute_cov=True):
            assert 0 < g.rounding < 1e-10
            same(predict.sample(g, 3, 0), np.broadcast_to(Y, (3, N, 2)), 1e-6)


def test_float32_inputs_give_float32_results():
    make, x_test = tiled(20, 7, "float32")
    f = make(2**20)
    for t in (None, [1.0, 5.0]):
        for g in f(t, x_test, None, True):
            assert {g.mean.dtype, g.covariance.dtype} == {np.dtype(np.float32)}
            assert np.array_equal(g.covariance, g.covariance.swapaxes(-1, -2))
        assert f(t, None, "ntk").dtype == np.float32


def test_conditioning_by_kernel():
    f = ensemble(1.0, 1e-3)
    assert f.conditioning == {}
    found = f(1.0, TEST, "ntk", True)
    assert f.conditioning == {"ntk": found.conditioning}
    assert set(f(None, TEST, None, True)._fields) == set(f.conditioning) == {"nngp", "ntk"}


def test_arrays_of_cupy(monkeypatch):
    """Every predictor on arrays that refuse to become NumPy's."""
    cupy = fake_cupy.install(monkeypatch)

    def everything(convert):
        whole = Lookup(WHOLE)

        def kernel_fn(x1, x2, get):
            found = whole(x1, x2, get)
            return convert(found) if isinstance(get, str) else type(found)(*map(convert, found))

        k, cross, own = (kernel_fn(a, b, ("nngp", "ntk")) for a, b in ((TRAIN, None), (TEST, TRAIN), (TEST, None)))
        results = []
        for discrete in (False, True):
            f = predict.gradient_descent_mse(k.ntk, convert(Y), 0.5, 1e-3, discrete=discrete)
            g = predict.gradient_descent_mse_ensemble(kernel_fn, TRAIN, convert(Y), 0.5, 1e-3, discrete=discrete)
            for t in (None, 3.0, [1.0, np.inf]):
                results += f(t, 0.0, convert(draw(M, 2)), cross.ntk)
                results += [g(t, x, None, c) for x in (None, TEST) for c in (False, True, "diagonal")]
        gp = predict.gp_inference(k, convert(Y))
        results += [gp(None, cross, own), gp(("ntkgp", "nngp"))]
        results += [predict.sample(results[-2].ntk, 3, 0), convert(np.array(predict.max_learning_rate(k.ntk)))]
        return results

    def flat(result):
        return [part for each in result for part in flat(each)] if isinstance(result, (tuple, list)) else [result]

    found, expected = flat(everything(cupy.asarray)), flat(everything(np.asarray))
    for a, b in zip(found, expected, strict=True):
        assert isinstance(a, fake_cupy.ndarray)
        assert a.get().shape == b.shape
        same(a.get(), b)


# ---------------------------------------------------------------- what is refused

REFUSED = [
    (lambda: predict.gradient_descent_mse_ensemble(None, TRAIN, Y), TypeError, "kernel_fn must be callable, given N"),
    (lambda: predict.gradient_descent_mse_ensemble(Lookup(WHOLE), None, Y), TypeError, "x_train must be an a"),
    (lambda: ensemble(memory_budget=0), ValueError, "memory_budget must be a positive number of bytes, given 0"),
    (lambda: ensemble(progress=1), TypeError, "progress must be True or False, given 1"),
    (lambda: ensemble(-1.0), ValueError, "learning_rate must be finite and positive, given -1.0"),
    (lambda: ensemble(1.0, np.nan)(1.0), ValueError, "diag_reg must be finite and not negative, given nan"),
    (lambda: ensemble()(-1.0), ValueError, "t must not be negative or NaN, given -1.0"),
    (lambda: ensemble()(1.0, TEST, "ntkgp"), ValueError, "get must be one of ('nngp', 'ntk')"),
    (lambda: ensemble()(1.0, TEST, None, "full"), ValueError, "compute_cov must be True, False or 'diagonal'"),
    (lambda: ensemble()(1.0, 3.0), TypeError, "x_test must be an array of samples or a tuple of them, given float"),
    (
        lambda: predict.gradient_descent_mse_ensemble(lambda *a: WHOLE.nngp, TRAIN, Y)(1.0, None, "nngp"),
        ValueError, "the nngp of kernel_fn(x_train) has shape (13, 13)",
    ),
    (
        lambda: predict.gradient_descent_mse_ensemble(lambda *a: None, TRAIN, Y)(1.0, None, "nngp"),
        TypeError, "kernel_fn was asked for ('nngp',) and gave NoneType",
    ),
    (
        lambda: predict.gradient_descent_mse_ensemble(lambda *a: WHOLE.nngp[:N, :N], TRAIN, Y)(1.0, TEST, "nngp"),
        ValueError, "has test rows (8,), expected (5,): x_test must have the samples' axis",
    ),
    (
        lambda: predict.gradient_descent_mse_ensemble(network().kernel_fn, draw(8, 3), Y)(1.0, np.full((2, 3), np.nan)),
        ValueError, "that kernel_fn gave for test points is not finite",
    ),
    (
        lambda: predict.gradient_descent_mse_ensemble(network().kernel_fn, np.full((8, 3), np.nan), Y)(1.0),
        ValueError, "the kernel of the training points is not finite",
    ),
]  # fmt: skip


@pytest.mark.parametrize("k", range(len(REFUSED)))
def test_refused(k):
    call, error, words = REFUSED[k]
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert words in str(caught.value)
    assert str(caught.value).startswith("[gradient_descent_mse_ensemble]")


# ---------------------------------------------------------------- finite networks, trained


@pytest.mark.rivals
def test_trained_networks():
    """40 networks of width 512, each trained by 80 full steps in PyTorch: mean and spread within 2.5 errors."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    count, steps = 40, 80
    net = serial(Dense(512, 1.5, 0.1), Erf(), Dense(512, 1.5, 0.1), Erf(), Dense(1, 1.5, 0.1))
    x, x_test = draw(12, 4, seed=1), draw(5, 4, seed=2)
    y = np.sin(x[:, :1]) + 0.5 * x[:, 1:2]
    rate = 0.5 * predict.max_learning_rate(net.kernel_fn(x, None, "ntk"), y.size)
    f = predict.gradient_descent_mse_ensemble(net.kernel_fn, x, y, rate, discrete=True)
    mean, variance = f(steps, x_test, "ntk", "diagonal")

    rng = np.random.default_rng(3)
    drawn = [net.init_fn(rng, x.shape, np.float32)[1] for _ in range(count)]
    # Layer by layer, the weights of all networks: (count, fan_in, fan_out), biases (count, 1, fan_out).
    layers = [
        tuple(torch.from_numpy(np.stack([params[k][part] for params in drawn])).requires_grad_() for part in range(2))
        for k in (0, 2, 4)
    ]
    leaves = [leaf for layer in layers for leaf in layer]

    def forward(points):
        z = torch.from_numpy(points.astype(np.float32)).expand(count, -1, -1)
        for k, (W, b) in enumerate(layers):
            z = torch.baddbmm(0.1 * b, torch.erf(z) if k else z, W, alpha=1.5 / W.shape[1] ** 0.5)
        return z

    same(forward(x_test)[0].detach().numpy(), net.apply_fn(drawn[0], x_test.astype(np.float32)), 1e-4)
    targets = torch.from_numpy(y.astype(np.float32))
    for _ in range(steps):
        loss = ((forward(x) - targets) ** 2).sum() / (2 * y.size)
        for leaf, slope in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
            leaf.data.add_(slope, alpha=-rate)
    found = forward(x_test).detach().numpy()[:, :, 0].astype(float)
    error = np.sqrt(variance / count)
    assert np.max(np.abs(found.mean(axis=0) - mean[:, 0]) / error) < 2.5
    assert np.max(np.abs(found.std(axis=0, ddof=1) - np.sqrt(variance)) / error) < 2.5
    assert np.max(np.abs(mean[:, 0])) > 3 * np.max(error)  # there is something to see
