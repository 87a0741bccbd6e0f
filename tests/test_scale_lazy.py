"""Kernels of Dask arrays: lazy, a task a block, and the bits of one call."""

from __future__ import annotations

import numpy as np
import pytest
from fastntk import scale, stax
from scale_inputs import BOTH, CASES, expected, rows, rows_network

pytestmark = pytest.mark.rivals

da = pytest.importorskip("dask.array")

KERNEL = rows_network()


def lazy(x, side=20):
    return da.from_array(x, chunks=(side, *x.shape[1:]))


@pytest.mark.parametrize("case", CASES)
def test_blocks_have_the_bits_of_one_call(case, dtype):
    kernel_fn, draw = CASES[case]
    x, x2 = draw(50, dtype), draw(31, dtype, 1)
    for second in (None, x2):
        want = {name: expected(kernel_fn, x, second, name, 20) for name in BOTH}
        given = None if second is None else lazy(second)
        for call in (kernel_fn, lambda *args, fn=kernel_fn: scale.kernel(fn, *args)):
            found = call(lazy(x), given, BOTH)
            assert type(found)._fields == BOTH
            one = call(lazy(x), given, "ntk")
            assert isinstance(one, da.Array)
            assert one.dtype == dtype
            assert one.chunks == ((20, 20, 10), (20, 20, 10) if second is None else (20, 11))
            assert np.array_equal(one.compute(), want["ntk"])
            for name, k in zip(BOTH, da.compute(*found), strict=True):
                assert np.array_equal(k, want[name])
            assert np.array_equal(one[25:45, 3].compute(), want["ntk"][25:45, 3])


def test_diagonals():
    for kernel_fn, draw in CASES.values():
        x = draw(50)
        want = kernel_fn.diagonal(x)
        for found in (kernel_fn.diagonal(lazy(x)), scale.diagonal(kernel_fn, lazy(x))):
            assert found.ntk.chunks == ((20, 20, 10),)
            assert np.array_equal(found.ntk.compute(), want.ntk)
            assert np.array_equal(found.nngp.compute(), want.nngp)
        assert np.array_equal(kernel_fn.diagonal(lazy(x), "ntk").compute(), want.ntk)


@pytest.mark.parametrize("case", CASES)
def test_batches_of_problems(case):
    kernel_fn, draw = CASES[case]
    x = np.stack([draw(30, np.float32, seed) for seed in range(3)])
    x2 = np.stack([draw(11, np.float32, 3 + seed) for seed in range(3)])
    cut = [da.from_array(a, chunks=(2, 12, *a.shape[2:])) for a in (x, x2)]
    for second in (None, 1):
        found = kernel_fn(cut[0], second and cut[1], BOTH, batch_dims=1)
        assert found.ntk.chunks == ((2, 1), (12, 12, 6), (12, 12, 6) if second is None else (11,))
        for b in range(3):
            for name, k in zip(BOTH, da.compute(*found), strict=True):
                assert np.array_equal(k[b], expected(kernel_fn, x[b], None if second is None else x2[b], name, 12))
    diagonals = kernel_fn.diagonal(cut[0], batch_dims=1)
    assert diagonals.nngp.chunks == ((2, 1), (12, 12, 6))
    assert np.array_equal(diagonals.ntk.compute(), kernel_fn.diagonal(x, "ntk", batch_dims=1))


def test_networks_that_end_with_positions():
    kernel_fn = stax.serial(stax.Conv(1, (3, 3), padding="SAME"), stax.Relu()).kernel_fn
    x = np.random.default_rng(0).standard_normal((7, 3, 2, 2))
    k = kernel_fn(lazy(x, 3), None, "nngp")
    assert k.shape == (7, 7, 3, 3, 2, 2)
    want = kernel_fn(x, None, "nngp")
    assert np.allclose(k.compute(), want, rtol=1e-14, atol=0)
    assert kernel_fn.diagonal(lazy(x, 3), "nngp").compute().shape == kernel_fn.diagonal(x, "nngp").shape


