"""The one comparison of the accuracy tests, the record of the worst errors it has seen, and a derivative."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tolerances
from oracles import Exact


@dataclass(frozen=True)
class Key:
    """A cell of the accuracy table, for one backend."""

    nonlinearity: str
    quantity: str
    dtype: str
    backend: str


WORST: dict[Key, float] = {}  # what assert_close has measured in this session, failures included
LARGEST_RATIO: dict[tuple[str, str], float] = {}  # error / bound by quantity and dtype


def relative_error(actual: np.ndarray, expected: Exact, scale: Any = 0.0) -> np.ndarray:
    """``|actual - expected| / max(|expected|, scale)``; 0 for equal numbers, infinite for NaN."""
    with np.errstate(all="ignore"):
        error = np.abs((actual.astype(np.float64) - expected.high) - expected.low)
        relative = error / np.maximum(np.abs(expected.high), scale)
    return np.where(error == 0, 0.0, np.where(np.isnan(relative), np.inf, relative))


def note_error(nonlinearity: str, quantity: str, dtype: Any, backend: str, error: float) -> None:
    """An error that was measured, for the accuracy table."""
    key = Key(nonlinearity, quantity, np.dtype(dtype).name, backend)
    WORST[key] = max(WORST.get(key, 0.0), error)


def assert_close(
    actual: Any, expected: Any, quantity: str, dtype: Any, *, scale: Any = 0.0, record: tuple[str, str] | None = None
) -> None:
    """Fail unless ``actual`` has this dtype, the expected shape, and errors within the bound of ``quantity``.

    ``expected`` is :class:`Exact` or anything NumPy turns into float64. ``scale``: see tolerances.py. ``record``: the
    nonlinearity and backend whose cell of the accuracy table this measures.
    """
    dtype = np.dtype(dtype)
    if not isinstance(expected, Exact):
        high = np.asarray(expected, dtype=np.float64)
        expected = Exact(high, np.zeros_like(high))
    if not isinstance(actual, (np.ndarray, np.generic)):
        raise AssertionError(f"{quantity}: a NumPy array or scalar is due, found {type(actual).__name__}")
    if actual.dtype != dtype:
        raise AssertionError(f"{quantity}: dtype {dtype} is due, found {actual.dtype}")
    if actual.shape != expected.high.shape:
        raise AssertionError(f"{quantity}: shape {expected.high.shape} is due, found {actual.shape}")
    if not np.isfinite(expected.high).all():
        raise AssertionError(f"{quantity}: the expected values are not finite")
    if actual.size == 0:
        raise AssertionError(f"{quantity}: nothing to compare")
    errors = relative_error(np.asarray(actual), expected, scale)
    worst = float(errors.max())
    bound = tolerances.bound(quantity, dtype.name)
    if record is not None:
        note_error(record[0], quantity, dtype, record[1], worst)
    ratio = (quantity, dtype.name)
    LARGEST_RATIO[ratio] = max(LARGEST_RATIO.get(ratio, 0.0), worst / bound)
    if not worst <= bound:
        at = np.unravel_index(int(errors.argmax()), errors.shape)
        raise AssertionError(
            f"{quantity} in {dtype}: error {worst:.3g} at {tuple(int(i) for i in at)}, allowed {bound:.3g} "
            f"({np.count_nonzero(errors > bound)} of {errors.size} beyond): "
            f"{np.asarray(actual)[at]!r} for {expected.high[at]!r}"
        )


def geometric_mean_of_diagonals(gram: Exact) -> np.ndarray:
    """``sqrt(K(x, x) K(x', x'))`` for all pairs: the size that an entry is measured by."""
    root = np.sqrt(np.diag(gram.high))
    return root[:, None] * root[None, :]


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal in dtype, shape and every bit."""
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()
    )


def assert_same(found: Any, expected: Any) -> None:
    """Fail unless two rows of arrays are the same, one by one."""
    assert [same(a, b) for a, b in zip(found, expected, strict=True)] == [True] * len(expected)


def five_points(f: Any, h: float = 1e-3) -> Any:
    """The derivative of ``f`` at 0 by differences: h^4 / 30 of the fifth derivative is left."""
    return (f(-2 * h) - 8 * f(-h) + 8 * f(h) - f(2 * h)) / (12 * h)


def script(path: Path) -> Any:
    """A script that is no part of the package, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


def counting_script(name: str) -> Any:
    """A script of bench/ that counts instructions, with the counts that are committed beside it."""
    module = script(Path(__file__).resolve().parent.parent / "bench" / name)
    if not module.RESULT.exists():
        pytest.skip(f"no {module.RESULT.name} beside this source")  # an sdist has no results
    return module
