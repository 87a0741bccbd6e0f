"""Parameterizations: how weights, their initialisation and their learning rates scale with the width.

An abc-parameterization of a network with L hidden layers of width m has weights ``W^l = m^(-a_l) w^l``, ``w^l_ij ~ N(0,
m^(-2 b_l) s_l^2)``, and learning rates ``eta m^(-c_l)``. The exponents decide what training is at infinite width:
unstable, trivial, that of a kernel, or feature learning.

>>> from fastntk import abc
>>> [p.classify() for p in (abc.Parameterization.ntk(3), abc.Parameterization.mup(3), abc.Parameterization.ip(3))]
['kernel', 'feature', 'trivial']
>>> abc.Parameterization.sp(3, c=0).classify()  # one learning rate for all widths
'unstable'

The integrable one, frozen at depth, learns with large first learning rates (IP-LLR). Then it is muP without the
initial weights of its hidden layers:

>>> abc.Parameterization.ip_llr(3).classify()
'feature'

Exponents of everything that moves: predicted by :func:`scaling`, measured on networks by :func:`coordinate_check`.
:func:`init` and :func:`sgd` are small networks in NumPy; :func:`train` trains any network of :mod:`fastntk.stax` under
any parameterization (``pip install 'fastntk[torch]'``). Known limits: :func:`linear_mup_limit`, and
:func:`two_layer_mean_field_flow` (``pip install 'fastntk[predict]'``).

References
----------
Yang and Hu (2021), Feature learning in infinite-width neural networks, arXiv:2011.14522; Hajjar, Chizat and Giraud
(2021), Training integrable parameterizations of deep neural networks in the infinite-width limit, arXiv:2110.15596.
"""

from ..base.door import doors
from .architectures import Training, hidden_layers, train
from .check import CoordinateCheck, PowerLaw, coordinate_check
from .first import first_rate
from .limits import LinearLimit, MeanFieldFlow, linear_mup_limit, two_layer_mean_field_flow
from .network import Activation, Network, init, zero_readout
from .parameterization import REGIMES, Biases, Parameterization, Scaling, scaling
from .training import Run, adam, hybrid_mup, sgd

__all__ = [
    "REGIMES",
    "Activation",
    "Biases",
    "CoordinateCheck",
    "LinearLimit",
    "MeanFieldFlow",
    "Network",
    "Parameterization",
    "PowerLaw",
    "Run",
    "Scaling",
    "Training",
    "adam",
    "coordinate_check",
    "first_rate",
    "hidden_layers",
    "hybrid_mup",
    "init",
    "linear_mup_limit",
    "scaling",
    "sgd",
    "train",
    "two_layer_mean_field_flow",
    "zero_readout",
]

doors(globals())
