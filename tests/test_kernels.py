"""NNGP and NTK of networks against the same recursion in 100 digits, from inputs that count as exact.

Errors are relative to the entry, or to a tenth of ``sqrt(K(x, x) K(x', x'))`` where the entry is smaller: kernels of
odd nonlinearities cross zero.
"""

from __future__ import annotations

import functools

import numpy as np
import oracles
import pytest
from fastntk import stax
from fastntk.network.activations import NONLINEARITIES
from helpers import assert_close, geometric_mean_of_diagonals
from tolerances import DEPTHS, FLOOR

NAMES = list(NONLINEARITIES)
DTYPES = ("float32", "float64")


# ---------------------------------------------------------------- inputs


def toward(base, direction, distance):
    """A vector at ``distance`` from ``base``, relative to its length."""
    return base + direction * (distance * np.linalg.norm(base) / np.linalg.norm(direction))


def at_correlation(base, direction, rho):
    """A vector of base's length with this correlation to it."""
    across = direction - base * (direction @ base / (base @ base))
    across *= np.linalg.norm(base) / np.linalg.norm(across)
    return rho * base + np.sqrt(1 - rho**2) * across


# 1 - rho beside which the library changes from the rounded product to the inputs' difference, in float32 and float64.
BESIDE_THE_CHANGE = (0.0615, 1.01e-3)


@functools.cache
def pairs(dtype):
    """d = 40: copies, multiples, near-duplicates from 1e-7 (1e-10 in float64) to 1, right angle, opposite, zero."""
    rng = np.random.default_rng(0)
    base, *directions = rng.standard_normal((20, 40))
    new = iter(directions)
    rows = [base, base, 3 * base, 0.5 * base, np.zeros(40)]
    rows += [
        toward(base, next(new), step) for step in (1e-10 if dtype == "float64" else 1e-6, 1e-7, 1e-5, 1e-3, 0.1, 1)
    ]
    rows += [
        at_correlation(base, next(new), rho) for rho in (0.0, -0.99, -1 + 1e-5, *(1 - u for u in BESIDE_THE_CHANGE))
    ]
    rows += [10 * next(new), 0.3 * toward(base, next(new), 0.02)]
    return np.array(rows).astype(dtype)


@functools.cache
def images(dtype):
    """d = 784, entries in [0, 1], half of them 0: all products positive, so that a sum of them rounds visibly."""
    rng = np.random.default_rng(1)
    first, second, third = rng.uniform(size=(3, 784)) * (rng.uniform(size=(3, 784)) < 0.5)
    rows = [first, second, third]
    for defect in (*BESIDE_THE_CHANGE, 0.08, 0.2, 1e-5):  # on the segment between the first two
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            row = first + middle * (second - first)
            nearer = 1 - row @ first / np.sqrt((row @ row) * (first @ first)) < defect
            low, high = (middle, high) if nearer else (low, middle)
        rows.append(row)
    return np.array(rows).astype(dtype)


DATA = {make.__name__: make for make in (pairs, images)}


# ---------------------------------------------------------------- networks


def dense(W_std=1.0, b_std=None, parameterization="ntk", s=(1, 1), width=7):
    return ("dense", width, W_std, b_std, parameterization, s)


def phi(name):
    return ("phi", oracles.example(name))


def build(layers):
    """The library's network of an oracle's description."""
    return stax.serial(*(layer for description in layers for layer in _build(*description)))


def _build(kind, *rest):
    if kind == "dense":
        width, W_std, b_std, parameterization, s = rest
        return [stax.Dense(width, W_std, b_std, parameterization=parameterization, s=s)]
    if kind == "phi":
        return rest
    if kind == "branches":
        return [stax.FanOut(len(rest[0])), stax.parallel(*(build(branch) for branch in rest[0])), stax.FanInSum()]
    raise ValueError(f"no layer of kind {kind!r}")


def check(found, exact, depth, dtype, record=None, rows=slice(None), cols=slice(None)):
    """Both kernels of a named tuple against the oracle's, or against a part of it."""
    failures = []
    for kernel in ("nngp", "ntk"):
        scale = FLOOR * geometric_mean_of_diagonals(exact[kernel])[rows, cols]
        values, quantity = getattr(found, kernel), f"{kernel} {depth}"
        try:
            assert_close(values, exact[kernel][rows, cols], quantity, dtype, scale=scale, record=record)
        except AssertionError as failure:  # the other one is measured too
            failures.append(str(failure))
    assert not failures, "\n".join(failures)


