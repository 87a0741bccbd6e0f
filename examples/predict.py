"""
Predictions on one input
========================

What an infinitely wide network predicts, on one input: a picture in a few seconds.

``python examples/predict.py [picture.png]`` needs ``pip install 'fastntk[predict,plot]'``.
"""

from __future__ import annotations

import sys

import numpy as np
from fastntk import plot, predict, stax
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

NOISE = 0.1


def target(x):
    return np.sin(3 * x + 1) + 0.5 * x


def draw_data(n, rng):
    """Training points with a gap between -0.3 and 0.6."""
    x = rng.uniform(-2, 2, 4 * n)
    x = x[(x < -0.3) | (x > 0.6)][:n, None]
    return x, target(x) + NOISE * rng.standard_normal((n, 1))


def network(depth, W_std, b_std):
    return predict.fully_connected(depth, W_std, b_std, stax.Erf())


def main(path="predict.png"):
    rng = np.random.default_rng(0)
    x, y = draw_data(30, rng)
    grid = np.linspace(-3, 3, 301)[:, None]
    figure = Figure(figsize=(12, 8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    (band, curves), (eigenvalues, learning) = figure.subplots(2, 2)

    # Exact inference: depth, weights, biases and noise of the largest evidence, then the posterior.
    found = predict.fit(network, x, y, b_std=(0.01, 30))
    print(f"fit: depth {found.depth}, W_std {found.W_std:.2f}, b_std {found.b_std:.2f},", end=" ")
    print(f"noise {found.noise_variance**0.5:.3f} (true: {NOISE})")
    posterior = found.posterior(grid, compute_cov=True)
    draws = predict.sample(posterior, 5, rng)
    plot.posterior_band(grid, posterior, train=(x, y), draws=draws, label="NNGP", ax=band)
    band.set_title("Posterior of the infinite network")

    # Training by gradient descent: mean and spread over random starts, at every time.
    points = np.array([[-1.0], [0.15], [1.0]])
    ensemble = predict.gradient_descent_mse_ensemble(found.kernel_fn, x, y, diag_reg=found.diag_reg)
    t = np.concatenate([[0], np.geomspace(1e-2, 1e5, 120)])
    trained = ensemble(t, points, "ntk", "diagonal")
    final = ensemble(None, points, "ntk")
    labels = [f"x = {v:g}" for v in points[:, 0]]
    plot.training_curves(
        t, trained.mean[..., 0], np.sqrt(trained.covariance), limit=final[:, 0], labels=labels, ylabel="prediction",
        ax=curves,
    )  # fmt: skip
    curves.set_title("Trained by gradient descent (NTK)")

    # Why noise has to be told apart from signal: eigenvalues fall below rounding.
    k = found.kernel_fn(rng.uniform(-2, 2, (400, 1)), None, ("nngp", "ntk"))
    plot.spectrum(k.nngp, label="NNGP", ax=eigenvalues)
    plot.spectrum(k.ntk, label="NTK", ax=eigenvalues)
    eigenvalues.set_title("Spectra, 400 points")

    # More data, better predictions.
    sizes = [8, 16, 32, 64, 128]
    test = np.linspace(-2, 2, 200)[:, None]
    errors = {"nngp": np.empty((len(sizes), 10)), "ntk": np.empty((len(sizes), 10))}
    for row, n in enumerate(sizes):
        for repeat in range(10):
            few, values = draw_data(n, rng)
            model = predict.gradient_descent_mse_ensemble(found.kernel_fn, few, values, diag_reg=found.diag_reg)
            for name, mean in model(None, test)._asdict().items():
                errors[name][row, repeat] = np.sqrt(np.mean((mean - target(test)) ** 2))
    for name, error in errors.items():
        plot.learning_curve(sizes, error, label=name.upper(), ylabel="RMSE", ax=learning)
    learning.set_title("Learning curve")
    figure.savefig(path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
