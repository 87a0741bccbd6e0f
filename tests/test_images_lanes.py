"""Which axis of signals and narrow images runs along a vector's lanes, and that nothing else depends on it."""

from __future__ import annotations

import numpy as np
import pytest
from fastntk import stax
from fastntk.engines import select
from fastntk.network.lower import lower
from fastntk.network.program import Value
from fastntk.plan.lanes import make_turned_plan, turned_output
from helpers import same

compiled = pytest.mark.skipif(select.load("cpu")[0] is None, reason="the compiled CPU module is not installed")
BOTH = ("nngp", "ntk")


def network(filter_shape, end, b_std=0.1):
    conv = stax.serial(stax.Conv(1, filter_shape, padding="SAME", W_std=1.4, b_std=b_std), stax.Relu())
    window = tuple(2 if k > 1 else 1 for k in filter_shape)
    pool = stax.AvgPool(window, (1,) * len(window), "SAME")
    return stax.serial(conv, pool, conv, end, stax.Dense(1, 1.1))


def planned(net, *spatial):
    value = Value(0, 2, spatial=spatial, channel_axis=len(spatial) + 1)
    return make_turned_plan(lower(net.kernel_fn.layer, value).program, (spatial,))


@pytest.mark.parametrize(
    ("filter_shape", "end", "spatial", "axes", "sizes"),
    [
        ((3,), stax.Flatten(), (512,), (-1, 0), (1, 512)),
        ((3,), stax.GlobalAvgPool(), (64,), (-1, 0), (1, 64)),
        ((3, 1), stax.Flatten(), (1024, 1), (1, 0), (1, 1024)),
        ((3, 3), stax.Flatten(), (33, 2), (1, 0), (2, 33)),
        ((3, 3), stax.Flatten(), (32, 32), (0, 1), (32, 32)),
        ((3, 3), stax.GlobalAvgPool(), (33, 5), (0, 1), (33, 5)),  # displacements fill the lanes
        ((3, 1, 3), stax.Flatten(), (20, 2, 2), (1, 2, 0), (2, 2, 20)),
        ((3, 3, 3), stax.Flatten(), (20, 2, 2), (0, 1, 2), (20, 2, 2)),
    ],
)
def test_an_axis_that_fills_them(filter_shape, end, spatial, axes, sizes):
    plan, found = planned(network(filter_shape, end), *spatial)
    assert found == axes
    assert plan.grids[0].sizes == sizes


@compiled
@pytest.mark.parametrize(
    "end", [stax.Flatten(), stax.GlobalAvgPool(), stax.Identity()], ids=["flatten", "gap", "positions"]
)
@pytest.mark.parametrize(
    ("shape", "filter_shape"), [((37,), (3,)), ((40, 1), (3, 1)), ((9, 2), (3, 3)), ((9, 2, 2), (3, 1, 3))]
)
def test_against_numpy(shape, filter_shape, end, dtype):
    net, rng = network(filter_shape, end), np.random.default_rng(0)
    x1, x2 = (rng.standard_normal((n, *shape, 2)).astype(dtype) for n in (3, 2))
    for second in (None, x2):
        found = net.kernel_fn(x1, second, (*BOTH, "cov1"), backend="cpu")
        wide = None if second is None else second.astype(np.float64)
        exact = net.kernel_fn(x1.astype(np.float64), wide, (*BOTH, "cov1"), backend="numpy")
        for name in (*BOTH, "cov1"):
            size = np.abs(getattr(exact, name)).max()
            bound = {"float32": 2e-6, "float64": 1e-12}[dtype.name]
            assert np.abs(getattr(found, name) - getattr(exact, name)).max() <= bound * size, name


@compiled
def test_a_signal_is_an_image_of_one_row():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 50, 3)).astype(np.float32)
    signal = network((3,), stax.Identity()).kernel_fn(x, None, BOTH, backend="cpu")
    image = network((1, 3), stax.Identity()).kernel_fn(x[:, None], None, BOTH, backend="cpu")
    row = network((1, 3), stax.Flatten()).kernel_fn(x[:, None], None, BOTH, backend="cpu")
    flat = network((3,), stax.Flatten()).kernel_fn(x, None, BOTH, backend="cpu")
    for name in BOTH:
        assert getattr(signal, name).shape == (4, 4, 50, 50)
        assert same(getattr(flat, name), getattr(row, name))
        assert np.allclose(getattr(signal, name), getattr(image, name)[:, :, 0, 0], rtol=2e-6, atol=0)


def test_outputs_are_views():
    x = np.zeros((2, 3, 4, 5, 6, 7))
    assert turned_output(x, (1, 0)).shape == (2, 3, 6, 7, 4, 5)
    turned_output(x, (1, 0))[1, 2, 5, 6, 3, 4] = 1
    assert x[1, 2, 3, 4, 5, 6] == 1
    y = np.zeros((2, 3, 4, 5))
    turned_output(y, (-1, 0))[1, 2, 0, 0, 3, 4] = 1
    assert y[1, 2, 3, 4] == 1
    assert turned_output(y[:, :, 0, 0], (-1, 0)).shape == (2, 3)
