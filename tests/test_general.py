"""Functions without closed form: against printed values, sums over the plane of Gaussian pairs, and finite networks."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from fastntk import dual, stax
from fastntk.network.activations import GENERAL, Correlation, of_input
from fastntk.network.activations.angular import Angular
from fastntk.network.activations.fitted import high_of
from fastntk.network.activations.pieces import Pieces
from fastntk.network.hermite import Coefficients, Hinges, Whole, hinge_table
from fastntk.network.hinges import WHOLE, hinge_parts
from fastntk.network.kinks import kinks_of
from fastntk.network.short_series import PAIRS
from helpers import note_error
from tolerances import DEPTHS

# (k, kdot) at (q11, q12, q22) = (1, 0.5, 2), (1, 1, 1), (1, -1, 1), (1, 1 - 1e-8, 1), (3, -0.2, 0.1). Smooth functions
# by a trapezoid rule in the plane in 80-bit arithmetic, others by one closed and one numerical integral in 60 digits.
POINTS = np.array([[1, 0.5, 2], [1, 1, 1], [1, -1, 1], [1, 1 - 1e-8, 1], [3, -0.2, 0.1]]).T
PRINTED = {
    "tanh": [
        (0.146754115460387, 0.299172021393036), (0.394294490397841, 0.464402902448268),
        (-0.394294490397841, 0.464402902448268), (0.394294485753812, 0.464402899446230),
        (-0.0754089338619279, 0.379182044492338),
    ],
    "sigmoid": [
        (0.268812465053815, 0.0378399816668400), (0.293379035858093, 0.0448362413501944),
        (0.206620964141907, 0.0448362413501944), (0.293379035409731, 0.0448362413027807),
        (0.241974338341993, 0.0401731069123209),
    ],
    "softplus": [
        (0.857295358780733, 0.268812465053815), (0.921245908859300, 0.293379035858093),
        (0.421245908859300, 0.206620964141907), (0.92124590592551, 0.293379035409731),
        (0.648475539530309, 0.241974338341993),
    ],
    "swish": [
        (0.212454704413617, 0.299875245021874), (0.355775519817352, 0.379482351632829),
        (-0.144224480182648, 0.120517648367171), (0.355775516022529, 0.379482350194493),
        (-0.0356743679979465, 0.227041933838752),
    ],
    "mish": [
        (0.265655350282331, 0.364469844039762), (0.452342192375883, 0.47908375837397),
        (-0.184171859832849, 0.159401730321510), (0.452342187585045, 0.479083756405136),
        (-0.0441936418420921, 0.289442705447192),
    ],
    "elu": [
        (0.323641798868803, 0.572995983948176), (0.644945417492924, 0.668102001223171),
        (-0.523156583730247, 0.523156583730247), (0.644945410811904, 0.668101999542301),
        (-0.113439279963133, 0.600607719718387),
    ],
    "selu": [
        (0.448487765051896, 0.907343605150012), (1.0, 1.0715749924558),
        (-0.966394048269735, 0.966394048269735), (0.999999989284325, 1.07156372898464),
        (-0.218121391636277, 1.05041624347403),
    ],
    "hard_tanh": [
        (0.179956730712409, 0.369358934708013), (0.516058550961713, 0.682689492137086),
        (-0.516058550961713, 0.682689492137086), (0.516058544135, 0.682662188664626),
        (-0.0871487515140509, 0.435968884046696),
    ],
}  # fmt: skip

# Of k, kdot: what is promised.
BOUNDS = {"float64": 1e-12, "float32": 1e-6}


@pytest.mark.parametrize("name", PRINTED)
@pytest.mark.parametrize("which", [[0, 1, 2, 3, 4], [1, 2, 3]])
def test_printed_values(name, which, dtype, backend):
    """All points at once, by one series; those of one variance by themselves, by polynomials of the correlation."""
    points = POINTS[:, which].astype(dtype)
    found = getattr(dual, name)(*points)
    exact = np.array(PRINTED[name])[which].T
    for quantity, values, expected in zip(("k", "kdot"), found, exact, strict=True):
        assert values.dtype == dtype
        error = np.abs(values - expected)
        if dtype == np.float32:
            error[which.index(3)] *= 0.01  # float32 has no 1 - 1e-8: kdot of a kink moves by its root there
        note_error(name, quantity, dtype, backend, float((error / np.maximum(np.abs(expected), 0.5)).max()))
        assert error.max() < BOUNDS[dtype.name], error


# ---------------------------------------------------------------- networks

# The dual as a sum over the plane of Gaussian pairs: u = s1 (same a + other b), v = s2 (same a - other b). 1 - rho' and
# 1 + rho' are mean squares of differences, so that no digit is lost where inputs are close or opposite.


@functools.cache
def nodes():
    """Points (a, b) of the plane and their weights, for functions without poles within 0.9 of the line."""
    z = np.arange(-72, 73) * 0.13
    w = np.exp(-z * z / 2) * 0.13 / math.sqrt(2 * math.pi)
    return z[:, None], z[None, :], w[:, None] * w


def rays(same, other):
    """Polar coordinates, in sectors between the lines on which u or v changes its sign."""
    node, weight = np.polynomial.legendre.leggauss(32)

    def panels(edges):
        start, width = edges[:-1, None], np.diff(edges)[:, None]
        return (start + width * (node + 1) / 2).ravel(), (width * weight / 2).ravel()

    turn = math.atan2(same, other)  # u = 0 at -turn, v = 0 at turn, and half a turn on
    edges = np.mod(
        np.array([-turn, turn, math.pi - turn, math.pi + turn, 0, math.pi / 2, math.pi, 1.5 * math.pi]), 2 * math.pi
    )
    angle, w_angle = panels(np.unique(np.append(edges, [0, 2 * math.pi])))
    radius, w_radius = panels(np.linspace(0, 11, 7))
    w = w_angle[:, None] * (w_radius * radius * np.exp(-(radius**2) / 2)) / (2 * math.pi)
    return np.cos(angle)[:, None] * radius, np.sin(angle)[:, None] * radius, w


def step(layer, kinked, v, q1, q2):
    """``(v', E phi(u)^2, E phi(v)^2, kdot)`` of one pair."""
    minus, plus = (2 + v, -v) if v < 0 else (v, 2 - v)
    same, other = math.sqrt(plus / 2), math.sqrt(minus / 2)
    a, b, w = rays(same, other) if kinked else nodes()
    x, y = math.sqrt(q1) * (same * a + other * b), math.sqrt(q2) * (same * a - other * b)
    f, g = layer.phi(x), layer.phi(y)
    V1, V2 = (float(np.sum(w * h * h)) for h in (f, g))
    f, g = f / math.sqrt(V1), g / math.sqrt(V2)
    below, above = (float(np.sum(w * (f + sign * g) ** 2)) / 2 for sign in (-1, 1))
    kdot = float(np.sum(w * layer.dphi(x) * layer.dphi(y)))
    return below if below <= 1 else -above, V1, V2, kdot


def network(layer, x, w2, b2, depths):
    """NNGP and NTK of Dense, (phi, Dense) * depth for several depths, float64 sums."""
    n = len(x)
    kinked = bool(layer.kinks())
    q, unit = (x * x).mean(axis=1), x / np.linalg.norm(x, axis=1, keepdims=True)
    near = unit @ unit.T >= 0
    apart = np.where(near[..., None], unit[:, None] - unit[None], unit[:, None] + unit[None])
    v = np.where(near, 1, -1) * (apart**2).sum(-1) / 2
    theta = np.zeros((n, n))
    found = {}
    for depth in range(max(depths) + 1):
        if depth:
            after, kdot, own = np.zeros((n, n)), np.zeros((n, n)), np.zeros(n)
            for i in range(n):
                for j in range(i, n):
                    after[i, j], own[i], own[j], kdot[i, j] = step(layer, kinked, float(v[i, j]), q[i], q[j])
                    after[j, i], kdot[j, i] = after[i, j], kdot[i, j]
            v, q, theta = after, own, theta * kdot
        root = np.sqrt(q)
        total = w2 * q + b2
        share, bias = np.sqrt(w2 * q / total), np.sqrt(b2 / total)
        rho = np.where(v < 0, -1 - v, 1 - v)
        nngp = w2 * np.outer(root, root) * rho + b2
        theta = w2 * theta + nngp
        p, steps = np.outer(share, share), (share[:, None] - share) ** 2 / 2 + (bias[:, None] - bias) ** 2 / 2
        minus = p * np.where(v < 0, 2 + v, v) + steps
        plus = p * np.where(v < 0, -v, 2 - v) + steps + 2 * np.outer(bias, bias)
        v, q = np.where(minus > 1, -plus, minus), total
        if depth in depths:
            found[depth] = nngp, theta
    return found


def inputs(dtype):
    x = np.random.default_rng(0).standard_normal((5, 8))
    x[1] = x[0] * (1 + 1e-6)
    x[2] = x[0] + 1e-5 * x[3]
    x[4] = -1.3 * x[0]
    return x.astype(dtype)


def errors(found, expected):
    size = np.sqrt(np.diag(expected))
    return (np.abs(found - expected) / np.maximum(np.abs(expected), 0.5 * np.outer(size, size))).max()


def stack(layer, w2, b2, depth):
    dense = stax.Dense(1, math.sqrt(w2), math.sqrt(b2))
    return stax.serial(dense, *([layer, dense] * depth))


DEEP = dict.fromkeys(("tanh", "sigmoid", "softplus", "swish", "mish", "arctan"), 50)
DEEP |= {"elu": 2, "selu": 2, "softsign": 1}


@functools.cache
def expected(name, dtype):
    depths = tuple(d for d in (1, 10, 50) if d <= DEEP[name]) if DEEP[name] != 2 else (1, 2)
    return network(GENERAL[name](), inputs(dtype).astype(np.float64), 1.2, 0.1, depths)


@pytest.mark.parametrize("name", DEEP)
def test_networks(name, dtype, backend):
    bounds = {"float64": (1e-12, 1e-12), "float32": (2e-6, 1e-5)}[dtype.name]
    for depth, kernels in expected(name, dtype.name).items():
        kernel = stack(GENERAL[name](), 1.2, 0.1, depth).kernel_fn(inputs(dtype), None, ("nngp", "ntk"))
        for kind, found, exact in zip(("nngp", "ntk"), kernel, kernels, strict=True):
            error = errors(found, exact)
            if depth in DEPTHS:
                note_error(name, f"{kind} {depth}", dtype, backend, error)
            assert error < bounds[depth > 10], (depth, error)


def test_the_networks_of_the_test_can_tell(backend):
    """Nearly the same function, a hundredth of a percent away."""
    kernel = stack(stax.Activation(lambda x: np.tanh(1.0001 * x)), 1.2, 0.1, 1).kernel_fn(
        inputs(np.float64), None, "ntk"
    )
    assert errors(kernel, expected("tanh", "float64")[1][1]) > 1e-6


@pytest.mark.parametrize("name", ["hard_tanh", "relu6"])
def test_straight_pieces_against_the_rectifier(name, dtype):
    """A clip whose ends are far away is the identity, one whose upper end is far away the rectifier."""
    far = {
        "hard_tanh": (stax.HardTanh(-60.0, 60.0), stax.ABRelu(1.0, 1.0)),
        "relu6": (stax.HardTanh(0.0, 60.0), stax.Relu()),
    }
    one, two = (stack(layer, 1.2, 0.1, 2) for layer in far[name])
    x = inputs(dtype)
    for a, b in zip(*(net.kernel_fn(x, None, ("nngp", "ntk"), backend="numpy") for net in (one, two)), strict=True):
        assert errors(a, b.astype(np.float64)) < (3e-7 if dtype == np.float32 else 1e-13)


def test_curves_with_kinks_elsewhere_need_numpy(backend):
    net = stack(stax.Activation(hard_swish), 1.2, 0.1, 1)
    if backend == "numpy":
        assert np.isfinite(net.kernel_fn(inputs(np.float32), None, "ntk")).all()
        return
    with pytest.raises(NotImplementedError, match=r"no op .'spline'.*backend='numpy'"):
        net.kernel_fn(inputs(np.float32), None, "ntk")


@pytest.mark.parametrize("name", ["tanh", "mish", "elu"])
def test_one_variance(name, dtype, backend):
    """Inputs of one length: polynomials of the correlation, against the series."""
    x = np.random.default_rng(1).standard_normal((6, 16))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True) * 4).astype(dtype)
    net = stack(GENERAL[name](), 1.2, 0.1, 3)
    alone = net.kernel_fn(x, None, "ntk")
    beside = net.kernel_fn(np.concatenate([x, 2 * x]), None, "ntk")[:6, :6]
    assert dtype == np.float32 or not np.array_equal(alone, beside)  # another way, which float32 may round away
    assert errors(alone, beside.astype(np.float64)) < (1e-6 if dtype == np.float32 else 3e-12)


