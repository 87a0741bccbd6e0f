"""
Node-scaled networks
====================

Networks whose nodes have random scales: draws of their kernels, heavy tails, and nodes that keep moving.

``python examples/mogp.py [picture.png]`` needs ``pip install 'fastntk[predict,plot]'``.
"""

from __future__ import annotations

import sys

import numpy as np
from fastntk import mogp, stax
from fastntk.mogp import node_scaling
from fastntk.plot import COLORS, DASHES, INK
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MEASURES = {
    "iid: one Gaussian process": mogp.Iid(2.0),
    r"generalised gamma, $\alpha = 0.5$": mogp.GeneralizedGamma(0.5, mu=2.0),
    "Bernoulli: four nodes on average": mogp.Bernoulli(4.0, 0.5),
    "horseshoe: infinite mean": mogp.Horseshoe(),
}
ANGLES = np.linspace(-np.pi, np.pi, 91)
CIRCLE = np.sqrt(2) * np.column_stack([np.cos(ANGLES), np.sin(ANGLES)])
DRAWS = 3
WIDTHS = (100, 400, 1600, 6400)


def draw_kernels(figure):
    """Kernels between the points of a circle, over their mean variance."""
    for group, (name, measure), color in zip(
        figure.subfigures(1, len(MEASURES)), MEASURES.items(), COLORS, strict=False
    ):
        kernels = mogp.sample_kernels(CIRCLE, [mogp.Layer(measure)] * 2, DRAWS, 200, rng=3)
        group.suptitle(name, fontsize=11, color=color)
        for ax, k in zip(group.subplots(1, DRAWS), kernels, strict=True):
            scale = np.trace(k) / len(k)
            ax.imshow(k / scale if scale else k, cmap="cividis", vmin=0, vmax=3, extent=(-180, 180, 180, -180))
            ax.set_title(f"x {scale:.3g}", fontsize=10)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)


def draw_tails(ax):
    """How large an output gets."""
    levels = np.logspace(-0.5, 2, 60)
    for (name, measure), color, dash in zip(MEASURES.items(), COLORS, DASHES, strict=False):
        outputs = np.abs(mogp.sample_prior(np.ones((1, 1)), [mogp.Layer(measure)], 4, 50_000, 60, rng=2)).reshape(-1)
        share = (outputs[:, None] > levels).mean(axis=0)
        ax.loglog(levels[share > 0], share[share > 0], color=color, linestyle=dash, label=name.split(":")[0])
    ax.loglog(levels, 2 / np.pi * np.arctan(0.5 / levels), ":", color=INK, linewidth=1, label="Cauchy")
    ax.set(xlim=(0.3, 100), ylim=(1e-5, 1), xlabel="u", ylabel=r"$P(|f(x)| > u)$", title="Tails of one output")
    ax.legend(fontsize=8.5, loc="upper right")


def draw_pruning(ax):
    """What is left of the variance where small nodes are cut."""
    eps = np.logspace(-6, 0, 60)
    cases = {
        "iid + beta": mogp.Iid(0.5) + mogp.Beta(0.5),
        "beta": mogp.Beta(1.0),
        r"generalised gamma, $\alpha = 0.5$": mogp.GeneralizedGamma(0.5),
        r"GBFRY, $\alpha = 0.8$": mogp.GBFRY(0.8, 2.0),
    }
    for (name, measure), color, dash in zip(cases.items(), COLORS, DASHES, strict=False):
        lost = [mogp.prune_error(measure, e).fraction for e in eps]
        ax.loglog(eps, lost, color=color, linestyle=dash, label=name)
    ax.set(ylim=(1e-6, 1.5), xlabel=r"nodes pruned: variance below $\epsilon$", ylabel="share of the variance lost")
    ax.set_title("Compressible unless there is a drift")
    ax.legend(fontsize=8.5)


def draw_features(ax):
    """Movement of the first nodes in training, over the width."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 5))
    y = np.sin(2 * x[:, :1])
    atoms = node_scaling.zipf(0.5, 20)
    first = {}
    for gamma, color, dash in zip((0.0, 0.5, 0.9, 1.0), COLORS, DASHES, strict=False):
        moved = []
        for m in WIDTHS:
            networks = [node_scaling.init(m, 5, gamma, atoms, seed, activation=stax.Erf()) for seed in range(3)]
            moved.append(np.mean([node_scaling.train(n, x, y, 0.1, 60).movement[:5].mean() for n in networks]))
        first[gamma] = moved[0]
        ax.loglog(WIDTHS, moved, "o", color=color, linestyle=dash, label=rf"$\gamma = {gamma:g}$")
    half = 0.75 * first[1.0] * (np.array(WIDTHS) / WIDTHS[0]) ** -0.5
    ax.loglog(WIDTHS, half, ":", color=INK, linewidth=1, label=r"$m^{-1/2}$")
    ax.set(xlabel="width m", ylabel="movement of the five largest nodes", title="Lazy at $\\gamma = 1$, else features")
    ax.set_xticks(WIDTHS, [str(m) for m in WIDTHS])
    ax.minorticks_off()
    ax.legend(fontsize=8.5)


def main():
    figure = Figure(figsize=(14, 7.2), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 2.3))
    draw_kernels(top)
    top.supxlabel(
        r"$K(\theta, \theta')$ between the points of a circle over their mean variance, two hidden ReLU layers: "
        "each picture is one infinitely wide network",
        fontsize=10,
    )
    axes = bottom.subplots(1, 3)
    draw_tails(axes[0])
    draw_pruning(axes[1])
    draw_features(axes[2])
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    out = sys.argv[1] if len(sys.argv) > 1 else "mogp.png"
    figure.savefig(out, dpi=110)
    print(f"written: {out}")


if __name__ == "__main__":
    main()
