"""Write the tables of a Markdown file from results, between <!-- speed --> ... <!-- /speed --> and the like."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import accuracy_table
import gpu_table
import predict_table

RIVALS = {"nt": "Neural Tangents", "botorch": "BoTorch"}


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


def rewrite(text: str, name: str, body: str) -> str:
    """``text`` with ``body`` between the markers of ``name``."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise SystemExit(f"the file must hold <!-- {name} --> ... <!-- /{name} --> once, each on a line of its own")
    return pattern.sub(lambda match: f"{match[1]}\n{body}\n\n{match[2]}", text)


def main() -> int:
    makers = {
        "speed": speed,
        "images": images,
        "accuracy": accuracy_table.markdown,
        "gpu": gpu_table.gpu,
        "predict": predict_table.speed,
        "predict-real": predict_table.real,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="Markdown file to rewrite in place")
    for name in makers:
        more = "; none: not yet measured" if name == "gpu" else ""
        parser.add_argument(f"--{name}", type=Path, metavar="JSON", help=f"results of that table{more}")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if the file is behind")
    given = parser.parse_args()
    before = text = given.file.read_text()
    for name, make in makers.items():
        source = getattr(given, name.replace("-", "_"))
        if source:
            absent = name == "gpu" and str(source) == "none"
            text = rewrite(text, name, make(None if absent else json.loads(source.read_text())))
    if given.check:
        return int(text != before)
    if text != before:
        given.file.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
