"""The CUDA backend's own text, run thread by thread on the host: what a machine without a GPU can hold of it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from fastntk import show_config, stax
from fastntk.engines import select
from fastntk.engines.compiled import compiled_program
from fastntk.engines.engine import Tile, TileInput
from fastntk.engines.numpy_engine import NumpyEngine
from fastntk.network.activations import NONLINEARITIES
from fastntk.network.lower import lower
from fastntk.network.program import Value
from fastntk.plan.rows import row_pass, rows_of_dual
from helpers import assert_close, same
from test_duals import CASES, exact

MODULE, STATE = select.load("cuda")
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


def compiled(lowered, module=MODULE):
    return compiled_program(module, lowered.program)


class Tables:
    """Row arrays of a program for inputs with variances q."""

    def __init__(self, program, q, dtype):
        self.program = compiled(program)
        self.bytes = np.frombuffer(self.program.code(program.numbers), np.uint8)
        with np.errstate(all="ignore"):
            found = row_pass(program)(q, dtype)
        self.table = found.table[self.program.places]
        self.variances = [found.variance(k) for k in range(program.program.n_outputs)]


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


def tile_input(x1, x2=None):
    """What the engine is given of two sets of rows, or of one with itself: a product that is symmetric to the bit.

    Tests that compare bits give one product to both sides: a BLAS may round the same sum differently at another place.
    """
    (units1, norms1), (units2, norms2) = normalised(x1), normalised(x1 if x2 is None else x2)
    with np.errstate(invalid="ignore"):
        product = units1 @ units2.transpose(0, 2, 1)
    if x2 is None:
        x2, product = x1, np.triu(product) + np.triu(product, 1).transpose(0, 2, 1)
    return TileInput(product=product, raw1=x1, raw2=x2, norms1=norms1[:, None], norms2=norms2[:, None])


def variances(x):
    return (normalised(x)[1] ** 2 / x.shape[2]).reshape(-1)


def gram(program, x1, x2=None, planes=PLANES, given=None):
    """All outputs of one input's program: nngp, ntk, defect (outputs, batch, n1, n2)."""
    dtype, other = x1.dtype.type, x1 if x2 is None else x2
    tables1, tables2 = Tables(program, [variances(x1)], dtype), Tables(program, [variances(other)], dtype)
    shape = (x1.shape[0], x1.shape[1], other.shape[1])
    found = {name: np.full((program.program.n_outputs, *shape), np.nan, dtype) for name in planes}
    outputs = [[found[name][k] if name in found else None for name in PLANES] for k in range(program.program.n_outputs)]
    tile = Tile(shape[1], shape[2], 0, shape[0], 0, shape[1], 0, shape[2], symmetric=x2 is None)
    run_tile(tables1, tables2, tile, [given or tile_input(x1, x2)], outputs, dtype)
    return SimpleNamespace(**found)


def reference(program, x1, x2):
    """The same in float64, by NumPy."""
    x1, x2 = x1.astype(np.float64), x2.astype(np.float64)
    q1, q2 = variances(x1), variances(x2)
    shape = (x1.shape[0], x1.shape[1], x2.shape[1])
    found = {name: np.full((program.program.n_outputs, *shape), np.nan) for name in PLANES}
    outputs = [[found[name][k] for name in PLANES] for k in range(program.program.n_outputs)]
    tile = Tile(shape[1], shape[2], 0, shape[0], 0, shape[1], 0, shape[2])
    rows1, rows2 = (NumpyEngine().rows(program, [q], np.dtype(np.float64)) for q in (q1, q2))
    NumpyEngine().run(program, rows1, rows2, np.dtype(np.float64), tile, [tile_input(x1, x2)], outputs)
    return SimpleNamespace(**found)


def program_of(net, d=30, depths=False):
    return lower(net.kernel_fn.layer, Value(0, d), depths)


def wide(branches, depth=1):
    """So many slots at once: branches that all live until they are joined."""
    each = [
        stax.serial(*[stax.Dense(3, 1 + 0.1 * k, 0.1 * (k % 2)), stax.Relu()] * depth, stax.Dense(3))
        for k in range(branches)
    ]
    return stax.serial(stax.Dense(3), stax.FanOut(branches), stax.parallel(*each), stax.FanInSum())


