"""Pictures of what infinite networks predict: posteriors, training, spectra, learning curves.

Each function draws on a matplotlib Axes, given or new, and returns it; a new one belongs to a Figure of its own:
``ax.figure.savefig("picture.png")``. No pyplot, and no setting of matplotlib's is changed. Needs matplotlib (the extra
``fastntk[plot]``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

try:
    from matplotlib.axes import Axes
except ImportError as error:
    raise ImportError("fastntk.plot needs matplotlib (pip install 'fastntk[plot]')") from error

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from .base.arraylike import describe
from .base.door import doors

__all__ = ["learning_curve", "posterior_band", "spectrum", "training_curves"]

Array = npt.NDArray[Any]

# Okabe and Ito's palette without its yellow, in an order of falling contrast; dashes repeat the distinction.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.2, 1.2, 1.2)), (0, (3, 1)), (0, (8, 2)))
INK = "#20262e"
_BAND = 0.22  # opacity
_TICKS = 10


def posterior_band(
    x: Any, gaussian: Any, *, train: tuple[Any, Any] | None = None, draws: Any = None, width: float = 2.0,
    label: str | None = None, color: Any = None, ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Mean and band of a prediction over one input, with training points and draws.

    Parameters
    ----------
    x : array (m,) or (m, 1)
        Where the prediction was made, in any order.
    gaussian : Gaussian, or (mean, std)
        ``fastntk.predict``'s, mean (m,) or (m, 1), covariance (m, m) or variances (m,); or mean and standard
        deviations, as ``predict(X, return_std=True)`` of scikit-learn's estimators returns them.
    train : (x_train, y_train), optional
        Arrays (n,) or (n, 1), drawn as points.
    draws : array (s, m) or (s, m, 1), optional
        Functions, drawn as thin lines.
    width : float
        Half of the band's width, in standard deviations.
    label : str, optional
        Of the mean.
    color : matplotlib color, optional
        None: the first of ``COLORS`` that no line of ``ax`` has.
    ax : matplotlib.axes.Axes, optional
        None: one on a new Figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        The predictions of several kernels, or a mean alone.
    ValueError
        Shapes that do not fit, more than one input or output, values that are not finite, a covariance with negative
        variances, a ``width`` that is not positive.
    """
    what = "posterior_band"
    at = _column(x, "x", what)
    count = len(at)
    if hasattr(gaussian, "covariance"):
        mean = _column(gaussian.mean, "gaussian.mean", what, count)
        covariance = _numbers(gaussian.covariance, "gaussian.covariance", what)
        if covariance.shape not in ((count, count), (count,)):
            raise ValueError(
                f"[{what}] gaussian.covariance must be {(count, count)} or {(count,)}, given shape {covariance.shape}"
            )
        variance = covariance if covariance.ndim == 1 else covariance.diagonal()
        if variance.min() < 0:
            raise ValueError(f"[{what}] gaussian.covariance has a negative variance, {variance.min():.3g}")
        std = np.sqrt(variance)
    else:
        mean, std = (
            _column(v, name, what, count) for v, name in zip(_pair(gaussian, what), ("mean", "std"), strict=True)
        )
        if std.min() < 0:
            raise ValueError(f"[{what}] std must not be negative, given {std.min():.3g}")
    if not width > 0:
        raise ValueError(f"[{what}] width must be positive, given {width!r}")
    ax = _axes(ax)
    style = _style(ax, color)
    order = np.argsort(at, kind="stable")
    at, mean, std = at[order], mean[order], std[order]
    ax.fill_between(
        at, mean - width * std, mean + width * std, color=style["color"], alpha=_BAND, linewidth=0,
        label=f"{label + ' ' if label else ''}± {width:g} standard deviations",
    )  # fmt: skip
    if draws is not None:
        functions = _numbers(draws, "draws", what)
        if functions.ndim == 3 and functions.shape[2] == 1:
            functions = functions[..., 0]
        if functions.ndim != 2 or functions.shape[1] != count:
            raise ValueError(f"[{what}] draws must be (s, {count}), given shape {functions.shape}")
        for k, function in enumerate(functions):
            ax.plot(
                at, function[order], color=style["color"], linewidth=0.7, alpha=0.7, label="_" if k else "draws"
            )  # fmt: skip
    ax.plot(at, mean, **style, linewidth=2, label=label or "mean")
    if train is not None:
        x_train = _column(train[0], "x_train", what)
        y_train = _column(train[1], "y_train", what, len(x_train))
        ax.plot(x_train, y_train, "o", color=INK, markersize=4.5, zorder=3, label="training points")
    ax.set_xlabel("x")
    ax.set_ylabel("f(x)")
    _legend(ax)
    return ax