def test_a_block_is_one_task_and_its_mirror_image_a_view():
    x = lazy(rows(100), 20)
    k = KERNEL(x, None, "ntk")
    own = [key for key in dict(k.__dask_graph__()) if key[0] == k.name]
    assert len(own) == 25
    assert len(dict(k.__dask_graph__())) - len(dict(x.__dask_graph__())) == 25
    calls = []
    call = type(KERNEL).__call__

    def counted(self, x1, *args, **kwargs):
        calls.append(len(x1))
        return call(self, x1, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(KERNEL), "__call__", counted)
        pair = k.compute(scheduler="sync")
        assert len(calls) == 15
        da.compute(*scale.kernel(KERNEL, x), scheduler="sync")
        assert len(calls) == 30
    assert np.array_equal(pair, pair.T)
    upper, lower = da.compute(k.blocks[0, 1], k.blocks[1, 0], scheduler="sync")
    assert np.array_equal(upper, lower.T)


def test_the_same_call_has_the_same_name():
    x = lazy(rows(40))
    assert KERNEL(x, None, "ntk").name == rows_network()(x, None, "ntk").name
    others = [rows_network(1.5)(x, None, "ntk"), KERNEL(x, x, "ntk"), KERNEL(x, None, "nngp"), KERNEL(x + 1, get="ntk")]
    assert len({k.name for k in (*others, KERNEL(x, None, "ntk"))}) == 5


def test_integers_count_as_float64():
    x = np.arange(30).reshape(10, 3)
    k = KERNEL(lazy(x, 4), None, "ntk")
    assert k.dtype == np.float64
    assert np.array_equal(k.compute(), KERNEL(x, None, "ntk"))


class OtherArray(np.ndarray):
    """An array of another library, as far as its name goes."""

    __module__ = "cupy.core"


def test_arrays_that_do_not_fit():
    x = rows(40)
    unknown = lazy(x)[da.from_array(x[:, 0] > 0, chunks=20)]
    narrow = da.from_array(x, chunks=(20, 3))
    other = lazy(x).map_blocks(lambda a: a, meta=x[:0].view(OtherArray))
    several = stax.serial(stax.FanOut(2), stax.parallel(stax.Dense(1), stax.Dense(1))).kernel_fn
    cases = (
        (ValueError, r"chunks of unknown sizes.*compute_chunk_sizes\(\)", KERNEL, (unknown, None, "ntk")),
        (
            ValueError,
            r"cut along axis 1.*rechunk\(\{1: -1\}\)",
            KERNEL,
            (narrow, None, "ntk"),
        ),
        (TypeError, "x1 has chunks of numpy, x2 of cupy", KERNEL, (lazy(x), other, "ntk")),
        (TypeError, r"x2 must be a Dask array.*numpy\.ndarray", KERNEL, (lazy(x), x, "ntk")),
        (TypeError, "convert one of them", KERNEL, (lazy(x), lazy(x.astype(np.float64)), "ntk")),
        (TypeError, "must be float32 or float64", KERNEL, (lazy(x.astype(np.float16)), None, "ntk")),
        (ValueError, "has 7 features, x2 has 6", KERNEL, (lazy(x), lazy(x[:, :6]), "ntk")),
        (ValueError, "get must name", KERNEL, (lazy(x), None, "cov1")),
        (ValueError, "get must name", KERNEL, (lazy(x), None, None)),
        (ValueError, "one output", several, (lazy(x), None, "ntk")),
        (ValueError, "axes", stax.serial(stax.Conv(1, (3, 3)), stax.Flatten()).kernel_fn, (lazy(x), None, "ntk")),
    )
    for kind, words, kernel_fn, args in cases:
        with pytest.raises(kind, match=words):
            kernel_fn(*args)
    with pytest.raises(ValueError, match="out must be None"):
        KERNEL(lazy(x), None, "ntk", out=np.zeros((40, 40), np.float32))
    with pytest.raises(ValueError, match="batch_dims must be 0 or 1"):
        KERNEL(lazy(x), None, "ntk", batch_dims=2)
    three = da.from_array(np.stack([x, x, x]), chunks=(2, 20, 7))
    with pytest.raises(ValueError, match=r"x1 has chunks \(2, 1\) of problems, x2 \(1, 1, 1\)"):
        KERNEL(three, three.rechunk({0: 1}), "ntk", batch_dims=1)
    with pytest.raises(ValueError, match="num_threads must be"):
        KERNEL(lazy(x), None, "ntk", num_threads=0)
    with pytest.raises(TypeError, match="given a Dask array"):
        scale.gram(KERNEL, lazy(x), "k.zarr")
