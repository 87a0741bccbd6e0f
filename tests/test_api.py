"""The public surface: Neural Tangents' vocabulary with its meaning, and what stands beyond it on the same call."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
import threading

import fastntk
import numpy as np
import pytest
from fastntk import backends, dual, stax
from fastntk.activations import NONLINEARITIES

Dense, serial = stax.Dense, stax.serial
BOTH = ("nngp", "ntk")

NET = serial(
    Dense(8, 1.3, 0.2), stax.Relu(), Dense(8, 1.1), stax.Erf(1.2, 0.7, 0.3), Dense(8, 1.0, 0.4), stax.ABRelu(0.1, -0.7),
    Dense(3, 0.9, 0.1, parameterization="standard"),
)  # fmt: skip
RESIDUAL = serial(
    Dense(8, 1.3, 0.2),
    stax.FanOut(2),
    stax.parallel(serial(stax.Relu(), Dense(8, 1.1, 0.1)), stax.Identity()),
    stax.FanInSum(),
    stax.LeakyRelu(0.2),
    Dense(3, 1.2),
)
NETWORKS = {"stack": NET, "residual": RESIDUAL}

# Twice the accuracy that the library promises: two results that round differently are this far apart at most.
APART = {np.dtype(np.float32): 4e-6, np.dtype(np.float64): 2e-12}


def data(dtype=np.float64):
    """Two sets of rows with copies, multiples, near-duplicates and a zero row."""
    rng = np.random.default_rng(5)
    x1, x2 = rng.standard_normal((12, 6)), rng.standard_normal((9, 6))
    x1[3], x1[4], x1[5] = x1[2], 2 * x1[2], x1[2] * (1 + 1e-6 * rng.standard_normal(6))
    x1[6] = 0
    x2[0], x2[1] = x1[2], x1[1] * (1 + 1e-4 * rng.standard_normal(6))
    return x1.astype(dtype), x2.astype(dtype)


def signs(*shape, dtype=np.float64):
    """Rows of signs times powers of two, features a power of 4. Norms are powers of two, products of unit rows small
    integers over one: no order of summation rounds, so that results of different products are comparable by bits."""
    rng = np.random.default_rng(6)
    return (rng.choice([-1.0, 1.0], shape) * 2.0 ** rng.integers(-3, 4, (*shape[:-1], 1))).astype(dtype)


def same(a, b):
    """Equal in dtype, shape and every bit."""
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def assert_same_kernels(a, b):
    assert [same(getattr(a, f), getattr(b, f)) for f in ("nngp", "ntk", "cov1", "cov2")] == [True] * 4


def distance(a, b):
    """Largest difference, relative to the larger of the entry and a tenth of the matrix's largest."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.max(np.abs(a - b) / np.maximum(np.abs(b), 0.1 * np.max(np.abs(b))))


# ---------------------------------------------------------------- names, order and defaults


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (
            stax.Dense,
            {
                "out_dim": inspect.Parameter.empty, "W_std": 1.0, "b_std": None, "batch_axis": 0, "channel_axis": -1,
                "parameterization": "ntk", "s": (1, 1),
            },
        ),
        (stax.Relu, {"do_stabilize": False}),
        (stax.LeakyRelu, {"alpha": inspect.Parameter.empty, "do_stabilize": False}),
        (stax.ABRelu, {"a": inspect.Parameter.empty, "b": inspect.Parameter.empty, "do_stabilize": False}),
        (stax.Abs, {"do_stabilize": False}),
        (stax.Erf, {"a": 1.0, "b": 1.0, "c": 0.0}),
        (stax.Identity, {}),
        (stax.FanOut, {"num": inspect.Parameter.empty}),
        (stax.FanInSum, {}),
    ],
)  # fmt: skip
def test_arguments_are_neural_tangents(make, parameters):
    found = inspect.signature(make).parameters
    assert {name: p.default for name, p in found.items()} == parameters
    assert list(found) == list(parameters)
    assert all(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in found.values())


def test_every_name_of_stax_is_there():
    assert set(stax.__all__) >= {
        "ABRelu", "Abs", "Dense", "Erf", "FanInSum", "FanOut", "Identity", "LeakyRelu", "Relu", "parallel", "serial"
    }  # fmt: skip
    assert all(hasattr(stax, name) for name in stax.__all__)


