"""Tangent kernels of Dense and Conv layers from what enters them and what comes back to them, without Jacobians.

A weight matrix that positions share has the gradient ``sum_p A_p D_p^T``, A_p what a position reads and D_p the
derivative of an output by what the layer gives there. Two samples' gradients meet in ``sum_pq (A_p . A'_q) (D_p .
D'_q)``: without positions, two small products instead of one over all weights (Novak et al. 2022, arXiv:2206.08720,
section 3.3). With many positions the gradients are formed, and meet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..network.combinators import Parallel, Serial
from ..network.layer import Layer, Shape
from ..network.weights import Conv, Dense, permute, tap_of
from .quick import quick


@dataclass(frozen=True, repr=False)
class _Tapped(Layer):
    """A layer that notes what enters it and what it gives."""

    inner: Layer
    weights: Dense | Conv
    seen: list[Any]

    def output_shape(self, shape: Shape) -> Shape:
        return self.inner.output_shape(shape)

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        z = self.inner.apply(params, inputs, xp)
        self.seen.append((self.weights, inputs, z, params[1] is not None))
        return z


def _tapped(layer: Layer, params: Any, seen: list[Any]) -> Layer | None:
    """The network with its weight layers tapped; None where other layers have parameters."""
    if isinstance(layer, (Serial, Parallel)):
        parts = [_tapped(part, own, seen) for part, own in zip(layer.layers, params, strict=True)]
        return None if any(part is None for part in parts) else type(layer)(tuple(p for p in parts if p is not None))
    if type(layer) is Dense or (type(layer) is Conv and layer.filter_shape != ()):
        return _Tapped(quick(layer), layer, seen)
    return layer if isinstance(params, tuple) and not params else None


@dataclass(frozen=True)
class _Part:
    """Of one weight layer: what positions read (n, P, fan-in), derivatives (n, k, P, fan-out), and factors."""

    a: Any
    d: Any
    w2: float
    b2: float


def _factors(layer: Dense | Conv, fan_in: int, biased: bool) -> tuple[float, float]:
    """Squared factors of weights and biases."""
    if layer.parameterization == "ntk":
        return layer.W_std**2 / fan_in, (layer.b_std or 0.0) ** 2
    return 1 / layer.s[0], float(biased)


def _reads(layer: Dense | Conv, x: Any, xp: Any) -> Any:
    """(n, P, fan-in)."""
    if isinstance(layer, Dense):
        x = xp.moveaxis(x, (layer.batch_axis % x.ndim, layer.channel_axis % x.ndim), (0, -1))
        return xp.reshape(x, (x.shape[0], -1, x.shape[-1]))
    layer = layer._over(x.ndim - 2)
    spec, _, _ = layer._specs
    letters = [c for c in spec if c not in "NC"]
    x = permute(xp, x, [spec.index(c) for c in ["N", *letters, "C"]])
    window = layer._window("Conv", tuple(x.shape[1:-1]))
    taps = [tap_of(x, window, tap, xp) for tap in np.ndindex(*window.shape)]
    found = xp.concatenate(taps, axis=-1)
    return xp.reshape(found, (found.shape[0], -1, found.shape[-1]))


def _channels_last(layer: Dense | Conv, z: Any, xp: Any) -> Any:
    """(n, P, fan-out), positions in the inputs' order."""
    if isinstance(layer, Dense):
        z = xp.moveaxis(z, (layer.batch_axis % z.ndim, layer.channel_axis % z.ndim), (0, -1))
    else:
        layer = layer._over(z.ndim - 2)
        spec, _, out = layer._specs
        z = permute(xp, z, [out.index(c) for c in ["N", *(c for c in spec if c not in "NC"), "C"]])
    return xp.reshape(z, (z.shape[0], -1, z.shape[-1]))


