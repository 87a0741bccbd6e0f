"""What holds for every network and every input, tried on drawn ones. The draws repeat from run to run.

Bit-for-bit claims are about results from one given product. Two ways give one: a Kernel made from a covariance matrix,
and inputs of signs, whose products no order of summation rounds.
"""

from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager
from unittest import mock

import fastntk
import numpy as np
import oracles
import pytest
from fastntk import dual, stax
from fastntk.engines import points as points_machine
from fastntk.engines import select
from fastntk.network.activations import NONLINEARITIES
from helpers import assert_same, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tolerances import DUAL_FLOOR, bound

BOTH = ("nngp", "ntk")
DTYPES = st.sampled_from([np.dtype(np.float32), np.dtype(np.float64)])
SEEDS = st.integers(0, 2**32 - 1)


def examples(count):
    """Drawn from a fixed seed, without a database or a clock; fixtures only choose the backend, once for all draws."""
    return settings(
        max_examples=count, derandomize=True, database=None, deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )  # fmt: skip


def promised(dtype):
    """Relative error allowed to a network of at most 10 nonlinearities."""
    return bound("ntk 10", dtype.name)


# ---------------------------------------------------------------- draws


@st.composite
def dense(draw, biased=True, parameterizations=("ntk", "standard")):
    b_std = draw(st.sampled_from([None, 0.0, 0.3, 1.1])) if biased else None
    return stax.Dense(
        draw(st.integers(1, 9)),
        draw(st.floats(0.5, 1.8)),
        b_std,
        parameterization=draw(st.sampled_from(parameterizations)),
    )


@st.composite
def nonlinearity(draw, homogeneous=False):
    if not homogeneous and draw(st.booleans()):
        return stax.Erf(draw(st.floats(0.3, 2)), draw(st.floats(0.3, 2)), draw(st.sampled_from([0.0, 0.4])))
    return stax.ABRelu(draw(st.sampled_from([0.0, 0.2, -0.5, -1.0, 1.0])), draw(st.floats(0.4, 1.5)))


@st.composite
def networks(draw, homogeneous=False, parameterizations=("ntk", "standard")):
    """Dense, nonlinearity, ..., Dense, sometimes with a residual branch."""
    own = {"biased": not homogeneous, "parameterizations": parameterizations}
    layers = [draw(dense(**own))]
    for _ in range(draw(st.integers(0, 4))):
        block = [draw(nonlinearity(homogeneous)), draw(dense(**own))]
        if draw(st.integers(0, 3)) == 0:
            width = stax.Dense(layers[-1].out_dim) if isinstance(layers[-1], stax.Dense) else stax.Dense(1)
            block[1] = stax.Dense(width.out_dim, block[1].W_std, block[1].b_std)
            layers += [stax.FanOut(2), stax.parallel(stax.Identity(), stax.serial(*block)), stax.FanInSum()]
            layers.append(draw(dense(**own)))
        else:
            layers += block
    return stax.serial(*layers)


def points(seed, n, d, dtype):
    """Rows of several lengths; among three or more, a copy, a near-duplicate, and an opposite."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * np.exp(rng.uniform(-2, 2, (n, 1)))
    if n > 2:
        x[1] = x[0]
        x[2] = x[0] * (1 + 1e-5 * rng.standard_normal(d))
    if n > 3:
        x[3] = -x[0]
    return x.astype(dtype)


def sign_points(seed, n, d, dtype):
    """d is a power of 4, so that norms are powers of two; rows scaled by such, with copies and one-sign neighbours."""
    rng = np.random.default_rng(seed)
    x = rng.choice([-1.0, 1.0], (n, d))
    if n > 2:
        x[1] = x[2] = x[0]
        x[2, -1] *= -1
    return (x * 2.0 ** rng.integers(-4, 5, (n, 1))).astype(dtype)


def covariances(x, rows=slice(None), cols=slice(None), one_set=False):
    """The Kernel of some inputs' covariance matrix, or of a part of it: one product, whoever asks."""
    wide = x.astype(np.float64)
    K = (wide @ wide.T) / x.shape[1]
    K = (np.triu(K) + np.triu(K, 1).T).astype(x.dtype)
    part, q = np.ascontiguousarray(K[rows][:, cols]), np.diag(K)
    shape1, shape2 = ((n, x.shape[1]) for n in part.shape)
    return fastntk.Kernel(
        nngp=part, ntk=np.zeros_like(part), cov1=q[rows].copy(), cov2=None if one_set else q[cols].copy(),
        x1_is_x2=one_set, is_gaussian=False, is_input=True, shape1=shape1, shape2=shape2,
    )  # fmt: skip


