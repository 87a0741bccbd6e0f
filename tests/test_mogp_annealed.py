"""Annealed posteriors: what they say of their own error, and what test points take part in."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from fastntk.mogp import Beta, EffectiveSampleSizeWarning, Iid, Layer, Sum, posterior, sample_kernels
from fastntk.mogp.annealing import Latents, extended, kernels_of
from fastntk.mogp.kernels import Problem


def targets(n=6, m=5, d=2):
    rng = np.random.default_rng(0)
    x, x_test = rng.standard_normal((n, d)), rng.standard_normal((m, d))
    return x, np.sin(2 * x[:, :1]), x_test


def annealed(moves, seed, n_samples=32, **more):
    x, y, x_test = targets()
    layers = [Layer(Beta(2.0), sigma_v2=2.0)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EffectiveSampleSizeWarning)
        return posterior(x, y, x_test, 0.01, layers, n_samples, 10, seed, method="annealed", moves=moves, **more)


@pytest.mark.parametrize("moves", [1, None])
def test_the_effective_sample_size_is_that_of_the_means(moves):
    """Means of many seeds scatter as ``spread / sqrt(ess)`` says, to the factor that ten seeds can tell."""
    runs = [annealed(moves, seed) for seed in range(10)]
    seen = np.var([r.mean[:, 0] for r in runs], axis=0, ddof=1)
    said = np.mean([r.variance[:, 0] / r.ess for r in runs], axis=0)
    assert 1 / 3 < math.sqrt(seen.sum() / said.sum()) < 1.6
    ess = np.array([r.ess for r in runs])
    assert (ess < 32).all()
    assert all(r.inflation > 1 and len(r.moves) == r.stages for r in runs)
    if moves is None:  # moved until they are little like where they stood
        assert ess.mean() > 1.3 * np.mean([annealed(1, seed).ess for seed in range(10)])
        assert max(max(r.moves) for r in runs) > 1
    else:
        assert {m for r in runs for m in r.moves} == {1}


def test_test_points_take_no_part_in_the_moves():
    x, y, _ = targets()
    rng, layers = np.random.default_rng(1), [Layer(Beta(2.0), sigma_v2=2.0)] * 2
    options = {"method": "annealed", "moves": 2}
    found = [
        posterior(x, y, rng.standard_normal((m, 2)), 0.1, layers, 20, 10, 3, covariance=kind, **options)
        for m, kind in ((1, "full"), (70, "full"), (70, "diagonal"))
    ]
    assert len({(r.log_evidence, r.moves, r.inflation) for r in found}) == 1
    assert found[2].covariances.shape == (20, 70)
    assert all(np.isfinite(r.means).all() and np.isfinite(r.covariances).all() for r in found)


@pytest.mark.parametrize("measure", [Beta(2.0), Iid(1.0), Sum((Iid(0.5), Beta(1.0)))])
def test_points_drawn_later_have_the_law_of_those_drawn_at_once(measure):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((5, 3))
    x[4] = x[0]  # a test point that is a training point
    layers = [Layer(measure, sigma_v2=2.0, sigma_b2=0.1)] * 2
    count = 2000
    whole = Problem.of(x, layers, count, 8, 0, 1.0, 0.1, "test")
    few = Problem.of(x[:3], layers, count, 8, 1, 1.0, 0.1, "test")
    latents = Latents.drawn(few, count)
    later = np.concatenate(list(extended(few, latents, whole.first)))
    np.testing.assert_allclose(later[:, :3, :3], kernels_of(few, latents), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(later[:, 4], later[:, 0], rtol=1e-4, atol=1e-5)
    at_once = sample_kernels(x, layers, count, 8, 2, sigma_b2=0.1)
    for power in (1, 2):
        a, b = later**power, at_once**power
        error = np.sqrt((a.var(axis=0) + b.var(axis=0)) / count)
        assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) <= 4 * error + 1e-12).all()


def test_kernels_that_are_not_random_need_no_draws():
    x, y, x_test = targets()
    found = posterior(x, y, x_test, 0.1, [Layer(Iid(2.0))], 1, 3, 0)  # warnings are errors here
    many = posterior(x, y, x_test, 0.1, [Layer(Iid(2.0))], 20, 3, 0)
    np.testing.assert_allclose(found.mean, many.mean, rtol=1e-12)


def test_few_draws_are_told_from_draws_that_do_not_fit():
    x, y, x_test = targets()
    with pytest.warns(EffectiveSampleSizeWarning, match="is 5 of 5 draws: ask for more draws"):
        posterior(x, 0 * y, x_test, 1e6, [Layer(Beta(2.0))], 5, 3, 0)
