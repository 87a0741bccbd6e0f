"""Finite and infinite networks on real data, side by side.

:func:`finite_vs_infinite` trains ensembles of ReLU networks of several widths, dense or convolutional, by gradient
descent and sets them beside the NNGP and NTK of the infinite network: a base, and one change at a time (centering,
learning rate, L2, parameterization, ZCA, early stopping, augmentation), single and averaged, with the kernels over
their diagonal regularisation and over time. On the command line it is ``fastntk study finite-vs-infinite``. Needs SciPy
(``pip install 'fastntk[predict]'``), convolutional networks PyTorch; digits, files and the picture need the extra
``fastntk[demo]``.

References
----------
Lee et al. (2020), Finite versus infinite neural networks: an empirical study, arXiv:2007.15801.
"""

from ..base.door import doors
from .data import Data, load, zca_matrix
from .experiment import Configuration, Row, Score, Study, finite_vs_infinite, one_at_a_time
from .networks import Ensemble, Trained, draw, empirical_ntk, train
from .whitening import Whitening, choose_zca_eps

__all__ = [
    "Configuration", "Data", "Ensemble", "Row", "Score", "Study", "Trained", "Whitening", "choose_zca_eps", "draw",
    "empirical_ntk", "finite_vs_infinite", "load", "one_at_a_time", "train", "zca_matrix",
]  # fmt: skip

doors(globals())
