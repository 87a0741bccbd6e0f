"""Many runs: over widths and scales, over initialisations, and the scale where the regimes meet."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.checks import generator, integer, positive
from ..base.files import write_whole
from ..base.options import one_blas_thread
from ..base.progress import bar
from ..network.activation_like import smooth_like
from .flow import Problem
from .results import STATUS, Array, Run, Unfinished
from .workers import in_processes, refuse_in_worker

Job = tuple[int, float, int]  # h, alpha, seed
_SECONDS = 1.0  # between two writes of a file
_ZT = (1e-4, 1e6)  # where alpha_star looks


def _runs(
    problem: Problem, jobs: Sequence[Job], workers: Any, progress: bool
) -> Generator[tuple[Job, Run], None, None]:
    """Runs as they end; close it to end them."""
    count = min(integer(problem.what, "workers", workers), max(len(jobs), 1))
    with bar(len(jobs), progress, "run") as report:
        if count == 1:
            for job in jobs:
                with one_blas_thread():
                    found = problem.run(*job)
                report(1)
                yield job, found
            return
        refuse_in_worker(problem.what)
        with closing(in_processes(problem.run, jobs, count, problem.what)) as results:
            for result in results:
                report(1)
                yield result


def _seeds(rng: Any, count: int, what: str) -> list[int]:
    return [int(s) for s in generator(rng, what).integers(2**63, size=count)]


# ---------------------------------------------------------------- scans


@dataclass(frozen=True)
class Scan:
    """Runs over widths, scales and initialisations: arrays (H, A, D).

    Attributes
    ----------
    h : numpy.ndarray (H,) of int
    alpha, zt : numpy.ndarray (H, A)
        Scale, and ``sqrt(h) alpha``.
    seeds : tuple of int (D,)
        Of the initialisations, the same for all widths and scales.
    dtheta, t, t1 : numpy.ndarray (H, A, D)
        As in :class:`Run`: kernel change, time, and when the kernel change passed ``t1_at`` (infinite: never).
    F : numpy.ndarray (H, A, D, P)
    F_test : numpy.ndarray (H, A, D, m) or None
    status : numpy.ndarray (H, A, D) of str
    steps : numpy.ndarray (H, A, D) of int
    resumed : int
        Runs that were read from the file.
    """

    h: npt.NDArray[np.intp]
    alpha: Array
    zt: Array
    seeds: tuple[int, ...]
    dtheta: Array
    t: Array
    t1: Array
    F: Array
    F_test: Array | None
    status: npt.NDArray[np.str_]
    steps: npt.NDArray[np.intp]
    resumed: int

    @property
    def converged(self) -> npt.NDArray[np.bool_]:
        """(H, A, D). Numbers of other runs are of where they stood when they ended."""
        return np.asarray(self.status == "converged")


def _row(found: Run) -> dict[str, Any]:
    """A run's numbers as JSON has them; it has no infinity."""
    return {
        "status": found.status, "dtheta": found.dtheta, "t": found.t, "steps": found.steps,
        "t1": None if found.t1 == math.inf else found.t1, "F": found.F.tolist(),
        "F_test": None if found.F_test is None else found.F_test.tolist(),
    }  # fmt: skip


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _reason(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else (str(error) or type(error).__name__)


def _wrong(row: Any, samples: int, tests: int | None) -> str:
    """What a run of a file lacks of one that ``_row`` made; empty where it lacks nothing."""
    if not isinstance(row, dict):
        return "no numbers"

    def real(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

    def vector(value: Any, size: int) -> bool:
        return isinstance(value, list) and len(value) == size and all(map(real, value))

    test = row.get("F_test", 0)
    fits = {
        "status": row.get("status") in STATUS,
        "dtheta": real(row.get("dtheta")),
        "t": real(row.get("t")),
        "t1": "t1" in row and (row["t1"] is None or real(row["t1"])),
        "steps": real(row.get("steps")) and isinstance(row["steps"], int),
        "F": vector(row.get("F"), samples),
        "F_test": test is None if tests is None else vector(test, tests),
    }
    return ", ".join(f"no {name} as a scan writes it" for name, fit in fits.items() if not fit)


class _Store:
    """Finished runs by (h, alpha, seed), in a file of JSON where there is a path."""

    def __init__(self, problem: Problem, path: Any) -> None:
        self._path = None if path is None else Path(path)
        self._problem, self.rows, self._written = _fingerprint(problem), dict[str, Any](), -math.inf
        if self._path is None:
            return
        if not self._path.parent.is_dir():
            raise ValueError(f"[{problem.what}] path {self._path}: its folder does not exist")
        if not os.access(self._path.parent, os.W_OK):
            raise ValueError(f"[{problem.what}] path {self._path}: no permission to write in its folder")
        if not self._path.exists():
            return
        if not self._path.is_file():
            raise ValueError(f"[{problem.what}] path {self._path} is no regular file")
        try:
            held = json.loads(self._path.read_text(encoding="utf-8"), parse_constant=_no_number)
            self.rows, problem_held = held["runs"], held["problem"]
            if not isinstance(self.rows, dict):
                raise TypeError("runs is no object")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"[{problem.what}] {self._path} is no file of a scan: {_reason(error)}") from None
        except OSError as error:
            raise ValueError(f"[{problem.what}] {self._path} cannot be read: {_reason(error)}") from None
        if problem_held != self._problem:
            raise ValueError(f"[{problem.what}] {self._path} holds runs on other samples, or with other options")
        tests = None if problem.x_test is None else len(problem.x_test)
        for key, row in self.rows.items():
            if wrong := _wrong(row, len(problem.y), tests):
                raise ValueError(f"[{problem.what}] {self._path} is damaged: run {key!r} has {wrong}")

    @staticmethod
    def key(job: Job) -> str:
        return f"{job[0]} {job[1]!r} {job[2]}"

    def write(self, at_once: bool = True) -> None:
        """Whole or not at all: a reader never sees half a file."""
        if self._path is None or not (at_once or time.monotonic() - self._written > _SECONDS):
            return
        text = json.dumps({"problem": self._problem, "runs": self.rows}, allow_nan=False)
        write_whole(self._path, text.encode())
        self._written = time.monotonic()


def _fingerprint(problem: Problem) -> str:
    """Of all that decides what a run gives, besides h, alpha and the seed."""
    z = np.linspace(-4, 4, 81)
    act = problem.act
    if not isinstance(act, str):
        act = np.asarray(smooth_like(act, problem.what).phi(z), dtype=np.float64).tolist()
    parts = [
        problem.x.tolist(), problem.y.tolist(), None if problem.x_test is None else problem.x_test.tolist(), act,
        problem.L, problem.loss, problem.stop, problem.t1_at, problem.step, problem.max_steps,
        *([] if problem.kernel_samples is None else [problem.kernel_samples]),
        *([] if problem.network is None else [str(problem.network(8))]),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _grid(what: str, name: str, values: Any) -> Array:
    found = np.array(values, dtype=np.float64)
    if found.ndim != 1 or not found.size or not (np.isfinite(found) & (found > 0)).all():
        raise ValueError(f"[{what}] {name} must be a vector of positive numbers, given {values!r}")
    return found


def scan(
    x: Any, y: Any, h_grid: Sequence[int], alpha_grid: Any = None, L: int = 1, *, zt_grid: Any = None, draws: int = 1,
    rng: np.random.Generator | int = 0, workers: int = 1, path: Any = None, progress: bool = False, **options: Any,
) -> Scan:  # fmt: skip
    """Train networks over a grid of widths and scales.

    Parameters
    ----------
    x, y, L, **options
        As for :func:`run`.
    h_grid : sequence of int (H,)
    alpha_grid : array_like (A,)
        Scales, the same for all widths; or
    zt_grid : array_like (A,)
        values of ``sqrt(h) alpha``. Exactly one of both.
    draws : int
        Initialisations D at each point, with the same seeds at all.
    rng : numpy.random.Generator or int
        Draws the seeds. More draws from one integer begin with the same seeds.
    workers : int
        Processes; each with one BLAS thread where threadpoolctl is installed. They end with this one, and at once on
        Ctrl-C. The script is not run again in them, unless it defines ``act`` itself: then its main part must be
        guarded by ``if __name__ == "__main__"``.
    path : path-like, optional
        File of finished runs (JSON), written while the scan goes, whole each time. A scan that finds it trains only
        what it lacks; grids and draws may have grown. For one process at a time. What was finished before Ctrl-C or an
        error is in it.
    progress : bool
        Shows a bar, one unit for each run still to be made.

    Returns
    -------
    Scan

    Raises
    ------
    TypeError
        Not exactly one of ``alpha_grid`` and ``zt_grid``; and as :func:`run`.
    ValueError
        Grids that are not positive numbers, a file of another problem or of another kind; and as :func:`run`.
    Unfinished
        No run converged. (Of some that did not, ``status`` tells.)
    RuntimeError
        A worker that was killed; an ``act`` of a script that has no guarded main part.

    Notes
    -----
    With one worker Ctrl-C is heard between the products of a step.
    """
    what = "scan"
    problem = Problem.of(what, x, y, L, **options)
    widths = [integer(what, "h_grid", h) for h in h_grid]
    if (alpha_grid is None) == (zt_grid is None):
        raise TypeError(f"[{what}] takes exactly one of alpha_grid and zt_grid")
    scales = _grid(what, "alpha_grid", alpha_grid) if zt_grid is None else _grid(what, "zt_grid", zt_grid)
    if not widths:
        raise ValueError(f"[{what}] h_grid is empty")
    roots = np.sqrt(widths)[:, None]
    alpha = np.repeat(scales[None], len(widths), axis=0) if zt_grid is None else scales / roots
    seeds = _seeds(rng, integer(what, "draws", draws), what)
    jobs = [(h, float(a), s) for h, row in zip(widths, alpha, strict=True) for a in row for s in seeds]
    store = _Store(problem, path)
    due = [job for job in dict.fromkeys(jobs) if store.key(job) not in store.rows]
    failed: list[Run] = []
    try:
        with closing(_runs(problem, due, workers, progress)) as runs:
            for job, found in runs:
                store.rows[store.key(job)] = _row(found)
                store.write(at_once=False)
                if not found.converged:
                    failed.append(found)
    finally:
        if due:
            store.write()
    rows = [store.rows[store.key(job)] for job in jobs]
    shape = (*alpha.shape, len(seeds))

    def field(name: str) -> Any:
        return np.array([row[name] for row in rows])

    status = field("status").reshape(shape)
    if not (status == "converged").any():
        raise Unfinished(f"[{what}] no run converged: {_counts(status)}", tuple(failed))
    return Scan(
        np.array(widths), alpha, alpha * roots, tuple(seeds), field("dtheta").reshape(shape),
        field("t").reshape(shape), np.array([math.inf if r["t1"] is None else r["t1"] for r in rows]).reshape(shape),
        field("F").reshape(*shape, -1), None if problem.x_test is None else field("F_test").reshape(*shape, -1),
        status, field("steps").reshape(shape), len(jobs) - len(due),
    )  # fmt: skip


def _counts(status: Any) -> str:
    found = np.asarray(status).ravel().tolist()
    return ", ".join(f"{found.count(name)} {name}" for name in STATUS if name in found)


# ---------------------------------------------------------------- ensembles


@dataclass(frozen=True)
class Ensemble:
    """Independent networks on the same samples; statistics of those that converged, K of M.

    Attributes
    ----------
    runs : tuple of Run (M,)
    F : numpy.ndarray (K, P)
        Predictors on the training samples.
    F_test : numpy.ndarray (K, m) or None
    """

    runs: tuple[Run, ...]
    F: Array
    F_test: Array | None

    def _outputs(self) -> Array:
        return self.F if self.F_test is None else self.F_test

    @property
    def converged(self) -> npt.NDArray[np.bool_]:
        """(M,)."""
        return np.array([one.converged for one in self.runs])

    @property
    def mean(self) -> Array:
        """The ensemble's predictor: mean over networks, on the test samples (m,) where there are any, else (P,)."""
        return np.asarray(self._outputs().mean(axis=0))

    @property
    def std(self) -> Array:
        """Standard deviation over networks, of each sample."""
        return np.asarray(self._outputs().std(axis=0, ddof=1))

    @property
    def fluctuation(self) -> float:
        """Root mean square of ``std``: of order ``h^(-1/2)``. That of the mean of K networks is ``K^(-1/2)`` of it."""
        return float(np.sqrt(np.mean(self.std**2)))


def ensemble(
    x: Any, y: Any, h: int, L: int = 1, alpha: float = 1.0, M: int = 10, *, rng: np.random.Generator | int = 0,
    workers: int = 1, progress: bool = False, **options: Any,
) -> Ensemble:  # fmt: skip
    """Train M networks from independent initialisations.

    Parameters
    ----------
    x, y, h, L, alpha, **options
        As for :func:`run`. Fluctuations are seen on ``x_test``: on the training samples all end near ``stop``.
    M : int
        At least 2.
    rng, workers, progress
        As for :func:`scan`.

    Returns
    -------
    Ensemble

    Raises
    ------
    ValueError
        M below 2; and as :func:`run`.
    Unfinished
        Fewer than two networks converged.
    """
    what = "ensemble"
    problem = Problem.of(what, x, y, L, **options)
    if integer(what, "M", M) < 2:
        raise ValueError(f"[{what}] M must be at least 2, given {M}")
    jobs = [(h, alpha, seed) for seed in _seeds(rng, M, what)]
    with closing(_runs(problem, jobs, workers, progress)) as ended:
        found = dict(ended)
    runs = tuple(found[job] for job in jobs)
    good = [one for one in runs if one.converged]
    if len(good) < 2:
        failed = tuple(one for one in runs if not one.converged)
        raise Unfinished(f"[{what}] fewer than two networks converged: {_counts([r.status for r in runs])}", failed)
    tests = None if problem.x_test is None else np.array([one.F_test for one in good])
    return Ensemble(runs, np.array([one.F for one in good]), tests)


# ---------------------------------------------------------------- where the regimes meet


@dataclass(frozen=True)
class AlphaStar:
    """The scale at which the kernel change crosses a threshold.

    Attributes
    ----------
    alpha : float
        ``alpha*``; geometric middle of the bracket.
    bracket : tuple of float
        Two scales, with a kernel change above and below the threshold.
    h : int
    threshold : float
    runs : tuple of Run
        All that were made, by alpha.
    """

    alpha: float
    bracket: tuple[float, float]
    h: int
    threshold: float
    runs: tuple[Run, ...]

    @property
    def zt(self) -> float:
        """``sqrt(h) alpha*``, of order 1."""
        return math.sqrt(self.h) * self.alpha


def alpha_star(
    x: Any, y: Any, h: int, L: int = 1, *, threshold: float = 0.5, rtol: float = 0.05,
    rng: np.random.Generator | int = 0, **options: Any,
) -> AlphaStar:  # fmt: skip
    """Find where lazy training ends, by bisection in log alpha.

    Parameters
    ----------
    x, y, h, L, **options
        As for :func:`run`.
    threshold : float
        Kernel change ``|Theta - Theta_0| / |Theta_0|`` at alpha*.
    rtol : float
        Relative width of the final bracket.
    rng : numpy.random.Generator or int
        Of the initialisation, one for all scales.

    Returns
    -------
    AlphaStar

    Raises
    ------
    ValueError
        The kernel change does not cross the threshold for ``sqrt(h) alpha`` between 1e-4 and 1e6; and as :func:`run`.
    Unfinished
        A run did not converge: its kernel change is not that of training.
    """
    what = "alpha_star"
    problem = Problem.of(what, x, y, L, **options)
    level, close = positive(threshold, "threshold", what), positive(rtol, "rtol", what)
    root = math.sqrt(integer(what, "h", h))
    seed = _seeds(rng, 1, what)[0] if isinstance(rng, np.random.Generator) else rng
    runs: list[Run] = []

    def above(zt: float) -> bool:
        found = problem.run(h, zt / root, seed)
        runs.append(found)
        if not found.converged:
            raise Unfinished(f"[{what}] the run at alpha = {found.alpha:g} is {found.status}", (found,))
        return found.dtheta >= level

    with one_blas_thread():
        low = high = 1.0  # in zt; the change falls with it
        if above(1.0):
            while above(high := high * 10):
                low = high
                _within(what, high, runs, level)
        else:
            while not above(low := low / 10):
                high = low
                _within(what, low, runs, level)
        while high / low > 1 + close:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if above(middle) else (low, middle)
    bracket = (low / root, high / root)
    return AlphaStar(math.sqrt(bracket[0] * bracket[1]), bracket, h, level, tuple(sorted(runs, key=lambda r: r.alpha)))


def _within(what: str, zt: float, runs: list[Run], level: float) -> None:
    if not _ZT[0] * 1.01 < zt < _ZT[1] * 0.99:
        seen = sorted(one.dtheta for one in runs)
        raise ValueError(f"[{what}] the kernel change stays between {seen[0]:.3g} and {seen[-1]:.3g} for sqrt(h) alpha "
                         f"between {_ZT[0]:g} and {_ZT[1]:g}: it does not cross {level:g}")  # fmt: skip