def test_results_do_not_depend_on_the_other_inputs_of_a_range(backend):
    x = np.random.default_rng(2).standard_normal((7, 8))
    net = stack(stax.Tanh(), 1.2, 0.1, 2)
    whole = net.kernel_fn(x, None, "ntk")
    np.testing.assert_allclose(net.kernel_fn(x[:3], x, "ntk"), whole[:3], rtol=0, atol=1e-15)
    np.testing.assert_allclose(net.kernel_fn.diagonal(x[2:5], "ntk"), np.diag(whole)[2:5], rtol=1e-14)


def test_continued_and_depths(backend):
    x = np.random.default_rng(2).standard_normal((4, 8))
    dense, act = stax.Dense(1, 1.1, 0.3), stax.Swish()
    half = stax.serial(dense, act, dense).kernel_fn(x)
    whole = stax.serial(dense, act, dense, act, dense)
    rest = stax.serial(act, dense).kernel_fn(half, None, "ntk")
    np.testing.assert_allclose(rest, whole.kernel_fn(x, None, "ntk"), rtol=1e-12)
    np.testing.assert_allclose(whole.kernel_fn.depths(x, None, "ntk")[-1], rest, rtol=1e-12)


def test_images(dtype, backend):
    """One position is a point: 1 x 1 convolutions with the same weights."""
    x = inputs(dtype)
    act = stax.Tanh()
    conv = stax.Conv(1, (1, 1), W_std=1.1, b_std=0.3)
    image = stax.serial(conv, act, conv, act, stax.GlobalAvgPool(), stax.Dense(1))
    dense = stax.Dense(1, 1.1, 0.3)
    point = stax.serial(dense, act, dense, act, stax.Dense(1))
    a, b = image.kernel_fn(x.reshape(5, 1, 1, 8), None, "ntk"), point.kernel_fn(x, None, "ntk")
    assert errors(a, b.astype(np.float64)) < (2e-6 if dtype == np.float32 else 1e-12)


