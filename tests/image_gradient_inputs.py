"""Networks on images whose gradients are known to 16 digits, and others of all kinds of layers."""

from __future__ import annotations

import numpy as np
from fastntk import stax
from fastntk.stax import Conv, Dense, Erf, Flatten, GlobalAvgPool, Relu, serial

# Of one pair of images (4, 4, 1): the value and derivatives, of NNGP and NTK; from closed forms in 40 to 70 digits.
VALUES = {
    "SAME GAP": {
        "value": (0.1813170101740032, 0.2729706917444899),
        "x1[0,0]": (0.00833033343796255, 0.01092406243133099),
        "x1[1,2]": (0.005661816867523726, 0.006740626159483668),
        "x2[3,1]": (-0.01304112262157283, -0.01744077780104058),
        "W1": (0.1578084655671631, 0.2032203492769276),
        "W2": (0.1910942696362561, 0.2703191021789449),
        "W3": (0.3626340203480064, 0.5459413834889798),
        "b1": (0.1488586411684621, 0.300074745388744),
        "b2": (0.2921499073288608, 0.5175144645909542),
    },
    "SAME Flatten": {
        "value": (0.2054961532186832, 0.3304345377687323),
        "x1[0,0]": (0.009107773143535218, 0.01155289638505842),
        "x1[1,2]": (0.006724554586739263, 0.00888814863026325),
        "x2[3,1]": (-0.01133522396438811, -0.009102261021845552),
        "W1": (0.1828695433182667, 0.2557663132486182),
        "W2": (0.2241933968497972, 0.3468322589381688),
        "W3": (0.4109923064373664, 0.6608690755374645),
        "b1": (0.184805891177494, 0.4072592899942782),
        "b2": (0.2970484382224931, 0.5387704983171444),
    },
    "CIRCULAR GAP": {
        "value": (0.3373039586787996, 0.5326678885990896),
        "x1[0,0]": (0.02730367882702572, 0.03480335739453374),
        "x1[1,2]": (0.005305843963018938, 0.0002874201866429773),
        "x2[3,1]": (-0.03132012859065265, -0.04484067434580005),
        "W1": (0.3532553130336372, 0.510299988572385),
        "W2": (0.4114161625255266, 0.6355757386091927),
        "W3": (0.6746079173575991, 1.065335777198179),
        "b1": (0.2601032261859975, 0.5602501860291476),
        "b2": (0.2933885335342938, 0.5265064160523352),
    },
    "VALID 2 GAP": {
        "value": (0.3327170401355606, 0.5091794202783991),
        "x1[0,0]": (0.008516129522435351, 0.01389303498144031),
        "x1[1,2]": (0.02702476157972194, 0.05173353729735374),
        "x2[3,1]": (-0.0210869953071424, -0.02678821576793021),
        "W1": (0.3464009437214166, 0.4761613588765639),
        "W2": (0.4050320277159776, 0.6028794193186935),
        "W3": (0.6654340802711212, 1.018358840556798),
        "b1": (0.2622061788126764, 0.5667003942510577),
        "b2": (0.2929290322810491, 0.5241746838633385),
    },
    "AvgPool inside, Erf": {
        "value": (0.08615500134895827, 0.1590817956774979),
        "x1[0,0]": (-8.447424835982028e-05, -0.0005249066295442409),
        "x1[1,2]": (0.004326223354795148, 0.01482758443340183),
        "x2[3,1]": (0.0031595540802786, 0.01418568075034589),
        "W1": (-0.01157739763683112, -0.05217622180059717),
        "W2": (0.05376112512358953, 0.09745219139671987),
        "W3": (0.1723100026979165, 0.3181635913549958),
        "b1": (0.1548260554944395, 0.4131545123991064),
        "b2": (0.3044650115087387, 0.5703021681820728),
    },
    "stride 2 Flatten": {
        "value": (0.1685570605181013, 0.2938899442175993),
        "x1[0,0]": (0.003199326427050497, 0.003746193233455681),
        "x1[1,2]": (0.002782972952748647, 0.003434217083482685),
        "x2[3,1]": (-0.004832231553189302, -0.002459768328125781),
        "W1": (0.1357369229884531, 0.2095902340593192),
        "W2": (0.1706823805883233, 0.2903796551992339),
        "W3": (0.3371141210362026, 0.5877798884351986),
        "b1": (0.1562808373962928, 0.3613012750634155),
        "b2": (0.3027336427661198, 0.5601059136780165),
    },
}  # fmt: skip
H, W = np.arange(4.0)[:, None], np.arange(4.0)[None, :]
X1, X2 = np.cos(H + 2 * W)[None, :, :, None], np.sin(2 * H - W)[None, :, :, None]


