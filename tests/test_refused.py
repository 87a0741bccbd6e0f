"""What is refused, and in which words: inputs, networks, kernels, out."""

from __future__ import annotations

import fastntk
import numpy as np
import pytest
from boundary_inputs import BOTH, HALF, NET, REST, Dense, X, Y, all_same, kernel_fn, same, serial
from fastntk import dual, stax

# ---------------------------------------------------------------- refused inputs

REFUSED = [
    # what, exception, words of the message, x1, x2, keywords
    ("0-D", ValueError, r"x1.*0 dims.*expected 2", np.ones(()), None, {}),
    ("1-D", ValueError, r"x1.*1 dims.*\(3,\).*expected 2", np.ones(3), None, {}),
    ("1-D second", ValueError, r"x2.*1 dims.*\(5,\)", X, np.ones(5), {}),
    ("3-D second", ValueError, r"x1 has 2 dims, x2 has 3.*\(2, 3, 5\)", X, np.ones((2, 3, 5)), {}),
    ("2-D batch", ValueError, r"x1.*\(7, 5\).*expected 3", X, None, {"batch_dims": 1}),
    ("batches differ", ValueError, r"batch \(2,\).*\(3,\)", np.ones((2, 4, 5)), np.ones((3, 4, 5)), {"batch_dims": 1}),
    ("batch_dims 2", ValueError, "batch_dims must be 0 or 1, given 2", X, None, {"batch_dims": 2}),
    ("batch_dims -1", ValueError, "batch_dims", X, None, {"batch_dims": -1}),
    ("features differ", ValueError, r"5 features.*3.*\(7, 5\).*\(2, 3\)", X, np.ones((2, 3)), {}),
    ("no features", ValueError, r"x1.*no features.*\(3, 0\)", np.ones((3, 0)), None, {}),
    ("ragged list", ValueError, "x1, a list, does not convert.*", [[1.0, 2.0], [1.0]], None, {}),
    ("list of text", TypeError, "x1.*numpy.ndarray.*list of str", ["a", "b"], None, {}),
    ("list of rows", ValueError, "x1 is a list of arrays.*branch.*numpy.asarray", list(X), None, {}),
    ("empty list", TypeError, "x1.*list of nothing", [], None, {}),
    ("numbers and text", TypeError, "x1.*float32 or float64", ((1.0, "a"),), None, {}),
    ("masked array", TypeError, "x1 is a masked array.*filled", np.ma.masked_array(X, X > 1), None, {}),
    ("masked second", TypeError, "x2 is a masked array.*filled", X, np.ma.masked_array(Y, Y > 1), {}),
    ("float", TypeError, "x1.*numpy.ndarray.*float", 3.0, None, {}),
    ("None", TypeError, "x1.*numpy.ndarray", None, None, {}),
    ("string", TypeError, "x1.*numpy.ndarray.*str", "x", None, {}),
    ("list second", ValueError, "5 features, x2 has 4", X, [[1.0] * 4], {}),
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
        NotImplementedError, r"\[serial\[3\] FanInSum\].*independent.*gaussian = \[False, True\].*same weights",
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
        (TypeError, "rng.*ndarray", lambda: NET.init_fn(np.array([0.0, 1.0]), (4, 5))),
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
            lambda a: np.ma.masked_array(a),
            lambda a: "text",
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


# ---------------------------------------------------------------- refused explanations and environments


@pytest.mark.parametrize(
    ("error", "pattern", "arguments"),
    [
        (TypeError, "dtype.*'banana'", ((1, 8, 8, 3), "banana")),
        (TypeError, "dtype.*int", ((1, 8, 8, 3), int)),
        (TypeError, "input_shape.*5", (5,)),
        (TypeError, "input_shape.*integer.*8.5", ((1, 8.5, 8, 3),)),
        (ValueError, "input_shape.*-8", ((1, -8, 8, 3),)),
        (ValueError, "every size", ((4, -1, 8, 3),)),
        (ValueError, "10,000,000,000 positions", ((1, 10**5, 10**5, 3),)),
        (ValueError, "no positions", ((1, 0, 8, 3),)),
    ],
)
def test_refused_explanations(error, pattern, arguments):
    explain = serial(stax.Conv(1, (3, 3)), stax.Flatten()).kernel_fn.explain
    with pytest.raises(error, match=pattern):
        explain(*arguments)


def test_explained_whatever_the_number_of_samples():
    kernel_fn = serial(stax.Conv(1, 3), stax.Flatten()).kernel_fn
    assert {kernel_fn.explain((n, 8, 8, 3)).entries for n in (-1, 0, 1, 7)} == {kernel_fn.explain((1, 8, 8, 3)).entries}


@pytest.mark.parametrize("text", ["-3", "1e3", "\u00b2", "\u0663", "9" * 5000, "two", "0"])
def test_refused_threads_of_the_environment(monkeypatch, text):
    monkeypatch.setenv("FASTNTK_NUM_THREADS", text)
    with pytest.raises(ValueError, match="FASTNTK_NUM_THREADS must be an integer of at least 1"):
        kernel_fn(X)
