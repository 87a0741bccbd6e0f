"""Pruning of node-scaled networks: the nodes of small variance go, and what it costs is measured on data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..base.arraylike import describe
from ..base.checks import Array, generator, integer, number, rows
from ..finite import Training
from ..finite.places import Walk, input_axis, leaves_of, network_of, rebuilt
from ..finite.training import seeds_of
from .measures import LevyMeasure
from .training import Network

_BY = ("variance", "weight", "random")


def node_scales(network: Any, measures: Any, seeds: Any = 0) -> list[Array]:
    """Variances of the nodes of a network of stax, for ``node_scales`` of :func:`fastntk.finite.train`.

    Parameters
    ----------
    network : a network of stax
        Without branches. Nodes are neurons, or channels.
    measures : LevyMeasure, or one for each hidden layer
        What the variances of a layer are drawn from.
    seeds : int, or sequence of int (S,)
        Of the members, as :func:`fastntk.finite.train` takes them.

    Returns
    -------
    list of numpy.ndarray (S, p_l)

    Raises
    ------
    TypeError, ValueError
        Another network, what is no measure, as many measures as layers.
    """
    what = "node_scales"
    layers = Walk(network_of(network, what)).layers[:-1]
    members = seeds_of(seeds, what)
    given = list(measures) if isinstance(measures, (tuple, list)) else [measures] * len(layers)
    if len(given) != len(layers):
        raise ValueError(f"[{what}] {len(layers)} hidden layers, given {len(given)} measures")
    if wrong := [m for m in given if not isinstance(m, LevyMeasure)]:
        raise TypeError(f"[{what}] measures must be of fastntk.mogp, given {describe(wrong[0])}")
    found = []
    for place, (layer, measure) in enumerate(zip(layers, given, strict=True)):
        width = integer(what, "width", (layer.out_dim if hasattr(layer, "out_dim") else layer.out_chan) * layer.s[1])
        draws = [measure.sample_variances(width, (), np.random.default_rng([seed, place])) for seed in members]
        found.append(np.stack(draws))
    return found


def prune(network: Any, keep: Any, *, by: str = "variance", rng: Any = 0, scales: Any = None) -> Any:
    """A network without most of its hidden nodes: of each layer those that count most stay.

    Parameters
    ----------
    network : Network, or fastntk.finite.Training
        Of :func:`init`, trained or not; or any networks of stax without branches that :func:`fastntk.finite.train` has
        trained. Of an ensemble each member keeps its own nodes.
    keep : float in (0, 1] or int, or one for each hidden layer
        Share of the nodes, rounded up, or their number.
    by : 'variance', 'weight' or 'random'
        What nodes are ordered by: their variance lambda_j; the size of what leads away from them, ``lambda_j sum_k
        V_kj^2``, which training changes; or nothing, to compare with.
    rng : numpy.random.Generator or int
        Of 'random'.
    scales : sequence of array (p_l,) or (S, p_l), optional
        Of a Training, the ``node_scales`` that it had; for its 'variance' only.

    Returns
    -------
    Network or fastntk.finite.Training
        A smaller one; the nodes that stay are as they were, in their order. Or the Training with weights of 0 away from
        the nodes that went: what it says when called changes, what it recorded does not.

    Raises
    ------
    TypeError, ValueError
        Another network; shares outside (0, 1], numbers below 1 or above the layer's; another order.

    References
    ----------
    Lee et al. (2022), arXiv:2205.08187: networks whose variances have points stay what they are; those of equal
    variances do not.
    """
    what = "prune"
    if not isinstance(network, (Network, Training)):
        raise TypeError(f"[{what}] network must be a mogp.Network or a finite.Training, given {describe(network)}")
    if by not in _BY:
        raise ValueError(f"[{what}] by must be {', '.join(_BY)}, given {by!r}")
    if isinstance(network, Training):
        return _prune_trained(network, keep, scales, by, generator(rng, what), what)
    hidden = len(network.layers)
    given = list(keep) if isinstance(keep, (tuple, list)) else [keep] * hidden
    if len(given) != hidden:
        raise ValueError(f"[{what}] {hidden} hidden layers, given {len(given)} numbers to keep")
    source = generator(rng, what)
    variances, weights, biases = list(network.variances), list(network.weights), list(network.biases)
    for layer, one in enumerate(given):
        lam = variances[layer]
        count = _count(one, lam.shape[-1], what)
        if by == "variance":
            size = lam
        elif by == "weight":
            size = lam * (weights[layer + 1] ** 2).sum(axis=-2)
        else:
            size = source.random(lam.shape)
        kept = np.sort(np.argsort(-size, axis=-1, kind="stable")[..., :count], axis=-1)
        variances[layer] = np.take_along_axis(lam, kept, -1)
        weights[layer] = np.take_along_axis(weights[layer], kept[..., :, None], -2)
        biases[layer] = np.take_along_axis(biases[layer], kept, -1)
        weights[layer + 1] = np.take_along_axis(weights[layer + 1], kept[..., None, :], -1)
    return replace(network, variances=tuple(variances), weights=tuple(weights), biases=tuple(biases))


def _prune_trained(
    trained: Training, keep: Any, scales: Any, by: str, source: np.random.Generator, what: str
) -> Training:
    """Weights of 0 away from nodes, in the layer behind them."""
    walk = Walk(trained.network)
    hidden = len(walk.layers) - 1
    given = list(keep) if isinstance(keep, (tuple, list)) else [keep] * hidden
    if len(given) != hidden:
        raise ValueError(f"[{what}] {hidden} hidden layers, given {len(given)} numbers to keep")
    if by == "variance" and (scales is None or len(scales) != hidden):
        raise ValueError(f"[{what}] by variance takes the scales of {hidden} hidden layers, given {describe(scales)}")
    trees = []
    for member, params in enumerate(trained.params):
        leaves = list(leaves_of(trained.network, params))
        arrays = [np.array(array) for array, _ in leaves]
        weights = [k for k, (_, kind) in enumerate(leaves) if kind]
        for layer, one in enumerate(given):
            width = arrays[weights[layer]].shape[-1]
            behind = arrays[weights[layer + 1]]
            axis = input_axis(walk.layers[layer + 1], behind.ndim)
            split = np.moveaxis(behind, axis, 0)  # behind Flatten the nodes of each position lie side by side
            split = split.reshape(len(split) // width, width, -1)
            if by == "variance":
                size = np.broadcast_to(np.asarray(scales[layer], dtype=np.float64), (len(trained.params), width))[
                    member
                ]
            else:
                size = (split**2).sum(axis=(0, 2)) if by == "weight" else source.random(width)
            gone = np.argsort(-size, kind="stable")[_count(one, width, what) :]
            mask = np.ones(width, dtype=behind.dtype)
            mask[gone] = 0
            shape = [behind.shape[a] if a == axis else 1 for a in range(behind.ndim)]
            arrays[weights[layer + 1]] = behind * np.tile(mask, len(split)).reshape(shape)
        trees.append(rebuilt(params, iter(arrays)))
    return replace(trained, params=tuple(trees))


def _count(keep: Any, width: int, what: str) -> int:
    if isinstance(keep, (int, np.integer)) and not isinstance(keep, bool):
        if not 1 <= keep <= width:
            raise ValueError(f"[{what}] keep must lie between 1 and {width} nodes, given {keep}")
        return int(keep)
    share = number(keep, "keep", what)
    if not 0 < share <= 1:
        raise ValueError(f"[{what}] keep must be a share in (0, 1] or a number of nodes, given {keep}")
    return int(np.ceil(share * width - 1e-9))


@dataclass(frozen=True)
class PruningCurve:
    """What networks say with fewer and fewer nodes; arrays (k,), of an ensemble (k, ...).

    Attributes
    ----------
    keep : tuple
        Shares or numbers of nodes kept.
    accuracy : numpy.ndarray
        Share of samples whose largest output is the largest target's; of one output, whose signs agree.
    loss : numpy.ndarray
        Mean of ``|f - y|^2`` over samples and outputs.
    change : numpy.ndarray
        ``|f - f_whole| / |f_whole|`` over all samples.
    """

    keep: tuple[Any, ...]
    accuracy: Array
    loss: Array
    change: Array


def pruning_curve(
    network: Any, x: Any, y: Any, keep: Sequence[Any] = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02), *,
    by: str = "variance", rng: Any = 0, scales: Any = None,
) -> PruningCurve:  # fmt: skip
    """Accuracy, loss and change of outputs over the share of nodes kept.

    Parameters
    ----------
    network, by, rng, scales
        As for :func:`prune`; it is best trained before.
    x, y : numpy.ndarray (n, d) or as the network takes it, (n, o)
        Data to score on.
    keep : sequence
        Of what :func:`prune` takes.

    Returns
    -------
    PruningCurve

    Raises
    ------
    TypeError, ValueError
        As :func:`prune`; shapes that do not fit.
    """
    what = "pruning_curve"
    targets = rows(y, "y", what)
    whole = network(x)
    if whole.shape[-2:] != targets.shape:
        raise ValueError(f"[{what}] y must be {whole.shape[-2:]}, given {targets.shape}")
    found: list[tuple[Any, Any, Any]] = []
    for one in keep:
        f = prune(network, one, by=by, rng=rng, scales=scales)(x)
        if targets.shape[1] == 1:
            right = (f[..., 0] > 0) == (targets[:, 0] > 0)
        else:
            right = f.argmax(axis=-1) == targets.argmax(axis=-1)
        size = np.linalg.norm(whole, axis=(-2, -1))
        moved = np.linalg.norm(f - whole, axis=(-2, -1)) / np.where(size > 0, size, 1)
        found.append((right.mean(axis=-1), np.mean((f - targets) ** 2, axis=(-2, -1)), moved))
    accuracy, loss, change = (np.array(column) for column in zip(*found, strict=True))
    return PruningCurve(tuple(keep), accuracy, loss, change)
