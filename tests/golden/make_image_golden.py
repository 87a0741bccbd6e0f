"""Write neural_tangents_images.npz: kernels of ``image_networks.py`` by Neural Tangents in float64.

    python tests/golden/make_image_golden.py          # where make_golden.py runs

Behind an odd number of convolutions Neural Tangents gives pairs of spatial axes in reverse, w before h. What is stored
has them in the inputs' order always: (n1, n2, h, h', w, w'), and cov1 (n1, h, h', w, w').
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from image_networks import inputs, networks
from peer import stax, versions


def natural(array: np.ndarray, batch_dims: int, is_reversed: bool) -> np.ndarray:
    """Pairs of spatial axes in the inputs' order."""
    pairs = [(axis, axis + 1) for axis in range(batch_dims, array.ndim, 2)]
    ordered = reversed(pairs) if is_reversed else pairs
    return array.transpose([*range(batch_dims), *(axis for pair in ordered for axis in pair)])


values = {"versions": versions}
for name, (size, (_, _, kernel_fn)) in networks(stax).items():
    x1, x2 = inputs(size)
    for label, other in (("x1, x2", x2), ("x1, x1", None)):
        k = kernel_fn(x1, other)
        found = {field: natural(np.asarray(getattr(k, field)), 2, k.is_reversed) for field in ("nngp", "ntk")}
        if other is not None:
            assert k.diagonal_batch
            found |= {field: natural(np.asarray(getattr(k, field)), 1, k.is_reversed) for field in ("cov1", "cov2")}
            assert found["cov1"].shape[1:] == found["nngp"].shape[2:]
        for field, value in found.items():
            assert value.dtype == np.float64
            values[f"{name}: {field} {label}"] = value
np.savez_compressed(Path(__file__).with_name("neural_tangents_images.npz"), **values)
