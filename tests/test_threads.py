"""Threads that share networks and what is kept between calls; without a global lock where Python has none."""

from __future__ import annotations

import functools
import gc
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import fastntk
import numpy as np
import pytest
from fastntk import dual, stax
from fastntk.engines import select
from helpers import same

THREADS = 6
BOTH = ("nngp", "ntk")


@pytest.fixture
def impatient():
    """Where Python has a global lock, it goes round as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def forget():
    """Empty all that modules keep between calls: the next ones, from all threads, make it anew."""
    everything = (f for f in gc.get_objects() if type(f) is functools._lru_cache_wrapper)
    kept = [f for f in everything if f.__module__.startswith("fastntk.")]
    assert len(kept) > 15
    for function in kept:
        if function is not select.load:
            function.cache_clear()


def calls():
    """Calls that use every kind of what is kept: programs, rows, fits, plans, tables, layouts."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 6)), rng.standard_normal((9, 6)).astype(np.float32)
    images = rng.standard_normal((4, 6, 6, 2)).astype(np.float32) + 0.5
    dense = stax.serial(stax.Dense(8, 1.3, 0.2), stax.Relu(), stax.Dense(8, 1.1), stax.Erf(), stax.Dense(1))
    fitted = stax.serial(stax.Dense(8, 1.2), stax.Softplus(), stax.Dense(1))
    conv = stax.Conv(4, (3, 3), padding="SAME", W_std=1.3, b_std=0.1)
    pooled = stax.serial(conv, stax.Relu(), conv, stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1))
    flat = stax.serial(conv, stax.Erf(), stax.AvgPool((2, 2), (2, 2)), stax.Flatten(), stax.Dense(1))
    kernel = dense.kernel_fn(x)

    def other_network(k):
        """A network that no other call has: kept programs come and go."""
        return stax.serial(stax.Dense(8, 1 + k / 64), stax.Relu(), stax.Dense(1)).kernel_fn(x[:5], None, "ntk")

    return [
        lambda: dense.kernel_fn(x, None, BOTH),
        lambda: dense.kernel_fn(y, None, BOTH),
        lambda: dense.kernel_fn(x[:3], x, "ntk"),
        lambda: dense.kernel_fn.depths(x, None, "ntk"),
        lambda: dense.kernel_fn.diagonal(x),
        lambda: dense.kernel_fn.vjp(x[:7], cotangents={"ntk": np.ones((7, 7))}).x1,
        lambda: dense.kernel_fn(kernel, None, "ntk"),
        lambda: fitted.kernel_fn(x, None, BOTH),
        lambda: fitted.kernel_fn(y, None, "ntk"),
        lambda: pooled.kernel_fn(images, None, BOTH),
        lambda: pooled.kernel_fn(images[:2], images, "ntk"),
        lambda: flat.kernel_fn(images.astype(np.float64), None, BOTH),
        lambda: flat.kernel_fn.diagonal(images),
        lambda: dual.relu(1.0, np.linspace(-1, 1, 9), 1.0),
        *(lambda k=k: other_network(k) for k in range(6)),
    ]


def arrays(found):
    return [found] if isinstance(found, np.ndarray) else list(found)


def test_networks_that_threads_share(backend, impatient):
    """Every thread makes all calls, each from another one on, when nothing is kept yet: the numbers of one thread."""
    if backend.startswith("cuda"):
        pytest.skip("a device's calls are ordered by its stream: tests/test_gpu.py")
    backend, _, isa = backend.partition(":")
    options = {"backend": backend, "isa": isa or None, "num_threads": 2}
    with fastntk.options(**options):
        expected = [arrays(call()) for call in calls()]
    forget()
    shared, start = calls(), threading.Barrier(THREADS)

    def work(first):
        with fastntk.options(**options):
            start.wait()
            order = [(first + k) % len(shared) for k in range(len(shared))]
            return {k: arrays(shared[k]()) for k in order}

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(work, range(0, 3 * THREADS, 3)))
    for own in found:
        for k, values in enumerate(expected):
            assert all(same(a, b) for a, b in zip(own[k], values, strict=True)), k


def test_the_compiled_modules_ask_for_no_global_lock():
    if not hasattr(sys, "_is_gil_enabled") or sys._is_gil_enabled():
        pytest.skip("this Python has a global lock")
    assert select.load("cpu")[0] is not None
    assert not sys._is_gil_enabled()
