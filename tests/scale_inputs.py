"""What the tests of fastntk.scale share: networks, inputs, and Gram matrices put together from blocks."""

from __future__ import annotations

import numpy as np
from fastntk import stax
from fastntk.engines import select

BOTH = ("nngp", "ntk")


def rows_network(w_std=1.4):
    return stax.serial(
        stax.Dense(1, w_std, 0.1), stax.Relu(), stax.Dense(1, 1.2, 0.2), stax.Erf(), stax.Dense(1)
    ).kernel_fn  # fmt: skip


def images_network():
    return stax.serial(
        stax.Conv(1, (3, 3), padding="SAME"), stax.Relu(), stax.AvgPool((2, 2), (2, 2)), stax.Conv(1, (3, 3)),
        stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1),
    ).kernel_fn  # fmt: skip


def rows(n, dtype=np.float32, seed=0, d=7):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(dtype)


def images(n, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 6, 6, 2)).astype(dtype)


CASES = {"rows": (rows_network(), rows), "images": (images_network(), images)}


def expected(kernel_fn, x, x2, get, side):
    """The matrix from its blocks; by the compiled module also the whole, which must have the same bits."""
    second = x if x2 is None else x2
    cut1, cut2 = ([slice(k, k + side) for k in range(0, len(a), side)] for a in (x, second))
    found = np.empty((len(x), len(second)), x.dtype)
    for i, a in enumerate(cut1):
        for j, b in enumerate(cut2):
            if x2 is None and j < i:
                found[a, b] = found[b, a].T
            else:
                found[a, b] = kernel_fn(x[a], None if x2 is None and i == j else second[b], get)
    if select.select().name == "cpu":
        assert np.array_equal(found, kernel_fn(x, x2, get))
    return found
