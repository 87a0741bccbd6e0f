"""What a reverse pass over images has of a program and of single images (numpy_image_adjoint.py)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..network.maps import Attention
from ..network.program import Lowered
from .masked import Beside
from .numpy_image_back import BLOCK
from .numpy_images import _alone, _lengths, _masked, _normalise, plan_of
from .numpy_mix import Flags, own_sums
from .numpy_steps import Planes, _taps, mean_behind, reads_pairs, variance
from .numpy_tangents import Step, Tangents

Array = npt.NDArray[Any]

_BESIDE = 24  # arrays of a slot's size beside the tape, while an op goes back


class ImageTangents:
    """A program for the reverse pass over images: its steps, and which of its numbers derivatives are asked for."""

    def __init__(self, lowered: Lowered, tangents: Tangents, spatial: Sequence[tuple[int, ...]]) -> None:
        self.steps = plan_of(lowered, spatial)
        self.n_inputs = tangents.n_inputs
        self._tangents, self.moving = tangents, tangents.moving
        #: whether any sum has products of means
        self.means = tangents.means
        #: the last step that reads what an image has between its own positions, or -1; values are numbered as steps
        #: are, first the inputs
        self.last_own = max((k for k in range(len(self.steps)) if self._reads_own(k)), default=-1)

    def _reads_own(self, k: int) -> bool:
        step = self.steps[k]
        if step.op.name == "norm":
            return self.steps[self.sources(k)[0]].linear
        return reads_pairs(step.op) and (not step.linear or isinstance(step.op.map, Attention))

    def of(self, k: int) -> Step:
        """The step with its sources numbered through."""
        return self._tangents.steps[k - self.n_inputs]

    def sources(self, k: int) -> tuple[int, ...]:
        return () if k < self.n_inputs else self.of(k).src

    def layer(self, k: int) -> Any:
        """The nonlinearity of a dual op, its wanted numbers with derivatives."""
        return self._tangents.layer(self.of(k))

    def wanted(self, k: int) -> list[tuple[int, int]]:
        """Which of its numbers move, and their places."""
        return [(at, place) for at, place in enumerate(self.of(k).op.numbers) if place in self.moving]

    def pair_bytes(self, positions: Sequence[int]) -> int:
        """Bytes that a pair of images takes: the tape, and what an op holds beside it."""
        sizes = [p * p if step.full or reads_pairs(step.op) else p
                 for p, step in zip(positions, self.steps, strict=True)]  # fmt: skip
        return 8 * (3 * sum(sizes) + _BESIDE * max(sizes)) + 16 * 8 * BLOCK

    def matrices(self, positions: Sequence[int]) -> int:
        """Entries of all matrices over positions that an image has."""
        pairs = zip(positions, self.steps, strict=True)
        return sum(p * positions[self.sources(k)[0]] for k, (p, step) in enumerate(pairs) if step.op.name == "mix")

    def positions(self, spatial: Sequence[tuple[int, ...]]) -> list[int]:
        """Positions of every value, those of the inputs given."""
        found = [math.prod(s) for s in spatial]
        for k, step in enumerate(self.steps[self.n_inputs :], self.n_inputs):
            own = step.op.window is not None or step.op.name in ("gather", "mix")
            found.append(step.positions if own else found[self.sources(k)[0]])
        return found


def unit_of(tangents: ImageTangents, x: Sequence[Array]) -> float:
    """A power of two near the largest of the lengths that images are divided by: products of two stay in range."""
    longest = float(_lengths(tangents.steps, x).max(initial=0)) if len(x[0]) else 1.0
    return math.ldexp(1.0, math.frexp(longest)[1]) if longest > 0 else 1.0


class Images:
    """The images of one side of a batch, (n, *spatial axes, channels) of every input, and what stands beside them."""

    def __init__(self, arrays: Sequence[Array], beside: Beside, batch: int) -> None:
        self.arrays, self._beside, self._batch = arrays, beside, batch

    def of(self, at: Any) -> tuple[list[Array], list[Array | None], Any]:
        """Arrays, masks and patterns of some images."""
        masks, pattern, _ = self._beside.of(self._batch, at)
        return [x[at] for x in self.arrays], masks, pattern


class Side:
    """Images of one side, divided by their lengths, and their planes for each step.

    Lengths are counted in a ``unit``, whose square derivatives in parameters are still to be multiplied by.

    Attributes
    ----------
    planes : list of list of array
        What steps read of one image, first of all the variances of their sources.
    pixels : list of array (n, positions, channels)
    q : dict of array (n, positions)
        Variances by step; of :meth:`of_variances` alone.
    hidden, before : list of array (n, positions) of bool, or None
        Masked positions of each step's result, and of its first source.
    tables : tuple, optional
        What compiled text reads of it.
    """

    def __init__(
        self, tangents: ImageTangents, x: Sequence[Array], spatial: Sequence[tuple[int, ...]], chunk: int, unit: float,
        masks: Sequence[Flags | None] = (), pattern: Any = None,
    ) -> None:  # fmt: skip
        with np.errstate(all="ignore"):
            side, _, lengths = _alone(tangents.steps, x, spatial, chunk, np.float64, masks, pattern)
            self._keep(side.planes, Side.divided(x, lengths), lengths, unit)
            self._keep_masks(*_masked(tangents.steps, masks))

    def _keep(self, planes: list[Planes], pixels: list[Array], lengths: Array, unit: float) -> None:
        self.n, self.unit, self.planes, self.pixels = len(lengths), unit, planes, pixels
        self.scale = lengths / unit
        self._keep_masks([None] * len(planes), [None] * len(planes))
        self._means: dict[int, Array] | None = None
        self.q: dict[int, Array] = {}
        self.tables: tuple[Array, Array] | None = None

    def _keep_masks(self, hidden: list[Flags | None], before: list[Flags | None]) -> None:
        self.hidden, self.before = hidden, before

    @staticmethod
    def divided(x: Sequence[Array], lengths: Array) -> list[Array]:
        shaped = lengths.reshape(-1, 1, 1)
        return [own.reshape(len(own), -1, own.shape[-1]) / shaped for own in x]

    @classmethod
    def of_variances(
        cls, tangents: ImageTangents, pixels: list[Array], lengths: Array, unit: float, masses: Mapping[int, Array]
    ) -> Side:
        """Without a pass over pairs of positions.

        ``masses``: of each step that pools in front of a nonlinearity, the sums of ``s s' - K`` of an image with
        itself over its windows, (n, positions).
        """
        planes: list[Planes] = []
        q: dict[int, Array] = {}
        for k, step in enumerate(tangents.steps):
            sources = tangents.sources(k)
            if k < tangents.n_inputs:
                own = _normalise(pixels[k])
            else:
                own = [q[s][:, :0] if tangents.steps[s].linear else q[s] for s in sources]
            if step.op.name == "pool" and not step.linear:
                own += own_sums(np.asarray(sum(_taps(step, np.sqrt(own[0])))), masses[k])
            planes.append(own)
            if step.op.name != "store":
                made = own[-1:] * 2 if k < tangents.n_inputs else own
                q[k] = np.zeros((len(lengths), 0)) if step.linear else variance(step, made)
        side = cls.__new__(cls)
        side._keep(planes, pixels, lengths, unit)
        side.q = q
        return side

    def means(self, tangents: ImageTangents) -> dict[int, Array]:
        """E y of every value, (n, positions), as sums have it; of those that are missing 0."""
        if self._means is None:
            self._means = {}
            for k, step in enumerate(tangents.steps):
                if k < tangents.n_inputs or step.op.name == "store":
                    continue
                sources, planes = tangents.sources(k), self.planes[k]
                before = [self._means.get(s) for s in sources]
                found = mean_behind(step, planes[: len(sources)], before, planes)
                if found is not None:
                    self._means[k] = found
        return self._means
