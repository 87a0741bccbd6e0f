"""``predict.gradient_descent`` against closed forms, finer integration, 30 digits and Neural Tangents 0.6.5."""

from __future__ import annotations

import pickle
from pathlib import Path

import fake_cupy
import mpmath
import numpy as np
import pytest
import scipy.linalg
from fastntk import predict
from fastntk.predict import IndefiniteError, ODEState
from golden.ode_cases import arrays, cases
from ode_inputs import BOUND, Problem, close, entropy, square

with np.load(Path(__file__).parent / "golden" / "neural_tangents_ode.npz") as file:
    FILE = dict(file)


def swing(w, c, s):
    """r'' + c r' + w r = 0: the solutions that start at (1, 0) and (0, 1), and their derivatives."""
    pair = [scipy.linalg.expm(s * np.array([[0.0, 1.0], [-one, -c]])) for one in w]
    return (np.array([e[i, j] for e in pair])[:, None] for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)))


# ---------------------------------------------------------------- Neural Tangents


def golden():
    shapes = [tuple(int(n) for n in text.split(",") if n) for text in FILE["shapes"]]
    parts = np.split(FILE["numbers"], np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1])
    return {str(name): part.reshape(shape) for name, part, shape in zip(FILE["names"], parts, shapes, strict=True)}


GOLDEN = golden()


def named(name, axes):
    """Losses as this package has them."""
    return (None, {"gradient": lambda fx, y: np.tanh(fx - y) / y.size}) if name == "log cosh" else (name, {})


def compare(calls):
    """Every call: the same shapes, fields and numbers."""
    for name, call in calls.items():
        found = arrays(call(), name)
        expected = {key: value for key, value in GOLDEN.items() if key.split(" / ")[0] == name}
        assert set(found) == set(expected)
        for key, value in found.items():
            assert value.dtype == np.float64
            close(value, expected[key])


CASES = cases(predict, FILE["gram"], named)


def test_every_golden_value_is_compared():
    assert {name.split(" / ")[0] for name in GOLDEN} == set(CASES)


@pytest.mark.parametrize("kind", sorted({name.split(";")[0] for name in CASES}))
def test_golden(kind):
    compare({name: call for name, call in CASES.items() if name.split(";")[0] == kind})


@pytest.mark.rivals
def test_losses_of_jax():
    """The lines of a script for Neural Tangents; the program's own precision stays as it is."""
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    seen, own = [], jnp.ones(1).dtype

    def loss(name, axes):
        def squares(fx, y):
            seen.append(fx.dtype)
            return jnp.mean((fx - y) ** 2) / 2

        return {
            "mse": squares,
            "cross_entropy": lambda fx, y: -jnp.mean(jnp.sum(y * jax.nn.log_softmax(fx, axes), axes)),
            "log cosh": lambda fx, y: jnp.mean(jnp.log(jnp.cosh(fx - y))),
        }[name], {}

    calls = cases(predict, FILE["gram"], loss)
    compare({name: calls[name] for name in calls if "both" in name or name.startswith("axes, middle")})
    assert {str(dtype) for dtype in seen} == {"float64"}
    assert jnp.ones(1).dtype == own


@pytest.mark.rivals
def test_losses_of_torch():
    torch = pytest.importorskip("torch")

    def loss(name, axes):
        return {
            "mse": lambda fx, y: ((fx - y) ** 2).mean() / 2,
            "cross_entropy": lambda fx, y: -(y * (fx - torch.logsumexp(fx, axes, keepdim=True))).sum(axes).mean(),
            "log cosh": lambda fx, y: torch.log(torch.cosh(fx - y)).mean(),
        }[name], {}

    calls = cases(predict, FILE["gram"], loss)
    compare({name: calls[name] for name in calls if "both" in name or name.startswith("axes, middle")})
    p = Problem([3.0, 1.0, 0.2], o=3)
    whole = torch.nn.CrossEntropyLoss()
    found = predict.gradient_descent(whole, p.k, p.soft)(5.0, *p.start())
    for a, b in zip(found, predict.gradient_descent("cross_entropy", p.k, p.soft)(5.0, *p.start()), strict=True):
        close(a, b)


