"""Networks and rows for test_refused.py and test_boundary.py, and layouts of arrays."""

from __future__ import annotations

import numpy as np
from fastntk import stax

Dense, serial = stax.Dense, stax.serial
BOTH = ("nngp", "ntk")
NET = serial(Dense(8, 1.3, 0.2), stax.Relu(), Dense(8, 1.1), stax.Erf(), Dense(8, 1.2, 0.1), stax.Abs(), Dense(3))

kernel_fn = NET.kernel_fn


def data(dtype=np.float64):
    """Seven rows with a copy and a near-duplicate, and four others."""
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((7, 5)), rng.standard_normal((4, 5))
    x[1], x[2] = x[0], x[0] * (1 + 1e-5 * rng.standard_normal(5))
    return x.astype(dtype), y.astype(dtype)


X, Y = data()


def same(a, b):
    """Equal in dtype, shape and every bit."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def all_same(found, expected):
    return [same(a, b) for a, b in zip(found, expected, strict=True)] == [True] * len(expected)


HALF, REST = serial(*NET.layers[:3]).kernel_fn, serial(*NET.layers[3:]).kernel_fn


# ---------------------------------------------------------------- the same numbers, laid out otherwise


def contiguous(x):
    return x.copy()


def fortran(x):
    return np.asfortranarray(x)


def strided(x):
    wide = np.full((2 * x.shape[0], 3 * x.shape[1], *x.shape[2:]), np.nan, x.dtype)
    wide[::2, ::3] = x
    return wide[::2, ::3]


def backwards(x):
    return np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def swapped(x):
    return x.astype(x.dtype.newbyteorder())


def unaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    raw[...] = x
    return raw


def swapped_backwards(x):
    return backwards(swapped(x))


LAYOUTS = [contiguous, fortran, strided, backwards, read_only, swapped, unaligned, swapped_backwards]
