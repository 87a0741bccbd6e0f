"""Signal propagation: published and derived numbers, asymptotics, independent recursions, and a finite network."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import mpmath
import numpy as np
import oracles
import pytest
from fastntk import meanfield, quadrature, stax
from scipy import integrate, special

GELU = quadrature.Smooth(
    lambda x: x * special.ndtr(x), lambda x: special.ndtr(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi), "gelu"
)
REGISTRY = {
    "relu": (stax.Relu(), ()),
    "leaky_relu": (stax.LeakyRelu(0.1), (0.1,)),
    "abrelu": (stax.ABRelu(-0.3, 2.0), (-0.3, 2.0)),
    "abs": (stax.Abs(), ()),
    "erf": (stax.Erf(), ()),
}


def moments(phi, dphi, q):
    """E phi^2 and E phi'^2 by adaptive quadrature."""
    density = lambda z: math.exp(-z * z / 2) / math.sqrt(2 * math.pi)  # noqa: E731
    root = math.sqrt(q)
    return [
        2
        * integrate.quad(lambda z, f=f: f(root * z) ** 2 * density(z), 0, 12, epsabs=1e-14, epsrel=1e-13, limit=200)[0]
        for f in (phi, dphi)
    ]


# ---------------------------------------------------------------- numbers of the specification


@pytest.mark.parametrize(
    ("act", "sigma_b2", "sigma_w2", "q"),
    [
        ("tanh", 2.01e-5, 1.049996, 0.025919),
        ("tanh", 0.05, 1.760955, 0.570048),
        ("tanh", 0.1, 1.986073, 0.805799),
        ("tanh", 0.3, 2.505127, 1.461169),
        ("tanh", 1.0, 3.443211, 3.036396),
        ("tanh", 0.0, 1.0, 0.0),
        ("erf", 0.05, 1.375839, 0.517177),
        ("erf", 0.1, 1.552118, 0.726359),
        ("erf", 1.0, 2.718381, 2.744891),
        ("erf", 0.0, math.pi / 4, 0.0),
    ],
)
def test_critical_line_numbers(act, sigma_b2, sigma_w2, q):
    line = meanfield.critical_line(act, sigma_b2=sigma_b2)
    np.testing.assert_allclose((line.sigma_w2, line.q_star), (sigma_w2, q), rtol=0, atol=1e-6)
    assert line.sigma_b2 == sigma_b2
    # And it is a fixed point with chi_1 = 1, by another quadrature.
    if q:
        phi, dphi = (math.tanh, lambda x: math.cosh(x) ** -2)
        if act == "erf":
            phi, dphi = math.erf, lambda x: 2 / math.sqrt(math.pi) * math.exp(-x * x)
        square, slope = moments(phi, dphi, line.q_star)
        np.testing.assert_allclose(line.sigma_w2 * slope, 1, rtol=1e-11)
        np.testing.assert_allclose(line.sigma_w2 * square + sigma_b2, line.q_star, rtol=1e-11)


@pytest.mark.parametrize(
    ("sigma_w2", "q", "chi", "c", "xi_q", "xi_c"),
    [
        (2.5, 1.063958, 1.133516, 0.446804, 1.179873, 11.795598),
        (1.3, 0.315316, 0.880164, 1.0, 1.785237, 7.834069),
        (4.0, 2.195494, None, 0.165065, None, None),
    ],
)
def test_fixed_points_of_tanh(sigma_w2, q, chi, c, xi_q, xi_c):
    found = meanfield.depth_scales("tanh", sigma_w2, 0.05)
    numbers = [f("tanh", sigma_w2, 0.05) for f in (meanfield.q_star, meanfield.chi1, meanfield.c_star)]
    for value, due in zip((*numbers, *found), (q, chi, c, xi_q, xi_c, None), strict=True):
        if due is not None:
            np.testing.assert_allclose(value, due, rtol=0, atol=1e-6)
    assert all(isinstance(value, float) for value in (*numbers, *found))
    np.testing.assert_allclose(found.xi_grad, -1 / math.log(numbers[1]), rtol=1e-14)


# ---------------------------------------------------------------- maps


