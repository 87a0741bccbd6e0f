"""The study's picture: accuracy and distance over widths, what each change does, kernels over their regularisation."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from ..base.files import write_whole
from ..plot import COLORS, DASHES, INK
from .experiment import Row, Score, Study

STYLE: Any = {
    "font.size": 11, "axes.titlesize": 12, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "text.color": INK, "axes.labelcolor": INK,
    "legend.frameon": False, "legend.fontsize": 9.5, "lines.linewidth": 2, "lines.markersize": 6,
}  # fmt: skip
GREY = "#b8bec6"
_MARKS = "os^DvPX"
_COLORS = (*COLORS, "#7a5c3e", "#5f6b7a")


def draw(study: Study, path: Path) -> None:
    """Write the picture; no display is needed.

    Parameters
    ----------
    study : Study
    path : pathlib.Path
        Ends in .png.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(14, 10), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        data = study.data.replace("$", r"\$")  # a user's file name is no mathematics
        figure.suptitle(
            f"Finite and infinite ReLU networks, {study.layers}: "
            f"{study.n_train} {data}",
            x=0.012, ha="left", fontsize=15, fontweight="bold",
        )  # fmt: skip
        (a, b), (c, d) = figure.subplots(2, 2)
        _draw_widths(a, study)
        _draw_distances(b, study)
        _draw_changes(c, study)
        _draw_kernels(d, study)
        content = BytesIO()
        figure.savefig(content, format="png")
    write_whole(path, content.getvalue())


def _of(study: Study, name: str, kind: str) -> list[Row]:
    """Rows of networks with scores, by width."""
    found = [row for row in study.rows if row.name == name and row.kind == kind and row.test_accuracy is not None]
    return sorted(found, key=lambda row: row.width or 0)


def _style(index: int) -> dict[str, Any]:
    return {"color": _COLORS[index % len(_COLORS)], "marker": _MARKS[index % len(_MARKS)]}


def _line(index: int) -> dict[str, Any]:
    return {"color": _COLORS[index % len(_COLORS)], "linewidth": 0.9, "linestyle": (0, (1, 2)), "zorder": 1}


def _plot(ax: Axes, rows: list[Row], field: str, factor: float = 1.0, **style: Any) -> None:
    scores: list[Score] = [getattr(row, field) for row in rows]
    widths = np.array([row.width for row in rows], dtype=float)
    means, errors = np.array([s.mean for s in scores]), np.array([s.error or 0 for s in scores])
    ax.errorbar(widths, factor * means, factor * errors, capsize=3, elinewidth=1.2, **style)


def _legend(ax: Axes, columns: int) -> None:
    """Below the axes, where no data are; none where every run diverged."""
    if not ax.get_legend_handles_labels()[1]:
        ax.text(0.5, 0.5, "all runs diverged", ha="center", transform=ax.transAxes)
        return
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=columns)


def _kernels(study: Study) -> dict[str, list[Row]]:
    """Kernels trained to the end, by name, over their regularisation."""
    found: dict[str, list[Row]] = {}
    for row in study.rows:
        if row.kind == "kernel" and row.diag_reg is not None:
            found.setdefault(row.name, []).append(row)
    return found


def _best(rows: list[Row]) -> float:
    return max(row.test_accuracy.mean for row in rows if row.test_accuracy is not None)