# ---------------------------------------------------------------- invariances from a given product


@examples(25)
@given(networks(), SEEDS, st.integers(1, 40), DTYPES)
def test_second_set_a_copy_of_the_first(backend, net, seed, n, dtype):
    x = points(seed, n, 4, dtype)
    one = net.kernel_fn(covariances(x, one_set=True), None, (*BOTH, "cov1"))
    assert_same(net.kernel_fn(covariances(x), None, (*BOTH, "cov1")), one)
    for gram_matrix in one[:2]:
        assert same(gram_matrix, gram_matrix.T)


@examples(25)
@given(networks(), SEEDS, st.integers(1, 40), DTYPES, st.data())
def test_a_pair_does_not_know_its_place(backend, net, seed, n, dtype, data):
    """Any rows and columns, in any order and number: the entries of the whole, whatever lane or tail they fall in."""
    x = points(seed, n, 4, dtype)
    rows, cols = (data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=45)) for _ in range(2))
    whole = net.kernel_fn(covariances(x, one_set=True), None, BOTH)
    found = net.kernel_fn(covariances(x, rows, cols), None, BOTH)
    assert_same(found, [k[rows][:, cols] for k in whole])


@examples(15)
@given(networks(), SEEDS, st.integers(1, 30), st.integers(1, 30), DTYPES)
def test_sets_exchanged(backend, net, seed, n1, n2, dtype):
    x = points(seed, n1 + n2, 4, dtype)
    first, second = slice(0, n1), slice(n1, None)
    found = net.kernel_fn(covariances(x, first, second), None, BOTH)
    assert_same([k.T for k in found], net.kernel_fn(covariances(x, second, first), None, BOTH))


@examples(15)
@given(networks(), SEEDS, st.integers(2, 40), st.sampled_from([4, 16, 64, 1024]), DTYPES, st.data())
def test_permutations_copies_and_parts_of_inputs(backend, net, seed, n, d, dtype, data):
    x = sign_points(seed, n, d, dtype)
    whole = net.kernel_fn(x, None, BOTH)
    assert_same(net.kernel_fn(x, x.copy(), BOTH), whole)
    order = data.draw(st.permutations(range(n)))
    assert_same(net.kernel_fn(x[order], None, BOTH), [k[order][:, order] for k in whole])
    cut = data.draw(st.integers(1, n - 1))
    assert_same(net.kernel_fn(x[:cut], x[cut:], BOTH), [k[:cut, cut:] for k in whole])
    assert_same(net.kernel_fn.diagonal(x), [np.diag(k) for k in whole])


@contextmanager
def tiles(pairs, rows):
    """Every call inside cuts its work into tiles of about so many pairs, and row tables of so many rows."""
    with ExitStack() as stack:
        for engine in (select.CpuEngine, select.NumpyEngine):
            stack.enter_context(mock.patch.object(engine, "tile_pairs", pairs))
        stack.enter_context(mock.patch.object(points_machine, "rows_per_table", return_value=rows))
        yield


@examples(15)
@given(
    networks(), SEEDS, st.integers(2, 60), st.integers(1, 60), st.sampled_from([4, 64]), DTYPES,
    st.integers(20, 700), st.integers(4, 70), st.integers(1, 4),
)  # fmt: skip
def test_tiles_and_threads(backend, net, seed, n1, n2, d, dtype, pairs, rows, threads):
    x = sign_points(seed, n1 + n2, d, dtype)
    x1, x2 = x[:n1], x[n1:]
    batch = np.stack([x1, 2 * x1, -x1])

    def kernels():
        return [
            *net.kernel_fn(x1, x2, (*BOTH, "cov1", "cov2"), num_threads=threads),
            *net.kernel_fn(x1, None, (*BOTH, "cov1"), num_threads=threads),
            *net.kernel_fn(batch, None, BOTH, batch_dims=1, num_threads=threads),
            *net.kernel_fn.diagonal(x1, num_threads=threads),
            *net.kernel_fn.depths(x1, x2, num_threads=threads),
            *net.kernel_fn(net.kernel_fn(x1, x2), None, BOTH, num_threads=threads),
        ]

    whole = kernels()
    with tiles(pairs, rows):
        assert_same(kernels(), whole)
    threads = 1
    assert_same(kernels(), whole)


