"""Data of the study: archives of other keys, IDX files, CIFAR-10's batches; whitening chosen on held-out samples."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from fastntk import study


def parts(n=30, m=20, shape=(4, 3), classes=3):
    rng = np.random.default_rng(0)
    x, x_test = (rng.integers(0, 256, (k, *shape), dtype=np.uint8) for k in (n, m))
    return x, (np.arange(n) % classes).astype(np.uint8), x_test, (np.arange(m) % classes).astype(np.uint8)


def held(source, given, n=30, m=20):
    """The whole set, which load has permuted, against what was written."""
    found = study.load(source, n, m)
    for x, labels, seen, of in (
        (given[0], given[1], found.x_train, found.labels_train), (given[2], given[3], found.x_test, found.labels_test),
    ):  # fmt: skip
        expected = np.column_stack([np.reshape(x, (len(x), -1)), labels]).astype(float)
        got = np.column_stack([seen, of]).astype(float)
        np.testing.assert_array_equal(got[np.lexsort(got.T)], expected[np.lexsort(expected.T)])
    return found


def idx(path, array, opened=open):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    with opened(path, "wb") as file:
        file.write(head + array.tobytes())


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_test", "y_test"),  # Keras
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("X_train", "y_train", "X_test", "y_test"),
    ],
)
def test_archives_with_both_parts(tmp_path, keys):
    given = parts()
    np.savez(tmp_path / "own.npz", **dict(zip(keys, given, strict=True)))
    found = held(tmp_path / "own.npz", given)
    assert found.name == "samples of own.npz"
    assert found.image_shape == (4, 3, 1)


@pytest.mark.parametrize("gz", [False, True])
def test_idx_files(tmp_path, gz):
    given = parts()
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images.idx3", "t10k-labels.idx1")
    for name, array in zip(names, given, strict=True):
        idx(tmp_path / f"{name}-ubyte{'.gz' * gz}", array, gzip.open if gz else open)
    held(tmp_path, given)
    path = tmp_path / f"t10k-labels.idx1-ubyte{'.gz' * gz}"
    idx(path, given[3][:-1], gzip.open if gz else open)
    with pytest.raises(ValueError, match=r"y_test \(n,\) are due, given \(20, 4, 3\), \(19,\)"):
        study.load(tmp_path, 5, 5)
    path.write_bytes(b"no such thing")
    with pytest.raises(ValueError, match="not a readable IDX file of bytes"):
        study.load(tmp_path, 5, 5)


@pytest.mark.parametrize("kind", ["python", "binary"])
def test_batches_of_cifar10(tmp_path, kind):
    x, y, x_test, y_test = parts(shape=(32, 32, 3), n=24, m=10)
    for name, images, labels in (
        ("data_batch_1", x[:12], y[:12]), ("data_batch_2", x[12:], y[12:]), ("test_batch", x_test, y_test),
    ):  # fmt: skip
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        if kind == "binary":
            (tmp_path / f"{name}.bin").write_bytes(np.column_stack([labels, planes]).tobytes())
        else:
            batch = {b"batch_label": b"of a test", b"labels": labels.tolist(), b"data": planes, b"filenames": [b"a"]}
            (tmp_path / name).write_bytes(pickle.dumps(batch, protocol=2))
    found = held(tmp_path, (x, y, x_test, y_test), 24, 10)
    assert found.image_shape == (32, 32, 3)


def test_a_batch_runs_nothing(tmp_path):
    class Nasty:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    for name in ("data_batch_1", "test_batch"):
        (tmp_path / name).write_bytes(pickle.dumps({b"data": Nasty(), b"labels": [0]}))
    with pytest.raises(ValueError, match="not a batch of CIFAR-10"):
        study.load(tmp_path, 1, 1)
    assert not (tmp_path / "made").exists()


def test_named_sets_are_found_where_keras_keeps_them(tmp_path, monkeypatch):
    monkeypatch.delenv("FASTNTK_DATA", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    with pytest.raises(ValueError, match=r"no MNIST found: there is no mnist\.npz, MNIST/raw"):
        study.load("mnist", 5, 5)
    folder = tmp_path / ".keras/datasets"
    folder.mkdir(parents=True)
    given = parts()
    np.savez(folder / "mnist.npz", **dict(zip(("x_train", "y_train", "x_test", "y_test"), given, strict=True)))
    assert held("mnist", given).name == "MNIST"
    with pytest.raises(ValueError, match="31 samples asked for, MNIST's train part there has 30"):
        study.load("mnist", 31, 5)
    with pytest.raises(ValueError, match="no IDX files"):
        study.load(tmp_path, 5, 5)


def test_whitening_is_chosen_on_held_out_samples():
    """Signal in directions of small variance: whitening finds it; noise there: it must not."""
    rng = np.random.default_rng(1)
    labels = np.arange(240) % 2
    sign = 2.0 * labels - 1
    strong, weak = 30 * rng.standard_normal((240, 8)), 0.3 * rng.standard_normal((240, 1))
    hidden = np.hstack([strong, weak + sign[:, None]])
    shown = np.hstack([strong[:, :1] + 40 * sign[:, None], 0.02 * rng.standard_normal((240, 12))])
    for x, whitened in ((hidden, True), (shown, False)):
        data = study.Data("made", x[:160], labels[:160], x[160:], labels[160:])
        found = study.choose_zca_eps(data, (1e-3, 100.0))
        none, small, large = (share for _, share in found.tried)
        assert found.held_out == 40
        assert found.eps == (1e-3 if whitened else 100.0)
        assert (small > none + 0.1) == whitened
        assert "none: " in str(found)
        assert large == pytest.approx(none, abs=0.1)
        other = study.Data("made", x[:160], labels[:160], x[160:] * 0 + rng.random(x.shape[1]), labels[160:])
        assert study.choose_zca_eps(other, (1e-3, 100.0)) == found  # the test set is not looked at
    with pytest.raises(ValueError, match="grid must have at least one entry"):
        study.choose_zca_eps(data, ())
    with pytest.raises(ValueError, match="7 training samples are too few"):
        study.choose_zca_eps(study.Data("made", x[:7], labels[:7], x[7:], labels[7:]))
