"""Image sets as they are published: archives of arrays, IDX files, CIFAR-10's batches; and where they lie."""

from __future__ import annotations

import gzip
import math
import os
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ..base.files import read_npz

Array = npt.NDArray[Any]
Parts = tuple[Array, Array, Array, Array]  # x_train, y_train, x_test, y_test

FOLDER = "FASTNTK_DATA"
# By name: what it is called, and what it may be called where it lies.
NAMED = {
    "mnist": ("MNIST", ("mnist.npz", "MNIST/raw", "mnist")),
    "fashion": (
        "Fashion-MNIST",
        ("fashion_mnist_small.npz", "fashion_mnist.npz", "fashion-mnist.npz", "FashionMNIST/raw", "fashion-mnist"),
    ),
    "cifar10": (
        "CIFAR-10",
        ("cifar10_exact_small.npz", "cifar10.npz", "cifar-10-batches-py", "cifar-10-batches-bin"),
    ),
}
_KEYS = (  # of archives with a training and a test part
    ("x_train", "y_train", "x_test", "y_test"),
    ("X_train", "y_train", "X_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("train_x", "train_y", "test_x", "test_y"),
    ("x_train", "t_train", "x_test", "t_test"),
)
_BYTES = 3073  # of a record of CIFAR-10's binary batches: a label, and 3 planes of 32 x 32
_UNPICKLED = {
    ("numpy", "ndarray"), ("numpy", "dtype"), ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"), ("_codecs", "encode"),
}  # fmt: skip


def find(name: str) -> Path:
    """Where a set of :data:`NAMED` lies: in the folder that FASTNTK_DATA names, or among Keras' downloads.

    Raises
    ------
    ValueError
        It lies in none of them.
    """
    title, files = NAMED[name]
    own = os.environ.get(FOLDER)
    folders = ([Path(own)] if own else []) + [Path.home() / ".keras/datasets"]
    for folder in folders:
        for file in files:
            if (folder / file).exists():
                return folder / file
    where = " or ".join(f"{FOLDER}={f}" if own and f == Path(own) else str(f) for f in folders)
    unset = "" if own else f"; {FOLDER}, which names a folder of one's own, is not set"
    raise ValueError(f"[load] no {title} found: there is no {', '.join(files)} in {where}{unset}")


def keys_of(path: Path) -> tuple[str, ...] | None:
    """Names of the arrays of an archive that has a training and a test part; None where it has others."""
    try:
        with zipfile.ZipFile(path) as archive:
            held = {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return None
    return next((keys for keys in _KEYS if held.issuperset(keys)), None)


def read(path: Path) -> Parts:
    """Training and test part of an archive ``.npz``, or of a folder of IDX files or of CIFAR-10's batches.

    Labels are whole numbers (n,); images have the shape that they are published in, CIFAR-10's with channels last.

    Raises
    ------
    ValueError
        In one sentence that begins with the path: nothing of the kind there, or damaged.
    """
    if path.is_dir():
        for reader in (_idx_folder, _binary_batches, _pickled_batches):
            if (found := reader(path)) is not None:
                return found
        raise ValueError(
            f"{path}: no IDX files (train-images-idx3-ubyte, ..., with or without .gz) and no batches of CIFAR-10 "
            f"(data_batch_1, ..., or .bin) in this folder"
        )
    keys = keys_of(path) or _KEYS[0]
    arrays = read_npz(path, keys)
    x, y, x_test, y_test = (arrays[key] for key in keys)
    return x, _flat_labels(y), x_test, _flat_labels(y_test)


def _flat_labels(y: Array) -> Array:
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y


# ---------------------------------------------------------------- IDX


def _idx_folder(folder: Path) -> Parts | None:
    found = []
    for part in ("train", "t10k"):
        for kind in ("images", "labels"):
            rank = 3 if kind == "images" else 1
            names = [f"{part}-{kind}{dot}idx{rank}-ubyte{end}" for dot in "-." for end in ("", ".gz")]
            path = next((folder / name for name in names if (folder / name).is_file()), None)
            if path is None:
                return None
            found.append(_idx(path))
    return found[0], found[1], found[2], found[3]


def _idx(path: Path) -> Array:
    """An array of bytes: two zeros, 8, the number of axes, their sizes in four bytes each, and the entries."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _idx_array(file)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path}: not a readable IDX file of bytes ({error})") from None


def _idx_array(file: Any) -> Array:
    head = file.read(4)
    if len(head) < 4 or head[:3] != b"\0\0\x08" or not 1 <= head[3] <= 4:
        raise ValueError("it begins otherwise")
    shape = tuple(int.from_bytes(file.read(4), "big") for _ in range(head[3]))
    size = math.prod(shape)
    content = file.read(size + 1)
    if len(content) != size:
        raise ValueError(f"its head says {shape}, it holds {'more' if len(content) > size else 'less'}")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


# ---------------------------------------------------------------- CIFAR-10


def _batches(folder: Path, ending: str) -> list[Path] | None:
    train = [folder / f"data_batch_{k}{ending}" for k in range(1, 6) if (folder / f"data_batch_{k}{ending}").is_file()]
    test = folder / f"test_batch{ending}"
    return [*train, test] if train and test.is_file() else None


def _joined(batches: Sequence[tuple[Array, Array]]) -> Parts:
    """Planes (n, 3072) to images (n, 32, 32, 3); the last batch is the test part."""
    images = [(x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), y) for x, y in batches]
    x, y = (np.concatenate([batch[k] for batch in images[:-1]]) for k in (0, 1))
    return x, y, *images[-1]


def _binary_batches(folder: Path) -> Parts | None:
    paths = _batches(folder, ".bin")
    if paths is None:
        return None
    found = []
    for path in paths:
        content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        if not content.size or content.size % _BYTES:
            raise ValueError(f"{path}: no whole records of {_BYTES} bytes in its {content.size}")
        records = content.reshape(-1, _BYTES)
        found.append((records[:, 1:], records[:, 0]))
    return _joined(found)


class _Plain(pickle.Unpickler):
    """Arrays, numbers, strings, lists and dicts; nothing else is made, and nothing called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _UNPICKLED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _pickled_batches(folder: Path) -> Parts | None:
    paths = _batches(folder, "")
    return None if paths is None else _joined([_unpickled(path) for path in paths])


def _unpickled(path: Path) -> tuple[Array, Array]:
    file: IO[bytes]
    try:
        with path.open("rb") as file:
            held = _Plain(file, encoding="bytes").load()
        images, labels = held[b"data"], np.asarray(held[b"labels"])
    except Exception as error:  # of any bytes
        raise ValueError(f"{path}: not a batch of CIFAR-10 ({type(error).__name__}: {error})") from None
    fits = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape == (len(labels), _BYTES - 1)
    if not fits or labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: not a batch of CIFAR-10, data (n, {_BYTES - 1}) of bytes and n labels")
    return images, labels
