"""The compiled reverse pass over images beside NumPy's: networks, instruction sets, threads, budgets, breakages."""

from __future__ import annotations

import functools
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from fastntk import stax
from fastntk.call.image_reverse import ImageReverse
from fastntk.call.reverse import Call
from fastntk.engines import cpu, cpu_image_adjoint
from fastntk.engines.compiled import load
from fastntk.network.activations import NONLINEARITIES
from fastntk.network.parameters import known_parameters
from fastntk.stax import Conv, Dense, Erf, Flatten, GlobalAvgPool, Relu, serial
from image_gradient_inputs import NETWORKS, conv

KINDS = ("nngp", "ntk")
MODULE = load("cpu")[0]
ISAS = [name for name, present in MODULE.isas() if present] if MODULE else []

pytestmark = pytest.mark.skipif(MODULE is None, reason="the compiled module is not there")


def signal(phi=None, padding="SAME", strides=None):
    return serial(Conv(4, (3,), strides, padding, 1.3, 0.3, dimension_numbers=("NWC", "WIO", "NWC")), phi or Relu())


def volume():
    return serial(Conv(4, (2, 3, 2), None, "SAME", 1.3, 0.3, dimension_numbers=("NDHWC", "DHWIO", "NDHWC")), Erf())


MORE = {
    "signal": (serial(signal(), stax.AvgPool((2,), (2,)), signal(), Flatten(), Dense(1)), (7, 3)),
    "signal, strides": (serial(signal(strides=(2,)), signal(padding="CIRCULAR"), GlobalAvgPool()), (8, 2)),
    "volume": (serial(volume(), stax.AvgPool((2, 2, 1), (2, 1, 1)), volume(), GlobalAvgPool(), Dense(1)), (4, 3, 3, 2)),
    "wide": (serial(conv(), stax.AvgPool((2, 2), (2, 2)), conv(Erf()), Flatten(), Dense(1)), (6, 18, 1)),
    "valid": (serial(conv(padding="VALID"), conv(padding="VALID", shape=(2, 3)), conv(), GlobalAvgPool()), (9, 8, 2)),
    "residual, valid": (
        serial(
            stax.FanOut(2),
            stax.parallel(
                Conv(4, (2, 2), b_std=0.2), serial(conv(Erf()), Conv(4, (3, 3), padding="SAME"), stax.AvgPool((2, 2))),
            ),
            stax.FanInSum(), Relu(), GlobalAvgPool(), Dense(1, 1.1, 0.2),
        ),
        (5, 4, 2),
    ),
    "linear": (serial(Conv(3, (3, 3), padding="SAME", b_std=0.2), GlobalAvgPool(), Dense(2, 1.2)), (4, 5, 2)),
    "asymmetric": (serial(conv(padding=((2, 0), (0, 1))), conv(), Flatten()), (4, 4, 1)),
}  # fmt: skip
ALL = {**{name: (net, (4, 4, 2)) for name, net in NETWORKS.items()}, **MORE}


def compiled(net, shape):
    """The call takes the compiled road."""
    x = np.ones((1, *shape))
    call = Call("vjp", net, x, None, 0, ("cpu", None), tuple(known_parameters(net)))
    return ImageReverse(call, 1 << 28).compiled is not None


def inputs(shape, rng, n=(3, 2)):
    x1, x2 = (rng.standard_normal((k, *shape)) for k in n)
    x2[0] = x1[0] + 1e-3 * rng.standard_normal(shape)
    x2[1] = x1[1]
    x2[1, 0] = -x1[1, 0]
    return x1, x2


def size(a):
    return max(float(np.abs(a).max(initial=0)), 1e-300)


def apart(found, known):
    worst = max(size(a - b) / size(b) for a, b in ((found.x1, known.x1), (found.x2, known.x2)) if b is not None)
    scale = max(map(abs, known.parameters.values()), default=1)
    return max([worst, *(abs(v - known.parameters[n]) / scale for n, v in found.parameters.items())])


def both(net, x1, x2, c, **how):
    return (net.kernel_fn.vjp(x1, x2, cotangents=c, backend=backend, **how) for backend in ("cpu", "numpy"))


@pytest.mark.parametrize("kinds", [("nngp",), ("ntk",), KINDS])
@pytest.mark.parametrize("name", ALL)
def test_networks_beside_numpy(name, kinds):
    """At a distance of 1e-3 the NTK's derivative in pixels has 1e-15 / 1e-3 of its digits, behind inner pools fewer."""
    rng = np.random.default_rng(1)
    net, shape = ALL[name]
    assert compiled(net, shape) == (name not in ("arguments", "edges"))  # numbers of nonlinearities move
    x1, x2 = inputs(shape, rng)
    plane = net.kernel_fn(x1, x2, "ntk").shape
    c = {n: rng.standard_normal(plane) for n in kinds}
    assert apart(*both(net, x1, x2, c)) < 1e-9
    far = rng.standard_normal(x2.shape)
    assert apart(*both(net, x1, far, c)) < 3e-12
    c = {n: rng.standard_normal((3, *plane[:1], *plane[2:])) for n in kinds}
    assert apart(*both(net, x1, None, c)) < 3e-12


