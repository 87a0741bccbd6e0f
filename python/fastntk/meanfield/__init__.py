"""Deep information propagation: how signals, correlations and gradients travel through wide random networks.

The mean field of a network ``z^(l+1) = W phi(z^l) + b``, weights of variance ``sigma_w2 / width``, biases of variance
``sigma_b2``: pre-activations are Gaussian, and a layer is a map of their variance (:func:`q_map`) and of the
correlation of two inputs (:func:`c_map`). ``chi_1`` decides between order, where all inputs become alike, and chaos,
where they become unrelated; on the line between (:func:`critical_line`) deep networks can be trained.

>>> from fastntk import meanfield, stax
>>> round(meanfield.chi1("tanh", 1.3, 0.05), 6)  # ordered
0.880164
>>> meanfield.critical_line(stax.Relu(), sigma_b2=0.0).sigma_w2
2.0

Nonlinearities: those of :mod:`fastntk.stax`, ``"tanh"``, and any smooth function given with its derivative
(:class:`fastntk.quadrature.Smooth`). NumPy alone; :func:`critical_line` at given sigma_b2 needs SciPy.
"""

from typing import NoReturn

from ..base.door import doors
from ..base.names import missing
from .maps import DepthScales, c_map, c_star, chi1, depth_scales, q_map, q_star
from .phases import CriticalLine, PhaseDiagram, critical_line, phase_diagram
from .trajectories import NTKTrajectory, ResNetTrajectory, Trajectory, ntk_trajectory, resnet_trajectory, trajectory

__all__ = [
    "CriticalLine",
    "DepthScales",
    "NTKTrajectory",
    "PhaseDiagram",
    "ResNetTrajectory",
    "Trajectory",
    "c_map",
    "c_star",
    "chi1",
    "critical_line",
    "depth_scales",
    "ntk_trajectory",
    "phase_diagram",
    "q_map",
    "q_star",
    "resnet_trajectory",
    "trajectory",
]


def __getattr__(name: str) -> NoReturn:
    raise missing("fastntk.meanfield", name, __all__)


doors(globals())
