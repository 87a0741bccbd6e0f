"""The only list of cases on a GPU: as cases.py and image_cases.py, arrays on the device in and out."""

from __future__ import annotations

from cases import Case, Target, erf, rival
from image_cases import Goal, ImageCase, faster

# cuBLAS's product of the inputs and one write of the outputs
FLOOR = Target("fastntk", "floor", at_most=1.3)

DENSE: tuple[Case, ...] = (
    Case("relu-n20000", n=20000, d=3072, targets=(FLOOR, rival("nt", 10))),
    Case("relu-n20000-d64", n=20000, d=64),
    Case("relu-bias-n20000", n=20000, d=3072, b_std=0.1),
    Case("erf-n20000", network=erf, n=20000, d=3072),
    Case("relu-n10000-f64", n=10000, d=3072, dtype="float64"),
    Case("nngp-n20000", n=20000, d=3072, get=("nngp",)),
    Case("near-n20000", n=20000, d=3072, data="near"),
    Case("grams-10000x64", n=64, d=64, depth=5, batch=10000, rivals=("nt", "nt_vmap"), targets=(rival("nt", 100),)),
)

# From a kernel at hand: no product, the recursion alone, so deep that reading and writing weigh little.
RECURSION: tuple[Case, ...] = (
    Case("recursion", n=16000, depth=50, rivals=()),
    Case("recursion-f64", n=16000, depth=50, dtype="float64", rivals=()),
)
RECURSION_CODE = "relu, no bias, NTK, slots 1"  # what cuda_code.py calls its step
FP64_SHARE = 0.6  # of the rate at which float64 instructions can be issued, that recursion-f64 is to reach

# NumPy's arrays in and out, the result larger than the unit of work on the device.
HOST: tuple[Case, ...] = (Case("host-n40000", n=40000, d=784, rivals=()),)

IMAGE_BUDGET = 4 << 30  # memory_budget of calls on images: batches of pairs that fill a large device
IMAGES: tuple[ImageCase, ...] = (
    ImageCase(
        "deep-gap", "deep-gap", n=200, n_rival=16, rounds=5, fused=True,
        goals=(Goal("milliseconds an entry", at_most=0.05), faster(20)),
    ),
    ImageCase("deep-gap-f64", "deep-gap", n=60, n_rival=8, dtype="float64", rounds=5),
    ImageCase("deep-flatten", "deep-flatten", n=4000, n_rival=200, rounds=5, goals=(faster(10),)),
    ImageCase("myrtle-5", "myrtle-5", n=200, n_rival=16, rounds=5, least_size=32),
    ImageCase("myrtle-10", "myrtle-10", n=200, n_rival=16, rounds=5, goals=(faster(10),), least_size=32),
    ImageCase("wide-resnet-16", "wide-resnet-16", n=200, n_rival=16, rounds=5, least_size=32),
)  # fmt: skip
CHAIN_CODE = "SAME, no bias, 32 rows"  # what cuda_image_code.py calls its layers
ISSUE_SHARE = 0.5  # of the rate at which FP32 instructions can be issued, that deep-gap is to reach
