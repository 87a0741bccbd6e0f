"""Kernels of finite networks under Neural Tangents' names, and functions that are polynomials of their parameters."""

from __future__ import annotations

import enum
import itertools
import math
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..base.checks import integer
from ..call.results import named
from .backends import Bound, Tree, bound, count, leaves, mapped, some
from .structured import structured_ntk

_FIELDS = ("nngp", "ntk")
BUDGET = 2**30  # bytes of the Jacobians of a tile


class NtkImplementation(enum.Enum):
    """How an empirical NTK is made.

    AUTO: STRUCTURED_DERIVATIVES where they are known, else JACOBIAN_CONTRACTION. NTK_VECTOR_PRODUCTS: column by
    column. All give the same numbers, to rounding.
    """

    AUTO = 0
    JACOBIAN_CONTRACTION = 1
    NTK_VECTOR_PRODUCTS = 2
    STRUCTURED_DERIVATIVES = 3


def _implementation(given: Any, what: str) -> NtkImplementation:
    try:
        if isinstance(given, str):
            return NtkImplementation[given.upper()]
        return given if isinstance(given, NtkImplementation) else NtkImplementation(getattr(given, "value", given))
    except (KeyError, ValueError):
        names = ", ".join(one.name for one in NtkImplementation)
        raise ValueError(f"[{what}] implementation must be one of {names}, given {given!r}") from None


def _axes(given: Any) -> tuple[int, ...]:
    return (given,) if isinstance(given, int) else tuple(given)


class Layout:
    """Which axes of two outputs are contracted, which are taken together, and which meet in pairs."""

    def __init__(self, ndim: int, trace_axes: Any, diagonal_axes: Any, what: str) -> None:
        found = []
        for name, given in (("trace_axes", trace_axes), ("diagonal_axes", diagonal_axes)):
            axes = _axes(given)
            if any(not -ndim <= a < ndim for a in axes):
                raise ValueError(f"[{what}] {name} {axes} are no axes of outputs of {ndim}")
            found.append({a % ndim for a in axes})
        self.trace, self.diagonal = found
        if self.trace & self.diagonal:
            raise ValueError(f"[{what}] trace_axes and diagonal_axes share {sorted(self.trace & self.diagonal)}")
        letters = iter(string.ascii_lowercase)
        first, second, result = "", "", ""
        for axis in range(ndim):
            one = next(letters)
            other = one if axis in self.trace | self.diagonal else next(letters)
            first, second = first + one, second + other
            if axis not in self.trace:
                result += one if axis in self.diagonal else one + other
        self.first, self.second, self.result = first, second, result

    @property
    def together(self) -> bool:
        """Whether samples of both sides go together."""
        return 0 in self.trace | self.diagonal

    def size(self, shape: Sequence[int]) -> int:
        """What traces are divided by."""
        return math.prod(shape[a] for a in self.trace)

    def contracted(self, library: Any, a: Any, b: Any) -> Any:
        """``sum`` over what is traced, and over parameters where arrays have one axis more."""
        more = "Z" if a.ndim > len(self.first) else ""
        return library.einsum(f"{self.first}{more},{self.second}{more}->{self.result}", a, b)


