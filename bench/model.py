"""What counted instructions and measured rates come to on other machines: computed, never measured.

A device's seconds are instructions over its issue rate, four warps of 32 lanes a multiprocessor and clock, those of
float64 over its units for them where these are fewer; beside them the product of the inputs over the rate of
multiply-adds. What else a device waits for is not in it: a measurement will show how much that is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CIFAR10 = 60_000  # images, of 32 x 32
MILLION = 1_000_000
ISSUE = 4 * 32  # lanes a multiprocessor starts an instruction for, each clock


@dataclass(frozen=True)
class Device:
    """From its maker's data sheet: multiprocessors, boost clock, multiply-adds a clock of each, bytes a second."""

    name: str
    multiprocessors: int
    hertz: float
    float32: int
    float64: int
    bytes: float

    def instructions(self, count: float, of_float64: float = 0.0) -> float:
        """Seconds of so many instructions of one lane."""
        each = self.multiprocessors * self.hertz
        return max(count / (ISSUE * each), of_float64 / (self.float64 * each))

    def product(self, multiply_adds: float, single: bool) -> float:
        """Seconds of a matrix product."""
        return multiply_adds / (self.multiprocessors * self.hertz * (self.float32 if single else self.float64))


DEVICES = (
    Device("A100 SXM 80 GB", 108, 1.41e9, 64, 32, 2.04e12),
    Device("H200 SXM", 132, 1.98e9, 128, 64, 4.8e12),
    Device("RTX 4090", 128, 2.52e9, 128, 2, 1.01e12),
)


def text(seconds: float) -> str:
    """A time with its unit."""
    for unit, size in (("h", 3600.0), ("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size or unit == "us":
            return f"{seconds / size:,.3g} {unit}" if seconds / size < 1000 else f"{seconds / size:,.0f} {unit}"
    raise AssertionError


def dense(device: Device, code: dict[str, Any], n: int, d: int, depth: int, dtype: str) -> float:
    """NNGP and NTK of n rows without biases, one triangle: product, recursion, and the way of both to memory."""
    single, kind = dtype == "float32", f"relu, no bias, NTK, slots 1, {dtype}"
    pairs, own = n * (n + 1) / 2, code.get("fp64_instructions_per_entry_layer", {}).get(kind, 0.0)
    each = code["instructions_per_entry_layer"][kind]
    recursion = device.instructions(pairs * depth * each, pairs * depth * own)
    write = 2 * n * n * (4 if single else 8) / device.bytes
    return device.product(pairs * d, single) + max(recursion, write)


def image_pair(device: Device, code: dict[str, Any], displacements: int, layers: int = 21) -> float:
    """A pair of 32 x 32 images through 3 x 3 convolutions and ReLU, both kernels, float32."""
    each = code["instructions_per_entry_layer"]["SAME, no bias, 32 rows, float32"]
    return device.instructions(1024 * displacements * layers * each)


def layered(device: Device, executed: dict[str, Any], case: str, layers: int = 10) -> float:
    """A pair of 32 x 32 images with all displacements, layer by layer, both kernels, float32."""
    own = executed["instructions_per_entry_layer"][case]
    return device.instructions(1024 * 1024 * layers * (own["all"] - own["moves"]))


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def gpu(points: dict[str, Any], images: dict[str, Any], executed: dict[str, Any]) -> str:
    """What cases should take on some devices, from the counted instructions of sm_90."""
    whole = CIFAR10 * (CIFAR10 + 1) / 2
    by_layers = {
        f"10 layers of {case} + GlobalAvgPool, a pair of 32 x 32, float32 (PTX)": lambda g, case=case: layered(
            g, executed, case
        )
        for case in executed["instructions_per_entry_layer"]
    }
    cases = {
        "dense, n = 20,000, d = 3,072, depth 10, float32": lambda g: dense(g, points, 20_000, 3_072, 10, "float32"),
        "the same, float64": lambda g: dense(g, points, 20_000, 3_072, 10, "float64"),
        "21 layers + GlobalAvgPool, a pair of 32 x 32, float32": lambda g: image_pair(g, images, 1024),
        "21 layers + Flatten, a pair of 32 x 32, float32": lambda g: image_pair(g, images, 1),
        "21 layers + GlobalAvgPool, 60,000 images": lambda g: whole * image_pair(g, images, 1024),
        "21 layers + Flatten, 60,000 images": lambda g: whole * image_pair(g, images, 1),
        **by_layers,
    }
    head = ["NNGP + NTK, computed", *(device.name for device in DEVICES)]
    rows = [[what, *(text(seconds(device)) for device in DEVICES)] for what, seconds in cases.items()]
    said = (
        f"From {points['compiler']}'s code for {points['architecture']}; computed, not measured. PTX: of what runs "
        "layer by layer, instructions as an emulator of PTX counts them, without moves; a device executes several for "
        "a root or a quotient."
    )
    return f"{said}\n\n{table(head, rows)}"


WORKERS = (1, 8, 64)


def scale(cluster: dict[str, Any], of_images: dict[str, Any], points: dict[str, Any], images: dict[str, Any]) -> str:
    """Hours of large matrices on workers of one core, from measured rates, and on a GPU, from counted instructions."""
    rows = cluster["gram"]["rows"]
    features, depth = rows["shape"][1], 10
    entry = of_images["cases"]["deep-gap"]["entry_seconds"]["fastntk"]["median"] * of_images["threads"]
    million, whole = MILLION * (MILLION + 1) / 2, CIFAR10 * (CIFAR10 + 1) / 2
    h200 = DEVICES[1]
    cases = {
        f"{MILLION:,} points, d = {features}, depth {depth}, NTK": (
            million / rows["pairs_a_second_of_a_core"], rows["two_workers_over_one"] / 2, 4.0 * MILLION**2,
            dense(h200, points, MILLION, features, depth, "float32"),
        ),
        f"{CIFAR10:,} images of 32 x 32, 21 layers + GlobalAvgPool, NNGP + NTK": (
            whole * entry, cluster["gram"]["images"]["two_workers_over_one"] / 2, 8.0 * CIFAR10**2,
            whole * image_pair(h200, images, 1024),
        ),
    }  # fmt: skip
    workers = [f"{k} worker{'s' * (k > 1)}" for k in WORKERS]
    head = ["float32, whole Gram matrix", "bytes", *workers, f"{h200.name}, computed"]
    lines = []
    for what, (seconds, efficiency, size, device) in cases.items():
        hours = [seconds / 3600 / (k if k == 1 else k * efficiency) for k in WORKERS]
        lines.append([what, f"{size / 1e9:,.0f} GB", *(f"{h:,.3g} h" for h in hours), text(device)])
    machine = cluster["machine"]["cpu"]
    return (
        f"Workers of one core of {machine}, at the rates measured there, and as far from ideal as two of them were; a "
        f"GPU by its counted instructions.\n\n{table(head, lines)}"
    )
