"""The table of a GPU, from a JSON of run_gpu.py; without one, what stands in its place."""

from __future__ import annotations

from typing import Any

NOT_YET = (
    "Not yet measured: no GPU was at hand. The CUDA backend compiles, and its device text passes the tests on the "
    "processor. `bench/gpu.sh` measures on a machine that has one, and writes what this table is made from."
)
CIFAR10 = 60_000  # images


def number(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def cell(ratios: dict[str, Any], name: str) -> str:
    r = ratios.get(name)
    return f"{r['value']:.3g} ({r['least']:.3g} to {r['largest']:.3g})" if r else ""


def goals(targets: list[dict[str, Any]]) -> str:
    names = {
        "nt": "Neural Tangents", "floor": "product + write", "nt/fastntk by entry": "Neural Tangents",
        "milliseconds an entry": "ms", "share of issue rate": "of the issue rate",
    }  # fmt: skip
    words = []
    for t in targets:
        state = {None: "", True: ": yes", False: ": no"}[t["met"]]
        if t.get("under") == "floor":
            words.append(f"<= {t['at_most']:g} x {names['floor']}{state}")
        elif t.get("what") == "share of issue rate":
            reached = "" if t["value"] is None else f", {t['value']:.0%} reached"
            words.append(f">= {t['at_least']:.0%} {names['share of issue rate']}{reached}{state}")
        elif t.get("at_least") is not None:
            words.append(f"{names[t.get('over') or t['what']]} >= {t['at_least']:g} x{state}")
        else:
            words.append(f"<= {t['at_most']:g} {names[t['what']]}{state}")
    return "; ".join(words)


def size(p: dict[str, Any]) -> str:
    rows = f"{p['batch']} x ({p['n']} x {p['d']})" if p["batch"] else f"n = {p['n']}, d = {p['d']}"
    more = [{"relu": "ReLU", "erf": "erf"}[p["network"]] + (", biases" if p["b_std"] else "")]
    more += ["close rows"] if p["data"] == "near" else []
    return f"{', '.join(more)}, {rows}, depth {p['depth']}, {' + '.join(k.upper() for k in p['get'])}, {p['dtype']}"


def dense(report: dict[str, Any]) -> str:
    head = ["case", "fastntk", "product + write", "fastntk / (product + write)", "Neural Tangents / fastntk", "goal"]
    rows = []
    for group in ("dense", "recursion", "host"):
        for case in report[group].values():
            if not case["seconds"]:
                continue
            p, seconds = case["parameters"], case["seconds"]
            what = size(p)
            if group == "recursion":
                what = f"the recursion alone: {what.replace(', d = ' + str(p['d']), '')}"
            if group == "host":
                what += ", NumPy in and out"
            floor, by = ("bus", "fastntk/bus") if group == "host" else ("floor", "fastntk/floor")
            rows.append(
                [
                    what,
                    number(seconds["fastntk"]["median"]),
                    number(seconds[floor]["median"]) + (" (bus)" if group == "host" else "")
                    if floor in seconds
                    else "",
                    cell(case["ratios"], by),
                    cell(case["ratios"], "nt/fastntk"),
                    goals(case["targets"]),
                ]
            )
    return table(head, rows) if rows else ""


def images(report: dict[str, Any]) -> str:
    head = ["network", "images", "fastntk, a unique entry", "Neural Tangents / fastntk", "all of CIFAR-10", "goal"]
    rows = []
    for case in report["images"].values():
        if not case["seconds"]:
            continue
        p, entry = case["parameters"], case["entry_seconds"]["fastntk"]["median"]
        hours = entry * CIFAR10 * (CIFAR10 + 1) / 2 / 3600
        rows.append(
            [
                f"{p['network']}, {' + '.join(k.upper() for k in p['get'])}, {p['dtype']}",
                f"{p['n']} of {p['size']} x {p['size']} x {p['channels']}",
                number(entry),
                cell(case["ratios"], "nt/fastntk by entry"),
                f"{hours:,.3g} GPU-hours",
                goals(case["targets"]),
            ]
        )
    return table(head, rows) if rows else ""


def gpu(report: dict[str, Any] | None) -> str:
    """Where it ran and what the device can do, then dense networks, then those on images."""
    if report is None:
        return NOT_YET
    about, floors, versions = report["gpu"], report["floors"], report["versions"]
    others = ", ".join(f"{k} {versions[k]}" for k in ("jax", "neural-tangents") if versions.get(k))
    dirty = ", uncommitted changes" if report["git"]["dirty"] else ""
    checks = "; ".join(f"{name}: {check['says']}" for name, check in report["checks"].items() if name != "build")
    head = (
        f"{about['name']}, driver {about['driver_version']}, CuPy {about['cupy']}{', ' + others if others else ''}; "
        f"commit {(report['git']['hash'] or 'unknown')[:10]}{dirty}, {report['date']}. It copies "
        f"{floors['copy_bytes_per_second'] / 1e12:.3g} TB/s (read and written), "
        f"{floors['to_host_bytes_per_second'] / 1e9:.3g} GB/s to the host, and does "
        f"{2e-12 * floors['float32_fma_per_second']:.3g} TFLOP/s in float32, "
        f"{2e-12 * floors['float64_fma_per_second']:.3g} in float64. Ratios of medians, in brackets the least and "
        f"largest of a round." + (f" {checks}." if checks else "")
    )
    return "\n\n".join(part for part in (head, dense(report), images(report)) if part)
