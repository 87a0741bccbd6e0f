"""What is refused, in which words, and what strange but legal input, interruption and company do."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time

import fastntk
import numpy as np
import oracles
import pytest
from fastntk import backends, dual, stax
from fastntk.activations import NONLINEARITIES

Dense, serial = stax.Dense, stax.serial
BOTH = ("nngp", "ntk")
NET = serial(Dense(8, 1.3, 0.2), stax.Relu(), Dense(8, 1.1), stax.Erf(), Dense(8, 1.2, 0.1), stax.Abs(), Dense(3))
HOMOGENEOUS = serial(
    *(Dense(8, 1.3), stax.Relu(), Dense(8, 1.1), stax.LeakyRelu(0.2)),
    *(Dense(4, 0.9, parameterization="standard"), stax.Abs(), Dense(1)),
)
kernel_fn = NET.kernel_fn


def data(dtype=np.float64):
    """Seven rows with a copy and a near-duplicate, and four others."""
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((7, 5)), rng.standard_normal((4, 5))
    x[1], x[2] = x[0], x[0] * (1 + 1e-5 * rng.standard_normal(5))
    return x.astype(dtype), y.astype(dtype)


X, Y = data()


def same(a, b):
    """Equal in dtype, shape and every bit."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def all_same(found, expected):
    return [same(a, b) for a, b in zip(found, expected, strict=True)] == [True] * len(expected)


# ---------------------------------------------------------------- refused inputs

