"""
Distilled digits
================

Ten images of digits, and a hundred, made so that a kernel regressor that knows nothing else tells 1,400 real ones apart
(kernel inducing points: Nguyen, Chen and Lee, 2021, arXiv:2011.00050): a picture in seconds.

``python examples/distilled_digits.py [picture.png]`` needs ``pip install 'fastntk[demo]'``.
"""

from __future__ import annotations

import sys

import numpy as np
from fastntk import stax
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.optimize import minimize
from sklearn.datasets import load_digits

KERNEL = stax.serial(*[stax.Dense(1, 2**0.5, 0.1), stax.Relu()] * 2, stax.Dense(1)).kernel_fn
NOISE, CLASSES, STEPS, DRAWS = 1e-3, 10, 60, 20


def data():
    """1,400 images to learn from, 397 to try it on; a row has 64 pixels about 0, a target a 0.9 among -0.1."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.data))
    x = (digits.data[order] - digits.data.mean()) / digits.data.std()
    return x[:1400], digits.target[order[:1400]], x[1400:], digits.target[order[1400:]]


def targets(labels):
    return np.eye(CLASSES)[labels] - 1 / CLASSES


def fit(support, y):
    """Weights of the support's rows: (K + noise) alpha = y."""
    system = KERNEL(support, None, "ntk") + NOISE * np.eye(len(support))
    return system, np.linalg.solve(system, y)


def accuracy(support, labels, x, of):
    found = KERNEL(x, support, "ntk") @ fit(support, targets(labels))[1]
    return np.mean(found.argmax(axis=1) == of)


def loss(flat, labels, x, y):
    """Half the squared error on x of what is learned from the support, and its gradient in the support.

    Cotangents are factors, of rank 10: no second array of the kernel's size is made.
    """
    support = flat.reshape(len(labels), -1)
    system, alpha = fit(support, targets(labels))
    error = KERNEL(x, support, "ntk") @ alpha - y
    # dL/dK(x, support) = error alpha^T, and of K(support, support) - back alpha^T
    on_cross = KERNEL.vjp(x, support, cotangents={"ntk": (error, alpha)}, wrt="x2").x2
    back = np.linalg.solve(system, KERNEL(support, x, "ntk") @ error)
    on_own = KERNEL.vjp(support, cotangents={"ntk": (-back, alpha)}, wrt="x1").x1
    return np.sum(error**2) / 2, (on_cross + on_own).ravel()


def distil(count, x, labels):
    """Some real images of each class, and what becomes of them."""
    start = np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(CLASSES)])
    found = minimize(
        loss, x[start].ravel(), (labels[start], x, targets(labels)), "L-BFGS-B", True, options={"maxiter": STEPS}
    )
    return x[start], found.x.reshape(len(start), -1), labels[start]


def random_ones(count, x, labels, x_test, of):
    """Accuracies of real images drawn at random, so many of each class."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(DRAWS):
        rows = np.concatenate([rng.choice(np.flatnonzero(labels == c), count, False) for c in range(CLASSES)])
        found.append(accuracy(x[rows], labels[rows], x_test, of))
    return np.array(found)


def main(picture="distilled_digits.png"):
    x, labels, x_test, of = data()
    whole = accuracy(x, labels, x_test, of)
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    images, bars = figure.subfigures(1, 2, width_ratios=(2, 1))
    axes = images.subplots(2, CLASSES)
    names, means, spreads, made = [], [], [], []
    for count in (1, 10):
        before, after, own = distil(count, x, labels)
        drawn = random_ones(count, x, labels, x_test, of)
        names.append(f"{count} a class")
        means.append(drawn.mean())
        spreads.append(drawn.std())
        made.append(accuracy(after, own, x_test, of))
        print(f"{count} a class: {made[-1]:.3f} of test images by distilled ones, {means[-1]:.3f} by real ones", end="")
        print(f" (mean of {DRAWS} draws), {whole:.3f} by all {len(x)}")
        if count > 1:
            continue
        for row, shown in zip(axes, (before, after), strict=True):
            for ax, image in zip(row, shown, strict=True):
                ax.imshow(image.reshape(8, 8), cmap="gray_r")
                ax.set(xticks=[], yticks=[])
    axes[0, 0].set_ylabel("real")
    axes[1, 0].set_ylabel("distilled")
    images.suptitle("One image a class: where the optimiser starts and ends")
    ax = bars.subplots()
    place = np.arange(len(names))
    ax.bar(place - 0.2, means, 0.4, yerr=spreads, label=f"real, {DRAWS} draws", color="C7")
    ax.bar(place + 0.2, made, 0.4, label="distilled", color="C0")
    ax.axhline(whole, color="k", linestyle="--", label=f"all {len(x)}")
    ax.set(xticks=place, xticklabels=names, ylim=(0.4, 1), title="Test accuracy, NTK of two hidden layers")
    ax.legend(loc="lower right")
    figure.savefig(picture, dpi=120)
    print(f"wrote {picture}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
