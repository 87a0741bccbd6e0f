"""Conjugate gradients over tiles of the kernel, on workers and from stores, whose iteration survives any kill."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from ..base.arraylike import describe
from ..base.checks import count
from ..base.door import door
from ..base.files import write_whole
from ..predict.iterative import CGPredictor, Solver, check_stop, solved
from ..predict.tiles import BUDGET
from .cluster import check_client
from .errors import StoreError, StoreMismatchError, named
from .problem import problem_of, threads
from .stores import gram
from .targets import target_of
from .tiles import Tiles

Array = npt.NDArray[Any]

_WHAT = "conjugate_gradient"
_EVERY = 60.0  # seconds between checkpoints


class Checkpoint:
    """The state of an iteration in a file ``.npz``, there whole or not at all.

    Parameters
    ----------
    path : Path
    of : dict
        What must be the same for the iteration to go on.
    every : float
        Seconds between two.
    """

    def __init__(self, path: Path, of: Mapping[str, Any], every: float) -> None:
        self._path, self._of, self._every = path, dict(of), every
        self._last = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._last >= self._every

    def save(self, **state: Any) -> None:
        content = io.BytesIO()
        np.savez(content, of=np.array(json.dumps(self._of)), **state)
        with named(_WHAT, str(self._path), "the checkpoint is not written"):
            write_whole(self._path, content.getvalue())
        self._last = time.monotonic()

    def load(self) -> dict[str, Array] | None:
        """The state, None where there is none.

        Raises
        ------
        StoreError
            Another kind of file, or a damaged one.
        StoreMismatchError
            Of another solve, with what differs.
        """
        if not self._path.exists():
            return None
        try:
            with self._path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                found = {name: archive[name] for name in archive.files}
            of = json.loads(str(found.pop("of")))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise StoreError(f"[{_WHAT}] checkpoint {self._path} cannot be read: {error}") from error
        differing = tuple(name for name in self._of if of.get(name) != self._of[name])
        if differing:
            lines = (f"{name}: {of.get(name)!r} in the file, {self._of[name]!r} asked for" for name in differing)
            raise StoreMismatchError(
                f"[{_WHAT}] checkpoint {self._path} is of another solve, and is left as it is. {'; '.join(lines)}",
                differing,
            )
        return found


class ResumableSolver(Solver):
    """Conjugate gradients whose state is saved now and then, and taken up again.

    The recursion is that of :func:`scipy.sparse.linalg.cg`, written out because that gives its state to nobody.
    """

    def __init__(self, *args: Any, checkpoint: Checkpoint | None = None) -> None:
        super().__init__(*args)
        self.checkpoint = checkpoint
        self._inner: tuple[Array, Array, Array, float] | None = None  # step, r, p, rho
        self._before = math.inf

    def begin(self, right: Array) -> tuple[Array, float]:
        left, self._before = super().begin(right)
        state = None if self.checkpoint is None else self.checkpoint.load()
        if state is not None:
            self.alpha, left, self._before = state["alpha"], state["left"], float(state["before"])
            self.history = list(state["history"])
            self.steps, self.passes = int(state["steps"]), int(state["passes"])
            if "p" in state:
                self._inner = state["step"], state["r"], state["p"], float(state["rho"])
                self._step = state["step"]
        return left, self._before

    def sweep(self, left: Array, atol: float, max_iter: int) -> tuple[Array, bool]:
        x, r, p, rho_before = self._inner or (np.zeros_like(left), left.copy(), np.zeros_like(left), 0.0)
        self._inner = None
        for _ in range(max_iter):
            if np.linalg.norm(r) < atol:
                break
            z = self._psolve(r).reshape(self.shape)
            rho = float(np.vdot(r, z))
            p = z + (rho / rho_before) * p if rho_before else z.copy()
            q = self._matvec(p).reshape(self.shape)
            step = rho / float(np.vdot(p, q))
            x += step * p
            r -= step * q
            rho_before = rho
            self._callback(x)
            if self.checkpoint is not None and self.checkpoint.due():
                self._save(left, step=x, r=r, p=p, rho=rho)
        else:
            return x, True
        return x, False

    def _recompute(self) -> Array:
        """The end of a sweep, from which the next one begins."""
        left = super()._recompute()
        self._before = float(self.history[-1].max())
        if self.checkpoint is not None:
            self._save(left)
        return left

    def _save(self, left: Array, **inner: Any) -> None:
        assert self.checkpoint is not None
        self.checkpoint.save(
            alpha=self.alpha, left=left, before=self._before, history=np.array(self.history), steps=self.steps,
            passes=self.passes, **inner,
        )  # fmt: skip


@door
def conjugate_gradient(
    kernel_fn: Any, x_train: Any, y_train: Any, get: str = "nngp", diag_reg: float = 0.0,
    diag_reg_absolute_scale: bool = False, trace_axes: Any = (-1,), *, tol: float = 1e-6, rank: int | None = None,
    max_iter: int = 1000, client: Any = None, store: Any = None, checkpoint: Any = None,
    checkpoint_seconds: float = _EVERY, chunks: int | None = None, backend: str | None = None,
    num_threads: int | None = None, memory_budget: int = BUDGET, progress: bool = False, rng: int = 0,
    storage_options: Mapping[str, Any] | None = None,
) -> CGPredictor:  # fmt: skip
    """:func:`fastntk.predict.conjugate_gradient` over the workers of a cluster, from a store, to be resumed.

    Parameters
    ----------
    kernel_fn, x_train, y_train, get, diag_reg, diag_reg_absolute_scale, trace_axes, tol, rank, max_iter, memory_budget
        As for :func:`fastntk.predict.conjugate_gradient`; ``kernel_fn`` of a network, as for :func:`gram`.
    client : distributed.Client, optional
        Blocks are computed, or read, and multiplied on its workers, predictions for test points too. Each holds all of
        ``x_train``. The preconditioner is made here.
    store : str or path, optional
        As for :func:`gram`, which begins or finishes it first; blocks are then read. None: they are computed anew in
        each iteration.
    checkpoint : path, optional
        An ``.npz`` file. The state of the iteration is written to it now and then, and taken from it where it is
        there: after any kill the same call goes on. It has four arrays like y, and stays when the solve is done.
    checkpoint_seconds : float
        Between two.
    chunks : int, optional
        Rows of a block. None: as for :func:`gram`.
    backend, num_threads : optional
        As for :func:`gram`.
    progress : bool
        Show blocks done in this iteration, the residual so far, and the iterations done.
    rng : int
        Draws the preconditioner's columns: the same again after a kill.
    storage_options : dict, optional
        Of fsspec, for a store behind a URL.

    Returns
    -------
    CGPredictor
        ``predictor(x_test)`` gives the mean (m, o).

    Raises
    ------
    TypeError, ValueError, MemoryError, ConvergenceError, IndefiniteError
        As :func:`fastntk.predict.conjugate_gradient` and :func:`gram`. Behind a ConvergenceError for want of
        iterations the same call with a larger ``max_iter`` goes on from the checkpoint.
    StoreMismatchError
        A checkpoint of another solve, or a store of another kernel, with what differs.
    StoreError, OSError
        As :func:`gram`; a checkpoint that cannot be read or written.

    Notes
    -----
    Products have the same bits with any number of workers, and so have solutions, whether or not they were
    interrupted. ``tol``, ``max_iter`` and where blocks come from may change between two calls.

    Examples
    --------
    >>> import numpy as np
    >>> from fastntk import scale, stax
    >>> net = stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1))
    >>> x = np.random.default_rng(0).standard_normal((500, 8))
    >>> solved = scale.conjugate_gradient(net.kernel_fn, x, x[:, :1], "ntk", diag_reg=1e-3)
    >>> solved(x[:3]).shape
    (3, 1)
    """
    check_stop(tol, max_iter, _WHAT)
    check_seed(rng, _WHAT)
    tiles = tiles_of(
        kernel_fn, x_train, get, client, store, chunks, backend, num_threads, memory_budget, progress, storage_options,
        _WHAT,
    )  # fmt: skip
    kept = None
    if checkpoint is not None:
        of = {
            **tiles.problem.fingerprint(), "y": _digest(y_train), "trace_axes": repr(trace_axes),
            "diag_reg": float(diag_reg), "absolute": bool(diag_reg_absolute_scale),
            "rank": None if rank is None else int(rank), "rng": int(rng),
        }  # fmt: skip
        kept = Checkpoint(_path(checkpoint), of, checkpoint_seconds)
        kept.load()  # refused before work
    return solved(
        tiles, y_train, diag_reg, diag_reg_absolute_scale, trace_axes, tol, rank, max_iter, None, memory_budget,
        progress, rng, partial(ResumableSolver, checkpoint=kept),
    )  # fmt: skip


def check_seed(rng: Any, what: str) -> None:
    """Raise unless draws can be made again."""
    if isinstance(rng, bool) or not isinstance(rng, (int, np.integer)):
        raise TypeError(f"[{what}] rng must be an integer, which draws the same after a kill, given {describe(rng)}")


def tiles_of(
    kernel_fn: Any, x_train: Any, get: Any, client: Any, store: Any, chunks: Any, backend: str | None,
    num_threads: int | None, memory_budget: Any, progress: bool, storage_options: Mapping[str, Any] | None, what: str,
) -> Tiles:  # fmt: skip
    """Tiles of the training points, from a store where one is given, which is finished first."""
    if not isinstance(get, str):
        raise TypeError(f"[{what}] get must be one name, 'nngp' or 'ntk', given {get!r}")
    if client is not None:
        check_client(client, what)
    count(memory_budget, "memory_budget", what)
    problem = problem_of(kernel_fn, x_train, None, get, chunks, backend, what)
    target = None
    if store is not None:
        target = target_of(store, problem.layout, storage_options, False, what)
        gram(
            problem.kernel_fn, problem.x1, store, get, chunks=problem.layout.chunks, client=client, progress=progress,
            verify=False, backend=backend, num_threads=num_threads, storage_options=storage_options,
        )  # fmt: skip
    return Tiles(problem, target, client, threads(num_threads, client is not None), memory_budget, what)


def _path(checkpoint: Any) -> Path:
    if not isinstance(checkpoint, (str, os.PathLike)):
        raise TypeError(f"[{_WHAT}] checkpoint must be a path, given {describe(checkpoint)}")
    path = Path(os.fspath(checkpoint))
    if path.suffix != ".npz":
        raise ValueError(f"[{_WHAT}] checkpoint must end in .npz, given {path}")
    return path


def _digest(y: Sequence[Any]) -> str:
    found = np.ascontiguousarray(y)
    content: Any = found.reshape(-1).view(np.uint8)
    return f"{found.shape} {found.dtype} sha256 {hashlib.sha256(content).hexdigest()[:32]}"