@pytest.mark.rivals
@pytest.mark.parametrize("library", ["jax", "torch"])
def test_losses_that_no_library_differentiates(library):
    """What the function did is told."""
    pytest.importorskip(library)
    p = Problem([1.0, 2.0])
    with pytest.raises(TypeError, match=rf"cannot be differentiated \(.*{library}: .*must be one of"):
        predict.gradient_descent(lambda fx, y: fx - y, p.k, p.y)
    with pytest.raises(TypeError, match=r"cannot be differentiated.*gradient="):
        predict.gradient_descent(lambda fx, y: np.array(fx).mean(), p.k, p.y)


# ---------------------------------------------------------------- the mean squared error


@pytest.mark.parametrize("method", [None, "BDF", "Radau", "DOP853", "RK45", "RK23"])
@pytest.mark.parametrize("given", ["mse", "gradient"])
def test_flow_is_the_closed_form(method, given):
    p = Problem([0.02, 0.3, 0.31, 2.0, 9.0])
    loss = {"loss": "mse"} if given == "mse" else {"loss": None, "gradient": square}
    rtol = {"Radau": 1e-10, "RK45": 1e-10, "RK23": 1e-8}.get(method, 1e-12)
    fn = predict.gradient_descent(**loss, k_train_train=p.k, y_train=p.y, learning_rate=0.7, method=method, rtol=rtol)
    times = np.array([40.0, 0.0, 3.0, 40.0])
    found = fn(times, *p.start())
    for k, t in enumerate(times):
        for values, expected in zip(found, p.flow(t, 0.7), strict=True):
            close(values[k], expected, max(BOUND, 10 * rtol))


def test_flow_to_30_digits():
    """mpmath's matrix exponential."""
    k = np.array([[1.5, 0.5, -0.25], [0.5, 1.0, 0.125], [-0.25, 0.125, 0.75]])
    cross = np.array([[0.5, -0.25, 0.125]])
    y, f = np.array([[1.0], [-2.0], [0.5]]), np.array([[0.25], [0.0], [-1.0]])
    t, rate = 3.0, 0.5
    with mpmath.workdps(30):
        m = mpmath.matrix(k.tolist())
        left = mpmath.expm(-m * rate * t / 3) * mpmath.matrix((f - y).tolist())
        train = mpmath.matrix(y.tolist()) + left
        test = mpmath.matrix(cross.tolist()) * mpmath.lu_solve(m, train - mpmath.matrix(f.tolist()))
        expected = [np.array([[float(x)] for x in values]) for values in (train, test)]
    for values, exact in zip(predict.gradient_descent("mse", k, y, rate)(t, f, 0.0, cross), expected, strict=True):
        close(values, exact, 1e-11)


@pytest.mark.parametrize("given", ["mse", "gradient"])
@pytest.mark.parametrize(("rate", "momentum"), [(0.7, 0.0), (2.0, 0.5), (2.0, 0.99), (1.0, 0.0)])
def test_momentum_is_the_damped_oscillator(rate, momentum, given):
    """Over-, under- and critically damped directions (the last: learning rate 1, eigenvalue |Y| / 4), and a push."""
    p = Problem([0.02, 0.3, 2.5, 9.0, 40.0])
    loss = {"loss": "mse"} if given == "mse" else {"loss": None, "gradient": square}
    fn = predict.gradient_descent(**loss, k_train_train=p.k, y_train=p.y, learning_rate=rate, momentum=momentum)
    t = 12.0
    s, c = rate**0.5 * t, (1 - momentum) / rate**0.5
    found = fn(t, ODEState(p.f, p.f_test, p.q, p.q_test), k_test_train=p.cross)
    cosine, sine, cosine_dot, sine_dot = swing(p.w / p.y.size, c, s)
    error, push = p.v.T @ (p.f - p.y), p.v.T @ p.q
    e, e_dot = cosine * error + sine * push, cosine_dot * error + sine_dot * push
    close(found.fx_train, p.y + p.v @ e)
    close(found.qx_train, p.v @ e_dot)
    # a = Theta^-1 (f - f_0 - phi q_0): the force alone has moved outputs on test points by Theta(x, X) a.
    phi, decay = -np.expm1(-c * s) / c, np.exp(-c * s)
    moved, moving = e - error - phi * push, e_dot - decay * push
    root = np.sqrt(p.w)[:, None]
    close(found.fx_test, p.f_test + phi * p.q_test + p.half @ (moved / root))
    close(found.qx_test, decay * p.q_test + p.half @ (moving / root))


# ---------------------------------------------------------------- the cross-entropy, and other losses