def test_the_tiles_of_these_tests_are_tiles():
    """The patches above reach what they mean to reach."""
    x = sign_points(0, 40, 64, np.float64)
    runs = []
    original = select.NumpyEngine.run

    def counted(self, *args, **kwargs):
        runs.append(1)
        return original(self, *args, **kwargs)

    with mock.patch.object(select.NumpyEngine, "run", counted):
        for pairs, rows in ((10**6, 10**6), (50, 10**6), (10**6, 7)):
            runs.append(0)
            with tiles(pairs, rows):
                stax.Dense(1).kernel_fn(x, x[:30], "ntk", backend="numpy")
    counts = [part.count("1") for part in "".join(map(str, runs)).split("0")[1:]]
    assert counts[0] == 1
    assert min(counts[1:]) > 5


@examples(15)
@given(networks(), SEEDS, st.integers(3, 30), st.sampled_from([40, 200]), DTYPES)
def test_real_inputs_and_their_copies(backend, net, seed, n, d, dtype):
    """A second set beside the first: where the product differs in its last bits, so may the kernels, and no further."""
    x = points(seed, n, d, dtype)
    for found, expected in zip(net.kernel_fn(x, x.copy(), BOTH), net.kernel_fn(x, None, BOTH), strict=True):
        size = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
        assert np.max(np.abs(found - expected) / np.maximum(np.abs(expected), 0.1 * size)) <= 2 * promised(dtype)
        assert same(np.diag(found), np.diag(expected))
        assert same(found[0, :2], expected[0, :2])


# ---------------------------------------------------------------- mathematics


@examples(20)
@given(networks(homogeneous=True), SEEDS, st.integers(3, 20), DTYPES, st.data())
def test_homogeneity(backend, net, seed, n, dtype, data):
    """Without biases f(c x) = c f(x) for c > 0; powers of two round nothing but the distances of close pairs."""
    x = points(seed, n, 6, dtype)
    powers = data.draw(st.lists(st.integers(-25, 25), min_size=n, max_size=n))
    c = (2.0 ** np.array(powers)).astype(dtype)
    for found, base in zip(net.kernel_fn(c[:, None] * x, None, BOTH), net.kernel_fn(x, None, BOTH), strict=True):
        size = c[:, None] * c * np.sqrt(np.outer(np.diag(base), np.diag(base)))
        assert np.max(np.abs(found - c[:, None] * base * c) / size, initial=0) <= 8 * np.finfo(dtype).eps


@examples(20)
@given(networks(homogeneous=True), SEEDS, st.floats(0.01, 100), DTYPES)
def test_homogeneity_of_any_scale(backend, net, seed, c, dtype):
    x = points(seed, 9, 6, np.float64)[[0, 4, 5, 6, 7, 8]].astype(dtype)
    scaled = (dtype.type(c) * x).astype(dtype)
    kernels = zip(net.kernel_fn(scaled, None, BOTH), net.kernel_fn(x, None, BOTH), strict=True)
    for found, base in kernels:
        expected = float(dtype.type(c)) ** 2 * base.astype(np.float64)
        size = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
        # rounding c x turns each input by eps, which moves correlations of apart inputs by a few of them
        assert np.max(np.abs(found - expected) / np.maximum(np.abs(expected), 0.1 * size)) <= 2 * promised(dtype)


@examples(25)
@given(networks(parameterizations=("ntk",)), SEEDS, DTYPES)
def test_ntk_of_a_point_is_at_least_its_nngp(backend, net, seed, dtype):
    """Under 'ntk' the last layer's weights alone give the NNGP."""
    nngp, ntk = net.kernel_fn.diagonal(points(seed, 12, 5, dtype))
    assert np.all(ntk >= nngp * (1 - promised(dtype)))


