"""What a kernel function offers to those who differentiate it: parameters by path, and derivatives in closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from ..base.arraylike import describe
from ..engines.memory import BUDGET
from ..network.layer import Layer
from ..network.parameters import check_names, known_parameters, parameters_of, with_parameters
from .asked import NOTHING, Asked, asked
from .reverse import (
    FIELDS,
    Call,
    Gradients,
    check_cotangents,
    check_wrt,
    run_diagonal_vjp,
    run_jacobian,
    run_vjp,
)

Array = npt.NDArray[Any]


class Differentiable:
    """Base of the kernel function."""

    layer: Layer

    @property
    def parameters(self) -> dict[str, float]:
        """Every number that the network's layers were given, by its path: ``{"0.W_std": 1.5, "0.b_std": 0.1, ...}``.

        A path is the indices of ``serial`` and ``parallel`` from the root and the argument's name, joined by dots.
        What is None is no parameter.
        """
        return parameters_of(self.layer)

    def with_parameters(self, values: Mapping[str, float]) -> Any:
        """The kernel function of the same network with other values of some parameters.

        Parameters
        ----------
        values : mapping of str to float
            By path, as :attr:`parameters` has them.

        Returns
        -------
        KernelFn
            Nothing is compiled anew: programs differ in numbers alone.

        Raises
        ------
        TypeError, ValueError
            For a path that is not there, with the nearest one; as the layers do for values.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"[with_parameters] values must be a dict of paths and numbers, given {describe(values)}")
        check_names("with_parameters", values, parameters_of(self.layer))
        return with_parameters(self.layer, dict(values)).kernel_fn

    def vjp(
        self, x1: Any, x2: Any = None, *, cotangents: Any, wrt: str | Sequence[str] = ("x1", "x2", "parameters"),
        pattern: Any = None, mask_constant: float | None = None, batch_dims: int = 0, backend: str | None = None,
        num_threads: int | None = None, memory_budget: int = BUDGET,
    ) -> Gradients:  # fmt: skip
        """Derivatives of ``L = sum(C * nngp) + sum(C' * ntk)`` in the inputs and in the parameters of the layers.

        Parameters
        ----------
        x1 : numpy.ndarray (n1, d) or (n1, h, w, c), float32 or float64
            As the kernel function takes it; a tuple for a ``parallel`` network.
        x2 : numpy.ndarray (n2, d) or (n2, h, w, c), optional
            None: x1 again, of which L is then a function in both places.
        cotangents : dict
            ``{"nngp": C, "ntk": C'}``, one of them or both: dL/dK of every entry, (n1, n2), or (n1, n2, h, h', w, w')
            where the network ends with positions; or a pair of factors (U (n1, m), V (n2, m)) for ``C = U V^T``, of
            which no plane is made. A tuple of dicts for a network with several outputs. Need not be symmetric.
        wrt : str or tuple of str
            'x1', 'x2', 'parameters' for all of them, or paths (:attr:`parameters`): what is asked for.
        pattern, mask_constant : optional
            As the kernel function takes them. Graphs do not move; the gradient of masked entries is 0.
        batch_dims : {0, 1}
            Leading axes that count independent problems, of inputs and cotangents. Parameters gather from all.
        backend, num_threads : optional
            As for :func:`fastntk.options`. Reverse passes are compiled on the processor (docs/gradients.md says of
            which networks); everything else is NumPy's on every backend.
        memory_budget : int
            Inputs with spatial axes: bytes that the call may take beside inputs and results. NumPy's reverse pass
            keeps all pairs of positions of every layer of some pairs of images: of one pair at least. The compiled
            one keeps tables of images and buffers of threads.

        Returns
        -------
        Gradients
            ``x1``, ``x2`` of the inputs' shapes and dtype, ``parameters`` by path.

        Raises
        ------
        TypeError
            Integer inputs, cotangents that are no real numbers; as the kernel function.
        ValueError
            Cotangents of another shape, unknown names; as the kernel function.
        NotImplementedError
            A Kernel as input, inputs on a device.
        MemoryError
            One pair of images does not fit into ``memory_budget``.

        Notes
        -----
        Computed in float64. The cost is that of a few kernels, whatever the number of parameters; beside inputs and
        results only a tile of pairs is kept. Errors stay at rounding for close inputs too: at a relative distance r,
        1e-12 of the largest entry without biases, and about 1e-16 / r with them or with spatial axes.

        Where a kernel has no derivative the result is the mean of the one-sided ones, never NaN: at an exact duplicate
        off the diagonal, and at opposite inputs, the radial part alone. The diagonal of a symmetric call is a function
        of one input, and exact. Of an input of zeros, and W_std or b_std of 0, the result is finite. NaN in a row
        reaches that row, all rows of the other side and the parameters.

        Once differentiable. Formulas and conventions: docs/gradients.md.
        """
        known = known_parameters(self.layer)
        inputs, names = check_wrt("vjp", wrt, ("x1", "x2"), known)
        extras = _asked(pattern, mask_constant)
        call = Call("vjp", self.layer, x1, x2, batch_dims, (backend, num_threads), names, extras)
        return run_vjp(call, check_cotangents(call, cotangents), ("x1" in inputs, "x2" in inputs), memory_budget)

    def diagonal_vjp(
        self, x: Any, *, cotangents: Any, wrt: str | Sequence[str] = ("x", "parameters"), pattern: Any = None,
        mask_constant: float | None = None, batch_dims: int = 0, backend: str | None = None,
        num_threads: int | None = None, memory_budget: int = BUDGET,
    ) -> Gradients:  # fmt: skip
        """Derivatives of ``sum(C * diagonal(x))``, in O(n).

        Parameters
        ----------
        x : numpy.ndarray (n, d) or (n, h, w, c)
        cotangents : dict
            Of 'nngp' and 'ntk', (n,) or (batch, n); (n, h, h', w, w') where the network ends with positions.
        wrt : str or tuple of str
            'x', 'parameters' or paths.
        pattern : array, optional
            Of networks with Aggregate: the graphs of the samples.
        mask_constant, batch_dims, backend, num_threads, memory_budget
            As in :meth:`vjp`.

        Returns
        -------
        Gradients
            ``x1`` has those of x.

        Raises
        ------
        TypeError, ValueError, NotImplementedError
            As :meth:`vjp`.
        """
        known = known_parameters(self.layer)
        inputs, names = check_wrt("diagonal_vjp", wrt, ("x",), known)
        extras = _asked(None if pattern is None else (pattern, None), mask_constant)
        call = Call("diagonal_vjp", self.layer, x, None, batch_dims, (backend, num_threads), names, extras)
        given = check_cotangents(call, cotangents, diagonal=True)
        return run_diagonal_vjp(call, given, "x" in inputs, memory_budget)

    def jacobian(
        self, x1: Any, x2: Any = None, get: str = "nngp", *, parameters: str | Sequence[Any] | None = None,
        pattern: Any = None, mask_constant: float | None = None, batch_dims: int = 0, backend: str | None = None,
        num_threads: int | None = None, memory_budget: int = BUDGET,
    ) -> Array:  # fmt: skip
        """Derivatives of every entry in every parameter, from one sweep.

        Parameters
        ----------
        x1, x2, pattern, mask_constant, batch_dims, backend, num_threads, memory_budget
            As in :meth:`vjp`.
        get : 'nngp' or 'ntk'
        parameters : sequence of str or of tuples of str, optional
            Paths; a tuple of them is one number that all of these layers share. None: all, each its own, in the
            order of :attr:`parameters`.

        Returns
        -------
        numpy.ndarray (parameters, n1, n2) of x1's dtype, or (parameters, batch, n1, n2)

        Raises
        ------
        TypeError, ValueError, NotImplementedError
            As :meth:`vjp`; for a network with several outputs.
        """
        if get not in FIELDS:
            raise ValueError(f"[jacobian] get must be 'nngp' or 'ntk', given {get!r}")
        known = known_parameters(self.layer)
        wanted = (parameters,) if isinstance(parameters, str) else known if parameters is None else parameters
        groups = [(name,) if isinstance(name, str) else tuple(name) for name in wanted]
        names = dict.fromkeys(name for group in groups for name in group)
        check_names("jacobian", names, known)
        extras = _asked(pattern, mask_constant)
        call = Call("jacobian", self.layer, x1, x2, batch_dims, (backend, num_threads), tuple(names), extras)
        return call.place.give(run_jacobian(call, get, groups, memory_budget))  # type: ignore[no-any-return]


def _asked(pattern: Any, mask_constant: Any) -> Asked:
    if pattern is None and mask_constant is None:
        return NOTHING
    return asked(pattern, mask_constant, None, None, None, None)