def rk4(p, gradient, y, t, steps, momentum=None, rate=1.0):
    """Both sets of outputs in one system, in fixed steps, as the equations say."""
    both = np.vstack([p.k, p.cross])
    n = len(p.k)
    if momentum is None:
        h = rate * t / steps

        def right(z):
            return -both @ gradient(z[:n], y)

        z = np.vstack([p.f, p.f_test])
    else:
        h, c = rate**0.5 * t / steps, (1 - momentum) / rate**0.5

        def right(z):
            return np.stack([z[1], -c * z[1] - both @ gradient(z[0, :n], y)])

        z = np.stack([np.vstack([p.f, p.f_test]), np.vstack([p.q, p.q_test])])
    for _ in range(steps):
        a = right(z)
        b = right(z + h / 2 * a)
        c1 = right(z + h / 2 * b)
        z = z + h / 6 * (a + 2 * b + 2 * c1 + right(z + h * c1))
    return z


@pytest.mark.parametrize("targets", ["labels", "soft"])
@pytest.mark.parametrize("momentum", [None, 0.8])
def test_cross_entropy_is_fine_steps(targets, momentum):
    p = Problem([0.1, 0.5, 2.0, 3.0, 8.0], o=3)
    y, t, rate = getattr(p, targets), 15.0, 0.6
    expected, coarse = (rk4(p, entropy, y, t, steps, momentum, rate) for steps in (4000, 2000))
    assert np.max(np.abs(expected - coarse)) < 1e-10  # the oracle's own error is a fifteenth of this
    fn = predict.gradient_descent("cross_entropy", p.k, y, rate, momentum)
    state = ODEState(p.f, p.f_test) if momentum is None else ODEState(p.f, p.f_test, p.q, p.q_test)
    found = fn(t, state, k_test_train=p.cross)
    n = len(y)
    if momentum is None:
        assert found.qx_train is None
        assert found.qx_test is None
        expected = expected[None]
    else:
        close(found.qx_train, expected[1, :n])
        close(found.qx_test, expected[1, n:])
    close(found.fx_train, expected[0, :n])
    close(found.fx_test, expected[0, n:])


def test_cross_entropy_to_20_digits():
    """mpmath's Taylor integrator: one sample of two classes and one test point."""
    k, cross, t = 1.5, 0.5, 2.0
    f = np.array([[0.25, -0.5]])
    with mpmath.workdps(20):

        def right(s, z):
            p = 1 / (1 + mpmath.exp(z[1] - z[0]))
            return [k * (1 - p), -k * (1 - p)]

        end = mpmath.odefun(right, 0, [mpmath.mpf(x) for x in f[0]])(t)
        expected = np.array([[float(x) for x in end]])
    fn = predict.gradient_descent("cross_entropy", np.array([[k]]), np.array([[1.0, 0.0]]))
    train, test = fn(t, f, 0.0, np.array([[cross]]))
    close(train, expected, 1e-11)
    close(test, (expected - f) * cross / k, 1e-11)


def test_samples_that_a_loss_couples():
    """L = f^T A f / 2 with a full A, stiff enough that an implicit method takes over: the matrix exponential."""
    p = Problem(np.geomspace(1e-3, 1e4, 6), o=1)
    root = np.random.default_rng(3).standard_normal((6, 6))
    a = root @ root.T + np.eye(6)
    fn = predict.gradient_descent(None, p.k, p.y, gradient=lambda fx, y: a @ fx, max_evaluations=30_000)
    t = 200.0
    # In the coordinates of Theta^{1/2}, where the matrix is symmetric.
    half = (p.v * np.sqrt(p.w)) @ p.v.T
    values, vectors = np.linalg.eigh(half @ a @ half)
    change = vectors @ (-np.expm1(-values * t)[:, None] / values[:, None] * (vectors.T @ (-half @ a @ p.f)))
    train, test = fn(t, *p.start())
    assert np.max(np.abs(train - (p.f + half @ change))) < 1e-9
    close(test, p.f_test + p.half @ p.v.T @ change, 1e-8)


@pytest.mark.parametrize("momentum", [None, 0.5])
def test_units_of_the_loss_do_not_matter(momentum):
    """A loss of 1e-14 times the size at 1e14 times the learning rate."""
    p = Problem([0.1, 0.5, 2.0, 3.0], o=3)
    whole = predict.gradient_descent("cross_entropy", p.k, p.soft, 2.0, momentum)
    small = predict.gradient_descent(None, p.k, p.soft, 2e14, momentum, gradient=lambda fx, y: 1e-14 * entropy(fx, y))
    for t in (20.0, None):
        for one, other in zip(small(t, *p.start()), whole(t, *p.start()), strict=True):
            close(one, other)


