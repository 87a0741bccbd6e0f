"""What the smaller studies find: claims with numbers, a table, and a picture of panels, all as text, JSON and PNG."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from ..base.files import write_whole


@dataclass(frozen=True)
class Series:
    """A line of a panel.

    Attributes
    ----------
    name : str
    x, y : tuple of float
    error : tuple of float
        Standard errors over seeds; empty: none.
    line : bool
        Drawn as a thin line without marks, for what theory says.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    error: tuple[float, ...] = ()
    line: bool = False


@dataclass(frozen=True)
class Panel:
    """One of a picture.

    Attributes
    ----------
    title, x, y : str
        And the names of its axes.
    series : tuple of Series
    log : str
        'x', 'y', 'xy' or '': which axes are logarithmic.
    image : tuple of tuples, or None
        Values by row (y) and column (x) instead of series, with ``ticks`` of both.
    """

    title: str
    x: str
    y: str
    series: tuple[Series, ...] = ()
    log: str = ""
    image: tuple[tuple[float, ...], ...] | None = None
    ticks: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())


@dataclass(frozen=True)
class Claim:
    """Something that theory says, and what is seen.

    Attributes
    ----------
    said, seen : str
    holds : bool
        Whether it is seen here; 'no' is a result too.
    """

    said: str
    seen: str
    holds: bool

    def __str__(self) -> str:
        return f"{'seen' if self.holds else 'NOT SEEN'}: {self.said}: {self.seen}"


@dataclass(frozen=True)
class Report:
    """A study's outcome.

    Attributes
    ----------
    title, about : str
    columns : tuple of str
    rows : tuple of tuples
        Strings and numbers; NaN stands in none.
    claims : tuple of Claim
    panels : tuple of Panel
    """

    title: str
    about: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    claims: tuple[Claim, ...]
    panels: tuple[Panel, ...] = field(repr=False)

    def text(self) -> str:
        """The table in columns, then the claims."""
        lines = [self.columns, *(tuple(map(_cell, row)) for row in self.rows)]
        widths = [max(len(line[k]) for line in lines) for k in range(len(self.columns))]
        table = ["  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([self.title, self.about, "", *table, "", *(str(c) for c in self.claims)])

    def markdown(self) -> str:
        """The same for GitHub."""
        lines = [self.columns, ("---",) * len(self.columns), *(tuple(map(_cell, row)) for row in self.rows)]
        table = "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines)
        claims = "\n".join(f"- {c}" for c in self.claims)
        return f"## {self.title}\n\n{self.about}\n\n{table}\n\n{claims}\n"

    def json(self) -> str:
        """Everything; what is infinite is null."""
        return json.dumps(_plain(asdict(self)), indent=1, allow_nan=False) + "\n"

    def write(self, path: Path) -> None:
        """A file by its ending: .md, .json or .png."""
        if path.suffix.lower() == ".png":
            draw(self, path)
        else:
            write_whole(path, (self.markdown() if path.suffix.lower() == ".md" else self.json()).encode())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.item() if hasattr(value, "item") else value


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if not math.isfinite(value) else f"{value:.4g}"
    return str(value)


def draw(report: Report, path: Path) -> None:
    """Write the picture; no display is needed."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from .picture import STYLE

    columns = min(2, len(report.panels))
    lines = -(-len(report.panels) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(7 * columns, 4.8 * lines + 0.6), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(
            f"{report.title}\n{report.about}".replace("$", r"\$"), x=0.012, ha="left", fontsize=13, fontweight="bold"
        )
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        for ax, panel in zip(axes, report.panels, strict=False):
            _panel(ax, panel)
        for ax in axes[len(report.panels) :]:
            ax.set_axis_off()
        content = BytesIO()
        figure.savefig(content, format="png")
    write_whole(path, content.getvalue())


def _panel(ax: Any, panel: Panel) -> None:
    from ..plot import COLORS, INK

    ax.set_title(panel.title)
    ax.set_xlabel(panel.x)
    ax.set_ylabel(panel.y)
    if panel.image is not None:
        shown = ax.imshow(panel.image, origin="lower", aspect="auto", cmap="viridis")
        ax.figure.colorbar(shown, ax=ax)
        ax.set_xticks(range(len(panel.ticks[0])), panel.ticks[0], rotation=45)
        ax.set_yticks(range(len(panel.ticks[1])), panel.ticks[1])
    for index, series in enumerate(panel.series):
        color = COLORS[index % len(COLORS)]
        if series.line:
            ax.plot(series.x, series.y, color=INK, linewidth=1, label=series.name)
        else:
            ax.errorbar(
                series.x, series.y, series.error or None, color=color, marker="os^DvPX"[index % 7], capsize=3,
                label=series.name,
            )  # fmt: skip
    if "x" in panel.log:
        ax.set_xscale("log")
    if "y" in panel.log:
        ax.set_yscale("log")
    if panel.series:
        ax.legend()


def slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Of ``log y`` over ``log x`` by least squares, and its standard error from the scatter about the line."""
    u, v = [math.log(a) for a in x], [math.log(b) for b in y]
    mean_u, mean_v = sum(u) / len(u), sum(v) / len(v)
    size = sum((a - mean_u) ** 2 for a in u)
    found = sum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True)) / size
    left = sum((b - mean_v - found * (a - mean_u)) ** 2 for a, b in zip(u, v, strict=True))
    return found, math.sqrt(left / max(1, len(u) - 2) / size)
