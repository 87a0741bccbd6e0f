"""PyTorch and JAX as empirical kernels need them: derivatives of a function of a tree of parameters and a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.arraylike import describe
from ..network.layer import Layer
from .quick import jvp, needed, quick

Tree = Any
F = Callable[..., Any]  # (params, x, **keywords) to outputs whose first axis counts samples


def leaves(tree: Tree) -> Iterator[Any]:
    """Arrays of nested tuples, lists and dicts, in order; None is none."""
    if isinstance(tree, dict):
        for key in tree:
            yield from leaves(tree[key])
    elif isinstance(tree, (tuple, list)):
        for part in tree:
            yield from leaves(part)
    elif tree is not None:
        yield tree


def mapped(tree: Tree, f: Callable[..., Any], *others: Tree) -> Tree:
    """The tree of ``f`` of its arrays, and of those of others of its form."""
    if isinstance(tree, dict):
        return {key: mapped(tree[key], f, *(o[key] for o in others)) for key in tree}
    if isinstance(tree, (tuple, list)):
        parts = [mapped(part, f, *(o[i] for o in others)) for i, part in enumerate(tree)]
        if hasattr(tree, "_fields"):
            return type(tree)(*parts)
        return parts if isinstance(tree, list) else tuple(parts)
    return None if tree is None else f(tree, *others)


def count(tree: Tree) -> int:
    """Samples of a tree of inputs."""
    return len(next(leaves(tree)))


def some(tree: Tree, at: Any) -> Tree:
    """Some samples of a tree of inputs."""
    return mapped(tree, lambda a: a[at])


def _is_jax(array: Any) -> bool:
    return type(array).__module__.split(".")[0] in ("jax", "jaxlib")


def _is_torch(array: Any) -> bool:
    return type(array).__module__.split(".")[0] == "torch"


def is_module(f: Any) -> bool:
    """Whether it is a torch.nn.Module, without loading PyTorch for what is none."""
    return any(c.__module__.split(".")[0] == "torch" and c.__name__ == "Module" for c in type(f).__mro__)


def layer_of(f: Any) -> Layer | None:
    """The network of stax whose ``apply_fn`` a function is."""
    own = f if isinstance(f, Layer) else getattr(f, "__self__", None)
    return own if isinstance(own, Layer) else None


@dataclass(frozen=True)
class Bound:
    """A function with the library that it is written in."""

    f: F
    library: Any  # Torch or Jax
    layer: Layer | None  # the network of stax that it is
    numpy: bool  # whether arrays were NumPy's, and so are answers

    def give(self, array: Any) -> Any:
        """An answer, in the library of what was asked."""
        return array.detach().cpu().numpy() if self.numpy else array


def bound(f: Any, params: Tree, inputs: Any, what: str) -> Bound:
    """The library that a function is written in, as its parameters and inputs say.

    Raises
    ------
    TypeError
        Arrays of both libraries, or of neither where the function is not one of stax; a tree without arrays.
    """
    arrays = [*leaves(params), *leaves(inputs)]
    torch_ones, jax_ones = any(map(_is_torch, arrays)), any(map(_is_jax, arrays))
    if torch_ones and jax_ones:
        raise TypeError(f"[{what}] params and inputs are arrays of PyTorch and of JAX")
    layer, module = layer_of(f), is_module(f)
    if jax_ones:
        return Bound(f.apply_fn if isinstance(f, Layer) else f, Jax(), layer, False)
    plain = arrays and all(isinstance(a, np.ndarray) for a in arrays)
    if not torch_ones and not (plain and (layer is not None or module)):
        given = describe(arrays[0]) if arrays else "no arrays"
        raise TypeError(
            f"[{what}] f is differentiated by PyTorch or JAX: params and inputs must be their arrays, given {given} "
            "(NumPy's are taken for networks of stax and for a torch.nn.Module)"
        )
    needed(what)
    if module:
        return Bound(_functional(f), Torch(), None, not torch_ones)
    if layer is not None:
        return Bound(quick(layer).apply_fn, Torch(), layer, not torch_ones)
    return Bound(f, Torch(), None, False)


def _functional(module: Any) -> F:
    import torch

    def call(params: Tree, x: Any, **keywords: Any) -> Any:
        return torch.func.functional_call(module, params, (x,), keywords)

    return call


class Torch:
    """Derivatives by torch.func."""

    name = "torch"

    def array(self, value: Any) -> Any:
        import torch

        if isinstance(value, np.ndarray):
            return torch.from_numpy(np.ascontiguousarray(value))
        return value.detach()

    def jacobian(self, f: F, params: Tree, x: Any, keywords: dict[str, Any], each: bool) -> list[Any]:
        """By every leaf, (outputs of the batch ..., size of the leaf); ``each``: samples are independent."""
        import torch

        flat = list(leaves(params))

        def of(values: Any, batch: Any) -> Any:
            rest = iter(values)
            return f(mapped(params, lambda _: next(rest)), batch, **keywords)

        if each:
            one = torch.func.jacrev(lambda values, sample: of(values, some(sample, None))[0])
            rows = torch.func.vmap(one, (None, 0), randomness="same")(flat, x)
        else:
            rows = torch.func.jacrev(lambda values: of(values, x))(flat)
        return [r.reshape(*r.shape[: r.ndim - leaf.ndim], -1) for r, leaf in zip(rows, flat, strict=True)]

    def call(self, f: F, params: Tree, x: Any, keywords: dict[str, Any]) -> Any:
        import torch

        with torch.no_grad():
            return f(params, x, **keywords)

    def einsum(self, text: str, *arrays: Any) -> Any:
        import torch

        return torch.einsum(text, *arrays)

    def concatenate(self, parts: list[Any], axis: int) -> Any:
        import torch

        return torch.cat(parts, dim=axis)

    def jvp(self, f: Callable[[Tree], Any], params: Tree, tangents: Tree) -> tuple[Any, Any]:
        flat, structure = list(leaves(params)), params

        def of(*values: Any) -> Any:
            rest = iter(values)
            return f(mapped(structure, lambda _: next(rest)))

        return jvp(of, tuple(flat), tuple(leaves(tangents)))

    def vjp(self, f: Callable[[Tree], Any], params: Tree) -> Callable[[Any], Tree]:
        import torch

        flat = list(leaves(params))

        def of(*values: Any) -> Any:
            rest = iter(values)
            return f(mapped(params, lambda _: next(rest)))

        made: Any = torch.func.vjp(of, *flat)
        pull = made[1]

        def back(cotangent: Any) -> Tree:
            rest = iter(pull(cotangent))
            return mapped(params, lambda _: next(rest))

        return back


class Jax:
    """Derivatives by JAX."""

    name = "jax"

    def array(self, value: Any) -> Any:
        from jax import numpy

        return numpy.asarray(value)

    def jacobian(self, f: F, params: Tree, x: Any, keywords: dict[str, Any], each: bool) -> list[Any]:
        import jax

        flat, tree = jax.tree_util.tree_flatten(params)

        def of(values: Any, batch: Any) -> Any:
            return f(jax.tree_util.tree_unflatten(tree, values), batch, **keywords)

        if each:
            rows = jax.vmap(jax.jacrev(lambda values, sample: of(values, some(sample, None))[0]), (None, 0))(flat, x)
        else:
            rows = jax.jacrev(lambda values: of(values, x))(flat)
        return [r.reshape(*r.shape[: r.ndim - leaf.ndim], -1) for r, leaf in zip(rows, flat, strict=True)]

    def call(self, f: F, params: Tree, x: Any, keywords: dict[str, Any]) -> Any:
        return f(params, x, **keywords)

    def einsum(self, text: str, *arrays: Any) -> Any:
        from jax import numpy

        return numpy.einsum(text, *arrays, precision="highest")

    def concatenate(self, parts: list[Any], axis: int) -> Any:
        from jax import numpy

        return numpy.concatenate(parts, axis=axis)

    def jvp(self, f: Callable[[Tree], Any], params: Tree, tangents: Tree) -> tuple[Any, Any]:
        import jax

        found: tuple[Any, Any] = jax.jvp(f, (params,), (tangents,))
        return found

    def vjp(self, f: Callable[[Tree], Any], params: Tree) -> Callable[[Any], Tree]:
        import jax

        _, pull = jax.vjp(f, params)
        return lambda cotangent: pull(cotangent)[0]
