"""Layers that normalise or drop: LayerNorm and Dropout."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..base.checks import finite, integer
from ..base.libraries import placed
from .layer import Layer, Placed, Shape, keyword
from .maps import Mean
from .program import Builder, Value, Values


@dataclass(frozen=True)
class LayerNorm(Placed):
    """Takes away the mean and divides by the standard deviation, over channels, and over positions where asked to.

    Parameters
    ----------
    axis : int or sequence of int
        The axes of mean and deviation: the channels', and any others but the samples'.
    eps : float
        Added to the variance, at least 0.
    batch_axis, channel_axis : int
        Axes of samples and features in the inputs.

    Raises
    ------
    NotImplementedError
        For the axis of samples, on the network's input, and on values whose mean is not 0, such as the output of Relu.
    ValueError
        For axes without the channels', a negative or non-finite ``eps``.

    Notes
    -----
    ``K' = K / (s s')``, ``NTK' = NTK / (s s')`` with ``s^2 = K(x, x) + eps``, K averaged over the positions along
    ``axis`` that are not masked: correlations stay as they are, to the last digit. It has no parameters of its own. A
    value of variance 0 stays 0.

    References
    ----------
    Ba, Kiros and Hinton (2016), arXiv:1607.06450.
    """

    axis: int | tuple[int, ...] = -1
    eps: float = 1e-12
    batch_axis: int = 0
    channel_axis: int = -1

    def __post_init__(self) -> None:
        axes = self.axis if isinstance(self.axis, Sequence) else [self.axis]
        object.__setattr__(self, "axis", tuple(integer("LayerNorm", "axis", a, least=None) for a in axes))
        object.__setattr__(self, "eps", finite("LayerNorm", "eps", self.eps))
        if self.eps < 0:
            raise ValueError(f"[LayerNorm] eps must not be negative, given {self.eps}")
        self._check_axes()

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        axes = tuple(operator.index(a) % inputs.ndim for a in self._axes)
        count = 1
        for a in axes:
            count *= inputs.shape[a]
        centred = inputs - inputs.sum(axes, keepdims=True) / count
        return centred / ((centred * centred).sum(axes, keepdims=True) / count + self.eps) ** 0.5

    @property
    def _axes(self) -> tuple[int, ...]:
        assert isinstance(self.axis, tuple)
        return self.axis

    def lower(self, builder: Builder, values: Values) -> Value:
        value = builder.one(values)
        builder.check_axes(value, self.batch_axis, self.channel_axis)
        rank = 2 + len(value.spatial)
        if not all(-rank <= a < rank for a in self._axes):
            raise ValueError(f"[{builder.where}] has axis = {self._axes}, given values of {rank} axes")
        axes = {a % rank for a in self._axes}
        if value.channel_axis not in axes:
            raise ValueError(
                f"[{builder.where}] has axis = {self._axes}, without the channels' axis {value.channel_axis}: only a "
                "mean over channels has a limit"
            )
        if value.batch_axis in axes:
            raise NotImplementedError(
                f"[{builder.where}] has axis = {self._axes}, with the samples' axis {value.batch_axis}: a kernel would "
                "depend on all samples of a call"
            )
        if not value.gaussian and not value.weights:
            raise NotImplementedError(
                f"[{builder.where}] normalises outputs of layers, given the network's input, or a kernel to continue "
                "that is not Gaussian: put a Dense layer before it"
            )
        if value.mean:
            raise NotImplementedError(
                f"[{builder.where}] takes values whose mean over channels is 0, which that of the nonlinearity before "
                "it is not: put a Dense layer between them"
            )
        names = [a for a in range(rank) if a not in (value.batch_axis, value.channel_axis)]
        over = tuple(k for k, a in enumerate(names) if a in axes)
        return builder.emit("norm", value, params=(self.eps,), map=Mean(value.spatial, over) if over else None)


@dataclass(frozen=True)
class Dropout(Layer):
    """Sets entries to 0 at random, and divides the others by the rate at which they are kept.

    Parameters
    ----------
    rate : float
        Of entries that are KEPT, above 0 and at most 1.
    mode : 'train' or 'test'
        'test': the layer is the identity.

    Raises
    ------
    ValueError
        For a rate outside (0, 1], another mode; on the network's input.

    Notes
    -----
    ``K' = K / rate`` and ``NTK' = NTK / rate`` of a position of a sample with itself; all else stays, draws being
    independent. A sample meets itself where x2 is None, and nowhere else: not where equal rows stand in x1 and x2. The
    result is not Gaussian. ``apply_fn`` draws by ``rng``, a Generator or an integer seed, and is the identity in mode
    'test'.

    References
    ----------
    Srivastava et al. (2014), JMLR 15; Schoenholz et al. (2017), arXiv:1611.01232, section 4.
    """

    rate: float
    mode: str = "train"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", finite("Dropout", "rate", self.rate))
        if not 0 < self.rate <= 1:
            raise ValueError(
                f"[Dropout] rate must be above 0 and at most 1, it is that of what is kept, given {self.rate}"
            )
        if self.mode not in ("train", "test"):
            raise ValueError(f"[Dropout] mode must be 'train' or 'test', given {self.mode!r}")

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        if self.mode == "test" or self.rate == 1:
            return inputs
        rng = keyword("rng", "Dropout", "to draw by, a numpy.random.Generator, an integer seed or a key of JAX's")
        kept = rng.random(tuple(inputs.shape)) < self.rate
        return inputs * xp.asarray(kept / self.rate, dtype=inputs.dtype, **placed(inputs))

    def lower(self, builder: Builder, values: Values) -> Values:
        value = builder.one(values)
        if self.mode == "test":
            return value
        if not value.weights and not value.gaussian:
            raise ValueError(f"[{builder.where}] drops outputs of layers, given the network's input")
        return builder.emit("drop", value, params=(self.rate,), gaussian=False)
