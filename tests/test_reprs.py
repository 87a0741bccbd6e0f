"""What people read where they print a network."""

from __future__ import annotations

import numpy as np
import pytest
from fastntk import stax
from fastntk.network.activations import NONLINEARITIES

NETWORK = stax.serial(
    stax.Conv(1, (3, 3), padding="SAME", b_std=0.1),
    stax.Relu(),
    stax.FanOut(2),
    stax.parallel(stax.Identity(), stax.serial(stax.Conv(1, (3, 3), strides=(2, 1), padding=1), stax.LeakyRelu(0.2))),
    stax.FanInSum(),
    stax.Flatten(),
    stax.Dense(1, W_std=1.5),
)


def test_a_network_is_what_one_would_write():
    for network in (NETWORK, *(make(*args) for make, args in NONLINEARITIES.values())):
        again = eval(repr(network), vars(stax) | {"inf": np.inf})
        assert again == network
        assert repr(again) == repr(network)


def test_only_what_differs_from_its_default_is_shown():
    assert repr(stax.Dense(3)) == str(stax.Dense(3)) == "Dense(3)"
    assert repr(stax.Relu()) == "Relu()"
    assert repr(stax.AvgPool((2, 2), (1, 1))) == repr(stax.AvgPool((2, 2))) == "AvgPool((2, 2))"
    assert repr(stax.AvgPool((2, 2), (2, 2))) == "AvgPool((2, 2), strides=(2, 2))"
    assert repr(stax.Elementwise(fn=np.tanh)) == f"Elementwise(fn={np.tanh!r})"
    assert repr(NETWORK.kernel_fn) == f"KernelFn({NETWORK!r})"


def test_printing_gives_a_line_for_each_layer():
    assert str(NETWORK).splitlines() == [
        "serial",
        "0        Conv           1, (3, 3), padding='SAME', b_std=0.1",
        "1        Relu",
        "2        FanOut         2",
        "3        parallel",
        "3.0        Identity",
        "3.1        serial",
        "3.1.0        Conv       1, (3, 3), strides=(2, 1), padding=((1, 1), (1, 1))",
        "3.1.1        LeakyRelu  0.2",
        "4        FanInSum",
        "5        Flatten",
        "6        Dense          1, W_std=1.5",
    ]


def test_paths_are_those_of_parameters():
    shown = {line.split()[0] for line in str(NETWORK).splitlines()[1:]}
    assert {path.rpartition(".")[0] for path in NETWORK.kernel_fn.parameters} <= shown


@pytest.mark.parametrize("value", [1.0, np.float64(1.0)])
def test_numbers_of_numpy_are_numbers(value):
    assert repr(stax.Dense(2, W_std=value)) == "Dense(2)"


def test_a_kernel_shows_shapes_and_ranges():
    kernel_fn = stax.serial(stax.Dense(1, W_std=2.0), stax.Relu(), stax.Dense(1)).kernel_fn
    text = repr(kernel_fn(np.eye(40, dtype=np.float32)))
    k = kernel_fn(np.eye(40, dtype=np.float32), None, ("nngp", "ntk"))
    assert text == (
        f"Kernel(nngp=<40x40 float32, {k.nngp.min():.4g} to {k.nngp.max():.4g}>, "
        f"ntk=<40x40 float32, {k.ntk.min():.4g} to {k.ntk.max():.4g}>, cov1=<40 float32, 0.05 to 0.05>, "
        "x1_is_x2=True, is_gaussian=True, is_input=False, shape1=(40, 1), shape2=(40, 1), channel_axis=1)"
    )
    assert repr(kernel_fn(np.zeros((0, 3)))).startswith(
        "Kernel(nngp=<0x0 float64>, ntk=<0x0 float64>, cov1=<0 float64>"
    )
