"""
An activation of one's own
==========================

A network with an activation of one's own: its kernel beside the mean of finite networks, in a few seconds.

``python examples/own_activation.py [picture.png]`` needs ``pip install 'fastntk[plot]'``.
"""

from __future__ import annotations

import sys

import numpy as np
from fastntk import stax
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WIDTHS = (16, 64, 256, 1024)
DRAWS = 24
COLOURS = ("C0", "C1", "C2", "C3")


def bump(x):
    """A ramp with a bump: no table of kernels has it."""
    return x / (1 + np.exp(-2 * x)) + 0.5 * np.exp(-((x - 1) ** 2))


def network(width):
    return stax.serial(
        stax.Dense(width, 1.5, 0.2), stax.Activation(bump, name="bump"),
        stax.Dense(width, 1.2, 0.1), stax.Activation(bump, name="bump"), stax.Dense(512, 1.0),
    )  # fmt: skip


def inputs():
    """On a circle and beside it: the angle to the first input, and lengths of two kinds."""
    angle = np.linspace(0, np.pi, 25)
    return angle, np.concatenate([scale * np.stack([np.cos(angle), np.sin(angle)], axis=1) for scale in (1.4, 0.7)])


def finite(x, width):
    """Covariances of the outputs of finite networks with the first input's, a row for each draw."""
    init_fn, apply_fn, _ = network(width)
    outputs = (apply_fn(init_fn(seed, x.shape)[1], x) for seed in range(DRAWS))
    return np.stack([y @ y[0] / y.shape[1] for y in outputs])


def main(picture=None):
    angle, x = inputs()
    kernel_fn = network(1).kernel_fn
    k = kernel_fn(x, x[:1], ("nngp", "ntk"))
    fit = network(1).layers[1].fit(float((x**2).mean(axis=1).max() * 1.5**2 + 0.2**2))
    print(f"bump: {len(fit.degrees)} of {fit.terms} terms of its Hermite series, error {fit.error:.1e}")

    figure = Figure((13, 4), layout="constrained")
    function, kernels, errors = figure.subplots(1, 3)
    z = np.linspace(-4, 4, 400)
    function.plot(z, bump(z), color="C3")
    function.set(xlabel="x", title="the activation")
    n = len(angle)
    draws = {width: finite(x, width) for width in WIDTHS}
    for part, style, label in ((slice(0, n), "-", "as long"), (slice(n, 2 * n), "--", "half as long")):
        kernels.plot(angle, k.nngp[part, 0], "k" + style, label=f"NNGP, {label}")
        kernels.plot(angle, k.ntk[part, 0] / k.ntk[0, 0] * k.nngp[0, 0], "0.6", ls=style, label=f"NTK, scaled, {label}")
        mean = draws[WIDTHS[-1]][:, part].mean(axis=0)
        error = draws[WIDTHS[-1]][:, part].std(axis=0, ddof=1) / np.sqrt(DRAWS)
        kernels.errorbar(angle, mean, error, fmt="C3.", ms=3)
    kernels.set(xlabel="angle to the first input", title=f"kernels, and {DRAWS} networks of width {WIDTHS[-1]}")
    kernels.legend(fontsize=8)
    far = [np.sqrt(np.mean((draw.mean(axis=0) - k.nngp[:, 0]) ** 2)) for draw in draws.values()]
    noise = [np.sqrt(np.mean(draw.var(axis=0, ddof=1) / DRAWS)) for draw in draws.values()]
    errors.loglog(WIDTHS, far, "C3o-", label="distance from the kernel")
    errors.loglog(WIDTHS, noise, "0.6", ls="--", label="standard error of the mean")
    errors.set(xlabel="width", title="finite networks come to the kernel")
    errors.legend()
    for width, a, b in zip(WIDTHS, far, noise, strict=True):
        print(f"width {width:5}: distance {a:.4f}, standard error {b:.4f}")
    if picture:
        FigureCanvasAgg(figure).print_png(picture)
    return k, draws


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["own-activation.png"]))
