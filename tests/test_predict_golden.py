"""``predict`` of Neural Tangents 0.6.5 in float64 (golden/make_predict_golden.py wrote it), by the same calls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fastntk import predict
from golden.predict_cases import NETWORKS, Kernels, arrays, cases

# Of the largest entry of an array: both solve Grams of condition 650 at most, each in its own order.
BOUND = 1e-12

with np.load(Path(__file__).parent / "golden" / "neural_tangents_predict.npz") as file:
    FILE = dict(file)
GRAMS = {name: Kernels(*(FILE[f"gram; {name}; {field}"] for field in Kernels._fields)) for name in NETWORKS}
CASES = cases(predict, GRAMS)


def golden() -> dict[str, np.ndarray]:
    shapes = [tuple(int(n) for n in text.split(",") if n) for text in FILE["shapes"]]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    parts = np.split(FILE["numbers"], ends[:-1])
    return {str(name): part.reshape(shape) for name, part, shape in zip(FILE["names"], parts, shapes, strict=True)}


GOLDEN = golden()


def test_every_value_is_compared():
    assert {name.split(" / ")[0] for name in GOLDEN} == set(CASES)


@pytest.mark.parametrize("kind", sorted({name.split(";")[0] for name in CASES}))
def test_values(kind):
    """Every call of one kind: the same shapes, names of fields and numbers."""
    for name in (name for name in CASES if name.split(";")[0] == kind):
        found = arrays(CASES[name](), name)
        expected = {key: value for key, value in GOLDEN.items() if key.split(" / ")[0] == name}
        assert set(found) == set(expected)
        for key, value in found.items():
            assert value.shape == expected[key].shape, key
            assert value.dtype == np.float64, key
            assert np.max(np.abs(value - expected[key])) <= BOUND * max(np.max(np.abs(expected[key])), 1e-300), key