def networks():
    # A step makes the root of a defect in every layer: of rows that are nearly multiples, roots of what was rounded.
    smooth = [(make, args) for make, args in NONLINEARITIES.values() if not make(*args).jumps]
    assert len(smooth) > 10
    for make, args in smooth:
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
        depth = 50 if len(program.program.ops) > 30 else 10
        scale = 0.5 * np.abs(exact_values).max()
        assert_close(getattr(found, name), exact_values, f"{name} {depth}", x1.dtype, scale=scale)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("index", range(len(list(networks()))))
def test_networks(index, dtype):
    program = program_of(list(networks())[index])
    x = points(dtype)
    check(gram(program, x, x[:, :45]), program, x, x[:, :45])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [1, 31, 33, 70])
def test_symmetric_grams(n, dtype):
    """Half the pairs, and the mirror image of each: the same bits as all of them."""
    x = points(dtype, 70)[:, :n]
    for net in (stax.serial(stax.Dense(3, 1.2, 0.1), stax.Relu(), stax.Dense(1)), wide(3), wide(6)):
        program = program_of(net)
        given = tile_input(x)
        found, whole = gram(program, x, given=given), gram(program, x, x.copy(), given=given)
        upper = np.triu(np.ones((n, n), bool))
        # a row with itself is known to be one, with its copy it is found to be; all else is one computation
        for name in PLANES:
            half = getattr(found, name)[0, 0]
            assert same(half, half.T)
            assert same(half[upper], getattr(whole, name)[0, 0][upper])


def test_tiles_anywhere_give_the_whole():
    """Tiles of a symmetric Gram of any place and size, as their callers cut them, and tables of some of its rows."""
    x = points(np.float32, 150)
    program = program_of(next(networks()))
    all_pairs = tile_input(x)
    whole = gram(program, x, given=all_pairs)
    found = [np.full((1, 150, 150), np.nan, np.float32) for _ in PLANES]
    for i0, lines in ((0, 47), (47, 64), (111, 39)):
        table = Tables(program, [variances(x)[i0:]], np.float32)
        for j0, cols in ((i0, 30), (i0 + 30, 1), (i0 + 31, 150 - i0 - 31)):
            cut = (slice(None), slice(i0, i0 + lines), slice(j0, j0 + cols))
            given = TileInput(
                product=np.ascontiguousarray(all_pairs.product[cut]), raw1=x[:, cut[1]], raw2=x[:, cut[2]],
                norms1=all_pairs.norms1[:, :, cut[1]], norms2=all_pairs.norms2[:, :, cut[2]],
            )  # fmt: skip
            tile = Tile(150, 150, 0, 1, i0, lines, j0, cols, symmetric=True, row1=0, row2=j0 - i0)
            run_tile(table, table, tile, [given], [found], np.float32)
    for plane, name in zip(found, PLANES, strict=True):
        assert same(plane, getattr(whole, name)[0])


@pytest.mark.parametrize("dtype", FLOATS)
def test_batches_are_grams_of_their_own(dtype):
    x = np.concatenate([points(dtype, 45), 2 * points(dtype, 45), points(dtype, 45)[:, ::-1]])
    program = program_of(wide(2))
    for other in (None, np.ascontiguousarray(x[:, :33])):
        given = tile_input(x, other)
        found = gram(program, x, other, given=given)
        for b in range(3):
            one = TileInput(**{name: array[b : b + 1] for name, array in vars(given).items() if array is not None})
            own = gram(program, x[b : b + 1], None if other is None else other[b : b + 1], given=one)
            for name in PLANES:
                assert same(getattr(found, name)[:, b], getattr(own, name)[:, 0])


def test_the_product_may_lie_where_the_result_goes():
    """Nothing n x n but the outputs: BLAS writes its product into one of them."""
    x = points(np.float32)
    program = program_of(stax.serial(*[stax.Dense(3, 1.2, 0.1), stax.Relu()] * 2, stax.Dense(1)))
    for other in (None, x[:, :50]):
        given = tile_input(x, other)
        wanted = gram(program, x, other, PLANES[:2], given=given)
        tables1, tables2 = (
            Tables(program, [variances(rows)], np.float32) for rows in (x, x if other is None else other)
        )
        _, n1, n2 = given.product.shape
        ntk = np.full_like(given.product, np.nan)
        tile = Tile(n1, n2, 0, 1, 0, n1, 0, n2, symmetric=other is None)
        run_tile(tables1, tables2, tile, [given], [(given.product, ntk, None)], np.float32)
        assert same(given.product, wanted.nngp[0])
        assert same(ntk, wanted.ntk[0])


