"""What is computed of a pair of images, within which memory, and what a call says of it."""

from __future__ import annotations

import sys
from unittest import mock

import fastntk
import numpy as np
import pytest
from fastntk import stax
from fastntk.engines import select
from fastntk.engines.cpu_images import CpuPlanes
from fastntk.network.activations import NONLINEARITIES
from fastntk.network.lower import lower
from fastntk.network.program import Value
from fastntk.plan.grids import make_plan
from helpers import same

compiled = pytest.mark.skipif(select.load("cpu")[0] is None, reason="the compiled CPU module is not installed")


def conv(**keywords):
    return stax.Conv(1, (3, 3), padding="SAME", **keywords)


READOUT = (stax.GlobalAvgPool(), stax.Dense(1))
POOLED = stax.serial(conv(), stax.Relu(), stax.AvgPool((2, 2), (2, 2)), conv(), stax.Relu(), *READOUT)


def plan_of(net, spatial):
    value = Value(0, 2, spatial=spatial, batch_axis=0, channel_axis=1 + len(spatial))
    return make_plan(lower(net, value).program, (spatial,))


def displacements(net, spatial):
    return [grid.displacements for grid in plan_of(net, spatial).grids]


# ---------------------------------------------------------------- what the readout needs


def test_flatten_needs_equal_positions_only():
    assert displacements(stax.serial(conv(), stax.Relu(), conv(), stax.Relu(), stax.Flatten()), (8, 8)) == [1, 1]


def test_global_pooling_needs_all():
    assert displacements(stax.serial(conv(), stax.Relu(), *READOUT), (8, 6)) == [48, 1]


def test_behind_the_last_pool_a_network_is_diagonal_again():
    """Two 2 x 2 pools under Flatten: 7 x 7 displacements of the input, 3 x 3 between them, none behind."""
    pool = stax.AvgPool((2, 2), (2, 2))
    net = stax.serial(conv(), stax.Relu(), pool, conv(), stax.Relu(), pool, conv(), stax.Relu(), stax.Flatten())
    assert displacements(net, (32, 32)) == [49, 9, 1, 1]


def test_strides_need_multiples():
    net = stax.serial(conv(), stax.Relu(), conv(strides=(2, 2)), stax.Relu(), *READOUT)
    assert displacements(net, (8, 8)) == [16, 16, 1]
    assert plan_of(net, (8, 8)).grids[0].need == ((0, 2, 4, 6), (0, 2, 4, 6))


def test_only_pools_before_a_nonlinearity_need_images_with_themselves():
    assert [grid.self_need for grid in plan_of(POOLED, (8, 8)).grids] == [((0, 1, 7), (0, 1, 7)), ((0,), (0,)), ((),)]
    last = stax.serial(conv(), stax.Relu(), *READOUT)
    assert not any(all(grid.self_need) for grid in plan_of(last, (8, 8)).grids)


def test_positive_is_what_the_dual_says():
    """The claim of a class, which spares a plane, against its dual at opposite inputs."""
    q = np.ones(1)
    for name, (make, args) in NONLINEARITIES.items():
        if make(*args).positive:
            k, _ = getattr(fastntk.dual, name)(q, -q, q, *args)
            assert k >= 0, name


# ---------------------------------------------------------------- explain


def test_explain(backend):
    found = POOLED.kernel_fn.explain((10, 8, 8, 2))
    assert found.entries == 64 * 64 + 16 * 16 + 1
    assert found.flops > found.entries
    assert 0 < found.seconds < 1
    assert (found.table_bytes > 0) == (fastntk.show_config("dict")["backend"] != "numpy")
    text = str(found)
    assert "64 of 64" in text
    assert "16 of 16" in text
    assert "relu" in text


@pytest.mark.parametrize(("shape", "pattern"), [((10, 4), "2 axes"), ((10, 2, 2, 2, 2, 2), "3")])
def test_explain_refuses(shape, pattern):
    with pytest.raises(ValueError, match=pattern):
        POOLED.kernel_fn.explain(shape)


