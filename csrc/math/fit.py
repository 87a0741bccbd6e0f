"""Fit the polynomials of math/duals.h, math/counted.h, math/vmath.h, cuda/images/chain.h; print math/coefficients.h.

    python csrc/math/fit.py > csrc/math/coefficients.h

Each function is smooth on its interval, so near-minimax Chebyshev fits reach the last digit of either precision;
the degrees are the smallest whose error, printed beside them, lies below half an ulp of the result.

A device has square roots for one instruction. In u = sqrt(2 - w), which is sqrt(2) cos(theta / 2), the arc's functions
are smooth up to u = -sqrt(2) and two degrees less do. Their coefficients do not fall off, so the rounding of each is
made up for by those of higher powers.
Needs mpmath; the header is committed, so a build does not.
"""

import itertools
import struct

import mpmath as mp

mp.mp.dps = 40


def angle(w):
    """theta / (pi sqrt(w)) with cos(theta) = 1 - w: the angular part of kdot."""
    return mp.sqrt(2) / mp.pi if w < 1e-30 else 2 * mp.asin(mp.sqrt(w / 2)) / (mp.pi * mp.sqrt(w))


def moment(w):
    """(sin theta - theta cos theta) / (pi w^(3/2)): what the defect loses in one rectifier."""
    if w < 1e-12:
        return 2 * mp.sqrt(2) / (3 * mp.pi) * (1 + w / 20)
    theta = 2 * mp.asin(mp.sqrt(w / 2))
    return (mp.sin(theta) - theta * mp.cos(theta)) / (mp.pi * w**1.5)


def arctangent(z):
    """atan(t) / t at z = t^2."""
    return 1 - z / 3 if z < 1e-30 else mp.atan(mp.sqrt(z)) / mp.sqrt(z)


def half_arctangent(z):
    """(1 - atan(t) / t) / t^2 at z = t^2: of an angle h with tan h = t what 1 - h cot h has for each t^2."""
    return mp.mpf(1) / 3 - z / 5 if z < 1e-20 else (1 - arctangent(z)) / z


def lens(z):
    """(x - sin x cos x) / sin^3 x at z = sin^2 x."""
    return mp.mpf(2) / 3 + z / 5 if z < 1e-20 else (mp.asin(mp.sqrt(z)) - mp.sqrt(z - z * z)) / mp.sqrt(z) ** 3


def edge(x):
    """1 - sqrt(pi) t exp(t^2) erfc(t), 0 <= t <= 8.6, which x = -1 .. 1 have with t / (t + 2.5) = 86 (x + 1) / 222."""
    share = mp.mpf(86) / 222 * (x + 1)
    t = mp.mpf(5) / 2 * share / (1 - share)
    return 1 - mp.sqrt(mp.pi) * t * mp.exp(t * t) * mp.erfc(t)


def exponential(x):
    """(exp(-x) - 1 + x) / x^2: what 1 - exp(-x) has below x."""
    if abs(x) > 1e-8:
        return (mp.exp(-x) - 1 + x) / x**2
    return mp.mpf(1) / 2 - x / 6 + x**2 / 24


def of_half(function):
    """Of u = sqrt(2 - w) instead of w."""
    return lambda u: function(max(2 - u * u, mp.mpf(0)))


def uniform(_):
    return mp.mpf(1)


def left_of_defect(u):
    """What an error of the moment does to the defect that is left, s = sqrt(w): s / (1 - s moment)."""
    w = max(2 - u * u, mp.mpf(0))
    return mp.sqrt(w) / (1 - mp.sqrt(w) * moment(w))


