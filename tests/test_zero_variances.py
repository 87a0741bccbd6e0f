"""A variance of 0 behind a layer that correlates it: nonlinearities take it as they take any small one."""

from types import SimpleNamespace

import fastntk
import numpy as np
import pytest
from fastntk import stax
from fastntk.network.activations import NONLINEARITIES
from fastntk.network.activations.nonlinearity import Correlation
from fastntk.network.activations.periodic import Cosine, Sine

LAYERS = {name: make(*given) for name, (make, given) in NONLINEARITIES.items()}
LAYERS |= {"sine": Sine(0.9, 1.3), "cosine": Cosine(0.9, 1.3)}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("w", [1.0, 0.8, 0.3])
def test_the_limit_of_small_variances(name, w):
    """At one correlation, that of a row of zeros with it too, as none of the maps here jumps there."""
    layer = LAYERS[name]
    q = np.array([0.0, 1e-28])
    first = SimpleNamespace(**layer.rows(q))
    given = Correlation(near=np.full(2, True), w=np.full(2, w), a=np.full(2, 1 - w))
    for other in (1e-3, 1.0, 20.0):
        second = SimpleNamespace(**layer.rows(np.full(2, other)))
        for zero, small in layer.pair(given, first, second):
            np.testing.assert_allclose(zero, small, rtol=1e-10, atol=1e-12)


def network(phi):
    """The first NTK is 1 where its NNGP kernel is 0; LeakyRelu correlates what was not."""
    dense = stax.Dense(6, 1.4, b_std=0.0, parameterization="standard")
    return stax.serial(
        dense, stax.LeakyRelu(0.2), stax.Dense(1, 0.8), phi, stax.Dense(1), stax.Relu(), stax.Dense(1)
    ).kernel_fn


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_one_number_of_all_engines(name, dtype, backend):
    kernel_fn = network(LAYERS[name])
    x = np.array([[0, 0], [0.1, 0.05], [7e-5, 0.05], [0.3, -0.2], [1.5, 1.0]], dtype)
    with fastntk.options(backend="numpy"):
        expected = kernel_fn(x.astype(np.float64), None, "ntk")
    np.testing.assert_allclose(kernel_fn(x, None, "ntk"), expected, rtol=2e-5 if dtype == np.float32 else 1e-11)
