"""The CUDA backend's own text, run thread by thread on the host: what a machine without a GPU can hold of it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from fastntk import backends, stax
from fastntk.activations import NONLINEARITIES
from fastntk.backends import Tile, TileInput
from fastntk.program import Value, lower
from fastntk.reference import NumpyEngine, Rows
from helpers import assert_close

MODULE, STATE = backends.load("cuda")
pytestmark = pytest.mark.skipif(MODULE is None, reason=f"backend 'cuda': {STATE}")
FLOATS = [np.float32, np.float64]
PLANES = ("nngp", "ntk", "defect")
CLOSE = {np.float32: 0.06, np.float64: 1e-3}


class Seen:
    """A NumPy array as device code on the host sees it: a device array's interface that points at host memory."""

    def __init__(self, array, **changes):
        self.array, self.changes = array, changes

    @property
    def __cuda_array_interface__(self):
        return {**self.array.__array_interface__, **self.changes}


def seen(array):
    return None if array is None else Seen(array)


def run(name, *args, device=None, **kwargs):
    return getattr(MODULE, name)(*args, device=MODULE.ON_HOST if device is None else device, stream=0, **kwargs)


def compiled(program):
    ops = [(op.name, op.dst, list(op.src), list(op.params)) for op in program.ops]
    return MODULE.Program(ops, program.n_inputs, program.n_slots, program.n_outputs)


class Tables:
    """Row arrays of a program for inputs with variances q."""

    def __init__(self, program, q, dtype):
        self.program = compiled(program)
        self.bytes = np.frombuffer(self.program.code(), np.uint8)
        self.table = np.full((max(1, self.program.n_rows), len(q[0])), np.nan, dtype)
        self.variances = np.full((program.n_outputs, len(q[0])), np.nan)
        run("rows", self.program, seen(self.bytes), list(map(seen, q)), seen(self.table), seen(self.variances))


def normalised(x):
    units, norms = np.full(x.shape, np.nan, x.dtype), np.full(x.shape[:2], np.nan)
    run("normalise", seen(x), seen(units), seen(norms))
    return units, norms


def run_tile(tables1, tables2, tile, inputs, outputs, dtype):
    place = (tile.batch0, tile.batches, tile.i0, tile.lines, tile.j0, tile.cols, tile.row1, tile.row2)
    views = []
    for given in inputs:
        view = MODULE.Input()
        for name, array in vars(given).items():
            setattr(view, name, seen(array))
        view.close = CLOSE[dtype]
        views.append(view)
    run(
        "run", tables1.program, seen(tables1.bytes), seen(tables1.table), seen(tables2.table), np.dtype(dtype), place,
        tile.n1, tile.n2, views, [tuple(map(seen, own)) for own in outputs], tile.symmetric, tile.diagonal,
    )  # fmt: skip


def points(dtype, n=70, d=30):
    """Rows of all sorts: x (1, n, d)."""
    x = np.random.default_rng(0).standard_normal((1, n, d))
    x[0, 1] = x[0, 0] * (1 + 1e-7)  # nearly a copy,
    x[0, 2] = 3 * x[0, 0]  # a scaled one,
    x[0, 3] = -x[0, 0] + 1e-3 * x[0, 4]  # nearly the opposite
    x[0, 5] = 0
    return x.astype(dtype)


def tile_input(x1, x2):
    """What the engine is given of two sets of rows."""
    (units1, norms1), (units2, norms2) = normalised(x1), normalised(x2)
    with np.errstate(invalid="ignore"):
        product = units1 @ units2.transpose(0, 2, 1)
    return TileInput(product=product, raw1=x1, raw2=x2, norms1=norms1[:, None], norms2=norms2[:, None])


def variances(x):
    return (normalised(x)[1] ** 2 / x.shape[2]).reshape(-1)


