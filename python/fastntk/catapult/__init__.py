"""Catapults: gradient descent at learning rates beyond the linear stability of the tangent kernel.

The model: a linear network of two layers on one sample, ``f = n^(-1/2) v . u`` with target 0, loss ``f^2 / 2``, tangent
kernel ``lambda = (|u|^2 + |v|^2) / n``. Gradient descent with learning rate eta is a map of two numbers, exact at any
width n:

``f' = (1 - eta lambda + eta^2 f^2 / n) f``,
``lambda' = lambda + (eta f^2 / n) (eta lambda - 4)``.

Below ``eta lambda_0 = 2`` the kernel hardly moves and the loss falls (lazy). Between 2 and 4 the loss first grows to
the order of n, which drives lambda below ``2 / eta``, and then falls (catapult). Beyond 4 it diverges: in the second
line, ``eta lambda' - 4 = (eta lambda - 4) (1 + eta^2 f^2 / n)`` keeps its sign. (At 4 exactly ``X = eta f / sqrt(n)``
follows ``X' = X^3 - 3 X``, bounded chaos without end. [Both derived.]) For several samples and ``L = |f - y|^2 /
(2 m)``, lambda is the largest eigenvalue of the tangent kernel, divided by m.

>>> from fastntk import catapult
>>> run = catapult.trajectory(f0=1.0, lambda0=1.0, eta=3.0, n=10_000, steps=60)
>>> run.diverged, bool(run.loss.max() > 100), bool(run.loss[-1] < 1e-6), bool(3.0 * run.curvature[-1] < 2)
(False, True, True, True)

References
----------
Lewkowycz, Bahri, Dyer, Sohl-Dickstein and Gur-Ari (2020), The large learning rate phase of deep learning: the catapult
mechanism, arXiv:2003.02218.
"""

from ..base.door import doors
from .model import Thresholds, Trajectory, final_curvature, phase, step, thresholds, trajectory, two_layer_gd
from .networks import Scan, TwoLayer, scan

__all__ = [
    "Scan",
    "Thresholds",
    "Trajectory",
    "TwoLayer",
    "final_curvature",
    "phase",
    "scan",
    "step",
    "thresholds",
    "trajectory",
    "two_layer_gd",
]

doors(globals())
