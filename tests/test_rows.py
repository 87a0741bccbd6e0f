"""The row pass: what belongs to one input alone, against the same recursion in many digits; its names on both sides."""

from __future__ import annotations

import numpy as np
import pytest
from fastntk import stax
from fastntk.engines import select
from fastntk.engines.compiled import compiled_program
from fastntk.network.activations import NONLINEARITIES, Nonlinearity
from fastntk.network.activations import nonlinearity as registry
from fastntk.network.lower import lower
from fastntk.network.program import Op, Value
from fastntk.plan import rows as rows_module
from fastntk.plan.rows import RowPass, layout_of, row_names, row_pass, rows_of
from helpers import same
from mpmath import mp, mpf

MODULES = [
    pytest.param(name, marks=pytest.mark.skipif(select.load(name)[0] is None, reason=name)) for name in ("cpu", "cuda")
]
LAYERS = {name: make(*args) for name, (make, args) in NONLINEARITIES.items()} | {"cosine": stax.Cos(0.9, 1.3)}
BARE = {layer.bare.dual_name: layer.bare for layer in LAYERS.values()}  # of each op with an example


@pytest.fixture(autouse=True)
def _as_behind_a_door():
    with np.errstate(all="ignore"):
        yield


def lowered(net, d=4):
    return lower(net.kernel_fn.layer, Value(0, d))


def networks():
    for name, layer in LAYERS.items():
        yield f"{name}, biases", stax.serial(*[stax.Dense(3, 1.2, 0.3), layer] * 3, stax.Dense(1, 1.1))
        yield f"{name}, none", stax.serial(*[stax.Dense(3, 1.2), layer] * 2, stax.Dense(1))
    trained = {"b_std": 0.0, "parameterization": "standard"}
    yield "guards", stax.serial(*[stax.Dense(3, 0.9, **trained), stax.Erf(1.5, 0.7, 0.2)] * 2, stax.Dense(1))
    skip = stax.serial(stax.FanOut(2), stax.parallel(stax.serial(stax.Relu(), stax.Dense(3)), stax.Identity()))
    yield "sums", stax.serial(stax.Dense(3), skip, stax.FanInSum(), skip, stax.FanInSum(), stax.Erf(), stax.Dense(1))
    branches = stax.parallel(stax.Dense(3, 0.8, 0.3), stax.Dense(3, 1.3), stax.Dense(3, 0.0))
    yield "three branches", stax.serial(stax.FanOut(3), branches, stax.FanInSum(), stax.Relu(), stax.Dense(1, 2.0))
    yield "norm", stax.serial(*[stax.Dense(3, 1.2), stax.LayerNorm(eps=1e-3), stax.Erf()] * 2, stax.Dense(1))
    factors = stax.parallel(stax.Dense(3, 0.8, 0.3), stax.serial(stax.Dense(3, 1.3), stax.Erf()))
    yield "product", stax.serial(stax.FanOut(2), factors, stax.FanInProd(), stax.Dense(1, 2.0, 0.1))
    yield "several outputs", stax.serial(stax.Dense(3, 1.3), stax.FanOut(2), stax.parallel(stax.Relu(), stax.Erf()))


NETWORKS = dict(networks())
VARIANCES = np.concatenate([[0.0], np.geomspace(1e-30, 1e30, 61), [0.1, 0.2, 0.5, 0.51, 1.0, 3.0]])


def variances(name):
    """For a network: those that its nonlinearity has an answer for, and hardly magnifies errors of."""
    layer = LAYERS.get(name.split(",")[0])
    return VARIANCES if layer is None else VARIANCES[layer.largest_variance / 1000 >= VARIANCES]


def exact_variance(op, numbers, q):
    """E phi^2 by the published dual on the diagonal."""
    layer = registry.of_op(op, numbers)
    if not q and layer.jumps:
        return mpf(0)  # the sign of 0
    q = q or mpf("1e-3000")  # closed forms divide by it; what is left of 0 is 0
    found = layer.exact(q, q, q, mp)[0]
    return found if found > mpf("1e-1000") else mpf(0)