@pytest.mark.parametrize("symmetric", [False, True])
def test_strided_outputs_and_absent_planes(symmetric):
    """Whatever the strides, only the tile's place is written; a plane that is not asked for changes no other."""
    x = points(np.float64, 40)
    program = program_of(wide(2), depths=True)
    other = None if symmetric else x[:, :37]
    given = tile_input(x, other)
    wanted = gram(program, x, other, given=given)
    for planes in (("nngp",), ("ntk",), ("defect",), ("nngp", "ntk")):
        found = gram(program, x, other, planes, given)
        for name in planes:
            assert same(getattr(found, name), getattr(wanted, name))
    n2 = 40 if symmetric else 37
    room = np.full((3, 40 + 5, 2, n2 + 6), -7.0)
    tables1, tables2 = (Tables(program, [variances(rows)], np.float64) for rows in (x, x if symmetric else other))
    outputs = [(None, None, None)] * (program.program.n_outputs - 1) + [(room[1:2, 2:42, 0, 3 : n2 + 3], None, None)]
    tile = Tile(40, n2, 0, 1, 0, 40, 0, n2, symmetric=symmetric)
    run_tile(tables1, tables2, tile, [given], outputs, np.float64)
    place = np.zeros(room.shape, bool)
    place[1:2, 2:42, 0, 3 : n2 + 3] = True
    assert (room[~place] == -7).all()
    assert same(room[place].reshape(1, 40, n2), wanted.nngp[-1])


@pytest.mark.parametrize("dtype", FLOATS)
def test_diagonals(dtype):
    x = points(dtype, 300)
    for net in (next(networks()), wide(2), wide(6)):
        program = program_of(net)
        table = Tables(program, [variances(x)], dtype)
        found = [np.full((1, 300, 1), np.nan, dtype) for _ in PLANES]
        tile = Tile(300, 300, 0, 1, 0, 300, 0, 1, diagonal=True)
        run_tile(table, table, tile, [TileInput()], [found], dtype)
        whole = gram(program, x)
        for plane, name in zip(found, PLANES, strict=True):
            assert same(plane[0, :, 0], np.diagonal(getattr(whole, name)[0, 0]).copy())


def test_kernels_go_on_from_kernels():
    """Known defects and NTKs as inputs, of any strides: a network in two halves is the network."""
    x = points(np.float64)
    half = stax.serial(stax.Dense(3, 1.2, 0.1), stax.Erf(), stax.Dense(3, 1.1, 0.2))
    program, whole = program_of(half), program_of(stax.serial(half, stax.Relu(), stax.Dense(2), stax.Relu()))
    first, wanted = gram(program, x), gram(whole, x)
    rest = lower(stax.serial(stax.Relu(), stax.Dense(2), stax.Relu()).kernel_fn.layer, Value(0, 30, gaussian=True))
    table = Tables(rest, [Tables(program, [variances(x)], np.float64).variances[0]], np.float64)
    room = np.empty((1, 70, 100))
    room[:, :, 9:79] = first.defect[0]
    found = [np.full((1, 70, 70), np.nan) for _ in PLANES]
    given = TileInput(defect=room[:, :, 9:79], theta=first.ntk[0])
    run_tile(table, table, Tile(70, 70, 0, 1, 0, 70, 0, 70, symmetric=True), [given], [found], np.float64)
    for plane, name in zip(found, PLANES, strict=True):
        assert np.allclose(plane, getattr(wanted, name)[0], rtol=1e-14, atol=1e-15)


