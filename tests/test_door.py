"""What a caller does to NumPy's error state, or to warnings, changes no result and ends no call."""

import importlib
import inspect
import pickle
import warnings

import fastntk
import numpy as np
import pytest
from fastntk import dual, stax

MODULES = ("stax", "quadrature", "meanfield", "mogp", "abc", "catapult", "lazy_feature", "predict", "sklearn", "plot")
NEEDS = {"predict": "scipy", "sklearn": "sklearn", "plot": "matplotlib", "study": "scipy"}
RNG = np.random.default_rng(0)
TINY = RNG.standard_normal((6, 3)) * 1e-160
NET = stax.serial(stax.Dense(1, 1.4, 0.1), stax.Relu(), stax.Dense(1))
BARE = stax.serial(stax.Dense(1, 1.4), stax.Erf(), stax.Dense(1))


@pytest.mark.parametrize("name", [*MODULES, "study"])
def test_every_public_function_is_a_door(name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    module = importlib.import_module(f"fastntk.{name}")
    for public in module.__all__:
        value = getattr(module, public)
        if inspect.isfunction(value):
            assert value._is_door, public
            assert pickle.loads(pickle.dumps(value)) is value
        elif inspect.isclass(value):
            own = {n: m for n, m in vars(value).items() if inspect.isfunction(m) and not n.startswith("_")}
            methods = [m for n, m in own.items() if n in getattr(value, "_doors", own)]
            assert all(inspect.isgeneratorfunction(m) or m._is_door for m in methods), public


def test_signatures_and_docstrings_stay():
    assert list(inspect.signature(stax.serial).parameters) == ["layers"]
    assert list(inspect.signature(NET.kernel_fn.__call__).parameters)[:3] == ["x1", "x2", "get"]
    assert stax.serial.__doc__.startswith("Compose layers")


def _calls():
    small = np.full((2, 8, 2), 1e-20, np.float32)
    images = stax.serial(stax.Conv(1, (3,)), stax.Relu(), stax.GlobalAvgPool())
    large = (RNG.standard_normal((5, 3)) * 1e30).astype(np.float32)
    kernel = NET.kernel_fn(RNG.standard_normal((4, 3)))
    shrinking = stax.serial(stax.Dense(1, 1e-100), stax.Dense(1, 1e-100))
    params = shrinking.init_fn(0, (6, 3))[1]
    yield "rows", lambda: NET.kernel_fn(TINY, None, "ntk")
    yield "numpy backend", lambda: BARE.kernel_fn(TINY, None, ("nngp", "ntk"), backend="numpy")
    yield "float32 overflow", lambda: NET.kernel_fn(large, None, ("nngp", "ntk"))
    yield "float32 of a tiny weight", lambda: stax.serial(stax.Dense(1, 1e-30), stax.Relu()).kernel_fn(large[:, :2])
    yield "diagonal", lambda: NET.kernel_fn.diagonal(TINY)
    yield "depths", lambda: NET.kernel_fn.depths(TINY)
    yield "images", lambda: images.kernel_fn(small, None, "ntk")
    yield "images, numpy", lambda: images.kernel_fn(small, None, "ntk", backend="numpy")
    yield "a kernel scaled", lambda: (kernel * 1e-160 * 1e-160, kernel / 1e-160, kernel + 1e160)
    yield "a finite network", lambda: shrinking.apply_fn(params, TINY)
    yield "dual", lambda: dual.relu(1e-320, 1e-320, 1e-320)
    yield "dual, numpy", lambda: dual.erf(1e300, 1e300, 1e300, backend="numpy")


def _theories():
    meanfield, quadrature = fastntk.meanfield, fastntk.quadrature
    yield "q_star", lambda: meanfield.q_star("tanh", 0.9, 0.0)
    yield "phases", lambda: meanfield.phase_diagram("erf", [1.0, 2.0], [0.1, 0.2])
    yield "quadrature", lambda: quadrature.dual(quadrature.TANH, 1e-300, 1e-300, 1e-300)
    yield "expectation", lambda: quadrature.expectation(lambda x: np.exp(-x * x), 900.0)
    yield "parameterization", lambda: fastntk.abc.Parameterization.mup(3).classify()
    yield "catapult", lambda: fastntk.catapult.trajectory(1.0, 1.5, 3.0, 100, 50)
    yield "mogp", lambda: fastntk.mogp.Stable(0.5).tail(np.array([1e-300, 1.0, 1e300]))


def _predictions():
    predict = pytest.importorskip("fastntk.predict")
    x = RNG.standard_normal((7, 3))
    y = np.sin(x[:, :1])
    for scale in (1e-300, 1e300):
        yield (
            f"gp {scale}",
            lambda s=scale: predict.gp_inference(NET.kernel_fn(x), s * y, diag_reg=1e-3)("nngp", NET.kernel_fn(x).nngp),
        )
        yield (
            f"ensemble {scale}",
            lambda s=scale: (
                predict.gradient_descent_mse_ensemble(NET.kernel_fn, x, s * y, diag_reg=1e-3)(
                    np.array([0.0, 1e-300, 1e4, 1e300]), x[:2], "ntk", True
                ).mean
            ),
        )
    yield "probabilities", lambda: predict.class_probabilities(np.array([[800.0, -800.0]]), np.full(1, 1e-8))


def _all():
    yield from _calls()
    yield from _theories()
    yield from _predictions()


def _same(a, b):
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, (np.ndarray, float, np.floating)):
        return np.array_equal(a, b, equal_nan=True)
    return True


@pytest.mark.parametrize("state", ["raise", "warn"])
def test_the_callers_error_state_changes_nothing(state):
    for name, call in _all():
        with np.errstate(all="ignore"):
            expected = call()
        with np.errstate(all=state), warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                found = call()
            except (FloatingPointError, RuntimeWarning) as error:
                pytest.fail(f"{name}: {error}")
        assert _same(expected, found), name


def test_seterr_too_and_it_stays():
    old = np.seterr(all="raise")
    try:
        expected = np.geterr()
        NET.kernel_fn(TINY, None, "ntk", backend="numpy")
        with pytest.raises(TypeError):
            NET.kernel_fn("text")
        assert np.geterr() == expected
    finally:
        np.seterr(**old)
