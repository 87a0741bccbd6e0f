"""Inputs and networks of layers beyond Dense and Conv, and the kernels that they have, to 12 digits.

The numbers are Neural Tangents' 0.6.5 in float64, of the layers that it has right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from fastntk import stax
from fastntk.stax import Conv, Dense, Erf, Flatten, Gelu, GlobalAvgPool, Relu, serial

A, B = np.array([[1, 0.5, -0.25, 2]]), np.array([[0.5, -1, 0.75, 1]])
_h, _w = np.mgrid[:4, :4]
IMAGE1, IMAGE2 = np.cos(_h + 2 * _w)[None, ..., None], np.sin(2 * _h - _w)[None, ..., None]
_t = np.arange(4.0)
TEXT1 = np.stack([np.cos(_t), np.sin(2 * _t + 1)], -1)[None]
TEXT2 = np.stack([np.sin(_t), np.cos(3 * _t)], -1)[None]
GRAPH1 = np.array([[[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]])
GRAPH2 = np.array([[[1, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 1]]])


def dense(out: int = 1) -> Any:
    return Dense(out, 1.3, 0.2)


def conv(out: int = 1) -> Any:
    return Conv(out, (3, 3), padding="SAME", W_std=1.4, b_std=0.1)


def branches(*layers: Any, join: Any) -> Any:
    return serial(stax.FanOut(len(layers)), stax.parallel(*layers), join)


def read_out(net: Any, pool: bool) -> Any:
    return serial(net, GlobalAvgPool() if pool else Flatten(), Dense(1))


def attention(out: int = 1, key: int = 1, value: int = 1, heads: int = 1, **changes: Any) -> Any:
    return stax.GlobalSelfAttention(
        out, key, value, heads, W_key_std=1.1, W_query_std=0.9, W_value_std=0.8, W_out_std=1.2, b_std=0.3, **changes
    )


def attending(**changes: Any) -> Any:
    return serial(Dense(1, 1.3), attention(**changes), Relu(), GlobalAvgPool(), Dense(1))


def decay(d: Any) -> Any:
    return np.exp(-d)


def _masked(x: Any, start: int, constant: float) -> Any:
    return np.where(np.arange(4)[None, :, None] < start, x, constant)


_text = serial(*2 * [Conv(1, (3,), padding="SAME", W_std=1.4, b_std=0.1), Relu()])
_nan = {"mask_constant": np.nan}
_local = stax.ConvLocal(1, (3, 3), padding="SAME", W_std=1.4, b_std=0.1)
_spread = stax.ConvTranspose(1, (3, 3), (2, 2), padding="SAME", W_std=1.4, b_std=0.1)
_norm = serial(conv(), stax.LayerNorm((1, 2, 3), 1e-6), Relu())
_small = {"padding": "SAME", "W_std": 1.4, "b_std": 0.1, "parameterization": "standard"}

# network, x1, x2, keywords of the call, NNGP, NTK
NUMBERS: dict[str, tuple[Any, Any, Any, dict[str, Any], float, float]] = {
    "LayerNorm": (
        serial(*2 * [dense(), stax.LayerNorm(eps=1e-6), Gelu()], Dense(1)), A, B, {}, 0.242786764235, 0.561414597819),
    "FanInProd": (
        serial(branches(serial(dense(), Relu()), serial(Dense(1, 0.7, 0.1), Erf()), join=stax.FanInProd()), dense(),
               Relu(), Dense(1)), A, B, {}, 0.126075852022, 0.236107368446),
    "FanInConcat": (
        serial(branches(serial(dense(3), Relu()), serial(Dense(5, 0.7, 0.1), Erf()), join=stax.FanInConcat()), dense(),
               Relu(), Dense(1)), A, B, {}, 0.298182468036, 0.589384256057),
    "repeat": (serial(stax.repeat(serial(dense(4), Gelu()), 4), Dense(1)), A, B, {}, 0.200976913667, 0.661991660524),
    "ConvLocal, Flatten": (
        read_out(serial(conv(), Relu(), _local, Relu()), False), IMAGE1, IMAGE2, {}, 0.132826657793, 0.192890417946),
    "ConvLocal, pool": (
        read_out(serial(conv(), Relu(), _local, Relu()), True), IMAGE1, IMAGE2, {}, 0.0834178981233, 0.0871718831329),
    "ConvTranspose, Flatten": (
        read_out(serial(conv(), Relu(), _spread, Relu()), False), IMAGE1, IMAGE2, {}, 0.0418596183534, 0.0618989875834),
    "ConvTranspose, pool": (
        read_out(serial(conv(), Relu(), _spread, Relu()), True), IMAGE1, IMAGE2, {}, 0.0286598028914, 0.0347511112269),
    "LayerNorm over positions, Flatten": (
        read_out(serial(_norm, _norm), False), IMAGE1, IMAGE2, {}, 0.255401385545, 0.370041312399),
    "LayerNorm over positions, pool": (
        read_out(serial(_norm, _norm), True), IMAGE1, IMAGE2, {}, 0.22083927417, 0.295575228873),
    "ImageResize, Flatten": (
        read_out(serial(conv(), Relu(), conv(), stax.ImageResize((-1, 6, 6, -1), "linear"), Relu()), False), IMAGE1,
        IMAGE2, {}, 0.105813407646, 0.166826601316),
    "ImageResize, pool": (
        read_out(serial(conv(), Relu(), conv(), stax.ImageResize((-1, 6, 6, -1), "LINEAR"), Relu()), True), IMAGE1,
        IMAGE2, {}, 0.0913799360134, 0.133661746713),
    "Index": (
        read_out(serial(*2 * [conv(), Relu()], stax.Index(stax.Slice[:, 1:3, :])), False), IMAGE1, IMAGE2, {},
        0.162266295788, 0.235235433718),
    "ConvLocal, standard": (
        read_out(serial(stax.ConvLocal(4, (3, 3), s=(2, 3), **_small), Relu()), False), IMAGE1, IMAGE2, {},
        0.116203104573, 0.384544432186),
    "ConvTranspose, standard": (
        read_out(serial(stax.ConvTranspose(4, (3, 3), (2, 2), **_small), Relu()), False), IMAGE1, IMAGE2, {},
        0.0454178885044, 0.427586191785),
    "attention, SOFTMAX": (attending(), TEXT1, TEXT2, {}, 0.117996145673, 0.255551382457),
    "attention, IDENTITY": (
        attending(attention_mechanism="IDENTITY"), TEXT1, TEXT2, {}, 1.05717462736, 2.18972853631),
    "attention, ABS": (
        attending(attention_mechanism=stax.AttentionMechanism.ABS), TEXT1, TEXT2, {}, 0.362935807956, 0.983759136187),
    "attention, RELU": (attending(attention_mechanism="relu"), TEXT1, TEXT2, {}, 0.529697255962, 1.26585277797),
    "attention, embeddings": (
        attending(pos_emb_type="SUM", pos_emb_decay_fn=decay, W_pos_emb_std=0.7, val_pos_emb=True), TEXT1, TEXT2, {},
        0.219225898087, 0.508089107145),
    "attention, square root": (
        attending(linear_scaling=False, attention_mechanism="IDENTITY"), TEXT1, TEXT2, {}, 1.67119401477,
        5.44119223553),
    "Aggregate": (
        serial(*2 * [dense(), stax.Aggregate(), Relu()], GlobalAvgPool(), Dense(1)), TEXT1, TEXT2,
        {"pattern": (GRAPH1, GRAPH2)}, 2.54248706099, 5.54865100035),
    "masks, pool": (
        serial(_text, GlobalAvgPool(), Dense(1)), _masked(TEXT1, 3, np.nan), _masked(TEXT2, 2, np.nan), _nan,
        0.157891183997, 0.258996574751),
    "masks, Flatten": (
        serial(_text, Flatten(), Dense(1)), _masked(TEXT1, 3, np.nan), _masked(TEXT2, 2, np.nan), _nan, 0.0982043227928,
        0.183704051458),
}  # fmt: skip

# Twelve digits of numbers that are printed to twelve, or some to eleven.
PRINTED = 6e-12
