"""Attention between all positions of a sample: GlobalSelfAttention."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..base.checks import integer
from ..base.libraries import placed
from .layer import Placed, Shape, is_one
from .maps import Attention, Constant, Embedding, Gather, Whole
from .program import Builder, Value, Values
from .weights import std
from .window import Window


class AttentionMechanism(enum.Enum):
    """What dot products of keys and queries go through: the argument of :class:`GlobalSelfAttention`."""

    SOFTMAX = "SOFTMAX"
    IDENTITY = "IDENTITY"
    ABS = "ABS"
    RELU = "RELU"


class PositionalEmbedding(enum.Enum):
    """What becomes of embeddings of positions: the argument of :class:`GlobalSelfAttention`."""

    NONE = "NONE"
    SUM = "SUM"
    CONCAT = "CONCAT"


@dataclass(frozen=True)
class GlobalSelfAttention(Placed):
    """Self-attention of many heads over all positions of a sample.

    Parameters
    ----------
    n_chan_out, n_chan_key, n_chan_val, n_heads : int
        Widths of outputs, keys and values of one head, and the number of heads; kernels ignore them.
    linear_scaling : bool
        True: dot products are divided by ``n_chan_key``, and keys and queries share their weights. False: by its root,
        with weights of their own; kernels then of 'IDENTITY' alone.
    W_key_std, W_value_std, W_query_std, W_out_std : float
        Standard deviations of the weights.
    b_std : float or None
        Of the biases behind the output weights.
    attention_mechanism : 'SOFTMAX', 'IDENTITY', 'ABS' or 'RELU'
    pos_emb_type : 'NONE', 'SUM' or 'CONCAT'
    pos_emb_p_norm : float
        Positions are at a distance ``sum over axes of |i - j|^p``.
    pos_emb_decay_fn : callable, optional
        Covariance of embeddings by that distance; None: they are independent.
    n_chan_pos_emb : int, optional
        Channels of the embeddings, with CONCAT; None: as many as the inputs have.
    W_pos_emb_std : float
        Standard deviation of the embeddings, which are trained.
    val_pos_emb : bool
        Whether values have embeddings too.
    batch_axis, channel_axis : int
    allowed : array (positions, positions) of bool, optional
        Which position (row) may attend to which (column), positions numbered through: ``numpy.tri(n)`` is causal. New
        here.

    Raises
    ------
    ValueError
        For inputs without positions, widths below 1, negative deviations, unknown mechanisms, ``allowed`` of another
        shape.
    NotImplementedError
        Kernels of other mechanisms without ``linear_scaling``, which have no closed form.

    Notes
    -----
    With ``I(K) = K``, ``K + W_pos^2 R`` (SUM) or ``(n K + n_pos W_pos^2 R) / (n + n_pos)`` (CONCAT), R the covariance
    of embeddings, Z = K or, with ``val_pos_emb``, I(K), and Z' and I' the same of the NTK:

    linear scaling: ``G = mechanism(W_key W_query I(K(x, x)))`` of each sample, ``K' = (W_value W_out)^2 G Z G'^T +
    b_std^2``, ``NTK' = (W_value W_out)^2 G Z' G'^T + b_std^2 + 2 (K' - b_std^2)``. Else, with S the square of all four
    deviations' product and ``<A, B>`` the sum of all products of entries: ``K' = S <I(K), Z> I(K) + b_std^2``, ``NTK' =
    S ((<I', Z> + <I(K), Z'>) I(K) + <I(K), Z> (I' + 4 I(K))) + b_std^2``. All pairs of positions are needed.

    References
    ----------
    Hron, Bahri, Sohl-Dickstein and Novak (2020), arXiv:2006.10540.
    """

    rigid: ClassVar[tuple[str, ...]] = ("pos_emb_p_norm",)

    n_chan_out: int
    n_chan_key: int
    n_chan_val: int
    n_heads: int
    linear_scaling: bool = True
    W_key_std: float = 1.0
    W_value_std: float = 1.0
    W_query_std: float = 1.0
    W_out_std: float = 1.0
    b_std: float | None = None
    attention_mechanism: Any = "SOFTMAX"
    pos_emb_type: Any = "NONE"
    pos_emb_p_norm: float = 2
    pos_emb_decay_fn: Callable[[Any], Any] | None = None
    n_chan_pos_emb: int | None = None
    W_pos_emb_std: float = 1.0
    val_pos_emb: bool = False
    batch_axis: int = 0
    channel_axis: int = -1
    allowed: Any = None

    def __post_init__(self) -> None:
        name = "GlobalSelfAttention"
        for field in ("n_chan_out", "n_chan_key", "n_chan_val", "n_heads"):
            object.__setattr__(self, field, integer(name, field, getattr(self, field)))
        for field in ("W_key_std", "W_value_std", "W_query_std", "W_out_std", "W_pos_emb_std"):
            object.__setattr__(self, field, std(name, field, getattr(self, field)))
        if self.b_std is not None:
            object.__setattr__(self, "b_std", std(name, "b_std", self.b_std))
        for field, kind in (("attention_mechanism", AttentionMechanism), ("pos_emb_type", PositionalEmbedding)):
            given = str(getattr(getattr(self, field), "value", getattr(self, field))).upper()
            if given not in kind.__members__:
                raise ValueError(
                    f"[{name}] {field} must be one of {list(kind.__members__)}, given {getattr(self, field)!r}"
                )
            object.__setattr__(self, field, given)
        std(name, "pos_emb_p_norm", self.pos_emb_p_norm)
        if self.pos_emb_decay_fn is not None and not callable(self.pos_emb_decay_fn):
            raise TypeError(
                f"[{name}] pos_emb_decay_fn must be a function of the distance, given {self.pos_emb_decay_fn!r}"
            )
        if self.n_chan_pos_emb is not None:
            object.__setattr__(self, "n_chan_pos_emb", integer(name, "n_chan_pos_emb", self.n_chan_pos_emb))
        if self.allowed is not None and not isinstance(self.allowed, Constant):
            allowed = np.asarray(self.allowed)
            if allowed.ndim != 2 or allowed.shape[0] != allowed.shape[1]:
                raise ValueError(f"[{name}] allowed must be a square of positions, given shape {allowed.shape}")
            object.__setattr__(self, "allowed", Constant.of(allowed != 0))
        for field in ("linear_scaling", "val_pos_emb"):
            object.__setattr__(self, field, bool(getattr(self, field)))
        self._check_axes()

    def output_shape(self, shape: Shape) -> Shape:
        if not is_one(shape):
            raise ValueError(f"[GlobalSelfAttention] takes one input, given shapes {shape}")
        axis = self.channel_axis % len(shape)
        return (*shape[:axis], self.n_chan_out, *shape[axis + 1 :])

    # ---- the finite network

    def _embedded(self, channels: int, what: str) -> int:
        """Channels of the embeddings."""
        if self.pos_emb_type == "NONE":
            return 0
        count = channels if self.n_chan_pos_emb is None else self.n_chan_pos_emb
        if self.pos_emb_type == "SUM" and count != channels:
            raise ValueError(f"[{what}] n_chan_pos_emb = {count} embeddings are added to {channels} channels")
        return count

    def init(self, rng: np.random.Generator, shape: Shape, dtype: Any) -> Any:
        axis, batch = self.channel_axis % len(shape), self.batch_axis % len(shape)
        channels = shape[axis]
        if channels < 1:
            raise ValueError(f"[GlobalSelfAttention] needs to know its number of input channels, given shape {shape}")
        extra = self._embedded(channels, "GlobalSelfAttention")
        wide = channels + extra if self.pos_emb_type == "CONCAT" else channels

        def draw(*size: int) -> Any:
            return rng.standard_normal(size).astype(dtype)

        places = [extra if a == axis else 1 if a == batch else n for a, n in enumerate(shape)]
        queries = None if self.linear_scaling else draw(self.n_heads, wide, self.n_chan_key)
        keys = draw(self.n_heads, wide, self.n_chan_key)
        values = draw(self.n_heads, wide if self.val_pos_emb else channels, self.n_chan_val)
        out = draw(self.n_chan_val * self.n_heads, self.n_chan_out)
        b = None if self.b_std is None else draw(*(self.n_chan_out if a == axis else 1 for a in range(len(shape))))
        return queries, keys, values, out, b, None if self.pos_emb_type == "NONE" else draw(*places)

    def apply(self, params: Any, inputs: Any, xp: Any) -> Any:
        if not isinstance(params, (tuple, list)) or len(params) != 6:
            raise ValueError("[GlobalSelfAttention] params must be six arrays or None, as init_fn makes them")
        queries, keys, values, out, b, embeddings = params
        axes = (self.batch_axis % inputs.ndim, self.channel_axis % inputs.ndim)
        x = xp.moveaxis(inputs, axes, (0, -1))
        spatial = tuple(x.shape[1:-1])
        size = math.prod(spatial)
        x = plain = xp.reshape(x, (x.shape[0], size, x.shape[-1]))
        if embeddings is not None:
            e = xp.reshape(xp.moveaxis(embeddings, axes, (0, -1)), (1, size, -1))
            if self.pos_emb_decay_fn is not None:
                root = np.linalg.cholesky(Embedding(spatial, self.pos_emb_p_norm, self.pos_emb_decay_fn).matrix)
                e = xp.matmul(xp.asarray(root, dtype=x.dtype, **placed(x)), e)
            e = self.W_pos_emb_std * e
            if self.pos_emb_type == "SUM":
                x = x + e
            else:
                x = xp.concatenate([x, xp.broadcast_to(e, (x.shape[0], size, e.shape[-1]))], axis=-1)
        read = x if self.val_pos_emb else plain
        k = xp.matmul(x[None], keys[:, None])  # heads first
        q = k if queries is None else xp.matmul(x[None], queries[:, None])
        power = 1.0 if self.linear_scaling else 0.5
        weights = xp.matmul(q, xp.moveaxis(k, -1, -2))
        weights = weights * (self.W_key_std * self.W_query_std / (x.shape[-1] * self.n_chan_key**power))
        heads = xp.matmul(self._weighted(weights, xp), xp.matmul(read[None], values[:, None]))
        heads = xp.reshape(xp.moveaxis(heads, 0, -1), (x.shape[0], size, -1))
        z = xp.matmul(heads, out) * (
            self.W_out_std * self.W_value_std / math.sqrt(self.n_chan_val * self.n_heads * read.shape[-1])
        )
        z = xp.moveaxis(xp.reshape(z, (z.shape[0], *spatial, self.n_chan_out)), (0, -1), axes)
        return z if b is None else z + self.b_std * b

    def _weighted(self, k: Any, xp: Any) -> Any:
        """What the mechanism makes of dot products."""
        barred = None
        if self.allowed is not None:
            barred = xp.asarray(self.allowed.array == 0, **placed(k))
        if self.attention_mechanism == "SOFTMAX":
            if barred is not None:
                k = xp.where(barred, xp.full_like(k, -1e30), k)
            k = xp.exp(k - xp.max(k, axis=-1, keepdims=True))
            return k / xp.sum(k, axis=-1, keepdims=True)
        if self.attention_mechanism == "ABS":
            k = xp.abs(k)
        elif self.attention_mechanism == "RELU":
            k = xp.where(k > 0, k, xp.zeros_like(k))
        return k if barred is None else xp.where(barred, xp.zeros_like(k), k)

    # ---- the infinite one

    def lower(self, builder: Builder, values: Values) -> Value:
        value = builder.one(values)
        builder.check_axes(value, self.batch_axis, self.channel_axis)
        if not value.spatial:
            raise ValueError(f"[{builder.where}] attends to positions, given inputs without spatial axes")
        size = math.prod(value.spatial)
        if self.allowed is not None and self.allowed.shape[0] != size:
            raise ValueError(
                f"[{builder.where}] allowed has shape {self.allowed.shape}, given inputs of {size} positions, "
                f"{value.spatial}"
            )
        whole = self._interpolated(builder, value)
        read = whole if self.val_pos_emb else value
        b2 = (self.b_std or 0.0) ** 2
        out: dict[str, Any] = {"gaussian": True, "channels": self.n_chan_out}
        if self.linear_scaling:
            own = Attention(self.attention_mechanism, size, self.allowed)
            mixed = builder.emit("mix", read, whole, params=(self.W_key_std * self.W_query_std,), map=own)
            w2 = (self.W_value_std * self.W_out_std) ** 2
            return builder.emit("dense", mixed, params=(w2, b2, 2 * w2, b2), **out)
        if self.attention_mechanism != "IDENTITY" or self.allowed is not None:
            raise NotImplementedError(
                f"[{builder.where}] has no closed form with {self.attention_mechanism}"
                f"{' and allowed' if self.allowed is not None else ''} where dot products are divided by the root of "
                "n_chan_key: attention_mechanism='IDENTITY' has one, or linear_scaling=True"
            )
        ones = (1,) * len(value.spatial)
        window = Window.of(builder.where, value.spatial, value.spatial, ones, ones, "VALID")
        product = builder.emit("product", whole, read, gaussian=False)
        dot = builder.emit("pool", product, params=(1.0,), window=window, map=Whole(False), spatial=ones)
        dots = builder.emit("gather", dot, map=Gather.of(np.zeros(size), 1), spatial=value.spatial)
        w2 = (self.W_key_std * self.W_query_std * self.W_value_std * self.W_out_std) ** 2
        product = builder.emit("product", dots, whole, gaussian=False)
        return builder.emit("dense", product, params=(w2, b2, 4 * w2, b2), **out)

    def _interpolated(self, builder: Builder, value: Value) -> Value:
        """Inputs with their embeddings."""
        extra = self._embedded(value.channels, builder.where)
        if self.pos_emb_type == "NONE":
            return value
        a, c = 1.0, self.W_pos_emb_std**2
        if self.pos_emb_type == "CONCAT":
            a, c = value.channels / (value.channels + extra), c * extra / (value.channels + extra)
        own = Embedding(value.spatial, float(self.pos_emb_p_norm), self.pos_emb_decay_fn)
        return builder.emit("embed", value, params=(a, c), map=own)
