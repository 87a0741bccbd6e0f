"""Lazy and feature training of networks, told apart by a scale alpha of the output.

A fully connected network with L hidden layers of width h and tangent-kernel scaling, ``f(w, x) = h^(-1/2) beta . x^L``,
hidden layers ``x^l = sigma(h^(-1/2) W^l x^(l-1))`` (the first ``d^(-1/2) W^1 x``), all weights ``N(0, 1)``, sigma
divided by ``sqrt(E sigma(z)^2)``, predicts ``F(x) = alpha (f(w, x) - f(w_0, x))``. Gradient flow on ``1 / (alpha^2 P)
sum_i l(F(x_i), y_i)`` moves F by ``dF/dt = -(1/P) sum_i Theta(x, x_i) l'_i``: alpha enters through the tangent kernel
Theta alone, and how far this moves depends on ``zt = sqrt(h) alpha``. Large zt: lazy, Theta stands still, up to what
a finite width adds. Small zt: feature training, f grows by about ``sqrt(h)`` and Theta with it.

>>> import numpy as np
>>> from fastntk import lazy_feature
>>> x = np.random.default_rng(0).standard_normal((4, 6))
>>> y = np.array([1, 1, -1, -1])
>>> runs = [lazy_feature.run(x, y, h=64, alpha=zt / 8) for zt in (0.1, 1, 10)]
>>> [bool(run.dtheta > 0.5) for run in runs]
[True, True, False]

Notes
-----
From the papers: the model, the losses, the variable zt, the crossover at ``alpha* ~ h^(-1/2)``, times ``t1 ~ zt``,
fluctuations ``~ h^(-1/2)`` over initialisations, kernel change ``~ zt^(-a)`` in the feature regime with a below 2 that
tends to 2 with depth. Derived: ``a = 2 L / (L + 1)`` for ReLU (f, a product of L + 1 layers, must grow by 1 / zt); in
the lazy regime ``A zt^(-2) + B h^(-1/2) zt^(-1)`` for smooth sigma, of second and first order in the weights' change,
and kinks that add ``(h zt)^(-1/2)`` for ReLU.

References
----------
Geiger, Spigler, Jacot and Wyart (2020), Disentangling feature and lazy training in deep neural networks,
arXiv:1906.08034; Geiger, Petrini and Wyart (2021), Landscape and training regimes in deep learning, arXiv:2012.15110.
"""

from ..base.door import doors
from .flow import run
from .results import Run, Trace, Unfinished
from .scans import AlphaStar, Ensemble, Scan, alpha_star, ensemble, scan

__all__ = ["AlphaStar", "Ensemble", "Run", "Scan", "Trace", "Unfinished", "alpha_star", "ensemble", "run", "scan"]

doors(globals())
