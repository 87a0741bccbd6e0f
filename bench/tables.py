"""Write the tables of README.md and docs/ from results, between <!-- speed --> ... <!-- /speed --> and the like."""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accuracy_table
import gpu_table
import gradients
import layers
import model
import nonlinearities
import predict_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench/results"
RIVALS = {"nt": "Neural Tangents", "botorch": "BoTorch"}

# Results by name: the file that is kept. Of GPUs the last one by name, where there is any.
KEPT = {
    "speed": "avx512.json",
    "images": "images-avx512.json",
    "layers": "layers-avx512.json",
    "nonlinearities": "nonlinearities-avx512.json",
    "small-calls": "small-calls.json",
    "accuracy": "accuracy.json",
    "gpu": "gpu-*.json",
    "cuda": "cuda-sm90.json",
    "cuda-images": "cuda-images-sm90.json",
    "cuda-executed": "cuda-executed.json",
    "gradients": "gradients.json",
    "scale": "scale.json",
    "killed": "killed.json",
    "large": "large-synthetic-200000.json",
    "predict": "predict-avx512.json",
    "predict-real": "real-predict.json",
}

# Cases of the short table of times.
SHORT = ("relu-d784", "relu-d64", "relu-d784-f64", "erf-d784", "nngp-d784")
SHORT_IMAGES = ("deep-gap", "deep-flatten", "myrtle-10", "wide-resnet-16")
SHORT_PREDICT = ("endless-d784-mean-float32", "deep-d784-mean-float32")


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def number(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def describe(p: dict[str, Any]) -> str:
    size = f"{p['batch']} x ({p['n']} x {p['d']})" if p["batch"] else f"n = {p['n']}, d = {p['d']}"
    kernels = " + ".join(k.upper() for k in p["get"])
    more = [{"relu": "ReLU", "erf": "erf"}[p["network"]] + (", biases" if p["b_std"] else "")]
    more += [f"backend {p['backend']}"] if p["backend"] else []
    more += [{"clusters": "clustered rows", "near": "close rows"}[p["data"]]] if p["data"] != "normal" else []
    return f"{', '.join(more)}, {size}, depth {p['depth']}, {kernels}, {p['dtype']}"


def bound(target: dict[str, Any]) -> str:
    if target.get("at_least"):
        return f"{RIVALS.get(target['over'], target['over'])} >= {target['at_least']:g} x"
    if "under" in target:
        return f"<= {target['at_most']:g} x product"
    return f"outputs + {target['at_most'] / 1e6:g} MB"


def speed(report: dict[str, Any]) -> str:
    """One line per case; spread of a ratio: least to largest of the rounds."""
    machine, versions = report["machine"], report["versions"]
    taken = [name for name in RIVALS if any(name in c["seconds"] for c in report["cases"].values())]
    head = ["case", "fastntk", "`x @ x.T`", "fastntk / product", *(f"{RIVALS[r]} / fastntk" for r in taken), "goal"]
    rows = []
    for case in report["cases"].values():
        ratios = case["ratios"]

        def cell(name: str, ratios: dict[str, Any] = ratios) -> str:
            r = ratios.get(name)
            return f"{r['value']:.3g} ({r['least']:.3g} to {r['largest']:.3g})" if r else ""

        floor = case["seconds"].get("product")
        fast = number(case["seconds"]["fastntk"]["median"])
        if "memory" in case:
            own = max(case["memory"]["peak_own"], case["memory"]["peak_beyond_outputs"])
            fast += f", peak: outputs + {own / 1e6:.0f} MB"
        goals = [f"{bound(t)}{'' if t['met'] is None else ': yes' if t['met'] else ': no'}" for t in case["targets"]]
        rows.append(
            [
                describe(case["parameters"]) + (", into memmaps" if "memory" in case else ""),
                fast,
                number(floor["median"]) if floor else "",
                cell("fastntk/product"),
            ]
            + [cell(f"{r}/fastntk") for r in taken]
            + ["; ".join(goals)]
        )
    others = ", ".join(f"{k} {v}" for k, v in versions.items() if v and k != "fastntk")
    dirty = ", uncommitted changes" if report["git"]["dirty"] else ""
    return (
        f"{machine['cpu']}, {report['threads']} threads, {report['isa']}; {others}; commit "
        f"{(report['git']['hash'] or 'unknown')[:10]}{dirty}, {report['date']}. Medians of {report['repeats']}; "
        f"ratios of medians, in brackets the least and largest of a round.\n\n{table(head, rows)}"
    )


def images(report: dict[str, Any]) -> str:
    """Networks on images: a table of times of an entry, then sizes, threads and memory."""
    machine, versions = report["machine"], report["versions"]
    head = [
        "network", "images", "fastntk, a unique entry", "x floor", "Neural Tangents, an entry",
        "Neural Tangents / fastntk", "by unique entries", "goal",
    ]  # fmt: skip
    rows = []
    for case in report["cases"].values():
        if "memory" in case:
            continue
        p, entry, ratios = case["parameters"], case["entry_seconds"], case["ratios"]

        def cell(name: str, ratios: dict[str, Any] = ratios) -> str:
            r = ratios.get(name)
            return f"{r['value']:.3g} ({r['least']:.3g} to {r['largest']:.3g})" if r else ""

        near = case.get("floor", {}).get("near", {})
        names = {"nt/fastntk by entry": "Neural Tangents", "milliseconds an entry": "ms"}
        goals = [
            f"{names[t['what']]} >= {t['at_least']:g} x" if t["at_least"] else f"<= {t['at_most']:g} {names[t['what']]}"
            for t in case["targets"]
        ]
        states = [{None: "", True: ": yes", False: ": no"}[t["met"]] for t in case["targets"]]
        rows.append(
            [
                f"{p['network']}, {' + '.join(k.upper() for k in p['get'])}, {p['dtype']}",
                f"{p['n']} of {p['size']} x {p['size']} x {p['channels']}",
                number(entry["fastntk"]["median"]),
                f"{near['all']:.2g}" if near else "",
                number(entry["nt"]["median"]) + f" ({p['n_rival']} images)" if "nt" in entry else "",
                cell("nt/fastntk by entry"),
                cell("nt/fastntk by unique entry"),
                "; ".join(goal + state for goal, state in zip(goals, states, strict=True)),
            ]
        )
    others = ", ".join(
        f"{k} {v}" for k, v in versions.items() if v and k in ("numpy", "neural-tangents", "jax", "jaxlib")
    )
    dirty = ", uncommitted changes" if report["git"]["dirty"] else ""
    clock = report["clock"]["hertz"]
    parts = [
        f"{machine['cpu']}, {report['threads']} threads, {report['isa']}"
        f"{f', {clock / 1e9:.2f} GHz' if clock else ''}; {others}; commit "
        f"{(report['git']['hash'] or 'unknown')[:10]}{dirty}, {report['date']}. Ratios of medians, in brackets the "
        f"least and largest of a round.\n\n{table(head, rows)}"
    ]
    parts += [line for line in (_sizes(report), _threads(report), *_memory(report)) if line]
    return "\n".join([parts[0], "", *(f"- {line}" for line in parts[1:])]).rstrip()


def _sizes(report: dict[str, Any]) -> str:
    found = report["studies"].get("sizes")
    if not found:
        return ""
    each = ", ".join(f"{ns:.3g} ns on {name}" for name, ns in found["nanoseconds_an_entry_layer"].items())
    states = {True: "met", False: "not met", None: "unknown"}
    goals = ", ".join(
        f"{t['what']} = {t['value']:.2f} (<= {t['at_most']:g}: {states[t['met']]})" for t in found["targets"]
    )
    return f"{found['network']}, an entry-layer: {each}" + (f"; {goals}." if goals else ".")


def _threads(report: dict[str, Any]) -> str:
    found = report["studies"].get("threads", {})
    r = found.get("ratios", {}).get("1 thread/2 threads")
    if not r:
        return ""
    return (
        f"{found['network']}, 2 threads: {r['value']:.2f} times as fast as 1 ({r['least']:.2f} to {r['largest']:.2f})."
    )


def _memory(report: dict[str, Any]) -> list[str]:
    lines = []
    for case in report["cases"].values():
        if "memory" not in case:
            continue
        p, m = case["parameters"], case["memory"]
        state = "yes" if all(t["met"] for t in case["targets"]) else "no"
        lines.append(
            f"{p['network']}, {p['n']} images of {p['size']} x {p['size']}, into memmaps: "
            f"{number(case['seconds']['fastntk']['median'])}; the process grew by {m['growth'] / 2**20:.0f} MiB beyond "
            f"the outputs (<= {m['memory_budget'] / 2**20:.0f}: {state})."
        )
    return lines


def in_short(speed: dict[str, Any], images: dict[str, Any], predict: dict[str, Any]) -> str:
    """Some cases of each, beside the rivals."""
    rows = []

    def add(what: str, seconds: float, case: dict[str, Any], *ratios: str) -> None:
        found = (case["ratios"].get(name) for name in ratios)
        rows.append([what, number(seconds), *(f"{r['value']:.3g}" if r else "" for r in found)])

    for name in SHORT:
        case = speed["cases"][name]
        seconds = case["seconds"]["fastntk"]["median"]
        add(describe(case["parameters"]), seconds, case, "fastntk/product", "nt/fastntk", "botorch/fastntk")
    for name in SHORT_IMAGES:
        case, p = images["cases"][name], images["cases"][name]["parameters"]
        what = f"{p['network']}, a pair of {p['size']} x {p['size']} x {p['channels']}, NNGP + NTK, {p['dtype']}"
        add(what, case["entry_seconds"]["fastntk"]["median"], case, "", "nt/fastntk by entry", "")
    for name in SHORT_PREDICT:
        case = predict["cases"][name]
        what = f"prediction by both kernels, {predict_table.describe(case['parameters'])}"
        add(what, case["seconds"]["fastntk"]["median"], case, "", "nt_jit/fastntk", "")
    head = ["case", "fastntk", "times `x @ x.T`", "Neural Tangents takes, times", "BoTorch takes, times"]
    machines = [report["machine"]["cpu"] for report in (speed, predict)]
    other = f" Predictions: {machines[1]}." if machines[1] != machines[0] else ""
    return f"{machines[0]}, {speed['threads']} threads, {speed['isa']}. Medians.{other}\n\n{table(head, rows)}"


def where(report: dict[str, Any]) -> str:
    """Machine and commit of a report."""
    commit = (report["git"]["hash"] or "unknown")[:10]
    return f"{report['machine']['cpu']}, {report['threads']} threads, {report['isa']}; commit {commit}.\n\n"


def small(report: dict[str, Any]) -> str:
    """Calls that are all overhead."""
    rows = [
        [
            name,
            f"{own['median']:.0f} us ({own['least']:.0f} to {own['largest']:.0f})",
            f"<= {own['goal']} us" if own["goal"] else "",
        ]
        for name, own in report["microseconds"].items()
    ]
    return where(report) + table(["call", "fastntk", "goal"], rows)


def workers(report: dict[str, Any], killed: dict[str, Any], large: dict[str, Any]) -> str:
    """Gram matrices in stores by one process and by workers, solves, and runs that were killed."""
    rows = []
    for name, own in report["gram"].items():
        median = {way: statistics.median(seconds) for way, seconds in own["seconds"].items()}
        rows += [[f"{name}, {own['n']:,}, {own['blocks']} blocks", way, f"{s:.3g} s"] for way, s in median.items()]
    solve, task, long = report["solve"], report["task"], large["large"]
    peaks = [long["peak_resident"], *long["peak_of_workers"]]
    said = [
        *(
            f"- {name}: two workers are {own['two_workers_over_one']:.2f} times as fast as one with a store, and take "
            f"{1 + own['two_workers_beyond_kernel_fn']:.2f} times as long as two threads of one process without one."
            for name, own in report["gram"].items()
        ),
        f"- A block that costs nothing takes {task['milliseconds_a_block']:.1f} ms of scheduler, store and journal.",
        f"- Conjugate gradients, n = {solve['n']:,}, d = {solve['d']}, to {solve['tol']}: two workers "
        f"{solve['two_workers_over_one']:.2f} times as fast as one.",
        f"- {long['n']:,} points, d = {long['d']}, to {large['parameters']['tol']}, over "
        f"{len(long['peak_of_workers'])} workers ({large['machine']['cpu']}, commit {large['git']['hash'][:10]}): "
        f"{long['seconds']['preconditioner']:.0f} s for the preconditioner of rank {long['rank']:,}, "
        f"{long['iterations']} iterations, {long['passes']} passes over the kernel of {long['seconds_a_pass']:.1f} s, "
        f"{long['seconds']['solve'] / 60:.0f} min; {sum(peaks) / 2**30:.1f} GiB at all processes' peaks together, "
        f"where the matrix alone would take {long['gram_bytes'] / 2**30:.0f} GiB.",
        *(
            f"- {own['n']:,} images, {len(own['killed'])} kills at random of workers and of the command (scheduler and "
            f"client): {own['runs']} runs, {'the same bits' if own['equal'] else 'OTHER BITS'} as one call."
            for own in (report["killed"], killed["killed"])
        ),
    ]
    return where(report) + table(["matrix", "by", "time"], rows) + "\n\n" + "\n".join(said)


TABLES: dict[str, tuple[str, tuple[str, ...], Callable[..., str]]] = {  # page, results, what makes it
    "in-short": ("README.md", ("speed", "images", "predict"), in_short),
    "accuracy-in-short": ("README.md", ("accuracy",), accuracy_table.in_short),
    "speed": ("docs/speed.md", ("speed",), speed),
    "images": ("docs/speed.md", ("images",), images),
    "layers": ("docs/speed.md", ("layers",), lambda report: where(report) + layers.markdown(report).rstrip()),
    "nonlinearities": (
        "docs/speed.md",
        ("nonlinearities",),
        lambda report: where(report) + nonlinearities.markdown(report).rstrip(),
    ),
    "small-calls": ("docs/speed.md", ("small-calls",), small),
    "gpu": ("docs/speed.md", ("gpu",), gpu_table.gpu),
    "gpu-model": ("docs/gpu.md", ("cuda", "cuda-images", "cuda-executed"), model.gpu),
    "gradients": (
        "docs/gradients.md",
        ("gradients",),
        lambda report: where(report) + gradients.markdown(report).rstrip(),
    ),
    "scale": ("docs/scale.md", ("scale", "killed", "large"), workers),
    "scale-model": ("docs/scale.md", ("scale", "images", "cuda", "cuda-images"), model.scale),
    "accuracy": ("docs/accuracy.md", ("accuracy",), accuracy_table.markdown),
    "predict": ("docs/prediction.md", ("predict",), predict_table.speed),
    "predict-real": ("docs/prediction.md", ("predict-real",), predict_table.real),
}


def rewrite(text: str, name: str, body: str) -> str:
    """``text`` with ``body`` between the markers of ``name``."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise SystemExit(f"the file must hold <!-- {name} --> ... <!-- /{name} --> once, each on a line of its own")
    return pattern.sub(lambda match: f"{match[1]}\n{body}\n\n{match[2]}", text)


def results(name: str, given: Path | None) -> dict[str, Any] | None:
    """Results as given, or as kept; None: of a GPU, where none was at hand."""
    found = [given] if given else sorted(RESULTS.glob(KEPT[name]))
    if not found and name != "gpu":
        raise SystemExit(f"no results {RESULTS / KEPT[name]}: give them by --{name}")
    return json.loads(found[-1].read_text()) if found else None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kept in KEPT.items():
        parser.add_argument(f"--{name}", type=Path, metavar="JSON", help=f"in place of bench/results/{kept}")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a page is behind")
    given = vars(parser.parse_args(arguments))
    reports = {name: results(name, given[name.replace("-", "_")]) for name in KEPT}
    before = {page: (ROOT / page).read_text() for page, _, _ in TABLES.values()}
    after = dict(before)
    for name, (page, sources, make) in TABLES.items():
        after[page] = rewrite(after[page], name, make(*(reports[source] for source in sources)))
    behind = [page for page in before if after[page] != before[page]]
    for page in behind:
        print(page, "is behind" if given["check"] else "written")
        if not given["check"]:
            (ROOT / page).write_text(after[page])
    return int(given["check"] and bool(behind))


if __name__ == "__main__":
    sys.exit(main())