def test_loss_that_is_not_finite_at_zero():
    """f - y log f, which is looked at where training starts."""
    p = Problem([0.5, 2.0, 3.0])
    fn = predict.gradient_descent(None, p.k, p.soft, gradient=lambda fx, y: 1 - y / fx)
    close(fn(None, 1.0), p.soft)


# ---------------------------------------------------------------- times and states


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_going_on_from_a_state(loss, momentum):
    p = Problem([0.1, 0.5, 2.0, 3.0])
    fn = predict.gradient_descent(loss, p.k, p.soft, 1.5, momentum)
    whole = fn(30.0, ODEState(p.f, p.f_test), k_test_train=p.cross)
    first = fn(12.0, ODEState(p.f, p.f_test), k_test_train=p.cross)
    second = fn(18.0, first, k_test_train=p.cross)
    for field in ("fx_train", "fx_test", "qx_train", "qx_test"):
        if momentum is None and field.startswith("q"):
            assert getattr(second, field) is None
        else:
            close(getattr(second, field), getattr(whole, field))


def test_times_in_any_order_and_shape():
    p = Problem([0.1, 0.5, 2.0, 3.0])
    for loss in ("mse", "cross_entropy"):
        fn = predict.gradient_descent(loss, p.k, p.soft, 2.0)
        times = np.array([[7.0, 0.0, 90.0], [7.0, 1e-9, 2.0]])
        train, test = fn(times, *p.start())
        assert train.shape == (2, 3, *p.f.shape)
        assert test.shape == (2, 3, *p.f_test.shape)
        for at in np.ndindex(times.shape):
            close(train[at], fn(times[at], p.f))
            close(test[at], fn(float(times[at]), p.f, p.f_test, p.cross)[1])
        close(train[0, 1], p.f, 1e-15)
        assert fn([], *p.start())[1].shape == (0, *p.f_test.shape)


def test_start_at_zero_unless_given():
    """fx_train_0=None starts at 0, a number is everywhere the same, and what is not asked for is not returned."""
    p = Problem([0.5, 2.0, 3.0])
    fn = predict.gradient_descent("mse", p.k, p.y)
    train, test = fn(4.0, np.zeros_like(p.f), np.full_like(p.f_test, 0.5), p.cross)
    assert np.array_equal(fn(4.0), train)
    assert np.array_equal(fn(4.0, None, 0.5, p.cross), test)
    state = fn(4.0, ODEState(None, 0.5), k_test_train=p.cross)
    assert np.array_equal(state.fx_train, train)
    assert np.array_equal(state.fx_test, test)


def test_float32_and_arguments_are_left_alone():
    p = Problem([0.5, 2.0, 3.0])
    given = [p.k.astype(np.float32), p.soft, p.f, p.f_test, p.cross.astype(np.float32)]
    before = [a.copy() for a in given]
    k, y, f, f_test, cross = given
    exact = predict.gradient_descent("cross_entropy", k.astype(float), y)(9.0, f, f_test, cross.astype(float))
    fn = predict.gradient_descent("cross_entropy", k, y)
    assert fn.conditioning is None
    found = fn(9.0, f, f_test, cross)
    assert fn.conditioning.effective_rank == 3
    for values, expected in zip(found, exact, strict=True):
        assert values.dtype == np.float32
        close(values, expected, 2e-7)
    assert all(np.array_equal(a, b) for a, b in zip(given, before, strict=True))


def test_a_predictor_goes_through_pickle():
    p = Problem([0.5, 2.0, 3.0])
    for loss in ("mse", "cross_entropy"):
        fn = predict.gradient_descent(loss, p.k, p.soft, 1.0, 0.5)
        expected = fn(9.0)
        assert np.array_equal(pickle.loads(pickle.dumps(fn))(9.0), expected)


