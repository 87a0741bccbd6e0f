"""Time gradients beside the forward call, BoTorch's kernel and Neural Tangents' in the same run; write one JSON.

    python bench/gradients.py [--names points ...] [--repeats 5] [--rivals] [--out FILE]

``both``: the kernel, and its gradient in both inputs and all parameters for one cotangent. ``torch``: the same through
``fastntk.torch.kernel``, forward and backward. Results are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import rivals
import run
from fastntk import stax
from reports import RESULTS, context, noise_line, write_json

AGREE = {"float32": 2e-3, "float64": 1e-6}  # of the largest entry: rivals lose digits where inputs are near


@dataclass(frozen=True)
class GradientCase:
    """``goals``: what others take over ours, and what both take over the forward call alone (at most)."""

    n: int
    shape: tuple[int, ...]
    depth: int
    get: str
    dtype: str
    goals: dict[str, float]
    pool: str = ""
    rivals: tuple[str, ...] = ("nt",)

    def make(self, vocabulary: Any) -> Any:
        if not self.pool:
            layers = [vocabulary.Dense(1, 2**0.5, 0.1), vocabulary.Relu()] * self.depth
            return vocabulary.serial(*layers, vocabulary.Dense(1, 2**0.5, 0.1))
        layers = [vocabulary.Conv(1, (3, 3), padding="SAME", W_std=2**0.5, b_std=0.1), vocabulary.Relu()] * self.depth
        return vocabulary.serial(*layers, getattr(vocabulary, self.pool)(), vocabulary.Dense(1, 2**0.5, 0.1))

    def inputs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((2, self.n, *self.shape)).astype(self.dtype)
        return x[0], x[1], rng.standard_normal((self.n, self.n)).astype(self.dtype)


CASES = {
    "points": GradientCase(
        1000, (20,), 3, "nngp", "float64", {"both": 2.5, "botorch": 15, "nt": 10}, rivals=("botorch", "nt")),
    "points-ntk": GradientCase(1000, (20,), 3, "ntk", "float64", {"both": 2.5, "nt": 10}),
    "points-f32": GradientCase(1000, (20,), 3, "ntk", "float32", {"both": 3.2, "nt": 10}),
    "points-d784": GradientCase(1000, (784,), 10, "ntk", "float64", {"both": 2.5, "nt": 10}),
    "images-pool": GradientCase(8, (16, 16, 3), 3, "ntk", "float64", {"both": 4, "nt": 30}, "GlobalAvgPool"),
    "images-flatten": GradientCase(40, (16, 16, 3), 3, "ntk", "float64", {"both": 4, "nt": 30}, "Flatten"),
}  # fmt: skip

Call = Callable[[], tuple[Any, ...]]


def ours(case: GradientCase, x1: Any, x2: Any, on: Any) -> dict[str, Callable[[], Any]]:
    kernel_fn = case.make(stax).kernel_fn

    def both() -> tuple[Any, ...]:
        found = kernel_fn.vjp(x1, x2, cotangents={case.get: on}, wrt=("x1", "x2", "parameters"))
        return kernel_fn(x1, x2, case.get), found.x1, found.x2

    return {"forward": lambda: kernel_fn(x1, x2, case.get), "both": both}


def by_torch(case: GradientCase, x1: Any, x2: Any, on: Any) -> Call:
    import torch
    from fastntk.torch import kernel

    network, given = case.make(stax), torch.from_numpy(on)
    a, b = (torch.from_numpy(x.reshape(case.n, -1).copy()).requires_grad_() for x in (x1, x2))
    shape = {"input_shape": case.shape} if case.pool else {}

    def call() -> tuple[Any, ...]:
        a.grad = b.grad = None
        k = kernel(network, a, b, get=case.get, **shape)
        (k * given).sum().backward()
        return k.detach().numpy(), *(of.grad.numpy().reshape(x1.shape) for of in (a, b))

    return call


def botorch(case: GradientCase, x1: Any, x2: Any, on: Any) -> Call:
    """InfiniteWidthBNNKernel, derivatives in its inputs and variances."""
    for package in ("torch", "botorch"):
        if find_spec(package) is None:
            raise rivals.Missing(f"{package} is not installed")
    import torch
    from botorch.models.kernels import InfiniteWidthBNNKernel

    kernel = InfiniteWidthBNNKernel(depth=case.depth)
    kernel.weight_var, kernel.bias_var = 2.0, 0.01
    kernel, given = kernel.to(getattr(torch, case.dtype)), torch.from_numpy(on)
    a, b = (torch.from_numpy(x.copy()).requires_grad_() for x in (x1, x2))

    def call() -> tuple[Any, ...]:
        a.grad = b.grad = None
        kernel.zero_grad()
        k = kernel(a, b).to_dense()
        (k * given).sum().backward()
        return tuple(of.detach().numpy() for of in (k, a.grad, b.grad))

    return call


def nt(case: GradientCase, x1: Any, x2: Any, on: Any) -> Call:
    """``jit(value_and_grad)`` in both inputs: Neural Tangents has no derivatives in parameters without a new trace."""
    other = rivals.nt_stax()
    import jax

    jax.config.update("jax_platforms", rivals.PLATFORM)
    jax.config.update("jax_enable_x64", case.dtype == "float64")
    _, _, kernel_fn = case.make(other)
    given, a, b = map(jax.device_put, (on, x1, x2))

    def loss(x1: Any, x2: Any) -> Any:
        k = kernel_fn(x1, x2, case.get)
        return (k * given).sum(), k

    jitted = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))

    def call() -> tuple[Any, ...]:
        (_, k), (of1, of2) = jax.block_until_ready(jitted(a, b))
        return k, of1, of2

    return call


RIVALS = {"botorch": botorch, "nt": nt}


def survives(name: str, rival: str) -> None:
    """Raise ``Missing`` where a rival's first call ends its process, as an archived package's may in a later JAX."""
    ended = subprocess.run(
        [sys.executable, __file__, "--probe", name, rival], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ).returncode
    if ended < 0:
        raise rivals.Missing(f"its call ends the process: {signal.Signals(-ended).name}")


def measure(name: str, case: GradientCase, repeats: int, with_rivals: bool) -> dict[str, Any]:
    given = case.inputs()
    calls = ours(case, *given)
    want = calls["both"]()
    found: dict[str, Any] = {"parameters": asdict(case), "apart": {}, "missing": {}}
    if find_spec("torch") is not None:
        calls["torch"] = by_torch(case, *given)
    for rival in case.rivals if with_rivals else ():
        try:
            survives(name, rival)
            calls[rival] = RIVALS[rival](case, *given)
            calls[rival]()
        except rivals.Missing as reason:
            found["missing"][rival] = str(reason)
        except Exception as error:  # whatever an archived package meets in a later JAX
            found["missing"][rival] = f"{type(error).__name__}: {str(error)[:200]}"
            calls.pop(rival, None)
    for other in calls.keys() - {"forward", "both"}:
        apart = [
            float(np.abs(np.asarray(a) - b).max() / np.abs(b).max()) for a, b in zip(calls[other](), want, strict=True)
        ]
        found["apart"][other] = apart
        if max(apart) > AGREE[case.dtype]:
            raise RuntimeError(f"{name}: {other} and fastntk differ by {apart} of the largest entry")
    times = run.sample(calls, repeats)
    found["ms"] = {key: run.summary([1e3 * t for t in own]) for key, own in times.items()}
    found["ratios"] = {
        f"{other}/both": run.ratio(times[other], times["both"]) for other in times.keys() - {"forward", "both", "torch"}
    }
    found["ratios"]["both/forward"] = run.ratio(times["both"], times["forward"])
    return found


def markdown(report: dict[str, Any]) -> str:
    """A row a case."""
    lines = [
        "| network | kernel and gradient | over the kernel alone | through PyTorch | BoTorch takes, times | "
        "Neural Tangents takes, times |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for found in report["gradients"].values():
        p, ms, ratios = found["parameters"], found["ms"], found["ratios"]
        size = " x ".join(map(str, p["shape"]))
        what = f"{p['n']} x {p['n']} {'images' if p['pool'] else 'points'} of {size}, {p['depth']} layers"
        what += (f", {p['pool']}" if p["pool"] else "") + f", {p['get'].upper()}, {p['dtype']}"
        cells = [what, f"{ms['both']['median']:.3g} ms", _of(ratios, p["goals"], "both", "both/forward")]
        cells.append(f"{ms['torch']['median']:.3g} ms" if "torch" in ms else "")
        for rival in RIVALS:
            cell = _of(ratios, p["goals"], rival, f"{rival}/both")
            cells.append("fails" if rival in found["missing"] and not cell else cell)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _of(ratios: dict[str, Any], goals: dict[str, float], goal: str, name: str) -> str:
    return f"{ratios[name]['value']:.3g} (goal {goals[goal]:g})" if name in ratios else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", metavar="NAME", default=list(CASES), choices=list(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rivals", action="store_true", help="BoTorch and Neural Tangents too")
    parser.add_argument("--out", type=Path, default=RESULTS / "gradients.json", help="JSON to write")
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.probe:
        case = CASES[given.probe[0]]
        RIVALS[given.probe[1]](case, *case.inputs())()
        return 0
    report = {**context(), "repeats": given.repeats, "gradients": {}}
    before = run.busy()
    for name in given.names:
        report["gradients"][name] = found = measure(name, CASES[name], given.repeats, given.rivals)
        short = {key: round(r["value"], 2) for key, r in found["ratios"].items()}
        print(name, json.dumps({key: round(own["median"], 2) for key, own in found["ms"].items()}), short, flush=True)
        for rival, reason in found["missing"].items():
            print(f"  {rival}: {reason}")
    report["others_busy"] = run.others(before)
    noise_line(report["others_busy"])
    write_json(report, given.out)
    print(markdown(report), end="")
    print(f"written: {given.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
