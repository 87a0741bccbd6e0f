"""Structure apart from numbers: programs that differ in parameters alone are one program, compiled once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from fastntk import stax
from fastntk.base.jet import Jet
from fastntk.engines import compiled, select
from fastntk.network import lower as lowering
from fastntk.network.activations import NONLINEARITIES
from fastntk.network.lower import lower
from fastntk.network.program import Value
from fastntk.plan.grids import make_plan
from fastntk.plan.rows import row_pass
from helpers import same

CPU = select.load("cpu")[0]
needs_cpu = pytest.mark.skipif(CPU is None, reason="the compiled CPU module is not installed")


def rows(W_std, b_std=0.1, slope=0.2):
    return stax.serial(
        stax.Dense(8, W_std, b_std), stax.LeakyRelu(slope), stax.Dense(8, W_std), stax.Erf(b=1.5),
        stax.Dense(1, W_std),
    )  # fmt: skip


def images(W_std, b_std=0.1):
    return stax.serial(
        stax.Conv(8, (3, 3), padding="SAME", W_std=W_std, b_std=b_std), stax.Relu(), stax.AvgPool((2, 2), (2, 2)),
        stax.Conv(8, (3, 3), padding="SAME", W_std=W_std), stax.Relu(), stax.Flatten(), stax.Dense(1, W_std),
    )  # fmt: skip


def lowered(net, *sizes):
    value = Value(0, sizes[-1], spatial=sizes[:-1], channel_axis=len(sizes))
    return lower(net.kernel_fn.layer, value)


def test_programs_hold_no_numbers():
    one, two = lowered(rows(1.0), 5), lowered(rows(1.7, 0.4, -0.3), 5)
    assert one.program == two.program
    assert hash(one.program) == hash(two.program)
    assert len(one.numbers) == len(two.numbers)
    assert one.numbers != two.numbers
    for op in one.program.ops:
        assert op.own(one.numbers) == tuple(one.numbers[k] for k in op.numbers)


def test_numbers_that_change_what_is_done_change_the_program():
    assert lowered(rows(1.0, 0.1), 5).program != lowered(rows(1.0, None), 5).program
    guarded = stax.serial(stax.Dense(8, b_std=0.0, parameterization="standard"), stax.Relu(), stax.Dense(1))
    kinds = [op.kind for op in lowered(guarded, 5).program.ops if op.name == "dense"]
    assert kinds == ["guard", "plain"]


def dense_networks(draw):
    """Networks of one structure each, with numbers that ``draw`` gives: gaps between kinds of ops are crossed."""

    def dense(**kind):
        return stax.Dense(2, draw.uniform(0.3, 3), draw.choice([None, 0.0, 0.2, 1.5]), **kind)

    def standard():
        return dense(parameterization="standard", s=(int(draw.integers(1, 3)), 2))

    for kind, args in NONLINEARITIES.values():
        yield stax.serial(dense(), kind(*args), dense(), kind(*args), standard())
    branch = stax.serial(stax.LeakyRelu(draw.choice([-0.3, 0.2])), dense())
    yield stax.serial(dense(), stax.FanOut(2), stax.parallel(branch, stax.serial(stax.Erf(), dense())), stax.FanInSum())
    yield stax.serial(standard(), stax.repeat(stax.serial(stax.Relu(), standard()), 2), stax.LayerNorm(), dense())


def test_networks_of_a_known_structure_are_lowered_as_if_they_were_the_first(monkeypatch):
    known: dict = {}
    for seed in range(12):
        for net in dense_networks(np.random.default_rng(seed)):
            monkeypatch.setattr(lowering, "_KEPT", known)
            value = Value(0, 5)
            found = lower.__wrapped__(net, value)
            monkeypatch.setattr(lowering, "_KEPT", {})
            first = lower.__wrapped__(net, value)
            assert found.program is first.program
            assert (found.numbers, found.outputs) == (first.numbers, first.outputs)
            assert all(type(number) is float for number in found.numbers)
    assert len(known) > len(NONLINEARITIES)


def test_layers_that_record_derivatives_are_refused_by_a_known_structure_too():
    rows(1.0).kernel_fn(np.ones((2, 5)), None, "ntk")
    with pytest.raises(TypeError, match="as a parameter"):
        rows(Jet(1.0, {"W": 1.0})).kernel_fn(np.ones((2, 5)), None, "ntk")


def test_what_is_kept_of_structures_is_bounded():
    for width in range(1, lowering._MOST_KEPT + 10):
        lower(stax.serial(stax.Dense(width), stax.Relu(), stax.Dense(1)), Value(0, 5))
        assert len(lowering._KEPT) <= lowering._MOST_KEPT


@needs_cpu
def test_a_hundred_widths_of_weights_make_one_machine():
    x = np.random.default_rng(0).standard_normal((6, 5))
    rows(0.5).kernel_fn(x, None, "ntk", backend="cpu")
    before = compiled.compiled_program.cache_info().misses
    found = [rows(W_std).kernel_fn(x, None, "ntk", backend="cpu") for W_std in np.linspace(0.5, 2, 100)]
    assert compiled.compiled_program.cache_info().misses == before
    assert all((a[0, 0] < b[0, 0]) for a, b in itertools.pairwise(found))
    wanted = rows(2.0).kernel_fn(x, None, "ntk", backend="numpy")
    assert np.allclose(found[-1], wanted, rtol=1e-12, atol=0)


@needs_cpu
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_for_images(dtype):
    x = np.random.default_rng(0).standard_normal((3, 4, 4, 2)).astype(dtype)
    first = images(1.0).kernel_fn(x, None, ("nngp", "ntk"), backend="cpu")
    before = compiled.image_plan.cache_info().misses, make_plan.cache_info().misses
    other = images(1.5, 0.3).kernel_fn(x, None, ("nngp", "ntk"), backend="cpu")
    again = images(1.0).kernel_fn(x, None, ("nngp", "ntk"), backend="cpu")
    assert (compiled.image_plan.cache_info().misses, make_plan.cache_info().misses) == before
    for name in ("nngp", "ntk"):
        assert same(getattr(first, name), getattr(again, name))
        wanted = getattr(images(1.5, 0.3).kernel_fn(x, None, backend="numpy"), name)
        assert np.allclose(getattr(other, name), wanted, rtol=2e-6 if dtype == np.float32 else 1e-12, atol=0)


@needs_cpu
def test_too_few_numbers_are_refused():
    made = lowered(rows(1.0), 5)
    program = compiled.compiled_program(CPU, made.program)
    table = row_pass(made)([np.ones(4)], np.float64).table
    with pytest.raises(ValueError, match=f"reads {len(made.numbers)} numbers, given 3"):
        CPU.run(
            program, made.numbers[:3], table, table, np.dtype(np.float64), (0, 1, 0, 4, 0, 1, 0, 0), 4, 4,
            [CPU.Input()], [(None, None, None)], False, True, "", 1,
        )  # fmt: skip