def recursion(program, numbers, q):
    """For one input: what each op reads of it, {name: value}, and the variances of the outputs, in mp's digits."""
    slots, read, outputs = {0: q}, [], {}
    for op in program.ops:
        own = [mpf(v) for v in op.own(numbers)]
        sources = [slots[s] for s in op.src]
        before = sources[0]
        if op.name == "store":
            outputs[op.dst] = before
            read.append({"std": mp.sqrt(before)})
        elif op.name == "dense":
            slots[op.dst] = after = own[0] * before + own[1]
            read.append({"std": mp.sqrt(own[2] * before)})
            if op.kind == "bias":
                read[-1] |= {"share": mp.sqrt(own[0] * before / after), "bias": mp.sqrt(own[1] / after)}
        elif op.name == "sum":
            slots[op.dst] = after = mp.fsum(sources)
            read.append({f"share{k}": mp.sqrt(v / after) if after else mpf(0) for k, v in enumerate(sources)})
        elif op.name == "norm":
            slots[op.dst] = before / (before + own[0])
            read.append({"gain": 1 / mp.sqrt(before + own[0])})
        elif op.name == "product":
            slots[op.dst] = mp.fprod(sources)
            read.append({f"std{k}": mp.sqrt(v) for k, v in enumerate(sources)})
        else:
            slots[op.dst] = exact_variance(op, op.own(numbers), before)
            read.append(None)
    return read, outputs


def near(found, wanted, eps):
    """Where both are numbers of their dtype."""
    limits = np.finfo(found.dtype)
    if wanted and not float(limits.tiny) < wanted < float(limits.max):
        return found == 0 or not limits.tiny < found < limits.max
    return abs(mpf(float(found)) - wanted) <= eps * abs(wanted)


def accepted(made, found):
    """Those of some variances whose powers stay within the range of float64 on the way."""
    while True:
        try:
            row_pass(made)([found], np.float64)
        except ValueError:
            found = found[found < found.max()]
        else:
            return found


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_rows_and_variances(name, dtype):
    """To a few roundings, of float64 for variances and of the table's dtype for row arrays."""
    made = lowered(NETWORKS[name])
    ops = made.program.ops
    eps = 4 * float(np.finfo(np.float64).eps) * len(ops)
    given = accepted(made, variances(name))
    assert len(given) > len(VARIANCES) / 3
    table = row_pass(made)([given], dtype)
    assert table.table.dtype == dtype
    for i, q in enumerate(given):
        with mp.workdps(60):
            read, outputs = recursion(made.program, made.numbers, mpf(float(q)))
            step = mpf("1e-20")
            _, moved = recursion(made.program, made.numbers, mpf(float(q)) * (1 + step))
            for output, wanted in outputs.items():
                slope = max(1, abs(moved[output] / wanted - 1) / step) if wanted else 1  # powers of powers
                assert near(table.variance(output)[i], wanted, eps * slope), (q, output)
            for k, wanted in enumerate(read):
                for row, value in (wanted or {}).items():
                    assert near(getattr(table.of(k), row)[i], value, eps + float(np.finfo(dtype).eps)), (q, k, row)


@pytest.mark.parametrize("name", NETWORKS)
def test_all_ops_at_once_are_each_op_alone(name):
    """The stacked pass, and what the readable text says of one op: the same bits, whatever stands beside an input."""
    made = lowered(NETWORKS[name])
    given = accepted(made, variances(name))
    whole = row_pass(made)([given], np.float64)
    values = row_pass(made).values([given]).q
    layout = layout_of(made.program)
    for k, (op, sources) in enumerate(zip(made.program.ops, layout.sources, strict=True)):
        alone = rows_of(op, op.own(made.numbers), [values[v] for v in sources])
        assert tuple(alone) == row_names(op)
        for row, array in alone.items():
            assert same(getattr(whole.of(k), row), array)
    assert sorted(p for places in layout.places for p in places.values()) == list(range(layout.n_rows))
    for n in (1, 2, 3, 7, 8, 9, 15, 17):  # parts of vectors
        for start in (0, 5, len(given) - n):
            part = row_pass(made)([given[start : start + n]], np.float64)
            assert same(part.table, whole.table[:, start : start + n])
            assert same(part.variance(0), whole.variance(0)[start : start + n])


def test_long_inputs_are_taken_in_parts(monkeypatch):
    made = lowered(NETWORKS["sums"])
    whole = row_pass(made)([VARIANCES], np.float32)
    monkeypatch.setattr(rows_module, "_CHUNK", 5)
    parts = row_pass(made)([VARIANCES], np.float32)
    assert same(parts.table, whole.table)
    assert same(parts.variance(0), whole.variance(0))
    empty = row_pass(made)([VARIANCES[:0]], np.float32)
    assert empty.table.shape == (layout_of(made.program).n_rows, 0)
    assert empty.variance(0).shape == (0,)


