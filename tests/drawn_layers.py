"""Drawn networks over all layers: each backend beside NumPy's engine, and Neural Tangents where it is installed.

    python tests/drawn_layers.py --count 400 --seed 0 --rival    # networks of these numbers
    python tests/drawn_layers.py --seed 0 --only 123             # one of them again

A network is drawn as names and arguments, of which the ``stax`` of either library makes layers. Neural Tangents is
asked where it is right: ``Case.unlike`` says where it is not.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from fastntk import stax
from fastntk.engines import select

BOTH = ("nngp", "ntk")
RIVAL = 1e-10  # of Neural Tangents' float64, of the largest number
ENGINES = 1e-12
SINGLE = 2e-6
CUT = 1e-9  # behind covariances, from which differences of close positions are taken
STEEP_BOUND = 30
MANY = 150  # positions that a network may come to: NumPy's engine goes over their pairs

# A nonlinearity and its arguments; what is steep in its variance magnifies what that was rounded by.
PHIS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("Relu", ()), ("Relu", ()), ("Relu", ()), ("LeakyRelu", (0.2,)), ("ABRelu", (-0.3, 1.2)), ("Abs", ()),
    ("Erf", (0.9, 0.8, 0.1)), ("Erf", ()), ("Sigmoid_like", ()), ("Sin", (0.9, 0.8, 0.3)), ("Cos", ()),
    ("Rbf", (0.3,)), ("ExpNormalized", (0.7, 0.5)), ("Gelu", ()), ("Gelu", ()), ("Gaussian", ()), ("Gabor", ()),
    ("Sign", ()), ("Monomial", (2,)), ("RectifiedMonomial", (2,)), ("Polynomial", ((0.3, 0.7, 0.2),)),
    ("Hermite", (2,)), ("Exp", (0.7, 0.4)),
)  # fmt: skip
KERNELS_ALONE = ("ExpNormalized",)  # without finite networks
FOLDING = ("ImageResize", "DotGeneral", "SumPool", "AvgPool", "GlobalSelfAttention", "ConvTranspose", "Aggregate")
KINKED = ("Sign", "RectifiedMonomial")
STEEP = ("Exp", "Monomial", "RectifiedMonomial", "Polynomial", "ExpNormalized", "Hermite", "Sign")


@dataclass(frozen=True)
class Spec:
    """A layer by name, for the vocabulary of either library."""

    name: str
    args: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)

    def of(self, vocabulary: Any) -> Any:
        args = [a.of(vocabulary) if isinstance(a, Spec) else a for a in self.args]
        return getattr(vocabulary, self.name)(*args, **self.keywords)

    def __repr__(self) -> str:
        shown = [repr(a) for a in self.args] + [f"{k}={v!r}" for k, v in self.keywords.items()]
        return f"{self.name}({', '.join(shown)})"


def layer(name: str, *args: Any, **keywords: Any) -> Spec:
    return Spec(name, args, keywords)


@dataclass
class Drawing:
    """A network that is being drawn: its layers, and what is known of the values behind the last one."""

    rng: np.random.Generator
    shape: tuple[int, ...]  # of an array of one sample
    order: str  # its axes, N and C among them
    masked: bool = False
    graph: bool = False  # whether patterns fit: positions are as they came
    gaussian: bool = False
    weights: bool = False  # whether a layer with weights was there
    local: bool = False  # whether ConvLocal was
    turned: bool = False  # whether a convolution was, at which Neural Tangents turns axes round
    steep: bool = False
    layers: list[Spec] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)

    # ---- what is there

    def choose(self, values: Any) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    @property
    def letters(self) -> str:
        """Of the spatial axes, in their order."""
        return "".join(c for c in self.order if c not in "NC")

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(self.shape[self.order.index(c)] for c in self.letters)

    @property
    def channels(self) -> int:
        return self.shape[self.order.index("C")]

    @property
    def axes(self) -> dict[str, int]:
        return {"batch_axis": self.order.index("N"), "channel_axis": self.order.index("C")}

    def each(self, values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(int(self.choose(values)) for _ in self.letters)

    def put(self, spec: Spec, order: str | None = None, **known: Any) -> bool:
        """One more layer, if its positions are not too many; whether it is there."""
        shape = spec.of(stax).output_shape(self.shape)
        if math.prod(n for n, c in zip(shape, order or self.order, strict=True) if c not in "NC") > MANY:
            return False
        self.layers.append(spec)
        self.graph &= shape[1:-1] == self.shape[1:-1]
        self.shape, self.order = shape, order or self.order
        for name, value in known.items():
            setattr(self, name, value)
        return True

    def not_as_there(self, why: str, where: bool = True) -> None:
        if where:
            self.unlike.append(why)

    def numbers(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "W_std": float(self.rng.uniform(0.7, 1.5)), "b_std": self.choose((None, 0.0, 0.2, 0.6)),
        }  # fmt: skip
        if self.chance(0.2):
            found |= {"parameterization": "standard", "s": self.choose(((1, 1), (2, 1)))}
        return found

    # ---- layers

    def dense(self, out: int = 3) -> None:
        self.not_as_there("Dense behind ConvLocal", self.local)
        self.put(layer("Dense", out, **self.numbers(), **self.axes), gaussian=True, weights=True)

    def conv(self, name: str = "Conv", plain: bool = False) -> None:
        """A convolution; ``plain``: one that keeps all sizes."""
        shape = self.each((1, 2, 3, 3))
        strides = self.each((1,) if plain or name == "ConvLocal" else (1, 1, 2))
        padding = self.choose(("SAME", "SAME", "CIRCULAR"))
        if not plain and all(k <= n for k, n in zip(shape, self.size, strict=True)) and self.chance(0.3):
            padding = "VALID"
        out = self.order
        if not plain and self.chance(0.1):
            letters = iter(self.rng.permutation(list(self.letters)))
            out = "".join(c if c in "NC" else next(letters) for c in out)
        own = (self.order, self.letters + "IO", out)
        odd = padding == "CIRCULAR" or out != self.order
        self.not_as_there("masks through circular or turned windows", self.masked and odd)
        self.not_as_there("three axes that are turned", out != self.order and len(self.letters) > 2)
        self.not_as_there(f"{name} behind ConvLocal", self.local)
        self.not_as_there("masks through ConvTranspose", self.masked and name == "ConvTranspose")
        self.put(layer(name, 3, shape, strides, padding, **self.numbers(), dimension_numbers=own), out, gaussian=True,
                 weights=True, turned=True, graph=False, local=self.local or name == "ConvLocal")  # fmt: skip

    def phi(self, plain: bool = False) -> None:
        name, args = self.choose(PHIS[:9] if plain else PHIS)
        self.steep |= name in STEEP
        self.not_as_there(f"{name} at rho = 1", name in KINKED)
        self.not_as_there("a nonlinearity behind ConvLocal", self.local)
        self.put(layer(name, *args), gaussian=False)

    def pool(self) -> None:
        name, shape = self.choose(("AvgPool", "SumPool")), self.each((1, 2, 2, 3))
        padding = "SAME"
        if all(k <= n for k, n in zip(shape, self.size, strict=True)):
            padding = self.choose(("SAME", "CIRCULAR", "VALID"))
        own: dict[str, Any] = {"normalize_edges": True} if name == "AvgPool" and self.chance(0.3) else {}
        self.not_as_there(f"{name} behind ConvLocal", self.local)
        self.put(layer(name, shape, self.choose((None, self.each((1, 2)))), padding, **own, **self.axes), graph=False)

    def norm(self) -> None:
        over = [a for a, c in enumerate(self.order) if c not in "NC" and self.chance(0.3)]
        self.not_as_there("LayerNorm over positions", bool(over) and (self.masked or self.local))
        self.not_as_there("LayerNorm with masks where samples come last", self.masked and self.order[-1] == "N")
        axis = (*over, self.order.index("C")) if over else self.order.index("C")
        self.put(layer("LayerNorm", axis, float(self.choose((1e-6, 1e-3))), **self.axes))

    def dropout(self) -> None:
        self.put(layer("Dropout", float(self.rng.uniform(0.5, 0.95)), self.choose(("train", "test"))), gaussian=False)

    def attention(self) -> None:
        linear = self.chance(0.75)
        kind = self.choose(("SOFTMAX", "IDENTITY", "ABS", "RELU")) if linear else "IDENTITY"
        embedding = self.choose(("NONE", "NONE", "SUM", "CONCAT"))
        own: dict[str, Any] = {"linear_scaling": linear, "attention_mechanism": kind, "pos_emb_type": embedding}
        for name in ("W_key_std", "W_value_std", "W_query_std", "W_out_std", "W_pos_emb_std"):
            own[name] = float(self.rng.uniform(0.7, 1.2))
        own["b_std"] = self.choose((None, 0.3))
        if embedding != "NONE":
            own |= {"pos_emb_p_norm": self.choose((1, 2)), "val_pos_emb": self.chance(0.5)}
            own |= {"pos_emb_decay_fn": self.choose((None, decay))}
            own |= {"n_chan_pos_emb": self.choose((None, 2)) if embedding == "CONCAT" else None}
        self.not_as_there("attention behind ConvLocal", self.local)
        self.put(layer("GlobalSelfAttention", 3, 4, 4, 2, **own, **self.axes), gaussian=True, weights=True)

    def aggregate(self) -> None:
        self.not_as_there("Aggregate behind ConvLocal", self.local)
        self.put(layer("Aggregate", **self.axes))

    def dot(self) -> None:
        """A product along one spatial axis; the new one, if there is one, comes last or first."""
        letter, right = self.choose(self.letters), self.chance(0.5)
        axis = self.order.index(letter)
        matrix = self.chance(0.8) or len(self.letters) == 1
        factor = self.rng.uniform(-1, 1, (self.shape[axis], *([int(self.rng.integers(1, 5))] if matrix else [])))
        pair, rest = ((axis,), (0,)) if right else ((0,), (axis,)), self.order.replace(letter, "")
        order = (rest + letter if right else letter + rest) if matrix else rest
        self.not_as_there("DotGeneral behind ConvLocal", self.local)
        self.not_as_there("masks through DotGeneral", self.masked)
        given: dict[str, Any] = {"rhs" if right else "lhs": factor, "dimension_numbers": (pair, ((), ()))}
        self.put(layer("DotGeneral", **given, **self.axes), order, graph=False)

    def resize(self) -> None:
        sizes = iter(self.each((1, 2, 3, 5, 6)))
        shape = tuple(-1 if c in "NC" else next(sizes) for c in self.order)
        self.not_as_there("ImageResize behind convolutions", self.turned)
        self.not_as_there("masks through ImageResize", self.masked)
        self.not_as_there("ImageResize behind ConvLocal", self.local)
        spec = layer("ImageResize", shape, self.choose(("linear", "nearest")), self.chance(0.5), **self.axes)
        self.put(spec, graph=False)

    def index(self) -> None:
        """Slices of any step, and at times an integer."""
        entries: list[Any] = []
        order, left = "", len(self.letters)
        for n, c in zip(self.shape, self.order, strict=True):
            if c not in "NC" and left > 1 and self.chance(0.2):
                entries.append(int(self.rng.integers(-n, n)))
                left -= 1
                continue
            order += c
            some = (slice(None), slice(0, n - n // 3), slice(None, None, 2), slice(n // 3, None), slice(None, None, -1))
            entries.append(slice(None) if c in "NC" else self.choose(some))
        self.not_as_there("Index behind ConvLocal", self.local)
        self.put(layer("Index", tuple(entries), **self.axes), order, graph=False)

    def branch(self) -> None:
        """Two branches of one shape, and what joins them."""
        kind = self.choose(("FanInSum", "FanInSum", "FanInProd", "FanInConcat"))
        parts = []
        for k in (0, 1):
            own = Drawing(self.rng, self.shape, self.order, self.masked, self.graph, self.gaussian, self.weights,
                          self.local, self.turned)  # fmt: skip
            own.put(layer("Identity"))
            if k == 0 or kind != "FanInSum" or self.channels != 3 or self.chance(0.3):
                if self.letters and kind != "FanInConcat" and self.chance(0.5):
                    own.conv(plain=True)
                else:
                    own.dense(self.choose((2, 3)) if kind == "FanInConcat" else 3)
                if self.chance(0.4):
                    own.phi()
            parts.append(own)
        self.unlike += [why for own in parts for why in own.unlike]
        self.steep |= any(own.steep for own in parts)
        self.not_as_there("masks through FanInProd", self.masked and kind == "FanInProd")
        self.not_as_there("means of branches", not all(own.gaussian for own in parts))
        self.not_as_there("branches that are turned differently", parts[0].turned != parts[1].turned)
        self.not_as_there("branches behind ConvLocal", self.local)
        shape, channel = parts[0].shape, self.order.index("C")
        total = sum(own.channels for own in parts) if kind == "FanInConcat" else shape[channel]
        joint: dict[str, Any] = {"axis": channel} if kind == "FanInConcat" else {}
        self.layers += [layer("FanOut", 2), layer("parallel", *(layer("serial", *own.layers) for own in parts)),
                        layer(kind, **joint)]  # fmt: skip
        self.shape = (*shape[:channel], total, *shape[channel + 1 :])
        self.gaussian = kind == "FanInSum" and all(own.gaussian for own in parts)
        self.weights, self.turned = True, self.turned or any(own.turned for own in parts)

    def repeated(self) -> None:
        own = Drawing(self.rng, self.shape, self.order, local=self.local)
        own.dense(self.channels)
        own.phi(plain=True)
        self.unlike += own.unlike
        self.put(layer("repeat", layer("serial", *own.layers), 2), gaussian=False, weights=True)

    def step(self) -> None:
        ways: list[Callable[[], None]] = [self.dense, *[self.phi] * (8 if self.gaussian else 0)]
        if self.weights:
            ways += [self.norm, self.dropout, self.repeated, self.branch]
        if self.letters:
            ways += [self.conv, self.conv, self.pool, self.attention, self.dot, self.resize, self.index]
            ways += [lambda: self.conv("ConvTranspose"), lambda: self.conv("ConvLocal")]
            ways += [self.aggregate] * (5 if self.graph else 0)
        self.choose(ways)()

    def read(self) -> None:
        """Most often one number for each sample, and layers behind it."""
        if not self.letters:
            return
        if self.chance(0.8):
            name = self.choose(("GlobalAvgPool", "GlobalSumPool", "Flatten"))
            self.not_as_there(f"{name} behind ConvLocal", self.local and name != "Flatten")
            order = "".join(c for c in self.order if c in "NC")
            if name == "Flatten":
                batch = self.order.index("N")
                if batch > 1:
                    return
                self.put(layer(name, batch_axis=batch), "NC")
            else:
                self.put(layer(name, **self.axes), order)
            self.local = False
            self.dense(1)
            if self.chance(0.4):
                self.phi()
                self.dense(1)


def decay(d: Any) -> Any:
    return 1 / (1 + d)


@dataclass(frozen=True)
class Case:
    """A drawn network, and a call."""

    net: Spec
    x: np.ndarray
    keywords: dict[str, Any]  # of x and x
    order: str
    unlike: tuple[str, ...]
    steep: bool

    def of(self, one: slice, two: slice | None) -> dict[str, Any]:
        """Keywords of the call on some samples."""
        found = dict(self.keywords)
        if "pattern" in found:
            a = found["pattern"]
            found["pattern"] = (a[one], a[one if two is None else two])
        return found

    def some(self, at: slice, x: np.ndarray | None = None) -> np.ndarray:
        return (self.x if x is None else x)[tuple(at if c == "N" else slice(None) for c in self.order)]

    def rounded(self) -> Case:
        """The same with inputs that float32 has."""
        return replace(self, x=self.x.astype(np.float32).astype(np.float64))

    @property
    def drops(self) -> bool:
        return "'train'" in repr(self.net)

    @property
    def folds(self) -> bool:
        return any(name in repr(self.net) for name in FOLDING)


SIZES = ((), (5,), (6,), (3, 4), (4, 4), (2, 3, 2), (4, 5))


def drawn(seed: int, number: int, n: int = 4) -> Case:
    """The case of these numbers, whatever came before it."""
    rng = np.random.default_rng((seed, number))
    size = SIZES[int(rng.integers(len(SIZES)))]
    letters = "HWD"[: len(size)]
    order = "N" + letters + "C"
    if size and rng.random() < 0.2:
        order = "".join(rng.permutation(list(order)))
    sizes = {**dict(zip(letters, size, strict=True)), "N": 1, "C": int(rng.integers(2, 5))}
    masked, graph = bool(size and rng.random() < 0.2), bool(size and rng.random() < 0.25)
    own = Drawing(rng, tuple(sizes[c] for c in order), order, masked, graph)
    x = rng.standard_normal(tuple(n if c == "N" else sizes[c] for c in order))
    keywords: dict[str, Any] = {}
    if masked:
        keywords["mask_constant"] = (np.nan, 7.0)[int(rng.integers(2))]
        barred = rng.random(tuple(1 if c == "C" else m for c, m in zip(order, x.shape, strict=True))) < 0.3
        x = np.where(barred, keywords["mask_constant"], x)
    if graph:
        keywords["pattern"] = rng.integers(0, 2, (n, *(2 * [sizes[c] for c in order if c not in "NC"]))).astype(float)
    own.dense() if not size or rng.random() < 0.5 else own.conv()
    if not own.layers:
        own.dense()
    for _ in range(int(rng.integers(1, 7))):
        own.step()
    own.read()
    own.not_as_there("ConvLocal at the end", own.local)
    return Case(layer("serial", *own.layers), x, keywords, order, tuple(dict.fromkeys(own.unlike)), own.steep)


# ---------------------------------------------------------------- what is compared


def apart(found: Any, expected: Any) -> float:
    """The largest difference, over the largest number; inf for other shapes, or NaN at other places."""
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape == expected.shape:  # more than float32 holds
        found = np.where(np.abs(expected) > 1e30, expected, found)
    if found.shape != expected.shape or (np.isnan(found) != np.isnan(expected)).any():
        return math.inf
    size = float(np.nanmax(np.abs(expected), initial=0.0))
    return float(np.nanmax(np.abs(found - expected), initial=0.0)) / (size or 1.0)


class Check:
    """One case: what its network is asked, and what is not as it should be."""

    def __init__(self, case: Case) -> None:
        self.case, self.wrong = case, list[str]()
        self.net = case.net.of(stax)
        self.every = slice(None)

    def call(self, backend: str, dtype: Any, one: slice, two: slice | None, of: Any = None) -> Any:
        x = self.case.x.astype(dtype)
        a, b = (None if at is None else self.case.some(at, x) for at in (one, two))
        return (self.net if of is None else of).kernel_fn(a, b, BOTH, backend=backend, **self.case.of(one, two))

    def same(self, what: str, found: Any, expected: Any, bound: float) -> None:
        for name, a, b in zip(BOTH, found, expected, strict=True):
            # Positions that are parallel but for rounding, which sums make, lose half of the NTK's digits at a kink.
            allowed = max(bound, 1e-7) if self.case.folds and (name == "ntk" or self.case.steep) else bound
            if not (error := apart(a, b)) <= allowed * (STEEP_BOUND if self.case.steep else 1):
                self.wrong.append(f"{what}, {name}: {error:.3g}")

    def engines(self) -> Any:
        """All backends, both dtypes, copies, samples alone, and networks that are continued; NumPy's of two samples."""
        some = slice(0, 3)
        whole = self.call("numpy", np.float64, self.every, None)
        cross = self.call("numpy", np.float64, some, self.every)
        if select.load("cpu")[0] is not None:
            self.same("cpu", self.call("cpu", np.float64, self.every, None), whole, ENGINES)
            self.same("cpu, copies", self.call("cpu", np.float64, some, self.every), cross, ENGINES)
            rounded = Check(self.case.rounded()).call("cpu", np.float64, self.every, None)
            self.same("float32", self.call("cpu", np.float32, self.every, None), rounded, SINGLE)
            self.near(some)
        if not self.case.drops:
            self.same("two sets", [k[:3] for k in whole], cross, ENGINES)
        self.continued(some, cross)
        return whole

    def near(self, some: slice) -> None:
        """Near-duplicates, and what is nearly opposite, in float32."""
        given, x = self.case.of(some, self.every), self.case.x
        close = x * (1 + 1e-6 * np.random.default_rng(1).standard_normal(x.shape))
        for sign in (1, -1):
            other = np.where(x == self.case.keywords.get("mask_constant"), x, sign * close).astype(np.float32)
            one = self.case.some(some).astype(np.float32)
            found = self.net.kernel_fn(one, other, BOTH, backend="cpu", **given)
            expected = self.net.kernel_fn(one.astype(float), other.astype(float), BOTH, backend="numpy", **given)
            self.same(f"float32, {'near' if sign > 0 else 'opposite'}", found, expected, SINGLE)

    def continued(self, some: slice, cross: Any) -> None:
        """The network cut behind each of its layers."""
        layers, given = self.case.net.args, self.case.of(some, self.every)
        pattern = {name: value for name, value in given.items() if name == "pattern"}
        for cut in range(1, len(layers)):
            first, rest = (layer("serial", *own).of(stax) for own in (layers[:cut], layers[cut:]))
            begun = first.kernel_fn(self.case.some(some), self.case.x.copy(), **given)
            self.same(f"cut before {layers[cut].name}", rest.kernel_fn(begun, None, BOTH, **pattern), cross, CUT)

    def shapes(self) -> None:
        """The finite network's, and the kernel's."""
        if any(name in repr(self.case.net) for name in KERNELS_ALONE):
            return
        shape, params = self.net.init_fn(0, self.case.x.shape)
        pattern = self.case.keywords.get("pattern")
        found = self.net.apply_fn(params, np.nan_to_num(self.case.x), rng=1, pattern=pattern).shape
        kernel = self.net.kernel_fn(self.case.x, **self.case.of(self.every, None))
        if not found == tuple(shape) == tuple(kernel.shape1):
            self.wrong.append(f"shapes {found} of outputs, {shape} of init_fn, {kernel.shape1} of the kernel")

    def rival(self, vocabulary: Any) -> bool:
        """Neural Tangents' kernels, where it is right and has all layers; whether it was asked."""
        if self.case.unlike:
            return False
        one, two = slice(0, 2), slice(2, 4)
        x1, x2 = self.case.some(one), self.case.some(two)
        try:
            k = self.case.net.of(vocabulary)[2](x1, x2, **self.case.of(one, two))
        except (NotImplementedError, RuntimeError):  # LayerNorm behind nonlinearities, circular pools
            return False
        k = k.reverse() if k.is_reversed else k
        mine = self.net.kernel_fn(x1, x2, **self.case.of(one, two))
        self.same("Neural Tangents", (mine.nngp, mine.ntk), (k.nngp, k.ntk), RIVAL)
        for name in ("batch_axis", "channel_axis", "is_gaussian", "x1_is_x2"):
            if getattr(mine, name) != getattr(k, name):
                self.wrong.append(f"{name} is {getattr(mine, name)}, Neural Tangents has {getattr(k, name)}")
        return True


