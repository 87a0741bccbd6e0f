"""Write neural_tangents_ode.npz: the calls of ``ode_cases.py`` by Neural Tangents in float64.

python tests/golden/make_ode_golden.py          # with neural-tangents 0.6.5 and a JAX that loads its analytic half
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from networks import networks
from ode_cases import NETWORK, arrays, cases, points
from peer import predict, stax, versions

# Its equations, integrated more finely than it asks for: to 1.4e-8 a step, which is all that its own results hold.
predict.ode.odeint = partial(predict.ode.odeint, rtol=1e-13, atol=1e-13)


def loss(name: str, axes: Any) -> tuple[Any, dict]:
    def cross_entropy(fx: Any, y: Any) -> Any:
        return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(fx, axes), axes))

    written = {
        "mse": lambda fx, y: jnp.mean((fx - y) ** 2) / 2,
        "cross_entropy": cross_entropy,
        "log cosh": lambda fx, y: jnp.mean(jnp.log(jnp.cosh(fx - y))),
    }
    return written[name], {}


gram = np.array(networks(stax)[NETWORK][2](points, None, "ntk"))
results = {}
for name, call in cases(predict, gram, loss).items():
    results.update(arrays(call(), name))
for name, value in results.items():
    assert value.dtype == np.float64, name
    assert np.isfinite(value).all(), name
# One array of all numbers: an entry for each call would be mostly headers.
np.savez_compressed(
    Path(__file__).with_name("neural_tangents_ode.npz"),
    versions=versions,
    gram=gram,
    names=np.array(list(results)),
    shapes=np.array([",".join(map(str, value.shape)) for value in results.values()]),
    numbers=np.concatenate([value.reshape(-1) for value in results.values()]),
)
