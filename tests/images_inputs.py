"""Layers and images."""

from __future__ import annotations

import numpy as np
from fastntk import stax

Conv, Dense, Relu, Erf, serial = stax.Conv, stax.Dense, stax.Relu, stax.Erf, stax.serial
GlobalAvgPool, Flatten = stax.GlobalAvgPool, stax.Flatten
READOUTS = {"gap": GlobalAvgPool, "flatten": Flatten}


def images(n, shape=(6, 5, 3), seed=0, dtype=np.float64):
    """Random images, of several contrasts; the second is close to the first, the third a scaled copy."""
    rng = np.random.default_rng([seed, n, *shape])
    x = rng.standard_normal((n, *shape)) * np.linspace(0.5, 2, n).reshape(-1, *[1] * len(shape))
    if n > 2:
        x[1] = x[0] + 1e-3 * rng.standard_normal(shape)
        x[2] = 1.25 * x[0]
    return x.astype(dtype)


def conv(shape=(3, 3), strides=None, padding="SAME", W_std=1.3, b_std=0.1, **keywords):
    return Conv(4, shape, strides, padding, W_std, b_std, **keywords)
