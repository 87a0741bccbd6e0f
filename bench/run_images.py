"""Time networks on images beside the floor and Neural Tangents in the same run, and write one JSON. How: README.md."""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import fastntk
import image_floor
import image_memory
import numpy as np
import rivals
from fastntk import stax
from image_cases import BUDGET, CASES, MEMORY, MIB, SIZES, THREADS, Goal, ImageCase, unique
from run import AGREE, NOISY, PAUSE, SHORTEST, busy, error, line, once, others, ratio, summary, surroundings

SMALL = 3  # images of --small
STUDIES = (SIZES.name, THREADS.name)

Call = Callable[[], Any]


def ours(case: ImageCase, n: int, dtype: str | None = None) -> Call:
    kernel_fn, x = case.make(stax), case.inputs(n)
    x = x.astype(dtype or case.dtype, copy=False)
    return lambda: kernel_fn(x, get=case.get)


def small(case: ImageCase) -> ImageCase:
    return replace(
        case,
        n=min(case.n, SMALL),
        n_rival=min(case.n_rival, SMALL),
        size=max(8, case.least_size),
        goals=(),
        fused=False,
    )


# ---- how it is counted


def sample(calls: dict[str, Call], repeats: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """All contenders in turn, ``repeats`` times over, after a call that warms up; and the results of that one."""
    results, inner = {}, {}
    for name, call in calls.items():
        start = time.perf_counter()
        results[name] = call()
        if (seconds := time.perf_counter() - start) < 1:  # else compilation is a small part, and one call enough
            seconds = once(call, 1)
        inner[name] = max(1, int(np.ceil(SHORTEST / max(seconds, 1e-7))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(PAUSE)
            times[name].append(once(call, inner[name]))
    return times, results


def scaled(times: list[float], by: float) -> list[float]:
    return [t / by for t in times]


def agreement(case: ImageCase, found: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    """Each contender against fastntk in float64 on the rival's images; SystemExit by a disagreement."""
    true = [np.asarray(k) for k in ours(case, case.n_rival, "float64")()]
    table: dict[str, Any] = {}
    for name, kernels in found.items():
        table[name] = {}
        for kind, a, b in zip(case.get, kernels, true, strict=True):
            if not np.max(np.abs(a - b)) < AGREE[case.dtype] * np.max(np.abs(b)):
                raise RuntimeError(f"{case.name}: {name} is not fastntk in float64, {kind}: {error(a, b)}")
            table[name][kind] = error(a, b)
    return table


def judge(goals: tuple[Goal, ...], figures: dict[str, float | None]) -> list[dict[str, Any]]:
    """A goal's figure, and whether it meets the bound; None where it is missing."""
    table = []
    for goal in goals:
        value, met = figures.get(goal.what), None
        if value is not None:
            met = value >= goal.at_least if goal.at_least is not None else value <= goal.at_most
        table.append({**asdict(goal), "value": value, "met": met})
    return table


def time_case(case: ImageCase, repeats: int, with_rivals: bool, hertz: float | None) -> dict[str, Any]:
    calls, missing = {"fastntk": ours(case, case.n)}, {}
    for name in case.rivals if with_rivals else ():
        try:
            calls[name] = rivals.RIVALS[name](case, case.inputs(case.n_rival))
        except rivals.Missing as reason:
            missing[name] = str(reason)
    times, results = sample(calls, min(repeats, case.rounds))
    same = {name: rivals.arrays(result) for name, result in results.items() if name != "fastntk"}
    same["fastntk"] = rivals.arrays(ours(case, case.n_rival)())
    del results

    entry = {"fastntk": scaled(times["fastntk"], unique(case.n))}
    ratios, figures = {}, {"milliseconds an entry": 1e3 * statistics.median(entry["fastntk"])}
    for name in calls:
        if name == "fastntk":
            continue
        entry[name] = scaled(times[name], case.n_rival**2)
        entry[f"{name} unique"] = scaled(times[name], unique(case.n_rival))
        for kind, by in (("entry", entry[name]), ("unique entry", entry[f"{name} unique"])):
            ratios[f"{name}/fastntk by {kind}"] = ratio(by, entry["fastntk"])
    figures |= {name: r["value"] for name, r in ratios.items()}
    layers = case.layers
    found = {
        "seconds": {name: summary(t) for name, t in times.items()},
        "entry_seconds": {name: {"median": statistics.median(t), "min": min(t)} for name, t in entry.items()},
        "entry_layers": layers,
        "entry_layers_per_second": layers / statistics.median(entry["fastntk"]),
        "ratios": ratios,
        "accuracy": agreement(case, same),
        "targets": judge(case.goals, figures),
        "missing": missing,
    }
    if case.fused:
        found["floor"] = nearness(case, layers, found["entry_seconds"]["fastntk"], hertz)
    return found


def nearness(case: ImageCase, layers: int, entry: dict[str, float], hertz: float | None) -> dict[str, Any]:
    """The floor of an entry, and how many times as long it took."""
    config = fastntk.show_config("dict")
    module = getattr(sys.modules.get("fastntk._cpu"), "__file__", None)
    if config["backend"] != "cpu" or module is None:
        return {"reason": f"not counted for the backend {config['backend']}"}
    counted = image_floor.count(module, config["isa"], case.dtype)
    floor = image_floor.floor(counted, hertz, layers, config["num_threads"])
    near = {k: entry["median"] / floor[k] for k in ("all", "arithmetic") if floor[k]}
    return {**floor, "near": near}


def sizes_study(repeats: int, tiny: bool) -> dict[str, Any]:
    cases = {name: small(case) if tiny else case for name, case in SIZES.cases()}
    times, _ = sample({name: ours(case, case.n) for name, case in cases.items()}, repeats)
    by = {name: scaled(times[name], case.layers * unique(case.n)) for name, case in cases.items()}
    last = list(by)[-1]
    ratios = {f"{name}/{last}": ratio(by[name], by[last]) for name in by if name != last}
    goals = () if tiny else tuple(Goal(name, at_most=SIZES.at_most) for name in ratios)
    return {
        "network": SIZES.network,
        "images": {name: case.n for name, case in cases.items()},
        "seconds": {name: summary(t) for name, t in times.items()},
        "nanoseconds_an_entry_layer": {name: 1e9 * statistics.median(t) for name, t in by.items()},
        "ratios": ratios,
        "targets": judge(goals, {name: r["value"] for name, r in ratios.items()}),
        "missing": {},
    }


def threads_study(repeats: int, tiny: bool) -> dict[str, Any]:
    case = small(THREADS) if tiny else THREADS
    available = fastntk.show_config("dict")["num_threads"]
    call = ours(case, case.n)

    def on(threads: int) -> Call:
        def run() -> Any:
            with fastntk.options(num_threads=threads):
                return call()

        return run

    counts = [1, 2] if available >= 2 else [1]
    times, _ = sample({str(k): on(k) for k in counts}, repeats)
    return {
        "network": case.network,
        "images": {str(case.size): case.n},
        "seconds": {f"{name} thread{'s' * (name != '1')}": summary(t) for name, t in times.items()},
        "ratios": {"1 thread/2 threads": ratio(times["1"], times["2"])} if len(counts) == 2 else {},
        "targets": [],
        "missing": {} if len(counts) == 2 else {"2 threads": "this process may use one processor"},
    }


def memory_case(case: ImageCase, scratch: str | None) -> dict[str, Any]:
    found = image_memory.measure(case, scratch)
    goal = Goal("bytes beyond the outputs", at_most=BUDGET)
    return {
        "seconds": {"fastntk": summary([found.pop("seconds")])},
        "ratios": {},
        "memory": {**found, "memory_budget": BUDGET},
        "targets": judge((goal,), {goal.what: found["growth"]}),
        "missing": {},
    }


# ---- what is said and written


def parameters(case: ImageCase) -> dict[str, Any]:
    return {k: v for k, v in asdict(case).items() if k not in ("goals", "name", "batch", "fused", "least_size")}


def say(name: str, found: dict[str, Any], noise: float | None) -> None:
    print(line(name, found), flush=True)
    entry = found.get("entry_seconds", {})
    if entry:
        print("  an entry: " + ", ".join(f"{k} {1e3 * v['median']:.4g} ms" for k, v in entry.items()), flush=True)
    for what, r in found["ratios"].items():
        print(f"  {what}: {r['value']:.4g} ({r['least']:.4g} to {r['largest']:.4g})", flush=True)
    floor = found.get("floor", {})
    for kind, near in floor.get("near", {}).items():
        counted = floor["instructions"][kind]
        print(f"  {near:.3g} x the floor by {counted:.4g} instructions an entry-layer ({kind})", flush=True)
    reason = floor.get("reason") or floor.get("instructions", {}).get("reason")
    if reason:
        print(f"  no floor: {reason}", flush=True)
    if "memory" in found:
        print(f"  grew by {found['memory']['growth'] / MIB:.0f} MiB beyond the outputs", flush=True)
    for who, why in found["missing"].items():
        print(f"  {who}: {why}", flush=True)
    if (noise or 0) > NOISY:
        print(f"  not quiet: other processes kept {noise} processors busy", flush=True)


def main() -> int:
    every = {case.name: case for case in (*CASES, *MEMORY)}
    names = [*(case.name for case in CASES), *STUDIES, *(case.name for case in MEMORY)]
    parser = argparse.ArgumentParser(description=__doc__, epilog="cases: " + ", ".join(names))
    parser.add_argument("--cases", nargs="+", metavar="NAME", default=names, help="default: all; see below")
    parser.add_argument(
        "--repeats", type=int, default=7, help="rounds of each case, fewer where they are long (default 7)"
    )
    parser.add_argument("--out", type=Path, help="JSON to write; default bench/results/images-<cpu backend's isa>.json")
    parser.add_argument("--no-rivals", action="store_true", help="fastntk and the floor only")
    parser.add_argument("--small", action="store_true", help="a few small images: to try things out; no goals")
    parser.add_argument("--scratch", help="folder of the memmaps; default the system's temporary one")
    given = parser.parse_args()
    unknown = set(given.cases) - set(names)
    if unknown or given.repeats < 1:
        parser.error(f"unknown cases {sorted(unknown)}" if unknown else "--repeats must be at least 1")

    clock = image_floor.clock()
    report = {**surroundings(), "repeats": given.repeats, "pause": PAUSE, "clock": clock, "cases": {}, "studies": {}}
    for name in names:
        if name not in given.cases:
            continue
        before = busy()
        if name in STUDIES:
            study = sizes_study if name == SIZES.name else threads_study
            found = study(given.repeats, given.small)
        else:
            case = small(every[name]) if given.small else every[name]
            if name in {m.name for m in MEMORY}:
                found = memory_case(case, given.scratch)
            else:
                found = time_case(case, given.repeats, not given.no_rivals, clock["hertz"])
            found = {"parameters": parameters(case), **found}
        found["others_busy"] = others(before)
        report["studies" if name in STUDIES else "cases"][name] = found
        say(name, found, found["others_busy"])
    again = image_floor.clock()  # a clock that moved makes the floors doubtful
    report["clock"]["hertz_after"] = again["hertz"]
    out = given.out or Path(__file__).parent / "results" / f"images-{report['isa'] or report['backend']}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1)
    text = re.sub(r"\[[^][{}]*\]", lambda match: " ".join(match[0].split()), text)  # a list, a line
    out.write_text(text + "\n")
    print(f"written: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
