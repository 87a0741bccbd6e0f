"""What the scripts on real data share: where the data lie, what the report says of the run, how it is written."""

from __future__ import annotations

import json
import os
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from run import NOISY, surroundings

RESULTS = Path(__file__).parent / "results"


def data_folder(*needed: str) -> Path:
    """The folder that FASTNTK_DATA names; without it or one of the files a line says so and the script ends."""
    named = os.environ.get("FASTNTK_DATA")
    if not named:
        print("skipped: FASTNTK_DATA must name the folder with the .npz files of the data sets")
        sys.exit(0)
    absent = [name for name in needed if not (Path(named) / name).is_file()]
    if absent:
        print(f"skipped: the folder that FASTNTK_DATA names has no {', '.join(absent)}")
        sys.exit(0)
    return Path(named)


def context() -> dict[str, Any]:
    """:func:`run.surroundings`, and the versions of what solves."""
    report = surroundings()
    for name in ("scipy", "scikit-learn"):
        try:
            report["versions"][name] = version(name)
        except PackageNotFoundError:
            report["versions"][name] = None
    return report


def noise_line(busy: float | None) -> None:
    """Say so where other processes were at work."""
    if (busy or 0) > NOISY:
        print(f"not quiet: other processes kept {busy} processors busy", flush=True)


def text_of(report: dict[str, Any]) -> str:
    """JSON, a list on one line."""
    text = json.dumps(report, indent=1)
    return re.sub(r"\[[^][{}]*\]", lambda match: " ".join(match[0].split()), text) + "\n"


def write_json(report: dict[str, Any], out: Path) -> None:
    """In one piece: whoever is interrupted keeps the file from before."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    part.write_text(text_of(report))
    part.replace(out)
