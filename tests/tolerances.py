"""Every number that an accuracy test compares with, and why it has that size.

Errors are relative to the exact entry. An entry that crosses zero has no such error there: it is measured against a
fraction of ``sqrt(K(x, x) K(x', x'))`` where it is smaller than that. The fraction is ``FLOOR`` for all kernels of
networks. Among the dual maps it is ``DUAL_FLOOR`` for those in ``oracles.without_relative_accuracy``, which have a zero
where the terms they are made of do not vanish or fall off like an exponential, and nothing for the others: they owe
their digits down to rho = -1, where relu's k vanishes.
"""

from __future__ import annotations

FLOOR = 0.5
DUAL_FLOOR = 0.5

EPS = {"float32": 2.0**-23, "float64": 2.0**-52}

DEPTHS = (1, 10, 50)  # numbers of nonlinearities

BOUNDS: dict[tuple[str, str], float] = {
    # The dual maps: a handful of roundings (square roots, the fitted polynomial or arctangent, the product of the
    # standard deviations). Reached: 5 eps in float32, 7 eps in float64.
    ("k", "float32"): 8 * EPS["float32"],
    ("kdot", "float32"): 8 * EPS["float32"],
    ("k", "float64"): 8 * EPS["float64"],
    ("kdot", "float64"): 8 * EPS["float64"],
    # 1 - |rho'| of a dual's definition, for equal variances, and its root for any: some dozen operations each.
    ("defect", "float64"): 1e-13,
    # What the library promises. Roundings add up along a stack, a layer's worth each, never through a cancelling
    # difference.
    **{(f"{kernel} {depth}", "float64"): 1e-12 for kernel in ("nngp", "ntk") for depth in DEPTHS},
    **{(f"{kernel} {depth}", "float32"): 2e-6 for kernel in ("nngp", "ntk") for depth in DEPTHS if depth <= 10},
    **{(f"{kernel} {depth}", "float32"): 1e-5 for kernel in ("nngp", "ntk") for depth in DEPTHS if depth > 10},
    # The oracles' own check: float64 sums over some thousand nodes.
    ("closed form", "float64"): 1e-12,
    # Numbers printed with 15 decimals, the smallest of them 0.16: half of the last digit, and float64's own error.
    ("printed", "float64"): 5e-16 / 0.16 + 8 * EPS["float64"],
    # Smallest eigenvalue of an NTK Gram at depth 50, against the largest entry: rounding that does not grow with depth.
    ("smallest eigenvalue of float32", "float64"): 16 * EPS["float32"],
    ("smallest eigenvalue of float64", "float64"): 16 * EPS["float64"],
}


def bound(quantity: str, dtype: str) -> float:
    """Largest relative error allowed."""
    return BOUNDS[quantity, dtype]