@pytest.mark.parametrize("name", REGISTRY)
def test_maps_of_the_registry_against_100_digits(name):
    act, _ = REGISTRY[name]
    q, c = np.meshgrid([0.3, 2.0], [-1.0, -0.4, 0.0, 0.7, 1.0], indexing="ij")
    k, _ = oracles.dual(act, q.ravel(), (q * c).ravel(), q.ravel())
    own, slope = oracles.dual(act, q.ravel(), q.ravel(), q.ravel())
    variance = 1.7 * own.high + 0.2
    np.testing.assert_allclose(meanfield.q_map(act, 1.7, 0.2, q.ravel()), variance, rtol=1e-14)
    np.testing.assert_allclose(
        meanfield.c_map(act, 1.7, 0.2, c, q=q).ravel(), (1.7 * k.high + 0.2) / variance, rtol=0, atol=1e-14
    )
    np.testing.assert_allclose(meanfield.chi1(act, 1.7, 0.2, q=q).ravel(), 1.7 * slope.high, rtol=1e-14)
    assert isinstance(meanfield.c_map(act, 1.7, 0.2, 0.5, q=1.0), float)


def test_names_and_objects_are_the_same_nonlinearity():
    """The compiled dual, and quadrature of the same function; a plain object with phi and dphi."""
    plain = SimpleNamespace(phi=special.erf, dphi=lambda x: 2 / np.sqrt(np.pi) * np.exp(-x * x))
    scaled = quadrature.Smooth(
        lambda x: 1.3 * special.erf(0.7 * x) + 0.4, lambda x: 1.82 / np.sqrt(np.pi) * np.exp(-((0.7 * x) ** 2))
    )
    c = np.array([-0.9, 0.0, 0.3, 1.0])
    for one, other in ((stax.Erf(), plain), ("erf", plain), (stax.Erf(1.3, 0.7, 0.4), scaled)):
        for f in (meanfield.q_star, meanfield.chi1, meanfield.c_star):
            np.testing.assert_allclose(f(one, [1.1, 2.9], 0.1), f(other, [1.1, 2.9], 0.1), rtol=1e-12)
        np.testing.assert_allclose(
            meanfield.c_map(one, 2.9, 0.1, c), meanfield.c_map(other, 2.9, 0.1, c), rtol=0, atol=1e-13
        )
        for a, b in zip(meanfield.depth_scales(one, 2.9, 0.1), meanfield.depth_scales(other, 2.9, 0.1), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11)
        first, second = (meanfield.trajectory(act, 2.9, 0.1, 1.5, [0.9, -0.5], 8) for act in (one, other))
        np.testing.assert_allclose(first.c, second.c, rtol=0, atol=1e-13)
        np.testing.assert_allclose(first.gap, second.gap, rtol=1e-12)
        np.testing.assert_allclose(first.chi, second.chi, rtol=1e-13)


@pytest.mark.parametrize("act", ["tanh", "erf", GELU, stax.Erf(1.3, 0.7, 0.4), stax.LeakyRelu(0.2)])
def test_slope_of_the_variance_map(act):
    """xi_q from V' against a central difference of q_map at the fixed point, by Richardson's extrapolation."""
    q = meanfield.q_star(act, 1.6, 0.2)
    np.testing.assert_allclose(meanfield.q_map(act, 1.6, 0.2, q), q, rtol=1e-13)
    h = 0.02 * q
    d = [(np.subtract(*meanfield.q_map(act, 1.6, 0.2, [q + s, q - s]))) / (2 * s) for s in (h, h / 2, h / 4)]
    slope = (64 * d[2] - 20 * d[1] + d[0]) / 45
    np.testing.assert_allclose(meanfield.depth_scales(act, 1.6, 0.2).xi_q, -1 / math.log(abs(slope)), rtol=1e-7)


def test_fixed_points_attract():
    """Iterated from anywhere: what q_star and c_star say."""
    for act, w, b in (("tanh", 2.2, 0.02), (GELU, 1.7, 0.1), (stax.Erf(0.8, 1.5, 0.1), 3.0, 0.3), ("abs", 0.8, 0.1)):
        q, c = 5.0, 0.3
        for _ in range(400):
            q = meanfield.q_map(act, w, b, q)
        np.testing.assert_allclose(meanfield.q_star(act, w, b), q, rtol=1e-11)
        for _ in range(400):
            c = meanfield.c_map(act, w, b, c, q=q)
        np.testing.assert_allclose(meanfield.c_star(act, w, b), c, rtol=1e-9)


