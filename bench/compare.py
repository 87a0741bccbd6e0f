"""Compare two results of run.py from one machine: a Markdown table, and exit status 1 where the new one is slower."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def seconds(found: dict[str, Any], by: str | None) -> float:
    median = found["seconds"]["fastntk"]["median"]
    return median / found["seconds"][by]["median"] if by else median


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--threshold", type=float, default=1.1, help="largest new / old that passes (default 1.1)")
    parser.add_argument("--by", metavar="CONTENDER", help="divide by this contender's time first, e.g. product")
    given = parser.parse_args()
    old, new = (json.loads(path.read_text()) for path in (given.old, given.new))
    for key, a, b in (
        ("cpu", old["machine"]["cpu"], new["machine"]["cpu"]),
        ("threads", old["threads"], new["threads"]),
    ):
        if a != b:
            parser.error(f"the results differ in {key}: {a}, {b}; times of two machines do not compare")

    unit = f"x {given.by}" if given.by else "s"
    print(f"| case | old [{unit}] | new [{unit}] | new / old | |\n|---|---|---|---|---|")
    slower, compared = [], 0
    for name, after in new["cases"].items():
        before = old["cases"].get(name)
        if before is None or before["parameters"] != after["parameters"]:
            print(f"| {name} | | | | not in both |")
            continue
        if given.by and not all(given.by in found["seconds"] for found in (before, after)):
            print(f"| {name} | | | | without {given.by} |")
            continue
        a, b = seconds(before, given.by), seconds(after, given.by)
        compared += 1
        if b / a > given.threshold:
            slower.append(name)
        print(f"| {name} | {a:.4g} | {b:.4g} | {b / a:.2f} | {'slower' if name in slower else ''} |")
    if not compared:
        parser.error("no case stands in both results")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
