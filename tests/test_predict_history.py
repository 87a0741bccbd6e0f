"""What a predictor answers depends neither on what it was asked before nor on what becomes of what it was given."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fastntk import predict, stax
from fastntk.predict import IndefiniteError
from predict_inputs import Kernels, draw, network

N, M = 24, 5


def leaves(found) -> list[np.ndarray]:
    """The arrays of a result: of a tuple of results, a Gaussian, a state, or itself."""
    if found is None:
        return []
    if isinstance(found, predict.ODEState):
        found = (found.fx_train, found.fx_test, found.qx_train, found.qx_test)
    return [leaf for part in found for leaf in leaves(part)] if isinstance(found, tuple) else [np.asarray(found)]


def check_same(found, wanted, said) -> None:
    found, wanted = leaves(found), leaves(wanted)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b), said


def check_sequences(make, calls, pairs, shuffles: int = 4) -> None:
    """Calls ``(args, kwargs)`` on one predictor, in pairs and in shuffled sequences, against a fresh one each."""
    wanted = {repr(call): make()(*call[0], **call[1]) for call in calls}
    rng = np.random.default_rng(0)
    orders = [[calls[k] for k in rng.permutation(len(calls))] for _ in range(shuffles)]
    for order in (*itertools.permutations(pairs, 2), *orders):
        f = make()
        for call in order:
            check_same(f(*call[0], **call[1]), wanted[repr(call)], [c for c in order if c is not None])


def points(dtype: str = "float64") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return draw(N, 3).astype(dtype), draw(M, 3, seed=1).astype(dtype), draw(N, 2, seed=2)


def kernels(dtype: str = "float64") -> tuple[Kernels, Kernels, Kernels]:
    """Of training points, across, of test points."""
    x, x_test, _ = points(dtype)
    names, kernel_fn = ("nngp", "ntk"), network().kernel_fn
    return tuple(Kernels(*kernel_fn(a, b, names)) for a, b in ((x, None), (x_test, x), (x_test, None)))


GETS = ("nngp", "ntk", ("nngp", "ntk"), ("ntk", "nngp"), None)


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize(("whose", "dtype"), [("ours", "float64"), ("ours", "float32"), ("another's", "float64")])
def test_an_ensemble_of_any_history(whose, dtype, discrete):
    x, x_test, y = points(dtype)
    kernel_fn = network().kernel_fn

    def make():
        fn = kernel_fn if whose == "ours" else lambda *args: kernel_fn(*args)
        return predict.gradient_descent_mse_ensemble(fn, x, y, 0.1, 1e-3, discrete=discrete)

    times = (None, 3.0, [0.0, 40.0])
    calls = [
        ((t, where, get, cov), {})
        for t in times for where in (None, x_test) for get in GETS for cov in (False, True, "diagonal")
    ]  # fmt: skip
    some = [call for call in calls if call[0][0] != 3.0 and call[0][1] is not None and call[0][3] != "diagonal"]
    check_sequences(make, calls, some)


@pytest.mark.parametrize("kind", ["both", "one", "float32"])
def test_exact_inference_of_any_history(kind):
    (k, cross, own), (_, _, y) = kernels("float32" if kind == "float32" else "float64"), points()
    own_variances = Kernels(*(np.diag(part).copy() for part in own))
    if kind == "one":
        k, cross, own, own_variances = (part.ntk for part in (k, cross, own, own_variances))
    gets = ("nngp", "ntk", "ntkgp", ("nngp", "ntk", "ntkgp"), ("ntkgp", "ntk"), ("ntk", "nngp"))
    alone = [g for g in gets if kind != "one" or "ntk" not in (g if isinstance(g, tuple) else (g,))]
    calls = [((g, where), {}) for g in gets for where in (None, cross)]
    calls += [((g, cross, prior), {}) for g in alone for prior in (own, own_variances)]
    check_sequences(lambda: predict.gp_inference(k, y, 1e-3), calls, calls)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("discrete", [False, True])
def test_descent_of_any_history(discrete, dtype):
    (k, cross, _), (_, _, y) = kernels(dtype), points()
    starts, there = (0.0, draw(N, 2, seed=6)), draw(M, 2, seed=7)
    calls = [
        ((t, first, test, None if test is None else cross.ntk), {})
        for t in (None, 0.0, [2.0, 50.0, np.inf]) for first in (None, *starts) for test in (None, 0.0, there)
        if first is not None or test is not None
    ]  # fmt: skip
    check_sequences(lambda: predict.gradient_descent_mse(k.ntk, y, 0.1, 1e-3, discrete=discrete), calls, calls)


def test_flows_of_any_history():
    (k, cross, _), (_, _, y) = kernels(), points()
    for momentum in (None, 0.5):
        calls = [
            ((t, first, test, None if test is None else cross.ntk), {})
            for t in (0.5, [3.0, 1.0]) for first in (0.0, 1.0, predict.ODEState(0.5)) for test in (None, 0.0)
            if test is None or not isinstance(first, predict.ODEState)
        ]  # fmt: skip
        check_sequences(lambda m=momentum: predict.gradient_descent("mse", k.ntk, y, 0.1, m), calls, calls, 1)


def test_approximations_of_any_history():
    x, x_test, y = points()
    kernel_fn = network().kernel_fn
    calls = [((where,), {}) for where in (x_test, x, x[:1])]
    check_sequences(lambda: predict.conjugate_gradient(kernel_fn, x, y, diag_reg=1e-2), calls, calls)
    calls += [((where,), {"compute_cov": "diagonal"}) for where in (x_test, x, x[:1])]
    check_sequences(lambda: predict.nystrom(kernel_fn, x, y, 9, diag_reg=1e-2), calls, calls)


def test_draws_leave_a_gaussian_as_it_is():
    (k, cross, own), (_, _, y) = kernels(), points()
    gaussian = predict.gp_inference(k, y, 1e-3)("nngp", cross, own)
    first = predict.sample(gaussian, 3, 0)
    before = leaves(gaussian)
    for n in (1, 7, 3):
        found = predict.sample(gaussian, n, 0)
    check_same(found, first, "draws")
    check_same(gaussian, tuple(part.copy() for part in before), "the Gaussian")


def test_kernels_that_are_not_quite_symmetric():
    """One triangle counts, whatever is asked for first."""
    (k, cross, own), (_, _, y) = kernels(), points()
    k = Kernels(*(part + 1e-14 * np.triu(draw(N, N), 1) for part in k))
    gets = ("nngp", "ntk", "ntkgp", ("ntk", "nngp"))
    calls = [((g, cross, own), {}) for g in gets]
    check_sequences(lambda: predict.gp_inference(k, y, 1e-3), calls, calls)
    steps = [((t, 0.0, 0.0, cross.ntk), {}) for t in (None, 3.0)]
    check_sequences(lambda: predict.gradient_descent_mse(k.ntk, y, 0.1, 1e-3), steps, steps)


def test_calls_from_several_threads():
    """One predictor, asked for different things at once: no call sees a factor in the place of a kernel."""
    x, x_test, y = draw(150, 3), draw(M, 3, seed=1), draw(150, 1, seed=2)
    kernel_fn = network().kernel_fn

    def make():
        return predict.gradient_descent_mse_ensemble(kernel_fn, x, y, 0.1, 1e-3)

    calls = [(None, x_test, get, True) for get in ("nngp", "ntk", ("ntk", "nngp"))]
    calls += [(5.0, x_test, "ntk", True), (5.0, None, "nngp", True)]
    wanted = [make()(*call) for call in calls]
    with ThreadPoolExecutor(5) as pool:
        for _ in range(10):
            f = make()
            for found, right in zip(pool.map(lambda call, f=f: f(*call), calls), wanted, strict=True):
                for a, b in zip(leaves(found), leaves(right), strict=True):
                    np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)


def test_an_error_leaves_the_kernel_as_it_was():
    """Refused once, refused again, and other kernels of the predictor are as good as ever."""
    (k, cross, own), (_, _, y) = kernels(), points()
    broken = k.ntk - 0.5 * np.diag(k.ntk).mean() * np.eye(N)
    f = predict.gp_inference(Kernels(k.nngp, broken), y, 1e-3)
    said = []
    for _ in range(3):
        with pytest.raises(IndefiniteError) as caught:
            f("ntkgp", cross, own)
        said.append(str(caught.value))
    assert len(set(said)) == 1
    check_same(f("nngp", cross, own), predict.gp_inference(k, y, 1e-3)("nngp", cross, own), "the other kernel")
    one = predict.gradient_descent_mse(broken, y)
    for t in (None, 1.0, None):
        with pytest.raises(IndefiniteError):
            one(t, 0.0, 0.0, cross.ntk)


# ---------------------------------------------------------------- what was given, changed afterwards


def given():
    """By name: what a predictor is made of (arrays, to be changed), how, and what it is then asked."""
    x, x_test, y = points()
    k, cross, own = kernels()
    net = network().kernel_fn
    images = stax.serial(stax.Conv(1, (3, 3)), stax.Relu(), stax.Flatten(), stax.Dense(1)).kernel_fn
    two = stax.serial(stax.parallel(stax.Dense(1), stax.Dense(1, 0.5)), stax.FanInSum(), stax.Dense(1)).kernel_fn
    pixels, pixels_test = draw(N, 4, 4, 1), draw(M, 4, 4, 1, seed=1)

    def marked(x1, x2, get, marks=None):
        found = net(x1, x2, get)
        size = marks[0][:, None] * marks[1][None, :]
        return found * size if isinstance(get, str) else Kernels(*(part * size for part in found))

    ensemble = predict.gradient_descent_mse_ensemble

    def held(buffer):  # a function that answers with the same array each time
        return lambda x1, x2, get: buffer if x2 is None else cross.ntk

    return {
        "ensemble": ([x, y], lambda x, y: ensemble(net, x, y, diag_reg=1e-3), [
            lambda f: f(None, x_test, None, True), lambda f: f([2.0], x_test, None, True), lambda f: f(3.0, None),
            lambda f: f(None, None)]),
        "ensemble of images": ([pixels, y], lambda x, y: ensemble(images, x, y, diag_reg=1e-3), [
            lambda f: f(None, pixels_test, None, "diagonal")]),
        "ensemble of two inputs": ([draw(N, 2), x, y], lambda a, x, y: ensemble(two, (a, x), y, diag_reg=1e-3), [
            lambda f: f(None, (draw(M, 2, seed=8), x_test), "ntk")]),
        "arguments of the kernel function": (
            [x, y, draw(N, seed=3)], lambda x, y, m: ensemble(marked, x, y, diag_reg=1e-3, marks=(m, m)), [
            lambda f: f(None, x_test, "ntk", marks=(draw(M), draw(M)))]),
        "an array that a function gave": ([k.ntk, y], lambda k, y: ensemble(held(k), x, y, diag_reg=1e-3), [
            lambda f: f(1.0, None, "ntk"), lambda f: f(None, x_test, "ntk")]),
        "gp_inference": ([*k, y], lambda a, b, y: predict.gp_inference(Kernels(a, b), y, 1e-3), [
            lambda f: f(None, cross, own), lambda f: f("ntkgp", cross), lambda f: f(None)]),
        "gp_inference of one": ([k.ntk, y], lambda k, y: predict.gp_inference(k, y, 1e-3), [
            lambda f: f("nngp", cross.ntk, own.ntk), lambda f: f("ntk", cross.ntk), lambda f: f("ntk")]),
        "gradient_descent_mse": ([k.ntk, y], lambda k, y: predict.gradient_descent_mse(k, y, 1.0, 1e-3), [
            lambda f: f(None, 0.0, 0.0, cross.ntk), lambda f: f([1.0, 9.0], 0.0, 0.0, cross.ntk)]),
        "gradient_descent": ([k.ntk, y], lambda k, y: predict.gradient_descent("mse", k, y), [
            lambda f: f(2.0, 0.0, 0.0, cross.ntk)]),
        "conjugate_gradient": ([x, y], lambda x, y: predict.conjugate_gradient(net, x, y, diag_reg=1e-3), [
            lambda f: f(x_test)]),
        "conjugate_gradient of an array": (
            [k.ntk, y], lambda k, y: predict.conjugate_gradient(k, None, y, diag_reg=1e-3), [lambda f: f(cross.ntk)]),
        "nystrom": ([x, y], lambda x, y: predict.nystrom(net, x, y, 9, diag_reg=1e-3), [
            lambda f: f(x_test, compute_cov="diagonal")]),
        "nystrom of indices": (
            [x, y, np.arange(7)], lambda x, y, z: predict.nystrom(net, x, y, z, diag_reg=1e-3), [lambda f: f(x_test)]),
        "nystrom of points": (
            [x, y, x[:7].copy()], lambda x, y, z: predict.nystrom(net, x, y, z, diag_reg=1e-3), [
            lambda f: f(x_test, compute_cov="diagonal")]),
        "fit": ([x, y], lambda x, y: predict.fit(None, x, y, depth=1, W_std=1.4, b_std=0.1, diag_reg=(1e-2, 1.0)), [
            lambda f: f.posterior(x_test, True)]),
    }  # fmt: skip


@pytest.mark.parametrize("asked", [False, True], ids=["at once", "after a call"])
@pytest.mark.parametrize("name", list(given()))
@pytest.mark.filterwarnings("ignore::fastntk.predict.SearchWarning")
def test_what_was_given_counts(name, asked):
    """Inputs, targets, kernels and arguments are overwritten in place: every answer is as without that."""
    arrays, make, calls = given()[name]
    wanted = [call(make(*(a.copy() for a in arrays))) for call in calls]
    for k, changed in enumerate(arrays):
        handed = [a.copy() for a in arrays]
        f = make(*handed)
        if asked:
            calls[0](f)
        if name == "an array that a function gave" and not asked:
            continue  # nothing has been given yet
        handed[k][...] = 3 if changed.dtype.kind == "i" else -2 * changed - 5
        for call, right in zip(calls, wanted, strict=True):
            check_same(call(f), right, (name, k))


@pytest.mark.filterwarnings("ignore::fastntk.predict.SearchWarning")
def test_results_are_the_callers():
    """Writing into what a predictor gave changes nothing that it gives later."""
    for arrays, make, calls in given().values():
        f = make(*(a.copy() for a in arrays))
        for call in calls:
            first = call(f)
            kept = [leaf.copy() for leaf in leaves(first)]
            for leaf in leaves(first):
                leaf[...] = 77
            for a, b in zip(leaves(call(f)), kept, strict=True):
                assert np.array_equal(a, b)
