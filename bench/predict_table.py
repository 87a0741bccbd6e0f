"""Tables of predict_speed.py and real_predict.py for a Markdown file: see tables.py."""

from __future__ import annotations

from typing import Any

CONTENDERS = {"fastntk": "fastntk", "fastntk_f32": "solved in float32", "nt_jit": "Neural Tangents, jitted kernel",
              "nt": "Neural Tangents"}  # fmt: skip


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


def _where(report: dict[str, Any], names: tuple[str, ...]) -> str:
    dirty = ", uncommitted changes" if report["git"]["dirty"] else ""
    versions = ", ".join(f"{name} {report['versions'][name]}" for name in names if report["versions"].get(name))
    return (
        f"{report['machine']['cpu']}, {report['threads']} threads, {report['isa']}; {versions}; commit "
        f"{(report['git']['hash'] or 'unknown')[:10]}{dirty}, {report['date']}."
    )


def describe(p: dict[str, Any]) -> str:
    time = "t = None" if p["t"] is None else f"t = {p['t']:g}"
    what = "mean and covariance" if p["covariance"] else "mean"
    return f"{time}, {what}, n = {p['n']}, d = {p['d']}, {p['m']} test points, depth {p['depth']}, {p['dtype']}"


def speed(report: dict[str, Any]) -> str:
    """Seconds end to end, and memory of a covariance."""
    taken = [name for name in CONTENDERS if any(name in case["seconds"] for case in report["cases"].values())]
    against = [name for name in ("nt_jit", "nt") if name in taken]
    head = ["case", *(CONTENDERS[name] for name in taken), *(f"{CONTENDERS[name]} / fastntk" for name in against),
            "fastntk / bare factorisation", "largest error, fastntk", "Neural Tangents", "goal"]  # fmt: skip
    rows = []
    for case in report["cases"].values():
        seconds, ratios, accuracy = case["seconds"], case["ratios"], case["accuracy"]
        cells = [f"{seconds[name]['median']:.3g} s" if name in seconds else "" for name in taken]
        for name in (*(f"{rival}/fastntk" for rival in against), "fastntk/floor"):
            r = ratios.get(name)
            cells.append(f"{r['value']:.3g} ({r['least']:.3g} to {r['largest']:.3g})" if r else "")
        # errors are measured against fastntk in float64, which is then no contender
        judged = ("", "nt_jit") if case["parameters"]["dtype"] == "float64" else ("fastntk", "nt_jit")
        cells += [f"{max(accuracy[who].values()):.1e}" if who in accuracy else "" for who in judged]
        states = {None: "", True: ": yes", False: ": no"}
        goals = [f">= {t['at_least']:g} x{states[t['met']]}" for t in case["targets"]]
        rows.append([describe(case["parameters"]), *cells, "; ".join(goals)])
    names = ("numpy", "scipy", "neural-tangents", "jax", "jaxlib")
    parts = [f"{_where(report, names)} Medians; in brackets least and largest of a round.", "", _table(head, rows)]
    for who, sizes in report.get("memory", {}).items():
        each = ", ".join(
            f"{m} points {row['seconds']:.1f} s and {row['growth'] / 2**20:.0f} MiB beyond the outputs"
            if "seconds" in row
            else f"{m} points: {row['reason']}"
            for m, row in sizes.items()
        )
        parts += ["", f"- Covariance once trained, {CONTENDERS[who]}: {each}."]
    return "\n".join(parts)


def real(report: dict[str, Any]) -> str:
    """Errors, likelihood and calibration on images."""
    head = ["data", "kernel", "error", "NLL", "ECE", "kernels", "solve and predict", "calibrate", "choice"]
    rows = []
    for name, data in report["data"].items():
        for method, row in data["methods"].items():
            s = row["seconds"]
            rows.append([
                f"{name}, {data['train']} train, {data['test']} test", method.upper(), f"{100 * row['error']:.2f} %",
                f"{row['calibrated']['nll']:.3f}", f"{100 * row['calibrated']['ece']:.2f} %", f"{s['kernels']:.1f} s",
                f"{s['solve_and_predict']:.1f} s", f"{s['calibrate']:.1f} s", f"{row['choice']['seconds']:.1f} s",
            ])  # fmt: skip
    ends = ", ".join(f"{name} {data['seconds']:.0f} s" for name, data in report["data"].items())
    return f"{_where(report, ('numpy', 'scipy', 'scikit-learn'))} End to end: {ends}.\n\n{_table(head, rows)}"
