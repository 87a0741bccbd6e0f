"""Networks of every layer over positions, calls of them, and the comparison of gradients with differences."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fastntk import stax
from fastntk.network.activations import Nonlinearity
from fastntk.network.layer import Layer
from fastntk.stax import Conv, Dense, Erf, Exp, Flatten, Gelu, GlobalAvgPool, Relu, serial
from helpers import five_points

KINDS = ("nngp", "ntk")
SHAPE = (3, 3, 2)  # height, width, channels
HIDDEN = 7.5


def conv(phi: Any = None, W_std: float = 1.3) -> Any:
    return serial(bare(W_std), phi or Relu())


def bare(W_std: float = 1.2) -> Any:
    return Conv(2, (3, 3), padding="SAME", W_std=W_std, b_std=0.3)


def attention(mechanism: str = "SOFTMAX", **more: Any) -> Any:
    return stax.GlobalSelfAttention(
        2, 2, 2, 2, W_key_std=1.1, W_query_std=0.9, W_value_std=0.8, W_out_std=1.2, b_std=0.3,
        attention_mechanism=mechanism, **more,
    )  # fmt: skip


def attending(mechanism: str = "SOFTMAX", **more: Any) -> Any:
    return serial(conv(), attention(mechanism, **more), Relu(), *MEAN)


def branches(*layers: Any, join: Any) -> Any:
    return serial(stax.FanOut(len(layers)), stax.parallel(*layers), join)


def decay(distance: Any) -> Any:
    return np.exp(-0.5 * distance)


def norm(*axes: int) -> Any:
    return serial(bare(), stax.LayerNorm(axes, 1e-2), Relu())


def embedded(kind: str, **more: Any) -> Any:
    return attending(pos_emb_type=kind, W_pos_emb_std=0.7, **more)


def product(phi: Any = None) -> Any:
    return branches(conv(), conv(phi or Erf(), 0.9), join=stax.FanInProd())


def some_means(*behind: Any) -> Any:
    return branches(serial(conv(), *behind), serial(conv(Gelu(), 0.9), *behind), join=stax.FanInSum())


def dense() -> Any:
    return Dense(2, 1.2, 0.1)


MEAN = (GlobalAvgPool(), Dense(2, 1.1, 0.2))
LAST = (Flatten(), Dense(1))
POOL = stax.AvgPool((2, 2), (1, 1))
DOT = stax.DotGeneral(lhs=np.array([[1, -0.5, 0.3], [0.2, 0.7, 1.1]]), dimension_numbers=(((1,), (1,)), ((), ())))
DOTS = (DOT, Dense(2, 1.2, 0.1, batch_axis=1), Relu())
ROOT = {"linear_scaling": False, "mechanism": "IDENTITY"}

# Network, and what of a call: "masks", or a pattern's kind.
NETWORKS: dict[str, tuple[Any, str]] = {
    "attention at the end": (serial(conv(), attention()), ""),
    "attention, nothing bent behind": (serial(conv(), bare(), attention(), *MEAN), ""),
    "attention twice, nothing bent behind": (serial(conv(), attention(), attention("IDENTITY"), *MEAN), ""),
    "attention": (attending(), ""),
    "attention, positions": (serial(conv(), attention(), Relu(), *LAST), ""),
    "attention, causal": (attending(allowed=np.tri(9)), ""),
    "attention, IDENTITY": (attending("IDENTITY"), ""),
    "attention, ABS": (attending("ABS"), ""),
    "attention, RELU": (attending("RELU"), ""),
    "attention, SUM": (embedded("SUM", pos_emb_decay_fn=decay, val_pos_emb=True), ""),
    "attention, SUM, independent": (serial(embedded("SUM").layers[0], embedded("SUM").layers[1], Relu(), *LAST), ""),
    "attention, CONCAT": (embedded("CONCAT", pos_emb_decay_fn=decay, n_chan_pos_emb=3), ""),
    "attention, roots": (attending(**ROOT), ""),
    "attention, roots, SUM": (embedded("SUM", val_pos_emb=True, **ROOT), ""),
    "attention, a pool, attention": (serial(conv(), attention(), Relu(), POOL, conv(), attention("ABS"), *MEAN), ""),
    "graphs": (serial(conv(), stax.Aggregate(), dense(), Relu(), stax.Aggregate(), *MEAN), "dense"),
    "graphs of one axis": (
        serial(conv(), stax.Aggregate(1), dense(), Relu(), dense(), stax.Aggregate(1), Erf(), *LAST), "one axis"),
    "sparse graphs": (
        serial(conv(), stax.Aggregate(2, implementation="SPARSE"), dense(), Relu(), *MEAN), "sparse"),
    "dropout": (serial(conv(), stax.Dropout(0.7), conv(Erf()), stax.Dropout(0.6), *MEAN), ""),
    "dropout, positions": (serial(conv(), stax.Dropout(0.7), POOL, conv(), stax.Dropout(0.6), *LAST), ""),
    "norms": (serial(norm(1, 2, 3), norm(3), *MEAN), ""),
    "norms, positions": (serial(norm(1, 3), norm(2, 3), *LAST), ""),
    "a norm, nothing bent behind": (serial(conv(), bare(), stax.LayerNorm((1, 3), 1e-2), *MEAN), ""),
    "product": (serial(product(), conv(), *MEAN), ""),
    "product of three": (
        serial(branches(conv(), conv(Erf(), 0.9), conv(Gelu()), join=stax.FanInProd()), conv(), *LAST), ""),
    "product, nothing bent behind": (serial(product(), *MEAN), ""),
    "means": (serial(branches(conv(), conv(Exp(0.5, 0.4), 0.9), join=stax.FanInSum()), conv(), *MEAN), ""),
    "means of pools": (serial(some_means(POOL), conv(), *LAST), ""),
    "means of others": (
        serial(branches(serial(conv(), stax.Dropout(0.8), stax.Index(stax.Slice[:, 1:])),
                        serial(product(Gelu()), stax.ImageResize((-1, 2, 3, -1), "linear")), join=stax.FanInSum()),
               conv(), *MEAN), ""),
    "means, nothing bent behind": (serial(some_means(), *MEAN), ""),
    "products with a matrix": (serial(conv(), *DOTS), ""),
    "masks": (serial(conv(), conv(Erf()), *MEAN), "masks"),
    "masks, positions": (serial(conv(), POOL, conv(Erf()), *LAST), "masks"),
    "masks, sums": (serial(conv(), stax.SumPool((2, 2), (1, 1), "SAME"), conv(), stax.GlobalSumPool()), "masks"),
    "masks, attention": (serial(conv(), attention(), Relu(), attention("RELU"), *MEAN), "masks"),
    "masks, norms": (serial(norm(1, 2, 3), norm(1, 3), *MEAN), "masks"),
    "masks and others": (serial(product(), conv(), stax.Dropout(0.6), attention()), "masks"),
}  # fmt: skip


# ---------------------------------------------------------------- every layer of stax


# What layers need to be given, by the argument's name.
GIVEN: dict[str, Any] = {
    "out_chan": 2, "out_dim": 2, "filter_shape": (2, 2), "window_shape": (2, 2), "rate": 0.7, "idx": (slice(None), 1),
    "shape": (-1, 2, 2, -1), "method": "linear", "num": 2, "n_chan_out": 2, "n_chan_key": 2, "n_chan_val": 2,
    "n_heads": 2,
}  # fmt: skip


def parts_of(layer: Any) -> Iterator[Any]:
    yield layer
    for part in getattr(layer, "layers", ()):
        yield from parts_of(part)


def classes() -> dict[str, Any]:
    """Layers of stax that are no nonlinearities, and no bases of others."""
    found = {name: getattr(stax, name) for name in stax.__all__}
    return {
        name: kind for name, kind in found.items()
        if isinstance(kind, type) and issubclass(kind, Layer) and not issubclass(kind, Nonlinearity)
        and kind.lower is not Layer.lower and name != "PositionMap"
    }  # fmt: skip


def made(kind: Any) -> Any:
    """A layer of a class, given what it needs."""
    needed = [p for p in inspect.signature(kind).parameters.values() if p.default is p.empty]
    return kind(**{p.name: GIVEN[p.name] for p in needed})


def around(kind: Any) -> Any:
    """A network with a layer of a class."""
    if kind.__name__.startswith("FanIn"):
        return serial(branches(conv(), conv(Erf()), join=made(kind)), bare(), *MEAN)
    return (
        serial(conv(), bare(), made(kind)) if kind.__name__ != "FanOut" else serial(conv(), made(kind), stax.FanInSum())
    )


# ---------------------------------------------------------------- calls


def call_of(kind: str, x1: Any, x2: Any, rng: np.random.Generator) -> dict[str, Any]:
    """Keywords of a call; masks are written into the inputs."""
    sides = [x for x in (x1, x2) if x is not None]
    if kind == "masks":
        for x in sides:
            x[0, 2], x[1, :, 1], x[-1, 0, 0, 1] = HIDDEN, HIDDEN, HIDDEN
        return {"mask_constant": HIDDEN}
    if not kind:
        return {}
    h, w, _ = SHAPE
    shape = {"dense": (h, w, h, w), "one axis": (h, h), "sparse": (5, 2)}[kind]
    edges = (rng.integers(-1 if kind == "sparse" else 0, 2, (len(x), *shape)) for x in sides)
    patterns = [e if kind == "sparse" else e * rng.standard_normal(e.shape) for e in edges]
    return {"pattern": (patterns[0], patterns[-1] if x2 is not None else None)}


def compare_with_differences(kernel_fn: Any, x1: Any, x2: Any, keywords: dict[str, Any], rel: float) -> None:
    """Gradients in both inputs, along directions, and in every parameter."""
    rng = np.random.default_rng(5)
    on = [rng.standard_normal(k.shape) for k in kernel_fn(x1, x2, KINDS, backend="numpy", **keywords)]
    found = kernel_fn.vjp(x1, x2, cotangents=dict(zip(KINDS, on, strict=True)), **keywords)

    def loss(x1: Any, x2: Any, kernel_fn: Any = kernel_fn) -> float:
        of = kernel_fn(x1, x2, KINDS, backend="numpy", **keywords)
        return float(sum(np.sum(c * k) for c, k in zip(on, of, strict=True)))

    masked = keywords.get("mask_constant")
    for which, x in enumerate((x1, x2)):
        if x is None:
            continue
        own = (found.x1, found.x2)[which]
        step = rng.standard_normal(x.shape) * (x != masked)
        assert not own[x == masked].any()

        def moved(t: float, step: Any = step, which: int = which) -> float:
            return loss(x1 + t * step, x2) if which == 0 else loss(x1, x2 + t * step)

        assert np.sum(own * step) == pytest.approx(five_points(moved, 3e-4), rel=rel, abs=rel / 10)
    steps = {path: rng.standard_normal() for path in kernel_fn.parameters}  # a wrong one shows in a sum with all others
    known = kernel_fn.parameters

    def changed(t: float) -> float:
        return loss(x1, x2, kernel_fn.with_parameters({path: v + t * steps[path] for path, v in known.items()}))

    got = sum(found.parameters[path] * step for path, step in steps.items())
    assert got == pytest.approx(five_points(changed, 3e-4), rel=rel, abs=rel / 10)


# ---------------------------------------------------------------- Neural Tangents


def neural_tangents() -> Any:
    """Neural Tangents' stax and JAX in float64; skips where they are not to be had."""
    jax = pytest.importorskip("jax")
    if "neural_tangents" not in sys.modules:  # its finite half reads what current JAX no longer has; stax does not
        spec = find_spec("neural_tangents")
        if spec is None:
            pytest.skip("needs neural_tangents")
        package = ModuleType("neural_tangents")
        package.__path__ = list(spec.submodule_search_locations or ())
        sys.modules["neural_tangents"] = package
    theirs = import_module("neural_tangents.stax")
    jax.config.update("jax_enable_x64", True)
    return theirs, jax


def both_of(module: Any) -> dict[str, Any]:
    """Networks that Neural Tangents has right, of its stax or of ours."""
    s = module
    head = (s.Conv(2, (3, 3), padding="SAME", W_std=1.3, b_std=0.3), s.Relu())
    soft = s.GlobalSelfAttention(
        2, 2, 2, 2, linear_scaling=True, W_key_std=1.1, W_query_std=0.9, W_value_std=0.8, W_out_std=1.2, b_std=0.3
    )
    mean = (s.GlobalAvgPool(), s.Dense(1, 1.1, 0.2))
    two = s.parallel(s.serial(*head), s.serial(s.Conv(2, (1, 1), W_std=0.9, b_std=0.1), s.Erf()))
    return {
        "attention": s.serial(*head, soft, s.Relu(), *mean),
        "norms": s.serial(head[0], s.LayerNorm((1, 2, 3), 1e-2), s.Relu(), *mean),
        "product": s.serial(s.FanOut(2), two, s.FanInProd(), s.Dense(2, 1.2, 0.1), s.Relu(), s.Flatten(), s.Dense(1)),
        "graphs": s.serial(*head, s.Aggregate((1, 2)), s.Dense(2, 1.2, 0.1), s.Relu(), *mean),
    }
