"""Trace axes that repeat, or name all axes or the samples', and keywords that the kernel function takes for itself."""

import numpy as np
import pytest
from fastntk import stax

predict = pytest.importorskip("fastntk.predict")

RNG = np.random.default_rng(0)
SHAPE = (4, 3, 2, 6)
Y = RNG.standard_normal(SHAPE)
TRACES = [(0, 0, -3), (-1, -1), (3, -1, 3), -1, (0,), (0, -1), (1, 2), (0, 1, 2, 3), (-4, 1, 2, 3, 0)]


def gram(axes, other=None):
    """A kernel with a pair of axes for each of ``axes``, interleaved; with ``other`` samples, of so many rows."""
    rows = [other if other is not None and a == 0 else SHAPE[a] for a in axes]
    factors = [RNG.standard_normal((n, 40)) for n in (int(np.prod(rows)), int(np.prod([SHAPE[a] for a in axes])))]
    if other is None:
        factors[0] = factors[1]
    k = (factors[0] @ factors[1].T / 40).reshape([*rows, *[SHAPE[a] for a in axes]])
    count = len(axes)
    return k.transpose([side * count + a for a in range(count) for side in (0, 1)])


def flow(k, cross, axes, t, reg=0.0):
    """The mean at time t by plain linear algebra: the kernel beside an identity for traced axes, all axes flat."""
    traced = [a for a in range(4) if a not in axes]
    n, o = int(np.prod([SHAPE[a] for a in axes])), int(np.prod([SHAPE[a] for a in traced]))
    count = len(axes)
    pairs = [*range(0, 2 * count, 2), *range(1, 2 * count, 2)]
    flat, test = (m.transpose(pairs).reshape(-1, n) for m in (k, cross))
    y = np.moveaxis(Y, traced, range(count, 4)).reshape(n, o)
    values, vectors = np.linalg.eigh(flat + reg * np.eye(n))
    learned = -np.expm1(-values * t / Y.size) / values
    mean = test @ vectors @ (learned[:, None] * (vectors.T @ y))
    rows = [cross.shape[2 * i] for i in range(count)]
    return np.moveaxis(mean.reshape(*rows, *[SHAPE[a] for a in traced]), range(count, 4), traced)