def check(seed: int, number: int, vocabulary: Any = None) -> tuple[str, list[str]]:
    """What became of a case, and what is wrong with it."""
    case = drawn(seed, number)
    own = Check(case)
    try:
        own.engines()
    except (NotImplementedError, ValueError) as error:  # of the network, not of a backend
        if "mean" in str(error) or "the variance of an input" in str(error):
            return "refused", []
        raise
    own.shapes()
    asked = vocabulary is not None and own.rival(vocabulary)
    return "with Neural Tangents" if asked else "alone", own.wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=400, help="how many (default: 400)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: 0)")
    parser.add_argument("--only", type=int, help="this one alone")
    parser.add_argument("--rival", action="store_true", help="ask Neural Tangents too")
    args = parser.parse_args()
    vocabulary = None
    if args.rival:
        sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
        import jax
        import rivals

        jax.config.update("jax_enable_x64", True)
        vocabulary = rivals.nt_stax()
    found: Counter[str] = Counter()
    for number in range(args.count) if args.only is None else [args.only]:
        try:
            kind, wrong = check(args.seed, number, vocabulary)
        except Exception as error:
            kind, wrong = "error", [f"{type(error).__name__}: {error}"]
        found["wrong" if wrong else kind] += 1
        if wrong:
            text = "\n  ".join(wrong)
            case = drawn(args.seed, number)
            print(f"--seed {args.seed} --only {number}\n  {text}\n  {case.x.shape} {case.order} {list(case.keywords)} "
                  f"{case.unlike}\n  {case.net}", flush=True)  # fmt: skip
    print(f"seed {args.seed}: " + ", ".join(f"{n} {kind}" for kind, n in sorted(found.items())))
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