def training_curves(
    t: Any, values: Any, std: Any = None, *, limit: Any = None, width: float = 2.0,
    labels: str | Sequence[str] | None = None, ylabel: str = "loss", ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Losses or predictions over training time, with their spread.

    Parameters
    ----------
    t : array (T,)
        Training times, rising, on a logarithmic axis; the stretch between 0 and the first other time is linear.
    values : array (T,) or (T, k)
        One curve for each column.
    std : array like values, optional
        Their standard deviations, drawn as bands.
    limit : array () or (k,), optional
        What the curves tend to (``t=None`` of the predictors), drawn as dotted lines.
    width : float
        Half of the bands' width, in standard deviations.
    labels : str or sequence of k str, optional
    ylabel : str
    ax : matplotlib.axes.Axes, optional
        None: one on a new Figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        Shapes that do not fit, values that are not finite, times below 0 or not rising, negative ``std``, a ``width``
        that is not positive.
    """
    what = "training_curves"
    times = _numbers(t, "t", what)
    if times.ndim != 1 or times.size < 2 or times[0] < 0 or not (np.diff(times) > 0).all():
        raise ValueError(f"[{what}] t must be (T,), T > 1, not negative and rising; given shape {times.shape}: {times}")
    curves = _columns(values, "values", what, times.size)
    spread = None if std is None else _columns(std, "std", what, times.size)
    if spread is not None and (spread.shape != curves.shape or spread.min() < 0):
        raise ValueError(f"[{what}] std must have the shape of values, {curves.shape}, and not be negative")
    if not width > 0:
        raise ValueError(f"[{what}] width must be positive, given {width!r}")
    ends = None if limit is None else _numbers(limit, "limit", what).reshape(-1)
    names = [labels] if isinstance(labels, str) else labels
    for name, given in (("limit", ends), ("labels", names)):
        if given is not None and len(given) != curves.shape[1]:
            raise ValueError(f"[{what}] {name} must be one for each of {curves.shape[1]} curves, given {len(given)}")
    ax = _axes(ax)
    for k, curve in enumerate(curves.T):
        style = _style(ax, None)
        ax.plot(times, curve, **style, linewidth=2, label=names[k] if names else None)
        if spread is not None:
            low, high = curve - width * spread[:, k], curve + width * spread[:, k]
            ax.fill_between(times, low, high, color=style["color"], alpha=_BAND, linewidth=0)
        if ends is not None:
            ax.axhline(ends[k], color=style["color"], linestyle=":", linewidth=1.2)
    if times[0] == 0:
        ax.set_xscale("symlog", linthresh=times[1], linscale=0.5)
    else:
        ax.set_xscale("log")
    ax.set_xlim(times[0], times[-1])
    ax.set_xlabel("training time t")
    ax.set_ylabel(ylabel)
    if names:
        _legend(ax)
    return ax


def spectrum(k: Any, *, label: str | None = None, color: Any = None, ax: Axes | None = None) -> Axes:
    """Eigenvalues of a kernel in falling order, and the floor below which they are rounding.

    The floor is ``n eps`` times the largest eigenvalue, eps that of k's dtype; how many eigenvalues exceed it is the
    effective rank. Negative ones are drawn hollow, by their size. Needs SciPy.

    Parameters
    ----------
    k : numpy.ndarray or cupy.ndarray (n, n) float32 or float64
        Eigenvalues are computed in float64.
    label : str, optional
        The legend says the effective rank behind it.
    color : matplotlib color, optional
        None: the first of ``COLORS`` that no line of ``ax`` has.
    ax : matplotlib.axes.Axes, optional
        None: one on a new Figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        For what is no matrix of a kernel: other dtypes, not square, not finite, not symmetric, or zero.
    """
    from .predict.linalg import check_gram, check_size, eigenvalues, namespace, to_host

    what = "spectrum"
    namespace(k, what=what)
    check_gram(k, what)
    n = len(k)
    check_size(n, what)
    found = to_host(eigenvalues(k.astype(np.float64)))
    values = found[np.argsort(-abs(found), kind="stable")]
    floor = n * float(np.finfo(k.dtype).eps) * abs(values[0])
    if not floor > 0:
        raise ValueError(f"[{what}] the kernel is zero")
    rank = int((values > floor).sum())
    ax = _axes(ax)
    color = _style(ax, color)["color"]
    index = np.arange(1, n + 1)
    positive, negative = values > 0, values < 0
    name = f"{label}: effective rank" if label else "effective rank"
    ax.plot(index[positive], values[positive], ".", color=color, markersize=5, label=f"{name} {rank} of {n}")
    if negative.any():
        ax.plot(
            index[negative], -values[negative], "o", color=color, markersize=4, markerfacecolor="none",
            markeredgewidth=0.8, label=f"{int(negative.sum())} below zero, by size",
        )  # fmt: skip
    rounding = f"n eps of {k.dtype}"
    known = any(line.get_label() == rounding for line in ax.lines)
    ax.axhline(floor, color=color, linestyle="--", linewidth=1, label="_" if known else rounding)
    if 0 < rank < n:
        ax.axvline(rank, color=color, linestyle=":", linewidth=1)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("index")
    ax.set_ylabel("eigenvalue")
    _legend(ax)
    return ax


def learning_curve(
    sizes: Any, scores: Any, *, label: str | None = None, color: Any = None, ylabel: str = "test score",
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Score over the size of the training set, with its spread over repeats.

    Parameters
    ----------
    sizes : array (s,)
        Numbers of training points, rising.
    scores : array (s,) or (s, repeats)
        As ``sklearn.model_selection.learning_curve`` returns them; the line is their mean, the band one standard
        deviation over repeats to either side.
    label : str, optional
    color : matplotlib color, optional
        None: the first of ``COLORS`` that no line of ``ax`` has.
    ylabel : str
    ax : matplotlib.axes.Axes, optional
        None: one on a new Figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        Shapes that do not fit, values that are not finite, sizes that are not positive and rising.
    """
    what = "learning_curve"
    n = _numbers(sizes, "sizes", what)
    if n.ndim != 1 or not n.size or n[0] <= 0 or not (np.diff(n) > 0).all():
        raise ValueError(f"[{what}] sizes must be (s,), positive and rising; given shape {n.shape}: {n}")
    found = _columns(scores, "scores", what, n.size)
    ax = _axes(ax)
    style = _style(ax, color)
    mean = found.mean(axis=1)
    if found.shape[1] > 1:
        std = found.std(axis=1, ddof=1)
        ax.fill_between(n, mean - std, mean + std, color=style["color"], alpha=_BAND, linewidth=0)
    ticks = {float(x) for line in ax.lines for x in np.asarray(line.get_xdata())} | {float(x) for x in n}
    ax.plot(n, mean, **style, marker="o", markersize=5, linewidth=2, label=label)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(sorted(ticks), nbins=_TICKS))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("training points")
    ax.set_ylabel(ylabel)
    if label:
        _legend(ax)
    return ax