@examples(25)
@given(networks(), SEEDS, st.integers(2, 24), DTYPES)
def test_positive_semidefinite_up_to_rounding(backend, net, seed, n, dtype):
    """Entries are right to the promised relative error, so eigenvalues are to n times that of the largest entry."""
    for matrix in net.kernel_fn(points(seed, n, 5, dtype), None, BOTH):
        matrix = matrix.astype(np.float64)
        assert np.all(np.diag(matrix) >= 0)
        assert np.linalg.eigvalsh(matrix)[0] >= -n * promised(dtype) * np.max(np.diag(matrix))


@examples(25)
@given(networks(), SEEDS, DTYPES)
def test_cauchy_schwarz(backend, net, seed, dtype):
    k = net.kernel_fn(points(seed, 12, 5, dtype), None, "nngp").astype(np.float64)
    assert np.all(np.abs(k) <= np.sqrt(np.outer(np.diag(k), np.diag(k))) * (1 + promised(dtype)))


@examples(20)
@given(networks(), SEEDS, DTYPES)
def test_copies_are_told_apart_from_nothing(backend, net, seed, dtype):
    """A copy's row is the row, and its kernel with the original is the diagonal, to the last bit."""
    x = points(seed, 10, 5, dtype)
    x = np.concatenate([x, x])
    for k in net.kernel_fn(x, None, BOTH):
        assert same(np.diag(k[:10, 10:]), np.diag(k)[:10])


# ---------------------------------------------------------------- instruction sets


def instruction_sets():
    """Of the compiled backend, the ones on this processor."""
    state = select.availability()["cpu"]
    if not state.startswith("available: "):
        return []
    return [name for name in state.removeprefix("available: ").split(", ") if "not on this processor" not in name]


ISAS = instruction_sets()
several = pytest.mark.skipif(
    len(ISAS) < 2, reason=f"needs two instruction sets of the compiled backend, there are {ISAS}"
)


@several
@pytest.mark.parametrize("name", NONLINEARITIES)
@examples(10)
@given(SEEDS, DTYPES, st.integers(1, 100))
def test_dual_maps_of_instruction_sets_agree(name, seed, dtype, n):
    """Each is within its bound of the truth, so any two are within twice that."""
    rng = np.random.default_rng(seed)
    layer = oracles.example(name)
    largest = np.log(min(math.exp(5), layer.largest_variance / 16))
    q11, q22 = np.exp(rng.uniform(-5, largest, (2, n))).astype(dtype)
    rho = np.where(rng.uniform(size=n) < 0.5, rng.uniform(-1, 1, n), 1 - np.exp(rng.uniform(-30, 0, n)))
    q12 = (rho * np.sqrt(q11.astype(np.float64) * q22)).astype(dtype)
    found, ends = {}, {}
    for isa in ISAS:
        with fastntk.options(backend="cpu", isa=isa):
            found[isa] = dual.dual(layer, q11, q12, q22)
            ends[isa] = [dual.dual(layer, q, q, q) for q in (q11, q22)]
    base = ISAS[0]
    for isa in ISAS[1:]:
        for k, quantity in enumerate(("k", "kdot")):
            floor = 0.0
            if quantity in oracles.without_relative_accuracy(layer):
                floor = DUAL_FLOOR * np.sqrt(ends[base][0][k]) * np.sqrt(ends[base][1][k])
            size = np.maximum(np.abs(found[base][k]), floor)
            assert np.all(np.abs(found[isa][k] - found[base][k]) <= 2 * bound(quantity, dtype.name) * size)


@pytest.mark.skipif(not ISAS, reason="needs the compiled backend")
@examples(25)
@given(networks(), SEEDS, st.integers(1, 40), DTYPES)
def test_networks_on_all_engines_agree(net, seed, n, dtype):
    given_kernel = covariances(points(seed, n, 4, dtype), one_set=True)
    expected = net.kernel_fn(given_kernel, None, BOTH, backend="numpy")
    for isa in ISAS:
        with fastntk.options(backend="cpu", isa=isa):
            found = net.kernel_fn(given_kernel, None, BOTH)
        for k, base in zip(found, expected, strict=True):
            size = np.sqrt(np.outer(np.diag(base), np.diag(base)))
            assert np.all(np.abs(k - base) <= 2 * promised(dtype) * np.maximum(np.abs(base), 0.1 * size))
