"""Runs of networks of stax, through the flow of finite networks."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..abc.network import inputs_of
from ..finite import flow
from ..finite.training import samples_of
from .results import Array, Run, Trace

_LOOKED_AT = ("t", "kernel_change", "margin", "loss")  # of a flow, as a trace has them


def samples_for(x: Any, d: int | None, network: Any, what: str) -> Array:
    """Samples (n, d); of networks of stax with the axes that these take."""
    if network is None:
        return inputs_of(x, d, what)
    return np.asarray(samples_of(x, np.float64, "x", what), dtype=np.float64)


def refuse_beside_network(what: str, L: Any, act: Any) -> None:
    if L != 1 or act != "relu":
        raise TypeError(f"[{what}] network says which layers there are: L and act do not go with it")


def of_network(problem: Any, h: int, alpha: float, rng: np.random.Generator) -> Run:
    """A run of a network of stax, by the flow of finite networks."""
    p = problem
    found = flow(
        p.network(h), p.x, p.y, alpha, seeds=int(rng.integers(2**63)), loss=p.loss, stop=p.stop, step=p.step,
        max_steps=p.max_steps, kernel_samples=p.kernel_samples or len(p.x), t1_at=p.t1_at, x_test=p.x_test,
        device=p.device or "cpu",
    )  # fmt: skip
    trace = (np.array([getattr(look, name)[0] for look in found.looks]) for name in _LOOKED_AT)
    return Run(
        found.status[0], h, alpha, found.outputs[0, :, 0], found.f[0, :, 0],
        None if found.test_outputs is None else found.test_outputs[0, :, 0], float(found.kernel_change[0]),
        float(found.t[0]), float(found.t1[0]), tuple(found.weight_change[0].tolist()), found.kernels0[0],
        found.kernels[0], Trace(*trace),
    )  # fmt: skip
