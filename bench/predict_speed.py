"""Time prediction end to end (kernels, solve, predictions) beside Neural Tangents in the same run. How: README.md."""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import memory
import numpy as np
import rivals
from cases import relu
from fastntk import predict, stax
from reports import RESULTS, context, noise_line, write_json
from run import PAUSE, busy, line, once, others, ratio, summary
from scipy import linalg as scipy_linalg

REG = 1e-3  # relative to the mean of the diagonal
OUTPUTS = 10
GET = ("nngp", "ntk")
# Loose on purpose, as in run.py: float32 rivals lose digits in the solve.
AGREE = {"float32": 0.05, "float64": 1e-6}
GOAL = 10.0
MEMORY = (2000, 5000, 10000)  # test points

Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """``t`` None: trained without end. ``covariance``: between all test points, else means alone."""

    name: str
    t: float | None = None
    covariance: bool = False
    dtype: str = "float32"
    n: int = 4000
    m: int = 1000
    d: int = 784
    depth: int = 3
    rounds: int = 5
    rivals: tuple[str, ...] = ("nt_jit",)
    goal: float | None = None

    def data(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Training inputs and targets, test inputs; the same on every call."""
        rng = np.random.default_rng(7)
        x = rng.standard_normal((self.n + self.m, self.d), dtype=np.dtype(self.dtype))
        return x[: self.n], np.sin(x[: self.n, :OUTPUTS]), x[self.n :]

    def kernel_fn(self, module: Any) -> Any:
        _, _, kernel_fn = relu(module, self.depth, 0.1)
        return kernel_fn


def _cases() -> tuple[Case, ...]:
    cases = []
    for d in (784, 64):
        for dtype in ("float32", "float64"):
            for covariance in (False, True):
                end = f"d{d}-{'covariance' if covariance else 'mean'}-{dtype}"
                every = ("nt_jit", "nt") if d == 784 else ("nt_jit",)
                cases.append(Case(f"endless-{end}", None, covariance, dtype, d=d, rivals=every, goal=GOAL))
                if d == 64:
                    cases.append(Case(f"time-{end}", 1e4, covariance, dtype, d=d, rounds=2, goal=GOAL))
    return (*cases, Case("deep-d784-mean-float32", depth=10, goal=GOAL))


CASES = _cases()


# ---- what runs


def ours(case: Case, solve_dtype: Any = None) -> Call:
    x, y, x_test = case.data()
    kernel_fn = case.kernel_fn(stax)

    def call() -> Any:
        predict_fn = predict.gradient_descent_mse_ensemble(kernel_fn, x, y, diag_reg=REG, solve_dtype=solve_dtype)
        found = predict_fn(t=case.t, x_test=x_test, get=GET, compute_cov=case.covariance)
        added = max(c.jitter for c in predict_fn.conditioning.values())
        if added:
            raise rivals.Missing(f"another matrix was solved: {added:.3g} was added to its diagonal")
        return found

    return call


def nt(case: Case, jit: bool) -> Call:
    """Neural Tangents: ``kernel_fn`` as it is or jitted, the rest as it is; until the result is there."""
    module = rivals.nt_stax()
    import jax

    try:
        rival = import_module("neural_tangents.predict")
    except Exception as error:  # whatever an archived package meets in a later JAX
        raise rivals.Missing(f"neural_tangents.predict does not load: {type(error).__name__}: {error}") from error
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", case.dtype == "float64")
    kernel_fn = case.kernel_fn(module)
    if jit:
        kernel_fn = jax.jit(kernel_fn, static_argnames=("get",))
    x, y, x_test = map(jax.device_put, case.data())

    def call() -> Any:
        predict_fn = rival.gradient_descent_mse_ensemble(kernel_fn, x, y, diag_reg=REG)
        return jax.block_until_ready(predict_fn(t=case.t, x_test=x_test, get=GET, compute_cov=case.covariance))

    return call


RIVALS: dict[str, Callable[[Case], Call]] = {"nt_jit": lambda c: nt(c, True), "nt": lambda c: nt(c, False)}


def floor(case: Case) -> Call:
    """SciPy's bare factorisations of matrices of this size, in float64: what the solve does not avoid."""
    x, _, _ = case.data()
    kernels = [np.asfortranarray(k, dtype=np.float64) for k in case.kernel_fn(stax)(x, None, GET)]
    for k in kernels:
        k[np.diag_indices(case.n)] *= 1 + REG

    def call() -> Any:
        if case.t is None:
            return [scipy_linalg.cho_factor(k, lower=True, check_finite=False) for k in kernels]
        return [scipy_linalg.eigh(k, driver="evd", check_finite=False) for k in kernels]

    return call


# ---- how it is counted


def arrays(found: Any) -> list[np.ndarray]:
    """Means, and covariances where there are any."""
    parts = []
    for name in GET:
        given = getattr(found, name)
        parts += [given.mean, given.covariance] if isinstance(given, tuple) else [given]
    return [np.asarray(part, dtype=np.float64) for part in parts]


def agreement(case: Case, results: dict[str, list[np.ndarray]]) -> dict[str, dict[str, float]]:
    """Largest errors over the largest entry, against fastntk in float64 on the same inputs."""
    x, y, x_test = (part.astype(np.float64) for part in case.data())
    predict_fn = predict.gradient_descent_mse_ensemble(case.kernel_fn(stax), x, y, diag_reg=REG)
    true = arrays(predict_fn(t=case.t, x_test=x_test, get=GET, compute_cov=case.covariance))
    kinds = [f"{name} {what}" for name in GET for what in (("mean", "covariance") if case.covariance else ("mean",))]
    table: dict[str, dict[str, float]] = {}
    for who, found in results.items():
        off = [float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in zip(found, true, strict=True)]
        table[who] = dict(zip(kinds, off, strict=True))
        if not max(off) < AGREE[case.dtype]:
            raise RuntimeError(f"{case.name}: {who} is not fastntk in float64: {table[who]}")
    return table


def time_case(case: Case, repeats: int, with_rivals: bool) -> dict[str, Any]:
    calls, missing = {"fastntk": ours(case)}, {}
    if case.dtype == "float32":
        calls["fastntk_f32"] = ours(case, np.float32)
    for name in case.rivals if with_rivals else ():
        try:
            calls[name] = RIVALS[name](case)
        except rivals.Missing as reason:
            missing[name] = str(reason)
    results = {}
    for name, call in list(calls.items()):
        try:
            results[name] = arrays(call())  # and the warm-up: compilation, thread pools
        except rivals.Missing as reason:
            missing[name] = str(reason)
            del calls[name]
    calls["floor"] = floor(case)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(min(repeats, case.rounds)):
        for name, call in calls.items():
            time.sleep(PAUSE)
            times[name].append(once(call, 1))
    ratios = {f"{name}/fastntk": ratio(times[name], times["fastntk"]) for name in times if name in RIVALS}
    if "fastntk_f32" in times:
        ratios |= {f"{name}/fastntk_f32": ratio(times[name], times["fastntk_f32"]) for name in times if name in RIVALS}
    ratios["fastntk/floor"] = ratio(times["fastntk"], times["floor"])
    targets = []
    if case.goal and with_rivals:
        value = ratios.get("nt_jit/fastntk", {}).get("value")
        met = None if value is None else value >= case.goal
        targets = [{"over": "nt_jit", "under": "fastntk", "at_least": case.goal, "value": value, "met": met}]
    return {
        "seconds": {name: summary(t) for name, t in times.items()},
        "ratios": ratios,
        "accuracy": agreement(case, results),
        "targets": targets,
        "missing": missing,
    }


# ---- memory of a covariance over many test points, in a process of its own


def measure(case: Case, who: str) -> dict[str, Any]:
    """``growth``: peak of anonymous memory over that of the trained predictor and the outputs."""
    found, anon = memory.watch([sys.executable, __file__, "--child", json.dumps({**asdict(case), "who": who})], who)
    return {**found, "growth": anon - found.pop("anon_before") - found["outputs"]}


def _child(given: dict[str, Any]) -> dict[str, Any]:
    who = given.pop("who")
    case = Case(**{**given, "rivals": ()})
    x, y, x_test = case.data()
    if who == "fastntk":
        kernel_fn, module = case.kernel_fn(stax), predict
    else:
        kernel_fn = case.kernel_fn(rivals.nt_stax())
        import jax

        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_x64", case.dtype == "float64")
        kernel_fn, module = jax.jit(kernel_fn, static_argnames=("get",)), import_module("neural_tangents.predict")
    predict_fn = module.gradient_descent_mse_ensemble(kernel_fn, x, y, diag_reg=REG)
    predict_fn(t=case.t, x_test=x_test[:2], get=GET, compute_cov=True)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # let no freed memory hide growth
    if trim is not None:
        trim(0)
    before, start = memory.status("self")["RssAnon"], time.perf_counter()
    found = predict_fn(t=case.t, x_test=x_test, get=GET, compute_cov=True)
    if who != "fastntk":
        jax.block_until_ready(found)
    seconds = time.perf_counter() - start
    outputs = sum(part.nbytes for name in GET for part in getattr(found, name))
    return {"seconds": seconds, "outputs": outputs, "anon_before": before}


def memory_study(points: tuple[int, ...], n: int, with_rivals: bool) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for who in ("fastntk", *(("nt_jit",) if with_rivals else ())):
        table[who] = {}
        for m in points:
            case = Case("covariance", covariance=True, n=n, m=m)
            try:
                row = measure(case, who)
            except RuntimeError as reason:  # a rival that runs out of memory
                table[who][str(m)] = {"reason": str(reason)}
                continue
            table[who][str(m)] = row
            print(
                f"covariance of {m} points, {who}: {row['seconds']:.1f} s after training, outputs "
                f"{row['outputs'] / 2**20:.0f} MiB, {row['growth'] / 2**20:.0f} MiB beyond",
                flush=True,
            )
    return table


def main() -> int:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__, epilog="cases: " + ", ".join([*names, "memory"]))
    parser.add_argument("--cases", nargs="+", metavar="NAME", default=[*names, "memory"], help="default: all")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, fewer where they are long (default 5)")
    parser.add_argument("--no-rivals", action="store_true", help="fastntk and the floor only")
    parser.add_argument("--n", type=int, help="at most so many training and test points: to try things out; no goals")
    parser.add_argument("--out", type=Path, help="JSON to write; default bench/results/predict-<isa>.json")
    given = parser.parse_args()
    unknown = set(given.cases) - {*names, "memory"}
    if unknown or given.repeats < 1:
        parser.error(f"unknown cases {sorted(unknown)}" if unknown else "--repeats must be at least 1")
    warnings.simplefilter("ignore", predict.IllConditionedWarning)  # of few digits in float32: `accuracy` says how few

    report: dict[str, Any] = {**context(), "repeats": given.repeats, "pause": PAUSE, "cases": {}}
    for case in CASES:
        if case.name not in given.cases:
            continue
        if given.n:
            case = replace(case, n=min(case.n, given.n), m=min(case.m, given.n), goal=None)
        before = busy()
        found = time_case(case, given.repeats, not given.no_rivals)
        found["others_busy"] = others(before)
        shown = {k: v for k, v in asdict(case).items() if k not in ("name", "goal")}
        report["cases"][case.name] = {"parameters": shown, **found}
        print(line(case.name, found), flush=True)
        for name, r in found["ratios"].items():
            print(f"  {name}: {r['value']:.4g} ({r['least']:.4g} to {r['largest']:.4g})", flush=True)
        for name, reason in found["missing"].items():
            print(f"  {name}: {reason}", flush=True)
        noise_line(found["others_busy"])
    if "memory" in given.cases:
        points = tuple(min(m, given.n) for m in MEMORY) if given.n else MEMORY
        report["memory"] = memory_study(points, min(4000, given.n or 4000), not given.no_rivals)
    out = given.out or RESULTS / f"predict-{report['isa'] or report['backend']}.json"
    write_json(report, out)
    print(f"written: {out}")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(_child(json.loads(sys.argv[2]))))
        sys.exit(0)
    sys.exit(main())