@pytest.mark.parametrize("name", [
    n for n, (make, args) in NONLINEARITIES.items() if MODULE and MODULE.has_image_adjoint(make(*args).dual_name)
])  # fmt: skip
@pytest.mark.parametrize("isa", ISAS)
def test_every_nonlinearity_beside_numpy(name, isa, monkeypatch):
    monkeypatch.setenv("FASTNTK_ISA", isa)
    make, args = NONLINEARITIES[name]
    rng = np.random.default_rng(2)
    small = {"W_std": 0.9, "b_std": 0.2}
    net = serial(
        Conv(4, (2, 2), padding="SAME", **small), make(*args), Conv(4, (2, 1), **small), make(*args), Flatten()
    )
    x1, x2 = inputs((3, 4, 2), rng)
    c = {n: rng.standard_normal((3, 2)) for n in KINDS}
    wrt = ("x1", "x2", *(n for n in net.kernel_fn.parameters if n.endswith("std")))
    assert apart(*both(net, x1, x2, c, wrt=wrt)) < 1e-10


def test_threads_change_no_bit():
    rng = np.random.default_rng(3)
    for name in ("pools", "volume", "positions"):
        net, shape = ALL[name]
        x = rng.standard_normal((5, *shape))
        c = {n: rng.standard_normal(net.kernel_fn(x, None, n).shape) for n in KINDS}
        once, twice = (net.kernel_fn.vjp(x, cotangents=c, num_threads=k) for k in (1, 3))
        assert np.array_equal(once.x1, twice.x1)
        assert once.parameters == twice.parameters


def test_memory_stays_within_the_budget():
    """No tape of a pair is held: what NumPy's refuses fits."""
    net = serial(conv(), conv(), GlobalAvgPool())
    x = np.random.default_rng(4).standard_normal((2, 20, 20, 1))
    with pytest.raises(MemoryError, match="all pairs of positions"):
        net.kernel_fn.vjp(x, cotangents={"ntk": np.ones((2, 2))}, memory_budget=1 << 24, backend="numpy")
    found = net.kernel_fn.vjp(x, cotangents={"ntk": np.ones((2, 2))}, memory_budget=1 << 24, num_threads=1)
    assert np.isfinite(found.x1).all()
    with pytest.raises(MemoryError, match="tables of both"):
        net.kernel_fn.vjp(x, cotangents={"ntk": np.ones((2, 2))}, memory_budget=1 << 17)


@functools.lru_cache(maxsize=1)
def cases():
    rng = np.random.default_rng(5)
    found = []
    for name in ("readouts", "pools", "no biases", "linear positions", "positions", "volume", "asymmetric"):
        net, shape = ALL[name]
        x1, x2 = inputs(shape, rng)
        c = {n: rng.standard_normal(net.kernel_fn(x1, x2, n).shape) for n in KINDS}
        found.append((net, x1, x2, c, net.kernel_fn.vjp(x1, x2, cotangents=c, backend="numpy")))
    return found


def worst():
    found = 0.0
    for net, x1, x2, c, known in cases():
        found = max(found, apart(net.kernel_fn.vjp(x1, x2, cotangents=c, backend="cpu"), known))
    return np.nan_to_num(found, nan=np.inf)


BROKEN = {
    "pull = over(slope_of(rows.variance, \"q\"), V)": "pull = 0 * V",
    "found = [over(1.0, s), s, np.sqrt(V)": "found = [over(1.0, s), s, s",
    "*(slope_of(row, \"q\") for row in own)": "*(0 * slope_of(row, \"q\") for row in own)",
    "[:, :, lanes % inner]": "[:, :, (lanes + 1) % inner]",
    "np.where(filled, line, 0.0)": "np.where(filled & (lanes < inner), line, 0.0)",
    "found.put(side, \"B\", s, -step.numbers[0] * lost)": "pass",
    "numbers.add(place, -lost * images.q[s])": "pass",
    "lost = parts[0] / (2 * step.taps.shape[1])": "lost = parts[0] / step.taps.shape[1]",
    "np.stack(parts, axis=2) / of.channels": "np.stack(parts, axis=2)",
    "(on_k + on_theta, P, crossed, T)[at]": "(on_k, P, crossed, T)[at]",
    "P, crossed, T)[at]": "P, on_theta, T)[at]",
    "crossed, T)[at]": "crossed, P)[at]",
    "if at != 1 or linear:": "if at != 1:",
    "c.reshape(len(i), -1) * scale": "c.reshape(len(i), -1)",
    "places[where] = np.arange(len(where))": "places[where] = np.arange(len(where))[::-1]",
    "of_own = -1 if cov else accumulator(\"sums\", value, step.extent)": "of_own = -1",
    "return [np.sqrt(side.q[source])], 1": "return [0 * side.q[source]], 1",
}  # fmt: skip


def test_nothing_is_broken():
    assert worst() < 1e-9


@pytest.mark.parametrize("old", BROKEN)
def test_a_broken_table_is_noticed(old, monkeypatch):
    """Of what C++ is given, and of what becomes of its sums."""
    cases()
    file = Path(cpu_image_adjoint.__file__)
    assert file.read_text().count(old) >= 1
    broken = types.ModuleType(cpu_image_adjoint.__name__)
    broken.__package__ = cpu_image_adjoint.__package__
    monkeypatch.setitem(sys.modules, broken.__name__, broken)
    exec(compile(file.read_text().replace(old, BROKEN[old]), file, "exec"), vars(broken))
    monkeypatch.setattr(cpu, "CompiledImages", broken.CompiledImages)
    assert worst() > 1e-8
