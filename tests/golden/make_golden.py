"""Write neural_tangents.npz: kernels of ``networks.py`` by Neural Tangents in float64.

    python tests/golden/make_golden.py          # with neural-tangents 0.6.5 and a JAX that loads its analytic half

The package's finite-width half reads JAX internals that newer releases lack; ``stax`` needs none of it. A bare module
in the package's place lets ``stax`` be imported without the package's own ``__init__``.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
from networks import inputs, networks

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_platforms", "cpu")

package = "neural_tangents"
spec = find_spec(package)
if spec is None:
    sys.exit("neural-tangents is not installed")
sys.modules[package] = ModuleType(package)
sys.modules[package].__path__ = list(spec.submodule_search_locations)
from neural_tangents import stax  # noqa: E402 - after the line that makes it importable

x1, x2 = inputs()
values = {"versions": np.array([f"{name} {version(name)}" for name in ("neural-tangents", "jax", "numpy")])}
for name, (_, _, kernel_fn) in networks(stax).items():
    for label, other in (("x1, x2", x2), ("x1, x1", None)):
        found = kernel_fn(x1, other, ("nngp", "ntk") if other is None else ("nngp", "ntk", "cov1", "cov2"))
        for field, value in found._asdict().items():
            assert value.dtype == np.float64
            values[f"{name}: {field} {label}"] = np.asarray(value)
np.savez_compressed(Path(__file__).with_name("neural_tangents.npz"), **values)