LAYERS = [
    Dense(3), stax.Relu(), stax.LeakyRelu(0.1), stax.ABRelu(0.1, 1.0), stax.Abs(), stax.Erf(), stax.Identity(),
    stax.FanOut(2), stax.FanInSum(), serial(), serial(Dense(3), stax.Relu()), stax.parallel(Dense(3), Dense(3)),
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_a_layer_unpacks(layer):
    init_fn, apply_fn, kernel_fn = layer
    assert callable(init_fn)
    assert callable(apply_fn)
    assert callable(kernel_fn)
    assert list(inspect.signature(init_fn).parameters)[:2] == ["rng", "input_shape"]
    assert list(inspect.signature(apply_fn).parameters)[:2] == ["params", "inputs"]
    assert list(inspect.signature(kernel_fn).parameters)[:3] == ["x1", "x2", "get"]


def test_layers_are_values():
    again = serial(*NET.layers)
    assert again == NET
    assert hash(again) == hash(NET)
    assert pickle.loads(pickle.dumps(NET)) == NET
    with pytest.raises(AttributeError):
        NET.layers[0].W_std = 2.0


def test_do_stabilize_changes_nothing():
    x, _ = data()
    for make, args in NONLINEARITIES.values():
        if "do_stabilize" not in inspect.signature(make).parameters:
            continue
        plain, stabilized = (serial(Dense(1), make(*args, flag), Dense(1)).kernel_fn(x) for flag in (False, True))
        assert_same_kernels(plain, stabilized)


def test_aliases_are_one_function():
    x, _ = data()

    def kernels(phi):
        return serial(Dense(1, 1.3, 0.1), phi, Dense(1)).kernel_fn(x)

    assert_same_kernels(kernels(stax.Relu()), kernels(stax.ABRelu(0, 1)))
    assert_same_kernels(kernels(stax.LeakyRelu(0.3)), kernels(stax.ABRelu(0.3, 1)))
    assert_same_kernels(kernels(stax.Abs()), kernels(stax.ABRelu(-1, 1)))


# ---------------------------------------------------------------- get

FIELDS = (
    "nngp", "ntk", "cov1", "cov2", "x1_is_x2", "is_gaussian", "is_input", "shape1", "shape2", "batch_axis",
    "channel_axis", "diagonal_batch", "diagonal_spatial", "is_reversed",
)  # fmt: skip


def equal(a, b):
    return same(a, b) if isinstance(a, np.ndarray) else (type(a), a) == (type(b), b)


@pytest.mark.parametrize("given", ["one set", "two sets"])
def test_get_by_name_and_by_tuple_and_none(given, dtype, backend):
    x1, x2 = data(dtype)
    args = (x1,) if given == "one set" else (x1, x2)
    whole = NET.kernel_fn(*args)
    assert isinstance(whole, fastntk.Kernel)
    together = NET.kernel_fn(*args, get=FIELDS) if given == "one set" else NET.kernel_fn(*args, FIELDS)
    assert type(together).__name__ == "AnalyticKernel"
    assert together._fields == FIELDS
    for field in FIELDS:
        alone = NET.kernel_fn(x1, args[1] if len(args) > 1 else None, field)
        assert equal(alone, getattr(whole, field)), field
        assert equal(alone, getattr(together, field)), field


def test_fields_of_a_kernel(dtype, backend):
    x1, x2 = data(dtype)
    k = NET.kernel_fn(x1, x2)
    assert (k.nngp.shape, k.ntk.shape, k.cov1.shape, k.cov2.shape) == ((12, 9), (12, 9), (12,), (9,))
    assert {a.dtype for a in (k.nngp, k.ntk, k.cov1, k.cov2)} == {dtype}
    assert (k.x1_is_x2, k.is_gaussian, k.is_input) == (False, True, False)
    assert (k.shape1, k.shape2, k.batch_axis, k.channel_axis) == ((12, 3), (9, 3), 0, 1)
    assert (k.diagonal_batch, k.diagonal_spatial, k.is_reversed) == (True, False, False)
    for cov, x in ((k.cov1, x1), (k.cov2, x2)):  # a diagonal entry is a product of two roots: a few roundings
        np.testing.assert_allclose(cov, np.diag(NET.kernel_fn(x, None, "nngp")), rtol=4 * np.finfo(dtype).eps)
    own = NET.kernel_fn(x1)
    assert (own.x1_is_x2, own.cov2, own.shape1, own.shape2) == (True, None, (12, 3), (12, 3))
    assert not serial(Dense(3), stax.Relu()).kernel_fn(x1).is_gaussian
    assert serial(Dense(3), stax.Relu(), Dense(2)).kernel_fn(x1).is_gaussian


def test_an_empty_stack_gives_the_inputs_covariance(dtype, backend):
    x1, x2 = data(dtype)
    for layer in (serial(), stax.Identity()):
        k = layer.kernel_fn(x1, x2)
        assert (k.is_gaussian, k.shape1) == (False, (12, 6))
        assert not k.ntk.any()
        exact = x1.astype(np.float64) @ x2.T.astype(np.float64) / 6
        assert np.max(np.abs(k.nngp - exact)) <= 4 * np.finfo(dtype).eps * np.max(np.abs(exact))


def test_width_of_standard_layers_counts_multipliers():
    x, _ = data()
    layers = (Dense(5, parameterization="standard", s=(1, 4)), Dense(5, s=(1, 4)))
    assert [layer.kernel_fn(x).shape1 for layer in layers] == [(12, 20), (12, 5)]


def test_channels_first():
    x1, x2 = data()
    first = serial(Dense(8, 1.3, 0.2, 1, 0), stax.Relu(), Dense(3, batch_axis=1, channel_axis=0))
    last = serial(Dense(8, 1.3, 0.2), stax.Relu(), Dense(3))
    a, b = first.kernel_fn(x1.T, x2.T), last.kernel_fn(x1, x2)
    assert_same_kernels(a, b)
    assert (a.shape1, a.shape2, a.batch_axis, a.channel_axis) == ((3, 12), (3, 9), 1, 0)


def test_get_is_case_insensitive_and_keeps_its_order():
    x, _ = data()
    assert same(NET.kernel_fn(x, None, "NTK"), NET.kernel_fn(x, None, "ntk"))
    found = NET.kernel_fn(x, None, ["NTK", "Nngp"])
    assert found._fields == ("ntk", "nngp")
    ntk, nngp = found
    assert same(ntk, NET.kernel_fn(x, None, "ntk"))
    assert same(nngp, NET.kernel_fn(x, None, "nngp"))
    assert NET.kernel_fn(x, None, ("ntk",))._fields == ("ntk",)


def test_parallel_gives_tuples():
    x1, x2 = data()
    net = stax.parallel(Dense(3, 1.3), serial(Dense(4, 1.1, 0.2), stax.Relu()))
    wide = np.concatenate([x1, x1], axis=1)
    first, second = net.kernel_fn((x1, wide), None, "ntk")
    assert same(first, Dense(3, 1.3).kernel_fn(x1, None, "ntk"))
    assert same(second, net.layers[1].kernel_fn(wide, None, "ntk"))
    found = net.kernel_fn([x1, wide], [x2, wide[:9]])
    assert [k.shape2 for k in found] == [(9, 3), (9, 4)]
    assert [type(k) for k in net.kernel_fn((x1, wide), get=BOTH)] != [np.ndarray, np.ndarray]
    assert net.kernel_fn((x1, wide), get=BOTH)[1]._fields == BOTH


def test_results_pickle():
    x1, x2 = data()
    found = NET.kernel_fn(x1, x2, BOTH)
    again = pickle.loads(pickle.dumps(found))
    assert type(again).__name__ == "AnalyticKernel"
    assert again._fields == BOTH
    assert [same(a, b) for a, b in zip(found, again, strict=True)] == [True, True]
    whole = NET.kernel_fn(x1, x2)
    assert_same_kernels(pickle.loads(pickle.dumps(whole)), whole)
    assert_same_kernels(pickle.loads(pickle.dumps(NET.kernel_fn))(x1, x2), whole)


# ---------------------------------------------------------------- composition


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("given", ["one set", "two sets"])
def test_composed_networks_are_the_serial_network(network, given, dtype, backend):
    """Bit for bit, cut anywhere, near-duplicates included, where FanOut's tuples of kernels go through too."""
    net = NETWORKS[network]
    x1, x2 = data(dtype)
    args = (x1,) if given == "one set" else (x1, x2)
    whole = net.kernel_fn(*args)
    for cut in range(1, len(net.layers)):
        first, second = serial(*net.layers[:cut]).kernel_fn, serial(*net.layers[cut:]).kernel_fn
        found = second(first(*args))
        assert_same_kernels(found, whole)
        assert (found.x1_is_x2, found.is_gaussian, found.shape1, found.shape2) == (
            whole.x1_is_x2, whole.is_gaussian, whole.shape1, whole.shape2
        )  # fmt: skip
    step = args
    for layer in net.layers:
        step = (layer.kernel_fn(*step),)
    assert_same_kernels(step[0], whole)


def test_composition_over_a_batch(dtype, backend):
    x = np.stack([data(dtype)[0], 2 * data(dtype)[0][::-1]])
    first, second = serial(*NET.layers[:3]).kernel_fn, serial(*NET.layers[3:]).kernel_fn
    assert_same_kernels(second(first(x, batch_dims=1), batch_dims=1), NET.kernel_fn(x, batch_dims=1))


@pytest.mark.parametrize("cut", range(1, 5))
def test_composition_with_channels_first(cut):
    """A kernel remembers its axes, through layers that have none."""
    axes = {"batch_axis": 1, "channel_axis": 0}
    layers = [Dense(8, 1.3, 0.2, **axes), stax.Relu(), Dense(4, **axes), stax.Erf(), Dense(3, **axes)]
    x1, x2 = data()
    whole = serial(*layers).kernel_fn(x1.T, x2.T)
    found = serial(*layers[cut:]).kernel_fn(serial(*layers[:cut]).kernel_fn(x1.T, x2.T))
    assert_same_kernels(found, whole)
    for k in (found, whole, *(serial(*layers[:n]).kernel_fn(x1.T, x2.T) for n in (2, 4))):
        assert (k.shape1[1], k.shape2[1], k.batch_axis, k.channel_axis) == (12, 9, 1, 0)
    alone = stax.Relu().kernel_fn(layers[0].kernel_fn(x1.T, x2.T))
    assert (alone.shape1, alone.shape2, alone.batch_axis, alone.channel_axis) == ((8, 12), (8, 9), 1, 0)


def test_composition_survives_pickling(dtype):
    x, _ = data(dtype)
    first, second = serial(*NET.layers[:4]).kernel_fn, serial(*NET.layers[4:]).kernel_fn
    assert_same_kernels(second(pickle.loads(pickle.dumps(first(x)))), NET.kernel_fn(x))


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_kernel_from_covariances_alone(cut, backend):
    """Replaced covariances count, with the digits they have: away from duplicates, all of them."""
    rng = np.random.default_rng(8)
    x1, x2 = rng.standard_normal((7, 6)), rng.standard_normal((5, 6))
    middle = serial(*NET.layers[:cut]).kernel_fn(x1, x2)
    rest = serial(*NET.layers[cut:]).kernel_fn
    whole = NET.kernel_fn(x1, x2, BOTH)
    for name in ("nngp", "cov1", "cov2"):
        found = rest(middle.replace(**{name: getattr(middle, name).copy()}), None, BOTH)
        assert max(distance(a, b) for a, b in zip(found, whole, strict=True)) <= APART[np.dtype(np.float64)]
    louder = middle.replace(nngp=4 * middle.nngp, ntk=4 * middle.ntk, cov1=4 * middle.cov1, cov2=4 * middle.cov2)
    expected = rest(2 * middle, None, BOTH)
    found = rest(louder, None, BOTH)
    assert max(distance(a, b) for a, b in zip(found, expected, strict=True)) <= APART[np.dtype(np.float64)]
    assert distance(found.nngp, whole.nngp) > 1e-3


def test_a_kernel_keeps_its_digits_when_only_the_ntk_changes(dtype, backend):
    x, _ = data(dtype)
    middle, rest = serial(*NET.layers[:5]).kernel_fn(x), serial(*NET.layers[5:]).kernel_fn
    found = rest(middle.replace(ntk=np.zeros_like(middle.ntk)))
    assert same(found.nngp, NET.kernel_fn(x, None, "nngp"))
    assert not same(found.ntk, NET.kernel_fn(x, None, "ntk"))


def test_a_kernel_is_immutable_and_tells_its_fields():
    k = NET.kernel_fn(*data())
    with pytest.raises(AttributeError):
        k.nngp = k.ntk
    assert set(FIELDS) <= set(k.asdict())
    assert all(k.asdict()[field] is getattr(k, field) for field in FIELDS)
    assert len(k.astuple()) == len(k.asdict())
    changed = k.replace(shape1=(12, 5), ntk=None)
    assert (changed.shape1, changed.ntk) == ((12, 5), None)
    assert changed.nngp is k.nngp
    assert k.shape1 == (12, 3)
    with pytest.raises(TypeError):
        k.replace(unknown=1)


@pytest.mark.parametrize("given", ["one set", "two sets"])
def test_kernel_arithmetic(given, dtype):
    """``c f`` scales everything by c^2; a constant of variance c^2 adds to covariances, not to the NTK."""
    x1, x2 = data(dtype)
    k = NET.kernel_fn(x1, None if given == "one set" else x2)
    for scaled, factor in (
        (k * 2, 4),
        (2 * k, 4),
        (np.float64(2) * k, 4),
        (k * -2, 4),
        (k / 4, 0.0625),
        (k * 0.5, 0.25),
    ):
        assert isinstance(scaled, fastntk.Kernel)
        for field in ("nngp", "ntk", "cov1", "cov2"):
            value = getattr(k, field)
            assert same(getattr(scaled, field), None if value is None else value * value.dtype.type(factor))
    shifted = k + 0.5
    for field in ("nngp", "cov1", "cov2"):
        value = getattr(k, field)
        assert same(getattr(shifted, field), None if value is None else value + value.dtype.type(0.25))
    assert same(shifted.ntk, k.ntk)


def test_kernel_arithmetic_composes(dtype, backend):
    """``2 f`` is the network of twice the last weights, here a power of two: to the last bit."""
    x1, x2 = data(dtype)
    first = serial(Dense(8, 1.3, 0.2), stax.Relu())
    rest = serial(Dense(8, 1.1, 0.3), stax.Erf(), Dense(1))
    doubled = serial(*first.layers, Dense(8, 2.2, 0.3), stax.Erf(), Dense(1))
    assert (
        distance(rest.kernel_fn(2 * first.kernel_fn(x1, x2), None, "nngp"), doubled.kernel_fn(x1, x2, "nngp"))
        <= (APART[dtype])
    )
    lifted = serial(Dense(8, 1.3), stax.Relu(), Dense(1)).kernel_fn(x1, x2, "nngp")
    found = serial(stax.Relu(), Dense(1)).kernel_fn(Dense(8, 1.3, 0.5).kernel_fn(x1, x2), None, "nngp")
    by_sum = serial(stax.Relu(), Dense(1)).kernel_fn(Dense(8, 1.3).kernel_fn(x1, x2) + 0.5, None, "nngp")
    assert distance(by_sum, found) <= APART[dtype]
    assert distance(by_sum, lifted) > 1e-3


# ---------------------------------------------------------------- out


def plain(shape, dtype, path):
    return np.full(shape, np.nan, dtype)


def fortran(shape, dtype, path):
    return np.full(shape, np.nan, dtype, order="F")


def memmap(shape, dtype, path):
    return np.memmap(path, dtype, "w+", shape=shape)


def rows_apart(shape, dtype, path):
    return np.full((2 * shape[0], shape[1] + 3), np.nan, dtype)[::2, 1:-2]


def columns_apart(shape, dtype, path):
    return np.full((shape[0], 3 * shape[1]), np.nan, dtype)[:, ::3]


def backwards(shape, dtype, path):
    return np.full(shape, np.nan, dtype)[::-1, ::-1]


def rows_backwards(shape, dtype, path):
    return np.full(shape, np.nan, dtype)[::-1]


def unaligned(shape, dtype, path):
    size = dtype.itemsize * int(np.prod(shape))
    return np.zeros(size + 1, np.uint8)[1:].view(dtype).reshape(shape)


TARGETS = [plain, fortran, memmap, rows_apart, columns_apart, backwards, rows_backwards, unaligned]


@pytest.mark.parametrize("make", TARGETS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("given", ["one set", "two sets"])
def test_out(make, given, dtype, backend, tmp_path):
    x1, x2 = data(dtype)
    args = (x1, None) if given == "one set" else (x1, x2)
    expected = NET.kernel_fn(*args, BOTH)
    out = make(expected.ntk.shape, dtype, tmp_path / "one")
    assert NET.kernel_fn(*args, "ntk", out=out) is out
    assert np.array_equal(out, expected.ntk)
    pair = tuple(make(expected.ntk.shape, dtype, tmp_path / name) for name in BOTH)
    found = NET.kernel_fn(*args, ("ntk", "nngp"), out=pair)
    assert found.ntk is pair[0]
    assert found.nngp is pair[1]
    assert np.array_equal(pair[0], expected.ntk)
    assert np.array_equal(pair[1], expected.nngp)
    assert NET.kernel_fn(*args, ["nngp"], out=[out]).nngp is out
    assert np.array_equal(out, expected.nngp)


@pytest.mark.parametrize("make", [rows_apart, columns_apart], ids=lambda make: make.__name__)
def test_out_writes_nothing_beside_it(make, dtype, backend):
    x1, x2 = data(dtype)
    view = make((12, 9), dtype, None)
    NET.kernel_fn(x1, x2, "ntk", out=view)
    assert np.count_nonzero(~np.isnan(view.base)) == view.size


def test_out_of_a_file_is_on_disk(tmp_path, backend):
    x1, x2 = data()
    out = np.memmap(tmp_path / "ntk", np.float64, "w+", shape=(12, 9))
    NET.kernel_fn(x1, x2, "ntk", out=out)
    out.flush()
    assert np.array_equal(np.fromfile(tmp_path / "ntk").reshape(12, 9), NET.kernel_fn(x1, x2, "ntk"))


def test_out_over_a_batch(dtype, backend):
    x = signs(3, 5, 64, dtype=dtype)
    expected = NET.kernel_fn(x, None, "ntk", batch_dims=1)
    for out in (
        np.empty((3, 5, 5), dtype),
        np.empty((3, 5, 5), dtype, order="F"),
        np.empty((6, 5, 7), dtype)[::2, :, 1:6],
    ):
        assert NET.kernel_fn(x, None, "ntk", batch_dims=1, out=out) is out
        assert np.array_equal(out, expected)


# ---------------------------------------------------------------- backend, threads, options


def test_threads_change_no_bit(dtype, backend):
    x = np.random.default_rng(9).standard_normal((150, 5)).astype(dtype)
    one = NET.kernel_fn(x, num_threads=1)
    for threads in (2, 3, 64, np.int64(2)):
        assert_same_kernels(NET.kernel_fn(x, num_threads=threads), one)
        assert same(NET.kernel_fn.diagonal(x, "ntk", num_threads=threads), np.diag(one.ntk).copy())


def used():
    return fastntk.show_config("dict")


def test_options_nest_and_end():
    before = used()
    with fastntk.options(backend="numpy", num_threads=3):
        assert (used()["backend"], used()["num_threads"]) == ("numpy", 3)
        with fastntk.options(num_threads=2):
            assert (used()["backend"], used()["num_threads"]) == ("numpy", 2)
        assert used()["num_threads"] == 3
    assert used() == before
    with pytest.raises(ZeroDivisionError), fastntk.options(num_threads=3):
        raise ZeroDivisionError
    assert used() == before


def test_options_stay_in_their_thread():
    seen = []
    with fastntk.options(num_threads=7):
        thread = threading.Thread(target=lambda: seen.append(used()["num_threads"]))
        thread.start()
        thread.join()
    assert seen == [used()["num_threads"]]


def test_arguments_win_over_options():
    x, _ = data()
    with fastntk.options(backend="nowhere"):
        found = NET.kernel_fn(x, backend="numpy")
    assert_same_kernels(found, NET.kernel_fn(x, backend="numpy"))


ABSENT = [name for name, state in backends.availability().items() if not state.startswith("available")]


@pytest.mark.parametrize("name", ["nowhere", *ABSENT])
def test_a_backend_that_is_not_there(name):
    x, _ = data()
    for call in (
        lambda: NET.kernel_fn(x, backend=name),
        lambda: NET.kernel_fn.diagonal(x, backend=name),
        lambda: NET.kernel_fn.depths(x, backend=name),
        lambda: dual.relu(1.0, 0.5, 1.0, backend=name),
    ):
        with pytest.raises((ValueError, RuntimeError), match=f"backend '{name}'"):
            call()
    with pytest.raises(ValueError, match=r"unknown backend 'nowhere'; choose from .*'cpu'.*'numpy'"):
        NET.kernel_fn(x, backend="nowhere")


COMPILED = backends.availability()["cpu"].startswith("available")
compiled = pytest.mark.skipif(not COMPILED, reason="needs the compiled backend: " + backends.availability()["cpu"])


@compiled
def test_an_instruction_set_that_is_not_there():
    with fastntk.options(backend="cpu", isa="abacus"), pytest.raises(ValueError, match=r"isa 'abacus'.*baseline"):
        NET.kernel_fn(data()[0])


@compiled
def test_backends_agree(dtype):
    """Each is within the promised accuracy of the truth, so they are within twice that of each other."""
    x1, x2 = data(dtype)
    for net in NETWORKS.values():
        by_cpu, by_numpy = (net.kernel_fn(x1, x2, BOTH, backend=name) for name in ("cpu", "numpy"))
        assert max(distance(a, b) for a, b in zip(by_cpu, by_numpy, strict=True)) <= APART[dtype]
        assert not all(same(a, b) for a, b in zip(by_cpu, by_numpy, strict=True))


@compiled
def test_the_compiled_backend_is_the_default():
    assert used()["backend"] == "cpu"
    with fastntk.options(isa="baseline"):
        assert used()["isa"] == "baseline"


def test_show_config(capsys, backend):
    assert fastntk.show_config() is None
    printed = capsys.readouterr().out
    table = used()
    name, _, isa = backend.partition(":")
    assert table["backend"] == name
    assert table["isa"] == (isa if name == "cpu" else table["isa"])
    assert set(table["backends"]) >= {"cpu", "numpy"}
    for key in ("version", "numpy", "backend", "isa", "num_threads"):
        assert key in printed
        assert str(table[key]) in printed
    assert table["numpy"] == np.__version__
    with pytest.raises(ValueError, match="mode"):
        fastntk.show_config("xml")
    assert fastntk.show_config(mode="dict") == table


def test_show_config_tells_what_is_wrong():
    with fastntk.options(backend="nowhere"):
        table = used()
    assert "unknown backend 'nowhere'" in table["backend"]
    assert table["asked for"]["backend"] == "nowhere"


ASK = """
import fastntk, numpy as np
t = fastntk.show_config('dict')
print(t['backend'], t['isa'], t['num_threads'], sep='|')
try:
    fastntk.stax.Dense(1).kernel_fn(np.eye(2))
except (ValueError, RuntimeError) as error:
    print(type(error).__name__, error)
"""


def ask(code=ASK, **environment):
    """Run a fresh interpreter with only these of the library's variables."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("FASTNTK_") or k == "FASTNTK_HIDE_COMPILED"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**env, **environment}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_environment_variables():
    assert ask(FASTNTK_BACKEND="numpy", FASTNTK_NUM_THREADS="3") == ["numpy|float64 throughout|3"]
    table, error = ask(FASTNTK_BACKEND="nowhere")
    assert "unknown backend 'nowhere'" in table
    assert error.startswith("ValueError unknown backend 'nowhere'")


@compiled
def test_environment_chooses_the_instruction_set():
    assert ask(FASTNTK_ISA="baseline", FASTNTK_NUM_THREADS="1") == ["cpu|baseline|1"]
    table, error = ask(FASTNTK_ISA="abacus")
    assert "isa 'abacus'" in table
    assert error.startswith("ValueError isa 'abacus'")


@pytest.mark.parametrize("threads", ["0", "-2", "many", "1.5"])
def test_environment_with_a_bad_number_of_threads(threads):
    code = """
import fastntk, numpy as np
try:
    fastntk.stax.Dense(1).kernel_fn(np.eye(2))
except ValueError as error:
    print(error)
"""
    (message,) = ask(code, FASTNTK_NUM_THREADS=threads)
    assert "FASTNTK_NUM_THREADS" in message
    assert threads in message


def test_without_the_compiled_module():
    code = ASK + "print(t['backends']['cpu'])\nfastntk.stax.Dense(1).kernel_fn(np.eye(2), backend='cpu')"
    env = {**os.environ, "FASTNTK_HIDE_COMPILED": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    table, why = done.stdout.splitlines()
    assert table.startswith("numpy|")
    assert why.startswith("not available")
    assert "FASTNTK_HIDE_COMPILED" in why
    assert "RuntimeError: backend 'cpu' is not available" in done.stderr


# ---------------------------------------------------------------- the diagonal, every depth, batches


@pytest.mark.parametrize("network", NETWORKS)
def test_diagonal_is_the_grams(network, dtype, backend):
    kernel_fn = NETWORKS[network].kernel_fn
    x = np.concatenate(data(dtype))
    gram = kernel_fn(x, None, BOTH)
    found = kernel_fn.diagonal(x)
    assert type(found).__name__ == "AnalyticKernel"
    assert found._fields == BOTH
    for name in BOTH:
        assert same(getattr(found, name), np.diag(getattr(gram, name)).copy())
        assert same(kernel_fn.diagonal(x, name), getattr(found, name))
    assert kernel_fn.diagonal(x, ("NTK", "nngp"))._fields == ("ntk", "nngp")


def test_diagonal_over_a_batch(dtype, backend):
    x = signs(3, 7, 64, dtype=dtype)
    grams = NET.kernel_fn(x, None, BOTH, batch_dims=1)
    for name, found in NET.kernel_fn.diagonal(x, batch_dims=1)._asdict().items():
        assert same(found, np.ascontiguousarray(np.diagonal(getattr(grams, name), axis1=1, axis2=2)))


def test_diagonal_of_many_rows_is_the_diagonal_of_each(dtype, backend):
    """More rows than one chunk takes."""
    some = data(dtype)[0]
    alone = NET.kernel_fn.diagonal(some)
    many = NET.kernel_fn.diagonal(np.tile(some, (20_000, 1)))
    for found, expected in zip(many, alone, strict=True):
        assert same(found, np.tile(expected, 20_000))


def test_diagonal_of_parallel_branches():
    x1, _ = data()
    found = stax.parallel(Dense(3, 1.3), serial(Dense(3), stax.Relu())).kernel_fn.diagonal((x1, x1), "nngp")
    assert same(found[0], Dense(3, 1.3).kernel_fn.diagonal(x1, "nngp"))
    assert same(found[1], serial(Dense(3), stax.Relu()).kernel_fn.diagonal(x1, "nngp"))


STACKS = {
    # stack -> how many layers stand before each entry of depths()
    "plain": (NET, (1, 3, 5, 7)),
    "ends in a nonlinearity": (serial(*NET.layers, stax.Relu()), (1, 3, 5, 7)),
    "identities": (serial(Dense(8), stax.Identity(), stax.Identity(), stax.Relu(), Dense(3), stax.Identity()), (1, 5)),
    "residual": (RESIDUAL, (1, 4, 6)),
    "one layer": (serial(Dense(3, 1.2)), (1,)),
    "linear": (serial(Dense(3, 1.2), Dense(4, 0.8, 0.1)), (1, 2)),
}


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("given", ["one set", "two sets"])
def test_depths_are_the_cut_networks(name, given, dtype, backend):
    net, cuts = STACKS[name]
    x1, x2 = data(dtype)
    args = (x1, None) if given == "one set" else (x1, x2)
    found = net.kernel_fn.depths(*args)
    assert found._fields == BOTH
    assert found.ntk.shape[0] == len(cuts)
    for k, cut in enumerate(cuts):
        alone = serial(*net.layers[:cut]).kernel_fn(*args, BOTH)
        assert same(found.nngp[k], alone.nngp)
        assert same(found.ntk[k], alone.ntk)
    assert same(net.kernel_fn.depths(*args, "ntk"), found.ntk)


@pytest.mark.parametrize(
    "nested",
    [
        serial(serial(*NET.layers)),
        serial(serial(*NET.layers[:3]), serial(serial(*NET.layers[3:5]), *NET.layers[5:])),
        serial(*NET.layers[:2], stax.Identity(), serial(), serial(*NET.layers[2:], stax.Identity())),
    ],
)
def test_depths_of_nested_stacks(nested):
    x1, x2 = data()
    found, flat = nested.kernel_fn.depths(x1, x2), NET.kernel_fn.depths(x1, x2)
    assert [same(a, b) for a, b in zip(found, flat, strict=True)] == [True, True]


def test_depths_of_a_single_layer():
    x1, x2 = data()
    assert same(Dense(3, 1.2).kernel_fn.depths(x1, x2, "ntk")[0], Dense(3, 1.2).kernel_fn(x1, x2, "ntk"))


def test_depths_over_a_batch(dtype, backend):
    x, y = signs(3, 5, 64, dtype=dtype), signs(3, 4, 64, dtype=dtype)[::-1]
    found = NET.kernel_fn.depths(x, y, batch_dims=1)
    loop = [NET.kernel_fn.depths(a, b) for a, b in zip(x, y, strict=True)]
    for name in BOTH:
        assert same(getattr(found, name), np.stack([getattr(one, name) for one in loop], axis=1))


def test_depths_needs_a_gaussian_layer_and_kernels():
    x, _ = data()
    with pytest.raises(ValueError, match="Gaussian"):
        stax.Identity().kernel_fn.depths(x)
    for get in (None, "cov1", ("ntk", "shape1")):
        with pytest.raises(ValueError, match=r"depths.*get"):
            NET.kernel_fn.depths(x, get=get)
    with pytest.raises(ValueError, match=r"diagonal.*get"):
        NET.kernel_fn.diagonal(x, "cov1")


@pytest.mark.parametrize("features", [64, 256])
@pytest.mark.parametrize("given", ["one set", "two sets"])
def test_a_batch_is_a_loop(given, features, dtype, backend):
    """Products of these inputs do not round: bit for bit, whoever makes the product."""
    x, y = signs(9, 6, features, dtype=dtype), signs(9, 5, features, dtype=dtype)[::-1]
    y[:, 0] = x[:, 1]
    args = (x, None) if given == "one set" else (x, y)
    found = NET.kernel_fn(*args, batch_dims=1)
    loop = [NET.kernel_fn(a, None if given == "one set" else b) for a, b in zip(x, y, strict=True)]
    for name in ("nngp", "ntk", "cov1", *(() if given == "one set" else ("cov2",))):
        assert same(getattr(found, name), np.stack([getattr(one, name) for one in loop]))
    assert found.x1_is_x2 == (given == "one set")


@pytest.mark.parametrize("given", ["one set", "two sets"])
def test_a_batch_of_any_inputs_is_a_loop_within_rounding(given, dtype, backend):
    """A stacked product may add up in another order than a single one."""
    rng = np.random.default_rng(10)
    x, y = rng.standard_normal((5, 6, 200)).astype(dtype), rng.standard_normal((5, 4, 200)).astype(dtype)
    args = (x, None) if given == "one set" else (x, y)
    found = NET.kernel_fn(*args, "ntk", batch_dims=1)
    loop = np.stack([NET.kernel_fn(a, None if given == "one set" else b, "ntk") for a, b in zip(x, y, strict=True)])
    assert distance(found, loop) <= APART[dtype]
    if given == "one set":
        assert same(found, np.ascontiguousarray(found.transpose(0, 2, 1)))


def test_many_small_problems(backend):
    """More than one chunk takes, the last one not full."""
    x = np.tile(signs(7, 3, 64), (700, 1, 1))
    found = NET.kernel_fn(x, None, "ntk", batch_dims=1)
    assert same(found, np.tile(NET.kernel_fn(x[:7], None, "ntk", batch_dims=1), (700, 1, 1)))


# ---------------------------------------------------------------- fastntk.dual


def test_dual_names():
    assert set(dir(dual)) >= {"dual", *NONLINEARITIES}
    assert dual.relu is dual.relu
    with pytest.raises(AttributeError, match="softmax"):
        dual.softmax  # noqa: B018 - the access is the test


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_dual_by_name_and_by_layer(name, dtype, backend):
    make, args = NONLINEARITIES[name]
    q = tuple(np.array(v, dtype) for v in ([1.0, 2.0, 0.0], [0.5, -1.0, 0.0], [2.0, 0.7, 1.0]))
    found = getattr(dual, name)(*q, *args)
    own = [p for p in inspect.signature(make).parameters if p != "do_stabilize"]
    for other in (
        dual.dual(make(*args), *q),
        getattr(dual, name)(*q, **dict(zip(own, args, strict=False))),
        getattr(dual, name)(q11=q[0], q12=q[1], q22=q[2], **dict(zip(own, args, strict=False))),
    ):
        assert [same(a, b) for a, b in zip(found, other, strict=True)] == [True, True]
    assert {v.dtype for v in found} == {dtype}


def test_dual_broadcasts(dtype, backend):
    rng = np.random.default_rng(12)
    q11, q22 = rng.uniform(0.5, 2, (4, 1, 1)).astype(dtype), rng.uniform(0.5, 2, 3).astype(dtype)
    q12 = rng.uniform(-0.5, 0.5, (2, 1)).astype(dtype)
    full = [np.ascontiguousarray(q) for q in np.broadcast_arrays(q11, q12, q22)]
    found, expected = dual.erf(q11, q12, q22), dual.erf(*full)
    assert found[0].shape == (4, 2, 3)
    for a, b in zip(found, expected, strict=True):
        assert same(a, b)
        assert a[3, 1, 2] == dual.erf(q11[3, 0, 0], q12[1, 0], q22[2])[a is found[1]]
    assert [v.shape for v in dual.relu(np.empty((0, 3), dtype), 0.5, 1.0)] == [(0, 3), (0, 3)]


def test_dual_dtypes():
    single = np.ones(3, np.float32)
    for q, expected in (
        ((1.0, 0.5, 2.0), np.float64),
        ((1, 0, 2), np.float64),
        ((single, 0.5, 2), np.float32),
        ((single, np.array([0, 1, 1]), 2), np.float32),
        ((np.float32(1), 0.5, 2), np.float32),
        ((single.astype(">f4"), single, 1.0), np.float32),
        (([1.0, 2.0], [0.5, 1], [1, 2]), np.float64),
    ):
        found = dual.relu(*q)
        assert {v.dtype for v in found} == {np.dtype(expected)}
        assert all(v.dtype.isnative for v in found)
    assert all(isinstance(v, np.float64) for v in dual.relu(1.0, 0.5, 2.0))
    assert dual.relu(1, 0, 2) == dual.relu(1.0, 0.0, 2.0)
    with pytest.raises(TypeError, match=r"\[relu\].*dtypes"):
        dual.relu(single, np.full(3, 0.5), 2.0)


def test_dual_out(dtype, backend):
    q = np.linspace(0.5, 2, 6, dtype=dtype).reshape(3, 2)
    expected = dual.erf(q, dtype.type(0.3), q[:, :1])
    for out in (
        (np.empty((3, 2), dtype), np.empty((3, 2), dtype)),
        [np.empty((3, 2), dtype, order="F"), np.empty((6, 4), dtype)[::2, ::2]],
    ):
        found = dual.erf(q, dtype.type(0.3), q[:, :1], out=out)
        assert found[0] is out[0]
        assert found[1] is out[1]
        assert [np.array_equal(a, b) for a, b in zip(out, expected, strict=True)] == [True, True]


def test_dual_errors():
    q = np.ones(3)
    pair = (np.empty(3), np.empty(3))
    for error, pattern, call in (
        (TypeError, "Dense", lambda: dual.dual(stax.Dense(3), 1.0, 0.5, 2.0)),
        (TypeError, "Serial", lambda: dual.dual(serial(stax.Relu()), 1.0, 0.5, 2.0)),
        (TypeError, "str", lambda: dual.dual("relu", 1.0, 0.5, 2.0)),
        (TypeError, r"\[relu\] q11.*complex", lambda: dual.relu(1j, 0.5, 1.0)),
        (TypeError, r"\[relu\] q12.*object", lambda: dual.relu(1.0, None, 1.0)),
        (TypeError, r"\[erf\] q22", lambda: dual.erf(1.0, 0.5, "a")),
        (TypeError, r"\[abs\] q11.*float16", lambda: dual.abs(np.ones(3, np.float16), 0.5, 1.0)),
        (ValueError, r"\[erf\].*broadcast", lambda: dual.erf(np.ones(3), np.ones(4), 1.0)),
        (ValueError, r"\[relu\] q11.*-1", lambda: dual.relu(-1.0, 0.5, 1.0)),
        (ValueError, r"\[leaky_relu\] q22.*-2", lambda: dual.leaky_relu(1.0, 0.5, np.array([np.nan, -2.0]), 0.1)),
        (ValueError, r"\[relu\] out.*shape", lambda: dual.relu(q, 0.5, 2.0, out=(np.empty(2), np.empty(3)))),
        (TypeError, r"\[relu\] out.*dtype", lambda: dual.relu(q, 0.5, 2.0, out=(np.empty(3, np.float32), np.empty(3)))),
        (ValueError, r"\[relu\] out overlaps", lambda: dual.relu(q, 0.5, 2.0, out=(q, np.empty(3)))),
        (ValueError, r"\[relu\].*overlap", lambda: dual.relu(q, 0.5, 2.0, out=(pair[0], pair[0]))),
        (TypeError, r"\[relu\] out.*pair", lambda: dual.relu(q, 0.5, 2.0, out=q)),
        (TypeError, "alpha", lambda: dual.leaky_relu(1.0, 0.5, 2.0)),
        (TypeError, "unknown", lambda: dual.relu(1.0, 0.5, 2.0, unknown=1)),
    ):
        with pytest.raises(error, match=pattern):
            call()


def test_dual_of_zero_and_nan_and_infinity(dtype, backend):
    nan, inf = dtype.type(np.nan), dtype.type(np.inf)
    zero, one = dtype.type(0), dtype.type(1)
    assert [float(v) for v in dual.relu(zero, zero, one)] == [0.0, 0.25]
    assert [float(v) for v in dual.erf(zero, zero, zero)] == [0.0, pytest.approx(4 / np.pi)]
    for q in ((nan, zero, one), (one, nan, one), (one, zero, nan)):
        for name, (_, args) in NONLINEARITIES.items():
            assert np.isnan(getattr(dual, name)(*q, *args)[0]), name
    neighbours = [np.array(v, dtype) for v in ([1, nan, 1, inf, 1], [0.5, 0.5, nan, 0.5, 0.5], [2, 2, 2, 2, inf])]
    for name, (_, args) in NONLINEARITIES.items():
        found = getattr(dual, name)(*neighbours, *args)
        alone = getattr(dual, name)(*(q[:1] for q in neighbours), *args)
        assert [same(a[:1], b) for a, b in zip(found, alone, strict=True)] == [True, True]
