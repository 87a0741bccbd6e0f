"""Neural Tangents' ``stax`` and ``predict`` in float64, and what the values are made with.

The package's finite-width half reads JAX internals that newer releases lack; these two need none of it. A bare module
in the package's place lets them be imported without the package's own ``__init__``.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import jax
import numpy as np
import scipy

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_platforms", "cpu")

package = "neural_tangents"
spec = find_spec(package)
if spec is None:
    sys.exit("neural-tangents is not installed")
sys.modules[package] = ModuleType(package)
sys.modules[package].__path__ = list(spec.submodule_search_locations)
from neural_tangents import stax  # noqa: E402 - after the line that makes it importable
from neural_tangents._src import predict  # noqa: E402

# Its one call of SciPy is in the words of releases before 1.14.
predict.sp = SimpleNamespace(
    linalg=SimpleNamespace(eigvalsh=lambda a, eigvals: scipy.linalg.eigvalsh(a, subset_by_index=eigvals))
)

versions = np.array([f"{name} {version(name)}" for name in ("neural-tangents", "jax", "numpy")])

__all__ = ["predict", "stax", "versions"]
