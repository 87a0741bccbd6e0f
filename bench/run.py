"""Time the cases against the floor and the rivals in the same run, and write one JSON. How: README.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import fastntk
import memory
import numpy as np
import rivals
from cases import CASES, Case
from fastntk import stax

PAUSE = 0.1  # s: spinning threads of the library before go to sleep
SHORTEST = 0.02  # s: shorter calls are repeated within one sample
NOISY = 0.1  # processors busy with other work, above which a line says so
SUBSET = 256  # rows of the accuracy figures
# Loose on purpose: rivals lose digits near the diagonal, a wrong network is off by far more.
AGREE = {"float32": 0.05, "float64": 1e-6}

Call = Callable[[], Any]


# ---- what runs


def ours(case: Case, x: np.ndarray) -> Call:
    kernel_fn = case.make(stax)
    batch_dims = 1 if case.batch else 0
    return lambda: kernel_fn(x, get=case.get, batch_dims=batch_dims, backend=case.backend)


def floors(case: Case, x: np.ndarray) -> dict[str, Call]:
    """What no method avoids: the inputs' product, and the outputs' way to memory."""
    shape = (*x.shape[:-1], case.n)

    def write() -> list[np.ndarray]:
        return [np.full(shape, 1, x.dtype) for _ in case.get]

    return {"product": lambda: x @ x.swapaxes(-1, -2), "write": write}


def contenders(case: Case, x: np.ndarray, with_rivals: bool) -> tuple[dict[str, Call], dict[str, str]]:
    """Calls by name, and the reasons of those that are missing."""
    kernel_fn = case.make(stax)
    shape = (*x.shape[:-1], case.n)
    out = tuple(np.empty(shape, x.dtype) for _ in case.get)
    options = {"get": case.get, "batch_dims": 1 if case.batch else 0, "backend": case.backend, "out": out}
    calls = {"fastntk": ours(case, x), "fastntk_out": lambda: kernel_fn(x, **options), **floors(case, x)}
    missing = {}
    for name in case.rivals if with_rivals else ():
        try:
            calls[name] = rivals.RIVALS[name](case, x)
        except rivals.Missing as reason:
            missing[name] = str(reason)
    return calls, missing


# ---- how it is counted


def once(call: Call, inner: int) -> float:
    """Seconds per call; the last result is freed after the clock has stopped."""
    start = time.perf_counter()
    for _ in range(inner):
        kept = call()
    seconds = (time.perf_counter() - start) / inner
    del kept
    return seconds


def sample(calls: dict[str, Call], repeats: int) -> dict[str, list[float]]:
    """All contenders in turn, ``repeats`` times over."""
    inner = {name: max(1, int(np.ceil(SHORTEST / max(once(call, 1), 1e-7)))) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(PAUSE)
            times[name].append(once(call, inner[name]))
    return times


def summary(times: list[float]) -> dict[str, Any]:
    table = {"min": min(times), "median": statistics.median(times), "max": max(times)}
    return {**table, "samples": [float(f"{t:.5g}") for t in times]}


def ratio(over: list[float], under: list[float]) -> dict[str, float]:
    """Ratio of medians; least and largest ratio within one round; ratio of minima."""
    rounds = [a / b for a, b in zip(over, under, strict=True)]
    value = statistics.median(over) / statistics.median(under)
    return {"value": value, "least": min(rounds), "largest": max(rounds), "of_minima": min(over) / min(under)}


def error(found: Any, true: Any) -> dict[str, float]:
    """Largest error of an entry: over the entry, and over sqrt(K_ii K_jj), for kernels whose entries pass zero."""
    off, scale = np.abs(found - true), np.sqrt(np.diagonal(true, axis1=-2, axis2=-1))
    scaled = off / (scale[..., :, None] * scale[..., None, :])
    return {"relative": float(np.max(off / np.abs(true))), "scaled": float(np.max(scaled))}


def check(case: Case, results: dict[str, list[np.ndarray]]) -> None:
    """All who computed the kernels must agree, or the times mean nothing."""
    for name, found in results.items():
        for kind, a, b in zip(case.get, found, results["fastntk"], strict=True):
            off = float(np.max(np.abs(a - b)) / np.max(np.abs(b)))
            if not off < AGREE[case.dtype]:
                raise RuntimeError(
                    f"{case.name}: {name} and fastntk differ in {kind} by {off:.1e} of its largest entry"
                )


def accuracy(case: Case, with_rivals: bool) -> dict[str, dict[str, dict[str, float]]]:
    """Largest errors of float32 on the first rows, against fastntk in float64."""
    few = replace(case, n=min(case.n, SUBSET), batch=min(case.batch, 4))
    x = few.inputs()
    true = ours(replace(few, dtype="float64"), x.astype(np.float64))()
    found = {"fastntk": ours(few, x)()}
    for name in case.rivals if with_rivals else ():
        try:
            found[name] = rivals.arrays(rivals.RIVALS[name](few, x)())
        except rivals.Missing:
            continue
    return {
        name: {kind: error(a, b) for kind, a, b in zip(case.get, arrays, true, strict=True)}
        for name, arrays in found.items()
    }


def judge(case: Case, ratios: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """The case's targets; met is None where a contender was missing."""
    table = []
    for target in case.targets:
        value = ratios.get(f"{target.over}/{target.under}", {}).get("value")
        met = None
        if value is not None:
            met = value >= target.at_least if target.at_least is not None else value <= target.at_most
        table.append({**asdict(target), "value": value, "met": met})
    return table


