"""The CUDA backend's own text, run pair by pair on the host: what a machine without a GPU can hold of it."""

from unittest import mock

import numpy as np
import pytest
from fastntk import backends, kernel_fn, show_config, stax
from fastntk.activations import NONLINEARITIES
from helpers import assert_close

MODULE, STATE = backends.load("cuda")
pytestmark = pytest.mark.skipif(MODULE is None, reason=f"backend 'cuda': {STATE}")


@pytest.fixture
def on_host():
    engine = backends.CudaEngine(MODULE, MODULE.ON_HOST, "on the host")
    with mock.patch.object(kernel_fn, "select", return_value=engine):
        yield engine


def points(dtype):
    x = np.random.default_rng(0).standard_normal((40, 30))
    x[1] = x[0] * (1 + 1e-7)  # nearly a copy,
    x[2] = 3 * x[0]  # a scaled one,
    x[3] = -x[0] + 1e-3 * x[4]  # nearly the opposite
    x[5] = 0
    return x.astype(dtype)


def networks():
    for make, args in NONLINEARITIES.values():
        yield stax.serial(*[stax.Dense(3, 1.2, 0.1), make(*args)] * 3, stax.Dense(1, 1.1))
    branch = stax.serial(stax.Dense(3), stax.Erf(0.7, 1.3, 0.2), stax.Dense(3, 1.2))
    yield stax.serial(stax.Dense(3), stax.FanOut(2), stax.parallel(branch, stax.Dense(3, 0.8, 0.3)), stax.FanInSum())
    yield stax.serial(*[stax.Dense(4, 1.3, 0.0, parameterization="standard"), stax.Relu()] * 2, stax.Dense(1))


@pytest.mark.parametrize("index", range(len(list(networks()))))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_device_text_on_the_host(index, dtype, on_host):
    net, x = list(networks())[index].kernel_fn, points(dtype)
    found = [net(x, None, ("nngp", "ntk")), net(x, x[:7], ("nngp", "ntk")), net.diagonal(x)]
    batched = net(np.stack([x, 2 * x]), None, ("nngp", "ntk"), batch_dims=1)
    with mock.patch.object(kernel_fn, "select", return_value=backends.NumpyEngine()):
        exact = [
            net(x.astype(np.float64), *rest)
            for rest in ((None, ("nngp", "ntk")), (x[:7].astype(np.float64), ("nngp", "ntk")))
        ]
        exact.append(net.diagonal(x.astype(np.float64)))
    for pair, reference in zip(found, exact, strict=True):
        for name in ("nngp", "ntk"):
            wanted = getattr(reference, name)
            assert_close(getattr(pair, name), wanted, f"{name} 10", np.dtype(dtype), scale=0.5 * np.abs(wanted).max())
    for name in ("nngp", "ntk"):
        gram = getattr(found[0], name)
        assert np.array_equal(gram, gram.T)
        assert np.array_equal(getattr(batched, name)[0], gram)


def test_a_machine_without_a_device_says_so():
    devices, reason = MODULE.devices()
    state = show_config(mode="dict")["backends"]["cuda"]
    if devices:
        assert devices[0] in state
    else:
        assert reason in state
        with pytest.raises(RuntimeError, match="backend 'cuda'"):
            stax.Dense(1).kernel_fn(points(np.float64), backend="cuda")
