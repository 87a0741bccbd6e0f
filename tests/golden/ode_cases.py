"""Calls of ``predict.gradient_descent``, in words Neural Tangents' and ours both take, on kernels given to both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

TRAIN, TEST, OUTPUTS = 8, 4, 3
NETWORK = "relu, bias"

rng = np.random.default_rng(8)
points = rng.standard_normal((TRAIN + TEST, 6))
regression = rng.standard_normal((TRAIN, OUTPUTS))
labels = np.eye(OUTPUTS)[rng.integers(OUTPUTS, size=TRAIN)]
start, start_test = rng.standard_normal((TRAIN, OUTPUTS)), rng.standard_normal((TEST, OUTPUTS))
velocity, velocity_test = rng.standard_normal((TRAIN, OUTPUTS)), rng.standard_normal((TEST, OUTPUTS))

# "log cosh" is the one that has no name with us.
TARGETS = {"mse": regression, "cross_entropy": labels, "log cosh": regression}
SETTINGS = {"flow": (0.8, None), "no momentum": (0.5, 0.0), "momentum": (2.0, 0.9)}
SQUARE = np.array([[0.2, 1.5], [12.0, 60.0]])
# Times, and what is asked for at them.
TIMES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "0": (0.0, ("both",)),
    "37": (37, ("both", "state")),
    "line": (np.array([0.0, 0.3, 20.0, 150.0]), ("test", "moving")),
    "square": (SQUARE, ("train", "moving, train")),
}
# Arguments behind t. Velocities are for momentum alone.
WAYS: dict[str, Callable[[Any, Any], tuple[Any, ...]]] = {
    "both": lambda state, k: (start, start_test, k),
    "state": lambda state, k: (state(start, start_test), None, k),
    "test": lambda state, k: (None, 0.5, k),
    "train": lambda state, k: (),
    "moving": lambda state, k: (state(start, start_test, velocity, velocity_test), None, k),
    "moving, train": lambda state, k: (state(start, None, velocity),),
}
MOVING = ("moving", "moving, train")

# trace_axes: shapes of training and test outputs, lengths of the axes that kernels have in pairs beside samples, losses
AXES: dict[str, tuple[Any, ...]] = {
    "channels": ((-1,), (4, 3, 2), (3, 3, 2), (3,), ("mse", "cross_entropy", "log cosh")),
    "none": ((), (4, 3, 2), (3, 3, 2), (3, 2), ("mse", "log cosh")),
    "middle": ((1,), (4, 3, 2), (2, 3, 2), (2,), ("mse", "cross_entropy", "log cosh")),
    "all but samples": ((2, 1), (4, 3, 2), (3, 3, 2), (), ("mse", "cross_entropy")),
}


def interleaved(samples: int, lengths: tuple[int, ...]) -> np.ndarray:
    """A Gram with axes in pairs."""
    factor = np.random.default_rng(2).standard_normal((samples, *lengths, 60))
    gram = np.tensordot(factor, factor, (-1, -1)) / 60
    sides = len(lengths) + 1
    return gram.transpose([side * sides + axis for axis in range(sides) for side in range(2)])


def cases(predict: Any, gram: np.ndarray, loss: Callable[[str, Any], tuple[Any, dict]]) -> dict[str, Callable[[], Any]]:
    """Every call, by name; ``loss(name, trace_axes)`` gives ``gradient_descent``'s first argument, and keywords."""
    found: dict[str, Callable[[], Any]] = {}
    k_dd, k_td = gram[:TRAIN, :TRAIN], gram[TRAIN:, :TRAIN]
    state = predict.ODEState
    for name, y in TARGETS.items():
        for setting, (rate, momentum) in SETTINGS.items():
            first, keywords = loss(name, -1)
            fn = predict.gradient_descent(first, k_dd, y, rate, momentum, **keywords)
            for label, (t, ways) in TIMES.items():
                for way in ways:
                    if momentum is not None or way not in MOVING:
                        found[f"{name}; {setting}; {label}; {way}"] = partial(fn, t, *WAYS[way](state, k_td))
    for label, (axes, shape, shape_test, lengths, names) in AXES.items():
        drawn = np.random.default_rng(1)
        targets, before, before_test = (drawn.standard_normal(s) for s in (shape, shape, shape_test))
        whole, n = interleaved(shape[0] + shape_test[0], lengths), shape[0]
        for name in names:
            y = targets
            if name == "cross_entropy":
                y = np.exp(targets) / np.exp(targets).sum(axis=axes, keepdims=True)
            first, keywords = loss(name, axes)
            for setting in ("flow", "momentum"):
                rate, momentum = SETTINGS[setting]
                fn = predict.gradient_descent(first, whole[:n, :n], y, rate, momentum, axes, **keywords)
                call = partial(fn, SQUARE, before, before_test, whole[n:, :n])
                found[f"axes, {label}; {name}; {setting}"] = call
    return found


def arrays(result: Any, name: str) -> dict[str, np.ndarray]:
    """The arrays of a result, by name and place."""
    if dataclasses.is_dataclass(result):
        fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
        return {f"{name} / {key}": np.asarray(value) for key, value in fields.items() if value is not None}
    if isinstance(result, tuple):
        return {f"{name} / {k}": np.asarray(value) for k, value in enumerate(result)}
    return {name: np.asarray(result)}