def _width_axis(ax: Axes, study: Study) -> None:
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(sorted(study.widths)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels(list(map(str, sorted(study.widths))))
    ax.set_xlabel("width of the hidden layers")


def _draw_widths(ax: Axes, study: Study) -> None:
    """The first two configurations, single and averaged, under the kernels."""
    for index, config in enumerate(study.configurations[:2]):
        for kind, label in (("single", "single networks"), ("ensemble", f"ensemble of {study.n_ensemble}")):
            single = kind == "single"
            _plot(
                ax, _of(study, config.name, kind), "test_accuracy", 100, label=f"{config.name}, {label}",
                **_style(index), linestyle=(0, (1.5, 1.2)) if single else "-", mfc="white" if single else None,
            )  # fmt: skip
    for name, color, dash in (("NNGP", GREY, "-"), ("NTK", INK, (0, (4, 4)))):
        best = 100 * _best(_kernels(study)[name])
        ax.axhline(best, color=color, linestyle=dash, linewidth=1.6, label=f"{name}, best diag_reg", zorder=1)
    _width_axis(ax, study)
    ax.set_ylabel("test accuracy, %")
    ax.set_title("a   Centering and averaging remove the noise of the start")
    _legend(ax, 3)


def _draw_distances(ax: Axes, study: Study) -> None:
    for index, config in enumerate(study.configurations):
        rows = _of(study, config.name, "ensemble")
        if rows:
            _plot(ax, rows, "distance", label=config.name, **_style(index), linestyle=DASHES[index % len(DASHES)])
    for index, config in enumerate(study.configurations):
        if not config.centered and config.parameterization == "ntk" and not config.l2:
            noise = study.limit(config).noise
            if noise is not None:  # what is left of the start at infinite width
                ax.axhline(noise / math.sqrt(study.n_ensemble), **_line(index))
    guide = _of(study, study.configurations[min(1, len(study.configurations) - 1)].name, "ensemble")
    if guide and guide[0].distance is not None:
        widths = np.array(sorted(study.widths), dtype=float)
        ax.plot(
            widths, 0.75 * guide[0].distance.mean * (widths / widths[0]) ** -0.5, color=INK, linewidth=1,
            label=r"slope $-1/2$",
        )  # fmt: skip
    _width_axis(ax, study)
    ax.plot([], [], color=INK, linewidth=0.9, linestyle=(0, (1, 2)), label="at infinite width")
    ax.set_yscale("log")
    ax.set_ylabel(r"$|f - g|\,/\,|g|$ on the test set")
    ax.set_title("b   Distance of ensembles from the NTK's mean g")
    _legend(ax, 4)


def _draw_changes(ax: Axes, study: Study) -> None:
    """All configurations at the largest width, and the kernels."""
    width = max(study.widths)
    labels = []
    for place, config in enumerate(study.configurations):
        labels.append(config.name)
        for kind, filled in (("single", False), ("ensemble", True)):
            row = study.find(config.name, kind, width)
            if row.test_accuracy is None:
                ax.text(place, 0.03, "diverged", rotation=90, ha="center", transform=ax.get_xaxis_transform())
                continue
            score = row.test_accuracy
            limit = study.limit(config).test_accuracy
            if limit is not None:
                ax.plot(place, 100 * limit.mean, "_", color=INK, markersize=22, markeredgewidth=1.5, zorder=1)
            ax.errorbar(
                place, 100 * score.mean, 100 * (score.error or 0), **_style(place), capsize=4, markersize=9,
                mfc=None if filled else "white", linestyle="none",
            )  # fmt: skip
    for name, rows in _kernels(study).items():
        ax.plot(len(labels), 100 * _best(rows), "*", color=INK, markersize=13)
        labels.append(name)
    ax.plot([], [], "o", mfc="white", color=INK, label="single networks")
    ax.plot([], [], "o", color=INK, label=f"ensemble of {study.n_ensemble}")
    ax.plot([], [], "_", color=INK, markersize=16, label="infinite width, the same inputs, rate and steps")
    ax.plot([], [], "*", color=INK, markersize=12, label="kernel, best diag_reg on the test set")
    ax.set_xticks(range(len(labels)), labels, fontsize=9, rotation=30, ha="right", rotation_mode="anchor")
    ax.set_ylabel("test accuracy, %")
    ax.set_title(f"c   One change at a time, width {width}")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def _draw_kernels(ax: Axes, study: Study) -> None:
    for index, (name, rows) in enumerate(_kernels(study).items()):
        regs = np.array([row.diag_reg for row in rows])
        losses = [row.test_mse.mean for row in rows if row.test_mse is not None]
        ax.plot(regs, losses, label=name, **_style(index), linestyle=DASHES[index % len(DASHES)])
    if regs.min() == 0:
        ax.set_xscale("symlog", linthresh=regs[regs > 0].min(initial=1.0))
    else:
        ax.set_xscale("log")
    ax.set_xlabel("diagonal regularisation (or |y| / time), relative to the mean of the diagonal")
    ax.set_ylabel("test MSE")
    ax.set_title("d   Kernels by their ridge, or by when they stop")
    ax.legend()
