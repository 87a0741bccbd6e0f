"""Gradients through layers that move or combine positions: differences of kernels, in inputs and every parameter."""

from __future__ import annotations

import numpy as np
import pytest
from fastntk import stax
from fastntk.stax import Conv, Dense, Erf, Flatten, GlobalAvgPool, Relu, serial
from helpers import five_points

KINDS = ("nngp", "ntk")


def conv(phi=None, W_std=1.3, **keywords):
    return serial(Conv(2, (3, 3), padding="SAME", W_std=W_std, b_std=0.3, **keywords), phi or Relu())


def local(*args, **keywords):
    return stax.ConvLocal(2, *args, W_std=1.1, b_std=0.2, **keywords)


def transposed(*args, **keywords):
    return stax.ConvTranspose(2, *args, W_std=1.2, b_std=0.1, **keywords)


def resized(method, height, width):
    return stax.ImageResize((-1, height, width, -1), method)


def concatenated():
    parts = stax.parallel(serial(conv(Erf()), Conv(2, (1, 1))), Conv(2, (2, 2), padding="SAME"))
    return serial(stax.FanOut(2), parts, stax.FanInConcat(1))


class Slopes(stax.PositionMap):
    """Differences along the height, of which no row sums up to 1."""

    def apply(self, params, inputs, xp):
        return inputs[:, 1:] - 0.7 * inputs[:, :-1]


MEAN = (GlobalAvgPool(), Dense(2, 1.1, 0.2))
POOL = stax.AvgPool((2, 2), (1, 1))
NETWORKS = {
    "resized behind all": serial(conv(), resized("bilinear", 3, 3), Flatten(), Dense(1, 1.1, 0.2)),
    "resized between": serial(conv(), resized("linear", 6, 3), conv(), *MEAN),
    "resized before a pool": serial(conv(Erf()), resized("cubic", 3, 3), conv(), POOL, conv(), Flatten(), Dense(1)),
    "nearest": serial(conv(), resized("nearest", 7, 2), conv(), POOL, conv(Erf()), *MEAN),
    "a map of one's own": serial(conv(), Slopes(), conv(Erf()), Slopes(), *MEAN),
    "local": serial(local((3, 3), padding="SAME"), Relu(), local((2, 2)), Erf(), *MEAN),
    "local before a pool": serial(conv(), local((3, 3), padding="SAME"), Relu(), POOL, conv(), *MEAN),
    "local at the end": serial(conv(), local((2, 2), strides=(2, 2))),
    "transposed": serial(conv(), transposed((3, 3), strides=(2, 2), padding="SAME"), Relu(), *MEAN),
    "transposed first": serial(transposed((2, 3), strides=(2, 1), padding="VALID"), Erf(), POOL, conv(), *MEAN),
    "transposed around": serial(conv(), transposed((3, 3), padding="CIRCULAR")),
    "concatenated": serial(conv(), concatenated(), Relu(), conv(), *MEAN),
    "turned": serial(conv(dimension_numbers=("NHWC", "HWIO", "NWHC")), Flatten(), Dense(1)),
    "indexed": serial(
        conv(), stax.Index(stax.Slice[:, 1:, ::2]), conv(), stax.Index(stax.Slice[:, 1]), Flatten(), Dense(1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_against_differences(name, symmetric):
    rng = np.random.default_rng(3)
    kernel_fn = NETWORKS[name].kernel_fn
    x1, x2 = rng.standard_normal((2, 4, 4, 2)), None if symmetric else rng.standard_normal((3, 4, 4, 2))
    on = [rng.standard_normal(k.shape) for k in kernel_fn(x1, x2, KINDS)]
    found = kernel_fn.vjp(x1, x2, cotangents=dict(zip(KINDS, on, strict=True)))

    def loss(x1, x2, kernel_fn=kernel_fn):
        return sum(np.sum(c * k) for c, k in zip(on, kernel_fn(x1, x2, KINDS, backend="numpy"), strict=True))

    step = rng.standard_normal(x1.shape)
    assert np.sum(found.x1 * step) == pytest.approx(five_points(lambda t: loss(x1 + t * step, x2)), rel=1e-8, abs=1e-9)
    if x2 is not None:
        step = rng.standard_normal(x2.shape)
        wanted = five_points(lambda t: loss(x1, x2 + t * step))
        assert np.sum(found.x2 * step) == pytest.approx(wanted, rel=1e-8, abs=1e-9)
    for path, value in kernel_fn.parameters.items():
        wanted = five_points(lambda t, at=path, v=value: loss(x1, x2, kernel_fn.with_parameters({at: v + t})))
        assert found.parameters[path] == pytest.approx(wanted, rel=1e-8, abs=1e-9), path


@pytest.mark.parametrize("name", ["nearest", "local before a pool", "transposed first", "a map of one's own"])
def test_the_diagonal_and_each_entry(name):
    rng = np.random.default_rng(4)
    kernel_fn = NETWORKS[name].kernel_fn
    x = rng.standard_normal((3, 4, 4, 2))
    x[2] = x[0]
    on = rng.standard_normal(3)
    one = kernel_fn.diagonal_vjp(x, cotangents={"ntk": on})
    gram = kernel_fn.vjp(x, cotangents={"ntk": np.diag(on)})
    assert np.allclose(one.x1, gram.x1, rtol=1e-11, atol=1e-13)
    jacobian = dict(zip(kernel_fn.parameters, kernel_fn.jacobian(x, None, "ntk"), strict=True))
    whole = kernel_fn.vjp(x, cotangents={"ntk": np.ones((3, 3))})
    for path, value in whole.parameters.items():
        assert one.parameters[path] == pytest.approx(gram.parameters[path], rel=1e-11, abs=1e-13)
        assert np.sum(jacobian[path]) == pytest.approx(value, rel=1e-11, abs=1e-13)
        assert np.array_equal(jacobian[path], jacobian[path].T)


def test_positions_from_nowhere_and_black_images_give_no_nan():
    x = np.random.default_rng(5).standard_normal((4, 4, 4, 1))
    x[1], x[2], x[3, 1:] = 0, x[0], 0
    for name in ("concatenated", "transposed", "local"):
        found = NETWORKS[name].kernel_fn.vjp(x, cotangents={"ntk": np.ones((4, 4)), "nngp": np.ones((4, 4))})
        assert np.isfinite(found.x1).all()
        assert np.isfinite(list(found.parameters.values())).all()


def test_what_has_no_gradient_says_so():
    graph = serial(conv(), stax.GlobalSelfAttention(2, 2, 2, 2), *MEAN).kernel_fn
    with pytest.raises(NotImplementedError, match=r"has an op '[a-z]*', whose gradient is not there yet"):
        graph.vjp(np.ones((1, 3, 3, 1)), cotangents={"ntk": np.ones((1, 1))})