def held(name):
    """Conv, nonlinearity, Conv, Relu, readout, Dense without bias."""
    same = {"filter_shape": (3, 3), "padding": "SAME"}
    first = second = same
    phi, inner = Relu(), ()
    if name == "CIRCULAR GAP":
        first = second = {"filter_shape": (3, 3), "padding": "CIRCULAR"}
    if name == "VALID 2 GAP":
        first = second = {"filter_shape": (2, 2), "padding": "VALID"}
    if name == "stride 2 Flatten":
        first, second = same | {"strides": (2, 2)}, {"filter_shape": (2, 2), "padding": "SAME"}
    if name == "AvgPool inside, Erf":
        phi, inner, second = Erf(), (stax.AvgPool((2, 2), (2, 2)),), {"filter_shape": (2, 2), "padding": "SAME"}
    stds = {"W_std": 2**0.5, "b_std": 0.1**0.5}
    readout = GlobalAvgPool() if name.endswith("GAP") else Flatten()
    return serial(Conv(1, **first, **stds), phi, *inner, Conv(1, **second, **stds), Relu(), readout, Dense(1, 1.0))


def conv(phi=None, shape=(3, 3), strides=None, padding="SAME", b_std=0.3, **keywords):
    return serial(Conv(4, shape, strides, padding, 1.3, b_std, **keywords), phi or Relu())


def branches():
    inner = serial(conv(Erf()), Conv(4, (3, 3), padding="SAME"))
    joined = (stax.FanOut(2), stax.parallel(inner, Conv(4, (1, 1), padding="SAME")), stax.FanInSum())
    return serial(conv(), *joined, Relu(), stax.AvgPool((2, 2), (2, 2)), Flatten(), Dense(2))


PAIRS_OF_POOLS = serial(
    conv(), stax.AvgPool((3, 2), (2, 1), "CIRCULAR"), conv(), stax.SumPool((2, 2), (1, 1), "SAME"),
    Conv(3, (2, 2), b_std=0.1), Relu(), GlobalAvgPool(), Dense(4, 1.0, 0.2), Relu(), Dense(3),
)  # fmt: skip
BOTH_READOUTS = stax.parallel(
    serial(Flatten(), Dense(3)), serial(conv(), GlobalAvgPool(), Dense(3)), serial(GlobalAvgPool(), Dense(3))
)
NETWORKS = {
    "readouts": serial(conv(), stax.FanOut(3), BOTH_READOUTS, stax.FanInSum(), Dense(2)),
    "arguments": serial(conv(stax.ABRelu(0.2, 1.1)), conv(Erf(1.2, 0.8, 0.3)), GlobalAvgPool(), Dense(2, 1.1, 0.2)),
    "edges": serial(
        conv(stax.Gelu()), stax.AvgPool((2, 2), (1, 1), "SAME", normalize_edges=True), conv(stax.Sin(1.1, 0.7, 0.4)),
        Flatten(), Dense(2, 1.1, 0.2), Relu(), Dense(3),
    ),
    "pools": PAIRS_OF_POOLS,
    "standard": serial(
        conv(parameterization="standard"), conv(parameterization="standard", b_std=0.2), GlobalAvgPool(),
        Dense(2, 1.1, 0.2, parameterization="standard"),
    ),
    "branches": branches(),
    "no biases": serial(conv(b_std=None), conv(b_std=None), stax.AvgPool((2, 2), (2, 2)), conv(b_std=None), Flatten()),
    "dilated": serial(conv(shape=(2, 2), padding="VALID", dilation=(2, 1)), conv(strides=(2, 1)), Flatten(), Dense(1)),
    "positions": serial(conv(), stax.AvgPool((2, 2), (2, 2)), conv()),
    "linear positions": serial(conv(), stax.AvgPool((2, 2), (2, 2)), Conv(2, (2, 2), padding="SAME", b_std=0.3)),
}  # fmt: skip
