"""Kernels that a network continues: whoever changes their arrays, by whatever means, is heard."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
from fastntk import Kernel, stax
from fastntk.engines import select

BACKENDS = [name for name in ("cpu", "numpy") if select.availability()[name].startswith("available")]

RNG = np.random.default_rng(0)
X = RNG.standard_normal((5, 3))
FIRST = stax.serial(stax.Dense(1, 1.3, 0.2), stax.Relu())
REST = stax.serial(stax.Dense(1, 1.1, 0.1), stax.Relu(), stax.Dense(1, 0.9))


def by_replace(k, **changes):
    return k.replace(**changes)


def by_dataclasses(k, **changes):
    return dataclasses.replace(k, **changes)


def by_fields(k, **changes):
    return Kernel(**{**k.asdict(), **changes})


def by_position(k, **changes):
    return Kernel(*{**k.asdict(), **changes}.values())


def in_place(k, **changes):
    k = copy.deepcopy(k)
    for name, array in changes.items():
        getattr(k, name)[...] = array
    return k


WAYS = (by_replace, by_dataclasses, by_fields, by_position, in_place)


def rest_by_hand(k):
    """REST on covariances, in plain formulas (Cho and Saul 2009)."""
    w2, b2, v2 = 1.1**2, 0.1**2, 0.9**2
    q1, q2 = k.cov1, k.cov1 if k.cov2 is None else k.cov2
    nngp, q1, q2 = (w2 * q.astype(np.longdouble) + b2 for q in (k.nngp, q1, q2))
    ntk = w2 * k.ntk + nngp
    r = np.sqrt(q1[:, None] * q2)
    angle = np.arccos(np.clip(nngp / r, -1, 1))
    nngp = r * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    return v2 * nngp, v2 * (nngp + ntk * (np.pi - angle) / (2 * np.pi))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", WAYS, ids=[w.__name__ for w in WAYS])
@pytest.mark.parametrize("names", [("ntk",), ("nngp",), ("cov1",), ("cov1", "cov2", "nngp"), ("nngp", "ntk")])
def test_a_changed_field_counts(names, way, backend, dtype):
    x1, x2 = X.astype(dtype), X[:4].astype(dtype) + dtype(0.3)
    k = FIRST.kernel_fn(x1, x2, backend=backend)
    new = {"ntk": 0 * k.ntk, "nngp": dtype(0.7) * k.nngp, "cov1": dtype(1.5) * k.cov1, "cov2": dtype(1.2) * k.cov2}
    changed = way(k, **{name: new[name] for name in names})
    found = REST.kernel_fn(changed, None, ("nngp", "ntk"), backend=backend)
    for f, e in zip(found, rest_by_hand(changed), strict=True):
        np.testing.assert_allclose(f, e, rtol=20 * np.finfo(dtype).eps)


@pytest.mark.parametrize("same", [copy.copy, copy.deepcopy, lambda k: pickle.loads(pickle.dumps(k)), by_fields])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_unchanged_keeps_its_digits(dtype, same):
    """Near-duplicates, whose correlation the covariances no longer tell from 1."""
    x = np.concatenate([X, X * (1 + 1e-7), X + 1e-7 * RNG.standard_normal(X.shape)]).astype(dtype)
    whole = stax.serial(FIRST, REST).kernel_fn(x, None, ("nngp", "ntk"))
    found = REST.kernel_fn(same(FIRST.kernel_fn(x)), None, ("nngp", "ntk"))
    assert all(np.array_equal(f, w) for f, w in zip(found, whole, strict=True))


def test_one_changed_entry_leaves_the_digits_of_the_others():
    x = np.concatenate([X, X * (1 + 1e-9)])
    k = FIRST.kernel_fn(x)
    whole = REST.kernel_fn(k, None, "ntk")
    k.nngp[0, 1] = k.nngp[1, 0] = 0.05
    found = REST.kernel_fn(k, None, "ntk")
    changed = found != whole
    assert changed[0, 1]
    assert changed[1, 0]
    assert changed.sum() == 2


def test_scaled_kernels_keep_their_digits():
    x = np.concatenate([X, X * (1 + 1e-9)])
    scaled = stax.serial(stax.Dense(1, 2.6, 0.4), stax.Relu(), REST)
    found = REST.kernel_fn(FIRST.kernel_fn(x) * 2.0, None, "ntk")
    again = REST.kernel_fn(dataclasses.replace(FIRST.kernel_fn(x) * 2.0, ntk=4 * FIRST.kernel_fn(x).ntk), None, "ntk")
    np.testing.assert_allclose(found, scaled.kernel_fn(x, None, "ntk"), rtol=1e-14)
    assert np.array_equal(found, again)


def test_overflow_and_nan_in_a_kernel_stay_where_they_are():
    x = X.astype(np.float32)
    x[1] *= 1e25
    x[2, 0] = np.nan
    k = FIRST.kernel_fn(x)
    assert np.isinf(k.cov1[1])
    found = REST.kernel_fn(k, None, "nngp")
    whole = stax.serial(FIRST, REST).kernel_fn(x, None, "nngp")
    np.testing.assert_allclose(found, whole, rtol=1e-6)  # whole, pairs beyond the range are float64's


REFUSED = [
    ({"cov1": lambda k: -k.cov1}, ValueError, "cov1 holds variances"),
    ({"nngp": lambda k: 10 * k.nngp}, ValueError, "geometric mean"),
    ({"channel_axis": lambda k: 7}, ValueError, "channel_axis 7"),
    ({"shape1": lambda k: ()}, ValueError, "shape1"),
    ({"exact": lambda k: "x"}, TypeError, "exact must be None"),
    ({"exact": lambda k: dataclasses.replace(k.exact, defect=k.exact.defect[:2])}, ValueError, "defect has shape"),
    ({"exact": lambda k: dataclasses.replace(k.exact, q1=k.exact.q1[:2])}, ValueError, "q1 has shape"),
    ({"exact": lambda k: dataclasses.replace(k.exact, q2=np.ones(99))}, ValueError, "q2 has shape"),
    ({"exact": lambda k: dataclasses.replace(k.exact, defect=k.exact.defect.tolist())}, TypeError, "array of floats"),
    ({"exact": lambda k: dataclasses.replace(k.exact, theta=k.exact.defect.astype(object))}, TypeError, "theta"),
]


@pytest.mark.parametrize(("changes", "error", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_kernel_is_refused_in_words(changes, error, words):
    k = FIRST.kernel_fn(X)
    with pytest.raises(error, match=words):
        REST.kernel_fn(dataclasses.replace(k, **{name: make(k) for name, make in changes.items()}))
