"""
Catapults
=========

Learning rates beyond linear stability: the loss rises, the tangent kernel shrinks, and training ends flatter.

``python examples/catapult.py [picture.png]`` needs ``pip install 'fastntk[plot]'``.
"""

from __future__ import annotations

import sys

import numpy as np
from fastntk import catapult
from fastntk.plot import COLORS, INK
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

N = 10**6  # width of the model
WIDTH = 1024  # of the networks
RATES = {  # eta lambda_0, shade and dash
    1.9: ("#0072b2", "-"),
    2.3: ("#7fcdb1", "-"),
    3.0: ("#2fa37c", (0, (5, 1.5))),
    3.8: ("#00593f", (0, (1.5, 1.2))),
    4.3: ("#d55e00", "-"),
}


def run_of(y):
    return catapult.trajectory(1.0, 1.0, y, N, 80)


def draw_losses(ax):
    """The model from f = 1: two numbers a step."""
    for y, (color, dash) in RATES.items():
        ax.plot(run_of(y).loss, color=color, linestyle=dash, linewidth=2, label=f"{y:.1f}  {catapult.phase(y)}")
    ax.axhline(N, color=INK, linewidth=0.8, alpha=0.6)
    ax.text(59, N * 1.5, "n", ha="right", color=INK)
    ax.set_yscale("log")
    ax.set_ylim(1e-7, 1e8)
    ax.set_xlim(0, 60)
    ax.set_xlabel("step of gradient descent")
    ax.set_ylabel("loss")
    ax.set_title(f"The model at width n = {N:,}")
    ax.legend(frameon=False, title=r"learning rate $\eta\lambda_0$", loc="lower left", fontsize=9)


def draw_path(ax):
    """The catapult in the plane of output and curvature; outside the grey no network exists."""
    ax.fill([-2.45, 0, 2.45], [4.9, 0, 4.9], color=INK, alpha=0.06, linewidth=0)
    for edge, text in ((2, "stable below"), (4, "no return above")):
        ax.axhline(edge, color=INK, linewidth=0.8, linestyle=(0, (5, 3)))
        ax.text(-2.4, edge + 0.05, text, fontsize=9, color=INK)
    for y, (color, dash) in RATES.items():
        run = run_of(y)
        x = y * run.f / np.sqrt(N)
        seen = np.abs(x) < 4
        ax.plot(x[seen], y * run.curvature[seen], "o", color=color, markersize=4, linestyle=dash, linewidth=0.9)
    ax.set_xlim(-2.45, 2.45)
    ax.set_ylim(0, 4.9)
    ax.set_xlabel(r"output, $\eta f / \sqrt{n}$")
    ax.set_ylabel(r"curvature, $\eta\lambda$")
    ax.set_title("Its path: swings grow, curvature drops")


def draw_scan(ax, rng):
    """Networks of width 1024 on 8 samples."""
    x, y = rng.standard_normal((8, 4)), rng.standard_normal(8)
    grid = np.arange(0.4, 6.01, 0.1)
    ax.plot([0, 2, 2.5], [0, 2, catapult.final_curvature(2.5)], color=INK, linewidth=1, label="theory, weak catapults")
    for activation, color, mark in (("linear", COLORS[0], "o"), ("relu", COLORS[1], "s")):
        found = catapult.scan(catapult.TwoLayer(WIDTH, activation), x, y, eta_lambda0=grid, steps=300)
        ends = found.learning_rates * found.final_curvature
        ax.plot(grid, ends, mark, color=color, markersize=4.5, label=f"{activation}, at the end")
        first = found.eta_lambda0[found.diverged].min()
        ax.axvline(first, color=color, linewidth=1.2, linestyle=(0, (2, 2)))
        ax.text(first + 0.05, 0.06, f"{activation}\ndiverges", color=color, fontsize=9)
        print(f"{activation}: loss peaks at {found.peak_loss[~found.diverged].max() / found.initial_loss:.0f} times")
    for edge in (2, 4):
        ax.axvline(edge, color=INK, linewidth=0.8, alpha=0.5)
    ax.axhline(2, color=INK, linewidth=0.8, linestyle=(0, (5, 3)))
    ax.set_xlim(0, 6.6)
    ax.set_ylim(0, 2.3)
    ax.set_xlabel(r"learning rate, $\eta\lambda_0$")
    ax.set_ylabel(r"curvature after training, $\eta\lambda$")
    ax.set_title("Two-layer networks, 8 samples")
    ax.legend(frameon=False, loc="lower left", fontsize=9)


def main(path="catapult.png"):
    figure = Figure(figsize=(16, 4.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    draw_losses(left)
    draw_path(middle)
    draw_scan(right, np.random.default_rng(0))
    figure.savefig(path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
