"""``fastntk gram``: a Gram matrix from a file of inputs and a file with a network, into a store; resumable."""

from __future__ import annotations

import argparse
import contextlib
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..base.files import read_npz
from ..network.layer import Layer
from .estimate import duration_text, estimate_of
from .problem import problem_of
from .stores import gram


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command."""
    parser.add_argument("--data", type=Path, required=True, metavar="FILE.npz", help="with the array x (n, ...)")
    parser.add_argument(
        "--network", required=True, metavar="FILE.py:NAME",
        help="a Python file, and what it calls the network or its kernel_fn",
    )  # fmt: skip
    parser.add_argument(
        "--store", required=True, help="Zarr group (a path or a URL) or .npy file to write or to finish"
    )
    parser.add_argument("--get", nargs="+", default=["nngp", "ntk"], metavar="NAME", help="nngp, ntk (default: both)")
    parser.add_argument("--array", default="x", metavar="NAME", help="of the inputs in FILE.npz (default: x)")
    parser.add_argument("--chunks", type=int, metavar="N", help="rows and columns of a block")
    parser.add_argument("--backend", help="cpu, cuda or numpy")
    parser.add_argument("--threads", type=int, metavar="N", help="of one block")
    workers = parser.add_mutually_exclusive_group()
    workers.add_argument("--workers", type=int, metavar="N", help="start so many Dask workers here, of one thread each")
    workers.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that runs")
    parser.add_argument("--no-verify", action="store_true", help="do not read the blocks that are there")
    parser.add_argument("--dry-run", action="store_true", help="say what it takes, and stop")


def run(args: argparse.Namespace) -> None:
    """Say what it takes, then do it.

    Raises
    ------
    ValueError, TypeError, StoreError, OSError, ImportError
        As :func:`gram`; files that cannot be read.
    """
    x = read_npz(args.data, [args.array])[args.array]
    kernel_fn = network(args.network)
    get: Any = args.get[0] if len(args.get) == 1 else tuple(args.get)
    plan = estimate_of(problem_of(kernel_fn, x, None, get, args.chunks, args.backend, "gram"))
    print(plan, flush=True)
    if args.workers and args.workers > 1:
        print(f"with {args.workers} workers about {duration_text(plan.seconds / args.workers)}", flush=True)
    if args.dry_run:
        return
    with _client(args) as client:
        gram(
            kernel_fn, x, args.store, get, chunks=args.chunks, client=client, verify=not args.no_verify,
            backend=args.backend, num_threads=args.threads,
        )  # fmt: skip
    print(f"{args.store}: complete")


def network(given: str) -> Any:
    """The kernel function that ``FILE.py:NAME`` names; of a network, or of its triple, too.

    Raises
    ------
    ValueError
        No such file or name; a file that raises.
    """
    file, colon, name = given.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise ValueError(f"--network must be FILE.py:NAME, given {given}")
    if not Path(file).is_file():
        raise ValueError(f"--network {file}: no such file")
    try:
        found = runpy.run_path(file)
    except Exception as error:
        raise ValueError(f"--network {file}: {type(error).__name__}: {error}") from error
    if name not in found:
        known = ", ".join(sorted(k for k in found if not k.startswith("_")))
        raise ValueError(f"--network {file} defines no {name}; it defines {known or 'nothing'}")
    value = found[name]
    if isinstance(value, tuple) and len(value) == 3:
        value = value[2]
    return value.kernel_fn if isinstance(value, Layer) else value


@contextlib.contextmanager
def _client(args: argparse.Namespace) -> Iterator[Any]:
    """A client of the workers that were asked for; None: this process computes."""
    if not args.workers and not args.scheduler:
        yield None
        return
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ImportError("--workers and --scheduler need Dask: pip install 'fastntk[dask]'") from error
    if args.scheduler:
        with Client(args.scheduler) as client:
            yield client
        return
    with (
        LocalCluster(n_workers=args.workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client