def _pair(gaussian: Any, what: str) -> Any:
    """Mean and standard deviations, or an error that says what was given instead."""
    fields = [name for name in ("nngp", "ntk", "ntkgp") if hasattr(gaussian, name)]
    if fields:
        raise TypeError(
            f"[{what}] gaussian holds the predictions of several kernels: draw one of them, "
            f"{' or '.join('.' + name for name in fields)} (or ask the predictor for it, get={fields[0]!r})"
        )
    if not isinstance(gaussian, (tuple, list)) or len(gaussian) != 2:
        shape = f" of shape {gaussian.shape}" if hasattr(gaussian, "shape") else ""
        raise TypeError(
            f"[{what}] gaussian must be a Gaussian or a pair (mean, std), given {describe(gaussian)}{shape}; "
            "predictors give a Gaussian with compute_cov=True or 'diagonal', estimators a pair with return_std=True"
        )
    return gaussian


def _axes(ax: Axes | None) -> Axes:
    """The Axes given, or one on a new Figure that pyplot does not know."""
    if ax is not None:
        return ax
    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    made = figure.add_subplot()
    made.spines[["top", "right"]].set_visible(False)
    return made


def _legend(ax: Axes) -> None:
    """Entries of all that has been drawn, legible on top of it."""
    ax.legend(framealpha=0.85, edgecolor="none")


def _style(ax: Axes, color: Any) -> dict[str, Any]:
    """A colour, and the dashes that go with it."""
    used = {to_hex(line.get_color()) for line in ax.lines}
    free = next((i for i, c in enumerate(COLORS) if c not in used), len(ax.lines) % len(COLORS))
    if color is None:
        return {"color": COLORS[free], "linestyle": DASHES[free]}
    hexa = to_hex(color)
    return {"color": color, "linestyle": DASHES[COLORS.index(hexa)] if hexa in COLORS else "-"}


def _numbers(values: Any, name: str, what: str) -> Array:
    """Finite float64, on the host."""
    found = np.asarray(values.get() if type(values).__module__.startswith("cupy") else values, dtype=np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"[{what}] {name} is not finite: {int((~np.isfinite(found)).sum())} of {found.size} values")
    return found


def _column(values: Any, name: str, what: str, count: int | None = None) -> Array:
    """(m,) or (m, 1) as (m,)."""
    found = _numbers(values, name, what)
    flat = found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
    if flat.ndim != 1 or not flat.size or count not in (None, flat.size):
        m = "m" if count is None else count
        raise ValueError(f"[{what}] {name} must be ({m},) or ({m}, 1), given shape {found.shape}")
    return flat


def _columns(values: Any, name: str, what: str, count: int) -> Array:
    """(T,) or (T, k) as (T, k)."""
    found = _numbers(values, name, what)
    if found.ndim not in (1, 2) or len(found) != count or not found.size:
        raise ValueError(f"[{what}] {name} must be ({count},) or ({count}, k), given shape {found.shape}")
    return found.reshape(count, -1)


doors(globals())
