"""Close to criticality and where signals die out: fixed points, depth scales and critical lines keep their digits."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from fastntk import meanfield, quadrature, stax

mp = mpmath.mp.clone()
mp.dps = 50

SCALED = stax.Erf(1.3, 0.7)
# phi'(0)^2
GAINS = {"tanh": 1.0, "erf": 4 / math.pi, SCALED: (1.3 * 0.7) ** 2 * 4 / math.pi}


# ---------------------------------------------------------------- erf in 50 digits, by its closed form


def square(q, c=1):
    """E erf(u) erf(v) of two variables of variance q and correlation c."""
    return 2 / mp.pi * mp.asin(2 * q * c / (1 + 2 * q))


def slope(q, c=1):
    """E erf'(u) erf'(v)."""
    return 4 / mp.pi / mp.sqrt((1 + 2 * q) ** 2 - (2 * q * c) ** 2)


def erf_in_50_digits(w, b, near):
    """``(q*, chi_1, 1 - c*, V'(q*), C'(c*))`` with q* near a number, in the chaotic phase."""
    w, b = mp.mpf(w), mp.mpf(b)
    q = mp.findroot(lambda q: w * square(q) / q + b / q - 1, (near, near * mp.mpf(1.01)), solver="secant", tol=1e-80)
    chi = w * slope(q)
    # (C(c) - c) / (1 - c) has lost the root at 1
    gap = mp.findroot(
        lambda v: (w * (square(q) - square(q, 1 - v)) / q) / v - 1, (chi - 1, 2 * (chi - 1)), solver="secant", tol=1e-60
    )
    growth = w * 2 / mp.pi * 2 / (1 + 2 * q) ** 2 / mp.sqrt(1 - (2 * q / (1 + 2 * q)) ** 2)
    return q, chi, gap, growth, w * slope(q, 1 - gap)


@pytest.mark.parametrize("excess", [0.3, 1e-2, 1e-4, 1e-5])
def test_just_above_the_critical_point_of_erf(excess):
    """At sigma_b = 0: q* is of order the excess, chi_1 - 1 and 1 / xi_c of order its square."""
    w = math.pi / 4 * (1 + excess)
    q, chi, gap, growth, rate = erf_in_50_digits(w, 0, mp.mpf(excess) / 2)
    found = meanfield.depth_scales("erf", w, 0.0)
    np.testing.assert_allclose(meanfield.q_star("erf", w, 0.0), float(q), rtol=1e-14 / excess)
    np.testing.assert_allclose(1 - meanfield.c_star("erf", w, 0.0), float(gap), rtol=1e-14 / float(chi - 1))
    np.testing.assert_allclose(found.xi_q, float(-1 / mp.log(growth)), rtol=1e-14 / excess)
    np.testing.assert_allclose(found.xi_c, float(-1 / mp.log(rate)), rtol=1e-14 / float(chi - 1))
    np.testing.assert_allclose(found.xi_grad, float(-1 / mp.log(chi)), rtol=1e-14 / float(chi - 1))


@pytest.mark.parametrize("q", [0.02, 1.0, 30.0])
@pytest.mark.parametrize("excess", [1e-2, 1e-5, 1e-8])
def test_just_inside_the_chaotic_phase_of_erf(q, excess):
    b = float(mp.mpf(q) - square(mp.mpf(q)) / slope(mp.mpf(q)))
    w = float(1 / slope(mp.mpf(q))) * (1 + excess)
    at, chi, gap, growth, rate = erf_in_50_digits(w, b, mp.mpf(q))
    found = meanfield.depth_scales("erf", w, b)
    assert found.xi_c > 0
    np.testing.assert_allclose(meanfield.q_star("erf", w, b), float(at), rtol=1e-13)
    np.testing.assert_allclose(found.xi_q, float(-1 / mp.log(growth)), rtol=1e-12)
    np.testing.assert_allclose(found.xi_c, float(-1 / mp.log(rate)), rtol=3e-14 / float(chi - 1))
    np.testing.assert_allclose(1 - meanfield.c_star("erf", w, b), float(gap), rtol=3e-14 / float(chi - 1), atol=2e-16)


@pytest.mark.parametrize("q", [0.5, 5.0, 40.0])
def test_just_inside_the_chaotic_phase_of_tanh(q):
    """xi_c = 1 / (chi_1 - 1) to first order, also where no Hermite series resolves close correlations."""
    line = meanfield.critical_line("tanh", q_star=q)
    for excess in (1e-9, 1e-6):
        w = line.sigma_w2 * (1 + excess)
        chi, found = meanfield.chi1("tanh", w, line.sigma_b2), meanfield.depth_scales("tanh", w, line.sigma_b2)
        np.testing.assert_allclose(found.xi_c * (chi - 1), 1, rtol=1e-5)
        np.testing.assert_allclose(found.xi_grad * (chi - 1), -1, rtol=1e-5)


# ---------------------------------------------------------------- without biases


@pytest.mark.parametrize("act", GAINS, ids=str)
@pytest.mark.parametrize("below", [0.5, 0.02, 1e-2, 1e-3, 1e-5, 1e-9, 1e-12])
def test_signals_that_die_out_slowly(act, below):
    """q* = 0; all scales are those of the linear map, sigma_w^2 phi'(0)^2."""
    w = (1 - below) / GAINS[act]
    chi = mp.mpf(w) * ((mp.mpf("1.3") * mp.mpf("0.7")) ** 2 * 4 / mp.pi if act is SCALED else
                       4 / mp.pi if act == "erf" else 1)  # fmt: skip
    assert meanfield.q_star(act, w, 0.0) == 0
    np.testing.assert_allclose(
        tuple(meanfield.depth_scales(act, w, 0.0)), float(-1 / mp.log(chi)), rtol=1e-14 + 1e-15 / below
    )
    assert meanfield.phase_diagram(act, [w], [0.0]).c_star == 1


