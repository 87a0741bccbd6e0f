"""Pairs of rows so near to each other, or to opposite ones, that a network may pull apart what float32 rounds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

NEAR = 0.004  # 1 - |rho|: of others what float32 does not see of a difference is below 1e-6 of it


def near_pairs(x1: Array, x2: Array) -> npt.NDArray[np.bool_]:
    """Which pairs of rows, (n1, d) and (n2, d) in float64, have ``1 - |rho| < 0.004``, but for copies."""
    found = np.zeros((len(x1), len(x2)), np.bool_)
    with np.errstate(all="ignore"):
        a, c = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (x1, x2))
        product = a.astype(np.float32) @ c.astype(np.float32).T
        for i, j in np.argwhere(np.abs(product) > 1 - 1.1 * NEAR).tolist():  # whatever a product's rounding is
            defect = np.square(a[i] - math.copysign(1.0, product[i, j]) * c[j]).sum() / 2
            found[i, j] = bool(defect < NEAR) and not np.array_equal(x1[i], x2[j])
    return found