def test_several_inputs():
    """Two inputs of a program, each with rows of its own."""
    net = stax.serial(stax.parallel(stax.Dense(3, 1.2, 0.1), stax.Dense(3, 0.7)), stax.FanInSum(), stax.Relu())
    program = lower(net.kernel_fn.layer, (Value(0, 30), Value(1, 30)))
    x, y = points(np.float64), points(np.float64)[:, ::-1].copy()
    tables = Tables(program, [variances(x), variances(y)], np.float64)
    inputs = [tile_input(rows, rows) for rows in (x, y)]
    found, wanted = ([np.full((1, 70, 70), np.nan) for _ in PLANES] for _ in range(2))
    tile = Tile(70, 70, 0, 1, 0, 70, 0, 70)
    run_tile(tables, tables, tile, inputs, [found], np.float64)
    rows = NumpyEngine().rows(program, [variances(x), variances(y)], np.dtype(np.float64))
    NumpyEngine().run(program, rows, rows, np.dtype(np.float64), tile, inputs, [wanted])
    for k in range(2):
        assert_close(found[k], wanted[k], f"{PLANES[k]} 10", np.float64, scale=0.5 * np.abs(wanted[k]).max())


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_and_infinity_stay_in_their_pairs(dtype):
    x = points(dtype, 40)
    program = program_of(next(networks()))
    given = tile_input(x)
    clean = gram(program, x, given=given)
    x[0, 7, 3], x[0, 20, 0] = np.nan, np.inf
    hit = np.zeros((40, 40), bool)
    hit[[7, 20]] = hit[:, [7, 20]] = True
    struck = tile_input(x)
    struck.product = np.where(hit, struck.product, given.product)
    found = gram(program, x, given=struck)
    for name in ("nngp", "ntk"):
        values = getattr(found, name)[0, 0]
        assert np.isnan(values[hit]).all()
        assert same(values[~hit], getattr(clean, name)[0, 0][~hit])


@pytest.mark.parametrize("dtype", FLOATS)
def test_unit_rows(dtype):
    """Rows of any size, strided, against long double."""
    info = np.finfo(dtype)
    x = np.random.default_rng(1).standard_normal((2, 9, 101)).astype(dtype)
    x[0, 1] *= info.max / 64
    x[0, 2] *= info.tiny
    x[0, 3] = 0
    x[0, 4] = info.smallest_subnormal
    x[0, 5, 1:] = 0
    x[1, 0, 7], x[1, 1, 8] = np.nan, np.inf
    room = np.zeros((2, 9, 2, 101), dtype)
    room[:, :, 1] = x
    units, norms = normalised(room[:, :, 1])
    wide_x = x.astype(np.longdouble)
    exact_norms = np.sqrt((wide_x**2).sum(2))
    for b, i in np.ndindex(2, 9):
        if (b, i) in ((1, 0), (1, 1)):
            assert np.isnan(units[b, i].sum())  # and so is every product with it
            assert np.isnan(norms[b, i])
        elif (b, i) == (0, 3):
            assert norms[b, i] == 0
            assert (units[b, i] == 0).all()
        else:
            assert abs(norms[b, i] - exact_norms[b, i]) <= max(4e-15 * exact_norms[b, i], 5e-324)
            wanted = (wide_x[b, i] / exact_norms[b, i]).astype(np.float64)
            assert np.abs(units[b, i] - wanted).max() <= 2 * info.eps * np.abs(wanted).max()


@pytest.mark.parametrize("name", [name for name, (make, args) in NONLINEARITIES.items() if not make(*args).counted])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_dual_maps(name, case, dtype):
    """Against 100 digits, as the other backends; a variance given once for all pairs is an axis of stride 0."""
    q, expected, floors = exact(name, case, np.dtype(dtype))
    layer = NONLINEARITIES[name][0](*NONLINEARITIES[name][1])
    a, b, c = layer.affine
    found = {key: np.full(len(q[0]), np.nan, dtype) for key in ("k", "kdot")}

    def call(q, found):
        with np.errstate(all="ignore"):
            rows = [rows_of_dual(layer.dual_name, layer.dual_params, b**2 * v.astype(float), dtype) for v in q[::2]]
        given = [list(map(seen, arrays)) for arrays in (q, rows)]
        run("dual", layer.dual_name, list(layer.dual_params), *given, *map(seen, found.values()))

    call(q, found)
    outer = {"k": (a**2, c**2), "kdot": ((a * b) ** 2, 0)}
    for quantity, values in found.items():
        scale, offset = (dtype(number) for number in outer[quantity])
        assert_close(scale * values + offset, expected[quantity], quantity, dtype, scale=floors[quantity])
    once = {key: np.full(5, np.nan, dtype) for key in found}
    first = [np.broadcast_to(v[:1], 5) for v in q]
    call(first, once)
    for quantity, values in once.items():
        assert same(values, np.full(5, found[quantity][0]))


def test_no_pairs_no_work():
    program = program_of(stax.Dense(1))
    for dtype in FLOATS:
        x = points(dtype)
        assert gram(program, x, x[:, :0]).ntk.shape == (1, 1, 70, 0)
        assert gram(program, x[:, :0]).ntk.shape == (1, 1, 0, 0)
        assert normalised(x[:0])[0].shape == (0, 70, 30)
        units, norms = normalised(x[:, :, :0])
        assert units.size == 0
        assert (norms == 0).all()