@pytest.mark.parametrize("act", GAINS, ids=str)
def test_scales_are_infinite_at_the_critical_point(act):
    w = 1 / GAINS[act]
    assert tuple(meanfield.depth_scales(act, w, 0.0)) == (np.inf, np.inf, np.inf)
    found = meanfield.phase_diagram(act, [0.99 * w, w, 1.01 * w], [0.0])
    assert found.phase.tolist() == [["ordered", "critical", "chaotic"]]
    assert (found.xi_q[0, 1], found.xi_c[0, 1]) == (np.inf, np.inf)
    assert (found.q_star[0, :2] == 0).all()


def test_scales_are_infinite_along_the_critical_line():
    for act in ("tanh", SCALED):
        line = meanfield.critical_line(act, q_star=[1e-6, 0.03, 0.4, 1.0, 2.5, 12.0])
        found = meanfield.depth_scales(act, line.sigma_w2, line.sigma_b2)
        assert (found.xi_c == np.inf).all()
        assert (found.xi_grad == np.inf).all()
        assert (found.xi_q > 0).all()
        assert np.isfinite(found.xi_q).all()


def test_a_phase_diagram_across_criticality():
    """A fine grid through the edge without biases: nothing fails, and all scales are positive."""
    w = np.concatenate([np.linspace(0.9, 1.1, 41), 1 + np.array([-1e-3, -1e-6, -1e-9, 1e-9, 1e-6, 1e-3])])
    for act, gain in (("tanh", 1.0), ("erf", 4 / math.pi)):
        found = meanfield.phase_diagram(act, w / gain, [0.0, 1e-9, 1e-3])
        assert (found.xi_q > 0).all()
        assert (found.xi_c > 0).all()
        assert (np.abs(found.c_star - 0.5) <= 0.5).all()
        np.testing.assert_array_equal(found.q_star[0] == 0, w / gain * gain <= 1)


