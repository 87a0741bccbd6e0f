"""Time every nonlinearity of the registry and every function without closed form in pairs with ReLU; write one JSON.

    python bench/nonlinearities.py [--names gelu sin] [--repeats 9] [--n 1000] [--rivals] [--out FILE]

Each is the same network with another nonlinearity, and in each round it and ReLU's run one after the other: what counts
are ratios within a round. ``both`` is NNGP and NTK, ``nngp`` the former alone; ns are per entry and layer. With
``--rivals`` Neural Tangents' layer of the same name runs in the round too, where there is one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rivals
import run
from fastntk import stax
from fastntk.network.activations import GENERAL, NONLINEARITIES

DEPTH = 3
GETS = {"both": ("nngp", "ntk"), "nngp": ("nngp",)}


def layers() -> dict[str, Any]:
    """By name: every registered nonlinearity with its example's arguments, then functions without closed form."""
    found = {name: make(*args) for name, (make, args) in NONLINEARITIES.items()}
    kinds = {kind: name for name, kind in reversed(GENERAL.items())}  # the first of several names
    return found | {name: kind() for kind, name in reversed(kinds.items())}


def width(layer: Any) -> float:
    """A W_std with which variance 1 stays: else powers overflow, and saturated functions are flat."""
    try:
        variance = float(
            stax.serial(stax.Dense(1), layer).kernel_fn(np.ones((1, 1)), None, "nngp", backend="numpy")[0, 0]
        )
    except (ValueError, NotImplementedError):
        return 1.0
    return variance**-0.5 if variance > 0 else 1.0


def network(vocabulary: Any, layer: Any, W_std: float) -> Any:
    _, _, kernel_fn = vocabulary.serial(*[vocabulary.Dense(1), layer, vocabulary.Dense(1, W_std)] * DEPTH)
    return kernel_fn


def terms(layer: Any, x: np.ndarray) -> int | None:
    """Of the series that stands for a function of these inputs."""
    if not hasattr(layer, "fit"):
        return None
    try:
        return len(layer.fit(float((x.astype(np.float64) ** 2).mean(axis=1).max()), x.dtype).degrees)
    except ValueError:  # kinks elsewhere
        return None


def rival(name: str, W_std: float, x: np.ndarray, get: tuple[str, ...]) -> Callable[[], Any] | None:
    """Neural Tangents' jitted kernel of the layer of this name."""
    import jax

    other = rivals.nt_stax()
    kinds = {kind.__name__: kind for kind in vars(other).values() if callable(kind) and hasattr(kind, "__name__")}
    make, args = NONLINEARITIES.get(name, (None, ()))
    layer = kinds.get(make.__name__) if make is not None else None
    if layer is None:
        return None
    kernel_fn = jax.jit(lambda a: network(other, layer(*args), W_std)(a, None, get))
    given = jax.numpy.asarray(x)
    return lambda: jax.block_until_ready(tuple(kernel_fn(given)))


def measure(name: str, layer: Any, x: np.ndarray, repeats: int, beside: bool) -> dict[str, Any]:
    W_std, n = width(layer), len(x)
    own = network(stax, layer, W_std)
    relu = network(stax, stax.Relu(), 2**0.5)
    found: dict[str, Any] = {"W_std": W_std, "terms": terms(layer, x)}
    for label, get in GETS.items():
        calls = {"fastntk": lambda get=get: own(x, None, get), "relu": lambda get=get: relu(x, None, get)}
        if beside and (other := rival(name, W_std, x, get)) is not None:
            calls["nt"] = other
        for call in calls.values():
            call()
        times = run.sample(calls, repeats)
        entry_layers = n * n * DEPTH
        found[label] = {
            "ns": {key: 1e9 * statistics.median(t) / entry_layers for key, t in times.items()},
            "over_relu": run.ratio(times["fastntk"], times["relu"]),
        }
        if "nt" in times:
            found[label]["nt_over_fastntk"] = run.ratio(times["nt"], times["fastntk"])
    return found


def markdown(report: dict[str, Any]) -> str:
    """A row a nonlinearity: terms of its series, ns an entry and layer, over ReLU's, Neural Tangents' over ours."""
    lines = [
        "| nonlinearity | terms | ns, both kernels | x ReLU | ns, NNGP | x ReLU | Neural Tangents over fastntk |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, found in report["nonlinearities"].items():
        if "refused" in found:
            lines.append(f"| {name} | | not compiled | | | | |")
            continue
        numbers = [f"{found[k]['ns']['fastntk']:.2f} | {found[k]['over_relu']['value']:.1f}" for k in GETS]
        over = found["both"].get("nt_over_fastntk")
        times = f"{over['value']:.1f}" if over else ""
        lines.append(f"| {name} | {found['terms'] or ''} | {' | '.join(numbers)} | {times} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    every = layers()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", metavar="NAME", default=list(every), help=", ".join(every))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--n", type=int, default=1000, help="inputs")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--rivals", action="store_true", help="Neural Tangents too")
    parser.add_argument("--out", type=Path, help="default bench/results/nonlinearities-<isa>.json")
    given = parser.parse_args()
    if unknown := set(given.names) - set(every):
        parser.error(f"unknown nonlinearities {sorted(unknown)}")
    x = np.random.default_rng(7).standard_normal((given.n, 64)).astype(given.dtype)  # of many variances
    report = {**run.surroundings(), "repeats": given.repeats, "n": given.n, "depth": DEPTH, "dtype": given.dtype}
    report["nonlinearities"] = {}
    before = run.busy()
    for name in given.names:
        try:
            found = measure(name, every[name], x, given.repeats, given.rivals)
        except (NotImplementedError, ValueError) as refusal:
            found = {"refused": str(refusal).splitlines()[0]}
        report["nonlinearities"][name] = found
        ratios = {k: round(found[k]["over_relu"]["value"], 2) for k in GETS} if "both" in found else found["refused"]
        print(f"{name}: {ratios}", flush=True)
    report["others_busy"] = run.others(before)
    out = given.out or Path(__file__).parent / "results" / f"nonlinearities-{report['isa'] or report['backend']}.json"
    out.write_text(json.dumps(report, indent=1) + "\n")
    print(markdown(report), end="")
    print(f"written: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