def test_the_number_of_array_calls_hardly_grows_with_depth():
    """One for a homogeneous nonlinearity and two for a dense; what is stacked does not count."""

    class Counting:
        def __init__(self):
            self.calls = 0

        def __getattr__(self, name):
            self.calls += 1
            return getattr(np, name)

    def calls(depth):
        net = stax.serial(*[stax.Dense(3, 1.2, 0.3), stax.Erf()] * depth, stax.Dense(1))
        pass_, xp = RowPass(lowered(net), np), Counting()
        pass_._xp = xp
        pass_([np.ones(3)], np.float32)
        return xp.calls

    assert calls(20) - calls(10) <= 10 * 6  # Erf's variance alone


def test_reaching_further():
    """longdouble in, longdouble out."""
    made = lowered(NETWORKS["sums"])
    wide = row_pass(made)([np.array([1e-310, 1.0], np.longdouble)], np.longdouble)
    assert wide.table.dtype == np.longdouble
    assert wide.variance(0).dtype == np.longdouble


# ---------------------------------------------------------------- names


def sample(name, n_params=0):
    """Ops of a name, as a network may have them: (kind, parameters, sources)."""
    if name == "dense":
        return [Op(name, 0, (0,), kind, range(4)) for kind in ("plain", "guard", "bias")]
    if name in ("sum", "product"):
        plain = [Op(name, 0, tuple(range(k))) for k in (1, 2, 5)]
        return [*plain, Op(name, 0, (0, 1, 2), "means", means=(True, False, True))] if name == "sum" else plain
    return [Op(name, 0, (0,), "", range(n_params))]


@pytest.mark.parametrize("backend", MODULES)
def test_both_registries_agree(backend):
    """Every op of the compiled module has its entry in Python, with the same names in the same order, and traits."""
    module, _ = select.load(backend)
    declared = {op["name"]: op for op in module.ops()}
    linear = {"dense": 4, "sum": 0, "store": 0, "norm": 1, "product": 0}  # and how many parameters each takes
    assert set(declared) == set(linear) | {name for name, kind in registry._BY_DUAL.items() if kind.compiled}
    for name, op in declared.items():
        kind = registry._BY_DUAL.get(name)
        if kind is None:
            assert op["n_params"] == linear[name]
        else:
            for trait in ("positive", "homogeneous", "cheap"):
                assert op[trait] == getattr(kind, trait), (name, trait)
            assert op["n_params"] == (-1 if kind.counted else len(BARE[name].dual_params))
        for own in sample(name, len(BARE[name].dual_params) if name in BARE else 0 if kind is None else 7):
            found = module.row_names(own.name, own.kind, len(own.numbers), len(own.src))
            assert tuple(found) == row_names(own)


@pytest.mark.parametrize("backend", MODULES)
def test_rows_are_found_by_name(backend):
    """A program whose table lies in another order, and one that lacks a row."""
    module, _ = select.load(backend)
    op = ("dense", 0, [0], "bias", (0, 4))
    places = {"bias": 0, "std": 1, "share": 2, "unread": 7}
    module.Program([(*op, places), ("store", 0, [0], "", (0, 0), {"std": 3})], 1, 1, 1)
    with pytest.raises(ValueError, match="dense reads the row 'share', which is not among those given"):
        module.Program([(*op, {"bias": 0, "std": 1})], 1, 1, 1)
    with pytest.raises(ValueError, match="unknown op 'denser'"):
        module.Program([("denser", *op[1:], places)], 1, 1, 1)


@pytest.mark.skipif(select.load("cpu")[0] is None, reason="needs the compiled module")
def test_tables_are_checked():
    module, _ = select.load("cpu")
    made = lowered(NETWORKS["relu, biases"])
    program = compiled_program(module, made.program)
    table = row_pass(made)([np.ones(4)], np.float64).table

    def call(table, dtype=np.float64):
        out = np.empty((1, 4, 1))
        module.run(
            program, made.numbers, table, table, np.dtype(dtype), (0, 1, 0, 4, 0, 1, 0, 0), 4, 4, [module.Input()],
            [(out, None, None)], False, True, "", 1,
        )  # fmt: skip
        return out

    assert np.isfinite(call(table)).all()
    for wrong in (table[1:].copy(), table.astype(np.float32), np.asfortranarray(table)):
        with pytest.raises(ValueError, match=f"a row table has {len(table)} rows, of the dtype of the pairs"):
            call(wrong)
    with pytest.raises(ValueError, match="row tables are 2-D"):
        call(table[0])


def test_names_may_depend_on_the_number_of_parameters():
    class Several(Nonlinearity):
        @classmethod
        def names_of_rows(cls, n_params):
            return tuple(f"g{k}" for k in range(n_params))

    assert Several.names_of_rows(2) == ("g0", "g1")
    assert BARE["erf"].names_of_rows(0) == BARE["erf"].row_names