def test_any_start_leads_to_the_same_variance():
    """Away from a zero that repels by a thousandth, or less, a layer: upwards as downwards."""
    for excess in (1e-1, 1e-3, 1e-6):
        due = meanfield.q_star("tanh", 1 + excess, 0.0)
        for start in (1e-250, 1e-12, 1e-4, 1e3):
            np.testing.assert_allclose(
                meanfield.q_star("tanh", 1 + excess, 0.0, q0=start), due, rtol=max(1e-13, 1e-14 / excess)
            )
        assert meanfield.q_star("tanh", 1 - excess, 0.0, q0=1e5) == 0


# ---------------------------------------------------------------- critical lines


@pytest.mark.parametrize("q", [1e-12, 1e-8, 1e-6, 1e-4, 0.01])
def test_small_biases_of_the_critical_line(q):
    """sigma_b^2 = q* - E phi^2 / E phi'^2 is of order q*^3: a difference would have no digits."""
    due = mp.mpf(q) - square(mp.mpf(q)) / slope(mp.mpf(q))
    line = meanfield.critical_line("erf", q_star=q)
    np.testing.assert_allclose(line.sigma_b2, float(due), rtol=1e-14 / q)
    np.testing.assert_allclose(meanfield.critical_line("erf", sigma_b2=float(due)).q_star, q, rtol=1e-14 / q)


@pytest.mark.parametrize("act", [stax.LeakyRelu(s) for s in (0.1, 0.3, 0.7)] + [stax.ABRelu(-0.3, 2.1), stax.Relu()],
                         ids=str)  # fmt: skip
def test_rectifiers_are_critical_to_rounding(act):
    """sigma_w^2 = 2 / (a^2 + b^2) may round to either side."""
    w = meanfield.critical_line(act, sigma_b2=0.0).sigma_w2
    for near in (w, np.nextafter(w, 0), np.nextafter(w, 9)):
        with pytest.raises(ValueError, match="every q is a fixed point"):
            meanfield.q_star(act, near, 0.0)
        assert tuple(meanfield.depth_scales(act, near, 0.0, q=2.0)) == (np.inf, np.inf, np.inf)
        found = meanfield.phase_diagram(act, [near], [0.0, 0.1])
        assert found.phase.ravel().tolist() == ["critical", "unbounded"]
        assert found.q_star.ravel().tolist() == [1.0, np.inf]
    np.testing.assert_allclose(meanfield.depth_scales(act, w * (1 - 1e-9), 0.0).xi_c, 1e9, rtol=1e-6)


# ---------------------------------------------------------------- trajectories that vanish


@pytest.mark.parametrize("act", ["tanh", "erf", "relu", "leaky_relu", quadrature.Smooth(np.sin, np.cos, "sin")],
                         ids=str)  # fmt: skip
def test_trajectories_stay_numbers_when_the_signal_dies_out(act):
    """q underflows after a thousand layers; the smooth map is linear by then, and correlations stand still."""
    act = stax.LeakyRelu(0.2) if act == "leaky_relu" else act
    path = meanfield.trajectory(act, 0.4, 0.0, 1.0, [0.5, -0.3, 1.0], 1500)
    ntk = meanfield.ntk_trajectory(act, 0.4, 0.0, 1.0, 0.5, 1500)
    for result in (path, ntk):
        assert not any(np.isnan(value).any() for value in vars(result).values())
    assert path.q[-1] < 1e-300
    assert (path.gap[:, 2] == 0).all()
    if act not in ("relu",) and not isinstance(act, stax.LeakyRelu):
        np.testing.assert_allclose(path.gap[-1], path.gap[100], rtol=1e-11)


def test_dropout_decorrelates_also_where_nothing_is_left():
    path = meanfield.trajectory("tanh", 0.2, 0.0, 1.0, [1.0], 1500, keep=0.5)
    assert not np.isnan(path.c).any()
    np.testing.assert_allclose(path.c[40, 0] / path.c[39, 0], 0.5, rtol=1e-3)
    assert path.c[-1, 0] < 1e-100