def test_rows_of_zeros_and_nan(backend):
    x = np.array([[0.0, 0.0], [1.0, 2.0], [np.nan, 1.0], [1e-20, 0.0]])
    for act in (stax.Tanh(), stax.Softplus(), stax.ELU()):
        for found in stack(act, 1.3, 0.0, 1).kernel_fn(x, None, ("nngp", "ntk")):
            assert np.isnan(found[2]).all()
            assert np.isfinite(np.delete(np.delete(found, 2, 0), 2, 1)).all()


# ---------------------------------------------------------------- the function itself


def test_finite_networks_reach_the_kernel():
    def bent(x):
        return x / (1 + np.exp(-1.7 * x)) + 0.3 * np.sin(x)

    x = inputs(np.float64)
    width = 4096
    init_fn, apply_fn, kernel_fn = stax.serial(
        stax.Dense(width, 1.3, 0.2), stax.Activation(bent), stax.Dense(64, 1.1, 0.1)
    )
    outputs = np.concatenate([apply_fn(init_fn(seed, x.shape)[1], x) for seed in range(24)], axis=1)
    found = outputs @ outputs.T / outputs.shape[1]
    kernel = kernel_fn(x, None, "nngp")
    error = np.sqrt(2 / outputs.shape[1]) * np.abs(kernel).max()
    assert np.abs(found - kernel).max() < 4 * error