def time_case(case: Case, repeats: int, with_rivals: bool) -> dict[str, Any]:
    x = case.inputs()
    calls, missing = contenders(case, x, with_rivals)
    results = {name: rivals.arrays(call()) for name, call in calls.items() if name not in ("product", "write")}
    check(case, results)  # and the warm-up: compilation, thread pools
    del results
    times = sample(calls, repeats)
    pairs = [("fastntk", "product"), ("fastntk", "write")]
    pairs += [(name, "fastntk") for name in case.rivals if name in times]
    ratios = {f"{a}/{b}": ratio(times[a], times[b]) for a, b in pairs}
    seconds = statistics.median(times["fastntk"])
    return {
        "seconds": {name: summary(t) for name, t in times.items()},
        "ratios": ratios,
        "entry_layers_per_second": case.layers / seconds,
        "accuracy": accuracy(case, with_rivals) if case.dtype == "float32" else None,
        "targets": judge(case, ratios),
        "missing": missing,
    }


def memory_case(case: Case, repeats: int, scratch: str | None) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {"fastntk": [], "floor": []}
    for _ in range(min(repeats, 3)):
        for name, runs in found.items():
            runs.append(memory.measure(case, name, scratch))
    times = {name: [run["seconds"] for run in runs] for name, runs in found.items()}
    peak = {key: max(run[key] for run in found["fastntk"]) for key in ("peak_own", "peak_beyond_outputs")}
    target = {
        "what": "peak memory beyond the outputs, bytes",
        "at_most": case.memory,
        "value": max(peak.values()),
        "met": max(peak.values()) <= case.memory,
    }
    return {
        "seconds": {name: summary(t) for name, t in times.items()},
        "ratios": {"fastntk/floor": ratio(times["fastntk"], times["floor"])},
        "entry_layers_per_second": case.layers / statistics.median(times["fastntk"]),
        "memory": {"outputs": found["fastntk"][0]["outputs"], **peak},
        "targets": [target],
        "missing": {},
    }


# ---- where it ran


def busy() -> tuple[float, float, float] | None:
    """Seconds: of the clock, of all processors' work, of this process and its children."""
    words = (_read("/proc/stat") or "").split()[1:9]
    if len(words) < 8:
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, words)
    work = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return time.monotonic(), work, sum(os.times()[:4])


