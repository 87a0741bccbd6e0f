"""
Finite networks beside the infinite one
=======================================

Networks of growing width on handwritten digits, beside the kernels of the infinite network.

``python examples/study.py [picture.png]`` needs ``pip install 'fastntk[demo]'``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fastntk import study
from fastntk.study.picture import draw

WIDTHS = (32, 64, 128, 256)


def main(path="study.png"):
    data = study.load("digits", n_train=200, n_test=300)
    configurations = (
        *study.one_at_a_time(),
        study.Configuration("centered, ZCA", centered=True, zca_eps=1.0),
    )
    found = study.finite_vs_infinite(data, WIDTHS, 3, steps=150, configurations=configurations)
    for width in WIDTHS:
        distances = [found.find(name, "ensemble", width).distance.mean for name in ("base", "centered")]
        print("width {:4d}: ensembles are {:.3f} from the NTK's mean, centered {:.3f}".format(width, *distances))
    draw(found, Path(path))
    print(f"picture: {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