@pytest.mark.parametrize("name", GENERAL)
def test_derivatives_and_kinks(name):
    layer = GENERAL[name]()
    x = np.linspace(-3, 3, 61) + 0.0123
    slope = (layer.phi(x + 1e-6) - layer.phi(x - 1e-6)) / 2e-6
    np.testing.assert_allclose(layer.dphi(x), slope, rtol=0, atol=1e-9)
    seen = kinks_of(lambda x: layer.phi(x), None, name)
    assert [k.place for k in seen] == pytest.approx([k.place for k in layer.kinks()], abs=1e-8)
    for a, b in zip(seen, layer.kinks(), strict=True):
        assert (a.first, a.second) == pytest.approx((b.first, b.second), abs=1e-6)
        assert (a.third, a.fourth) == pytest.approx((b.third, b.fourth), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("library", ["torch", "jax"])
@pytest.mark.parametrize("name", GENERAL)
def test_other_libraries(name, library):
    x = np.linspace(-3, 8, 23).reshape(1, 23).astype(np.float32)
    layer = GENERAL[name]()
    if library == "torch":
        given = pytest.importorskip("torch").tensor(x)
    else:
        given = pytest.importorskip("jax").numpy.asarray(x)
    pytest.importorskip("array_api_compat")
    found = layer.apply_fn((), given)
    assert type(found) is type(given)
    np.testing.assert_allclose(np.asarray(found), layer.phi(x.astype(np.float64)), rtol=2e-6, atol=2e-6)


def test_fit_says_what_it_is():
    single, double = stax.Tanh().fit(3.0, np.float32), stax.Tanh().fit(3.0)
    assert single.high == double.high == 4.0
    assert len(single.degrees) <= 17 < len(double.degrees) <= 40 < double.terms
    assert single.error < 2e-7
    assert double.error < 5e-13
    assert stax.Tanh().fit(3.5) is double  # made once


@pytest.mark.parametrize("parity", [0, 1])
def test_duals_of_hinges_are_their_series(parity):
    """``|x|`` and ``|x|^3``, ``x |x|`` and ``x^3 |x|``, term by term, far from the ends where a series is long."""
    w = np.array([0.05, 0.3, 0.7, 1.0])
    degrees = np.arange(parity, 2049, 2)
    a = hinge_table()[degrees]
    np.testing.assert_allclose(a[:4], [hermite_of_hinges(int(degree)) for degree in degrees[:4]], rtol=1e-12)
    falls, slopes = hinge_parts(w, parity)
    for (i, j), whole, fall, slope in zip(PAIRS, WHOLE[parity], falls, slopes, strict=True):
        p = a[:, i] * a[:, j]
        power = (1 - w)[:, None] ** np.maximum(degrees - 1, 0)
        value = ((1 - w)[:, None] ** degrees) @ p
        np.testing.assert_allclose(whole - fall, value, rtol=0, atol=1e-12 * whole)
        np.testing.assert_allclose(slope, power @ (degrees * p), rtol=0, atol=1e-12 * whole)


def hermite_of_hinges(degree):
    """By Gauss's rule on either side of 0."""
    node, weight = np.polynomial.legendre.leggauss(200)
    z = 7 * (node + 1)
    h = np.polynomial.hermite_e.hermeval(z, [0] * degree + [1 / math.sqrt(math.factorial(degree))])
    density = 7 * weight * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return [2 * (density * h) @ z ** (power + degree % 2) for power in (1, 3)]


KINKED = [(name, variance) for name in ("elu", "selu", "celu", "softsign") for variance in (1.0, 4.0)] + [("elu", 64.0)]


@pytest.mark.parametrize(("name", "variance"), KINKED)
def test_fits_with_a_kink_keep_what_is_promised(name, variance, backend):
    """kdot of two variances against the whole series, at correlations that no fit has seen, close and opposite ones."""
    layer, high = GENERAL[name](), high_of(variance, name)
    q = variance * np.array([0.83, 0.31])
    whole = Whole(Coefficients(layer.smooth_phi, high, True, name), q, 1e-14, name)
    w = np.concatenate([np.logspace(-6, -1, 35), np.linspace(0.13, 0.98, 9)])
    hinges, slope = Hinges(*layer.kinks()[0].jumps), []
    for parity, part in enumerate(whole.parts):
        own = hinges.parts(q)[parity, 0] / whole.size  # the slowest part of the series in closed form
        rest = part.counts * (part.g[:, 0] * part.g[:, 1] - part.hinge[:, 0] ** 2 * own[0] * own[1])
        power = np.exp(np.log1p(-w)[:, None] * (part.degrees - 1))
        slope.append(power @ (part.degrees * rest) + hinge_parts(w, parity)[1][0] * own[0] * own[1])
    r, scale = np.sqrt(q[0] * q[1]), whole.size[0] * whole.size[1]
    diagonal = np.sqrt(np.prod([dual.dual(layer, v, v, v)[1] for v in q]))
    for side in (1, -1):
        _, found = dual.dual(layer, q[0] + 0 * w, side * r * (1 - w), q[1] + 0 * w)
        assert np.abs(found - scale / r * (slope[1] + side * slope[0])).max() < 1e-12 * diagonal


def hard_swish(x):
    return x * np.clip(x + 3, 0, 6) / 6


def test_curves_with_kinks_anywhere():
    """Against one integral in another, in 20 digits, split at the kinks."""
    exact = {
        (1, 0.5, 2): (0.1905214809858497, 0.2980131369933287),
        (3, -0.2, 0.1): (-0.04066597063101252, 0.233054329921496),
        (9, -7, 16): (0.1428580301369664, 0.1309644900906206),
    }
    layer = stax.Activation(hard_swish, name="hard_swish")  # its derivative by numbers that carry derivatives
    own = layer.standing_for(0.1, 16.0, False)
    for point, expected in exact.items():
        q1, c, q2 = (np.array([float(number)]) for number in point)
        x1, x2 = (of_input(own.rows(q)) for q in (q1, q2))
        _, rho, kdot = own.pair(Correlation.of_covariances(q1, c, q2), x1, x2)
        k = rho * np.sqrt(own.variance(q1) * own.variance(q2))
        assert (k[0], kdot[0]) == pytest.approx(expected, rel=2e-14)


def test_two_ways_to_integrate_between_kinks():
    """Angles for straight pieces, pieces of the plane for any: at both ends of rho, and variances up to any ratio."""
    layer = stax.HardTanh(-1.0, 0.5)
    straight, pieces = layer.standing_for(0.1, 16.0, False, moving=True), Pieces(layer, layer.kinks())
    assert isinstance(straight, Angular)
    v = np.array([0.3, 1e-10, -1e-10, -0.5, 0.02, 0.3, 1e-12, 0.0, 0.7, 1e-30, -1e-20, 1.0])
    q1 = np.array([1, 1, 1, 3, 30, 1e-30, 1, 1, 1e-2, 2, 2, 1e3])
    q2 = np.array([2, 1, 1, 0.1, 1, 1, 1 + 1e-7, 1, 40, 2, 2.1, 1e-20])
    found, expected = (
        own.pair(Correlation.of_defect(v), of_input(own.rows(q1)), of_input(own.rows(q2))) for own in (pieces, straight)
    )
    np.testing.assert_allclose(np.sqrt(np.abs(found[0])), np.sqrt(np.abs(expected[0])), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-14)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-12, atol=1e-14)