def test_near_the_edge():
    """Bare iteration would take ten thousand layers; 1 - c* = 2 (chi_1 - 1) / C''(1), to first order."""
    line = meanfield.critical_line("erf", q_star=1.0)
    w, b = line.sigma_w2 * (1 + 1e-4), line.sigma_b2
    chi, c = meanfield.chi1("erf", w, b), meanfield.c_star("erf", w, b)
    np.testing.assert_allclose(1 - c, 2 * (chi - 1) / curvature_of_erf(line.sigma_w2, 1.0), rtol=1e-3)
    assert meanfield.c_star("erf", line.sigma_w2 * (1 - 1e-6), b) == 1.0
    assert meanfield.depth_scales("erf", w, b).xi_c > 1e4
    # Without biases q* = (sigma_w2 - 1) / 2 to first order: E tanh^2 = q - 2 q^2 + ...
    np.testing.assert_allclose(meanfield.q_star("tanh", 1 + 1e-6, 0.0), 5e-7, rtol=1e-5)
    assert meanfield.q_star("tanh", [0.3, 1.0], 0.0).tolist() == [0.0, 0.0]


def curvature_of_erf(w, q):
    """C''(1) = sigma_w2 q E phi''^2; phi'' = -4 x exp(-x^2) / sqrt(pi), so E phi''^2 = 16 q / pi (1 + 4 q)^(-3/2)."""
    return w * q * 16 * q / math.pi * (1 + 4 * q) ** -1.5


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "abrelu", "abs"])
def test_rectifiers_in_closed_form(name):
    act, args = REGISTRY[name]
    a, b = {"relu": (0, 1), "leaky_relu": (*args, 1), "abrelu": args, "abs": (-1, 1)}[name]
    s = (a * a + b * b) / 2
    w = 0.9 / s
    np.testing.assert_allclose(meanfield.q_star(act, w, 0.3), 3.0, rtol=1e-14)
    np.testing.assert_allclose(meanfield.chi1(act, w, 0.3), 0.9, rtol=1e-14)
    np.testing.assert_allclose(tuple(meanfield.depth_scales(act, w, 0.3)), [-1 / math.log(0.9)] * 3, rtol=1e-13)
    assert meanfield.c_star(act, w, 0.3) == 1.0
    line = meanfield.critical_line(act, sigma_b2=0.0)
    np.testing.assert_allclose((line.sigma_w2, line.sigma_b2), (1 / s, 0), rtol=1e-15)
    assert meanfield.critical_line(act, q_star=[0.5, 2.0]).q_star.tolist() == [0.5, 2.0]
    # Without biases every q will do, and the correlation map does not depend on it.
    np.testing.assert_allclose(meanfield.c_map(act, [0.3, 5.0], 0.0, 0.4, q=[7.0, 0.1]), [
        meanfield.c_map(act, 1.0, 0.0, 0.4, q=1.0)] * 2, rtol=1e-14)  # fmt: skip
    assert meanfield.c_star(act, 0.3, 0.0, q=7.0) == 1.0


def test_critical_line_of_erf_in_closed_form():
    """sigma_w2 = (pi / 4) sqrt(1 + 4 q), sigma_b2 = q - sqrt(1 + 4 q) asin(2 q / (1 + 2 q)) / 2."""
    q = np.array([[0.0, 0.01, 0.5], [1.0, 3.0, 40.0]])
    root = np.sqrt(1 + 4 * q)
    line = meanfield.critical_line(stax.Erf(), q_star=q)
    np.testing.assert_allclose(line.sigma_w2, np.pi / 4 * root, rtol=1e-14)
    np.testing.assert_allclose(line.sigma_b2, q - root * np.arcsin(2 * q / (1 + 2 * q)) / 2, rtol=0, atol=2e-14)
    back = meanfield.critical_line("erf", sigma_b2=line.sigma_b2)
    np.testing.assert_allclose(back.q_star, q, rtol=1e-10, atol=1e-15)
    assert back.q_star.shape == (2, 3)


def test_gelu_has_critical_points_only_where_they_attract():
    line = meanfield.critical_line(GELU, q_star=5.0)
    np.testing.assert_allclose(meanfield.chi1(GELU, line.sigma_w2, line.sigma_b2, q0=5.0), 1, rtol=1e-9)
    with pytest.raises(ValueError, match=r"no critical point of gelu with q\* = 1: .* repels its neighbours"):
        meanfield.critical_line(GELU, q_star=[5.0, 1.0])


# ---------------------------------------------------------------- dropout