def others(before: tuple[float, float, float] | None) -> float | None:
    """Processors that other processes kept busy since ``before``: near 0 on a quiet machine."""
    after = busy()
    if before is None or after is None:
        return None
    clock, work, own = (b - a for a, b in zip(before, after, strict=True))
    return round(max(0.0, (work - own) / clock), 3)


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def machine() -> dict[str, Any]:
    lines = (_read("/proc/cpuinfo") or "").splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)
    total = next((line.split()[1] for line in (_read("/proc/meminfo") or "").splitlines() if "MemTotal" in line), None)
    return {
        "cpu": model or platform.processor() or None,
        "cores": os.cpu_count(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "memory_bytes": int(total) * 1024 if total else None,
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def git() -> dict[str, Any]:
    def ask(*words: str) -> str | None:
        done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        changes = ask("status", "--porcelain", "--untracked-files=no")
        return {"hash": ask("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}
    except FileNotFoundError:
        return {"hash": None, "dirty": None}


def surroundings() -> dict[str, Any]:
    config = fastntk.show_config("dict")
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "git": git(),
        "machine": machine(),
        "threads": config["num_threads"],
        "backend": config["backend"],
        "isa": config["isa"],
        "versions": {
            "fastntk": fastntk.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "blas": f"{blas['name']} {blas['version']}",
            **rivals.versions(),
        },
        "thread_variables": {k: v for k, v in os.environ.items() if k.endswith("_NUM_THREADS")},
    }


def parameters(case: Case) -> dict[str, Any]:
    table = asdict(replace(case, targets=()))
    table["network"] = case.network.__name__
    return {k: v for k, v in table.items() if k not in ("targets", "small", "name", "memory")}


def line(name: str, found: dict[str, Any]) -> str:
    parts = [f"{k} {v['median']:.4g} s" for k, v in found["seconds"].items()]
    for target in found["targets"]:
        what = target.get("what") or f"{target['over']}/{target['under']}"
        bound = f">= {target['at_least']}" if target.get("at_least") else f"<= {target['at_most']}"
        value = "missing" if target["value"] is None else f"{target['value']:.4g}"
        state = {True: "met", False: "NOT MET", None: "unknown"}[target["met"]]
        parts.append(f"[{what} = {value}, {bound}: {state}]")
    return f"{name}: " + ", ".join(parts)


def main() -> int:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__, epilog="cases: " + ", ".join(names))
    parser.add_argument("--cases", nargs="+", metavar="NAME", default=names, help="default: all; see below")
    parser.add_argument("--repeats", type=int, default=9, help="rounds of each case (default 9)")
    parser.add_argument("--out", type=Path, help="JSON to write; default bench/results/<cpu backend's isa>.json")
    parser.add_argument("--no-rivals", action="store_true", help="fastntk and the floor only")
    parser.add_argument("--n", type=int, help="at most so many rows and Grams: to try things out; no targets")
    parser.add_argument("--scratch", help="folder of the memmaps; default the system's temporary one")
    given = parser.parse_args()
    unknown = set(given.cases) - set(names)
    if unknown or given.repeats < 1:
        parser.error(f"unknown cases {sorted(unknown)}" if unknown else "--repeats must be at least 1")

    report = {**surroundings(), "repeats": given.repeats, "pause": PAUSE, "cases": {}}
    for case in CASES:
        if case.name not in given.cases:
            continue
        if given.n:
            case = replace(case, n=min(case.n, given.n), batch=min(case.batch, given.n), targets=())
        before = busy()
        if case.memory:
            found = memory_case(case, given.repeats, given.scratch)
        else:
            found = time_case(case, given.repeats, not given.no_rivals)
        found["others_busy"] = others(before)
        report["cases"][case.name] = {"parameters": parameters(case), **found}
        print(line(case.name, found), flush=True)
        for name, reason in found["missing"].items():
            print(f"  {name}: {reason}", flush=True)
        if (found["others_busy"] or 0) > NOISY:
            print(f"  not quiet: other processes kept {found['others_busy']} processors busy", flush=True)
    out = given.out or Path(__file__).parent / "results" / f"{report['isa'] or report['backend']}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1)
    text = re.sub(r"\[[^][{}]*\]", lambda match: " ".join(match[0].split()), text)  # a list, a line
    out.write_text(text + "\n")
    print(f"written: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
