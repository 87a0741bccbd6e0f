"""``fastntk study finite-vs-infinite``, from arguments to a table and a picture."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from time import perf_counter

from .data import load
from .experiment import Study, finite_vs_infinite, one_at_a_time
from .picture import draw
from .report import as_json, markdown, text

FORMATS = (".md", ".json", ".png")


def run(args: argparse.Namespace) -> Study:
    """Run the study, print its table, write its files.

    Parameters
    ----------
    args : argparse.Namespace
        Of :mod:`fastntk.cli`.

    Returns
    -------
    Study

    Raises
    ------
    ValueError, fastntk.demo.DemoError
        Arguments or data that cannot be used; found before work starts.
    """
    begin = perf_counter()
    for path in args.out:
        _check_out(path)
    configurations = one_at_a_time(args.lr, args.large_lr, args.l2, args.zca_eps)
    data = load(args.data, args.train, args.test, args.seed)
    study = finite_vs_infinite(
        data, args.widths, args.seeds, depth=args.depth, steps=args.steps, configurations=configurations,
        diag_reg_grid=args.diag_reg, rng=args.seed, progress=sys.stderr.isatty(),
    )  # fmt: skip
    print(text(study))
    for path in args.out:
        if path.suffix == ".png":
            draw(study, path)
        else:
            path.write_text(markdown(study) if path.suffix == ".md" else as_json(study), encoding="utf-8")
    print(f"\nwritten  {', '.join(map(str, args.out))}\ntotal    {perf_counter() - begin:.1f} s")
    return study


def _check_out(path: Path) -> None:
    if path.suffix not in FORMATS:
        raise ValueError(f"--out must end in {', '.join(FORMATS)}, given {path}")
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"--out {path}: {'a folder' if path.is_dir() else 'its folder does not exist'}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"--out {path}: no permission to write")
