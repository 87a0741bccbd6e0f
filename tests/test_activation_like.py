"""Nonlinearities by name and as layers, wherever a theory takes one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fastntk import abc, lazy_feature, mogp, quadrature, stax
from fastntk.lazy_feature.flow import _activation
from fastntk.meanfield.statistics import statistics_of
from fastntk.mogp import node_scaling
from fastntk.network.activation_like import named, plain_names
from fastntk.network.activations import GENERAL, NONLINEARITIES


def in_theories(act):
    """Whatever takes one; of each a number or two."""
    x = np.array([[0.3, -1.0], [0.7, 0.2]])
    shallow = node_scaling.init(4, 2, 0.5, [0.3], 0, activation=act)
    return [
        np.asarray(statistics_of(act, "q_map").phi(x)).ravel().tolist(),
        abc.init(abc.Parameterization.mup(2), 4, 2, 0, activation=act)(x)[:, 0].tolist(),
        np.asarray(_activation(act, "run")[0](np, x)).ravel().tolist(),
        np.asarray(mogp.Layer(mogp.Iid(), act).phi(x)).ravel().tolist(),
        shallow.atoms(x).ravel().tolist(),
    ]


def flat(found):
    return np.concatenate([np.ravel(part) for part in found])


def test_all_that_need_no_arguments_have_names():
    assert {"gelu", "elu", "tanh", "relu", "sin", "rbf", "gaussian", "silu"} <= set(plain_names())
    assert not {"leaky_relu", "polynomial", "monomial"} & set(plain_names())


@pytest.mark.parametrize("name", [name for name in plain_names() if name != "exp_normalized"])
def test_names_in_any_case_are_layers(name):
    """But softplus, which lazy_feature has with a slope of its own."""
    kind = GENERAL[name] if name in GENERAL else NONLINEARITIES[name][0]
    by_layer = in_theories(kind())
    for given in (name, name.upper(), name.title()):
        found = in_theories(given)
        if name == "softplus":
            found[2], by_layer[2] = [], []
        np.testing.assert_allclose(flat(found), flat(by_layer), rtol=1e-13, atol=1e-14)
    assert quadrature.smooth(name.upper()).phi(np.ones(1)) == pytest.approx(kind().apply((), np.ones(1), np))


def test_a_function_of_a_users_needs_no_derivative():
    own, known = (
        stax.Activation(lambda x: x * np.tanh(x)),
        stax.Activation(lambda x: x * np.tanh(x), lambda x: np.tanh(x) + x / np.cosh(x) ** 2),
    )
    np.testing.assert_allclose(flat(in_theories(own)), flat(in_theories(known)), rtol=1e-13)
    x = np.linspace(-2, 2, 9)
    found, expected = (_activation(act, "run")[1](np, x) for act in (own, known))
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_a_scan_of_layers_is_kept_by_what_they_are(tmp_path):
    x, y = np.array([[1.0, 0.2], [-0.3, 1.0]]), np.array([1.0, -1.0])
    for act in (stax.Gelu(), "gelu"):
        path = tmp_path / f"{type(act).__name__}.json"
        first, again = (lazy_feature.scan(x, y, [4], [1.0], act=act, path=path) for _ in range(2))
        np.testing.assert_array_equal(first.dtheta, again.dtheta)
        assert again.resumed == 1


@pytest.mark.rivals
@pytest.mark.parametrize("name", ["gelu", "erf", "abs", "sigmoid_like", "sin", "elu"])
def test_on_a_device_too(name):
    pytest.importorskip("torch")
    x, y = np.array([[1.0, 0.2], [-0.3, 1.0]]), np.array([1.0, -1.0])
    here, there = (
        lazy_feature.run(x, y, 4, act=act, rng=0, max_steps=20, **given)
        for act, given in ((name, {}), (named(name), {"device": "cpu"}))
    )
    np.testing.assert_allclose(here.f, there.f, rtol=1e-10)
    assert math.isfinite(here.t)
