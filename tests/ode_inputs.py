"""Problems for ``predict.gradient_descent``."""

from __future__ import annotations

import numpy as np

# Relative to the largest number of an array, unless a test says otherwise.
BOUND = 1e-9


def square(f, y):
    return (f - y) / y.size


def softmax(f):
    p = np.exp(f - f.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def entropy(f, y):
    return (softmax(f) - y) / len(f)


def close(found, expected, bound=BOUND):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.max(np.abs(found - expected)) <= bound * np.max(np.abs(expected))


class Problem:
    """A Gram of n + m points with given eigenvalues on the training points, targets, and a start."""

    def __init__(self, values, m=3, o=2, seed=0):
        rng = np.random.default_rng(seed)
        self.w = np.asarray(values, float)
        n = len(self.w)
        self.v = np.linalg.qr(rng.standard_normal((n, n)))[0]
        self.k = (self.v * self.w) @ self.v.T
        self.k = (self.k + self.k.T) / 2
        self.half = rng.standard_normal((m, n)) / np.sqrt(n)
        self.cross = self.half @ (self.v * np.sqrt(self.w)).T
        self.y = rng.standard_normal((n, o))
        self.labels = np.eye(max(o, 2))[rng.integers(max(o, 2), size=n)]
        self.soft = softmax(rng.standard_normal((n, o)))
        self.f, self.f_test, self.q, self.q_test = (rng.standard_normal((r, o)) for r in (n, m, n, m))

    def moved(self, change):
        """Outputs after a change of those on the training points given along eigenvectors: exact at any condition."""
        return self.f + self.v @ change, self.f_test + self.half @ (change / np.sqrt(self.w)[:, None])

    def flow(self, t, rate=1.0):
        """Closed form for the mean squared error."""
        return self.moved(-np.expm1(-self.w * rate * t / self.y.size)[:, None] * (self.v.T @ (self.y - self.f)))

    def start(self):
        return self.f, self.f_test, self.cross
