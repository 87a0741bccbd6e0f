"""What pairs of images leave is finished image by image: its network on (x, x), variances, means, and pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.jet import Jet, over, slope_of
from ..network.activations import is_dual
from ..network.maps import Attention
from ..network.program import WEIGHTED
from ..network.window import Positions
from . import numpy_image_joint as joint
from .numpy_image_adjoint import Found, Numbers, Sweep
from .numpy_image_back import moved_back, on_diagonal, sums_back, taps_back
from .numpy_image_sides import ImageTangents, Side
from .numpy_mix import Flags
from .numpy_steps import _scale, mean_of, reads_pairs

Array = npt.NDArray[Any]


def chain(tangents: ImageTangents, side: Side, left: Found, numbers: Numbers, chunk: int) -> list[Array]:
    """Gradients of the images (n, positions, channels) of one side.

    ``left``: what pairs left for it (:meth:`Found.of_side`), which is used up. ``chunk``: images whose networks on
    (x, x) are at hand together.
    """
    for start in range(0, side.n, chunk):
        every = np.arange(start, min(start + chunk, side.n))
        _Chain(tangents, side, every, left, numbers).run()
    gradients = []
    for slot, x in enumerate(side.pixels):
        zero = np.zeros(x.shape)
        B = left.B[0].get(slot, zero[:, :, 0])
        whole = left.inputs[0].get(slot, zero) + 2 / x.shape[2] * B[:, :, None] * x
        gradients.append(whole / side.scale.reshape(-1, 1, 1) * side.unit)
    return gradients


class _Chain:
    """The way back of some images alone."""

    def __init__(self, tangents: ImageTangents, side: Side, every: Positions, left: Found, numbers: Numbers) -> None:
        self._tangents, self._side, self._every = tangents, side, every
        self._left, self._numbers = left, numbers
        self._own: Any = None
        if tangents.last_own >= 0:
            self._own = Sweep(tangents, (side, side), every, every, np.ones(len(every), np.bool_), True)

    def run(self) -> None:
        own, left = self._own, self._left
        for k in reversed(range(self._tangents.n_inputs, len(self._tangents.steps))):
            step = self._tangents.steps[k]
            if step.op.name == "store":
                continue
            pairs = None
            if own is not None and k in own.P:
                pairs, _ = own.taken(k, left)
            if k in left.means[0]:
                self._means(k)
            if reads_pairs(step.op) and not step.linear:
                self._sums(k, pairs)
            elif pairs is not None:
                own.back_step(k, pairs, None, left, self._numbers)
            if step.op.name == "norm":
                self._norm(k)
            elif isinstance(step.op.map, Attention):
                self._attention(k)
            if not step.linear and not reads_pairs(step.op) and k in left.B[0]:
                self._step(k)
        if own is not None:
            own.back_inputs(left)

    def _give(self, s: int, values: Array, kind: str = "B") -> None:
        self._left.add(0, kind, s, self._every, values)

    def _hidden(self, k: int) -> Flags | None:
        of = self._side.hidden[k]
        return None if of is None else of[self._every]

    def _of(self, kind: str, k: int) -> Array | None:
        """What a value was left; masked positions have no variance."""
        of: dict[int, Array] = getattr(self._left, kind)[0]
        if k not in of:
            return None
        hidden, found = self._hidden(k), of[k][self._every]
        return found if hidden is None or kind == "means" else np.where(hidden, 0, found)

    def _planes(self, k: int) -> list[Array]:
        return [plane[self._every] for plane in self._side.planes[k]]

    # ---- what an image has between its positions

    def _sums(self, k: int, P: Array | None) -> None:
        """Behind a pool a variance is a sum of covariances of an image with itself."""
        step, s, own = self._tangents.steps[k], self._tangents.sources(k)[0], self._planes(k)
        size = own[0].shape[1]
        count = joint.matrices(step, own).shape[1] if step.op.name == "mix" else step.positions
        fixed = np.zeros((len(self._every), count))
        for kind, factor in (("B", 1.0), ("sums", -0.5)):
            part = self._of(kind, k)
            if part is not None:
                fixed += factor * part
        scale = _scale(step, own) if step.op.name == "pool" else np.ones((1, 1))
        inner = np.zeros((*fixed.shape, fixed.shape[1]))
        if P is not None:
            P = P if P.ndim == 3 else on_diagonal(P)
            fixed -= (P.sum(axis=1) + P.sum(axis=2)) / 2
            inner += scale[:, :, None] * scale[:, None, :] * P
        inner += on_diagonal(scale**2 * fixed)
        if step.op.name == "mix":
            A = joint.matrices(step, own)
            if isinstance(step.op.map, Attention):
                self._give(k, (inner + inner.swapaxes(1, 2)) @ (A @ self._own.covariance(k)), "matrices")
            new = sums_back(step, inner, size, (A, A))
        else:
            new = sums_back(step, inner, size)
        self._covariances(s, new)

    def _covariances(self, s: int, bar: Array) -> None:
        """Derivatives in what an image has between its positions at a value, (n, P, P)."""
        if self._tangents.steps[s].linear:
            self._own.add(s, bar, None)
            return
        places = np.arange(bar.shape[1])
        alone = bar[:, places, places].copy()  # a position with itself is its variance
        bar[:, places, places] = 0
        self._give(s, alone + (bar.sum(axis=1) + bar.sum(axis=2)) / 2)
        self._own.add(s, bar, None)

    def _attention(self, k: int) -> None:
        """From matrices to the covariances that they are made of."""
        bar = self._of_matrices(k)
        if bar is None:
            return
        step, s = self._tangents.steps[k], self._tangents.sources(k)[1]
        A, (scale,), own_map = joint.matrices(step, self._planes(k)), step.numbers, step.op.map
        before = self._side.before[k]
        K = self._own.covariance(k, 1)
        moved = own_map.back(A, K, scale, None if before is None else before[self._every], bar)
        for _, place in self._tangents.wanted(k):
            self._numbers.add(place, moved * K)
        self._covariances(s, scale * moved)

    def _of_matrices(self, k: int) -> Array | None:
        of = self._left.matrices[0]
        return of[k][self._every] if k in of else None

    # ---- positions one by one

    def _norm(self, k: int) -> None:
        step, (s,), own = self._tangents.steps[k], self._tangents.sources(k), self._planes(k)
        g = own[1]
        bar, after = self._of("gains", k), None if step.linear else self._of("B", k)
        bar = np.zeros(g.shape) if bar is None else bar
        if after is not None:
            bar = bar + 2 * g * g * own[0] * after
            self._give(s, g * g * after)
        on_mean = -g * g / 2 * bar
        for _, place in self._tangents.wanted(k):
            self._numbers.add(place, on_mean)
        before = self._side.before[k]
        if step.op.map is not None:
            on_mean = step.op.map.back(on_mean, None if before is None else before[self._every])
        if self._tangents.steps[s].linear:
            self._own.add(s, on_mean, None)
        else:
            self._give(s, on_mean)

    def _step(self, k: int) -> None:
        """Variances alone, position by position."""
        step, sources, after = self._tangents.steps[k], self._tangents.sources(k), self._of("B", k)
        assert after is not None
        q, name = self._planes(k), step.op.name
        if name in ("sum", "local"):
            for s in sources:
                self._give(s, after)
            if step.op.kind == "means":
                means = q[len(sources) :]
                for s, m, has in zip(sources, means, step.op.means, strict=True):
                    if has:
                        self._give(s, 2 * after * (sum(means) - m), "means")
        elif name == "gather":
            self._give(sources[0], moved_back(step, after, q[0].shape[1]))
        elif name == "product":
            for b, s in enumerate(sources):
                self._give(s, after * math.prod(q[c] for c in range(len(sources)) if c != b))
        elif name == "embed":
            self._give(sources[0], step.numbers[0] * after)
            of = (q[0], np.diagonal(step.op.map.matrix)[None])
            for at, place in self._tangents.wanted(k):
                self._numbers.add(place, after * of[at])
        elif name == "drop":
            (keep,) = step.numbers
            self._give(sources[0], after / keep)
            for _, place in self._tangents.wanted(k):
                self._numbers.add(place, -after * q[0] / keep**2)
        elif name in WEIGHTED:
            w2, taps = step.numbers[0] if step.numbers else 1.0, step.taps.shape[1]
            back, mean = after, q[0]
            if name != "dense":
                back, mean = taps_back(step, after, q[0].shape[1]) / taps, mean_of(step, q[0])
            for at, place in self._tangents.wanted(k):
                if at < 2:
                    self._numbers.add(place, after * mean if at == 0 else after)
            self._give(sources[0], w2 * back)
        elif name != "norm":
            V = self._tangents.layer(k).variance(Jet(q[0], {"q": q[0]}))
            for _, place in self._tangents.wanted(k):
                self._numbers.add(place, np.broadcast_to(after * slope_of(V, place), after.shape))
            self._give(sources[0], over(slope_of(V, "q"), q[0]) * after)

    # ---- means

    def _means(self, k: int) -> None:
        """From the mean of a value to those of its sources: what :func:`.numpy_steps.mean_behind` says, backwards."""
        step, sources, own = self._tangents.steps[k], self._tangents.sources(k), self._planes(k)
        name, M, means = step.op.name, self._of("means", k), self._side.means(self._tangents)
        assert M is not None
        before = [means[s][self._every] if s in means else None for s in sources]
        if is_dual(name):
            mean = self._tangents.layer(k).mean(Jet(own[0], {"q": own[0]}))
            for _, place in self._tangents.wanted(k):
                self._numbers.add(place, np.broadcast_to(M * slope_of(mean, place), M.shape))
            self._give(sources[0], over(slope_of(mean, "q"), own[0]) * M)
            return
        if all(m is None for m in before):
            return
        given = [M] * len(sources)
        if name == "sum" and step.op.means:
            given = [M if has else np.zeros(M.shape) for has in step.op.means]
        elif name == "product":
            of = [np.zeros(M.shape) if m is None else m for m in before]
            given = [M * math.prod(m for c, m in enumerate(of) if c != b) for b in range(len(of))]
        elif name == "pool":
            given = [taps_back(step, np.broadcast_to(_scale(step, own) * M, M.shape), self._size(sources[0]))]
        elif name == "gather":
            given = [moved_back(step, M, self._size(sources[0]))]
        elif name == "mix":
            A = joint.matrices(step, own)
            given = [(A.swapaxes(1, 2) @ M[:, :, None])[:, :, 0]]
        elif name in WEIGHTED:
            w2, taps = step.numbers[0] if step.numbers else 1.0, step.taps.shape[1]
            root = math.sqrt(w2)
            back, mean = M, before[0]
            if name != "dense":
                back = taps_back(step, M, self._size(sources[0])) / taps
                mean = None if mean is None else mean_of(step, mean)
            given = [root * back]
            for at, place in self._tangents.wanted(k):
                if at == 0 and mean is not None:
                    self._numbers.add(place, over(M * mean, 2 * root))
        for s, values in zip(sources, given, strict=False):
            if s >= self._tangents.n_inputs:
                self._give(s, values, "means")

    def _size(self, s: int) -> int:
        """Positions of a value that no input is."""
        return int(self._side.means(self._tangents)[s].shape[1])
