"""Training in closed form: the loss of the infinite network after any number of steps of gradient descent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..predict import gradient_descent_mse, max_learning_rate
from ..predict.evidence import GRID
from .data import Array

MAX_STEPS = 10**6
TIMES = 37


@dataclass(frozen=True)
class Training:
    """The mean of an infinite ensemble while it trains on the mean squared error, from outputs of 0.

    Attributes
    ----------
    steps : numpy.ndarray (t,)
        Of gradient descent at half of the largest learning rate.
    train_loss, test_loss : numpy.ndarray (t,)
        ``|f - y|^2 / (2 |y|)``.
    score : numpy.ndarray (t,)
        On the test set: accuracy, or root mean squared error in y's unit.
    seconds : float
        For all of them.
    """

    steps: Array
    train_loss: Array
    test_loss: Array
    score: Array
    seconds: float

    @property
    def best(self) -> int:
        """Index of the least test loss."""
        return int(np.argmin(self.test_loss))


def train(
    k: Array, cross: Array, y: Array, y_test: Array, score: Callable[[Array], float], clock: Callable[[], float]
) -> Training:
    """Train without a penalty on the distance from the start.

    Parameters
    ----------
    k : numpy.ndarray (n, n)
        Kernel of the training points: the NTK where all weights are trained, the NNGP where the last layer is.
    cross : numpy.ndarray (m, n)
        Between test and training points.
    y, y_test : numpy.ndarray (n, o), (m, o)
    score : callable
        Of predictions (m, o).
    clock : callable
        Seconds.

    Returns
    -------
    Training
    """
    start = clock()
    steps = np.unique(np.geomspace(1, MAX_STEPS, TIMES).round())
    # As little on the diagonal as keeps copies of a point apart from rounding.
    predict_fn = gradient_descent_mse(k, y, max_learning_rate(k, y.size) / 2, min(GRID), discrete=True)
    train_mean, test_mean = predict_fn(steps, 0.0, 0.0, cross)
    losses = [0.5 * np.mean((mean - truth) ** 2, axis=(1, 2)) for mean, truth in ((train_mean, y), (test_mean, y_test))]
    scores = np.array([score(mean) for mean in test_mean])
    return Training(steps, losses[0], losses[1], scores, clock() - start)