def test_arrays_of_cupy(monkeypatch):
    """Kernels, states and gradients stay there; SciPy sees what it integrates."""
    cupy = fake_cupy.install(monkeypatch)
    p = Problem([0.5, 2.0, 3.0], o=3)

    def gradient(fx, y):
        assert type(fx) is type(y)
        return (fx - y) / 9

    def everything(convert):
        k, cross, y, *state = map(convert, (p.k, p.cross, p.soft, p.f, p.f_test, p.q, p.q_test))
        results = []
        for loss in ({"loss": "mse"}, {"loss": "cross_entropy"}, {"loss": None, "gradient": gradient}):
            for method in (None, "Radau"):
                fn = predict.gradient_descent(**loss, k_train_train=k, y_train=y, method=method, rtol=1e-8)
                results += [*fn(np.array([3.0, np.inf, 1.0]), state[0], state[1], cross), fn(convert(np.array(2.0)))]
            fn = predict.gradient_descent(**loss, k_train_train=k, y_train=y, momentum=0.5)
            moved = fn(3.0, ODEState(*state), k_test_train=cross)
            results += [moved.fx_train, moved.fx_test, moved.qx_train, moved.qx_test]
        return results

    for a, b in zip(everything(cupy.asarray), everything(np.asarray), strict=True):
        assert isinstance(a, fake_cupy.ndarray)
        close(a.get(), b, 1e-12)
    with pytest.raises(TypeError, match="NumPy and CuPy arrays are mixed"):
        predict.gradient_descent("mse", cupy.asarray(p.k), p.y)


# ---------------------------------------------------------------- what is refused

P = Problem([0.5, 1.0, 3.0], o=2)


def made(**changes):
    arguments = {"loss": "mse", "k_train_train": P.k, "y_train": P.y, **changes}
    return predict.gradient_descent(**arguments)


NAN = np.where(np.arange(6).reshape(3, 2) == 3, np.nan, 1.0)
BAD = [
    ({"loss": "hinge"}, ValueError, r"no loss 'hinge'.*'mse', 'cross_entropy'.*gradient=.*JAX's or PyTorch's"),
    ({"loss": 3.0}, TypeError, "'cross_entropy'.*gradient=.*given float"),
    ({"loss": None}, TypeError, "given NoneType"),
    ({"loss": "mse", "gradient": square}, TypeError, "beside a loss that is a function"),
    ({"loss": None, "gradient": 1}, TypeError, "gradient must be a function.*given int"),
    ({"loss": None, "gradient": lambda fx, y: fx.sum(1)}, ValueError, r"in the shape of fx and y_train, \(3, 2\)"),
    ({"loss": None, "gradient": lambda fx, y: fx * 1j}, ValueError, "it gave complex128"),
    ({"loss": "cross_entropy"}, ValueError, "probabilities.*no 1/k subtracted"),
    ({"loss": "cross_entropy", "y_train": np.eye(2)[[0, 1, 1]] * 2}, ValueError, "of sum 1.*sums are off by 1"),
    ({"loss": "cross_entropy", "y_train": np.ones((3, 1))}, ValueError, "at least 2, given 1"),
    ({"y_train": NAN}, ValueError, r"y_train is not finite.*first at \(1, 1\)"),
    ({"y_train": P.y[:2]}, ValueError, r"k_train_train has shape \(3, 3\)"),
    ({"y_train": {1.0}}, TypeError, "y_train must be a numpy.ndarray or convert to one, given set"),
    ({"k_train_train": P.k[:2]}, ValueError, r"k_train_train has shape \(2, 3\)"),
    ({"k_train_train": P.k + np.triu(P.k, 1)}, ValueError, "not symmetric"),
    ({"k_train_train": {1.0}}, TypeError, "k_train_train must be a numpy.ndarray or convert to one, given set"),
    ({"momentum": 1.0}, ValueError, r"momentum must be None or in \[0, 1\), given 1.0"),
    ({"momentum": -0.1}, ValueError, r"momentum must be None or in \[0, 1\)"),
    ({"momentum": "0.9"}, ValueError, r"momentum must be None or in \[0, 1\)"),
    ({"momentum": float("nan")}, ValueError, r"momentum must be None or in \[0, 1\)"),
    ({"learning_rate": 0.0}, ValueError, "learning_rate must be finite and positive"),
    ({"method": "euler"}, ValueError, "method must be one of .*'DOP853'.*given 'euler'"),
    ({"rtol": 1e-15}, ValueError, "rtol must be in"),
    ({"atol": 0.0}, ValueError, "atol must be positive"),
    ({"max_evaluations": 0}, ValueError, "max_evaluations must be a positive integer"),
]


@pytest.mark.parametrize(("changes", "kind", "words"), BAD)
def test_refused_when_made(changes, kind, words):
    with pytest.raises(kind, match=r"\[gradient_descent\]") as caught:
        made(**changes)
    caught.match(words)


