"""
Order and chaos
===============

Order and chaos in wide random networks: a phase diagram, correlations with depth, and what becomes of the NTK.

``python examples/meanfield.py [picture.png]`` needs ``pip install 'fastntk[predict,plot]'``.
"""

from __future__ import annotations

import sys

import numpy as np
from fastntk import meanfield
from fastntk.plot import COLORS, DASHES, INK
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

SIGMA_B2 = 0.05
CRITICAL = meanfield.critical_line("tanh", sigma_b2=SIGMA_B2).sigma_w2
POINTS = {"ordered": 1.3, "critical": CRITICAL, "chaotic": 2.5}
DEPTH = 40
STARTS = np.array([0.05, 0.9])  # correlations at the first layer
WIDTH, NETWORKS = 500, 8


def random_network(sigma_w2, rng):
    """Correlations through one tanh network, of two inputs with a third: (DEPTH + 1, 2)."""
    q = meanfield.q_star("tanh", sigma_w2, SIGMA_B2)
    basis = np.linalg.qr(rng.standard_normal((WIDTH, 3)))[0] * np.sqrt(WIDTH * q)
    (a, b), (r, s) = STARTS, np.sqrt(1 - STARTS**2)
    z = basis @ np.array([[1, a, b], [0, r, 0], [0, 0, s]])
    found = []
    for _ in range(DEPTH + 1):
        size = np.linalg.norm(z, axis=0)
        found.append(z[:, 0] @ z[:, 1:] / (size[0] * size[1:]))
        weights = rng.standard_normal((WIDTH, WIDTH), dtype=np.float32) * np.sqrt(sigma_w2 / WIDTH)
        z = weights @ np.tanh(z) + np.sqrt(SIGMA_B2) * rng.standard_normal((WIDTH, 1))
    return np.array(found)


def draw_phases(ax):
    """How many layers a correlation lives, over both variances; the edge of chaos."""
    sigma_w2, sigma_b2 = np.linspace(0.5, 4, 80), np.linspace(0, 0.3, 31)
    found = meanfield.phase_diagram("tanh", sigma_w2, sigma_b2)
    image = ax.pcolormesh(
        sigma_w2, sigma_b2, found.xi_c, norm=LogNorm(1, 100), cmap="cividis", shading="gouraud", rasterized=True
    )
    ax.figure.colorbar(image, ax=ax, extend="both", label=r"depth scale $\xi_c$, layers", pad=0.02)
    line = meanfield.critical_line("tanh", q_star=np.linspace(0, 1.47, 100))
    ax.plot(line.sigma_w2, line.sigma_b2, color="white", linewidth=2)
    ax.set_ylim(0, 0.3)
    for name, at, align in (("ordered", (0.62, 0.27), "left"), ("chaotic", (3.88, 0.27), "right")):
        ax.text(*at, name, color="white", ha=align, fontsize=13, fontweight="bold")
    ax.text(1.92, 0.145, "edge of chaos", color=INK, rotation=62, ha="center", va="center", fontsize=10)
    for sigma_w2, color in zip(POINTS.values(), COLORS, strict=False):
        ax.plot(sigma_w2, SIGMA_B2, "o", color=color, markeredgecolor="white", markeredgewidth=1.5, markersize=10)
    ax.set_xlabel(r"weights, $\sigma_w^2$")
    ax.set_ylabel(r"biases, $\sigma_b^2$")
    ax.set_title("Phases of tanh networks")


def draw_correlations(ax, rng):
    """Theory, and the mean of some finite networks."""
    for (name, sigma_w2), color, dash in zip(POINTS.items(), COLORS, DASHES, strict=False):
        q = meanfield.q_star("tanh", sigma_w2, SIGMA_B2)
        path = meanfield.trajectory("tanh", sigma_w2, SIGMA_B2, q, STARTS, DEPTH)
        networks = np.mean([random_network(sigma_w2, rng) for _ in range(NETWORKS)], axis=0)
        label = f"{name}, $\\sigma_w^2$ = {sigma_w2:.2f}"
        ax.plot(path.c, color=color, linestyle=dash, label=[label, "_"], linewidth=2)
        ax.plot(networks, ".", color=color, markersize=4.5)
    ax.set_xlim(0, DEPTH)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("depth")
    ax.set_ylabel("correlation of two inputs")
    ax.set_title(f"Infinite width (lines); {NETWORKS} networks of width {WIDTH}")
    ax.legend(frameon=False, loc="lower right")


def draw_condition(ax):
    """Condition number of the NTK on 20 inputs."""
    for (name, sigma_w2), color, dash in zip(POINTS.items(), COLORS, DASHES, strict=False):
        q = meanfield.q_star("tanh", sigma_w2, SIGMA_B2)
        path = meanfield.ntk_trajectory("tanh", sigma_w2, SIGMA_B2, q, 0.5, 100, m=20)
        ax.plot(path.condition, color=color, linestyle=dash, label=name, linewidth=2)
    ax.axhline(11, color=INK, linewidth=0.8, alpha=0.6)
    ax.text(99, 12.5, "(m + 2) / 2", ha="right", va="bottom", fontsize=9, color=INK)
    ax.set_yscale("log")
    ax.set_xlim(0, 100)
    ax.set_xlabel("depth")
    ax.set_ylabel("condition number of the NTK")
    ax.set_title("20 inputs, correlation 0.5 at the start")
    ax.legend(frameon=False, loc="upper left")


def main(path="meanfield.png"):
    figure = Figure(figsize=(16, 4.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.15, 1, 1))
    draw_phases(left)
    draw_correlations(middle, np.random.default_rng(0))
    draw_condition(right)
    for name, sigma_w2 in POINTS.items():
        scales = meanfield.depth_scales("tanh", sigma_w2, SIGMA_B2)
        chi = meanfield.chi1("tanh", sigma_w2, SIGMA_B2)
        print(f"{name:9} sigma_w2 = {sigma_w2:.3f}: chi_1 = {chi:.4f}, xi_q = {scales.xi_q:.2f},", end=" ")
        print(f"c* = {meanfield.c_star('tanh', sigma_w2, SIGMA_B2):.3f}, xi_c = {scales.xi_c:.4g} layers")
    figure.savefig(path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
