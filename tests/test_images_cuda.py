"""Images on the CUDA backend without a GPU: its device text on the processor, element by element and in registers."""

from __future__ import annotations

import itertools
from collections import Counter
from unittest import mock

import fake_cupy
import image_oracle
import numpy as np
import pytest
import test_images
from fastntk import stax
from fastntk.engines import select
from fastntk.network.lower import lower
from fastntk.network.program import Value
from fastntk.plan.grids import make_plan
from fastntk.plan.layout import make_layout
from images_inputs import conv, images
from on_host import MODULE, STATE, cuda_on_host
from test_images import BOTH, DEEP, NETWORKS, check, deep, hard_images, pooling, relative

READY = MODULE is not None and select.load("cpu")[0] is not None
pytestmark = pytest.mark.skipif(not READY, reason=f"backend 'cuda' (and 'cpu' to compare with): {STATE}")
Relu, serial = stax.Relu, stax.serial


@pytest.fixture
def cuda():
    with cuda_on_host() as found:
        yield found


def fits(grid, window, dtype):
    """One warp's registers hold these planes of all displacements, or a block's in tiles of 16 rows, a quarter full."""
    rows, columns = (*grid.sizes, 1)[:2]
    most, warps = {"float32": (32, 20), "float64": (16, 12)}[np.dtype(dtype).name]
    if rows <= most and columns <= 32:
        return True
    tiles, lanes = -(-rows // 16) * -(-columns // 32), columns * max(1, min(columns, 32 // columns))
    if window.circular:
        fitting = rows % 16 == 0
    else:
        fitting = window.low[0] == 1  # not VALID
    return fitting and tiles <= warps and 4 * rows * lanes >= tiles * 16 * 32


def layers_in_registers(net, shape, dtype):
    """Convolutions that run in registers, and those that could: behind inputs and rectifiers."""
    value = Value(0, 2, spatial=shape[:-1], batch_axis=0, channel_axis=len(shape))
    lowered = lower(net, value)
    plan = make_plan(lowered.program, (shape[:-1],))
    make = MODULE.ImagePlan32 if dtype == np.float32 else MODULE.ImagePlan64
    could = sum(
        step.fused
        and (step.form_in == "defect" or (before.name == "input" and after.form_out == "defect"))
        and fits(grid, step.window, dtype)
        for grid in plan.grids
        for before, step, after in zip(grid.steps, grid.steps[1:], grid.steps[2:], strict=False)
    )
    code = make(plan, make_layout(plan, False), make_layout(plan, True), [shape[-1]], 1).code(
        lowered.numbers, True, False
    )
    return sum(layers for _, layers in code.grids), could


# ---------------------------------------------------------------- every kind of step


@pytest.mark.parametrize("name", NETWORKS)
def test_against_the_definition(name, dtype, cuda):
    x1, x2 = images(3, dtype=dtype), images(2, seed=1, dtype=dtype)
    kernel_fn = NETWORKS[name].kernel_fn
    check(kernel_fn(x1, x2, BOTH, backend="cuda"), image_oracle.kernels(NETWORKS[name], x1, x2), dtype)
    check(kernel_fn(x1, None, BOTH, backend="cuda"), image_oracle.kernels(NETWORKS[name], x1), dtype)


@pytest.mark.parametrize(("make", "readout", "b_std"), [(deep, "gap", 0.1), (deep, "flatten", None),
                                                       (pooling, "gap", None), (pooling, "flatten", 0.1)])  # fmt: skip
def test_hard_images(readout, b_std, make, dtype, cuda):
    """With registers and element by element."""
    x = hard_images(7, 1.0078125).astype(dtype)
    net = make(readout, b_std)
    assert layers_in_registers(net, x.shape[1:], dtype)[0] > 2
    exact = image_oracle.kernels(net, x)
    for registers in (True, False):
        with mock.patch.object(select.CudaEngine, "registers", registers):
            found = net.kernel_fn(x, None, BOTH, backend="cuda")
            alone = net.kernel_fn.diagonal(x, BOTH, backend="cuda")
        for name in BOTH:
            assert relative(getattr(found, name), exact[name]) <= DEEP[dtype.name], name
            assert relative(getattr(alone, name), np.diag(exact[name])) <= DEEP[dtype.name], name


@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR", "VALID"])
@pytest.mark.parametrize("b_std", [None, 0.01])
def test_opposite_images(b_std, padding, dtype, cuda):
    """rho near -1 behind the input: covariances of 1e-6 of their variances keep digits, and so does what follows."""
    x, apart = images(2, (8, 7, 3), dtype=np.float32), 0.01
    x[1] = -x[0] + np.float32(apart) * x[1]
    conv, relu = stax.Conv(4, (3, 3), None, padding, 1.3, b_std), Relu()
    for depth, bound in ((1, DEEP[dtype.name] / apart), (2, DEEP[dtype.name])):
        net = serial(*[conv, relu] * depth, stax.GlobalAvgPool())
        assert (layers_in_registers(net, x.shape[1:], dtype)[0] > 0) == (depth > 1)
        found = net.kernel_fn(x.astype(dtype), None, BOTH, backend="cuda")
        exact = net.kernel_fn(x.astype(np.float64), None, BOTH, backend="numpy")
        for name in BOTH:
            assert relative(getattr(found, name), getattr(exact, name)) <= bound, name


# ---------------------------------------------------------------- every size, every displacement


def stack(padding, b_std):
    layer = stax.Conv(4, (3, 3), None, padding, 1.3, b_std)
    return serial(*[layer, Relu()] * 3, stax.Conv(4, (1, 1), W_std=0.9))


def check_size(h, w, dtype, paddings=("SAME", "CIRCULAR", "VALID"), b_stds=(None, 0.3)):
    """Covariances of all pairs of positions of two images, by the 4-index reference."""
    x1, x2 = (images(1, (h, w, 2), seed, np.float64).astype(dtype) for seed in (h, w))
    x2[:, : h // 2] = x1[:, : h // 2]  # equal and unequal pixels, at all displacements
    for padding, b_std in itertools.product(paddings, b_stds):
        if padding == "VALID" and min(h, w) < 7:
            continue
        net = stack(padding, b_std)
        held, could = layers_in_registers(net, (h, w, 2), dtype)
        assert held == could, (padding, held, could)
        found = net.kernel_fn(x1, x2, (*BOTH, "cov1", "cov2"), backend="cuda")
        exact = net.kernel_fn(*(x.astype(np.float64) for x in (x1, x2)), (*BOTH, "cov1", "cov2"), backend="numpy")
        v1, v2 = (np.einsum("aiijj->aij", cov) for cov in (exact.cov1, exact.cov2))
        size = np.sqrt(v1[:, None, :, None, :, None] * v2[None, :, None, :, None, :])
        for name in BOTH:
            error = np.abs(getattr(found, name) - getattr(exact, name))
            bound = DEEP[np.dtype(dtype).name] * np.maximum(np.abs(getattr(exact, name)), 0.5 * size)
            assert (error <= bound).all(), (h, w, padding, b_std, name, np.nanmax(error / bound))


SIZES = [(1, 1), (1, 6), (2, 2), (3, 1), (5, 5), (6, 9), (8, 3), (4, 16), (16, 4), (13, 13), (17, 13), (33, 2), (3, 40)]


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_sizes(h, w, dtype, cuda):
    check_size(h, w, dtype)


@pytest.mark.parametrize(
    ("h", "w", "padding", "b_std"),
    [(33, 5, "SAME", None), (48, 4, "CIRCULAR", 0.3), (8, 40, "SAME", 0.3), (16, 33, "CIRCULAR", None),
     (17, 33, "SAME", 0.3)],
)  # fmt: skip
def test_tiles(h, w, padding, b_std, dtype, cuda):
    """Planes of several warps: rows, lanes, both."""
    assert layers_in_registers(stack(padding, b_std), (h, w, 2), dtype)[0] == 3
    check_size(h, w, dtype, (padding,), (b_std,))


@pytest.mark.slow
@pytest.mark.parametrize("h", range(1, 41))
def test_every_size(h, dtype, cuda):
    for w in range(1, 41):
        check_size(h, w, dtype)


def test_a_whole_warp(dtype, cuda):
    """32 x 32, pooled: the size that registers are meant for, in float64 two tiles."""
    net, x = deep("gap", 0.1), images(2, (32, 32, 3), dtype=dtype)
    net = serial(*net.layers[:6], *net.layers[-2:])
    assert layers_in_registers(net, (32, 32, 3), dtype) == (3, 3)
    expected = net.kernel_fn(x, None, BOTH, backend="cpu")
    for found, wanted in zip(net.kernel_fn(x, None, BOTH, backend="cuda"), expected, strict=True):
        assert relative(found, wanted) <= DEEP[dtype.name]


@pytest.mark.parametrize("shape", [(4, 5, 2), (33, 32, 2)])
def test_scales_of_a_deep_chain(shape, cuda):
    """60 layers multiply by some 1e-57, which registers keep apart from the numbers."""
    net = serial(*[layer for _ in range(60) for layer in (conv(W_std=1.4, b_std=None), Relu())], stax.Flatten())
    x = images(3, shape, dtype=np.float32)
    expected = net.kernel_fn(x.astype(np.float64), None, BOTH, backend="cpu")
    for found, wanted in zip(net.kernel_fn(x, None, BOTH, backend="cuda"), expected, strict=True):
        assert relative(found, wanted) <= 3 * DEEP["float32"]


# ---------------------------------------------------------------- passes, batches, tiles


@pytest.mark.parametrize("name", ["residual, gap", "erf and pools", "positions", "dilation before pools"])
def test_elements_of_a_pass_do_not_wait_for_each_other(name, dtype, cuda):
    x = images(3, dtype=dtype)
    expected = NETWORKS[name].kernel_fn(x, None, BOTH, backend="cuda")
    forwards = select.CudaEngine.image_pairs

    def backwards(self, plan, *arrays):
        assert arrays[-1] is False
        forwards(self, plan, *arrays[:-1], True)

    with mock.patch.object(select.CudaEngine, "image_pairs", backwards):
        test_images.assert_same(NETWORKS[name].kernel_fn(x, None, BOTH, backend="cuda"), expected)


def calls(native, name="image_pairs"):
    return sum(call[0] == name for call in native.calls)


@pytest.mark.parametrize("name", ["residual, gap", "positions"])
def test_the_result_does_not_depend_on_the_budget(name, cuda):
    x = images(7, dtype=np.float32)
    kernel_fn = NETWORKS[name].kernel_fn
    expected = kernel_fn(x, None, BOTH, backend="cuda"), kernel_fn(x, x[:3], BOTH, backend="cuda")
    before = calls(cuda[1])
    for budget in (1_500_000, 4_000_000):
        test_images.assert_same(kernel_fn(x, None, BOTH, backend="cuda", memory_budget=budget), expected[0])
        test_images.assert_same(kernel_fn(x, x[:3], BOTH, backend="cuda", memory_budget=budget), expected[1])
    assert calls(cuda[1]) - before > 4, "more than one batch"


def test_a_budget_too_small_is_refused(cuda):
    out = np.full((7, 7), 7.0, np.float32)
    with pytest.raises(MemoryError, match=r"a pair of images takes .*device's memory.* memory_budget is 97.7 KiB"):
        NETWORKS["residual, gap"].kernel_fn(images(7, dtype=np.float32), None, "ntk", out=out, memory_budget=100_000,
                                            backend="cuda")  # fmt: skip
    assert (out == 7).all()


@pytest.mark.parametrize("where", ["host", "device"])
def test_half_of_the_free_memory_is_the_budget(where, cuda, monkeypatch):
    kernel_fn, x = NETWORKS["residual, gap"].kernel_fn, images(7, dtype=np.float32)
    given = x if where == "host" else cuda[0].asarray(x)
    expected = kernel_fn(given, None, BOTH, backend="cuda")
    monkeypatch.setattr(fake_cupy.Device, "memory", 3_000_000)
    before = calls(cuda[1])
    for found, wanted in zip(kernel_fn(given, None, BOTH, backend="cuda"), expected, strict=True):
        np.testing.assert_array_equal(*(k if where == "host" else k.get() for k in (found, wanted)))
    assert calls(cuda[1]) - before > 1, "more than one batch"
    monkeypatch.setattr(fake_cupy.Device, "memory", 200_000)
    with pytest.raises(MemoryError, match=r"a pair of images takes .* memory_budget is 97.7 KiB"):
        kernel_fn(given, None, BOTH, backend="cuda")
    with pytest.raises(MemoryError, match=r"memory_budget is 97.7 KiB"):
        kernel_fn.diagonal(given, backend="cuda")


@pytest.mark.parametrize("where", ["host", "device"])
def test_pairs_that_lack_digits_are_done_again(where, cuda):
    """Near-duplicates behind a pool, in float64, where float32 has lost their difference."""
    x = images(4, (8, 8, 2), dtype=np.float32)
    x[1], x[2] = x[0] * np.float32(1 + 1e-6), x[0] + np.float32(1e-5)
    net = pooling("gap", 0.1)
    seen = mock.Mock(side_effect=select.CudaEngine.image_plan)
    with mock.patch.object(select.CudaEngine, "image_plan", lambda self, *args: seen(self, *args)):
        found = net.kernel_fn(cuda[0].asarray(x) if where == "device" else x, None, BOTH, backend="cuda")
    assert {call.args[-1] for call in seen.call_args_list} == {np.dtype(np.float32), np.dtype(np.float64)}
    exact = net.kernel_fn(x.astype(np.float64), None, BOTH, backend="cpu")
    if where == "device":
        found = [k.get() for k in found]
    for a, b in zip(found, exact, strict=True):
        assert relative(a, b) <= DEEP["float32"]
        assert np.array_equal(a, a.T)


def test_out_of_any_strides(dtype, cuda, tmp_path):
    x1, x2 = images(3, dtype=dtype), images(2, seed=1, dtype=dtype)
    kernel_fn = NETWORKS["positions"].kernel_fn
    expected = kernel_fn(x1, x2, BOTH, backend="cuda")
    shape = expected.nngp.shape
    strided = np.full((*shape, 3), np.nan, dtype)[..., 1]
    file = np.memmap(tmp_path / "ntk", dtype, "w+", shape=shape)
    kernel_fn(x1, x2, BOTH, out=(strided, file), backend="cuda")
    test_images.assert_same((strided, np.asarray(file)), expected)


def test_progress_and_interrupt(cuda, capsys):
    x = images(5, dtype=np.float32)
    kernel_fn = NETWORKS["residual, gap"].kernel_fn
    with mock.patch.dict("sys.modules", {"tqdm.auto": None}):
        kernel_fn(x, None, "ntk", progress=True, backend="cuda")
    assert capsys.readouterr().err.endswith("15 of 15 pairs\n")
    begun = 0
    work = select.CudaEngine.image_pairs

    def stopped(self, *args):
        nonlocal begun
        begun += 1
        if begun == 3:
            raise KeyboardInterrupt
        work(self, *args)

    with (
        mock.patch("fastntk.engines.cuda_images._PAIRS", 2),
        mock.patch.object(select.CudaEngine, "image_pairs", stopped),
        pytest.raises(KeyboardInterrupt),
    ):
        kernel_fn(x, None, "ntk", backend="cuda")
    assert begun == 3


def test_a_failed_launch_returns_nothing(cuda):
    cuda[1].failing["image_pairs"] = 2
    with mock.patch("fastntk.engines.cuda_images._PAIRS", 2), pytest.raises(RuntimeError, match="image_pairs"):
        NETWORKS["residual, gap"].kernel_fn(images(7, dtype=np.float32), None, "ntk", backend="cuda")


# ---------------------------------------------------------------- arrays of a device


@pytest.mark.parametrize("name", ["residual, gap", "positions"])
def test_device_arrays(name, dtype, cuda):
    cupy = cuda[0]
    x1, x2 = images(3, dtype=dtype), images(2, seed=1, dtype=dtype)
    kernel_fn = NETWORKS[name].kernel_fn
    for args in ((x1, None), (x1, x2)):
        expected = kernel_fn(*args, BOTH, backend="cuda")
        given = [None if x is None else cupy.asarray(x) for x in args]
        found = kernel_fn(*given, BOTH)
        assert all(type(k).__module__ == "cupy" for k in found)
        test_images.assert_same([k.get() for k in found], expected)
    alone = kernel_fn.diagonal(given[0], BOTH) if name != "positions" else []
    for k, whole in zip(alone, kernel_fn(x1, None, BOTH, backend="cuda"), strict=bool(alone)):
        np.testing.assert_allclose(k.get(), np.diag(whole), rtol=64 * np.finfo(dtype).eps)
    assert isinstance(kernel_fn(given[0]).cov1, type(given[0]))


def moved(name, n, dtype, cupy, monkeypatch):
    """Bytes of floats and of others that go up in a call on images on a device, and what makes the host wait."""
    up = Counter()
    put = fake_cupy.moved

    def counted(values, *args, **keywords):
        if not isinstance(values, fake_cupy.ndarray):
            up[np.asarray(values).dtype.kind == "f"] += np.asarray(values).nbytes
        return put(values, *args, **keywords)

    x1, x2 = (cupy.asarray(images(n, seed=seed, dtype=dtype)) for seed in (0, 1))
    NETWORKS[name].kernel_fn(x1, x2)  # what belongs to the network alone is at hand
    monkeypatch.setattr(fake_cupy, "moved", counted)
    monkeypatch.setattr(cupy, "array", counted)
    fake_cupy.WAITS.clear()
    found = NETWORKS[name].kernel_fn(x1, x2)
    monkeypatch.undo()
    assert all(isinstance(k, cupy.ndarray) for k in (found.nngp, found.ntk, found.cov1, found.cov2))
    return up, dict(fake_cupy.WAITS)


@pytest.mark.parametrize("name", NETWORKS)
def test_images_on_a_device_stay_there(name, dtype, cuda, monkeypatch):
    """Tables are made there: all that goes up with images are integers, places of pairs."""
    (few, waits), (many, _) = (moved(name, n, dtype, cuda[0], monkeypatch) for n in (2, 5))
    assert many[True] == few[True]
    assert many[False] - few[False] <= 100 * (5 * 5 - 2 * 2 + 2 * (5 - 2))
    assert set(waits) <= {"event"}, "the host fetches no array"
    if dtype == np.float64:
        assert not waits


@pytest.mark.parametrize("name", NETWORKS)
def test_tables_made_on_a_device(name, dtype, cuda):
    """Against those of the processor, whose text for images with themselves is another."""
    x = images(4, dtype=dtype)
    expected = NETWORKS[name].kernel_fn(x, backend="cpu")
    found = NETWORKS[name].kernel_fn(cuda[0].asarray(x))
    for field in ("nngp", "ntk", "cov1"):
        size = np.abs(getattr(expected, field)).max()
        assert (np.abs(getattr(found, field).get() - getattr(expected, field)) <= DEEP[dtype.name] * size).all(), field


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("index", "change", "pattern"),
    [
        (0, lambda code: code[1:], "code must be .* adjacent bytes"),
        (1, lambda tables: (tables[0][:, 1:], tables[1]), "tables1 has shape"),
        (5, lambda linked: linked[:0], "linked holds 0 pairs"),
        (6, lambda lost: lost[:, :, :1], "lost has shape"),
        (7, lambda scratch: scratch[:5], "scratch holds 5 numbers"),
        (8, lambda outputs: [], "program has 1 outputs"),
        (8, lambda outputs: [(outputs[0][0][:, :0], None)], "output has shape"),
        (9, lambda grids: (0, 99), "grids 0 to 99 of"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(index, change, pattern, cuda):
    work = select.CudaEngine.image_pairs

    def changed(self, plan, *arrays):
        given = list(arrays)
        given[index] = change(given[index])
        work(self, plan, *given)

    with mock.patch.object(select.CudaEngine, "image_pairs", changed), pytest.raises(ValueError, match=pattern):
        NETWORKS["residual, gap"].kernel_fn(images(3, dtype=np.float32), None, "nngp", backend="cuda")


def test_explain(cuda):
    found = NETWORKS["residual, gap"].kernel_fn.explain((3, 6, 5, 3), backend="cuda")
    assert found.table_bytes > 0
    assert found.worker_bytes > 0
