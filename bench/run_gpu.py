"""Time cases on a GPU beside its floors and Neural Tangents in the same run; one JSON: see gpu.sh."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpu_floors
import numpy as np
import rivals
from cases import Case
from fastntk import stax
from gpu_cases import (
    CHAIN_CODE,
    DENSE,
    FP64_SHARE,
    HOST,
    IMAGE_BUDGET,
    IMAGES,
    ISSUE_SHARE,
    RECURSION,
    RECURSION_CODE,
)
from image_cases import ImageCase, unique
from reports import RESULTS, write_json
from run import AGREE, PAUSE, SHORTEST, SUBSET, error, judge, line, parameters, ratio, summary, surroundings
from run_images import agreement, scaled
from run_images import judge as judge_images
from run_images import parameters as image_parameters

LONGEST = 20.0  # s that one contender may take in a case: fewer rounds beyond

Call = Callable[[], Any]


class Bench:
    """One device: calls on it, timed from a device at rest to a device at rest."""

    def __init__(self, cupy: Any, repeats: int, with_rivals: bool, small: bool) -> None:
        self.cupy, self.repeats, self.with_rivals, self.small = cupy, repeats, with_rivals, small
        self.floors = gpu_floors.measure(cupy, small)

    def wait(self) -> None:
        self.cupy.cuda.Device().synchronize()

    def once(self, call: Call, inner: int = 1) -> float:
        self.wait()
        start = time.perf_counter()
        for _ in range(inner):
            kept = call()
        self.wait()
        seconds = (time.perf_counter() - start) / inner
        del kept
        return seconds

    def sample(self, calls: dict[str, Call], repeats: int) -> dict[str, list[float]]:
        """All contenders in turn, warm, ``repeats`` times over, or as often as the slowest one allows."""
        first = {name: self.once(call) for name, call in calls.items()}
        inner = {name: max(1, int(np.ceil(SHORTEST / max(t, 1e-7)))) for name, t in first.items()}
        rounds = max(3, min(repeats, int(LONGEST / max(first.values()))))
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                time.sleep(PAUSE)
                times[name].append(self.once(call, inner[name]))
        return times

    def rivals_of(self, case: Any, x: Any) -> tuple[dict[str, Call], dict[str, str]]:
        calls, missing = {}, {}
        for name in case.rivals if self.with_rivals else ():
            try:
                calls[name] = rivals.RIVALS[name](case, x)
                self.once(calls[name])  # compilation
            except rivals.Missing as reason:
                missing[name] = str(reason)
            except Exception as reason:  # out of memory, or what JAX meets on this device
                calls.pop(name, None)
                missing[name] = f"{type(reason).__name__}: {str(reason).split(chr(10))[0]}"
        return calls, missing

    # ---- dense networks

    def dense(self, case: Case) -> dict[str, Any]:
        host = case.inputs()
        x = self.cupy.asarray(host)
        kernel_fn, options = case.make(stax), {"get": case.get, "batch_dims": 1 if case.batch else 0}
        shape = (*x.shape[:-1], case.n)
        out = tuple(self.cupy.empty(shape, x.dtype) for _ in case.get)

        def write() -> list[Any]:
            return [self.cupy.full(shape, 1, x.dtype) for _ in case.get]

        def product() -> Any:
            return self.cupy.matmul(x, x.swapaxes(-1, -2))

        calls: dict[str, Call] = {
            "fastntk": lambda: kernel_fn(x, **options),
            "fastntk_out": lambda: kernel_fn(x, **options, out=out),
            "product": product,
            "write": write,
            "floor": lambda: (product(), write()),
        }
        others, missing = self.rivals_of(case, host)
        calls |= others
        self.check(case, calls, [*others])
        times = self.sample(calls, self.repeats)
        pairs = [("fastntk", "floor"), ("fastntk", "product"), *((name, "fastntk") for name in others)]
        ratios = {f"{a}/{b}": ratio(times[a], times[b]) for a, b in pairs}
        return {
            "seconds": {name: summary(t) for name, t in times.items()},
            "ratios": ratios,
            "entry_layers_per_second": case.layers / statistics.median(times["fastntk"]),
            "accuracy": self.accuracy(case),
            "targets": judge(case, ratios),
            "missing": missing,
        }

    def check(self, case: Case, calls: dict[str, Call], others: list[str]) -> None:
        """All who computed the kernels must agree on the first rows, or the times mean nothing."""

        def first(result: Any) -> list[np.ndarray]:
            parts = result[0] if isinstance(result, list) else result  # a loop over Grams: the first
            return [np.asarray(k.get() if hasattr(k, "get") else k) for k in (p[..., :SUBSET, :SUBSET] for p in parts)]

        own = [a[0] if case.batch else a for a in first(calls["fastntk"]())]
        for name in others:
            for kind, a, b in zip(case.get, first(calls[name]()), own, strict=True):
                a = a[0] if a.ndim > b.ndim else a
                if not np.max(np.abs(a - b)) < AGREE[case.dtype] * np.max(np.abs(b)):
                    raise RuntimeError(f"{case.name}: {name} and fastntk differ in {kind}: {error(a, b)}")

    def accuracy(self, case: Case) -> dict[str, Any]:
        """Largest errors on the first rows, against fastntk in float64 on the processor."""
        few = replace(case, n=min(case.n, SUBSET), batch=min(case.batch, 4))
        x, dims = few.inputs(), 1 if few.batch else 0
        true = few.make(stax)(x.astype(np.float64), get=case.get, batch_dims=dims)
        found = {"fastntk": few.make(stax)(self.cupy.asarray(x), get=case.get, batch_dims=dims)}
        if self.with_rivals and "nt" in case.rivals:
            with suppress(Exception):  # said under "missing" already
                found["nt"] = rivals.arrays(rivals.nt(few, x)())
        return {
            name: {
                k: error(getattr(a, "get", lambda a=a: a)(), b) for k, a, b in zip(case.get, arrays, true, strict=True)
            }
            for name, arrays in found.items()
        }

    def recursion(self, case: Case) -> dict[str, Any]:
        """A deep network behind a kernel at hand: the rate of its instructions beside what the device can issue."""
        x = self.cupy.asarray(replace(case, d=64).inputs())
        start = stax.serial(stax.Dense(1, 2**0.5)).kernel_fn(x)
        layers = [stax.Relu(), stax.Dense(1, 2**0.5)] * case.depth
        rest = stax.serial(*layers).kernel_fn
        out = tuple(self.cupy.empty(start.nngp.shape, x.dtype) for _ in case.get)
        times = self.sample({"fastntk": lambda: rest(start, get=case.get, out=out)}, self.repeats)
        pairs = unique(case.n)
        rate = pairs * case.depth / statistics.median(times["fastntk"])
        counted = gpu_floors.instructions(f"{RECURSION_CODE}, {case.dtype}")
        kind = "float64" if case.dtype == "float64" else "all"  # float64's own units; of float32's all instructions
        figures = {}
        if "all" in counted:  # a slot issues an instruction of any kind; float32's multiply-adds can fill them all
            figures["share of issue slots"] = rate * counted["all"] / self.floors["float32_fma_per_second"]
        if kind in counted:
            figures["share of issue rate"] = rate * counted[kind] / self.floors[f"{case.dtype}_fma_per_second"]
        at_least = FP64_SHARE if case.dtype == "float64" else None
        value = figures.get("share of issue rate")
        met = None if value is None or at_least is None else value >= at_least
        target = {"what": "share of issue rate", "at_least": at_least, "at_most": None, "value": value, "met": met}
        return {
            "seconds": {name: summary(t) for name, t in times.items()},
            "ratios": {},
            "unique_entry_layers_per_second": rate,
            "instructions": counted,
            "figures": figures,
            "targets": [target] if at_least is not None else [],
            "missing": {}
            if kind in counted
            else {"instructions": "no results/cuda-sm*.json counts those of this kernel"},
        }

    def host(self, case: Case) -> dict[str, Any]:
        """NumPy's arrays in and out, beside the bus: the outputs' bytes at its measured rate."""
        x = case.inputs()
        kernel_fn = case.make(stax)
        out = tuple(np.empty((case.n, case.n), x.dtype) for _ in case.get)
        times = self.sample({"fastntk": lambda: kernel_fn(x, get=case.get, out=out, backend="cuda")}, 3)
        bus = sum(a.nbytes for a in out) / self.floors["to_host_bytes_per_second"]
        return {
            "seconds": {"fastntk": summary(times["fastntk"]), "bus": summary([bus])},
            "ratios": {"fastntk/bus": ratio(times["fastntk"], [bus] * len(times["fastntk"]))},
            "targets": [],
            "missing": {},
        }

    # ---- images

    def images(self, case: ImageCase) -> dict[str, Any]:
        x = self.cupy.asarray(case.inputs(case.n))
        kernel_fn = case.make(stax)
        options = {"get": case.get, "memory_budget": IMAGE_BUDGET}
        try:
            kernel_fn(x[:2], **options)
        except NotImplementedError as reason:
            return {"seconds": {}, "ratios": {}, "targets": [], "missing": {"fastntk": str(reason)}}
        calls: dict[str, Call] = {"fastntk": lambda: kernel_fn(x, **options)}
        others, missing = self.rivals_of(case, case.inputs(case.n_rival))
        calls |= others
        times = self.sample(calls, min(self.repeats, case.rounds))
        few = kernel_fn(x[: case.n_rival], **options)
        same = {"fastntk": [k.get() for k in few]}
        same |= {name: rivals.arrays(call()) for name, call in others.items()}
        entry = {"fastntk": scaled(times["fastntk"], unique(case.n))}
        figures: dict[str, float | None] = {"milliseconds an entry": 1e3 * statistics.median(entry["fastntk"])}
        ratios = {}
        for name in others:
            entry[name] = scaled(times[name], case.n_rival**2)
            ratios[f"{name}/fastntk by entry"] = ratio(entry[name], entry["fastntk"])
            ratios[f"{name}/fastntk by unique entry"] = ratio(
                scaled(times[name], unique(case.n_rival)), entry["fastntk"]
            )
        figures |= {name: r["value"] for name, r in ratios.items()}
        targets = judge_images(case.goals, figures)
        counted = gpu_floors.instructions(f"{CHAIN_CODE}, {case.dtype}") if case.fused else {}
        rate = case.layers / statistics.median(entry["fastntk"])
        if counted:
            share = rate * counted["all"] / self.floors["float32_fma_per_second"]
            goal = {"what": "share of issue rate", "at_least": ISSUE_SHARE, "at_most": None}
            targets.append({**goal, "value": share, "met": share >= ISSUE_SHARE})
        return {
            "memory_budget": IMAGE_BUDGET,
            "seconds": {name: summary(t) for name, t in times.items()},
            "entry_seconds": {name: {"median": statistics.median(t), "min": min(t)} for name, t in entry.items()},
            "entry_layers_per_second": rate,
            "instructions": counted,
            "ratios": ratios,
            "accuracy": agreement(case, same),
            "targets": targets,
            "missing": missing,
        }


def small(case: Any) -> Any:
    if isinstance(case, ImageCase):
        return replace(case, n=3, n_rival=2, size=max(8, case.least_size), goals=(), fused=False)
    return replace(case, n=min(case.n, 300), batch=min(case.batch, 10), targets=())


def main() -> int:
    groups = {"dense": DENSE, "recursion": RECURSION, "host": HOST, "images": IMAGES}
    names = [case.name for cases in groups.values() for case in cases]
    parser = argparse.ArgumentParser(description=__doc__, epilog="cases: " + ", ".join(names))
    parser.add_argument("--cases", nargs="+", metavar="NAME", default=names, help="default: all; see below")
    parser.add_argument("--repeats", type=int, default=9, help="rounds of each case at most (default 9)")
    parser.add_argument("--out", type=Path, help="JSON to write; default bench/results/gpu-<device>.json")
    parser.add_argument("--checks", type=Path, help="JSON of gpu.sh: what tests and sanitizers said")
    parser.add_argument("--no-rivals", action="store_true", help="fastntk and the floors only")
    parser.add_argument("--small", action="store_true", help="everything in small, to see that it runs; no goals")
    given = parser.parse_args()
    if unknown := set(given.cases) - set(names):
        parser.error(f"unknown cases {sorted(unknown)}")

    import cupy

    rivals.PLATFORM = "cuda"
    bench = Bench(cupy, given.repeats, not given.no_rivals, given.small)
    report: dict[str, Any] = {
        **surroundings(),
        "gpu": gpu_floors.device(cupy),
        "floors": bench.floors,
        "checks": json.loads(given.checks.read_text()) if given.checks and given.checks.exists() else {},
        "repeats": given.repeats,
        "small": given.small,
        **{group: {} for group in groups},
    }
    out = given.out or RESULTS / f"gpu-{report['gpu']['name'].split()[-1].lower()}.json"
    failed = 0
    for group, cases in groups.items():
        for case in cases:
            if case.name not in given.cases:
                continue
            case = small(case) if given.small else case
            try:
                found = getattr(bench, group)(case)
            except (MemoryError, RuntimeError) as reason:  # the other cases are still worth their time
                failed = 1
                found = {"seconds": {}, "ratios": {}, "targets": [], "missing": {"fastntk": f"{reason}"}}
            about = image_parameters(case) if group == "images" else parameters(case)
            report[group][case.name] = {"parameters": about, **found}
            print(line(case.name, found), flush=True)
            for who, why in found["missing"].items():
                print(f"  {who}: {why}", flush=True)
            write_json(report, out)  # what is there is kept, whatever comes
            cupy.get_default_memory_pool().free_all_blocks()
    print(f"written: {out}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
