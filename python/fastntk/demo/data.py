"""The data of the demo: scikit-learn's digits or a user's ``.npz``, checked, split and standardised."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.files import printable, read_npz

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

MIN_SAMPLES = 10
# Flat rows are taken for images from this side on: below it, a square number of features says little.
MIN_SIDE = 8
MAX_FLOAT_CLASSES = 20
LARGEST = 1e100  # squares stay finite


class DemoError(Exception):
    """Data or arguments that the demo cannot use; the message is one line for the user."""


@dataclass(frozen=True)
class Problem:
    """Samples and what to predict.

    Attributes
    ----------
    name : str
        What the samples are, as in '1,797 handwritten digits'.
    x : numpy.ndarray (n, d) float64
    y : numpy.ndarray (n,)
        intp class codes, or float64 targets.
    classes : tuple of str, or None
        Names by code; None for a regression.
    image_shape : tuple of int, or None
        (height, width) or (height, width, colours) of a row of x.
    """

    name: str
    x: Array
    y: npt.NDArray[Any]
    classes: tuple[str, ...] | None
    image_shape: tuple[int, ...] | None = None

    def take(self, rows: Index) -> Problem:
        """The problem of some rows."""
        return replace(self, x=self.x[rows], y=self.y[rows])


def load_digits(images: bool = True) -> Problem:
    """1,797 handwritten digits of 8 x 8 pixels, bundled with scikit-learn.

    Parameters
    ----------
    images : bool
        Whether to treat the rows as images.

    Returns
    -------
    Problem
        Ten classes; pixels 0 to 16.

    References
    ----------
    Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI repository (its test part).
    """
    from sklearn.datasets import load_digits as bundled

    digits = bundled()
    x = np.asarray(digits.data, dtype=np.float64)
    y = np.asarray(digits.target, dtype=np.intp)
    names = tuple(str(name) for name in digits.target_names)
    return Problem("handwritten digits", x, y, names, digits.images.shape[1:] if images else None)


def load_npz(path: Path, task: str = "auto", images: bool = True) -> Problem:
    """Read and check x and y.

    Parameters
    ----------
    path : pathlib.Path
        A NumPy archive with arrays x (n, ...) of numbers and y (n,) or (n, 1). Objects are not unpickled; arrays that
        memory cannot hold are not read.
    task : {'auto', 'classification', 'regression'}
        'auto': y of integers, bool or strings is classes; floats too if they are whole numbers with at most 20
        different values; other floats are a regression target.
    images : bool
        Whether rows that look like images (an axis for height and width, or a square number of features) are.

    Returns
    -------
    Problem

    Raises
    ------
    DemoError
        No such file, no archive, encrypted or damaged arrays, x or y missing or of a wrong dtype or shape, NaN or
        infinity, fewer than 10 samples, a single class, or nearly as many classes as samples.
    """
    try:
        arrays = read_npz(path, ("x", "y"))
    except ValueError as error:
        raise DemoError(str(error)) from None
    x, y = arrays["x"], arrays["y"]
    if x.dtype.kind not in "buif":
        raise DemoError(f"{path}: x must hold real numbers, its dtype is {x.dtype}")
    if x.ndim < 2:
        raise DemoError(f"{path}: x must have shape (samples, features) or more axes, given {x.shape}")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DemoError(f"{path}: y must have shape (samples,), given {y.shape}")
    if len(x) != len(y):
        raise DemoError(f"{path}: x has {len(x)} samples, y has {len(y)}")
    if len(x) < MIN_SAMPLES:
        raise DemoError(f"{path}: {len(x)} samples; at least {MIN_SAMPLES} are needed")
    flat = x.reshape(len(x), math.prod(x.shape[1:])).astype(np.float64)
    if flat.shape[1] == 0:
        raise DemoError(f"{path}: x has no features, its shape is {x.shape}")
    _check_values(path, "x", flat)
    if (flat == flat[0]).all():
        raise DemoError(f"{path}: all samples of x are equal")
    values, classes = _targets(path, y, task)
    return Problem(
        printable(f"samples of {path.name}"), flat, values, classes, _image_shape(x.shape) if images else None
    )


def _check_values(path: Path, name: str, rows: Array) -> None:
    if bad := int(np.sum(~np.isfinite(rows).all(axis=1))):
        raise DemoError(f"{path}: {name} has NaN or infinity in {bad} of {len(rows)} samples")
    if (largest := float(np.abs(rows).max())) > LARGEST:
        raise DemoError(f"{path}: {name} reaches {largest:.0e}; values up to {LARGEST:.0e} can be used")


def _targets(path: Path, y: npt.NDArray[Any], task: str) -> tuple[npt.NDArray[Any], tuple[str, ...] | None]:
    """Codes and class names, or floats and None."""
    if y.dtype.kind not in "buifSU":
        raise DemoError(f"{path}: y must hold integers, strings or real numbers, its dtype is {y.dtype}")
    numeric = y.dtype.kind not in "SU"
    if y.dtype.kind == "f":
        _check_values(path, "y", y.astype(np.float64)[:, None])
    if task == "regression" and not numeric:
        raise DemoError(f"{path}: y holds strings, which cannot be a regression target")
    names, codes = np.unique(y, return_inverse=True)
    if y.dtype.kind == "f":
        is_classes = len(names) <= MAX_FLOAT_CLASSES and bool((names == np.rint(names)).all())
    else:
        is_classes = True
    if len(names) == 1:
        raise DemoError(f"{path}: y has one value only, {_name(names[0])}; there is nothing to predict")
    if task == "regression" or (task == "auto" and not is_classes):
        return y.astype(np.float64), None
    if 2 * len(names) > len(y):
        raise DemoError(f"{path}: {len(names)} classes for {len(y)} samples; for a regression, add --task regression")
    return codes.astype(np.intp).reshape(-1), tuple(_name(name) for name in names)


def _name(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return f"{value:g}" if isinstance(value, np.floating) else printable(str(value))


def _image_shape(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """(height, width[, colours]) of samples with this array shape."""
    if len(shape) == 2:
        side = math.isqrt(shape[1])
        return (side, side) if side * side == shape[1] and side >= MIN_SIDE else None
    if len(shape) == 3:
        return shape[1:]
    if len(shape) == 4 and shape[3] in (1, 3):
        return shape[1:3] if shape[3] == 1 else shape[1:]
    return None


def subsample(problem: Problem, limit: int, seed: int) -> Problem:
    """At most ``limit`` random samples, in their order; DemoError when they have one target value only."""
    if len(problem.x) <= limit:
        return problem
    rows = np.sort(np.random.default_rng(seed).permutation(len(problem.x))[:limit])
    part = problem.take(rows)
    if (part.y == part.y[0]).all():
        raise DemoError(f"{limit} random {problem.name} have one value of y only; raise --max-samples")
    if part.classes is None:
        return part
    # A rare class may be gone.
    found, codes = np.unique(part.y, return_inverse=True)
    return replace(part, y=codes.astype(np.intp).reshape(-1), classes=tuple(part.classes[k] for k in found))


def split(problem: Problem, test_fraction: float, rng: np.random.Generator) -> tuple[Index, Index]:
    """Random rows for training and testing.

    Parameters
    ----------
    problem : Problem
    test_fraction : float in (0, 1)
        Share of each class (of all samples in a regression) held out; every class keeps one sample to train on.
    rng : numpy.random.Generator

    Returns
    -------
    tuple of numpy.ndarray (n_train,), (n_test,), sorted intp
    """
    groups = [np.arange(len(problem.y))]
    if problem.classes is not None:
        groups = [np.flatnonzero(problem.y == code) for code in range(len(problem.classes))]
    test = []
    for rows in groups:
        count = min(round(test_fraction * len(rows)), len(rows) - 1)
        test.append(rng.permutation(rows)[:count])
    held = np.sort(np.concatenate(test))
    return np.setdiff1d(np.arange(len(problem.y)), held), held


def standardise(problem: Problem, train: Index) -> Array:
    """x with mean 0 and variance 1, both measured on the training rows.

    Images share one variance over their pixels, so that the dark border does not turn into noise; other features have
    one each. Returns (n, d) float64.
    """
    rows = problem.x[train]
    centre = rows.mean(axis=0)
    scale = np.sqrt(np.mean((rows - centre) ** 2, axis=None if problem.image_shape else 0))
    standard: Array = (problem.x - centre) / np.where(scale > 0, scale, 1.0)
    return standard