def test_curves_with_kinks_anywhere_of_one_variance(backend):
    """Inputs of one length take polynomials of the correlation, on every backend."""
    x = inputs(np.float64)
    x = 0.6 * x / np.sqrt((x * x).mean(axis=1, keepdims=True))
    net = stack(stax.Activation(hard_swish), 1.2, 0.1, 1)
    expected = stack(
        stax.Activation(hard_swish), 1.2, 0.1, 1
    ).kernel_fn(np.concatenate([x, 0.3 * x[:1]]), None, "ntk", backend="numpy")[:-1, :-1]  # fmt: skip
    assert errors(net.kernel_fn(x, None, "ntk"), expected) < 2e-12


REFUSED = [
    (lambda: stax.Activation(3), TypeError, r"\[stax.Activation\] fn must be a function of an array, given int"),
    (lambda: stax.Activation(np.mean), TypeError, r"real numbers of its argument's shape \(3, 4\), given float64 \(\)"),
    (lambda: stax.Activation(np.sort), ValueError, "must act on each entry alone"),
    (lambda: stax.Activation(lambda x: x + 1j), TypeError, "given complex128"),
    (lambda: stax.Activation(lambda x: 1.0 if x > 0 else 0.0), TypeError, "must take an array.*raised ValueError"),
    (lambda: stax.Activation(np.log), ValueError, "must be finite, given nan at x = -"),
    (lambda: stax.HardTanh(1.0, 0.0), ValueError, "low must be below high, given 1.0 and 0.0"),
    (lambda: stax.CELU(0.0), ValueError, "alpha must be positive"),
    (lambda: stax.Elementwise(), TypeError, "needs fn or nngp_fn"),
    (lambda: stax.ElementwiseNumerical(np.tanh, -1), ValueError, "deg must be a positive integer, given -1"),
]
IN_A_CALL = [
    (stax.Activation(np.sign), 1.0, ValueError, "jumps at x = "),
    (stax.Activation(lambda x: np.exp(x * x)), 1.0, ValueError, "is inf at x = .*variances reach"),
    (stax.Activation(lambda x: np.exp(x * x / 4)), 1.0, ValueError, "grows too fast"),
    (stax.Activation(lambda x: np.tanh(300 * x)), 1.0, ValueError, "not smooth on both sides of x = 0.* too fast"),
    (stax.Activation(lambda x: np.sin(70 * x)), 1.0, ValueError, "more than 32768 terms"),
    (stax.Tanh(), 1e4, ValueError, r"\[Tanh\] an input has variance .*normalise"),
    (stax.Activation(lambda x: 1 + 1e-6 * np.tanh(x)), 0.3, ValueError, "up to .* is off by .*, where 1e-12 is owed"),
]


