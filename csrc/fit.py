"""Fit the polynomials of duals.h and vmath.h and print csrc/coefficients.h.

    python csrc/fit.py > csrc/coefficients.h

Each function is smooth on its interval, so near-minimax Chebyshev fits reach the last digit of either precision;
the degrees are the smallest whose error, printed beside them, lies below half an ulp of the result.
Needs mpmath; the header is committed, so a build does not.
"""

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


POLYNOMIALS = [
    ("ANGLE", angle, 1, 7, 17),
    ("MOMENT", moment, 1, 6, 15),
    ("ATAN", arctangent, (mp.sqrt(2) - 1) ** 2, 5, 10),
]


def rows(values, suffix):
    return ",\n    ".join(mp.nstr(v, 20, strip_zeros=False) + suffix for v in values)


def main():
    print("// Written by csrc/fit.py: do not edit. Coefficients of 1, z, z^2, ... on [0, upper].\n#pragma once\n")
    for name, function, upper, *degrees in POLYNOMIALS:
        for ctype, suffix, degree in zip(("float", "double"), ("f", ""), degrees, strict=True):
            coefficients, error = mp.chebyfit(function, [0, upper], degree + 1, error=True)
            print(f"// {name}, degree {degree}: largest error {mp.nstr(error, 2)} on [0, {mp.nstr(upper, 4)}]")
            print(f"#define FNTK_{name}_{ctype.upper()} \\\n   ", end=" ")
            print(rows(coefficients[::-1], suffix).replace("\n", " \\\n"))
            print()


if __name__ == "__main__":
    main()
