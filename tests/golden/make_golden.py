"""Write neural_tangents.npz: kernels of ``networks.py`` by Neural Tangents in float64.

python tests/golden/make_golden.py          # with neural-tangents 0.6.5 and a JAX that loads its analytic half
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from networks import inputs, networks
from peer import stax, versions

x1, x2 = inputs()
values = {"versions": versions}
for name, (_, _, kernel_fn) in networks(stax).items():
    for label, other in (("x1, x2", x2), ("x1, x1", None)):
        found = kernel_fn(x1, other, ("nngp", "ntk") if other is None else ("nngp", "ntk", "cov1", "cov2"))
        for field, value in found._asdict().items():
            assert value.dtype == np.float64
            values[f"{name}: {field} {label}"] = np.asarray(value)
np.savez_compressed(Path(__file__).with_name("neural_tangents.npz"), **values)