@pytest.mark.parametrize(("make", "error", "words"), REFUSED)
def test_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(("layer", "size", "error", "words"), IN_A_CALL)
def test_refused_in_a_call(layer, size, error, words):
    with pytest.raises(error, match=words):
        stack(layer, 1.3, 0.1, 1).kernel_fn(size * inputs(np.float64), None, "ntk", backend="numpy")


# ---------------------------------------------------------------- Neural Tangents' names


def test_elementwise_of_covariances():
    def nngp_fn(q12, q11, q22):
        return 2 / np.pi * np.arcsin(2 * q12 / np.sqrt((1 + 2 * q11) * (1 + 2 * q22)))

    x = np.random.default_rng(3).standard_normal((5, 8))
    own = stack(stax.Elementwise(None, nngp_fn), 1.2, 0.1, 2).kernel_fn
    for found, exact in zip(
        own(x, None, ("nngp", "ntk"), backend="numpy"),
        stack(stax.Erf(), 1.2, 0.1, 2).kernel_fn(x, None, ("nngp", "ntk")),
        strict=True,
    ):
        np.testing.assert_allclose(found, exact, rtol=1e-13)
    with pytest.raises(TypeError, match="derivative"):
        stack(stax.Elementwise(None, lambda c, a, b: np.real(c)), 1.2, 0.1, 1).kernel_fn(x, backend="numpy")


