"""The ``fastntk`` command: ``info`` says what is in use, ``demo`` shows it on real data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from . import __version__
from .config import show_config

BAD_INPUT = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments behind the program's name. None: those of the process.

    Returns
    -------
    int
        Exit status: 0; 2 for input that cannot be used, with one line on stderr; 130 after Ctrl-C.

    Raises
    ------
    SystemExit
        By argparse: ``--help``, ``--version``, unknown arguments.
    """
    args = _parser().parse_args(argv)
    if args.command == "info":
        show_config()
        return 0
    return _demo(args)


def _demo(args: argparse.Namespace) -> int:
    needed = ["scipy", "matplotlib", "tqdm", "threadpoolctl"] + (["sklearn"] if args.data is None else [])
    if missing := [name for name in needed if find_spec(name) is None]:
        return _fail(f"{', '.join(missing)} not installed: pip install 'fastntk[demo]'")

    from .demo import DemoError, Settings, run

    settings = Settings(
        depth=args.depth,
        w_std=args.w_std,
        b_std=args.b_std,
        seed=args.seed,
        test_fraction=args.test_fraction,
        repeats=args.repeats,
    )
    try:
        run(args.data, args.out, settings, task=args.task, images=not args.no_images, max_samples=args.max_samples)
    except (DemoError, MemoryError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("\nfastntk demo: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _fail(message: str) -> int:
    print(f"fastntk demo: {' '.join(message.split())}", file=sys.stderr)
    return BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastntk", description="Kernels of infinitely wide neural networks.")
    parser.add_argument("--version", action="version", version=f"fastntk {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="say which backend and instruction set are in use, and why")
    demo = commands.add_parser(
        "demo",
        help="NNGP and NTK of ReLU networks on handwritten digits or your own data",
        description="Exact Gaussian process and NTK prediction on real data: a table, and one picture.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument(
        "--data",
        type=Path,
        metavar="FILE.npz",
        help="arrays x (n, ...) and y (n,): integers or strings are classes, other floats a regression target; "
        "without it, scikit-learn's 1,797 digits",
    )
    demo.add_argument(
        "--out", type=Path, default=Path("fastntk-demo.png"), metavar="PICTURE.png", help="picture to write"
    )
    demo.add_argument("--depth", type=int, default=5, help="hidden layers")
    demo.add_argument("--w-std", type=float, default=2**0.5, help="weight scale of each layer")
    demo.add_argument("--b-std", type=float, default=0.1, help="bias scale of the hidden layers")
    demo.add_argument("--seed", type=int, default=0, help="seed of the split and of the learning curve")
    demo.add_argument("--test-fraction", type=float, default=0.25, help="share of the samples held out for testing")
    demo.add_argument("--repeats", type=int, default=5, help="random training sets per size of the learning curve")
    demo.add_argument("--max-samples", type=int, default=3000, help="use a random part of a larger data set")
    demo.add_argument("--task", choices=("auto", "classification", "regression"), default="auto", help="what y is")
    demo.add_argument("--no-images", action="store_true", help="never take the samples of x for images")
    return parser
