"""
Lazy and feature training
=========================

When does a network learn features? Its kernel's change goes by sqrt(h) alpha: a picture in seconds.

``python examples/lazy_feature.py [picture.png]`` needs ``pip install 'fastntk[plot]'``.
"""

from __future__ import annotations

import sys

import numpy as np
from fastntk import lazy_feature
from fastntk.plot import COLORS, INK
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WIDTHS = (32, 128, 512)
ALPHA = np.logspace(-3, 1.5, 10)
ZT = np.logspace(-2, 2, 9)
MARKS = ("o", "s", "^")


def samples(rng, count=10, d=6):
    """On a sphere, with random labels."""
    x = rng.standard_normal((count, d))
    return x * np.sqrt(d) / np.linalg.norm(x, axis=1, keepdims=True), np.sign(rng.standard_normal(count))


def draw_change(apart, collapsed, x, y):
    found = lazy_feature.scan(x, y, WIDTHS, ALPHA, draws=2, progress=True)
    change = np.exp(np.log(found.dtheta).mean(axis=-1))
    for i, h in enumerate(WIDTHS):
        style = {"color": COLORS[i], "marker": MARKS[i], "markersize": 5, "linewidth": 1.2, "label": f"h = {h}"}
        apart.loglog(found.alpha[i], change[i], **style)
        collapsed.loglog(found.zt[i], change[i], **style)
    zt = np.array([0.02, 0.3])
    collapsed.loglog(zt, 1.5 / zt, color=INK, linewidth=1, linestyle=(0, (5, 3)))
    collapsed.text(0.022, 7, "slope -1", color=INK, fontsize=9)
    collapsed.axvspan(1, 10, color=INK, alpha=0.06, linewidth=0)
    low = change.min() * 1.2
    collapsed.text(0.07, low, "features", color=INK, ha="center")
    collapsed.text(60, 20, "lazy", color=INK, ha="center")
    for ax, label in ((apart, r"scale $\alpha$"), (collapsed, r"$\sqrt{h}\,\alpha$")):
        ax.set_xlabel(label)
        ax.set_ylabel(r"kernel change $\|\Theta - \Theta_0\| / \|\Theta_0\|$")
        ax.legend(frameon=False)
    apart.set_title("ReLU, one hidden layer, after training")
    collapsed.set_title(r"The same over $\sqrt{h}\,\alpha$")


def draw_depths(ax, x, y):
    """Deeper networks change their kernels more; the dashed slopes are the theory's."""
    for L in (1, 2, 3):
        found = lazy_feature.scan(x, y, (64,), zt_grid=ZT, L=L, draws=2, progress=True)
        change = np.exp(np.log(found.dtheta[0]).mean(axis=-1))
        slope = 2 * L / (L + 1)
        ax.loglog(ZT, change, marker=MARKS[L - 1], color=COLORS[L - 1], markersize=5, label=f"L = {L}")
        near = ZT[ZT < 0.2]
        ax.loglog(near, 1.5 * change[0] * (near / ZT[0]) ** -slope, color=COLORS[L - 1], linestyle=(0, (5, 3)))
        measured = np.log(change[1] / change[0]) / np.log(ZT[1] / ZT[0])
        print(f"L = {L}: slope {measured:.2f}, theory {-slope:.2f}")
    ax.set_xlabel(r"$\sqrt{h}\,\alpha$")
    ax.set_ylabel("kernel change")
    ax.set_title("Depth, h = 64; dashed: $-2L / (L + 1)$")
    ax.legend(frameon=False)


def main(path="lazy_feature.png"):
    figure = Figure(figsize=(16, 4.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    x, y = samples(np.random.default_rng(1))
    draw_change(left, middle, x, y)
    draw_depths(right, x, y)
    figure.savefig(path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
