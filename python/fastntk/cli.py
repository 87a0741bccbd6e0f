"""The ``fastntk`` command: ``info`` says what is in use, ``demo``, ``study`` and ``gram`` run it on data."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .base.version import __version__
from .info import show_config

# Of the study, where an option is not given: in full, and with --quick.
_STUDY: dict[str, tuple[Any, Any]] = {
    "widths": ((32, 64, 128, 256, 512), (16, 64, 256)),
    "seeds": (4, 3),
    "depth": (2, 1),
    "steps": (300, 60),
    "train": (400, 100),
    "test": (500, 100),
}
# The same of convolutional networks, where they differ.
_CONVOLUTIONAL: dict[str, tuple[Any, Any]] = {
    "widths": ((8, 16, 32), (4, 8)), "seeds": (4, 2), "steps": (150, 12), "train": (200, 40), "test": (500, 40)
}  # fmt: skip

# Beside finite-vs-infinite.
_OTHER_STUDIES = {
    "parameterizations": "stationary starts and large first rates of integrable parameterizations, by activation",
    "node-scaling": "pruning after training, and movement, of networks whose nodes have scales of their own",
    "trainability": "training accuracy over depth and weight variance, beside the correlation depth (PyTorch)",
    "lazy-vs-feature": "where lazy training ends, and what each regime does, dense and convolutional (PyTorch)",
    "catapult": "losses and curvatures over learning rates beyond the stable ones",
}
_FINDS = "A table, what theory says beside what is seen, and a picture."
_DATA = (
    "digits (scikit-learn's); mnist, fashion or cifar10, in the folder that FASTNTK_DATA names or among the downloads "
    "of Keras; FILE.npz with x_train, y_train, x_test, y_test, or with x (n, ...) and y (n,) of classes; a folder of "
    "IDX files, or of the batches of CIFAR-10 (default: digits)"
)

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
        Exit status: 0; 2 for input that cannot be used or output that cannot be written, with one line on stderr; 130
        after Ctrl-C.

    Raises
    ------
    SystemExit
        By argparse: ``--help``, ``--version``, unknown arguments.
    """
    args = _parser().parse_args(argv)
    try:
        status = {"info": _info, "demo": _demo, "study": _study, "gram": _gram}[args.command](args)
        sys.stdout.flush()
    except OSError as error:  # a full disk, above all; also of standard output
        _abandon_output()
        return _fail(str(error), args.command)
    return status


def _info(args: argparse.Namespace) -> int:
    show_config()
    return 0