def test_dropout_destroys_criticality():
    line = meanfield.critical_line("tanh", sigma_b2=0.05)
    args = ("tanh", line.sigma_w2, line.sigma_b2)
    c = meanfield.c_star(*args, keep=np.array([1.0, 0.999, 0.9, 0.5]))
    assert c[0] == 1.0
    assert (np.diff(c) < -0.02).all()
    assert (meanfield.depth_scales(*args, keep=[0.999, 0.9]).xi_c < [60, 5]).all()
    path = meanfield.trajectory(*args, 1.0, [0.99, -0.3], 150, keep=0.9)
    np.testing.assert_allclose(path.c[-1], c[2], rtol=1e-10)
    np.testing.assert_allclose(path.q[-1], meanfield.q_star(*args, keep=0.9), rtol=1e-12)
    np.testing.assert_allclose(
        meanfield.q_map(*args, 2.0, keep=0.5), 2 * meanfield.q_map(*args[:2], 0.0, 2.0) + 0.05, rtol=1e-14
    )
    np.testing.assert_allclose(path.c[1], [meanfield.c_map(*args, c0, q=1.0, keep=0.9) for c0 in (0.99, -0.3)],
                               rtol=0, atol=1e-14)  # fmt: skip


# ---------------------------------------------------------------- the phase diagram


@pytest.mark.parametrize("act", ["tanh", stax.Erf(1.2, 0.9)])
def test_phase_diagram(act):
    w, b = np.linspace(0.6, 4, 8), np.array([0.0, 0.05, 1.0])
    found = meanfield.phase_diagram(act, w, b)
    assert found.phase.shape == (3, 8)
    np.testing.assert_array_equal(found.phase, np.where(found.chi1 > 1, "chaotic", "ordered"))
    edge = np.broadcast_to(meanfield.critical_line(act, sigma_b2=b).sigma_w2[:, None], (3, 8))
    np.testing.assert_array_equal(found.phase == "chaotic", w > edge)
    assert {"ordered", "chaotic"} == set(found.phase.ravel())
    for i, j in ((1, 0), (1, 4), (2, 7), (0, 6)):
        at = (act, w[j], b[i])
        np.testing.assert_allclose(found.q_star[i, j], meanfield.q_star(*at), rtol=1e-12)
        np.testing.assert_allclose(found.chi1[i, j], meanfield.chi1(*at), rtol=1e-12)
        np.testing.assert_allclose(found.c_star[i, j], meanfield.c_star(*at), rtol=0, atol=1e-12)
        scales = meanfield.depth_scales(*at)
        np.testing.assert_allclose((found.xi_q[i, j], found.xi_c[i, j]), (scales.xi_q, scales.xi_c), rtol=1e-9)
    silent = found.q_star == 0
    assert silent[0].any()
    assert (found.c_star[silent] == 1).all()
    assert not any(np.isnan(getattr(found, name)).any() for name in ("q_star", "chi1", "c_star", "xi_q", "xi_c"))


def test_phase_diagram_of_relu_and_of_what_grows_without_bound():
    found = meanfield.phase_diagram("relu", [1.0, 2.0, 3.0], [0.0, 0.1])
    assert found.phase.tolist() == [["ordered", "critical", "unbounded"], ["ordered", "unbounded", "unbounded"]]
    np.testing.assert_array_equal(found.q_star, [[0, 1, np.inf], [0.2, np.inf, np.inf]])
    np.testing.assert_allclose(found.chi1, [[0.5, 1, 1.5]] * 2, rtol=1e-15)
    np.testing.assert_array_equal(found.xi_c[:, 1:], np.inf)
    found = meanfield.phase_diagram(GELU, [1.5, 4.0], [0.1])
    assert found.phase.tolist() == [["ordered", "unbounded"]]
    np.testing.assert_allclose(found.chi1[0, 1], 2.0, rtol=1e-3)  # gelu is relu, far out


# ---------------------------------------------------------------- trajectories


def test_trajectory_in_100_digits():
    """The recursion of erf with the textbook formula, from almost equal inputs on: c and 1 - c."""
    mp, erf = oracles.mp, stax.Erf()
    w, b, q = mp.mpf(1.5), mp.mpf(0.1), mp.mpf(0.7)
    starts = [1 - 2.0**-40, 0.3, -0.9]
    path = meanfield.trajectory("erf", 1.5, 0.1, 0.7, starts, 12)
    covariances = [q * mp.mpf(c) for c in starts]
    for level in range(13):
        np.testing.assert_allclose(path.q[level], float(q), rtol=1e-14)
        np.testing.assert_allclose(path.c[level], [float(c / q) for c in covariances], rtol=0, atol=3e-15)
        np.testing.assert_allclose(path.gap[level], [float(1 - c / q) for c in covariances], rtol=2e-14)
        np.testing.assert_allclose(path.chi[level], float(w * oracles.covariance_dual(erf, q, q, q)[1]), rtol=1e-14)
        covariances = [w * oracles.covariance_dual(erf, q, c, q)[0] + b for c in covariances]
        q = w * oracles.covariance_dual(erf, q, q, q)[0] + b


