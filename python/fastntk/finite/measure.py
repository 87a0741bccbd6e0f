"""What is measured of networks in training: tangent kernels on a few samples, and the curvature of the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .model import Model

Array = npt.NDArray[np.float64]


def kernels(model: Model, x: Any) -> Array:
    """Each member's tangent kernel (S, n, n) of what is trained, averaged over outputs."""
    import torch

    found = np.zeros((len(model), len(x), len(x)))
    for member in range(len(model)):
        leaves = [leaf[member].detach().requires_grad_() for leaf in model.leaves]
        own = [None if m is None else m[member] for m in model.multipliers]

        def one(values: Any, sample: Any, own: Any = own) -> Any:
            return model.one(values, own, sample[None])[0]

        rows = torch.func.vmap(torch.func.jacrev(one), (None, 0))(leaves, x)
        total: Any = 0.0
        for row in rows:
            flat = row.reshape(len(x), row.shape[1], -1).movedim(1, 0)
            total = total + (flat @ flat.transpose(1, 2)).double().mean(0)
        found[member] = total.detach().cpu().numpy()
    return found


def change_of(now: Array, before: Array) -> Array:
    """``|Theta - Theta_0| / |Theta_0|`` (S,), Frobenius norms; 0 where both are 0."""
    size = np.linalg.norm(before, axis=(1, 2))
    moved = np.linalg.norm(now - before, axis=(1, 2))
    return np.asarray(np.where(size > 0, moved / np.where(size > 0, size, 1), np.where(moved > 0, np.inf, 0)))


def curvature(model: Model, value: Callable[..., Any], x: Any, y: Any, base: Any, steps: int) -> Array:
    """The largest eigenvalue (S,) of the Hessian of the loss in what is trained, by Lanczos with products alone.

    Every vector is made orthogonal to all before it, so that few steps are enough (Golub and Van Loan, Matrix
    Computations, 10.3).
    """
    import torch

    found = np.zeros(len(model))
    for member in range(len(model)):
        leaves = [leaf[member].detach().requires_grad_() for leaf in model.leaves]
        own = [None if m is None else m[member] for m in model.multipliers]
        f = model.one(leaves, own, x)
        loss = value(f if base is None else f - base[member], y)
        gradients = torch.autograd.grad(loss, leaves, create_graph=True)
        sizes = [leaf.numel() for leaf in leaves]

        def product(v: Any, leaves: Any = leaves, gradients: Any = gradients, sizes: Any = sizes) -> Any:
            parts = [p.reshape(leaf.shape) for p, leaf in zip(v.split(sizes), leaves, strict=True)]
            moved = torch.autograd.grad(gradients, leaves, parts, retain_graph=True, allow_unused=True)
            return torch.cat([
                (torch.zeros_like(leaf) if m is None else m).reshape(-1) for m, leaf in zip(moved, leaves, strict=True)
            ])  # fmt: skip

        start = np.random.default_rng(0).standard_normal(sum(sizes)).astype(model.dtype)
        found[member] = top_eigenvalue(product, model.tensor(start), steps)
    return found


def top_eigenvalue(product: Callable[[Any], Any], start: Any, steps: int) -> float:
    """The largest eigenvalue of a symmetric operator by Lanczos, from below."""
    import torch

    vectors = [start / start.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(min(steps, len(start))):
        w = product(vectors[-1]).detach()
        diagonal.append(float(w @ vectors[-1]))
        basis = torch.stack(vectors)
        for _ in range(2):
            w = w - (basis @ w) @ basis
        size = float(w.norm())
        if not size > 1e-6 * max(1e-30, max(map(abs, diagonal))):
            break
        beside.append(size)
        vectors.append(w / size)
    matrix = np.diag(diagonal) + np.diag(beside[: len(diagonal) - 1], 1) + np.diag(beside[: len(diagonal) - 1], -1)
    return float(np.linalg.eigvalsh(matrix)[-1])


def norms(stacked: Any) -> Any:
    """Of each member's array."""
    return stacked.reshape(len(stacked), -1).norm(dim=1)


def tangent_product(leaves: Any, f: Any, u: Any) -> tuple[Any, Any]:
    """``|J^T u|^2`` (S,) of vectors u (S, n, k), and each member's tangent kernel times its own, J that of f by leaves.

    The second is the derivative by u of half the first: two passes back, none forward.
    """
    import torch

    along = u.detach().requires_grad_()
    back = torch.autograd.grad(f, leaves, along, create_graph=True)
    sizes = torch.stack([norms(b) ** 2 for b in back]).sum(dim=0)
    (found,) = torch.autograd.grad(sizes.sum() / 2, along, retain_graph=True)
    return sizes.detach(), found.detach()


def top_of_kernels(leaves: Any, f: Any, vector: Any, products: int) -> tuple[Any, Any]:
    """The largest eigenvalue of each member's tangent kernel (S,), and the vectors that it was found by (S, n, k)."""
    value: Any = None
    for _ in range(products):
        unit = vector / norms(vector).reshape(-1, 1, 1).clamp(min=1e-300)
        value, vector = tangent_product(leaves, f, unit)
    return value, vector
