"""The data of the study: a training and a test set of a classification, centred, scaled, whitened."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.checks import integer
from ..base.files import printable
from ..predict import one_hot
from . import archives

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Data:
    """A classification.

    Attributes
    ----------
    name : str
    x_train, x_test : numpy.ndarray (n, d), (m, d) float64
        Finite; other axes are flattened.
    labels_train, labels_test : numpy.ndarray (n,), (m,) intp
        From 0.
    image_shape : tuple of int, or None
        Of a sample whose axes were flattened, with channels: (height, width, channels).
    n_classes : int
        One more than the largest label.

    Raises
    ------
    ValueError
        Shapes that do not fit, labels that are not whole numbers from 0, NaN or infinity, fewer than two classes, equal
        training samples only.
    """

    name: str
    x_train: Array
    labels_train: Array
    x_test: Array
    labels_test: Array
    image_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        what = "Data"
        shape = np.shape(self.x_train)[1:] if self.image_shape is None else tuple(self.image_shape)
        if len(shape) > 1:
            object.__setattr__(self, "image_shape", (*shape, 1) if len(shape) == 2 else shape)
        for part in ("train", "test"):
            x, labels = np.asarray(getattr(self, f"x_{part}")), np.asarray(getattr(self, f"labels_{part}"))
            if x.ndim < 2 or not x.size or labels.shape != (len(x),):
                raise ValueError(f"[{what}] x_{part} (n, ...) and labels (n,) are due, given {x.shape}, {labels.shape}")
            if x.dtype.kind not in "buif" or labels.dtype.kind not in "ui" or labels.min() < 0:
                raise ValueError(f"[{what}] x_{part} holds real numbers and labels are whole numbers from 0")
            flat = x.reshape(len(x), -1).astype(np.float64)
            if not np.isfinite(flat).all():
                raise ValueError(f"[{what}] x_{part} must be finite")
            object.__setattr__(self, f"x_{part}", flat)
            object.__setattr__(self, f"labels_{part}", labels.astype(np.intp))
        if self.x_train.shape[1] != self.x_test.shape[1]:
            raise ValueError(f"[{what}] x_train has {self.x_train.shape[1]} features, x_test {self.x_test.shape[1]}")
        if self.image_shape is not None and math.prod(self.image_shape) != self.x_train.shape[1]:
            raise ValueError(f"[{what}] image_shape {self.image_shape} does not have {self.x_train.shape[1]} numbers")
        if len(np.unique(self.labels_train)) < 2:
            raise ValueError(f"[{what}] the training set has one class only")
        if (self.x_train == self.x_train[0]).all():
            raise ValueError(f"[{what}] all training samples are equal")

    @property
    def n_classes(self) -> int:
        return int(max(self.labels_train.max(), self.labels_test.max())) + 1

    def targets(self) -> tuple[Array, Array]:
        """One-hot, less 1 / n_classes: (n, c) and (m, c)."""
        return one_hot(self.labels_train, self.n_classes), one_hot(self.labels_test, self.n_classes)

    def augmented(self, copies: int, rng: int = 0) -> Data:
        """With copies of the training images behind them, each moved by a pixel in a random direction.

        Pixels that come in from outside are those of the border.

        Parameters
        ----------
        copies : int
            Of each image.
        rng : int
            Seed of the directions.

        Returns
        -------
        Data

        Raises
        ------
        ValueError
            Samples that are no images; copies below 1.
        """
        what = "augmented"
        if self.image_shape is None:
            raise ValueError(f"[{what}] the samples are no images: there is nothing to shift")
        count, draw = integer(what, "copies", copies), np.random.default_rng(integer(what, "rng", rng, least=0))
        images = self.x_train.reshape(-1, *self.image_shape)
        padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        h, w = self.image_shape[:2]
        directions = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
        parts = [self.x_train]
        for _ in range(count):
            chosen = draw.integers(len(directions), size=len(images))
            moved = np.stack([
                padded[k, (i := directions[c][0]) : i + h, (j := directions[c][1]) : j + w]
                for k, c in enumerate(chosen)
            ])  # fmt: skip
            parts.append(moved.reshape(len(images), -1))
        labels = np.tile(self.labels_train, count + 1)
        return replace(self, x_train=np.concatenate(parts), labels_train=labels)

    def inputs(self, zca_eps: float | None = None) -> tuple[Array, Array]:
        """x_train and x_test without the training mean, whitened on request, with a mean square of 1 in training."""
        centre = self.x_train.mean(axis=0)
        train, test = self.x_train - centre, self.x_test - centre
        if zca_eps is not None:
            matrix = zca_matrix(train, zca_eps)
            train, test = train @ matrix, test @ matrix
        scale = math.sqrt(np.mean(train**2))
        return train / scale, test / scale


def zca_matrix(x: Any, eps: float) -> Array:
    """``U (D + eps tr(D) / d I)^(-1/2) U^T``: whitening that turns nothing, regularised.

    ``U D U^T`` is the covariance of the rows of x, divided by their number.

    Parameters
    ----------
    x : array_like (n, d)
    eps : float
        At least 0; 0 needs a covariance of full rank.

    Returns
    -------
    numpy.ndarray (d, d) float64
        Symmetric; rows ``(x - mean) @ matrix`` are whitened.

    Raises
    ------
    ValueError
        NaN, infinity or another shape; eps negative or not finite; a covariance that is 0, or singular with eps = 0.

    References
    ----------
    Lee et al. (2020), arXiv:2007.15801.
    """
    what = "zca_matrix"
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or not x.size or not np.isfinite(x).all():
        raise ValueError(f"[{what}] x must be finite with shape (n, d), given shape {x.shape}")
    if not 0 <= eps < math.inf:
        raise ValueError(f"[{what}] eps must be finite and not negative, given {eps!r}")
    centred = x - x.mean(axis=0)
    d = x.shape[1]
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    variances = s**2 / len(x)
    total = float(variances.sum())
    if not total > 0:
        raise ValueError(f"[{what}] x does not vary")
    floor = eps * total / d  # of the directions in which x does not vary
    least = floor + (variances[-1] if len(variances) == d else 0.0)
    if least <= d * np.finfo(np.float64).eps * (variances[0] + floor):
        raise ValueError(f"[{what}] the covariance is singular: eps must be larger than {eps:g}")
    outside = 0.0 if len(variances) == d else 1 / math.sqrt(floor)
    whitened: Array = (vt.T * (1 / np.sqrt(variances + floor) - outside)) @ vt + outside * np.eye(d)
    return whitened


def load(source: str | Path = "digits", n_train: int = 400, n_test: int = 500, rng: int = 0) -> Data:
    """A random part of a data set.

    Parameters
    ----------
    source : 'digits', 'mnist', 'fashion', 'cifar10', or a path
        scikit-learn's 1,797 digits; MNIST, Fashion-MNIST or CIFAR-10 in the folder that the environment variable
        FASTNTK_DATA names, or where Keras keeps its downloads; an .npz with x_train, y_train, x_test and y_test (Keras'
        ``mnist.npz``) or with x (n, ...) and y (n,) of classes, as ``fastntk demo`` takes them; a folder with the four
        IDX files of MNIST and its kin, or with CIFAR-10's official batches, of Python or binary.
    n_train, n_test : int
        Random samples for training and testing, without repetition; from the set's own parts where it has them.
    rng : int
        Seed of the choice.

    Returns
    -------
    Data

    Raises
    ------
    ValueError
        Another name, nothing of that name found, a file without those arrays, too few samples.
    fastntk.demo.DemoError
        A user's file of x and y that cannot be used.
    ImportError
        ``pip install 'fastntk[demo]'``, for digits and a user's file of x and y.
    """
    what = "load"
    n_train, n_test = integer(what, "n_train", n_train), integer(what, "n_test", n_test)
    draw = np.random.default_rng(integer(what, "rng", rng, least=0))
    if source in archives.NAMED:
        return _parts(archives.NAMED[str(source)][0], archives.find(str(source)), n_train, n_test, draw)
    path = Path(source)
    if path.is_dir() or (path.suffix == ".npz" and archives.keys_of(path) is not None):
        return _parts(printable(f"samples of {path.name}"), path, n_train, n_test, draw)
    if source != "digits" and path.suffix != ".npz":
        raise ValueError(
            f"[{what}] data must be digits, {', '.join(archives.NAMED)}, a file .npz, or a folder of IDX files or of "
            f"CIFAR-10's batches, given {str(source)!r}"
        )
    try:
        from ..demo.data import load_digits, load_npz

        problem = load_digits() if source == "digits" else load_npz(path, "classification")
    except ImportError as error:
        raise ImportError(f"[{what}] {error.name} is missing: pip install 'fastntk[demo]'") from error
    if n_train + n_test > len(problem.x):
        raise ValueError(f"[{what}] {n_train} + {n_test} samples are more than {len(problem.x)} {problem.name}")
    rows = draw.permutation(len(problem.x))
    train, test = rows[:n_train], rows[n_train : n_train + n_test]
    return Data(problem.name, problem.x[train], problem.y[train], problem.x[test], problem.y[test], problem.image_shape)


def _parts(name: str, path: Path, n_train: int, n_test: int, draw: np.random.Generator) -> Data:
    try:
        arrays = archives.read(path)
    except ValueError as error:
        raise ValueError(f"[load] {error}") from None
    found = []
    for part, x, y, count in (("train", *arrays[:2], n_train), ("test", *arrays[2:], n_test)):
        if not x.ndim or y.shape != (len(x),):
            raise ValueError(f"[load] {path}: x_{part} (n, ...) and y_{part} (n,) are due, given {x.shape}, {y.shape}")
        if count > len(x):
            raise ValueError(f"[load] {count} samples asked for, {name}'s {part} part there has {len(x)}")
        rows = draw.permutation(len(x))[:count]
        found += [x[rows], y[rows]]
    return Data(name, found[0], found[1], found[2], found[3])
