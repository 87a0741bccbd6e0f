"""Peak memory and time of one case whose outputs are memmaps, in a process of its own: see README.md, "Memory"."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from cases import CASES, Case

PERIOD = 0.002  # s between two looks at the child


def status(pid: int | str) -> dict[str, int]:
    """Memory figures of a process in bytes; Linux only."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = (line.split() for line in lines if line.endswith(" kB"))
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in pairs}


def watch(command: list[str], what: str) -> tuple[dict[str, Any], int]:
    """Run a child: the JSON that it prints, and its peak of anonymous memory."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        anon = 0
        while child.poll() is None:
            try:
                anon = max(anon, status(child.pid).get("RssAnon", 0))
            except (FileNotFoundError, ProcessLookupError):
                break
            time.sleep(PERIOD)
        assert child.stdout is not None
        text = child.stdout.read()
    if child.returncode:
        raise RuntimeError(f"{what}: the child ended with {child.returncode}")
    return json.loads(text), anon


def measure(case: Case, contender: str, scratch: str | None) -> dict[str, Any]:
    """Run ``contender`` ('fastntk' or 'floor') in a child and watch it."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        command = [sys.executable, __file__, case.name, contender, folder, str(case.n)]
        found, anon = watch(command, case.name)
    found["peak_own"] = anon + found["file_before"]
    return found


def _child(case: Case, contender: str, folder: str) -> dict[str, Any]:
    x = case.inputs()
    outputs = [np.memmap(Path(folder) / k, x.dtype, "w+", shape=(case.n, case.n)) for k in case.get]
    if contender == "fastntk":
        from fastntk import stax

        kernel_fn = case.make(stax)
        kernel_fn(x[:256], get=case.get)
    before = status("self")
    start = time.perf_counter()
    if contender == "fastntk":
        kernel_fn(x, get=case.get, out=tuple(outputs))
    else:
        for i in range(0, case.n, 256):
            np.matmul(x[i : i + 256], x.T, out=outputs[0][i : i + 256])
            for other in outputs[1:]:
                other[i : i + 256] = outputs[0][i : i + 256]
    seconds = time.perf_counter() - start
    after = status("self")
    if contender == "fastntk":
        some = np.sort(np.random.default_rng(0).choice(case.n, min(case.n, 64), replace=False))
        for k, name in zip(outputs, case.get, strict=True):
            np.testing.assert_allclose(k[np.ix_(some, some)], kernel_fn(x[some], get=name), rtol=1e-5)
    size = sum(k.nbytes for k in outputs)
    return {
        "seconds": seconds,
        "outputs": size,
        "file_before": before["RssFile"] + before["RssShmem"],
        "peak_beyond_outputs": after["VmHWM"] - size,
    }


if __name__ == "__main__":
    from dataclasses import replace

    which, who, where, count = sys.argv[1:]
    chosen = next(case for case in CASES if case.name == which)
    print(json.dumps(_child(replace(chosen, n=int(count)), who, where)))
