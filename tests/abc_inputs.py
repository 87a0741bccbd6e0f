"""Parameterizations for test_abc.py and test_abc_stax.py."""

from __future__ import annotations

import numpy as np
from fastntk import abc
from fastntk.abc import Parameterization

SP, NTK, MUP = Parameterization.sp, Parameterization.ntk, Parameterization.mup
IP, IP_LLR = Parameterization.ip, Parameterization.ip_llr
NAMED = [SP, NTK, MUP, IP, IP_LLR]


def flow(n_particles=4, t=(1.0,), **options):
    return abc.two_layer_mean_field_flow(np.ones((2, 3)), [1, 2], n_particles, t, **options)