def _abandon_output() -> None:
    """What standard output could not take is not tried again when Python ends."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
        return _fail(str(error) or "out of memory")
    except KeyboardInterrupt:
        print("\nfastntk demo: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _study(args: argparse.Namespace) -> int:
    own_file = args.data not in ("mnist", "fashion", "cifar10")
    needed = ["scipy", "matplotlib"] + (["sklearn", "tqdm", "threadpoolctl"] if own_file else [])
    if missing := [name for name in needed if find_spec(name) is None]:
        return _fail(f"{', '.join(missing)} not installed: pip install 'fastntk[demo]'", "study")

    from .study.command import run, run_other

    convolutional = getattr(args, "network", "dense") != "dense"
    for name, values in (_STUDY | _CONVOLUTIONAL if convolutional else _STUDY).items():
        if getattr(args, name, 0) is None:
            setattr(args, name, values[args.quick])
    errors: tuple[type[Exception], ...] = (ValueError, MemoryError, ImportError)
    if own_file:
        from .demo import DemoError

        errors += (DemoError,)
    try:
        (run if args.study == "finite-vs-infinite" else run_other)(args)
    except errors as error:
        return _fail(str(error) or "out of memory", "study")
    except KeyboardInterrupt:
        print("\nfastntk study: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _gram(args: argparse.Namespace) -> int:
    from .scale.command import run

    try:
        run(args)
    except (ValueError, TypeError, RuntimeError, MemoryError, ImportError) as error:
        return _fail(str(error) or "out of memory", "gram")
    except KeyboardInterrupt:
        print("\nfastntk gram: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    return 0


def _fail(message: str, command: str = "demo") -> int:
    print(f"fastntk {command}: {' '.join(message.split())}", file=sys.stderr)
    return BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastntk",
        description="Kernels of infinitely wide neural networks.",
        epilog="an example of each command: fastntk COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"fastntk {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "info", help="say which backend and instruction set are in use, and why", epilog="example: fastntk info"
    )
    demo = commands.add_parser(
        "demo",
        help="NNGP and NTK of ReLU networks on handwritten digits or your own data",
        description="Exact Gaussian process and NTK prediction on real data: a table, and one picture.",
        epilog="example: fastntk demo --data file.npz --depth 3 --out picture.png",
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
    from .scale.command import add_arguments

    add_arguments(
        commands.add_parser(
            "gram",
            help="write the kernels of your data and network into a store, block by block",
            description="Gram matrices into a Zarr store or an .npy file, resumable: run the same command again after "
            "any interruption, and it computes what is missing.",
            epilog="example: fastntk gram --data file.npz --network net.py:net --store k.zarr",
        )
    )
    study = commands.add_parser(
        "study",
        help="compare finite networks with their infinite limits on real data",
        epilog="example: fastntk study finite-vs-infinite --quick",
    )
    studies = study.add_subparsers(dest="study", required=True)
    _add_finite_vs_infinite(studies)
    for name, meaning in _OTHER_STUDIES.items():
        _add_other(studies, name, meaning)
    return parser


def _add_other(studies: Any, name: str, meaning: str) -> None:
    study = studies.add_parser(
        name,
        help=meaning,
        description=f"{meaning[0].upper()}{meaning[1:]}. {_FINDS}",
        epilog=f"example: fastntk study {name} --quick --out {name}.png",
    )
    study.add_argument("--data", default="digits", metavar="DATA", help=_DATA)
    for option, words in (("train", "training samples"), ("test", "test samples")):
        full, quick = _STUDY[option]
        study.add_argument(f"--{option}", type=int, metavar="N", help=f"{words} (default: {full}; quick: {quick})")
    study.add_argument("--seeds", type=int, default=3, metavar="N", help="networks of each point (default: 3)")
    study.add_argument("--seed", type=int, default=0, metavar="N", help="of samples and networks (default: 0)")
    study.add_argument("--quick", action="store_true", help="a small study, in seconds")
    study.add_argument(
        "--out", type=Path, nargs="+", default=[Path(f"fastntk-{name}.png")], metavar="FILE",
        help=f"what to write: .png the picture, .md or .json the table (default: fastntk-{name}.png)",
    )  # fmt: skip


def _add_finite_vs_infinite(studies: Any) -> None:
    study = studies.add_parser(
        "finite-vs-infinite",
        help="networks of several widths, trained by gradient descent, beside NNGP and NTK",
        description="ReLU networks of several widths beside their NNGP and NTK: a base, and one change at a time "
        "(centering, learning rate, L2, parameterization, ZCA, early stopping, augmentation), single and averaged, and "
        f"kernels over their regularisation and time. {_FINDS}",
        epilog="example: fastntk study finite-vs-infinite --quick --out study.png study.md",
    )
    study.add_argument(
        "--data", default="digits", metavar="DATA", help=_DATA,
    )  # fmt: skip
    study.add_argument(
        "--network", choices=("dense", "conv", "conv-gap"), default="dense",
        help="fully connected; or convolutions and all positions, or the mean over them (PyTorch) (default: dense)",
    )  # fmt: skip
    for name, meaning in (
        ("widths", "neurons or channels of a hidden layer"),
        ("seeds", "networks of each width and configuration"),
        ("depth", "hidden layers"),
        ("steps", "steps of gradient descent"),
        ("train", "training samples"),
        ("test", "test samples"),
    ):
        full, quick = (" ".join(map(str, v)) if isinstance(v, tuple) else v for v in _STUDY[name])
        several: dict[str, Any] = {"nargs": "+"} if name == "widths" else {}
        text = f"{meaning} (default: {full}; with --quick {quick}; of convolutional networks less)"
        study.add_argument(f"--{name}", type=int, metavar="N", help=text, **several)
    for name, value, meaning in (
        ("lr", 0.5, "learning rate, in multiples of the largest stable one"),
        ("large-lr", 1.5, "the same, of the configuration with a large one"),
        ("l2", 1e-4, "penalty of the configuration with L2"),
    ):
        study.add_argument(f"--{name}", type=float, default=value, metavar="X", help=f"{meaning} (default: {value:g})")
    study.add_argument(
        "--stop", type=float, default=0.1, metavar="X",
        help="share of the steps of the configuration that is stopped early (default: 0.1)",
    )  # fmt: skip
    study.add_argument(
        "--augment", type=int, metavar="N",
        help="moved copies of each image of the configuration with these (default: 1 of images, else 0: without it)",
    )  # fmt: skip
    study.add_argument(
        "--zca-eps", type=float, metavar="X",
        help="regularisation of the configuration with ZCA (default: the best on held-out training samples)",
    )  # fmt: skip
    study.add_argument(
        "--diag-reg", type=float, nargs="+", default=[1e-6, 1e-4, 1e-2, 0.1, 1.0], metavar="X",
        help="diagonal regularisation of the kernels (default: 1e-06 0.0001 0.01 0.1 1)",
    )  # fmt: skip
    study.add_argument("--seed", type=int, default=0, metavar="N", help="of samples and networks (default: 0)")
    study.add_argument("--quick", action="store_true", help="a small study, in seconds")
    study.add_argument(
        "--out", type=Path, nargs="+", default=[Path("fastntk-study.png")], metavar="FILE",
        help="what to write: .png the picture, .md or .json the table (default: fastntk-study.png)",
    )  # fmt: skip
