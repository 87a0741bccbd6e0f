"""Dense networks in the words of Neural Tangents' ``stax``, for either library's, and the inputs they are tried on."""

from __future__ import annotations

from typing import Any

import numpy as np


def inputs() -> tuple[np.ndarray, np.ndarray]:
    """Two sets of points, of several lengths, no two nearly parallel."""
    rng = np.random.default_rng(2024)
    x1 = rng.standard_normal((7, 6)) * np.array([0.1, 0.5, 1, 1, 1, 2, 10])[:, None]
    x2 = rng.standard_normal((5, 6)) * np.array([0.3, 1, 1, 1, 4])[:, None]
    return x1, x2


def networks(stax: Any) -> dict[str, Any]:
    """Every layer and every argument that changes a kernel, by name."""
    Dense, serial, parallel = stax.Dense, stax.serial, stax.parallel
    standard = {"parameterization": "standard"}

    def deep(make: Any, depth: int, W_std: float, b_std: float | None) -> Any:
        layers = [Dense(16, W_std, b_std)]
        for _ in range(depth):
            layers += [make(), Dense(16, W_std, b_std)]
        return serial(*layers)

    return {
        "ends in erf": serial(Dense(4, 1.5, 0.3), stax.Erf()),
        "linear": serial(Dense(4, 1.5, 0.3), Dense(2, 0.8, 0.1)),
        "relu, bias": deep(stax.Relu, 3, 1.4, 0.2),
        "relu, no bias, deep": deep(stax.Relu, 12, 2**0.5, None),
        "leaky relu": deep(lambda: stax.LeakyRelu(0.1), 2, 1.3, 0.1),
        "abrelu": deep(lambda: stax.ABRelu(-0.3, 1.2), 3, 1.1, 0.2),
        "abs": deep(stax.Abs, 2, 1.0, 0.3),
        "erf": deep(stax.Erf, 4, 1.5, 0.1),
        "scaled erf": deep(lambda: stax.Erf(1.3, 0.6, 0.4), 2, 1.2, None),
        "standard, bias": serial(
            Dense(32, 1.3, 0.2, **standard),
            stax.Relu(),
            Dense(16, 1.1, 0.0, **standard),
            stax.Erf(),
            Dense(1, 0.9, **standard),
        ),
        "standard, s": serial(
            Dense(32, 1.3, 0.2, s=(1, 3), **standard),
            stax.Relu(),
            Dense(16, 1.2, 0.1, s=(3, 2), **standard),
            stax.Relu(),
            Dense(1, 1.0, 0.3, s=(2, 1), **standard),
        ),
        "both parameterizations": serial(
            Dense(8, 1.2, 0.1), stax.Relu(), Dense(24, 1.1, 0.4, **standard), stax.Abs(), Dense(3, 0.7, 0.2)
        ),
        "residual": serial(
            Dense(8, 1.2, 0.1),
            stax.FanOut(2),
            parallel(serial(stax.Relu(), Dense(8, 1.1, 0.2)), stax.Identity()),
            stax.FanInSum(),
            stax.Erf(),
            Dense(1, 1.3, 0.1),
        ),
        "three branches": serial(
            stax.FanOut(3),
            parallel(
                Dense(8, 0.9, 0.2),
                serial(Dense(5, 1.1), stax.Relu(), Dense(8, 1.3, 0.1)),
                serial(Dense(6, 1.2, 0.3), stax.Erf(), Dense(4), stax.LeakyRelu(0.3), Dense(8, 0.8)),
            ),
            stax.FanInSum(),
            stax.Relu(),
            Dense(1, 2**0.5),
        ),
    }
