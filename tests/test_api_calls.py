"""Around the kernel: backend, threads and options; the diagonal, every depth, batches; fastntk.dual."""

from __future__ import annotations

import gc
import inspect
import math
import os
import subprocess
import sys
import threading
import weakref

import fastntk
import numpy as np
import pytest
from api_inputs import (
    APART,
    BOTH,
    NET,
    NETWORKS,
    RESIDUAL,
    Dense,
    assert_same_kernels,
    data,
    distance,
    same,
    serial,
    signs,
)
from fastntk import dual, stax
from fastntk.call import inputs
from fastntk.engines import select
from fastntk.network.activations import NONLINEARITIES

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


ABSENT = [name for name, state in select.availability().items() if not state.startswith("available")]


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


COMPILED = select.availability()["cpu"].startswith("available")
compiled = pytest.mark.skipif(not COMPILED, reason="needs the compiled backend: " + select.availability()["cpu"])


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
    for make, args in NONLINEARITIES.values():
        layer = make(*args)
        inside = slice(None) if math.isinf(layer.largest_variance) else slice(3)
        found = dual.dual(layer, *(q[inside] for q in neighbours))
        alone = dual.dual(layer, *(q[:1] for q in neighbours))
        assert [same(a[:1], b) for a, b in zip(found, alone, strict=True)] == [True, True]


def test_what_is_known_of_a_kind_of_inputs_answers_for_no_other():
    """Inputs of a kind are checked once: what differs in anything that checks read is another kind."""
    kernel_fn = stax.serial(stax.Dense(1, 1.2, 0.1), stax.Relu(), stax.Dense(1)).kernel_fn
    x, y = (np.random.default_rng(k).standard_normal((4, 6)) for k in range(2))
    wanted = kernel_fn(x, y, "ntk")
    for _ in range(2):
        assert same(kernel_fn(x, y, "ntk"), wanted)
        assert same(kernel_fn(x.astype(">f8"), y, "ntk"), wanted)
        assert same(kernel_fn(x, None, "ntk"), kernel_fn(x, x.copy(), "ntk"))
        assert kernel_fn((10 * x).astype(np.int64), y, "ntk").dtype == np.float64
        assert kernel_fn(x.reshape(2, 2, 6), y.reshape(2, 2, 6), "ntk", batch_dims=1).shape == (2, 2, 2)
        assert kernel_fn(x.reshape(2, 2, 6), y.reshape(2, 2, 6), "ntk").shape == (2, 2, 2, 2)
        assert same(kernel_fn(x, y, "ntk", mask_constant=99.0), wanted)
        for a, b, error in ((x, y[:, :5], ValueError), (x, y.astype(np.float32), TypeError), (x[0], y, ValueError)):
            with pytest.raises(error):
                kernel_fn(a, b, "ntk")
        for batch_dims in (True, 0.5, 2):
            with pytest.raises(ValueError, match="batch_dims must be 0 or 1"):
                kernel_fn(x, y, "ntk", batch_dims=batch_dims)
    first = stax.serial(stax.Dense(1, batch_axis=1, channel_axis=0), stax.Relu(), stax.Dense(1, 1.0, None, 1, 0))
    assert first.kernel_fn(x, y, "ntk").shape == (6, 6)


def test_what_is_known_of_inputs_is_bounded_and_holds_none_of_them():
    kernel_fn = stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1)).kernel_fn
    for n in range(inputs._MOST_SEEN + 10):
        kernel_fn(np.ones((1 + n % 17, 1 + n)), None, "nngp")
        assert len(inputs._SEEN) <= inputs._MOST_SEEN
    x = np.ones((3, 4))
    kernel_fn(x, None, "nngp")
    gone = weakref.ref(x)
    del x
    gc.collect()
    assert gone() is None
