"""Time networks of layers over pairs of positions beside Neural Tangents, jitted, in the same run; write one JSON.

    python bench/layers.py [--names graph text ...] [--repeats 5] [--rivals] [--out FILE]

Attention, graphs, masks, and convolutions of other kinds: what the road of planes does not take. ``ms`` are of one
call, NNGP and NTK of all inputs with themselves. Results of both are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastntk
import numpy as np
import rivals
import run
from fastntk import stax

GET = ("nngp", "ntk")
AGREE = 1e-3  # of float32, of the largest entry: Neural Tangents loses digits


@dataclass(frozen=True)
class LayerCase:
    """A network in the vocabulary of a ``stax`` module, and its inputs."""

    make: Callable[[Any], Any]
    shape: tuple[int, ...]
    goal: float  # Neural Tangents' time over ours
    keywords: Callable[[np.random.Generator, tuple[int, ...]], dict[str, Any]] = lambda rng, shape: {}
    lengths: bool = False  # inputs of different length: what is masked is 100
    note: str = field(default="")

    def inputs(self) -> tuple[np.ndarray, dict[str, Any]]:
        rng = np.random.default_rng(0)
        x = rng.standard_normal(self.shape).astype(np.float32)
        if self.lengths:
            for text, length in zip(x, rng.integers(self.shape[1] // 2, self.shape[1] + 1, len(x)), strict=True):
                text[length:] = 100
        return x, self.keywords(rng, self.shape)


def residual(vocabulary: Any, *layers: Any) -> Any:
    return vocabulary.serial(
        vocabulary.FanOut(2), vocabulary.parallel(vocabulary.serial(*layers), vocabulary.Identity()),
        vocabulary.FanInSum(),
    )  # fmt: skip


def transformer(vocabulary: Any) -> Any:
    """A block of attention with four heads and of a hidden layer, norms behind both sums."""
    attention = vocabulary.GlobalSelfAttention(
        64, n_chan_key=16, n_chan_val=16, n_heads=4, W_key_std=1.5, W_query_std=1.5, b_std=0.1
    )
    hidden = vocabulary.Dense(1, 1.5, 0.1), vocabulary.Gelu(), vocabulary.Dense(64, 1.5, 0.1)
    return vocabulary.serial(
        vocabulary.Dense(64, 1.5, 0.1), residual(vocabulary, attention), vocabulary.LayerNorm(),
        residual(vocabulary, *hidden), vocabulary.LayerNorm(), vocabulary.GlobalAvgPool(), vocabulary.Dense(1),
    )  # fmt: skip


def graph(vocabulary: Any) -> Any:
    """Two rounds of a graph network: neighbours are added up, then two hidden layers."""
    block = [
        vocabulary.Aggregate(), vocabulary.Dense(1, 2**0.5, 0.1), vocabulary.Relu(), vocabulary.Dense(1, 2**0.5, 0.1),
        vocabulary.Relu(),
    ]  # fmt: skip
    return vocabulary.serial(*block, *block, vocabulary.GlobalSumPool(), vocabulary.Dense(1))


def molecules(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Any]:
    """Chains with some rings closed, and each vertex beside itself."""
    n, size = shape[:2]
    found = np.tile(np.eye(size, dtype=np.float32), (n, 1, 1))
    at = np.arange(size - 1)
    found[:, at, at + 1] = found[:, at + 1, at] = 1
    for own in found:
        for _ in range(3):
            a = int(rng.integers(0, size - 5))
            own[a, a + 5] = own[a + 5, a] = 1
    return {"pattern": (found, found)}


def text(vocabulary: Any) -> Any:
    layers = [vocabulary.Conv(1, (3,), padding="SAME", W_std=2**0.5, b_std=0.1), vocabulary.Relu()]
    return vocabulary.serial(*layers * 3, vocabulary.GlobalAvgPool(), vocabulary.Dense(1))


def masked(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"mask_constant": 100.0}


def with_conv(kind: str, readout: str, **changes: Any) -> Callable[[Any], Any]:
    def make(vocabulary: Any) -> Any:
        own = {"padding": "SAME", "W_std": 2**0.5, "b_std": 0.1}
        return vocabulary.serial(
            vocabulary.Conv(1, (3, 3), **own), vocabulary.Relu(),
            getattr(vocabulary, kind)(1, (3, 3), **own, **changes), vocabulary.Relu(),
            vocabulary.Conv(1, (3, 3), **own), vocabulary.Relu(), getattr(vocabulary, readout)(), vocabulary.Dense(1),
        )  # fmt: skip

    return make


CASES = {
    "transformer": LayerCase(transformer, (24, 8, 8, 48), 10, note="8 x 8 patches, 4 heads, LayerNorm, Gelu"),
    "graph": LayerCase(graph, (200, 20, 16), 20, molecules, note="200 graphs of 20 vertices"),
    "text": LayerCase(text, (40, 50, 50), 20, masked, True, "40 masked texts of up to 50 words"),
    "conv-transpose-flatten": LayerCase(
        with_conv("ConvTranspose", "Flatten", strides=(2, 2)), (100, 8, 8, 3), 30, note="8 x 8 to 16 x 16"),
    "conv-transpose-pool": LayerCase(
        with_conv("ConvTranspose", "GlobalAvgPool", strides=(2, 2)), (8, 8, 8, 3), 30, note="8 x 8 to 16 x 16"),
    "conv-local-flatten": LayerCase(with_conv("ConvLocal", "Flatten"), (100, 12, 12, 3), 30, note="12 x 12"),
    "conv-local-pool": LayerCase(with_conv("ConvLocal", "GlobalAvgPool"), (12, 12, 12, 3), 30, note="12 x 12"),
}  # fmt: skip


def rival(case: LayerCase, x: np.ndarray, keywords: dict[str, Any]) -> Callable[[], Any]:
    """Neural Tangents, jitted; masks and patterns are given at once."""
    other = rivals.nt_stax()
    import jax

    jax.config.update("jax_platforms", rivals.PLATFORM)
    jax.config.update("jax_enable_x64", False)
    _, _, kernel_fn = case.make(other)
    given = jax.numpy.asarray(x)
    own = {k: tuple(map(jax.numpy.asarray, v)) if k == "pattern" else v for k, v in keywords.items()}
    if "pattern" in own:
        jitted = jax.jit(lambda a, p: kernel_fn(a, a, GET, pattern=(p, p)))
        return lambda: jax.block_until_ready(tuple(jitted(given, own["pattern"][0])))
    jitted = jax.jit(lambda a: kernel_fn(a, None, GET, **own))
    return lambda: jax.block_until_ready(tuple(jitted(given)))


def measure(name: str, case: LayerCase, repeats: int, with_rivals: bool) -> dict[str, Any]:
    x, keywords = case.inputs()
    _, _, kernel_fn = case.make(stax)
    given = {k: (v[0], None) if k == "pattern" else v for k, v in keywords.items()}
    calls: dict[str, Callable[[], Any]] = {"fastntk": lambda: kernel_fn(x, None, GET, **given)}
    found: dict[str, Any] = {"shape": list(case.shape), "note": case.note, "goal": case.goal}
    if with_rivals:
        try:
            calls["nt"] = rival(case, x, keywords)
            apart = [
                float(np.abs(np.asarray(a) - b).max() / np.abs(b).max())
                for a, b in zip(calls["nt"](), calls["fastntk"](), strict=True)
            ]
            if max(apart) > AGREE:
                raise RuntimeError(f"{name}: Neural Tangents and fastntk differ by {apart} of the largest entry")
            found["apart"] = apart
        except rivals.Missing as reason:
            found["missing"] = str(reason)
    times = run.sample(calls, repeats)
    found["ms"] = {key: run.summary([1e3 * t for t in own]) for key, own in times.items()}
    if "nt" in times:
        found["nt_over_fastntk"] = run.ratio(times["nt"], times["fastntk"])
    return found


def markdown(report: dict[str, Any]) -> str:
    """A row a case."""
    lines = ["| network | inputs | ms | Neural Tangents takes, times | goal |", "|---|---|--:|--:|--:|"]
    for name, found in report["layers"].items():
        over = found.get("nt_over_fastntk")
        times = f"{over['value']:.3g}" if over else ""
        lines.append(
            f"| {name} | {found['shape'][0]}: {found['note']} | {found['ms']['fastntk']['median']:.3g} | {times} | "
            f"{found['goal']:g} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", metavar="NAME", default=list(CASES), choices=list(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rivals", action="store_true", help="Neural Tangents too")
    parser.add_argument("--out", type=Path, help="default bench/results/layers-<isa>.json")
    given = parser.parse_args()
    report = {**run.surroundings(), "repeats": given.repeats, "dtype": "float32", "layers": {}}
    before = run.busy()
    for name in given.names:
        report["layers"][name] = found = measure(name, CASES[name], given.repeats, given.rivals)
        ratio = found.get("nt_over_fastntk", {}).get("value")
        print(f"{name}: {found['ms']['fastntk']['median']:.3g} ms, Neural Tangents {ratio and round(ratio, 1)} times")
    report["others_busy"] = run.others(before)
    out = given.out or Path(__file__).parent / "results" / f"layers-{report['isa'] or report['backend']}.json"
    out.write_text(json.dumps(report, indent=1) + "\n")
    print(markdown(report), end="")
    print(f"written: {out}, fastntk {fastntk.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