def test_depth_scales_are_the_rates_of_a_trajectory():
    """As Schoenholz et al. fit them. The gap is followed far below rounding."""
    for w in (1.3, 2.5):
        path = meanfield.trajectory("tanh", w, 0.05, 1.0, [0.2, 0.9], 150)
        scales = meanfield.depth_scales("tanh", w, 0.05)
        q, c = meanfield.q_star("tanh", w, 0.05), meanfield.c_star("tanh", w, 0.05)
        far = slice(9, 15)
        rate = np.polyfit(np.arange(151)[far], np.log(np.abs(path.q - q)[far]), 1)[0]
        np.testing.assert_allclose(-1 / rate, scales.xi_q, rtol=2e-3)
        distance = path.gap[:, 0] if c == 1 else np.abs(path.c[:, 0] - c)
        far = slice(80, 150) if c == 1 else slice(60, 110)
        rate = np.polyfit(np.arange(151)[far], np.log(distance[far]), 1)[0]
        np.testing.assert_allclose(-1 / rate, scales.xi_c, rtol=1e-3)
    assert 0 < meanfield.trajectory("tanh", 1.3, 0.05, 1.0, 0.2, 320).gap[-1] < 1e-17


@pytest.mark.parametrize("act", [stax.Relu(), stax.LeakyRelu(0.3), stax.Erf(), stax.Erf(1.3, 0.7, 0.4)])
def test_ntk_trajectory_is_the_compiled_kernel(act):
    """The same network through kernel_fn.depths: another recursion, other code."""
    depth, q, c = 20, 1.4, 0.6
    layers = [layer for _ in range(depth) for layer in (act, stax.Dense(1, 1.2, 0.3))]
    x = np.sqrt(2 * q) * np.array([[1.0, 0.0], [c, math.sqrt(1 - c * c)]])
    kernels = stax.serial(stax.Dense(1), *layers).kernel_fn.depths(x)
    path = meanfield.ntk_trajectory(act, 1.44, 0.09, q, c, depth, m=2)
    np.testing.assert_allclose(path.q, kernels.nngp[:, 0, 0], rtol=1e-13)
    np.testing.assert_allclose(path.c, kernels.nngp[:, 0, 1] / kernels.nngp[:, 0, 0], rtol=0, atol=1e-13)
    np.testing.assert_allclose(path.p, kernels.ntk[:, 0, 0], rtol=1e-13)
    np.testing.assert_allclose(path.p_ab, kernels.ntk[:, 0, 1], rtol=1e-12)
    np.testing.assert_allclose(path.condition, [np.linalg.cond(k) for k in kernels.ntk], rtol=1e-7)
    np.testing.assert_allclose(path.lambda_max - path.lambda_min, 2 * np.abs(path.p_ab), rtol=1e-9)


def test_critical_asymptotics_of_erf():
    """1 - c ~ 2 / (C''(1) l); NTK: p ~ l q*, p_ab / p -> 1/3, condition of m points -> (m + 2) / 2."""
    line = meanfield.critical_line("erf", q_star=1.0)
    path = meanfield.ntk_trajectory("erf", line.sigma_w2, line.sigma_b2, 1.0, 0.5, 20_000, m=20)
    last = 20_000
    assert abs(last * path.gap[-1] * curvature_of_erf(line.sigma_w2, 1.0) / 2 - 1.0005) < 2e-4
    assert abs(path.p_ab[-1] / path.p[-1] - 0.33317) < 5e-5
    assert abs(path.condition[2000] - 10.95) < 0.01
    np.testing.assert_allclose(path.p[-1], last, rtol=1e-4)
    np.testing.assert_allclose(path.bulk[-1], 2 * last / 3, rtol=1e-3)
    np.testing.assert_allclose(path.lambda_max[-1], 22 * last / 3, rtol=1e-3)


def critical_relu(depth):
    return meanfield.ntk_trajectory("relu", 2.0, 0.0, 1.0, 0.5, depth, m=20)