@pytest.mark.parametrize(
    "trace", [(0, 0, -3), (-1, -1), (3, -1, 3), -1, (0,), (0, -1), (1, 2), (0, 1, 2, 3), (-4, 1, 2, 3, 0)]
)
def test_trace_axes_are_a_set(trace):
    named = {a % 4 for a in np.atleast_1d(trace)}
    axes = [a for a in range(4) if a not in named]
    k, cross = gram(axes), gram(axes, 5)
    predict_fn = predict.gradient_descent_mse(k, Y, trace_axes=trace)
    _, found = predict_fn(300.0, 0.0, 0.0, cross)
    np.testing.assert_allclose(found, flow(k, cross, axes, 300.0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("trace", [(0, -1), (0, 0, -1, 3), (0, 1, 2, 3), (-1, -1)])
def test_ensembles_traced_over_samples(trace):
    axes = [a for a in range(4) if a not in {b % 4 for b in trace}]
    k, cross, prior = gram(axes), gram(axes, 2), gram(axes)

    def kernel_fn(x1, x2, get):
        return prior if x2 is None and len(x1) == 2 else k if x2 is None else cross if len(x1) == 2 else k

    x, z = np.zeros((4, 5)), np.zeros((2, 5))
    found = predict.gradient_descent_mse_ensemble(kernel_fn, x, Y, trace_axes=trace)(300.0, z, "ntk")
    np.testing.assert_allclose(found, flow(k, cross, axes, 300.0), rtol=1e-9, atol=1e-12)


def test_targets_of_one_output_are_told_how_to_look():
    with pytest.raises(ValueError, match=r"0 axes.*given shape \(4, 4\); targets of one output are \(n, 1\)"):
        predict.gp_inference(gram([0]), Y[:, 0, 0, 0])("nngp")
    with pytest.raises(ValueError, match="targets of one output"):
        predict.gradient_descent_mse(gram([0]), Y[:, 0, 0, 0])
    with pytest.raises(ValueError, match="are not axes"):
        predict.gradient_descent_mse(gram([0]), Y, trace_axes=(4,))


# ---------------------------------------------------------------- keywords of the kernel function


X, XT = RNG.standard_normal((5, 3)), RNG.standard_normal((300, 3))
NET = stax.serial(stax.Dense(1, 1.4, 0.1), stax.Relu(), stax.Dense(1)).kernel_fn


class Recorder:
    """A kernel function with a keyword of its own, which it notes."""

    def __init__(self, name):
        self.name, self.seen = name, []

    def __call__(self, x1, x2=None, get=None, **kwargs):
        self.seen.append((len(x1), None if x2 is None else len(x2), kwargs[self.name]))
        return NET(x1, x2, get)


@pytest.mark.parametrize("cov", [False, True, "diagonal"])
def test_random_keys_beside_none(cov):
    """Of each side its own; a key is no row of a sample, whatever its length."""
    kernel_fn, train, test = Recorder("rng"), np.array([1, 2]), np.array([3, 4])
    predict_fn = predict.gradient_descent_mse_ensemble(kernel_fn, X, X[:, :1], diag_reg=1e-3, rng=(train, None))
    for x in (XT, XT[:2]):
        found = predict_fn(x_test=x, get="ntk", compute_cov=cov, rng=(test, None))
        plain = predict.gradient_descent_mse_ensemble(NET, X, X[:, :1], diag_reg=1e-3)(None, x, "ntk", cov)
        parts = [(found, plain)] if cov is False else list(zip(found, plain, strict=True))
        for f, p in parts:
            np.testing.assert_allclose(f, p, rtol=1e-6, atol=1e-9)
    for n1, n2, (first, second) in kernel_fn.seen:
        if n1 == 5:
            assert np.array_equal(first, train)
            assert second is None
        elif n2 == 5:
            assert np.array_equal(first, test)
            assert np.array_equal(second, train)
        else:
            assert np.array_equal(first, test)
            assert second is None or np.array_equal(second, test)


def test_rows_of_samples_are_cut_and_none_is_the_same_points_again():
    kernel_fn, train, test = Recorder("pattern"), np.arange(5), np.arange(300)
    predict_fn = predict.gradient_descent_mse_ensemble(kernel_fn, X, X[:, :1], diag_reg=1e-3, pattern=(train, None))
    predict_fn(x_test=XT, get="nngp", compute_cov=True, pattern=(test, None))
    for n1, n2, (first, second) in kernel_fn.seen[1:]:
        assert len(first) == n1
        assert second is None if n2 is None else len(second) == n2


@pytest.mark.parametrize(("train", "test"), [
    ((np.zeros(2), None), None), (None, (np.zeros(2), None)), ((None, None), (np.zeros(2), None)),
    ([1, np.zeros(2)], [2, np.zeros(2)]), (3, 4),
])  # fmt: skip
def test_other_changes_of_keywords_are_refused(train, test):
    predict_fn = predict.gradient_descent_mse_ensemble(Recorder("rng"), X, X[:, :1], diag_reg=1e-3, rng=train)
    with pytest.raises(ValueError, match=r"rng is .* for test points and .* for training points"):
        predict_fn(x_test=XT, get="nngp", rng=test)


def test_equal_keywords_pass_whatever_they_hold():
    given = [1, np.zeros(2), None]
    predict_fn = predict.gradient_descent_mse_ensemble(Recorder("rng"), X, X[:, :1], diag_reg=1e-3, rng=given)
    assert predict_fn(x_test=XT, get="nngp", rng=[1, np.zeros(2), None]).shape == (300, 1)