def test_elementwise_of_functions():
    x = np.random.default_rng(3).standard_normal((5, 8))
    exact = stack(stax.Tanh(), 1.2, 0.1, 2).kernel_fn(x, None, "ntk", backend="numpy")
    for layer in (stax.Elementwise(np.tanh), stax.ElementwiseNumerical(np.tanh, 25), stax.Activation(np.tanh)):
        np.testing.assert_array_equal(stack(layer, 1.2, 0.1, 2).kernel_fn(x, None, "ntk", backend="numpy"), exact)


def test_sums_of_branches_keep_means():
    """K of a sum of two independent branches that end in softplus: the product of means is in it twice."""
    x = np.random.default_rng(4).standard_normal((5, 8))
    branch = stax.serial(stax.Dense(1, 1.2, 0.3), stax.Softplus())
    both = stax.serial(stax.FanOut(2), stax.parallel(branch, branch), stax.FanInSum())
    q = 1.44 * (x * x).mean(axis=1) + 0.09
    z = np.arange(-200, 201) * 0.06
    mean = np.logaddexp(0, np.sqrt(q)[:, None] * z) @ (np.exp(-z * z / 2) * 0.06 / math.sqrt(2 * math.pi))
    found = both.kernel_fn(x, None, "nngp", backend="numpy")
    one = branch.kernel_fn(x, None, "nngp", backend="numpy")
    np.testing.assert_allclose(found, 2 * one + 2 * np.outer(mean, mean), rtol=1e-12)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        lambda x: x * (1 - np.tanh(x) ** 2),
        lambda x: np.log(np.cosh(x)),
    ],
    ids=["gelu of tanh", "x (1 - tanh^2)", "log cosh"],
)
def test_tails_of_roundings_are_no_kinks(fn):
    """1 + tanh(x) falls to 0 in steps of 1e-16: no jump, no kink, whatever it is beside the function there."""
    z = np.arange(-11, 11, 0.02)
    weight = np.exp(-z * z / 2) * 0.02 / math.sqrt(2 * math.pi)  # trapezoids: exact to 1e-17
    x = np.array([[0.3], [1.2], [-3.1]])
    network = stax.serial(stax.Dense(1), stax.Activation(fn), stax.Dense(1)).kernel_fn
    k = network(x, None, "nngp", backend="numpy")
    exact = [(weight * fn(abs(own) * z) ** 2).sum() for own in x[:, 0]]
    np.testing.assert_allclose(np.diag(k), exact, rtol=1e-12)


def test_a_dual_with_roots_at_equal_inputs():
    """Its derivative there is that beside it: sqrt(1 - rho^2) has none."""

    def nngp(q12, q11, q22):
        rho = q12 / np.sqrt(q11 * q22)
        return np.sqrt(q11 * q22) / (2 * np.pi) * (np.sqrt(1 - rho**2) + (np.pi - np.arccos(rho)) * rho)

    x = np.random.default_rng(0).standard_normal((4, 5))
    x = np.vstack([x, x[:1], -x[1:2]])
    found, exact = (
        stax.serial(stax.Dense(1), layer, stax.Dense(1)).kernel_fn(x, None, "ntk")
        for layer in (stax.Elementwise(nngp_fn=nngp), stax.Relu())
    )
    np.testing.assert_allclose(found, exact, rtol=0, atol=5e-8)
    layer = stax.Elementwise(nngp_fn=nngp, d_nngp_fn=lambda q12, q11, q22: q12 * np.nan)
    with pytest.raises(ValueError, match="d_nngp_fn, must be a number, given nan at q12"):
        stax.serial(stax.Dense(1), layer, stax.Dense(1)).kernel_fn(x, None, "ntk")