def _tiles(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _each(vmap_axes: Any, one: Bound, what: str) -> bool:
    """Whether samples are independent, along the first axis of all inputs and outputs."""
    if vmap_axes is None:
        return one.layer is not None

    def flat(axes: Any) -> Iterator[Any]:
        if isinstance(axes, (tuple, list)):
            for own in axes:
                yield from flat(own)
        elif not isinstance(axes, dict):
            yield axes

    if any(a != 0 for a in flat(vmap_axes)):
        raise NotImplementedError(
            f"[{what}] vmap_axes must be 0, the first axis of x and of outputs, given {vmap_axes}"
        )
    return not (isinstance(vmap_axes, tuple) and vmap_axes and isinstance(vmap_axes[-1], dict) and vmap_axes[-1])


def _by_outputs(one: Bound, probe: Tree, make: Callable[[Bound], Any]) -> Tree:
    """What is made of a function with one output, of each output of a tree."""
    if not isinstance(probe, (tuple, list, dict)):
        return one.give(make(one))
    numbers = itertools.count()

    def of(_: Any) -> Any:
        k = next(numbers)
        own = replace(one, f=lambda p, x, **keywords: list(leaves(one.f(p, x, **keywords)))[k], layer=None)
        return one.give(make(own))

    return mapped(probe, of)


def empirical_ntk_fn(
    f: Any, trace_axes: Any = (-1,), diagonal_axes: Any = (), vmap_axes: Any = None,
    implementation: Any = NtkImplementation.AUTO, *, memory_budget: int = BUDGET,
) -> Callable[..., Any]:  # fmt: skip
    """The tangent kernel of a function at given parameters.

    ``Theta(x1, x2) = sum_p df(x1)/dp df(x2)/dp`` over all parameters p.

    Parameters
    ----------
    f : callable, network of stax, or torch.nn.Module
        ``f(params, x, **keywords)``, written in PyTorch or JAX; samples are counted by the first axis of x and of what
        it gives. ``apply_fn`` of stax takes NumPy's arrays too. Of a module ``params`` is a dict as
        ``dict(module.named_parameters())``.
    trace_axes : tuple of int
        Axes of the outputs over which the kernel is averaged.
    diagonal_axes : tuple of int
        Axes of which entries with themselves alone are wanted; with 0 both inputs are as long.
    vmap_axes : 0, None or a tree of 0
        0: samples do not see each other, in inputs and outputs, whose trees it may have. None: that is known of
        networks of stax alone.
    implementation : NtkImplementation, its name or number
    memory_budget : int
        Bytes of Jacobians that are held at a time, where samples are independent.

    Returns
    -------
    callable
        ``ntk_fn(x1, x2, params, **keywords)``; None for x2 is x1 again. Shape (n1, n2), then each axis of the outputs
        that is neither traced nor diagonal twice, those of the diagonal once. In the library, dtype and on the device
        of what it is given.

    Raises
    ------
    TypeError, ValueError
        Axes that outputs do not have; arrays of both libraries, or of neither.
    NotImplementedError
        STRUCTURED_DERIVATIVES where they are not known.

    References
    ----------
    Novak, Sohl-Dickstein and Schoenholz (2022), Fast finite width neural tangent kernel, arXiv:2206.08720.
    """
    what = "empirical_ntk_fn"
    chosen = _implementation(implementation, what)
    budget = integer(what, "memory_budget", memory_budget)

    def ntk_fn(x1: Any, x2: Any, params: Tree, **keywords: Any) -> Any:
        one = bound(f, params, (x1, x2), what)
        library = one.library
        a, b, values = (mapped(tree, library.array) for tree in (x1, x2, params))
        each = _each(vmap_axes, one, what)
        probe = library.call(one.f, values, some(a, slice(1)) if each else a, keywords)
        return _by_outputs(one, probe, lambda own: _ntk(
            own, a, b, values, keywords, trace_axes, diagonal_axes, each, chosen, budget, what
        ))  # fmt: skip

    return ntk_fn


def _ntk(
    one: Bound, x1: Any, x2: Any, params: Tree, keywords: dict[str, Any], trace_axes: Any, diagonal_axes: Any,
    each: bool, chosen: NtkImplementation, budget: int, what: str,
) -> Any:  # fmt: skip
    library = one.library
    n1 = count(x1)
    n2 = n1 if x2 is None else count(x2)
    probe = library.call(one.f, params, some(x1, slice(1)) if each else x1, keywords)
    layout = Layout(probe.ndim, trace_axes, diagonal_axes, what)
    shape = [n1, *probe.shape[1:]]
    if layout.together and n1 != n2:
        raise ValueError(f"[{what}] axis 0 goes together, given {n1} and {n2} samples")
    scale = layout.size(shape)
    if chosen in (NtkImplementation.AUTO, NtkImplementation.STRUCTURED_DERIVATIVES):
        found = None
        plain = library.name == "torch" and not keywords and not isinstance(x1, (tuple, list))
        if one.layer is not None and plain and probe.ndim == 2:
            found = structured_ntk(one.layer, params, x1, x2, layout, budget)
        if found is not None:
            return found / scale
        if chosen is NtkImplementation.STRUCTURED_DERIVATIVES:
            raise NotImplementedError(
                f"[{what}] structured derivatives are those of networks of stax with weights in Dense and Conv, on "
                "arrays of NumPy or PyTorch, with outputs (n, k)"
            )
    if chosen is NtkImplementation.NTK_VECTOR_PRODUCTS:
        return _by_products(one, x1, x2, params, keywords, layout) / scale
    numbers = sum(leaf.size if isinstance(leaf, np.ndarray) else math.prod(leaf.shape) for leaf in leaves(params))
    rows = max(1, budget // (2 * max(1, math.prod(shape[1:]) * numbers) * probe.dtype.itemsize))
    second = x1 if x2 is None else x2
    whole = not each
    tiles = [slice(0, n1)] if whole else _tiles(n1, rows)
    others = [slice(0, n2)] if whole else _tiles(n2, rows)

    def jacobian(x: Any) -> list[Any]:
        return list(library.jacobian(one.f, params, x, keywords, each))

    def contract(a: list[Any], b: list[Any]) -> Any:
        total: Any = 0
        for left, right in zip(a, b, strict=True):
            total = total + layout.contracted(library, left, right)
        return total

    lines = []
    for i in tiles:
        left = jacobian(some(x1, i))
        if layout.together:
            lines.append(contract(left, left if x2 is None else jacobian(second[i])))
            continue
        parts = [contract(left, left if x2 is None and i == j else jacobian(some(second, j))) for j in others]
        lines.append(parts[0] if len(parts) == 1 else library.concatenate(parts, 1))
    if 0 in layout.trace:
        return sum(lines[1:], lines[0]) / scale
    return (lines[0] if len(lines) == 1 else library.concatenate(lines, 0)) / scale


def _by_products(one: Bound, x1: Any, x2: Any, params: Tree, keywords: dict[str, Any], layout: Layout) -> Any:
    """Of every output of x2 the product of its gradient with all gradients of x1."""
    library = one.library
    second = x1 if x2 is None else x2
    back = library.vjp(lambda p: one.f(p, second, **keywords), params)
    probe = library.call(one.f, params, second, keywords)
    columns = []
    for place in np.ndindex(*probe.shape):
        unit = np.zeros(probe.shape, dtype=str(probe.dtype).split(".")[-1])
        unit[place] = 1
        _, column = library.jvp(lambda p: one.f(p, x1, **keywords), params, back(_like(library, unit, probe)))
        columns.append(column.reshape(1, *column.shape))
    full = library.concatenate(columns, 0).reshape(*probe.shape, *columns[0].shape[1:])
    return library.einsum(f"{layout.second}{layout.first}->{layout.result}", full)


def _like(library: Any, array: Any, other: Any) -> Any:
    found = library.array(array)
    return found.to(other.device) if library.name == "torch" else found


def empirical_nngp_fn(f: Any, trace_axes: Any = (-1,), diagonal_axes: Any = ()) -> Callable[..., Any]:
    """The outputs' products ``f(x1) f(x2)`` at given parameters.

    Parameters
    ----------
    f, trace_axes, diagonal_axes
        As for :func:`empirical_ntk_fn`.

    Returns
    -------
    callable
        ``nngp_fn(x1, x2, params, **keywords)``, of the shape of the tangent kernel.

    Raises
    ------
    TypeError, ValueError
        As :func:`empirical_ntk_fn`.
    """
    what = "empirical_nngp_fn"

    def nngp_fn(x1: Any, x2: Any, params: Tree, **keywords: Any) -> Any:
        one = bound(f, params, (x1, x2), what)
        library = one.library
        a, b, values = (mapped(tree, library.array) for tree in (x1, x2, params))
        outputs = library.call(one.f, values, a, keywords)

        def products(first: Any, second: Any) -> Any:
            layout = Layout(first.ndim, trace_axes, diagonal_axes, what)
            if layout.together and len(first) != len(second):
                raise ValueError(f"[{what}] axis 0 goes together, given {len(first)} and {len(second)} samples")
            return one.give(layout.contracted(library, first, second) / layout.size(first.shape))

        return mapped(outputs, products, outputs if x2 is None else library.call(one.f, values, b, keywords))

    return nngp_fn


def kernels_asked(get: Any, what: str) -> tuple[str, ...]:
    names = _FIELDS if get is None else (get,) if isinstance(get, str) else tuple(get)
    if not names or any(name not in _FIELDS for name in names):
        raise ValueError(f"[{what}] get must be 'nngp', 'ntk' or a tuple of them, given {get!r}")
    return names


def as_asked(get: Any, found: Sequence[Any], names: tuple[str, ...]) -> Any:
    return found[0] if isinstance(get, str) else named(names)(*found)


def empirical_kernel_fn(
    f: Any, trace_axes: Any = (-1,), diagonal_axes: Any = (), vmap_axes: Any = None,
    implementation: Any = NtkImplementation.AUTO, *, memory_budget: int = BUDGET,
) -> Callable[..., Any]:  # fmt: skip
    """Both kernels of a function at given parameters.

    Parameters
    ----------
    f, trace_axes, diagonal_axes, vmap_axes, implementation, memory_budget
        As for :func:`empirical_ntk_fn`.

    Returns
    -------
    callable
        ``kernel_fn(x1, x2, get, params, **keywords)``; get is 'nngp', 'ntk', a tuple of them (a named tuple of kernels
        then), or None for both.

    Raises
    ------
    TypeError, ValueError
        As :func:`empirical_ntk_fn`.
    """
    of = {
        "nngp": empirical_nngp_fn(f, trace_axes, diagonal_axes),
        "ntk": empirical_ntk_fn(
            f, trace_axes, diagonal_axes, vmap_axes, implementation, memory_budget=memory_budget
        ),
    }  # fmt: skip

    def kernel_fn(x1: Any, x2: Any, get: Any, params: Tree, **keywords: Any) -> Any:
        names = kernels_asked(get, "empirical_kernel_fn")
        return as_asked(get, [of[name](x1, x2, params, **keywords) for name in names], names)

    return kernel_fn


def empirical_ntk_vp_fn(f: Any, x1: Any, x2: Any, params: Tree, **keywords: Any) -> Callable[[Any], Any]:
    """Products of a tangent kernel with vectors, without the kernel.

    Parameters
    ----------
    f : as for :func:`empirical_ntk_fn`
    x1, x2 : array
        None for x2: x1 again.
    params : tree of arrays

    Returns
    -------
    callable
        From an array of the shape of ``f(params, x2)`` to one of that of ``f(params, x1)``: ``sum_j Theta(x1, x2_j)
        v_j``, over outputs too, nothing averaged.

    Raises
    ------
    TypeError
        As :func:`empirical_ntk_fn`.
    """
    what = "empirical_ntk_vp_fn"
    one = bound(f, params, (x1, x2), what)
    library = one.library
    first, values = library.array(x1), mapped(params, library.array)
    second = first if x2 is None else library.array(x2)
    back = library.vjp(lambda p: one.f(p, second, **keywords), values)

    def ntk_vp(v: Any) -> Any:
        _, found = library.jvp(lambda p: one.f(p, first, **keywords), values, back(library.array(v)))
        return one.give(found)

    return ntk_vp


def linearize(f: Any, params: Tree) -> Callable[..., Any]:
    """The function that is linear in its parameters and touches f at given ones.

    Parameters
    ----------
    f : as for :func:`empirical_ntk_fn`
    params : tree of arrays
        Where they touch.

    Returns
    -------
    callable
        ``f_lin(p, x, **keywords) = f(params, x) + df/dparams (p - params)``; differentiable where f is.

    Raises
    ------
    TypeError
        As :func:`empirical_ntk_fn`.
    """
    return _expanded(f, params, 1, "linearize")


def taylor_expand(f: Any, params: Tree, degree: int) -> Callable[..., Any]:
    """The Taylor polynomial of a function in its parameters about given ones.

    Parameters
    ----------
    f : as for :func:`empirical_ntk_fn`
    params : tree of arrays
    degree : int
        0 or more; 1 is :func:`linearize`.

    Returns
    -------
    callable
        ``f_tayl(p, x, **keywords)``.

    Raises
    ------
    TypeError, ValueError
        As :func:`empirical_ntk_fn`; a degree below 0.
    """
    return _expanded(f, params, integer("taylor_expand", "degree", degree, least=0), "taylor_expand")


def _expanded(f: Any, params: Tree, degree: int, what: str) -> Callable[..., Any]:
    def expanded(p: Tree, x: Any, **keywords: Any) -> Any:
        one = bound(f, (params, p), x, what)
        library = one.library
        # what is given keeps its history: an expansion is there to be trained
        start = mapped(params, library.array)
        now = mapped(p, lambda v: library.array(v) if isinstance(v, np.ndarray) else v)
        inputs = library.array(x) if isinstance(x, np.ndarray) else x
        change = mapped(start, lambda a, b: b - a, now)

        def term(g: Callable[[Tree], Any], order: int) -> Any:
            if order == degree:
                return g(start)
            value = g(start)
            higher = term(lambda q: library.jvp(g, q, change)[1], order + 1)
            return value + higher / (order + 1)

        return one.give(term(lambda q: one.f(q, inputs, **keywords), 0))

    return expanded
