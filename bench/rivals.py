"""Neural Tangents and BoTorch on the same cases. A rival that is not there raises ``Missing`` with the reason."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
from cases import Case, relu
from image_cases import ImageCase

PLATFORM = "cpu"  # of JAX; run_gpu.py sets "cuda"


class Missing(Exception):
    """Why a rival cannot take part."""


def nt_stax() -> ModuleType:
    """Neural Tangents' ``stax`` alone: the rest of its package reads JAX internals that are gone."""
    name = "neural_tangents"
    if name not in sys.modules:
        spec = find_spec(name)
        if spec is None or spec.submodule_search_locations is None:
            raise Missing("neural-tangents is not installed")
        bare = ModuleType(name)
        bare.__path__ = list(spec.submodule_search_locations)
        sys.modules[name] = bare
    try:
        return import_module(f"{name}.stax")
    except Exception as error:  # whatever an archived package meets in a later JAX
        raise Missing(f"neural_tangents.stax does not load: {type(error).__name__}: {error}") from error


def _nt_kernel(case: Case | ImageCase) -> tuple[Any, Callable[..., Any]]:
    stax = nt_stax()
    import jax

    jax.config.update("jax_platforms", PLATFORM)
    try:
        jax.devices()
    except Exception as error:  # RuntimeError, AssertionError: by version
        raise Missing(f"JAX has no device of the platform {PLATFORM}: {error}") from error
    jax.config.update("jax_enable_x64", case.dtype == "float64")  # else NT turns float64 into float32
    kernel_fn = case.make(stax)
    return jax, lambda x: tuple(kernel_fn(x, None, case.get))


def nt(case: Case | ImageCase, x: np.ndarray) -> Callable[[], Any]:
    """Jitted; of a batch, a loop with one call for each Gram. The inputs lie on the device before."""
    jax, kernel = _nt_kernel(case)
    jitted = jax.jit(kernel)
    if case.batch:
        parts = [jax.device_put(part) for part in x]
        return lambda: jax.block_until_ready([jitted(part) for part in parts])
    whole = jax.device_put(x)
    return lambda: jax.block_until_ready(jitted(whole))


def nt_vmap(case: Case, x: np.ndarray) -> Callable[[], Any]:
    """The batch in one call, which NT itself does not offer: ``jit(vmap(kernel_fn))``."""
    jax, kernel = _nt_kernel(case)
    jitted, whole = jax.jit(jax.vmap(kernel)), jax.device_put(x)
    return lambda: jax.block_until_ready(jitted(whole))


def botorch(case: Case, x: np.ndarray) -> Callable[[], Any]:
    """InfiniteWidthBNNKernel, no gradients recorded."""
    for package in ("torch", "botorch"):
        if find_spec(package) is None:
            raise Missing(f"{package} is not installed")
    import torch
    from botorch.models.kernels import InfiniteWidthBNNKernel

    if case.network is not relu or case.get != ("nngp",):
        raise Missing("BoTorch has the NNGP of ReLU networks only")
    kernel = InfiniteWidthBNNKernel(depth=case.depth)
    kernel.weight_var, kernel.bias_var = 2.0, (case.b_std or 0.0) ** 2
    kernel = kernel.to(getattr(torch, case.dtype))
    given = torch.from_numpy(x)

    def call() -> tuple[Any]:
        with torch.no_grad():
            return (kernel(given).to_dense(),)

    return call


RIVALS: dict[str, Callable[[Case, np.ndarray], Callable[[], Any]]] = {"nt": nt, "nt_vmap": nt_vmap, "botorch": botorch}


def arrays(result: Any) -> list[np.ndarray]:
    """A rival's result as NumPy arrays in the order of ``get``; of a loop, stacked."""
    if isinstance(result, list):
        return [np.stack([np.asarray(part[k]) for part in result]) for k in range(len(result[0]))]
    return [np.asarray(part) for part in result]


def versions() -> dict[str, str | None]:
    """Installed versions of the rivals and what they stand on; None: not installed."""

    def find(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {name: find(name) for name in ("neural-tangents", "jax", "jaxlib", "botorch", "gpytorch", "torch")}
