"""Finite and infinite networks on real data, side by side."""

from .data import Data, load, zca_matrix
from .experiment import Configuration, Row, Score, Study, finite_vs_infinite, one_at_a_time
from .networks import Ensemble, Trained, draw, empirical_ntk, train

__all__ = [
    "Configuration", "Data", "Ensemble", "Row", "Score", "Study", "Trained", "draw", "empirical_ntk",
    "finite_vs_infinite", "load", "one_at_a_time", "train", "zca_matrix",
]  # fmt: skip