def stays(layer, W_std, b_std):
    """Whether 50 layers keep variances within float32's range and magnify errors of them and of defects by 10 at most.

    From the least and the largest variance of `pairs` on. What magnifies more is chaotic, and loses digits by its
    nature.
    """
    if layer.jumps and not b_std:
        return False  # it takes roots of defects, so that after ten layers rounding errors are as good as defects
    w2, b2 = W_std**2, (b_std or 0) ** 2
    for q in (0.02, 120.0):
        growth, q = 1.0, w2 * q + b2
        for _ in range(max(DEPTHS)):
            if not 1e-20 < q < min(1e20, layer.largest_variance / 2):
                return False
            step = q * 1e-6
            k, kdot = (float(v) for v in oracles.covariance_dual(layer, q, q, q, oracles.FEW))
            above = float(oracles.covariance_dual(layer, q + step, q + step, q + step, oracles.FEW)[0])
            growth = max(1.0, growth * w2 * max(abs(kdot), abs(above - k) / step))
            q = w2 * k + b2
            if growth > 10:
                return False
    return True


def scales(name):
    """(W_std, b_std) of a nonlinearity's stacks.

    A W_std that keeps variances as they are, without bias and with one, and a larger pair; of others than rectifiers
    the largest one that `stays`.
    """
    if name == "erf":  # also variances that vanish with depth, where it becomes linear
        return [(1.0, None), (1.0, 0.1), (1.5, 0.05), (0.5, None)]
    layer = oracles.example(name)
    if layer.homogeneous:
        W_std = float(oracles.covariance_dual(layer, *[oracles.mp.one] * 3)[0]) ** -0.5
        return [(W_std, None), (W_std, 0.1), (1.5 * W_std, 0.3)]
    W_std = next(W_std for W_std in 2.0 ** np.arange(2, -12, -0.5) if stays(layer, W_std, 0.1))
    return [(W_std, b_std) for b_std in (None, 0.1) if stays(layer, W_std, b_std)]


SCALES = {name: scales(name) for name in NAMES}
BIASED = {name: next(pair for pair in pairs if pair[1]) for name, pairs in SCALES.items()}
STACKS = [
    pytest.param(name, W_std, b_std, id=f"{name}-{W_std:.3g}-{b_std}")
    for name in NAMES
    for W_std, b_std in SCALES[name]
]


@functools.cache
def exact_stack(name, W_std, b_std, data, dtype):
    return oracles.stack(dense(W_std, b_std), phi(name), DATA[data](dtype), DEPTHS)


def stack(name, W_std, b_std, depth):
    layer = dense(W_std, b_std)
    return build([layer, *[phi(name), layer] * depth])


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("name", "W_std", "b_std"), STACKS)
def test_stack(name, W_std, b_std, depth, dtype, backend):
    exact = exact_stack(name, W_std, b_std, "pairs", dtype.name)[depth]
    found = stack(name, W_std, b_std, depth).kernel_fn(pairs(dtype.name), None, ("nngp", "ntk"))
    check(found, exact, depth, dtype, record=(name, backend))


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", NAMES)
def test_images(name, depth, dtype, backend):
    W_std, b_std = BIASED[name]
    exact = exact_stack(name, W_std, b_std, "images", dtype.name)[depth]
    found = stack(name, W_std, b_std, depth).kernel_fn(images(dtype.name), None, ("nngp", "ntk"))
    check(found, exact, depth, dtype, record=(name, backend))


def test_chaotic_erf_in_float64(backend):
    """W_std = 2 doubles a small 1 - rho with every layer: rounding errors of the first show at depth 50."""
    found = stack("erf", 2.0, None, 50).kernel_fn(pairs("float64"), None, ("nngp", "ntk"))
    check(found, exact_stack("erf", 2.0, None, "pairs", "float64")[50], 50, np.float64)


