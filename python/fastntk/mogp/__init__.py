"""Node-scaled networks: each hidden node has its own random scale, and the limit is a mixture of Gaussian processes.

With independent node variances whose sum converges, infinitely wide networks are Gaussian processes only where no node
counts by itself. Otherwise their kernel is random, outputs are heavy-tailed and dependent, nodes can be pruned, and
training moves the nodes that count (Lee et al., arXiv:2205.08187; Caron et al., arXiv:2302.01002).

>>> import numpy as np
>>> from fastntk import mogp, stax
>>> x = np.eye(3)
>>> layers = [mogp.Layer(mogp.Beta(2.0), stax.Relu()), mogp.Layer(mogp.Horseshoe(), stax.Relu())]
>>> mogp.sample_kernels(x, layers, n_samples=10, n_atoms=100, rng=0).shape
(10, 3, 3)

Needs SciPy (the extra ``fastntk[predict]``).
"""

try:
    import scipy as _scipy  # noqa: F401
except ImportError as error:
    raise ImportError("fastntk.mogp needs SciPy (pip install 'fastntk[predict]')") from error

from ..base.door import doors
from ..mogp import node_scaling
from .atoms import Atoms
from .families import Bernoulli, Beta, Horseshoe, Iid, InverseGamma, RegularizedHorseshoe, Stable
from .inference import EffectiveSampleSizeWarning, Posterior, posterior, sample_prior
from .kernels import Layer, PruneError, prune_error, sample_kernels
from .measures import LevyMeasure, Sum
from .pruning import PruningCurve, node_scales, prune, pruning_curve
from .tempered import GBFRY, GeneralizedGamma
from .training import KernelDraws, Network, Training, init, sample_ntk, train

__all__ = [
    "GBFRY",
    "Atoms",
    "Bernoulli",
    "Beta",
    "EffectiveSampleSizeWarning",
    "GeneralizedGamma",
    "Horseshoe",
    "Iid",
    "InverseGamma",
    "KernelDraws",
    "Layer",
    "LevyMeasure",
    "Network",
    "Posterior",
    "PruneError",
    "PruningCurve",
    "RegularizedHorseshoe",
    "Stable",
    "Sum",
    "Training",
    "init",
    "node_scales",
    "node_scaling",
    "posterior",
    "prune",
    "prune_error",
    "pruning_curve",
    "sample_kernels",
    "sample_ntk",
    "sample_prior",
    "train",
]

doors(globals())