CALLS = [
    ((-1.0,), {}, ValueError, "t must not be negative or NaN, given -1"),
    (([1.0, np.nan],), {}, ValueError, "t must not be negative or NaN"),
    (("1",), {}, TypeError, "t must be numbers"),
    ((1.0, None), {}, ValueError, "both None"),
    ((1.0, 0.0, 0.0), {}, ValueError, "k_test_train is missing"),
    ((1.0, ODEState(0.0, 0.0)), {}, ValueError, "k_test_train is missing"),
    ((1.0, ODEState(0.0), 0.0, P.cross), {}, ValueError, "fx_test_0 must be None"),
    ((1.0, ODEState(0.0, None, 1.0)), {}, ValueError, "velocities, qx_train or qx_test, but momentum is None"),
    ((1.0, ODEState(0.0, None, None, 1.0)), {"momentum": 0.5}, ValueError, "qx_test, but no fx_test"),
    ((1.0, ODEState(None, None)), {}, ValueError, "both None"),
    ((1.0, P.f[:2]), {}, ValueError, r"fx_train_0 must be a number or have shape \(3, 2\), given \(2, 2\)"),
    ((1.0, NAN), {}, ValueError, "fx_train_0 is not finite"),
    ((1.0, 0.0, P.f, P.cross[:2]), {}, ValueError, r"fx_test_0 must be a number or have shape \(2, 2\)"),
    ((1.0, 0.0, 0.0, P.cross[:, :2]), {}, ValueError, r"k_test_train has shape \(3, 2\)"),
    ((1.0, 0.0, 0.0, P.cross * np.nan), {}, ValueError, "k_test_train is not finite"),
    ((1.0, ODEState(0.0, None, NAN)), {"momentum": 0.5}, ValueError, "qx_train is not finite"),
    ((1.0, {1.0}), {}, TypeError, "fx_train_0 must be a numpy.ndarray or convert to one, given set"),
    ((None,), {"loss": "cross_entropy", "y_train": np.eye(2)[[0, 1, 1]]}, ValueError, "rise for ever"),
    ((1.0,), {"k_train_train": P.k - np.eye(3)}, IndefiniteError, "smallest eigenvalue is -0.5"),
]


@pytest.mark.parametrize(("arguments", "changes", "kind", "words"), CALLS)
def test_refused_when_called(arguments, changes, kind, words):
    fn = made(**changes)
    with pytest.raises(kind, match=words):
        fn(*arguments)


@pytest.mark.parametrize("method", ["BDF", "Radau", "DOP853", "RK45"])
def test_never_a_part_of_the_way(method):
    """What ends the integration says how far it came."""

    def broken(fx, y):
        return np.where(np.abs(fx) > 0.5, np.nan, square(fx, y))

    with pytest.raises(RuntimeError, match=r"the gradient of the loss is not finite, at t = \d"):
        made(loss=None, gradient=broken, y_train=5 * np.ones((3, 2)), method=method)(100.0)
    with pytest.raises(RuntimeError, match=rf"30 evaluations of the gradient have led to t = \S+ of 1e\+06: {method}"):
        made(method=method, max_evaluations=30)([1.0, 1e6])


def test_outputs_that_end_in_finite_time():
    """df/ds = K exp(f) is infinite at s = 1 / (K exp(f_0))."""
    k, y = np.array([[2.0]]), np.array([[0.0]])
    fn = predict.gradient_descent(None, k, y, gradient=lambda fx, y: -np.exp(fx))
    close(fn(0.25), [[-np.log(0.5)]])
    with pytest.raises(RuntimeError, match=r"stopped at t = 0\.5 of 1: .*(step|spacing)"):
        fn(1.0)


def test_a_loss_without_limit():
    with pytest.raises(RuntimeError, match=r"no limit by t = .*falls for ever"):
        made(loss=None, gradient=lambda fx, y: -np.ones_like(fx))(None)
    with pytest.raises(RuntimeError, match=r"no limit by t = .*falls for ever"):  # as the logarithm of t
        made(loss=None, gradient=lambda fx, y: -np.exp(-fx))(None)
    with pytest.raises(RuntimeError, match=r"300 evaluations .* of inf: .*falls for ever"):
        made(loss=None, gradient=lambda fx, y: -np.exp(-fx), max_evaluations=300)(None)


def test_errors_of_the_gradient_reach_the_caller():
    calls = []

    def failing(fx, y):
        calls.append(fx)
        if len(calls) > 50:
            raise KeyError("mine")
        return square(fx, y)

    with pytest.raises(KeyError, match="mine"):
        made(loss=None, gradient=failing, method="BDF")(1e3)
