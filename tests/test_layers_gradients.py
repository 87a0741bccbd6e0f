"""Gradients through layers that move or combine positions: differences of kernels, in inputs and every parameter."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import layer_gradient_inputs as inputs
import numpy as np
import pytest
from fastntk import engines, stax
from fastntk.call import image_reverse
from fastntk.engines import numpy_image_adjoint, numpy_image_chain, numpy_image_joint
from fastntk.stax import Conv, Dense, Erf, Flatten, GlobalAvgPool, Relu, serial
from layer_gradient_inputs import compare_with_differences

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
    x1, x2 = rng.standard_normal((2, 4, 4, 2)), None if symmetric else rng.standard_normal((3, 4, 4, 2))
    compare_with_differences(NETWORKS[name].kernel_fn, x1, x2, {}, 1e-8)


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


# ---------------------------------------------------------------- every layer


def _inputs(kind, symmetric=False):
    rng = np.random.default_rng(7)
    x1, x2 = rng.standard_normal((2, *inputs.SHAPE)), None if symmetric else rng.standard_normal((2, *inputs.SHAPE))
    return x1, x2, inputs.call_of(kind, x1, x2, rng)


UNTRIED = [
    name for name, kind in inputs.classes().items()
    if not any(isinstance(part, kind) for net, _ in inputs.NETWORKS.values() for part in inputs.parts_of(net))
]  # fmt: skip


@pytest.mark.parametrize("name", inputs.NETWORKS)
def test_every_layer_against_differences(name):
    net, kind = inputs.NETWORKS[name]
    inputs.compare_with_differences(net.kernel_fn, *_inputs(kind), 1e-7)


@pytest.mark.parametrize("name", UNTRIED)
def test_layers_that_no_network_here_has(name):
    inputs.compare_with_differences(inputs.around(inputs.classes()[name]).kernel_fn, *_inputs(""), 1e-7)


@pytest.mark.parametrize(
    "name", ["attention, positions", "dropout", "norms", "means of pools", "masks, attention", "graphs"]
)
def test_images_with_themselves(name):
    net, kind = inputs.NETWORKS[name]
    x, _, keywords = _inputs(kind, True)
    inputs.compare_with_differences(net.kernel_fn, x, None, keywords, 1e-7)
    on = np.array([0.7, -1.2])
    one = dict(keywords)
    if "pattern" in one:
        one["pattern"] = one["pattern"][0]
    alone = net.kernel_fn.diagonal_vjp(x, cotangents={"ntk": on}, **one)
    gram = net.kernel_fn.vjp(x, cotangents={"ntk": np.diag(on)}, **keywords)
    assert np.allclose(alone.x1, gram.x1, rtol=1e-11, atol=1e-13)
    each = net.kernel_fn.jacobian(x, None, "ntk", **keywords)
    for path, values in zip(net.kernel_fn.parameters, each, strict=True):
        assert alone.parameters[path] == pytest.approx(gram.parameters[path], rel=1e-11, abs=1e-13)
        assert np.sum(values.diagonal() * on) == pytest.approx(gram.parameters[path], rel=1e-11, abs=1e-13)


@pytest.mark.parametrize("name", inputs.NETWORKS)
def test_near_duplicates_and_equal_ones_give_no_nan(name):
    net, kind = inputs.NETWORKS[name]
    x, y, keywords = _inputs(kind)
    y[:] = np.where(y == inputs.HIDDEN, y, x)
    y[1] += np.where(y[1] == inputs.HIDDEN, 0, 1e-11 * x[0])
    found = net.kernel_fn.vjp(x, y, cotangents={k: np.ones(net.kernel_fn(x, y, k, **keywords).shape) for k in KINDS},
                              **keywords)  # fmt: skip
    assert np.isfinite(found.x1).all()
    assert np.isfinite(found.x2).all()
    assert np.isfinite(list(found.parameters.values())).all()


def test_points_that_are_dropped_or_masked():
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal((3, 4)), rng.standard_normal((2, 4))
    layers = [Dense(2, 1.3, 0.2), Relu(), stax.Dropout(0.7), Dense(2, 1.1, 0.1), Erf(), stax.Dropout(0.6), Dense(1)]
    kernel_fn = serial(*layers).kernel_fn
    for x2 in (y, None):
        inputs.compare_with_differences(kernel_fn, x, x2, {}, 1e-7)
        on = np.ones(kernel_fn(x, x2, "ntk").shape)
        each = kernel_fn.jacobian(x, x2, "ntk", parameters="2.rate").sum()
        assert each == pytest.approx(kernel_fn.vjp(x, x2, cotangents={"ntk": on}).parameters["2.rate"], rel=1e-12)
    x[0], x[1, 2], y[1] = inputs.HIDDEN, inputs.HIDDEN, inputs.HIDDEN
    for x2 in (y, None):
        inputs.compare_with_differences(kernel_fn, x, x2, {"mask_constant": inputs.HIDDEN}, 1e-7)


def test_an_attentions_memory_is_counted():
    x = np.ones((1, 9, 9, 1))
    with pytest.raises(MemoryError, match="all pairs of positions of every layer are kept"):
        inputs.attending().kernel_fn.vjp(x, cotangents={"ntk": np.ones((1, 1))}, memory_budget=1 << 20)


@pytest.mark.rivals
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # that branches must be independent
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["attention", "norms", "product", "graphs"])
def test_against_neural_tangents(name, kind):
    theirs, jax = inputs.neural_tangents()
    x, y, keywords = _inputs("dense" if name == "graphs" else "")
    _, _, of = inputs.both_of(theirs)[name]
    kernel_fn = inputs.both_of(stax)[name].kernel_fn
    on = np.random.default_rng(9).standard_normal((2, 2))
    found = kernel_fn.vjp(x, y, cotangents={kind: on}, **keywords)
    want = jax.grad(lambda x, y: (on * of(x, y, kind, **keywords)).sum(), (0, 1))(x, y)
    for mine, expected in zip((found.x1, found.x2), want, strict=True):
        assert np.abs(mine - expected).max() < 1e-12 * np.abs(expected).max()


def test_the_norm_of_distances_is_no_parameter():
    kernel_fn = inputs.embedded("SUM", pos_emb_decay_fn=inputs.decay, pos_emb_p_norm=1.5).kernel_fn
    assert "1.W_pos_emb_std" in kernel_fn.parameters
    assert not any(path.endswith("p_norm") for path in kernel_fn.parameters)
    inputs.compare_with_differences(kernel_fn, *_inputs(""), 1e-7)


# ---------------------------------------------------------------- the tests above notice a broken formula


BROKEN = {
    "sweep.to_row(found, side, k, on_gain - P * gap": ("norms", "sweep.to_row(found, side, k, on_gain - 0 * gap"),
    "on_gain: Any = 0.0 if T is None else T * theta": ("norms", "on_gain: Any = 0 * theta"),
    "P * g * (other - g) / 2": ("norms", "0 * P"),
    "bar = bar + 2 * g * g * own[0] * after": ("norms", "pass"),
    "self._own.add(s, on_mean, None)": ("a norm, nothing bent behind", "pass"),
    "(moved - P * lost) / 2": ("product", "moved / 2"),
    "lost = lost * q[side] + so_far": ("product of three", "lost = lost + so_far"),
    "-P * ((first + second) / 2 - extra)": ("attention, SUM", "0 * P * extra"),
    "-(1 / keep - 1) / 2 * apart": ("dropout", "0 * apart"),
    "on = apart * (q1 + q2) / (2 * keep**2)": ("dropout", "on = apart * 0"),
    "whole.swapaxes(1, 2) @ (A @ K)": ("attention", "0 * whole.swapaxes(1, 2) @ (A @ K)"),
    "(inner + inner.swapaxes(1, 2)) @": ("attention", "inner @"),
    "self._numbers.add(place, moved * K)": ("attention", "pass"),
    "self._covariances(s, scale * moved)": ("attention, IDENTITY", "pass"),
    "apart = P * ((all1 - all2) - (m1 - m2))": ("means", "apart = P * (all1 - all2)"),
    "2 * after * (sum(means) - m)": ("means", "0 * after"),
    "np.where(barred, -P / 2, 0)": ("masks", "0 * P"),
    "np.where(hidden, 0, found)": ("masks, sums", "found"),
}


@pytest.mark.parametrize("old", BROKEN)
def test_a_broken_formula_is_noticed(old, monkeypatch):
    modules = (numpy_image_joint, numpy_image_adjoint, numpy_image_chain)
    files = [Path(module.__file__) for module in modules]
    assert any(old in file.read_text() for file in files)
    name, new = BROKEN[old]
    net, kind = inputs.NETWORKS[name]
    x, y, keywords = _inputs(kind)
    on = {k: np.ones(net.kernel_fn(x, y, k, **keywords).shape) for k in KINDS}

    def gradients():
        found = net.kernel_fn.vjp(x, y, cotangents=on, backend="numpy", **keywords)
        return np.concatenate([found.x1.ravel(), found.x2.ravel(), list(found.parameters.values())])

    known = gradients()
    for module, file in zip(modules, files, strict=True):
        broken = ModuleType(module.__name__)
        broken.__package__ = module.__package__
        monkeypatch.setitem(sys.modules, broken.__name__, broken)
        monkeypatch.setattr(engines, broken.__name__.rpartition(".")[2], broken)
        exec(compile(file.read_text().replace(old, new), file, "exec"), vars(broken))
    for name in ("Found", "Numbers", "Sweep", "chain"):
        monkeypatch.setattr(image_reverse, name, getattr(broken, name))
    assert not np.abs(gradients() - known).max() < 1e-5 * np.abs(known).max()
