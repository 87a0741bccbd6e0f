"""Seeded fuzz of the boundary: drawn networks, inputs and arguments, every instruction set beside NumPy's engine.

    python tests/fuzz.py --seconds 60 --seed 0    # until the time is over, or a case fails
    python tests/fuzz.py --seed 0 --case 1234     # one case again, from its numbers

What a case expects is NumPy's float64 Gram matrix of all its rows in one plain array. What it asks is any call that
has a part of it for an answer: two sets, the diagonal, depths, batches, targets, any layout and dtype. Or a call that
cannot be answered: then every engine refuses by the same class of error, with a word. Anything else is a failure.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import fastntk
import numpy as np
from boundary_inputs import LAYOUTS
from fastntk import stax
from fastntk.engines import select
from fastntk.network.activations import NONLINEARITIES
from tolerances import FLOOR

BOTH = ("nngp", "ntk")
REFUSALS = (TypeError, ValueError, NotImplementedError, MemoryError)
# Networks here are at most 5 nonlinearities deep; both engines owe 1e-12 and 2e-6, so that they are within twice that
# of each other; nonlinearities that are steep in their variance magnify what their inputs were rounded by.
BOUND = {"float32": 2 * 2e-6, "float64": 2 * 1e-12}
STEEP = 20


class Failure(AssertionError):
    """A case that is not as it should be."""


@dataclass
class Case:
    """A call: ``ask()`` is made once for each engine.

    ``expected()`` gives arrays, and what their entries are measured by; None: the call must be refused.
    """

    kind: str
    what: str
    ask: Callable[[], Any]
    expected: Callable[[], tuple[list[np.ndarray], list[np.ndarray]]] | None = None
    bound: float = 0.0


# ---------------------------------------------------------------- networks


def choose(rng: np.random.Generator, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def weights(rng: np.random.Generator) -> dict[str, Any]:
    own: dict[str, Any] = {"W_std": float(rng.uniform(0.6, 1.6)), "b_std": choose(rng, (None, 0.0, 0.2, 0.7))}
    if rng.random() < 0.3:
        own |= {"parameterization": "standard", "s": choose(rng, ((1, 1), (2, 1)))}
    return own


def dense(rng: np.random.Generator, width: int | None = None) -> Any:
    return stax.Dense(int(rng.integers(1, 9)) if width is None else width, **weights(rng))


def nonlinearity(rng: np.random.Generator, plain: bool = False) -> tuple[Any, bool]:
    """A layer, and whether it is steep."""
    pick = rng.random()
    if pick < 0.4 or plain:
        kinds = (stax.Relu(), stax.LeakyRelu(0.2), stax.LeakyRelu(-0.4), stax.ABRelu(-0.3, 1.2), stax.Abs())
        return choose(rng, kinds), False
    if pick < 0.6:
        return stax.Erf(float(rng.uniform(0.3, 1.5)), float(rng.uniform(0.3, 1.5)), choose(rng, (0.0, 0.4))), False
    make, args = NONLINEARITIES[choose(rng, list(NONLINEARITIES))]
    return make(*args), True


def rows_network(rng: np.random.Generator) -> tuple[Any, bool]:
    """Dense and nonlinearities, at times around a branch; at most one that is steep."""
    layers, steep = [dense(rng)], False
    for _ in range(int(rng.integers(0, 5))):
        phi, is_steep = nonlinearity(rng, plain=steep)
        steep |= is_steep
        if rng.random() < 0.2:
            body = stax.serial(phi, dense(rng, layers[-1].out_dim))
            layers += [stax.FanOut(2), stax.parallel(stax.Identity(), body), stax.FanInSum(), dense(rng)]
        else:
            layers += [phi, dense(rng)]
    return stax.serial(*layers), steep


def each(rng: np.random.Generator, values: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return tuple(int(choose(rng, values)) for _ in range(rank))


def conv(rng: np.random.Generator, size: tuple[int, ...], plain: bool = False) -> Any:
    rank = len(size)
    shape, dilation = each(rng, (1, 2, 3, 3, 4), rank), each(rng, (1, 1, 2), rank)
    strides = (1,) * rank if plain else each(rng, (1, 1, 2, 3), rank)
    fits = not plain and all((k - 1) * e < n for n, k, e in zip(size, shape, dilation, strict=True))
    padding = choose(rng, ("SAME", "CIRCULAR", "VALID") if fits else ("SAME", "CIRCULAR"))
    return stax.Conv(3, shape, strides, padding, dilation=dilation, **weights(rng))


def images_network(rng: np.random.Generator, size: tuple[int, ...]) -> Any:
    """Up to five layers over positions, and most often a readout."""
    layers, gaussian = [], False
    for _ in range(int(rng.integers(1, 6))):
        kind = choose(rng, ("conv", "conv", "dense", "pool", "residual", *(("phi",) * 4 if gaussian else ())))
        if kind == "conv":
            layer = conv(rng, size)
        elif kind == "dense":
            layer = dense(rng, 3)
        elif kind == "pool":
            padding = choose(rng, ("SAME", "CIRCULAR"))
            layer = choose(rng, (stax.AvgPool, stax.SumPool))((2,) * len(size), each(rng, (1, 2), len(size)), padding)
        elif kind == "phi":
            layer, _ = nonlinearity(rng, plain=True)
        else:
            body = [conv(rng, size, plain=True), nonlinearity(rng, plain=True)[0], conv(rng, size, plain=True)]
            shortcut = stax.Conv(3, (1,) * len(size), W_std=0.9, padding="SAME")
            layer = stax.serial(stax.FanOut(2), stax.parallel(stax.serial(*body), shortcut), stax.FanInSum())
        layers.append(layer)
        size = layer.output_shape((1, *size, 3))[1:-1]
        gaussian = kind in ("conv", "dense", "residual") or (gaussian and kind == "pool")
    readout = choose(rng, (stax.GlobalAvgPool, stax.GlobalSumPool, stax.Flatten, None))
    return stax.serial(*layers, *([readout(), dense(rng)] if readout is not None else []))


# ---------------------------------------------------------------- inputs


def rows(rng: np.random.Generator) -> np.ndarray:
    """Of several lengths; a copy, a near-duplicate, an opposite and a row of zeros among them."""
    x = rng.standard_normal((int(rng.integers(1, 40)), int(rng.integers(2, 30))))
    x *= np.exp(rng.uniform(-2, 2, (len(x), 1)))
    for row in (x[0], x[0] * (1 + 1e-5 * rng.standard_normal(x.shape[1])), -x[0], 0 * x[0], 3 * x[0]):
        if rng.random() < 0.3:
            x[int(rng.integers(len(x)))] = row
    return x


def images(rng: np.random.Generator) -> np.ndarray:
    """Of several contrasts, with means that are not near 0: behind a pool they are what is divided by."""
    size = choose(rng, ((3,), (7,), (1, 1), (4, 5), (6, 6), (7, 3), (2, 3, 2)))
    x = rng.standard_normal((int(rng.integers(1, 5)), *size, int(rng.integers(2, 4)))) + 0.7
    return x * np.exp(rng.uniform(-1, 1, len(x))).reshape(-1, *[1] * (x.ndim - 1))


# ---------------------------------------------------------------- calls


def scales(gram: np.ndarray, rank: int) -> np.ndarray:
    """``sqrt(K(x, x) K(x', x'))`` for all pairs, of so many axes of positions too: (..., n, n, h, h', w, w')."""
    lead = gram.ndim - 2 - 2 * rank
    letters = "abcd"[: 1 + rank]
    own = np.einsum(f"...{''.join(2 * c for c in letters)}->...{letters}", gram)
    first, second = own, own
    for k in range(len(letters)):
        first = np.expand_dims(first, lead + 2 * k + 1)
        second = np.expand_dims(second, lead + 2 * k)
    return np.sqrt(first * second)


def good_case(rng: np.random.Generator, kind: str) -> Case:
    if kind == "rows":
        x, (net, steep) = rows(rng), rows_network(rng)
    else:
        x = images(rng)
        net, steep = images_network(rng, x.shape[1:-1]), False
    dtype = np.dtype(choose(rng, ("float32", "float64")))
    x = x.astype(dtype)
    rank = len(net.output_shape(x.shape)) - 2
    ways = ["kernel", "kernel", "diagonal", "batch"] + (["depths"] if kind == "rows" else [])
    way = choose(rng, [w for w in ways if rank == 0 or w in ("kernel", "batch")])
    split = int(rng.integers(0, len(x) + 1)) if rng.random() < 0.5 else None
    cut1, cut2 = (slice(None), slice(None)) if split is None else (slice(0, split), slice(split, None))
    layout1, layout2 = choose(rng, LAYOUTS), choose(rng, LAYOUTS)
    get = choose(rng, (*BOTH, BOTH, BOTH[::-1]))
    names = (get,) if isinstance(get, str) else get
    options: dict[str, Any] = {"num_threads": choose(rng, (None, 1, 2, 3))}
    own = net.kernel_fn
    target = rng.random() < 0.3

    def two() -> tuple[Any, Any]:
        return layout1(x[cut1]), None if split is None else layout2(x[cut2])

    def ask() -> list[np.ndarray]:
        if way == "diagonal":
            found = own.diagonal(layout1(x), get, **options)
        elif way == "depths":
            found = own.depths(*two(), get, **options)
        elif way == "batch":
            found = own(layout1(np.stack([x, x[::-1]])), None, get, batch_dims=1, **options)
        else:
            extra = dict(options)
            if target:
                n1, n2 = (len(x), len(x)) if split is None else (split, len(x) - split)
                tail = [n for size in net.output_shape(x.shape)[1:-1] for n in (size, size)]
                outs = tuple(np.full((2 * n1, n2, *tail), np.nan, dtype)[::2] for _ in names)
                extra["out"] = outs[0] if isinstance(get, str) else outs
            found = own(*two(), get, **extra)
        return [found] if isinstance(get, str) else list(found)

    def expected() -> tuple[list[np.ndarray], list[np.ndarray]]:
        wide = x.astype(np.float64)
        whole = own.depths(wide, None, BOTH) if way == "depths" else own(wide, None, BOTH)
        values, measures = [], []
        for name in names:
            gram = getattr(whole, name)
            size = scales(whole.nngp, rank) if rank else scales(gram, rank)
            for kept, a in ((values, gram), (measures, np.broadcast_to(size, gram.shape))):
                if way == "diagonal":
                    kept.append(np.diag(a))
                elif way == "batch":
                    kept.append(np.stack([a, a[::-1, ::-1]]))
                else:
                    kept.append(a[..., cut1, cut2] if way == "depths" else a[cut1, cut2])
        return values, measures

    laid = f"{layout1.__name__}/{layout2.__name__}"
    what = f"{way}, get={get!r}, {dtype} {x.shape}, split={split}, {laid}, {options}, {net!r}"
    return Case(kind, what, ask, expected, BOUND[dtype.name] * (STEEP if steep else 1))


def bad_case(rng: np.random.Generator) -> Case:
    """A call that no engine can answer."""
    x, (net, _) = rows(rng), rows_network(rng)
    call, d = net.kernel_fn, x.shape[1]
    image = stax.serial(stax.Conv(3, (3, 3)), stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1)).kernel_fn
    pixels = rng.standard_normal((2, 5, 5, 2))
    wrong: dict[str, Callable[[], Any]] = {
        "one axis": lambda: call(x[0]),
        "a number": lambda: call(1.0),
        "another number of features": lambda: call(x, np.ones((3, d + 1))),
        "no features": lambda: call(np.ones((3, 0))),
        "another dtype": lambda: call(x.astype(np.float32), x),
        "float16": lambda: call(x.astype(np.float16)),
        "long double": lambda: call(x.astype(np.longdouble)),
        "complex numbers": lambda: call(x.astype(complex)),
        "objects": lambda: call(np.array([[object()] * d])),
        "words": lambda: call(np.array([["a"] * d])),
        "dates": lambda: call(np.zeros((3, d), "M8[s]")),
        "masked": lambda: call(np.ma.masked_greater(x, 0)),
        "ragged": lambda: call([[1.0, 2.0], [1.0]]),
        "nothing": lambda: call(),
        "get of another name": lambda: call(x, None, "kernel"),
        "get twice": lambda: call(x, None, ("ntk", "ntk")),
        "get of a number": lambda: call(x, None, 3),
        "get of nothing": lambda: call(x, None, ()),
        "no threads": lambda: call(x, num_threads=0),
        "threads of a word": lambda: call(x, num_threads="two"),
        "half a thread": lambda: call(x, num_threads=0.5),
        "two batch axes": lambda: call(x[None, None], batch_dims=2),
        "batches that differ": lambda: call(np.stack([x] * 2), np.stack([x] * 3), batch_dims=1),
        "out of another shape": lambda: call(x, None, "ntk", out=np.empty((len(x) + 1, len(x)))),
        "out of another dtype": lambda: call(x, None, "ntk", out=np.empty((len(x), len(x)), np.float32)),
        "out of another order of bytes": lambda: call(x, None, "ntk", out=np.empty((len(x), len(x)), ">f8")),
        "out that is read-only": lambda: call(x, None, "ntk", out=np.broadcast_to(1.0, (len(x), len(x)))),
        "out of too few": lambda: call(x, None, BOTH, out=(np.empty((len(x), len(x))),)),
        "a budget of nothing": lambda: image(pixels, memory_budget=0),
        "images of too few axes": lambda: image(pixels[0]),
        "images of other channels": lambda: image(pixels, np.ones((2, 5, 5, 3))),
        "images of another size": lambda: image(pixels, np.ones((2, 5, 4, 2))),
        "a window that does not fit": lambda: image(pixels[:, :2]),
        "depths of no layer": lambda: stax.Flatten().kernel_fn.depths(pixels),
        "diagonal of a Kernel": lambda: call.diagonal(call(x)),
        "an unknown instruction set": lambda: _on("abacus", lambda: call(x)),
    }
    what = choose(rng, list(wrong))
    return Case("refused", f"{what}, {x.shape}, {net!r}", wrong[what])


def _on(isa: str, call: Callable[[], Any]) -> Any:
    with fastntk.options(isa=isa, backend="cpu"):
        return call()


def draw(seed: int, number: int) -> Case:
    """The case of these numbers, whatever came before it."""
    rng = np.random.default_rng((seed, number))
    kind = choose(rng, ("rows", "rows", "images", "refused"))
    return bad_case(rng) if kind == "refused" else good_case(rng, kind)


# ---------------------------------------------------------------- what comes of a call


def engines() -> list[tuple[str, str | None]]:
    module, _ = select.load("cpu")
    isas = [isa for isa, present in module.isas() if present] if module is not None else []
    return [("numpy", None), *(("cpu", isa) for isa in isas)]


def outcome(case: Case, backend: str, isa: str | None) -> Any:
    """Arrays, or the error that a call may raise."""
    with fastntk.options(backend=backend, isa=isa), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return case.ask()
        except REFUSALS as error:
            if not str(error):
                raise Failure(f"{type(error).__name__} without a word") from error
            return error


def compare(found: list[np.ndarray], values: list[np.ndarray], measures: list[np.ndarray], bound: float) -> None:
    for k, (a, b, size) in enumerate(zip(found, values, measures, strict=True)):
        if a.shape != b.shape:
            raise Failure(f"result {k} has shape {a.shape}, expected {b.shape}")
        # What the dtype cannot hold is inf.
        a, b = (np.where(np.abs(b) < np.finfo(a.dtype).max / 2, of, 1) for of in (a, b))
        if not np.isfinite(a).all():
            raise Failure(f"result {k} is not finite")
        allowed = bound * np.maximum(np.abs(b), FLOOR * size) + np.finfo(found[k].dtype).tiny
        worst = float(np.max(np.abs(a - b) / allowed, initial=0.0))
        if worst > 1:
            raise Failure(f"result {k} is {worst:.3g} bounds of {bound:.3g} away")


def check(case: Case) -> None:
    """Ask every engine.

    Raises
    ------
    Failure
        With the case, the engine and what is wrong.
    """
    first = None
    with fastntk.options(backend="numpy"):
        expected = None if case.expected is None else case.expected()
    for backend, isa in engines():
        try:
            found = outcome(case, backend, isa)
            if expected is None:
                if not isinstance(found, Exception):
                    raise Failure("answered what is to be refused")
                first = first or found
                if type(found) is not type(first):
                    raise Failure(f"raised {found!r}, NumPy's engine {first!r}")
                continue
            if isinstance(found, Exception):
                raise Failure(f"refused: {found!r}") from found
            compare(found, *expected, case.bound)
        except Exception as error:
            raise Failure(f"{backend} {isa or ''}: {error!r}\n  {case.kind}: {case.what}") from error


def run(seed: int, seconds: float = np.inf, cases: float = np.inf) -> Counter[str]:
    """Cases from the first on, until the time is over or so many are done; how many there were of each kind.

    Raises
    ------
    Failure
        Of the first case that is not as it should be, with the command that repeats it.
    """
    done: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end and done.total() < cases:
        number = done.total()
        case = draw(seed, number)
        try:
            check(case)
        except Failure as failure:
            raise Failure(f"{failure}\nagain: python tests/fuzz.py --seed {seed} --case {number}") from failure
        done[case.kind] += 1
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: 0)")
    parser.add_argument("--case", type=int, help="this case alone")
    args = parser.parse_args()
    print("engines:", ", ".join(f"{backend} {isa or ''}".strip() for backend, isa in engines()), flush=True)
    if args.case is not None:
        case = draw(args.seed, args.case)
        print(f"{case.kind}: {case.what}", flush=True)
        check(case)
        return 0
    done = run(args.seed, args.seconds)
    print(
        f"seed {args.seed}: {done.total()} cases good: " + ", ".join(f"{n} {kind}" for kind, n in sorted(done.items()))
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