def _parts(network: Layer, params: Any, x: Any) -> list[_Part] | None:
    """Of all weight layers, for a batch."""
    import torch
    from array_api_compat import torch as xp

    seen: list[Any] = []
    tapped = _tapped(network, params, seen)
    if tapped is None:
        return None
    anchor = torch.zeros((), dtype=x.dtype, device=x.device, requires_grad=True)
    with torch.enable_grad():
        outputs = tapped.apply_fn(params, x + anchor)  # all that depends on the inputs has a history
        if not seen:
            return None
        zs = [z for _, _, z, _ in seen]
        columns = [
            torch.autograd.grad(outputs[:, k].sum(), zs, retain_graph=True, allow_unused=True)
            for k in range(outputs.shape[1])
        ]
    found = []
    for place, (layer, inputs, z, biased) in enumerate(seen):
        pulls = [torch.zeros_like(z) if c[place] is None else c[place] for c in columns]
        a = _reads(layer, inputs.detach(), xp)
        d = torch.stack([_channels_last(layer, pull, xp) for pull in pulls], dim=1)
        found.append(_Part(a, d, *_factors(layer, a.shape[-1], biased)))
    return found


def _gradients(part: _Part) -> Iterator[tuple[Any, float]]:
    """Whose products make the kernel: (n, k, numbers) of weights and of biases, and their factors."""
    import torch

    gradient = torch.einsum("npi,nkpo->nkio", part.a, part.d)
    yield gradient.reshape(*gradient.shape[:2], -1), part.w2
    if part.b2:
        yield part.d.sum(2), part.b2


def _meet(left: _Part, right: _Part, layout: Any, library: Any) -> Any:
    """The kernel of one weight layer between two batches."""
    if left.a.shape[1] == 1:
        if layout.together:
            reads = left.w2 * (left.a[:, 0] * right.a[:, 0]).sum(-1) + left.b2
            return layout.contracted(library, left.d[:, :, 0] * reads[:, None, None], right.d[:, :, 0])
        reads = left.w2 * (left.a[:, 0] @ right.a[:, 0].T) + left.b2
        pulls = layout.contracted(library, left.d[:, :, 0], right.d[:, :, 0])
        return pulls * reads.reshape(*reads.shape, *[1] * (pulls.ndim - 2))
    met = [
        scale * layout.contracted(library, a, b)
        for (a, scale), (b, _) in zip(_gradients(left), _gradients(right), strict=True)
    ]
    return sum(met[1:], met[0])


def structured_ntk(network: Layer, params: Any, x1: Any, x2: Any, layout: Any, budget: int) -> Any:
    """The tangent kernel, not yet divided by what is traced; None where a layer with parameters is not known.

    Parameters
    ----------
    network : network of stax
    params, x1, x2 : tensors
    layout : of :mod:`fastntk.finite.empirical`
    budget : int
        Bytes held at a time.
    """
    import torch

    from .backends import Torch

    probe = _parts(network, params, x1[:1])
    if probe is None:
        return None
    library = Torch()
    size = sum(
        p.a.numel() + p.d.numel() + (p.a.shape[-1] * p.d.shape[-1] * p.d.shape[1] if p.a.shape[1] > 1 else 0)
        for p in probe
    )
    rows = max(1, budget // (2 * max(1, size) * x1.element_size()))
    second = x1 if x2 is None else x2

    def tiles(n: int) -> list[slice]:
        return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]

    def meet(a: list[_Part], b: list[_Part]) -> Any:
        met = [_meet(left, right, layout, library) for left, right in zip(a, b, strict=True)]
        return sum(met[1:], met[0])

    def parts(x: Any) -> list[_Part]:
        found = _parts(network, params, x)
        assert found is not None
        return found

    lines = []
    for i in tiles(len(x1)):
        left = parts(x1[i])
        if layout.together:
            lines.append(meet(left, left if x2 is None else parts(second[i])))
            continue
        row = [meet(left, left if x2 is None and i == j else parts(second[j])) for j in tiles(len(second))]
        lines.append(torch.cat(row, dim=1))
    if 0 in layout.trace:
        return sum(lines[1:], lines[0])
    return torch.cat(lines, dim=0) if len(lines) > 1 else lines[0]