def test_critical_asymptotics_of_relu():
    """1 - c ~ 9 pi^2 / (2 l^2), p_ab / p -> 1/4, condition -> (m + 3) / 3, each with a rest of order log l / l."""
    path = critical_relu(16_000)
    scaled = path.gap * np.arange(16_001) ** 2.0 / (4.5 * math.pi**2)
    rest = 1 - scaled[[1000, 4000, 16_000]]
    assert (rest > 0).all()
    assert (rest < [0.04, 0.011, 0.004]).all()
    assert (rest[1:] / rest[:-1] < 0.35).all()
    ratio = path.p_ab[[1000, 4000, 16_000]] / path.p[[1000, 4000, 16_000]] - 0.25
    assert (ratio > 0).all()
    assert (ratio < [0.006, 0.0012, 0.0004]).all()
    assert abs(path.condition[2000] - 7.73) < 0.01


@pytest.mark.slow
def test_critical_relu_at_a_depth_of_100_000():
    path = critical_relu(100_000)
    assert abs(path.gap[-1] * 1e10 / (4.5 * math.pi**2) - 0.99953) < 5e-5
    assert abs(path.p_ab[-1] / path.p[-1] - 0.25006) < 1e-5


def test_ntk_in_order_and_chaos():
    """Ordered: p -> q* / (1 - chi_1), condition ~ chi_1^-l / l. Chaotic: p ~ chi_1^l, p_ab -> q*_ab / (1 - C'(c*))."""
    args = ("tanh", 1.3, 0.05)
    q, chi = meanfield.q_star(*args), meanfield.chi1(*args)
    path = meanfield.ntk_trajectory(*args, 1.0, 0.3, 200, m=5)
    np.testing.assert_allclose(path.p[-1], q / (1 - chi), rtol=1e-9)
    depth = np.array([100, 150, 200])
    scaled = path.condition[depth] * chi**depth * depth
    assert scaled.max() / scaled.min() < 1.1
    assert (np.diff(path.condition[5:]) > 0).all()
    assert np.isinf(meanfield.ntk_trajectory(*args, 1.0, 0.3, 320).condition[-1])

    args = ("tanh", 2.5, 0.05)
    q, c = meanfield.q_star(*args), meanfield.c_star(*args)
    path = meanfield.ntk_trajectory(*args, 1.0, 0.3, 300, m=5)
    np.testing.assert_allclose(path.p[-1] / path.p[-2], meanfield.chi1(*args), rtol=1e-9)
    slope = math.exp(-1 / meanfield.depth_scales(*args).xi_c)
    np.testing.assert_allclose(path.p_ab[-1], q * c / (1 - slope), rtol=1e-8)
    assert abs(path.condition[-1] - 1) < 1e-12


def test_resnet_of_relu_is_geometric():
    path = meanfield.resnet_trajectory("relu", 1.0, 0.1, 1.2, 0.05, 2.0, 40)
    assert path.c is None
    growth = 1 + 1.2 / 2
    np.testing.assert_allclose(path.log_gradient, math.log(growth) * np.arange(41), rtol=1e-13)
    step = 1.2 * 0.1 / 2 + 0.05  # p' = growth p + step
    np.testing.assert_allclose(path.p, 2.0 * growth ** np.arange(41) + step * (growth ** np.arange(41) - 1) / 0.6,
                               rtol=1e-12)  # fmt: skip
    np.testing.assert_allclose(path.q, path.p + 0.1, rtol=1e-15)


def test_resnet_of_tanh_is_not():
    """p / l -> sigma_v2 + sigma_a2; log gradient ~ 2 sv2 sw2 (4/3) sqrt(l) / sqrt(2 pi sw2 (sv2 + sa2))."""
    w, v, a = 1.5, 0.8, 0.3
    path = meanfield.resnet_trajectory("tanh", w, 0.1, v, a, 1.0, 1200)
    depth = np.array([300, 1200])
    linear = path.p[depth] / depth / (v + a)
    assert (np.abs(linear - 1) < [0.09, 0.045]).all()
    root = 2 * v * w * (4 / 3) / math.sqrt(2 * math.pi * w * (v + a))
    rise = (path.log_gradient[1200] - path.log_gradient[300]) / (math.sqrt(1200) - math.sqrt(300))
    assert abs(rise / root - 1) < 0.02


def test_resnet_correlation_is_the_compiled_kernel():
    """The recursion of covariances, by the compiled dual."""
    from fastntk import dual

    w, b, v, a = 1.2, 0.2, 0.9, 0.1
    path = meanfield.resnet_trajectory("erf", w, b, v, a, 0.8, 15, c0=[0.999, 0.2, -0.7])
    p, covariance = 0.8, 0.8 * np.array([0.999, 0.2, -0.7])
    for level in range(16):
        np.testing.assert_allclose(path.p[level], p, rtol=1e-13)
        np.testing.assert_allclose(path.c[level], covariance / p, rtol=0, atol=1e-13)
        q = w * p + b
        covariance = covariance + v * dual.erf(q, w * covariance + b, q)[0] + a
        p = p + v * dual.erf(q, q, q)[0] + a