def minimax(function, weight, powers, lower, upper):
    """Coefficients of these powers whose largest weighted error is least: exchange of Remez on a fixed grid."""
    n = len(powers) + 1
    grid = [lower + (upper - lower) * (1 - mp.cos(mp.pi * k / 300)) / 2 for k in range(301)]
    targets, weights = [function(x) for x in grid], [weight(x) for x in grid]
    chosen = [1 + round(298 * (1 - mp.cos(mp.pi * k / (n - 1))) / 2) for k in range(n)]
    for _ in range(30):
        rows = [[grid[k] ** p for p in powers] + [(-1) ** i / weights[k]] for i, k in enumerate(chosen)]
        solved = list(mp.lu_solve(mp.matrix(rows), mp.matrix([targets[k] for k in chosen])))
        errors = [
            w * (t - mp.fsum(c * x**p for c, p in zip(solved, powers, strict=False)))
            for x, t, w in zip(grid, targets, weights, strict=True)
        ]
        signed = itertools.groupby(range(len(grid)), key=lambda k: errors[k] > 0)
        runs = [max(run, key=lambda k: abs(errors[k])) for _, run in signed]
        while len(runs) > n:
            runs.pop(0 if abs(errors[runs[0]]) < abs(errors[runs[-1]]) else -1)
        if runs == chosen or len(runs) < n:
            break
        chosen = runs
    return solved[:-1]


def rounded(function, weight, degree, lower, upper):
    """Coefficients in float32, each rounding made up for by higher powers, and the largest weighted error."""
    known = []
    for first in range(degree + 1):
        rest = minimax(
            lambda x: function(x) - mp.polyval(known[::-1] or [0], x), weight, range(first, degree + 1), lower, upper
        )
        known.append(mp.mpf(struct.unpack("f", struct.pack("f", float(rest[0])))[0]))
    grid = [lower + (upper - lower) * k / 500 for k in range(501)]
    return known, max(weight(x) * abs(function(x) - mp.polyval(known[::-1], x)) for x in grid)


POLYNOMIALS = [
    ("ANGLE", angle, 0, 1, 7, 17),
    ("MOMENT", moment, 0, 1, 6, 15),
    ("ATAN", arctangent, 0, (mp.sqrt(2) - 1) ** 2, 5, 10),
    ("HALF_ATAN", half_arctangent, 0, 1, 9, 19),
    ("LENS", lens, 0, mp.mpf(1) / 2, 8, 18),
    ("EXP", exponential, -mp.log(2) / 2, mp.log(2) / 2, 4, 9),
    ("EDGE", edge, -1, 1, 9, 21),
]
HALVES = [("ANGLE_HALF", angle, uniform, 5), ("MOMENT_HALF", moment, left_of_defect, 4)]


def rows(values, suffix):
    return ",\n    ".join(mp.nstr(v, 20, strip_zeros=False) + suffix for v in values)


def define(name, coefficients, suffix):
    print(f"#define FNTK_{name} \\\n   ", end=" ")
    print(rows(coefficients, suffix).replace("\n", " \\\n"))
    print()


def main():
    print("// Written by csrc/math/fit.py: do not edit. Coefficients of 1, z, z^2, ...\n#pragma once\n")
    for name, function, lower, upper, *degrees in POLYNOMIALS:
        for ctype, suffix, degree in zip(("float", "double"), ("f", ""), degrees, strict=True):
            coefficients, error = mp.chebyfit(function, [lower, upper], degree + 1, error=True)
            interval = f"[{mp.nstr(lower, 4)}, {mp.nstr(upper, 4)}]"
            print(f"// {name}, degree {degree}: largest error {mp.nstr(error, 2)} on {interval}")
            define(f"{name}_{ctype.upper()}", coefficients[::-1], suffix)
    for name, function, weight, degree in HALVES:
        coefficients, error = rounded(of_half(function), weight, degree, mp.mpf(1), mp.sqrt(2))
        what = "error" if weight is uniform else "error of the defect left"
        print(f"// {name}, degree {degree} in sqrt(2 - w): largest {what} {mp.nstr(error, 2)} on [1, sqrt(2)]")
        define(f"{name}_FLOAT", coefficients, "f")


if __name__ == "__main__":
    main()
