"""
Parameterizations
=================

Which parameterization learns at infinite width, and which learns features: a picture in a few seconds.

``python examples/abc.py [picture.png]`` needs ``pip install 'fastntk[plot]'``.
"""

from __future__ import annotations

import sys

import numpy as np
from fastntk import abc
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

P = abc.Parameterization
L = 3
WIDTHS = (64, 128, 256, 512, 1024)
# One step; learning rates small enough for the leading power of the width, large for IP-LLR.
CHECKS = ((P.sp(L, c=0), 1e-4), (P.ntk(L), 0.01), (P.mup(L), 0.01), (P.ip_llr(L), 0.3), (P.ip(L), 0.01))
COLOURS = {"SP": "C3", "NTK": "C0", "muP": "C2", "IP-LLR": "C1", "IP": "C4"}


def label(p):
    return "SP, c = 0" if p.name == "SP" else p.name


def coordinate_checks(outputs, features):
    """How far one step moves the output and the last hidden layer, over widths."""
    for p, lr in CHECKS:
        check = abc.coordinate_check(p, WIDTHS, y=10.0, lr=lr, draws=6)
        print(f"{label(p):10} L = {L}: {p.classify():8} df ~ m^{check.df.exponent:+.2f}, ", end="")
        print(f"dh ~ m^{check.dh.exponent[-1]:+.2f}")
        for ax, values, exponent in (
            (outputs, check.df.values, check.df.exponent),
            (features, check.dh.values[:, -1], check.dh.exponent[-1]),
        ):
            ax.loglog(
                WIDTHS, values / values[0], "o-", color=COLOURS[p.name], label=f"{label(p)}: $m^{{{exponent:+.2f}}}$"
            )
    for ax, what in ((outputs, "output"), (features, "last hidden layer")):
        ax.set(xlabel="width m", ylabel="change, relative to the least width", title=f"One step moves the {what}")
        ax.set_xticks(WIDTHS, [str(m) for m in WIDTHS])
        ax.minorticks_off()
        ax.set_ylim(0.012, 40)
        ax.legend(loc="lower left")


def losses(ax):
    """Deep networks of one width: which of them learn."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 10)), np.array([1.0, -1.0, 1.0, -1.0])
    large_first = [3.0] + [0.05] * 49
    for p, lr in ((P.ntk(4), 0.05), (P.mup(4), 0.05), (P.ip_llr(4), large_first), (P.ip(4), 0.05)):
        run = abc.sgd(abc.init(p, 512, 10, rng=1), x, y, lr, 50)
        ax.plot(run.losses, color=COLOURS[p.name], label=f"{p.name}: {p.classify()}")
    ax.set(xlabel="step", ylabel="loss", title="4 hidden layers of width 512", ylim=(0, None))
    ax.legend()


def linear_limit(ax):
    """Networks against their exact limit."""
    limit = abc.linear_mup_limit([[1.0]], [2.0], lr=0.1, steps=20)
    for m, colour in ((30, "0.8"), (1000, "C0")):
        for seed in range(5):
            run = abc.sgd(abc.init(P.mup(1), m, 1, seed, activation="linear"), [[1.0]], [2.0], 0.1, 20)
            ax.plot(run.outputs[:, 0, 0], color=colour, lw=1, label=None if seed else f"m = {m}")
    ax.plot(limit.outputs[:, 0, 0], "k--", label="infinite width")
    ax.axhline(2, color="C3", lw=0.8, label="target")
    ax.set(xlabel="step", ylabel="output", title="A linear network under muP", xticks=range(0, 21, 5))
    ax.legend()


def main(path="abc.png"):
    figure = Figure(figsize=(12, 8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    (outputs, features), (training, limit) = figure.subplots(2, 2)
    coordinate_checks(outputs, features)
    losses(training)
    linear_limit(limit)
    figure.savefig(path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