def backward_norms(sigma_w2, sigma_b2, width, depth, rng):
    """log |dL/dz^l|^2 of one tanh network, from the first layer to the last."""
    z = rng.standard_normal(width) * math.sqrt(meanfield.q_star("tanh", sigma_w2, sigma_b2))
    weights, slopes = [], []
    for _ in range(depth):
        weights.append(rng.standard_normal((width, width)) * math.sqrt(sigma_w2 / width))
        slopes.append(1 / np.cosh(z) ** 2)
        z = weights[-1] @ np.tanh(z) + rng.standard_normal(width) * math.sqrt(sigma_b2)
    g = rng.standard_normal(width)
    norms = [math.log(g @ g)]
    for w, slope in zip(weights[::-1], slopes[::-1], strict=True):
        g = slope * (w.T @ g)
        norms.append(math.log(g @ g))
    return norms[::-1]


@pytest.mark.parametrize("sigma_w2", [1.3, 2.5])
def test_gradients_of_finite_networks(sigma_w2):
    """Width 600, depth 25: the slope of log |grad|^2 per layer, towards the input, is log chi_1 (to 6 %)."""
    rng = np.random.default_rng(0)
    norms = np.mean([backward_norms(sigma_w2, 0.05, 600, 25, rng) for _ in range(3)], axis=0)
    slope = -np.polyfit(np.arange(26), norms, 1)[0]
    np.testing.assert_allclose(math.exp(slope), meanfield.chi1("tanh", sigma_w2, 0.05), rtol=0.06)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: meanfield.critical_line("relu", sigma_b2=0.1), r"no critical point of Relu .* only .*\(2, 0\)"),
        (lambda: meanfield.critical_line(stax.ABRelu(0, 0), q_star=1.0), "no critical point: ABRelu is zero"),
        (lambda: meanfield.critical_line(quadrature.Smooth(np.cos, lambda x: -np.sin(x), "cos"), q_star=0.5),
         r"no critical point of cos with q\* = 0.5: sigma_b2 would be -1.66"),
        (lambda: meanfield.critical_line(quadrature.Smooth(lambda x: x, np.ones_like, "identity"), sigma_b2=0.2),
         r"no critical point of identity at sigma_b2 = 0.2"),
        (lambda: meanfield.critical_line("tanh", sigma_b2=-0.1), r"sigma_b2 is a variance and must not be negative"),
        (lambda: meanfield.critical_line("tanh", q_star=-1), r"q_star is a variance"),
        (lambda: meanfield.q_star("relu", 2.0, 0.0), "every q is a fixed point of Relu at sigma_w2 = 2"),
        (lambda: meanfield.q_star(stax.Relu(), [1.0, 2.5], 0.1), "grows without bound at sigma_w2 = 2.5"),
        (lambda: meanfield.chi1(GELU, 4.0, 0.1), "variance of gelu grows without bound"),
        (lambda: meanfield.q_star(quadrature.Smooth(lambda x: x, np.ones_like, "identity"), 1.0, 1e-9),
         "variance of identity grows without bound at sigma_w2 = 1, sigma_b2 = 1e-09"),
        (lambda: meanfield.c_star("tanh", 0.5, 0.0), "signal of tanh dies out"),
        (lambda: meanfield.c_map("tanh", 0.5, 0.0, 0.3), "signal of tanh dies out"),
        (lambda: meanfield.c_map("tanh", 1.5, 0.1, 1.2), r"c is a correlation in \[-1, 1\], given 1.2"),
        (lambda: meanfield.q_map("tanh", 0.0, 0.1, 1.0), "sigma_w2 must be positive, given 0"),
        (lambda: meanfield.q_map("tanh", 1.0, -0.1, 1.0), "sigma_b2 must not be negative, given -0.1"),
        (lambda: meanfield.q_map("tanh", 1.0, 0.1, -1.0), r"\[q_map\] q is a variance"),
        (lambda: meanfield.q_map("tanh", 1.0, 0.1, 1.0, keep=0), r"keep is a probability in \(0, 1\], given 0"),
        (lambda: meanfield.q_map("tanh", 1.0, 0.1, 1.0, keep=1.1), "keep is a probability"),
        (lambda: meanfield.q_map("tanh", np.inf, 0.1, 1.0), "sigma_w2 must be finite"),
        (lambda: meanfield.q_map("tanh", np.ones(2), np.ones(3), 1.0), r"shapes .* do not broadcast"),
        (lambda: meanfield.q_star("tanh", 1.0, 0.1, q0=0), "q0 must be a positive number, given 0"),
        (lambda: meanfield.q_map("swich", 1.0, 0.1, 1.0), "no nonlinearity is called 'swich'; there .*'swish'.*'tanh'"),
        (lambda: meanfield.q_map(quadrature.Smooth(np.tanh, np.tanh), 1.0, 0.1, 1.0), "is not the derivative"),
        (lambda: meanfield.phase_diagram("tanh", 1.0, [0.1]), r"must be vectors, given shapes \[\(\), \(1,\)\]"),
        (lambda: meanfield.phase_diagram("tanh", [], [0.1]), "must be vectors"),
        (lambda: meanfield.trajectory("tanh", 1.0, 0.1, 0.0, 0.5, 3), "q0 must be a positive number, given 0"),
        (lambda: meanfield.trajectory("tanh", 1.0, 0.1, 1.0, 2.0, 3), r"c0 must lie in \[-1, 1\], given 2"),
        (lambda: meanfield.trajectory("tanh", [1.0, 2.0], 0.1, 1.0, 0.5, 3), r"sigma_w2 must be one number"),
        (lambda: meanfield.trajectory("tanh", 1.0, 0.1, 1.0, 0.5, -1), "depth must be at least"),
        (lambda: meanfield.trajectory("relu", 1e9, 0.1, 1.0, 0.5, 100), "variance of Relu overflows at layer"),
        (lambda: meanfield.ntk_trajectory("tanh", 1.0, 0.1, 1.0, 0.5, 3, m=1), "m must be at least 2, given 1"),
        (lambda: meanfield.ntk_trajectory("tanh", 1.0, 0.1, 1.0, -0.6, 3, m=3), "3 inputs cannot all have correlation"),
        (lambda: meanfield.ntk_trajectory("tanh", 1.0, 0.1, 1.0, [0.5], 3), r"c0 must be one number, given shape \(1,"),
        (lambda: meanfield.resnet_trajectory("tanh", 1.0, 0.1, -1.0, 0.0, 1.0, 3), "sigma_v2 and sigma_a2 must not be"),
        (lambda: meanfield.resnet_trajectory("relu", 1e9, 0.1, 1.0, 0.0, 1.0, 100), "overflows at layer"),
    ],
)  # fmt: skip
def test_refused_values(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: meanfield.critical_line("tanh"), "takes exactly one of q_star and sigma_b2"),
        (lambda: meanfield.critical_line("tanh", q_star=1, sigma_b2=1), "takes exactly one of q_star and sigma_b2"),
        (lambda: meanfield.q_map(len, 1.0, 0.1, 1.0), "a nonlinearity is an object with functions phi and dphi"),
        (lambda: meanfield.q_map(stax.Dense(3), 1.0, 0.1, 1.0), "a nonlinearity is an object"),
        (lambda: meanfield.q_map("tanh", "1x", 0.1, 1.0), "sigma_w2 must be a number or an array of numbers"),
        (lambda: meanfield.trajectory("tanh", 1.0, 0.1, 1.0, 0.5, 2.5), "depth must be an integer"),
    ],
)
def test_refused_types(call, words):
    with pytest.raises(TypeError, match=words):
        call()


def test_critical_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"pip install 'fastntk\[predict\]'"):
        meanfield.critical_line("tanh", sigma_b2=0.1)
    assert meanfield.critical_line("tanh", q_star=1.0).sigma_b2 > 0


def test_mpmath_agrees_on_a_fixed_point():
    """tanh at (2.5, 0.05), the root of V(q) - q in 20 digits."""
    mp = mpmath.mp.clone()
    mp.dps = 20

    def excess(q):
        root = mp.sqrt(q)
        g = lambda z: mp.tanh(root * z) ** 2 * mp.exp(-z * z / 2)  # noqa: E731
        return 2.5 * mp.quad(g, [0, 1, 2, 4, 8, 12]) * 2 / mp.sqrt(2 * mp.pi) + mp.mpf(0.05) - q

    np.testing.assert_allclose(
        meanfield.q_star("tanh", 2.5, 0.05), float(mp.findroot(excess, (1.0, 1.1), solver="secant")), rtol=1e-14
    )
