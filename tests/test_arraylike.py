"""What is as good as an array goes in, and PyTorch's and JAX's arrays come back in their library."""

import numpy as np
import pytest
from fastntk import dual, stax

RNG = np.random.default_rng(0)
X = np.round(RNG.standard_normal((6, 4)), 3)
Z = np.round(RNG.standard_normal((3, 4)), 3)
NET = stax.serial(stax.Dense(1, 1.4, 0.1), stax.Relu(), stax.Dense(1))
BOTH = ("nngp", "ntk")


class Foreign:
    """An array of another library, as far as NumPy can see; counts how often it is converted."""

    def __init__(self, array):
        self.array, self.asked = array, 0

    def __array__(self, dtype=None, copy=None):
        self.asked += 1
        return self.array


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("make", [np.ndarray.tolist, lambda a: tuple(map(tuple, a.tolist())), list, Foreign])
def test_lists_and_foreign_arrays_count_as_numpys(make):
    def of(a):
        return [[np.float64(v) for v in row] for row in a] if make is list else make(a)

    assert same(NET.kernel_fn(of(X), None, BOTH), NET.kernel_fn(X, None, BOTH))
    assert same(NET.kernel_fn(of(X), of(Z), BOTH), NET.kernel_fn(X, Z, BOTH))
    assert same(NET.kernel_fn(X, of(Z), BOTH), NET.kernel_fn(X, Z, BOTH))
    assert same(NET.kernel_fn.diagonal(of(X)), NET.kernel_fn.diagonal(X))
    assert same(NET.kernel_fn.depths(of(X)), NET.kernel_fn.depths(X))
    assert type(NET.kernel_fn(of(X), Z, "ntk")) is np.ndarray


def test_integers_in_lists_count_as_float64():
    assert NET.kernel_fn([[1, 2], [3, 4]], None, "ntk").dtype == np.float64
    assert NET.kernel_fn([[True, False]], None, "ntk").shape == (1, 1)


def test_converted_once():
    x = Foreign(X)
    NET.kernel_fn(x, None, BOTH)
    assert x.asked == 1


def test_images_and_batches_as_lists():
    x = RNG.standard_normal((2, 5, 4, 2))
    conv = stax.serial(stax.Conv(1, (3, 3), padding="SAME"), stax.Relu(), stax.Flatten(), stax.Dense(1)).kernel_fn
    assert np.array_equal(conv(x.tolist(), None, "ntk"), conv(x, None, "ntk"))
    y = RNG.standard_normal((2, 5, 3))
    whole = NET.kernel_fn(y, None, "ntk", batch_dims=1)
    assert np.array_equal(NET.kernel_fn(y.tolist(), None, "ntk", batch_dims=1), whole)


def test_a_list_of_lists_of_numbers_for_each_branch():
    net = stax.serial(stax.parallel(stax.Dense(1), stax.Dense(1)), stax.FanInSum())
    assert np.array_equal(net.kernel_fn([X, X.tolist()], None, "ntk"), net.kernel_fn((X, X), None, "ntk"))


def test_lists_that_hold_themselves_end():
    own = []
    own.append(own)
    deep = X
    for _ in range(200):
        deep = (deep,)
    for x in (own, deep):
        with pytest.raises((TypeError, ValueError), match="x1"):
            NET.kernel_fn(x)


def test_memmaps_matrices_and_read_only_arrays(tmp_path):
    file = np.memmap(tmp_path / "x", np.float64, "w+", shape=X.shape)
    file[...] = X
    frozen = X.copy()
    frozen.flags.writeable = False
    for x in (file, frozen, np.asfortranarray(X)):
        assert np.array_equal(NET.kernel_fn(x, None, "ntk"), NET.kernel_fn(X, None, "ntk"))


def test_scipys_sparse_matrices_are_refused_with_their_cure():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=r"x1.*toarray\(\)"):
        NET.kernel_fn(sparse.csr_array(X))


def test_frames_of_pandas():
    pandas = pytest.importorskip("pandas")
    plain = pandas.DataFrame(X)
    mixed = pandas.DataFrame({"a": np.arange(4), "b": np.float32(0.5) * np.arange(4)})
    own = pandas.DataFrame({"a": pandas.array([1.5, None, 2.0], dtype="Float64"), "b": [1, 2, 3]})
    assert np.array_equal(NET.kernel_fn(plain, None, "ntk"), NET.kernel_fn(X, None, "ntk"))
    assert np.array_equal(NET.kernel_fn(mixed, None, "ntk"), NET.kernel_fn(mixed.to_numpy(float), None, "ntk"))
    numbers = np.array([[1.5, 1], [np.nan, 2], [2.0, 3]])
    assert np.array_equal(NET.kernel_fn(own, None, "ntk"), NET.kernel_fn(numbers, None, "ntk"), equal_nan=True)
    with pytest.raises(TypeError, match="x1 must be float32 or float64"):
        NET.kernel_fn(pandas.DataFrame({"a": ["x", "y"], "b": [1, 2]}))
    with pytest.raises(ValueError, match="x1 has 1 dims"):
        NET.kernel_fn(pandas.Series([1.0, 2.0]))


def test_duals_of_lists():
    q = np.array([1.0, 2.0])
    assert same(dual.relu(q.tolist(), 0.5, (2.0, 1.0)), dual.relu(q, 0.5, q[::-1]))
    with pytest.raises(TypeError, match="q11 is a masked array"):
        dual.relu(np.ma.masked_array(q, [True, False]), 0.5, 2.0)


