"""Losses of outputs and targets, by name; and what they make of targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Loss = Callable[[Any, Any], Any]  # of outputs F and targets y, tensors (n, k): a scalar tensor

_BETA = 20.0  # of the soft hinge, as in the code of Geiger et al.


def _squared(F: Any, y: Any) -> Any:
    return ((F - y) ** 2).sum() / (2 * len(y))


def _hinge(F: Any, y: Any) -> Any:
    return (1 - F * y).clamp(min=0).sum() / len(y)


def _quadratic_hinge(F: Any, y: Any) -> Any:
    return ((1 - F * y).clamp(min=0) ** 2).sum() / (2 * len(y))


def _soft_hinge(F: Any, y: Any) -> Any:
    from torch.nn.functional import softplus

    return softplus(1 - F * y, beta=_BETA).sum() / len(y)


def _cross_entropy(F: Any, y: Any) -> Any:
    return -(y * F.log_softmax(dim=-1)).sum() / len(y)


LOSSES: dict[str, Loss] = {
    "squared": _squared,
    "hinge": _hinge,
    "quadratic_hinge": _quadratic_hinge,
    "soft_hinge": _soft_hinge,
    "cross_entropy": _cross_entropy,
}


def loss_of(loss: Any, what: str) -> Loss:
    """A loss by its name, or itself.

    Raises
    ------
    ValueError, TypeError
        Another name, or what is no function.
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(f"[{what}] loss must be {', '.join(LOSSES)} or a function, given {loss!r}")
        return LOSSES[loss]
    if not callable(loss):
        raise TypeError(f"[{what}] loss must be a name or a function of outputs and targets, given {loss!r}")
    found: Loss = loss
    return found


def targets_of(y: Any, n: int, loss: Any, name: str, what: str, k: int = 0) -> Array:
    """Targets (n, k) as float64: classes (n,) of whole numbers, at least k of them, one-hot for the cross-entropy.

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN or infinity; of hinges other numbers than 1 and -1, of the cross-entropy rows that
        are no probabilities.
    """
    found = np.array(y)
    if found.dtype.kind not in "buif":
        raise ValueError(f"[{what}] {name} must be numbers, given dtype {found.dtype}")
    if loss == "cross_entropy" and found.ndim == 1 and found.dtype.kind in "bui":
        if found.shape != (n,) or found.min() < 0:
            raise ValueError(f"[{what}] {name} must be {n} classes from 0, given shape {found.shape}")
        return np.eye(max(k, int(found.max()) + 1))[found.astype(np.intp)]
    found = found.astype(np.float64)
    found = np.full((n, 1), found) if found.ndim == 0 else found[:, None] if found.ndim == 1 else found
    if found.ndim != 2 or len(found) != n or not found.size:
        raise ValueError(f"[{what}] {name} must have shape ({n},) or ({n}, k), given {np.shape(y)}")
    if not np.isfinite(found).all():
        raise ValueError(f"[{what}] {name} must be finite")
    if loss in ("hinge", "quadratic_hinge", "soft_hinge") and not (np.abs(found) == 1).all():
        raise ValueError(f"[{what}] {name} must be 1 and -1 for a {loss}, given {np.unique(found)[:5]}")
    if loss == "cross_entropy" and not ((found >= 0).all() and np.allclose(found.sum(axis=1), 1, atol=1e-6)):
        raise ValueError(f"[{what}] {name} must be classes, or rows of probabilities, for the cross-entropy")
    return found


def hits(F: Any, y: Any) -> Any:
    """Share of samples (..., n, k) whose largest output is the largest target's; of one output, whose signs agree."""
    if F.shape[-1] == 1:
        right = (F[..., 0] > 0) == (y[..., 0] > 0)
    else:
        right = F.argmax(-1) == y.argmax(-1)
    return right.double().mean(-1)
