"""``fastntk study finite-vs-infinite``, from arguments to a table and a picture."""

from __future__ import annotations

import argparse
import sys
from time import perf_counter

from ..base.checks import integer
from ..base.files import check_output, write_whole
from .data import load
from .experiment import Study, finite_vs_infinite, one_at_a_time
from .panels import Report
from .picture import draw
from .report import as_json, markdown, text
from .whitening import choose_zca_eps

FORMATS = (".md", ".json", ".png")


def run_other(args: argparse.Namespace) -> Report:
    """Run one of the smaller studies, print its table and claims, write its files.

    Parameters
    ----------
    args : argparse.Namespace
        Of :mod:`fastntk.cli`.

    Returns
    -------
    Report

    Raises
    ------
    ValueError, fastntk.demo.DemoError
        Arguments or data that cannot be used; found before work starts.
    ImportError
        PyTorch, for a study that trains with it.
    OSError
        A file that cannot be written.
    """
    from .lazy import lazy_vs_feature
    from .others import STUDIES, Size

    begin = perf_counter()
    for path in args.out:
        check_output("--out", path, FORMATS)
    size = Size(integer("study", "seeds", args.seeds), args.quick, integer("study", "seed", args.seed, least=0))
    study = {"lazy-vs-feature": lazy_vs_feature, **STUDIES}[args.study]
    report = study(load(args.data, args.train, args.test, args.seed), size)
    print(report.text())
    for path in args.out:
        report.write(path)
    print(f"\nwritten  {', '.join(map(str, args.out))}\ntotal    {perf_counter() - begin:.1f} s")
    return report


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
    OSError
        A file that cannot be written: the disk has become full.
    """
    begin = perf_counter()
    for path in args.out:
        check_output("--out", path, FORMATS)
    options = args.lr, args.large_lr, args.l2
    one_at_a_time(*options, args.zca_eps or 1.0, args.stop, args.augment or 0)  # refuses before data are read
    data = load(args.data, args.train, args.test, args.seed)
    chosen = choose_zca_eps(data, depth=args.depth, rng=args.seed) if args.zca_eps is None else None
    copies = int(data.image_shape is not None) if args.augment is None else args.augment
    configurations = one_at_a_time(*options, chosen.eps if chosen else args.zca_eps, args.stop, copies)
    study = finite_vs_infinite(
        data, args.widths, args.seeds, network=args.network, depth=args.depth, steps=args.steps,
        configurations=configurations, diag_reg_grid=args.diag_reg, rng=args.seed, progress=sys.stderr.isatty(),
    )  # fmt: skip
    print(text(study))
    if chosen:
        print(f"\n{chosen}")
    for path in args.out:
        if path.suffix.lower() == ".png":
            draw(study, path)
        else:
            content = markdown(study) if path.suffix.lower() == ".md" else as_json(study)
            write_whole(path, content.encode())
    print(f"\nwritten  {', '.join(map(str, args.out))}\ntotal    {perf_counter() - begin:.1f} s")
    return study