# ---------------------------------------------------------------- libraries whose arrays come back


def torch_of():
    torch = pytest.importorskip("torch")
    return torch.tensor, torch.Tensor


def jax_of():
    jax = pytest.importorskip("jax")
    return jax.numpy.asarray, jax.Array


@pytest.mark.rivals
@pytest.mark.parametrize("library", [torch_of, jax_of], ids=["torch", "jax"])
def test_results_in_the_library_of_the_first_array(library):
    make, kind = library()
    x, z = X.astype(np.float32), Z.astype(np.float32)
    found = NET.kernel_fn(make(x), make(z), BOTH)
    assert all(isinstance(k, kind) for k in found)
    assert same(map(np.asarray, found), NET.kernel_fn(x, z, BOTH))
    assert isinstance(NET.kernel_fn(make(x), z, "ntk"), kind)
    assert isinstance(NET.kernel_fn(x, make(z), "ntk"), np.ndarray)
    assert isinstance(NET.kernel_fn(x.tolist(), make(np.ones((2, 4), int)), "ntk"), np.ndarray)
    assert all(isinstance(k, kind) for k in (*NET.kernel_fn.diagonal(make(x)), *NET.kernel_fn.depths(make(x))))
    assert all(isinstance(k, kind) for k in dual.relu(make(x[0] ** 2), 0.0, make(x[1] ** 2)))
    assert NET.kernel_fn(make(x[:0]), None, "ntk").shape == (0, 0)


@pytest.mark.rivals
@pytest.mark.parametrize("library", [torch_of, jax_of], ids=["torch", "jax"])
def test_kernels_to_continue_in_other_libraries(library):
    make, kind = library()
    first, rest = stax.serial(stax.Dense(1, 1.4), stax.Relu()), stax.serial(stax.Dense(1), stax.Erf(), stax.Dense(1))
    x = X.astype(np.float32)
    k = first.kernel_fn(make(x))
    assert isinstance(k.nngp, kind)
    assert isinstance(k.cov1, kind)
    found = rest.kernel_fn(k, None, BOTH)
    assert all(isinstance(f, kind) for f in found)
    assert same(map(np.asarray, found), stax.serial(first, rest).kernel_fn(x, None, BOTH))
    assert isinstance((2.0 * k + 1.0).ntk, kind)


@pytest.mark.rivals
@pytest.mark.parametrize("library", [torch_of, jax_of], ids=["torch", "jax"])
def test_images_in_other_libraries(library):
    make, kind = library()
    x = RNG.standard_normal((2, 6, 6, 2)).astype(np.float32)
    net = stax.serial(stax.Conv(1, (3, 3), padding="SAME"), stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1))
    found = net.kernel_fn(make(x))
    assert isinstance(found.nngp, kind)
    assert isinstance(found.cov1, kind)
    assert np.array_equal(np.asarray(found.ntk), net.kernel_fn(x, None, "ntk"))


@pytest.mark.rivals
def test_torch_out_and_what_is_refused():
    torch = pytest.importorskip("torch")
    x = torch.tensor(X)
    out = torch.zeros(6, 6, dtype=torch.float64)
    assert NET.kernel_fn(x, None, "ntk", out=out) is out
    assert NET.kernel_fn(X, None, "ntk", out=out.T) is not None
    assert np.array_equal(out.numpy(), NET.kernel_fn(X, None, "ntk").T)
    with pytest.raises(TypeError, match=r"x1.*records gradients.*detach\(\)"):
        NET.kernel_fn(x.clone().requires_grad_())
    with pytest.raises(TypeError, match=r"out.*records gradients.*detach\(\)"):
        NET.kernel_fn(x, None, "ntk", out=out.clone().requires_grad_())
    for bad in (x.to(torch.bfloat16), x.to_sparse(), x.to("meta"), x.to(torch.complex64).conj()):
        with pytest.raises(TypeError, match="x1"):
            NET.kernel_fn(bad)
    with pytest.raises(TypeError, match=r"x1 is float64, x2 is float32"):
        NET.kernel_fn(x, x.float())
    with pytest.raises(TypeError, match=r"out must be a numpy\.ndarray, given list"):
        NET.kernel_fn(x, None, "ntk", out=[[0.0]])


@pytest.mark.rivals
def test_jax_dtypes_and_what_is_refused():
    jax = pytest.importorskip("jax")
    x = jax.numpy.asarray(X.astype(np.float32))
    for call in (
        jax.jit(lambda a: NET.kernel_fn(a, None, "ntk")),
        jax.vmap(lambda a: NET.kernel_fn(a[None], None, "ntk")),
        jax.grad(lambda a: NET.kernel_fn(a, None, "ntk").sum()),
    ):
        with pytest.raises(TypeError, match=r"x1.*traced.*outside of jax\.jit"):
            call(x)
    with pytest.raises(TypeError, match="x1 must be float32 or float64"):
        NET.kernel_fn(x.astype(jax.numpy.bfloat16))
    with pytest.raises(TypeError, match=r"out must be a numpy\.ndarray"):
        NET.kernel_fn(x, None, "ntk", out=x[:6, :6])
    with pytest.raises(TypeError, match="x1"):
        NET.kernel_fn(jax.random.key(0))
