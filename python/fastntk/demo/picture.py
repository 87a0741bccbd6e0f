"""The demo's picture: Gram matrix, learning curve, training, calibration, and single samples or classes."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from scipy.stats import norm

from ..base.files import write_whole
from ..plot import training_curves
from .data import Array, Index
from .experiment import Result

FORMATS = (".png",)

# Okabe and Ito's palette, told apart with any colour vision; markers and dashes repeat the distinction.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#B8BEC6"
STYLES: dict[str, dict[str, Any]] = {
    "NNGP": {"color": BLUE, "marker": "o", "linestyle": "-"},
    "NTK": {"color": ORANGE, "marker": "s", "linestyle": (0, (5, 1.5))},
    "CNTK": {"color": PURPLE, "marker": "D", "linestyle": (0, (6, 1.2, 1.2, 1.2))},
    "RBF": {"color": GREEN, "marker": "^", "markersize": 8, "linestyle": (0, (1.5, 1.2))},
}
INK, FAINT = "#20262E", "#5B6570"

STYLE: Any = {
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.labelsize": 12,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 2.2,
    "lines.markersize": 6.5,
    "figure.dpi": 200,
    "savefig.dpi": 200,
    "text.usetex": False,
}

CASES = 8
MAX_BARS = 10
MAX_TICKS = 20


def draw(result: Result, path: Path) -> None:
    """Write the picture, 2800 pixels wide, 1680 high or, with images, 2400; no display is needed.

    Parameters
    ----------
    result : Result
    path : pathlib.Path
        Ends in one of ``FORMATS``. Replaced whole, or not at all.
    """
    cases = result.problem.classes is not None and result.problem.image_shape is not None
    with rc_context(STYLE):
        figure = Figure(figsize=(14, 12 if cases else 8.4), layout=ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.07))
        FigureCanvasAgg(figure)
        figure.suptitle(_title(result), x=0.012, ha="left", fontsize=17, fontweight="bold")
        rows: Any = figure.subfigures(3 if cases else 2, 1, height_ratios=(1.28, 0.95, 1.05) if cases else (1.28, 1.0))
        left, right = rows[0].subplots(1, 2, width_ratios=(1.0, 1.62))
        _draw_gram(left, result)
        _draw_curve(right, result)
        below = rows[1].subplots(1, 2 if cases else 3, width_ratios=(1.62, 1.0) if cases else (1.2, 1.0, 1.0))
        _draw_training(below[0], result)
        if result.problem.classes is None:
            _draw_predictions(below[1], result)
            _draw_intervals(below[2], result)
        else:
            _draw_errors(below[1], result)
            if cases:
                _draw_cases(rows[2], result)
            else:
                _draw_classes(below[2], result)
        content = BytesIO()
        figure.savefig(content, format="png")
    write_whole(path, content.getvalue())


def _title(result: Result) -> str:
    depth = result.settings.depth
    layers = "one hidden layer" if depth == 1 else f"{depth} hidden layers"
    networks = f"a ReLU network with {layers} of infinite width"
    if any(model.name == "CNTK" for model in result.models):
        networks = "ReLU networks of infinite width: dense, and convolutional (CNTK)"
    return f"{len(result.problem.x):,} {_short(result.problem.name, 60)}, {networks}"


def _draw_gram(axes: Axes, result: Result) -> None:
    """Correlations of the NNGP kernel between all samples, sorted by target."""
    y = result.problem.y
    order = np.argsort(y, kind="stable")
    scale = np.sqrt(np.diagonal(result.gram))
    gram = (result.gram / scale / scale[:, None])[np.ix_(order, order)]
    n = len(y)
    low, high = np.percentile(gram, (0.5, 99.5))
    image = axes.imshow(gram, cmap="viridis", vmin=low, vmax=max(high, low + 1e-12), extent=(0, n, n, 0))
    bar: Any = axes.figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, extend="both")
    bar.set_label("NNGP correlation")
    bar.outline.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if result.problem.classes is None:
        axes.set_title("a   NNGP Gram matrix, ordered by target")
        places = np.linspace(0, n - 1, 5).round().astype(int)
        labels = [f"{y[order[k]]:.3g}" for k in places]
        axes.set_xlabel("target")
        axes.set_ylabel("target")
    else:
        axes.set_title("a   NNGP Gram matrix, ordered by class")
        counts = np.bincount(y, minlength=len(result.problem.classes))
        ends = np.cumsum(counts)
        every = -(-len(counts) // MAX_TICKS)
        places = (ends - counts / 2)[::every]
        labels = [_short(name) for name in result.problem.classes[::every]]
        if len(counts) <= MAX_TICKS:
            for end in ends[:-1]:
                axes.axhline(end, color="white", linewidth=0.5, alpha=0.7)
                axes.axvline(end, color="white", linewidth=0.5, alpha=0.7)
        axes.set_xlabel("class")
        axes.set_ylabel("class")
    _set_names(axes, places, labels)


def _draw_curve(axes: Axes, result: Result) -> None:
    """Test score against training size: mean of the repeats, and whiskers over their range."""
    classify = result.problem.classes is not None
    curve = result.curve
    floor = 0.5 / len(result.test)

    def height(score: Any) -> Any:
        # Errors on a logarithmic axis keep 98 % and 99 % apart; none at all is drawn as half an error.
        return np.maximum(1.0 - np.asarray(score), floor) if classify else np.asarray(score)

    for place, model in enumerate(result.models):
        scores = curve.scores[model.name]
        # Side by side: the models often agree, and their whiskers would hide each other.
        sizes = np.array(curve.sizes) * 1.035 ** (place - (len(result.models) - 1) / 2)
        final = f"{100 * model.score:.1f} %" if classify else f"{model.score:.3g}"
        label = f"{model.name}   {final}"
        middle = np.array([height(np.mean(each)) for each in scores])
        ends = np.sort([[height(np.min(each)), height(np.max(each))] for each in scores], axis=1)
        whiskers = np.maximum([middle - ends[:, 0], ends[:, 1] - middle], 0.0)
        axes.errorbar(
            sizes,
            middle,
            yerr=whiskers,
            label=label,
            elinewidth=1.3,
            capsize=3,
            markeredgecolor="white",
            **STYLES[model.name],
        )
    axes.set_xscale("log")
    axes.set_xlim(curve.sizes[0] / 1.25, curve.sizes[-1] * 1.25)
    axes.xaxis.set_major_locator(FixedLocator(curve.sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axes.set_xlabel("training samples")
    if classify:
        axes.set_yscale("log")
        axes.invert_yaxis()
        bottom, top = axes.get_ylim()
        perfect = any(np.max(each) == 1.0 for scores in curve.scores.values() for each in scores)
        ticks = _accuracy_ticks(bottom, top, floor if perfect else None)
        axes.yaxis.set_major_locator(FixedLocator(list(ticks)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: ticks.get(error, "")))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylabel("test accuracy")
        axes.set_title("b   Accuracy against training size")
    else:
        axes.set_ylabel("test RMSE")
        axes.set_title("b   Error against training size")
    axes.grid(axis="y", color="#E4E8EC", linewidth=0.9)
    axes.set_axisbelow(True)
    axes.legend(loc="best", title=f"all {curve.sizes[-1]:,} training samples")
    axes.annotate(
        f"mean and range of {result.settings.repeats} random training sets",
        (1.0, 1.0), xycoords="axes fraction", ha="right", va="bottom", fontsize=9.5, color=FAINT,
        xytext=(0, 9), textcoords="offset points",
    )  # fmt: skip


def _draw_training(axes: Axes, result: Result) -> None:
    """Loss against steps of gradient descent, in closed form: on test samples, and thinner on training samples."""
    names = list(result.training)
    runs = list(result.training.values())
    steps, top = runs[0].steps, max(run.test_loss.max() for run in runs)
    floor = max(min(run.test_loss.min() for run in runs), 1e-8 * top)
    training_curves(steps, np.stack([run.test_loss for run in runs], axis=1), labels=names, ax=axes)
    for name, run in zip(names, runs, strict=True):
        colour = STYLES[name]["color"]
        shown = run.train_loss > 0
        axes.plot(steps[shown], run.train_loss[shown], color=colour, linewidth=1.0, alpha=0.8)
        style = {**STYLES[name], "markeredgecolor": "white", "clip_on": False, "zorder": 4}
        axes.plot(steps[run.best], run.test_loss[run.best], **style)
    low, high = floor / 5, 4.0 * top
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 300 * low else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("steps of gradient descent, half the largest rate")
    axes.set_ylabel("loss of the mean network")
    axes.set_title("c   Test loss over training, in closed form")
    axes.plot([], [], color=FAINT, linewidth=1.0, label="training loss")
    axes.legend(loc="upper left", ncols=3, columnspacing=1.4, handlelength=1.8)
    axes.grid(axis="y", color="#E4E8EC", linewidth=0.9)
    axes.set_axisbelow(True)


def _accuracy_ticks(bottom: float, top: float, floor: float | None) -> dict[float, str]:
    """Labels by error, between two errors, far enough from each other; ``floor`` stands for none at all."""
    near = 0.055 * np.log(bottom / top)
    ticks = {} if floor is None else {floor: "100 %"}
    for accuracy in (99.9, 99.8, 99.5, 99, 98, 95, 90, 85, 80, 75, 70, 65, 60, 55, 50, 40, 30, 20, 10, 0):
        error = 1.0 - accuracy / 100.0
        if max(top, floor or 0.0) <= error <= bottom and all(abs(np.log(error / other)) > near for other in ticks):
            ticks[error] = f"{accuracy:g} %"
    return ticks


def choose_cases(log_p: Array, labels: Index, count: int = CASES) -> list[tuple[str, int]]:
    """Samples worth a look: the surest of different classes, the least sure correct ones, the worst errors.

    Parameters
    ----------
    log_p : numpy.ndarray (n, classes)
    labels : numpy.ndarray (n,) intp
    count : int

    Returns
    -------
    list of (str, int)
        'surest', 'least sure' or 'wrong', and the row: at most ``count`` different ones, in this order.
    """
    rows = np.arange(len(labels))
    predicted = log_p.argmax(axis=1)
    confidence = log_p[rows, predicted]
    right = predicted == labels
    wrong = rows[~right][np.argsort(log_p[~right, labels[~right]])][: count // 4]
    correct = rows[right][np.argsort(-confidence[right])]
    sure: list[int] = []
    for row in correct:
        if len(sure) < count // 4 and labels[row] not in labels[sure]:
            sure.append(int(row))
    rest = [int(row) for row in correct[::-1] if row not in sure]
    unsure = sorted(rest[: max(0, count - len(sure) - len(wrong))], key=lambda row: -confidence[row])
    chosen = [("surest", row) for row in sure] + [("least sure", row) for row in unsure]
    return chosen + [("wrong", int(row)) for row in wrong]


def _draw_cases(figure: SubFigure, result: Result) -> None:
    """Images with their class probabilities."""
    model, classes = result.models[0], result.problem.classes
    assert classes is not None
    assert model.log_p is not None
    labels = result.problem.y[result.test]
    cases = choose_cases(model.log_p, labels)
    panel_title(figure, "e   NNGP posterior of test samples: probability of each class (bold: the true one)")
    grid = figure.subplots(2, max(len(cases), 1), height_ratios=(1.0, 0.85), squeeze=False)
    for column, (kind, row) in enumerate(cases):
        p = np.exp(model.log_p[row])
        truth, guess = int(labels[row]), int(p.argmax())
        colour = BLUE if truth == guess else ORANGE
        image, bars = grid[0, column], grid[1, column]
        _draw_image(image, result.problem.x[result.test[row]], result.problem.image_shape or ())
        heading = kind if truth == guess else f"{kind}, true: {_short(classes[truth], 7)}"
        verdict = f"{_short(classes[guess], 7)}, {_percent(p[guess])}"
        image.set_title(f"{heading}\n{verdict}", loc="center", fontsize=11.5, fontweight="normal", color=colour, pad=5)
        shown = np.sort(np.argsort(-p, kind="stable")[:MAX_BARS])
        bars.bar(np.arange(len(shown)), p[shown], color=[colour if c == guess else GREY for c in shown], width=0.8)
        names = [_short(classes[c], 8) for c in shown]
        upright = sum(map(len, names)) > MAX_BARS
        bars.set_xticks(np.arange(len(shown)), names, fontsize=10, rotation=90 if upright else 0)
        for c, tick in zip(shown, bars.get_xticklabels(), strict=True):
            tick.set_fontweight("bold" if c == truth else "normal")
        bars.tick_params(axis="x", length=0)
        bars.set_ylim(0, 1)
        bars.set_yticks([0, 0.5, 1], ["0", "", "1"] if column == 0 else [])
    grid[1, 0].set_ylabel("probability")


def _draw_image(axes: Axes, row: Array, shape: tuple[int, ...]) -> None:
    low, high = row.min(), row.max()
    pixels = ((row - low) / (high - low if high > low else 1.0)).reshape(shape)
    axes.imshow(pixels, cmap="gray_r", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("#D5DADF")


def _draw_errors(axes: Axes, result: Result) -> None:
    """Calibration: errors made beside errors stated, counted from the least sure test sample on."""
    classes = result.problem.classes
    assert classes is not None
    labels = result.problem.y[result.test]
    furthest = 0.0
    for model in result.models:
        assert model.log_p is not None
        confidence = np.exp(model.log_p.max(axis=1))
        order = np.argsort(confidence, kind="stable")
        stated = np.r_[0.0, np.cumsum(1 - confidence[order])]
        made = np.r_[0, np.cumsum(model.log_p.argmax(axis=1)[order] != labels[order])]
        label = f"{model.name}   {100 * model.calibration:.1f} %"
        axes.plot(stated, made, label=label, **{**STYLES[model.name], "marker": None})
        axes.plot(stated[-1], made[-1], **{**STYLES[model.name], "markeredgecolor": "white", "zorder": 4})
        if stated[-1] >= furthest:
            furthest = stated[-1]
            spread = 2 * np.sqrt(np.r_[0.0, np.cumsum((confidence * (1 - confidence))[order])])
            expected = stated
    axes.plot(expected, expected, color=GREY, linewidth=1.2, zorder=1)
    axes.fill_between(expected, expected - spread, expected + spread, color=GREY, alpha=0.25, linewidth=0, zorder=0)
    axes.set_ylim(0, None)
    axes.set_xlim(0, None)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.set_title("d   Calibration of class probabilities")
    axes.set_xlabel("errors stated (sum of 1 - p), least sure sample first")
    axes.set_ylabel("errors made")
    axes.legend(loc="best", title="expected calibration error", handlelength=2.6)


def _draw_classes(axes: Axes, result: Result) -> None:
    """Without images: which classes are confused."""
    classes = result.problem.classes
    assert classes is not None
    labels = result.problem.y[result.test]
    log_p = result.models[0].log_p
    assert log_p is not None
    table = np.zeros((len(classes), len(classes)), dtype=np.intp)
    np.add.at(table, (labels, log_p.argmax(axis=1)), 1)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_title("e   NNGP confusion")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    every = -(-len(classes) // (MAX_TICKS // 2))
    names = [_short(name) for name in classes[::every]]
    _set_names(axes, np.arange(0, len(classes), every), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(classes) <= MAX_TICKS // 2:
        for i, j in zip(*np.nonzero(table), strict=True):
            colour = "white" if share[i, j] > 0.5 else INK
            axes.text(j, i, str(table[i, j]), ha="center", va="center", fontsize=10, color=colour)


def _draw_predictions(axes: Axes, result: Result) -> None:
    """Predictions with their intervals."""
    y, model = result.problem.y[result.test], result.models[0]
    mean = model.mean[:, 0]
    axes.errorbar(y, mean, yerr=1.96 * model.sd, fmt="none", ecolor=BLUE, elinewidth=0.9, alpha=0.3)
    axes.plot(y, mean, "o", color=BLUE, markersize=4, markeredgecolor="white", markeredgewidth=0.4)
    ends = [min(y.min(), mean.min()), max(y.max(), mean.max())]
    axes.plot(ends, ends, color=INK, linewidth=1)
    axes.set_title("d   NNGP, with 95 % intervals")
    axes.set_xlabel("true target")
    axes.set_ylabel("prediction")


def _draw_intervals(axes: Axes, result: Result) -> None:
    """How often intervals hold the target."""
    y = result.problem.y[result.test]
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1.2)
    for each in result.models:
        # The central interval that just reaches a target: its stated probability is uniform if all is calibrated.
        reach = np.sort(100 * (2 * norm.cdf(np.abs(y - each.mean[:, 0]) / each.sd) - 1))
        style = {**STYLES[each.name], "marker": None}
        axes.plot(reach, 100 * (np.arange(len(reach)) + 0.5) / len(reach), label=each.name, **style)
    axes.set_title("e   Calibration of intervals")
    axes.set_xlabel("stated probability of an interval, %")
    axes.set_ylabel("targets inside, %")
    axes.legend(loc="upper left")


def panel_title(figure: SubFigure, text: str) -> None:
    """A title in the style of the axes' own, for a row of them."""
    figure.suptitle(text, x=0.012, ha="left", fontsize=STYLE["axes.titlesize"], fontweight="bold")


def _set_names(axes: Axes, places: Any, names: list[str]) -> None:
    """The same tick labels on both axes, slanted below where they would touch."""
    slanted = sum(map(len, names)) > 36
    axes.set_xticks(places, names, rotation=35 if slanted else 0, ha="right" if slanted else "center")
    axes.set_yticks(places, names)


def _percent(p: float) -> str:
    return "> 99.9 %" if p > 0.999 else f"{100 * p:.{0 if p < 0.99 else 1}f} %"


def _short(name: str, limit: int = 12) -> str:
    """A user's text in a picture: short, and no mathematics."""
    return (name if len(name) <= limit else name[: limit - 1] + "…").replace("$", r"\$")
