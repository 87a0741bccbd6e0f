"""Every registered nonlinearity over positions: kernels against their definition, in each form that planes carry."""

from __future__ import annotations

import image_oracle
import pytest
from fastntk import stax
from fastntk.network.activations import NONLINEARITIES
from images_inputs import Dense, Flatten, GlobalAvgPool, conv, images, serial
from test_images import BOTH, check

NETWORKS = {
    "flatten": lambda phi: serial(
        conv(W_std=0.9), phi, conv((2, 2), (1, 2), W_std=0.8), phi, Flatten(), Dense(1, 1.1)
    ),
    "pools": lambda phi: serial(
        conv((2, 3), padding="CIRCULAR", W_std=0.9), phi, stax.AvgPool((2, 2), (2, 1), "SAME"),
        conv(W_std=0.8, b_std=None), phi, GlobalAvgPool(), Dense(1),
    ),
    # the last window reads what lanes have beside positions
    "positions": lambda phi: serial(conv((2, 2), (2, 1), W_std=0.9), phi, conv(W_std=0.8)),
}  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", NONLINEARITIES)
def test_kernels(name, network, dtype, backend):
    make, args = NONLINEARITIES[name]
    net = NETWORKS[network](make(*args))
    x1, x2 = images(3, dtype=dtype), images(2, seed=1, dtype=dtype)
    x2[1] = -x1[0]  # opposite, and at other positions close
    check(net.kernel_fn(x1, x2, BOTH), image_oracle.kernels(net, x1, x2), dtype)
    check(net.kernel_fn(x1, None, BOTH), image_oracle.kernels(net, x1), dtype)
