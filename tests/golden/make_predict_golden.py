"""Write neural_tangents_predict.npz: the calls of ``predict_cases.py`` by Neural Tangents in float64.

python tests/golden/make_predict_golden.py          # with neural-tangents 0.6.5 and a JAX that loads its analytic half
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from networks import networks
from peer import predict, stax, versions
from predict_cases import NETWORKS, Kernels, arrays, cases, points

values = {"versions": versions}
grams = {}
for name in NETWORKS:
    found = networks(stax)[name][2](points, None, ("nngp", "ntk"))
    grams[name] = Kernels(*(np.array(k) for k in found))
    for field, value in grams[name]._asdict().items():
        values[f"gram; {name}; {field}"] = value
results = {}
for name, call in cases(predict, grams).items():
    results.update(arrays(call(), name))
for name, value in results.items():
    assert value.dtype == np.float64, name
    assert np.isfinite(value).all(), name
# One array of all numbers: an entry for each call would be mostly headers.
values["names"] = np.array(list(results))
values["shapes"] = np.array([",".join(map(str, value.shape)) for value in results.values()])
values["numbers"] = np.concatenate([value.reshape(-1) for value in results.values()])
np.savez_compressed(Path(__file__).with_name("neural_tangents_predict.npz"), **values)
