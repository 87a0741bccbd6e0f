"""
The evidence and an optimiser's path
====================================

The evidence of a network's weights and biases, and the way an optimiser takes through it: a picture in seconds.

``python examples/evidence.py [picture.png]`` needs ``pip install 'fastntk[plot]'``.
"""

from __future__ import annotations

import sys

import numpy as np
from fastntk import predict, stax
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from scipy.optimize import minimize

DEPTH, NOISE = 3, 1e-2
NETWORK = stax.serial(*[stax.Dense(1, 1.0, 1.0), stax.Erf()] * DEPTH, stax.Dense(1, 1.0))
PATHS = {which: [p for p in NETWORK.kernel_fn.parameters if p.endswith(which)] for which in ("W_std", "b_std")}
W, B = np.geomspace(0.5, 8, 49), np.geomspace(0.05, 8, 45)
STARTS = ((0.7, 0.1), (6.0, 5.0), (6.0, 0.1))


def data():
    """A step and a wave on a line, 24 points with noise."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(-2, 2, 24))[:, None]
    return x, np.sin(3 * x) + np.sign(x) + 0.1 * rng.standard_normal(x.shape)


def network(stds):
    """All layers share one W_std and one b_std."""
    values = {path: std for which, std in zip(PATHS, stds, strict=True) for path in PATHS[which]}
    return NETWORK.kernel_fn.with_parameters(values)


def evidence(logs, x, y, gradient=True):
    """Minus the log marginal likelihood of exp(logs) = (W_std, b_std), and its gradient: one reverse pass for both."""
    stds = np.exp(logs)
    kernel_fn = network(stds)
    found = predict.log_marginal_likelihood(
        kernel_fn(x, None, "nngp"), y, NOISE, diag_reg_absolute_scale=True, gradient=gradient
    )
    if not gradient:
        return -found.value
    of = kernel_fn.vjp(x, cotangents={"nngp": found.gradient.kernel}, wrt="parameters").parameters
    by_log = [std * sum(of[path] for path in paths) for std, paths in zip(stds, PATHS.values(), strict=True)]
    return -found.value, -np.array(by_log)


def path(start, x, y):
    """What L-BFGS-B visits."""
    seen = [np.log(start)]
    bounds = [np.log((W[0], W[-1])), np.log((B[0], B[-1]))]
    found = minimize(
        evidence, seen[0], (x, y), "L-BFGS-B", True, bounds=bounds, callback=lambda at: seen.append(at.copy())
    )
    print(f"from W_std {start[0]:.1f}, b_std {start[1]:.1f}: ", end="")
    print(f"{found.nfev} evaluations to W_std {np.exp(found.x[0]):.3f}, b_std {np.exp(found.x[1]):.3f}, ", end="")
    print(f"log evidence {-found.fun:.2f}")
    return np.exp(seen)


def main(picture="evidence.png"):
    x, y = data()
    heights = np.array([[-evidence(np.log((w, b)), x, y, gradient=False) for w in W] for b in B])
    paths = [path(start, x, y) for start in STARTS]
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    landscape, fits = figure.subplots(1, 2)
    below = heights.max() - heights + 0.1
    levels = np.geomspace(0.1, below.max(), 24)
    shown = landscape.contourf(W, B, below, levels=levels, norm=LogNorm(), cmap="viridis_r")
    figure.colorbar(shown, ax=landscape, label="log evidence, below the largest", format="%.1f")
    for colour, way in zip(("C1", "C3", "k"), paths, strict=True):
        landscape.plot(*way.T, "o-", color=colour, markersize=3)
        landscape.plot(*way[0], "s", color=colour)
    landscape.set(
        xscale="log", yscale="log", xlabel="W_std of all layers", ylabel="b_std of all layers",
        title="Three starts of L-BFGS-B, with exact gradients",
    )  # fmt: skip
    landscape.minorticks_off()
    for axis, ticks in ((landscape.xaxis, (0.5, 1, 2, 4, 8)), (landscape.yaxis, (0.1, 0.3, 1, 3))):
        axis.set_ticks(ticks, [f"{t:g}" for t in ticks])
    grid = np.linspace(-3, 3, 201)[:, None]
    for stds, colour, name in ((STARTS[0], "C7", "a start"), (paths[0][-1], "C0", "the maximum")):
        kernel_fn = network(stds)
        weights = np.linalg.solve(kernel_fn(x, None, "nngp") + NOISE * np.eye(len(x)), y)
        label = f"{name}: W_std {stds[0]:.2f}, b_std {stds[1]:.2f}"
        fits.plot(grid[:, 0], (kernel_fn(grid, x, "nngp") @ weights)[:, 0], color=colour, label=label)
    fits.plot(x[:, 0], y[:, 0], "k.", label="data")
    fits.set(xlabel="x", ylim=(-3.4, 2.4), title=f"Posterior means, {DEPTH} hidden layers of Erf")
    fits.legend(loc="lower right")
    figure.savefig(picture, dpi=120)
    print(f"wrote {picture}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
