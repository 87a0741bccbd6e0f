"""The public surface: Neural Tangents' vocabulary with its meaning."""

from __future__ import annotations

import inspect
import pickle

import fastntk
import numpy as np
import pytest
from api_inputs import APART, BOTH, NET, NETWORKS, Dense, assert_same_kernels, data, distance, same, serial, signs
from fastntk import stax
from fastntk.network.activations import NONLINEARITIES

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