# ---------------------------------------------------------------- memory


def close_images():
    x = np.random.default_rng(0).standard_normal((9, 8, 8, 2)).astype(np.float32)
    x[1] = x[0] * (1 + 1e-6)
    x[2] = x[0] + 1e-5
    return x


def least_budget(net, shape):
    """The smallest budget that a call takes, by bisection."""
    x = np.zeros(shape, np.float32)
    low, high = 1, 1 << 28
    while low + 1 < high:
        middle = (low + high) // 2
        try:
            net.kernel_fn(x[:1], None, "ntk", memory_budget=middle, backend="cpu", num_threads=1)
            high = middle
        except MemoryError:
            low = middle
    return high


@compiled
@pytest.mark.parametrize("net", [POOLED, stax.serial(conv(), stax.Relu(), stax.Flatten(), stax.Dense(1))])
def test_the_result_does_not_depend_on_the_budget(net):
    x = close_images()
    expected = net.kernel_fn(x, x[:5], ("nngp", "ntk"), backend="cpu")
    budget = least_budget(net, x.shape)
    for more in (0, 10_000, 300_000):
        found = net.kernel_fn(
            x, x[:5], ("nngp", "ntk"), memory_budget=budget + more, backend="cpu", num_threads=1
        )  # fmt: skip
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)
        one = net.kernel_fn(x, None, "ntk", memory_budget=budget + more, backend="cpu", num_threads=1)
        np.testing.assert_array_equal(one, net.kernel_fn(x, None, "ntk", backend="cpu"))


@compiled
@pytest.mark.parametrize("threads", [1, 2, 19, 64, 256])
@pytest.mark.parametrize("close", [False, True])
def test_any_number_of_threads_fits_the_default_budget(close, threads):
    """Two images, three pairs; of these a thread's buffers take 10 MiB, in float32 and again in float64."""
    blocks = [conv(), stax.Relu(), conv(), stax.Relu(), stax.AvgPool((2, 2), (2, 2))] * 3
    kernel_fn = stax.serial(*blocks, stax.GlobalAvgPool(), stax.Dense(1)).kernel_fn
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    if close:  # done again in float64
        x[1] = x[0] * (1 + 1e-6)
    for call in (lambda n: kernel_fn(x, None, "ntk", backend="cpu", num_threads=n),
                 lambda n: kernel_fn.diagonal(x, "ntk", backend="cpu", num_threads=n)):  # fmt: skip
        assert same(call(threads), call(1))


@compiled
@pytest.mark.parametrize("net", [POOLED, stax.serial(conv(), stax.Relu(), stax.Flatten(), stax.Dense(1))])
def test_buffers_of_all_threads_stay_within_the_budget(net, monkeypatch):
    x = close_images()
    expected = net.kernel_fn(x, None, "ntk", backend="cpu", num_threads=1)
    least = least_budget(net, x.shape)
    taken = []

    def begin(self, job, original=CpuPlanes.begin):
        tiling = original(self, job)
        used = self._fixed + self.threads * self._worker + tiling.samples * self.cost.sample
        taken.append((self.threads, used))
        return tiling

    monkeypatch.setattr(CpuPlanes, "begin", begin)
    for budget in (least, least + 50_000, 2 * least, 8 * least, 1 << 28):
        taken.clear()
        found = net.kernel_fn(x, None, "ntk", memory_budget=budget, backend="cpu", num_threads=256)
        assert same(found, expected)
        assert taken
        assert all(1 <= threads <= len(x) ** 2 and used <= budget for threads, used in taken)


@compiled
def test_a_budget_too_small_is_refused_before_anything_is_written():
    x = close_images()
    out = np.full((9, 9), 7, np.float32)
    with pytest.raises(MemoryError, match=r"a pair of images takes .* memory_budget is 97.7 KiB"):
        POOLED.kernel_fn(x, None, "ntk", out=out, memory_budget=100_000, backend="cpu")
    assert (out == 7).all()
    with pytest.raises(MemoryError, match="a pair of images"):
        POOLED.kernel_fn.diagonal(x, memory_budget=1000, backend="cpu")