@pytest.mark.parametrize("name", NAMES)
def test_two_sets_of_inputs(name, dtype, backend):
    with_bias = (name, *BIASED[name])
    x = pairs(dtype.name)
    rows, cols = slice(0, 7), slice(3, 17)  # copies across the two sets, near-duplicates too
    found = stack(*with_bias, 10).kernel_fn(x[rows], x[cols], ("nngp", "ntk"))
    check(found, exact_stack(*with_bias, "pairs", dtype.name)[10], 10, dtype, rows=rows, cols=cols)


@pytest.mark.parametrize("name", NAMES)
def test_diagonal_alone(name, dtype, backend):
    with_bias = (name, *BIASED[name])
    for depth in DEPTHS:
        exact = exact_stack(*with_bias, "pairs", dtype.name)[depth]
        found = stack(*with_bias, depth).kernel_fn.diagonal(pairs(dtype.name))
        everyone = np.arange(len(pairs(dtype.name)))
        for kernel in ("nngp", "ntk"):
            assert_close(getattr(found, kernel), exact[kernel][everyone, everyone], f"{kernel} {depth}", dtype)


# ---------------------------------------------------------------- other networks

FEW = [0, 1, 2, 4, 6, 8, 11, 12, 15]  # of `pairs`


@functools.cache
def exact_network(layers, dtype):
    return oracles.network(layers, oracles.inputs(pairs(dtype)[FEW])).kernels()


def check_network(layers, dtype):
    """Gram and diagonal of up to ten nonlinearities."""
    x = pairs(dtype.name)[FEW]
    exact = exact_network(tuple(layers), dtype.name)
    check(build(layers).kernel_fn(x, None, ("nngp", "ntk")), exact, 10, dtype)
    diagonal = build(layers).kernel_fn.diagonal(x)
    everyone = np.arange(len(x))
    for kernel in ("nngp", "ntk"):
        assert_close(getattr(diagonal, kernel), exact[kernel][everyone, everyone], f"{kernel} 10", dtype)


@pytest.mark.parametrize("s", [(1, 1), (1, 5), (5, 1)])
@pytest.mark.parametrize("b_std", [None, 0.0, 0.3])
@pytest.mark.parametrize("name", ["relu", "erf"])
def test_standard_parameterization(name, b_std, s, dtype, backend):
    layer = dense(1.3, b_std, "standard", s, width=11)
    check_network([layer, *[phi(name), layer] * 3], dtype)


def test_standard_and_ntk_layers_together(dtype, backend):
    layers = [
        dense(1.1, 0.2),
        phi("relu"),
        dense(1.2, 0.0, "standard", (3, 2), 5),
        phi("abs"),
        dense(0.9, None, "standard"),
    ]
    check_network(layers, dtype)


def test_residual_network(dtype, backend):
    block = ("branches", (
        (),
        (phi("relu"), dense(1.2, 0.1), phi("relu"), dense(1.1, None)),
    ))  # fmt: skip
    check_network([dense(1.4, 0.2), block, block, block, phi("relu"), dense()], dtype)


def test_branches_of_different_nonlinearities(dtype, backend):
    inner = ("branches", ((phi("abrelu"), dense(0.6)), (phi("leaky_relu"), dense(1.0, 0.3))))
    outer = ("branches", ((inner, phi("erf"), dense(1.5)), (phi("relu"), dense(0.7, 0.1)), ()))
    check_network([dense(1.2, 0.1), outer, phi("abs"), dense(0.8)], dtype)


MIXED = {
    "erf between relus": (1.4, None, ("relu", "erf", "relu", "erf", "relu")),
    "relu behind a nearly linear erf": (0.3, None, ("erf", "relu", "relu")),
    "all": (1.3, 0.1, ("erf", "abs", "relu", "abrelu", "leaky_relu", "erf", "relu", "abs")),
}


def mixed(W_std, b_std, names):
    return [dense(W_std, b_std), *(layer for name in names for layer in (phi(name), dense(1.3, b_std)))]


@pytest.mark.parametrize("case", MIXED)
def test_mixed_nonlinearities(case, dtype, backend):
    check_network(mixed(*MIXED[case]), dtype)


def test_relu_sees_what_erf_does_to_multiples(backend):
    """Erf bends x and 3 x apart by 1e-8 here: relu's NTK shows the square root of that."""
    check_network(mixed(0.01, None, ("erf", "relu")), np.dtype(np.float64))


