"""Tables of single images: what windows read, the same bits for every batch, and variances that come with them."""

from __future__ import annotations

import itertools
import threading
from unittest import mock

import fastntk
import numpy as np
import pytest
from fastntk import stax
from fastntk.engines import cpu_images, select
from fastntk.network.window import Window
from fastntk.plan.taps import beyond, padding_of, reads_of, stages_of
from test_images import NETWORKS, images

BOTH = ("nngp", "ntk")
needs_cpu = pytest.mark.skipif(select.load("cpu")[0] is None, reason="tables are what compiled engines read")

WINDOWS = [
    Window.of("test", size, shape, (1,) * len(size), dilation, padding)
    for size, shape, dilation in [((6, 5), (3, 3), (1, 1)), ((6, 7), (3, 2), (2, 3)), ((5, 4, 3), (1, 3, 2), (1, 1, 1)),
                                  ((7,), (4,), (1,)), ((1, 1), (3, 3), (1, 1))]
    for padding in ("SAME", "CIRCULAR", "VALID")
    if padding != "VALID" or all((k - 1) * e < n for n, k, e in zip(size, shape, dilation, strict=True))
]  # fmt: skip


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_both_stages_sum_what_the_window_reads(window):
    """One tap after the other, by positions, against both stages on images in memory of their own kind."""
    rank, n = len(window.shape), 3
    padded = tuple(a + b for a, b in zip(window.size_in, padding_of([window], rank), strict=True))
    size = int(np.prod(padded))
    memory = np.zeros(size * (n + 2))  # an image's worth of zeros before and behind
    body = slice(size, size * (n + 1))
    x = np.random.default_rng(0).integers(1, 100, (n, *window.size_in)).astype(float)
    memory[body].reshape(n, *padded)[(..., *(slice(k) for k in window.size_in))] = x
    for stage in stages_of(window, padded):
        sums = np.zeros_like(memory)
        own, read = sums[body].reshape(n, *padded), memory[body].reshape(n, *padded)
        for tap, shift in enumerate(stage.shifts):
            if not window.circular:
                sums[body] += memory[size + shift : size * (n + 1) + shift]
                continue
            for place, other in stage.pieces[tap]:
                own[place] += read[other]
        for place in stage.beyond:
            own[place] = 0
        memory = sums
    expected = np.zeros((n, *window.size_out))
    for at in itertools.product(*map(range, window.size_out)):
        for tap in itertools.product(*map(range, window.shape)):
            where = [window.positions(axis)[p, t] for axis, (p, t) in enumerate(zip(at, tap, strict=True))]
            if min(where) >= 0:
                expected[(slice(None), *at)] += x[(slice(None), *where)]
    inside = (..., *(slice(k) for k in window.size_out))
    found = memory[body].reshape(n, *padded)
    assert (found[inside] == expected).all()
    assert found.sum() == expected.sum(), "nothing is left where no position is"
    assert all((found[place] == 0).all() for place in beyond(window.size_out, padded))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_reads_of_a_link(window):
    found = reads_of(window, window.size_in, window.size_out)
    flat = np.append(np.arange(np.prod(window.size_in)), -1)[found]
    for k, at in enumerate(np.ndindex(*window.size_out)):
        for t, tap in enumerate(np.ndindex(*window.shape)):
            where = [window.positions(axis)[p, a] for axis, (p, a) in enumerate(zip(at, tap, strict=True))]
            assert flat[k, t] == (-1 if min(where) < 0 else np.ravel_multi_index(where, window.size_in))


@needs_cpu
@pytest.mark.parametrize("name", NETWORKS)
def test_bits_do_not_depend_on_batches(name, dtype):
    """Stretches of a few steps or of all, images alone or side by side, one thread or several."""
    x, kernel_fn = images(7, dtype=dtype), NETWORKS[name].kernel_fn
    with fastntk.options(backend="cpu"):
        expected = kernel_fn(x, None, BOTH)
        before = threading.active_count()
        for work, threads in ((1 << 6, 1), (1 << 11, 1), (1 << 6, 3)):
            with mock.patch.object(cpu_images, "WORK", work), fastntk.options(num_threads=threads):
                found = kernel_fn(x, None, BOTH)
            assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True)), (work, threads)
        assert threading.active_count() == before
        one = kernel_fn(x[3:4], None, BOTH)
        assert all(np.array_equal(a[0, 0], b[3, 3]) for a, b in zip(one, expected, strict=True))


@needs_cpu
def test_an_error_in_one_thread_ends_the_others():
    x, made = images(40), []
    make = cpu_images.make_tables

    def failing(*args):
        made.append(1)
        if len(made) == 3:
            raise KeyboardInterrupt
        return make(*args)

    with (
        mock.patch.object(cpu_images, "make_tables", failing),
        mock.patch.object(cpu_images, "WORK", 1),
        fastntk.options(num_threads=2, backend="cpu"),
        pytest.raises(KeyboardInterrupt),
    ):
        NETWORKS["no bias"].kernel_fn(x, None, "ntk")
    assert len(made) < 40


# ---------------------------------------------------------------- variances


@pytest.mark.parametrize("name", NETWORKS)
def test_variances_do_not_depend_on_what_else_is_asked(name, dtype, backend):
    x1, x2, kernel_fn = images(3, dtype=dtype), images(2, seed=1, dtype=dtype), NETWORKS[name].kernel_fn
    whole = kernel_fn(x1, x2)
    for found in (kernel_fn(x1, None).cov1, kernel_fn(x1, x2, "cov1"), kernel_fn(x1, None, ("cov1", "ntk")).cov1):
        assert np.array_equal(found, whole.cov1)
    assert np.array_equal(kernel_fn(x2, x1, ("cov2", "cov1")).cov1, whole.cov2)
    assert kernel_fn(x1, None).cov2 is None
    gram = np.moveaxis(np.diagonal(kernel_fn(x1, None, "nngp"), axis1=0, axis2=1), -1, 0)
    size = np.abs(gram).max(axis=tuple(range(1, gram.ndim)), keepdims=True)
    assert (np.abs(whole.cov1 - gram) <= 64 * np.finfo(dtype).eps * size).all()


@needs_cpu
@pytest.mark.parametrize(("readout", "pairs"), [(stax.Flatten(), 0), (stax.GlobalAvgPool(), 5)])
def test_variances_come_with_tables_where_no_covariance_is_pooled(readout, pairs):
    net = stax.serial(stax.Conv(4, (3, 3), padding="SAME"), stax.Relu(), readout, stax.Dense(1))
    listed = []
    run = cpu_images.CpuPlanes._run_listed

    def counted(self, tables1, tables2, pairs, outputs):
        listed.extend(pairs)
        run(self, tables1, tables2, pairs, outputs)

    with mock.patch.object(cpu_images.CpuPlanes, "_run_listed", counted), fastntk.options(backend="cpu"):
        net.kernel_fn(images(3), images(2, seed=1))
    assert len(listed) == pairs