# ---------------------------------------------------------------- what it refuses


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"x must be a device array .*given ndarray"):
        run("normalise", np.ones((1, 2, 3)), None, None)
    x = np.ones((1, 2, 3))
    with pytest.raises(ValueError, match="units is read-only"):
        run("normalise", seen(x), Seen(x, data=(x.ctypes.data, True)), seen(np.ones((1, 2))))
    with pytest.raises(ValueError, match="columns must be adjacent"):
        run("normalise", seen(x[:, :, ::2]), seen(np.ones((1, 2, 2))), seen(np.ones((1, 2))))
    with pytest.raises(ValueError, match="x must be float32 or float64, given >f8"):
        run("normalise", seen(x.astype(">f8")), seen(x), seen(np.ones((1, 2))))
    shifted = np.empty(x.nbytes + 1, np.uint8)[1:].view(np.float64).reshape(x.shape)
    with pytest.raises(ValueError, match="x is not aligned to its type"):
        run("normalise", seen(shifted), seen(x), seen(np.ones((1, 2))))
    with pytest.raises(ValueError, match="no mask"):
        run("normalise", Seen(x, mask=seen(x)), seen(x), seen(np.ones((1, 2))))
    with pytest.raises(ValueError, match="device -2 is no CUDA ordinal"):
        run("normalise", seen(x), seen(x), seen(np.ones((1, 2))), device=-2)


def test_tiles_are_checked():
    x = points(np.float64)[:, :5]
    program = program_of(stax.Dense(1))
    table = Tables(program, [variances(x)], np.float64)
    given = tile_input(x, x)

    def call(dtype=np.float64, tile=None, out=(5, 5), table=table, **changes):
        tile = tile or Tile(5, 5, 0, 1, 0, 5, 0, 5)
        own = TileInput(**{**vars(given), **changes})
        run_tile(table, table, tile, [own], [(np.empty((1, *out)), None, None)], dtype)

    def changed(**changes):
        return SimpleNamespace(**{**vars(table), **changes})

    call()
    for words, change in {
        "code must be [0-9]+ adjacent bytes": {"table": changed(bytes=table.bytes[1:])},
        "code must be .* bytes": {"table": changed(bytes=table.bytes.view(np.int8))},
        "table1 has shape": {"table": changed(table=table.table[1:])},
        "table1 must be a 2-D array of type f4": {"dtype": np.float32},
        "nngp is smaller than the tile's place": {"out": (5, 4)},
        "a symmetric output must be square": {"out": (5, 6), "tile": Tile(5, 5, 0, 1, 0, 5, 0, 5, symmetric=True)},
        "tile outside the row tables": {"tile": Tile(5, 5, 0, 1, 0, 5, 0, 5, row1=1)},
        "product has shape": {"product": given.product[:, :4]},
        "raw rows of both sides and their norms go together": {"norms2": None},
        "raw2 has shape": {"raw2": x[:, :, :29]},
        "takes the product of the unit rows": {"panels1": np.zeros((1, 1, 64)), "panels2": np.zeros((1, 1, 64))},
    }.items():
        with pytest.raises(ValueError, match=words):
            call(**change)


def test_programs_too_wide_are_refused():
    with pytest.raises(ValueError, match=r"keeps 8 slots, the network needs (9|1[0-9])"):
        compiled(program_of(wide(9)))
    deep = stax.serial(*[stax.serial(stax.Dense(1), stax.Relu())] * 130)
    with pytest.raises(ValueError, match="writes 128 outputs a call, given 130"):
        compiled(program_of(deep, depths=True))
    compiled(program_of(deep))


def test_errors_of_cuda_name_the_work():
    """No device, or none of this number: the runtime's own words, and no harm to the next call."""
    x = np.ones((1, 2, 3))
    with pytest.raises(RuntimeError, match=r"CUDA: normalise: cuda(GetDevice|SetDevice): .+ \(cudaError"):
        run("normalise", seen(x), seen(x.copy()), seen(np.ones((1, 2))), device=99)
    assert normalised(x)[1][0, 0] == np.sqrt(3)


def test_the_state_of_the_backend_is_told():
    devices, reason = MODULE.devices()
    state = show_config(mode="dict")["backends"]["cuda"]
    assert (devices[0] if devices else reason) in state