# ---------------------------------------------------------------- progress


def test_progress(backend, capsys):
    x = np.random.default_rng(0).standard_normal((4, 5, 5, 2))
    net = stax.serial(conv(), stax.Relu(), *READOUT)
    expected = net.kernel_fn(x, None, "ntk")
    with mock.patch.dict(sys.modules, {"tqdm.auto": None}):
        np.testing.assert_array_equal(net.kernel_fn(x, None, "ntk", progress=True), expected)
    assert capsys.readouterr().err.endswith("10 of 10 pairs\n")
    net.kernel_fn(x, None, "ntk")
    assert capsys.readouterr().err == ""


def test_progress_by_tqdm(backend):
    seen = mock.MagicMock()
    x = np.random.default_rng(0).standard_normal((4, 5, 5, 2))
    with mock.patch.dict(sys.modules, {"tqdm": mock.MagicMock(auto=seen), "tqdm.auto": seen}):
        stax.serial(conv(), stax.Relu(), *READOUT).kernel_fn(x, x[:3], "ntk", progress=True)
    bar = seen.tqdm.return_value.__enter__.return_value
    assert seen.tqdm.call_args.kwargs["total"] == sum(call.args[0] for call in bar.update.call_args_list) == 12


# ---------------------------------------------------------------- around the edges


def test_a_batch_of_problems(backend):
    x = np.random.default_rng(0).standard_normal((3, 4, 5, 5, 2))
    found = POOLED.kernel_fn(x, None, ("nngp", "ntk"), batch_dims=1)
    diagonal = POOLED.kernel_fn.diagonal(x, "ntk", batch_dims=1)
    for b in range(3):
        for a, c in zip(found, POOLED.kernel_fn(x[b], None, ("nngp", "ntk")), strict=True):
            np.testing.assert_array_equal(a[b], c)
    np.testing.assert_allclose(diagonal, np.einsum("bii->bi", found.ntk), rtol=1e-13)


def test_kernels_behind_a_readout_are_continued(backend):
    x = np.random.default_rng(0).standard_normal((4, 5, 5, 2))
    first = stax.serial(conv(), stax.Relu(), stax.Flatten(), stax.Dense(1))
    rest = stax.serial(stax.Relu(), stax.Dense(1))
    whole = stax.serial(*first.layers, *rest.layers).kernel_fn(x, None, ("nngp", "ntk"))
    k = rest.kernel_fn(first.kernel_fn(x))
    np.testing.assert_allclose(k.nngp, whole.nngp, rtol=1e-10)
    apart = ~np.eye(4, dtype=bool)
    np.testing.assert_allclose(k.ntk[apart], whole.ntk[apart], rtol=1e-10)


def test_kernels_with_positions_are_continued(backend):
    k = stax.serial(conv()).kernel_fn(np.ones((2, 3, 3, 1)))
    assert k.nngp.shape == (2, 2, 3, 3, 3, 3)
    assert k.cov1.shape == (2, 3, 3, 3, 3)
    assert k.shape1 == (2, 3, 3, 1)
    if backend.startswith("cuda"):
        with pytest.raises(NotImplementedError, match="a Kernel with positions"):
            stax.Relu().kernel_fn(k)
        return
    assert np.isfinite(stax.Relu().kernel_fn(k).ntk).all()


@compiled
def test_what_planes_do_not_carry_goes_over_pairs_of_positions():
    net = stax.serial(conv(parameterization="standard", W_std=0.0, b_std=1.0), stax.Relu(), *READOUT)
    x = np.random.default_rng(0).standard_normal((3, 4, 4, 2))
    expected = net.kernel_fn(x, None, "ntk", backend="numpy")
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(net.kernel_fn(x, None, "ntk", backend="cpu"), expected, rtol=1e-12)