REFUSED = [
    # what, exception, words of the message, x1, x2, keywords
    ("0-D", ValueError, r"x1.*0 dims.*expected 2", np.ones(()), None, {}),
    ("1-D", ValueError, r"x1.*1 dims.*\(3,\).*expected 2", np.ones(3), None, {}),
    ("6-D", ValueError, r"x1.*4 spatial axes.*at most 3", np.ones((1,) * 6), None, {}),
    ("1-D second", ValueError, r"x2.*1 dims.*\(5,\)", X, np.ones(5), {}),
    ("3-D second", ValueError, r"x1 has 2 dims, x2 has 3.*\(2, 3, 5\)", X, np.ones((2, 3, 5)), {}),
    ("2-D batch", ValueError, r"x1.*\(7, 5\).*expected 3", X, None, {"batch_dims": 1}),
    ("batches differ", ValueError, r"batch \(2,\).*\(3,\)", np.ones((2, 4, 5)), np.ones((3, 4, 5)), {"batch_dims": 1}),
    ("batch_dims 2", ValueError, "batch_dims must be 0 or 1, given 2", X, None, {"batch_dims": 2}),
    ("batch_dims -1", ValueError, "batch_dims", X, None, {"batch_dims": -1}),
    ("features differ", ValueError, r"5 features.*3.*\(7, 5\).*\(2, 3\)", X, np.ones((2, 3)), {}),
    ("no features", ValueError, r"x1.*no features.*\(3, 0\)", np.ones((3, 0)), None, {}),
    ("list", TypeError, "x1.*numpy.ndarray.*list", [[1.0, 2.0]], None, {}),
    ("tuple", TypeError, "x1.*numpy.ndarray.*tuple", ((1.0, 2.0),), None, {}),
    ("float", TypeError, "x1.*numpy.ndarray.*float", 3.0, None, {}),
    ("None", TypeError, "x1.*numpy.ndarray", None, None, {}),
    ("string", TypeError, "x1.*numpy.ndarray.*str", "x", None, {}),
    ("list second", TypeError, "x2.*numpy.ndarray.*list", X, [[1.0] * 5], {}),
    ("mixed", TypeError, "x1.*float64.*x2.*float32", X, Y.astype(np.float32), {}),
    ("mixed integers", TypeError, "float64.*float32", np.ones((2, 5), int), Y.astype(np.float32), {}),
    *(
        (str(np.dtype(d)), TypeError, rf"x1.*float32 or float64.*{pattern}", np.ones((2, 2)).astype(d), None, {})
        for d, pattern in (
            (object, "object"), (complex, "complex128"), (np.float16, "float16"), ("S3", "S3"), ("U3", "U3"),
            ("m8[s]", "timedelta64"), ("M8[s]", "datetime64"), (np.complex64, "complex64"),
        )
    ),
    ("longdouble second", TypeError, "x2.*float32 or float64", X, Y.astype(np.longdouble), {}),
    ("records", TypeError, "x1", np.zeros((2, 2), [("a", "f8")]), None, {}),
    ("unknown field", ValueError, r"get.*'foo'.*nngp", X, None, {"get": "foo"}),
    ("no field", (TypeError, ValueError), "get", X, None, {"get": ()}),
    ("empty name", ValueError, "get", X, None, {"get": ""}),
    ("a number for a field", (TypeError, ValueError), "get.*3", X, None, {"get": 3}),
    ("a number among fields", (TypeError, ValueError), "get.*3", X, None, {"get": ("ntk", 3)}),
    ("a field twice", ValueError, "repeats", X, None, {"get": ("ntk", "NTK")}),
    *(
        (f"{t!r} threads", (TypeError, ValueError), "num_threads", X, None, {"num_threads": t})
        for t in (0, -1, 1.5, "a", "2")
    ),
    *((f"budget {b!r}", ValueError, "memory_budget", X, None, {"memory_budget": b}) for b in (0, -1, 1.5, "a", True)),
    ("progress", TypeError, "progress.*'x'", X, None, {"progress": "x"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "pattern", "x1", "x2", "keywords"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_refused(error, pattern, x1, x2, keywords):
    with pytest.raises(error, match=pattern):
        kernel_fn(x1, x2, **{"get": "ntk", **keywords})


@pytest.mark.parametrize(
    ("error", "pattern", "x"),
    [(r[1], r[2], r[3]) for r in REFUSED if r[4] is None and not r[5]],
    ids=[r[0] for r in REFUSED if r[4] is None and not r[5]],
)
def test_refused_by_diagonal_and_depths(error, pattern, x):
    for method in (kernel_fn.diagonal, kernel_fn.depths):
        with pytest.raises(error, match=pattern):
            method(x)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "a"])
def test_number_of_threads_everywhere(threads):
    for call in (
        lambda: kernel_fn.diagonal(X, num_threads=threads),
        lambda: kernel_fn.depths(X, num_threads=threads),
        lambda: dual.relu(1.0, 0.5, 1.0, num_threads=threads),
    ):
        with pytest.raises((TypeError, ValueError), match="num_threads"):
            call()
    with pytest.raises((TypeError, ValueError), match="num_threads"), fastntk.options(num_threads=threads):
        kernel_fn(X)


class Foreign:
    """An array of another library, as far as NumPy can see."""

    shape, ndim, dtype = (2, 5), 2, np.dtype(np.float32)

    def __array__(self, dtype=None, copy=None):
        return np.ones((2, 5), np.float32)


def test_arrays_of_other_libraries():
    for x1, x2, name in ((Foreign(), None, "x1"), (X, Foreign(), "x2")):
        with pytest.raises(TypeError, match=rf"{name}.*Foreign.*numpy\.asarray"):
            kernel_fn(x1, x2, "ntk")


@pytest.mark.rivals
def test_torch_arrays():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    with pytest.raises(TypeError, match=r"x1.*torch.*numpy\.asarray"):
        kernel_fn(torch.ones((2, 5)), None, "ntk")


@pytest.mark.rivals
def test_jax_arrays():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    with pytest.raises(TypeError, match=r"x1.*jax.*numpy\.asarray"):
        kernel_fn(jax.numpy.ones((2, 5)), None, "ntk")


def test_tuples_of_inputs():
    net = stax.parallel(Dense(3), Dense(3))
    for pattern, x1, x2 in (
        (r"(?i:parallel).*2 branches", X, None),
        ("x1 has 2 entries", (X, X), X),
        ("x1 has 2 entries", (X, X), (X, X, X)),
        ("samples", (X, X[:3]), None),
        (r"(?i:parallel).*2 branches", (X, X, X), None),
    ):
        with pytest.raises(ValueError, match=pattern):
            net.kernel_fn(x1, x2, "ntk")
    for x1, x2 in ((X, (X, X)), ((X, X.astype(np.float32)), None), ((), None)):
        with pytest.raises((TypeError, ValueError), match=r"x1|x2|dtype"):
            net.kernel_fn(x1, x2, "ntk")
    with pytest.raises(ValueError, match=r"serial\[0\] Dense.*one input"):
        kernel_fn((X, X), None, "ntk")


# ---------------------------------------------------------------- refused networks

D = Dense(8)
NOT_GAUSSIAN = [
    (stax.Relu(), ValueError, r"\[Relu\] needs Gaussian inputs"),
    (stax.LeakyRelu(0.1), ValueError, r"\[LeakyRelu\] needs Gaussian inputs"),
    (stax.ABRelu(0.1, 1.0), ValueError, r"\[ABRelu\] needs Gaussian inputs"),
    (stax.Abs(), ValueError, r"\[Abs\] needs Gaussian inputs"),
    (stax.Erf(), ValueError, r"\[Erf\] needs Gaussian inputs"),
    (serial(stax.Relu()), ValueError, r"\[serial\[0\] Relu\] needs Gaussian inputs"),
    (serial(D, stax.Relu(), stax.Erf()), ValueError, r"\[serial\[2\] Erf\] needs Gaussian inputs"),
    (serial(D, stax.Relu(), stax.Identity(), stax.Abs()), ValueError, r"\[serial\[3\] Abs\] needs Gaussian inputs"),
    (serial(D, serial(stax.Relu(), stax.Relu())), ValueError, r"serial\[1\].*serial\[1\] Relu\] needs Gaussian inputs"),
    (
        serial(D, stax.FanOut(2), stax.parallel(D, serial(stax.Relu(), stax.Erf())), stax.FanInSum()),
        ValueError, r"serial\[2\].*parallel\[1\].*serial\[1\] Erf\] needs Gaussian inputs",
    ),
    (serial(stax.FanOut(2), stax.FanInSum()), NotImplementedError, r"\[serial\[1\] FanInSum\].*Gaussian"),
    (
        serial(D, stax.FanOut(2), stax.parallel(stax.Relu(), stax.Identity()), stax.FanInSum()),
        NotImplementedError, r"\[serial\[3\] FanInSum\].*Gaussian.*\[False, True\]",
    ),
    (
        serial(stax.FanOut(2), stax.parallel(Dense(3), Dense(4)), stax.FanInSum()),
        ValueError, r"\[serial\[2\] FanInSum\].*widths \[3, 4\]",
    ),
    (stax.FanInSum(), ValueError, r"\[FanInSum\].*branches"),
    (serial(D, stax.FanInSum()), ValueError, r"\[serial\[1\] FanInSum\].*branches"),
    (serial(stax.FanOut(2), D), ValueError, r"\[serial\[1\] Dense\].*one input.*2"),
    (serial(stax.FanOut(2), stax.Relu()), ValueError, r"\[serial\[1\] Relu\].*one input.*2"),
    (stax.parallel(D, D), ValueError, r"\[(?i:parallel)\].*2 branches.*1"),
    (serial(stax.FanOut(3), stax.parallel(D, D)), ValueError, r"\[serial\[1\] (?i:parallel)\].*2 branches.*3"),
    (
        serial(Dense(3, 1.0, None, 1, 0), D), ValueError,
        r"\[serial\[1\] Dense\].*batch_axis=0.*channel_axis=-1.*1.*0",
    ),
    (Dense(3, batch_axis=1, channel_axis=1), ValueError, "Dense.*batch_axis.*channel_axis"),
    (Dense(3, batch_axis=3), ValueError, "Dense.*batch_axis.*3"),
    (Dense(3, channel_axis=-3), ValueError, "Dense.*channel_axis.*-3"),
]  # fmt: skip


@pytest.mark.parametrize(("net", "error", "pattern"), NOT_GAUSSIAN, ids=[pattern for _, _, pattern in NOT_GAUSSIAN])
def test_refused_networks(net, error, pattern):
    for call in (net.kernel_fn, net.kernel_fn.diagonal, net.kernel_fn.depths):
        with pytest.raises(error, match=pattern):
            call(X)


@pytest.mark.parametrize(
    ("make", "pattern"),
    [
        (lambda: Dense(0), "Dense.*out_dim.*0"),
        (lambda: Dense(-3), "Dense.*out_dim.*-3"),
        (lambda: Dense(3.5), r"Dense.*out_dim.*3\.5"),
        (lambda: Dense("3"), "Dense.*out_dim.*3"),
        (lambda: Dense(None), "Dense.*out_dim"),
        (lambda: Dense(3, -1.0), r"Dense.*W_std.*-1\.0"),
        (lambda: Dense(3, float("nan")), "Dense.*W_std.*nan"),
        (lambda: Dense(3, float("inf")), "Dense.*W_std.*inf"),
        (lambda: Dense(3, "a"), "Dense.*W_std.*a"),
        (lambda: Dense(3, None), "Dense.*W_std"),
        (lambda: Dense(3, 1.0, -0.5), r"Dense.*b_std.*-0\.5"),
        (lambda: Dense(3, 1.0, float("inf")), "Dense.*b_std.*inf"),
        (lambda: Dense(3, 1.0, "a"), "Dense.*b_std.*a"),
        (lambda: Dense(3, parameterization="mean-field"), "Dense.*parameterization.*mean-field"),
        (lambda: Dense(3, s=(0, 1)), "Dense.* s .*0"),
        (lambda: Dense(3, s=(1, 2, 3)), r"Dense.* s .*\(1, 2, 3\)"),
        (lambda: Dense(3, s=2), "Dense.* s .*2"),
        (lambda: stax.ABRelu(float("nan"), 1.0), "ABRelu.*nan"),
        (lambda: stax.LeakyRelu(float("inf")), "Relu.*inf"),
        (lambda: stax.Erf(b=float("nan")), "Erf.*nan"),
        (lambda: stax.FanOut(0), "FanOut.*num.*0"),
        (lambda: serial(3), "serial.*argument 0.*int"),
        (lambda: serial(D, "Relu"), "serial.*argument 1.*str"),
        (lambda: serial(tuple(D)), "serial.*argument 0.*tuple"),
        (lambda: serial(D, stax.Relu), "serial.*argument 1"),
        (lambda: stax.parallel(D, None), "parallel.*argument 1.*None"),
    ],
)  # fmt: skip
def test_refused_layers(make, pattern):
    with pytest.raises((TypeError, ValueError), match=pattern):
        make()


# ---------------------------------------------------------------- refused finite networks


@pytest.mark.parametrize(
    ("error", "pattern", "call"),
    [
        (TypeError, "rng.*list", lambda: NET.init_fn([0, 1], (4, 5))),
        (TypeError, "rng.*bool", lambda: NET.init_fn(True, (4, 5))),
        (TypeError, "rng.*ndarray", lambda: NET.init_fn(np.array([0, 1], np.uint32), (4, 5))),
        (TypeError, "rng.*RandomState", lambda: NET.init_fn(np.random.RandomState(0), (4, 5))),
        (ValueError, "Dense.*-1", lambda: D.init_fn(0, (4, -1))),
        (ValueError, "Dense.*-1", lambda: NET.init_fn(0, (4, -1))),
        (ValueError, "Dense.*0", lambda: D.init_fn(0, (4, 0))),
        ((TypeError, ValueError), "dtype.*int", lambda: NET.init_fn(0, (4, 5), dtype=int)),
        ((TypeError, ValueError), "dtype.*complex", lambda: NET.init_fn(0, (4, 5), dtype=complex)),
        ((TypeError, ValueError), "dtype.*float16", lambda: NET.init_fn(0, (4, 5), dtype=np.float16)),
        (ValueError, r"parallel.*\(4, 5\)", lambda: stax.parallel(D, D).init_fn(0, (4, 5))),
        (ValueError, "parallel.*2", lambda: stax.parallel(D, D).init_fn(0, ((4, 5),))),
        (ValueError, "Dense.*one input", lambda: serial(stax.FanOut(2), D).init_fn(0, (4, 5))),
        (ValueError, "FanInSum", lambda: serial(D, stax.FanInSum()).init_fn(0, (4, 5))),
        (
            ValueError, "FanInSum",
            lambda: serial(stax.FanOut(2), stax.parallel(Dense(3), Dense(4)), stax.FanInSum()).init_fn(0, (4, 5)),
        ),
        (
            (TypeError, ValueError), "apply_fn.*inputs.*arrays",
            lambda: NET.apply_fn(NET.init_fn(0, (4, 5))[1], [[1.0] * 5]),
        ),
        (
            ValueError, r"Dense.*(3.*5|5.*3)",
            lambda: NET.apply_fn(NET.init_fn(0, (4, 5))[1], np.ones((4, 3))),
        ),
        (ValueError, "serial.*7.*2", lambda: NET.apply_fn(NET.init_fn(0, (4, 5))[1][:2], np.ones((4, 5)))),
        (ValueError, "parallel.*2", lambda: stax.parallel(D, D).apply_fn(((), ()), (X,))),
    ],
)  # fmt: skip
def test_refused_finite_networks(error, pattern, call):
    with pytest.raises(error, match=pattern):
        call()


# ---------------------------------------------------------------- refused kernels

HALF, REST = serial(*NET.layers[:3]).kernel_fn, serial(*NET.layers[3:]).kernel_fn


FIELD_CHANGES = [
    ("nngp", lambda a: a[:, :3]),
    ("nngp", lambda a: a[:2]),
    ("nngp", lambda a: a[0]),
    ("nngp", lambda a: a[None]),
    ("ntk", lambda a: a[:, :3]),
    ("ntk", lambda a: a.T[:2]),
    ("cov1", lambda a: a[:3]),
    ("cov1", lambda a: a[:, None]),
    ("cov2", lambda a: a[:3]),
    *(
        (field, change)
        for field in ("nngp", "ntk", "cov1", "cov2")
        for change in (
            lambda a: a.astype(np.float32),
            lambda a: a.astype(int),
            lambda a: a.astype(complex),
            lambda a: a.tolist(),
        )
    ),
]


@pytest.mark.parametrize(
    ("given", "field", "change"),
    [(g, f, c) for f, c in FIELD_CHANGES for g in ("one set", "two sets") if (g, f) != ("one set", "cov2")],
)
def test_refused_fields_of_a_kernel(given, field, change):
    k = HALF(X, None if given == "one set" else Y)
    with pytest.raises((TypeError, ValueError), match=field):
        REST(k.replace(**{field: change(getattr(k, field))}), None, BOTH)


@pytest.mark.parametrize(
    ("error", "pattern", "call"),
    [
        (ValueError, "ntk", lambda k: REST(k.replace(ntk=None), None, "ntk")),
        (ValueError, "ntk", lambda k: REST(k.replace(ntk=None), None, BOTH)),
        (ValueError, "ntk", lambda k: REST.depths(k.replace(ntk=None))),
        (ValueError, "x2.*ndarray", lambda k: REST(k, X)),
        (ValueError, "x2.*Kernel", lambda k: REST(k, k)),
        (TypeError, "x2.*Kernel", lambda k: REST(X, k)),
        (TypeError, "diagonal.*Kernel", lambda k: REST.diagonal(k)),
        (ValueError, r"\[serial\[0\] Erf\].*Gaussian", lambda k: REST(stax.Relu().kernel_fn(k))),
        (ValueError, "nngp.*3", lambda k: REST(HALF(X[None], batch_dims=1))),
        (ValueError, "nngp.*2 dims.*expected 3", lambda k: REST(k, batch_dims=1)),
        # as the serial network of both refuses it
        (ValueError, "batch_axis", lambda k: serial(stax.Erf(), Dense(3, batch_axis=1, channel_axis=0)).kernel_fn(k)),
    ],
)
def test_refused_kernels(error, pattern, call):
    with pytest.raises(error, match=pattern):
        call(HALF(X))


def test_a_kernel_without_ntk_gives_the_nngp(backend):
    found = REST(HALF(X).replace(ntk=None), None, "nngp")
    assert same(found, kernel_fn(X, None, "nngp"))
    whole = REST(HALF(X, None, None).replace(ntk=None))
    assert same(whole.nngp, found)
    assert whole.ntk is None
    assert same(REST.depths(HALF(X).replace(ntk=None), get="nngp")[-1], found)


@pytest.mark.parametrize("field", ["nngp", "ntk", "cov1"])
def test_byte_swapped_fields_of_a_kernel(field, dtype, backend):
    """Taken as the numbers they are, or refused: never as other numbers."""
    k = HALF(X.astype(dtype))
    plain = REST(k.replace(**{field: getattr(k, field).copy()}), None, BOTH)
    try:
        found = REST(k.replace(**{field: getattr(k, field).astype(dtype.newbyteorder())}), None, BOTH)
    except TypeError as error:
        found = error
    assert field in str(found) if isinstance(found, TypeError) else all_same(found, plain)


# ---------------------------------------------------------------- refused out


def test_refused_out():
    x = X.astype(np.float32)
    square = np.empty((7, 7), np.float32)
    shared = np.zeros((7, 14), np.float32)
    shared[:, :5] = x
    for error, pattern, keywords in (
        (TypeError, "out.*dtype float32.*float64", {"out": np.empty((7, 7))}),
        (TypeError, "out.*dtype", {"out": np.empty((7, 7), np.int32)}),
        (TypeError, "out.*dtype", {"out": np.empty((7, 7), np.dtype(np.float32).newbyteorder())}),
        (ValueError, r"out.*shape \(7, 7\).*\(7, 6\)", {"out": np.empty((7, 6), np.float32)}),
        (ValueError, r"out.*shape", {"out": np.empty((1, 7, 7), np.float32)}),
        (ValueError, r"out.*shape", {"out": np.empty(49, np.float32)}),
        (ValueError, "out.*read-only", {"out": np.broadcast_to(np.float32(0), (7, 7))}),
        (TypeError, "out.*numpy.ndarray.*list", {"out": [[0.0]]}),
        (TypeError, "out.*numpy.ndarray", {"out": (square, [1])}),
        (TypeError, "out.*2 arrays", {"out": square, "get": BOTH}),
        (TypeError, "out.*2 arrays", {"out": (square,), "get": BOTH}),
        (TypeError, "out.*2 arrays", {"out": np.empty((2, 7, 7), np.float32), "get": BOTH}),
        (ValueError, "out.*overlap", {"out": (square, square), "get": BOTH}),
        (ValueError, "out.*overlap", {"out": (shared[:, :7], shared[:, 6:13]), "get": BOTH}),
        (ValueError, "out.*get", {"out": square, "get": None}),
        (ValueError, "out.*get", {"out": np.empty(7, np.float32), "get": "cov1"}),
        (ValueError, "out.*get", {"out": (square, np.empty(7, np.float32)), "get": ("ntk", "cov1")}),
    ):
        with pytest.raises(error, match=pattern):
            kernel_fn(x, None, **{"get": "ntk", **keywords})
    for own in (shared[:, :5], shared[:, 2:7]):
        with pytest.raises(ValueError, match="out overlaps an input"):
            kernel_fn(own, None, "ntk", out=shared[:, 4:11])
        with pytest.raises(ValueError, match="out overlaps an input"):
            kernel_fn(x, own, "ntk", out=shared[:, 4:11])
    with pytest.raises(ValueError, match=r"one output.*get|out.*one output"):
        stax.parallel(D, D).kernel_fn((X, X), None, "ntk", out=np.empty((7, 7)))


def test_out_beside_the_input_in_one_array(backend):
    """Interleaved, but no element in common."""
    wide = np.zeros((7, 14))
    wide[:, :5] = X
    out = wide[:, 5:12]
    assert kernel_fn(wide[:, :5], None, "ntk", out=out) is out
    assert np.array_equal(out, kernel_fn(X, None, "ntk"))


def test_out_of_a_composed_kernel_overlapping_its_state():
    k = HALF(X)
    with pytest.raises(ValueError, match="out overlaps an input"):
        REST(k, None, "ntk", out=k.ntk)


def test_refused_calls_leave_out_alone():
    out = np.full((7, 7), 7.0)
    for call in (
        lambda: kernel_fn(X, Y, "ntk", out=out),
        lambda: kernel_fn(X.astype(np.float32), None, "ntk", out=out),
        lambda: stax.Relu().kernel_fn(X, None, "ntk", out=out),
        lambda: kernel_fn(X, None, "ntk", out=out, backend="nowhere"),
        lambda: kernel_fn(X, None, "ntk", out=out, num_threads=0),
    ):
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            call()
    assert (out == 7).all()


# ---------------------------------------------------------------- legal and strange


def test_empty_batches(dtype, backend):
    x = X.astype(dtype)
    none = np.empty((0, 5), dtype)
    for x1, x2, shape in ((none, None, (0, 0)), (none, x, (0, 7)), (x, none, (7, 0)), (none, none, (0, 0))):
        k = kernel_fn(x1, x2)
        assert [a.shape for a in (k.nngp, k.ntk, k.cov1)] == [shape, shape, shape[:1]]
        assert {a.dtype for a in (k.nngp, k.ntk, k.cov1)} == {dtype}
        if x2 is not None:
            assert k.cov2.shape == shape[1:]
        assert kernel_fn.depths(x1, x2, "ntk").shape == (4, *shape)
        assert REST(HALF(x1, x2), None, "ntk").shape == shape
        out = np.empty(shape, dtype)
        assert kernel_fn(x1, x2, "ntk", out=out) is out
    assert [a.shape for a in kernel_fn.diagonal(none)] == [(0,), (0,)]
    for shape, gram in (((0, 7, 5), (0, 7, 7)), ((3, 0, 5), (3, 0, 0)), ((0, 0, 5), (0, 0, 0))):
        assert kernel_fn(np.empty(shape, dtype), None, "ntk", batch_dims=1).shape == gram
        assert kernel_fn.diagonal(np.empty(shape, dtype), "ntk", batch_dims=1).shape == gram[:2]
        assert kernel_fn.depths(np.empty(shape, dtype), get="ntk", batch_dims=1).shape == (4, *gram)


def test_one_row_and_one_feature(dtype, backend):
    x = X.astype(dtype)
    whole = kernel_fn(x, None, BOTH)
    assert all_same(kernel_fn(x[:1], None, BOTH), [k[:1, :1].copy() for k in whole])
    assert kernel_fn(x[:, :1], None, "ntk").shape == (7, 7)
    assert np.isfinite(kernel_fn(x[:, :1], None, "ntk")).all()


@pytest.mark.parametrize("given", [np.int8, np.int64, np.uint8, np.uint64, np.int32, bool])
def test_integers_and_bool_count_as_float64(given, backend):
    x = np.random.default_rng(0).integers(0, 2 if given is bool else 100, (6, 4)).astype(given)
    before = x.copy()
    found = kernel_fn(x, None, BOTH)
    assert all_same(found, kernel_fn(x.astype(np.float64), None, BOTH))
    assert all_same(kernel_fn(x, x[:3].astype(np.float64), BOTH), kernel_fn(x.astype(float), x[:3].astype(float), BOTH))
    assert all_same(kernel_fn.diagonal(x), [np.diag(k).copy() for k in found])
    assert same(x, before)


def contiguous(x):
    return x.copy()


def fortran(x):
    return np.asfortranarray(x)


def strided(x):
    wide = np.full((2 * x.shape[0], 3 * x.shape[1]), np.nan, x.dtype)
    wide[::2, ::3] = x
    return wide[::2, ::3]


def backwards(x):
    return np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def swapped(x):
    return x.astype(x.dtype.newbyteorder())


def unaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    raw[...] = x
    return raw


def swapped_backwards(x):
    return backwards(swapped(x))


LAYOUTS = [contiguous, fortran, strided, backwards, read_only, swapped, unaligned, swapped_backwards]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_layouts_of_inputs(layout, dtype, backend):
    x, y = X.astype(dtype), Y.astype(dtype)
    own = layout(x)
    memory = own if own.base is None else own.base
    before = memory.tobytes()
    assert all_same(kernel_fn(own, None, BOTH), kernel_fn(x, None, BOTH))
    assert all_same(kernel_fn(own, layout(y), BOTH), kernel_fn(x, y, BOTH))
    assert all_same(kernel_fn.diagonal(own), kernel_fn.diagonal(x))
    assert all_same(kernel_fn.depths(own, layout(y)), kernel_fn.depths(x, y))
    assert {k.dtype for k in kernel_fn(own, None, BOTH)} == {dtype}
    batch = np.stack([x, 2 * x])
    assert all_same(
        kernel_fn(np.stack([layout(x), layout(2 * x)]), None, BOTH, batch_dims=1),
        kernel_fn(batch, None, BOTH, batch_dims=1),
    )
    turned = batch.transpose(2, 1, 0).copy().transpose(2, 1, 0)
    assert all_same(kernel_fn(turned, None, BOTH, batch_dims=1), kernel_fn(batch, None, BOTH, batch_dims=1))
    assert memory.tobytes() == before


def test_a_byte_swapped_and_a_native_set(dtype, backend):
    x, y = X.astype(dtype), Y.astype(dtype)
    assert all_same(kernel_fn(swapped(x), y, BOTH), kernel_fn(x, y, BOTH))


def test_broadcast_rows(dtype, backend):
    x = np.broadcast_to(X[:1].astype(dtype), (6, 5))
    assert all_same(kernel_fn(x, None, BOTH), kernel_fn(x.copy(), None, BOTH))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_stay_in_their_rows_and_columns(bad, dtype, backend):
    x, y = X.astype(dtype), Y.astype(dtype)
    hurt = x.copy()
    hurt[1, 3] = bad  # a row that had a copy and a near-duplicate
    others = [0, 2, 3, 4, 5, 6]
    rows = np.ix_(others, others)
    clean, found = kernel_fn(x), kernel_fn(hurt)
    for field in BOTH:
        a, b = getattr(found, field), getattr(clean, field)
        assert same(a[rows], b[rows])
        assert not np.isfinite(a[1]).any()
        assert not np.isfinite(a[:, 1]).any()
    assert same(found.cov1[others], clean.cov1[others])
    assert not np.isfinite(found.cov1[1])
    for first, second, index in ((hurt, y, (1, slice(None))), (y, hurt, (slice(None), 1))):
        clean, found = (kernel_fn(*args, BOTH) for args in ((x, y) if second is y else (y, x), (first, second)))
        for a, b in zip(found, clean, strict=True):
            assert not np.isfinite(a[index]).any()
            assert same(np.delete(a, 1, axis=index.index(1)), np.delete(b, 1, axis=index.index(1)))
    assert all(not np.isfinite(k[1]) for k in kernel_fn.diagonal(hurt))
    assert all_same([k[others] for k in kernel_fn.diagonal(hurt)], [k[others] for k in kernel_fn.diagonal(x)])
    whole, pair = (
        kernel_fn(np.stack([x, hurt]), None, "ntk", batch_dims=1),
        kernel_fn(np.stack([x, x]), None, "ntk", batch_dims=1),
    )
    assert same(whole[0], pair[0])
    assert same(whole[1][rows], pair[1][rows])
    assert all_same(REST(HALF(hurt), None, BOTH), kernel_fn(hurt, None, BOTH))


def test_a_nan_in_a_kernels_covariances_stays_there(dtype, backend):
    k = HALF(X.astype(dtype), Y.astype(dtype))
    clean = REST(k.replace(nngp=k.nngp.copy()), None, BOTH)
    nngp = k.nngp.copy()
    nngp[2, 1] = np.nan
    for a, b in zip(REST(k.replace(nngp=nngp), None, BOTH), clean, strict=True):
        assert np.isnan(a[2, 1])
        a[2, 1] = b[2, 1]
        assert same(a, b)


# ---------------------------------------------------------------- extreme numbers


# 1e-320 is subnormal: what comes of it has few digits, and is not tried.
EXTREMES = (1e-300, 1e-200, 1e-20, 1.0, 1e20, 1e200, 1e300)


def exact_duals(name, args, q11, q12, q22):
    """k and kdot in the oracle's digits; erf's kdot with a determinant that no 1 is lost against."""
    found = []
    for q in zip(q11, q12, q22, strict=True):
        q11, q12, q22 = (v if isinstance(v, oracles.mp.mpf) else oracles.mp.mpf(float(v)) for v in q)
        if name == "erf":
            k = 2 * oracles.mp.asin(2 * q12 / oracles.mp.sqrt((1 + 2 * q11) * (1 + 2 * q22))) / oracles.mp.pi
            S2 = 1 + 2 * (q11 + q22) + 4 * (q11 * q22 - q12**2)
            found.append((k, 4 / (oracles.mp.pi * oracles.mp.sqrt(S2))))
        else:
            found.append(oracles.DUALS[name](q11, q12, q22, *args))
    return np.array(found, dtype=object).T


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_dual_of_extreme_variances(name, backend):
    """Each is a quotient of numbers in range, though their products are not."""
    args = NONLINEARITIES[name][1]
    # rho below 1 in absolute value, and exactly 1; where erf's kdot is below the smallest number, 0 is right.
    q11, q22, rho = (a.ravel() for a in np.meshgrid(EXTREMES, EXTREMES, [-0.75, 0.0, 0.25, 0.9, 1.0]))
    keep = (rho < 1) | (q11 == q22)
    q11, q22, rho = q11[keep], q22[keep], rho[keep]
    q12 = rho * (np.sqrt(q11) * np.sqrt(q22))
    q12[rho == 1] = q11[rho == 1]
    found = getattr(dual, name)(q11, q12, q22, *args)
    exact = exact_duals(name, args, q11, q12, q22).astype(float)
    ends = [exact_duals(name, args, q, q, q).astype(float) for q in (q11, q22)]
    for k, what in enumerate(("k", "kdot")):
        scale = np.maximum(np.abs(exact[k]), 0.1 * np.sqrt(ends[0][k]) * np.sqrt(ends[1][k]))
        scale = np.maximum(scale, np.finfo(np.float64).tiny)
        assert np.max(np.abs(found[k] - exact[k]) / scale) <= 1e-14, what


@pytest.mark.parametrize("spread", ["one scale", "each its own"])
def test_extreme_norms(spread, dtype, backend):
    """Of powers of two: a homogeneous network's kernel scales with them, to the last bit."""
    largest = {"float32": 60, "float64": 480}[dtype.name]
    x = X.astype(dtype)
    if spread == "one scale":
        powers = [np.full(7, p) for p in (largest, -largest)]
    else:
        powers = [np.array([largest, 0, -largest, 3, -largest, largest, -5])]
    base = HOMOGENEOUS.kernel_fn(x, None, BOTH)
    for power in powers:
        c = dtype.type(2.0) ** power.astype(dtype)
        found = HOMOGENEOUS.kernel_fn(c[:, None] * x, None, BOTH)
        assert all_same(found, [c[:, None] * k * c for k in base])
        assert all_same(HOMOGENEOUS.kernel_fn.diagonal(c[:, None] * x), [np.diag(k).copy() for k in found])


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_extreme_norms_of_any_network(name, dtype, backend):
    """From tiny to huge, against the formulas in 100 digits; no two rows are copies, the diagonal is."""
    make, args = NONLINEARITIES[name]
    net = serial(Dense(1, 1.3, 0.2), make(*args), Dense(1, 1.1, 0.1))
    largest, promised = {"float32": (1e18, 2e-6), "float64": (1e150, 1e-12)}[dtype.name]
    mp = oracles.mp
    w1, b1, w2, b2 = (mp.mpf(v) ** 2 for v in (1.3, 0.2, 1.1, 0.1))
    for scale in (largest, 1e4, 1e-4, 1 / largest):
        x = (X[[0, 2, 3, 4, 5]] * scale).astype(dtype)
        rows = [[mp.mpf(float(v)) for v in row] for row in x]
        K = np.array([[w1 * mp.fdot(a, b) / 5 + b1 for b in rows] for a in rows], dtype=object)
        q = np.broadcast_to(np.diag(K), K.shape)
        k, kdot = (v.reshape(K.shape) for v in exact_duals(name, args, q.T.ravel(), K.ravel(), q.ravel()))
        nngp = w2 * k + b2
        for found, exact in zip(net.kernel_fn(x, None, BOTH), (nngp, nngp + w2 * K * kdot), strict=True):
            length = np.array([float(mp.sqrt(v)) for v in np.diag(exact)])  # their squares may leave the range
            size = np.outer(length, length)
            error = np.abs((found - exact).astype(float)) / np.maximum(np.abs(exact.astype(float)), 0.1 * size)
            assert np.max(error) <= promised, scale


def test_a_tiny_variance_is_not_zero(backend):
    """A trained bias of standard deviation 0 gives an NTK where K vanishes: the angle must not be lost with K."""
    x = (1e-23 * X).astype(np.float32)  # K is about 1e-46, which float32 does not hold
    net = serial(Dense(4, 1.3, 0.0, parameterization="standard"), stax.Relu(), Dense(1))
    expected = net.kernel_fn(x.astype(np.float64), None, "ntk", backend="numpy")
    assert np.max(np.abs(net.kernel_fn(x, None, "ntk") / expected - 1)) < 1e-5


def test_zero_rows(dtype, backend):
    x = X.astype(dtype)
    x[3] = 0
    nngp, ntk = serial(Dense(1, 1.3), stax.Relu(), Dense(1), stax.Erf(), Dense(1)).kernel_fn(x, None, BOTH)
    for k in (nngp, ntk):
        assert not k[3].any()
        assert not k[:, 3].any()
        assert np.isfinite(k).all()
    nngp, ntk = kernel_fn(x, None, BOTH)
    assert np.isfinite(nngp).all()
    assert np.isfinite(ntk).all()
    assert (nngp[3] > 0).all()


def test_subnormal_inputs(dtype, backend):
    smallest = np.finfo(dtype).smallest_subnormal
    x = X.astype(dtype)
    x[2], x[3] = smallest, 3 * smallest
    x[4] *= np.finfo(dtype).tiny
    for net in (NET, HOMOGENEOUS):
        for args in ((x, None), (x, Y.astype(dtype)), (x[2:5], None)):
            k = net.kernel_fn(*args)
            assert not any(np.isnan(a).any() for a in (k.nngp, k.ntk, k.cov1))
        assert not any(np.isnan(k).any() for k in net.kernel_fn.diagonal(x))
    ordinary = [0, 1, 5, 6]
    rows = np.ix_(ordinary, ordinary)
    for a, b in zip(kernel_fn(x, None, BOTH), kernel_fn(X.astype(dtype), None, BOTH), strict=True):
        assert same(a[rows], b[rows])


def test_overflow_of_the_true_value(dtype, backend):
    """Infinite where the kernel is too large for the dtype, without a warning; correlations here are not negative."""
    too_large = {"float32": 1e25, "float64": 1e200}[dtype.name]
    x = np.abs(X).astype(dtype)
    net = serial(Dense(1, 1.3, 0.2), stax.Relu(), Dense(1, 1.1, 0.1))
    clean = net.kernel_fn(x)
    loud = x.copy()
    loud[4:] *= dtype.type(too_large)
    found = net.kernel_fn(loud)
    for field in BOTH:
        a = getattr(found, field)
        assert not np.isnan(a).any()
        assert np.isposinf(a[4:, 4:]).all()
        assert same(a[:4, :4].copy(), getattr(clean, field)[:4, :4].copy())
    assert np.isposinf(found.cov1[4:]).all()
    assert same(found.cov1[:4].copy(), clean.cov1[:4].copy())
    assert all(np.isposinf(k[4:]).all() for k in net.kernel_fn.diagonal(loud))
    across = net.kernel_fn(x[:3], loud)
    assert not np.isnan(across.ntk).any()
    assert np.isposinf(across.cov2[4:]).all()


def test_overflow_in_kernel_arithmetic():
    """Infinite too, and silently."""
    k = HALF(np.abs(X).astype(np.float32))
    for loud in (k * 1e30, k / 1e-30, k + 1e30):
        assert np.isposinf(loud.nngp).all()
        assert np.isposinf(loud.cov1).all()
        assert loud.nngp.dtype == np.float32
    assert np.isposinf((k * 1e30).ntk).all()


def test_overflow_in_dual_maps(backend):
    single = np.full(2, 1e38, np.float32)
    assert np.isposinf(dual.abrelu(single, single, single, 3.0, 3.0)[0]).all()
    assert np.isposinf(dual.erf(single, single, single, 1e30)[0]).all()
    dual.relu(1e300, single, single)  # a variance beyond float32: no warning either


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize(
    "call",
    [
        lambda x: kernel_fn(x, None, "ntk"),
        lambda x: kernel_fn(x),
        lambda x: kernel_fn(x, x, BOTH),
        lambda x: kernel_fn.depths(x),
        lambda x: kernel_fn(np.broadcast_to(x, (10, *x.shape)), None, "ntk", batch_dims=1),
        lambda x: stax.parallel(NET, NET).kernel_fn((x, x), None, "ntk"),
    ],
)
def test_a_result_larger_than_memory(call):
    """Told with its size, before any row is read: 10 million of them are one in memory."""
    x = np.broadcast_to(np.ones((1, 4), np.float32), (10**7, 4))
    start = time.monotonic()
    with pytest.raises(MemoryError, match=r"10000000.*GiB"):
        call(x)
    assert time.monotonic() - start < 1


def test_the_diagonal_of_many_rows_needs_their_memory_only():
    """Two numbers a row come back; a stack of 30 layers may not keep tables of all rows at once."""
    code = """
        import resource, sys
        import numpy as np
        from fastntk import stax
        layers = [stax.Dense(1, 1.4, 0.1), stax.Erf()] * 30
        kernel_fn = stax.serial(*layers, stax.Dense(1)).kernel_fn
        x = np.ones((1_000_000, 2))
        kernel_fn.diagonal(x[:10])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kernel_fn.diagonal(x)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
        """
    pytest.importorskip("resource", reason="no resource module on this system")
    if sys.platform == "darwin":
        pytest.skip("ru_maxrss counts bytes here")
    grown = float(run(code).stdout)
    assert grown < 16 + 200  # the two outputs, and the allowance of large Grams


# ---------------------------------------------------------------- interruption, threads, fork


def run(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done


LONG = """
import signal, sys, time
import numpy as np
import fastntk
from fastntk import stax

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs start with Ctrl-C ignored
backend, what = sys.argv[1:]
layers = [stax.Dense(1, 1.4, 0.1), stax.Erf()] * 30
kernel_fn = stax.serial(*layers, stax.Dense(1)).kernel_fn
rng = np.random.default_rng(0)
many = backend == "cpu"
if what == "gram":
    x = rng.standard_normal((12_000 if many else 4_000, 16))
    call = lambda: kernel_fn(x, None, "ntk")
elif what == "wide":
    x = rng.random((3_000, 20_000), dtype=np.float32)
    call = lambda: kernel_fn(x, None, "ntk")
elif what == "copies":
    x = np.ones((3_000, 3_000))
    call = lambda: kernel_fn(x, None, "ntk")
elif what == "diagonal":
    x = np.broadcast_to(rng.standard_normal((30_000, 4)), (100, 30_000, 4)).reshape(-1, 4)
    call = lambda: kernel_fn.diagonal(x)
elif what == "batches":
    x = np.broadcast_to(rng.standard_normal((50, 50, 16)), (1_000 if many else 50, 50, 50, 16)).reshape(-1, 50, 16)
    call = lambda: kernel_fn(x, None, "ntk", batch_dims=1)
with fastntk.options(backend=backend):
    kernel_fn(np.eye(3), None, "ntk")
    print("ready", flush=True)
    try:
        call()
        print("finished", flush=True)
    except KeyboardInterrupt:
        print(time.monotonic(), flush=True)
    print(kernel_fn(np.eye(3), None, "ntk").shape, flush=True)
"""

# Not cuda: a device is faster than the interruption, and no CUDA library outlives a fork.
BACKENDS = [name for name, state in backends.availability().items() if state.startswith("available") and name != "cuda"]


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to a child process on Windows")
@pytest.mark.parametrize("what", ["gram", "wide", "copies", "diagonal", "batches"])
@pytest.mark.parametrize("name", BACKENDS)
def test_interruption(name, what):
    """Seen within half a second; best of three, for machines with other work. Then the interpreter goes on."""
    import signal

    took = []
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", LONG, name, what], stdout=subprocess.PIPE, text=True)
        with child:
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.2)
            start = time.monotonic()
            child.send_signal(signal.SIGINT)
            when, after = child.stdout.read().splitlines()
        assert child.returncode == 0
        assert when != "finished", "the call was too short to interrupt"
        assert after == "(3, 3)"
        took.append(float(when) - start)
        if took[-1] <= 0.5:
            break
    assert min(took) <= 0.5, took


def test_threads_at_once(dtype, backend):
    x = np.random.default_rng(1).standard_normal((200, 20)).astype(dtype)
    expected = kernel_fn(x, None, BOTH)
    name, _, isa = backend.partition(":")
    found = []

    def work():
        with fastntk.options(backend=name, isa=isa or None, num_threads=2):
            for _ in range(5):
                found.append(kernel_fn(x, None, BOTH))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert all(all_same(k, expected) for k in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("name", BACKENDS)
def test_fork_after_use(name):
    """A child of a process that has used threads computes the same, with threads of its own; so does a grandchild."""
    code = """
        import os, sys
        import numpy as np
        import fastntk
        from fastntk import stax
        kernel_fn = stax.serial(stax.Dense(1, 1.3, 0.2), stax.Relu(), stax.Dense(1)).kernel_fn
        x = np.random.default_rng(0).standard_normal((400, 200))
        def work():
            with fastntk.options(backend=sys.argv[1], num_threads=2):
                return kernel_fn(x, None, "ntk")
        expected = work()
        def child(generation):
            pid = os.fork()
            if pid == 0:
                right = np.array_equal(work(), expected)
                os._exit(child(generation - 1) if right and generation else int(not right))
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of forks beside threads
        print([child(1), child(0), np.array_equal(work(), expected)])
        """
    assert run(code, name).stdout == "[0, 0, True]\n"
