"""A call on inputs with spatial axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.arrays import allocate
from ..base.kernel import Kernel
from ..base.progress import bar
from ..engines.engine import Engine
from ..engines.masked import MaskedImages
from ..engines.numpy_images import masked_outputs
from ..network.program import Lowered, Value, leaves
from .image_gram import count_pairs, run_image_diagonal, run_image_pairs
from .inputs import Input
from .results import FIELDS, check_targets, flags, named, tree_of

Array = npt.NDArray[Any]


def images_of(inputs: Sequence[Input], second: bool, batch: int | None = None) -> MaskedImages:
    """Arrays of one side."""
    found = []
    for i in inputs:
        x = i.x2 if second else i.x1
        if x is None:  # covariances stand in its place
            n = i.n2 if second else i.n1
            x = np.broadcast_to(np.ones((), i.dtype), (n, *i.value.spatial, 1))
        found.append(x if batch is None else x[batch])
    first = inputs[0]
    pattern = first.pattern2 if second else first.pattern1
    masks = [i.mask2 if second else i.mask1 for i in inputs]
    given = [i.given for i in inputs] if any(i.given is not None for i in inputs) else []
    if batch is not None:
        pattern = None if pattern is None else pattern[batch]
        masks = [None if m is None else m[batch] for m in masks]
    return MaskedImages(found, [None if m is None else m.reshape(len(m), -1) for m in masks], pattern, given)


class ImageCall:
    """A call on inputs with spatial axes."""

    def __init__(self, lowered: Lowered, inputs: Sequence[Input], engine: Engine, budget: int) -> None:
        self.lowered, self.inputs, self.engine, self.budget = lowered, inputs, engine, int(budget)
        self.first = inputs[0]
        self.values = list(leaves(lowered.outputs))
        self.spatial = [value.spatial for value in self.values]

    def shape(self, output: int, *samples: int) -> tuple[int, ...]:
        return (*self.first.batch, *samples, *(n for n in self.spatial[output] for _ in range(2)))

    def _batches(self) -> list[int | None]:
        return list(range(self.first.batch[0])) if self.first.batch else [None]

    def __call__(self, names: tuple[str, ...] | None, get: Any, out: Any, progress: bool) -> Any:
        first, count = self.first, len(self.values)
        shapes = [self.shape(k, first.n1, first.n2) for k in range(count)]
        targets = check_targets(out, get, names, count, self.inputs, shapes[0])
        wanted = [n for n in ("nngp", "ntk") if names is None or n in names]
        if "ntk" in wanted and any(i.given is not None and i.given.theta is None for i in self.inputs):
            if names is not None:
                raise ValueError("[kernel_fn] get asks for 'ntk', which needs x1.ntk; the Kernel given has None")
            wanted.remove("ntk")
        missing = [(k, name) for k in range(count) for name in wanted if (k, name) not in targets]
        if missing:
            fresh = allocate([shapes[k] for k, _ in missing], [first.dtype] * len(missing), "kernel_fn", first.place)
            targets.update(zip(missing, fresh, strict=True))
        asked = [names is None or name in names for name in ("cov1", "cov2")]
        asked[1] = asked[1] and not first.symmetric
        variances = [[self._empty(k, bool(side)) if asked[side] else None for k in range(count)] for side in (0, 1)]
        pairs = count_pairs(first.n1, first.n2, first.symmetric) * len(self._batches())
        if targets or any(asked):
            with bar(pairs, progress and bool(targets)) as report:
                for b in self._batches():
                    planes = [[_entry(targets.get((k, name)), b) for name in ("nngp", "ntk")] for k in range(count)]
                    alone = [[_entry(own, b) for own in side] for side in variances]
                    second = None if first.symmetric else images_of(self.inputs, True, b)
                    run_image_pairs(
                        self.lowered, self.engine, images_of(self.inputs, False, b), second, planes, alone,
                        self.spatial, self.budget, report,
                    )  # fmt: skip

        def result(value: Value) -> Any:
            def field(name: str) -> Any:
                if name in ("nngp", "ntk"):
                    return first.place.give(targets.get((value.slot, name)))
                if name == "cov1":
                    return first.place.give(variances[0][value.slot])
                if name == "cov2":
                    return None if first.symmetric else first.place.give(variances[1][value.slot])
                if name in ("mask1", "mask2"):
                    return self._mask(value, name == "mask2")
                return None if name == "exact" else flags(name, value, first)

            if names is None:
                return Kernel(**{name: field(name) for name in FIELDS})
            found = [field(name) for name in names]
            return found[0] if isinstance(get, str) else named(names)(*found)

        return tree_of(self.lowered.outputs, result)

    def _mask(self, value: Value, second: bool) -> Array | None:
        """Which positions of an output are masked, axes as the finite network's; None where nothing is."""
        if second and self.first.symmetric:
            return None
        found = []
        for b in self._batches():
            own = masked_outputs(self.lowered, self.spatial, images_of(self.inputs, second, b).masks)[value.slot]
            if own is None:
                return None
            shaped = own.reshape(len(own), *value.spatial, 1)
            found.append(np.moveaxis(shaped, (0, -1), (value.batch_axis, value.channel_axis)))
        return found[0] if not self.first.batch else np.stack(found)

    def _empty(self, output: int, second: bool = False) -> Array:
        """Room for a number of each image with itself, or of its pairs of positions."""
        n = self.first.n2 if second else self.first.n1
        found: Array = self.first.place.xp.empty(self.shape(output, n), self.first.dtype)
        return found

    def _diagonal(self, names: Sequence[str]) -> list[list[Array]]:
        """Each output's fields for each sample with itself."""
        found = [[self._empty(k) for _ in names] for k in range(len(self.values))]
        for b in self._batches():
            planes = [
                [_entry(arrays[names.index(name)], b) if name in names else None for name in ("nngp", "ntk")]
                for arrays in found
            ]
            side = images_of(self.inputs, False, b)
            run_image_diagonal(self.lowered, self.engine, side, planes, self.spatial, self.budget)
        return found

    def diagonals(self, names: tuple[str, ...], get: Any) -> Any:
        found = self._diagonal(names)

        def result(value: Value) -> Any:
            arrays = [self.first.place.give(array) for array in found[value.slot]]
            return arrays[0] if isinstance(get, str) else named(names)(*arrays)

        return result


def _entry(array: Any, batch: int | None) -> Any:
    return array if array is None or batch is None else array[batch]