@pytest.mark.parametrize("name", NAMES)
def test_networks_joined_by_kernels(name, dtype, backend):
    """A Kernel carries the digits that its covariances have lost on to the next network."""
    W_std, b_std = BIASED[name]
    layer = dense(W_std, b_std)
    kernel = build([layer]).kernel_fn(pairs(dtype.name))
    for _ in range(10):
        kernel = build([phi(name), layer]).kernel_fn(kernel)
    check(kernel, exact_stack(name, W_std, b_std, "pairs", dtype.name)[10], 10, dtype)


# ---------------------------------------------------------------- numbers worked by hand


def test_relu_stack_by_hand(dtype, backend):
    """W_std^2 = 2, no bias, |x|^2 = d: K(x, x) = 2 for ever and NTK(x, x) = 2 (depth + 1).

    At right angles relu's k is q / (2 pi), so K = 2/pi behind the first; opposite inputs give K = 0 there, hence a
    right angle, and 2/pi behind the second; their NTK has died with kdot(-1) = 0 and starts anew.
    """
    x = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [-1, -1, -1, -1]], dtype=dtype)
    for depth in (1, 10):
        found = stack("relu", 2**0.5, None, depth).kernel_fn(x, None, ("nngp", "ntk"))
        assert_close(np.diag(found.nngp), np.full(3, 2.0), f"nngp {depth}", dtype)
        assert_close(np.diag(found.ntk), np.full(3, 2.0 * (depth + 1)), f"ntk {depth}", dtype)
    one = stack("relu", 2**0.5, None, 1).kernel_fn(x, None, ("nngp", "ntk"))
    two = stack("relu", 2**0.5, None, 2).kernel_fn(x, None, ("nngp", "ntk"))
    scale = 2 * FLOOR
    assert_close(one.nngp[0, 1:], [2 / np.pi, 0.0], "nngp 1", dtype, scale=scale)
    assert_close(one.ntk[0, 1:], [2 / np.pi, 0.0], "ntk 1", dtype, scale=2 * scale)
    assert_close(two.nngp[0, 2], 2 / np.pi, "nngp 10", dtype, scale=scale)
    assert_close(two.ntk[0, 2], 2 / np.pi, "ntk 10", dtype, scale=3 * scale)


def test_linear_network_by_hand(dtype, backend):
    """Dense layers alone: K = x . x' / d, NTK = layers x K."""
    x = np.array([[3, 0, 1, 0], [1, 2, 0, 1], [6, 0, 2, 0]], dtype=dtype)
    found = build([dense()] * 5).kernel_fn(x, None, ("nngp", "ntk"))
    gram = np.array([[10, 3, 20], [3, 6, 6], [20, 6, 40]]) / 4
    assert_close(found.nngp, gram, "nngp 1", dtype)
    assert_close(found.ntk, 5 * gram, "ntk 1", dtype)


# ---------------------------------------------------------------- positive definite


@functools.cache
def twenty(dtype):
    """Ten points, and beside each of them another one, at 1e-7 to 0.3 of its length."""
    rng = np.random.default_rng(2)
    points, directions = rng.standard_normal((2, 10, 40))
    steps = [1e-7, 3e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3]
    beside = [toward(p, q, step) for p, q, step in zip(points, directions, steps, strict=True)]
    return np.concatenate([points, beside]).astype(dtype)


@functools.cache
def exact_twenty(dtype):
    """The NTK Gram at depth 50 and its smallest eigenvalue."""
    gram = oracles.stack(dense(2**0.5), phi("relu"), twenty(dtype), (50,))[50]["ntk"]
    return gram, np.linalg.eigvalsh(gram.high)[0]


def test_ntk_gram_stays_positive_definite(dtype, backend):
    """The nearest pair's eigenvalue, 8e-5 beside a diagonal of 102, is a few roundings of float32: it must not go."""
    exact, smallest = exact_twenty(dtype.name)
    gram = stack("relu", 2**0.5, None, 50).kernel_fn(twenty(dtype.name), None, "ntk")
    scale = FLOOR * geometric_mean_of_diagonals(exact)
    assert_close(gram, exact, "ntk 50", dtype, scale=scale, record=("relu", backend))
    found = np.linalg.eigvalsh(gram.astype(np.float64))[0]
    assert found > 0
    assert_close(found, smallest, f"smallest eigenvalue of {dtype}", np.float64, scale=exact.high.max())
