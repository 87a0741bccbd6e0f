"""What a nonlinearity's class says of one input, against integrals of its function: mean and mean square."""

from __future__ import annotations

import numpy as np
import pytest
from fastntk.network.activations import NONLINEARITIES, Nonlinearity
from helpers import assert_close

Q = np.array([1e-6, 1e-2, 0.3, 1.0, 2.4])


def integrals(layer, q, power):
    """``E phi(sqrt(q) z)^power`` of the bare phi, panel by panel on either side of 0, and the same of ``|phi|``."""
    node, weight = np.polynomial.legendre.leggauss(40)
    edges = np.linspace(0, 30, 61)
    z = (edges[:-1, None] + np.diff(edges)[:, None] * (node + 1) / 2).ravel()
    weight = (np.diff(edges)[:, None] * weight / 2).ravel() * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    values = [layer.phi(sign * np.sqrt(q)[:, None] * z, np) ** power for sign in (-1, 1)]
    return sum(v @ weight for v in values), sum(np.abs(v) @ weight for v in values)


# A kernel without a function has no integral to compare with.
FUNCTIONS = [name for name in NONLINEARITIES if name != "exp_normalized"]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("power", [1, 2])
def test_moments(name, power):
    make, args = NONLINEARITIES[name]
    layer = make(*args)
    expected, size = integrals(layer, Q, power)
    found = (layer.mean, layer.variance)[power - 1](Q)
    assert_close(found, expected, "closed form", np.float64, scale=size)


def test_a_mean_that_is_not_said_would_be_seen():
    """The base class says 0, which is right for odd functions alone."""
    make, args = NONLINEARITIES["relu"]
    layer = make(*args)
    expected, _ = integrals(layer, Q, 1)
    assert np.all(expected > 0)
    assert np.array_equal(Nonlinearity.mean(layer, Q), np.zeros(len(Q)))
    assert layer.mean(np.zeros(2)).tolist() == [0, 0]
