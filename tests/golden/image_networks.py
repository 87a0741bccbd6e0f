"""Networks on images, signals and volumes in the words of Neural Tangents' ``stax``, for either library's."""

from __future__ import annotations

from typing import Any

import numpy as np

SHAPES = {
    "7x5": (7, 5, 3),
    "8x8": (8, 8, 2),
    "6x9": (6, 9, 1),
    "4x3": (4, 3, 2),
    "11": (11, 2),
    "4x3x5": (4, 3, 5, 2),
    "channels first": (3, 6, 5),
}


def inputs(size: str) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of a size: three samples and two, of several contrasts, no two nearly parallel anywhere."""
    rng = np.random.default_rng([2025, *size.encode()])

    def draw(scales: tuple[float, ...]) -> np.ndarray:
        return np.stack([scale * rng.standard_normal(SHAPES[size]) for scale in scales])

    return draw((0.3, 1, 3)), draw((1, 2))


def networks(stax: Any) -> dict[str, tuple[str, Any]]:
    """By name: the size of the inputs, and the network."""
    Conv, Dense, Relu, Erf, serial = stax.Conv, stax.Dense, stax.Relu, stax.Erf, stax.serial
    GlobalAvgPool, Flatten = stax.GlobalAvgPool, stax.Flatten
    standard = {"parameterization": "standard"}
    first = {"dimension_numbers": ("NCHW", "OIHW", "NCHW")}
    nchw = {"batch_axis": 0, "channel_axis": 1}

    def three(first: Any, second: Any, third: Any, readout: Any, phi: Any = Relu) -> Any:
        return serial(first, phi(), second, phi(), third, phi(), readout(), Dense(1, 1.2, 0.1))

    def residual(body: Any, shortcut: Any) -> Any:
        return serial(stax.FanOut(2), stax.parallel(body, shortcut), stax.FanInSum())

    def wide_block(stride: int, project: bool) -> Any:
        body = serial(
            Relu(), Conv(4, (3, 3), (stride, stride), "SAME", 1.3), Relu(), Conv(4, (3, 3), (1, 1), "SAME", 1.1, 0.1)
        )
        return residual(body, Conv(4, (3, 3), (stride, stride), "SAME", 0.9) if project else stax.Identity())

    def myrtle(pool: Any, readout: Any) -> Any:
        def conv() -> tuple[Any, Any]:
            return Conv(4, (3, 3), None, "SAME", 2**0.5), Relu()

        return serial(
            *conv(), *conv(), pool((2, 2), (2, 2)), *conv(), pool((2, 2), (2, 2)), *conv(), pool((2, 2), (2, 2)),
            readout(), Dense(10, 2**0.5),
        )  # fmt: skip

    return {
        # paddings, strides, filters, readouts
        "SAME, 3x3, flatten": (
            "7x5", three(*(Conv(4, (3, 3), None, "SAME", 1.4, b) for b in (0.2, None, 0.1)), Flatten)
        ),
        "SAME, 3x3, gap": (
            "7x5", three(*(Conv(4, (3, 3), None, "SAME", 1.4, b) for b in (0.2, None, 0.1)), GlobalAvgPool)
        ),
        "SAME, 2x2 and 5x5 and 2x3, gap": (
            "6x9", three(*(Conv(4, k, None, "SAME", 1.3, 0.1) for k in ((2, 2), (5, 5), (2, 3))), GlobalAvgPool)
        ),
        "SAME, 2x2 and 5x5 and 2x3, flatten": (
            "6x9", three(*(Conv(4, k, None, "SAME", 1.3, 0.1) for k in ((2, 2), (5, 5), (2, 3))), Flatten)
        ),
        "VALID, gap": (
            "7x5", three(*(Conv(4, k, None, "VALID", 1.4, 0.2) for k in ((3, 3), (1, 1), (2, 2))), GlobalAvgPool)
        ),
        "VALID, flatten": (
            "7x5", three(*(Conv(4, k, None, "VALID", 1.4, 0.2) for k in ((3, 1), (2, 2), (1, 3))), Flatten)
        ),
        "CIRCULAR, gap": (
            "7x5", three(*(Conv(4, k, None, "CIRCULAR", 1.4, 0.2) for k in ((3, 3), (2, 2), (2, 3))), GlobalAvgPool)
        ),
        "CIRCULAR, strides, flatten": (
            "8x8",
            three(
                Conv(4, (3, 3), (2, 1), "CIRCULAR", 1.3, 0.1), Conv(4, (2, 2), (2, 2), "CIRCULAR", 1.2),
                Conv(4, (5, 3), None, "CIRCULAR", 1.4), Flatten,
            ),
        ),
        "SAME, strides, gap": (
            "7x5",
            three(
                Conv(4, (3, 3), (2, 2), "SAME", 1.3, 0.1), Conv(4, (2, 2), None, "SAME", 1.2),
                Conv(4, (1, 3), (2, 1), "SAME", 1.4), GlobalAvgPool,
            ),
        ),
        "SAME, even sizes and strides, gap": (
            "8x8",
            three(
                Conv(4, (3, 3), (2, 2), "SAME", 1.3, 0.1), Conv(4, (2, 3), (2, 1), "SAME", 1.2),
                Conv(4, (3, 3), None, "SAME", 1.4), GlobalAvgPool,
            ),
        ),
        "VALID, strides, flatten": (
            "8x8",
            three(
                Conv(4, (3, 2), (2, 2), "VALID", 1.3, 0.1), Conv(4, (2, 2), None, "VALID", 1.2),
                Conv(4, (1, 1), (2, 1), "VALID", 1.4), Flatten,
            ),
        ),
        # weights
        "standard, gap": (
            "4x3",
            serial(
                Conv(6, (3, 3), None, "SAME", 1.3, 0.2, **standard), Relu(),
                Conv(5, (2, 2), None, "SAME", 1.2, None, s=(1, 2), **standard), Erf(),
                Conv(3, (3, 1), None, "CIRCULAR", 1.1, 0.0, s=(2, 1), **standard), Relu(),
                GlobalAvgPool(), Dense(1, 0.9, 0.3, **standard),
            ),
        ),
        "standard, flatten": (
            "4x3",
            serial(
                Conv(6, (3, 3), (2, 1), "SAME", 1.3, None, **standard), Relu(),
                Conv(5, (2, 2), None, "VALID", 1.2, 0.1, **standard), Relu(), Flatten(),
                Dense(7, 0.9, None, **standard), Relu(), Dense(1, 1.1, 0.2, **standard),
            ),
        ),
        "dense on images": (
            "7x5",
            serial(
                Dense(8, 1.3, 0.2), Relu(), Conv(4, (3, 3), None, "SAME", 1.2), Erf(), Dense(5, 1.1, **standard),
                Relu(), GlobalAvgPool(), Dense(1, 1.2),
            ),
        ),
        # nonlinearities
        "erf, gap": ("7x5", three(*[Conv(4, (3, 3), None, "SAME", 1.3, 0.1)] * 3, GlobalAvgPool, Erf)),
        "leaky relu, gap": (
            "7x5", three(*[Conv(4, (3, 3), None, "SAME", 1.3)] * 3, GlobalAvgPool, lambda: stax.LeakyRelu(0.2))
        ),
        "abrelu and abs and scaled erf, flatten": (
            "6x9",
            serial(
                Conv(4, (3, 3), None, "SAME", 1.3, 0.1), stax.ABRelu(-0.3, 1.2), Conv(4, (2, 3), None, "CIRCULAR", 1.2),
                stax.Abs(), Conv(4, (3, 3), (2, 2), "SAME", 1.2, 0.2), Erf(1.3, 0.7, 0.2), Flatten(),
                Dense(1, 1.1, 0.3),
            ),
        ),
        "abrelu and abs and scaled erf, gap": (
            "4x3",
            serial(
                Conv(4, (3, 3), None, "SAME", 1.3, 0.1), stax.ABRelu(-0.3, 1.2), Conv(4, (2, 3), None, "CIRCULAR", 1.2),
                stax.Abs(), Conv(4, (3, 3), (2, 2), "SAME", 1.2, 0.2), Erf(1.3, 0.7, 0.2), GlobalAvgPool(),
                Dense(1, 1.1),
            ),
        ),
        # pools
        "average pools, flatten": (
            "8x8",
            serial(
                Conv(4, (3, 3), None, "SAME", 1.3, 0.1), Relu(), stax.AvgPool((2, 2), (2, 2)),
                Conv(4, (2, 2), None, "SAME", 1.4), Relu(), stax.AvgPool((3, 2), (1, 2), "SAME"), Flatten(), Dense(1),
            ),
        ),
        "pools whose windows overlap, gap": (
            "7x5",
            serial(
                Conv(4, (3, 3), None, "SAME", 1.3, 0.1), Relu(), stax.AvgPool((3, 3), (2, 1), "SAME", True),
                Conv(4, (2, 2), None, "SAME", 1.4), Relu(), stax.SumPool((2, 3), None, "CIRCULAR"),
                Conv(4, (1, 3), None, "SAME", 0.4), Erf(), GlobalAvgPool(), Dense(1),
            ),
        ),
        "edges, flatten": (
            "7x5",
            serial(
                Conv(4, (3, 3), None, "SAME", 1.3), Relu(), stax.AvgPool((2, 4), (2, 2), "SAME", True),
                Conv(4, (3, 3), None, "SAME", 1.4, 0.2), Relu(), stax.AvgPool((2, 2), (1, 1), "SAME"), Flatten(),
                Dense(1, 1.2),
            ),
        ),
        "sum pools and a global sum": (
            "6x9",
            serial(
                Conv(4, (3, 3), None, "VALID", 1.3, 0.1), Relu(), stax.SumPool((2, 2), (1, 2), "SAME"),
                Conv(4, (2, 2), None, "VALID", 0.5), Relu(), stax.GlobalSumPool(), Dense(1, 0.3, 0.1),
            ),
        ),
        "circular average pool": (
            "7x5",
            serial(
                Conv(4, (3, 3), None, "CIRCULAR", 1.3, 0.1), Relu(), stax.AvgPool((3, 2), (2, 2), "CIRCULAR"),
                Conv(4, (2, 2), None, "CIRCULAR", 1.4), Relu(), Flatten(), Dense(1),
            ),
        ),
        "relu behind a pool and behind a global one": (
            "7x5",
            serial(
                Conv(4, (3, 3), None, "SAME", 1.3, 0.1), stax.AvgPool((2, 2), (1, 2), "SAME"), Relu(),
                Conv(4, (3, 3), None, "SAME", 1.4, 0.1), GlobalAvgPool(), Relu(), Dense(6, 1.3, 0.2), stax.Abs(),
                Dense(1),
            ),
        ),
        "dense layers behind flatten": (
            "7x5",
            serial(
                Conv(4, (3, 3), (2, 2), "SAME", 1.3, 0.1), Erf(), Conv(4, (2, 2), None, "SAME", 1.4), Flatten(),
                Dense(8, 1.2, 0.2), Relu(), Dense(4, 1.1), stax.LeakyRelu(0.3), Dense(1),
            ),
        ),
        "a pool before anything": (
            "8x8", serial(stax.AvgPool((2, 2), (2, 2)), Conv(4, (3, 3)), Relu(), Flatten(), Dense(1))
        ),
        "flatten before anything": ("4x3", serial(Flatten(), Dense(8, 1.3, 0.1), Relu(), Dense(1))),
        # architectures
        "wide resnet": (
            "8x8",
            serial(
                Conv(4, (3, 3), None, "SAME", 1.2, 0.1), wide_block(1, True), wide_block(1, False), wide_block(2, True),
                wide_block(1, False), wide_block(2, True), Relu(), stax.AvgPool((2, 2)), Flatten(), Dense(10, 1.1),
            ),
        ),
        "residual, gap": (
            "7x5",
            serial(
                Conv(4, (3, 3), None, "SAME", 1.2, 0.1), wide_block(2, True), wide_block(1, False), Relu(),
                GlobalAvgPool(), Dense(10, 1.1, 0.2),
            ),
        ),
        "branches of three kinds, joined at the end": (
            "4x3",
            residual(
                serial(Conv(4, (3, 3), None, "SAME", 1.2, 0.1), Relu(), GlobalAvgPool(), Dense(3, 1.1)),
                serial(Conv(4, (2, 2), None, "VALID", 1.3), Erf(), Flatten(), Dense(3, 0.9, 0.2)),
            ),
        ),
        "myrtle, gap": ("8x8", myrtle(stax.AvgPool, GlobalAvgPool)),
        "myrtle, flatten": ("8x8", myrtle(stax.AvgPool, Flatten)),
        # other numbers of axes, another order of them
        "1-D, gap": (
            "11",
            serial(
                Conv(4, (3,), None, "SAME", 1.3, 0.1), Relu(), Conv(4, (4,), (2,), "SAME", 1.2), Relu(),
                stax.AvgPool((2,), (2,), "SAME", True), Conv(4, (2,), None, "CIRCULAR", 1.1, 0.2), Relu(),
                GlobalAvgPool(), Dense(1, 1.2),
            ),
        ),
        "1-D, flatten": (
            "11",
            serial(
                Conv(4, (5,), (2,), "VALID", 1.3, 0.1), Relu(), Conv(4, (3,), None, "SAME"), Erf(), Flatten(), Dense(1)
            ),
        ),
        "3-D, gap": (
            "4x3x5",
            serial(
                Conv(4, (3, 2, 3), (2, 1, 2), "SAME", 1.3, 0.1), Relu(), Conv(4, (2, 2, 2), None, "SAME", 1.2), Relu(),
                stax.AvgPool((2, 2, 1), (1, 2, 1)), GlobalAvgPool(), Dense(1, 1.1),
            ),
        ),
        "3-D, flatten": (
            "4x3x5",
            serial(
                Conv(4, (3, 2, 3), None, "SAME", 1.3, 0.1), Relu(), Conv(4, (2, 3, 3), (1, 1, 2), "CIRCULAR", 1.2),
                Relu(), Flatten(), Dense(1, 1.1),
            ),
        ),
        "channels first, gap": (
            "channels first",
            serial(
                Conv(4, (3, 2), (1, 2), "SAME", 1.3, 0.1, **first), Relu(),
                stax.AvgPool((2, 1), (2, 1), "SAME", True, **nchw),
                Conv(4, (3, 3), None, "SAME", 1.2, 0.2, **first), Relu(), GlobalAvgPool(**nchw), Dense(1),
            ),
        ),
        "channels first, flatten": (
            "channels first",
            serial(
                Conv(4, (3, 2), (1, 2), "SAME", 1.3, 0.1, **first), Relu(), Dense(5, 1.1, 0.1, **nchw), Relu(),
                Conv(4, (3, 3), None, "SAME", 1.2, 0.2, **first), Relu(), Flatten(), Dense(1),
            ),
        ),
        # no readout: outputs keep their positions
        "positions, one convolution": ("4x3", Conv(4, (3, 2), None, "SAME", 1.3, 0.2)),
        "positions, erf and stride": (
            "4x3", serial(Conv(4, (2, 2), None, "VALID", 1.3, 0.2), Erf(), Conv(4, (3, 3), (2, 1), "SAME", 1.2, 0.1))
        ),
        "positions, ends in relu": (
            "4x3",
            serial(
                Conv(4, (3, 3), None, "SAME", 1.3, 0.2), Relu(), stax.AvgPool((2, 2), (1, 1), "SAME"),
                Conv(4, (2, 2), None, "CIRCULAR", 1.3, 0.2), Relu(), Conv(4, (1, 3), (2, 1), "SAME", 1.1), Relu(),
            ),
        ),
        "positions, a pool at the end": (
            "4x3", serial(Conv(4, (3, 3), None, "SAME", 1.3, 0.2), Relu(), stax.AvgPool((2, 2), (2, 1), "SAME", True))
        ),
        "positions, 1-D": (
            "11", serial(Conv(4, (4,), (2,), "SAME", 1.3, 0.2), Relu(), Conv(4, (3,), None, "SAME", 1.2, 0.1))
        ),
        "positions, 3-D": (
            "4x3x5",
            serial(
                Conv(4, (2, 2, 3), (2, 1, 2), "SAME", 1.3, 0.2), Relu(), Conv(4, (2, 2, 1), (1, 2, 1), "SAME", 1.2)
            ),
        ),
        "positions, channels first": (
            "channels first",
            serial(
                Conv(4, (3, 2), (2, 2), "SAME", 1.3, 0.1, **first), Relu(),
                Conv(4, (2, 3), (1, 2), "SAME", 1.1, **first),
            ),
        ),
    }  # fmt: skip