def gram(program, x1, x2=None, planes=PLANES, given=None):
    """All outputs of one input's program: nngp, ntk, defect (outputs, batch, n1, n2)."""
    dtype, other = x1.dtype.type, x1 if x2 is None else x2
    tables1, tables2 = Tables(program, [variances(x1)], dtype), Tables(program, [variances(other)], dtype)
    shape = (x1.shape[0], x1.shape[1], other.shape[1])
    found = {name: np.full((program.n_outputs, *shape), np.nan, dtype) for name in planes}
    outputs = [[found[name][k] if name in found else None for name in PLANES] for k in range(program.n_outputs)]
    tile = Tile(shape[1], shape[2], 0, shape[0], 0, shape[1], 0, shape[2], symmetric=x2 is None)
    run_tile(tables1, tables2, tile, [given or tile_input(x1, other)], outputs, dtype)
    return SimpleNamespace(**found)


def reference(program, x1, x2):
    """The same in float64, by NumPy."""
    x1, x2 = x1.astype(np.float64), x2.astype(np.float64)
    q1, q2 = variances(x1), variances(x2)
    shape = (x1.shape[0], x1.shape[1], x2.shape[1])
    found = {name: np.full((program.n_outputs, *shape), np.nan) for name in PLANES}
    outputs = [[found[name][k] for name in PLANES] for k in range(program.n_outputs)]
    tile = Tile(shape[1], shape[2], 0, shape[0], 0, shape[1], 0, shape[2])
    with np.errstate(all="ignore"):
        rows1, rows2 = Rows(program, [q1]), Rows(program, [q2])
    NumpyEngine().run(program, rows1, rows2, np.dtype(np.float64), tile, [tile_input(x1, x2)], outputs)
    return SimpleNamespace(**found)


def program_of(net, d=30, depths=False):
    return lower(net.kernel_fn.layer, Value(0, d), depths).program


def wide(branches, depth=1):
    """So many slots at once: branches that all live until they are joined."""
    each = [
        stax.serial(*[stax.Dense(3, 1 + 0.1 * k, 0.1 * (k % 2)), stax.Relu()] * depth, stax.Dense(3))
        for k in range(branches)
    ]
    return stax.serial(stax.Dense(3), stax.FanOut(branches), stax.parallel(*each), stax.FanInSum())


def networks():
    for make, args in NONLINEARITIES.values():
        yield stax.serial(*[stax.Dense(3, 1.2, 0.1), make(*args)] * 3, stax.Dense(1, 1.1))
        yield stax.serial(*[stax.Dense(4, 1.3, parameterization="standard"), make(*args)] * 2)
        yield stax.serial(*[stax.Dense(4, 1.1), make(*args)] * 2, stax.Dense(1))
    branch = stax.serial(stax.Dense(3), stax.Erf(0.7, 1.3, 0.2), stax.Dense(3, 1.2))
    yield stax.serial(stax.Dense(3), stax.FanOut(2), stax.parallel(branch, stax.Dense(3, 0.8, 0.3)), stax.FanInSum())
    skip = stax.serial(stax.FanOut(2), stax.parallel(stax.serial(stax.Relu(), stax.Dense(3)), stax.Identity()))
    yield stax.serial(stax.Dense(3), skip, stax.FanInSum(), skip, stax.FanInSum(), stax.Relu(), stax.Dense(1))
    yield wide(3)
    yield wide(6)
    yield stax.serial(*[stax.Dense(3, 1.4, 0.1), stax.Relu()] * 40, stax.Dense(1))  # rows that are staged in parts


def check(found, program, x1, x2):
    wanted = reference(program, x1, x2)
    for name in ("nngp", "ntk"):
        exact_values = getattr(wanted, name)
        depth = 50 if len(program.ops) > 30 else 10
        scale = 0.5 * np.abs(exact_values).max()
        assert_close(getattr(found, name), exact_values, f"{name} {depth}", x1.dtype, scale=scale)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("index", range(len(list(networks()))))
def test_networks(index, dtype):
    program = program_of(list(networks())[index])
    x = points(dtype)
    check(gram(program, x, x[:, :45]), program, x, x[:, :45])
