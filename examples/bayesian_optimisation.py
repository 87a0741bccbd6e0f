"""
Bayesian optimisation
=====================

Bayesian optimisation by BoTorch with the kernel of an infinitely wide network, beside a Matern kernel.

``python examples/bayesian_optimisation.py [picture.png]`` needs ``pip install 'fastntk[plot,botorch]'``. It takes
minutes.
"""

from __future__ import annotations

import sys
import warnings

import numpy as np
import torch
from botorch.acquisition import LogExpectedImprovement
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.optim import optimize_acqf
from botorch.test_functions import Ackley, Hartmann
from fastntk.gpytorch import InfiniteWidthKernel
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.mlls import ExactMarginalLogLikelihood
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SEEDS, FIRST, STEPS = 5, 8, 20
PROBLEMS = {"Hartmann, 6 dimensions": Hartmann(6, negate=True), "Ackley, 6 dimensions": Ackley(6, negate=True)}


def matern(d):
    return ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=d))


def network(d):
    """All numbers are learned: a lengthscale for each input, W_std and b_std of the layers, the output's scale."""
    return ScaleKernel(InfiniteWidthKernel(depth=2, nonlinearity="erf", W_std=2.0, b_std=1.0, ard_num_dims=d))


KERNELS = {"Matern 5/2": matern, "infinite network, 2 x Erf": network}


def optimise(problem, make, seed):
    """The best value after each evaluation."""
    torch.manual_seed(seed)
    low, high = problem.bounds.to(torch.float64)
    unit = torch.stack([torch.zeros_like(low), torch.ones_like(low)])
    x = torch.rand(FIRST, problem.dim, dtype=torch.float64)
    y = problem(low + (high - low) * x)[:, None]
    for _ in range(STEPS):
        model = SingleTaskGP(x, y, covar_module=make(problem.dim).double())
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        gain = LogExpectedImprovement(model, y.max())
        new, _ = optimize_acqf(gain, unit, q=1, num_restarts=4, raw_samples=64)
        x, y = torch.cat([x, new]), torch.cat([y, problem(low + (high - low) * new)[:, None]])
    return torch.cummax(y[:, 0], 0).values.numpy()


def main(picture="bayesian_optimisation.png"):
    warnings.simplefilter("ignore")  # of line searches that ran out
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for ax, (title, problem) in zip(figure.subplots(1, 2), PROBLEMS.items(), strict=True):
        for (name, make), colour in zip(KERNELS.items(), ("C7", "C0"), strict=True):
            best = np.array([optimise(problem, make, seed) for seed in range(SEEDS)])
            mean, error = best.mean(axis=0), best.std(axis=0) / SEEDS**0.5
            at = np.arange(1, len(mean) + 1)
            ax.plot(at, mean, color=colour, label=name)
            ax.fill_between(at, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
            print(f"{title}: {name}: {mean[-1]:.3f} +- {error[-1]:.3f} after {len(mean)} evaluations")
        ax.axvline(FIRST, color="k", linewidth=0.5)
        ax.set(xlabel="evaluations", ylabel=f"best value, mean of {SEEDS} seeds", title=title)
        ax.legend(loc="lower right")
    figure.savefig(picture, dpi=120)
    print(f"wrote {picture}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
