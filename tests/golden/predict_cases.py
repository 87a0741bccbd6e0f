"""Calls of ``predict``, in words that Neural Tangents' and ours both take, on kernels that both are given."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

NETWORKS = ("erf", "relu, no bias, deep", "residual")
TRAIN, TEST, OUTPUTS = 9, 5, 2

Kernels = namedtuple("Kernels", "nngp ntk")

rng = np.random.default_rng(6)
points = rng.standard_normal((TRAIN + TEST, 6)) * rng.uniform(0.3, 3, (TRAIN + TEST, 1))
y = rng.standard_normal((TRAIN, OUTPUTS))
start, start_test = rng.standard_normal((TRAIN, OUTPUTS)), rng.standard_normal((TEST, OUTPUTS))

# learning rate, diag_reg, diag_reg_absolute_scale
SETTINGS = {"plain": (0.8, 0.0, False), "relative": (1.0, 1e-2, False), "absolute": (3.0, 0.05, True)}
TIMES = {
    "without end": None,
    "0": 0.0,
    "37": 37,
    "line": np.array([0.3, 20.0, 1e3]),
    "square": np.array([[0.0, 1.5], [12.0, 1e4]]),
}

# trace_axes: shapes of training and test outputs, and lengths of the axes that kernels have in pairs beside samples
AXES = {
    "channels": ((-1,), (4, 3, 2), (3, 3, 2), (3,)),
    "none": ((), (4, 3, 2), (3, 3, 2), (3, 2)),
    "middle": ((1,), (4, 3, 2), (3, 3, 2), (2,)),
    "all but samples": ((2, 1), (4, 3, 2), (3, 3, 2), ()),
    "two positions": ((-1,), (3, 2, 3, 2), (2, 2, 3, 2), (2, 3)),
    "one output": ((), (5,), (3,), ()),
}


class Lookup:
    """A kernel function of points that are counted: entries of given Grams."""

    def __init__(self, grams: Any) -> None:
        self.grams = grams

    def __call__(self, x1: Any, x2: Any = None, get: Any = None) -> Any:
        first = np.asarray(x1)[:, 0]
        second = first if x2 is None else np.asarray(x2)[:, 0]
        found = Kernels(*(k[np.ix_(first, second)] for k in self.grams))
        if isinstance(get, str):
            return getattr(found, get)
        return namedtuple("Found", get)(*(getattr(found, g) for g in get))


def interleaved(seed: int, samples: int, lengths: tuple[int, ...]) -> Kernels:
    """Two Grams with axes in pairs."""
    drawn = np.random.default_rng(seed)
    grams = []
    for _ in Kernels._fields:
        factor = drawn.standard_normal((samples, *lengths, 60))
        sides = len(lengths) + 1
        gram = np.tensordot(factor, factor, (-1, -1)) / 60
        grams.append(gram.transpose([side * sides + axis for axis in range(sides) for side in range(2)]))
    return Kernels(*grams)


def cases(predict: Any, grams: dict[str, Kernels]) -> dict[str, Callable[[], Any]]:
    """Every call, by name."""
    found: dict[str, Callable[[], Any]] = {}
    train, test = np.arange(TRAIN)[:, None], np.arange(TRAIN, TRAIN + TEST)[:, None]
    for network, both in grams.items():
        kernel_fn = Lookup(both)
        k_dd, k_td, k_tt = (kernel_fn(a, b, ("nngp", "ntk")) for a, b in ((train, None), (test, train), (test, None)))
        for setting, (rate, reg, absolute) in SETTINGS.items():
            name = f"{network}; {setting}"
            for g in ("nngp", "ntk"):
                mse = predict.gradient_descent_mse(getattr(k_dd, g), y, rate, reg, absolute)
                cross = getattr(k_td, g)
                for label, t in TIMES.items():
                    found[f"mse; {name}; {g}; {label}"] = partial(mse, t, start, start_test, cross)
                    found[f"mse, default start; {name}; {g}; {label}"] = partial(mse, t)
                    found[f"mse, test alone; {name}; {g}; {label}"] = partial(mse, t, None, 0.5, cross)
            gp = predict.gp_inference(k_dd, y, reg, absolute)
            for get in ("nngp", "ntk", "ntkgp", ("ntkgp", "nngp", "ntk"), None):
                found[f"gp; {name}; {get}"] = partial(gp, get, k_td, k_tt)
                found[f"gp, mean; {name}; {get}"] = partial(gp, get, k_td)
                found[f"gp, train; {name}; {get}"] = partial(gp, get=get, k_test_test=True)
            ensemble = predict.gradient_descent_mse_ensemble(kernel_fn, train, y, rate, reg, absolute)
            for label, t in TIMES.items():
                for side, x in (("train", None), ("test", test)):
                    for get in ("nngp", "ntk", ("ntk", "nngp")):
                        call = partial(ensemble, t, x, get, compute_cov=True)
                        found[f"ensemble, {side}; {name}; {get}; {label}"] = call
                    found[f"ensemble, mean, {side}; {name}; {label}"] = partial(ensemble, t, x)
        for g in ("nngp", "ntk"):
            for arguments in ((), (y.size,), (y.size, 0.9), (None, 0.5, 1e-3)):
                call = partial(predict.max_learning_rate, getattr(k_dd, g), *arguments)
                found[f"rate; {network}; {g}; {arguments}"] = call
    for label, (axes, shape, shape_test, lengths) in AXES.items():
        drawn = np.random.default_rng(1)
        targets, before, before_test = (drawn.standard_normal(s) for s in (shape, shape, shape_test))
        whole = interleaved(2, shape[0] + shape_test[0], lengths)
        n = shape[0]
        k_dd, k_td, k_tt = (Kernels(*(k[r, c] for k in whole)) for r, c in _corners(n))
        mse = predict.gradient_descent_mse(k_dd.ntk, targets, 0.7, 1e-3, trace_axes=axes)
        gp = predict.gp_inference(k_dd, targets, 1e-3, trace_axes=axes)
        everyone = np.arange(n + shape_test[0])[:, None]
        ensemble = predict.gradient_descent_mse_ensemble(
            Lookup(whole), everyone[:n], targets, 0.7, 1e-3, trace_axes=axes
        )
        for time, t in TIMES.items():
            found[f"axes, mse; {label}; {time}"] = partial(mse, t, before, before_test, k_td.ntk)
            for side, x in (("train", None), ("test", everyone[n:])):
                found[f"axes, ensemble, {side}; {label}; {time}"] = partial(ensemble, t, x, None, True)
        found[f"axes, gp; {label}"] = partial(gp, ("nngp", "ntk", "ntkgp"), k_td, k_tt)
        found[f"axes, rate; {label}"] = partial(predict.max_learning_rate, k_dd.ntk)
    return found


def _corners(n: int) -> tuple[tuple[slice, slice], ...]:
    """Training points alone, test with training points, test points alone."""
    return (slice(n), slice(n)), (slice(n, None), slice(n)), (slice(n, None), slice(n, None))


def arrays(result: Any, name: str) -> dict[str, np.ndarray]:
    """The arrays of a result, by name and place; what holds them is part of the name."""
    if isinstance(result, tuple):
        kind = ",".join(getattr(result, "_fields", ("",) * len(result)))
        parts = [arrays(part, f"{name} / {kind}[{k}]") for k, part in enumerate(result)]
        return {key: value for part in parts for key, value in part.items()}
    return {name: np.asarray(result)}
